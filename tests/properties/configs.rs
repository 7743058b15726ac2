//! Settings files of agents: what set-up puts in, it takes out again.
//!
//! A changed text still has all that it had before. Putting entries in twice changes nothing more, and taking them out
//! restores the original bytes.

use crate::choices::Choices;
use serde_json::Value;
use slm_mesh::agents::config_entries::Entries;
use slm_mesh::agents::generated_files::NAME;
use slm_mesh::agents::json_edit;
use slm_mesh::known_agents::AGENTS;
use slm_mesh::known_agents::settings_files::{HookCommand, Scope};

const PROGRAM: &str = "/opt/a b/slm-mesh";

/// What set-up writes into the files of all agents.
fn all_entries() -> Vec<Entries<'static>> {
    let mut found = Vec::new();
    let twice = AGENTS.iter().map(|agent| (agent, false)).chain(AGENTS.iter().map(|agent| (agent, true)));
    for (agent, may_wake) in twice {
        for Scope { server, hooks, .. } in [agent.files.user, agent.files.project] {
            let is_one_file = server.zip(hooks).is_some_and(|(server, hooks)| server.paths.contains(&hooks.path));
            let entries =
                |server, hooks| Entries { agent, program: PROGRAM, own_file: PROGRAM, server, hooks, may_wake };
            if is_one_file {
                found.push(entries(server, hooks));
            } else {
                found.extend(server.map(|server| entries(Some(server), None)));
                found.extend(hooks.map(|hooks| entries(None, Some(hooks))));
            }
        }
    }
    found
}

/// The first byte chooses the file. The rest is its text, in which bytes above ASCII stand for whole words.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let all = all_entries();
    let entries = &all[choices.below(all.len())];
    let text = spelt_out(choices.0);
    let Ok(with) = entries.put_into(&text) else { return };
    assert_eq!(entries.put_into(&with).as_ref(), Ok(&with), "a second time: {text:?}");
    let is_json = entries.server.is_none_or(|server| server.entry.is_json())
        && entries.hooks.is_none_or(|hooks| hooks.command != HookCommand::TomlLine);
    let was_blank = text.trim().is_empty() || is_json && json_edit::is_blank(&text);
    if is_json {
        let (old, new) = (json_edit::parse(&text).unwrap_or(Value::Null), json_edit::parse(&with));
        let new = new.unwrap_or_else(|why| panic!("{why}: {text:?} became {with:?}"));
        // If the text names slm-mesh, set-up may change or remove entries with this name.
        if !was_blank && !text.contains(NAME) {
            assert_kept(&old, &new, &text);
        }
    }
    // If the text named slm-mesh before, taking our entries out does not restore it.
    let before = if is_json { json_edit::parse(&text).ok() } else { None };
    let knew_us = text.contains(NAME) || before.as_ref().is_some_and(|value| value.to_string().contains(NAME));
    if was_blank || knew_us || entries.remove_from(&text, before.as_ref()).as_ref() != Ok(&text) {
        return;
    }
    let shape = before.unwrap_or(Value::Null);
    let without = entries.remove_from(&with, Some(&shape)).unwrap_or_else(|why| panic!("{why}: {with:?}"));
    // If the last line had no newline at its end, it has one now, and brackets that held only spaces are now empty. Only
    // the old text, which `setup` records, could restore both.
    let ended = [format!("{text}\n"), format!("{text}\r\n")];
    let is_ended = !is_json && !text.ends_with('\n') && ended.contains(&without);
    let is_same = without == text || is_ended || is_json && squeezed(&without) == squeezed(&text);
    assert!(is_same, "{text:?}\n  became {with:?}\n  and then {without:?}");
}

/// A JSON text without the space in empty brackets.
fn squeezed(text: &str) -> String {
    let (mut out, mut quoted, mut escaped) = (String::new(), false, false);
    for c in text.chars() {
        if !quoted && "}]".contains(c) {
            let bare = out.trim_end();
            if bare.ends_with(['{', '[']) {
                out.truncate(bare.len());
            }
        }
        out.push(c);
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
    }
    out
}

/// Checks that all that was there is still there; only lists of hooks may have grown at their ends.
fn assert_kept(old: &Value, new: &Value, text: &str) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let keys: Vec<&String> = new.keys().filter(|key| old.contains_key(*key)).collect();
            assert_eq!(keys, old.keys().collect::<Vec<_>>(), "{text:?}");
            old.iter().for_each(|(key, value)| assert_kept(value, &new[key], text));
        }
        (Value::Array(old), Value::Array(new)) => {
            assert!(new.starts_with(old), "{text:?}");
        }
        (old, new) => assert_eq!(old, new, "{text:?}"),
    }
}

/// Words that random bytes would hardly ever form.
const WORDS: &[&str] = &[
    "\"mcpServers\":",
    "\"hooks\":",
    "\"mcp\":",
    "\"servers\":",
    "\"context_servers\":",
    "\"slm-mesh\":",
    "{\"type\":\"stdio\",\"command\":\"/x/slm-mesh\",\"args\":[\"mcp\"]}",
    "\"PreToolUse\":",
    "\"Stop\":",
    "\"SessionStart\":",
    "\"preToolUse\":",
    "\"version\":",
    "{\"hooks\":[{\"type\":\"command\",\"command\":\"/x/slm-mesh hook claude\"}]}",
    "{\"type\":\"command\",\"command\":\"/x/slm-mesh\",\"args\":[\"hook\",\"claude\"]}",
    "[mcp_servers.slm-mesh]\n",
    "[mcp_servers.x]\n",
    "command = \"/x/slm-mesh\"\n",
    "read: x\n",
    "\r\n",
    "\u{e9}",
    "\u{2028}",
    "{}",
    "[]",
    "\n  ",
    "\"\\u0073lm-mesh\":",
    "\"a\":1,",
    "[1,{\"b\":[]}]",
    "\u{85}",
    "\"\\\"{[,\"",
    "\u{a0}",
    "// a\n",
    "/* b */",
    ",\n",
    "# c\n",
    "[mcp_servers]\n",
    "[[hooks]]\n",
    "command = \"/x/slm-mesh hook kimi\"\n",
    "hooks = []\n",
    "\"\"\"",
];

fn spelt_out(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            0..0x80 => text.push(char::from(*byte)),
            _ => text.push_str(WORDS[usize::from(*byte - 0x80) % WORDS.len()]),
        }
    }
    text
}
