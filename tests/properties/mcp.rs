//! Sends random input to an MCP server that has no broker, in all protocol versions.
//!
//! The answers must not depend on how the input is cut into pieces. Each answer is one line for one request, in the
//! form of the request's protocol version. A request must be answered with its id even if garbage follows it, or if a
//! byte order mark comes before it.

use crate::choices::{Choices, pieces};
use serde_json::Value;
use slm_mesh::mcp;
use slm_mesh::wire::rpc::{self, RpcMessage};

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// The first byte decides how the other bytes are cut into pieces. If its highest bit is set, the server runs with
/// `--legacy`.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let how = choices.byte();
    let legacy = how & 0x80 != 0;
    let whole = mcp::replay_detached(legacy, std::iter::once(choices.0));
    let cut = mcp::replay_detached(legacy, pieces(choices.0, how & 0x7f).into_iter());
    assert_eq!(String::from_utf8_lossy(&cut), String::from_utf8_lossy(&whole), "cut by {how}");
    let answers = answers(&whole);
    let asked = asked(choices.0);
    for answer in &answers {
        check_answer(answer, &asked, legacy);
    }
    for line in choices.0.split(|byte| *byte == b'\n').take(DAMAGED_MAX) {
        check_damaged(line, legacy);
    }
    let n_asked = asked.len();
    assert!(answers.len() <= n_asked, "{} answers to {n_asked} lines that want one", answers.len());
}

/// Garbage is added to at most this many lines of each input.
const DAMAGED_MAX: usize = 4;

/// Adds garbage to a request, and checks that the answer still has the request's id.
fn check_damaged(line: &[u8], legacy: bool) {
    let Ok(RpcMessage::Request { id, .. }) = rpc::parse_line(line) else { return };
    // If a request has two `id` keys, or one with escapes, it is not clear which id the answer should have.
    if line.windows(4).filter(|bytes| bytes == br#""id""#).count() != 1 {
        return;
    }
    let replay = |line: &[u8], end: &[u8]| mcp::replay_detached(legacy, [line, end].into_iter());
    let damaged = answers(&replay(line, b"}\n"));
    assert_eq!(damaged.len(), 1, "{}", String::from_utf8_lossy(line));
    assert!(damaged[0]["error"].is_object() && damaged[0]["id"] == id, "{}", damaged[0]);
    let marked = replay(&[b"\xef\xbb\xbf", line].concat(), b"\n");
    assert_eq!(String::from_utf8_lossy(&marked), String::from_utf8_lossy(&replay(line, b"\n")));
}

/// All answers in the output, without notifications. The answers of a batch are listed one by one.
fn answers(output: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(output).expect("standard output is UTF-8");
    assert!(text.is_empty() || text.ends_with('\n'), "a line without an end");
    let mut found = Vec::new();
    for line in text.lines() {
        match serde_json::from_str(line).expect("a line is JSON") {
            Value::Array(batch) => found.extend(batch),
            one => found.push(one),
        }
    }
    found.retain(|one| one.get("method").is_none());
    found
}

/// All messages in the input. A line that is not a valid message gets an error, and is `None` here.
fn asked(input: &[u8]) -> Vec<Option<RpcMessage>> {
    let mut found = Vec::new();
    let mut lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    lines.pop();
    for line in lines.iter().filter(|line| !line.trim_ascii().is_empty()) {
        match serde_json::from_slice(line) {
            Ok(Value::Array(batch)) => {
                // The server either refuses a whole batch with one error, or answers each of its messages.
                found.push(None);
                found.extend(batch.into_iter().map(|one| rpc::parse_message(one).ok()));
            }
            _ => found.push(rpc::parse_line(line).ok()),
        }
    }
    found.retain(|one| !matches!(one, Some(RpcMessage::Notification { .. } | RpcMessage::Response { .. })));
    found
}

fn check_answer(answer: &Value, asked: &[Option<RpcMessage>], legacy: bool) {
    assert_eq!(answer["jsonrpc"], "2.0", "{answer}");
    let (result, error) = (answer.get("result"), answer.get("error"));
    assert!(result.is_some() != error.is_some(), "{answer}");
    if let Some(error) = error {
        assert!(error["code"].is_i64() && error["message"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
        assert_ne!(error["code"], rpc::INTERNAL_ERROR, "{answer}");
    }
    let Some(id) = answer.get("id") else { return assert!(error.is_some(), "{answer}") };
    let of_id = asked.iter().flatten().filter_map(|message| match message {
        RpcMessage::Request { id: asked, params, .. } if asked == id => Some(params),
        _ => None,
    });
    let of_id: Vec<_> = of_id.collect();
    if let ([params], Some(result)) = (&of_id[..], result) {
        let modern = params.get("_meta").is_some_and(|meta| meta.get(VERSION).is_some());
        assert_eq!(result.get("resultType").is_some(), modern, "{answer}");
        assert!(!(modern && legacy), "{answer}");
    }
}
