//! Checks server entries that apply to a single directory. In a directory with such an entry, the agent ignores the
//! entry that `setup` wrote for all directories, and might start something other than slm-mesh.

use super::Check;
use crate::agents::generated_file_texts::{NAME, is_our_program};
use crate::agents::register_via_agent_command::{by_agent, command_line};
use crate::agents::server_trial_start::RegisteredServer;
use crate::agents::setup_environment::{Environment, read_json};
use crate::base::shell_wildcards::shell_quoted;
use crate::known_agents::Agent;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// Finds directories whose own server entry does not start slm-mesh. Says how to remove such an entry.
pub(super) fn check_directory_servers(environment: &Environment, agent: &Agent) -> Vec<Check> {
    let Some((server, command)) = agent.files.user.server.and_then(by_agent) else { return Vec::new() };
    let path = environment.server_path(agent, &server);
    let whole = read_json(&path).unwrap_or_default();
    let mut faults = HashMap::new();
    let mut checks = Vec::new();
    for (directory, settings) in whole[command.directories].as_object().into_iter().flatten() {
        let entry = &settings[server.key][NAME];
        // An entry for a directory that no longer exists has no effect.
        if entry.is_null() || !Path::new(directory).is_dir() {
            continue;
        }
        // If several directories have the same entry, the entry is tried only once.
        let Some(fault) = faults.entry(entry.to_string()).or_insert_with(|| fault_of(entry)).clone() else { continue };
        let shown = environment.shown(&path);
        let found = format!("in {directory}, a separate {NAME} entry in {shown} replaces your general entry: {fault}");
        let remove = command_line(command.program, command.remove_in_directory);
        let cure = format!("cd {} && {remove}", shell_quoted(directory));
        checks.push(Check::error(&format!("{} server", agent.id), found, cure));
    }
    checks
}

/// The reason why an entry does not start slm-mesh; `None` if the entry starts it.
fn fault_of(entry: &Value) -> Option<String> {
    let Some(server) = RegisteredServer::parse(entry) else { return Some("it starts no program".into()) };
    let line = server.command_line();
    if server.runs_our_package() {
        return None;
    }
    if !is_our_program(&server.program) {
        return Some(format!("it starts another program, \"{line}\""));
    }
    server.try_start().err().map(|why| format!("it starts \"{line}\", but {why}"))
}
