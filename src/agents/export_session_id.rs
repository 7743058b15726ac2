//! Sets an environment variable with the session's id for the session's shell commands. So verbs in an agent's shell
//! act as that session, even if one process has several sessions, or if the processes cannot be seen.

use super::config_entries::shell_quoted;
use crate::known_agents::hook_dialect::ShellEnvironment;
use crate::sys::settings::SESSION;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Sets the variable if the hook at the session's start can do that. Returns the fields that the hook's answer needs
/// for that.
pub fn hand_out(environment: Option<ShellEnvironment>, input: &Value, id: &str) -> Option<(&'static str, Value)> {
    match environment? {
        ShellEnvironment::Answer(field) => Some((field, json!({ SESSION: id }))),
        ShellEnvironment::File(name) => {
            let file = std::env::var_os(name).map(PathBuf::from).or_else(|| input[name].as_str().map(PathBuf::from));
            // Without the variable, the process tree shows to which session a verb belongs.
            let _ = append(&file?, id);
            None
        }
    }
}

fn append(file: &Path, id: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(file)?;
    writeln!(file, "export {SESSION}={}", shell_quoted(id))
}
