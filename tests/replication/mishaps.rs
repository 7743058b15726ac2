//! Tests what can happen to several hubs: all of them are down, a clock is wrong, etcd is full or loses a member, the
//! log is too long, or only one hub is upgraded.

use crate::cluster::{Cluster, is_installed};
use crate::hubs::{await_equal, await_level, guest, hub_status, kill, position, start, start_both};
use crate::support::{BIN, Place, faketime, until};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use slm_mesh::broker::leadership::{LogProgress, LogTrimThread};
use slm_mesh::replication::{Append, Election, LogEntry, LogError, Position, ReplicatedLog};
use slm_mesh::store::Store;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// Runs a verb (subcommand) under the given host name, and returns its output.
fn on(host: &str, place: &Place, args: &[&str]) -> String {
    let verb = place.command(args);
    let mut shell = Command::new("unshare");
    shell.args(["--uts", "sh", "-c", "hostname \"$0\" && exec \"$@\"", host, BIN]).args(verb.get_args()).env_clear();
    shell.envs(verb.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(&place.root);
    let out = shell.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{args:?} on {host}: {said}\n{}", place.log());
    String::from_utf8(out.stdout).unwrap()
}

fn json_on(host: &str, place: &Place, args: &[&str]) -> Value {
    serde_json::from_str(&on(host, place, &[args, &["--json"]].concat())).unwrap()
}

/// Whether the test can run programs under a different host name, which needs root.
fn has_host_names() -> bool {
    let may = Command::new("unshare").args(["--uts", "true"]).status().is_ok_and(|status| status.success());
    if !may {
        eprintln!("skipped: the test of host names needs root");
    }
    may
}

/// Environment variables that set a program's clock forward by an hour; none if libfaketime is not installed.
fn fast_clock() -> Vec<(String, String)> {
    faketime("+1h").unwrap_or_default()
}

fn newest_message(host: &str, place: &Place) -> Value {
    json_on(host, place, &["log"])["messages"].as_array().unwrap().last().unwrap().clone()
}

#[test]
fn people_and_time_go_on_when_all_hubs_were_down_and_one_is_back() {
    if !is_installed() || !has_host_names() {
        return;
    }
    let cluster = Cluster::start();
    let (mut first, second) = (cluster.hub("slm"), cluster.hub("slm"));
    // Hubs use each other's host names as addresses, so the host names of both hubs must lead to this machine.
    let desk = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let (desk, rack) = (desk.trim(), "localhost");
    on(desk, &first, &["start", "--detach"]);
    on(rack, &second, &["start", "--detach"]);
    await_level(&second);
    let guest = guest(&[&first, &second]);
    let people = |places: &[(&str, &Place)]| -> Vec<Value> {
        places.iter().map(|(host, place)| json_on(host, place, &["whoami"])["you"]["id"].clone()).collect()
    };
    let of_first = people(&[(desk, &first), (rack, &second), ("laptop", &guest)]);
    assert!(of_first[0] != of_first[1] && of_first[1] != of_first[2], "{of_first:?}");

    // The second hub is down. The first hub runs alone, with a clock that is an hour ahead.
    second.ok(&["stop"]);
    first.ok(&["stop"]);
    let clock = fast_clock();
    first.env.extend(clock.clone());
    on(desk, &first, &["start", "--detach"]);
    on("laptop", &guest, &["send", "human", "before"]);
    kill(&first);
    on(rack, &second, &["start", "--detach"]);
    until("the hub that is back leads", || hub_status(&second)["role"] == "leads");
    let before = newest_message("laptop", &guest);
    assert_eq!(before["payload"], "before", "nothing that was acknowledged is lost");
    on("laptop", &guest, &["send", "human", "after"]);
    let after = newest_message("laptop", &guest);
    assert_eq!(after["payload"], "after");
    let [before, after] = [before, after].map(|message| message["createdAt"].as_str().unwrap().to_owned());
    assert!(after >= before, "the mesh's time went back from {before} to {after}");

    // Each person must still have the same peer as when the first hub led.
    first.env.retain(|setting| !clock.contains(setting));
    on(desk, &first, &["start", "--detach"]);
    assert_eq!(people(&[(desk, &first), (rack, &second), ("laptop", &guest)]), of_first);
    first.ok(&["stop"]);
    second.ok(&["stop"]);
}

#[test]
fn a_hub_whose_clock_is_wrong_joins_an_idle_mesh_and_leads_without_ending_its_locks() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let (first, mut second) = (cluster.hub("slm"), cluster.hub("slm"));
    second.env.extend(fast_clock());
    start(&first);
    first.ok(&["lock", "/work/a.rs", "--ttl", "30"]);
    let idle_at = position(&first).unwrap();
    start(&second);
    // Nobody uses the mesh, so the only entry that can follow is the entry with the leader's time.
    until("the hub has heard of the time", || position(&second).is_some_and(|at| at > idle_at));
    kill(&first);
    until("the other hub leads", || hub_status(&second)["role"] == "leads");
    let locks = second.ok(&["lock", "list"]);
    assert!(locks.contains("/work/a.rs"), "half an hour is not over: {locks}");
    second.ok(&["stop"]);
}

