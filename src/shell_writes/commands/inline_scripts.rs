//! Finds the files that a script in Python, JavaScript or another language writes. The script comes from the command
//! line or from standard input. A path is found only if it is a plain literal.

use super::inline_script_dead_code::{without_uncalled_blocks, without_uncalled_functions};
use super::inline_script_tokens::{Language, Token, tokens};
use super::inline_script_variables::{bindings, is_sign, name};
use super::options::Spec;
use super::script_writes::{ScriptWrite, Snippet};
use super::{Run, formatters, run_script};
use crate::shell_writes::evaluator::StreamText;
use crate::shell_writes::shell_state::{Field, Shell};

const PYTHON: Spec = Spec { short: "cWX", attached: "", long: &["check-hash-based-pycs"], stops: true };
const NODE: Spec =
    Spec { short: "epr", attached: "", long: &["eval", "print", "require", "import", "input-type"], stops: true };
const PHP: Spec = Spec { short: "rcdfBRFEtSz", attached: "", long: &[], stops: true };
/// Maximum length of a script, in bytes. A longer script is not analysed.
const SCRIPT_MAX: usize = 256 * 1024;

/// The rule for `python -c script`, `python - <<END`, and `python -m black`.
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
    // The elements of `sys.argv`. With `-c`, one more element comes before the operands. Without `-c`, there is no such
    // element: the first operand, `-`, is the first element.
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

/// The rule for `node -e script`, and for a script on standard input.
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

/// Finds the files that scripts in Perl or Ruby write.
pub(super) fn interpreted(run: &mut Run, scripts: &[String], has_script: bool) -> StreamText {
    let language = if run.name == "perl" { Language::Perl } else { Language::Ruby };
    look_into(run, scripts, language, has_script, &[]);
    StreamText::Unknown
}

/// The rule for `php -r script`.
pub(super) fn php(run: &mut Run) -> StreamText {
    let options = PHP.parse(run.arguments);
    let scripts: Vec<String> = options.values(&["r"]).filter_map(Field::text).map(str::to_owned).collect();
    let has_script = !options.operands.is_empty() || options.has(&["r", "l", "v", "i", "s", "w"]);
    look_into(run, &scripts, Language::Php, has_script, &[]);
    StreamText::Unknown
}

/// Finds the files that scripts write. If the command line contains no script, the script is read from standard input.
/// `arguments` are the elements of `sys.argv`.
fn look_into(run: &mut Run, scripts: &[String], language: Language, has_script: bool, arguments: &[Field]) {
    let input = run.input.text().filter(|_| !has_script).map(str::to_owned);
    for script in scripts.iter().cloned().chain(input) {
        if script.len() > SCRIPT_MAX || !run.evaluator.spend(script.len() / 8) {
            continue;
        }
        let script = if language == Language::Python { without_uncalled_blocks(&script) } else { script };
        let Some(tokens) = tokens(&script, language) else { continue };
        let tokens = without_uncalled_functions(with_arguments(tokens, arguments), language);
        // If the script may change the directory, only absolute paths are certain. Commands and relative paths are
        // ignored.
        let moves = tokens.iter().any(|token| matches!(token, Token::Name(name) if name == "chdir"));
        let snippet = Snippet { bindings: bindings(&tokens), tokens, language };
        let created_if_missing = snippet.created_if_missing();
        for write in snippet.writes() {
            match write {
                ScriptWrite::File(path) if created_if_missing.contains(&path) && exists(run, &path) => {}
                ScriptWrite::File(path) if !moves || path.starts_with('/') => run.write(&path),
                ScriptWrite::Tree(path) if !moves || path.starts_with('/') => {
                    run.evaluator.write_all(run.state, &path);
                }
                ScriptWrite::Command(script) if !moves => {
                    run_script(run, Shell::Posix, &script, &[]);
                }
                ScriptWrite::Program(words) if !moves => {
                    let words: Vec<Field> = words.into_iter().map(Field::Known).collect();
                    let mut inner = run.evaluator.copy(run.state);
                    run.evaluator.call(&mut inner, &words, &StreamText::Unknown);
                }
                _ => {}
            }
        }
    }
}

fn exists(run: &mut Run, path: &str) -> bool {
    let path = run.evaluator.resolve(run.state, path);
    path.is_some_and(|path| run.evaluator.exists(&path))
}

/// Replaces each `sys.argv[n]` with a literal, if its value is known.
fn with_arguments(tokens: Vec<Token>, arguments: &[Field]) -> Vec<Token> {
    let argument = |at: usize| {
        let is_argv = name(tokens.get(at)) == Some("sys")
            && is_sign(tokens.get(at + 1), '.')
            && name(tokens.get(at + 2)) == Some("argv")
            && is_sign(tokens.get(at + 3), '[')
            && is_sign(tokens.get(at + 5), ']');
        let number: usize = name(tokens.get(at + 4)).filter(|_| is_argv)?.parse().ok()?;
        // An argument that stands for any number of words makes all later positions unknown.
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
