//! The two eras of MCP in one process, decided per message: 2026-07-28, where every request says
//! its version, and the revisions before it, which begin with `initialize`.

use super::{ProtocolError, server_info};
use crate::wire::rpc;
use serde_json::{Map, Value, json};

/// The modern revision that we speak.
pub const MODERN: &str = "2026-07-28";
/// The revisions before it, newest first.
const LEGACY: &[&str] = &["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// Where a modern request names its client.
pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// The spec's code for a version that is not spoken here.
const UNSUPPORTED_VERSION: i64 = -32022;

/// What this process has learnt of its client.
#[derive(Debug)]
pub struct Era {
    legacy_only: bool,
    negotiated: Option<&'static str>,
}

impl Era {
    /// Nothing yet.
    pub fn new(legacy_only: bool) -> Era {
        Era { legacy_only, negotiated: None }
    }

    /// Whether a request is modern.
    ///
    /// # Errors
    /// When it is neither: its version is unknown, or it says none and nobody initialized.
    pub fn of(&self, method: &str, params: &Map<String, Value>) -> Result<bool, ProtocolError> {
        let meta = params.get("_meta").and_then(Value::as_object);
        let version = meta.and_then(|meta| meta.get(VERSION));
        if self.legacy_only && (version.is_some() || method == "server/discover") {
            return Err(ProtocolError::new(rpc::NO_METHOD, "this server was started with --legacy; send initialize"));
        }
        match version {
            Some(Value::String(version)) if version == MODERN => match meta.and_then(|meta| meta.get(CAPABILITIES)) {
                Some(Value::Object(_)) => Ok(true),
                _ => Err(missing(CAPABILITIES)),
            },
            Some(Value::String(version)) => {
                let mut error = ProtocolError::new(UNSUPPORTED_VERSION, "Unsupported protocol version");
                error.data = Some(json!({ "supported": [MODERN], "requested": version }));
                Err(error)
            }
            Some(_) => Err(ProtocolError::new(rpc::PARAMS, format!("_meta: {VERSION}: want a string"))),
            None if method == "initialize" || method == "ping" => Ok(false),
            None if method == "server/discover" || self.negotiated.is_none() => Err(missing(VERSION)),
            None => Ok(false),
        }
    }

    /// Answers an `initialize` with the version asked for, or the newest legacy one.
    pub fn negotiate(&mut self, params: &Map<String, Value>) -> &'static str {
        let asked = params.get("protocolVersion").and_then(Value::as_str);
        let version = LEGACY.iter().find(|version| Some(**version) == asked).copied().unwrap_or(LEGACY[0]);
        self.negotiated = Some(version);
        version
    }

    /// Only one revision has JSON-RPC batches.
    pub fn takes_batches(&self) -> bool {
        self.negotiated == Some("2025-03-26")
    }

    /// A tool's definition with what the client's revision knows.
    pub fn tool(&self, mut tool: Value, modern: bool) -> Value {
        let version = if modern { MODERN } else { self.negotiated.unwrap_or(LEGACY[0]) };
        if let Some(map) = tool.as_object_mut() {
            if version < "2025-06-18" {
                map.shift_remove("title");
                map.shift_remove("_meta");
            }
            if version < "2025-03-26" {
                map.shift_remove("annotations");
            }
        }
        tool
    }
}

/// Adds what every modern result carries.
pub fn modern_result(mut result: Value) -> Value {
    result["resultType"] = json!("complete");
    result["_meta"] = json!({ "io.modelcontextprotocol/serverInfo": server_info() });
    result
}

fn missing(key: &str) -> ProtocolError {
    ProtocolError::new(rpc::PARAMS, format!("_meta: {key} is missing; set it, or send initialize first"))
}
