//! Runs each hook with inputs that real agents have sent (recorded in `tests/data/hooks`), and checks the results.

mod support;

use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use support::Place;

/// Each agent's names for six events: the session starts, a prompt is sent, an edit is about to start, a tool call has
/// ended, the agent stops, and the session ends.
const NAMES: &[(&str, [&str; 6])] = &[
    ("claude", ["SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop", "SessionEnd"]),
    ("codex", ["SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop", "SessionEnd"]),
    ("copilot", ["sessionStart", "userPromptSubmitted", "preToolUse", "postToolUse", "agentStop", "sessionEnd"]),
    ("gemini", ["SessionStart", "BeforeAgent", "BeforeTool", "AfterTool", "AfterAgent", "SessionEnd"]),
    // A session of OpenCode or Kilo ends only when a user deletes it. No recording contains this event.
    ("opencode", ["SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop", ""]),
    ("kilo", ["SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop", ""]),
    ("qwen", ["SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop", ""]),
    // `droid exec` runs no hook for its prompt. So the input of the hook for a prompt was written by hand.
    ("droid", ["SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop", "SessionEnd"]),
];

/// Runs the hook on one captured input. The test folder replaces the working directory in the input.
fn told(place: &Place, agent: &str, event: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/hooks/{agent}-{event}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let text = text.replace("/work", place.root.to_str().unwrap());
    let mut hook = place.command(&["hook", agent]);
    let mut child = hook.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stderr), "", "{agent} {event}");
    serde_json::from_slice(&out.stdout).unwrap_or(Value::Null)
}

#[test]
fn each_agent_with_captured_events_is_tested() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hooks");
    // Kimi Code has its own test in this file.
    let is_tested = |name: &String| {
        let id = name.split('-').next().unwrap();
        id == "kimi" || NAMES.iter().any(|(agent, _)| *agent == id)
    };
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let untested: Vec<String> = names.filter(|name| !is_tested(name)).collect();
    assert!(untested.is_empty(), "add a row to NAMES for {untested:?}");
}

#[test]
fn each_captured_event_is_understood() {
    for (agent, [start, prompt, edit, tool, stop, end]) in NAMES {
        let place = Place::new();
        let folder = place.root.file_name().unwrap().to_str().unwrap().to_owned();
        let name = format!("{agent}-{folder}");
        place.ok(&["lock", "held.txt", "--reason", "mine"]);
        let greeting = told(&place, agent, start).to_string();
        assert!(greeting.contains(&name) && greeting.contains("held.txt is locked by"), "{agent}: {greeting}");
        for event in [prompt, tool] {
            place.ok(&["send", &name, &format!("before {event}")]);
            let shown = told(&place, agent, event).to_string();
            assert_eq!(shown.matches(&format!("> before {event}")).count(), 1, "{agent} {event}: {shown}");
            assert_eq!(told(&place, agent, event), Value::Null, "{agent} {event}: once");
        }
        place.ok(&["send", &name, "before it stops"]);
        let mut shown = told(&place, agent, stop).to_string();
        if ["copilot", "gemini", "opencode", "kilo"].contains(agent) {
            assert!(shown.contains("mail came in") && !shown.contains("before it stops"), "{agent}: {shown}");
            shown = told(&place, agent, prompt).to_string();
        }
        assert_eq!(shown.matches("> before it stops").count(), 1, "{agent}: {shown}");
        assert_eq!(told(&place, agent, stop), Value::Null, "{agent}: once");
        let denied = told(&place, agent, edit).to_string();
        assert!(denied.contains(r#"reason: \"mine\""#) && denied.contains("was not changed"), "{agent}: {denied}");
        place.ok(&["send", &name, "late"]);
        assert_eq!(told(&place, agent, &format!("{stop}-active")), Value::Null, "{agent}: it goes on already");
        place.ok(&["unlock", "held.txt"]);
        assert_eq!(told(&place, agent, edit), Value::Null, "{agent}: the file is free");
        assert_eq!(place.json(&["lock", "list"])["locks"][0]["holder"], json!(name));
        if !end.is_empty() {
            assert_eq!(told(&place, agent, end), Value::Null);
            assert_eq!(place.json(&["status"])["locks"]["active"], json!(0), "{agent}");
        }
    }
}

/// Kimi Code ignores the output of the hooks that run at a session's start and after a tool call. So mail is shown only
/// with a prompt, or when the agent stops.
#[test]
fn mail_waits_where_an_agent_drops_the_answer() {
    let place = Place::new();
    let name = format!("kimi-{}", place.root.file_name().unwrap().to_str().unwrap());
    place.ok(&["lock", "held.txt", "--reason", "mine"]);
    assert_eq!(told(&place, "kimi", "SessionStart"), Value::Null);
    place.ok(&["send", &name, "before a tool"]);
    for event in ["PostToolUse", "PostToolUseFailure", "SessionStart"] {
        assert_eq!(told(&place, "kimi", event), Value::Null, "{event}");
    }
    let shown = told(&place, "kimi", "UserPromptSubmit");
    assert!(shown["message"].as_str().unwrap().contains("> before a tool"), "{shown}");
    place.ok(&["send", &name, "before it stops"]);
    let reason = told(&place, "kimi", "Stop");
    assert_eq!(reason["hookSpecificOutput"]["permissionDecision"], json!("deny"), "{reason}");
    assert!(reason.to_string().contains("> before it stops"), "{reason}");
    let denied = told(&place, "kimi", "PreToolUse").to_string();
    assert!(denied.contains(r#"reason: \"mine\""#) && denied.contains("was not changed"), "{denied}");
}
