//! The thread itself: one poll, one listener, the connections, their deadlines.
//!
//! **Invariant:** sleeps until an event or the nearest deadline and for nothing else; whatever a
//! connection does to us in its turn, a panic included, ends that connection only.

use super::connection::{Desk, Fate, HttpConnection, READ_MAX};
use super::{Said, Ticket};
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
/// Connections count up from here; a number is never used again, so a late event meets nobody.
const FIRST: usize = 2;
/// Accepted before those who are in have their turn.
const ACCEPT_MAX: usize = 64;
/// When to try again after an accept that failed: the process may be out of descriptors, and no
/// event says when it has some again.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// What the last answers have to leave when we stop.
const STOP: Duration = Duration::from_millis(200);

/// The state of the thread.
pub struct Serve {
    poll: Poll,
    /// Gone when we stop.
    listener: Option<TcpListener>,
    door: Door,
    desk: Desk,
    inbox: Receiver<(Ticket, Said)>,
    stopping: Arc<AtomicBool>,
    n_open: Arc<AtomicUsize>,
    conns: BTreeMap<usize, HttpConnection>,
    /// Who has something to do without waiting for an event.
    ready: BTreeSet<usize>,
    next: usize,
    scratch: Vec<u8>,
}

/// Edge-triggered: who waits outside is announced once, so we remember.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    /// Nobody waits that we know of.
    Quiet,
    /// Somebody may wait.
    Knocked,
    /// Somebody may wait, and every slot is busy.
    Full,
    /// Somebody waits, and we could not let them in.
    Failed(Instant),
}

impl Serve {
    /// Prepares the thread, so that what can fail does so in the caller's hands. `signs` are its
    /// order to stop and its count of connections.
    pub fn new(
        listener: std::net::TcpListener,
        desk: Desk,
        inbox: Receiver<(Ticket, Said)>,
        signs: (Arc<AtomicBool>, Arc<AtomicUsize>),
    ) -> io::Result<(Serve, Arc<Waker>)> {
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let serve = Serve {
            poll,
            listener: Some(listener),
            door: Door::Knocked, // they may have come before us
            desk,
            inbox,
            stopping: signs.0,
            n_open: signs.1,
            conns: BTreeMap::new(),
            ready: BTreeSet::new(),
            next: FIRST,
            scratch: vec![0; READ_MAX],
        };
        Ok((serve, waker))
    }

