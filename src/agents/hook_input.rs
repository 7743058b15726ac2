//! Parses the input of a hook: the event, the session, and the files of an edit.

use super::announce_own_mcp_calls::MeshCall;
use super::hook_input_fields::NameList;
use super::{edited_paths, hook_input_fields, shell_tool_writes};
use crate::base::limits;
use crate::known_agents::AGENTS;
use crate::known_agents::hook_dialect::{Dialect, HookCall, HookKind};
use serde_json::Value;

/// An event that a hook reports, with its details.
#[derive(Debug, Clone, PartialEq)]
pub enum HookEvent {
    /// A session began, or resumed after a break.
    Start,
    /// The user wrote something.
    Prompt,
    /// A tool is about to edit these files.
    Edit(Vec<String>),
    /// A tool is about to run these commands.
    Command(Vec<String>),
    /// The agent is about to call one of our own tools.
    MeshCall(MeshCall),
    /// A tool ran.
    AfterTool,
    /// The agent is about to stop.
    Stop {
        /// Whether this hook is allowed to make the agent continue; false if an earlier hook has made the agent
        /// continue, or if the user stopped the agent.
        can_go_on: bool,
        /// The session's background tasks and subagents that are still running.
        running: Vec<String>,
    },
    /// A subagent ended.
    SubagentStop,
    /// The agent is waiting for its user, for this reason.
    Waits(String),
    /// The session ended.
    End,
}

/// The parsed input of a hook.
#[derive(Debug, Clone)]
pub struct HookInput {
    /// The event of the hook.
    pub event: HookEvent,
    /// The kind and the name of the event, which determine the form of the answer.
    pub call: HookCall,
    /// The id that the agent gives to its session.
    pub session: String,
    /// The working directory of the session.
    pub directory: String,
    /// The id that the agent gave to the subagent that caused the event.
    pub subagent: Option<String>,
    /// The path of the session's transcript, according to the agent.
    pub transcript: Option<String>,
    /// Whether the session continues an earlier session after `/clear`, a resume, a fork or a compaction. The session's
    /// id may be new.
    pub continues: bool,
}

/// The kind of an event. An agent may run hooks that were set up for another agent. So the agent's own event names are
/// tried first, and then the names of all other agents. No event name has two meanings.
fn kind_of(dialect: &Dialect, event: &str) -> Option<HookKind> {
    let others = AGENTS.iter().filter_map(|agent| agent.dialect.as_ref());
    let mut all = std::iter::once(dialect).chain(others).flat_map(|dialect| dialect.events);
    all.find(|(name, _)| *name == event).map(|(_, kind)| *kind)
}

/// Parses a hook's input; `None` if the event does not concern the mesh.
pub fn understand(dialect: &Dialect, input: &Value) -> Option<HookInput> {
    let own = Some(dialect);
    let text = |list: NameList| hook_input_fields::text(input, own, list).map(str::to_owned);
    let event = text(|fields| fields.event).or_else(|| (dialect.unnamed_event)(input).map(str::to_owned))?;
    let kind = kind_of(dialect, &event)?;
    let directories = || hook_input_fields::values(input, own, |fields| fields.directories);
    let first_directory = || directories().find_map(|list| list[0].as_str()).map(str::to_owned);
    let directory = text(|fields| fields.directory).or_else(first_directory);
    let continuing = hook_input_fields::all_names(|fields| fields.continuing_reasons);
    let start_reason = hook_input_fields::text(input, own, |fields| fields.start_reason);
    Some(HookInput {
        event: event_of(dialect, kind, input)?,
        call: HookCall { kind, event },
        session: text(|fields| fields.session).unwrap_or_default(),
        directory: directory.filter(|path| path.len() <= limits::PATH_MAX).unwrap_or_default(),
        subagent: text(|fields| fields.subagent).filter(|id| !id.is_empty() && id.len() <= limits::WORD_MAX),
        transcript: text(|fields| fields.transcript).filter(|path| path.len() <= limits::PATH_MAX),
        continues: kind == HookKind::Start && start_reason.is_some_and(|reason| continuing.contains(&reason)),
    })
}

/// Maximum length of the reason why an agent is waiting, in characters. A longer reason is cut.
const WAITS_MAX: usize = 300;

/// The session's background tasks that are still running, as the agent lists them when it stops.
fn running_tasks(dialect: &Dialect, input: &Value) -> Vec<String> {
    let own = Some(dialect);
    let mut lists = hook_input_fields::values(input, own, |fields| fields.tasks);
    let tasks = lists.find_map(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let running = hook_input_fields::all_names(|fields| fields.running_states);
    let state = |task| hook_input_fields::text(task, own, |fields| fields.task_state);
    let ids = tasks
        .iter()
        .filter(|task| state(task).is_none_or(|state| running.contains(&state)))
        .filter_map(|task| hook_input_fields::text(task, own, |fields| fields.task_id))
        .filter(|id| id.len() <= limits::WORD_MAX);
    ids.take(limits::LIST_MAX).map(str::to_owned).collect()
}

/// Whether a hook has already made the agent continue.
fn has_continued(dialect: &Dialect, input: &Value) -> bool {
    let mut flags = hook_input_fields::values(input, Some(dialect), |fields| fields.continued_flags);
    let mut counters = hook_input_fields::values(input, Some(dialect), |fields| fields.continued_counters);
    flags.any(|flag| flag.as_bool() == Some(true))
        || counters.any(|counter| counter.as_i64().is_some_and(|count| count > 0))
}

fn event_of(dialect: &Dialect, kind: HookKind, input: &Value) -> Option<HookEvent> {
    Some(match kind {
        HookKind::Start => HookEvent::Start,
        HookKind::Prompt => HookEvent::Prompt,
        HookKind::BeforeTool => {
            let files = edited_paths::edited_files(input);
            if !files.is_empty() {
                return Some(HookEvent::Edit(files));
            }
            let commands = shell_tool_writes::commands(input);
            if !commands.is_empty() {
                return Some(HookEvent::Command(commands));
            }
            return edited_paths::mesh_call_of(input).map(HookEvent::MeshCall);
        }
        HookKind::AfterTool => HookEvent::AfterTool,
        HookKind::Stop => {
            let can_go_on = !has_continued(dialect, input);
            HookEvent::Stop { can_go_on, running: running_tasks(dialect, input) }
        }
        HookKind::SubagentStop => HookEvent::SubagentStop,
        HookKind::Waits => {
            let reason = hook_input_fields::text(input, Some(dialect), |fields| fields.wait_message);
            HookEvent::Waits(reason.unwrap_or("").chars().take(WAITS_MAX).collect())
        }
        HookKind::Interrupt => HookEvent::Stop { can_go_on: false, running: running_tasks(dialect, input) },
        HookKind::End => HookEvent::End,
    })
}
