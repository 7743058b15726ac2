//! Programs that replace a file with its compressed form, or with its uncompressed form.

use super::Run;
use super::downloads_and_archives::one_option_per_word;
use super::options::{Options, Spec};
use crate::shell_writes::builtins::last_component;
use crate::shell_writes::evaluator::StreamText;
use crate::shell_writes::shell_state::Field;

const COMPRESS: Spec = Spec::new(
    "SFTCMbp",
    &["suffix", "format", "threads", "check", "memlimit", "memlimit-compress", "memlimit-decompress", "processes"],
);
const ZSTD: Spec =
    Spec::new("oD", &["output-dir-flat", "output-dir-mirror", "filelist", "patch-from", "threads", "memory", "trace"]);

/// The options with which a compressor does not write any file.
const READS: &[&str] = &["t", "test", "l", "list", "h", "H", "help", "V", "version"];

/// Endings of compressed files, each with the ending of the uncompressed file. The first ending is the usual one.
type Endings = &'static [(&'static str, &'static str)];

const GZIP_ENDINGS: Endings =
    &[(".gz", ""), (".tgz", ".tar"), (".taz", ".tar"), (".z", ""), (".Z", ""), ("-gz", ""), ("-z", ""), ("_z", "")];
const BZIP2_ENDINGS: Endings = &[(".bz2", ""), (".bz", ""), (".tbz2", ".tar"), (".tbz", ".tar")];
const XZ_ENDINGS: Endings = &[(".xz", ""), (".txz", ".tar"), (".lzma", ""), (".tlz", ".tar")];
const LZMA_ENDINGS: Endings = &[(".lzma", ""), (".tlz", ".tar")];
const ZSTD_ENDINGS: Endings = &[
    (".zst", ""),
    (".tzst", ".tar"),
    (".gz", ""),
    (".tgz", ".tar"),
    (".xz", ""),
    (".txz", ".tar"),
    (".lzma", ""),
    (".lz4", ""),
    (".tlz4", ".tar"),
];

/// The rule for `gzip` and similar programs. Without `-f`, they do not overwrite a file.
pub(super) fn compress(run: &mut Run) -> StreamText {
    let options = COMPRESS.parse(run.arguments);
    if options.has(&["c", "stdout", "to-stdout"]) || options.has(READS) {
        return StreamText::Unknown;
    }
    let endings = match run.name {
        "gzip" | "gunzip" | "pigz" | "unpigz" => GZIP_ENDINGS,
        "bzip2" | "bunzip2" => BZIP2_ENDINGS,
        "lzma" | "unlzma" => LZMA_ENDINGS,
        _ if options.value(&["F", "format"]).and_then(Field::text) == Some("lzma") => LZMA_ENDINGS,
        _ => XZ_ENDINGS,
    };
    let unpacks = unpacks(run, &options);
    let suffix = options.value(&["S", "suffix"]).and_then(Field::text);
    let is_forced = options.has(&["f", "force"]);
    let keeps = options.has(&["k", "keep"]);
    for path in options.texts().filter(|path| *path != "-") {
        if run.is_folder(path) {
            if options.has(&["r", "recursive"]) && !unpacks && !keeps {
                run.evaluator.write_all(run.state, path);
            }
            continue;
        }
        let is_packed = endings.iter().any(|(ending, _)| path.ends_with(ending));
        let other = match suffix {
            Some(suffix) if unpacks => path.strip_suffix(suffix).map(str::to_owned),
            Some(suffix) => (!path.ends_with(suffix)).then(|| format!("{path}{suffix}")),
            None if unpacks && endings == BZIP2_ENDINGS && !is_packed => Some(format!("{path}.out")),
            None if unpacks => unpacked(path, endings),
            // The programs skip a file that is already compressed.
            None => (!is_packed).then(|| format!("{path}{}", endings[0].0)),
        };
        let Some(other) = other.filter(|other| is_forced || run.is_free(other)) else { continue };
        run.write(&other);
        if !keeps {
            run.write(path);
        }
    }
    StreamText::Unknown
}

