//! Adds entries to settings files of agents, and removes them again, as `slm-mesh setup` does.
//!
//! The user's own settings must stay. Adding the entries a second time must change nothing. Removing the entries must
//! restore the original bytes.

use crate::choices::Choices;
use serde_json::Value;
use slm_mesh::agents::edit_own_config_entries::Entries;
use slm_mesh::agents::generated_file_texts::NAME;
use slm_mesh::agents::json_edit;
use slm_mesh::known_agents::AGENTS;
use slm_mesh::known_agents::settings_file_types::{HookCommand, Scope};

const PROGRAM: &str = "/opt/a b/slm-mesh";

/// All entries that `slm-mesh setup` writes into agents' settings files.
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

/// The first byte chooses the kind of settings file, and the other bytes become its text. Each byte above ASCII becomes
/// a whole word.
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
        // If the text already contains the name slm-mesh, `setup` may change or remove an entry of this name, so
        // nothing is checked.
        if !was_blank && !text.contains(NAME) {
            assert_kept(&old, &new, &text);
        }
    }
    // If the text already contains the name slm-mesh, removing the entries might not restore the text, so the rest is
    // not checked.
    let before = if is_json { json_edit::parse(&text).ok() } else { None };
    let knew_us = text.contains(NAME) || before.as_ref().is_some_and(|value| value.to_string().contains(NAME));
    if was_blank || knew_us || entries.remove_from(&text, before.as_ref()).as_ref() != Ok(&text) {
        return;
    }
    let shape = before.unwrap_or(Value::Null);
    let without = entries.remove_from(&with, Some(&shape)).unwrap_or_else(|why| panic!("{why}: {with:?}"));
    // Two differences are allowed: a newline at the end of the last line, and missing spaces in empty brackets. They
    // can be undone only with the old text, which `setup` records.
    let ended = [format!("{text}\n"), format!("{text}\r\n")];
    let is_ended = !is_json && !text.ends_with('\n') && ended.contains(&without);
    let is_same = without == text || is_ended || is_json && squeezed(&without) == squeezed(&text);
    assert!(is_same, "{text:?}\n  became {with:?}\n  and then {without:?}");
}

/// Removes the spaces from empty brackets in a JSON text.
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

/// Checks that the new settings contain all old settings. A list of hooks may have new items at its end.
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

/// Long words that random bytes would almost never form. Each byte above ASCII stands for one of them.
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
