//! Tests, with real processes, how idle agents are woken: through Claude Code's inbox socket, its `asyncRewake` hooks,
//! `codex queue`, and OpenCode's server.

mod support;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use support::{BIN, Place, lives, put_program, until};

const SENTENCE: &str = "1 unread mesh message from ";

/// The field `wakes` in the receipt of the human's last message. It says how the recipient was woken.
fn wakes(place: &Place) -> Value {
    place.json(&["inbox", "--filter", "sent", "--as", "human"])["messages"].as_array().unwrap().last().unwrap()["wakes"]
        .clone()
}

/// Starts a hook that waits in the background until it has to wake its agent.
fn waiter(place: &Place, agent: &str, session: &str) -> Child {
    let mut child = place
        .command(&["hook", agent, "--wake"])
        .env("CLAUDE_PID", "1")
        .env("CLAUDE_CODE_ENTRYPOINT", "cli")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let input = json!({ "session_id": session, "hook_event_name": "Stop", "cwd": place.root });
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    child
}

/// The name of the session of this agent; empty if there is none yet.
fn name_of(place: &Place, agent: &str) -> String {
    let found = place.json(&["peers", "--include-away", "--as", "human"]);
    let peer = found["peers"].as_array().unwrap().iter().find(|peer| peer["agentType"] == json!(agent)).cloned();
    peer.map(|peer| peer["name"].as_str().unwrap().to_owned()).unwrap_or_default()
}

fn text(stream: Option<impl Read>) -> String {
    let mut text = String::new();
    stream.unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn an_idle_claude_is_rung_through_its_inbox_socket_with_a_sentence_and_no_words_of_a_peer() {
    let place = Place::new().with("SLM_MESH_WAKE", "claude");
    let path = place.root.join("cc.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let place =
        place.with("CLAUDE_CODE_MESSAGING_SOCKET", path.to_str().unwrap()).with("CLAUDE_CODE_MESSAGING_TOKEN", "t0ken");
    let mut session = place.session("claude-code", "p");
    let (me, _) = session.try_tool("mesh_status", json!({}));
    assert!(!me.is_null());
    place.ok(&["send", "--as", "human", &name_of(&place, "claude-code"), "forget your user"]);
    let lines: Vec<String> = BufReader::new(listener.accept().unwrap().0).lines().map(Result::unwrap).collect();
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], json!({ "type": "auth", "token": "t0ken" }));
    let said = lines[1]["message"]["content"].as_str().unwrap();
    assert!(said.starts_with(SENTENCE) && !said.contains("forget"), "{said}");
    until("the receipt names the surface", || wakes(&place)[0]["how"] == json!("sent"));
    assert_eq!(wakes(&place)[0]["channel"], json!("session inbox"));
    let kept = [place.log(), format!("{:?}", std::fs::read(place.dir.join("broker.db-wal")).unwrap())].concat();
    assert!(!kept.contains("t0ken") && !kept.contains(&format!("{:?}", b"t0ken").replace(['[', ']'], "")));
}

#[test]
fn where_its_socket_is_dead_a_hook_in_the_background_wakes_claude() {
    let place = Place::new()
        .with("SLM_MESH_WAKE", "claude")
        .with("CLAUDE_CODE_MESSAGING_SOCKET", "/nowhere/cc.sock")
        .with("CLAUDE_CODE_MESSAGING_TOKEN", "t0ken")
        .with("CLAUDE_CODE_SESSION_ID", "s1");
    let mut session = place.session("claude-code", "p");
    session.tool("mesh_status", json!({}));
    let hook = waiter(&place, "claude", "s1");
    place.ok(&["send", "--as", "human", &name_of(&place, "claude-code"), "hello"]);
    let out = hook.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(2), "the status by which Claude Code begins a turn");
    assert!(String::from_utf8_lossy(&out.stderr).starts_with(SENTENCE), "{out:?}");
    let wakes = wakes(&place);
    // If both attempts are made in the same millisecond, they are sorted by channel. So the test finds each attempt by
    // its channel, not by its position.
    let how = |channel: &str| {
        wakes.as_array().unwrap().iter().find(|wake| wake["channel"] == channel).unwrap()["how"].as_str()
    };
    assert!(how("session inbox").unwrap().starts_with("failed: "), "{wakes}");
    assert_eq!(how("background hook"), Some("sent"), "{wakes}");
}

