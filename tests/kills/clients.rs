//! Three kinds of clients: an MCP session, verbs (subcommands), and an HTTP client. The answer to any call may be lost.

use crate::support::Place;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The timeout for an answer. It is much longer than any call takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a call ended.
#[derive(Debug)]
pub enum Got {
    /// The call succeeded.
    Done(Value),
    /// The call was refused with this kind of error and this message.
    Refused(String, String),
    /// The answer was lost, so the call may or may not have succeeded.
    Lost,
}

/// A call that a client can make.
#[derive(Debug, Clone)]
pub enum Ask {
    Who,
    Send {
        to: String,
        text: String,
    },
    Inbox {
        wait: bool,
    },
    Lock {
        paths: Vec<String>,
        wait: bool,
    },
    Unlock {
        path: String,
    },
    /// Runs a command under a lock. The lock ends with the command.
    Run {
        path: String,
    },
    Get {
        key: String,
    },
    Set {
        key: String,
        value: String,
        expect: Option<i64>,
    },
}

impl Ask {
    /// The name of the call in the ledger.
    pub fn name(&self) -> &'static str {
        match self {
            Ask::Who => "who",
            Ask::Send { .. } => "send",
            Ask::Inbox { .. } => "inbox",
            Ask::Lock { .. } => "lock",
            Ask::Unlock { .. } => "unlock",
            Ask::Run { .. } => "lock --",
            Ask::Get { .. } => "get",
            Ask::Set { expect: None, .. } => "set",
            Ask::Set { .. } => "compare-and-set",
        }
    }
}

/// A client that can make calls.
pub trait Caller: Send {
    /// Makes a call.
    fn ask(&mut self, ask: &Ask) -> Got;
    /// If the client's session was killed, starts a new one and returns true. Clients without a session return false.
    fn revive(&mut self) -> bool {
        false
    }
}

/// The process id of a session, or `None` while the session must not be killed. The mutex is held while the process is
/// killed or reaped, so a kill can't hit a new process with the same id.
pub type Slot = Mutex<Option<u32>>;

/// An MCP session. If it was killed, `revive` starts it again.
pub struct Mcp<'a> {
    place: &'a Place,
    folder: String,
    slot: &'a Slot,
    child: Option<Child>,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    next: i64,
}

impl<'a> Mcp<'a> {
    pub fn new(place: &'a Place, folder: String, slot: &'a Slot) -> Mcp<'a> {
        let mut session = Mcp { place, folder, slot, child: None, input: None, lines: channel().1, next: 0 };
        session.revive();
        session
    }

    /// Starts the session's process. Returns false if it was killed before it answered `initialize`.
    fn start(&mut self) -> bool {
        let dir = self.place.root.join(&self.folder);
        std::fs::create_dir_all(&dir).unwrap();
        let mut command = self.place.command(&[]);
        let mut child = command.current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        (self.input, self.lines) = (child.stdin.take(), lines);
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(child.id());
        self.child = Some(child);
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "codex-mcp-client", "version": "1" } });
        self.request("initialize", &params).is_some()
            && self.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))
    }

    fn say(&mut self, value: &Value) -> bool {
        let Some(input) = &mut self.input else { return false };
        writeln!(input, "{value}").and_then(|()| input.flush()).is_ok()
    }

    /// Sends a request and reads its answer. Returns `None` if the session was killed first.
    fn request(&mut self, method: &str, params: &Value) -> Option<Value> {
        self.next += 1;
        if !self.say(&json!({ "jsonrpc": "2.0", "id": self.next, "method": method, "params": params })) {
            return None;
        }
        loop {
            let line = match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{}: no answer to {method} {params} in {PATIENCE:?}", self.folder)
                }
            };
            // If the process was killed while it was writing, its last line is incomplete.
            let value: Value = serde_json::from_str(&line).ok()?;
            if value["id"] == json!(self.next) {
                return Some(value);
            }
        }
    }
}

