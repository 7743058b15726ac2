//! Scripts on the command line: the files that these scripts open for writing, if the names are plain literals.

use super::options::Spec;
use super::script_tokens::{Language, Token, tokens};
use super::{Run, formatters};
use crate::shell_writes::evaluator::StreamText;
use crate::shell_writes::shell_state::Field;
use std::collections::HashMap;

const PYTHON: Spec = Spec { short: "cWX", attached: "", long: &["check-hash-based-pycs"], stops: true };
const NODE: Spec =
    Spec { short: "epr", attached: "", long: &["eval", "print", "require", "import", "input-type"], stops: true };
/// Maximum number of functions in a script whose calls are analysed.
const FUNCTIONS_MAX: usize = 64;
/// Longer scripts are not analysed.
const SCRIPT_MAX: usize = 256 * 1024;
/// Functions, in any of the languages, that write or remove the file named by their first argument.
const WRITES_FIRST: &[&str] = &[
    "writeFileSync",
    "appendFileSync",
    "writeFile",
    "appendFile",
    "unlinkSync",
    "rmSync",
    "truncateSync",
    "createWriteStream",
    "writeTextFile",
    "writeTextFileSync",
];
const MOVES: &[&str] = &["renameSync"];
const COPIES: &[&str] = &["copyFileSync", "cpSync"];

/// `python -c script`, `python - <<END`, and `python -m black`.
pub(super) fn python(run: &mut Run) -> StreamText {
    if let Some(at) = run.arguments.iter().position(|field| field.text() == Some("-m")) {
        let is_option = |field: &Field| field.text().is_some_and(|text| text.starts_with('-') && text != "-c");
        if run.arguments[..at].iter().all(is_option) {
            return module(run, at + 1);
        }
    }
    let options = PYTHON.parse(run.arguments);
    let scripts: Vec<String> = options.values(&["c"]).filter_map(Field::text).map(str::to_owned).collect();
    let has_file = options.operands.first().is_some_and(|field| field.text() != Some("-"));
    // The first argument has the number 1. With `-`, this sign has the number 0.
    let first = [Field::Unknown];
    let arguments = [if options.has(&["c"]) { &first[..] } else { &[] }, &options.operands].concat();
    let has_script = has_file || options.has(&["c", "V", "version", "h"]);
    look_into(run, &scripts, Language::Python, has_script, &arguments);
    StreamText::Unknown
}

fn module(run: &mut Run, at: usize) -> StreamText {
    let words = run.arguments[at..].to_vec();
    let Some((Field::Known(name), arguments)) = words.split_first() else { return StreamText::Unknown };
    if name == "json.tool" {
        run.write_field(Spec::new("", &["indent"]).parse(arguments).operands.get(1));
    }
    let mut inner = Run { evaluator: run.evaluator, state: run.state, name, arguments, input: run.input };
    if formatters::is_formatter(&inner) { formatters::format(&mut inner) } else { StreamText::Unknown }
}

/// `node -e script`, and a script on standard input.
pub(super) fn node(run: &mut Run) -> StreamText {
    let options = NODE.parse(run.arguments);
    let is_eval = options.operands.first().and_then(Field::text) == Some("eval");
    let evaluated = options.operands.get(1).filter(|_| is_eval);
    let given = options.values(&["e", "p", "eval", "print"]).chain(evaluated);
    let scripts: Vec<String> = given.filter_map(Field::text).map(str::to_owned).collect();
    let has_file = options.operands.first().is_some_and(|field| field.text() != Some("-"));
    let has_script = has_file || options.has(&["e", "p", "eval", "print", "v", "version"]);
    look_into(run, &scripts, Language::JavaScript, has_script, &[]);
    StreamText::Unknown
}

/// Scripts in Perl or Ruby.
pub(super) fn interpreted(run: &mut Run, scripts: &[String], has_script: bool) -> StreamText {
    let language = if run.name == "perl" { Language::Perl } else { Language::Ruby };
    look_into(run, scripts, language, has_script, &[]);
    StreamText::Unknown
}

