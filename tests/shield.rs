//! Tests `shield -- COMMAND` and `setup --shield`. A shielded command can't write files that another agent has locked.
//! In all other respects, the command behaves as it does without a shield.

mod support;

use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::{BIN, Place};

/// A work tree with files. The human (the person who owns the machine) holds locks on these paths. Returns `None` if
/// the system allows no shield.
fn held(locks: &[&str]) -> Option<Place> {
    let place = Place::new();
    let trial = place.run(&["shield", "--file", ".", "--", "true"]);
    if !trial.status.success() {
        assert!(std::env::var_os("SLM_MESH_TEST_ALL").is_none(), "no shield: {trial:?}");
        eprintln!("skipped: this system can't provide a shield");
        return None;
    }
    let git = |args: &[&str]| {
        let settings = ["-c", "user.name=a", "-c", "user.email=a@b"];
        assert!(place.program("git").args(settings).args(args).status().unwrap().success(), "{args:?}");
    };
    git(&["init", "-q"]);
    for file in ["held.txt", "free.txt", "dir/one.txt"] {
        fs::create_dir_all(place.root.join(file).parent().unwrap()).unwrap();
        fs::write(place.root.join(file), "as it was\n").unwrap();
    }
    git(&["add", "."]);
    git(&["commit", "-qm", "One"]);
    place.ok(&[&["lock"], locks].concat());
    Some(place)
}

trait InWorkTree {
    fn program(&self, program: &str) -> Command;
    fn shielded(&self, script: &str) -> Output;
    fn text(&self, file: &str) -> String;
}

impl InWorkTree for Place {
    fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let own = self.command(&[]);
        command.env_clear().envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(&self.root);
        command
    }

    /// Runs a script in a shield as the peer `worker`, who holds no lock.
    fn shielded(&self, script: &str) -> Output {
        self.run(&["shield", "--as", "worker", "--", "bash", "-c", script])
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.root.join(file)).unwrap_or_default()
    }
}

/// Starts the session `worker`. Shielded commands run as this peer.
fn worker(place: &Place) -> support::Session {
    let mut session = support::Session::start(place.command(&["mcp"]).env("SLM_MESH_NAME", "worker"), "worker");
    session.tool("mesh_status", json!({}));
    session
}

#[test]
fn no_program_writes_a_held_file_and_all_write_a_free_one() {
    let Some(place) = held(&["held.txt", "dir/"]) else { return };
    let _worker = worker(&place);
    for script in [
        "echo x > FILE",
        "echo x >> FILE",
        "sed -i s/was/is/ FILE",
        "python3 -c 'open(\"FILE\", \"w\").write(\"x\")'",
        "echo x > new && mv new FILE",
        "cp free.txt FILE.tmp; echo y >> FILE.tmp; mv -f FILE.tmp FILE",
        "rm -f FILE; [ ! -e FILE ] && echo x > FILE",
        "ln -f free.txt FILE",
        "chmod 600 FILE",
        "truncate -s 0 FILE",
        "git rm -qf FILE",
    ] {
        let before = fs::metadata(place.root.join("held.txt")).unwrap().permissions();
        let out = place.shielded(&script.replace("FILE", "held.txt"));
        assert!(!out.status.success(), "{script}: {out:?}");
        assert_eq!(place.text("held.txt"), "as it was\n", "{script}");
        assert_eq!(fs::metadata(place.root.join("held.txt")).unwrap().permissions(), before, "{script}");
        let out = place.shielded(&script.replace("FILE", "free2.txt"));
        let wants_file = ["sed", "chmod", "git"].iter().any(|program| script.starts_with(program));
        assert_eq!(out.status.success(), !wants_file, "{script}: {out:?}");
        fs::remove_file(place.root.join("free2.txt")).ok();
    }
    // If a folder is locked, a command can't create files in it, even if the folder is its working directory.
    for script in ["echo x > dir/two.txt", "rm -rf dir", "cd dir && echo x > one.txt", "cd dir && rm one.txt"] {
        assert!(!place.shielded(script).status.success(), "{script}");
    }
    let inside = place
        .command(&["shield", "--as", "worker", "--", "sh", "-c", "echo x > one.txt"])
        .current_dir(place.root.join("dir"))
        .output()
        .unwrap();
    assert!(!inside.status.success(), "{inside:?}");
    assert_eq!(place.text("dir/one.txt"), "as it was\n");
    // After the shield has ended, other programs can write the files again.
    fs::write(place.root.join("held.txt"), "by its holder\n").unwrap();
    fs::write(place.root.join("dir/two.txt"), "by its holder\n").unwrap();
}

