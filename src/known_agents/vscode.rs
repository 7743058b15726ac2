//! VS Code's own agent, according to its documentation of autumn 2026. The agent has hooks like Claude Code's.

use super::vocabulary::*;

#[cfg(target_os = "macos")]
const DIRECTORY: &[Directory] = &[Directory::Home("Library/Application Support/Code/User")];
#[cfg(not(target_os = "macos"))]
const DIRECTORY: &[Directory] = &[Directory::Xdg("Code/User"), Directory::Home(".config/Code/User")];

pub(super) const AGENT: Agent = Agent {
    identity: Identity {
        client_names: &["Visual Studio Code"],
        environment: &["VSCODE_PID"],
        processes: &[ProcessSign::ArgumentsHave("visual studio code.app"), ProcessSign::Name("code")],
        hosts_terminals: true,
        ..UNSEEN
    },
    dialect: Some(Dialect {
        fields: InputFields {
            event: &["hookEventName"],
            session: &["sessionId"],
            files: &["filePath"],
            edit_lists: &["replacements"],
            file_lists: &["files"],
            ..CLAUDE_FIELDS
        },
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
                has_groups: false,
                events: &[
                    ("SessionStart", ""),
                    ("UserPromptSubmit", ""),
                    ("PreToolUse", ""),
                    ("PostToolUse", ""),
                    ("Stop", ""),
                ],
                ..CLAUDE_HOOKS
            }),
            commands: commands(
                FilePath::Project(".github/prompts/{name}.prompt.md"),
                CommandStyle::MarkdownWithDescription,
            ),
            ..NO_FILES
        },
        approve: "When the server first starts, VS Code asks whether you trust it. VS Code runs the hooks in a \
                  project's .github/hooks (slm-mesh setup vscode --project) and the hooks in ~/.claude/settings.json.",
        why_edited: "the alternative, code --add-mcp, might change other parts of the file",
        switches: &[
            Switch { file: FilePath::Settings("settings.json"), keys: &["chat.useHooks"], off: Off::Flag(false) },
            Switch {
                file: FilePath::Project(".vscode/settings.json"),
                keys: &["chat.useHooks"],
                off: Off::Flag(false),
            },
        ],
        ..NO_SETTINGS
    },
    support: Support::documented(),
    ..Agent::new("vscode", "VS Code")
};
