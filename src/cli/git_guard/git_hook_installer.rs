//! One git hook. This module adds the guard before an existing hook, and can remove the guard.
//!
//! If the hook is a shell script, the guard's lines are inserted into it, so that the script keeps its name, its
//! arguments and its standard input. Any other hook is moved aside, and a script of the guard runs it.
//!
//! **Invariant:** wherever an installation or a removal stops, git still runs the user's hook, or `doctor` reports that
//! git does not run it. In the second case, the next installation or removal restores the hook.

use super::hook_lines::{self, ASIDES, BEFORE, BEGIN, Program, find_bytes};
use super::hooks_dir::{HooksDir, Sharing};
use super::write_file_whole::{draft_path, remove_if_there, write_draft, write_whole};
use crate::base::error::{Error, ErrorKind};
use crate::sys::command_with_timeout::run_bounded;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use std::{fs, io};

/// The suffixes that the hook managers pre-commit and lefthook add to the name of an existing hook.
const RENAMED: &[&str] = &["legacy", "old"];
/// The directory to which Overcommit, a hook manager, moves existing hooks.
const MOVED: &str = "old-hooks";
/// Maximum time for the program to print its version.
const RUNS_WITHIN: Duration = Duration::from_secs(5);

/// One git hook in a hooks directory.
pub struct GitHook {
    /// The name of the hook.
    pub hook: &'static str,
    /// The file that git runs.
    pub path: PathBuf,
    /// The directory for links to moved hooks. The path is relative to the hooks directory.
    aside: &'static str,
}

/// What a hook file contains.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A hook without the guard.
    Unguarded,
    /// A shell script that contains the guard's lines, and lines of the user. The value is the script without the lines
    /// that check for locks.
    Inline(Vec<u8>),
    /// The guard's own script, without any line of the user. It runs the hook that was moved aside, if there is one.
    Ours,
}

impl GitHook {
    /// Describes the hook with this name.
    pub fn new(dir: &HooksDir, hook: &'static str) -> GitHook {
        // A moved hook may look for its project relative to its own path. So the directory for moved hooks is usually
        // beside the hooks directory, at the same depth. But if the hooks directory is outside the git directory, for
        // example in a work tree, nothing may be added beside it. In this case, the directory for moved hooks is inside
        // the hooks directory.
        let is_usual = dir.path.parent() == Some(&dir.common);
        let [beside, inside] = ASIDES;
        let aside = if is_usual { beside } else { inside };
        GitHook { hook, path: dir.path.join(hook), aside }
    }

    /// Checks whether the guard can be installed in this hook. Only a hook that git tracks can be refused.
    ///
    /// # Errors
    /// If git tracks the hook and the guard's lines can't be inserted into it.
    pub fn check_installable(&self, sharing: Sharing) -> Result<(), Error> {
        let is_tracked = sharing == Sharing::Tracked;
        let is_theirs = self.find_in(&self.path) == Found::Unguarded;
        if is_tracked && is_theirs && insertion_point(&self.path, &read_hook(&self.path)).is_none() {
            let text = format!(
                "git tracks {}, which is not a plain shell script, so the guard can't change it; make it run \
                 slm-mesh guard check {}",
                self.path.display(),
                self.hook
            );
            return Err(Error::new(ErrorKind::Usage, text));
        }
        Ok(())
    }

    /// Adds the guard to the hook. Returns a note for the user, if there is one.
    ///
    /// # Errors
    /// If a file can't be written.
    pub fn install(&self, program: &Program) -> io::Result<Option<String>> {
        // A hook manager may have renamed our hook, because it mistook our hook for a hook of the user. The manager
        // runs the renamed hook, or restores it later. So the guard is removed from the renamed file.
        for renamed in self.renamed() {
            self.remove_from(&renamed)?;
        }
        let lines = hook_lines::check_lines(program, self.hook);
        let found = self.find_in(&self.path);
        let text = match &found {
            Found::Nothing | Found::Ours => {
                // If an installation was interrupted, the hook may have been moved aside without a link to it.
                if self.has_moved_hook() {
                    self.link_aside()?;
                }
                return write_whole(&self.path, self.script(&lines).as_bytes(), 0o755).map(|()| None);
            }
            Found::Inline(text) => text.clone(),
            Found::Unguarded => read_hook(&self.path),
        };
        if let Some(at) = hook_lines::end_of_shell_line(&text).filter(|_| self.runs_moved_hook(&text)) {
            self.link_aside()?;
            let mode = fs::metadata(&self.path)?.permissions().mode() | 0o111;
            let text = hook_lines::with_current_call(&text, self.aside, self.hook);
            return write_whole(&self.path, &inserted(&text, at, &lines), mode).map(|()| None);
        }
        let at = insertion_point(&self.path, &text);
        if at.is_none() {
            // If the hook contains the guard's lines but is no longer a shell script that git runs, the lines are
            // removed before the hook is moved aside.
            self.remove_from(&self.path)?;
        }
        let is_new = found == Found::Unguarded || at.is_none() || self.has_moved_hook();
        let note = if is_new { self.set_older_apart(&text)? } else { None };
        match at {
            Some(at) => self.insert(program, &text, at, &lines)?,
            None => self.move_aside(&lines)?,
        }
        Ok(note)
    }

