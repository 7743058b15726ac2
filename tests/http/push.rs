//! Tests the form and the order of the messages and events that the broker pushes to a peer's Unix socket. Also tests
//! peers that close the connection, or do not read.

use super::client::*;
use super::support::until;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The Unix socket on which a peer waits for connections from the broker.
struct Ear {
    path: PathBuf,
    listener: UnixListener,
}

/// A connection from the broker to a peer's socket.
struct Line(BufReader<UnixStream>);

impl Ear {
    fn new(broker: &Broker, name: &str) -> Ear {
        let path = broker.place.root.join(name);
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Ear { path, listener }
    }

    /// Registers a peer that listens on this socket, and returns its id.
    fn peer(&self, http: &mut Http) -> String {
        word(&http.ok("/register", json!({ "projectPath": "/p", "pid": 1, "udsPath": self.path }))["peerId"])
    }

    fn accept(&self) -> Line {
        let mut found = None;
        until("the broker dials", || {
            found = self.listener.accept().ok();
            found.is_some()
        });
        let stream = found.unwrap().0;
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Line(BufReader::new(stream))
    }
}

impl Line {
    /// Reads the next pushed line, and returns its type and payload.
    #[track_caller]
    fn next(&mut self) -> (String, Value) {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:.200?}"));
        assert_eq!(keys(&value), ["type", "payload", "timestamp"], "{value}");
        assert_eq!(line.trim_end_matches('\n'), value.to_string(), "compact, on a line of its own");
        assert_iso(&value["timestamp"]);
        (word(&value["type"]), value["payload"].clone())
    }

    /// Reads the next pushed line, and checks its type and the first keys of its payload. Returns the payload.
    #[track_caller]
    fn hears(&mut self, kind: &str, wanted: &str) -> Value {
        let (got, payload) = self.next();
        assert_eq!(got, kind, "{payload}");
        if !wanted.is_empty() {
            assert_starts(&payload, wanted);
        }
        payload
    }

    /// Reads the next pushed line, and checks that it is an event of this type. Returns the payload.
    #[track_caller]
    fn hears_event(&mut self, kind: &str, wanted: &str) -> Value {
        let payload = self.hears("event", &format!("eventType {wanted}"));
        assert_eq!(payload["eventType"], json!(kind));
        payload
    }

    #[track_caller]
    fn ends(&mut self) {
        assert_eq!(self.0.read(&mut [0; 16]).unwrap(), 0);
    }
}

#[test]
fn envelopes_come_in_their_order() {
    let mut broker = Broker::start();
    let mut http = broker.http();
    let ear = Ear::new(&broker, "a.sock");
    let a = ear.peer(&mut http);
    let mut line = ear.accept();
    http.ok("/events", json!({ "action": "subscribe", "peerId": a, "types": ["*"] }));

    let b = http.peer("/q");
    line.hears_event("peer_joined", "peerId name agentType projectPath");
    let sent = http.ok("/send", json!({ "fromPeer": b, "toPeer": a, "payload": "hi", "type": "command" }));
    let payload = line.hears("message", "messageId fromPeer text");
    assert_eq!(
        json!([payload["messageId"], payload["fromPeer"], payload["text"]]),
        json!([sent["messageId"], b, "hi"])
    );
    let payload = line.hears_event("message_received", "messageId fromPeer toPeer");
    assert_eq!(payload["messageId"], sent["messageId"]);

    http.ok("/send", json!({ "fromPeer": b, "toPeer": "all", "payload": "hear" }));
    assert_eq!(line.hears("message", "messageId fromPeer text")["text"], json!("hear"));
    assert_eq!(line.hears_event("message_received", "fromPeer toPeer count")["toPeer"], json!("all"));

    http.ok("/state", json!({ "action": "set", "key": "k", "value": "v", "peerId": a, "namespace": "n" }));
    line.hears_event("state_changed", "key namespace value");
    let payload = line.hears("peer_update", "action key namespace");
    assert_eq!(payload, json!({ "action": "state_changed", "key": "k", "namespace": "n" }));

    http.ok("/lock", json!({ "action": "lock", "filePath": "/p/x", "peerId": b, "reason": "r" }));
    line.hears_event("file_locked", "filePath lockedBy reason");
    assert_eq!(line.hears("lock_update", ""), json!({ "filePath": "/p/x", "action": "locked", "by": b }));
    http.ok("/lock", json!({ "action": "unlock", "filePath": "/p/x", "peerId": b }));
    line.hears_event("file_unlocked", "filePath unlockedBy");
    assert_eq!(line.hears("lock_update", ""), json!({ "filePath": "/p/x", "action": "unlocked" }));

    http.ok("/unregister", json!({ "peerId": b }));
    line.hears_event("peer_left", "peerId reason");
    assert_eq!(line.hears("peer_update", ""), json!({ "action": "left", "peerId": b }));

    assert!(broker.end(Signal::TERM).success());
    assert_eq!(line.hears("shutdown", ""), json!({}));
    line.ends();
}

