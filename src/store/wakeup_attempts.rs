//! The table of attempts to wake a session. An attempt is part of the receipt of a message, and is kept as long as the
//! message.

use super::named_columns::{placeholder, write_row};
use super::peers::unknown_word;
use super::{Store, StoreResult};
use crate::base::domain_enums::WakeupOutcome;
use crate::base::id_types::{MessageSeq, PeerId};
use rusqlite::Row;

/// One attempt to wake a session for a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WakeupRow {
    /// The time, in ms, at which the attempt was made.
    pub at: i64,
    /// The name of the channel that was used in the attempt. `None` if no channel was used.
    pub channel: Option<String>,
    /// The result of the attempt.
    pub outcome: WakeupOutcome,
}

fn read(row: &Row<'_>) -> rusqlite::Result<WakeupRow> {
    let word: String = row.get("outcome")?;
    Ok(WakeupRow {
        at: row.get("at")?,
        channel: Some(row.get("channel")?).filter(|channel: &String| !channel.is_empty()),
        outcome: WakeupOutcome::from_word(&word, row.get("reason")?).ok_or_else(|| unknown_word("outcome", &word))?,
    })
}

impl Store {
    /// Stores an attempt that was made for a message.
    pub fn add_wakeup(&mut self, seq: MessageSeq, wakeup: &WakeupRow) -> StoreResult<()> {
        write_row!(self, "INSERT OR REPLACE", "wakeup", {
            "seq": seq,
            "at": wakeup.at,
            "channel": wakeup.channel.as_deref().unwrap_or(""),
            "outcome": wakeup.outcome.word(),
            "reason": wakeup.outcome.reason(),
        })?;
        Ok(())
    }

    /// The attempts that were made for a message, oldest first.
    pub fn wakeups(&self, seq: MessageSeq) -> StoreResult<Vec<WakeupRow>> {
        let sql = "SELECT at, channel, outcome, reason FROM wakeup WHERE seq = ?1 ORDER BY at, channel";
        let mut query = self.db.prepare_cached(sql)?;
        let rows = query.query_map([seq], read)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The attempts that were made after the time `after`, oldest first, and the sender and recipient of each attempt's
    /// message. An attempt for several messages is returned once for each message.
    pub fn wakeups_since(&self, after: i64) -> StoreResult<Vec<(WakeupRow, PeerId, PeerId)>> {
        let sql = "SELECT at, wakeup.channel, outcome, reason, \
                   (SELECT id FROM peer_number WHERE num = sender) AS sender_id, \
                   (SELECT id FROM peer_number WHERE num = recipient) AS recipient_id \
                   FROM wakeup JOIN message USING (seq) WHERE at > ?1 ORDER BY at, recipient, wakeup.channel, seq";
        let mut query = self.db.prepare_cached(sql)?;
        let rows = query.query_map([after], |row| {
            let (from, to): (String, String) = (row.get("sender_id")?, row.get("recipient_id")?);
            Ok((read(row)?, from.into(), to.into()))
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Deletes at most `limit` attempts whose messages have been deleted. Such messages are older than the oldest
    /// message in the database. Returns the number of deleted attempts.
    pub fn prune_wakeups(&mut self, limit: i64) -> StoreResult<usize> {
        let sql = "SELECT seq, at, channel FROM wakeup \
                   WHERE seq < (SELECT coalesce(min(seq), 9223372036854775807) FROM message) \
                   ORDER BY seq, at, channel LIMIT ?1";
        let mut query = self.db.prepare_cached(sql)?;
        let read = |row: &Row<'_>| Ok((row.get("seq")?, row.get("at")?, row.get("channel")?));
        let old: Vec<(i64, i64, String)> = query.query_map([limit], read)?.collect::<rusqlite::Result<_>>()?;
        drop(query);
        if let Some((seq, at, channel)) = old.last() {
            self.write("DELETE FROM wakeup WHERE (seq, at, channel) <= (?1, ?2, ?3)", &[seq, at, channel])?;
        }
        Ok(old.len())
    }
}
