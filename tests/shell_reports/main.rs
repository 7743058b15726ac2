//! Tests reports about changes that no lock prevented. Either a shell command did not show which files it writes, or a
//! person made the change. The hooks get recorded inputs of real agents.

mod many_locks;
#[path = "../support/mod.rs"]
mod support;
mod turn_end;
mod two_agents;

use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::Place;

/// For each agent, the names of four events: before a tool call, after a tool call, at a prompt, and at the end of a
/// turn. The last field is the name of the shell tool.
const AGENTS: &[(&str, [&str; 4], &str)] = &[
    ("claude", ["PreToolUse", "PostToolUse", "UserPromptSubmit", "Stop"], "Bash"),
    ("codex", ["PreToolUse", "PostToolUse", "UserPromptSubmit", "Stop"], "shell"),
    ("copilot", ["preToolUse", "postToolUse", "userPromptSubmitted", "agentStop"], "bash"),
    ("gemini", ["BeforeTool", "AfterTool", "BeforeAgent", "AfterAgent"], "run_shell_command"),
    ("opencode", ["PreToolUse", "PostToolUse", "UserPromptSubmit", "Stop"], "bash"),
];

/// A fake agent: the test runs the hooks that a real agent would run.
struct Player<'a> {
    place: &'a Place,
    agent: &'a str,
    events: [&'a str; 4],
    shell: &'a str,
    session: String,
}

