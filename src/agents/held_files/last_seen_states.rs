//! Records the state in which a peer's hooks last saw each file that the peer holds. Each peer has one small file of
//! records. If a held file changes, the hooks of other sessions read these records to find out whether the holder
//! changed it.

use super::copies::make_private_dir;
use super::file_state::FileState;
use super::hashed;
use crate::base::limits;
use crate::sys::file_lock_with_timeout::{LockWait, is_at};
use crate::sys::regular_file::read_regular;
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Maximum size of a records file, in bytes. Hooks do not write larger files, so a larger file is not a records file.
const RECORDS_SIZE_MAX: u64 = 4 << 20;

/// How a file got into its recorded state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordedBy {
    /// The holder's hooks found the file in this state when they first saw it.
    FirstLook,
    /// A tool of the holder wrote the file, and the tool's input named the file.
    Edit,
    /// The file changed while a command of the holder ran.
    Command,
    /// A command of another peer changed the file, and the holder got a message about the change.
    Reported,
}

impl RecordedBy {
    const WORDS: &[(&'static str, RecordedBy)] = &[
        ("first", RecordedBy::FirstLook),
        ("edit", RecordedBy::Edit),
        ("command", RecordedBy::Command),
        ("reported", RecordedBy::Reported),
    ];

    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, by)| *by == self).map_or("first", |(word, _)| word)
    }

    fn from_word(word: &str) -> Option<RecordedBy> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, by)| *by)
    }
}

/// What the hooks of a lock's holder know about a locked file.
#[derive(Debug, Clone)]
pub struct HolderRecord {
    /// The path of the file.
    pub path: String,
    /// The fencing token of the lock. A new lock on the same file has a different token.
    pub token: i64,
    /// The state of the file.
    pub state: FileState,
    /// A hash of the file's content, if the file is small.
    pub hash: Option<u64>,
    /// How the file got into this state.
    pub by: RecordedBy,
    /// Whether the holder must still be told that somebody else has changed the file.
    pub is_news: bool,
}

/// The records of one peer. While they are open, no other hook can change them.
#[derive(Debug)]
pub struct HolderRecords {
    file: File,
    /// The records, from the oldest to the latest.
    pub records: Vec<HolderRecord>,
    was: String,
}

/// How long to wait for the lock on a records file. Another hook normally holds this lock for microseconds. A hook that
/// is stopped while it holds the lock must not block all other hooks.
const LOCK_WAIT: Duration = Duration::from_millis(200);

/// Locks a records file. Returns `None` if another hook holds the lock for too long.
fn locked(file: File) -> Option<File> {
    match file.try_lock() {
        Ok(()) => Some(file),
        Err(_) => LockWait::begin(file).for_time(LOCK_WAIT).ok()?,
    }
}

/// How many times a hook tries to open a records file if another hook keeps removing the file.
const OPEN_TRIES: usize = 3;

/// Opens and locks the file at a path. Another hook may remove the file between these two steps. In this case, opens
/// the path again, because records that are written into a removed file are lost.
fn locked_at(path: &Path, open: impl Fn() -> Option<File>) -> Option<File> {
    for _ in 0..OPEN_TRIES {
        let file = locked(open()?)?;
        if is_at(&file, path) {
            return Some(file);
        }
    }
    None
}

fn path_of(dir: &Path, peer: &str) -> PathBuf {
    dir.join(hashed(peer))
}

/// Reads the records of a peer; empty if there are none.
pub fn read_records(dir: &Path, peer: &str) -> Vec<HolderRecord> {
    read_regular(&path_of(dir, peer), RECORDS_SIZE_MAX).map(|(bytes, _)| parse(&bytes)).unwrap_or_default()
}

impl HolderRecords {
    /// Opens the records of a peer. If `create` is true, creates missing records.
    pub fn open(dir: &Path, peer: &str, create: bool) -> Option<HolderRecords> {
        let path = path_of(dir, peer);
        let open = || OpenOptions::new().create(create).truncate(false).read(true).write(true).mode(0o600).open(&path);
        let open_or_prepare =
            || open().or_else(|error| if create && make_private_dir(dir) { open() } else { Err(error) }).ok();
        let file = locked_at(&path, open_or_prepare)?;
        let records = read_records(dir, peer);
        let was = text(&records);
        Some(HolderRecords { file, records, was })
    }

