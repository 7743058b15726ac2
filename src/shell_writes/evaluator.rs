//! Walks through the commands of a script, and notes which files they write.

use super::builtins::{fixed_status, set_read};
use super::parser::Parser;
use super::shell_state::{Field, State, Value};
use super::syntax_tree::{AssignedValue, Assignment, Command, Joint, Redirect, Simple, Word};
use super::{Entry, FileTree, ShellWrite, commands};
use crate::base::paths;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;

/// How many steps every command line may take. A longer command line may take more.
const STEPS_MIN: usize = 16_000;
/// Maximum nesting depth of scripts, functions and commands.
const DEPTH_MAX: usize = 30;
/// Maximum number of folders that may be listed for one command line.
const LISTINGS_MAX: usize = 2000;

/// The input or output of a command.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum StreamText {
    /// The text is unknown.
    Unknown,
    /// The whole text.
    Text(String),
    /// The content of this file.
    File(String),
}

impl StreamText {
    /// The output of a command that prints nothing.
    pub(super) fn empty() -> StreamText {
        StreamText::Text(String::new())
    }

    /// The text, if it is known.
    pub(super) fn text(&self) -> Option<&str> {
        if let StreamText::Text(text) = self { Some(text) } else { None }
    }
}

/// The result of a command.
pub(super) struct RunResult {
    /// This is the whole text.
    pub output: StreamText,
    /// The text is the content of this file.
    pub ends: bool,
}

impl RunResult {
    /// The result of a command after which the script continues.
    pub(super) fn printed(output: StreamText) -> RunResult {
        RunResult { output, ends: false }
    }
}

/// The walk through one command line.
pub(super) struct Evaluator<'a> {
    pub(super) files: &'a dyn FileTree,
    environment: &'a dyn Fn(&str) -> Option<String>,
    directory: String,
    pub(super) writes: HashSet<ShellWrite>,
    /// Folders that the script itself creates.
    pub(super) made_folders: BTreeSet<String>,
    script_length: usize,
    steps: usize,
    pub(super) listings: usize,
    depth: usize,
    /// A cache of what is at each path, because most commands name a file more than once.
    pub(super) found: RefCell<HashMap<String, Option<bool>>>,
    /// A cache of what is in each folder.
    pub(super) listed: HashMap<String, Option<Rc<Vec<Entry>>>>,
    /// Whether anything reads the output of the current command.
    pub(super) output_is_read: bool,
    /// Whether a command of git has changed its index, its commits or the work tree.
    pub(super) git_has_changed: bool,
}

