//! Finds the files that a shell command line would write, from the text of the command and the names of files. Runs
//! nothing.
//!
//! The parser knows POSIX sh and bash. The module `commands` has rules for the commands that agents use. A write that
//! the text does not clearly show is left out, because a wrong report would deny a harmless command, which is worse
//! than a missed write.
//!
//! No parser crate was worth its size. The best maintained crate with a suitable licence, `brush-parser` 0.4, adds 76
//! crates and 170 KiB, and the inside of words would still have to be parsed here.

pub mod agent_patch;
mod braces;
mod builtins;
mod commands;
mod conditions;
mod control_flow;
mod evaluator;
mod parser;
mod real_file_tree;
mod redirections;
mod shell_state;
mod syntax_tree;
mod word_expansion;
mod word_parser;
mod written_paths;

pub use real_file_tree::Disk;

use std::path::{Path, PathBuf};

/// Maximum length of a command, in bytes. Linux can't run a longer command, because the command would exceed the
/// maximum length of an argument. A longer command is not parsed, because parsing it would delay the agent too much.
const COMMAND_MAX: usize = 128 << 10;

/// What a command line writes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ShellWrite {
    /// One file, which is written, replaced, moved or removed.
    File(PathBuf),
    /// A symbolic link, which itself is replaced, moved or removed. Its target does not change.
    Link(PathBuf),
    /// Everything below this folder, because the folder is removed or moved.
    Folder(PathBuf),
    /// Some files below this folder. It is not known in advance which files.
    Maybe(MaybeWritten),
}

impl ShellWrite {
    /// The file, or the folder.
    pub fn path(&self) -> &Path {
        match self {
            ShellWrite::File(path) | ShellWrite::Link(path) | ShellWrite::Folder(path) => path,
            ShellWrite::Maybe(files) => &files.folder,
        }
    }
}

/// Files that a command such as a formatter or `git reset --hard` might write.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MaybeWritten {
    /// The folder that contains all these files.
    pub folder: PathBuf,
    /// The endings that the file names may have. If the list is empty, any ending is possible.
    pub endings: Vec<String>,
    /// Whether the files are tracked or untracked, if that matters.
    pub tracking: Tracking,
    /// The command certainly writes a file if the file passes one of these tests.
    pub git_tests: Vec<GitTest>,
}

/// A test with which git itself can tell whether a command writes a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GitTest {
    /// The file differs from the index.
    DiffersFromIndex,
    /// The file differs from this commit.
    DiffersFrom {
        /// The commit, as the command names it.
        commit: String,
        /// Whether the command removes tracked files that the commit does not have.
        removes_new: bool,
    },
    /// Git does not track the file.
    IsUntracked {
        /// Whether files that git ignores also pass the test.
        with_ignored: bool,
    },
}

/// Whether a command writes only files that git tracks, or only files that git does not track.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tracking {
    /// It does not matter whether git tracks a file.
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

/// The file tree that a command would see. Provides names for wildcards, and the text of patches.
pub trait FileTree {
    /// Whether a path is a folder; `None` if the path does not exist.
    fn is_folder(&self, path: &str) -> Option<bool>;
    /// Whether a path is a symbolic link.
    fn is_link(&self, path: &str) -> bool;
    /// A path with all its symbolic links resolved; `None` if nothing is there.
    fn real_path(&self, path: &str) -> Option<String>;
    /// Whether a path is a file that is not empty.
    fn has_content(&self, path: &str) -> bool;
    /// The entries of a folder; `None` if the folder can't be read or has too many entries.
    fn entries(&self, folder: &str) -> Option<Vec<Entry>>;
    /// The beginning of a regular file, which the command reads as a patch.
    fn patch_text(&self, path: &str) -> Option<String>;
}

/// What a command would write if it ran in this directory.
///
/// `environment` returns the values of the variables that the shell starts with, if they are certain.
pub fn written_files(
    command: &str,
    directory: &str,
    environment: &dyn Fn(&str) -> Option<String>,
    files: &dyn FileTree,
) -> Vec<ShellWrite> {
    // Some agents do not run a command that contains a patch, but apply the patch themselves, so the system's limit
    // does not apply to the patch.
    let shortened = (command.len() > COMMAND_MAX).then(|| agent_patch::without_contents(command));
    let command = shortened.as_deref().unwrap_or(command);
    if command.len() > COMMAND_MAX {
        return Vec::new();
    }
    evaluator::Evaluator::new(command.len(), directory, environment, files).written_files(command)
}
