//! The state that all HTTP connections share: the request queue, the gate, the limits and the counts of wrong tokens.
//!
//! **Invariant:** clients with the right token and programs on this machine are never delayed.

use super::{Gate, Head, Limits, PendingRequest};
use crate::remote::auth_failure_reports::AuthFailures;
use std::cell::RefCell;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

/// How many wrong tokens an address may send per minute. The broker delays its replies to any further wrong tokens.
const TRIES_FREE: u32 = 20;
/// The delay before the reply to a wrong token, if the address has sent more than `TRIES_FREE` wrong tokens.
pub(super) const SLOWED: Duration = Duration::from_secs(1);

/// The request queue, the gate, the limits and the counts of wrong tokens.
pub struct SharedHttpState {
    /// The queue of complete requests.
    pub requests: SyncSender<PendingRequest>,
    /// Wakes the event loop, so that it reads the queue.
    pub wake: Box<dyn Fn() + Send>,
    /// Accepts or refuses each request before its body is read.
    pub gate: Gate,
    /// The limits for each client.
    pub limits: Limits,
    /// Counts the wrong tokens per address, for clients on other machines.
    pub tries: RefCell<AuthFailures>,
}

impl SharedHttpState {
    /// Creates a state in which no wrong tokens have been counted.
    pub fn new(
        requests: SyncSender<PendingRequest>,
        wake: Box<dyn Fn() + Send>,
        gate: Gate,
        limits: Limits,
    ) -> SharedHttpState {
        SharedHttpState { requests, wake, gate, limits, tries: RefCell::default() }
    }

    /// Counts a wrong token from another machine. Returns true if the refusal must be delayed. This is the case if the
    /// address has sent too many wrong tokens.
    pub(super) fn is_slowed(&self, head: &Head, now: Instant) -> bool {
        let tried = head.authorization.is_some() || head.mesh_secret.is_some();
        tried && !head.peer.is_loopback() && self.tries.borrow_mut().note(head.peer, now) > TRIES_FREE
    }
}

#[cfg(test)]
mod tests {
    use super::super::HttpResponse;
    use super::super::connection::{HttpConnection, HttpStream, Next, READ_MAX};
    use super::*;
    use std::io::{self, ErrorKind, Read, Write};
    use std::sync::mpsc::{Receiver, sync_channel};

    /// A connection on which all bytes of the client have already arrived.
    struct Pipe(io::Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Pipe {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.0.read(buffer)?;
            if n == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(n) }
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl HttpStream for Pipe {
        fn close_write(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn new_state() -> (SharedHttpState, Receiver<PendingRequest>) {
        let (requests, inbox) = sync_channel(4);
        let gate: Gate = Box::new(|head| {
            (head.authorization.as_deref() != Some("right")).then(|| HttpResponse::json(401, b"no".to_vec()))
        });
        (
            SharedHttpState::new(requests, Box::new(|| ()), gate, Limits { pipeline_max: 100, ..Limits::default() }),
            inbox,
        )
    }

    /// Creates a connection on which `n` requests with this token have arrived, and gives the connection its first
    /// turn.
    fn asked(http_state: &SharedHttpState, peer: &str, token: &str, n: usize, now: Instant) -> HttpConnection<Pipe> {
        let text = format!("GET /peers HTTP/1.1\r\nHost: hub\r\nAuthorization: {token}\r\n\r\n").repeat(n);
        let pipe = Pipe(io::Cursor::new(text.into_bytes()), Vec::new());
        let mut conn = HttpConnection::new(pipe, peer.parse().unwrap(), 1, now, &http_state.limits);
        conn.run_turn(http_state, &mut vec![0; READ_MAX], now);
        conn
    }

    fn n_responses(conn: &mut HttpConnection<Pipe>) -> usize {
        String::from_utf8_lossy(&conn.stream().1).matches("HTTP/1.1 401").count()
    }

    #[test]
    fn a_client_with_many_wrong_tokens_waits_and_nobody_else_does() {
        let ((http_state, inbox), now) = (new_state(), Instant::now());
        let mut wrong = asked(&http_state, "10.0.0.7", "wrong", 22, now);
        assert_eq!((n_responses(&mut wrong), wrong.deadline()), (20, Some(now + SLOWED)));
        assert!(wrong.leaves_since().is_some(), "the slowed connection makes room for others");
        assert_eq!(wrong.expire(&http_state.limits, now + SLOWED), Next::Again);
        wrong.run_turn(&http_state, &mut vec![0; READ_MAX], now + SLOWED);
        assert_eq!((n_responses(&mut wrong), wrong.deadline()), (21, Some(now + 2 * SLOWED)));
        // Clients with the right token at the same address, clients at another address, and programs on this
        // machine are not delayed.
        asked(&http_state, "10.0.0.7", "right", 1, now);
        assert!(inbox.try_recv().is_ok());
        assert_eq!(n_responses(&mut asked(&http_state, "10.0.0.8", "wrong", 20, now)), 20);
        for own in ["127.0.0.1", "::1"] {
            assert_eq!(n_responses(&mut asked(&http_state, own, "wrong", 90, now)), 90);
        }
        assert_eq!(http_state.tries.borrow_mut().take_report().as_deref(), Some("10.0.0.7 (22), 10.0.0.8 (20)"));
    }
}
