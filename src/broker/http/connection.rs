//! One connection: bytes in, one request at a time to the loop, its answer out, the next request.
//!
//! **Invariant:** never waits, and holds at most one head, one body, one answer and one read
//! buffer. The next request is looked at only when the former's answer has left, so answers are in
//! order and a client that doesn't read isn't read from. A stream is an answer without an end: it is
//! the last one of its connection, bounded by what its client has not taken.

pub use super::dispatcher::Desk;

use super::dispatcher::SLOWED;
use super::request_head::{Parsed, Whole, parse};
use super::response::{CONTINUE, Refusal, print, print_stream};
use super::{Answer, Head, Job, Left, Limits, Request, Ticket};
use mio::net::TcpStream;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::sync::mpsc::TrySendError;
use std::time::{Duration, Instant};

/// A comment in an event stream: a sign of life that means nothing.
const BEAT: &[u8] = b":\n\n";
/// What one turn of one connection reads at most.
pub const READ_MAX: usize = 64 << 10;
/// What a client may still send after we have said goodbye, and for how long. Without that its
/// unread bytes would reset the connection, and the answer might never be read.
const DRAIN_MAX: usize = 2 << 20;
const DRAIN: Duration = Duration::from_secs(1);
/// An idle connection keeps no more buffer than this.
const INPUT_KEPT: usize = 4 << 10;

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing to do until an event or a deadline.
    Waits,
    /// More to do, but others come first.
    Again,
    /// To be dropped.
    Gone,
}