/// Analyses scripts, or the text on standard input if there is no other script. `arguments` are those of the script.
fn look_into(run: &mut Run, scripts: &[String], language: Language, has_script: bool, arguments: &[Field]) {
    let input = run.input.text().filter(|_| !has_script).map(str::to_owned);
    for script in scripts.iter().cloned().chain(input) {
        if script.len() > SCRIPT_MAX || !run.evaluator.spend(script.len() / 8) {
            continue;
        }
        let Some(tokens) = tokens(&script, language).map(|tokens| with_arguments(tokens, arguments)) else { continue };
        // If the script changes the directory, it is uncertain what relative paths mean, so only absolute paths count.
        let moves = tokens.iter().any(|token| matches!(token, Token::Name(name) if name == "chdir"));
        let snippet = Snippet { bindings: bindings(&tokens), tokens };
        let found = snippet.writes(language);
        for write in found.into_iter().filter(|write| !moves || write.path.starts_with('/')) {
            if write.is_tree {
                run.evaluator.write_all(run.state, &write.path);
            } else {
                run.write(&write.path);
            }
        }
    }
}

/// The tokens with a literal instead of each `sys.argv[n]` that is known.
fn with_arguments(tokens: Vec<Token>, arguments: &[Field]) -> Vec<Token> {
    let argument = |at: usize| {
        let is_argv = name(tokens.get(at)) == Some("sys")
            && is_sign(tokens.get(at + 1), '.')
            && name(tokens.get(at + 2)) == Some("argv")
            && is_sign(tokens.get(at + 3), '[')
            && is_sign(tokens.get(at + 5), ']');
        let number: usize = name(tokens.get(at + 4)).filter(|_| is_argv)?.parse().ok()?;
        // After a word that may be any number of words, the numbers are unknown.
        arguments.get(..=number)?.iter().all(|field| *field != Field::Many).then(|| arguments[number].text())?
    };
    let mut found = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let text = argument(at);
        at += if text.is_some() { 6 } else { 1 };
        found.push(text.map_or_else(|| token.clone(), |text| Token::Text(text.to_owned())));
    }
    found
}

/// A file that a script writes.
struct Written {
    path: String,
    is_tree: bool,
}

/// The value of a name in a script.
#[derive(Debug, Clone, Default)]
struct Binding {
    /// All values that the name has in turn.
    values: Vec<String>,
    is_path: bool,
    is_unknown: bool,
}

/// A script, and the values of the names in it.
struct Snippet {
    tokens: Vec<Token>,
    bindings: HashMap<String, Binding>,
}

fn name(token: Option<&Token>) -> Option<&str> {
    if let Some(Token::Name(name)) = token { Some(name) } else { None }
}

fn is_sign(token: Option<&Token>, sign: char) -> bool {
    token == Some(&Token::Sign(sign))
}

/// Parses `Path("a") / "b"` at this position. Returns its text, and the index of the token after it.
fn path_literal(tokens: &[Token], at: usize) -> Option<(String, usize)> {
    let mut at = at;
    if name(tokens.get(at)) == Some("pathlib") && is_sign(tokens.get(at + 1), '.') {
        at += 2;
    }
    let is_path = name(tokens.get(at)) == Some("Path") && is_sign(tokens.get(at + 1), '(');
    let (Some(Token::Text(text)), true) = (tokens.get(at + 2), is_path && is_sign(tokens.get(at + 3), ')')) else {
        return None;
    };
    let mut text = text.clone();
    at += 4;
    while let (true, Some(Token::Text(part))) = (is_sign(tokens.get(at), '/'), tokens.get(at + 1)) {
        text = format!("{text}/{part}");
        at += 2;
    }
    Some((text, at))
}

/// Parses `["a", "b"]` or `("a", "b")` at this position. Returns its texts, and the index of the token after it.
fn list_literal(tokens: &[Token], at: usize) -> Option<(Vec<String>, usize)> {
    let close = if is_sign(tokens.get(at), '[') { ']' } else { ')' };
    if !is_sign(tokens.get(at), '[') && !is_sign(tokens.get(at), '(') {
        return None;
    }
    let mut values = Vec::new();
    let mut at = at + 1;
    loop {
        match tokens.get(at)? {
            Token::Text(text) => values.push(text.clone()),
            Token::Sign(sign) if *sign == close => return Some((values, at + 1)),
            Token::End => {}
            _ => return None,
        }
        at += 1;
        match tokens.get(at)? {
            Token::Sign(',') => at += 1,
            Token::Sign(sign) if *sign == close => {}
            _ => return None,
        }
    }
}

