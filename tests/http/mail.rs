//! Tests messages over HTTP. Fetching a message marks the message as read. `delivered` is true only after the message
//! was delivered.

use super::client::*;
use super::life::named;
use serde_json::{Value, json};

fn all(http: &mut Http, peer: &str) -> Vec<Value> {
    let body = http.ok("/messages", json!({ "peerId": peer, "filter": "all" }));
    body["messages"].as_array().unwrap().clone()
}

#[test]
fn fetching_marks_as_read() {
    let broker = Broker::start();
    let mut http = broker.http();
    let (a, b) = (http.peer("/p"), http.peer("/p"));
    for n in 0..5 {
        http.ok("/send", json!({ "fromPeer": a, "toPeer": b, "payload": n.to_string() }));
    }
    let texts = |mail: &[Value]| mail.iter().map(|m| word(&m["payload"])).collect::<Vec<_>>();
    let first = http.ok("/messages", json!({ "peerId": b, "limit": 2 }));
    assert_eq!(texts(first["messages"].as_array().unwrap()), ["4", "3"], "newest first");
    // The fetch has marked two messages as read. A fetch without a filter returns unread messages. A fetch with an
    // unknown filter returns all messages.
    assert_eq!(texts(&http.mail(&b)), ["2", "1", "0"]);
    assert_eq!(http.mail(&b).len(), 0);
    assert_eq!(
        http.ok("/messages", json!({ "peerId": b, "filter": "whatever" }))["messages"].as_array().unwrap().len(),
        5
    );
    assert_eq!(http.ok("/messages", json!({ "peerId": b, "filter": "all", "limit": 0 }))["messages"], json!([]));
    assert_eq!(
        http.ok("/messages", json!({ "peerId": b, "filter": "all", "limit": -1 }))["messages"]
            .as_array()
            .unwrap()
            .len(),
        5
    );
}

#[test]
fn history_marks_as_read_too() {
    let broker = Broker::start();
    let mut http = broker.http();
    let (a, b) = (http.peer("/p"), http.peer("/p"));
    http.ok("/send", json!({ "fromPeer": a, "toPeer": b, "payload": "x" }));
    assert_eq!(all(&mut http, &b)[0]["readAt"], Value::Null);
    assert_eq!(http.mail(&b).len(), 0);
}

#[test]
fn delivered_is_false_until_the_recipient_has_it() {
    let broker = Broker::start();
    let mut http = broker.http();
    let (a, b) = (http.peer("/p"), http.peer("/p"));
    http.ok("/send", json!({ "fromPeer": a, "toPeer": b, "payload": "x" }));
    assert_eq!(all(&mut http, &b)[0]["delivered"], json!(false), "as it was before this reading");
    assert_eq!(all(&mut http, &b)[0]["delivered"], json!(true));
}

#[test]
fn mail_is_picked_by_its_sender() {
    let broker = Broker::start();
    let mut http = broker.http();
    let (a, b, c) = (http.peer("/p"), http.peer("/p"), http.peer("/p"));
    for from in [&a, &b, &a] {
        http.ok("/send", json!({ "fromPeer": from, "toPeer": c, "payload": from }));
    }
    let body = http.ok("/messages", json!({ "peerId": c, "from": b }));
    assert_eq!(body["messages"].as_array().unwrap().len(), 1);
    assert_eq!(http.mail(&c).len(), 2, "those of others stay unread");
}

#[test]
fn messages_to_oneself_and_from_unregistered_senders_are_accepted() {
    let broker = Broker::start();
    let mut http = broker.http();
    let a = http.peer("/p");
    http.ok("/send", json!({ "fromPeer": a, "toPeer": a, "payload": "note" }));
    http.ok("/send", json!({ "fromPeer": "the build", "toPeer": a.to_uppercase().to_lowercase(), "payload": "red" }));
    let mail = http.mail(&a);
    assert_eq!(json!([mail[0]["fromPeer"], mail[1]["fromPeer"]]), json!(["the build", a]));
}

