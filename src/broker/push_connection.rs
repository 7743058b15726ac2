//! A connection on which lines are pushed, with what it has not taken yet.
//!
//! **Invariant:** it is bounded, and a message counts as taken once its line went whole.

use crate::wire::lines::Lines;
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};

/// Unsent bytes, after which a peer counts as one that does not read.
const OUTPUT_MAX: usize = 1 << 20;

/// Bytes that may come in one go: a few hellos. Who sends faster than they are read would be all that the
/// loop does.
const INPUT_MAX: usize = 128 << 10;

/// The connection.
pub struct Outlet {
    stream: UnixStream,
    /// Its token in the poll.
    pub token: u64,
    input: Lines,
    output: Vec<u8>,
    sent: usize,
    /// Messages in `output`: where each ends, and its sequence number.
    marks: Vec<(usize, i64)>,
}

impl Outlet {
    /// Takes a stream into the poll; nothing if that is impossible.
    pub fn register(mut stream: UnixStream, registry: &Registry, token: u64) -> Option<Outlet> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, Token(token as usize), interest).ok()?;
        let (input, output, marks) = (Lines::default(), Vec::new(), Vec::new());
        Some(Outlet { stream, token, input, output, sent: 0, marks })
    }

    /// Adds a line, and the message that it carries; false for one that does not read.
    pub fn put(&mut self, text: &str, seq: Option<i64>) -> bool {
        if self.output.len() + text.len() > OUTPUT_MAX {
            return false;
        }
        self.output.extend_from_slice(text.as_bytes());
        self.output.push(b'\n');
        self.marks.extend(seq.map(|seq| (self.output.len(), seq)));
        true
    }

    /// Writes what is taken now.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn send(&mut self) -> io::Result<()> {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The messages whose lines went whole since it was last asked.
    pub fn take_sent(&mut self) -> Vec<i64> {
        let sent = self.sent;
        let taken = self.marks.iter().filter(|(end, _)| *end <= sent).map(|(_, seq)| *seq).collect();
        self.marks.retain(|(end, _)| *end > sent);
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
        }
        taken
    }

    /// Hands over the lines that have come.
    ///
    /// # Errors
    /// When the peer hung up, or sent a line that is too long, or too much.
    pub fn read(&mut self, mut line: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = [0; 4096];
        for _ in 0..INPUT_MAX / buffer.len() {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.input.push(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            while let Some(found) = self.input.next_line().map_err(|_| io::Error::from(ErrorKind::InvalidData))? {
                line(found);
            }
        }
        Err(ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_without_end_is_given_up_and_who_sends_little_is_heard() {
        let poll = mio::Poll::new().unwrap();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut outlet = Outlet::register(UnixStream::from_std(ours), poll.registry(), 1).unwrap();
        let mut n_lines = 0;
        (&theirs).write_all(b"one\ntwo\n").unwrap();
        outlet.read(|_| n_lines += 1).unwrap();
        assert_eq!(n_lines, 2);
        (&theirs).write_all(&b"again\n".repeat(24_000)).unwrap();
        let given_up = outlet.read(|_| n_lines += 1).unwrap_err();
        assert_eq!(given_up.kind(), ErrorKind::InvalidData);
    }
}
