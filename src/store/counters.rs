//! Numbers that the database keeps instead of counting rows: the last sequence numbers, and how many
//! rows there are.

use super::columns::update_row;
use super::{Store, StoreResult};
use rusqlite::Connection;

/// The kept numbers, written once a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// The last message's sequence number.
    pub message_last: i64,
    /// The last event's sequence number.
    pub event_last: i64,
    /// The last fencing token.
    pub token_last: i64,
    /// Messages kept.
    pub messages: i64,
    /// Messages not read yet.
    pub unread: i64,
    /// Events kept.
    pub events: i64,
}

impl Store {
    /// Writes the numbers if they changed since they were written last.
    pub(super) fn write_counters(&mut self) -> StoreResult<()> {
        let c = self.counters;
        if c != self.counters_stored {
            update_row!(self, "counters", {
                "message_last": c.message_last,
                "event_last": c.event_last,
                "token_last": c.token_last,
                "messages": c.messages,
                "unread": c.unread,
                "events": c.events,
            }, "id": 1)?;
        }
        Ok(())
    }
}

/// Reads the kept numbers. A counter is never trusted below what the tables hold.
pub(super) fn read_counters(db: &Connection) -> StoreResult<Counters> {
    let mut counters = db.query_row("SELECT * FROM counters", [], |row| {
        Ok(Counters {
            message_last: row.get("message_last")?,
            event_last: row.get("event_last")?,
            token_last: row.get("token_last")?,
            messages: row.get("messages")?,
            unread: row.get("unread")?,
            events: row.get("events")?,
        })
    })?;
    let highest = |sql: &str| db.query_row(sql, [], |row| row.get::<_, Option<i64>>(0));
    counters.message_last = counters.message_last.max(highest("SELECT max(seq) FROM message")?.unwrap_or(0));
    counters.event_last = counters.event_last.max(highest("SELECT max(seq) FROM event")?.unwrap_or(0));
    counters.token_last = counters.token_last.max(highest("SELECT max(token) FROM lock")?.unwrap_or(0));
    Ok(counters)
}