impl<'a> Evaluator<'a> {
    /// Creates the evaluator before the first command.
    pub(super) fn new(
        script_length: usize,
        directory: &str,
        environment: &'a dyn Fn(&str) -> Option<String>,
        files: &'a dyn FileTree,
    ) -> Evaluator<'a> {
        Evaluator {
            files,
            environment,
            directory: paths::normal(directory),
            writes: HashSet::new(),
            made_folders: BTreeSet::new(),
            script_length,
            steps: STEPS_MIN + script_length / 16,
            listings: LISTINGS_MAX,
            depth: 0,
            found: RefCell::default(),
            listed: HashMap::new(),
            output_is_read: false,
            git_has_changed: false,
        }
    }

    /// Runs the whole script, and returns what it writes.
    pub(super) fn written_files(mut self, script: &str) -> Vec<ShellWrite> {
        let directory = Some(self.directory.clone()).filter(|directory| directory.starts_with('/'));
        let mut state = State::default();
        state.directory = directory;
        self.run_script(script, &mut state, &StreamText::Unknown);
        let mut writes: Vec<ShellWrite> = self.writes.into_iter().collect();
        // Comparing bytes is ten times as fast as comparing the components of paths.
        writes.sort_unstable_by(|a, b| a.path().as_os_str().cmp(b.path().as_os_str()).then_with(|| a.cmp(b)));
        writes
    }

    /// Takes steps from the budget. If too few are left, returns false, and nothing else runs.
    pub(super) fn spend(&mut self, steps: usize) -> bool {
        let has_enough = self.steps >= steps;
        self.steps = self.steps.saturating_sub(steps);
        has_enough
    }

    pub(super) fn script_length(&self) -> usize {
        self.script_length
    }

    pub(super) fn environment(&self, name: &str) -> Option<String> {
        (self.environment)(name)
    }

    /// A copy of the state, for a subshell.
    pub(super) fn copy(&mut self, state: &State) -> State {
        self.spend(1 + state.size() / 4);
        state.clone()
    }

    /// Runs a script line by line, up to a syntax error.
    pub(super) fn run_script(&mut self, script: &str, state: &mut State, input: &StreamText) -> RunResult {
        let mut output = StreamText::empty();
        if self.depth >= DEPTH_MAX || !self.spend(script.len() / 16) {
            return RunResult::printed(StreamText::Unknown);
        }
        self.depth += 1;
        let mut parser = Parser::new(script);
        while let Ok(Some(line)) = parser.next_line() {
            let outcome = self.run(&line, state, input);
            output = joined(output, outcome.output);
            if outcome.ends {
                break;
            }
        }
        self.depth -= 1;
        RunResult::printed(output)
    }

    /// Runs one command.
    pub(super) fn run(&mut self, command: &Command, state: &mut State, input: &StreamText) -> RunResult {
        if self.depth >= DEPTH_MAX + super::parser::DEPTH_MAX || !self.spend(1) {
            return RunResult::printed(StreamText::Unknown);
        }
        self.depth += 1;
        let outcome = self.run_any(command, state, input);
        self.depth -= 1;
        outcome
    }

    fn run_any(&mut self, command: &Command, state: &mut State, input: &StreamText) -> RunResult {
        match command {
            Command::Simple(simple) => self.run_simple(simple, state, input),
            Command::Sequence(commands) => self.run_sequence(commands, state, input),
            Command::AndOr(first, others) => self.run_and_or(first, others, state, input),
            Command::Pipeline(stages) => self.run_pipeline(stages, state, input),
            Command::Subshell(body) => {
                let mut inner = self.copy(state);
                RunResult::printed(self.run(body, &mut inner, input).output)
            }
            Command::If(branches, otherwise) => self.run_if(branches, otherwise.as_deref(), state, input),
            Command::While(condition, body) => self.run_while(condition, body, state, input),
            Command::For { name, words, body } => self.run_for(name, words.as_deref(), body, state, input),
            Command::Case(subject, arms) => self.run_case(subject, arms, state, input),
            Command::Function(name, body) => {
                state.define(name, body.clone());
                RunResult::printed(StreamText::empty())
            }
            Command::Redirected(body, redirects) => {
                let input = self.redirected(redirects, state, input);
                self.run(body, state, &input)
            }
        }
    }

    fn run_and_or(
        &mut self,
        first: &Command,
        others: &[(Joint, Command)],
        state: &mut State,
        input: &StreamText,
    ) -> RunResult {
        let before = self.copy(state);
        let RunResult { mut output, ends } = self.run(first, state, input);
        if ends {
            return RunResult { output, ends };
        }
        let mut status = fixed_status(first);
        for (joint, command) in others {
            // In `false && a || b`, the failure of `false` decides about `b` as well.
            if status == Some(*joint == Joint::Or) {
                continue;
            }
            status = fixed_status(command);
            match joint {
                Joint::And => output = joined(output, self.run(command, state, input).output),
                Joint::Or => {
                    // A first command that fails is taken to have changed nothing. For example, after `cd a || exit`
                    // the script continues only if `cd` succeeded.
                    let mut failed = self.copy(&before);
                    let other = self.run(command, &mut failed, input);
                    if !other.ends {
                        state.merge(&failed);
                    }
                    output = if output == other.output { output } else { StreamText::Unknown };
                }
            }
        }
        RunResult::printed(output)
    }

    fn run_pipeline(&mut self, stages: &[Command], state: &mut State, input: &StreamText) -> RunResult {
        let outer = self.output_is_read;
        let mut between = input.clone();
        for (n, stage) in stages.iter().enumerate() {
            let mut inner = self.copy(state);
            let is_last = n + 1 == stages.len();
            self.output_is_read = if is_last { outer } else { stages[n + 1..].iter().any(reads_names) };
            between = self.run(stage, &mut inner, &between).output;
        }
        self.output_is_read = outer;
        RunResult::printed(between)
    }

    fn run_sequence(&mut self, commands: &[Command], state: &mut State, input: &StreamText) -> RunResult {
        let mut output = StreamText::empty();
        for command in commands {
            let outcome = self.run(command, state, input);
            output = joined(output, outcome.output);
            if outcome.ends {
                return RunResult { output, ends: true };
            }
        }
        RunResult::printed(output)
    }

    fn run_if(
        &mut self,
        branches: &[(Command, Command)],
        otherwise: Option<&Command>,
        state: &mut State,
        input: &StreamText,
    ) -> RunResult {
        let mut ends: Vec<State> = Vec::new();
        for (condition, body) in branches {
            self.run(condition, state, input);
            if fixed_status(condition) == Some(false) {
                continue;
            }
            let mut inner = self.copy(state);
            if !self.run(body, &mut inner, input).ends {
                ends.push(inner);
            }
        }
        let is_over = otherwise.is_some_and(|body| self.run(body, state, input).ends);
        if is_over {
            let Some(first) = ends.pop() else { return RunResult { output: StreamText::Unknown, ends: true } };
            *state = first;
        }
        ends.iter().for_each(|end| state.merge(end));
        RunResult::printed(StreamText::Unknown)
    }

    fn run_while(&mut self, condition: &Command, body: &Command, state: &mut State, input: &StreamText) -> RunResult {
        let mut inner = self.copy(state);
        if let (Some((names, separator)), StreamText::Text(text)) = (self.read_names(condition), input) {
            for line in text.split(separator).filter(|line| !line.is_empty()) {
                if !self.spend(1) {
                    break;
                }
                set_read(&mut inner, &names, Some(line));
                self.run(body, &mut inner, &StreamText::Unknown);
            }
        } else {
            self.run(condition, &mut inner, &StreamText::Unknown);
            self.run(body, &mut inner, &StreamText::Unknown);
        }
        state.merge(&inner);
        RunResult::printed(StreamText::Unknown)
    }

    /// If a condition consists only of `read`, the variables that it sets, and the character that separates the lines.
    fn read_names(&mut self, condition: &Command) -> Option<(Vec<String>, char)> {
        let simple = match condition {
            Command::Simple(simple) => simple,
            Command::Sequence(commands) => match commands.as_slice() {
                [Command::Simple(simple)] => simple,
                // `read line || [ -n "$line" ]` also accepts a last line that has no line end.
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

    fn run_for(
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
            self.run(body, state, input);
        }
        RunResult::printed(StreamText::Unknown)
    }

    fn run_case(
        &mut self,
        subject: &Word,
        arms: &[(Vec<Word>, Command)],
        state: &mut State,
        input: &StreamText,
    ) -> RunResult {
        let subject = self.text_of(state, subject);
        let before = self.copy(state);
        for (patterns, body) in arms {
            let mut inner = self.copy(&before);
            let fits: Vec<Option<bool>> = match &subject {
                Some(text) => patterns.iter().map(|pattern| self.word_fits(&mut inner, pattern, text)).collect(),
                None => vec![None],
            };
            if fits.iter().all(|fits| *fits == Some(false)) {
                continue;
            }
            let is_certain = fits.contains(&Some(true));
            let is_over = self.run(body, &mut inner, input).ends;
            if is_certain {
                *state = inner;
                return RunResult { output: StreamText::Unknown, ends: is_over };
            }
            if !is_over {
                state.merge(&inner);
            }
        }
        RunResult::printed(StreamText::Unknown)
    }

    fn run_simple(&mut self, simple: &Simple, state: &mut State, input: &StreamText) -> RunResult {
        let name = simple.words.first().and_then(Word::as_literal);
        if matches!(name.as_deref(), Some("export" | "declare" | "local" | "readonly" | "typeset")) {
            self.declare(state, &simple.words);
            self.redirected(&simple.redirects, state, input);
            return RunResult::printed(StreamText::empty());
        }
        let fields = self.fields(state, &simple.words);
        let input = self.redirected(&simple.redirects, state, input);
        if fields.is_empty() {
            simple.assignments.iter().for_each(|assignment| self.assign(state, assignment));
            return RunResult::printed(StreamText::empty());
        }
        if simple.assignments.is_empty() {
            return self.call(state, &fields, &input);
        }
        // The assignments apply only to this command and to its children.
        let mut inner = self.copy(state);
        for assignment in &simple.assignments {
            self.assign(&mut inner, assignment);
            inner.export(&assignment.name);
        }
        let outcome = self.call(&mut inner, &fields, &input);
        state.directory = inner.directory;
        state.previous_directory = inner.previous_directory;
        outcome
    }

    /// Runs a function, a builtin or a program, with its arguments.
    pub(super) fn call(&mut self, state: &mut State, fields: &[Field], input: &StreamText) -> RunResult {
        let Some((Field::Known(name), arguments)) = fields.split_first() else {
            return RunResult::printed(StreamText::Unknown);
        };
        if self.depth >= DEPTH_MAX + super::parser::DEPTH_MAX || !self.spend(1 + arguments.len() / 4) {
            return RunResult::printed(StreamText::Unknown);
        }
        if let Some(body) = state.function(name) {
            let outer = std::mem::replace(&mut state.arguments, arguments.to_vec().into());
            let output = self.run(&body, state, input).output;
            state.arguments = outer;
            return RunResult::printed(output);
        }
        if let Some(outcome) = self.builtin(name, arguments, state, input) {
            return outcome;
        }
        self.depth += 1;
        let output = commands::run_command(self, state, name, arguments, input);
        self.depth -= 1;
        RunResult::printed(output)
    }

    pub(super) fn assign(&mut self, state: &mut State, assignment: &Assignment) {
        let value = match &assignment.value {
            AssignedValue::Text(word) => {
                let text = self.text_of(state, word);
                match (text, assignment.appends.then(|| self.variable_text(state, &assignment.name))) {
                    (Some(text), None) => Value::Text(text),
                    (Some(text), Some(Some(old))) => Value::Text(old + &text),
                    _ => Value::Unknown,
                }
            }
            AssignedValue::List(words) => {
                let mut fields = match state.variable(&assignment.name) {
                    Some(Value::List(old)) if assignment.appends => old.clone(),
                    _ => Vec::new(),
                };
                fields.extend(self.fields(state, words));
                self.spend(fields.len());
                Value::List(fields)
            }
        };
        state.set(&assignment.name, value);
    }

    /// Records the files that the redirections write, and returns the standard input of the command.
    fn redirected(&mut self, redirects: &[Redirect], state: &mut State, input: &StreamText) -> StreamText {
        self.spend(input.text().map_or(0, |text| text.len() / 64));
        let mut input = input.clone();
        for redirect in redirects {
            match redirect {
                Redirect::Write(word) => {
                    // Nobody uses a wildcard in the target of a redirection on purpose.
                    if let Some(path) = self.text_of(state, word) {
                        self.write(state, &path);
                    }
                }
                Redirect::Read(word) => input = self.read_from(state, word),
                Redirect::HereString(word) => {
                    input = self.text_of(state, word).map_or(StreamText::Unknown, |text| StreamText::Text(text + "\n"));
                }
                Redirect::HereDocument(body) => {
                    let text = body.get().and_then(|word| self.text_of(state, word));
                    input = text.map_or(StreamText::Unknown, StreamText::Text);
                }
                Redirect::Descriptor => {}
            }
        }
        input
    }
}

/// Whether a stage of a pipeline reads file names from its standard input.
fn reads_names(stage: &Command) -> bool {
    match stage {
        Command::Simple(simple) => {
            matches!(simple.words.first().and_then(Word::as_literal).as_deref(), Some("xargs" | "gxargs"))
        }
        _ => true,
    }
}

fn joined(first: StreamText, second: StreamText) -> StreamText {
    match (first, second) {
        (StreamText::Text(first), second) if first.is_empty() => second,
        (StreamText::Text(first), StreamText::Text(second)) => StreamText::Text(first + &second),
        _ => StreamText::Unknown,
    }
}