#[test]
fn the_port_is_closed_before_shutdown_is_announced() {
    let broker = Broker::start();
    let mut http = broker.http();
    let ear = Ear::new(&broker, "a.sock");
    ear.peer(&mut http);
    let mut line = ear.accept();
    let pid = rustix::process::Pid::from_raw(broker.place.broker_pid().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    line.hears("shutdown", "");
    assert!(std::net::TcpStream::connect(broker.address()).is_err(), "who hears of it finds the port still open");
}

#[test]
fn events_go_to_those_who_asked_for_their_type() {
    let broker = Broker::start();
    let mut http = broker.http();
    let (left, right) = (Ear::new(&broker, "l.sock"), Ear::new(&broker, "r.sock"));
    let (a, b) = (left.peer(&mut http), right.peer(&mut http));
    let (mut left, mut right) = (left.accept(), right.accept());
    http.ok("/events", json!({ "action": "subscribe", "peerId": a, "types": ["*"] }));
    // This subscription replaces the previous subscription, so the peer gets events of only one type.
    http.ok("/events", json!({ "action": "subscribe", "peerId": a, "types": ["file_locked"] }));
    http.ok("/events", json!({ "action": "subscribe", "peerId": b, "types": ["*"] }));
    http.ok("/events", json!({ "action": "unsubscribe", "peerId": b }));
    let set = json!({ "action": "set", "key": "k", "value": "v", "peerId": b });
    http.ok("/state", set.clone());
    http.ok("/lock", json!({ "action": "lock", "filePath": "/p/x", "peerId": b }));
    // The broker pushes each change of state and locks to all peers, even to the peer that made the change.
    left.hears("peer_update", "action key namespace");
    left.hears_event("file_locked", "filePath lockedBy reason");
    left.hears("lock_update", "filePath action by");
    right.hears("peer_update", "action key namespace");
    right.hears("lock_update", "filePath action by");
}

#[test]
fn a_push_that_was_sent_whole_counts_as_delivered() {
    let broker = Broker::start();
    let mut http = broker.http();
    let ear = Ear::new(&broker, "a.sock");
    let a = ear.peer(&mut http);
    let mut line = ear.accept();
    let deaf =
        http.ok("/register", json!({ "projectPath": "/p", "pid": 1, "udsPath": broker.place.root.join("none") }));
    let deaf = word(&deaf["peerId"]);
    for to in [&a, &deaf] {
        http.ok("/send", json!({ "fromPeer": "cli", "toPeer": to, "payload": "x" }));
    }
    line.hears("message", "messageId fromPeer text");
    let mail = http.mail(&a);
    assert_eq!(json!([mail[0]["delivered"], mail[0]["readAt"]]), json!([true, null]), "pushed, and still unread");
    assert_eq!(http.mail(&deaf)[0]["delivered"], json!(false));
}

#[test]
fn a_lost_connection_is_dialled_again() {
    let broker = Broker::start();
    let mut http = broker.http();
    let ear = Ear::new(&broker, "a.sock");
    let a = ear.peer(&mut http);
    for n in 0..3 {
        let mut line = ear.accept();
        http.ok("/send", json!({ "fromPeer": "cli", "toPeer": a, "payload": n.to_string() }));
        assert_eq!(line.hears("message", "messageId")["text"], json!(n.to_string()));
    }
}

#[test]
fn a_socket_that_appears_late_is_dialled() {
    let broker = Broker::start();
    let mut http = broker.http();
    let path = broker.place.root.join("late.sock");
    let a = word(&http.ok("/register", json!({ "projectPath": "/p", "pid": 1, "udsPath": path }))["peerId"]);
    // The socket does not exist yet. By the time the broker answers the heartbeat, it has tried at least once to
    // connect to the socket.
    http.ok("/heartbeat", json!({ "peerId": a }));
    let ear = Ear::new(&broker, "late.sock");
    let mut line = ear.accept();
    http.ok("/send", json!({ "fromPeer": "cli", "toPeer": a, "payload": "x" }));
    line.hears("message", "messageId fromPeer text");
}

#[test]
fn a_peer_that_hangs_up_at_once_is_dialled_with_pauses() {
    let broker = Broker::start();
    let mut http = broker.http();
    let ear = Ear::new(&broker, "a.sock");
    let began = Instant::now();
    ear.peer(&mut http);
    for _ in 0..4 {
        drop(ear.accept());
    }
    // The broker waits for at least 200 ms before each of the last three connections.
    assert!(began.elapsed() > Duration::from_millis(550), "four connections in {:?}", began.elapsed());
}

#[test]
fn a_new_connection_starts_with_a_whole_envelope() {
    let broker = Broker::start();
    let mut http = broker.http();
    let ear = Ear::new(&broker, "a.sock");
    let a = ear.peer(&mut http);
    let deaf = ear.accept();
    // These messages do not all fit into the socket's buffer. So the broker can write only a part of one message.
    for _ in 0..10 {
        http.ok("/send", json!({ "fromPeer": "cli", "toPeer": a, "payload": "x".repeat(60_000) }));
    }
    drop(deaf);
    let mut line = ear.accept();
    http.ok("/send", json!({ "fromPeer": "cli", "toPeer": a, "payload": "last" }));
    while line.hears("message", "messageId fromPeer text")["text"] != json!("last") {}
    // The broker does not know which messages arrived over the broken connection. So it does not mark them as
    // delivered.
    let mail = http.ok("/messages", json!({ "peerId": a, "limit": 100 }));
    let last = mail["messages"][9].clone();
    assert!(
        mail["messages"].as_array().unwrap().iter().any(|m| m["delivered"] == json!(false)),
        "{:.300}",
        last.to_string()
    );
}

#[test]
fn a_peer_that_never_reads_is_dropped_and_others_are_not() {
    let broker = Broker::with(&[("SLM_MESH_RATE", "10000")]);
    let mut http = broker.http();
    let (deaf, fine) = (Ear::new(&broker, "deaf.sock"), Ear::new(&broker, "fine.sock"));
    let (a, b) = (deaf.peer(&mut http), fine.peer(&mut http));
    let (mut deaf_line, mut line) = (deaf.accept(), fine.accept());
    for n in 0..40 {
        for (to, text) in [(&a, "x".repeat(60_000)), (&b, n.to_string())] {
            http.ok("/send", json!({ "fromPeer": "cli", "toPeer": to, "payload": text }));
        }
        assert_eq!(line.hears("message", "messageId")["text"], json!(n.to_string()), "at once");
    }
    let mut rest = Vec::new();
    deaf_line.0.read_to_end(&mut rest).unwrap();
    assert!(rest.len() < 2 << 20, "{} bytes were kept for it", rest.len());
    // All messages are in the mailbox, even the messages that were not pushed.
    assert_eq!(http.ok("/messages", json!({ "peerId": a, "limit": 100 }))["messages"].as_array().unwrap().len(), 40);
    // The broker opens a new connection for later messages.
    let mut line = deaf.accept();
    http.ok("/send", json!({ "fromPeer": "cli", "toPeer": a, "payload": "now" }));
    while line.hears("message", "messageId fromPeer text")["text"] != json!("now") {}
}

#[test]
fn lines_from_a_pushed_peer_are_ignored() {
    let broker = Broker::start();
    let mut http = broker.http();
    let ear = Ear::new(&broker, "a.sock");
    let a = ear.peer(&mut http);
    let mut line = ear.accept();
    std::io::Write::write_all(line.0.get_mut(), &vec![b'{'; 100_000]).unwrap();
    http.ok("/send", json!({ "fromPeer": "cli", "toPeer": a, "payload": "x" }));
    line.hears("message", "messageId fromPeer text");
}

#[test]
fn the_connection_of_an_unregistered_peer_is_closed() {
    let broker = Broker::start();
    let mut http = broker.http();
    let ear = Ear::new(&broker, "a.sock");
    let a = ear.peer(&mut http);
    let mut line = ear.accept();
    http.ok("/unregister", json!({ "peerId": a }));
    line.ends();
}

#[test]
fn only_sockets_of_this_user_are_dialled() {
    let broker = Broker::start();
    let mut http = broker.http();
    let root = &broker.place.root;
    std::fs::write(root.join("plain"), "keep me").unwrap();
    let mut paths =
        vec![root.join("plain"), root.join("none"), root.clone(), PathBuf::from("/dev/null"), PathBuf::from("x")];
    let other = Ear::new(&broker, "other.sock");
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(&other.path, Some(65_534), None).unwrap();
        paths.push(other.path.clone());
    } else {
        println!("skipped: only_sockets_of_this_user_are_dialled: only root can make another user's socket");
    }
    for path in &paths {
        let body = http.ok("/register", json!({ "projectPath": "/p", "pid": 1, "udsPath": path }));
        http.ok("/send", json!({ "fromPeer": "cli", "toPeer": body["peerId"], "payload": "x" }));
    }
    // This peer registers last. If the broker connected to the sockets of the other peers, it would do so before it
    // connects to this socket.
    let ear = Ear::new(&broker, "ours.sock");
    ear.peer(&mut http);
    ear.accept();
    assert!(!is_root || other.listener.accept().is_err(), "the socket of another user was dialled");
    assert_eq!(std::fs::read_to_string(root.join("plain")).unwrap(), "keep me");
}

#[test]
fn sockets_that_answer_nobody_cost_no_memory() {
    let broker = Broker::with(&[("SLM_MESH_RATE", "100000")]);
    let mut http = broker.http();
    for n in 0..60 {
        let path = broker.place.root.join(format!("gone-{n}"));
        http.ok("/register", json!({ "projectPath": "/p", "pid": 1, "udsPath": path }));
    }
    let Some(before) = broker.rss() else {
        return skip("sockets_that_answer_nobody_cost_no_memory", "there is no /proc");
    };
    for _ in 0..20 {
        http.ok("/send", json!({ "fromPeer": "cli", "toPeer": "all", "payload": "x".repeat(50_000) }));
    }
    let grown = broker.rss().unwrap().saturating_sub(before);
    assert!(grown < 40 << 10, "{grown} KiB for pushes that nobody will take");
}
