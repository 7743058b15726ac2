//! One git hook: how the guard is put in front of what is there, and taken out again.
//!
//! The guard's lines go into a shell script itself, so that the script finds its name, arguments and input
//! as before. Any other hook is moved aside, and our script runs it.

use super::hooks_dir::{HooksDir, Sharing};
use crate::base::error::{Error, ErrorKind};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The first and the last line of what the guard adds.
const BEGIN: &str =
    "# slm-mesh guard: refuses what another agent has locked; slm-mesh guard remove takes these lines out.";
const END: &str = "# end of slm-mesh guard";
/// The suffix of the copy of an earlier hook, and the name of the directory in which that hook keeps its own name.
const BEFORE: &str = "before-slm-mesh";
/// The suffixes that hook managers give to a hook that they found: pre-commit's and lefthook's.
const RENAMED: &[&str] = &["legacy", "old"];
/// Shells in which the guard's lines mean the same.
const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ksh"];

/// How the guard's lines find this program.
pub enum Program {
    /// At this path.
    Here(PathBuf),
    /// By its name, since the hook is used on other machines, too.
    InPath,
}

/// A hook in its directory.
pub struct GitHook {
    /// Its name.
    pub hook: &'static str,
    /// The file that git runs.
    pub path: PathBuf,
    /// Where a hook that was moved aside has its own name, as seen from the hooks.
    aside: &'static str,
}

/// What stands in a hook's place.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A hook without the guard.
    Unguarded,
    /// A shell script with the guard's lines; the script without these.
    Inline(Vec<u8>),
    /// Our script, which runs the hook that was moved aside, if any.
    Ours,
}

impl GitHook {
    /// The hook of this name.
    pub fn new(dir: &HooksDir, hook: &'static str) -> GitHook {
        // A hook that looks for its project from where it lies must find it, but a work tree gets no
        // our directory outside its hooks.
        let is_usual = dir.path.parent() == Some(&dir.common);
        let aside = if is_usual { "../before-slm-mesh" } else { "before-slm-mesh" };
        GitHook { hook, path: dir.path.join(hook), aside }
    }

    /// Refuses a hook that can't be guarded in a way that suits all who share it.
    ///
    /// # Errors
    /// When git tracks the hook and its language is none that the guard's lines are written in.
    pub fn check_installable(&self, sharing: Sharing) -> Result<(), Error> {
        let is_tracked = sharing == Sharing::Tracked;
        let is_theirs = find_in(&self.path) == Found::Unguarded;
        if is_tracked && is_theirs && insertion_point(&self.path, &read_hook(&self.path)).is_none() {
            let text = format!(
                "{} is no plain shell script, and git tracks it; call slm-mesh guard check {} there",
                self.path.display(),
                self.hook
            );
            return Err(Error::new(ErrorKind::Usage, text));
        }
        Ok(())
    }

