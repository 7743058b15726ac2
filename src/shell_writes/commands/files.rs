//! Programs that copy, move, remove and write files.

use super::Run;
use super::options::{Options, Spec};
use crate::shell_writes::builtins::last_component;
use crate::shell_writes::evaluator::StreamText;
use crate::shell_writes::shell_state::Field;

/// Maximum number of files in a folder that is copied or moved. The files of a larger folder are not reported.
const COPIED_MAX: usize = 2000;

const SHUFFLE: Spec = Spec::new("eino", &["input-range", "head-count", "output", "random-source"]);
const XXD: Spec = Spec::new("clsogn", &["cols", "len", "seek", "name"]);
const COPY: Spec = Spec::new("St", &["target-directory", "suffix"]);
const INSTALL: Spec = Spec::new("gmoSt", &["target-directory", "suffix", "group", "mode", "owner", "strip-program"]);
const TOUCH: Spec = Spec::new("drtA", &["date", "reference", "time"]);
const TRUNCATE: Spec = Spec::new("rs", &["reference", "size"]);
const SORT: Spec =
    Spec::new("kotSTm", &["output", "key", "field-separator", "buffer-size", "temporary-directory", "parallel"]);
const UNIQ: Spec = Spec::new("fsw", &["skip-fields", "skip-chars", "check-chars"]);
const RSYNC: Spec = Spec::new(
    "eBTfM",
    &[
        "exclude",
        "include",
        "rsh",
        "filter",
        "exclude-from",
        "include-from",
        "files-from",
        "timeout",
        "port",
        "log-file",
    ],
);

/// The sources and the target of `cp` and similar programs.
struct Placement {
    sources: Vec<Field>,
    target: String,
    is_folder: bool,
    /// Whether the program creates the folders of a source's path in the target, as `cp --parents` does.
    keeps_parents: bool,
}

impl Placement {
    /// The path to which a source is copied or moved.
    fn path(&self, source: &str) -> Option<String> {
        let name = last_component(source);
        if !self.is_folder {
            return Some(self.target.clone());
        }
        let name = if self.keeps_parents { source } else { name };
        let is_name = !matches!(name, "" | "." | "..");
        is_name.then(|| format!("{}/{name}", self.target.trim_end_matches('/')))
    }
}

fn placement(run: &Run, options: &Options) -> Option<Placement> {
    let keeps_parents = options.has(&["parents"]);
    if let Some(folder) = options.value(&["t", "target-directory"]) {
        let target = folder.text()?.to_owned();
        return Some(Placement { sources: options.operands.clone(), target, is_folder: true, keeps_parents });
    }
    let (target, sources) = options.operands.split_last()?;
    let target = target.text()?.to_owned();
    let is_many = sources.len() > 1 || sources.contains(&Field::Many);
    let is_folder =
        !options.has(&["T", "no-target-directory"]) && (target.ends_with('/') || is_many || run.is_folder(&target));
    (!sources.is_empty()).then(|| Placement { sources: sources.to_vec(), target, is_folder, keeps_parents })
}

/// Whether a program certainly writes to this path. If the path exists, the options `-n`, `-u` and `-i` make the write
/// uncertain, because the program may keep the old file.
fn certainly_writes(run: &mut Run, path: &str, options: &Options) -> bool {
    let overriding: &[&str] =
        if run.name == "mv" { &["i", "interactive", "f", "force"] } else { &["i", "interactive"] };
    let asks = matches!(options.last(overriding), Some("i" | "interactive"));
    let is_careful = asks || options.has(&["n", "no-clobber", "u", "update"]);
    let path = run.evaluator.resolve(run.state, path);
    !is_careful || !path.is_some_and(|path| run.evaluator.exists(&path))
}

/// The rule for `cp`.
pub(super) fn copy(run: &mut Run) -> StreamText {
    let options = COPY.parse(run.arguments);
    let is_recursive = options.has(&["r", "R", "a", "recursive", "archive"]);
    let Some(placement) = placement(run, &options) else { return StreamText::empty() };
    for source in &placement.sources {
        let Some(source) = source.text() else {
            // A single source replaces the target, even if the name of the source is unknown.
            if *source == Field::Unknown && !placement.is_folder && placement.sources.len() == 1 {
                run.write(&placement.target);
            }
            continue;
        };
        if run.is_folder(source) {
            if is_recursive {
                copy_folder(run, source, &placement);
            }
        } else if let Some(path) = placement.path(source)
            && is_file(run, source, is_recursive)
            && certainly_writes(run, &path, &options)
        {
            run.write(&path);
        }
    }
    StreamText::empty()
}

