//! The table of events. The events form a stream with ascending sequence numbers.

use super::named_columns::{NamedColumns, placeholder, write_row};
use super::{Store, StoreResult};
use crate::base::domain_enums::EventKind;
use crate::base::id_types::{EventSeq, PeerId};
use rusqlite::{OptionalExtension, Row, params};

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The event's sequence number in the stream.
    pub seq: EventSeq,
    /// The type of the event.
    pub kind: EventKind,
    /// The peer that caused the event.
    pub by: PeerId,
    /// The time, in ms, at which the event happened.
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
    pub after: EventSeq,
    /// Read the newest events first, instead of the oldest ones.
    pub newest: bool,
    /// Read at most this many events.
    pub limit: i64,
}

/// The number of sequence numbers in a block. A search for events of one type reads all events of a block, so a block
/// should be small.
pub(super) const BLOCK: i64 = 64;

/// A block, and the event types that the table `event_block` already contains for this block.
#[derive(Debug, Default)]
pub(super) struct KnownBlock {
    number: i64,
    types: Vec<EventKind>,
}

/// An event with the value of a shared state entry.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueEvent {
    /// The payload, as JSON text.
    pub payload: String,
    /// The sequence number of the event that contains the previous value of the same state entry.
    pub earlier: Option<EventSeq>,
}

