//! `guard`: git hooks that refuse commits, merges and pushes of files that other peers have locked.
//!
//! **Invariant:** if the mesh is down or slow, every commit passes. After the check, the user's own hook (if there is
//! one) runs in full and under its own name.

mod check_locks_of_changed_files;
mod git_hook_installer;
mod hook_lines;
mod hooks_dir;
mod write_file_whole;

use super::print_line;
use crate::base::error::{Error, ErrorKind};
use crate::base::shell_wildcards::shell_quoted;
use crate::doctor::Check;
use git_hook_installer::GitHook;
use hook_lines::Program;
use hooks_dir::{HooksDir, Sharing};
use serde_json::json;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The hooks that the guard extends.
const HOOKS: &[&str] = &["pre-commit", "pre-merge-commit", "pre-push"];

/// Runs `guard install [HOOKSDIR]`, `guard remove` or `guard check HOOK`.
pub fn run_guard(words: &[String], json: bool) -> Result<u8, Error> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["install"] => install(None, json),
        ["install", dir] => install(Some(Path::new(dir)), json),
        ["remove"] => remove(json),
        // The check does not need the arguments that git passes to its hooks.
        ["check", hook, ..] => Ok(check_locks_of_changed_files::check_locks(hook)),
        _ => Err(Error::new(ErrorKind::Usage, "usage: slm-mesh guard install [HOOKSDIR] | remove")),
    }
}

/// Runs git in a directory and returns its output.
fn run_git<S: AsRef<OsStr>>(dir: &Path, args: &[S]) -> Result<Vec<u8>, Error> {
    let out = Command::new("git").arg("-C").arg(dir).args(args).output();
    let out =
        out.map_err(|error| Error::new(ErrorKind::Usage, format!("the guard needs git, but cannot run it ({error})")))?;
    if out.status.success() {
        return Ok(out.stdout);
    }
    let why = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    let name = args.first().map(|arg| arg.as_ref().to_string_lossy().into_owned()).unwrap_or_default();
    Err(Error::new(ErrorKind::Usage, format!("git {name}: {why}")))
}

fn cant_write(path: &Path, error: &std::io::Error) -> Error {
    let text = format!(
        "{} can't be written ({error}); check who owns its folder, and whether the disk is full",
        path.display()
    );
    Error::new(ErrorKind::Storage, text)
}

fn install(named: Option<&Path>, json: bool) -> Result<u8, Error> {
    let dir = HooksDir::find()?;
    dir.check_is_directory()?;
    let shown = dir.path.display();
    if let Some(named) = named.filter(|named| !dir.is_at(named)) {
        let (named, word) = (named.display(), shell_quoted(&dir.path.to_string_lossy()));
        let text = format!("git runs the hooks in {shown}, not in {named}; run slm-mesh guard install {word}");
        return Err(Error::new(ErrorKind::Usage, text));
    }
    let sharing = dir.sharing();
    let mut notes = Vec::new();
    match sharing {
        Sharing::Private => {}
        Sharing::AllRepositories | Sharing::Tracked if named.is_none() => return Err(refusal(&dir, sharing)),
        Sharing::AllRepositories => {
            notes.push("All your repositories share these hooks, so the guard now works in all of them.".into())
        }
        Sharing::Tracked => notes.push(
            "git tracks these hooks: once you have committed them, the guard works in every clone on a machine that \
             has slm-mesh on PATH."
                .to_owned(),
        ),
    }
    fs::create_dir_all(&dir.path).map_err(|error| cant_write(&dir.path, &error))?;
    let program = if sharing == Sharing::Tracked { Program::InPath } else { Program::Here(crate::sys::own_path()) };
    let _locks = dir.lock()?;
    let files: Vec<GitHook> = HOOKS.iter().map(|hook| GitHook::new(&dir, hook)).collect();
    // If any hook can't be extended, the command fails before the first hook is changed.
    files.iter().try_for_each(|file| file.check_installable(sharing))?;
    for file in &files {
        notes.extend(file.install(&program).map_err(|error| cant_write(&file.path, &error))?);
    }
    dir.record().map_err(|error| cant_write(&dir.record_path(), &error))?;
    let text = format!("Guarded: the hooks {} in {shown} now check for locks before git continues.", HOOKS.join(", "));
    let lines: Vec<String> = std::iter::once(text).chain(notes.clone()).collect();
    let value = json!({ "ok": true, "hooks": dir.path.to_string_lossy(), "notes": notes });
    print_line(&if json { value.to_string() } else { lines.join("\n") })
}

