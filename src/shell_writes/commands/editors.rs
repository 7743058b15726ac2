//! Programs that edit files in place.

use super::Run;
use super::options::Spec;
use crate::shell_writes::evaluator::StreamText;
use crate::shell_writes::shell_state::Field;

const SED: Spec = Spec { short: "efl", attached: "i", long: &["expression", "file", "line-length"], stops: false };
const PERL: Spec = Spec { short: "eE", attached: "iMmIFCxVdDT", long: &[], stops: true };
const AWK: Spec =
    Spec { short: "ivfFEl", attached: "", long: &["include", "assign", "file", "field-separator"], stops: true };
const YQ: Spec = Spec::new("IopP", &["indent", "output-format", "input-format", "expression", "from-file"]);
const ED: Spec = Spec::new("ScpuTw", &["cmd"]);

/// `sed -i`, in the form of GNU and in the form of BSD.
pub(super) fn sed(run: &mut Run) -> StreamText {
    let mut arguments = run.arguments.to_vec();
    let mut suffix = String::new();
    // In the BSD form, the word after `-i` is the suffix for a copy, and this suffix is often empty. GNU sed would take
    // that word for a script: an empty script does nothing, and a script that begins with a dash is an error.
    let at = arguments.iter().position(|field| matches!(field.text(), Some("-i" | "-Ei" | "-ni" | "-I")));
    if let Some(at) = at
        && let Some(Field::Known(word)) = arguments.get(at + 1)
        && (word.is_empty() || word.starts_with('.') && word.len() < 12 && !word.contains(['/', ' ']))
    {
        suffix = word.clone();
        arguments.remove(at + 1);
    }
    let options = SED.parse(&arguments);
    if !options.has(&["i", "I", "in-place"]) {
        return StreamText::Unknown;
    }
    if let Some(Field::Known(word)) = options.value(&["i", "in-place"]) {
        suffix = word.clone();
    }
    let has_script = options.has(&["e", "f", "expression", "file"]);
    if options.has_many && !has_script && options.operands.first() == Some(&Field::Many) {
        return StreamText::Unknown;
    }
    for path in options.operands.iter().skip(usize::from(!has_script)).filter_map(Field::text) {
        run.write(path);
        if !suffix.is_empty() && !suffix.contains(['*', '/']) {
            run.write(&format!("{path}{suffix}"));
        }
    }
    StreamText::Unknown
}

/// `perl -i` and `ruby -i`. Without `-i`, the files that a script on the command line opens for writing.
pub(super) fn perl(run: &mut Run) -> StreamText {
    let arguments: Vec<Field> = run.arguments.iter().map(without_digits).collect();
    let options = PERL.parse(&arguments);
    let has_script = options.has(&["e", "E"]);
    if !options.has(&["i"]) {
        let scripts: Vec<String> = options.values(&["e", "E"]).filter_map(Field::text).map(str::to_owned).collect();
        return super::inline_scripts::interpreted(run, &scripts, has_script || !options.operands.is_empty());
    }
    let suffix = options.value(&["i"]).and_then(Field::text).filter(|suffix| !suffix.contains(['*', '/']));
    for path in options.operands.iter().skip(usize::from(!has_script)).filter_map(Field::text) {
        run.write(path);
        suffix.iter().for_each(|suffix| run.write(&format!("{path}{suffix}")));
    }
    StreamText::Unknown
}

/// `-0777` and `-l012` have only digits after the letter, so more letters may follow the digits.
fn without_digits(field: &Field) -> Field {
    match field.text() {
        Some(text) if text.starts_with("-0") || text.starts_with("-l") => {
            let rest: String = text[2..].trim_start_matches(|c: char| c.is_ascii_digit()).to_owned();
            Field::Known(format!("-{}{rest}", &text[1..2]))
        }
        _ => field.clone(),
    }
}

/// `awk -i inplace`, and `print > "file"` in a script on the command line.
pub(super) fn awk(run: &mut Run) -> StreamText {
    let options = AWK.parse(run.arguments);
    let is_in_place = options.values(&["i", "include"]).any(|field| field.text() == Some("inplace"));
    if is_in_place {
        let has_script = options.has(&["f", "file", "E"]);
        let files = options.operands.iter().skip(usize::from(!has_script)).filter_map(Field::text);
        files.filter(|word| !word.contains('=')).for_each(|path| run.write(path));
    }
    if !options.has(&["f", "file", "E"])
        && let Some(Field::Known(script)) = options.operands.first()
    {
        printed_to(script).iter().for_each(|path| run.write(path));
    }
    StreamText::Unknown
}

/// The files to which a script of awk prints, if their names are literals.
fn printed_to(script: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut prints = false;
    let mut rest = script;
    while let Some(first) = rest.chars().next() {
        match first {
            '"' => {
                let Some((_, behind)) = awk_literal(rest) else { return found };
                rest = behind;
                continue;
            }
            '{' | '}' | ';' | '\n' => prints = false,
            '#' => rest = &rest[rest.find('\n').unwrap_or(rest.len() - 1)..],
            'p' if rest.starts_with("print") => prints = true,
            // In a condition, the sign compares.
            '>' if prints => {
                let target = rest.trim_start_matches('>').trim_start_matches(' ');
                let literal = awk_literal(target);
                let ends = |behind: &str| {
                    behind.trim_start_matches(' ').starts_with([';', '}', '\n']) || behind.trim().is_empty()
                };
                found.extend(literal.filter(|(_, behind)| ends(behind)).map(|(text, _)| text));
                rest = target;
                continue;
            }
            _ => {}
        }
        rest = &rest[first.len_utf8()..];
    }
    found
}

/// The string literal at the beginning of a text, if it has no escapes, and the text behind it.
fn awk_literal(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('"')?;
    let end = inner.find(['"', '\\'])?;
    let behind = inner[end..].strip_prefix('"')?;
    Some((inner[..end].to_owned(), behind))
}

/// `yq -i`.
pub(super) fn yq(run: &mut Run) -> StreamText {
    let options = YQ.parse(run.arguments);
    if !options.has(&["i", "inplace", "in-place"]) {
        return StreamText::Unknown;
    }
    let mut operands = options.operands.iter();
    if matches!(options.operands.first().and_then(Field::text), Some("e" | "ea" | "eval" | "eval-all" | "w" | "write"))
    {
        operands.next();
    }
    if !options.has(&["expression", "from-file"]) {
        operands.next();
    }
    operands.filter_map(Field::text).for_each(|path| run.write(path));
    StreamText::Unknown
}

/// `ed` and similar editors, if their commands are known and write the file.
pub(super) fn ed(run: &mut Run) -> StreamText {
    let options = ED.parse(run.arguments);
    let is_write = |line: &str| {
        let line = line.trim().trim_start_matches([':', '%']);
        matches!(line, "w" | "wq" | "x" | "w!" | "wq!" | "wqa" | "wa" | "xa" | "update" | "wq|q")
    };
    let commands = options.values(&["c", "cmd"]).filter_map(Field::text);
    let plus = options.texts().filter_map(|word| word.strip_prefix('+'));
    let given: Vec<&str> = commands.chain(plus).chain(run.input.text()).collect();
    if given.iter().flat_map(|text| text.split(['\n', '|'])).any(is_write) {
        options.texts().filter(|word| !word.starts_with('+')).for_each(|path| run.write(path));
    }
    StreamText::Unknown
}
