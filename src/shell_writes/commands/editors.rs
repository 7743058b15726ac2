//! Programs that edit files in place.

use super::awk_script::AwkScript;
use super::options::Spec;
use super::sed_script;
use super::{Run, run_script};
use crate::shell_writes::evaluator::StreamText;
use crate::shell_writes::shell_state::{Field, Shell};

const SED: Spec = Spec { short: "efl", attached: "i", long: &["expression", "file", "line-length"], stops: false };
const SD: Spec = Spec::new("nf", &["max-replacements", "flags"]);
const PERL: Spec = Spec { short: "eE", attached: "iMmIFCxVdDT", long: &[], stops: true };
const AWK: Spec =
    Spec { short: "ivfFEl", attached: "", long: &["include", "assign", "file", "field-separator"], stops: true };
const YQ: Spec = Spec::new("IopP", &["indent", "output-format", "input-format", "expression", "from-file"]);
const ED: Spec = Spec::new("ScpuTw", &["cmd"]);

/// The rule for `sed -i`, in GNU's form and in BSD's form.
pub(super) fn sed(run: &mut Run) -> StreamText {
    let mut arguments = run.arguments.to_vec();
    let mut suffix = String::new();
    // In BSD's form, the word after `-i` is the suffix of a backup file. The suffix is often empty. In GNU's form, the
    // word after `-i` is a script or a file. No useful script is empty or begins with a dot, so an empty word, or a
    // word such as `.bak`, is assumed to be a suffix.
    let at = arguments.iter().position(|field| matches!(field.text(), Some("-i" | "-Ei" | "-ni" | "-I")));
    if let Some(at) = at
        && let Some(Field::Known(word)) = arguments.get(at + 1)
        && (word.is_empty() || word.starts_with('.') && word.len() < 12 && !word.contains(['/', ' ']))
    {
        suffix = word.clone();
        arguments.remove(at + 1);
    }
    let options = SED.parse(&arguments);
    let has_script = options.has(&["e", "f", "expression", "file"]);
    let scripts: Vec<&str> = if has_script {
        options.values(&["e", "expression"]).filter_map(Field::text).collect()
    } else {
        options.operands.first().and_then(Field::text).into_iter().collect()
    };
    let named = sed_script::written_files(&scripts.join("\n")).filter(|_| !options.has(&["sandbox"]));
    named.iter().flatten().for_each(|path| run.write(path));
    if !options.has(&["i", "I", "in-place"]) {
        return StreamText::Unknown;
    }
    if let Some(Field::Known(word)) = options.value(&["i", "in-place"]) {
        suffix = word.clone();
    }
    if options.has_many && !has_script && options.operands.first() == Some(&Field::Many) {
        return StreamText::Unknown;
    }
    for path in options.operands.iter().skip(usize::from(!has_script)).filter_map(Field::text) {
        if options.has(&["follow-symlinks"]) {
            run.write(path);
        } else {
            run.replace(path);
        }
        if !suffix.is_empty() && !suffix.contains(['*', '/']) {
            run.write(&format!("{path}{suffix}"));
        }
    }
    StreamText::Unknown
}

/// The rule for `sd old new files`, which edits the files in place.
pub(super) fn sd(run: &mut Run) -> StreamText {
    let options = SD.parse(run.arguments);
    if !options.has(&["p", "preview", "help", "version", "h", "V"]) {
        options.operands.iter().skip(2).filter_map(Field::text).for_each(|path| run.replace(path));
    }
    StreamText::Unknown
}

/// The rule for `perl` and `ruby`. With `-i`, they edit files in place. Without `-i`, a script on the command line may
/// write files.
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
        run.replace(path);
        suffix.iter().for_each(|suffix| run.write(&format!("{path}{suffix}")));
    }
    StreamText::Unknown
}

/// Removes the digits from an option such as `-0777` or `-l012`. Letters after the digits are other options.
fn without_digits(field: &Field) -> Field {
    match field.text() {
        Some(text) if text.starts_with("-0") || text.starts_with("-l") => {
            let rest: String = text[2..].trim_start_matches(|c: char| c.is_ascii_digit()).to_owned();
            Field::Known(format!("-{}{rest}", &text[1..2]))
        }
        _ => field.clone(),
    }
}

/// The rule for `awk -i inplace`, and for scripts with `print > "file"`.
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
        let assigned: Vec<(&str, &str)> =
            options.values(&["v", "assign"]).filter_map(|field| field.text()?.split_once('=')).collect();
        let script = AwkScript { script, assigned: &assigned };
        let (files, commands) = script.outputs();
        files.iter().for_each(|path| run.write(path));
        commands.iter().for_each(|command| {
            run_script(run, Shell::Posix, command, &[]);
        });
    }
    StreamText::Unknown
}

/// The rule for `yq -i`.
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

/// The rule for `ed` and similar editors. A write is recorded only if an editor command that writes the file is found.
pub(super) fn ed(run: &mut Run) -> StreamText {
    let options = ED.parse(run.arguments);
    let is_write = |line: &str| {
        let line = line.trim().trim_start_matches([':', '%']);
        matches!(line, "w" | "wq" | "x" | "w!" | "wq!" | "wqa" | "wa" | "xa" | "update" | "wq|q")
    };
    let input = run.input.text().map(|text| if run.name == "ed" { ed_commands(text) } else { text.to_owned() });
    let commands = options.values(&["c", "cmd"]).filter_map(Field::text);
    let plus = options.texts().filter_map(|word| word.strip_prefix('+'));
    let given: Vec<&str> = commands.chain(plus).chain(input.as_deref()).collect();
    if given.iter().flat_map(|text| text.split(['\n', '|'])).any(is_write) {
        options.texts().filter(|word| !word.starts_with('+')).for_each(|path| run.write(path));
    }
    StreamText::Unknown
}

/// The commands in an `ed` script, without the text that the commands `a`, `i` and `c` insert.
fn ed_commands(script: &str) -> String {
    let mut commands = String::new();
    let mut is_text = false;
    for line in script.lines() {
        if is_text {
            is_text = line != ".";
            continue;
        }
        commands.push_str(line);
        commands.push('\n');
        let command = line.trim_start_matches(|c: char| c.is_ascii_digit() || "$.,+- %".contains(c));
        is_text = matches!(command, "a" | "i" | "c");
    }
    commands
}
