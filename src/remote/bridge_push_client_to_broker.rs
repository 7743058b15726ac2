//! Carries lines between a local socket pair and the WebSocket of a push client of slm-mesh 1.3. The lines are not
//! encrypted, and each line is one text message.
//!
//! **Invariant:** the bridge reads from each side only as fast as the other side accepts bytes. A slow side needs only
//! a bounded buffer, and does not delay other connections.

use super::liveness::Liveness;
use super::skip_empty_reads_of_guest_socket::GuestSocket;
use crate::wire::line_splitter::LineBuffer;
use mio::event::Event;
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::time::Instant;
use tungstenite::{Error, Message, WebSocket};

/// How many bytes may wait for the socket pair before the bridge stops reading from the network.
const WAITING_MAX: usize = 256 << 10;
/// Maximum number of reads from each side in one turn of a bridge. After these reads, the thread serves the other
/// bridges.
const TURN_MAX: usize = 32;
/// Maximum number of bytes that are read from the socket pair at once.
const READ_LEN: usize = 16 << 10;

/// The result of one turn of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BridgeStatus {
    /// The bridge has nothing to do before the next event.
    Idle,
    /// The bridge has more to do, so the next turn must not wait for an event.
    MoreWork,
    /// One of the two sides is gone.
    Closed,
}

/// Which sides may have unread bytes. The poll reports only changes, so the bridge keeps this record. Without the
/// record, the bridge would have to read from each side in each turn, and most of these reads would find nothing.
#[derive(Debug, Clone, Copy)]
struct Readiness {
    network: bool,
    pair: bool,
    /// Whether the broker has closed its end of the pair. In this case, the bridge reads until the end, even after a
    /// read that did not fill the buffer.
    pair_closed: bool,
}

/// Carries lines between a WebSocket and a socket pair.
pub struct Bridge {
    socket: WebSocket<GuestSocket>,
    /// Lines from the broker that are not complete yet.
    lines: LineBuffer,
    /// The bridge's end of the pair.
    pair: UnixStream,
    token: Token,
    ready: Readiness,
    /// Whether the poll reports an event when the pair accepts bytes again. This is true only while `waiting` contains
    /// bytes. Otherwise, the thread would wake up for each line that the broker reads from the pair.
    watches_room: bool,
    /// Bytes from the network that the pair has not accepted yet.
    waiting: Vec<u8>,
    /// Whether the WebSocket has bytes that the network has not accepted yet.
    is_network_full: bool,
    liveness: Liveness,
}

