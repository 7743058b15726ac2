//! The stream of events to an open page. A slow page must not slow other clients down.

use super::client::*;
use super::page::*;
use super::support::{self, until};
use serde_json::json;

#[test]
fn a_page_gets_everything_and_then_the_changes() {
    let broker = Broker::start();
    let mut session = broker.place.session("codex-mcp-client", "shop");
    let file = broker.place.root.join("shop/a.rs");
    let you = session.tool("mesh_peers", json!({ "scope": "machine" }))["you"].clone();
    session.tool("mesh_state", json!({ "action": "set", "key": "port", "value": "1" }));
    session.tool("mesh_send", json!({ "to": "human", "message": "for you" }));
    session.tool("mesh_lock", json!({ "action": "lock", "filePath": file, "reason": "why" }));
    let mut stream = Page::open(&broker).listen(&broker);
    let all = stream.frame().unwrap();
    assert_eq!(all["hello"]["me"], broker.place.json(&["whoami", "--as", "human"])["you"]["id"]);
    let peer = all["peers"].as_array().unwrap().iter().find(|row| row["id"] == you["id"]).unwrap();
    assert_eq!((&peer["status"], &peer["agentType"]), (&json!("active"), &json!("codex")));
    assert_eq!((&all["locks"][0]["holder"], &all["locks"][0]["reason"]), (&you["name"], &json!("why")));
    assert_eq!((&all["entries"][0]["key"], &all["changes"][0]["type"]), (&json!("port"), &json!("state_changed")));
    assert_eq!(
        (&all["messages"][0]["payload"], &all["messages"][0]["receipt"]),
        (&json!("for you"), &json!("accepted"))
    );
    let seq = all["events"].as_array().unwrap().last().unwrap()["seq"].as_i64().unwrap();
    session.tool("mesh_state", json!({ "action": "set", "key": "port", "value": "2" }));
    let event = stream.until("events", |row| row["seq"].as_i64().unwrap() > seq);
    assert_eq!((&event["type"], &event["payload"]["value"]), (&json!("state_changed"), &json!("2")));
    session.tool("mesh_lock", json!({ "action": "unlock", "filePath": file }));
    stream.until("events", |row| row["type"] == json!("file_unlocked"));
    broker.place.ok(&["inbox", "--as", "human", "--take"]);
    stream.until("messages", |row| row["receipt"] == json!("read"));
    drop(session);
    stream.until("peers", |row| row["id"] == you["id"] && row["status"] == json!("away"));
}

#[test]
fn a_lock_queue_is_shown_without_an_event() {
    let broker = Broker::start();
    let mut stream = Page::open(&broker).listen(&broker);
    let (mut one, mut two) =
        (broker.place.session("codex-mcp-client", "shop"), broker.place.session("claude-code", "shop"));
    let file = broker.place.root.join("shop/a.rs");
    one.tool("mesh_lock", json!({ "action": "lock", "filePath": file }));
    let id = two.ask(
        "tools/call",
        json!({ "name": "mesh_lock", "arguments": { "action": "lock", "filePath": file, "waitSeconds": 60 } }),
    );
    stream.until("locks", |row| row["queue"].as_array().is_some_and(|queue| queue.len() == 1));
    one.tool("mesh_lock", json!({ "action": "unlock", "filePath": file }));
    two.answer(id);
    stream.until("locks", |row| row["queue"] == json!([]) && row["holder"].as_str().unwrap().starts_with("claude"));
}

#[test]
fn a_person_sees_the_text_of_each_message_and_takes_nothing() {
    let broker = Broker::start();
    let page = Page::open(&broker);
    let mut stream = page.listen(&broker);
    let (mut one, mut two) =
        (broker.place.session("codex-mcp-client", "shop"), broker.place.session("claude-code", "shop"));
    let name = word(&two.tool("mesh_peers", json!({ "scope": "machine" }))["you"]["name"]);
    one.tool("mesh_send", json!({ "to": name, "message": "between us" }));
    let row = stream.until("messages", |row| row["toName"] == json!(name));
    assert_eq!((&row["payload"], &row["receipt"]), (&json!("between us"), &json!("accepted")));
    let again = page.listen(&broker).frame().unwrap();
    assert_eq!(again["messages"][0]["receipt"], json!("accepted"), "looking reads nothing: {again}");
    assert_eq!(two.tool("mesh_inbox", json!({}))["messages"][0]["payload"], json!("between us"));
    stream.until("messages", |row| row["receipt"] == json!("read"));
}

#[test]
fn a_page_that_does_not_read_is_dropped_and_others_stay() {
    let broker = Broker::with(&[("SLM_MESH_RATE", "1000000")]);
    let page = Page::open(&broker);
    let (mut slow, mut quick) = (page.listen(&broker), page.listen(&broker));
    let mut socket = broker.place.socket();
    let value = "x".repeat(4000);
    // Together, these events are larger than all buffers of the page and of the kernel.
    for n in 0..4000 {
        socket.ask("state.set", json!({ "as": "human", "key": "k", "value": value }));
        socket.read();
        if n % 100 == 99 {
            quick.until("events", |row| row["payload"]["version"] == json!(n + 1));
        }
    }
    // The slow page can still read what was already sent, but its stream must end before the last change.
    let mut heard = 0;
    while let Some(frame) = slow.frame() {
        let rows = frame["events"].as_array().cloned().unwrap_or_default();
        heard = rows.iter().filter_map(|row| row["payload"]["version"].as_i64()).fold(heard, i64::max);
    }
    assert!(heard < 4000, "it was waited for");
    socket.call("state.set", json!({ "as": "human", "key": "k", "value": "last" }));
    quick.until("events", |row| row["payload"]["value"] == json!("last"));
    assert!(page.listen(&broker).frame().unwrap()["hello"].is_object(), "and it may come back");
}

#[test]
fn an_open_page_needs_the_broker_and_a_closed_one_does_not() {
    let place = support::Place::new().with("SLM_MESH_IDLE_TIMEOUT", "1000");
    let broker = Broker::over(place);
    // At first, this client keeps the broker running. Later, only the page keeps it running.
    let client = broker.place.socket();
    let page = Page::open(&broker);
    let mut stream = page.listen(&broker);
    stream.frame().unwrap();
    drop(client);
    stream.lines.get_ref().set_read_timeout(Some(std::time::Duration::from_millis(2500))).unwrap();
    let end = std::io::copy(&mut stream.lines, &mut std::io::sink()).map_err(|error| error.kind());
    assert_eq!(end, Err(std::io::ErrorKind::WouldBlock), "the broker ended while the page was open");
    drop(stream);
    until("the broker ends", || !broker.place.dir.join("mesh.sock").exists());
}

#[test]
fn pages_are_bounded_and_end_with_the_broker() {
    let mut broker = Broker::start();
    let page = Page::open(&broker);
    let mut open: Vec<Stream> = (0..16).map(|_| page.listen(&broker)).collect();
    open.iter_mut().for_each(|stream| assert!(stream.frame().is_some()));
    assert_eq!(bare(&broker).ask("POST", "/web/events", &page.headers(), b"{}").status, 503);
    open.pop();
    until("there is room again", || page.listen(&broker).head.starts_with("HTTP/1.1 200"));
    broker.end(rustix::process::Signal::TERM);
    for stream in &mut open {
        while stream.frame().is_some() {}
    }
}
