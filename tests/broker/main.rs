//! Tests the life of a broker: how it is started, found, ended, killed and started again. Also tests the errors that
//! users see if it can't start.

mod permissions;
#[path = "../support/mod.rs"]
mod support;

use rusqlite::Connection;
use serde_json::json;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use support::{Place, lives, until};

fn kill(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success(), "kill {signal} {pid}");
}

/// Checks that a refused verb printed one sentence with these words, and ended with this status.
fn check_refusal(out: &Output, status: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(status), "{said}");
    assert!(said.starts_with("slm-mesh: ") && said.trim_end().lines().count() == 1, "want one sentence: {said}");
    for word in words {
        assert!(said.contains(word), "want {word:?} in: {said}");
    }
}

/// The running brokers of this data directory, according to the process table.
fn brokers(place: &Place) -> Vec<u32> {
    let ours = format!("SLM_MESH_DATA_DIR={}", place.dir.display());
    let is_ours = |pid: &u32| {
        let read = |what: &str| fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let line = String::from_utf8_lossy(&read("cmdline")).into_owned();
        line.contains("--as-daemon") && read("environ").split(|byte| *byte == 0).any(|entry| entry == ours.as_bytes())
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
}

#[test]
fn twenty_verbs_at_once_start_one_broker() {
    let place = Place::new();
    let spawn = |_| place.command(&["whoami", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let children: Vec<_> = (0..20).map(spawn).collect();
    for child in children {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{out:?}\n{}", place.log());
    }
    assert_eq!(brokers(&place), [place.broker_pid().unwrap()]);
}

#[test]
fn a_detached_start_returns_when_clients_can_connect() {
    let place = Place::new();
    let first = place.json(&["start", "--detach"]);
    // When `start` returns, the broker is ready, so this call need not wait.
    assert_eq!(place.socket().call("ping", json!({}))["result"], json!({}));
    let port = first["data"]["port"].as_u64().unwrap() as u16;
    std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let read = |name: &str| fs::read_to_string(place.dir.join(name)).unwrap();
    assert_eq!(read("broker.pid"), first["data"]["pid"].to_string());
    assert_eq!(read("port"), port.to_string());
    assert_eq!(place.json(&["start", "--detach"]), first, "the second start finds the first");
}

#[test]
fn every_method_of_the_socket_is_documented() {
    let help = Place::new().ok(&["help", "protocol"]);
    for method in slm_mesh::core::OPS {
        let summary = format!("\n    {}\n", method.summary);
        let described = help.split(&format!("\n{}", method.name)).nth(1);
        assert!(described.is_some_and(|text| text.contains(&summary)), "{}: {help}", method.name);
    }
}

#[test]
fn an_operation_of_the_broker_refuses_unknown_arguments() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    let pid = place.broker_pid().unwrap();
    let mut socket = place.socket();
    let refused = socket.call("broker.stop", json!({ "when": "later" }));
    assert!(
        refused["error"]["message"].as_str().is_some_and(|text| text.contains("when: unknown argument")),
        "{refused}"
    );
    assert_eq!(
        socket.call("ping", json!({ "as": "human" }))["result"],
        json!({}),
        "every operation may name its caller"
    );
    assert!(lives(pid));
}

#[test]
fn a_lock_under_a_command_ends_with_the_command() {
    let place = Place::new();
    place.ok(&["lock", "a.rs", "--", "true"]);
    until("the end of the lock is an event", || {
        let events = place.json(&["events"]);
        let last = events["events"].as_array().and_then(|rows| rows.last().cloned()).unwrap_or_default();
        last["type"] == json!("file_unlocked") && last["payload"]["reason"] == json!("the command ended")
    });
}

#[test]
fn a_second_start_is_refused_with_a_sentence() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    let pid = place.broker_pid().unwrap();
    check_refusal(&place.run(&["start"]), 1, &["already running", &pid.to_string(), "slm-mesh stop"]);
    assert!(lives(pid));
}

#[test]
fn a_start_with_other_settings_replaces_the_broker() {
    let mut place = Place::new();
    place.ok(&["state", "set", "kept", "yes"]);
    let mut session = place.session("codex-mcp-client", "api");
    let before = session.tool("mesh_status", json!({}));
    let old = place.broker_pid().unwrap();
    place.env.push(("SLM_MESH_RATE".into(), "7".into()));
    place.ok(&["start", "--detach"]);
    until("the old one is gone", || !lives(old));
    let after = session.tool("mesh_status", json!({}));
    assert_eq!(after["rate"]["messagesPer10s"], json!(7));
    assert_eq!(after["you"], before["you"], "the session moved over as who it was");
    assert_eq!(place.ok(&["state", "get", "kept"]).trim(), "yes");
}

#[test]
fn stop_ends_the_broker_and_keeps_what_it_knew() {
    let place = Place::new();
    place.ok(&["state", "set", "kept", "yes"]);
    let token = fs::read_to_string(place.dir.join("broker.token")).unwrap();
    let pid = place.broker_pid().unwrap();
    assert!(place.ok(&["stop"]).contains(&pid.to_string()));
    for name in ["mesh.sock", "broker.pid", "port"] {
        assert!(!place.dir.join(name).exists(), "{name} is left");
    }
    until("its process is gone", || !lives(pid));
    check_refusal(&place.run(&["stop"]), 3, &["no broker is running", "slm-mesh start --detach"]);
    check_refusal(&place.run(&["status"]), 3, &["no broker is running"]);
    assert!(brokers(&place).is_empty(), "to ask how it is must not start one");
    assert_eq!(place.ok(&["state", "get", "kept"]).trim(), "yes");
    assert_eq!(fs::read_to_string(place.dir.join("broker.token")).unwrap(), token, "existing clients read it once");
}

#[test]
fn a_log_that_was_moved_away_is_begun_again() {
    let place = Place::new().with("SLM_MESH_HEARTBEAT_MS", "500");
    place.ok(&["start", "--detach"]);
    let log = place.dir.join("broker.log");
    fs::rename(&log, place.dir.join("broker.log.1")).unwrap();
    until("the log exists again", || log.exists());
    fs::remove_file(place.dir.join("mesh.sock")).unwrap();
    until("the broker writes to the new log", || place.log().contains("the socket was removed"));
}

/// A waiting client may start the next broker before `stop` gets the broker's lock. `stop` must also succeed in this
/// case.
#[test]
fn stop_succeeds_if_the_next_broker_takes_the_lock_at_once() {
    let place = Place::new();
    place.ok(&["state", "set", "kept", "yes"]);
    let pid = place.broker_pid().unwrap();
    let lock = fs::File::options().write(true).open(place.dir.join("broker.lock")).unwrap();
    let ino = lock.metadata().unwrap().ino();
    let next = std::thread::spawn(move || lock.lock().map(|()| lock));
    let waits = |locks: &str| locks.lines().any(|row| row.contains("->") && row.contains(&format!(":{ino} ")));
    if cfg!(target_os = "linux") {
        until("the next broker stands in line", || waits(&fs::read_to_string("/proc/locks").unwrap()));
    }
    assert!(place.ok(&["stop"]).contains(&pid.to_string()) && !lives(pid));
    drop(next.join().unwrap().unwrap());
}

#[test]
fn a_session_outlives_a_stop_and_its_next_call_starts_the_broker() {
    let place = Place::new();
    let mut session = place.session("codex-mcp-client", "api");
    let you = session.tool("mesh_status", json!({}))["you"].clone();
    place.ok(&["stop"]);
    assert!(place.broker_pid().is_none());
    assert_eq!(session.tool("mesh_status", json!({}))["you"], you);
    assert!(session.close().success());
}

#[test]
fn a_signal_ends_the_broker_in_order() {
    for signal in ["-TERM", "-INT", "-HUP"] {
        let place = Place::new();
        let mut broker = place.command(&["start"]).stderr(Stdio::null()).spawn().unwrap();
        until("the broker serves", || place.broker_pid().is_some());
        let mut socket = place.socket();
        socket.call("state.set", json!({ "key": "k", "value": signal }));
        kill(signal, broker.id());
        assert_eq!(socket.read().unwrap()["method"], json!("shutdown"), "{signal}: sessions are told");
        assert_eq!(socket.read(), None);
        assert_eq!(broker.wait().unwrap().code(), Some(0), "{signal}");
        assert!(!place.dir.join("mesh.sock").exists() && place.broker_pid().is_none(), "{signal}");
        assert_eq!(place.ok(&["state", "get", "k"]).trim(), signal);
    }
}

/// Writes until `over` is set, and collects the writes that are acknowledged.
fn write_on(place: &Place, writer: usize, over: &AtomicBool, acknowledged: &Mutex<Vec<String>>, n: &AtomicUsize) {
    for i in 0.. {
        if over.load(Ordering::SeqCst) {
            return;
        }
        let word = format!("w{writer}-{i}");
        let verb: &[&str] = if i % 2 == 0 { &["state", "set", &word, &word] } else { &["send", "human", &word] };
        let out = place.run(verb);
        if out.status.success() {
            acknowledged.lock().unwrap().push(word);
            n.fetch_add(1, Ordering::SeqCst);
        } else {
            // If the answer to a write is lost, the client does not repeat the write. It reports an error.
            assert_eq!(out.status.code(), Some(3), "{}", String::from_utf8_lossy(&out.stderr));
        }
    }
}

#[test]
fn a_killed_broker_loses_nothing_that_was_acknowledged() {
    let place = Place::new().with("SLM_MESH_RATE", "1000000");
    place.ok(&["start", "--detach"]);
    let (over, acknowledged, n) = (AtomicBool::new(false), Mutex::new(Vec::new()), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let (place, over, acknowledged, n) = (&place, &over, &acknowledged, &n);
            scope.spawn(move || write_on(place, writer, over, acknowledged, n));
        }
        let killing = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 1..=6 {
                until("some writes are acknowledged", || n.load(Ordering::SeqCst) >= round * 20);
                until("a broker lives", || place.broker_pid().is_some_and(lives));
                // This fails if the broker has already ended by itself. That would be a bug, and the count below would
                // show it.
                let _ = Command::new("kill")
                    .args(["-9", &place.broker_pid().unwrap().to_string()])
                    .stderr(Stdio::null())
                    .status();
            }
            until("writes go on", || n.load(Ordering::SeqCst) >= 140);
        }));
        over.store(true, Ordering::SeqCst);
        killing.unwrap();
    });
    let mut socket = place.socket();
    let mut after = 0;
    let mut received = Vec::new();
    loop {
        let page = socket.call("inbox", json!({ "filter": "all", "after": after, "limit": 100 }))["result"].clone();
        received.extend(page["messages"].as_array().unwrap().iter().map(|m| m["payload"].as_str().unwrap().to_owned()));
        after = page["next"].as_i64().unwrap();
        if page["more"] == json!(false) {
            break;
        }
    }
    for word in acknowledged.into_inner().unwrap() {
        let entry = socket.call("state.get", json!({ "key": word }))["result"]["entry"]["value"].clone();
        let n_received = received.iter().filter(|text| **text == word).count();
        assert!(entry == json!(word) || n_received == 1, "{word}: entry {entry}, received {n_received} times");
    }
}

