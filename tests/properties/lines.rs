//! Lines and the messages in them, as sessions and the broker read them.
//!
//! However a stream is cut, its lines are the same; a line is a message that can be written and read
//! again, or an error that says which.

use crate::feed::{Feed, pieces};
use serde_json::Value;
use slm_mesh::wire::lines::{LINE_MAX, Lines};
use slm_mesh::wire::rpc::{self, Bad, Message};

/// First byte: how the stream is cut; its highest bit makes every line begin with a megabyte.
pub fn check(data: &[u8]) {
    let mut feed = Feed(data);
    let how = feed.byte();
    let stream = feed.0;
    let padded;
    let stream = if how & 0x80 != 0 && stream.iter().filter(|byte| **byte == b'\n').count() < 4 {
        let lines: Vec<&[u8]> = stream.split(|byte| *byte == b'\n').collect();
        let pad = vec![b'x'; LINE_MAX - usize::from(how & 0x3f)];
        padded = lines.iter().map(|line| [&pad, *line].concat()).collect::<Vec<_>>().join(&b'\n');
        padded.as_slice()
    } else {
        stream
    };
    let seen = cut(&pieces(stream, how & 0x7f));
    assert_eq!(seen, wanted(stream), "cut by {how}");
    for line in seen.iter().flatten() {
        check_line(line);
    }
}

/// The lines that come out; `None` for one that is too long.
fn cut(pieces: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
    let (mut lines, mut found, mut skipping) = (Lines::default(), Vec::new(), false);
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

/// The same in one piece, as one would write it down first.
fn wanted(stream: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut lines: Vec<&[u8]> = stream.split(|byte| *byte == b'\n').collect();
    // What stands behind the last line end is no line yet, unless it is too long to become one.
    let last = lines.pop().unwrap_or_default();
    let one = |line: &[u8]| (line.len() <= LINE_MAX).then(|| line.strip_suffix(b"\r").unwrap_or(line).to_vec());
    let rest = (last.len() > LINE_MAX).then_some(None);
    lines.into_iter().map(one).chain(rest).collect()
}

fn check_line(line: &[u8]) {
    match rpc::read(line) {
        Ok(message) => {
            let again = rpc::read(write(&message).trim_end().as_bytes()).expect("what was written can be read");
            assert_eq!(rounded(&write(&again)), rounded(&write(&message)), "written and read again");
            if let Message::Response { id, result: Err(error) } = message {
                check_fault(&id, &error);
            }
        }
        Err(bad) => check_bad(&bad),
    }
}

/// A line without the last digits of its fractions, which may change by one when they are read.
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

fn write(message: &Message) -> String {
    match message {
        Message::Request { id, method, params } => rpc::request(id, method, &Value::Object(params.clone())),
        Message::Notice { method, params } => rpc::notice(method, &Value::Object(params.clone())),
        Message::Response { id, result: Ok(result) } => rpc::answer(id, result),
        Message::Response { id, result: Err(error) } => {
            rpc::line(&serde_json::json!({ "jsonrpc": "2.0", "id": id, "error": error }))
        }
    }
}

fn check_bad(bad: &Bad) {
    assert!([rpc::PARSE, rpc::INVALID, rpc::PARAMS].contains(&bad.code), "{bad:?}");
    let line = rpc::protocol_error(bad.id.as_ref(), bad.code, &bad.text);
    let answer: Value = serde_json::from_str(&line).expect("an error is a line of JSON");
    assert_eq!(answer["id"], bad.id.clone().unwrap_or(Value::Null));
    assert_eq!(line.matches('\n').count(), 1, "{line:?}");
}

/// An error that came over the wire goes out again as it came.
fn check_fault(id: &Value, error: &Value) {
    let error = rpc::read_error(error);
    let line = rpc::error(id, &error);
    let again: Value = serde_json::from_str(&line).expect("an error is a line of JSON");
    assert_eq!(rounded(&rpc::error(id, &rpc::read_error(&again["error"]))), rounded(&line));
}
