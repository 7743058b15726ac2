//! Tests the successful responses of every HTTP route: their keys, the order of the keys, and the format of times.

use super::client::*;
use serde_json::{Value, json};

const PEER: &str = "id name pid projectPath gitRoot gitBranch agentType summary udsPath startedAt lastHeartbeat status";
const MESSAGE: &str = "id fromPeer toPeer type payload createdAt readAt delivered";
const ENTRY: &str = "key namespace value updatedBy updatedAt";
const LOCK: &str = "filePath lockedBy lockedAt expiresAt reason";
const EVENT: &str = "id type payload emittedBy createdAt";

#[test]
fn health_needs_no_token() {
    let broker = Broker::start();
    let reply = broker.http().token("").get("/health");
    assert_eq!(reply.status, 200);
    assert_starts(&reply.body, "status version uptime");
    assert_eq!(reply.body["status"], json!("ok"));
    assert!(reply.body["uptime"].is_u64(), "{}", reply.text);
    let version = word(&reply.body["version"]);
    assert_eq!(version.split('.').count(), 3, "{version}");
}

#[test]
fn answers_are_compact_json_with_a_length() {
    let broker = Broker::start();
    let mut http = broker.http();
    for reply in [http.get("/status"), http.post("/peers", &json!({})), http.post("/nowhere", &json!({}))] {
        assert!(reply.head.contains("\r\nContent-Type: application/json\r\n"), "{}", reply.head);
        assert_eq!(reply.text, reply.body.to_string(), "as the serialiser writes it, without blanks");
    }
}

#[test]
fn status_counts_what_is_there() {
    let broker = Broker::start();
    let mut http = broker.http();
    let (a, b) = (http.peer("/p"), http.peer("/p"));
    http.ok("/send", json!({ "fromPeer": a, "toPeer": b, "payload": "x" }));
    http.ok("/lock", json!({ "action": "lock", "filePath": "/p/a", "peerId": a }));
    let status = http.get("/status").body;
    assert_starts(&status, "status version uptime pid port peers messages locks events db");
    for (part, wanted) in [
        ("peers", "active stale total"),
        ("messages", "total undelivered"),
        ("locks", "active"),
        ("events", "total"),
        ("db", "sizeBytes walSizeBytes"),
    ] {
        assert_starts(&status[part], wanted);
        assert!(status[part].as_object().unwrap().values().all(Value::is_u64), "{}", status[part]);
    }
    assert!(!keys(&status).contains(&"ok"), "{status}");
    assert_eq!(status["port"], json!(broker.port));
    assert_eq!(status["pid"], json!(broker.place.broker_pid().unwrap()));
    assert_eq!(status["peers"]["active"], json!(2));
    assert_eq!((&status["messages"]["total"], &status["messages"]["undelivered"]), (&json!(1), &json!(1)));
    assert_eq!(status["locks"]["active"], json!(1));
    http.mail(&b);
    assert_eq!(http.get("/status").body["messages"]["undelivered"], json!(0));
}

#[test]
fn a_peer_registers_and_is_listed() {
    let broker = Broker::start();
    let mut http = broker.http();
    let body = http.ok("/register", json!({ "projectPath": "/p", "pid": 4711 }));
    assert_starts(&body, "ok peerId name");
    assert_uuid(&body["peerId"]);
    let id = word(&body["peerId"]);
    assert_eq!(body["name"], json!(format!("peer-{}", &id[..6])));
    assert_eq!(&id[14..15], "4", "a random UUID: {id}");

    let body = http.ok("/peers", json!({}));
    assert_starts(&body, "ok peers");
    let [peer] = &body["peers"].as_array().unwrap()[..] else { panic!("{body}") };
    assert_starts(peer, PEER);
    assert_sqlite(&peer["startedAt"]);
    assert_sqlite(&peer["lastHeartbeat"]);
    for (key, wanted) in [
        ("id", json!(id)),
        ("pid", json!(4711)),
        ("projectPath", json!("/p")),
        ("gitRoot", Value::Null),
        ("gitBranch", Value::Null),
        ("agentType", json!("unknown")),
        ("summary", json!("")),
        ("udsPath", Value::Null),
        ("status", json!("active")),
    ] {
        assert_eq!(peer[key], wanted, "{key}");
    }
    assert_eq!(http.ok("/peers", json!({ "excludeId": id }))["peers"], json!([]));
}

