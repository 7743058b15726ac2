//! The hub's side of an encrypted connection to a guest. The broker's poll loop reads and writes it like a socket.
//!
//! **Invariant:** no call blocks. A guest that does not read can fill only a bounded buffer. The connection ends if a
//! message was changed, repeated, reordered or removed on its way.

use super::encrypted_messages::{self, Received};
use super::liveness::Liveness;
use super::noise::{ContentKind, NoiseChannel};
use super::skip_empty_reads_of_guest_socket::GuestSocket;
use mio::event::{Event, Source};
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::time::Instant;
use tungstenite::{Error, Message, WebSocket};

/// Maximum number of bytes that fit into one message.
const MESSAGE_LINES_MAX: usize = 16 << 10;
/// Maximum number of messages that one read takes from the network. With this limit, a guest that sends pings all the
/// time does not delay anybody else.
const MESSAGES_AT_ONCE: usize = 32;
/// While this many bytes wait for the broker, no more are read from the network.
const RECEIVED_MAX: usize = 256 << 10;

/// A connection to a session or a command on another machine. The other side has proven that it knows the secret.
pub struct GuestStream {
    socket: WebSocket<GuestSocket>,
    channel: Box<NoiseChannel>,
    /// Bytes from the guest. The bytes that the broker has not read yet begin at `n_read`.
    received: Vec<u8>,
    n_read: usize,
    /// Whether the guest has closed the connection. The broker may still read what was received before.
    has_ended: bool,
    /// Whether messages wait until the network accepts them.
    is_network_full: bool,
    liveness: Liveness,
    /// Whether the poll has reported an event, or lines were sent, since the last [`GuestStream::take_activity`].
    is_active: bool,
}

impl GuestStream {
    /// Makes a stream after the handshake.
    pub(super) fn new(socket: WebSocket<GuestSocket>, channel: Box<NoiseChannel>) -> GuestStream {
        GuestStream {
            socket,
            channel,
            received: Vec::new(),
            n_read: 0,
            has_ended: false,
            is_network_full: false,
            liveness: Liveness::of_guest(Instant::now()),
            is_active: true,
        }
    }

    /// Records what the poll has reported.
    pub fn note_event(&mut self, event: &Event) {
        self.socket.get_mut().note_event(event.is_read_closed() || event.is_error());
        self.is_active = true;
    }

    /// Whether bytes wait for the broker.
    pub fn has_received(&self) -> bool {
        self.n_read < self.received.len()
    }

    /// Whether messages wait until the network accepts them.
    pub fn has_unsent(&self) -> bool {
        self.is_network_full
    }

    /// Gives up the messages that the network has not accepted. Nothing may be written after this call.
    pub fn discard_unsent(&mut self) {
        self.is_network_full = false;
    }

    /// Takes messages from the network even while the broker does not read the guest's lines. Otherwise, the guest's
    /// pings and answers would be stuck behind its lines. Returns whether there is more to read.
    ///
    /// # Errors
    /// When the connection has failed.
    pub fn read_ahead(&mut self) -> io::Result<bool> {
        let has_more = self.received.len() - self.n_read < RECEIVED_MAX && self.receive()?;
        Ok(has_more || self.has_ended || self.has_received())
    }

    /// Sends a ping if one is due.
    ///
    /// # Errors
    /// When the guest has been silent for too long, or the connection has ended.
    pub fn check_liveness(&mut self, now: Instant) -> io::Result<()> {
        if self.liveness.is_dead(now) {
            // If this process did not run for a while, the poll may not have reported the guest's last message yet.
            self.socket.get_mut().note_event(false);
            self.receive()?;
            if self.liveness.is_dead(now) {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        match self.liveness.ping_due(now) {
            Some(ping) => self.send(ContentKind::Ping, &ping.to_bytes()),
            None => Ok(()),
        }
    }

    /// Returns whether anything has happened since the last call that may make [`GuestStream::deadline`] earlier.
    pub fn take_activity(&mut self) -> bool {
        std::mem::take(&mut self.is_active)
    }

    /// When [`GuestStream::check_liveness`] must be called next, if the guest remains silent.
    pub fn deadline(&self) -> Instant {
        self.liveness.deadline()
    }

    /// Takes messages from the network. Stops when a message contains lines, or when no more have arrived. Returns
    /// whether the network may have more.
    fn receive(&mut self) -> io::Result<bool> {
        for _ in 0..MESSAGES_AT_ONCE {
            if self.has_ended {
                return Ok(false);
            }
            match self.socket.read() {
                Ok(message) => {
                    if self.take_message(&message)? {
                        return Ok(true);
                    }
                }
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.has_ended = true,
            }
        }
        Ok(true)
    }

    /// Handles a message from the guest. Returns whether it contains lines.
    fn take_message(&mut self, message: &Message) -> io::Result<bool> {
        match encrypted_messages::receive(&mut self.channel, &mut self.liveness, message, Instant::now()) {
            Ok(Received::Lines(lines)) => {
                if !self.has_received() {
                    (self.received, self.n_read) = (lines, 0);
                } else {
                    self.received.drain(..std::mem::take(&mut self.n_read));
                    self.received.extend_from_slice(&lines);
                }
                return Ok(self.has_received());
            }
            Ok(Received::Control(Some(reply))) => self.write_message(reply)?,
            Ok(Received::Control(None)) => {}
            Ok(Received::Close) => self.has_ended = true,
            Err(error) => return Err(io::Error::new(ErrorKind::InvalidData, error.to_string())),
        }
        Ok(false)
    }

    fn send(&mut self, kind: ContentKind, content: &[u8]) -> io::Result<()> {
        let sealed = encrypted_messages::seal(&mut self.channel, kind, content);
        self.write_message(sealed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error.to_string()))?)
    }

