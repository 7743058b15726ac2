//! Tests accidents that happen to a running broker: its directory is removed, its process is stopped, the power fails,
//! or the clock is changed. The broker must keep all its promises.

mod support;

use rusqlite::Connection;
use serde_json::{Value, json};
use slm_mesh::sys::data_dir::DataDir;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::{BIN, Place, lives, until};

/// The time within which every verb (subcommand) must end, even on a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(8);

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

/// Starts a session that locks a file. Returns the session and the process id of its broker.
fn session_with_lock(place: &Place, file: &str) -> (support::Session, u32) {
    let mut session = place.session("codex-mcp-client", "api");
    let path = place.root.join(file);
    session.tool("mesh_lock", json!({ "action": "lock", "filePath": path }));
    (session, place.broker_pid().unwrap())
}

/// The locks in the answer to a session's `mesh_lock` query.
fn locks_seen(session: &mut support::Session) -> Value {
    session.tool("mesh_lock", json!({ "action": "query" }))["locks"].clone()
}

#[test]
fn a_broker_whose_directory_goes_gives_way_to_the_next_one() {
    for how in ["removed", "moved", "replaced"] {
        let place = Place::new();
        let (mut session, old) = session_with_lock(&place, "a.rs");
        let away = place.root.join("away");
        // The broker is frozen while its directory changes. Otherwise, it could notice missing files, and create them
        // again in the old directory.
        support::freeze(old);
        match how {
            "removed" => fs::remove_dir_all(&place.dir).unwrap(),
            "moved" => fs::rename(&place.dir, &away).unwrap(),
            _ => {
                fs::rename(&place.dir, &away).unwrap();
                fs::create_dir(&place.dir).unwrap();
                fs::copy(away.join("broker.token"), place.dir.join("broker.token")).unwrap();
            }
        }
        support::thaw(old);
        until("the old broker ends", || !lives(old));
        let granted = place.json(&["lock", "a.rs"]);
        let new = place.broker_pid().unwrap();
        assert!(new != old && granted["ok"] == json!(true), "{how}: {granted}");
        let seen = locks_seen(&mut session);
        assert_eq!(seen.as_array().unwrap().len(), 1, "{how}: one holder, whoever asks: {seen}");
        assert_eq!(seen[0]["token"], granted["token"], "{how}");
        assert!(place.dir.join("mesh.sock").exists(), "{how}: the end of the old one took nothing of the new one");
        assert!(place.run(&["status"]).status.success(), "{how}");
    }
}

#[test]
fn a_database_restored_from_a_backup_is_what_the_mesh_goes_on_with() {
    let place = Place::new();
    place.ok(&["state", "set", "kept", "backup"]);
    place.ok(&["stop"]);
    let backup = place.root.join("backup.db");
    fs::copy(place.dir.join("broker.db"), &backup).unwrap();
    place.ok(&["state", "set", "kept", "later"]);
    let old = place.broker_pid().unwrap();
    fs::rename(&backup, place.dir.join("broker.db")).unwrap();
    until("the broker lets go of the old file", || !lives(old));
    assert_eq!(place.ok(&["state", "get", "kept"]).trim(), "backup");
    assert!(!place.log().contains("DAMAGED"), "{}", place.log());
}

#[test]
fn a_socket_that_a_cleaner_removes_is_created_again() {
    let place = Place::new();
    let (mut session, pid) = session_with_lock(&place, "a.rs");
    let token = fs::read_to_string(place.dir.join("broker.token")).unwrap();
    for name in ["mesh.sock", "broker.pid", "port", "broker.token"] {
        fs::remove_file(place.dir.join(name)).unwrap();
        let held = place.run(&["lock", "a.rs", "--as", "human"]);
        assert_eq!(held.status.code(), Some(1), "{name}: {}", said(&held));
        until("the file is back", || place.dir.join(name).exists());
        assert!(lives(pid) && place.broker_pid() == Some(pid), "{name}: the same broker");
    }
    assert_eq!(fs::read_to_string(place.dir.join("broker.token")).unwrap(), token);
    assert_eq!(locks_seen(&mut session).as_array().unwrap().len(), 1);
    place.ok(&["stop"]);
    assert!(!place.dir.join("mesh.sock").exists(), "the new socket goes with its broker");
}

