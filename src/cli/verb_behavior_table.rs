//! How the command line handles each operation that has a verb: how it prints the result, and which
//! parameters it adds to the user's arguments.
//!
//! **Invariant:** every operation that has a verb has one row here, and no other code in `cli` depends on an
//! operation's name. A test enforces both rules.

use super::args::ParsedCommand;
use super::render;
use crate::core::op_behavior::RowStream;
use crate::core::{Op, channels, event_journal, locks, mail, mesh_status, peers, shared_key_value_entries};
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

/// Returns one row of a stream as text.
pub fn render_row(stream: RowStream, row: &Value) -> String {
    match stream {
        RowStream::Messages => render::message(row),
        RowStream::Events => render::event(row),
        RowStream::Log => render::log_message(row),
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
    /// Whether the verb needs at least one file. The operation accepts files in either of two arguments, so neither
    /// argument can be mandatory.
    pub needs_file: bool,
    /// Whether the verb can run a command, which stands after `--`.
    pub takes_command: bool,
    /// Which calls include the caller's directory and repository.
    pub location: SendLocation,
    /// Whether the answer leaves out the agent whose shell runs the verb.
    pub excludes_caller: bool,
    /// Whether the verb also shows why this machine's hub takes no part in the mesh. If another hub leads, that hub
    /// can't know the reason.
    pub shows_own_hub: bool,
}

const fn row(op: &'static Op, render: fn(&Value, &ParsedCommand) -> Rendered) -> CliOperation {
    CliOperation {
        op,
        render,
        needs_file: false,
        takes_command: false,
        location: SendLocation::Never,
        excludes_caller: false,
        shows_own_hub: false,
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
    row(&peers::undo_mistaken_takeover::DECLINE, render::decline),
    row(&peers::SUMMARY, render::summary_set),
    CliOperation { location: SendLocation::WithSmallScope, ..row(&mail::SEND, render::message_sent) },
    row(&mail::INBOX, render::inbox),
    CliOperation { location: SendLocation::WithSmallScope, ..row(&mail::show_all_messages::LOG, render::log) },
    row(&channels::JOIN, render::channel_joined),
    row(&channels::LEAVE, render::channel_left),
    row(&channels::LIST, render::channels),
    row(&shared_key_value_entries::GET, render::state_entry),
    row(&shared_key_value_entries::SET, render::state_set),
    row(&shared_key_value_entries::LIST, render::state_entries),
    row(&shared_key_value_entries::DELETE, render::state_deleted),
    CliOperation {
        needs_file: true,
        takes_command: true,
        location: SendLocation::Always,
        ..row(&locks::LOCK, render::locks_granted)
    },
    CliOperation { needs_file: true, ..row(&locks::UNLOCK, render::locks_released) },
    row(&locks::QUERY, render::locks),
    row(&event_journal::READ, render::events),
    row(&event_journal::EMIT, render::event_emitted),
    CliOperation { shows_own_hub: true, ..row(&mesh_status::STATUS, render::mesh_status) },
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
        let verbs: Vec<_> =
            CLI_OPERATIONS.iter().filter(|row| row.op.behavior.stream.is_some()).map(|row| row.op.verb).collect();
        assert_eq!(verbs, follow.verbs.iter().map(|verb| Some(*verb)).collect::<Vec<_>>());
    }
}
