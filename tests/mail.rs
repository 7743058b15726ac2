//! Messages and events between several processes: unread messages, messages that are offered twice, receipts, and calls
//! that wait for a message or an event.

mod support;

use rusqlite::Connection;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use support::{Place, Session, Socket, until};

const CODEX: &str = "codex-mcp-client";

/// A connection to the broker's socket, attached as a peer. Unlike a real session, this peer does not report by itself
/// which messages it has read.
fn peer(place: &Place, name: &str) -> Socket {
    if place.broker_pid().is_none() {
        place.ok(&["start", "--detach"]);
    }
    let mut socket = place.socket();
    let attached =
        socket.call("attach", json!({ "name": name, "agent": "codex", "project": place.root.join(name), "pid": 1 }));
    assert_eq!(attached["result"]["you"]["name"], json!(name), "{attached}");
    socket
}

/// Makes a call that must succeed.
fn ok(socket: &mut Socket, method: &str, params: Value) -> Value {
    let answer = socket.call(method, params);
    assert_eq!(answer["result"]["ok"], json!(true), "{answer}");
    answer["result"].clone()
}

fn texts(inbox: &Value) -> Vec<&str> {
    inbox["messages"].as_array().unwrap().iter().map(|message| message["payload"].as_str().unwrap()).collect()
}

/// The receipts of all messages that this peer has sent, oldest first.
fn receipts(socket: &mut Socket) -> Vec<String> {
    let sent = ok(socket, "inbox", json!({ "filter": "sent" }));
    sent["messages"].as_array().unwrap().iter().map(|row| row["receipt"].as_str().unwrap().to_owned()).collect()
}

/// Whether exactly `n` calls are waiting in the broker.
fn waits(watcher: &mut Socket, n: i64) -> bool {
    watcher.call("status", json!({}))["result"]["waiting"] == json!(n)
}

/// Reads from a connection until the answer to an earlier call arrives.
fn answer(socket: &mut Socket, id: i64) -> Value {
    loop {
        let value = socket.read().expect("the broker hung up");
        if value["id"] == json!(id) {
            return value["result"].clone();
        }
    }
}

#[test]
fn mail_waits_for_a_peer_that_is_away_also_over_a_stop() {
    let place = Place::new();
    let mut away = place.session(CODEX, "api");
    away.tool("mesh_status", json!({}));
    away.close();
    let mut one = peer(&place, "one");
    until("it is away", || ok(&mut one, "peers", json!({ "scope": "machine" }))["peers"] == json!([]));
    for text in ["first", "second", "third"] {
        let sent = ok(&mut one, "send", json!({ "to": "codex-api", "message": text }));
        assert_eq!(sent["recipients"][0]["here"], json!(false));
        assert_eq!(sent["recipients"][0]["receipt"], json!("accepted"));
    }
    place.ok(&["stop"]);
    let mut back = place.session(CODEX, "api");
    let inbox = back.tool("mesh_inbox", json!({ "limit": 2 }));
    assert_eq!(texts(&inbox), ["first", "second"], "oldest first");
    assert_eq!(inbox["remaining"], json!(1));
    assert_eq!(texts(&back.tool("mesh_inbox", json!({}))), ["third"]);
}

#[test]
fn what_was_offered_and_not_written_out_is_offered_again() {
    let place = Place::new();
    let (mut one, mut two) = (peer(&place, "one"), peer(&place, "two"));
    ok(&mut one, "send", json!({ "to": "two", "message": "hello" }));
    assert_eq!(receipts(&mut one), ["accepted"]);
    let first = ok(&mut two, "inbox", json!({}));
    assert_eq!((texts(&first), first["messages"][0].get("redelivered")), (vec!["hello"], None));
    assert_eq!(receipts(&mut one), ["offered"], "a handed answer is not yet a read one");
    // The peer loses its connection before it reports the message as shown, and then connects again.
    drop(two);
    until("it is away", || ok(&mut one, "peers", json!({ "scope": "machine" }))["peers"] == json!([]));
    let mut two = peer(&place, "two");
    let again = ok(&mut two, "inbox", json!({}));
    assert_eq!(again["messages"][0]["redelivered"], json!(true), "{again}");
    ok(&mut two, "inbox.mark_read", json!({ "items": [again["messages"][0]["id"]] }));
    assert_eq!(receipts(&mut one), ["read"]);
    assert_eq!(ok(&mut two, "inbox", json!({}))["messages"], json!([]));
    assert_eq!(texts(&ok(&mut two, "inbox", json!({ "filter": "all" }))), ["hello"]);
}