impl Caller for Mcp<'_> {
    fn ask(&mut self, ask: &Ask) -> Got {
        let (name, arguments) = match ask {
            Ask::Who => ("mesh_status", json!({})),
            Ask::Send { to, text } => ("mesh_send", json!({ "to": to, "message": text })),
            Ask::Inbox { wait: false } => ("mesh_inbox", json!({})),
            Ask::Inbox { wait: true } => ("mesh_inbox", json!({ "waitSeconds": 1 })),
            Ask::Lock { paths, wait } => (
                "mesh_lock",
                json!({ "action": "lock", "filePaths": paths, "ttlMinutes": 1, "waitSeconds": i64::from(*wait) }),
            ),
            Ask::Unlock { path } | Ask::Run { path } => ("mesh_lock", json!({ "action": "unlock", "filePath": path })),
            Ask::Get { key } => ("mesh_state", json!({ "action": "get", "key": key })),
            Ask::Set { key, value, expect: None } => {
                ("mesh_state", json!({ "action": "set", "key": key, "value": value }))
            }
            Ask::Set { key, value, expect } => {
                ("mesh_state", json!({ "action": "set", "key": key, "value": value, "expect": expect }))
            }
        };
        let params = json!({ "name": name, "arguments": arguments });
        let Some(answer) = self.request("tools/call", &params) else { return Got::Lost };
        let text = answer["result"]["content"][0]["text"].as_str().unwrap_or("");
        judged(serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {answer}")))
    }

    fn revive(&mut self) -> bool {
        let has_ended = |child: &mut Child| child.try_wait().map_or(true, |status| status.is_some());
        // The mutex is held until the dead process is reaped and the slot no longer contains its id. Otherwise, the
        // killer could hit a new process with the same id.
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if self.child.as_mut().is_some_and(|child| !has_ended(child)) {
            return false;
        }
        *slot = None;
        drop(slot);
        while !self.start() {
            *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = None;
            let child = self.child.as_mut().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
        }
        true
    }
}

impl Drop for Mcp<'_> {
    fn drop(&mut self) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.input = None;
        if let Some(child) = &mut self.child {
            // The session ends by itself when its input is closed. The wait fails if the process was already reaped.
            let _ = child.wait();
        }
    }
}

/// Verbs (subcommands) that all act as the same peer. Each of them runs in a separate process.
pub struct Verbs<'a> {
    pub place: &'a Place,
    /// The peer that the verbs act as.
    pub acting: &'static str,
}

impl Verbs<'_> {
    /// Runs `sh -c 'exit 7'` under a lock. If slm-mesh exits with status 7, the lock was granted.
    fn run(&self, path: &str) -> Got {
        let out = self.place.run(&["lock", path, "--as", self.acting, "--", "sh", "-c", "exit 7"]);
        match out.status.code() {
            Some(7) => Got::Done(json!({})),
            Some(1) => Got::Refused("held".into(), String::new()),
            Some(3) => Got::Refused("gone".into(), String::new()),
            _ => panic!("lock {path} -- sh: {out:?}"),
        }
    }
}

impl Caller for Verbs<'_> {
    fn ask(&mut self, ask: &Ask) -> Got {
        let expect;
        let mut args: Vec<&str> = match ask {
            Ask::Who => vec!["whoami"],
            Ask::Send { to, text } => vec!["send", to, text],
            Ask::Inbox { wait: false } => vec!["inbox", "--take"],
            Ask::Inbox { wait: true } => vec!["inbox", "--take", "--wait", "1"],
            Ask::Lock { paths, wait } => {
                let words = ["--renew", "--ttl", "1", "--wait", if *wait { "1" } else { "0" }];
                ["lock"].into_iter().chain(paths.iter().map(String::as_str)).chain(words).collect()
            }
            Ask::Unlock { path } => vec!["unlock", path],
            Ask::Run { path } => return self.run(path),
            Ask::Get { key } => vec!["state", "get", key],
            Ask::Set { key, value, expect: None } => vec!["state", "set", key, value],
            Ask::Set { key, value, expect: Some(n) } => {
                expect = n.to_string();
                vec!["state", "set", key, value, "--expect", &expect]
            }
        };
        args.extend(["--json", "--as", self.acting]);
        let out = self.place.run(&args);
        match serde_json::from_slice::<Value>(&out.stdout) {
            Ok(value) => judged(value),
            Err(_) => panic!("{args:?}: {out:?}"),
        }
    }
}

