//! Adds, removes and finds the entries of slm-mesh in an agent's settings file.
//!
//! **Invariant:** entries of other programs stay unchanged, byte for byte. A server entry is ours if it has our name
//! and starts our program. A hook is ours if it runs our program with the word `hook` and the agent's id.

use super::generated_file_texts::{NAME, is_our_program};
use super::json_edit::{self, PathStep};
use super::{toml_entry, toml_hooks, yaml_entry};
use crate::base::shell_wildcards::shell_quoted;
use crate::known_agents::Agent;
use crate::known_agents::settings_files::{EntryShape, HookCommand, HookFile, ServerFile, TimeLimit};
use serde_json::{Map, Value, json};

/// The time limit, in seconds, of the hook that waits for mail and then wakes its agent: one day.
const WAKE_HOOK_SECONDS: i64 = 86_400;
/// The time limit, in seconds, of a hook that answers at once.
const HOOK_SECONDS: i64 = 5;

/// The entries that `setup` adds to one settings file of an agent.
#[derive(Debug, Clone, Copy)]
pub struct Entries<'a> {
    /// The agent that reads the file.
    pub agent: &'static Agent,
    /// The path of the slm-mesh program.
    pub program: &'a str,
    /// The path of the file that `setup` writes as a whole for this agent. Settings in YAML refer to the file by this
    /// path.
    pub own_file: &'a str,
    /// The position and format of our server entry; `None` if this file needs no server entry.
    pub server: Option<ServerFile>,
    /// The position and format of our hooks; `None` if this file needs no hooks.
    pub hooks: Option<HookFile>,
    /// Whether mail is allowed to wake the agent.
    pub may_wake: bool,
}

