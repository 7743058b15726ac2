//! How agents speak with their hooks: the parts of a dialect, and the shapes that several agents share.

use serde_json::{Value, json};
use std::path::Path;

/// How one agent speaks with its hooks.
#[derive(Debug, Clone, Copy)]
pub struct Dialect {
    /// The agent's names for the events.
    pub events: &'static [(&'static str, HookKind)],
    /// The name of an event whose input does not say it.
    pub unnamed_event: fn(&Value) -> Option<&'static str>,
    /// Tools that write files, in lower case without separators.
    pub edit_tools: &'static [&'static str],
    /// Tools that run a command, written the same way.
    pub shell_tools: &'static [&'static str],
    /// Events whose answer the agent does not show to its model. Mail stays unread there.
    pub unheard: &'static [HookKind],
    /// The answer that puts text before the model.
    pub show: fn(&HookCall, &str) -> Value,
    /// The answer that prevents an edit.
    pub deny: fn(&HookCall, &str) -> Value,
    /// The variable in which the hook of a session's start finds the name of a file, whose lines the agent's bash or zsh
    /// runs before each command; none if an agent has nothing like it.
    pub shell_lines: Option<&'static str>,
    /// The answer that keeps the agent going once instead of stopping.
    pub go_on: fn(&str) -> Value,
    /// How the hook of a session's start reaches the environment of the session's shell commands.
    pub shell_environment: Option<ShellEnvironment>,
    /// Whether the agent takes that reason for a prompt of its user and runs the prompt's hook. Then
    /// the reason is a fixed sentence, and the prompt's hook shows the mail.
    pub reason_is_prompt: bool,
    /// Whether other agents run these hooks as well as their own.
    pub is_shared: bool,
    /// What `doctor --prove` plays.
    pub proof: ProofScript,
}

/// How a hook sets variables for the shell commands of its session.
#[derive(Debug, Clone, Copy)]
pub enum ShellEnvironment {
    /// It appends to a file, which this variable of its environment or field of its input names.
    File(&'static str),
    /// Its answer has them in this field.
    Answer(&'static str),
}

/// What happened, whatever the agent calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookKind {
    /// A session began.
    Start,
    /// The user wrote something.
    Prompt,
    /// A tool is about to run.
    BeforeTool,
    /// A tool ran.
    AfterTool,
    /// The agent is about to stop.
    Stop,
    /// A subagent ended.
    SubagentStop,
    /// The user stopped the agent, so it can't go on.
    Interrupt,
    /// The agent waits for its user: for a permission, or for the next prompt.
    Waits,
    /// The session ended.
    End,
}

/// A hook's input, as far as an answer depends on it.
#[derive(Debug, Clone)]
pub struct HookCall {
    /// What happened.
    pub kind: HookKind,
    /// The agent's name for it, which some answers repeat.
    pub event: String,
}

/// The session that `doctor --prove` plays.
#[derive(Debug, Clone, Copy)]
pub struct ProofScript {
    /// The event of a prompt.
    pub prompt: &'static str,
    /// The event before an edit.
    pub edit: &'static str,
    /// The event after a tool.
    pub tool: &'static str,
    /// The event at the end of a turn.
    pub stop: &'static str,
    /// The input of an event; the file is the one to be edited.
    pub input: fn(&str, &Path) -> Value,
}

/// Why an agent goes on, where its mail comes another way.
pub const MAIL_CAME: &str =
    "slm-mesh: mail came in while you worked. It stands in the context; mesh_inbox with filter all has it, too.";

/// Claude Code's events, which several agents have taken over.
pub(super) const CLAUDE_EVENTS: &[(&str, HookKind)] = &[
    ("SessionStart", HookKind::Start),
    ("UserPromptSubmit", HookKind::Prompt),
    ("PreToolUse", HookKind::BeforeTool),
    ("PostToolUse", HookKind::AfterTool),
    ("PostToolUseFailure", HookKind::AfterTool),
    ("PostToolBatch", HookKind::AfterTool),
    ("Stop", HookKind::Stop),
    ("SubagentStop", HookKind::SubagentStop),
    ("Interrupt", HookKind::Interrupt),
    ("Notification", HookKind::Waits),
    ("SessionEnd", HookKind::End),
];

/// The dialect that several agents have taken over from Claude Code.
pub(super) const CLAUDE_SHAPED: Dialect = Dialect {
    events: CLAUDE_EVENTS,
    unnamed_event: |_| None,
    edit_tools: &["edit", "write", "multiedit", "notebookedit"],
    shell_tools: &["bash", "shell", "exec", "runshellcommand", "runterminalcommand", "runinterminal", "execute"],
    unheard: &[],
    show: show_in_hook_output,
    deny: deny_in_hook_output,
    shell_lines: None,
    go_on: block,
    shell_environment: None,
    reason_is_prompt: false,
    is_shared: false,
    proof: CLAUDE_PROOF,
};

const CLAUDE_PROOF: ProofScript = ProofScript {
    prompt: "UserPromptSubmit",
    edit: "PreToolUse",
    tool: "PostToolUse",
    stop: "Stop",
    input: |event, file| named_input(event, "Write", &json!({ "file_path": file, "content": "" })),
};

/// The input of an event that says its name.
pub(super) fn named_input(event: &str, tool: &str, arguments: &Value) -> Value {
    json!({ "session_id": "proof", "hook_event_name": event, "stop_hook_active": false,
            "tool_name": tool, "tool_input": arguments })
}

fn show_in_hook_output(call: &HookCall, text: &str) -> Value {
    json!({ "hookSpecificOutput": { "hookEventName": call.event, "additionalContext": text } })
}

fn deny_in_hook_output(call: &HookCall, reason: &str) -> Value {
    json!({ "hookSpecificOutput": {
        "hookEventName": call.event, "permissionDecision": "deny", "permissionDecisionReason": reason,
    } })
}

/// The answer at the end of a turn that several agents share.
pub(super) fn block(reason: &str) -> Value {
    json!({ "decision": "block", "reason": reason })
}
