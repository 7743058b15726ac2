//! Links between meshes: pairs and rings of slm-mesh brokers, and a link to a real SuperLocalMemory daemon.

mod clients;
mod support;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::{Place, Session, until};

const SECRET: &str = "correct horse battery staple";

/// Starts several meshes on this machine. For each mesh, `links` contains the indexes of the meshes to which it links.
fn meshes<const N: usize>(links: [&[usize]; N]) -> [Place; N] {
    let places: Vec<Place> = (0..N).map(|_| Place::new().with("SLM_MESH_SHARED_SECRET", SECRET)).collect();
    let urls: Vec<String> = places.iter().map(url).collect();
    let linked = places.into_iter().zip(links).map(|(place, to)| {
        let to: Vec<String> = to.iter().map(|n| urls[*n].clone()).collect();
        place.with("SLM_MESH_PEER_URL", &to.join(","))
    });
    let Ok(places) = linked.collect::<Vec<_>>().try_into() else { unreachable!("as many as there were") };
    places
}

fn url(place: &Place) -> String {
    format!("http://127.0.0.1:{}", place.env[0].1)
}

fn names(place: &Place) -> Vec<String> {
    let peers = place.json(&["peers"])["peers"].as_array().unwrap().clone();
    peers.iter().map(|peer| peer["name"].as_str().unwrap().split('@').next().unwrap().to_owned()).collect()
}

/// The full name, with `@`, under which this mesh lists a peer of another mesh.
fn full_name(place: &Place, name: &str) -> String {
    let peers = place.json(&["peers"])["peers"].as_array().unwrap().clone();
    let names = peers.iter().map(|peer| peer["name"].as_str().unwrap().to_owned());
    names.into_iter().find(|full| full.starts_with(&format!("{name}@"))).unwrap()
}

