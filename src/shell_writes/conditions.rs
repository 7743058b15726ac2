//! Evaluates conditions whose result is certain, such as `[ -f file ]`, so that a branch that can't run is left out.

use super::ShellWrite;
use super::evaluator::Evaluator;
use super::shell_state::State;
use super::syntax_tree::{Command, Word};
use crate::base::wildcards::has_wildcards;
use std::path::Path;

impl Evaluator<'_> {
    /// Whether a command succeeds; `None` if that is unknown.
    pub(super) fn status(&mut self, command: &Command, state: &State) -> Option<bool> {
        if !self.spend(1) {
            return None;
        }
        match command {
            Command::Simple(simple) => {
                let (name, words) = simple.words.split_first()?;
                match name.as_literal()?.as_str() {
                    ":" | "true" if words.is_empty() => Some(true),
                    "false" if words.is_empty() => Some(false),
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

    /// The result of `test` with these arguments. A word that would be split is not understood.
    fn test_words(&mut self, words: &[Word], state: &State) -> Option<bool> {
        let mut inner = self.copy(state);
        let texts: Option<Vec<String>> = words.iter().map(|word| self.text_of(&mut inner, word)).collect();
        let texts = texts?;
        let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let n_negations = texts.iter().take_while(|text| **text == "!").count();
        texts.drain(..n_negations);
        let result = match texts.as_slice() {
            [test, operand] => self.unary_test(test, operand, state),
            // In `[[ … ]]`, the right side is a pattern.
            [left, "=" | "==", right] if !has_wildcards(right) => Some(left == right),
            [left, "!=", right] if !has_wildcards(right) => Some(left != right),
            _ => None,
        };
        result.map(|result| result == (n_negations % 2 == 0))
    }

    fn unary_test(&mut self, test: &str, operand: &str, state: &State) -> Option<bool> {
        match test {
            "-n" => return Some(!operand.is_empty()),
            "-z" => return Some(operand.is_empty()),
            _ => {}
        }
        let path = self.resolve(state, operand).filter(|path| !self.is_touched(path))?;
        let found = if self.exists(&path) { self.is_folder(&path) } else { None };
        match (test, found) {
            _ if self.files.is_link(&path) => None,
            ("-e" | "-f" | "-d" | "-s" | "-r" | "-w" | "-x", None) => (!self.has_run_program).then_some(false),
            ("-e", Some(_)) => Some(true),
            ("-f", Some(is_folder)) => Some(!is_folder),
            ("-d", Some(is_folder)) => Some(is_folder),
            _ => None,
        }
    }

    /// Whether the script itself may have created, changed or removed a path before.
    fn is_touched(&self, path: &str) -> bool {
        let path = Path::new(path);
        let is_made = self.made_folders.iter().any(|made| Path::new(made).starts_with(path));
        is_made
            || self.writes.iter().any(|write| match write {
                ShellWrite::File(written) => written.starts_with(path),
                ShellWrite::Folder(folder) => path.starts_with(folder) || folder.starts_with(path),
                ShellWrite::Maybe(maybe) => path.starts_with(&maybe.folder),
            })
    }
}
