//! Walks through the commands of a script and notes which files they write.

use super::parser::Parser;
use super::state::{Field, State, Value};
use super::syntax::{AssignedValue, Assignment, Command, Redirect, Simple, Word};
use super::{Entry, FileTree, MaybeWritten, ShellWrite, Tracking, commands};
use crate::base::paths;
use std::collections::BTreeSet;

/// Steps that every command line may take; a longer one gets more.
const STEPS_MIN: usize = 20_000;
/// Scripts, functions and commands in one another.
const DEPTH_MAX: usize = 30;
/// Folders that one command line may list.
const LISTINGS_MAX: usize = 256;
/// A longer path is none that a file can have.
const PATH_MAX: usize = 4096;

/// What a command reads or prints.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Stream {
    /// Nothing is known of it.
    Unknown,
    /// All of it.
    Text(String),
    /// What stands in this file.
    File(String),
}

impl Stream {
    /// Of a command that prints nothing.
    pub(super) fn empty() -> Stream {
        Stream::Text(String::new())
    }

    /// The text, if it is known.
    pub(super) fn text(&self) -> Option<&str> {
        if let Stream::Text(text) = self { Some(text) } else { None }
    }
}

/// What is known once a command has run.
pub(super) struct Outcome {
    /// What it has printed.
    pub output: Stream,
    /// Whether nothing behind it runs, as after `exit`.
    pub ends: bool,
}

impl Outcome {
    /// Of a command behind which the script goes on.
    pub(super) fn printed(output: Stream) -> Outcome {
        Outcome { output, ends: false }
    }
}

/// The walk through one command line.
pub(super) struct Evaluator<'a> {
    files: &'a dyn FileTree,
    environment: &'a dyn Fn(&str) -> Option<String>,
    directory: String,
    writes: BTreeSet<ShellWrite>,
    /// Folders that the script itself makes.
    made_folders: BTreeSet<String>,
    script_length: usize,
    steps: usize,
    listings: usize,
    depth: usize,
}

