//! Commands that apply patches. The paths of the files are in the headers of the patch.

use super::Run;
use super::options::Spec;
use crate::shell_writes::agent_patch;
use crate::shell_writes::evaluator::StreamText;
use crate::shell_writes::shell_state::Field;

const PATCH: Spec = Spec::new(
    "pidorBDFVYzg",
    &["strip", "input", "directory", "output", "reject-file", "prefix", "ifdef", "fuzz", "suffix"],
);

/// The rule for `patch`. The path of the file is an operand, or the patch contains the paths.
pub(super) fn patch(run: &mut Run) -> StreamText {
    let options = PATCH.parse(run.arguments);
    if options.has(&["dry-run", "C", "check"]) {
        return StreamText::Unknown;
    }
    let outer = run.state.directory.clone();
    // `patch` changes the directory while it reads its options, so all its paths are relative to the new directory.
    if let Some(folder) = options.value(&["d", "directory"]) {
        run.state.directory = run.evaluator.resolve_for_chdir(run.state, folder);
    }
    let named = options.value(&["i", "input"]).or(options.operands.get(1));
    let text = match named {
        Some(field) if field.text() != Some("-") => {
            let path = field.text().and_then(|path| run.evaluator.resolve(run.state, path));
            path.and_then(|path| run.evaluator.patch_text(&path))
        }
        _ => run.patch_input(),
    };
    if let Some(output) = options.value(&["o", "output"]) {
        run.write_field(Some(output));
    } else if let Some(original) = options.operands.first() {
        run.write_field(Some(original));
    } else if let Some(text) = text {
        let strip = options.value(&["p", "strip"]).and_then(Field::text).and_then(|text| text.parse().ok());
        note_headers(run, &text, strip, options.has(&["R", "reverse"]));
    }
    run.state.directory = outer;
    StreamText::Unknown
}

/// Records the files in the headers of a unified diff. `strip` is the number of folders to remove from each path. If
/// `strip` is `None`, only the file name is kept.
pub(super) fn note_headers(run: &mut Run, text: &str, strip: Option<usize>, reverses: bool) {
    let mut old = None;
    // The numbers of old and new lines that remain in the current hunk. Within a hunk, a line such as `--- x` is a
    // removed line, not a header.
    let mut n_hunk = (0_usize, 0_usize);
    for line in text.lines() {
        if !run.evaluator.spend(1) {
            return;
        }
        if n_hunk != (0, 0) {
            match line.as_bytes().first() {
                Some(b'-') => n_hunk.0 = n_hunk.0.saturating_sub(1),
                Some(b'+') => n_hunk.1 = n_hunk.1.saturating_sub(1),
                Some(b'\\') => {}
                _ => n_hunk = (n_hunk.0.saturating_sub(1), n_hunk.1.saturating_sub(1)),
            }
        } else if let Some(header) = line.strip_prefix("@@ -") {
            n_hunk = hunk_lines(header);
        } else if let Some(name) = line.strip_prefix("--- ") {
            old = Some(name);
        } else if let (Some(name), Some(old)) = (line.strip_prefix("+++ "), old.take()) {
            let (from, to) = if reverses { (name, old) } else { (old, name) };
            let target = if file_name(to) == "/dev/null" { from } else { to };
            stripped(file_name(target), strip).iter().for_each(|path| run.write(path));
        } else if let Some(name) =
            ["rename from ", "rename to ", "copy to "].iter().find_map(|mark| line.strip_prefix(mark))
        {
            // Unlike a line such as `--- a/file`, a line such as `rename to file` contains no prefix such as `a/`.
            run.write(name);
        }
    }
}

/// The numbers of old and new lines in a hunk. `header` is the part of the hunk's header after `@@ -`.
fn hunk_lines(header: &str) -> (usize, usize) {
    let mut counts = header.split(" @@").next().unwrap_or("").split(" +").map(|range| {
        let count = range.split_once(',').map_or("1", |(_, count)| count);
        count.trim().parse().unwrap_or(0)
    });
    (counts.next().unwrap_or(0), counts.next().unwrap_or(0))
}

/// The file name in a header, without the date that may follow.
fn file_name(header: &str) -> &str {
    header.split('\t').next().unwrap_or(header).trim_end()
}

fn stripped(name: &str, strip: Option<usize>) -> Option<String> {
    let is_plain = !name.is_empty() && !name.starts_with('"') && name != "/dev/null";
    let parts: Vec<&str> = name.split('/').collect();
    let n = strip.unwrap_or(parts.len() - 1);
    (is_plain && n < parts.len()).then(|| parts[n..].join("/"))
}

/// The rule for `apply_patch`, which applies a patch in the format of coding agents.
pub(super) fn apply_patch(run: &mut Run) -> StreamText {
    let argument = run.arguments.first().and_then(Field::text).map(str::to_owned);
    let Some(text) = argument.or_else(|| run.input.text().map(str::to_owned)) else { return StreamText::Unknown };
    agent_patch::paths(&text).for_each(|path| run.write(path));
    StreamText::Unknown
}
