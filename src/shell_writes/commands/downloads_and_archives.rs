//! Programs that download, pack and unpack files.

use super::Run;
use super::options::Spec;
use crate::shell_writes::builtins::last_component;
use crate::shell_writes::evaluator::StreamText;
use crate::shell_writes::shell_state::Field;

const CURL: Spec = Spec::new(
    "AbcCdDeEFHKmoPQrtTuUwxXyYz",
    &[
        "output",
        "output-dir",
        "header",
        "data",
        "data-raw",
        "data-binary",
        "data-urlencode",
        "request",
        "user",
        "user-agent",
        "cookie",
        "cookie-jar",
        "dump-header",
        "form",
        "max-time",
        "connect-timeout",
        "retry",
        "retry-delay",
        "write-out",
        "url",
        "proxy",
        "range",
        "referer",
        "cacert",
        "cert",
        "key",
        "resolve",
        "json",
        "limit-rate",
        "upload-file",
    ],
);
const WGET: Spec = Spec::new(
    "OoaPUeTtQwAiRDIXl",
    &[
        "output-document",
        "output-file",
        "append-output",
        "directory-prefix",
        "header",
        "user-agent",
        "timeout",
        "tries",
    ],
);
const TAR: Spec = Spec::new(
    "fCTXbIFKNVgHL",
    &[
        "file",
        "directory",
        "exclude",
        "exclude-from",
        "files-from",
        "format",
        "listed-incremental",
        "newer",
        "owner",
        "group",
        "mode",
        "mtime",
        "transform",
        "xform",
        "strip-components",
        "to-command",
        "use-compress-program",
    ],
);
const UNZIP: Spec = Spec::new("dxP", &[]);
const ZIP: Spec =
    Spec::new("xibtnOPs", &["exclude", "include", "out", "output-file", "password", "split-size", "suffixes"]);
const SEVEN_ZIP: Spec = Spec { short: "", attached: "abimoprstuvwx", long: &[], stops: false };
const CPIO: Spec = Spec::new("CDEFHIMOR", &["directory", "file", "format", "owner", "pattern-file"]);
const AR: Spec = Spec::new("", &["output", "plugin", "target"]);

/// The rule for `curl -o file` and `curl -O url`.
pub(super) fn curl(run: &mut Run) -> StreamText {
    let options = CURL.parse(run.arguments);
    let folder = options.value(&["output-dir"]).map(Field::text);
    let place = |name: &str| match folder {
        Some(None) => None,
        Some(Some(folder)) if !name.starts_with('/') => Some(format!("{folder}/{name}")),
        _ => Some(name.to_owned()),
    };
    let named = options.values(&["o", "output"]).filter_map(Field::text).filter(|name| *name != "-");
    let mut paths: Vec<String> = named.filter_map(place).collect();
    if options.has(&["O", "remote-name", "remote-name-all"]) && !options.has(&["J", "remote-header-name"]) {
        let names = options.texts().map(|url| last_component(url.split(['?', '#']).next().unwrap_or(url)));
        paths.extend(names.filter(|name| !name.is_empty()).filter_map(place));
    }
    let others = options.values(&["c", "cookie-jar", "D", "dump-header"]).filter_map(Field::text);
    paths.extend(others.filter(|name| *name != "-").map(str::to_owned));
    paths.iter().for_each(|path| run.write(path));
    StreamText::Unknown
}

/// The rule for `wget -O file`. Without `-O`, `wget` does not overwrite files.
pub(super) fn wget(run: &mut Run) -> StreamText {
    let options = WGET.parse(run.arguments);
    let names = ["O", "output-document", "o", "output-file", "a", "append-output"];
    let paths = options.values(&names).filter_map(Field::text).filter(|path| *path != "-");
    paths.for_each(|path| run.write(path));
    StreamText::Unknown
}