    /// Puts the guard in front of the hook; returns what the user should know.
    ///
    /// # Errors
    /// When a file can't be written.
    pub fn install(&self, program: &Program) -> io::Result<Option<String>> {
        // A manager that renamed our hook would run it, or the hook that it stands for, as an old one.
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
                // A hook manager may overwrite the file later; then this copy has the user's hook.
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

    /// Takes the guard out; whether there was one.
    ///
    /// # Errors
    /// When a file can't be written.
    pub fn remove(&self) -> io::Result<bool> {
        let mut removed = false;
        for path in std::iter::once(self.path.clone()).chain(self.renamed()) {
            removed |= self.remove_from(&path)?;
        }
        let kept = self.kept();
        // A manager may have written the same hook again.
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
                // A hook that the user changed since keeps its change, and the copy goes.
                write_hook(path, &text, fs::metadata(path)?.permissions().mode())?;
                remove_if_there(&kept)?;
            }
            Found::Ours if kept.symlink_metadata().is_ok() => fs::rename(&kept, path)?,
            Found::Ours => fs::remove_file(path)?,
        }
        let link = self.aside_path();
        remove_if_there(&link)?;
        if let Some(dir) = link.parent() {
            // Another hook may still be in it.
            let _ = fs::remove_dir(dir);
        }
        Ok(true)
    }

    /// Whether git asks the guard before this hook.
    pub fn is_guarded(&self) -> bool {
        let has_guard = |path: &Path| matches!(find_in(path), Found::Inline(_) | Found::Ours) && is_executable(path);
        // pre-commit runs the hook that it found before its own.
        let runs_legacy = || find_bytes(&read_hook(&self.path), b"pre-commit").is_some() && is_executable(&self.path);
        has_guard(&self.path) || runs_legacy() && has_guard(&self.with_suffix("legacy"))
    }

    /// The program that the guard's lines call, if it is gone.
    pub fn missing_program(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&read_hook(&self.path)).into_owned();
        let lines = text.split(BEGIN).nth(1)?;
        let program = lines.split("[ ! -x '").nth(1)?.split("' ] ||").next()?.replace("'\\''", "'");
        (!is_executable(Path::new(&program))).then_some(program)
    }

    /// Copies of earlier hooks that are still there.
    pub fn kept_copies(&self) -> Vec<PathBuf> {
        let older = (1..).map(|n| self.with_suffix(&format!("{BEFORE}.{n}")));
        let older = older.take_while(|path| path.symlink_metadata().is_ok());
        std::iter::once(self.kept()).filter(|path| path.symlink_metadata().is_ok()).chain(older).collect()
    }

    /// Renames the kept copy if it differs from the hook that is there now, so that neither is lost.
    fn set_older_apart(&self, text: &[u8]) -> io::Result<Option<String>> {
        let kept = self.kept();
        if kept.symlink_metadata().is_err() || read_hook(&kept) == text {
            return Ok(None);
        }
        let names = (1..).map(|n| self.with_suffix(&format!("{BEFORE}.{n}")));
        let free = names.into_iter().find(|path| path.symlink_metadata().is_err()).unwrap_or_else(|| kept.clone());
        fs::rename(&kept, &free)?;
        Ok(Some(format!(
            "{} was replaced since; the hook that was there before is {}.",
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

    fn renamed(&self) -> impl Iterator<Item = PathBuf> {
        RENAMED.iter().map(|suffix| self.with_suffix(suffix))
    }

    fn aside_path(&self) -> PathBuf {
        self.path.with_file_name(self.aside).join(self.hook)
    }

    /// Gives the hook that was moved aside its own name: some hooks do what their name says.
    fn link_aside(&self) -> io::Result<()> {
        let link = self.aside_path();
        let Some(dir) = link.parent() else { return Ok(()) };
        fs::create_dir_all(dir)?;
        remove_if_there(&link)?;
        let hooks = self.path.parent().and_then(Path::file_name).unwrap_or_default();
        let back = if self.aside.starts_with("..") { Path::new("..").join(hooks) } else { PathBuf::from("..") };
        symlink(back.join(format!("{}.{BEFORE}", self.hook)), &link)
    }

    /// A hook that asks the mesh, and then runs the hook that was there before.
    fn script(&self, lines: &str) -> String {
        let (aside, hook) = (self.aside, self.hook);
        format!(
            "#!/bin/sh\n{lines}before=\"${{0%/*}}/{aside}/{hook}\"\n[ -x \"$before\" ] || exit 0\nexec \"$before\" \"$@\"\n"
        )
    }
}

/// The lines that ask the mesh. What follows them in a hook finds its name, its arguments and its
/// standard input as git gave them.
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
        // A push passes its refs on standard input, and both the guard and the hook read them.
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

/// Where the guard's lines go in a hook: behind the first line of an executable shell script. There is no
/// such place in a script that has itself read by another language.
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

/// Writes a hook whole or not at all. A file that has a second name keeps its content under that one.
fn write_hook(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let new = PathBuf::from(format!("{}.new-slm-mesh", path.display()));
    let written = fs::write(&new, text)
        .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(mode & 0o7777)))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // The error of the write is what counts.
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
