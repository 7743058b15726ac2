//! The connection of a client: its bounded input and output, and its answers to pings.

use super::client_machine_and_ancestors::Origin;
use super::fair_queue::QueueTag;
use super::heartbeat_schedule::LivenessLimits;
use super::local_or_guest_socket::ClientSocket;
use super::service_order::ServiceRank;
use crate::base::error::Error;
use crate::wire::line_splitter::LineBuffer;
use mio::event::Event;
use mio::{Interest, Registry, Token};
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Maximum number of bytes to read from a client at once.
pub const READ_MAX: usize = 64 * 1024;
/// If a client has more than this many bytes of unread output, its requests are not read.
const BACKPRESSURE_AT: usize = 256 * 1024;
/// Maximum amount of unread output, in bytes. A client that exceeds this limit is disconnected.
const OUTPUT_MAX: usize = 4 << 20;
/// After this many ms of silence, a client that is not in use may be dropped to make room for a new client.
const IDLE_MS: i64 = 1_000;

/// How often to check a guest while the broker does not read its lines, or while the last lines for it are unsent.
const GUEST_CHECK_EVERY: Duration = Duration::from_secs(1);

/// Whether a client answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Responsiveness {
    /// The client has sent something since the last ping.
    Responsive,
    /// The client was pinged at this time in ms, and has not answered yet.
    Pinged(i64),
    /// The client did not answer in time, and counts as offline.
    Unresponsive,
}

/// A connected client.
pub struct ClientConnection {
    socket: ClientSocket,
    /// The machine and the processes of the client.
    pub origin: Origin,
    /// Received bytes whose lines have not been served yet.
    pub input: LineBuffer,
    /// Whether the last turn may have left lines that were read but not served.
    pub has_more: bool,
    /// Whether a check for silence is planned for this client.
    pub has_check: bool,
    /// Whether the mesh was told that the client has hung up.
    pub is_detached: bool,
    /// The response to each request of a client that the broker does not serve. `None` if the broker serves the client.
    /// Only clients on other machines are refused: a client that runs slm-mesh 0.1.0, and a client whose machine has a
    /// name that is already taken.
    pub refusal: Option<Error>,
    /// Whether the socket may have bytes to read. The poll reports new bytes only once, so the report is stored here.
    is_readable: bool,
    /// Whether the socket may accept bytes.
    is_writable: bool,
    /// Whether the poll also reports when the socket accepts bytes again. The broker requests this report only after
    /// the socket has refused bytes. Otherwise, each line that the client reads would wake the event loop.
    watches_writable: bool,
    /// Whether the client has closed its side of the stream. Earlier bytes may be unread, and the broker must read
    /// them.
    is_half_closed: bool,
    /// Set when the client has hung up, or must be dropped after its output has been sent.
    is_closed: bool,
    /// Whether the client has too much unread output, or has been silent for too long. Such a client gets no more
    /// output.
    is_muted: bool,
    output: Vec<u8>,
    sent: usize,
    last_heard: i64,
    liveness: Responsiveness,
    tag: QueueTag,
    /// The turn in which the client was last served, or in which it connected.
    last_turn: u64,
    /// Whether the client has sent something, or has proven that it knows the secret.
    has_spoken: bool,
}

impl ClientConnection {
    /// Creates the state of a connection that a client opens in this turn.
    pub fn new(socket: ClientSocket, origin: Origin, turn: u64, now: i64) -> ClientConnection {
        let is_guest = matches!(socket, ClientSocket::Guest(_));
        ClientConnection {
            socket,
            origin,
            input: LineBuffer::default(),
            has_more: false,
            has_check: false,
            is_detached: false,
            refusal: None,
            // If bytes arrived before the socket was registered, the poll still reports them. But a guest's first lines
            // may have been read together with the end of the handshake.
            is_readable: is_guest,
            is_writable: true,
            watches_writable: false,
            is_half_closed: false,
            is_closed: false,
            is_muted: false,
            output: Vec::new(),
            sent: 0,
            last_heard: now,
            liveness: Responsiveness::Responsive,
            tag: QueueTag::default(),
            last_turn: turn,
            has_spoken: is_guest,
        }
    }

