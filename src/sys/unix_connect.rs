//! Connects to a Unix socket within a time limit. A stopped process does not accept connections. When its queue is
//! full, a plain `connect` would wait forever.

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect as connect_socket, socket, sockopt};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Connects within the time `within`. This time is also the timeout of each write to the stream.
///
/// # Errors
/// `WouldBlock` if the connection was not accepted in time, and `NotFound` or `ConnectionRefused` if no process
/// listens.
pub fn connect(path: &Path, within: Duration) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let fd = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, Some(within))?;
    connect_socket(&fd, &address)?;
    Ok(UnixStream::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    #[test]
    fn a_queue_that_nobody_empties_is_not_waited_for() {
        let path = std::env::temp_dir().join(format!("slm-mesh-queue-{}.sock", std::process::id()));
        assert_eq!(connect(&path, Duration::from_millis(50)).unwrap_err().kind(), io::ErrorKind::NotFound);
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let began = Instant::now();
        let mut waiting = Vec::new();
        let refused = loop {
            match connect(&path, Duration::from_millis(50)) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
            assert!(waiting.len() < 5000, "the queue never fills");
        };
        assert!(matches!(refused.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused), "{refused}");
        assert!(began.elapsed() < Duration::from_secs(20));
        drop(listener);
        // Another test may be starting a process. Until the new process calls exec, it has a copy of the listener.
        while connect(&path, Duration::from_millis(50)).unwrap_err().kind() != io::ErrorKind::ConnectionRefused {
            assert!(began.elapsed() < Duration::from_secs(20), "the listener is closed");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
