//! Copies of held files, made before a command runs. Copies are kept for an hour, and only this user can read them.
//!
//! **Invariant:** the age, the number and the total size of the copies are limited. A file that is reached through a
//! symlink is not copied.

use super::file_state::{CONTENT_MAX, FileStamp};
use crate::base::limits;
use crate::sys::regular_file::{open_regular, read_regular, replace_regular};
use std::cell::Cell;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long a copy is kept.
pub const KEPT: Duration = Duration::from_secs(3600);
/// Maximum total size, in bytes, of the copies that one hook makes or reuses. More copies would delay the command.
const HOOK_BYTES_MAX: u64 = 32 << 20;
/// Maximum total size of all copies, in bytes. A hook removes the oldest copies before it makes its first copy.
const COPIES_BYTES_MAX: u64 = 2 * HOOK_BYTES_MAX;
/// Maximum number of copies.
const COPIES_MAX: usize = 2 * limits::WATCHED_FILES_MAX;
/// If a hook reuses a copy of at least this age, the hook also renews the copy. The copy is then kept for another hour.
const FRESH: Duration = Duration::from_secs(60);

/// The folder that contains the copies.
#[derive(Debug)]
pub struct CopyStore {
    dir: PathBuf,
    /// The total size, in bytes, of the copies that this process has made or reused.
    used: Cell<u64>,
    has_room: Cell<bool>,
}

impl CopyStore {
    /// The copies in the folder `dir`.
    pub fn new(dir: PathBuf) -> CopyStore {
        CopyStore { dir, used: Cell::new(0), has_room: Cell::new(false) }
    }

    /// Copies a file, unless it has changed since `stamp` was taken. If `is_recent` is false, an existing copy is
    /// reused. If `is_recent` is true, the file may have changed although its stamp is the same, so the file is copied
    /// again. Returns whether a copy exists now.
    pub fn keep(&self, path: &Path, stamp: &FileStamp, is_recent: bool) -> bool {
        let copy = self.dir.join(stamp.name());
        if self.used.get() + stamp.size > HOOK_BYTES_MAX {
            return false;
        }
        self.used.set(self.used.get() + stamp.size);
        if !is_recent && let Ok(meta) = copy.symlink_metadata() {
            let is_fresh = meta.modified().ok().and_then(|at| at.elapsed().ok()).is_some_and(|age| age < FRESH);
            return is_fresh || self.renew(&stamp.name());
        }
        let Some((content, meta)) = read_regular(path, CONTENT_MAX) else { return false };
        // After the file was locked, its folder may have been replaced with a link to another folder. Files behind such
        // a link must not be copied.
        let is_at_home = path.parent().is_some_and(|folder| folder.canonicalize().is_ok_and(|real| real == folder));
        if FileStamp::of(&meta) != *stamp || !is_at_home {
            return false;
        }
        if !self.has_room.replace(true) {
            self.make_room();
        }
        make_private_dir(&self.dir) && replace_regular(&copy, &content, 0o600).is_ok()
    }

    /// The content of a copy.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        read_regular(&self.dir.join(name), CONTENT_MAX).map(|(content, _)| content)
    }

    /// The path of a copy.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Keeps a copy for another hour. Returns whether the copy exists.
    pub fn renew(&self, name: &str) -> bool {
        File::options().write(true).open(self.dir.join(name)).is_ok_and(|file| {
            // If this fails, the copy is merely removed a little earlier.
            let _ = file.set_modified(SystemTime::now());
            true
        })
    }

    /// Removes the oldest copies until there is room for all copies of one hook.
    fn make_room(&self) {
        remove_old(&self.dir);
        let mut copies: Vec<(SystemTime, u64, PathBuf)> = files_in(&self.dir)
            .filter_map(|path| {
                let meta = path.symlink_metadata().ok()?;
                Some((meta.modified().ok()?, meta.len(), path))
            })
            .collect();
        copies.sort();
        let mut total = HOOK_BYTES_MAX + copies.iter().map(|(_, size, _)| size).sum::<u64>();
        let mut n_left = limits::WATCHED_FILES_MAX + copies.len();
        for (_, size, path) in copies {
            if total <= COPIES_BYTES_MAX && n_left <= COPIES_MAX {
                return;
            }
            // If this fails, the next hook tries again.
            let _ = fs::remove_file(path);
            total -= size;
            n_left -= 1;
        }
    }
}

/// Creates a folder that only this user can access. Returns whether the folder exists now.
pub fn make_private_dir(dir: &Path) -> bool {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).is_ok()
}

/// Removes the files in a folder if they are older than an hour. Keeps files that another hook has locked.
pub fn remove_old(dir: &Path) {
    let is_old = |path: &Path| {
        let modified = path.symlink_metadata().and_then(|meta| meta.modified());
        modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > KEPT))
    };
    for path in files_in(dir).filter(|path| is_old(path)) {
        // Another hook may be about to write the file. So this hook locks the file and checks its age again.
        let file = open_regular(&path).ok().flatten();
        let is_locked = file.as_ref().is_some_and(|file| file.try_lock().is_err());
        if !is_locked && is_old(&path) {
            // If this fails, the next hook tries again.
            let _ = fs::remove_file(path);
        }
    }
}

/// The paths of all files in a folder; empty if the folder does not exist.
pub fn files_in(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}