#[test]
fn the_fields_of_a_registration_are_listed() {
    let broker = Broker::start();
    let mut http = broker.http();
    let said = json!({ "projectPath": "/r/sub", "pid": 1, "name": "ann", "gitRoot": "/r", "gitBranch": "main",
        "agentType": "codex", "udsPath": "/nowhere/s", "unknown": [1], "host": 3 });
    let body = http.ok("/register", said.clone());
    assert_eq!(body["name"], json!("ann"));
    let peer = http.ok("/peers", json!({}))["peers"][0].clone();
    for key in ["projectPath", "name", "gitRoot", "gitBranch", "agentType", "udsPath"] {
        assert_eq!(peer[key], said[key], "{key}");
    }
    assert_eq!(http.ok("/summary", json!({ "peerId": body["peerId"], "summary": "sums" })), json!({ "ok": true }));
    assert_eq!(http.ok("/peers", json!({}))["peers"][0]["summary"], json!("sums"));
    assert_eq!(http.ok("/heartbeat", json!({ "peerId": body["peerId"] })), json!({ "ok": true }));
    assert_eq!(http.ok("/unregister", json!({ "peerId": body["peerId"] })), json!({ "ok": true }));
    assert_eq!(http.ok("/unregister", json!({ "peerId": "nobody" })), json!({ "ok": true }));
    assert_eq!(http.ok("/peers", json!({}))["peers"], json!([]));
}

#[test]
fn every_frozen_agent_type_is_accepted() {
    let broker = Broker::start();
    let mut http = broker.http();
    for agent in ["claude-code", "cursor", "aider", "codex", "windsurf", "vscode", "unknown"] {
        http.ok("/register", json!({ "projectPath": "/p", "pid": 1, "agentType": agent }));
        let joined = word(&http.events("peer_joined")[0]["payload"]);
        assert!(joined.contains(&format!("\"agentType\":\"{agent}\"")), "{joined}");
    }
}

#[test]
fn peers_are_listed_by_scope() {
    let broker = Broker::start();
    let mut http = broker.http();
    for (project, root) in [("/r/a", "/r"), ("/r/b", "/r"), ("/q", "/q")] {
        http.ok("/register", json!({ "projectPath": project, "pid": 1, "gitRoot": root }));
    }
    let mut count = |ask: Value| http.ok("/peers", ask)["peers"].as_array().unwrap().len();
    assert_eq!(count(json!({ "scope": "machine" })), 3);
    assert_eq!(count(json!({ "scope": "directory", "projectPath": "/r/a" })), 1);
    assert_eq!(count(json!({ "scope": "repo", "gitRoot": "/r" })), 2);
    // If the scope is unknown, or if the request lacks the directory or the repository that the scope needs, the list
    // contains all peers.
    assert_eq!(count(json!({ "scope": "directory" })), 3);
    assert_eq!(count(json!({ "scope": "repo" })), 3);
    assert_eq!(count(json!({ "scope": "planet", "projectPath": "/r/a" })), 3);
}

