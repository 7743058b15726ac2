//! Times a push, a broadcast, clients that send calls without waiting for answers, and a steady load.

use super::bare_broker::BareBroker;
use super::calls::VALUE;
use super::figures::{Reach, Row, Samples, Table, in_turns, micros_since, span};
use super::filled_store::{bare_sets, bare_sets_per_second, key};
use super::place::{Line, Mesh, Scratch, request};
use serde_json::json;
use std::io::Write;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

/// The number of sessions that receive a broadcast.
const N_HEARERS: usize = 100;
/// The clients that do not wait for each answer: how many there are, how many calls they send in one write, and how
/// many writes they send before they read an answer.
const N_CLIENTS: usize = 8;
const N_LINES: usize = 32;
const N_AHEAD: usize = 2;
/// How many writes each client sends in one round, and how many rounds there are.
const N_WRITES: usize = 40;
const N_ROUNDS: usize = 5;
/// The steady load: the time between two calls, and how long the load lasts.
const PACE: Duration = Duration::from_millis(1);
const LASTS: Duration = Duration::from_secs(40);
/// How much longer than the slowest call of a bare loop the slowest call may take, in microseconds.
const SLOWER_MAX: f64 = 10_000.0;

fn set_line(n: usize) -> Vec<u8> {
    request("state.set", &json!({ "key": key(n), "value": VALUE }))
}

/// Times a `send`, from the sender's write until the notice arrives on the recipient's socket.
pub fn push(table: &mut Table) {
    let mesh = Mesh::started();
    let bare = BareBroker::start(&mesh.scratch);
    let times = push_times(mesh.attach("sender"), mesh.attach("reader"));
    table.times("push, send to arrival", &times, None, Reach::Median(40.0));
    table.bare(&push_times(bare.attach("sender"), bare.attach("reader")), None);
}

fn push_times(mut sender: Line, mut reader: Line) -> Samples {
    let line = request("send", &json!({ "to": "reader", "message": VALUE }));
    let mut times = Vec::new();
    for _ in 0..3000 {
        let began = Instant::now();
        sender.send(&line);
        assert!(reader.read().len() > 2);
        times.push(micros_since(began));
        sender.read();
    }
    Samples::new(times)
}

/// Measures how long a `send` to all peers takes, from the sender's write until all of the hundred recipients have
/// received the notice.
pub fn broadcast(table: &mut Table) {
    let mesh = Mesh::started();
    let bare = BareBroker::start(&mesh.scratch);
    let (mut ours, mut of_bare) =
        (broadcast_round(|name| mesh.attach(name)), broadcast_round(|name| bare.attach(name)));
    let samples = in_turns(10, 25, &mut [&mut ours, &mut of_bare]);
    table.times("broadcast to 100, the last", &samples[0], None, Reach::Median(700.0));
    table.bare(&samples[1], None);
}

fn broadcast_round(attach: impl Fn(&str) -> Line) -> impl FnMut() {
    let mut sender = attach("sender");
    let mut hearers: Vec<Line> = (0..N_HEARERS).map(|n| attach(&format!("hearer-{n}"))).collect();
    let line = request("send", &json!({ "to": "all", "message": VALUE }));
    move || {
        sender.send(&line);
        for hearer in &mut hearers {
            assert!(hearer.read().len() > 2);
        }
        sender.read();
    }
}

/// Measures how many durable writes per second are possible if clients send calls without waiting for answers.
pub fn writes(table: &mut Table) {
    let mesh = Mesh::started();
    let bare_broker = BareBroker::start(&mesh.scratch);
    let clients = |attach: &dyn Fn(&str) -> Line| -> Vec<Line> {
        (0..N_CLIENTS).map(|n| attach(&format!("client-{n}"))).collect()
    };
    let (mut of_ours, mut of_bare) = (clients(&|name| mesh.attach(name)), clients(&|name| bare_broker.attach(name)));
    let batches: Vec<Vec<u8>> =
        (0..N_WRITES).map(|n| (0..N_LINES).flat_map(|line| set_line(n * N_LINES + line)).collect()).collect();
    let n_sets = N_CLIENTS * N_WRITES * N_LINES;
    let (mut ours, mut bare, mut bare_broker) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..N_ROUNDS {
        let scratch = Scratch::new();
        let file = scratch.path.join("bare.db");
        // The store's code creates the tables. After that, only SQLite is measured.
        drop(slm_mesh::store::Store::open(&file, false).expect("a store"));
        bare.push(bare_sets_per_second(&file, n_sets, 32));
        ours.push(n_sets as f64 / pipeline(&mut of_ours, &batches).as_secs_f64());
        bare_broker.push(n_sets as f64 / pipeline(&mut of_bare, &batches).as_secs_f64());
    }
    let [ours, bare, bare_broker] = [ours, bare, bare_broker].map(|rates| Samples::new(rates).median());
    table.row(Row {
        work: "durable writes, 8 pipelining clients".into(),
        figure: format!("{ours:.0}/s"),
        p99: "-".into(),
        floor: format!("{bare:.0}/s"),
        ratio: format!("{:.2}", ours / bare),
        reach: ">= 0.8 x".into(),
        reached: ours >= 0.8 * bare,
    });
    table.bare_cells(
        &format!("{bare_broker:.0}/s"),
        "-",
        &format!("{bare:.0}/s"),
        &format!("{:.2}", bare_broker / bare),
    );
}

