//! What slm-mesh knows about each coding agent, in one file per agent.
//!
//! To add an agent, write its file, add the file to [`AGENTS`], and record the inputs of the agent's hooks in
//! `tests/data/hooks`. `tests/known_agents.rs` fails if something is missing.
//!
//! **Invariant:** these files contain only facts. Other code loops over [`AGENTS`] to find a fact, and never checks for
//! the name of an agent.

mod aider;
pub mod all_input_fields;
mod claude_code;
mod cline;
mod codex;
mod continue_cli;
mod copilot;
mod cursor;
mod devin;
mod droid;
mod gemini;
pub mod hook_dialect;
mod kilo;
mod kimi_code;
mod opencode;
mod openhands;
mod pi;
mod qwen_code;
pub mod recognition_rule_types;
pub mod settings_file_types;
pub mod support_table;
pub mod transcript_format;
mod vibe;
mod vscode;
pub mod wakeup_means;
mod windsurf;
mod zed;

use crate::base::process_identity::AgentProgram;
use hook_dialect::Dialect;
use recognition_rule_types::{Identity, UNSEEN};
use settings_file_types::{Files, NO_SETTINGS};
use support_table::Support;
use transcript_format::TranscriptFormat;
use wakeup_means::Wakeup;

/// The types and functions that the files of the agents use.
mod vocabulary {
    pub(super) use super::Agent;
    pub(super) use super::hook_dialect::{
        CLAUDE_FIELDS, CLAUDE_SHAPED, Dialect, HookKind, InputFields, MAIL_CAME, ProofScript, ShellEnvironment,
        ShellLines, named_input,
    };
    pub(super) use super::recognition_rule_types::{Identity, ProcessSign, UNSEEN};
    pub(super) use super::settings_file_types::{
        AgentCommand, CLAUDE_HOOKS, CommandStyle, Directory, EntryShape, FilePath, Files, HookCommand, HookFile,
        NO_FILES, NO_SETTINGS, Off, OwnFile, Plugin, PluginSign, Scope, ServerFile, Switch, TimeLimit, Writer,
        commands, edited,
    };
    pub(super) use super::support_table::{Evidence, NO_HOOKS, Support};
    pub(super) use super::transcript_format::{Passage, Speaker, TranscriptFormat, passage, text_of};
    pub(super) use super::wakeup_means::{HookAnswer, Means, Wakeup};
}

/// A coding agent.
#[derive(Debug)]
pub struct Agent {
    /// The agent's name in our commands, as in `setup codex` and `hook codex`.
    pub id: &'static str,
    /// The agent's name as its makers write it.
    pub title: &'static str,
    /// The agent type of this agent's sessions, such as `claude-code`.
    pub kind: &'static str,
    /// The beginning of the default names of the agent's sessions, such as `claude` in `claude-api`.
    pub short_name: &'static str,
    /// How to recognise a process that this agent started.
    pub identity: Identity,
    /// Fields of `_meta` in the definition of an MCP tool. With these fields, a server asks this agent to offer the
    /// tool to its model immediately.
    pub tool_meta: &'static [&'static str],
    /// The command with which the user lists the hooks that this agent runs; `None` if it is unknown.
    pub hook_list_command: Option<&'static str>,
    /// The format of the agent's hooks; `None` if none of the agent's hooks can show mail.
    pub dialect: Option<Dialect>,
    /// The files that `setup` changes.
    pub files: Files,
    /// The format of the agent's transcripts; `None` if the format is not known, or if the agent's hooks do not give
    /// the path of the transcript.
    pub transcript: Option<TranscriptFormat>,
    /// How mail can wake an idle session of the agent.
    pub wakeups: &'static [Wakeup],
    /// The agent's row in the README.
    pub support: Support,
}

/// All known agents, in the order in which they are shown to people.
pub static AGENTS: &[Agent] = &[
    claude_code::AGENT,
    codex::AGENT,
    opencode::AGENT,
    gemini::AGENT,
    copilot::AGENT,
    qwen_code::AGENT,
    droid::AGENT,
    kilo::AGENT,
    kimi_code::AGENT,
    cline::AGENT,
    openhands::AGENT,
    continue_cli::AGENT,
    vibe::AGENT,
    cursor::AGENT,
    vscode::AGENT,
    devin::AGENT,
    windsurf::AGENT,
    zed::AGENT,
    aider::AGENT,
    pi::AGENT,
];

/// The agent with this id.
pub fn by_id(id: &str) -> Option<&'static Agent> {
    AGENTS.iter().find(|agent| agent.id == id)
}

/// The agent whose sessions have this type.
pub fn by_kind(kind: &str) -> Option<&'static Agent> {
    AGENTS.iter().find(|agent| agent.kind == kind)
}

/// The agent whose MCP client has this name.
pub fn by_client_name(name: &str) -> Option<&'static Agent> {
    AGENTS.iter().find(|agent| agent.identity.client_names.contains(&name))
}

/// The first agent for which one of its environment variables is set. `has` returns whether a variable is set.
pub fn by_environment(has: impl Fn(&str) -> bool) -> Option<&'static Agent> {
    AGENTS.iter().find(|agent| agent.identity.environment.iter().any(|name| has(name)))
}

/// The agent to which a process belongs. `words` contains the name of the process and then its arguments.
pub fn by_process(words: &[String]) -> Option<&'static Agent> {
    let (name, arguments) = words.split_first()?;
    let arguments = arguments.join(" ");
    AGENTS.iter().find(|agent| agent.identity.processes.iter().any(|sign| sign.fits(name, &arguments)))
}

/// Returns the agent to which the program of a process belongs. Never returns an agent in which people open terminals,
/// because a shell that such an agent started may belong to a person. `words` contains the name of the process and then
/// its arguments.
pub fn by_program(words: &[String]) -> Option<&'static Agent> {
    let (name, arguments) = words.split_first()?;
    let is_it = |agent: &&Agent| agent.identity.processes.iter().any(|sign| sign.is_program(name, arguments));
    AGENTS.iter().filter(|agent| !agent.identity.hosts_terminals).find(is_it)
}

/// The ids of the agents that mail can wake.
pub fn wakeable() -> Vec<&'static str> {
    AGENTS.iter().filter(|agent| !agent.wakeups.is_empty()).map(|agent| agent.id).collect()
}

/// The ids of the agents that can run their shell commands in a shield (a sandbox that protects locked files).
pub fn shieldable() -> Vec<&'static str> {
    let can = |agent: &&Agent| agent.dialect.as_ref().is_some_and(|dialect| dialect.shell_lines.is_some());
    AGENTS.iter().filter(can).map(|agent| agent.id).collect()
}

impl Agent {
    /// Makes an agent from a name and default values, which the agent's file overrides. By default, the id is also the
    /// type of the agent's sessions and the beginning of their names.
    const fn new(id: &'static str, title: &'static str) -> Agent {
        Agent {
            id,
            title,
            kind: id,
            short_name: id,
            identity: UNSEEN,
            tool_meta: &[],
            hook_list_command: None,
            dialect: None,
            files: NO_SETTINGS,
            transcript: None,
            wakeups: &[],
            support: support_table::NO_HOOKS,
        }
    }

    /// Returns the agent type of this agent's sessions, and the text with which the names of these sessions begin.
    pub fn program(&self) -> AgentProgram {
        AgentProgram { kind: self.kind, short_name: self.short_name }
    }

    /// The agent's row in the README's table.
    pub fn readme_row(&self) -> String {
        let title = format!("{} {}", self.title, self.support.version);
        format!("| {} | {} |", title.trim_end(), self.support.cells().join(" | "))
    }
}
