//! How the command line handles each operation that has a verb: how it prints the result, whether it may start a
//! broker, and which parameters it adds to the user's arguments.
//!
//! **Invariant:** every operation that has a verb has one row here, and no other code in `cli` depends on an
//! operation's name. A test enforces both rules.

use super::args::ParsedCommand;
use super::render;
use crate::core::{Op, channels, event_journal, locks, mail, peers, shared_key_value_entries, status};
use serde_json::Value;

/// A result as it is printed for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rendered {
    /// Text for standard output.
    Text(String),
    /// A sentence that says what does not exist. The sentence goes to standard error, so that a script does not mistake
    /// it for a value.
    NotFound(String),
}

/// The kinds of rows that a verb can wait for (`--wait`) or follow (`--follow`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowStream {
    /// Messages, which are reported as read after they are printed.
    Messages,
    /// Events. A call can ask for the events after a given sequence number.
    Events,
    /// Messages of the log, which arrive in pages. A call can ask for the messages after a given sequence number.
    Log,
}

impl RowStream {
    /// Returns the rows of an answer.
    pub fn rows(self, answer: &Value) -> &[Value] {
        let list = match self {
            RowStream::Messages | RowStream::Log => "messages",
            RowStream::Events => "events",
        };
        answer[list].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// One row as text.
    pub fn render_row(self, row: &Value) -> String {
        match self {
            RowStream::Messages => render::message(row),
            RowStream::Events => render::event(row),
            RowStream::Log => render::log_message(row),
        }
    }
}

/// Which calls include the caller's directory and repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendLocation {
    /// No calls.
    Never,
    /// All calls.
    Always,
    /// Only calls whose scope or group is smaller than the whole machine. Other calls do not need the repository, which
    /// takes time to find.
    WithSmallScope,
}

/// How the command line handles one operation.
#[derive(Debug, Clone, Copy)]
pub struct CliOperation {
    /// The operation.
    pub op: &'static Op,
    /// Renders the result for people.
    pub render: fn(&Value, &ParsedCommand) -> Rendered,
    /// Whether the verb starts a broker if none is running.
    pub starts_broker: bool,
    /// Whether the verb needs at least one file. The operation accepts files in either of two arguments, so neither
    /// argument can be mandatory.
    pub needs_file: bool,
    /// Which calls include the caller's directory and repository.
    pub location: SendLocation,
    /// Whether the answer leaves out the agent whose shell runs the verb.
    pub excludes_caller: bool,
    /// Whether the verb also shows why this machine's hub takes no part in the mesh. If another hub leads, that hub
    /// can't know the reason.
    pub shows_own_hub: bool,
    /// The rows that the verb can wait for or follow.
    pub stream: Option<RowStream>,
}

const fn row(op: &'static Op, render: fn(&Value, &ParsedCommand) -> Rendered) -> CliOperation {
    CliOperation {
        op,
        render,
        starts_broker: true,
        needs_file: false,
        location: SendLocation::Never,
        excludes_caller: false,
        shows_own_hub: false,
        stream: None,
    }
}

/// All operations that have a verb, in the order in which the documentation lists them.
pub const CLI_OPERATIONS: &[CliOperation] = &[
    CliOperation {
        location: SendLocation::WithSmallScope,
        excludes_caller: true,
        ..row(&peers::list_peers::PEERS, render::peers)
    },
    row(&peers::WHOAMI, render::whoami),
    row(&peers::give_up_taken_over_name::DECLINE, render::decline),
    row(&peers::SUMMARY, render::summary_set),
    CliOperation { location: SendLocation::WithSmallScope, ..row(&mail::SEND, render::message_sent) },
    CliOperation { stream: Some(RowStream::Messages), ..row(&mail::INBOX, render::inbox) },
    CliOperation {
        location: SendLocation::WithSmallScope,
        stream: Some(RowStream::Log),
        ..row(&mail::show_all_messages::LOG, render::log)
    },
    row(&channels::JOIN, render::channel_joined),
    row(&channels::LEAVE, render::channel_left),
    row(&channels::LIST, render::channels),
    row(&shared_key_value_entries::GET, render::state_entry),
    row(&shared_key_value_entries::SET, render::state_set),
    row(&shared_key_value_entries::LIST, render::state_entries),
    row(&shared_key_value_entries::DELETE, render::state_deleted),
    CliOperation { needs_file: true, location: SendLocation::Always, ..row(&locks::LOCK, render::locks_granted) },
    CliOperation { needs_file: true, ..row(&locks::UNLOCK, render::locks_released) },
    row(&locks::QUERY, render::locks),
    CliOperation { stream: Some(RowStream::Events), ..row(&event_journal::READ, render::events) },
    row(&event_journal::EMIT, render::event_emitted),
    // Asking for the status must not change the status, so the verb starts no broker.
    CliOperation { starts_broker: false, shows_own_hub: true, ..row(&status::STATUS, render::mesh_status) },
];

/// Returns the operation that a verb calls. `broadcast` calls the same operation as `send`.
pub fn of_verb(verb: &str) -> Option<&'static CliOperation> {
    let verb = if verb == "broadcast" { "send" } else { verb };
    CLI_OPERATIONS.iter().find(|row| row.op.verb == Some(verb))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::OPS;

    #[test]
    fn every_operation_with_a_verb_has_one_rendering() {
        for op in OPS.iter().filter(|op| op.verb.is_some()) {
            let n_rows = CLI_OPERATIONS.iter().filter(|row| row.op.name == op.name).count();
            assert_eq!(n_rows, 1, "{} needs a row in src/cli/verb_behavior_table.rs", op.name);
        }
        for row in CLI_OPERATIONS {
            assert!(row.op.verb.is_some(), "{} has a rendering, but no verb prints it", row.op.name);
        }
    }

    #[test]
    fn what_can_be_followed_has_the_flag_for_it() {
        let follow =
            super::super::verb_and_flag_tables::FLAGS.iter().find(|flag| flag.name == "follow").expect("--follow");
        let verbs: Vec<_> = CLI_OPERATIONS.iter().filter(|row| row.stream.is_some()).map(|row| row.op.verb).collect();
        assert_eq!(verbs, follow.verbs.iter().map(|verb| Some(*verb)).collect::<Vec<_>>());
    }
}
