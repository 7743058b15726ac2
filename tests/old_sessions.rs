//! Tests sessions of slm-mesh 0.1.0 that are connected to a current broker. Such a session may still run after an
//! upgrade, and many of the methods that it calls have been renamed.

mod support;

use serde_json::{Value, json};
use std::io::Write;
use support::Place;

/// Starts a broker and connects to it, but sends nothing.
fn connect(place: &Place) -> support::Socket {
    place.ok(&["start", "--detach"]);
    place.socket()
}

fn error_text(answer: &Value) -> &str {
    answer["error"]["message"].as_str().unwrap_or_else(|| panic!("no error: {answer}"))
}

#[test]
fn a_session_that_uses_old_names_is_told_to_restart() {
    let place = Place::new();
    let mut old = connect(&place);
    let attached = json!({ "agent": "claude-code", "project": "/p", "pid": 1, "session": "s" });
    assert_eq!(old.call("attach", attached)["result"]["ok"], json!(true));
    let renamed = ["turn.edit", "turn.mail", "turn.end", "turn.wake", "turn.rang", "shown"];
    for method in renamed {
        let id = old.ask(method, json!({ "items": [], "files": ["/p/a"] }));
        let answer = old.read().unwrap();
        assert_eq!(answer["id"], json!(id), "{answer}");
        let text = error_text(&answer);
        assert!(text.starts_with(&format!("the method {method} of slm-mesh 0.1.0 is called ")), "{text}");
    }
    // Methods that were not renamed must still work, so that the old session can finish its task.
    assert_eq!(old.call("whoami", json!({}))["result"]["ok"], json!(true));
    assert_eq!(old.call("peers", json!({}))["result"]["ok"], json!(true));
}

#[test]
fn a_guest_that_states_its_origin_the_old_way_is_served_nothing() {
    let place = Place::new();
    let mut old = connect(&place);
    let origin = json!({ "host": "elsewhere", "user": "eve", "chain": [] });
    writeln!(old.stream, "{}", json!({ "jsonrpc": "2.0", "method": "far", "params": origin })).unwrap();
    assert!(error_text(&old.read().unwrap()).contains("restart the session"));
    for (method, params) in
        [("whoami", json!({})), ("send", json!({ "to": "all", "message": "hi" })), ("nonsense", json!({}))]
    {
        old.ask(method, params);
        let answer = old.read().unwrap();
        assert!(error_text(&answer).contains("restart the session"), "{method}: {answer}");
    }
    // The broker must still serve other clients.
    assert_eq!(place.socket().call("peers", json!({}))["result"]["ok"], json!(true));
}
