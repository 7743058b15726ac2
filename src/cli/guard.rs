//! `guard`: git hooks that refuse a commit or a push of files that another peer has locked.
//!
//! **Invariant:** if the mesh is down or slow, every commit passes. A git hook that existed before is kept
//! and still runs.

use super::{actor_params, load_environment, print_line};
use crate::base::error::{Error, ErrorKind};
use crate::base::limits;
use crate::client::Client;
use crate::sys::{complain, git};
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The git hooks that `install` writes.
const HOOKS: &[&str] = &["pre-commit", "pre-push"];
/// The line that identifies a hook written by slm-mesh.
const MARK: &str = "# slm-mesh guard";
/// The suffix that a hook from before gets.
const BEFORE: &str = "before-slm-mesh";
/// How long the mesh may delay a commit.
const BUDGET: Duration = Duration::from_millis(500);
/// How many locks a refusal names.
const NAMED_MAX: usize = 10;

/// Runs `guard install`, `guard remove` or `guard check HOOK`.
pub fn run_guard(words: &[String], json: bool) -> Result<u8, Error> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["install"] => install(json),
        ["remove"] => remove(json),
        // The arguments that git passes to its hooks are not needed.
        ["check", hook, ..] => Ok(check_locks(hook)),
        _ => Err(Error::new(ErrorKind::Usage, "usage: slm-mesh guard install | remove")),
    }
}

/// Runs git in the current directory and returns its output.
fn run_git(args: &[&str]) -> Result<String, Error> {
    let out = Command::new("git").args(args).output();
    let out = out.map_err(|error| Error::new(ErrorKind::Usage, format!("cannot run git ({error}); guard needs it")))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Err(Error::new(ErrorKind::Usage, format!("git {}: {why}", args[0])))
}

/// The directory of this repository's hooks. git knows linked work trees and core.hooksPath.
fn hooks_dir() -> Result<PathBuf, Error> {
    let path = run_git(&["rev-parse", "--git-path", "hooks"])?;
    std::path::absolute(path.trim_end())
        .map_err(|error| Error::new(ErrorKind::Usage, format!("cannot find the directory of the git hooks ({error})")))
}

fn script(hook: &str) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("slm-mesh"));
    let program = program.display().to_string().replace('\'', "'\\''");
    // git passes the pushed refs on standard input, and both hooks must read them.
    format!(
        "#!/bin/sh\n{MARK}: refuses what another agent has locked; slm-mesh guard remove removes it.\n\
         input=\n[ '{hook}' = pre-push ] && input=$(cat)\n\
         if [ -x '{program}' ]; then\n    printf '%s\\n' \"$input\" | '{program}' guard check {hook} \"$@\" || exit 1\nfi\n\
         before=\"$0.{BEFORE}\"\n[ -x \"$before\" ] || exit 0\n\
         if [ '{hook}' = pre-push ]; then\n    printf '%s\\n' \"$input\" | \"$before\" \"$@\"\nelse\n    exec \"$before\" \"$@\"\nfi\n"
    )
}

fn is_ours(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.contains(MARK))
}

fn before(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.{BEFORE}", path.display()))
}

fn refused(path: &Path, error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Storage, format!("cannot write {} ({error}); check its owner and mode", path.display()))
}

fn install(json: bool) -> Result<u8, Error> {
    let dir = hooks_dir()?;
    fs::create_dir_all(&dir).map_err(|error| refused(&dir, &error))?;
    for hook in HOOKS {
        let path = dir.join(hook);
        if path.symlink_metadata().is_ok() && !is_ours(&path) {
            fs::rename(&path, before(&path)).map_err(|error| refused(&path, &error))?;
        }
        fs::write(&path, script(hook)).map_err(|error| refused(&path, &error))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(|error| refused(&path, &error))?;
    }
    let text = format!("Installed: {} and {} in {} now check locks.", HOOKS[0], HOOKS[1], dir.display());
    print_line(&if json { json!({ "ok": true, "hooks": dir }).to_string() } else { text })
}