/// The rule for `tar`. It finds the archive that `tar` creates or changes, and the unpacked files that the command
/// lists.
pub(super) fn tar(run: &mut Run) -> StreamText {
    let arguments = tar_arguments(run.arguments);
    let options = TAR.parse(&arguments);
    let writes_archive =
        options.has(&["c", "r", "u", "A", "create", "append", "update", "catenate", "concatenate", "delete"]);
    if writes_archive {
        run.write_field(options.value(&["f", "file"]).filter(|field| field.text() != Some("-")));
        run.write_field(options.value(&["g", "listed-incremental"]));
        if options.has(&["remove-files"]) {
            options.texts().for_each(|path| run.evaluator.write_all(run.state, path));
        }
        return StreamText::Unknown;
    }
    let changes_names = options.has(&["transform", "xform", "strip-components", "strip", "one-top-level", "s"]);
    let writes_elsewhere = options.has(&["O", "to-stdout", "to-command"]);
    let folders = options.values(&["C", "directory"]).count();
    if !options.has(&["x", "extract", "get"]) || changes_names || writes_elsewhere || folders > 1 {
        return StreamText::Unknown;
    }
    let keeps = options.has(&["k", "keep-old-files", "skip-old-files", "keep-newer-files"]);
    let folder = options.value(&["C", "directory"]).map(Field::text);
    // `-C` applies only to the members that follow it.
    let is_folder_option = |text: &str| text.starts_with("-C") || text.starts_with("--directory");
    let at = arguments.iter().position(|field| field.text().is_some_and(is_folder_option));
    let n_before = at.map_or(0, |at| TAR.parse(&arguments[..at]).operands.len());
    let (before, behind) = options.operands.split_at(n_before.min(options.operands.len()));
    unpack(run, before.iter().filter_map(Field::text), None, !keeps);
    unpack(run, behind.iter().filter_map(Field::text), folder, !keeps);
    StreamText::Unknown
}

/// The arguments of `tar` in the usual style. In the old style, the first word has no dash. Each of its letters is an
/// option, and the values of these options are the next words: `tar xfz a.tgz` is `tar -x -f a.tgz -z`.
fn tar_arguments(arguments: &[Field]) -> Vec<Field> {
    match arguments.split_first() {
        Some((Field::Known(letters), rest)) if !letters.starts_with('-') => {
            let mut rest = rest.iter().cloned();
            let mut words = one_option_per_word(letters, TAR.short, &mut rest);
            words.extend(rest);
            words
        }
        _ => arguments.to_vec(),
    }
}

/// Splits a word of option letters so that each option has a word of its own. After each option in `takes_next`,
/// inserts the option's value. The value is the next word of the command line, even if more letters follow the option.
pub(super) fn one_option_per_word(
    letters: &str,
    takes_next: &str,
    next_words: &mut impl Iterator<Item = Field>,
) -> Vec<Field> {
    let mut words = Vec::new();
    for letter in letters.chars() {
        words.push(Field::Known(format!("-{letter}")));
        if takes_next.contains(letter) {
            words.extend(next_words.next());
        }
    }
    words
}

/// The rule for `unzip archive members -d folder`. Without `-o`, `unzip` asks before it overwrites a file, and an agent
/// can't answer.
pub(super) fn unzip(run: &mut Run) -> StreamText {
    let options = UNZIP.parse(&without_lists(run.arguments, &["-x"]));
    if !options.has(&["c", "f", "j", "l", "p", "t", "v", "z", "Z"]) {
        let overwrites = options.has(&["o"]) && !options.has(&["n", "u"]);
        let folder = options.value(&["d"]).map(Field::text);
        unpack(run, options.operands.iter().skip(1).filter_map(Field::text), folder, overwrites);
    }
    StreamText::Unknown
}

/// Removes these options and their values. Each of these options takes every word up to the next option as a value, as
/// in `zip a.zip b -x c d`.
fn without_lists(arguments: &[Field], options: &[&str]) -> Vec<Field> {
    let mut is_in_list = false;
    let is_kept = |field: &&Field| {
        if let Some(text) = field.text().filter(|text| text.starts_with('-')) {
            is_in_list = options.contains(&text);
        }
        !is_in_list
    };
    arguments.iter().filter(is_kept).cloned().collect()
}

/// Records the unpacked files. If the program does not overwrite files, records only the files that do not exist yet.
fn unpack<'t>(run: &mut Run, members: impl Iterator<Item = &'t str>, folder: Option<Option<&str>>, overwrites: bool) {
    for member in members {
        let path = match folder {
            None => member.to_owned(),
            Some(Some(folder)) => format!("{folder}/{member}"),
            Some(None) => continue,
        };
        if overwrites || run.is_free(&path) {
            run.write(&path);
        }
    }
}

