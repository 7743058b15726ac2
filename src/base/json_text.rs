//! Formats JSON values as text. The `Display` of [`Value`] gives the same text, but needs more than twice as many
//! instructions as these functions.

use super::untrusted_text;
use serde_json::Value;
use std::io;

/// The text of a value.
pub fn json_text(value: &Value) -> String {
    JsonLine::default().value(value).finish()
}

/// A text that is put together from JSON values and from text that is JSON already.
#[derive(Debug)]
pub struct JsonLine(Vec<u8>);

impl Default for JsonLine {
    fn default() -> JsonLine {
        JsonLine(Vec::with_capacity(128))
    }
}

impl JsonLine {
    /// Appends text that is JSON, or a part of it.
    pub fn text(mut self, json: &str) -> JsonLine {
        self.0.extend_from_slice(json.as_bytes());
        self
    }

    /// Appends the text of a value.
    pub fn value(mut self, value: &Value) -> JsonLine {
        // An error is impossible: writing to memory always succeeds, and the keys of a `Value` are strings.
        let _ = serde_json::to_writer(&mut self, value);
        self
    }

    /// The whole text.
    pub fn finish(self) -> String {
        // An error is impossible, because only strings were appended.
        String::from_utf8(self.0).unwrap_or_default()
    }
}

// serde_json writes many pieces of a single byte, such as quotes. For them, `Vec::push` takes a fraction of the time of
// the `Vec::extend_from_slice` that `Vec` itself uses as a writer.
impl io::Write for JsonLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    #[inline(always)]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match bytes {
            [byte] => self.0.push(*byte),
            _ => self.0.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The length of the text of a value, in bytes.
pub fn json_length(value: &Value) -> usize {
    length_by(value, <[u8]>::len)
}

/// The length that the text of a value has in a tool result, in bytes. There, [`untrusted_text::visible_json`] escapes
/// invisible characters, so the text can be six times as long as the text from [`json_text`].
pub fn visible_json_length(value: &Value) -> usize {
    // serde_json writes the text in pieces and never cuts a character, so each piece is UTF-8.
    length_by(value, |bytes| str::from_utf8(bytes).map_or(bytes.len(), untrusted_text::visible_length))
}

/// The sum of the lengths of all pieces that make up the text of a value.
fn length_by(value: &Value, length: fn(&[u8]) -> usize) -> usize {
    let separators = |n: usize| n.saturating_sub(1);
    match value {
        Value::String(text) if is_written_as_it_is(text) => text.len() + QUOTES,
        Value::Array(items) => {
            let items_length: usize = items.iter().map(|item| length_by(item, length)).sum();
            BRACKETS + separators(items.len()) + items_length
        }
        Value::Object(fields) if fields.keys().all(|name| is_written_as_it_is(name)) => {
            let field_length =
                |(name, value): (&String, &Value)| name.len() + QUOTES + COLON + length_by(value, length);
            BRACKETS + separators(fields.len()) + fields.iter().map(field_length).sum::<usize>()
        }
        // serde_json formats everything else.
        _ => {
            let mut counter = LengthCounter { length, sum: 0 };
            // An error is impossible, for the same reasons as in `JsonLine::value`.
            let _ = serde_json::to_writer(&mut counter, value);
            counter.sum
        }
    }
}

/// The lengths of what surrounds the parts of a value.
const QUOTES: usize = 2;
const BRACKETS: usize = 2;
const COLON: usize = 1;

/// Whether a string contains only characters that JSON and [`untrusted_text::visible_json`] write as they are.
fn is_written_as_it_is(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\')
}

/// Adds up the lengths of the bytes that are written, but does not keep the bytes.
struct LengthCounter {
    length: fn(&[u8]) -> usize,
    sum: usize,
}

impl io::Write for LengthCounter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sum += (self.length)(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Appends JSON text as a JSON string. The text must come from [`json_text`]. Such a text contains no control
/// characters, so only quotes and backslashes need escapes. This takes a fifth of the time that escaping an arbitrary
/// string would take.
pub fn push_quoted_json(line: &mut String, json: &str) {
    line.reserve(json.len() + json.len() / 4 + 2);
    line.push('"');
    let mut from = 0;
    for (at, byte) in json.bytes().enumerate() {
        if byte == b'"' || byte == b'\\' {
            line.push_str(&json[from..at]);
            line.push('\\');
            from = at;
        }
    }
    line.push_str(&json[from..]);
    line.push('"');
}

/// The text of a JSON object, written field by field. This takes a fifth of the instructions that a `Value` would take.
#[derive(Debug, Default)]
pub struct JsonObjectText(String);

impl JsonObjectText {
    /// Adds a field whose value is a string. The name must not contain characters that JSON escapes.
    pub fn text(mut self, name: &str, value: &str) -> JsonObjectText {
        self.begin_field(name);
        if value.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
            self.0.push_str(&json_text(&Value::from(value)));
        } else {
            self.0.push('"');
            self.0.push_str(value);
            self.0.push('"');
        }
        self
    }

    /// Adds a field whose value is a number. The name must not contain characters that JSON escapes.
    pub fn number(mut self, name: &str, value: i64) -> JsonObjectText {
        self.begin_field(name);
        self.0.push_str(&value.to_string());
        self
    }

    fn begin_field(&mut self, name: &str) {
        if self.0.is_empty() {
            self.0.reserve(256);
        }
        self.0.push_str(if self.0.is_empty() { "{\"" } else { ",\"" });
        self.0.push_str(name);
        self.0.push_str("\":");
    }

    /// The whole object, which has at least one field.
    pub fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_written_field_by_field_equals_the_formatted_value() {
        let text =
            JsonObjectText::default().text("a", "ä \u{7} \" \\ \u{1F600}").number("b", -7).text("c", "").finish();
        assert_eq!(text, json_text(&json!({ "a": "ä \u{7} \" \\ \u{1F600}", "b": -7, "c": "" })));
    }

    #[test]
    fn texts_are_those_of_display_also_inside_a_string() {
        let values = [
            json!(null),
            json!(-1.5e300),
            json!("ä \u{7} \" \\ \u{1F600}"),
            json!(["\u{7f}\u{ad}\u{202e}", "\n\u{e0041}\u{85} 👨\u{200d}👩"]),
            json!({ "b": [1, true, {}], "a": { "nested": [[]] } }),
            json!([{ "ä \"\u{ad}": "a key that has escapes" }, { "plain": " ~\u{7f}", "more": [-7, null] }, "", "\\"]),
        ];
        for value in values {
            assert_eq!(json_text(&value), value.to_string());
            assert_eq!(json_length(&value), value.to_string().len());
            assert_eq!(visible_json_length(&value), untrusted_text::visible_json(value.to_string()).len());
            let mut quoted = String::new();
            push_quoted_json(&mut quoted, &json_text(&value));
            assert_eq!(quoted, json_text(&json!(json_text(&value))));
        }
    }
}
