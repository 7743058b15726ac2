//! Our lines in TOML and YAML, without a parser for either: a block at the end, and only where no
//! line names us in a form that we don't know.

use super::generated_files::{NAME, is_us};
use serde_json::json;

/// The head of our table, in the two ways in which it may be written.
const HEADS: &[&str] = &["[mcp_servers.slm-mesh]", "[mcp_servers.\"slm-mesh\"]"];

/// Lines with their ends.
fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

fn end_of_line(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

/// Appends a block behind a blank line.
fn append(text: &str, block: &str) -> String {
    let line = end_of_line(text);
    let gap = match text {
        "" => "",
        text if text.ends_with('\n') => line,
        _ => &line.repeat(2),
    };
    format!("{text}{gap}{}", block.replace('\n', line))
}

/// Our table: the line of its head, and that of whatever comes next.
fn table(lines: &[&str]) -> Option<(usize, usize)> {
    let start = lines.iter().position(|line| HEADS.contains(&line.trim()))?;
    let is_next = |line: &&str| {
        let line = line.trim_start();
        line.starts_with('[') && !HEADS.iter().any(|head| line.starts_with(&head.replace(']', ".")))
    };
    let length = lines[start + 1..].iter().position(is_next);
    Some((start, length.map_or(lines.len(), |length| start + 1 + length)))
}

/// The line in our table that names the program, and the program.
fn command(lines: &[&str], (start, end): (usize, usize)) -> Option<(usize, String)> {
    let own = lines[start + 1..end].iter().take_while(|line| !line.trim_start().starts_with('['));
    own.enumerate().find_map(|(n, line)| {
        let value = line.trim().strip_prefix("command")?.trim_start().strip_prefix('=')?.trim();
        let program =
            serde_json::from_str(value).ok().or_else(|| Some(value.strip_prefix('\'')?.strip_suffix('\'')?.into()))?;
        Some((start + 1 + n, program))
    })
}

/// The program that a TOML text registers under our name.
pub fn toml_program(text: &str) -> Option<String> {
    let lines = lines(text);
    command(&lines, table(&lines)?).map(|(_, program)| program)
}

/// Puts our table into a TOML text.
///
/// # Errors
/// When it names us in a form that we can't rewrite, in words.
pub fn put_toml(text: &str, program: &str) -> Result<String, String> {
    let mut all = lines(text);
    if let Some(found) = table(&all) {
        let (n, old) = command(&all, found).ok_or("its table of ours has no command that can be read")?;
        if old == program {
            return Ok(text.to_owned());
        }
        let line = format!("command = {}{}", json!(program), end_of_line(text));
        all[n] = &line;
        return Ok(all.concat());
    }
    let mut head = "";
    for line in all.iter().map(|line| line.trim()).filter(|line| !line.starts_with('#')) {
        if line.starts_with('[') {
            head = line;
        }
        let is_whole = line.strip_prefix("mcp_servers").is_some_and(|rest| rest.trim_start().starts_with('='));
        let names_us = line.contains("mcp_servers") && line.contains(NAME);
        let is_member = head == "[mcp_servers]" && line.trim_start_matches('"').starts_with(NAME);
        if is_whole || names_us || is_member {
            return Err(format!("a line of it defines servers in a form that is not rewritten ({line})"));
        }
    }
    Ok(append(text, &format!("{}\ncommand = {}\nargs = [\"mcp\"]\n", HEADS[0], json!(program))))
}

/// Takes our table out of a TOML text, if its program is ours.
pub fn take_toml(text: &str) -> String {
    let all = lines(text);
    let Some((start, end)) = table(&all) else { return text.to_owned() };
    if !command(&all, (start, end)).is_some_and(|(_, program)| is_us(&program)) {
        return text.to_owned();
    }
    // At the end, the blank line before it was ours, too.
    let is_last = end == all.len();
    let from = if is_last && start > 0 && all[start - 1].trim().is_empty() { start - 1 } else { start };
    [&all[..from], &all[end..]].concat().concat()
}

/// Has a YAML text read a file.
///
/// # Errors
/// When it reads others already, in words.
pub fn put_yaml(text: &str, file: &str) -> Result<String, String> {
    let ours = format!("read: {}", json!(file));
    let mut reads = text.lines().filter(|line| line.starts_with("read:") || line.starts_with("\"read\""));
    match reads.next() {
        Some(line) if line.trim_end() == ours => Ok(text.to_owned()),
        Some(line) => Err(format!("it reads files already ({line}); add {file} there")),
        None => Ok(append(text, &format!("{ours}\n"))),
    }
}

/// Takes that line out again.
pub fn take_yaml(text: &str, file: &str) -> String {
    let ours = format!("read: {}", json!(file));
    let all = lines(text);
    let Some(n) = all.iter().position(|line| line.trim_end() == ours) else { return text.to_owned() };
    let from = if n + 1 == all.len() && n > 0 && all[n - 1].trim().is_empty() { n - 1 } else { n };
    [&all[..from], &all[n + 1..]].concat().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_goes_in_and_out_again() {
        for text in [
            "",
            "a = 1\n",
            "a = 1\r\n[b]\r\nc = 2\r\n",
            "# mcp_servers.slm-mesh\n",
            "[projects.\"/x/slm-mesh\"]\nt = 1\n",
        ] {
            let with = put_toml(text, "/bin/slm-mesh").unwrap();
            assert_eq!(toml_program(&with).as_deref(), Some("/bin/slm-mesh"), "{with}");
            assert_eq!(put_toml(&with, "/bin/slm-mesh").unwrap(), with);
            assert_eq!(put_toml(&with, "/new/slm-mesh").unwrap(), with.replace("/bin", "/new"));
            assert_eq!(take_toml(&with), text);
        }
    }

    #[test]
    fn other_forms_are_left_alone() {
        for text in [
            "mcp_servers = { }\n",
            "mcp_servers.slm-mesh.command = \"x\"\n",
            "[mcp_servers]\nslm-mesh = { command = \"x\" }\n",
            "[mcp_servers.slm-mesh]\nurl = \"x\"\n",
        ] {
            assert!(put_toml(text, "/bin/slm-mesh").is_err(), "{text}");
            assert_eq!(take_toml(text), text);
        }
        let between = "[mcp_servers.slm-mesh]\ncommand = 'x/slm-mesh'\n[mcp_servers.slm-mesh.env]\nA = \"1\"\n\n[b]\n";
        assert_eq!(take_toml(between), "[b]\n");
    }

    #[test]
    fn a_yaml_line_goes_in_and_out_again() {
        let with = put_yaml("model: x\n", "/c.md").unwrap();
        assert_eq!(with, "model: x\n\nread: \"/c.md\"\n");
        assert_eq!(take_yaml(&with, "/c.md"), "model: x\n");
        assert!(put_yaml("read: [a]\n", "/c.md").is_err());
    }
}
