//! Tests how an MCP session ends, and how it goes on after its broker has died.

mod stdio;
mod support;

use serde_json::{Value, json};
use slm_mesh::base::limits::PEERS_PER_CONNECTION_MAX;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::Duration;
use stdio::{Bare, call, content, initialize, request, until_waiting};
use support::{BIN, Place, Session, lives, put_program, until};

/// The time within which the server must exit. Clients kill a server that takes longer.
const GOES_WITHIN: Duration = Duration::from_secs(2);

/// The running processes that have the data directory of this test in their environment.
fn processes(place: &Place) -> Vec<u32> {
    let mark = format!("SLM_MESH_DATA_DIR={}", place.dir.display());
    let is_ours = |pid: &u32| {
        std::fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()))
    };
    let pids =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_ours(pid) && lives(*pid)).collect()
}

/// Asserts that only these processes of the test still run. On systems other than Linux, which do not show the
/// environment of a process, nothing is checked.
fn assert_processes(place: &Place, mut want: Vec<u32>) {
    if cfg!(target_os = "linux") {
        let mut pids = processes(place);
        pids.sort_unstable();
        want.sort_unstable();
        assert_eq!(pids, want);
    }
}

#[test]
fn a_session_ends_with_its_input() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    session.call(1, "mesh_status", json!({}));
    let (status, took) = session.end();
    assert!(status.success() && took < GOES_WITHIN, "{status:?} {took:?}");
    assert_processes(&place, vec![place.broker_pid().unwrap()]);
}

#[test]
fn a_session_that_ends_while_it_attaches_detaches_in_order() {
    let place = Place::new();
    let mut first = Bare::legacy(&place, "2025-11-25", "p");
    first.call(1, "mesh_status", json!({}));
    first.end();
    for _ in 0..30 {
        let mut session = Bare::legacy(&place, "2025-11-25", "p");
        session.send(&call(1, "mesh_inbox", json!({ "waitSeconds": 3600 })));
        session.end();
    }
    let events = |kind: &str| place.json(&["events", "--types", kind, "--limit", "200"])["events"].clone();
    let count = |kind: &str| events(kind).as_array().unwrap().len();
    until("all that joined have left", || count("peer_joined") == count("peer_left"));
    for event in events("peer_left").as_array().unwrap() {
        assert_eq!(event["payload"]["reason"], json!("clean_exit"), "{event}");
    }
}

#[test]
fn a_session_ends_with_its_input_though_calls_wait() {
    let place = Place::new();
    let mut holder = Bare::legacy(&place, "2025-11-25", "q");
    let lock =
        |id: i64, wait: i64| call(id, "mesh_lock", json!({ "action": "lock", "filePath": "/x", "waitSeconds": wait }));
    assert!(!content(&holder.ask(&lock(1, 0))).1);
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    session.send(&call(1, "mesh_inbox", json!({ "waitSeconds": 3600 })));
    session.send(&call(2, "mesh_events", json!({ "waitSeconds": 3600, "types": ["never.comes"] })));
    session.send(&lock(3, 3600));
    until_waiting(&mut session, 3);
    let (status, took) = session.end();
    assert!(status.success() && took < GOES_WITHIN, "{status:?} {took:?}");
    assert!(
        !session.seen.iter().any(|line| [json!(1), json!(2), json!(3)].contains(&line["id"])),
        "{:?}",
        session.seen
    );
    // The broker must end all waiting calls of the ended session, including the call that waits for the lock.
    until_waiting(&mut holder, 0);
    assert_processes(&place, vec![place.broker_pid().unwrap(), holder.child.id()]);
}

#[test]
fn calls_before_the_end_of_input_are_answered() {
    let place = Place::new();
    // A session gives its calls 1.5 s to finish after its input ends. Starting a broker could take longer, so the test
    // starts one first.
    place.ok(&["start", "--detach"]);
    for round in 0..10 {
        let mut session = Bare::legacy(&place, "2025-11-25", "p");
        for id in 0..20 {
            session.send(&call(
                id,
                "mesh_state",
                json!({ "action": "set", "key": format!("{round}/{id}"), "value": "x" }),
            ));
        }
        let (status, took) = session.end();
        assert!(status.success() && took < GOES_WITHIN, "{status:?} {took:?}");
        for id in 0..20 {
            assert_eq!(session.seen.iter().filter(|line| line["id"] == json!(id)).count(), 1, "{round}/{id}");
        }
    }
}

