//! The table of the shared state. A deleted entry remains for a while as a row without a value (a tombstone). The row
//! contains the entry's version, so that a compare-and-set does not confuse a new entry with the deleted entry.

use super::named_columns::{NamedColumns, placeholder, upsert_row};
use super::{Store, StoreResult};
use crate::base::id_types::{EventSeq, PeerId};
use rusqlite::{OptionalExtension, Row, params};

/// An entry of the shared state. If the entry is deleted, `value` is `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct StateEntry {
    /// The namespace of the entry.
    pub namespace: String,
    /// The key of the entry.
    pub key: String,
    /// The value of the entry. `None` if the entry is deleted.
    pub value: Option<String>,
    /// The number of changes of this key, including deletions.
    pub version: i64,
    /// The peer that changed the entry last.
    pub by: PeerId,
    /// The time, in ms, at which the entry was last changed.
    pub updated: i64,
    /// The time, in ms, at which the entry expires.
    pub expires: Option<i64>,
    /// The newest event that contains a value of the entry.
    pub last_event: Option<EventSeq>,
}

/// A position in the list of the deleted entries. The default is the position before the first entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeletionPosition {
    /// The time, in ms, at which the entry was deleted.
    deleted: i64,
    /// The number of the entry's row. It determines the order of entries that were deleted in the same millisecond.
    row_number: i64,
}

