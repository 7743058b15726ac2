//! The stream of lines to a hub that is reached through ssh. ssh notices a dead network, but not a hub that hangs while
//! its machine still answers. So the stream sends pings to the hub itself, as a connection over the network does.
//!
//! **Invariant:** the stream sends a ping only between two lines, and never passes on the answer to one of its pings.

use crate::remote::guest_handshake_with_hub::SecondOpinion;
use crate::remote::liveness::{Heartbeat, Liveness};
use crate::wire::rpc::{self, RpcMessage};
use serde_json::{Value, json};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The ids of this stream's pings begin with these letters, so that they differ from the ids of all other requests.
const PING_ID: &str = "ssh-alive-";
/// How many bytes to read at once.
const READ_BYTES: usize = 4096;
/// How long ssh may take to accept what is written.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// The shortest time limit that a socket accepts.
const READ_MIN: Duration = Duration::from_millis(1);

/// A handle of the connection. Several threads can each have a handle.
pub struct SshStream {
    socket: UnixStream,
    shared: Arc<Shared>,
    /// How long a read waits before it fails; `None` if it waits without a limit.
    read_timeout: Option<Duration>,
    /// Whether a read fails with `WouldBlock` instead of waiting.
    is_nonblocking: bool,
}

struct Shared {
    incoming: Mutex<Incoming>,
    /// Whether the last written byte ended a line. A thread that writes holds the lock.
    is_between_lines: Mutex<bool>,
}

/// The data that has arrived from the hub, and what this data says about the hub.
struct Incoming {
    liveness: Liveness,
    second_opinion: Option<SecondOpinion>,
    /// The beginning of a line whose end has not arrived yet.
    partial: Vec<u8>,
    /// Whole lines that have not been read yet.
    lines: Vec<u8>,
}

impl SshStream {
    /// Makes a stream over a connection whose hub has just answered. If there are other hubs, `second_opinion` says
    /// whether one of them leads.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn new(socket: UnixStream, second_opinion: Option<SecondOpinion>) -> io::Result<SshStream> {
        socket.set_write_timeout(Some(WRITE_MAX))?;
        let now = Instant::now();
        let liveness =
            if second_opinion.is_some() { Liveness::of_one_of_several_hubs(now) } else { Liveness::of_hub(now) };
        let incoming = Incoming { liveness, second_opinion, partial: Vec::new(), lines: Vec::new() };
        let shared = Shared { incoming: Mutex::new(incoming), is_between_lines: Mutex::new(true) };
        Ok(SshStream { socket, shared: Arc::new(shared), read_timeout: None, is_nonblocking: false })
    }

    /// Makes another handle of the same connection, for another thread.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn another(&self) -> io::Result<SshStream> {
        let (socket, shared) = (self.socket.try_clone()?, Arc::clone(&self.shared));
        Ok(SshStream { socket, shared, read_timeout: None, is_nonblocking: false })
    }

    /// Sets how long a read waits. `None` means that there is no limit.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }

    /// Sets whether a read fails with `WouldBlock` instead of waiting.
    pub fn set_nonblocking(&mut self, nonblocking: bool) {
        self.is_nonblocking = nonblocking;
    }

    /// Ends one or both directions of the connection.
    ///
    /// # Errors
    /// When the connection has already ended.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }

    fn incoming(&self) -> MutexGuard<'_, Incoming> {
        self.shared.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a ping if one is due. Ends the connection if the hub has been silent for too long. Returns the time of the
    /// next check.
    fn check_liveness(&self, now: Instant) -> io::Result<Instant> {
        let mut incoming = self.incoming();
        if incoming.liveness.is_dead(now) {
            self.socket.shutdown(Shutdown::Both)?;
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the hub does not answer"));
        }
        if incoming.liveness.doubt_due(now)
            && let Some(second_opinion) = &incoming.second_opinion
        {
            self.ask_others(second_opinion)?;
        }
        let ping = incoming.liveness.ping_due(now);
        let deadline = incoming.liveness.deadline();
        drop(incoming);
        // A thread holds this lock while it writes a line. If this thread is stuck, the ping could not be sent either.
        if let Some(ping) = ping
            && let Ok(is_between_lines) = self.shared.is_between_lines.try_lock()
            && *is_between_lines
        {
            (&self.socket).write_all(line_of(ping).as_bytes())?;
        }
        Ok(deadline)
    }

    /// Ends this connection if another hub leads. A separate thread asks the other hubs. The connection stays in use
    /// meanwhile, because this hub may just be slow.
    fn ask_others(&self, second_opinion: &SecondOpinion) -> io::Result<()> {
        let (second_opinion, socket) = (Arc::clone(second_opinion), self.socket.try_clone()?);
        let ask = move || {
            if second_opinion() {
                // The connection may have ended by itself.
                let _ = socket.shutdown(Shutdown::Both);
            }
        };
        // If no thread can be started, the connection does not end until the hub has been silent for too long.
        let _ = std::thread::Builder::new().spawn(ask);
        Ok(())
    }
}