#[test]
fn a_session_survives_the_death_of_its_broker() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    let me =
        |session: &mut Bare, id: i64| session.call(id, "mesh_peers", json!({ "scope": "machine" })).0["you"].clone();
    let before = me(&mut session, 1);
    place.ok(&["send", &session.name(), "before"]);
    let dead = place.broker_pid().unwrap();
    Command::new("kill").args(["-9", &dead.to_string()]).status().unwrap();
    until("the broker is dead", || !lives(dead));
    let (value, is_error) = session.call(2, "mesh_inbox", json!({}));
    assert!(!is_error && value["messages"][0]["payload"] == json!("before"), "{value}");
    assert_eq!(me(&mut session, 3), before);
    assert_ne!(place.broker_pid(), Some(dead));
}

#[test]
fn a_call_that_waits_survives_the_death_of_its_broker() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    session.send(&call("waits", "mesh_inbox", json!({ "waitSeconds": 60 })));
    until_waiting(&mut session, 1);
    let dead = place.broker_pid().unwrap();
    Command::new("kill").args(["-9", &dead.to_string()]).status().unwrap();
    until("the broker is dead", || !lives(dead));
    until_waiting(&mut session, 1);
    place.ok(&["send", &session.name(), "after"]);
    let (value, is_error) = content(&session.answer(&json!("waits")));
    assert!(!is_error && value["messages"][0]["payload"] == json!("after"), "{value}");
    let n = session.seen.iter().filter(|line| line["id"] == json!("waits")).count();
    assert_eq!(n, 1);
    assert_eq!(session.ask(&request("p", "ping", json!({})))["result"], json!({}));
}

#[test]
fn a_wait_for_events_misses_none_between_the_death_of_its_broker_and_the_next() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    session.send(&call("waits", "mesh_events", json!({ "types": ["x.y"], "waitSeconds": 60 })));
    let args = ["events", "--types", "x.y", "--wait", "60", "--json"];
    until_waiting(&mut session, 1);
    let verb = place.command(&args).stdout(Stdio::piped()).spawn().unwrap();
    until_waiting(&mut session, 2);
    let dead = place.broker_pid().unwrap();
    // The session and the `events` command are frozen for a while. Otherwise, they could connect to the new broker
    // before the event is emitted.
    [session.child.id(), verb.id()].into_iter().for_each(support::freeze);
    Command::new("kill").args(["-9", &dead.to_string()]).status().unwrap();
    until("the broker is dead", || !lives(dead));
    place.ok(&["events", "emit", "x.y", "{\"n\":1}"]);
    [session.child.id(), verb.id()].into_iter().for_each(support::thaw);
    let (value, is_error) = content(&session.answer(&json!("waits")));
    assert!(!is_error && value["events"][0]["payload"] == json!({ "n": 1 }), "{value}");
    let value: Value = serde_json::from_slice(&verb.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(value["events"][0]["payload"], json!({ "n": 1 }), "{value}");
}

#[test]
fn a_stopped_broker_comes_back_with_the_next_call() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    session.call(1, "mesh_state", json!({ "action": "set", "key": "k", "value": "v" }));
    place.ok(&["stop"]);
    let (value, is_error) = session.call(2, "mesh_state", json!({ "action": "get", "key": "k" }));
    assert!(!is_error && value["entry"]["value"] == json!("v"), "{value}");
}

