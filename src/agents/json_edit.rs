//! Changes one member or item of a JSON text and keeps every other byte: comments, order, spacing, number formats and
//! line ends.
//!
//! `jsonc-parser` finds the positions. Its own editor is not used, because it would spread a one-line object over
//! several lines, and this could not be undone.
//!
//! **Invariant:** valid JSON stays valid.

use crate::wire::lone_surrogate_json::replace_lone_surrogates;
use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, CommentCollectionStrategy, ParseOptions, parse_to_ast};
use serde_json::{Map, Value, json};
use std::ops::Range;

/// One step of the path to a value.
#[derive(Debug, Clone, Copy)]
pub enum PathStep<'a> {
    /// The step to a member of an object.
    Key(&'a str),
    /// The step to an item of an array.
    Item(usize),
}

/// The kind and the position of a value in the text.
struct Node {
    range: Range<usize>,
    kind: NodeKind,
    children: Vec<Child>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum NodeKind {
    Object,
    Array,
    Scalar,
}

/// A member of an object, or an item of an array. `start` is the position of the member's key, or of the item.
struct Child {
    key: Option<String>,
    start: usize,
    value: Range<usize>,
}

/// The accepted syntax: JSON with comments and trailing commas, because agents accept both in their settings.
const OPTIONS: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_trailing_commas: true,
    allow_loose_object_property_names: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

fn with_root<T>(text: &str, read: impl FnOnce(Option<&ast::Value>) -> T) -> Result<T, String> {
    let collect = CollectOptions { comments: CommentCollectionStrategy::Off, tokens: false };
    let error = match parse_to_ast(text, &collect, &OPTIONS) {
        Ok(parsed) => return Ok(read(parsed.value.as_ref())),
        Err(error) => error,
    };
    // `jsonc-parser` refuses a lone surrogate (half of an emoji), but agents write and accept lone surrogates. The
    // replacement has the same length, so all positions stay valid for the original text.
    let repaired = replace_lone_surrogates(text);
    match repaired.as_deref().map(|text| parse_to_ast(text, &collect, &OPTIONS)) {
        Some(Ok(parsed)) => Ok(read(parsed.value.as_ref())),
        _ => Err(format!("it is not valid JSON ({error})")),
    }
}

/// The value of a JSON text; null if the text has no value.
///
/// # Errors
/// If the text is not valid; the error contains the position.
pub fn parse(text: &str) -> Result<Value, String> {
    with_root(text, |root| root.map_or(Value::Null, value_of))
}

/// Whether `text` contains nothing but white space and comments.
pub fn is_blank(text: &str) -> bool {
    with_root(text, |root| root.is_none()).unwrap_or(false)
}

fn value_of(node: &ast::Value) -> Value {
    match node {
        ast::Value::StringLit(text) => Value::String(text.value.to_string()),
        // Numbers that serde_json refuses are compared as text.
        ast::Value::NumberLit(number) => serde_json::from_str(number.value).unwrap_or_else(|_| json!(number.value)),
        ast::Value::BooleanLit(flag) => Value::Bool(flag.value),
        ast::Value::NullKeyword(_) => Value::Null,
        ast::Value::Array(array) => Value::Array(array.elements.iter().map(value_of).collect()),
        ast::Value::Object(object) => {
            let members = object.properties.iter().map(|member| (member_name(member), value_of(&member.value)));
            Value::Object(members.collect::<Map<String, Value>>())
        }
    }
}

fn member_name(member: &ast::ObjectProp) -> String {
    match &member.name {
        ast::ObjectPropName::String(text) => text.value.to_string(),
        ast::ObjectPropName::Word(word) => word.value.to_owned(),
    }
}

fn range_of(node: &impl Ranged) -> Range<usize> {
    let range = node.range();
    range.start..range.end
}

fn node_of(value: &ast::Value) -> Node {
    let (kind, children) = match value {
        ast::Value::Object(object) => {
            let child = |member: &ast::ObjectProp| Child {
                key: Some(member_name(member)),
                start: member.range().start,
                value: range_of(&member.value),
            };
            (NodeKind::Object, object.properties.iter().map(child).collect())
        }
        ast::Value::Array(array) => {
            let child = |item: &ast::Value| Child { key: None, start: item.range().start, value: range_of(item) };
            (NodeKind::Array, array.elements.iter().map(child).collect())
        }
        _ => (NodeKind::Scalar, Vec::new()),
    };
    Node { range: range_of(value), kind, children }
}

/// The value at a path. If several members have the same name, the last one is used, because agents use the last one
/// too.
fn find(text: &str, path: &[PathStep]) -> Option<Node> {
    with_root(text, |root| {
        let mut value = root?;
        for step in path {
            value = match (value, step) {
                (ast::Value::Object(object), PathStep::Key(key)) => {
                    &object.properties.iter().rev().find(|member| member_name(member) == *key)?.value
                }
                (ast::Value::Array(array), PathStep::Item(n)) => array.elements.get(*n)?,
                _ => return None,
            };
        }
        Some(node_of(value))
    })
    .ok()?
}

/// Sets the value at a path. Missing members of the path are appended. If the path already has this value, the text
/// stays unchanged.
///
/// # Errors
/// If something on the path is not an object; the error names it.
pub fn put(text: &str, path: &[PathStep], value: &Value) -> Result<String, String> {
    for n in 0..path.len() {
        if find(text, &path[..=n]).is_some() {
            continue;
        }
        let above = find(text, &path[..n]).ok_or("it has no value")?;
        let PathStep::Key(key) = path[n] else { return Err("there is no such item".into()) };
        if above.kind != NodeKind::Object {
            return Err(format!("{} is not an object", shown(&path[..n])));
        }
        let inner = path[n + 1..].iter().rev().fold(value.clone(), |inner, step| match step {
            PathStep::Key(key) => json!({ *key: inner }),
            PathStep::Item(_) => json!([inner]),
        });
        return Ok(append(text, &above, Some(key), &inner));
    }
    let found = find(text, path).ok_or("it has no value")?;
    let old = &text[found.range.clone()];
    if parse(old).is_ok_and(|old| old == *value) {
        return Ok(text.to_owned());
    }
    let spreads = old.contains('\n') || spreads_over_lines(text);
    let new = render(text, value, margin(text, found.range.start), spreads);
    Ok(format!("{}{new}{}", &text[..found.range.start], &text[found.range.end..]))
}

fn shown(path: &[PathStep]) -> String {
    let key = |step: &PathStep| match step {
        PathStep::Key(key) => (*key).to_owned(),
        PathStep::Item(n) => n.to_string(),
    };
    if path.is_empty() {
        return "its top level".into();
    }
    format!("\"{}\"", path.iter().map(key).collect::<Vec<_>>().join("."))
}

/// Appends an item to the array at a path, and creates the array if it is missing.
///
/// # Errors
/// If the value at the path is not an array; the error names it.
pub fn push(text: &str, path: &[PathStep], value: &Value) -> Result<String, String> {
    match find(text, path) {
        None => put(text, path, &json!([value])),
        Some(node) if node.kind == NodeKind::Array => Ok(append(text, &node, None, value)),
        Some(_) => Err(format!("{} is not a list", shown(path))),
    }
}

/// Removes the value at a path, together with its comma. Comments beside the value stay.
pub fn remove(text: &str, path: &[PathStep]) -> String {
    let unchanged = || text.to_owned();
    let Some((last, above)) = path.split_last() else { return unchanged() };
    let Some(node) = find(text, above) else { return unchanged() };
    let fits = |(n, child): (usize, &Child)| match last {
        PathStep::Key(key) => child.key.as_deref() == Some(key),
        PathStep::Item(wanted) => child.key.is_none() && n == *wanted,
    };
    let Some(n) = (0..node.children.len()).rev().find(|n| fits((*n, &node.children[*n]))) else { return unchanged() };
    remove_child(text, &node, n)
}

fn remove_child(text: &str, node: &Node, n: usize) -> String {
    let child = &node.children[n];
    let comma = comma_after(text, child.value.end);
    let previous = n.checked_sub(1).map(|n| &node.children[n]);
    // The user's comments between the value and its comma are kept.
    let kept = comma.map_or("", |comma| text[child.value.end..comma].trim_matches(is_space));
    let space = &text[..child.start];
    let space = &space[space.trim_end_matches(is_space).len()..];
    let start = match space.rfind('\n') {
        // If the member is alone on its line, the whole line is removed.
        Some(at) if kept.is_empty() => child.start - space.len() + at - usize::from(space[..at].ends_with('\r')),
        None if comma.is_none() && previous.is_some() => child.start - space.len(),
        _ => child.start,
    };
    let mut end = comma.map_or(child.value.end, |comma| comma + 1);
    if !space.contains('\n') && comma.is_some() {
        end += text[end..].len() - text[end..].trim_start_matches([' ', '\t']).len();
    }
    // A `//` comment extends to the end of its line, so the text after the comma must begin on a new line.
    let gap = if kept.rsplit('\n').next().is_some_and(|line| line.contains("//")) { end_of_line(text) } else { "" };
    let mut left = format!("{}{kept}{gap}{}", &text[..start], &text[end..]);
    // After the last member is removed, the comma after the previous member is no longer needed.
    if comma.is_none()
        && let Some(comma) = previous.and_then(|previous| comma_after(text, previous.value.end))
    {
        left.remove(comma);
    }
    let inside = node.range.start + 1..node.range.end - 1 + left.len() - text.len();
    if left[inside.clone()].chars().all(is_space) {
        left.replace_range(inside, "");
    }
    left
}

/// Whether JSON allows this character as white space.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// Returns the position after the white space and comments that begin at `at`. If `on_line` is true, looks only at the
/// rest of the line. In this case, returns the position after the last comment, or `at` if there is no comment.
fn after_trivia(text: &str, at: usize, on_line: bool) -> usize {
    let mut end = at;
    let mut next = at;
    loop {
        let rest = &text[next..];
        let comment = if rest.starts_with("//") {
            rest.find('\n').map_or(rest.len(), |n| n - usize::from(rest[..n].ends_with('\r')))
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |n| n + 2)
        } else {
            0
        };
        if comment > 0 {
            next += comment;
            end = next;
            continue;
        }
        match rest.chars().next() {
            Some('\n' | '\r') if on_line => return end,
            Some(c) if is_space(c) => next += 1,
            _ => return if on_line { end } else { next },
        }
    }
}