#[test]
fn receipts_say_how_far_each_message_got() {
    let place = Place::new();
    let mut one = peer(&place, "one");
    let mut reader = place.session(CODEX, "api");
    reader.tool("mesh_status", json!({}));
    for text in ["answered", "acknowledged", "only read", "not read"] {
        ok(&mut one, "send", json!({ "to": "codex-api", "message": text }));
    }
    let inbox = reader.tool("mesh_inbox", json!({ "limit": 3 }));
    until("the session tells what it wrote out", || receipts(&mut one) == ["read", "read", "read", "accepted"]);
    let id = |n: usize| inbox["messages"][n]["id"].clone();
    reader.tool("mesh_send", json!({ "to": "one", "message": "yes", "replyTo": id(0) }));
    reader.tool("mesh_summary", json!({ "summary": "reading" }));
    place.ok(&["inbox", "--as", "codex-api", "--ack", id(1).as_str().unwrap(), "--filter", "sent"]);
    assert_eq!(receipts(&mut one), ["acked", "acked", "read", "accepted"]);
    let reply = ok(&mut one, "inbox", json!({}))["messages"][0].clone();
    assert_eq!((&reply["replyTo"], &reply["fromName"]), (&id(0), &json!("codex-api")));
    let refused = one.call("inbox", json!({ "ack": [id(0)] }));
    assert_eq!(refused["error"]["data"]["kind"], json!("refused"), "only its recipient acknowledges: {refused}");
}

#[test]
fn a_session_killed_before_it_read_finds_its_mail_when_it_comes_back() {
    let place = Place::new();
    let mut one = peer(&place, "one");
    for round in 0..3 {
        let mut session = place.session(CODEX, "api");
        session.tool("mesh_status", json!({}));
        if round == 0 {
            ok(&mut one, "send", json!({ "to": "codex-api", "message": "hello" }));
        }
        // The session is killed right after the request. If it wrote an answer, nobody reads the answer.
        session.ask("tools/call", json!({ "name": "mesh_inbox", "arguments": {} }));
        session.child.kill().unwrap();
        session.child.wait().unwrap();
    }
    let receipt = receipts(&mut one).remove(0);
    let mut session = place.session(CODEX, "api");
    let inbox = session.tool("mesh_inbox", json!({}));
    assert!(texts(&inbox) == ["hello"] || receipt == "read", "neither shown nor kept: {receipt} {inbox}");
}

#[test]
fn an_expired_message_cannot_be_read() {
    let place = Place::new();
    let mut one = peer(&place, "one");
    drop(peer(&place, "two"));
    ok(&mut one, "send", json!({ "to": "two", "message": "lunch?", "expiresMinutes": 30 }));
    ok(&mut one, "send", json!({ "to": "two", "message": "still true" }));
    drop(one);
    place.ok(&["stop"]);
    // Sets the time of expiry to the past, as if half an hour had passed.
    let db = Connection::open(place.dir.join("broker.db")).unwrap();
    assert_eq!(db.execute("UPDATE message SET expires = created + 1 WHERE expires IS NOT NULL", []).unwrap(), 1);
    drop(db);
    let mut two = peer(&place, "two");
    assert_eq!(texts(&ok(&mut two, "inbox", json!({}))), ["still true"]);
    let mut one = peer(&place, "one");
    assert_eq!(receipts(&mut one), ["expired", "offered"]);
}

#[test]
fn the_same_key_sends_once_also_over_a_killed_broker() {
    let place = Place::new();
    let mut one = peer(&place, "one");
    drop(peer(&place, "two"));
    let ask = json!({ "to": "two", "message": "deploy", "key": "deploy-7" });
    let first = ok(&mut one, "send", ask.clone());
    let second = ok(&mut one, "send", ask.clone());
    assert_eq!((&second["messageId"], &second["repeated"]), (&first["messageId"], &json!(true)));
    let pid = place.broker_pid().unwrap();
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    until("it is dead", || !support::lives(pid));
    place.ok(&["peers"]);
    let mut one = peer(&place, "one");
    assert_eq!(ok(&mut one, "send", ask)["messageId"], first["messageId"]);
    let mut two = peer(&place, "two");
    assert_eq!(texts(&ok(&mut two, "inbox", json!({}))), ["deploy"]);
}

