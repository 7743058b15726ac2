//! Registers and removes the MCP server by running the agent's own command. Some agents need this, because their
//! running sessions rewrite the settings file and would undo an edit by `setup`.
//!
//! **Invariant:** what the user has added to our entry is kept. If an entry can't be replaced, the old one is put back.

use super::generated_files::{self, is_our_program};
use super::setup::{SAME, SetupStep, changed_lines};
use super::setup_environment::{EditedFile, Environment, find_on_path, read_json};
use crate::base::shell_wildcards::shell_quoted;
use crate::known_agents::Agent;
use crate::known_agents::settings_files::{AgentCommand, ServerFile, Writer};
use crate::sys::command_with_timeout::run_and_explain;
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

/// How long an agent's own command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// Returns the server, and the command with which the agent itself registers the server. Returns `None` if `setup`
/// registers it by editing the file.
pub(super) fn by_agent(server: ServerFile) -> Option<(ServerFile, AgentCommand)> {
    match server.writer {
        Writer::Agent(command) => Some((server, command)),
        Writer::Us => None,
    }
}

/// The entry of the server `slm-mesh`; null if there is none.
fn registered_entry(environment: &Environment, agent: &Agent, server: &ServerFile) -> Value {
    let whole = read_json(&environment.server_path(agent, server));
    whole.map(|whole| whole[server.key][generated_files::NAME].clone()).unwrap_or_default()
}

/// Whether an entry starts this program correctly.
fn is_current(entry: &Value, program: &str) -> bool {
    // The entries of older versions may have no arguments. The user may have added arguments.
    entry["command"] == json!(program) && (entry["args"].is_null() || entry["args"][0] == json!("mcp"))
}

/// Registers the server by running the agent's own command.
pub(super) fn register(
    environment: &Environment,
    agent: &'static Agent,
    server: &ServerFile,
    command: &AgentCommand,
) -> SetupStep {
    let path = environment.server_path(agent, server);
    let place = environment.shown(&path);
    let old = registered_entry(environment, agent, server);
    if is_current(&old, &environment.program) {
        return SetupStep::new("server", place, SAME);
    }
    let file = EditedFile { path, server: Some(*server), hooks: None };
    let entries = environment.entries(agent, "", &file);
    let is_ours = old["command"].as_str().is_some_and(is_our_program);
    let new = match old.as_object().filter(|_| is_ours) {
        Some(old) => entries.updated_entry(server.entry, old),
        None => entries.server_entry(server.entry),
    };
    let add: Vec<String> = command.add.iter().map(|word| word.replace("{program}", &environment.program)).collect();
    let remove = command_line(command.program, command.remove);
    let line = command_line(command.program, &add);
    let (shown, paste) = if old.is_null() {
        (line.clone(), line)
    } else {
        // The entry may contain secrets, so it is shown only if the user must paste it.
        let with = |entry: &str| command_line(command.program, &with_entry(command, entry));
        (with("-"), format!("{remove} && {}", with(&new.to_string())))
    };
    if find_on_path(command.program).is_none() {
        let why = "setup can't edit this file, because running sessions rewrite it, and the agent's own command is not \
                   on PATH";
        return SetupStep::left("server", place, why.into(), paste);
    }
    if environment.is_dry_run {
        let pretty = |entry: &Value| if entry.is_null() { String::new() } else { format!("{entry:#}") };
        let change = if old.is_null() { String::new() } else { changed_lines(&pretty(&old), &pretty(&new)) };
        return SetupStep { change, ..SetupStep::new("server", shown, "would run") };
    }
    let done = if old.is_null() { run_command(command.program, &add, None) } else { replace(command, &old, &new) };
    match done {
        Ok(()) => SetupStep::new("server", shown, "ran"),
        Err(why) => SetupStep::left("server", shown, why, paste),
    }
}

/// A command line that a user can paste into a shell.
pub(super) fn command_line<T: AsRef<str>>(program: &str, args: &[T]) -> String {
    args.iter().fold(program.to_owned(), |line, word| format!("{line} {}", shell_quoted(word.as_ref())))
}

/// The arguments with which the agent's command adds this entry.
fn with_entry(command: &AgentCommand, entry: &str) -> Vec<String> {
    command.add_entry.iter().map(|word| word.replace("{entry}", entry)).collect()
}

/// Replaces our entry. The agent's command refuses to overwrite an entry, so the old one is removed first. If the new
/// entry can't be added, the old one is put back.
fn replace(command: &AgentCommand, old: &Value, new: &Value) -> Result<(), String> {
    run_command(command.program, command.remove, None)?;
    add_entry(command, new).map_err(|why| match add_entry(command, old) {
        Ok(()) => format!("{why}; the old entry was put back"),
        Err(_) => format!("{why}; the old entry could not be put back either"),
    })
}

fn add_entry(command: &AgentCommand, entry: &Value) -> Result<(), String> {
    let text = entry.to_string();
    // Entries may contain secrets, and all users can see the arguments of a process, so standard input is used.
    run_command(command.program, &with_entry(command, "-"), Some(&text))
        // An older version of the agent may not read the entry from standard input.
        .or_else(|_| run_command(command.program, &with_entry(command, &text), None))
}

/// If the server is registered, removes it by running the agent's own command.
pub(super) fn unregister(
    environment: &Environment,
    agent: &Agent,
    server: &ServerFile,
    command: &AgentCommand,
) -> Option<SetupStep> {
    environment.registered_program(agent, server).filter(|program| is_our_program(program))?;
    let line = command_line(command.program, command.remove);
    if find_on_path(command.program).is_none() {
        let why = format!("{} is not on PATH, and setup does not edit the agent's file itself", command.program);
        return Some(SetupStep::left("server", environment.shown(&environment.server_path(agent, server)), why, line));
    }
    if environment.is_dry_run {
        return Some(SetupStep::new("server", line, "would run"));
    }
    Some(match run_command(command.program, command.remove, None) {
        Ok(()) => SetupStep::new("server", line, "ran"),
        Err(why) => SetupStep::left("server", line.clone(), why, line),
    })
}

/// Runs an agent's command with `input` as its standard input. If the command fails, the error contains the last line
/// that the command printed to standard error.
fn run_command<T: AsRef<str>>(program: &str, args: &[T], input: Option<&str>) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(args.iter().map(AsRef::as_ref));
    run_and_explain(&mut command, input.unwrap_or("").as_bytes(), COMMAND_LIMIT)
}