/// Sends each client's batches without waiting for answers, and returns the time until all answers have arrived.
fn pipeline(clients: &mut [Line], batches: &[Vec<u8>]) -> Duration {
    let began = Instant::now();
    for n in 0..batches.len() + N_AHEAD {
        for client in &mut *clients {
            if let Some(batch) = batches.get(n) {
                client.send(batch);
            }
            if n >= N_AHEAD {
                (0..N_LINES).for_each(|_| assert!(client.read().len() > 2));
            }
        }
    }
    began.elapsed()
}

/// Makes a thousand `state.set` calls a second. Each call is made on time, whether or not the previous call has been
/// answered.
pub fn steady(table: &mut Table) {
    let mesh = Mesh::started();
    let mut line = mesh.attach("writer");
    let mut writer = line.writer();
    let (sent, times) = channel::<Instant>();
    let pacer = thread::spawn(move || {
        let lines: Vec<Vec<u8>> = (0..500).map(set_line).collect();
        let began = Instant::now();
        let mut next = began;
        for line in lines.iter().cycle() {
            next += PACE;
            thread::sleep(next.saturating_duration_since(Instant::now()));
            if next - began > LASTS {
                return;
            }
            // This fails only if the reading thread has panicked. In that case, its panic makes the benchmark fail.
            let _ = sent.send(Instant::now());
            writer.write_all(line).expect("the broker reads");
        }
    });
    let log = mesh.dir().join("broker.db-wal");
    let (mut micros, mut log_max) = (Vec::new(), 0);
    while let Ok(began) = times.recv() {
        assert!(line.read().len() > 2);
        micros.push(micros_since(began));
        if micros.len() % 256 == 0 {
            log_max = log_max.max(std::fs::metadata(&log).map_or(0, |file| file.len()));
        }
    }
    pacer.join().expect("the pacer ends");
    let samples = Samples::new(micros);
    table.times("1,000 sets/s for 40 s", &samples, None, Reach::MedianAndP99(1000.0, 500.0));
    let (max, max_of_bare) = (samples.at(1.0), slowest_bare_set());
    let work = "  the slowest, against a bare loop".into();
    let (figure, floor, reach) = (span(max), span(max_of_bare), format!("+ {}", span(SLOWER_MAX)));
    table.row(Row { work, figure, floor, reach, reached: max <= max_of_bare + SLOWER_MAX, ..Row::blank() });
    let (log_max, reach) = (log_max as f64, "24 MB".into());
    let (work, figure) = ("  WAL".into(), super::figures::size(log_max));
    table.row(Row { work, figure, reach, reached: log_max <= 24e6, ..Row::blank() });
}

/// Runs the steady load in a bare loop of SQLite, and returns the longest time of one set in microseconds.
fn slowest_bare_set() -> f64 {
    let scratch = Scratch::new();
    let file = scratch.path.join("bare.db");
    drop(slm_mesh::store::Store::open(&file, false).expect("a store"));
    let began = Instant::now();
    let mut times = Vec::new();
    let mut due = began;
    bare_sets(&file, (LASTS.as_micros() / PACE.as_micros()) as usize, 1, |_| {
        times.push(micros_since(due));
        due = (due + PACE).max(Instant::now());
        thread::sleep(due.saturating_duration_since(Instant::now()));
    });
    Samples::new(times).at(1.0)
}

/// Times a page of the list of peers while many sessions are online.
pub fn peers(table: &mut Table) {
    let mesh = Mesh::started();
    let mut asker = mesh.attach("asker");
    let line = request("peers", &json!({ "scope": "machine" }));
    let mut sessions = Vec::new();
    for n_sessions in [100, 1000] {
        sessions.extend((sessions.len()..n_sessions).map(|n| mesh.attach(&format!("session-{n}"))));
        let samples = in_turns(10, 20, &mut [&mut || assert!(asker.ask(&line).len() > 2)]);
        table.times(&format!("peers, a page of {n_sessions}"), &samples[0], None, Reach::Median(200.0));
    }
}
