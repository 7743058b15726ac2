//! JSON-RPC 2.0, one message a line, by hand (jsonrpc.org/specification).

use crate::base::error::{Error, ErrorKind};
use serde_json::{Map, Value, json};

/// The line was not JSON.
pub const PARSE: i64 = -32700;
/// The line was JSON, but no request.
pub const INVALID: i64 = -32600;
/// No such method.
pub const NO_METHOD: i64 = -32601;
/// Wrong parameters.
pub const PARAMS: i64 = -32602;
/// A bug of ours.
pub const INTERNAL: i64 = -32603;

/// A message that was understood.
#[allow(missing_docs)] // JSON-RPC's own names
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Wants an answer under this id (a string or a whole number).
    Request { id: Value, method: String, params: Map<String, Value> },
    /// Wants none.
    Notice { method: String, params: Map<String, Value> },
    /// Answers a request of ours.
    Response { id: Value, result: Result<Value, Value> },
}

/// A line that is no message: what to answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Bad {
    /// The request's id, where one could be read.
    pub id: Option<Value>,
    /// JSON-RPC error code.
    pub code: i64,
    /// What is wrong.
    pub text: String,
}

/// Reads one line.
///
/// # Errors
/// When it is not JSON, or no JSON-RPC message.
pub fn read(line: &[u8]) -> Result<Message, Bad> {
    let text =
        std::str::from_utf8(line).map_err(|_| Bad { id: None, code: PARSE, text: "the line is not UTF-8".into() })?;
    let value = serde_json::from_str(text).map_err(|error| Bad {
        id: None,
        code: PARSE,
        text: format!("the line is not JSON: {error}"),
    })?;
    read_value(value)
}

/// Reads one message that is parsed already (from a batch).
///
/// # Errors
/// When it is no JSON-RPC message.
pub fn read_value(value: Value) -> Result<Message, Bad> {
    let bad = |id: Option<Value>, text: &str| Bad { id, code: INVALID, text: text.into() };
    let Value::Object(mut map) = value else {
        return Err(bad(None, "want a JSON object with jsonrpc, method and params"));
    };
    let id = map.remove("id");
    let known = id.clone().filter(is_id);
    if map.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(bad(known, "jsonrpc: want \"2.0\""));
    }
    let method = match map.remove("method") {
        Some(Value::String(method)) => method,
        Some(_) => return Err(bad(known, "method: want a string")),
        None => return response(map, id),
    };
    let params = match map.remove("params") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => return Err(Bad { id: known, code: PARAMS, text: "params: want an object".into() }),
    };
    match (id, known) {
        (None, _) => Ok(Message::Notice { method, params }),
        (Some(_), Some(id)) => Ok(Message::Request { id, method, params }),
        (Some(_), None) => Err(bad(None, "id: want a string or a whole number")),
    }
}

fn response(mut map: Map<String, Value>, id: Option<Value>) -> Result<Message, Bad> {
    let result = match (map.remove("result"), map.remove("error")) {
        (Some(result), None) => Ok(result),
        (None, Some(error)) => Err(error),
        _ => return Err(Bad { id: id.filter(is_id), code: INVALID, text: "method: missing".into() }),
    };
    Ok(Message::Response { id: id.unwrap_or(Value::Null), result })
}

fn is_id(id: &Value) -> bool {
    id.is_string() || id.is_i64() || id.is_u64()
}

// The frames below are written out by hand: json! would copy the whole tree inside them first.

/// A request as a line.
pub fn request(id: &Value, method: &str, params: &Value) -> String {
    let method = Value::from(method);
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":{method},\"params\":{params}}}\n")
}

/// A notification as a line.
pub fn notice(method: &str, params: &Value) -> String {
    let method = Value::from(method);
    format!("{{\"jsonrpc\":\"2.0\",\"method\":{method},\"params\":{params}}}\n")
}

/// An answer as a line.
pub fn answer(id: &Value, result: &Value) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}\n")
}

/// An error as a line. Without a readable id, JSON-RPC says null.
pub fn protocol_error(id: Option<&Value>, code: i64, text: &str) -> String {
    line(&json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": text } }))
}

/// An error as a line; its facts travel in `error.data`.
pub fn error(id: &Value, error: &Error) -> String {
    let mut data = error.data.clone().unwrap_or_else(|| json!({}));
    if let Some(map) = data.as_object_mut() {
        map.insert("kind".into(), json!(error.kind.codes().word));
    }
    let error = json!({ "code": error.kind.codes().rpc, "message": error.text, "data": data });
    line(&json!({ "jsonrpc": "2.0", "id": id, "error": error }))
}

/// An error that came over the wire.
pub fn read_error(error: &Value) -> Error {
    let mut data = error.get("data").cloned().unwrap_or(Value::Null);
    let kind = data.as_object_mut().and_then(|map| map.remove("kind"));
    let kind = kind.as_ref().and_then(Value::as_str).map_or(ErrorKind::Internal, ErrorKind::from_word);
    let text = error.get("message").and_then(Value::as_str).unwrap_or("the broker gave no reason");
    let error = Error::new(kind, text);
    if data.as_object().is_some_and(|map| !map.is_empty()) { error.with(data) } else { error }
}

/// Any message as a line.
pub fn line(value: &Value) -> String {
    let mut text = value.to_string();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_message_says_why() {
        for (line, code) in [
            ("{", PARSE),
            ("[]", INVALID),
            (r#"{"id":1,"method":"a"}"#, INVALID),
            (r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#, INVALID),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"a"}"#, INVALID),
            (r#"{"jsonrpc":"2.0","id":1}"#, INVALID),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":[1]}"#, PARAMS),
        ] {
            assert_eq!(read(line.as_bytes()).unwrap_err().code, code, "{line}");
        }
        assert_eq!(read(b"\xff").unwrap_err().code, PARSE);
        assert_eq!(read(&[b'['; 5000]).unwrap_err().code, PARSE);
    }
}
