//! Measures several hubs that share a log in etcd: the cost of a write, the delay of a standby, and how long clients
//! wait if a hub or a member of etcd dies. All processes run on this machine and use the same disk.

use super::calls::VALUE;
use super::cluster::{Cluster, is_installed};
use super::figures::{Reach, Row, Samples, Table, in_turns, micros_since};
use super::place::{Line, Mesh, request};
use serde_json::{Value, json};
use slm_mesh::base::id_types::{EntryStamp, LogId};
use slm_mesh::replication::{Append, Election, LogEntry, Position, ReplicatedLog};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

/// The duration of a hub's lease, in seconds. This is also the default of `SLM_MESH_LEASE`.
const LEASE_SECONDS: u64 = 3;
/// The number of clients that write at the same time, and the number of entries that each of them sets.
const N_CLIENTS: usize = 32;
const N_SETS: usize = 1250;
/// How many times a hub is killed. A member of etcd is killed just as often.
const N_KILLS: u32 = 5;
/// The pause between two checks of a condition.
const ASK_EVERY: Duration = Duration::from_millis(1);
/// The maximum time to wait for a condition.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs all these measurements on two hubs.
pub fn hubs(table: &mut Table) {
    if !is_installed() {
        return;
    }
    let mut cluster = Cluster::start_in(std::path::Path::new("/var/tmp"));
    let store = format!("etcd://{}/slm", cluster.hosts().join(","));
    let (mut first, mut second) = (Mesh::hub_over(&store, LEASE_SECONDS), Mesh::hub_over(&store, LEASE_SECONDS));
    one_write(table, &cluster, &first);
    lag(table, &first, &second);
    second.stop();
    let n_before = position(&first);
    many_writes(table, &first);
    log_size(table, &cluster, n_before);
    replay(table, &first, &mut second);
    etcd_dies(table, &mut cluster, [&first, &second]);
    hub_dies(table, &mut first, &mut second);
}

fn set_line(n: usize) -> Vec<u8> {
    request("state.set", &json!({ "key": format!("k{}", n % 500), "value": VALUE }))
}

/// Asks a hub for its status, which contains the hub's role.
fn status(hub: &Mesh) -> Value {
    hub.line().call("hub.status", &json!({}))["result"].clone()
}

fn position(hub: &Mesh) -> u64 {
    status(hub)["position"].as_u64().expect("a hub has a position")
}

/// Waits until `holds` returns true. Returns the time since `began` in microseconds.
fn micros_until(began: Instant, mut holds: impl FnMut() -> bool) -> f64 {
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "it does not happen");
        thread::sleep(ASK_EVERY);
    }
    micros_since(began)
}

/// Times the writes of one client that waits for each answer. The floor is the time to store an entry of the same size
/// directly in etcd.
fn one_write(table: &mut Table, cluster: &Cluster, hub: &Mesh) {
    let mut line = hub.attach("one");
    let mut log = cluster.log("floor", None);
    let Ok(Election::Won(term)) = log.lead("floor:1") else { panic!("nobody else leads") };
    let (changes, previous) = (vec![b'x'; 300], EntryStamp::default());
    let entry = LogEntry { log: LogId(1), schema: 1, term, now: 0, previous, changes };
    let (mut n, mut at) = (0, Position(0));
    let mut set = || {
        n += 1;
        assert!(line.ask(&set_line(n)).starts_with(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\""));
    };
    let mut append = || {
        at = at.next();
        assert_eq!(log.append(at, &entry), Append::Stored);
    };
    let samples = in_turns(20, 50, &mut [&mut set, &mut append]);
    table.times("hubs: set", &samples[0], Some(samples[1].median()), Reach::MedianAndP99(3000.0, 15_000.0));
}

/// Measures the time from the answer to a write until the standby has stored the write.
fn lag(table: &mut Table, leader: &Mesh, standby: &Mesh) {
    let (mut line, mut asked) = (leader.attach("lag"), standby.line());
    let mut micros = Vec::new();
    for n in 0..100 {
        line.ask(&set_line(n));
        let began = Instant::now();
        let wanted = position(leader);
        let has =
            |asked: &mut Line| asked.call("hub.status", &json!({}))["result"]["position"].as_u64() >= Some(wanted);
        micros.push(micros_until(began, || has(&mut asked)));
    }
    table.times("hubs: lag of a standby", &Samples::new(micros), None, Reach::MedianAndP99(50_000.0, 50_000.0));
}

