//! Tests a system that refuses to start a thread, for example because of `ulimit -u`. Calls that need no new thread
//! must still work, and others must fail with an error.

mod support;

use serde_json::json;
use std::io::Write;
use std::process::Stdio;
use support::{Place, Session};

/// Runs the hook before an edit of this file, and returns its output.
fn hook_answer(place: &Place, file: &str) -> String {
    let input = json!({ "session_id": "s1", "hook_event_name": "PreToolUse", "cwd": place.root, "tool_name": "Write",
        "tool_input": { "file_path": place.root.join(file), "content": "text" } });
    let mut hook = place.command(&["hook", "claude"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    hook.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let out = hook.wait_with_output().unwrap();
    assert!(out.status.success(), "a hook always succeeds: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn nothing_panics_where_no_thread_can_be_started() {
    let place = Place::new();
    let Some(library) = support::shim(&place) else { return };
    let place = place.with("LD_PRELOAD", library.to_str().unwrap()).with("SHIM_NO_THREADS", "1");
    std::fs::write(place.root.join("held.rs"), "").unwrap();

    // This hook also starts the broker. The broker can't start threads.
    assert_eq!(hook_answer(&place, "free.rs"), "");
    place.ok(&["lock", "held.rs"]);
    assert!(hook_answer(&place, "held.rs").contains("deny"), "a hook denies");

    let out = place.run(&["lock", "other.rs", "--", "touch", "ran"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        out.status.code() == Some(3) && said.contains("the command was not run") && said.contains("ulimit -u"),
        "{out:?}"
    );
    assert!(!place.root.join("ran").exists(), "nothing would renew the lock of the command");
    assert!(!place.ok(&["lock", "list"]).contains("other.rs"), "the lock ends with the verb");

    let mut session = Session::start(&mut place.command(&[]), "claude-code");
    let (answer, is_error) = session.try_tool("mesh_peers", json!({}));
    assert!(is_error && answer["error"].as_str().unwrap().contains("no thread can be started"), "{answer}");
    drop(session);

    place.ok(&["stop"]);
    assert!(!place.log().contains("panic"), "{}", place.log());
}
