//! Puts the session's id into an environment variable of the session's shell commands. Commands such as `slm-mesh send`
//! in an agent's shell then act as that session, even if one process runs several sessions, or if the processes cannot
//! be seen.

use super::config_entries::shell_quoted;
use crate::known_agents::hook_dialect::ShellEnvironment;
use crate::sys::settings::SESSION;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Sets the variable, if the hook at the start of a session can do so for this agent. Returns the field to add to the
/// hook's answer, for an agent that takes variables from there.
pub fn hand_out(environment: Option<ShellEnvironment>, input: &Value, id: &str) -> Option<(&'static str, Value)> {
    match environment? {
        ShellEnvironment::Answer(field) => Some((field, json!({ SESSION: id }))),
        ShellEnvironment::File(name) => {
            let file = std::env::var_os(name).map(PathBuf::from).or_else(|| input[name].as_str().map(PathBuf::from));
            // If this fails, the process tree still shows which session runs a command.
            let _ = append(&file?, id);
            None
        }
    }
}

fn append(file: &Path, id: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(file)?;
    writeln!(file, "export {SESSION}={}", shell_quoted(id))
}
