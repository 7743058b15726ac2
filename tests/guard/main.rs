//! Tests the git guard of slm-mesh with real git in real repositories.

mod hook_managers;
mod no_hook_is_lost;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::{Place, put_program};

/// Runs git with a fixed author in a folder of the test directory.
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
    // The test starts both the agent's session and git, so git would act as this agent. Here git must act as the human,
    // who does not hold the lock.
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
    // Dropping this copy would remove the directory, which `place` still needs.
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
    put_program(&hook, b"#!/bin/sh\ncat > ../seen\n");
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
fn the_last_of_many_pushed_refs_is_checked_and_too_many_are_said() {
    let Some(place) = repository() else { return };
    let mut agent = place.session("codex-mcp-client", "repo");
    agent.tool("mesh_lock", serde_json::json!({ "action": "lock", "filePath": "a.txt" }));
    let nothing = "0".repeat(40);
    let deleted = format!("(delete) {nothing} refs/heads/some-branch {nothing}\n");
    let head = String::from_utf8(git(&place, "repo", &["rev-parse", "HEAD"]).stdout).unwrap();
    let new = format!("refs/heads/main {} refs/heads/main {nothing}\n", head.trim());
    let check = |refs: String| {
        let file = place.root.join("refs");
        std::fs::write(&file, refs).unwrap();
        let mut command = place.command(&["guard", "check", "pre-push"]);
        command.current_dir(place.root.join("repo")).env("SLM_MESH_PEER", "human");
        let out = command.stdin(std::fs::File::open(&file).unwrap()).output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };

    let (is_passed, said) = check(deleted.repeat((3 << 20) / deleted.len()) + &new);
    assert!(!is_passed && said.contains("a.txt by codex-repo"), "{said}");

    let (is_passed, said) = check(deleted.repeat((65 << 20) / deleted.len()) + &new);
    assert!(is_passed && said.contains("locks were not checked") && said.contains("64 MiB"), "{said}");
    agent.close();
}

