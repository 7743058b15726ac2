//! The files of a running broker: the lock, the database, the socket, and the files through which clients of slm-mesh
//! 1.x find the broker.
//!
//! **Invariant:** the broker removes and replaces only its own files, which it recognises by their inodes.

use super::{database, single_instance};
use crate::base::error::Error;
use crate::broker::decide_when_to_shut_down::ShutdownReason;
use crate::broker::log;
use crate::sys::broker_startup_progress;
use crate::sys::data_dir::DataDir;
use mio::net::UnixListener;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The delay between a change to the directory and the check of the broker's files, in ms.
const SETTLES_MS: i64 = 150;

/// Identifies a file independently of its path, by device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId(u64, u64);

impl FileId {
    /// Identifies the file at a path. A symbolic link is not followed.
    fn at(path: &Path) -> Option<FileId> {
        fs::symlink_metadata(path).ok().map(|meta| FileId(meta.dev(), meta.ino()))
    }

    /// Identifies the file to which the standard error output goes.
    fn of_standard_error() -> Option<FileId> {
        let output = std::io::stderr().as_fd().try_clone_to_owned().ok()?;
        File::from(output).metadata().ok().map(|meta| FileId(meta.dev(), meta.ino()))
    }
}

/// The result of checking the data directory.
#[derive(Debug)]
pub enum PathState {
    /// All files of this broker are in place.
    Ours,
    /// The socket was missing, and was created again.
    Healed(UnixListener),
    /// The files were removed or replaced, so another broker may be running in the directory.
    Displaced,
}

/// Identifies the files of an open database.
#[derive(Debug, PartialEq, Eq)]
struct DatabaseFiles {
    database: Option<FileId>,
    /// The write-ahead log of the database.
    log: Option<FileId>,
}

impl DatabaseFiles {
    fn at(places: &DataDir) -> DatabaseFiles {
        DatabaseFiles { database: FileId::at(&places.database()), log: FileId::at(&database::log_path(places)) }
    }
}

/// The files of a running broker.
#[derive(Debug)]
pub struct RuntimeFiles {
    places: DataDir,
    lock: File,
    lock_id: FileId,
    /// The files of the database; `None` while the standby thread owns the database and may replace it.
    database: Option<DatabaseFiles>,
    socket_id: Option<FileId>,
    token: String,
    port: Option<u16>,
    /// The file broker.log, if this broker's standard error output goes to this file.
    log_id: Option<FileId>,
    /// The file descriptor on which the kernel reports changes to the directories; `None` if the system can't report
    /// changes.
    events: Option<OwnedFd>,
    /// When to check the files next, in ms.
    look_at: i64,
    look_every: i64,
    /// Why the last attempt to write a file failed; `None` if it succeeded.
    failure: Option<String>,
    /// After a failed attempt to write files, the earliest time of the next attempt, in ms.
    write_again_at: i64,
}

impl RuntimeFiles {
    /// The data directory that contains these files.
    pub fn places(&self) -> &DataDir {
        &self.places
    }

    /// Binds the socket, and writes the files through which clients find this broker. `lock` makes this process the
    /// only broker. `port` is `None` without HTTP.
    ///
    /// # Errors
    /// When the socket can't be bound, or the directory was removed while the broker started.
    pub fn create(
        places: &DataDir,
        lock: File,
        token: String,
        port: Option<u16>,
        look_every: i64,
    ) -> Result<(RuntimeFiles, UnixListener), Error> {
        let meta = lock.metadata().map_err(|error| places.error("can't be read", &error))?;
        let listener = single_instance::bind_socket(places)?;
        // If this fails, clients still reach the broker, because they try the socket before they read the lock file.
        let _ = broker_startup_progress::note_end(&lock);
        let mut own = RuntimeFiles {
            lock_id: FileId(meta.dev(), meta.ino()),
            database: Some(DatabaseFiles::at(places)),
            socket_id: FileId::at(&places.socket()),
            places: places.clone(),
            lock,
            token,
            port,
            log_id: FileId::of_standard_error().filter(|id| FileId::at(&places.log()) == Some(*id)),
            events: None,
            look_at: 0,
            look_every,
            failure: None,
            write_again_at: 0,
        };
        own.report(single_instance::write_files(places, port));
        Ok((own, listener))
    }

