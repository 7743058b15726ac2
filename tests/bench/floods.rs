//! Measures how much longer an honest client's calls take while other clients cause as much work as they can. Compares
//! the 99th percentile of the call times with and without those other clients. No honest call may fail.

use super::figures::{Reach, Samples, Table, micros_since};
use super::place::{Line, Mesh, request};
use serde_json::json;
use slm_mesh::client::stream::BrokerStream;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The pause between two calls of the honest client, and the number of its calls for each row of the table.
const PAUSE: Duration = Duration::from_millis(5);
const N_CALLS: usize = 600;
/// Limit for the 99th percentile of the call times during a flood, in microseconds.
const MOST: f64 = 5_000.0;
/// The number of connections of each flood.
const N_GLOBBERS: usize = 8;
const N_HEALTH: usize = 128;
const N_DEAF: usize = 50;
/// The number of peers that the linked mesh lists.
const N_LISTED: usize = 20_000;
/// The number of agents that attach and leave again.
const N_ATTACHES: usize = 8_400;

/// Adds the rows of all floods to the table.
pub fn floods(table: &mut Table) {
    glob_queries(table);
    health(table);
    far_queries(table);
    attaches(table);
    deaf_listers(table);
    linked_mesh(table);
}

/// Measures how long calls take while clients send costly lock queries and do not wait for the answers.
fn glob_queries(table: &mut Table) {
    let mesh = Mesh::started();
    let line = hold_and_query(&mesh);
    let stream = || {
        let socket = UnixStream::connect(mesh.dir().join("mesh.sock")).expect("the broker's socket");
        BrokerStream::Socket(socket)
    };
    let attack = |done: &AtomicBool| {
        thread::scope(|threads| {
            for _ in 0..N_GLOBBERS {
                threads.spawn(|| pipeline(stream(), &line.repeat(16), done));
            }
        });
    };
    row(table, "8 clients pipeline lock queries with globs", &mesh, attack);
}

/// Measures how long calls take while a client on another machine sends costly lock queries and does not wait for the
/// answers.
fn far_queries(table: &mut Table) {
    let mesh = Mesh::hub();
    let line = hold_and_query(&mesh);
    let guest = mesh.attach_remote("guest").writer();
    row(table, "a guest pipelines lock queries with globs", &mesh, |done| pipeline(guest, &line.repeat(16), done));
}

/// Locks many deep paths, and returns a query that compares each of these paths with many globs.
fn hold_and_query(mesh: &Mesh) -> Vec<u8> {
    let mut holder = mesh.attach("holder");
    for n in 0..10 {
        let paths: Vec<String> = (0..64).map(|k| format!("/{}{n}x{k}", "a/".repeat(1900))).collect();
        holder.call("lock.lock", &json!({ "filePaths": paths }));
    }
    let globs: Vec<String> = (0..64).map(|n| format!("/**/q{n}/**/x?*")).collect();
    request("lock.query", &json!({ "filePaths": globs }))
}

/// Measures how long calls take while clients without a token request `/health` over HTTP again and again, and never
/// read the answers.
fn health(table: &mut Table) {
    let mesh = Mesh::started();
    let port = mesh.http_port();
    let attack = |done: &AtomicBool| {
        let ask = format!("GET /health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n").repeat(500);
        let mut open: Vec<TcpStream> = Vec::new();
        while !done.load(Ordering::Relaxed) {
            while open.len() < N_HEALTH {
                let stream = TcpStream::connect(("127.0.0.1", port)).expect("the broker listens");
                stream.set_nonblocking(true).expect("a socket");
                open.push(stream);
            }
            let is_open = |mut stream: &TcpStream| {
                !stream.write(ask.as_bytes()).is_err_and(|e| e.kind() != ErrorKind::WouldBlock)
            };
            open.retain(is_open);
            thread::sleep(PAUSE);
        }
    };
    let auth = mesh.http().1;
    let status = format!("GET /status HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{auth}\r\n");
    let call = || assert!(mesh.http().0.ask(status.as_bytes()) > 2);
    row_of(table, "128 strangers pipeline /health, HTTP call", call, attack);
}