impl Bridge {
    /// Makes a bridge for the WebSocket of an accepted client. Registers `pair` in the poll under this token.
    ///
    /// # Errors
    /// When the pair can't be registered in the poll.
    pub fn new(
        socket: WebSocket<GuestSocket>,
        mut pair: UnixStream,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Bridge> {
        registry.register(&mut pair, token, Interest::READABLE)?;
        Ok(Bridge {
            socket,
            lines: LineBuffer::default(),
            pair,
            token,
            // Bytes that arrived before the registration cause no event, so the first turn reads from both sides.
            ready: Readiness { network: true, pair: true, pair_closed: false },
            watches_room: false,
            waiting: Vec::new(),
            is_network_full: false,
            liveness: Liveness::of_guest(Instant::now()),
        })
    }

    /// Records which side has become readable.
    pub fn note_event(&mut self, event: &Event) {
        if event.token() == self.token {
            self.ready.pair |= event.is_readable();
            self.ready.pair_closed |= event.is_read_closed();
        } else {
            self.ready.network |= event.is_readable() || event.is_read_closed() || event.is_error();
            self.socket.get_mut().note_event(event.is_read_closed() || event.is_error());
        }
    }

    /// Carries as many lines as one turn allows, in both directions.
    pub fn run_turn(&mut self, registry: &Registry) -> BridgeStatus {
        let status = self.carry_both_ways();
        let watches_room = !self.waiting.is_empty();
        if status != BridgeStatus::Closed && watches_room != self.watches_room {
            self.watches_room = watches_room;
            let interest = if watches_room { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            if registry.reregister(&mut self.pair, self.token, interest).is_err() {
                return BridgeStatus::Closed;
            }
        }
        status
    }

    fn carry_both_ways(&mut self) -> BridgeStatus {
        match (self.carry_inward(), self.carry_outward()) {
            (BridgeStatus::Closed, _) | (_, BridgeStatus::Closed) => {
                self.close();
                BridgeStatus::Closed
            }
            (BridgeStatus::MoreWork, _) | (_, BridgeStatus::MoreWork) => BridgeStatus::MoreWork,
            _ => BridgeStatus::Idle,
        }
    }

    /// Carries bytes from the network to the pair.
    fn carry_inward(&mut self) -> BridgeStatus {
        for _ in 0..TURN_MAX {
            if !self.write_pair() {
                return BridgeStatus::Closed;
            }
            if self.waiting.len() > WAITING_MAX || !self.ready.network {
                return BridgeStatus::Idle;
            }
            match self.socket.read() {
                Ok(message) => {
                    if !self.take_message(&message, Instant::now()) {
                        return BridgeStatus::Closed;
                    }
                }
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => self.ready.network = false,
                Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return BridgeStatus::Closed,
            }
        }
        if self.write_pair() { BridgeStatus::MoreWork } else { BridgeStatus::Closed }
    }

    /// Handles a message from the network. Returns false if the message ends the connection.
    fn take_message(&mut self, message: &Message, now: Instant) -> bool {
        self.liveness.note_message(now);
        if let Message::Text(line) = message {
            self.waiting.extend_from_slice(line.as_bytes());
            self.waiting.push(b'\n');
        }
        !message.is_close()
    }

    /// Writes as much as the pair accepts. Returns false if the pair is gone.
    fn write_pair(&mut self) -> bool {
        let mut n_written = 0;
        while n_written < self.waiting.len() {
            match self.pair.write(&self.waiting[n_written..]) {
                Ok(n) => n_written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.waiting.drain(..n_written);
        true
    }

    /// Carries bytes from the pair to the network.
    fn carry_outward(&mut self) -> BridgeStatus {
        let mut buffer = [0; READ_LEN];
        for _ in 0..TURN_MAX {
            match self.flush() {
                Some(true) => {}
                Some(false) => return BridgeStatus::Idle,
                None => return BridgeStatus::Closed,
            }
            if !self.ready.pair && !self.ready.pair_closed {
                return BridgeStatus::Idle;
            }
            match self.pair.read(&mut buffer) {
                Ok(0) => return BridgeStatus::Closed,
                Ok(n) => {
                    // A read that does not fill the buffer has emptied the socket. The next bytes will cause a new
                    // event.
                    self.ready.pair = n == buffer.len();
                    if !self.write_lines(&buffer[..n]) {
                        return BridgeStatus::Closed;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.ready.pair = false;
                    return BridgeStatus::Idle;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return BridgeStatus::Closed,
            }
        }
        BridgeStatus::MoreWork
    }

    /// Sends bytes from the pair as messages. Returns false if this fails.
    fn write_lines(&mut self, bytes: &[u8]) -> bool {
        self.liveness.note_sent(Instant::now());
        self.lines.push(bytes);
        let texts = texts(&mut self.lines);
        texts.is_some_and(|texts| texts.into_iter().all(|text| self.write_message(Message::text(text))))
    }

    fn write_message(&mut self, message: Message) -> bool {
        match self.socket.write(message) {
            Ok(()) => true,
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                self.is_network_full = true;
                true
            }
            Err(_) => false,
        }
    }

    /// Sends as much as the network accepts. Returns whether everything was sent, or `None` if the network is gone.
    fn flush(&mut self) -> Option<bool> {
        match self.socket.flush() {
            Ok(()) => self.is_network_full = false,
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => self.is_network_full = true,
            Err(_) => return None,
        }
        Some(!self.is_network_full)
    }

    /// Sends a ping if one is due. Returns false if the other side is gone or has been silent for too long.
    pub fn check_liveness(&mut self, now: Instant) -> bool {
        if self.liveness.is_dead(now) {
            return false;
        }
        self.liveness.ping_due(now).is_none()
            || self.write_message(Message::Ping(Vec::new().into())) && self.flush().is_some()
    }

    /// Tries to deliver the last bytes, and closes the WebSocket. Does not wait for a side that accepts no bytes.
    fn close(&mut self) {
        let _ = self.write_pair();
        let _ = self.socket.close(None).and_then(|()| self.socket.flush());
    }
}

/// Returns all complete lines. Returns `None` if a line is too long or is not UTF-8.
fn texts(lines: &mut LineBuffer) -> Option<Vec<String>> {
    let mut texts = Vec::new();
    while let Some(line) = lines.next_line().ok()? {
        texts.push(String::from_utf8(line.to_vec()).ok()?);
    }
    Some(texts)
}
