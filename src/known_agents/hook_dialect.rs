//! Hook dialects: how agents call hooks and read the hooks' output. This module also contains the formats that several
//! agents share.

use serde_json::{Value, json};
use std::path::Path;

/// How an agent calls its hooks and reads their output.
#[derive(Debug, Clone, Copy)]
pub struct Dialect {
    /// The agent's names for the hook events.
    pub events: &'static [(&'static str, HookKind)],
    /// The agent's names for the fields of a hook's input.
    pub fields: InputFields,
    /// Finds the event of a hook input that does not contain the event's name.
    pub unnamed_event: fn(&Value) -> Option<&'static str>,
    /// The names of tools that write files, in lower case and without separators.
    pub edit_tools: &'static [&'static str],
    /// The names of tools that run a command, in lower case and without separators.
    pub shell_tools: &'static [&'static str],
    /// Events at which the agent does not show a hook's output to its model. Hooks deliver no mail at these events.
    pub unheard: &'static [HookKind],
    /// Builds the hook output that shows a text to the model.
    pub show: fn(&HookCall, &str) -> Value,
    /// Builds the hook output that shows a text to the user; `None` if the agent does not support this.
    pub warn: Option<fn(&str) -> Value>,
    /// Builds the hook output that prevents an edit.
    pub deny: fn(&HookCall, &str) -> Value,
    /// How slm-mesh can add lines that the agent's shell runs before each command; `None` if this is impossible.
    pub shell_lines: Option<ShellLines>,
    /// Builds the hook output that makes the agent continue instead of stopping.
    pub go_on: fn(&str) -> Value,
    /// How the hook at the start of a session sets environment variables for the session's shell commands.
    pub shell_environment: Option<ShellEnvironment>,
    /// A hook that makes the agent continue gives a reason. This field says whether the agent treats the reason as a
    /// prompt from the user, and therefore runs the prompt hook. For such an agent, the reason is a fixed sentence, and
    /// the prompt hook shows the mail.
    pub reason_is_prompt: bool,
    /// Whether other agents run this agent's hooks in addition to their own.
    pub is_shared: bool,
    /// The session that `doctor --prove` simulates for this agent.
    pub proof: ProofScript,
}

/// An agent's names for the fields of a hook's input. A list contains several names if different versions or tools of
/// the agent use different names.
#[derive(Debug, Clone, Copy)]
pub struct InputFields {
    /// The name of the event.
    pub event: &'static [&'static str],
    /// The id of the session.
    pub session: &'static [&'static str],
    /// The working directory of the session.
    pub directory: &'static [&'static str],
    /// A list of directories. The session works in the first of them.
    pub directories: &'static [&'static str],
    /// The id of the subagent that caused the event.
    pub subagent: &'static [&'static str],
    /// The path of the session's transcript.
    pub transcript: &'static [&'static str],
    /// The id of the tool call.
    pub call: &'static [&'static str],
    /// The name of the tool.
    pub tool: &'static [&'static str],
    /// The arguments of the tool: an object, or a string that may contain a JSON object.
    pub arguments: &'static [&'static str],
    /// Why the session starts.
    pub start_reason: &'static [&'static str],
    /// The values of `start_reason` for a session that continues an earlier session.
    pub continuing_reasons: &'static [&'static str],
    /// Flags that are true if a hook has already made the agent continue.
    pub continued_flags: &'static [&'static str],
    /// Counters that say how often a hook has made the agent continue.
    pub continued_counters: &'static [&'static str],
    /// The list of background tasks and subagents, in the input of the hook that runs when the agent stops.
    pub tasks: &'static [&'static str],
    /// The id of a task in `tasks`.
    pub task_id: &'static [&'static str],
    /// The state of a task in `tasks`.
    pub task_state: &'static [&'static str],
    /// The values of `task_state` for a task that has not ended.
    pub running_states: &'static [&'static str],
    /// The reason why the agent is waiting for its user.
    pub wait_message: &'static [&'static str],
    /// The arguments of an edit tool that contain the path of a file to edit.
    pub files: &'static [&'static str],
    /// The arguments of an edit tool that contain a list of edits. Each edit may name its own file.
    pub edit_lists: &'static [&'static str],
    /// The arguments of an edit tool that contain a list of files. Each file is a path, or an object of the same form
    /// as an edit in `edit_lists`.
    pub file_lists: &'static [&'static str],
    /// The arguments of an edit tool that say what the tool does, or that contain a patch.
    pub edit_commands: &'static [&'static str],
    /// The values of `edit_commands` with which an edit tool only reads.
    pub read_only_commands: &'static [&'static str],
    /// The arguments of a shell tool that contain the command.
    pub commands: &'static [&'static str],
    /// The arguments of a shell tool that contain the directory in which the command runs.
    pub command_directory: &'static [&'static str],
}

