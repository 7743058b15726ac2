//! Tests power failures, full or damaged disks, and killed processes. After a client has been told that data is stored,
//! the data must survive.

#[allow(dead_code)] // the benchmark uses more of it
#[path = "bench/filled_store.rs"]
mod filled_store;
mod support;

use rusqlite::Connection;
use serde_json::{Value, json};
use slm_mesh::base::time_format::iso;
use slm_mesh::sys::wall_ms;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use support::{Place, Socket, until};

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

fn copy_database(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in ["broker.db", "broker.db-wal"] {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

/// A test mesh whose data directory is `dir`, a copy of the data directory of another mesh.
fn revived(dir: &Path) -> Place {
    let mut place = Place::new();
    place.dir = dir.to_path_buf();
    place
}

/// The values of all keys that begin with `n`, as numbers.
fn counted(place: &Place) -> Vec<i64> {
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let page = place.json(&["state", "list", "--prefix", "n", "--after", &after]);
        let rows = page["entries"].as_array().unwrap().clone();
        found.extend(rows.iter().map(|row| row["value"].as_str().unwrap().parse::<i64>().unwrap()));
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => return found,
        }
    }
}

fn set(socket: &mut Socket, n: i64) -> Value {
    socket.call("state.set", json!({ "key": format!("n{n:06}"), "value": n.to_string() }))
}

/// A random number below `n`, from the generator xorshift64*. A run can be repeated with the same seed.
fn below(dice: &mut u64, n: u64) -> u64 {
    *dice ^= *dice >> 12;
    *dice ^= *dice << 25;
    *dice ^= *dice >> 27;
    (dice.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
}

#[test]
fn a_copy_taken_at_any_instant_holds_all_that_was_acknowledged() {
    let place = Place::new().with("SLM_MESH_RATE", "1000000");
    place.ok(&["start", "--detach"]);
    let pid = place.broker_pid().unwrap();
    let (acknowledged, done) = (AtomicI64::new(-1), AtomicBool::new(false));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut socket = place.socket();
            for n in 0.. {
                if done.load(Ordering::SeqCst) {
                    return;
                }
                let answer = set(&mut socket, n);
                assert!(answer["error"].is_null(), "{answer}");
                acknowledged.store(n, Ordering::SeqCst);
            }
        });
        for round in 0..5 {
            let before = acknowledged.load(Ordering::SeqCst);
            until("some writes passed", || acknowledged.load(Ordering::SeqCst) > before + 40);
            let at_least = acknowledged.load(Ordering::SeqCst);
            support::freeze(pid);
            let copy = place.root.join(format!("copy{round}"));
            copy_database(&place.dir, &copy);
            support::thaw(pid);
            let found = counted(&revived(&copy));
            assert!(found.len() as i64 > at_least, "{} of {at_least} survived", found.len());
            assert_eq!(found, (0..found.len() as i64).collect::<Vec<_>>());
        }
        done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn any_prefix_of_the_log_opens_and_holds_a_prefix_of_the_writes() {
    let place = Place::new().with("SLM_MESH_RATE", "1000000");
    place.ok(&["start", "--detach"]);
    let mut socket = place.socket();
    for n in 0..60 {
        set(&mut socket, n);
    }
    let pid = place.broker_pid().unwrap();
    signal(pid, "KILL");
    until("the broker is gone", || !support::lives(pid));
    let log = std::fs::read(place.dir.join("broker.db-wal")).unwrap();
    assert!(!log.is_empty());
    let mut dice = 0x5eed;
    for round in 0..12 {
        let copy = place.root.join(format!("prefix{round}"));
        copy_database(&place.dir, &copy);
        let length = below(&mut dice, log.len() as u64) as usize;
        std::fs::write(copy.join("broker.db-wal"), &log[..length]).unwrap();
        let found = counted(&revived(&copy));
        assert_eq!(found, (0..found.len() as i64).collect::<Vec<_>>(), "a log cut at {length}");
        assert!(!revived(&copy).log().contains("DAMAGED"));
    }
}