/// A test mesh whose data directory has a path that is too long for a Unix socket.
fn place_with_long_path() -> Place {
    let mut place = Place::new();
    place.dir = place.root.join("long/".repeat(24)).join("mesh");
    place
}

#[test]
fn all_paths_to_a_directory_whose_path_is_too_long_for_a_socket_lead_to_one_broker() {
    let mut place = place_with_long_path();
    place.ok(&["state", "set", "key", "value"]);
    let mut session = place.session("codex-mcp-client", "api");
    session.tool("mesh_status", json!({}));
    let (pid, long) = (place.broker_pid(), place.dir.clone());
    for link in ["short".to_owned(), "a/".repeat(60) + "long"] {
        place.dir = place.root.join(link);
        fs::create_dir_all(place.dir.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&long, &place.dir).unwrap();
        assert_eq!(place.ok(&["state", "get", "key"]).trim(), "value");
        assert_eq!(place.json(&["status"])["pid"].as_u64().map(|pid| pid as u32), pid);
    }
    place.ok(&["stop"]);
    place.ok(&["state", "set", "key", "through a link"]);
    place.dir = long;
    assert_eq!(place.ok(&["state", "get", "key"]).trim(), "through a link");
    place.ok(&["stop"]);
    fs::remove_dir(DataDir { dir: place.dir.clone() }.runtime_dir().unwrap()).unwrap();
}

#[test]
fn a_directory_below_tmp_that_a_cleaner_removes_is_created_again() {
    // With these settings, the broker's regular check of the directory runs too late for this test. The broker must
    // notice the removal in a different way.
    let place = place_with_long_path().with("SLM_MESH_HEARTBEAT_MS", "600000").with("SLM_MESH_DEAD_MS", "1200000");
    place.ok(&["state", "set", "key", "value"]);
    let dir = DataDir { dir: place.dir.clone() }.runtime_dir().unwrap();
    let pid = place.broker_pid();
    for _ in 0..2 {
        fs::remove_dir_all(&dir).unwrap();
        until("the socket is back", || dir.join("mesh.sock").exists());
        assert_eq!(place.ok(&["state", "get", "key"]).trim(), "value");
    }
    assert_eq!(place.broker_pid(), pid, "the same broker");
    place.ok(&["stop"]);
    fs::remove_dir(dir).unwrap();
}

#[test]
fn a_broker_keeps_nothing_of_its_starter() {
    let place = Place::new();
    let (held, folder) = (place.root.join("cron.lock"), place.root.join("folder"));
    fs::create_dir(&folder).unwrap();
    let script = "ulimit -S -f 2000; umask 0; exec 9>\"$1\"; exec 33>\"$1\"; \"$2\" peers >/dev/null";
    let mut command = place.command(&[]);
    let env: Vec<_> = command.get_envs().map(|(name, value)| (name.to_owned(), value.unwrap().to_owned())).collect();
    command = Command::new("bash");
    command.args(["-c", script, "-"]).arg(&held).arg(BIN).env_clear().envs(env).current_dir(&folder);
    assert!(command.stdin(Stdio::null()).status().unwrap().success());
    let pid = place.broker_pid().unwrap();
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let kept: Vec<_> = files.filter_map(|entry| fs::read_link(entry.path()).ok()).filter(|to| *to == held).collect();
    assert!(kept.is_empty(), "the starter's lock would stay held");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let size = limits.lines().find(|line| line.starts_with("Max file size")).unwrap();
    assert!(!size.contains("2048000"), "{size}");
    for entry in fs::read_dir(&place.dir).unwrap().flatten() {
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", entry.path().display());
    }
}

