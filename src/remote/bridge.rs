//! The bridge: WebSocket frames on one side, sealed but for who only listens, lines on a socket pair on
//! the other.
//!
//! **Invariant:** neither side is read faster than the other takes it, so that a slow one costs a
//! bounded buffer and never a wait.

use super::auth::Seal;
use super::{DEAD_MS, PING_MS};
use crate::wire::lines::Lines;
use mio::event::Event;
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};
use tungstenite::{Error, Message, WebSocket};

/// Bytes for the pair from which on no more frames are read.
const HELD_MAX: usize = 256 << 10;
/// Frames and reads that one turn serves, so that other bridges get theirs.
const TURN_MAX: usize = 32;

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pumped {
    /// Nothing is left to do before the next event.
    Rests,
    /// There is more; come back without waiting.
    Again,
    /// One of the sides is gone.
    Ends,
}

#[derive(Debug, Clone, Copy)]
struct Ready {
    network: bool,
    pair: bool,
    /// The other end of the pair is closed: an edge that no short read hides.
    pair_ends: bool,
}

/// A bridge.
pub struct Bridge<S> {
    socket: WebSocket<S>,
    seal: Option<Seal>,
    /// Our end of the pair.
    pair: UnixStream,
    token: Token,
    /// What may be read without waiting: edges are told once, and a read that would block is a call
    /// for nothing.
    ready: Ready,
    /// The pair is watched for room, too: only while `held` waits for it, since each line that the other
    /// end takes makes room, which would wake us.
    wants_room: bool,
    lines: Lines,
    /// Lines for the pair that it has not taken.
    held: Vec<u8>,
    /// The socket has frames that were not taken by the network.
    full: bool,
    heard: Instant,
    pinged: Instant,
}

