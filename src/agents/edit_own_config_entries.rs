//! Adds, removes and finds the entries of slm-mesh in an agent's settings file.
//!
//! **Invariant:** entries of other programs stay unchanged, byte for byte. A server entry is ours if it has our name
//! and starts our program. A hook is ours if it only runs our program with the word `hook` and the agent's id. If the
//! hook's command does more than that, the hook is the user's: it stays, and only the path of our program is updated.

use super::generated_file_texts::{NAME, is_our_program};
use super::json_edit::{self, PathStep};
use super::json_hook_entry::{grouped_item, hook_path, put_matcher, remove_hook, update_hook, with_arguments};
use super::recognise_own_hook_entries::{ProgramCall, call_in_line, call_of, line_of, with_program};
use super::{toml_entry, toml_hooks, yaml_entry};
use crate::base::shell_wildcards::shell_quoted;
use crate::known_agents::Agent;
use crate::known_agents::settings_file_types::{EntryShape, HookCommand, HookFile, ServerFile, TimeLimit};
use serde_json::{Map, Value, json};
use std::slice::from_ref;

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
    /// The path of the file whose whole text `setup` writes for this agent. Settings in YAML refer to the file by this
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
            let updated = |line: &str| self.updated_line(line);
            return toml_hooks::put(text, hooks.events, &self.hook_line(), HOOK_SECONDS, updated);
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
        text = self.remove_hooks(&text, hooks, None, |event, _, _| !is_kept(event))?;
        for (event, tools) in hooks.events {
            text = self.put_event(&text, hooks, event, tools)?;
        }
        Ok(text)
    }

    fn put_event(&self, text: &str, hooks: &HookFile, event: &str, tools: &str) -> Result<String, String> {
        let path: Vec<PathStep> = hooks.key.into_iter().chain([event]).map(PathStep::Key).collect();
        let whole = json_edit::parse(text)?;
        let found = self.calls_in(at(&whole, &path), hooks.has_groups);
        let mut text = text.to_owned();
        for (place, hook, _) in found.iter().filter(|(.., call)| !call.is_whole) {
            if let Some((field, line)) = line_of(hook) {
                let path = [hook_path(&path, *place, hooks.has_groups), vec![PathStep::Key(field)]].concat();
                text = json_edit::put(&text, &path, &json!(with_program(line, self.program)))?;
            }
        }
        let wanted = self.hooks_for(event, hooks);
        for hook in &wanted {
            let is_wake = call_of(hook).is_some_and(|call| call.is_wake());
            let mut same = found.iter().filter(|(.., call)| call.is_wake() == is_wake);
            text = match same.clone().find(|(.., call)| call.is_whole) {
                Some((place, old, call)) => {
                    let group = &at(&whole, &path)[place.0];
                    let text = put_matcher(&text, hooks, group, &path, place.0, tools)?;
                    update_hook(&text, &hook_path(&path, *place, hooks.has_groups), old, call, hook)?
                }
                // One of the user's hooks already calls our program.
                None if same.next().is_some() => text,
                None => json_edit::push(&text, &path, &grouped_item(hooks, hook, tools))?,
            };
        }
        let has_wake_hook = wanted.len() > 1;
        self.remove_hooks(&text, hooks, None, |name, n, is_wake| name == event && (n > 0 || is_wake && !has_wake_hook))
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
            return toml_hooks::remove(text, |line| self.updated_line(line).is_some_and(|line| line.is_whole));
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
            let without = self.remove_hooks(&text, &hooks, before, |_, _, _| true)?;
            let is_changed = without != text;
            text = without;
            if is_changed && hooks.has_version && before.is_some_and(|before| before.get("version").is_none()) {
                text = json_edit::remove(&text, &[PathStep::Key("version")]);
            }
        }
        Ok(text)
    }

    /// Puts back the server entry that our entry has replaced. `before` is the file's text before set-up.
    ///
    /// # Errors
    /// If the text can't be changed safely; the error says why.
    pub fn put_back(&self, text: &str, before: &str) -> Result<String, String> {
        let Some(server) = self.server else { return Ok(text.to_owned()) };
        if let Some(server) = self.other_format() {
            let is_toml = server.entry == EntryShape::TomlTable;
            return if is_toml { toml_entry::put_back(text, server.key, before) } else { Ok(text.to_owned()) };
        }
        // If `before` is not valid, no entry can be found in it.
        let whole = json_edit::parse(before).unwrap_or_default();
        let replaced = &whole[server.key][NAME];
        if replaced.is_null() || registered_program(&whole, &server).is_some_and(|program| is_our_program(&program)) {
            return Ok(text.to_owned());
        }
        json_edit::put(text, &[PathStep::Key(server.key), PathStep::Key(NAME)], replaced)
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

    /// Whether a JSON text is what `setup` writes into a new file, apart from the path of the program. Without a
    /// record, this is the only sign that `setup` created the file. Files in other formats have no such sign, so the
    /// answer for them is always true.
    pub fn is_new_file(&self, text: &str) -> bool {
        if self.other_format().is_some() || self.toml_hooks().is_some() {
            return true;
        }
        let Ok(whole) = json_edit::parse(text) else { return false };
        let hooks = self.hooks.map(|hooks| self.hooks_in(&whole, &hooks)).unwrap_or_default();
        let of_server = || self.server.and_then(|server| registered_program(&whole, &server));
        let program = hooks.iter().find_map(|(_, hook)| hook_program(hook)).or_else(of_server);
        program.is_some_and(|program| Entries { program: &program, ..*self }.alone() == text)
    }

    /// All hooks in a file that call our program, each with the name of its event.
    pub fn hooks_in<'v>(&self, whole: &'v Value, hooks: &HookFile) -> Vec<(&'v str, &'v Value)> {
        let events = hooks.key.map_or(whole, |key| &whole[key]);
        let events = events.as_object().into_iter().flatten();
        let calls = |(event, list): (&'v String, &'v Value)| {
            self.calls_in(list, hooks.has_groups).into_iter().map(|(_, hook, _)| (event.as_str(), hook))
        };
        events.flat_map(calls).collect()
    }

    /// Whether a text contains a hook that the user wrote and that calls our program.
    pub fn has_users_call(&self, text: &str) -> bool {
        let Some(hooks) = self.hooks else { return false };
        let is_toml = hooks.command == HookCommand::TomlLine;
        let whole = if is_toml { toml_hooks::as_json(text) } else { json_edit::parse(text).ok() };
        let is_users = |hook: &Value| call_of(hook).is_some_and(|call| !call.is_whole);
        whole.is_some_and(|whole| self.hooks_in(&whole, &hooks).iter().any(|(_, hook)| is_users(hook)))
    }

    /// The call of our program in a hook, if the call has the id of our agent.
    fn our_call(&self, hook: &Value) -> Option<ProgramCall> {
        call_of(hook).filter(|call| call.agent == self.agent.id)
    }

    /// Updates a shell line that calls our program. Returns `None` if the line does not call it.
    fn updated_line(&self, line: &str) -> Option<UpdatedLine> {
        let call = call_in_line(line).filter(|call| call.agent == self.agent.id)?;
        let is_whole = call.is_whole;
        let text = if is_whole {
            with_arguments(&self.hook_line(), call.users_arguments())
        } else {
            with_program(line, self.program)
        };
        Some(UpdatedLine { text, is_whole })
    }

    /// The hooks in an event's list that call our program. Each has a position, which consists of two indexes: the
    /// index of an item in the list, and the index of a hook in the item. The second index is 0 if the items are single
    /// hooks, not groups of hooks.
    fn calls_in<'v>(&self, list: &'v Value, has_groups: bool) -> Vec<((usize, usize), &'v Value, ProgramCall)> {
        let mut found = Vec::new();
        for (item_n, item) in list.as_array().into_iter().flatten().enumerate() {
            let group =
                if has_groups { item["hooks"].as_array().map_or(&[][..], Vec::as_slice) } else { from_ref(item) };
            let calls = group.iter().enumerate();
            found.extend(calls.filter_map(|(hook_n, hook)| Some(((item_n, hook_n), hook, self.our_call(hook)?))));
        }
        found
    }

    /// Removes each of our hooks for which `picks` returns true. The arguments of `picks` are the name of the event,
    /// the position of the hook, and whether the hook waits for mail in the background. The position counts only our
    /// hooks that have the same event and the same purpose.
    fn remove_hooks(
        &self,
        text: &str,
        hooks: &HookFile,
        before: Option<&Value>,
        picks: impl Fn(&str, usize, bool) -> bool,
    ) -> Result<String, String> {
        let whole = json_edit::parse(text)?;
        let root: Vec<PathStep> = hooks.key.into_iter().map(PathStep::Key).collect();
        let mut left = text.to_owned();
        for (event, list) in at(&whole, &root).as_object().into_iter().flatten() {
            let path = [root.clone(), vec![PathStep::Key(event)]].concat();
            let mut counts = [0, 0];
            let mut places = Vec::new();
            for (place, _, call) in self.calls_in(list, hooks.has_groups).iter().filter(|(.., call)| call.is_whole) {
                let count = &mut counts[usize::from(call.is_wake())];
                if picks(event, *count, call.is_wake()) {
                    places.push(*place);
                }
                *count += 1;
            }
            for place in places.iter().rev() {
                left = remove_hook(&left, &path, *place, hooks.has_groups)?;
            }
            if !places.is_empty() {
                left = remove_if_empty(&left, &path, before)?;
            }
        }
        if left == text { Ok(left) } else { remove_if_empty(&left, &root, before) }
    }
}

