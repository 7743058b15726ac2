//! Finds the files that a shell command line would write. It uses only the text of the command and the names of
//! files, and runs nothing.
//!
//! The parser knows POSIX sh and bash. The commands that agents use have their rules in `commands`. A write is skipped
//! if the text does not show it: a wrong file would deny a harmless command, which is worse than a missed write.
//!
//! A parser crate was not worth its size. The best maintained one with a suitable licence, `brush-parser` 0.4, adds
//! 76 crates and 170 KiB, and the content of words would still have to be parsed here.

mod braces;
mod builtins;
mod commands;
mod evaluator;
mod parser;
mod real_file_tree;
mod redirections;
mod shell_state;
mod syntax;
mod wildcards;
mod word_expansion;
mod word_parser;
mod written_paths;

pub use real_file_tree::Disk;

use std::path::{Path, PathBuf};

/// A longer command is not parsed. It exceeds the length of an argument on Linux, and parsing it would delay the
/// agent too much.
const COMMAND_MAX: usize = 128 << 10;

/// A write of a command line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ShellWrite {
    /// One file, which is written, replaced, moved or removed.
    File(PathBuf),
    /// Everything below this folder: the folder is removed or moved.
    Folder(PathBuf),
    /// Some files below this folder, which are not known in advance.
    Maybe(MaybeWritten),
}

impl ShellWrite {
    /// The file, or the folder.
    pub fn path(&self) -> &Path {
        match self {
            ShellWrite::File(path) | ShellWrite::Folder(path) => path,
            ShellWrite::Maybe(files) => &files.folder,
        }
    }
}

/// Files that a command may write, such as those of a formatter or of `git reset --hard`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MaybeWritten {
    /// The folder that contains all of them.
    pub folder: PathBuf,
    /// The possible endings of their names. If the list is empty, names may have any ending.
    pub endings: Vec<String>,
    /// The condition about git's index.
    pub tracking: Tracking,
}

/// Whether a command writes a file only if git tracks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tracking {
    /// Git is not asked.
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

/// The file tree that a command would see: names for wildcards, and the text of patches.
pub trait FileTree {
    /// Whether a path is a folder; `None` if the path does not exist.
    fn is_folder(&self, path: &str) -> Option<bool>;
    /// The entries of a folder; `None` if the folder can't be read or has too many.
    fn entries(&self, folder: &str) -> Option<Vec<Entry>>;
    /// The beginning of a regular file that the command reads as a patch.
    fn patch_text(&self, path: &str) -> Option<String>;
}

/// The files that a command would write if it ran in this directory.
///
/// `environment` returns the variables with which the shell starts, if they are certain.
pub fn written_files(
    command: &str,
    directory: &str,
    environment: &dyn Fn(&str) -> Option<String>,
    files: &dyn FileTree,
) -> Vec<ShellWrite> {
    if command.len() > COMMAND_MAX {
        return Vec::new();
    }
    evaluator::Evaluator::new(command.len(), directory, environment, files).written_files(command)
}
