//! Tests `slm-mesh lock FILE -- COMMAND`, which runs a command under a lock. The lock ends with the command. `slm-mesh`
//! forwards signals to the command, gives it the terminal, and exits with the command's status.

mod support;

use serde_json::json;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use support::{BIN, Place, freeze, lives, put_program, thaw, until};

/// A running `slm-mesh lock FILE -- COMMAND`, and the output of the command.
struct Locked {
    wrapper: Child,
    output: BufReader<ChildStdout>,
}

impl Locked {
    fn start(place: &Place, file: &str, script: &str) -> Locked {
        Locked::run(&mut place.command(&["lock", file, "--", "sh", "-c", script]))
    }

    fn run(command: &mut Command) -> Locked {
        let mut wrapper = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(wrapper.stdout.take().unwrap());
        Locked { wrapper, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn pid(&mut self) -> u32 {
        let line = self.line();
        line.parse().unwrap_or_else(|_| panic!("want a process id, got \"{line}\""))
    }

    fn status(&mut self) -> Option<i32> {
        self.wrapper.wait().unwrap().code()
    }
}

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap().success());
}

/// Whether the test process ignores this signal, for example because of nohup. If it does, a shell that a test starts
/// can't trap the signal.
fn is_ignored(name: &str) -> bool {
    let script = format!("trap 'exit 0' {name}; kill -{name} $$; exit 1");
    !Command::new("sh").args(["-c", &script]).status().unwrap().success()
}

fn is_held(place: &Place, file: &str) -> bool {
    place.json(&["lock", "list", file])["locks"] != json!([])
}

#[test]
fn the_exit_status_is_what_a_shell_gives() {
    let place = Place::new();
    put_program(&place.root.join("plain"), b"#!/bin/sh\n");
    assert!(Command::new("chmod").arg("644").arg(place.root.join("plain")).status().unwrap().success());
    put_program(&place.root.join("nine"), b"#!/bin/sh\nexit 9\n");
    for (command, status) in [
        (&["no-such-program"][..], 127),
        (&["./no-such-file"], 127),
        (&["./plain"], 126),
        (&["/"], 126),
        (&["./nine"], 9),
        (&["sh", "-c", "exit 255"], 255),
        (&["sh", "-c", "kill -TERM $$"], 128 + 15),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9),
    ] {
        let out = place.run(&[&["lock", "a.rs", "--"], command].concat());
        assert_eq!(out.status.code(), Some(status), "{command:?}: {out:?}");
        let is_reported = String::from_utf8_lossy(&out.stderr).contains(command[0]);
        assert_eq!(is_reported, [126, 127].contains(&status), "{command:?}: {out:?}");
        assert!(!is_held(&place, "a.rs"), "{command:?}");
    }
}

#[test]
fn signals_reach_the_command_and_its_status_comes_back() {
    let place = Place::new();
    for name in ["TERM", "HUP", "INT", "QUIT", "USR1", "USR2"] {
        if is_ignored(name) {
            eprintln!("skipped: SIG{name}, which is ignored where these tests run");
            continue;
        }
        let script = format!("trap 'echo got {name}; exit 5' {name}; echo ready; while :; do sleep 0.05; done");
        let mut locked = Locked::start(&place, "a.rs", &script);
        assert_eq!(locked.line(), "ready");
        signal(name, locked.wrapper.id());
        assert_eq!(locked.line(), format!("got {name}"));
        assert_eq!(locked.status(), Some(5), "{name}");
        assert!(!is_held(&place, "a.rs"), "{name}");
    }
}

#[test]
fn a_command_that_takes_its_time_to_end_keeps_its_lock_meanwhile() {
    let place = Place::new();
    let script = "trap 'echo ending; read -r end; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let mut command = place.command(&["lock", "a.rs", "--", "sh", "-c", script]);
    let mut locked = Locked::run(command.stdin(Stdio::piped()));
    assert_eq!(locked.line(), "ready");
    signal("TERM", locked.wrapper.id());
    assert_eq!(locked.line(), "ending");
    assert!(is_held(&place, "a.rs"));
    drop(locked.wrapper.stdin.take());
    assert_eq!(locked.status(), Some(0));
    assert!(!is_held(&place, "a.rs"));
}