#[test]
fn a_disk_that_fails_refuses_with_a_sentence_and_loses_nothing_acknowledged() {
    for (errno, word) in [("28", "full"), ("5", "database")] {
        let place = Place::new().with("SLM_MESH_RATE", "1000000");
        let Some(library) = support::shim(&place) else { return };
        let flag = place.root.join("fail");
        let place = place.with("LD_PRELOAD", library.to_str().unwrap()).with("SHIM_FAIL", flag.to_str().unwrap());
        place.ok(&["start", "--detach"]);
        let pid = place.broker_pid().unwrap();
        let mut socket = place.socket();
        let mut acknowledged = Vec::new();
        for n in 0..120 {
            match n {
                30 | 80 => std::fs::write(&flag, errno).unwrap(),
                50 | 100 => std::fs::remove_file(&flag).unwrap(),
                _ => {}
            }
            // The broker reads both calls at once. A read is answered, even if the write after it is refused.
            let line = |id, method, params| {
                format!("{}\n", json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))
            };
            let entry = json!({ "key": format!("n{n:06}"), "value": n.to_string() });
            let lines = line("read", "status", json!({})) + &line("write", "state.set", entry);
            socket.stream.write_all(lines.as_bytes()).unwrap();
            let [read, answer] = [socket.read().unwrap(), socket.read().unwrap()];
            assert!(read["id"] == "read" && read["error"].is_null(), "{read}");
            if answer["error"].is_null() {
                acknowledged.push(n);
            } else {
                assert!(flag.exists(), "only while the disk fails: {answer}");
                let text = answer["error"]["message"].as_str().unwrap();
                assert!(text.contains(word), "{text}");
                assert_eq!(answer["error"]["data"]["kind"], json!("storage"));
            }
        }
        assert!(acknowledged.len() < 120 && acknowledged.contains(&110), "errno {errno}: {}", acknowledged.len());
        assert_eq!(counted(&place), acknowledged, "errno {errno}: what was refused is not there, the rest is");
        signal(pid, "KILL");
        until("the broker is gone", || !support::lives(pid));
        assert_eq!(counted(&place), acknowledged, "errno {errno}: after a crash, too");
    }
}

