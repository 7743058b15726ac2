//! The hub's TCP socket to a guest. It skips reads that would find no bytes.

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};

/// A socket to a guest. It never blocks.
#[derive(Debug)]
pub struct GuestSocket {
    network: TcpStream,
    /// Whether the poll has reported an event. Before the first event, no read is skipped, because the poll might not
    /// report bytes that arrived earlier.
    has_had_event: bool,
    /// Whether the guest has closed its side. If so, no read is skipped, because no further event reports unread bytes.
    has_ended: bool,
    /// Whether the socket is empty. This is certain if the last read did not fill the buffer.
    is_empty: bool,
}

impl GuestSocket {
    /// Makes a socket. No read is skipped until the poll has reported an event.
    pub fn new(network: TcpStream) -> GuestSocket {
        GuestSocket { network, has_had_event: false, has_ended: false, is_empty: false }
    }

    /// Records that the poll has reported an event for this socket. `is_read_closed` is true if the guest has closed
    /// its side.
    pub fn note_event(&mut self, is_read_closed: bool) {
        self.is_empty = false;
        self.has_had_event = true;
        self.has_ended |= is_read_closed;
    }
}

impl Read for GuestSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_empty && self.has_had_event && !self.has_ended {
            return Err(ErrorKind::WouldBlock.into());
        }
        let n = self.network.read(buffer)?;
        self.is_empty = n < buffer.len();
        Ok(n)
    }
}

impl Write for GuestSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.network.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for GuestSocket {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        // Only one poll reports bytes that arrived earlier. If another poll has already reported them, this poll does
        // not.
        (self.has_had_event, self.is_empty) = (false, false);
        self.network.register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.network.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.network.deregister(registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_short_read_spares_the_next_one_until_an_event_and_never_hides_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut guest = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("the listener");
        let hub = listener.accept().expect("the guest").0;
        // The socket is blocking, so a real read would wait. An immediate error shows that the read was skipped.
        hub.set_nonblocking(false).expect("a socket");
        let mut socket = GuestSocket::new(TcpStream::from_std(hub));
        socket.note_event(false);
        let mut buffer = [0; 8];
        guest.write_all(b"ping").expect("the hub's socket");
        assert_eq!(socket.read(&mut buffer).expect("bytes"), 4);
        guest.write_all(b"12345678").expect("the hub's socket");
        assert_eq!(socket.read(&mut buffer).expect_err("it is spared").kind(), ErrorKind::WouldBlock);
        socket.note_event(false);
        assert_eq!(socket.read(&mut buffer).expect("bytes"), 8);
        guest.write_all(b"bye").expect("the hub's socket");
        drop(guest);
        // One event reports both the last bytes and the end of the stream.
        socket.note_event(true);
        assert_eq!(socket.read(&mut buffer).expect("bytes"), 3);
        assert_eq!(socket.read(&mut buffer).expect("the end"), 0);
    }
}