impl StateEntry {
    /// Whether the entry is not deleted and has not expired.
    pub fn is_live(&self, now: i64) -> bool {
        self.value.is_some() && self.expires.is_none_or(|at| at > now)
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<StateEntry> {
    read_columns(NamedColumns::of(row))
}

fn read_columns(mut row: NamedColumns<'_, '_>) -> rusqlite::Result<StateEntry> {
    Ok(StateEntry {
        namespace: row.get("namespace")?,
        key: row.get("key")?,
        value: row.get("value")?,
        version: row.get("version")?,
        by: row.get::<String>("by")?.into(),
        updated: row.get("updated")?,
        expires: row.get("expires")?,
        last_event: row.get("last_event")?,
    })
}

impl Store {
    /// Returns an entry, even if the entry was deleted.
    pub fn entry(&self, namespace: &str, key: &str) -> StoreResult<Option<StateEntry>> {
        let mut query = self.db.prepare_cached("SELECT * FROM state WHERE namespace = ?1 AND key = ?2")?;
        let mut order = self.entry_columns.borrow_mut();
        let read = |row: &Row<'_>| read_columns(NamedColumns::of_one(row, &mut order));
        Ok(query.query_row([namespace, key], read).optional()?)
    }

    /// The live entries of a namespace whose keys begin with `prefix`. Entries up to the key `after` are skipped.
    pub fn entries(
        &self,
        namespace: &str,
        prefix: &str,
        after: &str,
        now: i64,
        limit: i64,
    ) -> StoreResult<Vec<StateEntry>> {
        // The texts are compared as blobs, because SQLite's `length` counts only the characters before the first NUL in
        // a text.
        let sql = "SELECT * FROM state WHERE namespace = ?1 AND key >= ?2 AND key > ?3 \
                   AND substr(CAST(key AS BLOB), 1, length(CAST(?2 AS BLOB))) = CAST(?2 AS BLOB) AND value IS NOT NULL AND (expires IS NULL OR expires > ?4) \
                   ORDER BY key LIMIT ?5";
        let mut query = self.db.prepare_cached(sql)?;
        let rows = query.query_map(params![namespace, prefix, after, now, limit], read)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The live entries of all namespaces.
    pub fn all_entries(&self, now: i64, limit: i64) -> StoreResult<Vec<StateEntry>> {
        let sql = "SELECT * FROM state WHERE value IS NOT NULL AND (expires IS NULL OR expires > ?1) \
                   ORDER BY namespace, key LIMIT ?2";
        let mut query = self.db.prepare_cached(sql)?;
        Ok(query.query_map([now, limit], read)?.collect::<rusqlite::Result<_>>()?)
    }

    /// Stores an entry.
    pub fn put_entry(&mut self, e: &StateEntry) -> StoreResult<()> {
        upsert_row!(self, "state", { "namespace": e.namespace, "key": e.key }, {
            "value": e.value,
            "version": e.version,
            "by": e.by.as_str(),
            "updated": e.updated,
            "expires": e.expires,
            "last_event": e.last_event,
        })?;
        Ok(())
    }

    /// Stores the sequence number of the newest event that contains a value of the entry.
    pub fn set_last_event(&mut self, e: &StateEntry, seq: Option<EventSeq>) -> StoreResult<()> {
        let sql = "UPDATE state SET last_event = ?3 WHERE namespace = ?1 AND key = ?2";
        self.write(sql, params![e.namespace, e.key, seq])?;
        Ok(())
    }

    /// Records that events still contain values of an entry that was deleted and then set again. `last` is the newest
    /// such event.
    pub fn add_remaining_values(&mut self, last: EventSeq) -> StoreResult<()> {
        self.write("INSERT OR IGNORE INTO remaining_values(last_event) VALUES (?1)", &[&last])?;
        Ok(())
    }

    /// The events that [`Store::add_remaining_values`] has recorded, at most `limit`.
    pub fn remaining_values(&self, limit: i64) -> StoreResult<Vec<EventSeq>> {
        let mut query =
            self.db.prepare_cached("SELECT last_event FROM remaining_values ORDER BY last_event LIMIT ?1")?;
        let rows = query.query_map([limit], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Forgets an event that [`Store::add_remaining_values`] has recorded.
    pub fn drop_remaining_values(&mut self, last: EventSeq) -> StoreResult<()> {
        self.write("DELETE FROM remaining_values WHERE last_event = ?1", &[&last])?;
        Ok(())
    }

    /// The time at which the next entry expires. `None` if no entry expires.
    pub fn next_entry_expiry(&self) -> StoreResult<Option<i64>> {
        let sql = "SELECT min(expires) FROM state WHERE expires IS NOT NULL";
        Ok(self.db.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    /// The entries that have expired.
    pub fn expired_entries(&self, now: i64, limit: i64) -> StoreResult<Vec<StateEntry>> {
        let sql = "SELECT * FROM state WHERE expires IS NOT NULL AND expires <= ?1 ORDER BY expires LIMIT ?2";
        let mut query = self.db.prepare_cached(sql)?;
        let rows = query.query_map([now, limit], read)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The entries that were deleted before the time `before` (in ms), with their positions. The oldest deletion comes
    /// first. Only entries after the position `after` are returned.
    pub fn deleted_entries(
        &self,
        after: DeletionPosition,
        before: i64,
        limit: i64,
    ) -> StoreResult<Vec<(DeletionPosition, StateEntry)>> {
        let sql = "SELECT *, rowid AS row_number FROM state WHERE value IS NULL AND (updated, rowid) > (?1, ?2) \
                   AND updated < ?3 ORDER BY updated, rowid LIMIT ?4";
        let mut query = self.db.prepare_cached(sql)?;
        let rows = query.query_map([after.deleted, after.row_number, before, limit], |row| {
            let entry = read(row)?;
            Ok((DeletionPosition { deleted: entry.updated, row_number: row.get("row_number")? }, entry))
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Removes the rows of entries that were deleted before the time `before`. (A deleted entry at first keeps its row,
    /// without a value.) Returns the number of removed rows.
    pub fn prune_entries(&mut self, before: i64, limit: i64) -> StoreResult<usize> {
        let sql = "SELECT namespace, key FROM state WHERE value IS NULL AND updated < ?1 LIMIT ?2";
        let mut query = self.db.prepare_cached(sql)?;
        let read = |row: &Row<'_>| Ok((row.get("namespace")?, row.get("key")?));
        let old: Vec<(String, String)> = query.query_map([before, limit], read)?.collect::<rusqlite::Result<_>>()?;
        drop(query);
        for (namespace, key) in &old {
            self.write("DELETE FROM state WHERE namespace = ?1 AND key = ?2", params![namespace, key])?;
        }
        Ok(old.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_deleted_entry_is_found_once_even_if_all_were_deleted_at_the_same_time() {
        let mut store = Store::memory().unwrap();
        for n in 0..25 {
            let (key, by) = (n.to_string(), PeerId::from("a"));
            let deleted = StateEntry {
                namespace: "n".into(),
                key,
                value: None,
                version: 2,
                by,
                updated: 7 + n / 20,
                expires: None,
                last_event: None,
            };
            store.put_entry(&deleted).unwrap();
        }
        let (mut position, mut found) = (DeletionPosition::default(), Vec::new());
        loop {
            let page = store.deleted_entries(position, 9, 6).unwrap();
            let Some((last, _)) = page.last() else { break };
            position = *last;
            found.extend(page.into_iter().map(|(_, entry)| entry.key));
        }
        assert_eq!(found, (0..25).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(store.deleted_entries(DeletionPosition::default(), 8, 100).unwrap().len(), 20);
    }
}
