//! Finds the files in a work tree that a git command writes.
//!
//! A command with paths writes the files at these paths. A command without paths writes all files that differ from
//! git's index or from a commit. This module reads neither the index nor commits. Instead, it reports every tracked
//! file as possibly written. A report may contain tests that git itself can run. The tests show which files the command
//! would write.

use super::Run;
use super::options::{Options, Spec};
use super::patch;
use crate::shell_writes::evaluator::StreamText;
use crate::shell_writes::shell_state::Field;
use crate::shell_writes::{GitTest, Tracking};

const GLOBAL: Spec =
    Spec { short: "Cc", attached: "", long: &["git-dir", "work-tree", "namespace", "exec-path"], stops: true };
const CHECKOUT: Spec = Spec::new("bB", &["orphan", "conflict", "pathspec-from-file"]);
const RESTORE: Spec = Spec::new("s", &["source", "conflict", "pathspec-from-file"]);
const STASH: Spec = Spec::new("m", &["message", "pathspec-from-file"]);
const APPLY: Spec = Spec::new("pC", &["directory", "exclude", "include", "whitespace"]);
const MERGE: Spec = Spec::new("msXF", &["strategy", "strategy-option", "message", "onto", "exec"]);
const MERGE_FILE: Spec = Spec::new("L", &["marker-size", "diff-algorithm"]);
const CLEAN: Spec = Spec::new("e", &["exclude"]);
const OUTPUT: Spec = Spec::new("oO", &["output", "output-directory"]);

/// With these options, git asks before each change. An agent can't answer, so git changes nothing.
const INTERACTIVE: &[&str] = &["p", "patch"];

/// The rule for `git`.
pub(super) fn git(run: &mut Run) -> StreamText {
    let options = GLOBAL.parse(run.arguments);
    let Some((Field::Known(subcommand), arguments)) = options.operands.split_first() else {
        return StreamText::Unknown;
    };
    let outer = run.state.directory.clone();
    for folder in options.values(&["C", "work-tree"]) {
        run.state.directory = run.evaluator.resolve_for_chdir(run.state, folder);
    }
    let output =
        if options.has(&["git-dir", "namespace"]) { StreamText::Unknown } else { dispatch(run, subcommand, arguments) };
    run.state.directory = outer;
    run.evaluator.git_has_changed |= !READS.contains(&subcommand.as_str());
    output
}

/// Subcommands that do not affect the [`GitTest`]s of later commands.
const READS: &[&str] = &[
    "blame",
    "branch",
    "cat-file",
    "config",
    "describe",
    "diff",
    "fetch",
    "grep",
    "log",
    "ls-files",
    "remote",
    "rev-list",
    "rev-parse",
    "show",
    "status",
    "tag",
];

/// The test for a command that restores files from `commit`.
fn differs_from(commit: &str, removes_new: bool) -> GitTest {
    GitTest::DiffersFrom { commit: commit.to_owned(), removes_new }
}

