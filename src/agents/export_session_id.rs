//! Sets environment variables for a session's shell commands. One of them contains the session's id. Commands such as
//! `slm-mesh send` in an agent's shell then act as that session, even if one process runs several sessions, or if the
//! process tree cannot be inspected.

use crate::base::shell_wildcards::shell_quoted;
use crate::known_agents::hook_dialect::ShellEnvironment;
use crate::sys::settings::SESSION;
use serde_json::Value;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Sets the session's id and other variables, if the hook at the start of a session can do so for this agent. Returns
/// the field to add to the hook's answer, if the agent takes variables from the answer.
pub fn hand_out(
    environment: Option<ShellEnvironment>,
    input: &Value,
    id: &str,
    others: &[(&str, String)],
) -> Option<(&'static str, Value)> {
    let variables = || std::iter::once((SESSION, id)).chain(others.iter().map(|(name, value)| (*name, value.as_str())));
    match environment? {
        ShellEnvironment::Answer(field) => Some((field, variables().collect())),
        ShellEnvironment::File(name) => {
            let file = std::env::var_os(name).map(PathBuf::from).or_else(|| input[name].as_str().map(PathBuf::from));
            // If this fails, the process tree still shows which session runs a command.
            let _ = append(&file?, variables());
            None
        }
    }
}

fn append<'a>(file: &Path, mut variables: impl Iterator<Item = (&'a str, &'a str)>) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(file)?;
    variables.try_for_each(|(name, value)| writeln!(file, "export {name}={}", shell_quoted(value)))
}
