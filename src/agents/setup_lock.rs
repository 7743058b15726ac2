//! The lock that `setup` holds while it edits a file and records the edit. Without this lock, two runs at the same time
//! could overwrite each other's records. After that, `--remove` could not restore all bytes of the file.

use crate::sys::data_dir::DataDir;
use crate::sys::file_lock_with_timeout::{LockWait, is_at};
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long to wait for another run of `setup`. One edit takes milliseconds.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// The lock, held until this value is dropped. The lock file is then removed, so that `setup --remove` leaves nothing
/// behind. If `setup` created the data directory and it is empty, it is removed too.
#[derive(Debug)]
pub struct SetupLock {
    path: PathBuf,
    file: File,
    is_own_directory: bool,
}

impl SetupLock {
    /// Waits until no other run of `setup` holds the lock, and then takes the lock.
    ///
    /// # Errors
    /// If the lock can't be created, or if another run holds it for too long.
    pub fn take(places: &DataDir) -> Result<SetupLock, String> {
        let path = places.dir.join("setup.lock");
        let end = Instant::now() + WAIT_MAX;
        // Another run may have created the directory a moment ago. In this case, the directory stays until that run
        // removes it.
        let mut is_own_directory = false;
        while Instant::now() < end {
            is_own_directory |= !places.dir.exists();
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&places.dir);
            made.map_err(|error| places.error("can't be created", &error).text)?;
            let file = match places.open_lock(&path) {
                Ok(file) => file,
                // Another run has just removed the last record, and the directory with it.
                Err(_) if !places.dir.exists() => continue,
                Err(error) => return Err(error.text),
            };
            let wait = LockWait::begin(file).for_time(end.saturating_duration_since(Instant::now()));
            let Some(file) = wait.map_err(|error| places.error("can't be locked", &error).text)? else { break };
            // If the previous holder removed this lock file, another run may have locked a new file at the same path,
            // so this run tries again.
            if is_at(&file, &path) {
                return Ok(SetupLock { path, file, is_own_directory });
            }
        }
        Err(format!("another run of slm-mesh setup holds {}; wait until that run has ended", path.display()))
    }
}

impl SetupLock {
    /// Whether `setup` created the data directory.
    pub fn is_own_directory(&self) -> bool {
        self.is_own_directory
    }

    /// Remembers that an earlier run of `setup` created the data directory.
    pub fn own_directory(&mut self) {
        self.is_own_directory = true;
    }
}

impl Drop for SetupLock {
    fn drop(&mut self) {
        // If the file stays, the next run locks the same file.
        let _ = fs::remove_file(&self.path);
        if self.is_own_directory {
            // The directory stays if it contains other files.
            let _ = self.path.parent().map(fs::remove_dir);
        }
        // It is not enough to close the file. If a child process had a copy of the descriptor, the lock would stay.
        let _ = self.file.unlock();
    }
}
