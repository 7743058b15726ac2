//! Tests a hub with clients that claim to run on other machines. In fact, the hub and the clients run on this machine,
//! and connect through loopback.

#[path = "../clients/mod.rs"]
mod clients;
mod discovered_hubs;
mod doctor_on_machines;
mod false_hubs;
mod hub_settings;
mod other_meshes;
mod ssh_hubs;
mod streams_to_hub;
mod several_hubs;
#[path = "../support/mod.rs"]
mod support;

use serde_json::{Value, json};
use slm_mesh::remote::encrypted_stream_to_hub::HubStream;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use support::{Place, until};
use tungstenite::handshake::server::{Request, Response};
use tungstenite::{Message, WebSocket};

const SECRET: &str = "correct horse battery staple";

/// Starts a hub, and sets up a client machine that knows only the hub's address and the secret.
fn hub_and_guest() -> (Place, Place) {
    let hub = Place::new().with("SLM_MESH_HOST", "0.0.0.0").with("SLM_MESH_SHARED_SECRET", SECRET);
    hub.ok(&["start", "--detach"]);
    // The hub uses a higher port if a different program uses the usual one. So the real port is read from the hub's
    // file.
    let port = (port(&hub) - 1).to_string();
    let guest = Place::new()
        .with("SLM_MESH_HOST", "127.0.0.1")
        .with("SLM_MESH_ROLE", "client")
        .with("SLM_MESH_PORT", &port)
        .with("SLM_MESH_SHARED_SECRET", SECRET);
    (hub, guest)
}

/// The port on which the hub accepts sessions of other machines. This port is the hub's HTTP port plus one.
fn port(hub: &Place) -> u16 {
    std::fs::read_to_string(hub.dir.join("port")).unwrap().trim().parse::<u16>().unwrap() + 1
}

