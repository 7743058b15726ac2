//! Parses JSON that contains half of a character (a lone surrogate). JavaScript and Python write such JSON when a
//! program has cut a string in the middle of an emoji. JavaScript also accepts such JSON.

use serde_json::{Error, Value};

/// The replacement for half a character: an escaped U+FFFD, which JavaScript's own encoder also writes.
const REPLACEMENT: &str = "\\ufffd";

/// Parses a JSON text. Half an emoji (a lone surrogate) becomes U+FFFD.
///
/// # Errors
/// If anything else in the text is not valid JSON.
pub fn parse(text: &str) -> Result<Value, Error> {
    serde_json::from_str(text).or_else(|error| {
        let repaired = replace_lone_surrogates(text);
        repaired.and_then(|text| serde_json::from_str(&text).ok()).ok_or(error)
    })
}

/// Parses bytes as [`parse`] does. Bytes that are not UTF-8 become U+FFFD.
///
/// # Errors
/// Those of [`parse`].
pub fn parse_bytes(bytes: &[u8]) -> Result<Value, Error> {
    parse(&String::from_utf8_lossy(bytes))
}

/// Replaces each lone surrogate: an escape, such as `\uD83D`, without its other half. The length of the text does not
/// change. Returns `None` if the JSON text contains no lone surrogate.
pub fn replace_lone_surrogates(text: &str) -> Option<String> {
    let mut repaired = String::with_capacity(text.len());
    let mut rest = text;
    let mut is_changed = false;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        repaired.push_str(before);
        // The escape of a surrogate is six bytes long, so the other half of the pair must begin at byte 6. If byte 6 is
        // in the middle of a character, `get` returns `None`.
        let length = match (surrogate(escape), escape.get(6..).and_then(surrogate)) {
            (Some(Surrogate::High), Some(Surrogate::Low)) => 12,
            (Some(_), _) => {
                repaired.push_str(REPLACEMENT);
                is_changed = true;
                rest = &escape[6..];
                continue;
            }
            (None, _) => 1 + escape[1..].chars().next().map_or(0, char::len_utf8),
        };
        repaired.push_str(&escape[..length]);
        rest = &escape[length..];
    }
    repaired.push_str(rest);
    is_changed.then_some(repaired)
}

/// One half of a character that UTF-16 writes as two code units.
enum Surrogate {
    High,
    Low,
}

/// The surrogate whose escape is at the start of this text.
fn surrogate(text: &str) -> Option<Surrogate> {
    let digits = text.strip_prefix("\\u")?.get(..4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    match u16::from_str_radix(digits, 16).ok()? {
        0xd800..=0xdbff => Some(Surrogate::High),
        0xdc00..=0xdfff => Some(Surrogate::Low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_character_is_replaced_and_a_whole_one_is_not() {
        for (given, want) in [
            (r#"{"id":1,"t":"\ud83d"}"#, "\u{fffd}"),
            (r#"{"id":1,"t":"a\uDE00b"}"#, "a\u{fffd}b"),
            (r#"{"id":1,"t":"\ud83d\ude00\ud83d"}"#, "\u{1f600}\u{fffd}"),
            (r#"{"id":1,"t":"\ud83d\ud83d\ude00"}"#, "\u{fffd}\u{1f600}"),
            (r#"{"id":1,"t":"\\ud83d \ud83d"}"#, "\\ud83d \u{fffd}"),
            ("{\"id\":1,\"t\":\"\\ud83d\u{e4}\"}", "\u{fffd}\u{e4}"),
            (r#"{"id":1,"t":"\ud83d\n"}"#, "\u{fffd}\n"),
        ] {
            assert_eq!(parse(given).unwrap()["t"], want, "{given}");
        }
    }
}
