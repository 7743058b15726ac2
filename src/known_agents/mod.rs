//! What slm-mesh knows of each coding agent: one file per agent.
//!
//! To add an agent, write its file, name it in [`AGENTS`], and record what it tells its hooks in
//! `tests/data/hooks`. `tests/known_agents.rs` fails if something is missing.
//!
//! **Invariant:** these files hold facts and no machinery. Whoever needs a fact loops over
//! [`AGENTS`]; no code elsewhere names an agent.

pub mod agent_detection;
mod aider;
mod claude_code;
mod cline;
mod codex;
mod copilot;
mod cursor;
mod devin;
mod droid;
mod gemini;
pub mod hook_dialect;
mod kilo;
mod kimi_code;
mod opencode;
mod pi;
mod qwen_code;
pub mod settings_files;
pub mod support_table;
pub mod transcript_format;
mod vscode;
pub mod wakeup_means;
mod windsurf;
mod zed;

use crate::base::process::AgentProgram;
use agent_detection::{Identity, UNSEEN};
use hook_dialect::Dialect;
use settings_files::{Files, NO_SETTINGS};
use support_table::Support;
use transcript_format::TranscriptFormat;
use wakeup_means::Wakeup;

/// The words in which an agent's file states its facts.
mod vocabulary {
    pub(super) use super::Agent;
    pub(super) use super::agent_detection::{Identity, ProcessSign, UNSEEN};
    pub(super) use super::hook_dialect::{
        CLAUDE_SHAPED, Dialect, HookKind, MAIL_CAME, ProofScript, ShellEnvironment, named_input,
    };
    pub(super) use super::settings_files::{
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
    /// Its word on our command line, as in `setup codex` and `hook codex`.
    pub id: &'static str,
    /// What its makers call it.
    pub title: &'static str,
    /// The type of its sessions on the mesh.
    pub kind: &'static str,
    /// How the names of its sessions begin.
    pub short_name: &'static str,
    /// What shows that this agent started a process.
    pub identity: Identity,
    /// How it speaks with its hooks; none if it has no hooks that can carry mail.
    pub dialect: Option<Dialect>,
    /// The files that set-up changes.
    pub files: Files,
    /// How it writes down its sessions; none if its hooks do not say where, or we do not know the format.
    pub transcript: Option<TranscriptFormat>,
    /// How mail can wake its idle sessions.
    pub wakeups: &'static [Wakeup],
    /// Its row in the README.
    pub support: Support,
}

/// All agents, in the order in which they are shown.
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

/// The agent whose variable is in the environment; `has` answers whether a variable is set.
pub fn by_environment(has: impl Fn(&str) -> bool) -> Option<&'static Agent> {
    AGENTS.iter().find(|agent| agent.identity.environment.iter().any(|name| has(name)))
}

/// The agent whose process has these words: its name, and then its arguments.
pub fn by_process(words: &[String]) -> Option<&'static Agent> {
    let (name, arguments) = words.split_first()?;
    let arguments = arguments.join(" ");
    AGENTS.iter().find(|agent| agent.identity.processes.iter().any(|sign| sign.fits(name, &arguments)))
}

/// The agent that runs each shell below a process with these words: its name, and then its arguments.
pub fn by_program(words: &[String]) -> Option<&'static Agent> {
    let (name, arguments) = words.split_first()?;
    let is_it = |agent: &&Agent| agent.identity.processes.iter().any(|sign| sign.is_program(name, arguments));
    AGENTS.iter().filter(|agent| !agent.identity.hosts_terminals).find(is_it)
}

/// The ids of the agents that mail can wake.
pub fn wakeable() -> Vec<&'static str> {
    AGENTS.iter().filter(|agent| !agent.wakeups.is_empty()).map(|agent| agent.id).collect()
}

/// The ids of the agents whose shell commands can run in a shield.
pub fn shieldable() -> Vec<&'static str> {
    let can = |agent: &&Agent| agent.dialect.as_ref().is_some_and(|dialect| dialect.shell_lines.is_some());
    AGENTS.iter().filter(can).map(|agent| agent.id).collect()
}

impl Agent {
    /// An agent of which nothing is known but its name: its file states what is different. Its sessions have the
    /// type that is its word, and their names begin with it.
    const fn new(id: &'static str, title: &'static str) -> Agent {
        Agent {
            id,
            title,
            kind: id,
            short_name: id,
            identity: UNSEEN,
            dialect: None,
            files: NO_SETTINGS,
            transcript: None,
            wakeups: &[],
            support: support_table::NO_HOOKS,
        }
    }

    /// What the mesh calls the sessions that its process shows.
    pub fn program(&self) -> AgentProgram {
        AgentProgram { kind: self.kind, short_name: self.short_name }
    }

    /// Its row in the README's table.
    pub fn readme_row(&self) -> String {
        let title = format!("{} {}", self.title, self.support.version);
        format!("| {} | {} |", title.trim_end(), self.support.cells().join(" | "))
    }
}
