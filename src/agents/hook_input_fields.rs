//! Finds the fields of a hook's input under the names that agents give to them.
//!
//! An agent may run hooks that were set up for another agent. So a field is first searched for under the names that the
//! agent itself uses, and then under the names that all other agents use.

use super::hook_stdin::extract_needed_json_fields::NeededFields;
use super::mcp_tool_writes::{BASE_FIELDS, PATH_FIELDS};
use crate::known_agents::AGENTS;
use crate::known_agents::hook_dialect::{Dialect, InputFields};
use serde_json::Value;

/// Chooses a list of names from the names that an agent uses.
pub type NameList = fn(&InputFields) -> &'static [&'static str];

/// The names in the lists of all agents, without duplicates. The names that the agent itself uses come first. If the
/// agent is not given, the names are in the order of the agents.
pub fn names(own: Option<&Dialect>, list: NameList) -> Vec<&'static str> {
    let all = AGENTS.iter().filter_map(|agent| agent.dialect.as_ref());
    without_duplicates(own.into_iter().chain(all).flat_map(|dialect| list(&dialect.fields)))
}

/// The values of the fields of `object` that have these names, in the order of the names.
pub fn values<'a>(object: &'a Value, own: Option<&Dialect>, list: NameList) -> Vec<&'a Value> {
    names(own, list).into_iter().filter_map(|name| object.get(name)).collect()
}

/// The first of these values that is a text.
pub fn text<'a>(object: &'a Value, own: Option<&Dialect>, list: NameList) -> Option<&'a str> {
    values(object, own, list).into_iter().find_map(Value::as_str)
}

/// The fields that a hook needs from its input. These fields are kept even if the input is too long to be kept as a
/// whole.
pub fn needed_fields() -> NeededFields {
    let all = AGENTS.iter().filter_map(|agent| agent.dialect.as_ref());
    let lists = all.flat_map(|dialect| needed_lists(&dialect.fields)).chain([PATH_FIELDS, BASE_FIELDS]);
    NeededFields {
        names: without_duplicates(lists.flatten()),
        repeated: names(None, |fields| fields.files),
        embedded: names(None, |fields| fields.arguments),
        line_starts: &["*** "],
    }
}

/// The lists of the names that a hook needs. This function names each part of `InputFields`, so that a new part cannot
/// be forgotten.
fn needed_lists(fields: &InputFields) -> [&'static [&'static str]; 17] {
    let InputFields {
        event,
        session,
        directory,
        directories,
        subagent,
        call,
        tool,
        arguments,
        start_reason,
        continued_flags,
        continued_counters,
        files,
        edit_lists,
        file_lists,
        edit_commands,
        commands,
        command_directory,
        // A hook also works without these fields. Fields inside a tool's arguments or result may have the same names,
        // so these fields could use up the room that is reserved for needed fields.
        transcript: _,
        tasks: _,
        task_id: _,
        task_state: _,
        wait_message: _,
        // These lists contain values, not names.
        continuing_reasons: _,
        running_states: _,
        read_only_commands: _,
    } = *fields;
    [
        event,
        session,
        directory,
        directories,
        subagent,
        call,
        tool,
        arguments,
        start_reason,
        continued_flags,
        continued_counters,
        files,
        edit_lists,
        file_lists,
        edit_commands,
        commands,
        command_directory,
    ]
}

fn without_duplicates<'a>(all: impl Iterator<Item = &'a &'static str>) -> Vec<&'static str> {
    let mut names = Vec::new();
    for name in all {
        if !names.contains(name) {
            names.push(*name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_agents_own_names_come_first_and_no_name_is_missing() {
        for dialect in AGENTS.iter().filter_map(|agent| agent.dialect.as_ref()) {
            let mut found = names(Some(dialect), |fields| fields.session);
            assert!(found.starts_with(dialect.fields.session), "{found:?}");
            let mut all = names(None, |fields| fields.session);
            found.sort_unstable();
            all.sort_unstable();
            assert_eq!(found, all);
            let object: Value = all.iter().map(|name| (*name, json!(name))).collect();
            let text = text(&object, Some(dialect), |fields| fields.session);
            assert_eq!(text, dialect.fields.session.first().copied());
        }
    }

    #[test]
    fn each_needed_field_is_listed_once() {
        let needed = needed_fields();
        for dialect in AGENTS.iter().filter_map(|agent| agent.dialect.as_ref()) {
            assert!(needed_lists(&dialect.fields).into_iter().flatten().all(|name| needed.names.contains(name)));
        }
        for list in [needed.names, needed.repeated, needed.embedded] {
            assert_eq!(without_duplicates(list.iter()), list);
        }
    }
}
