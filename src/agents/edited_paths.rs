//! Determines from a tool's name and input which files the tool is about to edit.

use super::announce_own_mcp_calls::{MeshCall, mesh_call};
use super::hook_input_fields::{all_names, text, values};
use super::mcp_tool_writes;
use crate::known_agents::AGENTS;
use crate::known_agents::hook_dialect::Dialect;
use crate::shell_writes::agent_patch;
use serde_json::Value;

/// Whether any agent has a tool with this name. All agents' lists are searched, because an agent may run hooks that
/// were set up for another agent.
fn is_known(name: &str, list: fn(&Dialect) -> &'static [&'static str]) -> bool {
    AGENTS.iter().filter_map(|agent| agent.dialect.as_ref()).any(|dialect| list(dialect).contains(&name))
}

fn tool_name(input: &Value) -> &str {
    text(input, None, |fields| fields.tool).unwrap_or("")
}

/// The tool's arguments as the agent sent them.
fn given_arguments(input: &Value) -> Option<&Value> {
    values(input, None, |fields| fields.arguments).next()
}

/// The name and the arguments of the tool. The name is in lower case and without separators.
fn tool_call(input: &Value) -> (String, Value) {
    let name = tool_name(input);
    let plain = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let given = given_arguments(input);
    // Some agents pass the arguments as a string of JSON. Others pass a patch as a string that is not JSON.
    let parsed = given.and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
    (plain, parsed.or_else(|| given.cloned()).unwrap_or(Value::Null))
}

/// The arguments of a tool that runs a command; `None` for any other tool.
pub fn shell_arguments(input: &Value) -> Option<Value> {
    let (name, arguments) = tool_call(input);
    is_known(&name, |dialect| dialect.shell_tools).then_some(arguments)
}

/// Parses a call of one of slm-mesh's own tools; `None` for any other tool.
pub fn mesh_call_of(input: &Value) -> Option<MeshCall> {
    let (_, arguments) = tool_call(input);
    mesh_call(tool_name(input), &arguments)
}

/// Whether a tool can write files, either by editing them or by running commands.
pub fn writes(input: &Value) -> bool {
    let (name, arguments) = tool_call(input);
    is_known(&name, |dialect| dialect.shell_tools)
        || is_known(&name, |dialect| dialect.edit_tools)
        || !mcp_tool_writes::written_files(tool_name(input), &arguments).is_empty()
}

/// A key that is the same in the hooks before and after one tool call. The key is the agent's id for the call. If the
/// call has no id, the key is the call's arguments. If there are no arguments either, the key is empty.
pub fn call_key(input: &Value) -> String {
    let id = text(input, None, |fields| fields.call).filter(|id| !id.is_empty());
    let arguments = || given_arguments(input).map(Value::to_string);
    id.map(str::to_owned).or_else(arguments).unwrap_or_default()
}

/// The files that an editing tool is about to write; empty if none are known. The list is also empty for a tool that
/// runs a command, because `shell_tool_writes` finds the files that a command writes.
pub fn edited_files(input: &Value) -> Vec<String> {
    let (plain, arguments) = tool_call(input);
    let arguments = &arguments;
    if is_known(&plain, |dialect| dialect.shell_tools) {
        return Vec::new();
    }
    if !is_known(&plain, |dialect| dialect.edit_tools) {
        return mcp_tool_writes::written_files(tool_name(input), arguments);
    }
    let read_only = all_names(|fields| fields.read_only_commands);
    let mut commands = values(arguments, None, |fields| fields.edit_commands);
    if commands.by_ref().filter_map(Value::as_str).any(|command| read_only.contains(&command)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    FileArguments::of_all_agents().collect(arguments, &mut found, 0);
    found.sort();
    found.dedup();
    found
}

/// The arguments of edit tools that name files, by the names that all agents use.
struct FileArguments {
    files: &'static [&'static str],
    edit_lists: &'static [&'static str],
    file_lists: &'static [&'static str],
    commands: &'static [&'static str],
}

impl FileArguments {
    fn of_all_agents() -> FileArguments {
        FileArguments {
            files: all_names(|fields| fields.files),
            edit_lists: all_names(|fields| fields.edit_lists),
            file_lists: all_names(|fields| fields.file_lists),
            commands: all_names(|fields| fields.edit_commands),
        }
    }

    fn collect(&self, value: &Value, found: &mut Vec<String>, depth: usize) {
        match value {
            Value::String(text) => from_patch(text, found),
            Value::Object(map) => {
                map.iter().for_each(|(name, value)| self.collect_member(name, value, found, depth));
            }
            _ => {}
        }
    }

