//! Tests sessions as peers: their names, the peers that they see, the commands that act as them, and what others see
//! when a session stops, dies or comes back.

mod support;

use serde_json::{Value, json};
use std::fs;
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use support::{BIN, Place, Session, Socket, lives, until};

const CODEX: &str = "codex-mcp-client";

/// The id and name of a session. If the session is not a peer yet, this call makes it a peer.
fn you(session: &mut Session) -> (String, String) {
    let you = session.tool("mesh_status", json!({}))["you"].clone();
    (you["id"].as_str().unwrap().to_owned(), you["name"].as_str().unwrap().to_owned())
}

/// The names of all peers that a session sees in this scope, sorted.
fn sees(session: &mut Session, scope: &str) -> Vec<String> {
    names(&session.tool("mesh_peers", json!({ "scope": scope })))
}

fn names(peers: &Value) -> Vec<String> {
    let mut names: Vec<String> =
        peers["peers"].as_array().unwrap().iter().map(|peer| peer["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Whether the mesh lists the peer with this name as online.
fn is_here(socket: &mut Socket, name: &str) -> bool {
    names(&socket.call("peers", json!({ "scope": "machine" }))["result"]).iter().any(|here| here == name)
}

fn signal(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_session_that_comes_back_has_its_name_id_and_unread_mail() {
    let place = Place::new();
    let mut session = place.session("claude-code", "api");
    let (id, name) = you(&mut session);
    assert_eq!(name, "claude-api");
    session.tool("mesh_summary", json!({ "summary": "the schema" }));
    assert!(session.close().success());
    place.ok(&["send", "claude-api", "while you were out", "--as", "human"]);
    let mut session = place.session("claude-code", "api");
    assert_eq!(you(&mut session), (id, name));
    let mail = session.tool("mesh_inbox", json!({}));
    assert_eq!(mail["messages"][0]["payload"], json!("while you were out"));
    assert_eq!(mail["messages"].as_array().unwrap().len(), 1);
    assert_eq!(place.json(&["whoami"])["you"]["summary"], json!("the schema"));
}

#[test]
fn threads_of_one_server_are_peers_of_their_own_and_leave_together() {
    const THREADS: [&str; 3] = ["th-1", "th-2", "th-3"];
    let place = Place::new();
    let mut session = place.session(CODEX, "api");
    let mut lock_files = || {
        for thread in THREADS {
            let arguments = json!({ "action": "lock", "filePath": format!("/work/{thread}") });
            let params = json!({ "name": "mesh_lock", "arguments": arguments, "_meta": { "threadId": thread } });
            let answer = session.request("tools/call", params);
            assert_eq!(answer["result"]["isError"], json!(false), "{thread}: {answer}");
        }
    };
    lock_files();
    let broker = place.broker_pid().unwrap();
    assert!(Command::new("kill").args(["-9", &broker.to_string()]).status().unwrap().success());
    until("the broker is dead", || !lives(broker));
    lock_files();
    assert_eq!(place.json(&["lock", "list"])["locks"].as_array().unwrap().len(), THREADS.len());
    assert!(session.close().success());
    let read_ends = || place.json(&["events", "--types", "peer_left"])["events"].as_array().unwrap().clone();
    until("all of them have left", || read_ends().len() == THREADS.len());
    assert!(read_ends().iter().all(|event| event["payload"]["reason"] == json!("clean_exit")), "{:?}", read_ends());
}

#[test]
fn a_session_of_a_broker_that_was_killed_keeps_its_name_and_id() {
    let place = Place::new();
    // A session gets its name when it becomes a peer. `you` makes it a peer before the next session starts.
    let start = || {
        let mut session = place.session(CODEX, "api");
        let who = you(&mut session);
        (session, who)
    };
    let ((mut one, first), (mut two, second)) = (start(), start());
    let before = (first, second);
    let old = place.broker_pid().unwrap();
    assert!(Command::new("kill").args(["-9", &old.to_string()]).status().unwrap().success());
    until("the broker is dead", || !lives(old));
    assert_eq!((you(&mut one), you(&mut two)), before);
    assert_ne!(place.broker_pid(), Some(old));
    one.tool("mesh_send", json!({ "to": "codex-api-2", "message": "still here" }));
    assert_eq!(two.tool("mesh_inbox", json!({}))["messages"][0]["fromName"], json!("codex-api"));
}

#[test]
fn a_session_leaves_no_zombie_of_the_broker_that_it_started() {
    let place = Place::new();
    let mut session = place.session(CODEX, "api");
    you(&mut session);
    let pid = place.broker_pid().unwrap().to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    let process = Path::new("/proc").join(pid);
    until("the session has reaped the broker", || !process.exists());
}

#[test]
fn sessions_in_one_folder_are_numbered_and_in_another_folder_named_after_it() {
    let place = Place::new();
    // A session gets its name when it becomes a peer. If the test did not call `you`, each session would become a peer
    // only after two seconds, and the sessions could get their names in any order.
    let start = |folder: &&str| {
        let mut session = place.session("claude-code", folder);
        let name = you(&mut session).1;
        (session, name)
    };
    let (mut sessions, names): (Vec<Session>, Vec<String>) =
        ["api", "api", "web", "deep/api"].iter().map(start).unzip();
    assert_eq!(names, ["claude-api", "claude-api-2", "claude-web", "claude-api-3"]);
    // The second session ends and starts again, while all other sessions stay.
    let (id, _) = you(&mut sessions[1]);
    sessions[1].close();
    let mut back = place.session("claude-code", "api");
    assert_eq!(you(&mut back), (id, "claude-api-2".into()));
    // The folder `other/api` has the same name as the folder `api`. A session in `other/api` must not get the mailbox
    // of a session in `api`.
    sessions[3].close();
    let mut elsewhere = place.session("claude-code", "other/api");
    assert_eq!(you(&mut elsewhere).1, "claude-api-4");
}

#[test]
fn a_session_is_called_as_its_settings_say() {
    let place = Place::new().with("SLM_MESH_NAME", "reviewer");
    let mut one = place.session(CODEX, "api");
    assert_eq!(you(&mut one).1, "reviewer");
    let mut two = place.session(CODEX, "api");
    assert_eq!(you(&mut two).1, "reviewer-2");
}

/// Runs git with a fixed configuration. Returns false if git fails or is not installed.
fn git(dir: &Path, args: &[&str]) -> bool {
    let mut command = Command::new("git");
    command
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"])
        .args(args)
        .current_dir(dir);
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Creates a repository with one commit and a second work tree. Without git, this function writes the same files
/// itself.
fn repository(place: &Place) -> (PathBuf, PathBuf) {
    let (main, tree) = (place.root.join("main"), place.root.join("tree"));
    fs::create_dir_all(main.join("src")).unwrap();
    let made = git(&main, &["init", "-q"]) && git(&main, &["commit", "-q", "--allow-empty", "-m", "one"]);
    if made && git(&main, &["worktree", "add", "-q", "-b", "side", tree.to_str().unwrap()]) {
        return (main, tree);
    }
    let inner = main.join(".git/worktrees/tree");
    fs::create_dir_all(&inner).unwrap();
    fs::create_dir_all(&tree).unwrap();
    fs::write(main.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
    fs::write(inner.join("HEAD"), "ref: refs/heads/side\n").unwrap();
    fs::write(inner.join("commondir"), "../..\n").unwrap();
    fs::write(tree.join(".git"), format!("gitdir: {}\n", inner.display())).unwrap();
    (main, tree)
}

#[test]
fn scopes_show_the_machine_the_directory_and_the_repository() {
    let place = Place::new();
    let (_, tree) = repository(&place);
    assert!(tree.join(".git").exists());
    let mut main = place.session("claude-code", "main");
    let mut others: Vec<Session> = [("main/src", CODEX), ("tree", CODEX), ("main", "opencode"), ("apart", CODEX)]
        .iter()
        .map(|(folder, client)| place.session(client, folder))
        .collect();
    let ids: Vec<String> = others.iter_mut().map(|other| you(other).1).collect();
    assert_eq!(ids, ["codex-src", "codex-tree", "opencode-main", "codex-apart"]);
    assert_eq!(sees(&mut main, "machine"), ["codex-apart", "codex-src", "codex-tree", "opencode-main"]);
    assert_eq!(sees(&mut main, "directory"), ["opencode-main"]);
    assert_eq!(sees(&mut main, "repo"), ["codex-src", "codex-tree", "opencode-main"]);
    assert_eq!(
        sees(&mut others[1], "repo"),
        ["claude-main", "codex-src", "opencode-main"],
        "a work tree is of the repository"
    );
    assert_eq!(sees(&mut others[3], "repo"), [""; 0], "outside a repository there is nobody beside it");
    let peers = main.tool("mesh_peers", json!({ "scope": "machine" }));
    let branch = |name: &str| {
        peers["peers"].as_array().unwrap().iter().find(|peer| peer["name"] == json!(name)).unwrap()["gitBranch"].clone()
    };
    assert_eq!(branch("codex-tree"), json!("side"));
    // If a person lists the peers of the repository from a subfolder, the list must contain all four sessions.
    let out = place
        .command(&["peers", "--scope", "repo", "--as", "human", "--json"])
        .current_dir(place.root.join("main/src"))
        .output()
        .unwrap();
    let peers: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(names(&peers), ["claude-main", "codex-src", "codex-tree", "opencode-main"]);
}

#[test]
fn a_session_shows_itself_after_two_seconds_and_not_to_be_looked_at() {
    let place = Place::new();
    let mut looked_at = place.session(CODEX, "api");
    looked_at.request("tools/list", json!({}));
    looked_at.close();
    assert!(!place.dir.join("mesh.sock").exists(), "a look at the tools starts nothing");
    let _stays = place.session(CODEX, "web");
    until("the session shows itself", || place.broker_pid().is_some());
    let mut socket = place.socket();
    until("it is a peer", || is_here(&mut socket, "codex-web"));
}

#[test]
fn a_killed_session_is_away_at_once_and_a_stopped_one_after_a_while() {
    let place = Place::new().with("SLM_MESH_HEARTBEAT_MS", "100").with("SLM_MESH_DEAD_MS", "3000");
    let (mut dies, mut sleeps) = (place.session(CODEX, "dies"), place.session(CODEX, "sleeps"));
    let names = (you(&mut dies).1, you(&mut sleeps).1);
    assert_eq!(names, ("codex-dies".into(), "codex-sleeps".into()));
    let mut socket = place.socket();
    assert!(is_here(&mut socket, "codex-dies") && is_here(&mut socket, "codex-sleeps"));
    dies.child.kill().unwrap();
    signal(&sleeps.child, "-STOP");
    until("the dead one is away", || !is_here(&mut socket, "codex-dies"));
    until("the stopped one is away", || !is_here(&mut socket, "codex-sleeps"));
    let left = socket.call("events.read", json!({ "types": ["peer_left"] }))["result"]["events"].clone();
    let reasons: Vec<(&str, &str)> = left
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (event["payload"]["name"].as_str().unwrap(), event["payload"]["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(reasons, [("codex-dies", "disconnected"), ("codex-sleeps", "not_answering")]);
    signal(&sleeps.child, "-CONT");
    until("the stopped one is here again", || is_here(&mut socket, "codex-sleeps"));
    assert_eq!(you(&mut sleeps).1, "codex-sleeps");
}

#[test]
fn a_session_that_ends_in_order_leaves_no_process_and_says_so() {
    let place = Place::new();
    let mut session = place.session(CODEX, "api");
    you(&mut session);
    let mut socket = place.socket();
    assert_eq!(session.close().code(), Some(0));
    until("it left", || !is_here(&mut socket, "codex-api"));
    let left = socket.call("events.read", json!({ "types": ["peer_left"] }))["result"]["events"][0].clone();
    assert_eq!(left["payload"]["reason"], json!("clean_exit"));
}

/// Runs a program as a child of the test. Returns its JSON output, which contains the program's peer.
fn whoami(place: &Place, program: &str, words: &[&str]) -> Value {
    let mut command = Command::new(program);
    let env = place.command(&[]);
    command
        .args(words)
        .env_clear()
        .envs(env.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdin(Stdio::null());
    serde_json::from_slice(&command.output().unwrap().stdout).unwrap()
}

#[test]
fn a_verb_acts_as_the_session_of_the_process_above_it() {
    let mut place = Place::new();
    let human = whoami(&place, BIN, &["whoami", "--json"]);
    assert_eq!(human["kind"], json!("human"), "no session is there, so it is the human");
    let mut one = place.session(CODEX, "api");
    let (id, _) = you(&mut one);
    assert_eq!(whoami(&place, BIN, &["whoami", "--json"])["you"]["id"], json!(id));
    // Agents run a command through one shell, and a hook through two shells.
    let in_shell = format!("cd / && {BIN} whoami --json; true");
    assert_eq!(whoami(&place, "sh", &["-c", &in_shell])["you"]["id"], json!(id));
    let in_two = format!("sh -c '{in_shell}'; true");
    assert_eq!(whoami(&place, "sh", &["-c", &in_two])["you"]["id"], json!(id));
    assert_eq!(whoami(&place, BIN, &["whoami", "--json", "--as", "human"])["kind"], json!("human"));
    let mut two = place.session(CODEX, "web");
    you(&mut two);
    let error = whoami(&place, BIN, &["whoami", "--json"]);
    assert_eq!(error["kind"], json!("ambiguous"));
    for word in ["codex-api", "codex-web", "--as"] {
        assert!(error["error"].as_str().unwrap().contains(word), "{error}");
    }
    assert_eq!(whoami(&place, BIN, &["whoami", "--json", "--as", "codex-web"])["you"]["name"], json!("codex-web"));
    place.env.push(("SLM_MESH_PEER".into(), "codex-api".into()));
    assert_eq!(whoami(&place, BIN, &["whoami", "--json"])["you"]["id"], json!(id));
    // With SLM_MESH_PEER, a command acts as this peer and marks messages as read. With --as, it only shows them.
    place.ok(&["send", "codex-api", "hello", "--as", "human"]);
    for (args, n) in [(&["inbox", "--as", "codex-api"][..], 1), (&["inbox"], 1), (&["inbox"], 0)] {
        assert_eq!(place.json(args)["messages"].as_array().unwrap().len(), n, "{args:?}");
    }
}

/// A shell script that stands in for an agent with an MCP session. It reads lines. For the line `run`, it runs
/// `slm-mesh whoami`; any other line goes to the session, and the script prints the answer.
const AGENT_SCRIPT: &str = r#"
cd "$1"
mkfifo in out
"$2" <in >out &
exec 3>in 4<out
while read -r line; do
  case $line in
    run) "$2" whoami --json ;;
    *) printf '%s\n' "$line" >&3; read -r answer <&4; printf '%s\n' "$answer" ;;
  esac
done
"#;

#[test]
fn two_agents_of_one_user_are_told_apart_by_their_processes() {
    let place = Place::new();
    // Both the session and the command `whoami` are children of the script.
    let script = place.root.join("agent.sh");
    fs::write(&script, AGENT_SCRIPT).unwrap();
    let mut agents: Vec<Agent> = ["one", "two"].iter().map(|folder| Agent::start(&place, &script, folder)).collect();
    for agent in &mut agents {
        agent.ask(
            &json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params":
            { "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": CODEX, "version": "1" } } })
            .to_string(),
        );
        agent.ask(&json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "mesh_status", "arguments": {} } }).to_string());
    }
    for (agent, name) in agents.iter_mut().zip(["codex-one", "codex-two"]) {
        assert_eq!(agent.ask("run")["you"]["name"], json!(name));
    }
    let outside = place.json(&["whoami"]);
    assert_eq!(outside["kind"], json!("human"), "beside the agents, not inside one: {outside}");
}

/// A running shell script that stands in for an agent.
struct Agent {
    child: Child,
    output: std::io::BufReader<std::process::ChildStdout>,
}

impl Agent {
    fn start(place: &Place, script: &Path, folder: &str) -> Agent {
        let dir = place.root.join(folder);
        fs::create_dir_all(&dir).unwrap();
        let env = place.command(&[]);
        let mut command = Command::new("sh");
        command
            .arg(script)
            .arg(&dir)
            .arg(BIN)
            .env_clear()
            .envs(env.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        Agent { child, output }
    }

    fn ask(&mut self, line: &str) -> Value {
        use std::io::{BufRead, Write};
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // At the end of its input, the script exits. Its exit closes the input of the session, so the session ends as
        // well.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

#[test]
fn calls_in_flight_are_answered_when_the_client_closes_its_end() {
    let place = Place::new();
    // A session gives its calls 1.5 s to finish after its input ends. Starting a broker could take longer, so the test
    // starts one first.
    place.ok(&["start", "--detach"]);
    for round in 0..10 {
        let mut session = place.session(CODEX, "api");
        let ids: Vec<i64> = (0..5)
            .map(|n| {
                let arguments = json!({ "action": "set", "key": format!("k{n}"), "value": format!("{round}") });
                session.ask("tools/call", json!({ "name": "mesh_state", "arguments": arguments }))
            })
            .collect();
        assert!(session.close().success());
        for id in ids {
            let (value, is_error) = Session::content(&session.answer(id));
            assert!(!is_error, "round {round}: {value}");
        }
    }
}

#[test]
fn sessions_that_are_restarted_while_the_broker_is_busy_keep_their_names_and_ids() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    let attach = |n: usize| json!({ "agent": "codex", "project": format!("/p{n}"), "pid": 1 });
    let mut sessions: Vec<Socket> = (0..100).map(|_| place.socket()).collect();
    let before: Vec<Value> =
        sessions.iter_mut().enumerate().map(|(n, socket)| socket.call("attach", attach(n))["result"].clone()).collect();
    // While the broker is frozen, its sockets hold the last requests of the old sessions and the first requests of the
    // restarted sessions.
    let pid = place.broker_pid().unwrap();
    support::freeze(pid);
    // These requests are too many for one turn of the broker. After the broker continues, it sees the connections end
    // in the order in which they began. But the sessions attach again in the opposite order.
    for session in &mut sessions {
        (0..20).for_each(|_| _ = session.ask("state.list", json!({})));
        // If a thread has just forked a child, the child holds a copy of the stream. In this case, a drop would end the
        // stream only when the child ends, but a shutdown ends it at once.
        session.stream.shutdown(Shutdown::Both).unwrap();
    }
    let mut restarted: Vec<Socket> = before.iter().map(|_| place.socket()).collect();
    for (socket, n) in restarted.iter_mut().zip((0..before.len()).rev()) {
        socket.ask("attach", attach(n));
    }
    support::thaw(pid);
    for (socket, before) in restarted.iter_mut().zip(before.iter().rev()) {
        assert_eq!(socket.read().unwrap()["result"]["you"], before["you"]);
    }
}

#[test]
fn a_session_acts_only_as_itself() {
    let place = Place::new();
    let mut victim = place.session(CODEX, "api");
    you(&mut victim);
    let mut socket = place.socket();
    let attached = socket.call("attach", json!({ "agent": "codex", "project": "/p", "pid": 1 }));
    assert_eq!(attached["result"]["you"]["name"], json!("codex-p"));
    let refused = socket.call("send", json!({ "as": "codex-api", "to": "human", "message": "forged" }));
    assert_eq!(refused["error"]["data"]["kind"], json!("refused"), "{refused}");
    let (error, is_error) = victim.try_tool("mesh_send", json!({ "to": "human", "message": "x", "as": "codex-p" }));
    assert!(is_error && error["error"].as_str().unwrap().contains("as"), "{error}");
}

#[test]
fn a_newer_client_gets_room_and_sessions_move_over() {
    let place = Place::new();
    let mut session = place.session(CODEX, "api");
    let me = you(&mut session);
    session.tool("mesh_state", json!({ "action": "set", "key": "k", "value": "kept" }));
    let pid = place.broker_pid().unwrap();
    let mut newer = place.socket();
    let answer = newer.call("state.get", json!({ "key": "k", "v": "99.0.0" }));
    assert_eq!(answer["result"]["entry"]["value"], json!("kept"), "it is answered before the broker goes");
    until("the older broker makes room", || !lives(pid));
    // No newer version of slm-mesh starts a broker in this test, so the session starts a broker of its own version.
    assert_eq!(you(&mut session), me);
    let kept = session.tool("mesh_state", json!({ "action": "get", "key": "k" }));
    assert_eq!(kept["entry"]["value"], json!("kept"));
}

#[test]
fn a_broker_is_not_idle_while_a_session_is_attached() {
    let place = Place::new().with("SLM_MESH_IDLE_TIMEOUT", "1000");
    let mut session = place.session("codex-mcp-client", "api");
    session.tool("mesh_status", json!({}));
    let pid = place.broker_pid().unwrap();
    // Brokers of other meshes have no session, so they end soon after they start. This broker has a session, so it must
    // not end.
    for _ in 0..3 {
        let other = Place::new().with("SLM_MESH_IDLE_TIMEOUT", "1000");
        // The id comes from the output of `start`, because the broker may already have ended and removed its file.
        let its = other.json(&["start", "--detach"])["data"]["pid"].as_u64().unwrap() as u32;
        until("the other one ends", || !lives(its));
    }
    assert!(lives(pid));
    session.close();
    until("the broker ends after its last session", || !lives(pid));
}
