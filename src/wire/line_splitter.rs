//! Splits a stream of bytes into lines of bounded length.

/// Maximum length of a line on any of our sockets, in bytes. A message of 64 KiB fits even if JSON writes each of its
/// bytes as six bytes.
pub const LINE_MAX: usize = 1 << 20;

/// Received bytes that have not been returned as lines yet.
#[derive(Debug, Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// Where the next line starts.
    start: usize,
    /// There is no line end between `start` and this position.
    searched: usize,
    /// The start of the last line that was returned.
    returned: usize,
}

/// The error for a line that is longer than [`LINE_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineTooLong;

impl LineBuffer {
    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start == self.bytes.len() {
            self.bytes.clear();
            (self.start, self.searched) = (0, 0);
        } else if self.start > 64 * 1024 {
            self.bytes.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next complete line, without its line end.
    ///
    /// # Errors If the line is too long. The end of the line may not have arrived yet.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, LineTooLong> {
        let end = line_end(&self.bytes[self.searched..]).map(|at| self.searched + at);
        let length = end.unwrap_or(self.bytes.len()) - self.start;
        if length > LINE_MAX {
            return Err(LineTooLong);
        }
        let Some(end) = end else {
            self.searched = self.bytes.len();
            return Ok(None);
        };
        let start = std::mem::replace(&mut self.start, end + 1);
        self.searched = self.start;
        self.returned = start;
        let line = &self.bytes[start..end];
        Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)))
    }

    /// Puts back the last line that was returned, so that [`LineBuffer::next_line`] returns the line again. This works
    /// only until the next push.
    pub fn put_back_line(&mut self) {
        (self.start, self.searched) = (self.returned, self.returned);
    }

    /// Skips the part of an overlong line that has arrived so far. Returns whether the end of the line has arrived.
    pub fn skip_line(&mut self) -> bool {
        let end = line_end(&self.bytes[self.start..]);
        let reached = end.is_some();
        self.start = end.map_or(self.bytes.len(), |at| self.start + at + 1);
        self.searched = self.start;
        reached
    }

    /// The bytes that have arrived but have not been returned yet.
    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Whether all bytes that have arrived have been returned.
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }
}

/// Returns the position of the first line end.
fn line_end(bytes: &[u8]) -> Option<usize> {
    // For long texts, memchr is faster than `contains`. But memchr first asks the processor which instructions it
    // supports, and that takes 13 µs on a virtual machine. A verb looks for a line before it has received anything, and
    // then receives a single line, so `contains` is enough for a verb.
    match bytes {
        [] => None,
        [line @ .., b'\n'] if !line.contains(&b'\n') => Some(line.len()),
        _ => memchr::memchr(b'\n', bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_complete_however_the_bytes_arrive() {
        let mut lines = LineBuffer::default();
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
    fn a_line_that_is_put_back_is_returned_again() {
        let mut lines = LineBuffer::default();
        lines.push(b"one\ntwo\nthr");
        for expected in [Some(&b"one"[..]), Some(b"two")] {
            assert_eq!(lines.next_line(), Ok(expected));
            lines.put_back_line();
            assert_eq!(lines.next_line(), Ok(expected));
        }
        assert_eq!(lines.next_line(), Ok(None));
        assert_eq!(lines.unread(), b"thr");
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_and_can_be_skipped() {
        let mut lines = LineBuffer::default();
        lines.push(&vec![b'x'; LINE_MAX + 1]);
        assert_eq!(lines.next_line(), Err(LineTooLong));
        assert!(!lines.skip_line());
        lines.push(b"xx\nnext\n");
        assert!(lines.skip_line());
        assert_eq!(lines.next_line(), Ok(Some(&b"next"[..])));
    }
}