/// The position of the comma after a value.
fn comma_after(text: &str, end: usize) -> Option<usize> {
    let at = after_trivia(text, end, false);
    text[at..].starts_with(',').then_some(at)
}

/// Appends a member or an item in the style of the surrounding text.
fn append(text: &str, node: &Node, key: Option<&str>, value: &Value) -> String {
    let line = end_of_line(text);
    let head = key.map_or_else(String::new, |key| format!("{}: ", json!(key)));
    let inside = &text[node.range.clone()];
    match node.children.last() {
        Some(last) if inside.contains('\n') => {
            let comma = comma_after(text, last.value.end);
            let place = after_trivia(text, comma.map_or(last.value.end, |comma| comma + 1), true);
            let margin = margin(text, last.start);
            let new = render(text, value, margin, true);
            let (before, behind) = if comma.is_some() { ("", ",") } else { (",", "") };
            let (head_of_text, rest) = text.split_at(last.value.end);
            let (same_line, rest) = rest.split_at(place - last.value.end);
            format!("{head_of_text}{before}{same_line}{line}{margin}{head}{new}{behind}{rest}")
        }
        Some(last) => {
            let gap = if inside.contains(", ") || inside.contains(": ") { " " } else { "" };
            let head = if gap.is_empty() { head.replace(": ", ":") } else { head };
            let Some(comma) = comma_after(text, last.value.end) else {
                let (before, rest) = text.split_at(last.value.end);
                return format!("{before},{gap}{head}{value}{rest}");
            };
            // The comma after the user's last value keeps its place, and so do the comments before the comma.
            let (before, rest) = text.split_at(comma + 1);
            let gap = if rest.starts_with(' ') { " " } else { "" };
            format!("{before}{gap}{head}{value},{rest}")
        }
        None => append_first(text, node, &head, value),
    }
}

