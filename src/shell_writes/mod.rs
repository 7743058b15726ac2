//! Which files would a shell command line write? The answer comes from the text of the command and
//! from the names of files: nothing runs.
//!
//! The parser knows POSIX sh and bash; the commands that agents use have their rules in
//! `commands`. What the text does not tell is skipped: a wrong name would deny a command that
//! harms nobody, and that is worse than a write that is missed.
//!
//! A parser crate was not worth its size. The best kept one under a licence that fits, `brush-parser`
//! 0.4, adds 76 crates and 170 KiB, and leaves the inside of words to be parsed here all the same.

mod braces;
mod builtins;
mod commands;
mod disk;
mod effects;
mod evaluator;
mod expand;
mod parser;
mod redirections;
mod state;
mod syntax;
mod wildcards;
mod words;

pub use disk::Disk;

use std::path::{Path, PathBuf};

/// A longer command is not parsed: it is more than Linux lets a shell take as one argument, and to parse it
/// would cost an agent more than it is worth.
const COMMAND_MAX: usize = 128 << 10;

/// What a command line would write.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ShellWrite {
    /// This file: it is written, replaced, moved or removed.
    File(PathBuf),
    /// Everything below this folder: the folder is removed or moved.
    Folder(PathBuf),
    /// Some files below this folder; the command alone knows which.
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
    /// All of them are below this folder.
    pub folder: PathBuf,
    /// Their names end in one of these; if there are none, in anything.
    pub endings: Vec<String>,
    /// Which of them git may know.
    pub tracking: Tracking,
}

/// What git must know of a file for a command to write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tracking {
    /// Git is not asked.
    Any,
    /// Only files that git tracks.
    Tracked,
    /// Only files that git does not track.
    Untracked,
}

/// What stands in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, without the folder.
    pub name: String,
    /// Whether it is a folder itself, or a link to one.
    pub is_folder: bool,
    /// Whether it is a symbolic link.
    pub is_link: bool,
}

/// The files that a command would find: names for wildcards, and the text of patches.
pub trait FileTree {
    /// Whether a path is a folder; none if there is nothing.
    fn is_folder(&self, path: &str) -> Option<bool>;
    /// What stands in a folder; none if it can't be read or holds too much.
    fn entries(&self, folder: &str) -> Option<Vec<Entry>>;
    /// The beginning of a regular file that the command reads as a patch.
    fn patch_text(&self, path: &str) -> Option<String>;
}

/// The files that a command would write if it ran in this directory.
///
/// `environment` tells the variables that the shell starts with, as far as they are certain.
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
