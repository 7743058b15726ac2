//! The end of a turn: its commit or rollback, and the effects that leave after it.

use super::{Effect, Mesh};
use crate::base::error::Error;
use crate::base::limits;
use crate::store::{Changeset, Checkpointer, LogPosition, Store};

impl Mesh {
    /// Makes the turn durable; returns whether that succeeded. If not, only the error leaves the turn, and memory
    /// equals the disk again.
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

    /// Pauses timed work after a rollback, because the same work would only fail again.
    fn rest(&mut self) {
        self.reload();
        self.retry_after = self.ticked_at + limits::REST_MS;
    }

    /// Makes memory equal to the disk again after a rollback.
    pub(super) fn reload(&mut self) {
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
}