fn remove(json: bool) -> Result<u8, Error> {
    let dir = hooks_dir()?;
    let mut n_removed = 0;
    for hook in HOOKS {
        let path = dir.join(hook);
        if !is_ours(&path) {
            continue;
        }
        n_removed += 1;
        let kept = before(&path);
        let done = if kept.symlink_metadata().is_ok() { fs::rename(&kept, &path) } else { fs::remove_file(&path) };
        done.map_err(|error| refused(&path, &error))?;
    }
    let text =
        if n_removed == 0 { "No guard is installed here.".into() } else { format!("Removed from {}.", dir.display()) };
    print_line(&if json { json!({ "ok": true, "removed": n_removed }).to_string() } else { text })
}

/// The hook itself. Returns 1 to refuse; if anything fails, the commit passes.
fn check_locks(hook: &str) -> u8 {
    match locks_in_the_way(hook) {
        Ok(locks) if !locks.is_empty() => {
            complain("slm-mesh: another peer has locked these files:");
            for lock in locks.iter().take(NAMED_MAX) {
                let word = |name: &str| super::render::plain(lock[name].as_str().unwrap_or(""));
                let left = crate::base::time::span(lock["expiresInSeconds"].as_i64().unwrap_or(0) * 1000);
                let (file, holder, reason) = (word("filePath"), word("holder"), word("reason"));
                complain(&format!("  {file} by {holder} ({left} left; {reason})"));
            }
            complain(
                "Wait (slm-mesh lock FILE --wait 60), ask the holder (slm-mesh send NAME \"…\"), or bypass with --no-verify.",
            );
            1
        }
        Ok(_) => 0,
        Err(error) => {
            complain(&format!("slm-mesh: locks were not checked: {error}"));
            0
        }
    }
}

/// Other peers' locks on the files of a commit or a push.
fn locks_in_the_way(hook: &str) -> Result<Vec<Value>, Error> {
    let root = run_git(&["rev-parse", "--show-toplevel"])?;
    let root = root.trim_end();
    let files = if hook == "pre-push" {
        pushed_files()?
    } else {
        run_git(&["diff", "--cached", "--name-only", "-z", "--no-renames"])?
    };
    let mut files: Vec<String> = files
        .split('\0')
        .filter(|file| !file.trim().is_empty())
        .map(|file| format!("{root}/{}", file.trim_start_matches('\n')))
        .collect();
    files.sort();
    files.dedup();
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let (places, settings) = load_environment()?;
    let facts = git::facts(Path::new(root));
    let mut client = Client::connect_or_start(&places)?;
    client.wait_at_most(Some(BUDGET)).map_err(|error| Error::new(ErrorKind::Gone, error.to_string()))?;
    let mut found = Vec::new();
    for part in files.chunks(limits::EDIT_FILES_MAX) {
        let mut ask = actor_params(&settings);
        ask.insert("files".into(), json!(part));
        ask.insert("repo".into(), json!(facts.repo));
        ask.insert("gitRoot".into(), json!(root));
        let value = client.call("lock.check", &Value::Object(ask))?;
        found.extend(value["locks"].as_array().cloned().unwrap_or_default());
    }
    Ok(found)
}

/// The files of a push. git gives its hook one line per ref: `local-ref local-id remote-ref remote-id`.
fn pushed_files() -> Result<String, Error> {
    let mut text = String::new();
    // What cannot be read cannot be checked, so it passes.
    let _ = std::io::stdin().lock().take(1 << 20).read_to_string(&mut text);
    let mut files = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, remote] = words[..] else { continue };
        let is_nothing = |id: &str| id.bytes().all(|byte| byte == b'0');
        if is_nothing(local) {
            continue;
        }
        let new = ["log", "--format=", "--name-only", "-z", "--no-renames", local, "--not", "--remotes"];
        let range = format!("{remote}..{local}");
        let found = if is_nothing(remote) {
            run_git(&new)
        } else {
            run_git(&["diff", "--name-only", "-z", "--no-renames", &range])
        };
        // If the remote commit is not in this clone, all new commits are checked instead.
        files.push_str(&found.or_else(|_| run_git(&new))?);
        files.push('\0');
    }
    Ok(files)
}