/// The rule for `zstd`, which keeps its input, and for `zstd files -o file`.
pub(super) fn zstd(run: &mut Run) -> StreamText {
    let options = ZSTD.parse(&zstd_arguments(run.arguments));
    let is_to_stdout = matches!(options.last(&["c", "stdout", "o"]), Some("c" | "stdout"));
    // With `-b`, `zstd` only measures its speed, and writes no file.
    if is_to_stdout || options.has(READS) || options.has(&["b", "output-dir-mirror"]) {
        return StreamText::Unknown;
    }
    let is_forced = options.has(&["f", "force"]);
    let removes_input = options.last(&["rm", "k", "keep"]) == Some("rm");
    let one_output = options.value(&["o"]);
    if options.has(&["train", "train-cover", "train-fastcover", "train-legacy"]) {
        run.write_field(one_output.or(Some(&Field::Known("dictionary".to_owned()))));
        return StreamText::Unknown;
    }
    // Without `-f`, `zstd` asks before it writes several files into one, and an agent can't answer.
    if one_output.is_some() && options.operands.len() > 1 && !is_forced {
        return StreamText::Unknown;
    }
    let ending = match options.value(&["format"]).and_then(Field::text) {
        Some("gzip") => ".gz",
        Some("xz") => ".xz",
        Some("lzma") => ".lzma",
        Some("lz4") => ".lz4",
        _ => ".zst",
    };
    let unpacks = unpacks(run, &options);
    let folder = options.value(&["output-dir-flat"]).map(Field::text);
    if let Some(output) = one_output.and_then(Field::text).filter(|output| is_forced || run.is_free(output)) {
        run.write(output);
    }
    for path in options.texts().filter(|path| *path != "-" && !run.is_folder(path)).collect::<Vec<_>>() {
        let other = match (one_output, unpacks) {
            (Some(output), _) => output.text().map(str::to_owned),
            (None, true) => unpacked(path, ZSTD_ENDINGS),
            (None, false) => Some(format!("{path}{ending}")),
        };
        let other = match (other, folder) {
            (Some(other), Some(folder)) => folder.map(|folder| format!("{folder}/{}", last_component(&other))),
            (other, _) => other,
        };
        let Some(other) = other.filter(|other| is_forced || run.is_free(other)) else { continue };
        run.write(&other);
        if removes_input {
            run.write(path);
        }
    }
    StreamText::Unknown
}

/// The arguments of `zstd` with one option per word. The value of `-o` and `-D` follows `=`, or it is the next word,
/// even if more letters follow the option: `zstd -of a b` is `zstd -o a -f b`.
fn zstd_arguments(arguments: &[Field]) -> Vec<Field> {
    let mut words = Vec::new();
    let mut rest = arguments.iter();
    while let Some(field) = rest.next() {
        match field.text() {
            Some("--") => {
                words.push(field.clone());
                words.extend(rest.by_ref().cloned());
            }
            Some(text) if text.starts_with('-') && !text.starts_with("--") && text.len() > 1 => {
                let letters = &text[1..];
                let (letters, value) = letters.split_once('=').map_or((letters, None), |(l, value)| (l, Some(value)));
                let value = value.map(|value| Field::Known(value.to_owned()));
                words.extend(one_option_per_word(
                    letters,
                    ZSTD.short,
                    &mut value.into_iter().chain(rest.by_ref().cloned()),
                ));
            }
            _ => words.push(field.clone()),
        }
    }
    words
}

/// Whether the program unpacks its input.
fn unpacks(run: &Run, options: &Options) -> bool {
    match options.last(&["d", "decompress", "uncompress", "z", "compress"]) {
        Some(name) => !matches!(name, "z" | "compress"),
        None => run.name.starts_with("un") || run.name.contains("unzip"),
    }
}

/// The path of the uncompressed file, if the compressed file has one of these endings.
fn unpacked(path: &str, endings: Endings) -> Option<String> {
    let found = endings.iter().find_map(|(ending, other)| path.strip_suffix(ending).map(|start| (start, other)));
    found.map(|(start, other)| format!("{start}{other}"))
}
