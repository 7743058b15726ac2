//! Restores a backup while agents use the mesh. Afterwards, the mesh must have the data of the backup, and the old data
//! must still exist as a file.

mod support;

use serde_json::{Value, json};
use slm_mesh::base::time_format::iso;
use slm_mesh::broker::startup::{self, LogChange};
use slm_mesh::sys::data_dir::DataDir;
use slm_mesh::sys::settings::Settings;
use slm_mesh::sys::wall_ms;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use support::{Place, until};

/// The old databases that `restore` has moved aside.
fn set_aside(place: &Place) -> Vec<PathBuf> {
    let paths = fs::read_dir(&place.dir).unwrap().flatten().map(|entry| entry.path());
    paths.filter(|path| path.to_string_lossy().contains("broker.db.before-restore-20")).collect()
}

fn marker(place: &Place) -> String {
    place.ok(&["state", "get", "marker"]).trim().to_owned()
}

/// A mesh and a backup of it. The value of the entry `marker` is `backup` in the backup, and `later` in the mesh.
fn with_backup() -> (Place, PathBuf) {
    with_backup_of(Place::new().with("SLM_MESH_RATE", "1000000"))
}

fn with_backup_of(place: Place) -> (Place, PathBuf) {
    place.ok(&["state", "set", "marker", "backup"]);
    place.ok(&["stop"]);
    let backup = place.root.join("backup.db");
    fs::copy(place.dir.join("broker.db"), &backup).unwrap();
    place.ok(&["state", "set", "marker", "later"]);
    (place, backup)
}

#[test]
fn a_restored_mesh_has_what_the_backup_has_even_if_agents_are_active() {
    let (place, backup) = with_backup();
    let content = fs::read(&backup).unwrap();
    let token = place.json(&["lock", "a.rs"])["token"].as_i64().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        // Each of these calls starts a broker if none is running.
        threads.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                place.run(&["state", "set", "agent", "busy"]);
            }
        });
        for round in 1..=4 {
            place.ok(&["state", "set", "marker", "later"]);
            let restored = place.json(&["restore", backup.to_str().unwrap()]);
            let old = PathBuf::from(restored["data"]["setAside"].as_str().unwrap());
            assert!(set_aside(&place).contains(&old) && set_aside(&place).len() >= round, "{old:?}");
            assert_eq!(marker(&place), "backup", "{}", place.log());
        }
        done.store(true, Ordering::SeqCst);
    });
    place.ok(&["stop"]);
    assert_eq!(marker(&place), "backup", "after a restart, too");
    assert!(!place.log().contains("DAMAGED"), "{}", place.log());
    assert_eq!(fs::read(&backup).unwrap(), content, "the backup itself stays as it was");
    assert!(place.json(&["lock", "a.rs"])["token"].as_i64().unwrap() > token, "no token is granted twice");
    // The old database, which was moved aside, can itself be restored.
    let old = set_aside(&place).into_iter().find(|path| path.to_string_lossy().ends_with('Z')).unwrap();
    place.ok(&["restore", old.to_str().unwrap()]);
    assert_eq!(marker(&place), "later");
}

/// Kills the broker, so that its write-ahead log stays beside the database.
fn kill_broker(place: &Place) {
    let pid = place.broker_pid().unwrap();
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
    until("the broker is gone", || !support::lives(pid));
    assert!(fs::metadata(place.dir.join("broker.db-wal")).is_ok_and(|log| log.len() > 0));
}

