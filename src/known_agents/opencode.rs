//! OpenCode, as of 1.18.33. It has no hooks of its own: our plugin runs them, in Claude Code's shape.

use super::dialect::{CLAUDE_SHAPED, Dialect};
use super::files::{
    CommandStyle, Directory, EntryShape, FilePath, Files, NO_FILES, OwnFile, RESTART, Scope, commands, edited,
};
use super::identity::{Identity, ProcessSign};
use super::wakeup::{HookAnswer, Means, Wakeup};
use super::{Agent, Evidence, Support};

const PLUGIN: &str = include_str!("opencode_plugin.js");

pub(super) const AGENT: Agent = Agent {
    id: "opencode",
    title: "OpenCode",
    kind: "opencode",
    short_name: "opencode",
    identity: Identity {
        client_names: &["opencode"],
        environment: &["OPENCODE_PID"],
        session_variable: None,
        processes: &[ProcessSign::Name("opencode")],
        has_many_sessions: false,
        hosts_terminals: false,
    },
    dialect: Some(Dialect {
        edit_tools: &["edit", "write", "multiedit", "applypatch"],
        reason_is_prompt: true,
        ..CLAUDE_SHAPED
    }),
    files: Files {
        programs: &["opencode"],
        directory: &[
            Directory::Variable("OPENCODE_CONFIG_DIR", ""),
            Directory::Xdg("opencode"),
            Directory::Home(".config/opencode"),
        ],
        user: Scope {
            server: edited(
                &[FilePath::Settings("opencode.json"), FilePath::Settings("opencode.jsonc")],
                "mcp",
                EntryShape::LocalWithList,
            ),
            commands: commands(FilePath::Settings("command/{name}.md"), CommandStyle::MarkdownWithDescription),
            own_file: Some(OwnFile { path: FilePath::Settings("plugin/slm-mesh.js"), text: PLUGIN, runs_hooks: true }),
            ..NO_FILES
        },
        project: Scope {
            server: edited(
                &[FilePath::Project("opencode.json"), FilePath::Project("opencode.jsonc")],
                "mcp",
                EntryShape::LocalWithList,
            ),
            commands: commands(FilePath::Project(".opencode/command/{name}.md"), CommandStyle::MarkdownWithDescription),
            own_file: Some(OwnFile {
                path: FilePath::Project(".opencode/plugin/slm-mesh.js"),
                text: PLUGIN,
                runs_hooks: true,
            }),
            ..NO_FILES
        },
        approve: RESTART,
        why_edited: "",
        switches: &[],
    },
    transcript: None,
    wakeups: &[Wakeup {
        channel: "plugin prompt",
        means: Means::BackgroundHook { answer: HookAnswer::JsonLine, needs: &[] },
    }],
    support: Support {
        version: "1.18.33",
        mail_at_prompt: Evidence::Run,
        mail_mid_turn: Evidence::Run,
        wakes_idle: Evidence::Run,
        edit_denied: Evidence::Run,
        set_up: Evidence::Run,
    },
};
