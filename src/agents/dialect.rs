//! The agents' dialects: what their hooks tell us, and how each wants to be answered. Names of
//! events, fields and tools are those of the agents' own documentation, autumn 2026.

use super::edited_paths;
use serde_json::{Value, json};

/// An agent whose hooks we understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    /// Claude Code, and agents that speak its dialect under its name.
    Claude,
    /// Codex CLI: Claude's shape, and strict about unknown fields.
    Codex,
    /// GitHub Copilot CLI.
    Copilot,
    /// Gemini CLI.
    Gemini,
    /// Cursor.
    Cursor,
    /// VS Code's own agent: Claude's shape.
    VsCode,
    /// Devin: Claude's shape.
    Devin,
    /// OpenCode, through our plugin: Claude's shape.
    OpenCode,
}

/// What happened, whatever the agent calls it.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A session began, or began anew.
    Start,
    /// The user wrote something.
    Prompt,
    /// A tool is about to edit these files.
    Edit(Vec<String>),
    /// A tool ran.
    Tool,
    /// The agent is about to stop; `true` if a hook keeps it going already.
    Stop(bool),
    /// The session ended.
    End,
}

/// A hook's input, understood.
#[derive(Debug, Clone)]
pub struct Told {
    /// What happened.
    pub event: Event,
    /// The event's own name, which some answers must repeat.
    pub name: String,
    /// The agent's key for the session.
    pub session: String,
    /// The session's working directory.
    pub dir: String,
}

/// The words by which `slm-mesh hook` knows the agents.
pub const NAMES: &[(&str, Agent)] = &[
    ("claude", Agent::Claude),
    ("codex", Agent::Codex),
    ("copilot", Agent::Copilot),
    ("gemini", Agent::Gemini),
    ("cursor", Agent::Cursor),
    ("vscode", Agent::VsCode),
    ("devin", Agent::Devin),
    ("opencode", Agent::OpenCode),
];

/// Why an agent goes on, where the mail itself goes another way.
pub const MAIL_CAME: &str =
    "slm-mesh: mail came in while you worked. It stands in the context; mesh_inbox with filter all has it, too.";

/// Makes an event of a hook's input, or nothing if it does not concern us.
type Read = fn(&Value) -> Option<Event>;

/// Event names of all agents; no two of them use one name for two things.
const EVENTS: &[(&str, Read)] = &[
    ("SessionStart", |_| Some(Event::Start)),
    ("sessionStart", |_| Some(Event::Start)),
    ("UserPromptSubmit", |_| Some(Event::Prompt)),
    ("userPromptSubmitted", |_| Some(Event::Prompt)),
    ("BeforeAgent", |_| Some(Event::Prompt)),
    ("beforeSubmitPrompt", |_| Some(Event::Prompt)),
    ("PreToolUse", edit),
    ("preToolUse", edit),
    ("BeforeTool", edit),
    ("PostToolUse", |_| Some(Event::Tool)),
    ("PostToolUseFailure", |_| Some(Event::Tool)),
    ("PostToolBatch", |_| Some(Event::Tool)),
    ("postToolUse", |_| Some(Event::Tool)),
    ("postToolUseFailure", |_| Some(Event::Tool)),
    ("AfterTool", |_| Some(Event::Tool)),
    ("Stop", stop),
    ("agentStop", stop),
    ("AfterAgent", stop),
    ("stop", stop),
    ("Interrupt", |_| Some(Event::Stop(true))),
    ("SessionEnd", |_| Some(Event::End)),
    ("sessionEnd", |_| Some(Event::End)),
];

fn edit(input: &Value) -> Option<Event> {
    let found = edited_paths::edited(input);
    (!found.is_empty()).then_some(Event::Edit(found))
}

fn stop(input: &Value) -> Option<Event> {
    let flag = |name: &str| input[name].as_bool().unwrap_or(false);
    let loops = input["loop_count"].as_i64().unwrap_or(0) > 0;
    Some(Event::Stop(flag("stop_hook_active") || flag("stopHookActive") || loops))
}

