//! `guard`: git hooks that refuse a commit or a push of files that another peer has locked.
//!
//! **Invariant:** if the mesh is down or slow, every commit passes. A git hook that existed before runs
//! after the check, under its own name, and nothing of it is lost.

use super::{actor_params, load_environment, print_line};
use crate::agents::doctor::Check;
use crate::base::error::{Error, ErrorKind};
use crate::base::limits;
use crate::client::Client;
use crate::sys::{git, print_error};
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The hooks that the guard adds to.
const HOOKS: &[&str] = &["pre-commit", "pre-push"];
/// The first and the last line of what the guard adds.
const BEGIN: &str =
    "# slm-mesh guard: refuses what another agent has locked; slm-mesh guard remove takes these lines out.";
const END: &str = "# end of slm-mesh guard";
/// What a hook that existed before is kept as.
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

/// The lines that ask the mesh. What follows them in a hook finds its name, its arguments and its
/// standard input as git gave them.
fn guard_lines(hook: &str) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("slm-mesh"));
    let program = format!("'{}'", program.display().to_string().replace('\'', "'\\''"));
    let check = format!("{program} guard check {hook} \"$@\"");
    let lines = if hook == "pre-push" {
        // A push passes its refs on standard input, and both the guard and the hook read them.
        format!(
            "slm_mesh_refs=$(cat)\nif [ -n \"$slm_mesh_refs\" ]; then\n    \
             [ ! -x {program} ] || printf '%s\\n' \"$slm_mesh_refs\" | {check} || exit 1\n    \
             exec <<SLM_MESH_REFS\n$slm_mesh_refs\nSLM_MESH_REFS\nfi\n"
        )
    } else {
        format!("[ ! -x {program} ] || {check} || exit 1\n")
    };
    format!("{BEGIN}\n{lines}{END}\n")
}

/// A hook that asks the mesh, and then runs the hook that was there before.
fn script(hook: &str) -> String {
    let lines = guard_lines(hook);
    format!("#!/bin/sh\n{lines}before=\"$0.{BEFORE}\"\n[ -x \"$before\" ] || exit 0\nexec \"$before\" \"$@\"\n")
}

/// A hook's text without what the guard added; none if it added nothing.
fn without_guard(text: &str) -> Option<String> {
    let start = text.find(BEGIN)?;
    let end = start + text[start..].find(&format!("{END}\n"))? + END.len() + 1;
    Some(format!("{}{}", &text[..start], &text[end..]))
}

/// Where the guard's lines go in a hook: behind the first line of an executable shell script. Any other
/// hook is kept aside and run from ours.
fn place_in(path: &Path, text: &str) -> Option<usize> {
    let meta = path.symlink_metadata().ok().filter(fs::Metadata::is_file)?;
    let end = text.find('\n')? + 1;
    let words = text[..end].strip_prefix("#!")?.split(['/', ' ', '\n']);
    let is_shell = words.into_iter().any(|word| ["sh", "bash", "dash", "zsh", "ksh"].contains(&word));
    (is_shell && meta.permissions().mode() & 0o111 != 0).then_some(end)
}

fn read_hook(path: &Path) -> String {
    fs::read(path).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

fn kept_aside(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.{BEFORE}", path.display()))
}

fn cant_write(path: &Path, error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Storage, format!("{} can't be written ({error}); see who owns it", path.display()))
}

/// Refuses hooks that belong to more than this repository of this user.
fn check_hooks_are_local(dir: &Path) -> Result<(), Error> {
    let shown = dir.display();
    let cure =
        "add the line: slm-mesh guard check pre-commit || exit 1 (in pre-push: guard check pre-push) to your hooks";
    let refuse =
        |why: String| Err(Error::new(ErrorKind::Usage, format!("{why}, so guard does not change them; {cure}")));
    let scope = run_git(&["config", "--show-scope", "--get", "core.hooksPath"]).unwrap_or_default();
    if scope.starts_with("global") || scope.starts_with("system") {
        return refuse(format!("the hooks in {shown} serve all repositories"));
    }
    let tracked = run_git(&["ls-files", "--", &dir.to_string_lossy()]).unwrap_or_default();
    if !tracked.trim().is_empty() {
        return refuse(format!("the hooks in {shown} are tracked by git"));
    }
    Ok(())
}

fn install(json: bool) -> Result<u8, Error> {
    let dir = hooks_dir()?;
    check_hooks_are_local(&dir)?;
    fs::create_dir_all(&dir).map_err(|error| cant_write(&dir, &error))?;
    for hook in HOOKS {
        install_hook(&dir.join(hook), hook)?;
    }
    let text = format!("Guarded: {} and {} in {} ask the mesh first.", HOOKS[0], HOOKS[1], dir.display());
    print_line(&if json { json!({ "ok": true, "hooks": dir }).to_string() } else { text })
}