/// Runs slm-mesh while the signals 1 to 31, such as SIGTERM and SIGCHLD, are blocked.
fn with_blocked_signals(place: &Place, args: &[&str]) -> Output {
    let script = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)); os.execv(sys.argv[1], sys.argv[1:])";
    let program = place.command(&[]);
    let mut command = Command::new("timeout");
    command.args(["20", "python3", "-c", script, BIN]).args(args).env_clear().stdin(Stdio::null());
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?)))).output().unwrap()
}

#[test]
fn signals_that_a_starter_has_blocked_reach_broker_and_lock() {
    let place = Place::new();
    let out = with_blocked_signals(&place, &["lock", "a.rs", "--", "sh", "-c", "exit 7"]);
    assert_eq!(out.status.code(), Some(7), "the end of the command was missed: {}", said(&out));
    let pid = place.broker_pid().unwrap();
    signal(pid, "TERM");
    until("the broker ends", || !lives(pid));
}

#[test]
fn a_folder_where_the_socket_should_be_stops_nobody() {
    let place = Place::new();
    place.ok(&["peers"]);
    fs::remove_file(place.dir.join("mesh.sock")).unwrap();
    fs::create_dir(place.dir.join("mesh.sock")).unwrap();
    until("the socket is there again", || place.run(&["peers"]).status.success());
    place.ok(&["stop"]);
    fs::create_dir(place.dir.join("mesh.sock")).unwrap();
    place.ok(&["peers"]);
}

#[test]
fn a_path_that_is_not_utf8_and_a_folder_that_is_gone_are_no_panic() {
    use std::os::unix::ffi::OsStrExt;
    let mut place = Place::new();
    place.dir = place.root.join(std::ffi::OsStr::from_bytes(b"mesh-\xff"));
    place.ok(&["peers"]);
    assert!(said(&place.run(&["doctor"])).contains("a trial lock was taken and released"));
    let gone = place.root.join("gone");
    let script = "cd \"$1\" && rmdir \"$1\" && exec \"$2\" lock \"$3\"";
    for (file, is_granted) in [("a.rs", false), ("/tmp/a.rs", true)] {
        fs::create_dir(&gone).unwrap();
        let mut command = Command::new("sh");
        let program = place.command(&[]);
        command.args(["-c", script, "-"]).arg(&gone).args([BIN, file]).env_clear().stdin(Stdio::null());
        let out = command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?)))).output().unwrap();
        assert_eq!(out.status.success(), is_granted, "{file}: {}", said(&out));
        assert!(is_granted || said(&out).contains("is gone"), "{}", said(&out));
    }
}

