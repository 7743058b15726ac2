//! Tests clients that are slow, greedy or silent, or that send nonsense. The broker must continue to answer all other
//! clients.

mod support;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use support::{BIN, Place, Socket, lives, until};

/// Starts a broker in a new test directory. Returns the directory and a connection for a well-behaved client.
fn start() -> (Place, Socket) {
    let place = Place::new().with("SLM_MESH_RATE", "1000000");
    place.ok(&["start", "--detach"]);
    let socket = place.socket();
    (place, socket)
}

/// A test holds this lock while it opens nearly as many files as a process may open.
static MANY_FILES: Mutex<()> = Mutex::new(());

/// Connects to the broker. The test can send any bytes over this connection, even invalid bytes.
fn connect(place: &Place) -> UnixStream {
    let stream = UnixStream::connect(place.dir.join("mesh.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Checks that the broker answers an old connection, and that it accepts and answers a new connection.
fn check_served(place: &Place, neighbour: &mut Socket) {
    assert_eq!(neighbour.call("ping", json!({}))["result"], json!({}));
    let set = neighbour.call("state.set", json!({ "key": "k", "value": "v" }));
    assert_eq!(set["result"]["ok"], json!(true), "{set}");
    assert_eq!(place.socket().call("status", json!({}))["result"]["status"], json!("ok"));
}

#[test]
fn a_client_of_one_byte_at_a_time_holds_nobody_up_and_is_answered() {
    let (place, mut neighbour) = start();
    let mut slow = connect(&place);
    for byte in b"{\"jsonrpc\":\"2.0\",\"id\":\"slow\",\"method\":\"ping\"}\n" {
        slow.write_all(&[*byte]).unwrap();
        // The broker answers only in a turn of its loop. So this answer proves that the broker has run a turn since the
        // slow client sent this byte.
        assert_eq!(neighbour.call("ping", json!({}))["result"], json!({}));
    }
    let mut line = String::new();
    BufReader::new(slow).read_line(&mut line).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["id"], json!("slow"));
    check_served(&place, &mut neighbour);
}

#[test]
fn a_line_over_one_mebibyte_costs_only_its_own_connection() {
    let (place, mut neighbour) = start();
    let mut long = connect(&place);
    let chunk = vec![b'x'; 64 * 1024];
    // The broker refuses a line that is too long. It may close the connection before the client has written the whole
    // line.
    let cut = (0..17).find_map(|_| long.write_all(&chunk).err());
    assert!(cut.is_none_or(|error| [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind())));
    let mut said = String::new();
    // The broker closes the connection before it has read all bytes, which resets the connection. So this read may fail
    // after it has got the line with the error.
    let _ = long.read_to_string(&mut said);
    let answer: Value = serde_json::from_str(said.lines().next().unwrap_or("")).unwrap();
    assert_eq!(answer["error"]["code"], json!(-32600), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("1048576"), "{answer}");
    check_served(&place, &mut neighbour);
}

#[test]
fn a_message_of_the_largest_size_in_its_longest_spelling_fits_a_line() {
    let (place, mut neighbour) = start();
    let text = "\u{1}".repeat(64 * 1024);
    let sent = neighbour.call("send", json!({ "to": "human", "message": text }));
    assert_eq!(sent["result"]["ok"], json!(true), "{sent}");
    let sent = neighbour.call("send", json!({ "to": "human", "message": text + "x" }));
    assert_eq!(sent["error"]["data"]["argument"], json!("message"), "{sent}");
    check_served(&place, &mut neighbour);
}

#[test]
fn eight_hundred_connections_are_all_served() {
    let _alone = MANY_FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let (place, mut neighbour) = start();
    let mut crowd: Vec<UnixStream> = (0..800).map(|_| connect(&place)).collect();
    check_served(&place, &mut neighbour);
    place.ok(&["peers"]);
    for stream in &mut crowd {
        stream.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n").unwrap();
    }
    let want = "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n";
    for stream in &mut crowd {
        let mut answer = vec![0; want.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, want.as_bytes());
    }
    drop(crowd);
    until("the crowd is gone", || neighbour.call("status", json!({}))["result"]["connections"] == json!(1));
}

#[test]
fn who_comes_when_all_places_are_taken_is_served_when_one_is_free() {
    let _alone = MANY_FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let (place, mut neighbour) = start();
    let crowd: Vec<UnixStream> = (0..950).map(|_| connect(&place)).collect();
    assert_eq!(neighbour.call("ping", json!({}))["result"], json!({}));
    drop(crowd);
    check_served(&place, &mut neighbour);
}

#[test]
fn a_client_that_asks_and_never_reads_is_not_waited_for() {
    let (place, mut neighbour) = start();
    let mut deaf = connect(&place);
    deaf.set_nonblocking(true).unwrap();
    let ask = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"}\n".repeat(1000);
    // The broker stops reading from a client that does not read its answers. The test writes until the socket has been
    // full three times.
    let mut n_refused = 0;
    while n_refused < 3 {
        match deaf.write(&ask) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                n_refused += 1;
                check_served(&place, &mut neighbour);
            }
            Err(error) => panic!("{error}"),
        }
    }
    place.ok(&["peers"]);
    deaf.set_nonblocking(false).unwrap();
    let mut line = String::new();
    BufReader::new(deaf).read_line(&mut line).unwrap();
    assert!(line.contains("\"status\":\"ok\""), "once it reads, it finds its answers: {line}");
}

