//! Claude Code, as of 2.1.330. Several other agents have copied the format of its hooks, and some also run the hooks in
//! Claude Code's settings.

use super::vocabulary::*;
use serde_json::{Value, json};

/// The environment variable that contains the path of a file. Claude Code's shell runs this file before each command.
const SHELL_LINES: &str = "CLAUDE_ENV_FILE";

/// Claude Code's own tools that write files, and all tools of MCP servers other than slm-mesh.
const WRITING_TOOLS: &str = "Edit|Write|MultiEdit|NotebookEdit|Bash|Monitor|mcp__(?!slm-mesh__).*";

const HOOKS: HookFile = HookFile {
    command: HookCommand::ProgramAndArguments,
    events: &[
        ("SessionStart", ""),
        ("UserPromptSubmit", ""),
        ("PreToolUse", WRITING_TOOLS),
        ("PostToolUse", ""),
        // Even a command that fails may have written files.
        ("PostToolUseFailure", WRITING_TOOLS),
        ("Stop", ""),
        ("SubagentStop", ""),
        // Other notifications, such as the one after a login, need no action.
        ("Notification", "permission_prompt|idle_prompt|elicitation_dialog"),
        ("SessionEnd", ""),
    ],
    ..CLAUDE_HOOKS
};

pub(super) const AGENT: Agent = Agent {
    kind: "claude-code",
    identity: Identity {
        client_names: &["claude-code"],
        environment: &["CLAUDECODE"],
        session_variable: Some("CLAUDE_CODE_SESSION_ID"),
        processes: &[
            ProcessSign::NameHas("claude"),
            ProcessSign::ArgumentsHave("anthropic.claude-code"),
            ProcessSign::ArgumentsHave("/claude-code/"),
        ],
        ..UNSEEN
    },
    // Without this field, a model in Claude Code must search for a tool before it can use the tool.
    tool_meta: &["anthropic/alwaysLoad"],
    dialect: Some(Dialect {
        // Claude Code shows a hook's `reason` twice, and makes it look as if the user had written it. The mail
        // therefore goes into `additionalContext`. Other agents that run these hooks read only `reason`, so `reason`
        // says how to read the mail.
        go_on: |text| {
            json!({
                "decision": "block", "reason": MAIL_CAME,
                "hookSpecificOutput": { "hookEventName": "Stop", "additionalContext": text },
            })
        },
        shell_lines: Some(ShellLines::File(SHELL_LINES)),
        shell_environment: Some(ShellEnvironment::File(SHELL_LINES)),
        is_shared: true,
        ..CLAUDE_SHAPED
    }),
    files: Files {
        programs: &["claude"],
        directory: &[Directory::Variable("CLAUDE_CONFIG_DIR", ""), Directory::Home(".claude")],
        user: Scope {
            server: Some(ServerFile {
                paths: &[FilePath::HomeUnlessMoved(".claude.json")],
                key: "mcpServers",
                entry: EntryShape::Stdio,
                writer: Writer::Agent(AgentCommand {
                    program: "claude",
                    add: &["mcp", "add", "slm-mesh", "-s", "user", "--", "{program}", "mcp"],
                    add_entry: &["mcp", "add-json", "slm-mesh", "{entry}", "-s", "user"],
                    remove: &["mcp", "remove", "slm-mesh", "-s", "user"],
                    directories: "projects",
                    remove_in_directory: &["mcp", "remove", "slm-mesh", "-s", "local"],
                }),
            }),
            // Only the user's hook file gets a hook that wakes the agent. The project's hook file gets no such hook,
            // because other agents also read this file, and would wait for the hook to end.
            hooks: Some(HookFile { wake_event: Some("Stop"), ..HOOKS }),
            commands: commands(FilePath::Settings("commands/{name}.md"), CommandStyle::MarkdownWithDescription),
            ..NO_FILES
        },
        project: Scope {
            server: edited(&[FilePath::Project(".mcp.json")], "mcpServers", EntryShape::Stdio),
            hooks: Some(HookFile { path: FilePath::Project(".claude/settings.json"), ..HOOKS }),
            commands: commands(FilePath::Project(".claude/commands/{name}.md"), CommandStyle::MarkdownWithDescription),
            ..NO_FILES
        },
        approve_in_project: "In the next session, approve the server in .mcp.json, and trust the folder: until you \
                             trust it, its hooks do not run.",
        switches: &[
            Switch { file: FilePath::Settings("settings.json"), keys: &["disableAllHooks"], off: Off::Flag(true) },
            Switch {
                file: FilePath::Project(".claude/settings.json"),
                keys: &["disableAllHooks"],
                off: Off::Flag(true),
            },
            Switch {
                file: FilePath::Project(".claude/settings.local.json"),
                keys: &["disableAllHooks"],
                off: Off::Flag(true),
            },
        ],
        plugin: Some(Plugin {
            manifest: ".claude-plugin/plugin.json",
            server_file: Some(".mcp.json"),
            root: "${CLAUDE_PLUGIN_ROOT}",
            skills: ("skills/{name}/SKILL.md", CommandStyle::MarkdownWithName),
            sign: PluginSign::EnabledIn(FilePath::Settings("settings.json"), "enabledPlugins"),
        }),
        ..NO_SETTINGS
    },
    transcript: Some(TranscriptFormat { passage: read_passage }),
    wakeups: &[
        // Claude Code sets the environment variables for the socket in hooks, shell commands and MCP servers. Since
        // version 2.1.224, its documentation promises the variables for hooks and shell commands.
        Wakeup {
            channel: "session inbox",
            means: Means::SessionSocket {
                socket: "CLAUDE_CODE_MESSAGING_SOCKET",
                token: "CLAUDE_CODE_MESSAGING_TOKEN",
            },
        },
        // This hook is marked `asyncRewake`. Only interactive sessions may have such a hook, because `claude -p` does
        // not end while the hook waits.
        Wakeup {
            channel: "background hook",
            means: Means::BackgroundHook {
                answer: HookAnswer::ExitStatus(2),
                needs: &[("CLAUDE_CODE_ENTRYPOINT", Some("cli")), ("CLAUDE_PID", None)],
            },
        },
    ],
    support: Support { wakes_idle: Evidence::Run, ..Support::run("2.1.330").with_shield(Evidence::Run) },
    ..Agent::new("claude", "Claude Code")
};

/// Reads a line of `projects/DIRECTORY/SESSION.jsonl`. Skips summaries, lines of subagents, and texts that Claude Code
/// itself inserted.
fn read_passage(line: &Value) -> Option<Passage> {
    if ["isMeta", "isSidechain", "isCompactSummary"].iter().any(|mark| line[*mark] == json!(true)) {
        return None;
    }
    let text = text_of(&line["message"]["content"]);
    match line["type"].as_str()? {
        "user" if !text.starts_with("<local-command") => passage(Speaker::User, text),
        "assistant" => passage(Speaker::Agent, text),
        _ => None,
    }
}
