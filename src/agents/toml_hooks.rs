//! Our hooks in a TOML file. Each hook is a table in the list `hooks`, with an event, a command and a time limit.
//!
//! **Invariant:** all other bytes of the file stay as they are. Our tables are appended, and a comment line before each
//! table marks it as ours.

use serde_json::{Value, json};
use toml_edit::DocumentMut;

/// The header line of each table in the list.
const HEAD: &str = "[[hooks]]";

/// Appends a table for each event to a text. Replaces those of our tables that have another command or time limit.
///
/// # Errors
/// If the text is not valid TOML, or would become invalid with our tables.
pub fn put(text: &str, events: &[(&str, &str)], line: &str, seconds: i64) -> Result<String, String> {
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let table = |event: &str| {
        let lines = [
            String::new(),
            HEAD.to_owned(),
            format!("event = {}", json!(event)),
            format!("command = {}", json!(line)),
            format!("timeout = {seconds}"),
        ];
        lines.iter().flat_map(|line| [line, end]).collect::<String>()
    };
    let ours: String = events.iter().map(|(event, _)| table(event)).collect();
    if text.ends_with(&ours) {
        return Ok(text.to_owned());
    }
    parse(text)?;
    let rest = remove(text, |command| is_same_hook(command, line));
    let gap = if rest.is_empty() || rest.ends_with('\n') { "" } else { end };
    let new = format!("{rest}{gap}{ours}");
    parse(&new).map_err(|_| "the key \"hooks\" in it is written in a way that setup can't edit".to_owned())?;
    Ok(new)
}

/// Whether two lines run the same agent's hook; the path of the program is ignored.
fn is_same_hook(a: &str, b: &str) -> bool {
    let words = |line: &str| line.rsplit('/').next().map(str::to_owned);
    words(a) == words(b)
}

/// Removes each table for whose command `is_ours` returns true.
pub fn remove(text: &str, is_ours: impl Fn(&str) -> bool) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut lines = text.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        if line.trim() != HEAD {
            kept.push(line);
            continue;
        }
        let mut table = vec![line];
        while let Some(next) = lines.next_if(|next| !is_table_end(next)) {
            table.push(next);
        }
        if !table.iter().filter_map(|line| command_of(line)).any(|command| is_ours(&command)) {
            kept.extend(table);
        } else if kept.last().is_some_and(|line| line.trim().is_empty()) {
            kept.pop();
        }
    }
    kept.concat()
}

fn is_table_end(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('[') || line.starts_with('#')
}

/// The command in a line `command = …`.
fn command_of(line: &str) -> Option<String> {
    let document: DocumentMut = line.trim().parse().ok()?;
    document.get("command")?.as_str().map(str::to_owned)
}

fn parse(text: &str) -> Result<DocumentMut, String> {
    text.parse().map_err(|error: toml_edit::TomlError| format!("it is not valid TOML ({})", error.message().trim()))
}

/// The hooks in a text, in the form that JSON settings files use: an object `hooks` that lists the hooks of each event.
pub fn as_json(text: &str) -> Option<Value> {
    let document = parse(text).ok()?;
    let mut found = json!({ "hooks": {} });
    for table in document.get("hooks").and_then(|hooks| hooks.as_array_of_tables()).into_iter().flatten() {
        let word = |name: &str| table.get(name).and_then(|item| item.as_str());
        let (Some(event), Some(command)) = (word("event"), word("command")) else { continue };
        let list = &mut found["hooks"][event];
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
        ] {
            let with = put(text, EVENTS, LINE, 5).unwrap();
            let hooks = as_json(&with).unwrap();
            let stops = hooks["hooks"]["Stop"].as_array().unwrap();
            assert_eq!(stops.last().unwrap()["command"], json!(LINE), "{with}");
            assert_eq!(put(&with, EVENTS, LINE, 5).unwrap(), with);
            assert_eq!(remove(&with, is_ours), text, "by way of {with}");
            let moved = put(&with, EVENTS, "/new/slm-mesh hook kimi", 5).unwrap();
            assert_eq!(moved, with.replace("/bin", "/new"));
        }
    }

    #[test]
    fn what_cannot_be_kept_is_left_alone() {
        for text in ["a = \n", "hooks = []\n", "hooks = 3\n"] {
            assert!(put(text, EVENTS, LINE, 5).is_err(), "{text:?}");
        }
    }

    #[test]
    fn hooks_that_a_person_wrote_behind_ours_stay() {
        let with = put("a = 1\n", EVENTS, LINE, 5).unwrap() + "[[hooks]]\nevent = \"Stop\"\ncommand = \"mine\"\n";
        assert_eq!(remove(&with, is_ours), "a = 1\n[[hooks]]\nevent = \"Stop\"\ncommand = \"mine\"\n");
    }
}
