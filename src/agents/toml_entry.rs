//! Adds and removes our server's table in a TOML file. `toml_edit` keeps comments, order and layout.

use super::generated_file_texts::{NAME, is_our_program};
use super::layout_preserving_toml_edit::TomlFile;
use serde_json::json;
use std::collections::HashMap;
use toml_edit::{Array, DocumentMut, Item, Table, TableLike, Value, value};

fn entry_of<'a>(document: &'a DocumentMut, key: &str) -> Option<&'a dyn TableLike> {
    document.get(key)?.as_table_like()?.get(NAME)?.as_table_like()
}

fn command_of(entry: &dyn TableLike) -> Option<String> {
    entry.get("command")?.as_str().map(str::to_owned)
}

/// The program that a TOML settings file registers as the server `slm-mesh`.
pub fn registered_program(text: &str, key: &str) -> Option<String> {
    let document: DocumentMut = text.parse().ok()?;
    command_of(entry_of(&document, key)?)
}

/// The entry of the server `slm-mesh` in a TOML text, in the form that JSON settings files use.
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

/// Whether these arguments start our server. The user may have added other arguments, such as `--legacy`.
fn starts_our_server(args: &Array) -> bool {
    args.get(0).and_then(Value::as_str) == Some("mcp")
}

fn arguments() -> Array {
    Array::from_iter(["mcp"])
}

/// Adds our server's table to the table `key`, or updates it.
///
/// # Errors
/// If the file can't be changed safely; the error says why.
pub fn put(text: &str, key: &str, program: &str) -> Result<String, String> {
    let mut file = TomlFile::parse(text)?;
    let document = &file.document;
    if is_current(document, key, program) {
        return Ok(text.to_owned());
    }
    if document.get(key).is_some_and(|servers| servers.as_table_like().is_none()) {
        return Err(format!("{key} is not a table"));
    }
    let is_ours = entry_of(document, key).and_then(command_of).is_some_and(|command| is_our_program(&command));
    if is_ours {
        update(&mut file.document, key, program);
    } else {
        take_out(&mut file, key);
        insert(&mut file, key, program);
    }
    let new = file.print();
    let check: DocumentMut = new.parse().map_err(|_| "an edit would make it invalid TOML".to_owned())?;
    if is_current(&check, key, program) { Ok(new) } else { Err(format!("{key} has a form that setup can't edit")) }
}

fn is_current(document: &DocumentMut, key: &str, program: &str) -> bool {
    let Some(entry) = entry_of(document, key) else { return false };
    let args = entry.get("args").and_then(Item::as_array);
    let is_args = args.is_some_and(starts_our_server);
    is_args && command_of(entry).as_deref() == Some(program)
}

