//! Tests hooks with different kinds of standard input: complete JSON, unusual JSON, input without an end, and no input.

use super::hook;
use super::support::Place;
use serde_json::{Value, json};
use std::process::Stdio;

/// The agents whose hooks can show text to their user.
const WARNED: &[&str] = &["claude", "codex", "gemini", "qwen", "vscode", "devin", "droid"];

#[test]
fn an_input_that_is_no_object_is_reported_to_the_user() {
    let place = Place::new();
    let long = vec![b'['; 1 << 20];
    let inputs: [&[u8]; 6] = [b"", b"[]", b"\xff\xfe", b"null", b"\0\0\0\0", &long];
    place.ok(&["peers"]);
    for agent in [WARNED, &["copilot", "cursor", "opencode", "kimi", "nobody"]].concat() {
        for input in inputs {
            let said = hook(&place, agent, input);
            if !WARNED.contains(&agent) {
                assert_eq!(said, "", "{agent} shows its user nothing that a hook prints");
                continue;
            }
            let said: Value = serde_json::from_str(&said).unwrap();
            let text = said["systemMessage"].as_str().unwrap();
            assert!(text.contains("could not check") && text.contains("not a JSON object"), "{agent}: {text}");
            assert_eq!(said.as_object().unwrap().len(), 1, "it decides nothing");
        }
        assert!(place.log().contains(&format!("slm-mesh hook {agent}: ")), "the log says what came: {}", place.log());
    }
}

#[test]
fn an_event_that_concerns_nobody_is_answered_with_silence() {
    let place = Place::new();
    for input in ["{", "{}", "{\"hook_event_name\":\"Nope\"}", "{\"hook_event_name\":7}"] {
        for agent in WARNED {
            assert_eq!(hook(&place, agent, input.as_bytes()), "", "{agent}: {input}");
        }
    }
}

#[test]
fn a_hook_does_not_wait_for_an_input_that_never_comes() {
    let place = Place::new();
    let mut child = place.command(&["hook", "claude"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // Keeps the hook's standard input open, but writes nothing to it.
    let open = child.stdin.take();
    let out = child.wait_with_output().unwrap();
    drop(open);
    assert!(out.status.success());
    let said: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(said["systemMessage"].as_str().unwrap().contains("no input for 3 s"), "{said}");
}

#[test]
fn the_edit_of_a_locked_file_is_denied_whatever_else_the_input_holds() {
    let place = Place::new();
    place.ok(&["lock", "held.txt", "--reason", "mine"]);
    let held = place.root.join("held.txt").display().to_string();
    let start = format!(r#"{{"hook_event_name":"PreToolUse","session_id":"s","cwd":"{}","#, place.root.display());
    let edit = |arguments: &str| format!(r#"{start}"tool_name":"Edit","tool_input":{{{arguments}"#);
    let path = format!(r#""file_path":"{held}""#);
    let text = "z".repeat(5 << 20);
    let inputs = [
        edit(&format!(r#"{path},"new_string":"half \\ud83d emoji"}}}}"#)).replace("\\\\", "\\"),
        edit(&format!(r#""new_string":"\\ude00 \\ud83d\\ud83d","old_string":"\\uZZ",{path}}}}}"#))
            .replace("\\\\", "\\"),
        edit(&format!(r#""content":"{text}",{path}}}}}"#)),
        edit(&format!(r#"{path},"content":"{text}"}}}}"#)),
        format!("\u{feff}{}", edit(&format!("{path}}}}}"))),
        edit(&format!(r#""deep":{}{},{path}}}}}"#, "[".repeat(100_000), "]".repeat(100_000))),
        edit(&format!(r#""file_path":"/tmp/free",{path}}}}}"#)),
        edit(&format!(r#"{path},"file_path":"/tmp/free"}}}}"#)),
        edit(&format!("{path}}},\"tool_input\":{{}}}}")),
        edit(&format!(r#""n":NaN,{path}}}}}"#)),
        edit(&path),
        format!("\0\0{}", edit(&format!("{path}}}}}"))),
        format!("the agent says this first\n{}", edit(&format!("{path}}}}}"))),
        format!(r#"{start}"tool_response":"{text}","tool_name":"Edit","tool_input":{{{path}}}}}"#),
        json!({ "hook_event_name": "PreToolUse", "session_id": "s", "tool_name": "apply_patch", "tool_input": {
            "command": format!("*** Begin Patch\n*** Update File: a\n{}*** Update File: {held}\n*** End Patch",
                "+ line\n".repeat(500_000)) } })
        .to_string(),
    ];
    for input in &inputs {
        let denied = hook(&place, "claude", input.as_bytes());
        assert!(denied.contains("\"deny\"") && denied.contains("held.txt is locked by"), "{input:.300}: {denied}");
    }
    let in_utf16 =
        |text: String, to_bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(to_bytes).collect::<Vec<_>>();
    for to_bytes in [u16::to_le_bytes, u16::to_be_bytes] {
        for mark in ["", "\u{feff}"] {
            let input = in_utf16(format!("{mark}{}", edit(&format!("{path}}}}}"))), to_bytes);
            assert!(hook(&place, "claude", &input).contains("held.txt is locked by"), "{mark:?}");
        }
    }
    for free in [edit(r#""file_path":"/tmp/free"}}"#), edit(&format!(r#""content":"{held}"}}}}"#))] {
        assert_eq!(hook(&place, "claude", free.as_bytes()), "", "{free:.300}");
    }
}
