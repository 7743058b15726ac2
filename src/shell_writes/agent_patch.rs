//! The patch format of coding agents, between `*** Begin Patch` and `*** End Patch`. Lines such as `*** Update File:
//! a.rs` contain the paths of the files.

/// The first line of a patch.
const BEGIN: &str = "*** Begin Patch";
/// The beginnings of the lines that contain a path. OpenCode also accepts a path without a space after the colon.
const MARKS: &[&str] = &["*** Update File:", "*** Add File:", "*** Delete File:", "*** Move to:"];
/// If a line of a patch begins with one of these characters, the rest of this line is a line of a file.
const CONTENTS: &[char] = &['+', '-', ' '];

/// The paths of all files in the patch that a text contains; empty if the text contains no patch. Like Codex, this
/// function accepts spaces before a line with a path, although such a line can be a part of a file's contents.
pub fn paths(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.contains(BEGIN).then(|| text.lines()).into_iter().flatten();
    lines.filter_map(path_in).filter(|path| !path.is_empty())
}

/// The path in a line of a patch, if the line contains one.
fn path_in(line: &str) -> Option<&str> {
    MARKS.iter().find_map(|mark| line.trim().strip_prefix(mark)).map(str::trim)
}

/// Removes the contents of files from the patch in a text. The lines with paths are kept.
pub(super) fn without_contents(text: &str) -> String {
    let Some(start) = text.find(BEGIN) else { return text.to_owned() };
    let (before, patch) = text.split_at(start);
    let is_needed = |line: &&str| !line.starts_with(CONTENTS) || path_in(line).is_some();
    std::iter::once(before).chain(patch.split_inclusive('\n').filter(is_needed)).collect()
}
