//! Cuts a stream of bytes into lines, with a limit.

/// The longest line on any of our sockets, in bytes: a message of 64 KiB, escaped six-fold, fits.
pub const LINE_MAX: usize = 1 << 20;

/// Bytes that arrived and are not yet taken as lines.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Up to where no line end was found.
    seen: usize,
}

/// A line was longer than [`LINE_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl Lines {
    /// Adds what arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start == self.bytes.len() {
            self.bytes.clear();
            (self.start, self.seen) = (0, 0);
        } else if self.start > 64 * 1024 {
            self.bytes.drain(..self.start);
            self.seen -= self.start;
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line, without its end.
    ///
    /// # Errors
    /// When it is too long, whether its end arrived or not.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, TooLong> {
        let end = self.bytes[self.seen..].iter().position(|byte| *byte == b'\n').map(|at| self.seen + at);
        let length = end.unwrap_or(self.bytes.len()) - self.start;
        if length > LINE_MAX {
            return Err(TooLong);
        }
        let Some(end) = end else {
            self.seen = self.bytes.len();
            return Ok(None);
        };
        let start = std::mem::replace(&mut self.start, end + 1);
        self.seen = self.start;
        let line = &self.bytes[start..end];
        Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)))
    }

    /// Skips to the end of a line that was too long, as far as it arrived; true once it is passed.
    pub fn skip_line(&mut self) -> bool {
        let end = self.bytes[self.start..].iter().position(|byte| *byte == b'\n');
        let passed = end.is_some();
        self.start = end.map_or(self.bytes.len(), |at| self.start + at + 1);
        self.seen = self.start;
        passed
    }

    /// What arrived and is not yet taken as a line.
    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Whether a part of a line waits for its rest.
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_the_bytes_arrive() {
        let mut lines = Lines::default();
        let mut got = Vec::new();
        for byte in b"one\r\ntwo\n\nthree" {
            lines.push(&[*byte]);
            while let Some(line) = lines.next_line().unwrap() {
                got.push(String::from_utf8(line.to_vec()).unwrap());
            }
        }
        assert_eq!(got, ["one", "two", ""]);
        assert!(!lines.is_empty());
    }

    #[test]
    fn a_line_without_end_is_refused_and_can_be_skipped() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; LINE_MAX + 1]);
        assert_eq!(lines.next_line(), Err(TooLong));
        assert!(!lines.skip_line());
        lines.push(b"xx\nnext\n");
        assert!(lines.skip_line());
        assert_eq!(lines.next_line(), Ok(Some(&b"next"[..])));
    }
}
