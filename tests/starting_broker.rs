//! Calls a broker that needs a long time to start, for example because it upgrades a large database. Verbs must tell
//! the user why they wait, and hooks must not delay the agent.

mod support;

use rusqlite::Connection;
use serde_json::json;
use std::fs::{self, File};
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::{Place, until};

/// Does what a broker does while it starts: holds the lock, and notes in the lock file what it is doing.
fn start_slowly(place: &Place) -> File {
    fs::create_dir_all(&place.dir).unwrap();
    let mut lock = File::create(place.dir.join("broker.lock")).unwrap();
    lock.lock().unwrap();
    lock.write_all(b"starting: it is upgrading the database (800 MB)\n").unwrap();
    lock
}

#[test]
fn a_verb_says_that_the_broker_is_starting_and_a_hook_does_not_wait_for_it() {
    let place = Place::new().with("SLM_MESH_HOOK_BUDGET_MS", "50");
    let lock = start_slowly(&place);
    let began = Instant::now();
    let input = json!({ "hook_event_name": "UserPromptSubmit", "session_id": "s1", "cwd": place.root, "prompt": "x" });
    let mut hook = place.command(&["hook", "claude"]);
    let mut hook = hook.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    hook.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let out = hook.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && said.contains("upgrading the database (800 MB)"), "{said}");
    // If the hook had started another broker, the hook would have waited three seconds for the lock.
    assert!(began.elapsed() < Duration::from_millis(2900), "{:?}", began.elapsed());

    let doctor = String::from_utf8(place.run(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains("still starting: it is upgrading"), "{doctor}");
    let out = place.run(&["state", "list"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert!(said.contains("is still starting: it is upgrading the database (800 MB); try again in a moment"), "{said}");
    assert!(!said.contains("--force"), "{said}");
    // Simulates a broker that was killed while it started: its text is still in the lock file, but its lock is gone.
    lock.unlock().unwrap();
    place.ok(&["state", "list"]);
    assert_eq!(fs::read_to_string(place.dir.join("broker.lock")).unwrap(), "");
}

#[test]
fn a_broker_that_upgrades_its_database_says_so() {
    let place = Place::new();
    fs::create_dir_all(&place.dir).unwrap();
    let db = Connection::open(place.dir.join("broker.db")).unwrap();
    db.execute_batch(include_str!("../src/store/migrations/1.sql")).unwrap();
    db.execute_batch("PRAGMA user_version = 1; BEGIN IMMEDIATE").unwrap();
    // The broker waits for the other program that is using the database.
    let mut verb = place.command(&["state", "list"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let text = || fs::read_to_string(place.dir.join("broker.lock")).unwrap_or_default();
    until("the broker says what it does", || text().starts_with("starting: it is upgrading the database (1 MB)"));
    drop(db);
    verb.wait().unwrap();
    until("the broker is ready", || place.run(&["state", "list"]).status.success());
    assert_eq!(text(), "");
}
