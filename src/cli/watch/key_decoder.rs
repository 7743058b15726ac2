//! Decodes the bytes from a keyboard into keys. An escape sequence may arrive in pieces, for example through ssh.

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A typed character.
    Char(char),
    /// The up arrow.
    Up,
    /// The down arrow.
    Down,
    /// The left arrow, or Shift-Tab.
    Back,
    /// Right arrow, or Tab.
    Next,
    /// Page up.
    PageUp,
    /// Page down.
    PageDown,
    /// Home.
    Home,
    /// Return.
    Enter,
    /// Escape by itself.
    Escape,
    /// Backspace.
    Erase,
    /// Ctrl-C or Ctrl-D.
    Quit,
    /// Ctrl-L.
    Redraw,
    /// Ctrl-Z.
    Suspend,
    /// Ctrl-U.
    Clear,
}

/// Decodes keys. Keeps the bytes of a key that is not complete yet.
#[derive(Debug, Default)]
pub struct KeyDecoder {
    bytes: Vec<u8>,
}

impl KeyDecoder {
    /// Adds bytes, and returns the keys that are now complete.
    pub fn decode(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.bytes.extend_from_slice(bytes);
        let mut keys = Vec::new();
        while let Some((key, n)) = decode_first(&self.bytes) {
            self.bytes.drain(..n);
            keys.extend(key);
        }
        keys
    }

    /// Whether only the beginning of a key has arrived.
    pub fn is_incomplete(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Stops waiting for the rest of a key. If only an escape byte has arrived, returns the Escape key.
    pub fn finish(&mut self) -> Option<Key> {
        let was = std::mem::take(&mut self.bytes);
        (was == [0x1b]).then_some(Key::Escape)
    }
}

/// Returns the first key and its length in bytes. Returns `None` while the key is incomplete. For unknown bytes,
/// returns only a length.
fn decode_first(bytes: &[u8]) -> Option<(Option<Key>, usize)> {
    let key = match bytes.first()? {
        0x1b => return decode_escape(bytes),
        b'\t' => Key::Next,
        b'\r' | b'\n' => Key::Enter,
        0x7f | 0x08 => Key::Erase,
        0x03 | 0x04 => Key::Quit,
        0x0c => Key::Redraw,
        0x15 => Key::Clear,
        0x1a => Key::Suspend,
        0..0x20 => return Some((None, 1)),
        byte => return decode_character(bytes, *byte),
    };
    Some((Some(key), 1))
}

fn decode_character(bytes: &[u8], byte: u8) -> Option<(Option<Key>, usize)> {
    let n = match byte {
        0..0x80 => 1,
        0xc2..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0..0xf5 => 4,
        _ => return Some((None, 1)),
    };
    if bytes.len() < n {
        return None;
    }
    match std::str::from_utf8(&bytes[..n]) {
        Ok(text) => Some((text.chars().next().filter(|c| !c.is_control()).map(Key::Char), n)),
        Err(_) => Some((None, 1)),
    }
}

/// Decodes an escape sequence: `ESC [ … final` or `ESC O final`.
fn decode_escape(bytes: &[u8]) -> Option<(Option<Key>, usize)> {
    let second = *bytes.get(1)?;
    if second == 0x1b {
        return Some((Some(Key::Escape), 1));
    }
    if second != b'[' && second != b'O' {
        return Some((None, 2));
    }
    let n = bytes[2..].iter().position(|byte| (0x40..0x7f).contains(byte))? + 3;
    let key = match &bytes[2..n] {
        b"A" => Some(Key::Up),
        b"B" => Some(Key::Down),
        b"C" => Some(Key::Next),
        b"D" | b"Z" => Some(Key::Back),
        b"H" | b"1~" | b"7~" => Some(Key::Home),
        b"5~" => Some(Key::PageUp),
        b"6~" => Some(Key::PageDown),
        b"3~" => Some(Key::Erase),
        _ => None,
    };
    Some((key, n))
}

#[cfg(test)]
mod tests {
    use super::{Key, KeyDecoder};

    #[test]
    fn keys_arrive_whole_or_in_pieces() {
        let mut keys = KeyDecoder::default();
        assert_eq!(
            keys.decode(b"q\x1b[A\x1bOB\t\x1b[Z\r"),
            [Key::Char('q'), Key::Up, Key::Down, Key::Next, Key::Back, Key::Enter]
        );
        assert_eq!(keys.decode(b"\x1b"), []);
        assert!(keys.is_incomplete());
        assert_eq!(keys.decode(b"["), []);
        assert_eq!(keys.decode(b"5~\xc3"), [Key::PageUp]);
        assert_eq!(keys.decode(b"\xa9\x7f"), [Key::Char('é'), Key::Erase]);
        assert!(!keys.is_incomplete());
        assert_eq!(keys.decode(b"\x1b"), []);
        assert_eq!(keys.finish(), Some(Key::Escape));
        assert_eq!(keys.finish(), None);
    }

    #[test]
    fn bytes_that_are_no_key_are_dropped() {
        let mut keys = KeyDecoder::default();
        assert_eq!(keys.decode(b"\x01\xff\x1b[200~x\xe2\x28\xa1y"), [Key::Char('x'), Key::Char('('), Key::Char('y')]);
    }
}
