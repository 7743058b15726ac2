//! Parses malformed input from clients if its meaning is certain. Also finds the id of a call that can't be parsed. So
//! the client gets an error and need not wait for its own timeout.

use super::ProtocolError;
use crate::wire::lone_surrogate_json;
use crate::wire::rpc::{self, InvalidMessage};
use serde_json::{Map, Value, json};

/// U+FEFF in UTF-8. Editors and Windows shells write this character before the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Returns the line without a byte order mark.
pub fn without_byte_order_mark(line: &[u8]) -> &[u8] {
    line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line)
}

/// Parses a line. Half an emoji (a lone surrogate) becomes U+FFFD, and an id such as `5.0` becomes `5`.
///
/// # Errors
/// If the line is not JSON. The error contains the call's id if the id can be found.
pub fn parse(line: &[u8]) -> Result<Value, InvalidMessage> {
    let bad = |text: String| InvalidMessage { id: find_id(line), code: rpc::PARSE_ERROR, text };
    let text = std::str::from_utf8(line).map_err(|_| bad("the line is not UTF-8".into()))?;
    let mut value = lone_surrogate_json::parse(text).map_err(|error| bad(format!("the line is not JSON: {error}")))?;
    match &mut value {
        Value::Array(batch) => batch.iter_mut().for_each(make_id_whole),
        one => make_id_whole(one),
    }
    Ok(value)
}

/// Returns the arguments of a tool call. They are an object, or a string that contains a JSON object. `null`, `""` and
/// `[]` mean that there are no arguments.
pub fn tool_arguments(given: Option<Value>) -> Result<Map<String, Value>, ProtocolError> {
    let given = match given {
        Some(Value::String(text)) if text.trim().is_empty() => None,
        Some(Value::String(text)) => serde_json::from_str(&text).ok().or(Some(Value::String(text))),
        given => given,
    };
    match given {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(arguments)) => Ok(arguments),
        Some(Value::Array(list)) if list.is_empty() => Ok(Map::new()),
        Some(_) => Err(ProtocolError::new(rpc::INVALID_PARAMS, "arguments: expected an object")),
    }
}

fn make_id_whole(message: &mut Value) {
    let Some(id) = message.get_mut("id") else { return };
    if let Some(float) = id.as_f64().filter(|float| id.is_f64() && float.fract() == 0.0 && float.abs() < 9e15) {
        *id = json!(float as i64);
    }
}

/// Finds the `id` of the outermost object in a line. The line may be malformed, or only the beginning of a JSON text.
pub fn find_id(line: &[u8]) -> Option<Value> {
    let mut depth = 0usize;
    let mut at = 0;
    while at < line.len() {
        match line[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let end = string_end(line, at)?;
                let rest = line[end..].trim_ascii_start();
                if depth == 1
                    && &line[at..end] == br#""id""#
                    && let Some(value) = rest.strip_prefix(b":")
                {
                    return read_id(value.trim_ascii_start());
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Returns the position after the closing quote of the string that begins at `start`.
fn string_end(line: &[u8], start: usize) -> Option<usize> {
    let mut is_escaped = false;
    let length = line[start + 1..].iter().position(|byte| {
        let is_end = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_end
    })?;
    Some(start + length + 2)
}

/// Parses the string or whole number at the start of these bytes.
fn read_id(bytes: &[u8]) -> Option<Value> {
    let is_end = |byte: &u8| matches!(byte, b',' | b'}') || byte.is_ascii_whitespace();
    let end = match bytes.first()? {
        b'"' => string_end(bytes, 0)?,
        _ => bytes.iter().position(is_end)?,
    };
    let id: Value = serde_json::from_slice(&bytes[..end]).ok()?;
    (id.is_string() || id.is_i64() || id.is_u64()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_found_in_what_is_no_json() {
        for (line, want) in [
            (&br#"{"jsonrpc":"2.0","id":7,"params":{"a":NaN}}"#[..], json!(7)),
            (br#"{"params":{"id":1,"t":"\"id\":2"},"id" : "x\"y" ,}"#, json!("x\"y")),
            (b"{\"id\":3,\"t\":\"\xff\"}", json!(3)),
            (br#"{"id":4,"cut":"off"#, json!(4)),
            (br#"{"params":{"id":1}}"#, Value::Null),
            (br#"{"id":1.5,"x":}"#, Value::Null),
            (br#"{"id":12"#, Value::Null),
            (b"\"id\":1", Value::Null),
        ] {
            let found = find_id(line).unwrap_or_default();
            assert_eq!(found, want, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn arguments_that_mean_an_object_are_one() {
        for given in [None, Some(json!(null)), Some(json!("")), Some(json!(" {} ")), Some(json!({})), Some(json!([]))] {
            assert_eq!(tool_arguments(given.clone()).unwrap(), Map::new(), "{given:?}");
        }
        assert_eq!(tool_arguments(Some(json!(r#"{"a":1}"#))).unwrap()["a"], json!(1));
        for given in [json!(5), json!("text"), json!("[1]"), json!([{}]), json!(false)] {
            assert!(tool_arguments(Some(given.clone())).is_err(), "{given}");
        }
    }
}
