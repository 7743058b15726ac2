//! A hub and its guests, here on one machine: the network is loopback, all else is as between two.

mod clients;
mod support;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use support::{Place, put_program, until};

const SECRET: &str = "correct horse battery staple";

/// A hub, and a guest's machine that knows nothing but the hub's address and the secret.
fn two() -> (Place, Place) {
    let hub = Place::new().with("SLM_MESH_HOST", "0.0.0.0").with("SLM_MESH_SHARED_SECRET", SECRET);
    hub.ok(&["start", "--detach"]);
    // Not the wanted one, if somebody else has that.
    let port = (port(&hub) - 1).to_string();
    let guest = Place::new()
        .with("SLM_MESH_HOST", "127.0.0.1")
        .with("SLM_MESH_ROLE", "client")
        .with("SLM_MESH_PORT", &port)
        .with("SLM_MESH_SHARED_SECRET", SECRET);
    (hub, guest)
}

/// The hub's port for sessions.
fn port(hub: &Place) -> u16 {
    std::fs::read_to_string(hub.dir.join("port")).unwrap().trim().parse::<u16>().unwrap() + 1
}

#[test]
fn a_session_far_away_is_a_peer_like_any_other_and_comes_back_to_a_hub_that_was_killed() {
    let (hub, guest) = two();
    let mut near = hub.session("claude-code", "api");
    let mut far = guest.session("codex-mcp-client", "api");
    near.tool("mesh_status", json!({}));
    let id = far.tool("mesh_peers", json!({ "scope": "machine" }))["you"]["id"].clone();
    near.tool("mesh_send", json!({ "to": "codex-api", "message": "over there?" }));
    let mail = far.tool("mesh_inbox", json!({}));
    assert_eq!(mail["messages"][0]["payload"], json!("over there?"));
    far.tool("mesh_send", json!({ "to": "claude-api", "message": "here", "replyTo": mail["messages"][0]["id"] }));
    assert_eq!(near.tool("mesh_inbox", json!({}))["messages"][0]["payload"], json!("here"));
    far.tool("mesh_state", json!({ "action": "set", "key": "port", "value": "8080" }));
    assert_eq!(guest.ok(&["state", "get", "port"]).trim(), "8080");
    assert!(!guest.dir.join("mesh.sock").exists(), "a guest has no broker of its own");

    let old = hub.broker_pid().unwrap();
    std::process::Command::new("kill").args(["-9", &old.to_string()]).status().unwrap();
    near.tool("mesh_send", json!({ "to": "codex-api", "message": "after the crash" }));
    until("the guest is back", || far.tool("mesh_peers", json!({ "scope": "machine" }))["you"]["id"] == id);
    assert_eq!(far.tool("mesh_inbox", json!({}))["messages"][0]["payload"], json!("after the crash"));
}

#[test]
fn who_does_not_know_the_secret_learns_nothing_and_gets_nothing() {
    let (hub, guest) = two();
    let wrong = guest.with("SLM_MESH_SHARED_SECRET", "wrong horse battery staple");
    let out = wrong.run(&["state", "get", "port"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() != Some(0) && said.contains("does not know this secret"), "{said}");
    // A stranger that speaks anything else is turned away with one word, and the hub serves on.
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    for words in [format!("GET /ws HTTP/1.1\r\nHost: x\r\n{upgrade}"), "nonsense\r\n\r\n".to_owned()] {
        let mut stream = TcpStream::connect(("127.0.0.1", port(&hub))).unwrap();
        stream.write_all(words.as_bytes()).unwrap();
        let mut answer = String::new();
        // A connection that is cut is an answer, too.
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.contains("401"), "{answer}");
        assert!(!answer.contains("slm") && !answer.contains("version"), "{answer}");
    }
    let held: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(("127.0.0.1", port(&hub))).unwrap()).collect();
    assert_eq!(hub.ok(&["state", "set", "a", "b"]).trim(), "Set a = b (version 1)");
    drop(held);
    assert!(!hub.log().contains(SECRET), "{}", hub.log());
}

