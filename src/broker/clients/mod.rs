//! The clients on the Unix socket, and the guests: sessions and commands on other machines. This module accepts
//! clients, serves them in turn, checks whether they still answer, and drops them.
//!
//! **Invariant:** a client gets a bounded share of each turn, and no client has to wait for the input of another
//! client. Idle clients add nothing to the cost of a turn.

mod clients_at_role_change_and_shutdown;
pub(in crate::broker) mod client_machine_and_ancestors;
mod connection;
mod fair_queue;
mod guest_check_schedule;
mod heartbeat_schedule;
mod local_or_guest_socket;
mod requests;
mod retired_methods;
mod service_order;

use super::event_loop::{LISTENER, LoopContext};
use super::log;
use super::log_rate_limit::EventCount;
use crate::base::id_types::{ConnId, CountedMap, CountedSet};
use crate::remote::encrypted_stream_to_guest::GuestStream;
use crate::sys::process;
use crate::wire::rpc;
use client_machine_and_ancestors::Origin;
use connection::{ClientConnection, READ_MAX};
use fair_queue::{LOGGED_TURN_SHARE, QueueClocks, TURN_SHARE, WorkMeter};
use guest_check_schedule::GuestCheckSchedule;
pub use heartbeat_schedule::LivenessLimits;
use heartbeat_schedule::LivenessSchedule;
use local_or_guest_socket::ClientSocket;
use mio::event::Event;
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry};
use serde_json::json;
use service_order::{ServiceOrder, ServiceRank};
use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Maximum number of clients at once, including guests.
const CLIENTS_MAX: usize = 12_000;
/// Maximum number of guests at once.
const GUESTS_MAX: usize = 10_000;
/// The pause after a failed accept, in ms.
const ACCEPT_RETRY_MS: i64 = 100;
/// The number of connections to drop when no file descriptor is free. A new client needs several descriptors: one for
/// its connection, and others for the files that the event loop opens to serve it.
const DROPPED_AT_ONCE: usize = 8;

/// Whether clients are waiting to be accepted. The poll reports a waiting client only once, so the state is stored
/// here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AcceptState {
    /// No client is known to be waiting.
    Idle,
    /// A client may be waiting.
    Ready,
    /// A client is waiting, but could not be accepted. The next attempt is at this time, in ms.
    RetryAt(i64),
}

/// The clients on the Unix socket, and the sessions on other machines.
pub struct Clients {
    listener: UnixListener,
    accept_state: AcceptState,
    connections: CountedMap<ClientConnection>,
    /// The clients with an event, output or unfinished work since the last flush. A turn serves only these clients.
    busy: CountedSet,
    /// The clients with an event, output or service in this turn, some of them more than once. A flush looks only at
    /// these clients.
    touched: Vec<u64>,
    /// The planned checks for silent sessions on this machine.
    checks: LivenessSchedule,
    /// The guests, with the planned checks for silent ones.
    guests: GuestCheckSchedule,
    /// The read buffer for all clients. A shared buffer is zeroed only once, and not for every read.
    buffer: Vec<u8>,
    /// The number of turns so far.
    turn: u64,
    /// The clocks of the two fair queues.
    clocks: QueueClocks,
    /// The number of refused connections from other users.
    n_refused: EventCount,
}

