//! Reads the short fields of a JSON object of any size. The text may be in UTF-16, begin with unrelated bytes, contain
//! unpaired surrogates, or end too early.
//!
//! **Invariant:** memory is bounded. Long texts are cut. Values are skipped if there are too many or if they are nested
//! too deeply. Some memory is reserved for the fields that the caller needs.

use super::convert_to_utf8::{IteratorReader, convert_to_utf8};
use super::keep_start_and_matching_lines::KeptText;
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};

/// Values at a greater depth are skipped.
const DEPTH_MAX: usize = 32;
/// How many bytes of one text are kept. Beyond this limit, only lines that the caller needs are kept.
const TEXT_MAX: usize = 1 << 20;
/// Maximum total size of the kept texts, in bytes. Beyond this limit, only needed fields are kept.
const TEXTS_MAX: usize = 4 << 20;
/// How many bytes of needed fields and lines are kept after `TEXTS_MAX` is reached.
const RESERVE: usize = 4 << 20;
/// Maximum length of a needed field, or of a needed line in a long text, in bytes. Even the longest path is shorter.
pub(super) const SHORT_MAX: usize = 8 << 10;
/// How many values are kept. Beyond this limit, only needed fields are kept.
const VALUES_MAX: usize = 1 << 16;
/// Maximum length of a field's name, in bytes. Fields with longer names are never needed, so they are skipped.
const NAME_MAX: usize = 256;
/// Maximum length of a number, in bytes. A longer number is read as `null`, because a number cut short would be wrong.
const SCALAR_MAX: usize = 64;
/// How many bytes are read at a time. A larger buffer would cost a page fault for each of its pages.
pub const BUFFER_SIZE: usize = 1 << 14;
/// How many bytes are read at a time from an object inside a string.
const EMBEDDED_BUFFER_SIZE: usize = 1 << 10;
/// How many values of a repeated field are kept.
const REPEATED_MAX: usize = 64;

/// The fields that a caller needs.
#[derive(Debug, Clone, Copy)]
pub struct NeededFields {
    /// The names of fields that are kept even if there is no room for other fields.
    pub names: &'static [&'static [&'static str]],
    /// The names of fields that may be repeated. The values of a repeated field become a list.
    pub repeated: &'static [&'static str],
    /// The names of fields whose value may be a string that contains a JSON object.
    pub embedded: &'static [&'static str],
    /// Lines that begin with one of these texts, after any spaces, are kept even if the whole text is too long to keep.
    pub line_starts: &'static [&'static str],
}

impl NeededFields {
    /// Whether the caller needs the field with this name.
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|names| names.contains(&name))
    }
}

/// Reads the first object. Skips all bytes before the object, such as a byte order mark. Returns `None` if there is no
/// object. If a read fails, the text ends at that point.
pub fn read_object(bytes: &mut dyn Read, needed: &NeededFields) -> Option<Value> {
    let room = Room { texts: TEXTS_MAX, reserve: RESERVE, values: VALUES_MAX };
    let mut bytes = convert_to_utf8(bytes, BUFFER_SIZE);
    let bytes = BufReader::with_capacity(BUFFER_SIZE, &mut *bytes as &mut dyn Read);
    let mut reader = FieldReader { bytes, needed, room };
    while reader.peek()? != b'{' {
        reader.take();
    }
    Some(reader.read_value("", 0))
}

/// How much may still be kept: bytes of texts, bytes of the reserve, and values.
#[derive(Clone, Copy)]
struct Room {
    texts: usize,
    reserve: usize,
    values: usize,
}

struct FieldReader<'a> {
    bytes: BufReader<&'a mut dyn Read>,
    needed: &'a NeededFields,
    room: Room,
}

