//! `git`: which files of the work tree a command writes.
//!
//! A command with paths writes these paths. A command on the whole tree writes the files that differ from git's index.
//! This module does not read the index, so it notes that any file that git tracks may be written.

use super::Run;
use super::options::{Options, Spec};
use super::patch;
use crate::shell_writes::Tracking;
use crate::shell_writes::evaluator::StreamText;
use crate::shell_writes::shell_state::Field;

const GLOBAL: Spec =
    Spec { short: "Cc", attached: "", long: &["git-dir", "work-tree", "namespace", "exec-path"], stops: true };
const CHECKOUT: Spec = Spec::new("bB", &["orphan", "conflict", "pathspec-from-file"]);
const RESTORE: Spec = Spec::new("s", &["source", "conflict", "pathspec-from-file"]);
const STASH: Spec = Spec::new("m", &["message"]);
const APPLY: Spec = Spec::new("pC", &["directory", "exclude", "include", "whitespace"]);
const MERGE: Spec = Spec::new("msXF", &["strategy", "strategy-option", "message", "onto", "exec"]);
const CLEAN: Spec = Spec::new("e", &["exclude"]);
const OUTPUT: Spec = Spec::new("oO", &["output", "output-directory"]);

/// `git`.
pub(super) fn git(run: &mut Run) -> StreamText {
    let options = GLOBAL.parse(run.arguments);
    let Some((Field::Known(subcommand), arguments)) = options.operands.split_first() else {
        return StreamText::Unknown;
    };
    let outer = run.state.directory.clone();
    for folder in options.values(&["C", "work-tree"]) {
        run.state.directory = folder.text().and_then(|folder| run.evaluator.resolve(run.state, folder));
    }
    let output =
        if options.has(&["git-dir", "namespace"]) { StreamText::Unknown } else { dispatch(run, subcommand, arguments) };
    run.state.directory = outer;
    output
}

fn dispatch(run: &mut Run, subcommand: &str, arguments: &[Field]) -> StreamText {
    match subcommand {
        "checkout" => checkout(run, arguments),
        "switch" => {
            let options = CHECKOUT.parse(arguments);
            if !options.has(&["c", "C", "create"]) || options.operands.len() > 1 {
                whole_tree(run, Tracking::Tracked);
            }
        }
        "restore" => {
            let options = RESTORE.parse(arguments);
            if options.has(&["W", "worktree"]) || !options.has(&["S", "staged"]) {
                paths(run, &options.operands);
            }
        }
        "reset" if Spec::FLAGS.parse(arguments).has(&["hard", "merge", "keep"]) => {
            whole_tree(run, Tracking::Tracked);
        }
        "stash" => stash(run, arguments),
        "apply" => apply(run, arguments),
        "am" | "merge" | "rebase" | "pull" | "cherry-pick" | "revert" => {
            let options = MERGE.parse(arguments);
            if !options.has(&["quit", "no-commit-id", "show-current-patch", "n-dry"]) {
                whole_tree(run, Tracking::Tracked);
            }
        }
        "clean" => {
            let options = CLEAN.parse(arguments);
            if options.has(&["f", "force"]) && !options.has(&["n", "dry-run", "i", "interactive"]) {
                clean(run, &options);
            }
        }
        "rm" => {
            let options = Spec::FLAGS.parse(arguments);
            if !options.has(&["cached", "n", "dry-run"]) {
                options.texts().for_each(|path| run.evaluator.write_all(run.state, path));
            }
        }
        "mv" if !Spec::FLAGS.parse(arguments).has(&["n", "dry-run"]) => {
            let mut moved = Run { evaluator: run.evaluator, state: run.state, name: "mv", arguments, input: run.input };
            super::files::move_files(&mut moved);
        }
        "diff" | "archive" | "bundle" | "show" | "log" => {
            let options = OUTPUT.parse(arguments);
            // `git diff -O file` only reads the file.
            run.write_field(options.value(if subcommand == "archive" { &["o", "output"] } else { &["output"] }));
        }
        "rev-parse" if arguments.iter().any(|field| field.text() == Some("--show-toplevel")) => {
            return work_tree(run).map_or(StreamText::Unknown, |folder| StreamText::Text(folder + "\n"));
        }
        _ => {}
    }
    StreamText::Unknown
}

/// The root of the work tree that contains the current directory.
fn work_tree(run: &mut Run) -> Option<String> {
    let directory = run.directory()?;
    run.evaluator.folder_with(&directory, ".git")
}

/// Notes that any file in the work tree may be written.
fn whole_tree(run: &mut Run, tracking: Tracking) {
    if let Some(folder) = work_tree(run) {
        run.evaluator.maybe_write(&folder, &[], tracking);
    }
}

