//! Shared state, as rows in the database. A deleted entry stays for a while as a tombstone, which is a row without
//! a value. The tombstone keeps the version, so that no compare-and-set mistakes a new entry for the deleted one.

use super::named_columns::{NamedColumns, placeholder, upsert_row};
use super::{Store, StoreResult};
use crate::base::ids::PeerId;
use rusqlite::{OptionalExtension, Row, params};

/// An entry of the shared state. In a deleted entry, `value` is `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct StateEntry {
    /// The namespace of the entry.
    pub namespace: String,
    /// The key of the entry.
    pub key: String,
    /// The value of the entry, unless the entry was deleted.
    pub value: Option<String>,
    /// How many times this key has changed, including deletions.
    pub version: i64,
    /// The peer that changed the entry last.
    pub by: PeerId,
    /// When the entry was last changed, in ms.
    pub updated: i64,
    /// When the entry expires, in ms.
    pub expires: Option<i64>,
}

impl StateEntry {
    /// Whether the entry is neither deleted nor expired.
    pub fn is_live(&self, now: i64) -> bool {
        self.value.is_some() && self.expires.is_none_or(|at| at > now)
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<StateEntry> {
    let mut row = NamedColumns::of(row);
    Ok(StateEntry {
        namespace: row.get("namespace")?,
        key: row.get("key")?,
        value: row.get("value")?,
        version: row.get("version")?,
        by: row.get::<String>("by")?.into(),
        updated: row.get("updated")?,
        expires: row.get("expires")?,
    })
}

impl Store {
    /// Returns an entry, even if the entry was deleted.
    pub fn entry(&self, namespace: &str, key: &str) -> StoreResult<Option<StateEntry>> {
        let mut query = self.db.prepare_cached("SELECT * FROM state WHERE namespace = ?1 AND key = ?2")?;
        Ok(query.query_row([namespace, key], read).optional()?)
    }

    /// The live entries of a namespace whose keys begin with `prefix` and sort after `after`.
    pub fn entries(
        &self,
        namespace: &str,
        prefix: &str,
        after: &str,
        now: i64,
        limit: i64,
    ) -> StoreResult<Vec<StateEntry>> {
        let sql = "SELECT * FROM state WHERE namespace = ?1 AND key >= ?2 AND key > ?3 \
                   AND substr(key, 1, length(?2)) = ?2 AND value IS NOT NULL AND (expires IS NULL OR expires > ?4) \
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
        })?;
        Ok(())
    }

    /// The next time at which an entry expires.
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

    /// The entries that were deleted at `since` or later, in the order of their deletion.
    pub fn deleted_entries(&self, since: i64, limit: i64) -> StoreResult<Vec<StateEntry>> {
        let sql = "SELECT * FROM state WHERE value IS NULL AND updated >= ?1 ORDER BY updated LIMIT ?2";
        let mut query = self.db.prepare_cached(sql)?;
        let rows = query.query_map([since, limit], read)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Removes deleted entries that were last changed before `before`. Returns how many were removed.
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
