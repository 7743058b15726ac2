//! Tests what happens in a work tree with so many locked files that hooks can't watch all of them.

use super::support::Place;
use super::{Player, hidden_write, work_tree};
use std::fs;
use std::process::Command;

/// Locks more files than a hook can watch.
fn lock_many(place: &Place, folder: &str) {
    for part in 0..5 {
        let files: Vec<String> = (0..60).map(|n| format!("{folder}/{part}-{n}")).collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        place.ok(&[&["lock"], &files[..]].concat());
    }
}

#[test]
fn a_git_command_that_replaces_a_held_file_is_denied_however_many_files_are_held() {
    let place = Place::new();
    let git = |words: &str| {
        let mut git = Command::new("git");
        git.current_dir(&place.root).args(["-c", "user.name=a", "-c", "user.email=a@b"]);
        assert!(git.args(words.split(' ')).status().unwrap().success(), "{words}");
    };
    git("init -q");
    fs::write(place.root.join("held.txt"), "as it was\n").unwrap();
    git("add held.txt");
    git("commit -qm One");
    fs::write(place.root.join("held.txt"), "by its holder\n").unwrap();
    lock_many(&place, "older");
    place.ok(&["lock", "held.txt", "--reason", "mine"]);
    lock_many(&place, "newer");
    let player = Player::new(&place, "claude", "s1");
    for command in ["git checkout .", "git stash", "git reset --hard"] {
        let answer = player.hook(0, &player.call(command, "call_1"));
        assert!(answer.contains("deny") && answer.contains("held.txt is locked by"), "{command}: {answer}");
    }
}

#[test]
fn a_write_to_the_file_that_was_locked_last_is_reported_however_many_files_are_held() {
    let (place, _) = work_tree();
    lock_many(&place, "older");
    place.ok(&["lock", "held.txt", "--reason", "mine"]);
    let told = Player::new(&place, "claude", "s1").run(&hidden_write("lost"));
    assert!(told.contains("held.txt, locked by"), "{told}");
    place.ok(&["lock", "restore", "held.txt", "--yes"]);
    assert_eq!(fs::read_to_string(place.root.join("held.txt")).unwrap(), "as it was\n");
}
