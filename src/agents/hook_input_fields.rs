//! Finds the fields of a hook's input under the names that agents give to them.
//!
//! An agent may run hooks that were set up for another agent. So a field is first searched for under the names that the
//! agent itself uses, and then under the names that all agents use.

use super::hook_stdin::extract_needed_json_fields::NeededFields;
use super::mcp_tool_writes::{BASE_FIELDS, PATH_FIELDS};
use crate::known_agents::all_input_fields::ALL_INPUT_FIELDS;
use crate::known_agents::hook_dialect::{Dialect, InputFields};
use serde_json::Value;

/// Chooses a list of names from the names that an agent uses.
pub type NameList = fn(&InputFields) -> &'static [&'static str];

/// The names in the lists of all agents.
pub fn all_names(list: NameList) -> &'static [&'static str] {
    list(&ALL_INPUT_FIELDS)
}

/// The values of the fields of `object` that have these names. The names that the agent itself uses come first, and then
/// come those of all agents. So if `own` is given, a value may appear twice.
pub fn values<'a>(object: &'a Value, own: Option<&Dialect>, list: NameList) -> impl Iterator<Item = &'a Value> {
    let own = own.map_or(&[][..], |dialect| list(&dialect.fields));
    own.iter().chain(all_names(list)).filter_map(|name| object.get(*name))
}

/// The first of these values that is a text.
pub fn text<'a>(object: &'a Value, own: Option<&Dialect>, list: NameList) -> Option<&'a str> {
    values(object, own, list).find_map(Value::as_str)
}

/// The fields that a hook needs from its input. These fields are kept even if the input is too long to be kept as a
/// whole.
pub static NEEDED_FIELDS: NeededFields = NeededFields {
    names: &NEEDED_LISTS,
    repeated: ALL_INPUT_FIELDS.files,
    embedded: ALL_INPUT_FIELDS.arguments,
    line_starts: &["*** "],
};

static NEEDED_LISTS: [&[&str]; 19] = needed_lists(&ALL_INPUT_FIELDS);

/// The lists of the names that a hook needs. This function names each part of `InputFields`, so that a new part cannot
/// be forgotten.
const fn needed_lists(fields: &InputFields) -> [&'static [&'static str]; 19] {
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
        // A hook works even without these fields. A tool's arguments or result may contain fields with the same names,
        // and those could use up the room that is reserved for needed fields.
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
        PATH_FIELDS,
        BASE_FIELDS,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::known_agents::AGENTS;
    use serde_json::json;

    #[test]
    fn the_agents_own_names_come_first_and_no_name_is_missing() {
        let all = all_names(|fields| fields.session);
        let object: Value = all.iter().map(|name| (*name, json!(name))).collect();
        for dialect in AGENTS.iter().filter_map(|agent| agent.dialect.as_ref()) {
            let own = dialect.fields.session;
            assert!(own.iter().all(|name| all.contains(name)), "{own:?} in {all:?}");
            let text = text(&object, Some(dialect), |fields| fields.session);
            assert_eq!(text, own.first().copied());
            let needed: Vec<&&str> = NEEDED_LISTS.iter().copied().flatten().collect();
            assert!(needed_lists(&dialect.fields).into_iter().flatten().all(|name| needed.contains(&name)));
        }
    }

    #[test]
    fn each_name_of_a_field_is_listed_once() {
        for list in NEEDED_LISTS {
            assert!(list.iter().all(|name| list.iter().filter(|other| *other == name).count() == 1), "{list:?}");
        }
    }
}
