//! Settings files of agents: what set-up puts in, it takes out again.
//!
//! A text that is changed still has all that it had; putting in again changes nothing; taking out
//! gives back the bytes of before.

use crate::feed::Feed;
use serde_json::Value;
use slm_mesh::agents::config_entries::{self, Want};
use slm_mesh::agents::configs::{Form, ROWS, Scope};
use slm_mesh::agents::generated_files::NAME;

const PROGRAM: &str = "/opt/a b/slm-mesh";

/// What set-up writes into any agent's files.
fn wants() -> Vec<Want<'static>> {
    let mut found = Vec::new();
    for (row, wake) in ROWS.iter().map(|row| (row, false)).chain(ROWS.iter().map(|row| (row, true))) {
        for Scope { server, hooks, .. } in [row.user, row.project] {
            let same = server.zip(hooks).is_some_and(|(server, hooks)| server.path == hooks.path);
            let want = |server, hooks| Want { agent: row.name, program: PROGRAM, server, hooks, wake };
            match (server, hooks) {
                (Some(_), Some(_)) if same => found.push(want(server, hooks)),
                (server, hooks) => {
                    found.extend(server.map(|server| want(Some(server), None)));
                    found.extend(hooks.map(|hooks| want(None, Some(hooks))));
                }
            }
        }
    }
    found
}

/// First byte: the file; the rest is its text, with signs above ASCII standing for whole words.
pub fn check(data: &[u8]) {
    let mut feed = Feed(data);
    let wants = wants();
    let want = &wants[feed.below(wants.len())];
    let text = spelt_out(feed.0);
    let Ok(with) = want.apply(&text) else { return };
    assert_eq!(want.apply(&with).as_ref(), Ok(&with), "a second time: {text:?}");
    let is_json = !want.server.is_some_and(|server| matches!(server.form, Form::Toml | Form::Yaml));
    let was_blank = text.trim().is_empty();
    if is_json {
        let (old, new) = (config_entries::parse(&text).unwrap_or(Value::Null), config_entries::parse(&with));
        let new = new.unwrap_or_else(|why| panic!("{why}: {text:?} became {with:?}"));
        // What names us is ours to change.
        if !was_blank && !text.contains(NAME) {
            assert_kept(&old, &new, &text);
        }
    }
    // Taking us out does not lead back to a text that knew us before.
    let before = if is_json { config_entries::parse(&text).ok() } else { None };
    let knew_us = text.contains(NAME) || before.as_ref().is_some_and(|value| value.to_string().contains(NAME));
    if was_blank || knew_us || want.strip(&text, before.as_ref()).as_ref() != Ok(&text) {
        return;
    }
    let shape = before.unwrap_or(Value::Null);
    let without = want.strip(&with, Some(&shape)).unwrap_or_else(|why| panic!("{why}: {with:?}"));
    // A last line without its end has one now, and brackets around nothing but space hold nothing: only
    // the text that was kept knows better.
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

/// All that was there is there, but for lists of hooks, which may have grown at their ends.
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

/// Words that chance would not hit upon.
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
