//! The reasons why a call to the store can fail, and the error messages for users.

use super::integrity_check;
use rusqlite::{ErrorCode, ffi};

/// The reason why a call to the store failed.
#[derive(Debug)]
pub enum StoreError {
    /// A newer slm-mesh has written the database or a changeset. Contains the version of the format, and the newest
    /// version that this slm-mesh knows.
    Newer(i64, i64),
    /// The file is damaged, or it is not a database.
    Corrupt(String),
    /// The disk is full.
    Full,
    /// The operating system can't write the file, although the disk is not full.
    Unwritable(String),
    /// Any other error, such as one that SQLite reports.
    Sql(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        let extended_code = error.sqlite_error().map_or(0, |error| error.extended_code);
        match error.sqlite_error_code() {
            _ if integrity_check::shows_damage(&error) => StoreError::Corrupt(error.to_string()),
            Some(ErrorCode::DiskFull) => StoreError::Full,
            // SQLite reports this code if it can't enlarge its shared-memory file. The original error is lost. Nearly
            // always, the cause is a full disk.
            _ if extended_code == ffi::SQLITE_IOERR_SHMSIZE => StoreError::Full,
            _ if extended_code == ffi::SQLITE_IOERR_WRITE => StoreError::Unwritable(error.to_string()),
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
                 which keeps everything that is still readable"
            ),
            StoreError::Full => {
                f.write_str("the disk that holds the data directory is full; free some space and try again")
            }
            StoreError::Unwritable(why) => write!(
                f,
                "the database can't be written ({why}); check the disk, its quota, and the limit on file sizes (ulimit \
                 -f) that applied when the broker was started"
            ),
            StoreError::Sql(why) => {
                write!(
                    f,
                    "the database can't be written or read ({why}); check the disk that holds the data directory, run \
                     slm-mesh stop, and try again with a new broker"
                )
            }
        }
    }
}

/// The result of a call to the store.
pub type StoreResult<T> = Result<T, StoreError>;