    /// Sends a message. Keeps what the network does not accept now. A later call sends it.
    fn write_message(&mut self, message: Message) -> io::Result<()> {
        let result = self.socket.write(message);
        self.note_written(result)?;
        self.send_kept()
    }

    /// Sends as much as the network accepts.
    fn send_kept(&mut self) -> io::Result<()> {
        let result = self.socket.flush();
        self.is_network_full = false;
        self.note_written(result)
    }

    fn note_written(&mut self, result: Result<(), Error>) -> io::Result<()> {
        match result {
            Ok(()) => Ok(()),
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                self.is_network_full = true;
                Ok(())
            }
            Err(Error::Io(error)) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

impl Read for GuestStream {
    /// Reads decrypted lines. Returns the error `Interrupted` if the messages that were read contain no lines, but more
    /// messages may be waiting.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.has_received() {
            let has_more = self.receive()?;
            if !self.has_received() {
                return match (self.has_ended, has_more) {
                    (true, _) => Ok(0),
                    (false, true) => Err(ErrorKind::Interrupted.into()),
                    (false, false) => Err(ErrorKind::WouldBlock.into()),
                };
            }
        }
        let n = (&self.received[self.n_read..]).read(buffer)?;
        self.n_read += n;
        if !self.has_received() {
            (self.received, self.n_read) = (Vec::new(), 0);
        }
        Ok(n)
    }
}

impl Write for GuestStream {
    /// Encrypts and sends at most one message.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let n = bytes.len().min(MESSAGE_LINES_MAX);
        self.liveness.note_sent(Instant::now());
        self.is_active = true;
        self.send(ContentKind::Lines, &bytes[..n])?;
        Ok(n)
    }

    /// Sends the kept messages. If the network accepts only a part of them, the error is [`ErrorKind::WouldBlock`].
    fn flush(&mut self) -> io::Result<()> {
        if self.is_network_full {
            self.send_kept()?;
        }
        if self.is_network_full { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }
}

impl Source for GuestStream {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.socket.get_mut().register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.socket.get_mut().reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket.get_mut().deregister(registry)
    }
}

impl Drop for GuestStream {
    /// Tries to send the last messages and to close the WebSocket. Does not wait.
    fn drop(&mut self) {
        let _ = self.socket.close(None).and_then(|()| self.socket.flush());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::noise::tests::connected;
    use super::*;
    use crate::remote::liveness::Heartbeat;
    use std::net::{TcpListener, TcpStream};
    use tungstenite::protocol::Role;

    /// The other side of a [`GuestStream`].
    pub struct Guest {
        socket: WebSocket<TcpStream>,
        channel: NoiseChannel,
        liveness: Liveness,
    }

    impl Guest {
        fn send(&mut self, kind: ContentKind, content: &[u8]) {
            let sealed = encrypted_messages::seal(&mut self.channel, kind, content).expect("a short message");
            self.socket.send(sealed).expect("the hub's socket");
        }

        /// Returns the lines in the next message; `None` if it contains none.
        fn receive(&mut self) -> Option<Vec<u8>> {
            let message = self.socket.read().expect("a message");
            match encrypted_messages::receive(&mut self.channel, &mut self.liveness, &message, Instant::now()) {
                Ok(Received::Lines(lines)) => Some(lines),
                _ => None,
            }
        }
    }

    /// A connection between a hub and a guest on this machine.
    pub fn pair() -> (GuestStream, Guest) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let network = TcpStream::connect(listener.local_addr().expect("an address")).expect("the listener");
        let hub = listener.accept().expect("the guest").0;
        hub.set_nonblocking(true).expect("a socket");
        let (hub_channel, channel) = connected();
        let hub = GuestSocket::new(mio::net::TcpStream::from_std(hub));
        let hub = WebSocket::from_raw_socket(hub, Role::Server, Some(super::super::websocket_config()));
        let socket = WebSocket::from_raw_socket(network, Role::Client, None);
        let guest = Guest { socket, channel, liveness: Liveness::of_hub(Instant::now()) };
        (GuestStream::new(hub, Box::new(hub_channel)), guest)
    }

