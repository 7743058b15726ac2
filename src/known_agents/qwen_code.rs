//! Qwen Code, as of 0.24.4. Its hooks have Claude Code's shape, with time limits in milliseconds.

use super::dialect::{CLAUDE_SHAPED, Dialect, ProofScript, named_input};
use super::files::{
    Directory, EntryShape, FilePath, Files, HookCommand, HookFile, NO_FILES, Off, RESTART, Scope, Switch, TimeLimit,
    edited,
};
use super::identity::{Identity, ProcessSign};
use super::transcript::{Passage, Speaker, TranscriptFormat, passage, text_of};
use super::{Agent, Evidence, Support};
use serde_json::{Value, json};

const HOOKS: HookFile = HookFile {
    path: FilePath::Settings("settings.json"),
    key: Some("hooks"),
    has_version: false,
    has_groups: true,
    command: HookCommand::NamedShellLine,
    limit: TimeLimit::Milliseconds,
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
    id: "qwen",
    title: "Qwen Code",
    kind: "qwen",
    short_name: "qwen",
    identity: Identity {
        client_names: &["qwen-cli-mcp-client", "qwen-cli-mcp-client-slm-mesh"],
        environment: &[],
        session_variable: None,
        processes: &[ProcessSign::Name("qwen"), ProcessSign::ArgumentsHave("/qwen-code/")],
        has_many_sessions: false,
        hosts_terminals: false,
    },
    dialect: Some(Dialect {
        edit_tools: &["edit", "writefile", "replace"],
        proof: ProofScript {
            input: |event, file| named_input(event, "write_file", &json!({ "file_path": file, "content": "" })),
            ..CLAUDE_SHAPED.proof
        },
        ..CLAUDE_SHAPED
    }),
    files: Files {
        programs: &["qwen"],
        directory: &[Directory::Home(".qwen")],
        user: Scope {
            server: edited(&[FilePath::Settings("settings.json")], "mcpServers", EntryShape::Plain),
            hooks: Some(HOOKS),
            ..NO_FILES
        },
        project: Scope {
            server: edited(&[FilePath::Project(".qwen/settings.json")], "mcpServers", EntryShape::Plain),
            hooks: Some(HookFile { path: FilePath::Project(".qwen/settings.json"), ..HOOKS }),
            ..NO_FILES
        },
        approve: RESTART,
        why_edited: "",
        switches: &[Switch {
            file: FilePath::Settings("settings.json"),
            keys: &["disableAllHooks"],
            off: Off::Flag(true),
        }],
    },
    transcript: Some(TranscriptFormat { passage: read_passage }),
    wakeups: &[],
    support: Support {
        version: "0.24.4",
        mail_at_prompt: Evidence::Docs,
        mail_mid_turn: Evidence::Docs,
        wakes_idle: Evidence::No,
        edit_denied: Evidence::Docs,
        set_up: Evidence::Test,
    },
};

/// A line of `projects/DIRECTORY/chats/SESSION.jsonl`. Lines with a subtype are Qwen Code's own notices.
fn read_passage(line: &Value) -> Option<Passage> {
    if !line["subtype"].is_null() {
        return None;
    }
    let text = text_of(&line["message"]["parts"]);
    match line["type"].as_str()? {
        "user" => passage(Speaker::User, text),
        "assistant" => passage(Speaker::Agent, text),
        _ => None,
    }
}
