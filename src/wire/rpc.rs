//! JSON-RPC 2.0 with one message on each line (jsonrpc.org/specification).

use crate::base::error::{Error, ErrorKind};
use crate::base::json_text::{JsonLine, json_text};
use serde_json::{Map, Value, json};

/// The line is not JSON.
pub const PARSE_ERROR: i64 = -32700;
/// The line is JSON, but not a request.
pub const INVALID_REQUEST: i64 = -32600;
/// No method has this name.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// The method does not accept these parameters.
pub const INVALID_PARAMS: i64 = -32602;
/// Our own program failed.
pub const INTERNAL_ERROR: i64 = -32603;

/// A valid message.
#[allow(missing_docs)] // JSON-RPC's own names
#[derive(Debug, Clone, PartialEq)]
pub enum RpcMessage {
    /// Asks for a response with this id (a string or a whole number).
    Request { id: Value, method: String, params: Map<String, Value> },
    /// Asks for no response.
    Notification { method: String, params: Map<String, Value> },
    /// Answers a request that we sent.
    Response { id: Value, result: Result<Value, Value> },
}

/// The error for a line that is not a valid message. Contains the facts for the error response.
#[derive(Debug, Clone, PartialEq)]
pub struct InvalidMessage {
    /// The request's id, if it is valid.
    pub id: Option<Value>,
    /// The JSON-RPC error code.
    pub code: i64,
    /// The cause, in words for people.
    pub text: String,
}

/// Parses one line.
///
/// # Errors
/// When the line is not JSON, or not a JSON-RPC message.
pub fn parse_line(line: &[u8]) -> Result<RpcMessage, InvalidMessage> {
    let text = std::str::from_utf8(line).map_err(|_| InvalidMessage {
        id: None,
        code: PARSE_ERROR,
        text: "the line is not UTF-8".into(),
    })?;
    if let Some(request) = plain_request(text) {
        return Ok(request);
    }
    let value = serde_json::from_str(text).map_err(|error| InvalidMessage {
        id: None,
        code: PARSE_ERROR,
        text: format!("the line is not JSON: {error}"),
    })?;
    parse_message(value)
}

/// Parses a request with a numeric id, in exactly the form that [`request`] writes. Only the parameters are parsed as
/// JSON, which halves the time. Returns `None` for all other lines, even for valid requests.
fn plain_request(line: &str) -> Option<RpcMessage> {
    let line = line.strip_prefix("{\"jsonrpc\":\"2.0\",\"id\":")?;
    let (number, rest) = line.split_at(line.find(',')?);
    let rest = rest.strip_prefix(",\"method\":\"")?;
    let (method, rest) = rest.split_at(rest.find('"')?);
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit())
        && (number.len() == 1 || !number.starts_with('0'))
        && method.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._/".contains(&byte));
    // The rest of the line must be the parameters and a closing brace. If it contains further fields, `from_str` fails
    // below.
    let params = rest.strip_prefix("\",\"params\":")?.strip_suffix('}').filter(|_| is_plain)?;
    let id = Value::from(number.parse::<u64>().ok()?);
    Some(RpcMessage::Request { id, method: method.to_owned(), params: serde_json::from_str(params).ok()? })
}

/// Returns the request's number and the text of the result, if [`response`] has formatted this line for a numbered
/// request. The caller need not parse the result to pass it on. Returns `None` for any other line.
pub fn numbered_result(line: &[u8]) -> Option<(u64, &str)> {
    let line = std::str::from_utf8(line).ok()?.strip_prefix("{\"jsonrpc\":\"2.0\",\"id\":")?;
    let (number, rest) = line.split_at(line.find(',')?);
    let result = rest.strip_prefix(",\"result\":")?.strip_suffix('}')?;
    Some((number.parse().ok()?, result))
}