    /// Inserts the guard's lines into the hook.
    fn insert(&self, program: &Program, text: &[u8], at: usize, lines: &str) -> io::Result<()> {
        let mode = fs::metadata(&self.path)?.permissions().mode();
        if matches!(program, Program::Here(_)) {
            // If a hook manager overwrites the hook later, this copy still contains the user's version.
            write_whole(&self.kept(), text, mode)?;
        }
        write_whole(&self.path, &inserted(text, at, lines), mode)?;
        // A link from an earlier installation would make the copy look like a hook that was moved aside.
        self.unlink_aside()
    }

    /// Moves the hook aside, and puts the guard's script in its place. The hook stays at its old path until all files
    /// that will run it exist. So git runs the hook even if this function fails or is killed.
    fn move_aside(&self, lines: &str) -> io::Result<()> {
        let draft = write_draft(&self.path, self.script(lines).as_bytes(), 0o755)?;
        let moved = self.link_aside().and_then(|()| self.keep_hook()).and_then(|()| fs::rename(&draft, &self.path));
        moved.inspect_err(|_| {
            // The error above matters more. If the hook can't be put back here, the next installation puts it back.
            let _ = self.put_back().and_then(|_| self.remove_leftovers());
        })
    }

    /// Gives the hook a second name, under which the guard's script will run it.
    fn keep_hook(&self) -> io::Result<()> {
        let kept = self.kept();
        // If a file with this name is still here, the file has the same text as the hook. `set_older_apart` has renamed
        // any other file.
        remove_if_there(&kept)?;
        match fs::hard_link(&self.path, &kept) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
            // Some file systems have no hard links, and Linux may refuse a link to a file of another user.
            Err(_) => fs::rename(&self.path, &kept)?,
        }
        // Another program may have replaced the hook after it was read.
        match self.find_in(&kept) {
            Found::Unguarded => Ok(()),
            _ => Err(io::Error::other("another program has just changed the hook")),
        }
    }

    /// If the hook was moved aside and nothing is in its place, moves it back. Returns whether the hook was moved back.
    fn put_back(&self) -> io::Result<bool> {
        let is_missing = self.find_in(&self.path) == Found::Nothing && self.has_moved_hook();
        if is_missing {
            fs::rename(self.kept(), &self.path)?;
        }
        Ok(is_missing)
    }

    /// Removes the guard. Returns whether there was one.
    ///
    /// # Errors
    /// If a file can't be written.
    pub fn remove(&self) -> io::Result<bool> {
        let mut removed = false;
        for path in std::iter::once(self.path.clone()).chain(self.renamed()) {
            removed |= self.remove_from(&path)?;
        }
        removed |= self.put_back()?;
        self.remove_leftovers()?;
        Ok(removed)
    }

    fn remove_from(&self, path: &Path) -> io::Result<bool> {
        match self.find_in(path) {
            Found::Nothing | Found::Unguarded => return Ok(false),
            Found::Inline(text) => {
                let mode = fs::metadata(path)?.permissions().mode();
                if self.runs_moved_hook(&text) && self.kept().symlink_metadata().is_ok() {
                    // The user has added lines to the guard's script. The guard's check is removed from the script. The
                    // rest stays as the user's hook, because it runs both the user's lines and the hook that was moved
                    // aside.
                    self.link_aside()?;
                    let text = hook_lines::with_current_call(&text, self.aside, self.hook);
                    return write_whole(path, &text, mode).map(|()| true);
                }
                // The hook may have changed since the guard was installed. So the hook's current text stays, and the
                // copy of its earlier text is removed.
                write_whole(path, &hook_lines::without_call(&text, self.hook), mode)?;
                if !self.has_moved_hook() {
                    remove_if_there(&self.kept())?;
                }
            }
            Found::Ours if self.has_moved_hook() => fs::rename(self.kept(), path)?,
            Found::Ours => fs::remove_file(path)?,
        }
        self.unlink_aside()?;
        Ok(true)
    }

    /// Removes what is left of an installation or a removal that was interrupted.
    fn remove_leftovers(&self) -> io::Result<()> {
        let draft = draft_path(&self.path);
        if draft.is_file() {
            fs::remove_file(draft)?;
        }
        // The copy can be equal to the hook because a run was interrupted, or because a hook manager has written the
        // same hook again. In both cases, the copy is not needed.
        if is_same_hook(&self.kept(), &self.path) {
            fs::remove_file(self.kept())?;
        }
        if self.find_in(&self.path) != Found::Ours && !self.runs_moved_hook(&read_hook(&self.path)) {
            self.unlink_aside()?;
        }
        Ok(())
    }

    /// Whether the file `kept` is the hook itself, which was moved aside, and not a copy of the hook's earlier text.
    fn has_moved_hook(&self) -> bool {
        let kept = self.kept();
        // The guard moves a hook aside only if it can't insert lines into the hook. An early version of the guard moved
        // every hook, and its script ran the moved hook directly, not through a link.
        let has_no_lines = || insertion_point(&kept, &read_hook(&kept)).is_none();
        let is_linked = || self.aside_path().symlink_metadata().is_ok();
        let is_run_without_link = || hook_lines::runs_hook_beside(&read_hook(&self.path));
        kept.symlink_metadata().is_ok() && (has_no_lines() || is_linked() || is_run_without_link())
    }

    fn runs_moved_hook(&self, text: &[u8]) -> bool {
        hook_lines::runs_moved_hook(text, self.hook)
    }

    /// If the user's hook was moved aside and git does not run it there, returns its path. Only an installation that
    /// was interrupted leaves a hook like this.
    pub fn stranded_hook(&self) -> Option<PathBuf> {
        let is_run = match self.find_in(&self.path) {
            Found::Unguarded => true,
            Found::Nothing => self.renamed().any(|path| self.find_in(&path) == Found::Ours),
            Found::Inline(text) if !self.runs_moved_hook(&text) => true,
            Found::Inline(_) | Found::Ours => self.is_linked(),
        };
        (!is_run && self.has_moved_hook()).then(|| self.kept())
    }

    /// Whether git runs the guard before this hook.
    pub fn is_guarded(&self) -> bool {
        let has_guard =
            |path: &Path| matches!(self.find_in(path), Found::Inline(_) | Found::Ours) && is_executable(path);
        // The hook manager pre-commit renames an existing hook, and runs the renamed hook before its own hook.
        let runs_legacy = || find_bytes(&read_hook(&self.path), b"pre-commit").is_some() && is_executable(&self.path);
        has_guard(&self.path) || runs_legacy() && has_guard(&self.with_suffix("legacy"))
    }

    /// Tries to run the program that the guard's lines call. If this fails, returns the program and the reason.
    pub fn broken_program(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&read_hook(&self.path)).into_owned();
        let lines = text.split(BEGIN).nth(1)?;
        let path = lines.split("[ ! -x '").nth(1).and_then(|rest| rest.split("' ] ||").next());
        // In a hook that git tracks, the guard's lines contain only the program's name. The shell finds the program on
        // PATH.
        let program = path.map_or_else(|| "slm-mesh".to_owned(), |path| path.replace("'\\''", "'"));
        if path.is_some() && !is_executable(Path::new(&program)) {
            return Some(format!("{program}, which no longer exists"));
        }
        let tried = run_bounded(Command::new(&program).arg("--version"), b"", RUNS_WITHIN, &AtomicBool::new(false));
        tried.err().map(|why| format!("{program}, but {why}"))
    }

    /// Returns the paths of all existing copies of earlier hooks.
    pub fn kept_copies(&self) -> Vec<PathBuf> {
        let older = (1..).map(|n| self.with_suffix(&format!("{BEFORE}.{n}")));
        let older = older.take_while(|path| path.symlink_metadata().is_ok());
        std::iter::once(self.kept()).filter(|path| path.symlink_metadata().is_ok()).chain(older).collect()
    }

    /// If the copy of an earlier hook differs from the current hook, renames the copy, so that a new copy does not
    /// overwrite it. In this case, returns a note for the user.
    fn set_older_apart(&self, text: &[u8]) -> io::Result<Option<String>> {
        let kept = self.kept();
        if kept.symlink_metadata().is_err() || is_same_hook(&kept, &self.path) || is_copy(&kept, text) {
            return Ok(None);
        }
        let names = (1..).map(|n| self.with_suffix(&format!("{BEFORE}.{n}")));
        let free = names.into_iter().find(|path| path.symlink_metadata().is_err()).unwrap_or_else(|| kept.clone());
        fs::rename(&kept, &free)?;
        Ok(Some(format!(
            "another program has replaced the hook {}; the hook that the guard had saved before is now in {}.",
            self.path.display(),
            free.display()
        )))
    }

    fn with_suffix(&self, suffix: &str) -> PathBuf {
        self.path.with_file_name(format!("{}.{suffix}", self.hook))
    }

    fn kept(&self) -> PathBuf {
        self.with_suffix(BEFORE)
    }

    /// The paths to which a hook manager may have moved our hook.
    fn renamed(&self) -> impl Iterator<Item = PathBuf> {
        let moved = self.path.with_file_name(MOVED).join(self.hook);
        RENAMED.iter().map(|suffix| self.with_suffix(suffix)).chain([moved])
    }

    fn aside_path(&self) -> PathBuf {
        self.path.with_file_name(self.aside).join(self.hook)
    }

    /// Creates a link to the hook that was moved aside. The link has the hook's own name, because some hooks check the
    /// name under which they run.
    fn link_aside(&self) -> io::Result<()> {
        let link = self.aside_path();
        if self.is_linked() {
            return Ok(());
        }
        if let Some(dir) = link.parent() {
            fs::create_dir_all(dir)?;
        }
        // A rename replaces another link in one step, so the hook can be found at any time.
        let draft = draft_path(&link);
        remove_if_there(&draft)?;
        symlink(self.link_target(), &draft)?;
        fs::rename(&draft, &link)
    }

    fn is_linked(&self) -> bool {
        fs::read_link(self.aside_path()).is_ok_and(|to| to == self.link_target())
    }

    fn link_target(&self) -> PathBuf {
        let hooks = self.path.parent().and_then(Path::file_name).unwrap_or_default();
        let back = if self.aside.starts_with("..") { Path::new("..").join(hooks) } else { PathBuf::from("..") };
        back.join(format!("{}.{BEFORE}", self.hook))
    }

    fn unlink_aside(&self) -> io::Result<()> {
        let link = self.aside_path();
        remove_if_there(&link)?;
        remove_if_there(&draft_path(&link))?;
        if let Some(dir) = link.parent() {
            // This fails if the directory still contains other hooks.
            let _ = fs::remove_dir(dir);
        }
        Ok(())
    }

    /// Returns a script that checks for locks, and then runs the earlier hook.
    fn script(&self, lines: &str) -> String {
        hook_lines::script(lines, self.aside, self.hook)
    }

    fn find_in(&self, path: &Path) -> Found {
        if path.symlink_metadata().is_err() {
            return Found::Nothing;
        }
        let Some(bare) = hook_lines::without_check(&read_hook(path)) else { return Found::Unguarded };
        if hook_lines::is_own_script(&bare, self.hook) { Found::Ours } else { Found::Inline(bare) }
    }
}