    /// Forgets the files of the database, because the standby thread may replace them.
    pub fn leave_database(&mut self) {
        self.database = None;
    }

    /// Records the files of the database that this broker has just opened.
    pub fn adopt_database(&mut self) {
        self.database = Some(DatabaseFiles::at(&self.places));
    }

    /// Makes the poll report changes to the directories. The events for these changes have the token `token`. If the
    /// system can't report changes, only the regular check finds them.
    pub fn watch(&mut self, registry: &Registry, token: Token) {
        self.events = watch_directories(&self.places).ok();
        if let Some(events) = &self.events
            && registry.register(&mut SourceFd(&events.as_raw_fd()), token, Interest::READABLE).is_err()
        {
            self.events = None;
        }
    }

    /// Records that the directory has changed, and plans a check after a short delay. The check creates missing files
    /// again. Without the delay, the check could create files while a user is removing the directory, and so prevent
    /// the removal.
    pub fn note_change(&mut self, now: i64) {
        if let Some(events) = &self.events {
            // The check compares all files, so the events themselves do not matter. All events are read, so that the
            // next change causes a new event.
            while rustix::io::read(events, &mut [0; 4096]).is_ok_and(|n| n > 0) {}
        }
        self.look_at = self.look_at.min(now + SETTLES_MS);
    }

    /// When to check the files next, in ms.
    pub fn deadline(&self) -> i64 {
        self.look_at
    }

    /// Whether the lock file in the directory is still the file that this broker has locked. Each turn that changes the
    /// mesh calls this function, so that the broker grants no locks after its directory has been removed. A call costs
    /// one system call.
    pub fn holds_path(&self) -> bool {
        FileId::at(&self.places.broker_lock()) == Some(self.lock_id)
    }

    /// Checks whether the files in the directory are still this broker's files. Creates missing files again where
    /// possible.
    pub fn look(&mut self, now: i64) -> PathState {
        self.look_at = now + self.look_every;
        if !self.holds_path() || self.is_database_replaced() {
            return PathState::Displaced;
        }
        if self.is_log_removed() {
            log("broker.db-wal was removed; this broker still has the file open, so it now writes the content of the \
                 file into broker.db, and then ends");
            return PathState::Displaced;
        }
        let healed = self.heal_socket();
        if now >= self.write_again_at {
            let written = self.heal_log().and_then(|()| self.heal_files());
            // A failed attempt removes its temporary file. The removal changes the directory and causes another check,
            // which must not write again at once.
            self.write_again_at = if written.is_err() { now + self.look_every } else { 0 };
            self.report(written);
        }
        match healed {
            Ok(None) => PathState::Ours,
            Ok(Some(listener)) => PathState::Healed(listener),
            Err(error) => {
                log(&error.text);
                PathState::Ours
            }
        }
    }

    /// If the socket is missing, creates it again, and returns the new socket.
    fn heal_socket(&mut self) -> Result<Option<UnixListener>, Error> {
        if FileId::at(&self.places.socket()) == self.socket_id {
            return Ok(None);
        }
        self.places.prepare()?;
        let listener = single_instance::bind_socket(&self.places)?;
        self.socket_id = FileId::at(&self.places.socket());
        if let Some(events) = &self.events {
            // The socket's directory may be new. If it can't be watched, the regular check still finds changes.
            let _ = add_watches(events, &self.places);
        }
        log("the socket was removed or replaced; it has been created again");
        Ok(Some(listener))
    }

    /// If broker.log was moved or removed, for example to limit its size, creates it again, and writes to the new file
    /// from now on.
    fn heal_log(&mut self) -> Result<(), Error> {
        if self.log_id.is_none() || FileId::at(&self.places.log()) == self.log_id {
            return Ok(());
        }
        let file = self.places.open_log()?;
        rustix::stdio::dup2_stderr(&file).map_err(|error| self.places.error("can't be written", &error.into()))?;
        self.log_id = FileId::at(&self.places.log());
        Ok(())
    }

