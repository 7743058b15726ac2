//! Measures viewers that watch fifty agents at work: how soon a viewer sees an event, and how much CPU time the broker
//! uses.

use super::figures::{Reach, Row, Samples, Table};
use super::place::{Line, Mesh, request};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const N_AGENTS: usize = 50;
/// The time between two events, for two hundred events a second.
const PACE: Duration = Duration::from_millis(5);
const N_EVENTS: usize = 3000;
/// The broker's CPU use with a viewer, as a multiple of its CPU use without one.
const DEARER_MAX: f64 = 1.1;
/// How many ticks `/proc` counts in a second.
const TICKS: f64 = 100.0;

/// A thread that returns the time at which it saw each event.
type Seen = JoinHandle<Vec<Instant>>;

/// Measures the web page and `watch --plain`. The broker's CPU use is compared with its CPU use without a viewer.
pub fn web(table: &mut Table) {
    let (_, alone) = load(|_| None);
    let (page, cost) = load(|mesh| Some(page(mesh)));
    table.times("page, event seen (50 agents, 200/s)", &page, None, Reach::MedianAndP99(100_000.0, 100_000.0));
    row(table, cost, alone);
    let (lines, cost) = load(|mesh| Some(watch(mesh)));
    table.times("watch --plain, event seen", &lines, None, Reach::MedianAndP99(100_000.0, 100_000.0));
    row(table, cost, alone);
}

fn row(table: &mut Table, cost: f64, alone: f64) {
    let percent = |cost: f64| format!("{cost:.1} %");
    let (figure, floor, ratio) = (percent(cost), percent(alone), format!("{:.2}", cost / alone));
    let reach = format!("{DEARER_MAX} x");
    let work = "  broker's CPU".into();
    table.row(Row { work, figure, floor, ratio, reach, reached: cost <= DEARER_MAX * alone, ..Row::blank() });
}

/// Lets the agents work while a viewer watches. Returns the measured times, and the broker's CPU use as a percentage of
/// one core. A measurement begins when a call is written, and ends when the viewer sees the call's event. Without a
/// viewer, the times are zero.
fn load(look: impl Fn(&Mesh) -> Option<Seen>) -> (Samples, f64) {
    let mesh = Mesh::started();
    let mut peers: Vec<Line> = (0..N_AGENTS).map(|n| mesh.attach(&format!("agent-{n}"))).collect();
    let looker = look(&mesh);
    let mut sent = Vec::with_capacity(N_EVENTS);
    let (ticks, began) = (ticks_of(mesh.pid()), Instant::now());
    for n in 0..N_EVENTS {
        std::thread::sleep((PACE * n as u32).saturating_sub(began.elapsed()));
        let line = request("state.set", &json!({ "key": format!("key-{}", n % 40), "value": format!("event {n}.") }));
        sent.push(Instant::now());
        peers[n % N_AGENTS].ask(&line);
    }
    let part = (ticks_of(mesh.pid()) - ticks) / TICKS / began.elapsed().as_secs_f64();
    let seen = looker.map_or_else(|| sent.clone(), |looker| looker.join().expect("it sees all of them"));
    assert_eq!(seen.len(), N_EVENTS);
    let micros = sent.iter().zip(seen).map(|(sent, seen)| (seen - *sent).as_secs_f64() * 1e6);
    (Samples::new(micros.collect()), part * 100.0)
}

/// The CPU time of all threads of a process, in ticks.
fn ticks_of(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("Linux tells");
    let rest = stat.rsplit(')').next().expect("a name in brackets");
    let time = |n: usize| rest.split_whitespace().nth(n).and_then(|word| word.parse::<f64>().ok()).expect("a number");
    time(11) + time(12)
}

/// Reads the lines of an event stream in a thread, and records when each event arrived. The events are numbered and
/// arrive in the order of their numbers.
fn note(mut lines: impl BufRead + Send + 'static) -> Seen {
    std::thread::spawn(move || {
        let (mut seen, mut line) = (Vec::with_capacity(N_EVENTS), String::new());
        while seen.len() < N_EVENTS {
            line.clear();
            assert!(lines.read_line(&mut line).expect("text") > 0, "the line broke");
            let now = Instant::now();
            while line.contains(&format!("event {}.", seen.len())) {
                seen.push(now);
            }
        }
        seen
    })
}

/// Opens the web page without a browser, and watches its events.
fn page(mesh: &Mesh) -> Seen {
    let out = mesh.command(&["web", "--json"]).stdout(Stdio::piped()).output().expect("a link");
    let link: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let link = link["url"].as_str().expect("a link").trim_start_matches("http://");
    let (host, path) = link.split_once('/').expect("a path");
    let ask = |head: String| {
        let mut stream = TcpStream::connect(host).expect("the broker's port");
        write!(stream, "{head}Host: {host}\r\nContent-Length: 0\r\n\r\n").expect("it reads");
        let mut lines = BufReader::new(stream);
        let (mut head, mut word) = (String::new(), String::new());
        while !head.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut head).expect("a head") > 0, "no head");
        }
        if let Some(cookie) = head.lines().find_map(|line| line.strip_prefix("Set-Cookie: ")) {
            word = cookie.split(';').next().expect("a cookie").to_owned();
        }
        (lines, head, word)
    };
    let (_, _, cookie) = ask(format!("GET /{path} HTTP/1.1\r\n"));
    let own = format!("Origin: http://{host}\r\nCookie: {cookie}\r\nContent-Type: application/json\r\n");
    let (mut answer, ..) = ask(format!("POST /web/key HTTP/1.1\r\nConnection: close\r\n{own}"));
    let mut key = String::new();
    std::io::Read::read_to_string(&mut answer, &mut key).expect("a key");
    let key: Value = serde_json::from_str(&key).expect("JSON");
    let key = key["key"].as_str().expect("a key");
    let (lines, head, _) = ask(format!("POST /web/events HTTP/1.1\r\nX-Mesh-Page: {key}\r\n{own}"));
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    note(lines)
}

/// Starts `watch --plain`, which prints the terminal's view as lines. Returns after the first line has been printed.
fn watch(mesh: &Mesh) -> Seen {
    let mut child = mesh.command(&["watch", "--plain"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    let is_there = Arc::new(AtomicBool::new(false));
    let (mut probe, heard) = (mesh.line(), Arc::clone(&is_there));
    let prober = std::thread::spawn(move || {
        while !heard.load(Ordering::Acquire) {
            probe.call("state.set", &json!({ "as": "human", "key": "probe", "value": "hello" }));
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    assert!(lines.read_line(&mut String::new()).expect("text") > 0, "watch ended");
    is_there.store(true, Ordering::Release);
    prober.join().expect("it ends");
    std::thread::spawn(move || {
        let seen = note(lines).join().expect("it sees all of them");
        child.kill().expect("a child of ours");
        child.wait().expect("a child of ours");
        seen
    })
}
