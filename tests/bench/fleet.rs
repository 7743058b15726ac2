//! Measures what thousands of idle sessions from other machines cost a hub, and how long local callers wait while all
//! sessions reconnect at once. `make fleet` prints the results.
//!
//! One process acts as all sessions. Each session has a real connection, but no thread of its own.

#[allow(dead_code)] // each bench uses its part
mod figures;
#[allow(dead_code)]
mod place;

use figures::{Samples, micros_since, size, span};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use place::{Mesh, request};
use serde_json::{Value, json};
use slm_mesh::remote::encrypted_stream_to_hub::HubStream;
use slm_mesh::remote::guest_handshake_with_hub;
use slm_mesh::wire::line_splitter::LineBuffer;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The number of sessions on each machine.
const PER_MACHINE: usize = 5;
/// The time within which all sessions reconnect.
const STORM: Duration = Duration::from_secs(10);
/// The number of threads that connect sessions.
const N_CONNECTORS: usize = 8;
/// A secret in the form that `slm-mesh secret` prints. If the secret had a different form, deriving a key from it would
/// be slow.
const SECRET: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
/// How long the hub may take to become idle.
const SETTLE: Duration = Duration::from_secs(10);
/// How long the idle hub is watched.
const IDLE: Duration = Duration::from_secs(30);
/// How often a client on the hub's machine makes a call.
const LOCAL_EVERY: Duration = Duration::from_millis(5);

/// Connects a session. If `former` is given, the session is attached as this former peer. Returns the session's stream
/// and the id of its peer.
fn attach(mesh: &Mesh, n: usize, former: Option<&str>) -> (HubStream, String) {
    let port = mesh.http_port() + 1;
    let connected = guest_handshake_with_hub::connect("127.0.0.1", port, SECRET, n as u64, None);
    let mut stream = connected.unwrap_or_else(|error| panic!("session {n}: {}", error.text));
    let origin = json!({ "host": format!("machine-{}", n / PER_MACHINE), "user": "fleet", "ancestors": [] });
    let origin = json!({ "jsonrpc": "2.0", "method": "origin", "params": origin });
    let session = json!({
        "agent": "bench", "project": format!("/project-{}", n / 7), "pid": n + 2, "name": format!("session-{n}"), "id": former,
    });
    let lines = [format!("{origin}\n").into_bytes(), request("attach", &session)].concat();
    stream.write_all(&lines).expect("the hub reads");
    let (mut lines_in, mut buffer) = (LineBuffer::default(), [0; 4096]);
    let answer = loop {
        // Notifications from the hub may arrive before the answer.
        let line = lines_in.next_line().expect("a line is not too long").map(serde_json::from_slice::<Value>);
        match line.map(|line| line.expect("a line is JSON")) {
            Some(line) if line["id"] == json!(1) => break line,
            Some(_) => {}
            None => {
                let n_read = stream.read(&mut buffer).expect("the hub answers");
                assert!(n_read > 0, "session {n}: the hub hung up");
                lines_in.push(&buffer[..n_read]);
            }
        }
    };
    let id = answer["result"]["you"]["id"].as_str().unwrap_or_else(|| panic!("session {n}: {answer}"));
    (stream, id.to_owned())
}

/// The connected sessions, and the thread that serves them. Like a real session that waits for mail, this thread sends
/// pings and answers the hub's pings.
struct Fleet {
    ids: Vec<String>,
    shared: Arc<Streams>,
    keeper: Option<JoinHandle<()>>,
}

struct Streams {
    /// Each session's stream; `None` until the session is attached.
    slots: Vec<Mutex<Option<HubStream>>>,
    done: AtomicBool,
}

impl Fleet {
    /// Connects `n_sessions` sessions, spread evenly over the time `within`. If `former` contains an id for a session,
    /// the session is attached again as the peer with this id.
    fn connect(mesh: &Mesh, n_sessions: usize, within: Duration, former: &[String]) -> Fleet {
        let poll = Poll::new().expect("a poll");
        let registry = poll.registry().try_clone().expect("a descriptor");
        let slots = (0..n_sessions).map(|_| Mutex::new(None)).collect();
        let shared = Arc::new(Streams { slots, done: AtomicBool::new(false) });
        let keeper = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.keep(poll)
        });
        let ids: Vec<OnceLock<String>> = (0..n_sessions).map(|_| OnceLock::new()).collect();
        let (next, began) = (AtomicUsize::new(0), Instant::now());
        let connect_some = || {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= n_sessions {
                    return;
                }
                let at = within * n as u32 / n_sessions as u32;
                thread::sleep(at.saturating_sub(began.elapsed()));
                let (mut stream, id) = attach(mesh, n, former.get(n).map(String::as_str));
                stream.set_nonblocking(true);
                let fd = stream.as_fd().as_raw_fd();
                ids[n].set(id).expect("it is set once");
                *shared.slots[n].lock().expect("no thread panicked") = Some(stream);
                registry.register(&mut SourceFd(&fd), Token(n), Interest::READABLE).expect("it can be watched");
            }
        };
        thread::scope(|threads| (0..N_CONNECTORS).for_each(|_| drop(threads.spawn(connect_some))));
        let ids = ids.into_iter().map(|id| id.into_inner().expect("all are attached")).collect();
        Fleet { ids, shared, keeper: Some(keeper) }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Relaxed);
        let keeper = self.keeper.take().expect("it is joined once");
        keeper.join().expect("the hub kept all sessions");
    }
}

