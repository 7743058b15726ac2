//! A parsed command line: the command and its arguments.

use super::print_peer_transcript::TranscriptOptions;
use super::restore_file::RestoreOptions;
use super::sandbox_command_from_locked_files::ShieldOptions;
use super::setup_and_doctor::SetupOptions;
use super::verb_behavior_table::CliOperation;
use crate::broker::startup::LogChange;
use serde_json::{Map, Value};
use std::ffi::OsString;

/// The command that the user typed.
#[derive(Debug, Clone)]
pub enum CliCommand {
    /// The command line has no arguments. Serve MCP or, on a terminal, show a greeting.
    Bare,
    /// Serve MCP.
    #[allow(missing_docs)]
    Mcp {
        /// Whether to refuse the MCP revision 2026-07-28.
        legacy: bool,
        /// The agent that runs the session. This overrides the agent that the MCP client reports.
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
    /// Handle a hook that an agent runs.
    Hook {
        /// The agent whose hook format is used.
        dialect: String,
        /// Whether to wait until the agent should be woken.
        wake: bool,
        /// The agent that runs the hook, if it is not the agent whose hook format is used.
        agent: Option<String>,
    },
    /// Forward lines between ssh and the broker.
    Pipe,
    /// Print a new secret.
    Secret,
    /// Change the agents' settings.
    Setup(SetupOptions),
    /// Check the broker and the agents. If an agent is given, test whether its hooks work.
    Doctor(Option<String>),
    /// Install, remove or run the git hooks.
    Guard(Vec<String>),
    /// Search the local network for this many seconds, and list the hubs that answer.
    Hubs(u64),
    /// Announce a hub on the local network. The arguments describe the hub.
    Announce(Vec<String>),
    /// Print the words that can follow these words on the command line, for completion in a shell.
    Complete(Vec<String>),
    /// Print the version.
    Version,
    /// Print help on a topic.
    Help(String),
    /// Replace the database with this backup.
    RestoreBackup(String),
    /// Show what a command changed in a locked file, and offer to undo the change.
    RestoreFile(RestoreOptions),
    /// Run a command so that it cannot write the files that other peers have locked.
    Shield(ShieldOptions),
    /// Print a value of the shared state, and then each change of the value.
    WatchState,
    /// Show the live view. If the value is true, print one line per event instead.
    WatchMesh(bool),
    /// Open the web page in a browser. If the value is true, only print the link.
    Web(bool),
    /// Print the latest passages of a peer's session.
    Transcript(TranscriptOptions),
    /// Call one operation of the broker.
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
    /// Creates a command line that has no verb and no arguments yet.
    pub(super) fn new(command_line: Vec<OsString>) -> ParsedCommand {
        let command = CliCommand::Bare;
        ParsedCommand { command, args: Map::new(), json: false, acting: None, follow: false, command_line }
    }
}
