//! What of a settings file is ours: putting it in, taking it out, and telling whether it is there.
//!
//! **Invariant:** what is not ours stays as it is, byte for byte; a server is ours by its name and
//! its program, a hook by its program and the word `hook` behind it.

use super::configs::{Call, Form, Hooks, Server};
use super::generated_files::{NAME, is_us};
use super::json_edit::{self, At};
use super::toml_edit;
use serde_json::{Value, json};

/// A hook that waits to wake its agent may wait for a day.
const WAKE_S: i64 = 86_400;

/// What one file should hold of ours.
#[derive(Debug, Clone, Copy)]
pub struct Want<'a> {
    /// The agent's word.
    pub agent: &'a str,
    /// Our program's path; for YAML the file to be read.
    pub program: &'a str,
    /// The server's entry, if it goes into this file.
    pub server: Option<Server>,
    /// The hooks, if they do.
    pub hooks: Option<Hooks>,
    /// Whether mail may wake the agent.
    pub wake: bool,
}

/// Parses a text strictly.
///
/// # Errors
/// With what may be the matter, in words.
pub fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| {
        let has = |mark: &str| text.contains(mark);
        let guess = if has("//") || has("/*") { "it has comments, or " } else { "" };
        format!("{guess}it is not strict JSON (line {}, column {})", error.line(), error.column())
    })
}

/// A word as a shell takes it.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._+-@:,=".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

