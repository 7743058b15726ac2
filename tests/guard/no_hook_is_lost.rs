//! Tests that no hook of the user is lost. The tests interrupt installations or make them fail, run two installations
//! at the same time, and add lines to the guard's script.

use super::support::{Place, put_program, until};
use super::{doctor_on_guard, good, guard, repository, snapshot};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A hook that writes a line into the file `seen`. The hook is not a shell script, so the guard moves it aside.
const SCAN: &[u8] = b"#!/usr/bin/awk -f\nBEGIN { print \"scan\" >> \"../seen\" }\n";

/// Puts a hook into the repository, and returns the folder of hooks.
fn put_hook(place: &Place, text: &[u8]) -> PathBuf {
    let hooks = place.root.join("repo/.git/hooks");
    fs::create_dir_all(&hooks).unwrap();
    put_program(&hooks.join("pre-commit"), text);
    hooks
}

/// Commits, and returns the lines that hooks wrote meanwhile.
fn seen_by_commit(place: &Place) -> String {
    // There is no such file if no hook has run before.
    let _ = fs::remove_file(place.root.join("seen"));
    good(place, "repo", &["commit", "-q", "--allow-empty", "-m", "next"]);
    fs::read_to_string(place.root.join("seen")).unwrap_or_default()
}

fn append(path: &PathBuf, lines: &str) {
    let text = fs::read_to_string(path).unwrap();
    put_program(path, format!("{text}{lines}").as_bytes());
}

#[test]
fn a_second_install_loses_no_hook_that_was_replaced_meanwhile() {
    let Some(place) = repository() else { return };
    let hooks = place.root.join("repo/.git/hooks");
    std::fs::create_dir_all(&hooks).unwrap();
    let texts = ["#!/usr/bin/python3\nprint('first')\n", "#!/bin/sh\necho second\n", "#!/usr/bin/python3\n#third\n"];
    for text in texts {
        put_program(&hooks.join("pre-commit"), text.as_bytes());
        guard(&place, "repo", "install");
    }
    let read = |name: &str| std::fs::read_to_string(hooks.join(name)).unwrap();
    assert_eq!(read("pre-commit.before-slm-mesh.1"), texts[0]);
    assert_eq!(read("pre-commit.before-slm-mesh.2"), texts[1]);
    guard(&place, "repo", "remove");
    assert_eq!(read("pre-commit"), texts[2]);
    assert_eq!(read("pre-commit.before-slm-mesh.1"), texts[0], "the user's hooks stay");
}

#[test]
fn doctor_says_that_a_guard_was_overwritten() {
    let Some(place) = repository() else { return };
    let hook = place.root.join("repo/.git/hooks/pre-commit");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    put_program(&hook, b"#!/bin/sh\necho mine\n");
    let doctor = || place.command(&["doctor"]).current_dir(place.root.join("repo")).output().unwrap().stdout;
    guard(&place, "repo", "install");
    guard(&place, "repo", "install");
    assert!(String::from_utf8(doctor()).unwrap().contains("on, in "));
    put_program(&hook, b"#!/bin/sh\necho newer\n");
    let text = String::from_utf8(doctor()).unwrap();
    assert!(text.contains("the guard is off"), "{text}");
    let kept = fs::read_to_string(hook.with_extension("before-slm-mesh")).unwrap();
    assert!(kept.contains("echo mine"), "{kept}");
}

#[test]
fn an_installation_that_fails_leaves_the_hook_in_its_place() {
    // The installation fails where it needs a folder but finds a file, and where it needs a file but finds a folder.
    for obstacle in ["before-slm-mesh", "hooks/pre-commit.new-slm-mesh/full"] {
        let Some(place) = repository() else { return };
        let hooks = put_hook(&place, SCAN);
        let before = snapshot(&hooks);
        let obstacle = place.root.join("repo/.git").join(obstacle);
        let blocked = if obstacle.ends_with("full") { obstacle.parent().unwrap() } else { &obstacle };
        fs::create_dir_all(obstacle.parent().unwrap()).unwrap();
        fs::write(&obstacle, "").unwrap();

        let failed = place.command(&["guard", "install"]).current_dir(place.root.join("repo")).output().unwrap();
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert_eq!(seen_by_commit(&place), "scan\n", "git still runs the hook");
        assert!(!failed.status.success() && said.contains("whether the disk is full"), "{said}");

        if blocked.is_dir() {
            fs::remove_dir_all(blocked).unwrap()
        } else {
            fs::remove_file(blocked).unwrap()
        }
        assert_eq!(snapshot(&hooks), before);
        guard(&place, "repo", "install");
        assert_eq!(seen_by_commit(&place), "scan\n");
        guard(&place, "repo", "remove");
        assert_eq!(snapshot(&hooks), before);
    }
}

/// An earlier version first moved the hook, and then wrote the script that runs the hook. If it was killed between
/// these steps, no script ran the moved hook.
#[test]
fn a_hook_that_was_moved_and_does_not_run_is_reported_and_brought_back() {
    for (is_script_written, cure) in [(false, "install"), (false, "remove"), (true, "install"), (true, "remove")] {
        let Some(place) = repository() else { return };
        let hooks = put_hook(&place, SCAN);
        let before = snapshot(&hooks);
        guard(&place, "repo", "install");
        fs::remove_dir_all(place.root.join("repo/.git/before-slm-mesh")).unwrap();
        if !is_script_written {
            fs::remove_file(hooks.join("pre-commit")).unwrap();
            fs::remove_file(place.root.join("repo/.git/slm-mesh-guard")).unwrap();
        }
        assert_eq!(seen_by_commit(&place), "", "the hook does not run");
        let said = doctor_on_guard(&place, "repo");
        assert!(said.contains("pre-commit.before-slm-mesh, where git does not run it"), "{said}");

        guard(&place, "repo", cure);
        assert_eq!(seen_by_commit(&place), "scan\n", "after guard {cure}");
        if cure == "install" {
            assert!(doctor_on_guard(&place, "repo").contains("on, in"));
            guard(&place, "repo", "remove");
        }
        assert_eq!(snapshot(&hooks), before, "after guard {cure}");
        assert!(!place.root.join("repo/.git/before-slm-mesh").exists());
    }
}

