//! Finds the commands that a tool call is about to run, and the files that these commands would write.

use super::edited_paths;
use crate::base::limits;
use crate::shell_writes::{Disk, ShellWrite, written_files};
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

/// The files, as lock paths, that these commands would write if they ran in `directory`. A file is left out unless a
/// command is certain to write it, because a wrong denial is worse than a missed write.
pub fn files(commands: &[String], directory: &str) -> Vec<String> {
    let home = |name: &str| (name == "HOME").then(|| std::env::var("HOME").ok()).flatten();
    let disk = Disk::new(Path::new(directory));
    let writes = commands.iter().flat_map(|command| written_files(command, directory, &home, &disk));
    let path = |write: ShellWrite| match write {
        ShellWrite::File(path) => Some(path.to_string_lossy().into_owned()),
        ShellWrite::Folder(path) => Some(format!("{}/", path.to_string_lossy())),
        ShellWrite::Maybe(_) => None,
    };
    writes.filter_map(path).take(limits::EDIT_FILES_MAX).collect()
}
