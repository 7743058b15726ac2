//! Finds the call of our program in the command of a hook. The command is a program with arguments, or a shell line.
//!
//! **Invariant:** the whole command is ours only if it does nothing but call our program. If the user has added
//! something to it, such as a second command, a pipe or a variable, the command is the user's.

use super::generated_file_texts::is_our_program;
use crate::base::shell_wildcards::shell_quoted;
use serde_json::{Value, json};
use std::ops::Range;

/// The argument of the hook that waits for mail in the background.
const WAKE: &str = "--wake";
/// The fields of a hook's entry that may contain a shell line.
const LINE_FIELDS: &[&str] = &["bash", "command", "exec"];

/// A call of our program in a hook's command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramCall {
    /// The path of the program.
    pub program: String,
    /// The agent's id, which follows the word `hook`.
    pub agent: String,
    /// The arguments that follow the agent's id.
    pub arguments: Vec<String>,
    /// Whether the command does nothing but call our program. Otherwise, the command is the user's.
    pub is_whole: bool,
}

impl ProgramCall {
    /// Whether the hook waits for mail in the background.
    pub fn is_wake(&self) -> bool {
        self.arguments.iter().any(|argument| argument == WAKE)
    }

    /// The arguments that the user has added to our call.
    pub fn users_arguments(&self) -> impl Iterator<Item = &str> {
        self.arguments.iter().map(String::as_str).filter(|argument| *argument != WAKE)
    }
}

/// The call of our program in a hook's entry; `None` if the hook does not call our program.
pub fn call_of(hook: &Value) -> Option<ProgramCall> {
    let command = hook["command"].as_str().or(hook["exec"].as_str()).unwrap_or("");
    if is_our_program(command) && hook["args"][0] == json!("hook") {
        let mut words = hook["args"].as_array()?.iter().skip(1).map(|word| word.as_str().unwrap_or("").to_owned());
        let agent = words.next().unwrap_or_default();
        return Some(ProgramCall { program: command.to_owned(), agent, arguments: words.collect(), is_whole: true });
    }
    call_in_line(line_of(hook)?.1)
}

/// The shell line in a hook's entry, and the field that contains it.
pub fn line_of(hook: &Value) -> Option<(&'static str, &str)> {
    LINE_FIELDS.iter().find_map(|field| Some((*field, hook[*field].as_str()?)))
}

/// The last call of our program in a shell line.
pub fn call_in_line(line: &str) -> Option<ProgramCall> {
    let words = shell_words(line);
    let at = place_of_call(&words)?;
    let end = words[at..].iter().position(|word| word.is_operator).map_or(words.len(), |n| at + n);
    let mut rest = words[at + 2..end].iter().map(|word| word.text.clone());
    let (program, agent) = (words[at].text.clone(), rest.next().unwrap_or_default());
    let has_nothing_before = at == 0 || is_test_for(&words[..at], &program);
    // A text in quotes is a single word, even if it contains a command substitution. So the whole line is searched for
    // command substitutions.
    let is_whole = has_nothing_before && end == words.len() && !line.contains("$(") && !line.contains('`');
    Some(ProgramCall { program, agent, arguments: rest.collect(), is_whole })
}

/// The shell line with `program` as the path of our program. The line may also test whether the program exists, and so
/// contain the old path twice. So every word that is the old path is replaced. The rest of the line stays as it was.
pub fn with_program(line: &str, program: &str) -> String {
    let words = shell_words(line);
    let Some(at) = place_of_call(&words) else { return line.to_owned() };
    let old = &words[at].text;
    let is_path = old.contains('/');
    let mut new = line.to_owned();
    for (n, word) in words.iter().enumerate().rev() {
        if n == at || is_path && word.text == *old {
            new.replace_range(word.range.clone(), &shell_quoted(program));
        }
    }
    new
}

/// The position of the last call of our program.
fn place_of_call(words: &[CommandWord]) -> Option<usize> {
    words.windows(2).rposition(|pair| {
        let is_hook = pair[1].text == "hook" && !pair[1].is_operator;
        is_hook && !pair[0].is_operator && is_our_program(&pair[0].text)
    })
}

