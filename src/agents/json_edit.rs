//! Changes in a JSON text that leave every other byte where it is: order, spacing, number formats
//! and line ends of whoever wrote it.
//!
//! **Invariant:** the text was parsed before, so it is valid; what is put in keeps it so.

use serde_json::{Value, json};
use std::ops::Range;

/// A step down into a value.
#[derive(Debug, Clone, Copy)]
pub enum At<'a> {
    /// Into an object's member.
    Key(&'a str),
    /// Into an array's item.
    Item(usize),
}

/// A member or an item: where it begins (with its key), and its value.
struct Part {
    key: Option<String>,
    start: usize,
    value: Range<usize>,
}

/// Puts a value at a path; members that are missing on the way are created at the end of theirs.
/// A value that is equal already leaves the text as it is.
///
/// # Errors
/// When something on the way is not an object, in words.
pub fn put(text: &str, path: &[At], value: &Value) -> Result<String, String> {
    let mut at = whole(text);
    for (n, step) in path.iter().enumerate() {
        let At::Key(key) = step else {
            at = child(text, &at, *step).ok_or("there is no such item")?;
            continue;
        };
        if text.as_bytes().get(at.start) != Some(&b'{') {
            let before: Vec<&str> =
                path[..n].iter().filter_map(|step| if let At::Key(key) = step { Some(*key) } else { None }).collect();
            let what = if before.is_empty() { "its top".to_owned() } else { format!("\"{}\"", before.join(".")) };
            return Err(format!("{what} is not an object"));
        }
        match child(text, &at, *step) {
            Some(range) => at = range,
            None => {
                let keys = path[n + 1..].iter().rev();
                let inner = keys.fold(value.clone(), |inner, step| match step {
                    At::Key(key) => json!({ *key: inner }),
                    At::Item(_) => json!([inner]),
                });
                return Ok(insert(text, &at, Some(key), &inner));
            }
        }
    }
    if serde_json::from_str::<Value>(&text[at.clone()]).is_ok_and(|old| old == *value) {
        return Ok(text.to_owned());
    }
    let new = render(text, value, margin(text, at.start), text[at.clone()].contains('\n') || is_tall(text));
    Ok(format!("{}{new}{}", &text[..at.start], &text[at.end..]))
}

/// Appends an item to the array at a path, which is created if it is missing.
///
/// # Errors
/// When there is something else in its place, in words.
pub fn push(text: &str, path: &[At], value: &Value) -> Result<String, String> {
    match find(text, path) {
        None => put(text, path, &json!([value])),
        Some(at) if text.as_bytes()[at.start] == b'[' => Ok(insert(text, &at, None, value)),
        Some(_) => Err("an event's hooks are not a list".into()),
    }
}

/// Takes out what is at a path, with the comma that it needed.
pub fn remove(text: &str, path: &[At]) -> String {
    let Some((last, above)) = path.split_last() else { return text.to_owned() };
    let Some(at) = find(text, above) else { return text.to_owned() };
    let parts = parts(text, &at);
    let found = parts.iter().enumerate().position(|(n, part)| fits(*last, n, part));
    let Some(n) = found else { return text.to_owned() };
    let gone = match (n, parts.get(n + 1)) {
        (0, None) => at.start + 1..at.end - 1,
        (0, Some(next)) => parts[0].start..next.start,
        (n, _) => parts[n - 1].value.end..parts[n].value.end,
    };
    format!("{}{}", &text[..gone.start], &text[gone.end..])
}

/// Where the value at a path is.
fn find(text: &str, path: &[At]) -> Option<Range<usize>> {
    path.iter().try_fold(whole(text), |at, step| child(text, &at, *step))
}

fn whole(text: &str) -> Range<usize> {
    let start = white(text, 0);
    start..end_of(text, start)
}

fn child(text: &str, at: &Range<usize>, step: At) -> Option<Range<usize>> {
    let parts = parts(text, at);
    let found = parts.iter().enumerate().rev().find(|(n, part)| fits(step, *n, part));
    found.map(|(_, part)| part.value.clone())
}

fn fits(step: At, n: usize, part: &Part) -> bool {
    match step {
        At::Key(key) => part.key.as_deref() == Some(key),
        At::Item(wanted) => part.key.is_none() && n == wanted,
    }
}

/// The members of an object or the items of an array; none of anything else.
fn parts(text: &str, at: &Range<usize>) -> Vec<Part> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let is_object = bytes.get(at.start) == Some(&b'{');
    if !is_object && bytes.get(at.start) != Some(&b'[') {
        return found;
    }
    let mut next = white(text, at.start + 1);
    while next < at.end - 1 {
        let start = next;
        let mut key = None;
        if is_object {
            let end = end_of(text, next);
            key = serde_json::from_str(&text[next..end]).ok();
            // Past the colon.
            next = white(text, white(text, end) + 1);
        }
        let value = next..end_of(text, next);
        next = white(text, value.end);
        if bytes.get(next) == Some(&b',') {
            next = white(text, next + 1);
        }
        found.push(Part { key, start, value });
    }
    found
}

