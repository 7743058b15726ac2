//! Puts a load on a broker for several minutes: a hundred sessions that chat, a thousand silent connections, and three
//! hostile clients. Measures how long other clients wait, and how large the broker becomes. `make load MINUTES=10`
//! prints the results.
//!
//! The measured clients make calls at a steady rate, with pauses, so their calls do not wait for one another. An echo
//! server shows how busy the machine itself is.

#[allow(dead_code)] // each bench uses its part
mod figures;
#[allow(dead_code)]
mod floor;
mod hostile_clients;
#[allow(dead_code)]
mod place;

use figures::{Samples, micros_since, size, span};
use place::{Http, Line, Mesh, Session, request, tool};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The number of peers that chat over the socket, the number of threads that act as these peers, and the number of real
/// sessions that chat over standard input and output.
const N_PEERS: usize = 97;
const N_THREADS: usize = 4;
const N_SESSIONS: usize = 3;
/// How often each session chats.
const CHATS_EVERY: Duration = Duration::from_millis(250);
/// How long a newcomer (a client with a new connection) waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
const WORDS: &str = "the parser is done; I go on with the printer, and leave the tests of both to you";

/// The data that all threads share.
pub struct Load<'a> {
    pub mesh: &'a Mesh,
    pub done: AtomicBool,
    /// The number of calls that were answered.
    pub n_calls: AtomicU64,
    /// The number of writes by hostile clients, and how often the broker disconnected these clients.
    pub n_pests: AtomicU64,
    pub n_drops: AtomicU64,
    /// The number of new connections that were served, and the number of new connections that were not served within
    /// `PATIENCE`.
    n_served: AtomicU64,
    n_unserved: AtomicU64,
    /// The call times of each measured client, by the client's name.
    times: Mutex<Vec<(&'static str, Vec<f64>)>>,
}

impl Load<'_> {
    pub fn goes_on(&self) -> bool {
        !self.done.load(Ordering::Relaxed)
    }
}

/// Makes calls at a steady rate until the load ends. A call starts late if the previous call took too long. The time of
/// a late call is counted from the moment when the late call was due.
fn steadily(load: &Load, name: &'static str, every: Duration, mut call: impl FnMut(usize)) {
    let mut times = Vec::new();
    let mut due = Instant::now();
    for n in 0.. {
        due += every;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if !load.goes_on() {
            break;
        }
        let began = if due.elapsed() > every { due } else { Instant::now() };
        call(n);
        times.push(micros_since(began));
        load.n_calls.fetch_add(1, Ordering::Relaxed);
    }
    load.times.lock().expect("no thread panics with it").push((name, times));
}

/// Waits until the next session is due to chat. Each session chats once in `CHATS_EVERY`, and the sessions are spread
/// evenly over this time.
fn pace(next: &mut Instant, n_chatters: usize) {
    *next += CHATS_EVERY / n_chatters as u32;
    thread::sleep(next.saturating_duration_since(Instant::now()));
}

/// Acts as some of the peers. Each peer sends a message to the next peer, reads its own mail, and marks it as read.
fn chat(load: &Load, first: usize, peers: &mut [Line]) {
    let (mut next, n_peers) = (Instant::now(), peers.len());
    while load.goes_on() {
        for (at, peer) in peers.iter_mut().enumerate() {
            let to = format!("peer-{}", (first + at + 1) % N_PEERS);
            peer.call("send", &json!({ "to": to, "message": WORDS }));
            let mail = peer.call("inbox", &json!({}));
            let ids: Vec<&Value> =
                mail["result"]["messages"].as_array().into_iter().flatten().map(|m| &m["id"]).collect();
            if !ids.is_empty() {
                peer.call("inbox.mark_read", &json!({ "items": ids }));
            }
            load.n_calls.fetch_add(3, Ordering::Relaxed);
            pace(&mut next, n_peers);
        }
    }
}

