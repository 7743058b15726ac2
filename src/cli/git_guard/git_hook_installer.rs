//! One git hook. This module adds the guard before an existing hook, and can remove the guard.
//!
//! If the hook is a shell script, the guard's lines are inserted into it, so that the script keeps its name, its
//! arguments and its standard input. Any other hook is moved aside, and a script of the guard runs it.

use super::hooks_dir::{HooksDir, Sharing};
use crate::base::error::{Error, ErrorKind};
use crate::sys::command_with_timeout::run_bounded;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use std::{fs, io};

/// The first line that the guard adds to a hook.
const BEGIN: &str =
    "# slm-mesh guard: refuses what another agent has locked; slm-mesh guard remove takes these lines out.";
const END: &str = "# end of slm-mesh guard";
/// The suffix of the copy of an earlier hook. This is also the name of the directory with links to moved hooks.
const BEFORE: &str = "before-slm-mesh";
/// The suffixes that the hook managers pre-commit and lefthook add to the name of an existing hook.
const RENAMED: &[&str] = &["legacy", "old"];
/// The directory to which the hook manager overcommit moves existing hooks.
const MOVED: &str = "old-hooks";
/// Shells that can run the guard's lines.
const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ksh"];

/// Maximum time for the program to print its version.
const RUNS_WITHIN: Duration = Duration::from_secs(5);

