//! Adds and removes our hooks in a TOML file. Each hook is a table in the list `hooks`, with an event, a command and a
//! time limit. `toml_edit` keeps comments, order and layout.

use super::toml_document::TomlFile;
use serde_json::{Value, json};
use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, value};

/// The list that contains the hooks.
const LIST: &str = "hooks";

/// Removes our older tables from a file, and appends a new table for each event. A table is ours if `is_ours` returns
/// true for its command. If our older tables equal the new tables, the text stays unchanged.
///
/// # Errors
/// If the text is not valid TOML, or if `hooks` is not a list of hooks.
pub fn put(
    text: &str,
    events: &[(&str, &str)],
    line: &str,
    seconds: i64,
    is_ours: impl Fn(&str) -> bool,
) -> Result<String, String> {
    let mut file = TomlFile::parse(text)?;
    let wanted: Vec<_> = events.iter().map(|(event, _)| (Some(*event), Some(line), Some(seconds))).collect();
    let ours = |table: &&dyn TableLike| text_of(*table, "command").is_some_and(&is_ours);
    let found: Vec<_> = tables(&file.document).into_iter().filter(ours).map(facts).collect();
    if found == wanted {
        return Ok(text.to_owned());
    }
    take_out(&mut file, is_ours);
    events.iter().try_for_each(|(event, _)| insert(&mut file, event, line, seconds))?;
    Ok(file.print())
}

fn text_of<'a>(table: &'a dyn TableLike, name: &str) -> Option<&'a str> {
    table.get(name)?.as_str()
}

/// The event, the command and the time limit of a hook.
fn facts(table: &dyn TableLike) -> (Option<&str>, Option<&str>, Option<i64>) {
    (text_of(table, "event"), text_of(table, "command"), table.get("timeout").and_then(Item::as_integer))
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
    take_out(&mut file, is_ours);
    Ok(file.print())
}

fn take_out(file: &mut TomlFile<'_>, is_ours: impl Fn(&str) -> bool) {
    let is_ours = |table: &dyn TableLike| text_of(table, "command").is_some_and(&is_ours);
    if let Some(list) = file.document.get_mut(LIST).and_then(Item::as_array_mut) {
        return list.retain(|hook| !hook.as_inline_table().is_some_and(|table| is_ours(table)));
    }
    let list = file.document.get(LIST).and_then(Item::as_array_of_tables);
    let places = list.into_iter().flat_map(|list| list.iter().enumerate()).filter(|(_, table)| is_ours(*table));
    let places: Vec<usize> = places.map(|(n, _)| n).collect();
    // The comments above a removed table move to the next table. Our tables are removed from last to first, so that
    // these comments keep their order.
    for n in places.into_iter().rev() {
        let Some(list) = file.document.get_mut(LIST).and_then(Item::as_array_of_tables_mut) else { return };
        let removed = list.remove(n);
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
        let (Some(event), Some(command), _) = facts(table) else { continue };
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
            let with = put(text, EVENTS, LINE, 5, is_ours).unwrap();
            let hooks = as_json(&with).unwrap();
            let stops = hooks["hooks"]["Stop"].as_array().unwrap();
            assert_eq!(stops.last().unwrap()["command"], json!(LINE), "{with}");
            assert_eq!(put(&with, EVENTS, LINE, 5, is_ours).unwrap(), with);
            assert_eq!(remove(&with, is_ours).unwrap(), text, "removed from {with}");
            let moved = put(&with, EVENTS, "/new/slm-mesh hook kimi", 5, is_ours).unwrap();
            assert_eq!(moved, with.replace("/bin", "/new"));
        }
    }

    #[test]
    fn what_cannot_be_kept_is_left_alone() {
        for text in ["a = \n", "[hooks]\n", "hooks = 3\n", "hooks = [3]\n"] {
            assert!(put(text, EVENTS, LINE, 5, is_ours).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_a_person_changed_in_our_tables_is_no_reason_to_leave_them() {
        let with = put("# top\na = 1\n", EVENTS, LINE, 5, is_ours).unwrap();
        let changed = with.replace("[[hooks]]", "[[ hooks ]] # the mesh").replace("timeout = 5", "timeout = 60 # slow");
        assert_eq!(remove(&changed, is_ours).unwrap(), "# top\na = 1\n");
    }

    #[test]
    fn hooks_that_a_person_wrote_behind_ours_stay() {
        let with =
            put("a = 1\n", EVENTS, LINE, 5, is_ours).unwrap() + "[[hooks]]\nevent = \"Stop\"\ncommand = \"mine\"\n";
        assert_eq!(remove(&with, is_ours).unwrap(), "a = 1\n[[hooks]]\nevent = \"Stop\"\ncommand = \"mine\"\n");
    }
}
