//! Adds and removes our line in a YAML file. The line is a key of the top-level mapping, and its value is the path of
//! our file. If the user already has a list under this key, the user must add our file to the list. `remove` removes
//! our file from such a list, too.
//!
//! No crate can edit one line of a YAML file without changing other lines. Our line is therefore added only if every
//! other line is known to be part of a plain mapping. Only a line or a list item that contains the path of our file is
//! removed.

use serde_json::json;
use std::ops::Range;
use std::path::Path;

fn our_line(key: &str, file: &str) -> String {
    format!("{key}: {}", json!(file))
}

fn end_of_line(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

/// Adds our line, which contains `key` and the path of our file.
///
/// # Errors
/// If the file can't be changed safely; the error says why.
pub fn put(text: &str, key: &str, file: &str) -> Result<String, String> {
    let ours = our_line(key, file);
    if has(text, key, file) {
        return Ok(text.to_owned());
    }
    let text = &without(text, key, |value| is_our_moved_file(value, file));
    let is_content = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    if text.lines().find(is_content).is_some_and(|line| line.starts_with([' ', '-'])) {
        return Err("its first line does not begin with a key".into());
    }
    for (n, line) in text.lines().enumerate() {
        // An indented line belongs to another key.
        if !line.starts_with(' ') && names_key(line, key) {
            return Err(format!("its line {} already contains \"{key}\"", n + 1));
        }
        if !is_plain(line) {
            return Err(format!("its line {} is written in a way that setup can't edit", n + 1));
        }
    }
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { end_of_line(text) };
    Ok(format!("{text}{end}{ours}{}", end_of_line(text)))
}

/// The text that a user can paste into a file that `setup` can't change.
pub fn to_paste(text: &str, key: &str, file: &str) -> String {
    if text.lines().any(|line| names_key(line, key)) {
        return format!("add this item to the list under the key `{key}`: {}", json!(file));
    }
    our_line(key, file)
}

/// Whether a line contains this key, regardless of quotes and indentation.
fn names_key(line: &str, key: &str) -> bool {
    let start = line.trim_start_matches([' ', '\t', '-', '?', '{', '"', '\'']);
    start.strip_prefix(key).is_some_and(|rest| rest.trim_start_matches(['"', '\'', ' ', '\t']).starts_with(':'))
}

/// Returns true if a line is blank, a comment, an indented line, a list item, or a key of the top-level mapping.
/// Returns false if this is not certain.
fn is_plain(line: &str) -> bool {
    let line = line.trim_end_matches('\r');
    // A block scalar with `+` includes all line ends that follow its text, so an appended line could change the scalar.
    if line.ends_with("|+") || line.ends_with(">+") {
        return false;
    }
    if line.is_empty() || line.starts_with([' ', '#']) || line == "-" || line.starts_with("- ") {
        return true;
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let rest = line.trim_start_matches(is_word);
    rest.len() < line.len() && line.starts_with(|c: char| c.is_ascii_alphabetic()) && is_value(rest)
}

/// Returns true if the value of a key ends on the key's line, or continues only on indented lines.
fn is_value(rest: &str) -> bool {
    let Some(value) = rest.strip_prefix(':') else { return false };
    let is_open = value.trim_start().starts_with(['{', '[', '"', '\'']) && !is_closed(value.trim());
    (value.is_empty() || value.starts_with(' ')) && !is_open
}

/// Whether a quoted or bracketed value ends on its line.
fn is_closed(value: &str) -> bool {
    let end = match value.chars().next() {
        Some('{') => '}',
        Some('[') => ']',
        Some(quote) => quote,
        None => return true,
    };
    let value = value.split(" #").next().unwrap_or(value).trim_end();
    value.len() > 1 && value.ends_with(end)
}

/// Whether a YAML text contains the path of our file under the key, either as the value or as an item of a list.
pub fn has(text: &str, key: &str, file: &str) -> bool {
    values_of(text, key).iter().any(|(_, value)| value == file)
}

/// Removes our line, or our item from the user's list under the key.
///
/// # Errors
/// If the text contains the path of our file in any other form; the error says what to do.
pub fn remove(text: &str, key: &str, file: &str) -> Result<String, String> {
    let left = without(text, key, |value| value == file || is_our_moved_file(value, file));
    let is_code = |line: &&str| !line.trim_start().starts_with('#');
    if left == text && !file.is_empty() && text.lines().filter(is_code).any(|line| line.contains(file)) {
        return Err(format!("it names {file} in a way that setup can't edit; remove this name yourself"));
    }
    Ok(left)
}

/// The text without the values that `picks` selects.
fn without(text: &str, key: &str, picks: impl Fn(&str) -> bool) -> String {
    let mut left = text.to_owned();
    while let Some((range, _)) = values_of(&left, key).into_iter().find(|(_, value)| picks(value)) {
        left.replace_range(range, "");
    }
    left
}

/// Whether a value is the path that our file had before its folder was moved.
fn is_our_moved_file(value: &str, file: &str) -> bool {
    let (old, new) = (Path::new(value), Path::new(file));
    old.is_absolute() && old != new && old.file_name() == new.file_name() && !old.exists()
}

/// The values under a key of the top-level mapping, each with the range of bytes to remove.
fn values_of(text: &str, key: &str) -> Vec<(Range<usize>, String)> {
    let (mut found, mut end, mut is_in_list) = (Vec::new(), 0, false);
    for line in text.split_inclusive('\n') {
        let range = end..end + line.len();
        end = range.end;
        if let Some(item) = line.trim_start().strip_prefix("- ").filter(|_| is_in_list) {
            found.push((range, scalar(item)));
            continue;
        }
        if line.trim().is_empty() || line.starts_with([' ', '\t', '#', '-']) {
            continue;
        }
        is_in_list = false;
        let Some((_, value)) = line.split_once(':').filter(|_| names_key(line, key)) else { continue };
        let value = value.trim_start();
        match value.chars().next() {
            None | Some('#') => is_in_list = true,
            Some('[') => found.extend(bracketed_values(text, range.start, range.end - value.len())),
            Some(_) => found.push((range, scalar(value))),
        }
    }
    found
}

/// The values in the brackets that open at `open`, each with the range of bytes to remove. The line with the brackets
/// begins at `line`. Returns no values if the brackets contain more than plain values.
fn bracketed_values(text: &str, line: usize, open: usize) -> Vec<(Range<usize>, String)> {
    let (mut quote, mut start, mut items) = (None, open + 1, Vec::new());
    for (at, c) in text[open + 1..].char_indices().map(|(at, c)| (open + 1 + at, c)) {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(mark), c) if c == mark => quote = None,
            (None, '[' | '{' | '#') => return Vec::new(),
            (None, ',' | ']') => {
                let raw = &text[start..at];
                let begin = start + raw.len() - raw.trim_start().len();
                items.push(begin..begin + raw.trim().len());
                start = at + 1;
                if c == ']' {
                    let line_end = text[at..].find('\n').map_or(text.len(), |n| at + n + 1);
                    return cuts(text, &items, line..line_end);
                }
            }
            _ => {}
        }
    }
    Vec::new()
}