/// Returns the error for hooks that are shared with other repositories or users. The guard changes such hooks only if
/// the user specifies their directory.
fn refusal(dir: &HooksDir, sharing: Sharing) -> Error {
    let (shown, word) = (dir.path.display(), shell_quoted(&dir.path.to_string_lossy()));
    let why = match sharing {
        Sharing::Tracked => "are tracked by git",
        Sharing::Private | Sharing::AllRepositories => "are shared by all repositories",
    };
    let text = format!(
        "the hooks in {shown} {why}, so the guard changes them only if you name their directory; run slm-mesh guard \
         install {word}, or add a check to each hook yourself: \"slm-mesh guard check pre-commit || exit 1\" in \
         pre-commit, and the same line with the hook's own name in pre-merge-commit and pre-push"
    );
    Error::new(ErrorKind::Usage, text)
}

fn remove(json: bool) -> Result<u8, Error> {
    let dir = HooksDir::find()?;
    let (mut n_removed, mut places, mut notes) = (0, Vec::new(), Vec::new());
    for dir in dir.abandoned().into_iter().chain([dir]) {
        let _locks = dir.lock()?;
        let n_before = n_removed;
        for file in HOOKS.iter().map(|hook| GitHook::new(&dir, hook)) {
            let removed = file.remove().map_err(|error| cant_write(&file.path, &error))?;
            n_removed += usize::from(removed);
            let kept = file.kept_copies();
            notes.extend(
                kept.iter().map(|kept| format!("{} is one of your earlier hooks, and was kept.", kept.display())),
            );
        }
        if n_removed > n_before {
            places.push(dir.path.display().to_string());
        }
        dir.forget().map_err(|error| cant_write(&dir.record_path(), &error))?;
    }
    let text = match n_removed {
        0 => "There was no guard here.".into(),
        _ => format!("Removed the guard from {}.", places.join(" and ")),
    };
    let lines: Vec<String> = std::iter::once(text).chain(notes.clone()).collect();
    let value = json!({ "ok": true, "removed": n_removed, "notes": notes });
    print_line(&if json { value.to_string() } else { lines.join("\n") })
}

/// Checks whether the guard of this repository still works. Returns `None` if no guard was installed.
pub fn check_installed() -> Option<Check> {
    let dir = HooksDir::find().ok()?;
    let files: Vec<GitHook> = HOOKS.iter().map(|hook| GitHook::new(&dir, hook)).collect();
    let (guarded, off): (Vec<&GitHook>, Vec<&GitHook>) = files.iter().partition(|file| file.is_guarded());
    let recorded = dir.recorded();
    let shown = dir.path.display();
    let cure = "run slm-mesh guard install in this repository, or slm-mesh guard remove if you no longer want the \
                guard";
    if let Some((file, kept)) = files.iter().find_map(|file| Some((file, file.stranded_hook()?))) {
        let found = format!("your own hook {} was moved to {}, where git does not run it", file.hook, kept.display());
        return Some(Check::error("git guard", found, cure));
    }
    if guarded.is_empty() && recorded.is_empty() {
        return None;
    }
    if let Some(program) = guarded.iter().find_map(|file| file.broken_program()) {
        let found = format!("the hooks in {shown} run {program}, so the guard is off");
        return Some(Check::error("git guard", found, cure));
    }
    if off.is_empty() {
        return Some(Check::well("git guard", format!("on, in {shown}")));
    }
    let names: Vec<&str> = off.iter().map(|file| file.hook).collect();
    let is_moved = !recorded.is_empty() && !recorded.contains(&dir.path);
    let found = if is_moved && guarded.is_empty() {
        format!("git now runs the hooks in {shown}, where no guard is installed, so the guard is off")
    } else {
        format!("these hooks in {shown} were rewritten or removed, so the guard is off in them: {}", names.join(", "))
    };
    Some(Check::error("git guard", found, cure))
}
