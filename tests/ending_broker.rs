//! Tests calls that a client makes while its broker ends. If the broker can't have executed the call, the next broker
//! must execute it.

mod support;

use rustix::event::{PollFd, PollFlags, poll};
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};
use std::thread;
use support::Place;

/// What a fake broker does with the first call before it ends.
#[derive(Clone, Copy, PartialEq)]
enum LastDeed {
    /// The broker accepts the connection, but does not read the call.
    Accepts,
    /// The broker does not even accept the connection.
    Nothing,
    /// The broker reads the call, and announces that it is stopping.
    ReadsAndSaysSo,
    /// The broker reads the call, and closes the connection without an answer.
    ReadsAndDies,
}

/// Waits until a connection or some bytes arrive. Does not accept the connection or read the bytes.
fn await_readable(socket: &impl AsFd) {
    let mut queue = [PollFd::new(socket, PollFlags::IN)];
    assert_eq!(poll(&mut queue, None).unwrap(), 1);
}

/// Runs a client against a fake broker that ends in the given way, and returns the client's output.
fn call_ending_broker(place: &Place, deed: LastDeed, client: &mut Command, input: &str) -> Output {
    fs::create_dir_all(&place.dir).unwrap();
    let socket = place.dir.join("mesh.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    client.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let ending = thread::spawn(move || {
        if deed == LastDeed::Nothing {
            await_readable(&listener);
            fs::remove_file(&socket).unwrap();
            return;
        }
        let (mut connection, _) = listener.accept().unwrap();
        await_readable(&connection);
        fs::remove_file(&socket).unwrap();
        if deed != LastDeed::Accepts {
            while !connection.read(&mut [0; 4096]).is_ok_and(|n| n < 4096) {}
        }
        if deed == LastDeed::ReadsAndSaysSo {
            let notice = json!({ "jsonrpc": "2.0", "method": "shutdown", "params": { "reason": "stopping" } });
            connection.write_all(format!("{notice}\n").as_bytes()).unwrap();
        }
    });
    let out = client.wait_with_output().unwrap();
    ending.join().unwrap();
    out
}

#[test]
fn a_verb_whose_call_was_not_read_is_answered_by_the_next_broker() {
    for deed in [LastDeed::Accepts, LastDeed::Nothing, LastDeed::ReadsAndSaysSo] {
        let place = Place::new();
        let out =
            call_ending_broker(&place, deed, &mut place.command(&["state", "set", "k", "v", "--expect", "0"]), "");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(place.ok(&["state", "get", "k"]).trim(), "v");
    }
}

#[test]
fn a_call_that_the_broker_may_have_run_is_not_repeated() {
    let place = Place::new();
    let out = call_ending_broker(&place, LastDeed::ReadsAndDies, &mut place.command(&["state", "set", "k", "v"]), "");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(3) && said.contains("check whether the call took effect"), "{said}");
    assert!(!place.run(&["state", "get", "k"]).status.success());
}

#[test]
fn a_hook_denies_the_edit_of_a_locked_file_although_the_broker_ends() {
    for deed in [LastDeed::Accepts, LastDeed::Nothing, LastDeed::ReadsAndSaysSo, LastDeed::ReadsAndDies] {
        let place = Place::new();
        place.ok(&["lock", "a.rs", "--ttl", "60"]);
        place.ok(&["stop"]);
        let edit = json!({
            "session_id": "s", "hook_event_name": "PreToolUse", "cwd": place.root, "tool_name": "Write",
            "tool_use_id": "t", "tool_input": { "file_path": place.root.join("a.rs"), "content": "x" },
        });
        let out = call_ending_broker(&place, deed, &mut place.command(&["hook", "claude"]), &edit.to_string());
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(said.contains("deny") && said.contains("is locked by"), "{said} {out:?}");
    }
}
