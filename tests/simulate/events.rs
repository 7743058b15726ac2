//! The events that one watcher has received. The test compares them with the events of other subscribers.

use serde_json::Value;
use slm_mesh::base::limits::EVENTS_KEPT_MS;
use slm_mesh::base::time_format;
use std::collections::VecDeque;

/// The maximum number of events that the test remembers.
const KEPT: usize = 4000;

/// One event that the watcher has received.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub seq: i64,
    pub kind: String,
    id: String,
    at: String,
    taken: i64,
    pub payload: String,
    /// For an event about the shared state, the namespace and key of the entry.
    entry: Option<(String, String)>,
    /// The payload that is left when the entry is deleted. It no longer contains the entry's value.
    blanked: String,
}

/// All events that the watcher has received.
#[derive(Debug, Default)]
pub struct Stream {
    kept: VecDeque<Seen>,
    /// The events that the watcher has received in this turn.
    pub fresh: Vec<Seen>,
    /// The latest time that the clock has shown, even if the clock has gone back since then. The age of an event is
    /// relative to this time.
    pub latest: i64,
}

fn seen(row: &Value, now: i64) -> Seen {
    let text = |name: &str| row[name].as_str().unwrap_or("").to_owned();
    let part = |name: &str| row["payload"][name].as_str().map(str::to_owned);
    let mut blanked = row["payload"].clone();
    if let Some(value) = blanked.get_mut("value").filter(|_| row["type"] == "state_changed") {
        *value = Value::Null;
    }
    Seen {
        entry: part("namespace").zip(part("key")),
        blanked: blanked.to_string(),
        seq: row["seq"].as_i64().expect("a number"),
        kind: text("type"),
        id: text("id"),
        at: text("createdAt"),
        taken: row["createdAt"].as_str().and_then(time_format::parse).unwrap_or(now),
        payload: row["payload"].to_string(),
    }
}

impl Stream {
    pub fn last(&self) -> i64 {
        self.kept.back().map_or(0, |event| event.seq)
    }

    /// Records an event that the watcher has received. Its number must be the last event's number plus one, and its
    /// time must not be before the last event's time.
    pub fn push(&mut self, row: &Value, now: i64) {
        let event = seen(row, now);
        if let Some(last) = self.kept.back() {
            assert!(event.seq == last.seq + 1, "event {} came after {}", event.seq, last.seq);
            assert!(event.at >= last.at, "time went back from {} to {} at event {}", last.at, event.at, event.seq);
        }
        self.kept.push_back(event.clone());
        self.fresh.push(event);
        if self.kept.len() > KEPT {
            self.kept.pop_front();
        }
    }

    /// The sequence numbers of this turn's events that a subscriber to these types must receive.
    pub fn expected(&self, types: &[String]) -> Vec<i64> {
        let wanted = |event: &&Seen| types.iter().any(|kind| kind == "*" || *kind == event.kind);
        self.fresh.iter().filter(wanted).map(|event| event.seq).collect()
    }

    /// Whether this turn had an event with this type and with this text in its payload.
    pub fn has(&self, kind: &str, part: &str) -> bool {
        self.fresh.iter().any(|event| event.kind == kind && event.payload.contains(part))
    }

    /// Whether a read may return this payload for an event. After an entry of the shared state is deleted, events about
    /// this entry no longer contain its value.
    fn may_show(&self, event: &Seen, payload: &str) -> bool {
        let takes_away = |later: &&Seen| {
            later.seq > event.seq
                && later.kind == "state_deleted"
                && later.entry.is_some()
                && later.entry == event.entry
        };
        match self.kept.iter().find(takes_away) {
            // The entry was deleted in this turn, either before or after the read.
            Some(later) if self.fresh.iter().any(|fresh| fresh.seq == later.seq) => {
                payload == event.blanked || payload == event.payload
            }
            Some(_) => payload == event.blanked,
            None => payload == event.payload,
        }
    }

    /// Checks the answer to a call that reads the events whose numbers are higher than `after`.
    pub fn read(&self, after: i64, types: &[String], value: &Value, now: i64) {
        let rows = value["events"].as_array().expect("events");
        let gap = value["gap"] == true;
        let next = value["seq"].as_i64().expect("a cursor");
        let last = self.last();
        assert!(next <= last, "a cursor from beyond the end: {next} of {last}");
        let is_kept = |event: &&Seen| self.latest - event.taken < EVENTS_KEPT_MS;
        let first = self.kept.iter().find(|event| event.seq > after);
        let is_there = first.is_some_and(|event| event.seq == after + 1 && is_kept(&event)) || after >= last;
        assert!(!(gap && is_there && after <= last), "a gap after {after} that is none: {value}");
        if after > last {
            assert!(gap, "the cursor {after} is of another stream, which ends at {last}");
            return;
        }
        let fits = |event: &&Seen| types.is_empty() || types.contains(&event.kind);
        let want = self.kept.iter().filter(|event| event.seq > after && event.seq <= next).filter(fits);
        let oldest = self.kept.front().map_or(i64::MAX, |event| event.seq);
        let got: Vec<Seen> = rows.iter().map(|row| seen(row, now)).collect();
        let mut got = got.iter().filter(|event| event.seq >= oldest).peekable();
        for event in want {
            match got.peek() {
                Some(row) if row.seq == event.seq => {
                    let fits = row.id == event.id && self.may_show(event, &row.payload);
                    assert!(fits, "event {} changed: {event:?} to {}", event.seq, row.payload);
                    got.next();
                }
                _ => {
                    let may_miss = gap && self.latest - event.taken >= EVENTS_KEPT_MS;
                    assert!(may_miss, "event {} is missing after {after}, gap {gap}", event.seq);
                }
            }
        }
        assert!(got.next().is_none(), "events that were never pushed, or not asked for: {value}");
    }
}
