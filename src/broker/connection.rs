//! One client on the Unix socket: bytes in, bytes out, both bounded.

use crate::base::process::Process;
use crate::sys::process;
use crate::wire::lines::Lines;
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use serde_json::{Map, Value};
use std::io::{self, Read, Write};

/// Bytes read from a client in one turn.
pub const READ_MAX: usize = 64 * 1024;
/// Unread answers from which on no more requests are read.
const STUFFED: usize = 256 * 1024;
/// Unread answers and pushes at which a client is dropped: it will never read them.
const OUTPUT_MAX: usize = 4 << 20;

/// A client that speaks for nobody and was silent for this long makes room for others, ms.
const IDLE_MS: i64 = 1_000;

/// From where a client on another machine says that it comes.
#[derive(Debug, Default)]
pub struct Whence {
    /// Its machine.
    pub host: String,
    /// Its user.
    pub user: String,
    /// The processes above it.
    pub chain: Vec<Process>,
}

impl Whence {
    /// Reads what it said, as far as it makes sense.
    pub fn read(params: &Map<String, Value>) -> Whence {
        let word = |name: &str| -> String {
            let text = params.get(name).and_then(Value::as_str).unwrap_or("");
            text.chars().filter(|c| !c.is_control() && *c != '@' && *c != '/').take(64).collect()
        };
        let host = word("host");
        // A process of one machine must not be taken for one of another with the same number.
        let salt = host
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let read = |row: &Value| {
            let start = row[1].as_u64()?.wrapping_add(salt);
            Some(Process { pid: row[0].as_i64()?, start, wrapper: row[2].as_bool()? })
        };
        let rows = params.get("chain").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        Whence { user: word("user"), chain: rows.iter().take(64).filter_map(read).collect(), host }
    }
}

/// A client.
pub struct Connection {
    /// Its socket.
    pub stream: UnixStream,
    /// What it sent and is not yet taken.
    pub input: Lines,
    /// The socket may have bytes: poll tells only once.
    pub readable: bool,
    /// More lines were read than one turn serves.
    pub has_more: bool,
    /// The socket may take bytes.
    pub writable: bool,
    /// It is watched for room: only while it takes none. Each line that a client reads makes room, which
    /// would wake the loop for nothing.
    watches_room: bool,
    /// Its end of the stream is announced; what it sent before is still to be read.
    pub ends: bool,
    /// It hung up, or shall be: dropped as soon as it is flushed.
    pub closed: bool,
    /// It was told to the mesh that it hung up.
    pub left: bool,
    /// When a ping went to it that it did not answer yet, ms.
    pub asked: Option<i64>,
    /// It speaks for a peer, so its silence matters.
    pub watched: bool,
    /// It did not read what it asked for, so nothing more is said to it.
    cut: bool,
    output: Vec<u8>,
    sent: usize,
    pid: i64,
    far: bool,
    chain: Option<(Vec<Process>, bool)>,
    last_heard: i64,
    mute: bool,
}

impl Connection {
    /// A client that just connected.
    pub fn new(stream: UnixStream, pid: i64, now: i64) -> Connection {
        Connection {
            stream,
            input: Lines::default(),
            readable: true,
            has_more: false,
            writable: true,
            watches_room: false,
            ends: false,
            closed: false,
            left: false,
            asked: None,
            watched: false,
            cut: false,
            output: Vec::new(),
            sent: 0,
            pid,
            far: false,
            chain: None,
            last_heard: now,
            mute: false,
        }
    }

    /// Reads one buffer, which is the loop's own; whether anything came.
    pub fn fill(&mut self, buffer: &mut [u8]) -> bool {
        match self.stream.read(buffer) {
            Ok(0) => {
                self.closed = true;
                self.readable = false;
            }
            Ok(n) => {
                self.input.push(&buffer[..n]);
                // A short read emptied the socket: the next byte brings a new event. The end of the
                // stream does not, if its event came together with these bytes.
                self.readable = n == buffer.len() || self.ends;
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                self.closed = true;
                self.readable = false;
                self.output.clear();
                self.sent = 0;
            }
        }
        false
    }

