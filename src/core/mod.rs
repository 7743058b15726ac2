//! The rules of the mesh, as plain functions of (request, time, store).
//!
//! **Invariant:** nothing here knows a clock, a socket, a thread or chance. Time is an argument,
//! chance is given at birth, and what shall leave is put into an outbox that the caller empties
//! after its commit.

mod dispatch;
pub mod federation;
pub mod hook_ops;
pub mod journal;
pub mod locks;
pub mod mail;
pub mod op;
pub mod pagination;
pub mod peers;
pub mod state;
pub mod status;
pub mod tools;

pub use crate::base::error::{Error, ErrorKind};
use crate::base::limits;
pub use dispatch::{Call, CallContext, Effect, Outcome, WaitReason};
use dispatch::{Dirty, WaitingCall};
pub use op::{Arg, Args, Auth, CliPlace, Op};

use crate::store::{Checkpointer, Store, StoreError};
use peers::Peer;
use peers::sessions::Attachment;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Names a connection for as long as it lives; never reused.
pub type ConnId = u64;

/// All operations, in the order of the documentation.
pub const OPS: &[&Op] = &[
    &peers::PEERS,
    &peers::WHOAMI,
    &peers::SUMMARY,
    &mail::SEND,
    &mail::INBOX,
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
    &peers::sessions::DETACH,
    &mail::receipts::MARK_READ_,
    &locks::CHECK,
    &hook_ops::EDIT,
    &hook_ops::MAIL,
    &hook_ops::END,
    &mail::wakeups::WAKE,
    &mail::wakeups::REPORT,
];

/// The operation of that name.
pub fn op(name: &str) -> Option<&'static Op> {
    OPS.iter().copied().find(|op| op.name == name)
}

/// What a mesh is told at birth.
#[derive(Debug, Clone)]
pub struct Settings {
    /// An HTTP peer is stale after this long without a heartbeat, ms.
    pub stale_ms: i64,
    /// And gone after this long, ms.
    pub dead_ms: i64,
    /// Minutes of a lock whose caller names none.
    pub lock_ttl_min: i64,
    /// Messages that one sender may send in `limits::RATE_WINDOW_MS`.
    pub rate_max: u32,
    /// This machine's name.
    pub host: String,
    /// The user whose mesh this is: the name of the human peer.
    pub user: String,
    /// This program's version.
    pub version: String,
    /// The broker's process id.
    pub pid: u32,
    /// Its HTTP port.
    pub port: u16,
    /// Addresses of other meshes to look at.
    pub links: Vec<String>,
}

