//! Finds the commands that a tool call is about to run, and the files that these commands would write.

use super::edited_paths;
use super::hook_input_fields::{text, values};
use crate::base::limits;
use crate::shell_writes::{Disk, MaybeWritten, ShellWrite, written_files};
use crate::sys::path_normalization;
use serde_json::Value;
use std::path::Path;

/// The scripts that a tool call is about to run; empty if the call runs no command.
pub fn commands(input: &Value) -> Vec<String> {
    let Some(arguments) = edited_paths::shell_arguments(input) else { return Vec::new() };
    values(&arguments, None, |fields| fields.commands).filter_map(script).collect()
}

/// The directory in which a tool call is about to run its commands; `None` if the call names no directory.
pub fn directory(input: &Value) -> Option<String> {
    let arguments = edited_paths::shell_arguments(input)?;
    let given = text(&arguments, None, |fields| fields.command_directory);
    given.filter(|path| !path.is_empty() && path.len() <= limits::PATH_MAX).map(str::to_owned)
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

/// Returns the lock paths of the files that these commands are certain to write if they run in `directory`. Also
/// returns each possible write that git can confirm. All other possible writes are left out, because a wrong denial is
/// worse than a missed write.
pub fn writes(commands: &[String], directory: &str) -> (Vec<String>, Vec<MaybeWritten>) {
    let inherited = |name: &str| matches!(name, "HOME" | "PATH").then(|| std::env::var(name).ok()).flatten();
    let disk = Disk::new(Path::new(directory));
    let writes = commands.iter().flat_map(|command| written_files(command, directory, &inherited, &disk));
    let (mut files, mut maybe_written) = (Vec::new(), Vec::new());
    for write in writes {
        match write {
            ShellWrite::File(path) | ShellWrite::Matches(path) => {
                files.push(path_normalization::absolute_in("", &path.to_string_lossy()))
            }
            ShellWrite::Link(path) => files.push(path_normalization::absolute_link(&path.to_string_lossy())),
            ShellWrite::Folder(path) => {
                files.push(path_normalization::absolute_in("", &format!("{}/", path.display())))
            }
            ShellWrite::Maybe(maybe) if maybe.git_tests.is_empty() => {}
            ShellWrite::Maybe(maybe) => maybe_written.push(maybe),
        }
    }
    (files, maybe_written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::hook_input_fields::NEEDED_FIELDS;
    use crate::agents::hook_stdin::extract_needed_json_fields::read_object;
    use serde_json::json;

    #[test]
    fn a_command_that_writes_many_files_names_all_of_them() {
        let files: Vec<String> = (0..limits::EDIT_FILES_MAX + 90).map(|n| format!("f{n}")).collect();
        let (found, _) = writes(&[format!("touch {}", files.join(" "))], "/w");
        assert_eq!(found.len(), files.len());
    }

    #[test]
    fn a_call_may_name_the_directory_of_its_command() {
        for (input, want) in [
            (
                json!({ "tool_name": "run_shell_command", "tool_input": { "command": "ls", "dir_path": "src" } }),
                Some("src"),
            ),
            (json!({ "tool_name": "bash", "tool_input": { "command": "ls", "workdir": "/w/src" } }), Some("/w/src")),
            (json!({ "tool_name": "Shell", "tool_input": { "command": "ls", "working_directory": "" } }), None),
            (json!({ "tool_name": "Bash", "tool_input": { "command": "ls", "cwd": 5 }, "cwd": "/w" }), None),
            (json!({ "tool_name": "Read", "tool_input": { "directory": "src" } }), None),
        ] {
            let read = read_object(&mut input.to_string().as_bytes(), &NEEDED_FIELDS).unwrap();
            assert_eq!(directory(&read).as_deref(), want, "{input}");
        }
    }
}
