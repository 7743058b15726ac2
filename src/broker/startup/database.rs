//! Opens the database. A damaged database is never deleted. It is set aside under a name with the date, and everything
//! that can be read is copied into a new database.

use crate::base::broker_downtimes::Downtimes;
use crate::base::error::Error;
use crate::base::path_suffix::with_suffix;
use crate::broker::log;
use crate::core::locks;
use crate::store::{Salvage, Store, StoreError, StoreResult};
use crate::sys::data_dir::DataDir;
use crate::sys::settings::{STORE, Settings};
use crate::sys::{self, Clock, find_set_aside_databases, typescript_broker};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The ways in which a user can move the database of a hub to another log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogChange {
    /// etcd has lost the log, so this database begins a new one.
    BeginNew,
    /// The database does not fit the log in etcd. The database is set aside, and this hub gets a copy of the leader's
    /// database.
    Rejoin,
}

/// The temporary name of the new database that will replace a damaged one. It contains the readable rows of the damaged
/// database.
const SALVAGED: &str = "broker.db.salvaged";
/// The temporary name of the copy of a backup. The copy has been checked, and will replace the database.
pub(super) const RESTORED: &str = "broker.db.restored";
/// The suffixes that SQLite appends to the name of a database to form the names of its files.
pub(super) const FILE_SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

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

/// Starts the clock of this broker. If there are locks, the clock continues from the last broker's clock. If the clock
/// started anew, a change of the system time between the two brokers could end the lock of a live session. The clock
/// also continues if the newest time in the store is in the future. Otherwise, each new clock would start at that time
/// again, as if no time had passed without a broker.
fn start_clock(places: &DataDir, store: &Store, floor: i64) -> Clock {
    let saved = places.read(&places.clock()).unwrap_or_default();
    // If the table of locks can't be read, the damage is found when the mesh is opened.
    let has_locks = locks::has_locks(store).unwrap_or(false);
    let resumed = Clock::resume(&saved, floor).filter(|_| has_locks || floor > sys::wall_ms());
    let clock = resumed.unwrap_or_else(|| Clock::start(floor));
    let mut downtimes = Downtimes::parse(&saved);
    downtimes.note_start(floor, clock.now());
    let text = clock.save().unwrap_or_default() + &downtimes.to_text() + &typescript_broker::own_pid_line();
    if let Err(error) = places.write(&places.clock(), &text) {
        // The clock can't be saved, for example because the disk is full. The broker still works, and the next broker's
        // clock continues from the last committed time.
        log(&error.text);
    }
    clock
}

/// The times in which no broker ran, as this broker and the earlier ones have recorded them.
pub(super) fn downtimes(places: &DataDir) -> Downtimes {
    Downtimes::parse(&places.read(&places.clock()).unwrap_or_default())
}

/// Opens the store. If an earlier broker marked the file as suspect, the whole file is checked. If the file is damaged,
/// everything that can be read is copied into a new file.
pub(super) fn open(places: &DataDir, settings: &Settings) -> Result<Store, Error> {
    finish_replacement(places)?;
    let numbers = places.database().with_extension("numbers");
    for file in FILE_SUFFIXES.map(|suffix| with_suffix(&places.database(), suffix)).iter().chain([&numbers]) {
        // Lets only this user read and write the file. If this call fails, the directory still keeps the file private.
        let _ = fs::set_permissions(file, fs::Permissions::from_mode(0o600));
        places.require_writable(file)?;
    }
    let mut store = match try_open(places, settings) {
        Err(StoreError::Corrupt(why)) => {
            mark_suspect(places);
            let salvage = salvage(places, settings)?;
            set_damaged_aside(places, &why, salvage.as_ref(), shares_log(settings))?;
            let mut store = open_file(places, settings)?;
            if salvage.is_none() {
                // New sequence numbers start at the time in milliseconds, which is higher than any number in the old
                // file.
                store.raise(sys::wall_ms())?;
            }
            store
        }
        opened => opened?,
    };
    // On a hub that shares a log, all sequence numbers come from the log. So no numbers are lost even if the file of
    // reserved numbers is missing. It can be missing after a snapshot.
    if store.log_position().is_ok_and(|position| position.is_none()) {
        replace_lost_numbers(&mut store)?;
    }
    // The file has been checked, so the mark that made it suspect is removed. The removal fails if there was no mark.
    let _ = fs::remove_file(places.suspect());
    Ok(store)
}

fn open_file(places: &DataDir, settings: &Settings) -> StoreResult<Store> {
    Store::open(&places.database(), settings.text("SLM_MESH_SYNC") == "full")
}

/// Describes the work of a starting broker, for the clients that wait for it. Only the work on a large database takes
/// noticeable time.
pub(super) fn work_at_start(places: &DataDir) -> String {
    let path = places.database();
    let megabytes = fs::metadata(&path).map_or(0, |file| file.len().div_ceil(1_000_000));
    let work = if places.suspect().exists() {
        "checking"
    } else if Store::needs_upgrade(&path) {
        "upgrading"
    } else {
        "opening"
    };
    format!("it is {work} the database ({megabytes} MB)")
}