impl Default for Settings {
    /// What users are promised where nothing is set; a machine and a user of that name.
    fn default() -> Settings {
        Settings {
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

/// One mesh: its peers, messages, state, locks and events.
pub struct Mesh {
    store: Store,
    settings: Settings,
    fresh: Box<dyn FnMut() -> u128 + Send>,
    lives: Box<dyn Fn(i64) -> bool + Send>,
    peers: Vec<Peer>,
    seats: HashMap<ConnId, Attachment>,
    locks: Vec<crate::store::LockRow>,
    orphans: Option<i64>,
    unread: HashMap<String, i64>,
    rates: HashMap<String, (i64, u32)>,
    /// Messages that a hook took a moment ago: when, and over which connection.
    taken: HashMap<i64, (i64, ConnId)>,
    /// Sessions that were woken of late.
    rings: Vec<mail::wakeups::WakeupAttempt>,
    /// The turn's transaction was lost in the middle.
    broken: Option<Error>,
    legacy_subscriptions: HashMap<String, Vec<String>>,
    links: Vec<federation::roster::MeshLink>,
    /// Letters for other meshes may wait.
    letters: bool,
    /// Counts what changed among our own peers, for meshes that look at us.
    roster_mark: i64,
    /// Somebody looks on at all that happens.
    watched: bool,
    waits: Vec<WaitingCall>,
    stirred: Dirty,
    out: Vec<Effect>,
    salt: u128,
    started: i64,
    next_prune: i64,
    next_expiry: Option<Option<i64>>,
    /// The disk refused: what time brings is not tried again before then.
    rest: i64,
    tick_at: i64,
    human: String,
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mesh({} peers, {} locks)", self.peers.len(), self.locks.len())
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        Error::new(ErrorKind::Storage, error.to_string())
    }
}

impl Mesh {
    /// A mesh over its store. `fresh` gives ids that nobody can guess.
    ///
    /// # Errors
    /// When the store can't be read or written.
    pub fn open(
        store: Store,
        settings: Settings,
        fresh: Box<dyn FnMut() -> u128 + Send>,
        now: i64,
    ) -> Result<Mesh, Error> {
        let mut mesh = Mesh {
            store,
            settings,
            fresh,
            lives: Box::new(|_| false),
            peers: Vec::new(),
            seats: HashMap::new(),
            locks: Vec::new(),
            orphans: Some(now),
            unread: HashMap::new(),
            rates: HashMap::new(),
            taken: HashMap::new(),
            rings: Vec::new(),
            broken: None,
            legacy_subscriptions: HashMap::new(),
            links: Vec::new(),
            letters: false,
            roster_mark: now,
            watched: false,
            waits: Vec::new(),
            stirred: Dirty::default(),
            out: Vec::new(),
            salt: 0,
            started: now,
            next_prune: now,
            next_expiry: None,
            rest: 0,
            tick_at: now,
            human: String::new(),
        };
        mesh.store.begin_call();
        mesh.read_salt()?;
        mesh.load(now)?;
        mesh.settle_human(now)?;
        mesh.link(&mesh.settings.links.clone());
        mesh.store.end_call()?;
        mesh.store.commit()?;
        Ok(mesh)
    }

    /// How to ask whether a process of this machine lives: a session whose connection went with an
    /// earlier broker may be about to come back.
    pub fn ask_processes(&mut self, lives: Box<dyn Fn(i64) -> bool + Send>) {
        self.lives = lives;
    }

    /// The mesh's own mark in the ids of its messages and events.
    fn read_salt(&mut self) -> Result<(), Error> {
        let kept = self.store.meta("salt")?.and_then(|hex| u128::from_str_radix(&hex, 16).ok());
        self.salt = match kept {
            Some(salt) => salt,
            None => {
                let salt = (self.fresh)();
                self.store.set_meta("salt", &format!("{salt:x}"))?;
                salt
            }
        };
        Ok(())
    }

    /// Lets time pass: waits end, locks and entries expire, silent peers go, old rows are removed.
    pub fn tick(&mut self, now: i64) {
        if now >= self.rest {
            for step in [Mesh::expire_locks, Mesh::expire_peers, Mesh::expire_links, Mesh::expire_rows, Mesh::prune] {
                if let Err(error) = self.scoped(|mesh| step(mesh, now)) {
                    self.rest = now + limits::REST_MS;
                    self.out.push(Effect::Notification { conn: 0, method: "log", params: json!(error.text) });
                }
            }
        }
        self.tick_at = now;
        // What fell in this instant still goes to who waited until now.
        self.settle(now);
        let due = |wait: &WaitingCall| wait.ctx.until.is_some_and(|until| until <= now);
        while let Some(place) = self.waits.iter().position(due) {
            let mut wait = self.waits.remove(place);
            wait.ctx.now = now;
            wait.ctx.last = true;
            self.step(wait, Some(place));
        }
        self.settle(now);
    }

    /// When [`Mesh::tick`] has something to do next, ms.
    pub fn deadline(&mut self) -> Option<i64> {
        let waits = self.waits.iter().filter_map(|wait| wait.ctx.until).min();
        let locks = self.locks.iter().map(|lock| lock.expires).min();
        let orphans = self.orphans.map(|since| since + limits::GRACE_MS);
        let peers = self.peers.iter().filter_map(|peer| peer.deadline(&self.settings)).min();
        let rows = self.row_expiry();
        let written =
            [locks, orphans, peers, self.link_deadline(), rows].into_iter().flatten().min().map(|at| at.max(self.rest));
        [waits, written].into_iter().flatten().min()
    }

    fn row_expiry(&mut self) -> Option<i64> {
        if self.next_expiry.is_none() {
            let entry = self.store.next_entry_expiry().ok().flatten();
            let message = self.store.next_message_expiry().ok().flatten();
            self.next_expiry = Some([entry, message].into_iter().flatten().min());
        }
        self.next_expiry.flatten()
    }

    /// Notes that a row goes at this time. One that goes no more is found out when its time comes.
    fn expires_at(&mut self, time: Option<i64>) {
        if let (Some(time), Some(next)) = (time, &mut self.next_expiry) {
            *next = Some(next.map_or(time, |next| next.min(time)));
        }
    }

    fn expire_rows(&mut self, now: i64) -> Result<(), Error> {
        if self.row_expiry().is_none_or(|at| at > now) {
            return Ok(());
        }
        self.next_expiry = None;
        self.expire_entries(now)?;
        self.expire_messages(now)
    }

    /// Removes what is older than its keeping, a bounded number of rows at a time.
    fn prune(&mut self, now: i64) -> Result<(), Error> {
        if now < self.next_prune {
            return Ok(());
        }
        self.next_prune = now + limits::PRUNE_EVERY_MS;
        let n = self.store.prune_events(now - limits::EVENTS_KEPT_MS, limits::PRUNE_STEP)?;
        let unread = self.store.prune_messages(now - limits::MAIL_KEPT_MS, limits::PRUNE_STEP)?;
        if n == limits::PRUNE_STEP as usize || !unread.is_empty() {
            self.next_prune = now + 1000;
        }
        for recipient in unread {
            self.unread.remove(&recipient);
        }
        self.store.prune_wakes(limits::PRUNE_STEP)?;
        self.store.prune_entries(now - limits::MAIL_KEPT_MS, limits::PRUNE_STEP)?;
        self.forget_peers(now)
    }

    /// Makes the turn durable. After an error nothing of the turn may leave: what was to be
    /// answered is answered with the error, and memory equals the disk again.
    pub fn commit(&mut self) -> bool {
        let error = match (self.broken.take(), self.store.commit()) {
            (None, Ok(_)) => return true,
            (Some(error), _) => error,
            (None, Err(error)) => error.into(),
        };
        self.store.rollback();
        self.reload();
        self.rest = self.tick_at + limits::REST_MS;
        self.out.retain_mut(|out| match out {
            Effect::Reply { result, .. } => {
                *result = Err(error.clone());
                true
            }
            _ => false,
        });
        self.out.push(Effect::Notification { conn: 0, method: "log", params: json!(error.text) });
        false
    }

    /// Whether every event and every message, as often as it gets further, comes out too.
    pub fn watch(&mut self, watched: bool) {
        self.watched = watched;
    }

    /// Whether the turn has anything to commit.
    pub fn has_written(&self) -> bool {
        self.store.has_written()
    }

    /// Hands the store back as a crash leaves it: what was not committed is gone.
    pub fn into_store(mut self) -> Store {
        self.store.rollback();
        self.store
    }

    /// Moves the write-ahead log into the database; for a moment without work.
    pub fn checkpoint(&mut self) {
        if let Err(error) = self.store.checkpoint() {
            self.out.push(Effect::Notification { conn: 0, method: "log", params: json!(error.to_string()) });
        }
    }

    /// What moves the log while the mesh goes on.
    ///
    /// # Errors
    /// When the file can't be opened once more.
    pub fn mover(&self) -> Result<Checkpointer, Error> {
        Ok(self.store.mover()?)
    }

    /// What shall leave, oldest first.
    pub fn take_out(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.out)
    }

    /// Nobody is attached, waits, or lives by heartbeats, and no letter waits for another mesh.
    pub fn is_idle(&self) -> bool {
        let ours = self.peers.iter().filter(|peer| peer.row.kind != peers::LINKED);
        self.waits.is_empty() && ours.into_iter().all(|peer| !peer.is_here()) && !self.has_letters()
    }

    /// The time of birth, ms.
    pub fn started(&self) -> i64 {
        self.started
    }

    /// The settings given at birth.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The outside id of a message (`family` 8) or an event (9): a UUID that carries its sequence
    /// number, so that no index of random ids is needed.
    fn outside_id(&self, family: u8, seq: i64) -> String {
        let salt = format!("{:032x}", self.salt);
        format!("{}-{}-4{}-{family}{}-{seq:012x}", &salt[..8], &salt[8..12], &salt[12..15], &salt[15..18])
    }

    /// The sequence number in an outside id of ours.
    fn inside_id(&self, family: u8, id: &str) -> Option<i64> {
        let seq = i64::from_str_radix(id.get(24..)?, 16).ok()?;
        (self.outside_id(family, seq) == id.to_ascii_lowercase()).then_some(seq)
    }

    /// Reads peers and locks from the store.
    fn load(&mut self, now: i64) -> Result<(), Error> {
        self.locks = self.store.locks()?;
        self.load_peers(now)
    }

    /// Makes memory equal the disk again after something was taken back.
    fn reload(&mut self) {
        self.unread.clear();
        self.next_expiry = None;
        let now = self.tick_at;
        // A command that ended in the meantime may have its lock again; its grace begins anew.
        self.orphans = Some(now);
        if let Err(error) = self.load(now) {
            self.out.push(Effect::Notification { conn: 0, method: "log", params: json!(error.text) });
        }
    }
}

/// An object of `value`, or an empty one: for callers that add to results.
pub fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