impl Clients {
    /// Accepts clients on a socket that is already bound. `limits` decides when a silent session is pinged, and when it
    /// counts as offline.
    ///
    /// # Errors
    /// When the socket can't be registered in the poll.
    pub fn new(mut listener: UnixListener, limits: LivenessLimits, registry: &Registry) -> io::Result<Clients> {
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Clients {
            listener,
            accept_state: AcceptState::Ready,
            connections: CountedMap::default(),
            busy: CountedSet::default(),
            touched: Vec::new(),
            checks: LivenessSchedule::new(limits),
            guests: GuestCheckSchedule::default(),
            buffer: vec![0; READ_MAX],
            turn: 0,
            clocks: QueueClocks::default(),
            n_refused: EventCount::default(),
        })
    }

    /// Accepts clients on a new socket from now on. Connected clients stay connected.
    ///
    /// # Errors
    /// When the socket can't be registered in the poll.
    pub fn replace_listener(&mut self, mut listener: UnixListener, registry: &Registry) -> io::Result<()> {
        // A failure is harmless. No path leads to the old socket, so no more clients arrive there.
        let _ = registry.deregister(&mut self.listener);
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        self.listener = listener;
        self.note_newcomers();
        Ok(())
    }

    /// Records that a client may be waiting to be accepted.
    pub fn note_newcomers(&mut self) {
        self.accept_state = AcceptState::Ready;
    }

    /// Records what the poll has reported about a connection. Returns false if no client has this token.
    pub fn note_ready(&mut self, token: u64, event: &Event) -> bool {
        let Some(connection) = self.connections.get_mut(&token) else { return false };
        connection.note_ready(event);
        self.touch(token);
        true
    }

    fn touch(&mut self, token: u64) {
        self.busy.insert(token);
        self.touched.push(token);
    }

    /// Whether no client is connected.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Whether a client can be served without waiting for an event.
    pub fn wants_turn(&self) -> bool {
        let wants_turn = |token| self.connections.get(token).is_some_and(ClientConnection::wants_turn);
        self.accept_state == AcceptState::Ready || self.busy.iter().any(wants_turn)
    }

    /// The time, in ms, at which the event loop must look at the clients even if there is no event. `now` and
    /// `turn_began` are the same moment on two clocks.
    pub fn deadline(&mut self, now: i64, turn_began: Instant) -> Option<i64> {
        let retry = match self.accept_state {
            AcceptState::RetryAt(at) => Some(at),
            AcceptState::Idle | AcceptState::Ready => None,
        };
        let check = self.checks.next_due(&self.connections);
        // The time is rounded up, so that the check is due when the loop wakes.
        let left = |at: Instant| at.saturating_duration_since(turn_began).as_millis() as i64 + 1;
        let guests = self.guests.next_due(&self.connections).map(|at| now + left(at));
        [check, guests, retry, self.n_refused.report_due()].into_iter().flatten().min()
    }

    /// Accepts new clients of this user. Closes the connections of other users without reading from them.
    pub fn accept(&mut self, context: &mut LoopContext) {
        match self.accept_state {
            AcceptState::Ready => {}
            AcceptState::RetryAt(at) if at <= context.now => {}
            AcceptState::Idle | AcceptState::RetryAt(_) => return,
        }
        while self.connections.len() < CLIENTS_MAX || self.drop_idlest(context) {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit_local(context, stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.accept_state = AcceptState::Idle;
                    return;
                }
                Err(_) => {
                    // Most likely, no file descriptor is free. No event reports when a descriptor becomes free. So some
                    // idle connections are dropped, and the next turn accepts clients again.
                    let n_dropped = (0..DROPPED_AT_ONCE).filter(|_| self.drop_idlest(context)).count();
                    if n_dropped > 0 || self.connections.values().any(|conn| conn.is_new(self.turn)) {
                        return;
                    }
                    break;
                }
            }
        }
        self.accept_state = AcceptState::RetryAt(context.now + ACCEPT_RETRY_MS);
    }

    fn admit_local(&mut self, context: &mut LoopContext, stream: UnixStream) {
        match process::peer_credentials(&stream).filter(|peer| peer.uid == crate::sys::uid()) {
            Some(peer) => drop(self.add(context, ClientSocket::Local(stream), Origin::local(peer.pid.unwrap_or(0)))),
            None => self.n_refused.add(),
        }
    }

    /// Adds a guest, which has already proven that it knows the shared secret.
    pub fn add_guest(&mut self, context: &mut LoopContext, stream: Box<GuestStream>, address: IpAddr) {
        if self.guests.len() >= GUESTS_MAX {
            return log(&format!(
                "a connection from {address} was dropped: this hub already serves {GUESTS_MAX} guests"
            ));
        }
        let deadline = stream.deadline();
        if let Some(token) = self.add(context, ClientSocket::Guest(stream), Origin::remote(address)) {
            self.guests.plan(token, deadline);
        }
    }

    /// Adds a client. Returns its token, or `None` if the poll refuses its socket.
    fn add(&mut self, context: &mut LoopContext, mut socket: ClientSocket, origin: Origin) -> Option<u64> {
        let token = context.tokens.next_token();
        socket.register(context.poll.registry(), token).ok()?;
        self.connections.insert(token, ClientConnection::new(socket, origin, self.turn, context.now));
        self.touch(token);
        context.mesh.on_connected(ConnId::Client(token));
        Some(token)
    }

    /// Makes room by dropping a client that is not in use. A client that has never sent anything is dropped first. If
    /// there is none, the client that has been silent for longest is dropped. Returns false if no client can be
    /// dropped.
    fn drop_idlest(&mut self, context: &mut LoopContext) -> bool {
        let is_idle = |(token, conn): &(&u64, &ClientConnection)| {
            conn.is_idle(self.turn, context.now) && !context.mesh.is_in_use(ConnId::Client(**token))
        };
        let idlest = self.connections.iter().filter(is_idle);
        let idlest = idlest.min_by_key(|(token, conn)| (conn.has_spoken(), conn.last_heard(), **token));
        let Some(token) = idlest.map(|(token, _)| *token) else { return false };
        if let Some(mut connection) = self.connections.remove(&token) {
            connection.deregister(context.poll.registry());
            self.guests.remove(token);
            self.busy.remove(&token);
        }
        context.mesh.on_disconnected(ConnId::Client(token), context.now);
        context.pages.mark_dirty();
        context.shutdown.note_use(context.now);
        true
    }

    /// Reads one buffer from each client that has sent something, and runs the requests in it. The work is bounded for
    /// each client and for all clients together.
    pub fn serve(&mut self, context: &mut LoopContext) {
        self.turn += 1;
        let now = context.now;
        let order = self.service_order(context);
        if !order.is_empty() {
            self.serve_in_order(context, order);
        }
        if let Some(n) = self.n_refused.take_report(now) {
            match n {
                1 => log("refused a connection from another user"),
                n => log(&format!("refused {n} more connections from other users")),
            }
        }
    }

    fn serve_in_order(&mut self, context: &mut LoopContext, mut order: ServiceOrder) {
        let share = if context.role.stores_in_log() { LOGGED_TURN_SHARE } else { TURN_SHARE };
        let mut hung_up = std::mem::take(&mut order.hung_up);
        hung_up.sort_unstable();
        let mut meter = WorkMeter::start();
        let began = Instant::now();
        let hung_up_share = fair_queue::hung_up_share(hung_up.len());
        for token in &hung_up {
            if began.elapsed() >= hung_up_share {
                break;
            }
            self.serve_client(context, *token, ServiceRank::HungUp, false, &mut meter);
        }
        let may_begin = !self.has_unserved_ends(context);
        let [first, second] = order.into_groups(self.turn);
        let began = Instant::now();
        let mut is_answer_waiting = false;
        let mut serve_until = |limit, clients: &[(ServiceRank, u64)]| {
            for (n, (rank, token)) in clients.iter().enumerate() {
                // Responses are sent at the end of the turn. So if a quick client is already waiting for its response,
                // the turn ends before a slow client is served.
                if began.elapsed() >= limit || is_answer_waiting && self.is_costly(*token) {
                    return n;
                }
                self.serve_client(context, *token, *rank, may_begin, &mut meter);
                is_answer_waiting |= !self.is_costly(*token);
            }
            clients.len()
        };
        let n_served = serve_until(if second.is_empty() { share } else { share / 2 }, &first);
        serve_until(share, &second);
        serve_until(share, &first[n_served..]);
    }

    /// Whether a session that has hung up still has unserved requests. Such a session is still attached to its peer.
    fn has_unserved_ends(&self, context: &LoopContext) -> bool {
        self.busy.iter().any(|token| {
            let is_it = |conn: &ClientConnection| conn.is_half_closed() && conn.wants_turn();
            self.connections.get(token).is_some_and(is_it) && context.mesh.is_attached(ConnId::Client(*token))
        })
    }

    fn is_costly(&self, token: u64) -> bool {
        self.connections.get(&token).is_some_and(ClientConnection::is_costly)
    }

    /// Returns the clients with input. Detaches the clients that need nothing more.
    fn service_order(&mut self, context: &mut LoopContext) -> ServiceOrder {
        let mut order = ServiceOrder::default();
        for token in &self.busy {
            let Some(connection) = self.connections.get_mut(token) else { continue };
            if connection.is_done() {
                detach(*token, connection, context);
                self.touched.push(*token);
            }
            if connection.has_input() {
                order.add(*token, connection, *self.clocks.of(connection.is_guest()), self.turn);
            }
        }
        order
    }

    /// Serves a client. If `may_begin` is false, requests that may begin a session wait for the next turn.
    fn serve_client(
        &mut self,
        context: &mut LoopContext,
        token: u64,
        rank: ServiceRank,
        may_begin: bool,
        meter: &mut WorkMeter,
    ) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        self.touched.push(token);
        let (buffer, began) = (&mut self.buffer, Instant::now());
        let served = catch_unwind(AssertUnwindSafe(|| requests::serve(context, token, connection, may_begin, buffer)));
        let clock = self.clocks.of(connection.is_guest());
        let start = connection.note_served(meter.work(began.elapsed()), self.turn, *clock);
        // A client that is served out of order does not move the clock of the queue.
        if matches!(rank, ServiceRank::Queued(_)) {
            *clock = start;
        }
        if served.is_err() {
            log("a bug in slm-mesh: a panic closed one connection");
            connection.close();
        }
        if connection.is_done() {
            detach(token, connection, context);
        }
    }

    /// Pings silent clients. If a client does not answer, marks its sessions as offline in the mesh.
    pub fn check_liveness(&mut self, context: &mut LoopContext) {
        // A client needs a new check if it attaches a session, or if it was unresponsive and now sends a line. In both
        // cases, the client sends a line, so only the clients of this turn are looked at.
        for token in &self.touched {
            if let Some(connection) = self.connections.get_mut(token)
                // Encrypted connections have pings of their own, which a relay can't answer. For a hub with thousands of
                // guests, a second kind of ping would cost more than all other work.
                && !connection.is_guest()
                && is_checked(context, *token)
            {
                self.checks.add(*token, connection);
            }
        }
        while let Some(token) = self.checks.take_due(&self.connections, context.now) {
            let Some(connection) = self.connections.get_mut(&token) else { continue };
            connection.has_check = false;
            if !is_checked(context, token) {
                continue;
            }
            if connection.gives_up(self.checks.limits, context.now) {
                context.mesh.set_unresponsive(ConnId::Client(token), true, context.now);
            } else if connection.needs_ping(self.checks.limits.heartbeat_ms, context.now) {
                connection.note_ping(context.now);
                connection.write(&rpc::request(&json!(0), "ping", &json!({})));
                self.busy.insert(token);
                self.touched.push(token);
            }
            self.checks.add(token, connection);
        }
        self.check_guests();
    }

    /// Pings guests that have been silent, and closes the connections of those that do not answer.
    fn check_guests(&mut self) {
        let now = Instant::now();
        while let Some(token) = self.guests.due(&self.connections, now) {
            let Some(guest) = self.connections.get_mut(&token) else { continue };
            guest.check_guest(now);
            if let Some(at) = guest.next_guest_check() {
                self.guests.plan(token, at);
            }
            if guest.wants_turn() {
                self.busy.insert(token);
            }
        }
    }

    /// Queues a line for a client. Does nothing if the client has disconnected.
    pub fn send(&mut self, conn: ConnId, line: impl FnOnce() -> String) {
        if let ConnId::Client(token) = conn
            && let Some(connection) = self.connections.get_mut(&token)
        {
            connection.write(&line());
            self.touch(token);
        }
    }

    /// Sends as much as the sockets accept.
    pub fn flush(&mut self, context: &LoopContext) {
        for token in &self.touched {
            if let Some(connection) = self.connections.get_mut(token) {
                connection.flush();
                connection.watch(context.poll.registry(), *token);
                if let Some(at) = connection.sooner_guest_check() {
                    self.guests.plan_by(*token, at);
                }
            }
        }
    }

    /// Drops the clients that have hung up and have received all of their output. Other clients stay busy while they
    /// have work left.
    pub fn drop_flushed(&mut self, context: &LoopContext) {
        for token in self.touched.drain(..) {
            let Some(connection) = self.connections.get_mut(&token) else {
                self.busy.remove(&token);
                continue;
            };
            if connection.is_detached && connection.is_done() {
                connection.deregister(context.poll.registry());
                self.connections.remove(&token);
                self.guests.remove(token);
                self.busy.remove(&token);
            } else if !connection.has_input() && !connection.is_done() {
                self.busy.remove(&token);
            }
        }
    }
}

/// Whether the broker must notice when this client stops answering. There are two such cases. If the client is a
/// session, other peers must learn that the session is gone. If the client is on another machine, the name of that
/// machine must become free, so that the machine can use its name again after a reboot.
fn is_checked(context: &LoopContext, token: u64) -> bool {
    context.mesh.is_attached(ConnId::Client(token)) || context.mesh.is_remote(ConnId::Client(token))
}

/// Tells the mesh that a client has hung up. The connection stays open until the flush. A client that has closed only
/// its own side still gets the responses of this turn.
fn detach(token: u64, connection: &mut ClientConnection, context: &mut LoopContext) {
    if !std::mem::replace(&mut connection.is_detached, true) {
        context.mesh.on_disconnected(ConnId::Client(token), context.now);
        context.shutdown.note_use(context.now);
    }
}