/// The values of all names in a script.
fn bindings(tokens: &[Token]) -> HashMap<String, Binding> {
    let mut found: HashMap<String, Binding> = HashMap::new();
    let mut open = 0_usize;
    let mut n_functions = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Sign('(' | '[') => open += 1,
            Token::Sign(')' | ']') => open = open.saturating_sub(1),
            Token::Sign('=') => {
                if is_sign(tokens.get(at + 1), '>') {
                    forget_parameters(tokens, at, &mut found);
                } else if open == 0 {
                    assignment(tokens, at, &mut found);
                }
            }
            Token::Name(word) => match word.as_str() {
                "for" => for_names(tokens, at, &mut found),
                "as" | "lambda" | "catch" => {
                    name(tokens.get(at + 1)).into_iter().for_each(|name| forget(name, &mut found));
                }
                "def" | "function" => {
                    n_functions += 1;
                    parameters(tokens, at, n_functions <= FUNCTIONS_MAX, &mut found);
                }
                _ => {}
            },
            _ => {}
        }
    }
    found
}

fn forget(name: &str, found: &mut HashMap<String, Binding>) {
    found.entry(name.to_owned()).or_default().is_unknown = true;
}

/// `name = value`.
fn assignment(tokens: &[Token], at: usize, found: &mut HashMap<String, Binding>) {
    let is_comparison =
        is_sign(tokens.get(at + 1), '=') || at > 0 && matches!(&tokens[at - 1], Token::Sign('=' | '!' | '<' | '>'));
    let Some(target) = at.checked_sub(1).filter(|_| !is_comparison) else { return };
    let Some(word) = name(tokens.get(target)) else {
        // This is `name += value`, or a part of another expression.
        target.checked_sub(1).and_then(|n| name(tokens.get(n))).into_iter().for_each(|name| forget(name, found));
        return;
    };
    // `a, b = …`
    let mut before = target;
    while before >= 2 && is_sign(tokens.get(before - 1), ',') {
        before -= 2;
        name(tokens.get(before)).into_iter().for_each(|name| forget(name, found));
    }
    if target > 0 && is_sign(tokens.get(target - 1), '.') {
        return;
    }
    let binding = found.entry(word.to_owned()).or_default();
    let ends = |at: usize| matches!(tokens.get(at), Some(Token::End | Token::Sign('}')) | None);
    let is_tuple = before != target;
    match (tokens.get(at + 1), path_literal(tokens, at + 1), list_literal(tokens, at + 1)) {
        (Some(Token::Text(text)), _, _) if ends(at + 2) && !is_tuple => binding.values.push(text.clone()),
        (_, Some((text, end)), _) if ends(end) && !is_tuple => {
            binding.values.push(text);
            binding.is_path = true;
        }
        (_, _, Some((texts, end))) if ends(end) && !is_tuple => binding.values.extend(texts),
        _ => binding.is_unknown = true,
    }
}

/// `for name in […]`, or the same with `of`.
fn for_names(tokens: &[Token], at: usize, found: &mut HashMap<String, Binding>) {
    let mut targets = Vec::new();
    for (n, token) in tokens.iter().enumerate().skip(at + 1).take(12) {
        match token {
            Token::Name(word) if word == "in" || word == "of" => {
                let list = list_literal(tokens, n + 1).map(|(values, _)| values);
                let list = list.or_else(|| {
                    let binding = found.get(name(tokens.get(n + 1))?)?;
                    (!binding.is_unknown && binding.values.len() > 1).then(|| binding.values.clone())
                });
                match (targets.as_slice(), list) {
                    ([target], Some(values)) => found.entry(String::clone(target)).or_default().values.extend(values),
                    _ => targets.iter().for_each(|target| forget(target, found)),
                }
                return;
            }
            Token::Name(word) if !matches!(word.as_str(), "const" | "let" | "var") => targets.push(word.clone()),
            Token::End => break,
            _ => {}
        }
    }
    targets.iter().for_each(|target| forget(target, found));
}