#[test]
fn a_remote_session_is_a_normal_peer_and_reconnects_to_a_killed_hub() {
    let (hub, guest) = hub_and_guest();
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
fn a_stranger_without_the_secret_learns_nothing() {
    let (hub, guest) = hub_and_guest();
    let wrong = guest.with("SLM_MESH_SHARED_SECRET", "wrong horse battery staple");
    let out = wrong.run(&["state", "get", "port"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() != Some(0) && said.contains("does not know this secret"), "{said}");
    // A client without the secret must get no answer or a 401 error, and the hub must go on serving other clients.
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    for words in [format!("GET /ws HTTP/1.1\r\nHost: x\r\n{upgrade}"), "nonsense\r\n\r\n".to_owned()] {
        let mut stream = TcpStream::connect(("127.0.0.1", port(&hub))).unwrap();
        stream.write_all(words.as_bytes()).unwrap();
        let mut answer = String::new();
        // The read may fail, because the hub may close the connection without an answer.
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
fn idle_strangers_at_the_hub_make_room_for_a_guest() {
    let (hub, guest) = hub_and_guest();
    // There are more idle connections than the hub keeps, and they come from the client's own address.
    let mut strangers: Vec<TcpStream> = (0..280)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", port(&hub))).unwrap();
            // The write may fail, because the hub may have closed this connection to make room for another.
            let _ = stream.write_all(b"GET /far HTTP/1.1\r\nHost: x\r\n");
            stream
        })
        .collect();
    let asked = Instant::now();
    guest.ok(&["status"]);
    // The hub closes idle connections after five seconds, but it must make room for a new client before that.
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    strangers[0].set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(!matches!(strangers[0].read(&mut [0]), Ok(1..)), "the oldest one made room");
}

#[test]
fn a_hub_without_a_good_secret_is_refused_with_a_cure() {
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
fn the_secret_works_as_a_bearer_token_unless_switched_off() {
    let ask_as = |hub: &Place, host: &str, header: &str| {
        let http: u16 = std::fs::read_to_string(hub.dir.join("port")).unwrap().trim().parse().unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", http)).unwrap();
        let head = format!("GET /status HTTP/1.1\r\nHost: {host}\r\n{header}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_whitespace().nth(1).unwrap().parse::<u16>().unwrap()
    };
    let ask = |hub: &Place, header: &str| ask_as(hub, "192.168.1.5:7899", header);
    let (hub, _guest) = hub_and_guest();
    // A request with the secret may have any host name. Without the secret, an unknown host name may be an attack: a
    // web page can bind its name to the hub's address.
    let secret = format!("X-Mesh-Secret: {SECRET}");
    assert_eq!(ask_as(&hub, "desk.lan:7899", &secret), 200);
    assert_eq!(ask_as(&hub, "desk.lan:7899", "X-Mesh-Secret: wrong"), 401);
    assert_eq!(ask_as(&hub, "desk.lan:7899", "X-Nothing: at-all"), 403);
    assert_eq!(ask_as(&hub, "desk.lan:7899", &format!("{secret}\r\nOrigin: http://desk.lan:7899")), 403);
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

/// A WebSocket client that gets pushed messages, like the client of slm-mesh 1.3. It runs on node.
struct PushClient {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl PushClient {
    fn start(dir: &Path, hub: &Place, secret: &str) -> PushClient {
        let url = format!("ws://127.0.0.1:{}/ws", port(hub));
        let mut command = std::process::Command::new("node");
        command.arg(dir.join("listen.mjs")).args([url.as_str(), secret]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        PushClient { child, output }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Returns the next pushed message, and skips other events.
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

impl Drop for PushClient {
    fn drop(&mut self) {
        // The kill fails if the process has already ended.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Calls the hub's old HTTP API, and sends the secret, as a client of slm-mesh 1.3 does.
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
fn push_clients_of_1_3_receive_pushes_with_either_kind_of_hello() {
    let Some(dir) = clients::node("push_clients_of_1_3_receive_pushes_with_either_kind_of_hello") else { return };
    let (hub, _) = hub_and_guest();
    let register = |uds: &str| {
        let who = json!({ "projectPath": "/far", "pid": 7, "agentType": "cursor", "udsPath": uds });
        ask(&hub, "/register", &who)["peerId"].as_str().unwrap().to_owned()
    };
    let send = |to: &str, text: &str| ask(&hub, "/send", &json!({ "fromPeer": "cli", "toPeer": to, "payload": text }));
    // Clients up to version 1.3.1 send only one hello. They send it before they register, with an invented id.
    let made_up = "3f0c8a54-6f3c-4d5e-9d3a-0e6c5b2a1f00";
    let mut old = PushClient::start(&dir, &hub, SECRET);
    assert_eq!(old.next(), json!({ "open": true }));
    old.say(made_up);
    let first = register(&format!("/Users/ada/.slm-mesh/peers/{made_up}.sock"));
    // Clients from version 1.3.3 on send a second hello with their real id. The hub ignores any other line.
    let mut new = PushClient::start(&dir, &hub, SECRET);
    assert_eq!(new.next(), json!({ "open": true }));
    let second = register("/Users/ada/.slm-mesh/peers/another.sock");
    for line in ["another", "{}", "{\"type\":\"ping\"}", "{\"type\":\"hello\",\"peerId\":7}", &second] {
        new.say(line);
    }
    // The hub does not answer a hello, so the test sends messages until one of them is pushed.
    let until_pushed = |peer: &str, text: &str| {
        until("the hello has come", || {
            send(peer, text);
            let mail = ask(&hub, "/messages", &json!({ "peerId": peer, "filter": "all" }));
            mail["messages"][0]["delivered"] == json!(true)
        });
    };
    until_pushed(&first, "has it come?");
    let sent = send(&first, "to the old one");
    let heard = std::iter::repeat_with(|| old.mail()).find(|mail| mail["payload"]["text"] != "has it come?").unwrap();
    assert_eq!(
        (&heard["payload"]["text"], &heard["payload"]["messageId"]),
        (&json!("to the old one"), &sent["messageId"])
    );
    until_pushed(&second, "to the new one");
    assert_eq!(new.mail()["payload"]["text"], json!("to the new one"));
    ask(&hub, "/unregister", &json!({ "peerId": first }));
    until("all hear that one has left", || {
        let next = new.next();
        next["type"] == json!("peer_update") && next["payload"] == json!({ "action": "left", "peerId": first })
    });
    // The hub rejects a wrong token. With SLM_MESH_BEARER=off, it also rejects the right token.
    let mut wrong = PushClient::start(&dir, &hub, "wrong horse battery staple");
    assert!(wrong.next()["error"].as_str().unwrap().contains("401"));
    hub.ok(&["stop"]);
    let closed = hub.with("SLM_MESH_BEARER", "off");
    closed.ok(&["start", "--detach"]);
    let mut refused = PushClient::start(&dir, &closed, SECRET);
    assert!(refused.next()["error"].as_str().unwrap().contains("401"));
}

#[test]
fn a_slow_false_hub_delays_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // The thread for a connection ends when the client closes the connection.
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
    // The client must give up soon. If it went on reading, it would report an attack after 64 bytes.
    assert!(!said.contains("ttack"), "{said}");
}

#[test]
fn hooks_avoid_a_silent_hub_for_a_while() {
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
    let attempts = || std::iter::from_fn(|| silent.accept().ok()).count();
    hook();
    assert_eq!(attempts(), 1);
    hook();
    assert_eq!(attempts(), 0, "nobody waits for it again so soon");
    // Hooks now skip the hub for a while, but a person's command still tries the hub. If the command succeeds, hooks
    // use the hub again.
    assert!(!guest.run(&["peers"]).status.success());
    assert_eq!(attempts(), 1);
    let (hub, _) = hub_and_guest();
    let guest = guest.with("SLM_MESH_WS_PORT", &self::port(&hub).to_string());
    guest.ok(&["peers"]);
    assert!(!guest.dir.join("hub.silent").exists());
}

/// Starts a fake hub on a loopback port. The hub passes each connection to `serve`. Returns the port.
fn false_hub(mut serve: impl FnMut(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // The thread runs until the test program ends.
    std::thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(&mut serve));
    port
}

/// Accepts a connection as a current hub does, with the WebSocket subprotocol that the client offers.
fn accept_noise(stream: TcpStream) -> WebSocket<TcpStream> {
    #[expect(clippy::result_large_err, reason = "the type is tungstenite's")]
    let answer = |request: &Request, mut response: Response| {
        let offered = request.headers()["sec-websocket-protocol"].clone();
        response.headers_mut().insert("sec-websocket-protocol", offered);
        Ok(response)
    };
    tungstenite::accept_hdr(stream, answer).unwrap()
}

fn connect(port: u16) -> Result<HubStream, slm_mesh::base::error::Error> {
    slm_mesh::remote::guest_handshake_with_hub::connect("127.0.0.1", port, SECRET, 0, None)
}

#[test]
fn a_hub_that_does_not_know_the_secret_receives_one_message_and_no_more() {
    let (sender, received) = std::sync::mpsc::channel();
    let port = false_hub(move |stream| {
        let mut socket = accept_noise(stream);
        let first = socket.read().unwrap().into_data();
        socket.send(Message::binary(vec![7; 48])).unwrap();
        let then = socket.read().ok().filter(|message| !message.is_close());
        sender.send((first, then)).unwrap();
    });
    let error = connect(port).unwrap_err();
    assert!(error.text.contains("does not know this secret") && !error.text.contains(SECRET), "{}", error.text);
    let (first, then) = received.recv().unwrap();
    assert_eq!((first.len(), then), (48, None), "a key and a tag");
}

#[test]
fn the_protocol_of_0_1_0_is_refused_with_a_clear_error() {
    let (hub, _guest) = hub_and_guest();
    let mut stream = TcpStream::connect(("127.0.0.1", port(&hub))).unwrap();
    let upgrade = "GET /far HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 426 Upgrade Required"), "{answer}");
    // A hub of slm-mesh 0.1.0 does not know WebSocket subprotocols, so it selects none.
    let old = false_hub(|stream| drop(tungstenite::accept(stream)));
    let error = connect(old).unwrap_err();
    assert!(error.text.contains("runs slm-mesh 0.1.0") && error.text.contains("update slm-mesh"), "{}", error.text);
}

/// Starts a relay to a hub. After `stopped` is set, the relay passes on no more bytes, and only sends WebSocket pings
/// to the client.
fn relay(hub: u16, stopped: std::sync::Arc<std::sync::atomic::AtomicBool>) -> u16 {
    use std::sync::atomic::Ordering::Relaxed;
    false_hub(move |guest| {
        let hub = TcpStream::connect(("127.0.0.1", hub)).unwrap();
        let tick = Some(Duration::from_millis(200));
        for (mut from, mut to, makes_pings) in [
            (guest.try_clone().unwrap(), hub.try_clone().unwrap(), false),
            (hub.try_clone().unwrap(), guest.try_clone().unwrap(), true),
        ] {
            from.set_read_timeout(tick).unwrap();
            let stopped = stopped.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                loop {
                    let written = match from.read(&mut buffer) {
                        Ok(0) => return,
                        Ok(n) if !stopped.load(Relaxed) => to.write_all(&buffer[..n]),
                        _ if stopped.load(Relaxed) && makes_pings => to.write_all(b"\x89\x00"),
                        _ => Ok(()),
                    };
                    if written.is_err() {
                        return;
                    }
                }
            });
        }
    })
}

#[test]
fn a_relay_cannot_keep_a_silent_connection_looking_alive() {
    let (hub, _guest) = hub_and_guest();
    let stopped = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut lines = connect(relay(port(&hub), stopped.clone())).unwrap();
    let mut reader = BufReader::new(lines.another());
    let mut line = String::new();
    lines.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{}}\n").unwrap();
    reader.read_line(&mut line).unwrap();
    assert!(line.contains("result"), "{line}");
    stopped.store(true, std::sync::atomic::Ordering::Relaxed);
    let began = Instant::now();
    assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0, "the guest gives it up");
    let took = began.elapsed();
    assert!(took > Duration::from_secs(10) && took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn a_command_on_a_guest_keeps_its_lock_when_its_wrapper_is_killed() {
    let (_hub, guest) = hub_and_guest();
    let is_held = || !guest.run(&["lock", "/p/a.rs", "--", "true"]).status.success();
    for _ in 0..3 {
        assert_eq!(guest.run(&["lock", "/p/a.rs", "--", "sh", "-c", "exit 9"]).status.code(), Some(9));
    }
    let mut command = guest.command(&["lock", "/p/a.rs", "--", "sh", "-c", "echo $$; exec sleep 60"]);
    let mut wrapper = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut pid = String::new();
    BufReader::new(wrapper.stdout.take().unwrap()).read_line(&mut pid).unwrap();
    wrapper.kill().unwrap();
    wrapper.wait().unwrap();
    assert!(is_held(), "the command still runs");
    assert!(std::process::Command::new("kill").args(["-9", pid.trim()]).status().unwrap().success());
    until("the lock ends with the command", || !is_held());
}

#[test]
fn a_command_on_a_guest_frees_its_lock_at_its_end_even_if_the_hub_was_restarted() {
    let (hub, guest) = hub_and_guest();
    let mut command = guest.command(&["lock", "/p/b.rs", "--", "sh", "-c", "echo begun; read -r end"]);
    let mut wrapper = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    BufReader::new(wrapper.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let expiry = || hub.json(&["lock", "list"])["locks"][0]["expiresAt"].clone();
    let granted_until = expiry();
    hub.ok(&["stop"]);
    hub.ok(&["start", "--detach"]);
    until("the command has renewed its lock", || {
        let renewed_until = expiry();
        renewed_until.is_string() && renewed_until != granted_until
    });
    drop(wrapper.stdin.take());
    wrapper.wait().unwrap();
    guest.ok(&["lock", "/p/b.rs", "--", "true"]);
}
