//! One HTTP connection. It reads a request, passes the request to the event loop, sends the response, and continues
//! with the next request.
//!
//! **Invariant:** a connection never blocks, and holds at most one head, one body, one response and one read buffer. It
//! parses the next request only after the previous response has been sent. So responses stay in order, and a client
//! that does not read its responses can't send more requests. A stream is a response without an end. It is the last
//! response on its connection, and its unread output is bounded.

pub use super::shared_http_state::SharedHttpState;

use super::request_head::{HeadStatus, ParsedHead, parse_head};
use super::response::{CONTINUE, Refusal, print_response, print_stream};
use super::shared_http_state::SLOWED;
use super::{Head, HttpResponse, Limits, OnDisconnect, PendingRequest, Request, Ticket};
use mio::net::TcpStream;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::sync::mpsc::TrySendError;
use std::time::{Duration, Instant};

/// A comment line that is sent on an idle event stream to keep the connection alive.
const HEARTBEAT: &[u8] = b":\n\n";
/// Maximum number of bytes that one connection reads in one turn.
pub const READ_MAX: usize = 64 << 10;
/// Maximum number of bytes that are read after the last response. If bytes stayed unread, the system would reset
/// the connection, and the client might never get the response.
const DRAIN_MAX: usize = 2 << 20;
/// How long reading continues after the last response.
const DRAIN: Duration = Duration::from_secs(1);
/// Maximum size of the buffer that an idle connection keeps, in bytes.
const INPUT_KEPT: usize = 4 << 10;

/// What a connection needs after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The connection waits for an event or a deadline.
    Wait,
    /// The connection needs another turn, after the other connections have had theirs.
    Again,
    /// The connection must be closed.
    Close,
}

/// The stream that carries a connection: a TCP stream, or scripted input in tests.
pub trait HttpStream: Read + Write {
    /// Tells the client that nothing more will be written.
    fn close_write(&self) -> io::Result<()>;
}

impl HttpStream for TcpStream {
    fn close_write(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// An open connection.
pub struct HttpConnection<S = TcpStream> {
    stream: S,
    peer: IpAddr,
    phase: Phase,
    /// Bytes that were read but not yet parsed: at most one head plus `READ_MAX` bytes.
    input: Input,
    /// Bytes to send. The first `sent` bytes have already been sent.
    output: Vec<u8>,
    sent: usize,
    /// Whether the socket may have bytes to read. The poll reports new bytes only once, so the flag stays true until a
    /// read finds no bytes.
    readable: bool,
    /// Identifies the current request.
    ticket: Ticket,
    /// Whether the response has no body, because the request's method was HEAD.
    bodyless: bool,
    /// Whether the connection ends after this response.
    close: bool,
    /// Whether the gate has accepted a request on this connection. The gate checks the head of each request.
    trusted: bool,
    /// Whether the connection has had a turn. Before its first turn, a connection may have an unread request.
    had_turn: bool,
    /// When the connection was accepted.
    began: Instant,
    /// Tells the owner of the stream when this connection is dropped.
    on_disconnect: Option<OnDisconnect>,
    /// When the connection began to wait for a request.
    since: Instant,
    /// The deadline of the current phase.
    deadline: Option<Instant>,
}

/// What a connection is waiting for.
enum Phase {
    /// Waits for the first byte of a request. If the head has begun, waits for the rest of the head.
    Head { began: bool },
    /// Waits for the rest of the body.
    Body { head: Box<Head>, body: Vec<u8>, length: usize },
    /// Waits before refusing a client that sent a wrong token.
    Slowed(Box<HttpResponse>),
    /// Waits for the response from the event loop.
    AwaitingResponse,
    /// Waits for the client to read the response.
    Responding,
    /// Waits for the next part of a stream. If the client is `behind`, waits for the client to read the output.
    Streaming { behind: bool },
    /// Waits for the client to close the connection. Until then, up to `bytes_left` bytes are read and discarded.
    Draining { bytes_left: usize },
}

/// Bytes that were read. The first `at` bytes have been parsed.
#[derive(Default)]
struct Input {
    bytes: Vec<u8>,
    at: usize,
}

impl<S: HttpStream> HttpConnection<S> {
    /// Creates a connection over `stream`, which the caller has registered in the poll.
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
            had_turn: false,
            began: now,
            on_disconnect: None,
            since: now,
            deadline: after(now, limits.idle_ms),
        }
    }

    /// The address of the client.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// When the connection needs a turn even if there is no event.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How many bytes of the output have not been sent yet.
    pub fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Makes this request the last one on the connection.
    pub fn finish(&mut self) {
        self.close = true;
    }

    /// Whether the last response may still be on its way to the client.
    pub fn is_leaving(&self) -> bool {
        self.unsent() > 0 || matches!(self.phase, Phase::Draining { .. })
    }