#[test]
fn a_subscriber_that_never_reads_is_dropped_and_the_others_hear_all() {
    let (place, mut neighbour) = start();
    let mut deaf = place.socket();
    deaf.call("events.subscribe", json!({ "types": ["*"] }));
    let mut listener = place.socket();
    listener.call("events.subscribe", json!({ "types": ["load.test"] }));
    let n_connections = neighbour.call("status", json!({}))["result"]["connections"].as_i64().unwrap();
    let filler = "x".repeat(60_000);
    for n in 0..120 {
        let sent =
            neighbour.call("events.emit", json!({ "type": "load.test", "payload": { "n": n, "filler": filler } }));
        assert_eq!(sent["result"]["ok"], json!(true), "{sent}");
        let heard = listener.read().unwrap();
        assert_eq!(heard["params"]["payload"]["n"], json!(n), "every event, in order");
    }
    let now = || place.socket().call("status", json!({}))["result"]["connections"].as_i64().unwrap();
    // Each `status` request makes a new connection. So the number of connections drops to its old value only when the
    // client that does not read is gone.
    until("the deaf one is dropped", || now() == n_connections);
    check_served(&place, &mut neighbour);
}

#[test]
fn a_subscriber_that_asks_without_end_and_never_reads_is_dropped() {
    let (place, mut neighbour) = start();
    let mut deaf = place.socket();
    deaf.call("events.subscribe", json!({ "types": ["*"] }));
    deaf.stream.set_nonblocking(true).unwrap();
    let ask = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"}\n".repeat(1000);
    let filler = "x".repeat(60_000);
    let dropped = (0..400).any(|_| {
        let sent = neighbour.call("events.emit", json!({ "type": "load.test", "payload": { "filler": filler } }));
        assert_eq!(sent["result"]["ok"], json!(true), "{sent}");
        deaf.stream.write(&ask).is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
    });
    assert!(dropped, "it went on being served");
    check_served(&place, &mut neighbour);
}

/// Freezes the broker while `meanwhile` runs. When the broker runs again, everything that was sent in the meantime
/// reaches it at the same time.
fn hold_still(place: &Place, meanwhile: impl FnOnce()) {
    let pid = place.broker_pid().unwrap();
    support::freeze(pid);
    meanwhile();
    support::thaw(pid);
}

