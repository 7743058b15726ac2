//! Tests whether slm-mesh finds the files that a shell command writes. The corpus has real commands of coding agents. A
//! person has marked the files that each command writes.
//!
//! No other file may be reported, because a harmless command would then be denied. If the text of a command shows which
//! files it writes, most of these files must be found.

mod branches;
mod corpus;
mod forms;
mod links;
mod tree;

use corpus::{Case, Truth};
use slm_mesh::shell_writes::{ShellWrite, written_files};
use std::collections::BTreeSet;

/// At least this share of the visible writes must be found.
const CAUGHT_MIN: f64 = 0.9;

fn environment(name: &str) -> Option<String> {
    match name {
        "HOME" => Some("/home/dev".to_owned()),
        "PATH" => Some("/usr/bin".to_owned()),
        _ => None,
    }
}

/// The files that slm-mesh finds in a command, as entries of the corpus.
fn reported(command: &str) -> BTreeSet<Truth> {
    let writes = written_files(command, tree::DIRECTORY, &environment, &tree::tree());
    writes.iter().map(truth).collect()
}

fn truth(write: &ShellWrite) -> Truth {
    match write {
        ShellWrite::File(path) | ShellWrite::Link(path) => Truth::File(path.to_string_lossy().into_owned()),
        ShellWrite::Folder(path) | ShellWrite::Matches(path) => Truth::Folder(path.to_string_lossy().into_owned()),
        ShellWrite::Maybe(maybe) => {
            let tracking = format!("{:?}", maybe.tracking).to_lowercase();
            let words = [maybe.folder.to_string_lossy().into_owned(), tracking];
            Truth::Maybe([&words[..], &maybe.endings].concat().join(" "))
        }
    }
}

#[test]
fn real_commands_are_denied_rightly_and_mostly_caught() {
    let cases = corpus::cases();
    assert!(cases.len() >= 300, "the corpus has {} commands", cases.len());
    let (mut n_told, mut n_caught, mut n_untold) = (0, 0, 0);
    let (mut wrong, mut missed) = (Vec::new(), Vec::new());
    for Case { line, command, truths, n_untold: untold } in &cases {
        let found = reported(command);
        let extra: Vec<&Truth> = found.difference(truths).collect();
        if !extra.is_empty() {
            wrong.push(format!("line {line}: {extra:?} of {command}"));
        }
        missed.extend(truths.difference(&found).map(|truth| format!("line {line}: {truth:?} of {command}")));
        n_told += truths.len();
        n_caught += truths.intersection(&found).count();
        n_untold += untold;
    }
    let share = n_caught as f64 / n_told as f64;
    let share_of_all = n_caught as f64 / (n_told + n_untold) as f64;
    println!("{} commands; false denials: {}", cases.len(), wrong.len());
    println!("writes that the text of a command shows: {n_told}, found: {n_caught} ({:.1} %)", share * 100.0);
    println!(
        "all writes, even those that the text does not show: {}, found: {:.1} %",
        n_told + n_untold,
        share_of_all * 100.0
    );
    println!("missed:\n  {}", missed.join("\n  "));
    assert!(wrong.is_empty(), "false denials:\n  {}", wrong.join("\n  "));
    assert!(share >= CAUGHT_MIN, "caught {share:.3} of the writes");
}
