//! Tests locks that remain valid after their broker has ended.

use super::support::Place;
use super::{at, claude_shape, told, with};
use serde_json::json;

#[test]
fn a_lock_that_outlasts_its_broker_is_respected() {
    let place = Place::new();
    let git = |args: &[&str]| {
        let status = std::process::Command::new("git").args(args).current_dir(&place.root).status().unwrap();
        assert!(status.success(), "{args:?}");
    };
    std::fs::write(place.root.join("src.rs"), "old").unwrap();
    git(&["init", "-q"]);
    git(&["add", "src.rs"]);
    git(&["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]);
    std::fs::write(place.root.join("src.rs"), "new").unwrap();
    place.ok(&["lock", "src.rs", "--reason", "mine"]);
    place.ok(&["stop"]);
    // `git stash` changes files, but the command line does not contain their names.
    let call = json!({ "tool_name": "Bash", "tool_input": { "command": "git stash" } });
    let answer = told(&place, "claude", &at(&place, with(claude_shape("s1", "PreToolUse"), call))).to_string();
    assert!(answer.contains("deny") && answer.contains("mine"), "{answer}");
}