/// How the guard's lines find this program.
pub enum Program {
    /// The guard's lines contain the path of this program on the machine.
    Here(PathBuf),
    /// The guard's lines name this program without its path, because the hook is also used on other machines.
    InPath,
}

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
    /// A shell script that contains the guard's lines. The value is the script without these lines.
    Inline(Vec<u8>),
    /// The guard's own script. It runs the hook that was moved aside, if there is one.
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
        let aside = if is_usual { "../before-slm-mesh" } else { "before-slm-mesh" };
        GitHook { hook, path: dir.path.join(hook), aside }
    }

    /// Checks whether the guard can be installed in this hook. Only a hook that git tracks can be refused.
    ///
    /// # Errors
    /// If git tracks the hook and the guard's lines can't be inserted into it.
    pub fn check_installable(&self, sharing: Sharing) -> Result<(), Error> {
        let is_tracked = sharing == Sharing::Tracked;
        let is_theirs = find_in(&self.path) == Found::Unguarded;
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
        let lines = guard_lines(program, self.hook);
        let text = match find_in(&self.path) {
            Found::Nothing => return write_hook(&self.path, self.script(&lines).as_bytes(), 0o755).map(|()| None),
            Found::Ours => {
                self.link_aside()?;
                return write_hook(&self.path, self.script(&lines).as_bytes(), 0o755).map(|()| None);
            }
            Found::Inline(text) => text,
            Found::Unguarded => read_hook(&self.path),
        };
        let is_new = find_in(&self.path) == Found::Unguarded;
        let note = if is_new { self.set_older_apart(&text)? } else { None };
        if let Some(at) = insertion_point(&self.path, &text) {
            let mode = fs::metadata(&self.path)?.permissions().mode();
            if matches!(program, Program::Here(_)) {
                // If a hook manager overwrites the hook later, this copy still contains the user's version.
                write_hook(&self.kept(), &text, mode)?;
            }
            let with = [&text[..at], lines.as_bytes(), &text[at..]].concat();
            return write_hook(&self.path, &with, mode).map(|()| note);
        }
        fs::rename(&self.path, self.kept())?;
        self.link_aside()?;
        write_hook(&self.path, self.script(&lines).as_bytes(), 0o755)?;
        Ok(note)
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
        let kept = self.kept();
        // If a hook manager has written the same hook again, the copy is no longer needed.
        if !removed && kept.exists() && read_hook(&kept) == read_hook(&self.path) {
            fs::remove_file(&kept)?;
        }
        Ok(removed)
    }

    fn remove_from(&self, path: &Path) -> io::Result<bool> {
        let kept = self.kept();
        match find_in(path) {
            Found::Nothing | Found::Unguarded => return Ok(false),
            Found::Inline(text) => {
                // The hook may have changed since the guard was installed. So its current text stays, and the copy is
                // removed.
                write_hook(path, &text, fs::metadata(path)?.permissions().mode())?;
                remove_if_there(&kept)?;
            }
            Found::Ours if kept.symlink_metadata().is_ok() => fs::rename(&kept, path)?,
            Found::Ours => fs::remove_file(path)?,
        }
        let link = self.aside_path();
        remove_if_there(&link)?;
        if let Some(dir) = link.parent() {
            // This fails if the directory still contains other hooks.
            let _ = fs::remove_dir(dir);
        }
        Ok(true)
    }

    /// Whether git runs the guard before this hook.
    pub fn is_guarded(&self) -> bool {
        let has_guard = |path: &Path| matches!(find_in(path), Found::Inline(_) | Found::Ours) && is_executable(path);
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
        if kept.symlink_metadata().is_err() || read_hook(&kept) == text {
            return Ok(None);
        }
        let names = (1..).map(|n| self.with_suffix(&format!("{BEFORE}.{n}")));
        let free = names.into_iter().find(|path| path.symlink_metadata().is_err()).unwrap_or_else(|| kept.clone());
        fs::rename(&kept, &free)?;
        Ok(Some(format!(
            "another program has replaced the hook {}; the earlier hook is now in {}.",
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
        let Some(dir) = link.parent() else { return Ok(()) };
        fs::create_dir_all(dir)?;
        remove_if_there(&link)?;
        let hooks = self.path.parent().and_then(Path::file_name).unwrap_or_default();
        let back = if self.aside.starts_with("..") { Path::new("..").join(hooks) } else { PathBuf::from("..") };
        symlink(back.join(format!("{}.{BEFORE}", self.hook)), &link)
    }

    /// Returns a script that checks for locks, and then runs the earlier hook.
    fn script(&self, lines: &str) -> String {
        let (aside, hook) = (self.aside, self.hook);
        format!(
            "#!/bin/sh\n{lines}before=\"${{0%/*}}/{aside}/{hook}\"\n[ -x \"$before\" ] || exit 0\nexec \"$before\" \"$@\"\n"
        )
    }
}

/// Returns the lines that check for locks. The lines do not change the hook's name, its arguments or its standard
/// input.
fn guard_lines(program: &Program, hook: &str) -> String {
    let (is_missing, program) = match program {
        Program::Here(path) => {
            let quoted = format!("'{}'", path.display().to_string().replace('\'', "'\\''"));
            (format!("[ ! -x {quoted} ]"), quoted)
        }
        Program::InPath => ("! command -v slm-mesh >/dev/null 2>&1".into(), "slm-mesh".into()),
    };
    let check = format!("{program} guard check {hook} \"$@\"");
    let lines = if hook == "pre-push" {
        // Git passes the refs of a push on standard input, which both the guard and the hook must read.
        format!(
            "slm_mesh_refs=$(cat)\nif [ -n \"$slm_mesh_refs\" ]; then\n    \
             {is_missing} || printf '%s\\n' \"$slm_mesh_refs\" | {check} || exit 1\n    \
             exec <<SLM_MESH_REFS\n$slm_mesh_refs\nSLM_MESH_REFS\nfi\n"
        )
    } else {
        format!("{is_missing} || {check} || exit 1\n")
    };
    format!("{BEGIN}\n{lines}{END}\n")
}

fn find_in(path: &Path) -> Found {
    if path.symlink_metadata().is_err() {
        return Found::Nothing;
    }
    let text = read_hook(path);
    let Some(start) = find_bytes(&text, BEGIN.as_bytes()) else { return Found::Unguarded };
    let last = format!("{END}\n");
    let Some(length) = find_bytes(&text[start..], last.as_bytes()) else { return Found::Unguarded };
    let bare = [&text[..start], &text[start + length + last.len()..]].concat();
    let is_ours = bare.starts_with(b"#!/bin/sh\nbefore=\"") && find_bytes(&bare, BEFORE.as_bytes()).is_some();
    if is_ours { Found::Ours } else { Found::Inline(bare) }
}

/// Returns where to insert the guard's lines: after the first line of an executable shell script. Returns `None` for a
/// script in another language, and for a script that runs itself again with `exec`.
fn insertion_point(path: &Path, text: &[u8]) -> Option<usize> {
    let is_file = path.symlink_metadata().is_ok_and(|meta| meta.is_file());
    if !is_file || !is_executable(path) {
        return None;
    }
    let end = text.iter().position(|byte| *byte == b'\n')? + 1;
    let first = std::str::from_utf8(&text[..end]).ok()?.strip_prefix("#!")?;
    let is_shell = first.split(['/', ' ', '\n']).any(|word| SHELLS.contains(&word));
    let rereads = |line: &[u8]| find_bytes(line, b"exec").is_some() && find_bytes(line, b"$0").is_some();
    (is_shell && !text.split(|byte| *byte == b'\n').any(rereads)).then_some(end)
}

fn read_hook(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_default()
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Writes a hook completely or not at all. Other hard links to the old file keep the old content.
fn write_hook(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let new = PathBuf::from(format!("{}.new-slm-mesh", path.display()));
    let written = fs::write(&new, text)
        .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(mode & 0o7777)))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // The error of the write matters more, so an error of the removal is ignored.
        let _ = fs::remove_file(&new);
    }
    written
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn find_bytes(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|part| part == wanted)
}