#[test]
fn a_signal_of_the_command_to_its_own_group_is_no_echo() {
    let place = Place::new();
    let script = "trap 'echo got' TERM; kill -TERM 0; trap 'exit 6' USR1; echo ready; while :; do sleep 0.05; done";
    let mut command = place.command(&["lock", "a.rs", "--", "sh", "-c", script]);
    let mut locked = Locked::run(command.process_group(0));
    assert_eq!((locked.line(), locked.line()), ("got".into(), "ready".into()));
    // The command has sent SIGTERM to itself and to the wrapper. The wrapper must not forward this SIGTERM to the
    // command. The wrapper forwards signals in order, so a forwarded SIGTERM would arrive before this SIGUSR1.
    signal("USR1", locked.wrapper.id());
    assert_eq!((locked.line(), locked.status()), (String::new(), Some(6)));
}

#[test]
fn a_command_started_with_nohup_survives_a_hangup() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    let script =
        format!("trap '' HUP; exec {BIN} lock a.rs -- sh -c 'kill -HUP $$; echo alive; kill -HUP $PPID; exit 4'");
    let mut command = place.command(&[]);
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).envs(command.current_dir(&place.root).get_envs().filter_map(|(k, v)| Some((k, v?))));
    let mut locked = Locked::run(shell.current_dir(&place.root));
    assert_eq!((locked.line(), locked.status()), ("alive".into(), Some(4)));
}

#[test]
fn a_killed_wrapper_leaves_the_lock_to_the_command_that_still_runs() {
    // After the wrapper is killed, nothing answers the broker's heartbeats. With these settings, the broker soon drops
    // the session.
    let place = Place::new().with("SLM_MESH_HEARTBEAT_MS", "100").with("SLM_MESH_DEAD_MS", "100");
    let mut locked = Locked::start(&place, "a.rs", "echo $$; exec sleep 60");
    let command = locked.pid();
    signal("KILL", locked.wrapper.id());
    locked.wrapper.wait().unwrap();
    assert!(lives(command) && is_held(&place, "a.rs"));
    let mut socket = place.socket();
    // This call waits in the broker for one second, so that several heartbeats pass.
    socket.call("events.read", json!({ "types": ["never.comes"], "waitSeconds": 1 }));
    assert!(is_held(&place, "a.rs"));
    signal("KILL", command);
    until("the lock ends with the command", || !is_held(&place, "a.rs"));
}

#[test]
fn a_child_that_the_command_leaves_behind_holds_the_lock() {
    let place = Place::new();
    for leave in ["sleep 60 & echo $!", "setsid sleep 60 >/dev/null & echo $!"] {
        let mut locked = Locked::start(&place, "a.rs", &format!("{leave}; exit 3"));
        let child = locked.pid();
        assert_eq!(locked.status(), Some(3), "the command itself has ended");
        assert!(is_held(&place, "a.rs"), "{leave}");
        until("the child runs by itself", || {
            std::fs::read(format!("/proc/{child}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep"))
                || !std::path::Path::new("/proc/self/cmdline").exists()
        });
        signal("KILL", child);
        until("the lock ends with the last child", || !is_held(&place, "a.rs"));
    }
}

#[test]
fn a_command_that_closes_what_it_inherits_keeps_its_lock_as_long_as_its_wrapper() {
    let place = Place::new();
    let close = "for n in 3 4 5 6 7 8 9; do eval \"exec $n>&-\"; done";
    let mut locked = Locked::start(&place, "a.rs", &format!("{close}; echo $$; exec sleep 60"));
    let command = locked.pid();
    assert!(is_held(&place, "a.rs"));
    signal("KILL", locked.wrapper.id());
    locked.wrapper.wait().unwrap();
    until("the lock ends with the wrapper", || !is_held(&place, "a.rs"));
    signal("KILL", command);
}

#[test]
fn a_lock_that_was_lost_and_taken_again_is_reported() {
    let place = Place::new();
    let script = "echo $SLM_MESH_LOCK_TOKEN; read -r end";
    let start = || {
        let mut command = place.command(&["lock", "a.rs", "--", "sh", "-c", script]);
        Locked::run(command.stdin(Stdio::piped()).stderr(Stdio::piped()))
    };
    let mut loser = start();
    let token = loser.line();
    let grant = json!({ "as": "human", "filePath": place.root.join("a.rs"), "token": token.parse::<i64>().unwrap() });
    let unlocked = place.socket().call("lock.unlock", grant);
    assert_eq!(unlocked["result"]["ok"], json!(true), "{unlocked}");
    let mut winner = start();
    assert_ne!(winner.line(), token);
    let broker = place.broker_pid().unwrap();
    signal("KILL", broker);
    until("the broker is dead", || !lives(broker));
    let mut errors = BufReader::new(loser.wrapper.stderr.take().unwrap()).lines().map(Result::unwrap);
    let said = errors.next().unwrap();
    assert!(said.contains("was lost, and the command is still running") && said.contains("a.rs"), "{said}");
    drop(winner.wrapper.stdin.take());
    winner.wrapper.wait().unwrap();
    let said = errors.next().unwrap();
    assert!(said.contains("was lost and regained") && said.contains(&format!("token was {token}")), "{said}");
    drop(loser.wrapper.stdin.take());
    assert_eq!(loser.status(), Some(1), "`read` returns 1 at the end of its input");
}

