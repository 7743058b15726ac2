//! Simulates the commands of a script, and records the files that the commands write.

use super::parser::Parser;
use super::shell_state::{Field, InputTaken, Shell, State, Value};
use super::syntax_tree::{AssignedValue, Assignment, Command, Redirect, Simple, Word};
use super::{Entry, FileTree, ShellWrite, commands};
use crate::base::path_overlap;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;

/// Maximum number of steps for the evaluation of a very short command line. A longer command line may take more steps.
const STEPS_MIN: usize = 16_000;
/// Maximum nesting depth of scripts, functions and commands.
const DEPTH_MAX: usize = 30;
/// Maximum number of folders that may be listed for one command line.
const LISTINGS_MAX: usize = 2000;

/// The text that a command reads from standard input, or the text that it prints.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum StreamText {
    /// The text is unknown.
    Unknown,
    /// The text is known.
    Text(String),
    /// The text is the content of this file.
    File(String),
}

impl StreamText {
    /// The empty text, for a command that prints nothing.
    pub(super) fn empty() -> StreamText {
        StreamText::Text(String::new())
    }

    /// The text, if it is known.
    pub(super) fn text(&self) -> Option<&str> {
        if let StreamText::Text(text) = self { Some(text) } else { None }
    }

    /// The rest of the text, after the part that was already read.
    pub(super) fn after(&self, taken: InputTaken) -> StreamText {
        match (self, taken) {
            (StreamText::Text(text), InputTaken::Bytes(n)) => StreamText::Text(text.get(n..).unwrap_or("").to_owned()),
            (StreamText::Text(_), InputTaken::Unknown) => StreamText::Unknown,
            (other, _) => other.clone(),
        }
    }
}

/// The part of a script that ends at a command such as `break` or `exit`. The remaining commands of this part do not
/// run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The current iteration of a loop (`continue`).
    Round,
    /// A loop (`break`).
    Loop,
    /// A function (`return`).
    Function,
    /// The shell (`exit`).
    Shell,
}

/// The result of a command.
pub(super) struct RunResult {
    /// The text that the command prints.
    pub output: StreamText,
    /// The part of the script that this command ends, if that is certain. Otherwise `None`, and the next command runs.
    pub ending: Option<Ending>,
}

impl RunResult {
    /// The result of a command that prints `output`. The script then continues with the next command.
    pub(super) fn printed(output: StreamText) -> RunResult {
        RunResult { output, ending: None }
    }
}

/// Simulates one command line.
pub(super) struct Evaluator<'a> {
    pub(super) files: &'a dyn FileTree,
    environment: &'a dyn Fn(&str) -> Option<String>,
    directory: String,
    pub(super) writes: HashSet<ShellWrite>,
    /// Folders that the script itself creates.
    pub(super) made_folders: BTreeSet<String>,
    /// The absolute forms of patterns that match too many files to list. In arguments, such a pattern stands for the
    /// files.
    pub(super) long_patterns: HashSet<String>,
    script_length: usize,
    steps: usize,
    pub(super) listings: usize,
    depth: usize,
    /// Caches whether each path is a folder, because commands often contain the same path several times.
    pub(super) found: RefCell<HashMap<String, Option<bool>>>,
    /// Caches the entries of each folder.
    pub(super) listed: HashMap<String, Option<Rc<Vec<Entry>>>>,
    /// Whether another command reads the output of the current command.
    pub(super) output_is_read: bool,
    /// Whether the command line has already run a program. Such a program may have created any file.
    pub(super) has_run_program: bool,
    /// Whether the command line has run a git command that may change the result of a `GitTest`.
    pub(super) git_has_changed: bool,
}