/// What a connection is made of: a TCP stream, or in tests a script.
pub trait Stream: Read + Write {
    /// Says that nothing more will be written.
    fn end(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// An open connection.
pub struct HttpConnection<S = TcpStream> {
    stream: S,
    peer: IpAddr,
    phase: Phase,
    /// Read but not parsed: at most a head and `READ_MAX`.
    input: Input,
    /// Printed but not sent, from `sent` on.
    output: Vec<u8>,
    sent: usize,
    /// Edge-triggered: true until a read says otherwise.
    readable: bool,
    /// Which request of this connection it is.
    ticket: Ticket,
    /// The request was a HEAD.
    bodyless: bool,
    /// The answer is the last one.
    close: bool,
    /// The gate let a request of it through.
    trusted: bool,
    /// Told when a stream ends, which is when this connection does.
    left: Option<Left>,
    /// When it began to wait for a request.
    since: Instant,
    /// When it has waited too long for whatever its phase waits for.
    deadline: Option<Instant>,
}

enum Phase {
    /// For the first byte of a request, or once it `began` for the end of its head.
    Head { began: bool },
    /// For the rest of a body.
    Body { head: Box<Head>, body: Vec<u8>, length: usize },
    /// For its time to hear that its token is wrong.
    Slowed(Box<Answer>),
    /// For the loop.
    Away,
    /// For the client to take its answer.
    Answering,
    /// For more of a stream; or, where it is behind, for its client to take what there is.
    Streaming { behind: bool },
    /// For the client to close, while so many more bytes are thrown away.
    Draining { left: usize },
}

#[derive(Default)]
struct Input {
    bytes: Vec<u8>,
    at: usize,
}

impl<S: Stream> HttpConnection<S> {
    /// Takes on `stream`, which the caller has registered.
    pub fn new(stream: S, peer: IpAddr, id: usize, now: Instant, limits: &Limits) -> HttpConnection<S> {
        HttpConnection {
            stream,
            peer,
            phase: Phase::Head { began: false },
            input: Input::default(),
            output: Vec::new(),
            sent: 0,
            readable: true,
            ticket: Ticket { conn: id, position: 0 },
            bodyless: false,
            close: false,
            trusted: false,
            left: None,
            since: now,
            deadline: after(now, limits.idle_ms),
        }
    }

    /// Who it is.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// When it is to be looked at even without an event.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Bytes the client has not taken.
    pub fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    /// No request after this one.
    pub fn end(&mut self) {
        self.close = true;
    }

    /// Still has to be told something, or to hear that it was.
    pub fn is_leaving(&self) -> bool {
        self.unsent() > 0 || matches!(self.phase, Phase::Draining { .. })
    }

    /// Since when it has done nothing for anybody, if so: it makes room for others. Whoever may
    /// have something to say that we have not read yet is not asked to.
    /// Who had a request let through the gate stays longer than who never had.
    pub fn idle_since(&self) -> Option<(bool, Instant)> {
        let idle = match self.phase {
            Phase::Head { .. } | Phase::Draining { .. } => !self.readable,
            // What it may have to say can wait as well.
            Phase::Slowed(_) => true,
            _ => false,
        };
        idle.then_some((self.trusted, self.since))
    }

    /// What it is made of.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Notes that there may be something to read.
    pub fn note_readable(&mut self) {
        self.readable = true;
    }

    /// Hands the loop's answer over, if it is the one awaited.
    pub fn deliver(&mut self, ticket: Ticket, answer: &Answer, limits: &Limits, now: Instant) {
        if ticket == self.ticket && matches!(self.phase, Phase::Away) {
            self.say(answer, limits, now);
        }
    }

    /// Begins a stream as the answer, if it is the one awaited.
    pub fn stream_out(&mut self, ticket: Ticket, head: &Answer, left: Left, limits: &Limits, now: Instant) {
        if ticket != self.ticket || !matches!(self.phase, Phase::Away) {
            return;
        }
        if self.bodyless || !print_stream(head, &mut self.output) {
            return self.refuse(Refusal::Unsayable, limits, now);
        }
        self.left = Some(left);
        self.phase = Phase::Streaming { behind: true };
        self.deadline = after(now, limits.answer_ms);
    }

    /// Puts more into its stream; whose client leaves too much of it untaken is dropped.
    pub fn more(&mut self, ticket: Ticket, bytes: &[u8], limits: &Limits, now: Instant) -> Fate {
        let Phase::Streaming { behind } = &mut self.phase else { return Fate::Waits };
        if ticket != self.ticket {
            return Fate::Waits;
        }
        if !std::mem::replace(behind, true) {
            self.deadline = after(now, limits.answer_ms);
        }
        if self.unsent() + bytes.len() > limits.stream_max {
            return Fate::Gone;
        }
        self.output.drain(..std::mem::take(&mut self.sent));
        self.output.extend_from_slice(bytes);
        Fate::Again
    }

    /// Called when the deadline has passed.
    pub fn expire(&mut self, limits: &Limits, now: Instant) -> Fate {
        if matches!(self.phase, Phase::Streaming { behind: false }) {
            return self.more(self.ticket, BEAT, limits, now);
        }
        match std::mem::replace(&mut self.phase, Phase::Away) {
            Phase::Head { began: true } | Phase::Body { .. } => self.refuse(Refusal::Slow, limits, now),
            Phase::Slowed(answer) => self.say(&answer, limits, now),
            _ => return Fate::Gone,
        }
        Fate::Again
    }

    /// Goes on as far as one turn allows: `READ_MAX` bytes, `pipeline_max` requests.
    pub fn turn(&mut self, desk: &Desk, scratch: &mut [u8], now: Instant) -> Fate {
        let mut budget = READ_MAX.min(scratch.len());
        let mut answered = 0;
        loop {
            if self.flush().is_err() {
                return Fate::Gone;
            }
            if self.unsent() > 0 || matches!(self.phase, Phase::Away | Phase::Slowed(_)) {
                return Fate::Waits;
            }
            if let Phase::Streaming { behind: behind @ true } = &mut self.phase {
                *behind = false;
                self.deadline = after(now, desk.limits.beat_ms);
            }
            if answered >= desk.limits.pipeline_max {
                return Fate::Again;
            }
            if matches!(self.phase, Phase::Answering) {
                answered += 1;
                self.answered(&desk.limits, now);
            } else if !self.take(desk, now) {
                if !self.readable {
                    return Fate::Waits;
                }
                if budget == 0 {
                    return Fate::Again;
                }
                match self.read(&mut scratch[..budget], &desk.limits, now) {
                    Ok(n) => budget -= n,
                    Err(_) => return Fate::Gone,
                }
            }
        }
    }

    /// Makes what it can of the input; false if it wants more.
    fn take(&mut self, desk: &Desk, now: Instant) -> bool {
        match &mut self.phase {
            Phase::Head { began: true } => match parse(self.input.rest(), self.peer, &desk.limits) {
                Parsed::Partial => return false,
                Parsed::Whole(whole) => self.enter(whole, desk, now),
                Parsed::Refused(refusal) => self.refuse(refusal, &desk.limits, now),
            },
            Phase::Body { body, length, .. } => {
                self.input.pour(body, *length - body.len());
                if body.len() < *length {
                    return false;
                }
                self.hand_over(desk, now);
            }
            Phase::Head { began: false } | Phase::Streaming { .. } | Phase::Draining { .. } => return false,
            Phase::Away | Phase::Slowed(_) | Phase::Answering => return false, // not called then
        }
        true
    }

    /// A head has been read: asks the gate, then the limits, then for the body.
    fn enter(&mut self, whole: Whole, desk: &Desk, now: Instant) {
        self.input.skip(whole.used);
        self.close = whole.close;
        self.bodyless = whole.head.method == "HEAD";
        if let Some(answer) = (desk.gate)(&whole.head) {
            let is_slowed = answer.status == 401 && desk.is_slowed(&whole.head, now);
            // A body that is not here yet isn't waited for; it would be taken for a request.
            let here = self.input.rest().len() as u64;
            self.close |= whole.length > here;
            self.input.skip(whole.length.min(here) as usize);
            if is_slowed {
                self.deadline = now.checked_add(SLOWED);
                self.phase = Phase::Slowed(Box::new(answer));
                return;
            }
            return self.say(&answer, &desk.limits, now);
        }
        let length = match usize::try_from(whole.length) {
            Ok(length) if length <= desk.limits.body_max => length,
            _ => return self.refuse(Refusal::BodyTooLarge, &desk.limits, now),
        };
        if whole.expects && self.input.rest().len() < length {
            self.output.extend_from_slice(CONTINUE);
        }
        let body = Vec::with_capacity(length);
        self.phase = Phase::Body { head: Box::new(whole.head), body, length };
    }

    /// The request is complete: it goes to the loop.
    fn hand_over(&mut self, desk: &Desk, now: Instant) {
        let Phase::Body { head, body, .. } = std::mem::replace(&mut self.phase, Phase::Away) else {
            return; // called in that phase only
        };
        self.deadline = None;
        self.trusted = true;
        let request = Request { head: *head, body };
        match desk.jobs.try_send(Job { ticket: self.ticket, request }) {
            Ok(()) => (desk.wake)(),
            Err(TrySendError::Full(_)) => self.say(&Refusal::Busy.answer(), &desk.limits, now),
            Err(TrySendError::Disconnected(_)) => self.refuse(Refusal::Stopping, &desk.limits, now),
        }
    }

    /// Answers, and closes: what follows in the input can't be trusted.
    fn refuse(&mut self, refusal: Refusal, limits: &Limits, now: Instant) {
        self.close = true;
        self.say(&refusal.answer(), limits, now);
    }

    fn say(&mut self, answer: &Answer, limits: &Limits, now: Instant) {
        print(answer, self.close, self.bodyless, &mut self.output);
        self.phase = Phase::Answering;
        self.deadline = after(now, limits.answer_ms);
    }

    /// The answer has left: on to the next request, or to the end.
    fn answered(&mut self, limits: &Limits, now: Instant) {
        self.since = now;
        self.bodyless = false;
        if self.close {
            // What fails here fails again when we read.
            let _ = self.stream.end();
            self.input = Input::default();
            self.phase = Phase::Draining { left: DRAIN_MAX };
            self.deadline = now.checked_add(DRAIN);
            return;
        }
        self.ticket.position += 1;
        self.input.compact();
        let began = !self.input.rest().is_empty();
        self.phase = Phase::Head { began };
        self.deadline = after(now, if began { limits.request_ms } else { limits.idle_ms });
    }

    /// Reads once. An error means that nothing more will come, be it the end or worse.
    fn read(&mut self, scratch: &mut [u8], limits: &Limits, now: Instant) -> io::Result<usize> {
        let n = match self.stream.read(scratch) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                return Ok(0);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(0),
            Err(e) => return Err(e),
        };
        match &mut self.phase {
            // It has nothing to say any more.
            Phase::Streaming { .. } => return Err(ErrorKind::InvalidData.into()),
            Phase::Draining { left } => {
                *left = left.checked_sub(n).ok_or(ErrorKind::FileTooLarge)?;
                return Ok(n);
            }
            Phase::Head { began } if !*began => {
                *began = true;
                self.deadline = after(now, limits.request_ms);
            }
            _ => {}
        }
        self.input.push(&scratch[..n]);
        Ok(n)
    }

    /// Sends what the client takes now.
    fn flush(&mut self) -> io::Result<()> {
        while self.unsent() > 0 {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if self.sent > 0 {
            self.output = Vec::new();
            self.sent = 0;
        }
        Ok(())
    }
}

impl Input {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.compact();
        self.bytes.extend_from_slice(bytes);
    }

    fn skip(&mut self, n: usize) {
        self.at = self.bytes.len().min(self.at + n);
    }

    /// Moves at most `n` bytes to `body`.
    fn pour(&mut self, body: &mut Vec<u8>, n: usize) {
        let n = n.min(self.rest().len());
        body.extend_from_slice(&self.rest()[..n]);
        self.skip(n);
    }

    /// Forgets what was taken, once that moves nothing: a pipeline of small requests would
    /// otherwise be moved once for each of them.
    fn compact(&mut self) {
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(INPUT_KEPT);
            self.at = 0;
        }
    }
}

/// A limit too large for the clock is none.
fn after(now: Instant, ms: u64) -> Option<Instant> {
    now.checked_add(Duration::from_millis(ms))
}