impl<'a> Player<'a> {
    fn new(place: &'a Place, agent: &str, session: &str) -> Player<'a> {
        let (agent, events, shell) = AGENTS.iter().find(|(known, ..)| *known == agent).unwrap();
        let player = Player { place, agent, events: *events, shell, session: session.into() };
        player.hook(2, &json!({}));
        player
    }

    /// Runs the hook for an event. The hook's input is the recorded input, to which the fields in `more` are added. A
    /// field in `more` replaces the recorded field that has the same name.
    fn hook(&self, event: usize, more: &Value) -> String {
        let (output, errors) = self.run_hook(event, more);
        assert_eq!(errors, "", "{}", self.agent);
        output
    }

    /// Runs the hook for an event. The hook's input is the recorded input, to which the fields in `more` are added. A
    /// field in `more` replaces the recorded field that has the same name. Returns the output and the errors.
    fn run_hook(&self, event: usize, more: &Value) -> (String, String) {
        let name = format!("{}-{}.json", self.agent, self.events[event]);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hooks").join(name);
        let text = fs::read_to_string(path).unwrap().replace("/work", self.place.root.to_str().unwrap());
        let mut input: Value = serde_json::from_str(&text).unwrap();
        for key in ["session_id", "sessionId"] {
            if input.get(key).is_some() {
                input[key] = json!(self.session);
            }
        }
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut child = self.place.command(&["hook", self.agent]);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        // Removes JSON escapes. The tests can then look for the same words in the output for every agent.
        let output = String::from_utf8(out.stdout).unwrap().replace("\\n", "\n").replace("\\\"", "\"");
        (output, String::from_utf8(out.stderr).unwrap())
    }

    /// The part of a hook's input that describes a shell command. It contains the id of the call if the agent sends
    /// one.
    fn call(&self, command: &str, id: &str) -> Value {
        let arguments = match self.agent {
            "codex" => json!({ "command": ["bash", "-lc", command] }),
            _ => json!({ "command": command, "description": "Do it" }),
        };
        match self.agent {
            "copilot" => json!({ "toolName": self.shell, "toolArgs": arguments }),
            "gemini" => json!({ "tool_name": self.shell, "tool_input": arguments }),
            _ => json!({ "tool_name": self.shell, "tool_input": arguments, "tool_use_id": id }),
        }
    }

    /// Runs the hook before a shell command, the command itself, and the hook after it. Returns the text that the agent
    /// gets from the second hook.
    fn run(&self, command: &str) -> String {
        self.run_with(command, || {
            Command::new("sh").args(["-c", command]).current_dir(&self.place.root).status().unwrap();
        })
    }

    fn run_with(&self, command: &str, work: impl FnOnce()) -> String {
        let denied = self.hook(0, &self.call(command, "call_1"));
        assert_eq!(denied, "", "{}: {command}", self.agent);
        work();
        let mut call = self.call(command, "call_1");
        if self.agent == "opencode" {
            // After a tool call, OpenCode's plugin does not send the arguments again.
            call.as_object_mut().unwrap().remove("tool_input");
        }
        self.hook(1, &call)
    }

    /// Runs the edit tool's first hook, writes a file, and runs the edit tool's second hook, as Claude Code does.
    fn edit(&self, file: &str, content: &str) -> String {
        let path = self.place.root.join(file);
        let call =
            json!({ "tool_name": "Write", "tool_input": { "file_path": path }, "tool_use_id": format!("edit {file}") });
        let denied = self.hook(0, &call);
        if !denied.is_empty() {
            return denied;
        }
        fs::write(&path, content).unwrap();
        self.hook(1, &call)
    }
}

/// A test mesh and the path of the only file in its work tree.
fn work_tree() -> (Place, PathBuf) {
    let place = Place::new();
    fs::create_dir_all(place.root.join(".git")).unwrap();
    fs::write(place.root.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
    let file = place.root.join("held.txt");
    fs::write(&file, "as it was\n").unwrap();
    (place, file)
}

/// A command that writes `held.txt`, although it does not contain this name.
fn hidden_write(content: &str) -> String {
    format!("f=$(echo dleh | rev); printf '{content}\\n' > $f.txt")
}

fn human_mail(place: &Place) -> String {
    place.json(&["inbox"])["messages"].to_string().replace("\\n", "\n").replace("\\\"", "\"")
}

#[test]
fn each_agent_reads_at_once_what_its_command_did_and_the_holder_gets_a_message() {
    for (agent, ..) in AGENTS {
        let (place, file) = work_tree();
        let player = Player::new(&place, agent, "s1");
        place.ok(&["lock", "held.txt", "--reason", "mine"]);
        assert_eq!(player.run("ls > other.txt; echo held.txt"), "", "{agent}: it changed nothing that others hold");
        let told = player.run(&hidden_write("lost"));
        assert!(told.contains("your command changed a file that another agent has locked"), "{agent}: {told}");
        assert!(told.contains("held.txt, locked by") && told.contains("lock restore"), "{agent}: {told}");
        let mail = human_mail(&place);
        assert!(mail.contains("My shell command changed files that you have locked"), "{agent}: {mail}");
        assert!(mail.contains("held.txt") && mail.contains("f=$(echo dleh | rev)"), "{agent}: {mail}");
        assert_eq!(player.run("true"), "", "{agent}: it is said once");

        let shown = place.ok(&["lock", "restore", "held.txt"]);
        assert!(shown.contains("-lost") && shown.contains("+as it was"), "{shown}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "lost\n", "it only shows");
        place.ok(&["lock", "restore", "held.txt", "--yes"]);
        assert_eq!(fs::read_to_string(&file).unwrap(), "as it was\n");
        place.ok(&["lock", "restore", "held.txt", "--yes"]);
        assert_eq!(fs::read_to_string(&file).unwrap(), "lost\n", "what it replaced was kept");
    }
}

#[test]
fn nothing_is_kept_when_nobody_holds_a_file() {
    let (place, _) = work_tree();
    let player = Player::new(&place, "claude", "s1");
    assert_eq!(player.run(&hidden_write("free")), "");
    assert!(!place.dir.join("held-files").exists());
    place.ok(&["lock", "/elsewhere/held.txt"]);
    assert_eq!(player.run(&hidden_write("free again")), "");
    assert!(!place.dir.join("held-files").exists(), "what is held lies outside this work tree");
}

#[test]
fn a_file_that_is_removed_made_or_only_touched() {
    let (place, file) = work_tree();
    let player = Player::new(&place, "claude", "s1");
    place.ok(&["lock", "held.txt", "new.txt"]);
    for harmless in [
        "touch $(echo dleh | rev).txt",
        "chmod 600 $(echo dleh | rev).txt",
        "cp -p $(echo dleh | rev).txt t; mv t $(echo dleh | rev).txt",
    ] {
        assert_eq!(player.run(harmless), "", "{harmless}");
    }
    let told = player.run("rm $(echo dleh | rev).txt; echo n > $(echo wen | rev).txt");
    assert!(told.contains("held.txt, locked by") && told.contains("(the file is gone)"), "{told}");
    assert!(told.contains("new.txt"), "{told}");
    place.ok(&["lock", "restore", "held.txt", "--yes"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "as it was\n");
    place.ok(&["lock", "restore", "new.txt", "--yes"]);
    assert!(!place.root.join("new.txt").exists(), "there was none before");
    // The command resets the modification time of the file, but it can't reset the change time (ctime). The change must
    // be reported anyway.
    let told = player.run("touch -r $(echo dleh | rev).txt r; printf 'as IT was\\n' > $(echo dleh | rev).txt; touch -r r $(echo dleh | rev).txt");
    assert!(told.contains("held.txt"), "{told}");
}

#[test]
fn restore_refuses_what_changed_since_unless_forced() {
    let (place, file) = work_tree();
    let player = Player::new(&place, "claude", "s1");
    place.ok(&["lock", "held.txt"]);
    let run = |args: &[&str]| place.run(&[&["lock", "restore"], args].concat());
    assert_eq!(run(&["held.txt", "--yes"]).status.code(), Some(1), "nothing is kept");
    player.run(&hidden_write("lost"));
    fs::write(&file, "mended by hand\n").unwrap();
    let refused = run(&["held.txt", "--yes"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--force"), "{refused:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mended by hand\n");
    assert!(run(&["held.txt", "--yes", "--force"]).status.success());
    assert_eq!(fs::read_to_string(&file).unwrap(), "as it was\n");
    assert!(run(&["held.txt", "--yes"]).status.success());
    assert_eq!(fs::read_to_string(&file).unwrap(), "mended by hand\n", "what was forced away is kept, too");
    player.run(&hidden_write("lost"));
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
    let refused = run(&["held.txt", "--yes", "--force"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        text.contains("held.txt is no longer a regular file; remove it"),
        "no link is followed or replaced: {text}"
    );
    fs::remove_file(&file).unwrap();
    assert!(run(&["held.txt", "--yes", "--force"]).status.success(), "the cure works");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mended by hand\n");
    for bad in [&["held.txt", "x"][..], &["--yes"], &["held.txt", "--no"]] {
        assert_eq!(run(bad).status.code(), Some(2), "{bad:?}");
    }
}

#[test]
fn restore_names_a_command_that_a_shell_understands() {
    let (place, _) = work_tree();
    let player = Player::new(&place, "claude", "s1");
    for name in ["r file.txt", "-it's.txt"] {
        let file = place.root.join(name);
        fs::write(&file, "as it was\n").unwrap();
        place.ok(&["lock", file.to_str().unwrap()]);
        player.run_with("true $(echo x)", || fs::write(&file, "lost\n").unwrap());
        let said = place.ok(&["lock", "restore", file.to_str().unwrap()]);
        let line = said.lines().last().unwrap();
        let words = line.split_once("to restore it, run slm-mesh ").unwrap().1;
        let command = format!("{} {words}", support::BIN);
        let mut shell = place.command(&[]);
        let envs: Vec<_> =
            shell.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
        shell = Command::new("sh");
        let out = shell.args(["-c", &command]).env_clear().envs(envs).current_dir(&place.root).output().unwrap();
        assert!(out.status.success(), "{command}: {out:?}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "as it was\n", "{command}");
    }
}

#[test]
fn on_a_terminal_restore_asks() {
    if Command::new("script").arg("--version").stdout(Stdio::null()).status().is_err() {
        assert!(std::env::var_os("SLM_MESH_TEST_ALL").is_none(), "script is missing");
        return eprintln!("skipped: there is no script(1), with which the test makes a terminal");
    }
    let (place, file) = work_tree();
    let player = Player::new(&place, "claude", "s1");
    place.ok(&["lock", "held.txt"]);
    player.run(&hidden_write("lost"));
    for (answer, left) in [("n", "lost\n"), ("", "lost\n"), ("y", "as it was\n")] {
        let restore = place.command(&[]);
        let mut terminal = Command::new("script");
        terminal.args(["-qec", &format!("{} lock restore held.txt", support::BIN), "/dev/null"]).env_clear();
        terminal.envs(restore.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(&place.root);
        let mut child = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{answer}\n").as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(String::from_utf8_lossy(&out.stdout).contains("Restore the previous content? [y/N]"), "{out:?}");
        assert_eq!(fs::read_to_string(&file).unwrap(), left, "{answer:?}");
    }
}

#[test]
fn links_special_files_and_large_files_are_not_copied() {
    let (place, _) = work_tree();
    let player = Player::new(&place, "claude", "s1");
    let secret = place.root.join("home/secret");
    fs::write(&secret, "secret\n").unwrap();
    let at = |name: &str| place.root.join(name);
    place.ok(&["lock", "held.txt", "pipe", "link", "folder/inner.txt", "large"]);
    Command::new("mkfifo").arg(at("pipe")).status().unwrap();
    std::os::unix::fs::symlink(&secret, at("link")).unwrap();
    std::os::unix::fs::symlink(place.root.join("home"), at("folder")).unwrap();
    fs::rename(&secret, at("home/inner.txt")).unwrap();
    fs::write(at("large"), vec![b'x'; (1 << 20) + 1]).unwrap();
    let told = player.run("printf y >> $(echo egral | rev)");
    assert!(told.contains("large, locked by") && !told.contains("lock restore"), "{told}");
    let copies: Vec<_> = fs::read_dir(place.dir.join("held-files/copies")).unwrap().flatten().collect();
    assert_eq!(copies.len(), 1, "held.txt alone: {copies:?}");
    assert_eq!(fs::read_to_string(copies[0].path()).unwrap(), "as it was\n");
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&copies[0].path()), mode(&place.dir.join("held-files/copies"))), (0o600, 0o700));
    place.ok(&["clean"]);
    assert!(!place.dir.join("held-files/copies").exists(), "clean takes the copies away");
}

#[test]
fn a_write_is_reported_although_the_files_of_crashes_are_removed_meanwhile() {
    let (place, file) = work_tree();
    let player = Player::new(&place, "claude", "s1");
    place.ok(&["lock", "held.txt"]);
    let told = player.run_with(&hidden_write("changed"), || {
        place.ok(&["clean"]);
        fs::write(&file, "changed\n").unwrap();
    });
    assert!(told.contains("held.txt"), "{told}");
}

#[test]
fn a_holder_hears_of_an_edit_by_a_person_once() {
    let (place, file) = work_tree();
    let player = Player::new(&place, "claude", "s1");
    assert_eq!(player.edit("held.txt", "my edit\n"), "");
    assert_eq!(player.run("cat held.txt"), "");
    fs::write(&file, "somebody's edit\n").unwrap();
    let told = player.hook(2, &json!({}));
    assert!(told.contains("since the session's last edit") && told.contains("held.txt"), "{told}");
    assert_eq!(player.hook(2, &json!({})), "", "once");
    fs::write(&file, "another one\n").unwrap();
    let told = player.run("true");
    assert!(told.contains("since the session's last edit"), "noticed before its next command: {told}");
    // The agent holds the lock itself, so its own changes to the file are not reported.
    assert_eq!(player.run(&hidden_write("my own")), "");
    assert_eq!(player.edit("held.txt", "my edit\n"), "");
    assert_eq!(player.hook(2, &json!({})), "");
}

#[test]
fn the_holders_own_edit_during_a_command_is_not_blamed_on_the_command() {
    let (place, _) = work_tree();
    let holder = Player::new(&place, "claude", "holder");
    let other = Player::new(&place, "codex", "other");
    assert_eq!(holder.edit("held.txt", "first\n"), "");
    let told = other.run_with("cargo test", || assert_eq!(holder.edit("held.txt", "second\n"), ""));
    assert_eq!(told, "");
    let told = other.run_with("cargo test", || assert_eq!(holder.run(&hidden_write("third")), ""));
    assert!(told.contains("another agent probably changed"), "{told}");
    assert_eq!(holder.hook(2, &json!({})), "", "its holder gets no message about its own work");
    let told = other.run(&hidden_write("lost"));
    assert!(told.contains("your command changed"), "{told}");
    let mail = holder.hook(2, &json!({}));
    assert!(mail.contains("> My shell command changed files that you have locked"), "{mail}");
    assert!(!mail.contains("since the session's last edit"), "it is not said twice: {mail}");
}

#[test]
fn parallel_commands_of_one_session_and_a_command_that_failed() {
    let (place, file) = work_tree();
    let player = Player::new(&place, "claude", "s1");
    place.ok(&["lock", "held.txt", "second.txt"]);
    let (first, second) = (player.call("make a", "call_a"), player.call("make b", "call_b"));
    player.hook(0, &first);
    player.hook(0, &second);
    fs::write(place.root.join("second.txt"), "x\n").unwrap();
    let told = player.hook(1, &second);
    assert!(told.contains("second.txt") && !told.contains("held.txt"), "{told}");
    fs::write(&file, "lost\n").unwrap();
    let told = player.hook(1, &first);
    assert!(told.contains("held.txt"), "{told}");
    // Some agents run no hook after a command that failed, so the hook at the end of the turn looks for changed files,
    // too.
    player.hook(0, &player.call("make c", "call_c"));
    fs::write(&file, "lost again\n").unwrap();
    let told = player.hook(3, &json!({}));
    assert!(told.contains("held.txt"), "{told}");
    assert!(human_mail(&place).contains("make c"));
}

#[test]
fn a_folder_covers_the_files_that_its_holders_hooks_have_seen() {
    let (place, _) = work_tree();
    fs::create_dir_all(place.root.join("src")).unwrap();
    fs::write(place.root.join("src/a.rs"), "a\n").unwrap();
    let mut session = place.session("claude-code", ".");
    session.tool("mesh_lock", json!({ "action": "lock", "filePath": "src/" }));
    let holder = Player::new(&place, "claude", "holder");
    let other = Player::new(&place, "codex", "other");
    assert_eq!(holder.edit("src/a.rs", "mine\n"), "");
    holder.hook(3, &json!({}));
    let locks = place.json(&["lock", "list"])["locks"].as_array().unwrap().len();
    assert_eq!(locks, 1, "the turn's lock is gone, the folder's stays");
    let told = other.run("f=$(echo sr.a | rev); echo lost > s''rc/../$(echo crs | rev)/$f");
    assert!(told.contains("src/a.rs, locked by"), "{told}");
}

#[test]
fn a_command_of_a_megabyte_is_not_parsed_and_its_write_is_reported() {
    let (place, file) = work_tree();
    let player = Player::new(&place, "claude", "s1");
    place.ok(&["lock", "held.txt"]);
    let command = format!("echo lost > held.txt # {}", "z".repeat(1_000_000));
    let told = player.run_with(&command, || fs::write(&file, "lost\n").unwrap());
    assert!(told.contains("your command changed"), "{told}");
    let mail = human_mail(&place);
    assert!(mail.contains("echo lost > held.txt") && mail.len() < 2_000, "the command is cut: {}", mail.len());
}

#[test]
fn damaged_notes_and_a_broker_that_is_gone_stop_nothing() {
    let (place, file) = work_tree();
    let player = Player::new(&place, "claude", "s1");
    place.ok(&["lock", "held.txt"]);
    for garbage in [&b""[..], b"{", b"[1]", b"{\"command\":5}", &[0xff; 64]] {
        player.hook(0, &player.call("make", "call_1"));
        for folder in ["commands", "holders", "overwritten"] {
            for note in fs::read_dir(place.dir.join("held-files").join(folder)).into_iter().flatten().flatten() {
                fs::write(note.path(), garbage).unwrap();
            }
        }
        assert_eq!(player.hook(1, &player.call("make", "call_1")), "", "{garbage:?}");
    }
    player.hook(0, &player.call("make", "call_1"));
    place.ok(&["stop"]);
    fs::write(&file, "lost\n").unwrap();
    let told = player.hook(1, &player.call("make", "call_1"));
    assert!(told.contains("your command changed"), "{told}");
}

#[test]
fn what_is_kept_ends_after_an_hour_and_is_bounded() {
    let (place, _) = work_tree();
    let player = Player::new(&place, "claude", "s1");
    let names: Vec<String> = (0..300).map(|n| format!("many{n}")).collect();
    for part in names.chunks(60) {
        place.ok(&[&["lock"], &part.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    }
    names.iter().for_each(|name| fs::write(place.root.join(name), name).unwrap());
    player.hook(0, &player.call("make", "many"));
    let kept = place.dir.join("held-files");
    let n_copies = || fs::read_dir(kept.join("copies")).unwrap().count();
    assert_eq!(n_copies(), slm_mesh::base::limits::WATCHED_FILES_MAX);
    names.iter().for_each(|name| fs::write(place.root.join(name), "lost").unwrap());
    let told = player.hook(1, &player.call("make", "many"));
    assert!(told.contains("and 236 more") && told.len() < 5_000, "{told}");
    assert!(human_mail(&place).contains("and 246 more"));

    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 3600);
    let folders = ["copies", "overwritten", "commands"].map(|name| kept.join(name));
    player.hook(0, &player.call("make", "late"));
    for entry in folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap().flatten()) {
        fs::File::options().write(true).open(entry.path()).unwrap().set_modified(long_ago).unwrap();
    }
    // When a different session gets a prompt, its hook removes old files.
    Player::new(&place, "codex", "s2");
    let left: usize = folders.iter().map(|folder| fs::read_dir(folder).unwrap().count()).sum();
    assert_eq!(left, 0);
    assert_eq!(place.run(&["lock", "restore", "many1", "--yes"]).status.code(), Some(1));
}

#[test]
fn a_hook_that_was_stopped_holds_up_no_other() {
    let (place, _) = work_tree();
    let player = Player::new(&place, "claude", "s1");
    assert_eq!(player.edit("held.txt", "mine\n"), "");
    for entry in fs::read_dir(place.dir.join("held-files/holders")).unwrap().flatten() {
        let file = fs::File::open(entry.path()).unwrap();
        file.lock().unwrap();
        let began = std::time::Instant::now();
        assert_eq!(player.edit("held.txt", "mine again\n"), "");
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
