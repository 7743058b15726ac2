//! Ends a turn: commits it or rolls it back, and then passes on its effects.

use super::{Effect, Mesh};
use crate::base::error::Error;
use crate::base::id_types::LogId;
use crate::base::limits;
use crate::store::{Changeset, Checkpointer, LogPosition, Store};

/// The name in the `meta` table under which [`Mesh::write_time`] stores the time.
const TIME: &str = "time";

impl Mesh {
    /// Commits the turn. Returns whether this succeeded. If not, the error replaces every reply since the first write of
    /// the turn, and memory is loaded again from the database.
    pub fn commit(&mut self) -> bool {
        let committed = self.turn.commit().is_ok();
        if !committed {
            self.rest();
        }
        committed
    }

    /// Ends the writes of the turn, gives the turn this position in the log, and returns the turn's changes; `None` if
    /// the turn wrote nothing. Call [`Mesh::commit`] or [`Mesh::take_back`] next.
    ///
    /// # Errors
    /// When the database can't be written. In this case, call [`Mesh::take_back`].
    pub fn seal(&mut self, position: LogPosition) -> Result<Option<Changeset>, Error> {
        self.turn.seal(position)
    }

    /// The ids of earlier logs, which were lost. The log of this mesh is their continuation.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn former_logs(&self) -> Result<Vec<LogId>, Error> {
        Ok(self.turn.store.former_logs()?)
    }

    /// Writes the current time, so that this turn gets an entry in the log even if nothing else has changed. The entry
    /// tells the other hubs the time on the mesh's clock.
    pub fn write_time(&mut self, now: i64) {
        let written = self.in_savepoint(|mesh| Ok(mesh.turn.store.set_meta(TIME, &now.to_string())?));
        self.turn.log_error(written);
    }

    /// The size of the changes that this turn has recorded for the log, in bytes.
    pub fn recorded_size(&self) -> usize {
        self.turn.store.recorded_size()
    }

    /// Rolls the turn back. The error replaces every reply since the first write of the turn, and memory is loaded again
    /// from the database.
    pub fn take_back(&mut self, error: &Error) {
        self.turn.take_back(error);
        self.rest();
    }

    /// After a rollback, replaces the data in memory with the data in the database. Also pauses timed work, because the
    /// same work would fail again.
    fn rest(&mut self) {
        self.reload();
        self.retry_after = self.ticked_at + limits::REST_MS;
    }

    /// After a rollback, replaces the data in memory with the data in the database.
    pub(super) fn reload(&mut self) {
        self.mail.reload();
        self.turn.forget_expiry();
        let now = self.ticked_at;
        let locks = self.locks.load(&self.turn, &self.settings.host, now);
        let loaded = locks.and_then(|()| self.peers.load(&mut self.turn, &self.locks, now));
        let loaded = loaded.and_then(|()| self.channels.load(&self.turn));
        self.turn.log_error(loaded);
    }

    /// Removes and returns the effects that are to leave the core, oldest first.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        self.turn.take_effects()
    }

    /// Whether the turn has answered any call.
    pub fn has_replies(&self) -> bool {
        self.turn.has_replies()
    }

    /// Whether the turn has anything to commit.
    pub fn has_written(&self) -> bool {
        self.turn.store.has_written()
    }

    /// Returns the store without uncommitted writes, as it would be after a crash.
    pub fn into_store(mut self) -> Store {
        self.turn.store.rollback();
        self.turn.store
    }

    /// Copies the write-ahead log into the database. The broker calls this when it is idle.
    pub fn checkpoint(&mut self) {
        let done = self.turn.store.checkpoint().map_err(Error::from);
        self.turn.log_error(done);
    }

    /// If the write-ahead log is long, copies the rest of the log into the database. The rest is the part that the
    /// checkpointer has not copied. Errors are ignored, because the log stays complete, and the next commit reports a
    /// failed disk.
    pub fn copy_rest_of_log(&mut self) {
        let _ = self.turn.store.copy_rest_of_log();
    }

    /// Returns the checkpointer, which copies the write-ahead log into the database while the mesh works.
    ///
    /// # Errors
    /// When the database file can't be opened a second time.
    pub fn checkpointer(&self) -> Result<Checkpointer, Error> {
        Ok(self.turn.store.checkpointer()?)
    }
}
