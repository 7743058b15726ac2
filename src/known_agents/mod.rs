//! What slm-mesh knows of each coding agent: one file per agent.
//!
//! To add an agent, write its file, name it in [`AGENTS`], and record what it tells its hooks in
//! `tests/data/hooks`. `tests/known_agents.rs` fails if something is missing.
//!
//! **Invariant:** these files hold facts and no machinery. Whoever needs a fact loops over
//! [`AGENTS`]; no code elsewhere names an agent.

mod aider;
mod claude_code;
mod codex;
mod copilot;
mod cursor;
mod devin;
pub mod dialect;
pub mod files;
mod gemini;
pub mod identity;
mod opencode;
mod pi;
mod qwen_code;
pub mod transcript;
mod vscode;
pub mod wakeup;
mod windsurf;
mod zed;

use crate::base::process::AgentProgram;
use dialect::Dialect;
use files::Files;
use identity::Identity;
use transcript::TranscriptFormat;
use wakeup::Wakeup;

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

/// What works with an agent, and how we know.
#[derive(Debug, Clone, Copy)]
pub struct Support {
    /// The version that was run; empty if none was.
    pub version: &'static str,
    /// Mail reaches the model with a prompt.
    pub mail_at_prompt: Evidence,
    /// Mail reaches the model during a turn.
    pub mail_mid_turn: Evidence,
    /// Mail wakes an idle session.
    pub wakes_idle: Evidence,
    /// An edit of a locked file is denied.
    pub edit_denied: Evidence,
    /// `slm-mesh setup` sets it up.
    pub set_up: Evidence,
}

/// How we know that something works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// `make test-agents` shows it with the real agent.
    Run,
    /// Our tests show it on files as people have them.
    Test,
    /// Our hook follows the agent's documentation, and is tested against that alone.
    Docs,
    /// It does not work.
    No,
}

/// All agents, in the order in which they are shown.
pub static AGENTS: &[Agent] = &[
    claude_code::AGENT,
    codex::AGENT,
    opencode::AGENT,
    gemini::AGENT,
    copilot::AGENT,
    qwen_code::AGENT,
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

impl Evidence {
    /// The word in the README.
    pub fn word(self) -> &'static str {
        match self {
            Evidence::Run => "run",
            Evidence::Test => "test",
            Evidence::Docs => "docs",
            Evidence::No => "no",
        }
    }
}

impl Agent {
    /// What the mesh calls the sessions that its process shows.
    pub fn program(&self) -> AgentProgram {
        AgentProgram { kind: self.kind, short_name: self.short_name }
    }

    /// Its row in the README's table.
    pub fn readme_row(&self) -> String {
        let Support { version, mail_at_prompt, mail_mid_turn, wakes_idle, edit_denied, set_up } = self.support;
        let cells = [mail_at_prompt, mail_mid_turn, wakes_idle, edit_denied, set_up].map(Evidence::word);
        format!("| {} | {} |", format!("{} {version}", self.title).trim_end(), cells.join(" | "))
    }
}