/// The parameters of a function. The values of the first parameter are the literals with which the function is called.
fn parameters(tokens: &[Token], at: usize, looks_for_calls: bool, found: &mut HashMap<String, Binding>) {
    let Some(function) = name(tokens.get(at + 1)) else { return };
    let Some(end) = tokens.iter().skip(at).take(200).position(|token| *token == Token::Sign(')')).map(|n| n + at)
    else {
        return;
    };
    let names: Vec<&str> = tokens[(at + 2).min(end)..end].iter().filter_map(|token| name(Some(token))).collect();
    let Some((first, rest)) = names.split_first() else { return };
    rest.iter().for_each(|name| forget(name, found));
    let near = if looks_for_calls { tokens } else { &[] };
    let calls = near
        .windows(3)
        .enumerate()
        .filter(|(n, window)| *n != at + 1 && name(window.first()) == Some(function) && is_sign(window.get(1), '('));
    for (n, window) in calls {
        let is_whole = matches!(tokens.get(n + 3), Some(Token::Sign(',' | ')')));
        if let (Token::Text(text), true) = (&window[2], is_whole) {
            found.entry((*first).to_owned()).or_default().values.push(text.clone());
        }
    }
    if !found.contains_key(*first) {
        forget(first, found);
    }
}

/// `name => …` and `(a, b) => …`.
fn forget_parameters(tokens: &[Token], at: usize, found: &mut HashMap<String, Binding>) {
    for token in tokens[..at].iter().rev().take(20) {
        match token {
            Token::Name(name) => forget(name, found),
            Token::Sign(')' | ',' | '{' | '}') => {}
            _ => return,
        }
    }
}

impl Snippet {
    /// The possible paths that an argument means, and the position where the argument ends.
    fn argument(&self, at: usize) -> Option<(Vec<String>, usize)> {
        let (paths, end) = match self.tokens.get(at)? {
            Token::Text(text) => (vec![text.clone()], at + 1),
            Token::Name(word) if word == "Path" || word == "pathlib" => {
                let (path, end) = path_literal(&self.tokens, at)?;
                (vec![path], end)
            }
            Token::Name(word) => (self.known(word)?.values.clone(), at + 1),
            _ => return None,
        };
        matches!(self.tokens.get(end), Some(Token::Sign(',' | ')') | Token::End)).then_some((paths, end))
    }

    fn known(&self, name: &str) -> Option<&Binding> {
        self.bindings.get(name).filter(|binding| !binding.is_unknown)
    }

    fn writes(&self, language: Language) -> Vec<Written> {
        let mut paths: Vec<String> = Vec::new();
        let mut trees: Vec<String> = Vec::new();
        for at in 0..self.tokens.len() {
            let Some(word) = name(self.tokens.get(at)) else { continue };
            let has_call = is_sign(self.tokens.get(at + 1), '(');
            let owner =
                if at >= 2 && is_sign(self.tokens.get(at - 1), '.') { name(self.tokens.get(at - 2)) } else { None };
            if language == Language::Perl {
                paths.extend((word == "open").then(|| self.perl_open(at)).flatten());
                continue;
            }
            if !has_call {
                continue;
            }
            let is_free = at == 0 || !is_sign(self.tokens.get(at - 1), '.');
            match (word, owner) {
                ("open", Some("io" | "codecs" | "File" | "gzip")) => paths.extend(self.opened(at + 2)),
                ("open", _) if is_free => paths.extend(self.opened(at + 2)),
                ("remove" | "unlink" | "truncate", Some("os"))
                | ("write" | "binwrite", Some("File" | "IO" | "Bun"))
                | ("delete", Some("File")) => {
                    paths.extend(self.argument(at + 2).map(|(paths, _)| paths).unwrap_or_default());
                }
                ("rename" | "replace", Some("os")) | ("move", Some("shutil")) => paths.extend(self.two(at + 2, true)),
                ("copy" | "copy2" | "copyfile", Some("shutil")) => paths.extend(self.two(at + 2, false)),
                ("input" | "FileInput", Some("fileinput")) if self.has_word_in_call(at + 1, "inplace") => {
                    paths.extend(self.argument(at + 2).map(|(paths, _)| paths).unwrap_or_default());
                }
                ("rmtree", Some("shutil")) => {
                    trees.extend(self.argument(at + 2).map(|(paths, _)| paths).unwrap_or_default())
                }
                (word, _) if language == Language::JavaScript && WRITES_FIRST.contains(&word) => {
                    paths.extend(self.argument(at + 2).map(|(paths, _)| paths).unwrap_or_default());
                }
                (word, _) if MOVES.contains(&word) => paths.extend(self.two(at + 2, true)),
                (word, _) if COPIES.contains(&word) => paths.extend(self.two(at + 2, false)),
                _ if language == Language::Python && !is_free => paths.extend(self.method(at)),
                _ => {}
            }
        }
        let paths = paths.into_iter().map(|path| Written { path, is_tree: false });
        paths.chain(trees.into_iter().map(|path| Written { path, is_tree: true })).collect()
    }

