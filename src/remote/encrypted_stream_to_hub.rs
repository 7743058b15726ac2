//! The guest's end of a connection to a hub. It is a stream of lines, like a socket. It encrypts what is written, and
//! decrypts what arrives. It ends when the hub has been silent for too long.
//!
//! The stream has no thread of its own. Instead, a thread that waits for lines also sends the pings and pongs.
//!
//! **Invariant:** no thread waits while it holds the lock, so one thread can write while another one waits for lines.

use super::encrypted_messages::{self, Received};
use super::guest_handshake_with_hub::SecondOpinion;
use super::hub_socket_with_deadline::HubSocket;
use super::liveness::{Liveness, PING_AFTER_LINES};
use super::noise::{ContentKind, NoiseChannel};
use crate::sys::socket_wait::{SocketEvent, wait_for};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tungstenite::{Error, Message, WebSocket};

/// How many decrypted bytes may wait for a reader before the stream stops reading from the network.
const WAITING_MAX: usize = 256 << 10;
/// Maximum number of bytes in one message, not counting the encryption.
const CONTENT_MAX: usize = 16 << 10;
/// How long the network may take to accept what is written.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// A handle of the connection. Several threads can each have a handle. The connection ends when the last handle is
/// dropped.
pub struct HubStream {
    shared: Arc<Shared>,
    /// How long a read waits before it fails; `None` if it waits without a limit.
    read_timeout: Option<Duration>,
    /// Whether a read or a write fails with `WouldBlock` instead of waiting.
    is_nonblocking: bool,
}

struct Shared {
    network: Arc<TcpStream>,
    connection: Mutex<Connection>,
}

struct Connection {
    socket: WebSocket<HubSocket>,
    channel: Box<NoiseChannel>,
    liveness: Liveness,
    second_opinion: Option<SecondOpinion>,
    /// Decrypted bytes that have not been read yet.
    lines: Vec<u8>,
    has_ended: bool,
}

impl HubStream {
    /// Makes a stream over a connection whose hub has proven that it knows the secret.
    ///
    /// # Errors
    /// When the socket is gone.
    pub(super) fn new(
        mut socket: WebSocket<HubSocket>,
        channel: NoiseChannel,
        second_opinion: Option<SecondOpinion>,
    ) -> io::Result<HubStream> {
        socket.get_mut().end_handshake()?;
        let network = socket.get_ref().network();
        let now = Instant::now();
        let liveness =
            if second_opinion.is_some() { Liveness::of_one_of_several_hubs(now) } else { Liveness::of_hub(now) };
        let channel = Box::new(channel);
        let connection = Connection { socket, channel, liveness, second_opinion, lines: Vec::new(), has_ended: false };
        let shared = Arc::new(Shared { network, connection: Mutex::new(connection) });
        Ok(HubStream { shared, read_timeout: None, is_nonblocking: false })
    }

    /// Makes another handle of the same connection, for another thread.
    #[must_use]
    pub fn another(&self) -> HubStream {
        HubStream { shared: Arc::clone(&self.shared), read_timeout: None, is_nonblocking: false }
    }

    /// Sets how long a read waits before it fails with `WouldBlock`. With `None`, there is no limit.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }

    /// Sets whether a read or a write fails with `WouldBlock` instead of waiting.
    pub fn set_nonblocking(&mut self, nonblocking: bool) {
        self.is_nonblocking = nonblocking;
    }

    /// Ends the connection. With `Shutdown::Write`, the hub receives everything that was written, and then closes the
    /// connection.
    pub fn shutdown(&self, how: Shutdown) {
        if how == Shutdown::Write {
            self.shared.lock().say_goodbye();
        } else {
            // The connection may already have ended.
            let _ = self.shared.network.shutdown(how);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read for HubStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let timeout = if self.is_nonblocking { Some(Duration::ZERO) } else { self.read_timeout };
        let began = Instant::now();
        let end = timeout.map(|timeout| began + timeout);
        loop {
            let now = Instant::now();
            let check_at = {
                let mut connection = self.shared.lock();
                connection.receive(now);
                if !connection.lines.is_empty() {
                    return Ok(connection.take_lines(buffer));
                }
                connection.check_liveness(now, &self.shared.network);
                if connection.has_ended {
                    return Ok(0);
                }
                // While this thread waits, another thread may write lines. The next ping is then due sooner than this
                // thread has planned. So this thread wakes up once, after `PING_AFTER_LINES`, and plans again. After
                // that, the other thread itself sends a due ping together with its lines.
                match began + PING_AFTER_LINES {
                    at if at > now => at.min(connection.liveness.deadline()),
                    _ => connection.liveness.deadline(),
                }
            };
            if end.is_some_and(|end| now >= end) {
                return Err(ErrorKind::WouldBlock.into());
            }
            let wait = end.map_or(check_at, |end| end.min(check_at)).saturating_duration_since(now);
            wait_for(&self.shared.network, SocketEvent::Readable, wait)?;
        }
    }
}

impl Write for HubStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut is_sent = {
            let mut connection = self.shared.lock();
            if self.is_nonblocking && !connection.flush()? {
                return Err(ErrorKind::WouldBlock.into());
            }
            // All bytes are queued under one lock, so that lines of two threads are not mixed.
            connection.write_lines(bytes)?;
            connection.flush()? || self.is_nonblocking
        };
        let end = Instant::now() + WRITE_MAX;
        while !is_sent {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            wait_for(&self.shared.network, SocketEvent::ReadableOrWritable, left)?;
            let mut connection = self.shared.lock();
            // The hub may stop reading from this connection until the guest reads, so this loop reads, too. Otherwise,
            // both sides would wait for each other.
            connection.receive(Instant::now());
            is_sent = connection.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for HubStream {
    /// Returns the TCP socket. It becomes readable when lines or pings arrive.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.network.as_fd()
    }
}

impl std::fmt::Debug for HubStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HubStream").field(&self.shared.network).finish()
    }
}