/// Upgrades slm-mesh as npm does, by replacing the link to the program and removing the folder of the old version.
#[test]
fn a_session_whose_program_was_upgraded_starts_the_new_broker() {
    let place = Place::new();
    let at = |path: &str| place.root.join(path);
    ["old", "new", "bin"].iter().for_each(|folder| fs::create_dir(at(folder)).unwrap());
    put_program(&at("old/slm-mesh"), &fs::read(BIN).unwrap());
    fs::hard_link(at("old/slm-mesh"), at("new/slm-mesh")).unwrap();
    symlink(at("old/slm-mesh"), at("bin/slm-mesh")).unwrap();
    let mut command = Command::new(at("bin/slm-mesh"));
    let environment = place.command(&[]);
    command.env_clear().envs(environment.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut session = Session::start(command.current_dir(&place.root), "codex-mcp-client");
    session.tool("mesh_state", json!({ "action": "set", "key": "k", "value": "v" }));
    fs::remove_dir_all(at("old")).unwrap();
    fs::remove_file(at("bin/slm-mesh")).unwrap();
    symlink(at("new/slm-mesh"), at("bin/slm-mesh")).unwrap();
    place.ok(&["stop"]);
    let entry = session.tool("mesh_state", json!({ "action": "get", "key": "k" }));
    assert_eq!(entry["entry"]["value"], json!("v"));
}

#[test]
fn a_session_ends_with_its_client() {
    let place = Place::new();
    let mut other = Bare::legacy(&place, "2025-11-25", "q");
    other.call(1, "mesh_status", json!({}));
    // While a call waits, the test closes both pipes to the session, as happens when a client is killed.
    let mut child = place.command(&[]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{}\n{}", initialize("2025-11-25"), call(1, "mesh_inbox", json!({ "waitSeconds": 3600 }))).unwrap();
    until_waiting(&mut other, 1);
    drop((input, child.stdout.take()));
    until("the session is gone", || child.try_wait().unwrap().is_some());
    until_waiting(&mut other, 0);
}

#[test]
fn a_thread_too_many_is_refused_alone_also_when_the_broker_is_new() {
    let place = Place::new();
    let mut session = place.session("codex-mcp-client", "api");
    let ask = |session: &mut Session, thread: usize| {
        let meta = json!({ "threadId": format!("th-{thread}") });
        let params = json!({ "name": "mesh_status", "arguments": {}, "_meta": meta });
        session.ask("tools/call", params)
    };
    let is_refused = |session: &mut Session, id: i64| session.answer(id)["result"]["isError"] == json!(true);
    for thread in 1..=PEERS_PER_CONNECTION_MAX {
        let id = ask(&mut session, thread);
        assert!(!is_refused(&mut session, id), "{thread}");
    }
    place.ok(&["stop"]);
    // The first call starts the next broker. The session already has as many threads as a connection may have, so this
    // call's new thread must be refused, although the thread's name comes first in alphabetical order.
    let calls = [0, 1, 64].map(|thread| ask(&mut session, thread));
    assert_eq!(calls.map(|id| is_refused(&mut session, id)), [true, false, false]);
    assert!(session.close().success());
}

#[test]
fn a_session_whose_agent_was_killed_does_not_come_back_with_the_next_broker() {
    let place = Place::new();
    let status = |name: &str| {
        let peers = place.json(&["peers", "--all", "--as", "human"])["peers"].clone();
        let row = peers.as_array().unwrap().iter().find(|peer| peer["name"] == name).cloned();
        row.map(|row| row["status"].as_str().unwrap().to_owned())
    };
    let own_name = |session: &mut Session| {
        let status = session.tool("mesh_status", json!({}));
        status["you"]["name"].as_str().unwrap_or_else(|| panic!("{status}")).to_owned()
    };
    // This shell stands for the agent. The server is its child. The test kills the shell, but keeps the server's pipes
    // open.
    let ours = place.command(&[]);
    let variables = ours.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let mut agent = Command::new("sh");
    agent.args(["-c", "exec 3<&0; \"$0\" mcp <&3 & wait", BIN]).current_dir(&place.root).envs(variables);
    let mut session = Session::start(&mut agent, "codex-mcp-client");
    let name = own_name(&mut session);
    assert_eq!(status(&name).as_deref(), Some("active"));
    session.child.kill().unwrap();
    session.child.wait().unwrap();
    // This session spoke last, so it also connects last to the next broker.
    let mut idle = place.session("codex-mcp-client", "idle");
    let idle_name = own_name(&mut idle);
    let old = place.broker_pid().unwrap();
    assert!(Command::new("kill").args(["-9", &old.to_string()]).status().unwrap().success());
    until("the broker is dead", || !lives(old));
    until("the idle session is back", || status(&idle_name).as_deref() == Some("active"));
    assert_ne!(status(&name).as_deref(), Some("active"));
    // If a client is alive after all, its next call brings the session back.
    session.tool("mesh_status", json!({}));
    assert_eq!(status(&name).as_deref(), Some("active"));
}
