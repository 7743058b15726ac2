//! VS Code's own agent, as its documentation of autumn 2026 says. Its hooks have Claude Code's shape.

use super::dialect::{CLAUDE_SHAPED, Dialect};
use super::files::{
    CommandStyle, Directory, EntryShape, FilePath, Files, HookCommand, HookFile, NO_FILES, Off, Scope, Switch,
    TimeLimit, commands, edited,
};
use super::identity::{Identity, ProcessSign};
use super::{Agent, Evidence, Support};

#[cfg(target_os = "macos")]
const DIRECTORY: &[Directory] = &[Directory::Home("Library/Application Support/Code/User")];
#[cfg(not(target_os = "macos"))]
const DIRECTORY: &[Directory] = &[Directory::Xdg("Code/User"), Directory::Home(".config/Code/User")];

pub(super) const AGENT: Agent = Agent {
    id: "vscode",
    title: "VS Code",
    kind: "vscode",
    short_name: "vscode",
    identity: Identity {
        client_names: &["Visual Studio Code"],
        environment: &["VSCODE_PID"],
        session_variable: None,
        processes: &[ProcessSign::ArgumentsHave("visual studio code.app"), ProcessSign::Name("code")],
        has_many_sessions: false,
        hosts_terminals: true,
    },
    dialect: Some(Dialect {
        edit_tools: &[
            "createfile",
            "editfiles",
            "editnotebookfile",
            "inserteditintofile",
            "replacestringinfile",
            "multireplacestringinfile",
            "applypatch",
        ],
        ..CLAUDE_SHAPED
    }),
    files: Files {
        programs: &["code"],
        directory: DIRECTORY,
        user: Scope {
            server: edited(&[FilePath::Settings("mcp.json")], "servers", EntryShape::Stdio),
            commands: commands(FilePath::Settings("prompts/{name}.prompt.md"), CommandStyle::MarkdownWithDescription),
            ..NO_FILES
        },
        project: Scope {
            server: edited(&[FilePath::Project(".vscode/mcp.json")], "servers", EntryShape::Stdio),
            hooks: Some(HookFile {
                path: FilePath::Project(".github/hooks/slm-mesh.json"),
                key: Some("hooks"),
                has_version: false,
                has_groups: false,
                command: HookCommand::ShellLine,
                limit: TimeLimit::Seconds,
                events: &[
                    ("SessionStart", ""),
                    ("UserPromptSubmit", ""),
                    ("PreToolUse", ""),
                    ("PostToolUse", ""),
                    ("Stop", ""),
                ],
                wake_event: None,
            }),
            commands: commands(
                FilePath::Project(".github/prompts/{name}.prompt.md"),
                CommandStyle::MarkdownWithDescription,
            ),
            ..NO_FILES
        },
        approve: "VS Code asks whether you trust the server when it first starts. It runs the hooks of a project's \
                  .github/hooks (slm-mesh setup vscode --project) and those in ~/.claude/settings.json.",
        why_edited: "setup edits the file instead of running code --add-mcp, so that every other byte stays",
        switches: &[Switch {
            file: FilePath::Settings("settings.json"),
            keys: &["chat.useHooks"],
            off: Off::Flag(false),
        }],
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
