//! Our line in a YAML file: one key at the end of a plain mapping.
//!
//! No crate can edit YAML without changing other bytes. So a file is changed only if every line is certainly part of a
//! plain mapping.

use serde_json::json;

fn our_line(key: &str, file: &str) -> String {
    format!("{key}: {}", json!(file))
}

fn end_of_line(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

/// Adds our line, which names a file under `key`.
///
/// # Errors
/// If the file can't be changed safely; the error says why.
pub fn put(text: &str, key: &str, file: &str) -> Result<String, String> {
    let ours = our_line(key, file);
    if has(text, key, file) {
        return Ok(text.to_owned());
    }
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
        return format!("add this to the list under \"{key}\": {}", json!(file));
    }
    our_line(key, file)
}

/// Whether a line contains this key, regardless of quotes and indentation.
fn names_key(line: &str, key: &str) -> bool {
    let start = line.trim_start_matches([' ', '\t', '-', '?', '{', '"', '\'']);
    start.strip_prefix(key).is_some_and(|rest| rest.trim_start_matches(['"', '\'', ' ', '\t']).starts_with(':'))
}

/// Whether a line is certainly blank, a comment, an indented line, a list item, or a key of the top-level mapping.
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

/// Whether a key's value ends on the key's line, or continues only in indented lines.
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

/// Whether a YAML text lists our file.
pub fn has(text: &str, key: &str, file: &str) -> bool {
    text.lines().any(|line| line.trim_end() == our_line(key, file))
}

/// Removes our line.
pub fn remove(text: &str, key: &str, file: &str) -> String {
    let ours = our_line(key, file);
    text.split_inclusive('\n').filter(|line| line.trim_end() != ours).collect()
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
            assert_eq!(remove(&with, "read", "/c.md"), text);
        }
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
        assert_eq!(to_paste("read: [a]\n", "read", "/c.md"), "add this to the list under \"read\": \"/c.md\"");
    }
}
