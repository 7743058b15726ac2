//! Reads corpus.txt, a list of shell commands and the files that they write.
//!
//! A command begins with a line that starts with `$ `, and continues in lines that start with `| `. Each of the lines
//! after that is one write:
//! - `w path`: a file
//! - `d path`: a folder with all its files
//! - `m folder tracking endings`: some files below a folder
//! - `u words`: a write that the command does not show

use super::tree;
use std::collections::BTreeSet;

/// A write that a command makes, from one line of corpus.txt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    /// The line `w path`: one file.
    File(String),
    /// The line `d path`: a folder and all files in it.
    Folder(String),
    /// The line `m folder tracking endings`: some of the files below a folder.
    Maybe(String),
}

/// A command in corpus.txt, and the files that it writes.
pub struct Case {
    /// The number of the command's first line in corpus.txt.
    pub line: usize,
    /// The whole command, which may contain newlines.
    pub command: String,
    /// The writes that can be found in the command.
    pub truths: BTreeSet<Truth>,
    /// The number of writes that can't be found in the text of the command.
    pub n_untold: usize,
}

fn absolute(path: &str) -> String {
    match path.strip_prefix("~/") {
        Some(rest) => format!("/home/dev/{rest}"),
        None if path == "." => tree::DIRECTORY.to_owned(),
        None if path.starts_with('/') => path.to_owned(),
        None => format!("{}/{path}", tree::DIRECTORY),
    }
}

/// All commands in corpus.txt, with their writes.
pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (n, text) in include_str!("corpus.txt").lines().enumerate() {
        if let Some(command) = text.strip_prefix("$ ") {
            cases.push(Case { line: n + 1, command: command.to_owned(), truths: BTreeSet::new(), n_untold: 0 });
            continue;
        }
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let case = cases.last_mut().unwrap_or_else(|| panic!("line {}: no command before it", n + 1));
        if text == "|" {
            case.command.push('\n');
            continue;
        }
        let (kind, rest) = text.split_once(' ').unwrap_or_else(|| panic!("line {}: {text}", n + 1));
        match kind {
            "|" => case.command.extend(["\n", rest]),
            "w" => case.truths.extend([Truth::File(absolute(rest))]),
            "d" => case.truths.extend([Truth::Folder(absolute(rest))]),
            "m" => {
                let (folder, rest) = rest.split_once(' ').unwrap_or_else(|| panic!("line {}: {text}", n + 1));
                case.truths.extend([Truth::Maybe(format!("{} {rest}", absolute(folder)))]);
            }
            "u" => case.n_untold += 1,
            _ => panic!("line {}: {text}", n + 1),
        }
    }
    cases
}