#[test]
fn of_two_starts_at_once_the_loser_says_so_at_once() {
    for _ in 0..4 {
        let place = Place::new();
        let start = |_| place.command(&["start"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut both: Vec<_> = (0..2).map(start).collect();
        let began = Instant::now();
        until("one gives way", || both.iter_mut().any(|child| child.try_wait().unwrap().is_some()));
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        let loser = both.iter_mut().position(|child| child.try_wait().unwrap().is_some()).unwrap();
        let (winner, loser) = (both.remove(1 - loser), both.remove(0).wait_with_output().unwrap());
        assert_eq!(loser.status.code(), Some(1));
        let text = said(&loser);
        assert!(text.contains("already running") && text.contains(&winner.id().to_string()), "{text}");
        signal(winner.id(), "TERM");
        assert!(winner.wait_with_output().unwrap().status.success());
    }
}

#[test]
fn a_stopped_broker_keeps_nobody_waiting_and_is_ended_by_force() {
    let place = Place::new();
    let (mut session, pid) = session_with_lock(&place, "a.rs");
    signal(pid, "STOP");
    let verbs: [&[&str]; 14] = [
        &["status"],
        &["peers"],
        &["send", "human", "x"],
        &["inbox"],
        &["inbox", "--follow"],
        &["lock", "b.rs"],
        &["lock", "b.rs", "--", "true"],
        &["state", "get", "k"],
        &["state", "watch", "k"],
        &["stop"],
        &["start", "--detach"],
        &["watch", "--plain"],
        &["pipe"],
        &["doctor"],
    ];
    let began = Instant::now();
    let spawn = |args: &&[&str]| place.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let children: Vec<_> = verbs.iter().map(spawn).collect();
    let (answer, is_error) = session.try_tool("mesh_status", json!({}));
    assert!(is_error && began.elapsed() < ENDS_WITHIN, "{answer} after {:?}", began.elapsed());
    let wanted = format!("PID {pid}");
    assert!(answer["error"].as_str().unwrap().contains(&wanted), "{answer}");
    for (verb, child) in verbs.iter().zip(children) {
        let out = child.wait_with_output().unwrap();
        assert!(began.elapsed() < ENDS_WITHIN, "{verb:?} took {:?}", began.elapsed());
        let text = said(&out);
        assert!(!out.status.success() && text.contains(&wanted) && text.contains("stop --force"), "{verb:?}: {text}");
    }
    let again = Instant::now();
    assert!(session.try_tool("mesh_peers", json!({})).1 && again.elapsed() < ENDS_WITHIN);
    assert!(place.ok(&["stop", "--force"]).contains(&pid.to_string()));
    until("it is gone", || !lives(pid));
    assert_eq!(locks_seen(&mut session).as_array().unwrap().len(), 1, "the session and its lock outlived it");
}

#[test]
fn a_wait_that_a_caller_asked_for_is_no_hang() {
    let place = Place::new();
    let (_session, pid) = session_with_lock(&place, "a.rs");
    let began = Instant::now();
    let out = place.run(&["lock", "a.rs", "--wait", "6", "--as", "human"]);
    assert!(began.elapsed() >= Duration::from_secs(6), "{:?}", began.elapsed());
    assert!(!out.status.success() && !said(&out).contains("stuck"), "{}", said(&out));
    assert!(lives(pid));
}

#[test]
fn numbers_are_not_given_again_when_power_takes_the_end_of_the_log() {
    let place = Place::new();
    let mut socket = place.json(&["lock", "first.rs"]);
    let copy = place.root.join("then");
    fs::create_dir(&copy).unwrap();
    for name in ["broker.db", "broker.db-wal"] {
        fs::copy(place.dir.join(name), copy.join(name)).unwrap();
    }
    for n in 0..10 {
        socket = place.json(&["lock", &format!("f{n}.rs")]);
    }
    let last_token = socket["token"].as_i64().unwrap();
    let last_event = place.json(&["events"])["seq"].as_i64().unwrap();
    let last_message = place.socket().call("send", json!({ "to": "human", "message": "x" }))["result"].clone();
    let pid = place.broker_pid().unwrap();
    signal(pid, "KILL");
    until("it is dead", || !lives(pid));
    // After a power failure, the disk may hold an old version of the database, without the last locks.
    for name in ["broker.db", "broker.db-wal"] {
        fs::copy(copy.join(name), place.dir.join(name)).unwrap();
    }
    let _ = fs::remove_file(place.dir.join("broker.db-shm"));
    let token = place.json(&["lock", "f9.rs"])["token"].as_i64().unwrap();
    assert!(token > last_token, "{token} after {last_token}");
    let event = place.json(&["events"])["seq"].as_i64().unwrap();
    assert!(event > last_event, "{event} after {last_event}");
    let message = place.socket().call("send", json!({ "to": "human", "message": "y" }))["result"].clone();
    assert!(message["seq"].as_i64() > last_message["seq"].as_i64(), "{message} after {last_message}");
    // After a normal stop, the next broker goes on with the next token.
    place.ok(&["stop"]);
    assert_eq!(place.json(&["lock", "next.rs"])["token"].as_i64(), Some(token + 1));
}

#[test]
fn a_clock_that_was_set_while_no_broker_ran_ends_no_lease() {
    const DAY_MS: i64 = 86_400_000;
    for day in [-DAY_MS, DAY_MS] {
        let place = Place::new();
        let token = place.json(&["lock", "a.rs"])["token"].clone();
        let pid = place.broker_pid().unwrap();
        signal(pid, "KILL");
        until("it is dead", || !lives(pid));
        // The test can't change the clock by `day`, so it changes all stored times by the opposite amount.
        let db = Connection::open(place.dir.join("broker.db")).unwrap();
        db.execute_batch(&format!("UPDATE lock SET expires = expires - {day}; UPDATE event SET at = at - {day}"))
            .unwrap();
        drop(db);
        let clock = place.dir.join("broker.clock");
        let text = fs::read_to_string(&clock).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        let base: i64 = words[1].parse().unwrap();
        fs::write(&clock, format!("{} {} {}\n", words[0], base - day, words[2])).unwrap();
        let locks = place.json(&["lock", "list"])["locks"].clone();
        assert_eq!(locks[0]["token"], token, "{day}: {locks}");
        let left = locks[0]["expiresInSeconds"].as_i64().unwrap();
        assert!((1..=600).contains(&left), "{day}: {left} s left");
    }
}

#[test]
fn a_missing_home_is_taken_from_the_account() {
    let place = Place::new();
    let out = place.command(&["status"]).env_remove("HOME").env_remove("SLM_MESH_DATA_DIR").output().unwrap();
    // `status` starts no broker, so it writes nothing to the real home directory of the user who runs the tests.
    assert!(matches!(out.status.code(), Some(0 | 3)), "{}", said(&out));
}

#[test]
fn root_under_sudo_writes_nothing_into_the_home_of_another_user() {
    let place = Place::new();
    let home = place.root.join("home");
    if fs::metadata("/proc/self").map_or(1, |meta| meta.uid()) != 0 {
        return eprintln!("skipped: root_under_sudo_writes_nothing_into_the_home_of_another_user needs root");
    }
    std::os::unix::fs::chown(&home, Some(65_534), Some(65_534)).unwrap();
    for verb in [&["peers"][..], &["setup", "codex"], &["start", "--detach"]] {
        let out = place.command(verb).env_remove("SLM_MESH_DATA_DIR").env("SUDO_UID", "65534").output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{verb:?}: {}", said(&out));
        assert!(said(&out).contains("sudo -H"), "{verb:?}: {}", said(&out));
        assert_eq!(fs::read_dir(&home).unwrap().count(), 0, "{verb:?}");
    }
}

#[test]
fn a_broker_of_another_kind_is_recognised_and_left_alone() {
    let place = Place::new();
    fs::create_dir_all(place.dir.join("peers")).unwrap();
    fs::set_permissions(&place.dir, fs::Permissions::from_mode(0o700)).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let own = std::process::id().to_string();
    for (name, text) in [("mesh.db", "theirs"), ("broker.pid", &own), ("port", &port.to_string()), ("mesh.sock", "")] {
        fs::write(place.dir.join(name), text).unwrap();
    }
    for verb in [&["status"][..], &["stop"], &["stop", "--force"], &["clean"], &["peers"], &["doctor"]] {
        let out = place.run(verb);
        let text = said(&out);
        assert!(
            !out.status.success() && text.contains("a broker of slm-mesh 1.x") && text.contains(&own),
            "{verb:?}: {text}"
        );
    }
    drop(listener);
    // Now the broker of slm-mesh 1.x no longer answers, but its process still runs. `clean` must keep that broker's
    // files.
    place.ok(&["clean"]);
    for name in ["mesh.db", "broker.pid", "port"] {
        assert!(place.dir.join(name).exists(), "{name} is theirs");
    }
    // At its end, a test kills the process whose id is in this file. Here, the file contains the test's own process id,
    // so the file must be removed first.
    fs::remove_file(place.dir.join("broker.pid")).unwrap();
}

#[test]
fn an_old_database_of_another_broker_does_not_make_ours_look_like_it() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    fs::write(place.dir.join("mesh.db"), "theirs, from long ago").unwrap();
    for verb in [&["clean"][..], &["status"], &["peers"], &["stop"]] {
        place.ok(verb);
    }
    assert!(place.dir.join("mesh.db").exists());
}

#[test]
fn doctor_finds_a_full_disk_and_leaves_nothing_behind() {
    let place = Place::new();
    fs::create_dir(&place.dir).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=700k,mode=0700", "none"]).arg(&place.dir).output();
    if !mounted.is_ok_and(|out| out.status.success()) {
        return eprintln!(
            "skipped: doctor_finds_a_full_disk_and_leaves_nothing_behind: only root can mount a small disk"
        );
    }
    place.ok(&["start", "--detach"]);
    let said_well = place.ok(&["doctor"]);
    assert!(said_well.contains("is private and writable") && said_well.contains("taken and released"), "{said_well}");
    assert_eq!(place.json(&["lock", "list"])["locks"], json!([]));
    let _ = fs::write(place.dir.join("ballast"), vec![0; 1 << 20]);
    let out = place.run(&["doctor"]);
    assert!(out.status.code() == Some(1) && said(&out).contains("free some space"), "{}", said(&out));
    let pid = place.broker_pid().unwrap();
    signal(pid, "KILL");
    until("the broker has let go of the disk", || !lives(pid));
    assert!(Command::new("umount").arg(&place.dir).status().unwrap().success());
}

#[test]
fn one_repository_is_one_however_its_origin_is_written() {
    let place = Place::new();
    let home = place.root.join("home");
    std::fs::create_dir_all(home.join(".ssh")).unwrap();
    std::fs::write(home.join(".ssh/config"), "Host work\n HostName example.org\n").unwrap();
    std::fs::write(home.join(".gitconfig"), "[url \"git@example.org:\"]\n insteadOf = short:\n").unwrap();
    let clone = |folder: &str, origin: &str| {
        let root = place.root.join(folder);
        std::fs::create_dir_all(root.join(".git")).unwrap();
        std::fs::write(root.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
        std::fs::write(root.join(".git/config"), format!("[remote \"origin\"]\n url = {origin}\n")).unwrap();
        root
    };
    // The clones are at different depths in the file tree, so the same relative path leads from each clone to a
    // different repository.
    let first = clone("x/one", "https://example.org/o/r");
    let up = clone("x/up-one", "../up.git");
    for (n, (beside, origin, is_same)) in [
        (&first, "git@work:o/r.git", true),
        (&first, "short:O/r", true),
        (&first, "ssh://git@example.org:22/o/r/", true),
        (&first, "git@example.org:o/other.git", false),
        (&up, "../up.git", false),
    ]
    .into_iter()
    .enumerate()
    {
        let other = clone(&format!("y{n}/deep/two"), origin);
        let lock = |at: &std::path::Path, name: &str, verb: &str| {
            let mut command = place.command(&[verb, "src/a", "--as", name]);
            command.args((verb == "lock").then_some(["--scope", "repo"]).into_iter().flatten());
            command.current_dir(at).output().unwrap()
        };
        let mut ann = place.session("codex-mcp-client", "ann");
        let mut bob = place.session("claude-code", "bob");
        let name = |agent: &mut support::Session| {
            agent.tool("mesh_peers", json!({}))["you"]["name"].as_str().unwrap().to_owned()
        };
        let (ann_name, bob_name) = (name(&mut ann), name(&mut bob));
        assert!(lock(beside, &ann_name, "lock").status.success());
        let out = lock(&other, &bob_name, "lock");
        assert_eq!(!out.status.success(), is_same, "{origin}: {}", said(&out));
        assert!(lock(beside, &ann_name, "unlock").status.success());
    }
}
