//! A turn: one round of the broker's event loop. A turn has an open transaction, and effects (such as replies) that
//! leave the core after the commit. The turn also records the changes after which waiting calls must run again.
//!
//! **Invariant:** no effect leaves the core before the commit, because `Turn::take_effects` is called only after the
//! commit.

use super::waiting_calls::WaitReason;
use super::{ConnId, mail, shared_key_value_entries};
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::{MessageSeq, PeerId};
use crate::base::process_identity::Process;
use crate::store::{Changeset, Event, LogPosition, Message, Store, StoreError};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

/// An action that follows the commit of the turn, and that other parts of the broker carry out.
#[allow(missing_docs)] // the comment of each variant explains its fields
#[derive(Debug)]
pub enum Effect {
    /// A request to watch an agent process and to report its end to
    /// [`Mesh::on_process_exit`](super::Mesh::on_process_exit).
    WatchProcess(Process),
    /// The reply to a call.
    Reply { conn: ConnId, id: Value, result: Result<Value, Error> },
    /// A JSON-RPC notification to a connection. The parameters are JSON text.
    Notification { conn: ConnId, method: &'static str, params: String },
    /// An error that must be written to the log, because no caller waits for the result.
    Log(Error),
    /// A message for a peer that receives pushes on a Unix socket of its own.
    PeerPush { peer: PeerId, seq: MessageSeq, from: PeerId, body: String },
    /// The person at this machine has received a new alert.
    Alert,
    /// A new event. Observers and peers with push sockets receive it.
    Event(Rc<Event>),
    /// A new message, or a message whose delivery state has changed. Observers receive it.
    Message(Rc<Message>),
}

/// What has changed since the waiting calls were last checked.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// The peers that have new mail, or whose mail must be checked again.
    pub(super) mail: BTreeSet<PeerId>,
    /// Whether there are new events.
    pub(super) events: bool,
    /// Whether the waiting lock requests must be checked again, for example because a lock was released.
    pub(super) locks: bool,
}

impl Dirty {
    /// Records that a call is no longer waiting. `reason` is the reason why the call waited. If the call waited for a
    /// message that may wake a peer, another call that waits for such a message may now wake the peer. If the call
    /// waited for locks, the requests behind it in the queue may be granted now.
    pub(super) fn note_end(&mut self, reason: Option<&WaitReason>) {
        match reason {
            Some(WaitReason::Wakeup(peer, _)) => drop(self.mail.insert(peer.clone())),
            Some(WaitReason::Locks(_)) => self.locks = true,
            _ => {}
        }
    }
}

/// The turn that is running.
pub struct Turn {
    pub(super) store: Store,
    pub(super) dirty: Dirty,
    effects: Vec<Effect>,
    /// How many effects the turn had when it began to write; `None` if it has written nothing.
    n_effects_before_writes: Option<usize>,
    /// The error that made the transaction of the turn fail early, before the commit.
    broken: Option<Error>,
    /// When the next row expires: `None` if this is unknown, `Some(None)` if no row will expire.
    next_expiry: Option<Option<i64>>,
    /// The time of the newest message or event.
    newest: i64,
    /// For each sender and group, the time that was assigned to the latest message. Times in the past are dropped.
    group_sends: HashMap<(PeerId, String), i64>,
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        let kind = match error {
            StoreError::Corrupt(_) => ErrorKind::Damaged,
            StoreError::Full => ErrorKind::DiskFull,
            _ => ErrorKind::Storage,
        };
        Error::new(kind, error.to_string())
    }
}

impl Turn {
    pub(super) fn new(store: Store) -> Turn {
        Turn {
            store,
            dirty: Dirty::default(),
            effects: Vec::new(),
            n_effects_before_writes: None,
            broken: None,
            next_expiry: None,
            newest: 0,
            group_sends: HashMap::new(),
        }
    }

    /// Returns the time to store with a new message or event. Searches rely on this time, so it is never earlier than
    /// the time of the previous message or event.
    pub(super) fn time_of_row(&mut self, now: i64) -> i64 {
        self.newest = self.newest.max(now);
        self.newest
    }

    /// Returns the time that is stored with all copies of a new message to a group. Two messages from one sender to one
    /// group never get the same time, so everybody can tell which copies belong together.
    pub(super) fn time_of_group_send(&mut self, sender: &PeerId, group: &str, now: i64) -> i64 {
        self.group_sends.retain(|_, time| *time >= now);
        let send = (sender.clone(), group.to_owned());
        let earliest = self.group_sends.get(&send).map_or(now, |last| now.max(last + 1));
        let time = self.time_of_row(earliest);
        self.group_sends.insert(send, time);
        time
    }