fn white(text: &str, at: usize) -> usize {
    at + text.as_bytes()[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

/// Where the value that begins at `at` ends.
fn end_of(text: &str, at: usize) -> usize {
    let bytes = text.as_bytes();
    let (mut n, mut depth, mut quoted) = (at, 0_usize, false);
    while let Some(byte) = bytes.get(n) {
        match (quoted, byte) {
            (true, b'\\') => n += 1,
            (true, b'"') => quoted = false,
            (true, _) => {}
            (false, b'"') => quoted = true,
            (false, b'{' | b'[') => depth += 1,
            (false, b'}' | b']') if depth == 0 => return n,
            (false, b'}' | b']') => depth -= 1,
            (false, b',' | b':') if depth == 0 => return n,
            (false, byte) if depth == 0 && byte.is_ascii_whitespace() => return n,
            _ => {}
        }
        n += 1;
        if depth == 0 && !quoted && matches!(byte, b'"' | b'}' | b']') {
            return n;
        }
    }
    n
}

/// Adds a member or an item at the end of what is at `at`, in the manner of the text around it.
fn insert(text: &str, at: &Range<usize>, key: Option<&str>, value: &Value) -> String {
    let parts = parts(text, at);
    let head = key.map_or_else(String::new, |key| format!("{}: ", json!(key)));
    let line = end_of_line(text);
    match parts.last() {
        Some(last) if text[at.clone()].contains('\n') => {
            let margin = margin(text, last.start);
            let new = render(text, value, margin, true);
            let place = last.value.end;
            format!("{},{line}{margin}{head}{new}{}", &text[..place], &text[place..])
        }
        Some(last) => {
            let gap = if text[at.clone()].contains(", ") || text[at.clone()].contains(": ") { " " } else { "" };
            let place = last.value.end;
            let head = if gap.is_empty() { head.replace(": ", ":") } else { head };
            format!("{},{gap}{head}{value}{}", &text[..place], &text[place..])
        }
        None if is_tall(text) => {
            let outer = margin(text, at.start).to_owned();
            let inner = format!("{outer}{}", unit(text));
            let new = render(text, value, &inner, true);
            let (open, close) = (&text[at.start..=at.start], &text[at.end - 1..at.end]);
            format!("{}{open}{line}{inner}{head}{new}{line}{outer}{close}{}", &text[..at.start], &text[at.end..])
        }
        None => format!("{}{}{value}{}", &text[..at.start + 1], head.replace(": ", ":"), &text[at.end - 1..]),
    }
}

/// Whether the text spreads over lines; one that is empty yet may.
fn is_tall(text: &str) -> bool {
    let inside = text.trim();
    inside.contains('\n') || inside.len() <= 2
}

fn end_of_line(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

/// The white space at the head of the line in which something stands.
fn margin(text: &str, at: usize) -> &str {
    let start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let line = &text[start..at];
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

/// One step of indentation: that of the first line that has one.
fn unit(text: &str) -> &str {
    let indented = text.lines().find(|line| line.starts_with([' ', '\t']) && !line.trim().is_empty());
    indented.map_or("  ", |line| &line[..line.len() - line.trim_start().len()])
}

fn render(text: &str, value: &Value, margin: &str, tall: bool) -> String {
    if !tall {
        return value.to_string();
    }
    // Strings hold no line ends, so that what stands before a line's first sign is indentation.
    let pretty = format!("{value:#}");
    let lines = pretty.split('\n').enumerate().map(|(n, line)| {
        let inner = line.trim_start_matches(' ');
        let steps = (line.len() - inner.len()) / 2;
        format!("{}{}{inner}", if n == 0 { "" } else { margin }, unit(text).repeat(steps))
    });
    lines.collect::<Vec<_>>().join(end_of_line(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out_again_without_a_trace() {
        let texts = [
            "{}\n",
            "{\n  \"a\": 1\n}\n",
            "{\r\n\t\"a\": [1, 2],\r\n\t\"a\": 1.50e3\r\n}",
            "{\n    \"mcpServers\": {\n        \"x\": {\"command\": \"y\", \"args\": []}\n    },\n    \"z\": \"\\u0041,{[\"\n}\n",
            "{\"a\":1,\"b\":{\"c\":[]}}",
            "{ \"mcpServers\": { \"x\": 1 } }\n",
            "{\n  \"mcpServers\": {}\n}\n",
        ];
        for text in texts {
            let path = [At::Key("mcpServers"), At::Key("slm-mesh")];
            let value = json!({ "command": "/a b/slm-mesh", "args": ["mcp"] });
            let put_in = put(text, &path, &value).unwrap();
            let parsed: Value = serde_json::from_str(&put_in).unwrap_or_else(|error| panic!("{error}: {put_in}"));
            assert_eq!(parsed["mcpServers"]["slm-mesh"], value, "{put_in}");
            assert_eq!(put(&put_in, &path, &value).unwrap(), put_in, "again changes nothing");
            assert_eq!(put_in.contains('\t'), text.contains('\t'));
            assert_eq!(
                put_in.replace("\r\n", "").contains('\n'),
                text.replace("\r\n", "").contains('\n'),
                "{put_in:?}"
            );
            let had = serde_json::from_str::<Value>(text).unwrap().get("mcpServers").is_some();
            let path = if had { &path[..] } else { &path[..1] };
            assert_eq!(remove(&put_in, path), text);
        }
    }

    #[test]
    fn items_go_in_and_out_of_lists() {
        let text = "{\n  \"hooks\": {\n    \"Stop\": [\n      { \"x\": 1 }\n    ]\n  }\n}\n";
        let path = [At::Key("hooks"), At::Key("Stop")];
        let two = push(text, &path, &json!({ "y": [] })).unwrap();
        assert_eq!(two, text.replace("{ \"x\": 1 }", "{ \"x\": 1 },\n      {\n        \"y\": []\n      }"));
        assert_eq!(remove(&two, &[path[0], path[1], At::Item(1)]), text);
        let first_gone = remove(&two, &[path[0], path[1], At::Item(0)]);
        assert_eq!(serde_json::from_str::<Value>(&first_gone).unwrap(), json!({ "hooks": { "Stop": [{ "y": [] }] } }));
        assert!(push("{\"hooks\":{\"Stop\":3}}", &path, &json!(1)).is_err());
        assert!(put("[]", &path, &json!(1)).unwrap_err().contains("top"));
    }
}
