//! Converts JSON text to UTF-8. JSON must be UTF-8 (RFC 8259), but programs on Windows also write UTF-16, and some
//! programs write zero bytes around their text.

/// Converts the given bytes to UTF-8, and removes zero bytes, which are never part of the text. JSON begins with ASCII
/// characters, so the zero bytes among the first bytes show the encoding, even if there is no byte order mark.
pub fn convert_to_utf8<'a>(mut bytes: &'a mut dyn Iterator<Item = u8>) -> Box<dyn Iterator<Item = u8> + 'a> {
    let head: Vec<u8> = (&mut bytes).take(4).collect();
    let to_unit: fn([u8; 2]) -> u16 = match head[..] {
        [0xff, 0xfe, ..] | [1..=255, 0, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] | [0, 1..=255, 0, _] => u16::from_be_bytes,
        _ => return Box::new(head.into_iter().chain(bytes).filter(|byte| *byte != 0)),
    };
    let mut bytes = head.into_iter().chain(bytes);
    let units = std::iter::from_fn(move || Some(to_unit([bytes.next()?, bytes.next()?])));
    let chars = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER));
    Box::new(chars.filter(|c| *c != '\0').flat_map(|c| c.to_string().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(convert_to_utf8(&mut bytes.iter().copied()).collect()).unwrap()
    }

    #[test]
    fn one_text_is_the_same_in_every_encoding() {
        let json = "{\"file\":\"h\u{e9}ld \u{1f600}.rs\"}";
        let utf16 = |to_bytes: fn(u16) -> [u8; 2]| json.encode_utf16().flat_map(to_bytes).collect::<Vec<u8>>();
        let (little, big) = (utf16(u16::to_le_bytes), utf16(u16::to_be_bytes));
        let utf32: Vec<u8> = json.chars().take(8).flat_map(|c| u32::from(c).to_le_bytes()).collect();
        assert_eq!(text(json.as_bytes()), json);
        assert_eq!(text(&[b"\0\0", json.as_bytes(), b"\0"].concat()), json);
        assert_eq!(text(&little), json);
        assert_eq!(text(&big), json);
        assert_eq!(text(&[b"\xff\xfe", &little[..]].concat()), format!("\u{feff}{json}"));
        assert_eq!(text(&[b"\xfe\xff", &big[..]].concat()), format!("\u{feff}{json}"));
        assert_eq!(text(&utf32), "{\"file\":");
    }

    #[test]
    fn half_a_character_and_short_texts_are_no_panic() {
        for (bytes, want) in [
            (&b""[..], ""),
            (b"{", "{"),
            (b"\0", ""),
            (b"{\0", "{"),
            (b"{\0}", "{"),
            (b"\xff\xfe{\0\x00\xd8", "\u{feff}{\u{fffd}"),
        ] {
            assert_eq!(text(bytes), want, "{bytes:?}");
        }
    }
}