/// Whether a source is certainly a file. With `-r`, a source that does not exist yet may later be a folder.
fn is_file(run: &mut Run, source: &str, is_recursive: bool) -> bool {
    let path = run.evaluator.resolve(run.state, source);
    !is_recursive || path.is_some_and(|path| run.evaluator.exists(&path))
}

/// Records the copies of all files in a folder.
fn copy_folder(run: &mut Run, source: &str, placement: &Placement) {
    let is_content = source.ends_with("/.") || source == ".";
    let target = if is_content { Some(placement.target.clone()) } else { placement.path(source) };
    let (Some(target), Some(source)) = (target, run.evaluator.resolve(run.state, source)) else { return };
    for path in files_below(run, &source).unwrap_or_default() {
        run.write(&format!("{target}/{path}"));
    }
}

/// The paths of all files below a folder, relative to the folder. `None` if there are too many files, or if a folder
/// can't be listed.
pub(super) fn files_below(run: &mut Run, folder: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut open = vec![String::new()];
    while let Some(prefix) = open.pop() {
        for entry in run.evaluator.list_folder(&format!("{folder}/{prefix}"))?.iter() {
            let path = format!("{prefix}{}", entry.name);
            if entry.is_folder && !entry.is_link {
                open.push(path + "/");
            } else {
                found.push(path);
            }
        }
        if found.len() > COPIED_MAX {
            return None;
        }
    }
    Some(found)
}

/// The rule for `mv`.
pub(super) fn move_files(run: &mut Run) -> StreamText {
    let options = COPY.parse(run.arguments);
    let Some(placement) = placement(run, &options) else {
        // The sources are removed, even if the target is unknown.
        if let Some((_, sources)) = options.operands.split_last().filter(|_| !options.has_many) {
            sources.iter().filter_map(Field::text).for_each(|source| run.evaluator.write_all(run.state, source));
        }
        return StreamText::empty();
    };
    for source in &placement.sources {
        let Some(source) = source.text() else {
            if *source == Field::Unknown && !placement.is_folder && placement.sources.len() == 1 {
                run.write(&placement.target);
            }
            continue;
        };
        let Some(path) = placement.path(source) else { continue };
        if !certainly_writes(run, &path, &options) {
            continue;
        }
        let is_link = run.evaluator.resolve(run.state, source).is_some_and(|path| run.evaluator.files.is_link(&path));
        if run.is_folder(source) && !is_link {
            let folder = run.evaluator.resolve(run.state, source).unwrap_or_default();
            for inner in files_below(run, &folder).unwrap_or_default() {
                run.write(&format!("{path}/{inner}"));
            }
        } else {
            run.replace(&path);
        }
        run.evaluator.write_all(run.state, source);
    }
    StreamText::empty()
}

/// The rule for `ln`, which replaces an existing file only with `-f`.
pub(super) fn link(run: &mut Run) -> StreamText {
    let options = COPY.parse(run.arguments);
    let forces = options.has(&["f", "force"]) && !options.has(&["i", "interactive"]);
    let placement = match options.operands.as_slice() {
        [target] => {
            Some(Placement { sources: vec![target.clone()], target: ".".into(), is_folder: true, keeps_parents: false })
        }
        _ => placement(run, &options),
    };
    let Some(mut placement) = placement else { return StreamText::empty() };
    if options.has(&["n", "no-dereference"]) && placement.sources.len() == 1 {
        placement.is_folder &= placement.target.ends_with('/');
    }
    for source in placement.sources.iter().filter_map(Field::text) {
        let Some(path) = placement.path(source) else { continue };
        let is_free = run.evaluator.resolve(run.state, &path).is_some_and(|path| !run.evaluator.exists(&path));
        if forces || is_free {
            run.replace(&path);
        }
    }
    StreamText::empty()
}

/// The rule for `install`.
pub(super) fn install(run: &mut Run) -> StreamText {
    let options = INSTALL.parse(run.arguments);
    if options.has(&["d", "directory"]) {
        return StreamText::empty();
    }
    let Some(placement) = placement(run, &options) else { return StreamText::empty() };
    for source in placement.sources.iter().filter_map(Field::text) {
        if let Some(path) = placement.path(source) {
            run.replace(&path);
        }
    }
    StreamText::empty()
}

