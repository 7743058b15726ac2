//! A real SuperLocalMemory daemon that polls us: it lists our peers and sends to them.

mod clients;
mod support;

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use support::{Place, until};

struct Daemon(Child, u16);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It is ours, and may have ended.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// One HTTP request; status and body.
fn ask(port: u16, method: &str, path: &str, header: &str, body: &Value) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         {header}Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(answer.split_once("\r\n\r\n")?.1).unwrap_or(Value::Null)))
}

#[test]
fn a_superlocalmemory_daemon_sees_our_peers_and_writes_to_them() {
    let Some(python) = clients::python("a_superlocalmemory_daemon_sees_our_peers_and_writes_to_them", "slm") else {
        return;
    };
    let secret = "correct horse battery staple";
    let hub = Place::new().with("SLM_MESH_HOST", "0.0.0.0").with("SLM_MESH_SHARED_SECRET", secret);
    let port = hub.json(&["start", "--detach"])["data"]["port"].as_u64().unwrap() as u16;
    let mut session = hub.session("codex-mcp-client", "api");
    let me = session.tool("mesh_peers", json!({ "scope": "machine" }))["you"]["id"].clone();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = std::process::Command::new(python);
    command.arg(clients::here().join("slm_daemon.py")).arg(free.to_string()).arg(hub.root.join("slm.db"));
    command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("HOME", hub.root.join("home"));
    command.env("SLM_MESH_PEER_URL", format!("http://127.0.0.1:{port}")).env("SLM_MESH_SHARED_SECRET", secret);
    command.env("SLM_MESH_DISCOVERY", "off").stdout(Stdio::null()).stderr(Stdio::null());
    let daemon = Daemon(command.spawn().unwrap(), free);
    let ask = |method: &str, path: &str, body: Value| ask(daemon.1, method, path, "", &body);
    until("the daemon lists our peer", || {
        let seen = ask("GET", "/mesh/peers", Value::Null).map(|(_, body)| body["peers"].clone()).unwrap_or_default();
        seen.as_array().is_some_and(|peers| peers.iter().any(|peer| peer["peer_id"] == me))
    });
    let letter =
        |to: &Value| json!({ "from_peer": "slm-1", "to_peer": to, "content": "from the other mesh", "type": "note" });
    let (status, sent) = ask("POST", "/mesh/send", letter(&me)).unwrap();
    assert!(status == 200 && sent["ok"] == json!(true), "{status} {sent}");
    let mail = session.tool("mesh_inbox", json!({}));
    assert_eq!(mail["messages"][0]["payload"], json!("from the other mesh"));
    assert_eq!(mail["messages"][0]["fromPeer"], json!("slm:slm-1"));
    let (status, refused) = ask("POST", "/mesh/send", letter(&json!("nobody"))).unwrap();
    assert!(status == 404 && refused["detail"] == json!("recipient peer not found"), "{status} {refused}");
}