/// A commit that records a new version of a submodule changes no file in the submodule. So the guard ignores locks on
/// files in the submodule.
#[test]
fn a_lock_inside_a_submodule_does_not_stop_a_commit_of_the_submodule() {
    let Some(place) = repository() else { return };
    let url = place.root.join("repo").display().to_string();
    std::fs::create_dir(place.root.join("outer")).unwrap();
    good(&place, "outer", &["init", "-q", "-b", "main"]);
    good(&place, "outer", &["-c", "protocol.file.allow=always", "submodule", "add", "-q", &url, "sub"]);
    std::fs::write(place.root.join("outer/top.txt"), "1").unwrap();
    good(&place, "outer", &["add", "."]);
    good(&place, "outer", &["commit", "-qm", "first"]);
    guard(&place, "outer", "install");
    change(&place, "outer/sub", "2");
    good(&place, "outer/sub", &["commit", "-qm", "next"]);
    good(&place, "outer", &["add", "sub"]);

    let mut agent = place.session("codex-mcp-client", "outer");
    let lock = |agent: &mut support::Session, what: &str, path: &str| {
        agent.tool("mesh_lock", serde_json::json!({ "action": what, "filePath": path }));
    };
    lock(&mut agent, "lock", "top.txt");
    lock(&mut agent, "lock", "sub/");
    let refused = git_as_human(&place, "outer", &["commit", "-qm", "bump"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("outer/sub/ by codex-outer"), "{refused:?}");
    lock(&mut agent, "unlock", "sub/");
    lock(&mut agent, "lock", "sub/a.txt");
    let passed = git_as_human(&place, "outer", &["commit", "-qm", "bump"]);
    assert!(passed.status.success(), "{passed:?}");
    std::fs::write(place.root.join("outer/top.txt"), "2").unwrap();
    let refused = git_as_human(&place, "outer", &["commit", "-qam", "held"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("top.txt by codex-outer"), "{refused:?}");
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
        put_program(&hooks.join(hook), text.as_bytes());
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
fn a_shell_of_several_sessions_is_refused_what_none_of_these_holds() {
    let Some(place) = repository() else { return };
    guard(&place, "repo", "install");
    place.ok(&["start", "--detach"]);
    let attach = |name: &str| {
        let mut socket = place.socket();
        let attached = serde_json::json!({ "name": name, "agent": "codex", "project": place.root, "pid": 1, "session": name, "script": true });
        assert_eq!(socket.call("attach", attached)["result"]["ok"], serde_json::json!(true));
        socket
    };
    let (mut one, _two) = (attach("one"), attach("two"));
    let path = place.root.join("repo/a.txt");
    one.call("lock.lock", serde_json::json!({ "filePath": path }));
    change(&place, "repo", "6");
    good(&place, "repo", &["commit", "-qm", "one of them holds it"]);
    one.call("lock.unlock", serde_json::json!({ "filePath": path }));
    place.ok(&["lock", "repo/a.txt", "--as", "human", "--reason", "not you"]);
    change(&place, "repo", "7");
    let refused = git(&place, "repo", &["commit", "-qm", "neither holds it"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    let human = place.json(&["lock", "list", "--as", "human"])["locks"][0]["holder"].as_str().unwrap().to_owned();
    assert!(!refused.status.success() && text.contains(&human) && text.contains("not you"), "{text}");
}

#[test]
fn a_merge_of_a_file_that_an_agent_holds_is_refused() {
    let Some(place) = repository() else { return };
    good(&place, "repo", &["checkout", "-qb", "side"]);
    change(&place, "repo", "8");
    good(&place, "repo", &["commit", "-qm", "side"]);
    good(&place, "repo", &["checkout", "-q", "main"]);
    guard(&place, "repo", "install");
    let mut agent = place.session("codex-mcp-client", "repo");
    agent.tool("mesh_lock", serde_json::json!({ "action": "lock", "filePath": "a.txt" }));
    let refused = git_as_human(&place, "repo", &["merge", "-q", "--no-ff", "--no-edit", "side"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("codex-repo"), "{text}");
    agent.tool("mesh_lock", serde_json::json!({ "action": "unlock", "filePath": "a.txt" }));
    good(&place, "repo", &["merge", "--abort"]);
    good(&place, "repo", &["merge", "-q", "--no-ff", "--no-edit", "side"]);
}

#[test]
fn files_with_odd_names_are_checked_as_well() {
    use std::os::unix::ffi::OsStrExt;
    let Some(place) = repository() else { return };
    good(&place, ".", &["init", "-q", "--bare", "origin.git"]);
    good(&place, "repo", &["remote", "add", "origin", "../origin.git"]);
    good(&place, "repo", &["push", "-q", "origin", "main"]);
    let names: &[&[u8]] = &[
        b" ",
        b"\n",
        b"\nx",
        b"a\nb",
        b"\t",
        b"q\"u'o",
        b"back\\slash",
        b"\xff\xfe",
        "\u{e4}\u{2028}".as_bytes(),
        b"-z",
        b" a ",
    ];
    for (n, name) in names.iter().enumerate() {
        let name = std::ffi::OsStr::from_bytes(name);
        good(&place, "repo", &["checkout", "-qb", &format!("b{n}"), "main"]);
        if std::fs::write(place.root.join("repo").join(name), "1").is_err() {
            continue; // macOS accepts only names in UTF-8
        }
        good(&place, "repo", &["add", "."]);
        // A lock's path must be UTF-8. If the file's name is not UTF-8, the test locks the whole folder.
        let file = place.root.join("repo").join(name.to_str().unwrap_or(""));
        let mut lock = place.command(&["lock", "--as", "human"]);
        assert!(lock.arg(&file).status().unwrap().success(), "{name:?}");
        let mut agent = place.session("codex-mcp-client", "repo");
        agent.tool("mesh_status", serde_json::json!({}));
        guard(&place, "repo", "install");
        assert!(!git(&place, "repo", &["commit", "-qm", "odd"]).status.success(), "commit of {name:?}");
        good(&place, "repo", &["commit", "-qnm", "odd"]);
        let branch = format!("b{n}");
        assert!(!git(&place, "repo", &["push", "-q", "origin", &branch]).status.success(), "push of {name:?}");
        assert!(place.command(&["unlock", "--as", "human"]).arg(&file).status().unwrap().success());
        good(&place, "repo", &["push", "-q", "origin", &branch]);
    }
}

/// Every file below a directory: its name, its mode, and its content or the target of a link.
fn snapshot(dir: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    let mut found = Vec::new();
    for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let meta = path.symlink_metadata().unwrap();
        let content = match std::fs::read_link(&path) {
            Ok(target) => target.as_os_str().as_bytes().to_vec(),
            Err(_) => std::fs::read(&path).unwrap_or_default(),
        };
        if meta.is_dir() {
            found.extend(snapshot(&path));
        }
        found.push((path, meta.permissions().mode(), content));
    }
    found.sort();
    found
}

#[test]
fn remove_leaves_hooks_of_every_kind_as_they_were() {
    let report = "printf '%s %s %s %s\\n' \"${0##*/}\" \"$#\" \"${GIT_INDEX_FILE-}\" \"$(cat | wc -c)\" >> ../seen\n";
    for (kind, text, mode) in [
        ("a shell script", format!("#!/bin/sh\n{report}"), "755"),
        ("a shell script with options", format!("#!/usr/bin/env -S bash -eu\n{report}"), "700"),
        ("a script without a first line", report.to_owned(), "755"),
        ("a shell script that is not UTF-8", format!("#!/bin/sh\n# \u{e4}\n{report}"), "755"),
        ("a script that two languages read", format!("#!/bin/sh\n{report}exec true \"$0\" \"$@\"\n"), "755"),
        ("no program", format!("#!/bin/sh\n{report}"), "644"),
    ] {
        let Some(place) = repository() else { return };
        let hooks = place.root.join("repo/.git/hooks");
        std::fs::create_dir_all(&hooks).unwrap();
        let text = text.replace('\u{e4}', "\u{fffd}").into_bytes();
        let text = if kind.contains("UTF-8") { [&text[..12], b"\xff", &text[15..]].concat() } else { text };
        put_program(&hooks.join("pre-commit"), &text);
        put_program(&place.root.join("linked"), &text);
        std::os::unix::fs::symlink("../../../linked", hooks.join("pre-merge-commit")).unwrap();
        for path in [hooks.join("pre-commit"), place.root.join("linked")] {
            assert!(Command::new("chmod").arg(mode).arg(path).status().unwrap().success());
        }
        let before = snapshot(&hooks);
        let run = |name: &str| {
            let _ = std::fs::remove_file(place.root.join("seen"));
            good(
                &place,
                "repo",
                &["-c", "advice.ignoredHook=false", "hook", "run", "--ignore-missing", name, "--", "x", "y"],
            );
            std::fs::read_to_string(place.root.join("seen")).unwrap_or_default()
        };
        let expected = [run("pre-commit"), run("pre-merge-commit")];
        assert_eq!(expected[0].is_empty(), mode == "644", "{kind}");
        for _ in 0..2 {
            guard(&place, "repo", "install");
            assert_eq!([run("pre-commit"), run("pre-merge-commit")], expected, "{kind}");
        }
        guard(&place, "repo", "remove");
        assert_eq!(snapshot(&hooks), before, "{kind}");
        assert!(
            !place.root.join("repo/.git/before-slm-mesh").exists()
                && !place.root.join("repo/.git/slm-mesh-guard").exists()
        );
    }
}

/// The line about the git guard in the output of `slm-mesh doctor`.
fn doctor_on_guard(place: &Place, folder: &str) -> String {
    let out = place.command(&["doctor"]).current_dir(place.root.join(folder)).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().filter(|line| line.contains("git guard")).collect()
}

#[test]
fn doctor_reports_every_way_in_which_a_guard_is_lost() {
    let Some(place) = repository() else { return };
    let hooks = place.root.join("repo/.git/hooks");
    assert_eq!(doctor_on_guard(&place, "repo"), "");
    guard(&place, "repo", "install");
    assert!(doctor_on_guard(&place, "repo").contains("on, in"));
    std::fs::remove_file(hooks.join("pre-push")).unwrap();
    assert!(doctor_on_guard(&place, "repo").contains("pre-push"), "a hook was removed");
    guard(&place, "repo", "install");
    assert!(Command::new("chmod").arg("-x").arg(hooks.join("pre-commit")).status().unwrap().success());
    assert!(doctor_on_guard(&place, "repo").contains("pre-commit"), "git does not run it");
    guard(&place, "repo", "install");
    good(&place, "repo", &["config", "core.hooksPath", "../elsewhere"]);
    assert!(doctor_on_guard(&place, "repo").contains("the guard is off"), "git runs other hooks");
    good(&place, "repo", &["config", "--unset", "core.hooksPath"]);
    let text = std::fs::read_to_string(hooks.join("pre-commit")).unwrap();
    put_program(&hooks.join("pre-commit"), text.replace(support::BIN, "/gone/slm-mesh").as_bytes());
    assert!(doctor_on_guard(&place, "repo").contains("/gone/slm-mesh"), "the program moved");
    put_program(&place.root.join("broken"), b"#!/bin/sh\nexit 127\n");
    let broken = place.root.join("broken").display().to_string();
    put_program(&hooks.join("pre-commit"), text.replace(support::BIN, &broken).as_bytes());
    assert!(doctor_on_guard(&place, "repo").contains("exit status: 127"), "the program does not run");
    guard(&place, "repo", "remove");
    assert_eq!(doctor_on_guard(&place, "repo"), "");
}

#[test]
fn hooks_that_others_use_are_changed_only_if_they_are_named() {
    let Some(place) = repository() else { return };
    let guard_in = |args: &[&str]| {
        let out = place.command(&[&["guard"], args].concat()).current_dir(place.root.join("repo")).output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    };
    let shared = place.root.join("my hooks");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(place.root.join("home/.gitconfig"), "[core]\n\thooksPath = ~/../my hooks\n").unwrap();
    let cure = format!("slm-mesh guard install '{}'", shared.canonicalize().unwrap().display());
    for (words, why) in [(&["install"][..], "all repositories"), (&["install", "."], "not in .")] {
        let (ok, text) = guard_in(words);
        assert!(!ok && text.contains(why) && text.contains(&cure), "the cure can be pasted: {text}");
    }
    let (ok, text) = guard_in(&["install", "../my hooks"]);
    assert!(ok && text.contains("All your repositories"), "{text}");
    guard(&place, "repo", "remove");
    assert_eq!(snapshot(&shared), []);

    std::fs::create_dir(place.root.join("repo/.githooks")).unwrap();
    put_program(&place.root.join("repo/.githooks/pre-commit"), b"#!/bin/sh\necho theirs >> ../seen\n");
    std::fs::create_dir(place.root.join("repo/deep")).unwrap();
    good(&place, "repo", &["add", "."]);
    good(&place, "repo", &["commit", "-qm", "hooks"]);
    good(&place, "repo", &["config", "core.hooksPath", ".githooks"]);
    let (ok, text) = guard_in(&["install", "../my hooks"]);
    assert!(!ok && text.contains("not in ../my hooks"), "{text}");
    let out = place.command(&["guard", "install"]).current_dir(place.root.join("repo/deep")).output().unwrap();
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("tracked by git"), "{out:?}");
    let (ok, text) = guard_in(&["install", ".githooks"]);
    assert!(ok && text.contains("git tracks these hooks"), "{text}");
    let hook = std::fs::read_to_string(place.root.join("repo/.githooks/pre-commit")).unwrap();
    assert!(!hook.contains(support::BIN) && hook.contains("echo theirs"), "no path of this machine: {hook}");
    good(&place, "repo", &["add", "."]);
    good(&place, "repo", &["commit", "-qm", "a clone without slm-mesh runs its own hook"]);
    assert_eq!(std::fs::read_to_string(place.root.join("seen")).unwrap(), "theirs\n");
}

#[test]
fn a_work_tree_with_hooks_of_its_own_is_guarded_by_these() {
    let Some(place) = repository() else { return };
    good(&place, "repo", &["worktree", "add", "-q", "../tree", "-b", "other"]);
    good(&place, "repo", &["config", "extensions.worktreeConfig", "true"]);
    good(&place, "tree", &["config", "--worktree", "core.hooksPath", "../tree-hooks"]);
    std::fs::create_dir(place.root.join("tree/deep")).unwrap();
    guard(&place, "tree/deep", "install");
    assert!(place.root.join("tree-hooks/pre-commit").exists());
    assert!(!place.root.join("repo/.git/hooks/pre-commit").exists());
    assert!(doctor_on_guard(&place, "tree").contains("on, in"));
    assert!(doctor_on_guard(&place, "repo").contains("the guard is off"), "the main work tree has none");
}

#[test]
fn a_repository_whose_hooks_are_switched_off_is_told_so() {
    let Some(place) = repository() else { return };
    let refused = |args: &[&str]| {
        let out = place.command(args).current_dir(place.root.join("repo")).output().unwrap();
        assert!(!out.status.success(), "{out:?}");
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    for off in ["/dev/null", "/dev/null/hooks"] {
        good(&place, "repo", &["config", "core.hooksPath", off]);
        for args in [&["guard", "install"][..], &["guard", "install", ".git/hooks"]] {
            let said = refused(args);
            assert!(said.contains("core.hooksPath switches off git hooks") && said.contains("--show-origin"), "{said}");
        }
        guard(&place, "repo", "remove");
    }
    good(&place, "repo", &["config", "--unset", "core.hooksPath"]);
    std::fs::remove_dir_all(place.root.join("repo/.git/hooks")).unwrap();
    std::fs::write(place.root.join("repo/.git/hooks"), "").unwrap();
    let said = refused(&["guard", "install"]);
    assert!(said.contains(".git/hooks is not a directory; move it away"), "{said}");
}