impl Want<'_> {
    fn is_json(&self) -> bool {
        !self.server.is_some_and(|server| matches!(server.form, Form::Toml | Form::Yaml))
    }

    /// The text with ours in it.
    ///
    /// # Errors
    /// When it can't be put in safely, in words.
    pub fn apply(&self, text: &str) -> Result<String, String> {
        if let Some(server) = self.server.filter(|_| !self.is_json()) {
            return match server.form {
                Form::Toml => toml_edit::put_toml(text, self.program),
                _ => toml_edit::put_yaml(text, self.program),
            };
        }
        let mut text = if text.trim().is_empty() { "{}\n".to_owned() } else { text.to_owned() };
        parse(&text)?;
        if let Some(server) = self.server {
            text = self.put_server(&text, &server)?;
        }
        if let Some(hooks) = self.hooks {
            text = self.put_hooks(&text, &hooks)?;
        }
        Ok(text)
    }

    fn put_server(&self, text: &str, server: &Server) -> Result<String, String> {
        let whole = parse(text)?;
        if server.form == Form::List && whole["mcp"]["servers"].is_object() {
            return Err("its servers stand under mcp.servers, a newer form than this version writes".into());
        }
        let entry = self.entry(server.form);
        let path = [At::Key(server.under), At::Key(NAME)];
        let Some(old) = whole[server.under][NAME].as_object() else {
            return json_edit::put(text, &path, &entry);
        };
        let mut text = text.to_owned();
        for (key, value) in entry.as_object().into_iter().flatten() {
            // Whether it is on, and with which tools, is the user's to say.
            let is_theirs = ["enabled", "tools"].contains(&key.as_str()) && old.contains_key(key);
            if !is_theirs {
                text = json_edit::put(&text, &[path[0], path[1], At::Key(key)], value)?;
            }
        }
        Ok(text)
    }

    /// A server's entry.
    pub fn entry(&self, form: Form) -> Value {
        let program = self.program;
        match form {
            Form::Stdio => json!({ "type": "stdio", "command": program, "args": ["mcp"] }),
            Form::Local => json!({ "type": "local", "command": program, "args": ["mcp"], "tools": ["*"] }),
            Form::List => json!({ "type": "local", "command": [program, "mcp"], "enabled": true }),
            _ => json!({ "command": program, "args": ["mcp"] }),
        }
    }

    fn put_hooks(&self, text: &str, hooks: &Hooks) -> Result<String, String> {
        let mut text = text.to_owned();
        if hooks.version && parse(&text)?.get("version").is_none() {
            text = json_edit::put(&text, &[At::Key("version")], &json!(1))?;
        }
        // What an older version hung on other events goes.
        let kept: Vec<&str> = hooks.events.iter().map(|(event, _)| *event).collect();
        text = take_hooks(&text, hooks, None, |event, _| !kept.contains(&event))?;
        for (event, tools) in hooks.events {
            let path = [Some(hooks.under).filter(|key| !key.is_empty()), Some(*event)];
            let path: Vec<At> = path.into_iter().flatten().map(At::Key).collect();
            let whole = parse(&text)?;
            let found = ours(at(&whole, &path), hooks.grouped);
            let wanted = self.hooks_for(event, hooks);
            for (n, hook) in wanted.iter().enumerate() {
                let item = Self::item(hooks, hook, tools);
                text = match found.get(n) {
                    None => json_edit::push(&text, &path, &item)?,
                    Some(place) => {
                        let in_group = at(&whole, &path)[place.0]["hooks"].as_array().map_or(1, Vec::len);
                        let mut path = [path.clone(), vec![At::Item(place.0)]].concat();
                        if !hooks.grouped || in_group == 1 {
                            json_edit::put(&text, &path, &item)?
                        } else {
                            path.extend([At::Key("hooks"), At::Item(place.1)]);
                            json_edit::put(&text, &path, hook)?
                        }
                    }
                };
            }
            text = take_hooks(&text, hooks, None, |name, n| name == *event && n >= wanted.len())?;
        }
        Ok(text)
    }

    /// Our hooks on an event: the one that answers, and behind it the one that waits to wake.
    fn hooks_for(&self, event: &str, hooks: &Hooks) -> Vec<Value> {
        let mut wanted = vec![self.hook(hooks)];
        if self.wake && hooks.rewake == event {
            wanted.push(json!({
                "type": "command", "command": self.program, "args": ["hook", self.agent, "--wake"],
                "asyncRewake": true, "timeout": WAKE_S,
            }));
        }
        wanted
    }

    fn item(hooks: &Hooks, hook: &Value, tools: &str) -> Value {
        let mut item = if hooks.grouped { json!({ "hooks": [hook] }) } else { hook.clone() };
        if !tools.is_empty() {
            item["matcher"] = json!(tools);
        }
        item
    }

    fn hook(&self, hooks: &Hooks) -> Value {
        let program = quoted(self.program);
        let line = format!("{program} hook {}", self.agent);
        let mut hook = match hooks.call {
            Call::Args => json!({ "type": "command", "command": self.program, "args": ["hook", self.agent] }),
            Call::Line => json!({ "type": "command", "command": line }),
            Call::Guarded => json!({ "type": "command", "bash": format!("test ! -x {program} || {line}") }),
            Call::Named => json!({ "type": "command", "name": NAME, "command": line }),
        };
        hook[hooks.limit.0] = json!(hooks.limit.1);
        hook
    }

    /// The text without anything of ours. Containers that this leaves empty go as well, unless they
    /// were there `before` us.
    ///
    /// # Errors
    /// When it can't be read for certain, in words.
    pub fn strip(&self, text: &str, before: Option<&Value>) -> Result<String, String> {
        if let Some(server) = self.server.filter(|_| !self.is_json()) {
            return Ok(match server.form {
                Form::Toml => toml_edit::take_toml(text),
                _ => toml_edit::take_yaml(text, self.program),
            });
        }
        if text.trim().is_empty() {
            return Ok(text.to_owned());
        }
        let whole = parse(text)?;
        let mut text = text.to_owned();
        if let Some(server) = self.server
            && let Some(program) = registered(&whole, &server)
            && is_us(&program)
        {
            text = json_edit::remove(&text, &[At::Key(server.under), At::Key(NAME)]);
            text = prune(&text, &[At::Key(server.under)], before)?;
        }
        if let Some(hooks) = self.hooks {
            let had = text.len();
            text = take_hooks(&text, &hooks, before, |_, _| true)?;
            let took = text.len() < had;
            if took && hooks.version && before.is_some_and(|before| before.get("version").is_none()) {
                text = json_edit::remove(&text, &[At::Key("version")]);
            }
        }
        Ok(text)
    }

    /// A text that holds ours alone: what is there when a file is new, and what a user can paste.
    pub fn alone(&self) -> String {
        self.apply("").unwrap_or_default()
    }

    /// Whether a text from which ours was taken is but the frame that we began with.
    pub fn is_frame(&self, text: &str) -> bool {
        let frame = self.strip(&self.alone(), None).unwrap_or_default();
        let same = || parse(text).ok().zip(parse(&frame).ok()).is_some_and(|(a, b)| a == b);
        text.trim().is_empty() || text == frame || self.is_json() && same()
    }
}

