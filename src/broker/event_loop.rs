//! The event loop of the broker. In each turn, it waits for events, lets each part work on the mesh, commits the
//! changes, and sends the replies.
//!
//! **Invariant:** a turn consists of wait, tick, serve, commit and flush, in this order. Only the flush sends anything
//! that depends on the mesh, so clients see only changes that are committed.

use super::admit_guests_and_announce_hub::RemoteListener;
use super::answer_parsed_http_requests::HttpRequests;
use super::checkpoint_thread::CheckpointThread;
use super::clients::Clients;
use super::decide_when_to_shut_down::{ShutdownDecision, ShutdownReason};
use super::desktop_notifications::Notifications;
use super::leadership::{BrokerRole, TurnEnd};
use super::links_to_other_meshes::MeshLinks;
use super::log;
use super::process_exits::ProcessExits;
use super::push_to_http_registered_peers::PushTargets;
use super::run_operations_on_broker_itself::BrokerInfo;
use super::startup::{MeshOpener, PathState, RuntimeFiles};
use super::web::event_stream::PageStreams;
use crate::base::error::{Error, ErrorKind};
use crate::core::{Effect, Mesh};
use crate::sys::Clock;
use crate::wire::rpc;
use mio::event::Event;
use mio::{Events, Poll, Token, Waker};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The listener of the Unix socket.
pub const LISTENER: Token = Token(0);
/// Other threads wake the loop with this token after they have put something into a channel.
const WAKER: Token = Token(1);
/// The pipe into which signal handlers write.
pub const SIGNALS: Token = Token(2);
/// Events with this token report changes to the data directory.
pub const DIRECTORY: Token = Token(3);
/// The token of the first connection. Smaller numbers are reserved for the tokens above.
const FIRST_CONNECTION: u64 = 16;

/// Maximum number of events that one turn takes from the poll. When thousands of guests lose their connection at once,
/// the event of another client should not wait for many turns.
const EVENTS_MAX: usize = 1024;

/// When the changes of a turn reach this size, a leading hub serves no further calls in this turn. etcd takes 12 ms to
/// store 256 KiB, and refuses requests of more than 1.5 MiB. No request becomes that large, because a single call adds
/// less than 1.25 MiB.
const ENTRY_BYTES: usize = 256 << 10;

/// Gives each connection a token of its own.
#[derive(Debug)]
pub struct TokenSource {
    next: u64,
}

impl TokenSource {
    /// The next token.
    pub fn next_token(&mut self) -> u64 {
        let token = self.next;
        self.next += 1;
        token
    }
}

/// The values that the loop shares with its parts.
pub struct LoopContext {
    /// The poll in which the sockets are registered.
    pub poll: Poll,
    /// Makes the tokens of connections.
    pub tokens: TokenSource,
    /// The mesh, with its rules and its database.
    pub mesh: Mesh,
    /// The role of this broker: the only broker of its mesh, the hub that leads, or a hub on standby.
    pub role: BrokerRole,
    /// The time of this turn, in ms.
    pub now: i64,
    /// Decides when the broker ends.
    pub shutdown: ShutdownDecision,
    /// The open web pages, which show changes to the mesh.
    pub pages: PageStreams,
    /// The settings and other values that the broker's own operations need.
    pub info: BrokerInfo,
}

impl LoopContext {
    /// Makes the context of a new loop.
    pub fn new(
        poll: Poll,
        mesh: Mesh,
        role: BrokerRole,
        shutdown: ShutdownDecision,
        pages: PageStreams,
        info: BrokerInfo,
        now: i64,
    ) -> LoopContext {
        let tokens = TokenSource { next: FIRST_CONNECTION };
        LoopContext { poll, tokens, mesh, role, now, shutdown, pages, info }
    }

    /// Whether the log entry of this turn is so large that further calls must wait for the next turn.
    pub fn is_turn_full(&self) -> bool {
        self.role.stores_in_log() && self.mesh.recorded_size() >= ENTRY_BYTES
    }

    /// Ends the turn by committing it.
    pub fn commit(&mut self) -> TurnEnd {
        self.role.commit(&mut self.mesh, self.now)
    }
}

/// The event loop, with the parts that it serves.
pub struct EventLoop {
    /// The values that the loop shares with its parts.
    pub context: LoopContext,
    /// The clock from which each turn gets its time.
    pub clock: Clock,
    /// When this turn began. Unlike `clock`, an `Instant` is read without a system call.
    pub turn_began: Instant,
    /// The lock, the socket and the other files that make this process the broker of its data directory.
    pub runtime_files: RuntimeFiles,
    /// The clients on the Unix socket, and the sessions on other machines.
    pub clients: Clients,
    /// The requests that come over HTTP.
    pub http: HttpRequests,
    /// The peers that receive pushes.
    pub pushes: PushTargets,
    /// The listener for other machines.
    pub remote: RemoteListener,
    /// The agent processes whose end the kernel will report.
    pub processes: ProcessExits,
    /// The links to other meshes.
    pub links: MeshLinks,
    /// The thread that copies the write-ahead log into the database.
    pub checkpoints: CheckpointThread,
    /// Shows alerts to the person at this machine.
    pub notifications: Notifications,
    /// Opens the mesh again when the role of this broker changes.
    pub opener: MeshOpener,
}

