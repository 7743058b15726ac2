//! Tests `slm-mesh watch` in a pipe and on a real terminal. At its end, `watch` must restore the terminal's modes.

mod support;

use serde_json::json;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::channel;
use support::{BIN, Place, until};

const CODEX: &str = "codex-mcp-client";
/// Shell commands that write the terminal's modes to a file called `is`. The file appears only when it is complete.
const MODES_AFTER: &str = "stty -g >is.new; mv is.new is";

/// A shell on a terminal that tmux emulates. The terminal has 24 lines of 80 characters.
struct Screen<'a> {
    place: &'a Place,
}

impl Screen<'_> {
    /// Starts tmux with a shell. If tmux is not installed, prints that the test is skipped, and returns `None`.
    fn new<'a>(place: &'a Place, test: &str) -> Option<Screen<'a>> {
        if Command::new("tmux").arg("-V").stdout(Stdio::null()).status().is_err() {
            assert!(std::env::var_os("SLM_MESH_TEST_ALL").is_none(), "tmux is missing");
            eprintln!("skipped: {test}: there is no tmux");
            return None;
        }
        let screen = Screen { place };
        screen.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "sh -i"]);
        // The typed line contains the prompt in two parts, so that the test does not take this line for the prompt.
        screen.press(&["-l", "PS1='rea''dy> '"]);
        screen.press(&["Enter"]);
        Some(screen)
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-u", "-S"]).arg(self.place.root.join("tmux")).args(args).env_clear();
        let env = self.place.command(&[]);
        command.envs(env.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8");
        let out = command.current_dir(&self.place.root).output().unwrap();
        assert!(out.status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// The text on the screen.
    fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn shows(&self, what: &str) {
        until(&format!("the screen shows {what:?}"), || self.text().contains(what));
    }

    fn hides(&self, what: &str) {
        until(&format!("the screen does not show {what:?} any more"), || !self.text().contains(what));
    }

    /// Sends keys to the terminal. With `-l`, types a text.
    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Runs `slm-mesh watch`. The shell writes the terminal's modes to a file before `watch` starts, and to a second
    /// file after it ends.
    fn watch(&self) {
        let line = format!("stty -g >was; sh -c 'echo $$ >pid; exec {BIN} watch'; echo status=$?; {MODES_AFTER}");
        self.shows("ready>");
        self.press(&["-l", &line]);
        self.press(&["Enter"]);
        self.shows("? help");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.root.join(name)
    }

    /// Waits until `watch` has ended or has been stopped, and the shell has printed this status. Checks that the
    /// terminal's modes are as before.
    fn ends_with(&self, status: i32) {
        self.shows(&format!("status={status}"));
        self.is_as_it_was();
    }

    fn is_as_it_was(&self) {
        until("the shell is back", || self.file("is").exists() && self.text().trim_end().ends_with("ready>"));
        let read = |name: &str| std::fs::read_to_string(self.file(name)).unwrap();
        assert_eq!(read("was"), read("is"));
        let flags = self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag} #{wrap_flag}"]);
        assert_eq!(flags.trim(), "0 1 1", "screen, cursor and wrapping are as they were");
        assert!(!self.text().contains("Peers"), "{}", self.text());
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        // The command fails if the shell has ended, because tmux then ends, too.
        let _ = Command::new("tmux").arg("-S").arg(self.place.root.join("tmux")).arg("kill-server").output();
    }
}

#[test]
fn more_peers_than_fit_into_one_answer_are_all_there() {
    let place = Place::new();
    let Some(screen) = Screen::new(&place, "more_peers_than_fit_into_one_answer_are_all_there") else { return };
    place.ok(&["start", "--detach"]);
    let peers: Vec<_> = (0..150)
        .map(|n| {
            let mut socket = place.socket();
            socket.call("attach", json!({ "name": format!("peer-{n}"), "agent": "codex", "project": "/p", "pid": 1 }));
            socket
        })
        .collect();
    screen.watch();
    screen.shows("Peers 150");
    screen.press(&["q"]);
    screen.ends_with(0);
    drop(peers);
}