/// Opens the existing file. If the file is marked as suspect, checks it and rebuilds its indexes.
fn try_open(places: &DataDir, settings: &Settings) -> StoreResult<Store> {
    let store = open_file(places, settings)?;
    if places.suspect().exists() {
        store.check_and_reindex()?;
        log("the database was checked, because an earlier broker found damage in it; its indexes were rebuilt");
    }
    Ok(store)
}

/// Whether this hub shares its mesh with other hubs.
fn shares_log(settings: &Settings) -> bool {
    !settings.text(STORE).is_empty()
}

/// Copies everything readable from the damaged database into a new file. Returns `None` if nothing can be read, or if
/// rows are missing on a hub that shares a log.
///
/// # Errors
/// When the disk is full, or the new file can't get its final name. In these cases, the broker does not start, and the
/// next broker tries again. If the broker started with an empty mesh instead, more data would be lost.
fn salvage(places: &DataDir, settings: &Settings) -> Result<Option<Salvage>, Error> {
    let draft = draft_path(places);
    remove_database(&draft);
    let salvage = match Store::salvage(&places.database(), &draft, sys::wall_ms()) {
        Ok(salvage) => salvage,
        Err(StoreError::Full) => return Err(StoreError::Full.into()),
        Err(error) => {
            log(&format!("nothing in the damaged database can be read: {error}"));
            remove_database(&draft);
            return Ok(None);
        }
    };
    if shares_log(settings) && !salvage.is_complete() {
        // A database without some of its rows can't follow the log of the other hubs. This hub gets a copy of the
        // leader's database instead.
        remove_database(&draft);
        return Ok(None);
    }
    let renamed = fs::rename(&draft, places.dir.join(SALVAGED));
    renamed.map_err(|error| places.error("can't be written", &error))?;
    Ok(Some(salvage))
}

/// The path at which a new database is written. After a crash, `slm-mesh clean` removes the unfinished file.
pub(super) fn draft_path(places: &DataDir) -> PathBuf {
    places.database().with_extension(format!("new{}", std::process::id()))
}

/// Removes an unfinished new database.
pub(super) fn remove_database(draft: &Path) {
    for suffix in FILE_SUFFIXES {
        // The file may not exist. Any other failure is noticed when the new database is written.
        let _ = fs::remove_file(with_suffix(draft, suffix));
    }
}

/// Completes the replacement of the database if an earlier process was killed in the middle of it.
fn finish_replacement(places: &DataDir) -> Result<(), Error> {
    for (new, prefix) in [(SALVAGED, find_set_aside_databases::DAMAGED), (RESTORED, find_set_aside_databases::REPLACED)]
    {
        if places.dir.join(new).exists() {
            let aside = replace_database(places, new, prefix)?;
            log(&format!("{new} is the database now; the old one was moved to {}", aside.display()));
        }
    }
    Ok(())
}

/// Moves the database aside, and moves the file `new` to the path of the database. If this process is killed in
/// between, the next broker finds the file `new`, and completes the replacement.
pub(super) fn replace_database(places: &DataDir, new: &str, prefix: &str) -> Result<PathBuf, Error> {
    let new = places.dir.join(new);
    let aside = match begun_move(places, &new, prefix) {
        Some(begun) => move_files(places, begun)?,
        None => move_aside(places, prefix)?,
    };
    let renamed = fs::rename(new, places.database());
    let synced = renamed.and_then(|()| fs::File::open(&places.dir)?.sync_all());
    synced.map_err(|error| places.error("can't be written", &error))?;
    Ok(aside)
}

/// If the file of reserved numbers was lost or damaged, makes new numbers start at the current time in milliseconds.
fn replace_lost_numbers(store: &mut Store) -> Result<(), Error> {
    if store.has_lost_reserved_numbers() {
        store.raise(sys::wall_ms())?;
        log("broker.numbers is missing or damaged, so broker.db may come from a backup; new messages, events and \
             locks get numbers that start at the current time in milliseconds, so that no number is used twice");
    }
    Ok(())
}

/// Moves the damaged database aside, replaces it if any rows were salvaged, and reports what happened.
fn set_damaged_aside(places: &DataDir, why: &str, salvage: Option<&Salvage>, is_hub: bool) -> Result<(), Error> {
    let aside = match salvage {
        Some(_) => replace_database(places, SALVAGED, find_set_aside_databases::DAMAGED)?,
        None => move_aside(places, find_set_aside_databases::DAMAGED)?,
    };
    let result = match salvage {
        None if is_hub => "this hub needs a copy from the hub that leads".into(),
        None => "nothing in it can be read, and the mesh starts empty".into(),
        Some(salvage) if salvage.is_complete() => {
            "all its rows were copied into a new database, and nothing was lost".into()
        }
        Some(salvage) => {
            format!("its readable rows were copied into a new database, and some rows are lost: {salvage}")
        }
    };
    let moved = format!("it was moved to {}; {result}", aside.display());
    log(&format!("THE DATABASE IS DAMAGED ({why}): {moved}"));
    if let Err(error) =
        find_set_aside_databases::write_report(places, &aside, &format!("the database was damaged: {moved}"))
    {
        log(&error.text);
    }
    Ok(())
}