#[test]
fn a_command_whose_lock_another_command_of_the_same_person_takes_says_so_at_once() {
    let place = Place::new();
    let mut command = place.command(&["lock", "a.rs", "--ttl", "60", "--", "sh", "-c", "echo ready; read -r end"]);
    let mut loser = Locked::run(command.stdin(Stdio::piped()).stderr(Stdio::piped()));
    assert_eq!(loser.line(), "ready");
    let said = place.ok(&["lock", "a.rs", "--steal"]);
    assert!(said.contains("another command of yours held the lock") && said.contains("a.rs"), "{said}");
    let mut errors = BufReader::new(loser.wrapper.stderr.take().unwrap()).lines().map(Result::unwrap);
    let said = errors.next().unwrap();
    assert!(said.contains("was lost, and the command is still running") && said.contains("a.rs"), "{said}");
    drop(loser.wrapper.stdin.take());
    assert_eq!((loser.status(), errors.next()), (Some(1), None), "the loss is reported once");
}

#[test]
fn a_renewal_takes_no_lock_from_an_agent_even_if_the_command_began_with_steal() {
    let place = Place::new();
    let script = "echo ready; read -r end";
    let mut command = place.command(&["lock", "a.rs", "--steal", "--as", "human", "--", "sh", "-c", script]);
    let mut loser = Locked::run(command.stdin(Stdio::piped()).stderr(Stdio::piped()));
    assert_eq!(loser.line(), "ready");
    // While the process that holds the lock is stopped, the broker is replaced. So the lock ends, and the agent can
    // lock the file.
    freeze(loser.wrapper.id());
    let broker = place.broker_pid().unwrap();
    signal("KILL", broker);
    until("the broker is dead", || !lives(broker));
    let mut agent = place.session("codex", ".");
    let lock = json!({ "action": "lock", "filePath": "a.rs", "waitSeconds": 60 });
    let holder = agent.tool("mesh_lock", lock)["lock"]["holder"].clone();
    thaw(loser.wrapper.id());
    let mut errors = BufReader::new(loser.wrapper.stderr.take().unwrap()).lines().map(Result::unwrap);
    let said = errors.next().unwrap();
    assert!(said.contains("was lost, and the command is still running") && said.contains("codex"), "{said}");
    assert_eq!(place.json(&["lock", "list"])["locks"][0]["holder"], holder);
    drop(loser.wrapper.stdin.take());
    assert_eq!((loser.status(), errors.next()), (Some(1), None));
}

#[test]
fn commands_get_their_lock_in_turn_even_if_the_broker_restarts_meanwhile() {
    let place = Place::new();
    let mut holder = place.command(&["lock", "a.rs", "--", "sh", "-c", "echo ready; read -r end"]);
    let mut holder = Locked::run(holder.stdin(Stdio::piped()));
    assert_eq!(holder.line(), "ready");
    let n_waiting = || {
        let listed: serde_json::Value = serde_json::from_str(&place.ok(&["lock", "list", "--json"])).unwrap();
        listed["locks"][0]["queue"].as_array().map_or(0, Vec::len)
    };
    let mut waiters = Vec::new();
    for n in 0..5 {
        let script = format!("echo {n} >> order");
        waiters.push(place.command(&["lock", "a.rs", "--wait", "60", "--", "sh", "-c", &script]).spawn().unwrap());
        until("the command waits in line", || n_waiting() == n + 1);
    }
    let broker = place.broker_pid().unwrap();
    signal("KILL", broker);
    until("all wait again", || !lives(broker) && n_waiting() == waiters.len());
    drop(holder.wrapper.stdin.take());
    holder.wrapper.wait().unwrap();
    for waiter in &mut waiters {
        assert!(waiter.wait().unwrap().success());
    }
    assert_eq!(std::fs::read_to_string(place.root.join("order")).unwrap(), "0\n1\n2\n3\n4\n");
}

