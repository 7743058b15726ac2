//! MCP over stdio: the server that an agent starts as `slm-mesh mcp`.
//!
//! The main thread reads requests, and answers those that need no broker. The reader thread passes on the broker's
//! replies. If a call has to wait for something, it waits in the broker, so it blocks nothing here.
//!
//! **Invariant:** only complete protocol lines are written to standard output.

mod broker_client;
pub mod peer_transcript;
mod pending_call;
mod protocol_version;
mod repair_client_lines;
mod resolve_paths_against_client_roots;
mod send_wakeup_to_agent;
mod server;
mod session_identity;
mod stdout_writer;

pub use pending_call::shown_items;

use broker_client::BrokerClient;
use serde_json::{Map, Value, json};
use server::McpServer;
use std::io::{self, Read};
use std::sync::Arc;
use stdout_writer::StdoutWriter;

/// Runs a session until its client closes standard input. `agent` is the client's agent, if the command line specifies
/// one.
///
/// # Errors
/// If standard input can't be read.
pub fn serve_stdio(legacy_only: bool, agent: Option<String>) -> io::Result<()> {
    let out = Arc::new(StdoutWriter::default());
    let broker = BrokerClient::new(Arc::clone(&out));
    broker.choose_agent(agent);
    let mut server = McpServer::new(legacy_only, broker, out);
    let mut buffer = vec![0; 64 * 1024];
    let mut stdin = io::stdin().lock();
    loop {
        let n = match stdin.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        server.receive(&buffer[..n]);
    }
    // The client may have closed standard input without a newline after its last line. The server adds the newline.
    server.receive(b"\n");
    server.close();
    Ok(())
}

/// Starts a session without a broker, feeds these pieces of input to it, and returns what the session writes. The
/// session accepts calls but never answers them. Tests use this function with arbitrary bytes.
#[doc(hidden)]
pub fn replay_detached<'a>(legacy_only: bool, input: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let out = Arc::new(StdoutWriter::keeping());
    let mut server = McpServer::new(legacy_only, BrokerClient::detached(Arc::clone(&out)), Arc::clone(&out));
    input.for_each(|piece| server.receive(piece));
    out.take_kept()
}

/// A client's mistake that is reported as a protocol error, not as the result of a tool.
#[derive(Debug)]
struct ProtocolError {
    code: i64,
    text: String,
    data: Option<Value>,
}

impl ProtocolError {
    fn new(code: i64, text: impl Into<String>) -> ProtocolError {
        ProtocolError { code, text: text.into(), data: None }
    }

    fn with_data(mut self, data: Value) -> ProtocolError {
        self.data = Some(data);
        self
    }

    /// The answer to a request with this id. If the id can't be read, the answer has no `id`, because MCP's schema does
    /// not allow null as an id.
    fn to_response(&self, id: Option<&Value>) -> Value {
        let mut response = json!({ "jsonrpc": "2.0" });
        if let Some(id) = id {
            response["id"] = id.clone();
        }
        response["error"] = json!({ "code": self.code, "message": self.text });
        if let Some(data) = &self.data {
            response["error"]["data"] = data.clone();
        }
        response
    }
}

fn server_info() -> Value {
    json!({ "name": "slm-mesh", "title": "SLM Mesh", "version": env!("CARGO_PKG_VERSION") })
}

fn client_name(map: &Map<String, Value>, key: &str) -> Option<String> {
    map.get(key)?.get("name")?.as_str().map(|name| truncate(name, 128))
}

fn truncate(text: &str, n_chars: usize) -> String {
    text.chars().take(n_chars).collect()
}