/// The values at these positions, each with the range of bytes to remove. The range contains the value and one comma.
/// If the value is the only one, the range contains the whole line.
fn cuts(text: &str, items: &[Range<usize>], line: Range<usize>) -> Vec<(Range<usize>, String)> {
    let cut = |n: usize| match (n.checked_sub(1), items.get(n + 1)) {
        (None, None) => line.clone(),
        (None, Some(next)) if !next.is_empty() => items[n].start..next.start,
        (None, Some(_)) => line.clone(),
        (Some(previous), _) => items[previous].end..items[n].end,
    };
    items.iter().enumerate().map(|(n, item)| (cut(n), scalar(&text[item.clone()]))).collect()
}

/// The value of a plain or quoted word, without the comment that may follow it.
fn scalar(text: &str) -> String {
    let text = text.trim();
    let quoted = match text.chars().next() {
        Some('"') => serde_json::Deserializer::from_str(text).into_iter::<String>().next().and_then(Result::ok),
        Some('\'') => text[1..].replace("''", "\0").split_once('\'').map(|(word, _)| word.replace('\0', "'")),
        _ => None,
    };
    quoted.unwrap_or_else(|| text.split(" #").next().unwrap_or(text).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_in_and_out_again() {
        for text in
            ["", "model: x\n", "# a\nmodel: x\r\n", "a:\n- b\n- c: d\nlong: |\n  read this\n", "a: [1, 2] # b\n"]
        {
            let with = put(text, "read", "/c.md").unwrap();
            assert!(has(&with, "read", "/c.md"), "{with}");
            assert_eq!(put(&with, "read", "/c.md").unwrap(), with);
            assert_eq!(remove(&with, "read", "/c.md").unwrap(), text);
        }
    }

    #[test]
    fn our_item_of_the_users_list_is_found_and_removed() {
        for (with, without) in [
            ("read:\n  - a.md\n  - \"/c.md\"\nmodel: x\n", "read:\n  - a.md\nmodel: x\n"),
            ("read: # mine\r\n- '/c.md' # theirs\r\n# b\r\n- a.md\r\n", "read: # mine\r\n# b\r\n- a.md\r\n"),
            ("'read':\n\n- a.md\n- /c.md", "'read':\n\n- a.md\n"),
            ("read: [a.md, \"/c.md\"] # b\n", "read: [a.md] # b\n"),
            ("read: [ /c.md, 'a, b.md', \"/c.md\" ]\n", "read: [ 'a, b.md' ]\n"),
            ("read: [\n  a.md,\n  /c.md,\n]\nmodel: x\n", "read: [\n  a.md,\n]\nmodel: x\n"),
            ("model: x\nread: ['/c.md',]\n", "model: x\n"),
            ("read: /c.md # ours\nmodel: x\n", "model: x\n"),
        ] {
            assert!(has(with, "read", "/c.md"), "{with}");
            assert_eq!(put(with, "read", "/c.md").unwrap(), with);
            assert_eq!(remove(with, "read", "/c.md").unwrap(), without);
            assert_eq!(remove(without, "read", "/c.md").unwrap(), without);
        }
        for theirs in ["read:\n- a.md\nlint:\n- /c.md\n", "read: [ # x\n  /c.md ]\n", "a:\n  read:\n  - /c.md\n"] {
            assert!(!has(theirs, "read", "/c.md") && remove(theirs, "read", "/c.md").is_err(), "{theirs}");
        }
        assert_eq!(remove("# - /c.md\n", "read", "/c.md").unwrap(), "# - /c.md\n");
    }

    #[test]
    fn other_forms_are_left_alone() {
        for text in [
            "read: [a]\n",
            "read : a\n",
            "'read': a\n",
            "\"read\" : a\n",
            "model: x\n...\n",
            "---\nmodel: x\n",
            "{model: x}\n",
            "a: [1,\n  2]\n",
            "a: \"b\n  c\"\n",
            "a: |+\n  b\n\n",
            "? a\n: b\n",
            "%YAML 1.2\n",
        ] {
            assert!(put(text, "read", "/c.md").is_err(), "{text:?}");
        }
        assert!(put("  model: x\n", "read", "/c.md").is_err(), "a mapping that is indented as a whole");
        assert_eq!(
            to_paste("read: [a]\n", "read", "/c.md"),
            "add this item to the list under the key `read`: \"/c.md\""
        );
    }
}
