//! Tests locks between several processes: which paths conflict, in which order peers get a lock, and when a lock ends.

mod support;

use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use support::{BIN, Place, Session, Socket, lives, until};

const CODEX: &str = "codex-mcp-client";

/// Starts an MCP session, and makes a call that turns it into a peer.
fn session(place: &Place, folder: &str) -> Session {
    let mut session = place.session(CODEX, folder);
    assert_eq!(session.tool("mesh_status", json!({}))["you"]["name"], json!(format!("codex-{folder}")));
    session
}

/// Connects to the broker's socket, and attaches as a peer. The test can send a call without waiting for the answer.
fn peer(place: &Place, name: &str) -> Socket {
    let mut socket = place.socket();
    let attached = socket.call("attach", json!({ "name": name, "agent": "codex", "project": place.root, "pid": 1 }));
    assert_eq!(attached["result"]["you"]["name"], json!(name), "{attached}");
    socket
}

/// Starts the broker. Returns a connection for queries about locks.
fn watch(place: &Place) -> Socket {
    place.ok(&["start", "--detach"]);
    place.socket()
}

/// Locks a free path, and returns the token of the lock.
fn take(socket: &mut Socket, path: &str) -> i64 {
    let answer = socket.call("lock.lock", json!({ "filePath": path }));
    answer["result"]["token"].as_i64().unwrap_or_else(|| panic!("{answer}"))
}

fn give_back(socket: &mut Socket, path: &str) {
    let answer = socket.call("lock.unlock", json!({ "filePath": path }));
    assert_eq!(answer["result"]["ok"], json!(true), "{answer}");
}

/// Requests a lock that another peer holds. Waits until the broker lists the caller `name` as waiting. Returns the id
/// of the request.
fn stand_in_line(socket: &mut Socket, watcher: &mut Socket, name: &str, path: &str) -> i64 {
    let id = socket.ask("lock.lock", json!({ "filePath": path, "waitSeconds": 60 }));
    until("it stands in line", || line_for(watcher, path).iter().any(|waiting| waiting == name));
    id
}