impl FieldReader<'_> {
    fn peek(&mut self) -> Option<u8> {
        match self.bytes.buffer().first() {
            Some(byte) => Some(*byte),
            None => self.bytes.fill_buf().ok()?.first().copied(),
        }
    }

    fn take(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.bytes.consume(1);
        Some(byte)
    }

    /// The bytes in the buffer up to the next quote or backslash.
    fn plain_bytes(&self) -> &[u8] {
        let buffer = self.bytes.buffer();
        &buffer[..memchr::memchr2(b'"', b'\\', buffer).unwrap_or(buffer.len())]
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.take();
        }
    }

    /// Reads the value of the field `name` at this depth.
    fn read_value(&mut self, name: &str, depth: usize) -> Value {
        self.skip_space();
        match self.peek() {
            Some(b'{' | b'[') if depth >= DEPTH_MAX => self.skip_nested(),
            Some(b'{') => self.read_members(depth),
            Some(b'[') => self.read_items(name, depth),
            Some(b'"') => {
                self.take();
                if depth == 1 && self.needed.embedded.contains(&name) {
                    return self.read_embedded(name, depth);
                }
                let is_needed = self.needed.has(name);
                Value::String(self.read_text(is_needed, &mut VecDeque::new()))
            }
            _ => self.read_scalar(),
        }
    }

    fn read_members(&mut self, depth: usize) -> Value {
        self.take();
        let mut members = Map::new();
        loop {
            match self.peek() {
                None => break,
                Some(b'}' | b']') => {
                    self.take();
                    break;
                }
                Some(b'"') => {
                    self.take();
                    let name = self.read_name();
                    self.skip_space();
                    if self.peek() == Some(b':') {
                        self.take();
                        let value = self.read_value(&name, depth + 1);
                        self.keep_member(&mut members, name, value, depth);
                    }
                }
                Some(_) => drop(self.take()),
            }
        }
        Value::Object(members)
    }

    fn keep_member(&mut self, members: &mut Map<String, Value>, name: String, value: Value, depth: usize) {
        if name.len() > NAME_MAX || self.room.values == 0 && !self.needed.has(&name) {
            return;
        }
        self.room.values = self.room.values.saturating_sub(1);
        let is_repeated = depth > 0 && self.needed.repeated.contains(&name.as_str());
        match (members.get_mut(&name), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                new.into_iter().for_each(|(name, value)| self.keep_member(old, name, value, depth + 1));
            }
            (Some(Value::Array(old)), value) if is_repeated => {
                if old.len() < REPEATED_MAX {
                    old.push(value);
                }
            }
            (Some(old), value) if is_repeated => *old = Value::Array(vec![old.take(), value]),
            (_, value) => drop(members.insert(name, value)),
        }
    }

    fn read_items(&mut self, name: &str, depth: usize) -> Value {
        self.take();
        let mut items = Vec::new();
        loop {
            self.skip_space();
            match self.peek() {
                None => break,
                Some(b'}' | b']') => {
                    self.take();
                    break;
                }
                Some(b',' | b':') => drop(self.take()),
                Some(_) => {
                    let value = self.read_value(name, depth + 1);
                    if self.room.values > 0 {
                        self.room.values -= 1;
                        items.push(value);
                    }
                }
            }
        }
        Value::Array(items)
    }

    /// Skips an object or a list of any depth.
    fn skip_nested(&mut self) -> Value {
        let mut depth = 0_u64;
        while let Some(byte) = self.take() {
            match byte {
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                b'"' => self.skip_text(),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        Value::Null
    }

    fn skip_text(&mut self) {
        while let Some(byte) = self.take() {
            match byte {
                b'"' => break,
                b'\\' => drop(self.take()),
                _ => {}
            }
        }
    }

    /// Reads a number or a word such as `true`. Returns `null` for anything else.
    fn read_scalar(&mut self) -> Value {
        let mut text = Vec::new();
        let is_inside = |byte: u8| !matches!(byte, b',' | b':' | b'}' | b']' | b'"') && !byte.is_ascii_whitespace();
        while self.peek().is_some_and(is_inside) {
            text.extend(self.take());
            text.truncate(SCALAR_MAX + 1);
        }
        let whole = Some(text).filter(|text| text.len() <= SCALAR_MAX);
        whole.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or(Value::Null)
    }

    fn read_name(&mut self) -> String {
        let mut name = Vec::new();
        let mut decoder = TextDecoder::default();
        while let Some(byte) = decoder.next_byte(self) {
            name.push(byte);
            name.truncate(NAME_MAX + 1);
        }
        String::from_utf8_lossy(&name).into_owned()
    }

    /// Reads the rest of a string after its opening quote. `before` holds the string's bytes that are already read.
    fn read_text(&mut self, is_needed: bool, before: &mut VecDeque<u8>) -> String {
        let wanted = if is_needed { SHORT_MAX.min(self.room.reserve) } else { 0 };
        let mut text = KeptText::new(TEXT_MAX.min(self.room.texts).max(wanted), self.room.reserve);
        let mut decoder = TextDecoder { ready: std::mem::take(before), ..TextDecoder::default() };
        while let Some(byte) = decoder.next_byte(self) {
            text.push(byte, self.needed.line_starts);
            // Bytes up to the next escape are copied together, which is faster. A tool's arguments may be a hundred
            // million bytes long and contain few escapes.
            if decoder.is_plain() {
                let plain = self.plain_bytes();
                text.push_all(plain, self.needed.line_starts);
                let n_plain = plain.len();
                self.bytes.consume(n_plain);
            }
        }
        let (kept, n_lines) = text.finish(self.needed.line_starts);
        let n_head = kept.len() - n_lines;
        let n_over = n_head.saturating_sub(self.room.texts);
        self.room.texts = self.room.texts.saturating_sub(n_head);
        self.room.reserve = self.room.reserve.saturating_sub(n_over + n_lines);
        String::from_utf8_lossy(&kept).into_owned()
    }

    /// Reads a string that may itself contain a JSON object.
    fn read_embedded(&mut self, name: &str, depth: usize) -> Value {
        let mut decoder = TextDecoder::default();
        let mut before = VecDeque::new();
        while let Some(byte) = decoder.next_byte(self) {
            before.push_back(byte);
            if !byte.is_ascii_whitespace() || before.len() > SHORT_MAX {
                break;
            }
        }
        before.extend(decoder.ready.drain(..));
        if before.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            if decoder.is_over {
                return Value::String(String::from_utf8_lossy(before.make_contiguous()).into_owned());
            }
            return Value::String(self.read_text(self.needed.has(name), &mut before));
        }
        let (needed, room) = (self.needed, self.room);
        let mut inside = EmbeddedBytes { outer: self, decoder: TextDecoder { ready: before, ..decoder } };
        let mut bytes = IteratorReader(&mut inside);
        let bytes = BufReader::with_capacity(EMBEDDED_BUFFER_SIZE, &mut bytes as &mut dyn Read);
        let mut reader = FieldReader { bytes, needed, room };
        let value = reader.read_value("", depth);
        let room = reader.room;
        inside.for_each(drop);
        self.room = room;
        value
    }
}

