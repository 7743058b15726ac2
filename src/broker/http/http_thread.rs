//! The HTTP thread. It accepts connections, serves them, and enforces their deadlines.
//!
//! **Invariant:** the thread sleeps only until an event or the next deadline. An error in the turn of a connection,
//! even a panic, ends only that connection.

use super::connection::{HttpConnection, Next, READ_MAX, SharedHttpState};
use super::{ResponsePart, Ticket};
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
/// The number of the first connection. No number is used twice, so a late event can't reach another connection.
const FIRST_ID: usize = 2;
/// Maximum number of connections that are accepted before the open connections get a turn.
const ACCEPT_MAX: usize = 64;
/// How long to pause after a failed accept. Probably no file descriptor is free, and no event will report when one
/// becomes free.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Maximum time in one turn for connections that have not shown a valid token.
const STRANGERS_SHARE: Duration = Duration::from_millis(1);

/// The state of the thread.
pub struct HttpThread {
    poll: Poll,
    /// The listener; `None` when the thread is stopping.
    listener: Option<TcpListener>,
    accept_state: HttpAcceptState,
    http_state: SharedHttpState,
    inbox: Receiver<(Ticket, ResponsePart)>,
    stopping: Arc<AtomicBool>,
    n_open: Arc<AtomicUsize>,
    conns: BTreeMap<usize, HttpConnection>,
    /// The connections that need a turn even if there is no event.
    ready: BTreeSet<usize>,
    next_id: usize,
    /// Of the connections without a valid token, the one that was served last.
    last_stranger: usize,
    scratch: Vec<u8>,
}

/// Whether clients are waiting to be accepted. The thread must remember a waiting client, because the poll reports it
/// only once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HttpAcceptState {
    /// No client is known to be waiting.
    Idle,
    /// A client may be waiting.
    Ready,
    /// A client may be waiting, but there is no room for another connection.
    Full,
    /// A client is waiting, but could not be accepted. The next attempt is made at this time.
    RetryAt(Instant),
}

impl HttpThread {
    /// Prepares the thread before it starts, so that the caller can handle errors. `shared` contains the stop flag and
    /// the number of open connections.
    ///
    /// # Errors
    /// If the system can't create a poll instance.
    pub fn new(
        listener: std::net::TcpListener,
        http_state: SharedHttpState,
        inbox: Receiver<(Ticket, ResponsePart)>,
        shared: (Arc<AtomicBool>, Arc<AtomicUsize>),
    ) -> io::Result<(HttpThread, Arc<Waker>)> {
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let serve = HttpThread {
            poll,
            listener: Some(listener),
            accept_state: HttpAcceptState::Ready, // clients may have arrived before the thread started
            http_state,
            inbox,
            stopping: shared.0,
            n_open: shared.1,
            conns: BTreeMap::new(),
            ready: BTreeSet::new(),
            next_id: FIRST_ID,
            last_stranger: 0,
            scratch: vec![0; READ_MAX],
        };
        Ok((serve, waker))
    }

    /// Serves until the stop flag is set.
    pub fn serve(mut self) {
        let mut events = Events::with_capacity(256);
        while !self.stopping.load(Ordering::Acquire) {
            // A poll that has failed would fail again, so the thread ends. All sockets are then closed, so the clients
            // see that the server is gone.
            let Ok(now) = self.run_turn(&mut events, None) else { return };
            self.accept(now);
        }
        self.drain(&mut events);
        self.n_open.store(0, Ordering::Relaxed);
    }

    /// Closes all connections. A connection with a pending response gets a short time to send it.
    fn drain(&mut self, events: &mut Events) {
        let end = Instant::now() + Duration::from_millis(self.http_state.limits.stop_ms);
        self.listener = None;
        self.accept_state = HttpAcceptState::Idle;
        self.conns.values_mut().for_each(HttpConnection::finish);
        self.deliver(Instant::now());
        loop {
            self.conns.retain(|_, conn| conn.is_leaving());
            if self.conns.is_empty() || Instant::now() >= end {
                return;
            }
            if self.run_turn(events, Some(end)).is_err() {
                return;
            }
        }
    }

