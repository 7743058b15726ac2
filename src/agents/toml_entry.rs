//! Our server's table in a TOML file. `toml_edit` keeps comments, order and layout.
//!
//! **Invariant:** a file is not changed if `toml_edit` would not reproduce it byte for byte.

use super::generated_files::{NAME, is_our_program};
use serde_json::json;
use std::collections::HashMap;
use toml_edit::{Array, Decor, DocumentMut, InlineTable, Item, Table, TableLike, Value, value};

/// The line ends of a file. They are kept separately, because `toml_edit` always prints line feeds and adds one at the
/// end.
struct LineEnds {
    is_crlf: bool,
}

impl LineEnds {
    fn parse(text: &str) -> Result<(LineEnds, DocumentMut), String> {
        let ends = LineEnds { is_crlf: text.contains("\r\n") };
        let mut plain = if ends.is_crlf { text.replace("\r\n", "\n") } else { text.to_owned() };
        let is_mixed = ends.is_crlf && plain.replace('\n', "\r\n") != text;
        if !plain.is_empty() && !plain.ends_with('\n') {
            plain.push('\n');
        }
        let document: DocumentMut =
            plain.parse().map_err(|error| format!("it is not valid TOML ({})", cause(&error)))?;
        if is_mixed || document.to_string() != plain {
            return Err("some of its lines end in LF and others in CRLF, and an edit would change that".into());
        }
        Ok((ends, document))
    }

    fn print(&self, document: &DocumentMut) -> String {
        let text = document.to_string();
        if self.is_crlf { text.replace('\n', "\r\n") } else { text }
    }
}

/// The cause in a parser's error. The cause is the last line, and the lines before it show the position.
fn cause(error: &toml_edit::TomlError) -> String {
    error.message().trim().replace('\n', " ")
}

fn entry_of<'a>(document: &'a DocumentMut, key: &str) -> Option<&'a dyn TableLike> {
    document.get(key)?.as_table_like()?.get(NAME)?.as_table_like()
}

fn command_of(entry: &dyn TableLike) -> Option<String> {
    entry.get("command")?.as_str().map(str::to_owned)
}

/// The program that is registered under our name in a TOML text.
pub fn registered_program(text: &str, key: &str) -> Option<String> {
    let document: DocumentMut = text.parse().ok()?;
    command_of(entry_of(&document, key)?)
}

/// The entry under our name in a TOML text, in the form that JSON settings files use.
pub fn entry_as_json(text: &str, key: &str) -> Option<serde_json::Value> {
    let document: DocumentMut = text.parse().ok()?;
    let entry = entry_of(&document, key)?;
    let args = entry.get("args").and_then(Item::as_array).into_iter().flatten();
    let variables = entry.get("env").and_then(Item::as_table_like);
    let variables = variables.into_iter().flat_map(TableLike::iter);
    Some(json!({
        "command": command_of(entry),
        "args": args.filter_map(Value::as_str).collect::<Vec<_>>(),
        "env": variables.filter_map(|(name, value)| Some((name, value.as_str()?))).collect::<HashMap<_, _>>(),
    }))
}

/// The boolean at a path of keys; `None` if there is no boolean.
pub fn flag(text: &str, keys: &[&str]) -> Option<bool> {
    let document: DocumentMut = text.parse().ok()?;
    let (first, rest) = keys.split_first()?;
    let mut item = document.get(first)?;
    for key in rest {
        item = item.as_table_like()?.get(key)?;
    }
    item.as_bool()
}

fn arguments() -> Array {
    Array::from_iter(["mcp"])
}

/// Adds our table below `key`.
///
/// # Errors
/// If the file can't be changed safely; the error says why.
pub fn put(text: &str, key: &str, program: &str) -> Result<String, String> {
    let (ends, mut document) = LineEnds::parse(text)?;
    if is_current(&document, key, program) {
        return Ok(text.to_owned());
    }
    if document.get(key).is_some_and(|servers| servers.as_table_like().is_none()) {
        return Err(format!("{key} is not a table"));
    }
    let is_ours = entry_of(&document, key).and_then(command_of).is_some_and(|command| is_our_program(&command));
    if is_ours {
        update(&mut document, key, program);
    } else {
        take_out(&mut document, key);
        insert(&mut document, key, program);
    }
    let new = ends.print(&document);
    let check: DocumentMut = new.parse().map_err(|_| "an edit would make it invalid TOML".to_owned())?;
    if is_current(&check, key, program) {
        Ok(new)
    } else {
        Err(format!("{key} is written in a way that setup can't edit"))
    }
}

