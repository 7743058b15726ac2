//! GitHub Copilot CLI, as of 1.0.102. Copilot also runs the hooks in a project's `.claude/settings.json`.

use super::vocabulary::*;
use serde_json::{Value, json};
use std::path::Path;

pub(super) const AGENT: Agent = Agent {
    identity: Identity {
        client_names: &["copilot-cli"],
        processes: &[ProcessSign::Name("copilot"), ProcessSign::ArgumentsHave("/@github/copilot/")],
        environment: &["COPILOT_AGENT_SESSION_ID"],
        session_variable: Some("COPILOT_AGENT_SESSION_ID"),
        ..UNSEEN
    },
    dialect: Some(Dialect {
        events: &[
            ("sessionStart", HookKind::Start),
            ("userPromptSubmitted", HookKind::Prompt),
            ("preToolUse", HookKind::BeforeTool),
            ("postToolUse", HookKind::AfterTool),
            ("postToolUseFailure", HookKind::AfterTool),
            ("agentStop", HookKind::Stop),
            ("sessionEnd", HookKind::End),
        ],
        // No recorded input contains `agentId`, `toolUseId`, `toolInput` or `stopHookActive`. These names are written
        // like Copilot's other names.
        fields: InputFields {
            event: &["hookName"],
            session: &["sessionId"],
            subagent: &["agentId"],
            transcript: &["transcriptPath"],
            call: &["toolUseId"],
            tool: &["toolName"],
            arguments: &["toolArgs", "toolInput"],
            continued_flags: &["stop_hook_active", "stopHookActive"],
            files: &["path"],
            edit_commands: &["command"],
            read_only_commands: &["view"],
            ..CLAUDE_FIELDS
        },
        unnamed_event,
        edit_tools: &["edit", "create", "strreplaceeditor", "applypatch"],
        show: |_, text| json!({ "additionalContext": text }),
        warn: None,
        deny: |_, reason| json!({ "permissionDecision": "deny", "permissionDecisionReason": reason }),
        reason_is_prompt: true,
        proof: ProofScript {
            prompt: "userPromptSubmitted",
            edit: "preToolUse",
            tool: "postToolUse",
            stop: "agentStop",
            input: proof_input,
        },
        ..CLAUDE_SHAPED
    }),
    files: Files {
        programs: &["copilot"],
        directory: &[Directory::Variable("COPILOT_HOME", ""), Directory::Home(".copilot")],
        user: Scope {
            server: edited(&[FilePath::Settings("mcp-config.json")], "mcpServers", EntryShape::LocalWithTools),
            hooks: Some(HookFile {
                path: FilePath::Settings("hooks/slm-mesh.json"),
                has_version: true,
                has_groups: false,
                command: HookCommand::BashIfPresent,
                limit: TimeLimit::NamedSeconds,
                events: &[
                    ("sessionStart", ""),
                    ("userPromptSubmitted", ""),
                    ("preToolUse", ""),
                    ("postToolUse", ""),
                    ("agentStop", ""),
                    ("sessionEnd", ""),
                ],
                ..CLAUDE_HOOKS
            }),
            commands: commands(FilePath::Settings("skills/{name}/SKILL.md"), CommandStyle::MarkdownWithName),
            ..NO_FILES
        },
        // Set-up adds no hooks in .github, because they would run in addition to VS Code's hooks. The hooks in the
        // user's own settings work in every project.
        project: Scope {
            server: edited(&[FilePath::Project(".mcp.json")], "mcpServers", EntryShape::Stdio),
            ..NO_FILES
        },
        why_edited: "the alternative (the command `copilot mcp add`) might change other parts of the file",
        switches: &[
            Switch { file: FilePath::Settings("config.json"), keys: &["disableAllHooks"], off: Off::Flag(true) },
            Switch { file: FilePath::Settings("settings.json"), keys: &["disableAllHooks"], off: Off::Flag(true) },
        ],
        ..NO_SETTINGS
    },
    transcript: Some(TranscriptFormat { passage: read_passage }),
    support: Support::run("1.0.102"),
    ..Agent::new("copilot", "Copilot CLI")
};

/// Finds the event of an input that does not contain the event's name. Copilot sends such an input to a hook whose
/// event is registered in camelCase. The other fields of the input show which event it is.
fn unnamed_event(input: &Value) -> Option<&'static str> {
    let signs = [
        ("toolResult", "postToolUse"),
        ("toolName", "preToolUse"),
        ("prompt", "userPromptSubmitted"),
        ("stopReason", "agentStop"),
        ("source", "sessionStart"),
        ("reason", "sessionEnd"),
    ];
    signs.iter().find(|(field, _)| input.get(*field).is_some()).map(|(_, event)| *event)
}

fn proof_input(event: &str, file: &Path) -> Value {
    let mut input = json!({ "sessionId": "proof", "timestamp": 1 });
    match event {
        "userPromptSubmitted" => input["prompt"] = json!("hi"),
        "agentStop" => input["stopReason"] = json!("end_turn"),
        _ => {
            input["toolName"] = json!("edit");
            input["toolArgs"] = json!(json!({ "path": file }).to_string());
        }
    }
    if event == "postToolUse" {
        input["toolResult"] = json!({ "resultType": "success" });
    }
    input
}

/// Reads a line of `session-state/SESSION/events.jsonl`.
fn read_passage(line: &Value) -> Option<Passage> {
    let text = text_of(&line["data"]["content"]);
    match line["type"].as_str()? {
        "user.message" => passage(Speaker::User, text),
        "assistant.message" => passage(Speaker::Agent, text),
        _ => None,
    }
}