fn dispatch(run: &mut Run, subcommand: &str, arguments: &[Field]) -> StreamText {
    match subcommand {
        "checkout" => checkout(run, arguments),
        "switch" => {
            let options = CHECKOUT.parse(arguments);
            if !options.has(&["c", "C", "create"]) || options.operands.len() > 1 {
                whole_tree(run, Tracking::Tracked, &[]);
            }
        }
        "restore" => restore(run, arguments),
        "reset" => {
            let options = Spec::FLAGS.parse(arguments);
            let commit = options.operands.first().map_or(Some("HEAD"), Field::text);
            if options.has(&["hard"]) {
                whole_tree(run, Tracking::Tracked, commit.map(|commit| differs_from(commit, true)).as_slice());
            } else if options.has(&["merge", "keep"]) {
                whole_tree(run, Tracking::Tracked, &[]);
            }
        }
        "stash" => stash(run, arguments),
        "apply" => apply(run, arguments),
        "am" | "merge" | "rebase" | "pull" | "cherry-pick" | "revert" => {
            let options = MERGE.parse(arguments);
            if !options.has(&["quit", "show-current-patch"]) {
                whole_tree(run, Tracking::Tracked, &[]);
            }
        }
        "merge-file" => {
            let options = MERGE_FILE.parse(arguments);
            if !options.has(&["p", "stdout"]) {
                run.write_field(options.operands.first());
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
            // With `git diff`, `-O` takes an input file. Git writes only the file after `--output`.
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
    // The current directory without symbolic links, as git sees it.
    let directory = run.evaluator.physical(&run.directory()?)?;
    run.evaluator.folder_with(&directory, ".git")
}

/// Records that any file in the work tree may be written.
fn whole_tree(run: &mut Run, tracking: Tracking, tests: &[GitTest]) {
    if let Some(folder) = work_tree(run) {
        run.evaluator.maybe_write_by_git(&folder, &[], tracking, tests);
    }
}

/// Records the files that a command with paths writes. Git accepts a file, a folder or a pattern as a path.
fn paths(run: &mut Run, operands: &[Field], tests: &[GitTest]) {
    for path in operands.iter().filter_map(Field::text) {
        if path == ":/" || path == ":" {
            whole_tree(run, Tracking::Tracked, tests);
        } else if path.starts_with(":/") {
            whole_tree(run, Tracking::Tracked, &[]);
        } else if path.starts_with(':') {
            // A path such as `:(exclude)a` has a special meaning for git. Such paths are rare, so they are ignored.
        } else if let Some(start) = path.find(['*', '?']) {
            let folder = path[..start].rfind('/').map_or(".", |at| &path[..at.max(1)]);
            let ending = path[start..].strip_prefix('*').filter(|ending| !ending.contains(['*', '?', '[', '/']));
            if let (Some(folder), Some(ending)) = (run.evaluator.resolve(run.state, folder), ending) {
                run.evaluator.maybe_write_by_git(&folder, &[ending], Tracking::Tracked, tests);
            }
        } else if run.is_folder(path) {
            if let Some(folder) = run.evaluator.resolve(run.state, path) {
                run.evaluator.maybe_write_by_git(&folder, &[], Tracking::Tracked, tests);
            }
        } else {
            run.replace(path);
        }
    }
}

fn checkout(run: &mut Run, arguments: &[Field]) {
    if CHECKOUT.parse(arguments).has(INTERACTIVE) {
        return;
    }
    let behind = arguments.iter().position(|field| field.text() == Some("--"));
    if let Some(at) = behind.filter(|at| at + 1 < arguments.len()) {
        let commit = CHECKOUT.parse(&arguments[..at]).operands.pop();
        let test = match &commit {
            None => Some(GitTest::DiffersFromIndex),
            Some(commit) => commit.text().map(|commit| differs_from(commit, false)),
        };
        return paths(run, &arguments[at + 1..], test.as_slice());
    }
    let options = CHECKOUT.parse(arguments);
    let is_forced = options.has(&["f", "force"]);
    if options.has(&["b", "B", "orphan"]) {
        // If the command contains a start commit for the new branch, git writes the files of this commit.
        if !options.operands.is_empty() && !options.has(&["orphan"]) {
            whole_tree(run, Tracking::Tracked, &[]);
        }
        return;
    }
    if options.has(&["ours", "theirs"]) {
        return paths(run, &options.operands, &[]);
    }
    let Some((first, rest)) = options.operands.split_first() else {
        if is_forced {
            whole_tree(run, Tracking::Tracked, &[differs_from("HEAD", true)]);
        }
        return;
    };
    let is_path = match first.text() {
        Some("HEAD" | "@" | "-") | None => false,
        Some(path) => {
            let resolved = run.evaluator.resolve(run.state, path);
            resolved.is_some_and(|path| run.evaluator.exists(&path))
        }
    };
    if is_path {
        paths(run, &options.operands, &[GitTest::DiffersFromIndex]);
    } else if rest.is_empty() {
        let test = first.text().filter(|_| is_forced).map(|commit| differs_from(commit, true));
        if first.text() != Some("HEAD") || is_forced {
            whole_tree(run, Tracking::Tracked, test.as_slice());
        }
    } else {
        let test = first.text().map(|commit| differs_from(commit, false));
        paths(run, rest, test.as_slice());
    }
}

fn restore(run: &mut Run, arguments: &[Field]) {
    let options = RESTORE.parse(arguments);
    let is_staged = options.has(&["S", "staged"]);
    if options.has(INTERACTIVE) || is_staged && !options.has(&["W", "worktree"]) {
        return;
    }
    let tests = match options.value(&["s", "source"]) {
        Some(source) => source.text().map(|commit| differs_from(commit, true)),
        None if is_staged => Some(differs_from("HEAD", true)),
        None => Some(GitTest::DiffersFromIndex),
    };
    paths(run, &options.operands, tests.as_slice());
}

fn stash(run: &mut Run, arguments: &[Field]) {
    match arguments.first().and_then(Field::text) {
        Some("pop" | "apply" | "branch") => whole_tree(run, Tracking::Tracked, &[]),
        Some("push") => stash_push(run, &STASH.parse(&arguments[1..])),
        Some("save") => stash_all(run, &STASH.parse(&arguments[1..])),
        // Other subcommands write no files in the work tree. If the word is not a subcommand, git refuses it.
        Some(word) if !word.starts_with('-') => {}
        _ => stash_push(run, &STASH.parse(arguments)),
    }
}

fn stash_push(run: &mut Run, options: &Options) {
    if options.has(INTERACTIVE) || options.has(&["S", "staged", "pathspec-from-file"]) {
        return;
    }
    if options.operands.is_empty() {
        stash_all(run, options);
    } else {
        paths(run, &options.operands, &[differs_from("HEAD", true)]);
    }
}

fn stash_all(run: &mut Run, options: &Options) {
    if options.has(INTERACTIVE) || options.has(&["S", "staged", "k", "keep-index"]) {
        return;
    }
    let with_ignored = options.has(&["a", "all"]);
    let mut tests = vec![differs_from("HEAD", true)];
    let takes_new = with_ignored || options.has(&["u", "include-untracked"]);
    tests.extend(takes_new.then_some(GitTest::IsUntracked { with_ignored }));
    whole_tree(run, if takes_new { Tracking::Any } else { Tracking::Tracked }, &tests);
}

fn clean(run: &mut Run, options: &Options) {
    let with_ignored = options.has(&["x"]);
    // Without `-d`, `git clean` skips untracked folders. `GitTest` does not skip them, so it would report their files.
    let is_certain = options.has(&["d"]) && !options.has(&["X", "e", "exclude"]);
    let test = is_certain.then_some(GitTest::IsUntracked { with_ignored });
    let folders: Vec<String> = if options.operands.is_empty() {
        run.directory().into_iter().collect()
    } else {
        options.texts().filter_map(|path| run.evaluator.resolve(run.state, path)).collect()
    };
    for folder in folders {
        run.evaluator.maybe_write_by_git(&folder, &[], Tracking::Untracked, test.as_slice());
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
