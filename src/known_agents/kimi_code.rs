//! Kimi Code, as of 2.1.0. Kimi Code shows the output of prompt hooks to its model. It ignores the output of hooks that
//! run after a tool call or at the start of a session.

use super::vocabulary::*;
use serde_json::json;

const CONFIG: FilePath = FilePath::Settings("config.toml");

pub(super) const AGENT: Agent = Agent {
    identity: Identity {
        client_names: &["kimi-code"],
        processes: &[ProcessSign::Name("kimi-code"), ProcessSign::ArgumentsHave("/kimi-code/")],
        ..UNSEEN
    },
    dialect: Some(Dialect {
        fields: InputFields { call: &["tool_call_id"], files: &["path"], command_directory: &["cwd"], ..CLAUDE_FIELDS },
        edit_tools: &["write", "edit"],
        unheard: &[HookKind::Start, HookKind::AfterTool],
        show: |_, text| json!({ "message": text }),
        warn: None,
        go_on: |reason| json!({ "hookSpecificOutput": { "permissionDecision": "deny", "permissionDecisionReason": reason } }),
        proof: ProofScript {
            input: |event, file| named_input(event, "Write", &json!({ "path": file, "content": "" })),
            ..CLAUDE_SHAPED.proof
        },
        ..CLAUDE_SHAPED
    }),
    files: Files {
        programs: &["kimi"],
        directory: &[Directory::Variable("KIMI_CODE_HOME", ""), Directory::Home(".kimi-code")],
        user: Scope {
            server: edited(&[FilePath::Settings("mcp.json")], "mcpServers", EntryShape::Plain),
            hooks: Some(HookFile {
                path: CONFIG,
                has_groups: false,
                command: HookCommand::TomlLine,
                events: &[
                    ("SessionStart", ""),
                    ("UserPromptSubmit", ""),
                    ("PreToolUse", ""),
                    ("PostToolUse", ""),
                    ("PostToolUseFailure", ""),
                    ("Stop", ""),
                    ("Interrupt", ""),
                    ("SessionEnd", ""),
                ],
                ..CLAUDE_HOOKS
            }),
            ..NO_FILES
        },
        ..NO_SETTINGS
    },
    support: Support { mail_mid_turn: Evidence::No, ..Support::run("2.1.0") },
    ..Agent::new("kimi", "Kimi Code")
};
