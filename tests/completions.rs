//! Tests completions as people use them: in a shell on a terminal, where the Tab key completes a word.

mod support;

use std::fs;
use std::process::{Command, Stdio};
use support::{BIN, Place, until};

/// A shell in a terminal of 80 by 24 characters, emulated by tmux.
struct Shell<'a> {
    place: &'a Place,
    socket: String,
}

impl Shell<'_> {
    /// Starts a shell that first runs the commands in `setup`.
    fn start<'a>(place: &'a Place, shell: &str, setup: &str) -> Shell<'a> {
        let started = Shell { place, socket: format!("{shell}.tmux") };
        let file = place.root.join(format!("setup.{shell}"));
        fs::write(&file, format!("{setup}\nPS1='ready> '\n")).unwrap();
        let flag = if shell == "zsh" { "-f" } else { "--norc" };
        started.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", shell, flag, "-i"]);
        started.press(&["-l", &format!(". {}", file.display())]);
        started.press(&["Enter"]);
        started.shows("ready> ");
        started
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-u", "-S"]).arg(self.place.root.join(&self.socket)).args(args).env_clear();
        let env = self.place.command(&[]);
        command.envs(env.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.place.root.join("bin").display()));
        command.env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8").env("SLM_MESH_PEER", "human");
        let out = command.current_dir(&self.place.root).output().unwrap();
        assert!(out.status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// The current screen, including the blanks at the ends of lines.
    fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-N"])
    }

    fn shows(&self, what: &str) {
        until(&format!("{} shows {what:?}", self.socket), || self.text().contains(what));
    }

    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Types a line, presses Tab, and checks the completed line. The completed line ends with a blank, because only one
    /// word fits.
    fn completes(&self, typed: &str, whole: &str) {
        self.press(&["-l", typed]);
        self.shows(&format!("ready> {typed}"));
        self.press(&["Tab"]);
        self.shows(&format!("ready> {whole} "));
        self.press(&["C-u"]);
        self.press(&["C-l"]);
        until("the line is empty again", || !self.text().contains("slm-mesh"));
    }
}

impl Drop for Shell<'_> {
    fn drop(&mut self) {
        let socket = self.place.root.join(&self.socket);
        let _ = Command::new("tmux").arg("-S").arg(socket).arg("kill-server").output();
    }
}

fn is_there(program: &str, flag: &str) -> bool {
    let is_there = Command::new(program).arg(flag).stdout(Stdio::null()).status().is_ok();
    assert!(is_there || std::env::var_os("SLM_MESH_TEST_ALL").is_none(), "{program} is missing");
    if !is_there {
        eprintln!("skipped: there is no {program}");
    }
    is_there
}

#[test]
fn tab_completes_words_with_any_characters() {
    if !is_there("tmux", "-V") {
        return;
    }
    let place = Place::new();
    fs::create_dir_all(place.root.join("bin")).unwrap();
    fs::create_dir_all(place.root.join("functions")).unwrap();
    std::os::unix::fs::symlink(BIN, place.root.join("bin/slm-mesh")).unwrap();
    let functions = place.root.join("functions");
    fs::write(functions.join("_slm-mesh"), place.ok(&["help", "completions", "zsh"])).unwrap();
    place.ok(&["--as", "human", "lock", "a@b.rs", "c:d.rs", "e=f.rs", "my file.txt", "my a@x y.rs", "back\\slash.rs"]);
    place.ok(&["--as", "human", "state", "set", "k:one", "1"]);
    let zsh = format!("fpath=({} $fpath); autoload -U compinit; compinit -u -D", functions.display());
    for (shell, setup) in [("bash", place.ok(&["help", "completions", "bash"])), ("zsh", zsh)] {
        if !is_there(shell, "--version") {
            continue;
        }
        let shell = Shell::start(&place, shell, &setup);
        for (typed, whole) in [
            ("unlock a", "unlock a@b.rs"),
            ("unlock a@", "unlock a@b.rs"),
            ("unlock \"a@", "unlock \"a@b.rs\""),
            ("unlock c:", "unlock c:d.rs"),
            ("unlock x:y c:", "unlock x:y c:d.rs"),
            ("unlock 'c:", "unlock 'c:d.rs'"),
            ("unlock e=", "unlock e=f.rs"),
            ("unlock my\\ f", "unlock my\\ file.txt"),
            ("unlock \"my f", "unlock \"my file.txt\""),
            ("unlock my\\ a@", "unlock my\\ a@x\\ y.rs"),
            ("unlock b", "unlock back\\\\slash.rs"),
            ("unlock back\\\\s", "unlock back\\\\slash.rs"),
            ("unlock 'b", "unlock 'back\\slash.rs'"),
            ("state get k:", "state get k:one"),
            ("peers --scope=re", "peers --scope=repo"),
        ] {
            shell.completes(&format!("slm-mesh {typed}"), &format!("slm-mesh {whole}"));
        }
    }
}

#[test]
fn fish_completes_words_in_quotes_and_file_names_where_no_word_fits() {
    if !is_there("fish", "--version") {
        return;
    }
    let place = Place::new();
    fs::create_dir_all(place.root.join("bin")).unwrap();
    std::os::unix::fs::symlink(BIN, place.root.join("bin/slm-mesh")).unwrap();
    fs::create_dir(place.root.join("files")).unwrap();
    fs::write(place.root.join("files/my backup.db"), "").unwrap();
    fs::write(place.root.join("script.fish"), place.ok(&["help", "completions", "fish"])).unwrap();
    place.ok(&["--as", "human", "lock", "files/my lock.txt"]);
    place.ok(&["--as", "human", "state", "set", "a key", "1"]);
    place.ok(&["--as", "human", "join", "#api"]);
    for (typed, words) in [
        ("restore ", &["my backup.db"][..]),
        ("restore 'my b", &["my backup.db"]),
        ("restore my\\ b", &["my backup.db"]),
        ("shield --file my", &["my backup.db"]),
        ("guard install my", &["my backup.db"]),
        ("shield -- my", &["my backup.db"]),
        ("unlock \"my ", &["my backup.db", "my lock.txt"]),
        ("unlock my\\ l", &["my lock.txt"]),
        ("state get \"a k", &["a key"]),
        ("state get a\\ k", &["a key"]),
        ("join \"#a", &["#api"]),
        ("guard ", &["install", "remove"]),
        ("peers --scope=re", &["--scope=repo"]),
        ("peers --scope re", &["repo"]),
    ] {
        let mut fish = Command::new("fish");
        fish.args(["--no-config", "-c", "source ../script.fish; complete -C $LINE"]).env_clear();
        let env = place.command(&[]);
        fish.envs(env.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let path = std::env::var("PATH").unwrap_or_default();
        fish.env("PATH", format!("{}:{path}", place.root.join("bin").display()));
        fish.env("LINE", format!("slm-mesh {typed}")).env("LC_ALL", "C.UTF-8").env("SLM_MESH_PEER", "human");
        let out = fish.current_dir(place.root.join("files")).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let found: Vec<&str> = text.lines().map(|line| line.split('\t').next().unwrap_or_default()).collect();
        assert_eq!(found, words, "{typed}: {}", String::from_utf8_lossy(&out.stderr));
    }
}