impl<'a> Evaluator<'a> {
    /// Creates an evaluator for one command line.
    pub(super) fn new(
        script_length: usize,
        directory: &str,
        environment: &'a dyn Fn(&str) -> Option<String>,
        files: &'a dyn FileTree,
    ) -> Evaluator<'a> {
        Evaluator {
            files,
            environment,
            directory: path_overlap::normal(directory),
            writes: HashSet::new(),
            made_folders: BTreeSet::new(),
            long_patterns: HashSet::new(),
            script_length,
            steps: STEPS_MIN + script_length / 16,
            listings: LISTINGS_MAX,
            depth: 0,
            found: RefCell::default(),
            listed: HashMap::new(),
            output_is_read: false,
            has_run_program: false,
            git_has_changed: false,
        }
    }

    /// Simulates a whole script, and returns the files that the script writes.
    pub(super) fn written_files(mut self, script: &str) -> Vec<ShellWrite> {
        let directory = Some(self.directory.clone()).filter(|directory| directory.starts_with('/'));
        let mut state = State::default();
        state.directory = directory;
        self.run_script(script, &mut state, &StreamText::Unknown);
        let mut writes: Vec<ShellWrite> = self.writes.into_iter().collect();
        // Paths are compared as bytes. This is ten times as fast as a comparison of their components.
        writes.sort_unstable_by(|a, b| a.path().as_os_str().cmp(b.path().as_os_str()).then_with(|| a.cmp(b)));
        writes
    }

    /// Subtracts `steps` from the number of remaining steps. Returns false if fewer than `steps` remained. In this
    /// case, no more commands are evaluated.
    pub(super) fn spend(&mut self, steps: usize) -> bool {
        let has_enough = self.steps >= steps;
        self.steps = self.steps.saturating_sub(steps);
        has_enough
    }

    /// The number of remaining steps.
    pub(super) fn steps_left(&self) -> usize {
        self.steps
    }

    pub(super) fn script_length(&self) -> usize {
        self.script_length
    }

    pub(super) fn environment(&self, name: &str) -> Option<String> {
        (self.environment)(name)
    }

    /// Copies the state of a shell, for a subshell or a branch.
    pub(super) fn copy(&mut self, state: &State) -> State {
        self.spend(1 + state.size() / 4);
        state.clone()
    }

    /// Simulates a script line by line, up to a syntax error.
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
            if outcome.ending.or_else(|| self.error_ending(&line, state)).is_some() {
                break;
            }
        }
        self.depth -= 1;
        RunResult::printed(output)
    }

    /// Simulates one command.
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
                let output = self.run(body, &mut inner, input).output;
                state.taken = inner.taken;
                RunResult::printed(output)
            }
            Command::If(branches, otherwise) => self.run_if(branches, otherwise.as_deref(), state, input),
            Command::While(condition, body) => self.run_while(condition, body, state, input),
            Command::For { name, words, body } => self.run_for(name, words.as_deref(), body, state, input),
            Command::Case(subject, arms) => self.run_case(subject, arms, state, input),
            Command::Function(name, body) => {
                state.define(name, body.clone());
                RunResult::printed(StreamText::empty())
            }
            Command::Redirected(body, redirects) => match self.redirected(redirects, state, input) {
                Some(input) => {
                    self.with_own_input(redirects, state, |evaluator, state| evaluator.run(body, state, &input))
                }
                None => RunResult::printed(StreamText::empty()),
            },
            Command::Not(inner) => self.run(inner, state, input),
            Command::Condition(_) => RunResult::printed(StreamText::empty()),
        }
    }

    fn run_simple(&mut self, simple: &Simple, state: &mut State, input: &StreamText) -> RunResult {
        let name = simple.words.first().and_then(Word::as_literal);
        if matches!(name.as_deref(), Some("export" | "declare" | "local" | "readonly" | "typeset")) {
            if self.redirected(&simple.redirects, state, input).is_some() {
                self.declare(state, &simple.words);
            }
            return RunResult::printed(StreamText::empty());
        }
        let fields = self.fields(state, &simple.words);
        let Some(input) = self.redirected(&simple.redirects, state, input) else {
            return RunResult::printed(StreamText::empty());
        };
        if fields.is_empty() {
            simple.assignments.iter().for_each(|assignment| self.assign(state, assignment));
            return RunResult::printed(StreamText::empty());
        }
        self.with_own_input(&simple.redirects, state, |evaluator, state| {
            if simple.assignments.is_empty() {
                return evaluator.call(state, &fields, &input);
            }
            // In `name=value command`, the variable is set only while the command runs.
            let mut inner = evaluator.copy(state);
            for assignment in &simple.assignments {
                evaluator.assign(&mut inner, assignment);
                inner.export(&assignment.name);
            }
            let outcome = evaluator.call(&mut inner, &fields, &input);
            state.directory = inner.directory.take();
            state.previous_directory = inner.previous_directory.take();
            state.taken = inner.taken;
            state.adopt_variables(inner, simple.assignments.iter().map(|assignment| assignment.name.as_str()));
            outcome
        })
    }

    /// Runs a command with these redirections. If they redirect the command's input, the command reads nothing from the
    /// script's input.
    fn with_own_input(
        &mut self,
        redirects: &[Redirect],
        state: &mut State,
        run: impl FnOnce(&mut Self, &mut State) -> RunResult,
    ) -> RunResult {
        let is_input =
            |one: &Redirect| matches!(one, Redirect::Read(_) | Redirect::HereString(_) | Redirect::HereDocument(_));
        let common = redirects.iter().any(is_input).then(|| std::mem::take(&mut state.taken));
        let outcome = run(self, state);
        state.taken = common.unwrap_or(state.taken);
        outcome
    }

    /// Simulates a function, a builtin or a program with these arguments. The command reads the part of `input` that
    /// earlier commands have not read.
    pub(super) fn call(&mut self, state: &mut State, fields: &[Field], input: &StreamText) -> RunResult {
        let before = std::mem::take(&mut state.taken);
        let outcome = if before == InputTaken::default() {
            self.call_with(state, fields, input)
        } else {
            self.spend(input.text().map_or(0, |text| text.len() / 64));
            self.call_with(state, fields, &input.after(before))
        };
        state.taken = before.then(state.taken);
        outcome
    }

    fn call_with(&mut self, state: &mut State, fields: &[Field], input: &StreamText) -> RunResult {
        let Some((Field::Known(name), arguments)) = fields.split_first() else {
            return RunResult::printed(StreamText::Unknown);
        };
        if self.depth >= DEPTH_MAX + super::parser::DEPTH_MAX || !self.spend(1 + arguments.len() / 4) {
            return RunResult::printed(StreamText::Unknown);
        }
        if let Some(body) = state.function(name) {
            let outer = std::mem::replace(&mut state.arguments, arguments.to_vec().into());
            let RunResult { output, ending } = self.run(&body, state, input);
            state.arguments = outer;
            return RunResult { output, ending: ending.filter(|ending| *ending == Ending::Shell) };
        }
        if let Some(outcome) = self.builtin(name, arguments, state, input) {
            return outcome;
        }
        self.depth += 1;
        let output = commands::run_command(self, state, name, arguments, input);
        self.depth -= 1;
        // These programs read their whole input. Other programs may leave some input for the next command.
        if matches!(name.as_str(), "xargs" | "tee" | "sponge") {
            state.taken = InputTaken::Unknown;
        }
        let replaces_shell = name == "exec" && !arguments.is_empty();
        RunResult { output, ending: replaces_shell.then_some(Ending::Shell) }
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

    /// Records the files that redirections write. Returns the command's standard input. Returns `None` if a redirection
    /// fails, because the command then does not run.
    fn redirected(&mut self, redirects: &[Redirect], state: &mut State, input: &StreamText) -> Option<StreamText> {
        self.spend(input.text().map_or(0, |text| text.len() / 64));
        let mut input = input.clone();
        for redirect in redirects {
            match redirect {
                Redirect::Create(word) | Redirect::Write(word) => {
                    let keeps = state.options.no_clobber && matches!(redirect, Redirect::Create(_));
                    for path in self.redirect_targets(state, word) {
                        if keeps && self.is_regular_file(state, &path) {
                            return None;
                        }
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
        Some(input)
    }

    /// The paths of the files that a redirection opens.
    fn redirect_targets(&mut self, state: &mut State, word: &Word) -> Vec<String> {
        if state.shell == Shell::Posix {
            return self.text_of(state, word).into_iter().collect();
        }
        let fields = self.fields(state, std::slice::from_ref(word));
        // If the word expands to several paths, bash reports an error, but zsh opens all of them.
        let is_allowed = fields.len() == 1 || state.shell == Shell::Zsh;
        fields.iter().filter(|_| is_allowed).filter_map(Field::text).map(str::to_owned).collect()
    }
}

/// The output of two commands that run one after the other.
pub(super) fn joined(first: StreamText, second: StreamText) -> StreamText {
    match (first, second) {
        (StreamText::Text(first), second) if first.is_empty() => second,
        (StreamText::Text(first), StreamText::Text(second)) => StreamText::Text(first + &second),
        _ => StreamText::Unknown,
    }
}