/// The decoded bytes of a string that contains a JSON object.
struct EmbeddedBytes<'a, 'b> {
    outer: &'a mut FieldReader<'b>,
    decoder: TextDecoder,
}

impl Iterator for EmbeddedBytes<'_, '_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        self.decoder.next_byte(self.outer)
    }
}

/// Decodes the escapes of a string one byte at a time.
#[derive(Default)]
struct TextDecoder {
    /// Decoded bytes that have not been read yet.
    ready: VecDeque<u8>,
    /// The first half of a surrogate pair. UTF-16 uses such pairs for characters beyond 16 bits.
    half: Option<u16>,
    is_over: bool,
}

impl TextDecoder {
    /// Whether all bytes before the next quote or backslash can be copied unchanged. That is so if no decoded byte
    /// waits for its output, and no half of a surrogate pair waits for its other half.
    fn is_plain(&self) -> bool {
        self.ready.is_empty() && self.half.is_none() && !self.is_over
    }

    fn next_byte(&mut self, reader: &mut FieldReader) -> Option<u8> {
        if self.is_plain() {
            let plain = reader.peek().filter(|byte| !matches!(byte, b'"' | b'\\'));
            if plain.is_some() {
                return reader.take();
            }
        }
        while self.ready.is_empty() && !self.is_over {
            self.decode(reader);
        }
        self.ready.pop_front()
    }

    fn decode(&mut self, reader: &mut FieldReader) {
        match reader.take() {
            None | Some(b'"') => {
                self.end_half();
                self.is_over = true;
            }
            Some(b'\\') => self.decode_escape(reader),
            Some(byte) => {
                self.end_half();
                self.ready.push_back(byte);
            }
        }
    }

    fn decode_escape(&mut self, reader: &mut FieldReader) {
        let byte = match reader.take() {
            Some(b'u') => return self.decode_unit(reader),
            Some(b'b') => 0x8,
            Some(b'f') => 0xc,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(byte) => byte,
            None => return,
        };
        self.end_half();
        self.ready.push_back(byte);
    }

    /// Decodes the four digits after `\u`.
    fn decode_unit(&mut self, reader: &mut FieldReader) {
        let mut unit = 0_u16;
        for _ in 0..4 {
            let Some(digit) = reader.peek().and_then(|byte| char::from(byte).to_digit(16)) else {
                self.end_half();
                return self.push(char::REPLACEMENT_CHARACTER);
            };
            reader.take();
            unit = unit << 4 | digit as u16;
        }
        match (self.half.take(), unit) {
            (Some(high), 0xdc00..=0xdfff) => {
                let code = 0x1_0000 + (u32::from(high - 0xd800) << 10) + u32::from(unit - 0xdc00);
                self.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            (half, unit) => {
                self.half = half;
                self.end_half();
                match unit {
                    0xd800..=0xdbff => self.half = Some(unit),
                    unit => self.push(char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER)),
                }
            }
        }
    }

    /// Replaces half a surrogate pair with U+FFFD if the other half is missing.
    fn end_half(&mut self) {
        if self.half.take().is_some() {
            self.push(char::REPLACEMENT_CHARACTER);
        }
    }