#[test]
fn an_idle_broker_ends_and_a_plain_lock_outlives_it() {
    let place = Place::new().with("SLM_MESH_IDLE_TIMEOUT", "1000");
    let token = place.json(&["lock", "a.rs"])["token"].clone();
    until("the idle broker ends", || brokers(&place).is_empty());
    assert!(place.broker_pid().is_none() && !place.dir.join("mesh.sock").exists());
    assert_eq!(place.json(&["lock", "list"])["locks"][0]["token"], token);
}

#[test]
fn a_database_of_an_older_format_is_upgraded() {
    let place = Place::new();
    fs::create_dir_all(&place.dir).unwrap();
    let db = Connection::open(place.dir.join("broker.db")).unwrap();
    db.execute_batch(include_str!("../../src/store/migrations/1.sql")).unwrap();
    db.execute_batch(
        "INSERT INTO state VALUES ('default', 'old', 'value', 41, 'someone', 1, NULL); PRAGMA user_version = 1",
    )
    .unwrap();
    drop(db);
    assert_eq!(place.ok(&["state", "get", "old"]).trim(), "value");
    assert_eq!(place.json(&["state", "set", "old", "new"])["version"], json!(42));
    place.ok(&["stop"]);
    let db = Connection::open(place.dir.join("broker.db")).unwrap();
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    let n_migrations = fs::read_dir(support::project().join("src/store/migrations")).unwrap().count() as i64;
    assert_eq!(version, n_migrations);
}

