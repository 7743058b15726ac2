//! Checks a database file that may be damaged.

use super::salvage::{columns, has_type, rebuild_event_blocks, tables};
use super::{Store, StoreError, StoreResult};
use rusqlite::Connection;
use rusqlite::types::FromSqlError;
use std::path::Path;

impl Store {
    /// Checks a backup before it replaces the database of this mesh. If the backup has a write-ahead log, SQLite copies
    /// the log into the backup.
    ///
    /// # Errors
    /// `Corrupt` if the file is damaged or is not an slm-mesh database. `Newer` if a newer slm-mesh wrote the file.
    pub fn check_backup(path: &Path) -> StoreResult<()> {
        let db = Connection::open(path)?;
        let (version, newest) =
            (db.query_row("PRAGMA user_version", [], |row| row.get(0))?, i64::from(Store::schema()));
        if version > newest {
            return Err(StoreError::Newer(version, newest));
        }
        if version < 1 || !tables(&db)?.iter().any(|table| table == "message") {
            return Err(StoreError::Corrupt("it is not an slm-mesh database".into()));
        }
        check(&db, "integrity_check")?;
        check_values(&db)?;
        // When the connection is closed, SQLite copies the write-ahead log into the database file and removes the log.
        db.close().map_err(|(_, error)| StoreError::from(error))
    }

    /// Checks the whole file and rebuilds all indexes. This takes a long time for a large file. The indexes are rebuilt
    /// because SQLite's checks do not compare a partial index with its table, so they would not find all damage to an
    /// index.
    ///
    /// # Errors
    /// `Corrupt` if anything except the indexes is damaged. If the structure of the file is damaged, nothing is written
    /// to the file.
    pub fn check_and_reindex(&self) -> StoreResult<()> {
        check(&self.db, "quick_check")?;
        let reindexed = self.run("REINDEX");
        // If a unique index can't be built because its table is damaged, this check returns a clearer error than
        // `REINDEX`.
        check(&self.db, "integrity_check")?;
        check_values(&self.db)?;
        reindexed?;
        rebuild_event_blocks(&self.db)
    }
}

/// Runs one of SQLite's own checks, such as `quick_check`.
fn check(db: &Connection, pragma: &str) -> StoreResult<()> {
    let found: String = db.query_row(&format!("PRAGMA {pragma}(1)"), [], |row| row.get(0))?;
    let found = found.trim_start_matches("*** in database main ***").trim();
    if found == "ok" { Ok(()) } else { Err(StoreError::Corrupt(format!("{pragma} found: {found}"))) }
}

/// Checks that each value has the type of its column. SQLite's own checks do not compare types.
fn check_values(db: &Connection) -> StoreResult<()> {
    for table in tables(db)? {
        let columns = columns(db, &table)?;
        let names: Vec<&str> = columns.iter().map(|(name, _)| &**name).collect();
        let mut query = db.prepare(&format!("SELECT {} FROM {table}", names.join(",")))?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            for (n, (name, declared)) in columns.iter().enumerate() {
                if !has_type(row.get_ref(n)?, declared) {
                    return Err(StoreError::Corrupt(format!("a value of {table}.{name} has the wrong type")));
                }
            }
        }
    }
    Ok(())
}

/// Whether an error shows that a value has the wrong type. A null does not count as a wrong type, because a query
/// without a matching row can return null, too.
pub(super) fn shows_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::InvalidColumnType(_, _, found) => *found != rusqlite::types::Type::Null,
        rusqlite::Error::Utf8Error(..) => true,
        // If a value that is read in place (with `get_ref`) has the wrong type or is not UTF-8, the read fails with one
        // of these errors. The error does not name the column.
        rusqlite::Error::FromSqlConversionFailure(_, _, cause) => {
            matches!(cause.downcast_ref(), Some(FromSqlError::InvalidType | FromSqlError::Utf8Error(_)))
        }
        _ => false,
    }
}