#[test]
fn the_shell_user_gets_mail_as_cli() {
    let broker = Broker::start();
    let mut http = broker.http();
    let a = http.peer("/p");
    http.ok("/send", json!({ "fromPeer": a, "toPeer": "cli", "payload": "look at this" }));
    assert!(broker.place.ok(&["inbox"]).contains("look at this"));
}

#[test]
fn a_payload_arrives_unchanged() {
    let broker = Broker::start();
    let mut http = broker.http();
    let a = http.peer("/p");
    for payload in
        ["\u{0}\u{1}\u{7f}", "line\nline\r\n", "\"quoted\\\"", "\u{1f980} \u{fffd} \u{2028}", "{\"a\":[1]}", " "]
    {
        for kind in ["text", "json", "command", "alert"] {
            if kind == "json" && serde_json::from_str::<Value>(payload).is_err() {
                continue;
            }
            http.ok("/send", json!({ "fromPeer": a, "toPeer": a, "payload": payload, "type": kind }));
            let mail = http.mail(&a);
            assert_eq!(json!([mail[0]["payload"], mail[0]["type"]]), json!([payload, kind]));
        }
    }
}

#[test]
fn one_full_mailbox_does_not_silence_the_others() {
    // The test sends no heartbeats. With the default SLM_MESH_DEAD_MS, the peers could go offline before the mailbox is
    // full.
    let broker = Broker::with(&[("SLM_MESH_RATE", "1000000"), ("SLM_MESH_DEAD_MS", "3600000")]);
    let mut http = broker.http();
    let (full, other) = (http.peer("/p"), http.peer("/p"));
    let body = json!({ "fromPeer": "cli", "toPeer": full, "payload": "x" }).to_string();
    let ask = format!(
        "POST /send HTTP/1.1\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
        broker.token,
        body.len()
    );
    let refused = (0..300).find_map(|_| {
        http.send(ask.repeat(50));
        let replies: Vec<Reply> = (0..50).map(|_| http.reply().unwrap()).collect();
        replies.into_iter().find(|reply| reply.body["ok"] == json!(false))
    });
    let refused = refused.expect("a mailbox has a bound");
    assert!(refused.text.contains("mailbox"), "{}", refused.text);
    let body = http.ok("/send", json!({ "fromPeer": "cli", "toPeer": "all", "payload": "fire" }));
    assert_eq!(body["messageIds"].as_array().unwrap().len(), 1);
    assert_eq!(http.mail(&other)[0]["payload"], json!("fire"));
}

#[test]
fn a_linked_mesh_cannot_write_to_a_channel_and_is_told_why() {
    let broker = Broker::start();
    let mut http = broker.http();
    let reply = http.post("/mesh/send", &json!({ "to_peer": "#api", "from_peer": "x", "content": "hello" }));
    assert!(reply.text.contains("a channel belongs to a single mesh"), "{}", reply.text);
}

#[test]
fn an_id_means_nothing_but_itself() {
    let broker = Broker::start();
    let mut http = broker.http();
    let (me, named) = (http.peer("/p"), named(&mut http, "build-2"));
    for sender in ["cli", "build", named.as_str()] {
        http.ok("/send", json!({ "fromPeer": sender, "toPeer": me, "payload": sender }));
    }
    // `cli` is the id that the sender gave, and not the person at this machine. `build` is not short for `build-2`.
    for (from, want) in [("cli", vec!["cli"]), ("build", vec!["build"]), ("build-2", vec![]), (&named[..8], vec![])] {
        let found = http.ok("/messages", json!({ "peerId": me, "filter": "all", "from": from }));
        let found: Vec<String> = found["messages"].as_array().unwrap().iter().map(|m| word(&m["payload"])).collect();
        assert_eq!(found, want, "{from}");
    }
    http.refused("/send", json!({ "fromPeer": me, "toPeer": "build-2", "payload": "x" }), "Invalid peer ID format");
}
