//! Commands that the shell runs itself, such as `cd`, and commands that only print text.

use super::evaluator::{Ending, Evaluator, RunResult, StreamText};
use super::shell_state::{CdLinks, Field, InputTaken, State, Value};
use super::syntax_tree::{AssignedValue, Assignment, Command, Part, Word};
use std::rc::Rc;

impl Evaluator<'_> {
    /// Runs the builtin with this name. Returns `None` if there is no such builtin.
    pub(super) fn builtin(
        &mut self,
        name: &str,
        arguments: &[Field],
        state: &mut State,
        input: &StreamText,
    ) -> Option<RunResult> {
        let output = match name {
            "cd" | "chdir" => self.change_directory(state, arguments),
            "pushd" => {
                state.directories.push(state.directory.clone());
                self.change_directory(state, arguments);
                StreamText::Unknown
            }
            "popd" => {
                state.directory = state.directories.pop().flatten();
                StreamText::Unknown
            }
            "exit" | "return" | "break" | "continue" | "logout" => {
                return Some(RunResult { output: StreamText::empty(), ending: Some(ending(name)) });
            }
            "unset" => {
                arguments.iter().filter_map(Field::text).for_each(|name| state.set(name, Value::Unknown));
                StreamText::empty()
            }
            "set" => {
                set_options(state, arguments);
                StreamText::empty()
            }
            "setopt" | "unsetopt" => {
                let names = arguments.iter().filter_map(Field::text);
                names.for_each(|option| state.options.set_name(option, name == "setopt"));
                StreamText::empty()
            }
            "alias" => {
                define_aliases(state, arguments);
                StreamText::empty()
            }
            "shift" => {
                shift(state, arguments);
                StreamText::empty()
            }
            "read" | "mapfile" | "readarray" => {
                read_variables(name, arguments, state, input);
                StreamText::empty()
            }
            "eval" => {
                let words: Option<Vec<&str>> = arguments.iter().map(Field::text).collect();
                return words.map(|words| self.run_script(&words.join(" "), state, input)).or(Some(unknown()));
            }
            ":" | "true" | "false" | "test" | "[" | "wait" | "sleep" | "mkdir" | "shopt" => {
                if name == "mkdir" {
                    self.make_folders(state, arguments);
                }
                StreamText::empty()
            }
            "pwd" => self.print_directory(state, arguments),
            "trap" => self.set_trap(state, arguments),
            "printf" if is_printf_to_variable(arguments) => print_to_variable(state, arguments),
            "cat" if arguments.is_empty() || matches!(arguments, [Field::Known(word)] if word == "-") => {
                state.taken = InputTaken::Unknown;
                input.clone()
            }
            name => printed(name, arguments, state)?,
        };
        Some(RunResult::printed(output))
    }

    /// Runs the script of `trap script EXIT` to find the files that it writes. A real shell runs the script when the
    /// shell exits.
    fn set_trap(&mut self, state: &State, arguments: &[Field]) -> StreamText {
        if let [Field::Known(script), Field::Known(signal), ..] = arguments
            && matches!(signal.as_str(), "EXIT" | "0")
        {
            let mut inner = self.copy(state);
            self.run_script(script, &mut inner, &StreamText::Unknown);
        }
        StreamText::empty()
    }

    fn print_directory(&self, state: &State, arguments: &[Field]) -> StreamText {
        let directory = state.directory.as_ref();
        let shown = directory.and_then(|path| self.resolve_for_cd(state, path, links_of(state, arguments)));
        shown.map_or(StreamText::Unknown, |directory| StreamText::Text(directory + "\n"))
    }

    fn change_directory(&mut self, state: &mut State, arguments: &[Field]) -> StreamText {
        let links = links_of(state, arguments);
        let mut operands = arguments.iter().filter(|field| !field.text().is_some_and(is_directory_option));
        let to = match (operands.next(), operands.next()) {
            (None, _) => self.variable_text(state, "HOME").and_then(|home| self.resolve_for_cd(state, &home, links)),
            (Some(Field::Known(path)), None) if path == "-" => {
                state.previous_directory.as_ref().and_then(|previous| self.resolve_for_cd(state, previous, links))
            }
            // `CDPATH` could give a relative path a different meaning, but it is ignored, because agents do not set it.
            (Some(Field::Known(path)), None) => self.resolve_for_cd(state, path, links),
            _ => None,
        };
        state.has_cd_failed = to.as_ref().is_some_and(|to| self.is_missing(to));
        if state.has_cd_failed {
            return StreamText::empty();
        }
        state.previous_directory = std::mem::replace(&mut state.directory, to);
        StreamText::empty()
    }

    /// Runs `export` and similar builtins. Their arguments are assignments, so the values are not split into words.
    pub(super) fn declare(&mut self, state: &mut State, words: &[Word]) {
        let exports = words.iter().any(|word| matches!(word.as_literal().as_deref(), Some("export" | "-x" | "-gx")));
        let keeps = words.iter().any(|word| matches!(word.as_literal().as_deref(), Some("export" | "readonly" | "-x")));
        for word in &words[1..] {
            let Some(Part::Bare(text)) = word.0.first() else { continue };
            let (name, value) = text.split_once('=').map_or((text.as_str(), None), |(name, value)| (name, Some(value)));
            let (name, appends) = name.strip_suffix('+').map_or((name, false), |name| (name, true));
            if name.starts_with('-') {
                continue;
            }
            match value {
                Some(first) => {
                    let parts = [Part::Bare(first.to_owned())].into_iter().chain(word.0[1..].iter().cloned());
                    let value = AssignedValue::Text(Word(parts.collect()));
                    self.assign(state, &Assignment { name: name.to_owned(), appends, value });
                }
                None if keeps => {}
                None => state.set(name, Value::Unknown),
            }
            if exports {
                state.export(name);
            }
        }
    }

    fn make_folders(&mut self, state: &State, arguments: &[Field]) {
        for path in arguments.iter().filter_map(Field::text).filter(|path| !path.starts_with('-')) {
            self.make_folder(state, path);
        }
    }
}

