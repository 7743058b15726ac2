//! A second connection to the database, for a separate thread. The thread copies changes from the write-ahead log to
//! the database file. It can also copy the whole database for another hub.

use super::{Store, StoreResult};
use crate::base::path_suffix::with_suffix;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// If the write-ahead log is at least this long after the checkpointer has run, the writing thread copies the rest of
/// the log itself.
const LONG_LOG_BYTES: i64 = 12 << 20;

/// `empty_left_log` waits at most this long for other programs that read the database.
const READERS_WAIT: Duration = Duration::from_millis(500);

/// Copies the write-ahead log into the database file. Uses a separate thread, so that no call waits for the disk.
#[derive(Debug)]
pub struct Checkpointer {
    db: Connection,
    unsynced_log: Option<PathBuf>,
}

impl Checkpointer {
    /// Opens a second connection to the database file at this path. `is_synced` says whether each commit waits until
    /// the log is on the disk.
    pub(super) fn open(path: &Path, is_synced: bool) -> StoreResult<Checkpointer> {
        let unsynced_log = (!is_synced).then(|| with_suffix(path, "-wal"));
        Ok(Checkpointer { db: Connection::open(path)?, unsynced_log })
    }

    /// The path of the write-ahead log, if commits do not wait until the log is on the disk.
    pub fn unsynced_log(&self) -> Option<&Path> {
        self.unsynced_log.as_deref()
    }

    /// Writes a copy of all committed data into a new database file.
    pub fn copy_to(&self, path: &Path) -> StoreResult<()> {
        // SQLite accepts only text as the path. But the path might not be UTF-8, so it is passed as bytes, and the
        // statement converts it to text.
        let mut copy = self.db.prepare("VACUUM INTO CAST(?1 AS TEXT)")?;
        copy.query([path.as_os_str().as_encoded_bytes()])?.next()?;
        Ok(())
    }

    /// The size of all committed data, in bytes.
    pub fn size(&self) -> StoreResult<u64> {
        let size = |pragma: &str| self.db.query_row(pragma, [], |row| row.get::<_, i64>(0));
        Ok((size("PRAGMA page_count")? * size("PRAGMA page_size")?).unsigned_abs())
    }

    /// Copies the write-ahead log into the database file. The writing thread can reuse the log only after all of it has
    /// been copied. This function therefore copies up to four times, until nothing is left.
    ///
    /// Returns whether the log is still too long. This happens if the writing thread adds changes faster than this
    /// function copies them. The writing thread should then copy the rest itself.
    pub fn run(&self) -> StoreResult<bool> {
        let mut n_pages = 0;
        for _ in 0..4 {
            let (log, moved) = copy_log(&self.db)?;
            n_pages = log;
            if log == moved {
                break;
            }
        }
        Ok(n_pages >= pages(&self.db, LONG_LOG_BYTES)?)
    }
}

impl Store {
    /// Copies the write-ahead log of a killed broker into the database file, and empties the log. Call this function
    /// only while no broker uses the database.
    ///
    /// # Errors
    /// When the file can't be written, or is not a database. If another program reads the database, the log may remain,
    /// but no error is returned.
    pub fn empty_left_log(path: &Path) -> StoreResult<()> {
        let db = Connection::open(path)?;
        db.busy_timeout(READERS_WAIT)?;
        // SQLite finds the log when it first reads the file.
        db.query_row("PRAGMA user_version", [], |_| Ok(()))?;
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        db.close().map_err(|(_, error)| error.into())
    }
}

/// Copies the write-ahead log into the database file, without waiting for readers. Returns the number of pages in the
/// log and the number of copied pages.
pub(super) fn copy_log(db: &Connection) -> StoreResult<(i64, i64)> {
    Ok(db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get("log")?, row.get("checkpointed")?)))?)
}

/// Converts a size in bytes to a number of database pages.
pub(super) fn pages(db: &Connection, bytes: i64) -> StoreResult<i64> {
    let page_bytes: i64 = db.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    Ok(bytes / page_bytes)
}
