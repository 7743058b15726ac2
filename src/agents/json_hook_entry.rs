//! Adds, updates and removes one hook in a JSON settings file.
//!
//! **Invariant:** an update changes only the command of a hook. The user's changes to all other fields of the hook
//! stay.

use super::edit_own_config_entries::at;
use super::json_edit::{self, PathStep};
use super::recognise_own_hook_entries::ProgramCall;
use crate::base::shell_wildcards::shell_quoted;
use crate::known_agents::settings_file_types::HookFile;
use serde_json::{Value, json};

/// The fields of a hook that contain its command.
const COMMAND_FIELDS: &[&str] = &["command", "args", "bash", "exec"];

/// The path of a hook. `event` is the path of the event's list.
pub(super) fn hook_path<'a>(event: &[PathStep<'a>], place: (usize, usize), has_groups: bool) -> Vec<PathStep<'a>> {
    let item = [event, &[PathStep::Item(place.0)]].concat();
    if has_groups { [&item[..], &[PathStep::Key("hooks"), PathStep::Item(place.1)]].concat() } else { item }
}

/// Adds the pattern for the names of tools to the item that contains our hook, if the item has no pattern, or a pattern
/// that an older version wrote. Any other pattern comes from the user. The pattern of an item applies to all its hooks,
/// so an item that also contains other hooks stays unchanged.
pub(super) fn put_matcher(
    text: &str,
    hooks: &HookFile,
    item: &Value,
    event: &[PathStep],
    item_n: usize,
    tools: &str,
) -> Result<String, String> {
    let is_alone = !hooks.has_groups || item["hooks"].as_array().is_some_and(|group| group.len() == 1);
    let is_older = item["matcher"].as_str().is_none_or(|matcher| hooks.older_tools.contains(&matcher));
    if tools.is_empty() || !is_alone || !is_older {
        return Ok(text.to_owned());
    }
    json_edit::put(text, &[event, &[PathStep::Item(item_n), PathStep::Key("matcher")]].concat(), &json!(tools))
}

/// Updates the command of our hook, and adds the fields that the hook lacks. Everything else in the hook, such as
/// another time limit, comes from the user and is kept.
pub(super) fn update_hook(
    text: &str,
    path: &[PathStep],
    old: &Value,
    call: &ProgramCall,
    wanted: &Value,
) -> Result<String, String> {
    let mut text = text.to_owned();
    for (key, value) in wanted.as_object().into_iter().flatten() {
        let path = [path, &[PathStep::Key(key)]].concat();
        let is_line = COMMAND_FIELDS.contains(&key.as_str()) && wanted["args"].is_null();
        let value = match value {
            Value::Array(words) if key == "args" => {
                words.iter().cloned().chain(call.users_arguments().map(|word| json!(word))).collect()
            }
            Value::String(line) if is_line => json!(with_arguments(line, call.users_arguments())),
            value => value.clone(),
        };
        if COMMAND_FIELDS.contains(&key.as_str()) || old.get(key).is_none() {
            text = json_edit::put(&text, &path, &value)?;
        }
    }
    for key in COMMAND_FIELDS.iter().filter(|key| wanted.get(**key).is_none() && old.get(**key).is_some()) {
        text = json_edit::remove(&text, &[path, &[PathStep::Key(key)]].concat());
    }
    Ok(text)
}

/// Removes a hook. Also removes the hook's group, if the group contains no other hook. `event` is the path of the
/// event's list.
pub(super) fn remove_hook(
    text: &str,
    event: &[PathStep],
    place: (usize, usize),
    has_groups: bool,
) -> Result<String, String> {
    let item = [event, &[PathStep::Item(place.0)]].concat();
    if !has_groups {
        return Ok(json_edit::remove(text, &item));
    }
    let group = [&item[..], &[PathStep::Key("hooks")]].concat();
    let text = json_edit::remove(text, &[&group[..], &[PathStep::Item(place.1)]].concat());
    let is_empty = at(&json_edit::parse(&text)?, &group).as_array().is_some_and(Vec::is_empty);
    Ok(if is_empty { json_edit::remove(&text, &item) } else { text })
}

/// An item of an event's list. The item contains a new hook, and the pattern for the names of tools.
pub(super) fn grouped_item(hooks: &HookFile, hook: &Value, tools: &str) -> Value {
    let mut item = if hooks.has_groups { json!({ "hooks": [hook] }) } else { hook.clone() };
    if !tools.is_empty() {
        item["matcher"] = json!(tools);
    }
    item
}

/// A shell line with more arguments at its end.
pub(super) fn with_arguments<'a>(line: &str, arguments: impl Iterator<Item = &'a str>) -> String {
    arguments.fold(line.to_owned(), |line, argument| format!("{line} {}", shell_quoted(argument)))
}
