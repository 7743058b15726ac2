//! Codex CLI, as of 0.169.0. Its hooks have Claude Code's shape, and it refuses unknown fields.

use super::dialect::{CLAUDE_SHAPED, Dialect, ProofScript, named_input};
use super::files::{
    CommandStyle, Directory, EntryShape, FilePath, Files, HookCommand, HookFile, NO_FILES, Off, Scope, Switch,
    TimeLimit, commands, edited,
};
use super::identity::{Identity, ProcessSign};
use super::transcript::{Passage, Speaker, TranscriptFormat, passage, text_of};
use super::wakeup::{Means, Wakeup};
use super::{Agent, Evidence, Support};
use serde_json::{Value, json};

const HOOKS: HookFile = HookFile {
    path: FilePath::Settings("hooks.json"),
    key: Some("hooks"),
    has_version: false,
    has_groups: true,
    command: HookCommand::ShellLine,
    limit: TimeLimit::Seconds,
    events: &[
        ("SessionStart", ""),
        ("UserPromptSubmit", ""),
        // All tools: a model without a tool for patches applies them with a shell command.
        ("PreToolUse", ""),
        ("PostToolUse", ""),
        ("Stop", ""),
        ("Interrupt", ""),
        ("SessionEnd", ""),
    ],
    wake_event: None,
};

pub(super) const AGENT: Agent = Agent {
    id: "codex",
    title: "Codex",
    kind: "codex",
    short_name: "codex",
    identity: Identity {
        client_names: &["codex-mcp-client"],
        environment: &[],
        session_variable: None,
        processes: &[ProcessSign::Name("codex"), ProcessSign::Name("codex-tui"), ProcessSign::ArgumentsHave("/codex/")],
        has_many_sessions: true,
        hosts_terminals: false,
    },
    dialect: Some(Dialect {
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
        approve: "Codex skips new and changed hooks in silence until you approve them: type /hooks in Codex.",
        why_edited: "codex mcp add would drop comments from the file, so setup edits it",
        switches: &[
            Switch { file: FilePath::Settings("config.toml"), keys: &["features", "hooks"], off: Off::Flag(false) },
            Switch {
                file: FilePath::Settings("config.toml"),
                keys: &["features", "codex_hooks"],
                off: Off::Flag(false),
            },
        ],
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
    support: Support {
        version: "0.169.0",
        mail_at_prompt: Evidence::Run,
        mail_mid_turn: Evidence::Run,
        wakes_idle: Evidence::Run,
        edit_denied: Evidence::Run,
        set_up: Evidence::Run,
    },
};

/// A line of `sessions/YYYY/MM/DD/rollout-….jsonl`. Codex writes the project's rules and the environment down as the
/// user's messages, too.
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