#[test]
fn a_message_to_a_group_reaches_its_members() {
    let place = Place::new();
    std::fs::create_dir_all(place.root.join("repo/.git")).unwrap();
    std::fs::write(place.root.join("repo/.git/HEAD"), "ref: refs/heads/main\n").unwrap();
    let started = [("claude-code", "repo"), (CODEX, "repo"), (CODEX, "repo/src"), ("opencode", "apart")];
    let mut sessions: Vec<Session> = started.iter().map(|(client, folder)| place.session(client, folder)).collect();
    for session in &mut sessions {
        session.tool("mesh_status", json!({}));
    }
    let user = place.json(&["whoami", "--as", "human"])["you"]["name"].as_str().unwrap().to_owned();
    for (to, want) in [
        ("repo", vec!["codex-repo", "codex-src"]),
        ("directory", vec!["codex-repo"]),
        ("agent:codex", vec!["codex-repo", "codex-src"]),
        ("agent:nobody", vec![]),
        ("all", vec!["codex-repo", "codex-src", "opencode-apart", &user]),
        ("opencode", vec!["opencode-apart"]),
    ] {
        let sent = sessions[0].tool("mesh_send", json!({ "to": to, "message": format!("to {to}") }));
        let names = sent["recipients"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap());
        let mut names: Vec<&str> = names.collect();
        names.sort_unstable();
        let mut want = want;
        want.sort_unstable();
        assert_eq!(names, want, "{to}");
    }
    assert_eq!(texts(&sessions[2].tool("mesh_inbox", json!({}))), ["to repo", "to agent:codex", "to all"]);
    // The groups `repo` and `directory` depend on the directory in which the human runs the command.
    for (to, folder, want) in [
        ("repo", "repo/src", &["claude-repo", "codex-repo", "codex-src"][..]),
        ("directory", "repo/src", &["codex-src"]),
        ("directory", "apart", &["opencode-apart"]),
        ("repo", "apart", &[]),
    ] {
        let mut command = place.command(&["send", to, "from the human", "--as", "human", "--json"]);
        let out = command.current_dir(place.root.join(folder)).output().unwrap();
        let sent: Value = serde_json::from_slice(&out.stdout).unwrap();
        let names: Vec<_> = sent["recipients"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
        assert_eq!(names, want, "{to} in {folder}");
    }
    let (error, is_error) = sessions[0].try_tool("mesh_send", json!({ "to": "codex", "message": "which?" }));
    assert!(is_error && error["kind"] == json!("ambiguous"), "{error}");
}

#[test]
fn a_waiting_inbox_gets_the_message_as_it_comes_and_ends_in_time_without_one() {
    let place = Place::new();
    let mut one = peer(&place, "one");
    let mut session = place.session(CODEX, "api");
    assert_eq!(session.tool("mesh_inbox", json!({ "waitSeconds": 1 }))["messages"], json!([]));
    let id = session.ask("tools/call", json!({ "name": "mesh_inbox", "arguments": { "waitSeconds": 60 } }));
    until("it waits", || waits(&mut one, 1));
    // While one call of a session waits, the session must answer other calls.
    session.tool("mesh_status", json!({}));
    ok(&mut one, "send", json!({ "to": "codex-api", "message": "now" }));
    let answered = session.answer(id);
    assert_eq!(texts(&Session::content(&answered).0), ["now"]);
}

#[test]
fn a_cancelled_wait_takes_no_message_with_it() {
    let place = Place::new();
    let mut one = peer(&place, "one");
    let mut session = place.session(CODEX, "api");
    session.tool("mesh_status", json!({}));
    let id = session.ask("tools/call", json!({ "name": "mesh_inbox", "arguments": { "waitSeconds": 60 } }));
    until("it waits", || waits(&mut one, 1));
    session.send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } }));
    until("it waits no more", || waits(&mut one, 0));
    ok(&mut one, "send", json!({ "to": "codex-api", "message": "kept" }));
    assert_eq!(receipts(&mut one), ["accepted"]);
    assert_eq!(texts(&session.tool("mesh_inbox", json!({}))), ["kept"]);
}

