//! Tests the errors of every HTTP route. Clients compare the texts of these errors, so the texts must not change.

use super::client::*;
use serde_json::{Value, json};

#[test]
fn missing_fields_are_named() {
    let broker = Broker::start();
    let mut http = broker.http();
    let id = http.peer("/p");
    let required = "fromPeer, toPeer, and payload are required";
    for (target, body, sentence) in [
        ("/register", json!({}), "projectPath and pid are required"),
        ("/register", json!({ "projectPath": "/p" }), "projectPath and pid are required"),
        ("/register", json!({ "pid": 1 }), "projectPath and pid are required"),
        ("/register", json!({ "pid": "1", "projectPath": "/p" }), "projectPath and pid are required"),
        ("/register", json!({ "pid": 1, "projectPath": "" }), "projectPath and pid are required"),
        ("/unregister", json!({}), "peerId is required"),
        ("/unregister", json!({ "peerId": "" }), "peerId is required"),
        ("/unregister", json!({ "peerId": 7 }), "peerId is required"),
        ("/heartbeat", json!({}), "peerId is required"),
        ("/heartbeat", json!({ "peerId": "00000000-0000-4000-8000-000000000000" }), "Peer not found"),
        ("/summary", json!({ "peerId": id }), "peerId and summary are required"),
        ("/summary", json!({ "summary": "" }), "peerId and summary are required"),
        ("/summary", json!({ "peerId": "x", "summary": "" }), "Peer not found"),
        ("/send", json!({ "toPeer": id, "payload": "x" }), required),
        ("/send", json!({ "fromPeer": id, "payload": "x" }), required),
        ("/send", json!({ "fromPeer": id, "toPeer": id }), required),
        ("/send", json!({ "fromPeer": id, "toPeer": id, "payload": "" }), required),
        ("/send", json!({ "fromPeer": id, "toPeer": id, "payload": {} }), required),
        ("/send", json!({ "fromPeer": id, "toPeer": "bob", "payload": "x" }), "Invalid peer ID format"),
        (
            "/send",
            json!({ "fromPeer": id, "toPeer": "00000000-0000-1000-0000-000000000000", "payload": "x" }),
            "Peer not found or inactive",
        ),
        ("/messages", json!({}), "peerId is required"),
        ("/state", json!({}), "action is required"),
        ("/state", json!({ "action": "" }), "action is required"),
        ("/state", json!({ "action": "swap" }), "Unknown action: swap"),
        ("/state", json!({ "action": "get" }), "key is required for get"),
        ("/state", json!({ "action": "delete" }), "key is required for delete"),
        ("/state", json!({ "action": "set", "key": "k", "value": "v" }), "key, value, and peerId are required for set"),
        (
            "/state",
            json!({ "action": "set", "key": "", "value": "v", "peerId": "a" }),
            "key, value, and peerId are required for set",
        ),
        (
            "/state",
            json!({ "action": "set", "key": "k", "value": 1, "peerId": "a" }),
            "key, value, and peerId are required for set",
        ),
        ("/lock", json!({}), "action is required"),
        ("/lock", json!({ "action": "acquire" }), "Unknown action: acquire"),
        ("/lock", json!({ "action": "lock", "filePath": "/x" }), "filePath and peerId are required for lock"),
        ("/lock", json!({ "action": "lock", "peerId": "a" }), "filePath and peerId are required for lock"),
        ("/lock", json!({ "action": "unlock", "peerId": "a" }), "filePath and peerId are required for unlock"),
        ("/lock", json!({ "action": "unlock", "filePath": "/x", "peerId": "a" }), "Lock not found or not owned by you"),
        ("/events", json!({ "action": "emit" }), "Unknown action: emit"),
        ("/events", json!({ "action": "subscribe", "types": [] }), "peerId is required for subscribe"),
        ("/events", json!({ "action": "subscribe", "peerId": "a" }), "types array is required for subscribe"),
        ("/events", json!({ "action": "unsubscribe" }), "peerId is required for unsubscribe"),
    ] {
        http.refused(target, body, sentence);
    }
    // The refused requests have changed nothing.
    assert_eq!(http.ok("/lock", json!({ "action": "query" }))["locks"], json!([]));
    assert_eq!(http.ok("/peers", json!({}))["peers"].as_array().unwrap().len(), 1);
}

#[test]
fn an_unknown_word_is_refused_with_a_sentence() {
    let broker = Broker::start();
    let mut http = broker.http();
    let id = http.peer("/p");
    for (target, body, word) in [
        ("/register", json!({ "projectPath": "/p", "pid": 1, "agentType": "toaster" }), "claude-code"),
        ("/send", json!({ "fromPeer": id, "toPeer": id, "payload": "x", "type": "parcel" }), "command"),
    ] {
        let reply = http.post(target, &body);
        assert_eq!((reply.status, &reply.body["ok"]), (200, &json!(false)), "{}", reply.text);
        assert!(reply.body["error"].as_str().unwrap().contains(word), "says what would be right: {}", reply.text);
    }
    assert_eq!(http.mail(&id).len(), 0);
}

