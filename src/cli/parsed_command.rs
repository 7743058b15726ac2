//! A parsed command line: the command and its arguments.

use super::operation_table::CliOperation;
use super::restore_file::RestoreOptions;
use super::setup_and_doctor::SetupOptions;
use super::shield_command::ShieldOptions;
use super::transcript::TranscriptOptions;
use crate::broker::startup::LogChange;
use serde_json::{Map, Value};
use std::ffi::OsString;

/// What to do.
#[derive(Debug, Clone)]
pub enum CliCommand {
    /// There are no arguments: serve MCP, or show a greeting on a terminal.
    Bare,
    /// Serve MCP.
    #[allow(missing_docs)]
    Mcp {
        /// Whether to refuse the MCP revision 2026-07-28.
        legacy: bool,
        /// The agent that runs the session, regardless of what the client says about itself.
        agent: Option<String>,
    },
    /// Run the broker in the foreground or the background.
    #[allow(missing_docs)]
    Start { detach: bool, as_daemon: bool, log_change: Option<LogChange> },
    /// Stop the broker.
    Stop {
        /// Whether to end the broker's process if it does not stop by itself.
        force: bool,
    },
    /// Remove the files that a crash left behind.
    Clean,
    /// Answer an agent's hook.
    Hook {
        /// The agent whose dialect the hook uses.
        dialect: String,
        /// Whether to wait for a reason to wake the agent.
        wake: bool,
        /// The agent that runs the hook, if it differs from the agent of the dialect.
        agent: Option<String>,
    },
    /// Forward lines between ssh and the broker.
    Pipe,
    /// Print a new secret.
    Secret,
    /// Change the agents' settings.
    Setup(SetupOptions),
    /// Check the broker and the agents. With an agent's name, prove that the agent's hooks work.
    Doctor(Option<String>),
    /// Install, remove or run the git hooks.
    Guard(Vec<String>),
    /// Collect answers for this many seconds, and list the hubs on the local network.
    Hubs(u64),
    /// Announce a hub on the local network, as described by these arguments.
    Announce(Vec<String>),
    /// Print the words that may follow these words, for a shell's completion.
    Complete(Vec<String>),
    /// Print the version.
    Version,
    /// Print help on a topic.
    Help(String),
    /// Replace the database with this backup.
    RestoreBackup(String),
    /// Show what a command changed in a locked file, and restore the content from before the change.
    RestoreFile(RestoreOptions),
    /// Run a command so that it cannot write the files that other peers have locked.
    Shield(ShieldOptions),
    /// Print a state entry, and then its changes.
    WatchState,
    /// Show the live view. If true, print one line per event instead.
    WatchMesh(bool),
    /// Open the page in a browser. If true, only print the link.
    Web(bool),
    /// Print what was said last in a peer's session.
    Transcript(TranscriptOptions),
    /// Call one operation.
    Operation(&'static CliOperation),
}

/// A parsed command line.
#[derive(Debug, Clone)]
pub struct ParsedCommand {
    /// The command to run.
    pub command: CliCommand,
    /// The operation's arguments.
    pub args: Map<String, Value>,
    /// `--json`.
    pub json: bool,
    /// `--as`.
    pub acting: Option<String>,
    /// `--follow`.
    pub follow: bool,
    /// The command after `lock … --` or `shield --`.
    pub command_line: Vec<OsString>,
}

impl ParsedCommand {
    /// A command line whose verb is not known yet.
    pub(super) fn new(command_line: Vec<OsString>) -> ParsedCommand {
        let command = CliCommand::Bare;
        ParsedCommand { command, args: Map::new(), json: false, acting: None, follow: false, command_line }
    }
}