/// The rule for `zip archive files`.
pub(super) fn zip(run: &mut Run) -> StreamText {
    let options = ZIP.parse(&without_lists(run.arguments, &["-x", "-i"]));
    // `-sf` only lists the files that `zip` would pack.
    if options.has(&["show-files"]) || options.value(&["s"]).and_then(Field::text) == Some("f") {
        return StreamText::Unknown;
    }
    let archive = options.value(&["O", "out", "output-file"]).or(options.operands.first());
    if let Some(archive) = archive.and_then(Field::text).filter(|archive| *archive != "-") {
        run.write(&with_ending(archive, "zip"));
    }
    if options.has(&["m", "move"]) {
        let packed = options.operands.iter().skip(1).filter_map(Field::text);
        packed.for_each(|path| run.evaluator.write_all(run.state, path));
    }
    StreamText::Unknown
}

/// The path of an archive. If the file name has no ending, the program adds `ending`.
fn with_ending(archive: &str, ending: &str) -> String {
    if last_component(archive).contains('.') { archive.to_owned() } else { format!("{archive}.{ending}") }
}

/// The rule for `7z a archive files` and `7z x archive members -ofolder`.
pub(super) fn seven_zip(run: &mut Run) -> StreamText {
    let options = SEVEN_ZIP.parse(run.arguments);
    let text = |at: usize| options.operands.get(at).and_then(Field::text);
    let value = |letter: &str| options.value(&[letter]).and_then(Field::text);
    let (Some(command), Some(archive)) = (text(0), text(1)) else { return StreamText::Unknown };
    let is_to_stdout = options.values(&["s"]).any(|value| value.text() == Some("o"));
    match command {
        "a" | "u" | "d" | "rn" if !is_to_stdout => {
            let ending = match value("t").unwrap_or("7z") {
                "gzip" => "gz",
                "bzip2" => "bz2",
                kind => kind,
            };
            run.write(&with_ending(archive, ending));
            if options.values(&["s"]).any(|value| value.text() == Some("del")) {
                let packed = options.operands.iter().skip(2).filter_map(Field::text);
                packed.for_each(|path| run.evaluator.write_all(run.state, path));
            }
        }
        "x" | "e" if !is_to_stdout && !options.has(&["x"]) => {
            let overwrites = match value("a") {
                Some(mode) => mode == "oa",
                None => options.has(&["y"]),
            };
            let members = options.operands.iter().skip(2).filter_map(Field::text);
            let members = members.map(|member| if command == "e" { last_component(member) } else { member });
            unpack(run, members, options.value(&["o"]).map(Field::text), overwrites);
        }
        _ => {}
    }
    StreamText::Unknown
}

/// The rule for `cpio -o -O archive` and `cpio -iu members`. Without `-u`, `cpio` does not replace a file that is newer
/// or equally old.
pub(super) fn cpio(run: &mut Run) -> StreamText {
    let options = CPIO.parse(run.arguments);
    if options.has(&["o", "create"]) {
        run.write_field(options.value(&["O", "F", "file"]));
    } else if options.has(&["i", "extract"]) && !options.has(&["f", "nonmatching", "r", "t", "list", "to-stdout"]) {
        let folder = options.value(&["D", "directory"]).map(Field::text);
        unpack(run, options.texts(), folder, options.has(&["u", "unconditional"]));
    }
    StreamText::Unknown
}

/// The rule for `ar rcs archive files` and `ar x archive members`. In the first word, the dash is optional.
pub(super) fn ar(run: &mut Run) -> StreamText {
    let mut arguments = run.arguments.to_vec();
    if let Some(Field::Known(first)) = arguments.first_mut()
        && !first.starts_with('-')
    {
        first.insert(0, '-');
    }
    let options = AR.parse(&arguments);
    // Before the archive, `a`, `b` and `i` need the name of a member, and `N` needs a number.
    let n_before = usize::from(options.has(&["a", "b", "i"])) + usize::from(options.has(&["N"]));
    let mut operands = options.operands.iter().skip(n_before);
    let archive = operands.next();
    if options.has(&["x"]) {
        unpack(run, operands.filter_map(Field::text), options.value(&["output"]).map(Field::text), true);
    } else if options.has(&["d", "m", "q", "r", "s"]) && !options.has(&["p", "t"]) {
        run.write_field(archive);
    }
    StreamText::Unknown
}
