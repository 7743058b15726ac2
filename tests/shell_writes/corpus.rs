//! Reads corpus.txt.
//!
//! `$ ` starts a command and `| ` its further lines. After these, each line is one write of the command: `w path` is a
//! file, `d path` a folder with all that is in it, `m folder tracking endings` some files below a folder, and `u words`
//! a write that no reader of the text can find.

use super::tree;
use std::collections::BTreeSet;

/// One write of a command, as a line of the corpus states it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    /// A file: `w path`.
    File(String),
    /// A folder with all that is in it: `d path`.
    Folder(String),
    /// Some files below a folder: `m folder tracking endings`.
    Maybe(String),
}

/// A command of the corpus and its writes.
pub struct Case {
    /// The line in corpus.txt where the command begins.
    pub line: usize,
    /// The command line, which may have several lines.
    pub command: String,
    /// What the command writes, as far as its text shows.
    pub truths: BTreeSet<Truth>,
    /// How many writes the text of the command does not show.
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

/// All commands of the corpus.
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