/// An HTTP client that is registered as a peer.
pub struct Web<'a> {
    pub place: &'a Place,
    pub id: String,
    stream: Option<BufReader<TcpStream>>,
}

impl<'a> Web<'a> {
    /// Registers a new peer over HTTP.
    pub fn new(place: &'a Place, project: &str) -> Web<'a> {
        let mut web = Web { place, id: String::new(), stream: None };
        match web.post("/register", &json!({ "projectPath": project, "pid": 7, "name": project })) {
            Got::Done(value) => web.id = value["peerId"].as_str().unwrap().to_owned(),
            other => panic!("{other:?}"),
        }
        web
    }

    /// Connects to the port that the broker wrote into a file. Fails while no broker runs, because an HTTP client can't
    /// start one.
    fn connect(&self) -> Option<BufReader<TcpStream>> {
        let port = std::fs::read_to_string(self.place.dir.join("port")).ok()?;
        let stream = TcpStream::connect(("127.0.0.1", port.trim().parse().ok()?)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(BufReader::new(stream))
    }

    fn post(&mut self, target: &str, body: &Value) -> Got {
        self.stream = self.stream.take().or_else(|| self.connect());
        let Some(stream) = &mut self.stream else { return Got::Refused("gone".into(), "nobody listens".into()) };
        match exchange(self.place, stream, target, &body.to_string()) {
            Some((200, body)) => judged(serde_json::from_str(&body).unwrap()),
            Some((status, body)) => panic!("{target}: {status} {body}"),
            None => {
                self.stream = None;
                Got::Lost
            }
        }
    }
}

/// Sends one request, and returns the status and body of the response. Returns `None` if no complete response arrived.
fn exchange(place: &Place, stream: &mut BufReader<TcpStream>, target: &str, body: &str) -> Option<(u16, String)> {
    let token = std::fs::read_to_string(place.dir.join("broker.token")).unwrap();
    let head = format!("POST {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n", token.trim());
    let began = Instant::now();
    stream.get_mut().write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).ok()?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let n = stream.read_line(&mut head);
        assert!(began.elapsed() < PATIENCE, "{target}: no answer in {PATIENCE:?}");
        if n.ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?.parse().ok()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((head.get(9..12)?.parse().ok()?, String::from_utf8(body).ok()?))
}

impl Caller for Web<'_> {
    fn ask(&mut self, ask: &Ask) -> Got {
        let id = self.id.clone();
        let lock =
            |action: &str, path: &str| json!({ "action": action, "filePath": path, "peerId": id, "ttlMinutes": 0.02 });
        match ask {
            Ask::Who => match self.post("/heartbeat", &json!({ "peerId": id })) {
                Got::Done(_) => Got::Done(json!({ "you": { "id": id } })),
                other => other,
            },
            Ask::Send { to, text } => self.post("/send", &json!({ "fromPeer": id, "toPeer": to, "payload": text })),
            Ask::Inbox { .. } => self.post("/messages", &json!({ "peerId": id })),
            Ask::Lock { paths, .. } => self.post("/lock", &lock("lock", &paths[0])),
            Ask::Unlock { path } | Ask::Run { path } => self.post("/lock", &lock("unlock", path)),
            Ask::Get { key } => self.post("/state", &json!({ "action": "get", "key": key })),
            Ask::Set { key, value, .. } => {
                self.post("/state", &json!({ "action": "set", "key": key, "value": value, "peerId": id }))
            }
        }
    }
}

/// Converts the JSON of an answer into the outcome of the call.
fn judged(value: Value) -> Got {
    // Not every success has `ok: true`; for example, `mesh_status` returns `status: ok`.
    if value["ok"] != json!(false) {
        return Got::Done(value);
    }
    let word = |name: &str| value[name].as_str().unwrap_or("").to_owned();
    Got::Refused(word("kind"), word("error"))
}
