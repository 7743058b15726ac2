//! The guest's TCP socket to a hub. During the handshake, one deadline applies to all reads and writes. After the
//! handshake, the socket never blocks.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

/// A socket to a hub.
#[derive(Debug)]
pub struct HubSocket {
    network: Arc<TcpStream>,
    /// The deadline of the handshake; `None` after the handshake. A timeout for each read would not be enough, because
    /// a hub that sends single bytes could keep the guest waiting for minutes.
    deadline: Option<Instant>,
}

impl HubSocket {
    /// Makes a socket whose handshake must finish before `deadline`.
    pub fn until(deadline: Instant, network: TcpStream) -> HubSocket {
        HubSocket { network: Arc::new(network), deadline: Some(deadline) }
    }

    /// The TCP socket. The caller can use it to wait for data, and to close the connection.
    pub fn network(&self) -> Arc<TcpStream> {
        Arc::clone(&self.network)
    }

    /// Removes the deadline of the handshake. After this call, no read or write blocks.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn end_handshake(&mut self) -> io::Result<()> {
        self.deadline = None;
        self.network.set_nonblocking(true)
    }

    fn limit_wait(&self) -> io::Result<()> {
        let Some(deadline) = self.deadline else { return Ok(()) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.network.set_read_timeout(Some(left))?;
        self.network.set_write_timeout(Some(left))
    }

    /// Replaces `WouldBlock` with `TimedOut` during the handshake, because a blocking socket reports a timeout as
    /// `WouldBlock`.
    fn or_timed_out<T>(&self, result: io::Result<T>) -> io::Result<T> {
        match result {
            Err(error) if error.kind() == ErrorKind::WouldBlock && self.deadline.is_some() => {
                Err(ErrorKind::TimedOut.into())
            }
            result => result,
        }
    }
}

impl Read for HubSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.limit_wait()?;
        self.or_timed_out((&*self.network).read(buffer))
    }
}

impl Write for HubSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.limit_wait()?;
        self.or_timed_out((&*self.network).write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