#[test]
fn a_message_has_its_keys_and_times() {
    let broker = Broker::start();
    let mut http = broker.http();
    let (a, b) = (http.peer("/p"), http.peer("/p"));
    let sent = http.ok("/send", json!({ "fromPeer": a, "toPeer": b, "payload": "hello", "type": "alert" }));
    assert_eq!(keys(&sent)[..2], ["ok", "messageId"]);
    assert_uuid(&sent["messageId"]);
    let body = http.ok("/messages", json!({ "peerId": b, "filter": "all" }));
    assert_starts(&body, "ok messages");
    let first = &body["messages"][0];
    assert_starts(first, MESSAGE);
    let wanted = json!([sent["messageId"], a, b, "alert", "hello"]);
    assert_eq!(json!([first["id"], first["fromPeer"], first["toPeer"], first["type"], first["payload"]]), wanted);
    assert_iso(&first["createdAt"]);
    assert_eq!(first["readAt"], Value::Null, "as it was before this reading");
    let again = http.ok("/messages", json!({ "peerId": b, "filter": "all" }));
    assert_sqlite(&again["messages"][0]["readAt"]);
    assert_eq!(again["messages"][0]["createdAt"], first["createdAt"]);
}

#[test]
fn state_is_written_read_listed_and_removed() {
    let broker = Broker::start();
    let mut http = broker.http();
    assert_eq!(http.ok("/state", json!({ "action": "get", "key": "k" })), json!({ "ok": true, "entry": null }));
    let body = http.ok("/state", json!({ "action": "set", "key": "k", "value": "v", "peerId": "cli" }));
    assert_starts(&body, "ok entry");
    assert_starts(&body["entry"], ENTRY);
    assert_sqlite(&body["entry"]["updatedAt"]);
    let entry = &body["entry"];
    assert_eq!(
        json!([entry["key"], entry["namespace"], entry["value"], entry["updatedBy"]]),
        json!(["k", "default", "v", "cli"])
    );
    http.ok("/state", json!({ "action": "set", "key": "k", "value": "", "peerId": "cli", "namespace": "other" }));
    assert_eq!(http.ok("/state", json!({ "action": "get", "key": "k" }))["entry"]["value"], json!("v"));
    let body = http.ok("/state", json!({ "action": "list", "namespace": "other" }));
    assert_starts(&body, "ok entries");
    let [entry] = &body["entries"].as_array().unwrap()[..] else { panic!("{body}") };
    assert_starts(entry, ENTRY);
    assert_eq!(entry["value"], json!(""));
    assert_sqlite(&entry["updatedAt"]);
    for _ in 0..2 {
        assert_eq!(http.ok("/state", json!({ "action": "delete", "key": "k" })), json!({ "ok": true }));
    }
    assert_eq!(http.ok("/state", json!({ "action": "get", "key": "k" }))["entry"], Value::Null);
    assert_eq!(
        http.ok("/state", json!({ "action": "list", "namespace": "other" }))["entries"].as_array().unwrap().len(),
        1
    );
}

#[test]
fn a_lock_has_its_keys_and_times() {
    let broker = Broker::start();
    let mut http = broker.http();
    let a = http.peer("/p");
    let body = http.ok("/lock", json!({ "action": "lock", "filePath": "/p/x", "peerId": a, "ttlMinutes": 5 }));
    assert_starts(&body, "ok lock");
    let lock = &body["lock"];
    assert_starts(lock, LOCK);
    assert_eq!(json!([lock["filePath"], lock["lockedBy"], lock["reason"]]), json!(["/p/x", a, ""]));
    assert_iso(&lock["lockedAt"]);
    assert_iso(&lock["expiresAt"]);
    let body = http.ok("/lock", json!({ "action": "query" }));
    assert_starts(&body, "ok locks");
    assert_starts(&body["locks"][0], LOCK);
    assert_eq!(body["locks"][0]["expiresAt"], lock["expiresAt"]);
    assert_eq!(http.ok("/lock", json!({ "action": "query", "filePath": "/p/other" }))["locks"], json!([]));
    assert_eq!(http.ok("/lock", json!({ "action": "unlock", "filePath": "/p/x", "peerId": a })), json!({ "ok": true }));
    assert_eq!(http.ok("/lock", json!({ "action": "query", "filePath": "/p/x" }))["locks"], json!([]));
}

