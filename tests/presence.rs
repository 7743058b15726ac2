//! Tests agents that have only hooks, and agents that run only verbs (subcommands). Such an agent counts as online as
//! long as its process runs.

mod support;

use serde_json::{Value, json};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use support::{Place, until};

/// A shell that stands in for an agent: it reads shell commands, one per line, and runs them. Its process has the
/// agent's name.
struct Agent(Child);

impl Agent {
    fn start(place: &Place, name: &str) -> Agent {
        let program = place.root.join("bin").join(name);
        std::fs::create_dir_all(place.root.join("bin")).unwrap();
        // A shell may replace itself with the last command of its script. The loop prevents this, so the process keeps
        // the agent's name.
        support::put_program(&program, b"#!/bin/sh\nwhile read -r line; do eval \"$line\"; done\n");
        let likeness = place.command(&[]);
        let mut command = Command::new(&program);
        command.current_dir(&place.root).stdin(Stdio::piped());
        command.envs(likeness.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Agent(command.spawn().unwrap())
    }

    /// Runs a verb (subcommand) in the agent's shell, and returns its output.
    fn run(&mut self, place: &Place, words: &str) -> String {
        self.eval(place, &format!("{} {words}", env!("CARGO_BIN_EXE_slm-mesh")))
    }

    /// Runs a command in the agent's shell, and returns its output.
    fn eval(&mut self, place: &Place, words: &str) -> String {
        let out = place.root.join("out");
        let line = format!("{words} > {out}.new; mv {out}.new {out}\n", out = out.display());
        self.0.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
        until(words, || out.exists());
        let said = std::fs::read_to_string(&out).unwrap();
        std::fs::remove_file(&out).unwrap();
        said
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn status(place: &Place, name: &str) -> Option<String> {
    let peers = place.json(&["peers", "--all", "--as", "human"])["peers"].clone();
    let found = peers.as_array().unwrap().iter().find(|peer| peer["name"] == json!(name)).cloned();
    found.map(|peer| peer["status"].as_str().unwrap().to_owned())
}

fn session_start(place: &Place, key: &str) -> String {
    let input = json!({ "hook_event_name": "SessionStart", "session_id": key, "cwd": place.root, "source": "startup" });
    std::fs::write(place.root.join("input"), input.to_string()).unwrap();
    "hook claude < input".to_owned()
}

#[test]
fn an_agent_without_mcp_is_a_peer_from_its_first_verb_until_it_dies() {
    let place = Place::new();
    place.ok(&["send", "human", "for the person alone", "--as", "human"]);
    let mut aider = Agent::start(&place, "aider");
    let name = format!("aider-{}", place.root.file_name().unwrap().to_str().unwrap());
    let you: Value = serde_json::from_str(&aider.run(&place, "whoami --json")).unwrap();
    assert_eq!((&you["kind"], &you["you"]["name"]), (&json!("session"), &json!(name)));
    assert!(!aider.run(&place, "inbox").contains("for the person alone"), "an agent never reads the human's mail");
    assert_eq!(status(&place, &name).as_deref(), Some("active"));
    place.ok(&["send", "all", "to everybody", "--as", "human"]);
    assert!(aider.run(&place, "inbox").contains("to everybody"));
    let again: Value = serde_json::from_str(&aider.run(&place, "whoami --json")).unwrap();
    assert_eq!(again["you"]["id"], you["you"]["id"]);
    aider.kill();
    until("it is away", || status(&place, &name).as_deref() == Some("away"));
}

#[test]
fn an_unknown_agent_that_names_itself_is_a_peer_until_it_ends_and_reads_its_mail_once() {
    let place = Place::new();
    place.ok(&["send", "human", "for the person alone", "--as", "human"]);
    let verb = |agent: &mut Agent, words: &str| {
        agent.eval(&place, &format!("AI_AGENT=newcomer {} {words}", env!("CARGO_BIN_EXE_slm-mesh")))
    };
    let id = |answer: &str| serde_json::from_str::<Value>(answer).unwrap()["you"]["id"].clone();
    let mut agent = Agent::start(&place, "newcomer");
    let first = id(&verb(&mut agent, "whoami --json"));
    let name = format!("newcomer-{}", place.root.file_name().unwrap().to_str().unwrap());
    assert_eq!(status(&place, &name).as_deref(), Some("active"));
    place.ok(&["send", "agent:newcomer", "to the newcomer", "--as", "human"]);
    assert!(verb(&mut agent, "inbox").contains("to the newcomer"));
    assert!(!verb(&mut agent, "inbox").contains("to the newcomer"), "mail that was printed is read");
    agent.kill();
    until("it is away", || status(&place, &name).as_deref() == Some("away"));
    let mut next = Agent::start(&place, "newcomer");
    assert_eq!(id(&verb(&mut next, "whoami --json")), first, "the next run continues as this peer");
    next.kill();
    assert!(place.ok(&["inbox", "--as", "human"]).contains("for the person alone"));
}

#[test]
fn two_agents_that_name_themselves_in_one_process_are_two_peers() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    let mut shell = Agent::start(&place, "newcomers");
    for agent in ["first", "second", "first"] {
        let words = format!("AI_AGENT={agent} {} whoami --json", env!("CARGO_BIN_EXE_slm-mesh"));
        let you: Value = serde_json::from_str(&shell.eval(&place, &words)).unwrap();
        assert!(you["you"]["name"].as_str().unwrap().starts_with(agent), "{you}");
    }
    assert_eq!(place.json(&["peers", "--as", "human"])["peers"].as_array().unwrap().len(), 2);
    shell.kill();
}

#[test]
fn a_python_script_of_an_agent_acts_as_the_agent() {
    if Command::new("python3").arg("--version").output().is_err() {
        return eprintln!("skipped: a_python_script_of_an_agent_acts_as_the_agent needs python3");
    }
    let place = Place::new();
    place.ok(&["peers"]);
    let mut aider = Agent::start(&place, "aider");
    let package = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let script = "from slm_mesh import Mesh; print(Mesh().whoami().kind)";
    std::fs::write(place.root.join("ask.py"), script).unwrap();
    let kind = aider.eval(&place, &format!("PYTHONPATH={} python3 ask.py", package.display()));
    assert_eq!(kind.trim(), "session");
}

#[test]
fn an_agent_with_hooks_alone_is_online_while_its_process_lives() {
    let place = Place::new();
    let mut claude = Agent::start(&place, "claude");
    claude.run(&place, &session_start(&place, "s1"));
    let you: Value = serde_json::from_str(&claude.run(&place, "whoami --json")).unwrap();
    let name = you["you"]["name"].as_str().unwrap().to_owned();
    assert_eq!(status(&place, &name).as_deref(), Some("active"));
    claude.run(&place, "lock a.rs");
    assert_eq!(place.json(&["lock", "list", "--as", "human"])["locks"][0]["holder"], json!(name));
    claude.kill();
    until("it is away", || status(&place, &name).as_deref() == Some("away"));
    until("its lock is free", || place.json(&["lock", "list", "--as", "human"])["locks"] == json!([]));
}

#[test]
fn hooks_and_verbs_name_their_session_as_the_settings_say() {
    let place = Place::new().with("SLM_MESH_NAME", "boss");
    let mut claude = Agent::start(&place, "claude");
    claude.run(&place, &session_start(&place, "s1"));
    let name = |agent: &mut Agent| serde_json::from_str::<Value>(&agent.run(&place, "whoami --json")).unwrap();
    assert_eq!(name(&mut claude)["you"]["name"], "boss");
    let mut aider = Agent::start(&place, "aider");
    assert_eq!(name(&mut aider)["you"]["name"], "boss-2");
    claude.kill();
    aider.kill();
}

/// Kills the broker.
fn crash(place: &Place) {
    let pid = place.broker_pid().unwrap();
    Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap();
    until("the broker is gone", || !support::lives(pid));
}

#[test]
fn a_session_known_by_its_process_stays_online_through_a_crash_of_the_broker() {
    let place = Place::new();
    let mut claude = Agent::start(&place, "claude");
    claude.run(&place, &session_start(&place, "s1"));
    claude.run(&place, "lock a.rs");
    let holder = place.json(&["lock", "list", "--as", "human"])["locks"][0]["holder"].as_str().unwrap().to_owned();
    crash(&place);
    assert_eq!(status(&place, &holder).as_deref(), Some("active"));
    assert_eq!(place.json(&["lock", "list", "--as", "human"])["locks"][0]["holder"], json!(holder));
    // An agent dies while no broker runs. The next broker must list it as away.
    crash(&place);
    claude.kill();
    until("it is away", || status(&place, &holder).as_deref() == Some("away"));
}

#[test]
fn a_verb_of_an_agent_that_we_do_not_know_is_its_own_while_its_server_comes_back() {
    let place = Place::new();
    place.ok(&["send", "human", "for the person", "--as", "human"]);
    // The test's process counts as the agent, because it starts the session.
    let mut session = place.session("newcomer", ".");
    let id = session.tool("mesh_peers", json!({}))["you"]["id"].clone();
    let pid = session.child.id().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    // The session is stopped and can't connect. So the first client of the next broker is a subcommand, which the test
    // starts.
    signal("-STOP");
    crash(&place);
    assert_eq!(place.json(&["whoami"])["you"]["id"], id);
    assert!(!place.ok(&["inbox"]).contains("for the person"));
    signal("-CONT");
    assert_eq!(session.tool("mesh_peers", json!({}))["you"]["id"], id);
}

#[test]
fn an_agent_that_we_do_not_know_is_one_peer_by_the_name_that_its_settings_give() {
    let place = Place::new();
    let mut command = place.command(&["mcp", "--agent", "MyBot"]);
    let mut session = support::Session::start(&mut command, "mcp");
    let name = session.tool("mesh_peers", json!({}))["you"]["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("mybot-"), "{name}");
    session.tool("mesh_lock", json!({ "action": "lock", "filePath": place.root.join("a.rs") }));
    let hook = |event: Value| {
        let mut child = place.command(&["hook", "claude", "--agent", "MyBot"]);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(event.to_string().as_bytes()).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    let edit = json!({ "hook_event_name": "PreToolUse", "session_id": "k", "cwd": place.root, "tool_name": "Edit",
                       "tool_input": { "file_path": place.root.join("a.rs") } });
    assert_eq!(hook(edit), "", "its own lock does not refuse it");
    place.ok(&["send", &name, "hello", "--as", "human"]);
    let prompt = json!({ "hook_event_name": "UserPromptSubmit", "session_id": "k", "cwd": place.root, "prompt": "go" });
    assert!(hook(prompt).contains("hello"));
}

#[test]
fn a_session_that_takes_over_a_name_is_told_so_once() {
    let place = Place::new();
    let mut first = place.session("claude-code", "shop");
    first.tool("mesh_summary", json!({ "summary": "the tax\nrules" }));
    let name = first.tool("mesh_peers", json!({}))["you"]["name"].as_str().unwrap().to_owned();
    first.close();
    until("it is away", || status(&place, &name).as_deref() == Some("away"));
    place.ok(&["send", &name, "still there?", "--as", "human"]);
    // The agent starts a new session later. Only the new session's name shows that it continues the first session.
    let mut next = place.session("claude-code", "shop");
    let told = next.tool("mesh_status", json!({}));
    let notice = told["notice"].as_str().unwrap_or_else(|| panic!("{told}"));
    for word in [&name, "the tax", "its unread message is yours now"] {
        assert!(notice.contains(word), "{notice}");
    }
    assert!(!notice.contains('\n'), "{notice}");
    assert_eq!(next.tool("mesh_status", json!({}))["notice"], Value::Null);
}

#[test]
fn a_session_gives_back_a_name_that_is_not_its_own() {
    let place = Place::new();
    let mut first = place.session("claude-code", "shop");
    let name = first.tool("mesh_peers", json!({}))["you"]["name"].as_str().unwrap().to_owned();
    let (refusal, is_error) = first.try_tool("mesh_inbox", json!({ "action": "decline" }));
    assert!(is_error && refusal["error"].as_str().unwrap().contains("your own name"), "{refusal}");
    first.close();
    until("it is away", || status(&place, &name).as_deref() == Some("away"));
    place.ok(&["send", &name, "for the first one", "--as", "human"]);
    let mut next = place.session("claude-code", "shop");
    assert!(next.tool("mesh_status", json!({}))["notice"].as_str().unwrap().contains("decline"));
    // The new session uses the earlier session's name, so the new session's lock belongs to this name. The session
    // can't decline the name while it holds a lock.
    next.tool("mesh_lock", json!({ "action": "lock", "filePath": place.root.join("a.rs") }));
    assert!(next.try_tool("mesh_inbox", json!({ "action": "decline" })).1);
    next.tool("mesh_lock", json!({ "action": "unlock", "filePath": place.root.join("a.rs") }));
    let own = next.tool("mesh_inbox", json!({ "action": "decline" }));
    assert_eq!((&own["gaveBack"], &own["you"]["name"]), (&json!(name), &json!(format!("{name}-2"))));
    // After the session has declined the name, the old messages stay in the mailbox of this name, and the session acts
    // as a new peer.
    assert_eq!(next.tool("mesh_inbox", json!({}))["messages"], json!([]));
    assert_eq!(next.tool("mesh_peers", json!({}))["you"]["name"], own["you"]["name"]);
    assert_eq!(status(&place, &name).as_deref(), Some("away"));
    place.ok(&["send", &format!("{name}-2"), "for the second one", "--as", "human"]);
    assert_eq!(next.tool("mesh_inbox", json!({}))["messages"][0]["payload"], json!("for the second one"));
    crash(&place);
    assert_eq!(next.tool("mesh_peers", json!({}))["you"]["name"], own["you"]["name"], "also after a crash");
    assert!(next.try_tool("mesh_inbox", json!({ "action": "decline" })).1, "once");
}

#[test]
fn a_session_goes_on_after_a_command_has_given_back_its_name() {
    let place = Place::new();
    let mut first = place.session("claude-code", "shop");
    let name = first.tool("mesh_peers", json!({}))["you"]["name"].as_str().unwrap().to_owned();
    first.close();
    until("it is away", || status(&place, &name).as_deref() == Some("away"));
    place.ok(&["send", &name, "for the first one", "--as", "human"]);
    let mut next = place.session("claude-code", "shop");
    next.tool("mesh_status", json!({}));
    place.ok(&["decline", "--as", &name]);
    let own = format!("{name}-2");
    place.ok(&["send", &own, "for the second one", "--as", "human"]);
    let inbox = next.tool("mesh_inbox", json!({}));
    assert_eq!(inbox["messages"][0]["payload"], json!("for the second one"), "{inbox}");
    assert_eq!(next.tool("mesh_peers", json!({}))["you"]["name"], json!(own));
    crash(&place);
    assert_eq!(next.tool("mesh_peers", json!({}))["you"]["name"], json!(own), "also after a crash");
}

#[test]
fn a_session_is_gone_with_its_agent_even_if_another_process_holds_its_pipes() {
    let place = Place::new();
    let mut claude = Agent::start(&place, "claude");
    let pipe = place.root.join("pipe");
    Command::new("mkfifo").arg(&pipe).status().unwrap();
    // The test keeps the server's input open, because the server ends when its input ends.
    let hold = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::OpenOptions::new().write(true).open(pipe).unwrap()
    });
    let line = format!("{} mcp < {} > /dev/null &\n", env!("CARGO_BIN_EXE_slm-mesh"), pipe.display());
    claude.0.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    let mut input = hold.join().unwrap();
    let hello = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "claude-code", "version": "1" } } });
    writeln!(input, "{hello}").unwrap();
    writeln!(input, "{}", json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).unwrap();
    let call = json!({ "name": "mesh_status", "arguments": {} });
    writeln!(input, "{}", json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call })).unwrap();
    let name = format!("claude-{}", place.root.file_name().unwrap().to_str().unwrap());
    until("the session is online", || status(&place, &name).as_deref() == Some("active"));
    claude.kill();
    until("the session is away", || status(&place, &name).as_deref() == Some("away"));
}