#[test]
fn entries_are_small_and_a_long_log_is_trimmed() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    // There is only one hub. With a long lease, this hub stays the leader even if it renews the lease late.
    let hub = cluster.hub("slm").with("SLM_MESH_LEASE", "60");
    start(&hub);
    // Sixteen clients write at the same time. In one turn, a fast broker could read more than a megabyte of these
    // writes.
    let mut writers: Vec<_> = (0..16).map(|_| hub.socket()).collect();
    for round in 0..4 {
        let set =
            |n: usize| json!({ "key": n.to_string(), "value": format!("{round}.{n}").repeat(16_000), "as": "human" });
        let asked: Vec<i64> = writers.iter_mut().enumerate().map(|(n, one)| one.ask("state.set", set(n))).collect();
        for (writer, id) in writers.iter_mut().zip(asked) {
            let answer = std::iter::from_fn(|| writer.read()).find(|line| line["id"] == json!(id)).unwrap();
            assert!(answer["error"].is_null(), "{answer}");
        }
    }
    hub.ok(&["stop"]);
    let mut log = cluster.log("slm", None);
    let Ok(Election::Won(term)) = log.lead("hub:7900") else { panic!() };
    let entries = log.follow(Position(1)).unwrap();
    let sizes: Vec<usize> = entries.iter().map(|(_, entry)| entry.changes.len()).collect();
    let largest = *sizes.iter().max().unwrap();
    assert!((130_000..340_000).contains(&largest), "an entry ends soon after 256 KiB: {sizes:?}");

    // The thread that trims the log is told that the log is too long for etcd.
    let (mut last, entry) = entries.last().unwrap().clone();
    let progress = Arc::new(LogProgress::default());
    progress.note(last, 0);
    let thread = LogTrimThread::start(log.upkeep(), "hub:7900".into(), Arc::clone(&progress), Box::new(|| {}));
    until("the log is trimmed", || {
        last = last.next();
        assert_eq!(log.append(last, &LogEntry { term, ..entry.clone() }), Append::Stored);
        progress.note(last, 16 << 20);
        std::thread::sleep(Duration::from_millis(300));
        matches!(log.follow(Position(1)), Err(LogError::Trimmed(first)) if first.0 > entries.len() as u64)
    });
    assert_eq!(log.last().unwrap().unwrap().0, last, "the end of the log stays");
    assert_eq!(thread.reporter()().trouble, None);
}

impl Cluster {
    /// Writes a megabyte under a key that does not belong to the mesh. Returns false if etcd refuses the write.
    fn put_megabyte(&self, key: &str) -> bool {
        let body = json!({ "key": STANDARD.encode(key), "value": STANDARD.encode("x".repeat(1_000_000)) }).to_string();
        let mut stream = TcpStream::connect(&self.hosts()[0]).unwrap();
        let head = "POST /v3/kv/put HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: ";
        write!(stream, "{head}{}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.starts_with("HTTP/1.1 200 ")
    }

    /// Frees space in etcd, as its manual recommends when the quota is used up.
    fn compact_and_defragment(&self) {
        let status = self.control(&["endpoint", "status", "--write-out=json"]).unwrap();
        let revision = status.split("\"revision\":").nth(1).unwrap().split(',').next().unwrap();
        self.control(&["compact", revision]).unwrap();
        self.control(&["defrag"]).unwrap();
        self.control(&["alarm", "disarm"]).unwrap();
    }
}

#[test]
fn a_tenant_who_fills_etcd_stops_the_writes_until_etcd_is_cured() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start_with(None, &["--quota-backend-bytes", "16777216"]);
    let neighbours = ["slm", "slm-2/leader", "slm.log", "slm0", "sln/log/0000000000000001"];
    for key in neighbours {
        cluster.control(&["put", key, "theirs"]).unwrap();
    }
    let (first, second) = start_both(cluster.hub("slm"), cluster.hub("slm"));
    first.ok(&["state", "set", "k", "before"]);
    let n_keys = (0..40).take_while(|n| cluster.put_megabyte(&format!("tenant/{n}"))).count();
    assert!((5..40).contains(&n_keys), "{n_keys}");

