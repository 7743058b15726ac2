//! Devin on the desktop, as its documentation of autumn 2026 says. Its hooks have Claude Code's shape.

use super::dialect::{CLAUDE_SHAPED, Dialect};
use super::files::{
    Directory, EntryShape, FilePath, Files, HookCommand, HookFile, NO_FILES, RESTART, Scope, TimeLimit, edited,
};
use super::identity::UNSEEN;
use super::{Agent, Evidence, Support};

const HOOKS: HookFile = HookFile {
    path: FilePath::Settings("config.json"),
    key: Some("hooks"),
    has_version: false,
    has_groups: true,
    command: HookCommand::ShellLine,
    limit: TimeLimit::Seconds,
    events: &[
        ("SessionStart", ""),
        ("UserPromptSubmit", ""),
        ("PreToolUse", ""),
        ("PostToolUse", ""),
        ("Stop", ""),
        ("SessionEnd", ""),
    ],
    wake_event: None,
};

pub(super) const AGENT: Agent = Agent {
    id: "devin",
    title: "Devin",
    // It grew out of Windsurf, and its MCP client still has Windsurf's name.
    kind: "windsurf",
    short_name: "windsurf",
    identity: UNSEEN,
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
        approve: RESTART,
        why_edited: "",
        switches: &[],
    },
    transcript: None,
    wakeups: &[],
    support: Support {
        version: "",
        mail_at_prompt: Evidence::Docs,
        mail_mid_turn: Evidence::Docs,
        wakes_idle: Evidence::No,
        edit_denied: Evidence::Docs,
        set_up: Evidence::Test,
    },
};