#[test]
fn every_result_tells_of_mail_that_waits() {
    let place = Place::new();
    let mut one = peer(&place, "one");
    let mut session = place.session(CODEX, "api");
    assert_eq!(session.tool("mesh_status", json!({})).get("mail"), None);
    ok(&mut one, "send", json!({ "to": "codex-api", "message": "a" }));
    ok(&mut one, "send", json!({ "to": "codex-api", "message": "b" }));
    for (tool, arguments) in [
        ("mesh_status", json!({})),
        ("mesh_state", json!({ "action": "list" })),
        ("mesh_lock", json!({ "action": "query" })),
        ("mesh_peers", json!({ "scope": "machine" })),
    ] {
        assert_eq!(session.tool(tool, arguments)["mail"], json!({ "unread": 2, "from": ["one"] }), "{tool}");
    }
}

#[test]
fn a_long_message_comes_in_parts_that_fit_a_result() {
    let place = Place::new();
    let mut one = peer(&place, "one");
    let mut session = place.session(CODEX, "api");
    session.tool("mesh_status", json!({}));
    let text: String = (0..6000).map(|n| format!("{n:05} \"é\"\n")).collect();
    let text = &text[..text.char_indices().map(|(at, _)| at).take_while(|at| *at < 64 * 1024 - 4).last().unwrap()];
    ok(&mut one, "send", json!({ "to": "codex-api", "message": text }));
    let mut whole = String::new();
    for n in 1.. {
        let answer = session.request("tools/call", json!({ "name": "mesh_inbox", "arguments": {} }));
        let length = answer["result"]["content"][0]["text"].as_str().unwrap().len();
        assert!(length <= 24 * 1024, "part {n} has {length} bytes");
        let (part, _) = Session::content(&answer);
        let message = &part["messages"][0];
        assert_eq!(message["part"], json!(n));
        whole.push_str(message["payload"].as_str().unwrap());
        if message["part"] == message["parts"] {
            break;
        }
    }
    assert_eq!(whole, text);
    until("it counts as read", || receipts(&mut one) == ["read"]);
}

#[test]
fn a_sender_over_the_rate_limit_is_refused_and_can_still_read() {
    let place = Place::new().with("SLM_MESH_RATE", "5");
    let mut one = peer(&place, "one");
    for _ in 0..5 {
        ok(&mut one, "send", json!({ "to": "human", "message": "x" }));
    }
    let refused = one.call("send", json!({ "to": "human", "message": "x" }));
    assert_eq!(refused["error"]["data"]["kind"], json!("limited"), "{refused}");
    for word in ["one", "5", "SLM_MESH_RATE"] {
        assert!(refused["error"]["message"].as_str().unwrap().contains(word), "{refused}");
    }
    ok(&mut one, "inbox", json!({}));
    ok(&mut peer(&place, "two"), "send", json!({ "to": "human", "message": "not my error" }));
}