#[test]
fn what_happens_appears_and_what_others_say_stays_text() {
    let place = Place::new();
    let Some(screen) = Screen::new(&place, "what_happens_appears_and_what_others_say_stays_text") else { return };
    screen.watch();
    screen.shows("no peers");
    let mut codex = place.session(CODEX, "api");
    codex.tool("mesh_summary", json!({ "summary": "mending the login" }));
    screen.shows("› codex-api  codex");
    screen.shows("mending the login");
    let evil = "\u{1b}[2J\u{1b}]0;owned\u{7}<b>x</b>\u{202e}txt.exe\u{9b}31m";
    codex.tool("mesh_send", json!({ "to": "human", "message": evil }));
    screen.shows("�[2J�]0;owned�<b>x</b>�txt.exe�31m");
    screen.shows("Peers 1");
    codex.tool("mesh_lock", json!({ "action": "lock", "filePath": "a.rs", "reason": "rewrite" }));
    screen.shows("  a.rs  codex-api  10 min  rewrite");

    screen.press(&["w"]);
    screen.shows("to codex-api:");
    screen.press(&["-l", "stop, please"]);
    screen.press(&["Enter"]);
    screen.shows("Sent to codex-api");
    let mail = codex.tool("mesh_inbox", json!({}));
    assert_eq!(mail["messages"][0]["payload"], json!("stop, please"));
    codex.tool("mesh_inbox", json!({ "ack": [mail["messages"][0]["id"]] }));
    screen.shows("read");

    screen.press(&["Tab", "x"]);
    screen.shows("a.rs? codex-api holds it and will be notified. y/n");
    screen.press(&["y"]);
    screen.shows("no locks");
    let told = codex.tool("mesh_inbox", json!({}))["messages"][0].clone();
    assert_eq!(told["type"], json!("alert"), "{told}");
    assert_eq!(place.json(&["lock", "list"])["locks"], json!([]));

    screen.press(&["q"]);
    screen.ends_with(0);
}

#[test]
fn a_message_that_was_opened_is_read_and_a_screen_that_shrinks_is_drawn_anew() {
    let place = Place::new();
    let Some(screen) = Screen::new(&place, "a_message_that_was_opened_is_read") else { return };
    let mut codex = place.session(CODEX, "api");
    codex.tool("mesh_send", json!({ "to": "human", "message": "first line\nsecond line" }));
    screen.watch();
    screen.shows("1 unread for you");
    let sent = codex.tool("mesh_inbox", json!({ "filter": "sent" }));
    assert_eq!(sent["messages"][0]["receipt"], json!("accepted"), "watching does not mark messages as read");
    screen.press(&["Tab", "Tab", "Enter"]);
    screen.shows("  second line\n");
    until("it counts as read", || {
        codex.tool("mesh_inbox", json!({ "filter": "sent" }))["messages"][0]["receipt"] == json!("read")
    });
    screen.press(&["Escape"]);
    screen.shows("Events");
    screen.hides("unread for you");
    screen.tmux(&["resize-window", "-x", "40", "-y", "10"]);
    screen.hides("Events");
    assert!(screen.text().lines().all(|line| line.chars().count() <= 40), "{}", screen.text());
    screen.shows("Messages");
    screen.press(&["C-c"]);
    screen.ends_with(0);
}

#[test]
fn a_person_reads_conversations_searches_and_looks_into_a_mailbox() {
    let place = Place::new();
    let Some(screen) = Screen::new(&place, "a_person_reads_conversations_searches_and_looks_into_a_mailbox") else {
        return;
    };
    place.ok(&["start", "--detach"]);
    let peer = |name: &str| {
        let mut socket = place.socket();
        socket.call("attach", json!({ "name": name, "agent": "codex", "project": "/p", "pid": 1 }));
        socket
    };
    let (mut ann, mut bob) = (peer("ann"), peer("bob"));
    let asked = ann.call("send", json!({ "to": "bob", "message": "who takes the lexer?" }))["result"].clone();
    bob.call("send", json!({ "to": "ann", "message": "I take the lexer", "replyTo": asked["messageId"] }));
    screen.watch();
    screen.shows("(1 before) I take the lexer");
    screen.press(&["Tab", "Tab", "Enter"]);
    screen.shows("  who takes the lexer?");
    screen.press(&["Escape"]);
    screen.shows("s search");
    screen.press(&["s"]);
    screen.press(&["-l", "LEXER takes"]);
    screen.press(&["Enter"]);
    screen.shows("Messages with LEXER takes: 1");
    screen.press(&["Escape"]);
    screen.shows("s search");
    screen.press(&["BTab", "BTab", "m"]);
    screen.shows("Mailbox of ann");
    screen.shows("  I take the lexer");
    let inbox = ann.call("inbox", json!({}))["result"].clone();
    assert!(inbox["messages"][0].get("again").is_none(), "the look has not offered it: {inbox}");
    screen.press(&["q", "q"]);
    screen.ends_with(0);
}