/// How a hook sets environment variables for the shell commands of its session.
#[derive(Debug, Clone, Copy)]
pub enum ShellEnvironment {
    /// The hook appends lines to a file. An environment variable with this name, or a field with this name in the
    /// hook's input, contains the path of the file.
    File(&'static str),
    /// The hook's output contains the variables, in the field with this name.
    Answer(&'static str),
}

/// How slm-mesh can add lines that an agent's shell runs before each command.
#[derive(Debug, Clone, Copy)]
pub enum ShellLines {
    /// The hook at a session's start appends the lines to a file. The environment variable of this name contains the
    /// path of the file. The agent's shell, bash or zsh, runs the file before each command.
    File(&'static str),
    /// The agent runs commands with bash. Bash first runs the file whose path is in the variable `BASH_ENV`. The hook
    /// at a session's start sets this variable.
    BashEnv,
    /// Like `BashEnv`, but the agent runs commands with the shell that the variable `SHELL` specifies. This works only
    /// if that shell is bash.
    BashEnvInUsersShell,
}

/// The kind of a hook event, independent of the agent's own name for the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookKind {
    /// A session has begun.
    Start,
    /// The user has sent a prompt.
    Prompt,
    /// A tool is about to run.
    BeforeTool,
    /// A tool has run.
    AfterTool,
    /// The agent is about to stop.
    Stop,
    /// A subagent has ended.
    SubagentStop,
    /// The user stopped the agent, so the agent cannot continue.
    Interrupt,
    /// The agent is waiting for its user: for a permission or for the next prompt.
    Waits,
    /// The session has ended.
    End,
}

/// The parts of a hook's input that determine the format of the hook's output.
#[derive(Debug, Clone)]
pub struct HookCall {
    /// What happened.
    pub kind: HookKind,
    /// The agent's name for the event. Some outputs must repeat this name.
    pub event: String,
}

/// The session that `doctor --prove` simulates for an agent.
#[derive(Debug, Clone, Copy)]
pub struct ProofScript {
    /// The agent's name for the event that a prompt triggers.
    pub prompt: &'static str,
    /// The agent's name for the event before an edit.
    pub edit: &'static str,
    /// The agent's name for the event after a tool call.
    pub tool: &'static str,
    /// The agent's name for the event at the end of a turn.
    pub stop: &'static str,
    /// Builds the input of an event, from the event's name and the path of the file that is about to be edited.
    pub input: fn(&str, &Path) -> Value,
}

/// The text with which a hook makes the agent continue when mail has arrived. The text is used if the mail itself
/// reaches the model in another way.
pub const MAIL_CAME: &str =
    "slm-mesh: mail came in while you were working. It is in your context; mesh_inbox with filter `all` also shows it.";

/// The text with which a hook keeps the agent from stopping. It says that commands in the turn changed files that other
/// agents have locked. The text is used only if no hook ran right after these commands.
pub const FILES_CHANGED: &str = "slm-mesh: a command in this turn changed files that other agents have locked. Each of \
                                 these agents got a message naming the changed files that it has locked; to see these \
                                 messages, use mesh_inbox with filter `sent`.";

/// Claude Code's events. Several agents have copied them.
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

/// The names that Claude Code uses for the fields of a hook's input. Several agents have copied them.
pub(super) const CLAUDE_FIELDS: InputFields = InputFields {
    event: &["hook_event_name"],
    session: &["session_id"],
    directory: &["cwd"],
    directories: &[],
    subagent: &["agent_id"],
    transcript: &["transcript_path"],
    call: &["tool_use_id"],
    tool: &["tool_name"],
    arguments: &["tool_input"],
    start_reason: &["source"],
    continuing_reasons: &["clear", "resume", "fork", "compact"],
    continued_flags: &["stop_hook_active"],
    continued_counters: &[],
    tasks: &["background_tasks"],
    task_id: &["id"],
    task_state: &["status"],
    running_states: &["running", "pending"],
    wait_message: &["message"],
    // It is not known which of the agents that copied this dialect uses `filename`.
    files: &["file_path", "notebook_path", "filename"],
    edit_lists: &["edits"],
    file_lists: &[],
    edit_commands: &[],
    read_only_commands: &[],
    commands: &["command"],
    command_directory: &[],
};

/// Claude Code's dialect. Several agents have copied it.
pub(super) const CLAUDE_SHAPED: Dialect = Dialect {
    events: CLAUDE_EVENTS,
    fields: CLAUDE_FIELDS,
    unnamed_event: |_| None,
    edit_tools: &["edit", "write", "multiedit", "notebookedit"],
    shell_tools: &[
        "bash",
        "shell",
        "exec",
        "runshellcommand",
        "runterminalcommand",
        "runinterminal",
        "execute",
        // Claude Code's tool Monitor runs a command in the background, and reports each line of its output.
        "monitor",
    ],
    unheard: &[],
    show: show_in_hook_output,
    warn: Some(|text| json!({ "systemMessage": text })),
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

/// Builds a hook input that contains the name of its event.
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

/// Builds the output with which a hook makes the agent continue at the end of a turn. Several agents share this format.
pub(super) fn block(reason: &str) -> Value {
    json!({ "decision": "block", "reason": reason })
}