/// Measures how long calls take while agents attach and leave, one after another.
fn attaches(table: &mut Table) {
    let mesh = Mesh::started();
    let attack = |done: &AtomicBool| {
        for n in 0..N_ATTACHES {
            if done.load(Ordering::Relaxed) {
                return;
            }
            drop(mesh.attach(&format!("crowd-{n}")));
        }
    };
    row(table, "8,400 attaches", &mesh, attack);
}

/// Measures how long calls take while clients request the list of peers again and again, and do not read the answers.
fn deaf_listers(table: &mut Table) {
    let mesh = Mesh::started();
    let peers: Vec<Line> = (0..N_DEAF).map(|n| mesh.attach(&format!("lister-{n}"))).collect();
    let ask = request("peers", &json!({ "scope": "machine" })).repeat(50);
    let attack = |done: &AtomicBool| {
        let mut streams: Vec<BrokerStream> = peers.iter().map(Line::writer).collect();
        for stream in &mut streams {
            stream.set_nonblocking(true).expect("a socket");
        }
        while !done.load(Ordering::Relaxed) {
            for stream in &mut streams {
                // After a while, the broker disconnects a client that does not read. From then on, writes to the
                // connection fail, which is fine.
                let _ = stream.write(&ask);
            }
            thread::sleep(PAUSE);
        }
    };
    row(table, "50 clients flood peers and do not read", &mesh, attack);
}

/// Measures how long calls take while a linked mesh reports twenty thousand peers again and again. Each report contains
/// different peers.
fn linked_mesh(table: &mut Table) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("a port"));
    thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { return };
            // Every request gets the same kind of answer, so the request is not parsed. If the broker has ended, the
            // read and the write may fail, which is fine.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&roster(n));
        }
    });
    let mesh = Mesh::linked_to(&url);
    let attack = |done: &AtomicBool| {
        while !done.load(Ordering::Relaxed) {
            thread::sleep(PAUSE);
        }
    };
    row(table, "a linked mesh lists 20,000 peers", &mesh, attack);
}

/// An answer that lists the peers of one round. Each round has a new `mark`, so the broker asks again immediately.
fn roster(round: usize) -> Vec<u8> {
    let peer =
        |n: usize| json!({ "peer_id": format!("peer-{round}-{n}"), "session_id": format!("p{n}"), "status": "active" });
    let peers: Vec<_> = (0..N_LISTED).map(peer).collect();
    let body = json!({ "mesh": "there", "mark": round, "peers": peers }).to_string();
    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Sends the same bytes over and over, and reads the answers.
fn pipeline(mut stream: BrokerStream, bytes: &[u8], done: &AtomicBool) {
    stream.set_nonblocking(true).expect("a socket");
    let (mut heard, mut at) = (vec![0; 64 * 1024], 0);
    while !done.load(Ordering::Relaxed) {
        match stream.write(&bytes[at..]) {
            Ok(n) => at = (at + n) % bytes.len(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
            Err(_) => return,
        }
        // Answers that have not arrived yet are read in a later round.
        while stream.read(&mut heard).is_ok_and(|n| n > 0) {}
    }
}

/// Adds a row for an honest client that sets entries over the Unix socket, first without the attack and then during it.
fn row(table: &mut Table, work: &str, mesh: &Mesh, attack: impl FnOnce(&AtomicBool) + Send) {
    let mut honest = mesh.attach("honest");
    let set = json!({ "key": "port", "value": "8080" });
    let call = || {
        honest.call("state.set", &set);
    };
    row_of(table, work, call, attack);
}

/// Adds a row for `call`, which an honest client makes first without the attack and then during it.
fn row_of(table: &mut Table, work: &str, mut call: impl FnMut(), attack: impl FnOnce(&AtomicBool) + Send) {
    let mut calls = || {
        let time = |_| {
            let began = Instant::now();
            call();
            let took = micros_since(began);
            thread::sleep(PAUSE);
            took
        };
        Samples::new((0..N_CALLS).map(time).collect())
    };
    let (quiet, done) = (calls(), AtomicBool::new(false));
    let during = thread::scope(|threads| {
        threads.spawn(|| attack(&done));
        let during = calls();
        done.store(true, Ordering::Relaxed);
        during
    });
    table.times(work, &during, Some(quiet.at(0.99)), Reach::MedianAndP99(MOST, MOST));
}
