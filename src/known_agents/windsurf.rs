//! Windsurf, before it became Devin. Its hooks can put nothing before the model.

use super::files::{Directory, EntryShape, FilePath, Files, NO_FILES, Scope, edited};
use super::identity::{Identity, ProcessSign};
use super::{Agent, Evidence, Support};

pub(super) const AGENT: Agent = Agent {
    id: "windsurf",
    title: "Windsurf",
    kind: "windsurf",
    short_name: "windsurf",
    identity: Identity {
        client_names: &["windsurf-client"],
        environment: &[],
        session_variable: None,
        processes: &[ProcessSign::ArgumentsHave("windsurf.app"), ProcessSign::Name("windsurf")],
        has_many_sessions: false,
        hosts_terminals: true,
    },
    dialect: None,
    files: Files {
        programs: &["windsurf"],
        directory: &[Directory::Home(".codeium/windsurf")],
        user: Scope {
            server: edited(&[FilePath::Settings("mcp_config.json")], "mcpServers", EntryShape::Plain),
            ..NO_FILES
        },
        project: NO_FILES,
        approve: "Its hooks can put nothing before the model: it has the tools alone. Press refresh in its MCP panel.",
        why_edited: "",
        switches: &[],
    },
    transcript: None,
    wakeups: &[],
    support: Support {
        version: "",
        mail_at_prompt: Evidence::No,
        mail_mid_turn: Evidence::No,
        wakes_idle: Evidence::No,
        edit_denied: Evidence::No,
        set_up: Evidence::Test,
    },
};
