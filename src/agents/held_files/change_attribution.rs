//! Finds files that another peer had locked and that changed while a command ran. Determines whether the command
//! changed them.

use super::HeldFiles;
use super::file_state::{CONTENT_MAX, Comparison, FileState};
use super::last_seen_states::{RecordedBy, read_records};
use super::list_of_undoable_overwrites::Overwrite;
use super::notes_for_after_hook::{CommandNote, NotedFile};
use crate::sys::regular_file::read_regular;
use std::path::Path;

/// Who or what changed a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// This session's command changed the file. No tool of another session was running.
    Command,
    /// Either this session's command, or another command that ran at the same time. It is unclear which.
    Unsure,
    /// Probably the holder, whose own command ran at the same time.
    ProbablyHolder,
}

/// A file that changed while a command ran, although another peer had locked the file.
#[derive(Debug, Clone)]
pub struct ChangedFile {
    /// The path of the file.
    pub path: String,
    /// The id of the file's holder.
    pub holder: String,
    /// The name of the file's holder.
    pub holder_name: String,
    /// Who or what changed the file.
    pub cause: Cause,
    /// Whether the file was removed.
    pub is_removed: bool,
    /// Whether `lock restore` can bring back the content that the file had before the change.
    pub can_restore: bool,
    pub(super) after: FileState,
}

impl HeldFiles {
    /// Finds the files that a note lists and that have changed since the note was written. Files that the holder itself
    /// changed are left out. Changes that can be undone are recorded for `lock restore`.
    pub(super) fn changed_files(&self, note: &CommandNote, session: &str) -> Vec<ChangedFile> {
        let mut changed = Vec::new();
        for noted in &note.files {
            let after = FileState::of(Path::new(&noted.path));
            if !self.is_changed(noted, &after) {
                continue;
            }
            if let Some(cause) = self.cause(noted, &after, session) {
                changed.push(self.enter(note, noted, after, cause));
            }
        }
        changed
    }

    fn is_changed(&self, noted: &NotedFile, after: &FileState) -> bool {
        match noted.state.compare(after) {
            Comparison::Different => true,
            Comparison::Same => noted.is_recent && self.has_other_content(noted),
            Comparison::InDoubt => self.has_other_content(noted),
        }
    }

    /// Whether a file differs from the copy that was made before the command ran. Without a copy, only the metadata is
    /// compared.
    fn has_other_content(&self, noted: &NotedFile) -> bool {
        let copy = noted.state.small_file().and_then(|stamp| self.copies.read(&stamp.name()));
        match (copy, read_regular(Path::new(&noted.path), CONTENT_MAX)) {
            (Some(before), Some((now, _))) => before != now,
            _ => FileState::of(Path::new(&noted.path)) != noted.state,
        }
    }

    /// Who or what changed a file; `None` if the holder changed the file, or if `lock restore` wrote it.
    fn cause(&self, noted: &NotedFile, after: &FileState, session: &str) -> Option<Cause> {
        let is_restored = |entry: &Overwrite| entry.command.is_none() && entry.after == *after;
        if self.overwrites.latest(&noted.path, self.now).as_ref().is_some_and(is_restored) {
            return None;
        }
        let records = read_records(&self.records, &noted.holder);
        let record = records.iter().find(|record| record.path == noted.path && record.state == *after);
        match record.map(|record| record.by) {
            Some(RecordedBy::Edit) => None,
            Some(RecordedBy::Command) => Some(Cause::ProbablyHolder),
            // Another session has already reported this change, so the change may come from that session's command or
            // from this session's.
            Some(RecordedBy::Reported) => Some(Cause::Unsure),
            _ if self.notes.is_other_running(session) => Some(Cause::Unsure),
            _ => Some(Cause::Command),
        }
    }

    /// Describes a change for the report. If the change can be undone, also records it for `lock restore`.
    fn enter(&self, note: &CommandNote, noted: &NotedFile, after: FileState, cause: Cause) -> ChangedFile {
        if let Some(stamp) = noted.state.small_file() {
            self.copies.renew(&stamp.name());
        }
        let entry = Overwrite {
            path: noted.path.clone(),
            at: self.now,
            holder: noted.holder_name.clone(),
            command: Some(note.command.clone()),
            before: noted.state,
            after,
        };
        let can_restore = entry.can_restore(|name| self.copies.path(name).exists());
        if can_restore {
            self.overwrites.add(&entry);
        }
        ChangedFile {
            path: noted.path.clone(),
            holder: noted.holder.clone(),
            holder_name: noted.holder_name.clone(),
            cause,
            is_removed: after == FileState::Missing,
            can_restore,
            after,
        }
    }
}
