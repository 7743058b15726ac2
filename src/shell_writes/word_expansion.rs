//! Expands words as a shell does: braces, `~`, variables, command output, word splitting and wildcards.

use super::braces;
use super::evaluator::{Evaluator, StreamText};
use super::resolve_and_record_paths::WRITE_STEPS;
use super::shell_state::{Field, Shell, State, Value};
use super::syntax_tree::{Command, Expansion, Part, Word};
use crate::base::shell_wildcards::{self, Sign};

/// Maximum length of a variable's value, in bytes. A longer value counts as unknown. Otherwise, a script that doubles a
/// value repeatedly could exhaust the memory.
const VALUE_MAX: usize = 64 * 1024;
/// Maximum number of files that a pattern may match. If it matches more files, they are not listed, and the pattern
/// itself stands for them.
const MATCHES_MAX: usize = 1000;

/// Collects the fields that result from expanding a word.
#[derive(Default)]
struct FieldBuilder {
    done: Vec<Field>,
    /// The characters of the current field. A flag for each character says whether the character may be a wildcard.
    text: Vec<(char, bool)>,
    /// Whether a field has been started. The field may still be empty.
    is_open: bool,
    has_unknown: bool,
    has_bare_unknown: bool,
    /// The fields in `done` that contain wildcards, and their indexes. The wildcards are expanded later.
    patterns: Vec<(usize, Vec<(char, bool)>)>,
}

impl FieldBuilder {
    fn push_quoted(&mut self, text: &str) {
        self.text.extend(text.chars().map(|c| (c, false)));
        self.is_open = true;
    }

    fn push_bare(&mut self, text: &str) {
        self.text.extend(text.chars().map(|c| (c, true)));
        self.is_open |= !text.is_empty();
    }

    /// Adds a value that is not in quotes, and splits it at blanks.
    fn push_split(&mut self, text: &str) {
        for (n, piece) in text.split([' ', '\t', '\n']).enumerate() {
            if n > 0 {
                self.finish();
            }
            self.push_bare(piece);
        }
    }

    fn push_unknown(&mut self, quoted: bool) {
        self.has_unknown |= quoted;
        self.has_bare_unknown |= !quoted;
        self.is_open = true;
    }

    fn finish(&mut self) {
        let text = std::mem::take(&mut self.text);
        let is_open = std::mem::take(&mut self.is_open);
        let has_unknown = std::mem::take(&mut self.has_unknown);
        let has_bare_unknown = std::mem::take(&mut self.has_bare_unknown);
        if !is_open {
            return;
        }
        if has_bare_unknown && text.is_empty() && !has_unknown {
            self.done.push(Field::Many);
        } else if has_unknown || has_bare_unknown {
            self.done.push(Field::Unknown);
        } else {
            if text.iter().any(|(c, live)| *live && "*?[".contains(*c)) {
                self.patterns.push((self.done.len(), text.clone()));
            }
            self.done.push(Field::Known(text.iter().map(|(c, _)| c).collect()));
        }
    }
}

