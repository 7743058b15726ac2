//! Tests the case that the mesh already has the maximum number of locks. An edited file is then not locked, and the
//! user gets a warning.

use super::support::Place;
use super::{at, claude_like, told};
use serde_json::json;
use slm_mesh::base::limits;

#[test]
fn the_user_learns_that_an_edit_is_not_protected_because_there_are_too_many_locks() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    let mut socket = place.socket();
    let at_once = limits::PATHS_MAX;
    for part in 0..limits::LOCKS_MAX / at_once {
        let files: Vec<String> = (0..at_once).map(|n| format!("/elsewhere/{part}-{n}")).collect();
        let granted = socket.call("lock.lock", json!({ "as": "human", "filePaths": files }));
        assert_eq!(granted["result"]["ok"], json!(true), "{granted}");
    }
    let agent = claude_like("claude", "claude-code");
    let answer = told(&place, "claude", &at(&place, (agent.edit)("s1", "src/main.rs")));
    let warning = answer["systemMessage"].as_str().unwrap_or_else(|| panic!("{answer}"));
    assert!(warning.contains("were not locked") && warning.contains("there are already 4096 locks"), "{warning}");
    let denied = told(&place, "claude", &at(&place, (agent.edit)("s1", "/elsewhere/0-0")));
    assert!((agent.denied)(&denied), "{denied}");
}