/// Whether these words are the test that `setup` puts at the beginning of the shell line for some agents. The test
/// prevents an error if our program has been removed.
fn is_test_for(words: &[CommandWord], program: &str) -> bool {
    words.iter().map(|word| word.text.as_str()).eq(["test", "!", "-x", program, "||"])
}

/// A word or an operator of a shell line.
struct CommandWord {
    text: String,
    range: Range<usize>,
    is_operator: bool,
}

/// Splits a shell line into words and operators, and drops comments. Does not expand variables.
fn shell_words(line: &str) -> Vec<CommandWord> {
    let is_operator = |c: char| ";&|<>()`\n".contains(c);
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(c) = line[at..].chars().next() {
        let rest = &line[at..];
        let length = match c {
            '#' => rest.find('\n').unwrap_or(rest.len()),
            c if is_operator(c) => {
                let length = rest.find(|next| next != c).unwrap_or(rest.len());
                found.push(CommandWord { text: rest[..length].to_owned(), range: at..at + length, is_operator: true });
                length
            }
            c if c.is_whitespace() => c.len_utf8(),
            _ => {
                let (text, length) = first_word(rest, |c| c.is_whitespace() || is_operator(c));
                found.push(CommandWord { text, range: at..at + length, is_operator: false });
                length
            }
        };
        at += length;
    }
    found
}

/// The word at the beginning of a text, without quotes and escapes, and its length in the text. Outside quotes, the
/// word ends at the first character for which `ends` returns true.
fn first_word(text: &str, ends: impl Fn(char) -> bool) -> (String, usize) {
    let (mut word, mut quote) = (String::new(), None);
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(mark), c) if c == mark => quote = None,
            (None | Some('"'), '\\') => word.extend(chars.next().map(|(_, c)| c)),
            (None, c) if ends(c) => return (word, at),
            (_, c) => word.push(c),
        }
    }
    (word, text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_ours_only_if_it_does_nothing_else() {
        for line in [
            "/x/slm-mesh hook codex",
            "'/x y/slm-mesh' hook codex",
            "\"$HOME/bin/slm-mesh\" hook codex",
            "slm-mesh hook codex --agent me",
            "test ! -x '/x y/slm-mesh' || '/x y/slm-mesh' hook codex",
            "/x/slm-mesh hook codex # mine",
        ] {
            let call = call_in_line(line).unwrap_or_else(|| panic!("{line}"));
            assert!(call.is_whole && call.agent == "codex", "{line}: {call:?}");
        }
        for line in [
            "notify-send done; slm-mesh hook codex",
            "/x/slm-mesh hook codex; notify-send done",
            "A=b nice slm-mesh hook codex",
            "slm-mesh hook codex|tee -a log",
            "slm-mesh hook codex 2>/dev/null",
            "mine && /x/slm-mesh hook codex",
            "mine\n/x/slm-mesh hook codex",
            "(slm-mesh hook codex)",
            "test ! -x /y/slm-mesh || /x/slm-mesh hook codex",
            "slm-mesh hook codex \"$(mine)\"",
        ] {
            let call = call_in_line(line).unwrap_or_else(|| panic!("{line}"));
            assert!(!call.is_whole && call.agent == "codex", "{line}: {call:?}");
        }
        for line in ["", "true # slm-mesh hook codex", "slm-mesh; hook codex", "my-slm-mesh hook codex"] {
            assert_eq!(call_in_line(line), None, "{line}");
        }
    }

    #[test]
    fn a_new_path_changes_nothing_else_in_a_line() {
        for (old, new) in [
            ("a 'b';  '/x/slm-mesh' hook codex|c", "a 'b';  '/n w/slm-mesh' hook codex|c"),
            ("[ -x /x/slm-mesh ] && /x/slm-mesh hook codex", "[ -x '/n w/slm-mesh' ] && '/n w/slm-mesh' hook codex"),
            ("echo slm-mesh; slm-mesh hook codex", "echo slm-mesh; '/n w/slm-mesh' hook codex"),
        ] {
            assert_eq!(with_program(old, "/n w/slm-mesh"), new);
        }
    }
}
