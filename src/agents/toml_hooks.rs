//! Adds and removes our hooks in a TOML file. Each hook is a table in the list `hooks`, with an event, a command and a
//! time limit. `toml_edit` keeps comments, order and layout.

use super::edit_own_config_entries::UpdatedLine;
use super::layout_preserving_toml_edit::TomlFile;
use serde_json::{Value, json};
use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, value};

/// The list that contains the hooks.
const LIST: &str = "hooks";

/// Updates the commands that call our program, and appends a table for each event that has no such command. `updated`
/// gets a command. If this command calls our program, `updated` returns the new command, otherwise `None`. Our older
/// tables for other events are removed. Everything else in a table stays, such as a time limit that the user has
/// changed.
///
/// # Errors
/// If the text is not valid TOML, or if `hooks` is not a list of hooks.
pub fn put(
    text: &str,
    events: &[(&str, &str)],
    line: &str,
    seconds: i64,
    updated: impl Fn(&str) -> Option<UpdatedLine>,
) -> Result<String, String> {
    let mut file = TomlFile::parse(text)?;
    let (mut ours, mut users, mut unneeded) = (Vec::new(), Vec::new(), Vec::new());
    for (n, table) in tables_mut(&mut file.document).into_iter().enumerate() {
        let event = text_of(table, "event").unwrap_or("").to_owned();
        let Some(new) = text_of(table, "command").and_then(&updated) else { continue };
        if new.is_whole && (ours.contains(&event) || !events.iter().any(|(wanted, _)| *wanted == event)) {
            unneeded.push(n);
            continue;
        }
        set_text(table, "command", &new.text);
        if new.is_whole && !table.contains_key("timeout") {
            table.insert("timeout", value(seconds));
        }
        if new.is_whole { &mut ours } else { &mut users }.push(event);
    }
    take_out(&mut file, &unneeded);
    let has_hook = |event: &str| ours.iter().chain(&users).any(|known| known == event);
    let missing = events.iter().filter(|(event, _)| !has_hook(event));
    missing.into_iter().try_for_each(|(event, _)| insert(&mut file, event, line, seconds))?;
    Ok(file.print())
}

/// Replaces a text in a table, and keeps the comment beside it.
fn set_text(table: &mut dyn TableLike, name: &str, new: &str) {
    if let Some(old) = table.get_mut(name).and_then(Item::as_value_mut)
        && old.as_str() != Some(new)
    {
        let decor = old.decor().clone();
        *old = new.into();
        *old.decor_mut() = decor;
    }
}

fn text_of<'a>(table: &'a dyn TableLike, name: &str) -> Option<&'a str> {
    table.get(name)?.as_str()
}

/// The hooks in a file. They may be written as tables, or as a list in one line.
fn tables(document: &DocumentMut) -> Vec<&dyn TableLike> {
    match document.get(LIST) {
        Some(Item::ArrayOfTables(list)) => list.iter().map(|table| table as &dyn TableLike).collect(),
        Some(item) => {
            let list = item.as_array().into_iter().flatten();
            list.filter_map(|hook| hook.as_inline_table()).map(|table| table as &dyn TableLike).collect()
        }
        None => Vec::new(),
    }
}

/// The hooks in a file, as mutable references.
fn tables_mut(document: &mut DocumentMut) -> Vec<&mut dyn TableLike> {
    match document.get_mut(LIST) {
        Some(Item::ArrayOfTables(list)) => list.iter_mut().map(|table| table as &mut dyn TableLike).collect(),
        Some(item) => {
            let list = item.as_array_mut().into_iter().flat_map(|list| list.iter_mut());
            list.filter_map(|hook| hook.as_inline_table_mut()).map(|table| table as &mut dyn TableLike).collect()
        }
        None => Vec::new(),
    }
}

fn insert(file: &mut TomlFile<'_>, event: &str, line: &str, seconds: i64) -> Result<(), String> {
    if let Some(list) = file.document.get_mut(LIST).and_then(Item::as_array_mut) {
        if list.iter().any(|hook| !hook.is_inline_table()) {
            return Err(format!("the list \"{LIST}\" in it contains something other than hooks"));
        }
        list.push(InlineTable::from_iter([
            ("event", event.into()),
            ("command", line.into()),
            ("timeout", toml_edit::Value::from(seconds)),
        ]));
        return Ok(());
    }
    let mut hook = Table::new();
    hook.insert("event", value(event));
    hook.insert("command", value(line));
    hook.insert("timeout", value(seconds));
    let (position, prefix) = file.make_room_at_end();
    hook.set_position(Some(position));
    hook.decor_mut().set_prefix(prefix);
    let list = file.document.entry(LIST).or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    let list = list.as_array_of_tables_mut().ok_or_else(|| format!("the key \"{LIST}\" in it is not a list"))?;
    list.push(hook);
    Ok(())
}

