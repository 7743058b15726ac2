//! Tests what happens if the data directory or its files belong to another user or can't be written.

use super::check_refusal;
use crate::support::{BIN, Place, put_program, until};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The id of another user, which is `nobody` on nearly every system.
const OTHER_UID: u32 = 65_534;

/// Whether this test can act as two users. If it can't, prints the reason.
fn is_root(test: &str) -> bool {
    let is_root = fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0);
    if !is_root {
        eprintln!("skipped: {test} needs root, to play two users");
    }
    is_root
}

/// Runs a verb (subcommand) as another user, from a copy of the program that the other user can read.
fn run_as_other(place: &Place, args: &[&str]) -> Output {
    let (copy, id) = (place.root.join("slm-mesh"), OTHER_UID.to_string());
    if !copy.exists() {
        put_program(&copy, &fs::read(BIN).unwrap());
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(copy).args(args);
    command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("HOME", &place.root);
    command.env("SLM_MESH_DATA_DIR", &place.dir).envs(place.env.iter().cloned()).current_dir("/").stdin(Stdio::null());
    command.output().unwrap()
}

#[test]
fn a_directory_that_cannot_be_written_is_named_with_its_cure() {
    let place = Place::new();
    fs::create_dir_all(&place.dir).unwrap();
    let is_root = fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0);
    if is_root {
        std::os::unix::fs::chown(&place.dir, Some(OTHER_UID), Some(OTHER_UID)).unwrap();
    }
    // Root may write anywhere. So if the test runs as root, it runs the verb as another user.
    let run = |args: &[&str]| if is_root { run_as_other(&place, args) } else { place.run(args) };
    let set_mode = |mode: u32| fs::set_permissions(&place.dir, fs::Permissions::from_mode(mode)).unwrap();
    for is_new in [true, false] {
        set_mode(0o500);
        let words = [place.dir.to_str().unwrap(), "Permission denied", "make it writable", "SLM_MESH_DATA_DIR"];
        check_refusal(&run(&["peers"]), 5, &words);
        set_mode(0o700);
        if is_new {
            // The next round of the loop finds the files of this broker.
            assert!(run(&["state", "set", "kept", "yes"]).status.success() && run(&["stop"]).status.success());
        }
    }
}

#[test]
fn a_file_of_the_database_that_cannot_be_written_is_named_with_its_cure() {
    if !is_root("a_file_of_the_database_that_cannot_be_written_is_named_with_its_cure") {
        return;
    }
    let place = Place::new();
    fs::create_dir_all(&place.dir).unwrap();
    let give = |path: &Path, uid: u32| std::os::unix::fs::chown(path, Some(uid), Some(uid)).unwrap();
    give(&place.dir, OTHER_UID);
    let set = || run_as_other(&place, &["state", "set", "kept", "yes"]);
    for name in ["broker.db", "broker.db-wal", "broker.db-shm", "broker.numbers"] {
        assert!(set().status.success() && run_as_other(&place, &["stop"]).status.success());
        let file = place.dir.join(name);
        drop(fs::File::options().create(true).append(true).open(&file).unwrap());
        // If the owner of the file runs the program, the program makes the file writable again.
        give(&file, OTHER_UID);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(set().status.success() && run_as_other(&place, &["stop"]).status.success(), "{name}");
        // A command that ran under sudo may have created a file that belongs to root.
        drop(fs::File::options().create(true).append(true).open(&file).unwrap());
        give(&file, 0);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let words = [file.to_str().unwrap(), "Permission denied", "make it a file that you own", "SLM_MESH_DATA_DIR"];
        check_refusal(&set(), 5, &words);
        give(&file, OTHER_UID);
    }
}

#[test]
fn a_data_directory_that_is_a_file_is_named_with_its_cure() {
    let place = Place::new();
    fs::write(&place.dir, "a file").unwrap();
    check_refusal(&place.run(&["peers"]), 5, &[place.dir.to_str().unwrap(), "SLM_MESH_DATA_DIR"]);
}

#[test]
fn a_directory_of_another_user_is_refused_and_left_as_it_is() {
    if !is_root("a_directory_of_another_user_is_refused_and_left_as_it_is") {
        return;
    }
    let place = Place::new();
    fs::create_dir_all(&place.dir).unwrap();
    std::os::unix::fs::chown(&place.dir, Some(OTHER_UID), Some(OTHER_UID)).unwrap();
    let words = [place.dir.to_str().unwrap(), "another user", "65534", "SLM_MESH_DATA_DIR"];
    check_refusal(&place.run(&["peers"]), 2, &words);
    assert_eq!(fs::read_dir(&place.dir).unwrap().count(), 0, "nothing was put into it");
}

#[test]
fn a_client_of_another_user_is_refused() {
    if !is_root("a_client_of_another_user_is_refused") {
        return;
    }
    let place = Place::new();
    place.ok(&["state", "set", "secret", "word"]);
    // Now everybody may open the socket. The broker must find out from the kernel which user connects.
    fs::set_permissions(&place.dir, fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(place.dir.join("mesh.sock"), fs::Permissions::from_mode(0o777)).unwrap();
    // This client becomes another user and connects. Unlike our program, it does not check the owner of the socket.
    let script = "import os, socket, sys; os.setuid(int(sys.argv[2])); s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); \
                  print('connected', flush=True); s.sendall(sys.argv[3].encode() + b'\\n'); print(s.recv(999))";
    let ask = json!({ "jsonrpc": "2.0", "id": 1, "method": "state.get", "params": { "key": "secret" } }).to_string();
    let (socket, uid) = (place.dir.join("mesh.sock"), OTHER_UID.to_string());
    let Ok(out) = Command::new("python3").args(["-c", script, socket.to_str().unwrap(), &uid, &ask]).output() else {
        return eprintln!("skipped: a_client_of_another_user_is_refused needs python3");
    };
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(said.contains("connected") && !said.contains("word"), "{out:?}");
    until("the refusal is in the log", || place.log().contains("another user"));
    assert_eq!(place.ok(&["state", "get", "secret"]).trim(), "word", "its owner is served as before");
}

#[test]
fn a_broker_of_another_user_is_not_spoken_to() {
    if !is_root("a_broker_of_another_user_is_not_spoken_to") {
        return;
    }
    let place = Place::new();
    fs::create_dir_all(&place.dir).unwrap();
    std::os::unix::fs::chown(&place.dir, Some(OTHER_UID), Some(OTHER_UID)).unwrap();
    assert!(run_as_other(&place, &["start", "--detach"]).status.success());
    check_refusal(&place.run(&["state", "set", "secret", "word"]), 2, &["another user", "SLM_MESH_DATA_DIR"]);
    let mut session = place.session("codex-mcp-client", "api");
    let (error, is_error) = session.try_tool("mesh_summary", json!({ "summary": "secret" }));
    assert!(is_error && error["error"].as_str().unwrap().contains("another user"), "{error}");
}

#[test]
fn a_pipe_in_the_place_of_a_small_file_makes_nobody_wait() {
    for name in ["broker.token", "broker.clock", "broker.alerts", "broker.machine", "broker.pid", "port"] {
        let place = Place::new().with("SLM_MESH_NOTIFY", "desktop");
        place.ok(&["state", "set", "key", "word"]);
        place.ok(&["stop"]);
        let path = place.dir.join(name);
        // The file may be missing, because the broker removes some files when it ends.
        let _ = fs::remove_file(&path);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert_eq!(place.ok(&["state", "get", "key"]).trim(), "word", "{name}");
        assert_eq!(place.broker_pid().map(|pid| pid > 0), Some(true), "{name}");
    }
}