    /// Calls `step` until it succeeds. Repeats the call only if it would block or was interrupted. Panics on any other
    /// error.
    fn retried<T>(mut step: impl FnMut() -> io::Result<T>) -> T {
        loop {
            match step() {
                Ok(value) => return value,
                Err(error) if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) => {
                    std::thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn a_guest_that_does_not_read_is_still_heard_and_then_gets_every_byte() {
        let (mut hub, mut guest) = pair();
        let bytes: Vec<u8> = (0..8_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut n_written = 0;
        while let Ok(n) = hub.write(&bytes[n_written..]) {
            n_written += n;
        }
        assert!(hub.has_unsent() && n_written < bytes.len(), "the network is full");
        guest.send(ContentKind::Ping, &Heartbeat::answer_to(0).to_bytes());
        guest.send(ContentKind::Lines, b"hello\n");
        while !hub.has_received() {
            hub.read_ahead().and_then(|_| hub.check_liveness(Instant::now())).expect("the guest is alive");
            std::thread::yield_now();
        }
        let reader = std::thread::spawn(move || {
            let (mut read, mut n_pongs) = (Vec::new(), 0);
            while read.len() < 8_000_000 {
                match guest.receive() {
                    Some(lines) => read.extend(lines),
                    None => n_pongs += 1,
                }
            }
            (read, n_pongs)
        });
        while n_written < bytes.len() {
            n_written += retried(|| hub.write(&bytes[n_written..]));
        }
        retried(|| hub.flush());
        let (read, n_pongs) = reader.join().expect("it reads");
        assert!(read == bytes);
        assert_eq!(n_pongs, 1, "the ping was answered although the network was full");
        let mut buffer = [0; 8];
        assert_eq!(hub.read(&mut buffer).expect("the line"), 6);
        assert_eq!(&buffer[..6], b"hello\n");
    }

    #[test]
    fn lines_that_are_read_ahead_do_not_pile_up_behind_a_slow_reader() {
        let (mut hub, mut guest) = pair();
        let (line, mut buffer) = (vec![b'x'; MESSAGE_LINES_MAX], vec![0; MESSAGE_LINES_MAX]);
        for n in 0..40 {
            guest.send(ContentKind::Lines, &line);
            let n_before = hub.received.len() - hub.n_read;
            while hub.received.len() - hub.n_read == n_before {
                hub.read_ahead().expect("the guest is alive");
                std::thread::yield_now();
            }
            // The reader is always one message behind, so the buffer never becomes empty.
            if n > 0 {
                hub.read_exact(&mut buffer).expect("lines");
            }
        }
        assert!(hub.received.len() <= 3 * MESSAGE_LINES_MAX, "{} bytes", hub.received.len());
    }

    #[test]
    fn pings_without_end_do_not_hold_up_a_read_and_the_end_comes_after_the_last_line() {
        let (mut hub, mut guest) = pair();
        for _ in 0..MESSAGES_AT_ONCE + 1 {
            guest.send(ContentKind::Ping, &Heartbeat::answer_to(0).to_bytes());
        }
        guest.send(ContentKind::Lines, b"last\n");
        guest.socket.close(None).expect("the hub's socket");
        guest.socket.flush().expect("the hub's socket");
        let mut buffer = [0; 8];
        let mut n_interrupted = 0;
        let n = loop {
            match hub.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => n_interrupted += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => break result.expect("a line"),
            }
        };
        assert_eq!(&buffer[..n], b"last\n");
        assert!(n_interrupted <= 2, "each read takes many messages");
        assert_eq!(retried(|| hub.read(&mut buffer)), 0);
    }
}
