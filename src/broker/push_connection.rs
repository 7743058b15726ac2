//! A connection over which the broker pushes lines to a client, with a buffer for unsent output.
//!
//! **Invariant:** the output is bounded, and a message counts as sent only after its whole line was sent.

use crate::base::id_types::MessageSeq;
use crate::wire::line_splitter::LineBuffer;
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Maximum size of the output buffer, in bytes. If the buffer is full because the client does not read, the connection
/// is closed.
const OUTPUT_MAX: usize = 1 << 20;
/// Maximum number of bytes to read from a client at once. This is enough for a few hellos (lines in which a client
/// lists the ids for which it listens). Without a limit, one fast client could keep the event loop busy forever.
const INPUT_MAX: usize = 128 << 10;

/// A connection over which the broker pushes lines to a client.
pub struct PushConnection {
    stream: UnixStream,
    token: u64,
    input: LineBuffer,
    output: Vec<u8>,
    sent: usize,
    /// For each message in `output`, the position of the message's end, and the message's sequence number.
    message_ends: Vec<(usize, MessageSeq)>,
}

/// Connects to the socket at this path, if it belongs to this user. Blocks if the file system does not respond.
pub fn dial_own(path: &Path) -> Option<UnixStream> {
    let meta = std::fs::metadata(path).ok()?;
    if !meta.file_type().is_socket() || meta.uid() != crate::sys::uid() {
        return None;
    }
    let stream = UnixStream::connect(path).ok()?;
    let listener = crate::sys::process::peer_credentials(&stream)?;
    (listener.uid == crate::sys::uid()).then_some(stream)
}

/// The client does not read what the broker sends, so the connection must be closed.
#[derive(Debug)]
pub struct NotReading;

impl PushConnection {
    /// Registers a stream in the poll. Returns `None` if registering fails.
    pub fn register(mut stream: UnixStream, registry: &Registry, token: u64) -> Option<PushConnection> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, Token(token as usize), interest).ok()?;
        let (input, output, message_ends) = (LineBuffer::default(), Vec::new(), Vec::new());
        Some(PushConnection { stream, token, input, output, sent: 0, message_ends })
    }

    /// The token of the connection in the poll.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Queues a line. If the line contains a message, `seq` is its sequence number.
    ///
    /// # Errors
    /// When the client has left too much output unread.
    pub fn enqueue(&mut self, text: &str, seq: Option<MessageSeq>) -> Result<(), NotReading> {
        if self.n_unsent() + text.len() > OUTPUT_MAX {
            return Err(NotReading);
        }
        self.output.extend_from_slice(text.as_bytes());
        self.output.push(b'\n');
        self.message_ends.extend(seq.map(|seq| (self.output.len(), seq)));
        Ok(())
    }

    /// Sends as much as the socket accepts.
    ///
    /// # Errors
    /// When the client is gone.
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

    /// Returns the sequence numbers of messages that were sent completely since the last call.
    pub fn drain_sent(&mut self) -> Vec<MessageSeq> {
        let sent = self.sent;
        let messages = self.message_ends.iter().filter(|(end, _)| *end <= sent).map(|(_, seq)| *seq).collect();
        self.message_ends.retain(|(end, _)| *end > sent);
        // A client may read all the time and never catch up. So sent bytes are removed even while there are unsent
        // bytes. Each removal moves the unsent bytes to the front. To keep these moves small, sent bytes are removed
        // only when they are at least half of all bytes.
        if sent >= self.n_unsent() {
            self.output.drain(..sent);
            self.message_ends.iter_mut().for_each(|(end, _)| *end -= sent);
            self.sent = 0;
        }
        messages
    }

    fn n_unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Reads from the client, and calls `take_line` for each line.
    ///
    /// # Errors
    /// When the client has hung up, or sent too long a line or too many bytes.
    pub fn read_lines(&mut self, mut take_line: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = [0; 4096];
        for _ in 0..INPUT_MAX / buffer.len() {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.input.push(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            while let Some(line) = self.input.next_line().map_err(|_| io::Error::from(ErrorKind::InvalidData))? {
                take_line(line);
            }
        }
        Err(ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_reads_all_the_time_keeps_its_connection_and_one_that_stops_loses_it() {
        let poll = mio::Poll::new().unwrap();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut connection = PushConnection::register(UnixStream::from_std(ours), poll.registry(), 1).unwrap();
        let line = "x".repeat(16 << 10);
        let (mut sent, mut n_read, mut buffer) = (Vec::new(), 0, vec![0; 32 << 10]);
        // The client begins with a backlog, and then reads as fast as new lines come. So it never catches up.
        let backlog = 40;
        for seq in 0..400 {
            connection.enqueue(&line, Some(MessageSeq(seq))).expect("the client reads");
            connection.send().unwrap();
            sent.extend(connection.drain_sent());
            while seq >= backlog && n_read < (line.len() + 1) * (seq - backlog) as usize {
                n_read += (&theirs).read(&mut buffer).unwrap();
                connection.send().unwrap();
            }
            assert!(seq < backlog || connection.n_unsent() > 0, "the client never catches up");
            assert!(connection.output.len() <= 2 * OUTPUT_MAX);
        }
        sent.extend(connection.drain_sent());
        assert!(sent.len() > 300 && sent.iter().copied().eq((0..sent.len() as i64).map(MessageSeq)), "{sent:?}");
        assert!((0..200).any(|_| connection.enqueue(&line, None).is_err()));
    }

    #[test]
    fn a_client_that_sends_without_end_is_given_up_and_one_that_sends_little_is_read() {
        let poll = mio::Poll::new().unwrap();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut connection = PushConnection::register(UnixStream::from_std(ours), poll.registry(), 1).unwrap();
        let mut n_lines = 0;
        (&theirs).write_all(b"one\ntwo\n").unwrap();
        connection.read_lines(|_| n_lines += 1).unwrap();
        assert_eq!(n_lines, 2);
        (&theirs).write_all(&b"again\n".repeat(24_000)).unwrap();
        let error = connection.read_lines(|_| n_lines += 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}