#[test]
fn every_end_gives_the_terminal_back() {
    for (signal, status) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let place = Place::new();
        let Some(screen) = Screen::new(&place, "every_end_gives_the_terminal_back") else { return };
        screen.watch();
        let pid = std::fs::read_to_string(screen.file("pid")).unwrap();
        assert!(Command::new("kill").args([&format!("-{signal}"), pid.trim()]).status().unwrap().success());
        screen.ends_with(status);
    }
}

#[test]
fn a_view_that_is_stopped_comes_back_and_so_does_a_broker() {
    let place = Place::new();
    let Some(screen) = Screen::new(&place, "a_view_that_is_stopped_comes_back") else { return };
    screen.watch();
    screen.press(&["C-z"]);
    // SIGTSTP stops `watch`. The shell then runs the other commands of the line.
    screen.ends_with(128 + 20);
    screen.press(&["-l", "fg"]);
    screen.press(&["Enter"]);
    screen.shows("no peers");
    place.ok(&["stop"]);
    screen.shows("no broker");
    assert!(place.broker_pid().is_none(), "watching starts no broker");
    let mut codex = place.session(CODEX, "api");
    codex.tool("mesh_status", json!({}));
    screen.shows("› codex-api");
    screen.hides("no broker");
    screen.press(&["q"]);
    screen.hides("codex-api");
    std::fs::remove_file(screen.file("is")).unwrap();
    screen.press(&["-l", MODES_AFTER]);
    screen.press(&["Enter"]);
    screen.is_as_it_was();
}

/// The output of `slm-mesh watch` in a pipe. `watch` prints only new events, and does not show when it has subscribed,
/// so the test emits events until `watch` prints one of them.
fn lines_once_it_follows(place: &Place, output: ChildStdout) -> impl Iterator<Item = String> {
    const MARK: &str = "view.follows";
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        BufReader::new(output).lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
    });
    until("it follows", || {
        place.ok(&["events", "emit", MARK, "--as", "human"]);
        lines.try_recv().is_ok()
    });
    lines.into_iter().filter(|line| !line.contains(MARK))
}

#[test]
fn in_a_pipe_there_is_a_line_for_each_event_over_a_restart_of_the_broker() {
    let place = Place::new();
    place.ok(&["lock", "before.rs"]);
    let mut child = place.command(&["watch", "--plain"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut lines = lines_once_it_follows(&place, child.stdout.take().unwrap());
    let mut n = 0;
    let mut codex = place.session(CODEX, "api");
    codex.tool("mesh_status", json!({}));
    codex.tool("mesh_state", json!({ "action": "set", "key": "k", "value": "\u{1b}[2J\nx\u{202e}" }));
    let mut next = |want: &[&str]| {
        let line = lines.next().unwrap();
        n += 1;
        assert!(want.iter().all(|word| line.contains(word)), "line {n}: {line:?}, want {want:?}");
        assert!(!line.contains(['\u{1b}', '\u{202e}']), "{line:?}");
    };
    next(&["peer_joined", "codex-api"]);
    next(&["state_changed", "value=�[2J x�"]);
    place.ok(&["stop"]);
    assert!(said.next().unwrap().unwrap().contains("no broker"));
    codex.tool("mesh_events", json!({ "action": "emit", "type": "deploy.done", "payload": { "version": "2" } }));
    next(&["deploy.done", "version=2"]);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_terminal_that_can_not_move_its_cursor_gets_lines() {
    let place = Place::new();
    let out = place.run(&["watch", "--colour"]);
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    let mut child = place.command(&["watch", "--json"]).env("TERM", "dumb").stdout(Stdio::piped()).spawn().unwrap();
    until("it has started a broker", || place.broker_pid().is_some());
    let mut lines = lines_once_it_follows(&place, child.stdout.take().unwrap());
    place.ok(&["state", "set", "k", "v"]);
    let row: serde_json::Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
    assert_eq!((&row["type"], &row["payload"]["value"]), (&json!("state_changed"), &json!("v")));
    child.kill().unwrap();
    child.wait().unwrap();
}