/// Whether an object in this JSON text may have a field of this name. If the result is false, no object has such a
/// field. The names in the text must contain no escapes, as in the output of our own programs.
pub fn may_have_field(json: &str, name: &str) -> bool {
    let json = json.as_bytes();
    let is_quoted = |at: usize| json[..at].ends_with(b"\"") && json[at + name.len()..].starts_with(b"\"");
    memchr::memmem::find_iter(json, name).any(is_quoted)
}

/// Parses one message of a batch.
///
/// # Errors
/// When the value is not a JSON-RPC message.
pub fn parse_message(value: Value) -> Result<RpcMessage, InvalidMessage> {
    let bad = |id: Option<Value>, text: &str| InvalidMessage { id, code: INVALID_REQUEST, text: text.into() };
    let Value::Object(map) = value else {
        return Err(bad(None, "a message must be a JSON object with jsonrpc, method and params"));
    };
    let (mut version, mut id, mut method, mut params, mut result, mut error) = (None, None, None, None, None, None);
    for (name, value) in map {
        let field = match name.as_str() {
            "jsonrpc" => &mut version,
            "id" => &mut id,
            "method" => &mut method,
            "params" => &mut params,
            "result" => &mut result,
            "error" => &mut error,
            _ => continue,
        };
        *field = Some(value);
    }
    let known = id.clone().filter(is_id);
    if version.as_ref().and_then(Value::as_str) != Some("2.0") {
        return Err(bad(known, "jsonrpc must be \"2.0\""));
    }
    let method = match method {
        Some(Value::String(method)) => method,
        Some(_) => return Err(bad(known, "method must be a string")),
        None => return parse_response(id, result, error),
    };
    let params = match params {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => {
            return Err(InvalidMessage { id: known, code: INVALID_PARAMS, text: "params must be an object".into() });
        }
    };
    match (id, known) {
        (None, _) => Ok(RpcMessage::Notification { method, params }),
        (Some(_), Some(id)) => Ok(RpcMessage::Request { id, method, params }),
        (Some(_), None) => Err(bad(None, "id must be a string or a whole number")),
    }
}

fn parse_response(
    id: Option<Value>,
    result: Option<Value>,
    error: Option<Value>,
) -> Result<RpcMessage, InvalidMessage> {
    let result = match (result, error) {
        (Some(result), None) => Ok(result),
        (None, Some(error)) => Err(error),
        _ => {
            return Err(InvalidMessage {
                id: id.filter(is_id),
                code: INVALID_REQUEST,
                text: "method is missing".into(),
            });
        }
    };
    Ok(RpcMessage::Response { id: id.unwrap_or(Value::Null), result })
}

fn is_id(id: &Value) -> bool {
    id.is_string() || id.is_i64() || id.is_u64()
}

// The following functions format the JSON-RPC envelope themselves, because `json!` would first copy all of the content.

/// Formats a request as a line.
pub fn request(id: &Value, method: &str, params: &Value) -> String {
    let line = JsonLine::default().text("{\"jsonrpc\":\"2.0\",\"id\":").value(id).text(",\"method\":");
    line.value(&Value::from(method)).text(",\"params\":").value(params).text("}\n").finish()
}

/// Formats a notification as a line.
pub fn notification(method: &str, params: &Value) -> String {
    notification_with_text(method, &json_text(params))
}

/// Formats a notification whose parameters are already JSON text.
pub fn notification_with_text(method: &str, params: &str) -> String {
    let method = json_text(&Value::from(method));
    ["{\"jsonrpc\":\"2.0\",\"method\":", &method, ",\"params\":", params, "}\n"].concat()
}

/// Formats a result as a line.
pub fn response(id: &Value, result: &Value) -> String {
    let line = JsonLine::default().text("{\"jsonrpc\":\"2.0\",\"id\":").value(id);
    line.text(",\"result\":").value(result).text("}\n").finish()
}

