//! Converts JSON text to UTF-8. JSON must be UTF-8 (RFC 8259), but programs on Windows also write UTF-16, and some
//! programs write zero bytes around their text.

use std::io::{self, BufReader, Cursor, Read};

/// Converts the bytes of a JSON text to UTF-8, and removes zero bytes. JSON begins with ASCII characters, so the zeros
/// among the first four bytes reveal the encoding. `bytes` is read `buffer_size` bytes at a time.
pub fn convert_to_utf8<'a>(bytes: &'a mut dyn Read, buffer_size: usize) -> Box<dyn Read + 'a> {
    let mut bytes = BufReader::with_capacity(buffer_size, bytes);
    let mut head = Vec::with_capacity(4);
    // If a read fails, the text ends at that point.
    let _ = bytes.by_ref().take(4).read_to_end(&mut head);
    let to_unit: fn([u8; 2]) -> u16 = match head[..] {
        [0xff, 0xfe, ..] | [1..=255, 0, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] | [0, 1..=255, 0, _] => u16::from_be_bytes,
        _ => return Box::new(WithoutZeros(Cursor::new(head).chain(bytes))),
    };
    let mut bytes = Cursor::new(head).chain(bytes).bytes().map_while(Result::ok);
    let units = std::iter::from_fn(move || Some(to_unit([bytes.next()?, bytes.next()?])));
    let chars = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER));
    Box::new(IteratorReader(chars.filter(|c| *c != '\0').flat_map(|c| c.to_string().into_bytes())))
}

/// Reads the bytes of another reader, without the zero bytes.
struct WithoutZeros<R>(R);

impl<R: Read> Read for WithoutZeros<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let n_read = self.0.read(buffer)?;
            let Some(first) = memchr::memchr(0, &buffer[..n_read]) else { return Ok(n_read) };
            let mut n_kept = first;
            for at in first..n_read {
                if buffer[at] != 0 {
                    buffer[n_kept] = buffer[at];
                    n_kept += 1;
                }
            }
            // If all bytes were zeros, nothing is left of them. `Ok(0)` would mean the end of the text, so more bytes
            // are read.
            if n_kept > 0 {
                return Ok(n_kept);
            }
        }
    }
}

/// Reads the bytes that an iterator returns.
pub(super) struct IteratorReader<I>(pub(super) I);

impl<I: Iterator<Item = u8>> Read for IteratorReader<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut n_read = 0;
        for (place, byte) in buffer.iter_mut().zip(&mut self.0) {
            *place = byte;
            n_read += 1;
        }
        Ok(n_read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> String {
        // The text does not depend on how many bytes are read at a time.
        let [one, other] = [1, 64].map(|size| std::io::read_to_string(convert_to_utf8(&mut &*bytes, size)).unwrap());
        assert_eq!(one, other);
        one
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
