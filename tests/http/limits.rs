//! Tests the rate limit: 100 messages in 10 seconds for each sender. A client can't avoid this limit by inventing
//! senders.

use super::client::*;
use serde_json::json;

const TOO_FAST: &str = r#"{"ok":false,"error":"Rate limit exceeded (max 100 requests per 10 seconds)"}"#;

fn mail(from: &str, to: &str) -> serde_json::Value {
    json!({ "fromPeer": from, "toPeer": to, "payload": "x" })
}

#[test]
fn the_101st_message_is_answered_with_429() {
    let broker = Broker::start();
    let mut http = broker.http();
    let (a, b) = (http.peer("/p"), http.peer("/p"));
    for n in 0..100 {
        let reply = http.post("/send", &mail(&a, &b));
        assert_eq!(reply.status, 200, "message {n}: {}", reply.text);
    }
    let reply = http.post("/send", &mail(&a, &b));
    assert_eq!((reply.status, reply.text.as_str()), (429, TOO_FAST));
    assert_eq!(http.post("/send", &mail(&a, "all")).status, 429);
    // The limit of one sender does not affect other senders. A refused message is not in the mailbox.
    http.ok("/send", mail(&b, &a));
    http.ok("/heartbeat", json!({ "peerId": a }));
    assert_eq!(http.ok("/messages", json!({ "peerId": b, "limit": -1 }))["messages"].as_array().unwrap().len(), 100);
}

#[test]
fn a_message_to_nobody_counts_too() {
    let broker = Broker::start();
    let mut http = broker.http();
    let (a, b) = (http.peer("/p"), http.peer("/p"));
    for to in ["build-2", "00000000-0000-4000-8000-000000000000"].repeat(50) {
        let reply = http.post("/send", &mail(&a, to));
        assert_eq!((reply.status, &reply.body["ok"]), (200, &json!(false)), "{to}");
    }
    assert_eq!(http.post("/send", &mail(&a, &b)).status, 429);
}

#[test]
fn inventing_senders_does_not_help() {
    let broker = Broker::start();
    let mut http = broker.http();
    let b = http.peer("/p");
    let send = |http: &mut Http, n: usize| {
        let from = format!("{n:08x}-0000-4000-8000-{:012x}", n * 7919);
        http.post("/send", &mail(&from, &b)).status
    };
    let passed = (0..300).filter(|n| send(&mut http, *n) == 200).count();
    assert_eq!(passed, 100, "all inventions together have one budget");
    for from in ["cli", "", " ", "x", "\u{0}"] {
        assert_ne!(http.post("/send", &mail(from, &b)).body["ok"], json!(true), "{from:?}");
    }
    http.ok("/send", mail(&b, &b));
}

#[test]
fn registering_senders_does_not_help_much() {
    let broker = Broker::start();
    let mut http = broker.http();
    let b = http.peer("/p");
    let mut refused = false;
    // Each registered peer may send 100 messages. A client could register again and again to send more, so the broker
    // also limits registrations.
    for _ in 0..150 {
        let reply = http.post("/register", &json!({ "projectPath": "/p", "pid": 1 }));
        refused |= reply.status == 429;
        if let Some(id) = reply.body["peerId"].as_str() {
            http.ok("/unregister", json!({ "peerId": id }));
        }
    }
    assert!(refused, "150 registrations in a moment are taken");
    http.ok("/send", mail(&b, &b));
}

#[test]
fn claiming_to_be_a_session_does_not_spend_its_budget() {
    let broker = Broker::start();
    let mut http = broker.http();
    let b = http.peer("/p");
    let mut session = broker.place.session("codex-mcp-client", "work");
    let me = word(&session.tool("mesh_peers", json!({ "scope": "machine" }))["you"]["id"]);
    // Over HTTP, any client can pretend to be this session. Such messages must not use up the limit of the session's
    // real connection.
    for _ in 0..101 {
        http.post("/send", &mail(&me, &b));
    }
    assert_eq!(http.post("/send", &mail(&me, &b)).status, 429);
    session.tool("mesh_send", json!({ "to": b, "message": "it is me" }));
}

#[test]
fn heartbeats_and_reads_are_free() {
    let broker = Broker::start();
    let mut http = broker.http();
    let a = http.peer("/p");
    for _ in 0..150 {
        http.ok("/heartbeat", json!({ "peerId": a }));
        http.ok("/messages", json!({ "peerId": a }));
    }
    http.ok("/send", mail(&a, &a));
}
