//! Checks a database file in which damage was found.

use super::{Store, StoreError, StoreResult};

impl Store {
    /// Checks the whole file and builds its indexes anew, which is slow for a large file. SQLite's checks do not compare
    /// a partial index with its table, so without the new indexes, a query could find the same damage again.
    ///
    /// # Errors
    /// `Corrupt` if new indexes do not repair the damage. If the structure of the file is damaged, nothing is written
    /// to it.
    pub fn check_and_reindex(&self) -> StoreResult<()> {
        self.check("quick_check")?;
        let reindexed = self.run("REINDEX");
        // If a unique index can't be built because its table is damaged, this check says so.
        self.check("integrity_check")?;
        reindexed
    }

    fn check(&self, pragma: &str) -> StoreResult<()> {
        let found: String = self.db.query_row(&format!("PRAGMA {pragma}(1)"), [], |row| row.get(0))?;
        if found == "ok" { Ok(()) } else { Err(StoreError::Corrupt(format!("{pragma} found: {}", found.trim()))) }
    }
}