#[test]
fn events_follow_a_cursor_and_a_gap_is_said() {
    let place = Place::new();
    let mut one = peer(&place, "one");
    let start = ok(&mut one, "events.emit", json!({ "type": "build.start" }))["seq"].clone();
    ok(&mut one, "state.set", json!({ "key": "port", "value": "8080" }));
    ok(&mut one, "events.emit", json!({ "type": "build.done", "payload": { "ok": true } }));
    let read = ok(&mut one, "events.read", json!({ "after": start }));
    let kinds: Vec<&Value> = read["events"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
    assert_eq!(kinds, ["state_changed", "build.done"]);
    assert_eq!((&read["gap"], &read["events"][1]["payload"]), (&json!(false), &json!({ "ok": true })));
    let custom = ok(&mut one, "events.read", json!({ "after": 0, "types": ["build.done", "build.start"], "limit": 1 }));
    assert_eq!((&custom["events"][0]["type"], &custom["more"]), (&json!("build.start"), &json!(true)));
    let rest = json!({ "after": custom["seq"], "types": ["build.done", "build.start"] });
    assert_eq!(ok(&mut one, "events.read", rest)["events"][0]["type"], json!("build.done"));
    for kind in ["build", ".build", "build.", "a b.c"] {
        assert_eq!(one.call("events.emit", json!({ "type": kind }))["error"]["code"], json!(-32602), "{kind}");
    }
    drop(one);
    place.ok(&["stop"]);
    let db = Connection::open(place.dir.join("broker.db")).unwrap();
    db.execute("DELETE FROM event WHERE seq <= ?1", [start.as_i64().unwrap()]).unwrap();
    drop(db);
    let mut one = peer(&place, "one");
    assert_eq!(ok(&mut one, "events.read", json!({ "after": 0 }))["gap"], json!(true));
    assert_eq!(ok(&mut one, "events.read", json!({ "after": start }))["gap"], json!(false));
}

#[test]
fn a_waiting_event_call_gets_the_event_as_it_comes_and_ends_in_time_without_one() {
    let place = Place::new();
    let (mut one, mut two) = (peer(&place, "one"), peer(&place, "two"));
    let empty = ok(&mut one, "events.read", json!({ "types": ["build.done"], "waitSeconds": 1 }));
    assert_eq!(empty["events"], json!([]));
    let id = one.ask("events.read", json!({ "types": ["build.done"], "waitSeconds": 60 }));
    until("it waits", || waits(&mut two, 1));
    ok(&mut two, "events.emit", json!({ "type": "build.start" }));
    ok(&mut two, "events.emit", json!({ "type": "build.done" }));
    let read = answer(&mut one, id);
    let kinds: Vec<&Value> = read["events"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
    assert_eq!(kinds, ["build.done"]);
    assert_eq!(ok(&mut one, "events.read", json!({ "after": read["seq"] }))["events"], json!([]), "no event twice");
}

#[test]
fn a_subscription_filters_what_is_pushed_and_says_where_the_stream_stands() {
    let place = Place::new();
    let (mut listener, mut one) = (peer(&place, "listener"), peer(&place, "one"));
    let seq = ok(&mut listener, "events.subscribe", json!({ "types": ["file_locked", "build.done"] }))["seq"].clone();
    ok(&mut one, "state.set", json!({ "key": "k", "value": "v" }));
    ok(&mut one, "lock.lock", json!({ "filePath": "/p/a" }));
    ok(&mut one, "events.emit", json!({ "type": "build.done" }));
    let pushed: Vec<Value> = (0..2).map(|_| listener.read().unwrap()).collect();
    let kinds: Vec<&Value> = pushed.iter().map(|push| &push["params"]["type"]).collect();
    assert_eq!(kinds, ["file_locked", "build.done"]);
    assert!(pushed.iter().all(|push| push["method"] == json!("event") && push.get("id").is_none()));
    let read = ok(&mut listener, "events.read", json!({ "after": seq, "types": ["file_locked", "build.done"] }));
    assert_eq!(read["events"][0]["seq"], pushed[0]["params"]["seq"], "no event is lost between list and subscribe");
    ok(&mut listener, "events.unsubscribe", json!({}));
    ok(&mut one, "events.emit", json!({ "type": "build.done" }));
    ok(&mut one, "send", json!({ "to": "listener", "message": "direct" }));
    let next = listener.read().unwrap();
    assert_eq!(next["method"], json!("message"), "no event after the end of the subscription: {next}");
    assert_eq!(next["params"]["fromName"], json!("one"));
}

#[test]
fn what_happens_to_a_peer_is_an_event_for_the_others() {
    let place = Place::new();
    let mut one = peer(&place, "one");
    let seq = ok(&mut one, "events.subscribe", json!({ "types": [] }))["seq"].clone();
    let mut session = place.session(CODEX, "api");
    session.tool("mesh_summary", json!({ "summary": "parsing" }));
    session.tool("mesh_lock", json!({ "action": "lock", "filePath": "/p/a" }));
    session.tool("mesh_send", json!({ "to": "one", "message": "hi" }));
    session.close();
    until("it left", || ok(&mut one, "peers", json!({ "scope": "machine" }))["peers"] == json!([]));
    let read = ok(&mut one, "events.read", json!({ "after": seq }));
    let kinds: Vec<&str> =
        read["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    let want = ["peer_joined", "peer_updated", "file_locked", "message_received", "peer_left", "file_unlocked"];
    assert_eq!(kinds, want);
}

#[test]
fn a_person_who_looks_at_an_agents_mail_takes_nothing() {
    let place = Place::new();
    let mut one = peer(&place, "one");
    let mut reader = place.session(CODEX, "api");
    reader.tool("mesh_status", json!({}));
    // This message is too long to be shown to an agent in one answer.
    let long = "long ".repeat(13_000);
    for text in ["first", &long] {
        ok(&mut one, "send", json!({ "to": "codex-api", "message": text }));
    }
    for look in [&["inbox", "--as", "codex-api"][..], &["inbox", "--as", "codex-api", "--filter", "all"]] {
        let shown = place.ok(look);
        assert!(shown.contains("first") && shown.contains(long.trim_end()), "{shown:.300}");
        assert_eq!(place.json(look)["messages"].as_array().unwrap().len(), 2);
        assert_eq!(receipts(&mut one), ["accepted", "accepted"], "{look:?}");
    }
    let mut follower =
        place.command(&["inbox", "--as", "codex-api", "--follow"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.by_ref().take(4).filter(|line| line.trim() == "first").count(), 1, "it shows each once");
    ok(&mut one, "send", json!({ "to": "codex-api", "message": "third" }));
    assert!(lines.nth(1).unwrap().trim() == "third");
    follower.kill().unwrap();
    follower.wait().unwrap();
    assert_eq!(receipts(&mut one), ["accepted"; 3]);
    assert_eq!(texts(&reader.tool("mesh_inbox", json!({ "limit": 1 }))), ["first"]);
    until("the session tells what it wrote out", || receipts(&mut one)[0] == "read");
    place.ok(&["inbox", "--as", "codex-api", "--take", "--filter", "unread"]);
    assert_eq!(receipts(&mut one)[2], "read", "taken, since that was asked for");
}

#[test]
fn a_list_of_all_messages_that_is_followed_prints_each_once() {
    let place = Place::new();
    let mut one = peer(&place, "one");
    let follow_all = ["inbox", "--as", "human", "--filter", "all", "--follow", "--json"];
    let mut all = place.command(&follow_all).stdout(Stdio::piped()).spawn().unwrap();
    let mut rows = BufReader::new(all.stdout.take().unwrap()).lines().map(Result::unwrap);
    for text in ["old", "new"] {
        ok(&mut one, "send", json!({ "to": "human", "message": text }));
        let row: Value = serde_json::from_str(&rows.next().unwrap()).unwrap();
        assert_eq!(row["payload"], json!(text), "each message is printed once");
    }
    all.kill().unwrap();
    all.wait().unwrap();
}

#[test]
fn names_are_short_and_plain() {
    let place = Place::new();
    let mut socket = peer(&place, "one");
    for name in ["a b", "a\nb", "x\u{2028}", "\u{1b}[1m", "a\u{200b}", "to:all", &"x".repeat(41)] {
        let answer =
            place.socket().call("attach", json!({ "name": name, "agent": "codex", "project": "/p", "pid": 1 }));
        let text = answer["error"]["message"].as_str().unwrap();
        assert!(text.starts_with("name: expected ") && !text.contains(name), "{text}");
    }
    let strange = json!({ "agent": "x\u{2028}y", "project": "/\u{3164}\u{202e}", "pid": 1 });
    let named = place.socket().call("attach", strange)["result"]["you"]["name"].as_str().unwrap().to_owned();
    assert!(named.is_ascii(), "{named:?}");
    assert_eq!(ok(&mut socket, "whoami", json!({}))["you"]["name"], json!("one"));
}

#[test]
fn the_value_of_a_deleted_entry_leaves_the_events() {
    let place = Place::new();
    let mut one = peer(&place, "one");
    for (namespace, key, value) in [("default", "k", "secret-1"), ("default", "k", "secret-2"), ("other", "k", "kept")]
    {
        ok(&mut one, "state.set", json!({ "namespace": namespace, "key": key, "value": value }));
    }
    let values = |one: &mut Socket| {
        let events = ok(one, "events.read", json!({ "types": ["state_changed"] }))["events"].clone();
        events.as_array().unwrap().iter().map(|event| event["payload"]["value"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(values(&mut one), [json!("secret-1"), json!("secret-2"), json!("kept")]);
    ok(&mut one, "state.delete", json!({ "key": "k" }));
    assert_eq!(values(&mut one), [Value::Null, Value::Null, json!("kept")]);
    ok(&mut one, "state.set", json!({ "key": "k", "value": "again" }));
    assert_eq!(values(&mut one)[3], json!("again"));
}

#[test]
fn the_hint_about_unread_mail_names_a_command_that_shows_this_mail() {
    let place = Place::new();
    let _one = peer(&place, "codex-api");
    place.ok(&["--as", "human", "send", "codex-api", "look here"]);
    let said = place.ok(&["--as", "codex-api", "state", "list"]);
    let hint = said.split("; run slm-mesh ").nth(1).unwrap_or_else(|| panic!("{said}")).trim();
    assert_eq!(hint, "inbox --as codex-api");
    assert!(place.ok(&hint.split(' ').collect::<Vec<_>>()).contains("look here"));
    place.ok(&["--as", "codex-api", "send", "human", "and here"]);
    let said = place.ok(&["--as", "human", "state", "list"]);
    assert!(said.contains("1 unread, from codex-api; run slm-mesh inbox --as human"), "{said}");
}