fn unknown() -> RunResult {
    RunResult::printed(StreamText::Unknown)
}

fn ending(builtin: &str) -> Ending {
    match builtin {
        "continue" => Ending::Round,
        "break" => Ending::Loop,
        "return" => Ending::Function,
        _ => Ending::Shell,
    }
}

/// Whether an argument of `cd`, `pushd` or `pwd` is an option, such as `-P`, and not a directory.
fn is_directory_option(word: &str) -> bool {
    word == "--"
        || word
            .strip_prefix('-')
            .is_some_and(|letters| !letters.is_empty() && letters.bytes().all(|b| b"LPen".contains(&b)))
}

/// What `cd` does with symbolic links. If both `-L` and `-P` are given, the last one applies.
fn links_of(state: &State, arguments: &[Field]) -> CdLinks {
    let options = arguments.iter().filter_map(Field::text).filter(|word| is_directory_option(word));
    match options.flat_map(str::chars).rfind(|letter| matches!(letter, 'L' | 'P')) {
        Some('P') => CdLinks::Resolved,
        Some(_) => CdLinks::Kept,
        None => state.options.cd_links,
    }
}

/// Runs `set`, which changes options and positional parameters.
fn set_options(state: &mut State, arguments: &[Field]) {
    let mut rest = arguments.iter();
    while let Some(field) = rest.next() {
        let Some(word) = field.text().filter(|word| word.len() > 1 && word.starts_with(['-', '+'])) else {
            state.arguments = Rc::new(std::iter::once(field).chain(rest).cloned().collect());
            return;
        };
        let value = word.starts_with('-');
        if word == "--" {
            state.arguments = Rc::new(rest.cloned().collect());
            return;
        }
        for letter in word.chars().skip(1) {
            match letter {
                'o' => {
                    rest.next().and_then(Field::text).into_iter().for_each(|name| state.options.set_name(name, value))
                }
                letter => state.options.set_letter(letter, value),
            }
        }
    }
}

/// Runs `shift`, which removes the first positional parameter. With an argument, it may remove any number of
/// parameters.
fn shift(state: &mut State, arguments: &[Field]) {
    let is_plain = arguments.is_empty() && !state.arguments.contains(&Field::Many);
    let rest = if is_plain { state.arguments.iter().skip(1).cloned().collect() } else { vec![Field::Many] };
    state.arguments = Rc::new(rest);
}