/// Lets the real sessions make their calls in turn.
fn chat_over_mcp(load: &Load, sessions: &mut [Session]) {
    let lines = [
        tool("mesh_send", json!({ "to": "human", "message": WORDS })),
        tool("mesh_inbox", json!({})),
        tool("mesh_peers", json!({ "scope": "machine" })),
    ];
    let mut next = Instant::now();
    while load.goes_on() {
        for session in sessions.iter_mut() {
            for line in &lines[1..] {
                session.tool(line);
            }
            load.n_calls.fetch_add(2, Ordering::Relaxed);
            pace(&mut next, N_SESSIONS);
        }
        // Nobody reads the mailbox `human`, and a full mailbox refuses messages. So only a few messages are sent to
        // `human`.
        if load.n_calls.load(Ordering::Relaxed).is_multiple_of(64) {
            sessions[0].ask(&lines[0]);
        }
    }
}

/// Acts as a client that makes a new connection for each call, like a verb (subcommand). The time to connect is
/// included, because the client may have to wait for a connection.
fn come_anew(load: &Load) {
    let ask = request("state.get", &json!({ "key": "port" }));
    steadily(load, "newcomer, socket", Duration::from_millis(200), |_| {
        let began = Instant::now();
        let mut stream = UnixStream::connect(load.mesh.dir().join("mesh.sock")).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let said = stream.write_all(&ask);
        let heard = said.and_then(|()| stream.read(&mut [0; 4096]));
        let is_served = heard.is_ok_and(|n| n > 0) && began.elapsed() <= PATIENCE;
        let count = if is_served { &load.n_served } else { &load.n_unserved };
        count.fetch_add(1, Ordering::Relaxed);
    });
}

/// The broker's resident memory in bytes, its number of open files, and the size of its database in bytes.
fn weigh(mesh: &Mesh) -> (f64, usize, f64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", mesh.pid())).expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its line");
    let rss = line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0;
    let n_files = std::fs::read_dir(format!("/proc/{}/fd", mesh.pid())).expect("Linux tells").count();
    let files = ["broker.db", "broker.db-wal"]
        .map(|name| std::fs::metadata(mesh.dir().join(name)).map_or(0, |file| file.len()));
    (rss, n_files, files.iter().sum::<u64>() as f64)
}

fn row(when: &str, load: &Load, since: &mut (Instant, u64)) {
    let (rss, n_files, disk) = weigh(load.mesh);
    let n_calls = load.n_calls.load(Ordering::Relaxed);
    let rate = (n_calls - since.1) as f64 / since.0.elapsed().as_secs_f64();
    *since = (Instant::now(), n_calls);
    println!("{when:<26} {:>10} {n_files:>7} {:>11} {rate:>8.0}", size(rss), size(disk));
}

/// Lets this process open thousands of connections. The limit of the broker does not change.
fn open_many() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    println!("limit of open files: {} for the broker", limit.current.map_or("none".into(), |n| n.to_string()));
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .expect("up to the hard limit");
}

/// Opens many connections that send nothing.
fn idle(load: &Load, n_idle: usize) -> Vec<UnixStream> {
    let path = load.mesh.dir().join("mesh.sock");
    (0..n_idle).map(|_| UnixStream::connect(&path).expect("a socket")).collect()
}

/// The measured clients. They connect before the hostile clients and the idle connections.
struct Others {
    writer: Line,
    watched: Session,
    web: Http,
    post: String,
    echo: Line,
    _server: floor::Server,
}

impl Others {
    fn new(mesh: &Mesh) -> Others {
        let (web, auth) = mesh.http();
        let body = json!({ "action": "get", "key": "port" }).to_string();
        let post =
            format!("POST /state HTTP/1.1\r\nHost: localhost\r\n{auth}Content-Length: {}\r\n\r\n{body}", body.len());
        let (server, path) = floor::echo(&mesh.scratch);
        let echo = floor::echo_line(&path, &set_line());
        let mut others =
            Others { writer: mesh.attach("writer"), watched: mesh.session(), web, post, echo, _server: server };
        others.watched.tool(&get_line());
        others
    }

    fn call<'a>(&'a mut self, load: &'a Load, threads: &'a thread::Scope<'a, '_>) {
        let Others { writer, watched, web, post, echo, .. } = self;
        let every = Duration::from_millis;
        threads.spawn(move || {
            steadily(load, "echo, the machine's own", every(10), |_| assert!(echo.ask(&set_line()).len() > 2))
        });
        threads.spawn(move || steadily(load, "socket, set", every(10), |_| assert!(writer.ask(&set_line()).len() > 2)));
        threads.spawn(move || steadily(load, "MCP, get", every(40), |_| watched.tool(&get_line())));
        threads.spawn(move || steadily(load, "HTTP, get", every(20), |_| assert!(web.ask(post.as_bytes()) > 2)));
    }
}