    /// Waits for events and serves the open connections. New connections are accepted after this turn.
    fn run_turn(&mut self, events: &mut Events, end: Option<Instant>) -> io::Result<Instant> {
        match self.poll.poll(events, self.timeout(end)) {
            Err(e) if e.kind() != ErrorKind::Interrupted => return Err(e),
            Err(_) => events.clear(),
            Ok(()) => {}
        }
        let now = Instant::now();
        for event in events.iter() {
            self.note(event);
        }
        self.deliver(now);
        self.serve_ready(now);
        self.expire(now);
        self.log_wrong_tokens(now);
        self.drop_slowest();
        self.n_open.store(self.conns.len(), Ordering::Relaxed);
        Ok(now)
    }

    /// How long the poll may sleep; `None` means until the next event.
    fn timeout(&self, end: Option<Instant>) -> Option<Duration> {
        if !self.ready.is_empty() || self.accept_state == HttpAcceptState::Ready {
            return Some(Duration::ZERO);
        }
        let retry = match self.accept_state {
            HttpAcceptState::RetryAt(until) => Some(until),
            _ => None,
        };
        let deadlines = self.conns.values().filter_map(HttpConnection::deadline);
        let nearest = deadlines.chain(retry).chain(end).chain(self.http_state.tries.borrow().report_due()).min()?;
        Some(nearest.saturating_duration_since(Instant::now()))
    }

    fn note(&mut self, event: &Event) {
        match event.token() {
            LISTENER => self.accept_state = HttpAcceptState::Ready,
            WAKER => {} // the inbox is read in any case
            // The client is gone.
            Token(id) if event.is_error() || event.is_write_closed() => {
                self.conns.remove(&id);
            }
            Token(id) => {
                let Some(conn) = self.conns.get_mut(&id) else { return };
                if event.is_readable() || event.is_read_closed() {
                    conn.note_readable();
                }
                self.ready.insert(id);
            }
        }
    }

    fn deliver(&mut self, now: Instant) {
        while let Ok((ticket, part)) = self.inbox.try_recv() {
            self.apply(ticket.conn, |conn, http_state, _| {
                match part {
                    ResponsePart::Whole(response) => conn.deliver(ticket, &response, &http_state.limits, now),
                    ResponsePart::StreamStart(head, on_disconnect) => {
                        conn.start_stream(ticket, &head, on_disconnect, &http_state.limits, now)
                    }
                    ResponsePart::StreamChunk(bytes) => {
                        return conn.send_chunk(ticket, &bytes, &http_state.limits, now);
                    }
                }
                Next::Again
            });
        }
    }

    /// Gives a turn to each connection that needs one. Connections with a valid token go first, together with new
    /// connections, because a new connection may show a valid token. The time for all other connections is bounded.
    fn serve_ready(&mut self, now: Instant) {
        let is_stranger = |id: &usize| self.conns.get(id).is_some_and(HttpConnection::is_stranger);
        let (strangers, known): (Vec<_>, Vec<_>) = std::mem::take(&mut self.ready).into_iter().partition(is_stranger);
        for id in known {
            self.run_connection(id, now);
        }
        // Connections without a valid token are served round-robin, beginning after the one that was served last.
        let (served_before, others): (Vec<_>, Vec<_>) = strangers.into_iter().partition(|id| *id <= self.last_stranger);
        let began = Instant::now();
        for id in others.into_iter().chain(served_before) {
            if began.elapsed() >= STRANGERS_SHARE {
                self.ready.insert(id);
                continue;
            }
            self.last_stranger = id;
            self.run_connection(id, now);
        }
    }

    fn run_connection(&mut self, id: usize, now: Instant) {
        self.apply(id, |conn, http_state, scratch| conn.run_turn(http_state, scratch, now));
    }

    fn expire(&mut self, now: Instant) {
        let late = |conn: &HttpConnection| conn.deadline().is_some_and(|deadline| deadline <= now);
        let late = self.conns.iter().filter(|(_, conn)| late(conn)).map(|(id, _)| *id);
        for id in late.collect::<Vec<_>>() {
            self.apply(id, |conn, http_state, _| conn.expire(&http_state.limits, now));
        }
    }