    /// Returns the connection's rank; `None` if the connection may not be dropped to make room for others. The
    /// connection with the lowest rank is dropped first. A rank is a flag and a time. The flag tells whether a request
    /// on this connection has ever been accepted.
    ///
    /// If the flag is false, the connection may be dropped as soon as it has had its first turn. Its rank contains the
    /// time at which the connection was accepted. If the flag is true, the connection may be dropped only while it is
    /// idle and has no unread input. Its rank contains the time at which the connection began to wait for a request.
    pub fn leaves_since(&self) -> Option<(bool, Instant)> {
        let is_idle = matches!(self.phase, Phase::Head { .. } | Phase::Draining { .. }) && !self.readable;
        let may_leave = if self.trusted { is_idle } else { self.had_turn };
        may_leave.then_some((self.trusted, if self.trusted { self.since } else { self.began }))
    }

    /// Whether the connection has had a turn, but no request on it has been accepted.
    pub fn is_stranger(&self) -> bool {
        self.had_turn && !self.trusted
    }

    /// The stream that carries this connection.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Records that there may be bytes to read.
    pub fn note_readable(&mut self) {
        self.readable = true;
    }

    /// Sends a response from the event loop, if the response belongs to the current request.
    pub fn deliver(&mut self, ticket: Ticket, response: &HttpResponse, limits: &Limits, now: Instant) {
        if ticket == self.ticket && matches!(self.phase, Phase::AwaitingResponse) {
            self.respond(response, limits, now);
        }
    }

    /// Begins a stream as the response, if the ticket belongs to the current request.
    pub fn start_stream(
        &mut self,
        ticket: Ticket,
        head: &HttpResponse,
        on_disconnect: OnDisconnect,
        limits: &Limits,
        now: Instant,
    ) {
        if ticket != self.ticket || !matches!(self.phase, Phase::AwaitingResponse) {
            return;
        }
        if self.bodyless || !print_stream(head, &mut self.output) {
            return self.refuse(Refusal::Unprintable, limits, now);
        }
        self.on_disconnect = Some(on_disconnect);
        self.phase = Phase::Streaming { behind: true };
        self.deadline = after(now, limits.answer_ms);
    }

    /// Adds bytes to the stream. The connection is closed if the client leaves too many bytes unread.
    pub fn send_chunk(&mut self, ticket: Ticket, bytes: &[u8], limits: &Limits, now: Instant) -> Next {
        let Phase::Streaming { behind } = &mut self.phase else { return Next::Wait };
        if ticket != self.ticket {
            return Next::Wait;
        }
        if !std::mem::replace(behind, true) {
            self.deadline = after(now, limits.answer_ms);
        }
        if self.unsent() + bytes.len() > limits.stream_max {
            return Next::Close;
        }
        self.output.drain(..std::mem::take(&mut self.sent));
        self.output.extend_from_slice(bytes);
        Next::Again
    }

    /// Ends the current phase, because its deadline has passed. But if the response is a stream without unsent output,
    /// sends a keep-alive instead.
    pub fn expire(&mut self, limits: &Limits, now: Instant) -> Next {
        if matches!(self.phase, Phase::Streaming { behind: false }) {
            return self.send_chunk(self.ticket, HEARTBEAT, limits, now);
        }
        match std::mem::replace(&mut self.phase, Phase::AwaitingResponse) {
            Phase::Head { began: true } | Phase::Body { .. } => self.refuse(Refusal::Slow, limits, now),
            Phase::Slowed(response) => self.respond(&response, limits, now),
            _ => return Next::Close,
        }
        Next::Again
    }

    /// Reads, parses and sends as much as one turn allows: `READ_MAX` bytes and `pipeline_max` requests.
    pub fn run_turn(&mut self, http_state: &SharedHttpState, scratch: &mut [u8], now: Instant) -> Next {
        self.had_turn = true;
        let mut budget = READ_MAX.min(scratch.len());
        let mut n_answered = 0;
        loop {
            if self.flush().is_err() {
                return Next::Close;
            }
            if self.unsent() > 0 || matches!(self.phase, Phase::AwaitingResponse | Phase::Slowed(_)) {
                return Next::Wait;
            }
            if let Phase::Streaming { behind: behind @ true } = &mut self.phase {
                *behind = false;
                self.deadline = after(now, http_state.limits.beat_ms);
            }
            if n_answered >= http_state.limits.pipeline_max {
                return Next::Again;
            }
            if matches!(self.phase, Phase::Responding) {
                n_answered += 1;
                self.end_response(&http_state.limits, now);
            } else if !self.parse_input(http_state, now) {
                if !self.readable {
                    return Next::Wait;
                }
                if budget == 0 {
                    return Next::Again;
                }
                match self.read(&mut scratch[..budget], &http_state.limits, now) {
                    Ok(n) => budget -= n,
                    Err(_) => return Next::Close,
                }
            }
        }
    }

