//! Records the paths that commands write, and looks up whether paths exist.

use super::evaluator::Evaluator;
use super::shell_state::{CdLinks, Field, State};
use super::{Entry, GitTest, MaybeWritten, ShellWrite, Tracking};
use crate::base::path_overlap;
use std::path::PathBuf;
use std::rc::Rc;

/// Maximum length of a path, in bytes.
const PATH_MAX: usize = 4096;
/// Maximum number of `..` in a path. A path with more than this number counts as unknown.
const PARENTS_MAX: usize = 8;
/// The number of evaluation steps for looking up and recording a file.
pub(super) const WRITE_STEPS: usize = 8;

impl Evaluator<'_> {
    /// Makes a path absolute and normalises it, as the kernel does: after a symbolic link, `..` leads to the folder
    /// above the link's target. The result has no slash at the end. `None` if the result is unknown.
    pub(super) fn resolve(&self, state: &State, path: &str) -> Option<String> {
        let absolute = absolute(state, path)?;
        let absolute = if absolute.contains("..") { self.without_parents(&absolute)? } else { absolute };
        normal(path, absolute)
    }

    /// Makes a path absolute and normalises it, as `cd` does: after a symbolic link, `..` leads to the folder that
    /// contains the link. With `CdLinks::Resolved`, symbolic links are resolved instead.
    pub(super) fn resolve_for_cd(&self, state: &State, path: &str, links: CdLinks) -> Option<String> {
        let kept = || normal(path, absolute(state, path)?);
        let resolved = || self.physical(&self.resolve(state, path)?);
        match links {
            CdLinks::Kept => kept(),
            CdLinks::Resolved => resolved(),
            CdLinks::Unknown => kept().filter(|kept| resolved().as_ref() == Some(kept)),
        }
    }

    /// The directory in which a program runs after it has changed to `folder`, as `git -C` does. The result contains no
    /// symbolic links, because the kernel resolves them.
    pub(super) fn resolve_for_chdir(&self, state: &State, folder: &Field) -> Option<String> {
        self.resolve_for_cd(state, folder.text()?, CdLinks::Resolved)
    }

    /// Resolves all symbolic links in a path. The last components of the path need not exist.
    pub(super) fn physical(&self, path: &str) -> Option<String> {
        let ends = std::iter::once(path.len()).chain(path.rmatch_indices('/').map(|(at, _)| at.max(1)));
        let found = ends.take(PARENTS_MAX).find_map(|end| Some((self.files.real_path(&path[..end])?, end)));
        let (real, end) = found?;
        let physical = path_overlap::normal(&format!("{real}/{}", &path[end..]));
        let physical = if physical == "/" { "/" } else { physical.trim_end_matches('/') };
        (!self.may_lead_elsewhere(path, physical != path)).then(|| physical.to_owned())
    }

    /// Resolves each `..` in an absolute path, as the kernel does.
    fn without_parents(&self, path: &str) -> Option<String> {
        let mut folder = String::with_capacity(path.len());
        let mut n_parents = 0;
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    n_parents += 1;
                    let is_link = self.files.is_link(&folder);
                    if n_parents > PARENTS_MAX || self.may_lead_elsewhere(&folder, is_link) {
                        return None;
                    }
                    if is_link {
                        folder = self.files.real_path(&folder)?;
                    }
                    folder.truncate(folder.rfind('/').unwrap_or(0));
                }
                part => folder.extend(["/", part]),
            }
        }
        Some(if folder.is_empty() { "/".to_owned() } else { folder })
    }

    /// Whether the script may have changed the target of a path. If the path contains symbolic links (`has_links`), a
    /// write to the path or to a folder above it may have changed the target. Otherwise, only a write to the path
    /// itself may have changed it.
    fn may_lead_elsewhere(&self, path: &str, has_links: bool) -> bool {
        if has_links {
            let is_above = |above: &str| {
                path.strip_prefix(above).is_some_and(|rest| matches!(rest.bytes().next(), None | Some(b'/')))
            };
            return self.writes.iter().any(|write| write.path().to_str().is_some_and(is_above));
        }
        let is_written = |kind: fn(PathBuf) -> ShellWrite| self.writes.contains(&kind(path.into()));
        !self.writes.is_empty() && (is_written(ShellWrite::File) || is_written(ShellWrite::Link))
    }

    /// Whether a path is a file, and neither a folder nor a device.
    pub(super) fn is_regular_file(&mut self, state: &State, path: &str) -> bool {
        let path = self.resolve(state, path).filter(|path| !is_device(path));
        path.is_some_and(|path| self.exists(&path) && self.is_folder(&path) == Some(false))
    }

    /// Records that the file at a path is replaced or removed, for example by `mv` or `rm`. If the path is a symbolic
    /// link, only the link is recorded, because the target of the link does not change.
    pub(super) fn replace(&mut self, state: &State, path: &str) {
        match self.resolve(state, path).filter(|path| self.spend(1) && self.files.is_link(path)) {
            Some(link) => self.note_link(path, &link),
            None => self.write(state, path),
        }
    }

    /// Records that a symbolic link is replaced or removed. A path with a slash at its end stands for the link's
    /// target. Commands refuse to remove this target, so nothing is recorded.
    fn note_link(&mut self, path: &str, link: &str) {
        if !path.ends_with('/') {
            self.note(link, ShellWrite::Link);
        }
    }

    /// Records that a file is written. Does nothing if its path is unknown.
    pub(super) fn write(&mut self, state: &State, path: &str) {
        if path.ends_with('/') || !self.spend(WRITE_STEPS) {
            return;
        }
        let Some(path) = self.resolve(state, path) else { return };
        if self.is_folder(&path) != Some(true) {
            self.note(&path, ShellWrite::File);
        }
    }

    /// Records that a folder and everything in it are removed or moved. If the path is a file, only the file is
    /// recorded.
    pub(super) fn write_all(&mut self, state: &State, path: &str) {
        let Some(resolved) = self.resolve(state, path).filter(|_| self.spend(WRITE_STEPS)) else { return };
        if self.files.is_link(&resolved) {
            self.note_link(path, &resolved);
        } else if self.is_folder(&resolved) == Some(true) {
            self.note(&resolved, ShellWrite::Folder);
        } else if self.long_patterns.contains(&resolved) {
            self.writes.insert(ShellWrite::Matches(format!("{resolved}/").into()));
        } else {
            self.write(state, path.trim_end_matches('/'));
        }
    }

    fn note(&mut self, path: &str, kind: fn(PathBuf) -> ShellWrite) {
        if is_device(path) || path == "/" {
            return;
        }
        // A lock would treat a path with `*` or `?` as a pattern. So such a path is recorded only if it is a pattern in
        // the command, too.
        if !path.contains(['*', '?']) {
            self.writes.insert(kind(path.into()));
        } else if self.long_patterns.contains(path) {
            self.writes.insert(ShellWrite::Matches(path.into()));
        }
    }

    /// Records that some files below a folder may be written.
    pub(super) fn maybe_write(&mut self, folder: &str, endings: &[&str], tracking: Tracking) {
        self.maybe_write_by_git(folder, endings, tracking, &[]);
    }

    /// Like `maybe_write`, but for a git command. `git_tests` are tests that show which files the command writes.
    pub(super) fn maybe_write_by_git(
        &mut self,
        folder: &str,
        endings: &[&str],
        tracking: Tracking,
        git_tests: &[GitTest],
    ) {
        // Symbolic links are resolved, because paths from git and paths of locks contain no links.
        let Some(folder) = self.spend(2).then(|| self.physical(folder)).flatten() else { return };
        let endings = endings.iter().map(|ending| (*ending).to_owned()).collect();
        // An earlier git command may have changed the results of the tests. In this case, the tests are not used.
        let git_tests = if self.git_has_changed { Vec::new() } else { git_tests.to_vec() };
        self.writes.insert(ShellWrite::Maybe(MaybeWritten { folder: folder.into(), endings, tracking, git_tests }));
    }

    /// Whether an absolute path is a folder; `None` if the path does not exist.
    pub(super) fn is_folder(&self, path: &str) -> Option<bool> {
        if self.made_folders.contains(path) { Some(true) } else { self.look_at(path) }
    }

    /// Like `is_folder`, but ignores the folders that the script has created.
    fn look_at(&self, path: &str) -> Option<bool> {
        *self.found.borrow_mut().entry(path.to_owned()).or_insert_with(|| self.files.is_folder(path))
    }

    /// Whether a path existed before the script ran.
    pub(super) fn exists(&mut self, path: &str) -> bool {
        self.spend(2) && self.look_at(path.trim_end_matches('/')).is_some()
    }

    /// Records that the script creates a folder.
    pub(super) fn make_folder(&mut self, state: &State, path: &str) {
        self.made_folders.extend(self.resolve(state, path));
    }

    /// The entries of a folder, sorted by name.
    pub(super) fn list_folder(&mut self, folder: &str) -> Option<Rc<Vec<Entry>>> {
        if let Some(entries) = self.listed.get(folder).cloned() {
            let n_entries = entries.as_ref().map_or(0, |entries| entries.len());
            return entries.filter(|_| self.spend(1 + n_entries / 4));
        }
        self.listings = self.listings.checked_sub(1)?;
        let mut entries = self.files.entries(folder);
        if let Some(entries) = &mut entries {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
        }
        let n_entries = entries.as_ref().map_or(0, Vec::len);
        let entries = entries.map(Rc::new);
        self.listed.insert(folder.to_owned(), entries.clone());
        entries.filter(|_| self.spend(10 + n_entries / 4))
    }

    /// The text of a patch that a command reads from a file.
    pub(super) fn patch_text(&mut self, path: &str) -> Option<String> {
        self.listings = self.listings.checked_sub(1)?;
        self.files.patch_text(path)
    }

    /// The closest folder that contains an entry with this name. The search starts in `directory` and continues in its
    /// parent folders.
    pub(super) fn folder_with(&mut self, directory: &str, name: &str) -> Option<String> {
        let mut folder = directory.to_owned();
        loop {
            if !self.spend(2) {
                return None;
            }
            if self.look_at(&format!("{}/{name}", folder.trim_end_matches('/'))).is_some() {
                return Some(folder);
            }
            folder.truncate(folder.rfind('/').filter(|at| *at > 0)?);
        }
    }
}

/// Makes a path absolute. The result may still contain parts such as `..`.
fn absolute(state: &State, path: &str) -> Option<String> {
    match &state.directory {
        _ if path.starts_with('/') => Some(path.to_owned()),
        directory => Some([directory.as_ref()?.trim_end_matches('/'), "/", path].concat()),
    }
}

/// Normalises an absolute path, and removes a slash at its end. `path` is the original path, which may be relative.
fn normal(path: &str, absolute: String) -> Option<String> {
    // The current directory is always normal, so only the original path is checked.
    let is_normal = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let normal = if is_normal { absolute } else { path_overlap::normal(&absolute) };
    let plain = normal.trim_end_matches('/');
    let is_path = !path.is_empty() && plain.len() <= PATH_MAX && !plain.contains(['\n', '\0']);
    is_path.then(|| if plain.is_empty() { "/".to_owned() } else { plain.to_owned() })
}

fn is_device(path: &str) -> bool {
    ["/dev/", "/proc/", "/sys/"].iter().any(|folder| path.starts_with(folder))
}