#[test]
fn no_number_breaks_a_route() {
    let broker = Broker::start();
    let mut http = broker.http();
    let id = http.peer("/p");
    http.ok("/send", json!({ "fromPeer": id, "toPeer": id, "payload": "x" }));
    for n in ["0", "-1", "-0.5", "0.5", "1e308", "-1e308", "9223372036854775807", "18446744073709551616"] {
        for (target, body) in [
            ("/messages", format!(r#"{{"peerId":"{id}","filter":"all","limit":{n}}}"#)),
            ("/events", format!(r#"{{"limit":{n}}}"#)),
            ("/lock", format!(r#"{{"action":"lock","filePath":"/n","peerId":"{id}","ttlMinutes":{n}}}"#)),
            ("/register", format!(r#"{{"projectPath":"/p","pid":{n}}}"#)),
        ] {
            let reply = http.ask("POST", target, "", body.as_bytes());
            assert_eq!((reply.status, &reply.body["ok"]), (200, &json!(true)), "{target} {body}: {}", reply.text);
        }
    }
    assert_eq!(http.ask("POST", "/events", "", br#"{"limit":1e999}"#).status, 400, "no number of JSON");
}

#[test]
fn sizes_are_bounded_in_the_frozen_units() {
    let broker = Broker::start();
    let mut http = broker.http();
    let id = http.peer("/p");
    // The limit counts UTF-16 units. This emoji has two units.
    http.ok("/summary", json!({ "peerId": id, "summary": "\u{1f980}".repeat(1250) }));
    let long = json!({ "peerId": id, "summary": "\u{1f980}".repeat(1251) });
    http.refused("/summary", long, "Summary too long (max 2500 characters)");
    http.ok("/summary", json!({ "peerId": id, "summary": "" }));
    // The limit counts UTF-8 bytes. The letter é has two bytes.
    let mail = |payload: String| json!({ "fromPeer": id, "toPeer": id, "payload": payload });
    http.ok("/send", mail("\u{e9}".repeat(32_768)));
    http.refused("/send", mail("\u{e9}".repeat(32_768) + "x"), "Payload too large (max 65536 bytes)");
    assert_eq!(http.mail(&id)[0]["payload"].as_str().unwrap().len(), 65_536);
}

#[test]
fn fields_without_a_frozen_bound_have_one_too() {
    let broker = Broker::start();
    let mut http = broker.http();
    let long = "x".repeat(70_000);
    for (target, body) in [
        ("/register", json!({ "projectPath": long, "pid": 1 })),
        ("/register", json!({ "projectPath": "/p", "pid": 1, "name": long })),
        ("/register", json!({ "projectPath": "/p", "pid": 1, "udsPath": long })),
        ("/register", json!({ "projectPath": "/p", "pid": 1, "gitBranch": long })),
        ("/state", json!({ "action": "set", "key": long, "value": "v", "peerId": "a" })),
        ("/state", json!({ "action": "set", "key": "k", "value": long, "peerId": "a" })),
        ("/state", json!({ "action": "list", "namespace": long })),
        ("/lock", json!({ "action": "lock", "filePath": long, "peerId": "a" })),
        ("/lock", json!({ "action": "lock", "filePath": "/x", "peerId": long })),
        ("/lock", json!({ "action": "lock", "filePath": "/x", "peerId": "a", "reason": long })),
        ("/events", json!({ "action": "subscribe", "peerId": long, "types": ["*"] })),
        ("/events", json!({ "action": "subscribe", "peerId": "a", "types": [long] })),
    ] {
        let reply = http.post(target, &body);
        let keys: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!((reply.status, &reply.body["ok"]), (200, &json!(false)), "{target} {keys:?}: {:.200}", reply.text);
        let sentence = reply.body["error"].as_str().unwrap();
        assert!(sentence.contains(" bytes") && sentence.len() < 200, "{target} {keys:?}: {sentence:.200}");
    }
    let reply = http.post("/state", &json!({ "action": long }));
    assert!(reply.text.len() < 300, "a refusal does not echo what was too long");
    assert_eq!(http.ok("/peers", json!({}))["peers"], json!([]));
}

#[test]
fn unknown_fields_are_ignored() {
    let broker = Broker::start();
    let mut http = broker.http();
    let body =
        br#"{"projectPath":"/p","pid":1,"pid":2,"Name":"x","name":null,"gitRoot":7,"udsPath":[],"agentType":{}}"#;
    let reply = http.ask("POST", "/register", "Content-Type: text/plain\r\n", body);
    assert_eq!(reply.body["ok"], json!(true), "{}", reply.text);
    let peer = &http.ok("/peers", json!({ "scope": 3, "excludeId": 4 }))["peers"][0];
    assert_eq!(peer["pid"], json!(2));
    assert_eq!(
        json!([peer["gitRoot"], peer["udsPath"], peer["agentType"]]),
        json!([Value::Null, Value::Null, "unknown"])
    );
    assert!(word(&peer["name"]).starts_with("peer-"));
}