impl Entries<'_> {
    fn other_format(&self) -> Option<ServerFile> {
        self.server.filter(|server| !server.entry.is_json())
    }

    /// The hooks, if this file is TOML.
    fn toml_hooks(&self) -> Option<HookFile> {
        self.hooks.filter(|hooks| hooks.command == HookCommand::TomlLine)
    }

    /// The shell line that runs our hook.
    fn hook_line(&self) -> String {
        format!("{} hook {}", shell_quoted(self.program), self.agent.id)
    }

    /// Adds our entries to the text of a file.
    ///
    /// # Errors
    /// If our entries can't be added safely; the error says why.
    pub fn put_into(&self, text: &str) -> Result<String, String> {
        if let Some(server) = self.other_format() {
            return match server.entry {
                EntryShape::TomlTable => toml_entry::put(text, server.key, self.program),
                _ => yaml_entry::put(text, server.key, self.own_file),
            };
        }
        if let Some(hooks) = self.toml_hooks() {
            let is_ours = |command: &str| self.is_our_hook(&json!({ "command": command }));
            return toml_hooks::put(text, hooks.events, &self.hook_line(), HOOK_SECONDS, is_ours);
        }
        let mut text = text.to_owned();
        if json_edit::is_blank(&text) {
            let gap = if text.trim().is_empty() || text.ends_with('\n') { "" } else { "\n" };
            text = if text.trim().is_empty() { "{}\n".into() } else { format!("{text}{gap}{{}}\n") };
        }
        json_edit::parse(&text)?;
        if let Some(server) = self.server {
            text = self.put_server(&text, &server)?;
        }
        if let Some(hooks) = self.hooks {
            text = self.put_hooks(&text, &hooks)?;
        }
        Ok(text)
    }

    fn put_server(&self, text: &str, server: &ServerFile) -> Result<String, String> {
        let whole = json_edit::parse(text)?;
        if server.entry == EntryShape::LocalWithList && whole[server.key]["servers"].is_object() {
            return Err(
                "it lists its servers under `mcp.servers`, and this version of slm-mesh can't write that newer format"
                    .into(),
            );
        }
        let path = [PathStep::Key(server.key), PathStep::Key(NAME)];
        let is_ours = registered_program(&whole, server).is_some_and(|program| is_our_program(&program));
        let old = whole[server.key][NAME].as_object().filter(|_| is_ours);
        let Some(old) = old else { return json_edit::put(text, &path, &self.server_entry(server.entry)) };
        let mut text = text.to_owned();
        for (key, value) in self.updated_entry(server.entry, old).as_object().into_iter().flatten() {
            text = json_edit::put(&text, &[path[0], path[1], PathStep::Key(key)], value)?;
        }
        Ok(text)
    }

    /// Updates the server entry that an earlier run of `setup` wrote. Keeps the keys and arguments that the user has
    /// added, such as `env`, `timeout` or `--legacy`.
    pub fn updated_entry(&self, shape: EntryShape, old: &Map<String, Value>) -> Value {
        let mut updated = old.clone();
        for (key, value) in self.server_entry(shape).as_object().into_iter().flatten() {
            // The user decides whether the server is enabled and which of its tools are allowed.
            let is_users = ["enabled", "tools"].contains(&key.as_str()) && old.contains_key(key);
            if !is_users {
                let new = with_users_arguments(value, old.get(key).unwrap_or(&Value::Null));
                updated.insert(key.clone(), new);
            }
        }
        Value::Object(updated)
    }

    /// Our server entry as JSON.
    pub fn server_entry(&self, shape: EntryShape) -> Value {
        let program = self.program;
        match shape {
            EntryShape::Stdio => json!({ "type": "stdio", "command": program, "args": ["mcp"] }),
            EntryShape::LocalWithTools => {
                json!({ "type": "local", "command": program, "args": ["mcp"], "tools": ["*"] })
            }
            EntryShape::LocalWithList => json!({ "type": "local", "command": [program, "mcp"], "enabled": true }),
            EntryShape::Plain | EntryShape::TomlTable | EntryShape::YamlLine => {
                json!({ "command": program, "args": ["mcp"] })
            }
        }
    }

    fn put_hooks(&self, text: &str, hooks: &HookFile) -> Result<String, String> {
        let mut text = text.to_owned();
        if hooks.has_version && json_edit::parse(&text)?.get("version").is_none() {
            text = json_edit::put(&text, &[PathStep::Key("version")], &json!(1))?;
        }
        // An older version may have written hooks for other events. Those hooks are removed.
        let is_kept = |event: &str| hooks.events.iter().any(|(kept, _)| *kept == event);
        text = self.remove_hooks(&text, hooks, None, |event, _| !is_kept(event))?;
        for (event, tools) in hooks.events {
            text = self.put_event(&text, hooks, event, tools)?;
        }
        Ok(text)
    }

    fn put_event(&self, text: &str, hooks: &HookFile, event: &str, tools: &str) -> Result<String, String> {
        let path: Vec<PathStep> = hooks.key.into_iter().chain([event]).map(PathStep::Key).collect();
        let whole = json_edit::parse(text)?;
        let found = self.our_places(at(&whole, &path), hooks.has_groups);
        let wanted = self.hooks_for(event, hooks);
        let mut text = text.to_owned();
        for (n, hook) in wanted.iter().enumerate() {
            let item = grouped_item(hooks, hook, tools);
            let Some((item_n, hook_n)) = found.get(n) else {
                text = json_edit::push(&text, &path, &item)?;
                continue;
            };
            let n_in_group = at(&whole, &path)[*item_n]["hooks"].as_array().map_or(1, Vec::len);
            let mut place = [path.clone(), vec![PathStep::Item(*item_n)]].concat();
            let is_alone = !hooks.has_groups || n_in_group == 1;
            if !is_alone {
                place.extend([PathStep::Key("hooks"), PathStep::Item(*hook_n)]);
            }
            text = json_edit::put(&text, &place, if is_alone { &item } else { hook })?;
        }
        self.remove_hooks(&text, hooks, None, |name, n| name == event && n >= wanted.len())
    }

    /// Our hooks for an event. The first hook answers at once. A second hook, if there is one, waits for mail and then
    /// wakes the agent.
    fn hooks_for(&self, event: &str, hooks: &HookFile) -> Vec<Value> {
        let mut wanted = vec![self.hook(hooks)];
        if self.may_wake && hooks.wake_event == Some(event) {
            wanted.push(json!({
                "type": "command", "command": self.program, "args": ["hook", self.agent.id, "--wake"],
                "asyncRewake": true, "timeout": WAKE_HOOK_SECONDS,
            }));
        }
        wanted
    }

    fn hook(&self, hooks: &HookFile) -> Value {
        let id = self.agent.id;
        let program = shell_quoted(self.program);
        let line = self.hook_line();
        let mut hook = match hooks.command {
            HookCommand::ProgramAndArguments => {
                json!({ "type": "command", "command": self.program, "args": ["hook", id] })
            }
            HookCommand::ShellLine | HookCommand::TomlLine => json!({ "type": "command", "command": line }),
            HookCommand::NamedShellLine => json!({ "type": "command", "name": NAME, "command": line }),
            HookCommand::BashIfPresent => {
                json!({ "type": "command", "bash": format!("test ! -x {program} || {line}") })
            }
        };
        let (key, limit) = match hooks.limit {
            TimeLimit::Seconds => ("timeout", HOOK_SECONDS),
            TimeLimit::NamedSeconds => ("timeoutSec", HOOK_SECONDS),
            TimeLimit::Milliseconds => ("timeout", HOOK_SECONDS * 1000),
        };
        hook[key] = json!(limit);
        hook
    }

    /// Removes our entries from a file. `before` is the file's JSON value before set-up. Objects and arrays that become
    /// empty are removed too, unless `before` contains them.
    ///
    /// # Errors
    /// If the text can't be parsed reliably; the error says why.
    pub fn remove_from(&self, text: &str, before: Option<&Value>) -> Result<String, String> {
        if let Some(server) = self.other_format() {
            return match server.entry {
                EntryShape::TomlTable => toml_entry::remove(text, server.key),
                _ => yaml_entry::remove(text, server.key, self.own_file),
            };
        }
        if self.toml_hooks().is_some() {
            return toml_hooks::remove(text, |command| self.is_our_hook(&json!({ "command": command })));
        }
        let whole = json_edit::parse(text)?;
        let mut text = text.to_owned();
        if let Some(server) = self.server
            && registered_program(&whole, &server).is_some_and(|program| is_our_program(&program))
        {
            text = json_edit::remove(&text, &[PathStep::Key(server.key), PathStep::Key(NAME)]);
            text = remove_if_empty(&text, &[PathStep::Key(server.key)], before)?;
        }
        if let Some(hooks) = self.hooks {
            let without = self.remove_hooks(&text, &hooks, before, |_, _| true)?;
            let is_changed = without != text;
            text = without;
            if is_changed && hooks.has_version && before.is_some_and(|before| before.get("version").is_none()) {
                text = json_edit::remove(&text, &[PathStep::Key("version")]);
            }
        }
        Ok(text)
    }

    /// The text of a file that contains our entries and nothing else.
    pub fn alone(&self) -> String {
        self.put_into("").unwrap_or_default()
    }

    /// The text that a user can paste into a file that `setup` can't change.
    pub fn to_paste(&self, text: &str) -> String {
        match self.server {
            Some(server) if server.entry == EntryShape::YamlLine => {
                yaml_entry::to_paste(text, server.key, self.own_file)
            }
            _ => self.alone(),
        }
    }

    /// `text` is the rest of a file after our entries have been removed. Returns true if `setup` itself wrote this
    /// rest. For example, the rest may be a version number.
    pub fn is_frame(&self, text: &str) -> bool {
        let frame = self.remove_from(&self.alone(), None).unwrap_or_default();
        let is_json = self.other_format().is_none() && self.toml_hooks().is_none();
        let has_comment = |text: &str| is_json && (text.contains("//") || text.contains("/*"));
        let has_same_value = || {
            let values = json_edit::parse(text).ok().zip(json_edit::parse(&frame).ok());
            values.is_some_and(|(value, frame)| value == frame)
        };
        text.trim().is_empty() || text == frame || is_json && !has_comment(text) && has_same_value()
    }

    /// All our hooks in a file, each with the name of its event.
    pub fn hooks_in<'v>(&self, whole: &'v Value, hooks: &HookFile) -> Vec<(&'v str, &'v Value)> {
        let events = hooks.key.map_or(whole, |key| &whole[key]);
        let mut found = Vec::new();
        for (event, list) in events.as_object().into_iter().flatten() {
            for (item_n, hook_n) in self.our_places(list, hooks.has_groups) {
                let item = &list[item_n];
                found.push((event.as_str(), if hooks.has_groups { &item["hooks"][hook_n] } else { item }));
            }
        }
        found
    }

    fn is_our_hook(&self, hook: &Value) -> bool {
        hook_target(hook).is_some_and(|(_, agent)| agent == self.agent.id)
    }

    /// The positions of our hooks in an event's list. Each position consists of two indexes: the index of an item in
    /// the list, and the index of a hook in the item. The second index is 0 if the items are single hooks, not groups
    /// of hooks.
    fn our_places(&self, list: &Value, has_groups: bool) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for (item_n, item) in list.as_array().into_iter().flatten().enumerate() {
            if has_groups {
                let group = item["hooks"].as_array().into_iter().flatten().enumerate();
                found.extend(group.filter(|(_, hook)| self.is_our_hook(hook)).map(|(hook_n, _)| (item_n, hook_n)));
            } else if self.is_our_hook(item) {
                found.push((item_n, 0));
            }
        }
        found
    }

    /// Removes each of our hooks for which `picks` returns true. The arguments of `picks` are the name of the event and
    /// the position of the hook among our hooks for this event.
    fn remove_hooks(
        &self,
        text: &str,
        hooks: &HookFile,
        before: Option<&Value>,
        picks: impl Fn(&str, usize) -> bool,
    ) -> Result<String, String> {
        let whole = json_edit::parse(text)?;
        let root: Vec<PathStep> = hooks.key.into_iter().map(PathStep::Key).collect();
        let mut left = text.to_owned();
        for (event, list) in at(&whole, &root).as_object().into_iter().flatten() {
            let path = [root.clone(), vec![PathStep::Key(event)]].concat();
            let places = self.our_places(list, hooks.has_groups).into_iter().enumerate().rev();
            let n_before = left.len();
            for (_, place) in places.filter(|(n, _)| picks(event, *n)) {
                left = remove_hook(&left, &path, place, hooks.has_groups)?;
            }
            if left.len() < n_before {
                left = remove_if_empty(&left, &path, before)?;
            }
        }
        if left == text { Ok(left) } else { remove_if_empty(&left, &root, before) }
    }
}

