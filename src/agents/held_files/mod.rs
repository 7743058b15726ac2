//! Detects that a locked file (here called a held file) was written by somebody other than the lock's holder. Locks
//! can't prevent all such writes. The text of a shell command does not always show which files the command writes, and
//! a person may edit a held file with any program.
//!
//! Before a command, a hook records the state of the files that other peers hold in this work tree, and copies the
//! small ones. After the command, a hook compares the files with the recorded states. A holder's hooks compare the
//! holder's own files with their state after the holder's last edit.
//!
//! **Invariant:** no folder is searched. Hooks look only at files that the broker lists as locked, or that a holder's
//! hooks have seen. They look at no more than [`crate::base::limits::WATCHED_FILES_MAX`] files.

mod change_attribution;
mod changes_by_others;
pub mod command_overwrite_report;
mod copies;
mod file_state;
mod last_seen_states;
mod list_of_undoable_overwrites;
mod note_locked_files_before_command;
mod notes_for_after_hook;
pub mod undo_overwrite;

pub use change_attribution::{Cause, ChangedFile};
pub use changes_by_others::OwnMoment;
pub use note_locked_files_before_command::LockedPath;
pub use notes_for_after_hook::{CommandNote, ToolRun};

use crate::sys::data_dir::DataDir;
use copies::{CopyStore, remove_old};
use list_of_undoable_overwrites::Overwrites;
use notes_for_after_hook::CommandNotes;
use serde_json::Value;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

/// The records that hooks keep about held files. They are stored in the data directory.
#[derive(Debug)]
pub struct HeldFiles {
    notes: CommandNotes,
    copies: CopyStore,
    overwrites: Overwrites,
    /// The folder that contains one file of records for each holder.
    records: PathBuf,
    /// The folder that contains one file for each session whose shield is on.
    shields: PathBuf,
    now: i64,
}

impl HeldFiles {
    /// The records that are stored in this data directory.
    pub fn new(places: &DataDir) -> HeldFiles {
        let dir = places.held_files();
        HeldFiles {
            notes: CommandNotes::new(dir.join("commands")),
            copies: CopyStore::new(dir.join("copies")),
            overwrites: Overwrites::new(dir.join("overwritten")),
            records: dir.join("holders"),
            shields: places.shields(),
            now: crate::sys::wall_ms(),
        }
    }

    /// Runs before a tool writes. Checks the files that the session itself holds. If the tool runs a command, also
    /// records the state of the files that other peers hold, and copies the small files. `answer` is the broker's
    /// answer to `hook.edit`.
    pub fn before_tool(&self, answer: &Value, run: &ToolRun) {
        let others = note_locked_files_before_command::LockedPath::list(&answer["others"]);
        let own = note_locked_files_before_command::LockedPath::list(&answer["own"]);
        if others.is_empty() && own.is_empty() {
            return;
        }
        let me = answer["you"]["id"].as_str().unwrap_or_default();
        if !own.is_empty() {
            self.look_at_own(me, &own, &OwnMoment::BeforeWrite);
        }
        let command = run.command.clone();
        let files = command.as_ref().map(|_| self.note_files(&others)).unwrap_or_default();
        let note = CommandNote { command: command.unwrap_or_default(), named: run.named.clone(), files };
        self.notes.write(me, run, &note);
    }

    /// Runs after a tool has written. Returns the note that was written before the call. Also returns other holders'
    /// files that have changed since then.
    pub fn after_tool(&self, run: &ToolRun) -> (Option<CommandNote>, Vec<ChangedFile>) {
        let note = if run.writes { self.notes.take(run) } else { None };
        let changed = note.as_ref().map(|note| self.changed_files(note, &run.session)).unwrap_or_default();
        (note, changed)
    }

    /// Returns the changes that were made by commands after which no hook ran. Some agents run no hook after a command
    /// that failed or was stopped.
    pub fn after_turn(&self, session: &str) -> Vec<(CommandNote, Vec<ChangedFile>)> {
        let notes = self.notes.take_all(session);
        let with_changes = |note: CommandNote| {
            let changed = self.changed_files(&note, session);
            (note, changed)
        };
        notes.into_iter().map(with_changes).filter(|(_, changed)| !changed.is_empty()).collect()
    }

    /// Removes all notes, copies and records that are older than an hour.
    pub fn remove_old(&self) {
        for dir in [self.notes.dir(), &self.copies.path(""), self.overwrites.dir(), &self.records, &self.shields] {
            remove_old(dir);
        }
    }

    /// Removes the copies of locked files. Returns whether there were any copies.
    ///
    /// # Errors
    /// If a copy cannot be removed.
    pub fn remove_copies(places: &DataDir) -> std::io::Result<bool> {
        match std::fs::remove_dir_all(places.held_files().join("copies")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            result => result.map(|()| true),
        }
    }
}

/// A short file name that stands for a string. The string may have any length and contain any characters.
pub(super) fn hashed(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
