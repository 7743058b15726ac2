//! The git guard in real repositories.

mod support;

use std::process::{Command, Output};
use support::Place;

/// git in a folder of the place, with an identity of its own.
fn git(place: &Place, folder: &str, args: &[&str]) -> Output {
    let mut git = Command::new("git");
    git.args(args).current_dir(place.root.join(folder)).env_clear().env("PATH", std::env::var("PATH").unwrap());
    git.env("HOME", &place.root).env("SLM_MESH_DATA_DIR", &place.dir).envs(place.env.iter().cloned());
    for who in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{who}_NAME"), "a").env(format!("GIT_{who}_EMAIL"), "a@example.org");
    }
    git.output().unwrap()
}

fn good(place: &Place, folder: &str, args: &[&str]) {
    let out = git(place, folder, args);
    assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn repository() -> Option<Place> {
    if Command::new("git").arg("--version").output().is_err() {
        eprintln!("skipped: guard: there is no git");
        return None;
    }
    let place = Place::new();
    std::fs::create_dir(place.root.join("repo")).unwrap();
    good(&place, "repo", &["init", "-q", "-b", "main"]);
    std::fs::write(place.root.join("repo/a.txt"), "1").unwrap();
    good(&place, "repo", &["add", "."]);
    good(&place, "repo", &["commit", "-qm", "first"]);
    Some(place)
}

fn guard(place: &Place, folder: &str, word: &str) {
    let out = place.command(&["guard", word]).current_dir(place.root.join(folder)).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn change(place: &Place, folder: &str, text: &str) {
    std::fs::write(place.root.join(folder).join("a.txt"), text).unwrap();
    good(place, folder, &["add", "."]);
}

#[test]
fn a_commit_of_a_file_that_an_agent_holds_is_refused() {
    let Some(place) = repository() else { return };
    guard(&place, "repo", "install");
    change(&place, "repo", "2");
    good(&place, "repo", &["commit", "-qm", "free"]);

    let mut agent = place.session("codex-mcp-client", "repo");
    agent.tool("mesh_lock", serde_json::json!({ "action": "lock", "filePath": "a.txt", "reason": "mine now" }));
    change(&place, "repo", "3");
    // Inside the agent's own process tree this would be the agent itself; so act as the human.
    let refused = git_as_human(&place, "repo", &["commit", "-qm", "held"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("codex-repo") && said.contains("mine now"), "{said}");

    good(&place, "repo", &["commit", "-qm", "its own lock"]);
    agent.close();
}

fn git_as_human(place: &Place, folder: &str, args: &[&str]) -> Output {
    let as_human = Place { root: place.root.clone(), dir: place.dir.clone(), env: place.env.clone() }
        .with("SLM_MESH_PEER", "human");
    let out = git(&as_human, folder, args);
    // The directory still belongs to the first handle.
    std::mem::forget(as_human);
    out
}

#[test]
fn a_push_is_refused_and_an_existing_hook_still_runs() {
    let Some(place) = repository() else { return };
    good(&place, ".", &["init", "-q", "--bare", "origin.git"]);
    good(&place, "repo", &["remote", "add", "origin", "../origin.git"]);
    let hook = place.root.join("repo/.git/hooks/pre-push");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, "#!/bin/sh\ncat > ../seen\n").unwrap();
    Command::new("chmod").arg("+x").arg(&hook).status().unwrap();
    let kept = std::fs::read(&hook).unwrap();

    guard(&place, "repo", "install");
    guard(&place, "repo", "install");
    let mut agent = place.session("codex-mcp-client", "repo");
    agent.tool("mesh_lock", serde_json::json!({ "action": "lock", "filePath": "a.txt" }));
    assert!(!git_as_human(&place, "repo", &["push", "-q", "origin", "main"]).status.success());
    assert!(!place.root.join("seen").exists(), "refused before the other hook ran");
    agent.tool("mesh_lock", serde_json::json!({ "action": "unlock", "filePath": "a.txt" }));
    good(&place, "repo", &["push", "-q", "origin", "main"]);
    assert!(std::fs::read_to_string(place.root.join("seen")).unwrap().contains("refs/heads/main"));

    guard(&place, "repo", "remove");
    assert_eq!(std::fs::read(&hook).unwrap(), kept);
    assert!(!place.root.join("repo/.git/hooks/pre-commit").exists());
}

#[test]
fn linked_work_trees_and_hooks_path_are_guarded_too() {
    let Some(place) = repository() else { return };
    good(&place, "repo", &["worktree", "add", "-q", "../tree", "-b", "other"]);
    good(&place, "repo", &["config", "core.hooksPath", "../my-hooks"]);
    guard(&place, "tree", "install");
    place.command(&["lock", "a.txt"]).current_dir(place.root.join("tree")).status().unwrap();
    let mut agent = place.session("codex-mcp-client", "tree");
    agent.tool("mesh_peers", serde_json::json!({ "scope": "machine" }));
    change(&place, "tree", "4");
    let refused = git(&place, "tree", &["commit", "-qm", "held by the human"]);
    assert!(!refused.status.success(), "{}", String::from_utf8_lossy(&refused.stderr));
}

#[test]
fn a_mesh_that_is_down_lets_commits_pass() {
    let Some(place) = repository() else { return };
    guard(&place, "repo", "install");
    let broken = place.with("SLM_MESH_PORT", "nonsense");
    change(&broken, "repo", "5");
    good(&broken, "repo", &["commit", "-qm", "unchecked"]);
}

#[test]
fn hooks_of_others_are_not_changed() {
    let Some(place) = repository() else { return };
    std::fs::create_dir(place.root.join("repo/.githooks")).unwrap();
    let hook = place.root.join("repo/.githooks/pre-commit");
    std::fs::write(&hook, "#!/bin/sh\n").unwrap();
    good(&place, "repo", &["add", "."]);
    good(&place, "repo", &["config", "core.hooksPath", ".githooks"]);
    let install = || place.command(&["guard", "install"]).current_dir(place.root.join("repo")).output().unwrap();
    let refused = install();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("tracked by git") && text.contains("guard check"), "{text}");
    assert_eq!(std::fs::read_to_string(&hook).unwrap(), "#!/bin/sh\n");
}

#[test]
fn a_hook_keeps_its_name_its_input_and_its_bytes() {
    let Some(place) = repository() else { return };
    good(&place, ".", &["init", "-q", "--bare", "origin.git"]);
    good(&place, "repo", &["remote", "add", "origin", "../origin.git"]);
    let hooks = place.root.join("repo/.git/hooks");
    std::fs::create_dir_all(&hooks).unwrap();
    let text = "#!/bin/sh\nbasename \"$0\" >> ../seen\nwc -l >> ../seen\n";
    for hook in ["pre-commit", "pre-push"] {
        std::fs::write(hooks.join(hook), text).unwrap();
        Command::new("chmod").arg("+x").arg(hooks.join(hook)).status().unwrap();
    }
    guard(&place, "repo", "install");
    good(&place, "repo", &["push", "-q", "origin", "main"]);
    good(&place, "repo", &["push", "-q", "origin", "main"]);
    let seen: Vec<String> =
        std::fs::read_to_string(place.root.join("seen")).unwrap().lines().map(|line| line.trim().to_owned()).collect();
    assert_eq!(seen, ["pre-push", "1", "pre-push", "0"], "one ref, and then none");
    guard(&place, "repo", "remove");
    for hook in ["pre-commit", "pre-push"] {
        assert_eq!(std::fs::read_to_string(hooks.join(hook)).unwrap(), text);
        assert!(!hooks.join(format!("{hook}.before-slm-mesh")).exists(), "no copy stays");
    }
}

#[test]
fn doctor_says_that_a_guard_was_overwritten() {
    let Some(place) = repository() else { return };
    let hook = place.root.join("repo/.git/hooks/pre-commit");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, "#!/bin/sh\necho mine\n").unwrap();
    Command::new("chmod").arg("+x").arg(&hook).status().unwrap();
    let doctor = || place.command(&["doctor"]).current_dir(place.root.join("repo")).output().unwrap().stdout;
    guard(&place, "repo", "install");
    guard(&place, "repo", "install");
    assert!(String::from_utf8(doctor()).unwrap().contains("on, in "));
    std::fs::write(&hook, "#!/bin/sh\necho newer\n").unwrap();
    let text = String::from_utf8(doctor()).unwrap();
    assert!(text.contains("the guard is off"), "{text}");
    let kept = std::fs::read_to_string(place.root.join("repo/.git/hooks/pre-commit.before-slm-mesh")).unwrap();
    assert!(kept.contains("echo mine"), "{kept}");
}

#[test]
fn a_second_install_overwrites_nothing() {
    let Some(place) = repository() else { return };
    let hook = place.root.join("repo/.git/hooks/pre-commit");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, "#!/usr/bin/python3\nprint('mine')\n").unwrap();
    guard(&place, "repo", "install");
    std::fs::write(&hook, "#!/usr/bin/python3\nprint('newer')\n").unwrap();
    let out = place.command(&["guard", "install"]).current_dir(place.root.join("repo")).output().unwrap();
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("an older hook of yours"));
    let kept = std::fs::read_to_string(place.root.join("repo/.git/hooks/pre-commit.before-slm-mesh")).unwrap();
    assert!(kept.contains("mine"));
}