/// Updates the command and the arguments that an older slm-mesh wrote, and keeps what the user added.
fn update(document: &mut DocumentMut, key: &str, program: &str) {
    let servers = document.get_mut(key).and_then(Item::as_table_like_mut);
    let Some(entry) = servers.and_then(|servers| servers.get_mut(NAME)).and_then(Item::as_table_like_mut) else {
        return;
    };
    let args = entry.get("args").and_then(Item::as_array).filter(|args| starts_our_server(args)).cloned();
    for (name, new) in [("command", Value::from(program)), ("args", args.unwrap_or_else(arguments).into())] {
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

fn insert(file: &mut TomlFile<'_>, key: &str, program: &str) {
    let mut entry = Table::new();
    entry.insert("command", value(program));
    entry.insert("args", value(arguments()));
    insert_entry(file, key, entry);
}

fn insert_entry(file: &mut TomlFile<'_>, key: &str, mut entry: Table) {
    if let Some(servers) = file.document.get_mut(key).and_then(Item::as_inline_table_mut) {
        servers.insert(NAME, entry.into_inline_table().into());
        return;
    }
    entry.set_dotted(false);
    file.move_to_end(&mut entry);
    let servers = file.document.as_table_mut().entry(key).or_insert_with(|| {
        let mut servers = Table::new();
        servers.set_implicit(true);
        Item::Table(servers)
    });
    if let Some(servers) = servers.as_table_mut() {
        servers.insert(NAME, Item::Table(entry));
    }
}

/// Puts back the user's table for a server `slm-mesh`, which set-up has replaced with our table. `before` is the text
/// before set-up. If `before` contains no table for this server, or if that table starts our program, nothing is put
/// back.
///
/// # Errors
/// If the file can't be changed safely; the error says why.
pub fn put_back(text: &str, key: &str, before: &str) -> Result<String, String> {
    let unchanged = || Ok(text.to_owned());
    let Ok(before) = before.parse::<DocumentMut>() else { return unchanged() };
    let Some(replaced) = entry_of(&before, key) else { return unchanged() };
    if command_of(replaced).is_some_and(|program| is_our_program(&program)) {
        return unchanged();
    }
    let servers = before.get(key).and_then(Item::as_table_like);
    let Some(entry) = servers.and_then(|servers| servers.get(NAME)?.clone().into_table().ok()) else {
        return unchanged();
    };
    let mut file = TomlFile::parse(text)?;
    insert_entry(&mut file, key, entry);
    let new = file.print();
    let check: DocumentMut = new.parse().map_err(|_| "an edit would make it invalid TOML".to_owned())?;
    if entry_of(&check, key).is_some() { Ok(new) } else { Err(format!("{key} has a form that setup can't edit")) }
}

/// Removes the table of the server `slm-mesh` if the table's command is our program.
///
/// # Errors
/// If the file can't be changed safely; the error says why.
pub fn remove(text: &str, key: &str) -> Result<String, String> {
    let is_ours = |text: &str| registered_program(text, key).is_some_and(|program| is_our_program(&program));
    if !is_ours(text) {
        return Ok(text.to_owned());
    }
    let mut file = TomlFile::parse(text)?;
    take_out(&mut file, key);
    Ok(file.print())
}

fn take_out(file: &mut TomlFile<'_>, key: &str) {
    let document = &mut file.document;
    let Some(servers) = document.get_mut(key).and_then(Item::as_table_like_mut) else { return };
    let removed = servers.remove(NAME);
    let is_empty = servers.is_empty();
    if is_empty && document.get(key).and_then(Item::as_table).is_some_and(Table::is_implicit) {
        document.remove(key);
    }
    if let Some(Item::Table(table)) = removed {
        file.keep_comments_of(&table);
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
            assert_eq!(remove(&with, KEY).unwrap(), text, "removed from {with}");
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
            assert_eq!(remove(text, KEY).unwrap(), text, "the entry is not ours, so it stays");
            let back = put_back(&remove(&with, KEY).unwrap(), KEY, text).unwrap();
            let entry = |text: &str| entry_as_json(text, KEY);
            assert_eq!((entry(&back), back.contains("url")), (entry(text), text.contains("url")), "{back}");
        }
    }

    #[test]
    fn comments_around_our_table_stay() {
        let with =
            put("model = 1\n# end\n", KEY, "/bin/slm-mesh").unwrap() + "\n# wiki\n[mcp_servers.pw]\ncommand = 'x'\n";
        let without = "model = 1\n# end\n\n# wiki\n[mcp_servers.pw]\ncommand = 'x'\n";
        assert_eq!(remove(&with, KEY).unwrap(), without);
        let noted =
            with.replace("[mcp_servers.slm-mesh]", "# ours\n[mcp_servers.slm-mesh]").replace("\n\n# wiki", "\n# wiki");
        assert_eq!(
            remove(&noted, KEY).unwrap(),
            "model = 1\n# end\n\n# ours\n# wiki\n[mcp_servers.pw]\ncommand = 'x'\n"
        );
        let commented = "[mcp_servers.slm-mesh]\ncommand = '/old/slm-mesh' # ours\nenabled = false\n";
        let with = put(commented, KEY, "/bin/slm-mesh").unwrap();
        assert_eq!(
            with,
            "[mcp_servers.slm-mesh]\ncommand = \"/bin/slm-mesh\" # ours\nenabled = false\nargs = [\"mcp\"]\n"
        );
    }

    #[test]
    fn what_cannot_be_kept_is_left_alone() {
        for text in ["a = \n", "mcp_servers = 3\n", "[[mcp_servers]]\n"] {
            assert!(put(text, KEY, "/bin/slm-mesh").is_err(), "{text:?}");
        }
    }
}