fn receipts(session: &mut Session) -> Vec<String> {
    let sent = session.tool("mesh_inbox", json!({ "filter": "sent" }));
    let rows = sent["messages"].as_array().unwrap().iter();
    rows.map(|row| row["receipt"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn two_meshes_exchange_peers_and_messages_and_lose_none_in_a_crash() {
    let [a, b] = meshes([&[1], &[0]]);
    let mut claude = a.session("claude-code", "api");
    let mut codex = b.session("codex-mcp-client", "web");
    claude.tool("mesh_status", json!({}));
    codex.tool("mesh_status", json!({}));
    until("each lists the other's", || {
        names(&a).contains(&"codex-web".into()) && names(&b).contains(&"claude-api".into())
    });
    let there = full_name(&a, "codex-web");
    claude.tool("mesh_send", json!({ "to": there, "message": "over there?" }));
    let mail = codex.tool("mesh_inbox", json!({ "waitSeconds": 20 }));
    assert_eq!(mail["messages"][0]["payload"], json!("over there?"));
    let back = mail["messages"][0]["fromName"].as_str().unwrap().to_owned();
    codex.tool("mesh_send", json!({ "to": back, "message": "here", "replyTo": mail["messages"][0]["id"] }));
    assert_eq!(claude.tool("mesh_inbox", json!({ "waitSeconds": 20 }))["messages"][0]["payload"], json!("here"));
    until("the answer acknowledges", || receipts(&mut claude) == ["acked"]);

    // The human is never listed as online, but a peer of another mesh can still reply to the human.
    a.ok(&["send", &there, "build it", "--as", "human"]);
    let mail = codex.tool("mesh_inbox", json!({ "waitSeconds": 20 }));
    codex.tool("mesh_send", json!({ "to": mail["messages"][0]["fromName"], "message": "built" }));
    let mail = a.json(&["inbox", "--as", "human", "--wait", "20"]);
    assert_eq!(mail["messages"][0]["payload"], json!("built"), "{mail}");

    // The broker of mesh `b` is killed. No new broker starts yet.
    let dead = b.broker_pid().unwrap();
    drop(codex);
    std::process::Command::new("kill").args(["-9", &dead.to_string()]).status().unwrap();
    let _ = std::fs::remove_file(b.dir.join("broker.pid"));
    let sent = claude.tool("mesh_send", json!({ "to": there, "message": "after the crash" }));
    assert_eq!(sent["recipients"][0]["receipt"], json!("accepted"), "{sent}");
    until("the trouble of the link is shown", || {
        a.json(&["status"])["links"][0]["trouble"].is_string() && receipts(&mut claude)[1] == "accepted"
    });
    let mut codex = b.session("codex-mcp-client", "web");
    let mail = codex.tool("mesh_inbox", json!({ "waitSeconds": 60 }));
    assert_eq!(mail["messages"][0]["payload"], json!("after the crash"), "{mail}");
    until("the receipt says that it was read over there", || receipts(&mut claude) == ["acked", "read"]);
    assert_eq!(codex.tool("mesh_inbox", json!({}))["messages"], json!([]), "once");
}

#[test]
fn a_message_over_a_link_that_was_removed_is_refused_once() {
    let [a, b] = meshes([&[1], &[]]);
    let mut codex = b.session("codex-mcp-client", "web");
    codex.tool("mesh_status", json!({}));
    until("the peer is listed", || names(&a).contains(&"codex-web".into()));
    let there = full_name(&a, "codex-web");
    a.ok(&["stop"]);
    // If the client repeated the call a few times, this low limit would cause a different error, and the test would
    // fail.
    let a = a.with("SLM_MESH_PEER_URL", "").with("SLM_MESH_RATE", "2");
    let sent = a.run(&["send", &there, "over there?", "--as", "human"]);
    let said = String::from_utf8_lossy(&sent.stderr).into_owned();
    assert_eq!(sent.status.code(), Some(1), "{said}");
    assert!(said.contains("is no longer linked") && said.contains("set SLM_MESH_PEER_URL"), "{said}");
}

#[test]
fn meshes_in_a_ring_see_only_their_neighbour() {
    let places = meshes([&[1], &[2], &[0]]);
    let mut sessions: Vec<Session> =
        places.iter().zip(["a", "b", "c"]).map(|(place, name)| place.session("codex-mcp-client", name)).collect();
    for session in &mut sessions {
        session.tool("mesh_status", json!({}));
    }
    let wants = ["codex-b", "codex-c", "codex-a"];
    until("each sees its neighbour", || places.iter().zip(wants).all(|(place, want)| names(place) == [want]));
    // The links form a ring, and a broadcast goes over only one link. Each session therefore gets exactly one message.
    // It comes from the mesh that links to the session's mesh.
    for (session, name) in sessions.iter_mut().zip(["a", "b", "c"]) {
        session.tool("mesh_send", json!({ "to": "all", "message": format!("hello from {name}") }));
    }
    for (session, from) in sessions.iter_mut().zip(["c", "a", "b"]) {
        let mail = session.tool("mesh_inbox", json!({ "waitSeconds": 20 }));
        assert_eq!(mail["messages"][0]["payload"], json!(format!("hello from {from}")), "{mail}");
    }
    // The third session ends. The mesh that links to this session's mesh must stop listing this session.
    sessions.pop();
    until("its neighbour sees that", || names(&places[1]).is_empty());
    for (place, session) in places.iter().zip(&mut sessions) {
        assert_eq!(session.tool("mesh_inbox", json!({}))["messages"], json!([]), "{}", place.log());
    }
}

#[test]
fn a_broken_link_names_its_cause_and_a_wrong_address_is_refused() {
    let [a, b] = meshes([&[], &[0]]);
    a.ok(&["start", "--detach"]);
    let b = b.with("SLM_MESH_SHARED_SECRET", "wrong horse battery staple");
    b.ok(&["start", "--detach"]);
    let trouble = || b.json(&["status"])["links"][0]["trouble"].as_str().unwrap_or("").to_owned();
    until("the wrong secret is named", || trouble().contains("SLM_MESH_SHARED_SECRET must be the same"));
    assert!(!b.log().contains("horse"), "{}", b.log());
    for (wrong, why) in
        [("laptop:7899", "http://host:port"), ("https://laptop", "do not support https"), ("http://a@b", "http://")]
    {
        let place = Place::new().with("SLM_MESH_PEER_URL", wrong);
        let out = place.run(&["peers"]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains("SLM_MESH_PEER_URL") && said.contains(why), "{wrong}: {said}");
    }
}

/// A running SuperLocalMemory daemon, and its port.
struct Daemon(Child, u16);

impl Daemon {
    fn start(python: &Path, port: u16, database: &PathBuf, home: &Path, peer: &str) -> Daemon {
        let mut command = std::process::Command::new(python);
        command.arg(clients::here().join("slm_daemon.py")).arg(port.to_string()).arg(database);
        command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("HOME", home);
        command.env("SLM_MESH_PEER_URL", peer).env("SLM_MESH_SHARED_SECRET", SECRET);
        command.env("SLM_MESH_DISCOVERY", "off").stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = Daemon(command.spawn().unwrap(), port);
        until("the daemon answers", || daemon.ask("GET", "/mesh/status", &Value::Null).is_some());
        daemon
    }

    /// Sends one HTTP request, and returns the status and the body of the response.
    fn ask(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.1)).ok()?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split_whitespace().nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(answer.split_once("\r\n\r\n")?.1).unwrap_or(Value::Null)))
    }

    fn register(&self, session: &str, project: &str) -> Value {
        let who =
            json!({ "session_id": session, "project_path": project, "agent_type": "claude", "summary": "remembers" });
        self.ask("POST", "/mesh/register", &who).unwrap().1["peer_id"].clone()
    }

    fn inbox(&self, id: &Value) -> Vec<String> {
        let mail = self.ask("GET", &format!("/mesh/inbox/{}", id.as_str().unwrap()), &Value::Null).unwrap().1;
        mail["messages"].as_array().unwrap().iter().map(|row| row["content"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The kill fails if the daemon has already ended.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[test]
fn a_link_in_both_directions_with_superlocalmemory_survives_a_restart() {
    let Some(python) = clients::python("a_link_in_both_directions_with_superlocalmemory_survives_a_restart", "slm")
    else {
        return;
    };
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let place = Place::new()
        .with("SLM_MESH_SHARED_SECRET", SECRET)
        .with("SLM_MESH_PEER_URL", &format!("http://127.0.0.1:{free}"));
    // When a side starts, it requests the other side's peers. The next request comes only after 30 s. To save this
    // time, each side has a registered peer before the other side starts.
    let (database, home) = (place.root.join("slm.db"), place.root.join("home"));
    let theirs = Daemon::start(&python, free, &database, &home, "").register("memory-1", "/srv/api");
    let mut near = place.session("codex-mcp-client", "api");
    let me = near.tool("mesh_peers", json!({ "scope": "machine" }))["you"]["id"].clone();
    let daemon = Daemon::start(&python, free, &database, &home, &url(&place));
    until("we list its peer, and it lists ours", || {
        let peers = daemon.ask("GET", "/mesh/peers", &Value::Null).unwrap().1["peers"].clone();
        let lists = peers.as_array().is_some_and(|peers| peers.iter().any(|peer| peer["peer_id"] == me));
        lists && names(&place).contains(&"memory-1".into())
    });
    assert_eq!(names(&place), ["memory-1"], "our own peer is not listed as one of theirs");
    let there = full_name(&place, "memory-1");
    near.tool("mesh_send", json!({ "to": there, "message": "do you remember?" }));
    until("it has the message", || daemon.inbox(&theirs) == ["do you remember?"]);
    until("the receipt says so", || receipts(&mut near) == ["forwarded"]);
    // Both sides send a message at the same moment. While the daemon forwards its message, it answers no requests, but
    // slm-mesh must go on answering.
    near.tool("mesh_send", json!({ "to": there, "message": "and this?" }));
    let message = json!({ "from_peer": theirs, "to_peer": me, "content": "I do", "type": "text" });
    assert_eq!(daemon.ask("POST", "/mesh/send", &message).unwrap().0, 200);
    let mail = near.tool("mesh_inbox", json!({ "waitSeconds": 20 }));
    assert_eq!(mail["messages"][0]["fromName"], json!(there), "the sender can be answered: {mail}");
    // While the daemon is down, messages to its peers wait. The daemon then starts again with the same database.
    drop(daemon);
    near.tool("mesh_send", json!({ "to": there, "message": "while you were away" }));
    let daemon = Daemon::start(&python, free, &database, &home, &url(&place));
    until("nothing was lost", || daemon.inbox(&theirs).contains(&"while you were away".into()));
    until("and the receipts know", || receipts(&mut near) == ["forwarded"; 3]);
    let lost = json!({ "from_peer": theirs, "to_peer": "nobody", "content": "?", "type": "text" });
    assert_eq!(daemon.ask("POST", "/mesh/send", &lost).unwrap().0, 404);
}

#[test]
fn a_superlocalmemory_daemon_that_links_to_us_sees_and_writes_to_our_peers() {
    let test = "a_superlocalmemory_daemon_that_links_to_us_sees_and_writes_to_our_peers";
    let Some(python) = clients::python(test, "slm") else { return };
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let hub = Place::new().with("SLM_MESH_SHARED_SECRET", SECRET).with("SLM_MESH_HOST", "0.0.0.0");
    let mut session = hub.session("codex-mcp-client", "api");
    let me = session.tool("mesh_peers", json!({ "scope": "machine" }))["you"]["id"].clone();
    let daemon = Daemon::start(&python, free, &hub.root.join("slm.db"), &hub.root.join("home"), &url(&hub));
    until("the daemon lists our peer", || {
        let peers = daemon.ask("GET", "/mesh/peers", &Value::Null).unwrap().1["peers"].clone();
        peers.as_array().is_some_and(|peers| peers.iter().any(|peer| peer["peer_id"] == me))
    });
    let message = |to: &Value| json!({ "from_peer": "slm-1", "to_peer": to, "content": "from there", "type": "note" });
    assert_eq!(daemon.ask("POST", "/mesh/send", &message(&me)).unwrap().0, 200);
    let mail = session.tool("mesh_inbox", json!({}));
    assert_eq!(mail["messages"][0]["payload"], json!("from there"));
    assert_eq!(mail["messages"][0]["fromPeer"], json!("slm:slm-1"));
    let (status, refused) = daemon.ask("POST", "/mesh/send", &message(&json!("nobody"))).unwrap();
    assert!(status == 404 && refused["detail"] == json!("recipient peer not found"), "{status} {refused}");
}

/// Starts an HTTP server that stands in for another mesh. Each response is a status line and a body. For a GET request,
/// `get` makes the response from the number of the connection. For a POST request, `post` makes it from the body of the
/// request.
fn false_mesh(
    get: impl Fn(usize) -> String + Send + 'static,
    post: impl Fn(&str) -> String + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let mut stream = BufReader::new(stream);
            let (mut head, mut n_body) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).is_ok_and(|n| n > 0) {}
            for line in head.to_lowercase().lines() {
                n_body = line.strip_prefix("content-length:").map_or(n_body, |n| n.trim().parse().unwrap());
            }
            let mut body = vec![0; n_body];
            let _ = stream.read_exact(&mut body);
            let answer = if head.starts_with("POST") { post(&String::from_utf8_lossy(&body)) } else { get(n) };
            // An empty response means that the server closes the connection without an answer.
            let Some((status, body)) = answer.split_once('\n') else { continue };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            // The write fails if the client has already closed the connection.
            let _ = stream.get_mut().write_all((head + body).as_bytes());
        }
    });
    url
}

