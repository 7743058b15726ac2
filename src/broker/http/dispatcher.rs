//! What all connections share: where requests go, by which rules, and who brought wrong tokens.
//!
//! **Invariant:** who brings the right token never waits, from wherever it comes, and programs of this
//! machine never do.

use super::{Gate, Head, Job, Limits};
use crate::remote::auth_failures::Tries;
use std::cell::RefCell;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

/// Wrong tokens of one address in a minute that are answered at once, and how long the others wait.
const TRIES_FREE: u32 = 20;
pub(super) const SLOWED: Duration = Duration::from_secs(1);

/// Where requests go, and by which rules.
pub struct Desk {
    /// Takes complete requests.
    pub jobs: SyncSender<Job>,
    /// Tells the loop so.
    pub wake: Box<dyn Fn() + Send>,
    /// Looks at heads first.
    pub gate: Gate,
    /// What a client may take.
    pub limits: Limits,
    /// Wrong tokens of other machines.
    pub tries: RefCell<Tries>,
}

impl Desk {
    /// With these rules, and nobody who tried anything.
    pub fn new(jobs: SyncSender<Job>, wake: Box<dyn Fn() + Send>, gate: Gate, limits: Limits) -> Desk {
        Desk { jobs, wake, gate, limits, tries: RefCell::default() }
    }

    /// Counts a wrong token of another machine; whether its answer has to wait. Who brings the right one
    /// never waits, not even from the same address.
    pub(super) fn is_slowed(&self, head: &Head, now: Instant) -> bool {
        let tried = head.authorization.is_some() || head.mesh_secret.is_some();
        tried && !head.peer.is_loopback() && self.tries.borrow_mut().note(head.peer, now) > TRIES_FREE
    }
}

#[cfg(test)]
mod tests {
    use super::super::Answer;
    use super::super::connection::{Fate, HttpConnection, READ_MAX, Stream};
    use super::*;
    use std::io::{self, ErrorKind, Read, Write};
    use std::sync::mpsc::{Receiver, sync_channel};

    /// A client whose bytes are all here.
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

    impl Stream for Pipe {
        fn end(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn desk() -> (Desk, Receiver<Job>) {
        let (jobs, inbox) = sync_channel(4);
        let gate: Gate = Box::new(|head| {
            (head.authorization.as_deref() != Some("right")).then(|| Answer::json(401, b"no".to_vec()))
        });
        (Desk::new(jobs, Box::new(|| ()), gate, Limits { pipeline_max: 100, ..Limits::default() }), inbox)
    }

    /// A connection after its first turn, that sent so many requests with this token.
    fn asked(desk: &Desk, peer: &str, token: &str, n: usize, now: Instant) -> HttpConnection<Pipe> {
        let text = format!("GET /peers HTTP/1.1\r\nHost: hub\r\nAuthorization: {token}\r\n\r\n").repeat(n);
        let pipe = Pipe(io::Cursor::new(text.into_bytes()), Vec::new());
        let mut conn = HttpConnection::new(pipe, peer.parse().unwrap(), 1, now, &desk.limits);
        conn.turn(desk, &mut vec![0; READ_MAX], now);
        conn
    }

    fn n_answers(conn: &mut HttpConnection<Pipe>) -> usize {
        String::from_utf8_lossy(&conn.stream().1).matches("HTTP/1.1 401").count()
    }

    #[test]
    fn who_brings_many_wrong_tokens_waits_and_nobody_else_does() {
        let ((desk, inbox), now) = (desk(), Instant::now());
        let mut wrong = asked(&desk, "10.0.0.7", "wrong", 22, now);
        assert_eq!((n_answers(&mut wrong), wrong.deadline()), (20, Some(now + SLOWED)));
        assert!(wrong.idle_since().is_some(), "it makes room for others");
        assert_eq!(wrong.expire(&desk.limits, now + SLOWED), Fate::Again);
        wrong.turn(&desk, &mut vec![0; READ_MAX], now + SLOWED);
        assert_eq!((n_answers(&mut wrong), wrong.deadline()), (21, Some(now + 2 * SLOWED)));
        // The right one from there, another address, and programs of this machine.
        asked(&desk, "10.0.0.7", "right", 1, now);
        assert!(inbox.try_recv().is_ok());
        assert_eq!(n_answers(&mut asked(&desk, "10.0.0.8", "wrong", 20, now)), 20);
        for own in ["127.0.0.1", "::1"] {
            assert_eq!(n_answers(&mut asked(&desk, own, "wrong", 90, now)), 90);
        }
        assert_eq!(desk.tries.borrow_mut().end().as_deref(), Some("10.0.0.7 (22), 10.0.0.8 (20)"));
    }
}