    /// Puts a line behind what waits to leave.
    pub fn write(&mut self, line: &str) {
        if self.cut {
            return;
        }
        if self.output.len() - self.sent + line.len() > OUTPUT_MAX {
            (self.closed, self.cut) = (true, true);
            // Nor is what it still says heard: it would be served without a bound.
            (self.input, self.readable, self.has_more) = (Lines::default(), false, false);
            self.output.clear();
            self.sent = 0;
            return;
        }
        self.output.extend_from_slice(line.as_bytes());
    }

    /// Sends what the socket takes.
    pub fn flush(&mut self) {
        while self.writable && self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.closed = true;
                    self.sent = self.output.len();
                }
            }
        }
        if self.is_flushed() {
            self.output.clear();
            self.sent = 0;
            if self.output.capacity() > READ_MAX {
                self.output = Vec::new();
            }
        }
    }

    /// Watches the socket for what is waited for, after a flush.
    pub fn watch(&mut self, registry: &Registry, token: u64) {
        if self.watches_room == self.writable {
            self.watches_room = !self.writable;
            let room = if self.watches_room { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            // Without it nobody would tell when there is room again.
            self.closed |= registry.reregister(&mut self.stream, Token(token as usize), room).is_err();
        }
    }

    /// Nothing waits to leave.
    pub fn is_flushed(&self) -> bool {
        self.sent == self.output.len()
    }

    /// So much waits to leave that nothing more is read.
    pub fn is_stuffed(&self) -> bool {
        self.output.len() - self.sent > STUFFED && !self.closed
    }

    /// It can go on at once.
    pub fn wants_turn(&self) -> bool {
        (self.readable || self.has_more) && !self.is_stuffed() || self.is_done()
    }

    /// It hung up, all that it said was heard, and what it can still hear was said.
    pub fn is_done(&self) -> bool {
        self.closed && !self.has_more && self.is_flushed()
    }

    /// When it was heard last, ms.
    pub fn last_heard(&self) -> i64 {
        self.last_heard
    }

    /// Whether it has said nothing for a while, and waits for nothing that it asked.
    pub fn is_idle(&self, now: i64) -> bool {
        now - self.last_heard >= IDLE_MS && self.is_flushed()
    }

    /// Notes a sign of life; true if it had been given up.
    pub fn heard(&mut self, now: i64) -> bool {
        self.last_heard = now;
        self.asked = None;
        std::mem::replace(&mut self.mute, false)
    }

    /// Whether it has been quiet for a heartbeat and was not asked yet.
    pub fn is_quiet(&self, heartbeat_ms: i64, now: i64) -> bool {
        self.asked.is_none() && !self.mute && now - self.last_heard >= heartbeat_ms
    }

    /// Whether it is to be given up now, because it did not answer.
    pub fn is_mute(&mut self, dead_ms: i64, now: i64) -> bool {
        let gives_up = !self.mute && self.asked.is_some() && now - self.last_heard >= dead_ms;
        self.mute |= gives_up;
        gives_up
    }

    /// When its silence matters next, ms.
    pub fn deadline(&self, heartbeat_ms: i64, dead_ms: i64) -> Option<i64> {
        if !self.watched || self.mute {
            return None;
        }
        Some(self.last_heard + if self.asked.is_some() { dead_ms.max(heartbeat_ms) } else { heartbeat_ms })
    }

    /// The client's own process.
    pub fn process(&self) -> Option<Process> {
        process::itself(self.pid)
    }

    /// It comes from another machine, whose kernel we can't ask.
    pub fn come_from(&mut self, whence: Whence) {
        self.far = true;
        self.chain = Some((whence.chain, true));
    }

    /// Whether it comes from another machine.
    pub fn is_far(&self) -> bool {
        self.far
    }

    /// The processes above the client, read once; `wrappers` as [`process::ancestors`] says.
    pub fn chain(&mut self, wrappers: bool) -> &[Process] {
        if self.chain.as_ref().is_none_or(|(_, known)| wrappers && !known) {
            self.chain = Some((process::ancestors(self.pid, wrappers), wrappers));
        }
        self.chain.as_ref().map_or(&[], |(chain, _)| chain)
    }
}