/// The response of a fake mesh to a request for its peers. `mark` is the version of the list of peers.
fn peers_response(mark: usize, ids: std::ops::Range<usize>) -> String {
    let row = |id| json!({ "peer_id": format!("{id:08x}-abc"), "session_id": format!("p{id}"), "mesh": "odd" });
    let rows: Vec<Value> = ids.map(row).collect();
    format!("200 OK\n{}", json!({ "mesh": "odd", "mark": mark, "peers": rows }))
}

#[test]
fn a_server_that_is_no_mesh_neither_takes_nor_rejects_a_message() {
    for post in ["200 OK\n<html>log in first</html>", "200 OK\n{}", "404 Not Found\n<html>", "302 Found\n"] {
        let place =
            Place::new().with("SLM_MESH_PEER_URL", &false_mesh(|_| peers_response(1, 1..2), |_| post.to_owned()));
        let mut session = place.session("codex-mcp-client", "api");
        session.tool("mesh_status", json!({}));
        until("its peer is listed", || names(&place) == ["p1"]);
        let there = full_name(&place, "p1");
        session.tool("mesh_send", json!({ "to": there, "message": "anybody?" }));
        let mut is_shown = || {
            let receipts = receipts(&mut session);
            assert_eq!(receipts, ["accepted"], "{post}");
            place.json(&["status"])["links"][0]["trouble"].is_string()
        };
        until("the trouble is shown", &mut is_shown);
    }
}