/// Defines each alias as a function that writes nothing. Many shells do not expand aliases in scripts, so it is
/// uncertain what a command with the name of an alias would run.
fn define_aliases(state: &mut State, arguments: &[Field]) {
    for (name, _) in arguments.iter().filter_map(|field| field.text()?.split_once('=')) {
        state.define(name, Rc::new(Command::Sequence(Vec::new())));
    }
}

/// Runs `read` or `mapfile`, which set variables from the lines of the input.
fn read_variables(builtin: &str, arguments: &[Field], state: &mut State, input: &StreamText) {
    let names = arguments.iter().filter_map(Field::text).filter(|word| !word.starts_with('-'));
    let names: Vec<String> = names.map(str::to_owned).collect();
    let line = input.text().filter(|_| builtin == "read" && reads_a_line(arguments)).map(first_line);
    state.taken = line.map_or(InputTaken::Unknown, |line| InputTaken::Bytes(line.len()));
    match (names.as_slice(), input.text()) {
        ([array], Some(text)) if builtin != "read" && arguments.iter().all(is_name_or_t) => {
            let lines = text.lines().map(|line| Field::Known(line.to_owned()));
            state.set(array, Value::List(lines.collect()));
        }
        _ => set_read(state, &names, line.filter(|line| !line.is_empty())),
    }
}

/// Whether an argument of `mapfile` is `-t` or the name of the array.
fn is_name_or_t(field: &Field) -> bool {
    field.text().is_some_and(|word| word == "-t" || !word.starts_with('-'))
}

/// Whether `read` reads exactly one line of the input. The options `-d`, `-n` and `-N` change where `read` stops. With
/// `-u`, it reads from another file.
fn reads_a_line(arguments: &[Field]) -> bool {
    let options = arguments.iter().filter_map(Field::text).filter_map(|word| word.strip_prefix('-'));
    arguments.iter().all(|field| field.text().is_some()) && !options.flat_map(str::chars).any(|c| "dnNu".contains(c))
}

/// The first line of a text, including the newline at its end.
fn first_line(text: &str) -> &str {
    text.split_inclusive('\n').next().unwrap_or("")
}

fn is_printf_to_variable(arguments: &[Field]) -> bool {
    arguments.len() > 2 && arguments.first().and_then(Field::text) == Some("-v")
}

/// Assigns a line of input to the variables of `read`. If there are several variables, or if the line is unknown, all
/// values are unknown.
pub(super) fn set_read(state: &mut State, names: &[String], line: Option<&str>) {
    match (names, line) {
        ([name], Some(line)) => state.set(name, Value::Text(line.trim().to_owned())),
        _ => names.iter().for_each(|name| state.set(name, Value::Unknown)),
    }
}

fn print_to_variable(state: &mut State, arguments: &[Field]) -> StreamText {
    let words: Option<Vec<&str>> = arguments.iter().map(Field::text).collect();
    let value = words.and_then(|words| formatted(&words[2..])).map_or(Value::Unknown, Value::Text);
    if let Some(name) = arguments.get(1).and_then(Field::text) {
        state.set(name, value);
    }
    StreamText::empty()
}

/// The output of a command that only prints, such as `echo`; `None` for any other command.
fn printed(name: &str, arguments: &[Field], state: &State) -> Option<StreamText> {
    let words: Option<Vec<&str>> = arguments.iter().map(Field::text).collect();
    let text = match name {
        "echo" => words.and_then(|words| echoed(&words)),
        "printf" => words.and_then(|words| formatted(&words)),
        "cat" => match words.as_deref() {
            Some([path]) if !path.starts_with('-') => return Some(file_stream(state, path)),
            _ => None,
        },
        "basename" => match words.as_deref() {
            Some([path]) => Some(format!("{}\n", last_component(path))),
            Some([path, ending]) => {
                let name = last_component(path);
                Some(format!("{}\n", name.strip_suffix(ending).filter(|rest| !rest.is_empty()).unwrap_or(name)))
            }
            _ => None,
        },
        "dirname" => match words.as_deref() {
            Some([path]) => Some(format!("{}\n", parent(path))),
            _ => None,
        },
        "ls" => match words {
            // An operand that contains a dot is assumed to be a file, not a folder. For a file, `ls` prints only its
            // name.
            Some(words)
                if !words.is_empty()
                    && words.iter().all(|word| *word == "-1" || !word.starts_with('-') && word.contains('.')) =>
            {
                Some(words.iter().filter(|word| **word != "-1").map(|word| format!("{word}\n")).collect())
            }
            _ => None,
        },
        "seq" => words.and_then(|words| sequence(&words)),
        _ => return None,
    };
    Some(text.map_or(StreamText::Unknown, StreamText::Text))
}