#[test]
fn every_one_of_many_held_files_is_protected() {
    let Some(place) = held(&["held.txt"]) else { return };
    // There are so many locks that the broker needs several answers to list them.
    let folder = "n".repeat(100);
    fs::create_dir(place.root.join(&folder)).unwrap();
    let files: Vec<String> = (0..640).map(|n| format!("{folder}/{n}.txt")).collect();
    files.iter().for_each(|file| fs::write(place.root.join(file), "").unwrap());
    for part in files.chunks(64) {
        place.ok(&[&["lock"], part.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat());
    }
    let _worker = worker(&place);
    let out = place.shielded("for file in n*/*; do (echo x > $file) 2> /dev/null && echo $file is written; done; true");
    assert!(out.status.success(), "{out:?}");
    assert_eq!(String::from_utf8_lossy(&out.stdout).lines().next(), None);
    assert!(place.shielded("echo x > free.txt").status.success());
}

#[test]
fn file_systems_inside_a_held_folder_are_covered_too() {
    let Some(place) = held(&["dir/"]) else { return };
    let _worker = worker(&place);
    fs::create_dir_all(place.root.join("dir/a b/c")).unwrap();
    // Only this shell, and the shield that it starts, can see these mounts.
    let script = "
        mount -t tmpfs -o nosuid,noexec none 'dir/a b' && mkdir 'dir/a b/c' && mount -t tmpfs none 'dir/a b/c' || exit 9
        echo x > 'dir/a b/before' || exit 8
        \"$0\" shield --as worker -- sh -c \"echo x > 'dir/a b/x'; echo x > 'dir/a b/c/x'; echo x > free.txt\"
        ls 'dir/a b' 'dir/a b/c'";
    let by = if rustix::process::geteuid().is_root() { "-m" } else { "-Urm" };
    let out = place.program("unshare").args([by, "sh", "-c", script, BIN]).output();
    let Ok(out) = out.inspect_err(|error| eprintln!("skipped: unshare: {error}")) else { return };
    assert_eq!(String::from_utf8_lossy(&out.stdout), "dir/a b:\nbefore\nc\n\ndir/a b/c:\n", "{out:?}");
    assert_eq!(place.text("free.txt"), "x\n");
}

#[test]
fn git_cannot_bring_another_version_of_a_held_file() {
    let Some(place) = held(&["held.txt"]) else { return };
    let _worker = worker(&place);
    fs::write(place.root.join("held.txt"), "in progress\n").unwrap();
    for script in ["git checkout -- held.txt", "git restore held.txt", "git reset -q --hard", "git stash -q"] {
        place.shielded(script);
        assert_eq!(place.text("held.txt"), "in progress\n", "{script}");
    }
}

#[test]
fn what_a_shield_does_not_cover() {
    let Some(place) = held(&["later.txt", "held.txt", "*.md"]) else { return };
    let _worker = worker(&place);
    // A shield does not protect a file that does not exist yet, a second hard link to a file, or a file that no hook
    // has seen and that is locked only through a glob.
    fs::hard_link(place.root.join("held.txt"), place.root.join("other.txt")).unwrap();
    fs::write(place.root.join("a.md"), "").unwrap();
    for script in ["echo x > later.txt", "echo x > other.txt", "echo x > a.md"] {
        let out = place.shielded(script);
        assert!(out.status.success(), "{script}: {out:?}");
    }
    // If the given path is a link, the shield protects the link's target.
    std::os::unix::fs::symlink("free.txt", place.root.join("link.txt")).unwrap();
    let script = "echo x > free.txt";
    let out = place.run(&["shield", "--file", "link.txt", "--", "bash", "-c", script]);
    assert!(!out.status.success(), "{out:?}");
}

#[test]
fn a_shield_protects_what_the_user_names_or_does_not_run() {
    let place = Place::new();
    fs::write(place.root.join("free.txt"), "").unwrap();
    // None of these paths matches a file. Without an error, the user would believe that a file is protected.
    std::os::unix::fs::symlink("nothing", place.root.join("link.txt")).unwrap();
    for file in ["fre.txt", "*", "*.txt", "link.txt"] {
        for flags in [&["--file", file][..], &["--if-possible", "--file", "free.txt", "--file", file]] {
            let out = place.run(&[&["shield"], flags, &["--", "touch", "ran.txt"]].concat());
            let error = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.code() == Some(2) && error.contains(&format!("\"{file}\" can't")), "{flags:?}: {out:?}");
            assert!(!place.root.join("ran.txt").exists(), "{flags:?}");
        }
    }
    // The flags work only before `--`, so the usage line must show them there.
    let usage = place.run(&["shield"]);
    let error = String::from_utf8_lossy(&usage.stderr).into_owned();
    assert!(error.contains("shield [--file FILE] [--if-possible] -- COMMAND…"), "{error}");
}