    /// Whether the client is on another machine.
    pub fn is_guest(&self) -> bool {
        matches!(self.socket, ClientSocket::Guest(_))
    }

    /// Records what the poll has reported.
    pub fn note_ready(&mut self, event: &Event) {
        if let ClientSocket::Guest(stream) = &mut self.socket {
            stream.note_event(event);
            self.is_readable |= event.is_read_closed() || event.is_error();
        }
        self.is_readable |= event.is_readable();
        self.is_writable |= event.is_writable();
        self.is_half_closed |= event.is_read_closed();
    }

    /// Reads once from the client, through the shared buffer. Returns whether any bytes were read.
    pub fn fill(&mut self, buffer: &mut [u8]) -> bool {
        match self.socket.read(buffer) {
            Ok(0) => {
                self.is_closed = true;
                self.is_readable = false;
            }
            Ok(n) => {
                self.has_spoken = true;
                self.input.push(&buffer[..n]);
                // After a short read, the socket is empty, and new bytes will cause a new event. But after the end of
                // the stream has been reported, no further event follows, so reading continues. A guest's socket may
                // hold more lines even after a short read.
                self.is_readable = n == buffer.len() || self.is_half_closed || self.is_guest();
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_readable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                self.is_closed = true;
                self.is_readable = false;
                self.discard_output();
            }
        }
        false
    }

    /// Queues a line. A client with too much unread output is dropped instead.
    pub fn write(&mut self, line: &str) {
        if self.is_muted {
            return;
        }
        if self.n_unsent() + line.len() > OUTPUT_MAX {
            (self.is_closed, self.is_muted) = (true, true);
            // The remaining requests are dropped as well, because their responses would need unbounded memory.
            (self.input, self.is_readable, self.has_more) = (LineBuffer::default(), false, false);
            self.discard_output();
            return;
        }
        self.output.extend_from_slice(line.as_bytes());
    }

