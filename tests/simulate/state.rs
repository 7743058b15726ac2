//! The value and version that each key of the shared state should have.

use serde_json::Value;
use slm_mesh::base::limits::MAIL_KEPT_MS;
use std::collections::BTreeMap;

/// What the answers to earlier calls say about an entry of the shared state.
#[derive(Debug, Clone, Default)]
struct StateEntry {
    value: Option<String>,
    version: i64,
    expires: Option<i64>,
    touched: i64,
    /// The number of writes whose answers were lost. Each of these writes may have changed the value and version.
    slack: i64,
}

/// All entries of the shared state, by key.
#[derive(Debug, Default)]
pub struct State {
    entries: BTreeMap<String, StateEntry>,
    /// The latest time that the clock has shown, even if the clock has gone back since then.
    latest: i64,
}

impl State {
    fn entry(&mut self, key: &str) -> &mut StateEntry {
        self.entries.entry(key.to_owned()).or_default()
    }

    /// The version that a compare-and-set call must expect for this key; 0 if there is no entry. If an answer was lost,
    /// this version may be outdated.
    pub fn version(&mut self, key: &str) -> i64 {
        let entry = self.entry(key);
        if entry.value.is_some() { entry.version } else { 0 }
    }

    /// Checks and records the answer to a write that succeeded.
    pub fn set(&mut self, key: &str, args: &Value, version: i64, now: i64) {
        let latest = self.latest;
        let entry = self.entry(key);
        let first = entry.version + 1;
        let forgotten = entry.value.is_none() && latest - entry.touched > MAIL_KEPT_MS && version == 1;
        let fits = (first..=first + entry.slack * 2).contains(&version);
        assert!(fits || forgotten, "{key} has version {version} after {entry:?}");
        if entry.slack == 0 && !forgotten {
            let living = if entry.value.is_some() { entry.version } else { 0 };
            let expect = args["expect"].as_i64();
            assert!(expect.is_none_or(|expect| expect == living), "compare and set passed: {args} on {entry:?}");
        }
        let expires = args["ttlMinutes"].as_i64().map(|minutes| now + minutes * 60_000);
        *entry =
            StateEntry { value: args["value"].as_str().map(str::to_owned), version, expires, touched: now, slack: 0 };
    }

    /// Checks an answer that refused a write because its expected version was wrong.
    pub fn conflict(&mut self, key: &str, args: &Value) {
        let entry = self.entry(key);
        let living = if entry.value.is_some() { entry.version } else { 0 };
        assert!(entry.slack > 0 || args["expect"].as_i64() != Some(living), "refused: {args} on {entry:?}");
    }

    /// Checks and records the answer to a delete call. `deleted` is false if there was no entry.
    pub fn deleted(&mut self, key: &str, deleted: bool, now: i64) {
        let entry = self.entry(key);
        if entry.slack == 0 {
            assert!(deleted == entry.value.is_some(), "{key}: deleted is {deleted}, and it was {entry:?}");
        }
        if deleted {
            (entry.value, entry.expires, entry.touched) = (None, None, now);
            entry.version += 1;
        } else if entry.slack > 0 {
            (entry.value, entry.expires) = (None, None);
        }
    }

    /// Records a write whose answer was lost.
    pub fn lost(&mut self, key: &str, now: i64) {
        let entry = self.entry(key);
        entry.slack += 1;
        entry.touched = now;
    }

    /// Checks and records the entry that a read returned.
    pub fn got(&mut self, key: &str, row: &Value, now: i64) {
        let entry = self.entry(key);
        if row.is_null() {
            assert!(entry.slack > 0 || entry.value.is_none(), "{key} is lost: {entry:?}");
            return;
        }
        let version = row["version"].as_i64().expect("a version");
        if entry.slack == 0 {
            let same = row["value"].as_str() == entry.value.as_deref() && version == entry.version;
            assert!(same, "{key} reads {row}, and it is {entry:?}");
            return;
        }
        assert!(version >= entry.version, "{key} went back: {row} after {entry:?}");
        (entry.value, entry.version) = (row["value"].as_str().map(str::to_owned), version);
        // An earlier write got no answer, and may have changed the time of expiry. So the time of expiry is now
        // unknown.
        entry.expires = None;
        if row["expiresAt"].is_null() {
            (entry.slack, entry.touched) = (0, now);
        }
    }

    /// Removes all entries that have expired.
    pub fn expire(&mut self, now: i64) {
        self.latest = self.latest.max(now);
        for entry in self.entries.values_mut() {
            if entry.expires.is_some_and(|at| at <= now) {
                (entry.value, entry.expires, entry.touched) = (None, None, now);
                entry.version += 1;
            }
        }
    }
}