fn is_current(document: &DocumentMut, key: &str, program: &str) -> bool {
    let Some(entry) = entry_of(document, key) else { return false };
    let args = entry.get("args").and_then(Item::as_array);
    let is_args = args.is_some_and(|args| args.len() == 1 && args.get(0).and_then(Value::as_str) == Some("mcp"));
    is_args && command_of(entry).as_deref() == Some(program)
}

/// Updates the entries that an older slm-mesh wrote, and keeps what the user added.
fn update(document: &mut DocumentMut, key: &str, program: &str) {
    let servers = document.get_mut(key).and_then(Item::as_table_like_mut);
    let Some(entry) = servers.and_then(|servers| servers.get_mut(NAME)).and_then(Item::as_table_like_mut) else {
        return;
    };
    for (name, new) in [("command", Value::from(program)), ("args", Value::from(arguments()))] {
        match entry.get_mut(name).and_then(Item::as_value_mut) {
            Some(old) => {
                let decor = old.decor().clone();
                *old = new;
                *old.decor_mut() = decor;
            }
            None => {
                entry.insert(name, value(new));
            }
        }
    }
}

fn insert(document: &mut DocumentMut, key: &str, program: &str) {
    let is_inline = document.get(key).is_some_and(Item::is_inline_table);
    if is_inline {
        let mut entry = InlineTable::new();
        entry.insert("command", program.into());
        entry.insert("args", arguments().into());
        if let Some(servers) = document.get_mut(key).and_then(Item::as_inline_table_mut) {
            servers.insert(NAME, entry.into());
        }
        return;
    }
    let mut entry = Table::new();
    entry.insert("command", value(program));
    entry.insert("args", value(arguments()));
    // Our table goes to the end of the file, after any comments there.
    let mut last = 0;
    each_table(document.as_table_mut(), &mut |table| last = last.max(table.position().unwrap_or(0)));
    entry.set_position(Some(last + 1));
    let trailing = document.trailing().as_str().unwrap_or("").to_owned();
    let is_first = document.as_table().is_empty() && trailing.trim().is_empty();
    let gap = if is_first { "" } else { "\n" };
    entry.decor_mut().set_prefix(format!("{trailing}{gap}"));
    document.set_trailing("");
    let servers = document.as_table_mut().entry(key).or_insert_with(|| {
        let mut servers = Table::new();
        servers.set_implicit(true);
        Item::Table(servers)
    });
    if let Some(servers) = servers.as_table_mut() {
        servers.insert(NAME, Item::Table(entry));
    }
}

/// Removes our table, if its program is ours.
///
/// # Errors
/// If the file can't be changed safely; the error says why.
pub fn remove(text: &str, key: &str) -> Result<String, String> {
    let is_ours = |text: &str| registered_program(text, key).is_some_and(|program| is_our_program(&program));
    if !is_ours(text) {
        return Ok(text.to_owned());
    }
    let (ends, mut document) = LineEnds::parse(text)?;
    take_out(&mut document, key);
    Ok(ends.print(&document))
}

fn take_out(document: &mut DocumentMut, key: &str) {
    let Some(servers) = document.get_mut(key).and_then(Item::as_table_like_mut) else { return };
    let removed = servers.remove(NAME);
    let is_empty = servers.is_empty();
    if is_empty && document.get(key).and_then(Item::as_table).is_some_and(Table::is_implicit) {
        document.remove(key);
    }
    if let Some(Item::Table(table)) = removed {
        let comments = prefix_of(table.decor());
        // Set-up added the blank line before our table.
        let comments = comments.strip_suffix('\n').unwrap_or(&comments);
        give_back(document, comments, table.position());
    }
}

fn prefix_of(decor: &Decor) -> String {
    decor.prefix().and_then(|prefix| prefix.as_str()).unwrap_or("").to_owned()
}

