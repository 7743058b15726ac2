//! Puts the session into the environment of its shell commands, so that verbs in an agent's shell act as that session
//! even where one process has several, or where no process can be seen.

use super::config_entries::shell_quoted;
use crate::known_agents::dialect::ShellEnvironment;
use crate::sys::settings::SESSION;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Hands out a session's id where the hook of its start can do that. Answers the fields that the hook's answer needs
/// for it.
pub fn hand_out(environment: Option<ShellEnvironment>, input: &Value, id: &str) -> Option<(&'static str, Value)> {
    match environment? {
        ShellEnvironment::Answer(field) => Some((field, json!({ SESSION: id }))),
        ShellEnvironment::File(name) => {
            let file = std::env::var_os(name).map(PathBuf::from).or_else(|| input[name].as_str().map(PathBuf::from));
            // Without the variable, the process tree says which session a verb belongs to.
            let _ = append(&file?, id);
            None
        }
    }
}

fn append(file: &Path, id: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(file)?;
    writeln!(file, "export {SESSION}={}", shell_quoted(id))
}
