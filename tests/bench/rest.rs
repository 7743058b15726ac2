//! Measures a process: its start, its memory, its size on disk, and its wake-ups while it is idle.

use super::figures::{Reach, Row, Samples, Table, micros_since, size};
use super::place::{Line, Mesh, is_static, program, tool};
use serde_json::json;
use std::time::{Duration, Instant};

/// After this time without calls, the broker is idle. The grace periods of its peers are over, and the write-ahead log
/// has been copied into the database.
const SETTLES: Duration = Duration::from_secs(6);
/// How long the idle broker is watched.
const WATCHED: Duration = Duration::from_secs(8);

/// Times the start of a session as a client sees it, from the start of the process to the first result of a tool.
pub fn session(table: &mut Table) {
    let mut mesh = Mesh::new();
    let line = tool("mesh_state", json!({ "action": "get", "key": "port" }));
    let first = |mesh: &Mesh| {
        let began = Instant::now();
        let mut session = mesh.session();
        session.tool(&line);
        micros_since(began)
    };
    // The first session of a mesh makes the directory and the database, so each of these eight sessions gets a new
    // mesh.
    let fresh = (0..8).map(|_| first(&Mesh::new())).collect();
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..15 {
        mesh.stop();
        cold.push(first(&mesh));
        (0..4).for_each(|_| warm.push(first(&mesh)));
    }
    table.times("session, cold, new directory", &Samples::new(fresh), None, Reach::Median(10_000.0));
    table.times("session, cold", &Samples::new(cold), None, Reach::Median(2_500.0));
    table.times("session, warm", &Samples::new(warm), None, Reach::Median(1_000.0));
}

/// The resident and the proportional memory of a process, in bytes. Both values are exact. (`VmRSS` may be wrong by a
/// few pages.)
pub fn memory_of(pid: u32) -> (f64, f64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("Linux tells");
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("its line");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0
    };
    (bytes("Rss:"), bytes("Pss:"))
}

/// Measures the memory of a session, of the broker alone, and of the broker with a hundred sessions.
pub fn memory(table: &mut Table) {
    let mesh = Mesh::started();
    mesh.line().call("state.set", &json!({ "key": "port", "value": "8080" }));
    std::thread::sleep(Duration::from_secs(1));
    let idle = memory_of(mesh.pid());
    let peers: Vec<Line> = (0..100).map(|n| mesh.attach(&format!("peer-{n}"))).collect();
    std::thread::sleep(Duration::from_secs(1));
    let full = memory_of(mesh.pid());
    drop(peers);
    let mut session = mesh.session();
    session.tool(&tool("mesh_state", json!({ "action": "set", "key": "port", "value": "8080" })));
    let one = memory_of(session.child.id());
    for (work, (rss, pss), most) in [
        ("memory, broker idle", idle, 5.0),
        ("memory, broker with 100 sessions", full, 6.0),
        ("memory, a session", one, 3.0),
    ] {
        table.row(Row {
            work: work.into(),
            figure: size(rss),
            p99: format!("Pss {:.2}", pss / 1e6),
            floor: "-".into(),
            ratio: "-".into(),
            reach: format!("{most} MB"),
            reached: rss <= most * 1e6,
        });
    }
}

/// Measures the size of the program file.
pub fn disk(table: &mut Table) {
    let bytes = std::fs::metadata(program()).expect("the program is there").len() as f64;
    let most = if is_static() { 4.8 } else { 4.0 };
    table.row(Row {
        work: "on disk".into(),
        figure: size(bytes),
        p99: "-".into(),
        floor: "-".into(),
        ratio: "-".into(),
        reach: format!("{most} MB"),
        reached: bytes <= most * 1e6,
    });
}

/// How many context switches the threads of a process have had.
fn switches(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("Linux tells").flatten();
    let texts = tasks.map(|task| std::fs::read_to_string(task.path().join("status")).expect("its status"));
    let counts = texts.map(|text| {
        let lines = text.lines().filter(|line| line.contains("ctxt_switches"));
        lines.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum::<u64>()
    });
    counts.sum()
}

/// Counts the wake-ups of an idle broker with an attached session that sends nothing.
pub fn idle(table: &mut Table) {
    let mesh = Mesh::started();
    let mut peer = mesh.attach("quiet");
    peer.call("state.set", &json!({ "key": "port", "value": "8080" }));
    std::thread::sleep(SETTLES);
    // From here on, nothing should wake the broker.
    let before = switches(mesh.pid());
    std::thread::sleep(WATCHED);
    let n = switches(mesh.pid()) - before;
    table.row(Row {
        work: "idle broker, wake-ups in 8 s".into(),
        figure: n.to_string(),
        p99: "-".into(),
        floor: "0".into(),
        ratio: "-".into(),
        reach: "0".into(),
        reached: n == 0,
    });
}