/// Measures how many writes per second are acknowledged if many clients write at the same time. Each client waits for
/// every answer.
fn many_writes(table: &mut Table, hub: &Mesh) {
    let lines: Vec<Line> = (0..N_CLIENTS).map(|n| hub.attach(&format!("client-{n}"))).collect();
    let began = Instant::now();
    thread::scope(|scope| {
        for (n, mut line) in lines.into_iter().enumerate() {
            scope.spawn(move || (0..N_SETS).for_each(|m| assert!(line.ask(&set_line(n * N_SETS + m)).len() > 2)));
        }
    });
    let per_second = (N_CLIENTS * N_SETS) as f64 / began.elapsed().as_secs_f64();
    table.row(Row {
        work: format!("hubs: sets by {N_CLIENTS} clients"),
        figure: format!("{per_second:.0}/s"),
        reach: ">= 5000/s".into(),
        reached: per_second >= 5000.0,
        ..Row::blank()
    });
}

/// Measures how many bytes a write needs in the shared log, on average over the writes after `n_before`.
fn log_size(table: &mut Table, cluster: &Cluster, n_before: u64) {
    let mut log = cluster.log("slm", None);
    let (mut at, mut n_bytes) = (Position(n_before + 1), 0);
    loop {
        let entries = log.follow(at).expect("the log can be read");
        let Some((last, _)) = entries.last() else { break };
        at = last.next();
        n_bytes += entries.iter().map(|(_, entry)| entry.to_bytes().len()).sum::<usize>();
    }
    let for_each = n_bytes as f64 / (N_CLIENTS * N_SETS) as f64;
    table.row(Row {
        work: "hubs: log of one set".into(),
        figure: format!("{for_each:.0} bytes"),
        reach: "500 bytes".into(),
        reached: for_each <= 500.0,
        ..Row::blank()
    });
}

/// Measures how long a restarted standby needs to apply the writes that it has missed. Each write changes at least two
/// rows.
fn replay(table: &mut Table, leader: &Mesh, standby: &mut Mesh) {
    let wanted = position(leader);
    let began = Instant::now();
    standby.start();
    let mut asked = standby.line();
    let has_all = || asked.call("hub.status", &json!({}))["result"]["position"].as_u64() >= Some(wanted);
    let micros = micros_until(began, has_all);
    let work = format!("hubs: replay of {} sets", N_CLIENTS * N_SETS);
    table.times(&work, &Samples::new(vec![micros]), None, Reach::Median(2_000_000.0));
}

/// Whether a hub accepts this write. Each call makes a new connection, because a hub closes its connections when it is
/// no longer the leader.
fn accepts(hub: &Mesh, line: &[u8]) -> bool {
    let answer = || -> io::Result<String> {
        let mut socket = UnixStream::connect(hub.dir().join("mesh.sock"))?;
        socket.write_all(line)?;
        let mut answer = String::new();
        BufReader::new(socket).read_line(&mut answer)?;
        Ok(answer)
    };
    answer().is_ok_and(|answer| answer.contains("\"result\""))
}

/// Kills the leading member of etcd, and then measures the longest time without an answer. The leading hub may also
/// lose its role.
fn etcd_dies(table: &mut Table, cluster: &mut Cluster, hubs: [&Mesh; 2]) {
    let mut micros = Vec::new();
    for _ in 0..N_KILLS {
        let member = cluster.etcd_leader();
        cluster.kill(member);
        let (killed, mut longest) = (Instant::now(), 0.0_f64);
        while killed.elapsed() < Duration::from_secs(4) {
            let is_stored = || hubs.iter().any(|hub| accepts(hub, &set_line(0)));
            longest = longest.max(micros_until(Instant::now(), is_stored));
        }
        micros.push(longest);
        cluster.start_member(member);
        cluster.wait_until_healthy();
    }
    table.times("hubs: etcd's leader is killed", &Samples::new(micros), None, Reach::Median(2_000_000.0));
}

/// Measures the time from the death of the leading hub to the first answer of the other hub.
fn hub_dies(table: &mut Table, first: &mut Mesh, second: &mut Mesh) {
    let (mut leader, mut standby) = if status(first)["role"] == "leads" { (first, second) } else { (second, first) };
    let mut micros = Vec::new();
    for n in 0..N_KILLS {
        let wanted = position(leader);
        micros_until(Instant::now(), || position(standby) >= wanted && status(standby)["leader"].is_string());
        // A hub renews its lease three times within the lease's duration. After a kill, no hub leads until the lease
        // has expired. This wait is longest if the kill comes right after a renewal. So the kills are spread over the
        // time between two renewals.
        thread::sleep(Duration::from_secs(LEASE_SECONDS) / 3 * n / N_KILLS);
        leader.kill();
        let began = Instant::now();
        micros.push(micros_until(began, || accepts(standby, &set_line(0))));
        leader.start();
        std::mem::swap(&mut leader, &mut standby);
    }
    let most = Duration::from_secs(LEASE_SECONDS) + Duration::from_millis(300);
    table.times("hubs: take-over", &Samples::new(micros), None, Reach::Median(most.as_secs_f64() * 1e6));
}
