//! Tests messages that are too long for a hook to show completely.

use super::support::Place;
use super::{at, claude_shape, told};
use serde_json::{Value, json};

#[test]
fn a_message_of_which_a_hook_shows_the_beginning_stays_unread() {
    let place = Place::new();
    told(&place, "claude", &at(&place, claude_shape("s1", "SessionStart")));
    let name = format!("claude-{}", place.root.file_name().unwrap().to_str().unwrap());
    for length in [2_000, 40_000] {
        let text = format!("{}the end", "x".repeat(length));
        place.ok(&["send", &name, &text]);
        let receipt = || place.json(&["inbox", "--filter", "sent", "--limit", "1"])["messages"][0]["receipt"].clone();
        let prompt = at(&place, claude_shape("s1", "UserPromptSubmit"));
        let shown = told(&place, "claude", &prompt).to_string();
        assert!(shown.contains("xxx") && shown.contains("(cut here") && !shown.contains("the end"), "{shown}");
        assert_eq!((receipt(), told(&place, "claude", &prompt)), (json!("offered"), Value::Null), "shown once");
        let inbox = || place.ok(&["inbox", "--as", &name, "--take", "--filter", "unread"]);
        assert!(std::iter::repeat_with(inbox).take(5).any(|part| part.contains("the end")));
        assert_eq!(receipt(), json!("read"));
    }
}
