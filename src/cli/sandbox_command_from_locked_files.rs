//! `shield -- COMMAND`: runs a command so that it cannot write the files that other peers have locked in this work
//! tree.
//!
//! **Invariant:** the command replaces this process, so the caller gets the command's own exit status. The command gets
//! the caller's terminal and signals.

use super::load_environment;
use super::parsed_command::ParsedCommand;
use super::run_under_lock::report_not_run;
use crate::agents::held_files::{HeldFiles, LockedPath};
use crate::base::error::{Error, ErrorKind};
use crate::client::Client;
use crate::sys::{path_normalization, read_git_files, sandbox_with_read_only_files};
use serde_json::json;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The options of `shield`.
#[derive(Debug, Clone, Default)]
pub struct ShieldOptions {
    /// Further files that the command must not write.
    pub files: Vec<String>,
    /// Whether to run the command even if the system can't create a shield.
    pub is_optional: bool,
}

/// Runs a command in a shield. Returns only if the command cannot be run.
pub fn run_shielded(options: &ShieldOptions, parsed: &ParsedCommand) -> Result<u8, Error> {
    let named = files_to_protect(&options.files)?;
    let prefix = enter(named, options, parsed);
    let prefix = if options.is_optional { prefix.unwrap_or_default() } else { prefix? };
    let mut words = prefix.iter().chain(&parsed.command_line);
    let Some(program) = words.next() else { return Ok(0) };
    Ok(report_not_run(program, &Command::new(program).args(words).exec()))
}

/// Returns the absolute paths of the files that the user gave. Refuses a file that does not exist, because a shield
/// can't protect it.
fn files_to_protect(given: &[String]) -> Result<Vec<PathBuf>, Error> {
    let path = |file: &String| {
        let path = PathBuf::from(path_normalization::absolute(file)?);
        let why = match path.try_exists() {
            Ok(true) => return Ok(path),
            Ok(false) => "it does not exist".to_owned(),
            Err(error) => error.to_string(),
        };
        let text = format!(
            "--file: \"{file}\" can't be protected ({why}); name a file or a folder that exists, not a pattern"
        );
        Err(Error::new(ErrorKind::Usage, text))
    };
    given.iter().map(path).collect()
}

/// Makes files read-only: the given files, and the files that other peers have locked. Returns the words that must
/// precede the command.
fn enter(
    mut files: Vec<PathBuf>,
    options: &ShieldOptions,
    parsed: &ParsedCommand,
) -> Result<Vec<std::ffi::OsString>, Error> {
    files.extend(held_by_others(options, parsed)?);
    if files.is_empty() {
        return Ok(Vec::new());
    }
    sandbox_with_read_only_files::protect(&files).map_err(|error| {
        let text =
            format!("this system can't provide a shield ({error}); add --if-possible to run the command without one");
        Error::new(ErrorKind::Usage, text)
    })
}

/// Returns the files and folders that other peers have locked in this work tree. Locks outlast a broker, so this
/// function starts a broker if none is running. But without a database, there are no locks, and no broker is needed.
fn held_by_others(options: &ShieldOptions, parsed: &ParsedCommand) -> Result<Vec<PathBuf>, Error> {
    let (places, settings) = load_environment()?;
    // An agent runs each of its shell commands through `shield --if-possible`. So the time limit for the broker's
    // answer is the same as for a hook.
    let budget = options.is_optional.then(|| Duration::from_millis(settings.int("SLM_MESH_HOOK_BUDGET_MS") as u64));
    let mut client = match Client::connect_to_running(&places) {
        Err(error) if error.kind == ErrorKind::NotFound && !places.database().exists() => return Ok(Vec::new()),
        Err(error) if error.kind == ErrorKind::NotFound => Client::connect_or_start_within(&places, budget)?,
        client => client?,
    };
    client.set_receive_timeout(budget).map_err(|error| Error::new(ErrorKind::Gone, error.to_string()))?;
    let directory = std::env::current_dir().unwrap_or_default();
    let git = read_git_files::facts(&directory);
    let named = Some(settings.text("SLM_MESH_PEER")).filter(|name| !name.is_empty());
    let mut params = json!({
        "v": env!("CARGO_PKG_VERSION"), "project": directory.to_string_lossy(), "repo": git.repo, "gitRoot": git.root,
        "as": parsed.acting.as_deref().or(named),
    });
    let mut locks = Vec::new();
    loop {
        let answer = client.call("lock.others", &params)?;
        locks.extend(LockedPath::list(&answer["locks"]));
        if !answer["next"].is_string() {
            return Ok(HeldFiles::new(&places).protected_paths(&locks));
        }
        params["after"] = answer["next"].clone();
    }
}
