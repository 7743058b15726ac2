//! The revisions of MCP that this server supports. A client of the newest revision, 2026-07-28, writes the revision
//! into each request. A client of an older revision first sends `initialize`.

use super::{ProtocolError, server_info};
use crate::wire::rpc;
use serde_json::{Map, Value, json};

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// The `_meta` field in which a client of revision 2026-07-28 sends its own name and version.
pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// The error code that MCP defines for an unsupported protocol version.
const UNSUPPORTED_VERSION: i64 = -32022;

/// The revisions of MCP, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum ProtocolVersion {
    /// The oldest supported revision. It already has today's stdio transport.
    V2024_11_05,
    /// The only revision with JSON-RPC batches. It also added annotations to tools.
    V2025_03_26,
    /// The revision that added titles and `_meta` to tools.
    V2025_06_18,
    /// The last revision in which a session begins with `initialize`.
    V2025_11_25,
    /// The newest revision. It has no handshake. Instead, each request contains its version and the client's
    /// capabilities.
    V2026_07_28,
}

use ProtocolVersion::{V2024_11_05, V2025_03_26, V2025_06_18, V2025_11_25, V2026_07_28};

/// The newest revision, which has no handshake.
pub const MODERN: ProtocolVersion = V2026_07_28;
const LATEST_WITH_HANDSHAKE: ProtocolVersion = V2025_11_25;
const WITH_HANDSHAKE: [ProtocolVersion; 4] = [V2024_11_05, V2025_03_26, V2025_06_18, V2025_11_25];

impl ProtocolVersion {
    /// The date that stands for this revision in messages.
    pub fn name(self) -> &'static str {
        match self {
            V2024_11_05 => "2024-11-05",
            V2025_03_26 => "2025-03-26",
            V2025_06_18 => "2025-06-18",
            V2025_11_25 => "2025-11-25",
            V2026_07_28 => "2026-07-28",
        }
    }

    /// Whether this is the newest revision, in which each request is independent of all earlier requests.
    pub fn is_modern(self) -> bool {
        self == MODERN
    }

    /// Adds the fields that this revision requires in every result.
    pub fn complete_result(self, mut result: Value) -> Value {
        if self.is_modern() {
            result["resultType"] = json!("complete");
            result["_meta"] = json!({ "io.modelcontextprotocol/serverInfo": server_info() });
        }
        result
    }

    /// Removes from a tool's definition those fields that do not exist in this revision.
    pub fn fit_tool(self, mut tool: Value) -> Value {
        if let Some(map) = tool.as_object_mut() {
            if self < V2025_06_18 {
                map.shift_remove("title");
                map.shift_remove("_meta");
            }
            if self < V2025_03_26 {
                map.shift_remove("annotations");
            }
        }
        tool
    }
}

/// Finds out which revision applies to each request of a client.
#[derive(Debug)]
pub struct Negotiation {
    legacy_only: bool,
    agreed: Option<ProtocolVersion>,
}

impl Negotiation {
    /// Makes a negotiation in which no revision has been agreed on yet. If `legacy_only` is true, requests of the
    /// newest revision are refused.
    pub fn new(legacy_only: bool) -> Negotiation {
        Negotiation { legacy_only, agreed: None }
    }

    /// The revision that applies to one request.
    ///
    /// # Errors
    /// If the request has an unsupported version, or if it has no version and no `initialize` request came before it.
    pub fn version_of(&self, method: &str, params: &Map<String, Value>) -> Result<ProtocolVersion, ProtocolError> {
        let meta = params.get("_meta").and_then(Value::as_object);
        let version = meta.and_then(|meta| meta.get(VERSION));
        if self.legacy_only && (version.is_some() || method == "server/discover") {
            return Err(ProtocolError::new(
                rpc::METHOD_NOT_FOUND,
                "this server was started with --legacy; send initialize",
            ));
        }
        match version {
            Some(Value::String(version)) if version == MODERN.name() => {
                match meta.and_then(|meta| meta.get(CAPABILITIES)) {
                    Some(Value::Object(_)) => Ok(MODERN),
                    _ => Err(missing(CAPABILITIES)),
                }
            }
            Some(Value::String(version)) => {
                let error = ProtocolError::new(UNSUPPORTED_VERSION, "Unsupported protocol version");
                Err(error.with_data(json!({ "supported": [MODERN.name()], "requested": version })))
            }
            Some(_) => Err(ProtocolError::new(rpc::INVALID_PARAMS, format!("_meta: {VERSION}: expected a string"))),
            None if method == "initialize" || method == "ping" => Ok(self.agreed.unwrap_or(LATEST_WITH_HANDSHAKE)),
            None if method == "server/discover" => Err(missing(VERSION)),
            None => self.agreed.ok_or_else(|| missing(VERSION)),
        }
    }

    /// Agrees on a revision after `initialize`. If the server supports the revision that the client asks for, uses that
    /// revision. Otherwise, uses the latest revision that has a handshake.
    pub fn agree(&mut self, params: &Map<String, Value>) -> ProtocolVersion {
        let wanted = params.get("protocolVersion").and_then(Value::as_str);
        let version = WITH_HANDSHAKE.into_iter().find(|version| Some(version.name()) == wanted);
        *self.agreed.insert(version.unwrap_or(LATEST_WITH_HANDSHAKE))
    }

    /// Whether the server accepts an array of messages as a batch.
    pub fn takes_batches(&self) -> bool {
        self.agreed == Some(V2025_03_26)
    }
}

fn missing(key: &str) -> ProtocolError {
    ProtocolError::new(rpc::INVALID_PARAMS, format!("_meta: {key} is missing; set it, or send initialize first"))
}
