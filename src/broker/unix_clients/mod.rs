//! The clients on the Unix socket, and the guests: sessions and commands on other machines. This module accepts
//! clients, serves them in turn, checks whether they still answer, and drops them.
//!
//! **Invariant:** a client gets a bounded share of each turn, and no client has to wait for the input of another
//! client. Idle clients add nothing to the cost of a turn.

pub(in crate::broker) mod client_machine_and_ancestors;
mod connection;
mod fair_queue;
mod heartbeat_schedule;
mod requests;
mod retired_methods;

use super::event_loop::{LISTENER, LoopContext};
use super::log;
use super::log_rate_limit::EventCount;
use super::shutdown_reasons::ShutdownReason;
use crate::base::id_types::{CountedMap, CountedSet};
use crate::remote::encrypted_stream_to_guest::GuestStream;
use crate::sys::process;
use crate::wire::rpc;
use client_machine_and_ancestors::Origin;
use connection::{ClientConnection, ClientSocket, READ_MAX, ServiceRank};
use fair_queue::{HUNG_UP_SHARE, LOGGED_TURN_SHARE, TURN_SHARE, WorkMeter};
pub use heartbeat_schedule::LivenessLimits;
use heartbeat_schedule::LivenessSchedule;
use mio::event::Event;
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry};
use serde_json::json;
use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Maximum number of clients at once, including guests.
const CLIENTS_MAX: usize = 12_000;
/// Maximum number of guests at once.
const GUESTS_MAX: usize = 10_000;
/// How often to look for guests that need a ping or have been silent for too long, in ms.
const CHECK_GUESTS_MS: i64 = 1_000;
/// The pause after a failed accept, in ms.
const ACCEPT_RETRY_MS: i64 = 100;
/// A client with input is overdue if it has not been served for more than this many turns. Of the overdue clients, the
/// one that has waited longest is served before the clients in the queue.
const OVERDUE_TURNS: u64 = 64;
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
pub struct UnixClients {
    listener: UnixListener,
    accept_state: AcceptState,
    connections: CountedMap<ClientConnection>,
    /// The clients with an event, output or unfinished work since the last flush. A turn looks only at these clients.
    busy: CountedSet,
    /// The planned checks for silent sessions on this machine.
    checks: LivenessSchedule,
    /// The guests. A guest that has left is removed at the next check.
    guests: CountedSet,
    /// When to check the guests, in ms.
    check_guests_at: i64,
    /// The read buffer for all clients. A shared buffer is zeroed only once, and not for every read.
    buffer: Vec<u8>,
    /// The number of turns so far.
    turn: u64,
    /// The clock of the fair queue: the virtual start time of the last client that was served.
    queue_time: u64,
    /// The number of refused connections from other users.
    n_refused: EventCount,
}