    /// Parses the input. Returns false if more bytes are needed.
    fn parse_input(&mut self, http_state: &SharedHttpState, now: Instant) -> bool {
        match &mut self.phase {
            Phase::Head { began: true } => match parse_head(self.input.rest(), self.peer, &http_state.limits) {
                HeadStatus::Partial => return false,
                HeadStatus::Complete(parsed) => self.begin_request(parsed, http_state, now),
                HeadStatus::Refused(refusal) => self.refuse(refusal, &http_state.limits, now),
            },
            Phase::Body { body, length, .. } => {
                self.input.move_to(body, *length - body.len());
                if body.len() < *length {
                    return false;
                }
                self.hand_over(http_state, now);
            }
            Phase::Head { began: false } | Phase::Streaming { .. } | Phase::Draining { .. } => return false,
            Phase::AwaitingResponse | Phase::Slowed(_) | Phase::Responding => return false, // the function is not called in these phases
        }
        true
    }

    /// Lets the gate check the head, and then checks the length of the body. If the request passes both checks, the
    /// connection waits for the body.
    fn begin_request(&mut self, parsed: ParsedHead, http_state: &SharedHttpState, now: Instant) {
        self.input.skip(parsed.used);
        self.close = parsed.close;
        self.bodyless = parsed.head.method == "HEAD";
        if let Some(response) = (http_state.gate)(&parsed.head) {
            let is_slowed = response.status == 401 && http_state.is_slowed(&parsed.head, now);
            // If the body of the refused request is incomplete, the server does not wait for the rest. When the rest
            // arrives, it must not be parsed as a request, so the connection must end.
            let here = self.input.rest().len() as u64;
            self.close |= parsed.length > here;
            self.input.skip(parsed.length.min(here) as usize);
            if is_slowed {
                self.deadline = now.checked_add(SLOWED);
                self.phase = Phase::Slowed(Box::new(response));
                return;
            }
            return self.respond(&response, &http_state.limits, now);
        }
        self.trusted = true;
        let length = match usize::try_from(parsed.length) {
            Ok(length) if length <= http_state.limits.body_max => length,
            _ => return self.refuse(Refusal::BodyTooLarge, &http_state.limits, now),
        };
        if parsed.expects && self.input.rest().len() < length {
            self.output.extend_from_slice(CONTINUE);
        }
        let body = Vec::with_capacity(length);
        self.phase = Phase::Body { head: Box::new(parsed.head), body, length };
    }

    /// Passes the complete request to the event loop.
    fn hand_over(&mut self, http_state: &SharedHttpState, now: Instant) {
        let Phase::Body { head, body, .. } = std::mem::replace(&mut self.phase, Phase::AwaitingResponse) else {
            return; // the function is called only in the phase `Body`
        };
        self.deadline = None;
        let request = Request { head: *head, body };
        match http_state.requests.try_send(PendingRequest { ticket: self.ticket, request }) {
            Ok(()) => (http_state.wake)(),
            Err(TrySendError::Full(_)) => self.respond(&Refusal::Busy.response(), &http_state.limits, now),
            Err(TrySendError::Disconnected(_)) => self.refuse(Refusal::Stopping, &http_state.limits, now),
        }
    }

    /// Refuses the request and ends the connection, because it is unclear where the next request would begin.
    fn refuse(&mut self, refusal: Refusal, limits: &Limits, now: Instant) {
        self.close = true;
        self.respond(&refusal.response(), limits, now);
    }

    fn respond(&mut self, response: &HttpResponse, limits: &Limits, now: Instant) {
        print_response(response, self.close, self.bodyless, &mut self.output);
        self.phase = Phase::Responding;
        self.deadline = after(now, limits.answer_ms);
    }

    /// Continues with the next request, or ends the connection after the last one.
    fn end_response(&mut self, limits: &Limits, now: Instant) {
        self.since = now;
        self.bodyless = false;
        if self.close {
            // If closing fails, the next read fails as well.
            let _ = self.stream.close_write();
            self.input = Input::default();
            self.phase = Phase::Draining { bytes_left: DRAIN_MAX };
            self.deadline = now.checked_add(DRAIN);
            return;
        }
        self.ticket.position += 1;
        self.input.compact();
        let began = !self.input.rest().is_empty();
        self.phase = Phase::Head { began };
        self.deadline = after(now, if began { limits.request_ms } else { limits.idle_ms });
    }

    /// Reads once. After an error, the connection must be closed.
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
            // After a client has requested a stream, it must not send any more requests.
            Phase::Streaming { .. } => return Err(ErrorKind::InvalidData.into()),
            Phase::Draining { bytes_left } => {
                *bytes_left = bytes_left.checked_sub(n).ok_or(ErrorKind::FileTooLarge)?;
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

    /// Sends as much as the socket accepts now.
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
    fn move_to(&mut self, body: &mut Vec<u8>, n: usize) {
        let n = n.min(self.rest().len());
        body.extend_from_slice(&self.rest()[..n]);
        self.skip(n);
    }

    /// Removes the parsed bytes, if no other bytes are left. Removing them after each request of a pipeline would move
    /// the bytes of all later requests each time.
    fn compact(&mut self) {
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(INPUT_KEPT);
            self.at = 0;
        }
    }
}

/// The time `ms` milliseconds after `now`; `None` if an `Instant` can't represent that time.
fn after(now: Instant, ms: u64) -> Option<Instant> {
    now.checked_add(Duration::from_millis(ms))
}