#[test]
fn a_folder_whose_name_is_not_utf_8_keeps_every_old_database() {
    let mut place = Place::new();
    place.dir = place.root.join(OsStr::from_bytes(b"caf\xe9"));
    if fs::create_dir(&place.dir).is_err() {
        eprintln!("skipped: a_folder_whose_name_is_not_utf_8_keeps_every_old_database: this disk has only UTF-8 names");
        return;
    }
    let (place, backup) = with_backup_of(place);
    kill_broker(&place);
    place.ok(&["restore", backup.to_str().unwrap()]);
    assert_eq!(marker(&place), "backup", "nothing of the old database is mixed in");
    place.ok(&["stop"]);
    let names = ["old.db", "old.db-wal", "old.db-shm"].map(|name| place.root.join(name));
    for path in set_aside(&place) {
        let ending = ["-wal", "-shm"].iter().position(|ending| path.to_string_lossy().ends_with(ending));
        fs::copy(&path, &names[ending.map_or(0, |n| n + 1)]).unwrap();
    }
    place.ok(&["restore", names[0].to_str().unwrap()]);
    assert_eq!(marker(&place), "later", "the old database was moved aside with its log");
    place.ok(&["stop"]);

    fs::write(place.dir.join("broker.db"), "no database".repeat(1000)).unwrap();
    place.ok(&["peers"]);
    let said = place.ok(&["status"]);
    assert!(said.contains("the database was damaged: it was moved to"), "{said}{}", place.log());
    let names = fs::read_dir(&place.dir).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let mut damaged: Vec<String> = names.filter(|name| name.starts_with("broker.db.damaged-")).collect();
    damaged.sort();
    assert!(damaged.len() == 2 && damaged[1] == format!("{}.txt", damaged[0]), "{damaged:?}");
    assert_eq!(fs::read_to_string(place.dir.join(&damaged[0])).unwrap(), "no database".repeat(1000));
}

