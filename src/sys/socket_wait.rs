//! Waits until a socket can be read or written.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketEvent {
    /// There is something to read, or the other side has closed the connection.
    Readable,
    /// The socket is readable as above, or there is room to write.
    ReadableOrWritable,
}

/// Waits for an event, at most for this time. Returns whether the event came.
///
/// # Errors
/// If the system refuses to wait.
pub fn wait_for(socket: &impl AsFd, event: SocketEvent, time: Duration) -> io::Result<bool> {
    let flags = match event {
        SocketEvent::Readable => PollFlags::IN,
        SocketEvent::ReadableOrWritable => PollFlags::IN | PollFlags::OUT,
    };
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(socket, flags)], Some(&left)) {
            Ok(n) => return Ok(n > 0),
            // A signal interrupted the wait. Another part of the program handles the signal.
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
