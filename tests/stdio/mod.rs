//! An MCP client that sends exactly the lines of a test, and returns each line of the server unchanged.
//! `support::Session`, in contrast, does the handshake and hides notifications.
#![allow(dead_code)] // each test program uses its part

use crate::support::Place;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The version of the MCP protocol that has no handshake.
pub const MODERN: &str = "2026-07-28";
/// The versions of the MCP protocol that have a handshake, oldest first.
pub const LEGACY: &[&str] = &["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
/// The timeout for an answer, after which a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running MCP server. The client has not done the handshake yet.
pub struct Bare {
    /// The server's process.
    pub child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Vec<u8>>,
    /// All lines that the server has written.
    pub seen: Vec<Value>,
}

impl Bare {
    /// Starts slm-mesh in this folder of the test directory.
    pub fn start(place: &Place, args: &[&str], folder: &str) -> Bare {
        let dir = place.root.join(folder);
        std::fs::create_dir_all(&dir).unwrap();
        let mut command = place.command(args);
        let mut child = command.current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    return;
                }
            }
        });
        Bare { input: child.stdin.take(), child, lines, seen: Vec::new() }
    }

    /// Starts the server, and does the handshake of this protocol version.
    pub fn legacy(place: &Place, version: &str, folder: &str) -> Bare {
        let mut bare = Bare::start(place, &[], folder);
        let hello = bare.ask(&initialize(version));
        assert_eq!(hello["result"]["protocolVersion"], json!(version), "{hello}");
        bare.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        bare
    }

    /// Writes these bytes to the server's input.
    pub fn write(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().unwrap();
        input.write_all(bytes).unwrap();
        input.flush().unwrap();
    }

    /// Writes a JSON value as one line.
    pub fn send(&mut self, value: &Value) {
        self.write(format!("{value}\n").as_bytes());
    }

    /// Reads one line of the server's output. Returns `None` at the end of the output.
    pub fn read(&mut self) -> Option<Value> {
        let line = match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => panic!("no line in {PATIENCE:?}, after {:?}", self.seen.last()),
        };
        let text = std::str::from_utf8(&line).expect("a line is UTF-8");
        assert!(text.ends_with('\n'), "a line has an end: {text:?}");
        let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
        self.seen.push(value.clone());
        Some(value)
    }

    /// Reads lines until the answer with this id arrives. If the answer is part of a batch, returns the whole batch.
    pub fn answer(&mut self, id: &Value) -> Value {
        loop {
            let value = self.read().unwrap_or_else(|| panic!("the session ended before it answered {id}"));
            let is_it = |value: &Value| value.get("id") == Some(id) && value.get("method").is_none();
            if is_it(&value) || value.as_array().is_some_and(|batch| batch.iter().any(is_it)) {
                return value;
            }
        }
    }

    /// Sends a request, and reads lines until its answer arrives.
    pub fn ask(&mut self, request: &Value) -> Value {
        self.send(request);
        self.answer(&request["id"])
    }

    /// Calls a tool. Returns the JSON of the answer, and whether the answer is an error.
    pub fn call(&mut self, id: i64, name: &str, arguments: Value) -> (Value, bool) {
        content(&self.ask(&call(json!(id), name, arguments)))
    }

    /// The name of this session as a peer.
    pub fn name(&mut self) -> String {
        self.call(9999, "mesh_status", json!({})).0["you"]["name"].as_str().unwrap().to_owned()
    }

    /// Closes the server's input, and reads its output to the end. Returns the server's exit status, and how long the
    /// server took to exit.
    pub fn end(&mut self) -> (ExitStatus, Duration) {
        self.input = None;
        let began = Instant::now();
        while self.read().is_some() {}
        (self.child.wait().unwrap(), began.elapsed())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A JSON-RPC request.
pub fn request(id: impl Into<Value>, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id.into(), "method": method, "params": params })
}

/// A request in the protocol version that has no handshake. It contains this version and the client's capabilities.
pub fn modern(id: impl Into<Value>, method: &str, mut params: Value) -> Value {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    request(id, method, params)
}

/// The `initialize` request for this protocol version.
pub fn initialize(version: &str) -> Value {
    let params =
        json!({ "protocolVersion": version, "capabilities": {}, "clientInfo": { "name": "bare", "version": "1" } });
    request("hello", "initialize", params)
}

/// A `tools/call` request, for the protocol versions with a handshake.
pub fn call(id: impl Into<Value>, name: &str, arguments: Value) -> Value {
    request(id, "tools/call", json!({ "name": name, "arguments": arguments }))
}

/// The notification that cancels the request with this id.
pub fn cancel(id: impl Into<Value>) -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id.into() } })
}

/// The JSON in the answer of a tool, and whether the answer is an error.
pub fn content(answer: &Value) -> (Value, bool) {
    let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
    (serde_json::from_str(text).unwrap(), answer["result"]["isError"] == json!(true))
}

/// Waits until exactly `n` calls are waiting in the broker.
pub fn until_waiting(session: &mut Bare, n: i64) {
    let mut id = 9000;
    crate::support::until("calls wait in the broker", || {
        id += 1;
        session.call(id, "mesh_status", json!({})).0["waiting"] == json!(n)
    });
}

/// The code of a JSON-RPC error; 0 if the answer is not an error.
pub fn code(answer: &Value) -> i64 {
    answer["error"]["code"].as_i64().unwrap_or(0)
}