const COLUMNS: &str = "seq, type, by, at, payload";

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
    /// Appends an event, and returns its sequence number. If the payload contains the value of a state entry, `earlier`
    /// is the sequence number of the event that contains the previous value of this entry.
    pub fn add_event(
        &mut self,
        kind: &EventKind,
        by: &PeerId,
        at: i64,
        payload: &str,
        earlier: Option<EventSeq>,
    ) -> StoreResult<EventSeq> {
        let seq = self.counters.event_last.next();
        write_row!(self, "INSERT", "event", {
            "seq": seq,
            "type": kind.word(),
            "by": by,
            "at": at,
            "payload": payload,
            "earlier": earlier,
        })?;
        self.add_event_block(kind, seq)?;
        self.counters.event_last = seq;
        self.counters.events += 1;
        Ok(seq)
    }

    /// Records that the block of the event `seq` contains an event of this type.
    fn add_event_block(&mut self, kind: &EventKind, seq: EventSeq) -> StoreResult<()> {
        let number = seq.0 / BLOCK;
        if self.event_block.number != number {
            self.event_block = KnownBlock { number, types: Vec::new() };
        }
        if !self.event_block.types.contains(kind) {
            write_row!(self, "INSERT OR IGNORE", "event_block", { "type": kind.word(), "block": number })?;
            self.event_block.types.push(kind.clone());
        }
        Ok(())
    }

    /// Reads the events that match the filter. If the filter contains several types, the events of each type are read
    /// separately, and the results are merged.
    pub fn events(&self, filter: &EventFilter<'_>) -> StoreResult<Vec<Event>> {
        let order = if filter.newest { "DESC" } else { "ASC" };
        let sort = |found: &mut Vec<Event>| {
            found.sort_by_key(|event| if filter.newest { -event.seq.0 } else { event.seq.0 });
            found.dedup_by_key(|event| event.seq);
        };
        let mut found = Vec::new();
        if filter.types.is_empty() {
            let sql = format!("SELECT {COLUMNS} FROM event WHERE seq > ?1 ORDER BY seq {order} LIMIT ?2");
            let mut query = self.db.prepare_cached(&sql)?;
            found = query.query_map(params![filter.after, filter.limit], read)?.collect::<rusqlite::Result<_>>()?;
        }
        // If enough events have been found, the remaining types are searched only up to the last of these events.
        let (mut low, mut high) = (filter.after.next(), EventSeq::MAX);
        for kind in filter.types {
            let sql = format!(
                "SELECT {COLUMNS} FROM (SELECT type AS wanted, block FROM event_block \
                 WHERE type = ?1 AND block BETWEEN ?2 / {BLOCK} AND ?3 / {BLOCK}) CROSS JOIN event \
                 ON seq BETWEEN max(block * {BLOCK}, ?2) AND min(block * {BLOCK} + {BLOCK} - 1, ?3) \
                 WHERE type = wanted ORDER BY block {order}, seq {order} LIMIT ?4"
            );
            let mut query = self.db.prepare_cached(&sql)?;
            let rows = query.query_map(params![kind, low, high, filter.limit], read)?;
            for row in rows {
                found.push(row?);
            }
            sort(&mut found);
            if let Some(last) = usize::try_from(filter.limit - 1).ok().and_then(|last| found.get(last)) {
                if filter.newest { low = last.seq } else { high = last.seq }
            }
        }
        found.truncate(filter.limit.max(0) as usize);
        Ok(found)
    }

    /// The sequence number of the last event, even if this event has been removed since.
    pub fn last_event(&self) -> EventSeq {
        self.counters.event_last
    }

    /// The sequence number of the oldest event in the table. `None` if the table is empty.
    pub fn first_event(&self) -> StoreResult<Option<EventSeq>> {
        Ok(self.db.prepare_cached("SELECT min(seq) FROM event")?.query_row([], |row| row.get(0))?)
    }

    /// The sequence number of the last event at or before `time`. Later events have higher sequence numbers, so a
    /// binary search by time works without an index of times.
    pub fn event_at(&self, time: i64) -> StoreResult<EventSeq> {
        let (mut low, mut high) = (self.first_event()?.map_or(0, |first| first.0 - 1), self.counters.event_last.0);
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
        Ok(EventSeq(low))
    }

    /// Reads an event that contains a value of a state entry. Returns `None` if the event has been deleted.
    pub fn value_event(&self, seq: EventSeq) -> StoreResult<Option<ValueEvent>> {
        let mut query = self.db.prepare_cached("SELECT payload, earlier FROM event WHERE seq = ?1")?;
        let read = |row: &Row<'_>| Ok(ValueEvent { payload: row.get("payload")?, earlier: row.get("earlier")? });
        Ok(query.query_row([seq], read).optional()?)
    }

    /// Replaces the payload of an event. The new payload must not contain the value of a state entry.
    pub fn blank_value_event(&mut self, seq: EventSeq, payload: &str) -> StoreResult<()> {
        self.write("UPDATE event SET payload = ?2, earlier = NULL WHERE seq = ?1", params![seq, payload])?;
        Ok(())
    }

    /// Deletes at most `limit` events that are older than `before`. Returns the number of deleted events.
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
        // The blocks before the block of the first remaining event are empty now.
        self.write("DELETE FROM event_block WHERE block < ?1", &[&((last + 1) / BLOCK)])?;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a pseudorandom number below `n`.
    fn below(random: &mut u32, n: u32) -> u32 {
        *random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*random >> 8) % n
    }

    #[test]
    fn the_events_of_one_type_are_found_after_rollbacks_and_cleanups() {
        let kinds = ["state_changed", "file_locked", "build.done"].map(EventKind::from_word);
        for seed in 0..20_u32 {
            let (mut store, mut model, mut random) = (Store::memory().unwrap(), Vec::new(), seed);
            for turn in 0..60 {
                store.begin_call();
                let kept = model.clone();
                for _ in 0..below(&mut random, 20) {
                    // Events of the last type are rare.
                    let kind = &kinds[if below(&mut random, 50) == 0 { 2 } else { below(&mut random, 2) as usize }];
                    let seq = store.add_event(kind, &"a".into(), turn, "{}", None).unwrap();
                    model.push((seq, kind.clone()));
                }
                if below(&mut random, 4) == 0 {
                    store.undo_call().unwrap();
                    model = kept;
                } else {
                    store.end_call().unwrap();
                }
                if below(&mut random, 5) == 0 {
                    store.prune_events(turn - 10, 100).unwrap();
                    let first = store.first_event().unwrap().unwrap_or(EventSeq::MAX);
                    model.retain(|(seq, _)| *seq >= first);
                }
                store.commit().unwrap();
                let choices = [&kinds[..1], &kinds[1..2], &kinds[2..], &kinds[..], &kinds[1..]];
                for (wanted, newest) in choices.into_iter().flat_map(|wanted| [(wanted, false), (wanted, true)]) {
                    let after = EventSeq(below(&mut random, 300).into());
                    let types: Vec<&str> = wanted.iter().map(EventKind::word).collect();
                    let filter = EventFilter { types: &types, after, newest, limit: 7 };
                    let found: Vec<EventSeq> = store.events(&filter).unwrap().iter().map(|event| event.seq).collect();
                    let mut expected: Vec<EventSeq> = model
                        .iter()
                        .filter(|(seq, of)| *seq > after && wanted.contains(of))
                        .map(|(seq, _)| *seq)
                        .collect();
                    if newest {
                        expected.reverse();
                    }
                    expected.truncate(7);
                    assert_eq!(found, expected, "seed {seed}, turn {turn}, {types:?} after {after}, newest {newest}");
                }
            }
            let oldest = store.first_event().unwrap().unwrap().0 / BLOCK;
            let sql = "SELECT count(*) FROM event_block WHERE block < ?1";
            let n_left: i64 = store.db.query_row(sql, [oldest], |row| row.get(0)).unwrap();
            assert_eq!(n_left, 0, "seed {seed}: blocks without events are removed");
        }
    }
}
