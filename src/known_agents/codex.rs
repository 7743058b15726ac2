//! Codex CLI, as of 0.169.0. Codex has hooks like Claude Code's, but refuses hook output that has unknown fields.

use super::vocabulary::*;
use serde_json::{Value, json};

const HOOKS: HookFile = HookFile {
    path: FilePath::Settings("hooks.json"),
    events: &[
        ("SessionStart", ""),
        ("UserPromptSubmit", ""),
        // The empty pattern matches all tools. The hook must also run before shell commands, because models without a
        // patch tool apply patches with shell commands.
        ("PreToolUse", ""),
        ("PostToolUse", ""),
        ("Stop", ""),
        // Codex sends the id of the subagent with each tool call of a subagent, so the subagent has locks of its own.
        ("SubagentStop", ""),
        ("Interrupt", ""),
        ("SessionEnd", ""),
    ],
    ..CLAUDE_HOOKS
};

pub(super) const AGENT: Agent = Agent {
    identity: Identity {
        client_names: &["codex-mcp-client"],
        processes: &[ProcessSign::Name("codex"), ProcessSign::Name("codex-tui"), ProcessSign::ArgumentsHave("/codex/")],
        has_many_sessions: true,
        ..UNSEEN
    },
    hook_list_command: Some("/hooks"),
    dialect: Some(Dialect {
        fields: InputFields {
            // The tool for patches gets the patch as its command.
            edit_commands: &["command"],
            commands: &["command", "cmd"],
            command_directory: &["workdir"],
            ..CLAUDE_FIELDS
        },
        edit_tools: &["applypatch"],
        shell_tools: &["shell", "exec", "execcommand", "localshell", "unifiedexec"],
        proof: ProofScript {
            input: |event, file| {
                let patch = format!("*** Begin Patch\n*** Update File: {}\n@@\n-a\n+b\n*** End Patch", file.display());
                named_input(event, "apply_patch", &json!({ "command": patch }))
            },
            ..CLAUDE_SHAPED.proof
        },
        ..CLAUDE_SHAPED
    }),
    files: Files {
        programs: &["codex"],
        directory: &[Directory::Variable("CODEX_HOME", ""), Directory::Home(".codex")],
        user: Scope {
            server: edited(&[FilePath::Settings("config.toml")], "mcp_servers", EntryShape::TomlTable),
            hooks: Some(HOOKS),
            commands: commands(FilePath::Settings("skills/{name}/SKILL.md"), CommandStyle::MarkdownWithName),
            ..NO_FILES
        },
        project: Scope {
            server: edited(&[FilePath::Project(".codex/config.toml")], "mcp_servers", EntryShape::TomlTable),
            hooks: Some(HookFile { path: FilePath::Project(".codex/hooks.json"), ..HOOKS }),
            ..NO_FILES
        },
        approve: "Codex silently skips new and changed hooks until you approve them: type /hooks in Codex.",
        why_edited: "the alternative, codex mcp add, would remove the comments in the file",
        switches: &[
            Switch { file: FilePath::Settings("config.toml"), keys: &["features", "hooks"], off: Off::Flag(false) },
            Switch {
                file: FilePath::Settings("config.toml"),
                keys: &["features", "codex_hooks"],
                off: Off::Flag(false),
            },
        ],
        server_switches: &[
            Switch {
                file: FilePath::Settings("config.toml"),
                keys: &["mcp_servers", "slm-mesh", "enabled"],
                off: Off::Flag(false),
            },
            Switch {
                file: FilePath::Project(".codex/config.toml"),
                keys: &["mcp_servers", "slm-mesh", "enabled"],
                off: Off::Flag(false),
            },
        ],
        ..NO_SETTINGS
    },
    transcript: Some(TranscriptFormat { passage: read_passage }),
    wakeups: &[Wakeup {
        channel: "agent queue",
        means: Means::Command {
            program: "codex",
            arguments: &["queue", "--thread", "{session}", "--message", "{text}"],
            variable: "CODEX_HOME",
        },
    }],
    support: Support { wakes_idle: Evidence::Run, ..Support::run("0.169.0") },
    ..Agent::new("codex", "Codex")
};

/// Reads a line of `sessions/YYYY/MM/DD/rollout-….jsonl`. Codex also records the project's rules and the environment as
/// messages of the user. Such messages are skipped.
fn read_passage(line: &Value) -> Option<Passage> {
    let item = &line["payload"];
    if line["type"] != json!("response_item") || item["type"] != json!("message") {
        return None;
    }
    let text = text_of(&item["content"]);
    match item["role"].as_str()? {
        "user" if !text.starts_with('<') && !text.starts_with("# AGENTS.md ") => passage(Speaker::User, text),
        "assistant" => passage(Speaker::Agent, text),
        _ => None,
    }
}
