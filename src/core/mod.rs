//! The rules of the mesh, as plain functions of (request, time, store).
//!
//! A [`Mesh`] consists of a few parts: peers, locks, mail, the journal, state, federation. Each part alone writes its
//! memory and its tables in the store; a rule takes the parts that it needs. [`dispatch`] runs operations, and
//! [`turn`] holds the transaction and the effects that leave after its commit.
//!
//! **Invariant:** nothing here uses a clock, a socket, a thread or a random source. Time is an argument, random
//! numbers come from a function that the caller passes, and the caller takes the effects after its commit.

pub mod channels;
pub mod dispatch;
pub mod federation;
pub mod hook_ops;
pub mod hook_report;
pub mod journal;
pub mod locks;
pub mod mail;
pub mod op;
pub mod pagination;
pub mod peers;
mod rate_limit;
mod session_args;
pub mod state;
pub mod status;
pub mod tools;
pub mod turn;
pub mod waiting;

pub use dispatch::{Call, CallContext, Outcome};
pub use op::{Arg, Args, Auth, CliPlace, Op};
pub use turn::Effect;

use crate::base::error::Error;
use crate::base::ids::PublicIds;
use crate::base::kinds::LockOwner;
use crate::base::limits;
use crate::base::process::Process;
use crate::store::{Changeset, Checkpointer, LockRow, LogPosition, Store};
use channels::Channels;
use federation::Federation;
use journal::Journal;
use locks::Locks;
use locks::request::LockRequest;
use mail::Mail;
use peers::Peers;
use rate_limit::RateLimiter;
use serde_json::{Map, Value};
use std::rc::Rc;
use turn::Turn;
use waiting::Waiting;

/// Names a connection for as long as it lives; never reused.
pub type ConnId = u64;

/// All operations, in the order of the documentation.
pub const OPS: &[&Op] = &[
    &peers::PEERS,
    &peers::WHOAMI,
    &peers::SUMMARY,
    &mail::SEND,
    &mail::INBOX,
    &mail::log::LOG,
    &peers::decline::DECLINE,
    &channels::JOIN,
    &channels::LEAVE,
    &channels::LIST,
    &state::GET,
    &state::SET,
    &state::LIST,
    &state::DELETE,
    &locks::LOCK,
    &locks::UNLOCK,
    &locks::QUERY,
    &journal::READ,
    &journal::EMIT,
    &journal::SUBSCRIBE,
    &journal::UNSUBSCRIBE,
    &status::STATUS,
    &peers::sessions::ATTACH,
    &peers::sessions::BEGIN,
    &peers::sessions::DETACH,
    &mail::receipts::MARK_READ,
    &locks::CHECK,
    &locks::others::OTHERS,
    &hook_ops::EDIT,
    &peers::announced_tool_calls::ANNOUNCE,
    &hook_ops::MAIL,
    &hook_ops::END,
    &hook_report::CHANGED,
    &mail::wakeups::WAIT,
    &mail::wakeups::REPORT,
];

/// The operation of that name.
pub fn op(name: &str) -> Option<&'static Op> {
    OPS.iter().copied().find(|op| op.name == name)
}

/// The settings of a mesh.
#[derive(Debug, Clone)]
pub struct MeshSettings {
    /// An HTTP peer is stale after this long without a heartbeat, ms.
    pub stale_ms: i64,
    /// It is gone after this long without a heartbeat, ms.
    pub dead_ms: i64,
    /// How long a lock lasts if its caller gives no duration, minutes.
    pub lock_ttl_min: i64,
    /// Messages that one sender may send in `limits::RATE_WINDOW_MS`.
    pub rate_max: u32,
    /// This machine's name.
    pub host: String,
    /// The user whose mesh this is; the human peer has this name.
    pub user: String,
    /// This program's version.
    pub version: String,
    /// The broker's process id.
    pub pid: u32,
    /// Its HTTP port.
    pub port: u16,
    /// Addresses of other meshes to poll.
    pub links: Vec<String>,
}

