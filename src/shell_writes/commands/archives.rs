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
    "fCTXbI",
    &["file", "directory", "exclude", "files-from", "transform", "strip-components", "use-compress-program"],
);
const UNZIP: Spec = Spec::new("dxP", &[]);
const ZIP: Spec = Spec::new("xibtn", &["exclude", "include"]);
const COMPRESS: Spec = Spec::new("SoT", &["suffix", "threads"]);

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

/// The rule for `tar`. It finds the archive that `tar` creates or changes, and those unpacked files that the command
/// names.
pub(super) fn tar(run: &mut Run) -> StreamText {
    // In the first word, the dash before the option letters is optional, as in `tar xf`.
    let mut arguments = run.arguments.to_vec();
    if let Some(Field::Known(first)) = arguments.first_mut()
        && !first.starts_with('-')
    {
        first.insert(0, '-');
    }
    let options = TAR.parse(&arguments);
    let writes_archive = options.has(&["c", "r", "u", "A", "create", "append", "update"]);
    if writes_archive {
        run.write_field(options.value(&["f", "file"]).filter(|field| field.text() != Some("-")));
        return StreamText::Unknown;
    }
    let changes_names =
        options.has(&["transform", "strip-components", "strip", "O", "to-stdout", "k", "keep-old-files"]);
    if !options.has(&["x", "extract", "get"]) || changes_names {
        return StreamText::Unknown;
    }
    let folder = options.value(&["C", "directory"]).map(Field::text);
    unpack(run, options.texts(), folder);
    StreamText::Unknown
}

/// The rule for `unzip archive members -d folder`, if `-o` makes it overwrite files without asking.
pub(super) fn unzip(run: &mut Run) -> StreamText {
    let options = UNZIP.parse(run.arguments);
    if options.has(&["o"]) && !options.has(&["l", "p", "t", "v", "Z", "n", "j"]) {
        let folder = options.value(&["d"]).map(Field::text);
        unpack(run, options.texts().skip(1), folder);
    }
    StreamText::Unknown
}

fn unpack<'t>(run: &mut Run, members: impl Iterator<Item = &'t str>, folder: Option<Option<&str>>) {
    for member in members {
        match folder {
            None => run.write(member),
            Some(Some(folder)) => run.write(&format!("{folder}/{member}")),
            Some(None) => {}
        }
    }
}

/// The rule for `zip archive files`.
pub(super) fn zip(run: &mut Run) -> StreamText {
    let options = ZIP.parse(run.arguments);
    if let Some(archive) = options.operands.first().and_then(Field::text).filter(|archive| *archive != "-") {
        let has_ending = last_component(archive).contains('.');
        run.write(&if has_ending { archive.to_owned() } else { format!("{archive}.zip") });
    }
    if options.has(&["m"]) {
        options.texts().skip(1).for_each(|path| run.evaluator.write_all(run.state, path));
    }
    StreamText::Unknown
}

/// The rule for `gzip` and similar programs. They replace a file with its compressed form, or with its uncompressed
/// form.
pub(super) fn compress(run: &mut Run) -> StreamText {
    let options = COMPRESS.parse(run.arguments);
    if options.has(&["c", "stdout", "to-stdout", "t", "test", "l", "list"]) {
        return StreamText::Unknown;
    }
    let ending = match run.name {
        "gzip" | "gunzip" => ".gz",
        "bzip2" | "bunzip2" => ".bz2",
        "zstd" => ".zst",
        _ => ".xz",
    };
    let unpacks = run.name.contains("un") || options.has(&["d", "decompress", "uncompress"]);
    let keeps = options.has(&["k", "keep"]) || run.name == "zstd";
    for path in options.texts().filter(|path| *path != "-") {
        let other =
            if unpacks { path.strip_suffix(ending).map(str::to_owned) } else { Some(format!("{path}{ending}")) };
        let Some(other) = other else { continue };
        run.write(&other);
        if !keeps {
            run.write(path);
        }
    }
    StreamText::Unknown
}