impl Streams {
    fn keep(&self, mut poll: Poll) {
        let mut events = Events::with_capacity(1024);
        let (mut next, mut looked_at) = (0, Instant::now());
        while !self.done.load(Ordering::Relaxed) {
            poll.poll(&mut events, Some(Duration::from_millis(50))).expect("it can wait");
            for Token(n) in events.iter().map(mio::event::Event::token) {
                self.serve(n);
            }
            // A real session that waits for mail also wakes when its next ping is due. So this loop serves each session
            // about once a second, even if nothing has arrived.
            let n_due = (self.slots.len() as f64 * looked_at.elapsed().as_secs_f64()) as usize;
            for _ in 0..n_due {
                next = (next + 1) % self.slots.len();
                self.serve(next);
                looked_at = Instant::now();
            }
        }
    }

    /// Reads what has arrived for a session, and sends the session's ping if a ping is due.
    fn serve(&self, n: usize) {
        if let Some(stream) = self.slots[n].lock().expect("no thread panicked").as_mut() {
            drain(stream);
        }
    }
}

/// Reads what has arrived.
fn drain(stream: &mut HubStream) {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => panic!("the hub hung up"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The memory of the hub, in bytes.
fn memory(mesh: &Mesh) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", mesh.pid())).expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its line");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0
}

/// The CPU time that the hub has used.
fn work(mesh: &Mesh) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", mesh.pid())).expect("Linux tells");
    let times = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok());
    let nanos = times.filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    Duration::from_nanos(nanos.sum())
}

/// Calls the hub from its own machine at a steady rate until `done` is set. Returns how long each call took, counted
/// from the moment when the call was due.
fn call_locally(mesh: &Mesh, done: &AtomicBool) -> Samples {
    let mut line = mesh.attach("local");
    let call = request("state.set", &json!({ "key": "port", "value": "8080" }));
    let (mut times, mut due) = (Vec::new(), Instant::now());
    while !done.load(Ordering::Relaxed) {
        due += LOCAL_EVERY;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        line.ask(&call);
        times.push(micros_since(due));
    }
    Samples::new(times)
}

/// Does `work` while a client on the hub's machine makes calls. Returns the result of `work`, and the times of the
/// calls.
fn beside_local_calls<T>(mesh: &Mesh, work: impl FnOnce() -> T) -> (T, Samples) {
    let done = AtomicBool::new(false);
    thread::scope(|threads| {
        let caller = threads.spawn(|| call_locally(mesh, &done));
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, caller.join().expect("the local caller is served"))
    })
}

fn row(what: &str, figure: &str, reach: &str, reached: bool) {
    println!("{what:<48} {figure:>28} {reach:>12} {:>8}", if reached { "yes" } else { "NO" });
}

fn calls_row(what: &str, samples: &Samples) {
    let (p99, slowest) = (samples.at(0.99), samples.at(1.0));
    let figure = format!("{} / {} / {}", span(samples.median()), span(p99), span(slowest));
    row(&format!("{what}: median / p99 / slowest"), &figure, "p99 5 ms", p99 <= 5000.0);
}

/// Lets this process open as many files as the system permits. Must be called before the hub is started.
fn open_many() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the hard limit");
}

fn main() {
    let n_sessions = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(5000);
    open_many();
    let mesh = Mesh::hub_with(SECRET);
    println!("{}, {n_sessions} sessions on {} machines", place::program().display(), n_sessions / PER_MACHINE);
    let alone = memory(&mesh);
    let fleet = Fleet::connect(&mesh, n_sessions, Duration::ZERO, &[]);
    // During this pause, the hub finishes the work that the arrival of the sessions causes.
    thread::sleep(SETTLE);
    let (before, began) = (work(&mesh), Instant::now());
    thread::sleep(IDLE);
    let share = (work(&mesh) - before).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    let grown = memory(&mesh) - alone;
    let each = grown as usize / n_sessions;
    row("memory of all idle sessions", &format!("{} ({each} B each)", size(grown)), "60 MB", grown <= 60e6);
    row("processor, idle", &format!("{share:.2} % of a core"), "1 %", share <= 1.0);
    let (_, samples) = beside_local_calls(&mesh, || thread::sleep(SETTLE));
    calls_row("a local set beside them", &samples);

    let (took, samples) = beside_local_calls(&mesh, || {
        let ids = fleet.ids.clone();
        drop(fleet);
        let began = Instant::now();
        let fleet = Fleet::connect(&mesh, n_sessions, STORM, &ids);
        let took = began.elapsed();
        assert_eq!(fleet.ids, ids, "each session is the peer that it was before");
        took
    });
    row(
        "storm: all back within 10 s",
        &format!("{:.1} s", took.as_secs_f64()),
        "15 s",
        took <= Duration::from_secs(15),
    );
    calls_row("a local set meanwhile", &samples);
}