impl UnixClients {
    /// Accepts clients on a socket that is already bound. `limits` decides when a silent session is pinged, and when it
    /// counts as offline.
    ///
    /// # Errors
    /// When the socket can't be registered in the poll.
    pub fn new(mut listener: UnixListener, limits: LivenessLimits, registry: &Registry) -> io::Result<UnixClients> {
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(UnixClients {
            listener,
            accept_state: AcceptState::Ready,
            connections: CountedMap::default(),
            busy: CountedSet::default(),
            checks: LivenessSchedule::new(limits),
            guests: CountedSet::default(),
            check_guests_at: 0,
            buffer: vec![0; READ_MAX],
            turn: 0,
            queue_time: 0,
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
        self.busy.insert(token);
        true
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

    /// The time, in ms, at which the event loop must look at the clients even if there is no event.
    pub fn deadline(&mut self) -> Option<i64> {
        let retry = match self.accept_state {
            AcceptState::RetryAt(at) => Some(at),
            AcceptState::Idle | AcceptState::Ready => None,
        };
        let check = self.checks.next_due(&self.connections);
        let guests = (!self.guests.is_empty()).then_some(self.check_guests_at);
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
        if self.guests.is_empty() {
            self.check_guests_at = context.now + CHECK_GUESTS_MS;
        }
        let token = self.add(context, ClientSocket::Guest(stream), Origin::remote(address));
        self.guests.extend(token);
    }

    /// Adds a client. Returns its token, or `None` if the poll refuses its socket.
    fn add(&mut self, context: &mut LoopContext, mut socket: ClientSocket, origin: Origin) -> Option<u64> {
        let token = context.tokens.next_token();
        socket.register(context.poll.registry(), token).ok()?;
        self.connections.insert(token, ClientConnection::new(socket, origin, self.turn, context.now));
        self.busy.insert(token);
        context.mesh.on_connected(token);
        Some(token)
    }

    /// Makes room by dropping a client that is not in use. A client that has never sent anything is dropped first. If
    /// there is none, the client that has been silent for longest is dropped. Returns false if no client can be
    /// dropped.
    fn drop_idlest(&mut self, context: &mut LoopContext) -> bool {
        let is_idle = |(token, conn): &(&u64, &ClientConnection)| {
            conn.is_idle(self.turn, context.now) && !context.mesh.is_in_use(**token)
        };
        let idlest = self.connections.iter().filter(is_idle);
        let idlest = idlest.min_by_key(|(token, conn)| (conn.has_spoken(), conn.last_heard(), **token));
        let Some(token) = idlest.map(|(token, _)| *token) else { return false };
        if let Some(mut connection) = self.connections.remove(&token) {
            connection.deregister(context.poll.registry());
        }
        context.mesh.on_disconnected(token, context.now);
        context.pages.mark_dirty();
        context.shutdown.note_use(context.now);
        true
    }

    /// Reads one buffer from each client that has sent something, and runs the requests in it. The work is bounded for
    /// each client and for all clients together.
    pub fn serve(&mut self, context: &mut LoopContext) {
        self.turn += 1;
        let now = context.now;
        for token in &self.busy {
            if let Some(connection) = self.connections.get_mut(token).filter(|conn| conn.is_done()) {
                detach(*token, connection, context);
            }
        }
        let order = self.service_order();
        if !order.is_empty() {
            self.serve_in_order(context, &order);
        }
        if let Some(n) = self.n_refused.take_report(now) {
            match n {
                1 => log("refused a connection from another user"),
                n => log(&format!("refused {n} more connections from other users")),
            }
        }
    }

    fn serve_in_order(&mut self, context: &mut LoopContext, order: &[(ServiceRank, u64)]) {
        let share = if context.role.stores_in_log() { LOGGED_TURN_SHARE } else { TURN_SHARE };
        let n_hung_up = order.partition_point(|(rank, _)| *rank == ServiceRank::HungUp);
        let (hung_up, others) = order.split_at(n_hung_up);
        let mut meter = WorkMeter::start();
        let began = Instant::now();
        for (rank, token) in hung_up {
            if began.elapsed() >= HUNG_UP_SHARE {
                break;
            }
            self.serve_client(context, *token, *rank, false, &mut meter);
        }
        let may_begin = !self.has_unserved_ends(context);
        let began = Instant::now();
        let mut is_answer_waiting = false;
        for (rank, token) in others {
            // Responses are sent at the end of the turn. So if a quick client is already waiting for its response, the
            // turn ends before a slow client is served.
            if began.elapsed() >= share || is_answer_waiting && self.is_costly(*token) {
                break;
            }
            self.serve_client(context, *token, *rank, may_begin, &mut meter);
            is_answer_waiting |= !self.is_costly(*token);
        }
    }

    /// Whether a session that has hung up still has unserved requests. Such a session is still attached to its peer.
    fn has_unserved_ends(&self, context: &LoopContext) -> bool {
        self.busy.iter().any(|token| {
            let is_it = |conn: &ClientConnection| conn.is_half_closed() && conn.wants_turn();
            self.connections.get(token).is_some_and(is_it) && context.mesh.is_attached(*token)
        })
    }

    fn is_costly(&self, token: u64) -> bool {
        self.connections.get(&token).is_some_and(ClientConnection::is_costly)
    }

    /// Returns the clients with input, in the order of service.
    fn service_order(&self) -> Vec<(ServiceRank, u64)> {
        let busy = || self.busy.iter().filter_map(|token| self.connections.get_key_value(token));
        let ready = || busy().filter(|(_, conn)| conn.has_input());
        let waits_long = |(_, conn): &(&u64, &ClientConnection)| conn.last_turn() + OVERDUE_TURNS < self.turn;
        let overdue = ready().filter(waits_long).min_by_key(|(token, conn)| (conn.last_turn(), **token));
        let overdue = overdue.map(|(token, _)| *token);
        let rank = |token: u64, conn: &ClientConnection| match conn.rank(self.queue_time) {
            ServiceRank::Queued(_) if overdue == Some(token) => ServiceRank::Overdue,
            rank => rank,
        };
        let mut order: Vec<(ServiceRank, u64)> = ready().map(|(token, conn)| (rank(*token, conn), *token)).collect();
        order.sort_unstable();
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
        let (buffer, began) = (&mut self.buffer, Instant::now());
        let served = catch_unwind(AssertUnwindSafe(|| requests::serve(context, token, connection, may_begin, buffer)));
        let start = connection.note_served(meter.work(began.elapsed()), self.turn, self.queue_time);
        // A client that is served out of order does not move the clock of the queue.
        if matches!(rank, ServiceRank::Queued(_)) {
            self.queue_time = start;
        }
        if served.is_err() {
            log("a bug in slm-mesh: a panic closed one connection");
            connection.close();
        }
        if connection.is_done() {
            detach(token, connection, context);
        }
    }

    /// Pings silent clients, and marks the sessions of clients that do not answer as offline in the mesh.
    pub fn check_liveness(&mut self, context: &mut LoopContext) {
        // A client needs a new check if it attaches a session, or if it sends a line after it counted as unresponsive.
        // In both cases, the client sends a line and thus becomes busy, so only busy clients are looked at.
        for token in &self.busy {
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
                context.mesh.set_unresponsive(token, true, context.now);
            } else if connection.needs_ping(self.checks.limits.heartbeat_ms, context.now) {
                connection.note_ping(context.now);
                connection.write(&rpc::request(&json!(0), "ping", &json!({})));
                self.busy.insert(token);
            }
            self.checks.add(token, connection);
        }
        if self.check_guests_at <= context.now && !self.guests.is_empty() {
            self.check_guests_at = context.now + CHECK_GUESTS_MS;
            self.check_guests();
        }
    }

    /// Pings guests that have been silent, and closes the connections of those that do not answer.
    fn check_guests(&mut self) {
        let now = Instant::now();
        let (connections, busy) = (&mut self.connections, &mut self.busy);
        self.guests.retain(|token| {
            let Some(guest) = connections.get_mut(token) else { return false };
            guest.check_guest(now);
            if guest.wants_turn() {
                busy.insert(*token);
            }
            true
        });
    }

    /// Queues a line for a client. Does nothing if the client has disconnected.
    pub fn send(&mut self, token: u64, line: impl FnOnce() -> String) {
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.write(&line());
            self.busy.insert(token);
        }
    }

    /// Sends as much as the sockets accept.
    pub fn flush(&mut self, context: &LoopContext) {
        for token in &self.busy {
            if let Some(connection) = self.connections.get_mut(token) {
                connection.flush();
                connection.watch(context.poll.registry(), *token);
            }
        }
    }

    /// Drops the clients that have hung up and have received all of their output. Other clients stay busy while they
    /// have work left.
    pub fn drop_flushed(&mut self, context: &LoopContext) {
        self.busy.retain(|token| {
            let Some(connection) = self.connections.get_mut(token) else { return false };
            if !connection.is_detached || !connection.is_done() {
                return connection.has_input() || connection.is_done();
            }
            connection.deregister(context.poll.registry());
            self.connections.remove(token);
            false
        });
    }

    /// Tells the mesh about all open connections when this hub begins to lead.
    pub fn join(&mut self, context: &mut LoopContext) {
        // The mesh's clock, which the log sets, may be behind the clock of the standby.
        self.check_guests_at = context.now;
        for (token, connection) in &mut self.connections {
            context.mesh.on_connected(*token);
            if let Origin::Remote(remote) = &connection.origin
                && !remote.user.is_empty()
                && let Err(error) =
                    context.mesh.set_origin(*token, &remote.host, &remote.user, remote.boot_id.as_deref(), context.now)
            {
                log(&format!("a connection from {} was dropped: {}", remote.host, error.text));
                connection.close();
                self.busy.insert(*token);
            }
        }
    }

    /// Closes all connections without a response, because the mesh to which they belong is gone.
    pub fn drop_all(&mut self, context: &LoopContext) {
        for (_, mut connection) in self.connections.drain() {
            connection.deregister(context.poll.registry());
        }
        self.busy.clear();
        self.checks.clear();
        self.guests.clear();
    }

    /// Tells every client that the broker is ending, and why.
    pub fn announce_shutdown(&mut self, reason: ShutdownReason) {
        let is_followed = matches!(reason, ShutdownReason::Replaced | ShutdownReason::Displaced);
        let word = if is_followed { "making_room" } else { "stopping" };
        let notice = rpc::notification("shutdown", &json!({ "reason": word }));
        for connection in self.connections.values_mut() {
            connection.write(&notice);
            connection.flush();
        }
    }
}

/// Whether the broker must notice when this client stops answering. There are two such cases. If the client is a
/// session, other peers must learn that the session is gone. If the client is on another machine, the name of that
/// machine must become free, so that the machine can use its name again after a reboot.
fn is_checked(context: &LoopContext, token: u64) -> bool {
    context.mesh.is_attached(token) || context.mesh.is_remote(token)
}

/// Tells the mesh that a client has hung up. The connection stays open until the flush. A client that has closed only
/// its own side still gets the responses of this turn.
fn detach(token: u64, connection: &mut ClientConnection, context: &mut LoopContext) {
    if !std::mem::replace(&mut connection.is_detached, true) {
        context.mesh.on_disconnected(token, context.now);
        context.shutdown.note_use(context.now);
    }
}