/// The rule for `rm` and other programs that remove files.
pub(super) fn remove(run: &mut Run) -> StreamText {
    let options = Spec::FLAGS.parse(run.arguments);
    if matches!(options.last(&["i", "interactive", "f", "force"]), Some("i" | "interactive")) {
        return StreamText::empty();
    }
    let removes_folders = options.has(&["r", "R", "recursive"]) || matches!(run.name, "trash" | "trash-put" | "rimraf");
    for path in options.texts() {
        // `rm` refuses to remove `.` and `..`.
        if matches!(last_component(path), "." | "..") {
            continue;
        }
        if removes_folders {
            run.evaluator.write_all(run.state, path);
        } else {
            run.replace(path);
        }
    }
    StreamText::empty()
}

/// The rule for `touch`.
pub(super) fn touch(run: &mut Run) -> StreamText {
    let options = TOUCH.parse(run.arguments);
    if !options.has(&["c", "no-create", "h"]) {
        options.texts().for_each(|path| run.write(path));
    }
    StreamText::empty()
}

/// The rule for `truncate`.
pub(super) fn truncate(run: &mut Run) -> StreamText {
    TRUNCATE.parse(run.arguments).texts().for_each(|path| run.write(path));
    StreamText::empty()
}

/// The rule for `tee` and `sponge`. `tee` prints its input, too.
pub(super) fn tee(run: &mut Run) -> StreamText {
    Spec::FLAGS.parse(run.arguments).texts().filter(|path| *path != "-").for_each(|path| run.write(path));
    if run.name == "tee" { run.input.clone() } else { StreamText::empty() }
}

/// The rule for `dd of=file`.
pub(super) fn dd(run: &mut Run) -> StreamText {
    run.arguments.iter().filter_map(|field| field.text()?.strip_prefix("of=")).for_each(|path| run.write(path));
    StreamText::empty()
}

/// The rule for `sort -o file`. Without `-o`, `sort` prints its input.
pub(super) fn sort(run: &mut Run) -> StreamText {
    let options = SORT.parse(run.arguments);
    run.write_field(options.value(&["o", "output"]));
    // Other rules use the output only as a list of file names. The order of the names does not matter, so the unsorted
    // input is enough.
    let prints_input = options.operands.is_empty() && !options.has(&["z", "zero-terminated", "R"]);
    if prints_input && run.input.text().is_some() { run.input.clone() } else { StreamText::Unknown }
}

/// The rule for `shuf -o file`.
pub(super) fn shuffle(run: &mut Run) -> StreamText {
    run.write_field(SHUFFLE.parse(run.arguments).value(&["o", "output"]));
    StreamText::Unknown
}

/// The rule for `xxd input output`.
pub(super) fn xxd(run: &mut Run) -> StreamText {
    run.write_field(XXD.parse(run.arguments).operands.get(1));
    StreamText::Unknown
}

/// The rule for `uniq input output`.
pub(super) fn uniq(run: &mut Run) -> StreamText {
    run.write_field(UNIQ.parse(run.arguments).operands.get(1));
    StreamText::Unknown
}

/// The rule for `rsync` between two paths on this machine.
pub(super) fn rsync(run: &mut Run) -> StreamText {
    let options = RSYNC.parse(run.arguments);
    let narrows = ["exclude", "include", "filter", "exclude-from", "include-from", "files-from", "existing", "C", "f"];
    let is_trial =
        options.has(&["n", "dry-run", "list-only", "ignore-existing", "u", "update"]) || options.has(&narrows);
    let is_remote = |text: &str| text.split('/').next().is_some_and(|host| host.contains(':'));
    if is_trial || options.texts().any(is_remote) {
        return StreamText::Unknown;
    }
    let is_recursive = options.has(&["r", "a", "recursive", "archive"]);
    let Some(placement) = placement(run, &options) else { return StreamText::Unknown };
    for source in placement.sources.iter().filter_map(Field::text) {
        if !run.is_folder(source) {
            placement.path(source).iter().for_each(|path| run.write(path));
        } else if is_recursive {
            let folder = run.evaluator.resolve(run.state, source).unwrap_or_default();
            // If the source ends with a slash, `rsync` copies the contents of the folder. Otherwise, it copies the
            // folder itself.
            let inner = if source.ends_with('/') { String::new() } else { format!("{}/", last_component(source)) };
            let target = placement.target.trim_end_matches('/');
            for path in files_below(run, &folder).unwrap_or_default() {
                run.write(&format!("{target}/{inner}{path}"));
            }
        }
    }
    StreamText::Unknown
}