    /// The record of a path.
    pub fn get(&self, path: &str) -> Option<&HolderRecord> {
        self.records.iter().find(|record| record.path == path)
    }

    /// Adds a record, or replaces the record of the same path. The oldest records are removed to make room.
    pub fn put(&mut self, record: HolderRecord) {
        self.records.retain(|old| old.path != record.path);
        self.records.push(record);
        let n_too_many = self.records.len().saturating_sub(limits::WATCHED_FILES_MAX);
        self.records.drain(..n_too_many);
    }

    /// Writes the records if they have changed. Otherwise, sets the file's modification time to the current time,
    /// because files that are older than an hour are removed.
    pub fn save(mut self) {
        let text = text(&self.records);
        if text == self.was {
            // If this fails, the file may be removed too early, and the next hook then treats each held file as new.
            let _ = self.file.set_modified(SystemTime::now());
            return;
        }
        // If the write fails, the holder gets fewer reports, but can continue its work.
        let _ = self.file.set_len(0);
        let _ = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(text.as_bytes()));
    }
}

fn text(records: &[HolderRecord]) -> String {
    let rows = records.iter().map(|record| {
        let row = json!({ "token": record.token, "state": record.state.to_text(), "hash": record.hash,
                          "by": record.by.word(), "news": record.is_news });
        (record.path.clone(), row)
    });
    Value::Object(rows.collect::<Map<String, Value>>()).to_string()
}

fn parse(bytes: &[u8]) -> Vec<HolderRecord> {
    let Ok(Value::Object(rows)) = serde_json::from_slice(bytes) else { return Vec::new() };
    let record = |(path, row): (String, Value)| {
        Some(HolderRecord {
            path,
            token: row["token"].as_i64()?,
            state: FileState::from_text(row["state"].as_str()?)?,
            hash: row["hash"].as_u64(),
            by: RecordedBy::from_word(row["by"].as_str()?)?,
            is_news: row["news"].as_bool()?,
        })
    };
    rows.into_iter().filter_map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::super::copies::{KEPT, remove_old};
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn records_that_are_in_use_are_kept_even_if_they_do_not_change() {
        let dir = std::env::temp_dir().join(format!("slm-mesh-records-{:032x}", crate::sys::random_u128()));
        // When another test starts a process, that process briefly has copies of all open files. These copies keep the
        // files locked.
        let give_up_at = Instant::now() + Duration::from_secs(20);
        let opened = |peer: &str, create: bool| {
            let open = || HolderRecords::open(&dir, peer, create);
            std::iter::repeat_with(open).find(|records| records.is_some() || Instant::now() > give_up_at).flatten()
        };
        let age = |peer: &str| {
            let file = File::options().write(true).open(path_of(&dir, peer)).unwrap();
            file.set_modified(SystemTime::now() - 2 * KEPT).unwrap();
        };
        for peer in ["used", "forgotten"] {
            opened(peer, true).unwrap().save();
            age(peer);
        }
        opened("used", false).unwrap().save();
        let open = opened("open", true).unwrap();
        age("open");
        remove_old(&dir);
        assert!(path_of(&dir, "open").exists(), "another hook has not saved these records yet");
        drop(open);
        let is_left = || ["open", "forgotten"].iter().any(|peer| path_of(&dir, peer).exists());
        while is_left() && Instant::now() < give_up_at {
            remove_old(&dir);
            std::thread::yield_now();
        }
        assert!(!is_left());
        assert!(opened("used", false).is_some());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_file_that_was_removed_before_it_was_locked_is_opened_again() {
        let path = std::env::temp_dir().join(format!("slm-mesh-records-{:032x}", crate::sys::random_u128()));
        let n_opened = std::cell::Cell::new(0);
        let open = || {
            n_opened.set(n_opened.get() + 1);
            let file = OpenOptions::new().create(true).append(true).open(&path).ok();
            if n_opened.get() == 1 {
                std::fs::remove_file(&path).unwrap();
            }
            file
        };
        locked_at(&path, open).unwrap().write_all(b"kept").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"kept");
        std::fs::remove_file(&path).unwrap();
        assert!(locked_at(&path, || None).is_none());
    }
}
