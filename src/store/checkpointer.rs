//! A second connection to the database, for a separate thread. This thread copies the write-ahead log into the database
//! file, and copies the whole database for another hub.

use super::StoreResult;
use rusqlite::Connection;
use std::path::Path;

/// If the log has at least this many bytes after a run of the checkpointer, the writer copies the rest of the log
/// itself.
const LONG_LOG_BYTES: i64 = 12 << 20;

/// Copies the write-ahead log into the database file on a separate thread, so that no call waits for the disk.
#[derive(Debug)]
pub struct Checkpointer(Connection);

impl Checkpointer {
    /// Opens a second connection to the database in this file.
    pub(super) fn open(path: &str) -> StoreResult<Checkpointer> {
        Ok(Checkpointer(Connection::open(path)?))
    }

    /// Writes a copy of the committed database into a new file.
    pub fn copy_to(&self, path: &Path) -> StoreResult<()> {
        let mut copy = self.0.prepare("VACUUM INTO ?1")?;
        copy.query([path.to_string_lossy()])?.next()?;
        Ok(())
    }

    /// The size of the committed database, in bytes.
    pub fn size(&self) -> StoreResult<u64> {
        let size = |pragma: &str| self.0.query_row(pragma, [], |row| row.get::<_, i64>(0));
        Ok((size("PRAGMA page_count")? * size("PRAGMA page_size")?).unsigned_abs())
    }

    /// Copies the log into the database. The writer can restart the log only once all of it has been copied, so this
    /// function repeats the copying, up to four times in all, until nothing is left to copy. Returns whether the log is
    /// so long that the writer should copy the rest itself, because the writer may add changes faster than this thread
    /// copies them.
    pub fn run(&self) -> StoreResult<bool> {
        let mut n_pages = 0;
        for _ in 0..4 {
            let (log, moved) = copy_log(&self.0)?;
            n_pages = log;
            if log == moved {
                break;
            }
        }
        Ok(n_pages >= pages(&self.0, LONG_LOG_BYTES)?)
    }
}

/// Copies the log into the database without waiting for readers. Returns how many pages the log has, and how many of
/// them are in the database now.
pub(super) fn copy_log(db: &Connection) -> StoreResult<(i64, i64)> {
    Ok(db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)))?)
}

/// How many pages of the database this many bytes take up.
pub(super) fn pages(db: &Connection, bytes: i64) -> StoreResult<i64> {
    let page_bytes: i64 = db.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    Ok(bytes / page_bytes)
}