impl Read for SshStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let timeout = if self.is_nonblocking { Some(Duration::ZERO) } else { self.read_timeout };
        let until = timeout.map(|timeout| Instant::now() + timeout);
        let mut bytes = [0; READ_BYTES];
        loop {
            let n_lines = self.incoming().take_lines(buffer);
            if n_lines > 0 || buffer.is_empty() {
                return Ok(n_lines);
            }
            let now = Instant::now();
            let check_at = self.check_liveness(now)?;
            let wake_at = until.map_or(check_at, |until| until.min(check_at));
            self.socket.set_read_timeout(Some(wake_at.saturating_duration_since(now).max(READ_MIN)))?;
            match (&self.socket).read(&mut bytes) {
                Ok(0) => return Ok(0),
                Ok(n) => self.incoming().receive(&bytes[..n], Instant::now()),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if until.is_some_and(|until| Instant::now() >= until) {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Write for SshStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut is_between_lines = self.shared.is_between_lines.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = bytes.last() else { return Ok(0) };
        // If the write fails, only a part of the line may have been written.
        *is_between_lines = false;
        (&self.socket).write_all(bytes)?;
        *is_between_lines = *last == b'\n';
        if !*is_between_lines {
            self.incoming().liveness.note_sent(Instant::now());
            return Ok(bytes.len());
        }
        // After some silence, a ping is sent right after these lines, because the thread that usually sends pings may
        // be asleep.
        let ping = self.incoming().liveness.note_sent_after_silence(Instant::now());
        if let Some(ping) = ping {
            (&self.socket).write_all(line_of(ping).as_bytes())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for SshStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for SshStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshStream").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Incoming {
    /// Takes bytes from the hub. Keeps whole lines for the reader, except the answers to pings.
    fn receive(&mut self, bytes: &[u8], now: Instant) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end + 1);
            self.partial.extend(line);
            rest = after;
            match answered_ping(&self.partial) {
                Some(number) => self.liveness.note_pong(Heartbeat::answer_to(number)),
                None => {
                    self.liveness.note_message(now);
                    self.lines.extend(&self.partial);
                }
            }
            self.partial.clear();
        }
        self.partial.extend(rest);
    }

    /// Moves waiting lines into the buffer, and returns how many bytes were moved.
    fn take_lines(&mut self, buffer: &mut [u8]) -> usize {
        let n = self.lines.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.lines[..n]);
        self.lines.drain(..n);
        n
    }
}

/// Writes a ping as a request. The id of the request contains the number of the question that the ping asks. The hub
/// repeats the id.
fn line_of(ping: Heartbeat) -> String {
    rpc::request(&json!(format!("{PING_ID}{}", ping.question())), "ping", &json!({}))
}

/// The number of the question that this line answers. `None` if the line is not the answer to one of this stream's
/// pings. A standby refuses a ping. The refusal is an answer too, because it shows that the standby is alive.
fn answered_ping(line: &[u8]) -> Option<u32> {
    // Other lines can be long, so they are not parsed. The id is near the beginning or, in an error, near the end.
    line.windows(PING_ID.len()).any(|word| word == PING_ID.as_bytes()).then_some(())?;
    match rpc::parse_line(line.trim_ascii_end()) {
        Ok(RpcMessage::Response { id: Value::String(id), .. }) => id.strip_prefix(PING_ID)?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_pings_are_signs_of_life_and_all_other_lines_are_passed_on() {
        let began = Instant::now();
        let mut incoming = Incoming {
            liveness: Liveness::of_hub(began),
            second_opinion: None,
            partial: Vec::new(),
            lines: Vec::new(),
        };
        let late = began + Duration::from_secs(17);
        let ping = incoming.liveness.ping_due(began + Duration::from_secs(10)).unwrap();
        let id = json!(format!("{PING_ID}{}", ping.question()));
        let text = rpc::notification("event", &json!({ "text": PING_ID }));
        let refused = rpc::error_response(&id, &crate::base::error::Error::not_found("no leader"));
        for byte in [&text[..], &refused[..], "not JSON\n", "half"].concat().bytes() {
            incoming.receive(&[byte], began);
        }
        assert!(!incoming.liveness.is_dead(late) && incoming.liveness.is_dead(late + Duration::from_secs(11)));
        let mut buffer = [0; READ_BYTES];
        let n = incoming.take_lines(&mut buffer);
        assert_eq!(String::from_utf8_lossy(&buffer[..n]), text + "not JSON\n");
        assert_eq!(incoming.partial, b"half");
    }
}