    fn push(&mut self, c: char) {
        self.ready.extend(c.encode_utf8(&mut [0; 4]).bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(bytes: &[u8]) -> Option<Value> {
        let needed = NeededFields {
            names: &[&["event", "path", "input"]],
            repeated: &["path"],
            embedded: &["input"],
            line_starts: &["*** "],
        };
        read_object(&mut &*bytes, &needed)
    }

    #[test]
    fn valid_json_means_what_it_means_to_everybody() {
        for text in [
            r#"{}"#,
            r#"{"a":1,"b":[true,null,-2.5e3,"x"],"c":{"d":{"e":[]}}}"#,
            r#" { "a" : "\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00é" , "" : [ [ ] , { } ] } "#,
        ] {
            assert_eq!(read(text.as_bytes()), serde_json::from_str(text).ok(), "{text}");
        }
        let long = format!(r#"{{"a":{},"b":2}}"#, "1".repeat(SCALAR_MAX + 1));
        assert_eq!(read(long.as_bytes()), Some(json!({ "a": null, "b": 2 })), "no other number");
    }

    #[test]
    fn a_needed_field_is_read_whatever_stands_before_it() {
        let path = r#""path":"/a"}}"#;
        let cases: Vec<String> = vec![
            format!(r#"{{"x":"\ud83d","input":{{"y":"\ud83d\ud83dz\ude00",{path}"#),
            format!("\u{feff}{{\"input\":{{{path}"),
            format!(r#"{{"input":{{"deep":{}1{},{path}"#, "[{\"a\":".repeat(50_000), "}]".repeat(50_000)),
            format!(r#"{{"input":{{"text":"{}",{path}"#, "z".repeat(6 << 20)),
            format!(r#"{{"input":{{{}{path}"#, format!(r#""t":"{}","#, "z".repeat(1 << 20)).repeat(6)),
            format!(r#"{{"input":{{"list":[{}0],{path}"#, "1,".repeat(200_000)),
            format!(r#"{{"input":{{{}{path}"#, (0..100_000).map(|n| format!(r#""k{n}":0,"#)).collect::<String>()),
            format!(r#"{{"input":{{"n":NaN,"u":undefined,"h":"\uZZ","c":"{}{path}"#, "\u{1}\","),
            r#"{"input":{"path":"/a"#.to_owned(),
            format!("\0\0\0{{\0\"input\":{{{path}\0"),
            format!("a hook says this first\n[{{\"input\":{{{path}"),
        ];
        for text in cases {
            let value = read(text.as_bytes()).unwrap();
            assert_eq!(value["input"]["path"], json!("/a"), "{:.80}", text);
        }
        for (text, want) in [
            (r#"{"input":{"path":"/a","path":"/b","path":"/c"}}"#, json!(["/a", "/b", "/c"])),
            (r#"{"input":{"path":"/a"},"input":{"path":"/b"}}"#, json!(["/a", "/b"])),
            (r#"{"input":"{\"content\":\"\\ud83d\",\"path\":\"/a\"}"}"#, json!("/a")),
        ] {
            assert_eq!(read(text.as_bytes()).unwrap()["input"]["path"], want, "{text}");
        }
        let embedded =
            format!(r#"{{"input":" {{\"text\":\"{}\",\"path\":\"/a\"}}","event":"e"}}"#, "z".repeat(6 << 20));
        assert_eq!(read(embedded.as_bytes()).unwrap()["input"]["path"], json!("/a"));
        assert_eq!(read(embedded.as_bytes()).unwrap()["event"], json!("e"));
    }

    #[test]
    fn of_a_long_text_the_needed_lines_are_kept() {
        let body = format!("{}\\n", "+ line").repeat(400_000);
        let text = format!(r#"{{"input":"*** Begin\n*** Update File: a\n{body}*** Update File: b\n{body}*** End"}}"#);
        let read = read(text.as_bytes()).unwrap();
        let kept = read["input"].as_str().unwrap();
        assert!(kept.len() < TEXT_MAX + 1000);
        for line in ["*** Begin", "*** Update File: a", "*** Update File: b", "*** End"] {
            assert_eq!(kept.lines().filter(|other| *other == line).count(), 1, "{line}");
        }
    }

    #[test]
    fn what_is_no_object_is_none() {
        for text in ["", " ", "[]", "5", "\"[\"", "x", "\u{feff}"] {
            assert_eq!(read(text.as_bytes()), None, "{text:?}");
        }
        for text in ["{", "{\"", "{\"a", "{\"a\"", "{\"a\":", "{\"a\":\"\\", "{\"a\":\"\\u12", "{]", "{,,:}"] {
            assert!(read(text.as_bytes()).unwrap().is_object(), "{text:?}");
        }
    }
}
