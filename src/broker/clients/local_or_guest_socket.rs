//! The socket of a client on this machine or on another machine.

use crate::remote::encrypted_stream_to_guest::GuestStream;
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use std::io::{self, Read, Write};

/// The socket of a client.
pub enum ClientSocket {
    /// The socket of a client on this machine.
    Local(UnixStream),
    /// The encrypted connection of a client on another machine.
    Guest(Box<GuestStream>),
}

impl ClientSocket {
    /// Reads what the client has sent.
    ///
    /// # Errors
    /// As [`Read::read`].
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            ClientSocket::Local(stream) => stream.read(buffer),
            ClientSocket::Guest(stream) => stream.read(buffer),
        }
    }

    /// Writes as much as the socket accepts.
    ///
    /// # Errors
    /// As [`Write::write`].
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            ClientSocket::Local(stream) => stream.write(bytes),
            ClientSocket::Guest(stream) => stream.write(bytes),
        }
    }

    /// Whether the socket keeps bytes that the network has not accepted yet.
    pub fn has_unsent(&self) -> bool {
        matches!(self, ClientSocket::Guest(stream) if stream.has_unsent())
    }

    /// Registers the socket in the poll.
    ///
    /// # Errors
    /// When the poll refuses the socket.
    pub fn register(&mut self, registry: &Registry, token: u64) -> io::Result<()> {
        let token = Token(token as usize);
        match self {
            ClientSocket::Local(stream) => registry.register(stream, token, Interest::READABLE),
            // A TCP socket causes an event only if it accepts bytes again after it has refused some.
            ClientSocket::Guest(stream) => {
                registry.register(&mut **stream, token, Interest::READABLE | Interest::WRITABLE)
            }
        }
    }

    /// Removes the socket from the poll.
    ///
    /// # Errors
    /// When the poll does not know the socket.
    pub fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            ClientSocket::Local(stream) => registry.deregister(stream),
            ClientSocket::Guest(stream) => registry.deregister(&mut **stream),
        }
    }
}