/// Runs the hook that Claude Code runs before it writes a file, and returns the hook's output.
fn edit(place: &Place, file: &str) -> String {
    let input = json!({ "session_id": "s1", "hook_event_name": "PreToolUse", "cwd": place.root, "tool_name": "Write",
        "tool_input": { "file_path": place.root.join(file), "content": "text" } });
    let mut hook = place.command(&["hook", "claude"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    hook.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    String::from_utf8(hook.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn a_full_disk_is_named_and_an_emptied_one_goes_on() {
    let place = Place::new().with("SLM_MESH_RATE", "1000000").with("SLM_MESH_HEARTBEAT_MS", "500");
    std::fs::create_dir(&place.dir).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m,mode=0700", "none"]).arg(&place.dir).output();
    if !mounted.is_ok_and(|out| out.status.success()) {
        eprintln!("skipped: a_full_disk_is_named_and_an_emptied_one_goes_on: only root can mount a small disk");
        return;
    }
    let ballast = place.dir.join("ballast");
    std::fs::write(place.root.join("held.rs"), "").unwrap();
    place.ok(&["lock", "held.rs"]);
    std::fs::write(&ballast, vec![0; 300 * 1024]).unwrap();
    let mut socket = place.socket();
    let mut acknowledged = 0;
    let refused = loop {
        let value = "x".repeat(8000);
        let answer = socket.call("state.set", json!({ "key": format!("k{acknowledged}"), "value": value }));
        match answer["error"].is_null() {
            true => acknowledged += 1,
            false => break answer["error"]["message"].as_str().unwrap().to_owned(),
        }
        assert!(acknowledged < 200, "a disk of 1 MB never fills");
    };
    let disk = format!("the disk that holds {} is full (", place.dir.display());
    assert!(refused.contains(&disk) && refused.contains(" KB are free); free some space there"), "{refused}");
    assert!(socket.call("state.get", json!({ "key": "k0" }))["error"].is_null(), "reading still works");
    // When the broker ends, it frees some space on the disk. The test fills this space too.
    place.ok(&["stop"]);
    let filler = place.dir.join("filler");
    let mut rest = std::fs::File::create(&filler).unwrap();
    while rest.write_all(&[0; 1024]).is_ok() {}
    drop(rest);
    assert_eq!(place.ok(&["state", "get", "k0"]).trim(), "x".repeat(8000), "the next broker reads");
    // The database may still have free pages, so the first writes may succeed.
    let value = "x".repeat(8000);
    let set = |n: usize| place.run(&["state", "set", &format!("more{n}"), &value]);
    let refused = (0..100).map(set).find(|out| !out.status.success()).expect("a full disk takes no more values");
    assert!(String::from_utf8_lossy(&refused.stderr).contains(&disk), "{refused:?}");
    assert!(edit(&place, "held.rs").contains("deny"), "a lock still holds");
    std::fs::remove_file(&ballast).unwrap();
    std::fs::remove_file(&filler).unwrap();
    let mut socket = place.socket();
    let answer = socket.call("state.set", json!({ "key": "after", "value": "1" }));
    assert!(answer["error"].is_null(), "{answer}");
    for n in 0..acknowledged {
        let entry = socket.call("state.get", json!({ "key": format!("k{n}") }));
        assert!(!entry["result"]["entry"].is_null(), "k{n} was acknowledged");
    }
    until("the files that had no room are written", || place.broker_pid().is_some());
    let pid = place.broker_pid().unwrap();
    place.ok(&["stop"]);
    support::until("the broker has let go of the disk", || !support::lives(pid));
    assert!(Command::new("umount").arg(&place.dir).status().unwrap().success());
}

#[test]
fn a_limit_of_file_sizes_refuses_writes_and_ends_no_broker() {
    let place = Place::new().with("SLM_MESH_RATE", "1000000");
    let start = place.command(&[]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 1000; \"$0\" start --detach", support::BIN]).env_clear().stdout(Stdio::null());
    limited.envs(start.get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert!(limited.status().unwrap().success());
    let (pid, mut socket) = (place.broker_pid().unwrap(), place.socket());
    let mut acknowledged = Vec::new();
    let refused = loop {
        let n = acknowledged.len() as i64;
        assert!(n < 400, "files never reach 500 KB");
        let value = format!("{n:0>6000}");
        let answer = socket.call("state.set", json!({ "key": format!("n{n:06}"), "value": value }));
        match answer["error"].is_null() {
            true => acknowledged.push(n),
            false => break answer["error"]["message"].as_str().unwrap().to_owned(),
        }
    };
    assert!(refused.contains("ulimit -f"), "{refused}");
    assert_eq!(counted(&place), acknowledged);
    assert!(support::lives(pid) && place.broker_pid() == Some(pid), "the same broker serves on");
}

#[test]
fn the_rows_of_the_benchmark_fit_the_tables() {
    let place = Place::new();
    place.ok(&["peers"]);
    place.ok(&["stop"]);
    filled_store::fill(&place.dir.join("broker.db"), 2500);
    let inbox = place.json(&["inbox", "--as", "peer-7", "--filter", "all"]);
    assert_eq!(inbox["messages"][0]["payload"], json!(filled_store::VALUE));
    assert!(!place.json(&["events"])["events"].as_array().unwrap().is_empty());

    let bare = Place::new();
    bare.ok(&["peers"]);
    bare.ok(&["stop"]);
    assert!(filled_store::bare_sets_per_second(&bare.dir.join("broker.db"), 64, 32) > 0.0);
    assert_eq!(bare.ok(&["state", "get", &filled_store::key(5)]).trim(), filled_store::VALUE);
}

#[test]
fn a_restored_backup_uses_no_number_twice() {
    let place = Place::new();
    let send = |place: &Place| place.json(&["send", "human", "text"])["seq"].to_string();
    let lock = |place: &Place| place.json(&["lock", "a.rs"])["token"].as_i64().unwrap();
    lock(&place);
    place.ok(&["unlock", "a.rs"]);
    place.ok(&["stop"]);
    let backup = place.root.join("backup");
    copy_database(&place.dir, &backup);
    let (token, message) = (lock(&place), send(&place));
    let damaged: [&[u8]; 5] = [b"", &[0; 63], &[0xff; 90], b"1 2\n", b"1 2 3"];
    for (n, numbers) in damaged.into_iter().enumerate() {
        let restored = revived(&place.root.join(format!("numbers{n}")));
        copy_database(&backup, &restored.dir);
        std::fs::write(restored.dir.join("broker.numbers"), numbers).unwrap();
        let granted = lock(&restored);
        assert!(granted > token, "{numbers:?}: a newer token than that of {token} may be in use");
        restored.ok(&["unlock", "a.rs"]);
        restored.ok(&["stop"]);
        assert_eq!(lock(&restored), granted + 1, "{numbers:?}: the numbers are reserved again");
    }
    let restored = revived(&backup);
    assert!(lock(&restored) > token, "a newer token than that of {token} may be in use");
    assert_ne!(send(&restored), message);
    assert!(restored.log().contains("broker.numbers is missing"), "{}", restored.log());
    restored.ok(&["unlock", "a.rs"]);
    let before = lock(&restored);
    restored.ok(&["unlock", "a.rs"]);
    restored.ok(&["stop"]);
    assert_eq!(lock(&restored), before + 1, "the numbers are reserved again");
}

/// The b-trees of a database. Each has a name, a first page, and a flag that is true for a table and false for an
/// index.
fn trees(file: &Path) -> Vec<(String, u64, bool)> {
    let db = Connection::open(file).unwrap();
    let mut query = db.prepare("SELECT name, rootpage, type = 'table' FROM sqlite_schema WHERE rootpage > 0").unwrap();
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64, row.get(2)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

/// The byte range of a page in a database file. Each page has 2048 bytes.
fn page_range(page: u64) -> std::ops::Range<usize> {
    (page as usize - 1) * 2048..page as usize * 2048
}

/// The number of a leaf page in the middle of a table. `root` is the table's first page. The table must have several
/// leaves.
fn middle_leaf(file: &Path, root: u64) -> u64 {
    let bytes = std::fs::read(file).unwrap();
    let page = &bytes[page_range(root)];
    let short = |at: usize| usize::from(u16::from_be_bytes([page[at], page[at + 1]]));
    assert_eq!(page[0], 5, "the first page of a table with several leaves");
    let cell = short(12 + short(3) / 2 * 2);
    u64::from(u32::from_be_bytes(page[cell..cell + 4].try_into().unwrap()))
}

/// How many messages, entries of the shared state, events and locks a mesh contains.
fn kept(place: &Place) -> [usize; 4] {
    let rows = |args: &[&str], list: &str| place.json(args)[list].as_array().unwrap().len();
    [
        rows(&["inbox", "--filter", "all", "--limit", "100"], "messages"),
        rows(&["state", "list"], "entries"),
        rows(&["events", "--types", "build.done", "--limit", "100"], "events"),
        rows(&["lock", "list"], "locks"),
    ]
}

/// Copies a mesh, and destroys one page of the copied database. Also creates the marker file that a broker leaves when
/// it finds damage.
fn with_damage(place: &Place, page: u64) -> Place {
    let copy = revived(&place.root.join(format!("page{page}")));
    copy_database(&place.dir, &copy.dir);
    std::fs::copy(place.dir.join("broker.numbers"), copy.dir.join("broker.numbers")).unwrap();
    let mut bytes = std::fs::read(copy.dir.join("broker.db")).unwrap();
    bytes[page_range(page)].fill(0xa5);
    std::fs::write(copy.dir.join("broker.db"), bytes).unwrap();
    std::fs::write(copy.dir.join("broker.suspect"), "").unwrap();
    copy
}

#[test]
fn a_damaged_page_costs_at_most_the_rows_on_it() {
    let place = Place::new().with("SLM_MESH_RATE", "1000000");
    place.ok(&["start", "--detach"]);
    let mut socket = place.socket();
    for n in 0..30 {
        let text = format!("{n} {}", "x".repeat(300));
        socket.call("send", json!({ "to": "human", "message": text, "key": format!("key{n}") }));
        socket.call("state.set", json!({ "key": format!("k{n}"), "value": text }));
        socket.call("events.emit", json!({ "type": "build.done" }));
    }
    let token = place.json(&["lock", "a.rs", "--ttl", "60"])["token"].as_i64();
    let all = kept(&place);
    assert_eq!(all, [30, 30, 30, 1]);
    place.ok(&["stop"]);
    let file = place.dir.join("broker.db");
    let mut pages = trees(&file);
    let messages = pages.iter().find(|(name, ..)| name == "message").unwrap().1;
    pages.push(("leaf".into(), middle_leaf(&file, messages), true));
    for (tree, page, is_table) in pages {
        let copy = with_damage(&place, page);
        let said = String::from_utf8(copy.run(&["peers"]).stderr).unwrap();
        let found = kept(&copy);
        let lost = match &*tree {
            "message" | "peer" | "peer_number" | "leaf" => Some((0, "messages")),
            "state" => Some((1, "entries of the shared state")),
            "event" => Some((2, "events")),
            "lock" => Some((3, "locks")),
            _ => None,
        };
        for (n, is_lost) in (0..4).map(|n| (n, lost.is_some_and(|(lost, _)| lost == n))) {
            assert!(found[n] == all[n] || is_lost, "{tree}: {found:?} {}", copy.log());
        }
        assert!(copy.log().contains("DAMAGED") && copy.log().contains("broker.db.damaged-"), "{tree}: {}", copy.log());
        // The table `event_block` is rebuilt from the events, so nothing is lost.
        let what = if is_table && tree != "event_block" { "some rows are lost" } else { "nothing was lost" };
        assert!(said.contains(what) && copy.log().contains(what), "{tree}: {said}{}", copy.log());
        if tree == "leaf" {
            assert!((20..30).contains(&found[0]), "a leaf has a few messages: {found:?}");
            let text = format!("messages ({} kept, {} lost)", found[0], 30 - found[0]);
            assert!(said.contains(&text), "{text}: {said}");
        } else if let Some((_, word)) = lost.filter(|_| tree != "peer") {
            assert!(said.contains(&format!("{word} (0 kept, ")), "{tree}: {said}");
        }
        assert!(copy.json(&["lock", "b.rs"])["token"].as_i64() > token, "{tree}: no token is granted twice");
        copy.ok(&["stop"]);
    }
    // This copy contains the files that remain if the broker is killed after it has copied the rows, but before it has
    // moved the damaged file away.
    let copy = with_damage(&place, messages);
    std::fs::copy(&file, copy.dir.join("broker.db.salvaged")).unwrap();
    assert_eq!(kept(&copy), all);
    assert!(!copy.dir.join("broker.db.salvaged").exists());
}

/// Runs the hook for the start of a Claude Code session, and returns its output.
fn told_at_begin(place: &Place, session: &str) -> String {
    let event = json!({ "session_id": session, "hook_event_name": "SessionStart" }).to_string();
    std::fs::write(place.root.join("event"), event).unwrap();
    let input = std::fs::File::open(place.root.join("event")).unwrap();
    let out = place.command(&["hook", "claude"]).stdin(input).output().unwrap();
    assert!(out.status.success());
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn whoever_misses_something_learns_that_the_database_was_damaged() {
    let place = Place::new();
    std::fs::create_dir_all(&place.dir).unwrap();
    std::fs::write(place.dir.join("broker.db"), "no database".repeat(1000)).unwrap();
    let report = "the database was damaged: it was moved to";
    let doctor = || String::from_utf8(place.run(&["doctor"]).stdout).unwrap();
    // A hook starts the broker. Nobody sees the broker's output, so the hook itself must report the damage.
    let begun = told_at_begin(&place, "s1");
    assert!(begun.contains(report) && begun.contains("the mesh starts empty"), "{begun}");
    assert!(!told_at_begin(&place, "s1").contains("damaged"), "each session is told once");
    assert!(told_at_begin(&place, "s2").contains(report));
    assert!(place.ok(&["status"]).contains(report) && doctor().contains(report), "{}", doctor());
    // Doctor also lists an earlier damaged database, even if its report is missing.
    let earlier = format!("broker.db.damaged-{}", iso(wall_ms() - 86_400_000).replace(':', ""));
    std::fs::write(place.dir.join(&earlier), "").unwrap();
    assert!(doctor().matches(report).count() == 2 && doctor().contains(&earlier), "{}", doctor());
    for cure in doctor().lines().filter_map(|line| line.split_once("rm ").map(|(_, files)| files)) {
        assert!(Command::new("sh").args(["-c", &format!("rm {cure}")]).status().unwrap().success());
    }
    assert!(!place.ok(&["status"]).contains("damaged") && !doctor().contains("damaged"), "{}", doctor());
    assert!(!told_at_begin(&place, "s3").contains("damaged"));
}

#[test]
fn a_value_of_a_wrong_type_costs_only_its_row() {
    let place = Place::new();
    for text in ["one", "two", "three"] {
        place.ok(&["send", "human", text]);
    }
    let token = place.json(&["lock", "a.rs"])["token"].as_i64();
    place.ok(&["stop"]);
    let change = |sql: &str| Connection::open(place.dir.join("broker.db")).unwrap().execute_batch(sql).unwrap();
    for (verb, text, kept) in [("inbox", "two", 2), ("log", "three", 1)] {
        change(&format!("UPDATE message SET body = CAST(x'ff' AS TEXT) WHERE body = '{text}'"));
        let said = String::from_utf8(place.run(&[verb]).stderr).unwrap();
        assert!(said.contains("the database is damaged"), "{verb}: {said}");
        assert_eq!(place.json(&[verb])["messages"].as_array().unwrap().len(), kept, "{verb}: {}", place.log());
        assert!(place.log().contains(&format!("messages ({kept} kept, 1 lost)")), "{verb}: {}", place.log());
        place.ok(&["stop"]);
    }
    change("UPDATE counters SET token_last = 'x'");
    assert!(place.json(&["lock", "b.rs"])["token"].as_i64() > token);
    assert_eq!(place.json(&["inbox", "--filter", "all"])["messages"].as_array().unwrap().len(), 1);
}

#[test]
fn an_index_that_contradicts_its_table_is_noticed_by_a_query_and_built_anew() {
    let place = Place::new();
    place.ok(&["state", "set", "kept", "yes"]);
    place.ok(&["send", "human", "text"]);
    place.ok(&["stop"]);
    // The test removes an index from the schema, deletes the messages, and puts the index back. The index then
    // contradicts its table.
    let change = |sql: &str| {
        let db = Connection::open(place.dir.join("broker.db")).unwrap();
        db.execute_batch(&format!("PRAGMA writable_schema = ON; {sql}")).unwrap();
    };
    change(
        "CREATE TABLE hidden AS SELECT * FROM sqlite_master WHERE name = 'message_unread';
         DELETE FROM sqlite_master WHERE name = 'message_unread'",
    );
    change("DELETE FROM message; INSERT INTO sqlite_master SELECT * FROM hidden");
    change("DROP TABLE hidden");
    let said = String::from_utf8(place.run(&["inbox"]).stderr).unwrap();
    assert!(said.contains("the database is damaged") && said.contains("run the command again"), "{said}");
    place.ok(&["inbox"]);
    assert_eq!(place.ok(&["state", "get", "kept"]).trim(), "yes", "the tables are sound, so they stay");
}