#[test]
fn an_events_payload_is_a_string_that_holds_json() {
    let broker = Broker::start();
    let mut http = broker.http();
    let (a, b) = (http.peer("/p"), http.peer("/q"));
    http.ok("/state", json!({ "action": "set", "key": "k", "value": "v", "peerId": a }));
    http.ok("/lock", json!({ "action": "lock", "filePath": "/p/x", "peerId": a, "reason": "r" }));
    http.ok("/lock", json!({ "action": "unlock", "filePath": "/p/x", "peerId": a }));
    http.ok("/send", json!({ "fromPeer": a, "toPeer": b, "payload": "m" }));
    http.ok("/send", json!({ "fromPeer": a, "toPeer": "all", "payload": "m" }));
    http.ok("/unregister", json!({ "peerId": b }));
    let body = http.ok("/events", json!({}));
    assert_starts(&body, "ok events");
    let wanted = [
        ("peer_left", "peerId reason"),
        ("message_received", "fromPeer toPeer count"),
        ("message_received", "messageId fromPeer toPeer"),
        ("file_unlocked", "filePath unlockedBy"),
        ("file_locked", "filePath lockedBy reason"),
        ("state_changed", "key namespace value"),
        ("peer_joined", "peerId name agentType projectPath"),
        ("peer_joined", "peerId name agentType projectPath"),
    ];
    let events = body["events"].as_array().unwrap();
    assert_eq!(events.len(), wanted.len(), "{body}");
    for (event, (kind, wanted)) in events.iter().zip(wanted) {
        assert_starts(event, EVENT);
        assert_uuid(&event["id"]);
        assert_sqlite(&event["createdAt"]);
        assert_eq!(event["type"], json!(kind), "newest first");
        assert_starts(&serde_json::from_str(&word(&event["payload"])).unwrap(), wanted);
        assert_eq!(event["emittedBy"], json!(if kind == "peer_left" || event == &events[6] { &b } else { &a }));
    }
    assert_eq!(serde_json::from_str::<Value>(&word(&events[1]["payload"])).unwrap()["toPeer"], json!("all"));
    assert_eq!(serde_json::from_str::<Value>(&word(&events[0]["payload"])).unwrap()["reason"], json!("clean_exit"));
}

#[test]
fn events_are_picked_by_type_and_number() {
    let broker = Broker::start();
    let mut http = broker.http();
    let a = http.peer("/p");
    for n in 0..60 {
        http.ok("/state", json!({ "action": "set", "key": "k", "value": n.to_string(), "peerId": a }));
    }
    let mut count = |ask: Value| http.ok("/events", ask)["events"].as_array().unwrap().len();
    assert_eq!(count(json!({})), 50);
    assert_eq!(count(json!({ "action": "read", "limit": 3 })), 3);
    assert_eq!(count(json!({ "limit": 0 })), 0);
    assert_eq!(count(json!({ "limit": -1 })), 61);
    assert_eq!(count(json!({ "limit": 100, "types": ["peer_joined"] })), 1);
    assert_eq!(count(json!({ "limit": 100, "types": ["peer_joined", "state_changed"] })), 61);
    assert_eq!(count(json!({ "limit": 100, "types": [] })), 61, "no types are no filter");
    assert_eq!(count(json!({ "limit": 100, "types": "peer_joined" })), 61, "a wrong type counts as absent");
}

#[test]
fn subscriptions_are_echoed() {
    let broker = Broker::start();
    let mut http = broker.http();
    let types = json!(["file_locked", "*"]);
    let body = http.ok("/events", json!({ "action": "subscribe", "peerId": "anyone", "types": types }));
    assert_starts(&body, "ok subscribed");
    assert_eq!(body["subscribed"], types);
    assert_eq!(http.ok("/events", json!({ "action": "unsubscribe", "peerId": "anyone" })), json!({ "ok": true }));
}