fn file_stream(state: &State, path: &str) -> StreamText {
    match &state.directory {
        _ if path.starts_with('/') => StreamText::File(path.to_owned()),
        // The `..` must stay in the path. If it follows a symbolic link, only the kernel resolves it correctly.
        Some(directory) if path.contains("..") => StreamText::File(format!("{directory}/{path}")),
        Some(directory) => StreamText::File(crate::base::path_overlap::normal(&format!("{directory}/{path}"))),
        None => StreamText::Unknown,
    }
}

fn echoed(words: &[&str]) -> Option<String> {
    let n_options = words.iter().take_while(|word| matches!(**word, "-n" | "-e" | "-E" | "-ne" | "-en")).count();
    let (options, words) = words.split_at(n_options);
    let end = if options.iter().any(|option| option.contains('n')) { "" } else { "\n" };
    let text = words.join(" ");
    let text = if options.iter().any(|option| option.contains('e')) { unescaped(&text, true)? } else { text };
    Some(text + end)
}

/// Resolves the escapes `\n`, `\t`, `\\` and octal codes in a string. Returns `None` if the string contains other
/// escapes. With `after_zero`, an octal code has up to three digits after a zero, as in `echo -e`. Without it, an octal
/// code has up to three digits in total, as in `printf`.
fn unescaped(text: &str, after_zero: bool) -> Option<String> {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next()? {
            'n' => out.push('\n'),
            't' => out.push('\t'),
            '\\' => out.push('\\'),
            first @ '0'..='7' if first == '0' || !after_zero => {
                let (mut code, n_more) = (first.to_digit(8)?, if after_zero { 3 } else { 2 });
                for _ in 0..n_more {
                    let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    chars.next();
                }
                // An octal code beyond ASCII is only a part of a character. A percent sign would begin a directive of
                // `printf`. In both cases, the result is unknown.
                out.push(char::from_u32(code).filter(|c| c.is_ascii() && *c != '%')?);
            }
            _ => return None,
        }
    }
    Some(out)
}

/// The output of `printf`; `None` if the format contains a directive other than `%s`.
fn formatted(words: &[&str]) -> Option<String> {
    let words = words.strip_prefix(&["--"]).unwrap_or(words);
    let (format, values) = words.split_first()?;
    let format = unescaped(format, false)?;
    let n_values = format.matches("%s").count();
    if format.matches('%').count() != n_values || n_values == 0 && !values.is_empty() {
        return (n_values == 0 && format.matches('%').count() == 0).then_some(format);
    }
    if n_values == 0 {
        return Some(format);
    }
    let mut out = String::new();
    for group in values.chunks(n_values) {
        let mut values = group.iter();
        for (n, piece) in format.split("%s").enumerate() {
            if n > 0 {
                out.push_str(values.next().unwrap_or(&""));
            }
            out.push_str(piece);
        }
    }
    Some(out)
}

/// The part of a path after its last slash.
pub(super) fn last_component(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

/// The part of a path before its last slash.
fn parent(path: &str) -> &str {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", _)) => "/",
        Some((parent, _)) => parent,
        None => ".",
    }
}

fn sequence(words: &[&str]) -> Option<String> {
    let numbers: Option<Vec<i64>> = words.iter().map(|word| word.parse().ok()).collect();
    let (first, last) = match numbers?.as_slice() {
        [last] => (1, *last),
        [first, last] => (*first, *last),
        _ => return None,
    };
    let is_short = last.checked_sub(first)? <= 1000;
    is_short.then(|| (first..=last).map(|n| format!("{n}\n")).collect())
}