    /// Whether a name occurs between the brackets of a call.
    fn has_word_in_call(&self, at: usize, word: &str) -> bool {
        let inner = self.tokens.iter().skip(at).take_while(|token| !matches!(token, Token::Sign(')') | Token::End));
        inner.into_iter().any(|token| name(Some(token)) == Some(word))
    }

    /// The file that `open(path, "w")` opens for writing.
    fn opened(&self, at: usize) -> Vec<String> {
        let Some((paths, end)) = self.argument(at) else { return Vec::new() };
        if is_sign(self.tokens.get(end), ',') && self.is_write_mode(end + 1) { paths } else { Vec::new() }
    }

    fn is_write_mode(&self, at: usize) -> bool {
        let is_named = name(self.tokens.get(at)) == Some("mode") && is_sign(self.tokens.get(at + 1), '=');
        match self.tokens.get(if is_named { at + 2 } else { at }) {
            Some(Token::Text(mode)) => mode.len() <= 4 && mode.contains(['w', 'a', 'x', '+']),
            _ => false,
        }
    }

    /// Both files of `rename(a, b)`, but only the second file of `copy(a, b)`.
    fn two(&self, at: usize, both: bool) -> Vec<String> {
        let Some((first, end)) = self.argument(at) else { return Vec::new() };
        let Some((second, _)) = self.argument(end + 1).filter(|_| is_sign(self.tokens.get(end), ',')) else {
            return Vec::new();
        };
        if both { [first, second].concat() } else { second }
    }

    /// The file of `path.write_text(…)` and similar methods.
    fn method(&self, at: usize) -> Vec<String> {
        let method = name(self.tokens.get(at)).unwrap_or("");
        let writes = match method {
            "write_text" | "write_bytes" | "unlink" | "touch" | "rename" => true,
            "open" => self.is_write_mode(at + 2),
            _ => false,
        };
        if !writes {
            return Vec::new();
        }
        let owner = at.saturating_sub(2);
        if let Some(word) = name(self.tokens.get(owner)) {
            return self
                .known(word)
                .filter(|binding| binding.is_path)
                .map(|binding| binding.values.clone())
                .unwrap_or_default();
        }
        // `Path("a").write_text(…)` and `(Path("a") / "b").write_text(…)`.
        let start = (at.saturating_sub(14)..at).find(|start| {
            let before = start.checked_sub(1).and_then(|n| self.tokens.get(n));
            let is_start = !is_sign(before, '.');
            is_start
                && path_literal(&self.tokens, *start).is_some_and(|(_, end)| {
                    end + 1 == at || end + 2 == at && is_sign(before, '(') && is_sign(self.tokens.get(end), ')')
                })
        });
        if let Some((path, _)) = start.and_then(|start| path_literal(&self.tokens, start)) {
            return vec![path];
        }
        // `Path(name).write_text(…)`
        let of_name = at
            .checked_sub(5)
            .filter(|n| name(self.tokens.get(*n)) == Some("Path") && is_sign(self.tokens.get(n + 1), '('));
        of_name
            .and_then(|n| self.argument(n + 2))
            .filter(|(_, end)| end + 2 == at)
            .map(|(paths, _)| paths)
            .unwrap_or_default()
    }

    /// The file of `open(my $fh, '>', 'a')` and `open(F, '>a')`.
    fn perl_open(&self, at: usize) -> Option<String> {
        let near = self.tokens.iter().enumerate().skip(at + 1).take(8);
        for (n, token) in near {
            match token {
                Token::End => return None,
                Token::Text(mode) if matches!(mode.as_str(), ">" | ">>" | "+<" | "+>") => {
                    let is_next = is_sign(self.tokens.get(n + 1), ',');
                    return self.argument(n + 2).filter(|_| is_next).and_then(|(paths, _)| paths.first().cloned());
                }
                Token::Text(text) => {
                    let path = text.strip_prefix('>').map(|rest| rest.trim_start_matches('>').trim());
                    return path.filter(|path| !path.is_empty() && !path.starts_with('&')).map(str::to_owned);
                }
                _ => {}
            }
        }
        None
    }
}