    let refused = first.run(&["state", "set", "k", "full"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("etcd is full") && said.contains("defrag"), "{said}");
    assert_eq!(first.ok(&["state", "get", "k"]).trim(), "before", "who only reads is served");
    until("doctor says what is wrong", || {
        let found = String::from_utf8(first.run(&["doctor"]).stdout).unwrap();
        // On a busy machine, the hub may have lost its lease. Then it is on standby, and doctor says why no hub leads.
        // So either text is correct.
        let is_said = found.contains("its quota is used up") || found.contains("etcd is full");
        is_said && found.contains("etcdctl alarm disarm")
    });

    cluster.control(&["del", "--prefix", "tenant/"]).unwrap();
    cluster.compact_and_defragment();
    until("writes are stored again", || first.run(&["state", "set", "k", "after"]).status.success());
    await_equal(&first, &second);
    let n_lines = second.log().lines().filter(|line| line.contains("etcd is full")).count();
    assert!(n_lines < 10, "a log is no place for the same words again and again: {}", second.log());
    first.ok(&["stop"]);
    assert_eq!(second.ok(&["state", "get", "k"]).trim(), "after");
    second.ok(&["stop"]);
    for key in neighbours {
        assert!(cluster.control(&["get", key]).unwrap().contains("theirs"), "{key} belongs to somebody else");
    }
}

#[test]
fn a_member_of_etcd_is_replaced_under_the_hubs() {
    if !is_installed() {
        return;
    }
    let mut cluster = Cluster::start_with(None, &["--strict-reconfig-check=false"]);
    let (first, second) = start_both(cluster.hub("slm"), cluster.hub("slm"));
    let replaced = cluster.etcd_leader();
    cluster.replace_member(replaced);
    until("the mesh goes on", || first.run(&["state", "set", "k", "replaced"]).status.success());
    // After this member is killed, etcd has a majority only with the new member.
    cluster.kill((replaced + 1) % 3);
    until("the mesh goes on", || first.run(&["state", "set", "k", "needed"]).status.success());
    first.ok(&["stop"]);
    until("the other hub leads", || hub_status(&second)["role"] == "leads");
    assert_eq!(second.ok(&["state", "get", "k"]).trim(), "needed");
    second.ok(&["stop"]);
}

#[test]
fn a_hub_with_older_tables_neither_follows_nor_leads() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let hub = cluster.hub("slm");
    start(&hub);
    hub.ok(&["state", "set", "k", "v"]);
    hub.ok(&["stop"]);
    // Another hub, which has been upgraded, leads now. It writes to tables that the older version does not have.
    let mut newer = cluster.log("slm", None);
    let Ok(Election::Won(term)) = newer.lead("newer:7900") else { panic!() };
    let (last, entry) = newer.last().unwrap().unwrap();
    let (schema, previous) = (Store::schema() + 1, entry.stamp());
    let entry = LogEntry { schema, term, previous, changes: b"of the future".to_vec(), ..entry };
    assert_eq!(newer.append(last.next(), &entry), Append::Stored);
    start(&hub);
    let is_refused = || {
        let status = hub_status(&hub);
        let why = status["trouble"].as_str().unwrap_or("");
        why.contains("has a newer slm-mesh") && why.ends_with("upgrade this hub") && status["role"] == "standby"
    };
    until("the hub says why it can't follow", is_refused);
    newer.step_down();
    until("no hub leads", || hub_status(&hub)["leader"].is_null());
    let out = hub.run(&["state", "get", "k"]);
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("has a newer"), "{out:?}");
    assert!(is_refused() && cluster.log("slm", None).last().unwrap().unwrap().1 == entry, "the log stays as it is");
    hub.ok(&["stop"]);
}

#[test]
fn thousands_of_locks_end_in_steps_that_etcd_accepts() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    // There is only one hub. With a long lease, this hub stays the leader even if it renews the lease late.
    let hub = cluster.hub("slm").with("SLM_MESH_RATE", "100000").with("SLM_MESH_LEASE", "60");
    start(&hub);
    let mut holder = hub.socket();
    holder.call("attach", json!({ "agent": "codex", "name": "many", "project": "/p", "pid": std::process::id() }));
    let folder = format!("/work/{}", "d".repeat(500));
    for n in 0..64 {
        let paths: Vec<String> = (0..64).map(|m| format!("{folder}/{n}/{m}.rs")).collect();
        let answer = holder.call("lock.lock", json!({ "filePaths": paths, "ttlMinutes": 1 }));
        assert!(answer["error"].is_null(), "{answer}");
    }
    holder.call("detach", json!({}));
    until("all locks have ended", || hub.json(&["status"])["locks"]["active"] == json!(0));
    assert!(!hub.log().contains("etcd refused"), "{}", hub.log());
    hub.ok(&["stop"]);
}