#[test]
fn a_hub_without_a_good_secret_is_refused_with_the_cure() {
    for (secret, want) in [(None, "is missing"), (Some("short"), "is too short")] {
        let mut hub = Place::new().with("SLM_MESH_HOST", "0.0.0.0");
        if let Some(secret) = secret {
            hub = hub.with("SLM_MESH_SHARED_SECRET", secret);
        }
        let out = hub.run(&["start", "--detach"]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(2) && said.contains(want) && said.contains("slm-mesh secret"), "{said}");
    }
    let weak = Place::new().with("SLM_MESH_HOST", "0.0.0.0").with("SLM_MESH_SHARED_SECRET", "shortish9");
    let out = weak.run(&["start", "--detach"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && said.contains("WARNING") && said.contains("slm-mesh secret"), "{said}");
    let secret = Place::new().ok(&["secret"]);
    assert_eq!(secret.trim().len(), 32, "{secret}");
}

#[test]
fn ssh_carries_the_same_lines_and_says_why_when_it_can_t() {
    let hub = Place::new();
    let bin = hub.root.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    // An ssh that runs the command here: `--` TARGET slm-mesh pipe.
    let script = format!(
        "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\n[ \"$2\" = ada@hub ] || {{ echo \"ssh: Could not resolve $2\" >&2; exit 255; }}\n\
         unset SLM_MESH_HOST\nSLM_MESH_DATA_DIR='{}' exec '{}' pipe\n",
        hub.dir.display(),
        env!("CARGO_BIN_EXE_slm-mesh")
    );
    put_program(&bin.join("ssh"), script.as_bytes());
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let guest = Place::new().with("SLM_MESH_HOST", "ssh://ada@hub").with("PATH", &path);
    guest.ok(&["state", "set", "port", "8080"]);
    assert_eq!(hub.ok(&["state", "get", "port"]).trim(), "8080");
    let mut far = guest.session("claude-code", "api");
    let you: Value = far.tool("mesh_peers", json!({ "scope": "machine" }))["you"].clone();
    assert_eq!(you["name"], json!("claude-api"));
    hub.ok(&["send", "claude-api", "through the pipe", "--as", "human"]);
    assert_eq!(far.tool("mesh_inbox", json!({}))["messages"][0]["payload"], json!("through the pipe"));
    let lost = Place::new().with("SLM_MESH_HOST", "ssh://nowhere").with("PATH", &path).run(&["state", "get", "port"]);
    let said = String::from_utf8_lossy(&lost.stderr).into_owned();
    assert!(said.contains("Could not resolve nowhere"), "{said}");
}

#[test]
fn an_older_client_brings_the_secret_as_its_token_unless_that_is_switched_off() {
    let ask = |hub: &Place, header: &str| {
        let http: u16 = std::fs::read_to_string(hub.dir.join("port")).unwrap().trim().parse().unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", http)).unwrap();
        let head = format!("GET /status HTTP/1.1\r\nHost: 192.168.1.5:7899\r\n{header}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_whitespace().nth(1).unwrap().parse::<u16>().unwrap()
    };
    let (hub, _guest) = two();
    assert_eq!(ask(&hub, &format!("Authorization: Bearer {SECRET}")), 200);
    assert_eq!(ask(&hub, &format!("X-Mesh-Secret: {SECRET}")), 200);
    assert_eq!(ask(&hub, "Authorization: Bearer wrong"), 401);
    assert_eq!(ask(&hub, "X-Nothing: at-all"), 401);
    hub.ok(&["stop"]);
    let hub = hub.with("SLM_MESH_BEARER", "off");
    hub.ok(&["start", "--detach"]);
    assert_eq!(ask(&hub, &format!("Authorization: Bearer {SECRET}")), 401);
    let token = std::fs::read_to_string(hub.dir.join("broker.token")).unwrap();
    assert_eq!(ask(&hub, &format!("Authorization: Bearer {}", token.trim())), 200);
}

/// A program that listens as a client of 1.3 does.
struct Listener {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Listener {
    fn start(dir: &Path, hub: &Place, secret: &str) -> Listener {
        let url = format!("ws://127.0.0.1:{}/ws", port(hub));
        let mut command = std::process::Command::new("node");
        command.arg(dir.join("listen.mjs")).args([url.as_str(), secret]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Listener { child, output }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// The next message, whatever updates come before it.
    fn mail(&mut self) -> Value {
        loop {
            let next = self.next();
            assert!(next["closed"].is_null() && next["error"].is_null(), "{next}");
            if next["type"] == json!("message") {
                return next;
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Asks a route of the old HTTP API with the secret, as a client of 1.3 does.
fn ask(hub: &Place, route: &str, body: &Value) -> Value {
    let mut stream = TcpStream::connect(("127.0.0.1", port(hub) - 1)).unwrap();
    let body = body.to_string();
    let head = format!(
        "POST {route} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {SECRET}\r\nContent-Length: {}",
        body.len()
    );
    write!(stream, "{head}\r\nConnection: close\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[test]
fn clients_of_the_older_program_hear_pushes_whichever_id_they_say() {
    let Some(dir) = clients::node("clients_of_the_older_program_hear_pushes_whichever_id_they_say") else { return };
    let (hub, _) = two();
    let register = |uds: &str| {
        let who = json!({ "projectPath": "/far", "pid": 7, "agentType": "cursor", "udsPath": uds });
        ask(&hub, "/register", &who)["peerId"].as_str().unwrap().to_owned()
    };
    let send = |to: &str, text: &str| ask(&hub, "/send", &json!({ "fromPeer": "cli", "toPeer": to, "payload": text }));
    // Up to 1.3.1: hello with an id of its own making, before it registers, and never again.
    let made_up = "3f0c8a54-6f3c-4d5e-9d3a-0e6c5b2a1f00";
    let mut old = Listener::start(&dir, &hub, SECRET);
    assert_eq!(old.next(), json!({ "open": true }));
    old.say(made_up);
    let first = register(&format!("/Users/ada/.slm-mesh/peers/{made_up}.sock"));
    // From 1.3.3: hello again with the id that it got. What is no hello is ignored.
    let mut new = Listener::start(&dir, &hub, SECRET);
    assert_eq!(new.next(), json!({ "open": true }));
    let second = register("/Users/ada/.slm-mesh/peers/another.sock");
    for line in ["another", "{}", "{\"type\":\"ping\"}", "{\"type\":\"hello\",\"peerId\":7}", &second] {
        new.say(line);
    }
    let sent = send(&first, "to the old one");
    let heard = old.mail();
    assert_eq!(
        (&heard["payload"]["text"], &heard["payload"]["messageId"]),
        (&json!("to the old one"), &sent["messageId"])
    );
    until("the hello has come", || {
        send(&second, "to the new one");
        let mail = ask(&hub, "/messages", &json!({ "peerId": second, "filter": "all" }));
        mail["messages"][0]["delivered"] == json!(true)
    });
    assert_eq!(new.mail()["payload"]["text"], json!("to the new one"));
    ask(&hub, "/unregister", &json!({ "peerId": first }));
    until("all hear that one has left", || {
        let next = new.next();
        next["type"] == json!("peer_update") && next["payload"] == json!({ "action": "left", "peerId": first })
    });
    // Neither a wrong token nor, once that is switched off, the right one.
    let mut wrong = Listener::start(&dir, &hub, "wrong horse battery staple");
    assert!(wrong.next()["error"].as_str().unwrap().contains("401"));
    hub.ok(&["stop"]);
    let closed = hub.with("SLM_MESH_BEARER", "off");
    closed.ok(&["start", "--detach"]);
    let mut refused = Listener::start(&dir, &closed, SECRET);
    assert!(refused.next()["error"].as_str().unwrap().contains("401"));
}

#[test]
fn a_hub_that_sends_a_byte_now_and_then_keeps_nobody_waiting() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // It ends with the test, and each of its clients when that has gone.
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut stream = stream;
                let _ = stream.write_all(b"HTTP/1.1 101 Switching\r\n");
                while stream.write_all(b"x").is_ok() {
                    std::thread::sleep(std::time::Duration::from_millis(500));
                }
            });
        }
    });
    let guest = Place::new().with("SLM_MESH_HOST", "127.0.0.1").with("SLM_MESH_ROLE", "client");
    let guest = guest.with("SLM_MESH_SHARED_SECRET", SECRET).with("SLM_MESH_WS_PORT", &port.to_string());
    let out = guest.run(&["peers"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(3) && said.contains("can't be reached"), "{:?} {said}", out.status);
    // Without a limit for all of it, it is the 64th byte that is found to be one too many.
    assert!(!said.contains("ttack"), "{said}");
}

#[test]
fn hooks_leave_a_silent_hub_alone_for_a_while_once_one_has_waited() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let guest = Place::new()
        .with("SLM_MESH_HOST", "127.0.0.1")
        .with("SLM_MESH_ROLE", "client")
        .with("SLM_MESH_WS_PORT", &port)
        .with("SLM_MESH_SHARED_SECRET", SECRET);
    let hook = || {
        let mut child = guest.command(&["hook", "claude"]).stdin(Stdio::piped()).spawn().unwrap();
        let said =
            json!({ "hook_event_name": "UserPromptSubmit", "session_id": "s", "cwd": guest.root, "prompt": "hi" });
        write!(child.stdin.take().unwrap(), "{said}").unwrap();
        assert!(child.wait().unwrap().success(), "an agent goes on without the mesh");
    };
    let knocks = || std::iter::from_fn(|| silent.accept().ok()).count();
    hook();
    assert_eq!(knocks(), 1);
    hook();
    assert_eq!(knocks(), 0, "nobody waits for it again so soon");
    // A person who asks may wait, and who reaches the hub tells the hooks.
    assert!(!guest.run(&["peers"]).status.success());
    assert_eq!(knocks(), 1);
    let (hub, _) = two();
    let guest = guest.with("SLM_MESH_WS_PORT", &self::port(&hub).to_string());
    guest.ok(&["peers"]);
    assert!(!guest.dir.join("hub.silent").exists());
}
