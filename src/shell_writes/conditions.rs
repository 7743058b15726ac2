//! Evaluates conditions such as `[ -f file ]`. If the result of a condition is certain, the branch that does not run is
//! ignored.

use super::ShellWrite;
use super::evaluator::Evaluator;
use super::shell_state::State;
use super::syntax_tree::{Command, Joint, Word};
use crate::base::path_overlap;
use crate::base::shell_wildcards::has_wildcards;
use std::path::Path;

impl Evaluator<'_> {
    /// Whether a command succeeds. `None` means that this is unknown.
    pub(super) fn status(&mut self, command: &Command, state: &State) -> Option<bool> {
        if !self.spend(1) {
            return None;
        }
        match command {
            Command::Simple(simple) => {
                let (name, words) = simple.words.split_first()?;
                match name.as_literal()?.as_str() {
                    ":" | "true" | "echo" | "printf" => Some(true),
                    "false" => Some(false),
                    "cd" => state.has_cd_failed.then_some(false),
                    "test" => self.test_words(words, state),
                    "[" => {
                        let (end, words) = words.split_last()?;
                        (end.as_literal()? == "]").then(|| self.test_words(words, state))?
                    }
                    _ => None,
                }
            }
            Command::Condition(words) => self.test_words(words, state),
            Command::Not(inner) => self.status(inner, state).map(|succeeds| !succeeds),
            Command::Sequence(commands) => commands.last().and_then(|last| self.status(last, state)),
            Command::AndOr(first, others) => {
                let first = self.status(first, state);
                others.iter().fold(first, |status, (joint, command)| joint.status(status, self.status(command, state)))
            }
            _ => None,
        }
    }

    /// The result of `test` with these arguments. `None` if the result is unknown, for example because a word may
    /// expand to several words.
    fn test_words(&mut self, words: &[Word], state: &State) -> Option<bool> {
        let mut inner = self.copy(state);
        let texts: Option<Vec<String>> = words.iter().map(|word| self.text_of(&mut inner, word)).collect();
        let texts = texts?;
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut result = Some(false);
        for choice in texts.split(|text| matches!(*text, "||" | "-o")) {
            let mut all = Some(true);
            for part in choice.split(|text| matches!(*text, "&&" | "-a")) {
                all = Joint::And.status(all, self.simple_test(part, state));
            }
            result = Joint::Or.status(result, all);
        }
        result
    }

    fn simple_test(&mut self, texts: &[&str], state: &State) -> Option<bool> {
        match texts {
            ["!", rest @ ..] => self.simple_test(rest, state).map(|passes| !passes),
            [test, operand] => self.unary_test(test, operand, state),
            // In `[[ … ]]`, the right side is a pattern. It is compared only if it contains no wildcards.
            [left, "=" | "==", right] if !has_wildcards(right) => Some(left == right),
            [left, "!=", right] if !has_wildcards(right) => Some(left != right),
            _ => None,
        }
    }

    fn unary_test(&mut self, test: &str, operand: &str, state: &State) -> Option<bool> {
        match test {
            "-n" => return Some(!operand.is_empty()),
            "-z" => return Some(operand.is_empty()),
            _ => {}
        }
        let path = self.resolve(state, operand).filter(|path| !self.is_touched(path))?;
        let found = if self.exists(&path) { self.is_folder(&path) } else { None };
        let is_link = self.files.is_link(&path);
        match (test, found) {
            ("-h" | "-L", _) => (is_link || !self.has_run_program).then_some(is_link),
            _ if is_link => None,
            ("-e" | "-f" | "-d" | "-s" | "-r" | "-w" | "-x", None) => (!self.has_run_program).then_some(false),
            ("-e", Some(_)) => Some(true),
            ("-f", Some(is_folder)) => Some(!is_folder),
            ("-d", Some(is_folder)) => Some(is_folder),
            ("-s", Some(false)) => Some(self.files.has_content(&path)),
            _ => None,
        }
    }

    /// Whether this path certainly does not exist at this point of the script.
    pub(super) fn is_missing(&mut self, path: &str) -> bool {
        let is_made = self.has_run_program || self.is_touched(path);
        let is_inside = |made: &String| Path::new(path).starts_with(made);
        !is_made && !self.made_folders.iter().any(is_inside) && !self.exists(path)
    }

    /// Whether the script may already have created, changed or removed this path.
    fn is_touched(&self, path: &str) -> bool {
        let path = Path::new(path);
        let is_made = self.made_folders.iter().any(|made| Path::new(made).starts_with(path));
        is_made
            || self.writes.iter().any(|write| match write {
                ShellWrite::File(written) | ShellWrite::Link(written) => written.starts_with(path),
                ShellWrite::Folder(folder) => path.starts_with(folder) || folder.starts_with(path),
                ShellWrite::Matches(glob) => {
                    let inside = format!("{}/", path.to_string_lossy().trim_end_matches('/'));
                    path_overlap::overlap(&glob.to_string_lossy(), &inside)
                }
                ShellWrite::Maybe(maybe) => path.starts_with(&maybe.folder),
            })
    }
}
