//! Finds the files that a hook watches. The locks in the broker's answer determine these files. A lock on a plain path
//! covers one file. If a folder or a glob is locked, only the files that the holder's hooks have seen are watched.

use super::HeldFiles;
use super::file_state::FileState;
use super::last_seen_states::{HolderRecord, read_records};
use super::notes_for_after_hook::NotedFile;
use crate::base::{limits, path_overlap};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A lock in the broker's answer to a hook.
#[derive(Debug, Clone)]
pub struct LockedPath {
    /// The path, folder or glob that is locked.
    pub path: String,
    /// The fencing token of the lock.
    pub token: i64,
    /// The id of the lock's holder.
    pub holder: String,
    /// The name of the lock's holder.
    pub holder_name: String,
}

impl LockedPath {
    /// Reads the locks from a list in the broker's answer.
    pub fn list(rows: &Value) -> Vec<LockedPath> {
        let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let lock = |row: &Value| LockedPath {
            path: text(row, "filePath"),
            token: row["token"].as_i64().unwrap_or(0),
            holder: text(row, "lockedBy"),
            holder_name: text(row, "holder"),
        };
        rows.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(lock).collect()
    }
}

impl HeldFiles {
    /// The files and folders that the locks cover. If a glob does not cover a whole folder, returns only those matching
    /// files that the holder's hooks have seen.
    pub fn protected_paths(&self, locks: &[LockedPath]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for lock in locks {
            let folder = lock.path.strip_suffix("/**").or_else(|| lock.path.strip_suffix('/')).unwrap_or(&lock.path);
            if !path_overlap::is_pattern(folder) {
                found.push(PathBuf::from(folder));
                continue;
            }
            let records = read_records(&self.records, &lock.holder);
            let meant = records.iter().filter(|record| path_overlap::overlap(&record.path, &lock.path));
            found.extend(meant.map(|record| PathBuf::from(&record.path)));
        }
        found
    }

    /// Records the state of the files that other peers hold, and copies the small files.
    pub(super) fn note_files(&self, locks: &[LockedPath]) -> Vec<NotedFile> {
        let mut noted: Vec<NotedFile> = Vec::new();
        let mut known: HashMap<&str, Vec<HolderRecord>> = HashMap::new();
        for lock in locks {
            let state = FileState::of(Path::new(&lock.path));
            if path_overlap::is_pattern(&lock.path) || state == FileState::Other {
                let records = known.entry(&lock.holder).or_insert_with(|| read_records(&self.records, &lock.holder));
                for record in records.iter().filter(|record| path_overlap::overlap(&record.path, &lock.path)) {
                    self.note_file(&mut noted, lock, &record.path, FileState::of(Path::new(&record.path)));
                }
            } else {
                self.note_file(&mut noted, lock, &lock.path, state);
            }
        }
        noted
    }

    fn note_file(&self, noted: &mut Vec<NotedFile>, lock: &LockedPath, path: &str, state: FileState) {
        if noted.len() >= limits::WATCHED_FILES_MAX || noted.iter().any(|file| file.path == path) {
            return;
        }
        let is_recent = state.is_recent(self.now);
        if let Some(stamp) = state.small_file() {
            // Even if the file cannot be copied, its state is recorded.
            self.copies.keep(Path::new(path), stamp, is_recent);
        }
        noted.push(NotedFile {
            path: path.to_owned(),
            holder: lock.holder.clone(),
            holder_name: lock.holder_name.clone(),
            state,
            is_recent,
        });
    }
}
