//! Tests what a hub does if one member of etcd fails during an append, and the next member refuses the entry. A real
//! member can't be stopped at that moment, so these members are fakes.

use super::support::until;
use super::{entry, won};
use serde_json::{Value, json};
use slm_mesh::replication::etcd::{EtcdAddress, EtcdLog, EtcdSettings};
use slm_mesh::replication::{Append, Position, ReplicatedLog};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The time after which the first member answers. If it answered at once, a pause of 300 ms in the test's threads would
/// look like a member that does not answer.
const SLOW: Duration = Duration::from_millis(400);
const BUSY: &str = r#"{"error":"etcdserver: too many requests","code":8}"#;

/// What the first member does with the append.
#[derive(Debug, Clone, Copy, PartialEq)]
enum First {
    /// Stores the entry, but does not answer.
    Hangs,
    /// Stores the entry, and closes the connection.
    Closes,
    /// Stores the entry, and answers with this status and text.
    Says(&'static str, &'static str),
    /// The first member ends before the append is sent.
    HasEnded,
    /// Refuses the append.
    Refuses,
}

/// Reads a request. Returns its path and its body; `None` if the client sent no request.
fn read_request(stream: &mut TcpStream) -> Option<(String, Value)> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let n = stream.read(&mut chunk).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8(bytes.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if length.is_none_or(|length: usize| body.len() >= length) {
            let path = head.split(' ').nth(1).unwrap().to_owned();
            return Some((path, serde_json::from_str(body).unwrap()));
        }
    }
}

fn answer(mut stream: TcpStream, status: &str, body: &str) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all((head + body).as_bytes());
    let _ = stream.shutdown(Shutdown::Write).and_then(|()| std::io::copy(&mut stream, &mut std::io::sink()));
}

/// The entry that a request appends to the log, in base64; `None` if the request appends nothing.
fn appended(request: &Value) -> Option<&str> {
    request["success"][0]["request_put"]["value"].as_str().filter(|_| request["compare"][1]["target"] == "VERSION")
}

/// The answer of etcd to any request of a hub except an append.
fn granted(path: &str, request: &Value) -> String {
    match path.rsplit('/').next() {
        // The leader checks that its key still belongs to its lease.
        Some("range") if request["keys_only"] == true => json!({ "kvs": [{ "lease": "7" }] }),
        Some("keepalive") => json!({ "result": { "ID": "7", "TTL": "60" } }),
        Some("grant") => json!({ "ID": "7", "TTL": "60" }),
        Some("txn") => json!({ "header": { "revision": "5" }, "succeeded": true }),
        _ => json!({ "kvs": [] }),
    }
    .to_string()
}

/// Two members of etcd, and the entry that the cluster has stored.
struct FakeMembers {
    hosts: Vec<String>,
    first: JoinHandle<()>,
}

impl FakeMembers {
    fn start(behaviour: First) -> FakeMembers {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let hosts = listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        let [first, second] = listeners;
        let stored = Arc::new(Mutex::new(None));
        let in_first = Arc::clone(&stored);
        let first = std::thread::spawn(move || first_member(&first, behaviour, &in_first));
        std::thread::spawn(move || second_member(&second, &stored));
        FakeMembers { hosts, first }
    }
}

fn first_member(listener: &TcpListener, behaviour: First, stored: &Mutex<Option<String>>) {
    let mut hanging = Vec::new();
    for mut stream in listener.incoming().flatten() {
        let Some((path, request)) = read_request(&mut stream) else { continue };
        let Some(value) = appended(&request) else {
            if path.ends_with("/txn") {
                // The hub measures how long this answer takes. It then waits up to four times as long for the answer to
                // the append.
                std::thread::sleep(SLOW);
            }
            answer(stream, "200 OK", &granted(&path, &request));
            if behaviour == First::HasEnded && path.ends_with("/txn") {
                return;
            }
            continue;
        };
        if behaviour == First::Refuses {
            answer(stream, "429 Too Many Requests", BUSY);
            continue;
        }
        *stored.lock().unwrap() = Some(value.to_owned());
        match behaviour {
            First::Says(status, text) => answer(stream, status, text),
            First::Hangs => hanging.push(stream),
            _ => drop(stream),
        }
    }
}

/// The second member refuses the first append that it gets. Later, it finds the entry that the first member has stored.
fn second_member(listener: &TcpListener, stored: &Mutex<Option<String>>) {
    let mut has_refused = false;
    for mut stream in listener.incoming().flatten() {
        let Some((path, request)) = read_request(&mut stream) else { continue };
        let Some(value) = appended(&request) else {
            answer(stream, "200 OK", &granted(&path, &request));
            continue;
        };
        let found = stored.lock().unwrap().clone();
        if !std::mem::replace(&mut has_refused, true) || found.is_none() {
            answer(stream, "429 Too Many Requests", BUSY);
            continue;
        }
        assert_eq!(found.as_deref(), Some(value), "a hub repeats the same entry");
        let found = json!({ "response_range": { "kvs": [{ "value": found }] } });
        answer(stream, "200 OK", &json!({ "succeeded": false, "responses": [found] }).to_string());
    }
}

#[test]
fn a_refusal_is_certain_only_if_no_earlier_member_may_have_stored_the_entry() {
    let stopped = r#"{"error":"raft: stopped","code":2}"#;
    let no_leader = r#"{"error":"etcdserver: leader changed","code":14}"#;
    for behaviour in [
        First::Hangs,
        First::Closes,
        First::Says("503 Service Unavailable", no_leader),
        First::Says("500 Internal Server Error", stopped),
        First::Says("502 Bad Gateway", "from a proxy"),
        First::Says("307 Temporary Redirect", ""),
        First::HasEnded,
        First::Refuses,
    ] {
        let members = FakeMembers::start(behaviour);
        let address = EtcdAddress::parse(&format!("etcd://{}/slm", members.hosts.join(","))).unwrap();
        let mut log = EtcdLog::new(EtcdSettings { address, tls: None, user: None, lease_seconds: 60 }).unwrap();
        let term = won(&mut log, "hub1:7900");
        if behaviour == First::HasEnded {
            members.first.join().unwrap();
            // A process that another test is starting has a copy of the listener for a moment.
            until("nobody listens any more", || TcpStream::connect(&members.hosts[0]).is_err());
        }
        let outcome = log.append(Position(1), &entry(term, "one"));
        if matches!(behaviour, First::HasEnded | First::Refuses) {
            assert!(matches!(&outcome, Append::Refused(why) if why.contains("too many requests")), "{outcome:?}");
        } else {
            assert_eq!(outcome, Append::Stored, "{behaviour:?}");
        }
    }
}
