//! Tests the code with which sessions and the broker read lines of JSON-RPC. The input is random.
//!
//! The lines must not depend on how a stream is cut into pieces. Each line is either a message or an error with a code.
//! A message must be the same after it is written and read again.

use crate::choices::{Choices, pieces};
use serde_json::Value;
use slm_mesh::wire::line_splitter::{LINE_MAX, LineBuffer};
use slm_mesh::wire::rpc::{self, InvalidMessage, RpcMessage};

/// The first byte decides how the other bytes are cut into pieces. If its highest bit is set, each line gets about a
/// megabyte of padding.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let how = choices.byte();
    let stream = choices.0;
    let padded;
    let stream = if how & 0x80 != 0 && stream.iter().filter(|byte| **byte == b'\n').count() < 4 {
        let lines: Vec<&[u8]> = stream.split(|byte| *byte == b'\n').collect();
        let pad = vec![b'x'; LINE_MAX - usize::from(how & 0x3f)];
        padded = lines.iter().map(|line| [&pad, *line].concat()).collect::<Vec<_>>().join(&b'\n');
        padded.as_slice()
    } else {
        stream
    };
    let seen = split(&pieces(stream, how & 0x7f));
    assert_eq!(seen, expected(stream), "split by {how}");
    for line in seen.iter().flatten() {
        check_line(line);
    }
}

/// The lines that `LineBuffer` finds in these pieces. A line that is too long is `None`.
fn split(pieces: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
    let (mut lines, mut found, mut skipping) = (LineBuffer::default(), Vec::new(), false);
    for piece in pieces {
        lines.push(piece);
        skipping = skipping && !lines.skip_line();
        while !skipping {
            match lines.next_line() {
                Ok(None) => break,
                Ok(Some(line)) => found.push(Some(line.to_vec())),
                Err(_) => {
                    found.push(None);
                    skipping = !lines.skip_line();
                }
            }
        }
    }
    found
}

/// The lines that `LineBuffer` should find, computed in a simple way.
fn expected(stream: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut lines: Vec<&[u8]> = stream.split(|byte| *byte == b'\n').collect();
    // The bytes after the last newline are not a line yet. The buffer reports them only if there are too many of them.
    let last = lines.pop().unwrap_or_default();
    let one = |line: &[u8]| (line.len() <= LINE_MAX).then(|| line.strip_suffix(b"\r").unwrap_or(line).to_vec());
    let rest = (last.len() > LINE_MAX).then_some(None);
    lines.into_iter().map(one).chain(rest).collect()
}

fn check_line(line: &[u8]) {
    match rpc::parse_line(line) {
        Ok(message) => {
            let again = rpc::parse_line(write(&message).trim_end().as_bytes()).expect("what was written can be read");
            assert_eq!(rounded(&write(&again)), rounded(&write(&message)), "written and read again");
            if let RpcMessage::Response { id, result: Err(error) } = message {
                check_error(&id, &error);
            }
        }
        Err(bad) => check_invalid(&bad),
    }
}

/// The JSON in a line, with rounded fractions. Reading a fraction and writing it again may change its last digit.
fn rounded(line: &str) -> Value {
    fn round(value: Value) -> Value {
        match value {
            Value::Number(n) if n.is_f64() => Value::from(format!("{:.10e}", n.as_f64().unwrap_or_default())),
            Value::Array(list) => list.into_iter().map(round).collect(),
            Value::Object(map) => map.into_iter().map(|(name, value)| (name, round(value))).collect(),
            other => other,
        }
    }
    round(serde_json::from_str(line).expect("a line is JSON"))
}

fn write(message: &RpcMessage) -> String {
    match message {
        RpcMessage::Request { id, method, params } => rpc::request(id, method, &Value::Object(params.clone())),
        RpcMessage::Notification { method, params } => rpc::notification(method, &Value::Object(params.clone())),
        RpcMessage::Response { id, result: Ok(result) } => rpc::response(id, result),
        RpcMessage::Response { id, result: Err(error) } => {
            rpc::to_line(&serde_json::json!({ "jsonrpc": "2.0", "id": id, "error": error }))
        }
    }
}

fn check_invalid(bad: &InvalidMessage) {
    assert!([rpc::PARSE_ERROR, rpc::INVALID_REQUEST, rpc::INVALID_PARAMS].contains(&bad.code), "{bad:?}");
    let line = rpc::protocol_error_response(bad.id.as_ref(), bad.code, &bad.text);
    let answer: Value = serde_json::from_str(&line).expect("an error is a line of JSON");
    assert_eq!(answer["id"], bad.id.clone().unwrap_or(Value::Null));
    assert_eq!(line.matches('\n').count(), 1, "{line:?}");
}

/// Checks that an error is the same after it is read and written again.
fn check_error(id: &Value, error: &Value) {
    let error = rpc::decode_error(error);
    let line = rpc::error_response(id, &error);
    let again: Value = serde_json::from_str(&line).expect("an error is a line of JSON");
    assert_eq!(rounded(&rpc::error_response(id, &rpc::decode_error(&again["error"]))), rounded(&line));
}