/// A shell line that calls our program, with the present path of the program.
#[derive(Debug)]
pub struct UpdatedLine {
    /// The new text of the line.
    pub text: String,
    /// Whether the line does nothing but call our program.
    pub is_whole: bool,
}

/// Returns the new value of `command` or `args`. The user may have added arguments after `mcp` to the old value. These
/// arguments are appended to the new value.
fn with_users_arguments(new: &Value, old: &Value) -> Value {
    let (Value::Array(new_words), Value::Array(old_words)) = (new, old) else { return new.clone() };
    let has_subcommand = !new_words.is_empty() && old_words.get(new_words.len() - 1) == new_words.last();
    let added = old_words.iter().skip(new_words.len()).filter(|_| has_subcommand);
    new_words.iter().chain(added).cloned().collect()
}

/// The program that a JSON settings file registers as the server `slm-mesh`.
pub fn registered_program(whole: &Value, server: &ServerFile) -> Option<String> {
    let command = whole.get(server.key)?.get(NAME)?.get("command")?;
    command.as_str().or_else(|| command[0].as_str()).map(str::to_owned)
}

/// The program that our hook runs; `None` if the hook does not run our program.
pub fn hook_program(hook: &Value) -> Option<String> {
    call_of(hook).map(|call| call.program)
}

/// The value at a path; null if there is none.
pub(super) fn at<'a>(whole: &'a Value, path: &[PathStep]) -> &'a Value {
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