/// Returns the new value of `command` or `args`. The user may have added arguments after `mcp` to the old value. These
/// arguments are appended to the new value.
fn with_users_arguments(new: &Value, old: &Value) -> Value {
    let (Value::Array(new_words), Value::Array(old_words)) = (new, old) else { return new.clone() };
    let has_subcommand = !new_words.is_empty() && old_words.get(new_words.len() - 1) == new_words.last();
    let added = old_words.iter().skip(new_words.len()).filter(|_| has_subcommand);
    new_words.iter().chain(added).cloned().collect()
}

fn remove_hook(text: &str, event: &[PathStep], place: (usize, usize), has_groups: bool) -> Result<String, String> {
    let item = [event, &[PathStep::Item(place.0)]].concat();
    if !has_groups {
        return Ok(json_edit::remove(text, &item));
    }
    let group = [&item[..], &[PathStep::Key("hooks")]].concat();
    let text = json_edit::remove(text, &[&group[..], &[PathStep::Item(place.1)]].concat());
    let is_empty = at(&json_edit::parse(&text)?, &group).as_array().is_some_and(Vec::is_empty);
    Ok(if is_empty { json_edit::remove(&text, &item) } else { text })
}

fn grouped_item(hooks: &HookFile, hook: &Value, tools: &str) -> Value {
    let mut item = if hooks.has_groups { json!({ "hooks": [hook] }) } else { hook.clone() };
    if !tools.is_empty() {
        item["matcher"] = json!(tools);
    }
    item
}