/// The peers that wait for a lock on this path, in the order in which they will get it.
fn line_for(watcher: &mut Socket, path: &str) -> Vec<String> {
    let found = watcher.call("lock.query", json!({ "filePath": path }));
    let line = found["result"]["locks"][0]["queue"].as_array().cloned().unwrap_or_default();
    line.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// The name of the peer that holds a lock on this path.
fn holder(watcher: &mut Socket, path: &str) -> Option<String> {
    let found = watcher.call("lock.query", json!({ "filePath": path }));
    found["result"]["locks"][0]["holder"].as_str().map(str::to_owned)
}

/// Reads from a connection until the answer to an earlier call arrives.
fn answer(socket: &mut Socket, id: i64) -> Value {
    loop {
        let value = socket.read().expect("the broker hung up");
        if value["id"] == json!(id) {
            return value;
        }
    }
}

#[test]
fn an_agent_that_locks_again_renews_and_keeps_its_token() {
    let place = Place::new();
    let mut one = session(&place, "one");
    let first =
        one.tool("mesh_lock", json!({ "action": "lock", "filePath": "/p/a.rs", "ttlMinutes": 1, "reason": "parser" }));
    let again = one.tool("mesh_lock", json!({ "action": "lock", "filePath": "/p/a.rs", "ttlMinutes": 60 }));
    assert_eq!(first["expiresInSeconds"], json!(60));
    assert_eq!(again["expiresInSeconds"], json!(3600));
    assert_eq!(again["token"], first["token"], "it is the same grant");
    assert_eq!(again["lock"]["reason"], json!("parser"));
    assert_eq!(place.json(&["lock", "list"])["locks"].as_array().unwrap().len(), 1);
}

#[test]
fn two_plain_locks_of_one_person_are_two_wishes_unless_renewal_is_meant() {
    let place = Place::new();
    let first = place.json(&["lock", "a.rs"]);
    let refused = place.run(&["lock", "a.rs"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--renew"), "{refused:?}");
    let renewed = place.json(&["lock", "a.rs", "--renew", "--ttl", "30"]);
    assert_eq!((&renewed["token"], &renewed["expiresInSeconds"]), (&first["token"], &json!(1800)));
    // `slm-mesh lock FILE -- COMMAND` fails while the caller already holds a lock on the file. The error must say how
    // to release this lock.
    place.ok(&["lock", "my dir/*.rs"]);
    for file in ["a.rs", "my dir/b.rs"] {
        let refused = place.run(&["lock", file, "--", "true"]);
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        let cure = error.split("release that lock first with slm-mesh ").nth(1).unwrap_or_else(|| panic!("{error}"));
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{BIN} {cure}")]).current_dir(&place.root);
        shell.envs(place.command(&[]).get_envs().filter_map(|(name, value)| Some((name, value?))));
        let unlocked = shell.output().unwrap();
        assert!(unlocked.status.success(), "{error}: {unlocked:?}");
        place.ok(&["lock", file, "--", "true"]);
    }
    let refused = place.run(&["lock", "a.rs", "--renew", "--", "true"]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && error.contains("leave out --renew"), "{refused:?}");
}

#[test]
fn several_files_are_locked_all_or_nothing() {
    let place = Place::new();
    let (mut one, mut two) = (session(&place, "one"), session(&place, "two"));
    one.tool("mesh_lock", json!({ "action": "lock", "filePath": "/p/b.rs", "reason": "parser" }));
    let all = json!({ "action": "lock", "filePaths": ["/p/a.rs", "/p/b.rs", "/p/c.rs"] });
    let (error, is_error) = two.try_tool("mesh_lock", all.clone());
    assert!(is_error && error["kind"] == json!("held"), "{error}");
    for word in ["/p/b.rs", "codex-one", "parser", "waitSeconds"] {
        assert!(error["error"].as_str().unwrap().contains(word), "want {word}: {error}");
    }
    assert_eq!(one.tool("mesh_lock", json!({ "action": "query" }))["locks"].as_array().unwrap().len(), 1);
    one.tool("mesh_lock", json!({ "action": "unlock", "filePath": "/p/b.rs" }));
    let granted = two.tool("mesh_lock", all);
    let paths: Vec<&Value> = granted["locks"].as_array().unwrap().iter().map(|lock| &lock["filePath"]).collect();
    assert_eq!(paths, ["/p/a.rs", "/p/b.rs", "/p/c.rs"]);
}

#[test]
fn folders_and_globs_keep_out_what_is_under_them() {
    let place = Place::new();
    let mut socket = watch(&place);
    let (mut one, mut two) = (peer(&place, "one"), peer(&place, "two"));
    for (held, wanted, is_free) in [
        ("/p/src/", "/p/src/deep/x.rs", false),
        ("/p/src/", "/p/srcs/x.rs", true),
        ("/p/src/deep/x.rs", "/p/src/", false),
        ("/p/src/auth/**", "/p/src/auth/a/b.rs", false),
        ("/p/src/*.rs", "/p/src/x.rs", false),
        ("/p/src/*.rs", "/p/src/x.md", true),
        ("/p/**/*.md", "/p/docs/**", false),
        ("/p/a", "/p/a", false),
        // A lock of a path also covers the paths below it, because the path may become a folder later.
        ("/p/new", "/p/new/f.rs", false),
        ("/p/new/f.rs", "/p/new", false),
        ("/p/new", "/p/new/", false),
        ("/p/new", "/p/newer/f.rs", true),
        ("/p/a/../b", "/p/b", false),
        ("/p//a/./b", "/p/a/b", false),
    ] {
        take(&mut one, held);
        let answer = two.call("lock.lock", json!({ "filePath": wanted }));
        assert_eq!(answer["result"]["ok"] == json!(true), is_free, "{held} against {wanted}: {answer}");
        if is_free {
            give_back(&mut two, wanted);
        }
        give_back(&mut one, held);
        assert_eq!(socket.call("lock.query", json!({}))["result"]["locks"], json!([]));
    }
}

#[test]
fn a_file_is_the_same_by_whatever_way_one_gets_there() {
    let place = Place::new();
    let mut one = session(&place, "one");
    fs::create_dir_all(place.root.join("real/deep")).unwrap();
    std::os::unix::fs::symlink(place.root.join("real"), place.root.join("link")).unwrap();
    let real = place.root.join("real/deep/new.rs");
    let granted = one.tool("mesh_lock", json!({ "action": "lock", "filePath": "../link/deep/new.rs" }));
    assert_eq!(granted["lock"]["filePath"], json!(real.to_str().unwrap()), "a file that does not exist yet, too");
    for way in ["real/deep/new.rs", "./real//deep/new.rs", "link/deep/../deep/new.rs", real.to_str().unwrap()] {
        let out = place.run(&["lock", way, "--as", "human"]);
        assert_eq!(out.status.code(), Some(1), "{way}: {out:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains("codex-one"), "{way}: {out:?}");
    }
    // The path of an existing folder means the whole folder, even without a slash at its end.
    let out = place.run(&["lock", "link", "--as", "human"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    place.ok(&["lock", "real.rs", "--as", "human"]);
}

#[test]
fn waiting_peers_get_the_lock_in_order_with_growing_tokens() {
    let place = Place::new();
    let mut watcher = watch(&place);
    let (mut one, mut two, mut three) = (peer(&place, "one"), peer(&place, "two"), peer(&place, "three"));
    let first = take(&mut one, "/p/a");
    let id_two = stand_in_line(&mut two, &mut watcher, "two", "/p/a");
    let id_three = stand_in_line(&mut three, &mut watcher, "three", "/p/a");
    assert_eq!(line_for(&mut watcher, "/p/a"), ["two", "three"]);
    give_back(&mut one, "/p/a");
    let second = answer(&mut two, id_two)["result"]["token"].as_i64().unwrap();
    assert_eq!(line_for(&mut watcher, "/p/a"), ["three"]);
    // A peer that asks for the lock now must not get it before the peers that already wait.
    assert_eq!(one.call("lock.lock", json!({ "filePath": "/p/a" }))["error"]["data"]["kind"], json!("held"));
    give_back(&mut two, "/p/a");
    let third = answer(&mut three, id_three)["result"]["token"].as_i64().unwrap();
    assert!(first < second && second < third, "{first} {second} {third}");
}

#[test]
fn a_peer_that_dies_or_gives_up_in_line_loses_only_its_own_place() {
    let place = Place::new();
    let mut watcher = watch(&place);
    let (mut one, mut dies, mut three) = (peer(&place, "one"), peer(&place, "dies"), peer(&place, "three"));
    let mut leaves = session(&place, "leaves");
    take(&mut one, "/p/a");
    stand_in_line(&mut dies, &mut watcher, "dies", "/p/a");
    let call = json!({ "name": "mesh_lock", "arguments": { "action": "lock", "filePath": "/p/a", "waitSeconds": 60 } });
    let id = leaves.ask("tools/call", call);
    until("it stands in line", || line_for(&mut watcher, "/p/a").len() == 2);
    let id_three = stand_in_line(&mut three, &mut watcher, "three", "/p/a");
    drop(dies);
    leaves.send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } }));
    until("both are out of the line", || line_for(&mut watcher, "/p/a") == ["three"]);
    give_back(&mut one, "/p/a");
    assert_eq!(answer(&mut three, id_three)["result"]["ok"], json!(true));
}

#[test]
fn a_wait_for_a_lock_ends_in_time_and_says_who_holds_it() {
    let place = Place::new();
    let mut one = session(&place, "one");
    one.tool("mesh_lock", json!({ "action": "lock", "filePath": place.root.join("a.rs") }));
    let out = place.run(&["lock", "a.rs", "--wait", "1", "--as", "human"]);
    assert!([Some(1), Some(4)].contains(&out.status.code()), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("codex-one"), "{out:?}");
    assert_eq!(place.json(&["lock", "list"])["locks"][0]["queue"], json!([]));
}

#[test]
fn a_cycle_of_waits_is_refused_and_named() {
    let place = Place::new();
    let mut watcher = watch(&place);
    let (mut one, mut two, mut three) = (peer(&place, "one"), peer(&place, "two"), peer(&place, "three"));
    take(&mut one, "/p/1");
    take(&mut two, "/p/2");
    take(&mut three, "/p/3");
    let id_one = stand_in_line(&mut one, &mut watcher, "one", "/p/2");
    stand_in_line(&mut two, &mut watcher, "two", "/p/3");
    let refused = three.call("lock.lock", json!({ "filePath": "/p/1", "waitSeconds": 60 }));
    assert_eq!(refused["error"]["data"]["kind"], json!("refused"), "{refused}");
    for name in ["one", "two", "three"] {
        assert!(refused["error"]["message"].as_str().unwrap().contains(name), "{refused}");
    }
    // The call of `three` would have closed a circle of peers that wait for each other, so the broker refused it. When
    // `two` releases its lock, the call of `one` succeeds.
    give_back(&mut two, "/p/2");
    assert_eq!(answer(&mut one, id_one)["result"]["ok"], json!(true));
}

#[test]
fn only_its_holder_gives_a_lock_back_and_only_the_human_takes_it_away() {
    let place = Place::new();
    let (mut one, mut two) = (session(&place, "one"), session(&place, "two"));
    let file = place.root.join("a.rs");
    one.tool("mesh_lock", json!({ "action": "lock", "filePath": file }));
    let (error, is_error) = two.try_tool("mesh_lock", json!({ "action": "unlock", "filePath": file }));
    assert!(is_error && error["error"].as_str().unwrap().contains("codex-one"), "{error}");
    let refused = place.run(&["lock", "a.rs", "--steal", "--as", "codex-two"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    place.ok(&["lock", "a.rs", "--steal", "--as", "human"]);
    let mail = one.tool("mesh_inbox", json!({}))["messages"][0].clone();
    assert_eq!(mail["type"], json!("alert"));
    assert!(mail["payload"].as_str().unwrap().contains(file.to_str().unwrap()), "the holder is notified: {mail}");
}

#[test]
fn a_lock_falls_at_once_when_its_session_ends_in_order() {
    let place = Place::new();
    let mut watcher = watch(&place);
    let mut one = session(&place, "one");
    one.tool("mesh_lock", json!({ "action": "lock", "filePath": "/p/a" }));
    let mut two = peer(&place, "two");
    let id = stand_in_line(&mut two, &mut watcher, "two", "/p/a");
    one.close();
    assert_eq!(answer(&mut two, id)["result"]["ok"], json!(true));
    let fell = watcher.call("events.read", json!({ "types": ["file_unlocked"] }))["result"]["events"][0].clone();
    assert_eq!(fell["payload"]["reason"], json!("clean_exit"), "it did not wait for the grace of a crash: {fell}");
}

#[test]
fn a_lock_falls_after_its_session_was_killed_unless_that_comes_back() {
    let place = Place::new();
    let mut watcher = watch(&place);
    let (mut dies, mut returns) = (session(&place, "dies"), session(&place, "returns"));
    returns.tool("mesh_lock", json!({ "action": "lock", "filePath": "/p/kept" }));
    dies.tool("mesh_lock", json!({ "action": "lock", "filePath": "/p/lost" }));
    // The session `returns` is killed first, but starts again, so it must keep the lock on `kept`. Without the restart,
    // the grace period of this lock would end before that of the lock on `lost`.
    returns.child.kill().unwrap();
    returns.child.wait().unwrap();
    let mut returned = session(&place, "returns");
    dies.child.kill().unwrap();
    dies.child.wait().unwrap();
    let refused = returned.try_tool("mesh_lock", json!({ "action": "lock", "filePath": "/p/lost" }));
    assert!(refused.1, "a crash does not end locks at once: {}", refused.0);
    until("the dead one's lock falls", || holder(&mut watcher, "/p/lost").is_none());
    assert_eq!(holder(&mut watcher, "/p/kept").as_deref(), Some("codex-returns"));
}

#[test]
fn locks_and_their_tokens_outlive_a_killed_broker() {
    let place = Place::new();
    let mut one = session(&place, "one");
    let before = one.tool("mesh_lock", json!({ "action": "lock", "filePath": "/p/a" }))["token"].as_i64().unwrap();
    one.tool("mesh_lock", json!({ "action": "lock", "filePath": "/p/b" }));
    one.tool("mesh_lock", json!({ "action": "unlock", "filePath": "/p/b" }));
    let pid = place.broker_pid().unwrap();
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    until("it is dead", || !lives(pid));
    let renewed = one.tool("mesh_lock", json!({ "action": "lock", "filePath": "/p/a" }));
    assert_eq!(renewed["token"], json!(before), "the session holds it as before");
    let next = one.tool("mesh_lock", json!({ "action": "lock", "filePath": "/p/c" }))["token"].as_i64().unwrap();
    assert!(next > before + 1, "no token is given twice: {next} after {before} and the one of /p/b");
}

/// A test directory with one repository that has two work trees: `main` and `tree`.
fn two_work_trees() -> Place {
    let place = Place::new();
    let inner = place.root.join("main/.git/worktrees/tree");
    fs::create_dir_all(&inner).unwrap();
    fs::create_dir_all(place.root.join("tree")).unwrap();
    fs::write(place.root.join("main/.git/HEAD"), "ref: refs/heads/main\n").unwrap();
    fs::write(inner.join("HEAD"), "ref: refs/heads/side\n").unwrap();
    fs::write(inner.join("commondir"), "../..\n").unwrap();
    fs::write(place.root.join("tree/.git"), format!("gitdir: {}\n", inner.display())).unwrap();
    place
}

/// Runs Claude Code's hook before a tool call in this folder, and returns its output.
fn before(place: &Place, folder: &str, session: &str, tool: &str, arguments: Value) -> Value {
    let input = json!({ "session_id": session, "hook_event_name": "PreToolUse", "cwd": place.root.join(folder),
                        "tool_name": tool, "tool_input": arguments });
    let mut hook = place.command(&["hook", "claude"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    hook.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    serde_json::from_slice::<Value>(&hook.wait_with_output().unwrap().stdout).unwrap_or_default()
}

#[test]
fn work_trees_are_apart_unless_the_whole_repository_is_meant() {
    let place = two_work_trees();
    let (mut main, mut tree) = (session(&place, "main"), session(&place, "tree"));
    main.tool("mesh_lock", json!({ "action": "lock", "filePath": "a.rs" }));
    tree.tool("mesh_lock", json!({ "action": "lock", "filePath": "a.rs" }));
    let everywhere = json!({ "action": "lock", "filePath": "b.rs", "scope": "repo" });
    main.tool("mesh_lock", everywhere.clone());
    let (error, is_error) = tree.try_tool("mesh_lock", json!({ "action": "lock", "filePath": "b.rs" }));
    assert!(is_error && error["error"].as_str().unwrap().contains("codex-main"), "{error}");
    let (error, is_error) =
        tree.try_tool("mesh_lock", json!({ "action": "lock", "filePath": "a.rs", "scope": "repo" }));
    assert!(is_error && error["error"].as_str().unwrap().contains("codex-main"), "{error}");
}

/// A lock with the scope `repo` covers the repository that contains the file, no matter in which folder the caller
/// works.
#[test]
fn a_lock_of_the_whole_repository_counts_for_callers_in_any_folder() {
    let place = two_work_trees();
    fs::create_dir_all(place.root.join("other/.git")).unwrap();
    fs::write(place.root.join("other/.git/HEAD"), "ref: refs/heads/main\n").unwrap();
    let edit = |folder: &str, session: &str, file: &str| {
        let denied = before(&place, folder, session, "Edit", json!({ "file_path": place.root.join(file) }));
        let reason = denied["hookSpecificOutput"]["permissionDecisionReason"].as_str().unwrap_or("").to_owned();
        assert_eq!(reason.contains(" is locked by "), !denied.is_null(), "{denied}");
        reason
    };
    let shell = |folder: &str, command: &str| before(&place, folder, "s1", "Bash", json!({ "command": command }));
    place.ok(&["lock", "main/b.rs", "--scope", "repo"]);
    for folder in ["tree", "main", "other", "."] {
        assert_ne!(edit(folder, "s1", "tree/b.rs"), "", "{folder}: the lock was taken in the folder above");
        let both = format!("touch {0}/other/free.rs {0}/tree/b.rs", place.root.display());
        assert_ne!(shell(folder, &both), Value::Null, "{folder}: one of the files belongs to the repository");
        assert_eq!(edit(folder, "s1", "tree/free.rs"), "", "{folder}");
    }
    // The holder edits the file while it works in a different repository. The edit renews the lock, which must still
    // cover all work trees.
    assert_eq!(edit("main", "holder", "main/c.rs"), "");
    let holder = place.json(&["lock", "list", "main/c.rs"])["locks"][0]["holder"].as_str().unwrap().to_owned();
    let main = place.root.join("main");
    place.ok(&["lock", "main/c.rs", "--scope", "repo", "--as", &holder]);
    assert_eq!(edit("other", "holder", "main/c.rs"), "");
    assert_ne!(edit("tree", "s1", "tree/c.rs"), "");

    let refused = place.run(&["lock", "main/d.rs", "loose.rs", "--scope", "repo"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("loose.rs\" is in no known repository"), "{text}");
    assert_eq!(place.json(&["lock", "list", &main.join("d.rs").display().to_string()])["locks"], json!([]));
}

#[test]
fn a_session_locks_a_file_of_another_repository_in_all_work_trees() {
    let place = two_work_trees();
    fs::create_dir_all(place.root.join("other/.git")).unwrap();
    fs::write(place.root.join("other/.git/HEAD"), "ref: refs/heads/main\n").unwrap();
    let lock = |file: &str, scope: &str| json!({ "action": "lock", "filePath": place.root.join(file), "scope": scope });
    let mut elsewhere = session(&place, "other");
    elsewhere.tool("mesh_lock", lock("main/f.rs", "repo"));
    let (error, is_error) = session(&place, "tree").try_tool("mesh_lock", lock("tree/f.rs", "machine"));
    assert!(is_error, "{error}");
}

/// `git stash` would undo another agent's changes to a locked file. If the file has no changes, the command is
/// harmless.
#[test]
fn git_commands_on_the_whole_tree_are_denied_if_they_change_a_held_file() {
    let place = Place::new();
    let git = |words: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(&place.root).args(["-c", "user.name=a", "-c", "user.email=a@b"]);
        assert!(git.args(words).status().unwrap().success(), "{words:?}");
    };
    fs::write(place.root.join("held.txt"), "one\n").unwrap();
    git(&["init", "-q"]);
    git(&["add", "held.txt"]);
    git(&["commit", "-qm", "One"]);
    place.ok(&["lock", "held.txt", "--reason", "mine"]);
    let before = |command: &str| before(&place, ".", "one", "Bash", json!({ "command": command }));
    for command in ["git stash", "git checkout .", "git reset --hard"] {
        assert_eq!(before(command), Value::Null, "{command}: the file is as it was committed");
    }
    fs::write(place.root.join("held.txt"), "two\n").unwrap();
    for command in ["git stash", "git checkout .", "git reset --hard", "cd . && git restore -s HEAD ."] {
        let reason = before(command)["hookSpecificOutput"]["permissionDecisionReason"].to_string();
        assert!(reason.contains("held.txt is locked by") && reason.contains("mine"), "{command}: {reason}");
    }
    assert_eq!(before("git stash list && git commit -qm two"), Value::Null);
    // A denied command takes no locks, even if it has so many files that the hook needs several calls to the broker.
    let many: Vec<String> = (0..700).map(|n| format!("a{n}")).collect();
    for command in ["echo > b.rs; git checkout .".to_owned(), format!("touch {} held.txt", many.join(" "))] {
        assert_ne!(before(&command), Value::Null, "{command:.40}");
        let locks = place.json(&["lock", "list"])["locks"].clone();
        assert_eq!(locks.as_array().unwrap().len(), 1, "{command:.40}: only held.txt is locked");
    }
    assert_eq!(before(&format!("touch {}", many.join(" "))), Value::Null);
    assert_eq!(place.json(&["status"])["locks"]["active"], json!(701));
}

#[test]
fn a_container_with_another_time_since_boot_ends_no_lock() {
    let shifted = |program: &str, args: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--time", "--boottime", "7200", program]).args(args);
        command
    };
    if !shifted("true", &[]).output().is_ok_and(|out| out.status.success()) {
        eprintln!("skipped: a_container_with_another_time_since_boot_ends_no_lock: no time namespace can be made");
        return;
    }
    let place = Place::new();
    let token = place.json(&["lock", "a.rs"])["token"].clone();
    place.ok(&["stop"]);
    let verb = place.command(&[]);
    let mut list = shifted(BIN, &["lock", "list", "--json"]);
    list.env_clear().envs(verb.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let out = list.output().unwrap();
    let locks: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(locks["locks"][0]["token"], token, "{locks}");
    place.ok(&["stop"]);
    assert_eq!(place.json(&["lock", "list"])["locks"][0]["token"], token, "nor does the way back");
}