#[test]
fn the_command_is_else_as_without_a_shield() {
    let Some(place) = held(&["held.txt"]) else { return };
    let _worker = worker(&place);
    for (command, status) in [
        (&["no-such-program"][..], Some(127)),
        (&["./free.txt"], Some(126)),
        (&["sh", "-c", "exit 9"], Some(9)),
        (&["sh", "-c", "kill -TERM $$"], None),
    ] {
        let out = place.run(&[&["shield", "--as", "worker", "--"], command].concat());
        assert_eq!(out.status.code(), status, "{command:?}: {out:?}");
    }
    let facts = "pwd; id; umask; echo $0 \"$@\"; env | sort; ulimit -a; echo $PPID; cat";
    let run = |words: &[&str]| {
        let mut command = place.program(words[0]);
        command.args(&words[1..]).args(["sh", "-c", facts, "zero", "a b", "--", "c"]).env("X", "a\nb");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"from standard input\n").unwrap();
        child.wait_with_output().unwrap()
    };
    assert_eq!(run(&[BIN, "shield", "--as", "worker", "--"]), run(&["env"]), "a program that starts another one");
    for wrong in [&["shield"][..], &["shield", "--"], &["shield", "--no", "--", "true"], &["shield", "x", "--", "true"]]
    {
        assert_eq!(place.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn signals_go_to_the_command_itself() {
    let Some(place) = held(&["held.txt"]) else { return };
    let _worker = worker(&place);
    let script = "trap 'echo stopped; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let mut command = place.command(&["shield", "--as", "worker", "--", "bash", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(lines.next().unwrap().unwrap(), "stopped");
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn a_terminal_stays_a_terminal_and_ctrl_c_works() {
    if Command::new("script").arg("--version").stdout(Stdio::null()).status().is_err() {
        assert!(std::env::var_os("SLM_MESH_TEST_ALL").is_none(), "script is missing");
        return eprintln!("skipped: there is no script(1), with which the test makes a terminal");
    }
    let Some(place) = held(&["held.txt"]) else { return };
    let _worker = worker(&place);
    let inner =
        "trap \"echo interrupted; exit 6\" INT; test -t 0 -a -t 1 && echo terminal; while :; do sleep 0.05; done";
    let line = format!("exec {BIN} shield --as worker -- bash -c '{inner}'");
    let mut terminal = place.program("script");
    let mut child =
        terminal.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap().trim(), "terminal");
    let mut keys = child.stdin.take().unwrap();
    keys.write_all(b"\x03").unwrap();
    assert!(lines.any(|line| line.unwrap().contains("interrupted")));
    assert_eq!(child.wait().unwrap().code(), Some(6));
}

/// A fake session of Claude Code. The test runs its hooks and its shell commands.
struct Claude<'a> {
    place: &'a Place,
    /// A file of shell lines that the session's shell runs before each command.
    lines: PathBuf,
}

impl<'a> Claude<'a> {
    fn new(place: &'a Place) -> Claude<'a> {
        let claude = Claude { place, lines: place.root.join("home/lines.sh") };
        claude.hook("SessionStart", json!({ "source": "startup" }));
        claude
    }

    fn hook(&self, event: &str, more: Value) -> Value {
        let mut input = json!({ "session_id": "s1", "cwd": self.place.root, "hook_event_name": event });
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut child = self.place.command(&["hook", "claude"]);
        let child = child.env("CLAUDE_ENV_FILE", &self.lines).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
        serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap_or_default()
    }

    fn before(&self, command: &str) -> Value {
        let call = json!({ "tool_name": "Bash", "tool_use_id": "toolu_1", "tool_input": { "command": command } });
        self.hook("PreToolUse", call)
    }

    /// Runs a command in the same way as Claude Code: first the user's functions and aliases, then the command, then
    /// `pwd -P`.
    fn shell(&self, shell: &str, command: &str) -> (Option<i32>, String) {
        let lines = fs::read_to_string(&self.lines).unwrap_or_default();
        let options = if shell == "bash" { "shopt -s expand_aliases" } else { ":" };
        let quoted = format!("'{}'", command.replace('\'', "'\\''"));
        let state = self.place.root.join("home/snapshot.sh");
        fs::write(&state, format!("{options}\ngreet() {{ echo \"hi $1\"; }}\nalias ll='echo alias'\n")).unwrap();
        let script = format!("source {} 2>/dev/null || true && {lines}: && eval {quoted} && pwd -P", state.display());
        let out = self.place.program(shell).args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap())
    }

    /// Whether a command that hides the name of the locked file can write this file.
    fn can_write(&self, shell: &str) -> bool {
        assert_eq!(self.before(HIDDEN), Value::Null, "its text does not tell what it writes");
        let (status, output) = self.shell(shell, HIDDEN);
        let (is_written, was_refused) = (self.place.text("held.txt") == "x\n", output.starts_with('1'));
        assert!(status == Some(0) && is_written != was_refused, "{shell}: {output}");
        fs::write(self.place.root.join("held.txt"), "as it was\n").unwrap();
        is_written
    }
}

const HIDDEN: &str = "f=$(echo dleh | rev); echo x > $f.txt; echo $?";

fn has_shell(shell: &str) -> bool {
    let is_here = Command::new(shell).arg("--version").stdout(Stdio::null()).status().is_ok();
    assert!(is_here || std::env::var_os("SLM_MESH_TEST_ALL").is_none(), "{shell} is missing");
    is_here
}

#[test]
fn commands_are_shielded_only_while_others_hold_files_and_the_user_wants_it() {
    let Some(place) = held(&["held.txt"]) else { return };
    assert!(Claude::new(&place).can_write("bash"), "nobody asked for it");
    let settings = || fs::read_to_string(place.dir.join("config")).unwrap_or_default();
    // `setup` first writes this setting, and then fails because Claude Code is not installed.
    place.run(&["setup", "claude", "--shield"]);
    assert_eq!(settings(), "SLM_MESH_SHIELD=claude\n");
    let claude = Claude::new(&place);
    claude.hook("SessionStart", json!({ "source": "compact" }));
    let lines = fs::read_to_string(&claude.lines).unwrap();
    assert_eq!(lines.matches(" shield ").count(), 1, "the line is there once: {lines}");
    assert!(!claude.can_write("bash"));
    let denied = claude.before("echo x > held.txt");
    assert_eq!(denied["hookSpecificOutput"]["permissionDecision"], "deny", "{denied}");
    place.ok(&["unlock", "held.txt"]);
    // The session holds this lock itself, so its shielded commands can write the file.
    let edit = json!({ "tool_name": "Write", "tool_input": { "file_path": place.root.join("held.txt") } });
    assert_eq!(claude.hook("PreToolUse", edit), Value::Null);
    place.ok(&["lock", "free.txt"]);
    assert!(claude.can_write("bash"));
    place.ok(&["unlock", "free.txt"]);
    claude.before("true");
    assert!(fs::read_dir(place.dir.join("held-files/shields")).unwrap().next().is_none(), "nobody else holds a file");
    place.ok(&["lock", "free.txt"]);
    claude.before("true");
    claude.hook("SessionEnd", json!({}));
    assert!(fs::read_dir(place.dir.join("held-files/shields")).unwrap().next().is_none(), "the session has ended");
    place.run(&["setup", "claude", "--no-shield"]);
    assert_eq!(settings(), "");
    assert_eq!(place.run(&["setup", "zed", "--shield"]).status.code(), Some(2));
    assert_eq!(place.run(&["setup", "claude", "--shield", "--no-shield"]).status.code(), Some(2));
}

#[test]
fn a_shielded_command_does_what_it_did() {
    let Some(place) = held(&["held.txt"]).map(|place| place.with("SLM_MESH_SHIELD", "claude")) else { return };
    let bare = Claude { place: &place, lines: place.root.join("home/none.sh") };
    for shell in ["bash", "zsh"].into_iter().filter(|shell| has_shell(shell)) {
        let shielded = Claude::new(bare.place);
        // The session without a shield runs the lines that the hook wrote, but not the lines that start the shield.
        let lines = fs::read_to_string(&shielded.lines).unwrap();
        let others: Vec<&str> = lines.lines().filter(|line| !line.contains(" shield ")).collect();
        fs::write(&bare.lines, others.join("\n") + "\n").unwrap();
        assert!(!shielded.can_write(shell));
        for command in [
            "cd dir && ls",
            "false",
            "exit 3",
            "greet \"$(ll)\"; echo $0",
            "echo 'it'\\''s' \"$PWD\" `echo a` $((1+1)) \\\\ é '$x'",
            "cat <<'EOF'\n$HOME 'a' \"b\"\nEOF",
            "set -e; false; echo on",
            "sleep 0.2 & echo started",
            "cat; echo out; echo err >&2",
            "x=1; (exit 4) || echo $? $x",
            "kill -TERM $$; echo on",
            "# nothing",
            "env | grep -v '^_=' | sort",
            "exec true",
            "if then",
        ] {
            assert_eq!(shielded.shell(shell, command), bare.shell(shell, command), "{shell}: {command}");
        }
        // The command starts a second shell, which does not start a shield. The outer shield must still protect the
        // file.
        let (_, output) = shielded.shell(shell, "bash -c 'f=$(echo dleh | rev); echo x > $f.txt'; cat held.txt");
        assert_eq!(output.lines().next(), Some("as it was"));
    }
}

/// The value of `BASH_ENV` that an agent's hook sets when a session starts. OpenCode's hook prints the value, and
/// Droid's hook writes it into a file.
fn bash_env_after_start(place: &Place, agent: &str, users: Option<&str>) -> String {
    let file = place.root.join(format!("home/{agent}.env"));
    let input = json!({ "session_id": "s1", "cwd": place.root, "hook_event_name": "SessionStart",
                        "CLAUDE_ENV_FILE": file });
    let mut hook = place.command(&["hook", agent]);
    hook.envs(users.map(|value| ("BASH_ENV", value))).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut hook = hook.spawn().unwrap();
    hook.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let answer = hook.wait_with_output().unwrap();
    match serde_json::from_slice::<Value>(&answer.stdout) {
        Ok(answer) if answer["env"]["BASH_ENV"].is_string() => answer["env"]["BASH_ENV"].as_str().unwrap().to_owned(),
        _ => {
            let text = fs::read_to_string(&file).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("export BASH_ENV=")).unwrap().to_owned();
            fs::remove_file(&file).unwrap();
            line.trim_matches('\'').to_owned()
        }
    }
}

