//! The directory in which git looks for the hooks of a work tree. Finds out who else uses these hooks, and records
//! where a guard was installed.

use super::run_git;
use super::write_file_whole::{remove_if_there, write_whole};
use crate::base::error::{Error, ErrorKind};
use crate::sys::file_lock_with_timeout::LockWait;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

/// Maximum time to wait for another run of the guard. One run takes less than a second.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(20);

/// The directory in which git looks for the hooks of a work tree.
pub struct HooksDir {
    /// The directory. Symlinks in the path are resolved if the directory exists.
    pub path: PathBuf,
    /// The root of the work tree.
    top: PathBuf,
    /// The git directory that all work trees of the repository share.
    pub common: PathBuf,
}

/// Which other repositories or users run the hooks in this directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// The hooks run only in this repository and only for this user.
    Private,
    /// The hooks run in all repositories of this user, because `core.hooksPath` is set outside this repository.
    AllRepositories,
    /// The hooks run for everybody who works on the project, because git tracks the hooks.
    Tracked,
}

impl HooksDir {
    /// Finds the hooks directory of the current work tree. Asks git, because git takes linked work trees and all scopes
    /// of `core.hooksPath` into account.
    ///
    /// # Errors
    /// If git is not installed, or the working directory is not in a work tree.
    pub fn find() -> Result<HooksDir, Error> {
        HooksDir::of_work_tree(Path::new("."))
    }

    fn of_work_tree(inside: &Path) -> Result<HooksDir, Error> {
        let top = path_of(run_git(inside, &["rev-parse", "--show-toplevel"])?);
        // A relative `core.hooksPath` starts at the root of the work tree, because the root is where git runs the
        // hooks.
        let path = top.join(path_of(run_git(&top, &["rev-parse", "--git-path", "hooks"])?));
        let common = top.join(path_of(run_git(&top, &["rev-parse", "--git-common-dir"])?));
        if top.as_os_str().is_empty() {
            return Err(Error::new(
                ErrorKind::Usage,
                "there is no git work tree here; run this command inside a work tree",
            ));
        }
        Ok(HooksDir { path: real(path), top, common: real(common) })
    }

    /// Whether a path that a user typed leads to this directory.
    pub fn is_at(&self, named: &Path) -> bool {
        named.canonicalize().is_ok_and(|named| named == self.path) || named == self.path
    }

    /// Checks that hooks can exist in this directory.
    ///
    /// # Errors
    /// If the path leads to a file, such as /dev/null, so that git runs no hooks.
    pub fn check_is_directory(&self) -> Result<(), Error> {
        let Some(file) = self.path.ancestors().find(|path| path.exists()).filter(|path| !path.is_dir()) else {
            return Ok(());
        };
        let (shown, file) = (self.path.display(), file.display());
        let text = if run_git(&self.top, &["config", "--get", "core.hooksPath"]).is_ok() {
            format!(
                "core.hooksPath switches off git hooks here, because it names {shown}, and {file} is not a directory; \
                 find out which file sets it (git config --show-origin core.hooksPath), remove it there, and run \
                 slm-mesh guard install again"
            )
        } else {
            format!(
                "git runs no hooks here, because {file} is not a directory; move it away, and run slm-mesh guard \
                 install again"
            )
        };
        Err(Error::new(ErrorKind::Usage, text))
    }

    /// Waits until no other run of the guard changes these hooks or the record, and then locks both. The locks are held
    /// until the returned values are dropped. Directories are locked, so that no lock file remains.
    ///
    /// # Errors
    /// If a directory can't be locked, or if another run holds a lock for too long.
    pub fn lock(&self) -> Result<Vec<File>, Error> {
        let (common, hooks) = (real(self.common.clone()), real(self.path.clone()));
        // Other repositories may use the same hooks, so the lock of the git directory is not enough.
        let has_hooks_of_its_own = hooks.is_dir() && hooks != common;
        let lock = |dir: &PathBuf| {
            let shown = dir.display();
            let failed = |error| Error::new(ErrorKind::Storage, format!("{shown} can't be locked ({error})"));
            let mut wait = LockWait::begin(File::open(dir).map_err(failed)?);
            let held = format!("another run of slm-mesh guard holds a lock on {shown}; wait until that run has ended");
            wait.for_time(LOCK_WAIT_MAX).map_err(failed)?.ok_or_else(|| Error::new(ErrorKind::TimedOut, held))
        };
        std::iter::once(common).chain(has_hooks_of_its_own.then_some(hooks)).map(|dir| lock(&dir)).collect()
    }