impl<S: Read + Write> Bridge<S> {
    /// Over a socket on which both sides have proven themselves; watches the pair under this token.
    ///
    /// # Errors
    /// When the pair can't be watched.
    pub fn new(
        socket: WebSocket<S>,
        seal: Option<Seal>,
        mut pair: UnixStream,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Bridge<S>> {
        registry.register(&mut pair, token, Interest::READABLE)?;
        let now = Instant::now();
        Ok(Bridge {
            socket,
            seal,
            pair,
            token,
            // What came before we looked has no edge of its own any more.
            ready: Ready { network: true, pair: true, pair_ends: false },
            wants_room: false,
            lines: Lines::default(),
            held: Vec::new(),
            full: false,
            heard: now,
            pinged: now,
        })
    }

    /// The network's stream.
    pub fn stream(&mut self) -> &mut S {
        self.socket.get_mut()
    }

    /// Notes what an event says.
    pub fn note(&mut self, event: &Event) {
        if event.token() == self.token {
            self.ready.pair |= event.is_readable();
            self.ready.pair_ends |= event.is_read_closed();
        } else {
            self.ready.network |= event.is_readable() || event.is_read_closed() || event.is_error();
        }
    }

    /// Carries what can be carried.
    pub fn pump(&mut self, registry: &Registry) -> Pumped {
        let pumped = self.carry();
        let wants_room = !self.held.is_empty();
        if pumped != Pumped::Ends && wants_room != self.wants_room {
            self.wants_room = wants_room;
            let interest = if wants_room { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            if registry.reregister(&mut self.pair, self.token, interest).is_err() {
                return Pumped::Ends;
            }
        }
        pumped
    }

    fn carry(&mut self) -> Pumped {
        let (inward, outward) = (self.inward(), self.outward());
        match (inward, outward) {
            (Pumped::Ends, _) | (_, Pumped::Ends) => {
                self.farewell();
                Pumped::Ends
            }
            (Pumped::Again, _) | (_, Pumped::Again) => Pumped::Again,
            _ => Pumped::Rests,
        }
    }

    /// From the network to the pair.
    fn inward(&mut self) -> Pumped {
        for _ in 0..TURN_MAX {
            if !self.give() {
                return Pumped::Ends;
            }
            if self.held.len() > HELD_MAX || !self.ready.network {
                return Pumped::Rests;
            }
            match self.socket.read() {
                Ok(Message::Text(frame)) => {
                    self.heard = Instant::now();
                    let text = match &mut self.seal {
                        Some(seal) => seal.open(&frame),
                        None => Some(frame.as_str()),
                    };
                    let Some(text) = text else { return Pumped::Ends };
                    self.held.extend_from_slice(text.as_bytes());
                    self.held.push(b'\n');
                }
                Ok(Message::Close(_)) => return Pumped::Ends,
                Ok(_) => self.heard = Instant::now(),
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => self.ready.network = false,
                Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Pumped::Ends,
            }
        }
        if self.give() { Pumped::Again } else { Pumped::Ends }
    }

    /// Writes to the pair what it takes; false when it is gone.
    fn give(&mut self) -> bool {
        let mut n_given = 0;
        while n_given < self.held.len() {
            match self.pair.write(&self.held[n_given..]) {
                Ok(n) => n_given += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.held.drain(..n_given);
        true
    }

    /// From the pair to the network.
    fn outward(&mut self) -> Pumped {
        let mut buffer = [0; 16 << 10];
        for _ in 0..TURN_MAX {
            match self.push() {
                Some(true) => {}
                Some(false) => return Pumped::Rests,
                None => return Pumped::Ends,
            }
            if !self.ready.pair && !self.ready.pair_ends {
                return Pumped::Rests;
            }
            match self.pair.read(&mut buffer) {
                Ok(0) => return Pumped::Ends,
                Ok(n) => {
                    // What comes after a short read is a new edge.
                    self.ready.pair = n == buffer.len();
                    self.lines.push(&buffer[..n]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.ready.pair = false;
                    return Pumped::Rests;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return Pumped::Ends,
            }
            if !self.frame_lines() {
                return Pumped::Ends;
            }
        }
        Pumped::Again
    }

    /// Makes frames of whole lines; false when they can't be sent.
    fn frame_lines(&mut self) -> bool {
        loop {
            let line = match self.lines.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => return true,
                Err(_) => return false,
            };
            let Ok(text) = std::str::from_utf8(line) else { return false };
            let frame = self.seal.as_mut().map_or_else(|| text.to_owned(), |seal| seal.close(text));
            match self.socket.write(Message::text(frame)) {
                Ok(()) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => self.full = true,
                Err(_) => return false,
            }
        }
    }

    /// Sends what the network takes: whether that was all, or `None` when it is gone.
    fn push(&mut self) -> Option<bool> {
        match self.socket.flush() {
            Ok(()) => self.full = false,
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => self.full = true,
            Err(_) => return None,
        }
        Some(!self.full)
    }

    /// Asks for a sign of life when it is time; false when the other side gave none for too long.
    pub fn watch(&mut self, now: Instant) -> bool {
        if now.duration_since(self.heard) >= Duration::from_millis(DEAD_MS) {
            return false;
        }
        // A question of the other side's is a sign of life, too: one of the two asks, not both.
        if now.duration_since(self.heard.max(self.pinged)) >= Duration::from_millis(PING_MS) {
            self.pinged = now;
            // One that can't be written is not answered either.
            let _ = self.socket.write(Message::Ping(Vec::new().into())).and_then(|()| self.socket.flush());
        }
        true
    }

    /// When it wants to be watched next.
    pub fn due(&self) -> Instant {
        (self.heard + Duration::from_millis(DEAD_MS)).min(self.heard.max(self.pinged) + Duration::from_millis(PING_MS))
    }

    /// Says good-bye, if there is still somebody to hear it.
    fn farewell(&mut self) {
        let _ = self.give();
        let _ = self.socket.close(None).and_then(|()| self.socket.flush());
    }
}
