//! Cursor, both the editor and the command line, according to its documentation of autumn 2026.

use super::vocabulary::*;
use serde_json::json;

const HOOKS: HookFile = HookFile {
    path: FilePath::Settings("hooks.json"),
    has_version: true,
    has_groups: false,
    events: &[
        ("sessionStart", ""),
        ("beforeSubmitPrompt", ""),
        ("preToolUse", ""),
        ("postToolUse", ""),
        ("stop", ""),
        ("sessionEnd", ""),
    ],
    ..CLAUDE_HOOKS
};

pub(super) const AGENT: Agent = Agent {
    identity: Identity {
        client_names: &["cursor-vscode"],
        environment: &["CURSOR_TRACE_ID"],
        processes: &[ProcessSign::NameHas("cursor"), ProcessSign::ArgumentsHave("cursor.app")],
        hosts_terminals: true,
        ..UNSEEN
    },
    dialect: Some(Dialect {
        events: &[
            ("sessionStart", HookKind::Start),
            ("beforeSubmitPrompt", HookKind::Prompt),
            ("preToolUse", HookKind::BeforeTool),
            ("postToolUse", HookKind::AfterTool),
            ("postToolUseFailure", HookKind::AfterTool),
            ("stop", HookKind::Stop),
            ("sessionEnd", HookKind::End),
        ],
        fields: InputFields {
            session: &["session_id", "conversation_id"],
            directories: &["workspace_roots"],
            continued_counters: &["loop_count"],
            files: &["file_path", "target_file", "target_notebook"],
            command_directory: &["working_directory"],
            ..CLAUDE_FIELDS
        },
        edit_tools: &["write", "editfile", "strreplace", "searchreplace", "editnotebook", "delete", "deletefile"],
        show: |call, text| match call.kind {
            HookKind::Prompt => json!({ "continue": true, "additional_context": text }),
            _ => json!({ "additional_context": text }),
        },
        warn: None,
        deny: |_, reason| json!({ "permission": "deny", "user_message": reason, "agent_message": reason }),
        go_on: |reason| json!({ "followup_message": reason }),
        shell_environment: Some(ShellEnvironment::Answer("env")),
        proof: ProofScript {
            prompt: "beforeSubmitPrompt",
            edit: "preToolUse",
            tool: "postToolUse",
            stop: "stop",
            input: |event, file| {
                json!({ "conversation_id": "proof", "hook_event_name": event, "status": "completed", "loop_count": 0,
                        "tool_name": "Write", "tool_input": { "file_path": file } })
            },
        },
        ..CLAUDE_SHAPED
    }),
    files: Files {
        programs: &["cursor", "cursor-agent"],
        directory: &[Directory::Home(".cursor")],
        user: Scope {
            server: edited(&[FilePath::Settings("mcp.json")], "mcpServers", EntryShape::Plain),
            hooks: Some(HOOKS),
            commands: commands(FilePath::Settings("commands/{name}.md"), CommandStyle::Markdown),
            ..NO_FILES
        },
        project: Scope {
            server: edited(&[FilePath::Project(".cursor/mcp.json")], "mcpServers", EntryShape::Plain),
            hooks: Some(HookFile { path: FilePath::Project(".cursor/hooks.json"), ..HOOKS }),
            commands: commands(FilePath::Project(".cursor/commands/{name}.md"), CommandStyle::Markdown),
            ..NO_FILES
        },
        approve: "If the MCP section of Cursor's settings shows the server as disabled, switch it on there.",
        ..NO_SETTINGS
    },
    support: Support::documented(),
    ..Agent::new("cursor", "Cursor")
};