impl Agent {
    /// The agent of that name.
    pub fn named(name: &str) -> Option<Agent> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, agent)| *agent)
    }

    /// Its type on the mesh, the same as its MCP session has.
    pub fn kind(self) -> &'static str {
        match self {
            Agent::Claude => "claude-code",
            Agent::Codex => "codex",
            Agent::Copilot => "copilot",
            Agent::Gemini => "gemini",
            Agent::Cursor => "cursor",
            Agent::VsCode => "vscode",
            Agent::Devin => "windsurf",
            Agent::OpenCode => "opencode",
        }
    }

    /// Understands a hook's input; `None` for what does not concern us.
    pub fn understand(self, input: &Value) -> Option<Told> {
        let text = |names: &[&str]| names.iter().find_map(|name| input[*name].as_str()).map(str::to_owned);
        let name = text(&["hook_event_name", "hookEventName", "hookName"]).or_else(|| self.guess(input))?;
        let (_, read) = EVENTS.iter().find(|(known, _)| *known == name)?;
        let root = || input["workspace_roots"][0].as_str().map(str::to_owned);
        Some(Told {
            event: read(input)?,
            session: text(&["session_id", "sessionId", "conversation_id"]).unwrap_or_default(),
            dir: text(&["cwd"]).or_else(root).unwrap_or_default(),
            name,
        })
    }

    /// Copilot's camelCase hooks do not name their event; their fields tell it.
    fn guess(self, input: &Value) -> Option<String> {
        let has = |name: &str| input.get(name).is_some();
        let name = match self {
            Agent::Copilot if has("toolResult") => "postToolUse",
            Agent::Copilot if has("toolName") => "preToolUse",
            Agent::Copilot if has("prompt") => "userPromptSubmitted",
            Agent::Copilot if has("stopReason") => "agentStop",
            Agent::Copilot if has("source") => "sessionStart",
            Agent::Copilot if has("reason") => "sessionEnd",
            _ => return None,
        };
        Some(name.into())
    }

    /// An answer that puts text before the model.
    pub fn show(self, told: &Told, text: &str) -> Value {
        match (self, &told.event) {
            (Agent::Copilot, _) => json!({ "additionalContext": text }),
            (Agent::Cursor, Event::Prompt) => json!({ "continue": true, "additional_context": text }),
            (Agent::Cursor, _) => json!({ "additional_context": text }),
            _ => json!({ "hookSpecificOutput": { "hookEventName": told.name, "additionalContext": text } }),
        }
    }

    /// An answer that keeps an edit from happening.
    pub fn deny(self, told: &Told, reason: &str) -> Value {
        match self {
            Agent::Copilot => json!({ "permissionDecision": "deny", "permissionDecisionReason": reason }),
            Agent::Gemini => json!({ "decision": "deny", "reason": reason }),
            Agent::Cursor => json!({ "permission": "deny", "user_message": reason, "agent_message": reason }),
            _ => json!({ "hookSpecificOutput": {
                "hookEventName": told.name, "permissionDecision": "deny", "permissionDecisionReason": reason,
            } }),
        }
    }

    /// Whether it takes the reason to go on for a prompt of its user, and asks the prompt's hook: so the
    /// reason is a fixed sentence, and that hook has the mail.
    pub fn prompts_itself(self) -> bool {
        matches!(self, Agent::Copilot | Agent::Gemini | Agent::OpenCode)
    }

    /// An answer that lets the agent go on for once instead of stopping.
    pub fn go_on(self, reason: &str) -> Value {
        match self {
            Agent::Gemini => json!({ "decision": "deny", "reason": reason }),
            Agent::Cursor => json!({ "followup_message": reason }),
            // It shows a reason twice, in the user's voice; agents that run its hooks know nothing else.
            Agent::Claude => json!({
                "decision": "block", "reason": MAIL_CAME,
                "hookSpecificOutput": { "hookEventName": "Stop", "additionalContext": reason },
            }),
            _ => json!({ "decision": "block", "reason": reason }),
        }
    }
}
