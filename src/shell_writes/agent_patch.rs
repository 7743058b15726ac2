//! The patch format that agents share: lines between `*** Begin Patch` and `*** End Patch`, some of which name a file.

/// The first line of a patch.
const BEGIN: &str = "*** Begin Patch";
/// The beginnings of the lines that name a file. OpenCode needs no space after the colon.
const MARKS: &[&str] = &["*** Update File:", "*** Add File:", "*** Delete File:", "*** Move to:"];
/// The beginnings of the lines that contain text of a file.
const CONTENTS: &[char] = &['+', '-', ' '];

/// The files that a text names, if the text contains a patch. As in Codex, spaces around a line that names a file are
/// ignored, although a line that begins with a space could also be text of the previous file.
pub fn paths(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.contains(BEGIN).then(|| text.lines()).into_iter().flatten();
    lines.filter_map(path_in).filter(|path| !path.is_empty())
}

/// The file that a line names, if the line names a file.
fn path_in(line: &str) -> Option<&str> {
    MARKS.iter().find_map(|mark| line.trim().strip_prefix(mark)).map(str::trim)
}

/// Removes from a text those lines of its patch that contain nothing but text of a file.
pub(super) fn without_contents(text: &str) -> String {
    let Some(start) = text.find(BEGIN) else { return text.to_owned() };
    let (before, patch) = text.split_at(start);
    let is_needed = |line: &&str| !line.starts_with(CONTENTS) || path_in(line).is_some();
    std::iter::once(before).chain(patch.split_inclusive('\n').filter(is_needed)).collect()
}