/// Moves comments to the first table after a position, or to the end of the file if no table follows.
fn give_back(document: &mut DocumentMut, comments: &str, position: Option<isize>) {
    if comments.is_empty() {
        return;
    }
    let is_behind = |table: &Table| table.position() > position && table.position().is_some();
    let mut next: Option<isize> = None;
    each_table(document.as_table_mut(), &mut |table| {
        if is_behind(table) && !table.is_implicit() && next.is_none_or(|next| table.position() < Some(next)) {
            next = table.position();
        }
    });
    if next.is_none() {
        let trailing = document.trailing().as_str().unwrap_or("").to_owned();
        document.set_trailing(format!("{comments}{trailing}"));
        return;
    }
    each_table(document.as_table_mut(), &mut |table| {
        if table.position() == next {
            let own = prefix_of(table.decor());
            table.decor_mut().set_prefix(format!("{comments}{own}"));
        }
    });
}

fn each_table(table: &mut Table, act: &mut impl FnMut(&mut Table)) {
    for (_, item) in table.iter_mut() {
        match item {
            Item::Table(inner) => {
                act(inner);
                each_table(inner, act);
            }
            Item::ArrayOfTables(list) => {
                for inner in list.iter_mut() {
                    act(inner);
                    each_table(inner, act);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "mcp_servers";

    #[test]
    fn a_table_goes_in_and_out_again() {
        for text in [
            "",
            "a = 1\n",
            "a = 1\r\n[b]\r\nc = 2\r\n",
            "# mcp_servers.slm-mesh\n",
            "a = 1\n\n# the end\n\n",
            "[projects.\"/x/slm-mesh\"]\nt = 1\n",
            "[[hooks]]\na = 1 # one\n\n# two\n[[hooks]]\n",
            "[mcp_servers] # mine\n",
            "[mcp_servers.x]\ncommand = 'y'\n# end\n",
        ] {
            let with = put(text, KEY, "/bin/slm-mesh").unwrap();
            assert_eq!(registered_program(&with, KEY).as_deref(), Some("/bin/slm-mesh"), "{with}");
            assert_eq!(put(&with, KEY, "/bin/slm-mesh").unwrap(), with);
            assert_eq!(put(&with, KEY, "/new/slm-mesh").unwrap(), with.replace("/bin", "/new"));
            assert_eq!(remove(&with, KEY).unwrap(), text, "by way of {with}");
        }
    }

    #[test]
    fn an_entry_of_another_program_is_replaced_whole() {
        for text in [
            "[mcp_servers.slm-mesh]\ncommand = \"npx\"\nargs = [\"slm-mesh\"]\n",
            "[mcp_servers.slm-mesh]\nurl = \"x\"\n[mcp_servers.slm-mesh.env]\nA = \"1\"\n",
            "mcp_servers.slm-mesh.command = \"x\"\n",
            "[mcp_servers]\nslm-mesh = { command = \"npx\", args = [\"slm-mesh\"] }\n",
            "[ mcp_servers ]\n'slm-mesh' = { command = \"npx\" }\n",
            "\"mcp_servers\" = { a = { command = \"x\" }, slm-mesh = { url = \"y\" } }\n",
        ] {
            let with = put(text, KEY, "/bin/slm-mesh").unwrap_or_else(|why| panic!("{why}: {text}"));
            let document: DocumentMut = with.parse().unwrap();
            assert!(is_current(&document, KEY, "/bin/slm-mesh"), "{with}");
            assert!(!with.contains("npx") && !with.contains("url") && !with.contains("env"), "{with}");
            assert_eq!(remove(text, KEY).unwrap(), text, "it is not ours to take out");
        }
    }

    #[test]
    fn comments_around_our_table_stay() {
        let with =
            put("model = 1\n# end\n", KEY, "/bin/slm-mesh").unwrap() + "\n# wiki\n[mcp_servers.pw]\ncommand = 'x'\n";
        let without = "model = 1\n# end\n\n# wiki\n[mcp_servers.pw]\ncommand = 'x'\n";
        assert_eq!(remove(&with, KEY).unwrap(), without);
        let commented = "[mcp_servers.slm-mesh]\ncommand = '/old/slm-mesh' # ours\nenabled = false\n";
        let with = put(commented, KEY, "/bin/slm-mesh").unwrap();
        assert_eq!(
            with,
            "[mcp_servers.slm-mesh]\ncommand = \"/bin/slm-mesh\" # ours\nenabled = false\nargs = [\"mcp\"]\n"
        );
    }

    #[test]
    fn what_cannot_be_kept_is_left_alone() {
        for text in ["a = 1\r\nb = 2\n", "a = \n", "mcp_servers = 3\n"] {
            assert!(put(text, KEY, "/bin/slm-mesh").is_err(), "{text:?}");
        }
    }
}