    /// Finds out which other repositories or users run these hooks.
    pub fn sharing(&self) -> Sharing {
        let value = |scope: &[&str]| {
            let words = [&["config"], scope, &["--get", "core.hooksPath"]].concat();
            run_git(&self.top, &words).ok()
        };
        // Old versions of git can't show the scope of a value. So the effective value is compared with the values that
        // are set in this repository.
        let effective = value(&[]);
        if effective.is_some() && value(&["--worktree"]) != effective && value(&["--local"]) != effective {
            return Sharing::AllRepositories;
        }
        // Inside a git directory, `ls-files` would list the files of the work tree. So this case is checked first.
        let is_in_work_tree = run_git(&self.path, &["rev-parse", "--is-inside-work-tree"]);
        if is_in_work_tree.is_ok_and(|answer| answer.starts_with(b"false")) {
            return Sharing::Private;
        }
        // git runs in the hooks directory, because another repository may track the hooks.
        match run_git(&self.path, &["ls-files", "-z"]) {
            Ok(files) if !files.is_empty() => Sharing::Tracked,
            _ => Sharing::Private,
        }
    }

    /// The file that lists where guards were installed. If another program rewrites the hooks, only this file shows
    /// that a guard was installed.
    pub fn record_path(&self) -> PathBuf {
        self.common.join("slm-mesh-guard")
    }

    /// The hooks directories of this repository in which a guard was installed.
    pub fn recorded(&self) -> Vec<PathBuf> {
        let bytes = fs::read(self.record_path()).unwrap_or_default();
        let lines = bytes.split(|byte| *byte == 0).filter(|line| !line.is_empty());
        lines.map(|line| real(PathBuf::from(OsStr::from_bytes(line)))).collect()
    }

    /// Returns the recorded hooks directories that no work tree of this repository uses any more. For example, a hook
    /// manager may have set `core.hooksPath` to another directory.
    pub fn abandoned(&self) -> Vec<HooksDir> {
        let list = run_git(&self.top, &["worktree", "list", "--porcelain"]).unwrap_or_default();
        let trees = list.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"worktree "));
        let in_use = trees.filter_map(|tree| HooksDir::of_work_tree(Path::new(OsStr::from_bytes(tree))).ok());
        let in_use: Vec<PathBuf> = in_use.map(|dir| dir.path).collect();
        let is_abandoned = |path: &PathBuf| *path != self.path && !in_use.contains(path);
        let with = |path| HooksDir { path, top: self.top.clone(), common: self.common.clone() };
        self.recorded().into_iter().filter(is_abandoned).map(with).collect()
    }

    /// Records that a guard is installed in this directory.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn record(&self) -> io::Result<()> {
        // The directory may have been created after git returned its path, so symlinks are resolved again.
        let (mut known, path) = (self.recorded(), real(self.path.clone()));
        if !known.contains(&path) {
            known.push(path);
        }
        self.write_record(&known)
    }

    /// Removes this directory from the record.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn forget(&self) -> io::Result<()> {
        let known: Vec<PathBuf> = self.recorded().into_iter().filter(|path| *path != self.path).collect();
        if known.is_empty() { remove_if_there(&self.record_path()) } else { self.write_record(&known) }
    }

    fn write_record(&self, known: &[PathBuf]) -> io::Result<()> {
        let paths: Vec<&[u8]> = known.iter().map(|path| path.as_os_str().as_bytes()).collect();
        write_whole(&self.record_path(), &paths.join(&0), 0o644)
    }
}

/// Resolves the symlinks in a path, if the path exists.
fn real(path: PathBuf) -> PathBuf {
    path.canonicalize().unwrap_or(path)
}

/// Converts git's output to a path, without the line break at the end.
pub fn path_of(mut line: Vec<u8>) -> PathBuf {
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    PathBuf::from(OsString::from_vec(line))
}