/// Creates the poll, and the waker with which other threads wake it.
///
/// # Errors
/// If the poll or the waker can't be created.
pub fn new_poll() -> io::Result<(Poll, Arc<Waker>)> {
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
    Ok((poll, waker))
}

impl EventLoop {
    /// Serves until there is a reason to end, and then shuts down cleanly.
    ///
    /// # Errors
    /// If the poll itself fails.
    pub fn serve(mut self) -> io::Result<ShutdownReason> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            self.run_turn(&mut events)?;
            if let Some(reason) = self.context.shutdown.reason() {
                self.close(reason);
                return Ok(reason);
            }
        }
    }

    fn run_turn(&mut self, events: &mut Events) -> io::Result<()> {
        let timeout = self.timeout();
        match self.context.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        (self.context.now, self.turn_began) = (self.clock.now(), Instant::now());
        if self.is_displaced(events) {
            self.end_displaced();
            return Ok(());
        }
        self.note_taken_lead();
        let now = self.context.now;
        self.context.mesh.tick(now);
        self.remote.tend_announcer(now);
        for event in events.iter() {
            self.note_event(event);
        }
        self.serve_parts();
        let has_written = self.context.mesh.has_written();
        // After the data directory has been removed, the broker must not grant locks, because another broker could
        // grant the same locks. The turn is committed when the broker closes, but no client gets an answer.
        if has_written && !self.runtime_files.holds_path() {
            self.end_displaced();
            return Ok(());
        }
        let is_committed = match self.context.commit() {
            TurnEnd::Committed => true,
            TurnEnd::TakenBack => false,
            TurnEnd::Deposed(why) => {
                self.stand_by(&why);
                return Ok(());
            }
        };
        if has_written {
            self.checkpoints.note_commit(now);
        }
        self.flush(is_committed);
        if is_committed {
            self.links.send_waiting(&mut self.context.mesh, now);
        }
        self.checkpoints.run_due(&mut self.context.mesh, now);
        self.notifications.run_due(&self.context.mesh, now);
        if self.idle_deadline().is_some_and(|at| at <= now) {
            self.context.shutdown.request(ShutdownReason::Idle);
        }
        Ok(())
    }

    fn end_displaced(&mut self) {
        log("the data directory was removed, replaced or moved; this broker ends, and its sessions will connect to a \
             new broker");
        self.context.shutdown.request(ShutdownReason::Displaced);
    }

    /// Whether the data directory of this broker is no longer at its path. If so, this broker must end, because another
    /// broker at that path could grant the same locks. Missing files, such as the socket, are created again.
    fn is_displaced(&mut self, events: &Events) -> bool {
        if events.iter().any(|event| event.token() == DIRECTORY) {
            self.runtime_files.note_change(self.context.now);
            if !self.runtime_files.holds_path() {
                return true;
            }
        }
        if self.runtime_files.deadline() > self.context.now {
            return false;
        }
        match self.runtime_files.look(self.context.now) {
            PathState::Displaced => true,
            PathState::Ours => false,
            PathState::Healed(listener) => {
                if let Err(error) = self.clients.replace_listener(listener, self.context.poll.registry()) {
                    log(&format!("the new socket can't be watched: {error}"));
                }
                false
            }
        }
    }

    /// How long the poll may sleep: until the next deadline. An event wakes the poll earlier.
    fn timeout(&mut self) -> Option<Duration> {
        if self.processes.has_news() || self.clients.wants_turn() || self.http.has_backlog() || self.links.has_backlog()
        {
            return Some(Duration::ZERO);
        }
        let deadlines = [
            self.context.mesh.deadline(),
            self.clients.deadline(self.context.now, self.turn_began),
            self.http.deadline(),
            self.pushes.deadline(),
            self.context.pages.deadline(),
            self.remote.deadline(),
            self.links.deadline(),
            self.checkpoints.deadline(),
            self.notifications.deadline(),
            self.idle_deadline(),
            Some(self.runtime_files.deadline()),
        ];
        let next = deadlines.into_iter().flatten().min()?;
        let left = Duration::from_millis((next - self.context.now).max(0) as u64);
        Some(left.saturating_sub(self.turn_began.elapsed()))
    }

    fn note_event(&mut self, event: &Event) {
        match event.token() {
            LISTENER => self.clients.note_newcomers(),
            SIGNALS => self.context.shutdown.note_signal(),
            WAKER | DIRECTORY => {}
            Token(token) => {
                let token = token as u64;
                if !self.processes.note_ready(token) && !self.clients.note_ready(token, event) {
                    self.pushes.note_ready(token, self.context.now);
                }
            }
        }
    }

    fn serve_parts(&mut self) {
        let context = &mut self.context;
        self.clients.serve(context);
        // The last requests of a session are served before the end of its process is handled.
        self.processes.serve(context);
        // The loop reads from new clients in the next turn, not in this turn. By then, the poll has reported the end of
        // old connections. So if a client has reconnected, its old connection is closed first.
        self.clients.accept(context);
        self.remote.admit_arrivals(&mut self.clients, &mut self.pushes, context);
        self.http.serve(context);
        self.http.serve_looking(context);
        self.links.receive_news(&mut context.mesh, context.now);
        self.http.serve_held(context);
        self.clients.check_liveness(context);
    }

    /// Sends the output of the turn to clients.
    fn flush(&mut self, is_committed: bool) {
        // The broker begins to connect to the sockets of new peers before it sends pushes, so that the new peers do not
        // miss their first push.
        self.pushes.dial(&mut self.context);
        for effect in self.context.mesh.take_effects() {
            self.apply(effect);
        }
        self.http.send_responses(is_committed);
        self.clients.flush(&self.context);
        let LoopContext { mesh, shutdown, pages, now, .. } = &mut self.context;
        if let Some(server) = self.http.server()
            && pages.flush(mesh, server, *now)
        {
            // The idle time of the broker begins when the last page closes.
            shutdown.note_use(*now);
        }
        self.clients.drop_flushed(&self.context);
        self.confirm_pushes();
    }

    fn apply(&mut self, effect: Effect) {
        let LoopContext { mesh, shutdown, pages, now, .. } = &mut self.context;
        match effect {
            // A call without an id is a notification. Its sender wants no reply.
            Effect::Reply { id, .. } if id.is_null() => {}
            Effect::Reply { conn, id, result } => self.clients.send(conn, || match result {
                Ok(value) => rpc::response(&id, &value),
                // The rules know that the disk is full, but not which disk it is.
                Err(error) => rpc::error_response(&id, &self.runtime_files.places().name_full_disk(error)),
            }),
            Effect::Notification { conn, method, params } => {
                self.clients.send(conn, || rpc::notification_with_text(method, &params))
            }
            Effect::PeerPush { peer, seq, from, body } => {
                self.pushes.push_message(mesh, &peer, seq, &from, &body, *now);
            }
            Effect::Event(event) => {
                self.pushes.push_event(mesh, &event, *now);
                pages.add_event(mesh, &event);
            }
            Effect::Alert => self.notifications.note_alert(*now),
            Effect::Message(message) => pages.add_message(mesh, &message),
            Effect::Log(error) => report_failure(shutdown, &error),
            Effect::WatchProcess(process) => self.processes.watch(&mut self.context, process),
        }
    }

    /// Records which messages have been sent completely over push connections.
    fn confirm_pushes(&mut self) {
        let now = self.context.now;
        let sent = self.pushes.flush(now);
        for seq in &sent {
            self.context.mesh.on_pushed(*seq, now);
        }
        if sent.is_empty() {
            return;
        }
        match self.context.commit() {
            TurnEnd::Committed => {}
            TurnEnd::TakenBack => {
                log("a message was pushed, but this could not be recorded, so the message counts as not pushed")
            }
            TurnEnd::Deposed(why) => self.stand_by(&why),
        }
    }

    /// The time, in ms, at which the broker will end because nobody uses it; `None` while somebody uses it.
    fn idle_deadline(&self) -> Option<i64> {
        let is_idle = self.clients.is_empty() && self.context.pages.is_empty() && self.notifications.is_idle();
        self.context.shutdown.idle_deadline().filter(|_| is_idle && self.context.mesh.is_idle())
    }

    /// Shuts down cleanly. The socket is removed first, so that a new client finds no broker and starts one.
    fn close(mut self, reason: ShutdownReason) {
        self.runtime_files.remove(reason);
        let now = self.clock.now();
        // If the commit fails because this hub no longer leads, the hub that takes over decides whether the turn takes
        // effect.
        let _ = self.context.commit();
        self.clients.announce_shutdown(reason);
        self.http.stop();
        // Dropping the listener announces on the network that the hub is leaving. It also frees the port before the
        // next broker can get the lock.
        drop(self.remote);
        self.pushes.announce_shutdown(&self.context.mesh, now);
        self.checkpoints.stop();
        self.notifications.stop();
        self.context.mesh.checkpoint();
        // This ends the standby thread, which writes to the database. The lock protects the database, so the thread
        // must end before the lock is released.
        drop(self.context.mesh);
        self.context.role.leave();
        self.runtime_files.release_lock();
    }
}

/// Logs an error. If the database is damaged, the broker ends, because only a new broker can replace the database.
fn report_failure(shutdown: &mut ShutdownDecision, error: &Error) {
    log(&error.text);
    if error.kind == ErrorKind::Damaged {
        shutdown.request(ShutdownReason::Damaged);
    }
}
