//! Verbs (subcommands): their output for people, their JSON output, and their exit statuses. Text from other peers must
//! not control the terminal.

mod support;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use support::{BIN, Place, Socket, lives, until};

const CODEX: &str = "codex-mcp-client";

/// Runs a verb (subcommand) with this standard input.
fn run_with_input(place: &Place, args: &[&str], input: &[u8]) -> Output {
    let mut command = place.command(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn status(place: &Place, args: &[&str]) -> i32 {
    place.run(args).status.code().unwrap()
}

/// A running verb (subcommand). The test reads its output line by line.
struct Stream {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Stream {
    fn start(place: &Place, args: &[&str]) -> Stream {
        let mut child = place.command(args).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Stream { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.lines.read_line(&mut line).unwrap() > 0, "it ended");
        line.trim_end().to_owned()
    }

    fn json(&mut self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until exactly `n` calls are waiting in the broker.
fn until_waiting(socket: &mut Socket, n: i64) {
    until("a verb waits in the broker", || socket.call("status", json!({}))["result"]["waiting"] == json!(n));
}

fn kill_broker(place: &Place) {
    let pid = place.broker_pid().unwrap();
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    // The broker's threads do not all end at the same moment, so the test also waits until the broker's socket is dead.
    let answers = || UnixStream::connect(place.dir.join("mesh.sock")).is_ok() && place.broker_pid() == Some(pid);
    until("the broker is dead", || !lives(pid) && !answers());
}

#[test]
fn each_verb_speaks_to_people_and_to_programs() {
    let place = Place::new();
    let mut agent = place.session(CODEX, "api");
    agent.tool("mesh_summary", json!({ "summary": "the parser" }));
    // Each row has the arguments, the words that the output for people must contain, a JSON pointer into the JSON
    // output, and the value at that pointer.
    let table: &[(&[&str], &[&str], &str, Value)] = &[
        (&["start", "--detach"], &["running", "PID"], "/ok", json!(true)),
        (&["peers"], &["NAME", "codex-api", "the parser"], "/peers/0/name", json!("codex-api")),
        (&["peers", "--scope", "machine", "--all"], &["codex-api"], "/peers/0/status", json!("active")),
        (&["whoami"], &["human"], "/kind", json!("human")),
        (&["summary", "watching", "it"], &["set"], "/ok", json!(true)),
        (&["send", "codex-api", "two", "words", "--key=k"], &["sent to codex-api"], "/repeated", json!(true)),
        (&["send", "human", "other", "--key=k"], &["key k was already sent to codex-api"], "/repeated", json!(true)),
        (&["send", "codex-api", "{}", "--type", "json"], &["codex-api"], "/recipients/0/receipt", json!("accepted")),
        (&["broadcast", "hello", "all"], &["codex-api"], "/recipients/0/name", json!("codex-api")),
        (&["inbox", "--filter", "sent"], &["two words", "accepted"], "/messages/0/payload", json!("two words")),
        (&["inbox"], &["No messages"], "/messages", json!([])),
        (&["log", "--grep", "two words"], &["→ codex-api", "[accepted]"], "/messages/0/payload", json!("two words")),
        (&["join", "#api"], &["Joined #api: "], "/channel/count", json!(1)),
        (&["channels"], &["CHANNEL", "#api", "yes"], "/channels/0/joined", json!(true)),
        (&["send", "#api", "hello"], &["no other peer has joined #api"], "/recipients", json!([])),
        (&["leave", "api"], &["#api"], "/channel", json!("#api")),
        (&["state", "set", "port", "8080"], &["port", "8080", "version"], "/entry/value", json!("8080")),
        (&["state", "set", "k", &"x".repeat(30_000)], &["Set k (30000 bytes, version 1)"], "/ok", json!(true)),
        (&["state", "list"], &["k     (too long for a list)"], "/entries/0/value", Value::Null),
        (&["state", "get", "port"], &["8080"], "/entry/key", json!("port")),
        (&["state", "list", "--prefix", "po"], &["KEY", "port", "8080"], "/entries/0/key", json!("port")),
        (
            &["lock", "a.rs", "--renew", "--reason", "why"],
            &["a.rs", "token", "10 min"],
            "/expiresInSeconds",
            json!(600),
        ),
        (&["lock", "list"], &["FILE", "a.rs", "why"], "/locks/0/reason", json!("why")),
        (&["unlock", "a.rs"], &["a.rs"], "/ok", json!(true)),
        (&["events", "--types", "peer_joined"], &["peer_joined", "codex-api"], "/events/0/type", json!("peer_joined")),
        (&["events", "emit", "build.done", "{\"n\":1}"], &["event"], "/ok", json!(true)),
        (&["events", "--types", "build.done"], &["build.done", "n=1"], "/events/0/payload", json!({ "n": 1 })),
        (&["status"], &["PID", "Peers", "Locks"], "/status", json!("ok")),
        (&["clean"], &["0"], "/killed", json!(0)),
        (&["state", "delete", "port"], &["port"], "/ok", json!(true)),
        (&["stop"], &["stopped"], "/ok", json!(true)),
    ];
    for (args, words, pointer, want) in table {
        let as_human: Vec<&str> = match args[0] {
            "start" | "stop" | "clean" => args.to_vec(),
            _ => args.iter().copied().chain(["--as", "human"]).collect(),
        };
        let text = place.ok(&as_human);
        for word in *words {
            assert!(text.contains(word), "{args:?}: want {word:?} in: {text}");
        }
        assert!(!text.contains('\u{1b}'), "{args:?}: colour where there is no terminal: {text:?}");
        match args[..] {
            // These verbs (subcommands) succeed only once. The test undoes the first run before the second one.
            ["unlock", file] => drop(place.ok(&["lock", file, "--as", "human"])),
            ["stop"] => drop(place.ok(&["start", "--detach"])),
            _ => {}
        }
        let line = place.ok(&as_human.iter().copied().chain(["--json"]).collect::<Vec<_>>());
        assert_eq!(line.trim_end().lines().count(), 1, "{args:?}: one line for programs");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value.pointer(pointer), Some(want), "{args:?}: {pointer} in {value}");
    }
}

#[test]
fn json_may_stand_before_or_behind_the_verb() {
    let place = Place::new();
    place.ok(&["state", "set", "k", "v"]);
    let answers = [
        place.ok(&["--json", "state", "get", "k"]),
        place.ok(&["state", "--json", "get", "k"]),
        place.ok(&["state", "get", "k", "--json"]),
    ];
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.starts_with('{')), "{answers:?}");
    for args in [["--json", "send", "nobody", "x"], ["send", "nobody", "x", "--json"]] {
        let out = place.run(&args);
        let error: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!((&error["ok"], &error["kind"]), (&json!(false), &json!("not_found")), "{args:?}");
        assert!(out.stderr.is_empty(), "{args:?}: a program reads one place");
    }
}

#[test]
fn exit_statuses_tell_scripts_what_happened() {
    let place = Place::new();
    assert_eq!(status(&place, &["status"]), 3, "no broker, and none is started to ask");
    assert_eq!(status(&place, &["stop"]), 3);
    place.ok(&["state", "set", "k", "v"]);
    place.ok(&["lock", "a.rs"]);
    for (args, want) in [
        (&["state", "get", "k"][..], 0),
        (&["help"], 0),
        (&["help", "lock"], 0),
        (&["--help"], 0),
        (&["lock", "--help"], 0),
        (&["version"], 0),
        (&["--version"], 0),
        (&["state", "get", "nothing"], 1),
        (&["state", "set", "k", "v2", "--expect", "9"], 1),
        (&["send", "nobody", "hello"], 1),
        (&["lock", "a.rs"], 1),
        (&["unlock", "b.rs"], 1),
        (&["whoami", "--as", "nobody"], 1),
        (&["fly"], 2),
        (&["state"], 2),
        (&["state", "get"], 2),
        (&["send", "human"], 2),
        (&["lock"], 2),
        (&["lock", "a.rs", "--"], 2),
        (&["lock", "a.rs", "--ttl", "61"], 2),
        (&["lock", "a.rs", "--ttl", "soon"], 2),
        (&["inbox", "--limit", "101"], 2),
        (&["inbox", "--wait"], 2),
        (&["peers", "--scope", "galaxy"], 2),
        (&["send", "human", "x", "--shout"], 2),
        (&["send", "human", "no json", "--type", "json"], 2),
        (&["events", "emit", "plain"], 2),
        (&["events", "emit", "a.b", "[1]"], 2),
        (&["stop", "now"], 2),
        (&["help", "nothing"], 2),
        (&["peers", "--follow"], 2),
        (&["inbox", "--wait", "1"], 4),
        (&["events", "--types", "a.b", "--wait", "1"], 4),
        (&["state", "watch", "k", "--wait", "1"], 4),
    ] {
        let out = place.run(args);
        assert_eq!(out.status.code(), Some(want), "{args:?}: {out:?}");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(want != 2 || said.starts_with("slm-mesh: "), "{args:?}: what is wrong is said aside: {out:?}");
    }
}

#[test]
fn a_wrong_argument_is_named_as_the_command_line_knows_it() {
    let place = Place::new();
    for (args, words) in [
        (&["lock", "a.rs", "--ttl", "61"][..], &["--ttl", "from 1 to 60", "61"][..]),
        (&["peers", "--scope", "galaxy"], &["--scope", "machine, directory, repo", "galaxy"]),
        (&["send", "human", "x", "--shout"], &["--shout", "--type"]),
        (&["flyy"], &["flyy", "help"]),
        (&["state", "put", "k"], &["get, set, list, delete"]),
    ] {
        let said = String::from_utf8(place.run(args).stderr).unwrap();
        assert!(words.iter().all(|word| said.contains(word)), "{args:?}: want {words:?} in: {said}");
    }
    assert!(!place.dir.join("mesh.sock").exists(), "a usage error needs no broker");
}

#[test]
fn a_dash_takes_the_text_from_standard_input() {
    let place = Place::new();
    assert!(run_with_input(&place, &["send", "human", "-"], b"diff --git\n\n+ added\n").status.success());
    assert!(run_with_input(&place, &["state", "set", "diff", "-"], b"one\ntwo\n").status.success());
    assert_eq!(place.json(&["inbox", "--filter", "all"])["messages"][0]["payload"], json!("diff --git\n\n+ added"));
    assert_eq!(place.ok(&["state", "get", "diff"]), "one\ntwo\n");
    let largest = vec![b'x'; 64 * 1024];
    assert!(run_with_input(&place, &["send", "human", "-"], &largest).status.success());
    let refused = run_with_input(&place, &["send", "human", "-"], &[largest, b"xx".to_vec()].concat());
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert_eq!(run_with_input(&place, &["send", "human", "-"], b"").status.code(), Some(2));
    assert_eq!(run_with_input(&place, &["send", "human", "-"], b"\xff\xfe").status.code(), Some(2));
}

#[test]
fn a_command_under_a_lock_has_its_token_and_passes_its_status_on() {
    let place = Place::new();
    let script = format!("test \"$SLM_MESH_LOCK_TOKEN\" -gt 0 && {BIN} lock list --json; exit 7");
    let out = place.run(&["lock", "a.rs", "--reason", "build", "--", "sh", "-c", &script]);
    assert_eq!(out.status.code(), Some(7));
    let list: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(list["locks"][0]["reason"], json!("build"));
    assert!(list["locks"][0]["filePath"].as_str().unwrap().ends_with("/a.rs"));
    assert_eq!(place.json(&["lock", "list"])["locks"], json!([]), "the lock ended with its command");
    let token =
        |_| place.ok(&["lock", "a.rs", "--", "sh", "-c", "echo $SLM_MESH_LOCK_TOKEN"]).trim().parse::<i64>().unwrap();
    let tokens: Vec<i64> = (0..3).map(token).collect();
    assert!(tokens[0] < tokens[1] && tokens[1] < tokens[2], "{tokens:?}");
    assert_eq!(status(&place, &["lock", "a.rs", "--", "sh", "-c", "kill -9 $$"]), 128 + 9);
    let missing = place.run(&["lock", "a.rs", "--", "no-such-program"]);
    assert!(!missing.status.success() && String::from_utf8_lossy(&missing.stderr).contains("no-such-program"));
    place.ok(&["--as", "human", "lock", "a.rs", "--", "true"]);
    place.ok(&["--json", "lock", "--wait", "0", "a.rs", "--", "true"]);
    place.ok(&["--wait", "1", "--from", "human", "lock", "a.rs", "--", "true"]);
    let list = place.json(&["lock", "list"]);
    assert_eq!(list["locks"], json!([]), "the words after -- are a command, not files: {list}");
}

#[test]
fn a_command_under_a_lock_keeps_the_others_out_while_it_runs() {
    let place = Place::new();
    let mut running = Stream::start(&place, &["lock", "a.rs", "--", "sh", "-c", "echo held; exec sleep 60"]);
    assert_eq!(running.line(), "held");
    // The lock belongs only to the running command, so a second command of the same user must not get it.
    let refused = place.run(&["lock", "a.rs", "--", "true"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(status(&place, &["unlock", "a.rs"]), 1, "it belongs to the command alone");
    let mut waiting = Stream::start(&place, &["lock", "a.rs", "--wait", "30", "--", "echo", "mine"]);
    until_waiting(&mut place.socket(), 1);
    // A signal ends the first command. The second command, which waits, must then get the lock.
    assert!(Command::new("kill").arg(running.child.id().to_string()).status().unwrap().success());
    assert_eq!(waiting.line(), "mine");
    assert!(waiting.child.wait().unwrap().success());
}

#[test]
fn a_command_under_a_lock_holds_it_over_a_killed_broker() {
    let place = Place::new();
    let script = "echo $SLM_MESH_LOCK_TOKEN; read -r end; exit 3";
    let mut command = place.command(&["lock", "a.rs", "--", "sh", "-c", script]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut token = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut token).unwrap();
    let lock = || place.json(&["lock", "list"])["locks"][0].clone();
    for _ in 0..2 {
        let granted_until = lock()["expiresAt"].clone();
        kill_broker(&place);
        until("it is back on its own", || place.broker_pid().is_some_and(lives));
        until("the broker serves", || status(&place, &["status"]) == 0);
        // The new broker reads the lock from its database. Over a new connection, the command must renew this lock.
        until("the command has its lock again", || !lock().is_null() && lock()["expiresAt"] != granted_until);
        let held = lock();
        assert_eq!(held["token"].to_string(), token.trim());
        assert_eq!(status(&place, &["lock", "a.rs"]), 1);
    }
    // The new connection owns the lock, so the lock must end with the command, and must not last until its lease ends.
    writeln!(child.stdin.take().unwrap(), "end").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(place.json(&["lock", "list"])["locks"], json!([]));
}

#[test]
fn a_lock_is_renewed_while_its_command_runs() {
    let place = Place::new();
    let mut running =
        Stream::start(&place, &["lock", "a.rs", "--ttl", "1", "--", "sh", "-c", "echo held; exec sleep 60"]);
    assert_eq!(running.line(), "held");
    let mut socket = place.socket();
    let mut left = || {
        // This call waits in the broker for one second, so the loop does not run too fast.
        socket.call("events.read", json!({ "types": ["never.comes"], "waitSeconds": 1 }));
        socket.call("lock.query", json!({}))["result"]["locks"][0]["expiresInSeconds"].as_i64().unwrap()
    };
    until("some of the lease is used up", || left() < 50);
    until("the lease is long again", || left() > 55);
}

#[test]
fn followed_mail_comes_as_it_arrives_also_over_a_killed_broker() {
    let place = Place::new();
    place.ok(&["send", "human", "before"]);
    let mut stream = Stream::start(&place, &["inbox", "--follow", "--json"]);
    assert_eq!(stream.json()["payload"], json!("before"));
    place.ok(&["send", "human", "one"]);
    assert_eq!(stream.json()["payload"], json!("one"));
    until_waiting(&mut place.socket(), 1);
    kill_broker(&place);
    place.ok(&["send", "human", "two"]);
    let next = stream.json();
    assert_eq!((&next["payload"], next.get("again")), (&json!("two"), None), "no event is lost or repeated");
    let sent = || place.json(&["inbox", "--filter", "sent"]);
    until("all count as read", || sent()["messages"].as_array().unwrap().iter().all(|m| m["receipt"] == json!("read")));
}

#[test]
fn followed_events_come_as_they_happen_also_over_a_killed_broker() {
    let place = Place::new();
    place.ok(&["events", "emit", "build.done", "{\"n\":0}"]);
    let mut stream = Stream::start(&place, &["events", "--follow", "--types", "build.done", "--json"]);
    until_waiting(&mut place.socket(), 1);
    place.ok(&["events", "emit", "build.start"]);
    place.ok(&["events", "emit", "build.done", "{\"n\":1}"]);
    assert_eq!(stream.json()["payload"], json!({ "n": 1 }));
    kill_broker(&place);
    place.ok(&["events", "emit", "build.done", "{\"n\":2}"]);
    place.ok(&["events", "emit", "build.done", "{\"n\":3}"]);
    assert_eq!(stream.json()["payload"], json!({ "n": 2 }));
    assert_eq!(stream.json()["payload"], json!({ "n": 3 }));
    let since = ["events", "--follow", "--since", "2020-01-01T00:00:00Z", "--types", "build.done"];
    let mut all = Stream::start(&place, &since);
    assert!(all.line().contains("n=0") && all.line().contains("n=1"));
}

#[test]
fn a_watched_entry_is_printed_with_each_change() {
    let place = Place::new();
    let mut stream = Stream::start(&place, &["state", "watch", "port"]);
    assert_eq!(stream.line(), "port is not set");
    place.ok(&["state", "set", "other", "x"]);
    place.ok(&["state", "set", "port", "elsewhere", "--namespace", "web"]);
    place.ok(&["state", "set", "port", "8080"]);
    assert!(stream.line().contains("port = 8080"));
    place.ok(&["state", "delete", "port"]);
    assert_eq!(stream.line(), "port is not set");
    let mut once = Stream::start(&place, &["state", "watch", "port", "--wait", "30", "--json"]);
    assert_eq!(once.json(), Value::Null);
    place.ok(&["state", "set", "port", "9090"]);
    assert_eq!(once.json()["value"], json!("9090"));
    assert_eq!(once.child.wait().unwrap().code(), Some(0));
}

#[test]
fn text_of_others_cannot_steer_a_terminal() {
    let place = Place::new();
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{202e}gnp\u{9b}31m\u{8}";
    let mut agent = place.session(CODEX, "api");
    agent.tool("mesh_summary", json!({ "summary": evil }));
    agent.tool("mesh_lock", json!({ "action": "lock", "filePath": place.root.join("a.rs"), "reason": evil }));
    agent.tool("mesh_state", json!({ "action": "set", "key": format!("k{evil}"), "value": evil }));
    agent.tool("mesh_events", json!({ "action": "emit", "type": "x.y", "payload": { "note": evil, evil: 1 } }));
    for _ in 0..2 {
        agent.tool("mesh_send", json!({ "to": "human", "message": evil }));
    }
    let mut follow = Stream::start(&place, &["inbox", "--follow", "--as", "human"]);
    let followed = follow.line() + &follow.line();
    drop(follow);
    let refused = String::from_utf8(place.run(&["lock", "a.rs", "--as", "human"]).stderr).unwrap();
    assert!(refused.contains("owned"), "{refused}");
    let mut shown = vec![followed, refused];
    for args in [
        &["peers"][..],
        &["lock", "list"],
        &["state", "list"],
        &["events"],
        &["inbox", "--filter", "all"],
        &["whoami", "--as", "codex-api"],
    ] {
        let as_human = [args, if args.contains(&"--as") { &[] } else { &["--as", "human"] }].concat();
        shown.push(place.ok(&as_human));
    }
    for text in shown {
        let steers = |c: char| c.is_control() && c != '\n' || ('\u{202a}'..='\u{202e}').contains(&c);
        assert!(!text.contains(steers), "{text:?}");
    }
}

#[test]
fn colour_and_the_greeting_are_for_terminals_alone() {
    let on_terminal = |place: &Place, args: &str, colour: bool| {
        let mut command = Command::new("script");
        let env = place.command(&[]);
        command.args(["-qec", &format!("{BIN} {args}"), "/dev/null"]).env_clear().stdin(Stdio::null());
        command.envs(env.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if !colour {
            command.env("NO_COLOR", "1");
        }
        command.output().map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let place = Place::new();
    place.ok(&["lock", "a.rs"]);
    let Ok(bright) = on_terminal(&place, "lock list", true) else {
        return eprintln!("skipped: colour_and_the_greeting_are_for_terminals_alone needs script(1)");
    };
    assert!(bright.contains("\u{1b}[1m") && bright.contains("a.rs"), "{bright:?}");
    let plain = on_terminal(&place, "lock list", false).unwrap();
    assert!(!plain.contains('\u{1b}') && plain.contains("a.rs"), "{plain:?}");
    let greeting = on_terminal(&place, "", false).unwrap();
    assert!(greeting.contains("Status:") && greeting.contains("slm-mesh help"), "{greeting:?}");
}

#[test]
fn the_older_commands_of_existing_scripts_work() {
    let place = Place::new();
    let (mut one, mut two) = (place.session(CODEX, "one"), place.session(CODEX, "two"));
    let id = one.tool("mesh_status", json!({}))["you"]["id"].as_str().unwrap().to_owned();
    two.tool("mesh_status", json!({}));
    place.ok(&["send", &id, "by id", "--from", "codex-two"]);
    let message = one.tool("mesh_inbox", json!({}))["messages"][0].clone();
    assert_eq!((&message["payload"], &message["fromName"]), (&json!("by id"), &json!("codex-two")));
    let set = place.json(&["state", "set", "k", "v", "--peer-id", &id]);
    assert_eq!(set["entry"]["updatedBy"], json!(id));
    place.ok(&["broadcast", "to all", "--from", "codex-one"]);
    assert_eq!(two.tool("mesh_inbox", json!({}))["messages"][0]["payload"], json!("to all"));
    assert!(place.ok(&["version"]).trim().split('.').count() >= 3);
    assert_eq!(place.json(&["version"])["version"], json!(place.ok(&["version"]).trim()));
    assert_eq!(place.json(&["secret"])["secret"].as_str().map(str::len), Some(32));
    for topic in [&["help"][..], &["help", "send"], &["help", "locks"], &["help", "man"]] {
        assert_eq!(place.json(topic)["text"], json!(place.ok(topic).trim_end()), "{topic:?}");
    }
}

#[test]
fn a_list_of_peers_in_an_agents_shell_leaves_out_the_agent_itself() {
    let place = Place::new();
    let mut agent = place.session(CODEX, "api");
    agent.tool("mesh_status", json!({}));
    let peers = place.json(&["peers"]);
    assert_eq!((&peers["you"]["name"], &peers["peers"]), (&json!("codex-api"), &json!([])));
}

#[test]
fn each_verb_and_topic_has_its_help() {
    let place = Place::new();
    let overview = place.ok(&["help"]);
    let verbs: Vec<&str> = overview
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter_map(|line| line.split("  ").next())
        .collect();
    assert!(verbs.len() > 20, "{overview}");
    for topic in verbs.into_iter().chain(["agents", "locks", "messages", "settings", "protocol"]) {
        let text = place.ok(&[&["help"][..], &topic.split(' ').collect::<Vec<_>>()].concat());
        assert!(text.len() > 20, "{topic}: {text}");
    }
    assert!(!place.dir.exists(), "to read is free");
}

#[test]
fn verbs_that_wait_survive_the_death_of_the_broker() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    let status = || serde_json::from_slice::<Value>(&place.run(&["status", "--json"]).stdout).unwrap();
    let n_waiting = || status()["waiting"].as_i64();
    let verbs = [&["inbox", "--as", "human", "--wait", "60"][..], &["events", "--types", "a.b", "--wait", "60"]];
    let start = |verb: &&[&str]| place.command(verb).stdout(Stdio::piped()).spawn().unwrap();
    let waiting: Vec<Child> = verbs.iter().map(start).collect();
    until("both wait", || n_waiting() == Some(2));
    let broker = place.broker_pid().unwrap();
    assert!(Command::new("kill").args(["-9", &broker.to_string()]).status().unwrap().success());
    until("the broker is dead", || !lives(broker));
    until("both wait again", || n_waiting() == Some(2));
    place.ok(&["send", "human", "hello"]);
    place.ok(&["events", "emit", "a.b", "--as", "human"]);
    for (verb, child) in verbs.iter().zip(waiting) {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success() && !out.stdout.is_empty(), "{verb:?}: {out:?}");
    }
}