/// Moves the database aside. Its new name consists of `prefix` and the time.
fn move_aside(places: &DataDir, prefix: &str) -> Result<PathBuf, Error> {
    move_files(places, find_set_aside_databases::path(places, prefix, sys::wall_ms()))
}

/// The path to which a killed process has begun to move the database. The process has moved the write-ahead log, but
/// not the database itself. If the database were moved to another path, it would lose its log. Only logs that were
/// moved after the file `new` was written belong to this database.
fn begun_move(places: &DataDir, new: &Path, prefix: &str) -> Option<PathBuf> {
    let written = fs::metadata(new).and_then(|file| file.modified()).ok()?;
    let written = written.duration_since(UNIX_EPOCH).ok()?.as_millis() as i64;
    let has_log = log_path(places).exists();
    find_set_aside_databases::logs_without_database(places, prefix, written).pop().filter(|_| !has_log)
}

/// Renames the files of the database. The database itself is renamed last. If it were renamed first, and this process
/// were killed right after that, the next broker would apply the old write-ahead log to a new database.
fn move_files(places: &DataDir, aside: PathBuf) -> Result<PathBuf, Error> {
    let path = places.database();
    for suffix in FILE_SUFFIXES.into_iter().rev() {
        match fs::rename(with_suffix(&path, suffix), with_suffix(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(places.error("can't be written", &error));
            }
            _ => {}
        }
    }
    Ok(aside)
}

/// Moves the database to another log. The caller must hold the broker lock.
pub(super) fn change_log(places: &DataDir, settings: &Settings, change: LogChange) -> Result<(), Error> {
    match change {
        LogChange::BeginNew => {
            let mut store = open(places, settings)?;
            store.leave_lost_log()?;
            // Other hubs may have used higher numbers, so new numbers start at the current time.
            Ok(store.raise(sys::wall_ms())?)
        }
        LogChange::Rejoin => {
            if places.database().exists() {
                // If a killed broker has left changes in the write-ahead log, these changes are first copied into the
                // database. Otherwise, they could be lost if this process is killed after it has moved one of the two
                // files.
                if !is_complete(places)
                    && let Err(error) = Store::empty_left_log(&places.database())
                {
                    // The database is damaged or the disk is full. The hub moves this database aside anyway.
                    log(&error.to_string());
                }
                let aside = move_aside(places, find_set_aside_databases::LEFT)?;
                log(&format!(
                    "this hub joins the mesh whose log is in etcd; the hub's old database was moved to {}",
                    aside.display()
                ));
            }
            Ok(open(places, settings)?.join_log()?)
        }
    }
}

/// Marks the database as suspect, so that the next broker checks the whole file. Otherwise, damage would be found only
/// when the damaged part of the file is read.
pub(super) fn mark_suspect(places: &DataDir) {
    // If the mark can't be written, damage is still found, but later.
    let _ = fs::write(places.suspect(), "");
}

/// Returns a warning for the user if a database was set aside after `started`.
pub(super) fn set_aside_warning(places: &DataDir, started: i64) -> Option<String> {
    find_set_aside_databases::last_damaged(places, started).map(|damaged| damaged.report)
}

/// If a killed broker has left a write-ahead log, copies the log into the database file. After that, a copy of this
/// file is a complete backup. Returns whether the database file contains everything.
pub fn complete_database_file(places: &DataDir) -> bool {
    if !is_complete(places)
        && let Ok(lock) = places.open_lock(&places.broker_lock())
        && lock.try_lock().is_ok()
        && let Err(error) = Store::empty_left_log(&places.database())
    {
        log(&error.to_string());
    }
    is_complete(places)
}

/// Whether the database file contains everything. It does if the write-ahead log is empty or missing.
fn is_complete(places: &DataDir) -> bool {
    !fs::metadata(log_path(places)).is_ok_and(|log| log.len() > 0)
}

/// Refuses a database that a newer slm-mesh has written. Changes nothing.
///
/// # Errors
/// If the database is newer than this slm-mesh.
pub fn refuse_newer_database(places: &DataDir) -> Result<(), Error> {
    Ok(Store::refuse_newer(&places.database())?)
}

/// The path of the write-ahead log of the database.
pub(super) fn log_path(places: &DataDir) -> PathBuf {
    with_suffix(&places.database(), "-wal")
}