    /// Adds an effect, which leaves the core after the commit.
    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// If the result of a rule is an error, logs the error, because no caller waits for the result.
    pub(super) fn log_error<T>(&mut self, result: Result<T, Error>) {
        if let Err(error) = result {
            self.push(Effect::Log(error));
        }
    }

    /// Whether any effect is a reply.
    pub(super) fn has_replies(&self) -> bool {
        self.effects.iter().any(|effect| matches!(effect, Effect::Reply { .. }))
    }

    /// The current number of effects, for a later call of [`Turn::drop_effects`].
    pub(super) fn effect_count(&self) -> usize {
        self.effects.len()
    }

    /// Records the end of a call. Before the call, the turn had `n` effects. If this call was the first to write, the
    /// replies among these `n` effects remain true even if the turn is rolled back.
    pub(super) fn note_call_end(&mut self, n: usize) {
        if self.store.has_written() {
            self.n_effects_before_writes.get_or_insert(n);
        }
    }

    /// Keeps only the first `n` effects. The other effects come from a call that has failed.
    pub(super) fn drop_effects(&mut self, n: usize) {
        self.effects.truncate(n);
    }

    /// Removes and returns the effects that are to leave the core, oldest first.
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        self.n_effects_before_writes = None;
        std::mem::take(&mut self.effects)
    }

    /// Rolls back the writes of the current call. Returns whether memory may now differ from the database.
    pub(super) fn undo_call(&mut self) -> bool {
        let wrote = self.store.call_wrote();
        if let Err(error) = self.store.undo_call() {
            // The state of the database is uncertain now, so the whole turn is rolled back. The replies to earlier
            // calls of this turn are no longer true, so the commit replaces them with this error.
            self.store.rollback();
            let error = Error::from(error);
            self.broken = Some(error.clone());
            self.push(Effect::Log(error));
        }
        wrote
    }

    /// Commits the turn.
    ///
    /// # Errors
    /// When the database can't be written. Then the turn is rolled back, see [`Turn::take_back`].
    pub(super) fn commit(&mut self) -> Result<(), Error> {
        let error = match (self.broken.take(), self.store.commit()) {
            (None, Ok(_)) => return Ok(()),
            (Some(error), _) => error,
            (None, Err(error)) => error.into(),
        };
        self.take_back(&error);
        Err(error)
    }

    /// Ends the writes of the turn, and returns its changes for the log. The changes include the turn's position in the
    /// log.
    ///
    /// # Errors
    /// When the transaction has already failed, or the database can't be written. In either case, call
    /// [`Turn::take_back`] next.
    pub(super) fn seal(&mut self, position: LogPosition) -> Result<Option<Changeset>, Error> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        Ok(self.store.seal(position)?)
    }

    /// Rolls the turn back. The error replaces every reply that depends on the writes of the turn. These are all replies
    /// since the first write. No effect that is not a reply leaves the core.
    pub(super) fn take_back(&mut self, error: &Error) {
        self.store.rollback();
        let mut n_valid = self.n_effects_before_writes.take().unwrap_or(0);
        self.effects.retain_mut(|effect| {
            let is_valid = n_valid > 0;
            n_valid = n_valid.saturating_sub(1);
            let Effect::Reply { result, .. } = effect else { return false };
            if !is_valid {
                *result = Err(error.clone());
            }
            true
        });
        self.push(Effect::Log(error.clone()));
    }

    /// When the next entry or message will expire, in ms.
    pub(super) fn next_expiry(&mut self) -> Option<i64> {
        if self.next_expiry.is_none() {
            let entry = shared_key_value_entries::next_expiry(&self.store).ok().flatten();
            let message = mail::next_expiry(&self.store).ok().flatten();
            self.next_expiry = Some([entry, message].into_iter().flatten().min());
        }
        self.next_expiry.flatten()
    }

    /// Records that a row will expire at this time.
    pub(super) fn note_expiry(&mut self, time: Option<i64>) {
        if let (Some(time), Some(next)) = (time, &mut self.next_expiry) {
            *next = Some(next.map_or(time, |next| next.min(time)));
        }
    }

    /// Forgets the time at which the next row expires. The time is looked up again when it is needed.
    pub(super) fn forget_expiry(&mut self) {
        self.next_expiry = None;
    }
}