#[test]
fn a_client_that_speaks_and_hangs_up_in_one_breath_is_let_go() {
    let (place, mut neighbour) = start();
    let mut hasty = place.socket();
    hasty.call("attach", json!({ "name": "hasty", "agent": "codex", "project": "/p", "pid": 1 }));
    hold_still(&place, || {
        // A session sends these notifications when it ends. The broker does not answer them, so it can't learn from a
        // failed write that the session is gone.
        for (method, params) in [("state.set", json!({ "key": "last", "value": "word" })), ("detach", json!({}))] {
            let line = json!({ "jsonrpc": "2.0", "method": method, "params": params });
            writeln!(hasty.stream, "{line}").unwrap();
        }
        // If a thread has just forked a child, the child holds a copy of the stream. A shutdown ends the stream in
        // spite of this copy.
        hasty.stream.shutdown(Shutdown::Both).unwrap();
    });
    until("its place is free", || neighbour.call("status", json!({}))["result"]["connections"] == json!(1));
    let entry = neighbour.call("state.get", json!({ "key": "last" }));
    assert_eq!(entry["result"]["entry"]["value"], json!("word"), "what it said is done");
}

#[test]
fn who_comes_back_in_the_breath_of_its_end_is_who_it_was() {
    let (place, mut neighbour) = start();
    let ask = json!({ "name": "one", "agent": "codex", "project": "/p", "pid": 1 });
    for _ in 0..10 {
        let mut before = place.socket();
        let you = before.call("attach", ask.clone())["result"]["you"].clone();
        assert_eq!(you["name"], json!("one"));
        // With only two connections, the broker might handle them in the right order by chance. With ten connections,
        // this is unlikely.
        let _others: Vec<Socket> = (0..8).map(|_| place.socket()).collect();
        let mut after = None;
        hold_still(&place, || {
            before.stream.shutdown(Shutdown::Both).unwrap();
            let mut socket = place.socket();
            socket.ask("attach", ask.clone());
            after = Some(socket);
        });
        let mut after: Socket = after.unwrap();
        assert_eq!(after.read().unwrap()["result"]["you"], you);
        // If a thread has just forked a child, the child holds a copy of the stream. A shutdown ends the stream in
        // spite of this copy.
        after.stream.shutdown(Shutdown::Both).unwrap();
    }
    check_served(&place, &mut neighbour);
}

#[test]
fn who_came_and_went_while_the_broker_was_away_leaves_its_seat_free() {
    let (place, mut neighbour) = start();
    let ask = json!({ "name": "one", "agent": "codex", "project": "/p", "pid": 1 });
    let you = place.socket().call("attach", ask.clone())["result"]["you"].clone();
    for _ in 0..10 {
        until("its place is free", || neighbour.call("status", json!({}))["result"]["connections"] == json!(1));
        let mut after = None;
        hold_still(&place, || {
            // This session is killed before the broker reads its `attach` request. This can happen while a broker
            // starts.
            let mut before = place.socket();
            before.ask("attach", ask.clone());
            before.stream.shutdown(Shutdown::Both).unwrap();
            let mut socket = place.socket();
            socket.ask("attach", ask.clone());
            after = Some(socket);
        });
        assert_eq!(after.unwrap().read().unwrap()["result"]["you"], you);
    }
    check_served(&place, &mut neighbour);
}