/// Returns where to insert the guard's lines: after the first line of an executable shell script. Returns `None` for a
/// script in another language, and for a script that runs itself again with `exec`.
fn insertion_point(path: &Path, text: &[u8]) -> Option<usize> {
    let is_file = path.symlink_metadata().is_ok_and(|meta| meta.is_file());
    if !is_file || !is_executable(path) {
        return None;
    }
    hook_lines::end_of_shell_line(text).filter(|_| !hook_lines::runs_itself_again(text))
}

fn inserted(text: &[u8], at: usize, lines: &str) -> Vec<u8> {
    [&text[..at], lines.as_bytes(), &text[at..]].concat()
}

fn read_hook(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_default()
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether the path leads directly to a file with this text, not to a link.
fn is_copy(path: &Path, text: &[u8]) -> bool {
    fs::read_link(path).is_err() && fs::read(path).is_ok_and(|found| found == text)
}

/// Whether two hooks are links to the same target, or files with the same text.
fn is_same_hook(one: &Path, other: &Path) -> bool {
    match (fs::read_link(one), fs::read_link(other)) {
        (Ok(one), Ok(other)) => one == other,
        (Err(_), Err(_)) => fs::read(other).is_ok_and(|text| is_copy(one, &text)),
        _ => false,
    }
}