#[test]
fn nested_locks_end_with_the_innermost_command() {
    let place = Place::new();
    let inner = format!("{BIN} lock b.rs -- sh -c 'echo $PPID $$; exec sleep 60'; exit 8");
    let mut locked = Locked::start(&place, "a.rs", &inner);
    let line = locked.line();
    let pids: Vec<u32> = line.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(is_held(&place, "a.rs") && is_held(&place, "b.rs"));
    signal("KILL", locked.wrapper.id());
    signal("KILL", pids[0]);
    locked.wrapper.wait().unwrap();
    assert!(is_held(&place, "a.rs") && is_held(&place, "b.rs"));
    signal("KILL", pids[1]);
    until("both locks are free", || !is_held(&place, "a.rs") && !is_held(&place, "b.rs"));
}

#[test]
fn nested_locks_that_wait_crosswise_are_refused_although_each_command_waits_inside_another() {
    let place = Place::new();
    let inner = |file: &str| format!("read -r go; exec {BIN} lock {file} --wait 60 -- echo both");
    let start = |file: &str, other: &str| {
        Locked::run(place.command(&["lock", file, "--", "sh", "-c", &inner(other)]).stdin(Stdio::piped()))
    };
    let (mut one, mut two) = (start("a.rs", "b.rs"), start("b.rs", "a.rs"));
    until("both locks are held", || is_held(&place, "a.rs") && is_held(&place, "b.rs"));
    drop(one.wrapper.stdin.take());
    let queue = || {
        place.json(&["lock", "list"])["locks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|lock| lock["queue"].clone())
            .collect::<Vec<_>>()
    };
    until("the first command waits", || queue().iter().any(|names| *names != json!([])));
    drop(two.wrapper.stdin.take());
    assert_ne!(two.status(), Some(0));
    assert_eq!((one.line(), one.status()), ("both".to_owned(), Some(0)));
}

#[test]
fn a_command_needs_neither_input_nor_terminal() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    for start in ["exec", "exec setsid -w"] {
        let script = format!("{start} {BIN} lock a.rs -- sh -c 'cat; echo done; exit 7' <&-");
        let command = place.command(&[]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut locked = Locked::run(shell.current_dir(&place.root));
        assert_eq!((locked.line(), locked.status()), ("done".into(), Some(7)), "{start}");
        assert!(!is_held(&place, "a.rs"));
    }
}

/// A Python script that opens a terminal and runs a command under a lock. It types either Ctrl-C, or Ctrl-Z and then
/// `fg`, and prints the screen.
const TERMINAL: &str = r#"
import os, pty, sys, time
program, keys = sys.argv[1], sys.argv[2]
pid, tty = pty.fork()
if pid == 0:
    os.execvp("bash", ["bash", "--norc", "-i"])
seen = b""
def read_until(word):
    global seen
    while word not in seen:
        try:
            seen += os.read(tty, 4096)
        except OSError:
            break
def type_in(text):
    os.write(tty, text)
type_in(b"stty -echo; PS1=; echo set'up'\n")
read_until(b"setup")
trap = "trap 'echo got' INT; echo rea''dy; n=0; while [ $n -lt 20 ]; do sleep 0.1; n=$((n+1)); done; echo la''st"
type_in(f'{program} lock a.rs -- sh -c "{trap}"\n'.replace("$n", "\\$n").replace("$((", "\\$((").encode())
read_until(b"ready")
if keys == "interrupt":
    type_in(b"\x03")
    read_until(b"got")
else:
    type_in(b"\x1a")
    read_until(b"Stopped")
    type_in(b"fg\n")
read_until(b"last")
type_in(b"exit\n")
sys.stdout.write(seen.decode(errors="replace"))
"#;

fn in_terminal(place: &Place, keys: &str) -> Option<String> {
    let is_there =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
    if !is_there("python3") || !is_there("bash") {
        eprintln!("skipped: lock_command: the terminal tests need python3 and bash");
        return None;
    }
    let command = place.command(&[]);
    let mut python = Command::new("python3");
    python.args(["-c", TERMINAL, BIN, keys]).current_dir(&place.root);
    python.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let out = python.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Some(String::from_utf8(out.stdout).unwrap())
}

#[test]
fn an_interrupt_at_the_terminal_reaches_the_command_once() {
    if is_ignored("INT") {
        eprintln!("skipped: SIGINT is ignored wherever these tests run");
        return;
    }
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    let Some(seen) = in_terminal(&place, "interrupt") else { return };
    assert_eq!(seen.matches("got").count(), 1, "{seen}");
    assert!(seen.contains("last"), "{seen}");
}

#[test]
fn a_command_stops_and_continues_as_a_job() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    let Some(seen) = in_terminal(&place, "stop") else { return };
    assert_eq!(seen.matches("Stopped").count(), 1, "{seen}");
    assert!(seen.contains("last"), "{seen}");
}
