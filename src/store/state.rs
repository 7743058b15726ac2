//! Shared state on disk. A deleted entry stays as a row without a value for a while, so that its
//! version goes on counting and no compare-and-set mistakes a new life for the old one.

use super::{Store, StoreResult};
use rusqlite::{OptionalExtension, Row, params};

/// One entry; `value` is `None` when it was deleted.
#[derive(Debug, Clone, PartialEq)]
pub struct StateEntry {
    /// Namespace.
    pub namespace: String,
    /// Key.
    pub key: String,
    /// Value, if it lives.
    pub value: Option<String>,
    /// Counts the changes of this key.
    pub version: i64,
    /// Peer id (or free text over HTTP) of the last change.
    pub by: String,
    /// Time of the last change, ms.
    pub updated: i64,
    /// When it goes, ms.
    pub expires: Option<i64>,
}

fn read(row: &Row<'_>) -> rusqlite::Result<StateEntry> {
    Ok(StateEntry {
        namespace: row.get(0)?,
        key: row.get(1)?,
        value: row.get(2)?,
        version: row.get(3)?,
        by: row.get(4)?,
        updated: row.get(5)?,
        expires: row.get(6)?,
    })
}

const COLUMNS: &str = "SELECT namespace, key, value, version, by, updated, expires FROM state";

impl Store {
    /// An entry, deleted ones included.
    pub fn entry(&self, namespace: &str, key: &str) -> StoreResult<Option<StateEntry>> {
        let sql = "SELECT namespace, key, value, version, by, updated, expires FROM state \
                   WHERE namespace = ?1 AND key = ?2";
        Ok(self.db.prepare_cached(sql)?.query_row([namespace, key], read).optional()?)
    }

    /// Living entries of a namespace whose key starts with `prefix` and sorts after `after`.
    pub fn entries(
        &self,
        namespace: &str,
        prefix: &str,
        after: &str,
        now: i64,
        limit: i64,
    ) -> StoreResult<Vec<StateEntry>> {
        let sql = format!(
            "{COLUMNS} WHERE namespace = ?1 AND key >= ?2 AND key > ?3 AND substr(key, 1, length(?2)) = ?2 \
             AND value IS NOT NULL AND (expires IS NULL OR expires > ?4) ORDER BY key LIMIT ?5"
        );
        let mut ask = self.db.prepare_cached(&sql)?;
        let rows = ask.query_map(params![namespace, prefix, after, now, limit], read)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Living entries of all namespaces.
    pub fn all_entries(&self, now: i64, limit: i64) -> StoreResult<Vec<StateEntry>> {
        let sql = format!(
            "{COLUMNS} WHERE value IS NOT NULL AND (expires IS NULL OR expires > ?1) ORDER BY namespace, key LIMIT ?2"
        );
        let mut ask = self.db.prepare_cached(&sql)?;
        Ok(ask.query_map([now, limit], read)?.collect::<rusqlite::Result<_>>()?)
    }

    /// Writes an entry.
    pub fn put_entry(&mut self, e: &StateEntry) -> StoreResult<()> {
        self.writing()?;
        let sql = "INSERT OR REPLACE INTO state VALUES (?1,?2,?3,?4,?5,?6,?7)";
        self.db.prepare_cached(sql)?.execute(params![
            e.namespace,
            e.key,
            e.value,
            e.version,
            e.by,
            e.updated,
            e.expires
        ])?;
        Ok(())
    }

    /// The next time at which an entry expires.
    pub fn next_entry_expiry(&self) -> StoreResult<Option<i64>> {
        let sql = "SELECT min(expires) FROM state WHERE expires IS NOT NULL";
        Ok(self.db.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    /// Entries whose time is up.
    pub fn expired_entries(&self, now: i64, limit: i64) -> StoreResult<Vec<StateEntry>> {
        let sql = format!("{COLUMNS} WHERE expires IS NOT NULL AND expires <= ?1 ORDER BY expires LIMIT ?2");
        let mut ask = self.db.prepare_cached(&sql)?;
        let rows = ask.query_map([now, limit], read)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Forgets deleted entries last touched before `before`.
    pub fn prune_entries(&mut self, before: i64, limit: i64) -> StoreResult<usize> {
        self.writing()?;
        let sql = "DELETE FROM state WHERE rowid IN \
                   (SELECT rowid FROM state WHERE value IS NULL AND updated < ?1 LIMIT ?2)";
        Ok(self.db.prepare_cached(sql)?.execute([before, limit])?)
    }
}