#[test]
fn a_database_of_a_newer_format_is_refused_by_verbs_and_sessions() {
    let place = Place::new();
    place.ok(&["state", "set", "kept", "yes"]);
    place.ok(&["stop"]);
    let set_version = |version: i64| {
        Connection::open(place.dir.join("broker.db")).unwrap().pragma_update(None, "user_version", version).unwrap();
    };
    let db = Connection::open(place.dir.join("broker.db")).unwrap();
    let ours: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    drop(db);
    set_version(99);
    check_refusal(&place.run(&["state", "get", "kept"]), 5, &["newer slm-mesh", "99", "SLM_MESH_DATA_DIR"]);
    let mut session = place.session("codex-mcp-client", "api");
    for _ in 0..2 {
        let (error, is_error) = session.try_tool("mesh_status", json!({}));
        assert!(is_error && error["error"].as_str().unwrap().contains("newer slm-mesh"), "{error}");
    }
    set_version(ours);
    let entry = session.tool("mesh_state", json!({ "action": "get", "key": "kept" }));
    assert_eq!(entry["entry"]["value"], json!("yes"), "the session stayed up and works again");
}

/// The database files that were set aside.
fn damaged(place: &Place) -> Vec<std::path::PathBuf> {
    let paths = fs::read_dir(&place.dir).unwrap().flatten().map(|entry| entry.path());
    let is_aside = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("broker.db.damaged-20") && name.ends_with('Z')
    };
    paths.filter(is_aside).collect()
}

