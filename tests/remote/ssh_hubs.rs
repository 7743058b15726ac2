//! Tests a hub that is reached through ssh. A fake ssh checks the target, and then runs the hub's `slm-mesh pipe` on
//! this machine.

use crate::support::{BIN, Place, put_program, until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A machine that reaches the hub as `ssh://ada@hub`.
fn guest_of(hub: &Place) -> Place {
    let bin = hub.root.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let script = format!(
        "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\n[ \"$2\" = ada@hub ] || {{ echo \"ssh: Could not resolve $2\" >&2; exit 255; }}\n\
         unset SLM_MESH_HOST\nSLM_MESH_DATA_DIR='{}' exec '{BIN}' pipe\n",
        hub.dir.display(),
    );
    put_program(&bin.join("ssh"), script.as_bytes());
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    Place::new().with("SLM_MESH_HOST", "ssh://ada@hub").with("PATH", &path)
}

#[test]
fn ssh_carries_the_same_lines_and_reports_its_errors() {
    let hub = Place::new();
    let guest = guest_of(&hub);
    guest.ok(&["state", "set", "port", "8080"]);
    assert_eq!(hub.ok(&["state", "get", "port"]).trim(), "8080");
    let mut far = guest.session("claude-code", "api");
    let you: Value = far.tool("mesh_peers", json!({ "scope": "machine" }))["you"].clone();
    assert_eq!(you["name"], json!("claude-api"));
    hub.ok(&["send", "claude-api", "through the pipe", "--as", "human"]);
    assert_eq!(far.tool("mesh_inbox", json!({}))["messages"][0]["payload"], json!("through the pipe"));
    let lost = guest.with("SLM_MESH_HOST", "ssh://nowhere").run(&["state", "get", "port"]);
    let said = String::from_utf8_lossy(&lost.stderr).into_owned();
    assert!(said.contains("Could not resolve nowhere"), "{said}");
}

#[test]
fn text_that_the_hubs_shell_prints_is_named_as_the_cause() {
    let hub = Place::new();
    let guest = guest_of(&hub);
    let ssh = hub.root.join("bin/ssh");
    let script = std::fs::read_to_string(&ssh).unwrap();
    let greeting = "#!/bin/sh\necho 'Welcome to hub'\necho 'ssh: a warning' >&2\n";
    put_program(&ssh, script.replacen("#!/bin/sh\n", greeting, 1).as_bytes());
    let failed = guest.run(&["state", "get", "port"]);
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(said.contains("Welcome to hub") && said.contains(".bashrc"), "{said}");
}

/// If a hub hangs, an idle connection to it over the network ends after 18 s. This limit is longer, because other tests
/// keep the machine busy.
const HANG_NOTICED_WITHIN: Duration = Duration::from_secs(28);

/// The processes that this process has started: for each, its id and its command line.
fn children(parent: u32) -> Vec<(String, String)> {
    let listed = Command::new("ps").args(["-A", "-o", "ppid=", "-o", "pid=", "-o", "args="]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let rows = listed.lines().filter_map(|row| {
        let (parent_of_row, row) = row.trim().split_once(' ')?;
        let (pid, words) = row.trim().split_once(' ')?;
        (parent_of_row == parent.to_string()).then(|| (pid.to_owned(), words.to_owned()))
    });
    rows.collect()
}

#[test]
fn a_hub_that_hangs_behind_a_living_ssh_is_noticed_by_the_command_that_holds_a_lock() {
    let hub = Place::new();
    let guest = guest_of(&hub);
    let mut lock = guest.command(&["lock", "/p/a.rs", "--", "sleep", "60"]);
    let mut lock = lock.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let carrier = || children(lock.id()).into_iter().find(|(_, words)| words.ends_with(" pipe"));
    until("the command holds the lock", || hub.ok(&["lock", "list"]).contains("/p/a.rs"));
    let (first, _) = carrier().unwrap();
    let broker = hub.broker_pid().unwrap().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &broker]).status().unwrap().success());
    signal("-STOP");
    let stopped_at = Instant::now();
    while carrier().is_some_and(|(pid, _)| pid == first) {
        assert!(stopped_at.elapsed() < HANG_NOTICED_WITHIN, "the hub's silence was not noticed");
        std::thread::yield_now();
    }
    signal("-CONT");
    until("the lock is held through a new connection", || {
        let is_connected = children(lock.id()).iter().any(|(pid, words)| *pid != first && words.contains("pipe"));
        is_connected && hub.ok(&["lock", "list"]).contains("/p/a.rs")
    });
    for (pid, _) in children(lock.id()) {
        // The process may have ended by itself.
        let _ = Command::new("kill").arg(pid).status();
    }
    lock.wait().unwrap();
}

#[test]
fn a_hub_that_hangs_is_reported_by_its_own_end_of_the_connection() {
    let hub = Place::new();
    let guest = guest_of(&hub);
    guest.ok(&["state", "set", "port", "8080"]);
    let broker = hub.broker_pid().unwrap().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &broker]).status().unwrap().success());
    signal("-STOP");
    let failed = guest.run(&["state", "get", "port"]);
    signal("-CONT");
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(said.contains(&broker) && !said.contains("did not respond"), "{said}");
    assert_eq!(guest.ok(&["state", "get", "port"]).trim(), "8080");
}

#[test]
fn a_program_that_reconnects_through_ssh_leaves_no_dead_ssh_behind() {
    let hub = Place::new();
    let guest = guest_of(&hub);
    let mut follow = guest.command(&["events", "--follow", "--after", "0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines().map(Result::unwrap);
    for n in 0..3 {
        let kind = format!("deploy.{n}");
        hub.ok(&["events", "emit", &kind]);
        assert!(lines.any(|line| line.contains(&kind)));
        hub.ok(&["stop"]);
    }
    let states = || {
        let listed = Command::new("ps").args(["-A", "-o", "ppid=", "-o", "stat="]).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let rows = listed.lines().filter_map(|row| row.trim().split_once(' '));
        rows.filter(|(parent, _)| *parent == follow.id().to_string()).map(|(_, state)| state).collect::<String>()
    };
    until("every ssh that has ended is reaped", || !states().contains('Z') && !states().is_empty());
    follow.kill().unwrap();
    follow.wait().unwrap();
}