impl Default for MeshSettings {
    /// The default values, with placeholders for the machine and the user.
    fn default() -> MeshSettings {
        MeshSettings {
            stale_ms: 30_000,
            dead_ms: 60_000,
            lock_ttl_min: 10,
            rate_max: limits::RATE_MAX,
            host: "here".into(),
            user: "ada".into(),
            version: "0".into(),
            pid: 1,
            port: 1,
            links: Vec::new(),
        }
    }
}

/// One mesh: its parts, and the turn that is running.
pub struct Mesh {
    settings: Rc<MeshSettings>,
    ids: PublicIds,
    turn: Turn,
    waiting: Waiting,
    rates: RateLimiter,
    peers: Peers,
    locks: Locks,
    mail: Mail,
    channels: Channels,
    journal: Journal,
    federation: Federation,
    /// When the mesh opened, ms.
    started: i64,
    /// The time of the last tick, ms.
    ticked_at: i64,
    /// When old rows are removed next, ms.
    next_prune: i64,
    /// After the disk refused a write, timed work such as expiry pauses until this time, ms.
    retry_after: i64,
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mesh({} peers, {} locks)", self.peers.all().len(), self.locks.all().len())
    }
}

impl Mesh {
    /// Opens a mesh over its store. `random` returns unpredictable numbers. The writes of the opening belong to the
    /// first turn if the store records.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn open(
        store: Store,
        settings: MeshSettings,
        random: Box<dyn FnMut() -> u128 + Send>,
        now: i64,
    ) -> Result<Mesh, Error> {
        let settings = Rc::new(settings);
        let mut turn = Turn::new(store);
        turn.store.begin_call();
        let mut peers = Peers::new(settings.clone(), random, now);
        let ids = PublicIds::new(instance_number(&mut turn, &mut peers)?);
        let mut locks = Locks::default();
        locks.load(&turn, &settings.host, now)?;
        peers.load(&mut turn, &locks, now)?;
        peers.settle_human(&mut turn, now)?;
        let (mut channels, journal) = (Channels::default(), Journal::new(ids));
        channels.load(&turn)?;
        channels.remove_ended(&mut turn, &peers, &journal, now)?;
        turn.store.end_call()?;
        if !turn.store.is_recording() {
            turn.store.commit()?;
        }
        Ok(Mesh {
            ids,
            turn,
            waiting: Waiting::default(),
            rates: RateLimiter::new(settings.rate_max),
            peers,
            locks,
            mail: Mail::new(ids),
            channels,
            journal,
            federation: Federation::new(&settings.links, now),
            settings,
            started: now,
            ticked_at: now,
            next_prune: now,
            retry_after: 0,
        })
    }

    /// Sets the function that tells whether a process of this machine is alive. It is needed because a session whose
    /// connection ended with an earlier broker may be about to reconnect.
    pub fn set_process_probe(&mut self, is_alive: Box<dyn Fn(i64) -> bool + Send>) {
        self.peers.set_process_probe(is_alive);
    }

    /// Does the work that is due at this time: ends waits, expires locks and entries, marks silent peers as gone, and
    /// removes old rows.
    pub fn tick(&mut self, now: i64) {
        if now >= self.retry_after {
            for step in [Mesh::expire_locks, Mesh::expire_peers, Mesh::expire_links, Mesh::expire_rows, Mesh::prune] {
                if let Err(error) = self.in_savepoint(|mesh| step(mesh, now)) {
                    self.retry_after = now + limits::REST_MS;
                    self.turn.push(Effect::Log(error));
                }
            }
        }
        self.ticked_at = now;
        // A lock that ends at this instant still goes to a call whose wait ends at the same instant.
        self.resume_waiting(now);
        self.end_waits(now);
        self.resume_waiting(now);
    }

    /// When [`Mesh::tick`] has something to do next, ms.
    pub fn deadline(&mut self) -> Option<i64> {
        let writes = [
            self.locks.deadline(),
            self.peers.deadline(),
            self.federation.deadline(&self.peers),
            self.turn.next_expiry(),
        ];
        let write = writes.into_iter().flatten().min().map(|at| at.max(self.retry_after));
        [self.waiting.deadline(), write].into_iter().flatten().min()
    }

    fn expire_locks(&mut self, now: i64) -> Result<(), Error> {
        let Mesh { turn, peers, locks, journal, .. } = self;
        locks.expire(turn, peers, journal, now)
    }

    fn expire_rows(&mut self, now: i64) -> Result<(), Error> {
        let Mesh { turn, peers, mail, journal, .. } = self;
        if turn.next_expiry().is_none_or(|at| at > now) {
            return Ok(());
        }
        turn.forget_expiry();
        state::expire(turn, peers, journal, now)?;
        mail.expire(turn, journal, now)
    }

    /// Removes a bounded number of rows that are past their time of retention.
    fn prune(&mut self, now: i64) -> Result<(), Error> {
        if now < self.next_prune {
            return Ok(());
        }
        self.next_prune = now + limits::PRUNE_EVERY_MS;
        let Mesh { turn, peers, locks, mail, .. } = self;
        let n = Journal::prune(turn, now)?;
        let more_mail = mail.prune(turn, now)?;
        if n == limits::PRUNE_STEP as usize || more_mail {
            self.next_prune = now + 1000;
        }
        state::prune(turn, now)?;
        peers.forget_old(turn, mail, locks, now)
    }

    /// Makes the turn durable; returns whether it could. If not, only the error leaves the turn, and memory equals
    /// the disk again.
    pub fn commit(&mut self) -> bool {
        let committed = self.turn.commit().is_ok();
        if !committed {
            self.rest();
        }
        committed
    }

    /// Ends the writes of the turn and returns them for the log, where they get this position. Returns `None` if the
    /// turn wrote nothing. [`Mesh::commit`] or [`Mesh::take_back`] must follow.
    ///
    /// # Errors
    /// When the disk refuses; then the turn must be taken back.
    pub fn seal(&mut self, position: LogPosition) -> Result<Option<Changeset>, Error> {
        self.turn.seal(position)
    }

    /// Bytes of the changes that the running turn recorded for the log.
    pub fn recorded_size(&self) -> usize {
        self.turn.store.recorded_size()
    }

    /// Rolls the turn back. All its answers become this error, and memory equals the disk again.
    pub fn take_back(&mut self, error: &Error) {
        self.turn.take_back(error);
        self.rest();
    }

    /// After a rollback, the same timed work would only fail again.
    fn rest(&mut self) {
        self.reload();
        self.retry_after = self.ticked_at + limits::REST_MS;
    }

    /// Makes memory equal the disk again after a rollback.
    fn reload(&mut self) {
        self.mail.reload();
        self.turn.forget_expiry();
        let now = self.ticked_at;
        let locks = self.locks.load(&self.turn, &self.settings.host, now);
        let loaded = locks.and_then(|()| self.peers.load(&mut self.turn, &self.locks, now));
        let loaded = loaded.and_then(|()| self.channels.load(&self.turn));
        self.turn.log_error(loaded);
    }

    /// Takes the effects that are to leave, oldest first.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        self.turn.take_effects()
    }

    /// Sets whether observers receive every event and every change of a message's state.
    pub fn set_observed(&mut self, observed: bool) {
        self.journal.set_observed(observed);
    }

    /// Whether the turn has anything to commit.
    pub fn has_written(&self) -> bool {
        self.turn.store.has_written()
    }

    /// Hands the store back as a crash would leave it, without uncommitted writes.
    pub fn into_store(mut self) -> Store {
        self.turn.store.rollback();
        self.turn.store
    }

    /// Moves the write-ahead log into the database. The caller does this while it is idle.
    pub fn checkpoint(&mut self) {
        let done = self.turn.store.checkpoint().map_err(Error::from);
        self.turn.log_error(done);
    }

    /// Returns the checkpointer that moves the log while the mesh works.
    ///
    /// # Errors
    /// When the file cannot be opened a second time.
    pub fn checkpointer(&self) -> Result<Checkpointer, Error> {
        Ok(self.turn.store.checkpointer()?)
    }

    /// Whether no peer is online, no call waits, and no message waits for another mesh.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.peers.is_anybody_online() && !self.has_mail_to_forward()
    }

    /// Whether a connection is in use: it acts for a peer, waits, follows events, or keeps the lock of a command.
    pub fn is_in_use(&self, conn: ConnId) -> bool {
        self.is_attached(conn)
            || self.journal.is_subscribed(conn)
            || self.waiting.has_call_of(conn)
            || self.locks.has_command(conn)
    }

    /// Whether a connection acts for a peer.
    pub fn is_attached(&self, conn: ConnId) -> bool {
        !self.peers.attached_to(conn).is_empty()
    }

    /// Notes the ancestor processes of a connection's client, as the transport proved them.
    pub fn set_ancestors(&mut self, conn: ConnId, ancestors: &[Process]) {
        self.peers.set_agent_process(conn, ancestors);
    }

    /// When the mesh opened, ms.
    pub fn started(&self) -> i64 {
        self.started
    }

    /// The settings given when it opened.
    pub fn settings(&self) -> &MeshSettings {
        &self.settings
    }

    /// The id that distinguishes this mesh from others.
    pub fn mesh_id(&self) -> String {
        self.ids.mesh_id()
    }

    /// The public ids of its messages and events.
    pub fn ids(&self) -> PublicIds {
        self.ids
    }

    /// Its peers.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Its locks.
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// Its journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Its links to other meshes.
    pub fn federation(&self) -> &Federation {
        &self.federation
    }

    /// The store, for code that only reads it.
    pub fn store(&self) -> &Store {
        &self.turn.store
    }

    /// A peer as clients see it.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn peer_view(&mut self, id: &str, now: i64) -> Result<Option<Value>, Error> {
        let Mesh { turn, peers, mail, locks, .. } = self;
        peers.get(id).map(|peer| peers.view(peer, &turn.store, mail, locks, now)).transpose()
    }

    /// Subscribes a client of the old HTTP API to events; an empty list ends the subscription.
    pub fn subscribe_peer(&mut self, peer: &str, types: Vec<String>) {
        self.journal.subscribe_peer(peer, types);
    }

    /// Sets a peer's summary.
    ///
    /// # Errors
    /// When the peer is unknown, or the disk refuses.
    pub fn set_summary(&mut self, id: &str, summary: &str, now: i64) -> Result<(), Error> {
        let Mesh { turn, peers, journal, .. } = self;
        peers.set_summary(turn, journal, id, summary, now)
    }

    /// Charges a sender for what it sends: `cost` tenths of a message.
    ///
    /// # Errors
    /// When it sent too much in a short time.
    pub fn charge(&mut self, sender: &str, cost: u32, now: i64) -> Result<(), Error> {
        self.rates.charge(&self.peers, sender, cost, now)
    }

    /// Grants a lock to a client of the old HTTP API, for a request without conflicts.
    ///
    /// # Errors
    /// When too many locks are in force, or the disk refuses.
    pub fn grant(&mut self, request: &LockRequest, now: i64) -> Result<Vec<LockRow>, Error> {
        let Mesh { turn, peers, locks, journal, .. } = self;
        locks.grant(turn, peers, journal, request, now)
    }

    /// Releases a path for a client of the old HTTP API; returns false if it does not hold the path.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn release_path(&mut self, path: &str, holder: &str, now: i64) -> Result<bool, Error> {
        let Mesh { turn, peers, locks, journal, .. } = self;
        locks.release_path(turn, peers, journal, path, holder, &LockOwner::Peer, now)
    }
}

/// The mesh's own random number, which its public ids carry.
fn instance_number(turn: &mut Turn, peers: &mut Peers) -> Result<u128, Error> {
    // Databases of version 0.1.0 use this name.
    const NAME: &str = "salt";
    if let Some(known) = turn.store.meta(NAME)?.and_then(|hex| u128::from_str_radix(&hex, 16).ok()) {
        return Ok(known);
    }
    let number = peers.random();
    turn.store.set_meta(NAME, &format!("{number:x}"))?;
    Ok(number)
}

/// The object in `value`, or an empty one: for callers that add to results.
pub fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
