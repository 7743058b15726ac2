//! One turn of the broker, as the rules see it: the open transaction, the effects that leave after its commit, and
//! the changes that concern waiting calls.
//!
//! **Invariant:** nothing leaves before the commit, because `Turn::take_effects` is called after it.

use super::ConnId;
use crate::base::error::{Error, ErrorKind};
use crate::base::ids::PeerId;
use crate::base::process::Process;
use crate::store::{Changeset, Event, LogPosition, Message, Store, StoreError};
use serde_json::Value;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Something that leaves the core after the turn is committed.
#[allow(missing_docs)] // the comment of each variant explains its fields
#[derive(Debug)]
pub enum Effect {
    /// An agent process whose end is to be reported to [`Mesh::on_process_exit`](super::Mesh::on_process_exit).
    WatchProcess(Process),
    /// The answer to a call.
    Reply { conn: ConnId, id: Value, result: Result<Value, Error> },
    /// A notification, which is not the answer to a call.
    Notification { conn: ConnId, method: &'static str, params: Value },
    /// A line for the log about a failure that no caller waits for.
    Log(Error),
    /// Mail for a peer that receives pushes on its own Unix socket.
    PeerPush { peer: PeerId, seq: i64, from: PeerId, body: String },
    /// A new alert to the human at this machine, by its sequence number.
    Alert(i64),
    /// An event, for peers with their own push sockets and for observers.
    Event(Rc<Event>),
    /// A message that was sent or whose state changed, for observers.
    Message(Rc<Message>),
}

/// The changes since the waiting calls were last checked.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// Peers with new mail, or whose mail must be checked again.
    pub(super) mail: BTreeSet<PeerId>,
    /// Whether there are new events.
    pub(super) events: bool,
    /// Whether a lock ended or a request for a lock was withdrawn.
    pub(super) locks: bool,
}

/// The running turn.
pub struct Turn {
    pub(super) store: Store,
    pub(super) dirty: Dirty,
    effects: Vec<Effect>,
    /// Why the turn's transaction was lost before the turn ended.
    broken: Option<Error>,
    /// When the next row expires: unknown, never, or at this time.
    next_expiry: Option<Option<i64>>,
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        let kind = if matches!(error, StoreError::Corrupt(_)) { ErrorKind::Damaged } else { ErrorKind::Storage };
        Error::new(kind, error.to_string())
    }
}

impl Turn {
    pub(super) fn new(store: Store) -> Turn {
        Turn { store, dirty: Dirty::default(), effects: Vec::new(), broken: None, next_expiry: None }
    }

    /// Adds an effect that leaves after the commit.
    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Logs the error of a rule for which no caller waits.
    pub(super) fn log_error<T>(&mut self, result: Result<T, Error>) {
        if let Err(error) = result {
            self.push(Effect::Log(error));
        }
    }

    /// How many effects there are, for [`Turn::drop_effects`].
    pub(super) fn effect_count(&self) -> usize {
        self.effects.len()
    }

    /// Removes all effects after the first `n`, because the call that made them failed.
    pub(super) fn drop_effects(&mut self, n: usize) {
        self.effects.truncate(n);
    }

    /// Takes the effects that are to leave, oldest first.
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Rolls back the writes of the running call; returns whether memory may now differ from the disk.
    pub(super) fn undo_call(&mut self) -> bool {
        let wrote = self.store.call_wrote();
        if let Err(error) = self.store.undo_call() {
            // The state of the database file is uncertain, so the whole turn is abandoned. Earlier answers of this
            // turn are no longer true, and the commit replaces them by this error.
            self.store.rollback();
            let error = Error::from(error);
            self.broken = Some(error.clone());
            self.push(Effect::Log(error));
        }
        wrote
    }

    /// Makes the turn durable.
    ///
    /// # Errors
    /// When the disk refuses. Then every answer of the turn becomes that error, and nothing else leaves.
    pub(super) fn commit(&mut self) -> Result<(), Error> {
        let error = match (self.broken.take(), self.store.commit()) {
            (None, Ok(_)) => return Ok(()),
            (Some(error), _) => error,
            (None, Err(error)) => error.into(),
        };
        self.take_back(&error);
        Err(error)
    }

    /// Ends the writes of the turn and returns them, with their position in the log.
    ///
    /// # Errors
    /// When the turn was lost, or the disk refuses. Then [`Turn::take_back`] must follow.
    pub(super) fn seal(&mut self, position: LogPosition) -> Result<Option<Changeset>, Error> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        Ok(self.store.seal(position)?)
    }

    /// Rolls the turn back. All its answers become this error, and nothing else leaves.
    pub(super) fn take_back(&mut self, error: &Error) {
        self.store.rollback();
        self.effects.retain_mut(|effect| match effect {
            Effect::Reply { result, .. } => {
                *result = Err(error.clone());
                true
            }
            _ => false,
        });
        self.push(Effect::Log(error.clone()));
    }

    /// When the next entry or message expires, in ms.
    pub(super) fn next_expiry(&mut self) -> Option<i64> {
        if self.next_expiry.is_none() {
            let entry = self.store.next_entry_expiry().ok().flatten();
            let message = self.store.next_message_expiry().ok().flatten();
            self.next_expiry = Some([entry, message].into_iter().flatten().min());
        }
        self.next_expiry.flatten()
    }

    /// Notes that a row expires at this time.
    pub(super) fn note_expiry(&mut self, time: Option<i64>) {
        if let (Some(time), Some(next)) = (time, &mut self.next_expiry) {
            *next = Some(next.map_or(time, |next| next.min(time)));
        }
    }

    /// Forgets the next expiry, so that it is looked up again when needed.
    pub(super) fn forget_expiry(&mut self) {
        self.next_expiry = None;
    }
}