    /// Runs an action on a connection, and then does what the connection needs next.
    fn apply(&mut self, id: usize, act: impl FnOnce(&mut HttpConnection, &SharedHttpState, &mut [u8]) -> Next) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let (http_state, scratch) = (&self.http_state, &mut self.scratch);
        // After a panic, the connection is dropped, so that its broken state is never used.
        let next = catch_unwind(AssertUnwindSafe(|| act(conn, http_state, scratch)));
        match next.unwrap_or(Next::Close) {
            Next::Wait => {}
            Next::Again => {
                self.ready.insert(id);
            }
            Next::Close => {
                self.conns.remove(&id);
            }
        }
    }

    /// Logs which addresses have sent wrong tokens, at most once a minute.
    fn log_wrong_tokens(&self, now: Instant) {
        let mut tries = self.http_state.tries.borrow_mut();
        if tries.is_report_due(now)
            && let Some(addresses) = tries.take_report()
        {
            crate::broker::log(&format!("wrong tokens over HTTP in the last minute, by address: {addresses}"));
        }
    }

    /// Closes connections until the total of unread output is within the limit. The connections with the most unread
    /// output are closed first.
    fn drop_slowest(&mut self) {
        while self.conns.values().map(HttpConnection::unsent).sum::<usize>() > self.http_state.limits.out_max {
            let most = self.conns.iter().max_by_key(|(_, conn)| conn.unsent());
            let Some((&id, _)) = most else { return };
            self.conns.remove(&id);
        }
    }

    fn accept(&mut self, now: Instant) {
        match self.accept_state {
            HttpAcceptState::Idle => return,
            HttpAcceptState::RetryAt(until) if until > now => return,
            _ => self.accept_state = HttpAcceptState::Ready,
        }
        for _ in 0..ACCEPT_MAX {
            let full = self.conns.len() >= self.http_state.limits.connections_max;
            let leaving = if full { self.first_to_leave(|_| true) } else { None };
            if full && leaving.is_none() {
                self.accept_state = HttpAcceptState::Full;
                break;
            }
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((stream, address)) => {
                    self.dismiss(leaving);
                    self.admit(stream, address.ip().to_canonical(), now);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.accept_state = HttpAcceptState::Idle;
                    break;
                }
                // The client has already hung up.
                Err(e) if concerns_one_client(&e) => {}
                Err(_) => {
                    // Most likely, no file descriptor is free. Dropping a connection frees one.
                    let leaving = self.first_to_leave(|_| true);
                    self.dismiss(leaving);
                    self.accept_state = HttpAcceptState::RetryAt(now + ACCEPT_RETRY);
                    break;
                }
            }
        }
        self.n_open.store(self.conns.len(), Ordering::Relaxed);
    }

    /// Adds a connection. If the client's address already has too many connections, drops one of them. If none may be
    /// dropped, refuses the new connection.
    fn admit(&mut self, mut stream: TcpStream, peer: IpAddr, now: Instant) {
        let limits = &self.http_state.limits;
        if self.conns.values().filter(|conn| conn.peer() == peer).count() >= limits.per_address_max {
            let leaving = self.first_to_leave(|conn| conn.peer() == peer);
            if leaving.is_none() {
                return;
            }
            self.dismiss(leaving);
        }
        // If this fails, responses are merely slower.
        let _ = stream.set_nodelay(true);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let id = self.next_id;
        if self.poll.registry().register(&mut stream, Token(id), interest).is_err() {
            return;
        }
        self.next_id += 1;
        self.conns.insert(id, HttpConnection::new(stream, peer, id, now, &self.http_state.limits));
        self.ready.insert(id);
    }

    /// The connection to drop first: the oldest one without a valid token or, if all have a valid token, the one that
    /// has been idle for longest.
    fn first_to_leave(&self, of: impl Fn(&HttpConnection) -> bool) -> Option<usize> {
        let found = self.conns.iter().filter(|(_, conn)| of(conn));
        let found = found.filter_map(|(id, conn)| Some((conn.leaves_since()?, *id)));
        found.min().map(|(_, id)| id)
    }

    fn dismiss(&mut self, id: Option<usize>) {
        if let Some(id) = id {
            self.conns.remove(&id);
        }
    }
}

/// The errors of accept that affect only one connection; see accept(2).
fn concerns_one_client(e: &io::Error) -> bool {
    use ErrorKind::*;
    matches!(
        e.kind(),
        Interrupted
            | ConnectionAborted
            | ConnectionReset
            | TimedOut
            | HostUnreachable
            | NetworkUnreachable
            | NetworkDown
    )
}
