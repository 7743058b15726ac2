//! Simulates lists, pipelines, branches and loops.

use super::builtins::set_read;
use super::evaluator::{Ending, Evaluator, RunResult, StreamText, joined};
use super::shell_state::{InputTaken, State, Value};
use super::syntax_tree::{Command, Joint, Word};

impl Evaluator<'_> {
    pub(super) fn run_and_or(
        &mut self,
        first: &Command,
        others: &[(Joint, Command)],
        state: &mut State,
        input: &StreamText,
    ) -> RunResult {
        let before = self.copy(state);
        let RunResult { mut output, ending } = self.run(first, state, input);
        if ending.is_some() {
            return RunResult { output, ending };
        }
        let mut status = self.status(first, state);
        for (joint, command) in others {
            // A skipped command does not change the status. For example, `false && a || b` skips `a`, but runs `b`,
            // because `false` has failed.
            if status == Some(*joint == Joint::Or) {
                continue;
            }
            let ending = match joint {
                Joint::And => {
                    let other = self.run(command, state, input);
                    output = joined(output, other.output);
                    other.ending
                }
                Joint::Or => {
                    // A failed command is assumed to have changed nothing, so the command after `||` starts with the
                    // state before the list. After `cd a || exit`, the script continues only if `cd` succeeded, so the
                    // state after `cd` is kept.
                    let mut failed = self.copy(&before);
                    let other = self.run(command, &mut failed, input);
                    if status.is_some() {
                        *state = failed;
                    } else if other.ending.is_none() {
                        state.merge(&failed);
                    }
                    output = if output == other.output { output } else { StreamText::Unknown };
                    other.ending
                }
            };
            if status.is_some() && ending.is_some() {
                return RunResult { output, ending };
            }
            let second = self.status(command, state);
            status = joint.status(status, second);
        }
        RunResult::printed(output)
    }

    pub(super) fn run_pipeline(&mut self, stages: &[Command], state: &mut State, input: &StreamText) -> RunResult {
        let outer = self.output_is_read;
        let mut between = input.clone();
        for (n, stage) in stages.iter().enumerate() {
            let mut inner = self.copy(state);
            let is_last = n + 1 == stages.len();
            self.output_is_read = if is_last { outer } else { stages[n + 1..].iter().any(reads_names) };
            if n > 0 {
                inner.taken = InputTaken::default();
            }
            between = self.run(stage, &mut inner, &between).output;
            if n == 0 {
                state.taken = inner.taken;
            }
        }
        self.output_is_read = outer;
        RunResult::printed(between)
    }

    pub(super) fn run_sequence(&mut self, commands: &[Command], state: &mut State, input: &StreamText) -> RunResult {
        let mut output = StreamText::empty();
        for command in commands {
            let outcome = self.run(command, state, input);
            output = joined(output, outcome.output);
            let ending = outcome.ending.or_else(|| self.error_ending(command, state));
            if ending.is_some() {
                return RunResult { output, ending };
            }
        }
        RunResult::printed(output)
    }

    /// Returns [`Ending::Shell`] if `set -e` is in effect and the command certainly fails.
    pub(super) fn error_ending(&mut self, command: &Command, state: &State) -> Option<Ending> {
        let counts = matches!(command, Command::Simple(_) | Command::Condition(_)) && state.options.exits_on_error;
        (counts && self.status(command, state) == Some(false)).then_some(Ending::Shell)
    }

    pub(super) fn run_if(
        &mut self,
        branches: &[(Command, Command)],
        otherwise: Option<&Command>,
        state: &mut State,
        input: &StreamText,
    ) -> RunResult {
        // `ends` contains the states after all branches whose conditions are uncertain. `last` is the branch that runs
        // if all these conditions are false.
        let mut ends: Vec<State> = Vec::new();
        let mut last = otherwise;
        let mut is_certain = true;
        for (condition, body) in branches {
            self.run(condition, state, input);
            match self.status(condition, state) {
                Some(false) => {}
                Some(true) => {
                    last = Some(body);
                    break;
                }
                None => {
                    is_certain = false;
                    let mut inner = self.copy(state);
                    if self.run(body, &mut inner, input).ending.is_none() {
                        ends.push(inner);
                    }
                }
            }
        }
        let outcome = last.map(|body| self.run(body, state, input));
        if is_certain {
            return outcome.unwrap_or_else(|| RunResult::printed(StreamText::empty()));
        }
        if let Some(ending) = outcome.and_then(|outcome| outcome.ending) {
            let Some(first) = ends.pop() else {
                return RunResult { output: StreamText::Unknown, ending: Some(ending) };
            };
            *state = first;
        }
        ends.iter().for_each(|end| state.merge(end));
        RunResult::printed(StreamText::Unknown)
    }

    pub(super) fn run_while(
        &mut self,
        condition: &Command,
        body: &Command,
        state: &mut State,
        input: &StreamText,
    ) -> RunResult {
        let mut inner = self.copy(state);
        self.spend(input.text().map_or(0, |text| text.len() / 64));
        let rest = input.after(state.taken);
        if let (Some((names, separator)), StreamText::Text(text)) = (self.read_names(condition), rest) {
            inner.taken = InputTaken::Unknown;
            for line in text.split(separator).filter(|line| !line.is_empty()) {
                if !self.spend(1) {
                    break;
                }
                set_read(&mut inner, &names, Some(line));
                if self.run(body, &mut inner, &StreamText::Unknown).ending.is_some_and(leaves_loop) {
                    break;
                }
            }
        } else {
            self.run(condition, &mut inner, &StreamText::Unknown);
            if self.status(condition, &inner) == Some(false) {
                *state = inner;
                return RunResult::printed(StreamText::empty());
            }
            self.run(body, &mut inner, &StreamText::Unknown);
        }
        state.merge(&inner);
        RunResult::printed(StreamText::Unknown)
    }

    /// The names of the variables that a loop condition such as `read line` sets, and the character that separates the
    /// lines. `None` for other conditions.
    fn read_names(&mut self, condition: &Command) -> Option<(Vec<String>, char)> {
        let simple = match condition {
            Command::Simple(simple) => simple,
            Command::Sequence(commands) => match commands.as_slice() {
                [Command::Simple(simple)] => simple,
                // `read line || [ -n "$line" ]` accepts a last line without a line end.
                [Command::AndOr(first, _)] => return self.read_names(first),
                _ => return None,
            },
            Command::AndOr(first, _) => return self.read_names(first),
            _ => return None,
        };
        let words: Vec<String> = simple.words.iter().map(Word::as_literal).collect::<Option<_>>()?;
        let (_, rest) = words.split_first().filter(|(first, _)| *first == "read")?;
        let is_by_null = rest.iter().any(|word| word == "-d" || word == "-rd");
        let names = rest.iter().filter(|word| !word.starts_with('-') && !word.is_empty());
        Some((names.cloned().collect(), if is_by_null { '\0' } else { '\n' }))
    }

    pub(super) fn run_for(
        &mut self,
        name: &str,
        words: Option<&[Word]>,
        body: &Command,
        state: &mut State,
        input: &StreamText,
    ) -> RunResult {
        let fields = match words {
            Some(words) => self.fields(state, words),
            None => state.arguments.as_ref().clone(),
        };
        for field in fields {
            if !self.spend(1) {
                break;
            }
            let value = field.text().map_or(Value::Unknown, |text| Value::Text(text.to_owned()));
            state.set(name, value);
            match self.run(body, state, input).ending {
                Some(Ending::Loop) => break,
                Some(ending @ (Ending::Function | Ending::Shell)) if field.text().is_some() => {
                    return RunResult { output: StreamText::Unknown, ending: Some(ending) };
                }
                _ => {}
            }
        }
        RunResult::printed(StreamText::Unknown)
    }

    pub(super) fn run_case(
        &mut self,
        subject: &Word,
        arms: &[(Vec<Word>, Command)],
        state: &mut State,
        input: &StreamText,
    ) -> RunResult {
        let subject = self.text_of(state, subject);
        let before = self.copy(state);
        let mut is_certain = true;
        for (patterns, body) in arms {
            let mut inner = self.copy(&before);
            let fits: Vec<Option<bool>> = match &subject {
                Some(text) => patterns.iter().map(|pattern| self.word_fits(&mut inner, pattern, text)).collect(),
                None => vec![None],
            };
            if fits.iter().all(|fits| *fits == Some(false)) {
                continue;
            }
            let fits_certainly = fits.contains(&Some(true));
            let ending = self.run(body, &mut inner, input).ending;
            if fits_certainly && is_certain {
                *state = inner;
                return RunResult { output: StreamText::Unknown, ending };
            }
            is_certain = false;
            if ending.is_none() {
                state.merge(&inner);
            }
            if fits_certainly {
                break;
            }
        }
        RunResult::printed(StreamText::Unknown)
    }
}

fn leaves_loop(ending: Ending) -> bool {
    ending != Ending::Round
}

/// Whether a command in a pipeline may read file names from standard input.
fn reads_names(stage: &Command) -> bool {
    match stage {
        Command::Simple(simple) => {
            matches!(simple.words.first().and_then(Word::as_literal).as_deref(), Some("xargs" | "gxargs"))
        }
        _ => true,
    }
}