fn install_hook(path: &Path, hook: &str) -> Result<(), Error> {
    let fail = |error: std::io::Error| cant_write(path, &error);
    let text = read_hook(path);
    let bare = without_guard(&text);
    let was_script = bare.as_ref().is_some_and(|_| text == script(hook) || text.contains(&format!("$0.{BEFORE}")));
    let bare = bare.unwrap_or_else(|| text.clone());
    if path.symlink_metadata().is_err() || was_script {
        return write_hook(path, &script(hook)).map_err(fail);
    }
    let kept = kept_aside(path);
    let is_new = !text.contains(BEGIN);
    if is_new && kept.symlink_metadata().is_ok() && read_hook(&kept) != text {
        let text = format!(
            "{} holds an older hook of yours, and {} is a new one; move the older one away and run this again",
            kept.display(),
            path.display()
        );
        return Err(Error::new(ErrorKind::Usage, text));
    }
    if let Some(at) = place_in(path, &bare) {
        // A hook manager may overwrite the file later; then this copy has the user's hook.
        fs::write(&kept, &bare).map_err(fail)?;
        let with = format!("{}{}{}", &bare[..at], guard_lines(hook), &bare[at..]);
        return fs::write(path, with).map_err(fail);
    }
    fs::rename(path, &kept).map_err(fail)?;
    write_hook(path, &script(hook)).map_err(fail)
}

fn write_hook(path: &Path, text: &str) -> std::io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn remove(json: bool) -> Result<u8, Error> {
    let dir = hooks_dir()?;
    let mut n_removed = 0;
    for hook in HOOKS {
        let path = dir.join(hook);
        let text = read_hook(&path);
        let Some(bare) = without_guard(&text) else { continue };
        n_removed += 1;
        let kept = kept_aside(&path);
        let done = if !text.contains(&format!("$0.{BEFORE}")) {
            // A hook that the user changed since keeps its change, and the copy goes.
            fs::write(&path, bare).and_then(|()| if kept.exists() { fs::remove_file(&kept) } else { Ok(()) })
        } else if kept.symlink_metadata().is_ok() {
            fs::rename(&kept, &path)
        } else {
            fs::remove_file(&path)
        };
        done.map_err(|error| cant_write(&path, &error))?;
    }
    let text =
        if n_removed == 0 { "There was no guard here.".into() } else { format!("Removed from {}.", dir.display()) };
    print_line(&if json { json!({ "ok": true, "removed": n_removed }).to_string() } else { text })
}

/// Checks, in the repository of the working directory, that hooks to which the guard was added still
/// have it. Answers nothing if the guard was never added.
pub fn check_installed() -> Option<Check> {
    let dir = hooks_dir().ok()?;
    let is_off = |hook: &&&str| kept_aside(&dir.join(hook)).exists() && !read_hook(&dir.join(hook)).contains(BEGIN);
    let off: Vec<&str> = HOOKS.iter().filter(is_off).copied().collect();
    let has_guard = HOOKS.iter().any(|hook| read_hook(&dir.join(hook)).contains(BEGIN));
    let shown = dir.display();
    if !off.is_empty() {
        let found = format!("another program wrote {} in {shown} anew, so the guard is off", off.join(" and "));
        let cure = format!("move the files *.{BEFORE} away, and run slm-mesh guard install");
        return Some(Check::error("git guard", found, cure));
    }
    has_guard.then(|| Check::well("git guard", format!("on, in {shown}")))
}

/// The hook itself. Returns 1 to refuse; if anything fails, the commit passes.
fn check_locks(hook: &str) -> u8 {
    match locks_in_the_way(hook) {
        Ok(locks) if !locks.is_empty() => {
            print_error("slm-mesh: another peer has locked these files:");
            for lock in locks.iter().take(NAMED_MAX) {
                let word = |name: &str| super::render::plain(lock[name].as_str().unwrap_or(""));
                let left = crate::base::time::span(lock["expiresInSeconds"].as_i64().unwrap_or(0) * 1000);
                let (file, holder, reason) = (word("filePath"), word("holder"), word("reason"));
                print_error(&format!("  {file} by {holder} ({left} left; {reason})"));
            }
            print_error(
                "Wait (slm-mesh lock FILE --wait 60), ask the holder (slm-mesh send NAME \"…\"), or bypass with --no-verify.",
            );
            1
        }
        Ok(_) => 0,
        Err(error) => {
            print_error(&format!("slm-mesh: locks were not checked: {error}"));
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
    client.set_receive_timeout(Some(BUDGET)).map_err(|error| Error::new(ErrorKind::Gone, error.to_string()))?;
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