/// Notes paths as git interprets them, as files, folders or patterns.
fn paths(run: &mut Run, operands: &[Field]) {
    for path in operands.iter().filter_map(Field::text) {
        if path.starts_with(":/") || path == ":" {
            whole_tree(run, Tracking::Tracked);
        } else if path.starts_with(':') {
            // Pathspec magic is rare, so it is not supported.
        } else if let Some(start) = path.find(['*', '?']) {
            let folder = path[..start].rfind('/').map_or(".", |at| &path[..at.max(1)]);
            let ending = path[start..].strip_prefix('*').filter(|ending| !ending.contains(['*', '?', '[', '/']));
            if let (Some(folder), Some(ending)) = (run.evaluator.resolve(run.state, folder), ending) {
                run.evaluator.maybe_write(&folder, &[ending], Tracking::Tracked);
            }
        } else if run.is_folder(path) {
            if let Some(folder) = run.evaluator.resolve(run.state, path) {
                run.evaluator.maybe_write(&folder, &[], Tracking::Tracked);
            }
        } else {
            run.write(path);
        }
    }
}

fn checkout(run: &mut Run, arguments: &[Field]) {
    let behind = arguments.iter().position(|field| field.text() == Some("--"));
    if let Some(at) = behind.filter(|at| at + 1 < arguments.len()) {
        return paths(run, &arguments[at + 1..]);
    }
    let options = CHECKOUT.parse(arguments);
    if options.has(&["b", "B", "orphan"]) {
        // Switching to a new branch that starts at another commit writes that commit's files.
        if !options.operands.is_empty() && !options.has(&["orphan"]) {
            whole_tree(run, Tracking::Tracked);
        }
        return;
    }
    if options.has(&["ours", "theirs"]) {
        return paths(run, &options.operands);
    }
    let Some((first, rest)) = options.operands.split_first() else { return };
    let is_path = match first.text() {
        Some("HEAD" | "@" | "-") | None => false,
        Some(path) => {
            let resolved = run.evaluator.resolve(run.state, path);
            resolved.is_some_and(|path| run.evaluator.exists(&path))
        }
    };
    if is_path {
        paths(run, &options.operands);
    } else if rest.is_empty() {
        if first.text() != Some("HEAD") || options.has(&["f", "force"]) {
            whole_tree(run, Tracking::Tracked);
        }
    } else {
        paths(run, rest);
    }
}

fn stash(run: &mut Run, arguments: &[Field]) {
    let first = arguments.first().and_then(Field::text);
    match first {
        Some("list" | "show" | "drop" | "clear" | "create" | "store") => {}
        Some("push" | "save") => {
            let options = STASH.parse(&arguments[1..]);
            if first == Some("push") && !options.operands.is_empty() {
                paths(run, &options.operands);
            } else {
                stash_all(run, &options);
            }
        }
        _ => stash_all(run, &STASH.parse(arguments)),
    }
}

fn stash_all(run: &mut Run, options: &Options) {
    if options.has(&["S", "staged", "k", "keep-index"]) {
        return;
    }
    let takes_new = options.has(&["u", "include-untracked", "a", "all"]);
    whole_tree(run, if takes_new { Tracking::Any } else { Tracking::Tracked });
}

fn clean(run: &mut Run, options: &Options) {
    if options.operands.is_empty() {
        if let Some(directory) = run.directory() {
            run.evaluator.maybe_write(&directory, &[], Tracking::Untracked);
        }
        return;
    }
    for path in options.texts() {
        match run.evaluator.resolve(run.state, path) {
            Some(folder) if run.is_folder(path) => run.evaluator.maybe_write(&folder, &[], Tracking::Untracked),
            Some(file) => run.evaluator.maybe_write(&file, &[], Tracking::Untracked),
            None => {}
        }
    }
}

fn apply(run: &mut Run, arguments: &[Field]) {
    let options = APPLY.parse(arguments);
    let reads =
        ["check", "stat", "numstat", "summary", "cached", "build-fake-ancestor", "directory", "exclude", "include"];
    if options.has(&reads) && !options.has(&["apply"]) {
        return;
    }
    let strip = options.value(&["p"]).and_then(Field::text).and_then(|text| text.parse().ok()).unwrap_or(1);
    let files: Vec<&Field> = options.operands.iter().filter(|field| field.text() != Some("-")).collect();
    let texts: Vec<String> = if files.is_empty() {
        run.patch_input().into_iter().collect()
    } else {
        let paths = files.iter().filter_map(|field| run.evaluator.resolve(run.state, field.text()?));
        let paths: Vec<String> = paths.collect();
        paths.iter().filter_map(|path| run.evaluator.patch_text(path)).collect()
    };
    for text in texts {
        patch::note_headers(run, &text, Some(strip), options.has(&["R", "reverse"]));
    }
}