fn set_line() -> Vec<u8> {
    request("state.set", &json!({ "key": "port", "value": "8080" }))
}

fn get_line() -> Vec<u8> {
    tool("mesh_state", json!({ "action": "get", "key": "port" }))
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, path] = &words[..]
        && flag == "--echo"
    {
        // The benchmark has started this process as its echo server.
        return floor::serve_echo(path);
    }
    let mut numbers = words.iter().filter_map(|word| word.parse::<f64>().ok());
    let (minutes, n_idle) = (numbers.next().unwrap_or(10.0), numbers.next().unwrap_or(1000.0) as usize);
    let mesh = Mesh::started();
    let load = Load {
        mesh: &mesh,
        done: AtomicBool::new(false),
        n_calls: AtomicU64::new(0),
        n_pests: AtomicU64::new(0),
        n_drops: AtomicU64::new(0),
        n_served: AtomicU64::new(0),
        n_unserved: AtomicU64::new(0),
        times: Mutex::default(),
    };
    println!("{}, {minutes} minutes, {n_idle} idle connections", place::program().display());
    open_many();
    run(&load, Duration::from_secs_f64(minutes * 60.0), n_idle);
    end(&load);
}

fn run(load: &Load, lasts: Duration, n_idle: usize) {
    let mut since = (Instant::now(), 0);
    println!("{:<26} {:>10} {:>7} {:>11} {:>8}", "broker", "memory", "files", "database", "calls/s");
    row("started", load, &mut since);
    let mut sessions: Vec<Session> = (0..N_SESSIONS).map(|_| load.mesh.session()).collect();
    sessions.iter_mut().for_each(|session| session.tool(&get_line()));
    let mut peers: Vec<Line> = (0..N_PEERS).map(|n| load.mesh.attach(&format!("peer-{n}"))).collect();
    let mut others = Others::new(load.mesh);
    row("a hundred sessions", load, &mut since);
    thread::scope(|threads| {
        threads.spawn(|| hostile_clients::never_read(load));
        threads.spawn(|| hostile_clients::babble_on_the_socket(load));
        threads.spawn(|| hostile_clients::babble_over_http(load));
        while load.n_pests.load(Ordering::Relaxed) < 10 {
            thread::yield_now();
        }
        let idle = idle(load, n_idle);
        let part = N_PEERS.div_ceil(N_THREADS);
        for (n, peers) in peers.chunks_mut(part).enumerate() {
            threads.spawn(move || chat(load, n * part, peers));
        }
        threads.spawn(|| chat_over_mcp(load, &mut sessions));
        threads.spawn(|| come_anew(load));
        others.call(load, threads);
        let began = Instant::now();
        for n in 1..=10 {
            thread::sleep((lasts * n / 10).saturating_sub(began.elapsed()));
            row(&format!("after {:.1} minutes", began.elapsed().as_secs_f64() / 60.0), load, &mut since);
        }
        load.done.store(true, Ordering::Relaxed);
        drop(idle);
    });
    drop((peers, sessions, others));
    thread::sleep(Duration::from_secs(3));
    row("3 s after all left", load, &mut since);
}

fn end(load: &Load) {
    println!("\n{:<26} {:>8} {:>11} {:>11} {:>11}", "the others", "calls", "median", "p99", "slowest");
    for (name, times) in load.times.lock().expect("no thread panicked with it").drain(..) {
        let n_times = times.len();
        let samples = Samples::new(times);
        println!(
            "{name:<26} {n_times:>8} {:>11} {:>11} {:>11}",
            span(samples.at(0.5)),
            span(samples.at(0.99)),
            span(samples.at(1.0))
        );
    }
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    println!("newcomers: {} served, {} not within 2 s", count(&load.n_served), count(&load.n_unserved));
    println!(
        "the deaf and the senseless: {} writes, {} times shown the door",
        count(&load.n_pests),
        count(&load.n_drops)
    );
}
