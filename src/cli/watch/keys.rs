//! Bytes from a keyboard into keys. A sequence may come in pieces, as over ssh.

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A character to be typed.
    Char(char),
    /// The arrow up.
    Up,
    /// The arrow down.
    Down,
    /// The arrow left, or Tab backwards.
    Back,
    /// The arrow right, or Tab.
    Next,
    /// Page up.
    PageUp,
    /// Page down.
    PageDown,
    /// Home.
    Home,
    /// Return.
    Enter,
    /// Escape alone.
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

/// Bytes that are no whole key yet.
#[derive(Debug, Default)]
pub struct Keys {
    bytes: Vec<u8>,
}

impl Keys {
    /// Takes bytes; the keys that are whole now.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.bytes.extend_from_slice(bytes);
        let mut keys = Vec::new();
        while let Some((key, n)) = first(&self.bytes) {
            self.bytes.drain(..n);
            keys.extend(key);
        }
        keys
    }

    /// Whether the begin of a key waits for its rest.
    pub fn waits(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// No more came in time: an escape was the key itself.
    pub fn give_up(&mut self) -> Option<Key> {
        let was = std::mem::take(&mut self.bytes);
        (was == [0x1b]).then_some(Key::Escape)
    }
}

/// The first key and its length; no key for what means nothing, nothing while it is incomplete.
fn first(bytes: &[u8]) -> Option<(Option<Key>, usize)> {
    let key = match bytes.first()? {
        0x1b => return escape(bytes),
        b'\t' => Key::Next,
        b'\r' | b'\n' => Key::Enter,
        0x7f | 0x08 => Key::Erase,
        0x03 | 0x04 => Key::Quit,
        0x0c => Key::Redraw,
        0x15 => Key::Clear,
        0x1a => Key::Suspend,
        0..0x20 => return Some((None, 1)),
        byte => return letter(bytes, *byte),
    };
    Some((Some(key), 1))
}

fn letter(bytes: &[u8], byte: u8) -> Option<(Option<Key>, usize)> {
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

/// A sequence that begins with an escape: `ESC [ … final` or `ESC O final`.
fn escape(bytes: &[u8]) -> Option<(Option<Key>, usize)> {
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
    use super::{Key, Keys};

    #[test]
    fn keys_come_whole_or_in_pieces() {
        let mut keys = Keys::default();
        assert_eq!(
            keys.take(b"q\x1b[A\x1bOB\t\x1b[Z\r"),
            [Key::Char('q'), Key::Up, Key::Down, Key::Next, Key::Back, Key::Enter]
        );
        assert_eq!(keys.take(b"\x1b"), []);
        assert!(keys.waits());
        assert_eq!(keys.take(b"["), []);
        assert_eq!(keys.take(b"5~\xc3"), [Key::PageUp]);
        assert_eq!(keys.take(b"\xa9\x7f"), [Key::Char('é'), Key::Erase]);
        assert!(!keys.waits());
        assert_eq!(keys.take(b"\x1b"), []);
        assert_eq!(keys.give_up(), Some(Key::Escape));
        assert_eq!(keys.give_up(), None);
    }

    #[test]
    fn what_is_no_key_is_dropped() {
        let mut keys = Keys::default();
        assert_eq!(keys.take(b"\x01\xff\x1b[200~x\xe2\x28\xa1y"), [Key::Char('x'), Key::Char('('), Key::Char('y')]);
    }
}
