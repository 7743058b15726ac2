//! Finds the commands that a tool call is about to run, and the files that these commands would write.

use super::edited_paths;
use crate::base::limits;
use crate::shell_writes::{Disk, MaybeWritten, ShellWrite, written_files};
use serde_json::Value;
use std::path::Path;

/// The scripts that a tool call is about to run; empty if the call runs no command.
pub fn commands(input: &Value) -> Vec<String> {
    let Some(arguments) = edited_paths::shell_arguments(input) else { return Vec::new() };
    let words = ["command", "cmd"].iter().filter_map(|field| arguments.get(*field));
    words.filter_map(script).collect()
}

/// The text of a command. The agent may give a command as a script, or as a program with arguments.
fn script(command: &Value) -> Option<String> {
    let quoted = |word: &Value| word.as_str().map(|word| format!("'{}'", word.replace('\'', "'\\''")));
    match command {
        Value::String(script) => Some(script.clone()),
        Value::Array(words) => words.iter().map(quoted).collect::<Option<Vec<String>>>().map(|words| words.join(" ")),
        _ => None,
    }
}

/// The files, as lock paths, that these commands would write if they ran in `directory`, and the files about which git
/// can tell whether a command writes them. Other files are left out unless a command is certain to write them, because
/// a wrong denial is worse than a missed write.
pub fn writes(commands: &[String], directory: &str) -> (Vec<String>, Vec<MaybeWritten>) {
    let inherited = |name: &str| matches!(name, "HOME" | "PATH").then(|| std::env::var(name).ok()).flatten();
    let disk = Disk::new(Path::new(directory));
    let writes = commands.iter().flat_map(|command| written_files(command, directory, &inherited, &disk));
    let (mut files, mut maybe_written) = (Vec::new(), Vec::new());
    for write in writes {
        match write {
            ShellWrite::File(path) => files.push(path.to_string_lossy().into_owned()),
            ShellWrite::Folder(path) => files.push(format!("{}/", path.to_string_lossy())),
            ShellWrite::Maybe(maybe) if maybe.git_tests.is_empty() => {}
            ShellWrite::Maybe(maybe) => maybe_written.push(maybe),
        }
    }
    files.truncate(limits::EDIT_FILES_MAX);
    (files, maybe_written)
}