/// Removes a hook if `is_ours` returns true for its command.
///
/// # Errors
/// If the file can't be changed safely; the error says why.
pub fn remove(text: &str, is_ours: impl Fn(&str) -> bool) -> Result<String, String> {
    let mut file = TomlFile::parse(text)?;
    let hooks = tables(&file.document).into_iter().enumerate();
    let ours = hooks.filter(|(_, table)| text_of(*table, "command").is_some_and(&is_ours));
    let places: Vec<usize> = ours.map(|(n, _)| n).collect();
    take_out(&mut file, &places);
    Ok(file.print())
}

/// Removes the hooks at these places, which are in ascending order.
fn take_out(file: &mut TomlFile<'_>, places: &[usize]) {
    if let Some(list) = file.document.get_mut(LIST).and_then(Item::as_array_mut) {
        let mut n_hooks = 0;
        return list.retain(|hook| {
            n_hooks += usize::from(hook.is_inline_table());
            !(hook.is_inline_table() && places.contains(&(n_hooks - 1)))
        });
    }
    // The comments above a removed table move to the next table. Our tables are removed from last to first, so that
    // these comments keep their order.
    for n in places.iter().rev() {
        let Some(list) = file.document.get_mut(LIST).and_then(Item::as_array_of_tables_mut) else { return };
        let removed = list.remove(*n);
        if list.is_empty() {
            file.document.remove(LIST);
        }
        file.keep_comments_of(&removed);
    }
}

/// The hooks in a file, in the form that JSON settings files use: an object `hooks` that lists the hooks of each event.
pub fn as_json(text: &str) -> Option<Value> {
    let document: DocumentMut = text.parse().ok()?;
    let mut found = json!({ LIST: {} });
    for table in tables(&document) {
        let (Some(event), Some(command)) = (text_of(table, "event"), text_of(table, "command")) else { continue };
        let list = &mut found[LIST][event];
        if list.is_null() {
            *list = json!([]);
        }
        list.as_array_mut()?.push(json!({ "type": "command", "command": command }));
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &[(&str, &str)] = &[("Stop", ""), ("UserPromptSubmit", "")];
    const LINE: &str = "/bin/slm-mesh hook kimi";

    fn is_ours(command: &str) -> bool {
        command.ends_with("slm-mesh hook kimi")
    }

    /// Puts our hooks into a text. `line` is the command of each hook.
    fn put_line(text: &str, line: &str) -> Result<String, String> {
        put(text, EVENTS, line, 5, |command| {
            is_ours(command).then(|| UpdatedLine { text: line.to_owned(), is_whole: true })
        })
    }

    #[test]
    fn tables_go_in_and_out_again() {
        for text in [
            "",
            "a = 1\n",
            "a = 1\r\n[b]\r\nc = 2\r\n",
            "[[hooks]]\nevent = \"Stop\"\ncommand = \"theirs\"\n\n# the end\n",
            "[[hooks]]\ncommand = 'x slm-mesh'\n[b]\n",
            "[[ hooks ]] # mine\nevent = 'A'\n[b]\n[[ hooks ]]\nevent = 'B'\n",
            "a = '''\n\n[[hooks]]\nevent = \"Stop\"\ncommand = \"/x/slm-mesh hook kimi\"\n'''\n",
            "hooks = [] # none yet\n",
            "hooks = [{ event = 'Stop', command = 'theirs' }]\n[b]\n",
        ] {
            let with = put_line(text, LINE).unwrap();
            let hooks = as_json(&with).unwrap();
            let stops = hooks["hooks"]["Stop"].as_array().unwrap();
            assert_eq!(stops.last().unwrap()["command"], json!(LINE), "{with}");
            assert_eq!(put_line(&with, LINE).unwrap(), with);
            assert_eq!(remove(&with, is_ours).unwrap(), text, "removed from {with}");
            let moved = put_line(&with, "/new/slm-mesh hook kimi").unwrap();
            assert_eq!(moved, with.replace("/bin", "/new"));
        }
    }

    #[test]
    fn what_cannot_be_kept_is_left_alone() {
        for text in ["a = \n", "[hooks]\n", "hooks = 3\n", "hooks = [3]\n"] {
            assert!(put_line(text, LINE).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_a_person_changed_in_our_tables_is_no_reason_to_leave_them() {
        let with = put_line("# top\na = 1\n", LINE).unwrap();
        let changed = with.replace("[[hooks]]", "[[ hooks ]] # the mesh").replace("timeout = 5", "timeout = 60 # slow");
        assert_eq!(remove(&changed, is_ours).unwrap(), "# top\na = 1\n");
    }

    #[test]
    fn hooks_that_a_person_wrote_behind_ours_stay() {
        let with = put_line("a = 1\n", LINE).unwrap() + "[[hooks]]\nevent = \"Stop\"\ncommand = \"mine\"\n";
        assert_eq!(remove(&with, is_ours).unwrap(), "a = 1\n[[hooks]]\nevent = \"Stop\"\ncommand = \"mine\"\n");
    }
}