#[test]
fn a_mesh_that_always_lists_new_peers_delays_nobody() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let get = move |n: usize| {
        count.fetch_add(1, Ordering::Relaxed);
        peers_response(n, n * 500..(n + 1) * 500)
    };
    let place = Place::new().with("SLM_MESH_PEER_URL", &false_mesh(get, |_| "200 OK\n{}".to_owned()));
    place.ok(&["start", "--detach"]);
    until("it was asked again and again", || asked.load(Ordering::Relaxed) > 4);
    // The fake mesh keeps listing new peers. The broker must still answer its own clients in time.
    (0..20).for_each(|_| drop(place.ok(&["whoami"])));
    assert!(asked.load(Ordering::Relaxed) < 60, "it is asked less often then");
}

#[test]
fn a_message_that_the_other_mesh_never_answers_holds_up_none_and_everybody_is_told() {
    // The fake mesh closes the connection whenever a message contains the word `poison`, as if its broker panicked, or
    // as if a proxy rejected the message.
    let post = |body: &str| if body.contains("poison") { "" } else { "200 OK\n{\"ok\":true}" }.to_owned();
    let place = Place::new().with("SLM_MESH_PEER_URL", &false_mesh(|_| peers_response(1, 1..2), post));
    let mut session = place.session("codex-mcp-client", "api");
    session.tool("mesh_status", json!({}));
    until("its peer is listed", || names(&place) == ["p1"]);
    let there = full_name(&place, "p1");
    for text in ["poison", "and this?"] {
        session.tool("mesh_send", json!({ "to": there, "message": text }));
    }
    until("the second arrives and the first is refused", || receipts(&mut session) == ["refused", "forwarded"]);
    let mail = session.tool("mesh_inbox", json!({}));
    assert!(mail["messages"][0]["payload"].as_str().unwrap().contains("not delivered"), "{mail}");
    assert!(place.log().contains("refused message"), "{}", place.log());
    assert_eq!(place.json(&["status"])["links"][0]["refused"], json!(1));
    let out = place.run(&["doctor"]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains("refused 1 message"), "{said}");
}

#[test]
fn a_peer_of_a_linked_mesh_keeps_its_mail_under_its_new_name() {
    let renamed = |n: usize| {
        let mut value: Value = serde_json::from_str(peers_response(n, 1..2).split_once('\n').unwrap().1).unwrap();
        value["peers"][0]["session_id"] = json!(if n == 0 { "draft" } else { "reviewer" });
        format!("200 OK\n{value}")
    };
    let url = false_mesh(renamed, |_| "200 OK\n{\"ok\":true}".to_owned());
    let place = Place::new().with("SLM_MESH_PEER_URL", &url);
    let mut session = place.session("codex-mcp-client", "api");
    session.tool("mesh_status", json!({}));
    until("its peer has its new name", || names(&place) == ["reviewer"]);
    let sent = session.tool("mesh_send", json!({ "to": full_name(&place, "reviewer"), "message": "hello" }));
    assert_eq!(sent["recipients"][0]["id"], json!("00000001-abc"), "{sent}");
}