/// The first installation stops while it reads the copy of an older hook, because this copy is a named pipe.
#[test]
fn two_installations_at_the_same_time_lose_no_hook() {
    let Some(place) = repository() else { return };
    let hooks = put_hook(&place, SCAN);
    let (older, pipe) = (place.root.join("older"), hooks.join("pre-commit.before-slm-mesh"));
    fs::write(&older, "older").unwrap();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let install = || {
        let mut command = place.command(&["guard", "install"]);
        command.current_dir(place.root.join("repo")).stdout(Stdio::null()).spawn().unwrap()
    };
    let mut first = install();
    let opened = pipe.clone();
    let opening = std::thread::spawn(move || fs::OpenOptions::new().write(true).open(opened).unwrap());
    until("the first installation reads the pipe", || opening.is_finished());
    let writer = opening.join().unwrap();
    fs::rename(&older, &pipe).unwrap();

    let mut second = install();
    // A line of /proc/locks with an arrow describes a process that waits for a lock. Other systems have no such list.
    let waits = |pid: String| {
        let locks = fs::read_to_string("/proc/locks");
        locks.map_or(true, |all| all.lines().any(|line| line.contains("->") && line.split(' ').any(|word| word == pid)))
    };
    let id = second.id().to_string();
    until("the second installation waits or has ended", || second.try_wait().unwrap().is_some() || waits(id.clone()));
    drop(writer);
    assert!(first.wait().unwrap().success() && second.wait().unwrap().success());
    assert_eq!(seen_by_commit(&place), "scan\n");
    assert_eq!(fs::read(&pipe).unwrap(), SCAN);
    assert_eq!(fs::read_to_string(hooks.join("pre-commit.before-slm-mesh.1")).unwrap(), "older");
}

#[test]
fn a_hook_that_the_user_deleted_stays_deleted() {
    let Some(place) = repository() else { return };
    let hooks = put_hook(&place, b"#!/bin/sh\necho mine >> ../seen\n");
    guard(&place, "repo", "install");
    fs::remove_file(hooks.join("pre-commit")).unwrap();
    for _ in 0..2 {
        guard(&place, "repo", "install");
        assert_eq!(seen_by_commit(&place), "");
    }
    guard(&place, "repo", "remove");
    assert!(!hooks.join("pre-commit").exists());
    assert!(hooks.join("pre-commit.before-slm-mesh").exists(), "the copy stays, because the user has no other");
}

#[test]
fn lines_that_are_added_to_the_guards_script_run_and_stay() {
    let Some(place) = repository() else { return };
    let hooks = place.root.join("repo/.git/hooks");
    guard(&place, "repo", "install");
    append(&hooks.join("pre-commit"), "echo lint >> ../seen\n");
    for _ in 0..2 {
        assert_eq!(seen_by_commit(&place), "lint\n");
        assert!(doctor_on_guard(&place, "repo").contains("on, in"));
        guard(&place, "repo", "install");
    }
    guard(&place, "repo", "remove");
    assert_eq!(fs::read_to_string(hooks.join("pre-commit")).unwrap(), "#!/bin/sh\necho lint >> ../seen\n");
    assert_eq!(seen_by_commit(&place), "lint\n");
}

#[test]
fn lines_that_are_added_to_the_guards_script_run_beside_the_hook_that_was_moved() {
    let Some(place) = repository() else { return };
    let hooks = put_hook(&place, SCAN);
    let hook = hooks.join("pre-commit");
    guard(&place, "repo", "install");
    let script = fs::read_to_string(&hook).unwrap();
    append(&hook, "echo lint >> ../seen\n");
    assert_eq!(seen_by_commit(&place), "scan\nlint\n");

    // An earlier version of the guard wrote a script whose last line runs the moved hook.
    let call = "if [ -x \"$before\" ]; then \"$before\" \"$@\" || exit; fi\n";
    let earlier = script.replace(call, "[ -x \"$before\" ] || exit 0\nexec \"$before\" \"$@\"\n");
    assert_ne!(earlier, script);
    put_program(
        &hook,
        format!("{}echo lint >> ../seen\n", earlier.replace("before=", "PATH=$PATH\nbefore=")).as_bytes(),
    );
    for _ in 0..2 {
        guard(&place, "repo", "install");
        assert_eq!(seen_by_commit(&place), "scan\nlint\n");
        assert!(doctor_on_guard(&place, "repo").contains("on, in"));
    }
    guard(&place, "repo", "remove");
    assert_eq!(seen_by_commit(&place), "scan\nlint\n", "both are the user's");
    assert!(!fs::read_to_string(&hook).unwrap().contains("guard check"));
    assert_eq!(doctor_on_guard(&place, "repo"), "");
    for _ in 0..2 {
        guard(&place, "repo", "install");
        assert_eq!(seen_by_commit(&place), "scan\nlint\n");
    }
    put_program(&hook, format!("{script}exit 1\n").as_bytes());
    guard(&place, "repo", "install");
    let refused = super::git(&place, "repo", &["commit", "-q", "--allow-empty", "-m", "refused"]);
    assert!(!refused.status.success(), "the added line refuses the commit");
}