#[test]
fn bash_enters_the_shield_by_its_own_variable() {
    let Some(place) = held(&["held.txt"]).map(|place| place.with("SLM_MESH_SHIELD", "opencode,droid")) else { return };
    let users = place.root.join("home/users.sh");
    fs::write(&users, "greet() { echo \"hi $1\"; }\n").unwrap();
    // The user's value contains a variable, which bash expands. The shield must expand it, too.
    let users_value = format!("{}/home/$NAME.sh", place.root.display());
    for (agent, tool) in [("opencode", "bash"), ("droid", "Execute")] {
        let first = bash_env_after_start(&place, agent, Some(&users_value));
        // If a second session starts in the same environment, the hook of this session gets slm-mesh's value of
        // BASH_ENV instead of the user's value.
        let variable = bash_env_after_start(&place, agent, Some(&first));
        let before = json!({ "session_id": "s1", "cwd": place.root, "hook_event_name": "PreToolUse", "tool_name": tool,
                             "tool_use_id": "one", "tool_input": { "command": HIDDEN } });
        let mut hook = place.command(&["hook", agent]).stdin(Stdio::piped()).spawn().unwrap();
        hook.stdin.take().unwrap().write_all(before.to_string().as_bytes()).unwrap();
        assert!(hook.wait().unwrap().success());
        let run = |value: &str, arguments: &[&str]| {
            let mut bash = place.program("bash");
            let out = bash.args(arguments).env("BASH_ENV", value).env("NAME", "users").output().unwrap();
            (out.status.code(), String::from_utf8(out.stdout).unwrap())
        };
        assert!(run(&variable, &["-c", HIDDEN]).1.starts_with('1'), "{agent}: the file was written");
        assert_eq!(place.text("held.txt"), "as it was\n");
        fs::write(place.root.join("script.sh"), "echo \"$0 $1\"; exit 4\n").unwrap();
        for arguments in [
            &["-c", "echo $BASH_ENV; env | grep -v '^_=' | sort; greet \"$1\" || exit 3", "name", "you"][..],
            &["-lc", "pwd; exit 5"],
            &["-c", "bash -c 'greet again'; kill -TERM $$"],
            &["script.sh", "one"],
            &["-c", "if then"],
        ] {
            assert_eq!(run(&variable, arguments), run(&users_value, arguments), "{agent}: {arguments:?}");
        }
    }
}