/// The program that a JSON settings file registers as the server `slm-mesh`.
pub fn registered_program(whole: &Value, server: &ServerFile) -> Option<String> {
    let command = whole.get(server.key)?.get(NAME)?.get("command")?;
    command.as_str().or_else(|| command[0].as_str()).map(str::to_owned)
}

/// The program that our hook runs; `None` if the hook is not ours.
pub fn hook_program(hook: &Value) -> Option<String> {
    hook_target(hook).map(|(program, _)| program)
}

/// The program that our hook runs, and the agent id that follows the word `hook`.
fn hook_target(hook: &Value) -> Option<(String, String)> {
    let command = hook["command"].as_str().or(hook["exec"].as_str()).unwrap_or("");
    if is_our_program(command) && hook["args"][0] == json!("hook") {
        return Some((command.to_owned(), hook["args"][1].as_str().unwrap_or("").to_owned()));
    }
    let words = shell_words(hook["bash"].as_str().unwrap_or(command));
    let is_call = |words: &&[String]| words[1] == "hook" && is_our_program(&words[0]);
    let at = words.windows(2).rposition(|words| is_call(&words))?;
    Some((words[at].clone(), words.get(at + 2).cloned().unwrap_or_default()))
}

/// Splits a shell line into words. Supports only the quotes and escapes that our own shell lines contain.
fn shell_words(line: &str) -> Vec<String> {
    let (mut found, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(mark), c) if c == mark => quote = None,
            (None | Some('"'), '\\') => word.extend(chars.next()),
            (None, c) if c.is_whitespace() => found.push(std::mem::take(&mut word)),
            (_, c) => word.push(c),
        }
    }
    found.push(word);
    found.retain(|word| !word.is_empty());
    found
}

fn at<'a>(whole: &'a Value, path: &[PathStep]) -> &'a Value {
    path.iter().fold(whole, |value, step| match step {
        PathStep::Key(key) => &value[*key],
        PathStep::Item(n) => &value[*n],
    })
}

/// Removes an empty object or array, unless the file already contained it before set-up.
fn remove_if_empty(text: &str, path: &[PathStep], before: Option<&Value>) -> Result<String, String> {
    let whole = json_edit::parse(text)?;
    let found = at(&whole, path);
    let is_empty =
        found.as_array().is_some_and(Vec::is_empty) || found.as_object().is_some_and(serde_json::Map::is_empty);
    let was_there = before.is_some_and(|before| !at(before, path).is_null());
    Ok(if is_empty && !was_there && !path.is_empty() { json_edit::remove(text, path) } else { text.to_owned() })
}
