//! Attempts to wake sessions, on disk: part of a message's receipt, kept as long as the message.

use super::{Store, StoreResult};
use rusqlite::params;

/// One attempt to wake a session over a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WakeupRow {
    /// When, ms.
    pub at: i64,
    /// The surface's name.
    pub surface: String,
    /// `rang`, or why not.
    pub how: String,
}

impl Store {
    /// Notes an attempt.
    pub fn add_wake(&mut self, seq: i64, wake: &WakeupRow) -> StoreResult<()> {
        self.writing()?;
        let sql = "INSERT OR REPLACE INTO wake VALUES (?1,?2,?3,?4)";
        self.db.prepare_cached(sql)?.execute(params![seq, wake.at, wake.surface, wake.how])?;
        Ok(())
    }

    /// The attempts over a message, oldest first.
    pub fn wakes(&self, seq: i64) -> StoreResult<Vec<WakeupRow>> {
        let mut ask =
            self.db.prepare_cached("SELECT at, surface, how FROM wake WHERE seq = ?1 ORDER BY at, surface")?;
        let rows =
            ask.query_map([seq], |row| Ok(WakeupRow { at: row.get(0)?, surface: row.get(1)?, how: row.get(2)? }))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Forgets attempts over messages that are forgotten: those before the oldest that is kept.
    pub fn prune_wakes(&mut self, limit: i64) -> StoreResult<()> {
        let sql = "DELETE FROM wake WHERE (seq, at, surface) IN (SELECT seq, at, surface FROM wake \
                   WHERE seq < (SELECT coalesce(min(seq), 0) FROM message) ORDER BY seq LIMIT ?1)";
        let has_old = "SELECT EXISTS (SELECT 1 FROM wake WHERE seq < (SELECT coalesce(min(seq), 0) FROM message))";
        if self.db.prepare_cached(has_old)?.query_row([], |row| row.get(0))? {
            self.writing()?;
            self.db.prepare_cached(sql)?.execute([limit])?;
        }
        Ok(())
    }
}