#[test]
fn a_program_that_is_gone_stops_no_command() {
    let Some(place) = held(&["held.txt"]).map(|place| place.with("SLM_MESH_SHIELD", "claude")) else { return };
    let claude = Claude::new(&place);
    claude.before("true");
    let lines = fs::read_to_string(&claude.lines).unwrap().replace(BIN, "/no/such/program");
    fs::write(&claude.lines, lines).unwrap();
    assert_eq!(claude.shell("bash", "echo on").0, Some(0));
    // No broker runs now. The command must still run, and return its own exit status.
    place.ok(&["stop"]);
    let claude = Claude::new(&place);
    place.ok(&["stop"]);
    assert_eq!(claude.shell("bash", "echo on; exit 5"), (Some(5), "on\n".into()));
}

#[test]
fn a_command_that_cannot_be_shielded_runs_as_before() {
    let Some(place) = held(&["held.txt"]) else { return };
    let unshare = ["unshare", "--user", "--map-current-user", "sh", "-c"];
    // The command runs in a user namespace that allows no mount namespace, so no shield is possible.
    let line = |flags: &str| {
        format!(
            "echo 0 > /proc/sys/user/max_mnt_namespaces; exec {BIN} shield --file free.txt {flags} -- sh -c 'echo x > free.txt'"
        )
    };
    let run = |flags: &str| place.program(unshare[0]).args(&unshare[1..]).arg(line(flags)).output().unwrap();
    let Output { status, stderr, .. } = run("");
    let is_refused = String::from_utf8_lossy(&stderr).contains("this system can't provide a shield");
    if !Path::new("/proc/sys/user/max_mnt_namespaces").exists() {
        return eprintln!("skipped: this kernel does not count namespaces");
    }
    assert!(!status.success() && is_refused && place.text("free.txt") == "as it was\n", "{stderr:?}");
    let out = run("--if-possible");
    assert!(out.status.success() && place.text("free.txt") == "x\n", "{out:?}");
}