#[test]
fn a_corrupt_database_is_set_aside_under_a_dated_name() {
    let place = Place::new();
    fs::create_dir_all(&place.dir).unwrap();
    let garbage = b"this is no database at all, but somebody may want it back ".repeat(100);
    fs::write(place.dir.join("broker.db"), &garbage).unwrap();
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    place.ok(&["state", "set", "fresh", "yes"]);
    let granted: serde_json::Value = serde_json::from_str(&place.ok(&["lock", "a.rs", "--json"])).unwrap();
    let token = granted["token"].as_u64().unwrap();
    assert!(u128::from(token) > before, "a token of the lost file may be out there: {granted}");
    let aside = damaged(&place);
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(fs::read(&aside[0]).unwrap(), garbage, "kept as it was");
    assert!(place.log().contains("DAMAGED"), "{}", place.log());
}

#[test]
fn a_database_with_one_damaged_table_does_not_keep_the_broker_away() {
    let place = Place::new();
    place.ok(&["state", "set", "kept", "yes"]);
    place.ok(&["stop"]);
    let file = place.dir.join("broker.db");
    let db = Connection::open(&file).unwrap();
    let (page, size): (u64, u64) = db
        .query_row("SELECT rootpage, page_size FROM sqlite_master, pragma_page_size WHERE name = 'peer'", [], |row| {
            Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64))
        })
        .unwrap();
    drop(db);
    let mut bytes = fs::read(&file).unwrap();
    bytes[((page - 1) * size) as usize..(page * size) as usize].fill(0xa5);
    fs::write(&file, &bytes).unwrap();
    // The first verb (subcommand) may report the damage. The second verb must find a mesh that works.
    place.run(&["peers"]);
    place.ok(&["peers"]);
    assert_eq!(damaged(&place).len(), 1);
}

#[test]
fn settings_come_from_the_file_unless_the_environment_says_otherwise() {
    let place = Place::new();
    fs::create_dir_all(&place.dir).unwrap();
    let config = place.dir.join("config");
    fs::write(&config, "# how we like it\n\nSLM_MESH_LOCK_TTL_MIN = 3\nSLM_MESH_RATE=\"33\"\n").unwrap();
    assert_eq!(place.json(&["lock", "a.rs"])["expiresInSeconds"], json!(180));
    assert_eq!(place.json(&["status"])["rate"]["messagesPer10s"], json!(33));
    place.ok(&["stop"]);
    let place = place.with("SLM_MESH_RATE", "44");
    place.ok(&["start", "--detach"]);
    assert_eq!(place.json(&["status"])["rate"]["messagesPer10s"], json!(44));
    fs::write(&config, "SLM_MESH_LOCK_TTL_MIN=3\nSLM_MESH_SPEED=9\n").unwrap();
    check_refusal(&place.run(&["peers"]), 2, &[config.to_str().unwrap(), "line 2"]);
}

