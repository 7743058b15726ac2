//! Events on disk: a stream with sequence numbers that never go back.

use super::{Store, StoreResult};
use rusqlite::{OptionalExtension, Row, params};

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its place in the stream.
    pub seq: i64,
    /// `peer_joined`, `file_locked`, …, or a custom type with a dot.
    pub kind: String,
    /// Peer id (or free text over HTTP) that caused it.
    pub by: String,
    /// When, ms.
    pub at: i64,
    /// JSON text.
    pub payload: String,
}

/// Which events to read.
#[derive(Debug, Clone, Default)]
pub struct EventFilter<'a> {
    /// Types wanted; empty means all.
    pub types: &'a [&'a str],
    /// Only those after this sequence number.
    pub after: i64,
    /// Oldest first from `after`, or the newest ones (returned newest first).
    pub newest: bool,
    /// At most this many.
    pub limit: i64,
}

fn read(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event { seq: row.get(0)?, kind: row.get(1)?, by: row.get(2)?, at: row.get(3)?, payload: row.get(4)? })
}

impl Store {
    /// Appends an event and answers with its sequence number.
    pub fn add_event(&mut self, kind: &str, by: &str, at: i64, payload: &str) -> StoreResult<i64> {
        self.writing()?;
        let seq = self.counters.event_last + 1;
        let sql = "INSERT INTO event VALUES (?1,?2,?3,?4,?5)";
        self.db.prepare_cached(sql)?.execute(params![seq, kind, by, at, payload])?;
        self.counters.event_last = seq;
        self.counters.events += 1;
        Ok(seq)
    }

    /// Reads the stream; with several types, each is searched by its own index and the results merged.
    pub fn events(&self, pick: &EventFilter<'_>) -> StoreResult<Vec<Event>> {
        let order = if pick.newest { "DESC" } else { "ASC" };
        let mut found = Vec::new();
        if pick.types.is_empty() {
            let sql =
                format!("SELECT seq, type, by, at, payload FROM event WHERE seq > ?1 ORDER BY seq {order} LIMIT ?2");
            let mut ask = self.db.prepare_cached(&sql)?;
            found = ask.query_map([pick.after, pick.limit], read)?.collect::<rusqlite::Result<_>>()?;
        }
        for kind in pick.types {
            let sql = format!(
                "SELECT seq, type, by, at, payload FROM event WHERE type = ?1 AND seq > ?2 ORDER BY seq {order} LIMIT ?3"
            );
            let mut ask = self.db.prepare_cached(&sql)?;
            let rows = ask.query_map(params![kind, pick.after, pick.limit], read)?;
            for row in rows {
                found.push(row?);
            }
        }
        found.sort_by_key(|event| if pick.newest { -event.seq } else { event.seq });
        found.dedup_by_key(|event| event.seq);
        found.truncate(pick.limit.max(0) as usize);
        Ok(found)
    }

    /// The oldest event that is still kept.
    pub fn first_event(&self) -> StoreResult<Option<i64>> {
        Ok(self.db.prepare_cached("SELECT min(seq) FROM event")?.query_row([], |row| row.get(0))?)
    }

    /// The last sequence number at or before `time`: times grow with sequence numbers, so a
    /// bisection finds it without an index.
    pub fn event_at(&self, time: i64) -> StoreResult<i64> {
        let (mut low, mut high) = (self.first_event()?.unwrap_or(1) - 1, self.counters.event_last);
        let mut ask = self.db.prepare_cached("SELECT seq, at FROM event WHERE seq <= ?1 ORDER BY seq DESC LIMIT 1")?;
        while low < high {
            let middle = low + (high - low + 1) / 2;
            let found = ask.query_row([middle], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).optional()?;
            match found {
                Some((seq, at)) if seq > low && at > time => high = seq - 1,
                _ => low = middle,
            }
        }
        Ok(low)
    }

    /// Forgets events older than `before`.
    pub fn prune_events(&mut self, before: i64, limit: i64) -> StoreResult<usize> {
        let oldest: Option<i64> = self
            .db
            .prepare_cached("SELECT at FROM event ORDER BY seq LIMIT 1")?
            .query_row([], |row| row.get(0))
            .optional()?;
        if oldest.is_none_or(|at| at >= before) {
            return Ok(0);
        }
        self.writing()?;
        let sql = "DELETE FROM event WHERE seq IN (SELECT seq FROM event WHERE at < ?1 ORDER BY seq LIMIT ?2)";
        let n = self.db.prepare_cached(sql)?.execute([before, limit])?;
        self.counters.events -= n as i64;
        Ok(n)
    }
}
