//! Opens the database. A damaged database is set aside under a name with the date, and is never deleted.

use crate::base::error::Error;
use crate::base::time;
use crate::broker::log;
use crate::store::{Store, StoreError};
use crate::sys::data_dir::DataDir;
use crate::sys::settings::Settings;
use crate::sys::{self, Clock};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// How a person can move the database of a hub to another log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogChange {
    /// etcd has lost the log, so this database begins a new one.
    BeginNew,
    /// The database can't follow the log in etcd, which is a different log or was restored from an old backup. The
    /// database is set aside, and this hub gets a copy of the leader's database.
    Rejoin,
}

/// The beginning of the name that a damaged database gets when it is set aside. The time follows.
const ASIDE: &str = "broker.db.damaged-";
/// The beginning of the name that a database gets when a hub sets it aside to join another mesh. The time follows.
const LEFT: &str = "broker.db.before-rejoin-";
/// SQLite forms the names of a database's files by appending these to the name of the database.
const FILE_SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// Opens the store, and starts a clock that is never earlier than the last committed time.
pub(super) fn open_with_clock(places: &DataDir, settings: &Settings) -> Result<(Store, Clock), Error> {
    let store = open(places, settings)?;
    let (store, floor) = match store.last_time() {
        Ok(floor) => (store, floor),
        Err(_) => {
            drop(store);
            mark_suspect(places);
            let store = open(places, settings)?;
            let floor = store.last_time()?;
            (store, floor)
        }
    };
    let clock = start_clock(places, &store, floor);
    Ok((store, clock))
}

/// Starts the clock of this broker. If locks are in force, this clock continues from the clock of the last broker. So a
/// change of the wall clock between the two brokers does not end the lease of a live session.
fn start_clock(places: &DataDir, store: &Store, floor: i64) -> Clock {
    let saved = fs::read_to_string(places.clock()).unwrap_or_default();
    // If the table of locks can't be read, the damage is found when the mesh is opened.
    let has_locks = store.has_locks().unwrap_or(false);
    let resumed = Clock::resume(&saved, floor).filter(|_| has_locks);
    let clock = resumed.unwrap_or_else(|| Clock::start(floor));
    if let Some(text) = clock.save()
        && let Err(error) = places.write(&places.clock(), &text)
    {
        // A broker on a full disk still answers questions. Without the file, the next broker's clock continues from the
        // last committed time.
        log(&error.text);
    }
    clock
}

/// Opens the store. If an earlier broker left a note that the file may be damaged, the whole file is checked.
pub(super) fn open(places: &DataDir, settings: &Settings) -> Result<Store, Error> {
    let is_synced = settings.text("SLM_MESH_SYNC") == "full";
    let path = places.database();
    let opened = Store::open(&path, is_synced).and_then(|store| {
        if places.suspect().exists() {
            store.check_and_reindex()?;
            log("the database was checked, because an earlier broker found damage in it; its indexes were rebuilt");
        }
        Ok(store)
    });
    let store = match opened {
        Ok(mut store) => {
            // If several hubs share a log, their numbers come from the log. A hub that has just fetched a snapshot has
            // no file of reserved numbers, although no numbers are lost.
            if store.log_position().is_ok_and(|position| position.is_none()) {
                replace_lost_numbers(&mut store)?;
            }
            store
        }
        Err(StoreError::Corrupt(why)) => {
            set_aside(places, &why)?;
            let mut store = Store::open(&path, is_synced)?;
            // The new sequence numbers continue from the time in milliseconds, which is higher than any number in the
            // old file.
            store.raise(sys::wall_ms())?;
            store
        }
        Err(error) => return Err(error.into()),
    };
    // The note is no longer needed, because the file has been checked. The removal fails if there was no note.
    let _ = fs::remove_file(places.suspect());
    for suffix in FILE_SUFFIXES {
        // A failure is harmless, because the directory itself is private.
        let _ = fs::set_permissions(with_suffix(&path, suffix), fs::Permissions::from_mode(0o600));
    }
    Ok(store)
}

/// If the file of reserved numbers was lost, makes new numbers continue from the time in milliseconds.
fn replace_lost_numbers(store: &mut Store) -> Result<(), Error> {
    if store.has_lost_reserved_numbers() {
        store.raise(sys::wall_ms())?;
        log(
            "broker.numbers is missing, so broker.db may come from a backup; new messages and events get numbers that \
             continue from the current time, so that no number is used twice",
        );
    }
    Ok(())
}

fn set_aside(places: &DataDir, why: &str) -> Result<(), Error> {
    let aside = move_aside(places, ASIDE)?;
    log(&format!("THE DATABASE IS DAMAGED ({why}): it was moved to {}, and the mesh starts empty", aside.display()));
    Ok(())
}

/// Renames the files of the database. The new name consists of this prefix and the time.
fn move_aside(places: &DataDir, prefix: &str) -> Result<PathBuf, Error> {
    let path = places.database();
    let aside = places.dir.join(format!("{prefix}{}", file_time(sys::wall_ms())));
    for suffix in FILE_SUFFIXES {
        let part = with_suffix(&path, suffix);
        if part.exists() {
            fs::rename(&part, with_suffix(&aside, suffix)).map_err(|error| places.error("can't be written", &error))?;
        }
    }
    Ok(aside)
}

/// Moves the database to another log. The caller must hold the broker lock.
pub(super) fn change_log(places: &DataDir, settings: &Settings, change: LogChange) -> Result<(), Error> {
    match change {
        LogChange::BeginNew => {
            let mut store = open(places, settings)?;
            store.leave_log()?;
            // Other hubs may have given out numbers that this hub has never seen.
            Ok(store.raise(sys::wall_ms())?)
        }
        LogChange::Rejoin => {
            if places.database().exists() {
                let aside = move_aside(places, LEFT)?;
                log(&format!(
                    "this hub joins the mesh whose log is in etcd; the hub's old database was moved to {}",
                    aside.display()
                ));
            }
            Ok(open(places, settings)?.join_log()?)
        }
    }
}

/// Leaves a note that makes the next broker check the whole file before it uses the database. Without the note, damage
/// would be found only when the damaged part of the file is read.
pub(super) fn mark_suspect(places: &DataDir) {
    // If the note can't be written, any damage is still found, but later.
    let _ = fs::write(places.suspect(), "");
}

/// The warning that a database was set aside after `started`, for the user who started this broker.
pub(super) fn set_aside_warning(places: &DataDir, started: i64) -> Option<String> {
    let since = file_time(started);
    let names = fs::read_dir(&places.dir).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut databases = names.filter(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
    let name = databases.find(|name| name.strip_prefix(ASIDE).is_some_and(|at| at >= since.as_str()))?;
    let path = places.dir.join(name);
    Some(format!("the database was damaged: it was moved to {}, and the mesh starts empty", path.display()))
}

/// A time in the form that is used in file names.
fn file_time(ms: i64) -> String {
    time::iso(ms).replace(':', "")
}

/// The path of the write-ahead log of the database.
pub(super) fn log_path(places: &DataDir) -> PathBuf {
    with_suffix(&places.database(), "-wal")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}