impl<'a> Evaluator<'a> {
    /// Nothing has run yet.
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
            writes: BTreeSet::new(),
            made_folders: BTreeSet::new(),
            script_length,
            steps: STEPS_MIN + script_length,
            listings: LISTINGS_MAX,
            depth: 0,
        }
    }

    /// Runs the script that was asked about.
    pub(super) fn written_files(mut self, script: &str) -> Vec<ShellWrite> {
        let directory = Some(self.directory.clone()).filter(|directory| directory.starts_with('/'));
        let mut state = State::default();
        state.directory = directory;
        self.run_script(script, &mut state, &Stream::Unknown);
        self.writes.into_iter().collect()
    }

    /// Takes steps from what is left; afterwards nothing more runs.
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

    /// The state of a subshell.
    pub(super) fn copy(&mut self, state: &State) -> State {
        self.spend(1 + state.size() / 4);
        state.clone()
    }

    /// Runs a script line by line, up to a syntax error.
    pub(super) fn run_script(&mut self, script: &str, state: &mut State, input: &Stream) -> Outcome {
        let mut output = Stream::empty();
        if self.depth >= DEPTH_MAX || !self.spend(script.len() / 16) {
            return Outcome::printed(Stream::Unknown);
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
        Outcome::printed(output)
    }

    /// Runs one command.
    pub(super) fn run(&mut self, command: &Command, state: &mut State, input: &Stream) -> Outcome {
        if self.depth >= DEPTH_MAX + super::parser::DEPTH_MAX || !self.spend(1) {
            return Outcome::printed(Stream::Unknown);
        }
        self.depth += 1;
        let outcome = self.run_any(command, state, input);
        self.depth -= 1;
        outcome
    }

    fn run_any(&mut self, command: &Command, state: &mut State, input: &Stream) -> Outcome {
        match command {
            Command::Simple(simple) => self.run_simple(simple, state, input),
            Command::Sequence(commands) => self.run_sequence(commands, state, input),
            Command::And(left, right) => {
                let first = self.run(left, state, input);
                if first.ends {
                    return first;
                }
                let second = self.run(right, state, input);
                Outcome::printed(joined(first.output, second.output))
            }
            Command::Or(left, right) => {
                let mut failed = self.copy(state);
                let first = self.run(left, state, input);
                let second = self.run(right, &mut failed, input);
                if !second.ends {
                    state.merge(&failed);
                }
                Outcome::printed(if first.output == second.output { first.output } else { Stream::Unknown })
            }
            Command::Pipeline(stages) => {
                let mut between = input.clone();
                for stage in stages {
                    let mut inner = self.copy(state);
                    between = self.run(stage, &mut inner, &between).output;
                }
                Outcome::printed(between)
            }
            Command::Subshell(body) => {
                let mut inner = self.copy(state);
                Outcome::printed(self.run(body, &mut inner, input).output)
            }
            Command::If(branches, otherwise) => self.run_if(branches, otherwise.as_deref(), state, input),
            Command::While(condition, body) => self.run_while(condition, body, state, input),
            Command::For { name, words, body } => self.run_for(name, words.as_deref(), body, state, input),
            Command::Case(subject, arms) => self.run_case(subject, arms, state, input),
            Command::Function(name, body) => {
                state.define(name, body.clone());
                Outcome::printed(Stream::empty())
            }
            Command::Redirected(body, redirects) => {
                let input = self.redirected(redirects, state, input);
                self.run(body, state, &input)
            }
        }
    }

    fn run_sequence(&mut self, commands: &[Command], state: &mut State, input: &Stream) -> Outcome {
        let mut output = Stream::empty();
        for command in commands {
            let outcome = self.run(command, state, input);
            output = joined(output, outcome.output);
            if outcome.ends {
                return Outcome { output, ends: true };
            }
        }
        Outcome::printed(output)
    }

    fn run_if(
        &mut self,
        branches: &[(Command, Command)],
        otherwise: Option<&Command>,
        state: &mut State,
        input: &Stream,
    ) -> Outcome {
        let mut ends: Vec<State> = Vec::new();
        for (condition, body) in branches {
            self.run(condition, state, input);
            let mut inner = self.copy(state);
            if !self.run(body, &mut inner, input).ends {
                ends.push(inner);
            }
        }
        let is_over = otherwise.is_some_and(|body| self.run(body, state, input).ends);
        if is_over {
            let Some(first) = ends.pop() else { return Outcome { output: Stream::Unknown, ends: true } };
            *state = first;
        }
        ends.iter().for_each(|end| state.merge(end));
        Outcome::printed(Stream::Unknown)
    }

    fn run_while(&mut self, condition: &Command, body: &Command, state: &mut State, input: &Stream) -> Outcome {
        let mut inner = self.copy(state);
        if let (Some((names, separator)), Stream::Text(text)) = (self.read_names(condition), input) {
            for line in text.split(separator).filter(|line| !line.is_empty()) {
                if !self.spend(1) {
                    break;
                }
                set_read(&mut inner, &names, Some(line));
                self.run(body, &mut inner, &Stream::Unknown);
            }
        } else {
            self.run(condition, &mut inner, &Stream::Unknown);
            self.run(body, &mut inner, &Stream::Unknown);
        }
        state.merge(&inner);
        Outcome::printed(Stream::Unknown)
    }

    /// The variables of a condition that is nothing but `read`, and what separates its lines.
    fn read_names(&mut self, condition: &Command) -> Option<(Vec<String>, char)> {
        let simple = match condition {
            Command::Simple(simple) => simple,
            Command::Sequence(commands) => match commands.as_slice() {
                [Command::Simple(simple)] => simple,
                // `read line || [ -n "$line" ]` takes a last line without an end, too.
                [Command::Or(left, _)] => return self.read_names(left),
                _ => return None,
            },
            Command::Or(left, _) => return self.read_names(left),
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
        input: &Stream,
    ) -> Outcome {
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
        Outcome::printed(Stream::Unknown)
    }

    fn run_case(
        &mut self,
        subject: &Word,
        arms: &[(Vec<Word>, Command)],
        state: &mut State,
        input: &Stream,
    ) -> Outcome {
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
                return Outcome { output: Stream::Unknown, ends: is_over };
            }
            if !is_over {
                state.merge(&inner);
            }
        }
        Outcome::printed(Stream::Unknown)
    }

    fn run_simple(&mut self, simple: &Simple, state: &mut State, input: &Stream) -> Outcome {
        let name = simple.words.first().and_then(Word::as_literal);
        if matches!(name.as_deref(), Some("export" | "declare" | "local" | "readonly" | "typeset")) {
            self.declare(state, &simple.words);
            self.redirected(&simple.redirects, state, input);
            return Outcome::printed(Stream::empty());
        }
        let fields = self.fields(state, &simple.words);
        let input = self.redirected(&simple.redirects, state, input);
        if fields.is_empty() {
            simple.assignments.iter().for_each(|assignment| self.assign(state, assignment));
            return Outcome::printed(Stream::empty());
        }
        if simple.assignments.is_empty() {
            return self.call(state, &fields, &input);
        }
        // They hold for this command alone, and only its children see them.
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

    /// Runs a function, a builtin or a program with its arguments.
    pub(super) fn call(&mut self, state: &mut State, fields: &[Field], input: &Stream) -> Outcome {
        let Some((Field::Known(name), arguments)) = fields.split_first() else {
            return Outcome::printed(Stream::Unknown);
        };
        if self.depth >= DEPTH_MAX + super::parser::DEPTH_MAX || !self.spend(1 + arguments.len() / 4) {
            return Outcome::printed(Stream::Unknown);
        }
        if let Some(body) = state.function(name) {
            let outer = std::mem::replace(&mut state.arguments, arguments.to_vec().into());
            let output = self.run(&body, state, input).output;
            state.arguments = outer;
            return Outcome::printed(output);
        }
        if let Some(outcome) = self.builtin(name, arguments, state, input) {
            return outcome;
        }
        self.depth += 1;
        let output = commands::run_command(self, state, name, arguments, input);
        self.depth -= 1;
        Outcome::printed(output)
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

    /// Notes the files of redirections, and returns what the command reads.
    fn redirected(&mut self, redirects: &[Redirect], state: &mut State, input: &Stream) -> Stream {
        let mut input = input.clone();
        for redirect in redirects {
            match redirect {
                Redirect::Write(word) => {
                    // A wildcard in the name of a file to write is never meant.
                    if let Some(path) = self.text_of(state, word) {
                        self.write(state, &path);
                    }
                }
                Redirect::Read(word) => {
                    let path = self.text_of(state, word).and_then(|path| self.resolve(state, &path));
                    input = path.map_or(Stream::Unknown, Stream::File);
                }
                Redirect::HereString(word) => {
                    input = self.text_of(state, word).map_or(Stream::Unknown, |text| Stream::Text(text + "\n"));
                }
                Redirect::HereDocument(body) => {
                    let text = body.get().and_then(|word| self.text_of(state, word));
                    input = text.map_or(Stream::Unknown, Stream::Text);
                }
                Redirect::Descriptor => {}
            }
        }
        input
    }
}

/// Sets the variables of `read` from a line.
pub(super) fn set_read(state: &mut State, names: &[String], line: Option<&str>) {
    match (names, line) {
        ([name], Some(line)) => state.set(name, Value::Text(line.trim().to_owned())),
        _ => names.iter().for_each(|name| state.set(name, Value::Unknown)),
    }
}

fn joined(first: Stream, second: Stream) -> Stream {
    match (first, second) {
        (Stream::Text(first), second) if first.is_empty() => second,
        (Stream::Text(first), Stream::Text(second)) => Stream::Text(first + &second),
        _ => Stream::Unknown,
    }
}

/// Paths and what is noted of them.
impl Evaluator<'_> {
    /// A path as an absolute one in normal form, without a slash at its end.
    pub(super) fn resolve(&self, state: &State, path: &str) -> Option<String> {
        let absolute =
            if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", state.directory.as_ref()?) };
        let normal = paths::normal(&absolute);
        let plain = normal.trim_end_matches('/');
        let is_path = !path.is_empty() && plain.len() <= PATH_MAX && !plain.contains(['\n', '\0']);
        is_path.then(|| if plain.is_empty() { "/".to_owned() } else { plain.to_owned() })
    }

    /// Notes a file that is written, if its path is known.
    pub(super) fn write(&mut self, state: &State, path: &str) {
        if path.ends_with('/') || !self.spend(4) {
            return;
        }
        let Some(path) = self.resolve(state, path) else { return };
        if self.is_folder(&path) != Some(true) {
            self.note(&path, ShellWrite::File);
        }
    }

    /// Notes a folder that is removed or moved, with all that is in it; or a file, if it is one.
    pub(super) fn write_all(&mut self, state: &State, path: &str) {
        let Some(resolved) = self.resolve(state, path).filter(|_| self.spend(4)) else { return };
        if self.is_folder(&resolved) == Some(true) {
            self.note(&resolved, ShellWrite::Folder);
        } else {
            self.write(state, path.trim_end_matches('/'));
        }
    }

    fn note(&mut self, path: &str, kind: fn(std::path::PathBuf) -> ShellWrite) {
        let is_device = ["/dev/", "/proc/", "/sys/"].iter().any(|folder| path.starts_with(folder));
        // Locks would take the name of such a file for a pattern.
        if !is_device && path != "/" && !path.contains(['*', '?']) {
            self.writes.insert(kind(path.into()));
        }
    }

    /// Notes that some files below a folder may be written.
    pub(super) fn maybe_write(&mut self, folder: &str, endings: &[&str], tracking: Tracking) {
        let endings = endings.iter().map(|ending| (*ending).to_owned()).collect();
        self.writes.insert(ShellWrite::Maybe(MaybeWritten { folder: folder.into(), endings, tracking }));
    }

    /// Whether a path, absolute, is a folder; none if there is nothing.
    pub(super) fn is_folder(&self, path: &str) -> Option<bool> {
        if self.made_folders.contains(path) { Some(true) } else { self.files.is_folder(path) }
    }

    pub(super) fn exists(&mut self, path: &str) -> bool {
        self.spend(2) && self.files.is_folder(path.trim_end_matches('/')).is_some()
    }

    /// Notes that the script makes a folder.
    pub(super) fn make_folder(&mut self, state: &State, path: &str) {
        self.made_folders.extend(self.resolve(state, path));
    }

    /// What stands in a folder, in the order of the names.
    pub(super) fn list_folder(&mut self, folder: &str) -> Option<Vec<Entry>> {
        self.listings = self.listings.checked_sub(1)?;
        let mut entries = self.files.entries(folder)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        self.spend(10 + entries.len() / 4).then_some(entries)
    }

    /// The text of a patch that a command reads from a file.
    pub(super) fn patch_text(&mut self, path: &str) -> Option<String> {
        self.listings = self.listings.checked_sub(1)?;
        self.files.patch_text(path)
    }

    /// The closest folder, from this one upwards, in which one of these names stands.
    pub(super) fn folder_with(&mut self, directory: &str, name: &str) -> Option<String> {
        let mut folder = directory.to_owned();
        loop {
            if !self.spend(2) {
                return None;
            }
            if self.files.is_folder(&format!("{}/{name}", folder.trim_end_matches('/'))).is_some() {
                return Some(folder);
            }
            folder.truncate(folder.rfind('/').filter(|at| *at > 0)?);
        }
    }
}
