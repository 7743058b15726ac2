//! Registers and removes the MCP server by running the agent's own command. Some agents need this, because their
//! running sessions rewrite the settings file and would undo an edit by `setup`.
//!
//! **Invariant:** what the user has added to our entry is kept, and never becomes an argument of a process, because it
//! may be secret. If an entry can't be replaced, the old one is put back.

use super::generated_file_texts::{self, is_our_program};
use super::json_edit::{self, PathStep};
use super::safe_write;
use super::setup::{SAME, SetupStep, changed_lines};
use super::setup_environment::{EditedFile, Environment, find_on_path};
use super::setup_records::Records;
use super::setup_records::registrations_by_agent_command::Registration;
use crate::base::shell_wildcards::shell_quoted;
use crate::known_agents::Agent;
use crate::known_agents::settings_file_types::{AgentCommand, ServerFile, Writer};
use crate::sys::command_with_timeout::run_and_explain;
use serde_json::{Value, json};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long an agent's own command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// Maximum number of attempts to write the file if the agent keeps changing the file.
const ATTEMPTS: usize = 5;

/// Returns the server, and the command with which the agent itself registers the server. Returns `None` if `setup`
/// registers the server by editing the agent's settings file.
pub fn by_agent(server: ServerFile) -> Option<(ServerFile, AgentCommand)> {
    match server.writer {
        Writer::Agent(command) => Some((server, command)),
        Writer::Us => None,
    }
}

/// The entry of the server `slm-mesh` in an agent's file; null if there is none.
fn registered_entry(path: &Path, server: &ServerFile) -> Result<Value, String> {
    let text = safe_write::read_only(path).map_err(cant_see)?.unwrap_or_default();
    Ok(json_edit::parse(&text).map_err(cant_see)?[server.key][generated_file_texts::NAME].clone())
}

/// Explains that a file can't be read.
fn cant_see(why: String) -> String {
    format!("setup can't see whether slm-mesh is registered in this file, because {why}")
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
    let add: Vec<String> = command.add.iter().map(|word| word.replace("{program}", &environment.program)).collect();
    let old = match registered_entry(&path, server) {
        Ok(old) => old,
        Err(why) => return SetupStep::left("server", place, why, command_line(command.program, &add)),
    };
    if is_current(&old, &environment.program) {
        return match remember(environment, agent, server) {
            Ok(()) => SetupStep::new("server", place, SAME),
            Err(why) => SetupStep::left("server", place, why, String::new()),
        };
    }
    let file = EditedFile { path: path.clone(), server: Some(*server), hooks: None };
    let entries = environment.entries(agent, "", &file);
    let plain = entries.server_entry(server.entry);
    let is_ours = old["command"].as_str().is_some_and(is_our_program);
    let new = match old.as_object().filter(|_| is_ours) {
        Some(old) => entries.updated_entry(server.entry, old),
        None => plain.clone(),
    };
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
        let why = "running sessions rewrite this file, so setup needs the agent's own command to edit it, but this \
                   command is not on PATH";
        return SetupStep::left("server", place, why.into(), paste);
    }
    if environment.is_dry_run {
        let pretty = |entry: &Value| if entry.is_null() { String::new() } else { format!("{entry:#}") };
        let change = if old.is_null() { String::new() } else { changed_lines(&pretty(&old), &pretty(&new)) };
        return SetupStep { change, ..SetupStep::new("server", shown, "would run") };
    }
    let done = remember(environment, agent, server).and_then(|()| {
        if old.is_null() {
            return run_command(command.program, &add, None);
        }
        Replacement { command, path, key: server.key, is_plain: new == plain }.run(&old, &new)
    });
    match done {
        Ok(()) => SetupStep::new("server", shown, "ran"),
        Err(why) => SetupStep::left("server", shown, why, paste),
    }
}

/// A command line that a user can paste into a shell.
pub fn command_line<T: AsRef<str>>(program: &str, args: &[T]) -> String {
    args.iter().fold(program.to_owned(), |line, word| format!("{line} {}", shell_quoted(word.as_ref())))
}

/// The arguments with which the agent's command adds this entry.
fn with_entry(command: &AgentCommand, entry: &str) -> Vec<String> {
    command.add_entry.iter().map(|word| word.replace("{entry}", entry)).collect()
}

/// Replaces our entry in an agent's file.
struct Replacement<'a> {
    command: &'a AgentCommand,
    path: PathBuf,
    key: &'static str,
    /// True if the user has added nothing to the entry. Such an entry is not secret, so other users are allowed to see
    /// it.
    is_plain: bool,
}

