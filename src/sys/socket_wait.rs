//! Waits until a socket can be read or written, or until an output has no reader any more.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketEvent {
    /// There is something to read, or the other side has closed the connection.
    Readable,
    /// The socket is `Readable`, or bytes can be written to it.
    ReadableOrWritable,
}

/// Waits for an event, but not longer than `time`. Returns whether the event came.
///
/// # Errors
/// If the system can't wait for the sockets.
pub fn wait_for(socket: &impl AsFd, event: SocketEvent, time: Duration) -> io::Result<bool> {
    let flags = match event {
        SocketEvent::Readable => PollFlags::IN,
        SocketEvent::ReadableOrWritable => PollFlags::IN | PollFlags::OUT,
    };
    poll_within(&mut [PollFd::new(socket, flags)], time)
}

/// Why [`wait_for_either`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitEnd {
    /// The socket can be read, or the other side has closed the connection.
    Readable,
    /// The output is a pipe or a socket, and nobody reads it any more.
    OutputClosed,
    /// The time is up.
    TimeUp,
}

/// Waits until the socket can be read or the output has no reader any more, but not longer than `time`.
///
/// # Errors
/// If the system can't wait for the sockets.
pub fn wait_for_either(socket: Option<BorrowedFd<'_>>, output: &impl AsFd, time: Duration) -> io::Result<WaitEnd> {
    // Only pipes and sockets have a reader that can go away. Some systems can't poll other files at all.
    let mode = fstat(output)?.st_mode;
    let has_reader = matches!(FileType::from_raw_mode(mode), FileType::Fifo | FileType::Socket);
    // The system reports a closed output even if no event is asked for.
    let mut fds: Vec<PollFd<'_>> = has_reader.then(|| PollFd::new(output, PollFlags::empty())).into_iter().collect();
    fds.extend(socket.map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)));
    if !poll_within(&mut fds, time)? {
        return Ok(WaitEnd::TimeUp);
    }
    let is_closed = has_reader && fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP);
    Ok(if is_closed { WaitEnd::OutputClosed } else { WaitEnd::Readable })
}

/// Waits for an event, but not longer than `time`. Returns whether an event came.
fn poll_within(fds: &mut [PollFd<'_>], time: Duration) -> io::Result<bool> {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(fds, Some(&left)) {
            Ok(n) => return Ok(n > 0),
            // A signal interrupted the wait. Another part of the program handles the signal.
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