    fn collect_member(&self, name: &str, value: &Value, found: &mut Vec<String>, depth: usize) {
        match value {
            Value::String(path) if self.files.contains(&name) && !path.is_empty() => found.push(path.clone()),
            Value::String(text) => from_patch(text, found),
            // If a JSON object contains this field several times, the parser returns a list of all the values. It is
            // not known which of these values the agent uses.
            Value::Array(list) if self.files.contains(&name) => {
                found.extend(list.iter().filter_map(Value::as_str).map(str::to_owned));
            }
            Value::Array(list) if self.file_lists.contains(&name) && depth < 2 => {
                for item in list {
                    match item {
                        Value::String(path) => found.push(path.clone()),
                        item => self.collect(item, found, depth + 1),
                    }
                }
            }
            Value::Array(list) if self.edit_lists.contains(&name) && depth < 2 => {
                list.iter().for_each(|item| self.collect(item, found, depth + 1));
            }
            // If `apply_patch` is run as a command, one of the words of the command is the patch.
            Value::Array(list) if self.commands.contains(&name) => {
                list.iter().filter_map(Value::as_str).for_each(|word| from_patch(word, found));
            }
            _ => {}
        }
    }
}

fn from_patch(text: &str, found: &mut Vec<String>) {
    found.extend(agent_patch::paths(text).map(str::to_owned));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::hook_input_fields::NEEDED_FIELDS;
    use crate::agents::hook_stdin::extract_needed_json_fields::read_object;
    use crate::agents::mcp_tool_writes::PATH_FIELDS;
    use serde_json::json;

    #[test]
    fn the_path_of_another_servers_tool_is_read_after_many_long_texts() {
        let mut arguments = json!({ "Texts": vec!["x".repeat(1 << 20); 4] });
        let wanted: Vec<String> = PATH_FIELDS.iter().map(|name| format!("/{name}")).collect();
        PATH_FIELDS.iter().zip(&wanted).for_each(|(name, path)| arguments[name] = json!(path));
        let input = json!({ "tool_name": "mcp__x__write_file", "tool_input": arguments }).to_string();
        let found = edited_files(&read_object(&mut input.as_bytes(), &NEEDED_FIELDS).unwrap());
        assert!(wanted.iter().all(|path| found.contains(path)), "{found:?}");
    }

    #[test]
    fn the_edits_of_each_agent_are_found() {
        let patch = "*** Begin Patch\n*** Update File: a.rs\n@@\n-x\n+y\n*** Add File: b/c.rs\n+z\n*** Delete File: d\n*** End Patch";
        for (input, want) in [
            (json!({ "tool_name": "Edit", "tool_input": { "file_path": "/a", "old_string": "x" } }), vec!["/a"]),
            (json!({ "tool_name": "NotebookEdit", "tool_input": { "notebook_path": "/n.ipynb" } }), vec!["/n.ipynb"]),
            (json!({ "tool_name": "apply_patch", "tool_input": { "command": patch } }), vec!["a.rs", "b/c.rs", "d"]),
            (
                json!({ "tool_name": "apply_patch", "tool_input": { "command": ["apply_patch", patch] } }),
                vec!["a.rs", "b/c.rs", "d"],
            ),
            (json!({ "toolName": "edit", "toolArgs": "{\"path\":\"src/x\"}" }), vec!["src/x"]),
            (
                json!({ "tool_name": "write_file", "tool_input": { "file_path": "w", "content": "*** Update File: no" } }),
                vec!["w"],
            ),
            (
                json!({ "tool_name": "multi_replace_string_in_file", "tool_input": { "replacements": [{ "filePath": "/p" }, { "filePath": "/q" }] } }),
                vec!["/p", "/q"],
            ),
            (json!({ "tool_name": "str_replace_editor", "tool_input": { "command": "view", "path": "/v" } }), vec![]),
            (
                json!({ "tool_name": "str_replace_editor", "tool_input": { "command": "undo_edit", "path": "/v" } }),
                vec!["/v"],
            ),
            (json!({ "tool_name": "Bash", "tool_input": { "command": "rm /a", "path": "/a" } }), vec![]),
            (
                json!({ "tool_name": "exec_command", "tool_input": { "cmd": format!("apply_patch <<'EOF'\n{patch}\nEOF"), "path": "no" } }),
                vec![],
            ),
            (
                json!({ "tool_name": "apply_patch", "tool_input": { "command":
                    "*** Begin Patch\n  *** Update File: a.rs \n+x\n\t*** Move to:b.rs\n*** Add File:c.rs" } }),
                vec!["a.rs", "b.rs", "c.rs"],
            ),
            (json!({ "tool_name": "Read", "tool_input": { "file_path": "/a" } }), vec![]),
            (json!({ "tool_name": "Edit", "tool_input": 5 }), vec![]),
        ] {
            assert_eq!(edited_files(&input), want, "{input}");
        }
    }
}