    /// Sends as much as the socket accepts.
    pub fn flush(&mut self) {
        self.send_kept();
        while self.is_writable && self.sent < self.output.len() {
            match self.socket.write(&self.output[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.is_closed = true;
                    self.sent = self.output.len();
                }
            }
        }
        if self.n_unsent() == 0 {
            self.output.clear();
            self.sent = 0;
            if self.output.capacity() > READ_MAX {
                self.output = Vec::new();
            }
        } else if self.sent >= self.n_unsent() {
            // A client may read all the time and yet never catch up. If sent bytes were not removed, they would fill
            // the memory.
            self.output.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Sends the bytes that a guest's socket has kept.
    fn send_kept(&mut self) {
        if let ClientSocket::Guest(stream) = &mut self.socket
            && self.is_writable
            && let Err(error) = stream.flush()
        {
            self.is_writable = false;
            if error.kind() != io::ErrorKind::WouldBlock {
                self.is_closed = true;
                self.sent = self.output.len();
            }
        }
    }

    /// Pings a guest if a ping is due. Closes the connection if the guest has been silent for too long.
    pub fn check_guest(&mut self, now: Instant) {
        let is_read_ahead = self.is_read_ahead();
        let ClientSocket::Guest(stream) = &mut self.socket else { return };
        let ahead = if is_read_ahead { stream.read_ahead() } else { Ok(false) };
        match ahead.and_then(|has_more| stream.check_liveness(now).map(|()| has_more)) {
            Ok(has_more) => self.is_readable |= has_more || stream.has_received(),
            Err(_) => {
                // More output would never be sent, and would keep the connection.
                (self.is_closed, self.is_muted, self.is_readable) = (true, true, false);
                self.discard_output();
            }
        }
    }

    /// Whether a guest's messages must be taken from the network before the broker reads the guest's lines. A guest
    /// that waits for its turn, or does not read its answers, may have sent a sign of life that the broker has not read
    /// yet.
    pub fn is_read_ahead(&self) -> bool {
        self.is_guest() && (self.is_readable || self.is_backpressured())
    }

    /// The time at which an idle guest that remains silent needs a ping or counts as gone. Returns `None` for other
    /// clients, because their checks must not be postponed.
    pub fn idle_guest_deadline(&self) -> Option<Instant> {
        match &self.socket {
            ClientSocket::Guest(stream) if !self.is_closed && !self.is_read_ahead() => Some(stream.deadline()),
            ClientSocket::Guest(_) | ClientSocket::Local(_) => None,
        }
    }

    /// When [`ClientConnection::check_guest`] must be called next; `None` if the client is on this machine.
    pub fn next_guest_check(&self) -> Option<Instant> {
        let ClientSocket::Guest(stream) = &self.socket else { return None };
        // A closed connection may wait until its last lines are sent. If the guest is gone, only a check ends this wait.
        let soon = Instant::now() + GUEST_CHECK_EVERY;
        Some(if self.is_closed {
            soon
        } else if self.is_read_ahead() {
            stream.deadline().min(soon)
        } else {
            stream.deadline()
        })
    }

    /// Returns the time of the next [`ClientConnection::check_guest`] if this time may be earlier than it was after the
    /// last check.
    pub fn sooner_guest_check(&mut self) -> Option<Instant> {
        let ClientSocket::Guest(stream) = &mut self.socket else { return None };
        if stream.take_activity() { self.next_guest_check() } else { None }
    }

    /// Tells the poll which events to report. Must be called after each flush.
    pub fn watch(&mut self, registry: &Registry, token: u64) {
        let ClientSocket::Local(stream) = &mut self.socket else { return };
        if self.watches_writable != self.is_writable {
            return;
        }
        self.watches_writable = !self.is_writable;
        let interest = if self.watches_writable { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        // After a failure, no event will report when the socket accepts bytes again, so the connection is closed.
        self.is_closed |= registry.reregister(stream, Token(token as usize), interest).is_err();
    }

    /// Removes the socket from the poll before the socket is dropped.
    pub fn deregister(&mut self, registry: &Registry) {
        // A failure is harmless. Dropping the socket also removes it from the poll.
        let _ = self.socket.deregister(registry);
    }

    /// Stops serving the client, and drops it after its output has been sent.
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    /// Returns true if the client has hung up or must be dropped.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether the client has closed its side of the stream.
    pub fn is_half_closed(&self) -> bool {
        self.is_half_closed
    }

    /// Returns true if there may be input to read or requests to serve.
    pub fn has_input(&self) -> bool {
        self.is_readable && !self.is_closed || self.has_more
    }

    /// Whether the client has so much unread output that no more requests are read.
    pub fn is_backpressured(&self) -> bool {
        self.n_unsent() > BACKPRESSURE_AT && !self.is_closed
    }

    /// Whether the client can be served without waiting for an event.
    pub fn wants_turn(&self) -> bool {
        self.has_input() && !self.is_backpressured() || self.is_done()
    }

    /// Whether the client has hung up, all of its requests are served, and all of its output is sent.
    pub fn is_done(&self) -> bool {
        self.is_closed && !self.has_more && self.is_flushed()
    }

    fn is_flushed(&self) -> bool {
        self.n_unsent() == 0 && !self.socket.has_unsent()
    }

    fn n_unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    fn discard_output(&mut self) {
        self.output.clear();
        self.sent = 0;
        if let ClientSocket::Guest(stream) = &mut self.socket {
            stream.discard_unsent();
        }
    }

    /// When the client last sent something, in ms.
    pub fn last_heard(&self) -> i64 {
        self.last_heard
    }

    /// Returns true if the client may be dropped to make room. Such a client either connected in an earlier turn and
    /// has sent nothing yet, or has been silent for `IDLE_MS` and has no unsent output.
    pub fn is_idle(&self, turn: u64, now: i64) -> bool {
        let is_silent = !self.has_spoken && !self.is_new(turn);
        is_silent || now - self.last_heard >= IDLE_MS && self.is_flushed()
    }

    /// Returns true if the client has sent something or has proven that it knows the secret.
    pub fn has_spoken(&self) -> bool {
        self.has_spoken
    }

    /// Whether the client has connected so recently that it may have unread input.
    pub fn is_new(&self, turn: u64) -> bool {
        !self.has_spoken && (self.is_readable || self.last_turn == turn)
    }

    /// Records how long the client's requests took in this turn. Returns the client's virtual start time in the fair
    /// queue.
    pub fn note_served(&mut self, work: Duration, turn: u64, time: u64) -> u64 {
        let start = self.tag.start(time);
        self.last_turn = turn;
        self.tag = self.tag.after(time, work);
        start
    }

    /// Whether the client took longer than its share when it was last served.
    pub fn is_costly(&self) -> bool {
        self.tag.is_costly()
    }

    /// Returns the client's position in the order of service.
    pub fn rank(&self, time: u64) -> ServiceRank {
        // A client that has hung up is served first, but only once. If it left many requests, the remaining ones wait
        // in the queue.
        if self.is_half_closed && !self.has_more {
            ServiceRank::HungUp
        } else {
            ServiceRank::Queued(self.tag.finish(time))
        }
    }

    /// The turn in which the client was last served, or in which it connected.
    pub fn last_turn(&self) -> u64 {
        self.last_turn
    }

    /// Records that the client has sent something. Returns true if the client counted as offline before.
    pub fn note_heard(&mut self, now: i64) -> bool {
        self.last_heard = now;
        std::mem::replace(&mut self.liveness, Responsiveness::Responsive) == Responsiveness::Unresponsive
    }

    /// Whether the client has been silent for the heartbeat time and has not been pinged yet.
    pub fn needs_ping(&self, heartbeat_ms: i64, now: i64) -> bool {
        self.liveness == Responsiveness::Responsive && now - self.last_heard >= heartbeat_ms
    }

    /// Records that the client was pinged.
    pub fn note_ping(&mut self, now: i64) {
        self.liveness = Responsiveness::Pinged(now);
    }

    /// If the client did not answer a ping in time, marks the client as unresponsive and returns true.
    pub fn gives_up(&mut self, limits: LivenessLimits, now: i64) -> bool {
        let is_late = matches!(self.liveness, Responsiveness::Pinged(at) if now - at >= limits.answer_ms());
        if is_late {
            self.liveness = Responsiveness::Unresponsive;
        }
        is_late
    }

    /// When the client must next be pinged or marked as unresponsive, in ms; `None` if it is already unresponsive.
    pub fn deadline(&self, limits: LivenessLimits) -> Option<i64> {
        match self.liveness {
            Responsiveness::Responsive => Some(self.last_heard + limits.heartbeat_ms),
            Responsiveness::Pinged(at) => Some(at + limits.answer_ms()),
            Responsiveness::Unresponsive => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::encrypted_stream_to_guest::tests::pair;
    use mio::net::UnixStream;

    #[test]
    fn a_closed_client_that_does_not_read_its_answers_gives_the_loop_no_work() {
        let (stream, _other) = UnixStream::pair().unwrap();
        let origin = Origin::Local { pid: 1, ancestors: None };
        let mut client = ClientConnection::new(ClientSocket::Local(stream), origin, 0, 0);
        while !client.is_backpressured() {
            client.write(&"x".repeat(READ_MAX));
            client.flush();
        }
        client.is_readable = true;
        client.close();
        assert!(!client.is_done() && !client.wants_turn());
    }

    #[test]
    fn a_guest_that_has_vanished_is_dropped_although_more_lines_are_sent_to_it() {
        let (stream, _guest) = pair();
        let origin = Origin::remote(std::net::Ipv4Addr::LOCALHOST.into());
        let mut client = ClientConnection::new(ClientSocket::Guest(Box::new(stream)), origin, 0, 0);
        while client.is_writable {
            client.write(&"x".repeat(READ_MAX));
            client.flush();
        }
        assert!(client.n_unsent() > 0 && !client.is_done());
        client.check_guest(Instant::now() + Duration::from_secs(60));
        client.write("a message that comes later");
        client.flush();
        assert!(client.is_done());
    }
}