#[test]
fn a_wrong_setting_is_named_with_what_is_accepted() {
    for (name, value, want) in [
        ("SLM_MESH_PORT", "0", "from 1 to 65535"),
        ("SLM_MESH_IDLE_TIMEOUT", "soon", "a whole number from 0"),
        ("SLM_MESH_DEAD_MS", "1", "from 100"),
        ("SLM_MESH_SYNC", "maybe", "one of normal, full"),
    ] {
        let place = Place::new().with(name, value);
        check_refusal(&place.run(&["peers"]), 2, &[name, want, value]);
        check_refusal(&place.run(&["start"]), 2, &[name, want, value]);
        let mut session = place.session("codex-mcp-client", "api");
        for tool in ["mesh_status", "mesh_inbox"] {
            let (error, is_error) = session.try_tool(tool, json!({}));
            assert!(is_error && error["error"].as_str().unwrap().contains(name), "{error}");
        }
        assert!(session.close().success(), "the session stayed up");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn clean_removes_only_what_is_stale() {
    let place = Place::new();
    place.ok(&["state", "set", "kept", "yes"]);
    fs::write(place.dir.join("notes.txt"), "mine").unwrap();
    let listener = std::os::unix::net::UnixListener::bind(place.dir.join("peers/live.sock")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(place.dir.join("peers/dead.sock")).unwrap());
    let before = names(&place.dir);
    place.ok(&["clean"]);
    assert_eq!(names(&place.dir), before, "a living broker's files stay");
    assert_eq!(names(&place.dir.join("peers")), ["live.sock"]);
    let pid = place.broker_pid().unwrap();
    kill("-9", pid);
    until("it is dead", || !lives(pid));
    let drafts = ["broker.new4711", "broker.new4711-wal", "broker.new4711-shm", "broker.db.copy-journal"];
    drafts.iter().for_each(|name| fs::write(place.dir.join(name), "a draft that a crash left").unwrap());
    let said = place.json(&["clean"]);
    assert_eq!(said["killed"], json!(0));
    let after = names(&place.dir);
    for name in ["mesh.sock", "broker.pid", "port"].iter().chain(&drafts) {
        assert!(!after.contains(&(*name).to_owned()), "{name} is left: {after:?}");
    }
    for name in ["broker.db", "broker.token", "notes.txt", "broker.log"] {
        assert!(after.contains(&name.to_owned()), "{name} is gone: {after:?}");
    }
    assert_eq!(names(&place.dir.join("peers")), ["live.sock"]);
    drop(listener);
    assert_eq!(place.ok(&["state", "get", "kept"]).trim(), "yes");
}

#[test]
fn a_process_with_the_id_of_a_killed_broker_is_not_taken_for_a_broker_of_slm_mesh_1() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    // The database of slm-mesh 1.x stays after an upgrade.
    fs::write(place.dir.join("mesh.db"), "theirs").unwrap();
    let pid = place.broker_pid().unwrap();
    let port: u16 = fs::read_to_string(place.dir.join("port")).unwrap().parse().unwrap();
    kill("-9", pid);
    until("it is dead", || !lives(pid));
    let _other_server = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mut other = Command::new("sleep").arg("600").spawn().unwrap();
    // The test can't choose the id of a process. So it writes the id of the other process into the files of the killed
    // broker.
    for name in ["broker.pid", "broker.clock"] {
        let text = fs::read_to_string(place.dir.join(name)).unwrap();
        fs::write(place.dir.join(name), text.replace(&pid.to_string(), &other.id().to_string())).unwrap();
    }
    let out = place.run(&["state", "list"]);
    let own = place.broker_pid();
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(out.status.success() && own != Some(other.id()), "{}", String::from_utf8_lossy(&out.stderr));
}
