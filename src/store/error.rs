//! Why a call to the store failed, in the words that users read.

use super::file_check;
use rusqlite::{ErrorCode, ffi};

/// Why a call to the store failed.
#[derive(Debug)]
pub enum StoreError {
    /// A newer slm-mesh has written the database or a changeset. The first number is the format that the newer slm-mesh
    /// used, and the second number is the newest format that this slm-mesh knows.
    Newer(i64, i64),
    /// The file is damaged, or it is not a database.
    Corrupt(String),
    /// The disk is full.
    Full,
    /// Any other error, such as one that SQLite reports.
    Sql(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        // A write to the file of shared memory fails with a code of its own, whatever the system says. In nearly all
        // cases, the disk is full.
        let is_memory_file_refused = error.sqlite_error().is_some_and(|e| e.extended_code == ffi::SQLITE_IOERR_SHMSIZE);
        match error.sqlite_error_code() {
            _ if file_check::shows_damage(&error) => StoreError::Corrupt(error.to_string()),
            Some(ErrorCode::DiskFull) => StoreError::Full,
            _ if is_memory_file_refused => StoreError::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt(error.to_string()),
            _ => StoreError::Sql(error.to_string()),
        }
    }
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoreError::Newer(theirs, ours) => write!(
                f,
                "the database was written by a newer slm-mesh (it has format {theirs}, but this version knows only \
                 {ours}); install the newer version again, or set SLM_MESH_DATA_DIR to another directory"
            ),
            StoreError::Corrupt(why) => write!(
                f,
                "the database is damaged ({why}), so this broker ends; run the command again to start a new broker, \
                 which keeps all that it can read"
            ),
            StoreError::Full => {
                f.write_str("the disk that holds the data directory is full; free some space and try again")
            }
            StoreError::Sql(why) => {
                write!(f, "the database can't be written or read ({why}); see broker.log in the data directory")
            }
        }
    }
}

/// The result of a call to the store.
pub type StoreResult<T> = Result<T, StoreError>;