#[test]
fn a_broker_that_is_killed_while_a_restore_stops_it_does_not_matter() {
    let (place, backup) = with_backup();
    let pid = place.broker_pid().unwrap();
    support::freeze(pid);
    let mut restore = place.command(&["restore", backup.to_str().unwrap()]).stderr(Stdio::piped()).spawn().unwrap();
    let is_connected = || {
        let files = fs::read_dir(format!("/proc/{}/fd", restore.id())).into_iter().flatten().flatten();
        let targets = files.filter_map(|file| fs::read_link(file.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count() > 0
    };
    if cfg!(target_os = "linux") {
        until("restore is connected to the broker", is_connected);
    }
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
    let mut said = String::new();
    restore.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(restore.wait().unwrap().success(), "{said}");
    assert_eq!(marker(&place), "backup");
}

#[test]
fn a_restore_that_is_killed_while_it_moves_the_old_database_keeps_it_whole() {
    let (place, backup) = with_backup();
    kill_broker(&place);
    let prefix = "broker.db.before-restore-";
    let older = place.dir.join(format!("{prefix}2020-01-01T000000.000Z-wal"));
    fs::write(&older, "the log of another database").unwrap();
    // `restore` was killed after it had moved the log, and before it moved the database.
    fs::copy(&backup, place.dir.join("broker.db.restored")).unwrap();
    let begun = place.dir.join(format!("{prefix}{}", iso(wall_ms() + 1).replace(':', "")));
    fs::rename(place.dir.join("broker.db-wal"), format!("{}-wal", begun.display())).unwrap();
    assert_eq!(marker(&place), "backup", "{}", place.log());
    assert!(begun.exists() && older.exists(), "{:?}", set_aside(&place));
    place.ok(&["restore", begun.to_str().unwrap()]);
    assert_eq!(marker(&place), "later", "the old database has its log");
}

#[test]
fn the_database_that_a_hub_leaves_is_complete_even_if_the_hub_is_killed_while_it_moves_the_files() {
    let place = Place::new();
    place.ok(&["state", "set", "marker", "left"]);
    kill_broker(&place);
    let places = DataDir { dir: place.dir.clone() };
    startup::change_log(&places, &Settings::load(&places).unwrap(), LogChange::Rejoin).unwrap();
    let names = fs::read_dir(&place.dir).unwrap().flatten().map(|entry| entry.path());
    let left: Vec<PathBuf> = names.filter(|path| path.to_string_lossy().contains("broker.db.before-rejoin-")).collect();
    let [database] = &left[..] else { panic!("one file contains everything: {left:?}") };
    let restored = Place::new();
    restored.ok(&["restore", database.to_str().unwrap()]);
    assert_eq!(marker(&restored), "left");
}

#[test]
fn after_stop_the_database_file_alone_is_a_backup_or_stop_says_what_is_missing() {
    let place = Place::new();
    place.ok(&["state", "set", "marker", "kept"]);
    kill_broker(&place);
    let stop = |place: &Place| String::from_utf8(place.run(&["stop"]).stderr).unwrap();
    assert!(stop(&place).contains("no broker is running"));
    let backup = place.root.join("backup.db");
    fs::copy(place.dir.join("broker.db"), &backup).unwrap();
    let restored = Place::new();
    restored.ok(&["restore", backup.to_str().unwrap()]);
    assert_eq!(marker(&restored), "kept");

    // While another program reads the database, the write-ahead log can't be copied into the database file.
    place.ok(&["state", "set", "marker", "older"]);
    let reader = rusqlite::Connection::open(place.dir.join("broker.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM state").unwrap();
    place.ok(&["state", "set", "marker", "newer"]);
    assert!(stop(&place).contains("a backup needs both files"));
    for suffix in ["", "-wal"] {
        fs::copy(place.dir.join(format!("broker.db{suffix}")), place.root.join(format!("backup.db{suffix}"))).unwrap();
    }
    drop(reader);
    restored.ok(&["restore", backup.to_str().unwrap()]);
    assert_eq!(marker(&restored), "newer");
    assert!(!stop(&restored).contains("backup"), "without a reader, nothing is missing");
}

#[test]
fn a_mesh_that_is_restored_on_another_machine_keeps_your_mail() {
    let old = Place::new().with("SLM_MESH_MACHINE", "oldbox");
    old.ok(&["send", "human", "text"]);
    old.ok(&["stop"]);
    let backup = old.root.join("backup.db");
    fs::copy(old.dir.join("broker.db"), &backup).unwrap();
    fs::copy(old.dir.join("broker.machine"), old.root.join("backup.machine")).unwrap();
    let new = Place::new().with("SLM_MESH_MACHINE", "newbox");
    new.ok(&["peers"]);
    new.ok(&["restore", backup.to_str().unwrap()]);
    assert_eq!(new.json(&["inbox"])["messages"].as_array().unwrap().len(), 1);
    assert_eq!(fs::read_to_string(new.dir.join("broker.machine")).unwrap().trim(), "newbox");
}

#[test]
fn a_file_that_is_no_sound_backup_changes_nothing() {
    let (place, backup) = with_backup();
    let pid = place.broker_pid();
    let damaged = place.root.join("damaged.db");
    let mut bytes = fs::read(&backup).unwrap();
    let middle = bytes.len() / 2 / 2048 * 2048;
    bytes[middle..middle + 2048].fill(0xa5);
    fs::write(&damaged, bytes).unwrap();
    let (text, other) = (place.root.join("notes.txt"), place.root.join("other.db"));
    fs::write(&text, "no database").unwrap();
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE t(a); PRAGMA user_version = 3").unwrap();
    let own = place.dir.join("broker.db");
    let refused: [(&Path, &str); 6] = [
        (&damaged, "can't replace the database"),
        (&text, "slm-mesh lock restore"),
        (&other, "not an slm-mesh database"),
        (&own, "is the database of this mesh"),
        (&place.root, "is not a file"),
        (Path::new("/nowhere/backup.db"), "can't be read"),
    ];
    for (file, why) in refused {
        let out = place.run(&["restore", file.to_str().unwrap()]);
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(!out.status.success() && said.contains(why) && said.contains("nothing was changed"), "{said}");
        assert!(said.contains(file.to_str().unwrap()), "{said}");
    }
    assert_eq!((marker(&place), place.broker_pid(), set_aside(&place).len()), ("later".into(), pid, 0));
    let left = fs::read_dir(&place.dir).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| name.contains(".new")).collect::<Vec<_>>(), [""; 0], "no copy is left behind");
    assert_eq!(place.run(&["restore"]).status.code(), Some(2));
}

#[test]
fn a_log_that_is_removed_under_the_broker_costs_no_data() {
    let place = Place::new().with("SLM_MESH_RATE", "1000000");
    place.ok(&["start", "--detach"]);
    let pid = place.broker_pid().unwrap();
    let mut socket = place.socket();
    let mut set = |n: usize| {
        let answer: Value = socket.call("state.set", json!({ "key": format!("k{n}"), "value": "1" }));
        assert!(answer["error"].is_null(), "{answer}");
    };
    (0..20).for_each(&mut set);
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(place.dir.join(format!("broker.db{suffix}"))).unwrap();
    }
    set(20);
    until("the broker has noticed", || !support::lives(pid));
    assert!(place.log().contains("broker.db-wal was removed"), "{}", place.log());
    let kept = place.json(&["state", "list"]);
    assert_eq!(kept["entries"].as_array().unwrap().len(), 21, "{}", place.log());
    assert!(!place.log().contains("DAMAGED"), "{}", place.log());
}