impl Connection {
    /// Receives the messages that have arrived. Stops early if too many bytes wait for a reader.
    fn receive(&mut self, now: Instant) {
        while self.lines.len() < WAITING_MAX && !self.has_ended {
            match self.socket.read() {
                Ok(message) => self.take_message(&message, now),
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return,
                Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.has_ended = true,
            }
        }
    }

    fn take_message(&mut self, message: &Message, now: Instant) {
        match encrypted_messages::receive(&mut self.channel, &mut self.liveness, message, now) {
            Ok(Received::Lines(lines)) => self.lines.extend_from_slice(&lines),
            Ok(Received::Control(reply)) => {
                if let Some(reply) = reply {
                    self.queue(reply);
                }
                // If the network does not accept all bytes now, the next flush sends the rest.
                self.has_ended |= self.flush().is_err();
            }
            Ok(Received::Close) | Err(_) => self.has_ended = true,
        }
    }

    fn take_lines(&mut self, buffer: &mut [u8]) -> usize {
        let n = self.lines.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.lines[..n]);
        self.lines.drain(..n);
        if self.lines.is_empty() && self.lines.capacity() > CONTENT_MAX {
            self.lines = Vec::new();
        }
        n
    }

    fn write_lines(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.has_ended {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let ping = self.liveness.note_sent_after_silence(Instant::now());
        for content in bytes.chunks(CONTENT_MAX) {
            let sealed =
                encrypted_messages::seal(&mut self.channel, ContentKind::Lines, content).map_err(io::Error::other)?;
            self.queue(sealed);
        }
        if let Some(ping) = ping {
            let sealed = encrypted_messages::seal(&mut self.channel, ContentKind::Ping, &ping.to_bytes());
            self.queue(sealed.map_err(io::Error::other)?);
        }
        Ok(())
    }

    /// Queues a message. If the network accepts no more bytes now, the message is sent later.
    fn queue(&mut self, message: Message) {
        match self.socket.write(message) {
            Ok(()) => {}
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.has_ended = true,
        }
    }

    /// Sends as much as the network accepts. Returns whether everything was sent.
    fn flush(&mut self) -> io::Result<bool> {
        match self.socket.flush() {
            Ok(()) if !self.has_ended => Ok(true),
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            _ => {
                self.has_ended = true;
                Err(ErrorKind::BrokenPipe.into())
            }
        }
    }

    /// Sends a ping if one is due, and ends the connection if the hub has been silent for too long.
    fn check_liveness(&mut self, now: Instant, network: &Arc<TcpStream>) {
        self.has_ended |= self.liveness.is_dead(now);
        if self.liveness.doubt_due(now)
            && let Some(second_opinion) = &self.second_opinion
        {
            ask_others(second_opinion, network);
        }
        if let Some(ping) = self.liveness.ping_due(now)
            && let Ok(ping) = encrypted_messages::seal(&mut self.channel, ContentKind::Ping, &ping.to_bytes())
        {
            self.queue(ping);
            self.has_ended |= self.flush().is_err();
        }
    }

    /// Closes the WebSocket, which tells the hub that no more lines follow. This may fail if the connection has already
    /// ended.
    fn say_goodbye(&mut self) {
        let _ = self.socket.close(None).and_then(|()| self.socket.flush());
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.say_goodbye();
    }
}

/// Ends this connection if another hub leads. The current hub may just be slow, so the other hubs are asked on a
/// separate thread. Lines from the current hub then need not wait for the answers of the other hubs.
fn ask_others(second_opinion: &SecondOpinion, network: &Arc<TcpStream>) {
    let (second_opinion, network) = (Arc::clone(second_opinion), Arc::clone(network));
    let ask = move || {
        if second_opinion() {
            // The connection may have ended by itself.
            let _ = network.shutdown(Shutdown::Both);
        }
    };
    // If no thread can be started, the connection ends only when the hub has been silent for too long.
    let _ = std::thread::Builder::new().stack_size(64 * 1024).spawn(ask);
}