fn append_first(text: &str, node: &Node, head: &str, value: &Value) -> String {
    let line = end_of_line(text);
    let (start, end) = (node.range.start + 1, node.range.end - 1);
    let comments = text[start..end].trim_end_matches(is_space);
    if comments.is_empty() && !spreads_over_lines(text) {
        return format!("{}{}{value}{}", &text[..start], head.replace(": ", ":"), &text[end..]);
    }
    let outer = margin(text, node.range.start);
    let inner = format!("{outer}{}", indent_unit(text));
    let new = render(text, value, &inner, true);
    let before = &text[..start + comments.len()];
    format!("{before}{line}{inner}{head}{new}{line}{outer}{}", &text[end..])
}

/// Whether new members get lines of their own. This is the case if the text has several lines, is empty, or is `{}`.
fn spreads_over_lines(text: &str) -> bool {
    let inside = text.trim();
    inside.contains('\n') || inside.len() <= 2
}

fn end_of_line(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

/// The white space at the start of the line that contains this position.
fn margin(text: &str, at: usize) -> &str {
    let start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let line = &text[start..at];
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

/// One step of indentation, taken from the first member that begins a line.
fn indent_unit(text: &str) -> &str {
    let first = find(text, &[]).and_then(|root| root.children.first().map(|child| margin(text, child.start)));
    first.filter(|unit| !unit.is_empty()).unwrap_or("  ")
}

fn render(text: &str, value: &Value, margin: &str, spreads: bool) -> String {
    if !spreads {
        return value.to_string();
    }
    // A JSON string contains no line ends, so white space at the start of a line is always indentation.
    let pretty = format!("{value:#}");
    let lines = pretty.split('\n').enumerate().map(|(n, line)| {
        let inner = line.trim_start_matches(' ');
        let steps = (line.len() - inner.len()) / 2;
        format!("{}{}{inner}", if n == 0 { "" } else { margin }, indent_unit(text).repeat(steps))
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
            "// mine\n{\n  // first\n  \"a\": 1, // about a\n  /* b */ \"b\": [ 1, /* two */ 2, ],\n}\n// end\n",
            "{\n  \"a\": 1 // about a\n  // last\n}\n",
            "{ // nothing yet\n}\n",
            "{\n  \"mcpServers\": {\n    \"x\": {}, // x, {\n  },\n}",
            "/* a { */ {\"a\": \"//\" /* , */}",
            "{\"mcpServers\":{\"x\":1/*c*/,/*d*/}}",
            "{\"mcpServers\": {\"x\": 1 /*c*/, }, }",
        ];
        for text in texts {
            let path = [PathStep::Key("mcpServers"), PathStep::Key("slm-mesh")];
            let value = json!({ "command": "/a b/slm-mesh", "args": ["mcp"] });
            let put_in = put(text, &path, &value).unwrap();
            let parsed = parse(&put_in).unwrap_or_else(|error| panic!("{error}: {put_in}"));
            assert_eq!(parsed["mcpServers"]["slm-mesh"], value, "{put_in}");
            assert_eq!(put(&put_in, &path, &value).unwrap(), put_in, "again changes nothing");
            assert_eq!(put_in.contains('\t'), text.contains('\t'));
            let had = parse(text).unwrap().get("mcpServers").is_some();
            let path = if had { &path[..] } else { &path[..1] };
            let removed = remove(&put_in, path);
            assert_eq!(removed, text, "removed from {put_in}");
        }
    }

    #[test]
    fn half_a_character_in_the_text_stays_as_it_is() {
        let text = r#"{ "a": "look \ud83d", "b": {} }"#;
        let path = [PathStep::Key("b"), PathStep::Key("c")];
        let put_in = put(text, &path, &json!(1)).unwrap();
        assert_eq!(put_in, r#"{ "a": "look \ud83d", "b": {"c":1} }"#);
        assert_eq!(remove(&put_in, &path), text);
        assert_eq!(parse(text).unwrap()["a"], "look \u{fffd}");
    }

    #[test]
    fn items_go_in_and_out_of_lists() {
        let text = "{\n  \"hooks\": {\n    \"Stop\": [\n      { \"x\": 1 }\n    ]\n  }\n}\n";
        let path = [PathStep::Key("hooks"), PathStep::Key("Stop")];
        let two = push(text, &path, &json!({ "y": [] })).unwrap();
        assert_eq!(two, text.replace("{ \"x\": 1 }", "{ \"x\": 1 },\n      {\n        \"y\": []\n      }"));
        assert_eq!(remove(&two, &[path[0], path[1], PathStep::Item(1)]), text);
        let first_gone = remove(&two, &[path[0], path[1], PathStep::Item(0)]);
        assert_eq!(parse(&first_gone).unwrap(), json!({ "hooks": { "Stop": [{ "y": [] }] } }));
        assert!(push("{\"hooks\":{\"Stop\":3}}", &path, &json!(1)).is_err());
        assert!(put("[]", &path, &json!(1)).unwrap_err().contains("top"));
    }

    #[test]
    fn comments_beside_a_removed_member_stay() {
        let text = "{\n  // keep\n  \"a\": 1, // and this\n  \"b\": 2\n}\n";
        assert_eq!(remove(text, &[PathStep::Key("a")]), "{\n  // keep // and this\n  \"b\": 2\n}\n");
        assert_eq!(remove(text, &[PathStep::Key("b")]), "{\n  // keep\n  \"a\": 1 // and this\n}\n");
        for (text, left) in [
            ("{\"a\":1,\"b\":2/*c*/,/*d*/}", "{\"a\":1,/*c*//*d*/}"),
            ("{\n  \"a\": 1,\n  \"b\": 2 /*c*/,\n  \"d\": 3\n}\n", "{\n  \"a\": 1,\n  /*c*/\n  \"d\": 3\n}\n"),
            ("{\"a\": 1, \"b\": 2 // c\n, \"d\": 3}", "{\"a\": 1, // c\n\"d\": 3}"),
            ("{\"b\": 2/*c*/,}", "{/*c*/}"),
        ] {
            assert_eq!(remove(text, &[PathStep::Key("b")]), left);
            assert!(parse(left).is_ok(), "{left}");
        }
    }
}
