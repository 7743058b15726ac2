//! Finds the files that a shell command line would write. Needs only the text of the command line and the names of
//! existing files.
//!
//! The parser knows POSIX sh and bash. The module `commands` has rules for the programs that agents use. A write is
//! reported only if it is certain. A missed write is better than a wrong report, because a wrong report would block a
//! harmless command.
//!
//! No parser crate was worth its size. The best maintained crate with a suitable licence, `brush-parser` 0.4, adds 76
//! crates and 170 KiB. Even with this crate, the inside of words would still have to be parsed here.

pub mod agent_patch;
mod braces;
mod builtins;
mod commands;
mod conditions;
mod control_flow;
mod evaluator;
mod parser;
mod real_file_tree;
mod redirection_parser;
mod resolve_and_record_paths;
mod shell_state;
mod syntax_tree;
mod word_expansion;
mod word_parser;

pub use real_file_tree::Disk;

use std::path::{Path, PathBuf};

/// Maximum length of a command line, in bytes. This is the maximum length of an argument in Linux, so Linux can't run a
/// longer command line. Longer command lines are not parsed, to save time.
const COMMAND_MAX: usize = 128 << 10;

/// Something that a command line writes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ShellWrite {
    /// One file, which is written, replaced, moved or removed.
    File(PathBuf),
    /// A symbolic link that is replaced, moved or removed. The target of the link does not change.
    Link(PathBuf),
    /// A folder that is removed or moved, together with its contents.
    Folder(PathBuf),
    /// All of the many files that match a glob. The glob has the form that locks use. If the glob ends with a slash,
    /// everything below the matching folders is written, too.
    Matches(PathBuf),
    /// Some of the files below a folder. It is uncertain which files.
    Maybe(MaybeWritten),
}

impl ShellWrite {
    /// The path of the file, link or folder. If the write is a glob, the glob itself.
    pub fn path(&self) -> &Path {
        match self {
            ShellWrite::File(path) | ShellWrite::Link(path) | ShellWrite::Folder(path) | ShellWrite::Matches(path) => {
                path
            }
            ShellWrite::Maybe(files) => &files.folder,
        }
    }
}

/// Files that a command such as a formatter or `git reset --hard` might write.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MaybeWritten {
    /// The folder that contains all these files.
    pub folder: PathBuf,
    /// The possible endings of the file names. If the list is empty, any ending is possible.
    pub endings: Vec<String>,
    /// Whether the command writes only tracked files, only untracked files, or both.
    pub tracking: Tracking,
    /// If a file passes one of these tests, the command certainly writes the file.
    pub git_tests: Vec<GitTest>,
}

/// A test that git can run for a file. The result shows whether a command would write the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GitTest {
    /// The file passes if it differs from git's index.
    DiffersFromIndex,
    /// The file passes if it differs from a commit.
    DiffersFrom {
        /// The name of the commit, as written in the command line.
        commit: String,
        /// Whether a tracked file also passes if the commit does not contain the file. This is true if the command
        /// removes such a file.
        removes_new: bool,
    },
    /// The file passes if git does not track it.
    IsUntracked {
        /// Whether files that git ignores pass, too.
        with_ignored: bool,
    },
}

/// Whether a command writes tracked files, untracked files, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tracking {
    /// Both tracked and untracked files.
    Any,
    /// Only files that git tracks.
    Tracked,
    /// Only files that git does not track.
    Untracked,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name of the entry, without the folder.
    pub name: String,
    /// Whether the entry is a folder, or a link to a folder.
    pub is_folder: bool,
    /// Whether the entry is a symbolic link.
    pub is_link: bool,
}

/// The files that exist before the command line runs. The files are needed to expand wildcards and to read patches.
pub trait FileTree {
    /// Whether a path is a folder; `None` if the path does not exist.
    fn is_folder(&self, path: &str) -> Option<bool>;
    /// Whether a path is a symbolic link.
    fn is_link(&self, path: &str) -> bool;
    /// The path without symbolic links; `None` if the path does not exist.
    fn real_path(&self, path: &str) -> Option<String>;
    /// Whether a path is a file that is not empty.
    fn has_content(&self, path: &str) -> bool;
    /// The entries of a folder; `None` if the folder can't be read or has too many entries.
    fn entries(&self, folder: &str) -> Option<Vec<Entry>>;
    /// The beginning of a patch file; `None` if the file can't be read.
    fn patch_text(&self, path: &str) -> Option<String>;
}

/// Returns the files that a command line would write if it ran in `directory`.
///
/// `environment` returns the value of an environment variable, if the value is certain.
pub fn written_files(
    command: &str,
    directory: &str,
    environment: &dyn Fn(&str) -> Option<String>,
    files: &dyn FileTree,
) -> Vec<ShellWrite> {
    // If a command line contains a patch, some agents apply the patch themselves instead of running the command line.
    // The maximum length does not apply to such a patch, so the contents of the patch are not counted.
    let shortened = (command.len() > COMMAND_MAX).then(|| agent_patch::without_contents(command));
    let command = shortened.as_deref().unwrap_or(command);
    if command.len() > COMMAND_MAX {
        return Vec::new();
    }
    evaluator::Evaluator::new(command.len(), directory, environment, files).written_files(command)
}