/// Formats a JSON-RPC error as a line. JSON-RPC demands a null id if the id is unknown.
pub fn protocol_error_response(id: Option<&Value>, code: i64, text: &str) -> String {
    to_line(&json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": text } }))
}

/// Formats one of our errors as a line. The error's facts go into `error.data`.
pub fn error_response(id: &Value, error: &Error) -> String {
    let mut data = error.data.clone().unwrap_or_else(|| json!({}));
    if let Some(map) = data.as_object_mut() {
        map.insert("kind".into(), json!(error.kind.codes().word));
    }
    let error = json!({ "code": error.kind.codes().rpc, "message": error.text, "data": data });
    to_line(&json!({ "jsonrpc": "2.0", "id": id, "error": error }))
}

/// Converts the `error` member of a response to one of our errors.
pub fn decode_error(error: &Value) -> Error {
    let mut data = error.get("data").cloned().unwrap_or(Value::Null);
    let kind = data.as_object_mut().and_then(|map| map.remove("kind"));
    // An older broker names no kind for errors of the protocol.
    let by_code = || ErrorKind::from_rpc_code(error.get("code").and_then(Value::as_i64).unwrap_or(0));
    let kind = kind.as_ref().and_then(Value::as_str).map_or_else(by_code, ErrorKind::from_word);
    let text = error.get("message").and_then(Value::as_str).unwrap_or("the broker gave no reason");
    let error = Error::new(kind, text);
    if data.as_object().is_some_and(|map| !map.is_empty()) { error.with(data) } else { error }
}

/// Formats any value as a line.
pub fn to_line(value: &Value) -> String {
    let mut text = json_text(value);
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_lines_give_the_right_error_code() {
        for (line, code) in [
            ("{", PARSE_ERROR),
            ("[]", INVALID_REQUEST),
            (r#"{"id":1,"method":"a"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"a"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":[1]}"#, INVALID_PARAMS),
        ] {
            assert_eq!(parse_line(line.as_bytes()).unwrap_err().code, code, "{line}");
        }
        assert_eq!(parse_line(b"\xff").unwrap_err().code, PARSE_ERROR);
        assert_eq!(parse_line(&[b'['; 5000]).unwrap_err().code, PARSE_ERROR);
    }

    #[test]
    fn a_plain_request_is_what_the_whole_line_says() {
        let params = json!({ "a,\"params\":": [{}], "b": "\"}" });
        let plain = request(&json!(7), "state.get", &params);
        let message = plain_request(plain.trim_end()).unwrap();
        assert_eq!(parse_message(serde_json::from_str(&plain).unwrap()), Ok(message));
        let head = r#"{"jsonrpc":"2.0","id":7,"method":"ping""#;
        for tail in [
            r#"}"#,
            r#","params":null}"#,
            r#","params":{},"id":8}"#,
            r#","params":{}},"params":{}}"#,
            r#","params":{}"#,
            r#","params":{}}}"#,
            r#","params":[]}"#,
        ] {
            assert_eq!(plain_request(&format!("{head}{tail}")), None, "{tail}");
        }
        for other in [
            r#"{"jsonrpc":"2.0","id":"7","method":"ping","params":{}}"#,
            r#"{"jsonrpc":"2.0","id":07,"method":"ping","params":{}}"#,
            r#"{"jsonrpc":"2.0","id":18446744073709551616,"method":"ping","params":{}}"#,
            r#"{"jsonrpc":"2.0","id":,"method":"ping","params":{}}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"pi\u006eg","params":{}}"#,
        ] {
            assert_eq!(plain_request(other), None, "{other}");
        }
    }

    #[test]
    fn the_result_of_a_numbered_request_can_be_read_as_text() {
        let result = json!({ "a,\"result\":": [{}], "b": "\"}" });
        let line = response(&json!(7), &result);
        assert_eq!(numbered_result(line.trim_end().as_bytes()), Some((7, json_text(&result).as_str())));
        let refused = error_response(&json!(7), &Error::usage("key", "no,\"result\":{}}"));
        let renamed = response(&json!("7"), &result);
        for other in [refused, renamed, request(&json!(7), "ping", &result), "{\"id\":7,\"result\":{}}".into()] {
            assert_eq!(numbered_result(other.trim_end().as_bytes()), None, "{other}");
        }
    }
}