/// The program of the entry under our name.
pub fn registered(whole: &Value, server: &Server) -> Option<String> {
    let command = whole.get(server.under)?.get(NAME)?.get("command")?;
    command.as_str().or_else(|| command[0].as_str()).map(str::to_owned)
}

/// The program of a hook of ours; `None` for anybody else's.
pub fn program_of(hook: &Value) -> Option<String> {
    let command = hook["command"].as_str().or(hook["exec"].as_str()).unwrap_or("");
    if is_us(command) && hook["args"][0] == json!("hook") {
        return Some(command.to_owned());
    }
    let line = hook["bash"].as_str().unwrap_or(command);
    let words = words(line);
    let is_hook = |pair: &&[String]| pair[1] == "hook" && is_us(&pair[0]);
    words.windows(2).rfind(is_hook).map(|pair| pair[0].clone())
}

/// A line's words as a shell splits them, with quotes resolved as far as ours need it.
fn words(line: &str) -> Vec<String> {
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

fn at<'a>(whole: &'a Value, path: &[At]) -> &'a Value {
    path.iter().fold(whole, |value, step| match step {
        At::Key(key) => &value[*key],
        At::Item(n) => &value[*n],
    })
}

/// Our hooks in an event's list: the item, and in a group the place in it.
fn ours(list: &Value, grouped: bool) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (n, item) in list.as_array().into_iter().flatten().enumerate() {
        if grouped {
            let inner = item["hooks"].as_array().into_iter().flatten().enumerate();
            found.extend(inner.filter(|(_, hook)| program_of(hook).is_some()).map(|(m, _)| (n, m)));
        } else if program_of(item).is_some() {
            found.push((n, 0));
        }
    }
    found
}

/// All hooks of ours in a file, with their events.
pub fn hooks_in<'a>(whole: &'a Value, hooks: &Hooks) -> Vec<(&'a str, &'a Value)> {
    let events = if hooks.under.is_empty() { whole } else { &whole[hooks.under] };
    let mut found = Vec::new();
    for (event, list) in events.as_object().into_iter().flatten() {
        for (n, m) in ours(list, hooks.grouped) {
            found.push((event.as_str(), if hooks.grouped { &list[n]["hooks"][m] } else { &list[n] }));
        }
    }
    found
}

/// Takes out those of our hooks that `which` picks by event and by how many stand before it there.
fn take_hooks(
    text: &str,
    hooks: &Hooks,
    before: Option<&Value>,
    which: impl Fn(&str, usize) -> bool,
) -> Result<String, String> {
    let (whole, n_before) = (parse(text)?, text.len());
    let root: Vec<At> = Some(hooks.under).filter(|key| !key.is_empty()).map(At::Key).into_iter().collect();
    let mut text = text.to_owned();
    for (event, list) in at(&whole, &root).as_object().into_iter().flatten() {
        let path = [root.clone(), vec![At::Key(event)]].concat();
        let had = text.len();
        for (_, place) in ours(list, hooks.grouped).into_iter().enumerate().rev().filter(|(n, _)| which(event, *n)) {
            let item = [path.clone(), vec![At::Item(place.0)]].concat();
            if hooks.grouped {
                let inner = [item.clone(), vec![At::Key("hooks")]].concat();
                text = json_edit::remove(&text, &[inner.clone(), vec![At::Item(place.1)]].concat());
                if at(&parse(&text)?, &inner).as_array().is_some_and(Vec::is_empty) {
                    text = json_edit::remove(&text, &item);
                }
            } else {
                text = json_edit::remove(&text, &item);
            }
        }
        if text.len() < had {
            text = prune(&text, &path, before)?;
        }
    }
    if text.len() < n_before { prune(&text, &root, before) } else { Ok(text) }
}

/// Removes an empty container that was not there before us.
fn prune(text: &str, path: &[At], before: Option<&Value>) -> Result<String, String> {
    let whole = parse(text)?;
    let found = at(&whole, path);
    let is_empty =
        found.as_array().is_some_and(Vec::is_empty) || found.as_object().is_some_and(serde_json::Map::is_empty);
    let was_there = before.is_some_and(|before| !at(before, path).is_null());
    Ok(if is_empty && !was_there && !path.is_empty() { json_edit::remove(text, path) } else { text.to_owned() })
}
