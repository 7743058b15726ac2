//! The stream of lines to a broker: a Unix socket on this machine, or an encrypted connection to a hub.

use super::ssh_stream_with_heartbeat::SshStream;
use crate::remote::encrypted_stream_to_hub::HubStream;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A stream of lines.
#[derive(Debug)]
pub enum BrokerStream {
    /// A stream to the broker of this machine, or to a process that forwards requests and answers.
    Socket(UnixStream),
    /// A stream to a hub.
    Hub(HubStream),
    /// A stream to a hub that is reached through ssh.
    Ssh(SshStream),
}

impl BrokerStream {
    /// Returns another handle to the same stream, for another thread.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn another(&self) -> io::Result<BrokerStream> {
        match self {
            BrokerStream::Socket(socket) => socket.try_clone().map(BrokerStream::Socket),
            BrokerStream::Hub(stream) => Ok(BrokerStream::Hub(stream.another())),
            BrokerStream::Ssh(stream) => stream.another().map(BrokerStream::Ssh),
        }
    }

    /// Sets how long a read waits. `None` means that there is no limit.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            BrokerStream::Socket(socket) => socket.set_read_timeout(timeout),
            BrokerStream::Hub(stream) => {
                stream.set_read_timeout(timeout);
                Ok(())
            }
            BrokerStream::Ssh(stream) => {
                stream.set_read_timeout(timeout);
                Ok(())
            }
        }
    }

    /// Limits how long a write to a socket waits. Streams to a hub keep their own limit.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            BrokerStream::Socket(socket) => socket.set_write_timeout(Some(timeout)),
            BrokerStream::Hub(_) | BrokerStream::Ssh(_) => Ok(()),
        }
    }

    /// Sets whether a read fails with `WouldBlock` instead of waiting for data.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn set_nonblocking(&mut self, nonblocking: bool) -> io::Result<()> {
        match self {
            BrokerStream::Socket(socket) => socket.set_nonblocking(nonblocking),
            BrokerStream::Hub(stream) => {
                stream.set_nonblocking(nonblocking);
                Ok(())
            }
            BrokerStream::Ssh(stream) => {
                stream.set_nonblocking(nonblocking);
                Ok(())
            }
        }
    }

    /// Ends one or both directions of the stream.
    ///
    /// # Errors
    /// If the socket has already ended.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            BrokerStream::Socket(socket) => socket.shutdown(how),
            BrokerStream::Hub(stream) => {
                stream.shutdown(how);
                Ok(())
            }
            BrokerStream::Ssh(stream) => stream.shutdown(how),
        }
    }
}

impl Read for BrokerStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            BrokerStream::Socket(socket) => socket.read(buffer),
            BrokerStream::Hub(stream) => stream.read(buffer),
            BrokerStream::Ssh(stream) => stream.read(buffer),
        }
    }
}

impl Write for BrokerStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            BrokerStream::Socket(socket) => socket.write(bytes),
            BrokerStream::Hub(stream) => stream.write(bytes),
            BrokerStream::Ssh(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            BrokerStream::Socket(socket) => socket.flush(),
            BrokerStream::Hub(stream) => stream.flush(),
            BrokerStream::Ssh(stream) => stream.flush(),
        }
    }
}

impl AsFd for BrokerStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            BrokerStream::Socket(socket) => socket.as_fd(),
            BrokerStream::Hub(stream) => stream.as_fd(),
            BrokerStream::Ssh(stream) => stream.as_fd(),
        }
    }
}