impl Evaluator<'_> {
    /// Expands words to fields.
    pub(super) fn fields(&mut self, state: &mut State, words: &[Word]) -> Vec<Field> {
        let mut fields = Vec::new();
        for word in words {
            if !self.spend(1 + word.0.len()) {
                break;
            }
            let n_braced = braces::live_length(word);
            match braces::expand(word).filter(|_| self.spend(n_braced * n_braced / 256)) {
                // Some POSIX shells do not expand braces, so the result is unknown.
                Some(words) if words.len() > 1 && state.shell == Shell::Posix => fields.push(Field::Many),
                Some(words) => words.iter().for_each(|word| self.expand_word(state, word, &mut fields)),
                None => fields.push(Field::Many),
            }
        }
        fields
    }

    fn expand_word(&mut self, state: &mut State, word: &Word, into: &mut Vec<Field>) {
        let mut fields = FieldBuilder::default();
        for (n, part) in word.0.iter().enumerate() {
            match part {
                Part::Bare(text) if n == 0 && text.starts_with('~') => self.push_home(state, text, &mut fields),
                part => self.push_part(state, part, &mut fields),
            }
        }
        fields.finish();
        let patterns = std::mem::take(&mut fields.patterns);
        let mut patterns = patterns.into_iter().peekable();
        for (n, field) in fields.done.into_iter().enumerate() {
            match patterns.next_if(|(at, _)| *at == n) {
                Some((_, pattern)) if !state.options.no_glob => self.push_matches(state, &pattern, into),
                _ => into.push(field),
            }
        }
    }

    fn push_home(&mut self, state: &State, text: &str, fields: &mut FieldBuilder) {
        let name = text.split('/').next().unwrap_or("");
        let home = match name {
            "~" => self.variable_text(state, "HOME"),
            "~+" => state.directory.clone(),
            _ => None,
        };
        match home {
            Some(home) => fields.push_quoted(&home),
            None => fields.push_unknown(true),
        }
        fields.push_bare(&text[name.len()..]);
    }

    fn push_part(&mut self, state: &mut State, part: &Part, fields: &mut FieldBuilder) {
        match part {
            Part::Bare(text) => fields.push_bare(text),
            Part::Quoted(text) => fields.push_quoted(text),
            Part::Variable { name, change: Expansion::Every, quoted } => self.push_every(state, name, *quoted, fields),
            Part::Variable { name, change, quoted } => {
                let value = self.changed_value(state, name, change);
                push_value(value, *quoted || state.shell == Shell::Zsh, has_own_separator(state), fields);
            }
            Part::Output { script, quoted } => {
                let value = if let StreamText::Text(text) = self.output_of(state, script) {
                    Some(text.trim_end_matches('\n').to_owned())
                } else {
                    None
                };
                push_value(value, *quoted, has_own_separator(state), fields);
            }
            Part::Process(script) => {
                let mut inner = self.copy(state);
                self.run(script, &mut inner, &StreamText::Unknown);
                // A process substitution becomes a path below /dev.
                fields.push_quoted("/dev/fd/63");
            }
            Part::Unknown => fields.push_unknown(true),
        }
    }

    /// Runs a script in a subshell, and returns its output.
    fn output_of(&mut self, state: &State, script: &Command) -> StreamText {
        let mut inner = self.copy(state);
        let outer = std::mem::replace(&mut self.output_is_read, true);
        let output = self.run(script, &mut inner, &StreamText::Unknown).output;
        self.output_is_read = outer;
        output
    }

    /// The text that a command reads from `< word`.
    pub(super) fn read_from(&mut self, state: &mut State, word: &Word) -> StreamText {
        if let [Part::Process(script)] = word.0.as_slice() {
            return self.output_of(state, script);
        }
        let path = self.text_of(state, word).and_then(|path| self.resolve(state, &path));
        path.map_or(StreamText::Unknown, StreamText::File)
    }

    fn push_every(&mut self, state: &State, name: &str, quoted: bool, fields: &mut FieldBuilder) {
        let list = match (name, state.variable(name)) {
            ("@" | "*", _) => state.arguments.as_ref().clone(),
            (_, Some(Value::List(list))) => list.clone(),
            (_, Some(Value::Text(text))) => vec![Field::Known(text.clone())],
            _ => vec![Field::Many],
        };
        for (n, field) in list.iter().enumerate() {
            if n > 0 {
                fields.finish();
            }
            match field {
                Field::Known(text) if quoted => fields.push_quoted(text),
                Field::Known(text) => fields.push_split(text),
                Field::Unknown => fields.push_unknown(true),
                Field::Many => fields.push_unknown(false),
            }
        }
    }

    /// The text of a variable, if the script or the environment sets it.
    pub(super) fn variable_text(&self, state: &State, name: &str) -> Option<String> {
        if name == "0" {
            return state.name.clone();
        }
        if let Ok(n) = name.parse::<usize>() {
            let is_certain = !state.arguments.iter().take(n).any(|field| *field == Field::Many);
            let field = state.arguments.get(n.checked_sub(1)?).filter(|_| is_certain)?;
            return field.text().map(str::to_owned);
        }
        match state.variable(name) {
            Some(Value::Text(text)) => Some(text.clone()),
            Some(Value::List(list)) => list.first()?.text().map(str::to_owned),
            Some(Value::Unknown) => None,
            None => match name {
                "PWD" => state.directory.clone(),
                "OLDPWD" => state.previous_directory.clone(),
                name if state.sees_environment() => self.environment(name),
                _ => None,
            },
        }
    }

    fn changed_value(&mut self, state: &mut State, name: &str, change: &Expansion) -> Option<String> {
        let value = self.variable_text(state, name);
        match change {
            Expansion::Plain => value,
            // If the value is unknown or empty, the shell may use the default, so the result is unknown.
            Expansion::Default(_) => value.filter(|value| !value.is_empty()),
            Expansion::CutStart { pattern, longest } => {
                let (signs, value) = (self.pattern_of(state, pattern)?, value?);
                let fitting = self.cut_where(&value, *longest, |at| shell_wildcards::text_fits(&value[..at], &signs));
                Some(value[fitting.unwrap_or(0)..].to_owned())
            }
            Expansion::CutEnd { pattern, longest } => {
                let (signs, value) = (self.pattern_of(state, pattern)?, value?);
                let fitting = self.cut_where(&value, !*longest, |at| shell_wildcards::text_fits(&value[at..], &signs));
                Some(value[..fitting.unwrap_or(value.len())].to_owned())
            }
            Expansion::Replace { from, to, everywhere } => {
                let from = self
                    .text_of(state, from)
                    .filter(|from| !from.is_empty() && !shell_wildcards::has_wildcards(from))?;
                let (value, to) = (value?, self.text_of(state, to)?);
                Some(if *everywhere { value.replace(&from, &to) } else { value.replacen(&from, &to, 1) })
            }
            Expansion::Element(n) => match state.variable(name)? {
                Value::List(list) if !list.iter().take(n + 1).any(|field| *field == Field::Many) => {
                    list.get(*n)?.text().map(str::to_owned)
                }
                _ => value.filter(|_| *n == 0),
            },
            Expansion::Every | Expansion::Unknown => None,
        }
        .filter(|value| value.len() <= VALUE_MAX)
    }

    /// Searches the positions in a value for the first one at which `is_right` returns true. If `from_end` is true, the
    /// search starts at the end.
    fn cut_where(&mut self, value: &str, from_end: bool, is_right: impl Fn(usize) -> bool) -> Option<usize> {
        let mut places: Vec<usize> = value.char_indices().map(|(at, _)| at).chain([value.len()]).collect();
        if !self.spend(places.len() - 1) {
            return None;
        }
        if from_end {
            places.reverse();
        }
        places.into_iter().find(|at| is_right(*at))
    }

    /// Expands a word to a pattern. Returns `None` if the pattern is unknown or too long.
    fn pattern_of(&mut self, state: &mut State, word: &Word) -> Option<Vec<Sign>> {
        let fields = self.joined(state, word);
        let is_known = !fields.has_unknown && !fields.has_bare_unknown && fields.text.len() <= 256;
        is_known.then(|| shell_wildcards::pattern(&fields.text))
    }

    /// Expands a word to a single field. Does not split the word and does not expand wildcards.
    fn joined(&mut self, state: &mut State, word: &Word) -> FieldBuilder {
        let mut fields = FieldBuilder::default();
        for (n, part) in word.0.iter().enumerate() {
            match part {
                Part::Bare(text) if n == 0 && text.starts_with('~') => self.push_home(state, text, &mut fields),
                Part::Variable { name, change, .. } if *change != Expansion::Every => {
                    push_value(self.changed_value(state, name, change), true, false, &mut fields);
                }
                Part::Output { script, .. } => {
                    self.push_part(state, &Part::Output { script: script.clone(), quoted: true }, &mut fields);
                }
                part => self.push_part(state, part, &mut fields),
            }
        }
        fields
    }

    /// The text of a word that the shell does not split, such as the value of an assignment. `None` if the text is
    /// unknown.
    pub(super) fn text_of(&mut self, state: &mut State, word: &Word) -> Option<String> {
        if !self.spend(1 + word.0.len()) {
            return None;
        }
        let fields = self.joined(state, word);
        let is_known = !fields.has_unknown && !fields.has_bare_unknown && fields.done.is_empty();
        let text: String = fields.text.iter().map(|(c, _)| c).collect();
        let affordable = self.spend(text.len() / 64);
        (is_known && affordable && text.len() <= VALUE_MAX.max(self.script_length())).then_some(text)
    }

    /// Whether a text matches a pattern of `case`. `None` means that this is unknown.
    pub(super) fn word_fits(&mut self, state: &mut State, word: &Word, text: &str) -> Option<bool> {
        let signs = self.pattern_of(state, word)?;
        Some(shell_wildcards::text_fits(text, &signs))
    }

    /// Adds the paths that match a pattern. If no path matches, the pattern itself is added, as in sh and bash. This is
    /// important for names such as `app/[id]/page.tsx`, which are common.
    fn push_matches(&mut self, state: &State, pattern: &[(char, bool)], into: &mut Vec<Field>) {
        match self.matches(state, pattern) {
            Some(found) if !found.is_empty() => into.extend(found.into_iter().map(Field::Known)),
            Some(_) => into.push(Field::Known(pattern.iter().map(|(c, _)| c).collect())),
            None => {
                into.push(Field::Many);
                into.extend(self.long_pattern(state, pattern).map(Field::Known));
            }
        }
    }

    /// If a pattern matches files that can't be listed, returns one argument that stands for all these files. `None` if
    /// a lock can't express the pattern. A lock on this argument also covers hidden files, but the shell leaves them
    /// out. So a command may be refused needlessly, but only if another peer holds one of these hidden files.
    fn long_pattern(&mut self, state: &State, pattern: &[(char, bool)]) -> Option<String> {
        if pattern.iter().any(|(c, is_live)| *c == '[' && *is_live || matches!(c, '*' | '?') && !is_live) {
            return None;
        }
        let mut text: String = pattern.iter().map(|(c, _)| c).collect();
        // Between slashes, `**` is an ordinary `*` to a shell, but any number of folders to a lock.
        while text.contains("**") {
            text = text.replace("**", "*");
        }
        let absolute = self.resolve(state, &text)?;
        self.long_patterns.insert(absolute);
        Some(text)
    }

    fn matches(&mut self, state: &State, pattern: &[(char, bool)]) -> Option<Vec<String>> {
        let is_rooted = matches!(pattern.first(), Some(('/', _)));
        let root = if is_rooted { String::new() } else { state.directory.clone()? };
        let mut found = vec![String::from(if is_rooted { "/" } else { "" })];
        let components: Vec<&[(char, bool)]> =
            pattern.split(|(c, _)| *c == '/').filter(|part| !part.is_empty()).collect();
        let mut is_listed = true;
        for (n, component) in components.iter().enumerate() {
            let is_last = n + 1 == components.len();
            let signs = shell_wildcards::pattern(component);
            is_listed = !signs.iter().all(|sign| matches!(sign, Sign::Literal(_)));
            let name: String = component.iter().map(|(c, _)| c).collect();
            let end = if is_last { "" } else { "/" };
            let mut next = Vec::new();
            for prefix in found {
                if !is_listed {
                    next.push([&prefix, &name, end].concat());
                    continue;
                }
                let folder = if is_rooted { prefix.clone() } else { [&root, "/", &prefix].concat() };
                if self.is_folder(folder.trim_end_matches('/')) == Some(false) || !self.exists(&folder) {
                    continue;
                }
                for entry in self.list_folder(&folder)?.iter() {
                    let is_hidden = entry.name.starts_with('.') && !name.starts_with('.');
                    if !is_hidden && (is_last || entry.is_folder) && shell_wildcards::text_fits(&entry.name, &signs) {
                        next.push([&prefix, &entry.name, end].concat());
                    }
                }
            }
            // Whether a command that writes all these files would need too many of the remaining steps.
            let is_long = next.len() * (1 + WRITE_STEPS) > self.steps_left() / 2;
            if next.len() > MATCHES_MAX || is_long || !self.spend(next.len()) {
                return None;
            }
            found = next;
        }
        found.sort();
        // If the last component of the pattern has wildcards, the paths come from a listing, so they exist. Other paths
        // are looked up.
        if !is_listed {
            found.retain(|path| self.exists(&if is_rooted { path.clone() } else { [&root, "/", path].concat() }));
        }
        Some(found)
    }
}

/// Whether the script sets `IFS`. In this case, it is unknown where the shell splits values.
fn has_own_separator(state: &State) -> bool {
    state.variable("IFS").is_some()
}

fn push_value(value: Option<String>, quoted: bool, is_split_unknown: bool, fields: &mut FieldBuilder) {
    match value {
        Some(text) if quoted => fields.push_quoted(&text),
        Some(_) if is_split_unknown => fields.push_unknown(false),
        Some(text) => fields.push_split(&text),
        None => fields.push_unknown(quoted),
    }
}
