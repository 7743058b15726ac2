//! Gemini CLI, as of 0.61.0.

use super::vocabulary::*;
use serde_json::{Value, json};

const SETTINGS: FilePath = FilePath::Settings("settings.json");
const PROJECT_SETTINGS: FilePath = FilePath::Project(".gemini/settings.json");

const HOOKS: HookFile = HookFile {
    path: SETTINGS,
    command: HookCommand::NamedShellLine,
    limit: TimeLimit::Milliseconds,
    events: &[
        ("SessionStart", ""),
        ("BeforeAgent", ""),
        ("BeforeTool", "write_file|replace|run_shell_command|mcp_.*"),
        ("AfterTool", ""),
        ("AfterAgent", ""),
        ("SessionEnd", ""),
    ],
    older_tools: &["write_file|replace", "write_file|replace|run_shell_command"],
    ..CLAUDE_HOOKS
};

pub(super) const AGENT: Agent = Agent {
    identity: Identity {
        client_names: &["gemini-cli-mcp-client", "gemini-cli-mcp-client-slm-mesh"],
        environment: &["GEMINI_CLI"],
        processes: &[ProcessSign::Name("gemini"), ProcessSign::ArgumentsHave("/gemini-cli/")],
        ..UNSEEN
    },
    dialect: Some(Dialect {
        events: &[
            ("SessionStart", HookKind::Start),
            ("BeforeAgent", HookKind::Prompt),
            ("BeforeTool", HookKind::BeforeTool),
            ("AfterTool", HookKind::AfterTool),
            ("AfterAgent", HookKind::Stop),
            ("SessionEnd", HookKind::End),
        ],
        fields: InputFields {
            // These names differ between versions of Gemini CLI.
            files: &["file_path", "absolute_path"],
            command_directory: &["dir_path", "directory"],
            ..CLAUDE_FIELDS
        },
        edit_tools: &["writefile", "replace"],
        deny: |_, reason| json!({ "decision": "deny", "reason": reason }),
        go_on: |reason| json!({ "decision": "deny", "reason": reason }),
        reason_is_prompt: true,
        proof: ProofScript {
            prompt: "BeforeAgent",
            edit: "BeforeTool",
            tool: "AfterTool",
            stop: "AfterAgent",
            input: |event, file| named_input(event, "write_file", &json!({ "file_path": file, "content": "" })),
        },
        ..CLAUDE_SHAPED
    }),
    files: Files {
        programs: &["gemini"],
        directory: &[Directory::Variable("GEMINI_CLI_HOME", ".gemini"), Directory::Home(".gemini")],
        user: Scope {
            server: edited(&[SETTINGS], "mcpServers", EntryShape::Plain),
            hooks: Some(HOOKS),
            commands: commands(FilePath::Settings("commands/{name}.toml"), CommandStyle::Toml),
            ..NO_FILES
        },
        project: Scope {
            server: edited(&[PROJECT_SETTINGS], "mcpServers", EntryShape::Plain),
            hooks: Some(HookFile { path: PROJECT_SETTINGS, ..HOOKS }),
            commands: commands(FilePath::Project(".gemini/commands/{name}.toml"), CommandStyle::Toml),
            ..NO_FILES
        },
        approve: "Gemini CLI starts servers only in trusted folders. It warns once about a project's new hooks, and \
                  asks before it calls a mesh tool.",
        approve_in_project: "",
        why_edited: "the alternative (the command `gemini mcp add`) might change other parts of the file",
        switches: &[
            Switch { file: SETTINGS, keys: &["hooksConfig", "enabled"], off: Off::Flag(false) },
            Switch { file: SETTINGS, keys: &["hooksConfig", "disabled"], off: Off::ListHasUs },
            Switch { file: PROJECT_SETTINGS, keys: &["hooksConfig", "enabled"], off: Off::Flag(false) },
            Switch { file: PROJECT_SETTINGS, keys: &["hooksConfig", "disabled"], off: Off::ListHasUs },
            Switch { file: SETTINGS, keys: &["tools", "enableHooks"], off: Off::Flag(false) },
            Switch { file: SETTINGS, keys: &["hooks", "disabled"], off: Off::ListHasUs },
        ],
        server_switches: &[
            Switch { file: SETTINGS, keys: &["mcp", "excluded"], off: Off::ListHasUs },
            Switch { file: SETTINGS, keys: &["mcp", "allowed"], off: Off::ListLacksUs },
            Switch { file: PROJECT_SETTINGS, keys: &["mcp", "excluded"], off: Off::ListHasUs },
            Switch { file: PROJECT_SETTINGS, keys: &["mcp", "allowed"], off: Off::ListLacksUs },
        ],
        plugin: Some(Plugin {
            manifest: "gemini-extension.json",
            server_file: None,
            root: "${extensionPath}",
            skills: ("commands/{name}.toml", CommandStyle::Toml),
            sign: PluginSign::Exists(FilePath::Settings("extensions/slm-mesh/gemini-extension.json")),
        }),
    },
    transcript: Some(TranscriptFormat { passage: read_passage }),
    support: Support::run("0.61.0"),
    ..Agent::new("gemini", "Gemini CLI")
};

/// Reads a line of `tmp/PROJECT/chats/session-….jsonl`. If a hook added context to a prompt, `displayContent` contains
/// only what the user typed.
fn read_passage(line: &Value) -> Option<Passage> {
    let shown = Some(&line["displayContent"]).filter(|content| !content.is_null());
    let text = text_of(shown.unwrap_or(&line["content"]));
    match line["type"].as_str()? {
        "user" => passage(Speaker::User, text),
        "gemini" => passage(Speaker::Agent, text),
        _ => None,
    }
}
