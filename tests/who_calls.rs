//! Tests how a hook finds its session: one agent process may have several sessions, and a session may have subagents.

mod support;

use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;
use support::Place;
use support::home::Home;

/// Runs a hook of Claude Code, and returns its output.
fn hook(place: &Place, event: &str, session: &str, more: Value) -> String {
    let mut input = json!({ "hook_event_name": event, "session_id": session, "cwd": place.root });
    input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut command = place.command(&["hook", "claude"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{event}: {:?}", out.status);
    String::from_utf8(out.stdout).unwrap()
}

/// Runs the hook before an edit of `a.rs`. If `subagent` is not `None`, this subagent of the session makes the edit.
fn edit(place: &Place, session: &str, subagent: Option<&str>) -> String {
    let file = place.root.join("a.rs");
    let input = json!({ "tool_name": "Edit", "tool_input": { "file_path": file }, "agent_id": subagent });
    hook(place, "PreToolUse", session, input)
}

fn is_denied(answer: &str) -> bool {
    answer.contains("deny")
}

fn lock_count(place: &Place) -> usize {
    place.json(&["lock", "list"])["locks"].as_array().unwrap().len()
}

#[test]
fn two_tabs_of_one_window_are_two_sessions() {
    let place = Place::new();
    assert!(!is_denied(&edit(&place, "tab-1", None)));
    assert!(is_denied(&edit(&place, "tab-2", None)), "tab 1 edits the file");
    assert!(!is_denied(&edit(&place, "tab-1", None)), "no session is refused by its own lock");
    hook(&place, "Stop", "tab-1", json!({}));
    assert!(!is_denied(&edit(&place, "tab-2", None)), "the turn of tab 1 has ended");
}

#[test]
fn a_session_goes_on_under_the_key_that_its_agent_reports() {
    let place = Place::new();
    for (n, source) in ["clear", "resume", "fork", "compact"].iter().enumerate() {
        assert!(!is_denied(&edit(&place, &format!("key-{n}"), None)));
        hook(&place, "SessionStart", &format!("key-{}", n + 1), json!({ "source": source }));
        assert!(!is_denied(&edit(&place, &format!("key-{}", n + 1), None)), "after {source}");
    }
    let peers = place.json(&["peers", "--all", "--as", "human"])["peers"].clone();
    let sessions = peers.as_array().unwrap().iter().filter(|peer| peer["agentType"] == json!("claude-code"));
    assert_eq!(sessions.count(), 1, "{peers}");
}

#[test]
fn locks_of_background_work_outlive_the_turn() {
    let place = Place::new();
    assert!(!is_denied(&edit(&place, "s1", Some("sub-1"))));
    let task = |status: &str| json!({ "background_tasks": [{ "id": "sub-1", "type": "subagent", "status": status }] });
    hook(&place, "Stop", "s1", task("running"));
    assert!(is_denied(&edit(&place, "s2", None)), "the subagent still edits the file");
    hook(&place, "SubagentStop", "s1", json!({ "agent_id": "sub-1" }));
    assert_eq!(lock_count(&place), 0);
    // No `SubagentStop` event comes for this subagent. The next `Stop` event of the session must end the subagent's
    // locks.
    assert!(!is_denied(&edit(&place, "s1", Some("sub-1"))));
    hook(&place, "Stop", "s1", task("completed"));
    assert_eq!(lock_count(&place), 0);
}

#[test]
fn two_subagents_do_not_edit_one_file_at_once() {
    let place = Place::new();
    assert!(!is_denied(&edit(&place, "s1", Some("sub-1"))));
    let denial = edit(&place, "s1", Some("sub-2"));
    assert!(is_denied(&denial) && denial.contains("another subagent of this session"), "{denial}");
    hook(&place, "SubagentStop", "s1", json!({ "agent_id": "sub-1" }));
    assert!(!is_denied(&edit(&place, "s1", Some("sub-2"))), "a subagent that has ended blocks nobody");
}

/// Codex runs only the hooks that `setup` has written, so this test runs exactly these hooks.
#[test]
fn a_subagent_of_codex_that_has_ended_blocks_no_other() {
    let home = Home::new();
    home.ok(&["codex"]);
    let hooks = home.value(".codex/hooks.json")["hooks"].clone();
    let run = |event: &str, subagent: &str| {
        let line = hooks[event][0]["hooks"][0]["command"].as_str().unwrap_or_else(|| panic!("{event}: {hooks}"));
        let patch = "*** Begin Patch\n*** Update File: a.rs\n@@\n-a\n+b\n*** End Patch";
        let input = json!({
            "hook_event_name": event, "session_id": "root", "agent_id": subagent, "agent_type": "worker",
            "cwd": home.place.root, "tool_name": "apply_patch", "tool_input": { "command": patch },
        });
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", line]).envs(home.place.command(&[]).get_envs().filter_map(|(k, v)| Some((k, v?))));
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    assert_eq!(run("PreToolUse", "one"), "");
    assert!(is_denied(&run("PreToolUse", "two")), "the first subagent edits the file");
    assert_eq!(run("SubagentStop", "one"), "");
    assert_eq!(run("PreToolUse", "two"), "");
}

/// The hook must notice a locked file even if the edit has many files or a path that is too long, or if the session key
/// is unusual.
#[test]
fn an_edit_of_a_locked_file_is_denied_whatever_else_is_in_it() {
    let place = Place::new();
    place.ok(&["lock", "held.txt", "--reason", "mine"]);
    let edit = |key: &str, files: &[String]| {
        let lines: String = files.iter().map(|file| format!("*** Update File: {file}\n@@\n-a\n+b\n")).collect();
        let patch = format!("*** Begin Patch\n{lines}*** End Patch");
        hook(&place, "PreToolUse", key, json!({ "tool_name": "apply_patch", "tool_input": { "command": patch } }))
    };
    let many: Vec<String> = (0..700).map(|n| format!("z{n}")).chain(["held.txt".to_owned()]).collect();
    for (what, key, files) in [
        ("700 other files", "k", &many[..]),
        ("a path of 5000 bytes", "k", &["x".repeat(5000), "held.txt".into()]),
        ("a key of 100 characters in 300 bytes", &"\u{20ac}".repeat(100), &["held.txt".into()]),
        ("a key of a megabyte", &"k".repeat(1 << 20), &["held.txt".into()]),
        ("no key", "", &["held.txt".into()]),
    ] {
        assert!(edit(key, files).contains("was not changed"), "{what}");
    }
    // These two session keys differ only at the end, after 4000 equal characters.
    let long = "k".repeat(4000);
    assert_eq!(edit(&format!("{long}1"), &["own.txt".into()]), "");
    assert!(edit(&format!("{long}2"), &["own.txt".into()]).contains("was not changed"));
    assert_eq!(edit(&format!("{long}1"), &["own.txt".into()]), "");
}

#[test]
fn the_end_of_a_subagent_without_an_id_is_not_the_end_of_the_turn() {
    let place = Place::new();
    assert!(!is_denied(&edit(&place, "s1", None)));
    hook(&place, "SubagentStop", "s1", json!({}));
    assert!(is_denied(&edit(&place, "s2", None)), "the turn of the session goes on");
}

#[test]
fn a_guard_that_cannot_know_its_caller_refuses_what_anybody_holds() {
    let place = Place::new();
    let repo = place.root.join("repo");
    let git = |session: &str, args: &[&str]| {
        let mut git = std::process::Command::new("git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@example.org", "-C"]).arg(&repo).args(args);
        git.env("HOME", &place.root).env("SLM_MESH_DATA_DIR", &place.dir).envs(place.env.iter().cloned());
        let out = git.env("SLM_MESH_SESSION", session).output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    std::fs::create_dir(&repo).unwrap();
    assert!(git("", &["init", "-q"]).0);
    assert!(place.command(&["guard", "install"]).current_dir(&repo).status().unwrap().success());
    for name in ["held", "free"] {
        std::fs::write(repo.join(name), "1").unwrap();
    }
    place.ok(&["lock", "repo/held", "--as", "human", "--reason", "mine"]);
    assert!(git("", &["add", "held"]).0);
    // The environment of git contains the id of a session that no longer exists.
    let (passed, said) = git("nobody", &["commit", "-qm", "held"]);
    assert!(!passed && said.contains("mine"), "{said}");
    assert!(git("", &["rm", "-q", "--cached", "held"]).0 && git("", &["add", "free"]).0);
    let (passed, said) = git("nobody", &["commit", "-qm", "free"]);
    assert!(passed, "{said}");
}

/// Runs a hook of Cursor for a tool call or a prompt.
fn cursor_hook(place: &Place, event: &str, conversation: &str, more: Value) {
    let mut input =
        json!({ "hook_event_name": event, "conversation_id": conversation, "workspace_roots": [place.root] });
    input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut command = place.command(&["hook", "cursor"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
}

#[test]
fn a_tool_call_belongs_to_the_conversation_whose_hook_announced_it() {
    let place = Place::new();
    // One window of Cursor has one MCP server, but two conversations.
    let mut window = place.session("cursor-vscode", ".");
    window.tool("mesh_status", json!({}));
    for conversation in ["c1", "c2"] {
        cursor_hook(&place, "beforeSubmitPrompt", conversation, json!({ "prompt": "hi" }));
    }
    let peers = place.json(&["peers", "--all", "--as", "human"])["peers"].clone();
    let named = |id: &Value| peers.as_array().unwrap().iter().find(|peer| peer["id"] == *id).unwrap()["name"].clone();
    assert_eq!(peers.as_array().unwrap().iter().filter(|peer| peer["agentType"] == json!("cursor")).count(), 2);
    let mut call = |conversation: &str, tool: &str, arguments: Value| {
        let hook = json!({ "tool_name": format!("MCP:{tool}"), "tool_input": arguments.to_string() });
        cursor_hook(&place, "preToolUse", conversation, hook);
        window.tool(tool, arguments)
    };
    let first = call("c1", "mesh_summary", json!({ "summary": "one" }))["actedAs"]["id"].clone();
    let second = call("c2", "mesh_summary", json!({ "summary": "two" }))["actedAs"]["id"].clone();
    assert!(first.is_string() && second.is_string() && first != second, "{first} {second}");
    // Each conversation gets only its own messages. The sender must see that they were read.
    for id in [&second, &first] {
        place.ok(&["send", id.as_str().unwrap(), named(id).as_str().unwrap(), "--as", "human"]);
    }
    for (conversation, id) in [("c1", &first), ("c2", &second)] {
        let inbox = call(conversation, "mesh_inbox", json!({}));
        assert_eq!(inbox["messages"].as_array().unwrap().len(), 1, "{inbox}");
        assert_eq!(inbox["messages"][0]["payload"], named(id), "{inbox}");
    }
    support::until("both are read", || {
        let sent = place.json(&["inbox", "--filter", "sent", "--as", "human"]);
        sent["messages"].as_array().unwrap().iter().all(|row| row["receipt"] == json!("read"))
    });
}
