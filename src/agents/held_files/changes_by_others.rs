//! Detects that somebody other than the holder has changed a locked file. The holder's own hooks look for changes since
//! the holder's last edit of the file.

use super::file_state::{Comparison, FileState, content_hash};
use super::last_seen_states::{HolderRecord, HolderRecords, RecordedBy};
use super::note_locked_files_before_command::LockedPath;
use super::{ChangedFile, CommandNote, HeldFiles};
use crate::base::{limits, path_overlap};
use std::path::Path;

/// The moment at which a hook checks the session's own files.
#[derive(Debug, Clone, Copy)]
pub enum OwnMoment<'a> {
    /// Before a tool of the session writes. Any change that is found now was made by another peer or a person.
    BeforeWrite,
    /// After a tool call of the session. Contains the note that was written before the call. All changes during the
    /// call count as the session's own.
    AfterWrite(&'a CommandNote),
    /// Any other time. A change that is found at such a time was made by another peer or a person, unless a tool of the
    /// session is running.
    Between,
}

impl HeldFiles {
    /// Checks the files that a peer holds. Records the changes that the peer's own tools made. Marks all other changes,
    /// so that the peer is told about them.
    pub(super) fn look_at_own(&self, me: &str, locks: &[LockedPath], moment: &OwnMoment<'_>) {
        let Some(mut records) = HolderRecords::open(&self.records, me, true) else { return };
        let locks = &locks[..locks.len().min(limits::WATCHED_FILES_MAX)];
        for lock in locks.iter().filter(|lock| !path_overlap::is_pattern(&lock.path)) {
            self.look_at_file(&mut records, &lock.path, Some(lock.token), moment);
        }
        let is_pattern = |lock: &&LockedPath| path_overlap::is_pattern(&lock.path);
        let patterns: Vec<&LockedPath> = locks.iter().filter(is_pattern).collect();
        let is_plain = |path: &str| locks.iter().any(|lock| lock.path == path);
        let below = |path: &str| !is_plain(path) && patterns.iter().any(|lock| path_overlap::overlap(path, &lock.path));
        let known: Vec<String> = records.records.iter().map(|record| record.path.clone()).collect();
        for path in known.iter().filter(|path| below(path)) {
            self.look_at_file(&mut records, path, None, moment);
        }
        records.save();
    }

    /// Checks one file. If the lock is new, no earlier state of the file is known, so this function only records the
    /// current state.
    fn look_at_file(&self, records: &mut HolderRecords, path: &str, token: Option<i64>, moment: &OwnMoment<'_>) {
        let state = FileState::of(Path::new(path));
        let named = matches!(moment, OwnMoment::AfterWrite(note) if note.named.iter().any(|named| named == path));
        let old = records.get(path).filter(|old| token.is_none_or(|token| token == old.token));
        if old.is_some_and(|old| old.state == state) {
            return;
        }
        let hash = if state.small_file().is_some() { content_hash(Path::new(path)) } else { None };
        let is_touched = |old: &HolderRecord| match old.state.compare(&state) {
            Comparison::Different => false,
            Comparison::Same => true,
            Comparison::InDoubt => hash.is_some() && hash == old.hash,
        };
        let is_own = matches!(moment, OwnMoment::AfterWrite(_));
        let by = match old {
            _ if named => RecordedBy::Edit,
            Some(_) if is_own => RecordedBy::Command,
            Some(old) if is_touched(old) => old.by,
            _ => RecordedBy::FirstLook,
        };
        let is_news = old.is_some_and(|old| old.is_news || !is_own && !is_touched(old));
        let token = token.or(old.map(|old| old.token)).unwrap_or(0);
        records.put(HolderRecord { path: path.to_owned(), token, state, hash, by, is_news });
    }

    /// Checks the files that a session holds. Returns the paths of files that somebody else changed. Each change is
    /// returned only once.
    pub fn own_news(&self, me: &str, locks: &[LockedPath], moment: &OwnMoment<'_>, session: &str) -> Vec<String> {
        if locks.is_empty() {
            return Vec::new();
        }
        if !matches!(moment, OwnMoment::Between) || !self.notes.is_running(session) {
            self.look_at_own(me, locks, moment);
        }
        let Some(mut records) = HolderRecords::open(&self.records, me, false) else { return Vec::new() };
        let mut news = Vec::new();
        for record in records.records.iter_mut().filter(|record| record.is_news) {
            record.is_news = false;
            if locks.iter().any(|lock| path_overlap::overlap(&lock.path, &record.path)) {
                news.push(record.path.clone());
            }
        }
        records.save();
        news
    }

    /// Records that the holder of a file got a message about a change, so that the holder's own hooks do not report the
    /// same change again.
    pub fn note_reported(&self, file: &ChangedFile) {
        let Some(mut records) = HolderRecords::open(&self.records, &file.holder, false) else { return };
        let hash = content_hash(Path::new(&file.path));
        for record in records.records.iter_mut().filter(|record| record.path == file.path) {
            record.state = file.after;
            record.hash = hash;
            record.by = RecordedBy::Reported;
        }
        records.save();
    }
}