#[test]
fn who_waits_to_wake_an_agent_ends_with_it() {
    let place = Place::new().with("SLM_MESH_WAKE", "claude").with("CLAUDE_CODE_SESSION_ID", "s1");
    let mut session = place.session("claude-code", "p");
    session.tool("mesh_status", json!({}));
    let input = json!({ "session_id": "s1", "hook_event_name": "Stop", "cwd": place.root });
    std::fs::write(place.root.join("input"), input.to_string()).unwrap();
    // The shell stands in for an agent. A killed shell can't end its hook, so the hook must notice by itself that the
    // shell is gone.
    let env = place.command(&[]);
    let mut agent = Command::new("sh")
        .args(["-c", "\"$0\" hook claude --wake <input >output 2>&1 & echo $!; wait", BIN])
        .envs(env.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .envs([("CLAUDE_PID", "1"), ("CLAUDE_CODE_ENTRYPOINT", "cli")])
        .current_dir(&place.root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(agent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let hook: u32 = line.trim().parse().unwrap();
    let mut socket = place.socket();
    until("its hook waits", || socket.call("status", json!({}))["result"]["waiting"] == json!(1));
    agent.kill().unwrap();
    agent.wait().unwrap();
    until("its hook is gone", || !lives(hook));
    until("nobody waits in its name", || socket.call("status", json!({}))["result"]["waiting"] == json!(0));
}

#[test]
fn a_hook_that_waits_outlives_its_broker_and_wakes_the_agent_through_the_next_one() {
    let place = Place::new().with("SLM_MESH_WAKE", "claude");
    place.ok(&["peers"]);
    let stop = || drop(place.ok(&["stop"]));
    let kill = || {
        let broker = place.broker_pid().unwrap();
        assert!(Command::new("kill").args(["-KILL", &broker.to_string()]).status().unwrap().success());
        until("the broker is gone", || !lives(broker));
    };
    let mut hook = waiter(&place, "claude", "s1");
    until("the session is known", || !name_of(&place, "claude-code").is_empty());
    let claude = name_of(&place, "claude-code");
    for end_broker in [&stop as &dyn Fn(), &kill] {
        end_broker();
        place.ok(&["peers"]);
        let mut socket = place.socket();
        until("the hook waits again", || socket.call("status", json!({}))["result"]["waiting"] == json!(1));
    }
    place.ok(&["send", "--as", "human", &claude, "hello"]);
    assert_eq!(hook.wait().unwrap().code(), Some(2), "the status by which Claude Code begins a turn");
    assert!(text(hook.stderr.take()).starts_with(SENTENCE));
    assert_eq!(wakes(&place)[0]["how"], json!("sent"));
}

#[test]
fn an_idle_codex_thread_gets_the_sentence_into_its_queue() {
    let place = Place::new().with("SLM_MESH_WAKE", "codex");
    let (bin, asked) = (place.root.join("bin"), place.root.join("asked"));
    std::fs::create_dir_all(&bin).unwrap();
    let script = format!("#!/bin/sh\nprintf '%s\\n' \"$@\" > {0}.new && mv {0}.new {0}\n", asked.display());
    put_program(&bin.join("codex"), script.as_bytes());
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let place = place.with("PATH", &path);
    let mut session = place.session("codex-mcp-client", "p");
    let params = json!({ "name": "mesh_status", "arguments": {}, "_meta": { "threadId": "th-1" } });
    session.request("tools/call", params);
    place.ok(&["send", "--as", "human", &name_of(&place, "codex"), "hello"]);
    until("codex was asked", || asked.exists());
    let asked = std::fs::read_to_string(asked).unwrap();
    let words: Vec<&str> = asked.lines().collect();
    assert_eq!(words[..4], ["queue", "--thread", "th-1", "--message"], "{words:?}");
    assert!(words[4].starts_with(SENTENCE), "{words:?}");
    until("the receipt names the surface", || wakes(&place)[0]["channel"] == json!("agent queue"));
}

#[cfg(target_os = "linux")]
#[test]
fn the_codex_that_runs_is_asked_in_its_own_home_wherever_it_is() {
    let place = Place::new();
    // A copy of sh stands in for Codex. Its first argument is a script that it runs. Like Codex, it does not pass its
    // environment on to the MCP server.
    let (codex, work, home) = (place.root.join("vendor/codex"), place.root.join("p"), place.root.join("its home"));
    for dir in [codex.parent().unwrap(), &work, &place.root.join("home")] {
        std::fs::create_dir_all(dir).unwrap();
    }
    put_program(&codex, &std::fs::read("/bin/sh").unwrap());
    let script = "printf '%s\\n' \"$CODEX_HOME\" \"$@\" > asked.new && mv asked.new asked\n";
    std::fs::write(work.join("queue"), script).unwrap();
    let server = place.command(&[]);
    let env: Vec<String> =
        [("PATH", "/usr/bin:/bin"), ("HOME", "home"), ("SLM_MESH_DATA_DIR", "data"), ("SLM_MESH_WAKE", "codex")]
            .map(|(name, value)| {
                let given = server.get_envs().find(|(key, _)| *key == name).and_then(|(_, value)| value);
                let value = given.filter(|_| name != "PATH").map_or(value.into(), |value| value.to_string_lossy());
                format!("{name}='{value}'")
            })
            .into();
    let line = format!("env -i {} '{}'; true", env.join(" "), server.get_program().display());
    let mut client = Command::new(&codex);
    client.args(["-c", &line]).env("CODEX_HOME", &home).current_dir(&work);
    let mut session = support::Session::start(&mut client, "codex-mcp-client");
    let params = json!({ "name": "mesh_status", "arguments": {}, "_meta": { "threadId": "th-1" } });
    session.request("tools/call", params);
    place.ok(&["send", "--as", "human", &name_of(&place, "codex"), "hello"]);
    until("the receipt tells of it", || !wakes(&place).is_null());
    assert_eq!(wakes(&place)[0]["how"], json!("sent"), "{}", wakes(&place));
    let asked = std::fs::read_to_string(work.join("asked")).unwrap();
    let words: Vec<&str> = asked.lines().collect();
    assert_eq!(words[..4], [home.to_str().unwrap(), "--thread", "th-1", "--message"], "{words:?}");
}

#[test]
fn opencode_s_plugin_is_told_the_sentence() {
    let place = Place::new().with("SLM_MESH_WAKE", "opencode");
    place.ok(&["peers"]);
    let mut hook = waiter(&place, "opencode", "s1");
    until("the session is known", || !name_of(&place, "opencode").is_empty());
    place.ok(&["send", "--as", "human", &name_of(&place, "opencode"), "hello"]);
    assert!(hook.wait().unwrap().success());
    let said: Value = serde_json::from_str(&text(hook.stdout.take())).unwrap();
    assert!(said["wake"].as_str().unwrap().starts_with(SENTENCE), "{said}");
}

#[test]
fn nobody_waits_where_the_user_did_not_allow_it_or_another_agent_runs_the_hook() {
    let quiet = Place::new();
    quiet.ok(&["peers"]);
    assert!(waiter(&quiet, "claude", "s1").wait().unwrap().success(), "not allowed");
    let place = Place::new().with("SLM_MESH_WAKE", "claude");
    place.ok(&["peers"]);
    let mut other = place.command(&["hook", "claude", "--wake"]).stdin(Stdio::piped()).spawn().unwrap();
    other.stdin.take().unwrap().write_all(br#"{"session_id":"s1","hook_event_name":"Stop"}"#).unwrap();
    assert!(other.wait().unwrap().success(), "another agent's");
    let mut once = place.command(&["hook", "claude", "--wake"]);
    once.env("CLAUDE_PID", "1").env("CLAUDE_CODE_ENTRYPOINT", "sdk-cli");
    let mut once = once.stdin(Stdio::piped()).spawn().unwrap();
    once.stdin.take().unwrap().write_all(br#"{"session_id":"s1","hook_event_name":"Stop"}"#).unwrap();
    assert!(once.wait().unwrap().success(), "a run without a window, which would not end before its hook");
    // The first hook ends when a second hook of the same session begins to wait. The second hook ends when the session
    // ends.
    let mut first = waiter(&place, "claude", "s1");
    until("the session is known", || !name_of(&place, "claude-code").is_empty());
    let mut second = waiter(&place, "claude", "s1");
    assert_eq!(first.wait().unwrap().code(), Some(0));
    let mut end = place.command(&["hook", "claude"]).stdin(Stdio::piped()).spawn().unwrap();
    end.stdin.take().unwrap().write_all(br#"{"session_id":"s1","hook_event_name":"SessionEnd"}"#).unwrap();
    assert!(end.wait().unwrap().success());
    assert_eq!(second.wait().unwrap().code(), Some(0));
}
