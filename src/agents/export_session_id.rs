//! Sets environment variables in the shell of a session. One of them contains the session's id, so that commands such
//! as `slm-mesh send` know which session runs them. The process tree alone does not always identify the session, for
//! example if one process runs several sessions.

use crate::base::shell_wildcards::shell_quoted;
use crate::known_agents::hook_dialect::ShellEnvironment;
use crate::sys::settings::SESSION;
use serde_json::Value;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Passes the session's id and the variables in `others` to the shell of the session, if the agent supports this. If
/// the agent reads the variables from a file, appends them to that file. If the agent reads them from a field of the
/// hook's answer, returns that field.
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
            // If this fails, slm-mesh can still find the session with the help of the process tree.
            let _ = append(&file?, variables());
            None
        }
    }
}

fn append<'a>(file: &Path, mut variables: impl Iterator<Item = (&'a str, &'a str)>) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(file)?;
    variables.try_for_each(|(name, value)| writeln!(file, "export {name}={}", shell_quoted(value)))
}