    /// Writes the token, PID and port files again if they are missing.
    fn heal_files(&self) -> Result<(), Error> {
        if !self.places.token().exists() {
            self.places.write(&self.places.token(), &self.token)?;
        }
        if self.has_own_pid() && (self.port.is_none() || self.places.port().exists()) {
            return Ok(());
        }
        single_instance::write_files(&self.places, self.port)
    }

    /// Logs why a file could not be written, once for each reason. The broker continues, because its own clients need
    /// only the socket. A later check writes the file.
    fn report(&mut self, written: Result<(), Error>) {
        let failure = written.err().map(|error| error.text);
        if failure != self.failure
            && let Some(text) = &failure
        {
            log(text);
        }
        self.failure = failure;
    }

    /// Removes the files through which clients find this broker, if they belong to this broker.
    pub fn remove(&self, reason: ShutdownReason) {
        // A socket that remains is harmless, because no broker listens on it.
        if FileId::at(&self.places.socket()) == self.socket_id {
            let _ = fs::remove_file(self.places.socket());
        }
        if self.holds_path() && self.has_own_pid() {
            for path in [self.places.pid(), self.places.port()] {
                // A file that remains is harmless, because no broker listens on the port in it.
                let _ = fs::remove_file(path);
            }
        }
        // If somebody has removed the write-ahead log, the database may have been changed as well. So the next broker
        // must check the database.
        if reason == ShutdownReason::Damaged || self.is_log_removed() {
            database::mark_suspect(&self.places);
        }
    }

    /// Releases the lock. Nothing may be written afterwards.
    pub fn release_lock(self) {
        let log = database::log_path(&self.places);
        let is_own_log = self.database.as_ref().is_some_and(|files| FileId::at(&log) == files.log);
        if self.holds_path() && self.is_database_replaced() && is_own_log {
            // SQLite would apply the old write-ahead log to the new database, so the log is removed.
            let _ = fs::remove_file(log);
        }
        drop(self.lock);
    }

    fn is_database_replaced(&self) -> bool {
        self.database.as_ref().is_some_and(|files| FileId::at(&self.places.database()) != files.database)
    }

    /// Whether the write-ahead log of this broker's database was removed or replaced. In this case, all writes from now
    /// on are lost if this broker is killed.
    fn is_log_removed(&self) -> bool {
        let is_same = |file: &FileId| FileId::at(&database::log_path(&self.places)).as_ref() == Some(file);
        self.holds_path()
            && self.database.as_ref().and_then(|files| files.log.as_ref()).is_some_and(|log| !is_same(log))
    }

    fn has_own_pid(&self) -> bool {
        self.places.read(&self.places.pid()).is_some_and(|pid| pid.trim() == std::process::id().to_string())
    }
}

/// Makes the kernel report changes to the data directory, and to the directory of the socket.
#[cfg(target_os = "linux")]
fn watch_directories(places: &DataDir) -> std::io::Result<OwnedFd> {
    use rustix::fs::inotify::{CreateFlags, init};
    let events = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    add_watches(&events, places)?;
    Ok(events)
}

/// Makes the kernel report when files are removed or moved, and when the directories themselves are removed or renamed.
/// A directory that is already watched stays watched.
#[cfg(target_os = "linux")]
fn add_watches(events: &OwnedFd, places: &DataDir) -> std::io::Result<()> {
    use rustix::fs::inotify::{WatchFlags, add_watch};
    let gone = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::DELETE;
    for dir in std::iter::once(places.dir.clone()).chain(places.runtime_dir()) {
        add_watch(events, &dir, gone | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO)?;
    }
    Ok(())
}

/// On this system, only the regular check finds changes.
#[cfg(not(target_os = "linux"))]
fn watch_directories(_: &DataDir) -> std::io::Result<OwnedFd> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// On this system, only the regular check finds changes.
#[cfg(not(target_os = "linux"))]
fn add_watches(_: &OwnedFd, _: &DataDir) -> std::io::Result<()> {
    Ok(())
}
