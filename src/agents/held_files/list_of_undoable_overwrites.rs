//! The list of changes that `slm-mesh lock restore` can undo. In each of these changes, a command or an earlier restore
//! wrote a file that another peer had locked. An entry that is older than an hour is not used.

use super::copies::{files_in, make_private_dir};
use super::file_state::FileState;
use super::hashed;
use crate::sys::regular_file::{read_regular, replace_regular};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Maximum size of an entry's file, in bytes. Hooks never write a larger entry, so a larger file can't be an entry.
const ENTRY_MAX: u64 = 64 << 10;
/// Maximum number of entries. The oldest entries are removed to make room.
const ENTRIES_MAX: usize = 512;

/// A file change that `lock restore` can undo.
#[derive(Debug, Clone)]
pub struct Overwrite {
    /// The path of the file.
    pub path: String,
    /// When the change was detected, in ms.
    pub at: i64,
    /// The name of the peer that held the file.
    pub holder: String,
    /// The first line of the command that changed the file; `None` if `lock restore` changed it.
    pub command: Option<String>,
    /// The state before the change.
    pub before: FileState,
    /// The state after the change.
    pub after: FileState,
}

impl Overwrite {
    /// Whether the content that the file had before the change can be restored. A restore needs a copy of the content,
    /// unless the file did not exist before the change.
    pub fn can_restore(&self, has_copy: impl Fn(&str) -> bool) -> bool {
        match self.before {
            FileState::Missing => true,
            FileState::Regular(stamp) => has_copy(&stamp.name()),
            FileState::Link(_) | FileState::Other => false,
        }
    }
}

/// The list of changes that `lock restore` can undo. Its folder contains one file for each entry.
#[derive(Debug)]
pub struct Overwrites {
    dir: PathBuf,
}

impl Overwrites {
    /// The list whose entries are in the folder `dir`.
    pub fn new(dir: PathBuf) -> Overwrites {
        Overwrites { dir }
    }

    /// Adds an entry. The entry's file name begins with the time of the change. The time has leading zeros, so sorting
    /// the names as text also sorts them by time.
    pub fn add(&self, entry: &Overwrite) {
        let name = format!("{:015}.{}", entry.at, hashed(&entry.path));
        let text = json!({ "path": entry.path, "at": entry.at, "holder": entry.holder, "command": entry.command,
                           "before": entry.before.to_text(), "after": entry.after.to_text() });
        let mut names: Vec<PathBuf> = files_in(&self.dir).collect();
        names.sort();
        for old in names.iter().take((names.len() + 1).saturating_sub(ENTRIES_MAX)) {
            // If this fails, the next hook tries again.
            let _ = std::fs::remove_file(old);
        }
        // If this fails, the change can't be undone. The hook still reports the change.
        let _ = make_private_dir(&self.dir)
            && replace_regular(&self.dir.join(name), text.to_string().as_bytes(), 0o600).is_ok();
    }

    /// The latest entry for a path, if that entry is not older than an hour.
    pub fn latest(&self, path: &str, now: i64) -> Option<Overwrite> {
        let ending = format!(".{}", hashed(path));
        let mut found: Vec<PathBuf> =
            files_in(&self.dir).filter(|file| file.to_string_lossy().ends_with(&ending)).collect();
        found.sort();
        let entries = found.iter().rev().filter_map(|file| read_entry(file));
        let kept_ms = super::copies::KEPT.as_millis() as i64;
        entries.into_iter().find(|entry| entry.path == path && now - entry.at <= kept_ms)
    }

    /// The folder that contains the entries of the list.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

fn read_entry(file: &Path) -> Option<Overwrite> {
    let value: Value = serde_json::from_slice(&read_regular(file, ENTRY_MAX)?.0).ok()?;
    Some(Overwrite {
        path: value["path"].as_str()?.to_owned(),
        at: value["at"].as_i64()?,
        holder: value["holder"].as_str()?.to_owned(),
        command: value["command"].as_str().map(str::to_owned),
        before: FileState::from_text(value["before"].as_str()?)?,
        after: FileState::from_text(value["after"].as_str()?)?,
    })
}