/// A random generator that makes the same nonsense in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len())]
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.roll(if depth == 0 { 6 } else { 8 }) {
            0 => Value::Null,
            1 => json!(self.roll(2) == 0),
            2 => json!(self.roll(1 << 20) as i64 - (1 << 19)),
            3 => json!(
                self.pick(&["", "all", "human", "/", "*", "../..", "\u{0}", "🦀", "repo", "agent:", "text", "get"])
            ),
            4 => json!(1.5e300),
            5 => json!(i64::MAX),
            6 => Value::Array((0..self.roll(4)).map(|_| self.value(depth - 1)).collect()),
            _ => {
                Value::Object((0..self.roll(4)).map(|_| (self.argument().to_owned(), self.value(depth - 1))).collect())
            }
        }
    }

    fn argument(&mut self) -> &'static str {
        self.pick(&[
            "to",
            "message",
            "key",
            "value",
            "filePath",
            "filePaths",
            "types",
            "as",
            "v",
            "name",
            "agent",
            "project",
            "pid",
            "id",
            "items",
            "ack",
            "limit",
            "after",
            "scope",
            "ttlMinutes",
            "expect",
            "replyTo",
            "payload",
            "type",
            "command",
            "whoami",
            "repo",
        ])
    }

    fn line(&mut self) -> Vec<u8> {
        let method = self.pick(&[
            "peers",
            "whoami",
            "summary",
            "send",
            "inbox",
            "state.get",
            "state.set",
            "state.list",
            "state.delete",
            "lock.lock",
            "lock.unlock",
            "lock.query",
            "events.read",
            "events.emit",
            "events.subscribe",
            "events.unsubscribe",
            "status",
            "attach",
            "detach",
            "inbox.mark_read",
            "cancel",
            "ping",
            "broker.info",
            "no.such",
            "",
        ]);
        let mut params = serde_json::Map::new();
        for _ in 0..self.roll(5) {
            params.insert(self.argument().into(), self.value(2));
        }
        // The parameter `v` is the client's version. If a random value were higher than the broker's version, the
        // broker would exit on purpose.
        params.remove("v");
        match self.roll(8) {
            0 => (0..self.roll(300)).map(|_| self.roll(256) as u8).filter(|byte| *byte != b'\n').collect(),
            1 => json!({ "jsonrpc": "2.0", "id": self.value(1), "method": method, "params": params })
                .to_string()
                .into_bytes(),
            2 => json!({ "jsonrpc": self.value(0), "id": 1, "method": self.value(1), "params": self.value(2) })
                .to_string()
                .into_bytes(),
            3 => json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string().into_bytes(),
            4 => {
                let text = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
                text.as_bytes()[..self.roll(text.len())].to_vec()
            }
            5 => "[".repeat(self.roll(3000)).into_bytes(),
            _ => json!({ "jsonrpc": "2.0", "id": self.roll(9), "method": method, "params": params })
                .to_string()
                .into_bytes(),
        }
    }
}

#[test]
fn senseless_lines_never_end_the_broker() {
    let (place, mut neighbour) = start();
    let pid = place.broker_pid().unwrap();
    let mut dice = Dice(20_260_728);
    for _ in 0..40 {
        let mut mad = connect(&place);
        let drain = mad.try_clone().unwrap();
        // The broker stops reading from a client that does not read its answers, so a thread reads them.
        let drained = std::thread::spawn(move || BufReader::new(drain).split(b'\n').map_while(Result::ok).count());
        for _ in 0..100 {
            let line = [dice.line(), b"\n".to_vec()].concat();
            // The broker may close a connection over which it receives nonsense.
            if mad.write_all(&line).is_err() {
                break;
            }
        }
        mad.shutdown(Shutdown::Write).unwrap_or_default();
        assert!(drained.join().unwrap() > 0, "it was answered");
        assert_eq!(neighbour.call("ping", json!({}))["result"], json!({}));
    }
    assert!(lives(pid) && place.broker_pid() == Some(pid));
    assert!(!place.log().contains("panic"), "{}", place.log());
    check_served(&place, &mut neighbour);
}

#[test]
fn where_files_run_out_the_silent_make_room_for_who_comes() {
    let place = Place::new();
    let env = place.command(&[]);
    let mut broker = Command::new("sh")
        .args(["-c", "ulimit -n 64; exec \"$0\" start", BIN])
        .envs(env.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(&place.root)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("it serves", || UnixStream::connect(place.dir.join("mesh.sock")).is_ok());
    let mut session = place.socket();
    session.call("attach", json!({ "name": "quiet", "agent": "codex", "project": "/p", "pid": 1 }));
    let silent: Vec<UnixStream> = (0..70).map(|_| connect(&place)).collect();
    for n in 0..5 {
        let set = place.socket().call("state.set", json!({ "key": "k", "value": n.to_string(), "as": "human" }));
        assert_eq!(set["result"]["ok"], json!(true), "{set}");
    }
    let is_dropped = |mut stream: &UnixStream| {
        stream.set_nonblocking(true).unwrap();
        stream.read(&mut [0; 1]).is_ok_and(|n| n == 0)
    };
    assert!(silent.iter().filter(|stream| is_dropped(stream)).count() >= 15, "the silent ones made room");
    assert_eq!(session.call("ping", json!({}))["result"], json!({}), "who speaks for a peer stays, also a quiet one");
    assert!(broker.try_wait().unwrap().is_none() && !place.log().contains("panic"));
    place.ok(&["stop"]);
    broker.wait().unwrap();
}