impl Replacement<'_> {
    /// Removes the old entry before it adds the new one, because the agent's command refuses to overwrite an entry. If
    /// the new entry can't be added, puts the old one back.
    fn run(&self, old: &Value, new: &Value) -> Result<(), String> {
        run_command(self.command.program, self.command.remove, None)?;
        let Err(why) = self.add_by_input(new) else { return Ok(()) };
        if self.add_by_input(old).is_ok() {
            return Err(format!("{why}; the old entry was put back"));
        }
        // The agent has refused both the new and the old entry. So the agent is probably an older version that does not
        // read standard input.
        let added = if self.is_plain { self.add_by_argument(new) } else { self.write(new) };
        added.map_err(|why| match self.write(old) {
            Ok(()) => format!("{why}; the old entry was put back"),
            Err(_) => format!("{why}; the old entry could not be put back either"),
        })
    }

    fn add_by_input(&self, entry: &Value) -> Result<(), String> {
        run_command(self.command.program, &with_entry(self.command, "-"), Some(&entry.to_string()))
    }

    fn add_by_argument(&self, entry: &Value) -> Result<(), String> {
        run_command(self.command.program, &with_entry(self.command, &entry.to_string()), None)
    }

    /// Writes the entry into the agent's file. A running session of the agent may undo this change. The agent's command
    /// is not used here, because it would get the entry as an argument, and all users can see the arguments of a
    /// process.
    fn write(&self, entry: &Value) -> Result<(), String> {
        self.put_into_file(entry).map_err(|why| format!("{}: {why}", self.path.display()))
    }

    fn put_into_file(&self, entry: &Value) -> Result<(), String> {
        safe_write::may_write(&self.path)?;
        for _ in 0..ATTEMPTS {
            create_private(&self.path);
            let old = safe_write::read(&self.path)?;
            let text = old.as_deref().filter(|text| !json_edit::is_blank(text)).unwrap_or("{}\n");
            let path = [PathStep::Key(self.key), PathStep::Key(generated_file_texts::NAME)];
            if safe_write::replace(&self.path, old.as_deref(), &json_edit::put(text, &path, entry)?)? {
                return Ok(());
            }
        }
        Err("another program keeps changing it".into())
    }
}

/// If the file does not exist, creates a file that only this user can read.
fn create_private(path: &Path) {
    // This fails if the file exists. The existing file keeps its mode. Any other failure is reported when the file is
    // written.
    let _ = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
}

/// Records where the agent's command is about to register the server, so that `setup --remove` finds the server even if
/// the agent's settings directory has moved.
fn remember(environment: &Environment, agent: &Agent, server: &ServerFile) -> Result<(), String> {
    if environment.is_dry_run {
        return Ok(());
    }
    let here = registration_here(environment, agent, server);
    let mut records = Records::load_locked()?;
    if records.registrations_of(agent.id).contains(&here) { Ok(()) } else { records.set_registration(agent.id, &here) }
}

/// Where the agent's command registers the server now.
fn registration_here(environment: &Environment, agent: &Agent, server: &ServerFile) -> Registration {
    Registration { path: environment.server_path(agent, server), variables: environment.directory_variables(agent) }
}

/// Removes the server from every place where it is registered, by running the agent's own command.
pub(super) fn unregister(
    environment: &Environment,
    agent: &Agent,
    server: &ServerFile,
    command: &AgentCommand,
) -> Vec<SetupStep> {
    let here = registration_here(environment, agent, server);
    // If the records can't be read, the later steps of the removal fail, and report why.
    let recorded = Records::load().map(|records| records.registrations_of(agent.id)).unwrap_or_default();
    let elsewhere = recorded.into_iter().filter(|registration| registration.path != here.path);
    let line = command_line(command.program, command.remove);
    let mut steps = Vec::new();
    steps.extend(unregister_at(environment, server, command, &here, line.clone()));
    for there in elsewhere {
        let line = format!("{} {line}", command_line("env", &env_arguments(&there)));
        steps.extend(unregister_at(environment, server, command, &there, line));
    }
    steps
}

/// The arguments with which `env` sets the variables of a registration.
fn env_arguments(registration: &Registration) -> Vec<String> {
    let arguments = registration.variables.iter().map(|(name, value)| match value {
        Some(value) => vec![format!("{name}={value}")],
        None => vec!["-u".to_owned(), name.clone()],
    });
    arguments.flatten().collect()
}

/// If our server is registered in this file, runs the agent's command that removes the registration. `line` is the
/// command for the user.
fn unregister_at(
    environment: &Environment,
    server: &ServerFile,
    command: &AgentCommand,
    at: &Registration,
    line: String,
) -> Option<SetupStep> {
    let place = environment.shown(&at.path);
    let entry = match registered_entry(&at.path, server) {
        Ok(entry) => entry,
        Err(why) => return Some(SetupStep::left("server", place, why, line)),
    };
    let is_ours = entry["command"].as_str().is_some_and(is_our_program);
    if is_ours && find_on_path(command.program).is_none() {
        let why = format!("{0} is not on PATH, but only {0} may edit the agent's file", command.program);
        return Some(SetupStep::left("server", place, why, line));
    }
    if environment.is_dry_run {
        return is_ours.then(|| SetupStep::new("server", line, "would run"));
    }
    if is_ours {
        let mut process = Command::new(command.program);
        process.args(command.remove);
        for (name, value) in &at.variables {
            match value {
                Some(value) => process.env(name, value),
                None => process.env_remove(name),
            };
        }
        if let Err(why) = run_and_explain(&mut process, b"", COMMAND_LIMIT) {
            return Some(SetupStep::left("server", line.clone(), why, line));
        }
    }
    // A record that stays does no harm, because the next removal finds no server in the file.
    let _ = Records::load_locked().and_then(|mut records| records.forget(&at.path));
    is_ours.then(|| SetupStep::new("server", line, "ran"))
}

/// Runs an agent's command with `input` as its standard input. If the command fails, the error contains the last line
/// that the command printed to standard error.
fn run_command<T: AsRef<str>>(program: &str, args: &[T], input: Option<&str>) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(args.iter().map(AsRef::as_ref));
    run_and_explain(&mut command, input.unwrap_or("").as_bytes(), COMMAND_LIMIT)
}
