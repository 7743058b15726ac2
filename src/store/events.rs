//! The table of events. The events form a stream with ascending sequence numbers.

use super::named_columns::{NamedColumns, placeholder, write_row};
use super::{Store, StoreResult};
use crate::base::ids::PeerId;
use crate::base::stored_enums::EventKind;
use rusqlite::{OptionalExtension, Row, params};

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The event's sequence number in the stream.
    pub seq: i64,
    /// The type of the event.
    pub kind: EventKind,
    /// The peer that caused the event.
    pub by: PeerId,
    /// When the event happened, in ms.
    pub at: i64,
    /// The payload, as JSON text.
    pub payload: String,
}

/// Selects the events to read.
#[derive(Debug, Clone, Default)]
pub struct EventFilter<'a> {
    /// The names of the event types to read. An empty list means all types.
    pub types: &'a [&'a str],
    /// Read only events after this sequence number.
    pub after: i64,
    /// Read the newest events first, instead of the oldest ones.
    pub newest: bool,
    /// Read at most this many events.
    pub limit: i64,
}

const COLUMNS: &str = "SELECT seq, type, by, at, payload FROM event";

fn read(row: &Row<'_>) -> rusqlite::Result<Event> {
    let mut row = NamedColumns::of(row);
    Ok(Event {
        seq: row.get("seq")?,
        kind: EventKind::from_word(&row.get::<String>("type")?),
        by: row.get::<String>("by")?.into(),
        at: row.get("at")?,
        payload: row.get("payload")?,
    })
}

impl Store {
    /// Appends an event, and returns its sequence number. If the payload contains the value of a state entry,
    /// `state_key` is the key of this entry.
    pub fn add_event(
        &mut self,
        kind: &EventKind,
        by: &str,
        at: i64,
        payload: &str,
        state_key: Option<&str>,
    ) -> StoreResult<i64> {
        let seq = self.counters.event_last + 1;
        write_row!(self, "INSERT", "event", {
            "seq": seq,
            "type": kind.word(),
            "by": by,
            "at": at,
            "payload": payload,
            "state_key": state_key,
        })?;
        self.counters.event_last = seq;
        self.counters.events += 1;
        Ok(seq)
    }

    /// Reads the events that match the filter. If there are several types, each of them is searched separately, and the
    /// results are merged.
    pub fn events(&self, filter: &EventFilter<'_>) -> StoreResult<Vec<Event>> {
        let order = if filter.newest { "DESC" } else { "ASC" };
        let mut found = Vec::new();
        if filter.types.is_empty() {
            let sql = format!("{COLUMNS} WHERE seq > ?1 ORDER BY seq {order} LIMIT ?2");
            let mut query = self.db.prepare_cached(&sql)?;
            found = query.query_map([filter.after, filter.limit], read)?.collect::<rusqlite::Result<_>>()?;
        }
        for kind in filter.types {
            let sql = format!("{COLUMNS} WHERE type = ?1 AND seq > ?2 ORDER BY seq {order} LIMIT ?3");
            let mut query = self.db.prepare_cached(&sql)?;
            let rows = query.query_map(params![kind, filter.after, filter.limit], read)?;
            for row in rows {
                found.push(row?);
            }
        }
        found.sort_by_key(|event| if filter.newest { -event.seq } else { event.seq });
        found.dedup_by_key(|event| event.seq);
        found.truncate(filter.limit.max(0) as usize);
        Ok(found)
    }

    /// The sequence number of the oldest event in the table; `None` if the table is empty.
    pub fn first_event(&self) -> StoreResult<Option<i64>> {
        Ok(self.db.prepare_cached("SELECT min(seq) FROM event")?.query_row([], |row| row.get(0))?)
    }

    /// The sequence number of the last event at or before `time`. Later events have higher sequence numbers, so a
    /// binary search by time works without an index of times.
    pub fn event_at(&self, time: i64) -> StoreResult<i64> {
        let (mut low, mut high) = (self.first_event()?.unwrap_or(1) - 1, self.counters.event_last);
        let mut query =
            self.db.prepare_cached("SELECT seq, at FROM event WHERE seq <= ?1 ORDER BY seq DESC LIMIT 1")?;
        while low < high {
            let middle = low + (high - low + 1) / 2;
            let read = |row: &Row<'_>| Ok((row.get::<_, i64>("seq")?, row.get::<_, i64>("at")?));
            match query.query_row([middle], read).optional()? {
                Some((seq, at)) if seq > low && at > time => high = seq - 1,
                _ => low = middle,
            }
        }
        Ok(low)
    }

    /// The sequence numbers and payloads of the events that contain a value of this state entry, newest first.
    pub fn state_events(&self, state_key: &str, limit: i64) -> StoreResult<Vec<(i64, String)>> {
        let sql = "SELECT seq, payload FROM event WHERE state_key = ?1 ORDER BY seq DESC LIMIT ?2";
        let mut query = self.db.prepare_cached(sql)?;
        let rows = query.query_map(params![state_key, limit], |row| Ok((row.get("seq")?, row.get("payload")?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Replaces the payload of an event with one that does not contain the value of a state entry.
    pub fn blank_state_event(&mut self, seq: i64, payload: &str) -> StoreResult<()> {
        self.write("UPDATE event SET payload = ?2, state_key = NULL WHERE seq = ?1", params![seq, payload])?;
        Ok(())
    }

    /// Deletes at most `limit` events that are older than `before`. Returns how many were deleted.
    pub fn prune_events(&mut self, before: i64, limit: i64) -> StoreResult<usize> {
        let oldest: Option<i64> = self
            .db
            .prepare_cached("SELECT at FROM event ORDER BY seq LIMIT 1")?
            .query_row([], |row| row.get("at"))
            .optional()?;
        if oldest.is_none_or(|at| at >= before) {
            return Ok(0);
        }
        let sql = "SELECT max(seq) FROM (SELECT seq FROM event WHERE at < ?1 ORDER BY seq LIMIT ?2)";
        let last: i64 = self.db.prepare_cached(sql)?.query_row([before, limit], |row| row.get(0))?;
        // Later events have higher sequence numbers, so all events up to `last` are old enough.
        let n = self.write("DELETE FROM event WHERE seq <= ?1", &[&last])?;
        self.counters.events -= n as i64;
        Ok(n)
    }
}