    /// Serves until told to stop.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(256);
        while !self.stopping.load(Ordering::Acquire) {
            // A poll that fails will fail again; ending closes every socket, which clients see.
            let Ok(now) = self.wait(&mut events, None) else { return };
            self.accept(now);
        }
        self.last_words(&mut events);
        self.n_open.store(0, Ordering::Relaxed);
    }

    /// Lets the answers that are under way leave, for a moment; closes everything else.
    fn last_words(&mut self, events: &mut Events) {
        let end = Instant::now() + STOP;
        self.listener = None;
        self.door = Door::Quiet;
        self.conns.values_mut().for_each(HttpConnection::end);
        self.deliver(Instant::now());
        loop {
            self.conns.retain(|_, conn| conn.is_leaving());
            if self.conns.is_empty() || Instant::now() >= end {
                return;
            }
            if self.wait(events, Some(end)).is_err() {
                return;
            }
        }
    }

    /// Waits for something to do and does it, connections before newcomers.
    fn wait(&mut self, events: &mut Events, end: Option<Instant>) -> io::Result<Instant> {
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
        self.tell_tries(now);
        self.shed();
        self.n_open.store(self.conns.len(), Ordering::Relaxed);
        Ok(now)
    }

    /// How long we may sleep; None is for ever.
    fn timeout(&self, end: Option<Instant>) -> Option<Duration> {
        if !self.ready.is_empty() || self.door == Door::Knocked {
            return Some(Duration::ZERO);
        }
        let retry = match self.door {
            Door::Failed(until) => Some(until),
            _ => None,
        };
        let deadlines = self.conns.values().filter_map(HttpConnection::deadline);
        let nearest = deadlines.chain(retry).chain(end).chain(self.desk.tries.borrow().due()).min()?;
        Some(nearest.saturating_duration_since(Instant::now()))
    }

    fn note(&mut self, event: &Event) {
        match event.token() {
            LISTENER => self.door = Door::Knocked,
            WAKER => {} // the inbox is looked at in any case
            // The client has gone for good.
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
        while let Ok((ticket, said)) = self.inbox.try_recv() {
            self.apply(ticket.conn, |conn, desk, _| {
                match said {
                    Said::Answer(answer) => conn.deliver(ticket, &answer, &desk.limits, now),
                    Said::Stream(head, left) => conn.stream_out(ticket, &head, left, &desk.limits, now),
                    Said::More(bytes) => return conn.more(ticket, &bytes, &desk.limits, now),
                }
                Fate::Again
            });
        }
    }

    /// One turn for everybody who has something to do.
    fn serve_ready(&mut self, now: Instant) {
        for id in std::mem::take(&mut self.ready) {
            self.apply(id, |conn, desk, scratch| conn.turn(desk, scratch, now));
        }
    }

    fn expire(&mut self, now: Instant) {
        let late = |conn: &HttpConnection| conn.deadline().is_some_and(|deadline| deadline <= now);
        let late = self.conns.iter().filter(|(_, conn)| late(conn)).map(|(id, _)| *id);
        for id in late.collect::<Vec<_>>() {
            self.apply(id, |conn, desk, _| conn.expire(&desk.limits, now));
        }
    }

    /// Does something with a connection and sees to what comes of it.
    fn apply(&mut self, id: usize, act: impl FnOnce(&mut HttpConnection, &Desk, &mut [u8]) -> Fate) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let (desk, scratch) = (&self.desk, &mut self.scratch);
        // A connection that panicked is dropped, so nobody sees it half done.
        let fate = catch_unwind(AssertUnwindSafe(|| act(conn, desk, scratch)));
        match fate.unwrap_or(Fate::Gone) {
            Fate::Waits => {}
            Fate::Again => {
                self.ready.insert(id);
            }
            Fate::Gone => {
                self.conns.remove(&id);
            }
        }
    }

    /// Says who brought wrong tokens, once a minute.
    fn tell_tries(&self, now: Instant) {
        let mut tries = self.desk.tries.borrow_mut();
        if tries.is_due(now)
            && let Some(who) = tries.end()
        {
            crate::broker::log(&format!("wrong tokens over HTTP in the last minute: {who}"));
        }
    }

    /// Drops those who leave most of their answers untaken, until the rest fits.
    fn shed(&mut self) {
        while self.conns.values().map(HttpConnection::unsent).sum::<usize>() > self.desk.limits.out_max {
            let most = self.conns.iter().max_by_key(|(_, conn)| conn.unsent());
            let Some((&id, _)) = most else { return };
            self.conns.remove(&id);
        }
    }

    fn accept(&mut self, now: Instant) {
        match self.door {
            Door::Quiet => return,
            Door::Failed(until) if until > now => return,
            _ => self.door = Door::Knocked,
        }
        for _ in 0..ACCEPT_MAX {
            let full = self.conns.len() >= self.desk.limits.connections_max;
            let leaving = if full { self.idlest(|_| true) } else { None };
            if full && leaving.is_none() {
                self.door = Door::Full;
                break;
            }
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((stream, address)) => {
                    self.dismiss(leaving);
                    self.admit(stream, address.ip().to_canonical(), now);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.door = Door::Quiet;
                    break;
                }
                // This one has gone already.
                Err(e) if is_theirs(&e) => {}
                Err(_) => {
                    // Out of descriptors, most likely: whoever is idle gives one back.
                    let leaving = self.idlest(|_| true);
                    self.dismiss(leaving);
                    self.door = Door::Failed(now + ACCEPT_RETRY);
                    break;
                }
            }
        }
        self.n_open.store(self.conns.len(), Ordering::Relaxed);
    }

    /// Takes a newcomer in, unless its address has enough busy connections already.
    fn admit(&mut self, mut stream: TcpStream, peer: IpAddr, now: Instant) {
        let limits = &self.desk.limits;
        if self.conns.values().filter(|conn| conn.peer() == peer).count() >= limits.per_address_max {
            let leaving = self.idlest(|conn| conn.peer() == peer);
            if leaving.is_none() {
                return;
            }
            self.dismiss(leaving);
        }
        // Without it answers are only slower.
        let _ = stream.set_nodelay(true);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let id = self.next;
        if self.poll.registry().register(&mut stream, Token(id), interest).is_err() {
            return;
        }
        self.next += 1;
        self.conns.insert(id, HttpConnection::new(stream, peer, id, now, &self.desk.limits));
        self.ready.insert(id);
    }

    /// Who of them has been idle for longest.
    fn idlest(&self, of: impl Fn(&HttpConnection) -> bool) -> Option<usize> {
        let idle = self.conns.iter().filter(|(_, conn)| of(conn));
        let idle = idle.filter_map(|(id, conn)| Some((conn.idle_since()?, *id)));
        idle.min().map(|(_, id)| id)
    }

    fn dismiss(&mut self, id: Option<usize>) {
        if let Some(id) = id {
            self.conns.remove(&id);
        }
    }
}

/// Errors of accept that concern the one connection only (see accept(2)).
fn is_theirs(e: &io::Error) -> bool {
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
