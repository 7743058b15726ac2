//! Recognises a broker that is starting. Clients can't connect to it yet, so it writes into its lock file what it does.

use super::data_dir::DataDir;
use super::file_lock_with_timeout;
use crate::base::error::{Error, ErrorKind};
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;

/// While a broker starts, the text in its lock file begins with this. When the broker is ready, the lock file is empty.
const STARTING: &str = "starting: ";

/// A broker to which clients can't connect yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartingBroker {
    /// The process id, if the kernel reports it.
    pid: Option<i64>,
    /// What the broker does, such as `it is opening the database`.
    work: String,
}

/// Writes into the lock file what the starting broker (this process) is doing.
///
/// # Errors
/// If the disk is full.
pub fn note(lock: &File, work: &str) -> io::Result<()> {
    lock.write_all_at(format!("{STARTING}{work}\n").as_bytes(), 0)
}

/// Empties the lock file, so that clients do not believe that this process is a starting broker.
///
/// # Errors
/// If the file can't be written.
pub fn note_end(lock: &File) -> io::Result<()> {
    lock.set_len(0)
}

/// The broker that is starting in this data directory.
pub fn find(places: &DataDir) -> Option<StartingBroker> {
    let text = places.read(&places.broker_lock())?;
    let work = text.strip_prefix(STARTING)?.trim_end();
    let file = File::open(places.broker_lock()).ok()?;
    // If the broker was killed, its text is still in the file, but its lock is gone.
    let is_held = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    is_held.then(|| StartingBroker { pid: file_lock_with_timeout::holder(&file), work: work.to_owned() })
}

impl StartingBroker {
    /// What this broker does, as a sentence.
    pub fn describe(&self) -> String {
        let process = self.pid.map(|pid| format!(" (PID {pid})")).unwrap_or_default();
        format!("the broker{process} is still starting: {}", self.work)
    }

    /// The error for a client that has waited long enough for this broker.
    pub fn error(&self) -> Error {
        Error::new(ErrorKind::Gone, format!("{}; try again in a moment", self.describe()))
    }
}
