//! Devin on the desktop, according to its documentation of autumn 2026. Devin has hooks like Claude Code's.

use super::vocabulary::*;

const HOOKS: HookFile = HookFile { path: FilePath::Settings("config.json"), ..CLAUDE_HOOKS };

pub(super) const AGENT: Agent = Agent {
    // Devin is the successor of Windsurf, and its MCP client still uses Windsurf's name.
    kind: "windsurf",
    short_name: "windsurf",
    dialect: Some(Dialect { edit_tools: &["edit", "write", "multiedit", "editfile"], ..CLAUDE_SHAPED }),
    files: Files {
        programs: &["devin"],
        directory: &[Directory::Home(".config/devin")],
        user: Scope {
            server: edited(&[FilePath::Settings("mcp_config.json")], "mcpServers", EntryShape::Plain),
            hooks: Some(HOOKS),
            ..NO_FILES
        },
        project: Scope {
            server: edited(&[FilePath::Project(".devin/mcp_config.json")], "mcpServers", EntryShape::Plain),
            hooks: Some(HookFile { path: FilePath::Project(".devin/hooks.v1.json"), key: None, ..HOOKS }),
            ..NO_FILES
        },
        ..NO_SETTINGS
    },
    support: Support::documented(),
    ..Agent::new("devin", "Devin")
};
