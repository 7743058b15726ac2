//! Qwen Code, as of 0.24.4. Qwen Code has hooks like Claude Code's, but with time limits in milliseconds.

use super::vocabulary::*;
use serde_json::{Value, json};

const HOOKS: HookFile =
    HookFile { command: HookCommand::NamedShellLine, limit: TimeLimit::Milliseconds, ..CLAUDE_HOOKS };

pub(super) const AGENT: Agent = Agent {
    identity: Identity {
        client_names: &["qwen-cli-mcp-client", "qwen-cli-mcp-client-slm-mesh"],
        processes: &[ProcessSign::Name("qwen"), ProcessSign::ArgumentsHave("/qwen-code/")],
        ..UNSEEN
    },
    dialect: Some(Dialect {
        fields: InputFields {
            call: &["tool_use_id", "tool_call_id"],
            command_directory: &["directory"],
            ..CLAUDE_FIELDS
        },
        edit_tools: &["edit", "writefile", "replace"],
        proof: ProofScript {
            input: |event, file| named_input(event, "write_file", &json!({ "file_path": file, "content": "" })),
            ..CLAUDE_SHAPED.proof
        },
        ..CLAUDE_SHAPED
    }),
    files: Files {
        programs: &["qwen"],
        directory: &[Directory::Variable("QWEN_HOME", ""), Directory::Home(".qwen")],
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
        switches: &[
            Switch { file: FilePath::Settings("settings.json"), keys: &["disableAllHooks"], off: Off::Flag(true) },
            Switch { file: FilePath::Project(".qwen/settings.json"), keys: &["disableAllHooks"], off: Off::Flag(true) },
        ],
        ..NO_SETTINGS
    },
    transcript: Some(TranscriptFormat { passage: read_passage }),
    support: Support::run("0.24.4"),
    ..Agent::new("qwen", "Qwen Code")
};

/// Reads a line of `projects/DIRECTORY/chats/SESSION.jsonl`. Lines with a subtype are notices by Qwen Code itself, so
/// they are skipped.
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
