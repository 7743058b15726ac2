//! Measures how much longer a shell command takes if other peers have locked files. The hooks before and after the
//! command add time. The shield (a sandbox) also adds time.

use super::figures::{Reach, Samples, Table, micros_since};
use super::hooks::run;
use super::place::Mesh;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// The number of runs of each hook.
const RUNS: usize = 300;
/// The number of files that another peer has locked.
const HELD: usize = 50;
/// Maximum time of a hook that runs before or after a command, if no file is locked. The unit is the time of a hook
/// that runs before an edit.
const HOOK_MAX: f64 = 1.2;
/// How many microseconds a hook may take to check the locked files.
const ADDED_MAX: f64 = 1_000.0;
/// How many microseconds a shield (a sandbox) may add to a command.
const SHIELD_MAX: f64 = 3_000.0;

fn input(event: &str, session: &str, folder: &Path, call: Value) -> String {
    let mut input =
        json!({ "session_id": session, "cwd": folder, "hook_event_name": event, "tool_use_id": "toolu_01" });
    input.as_object_mut().expect("an object").extend(call.as_object().expect("an object").clone());
    input.to_string()
}

/// A work tree with files.
fn work_tree(folder: &Path, n_files: usize) {
    std::fs::create_dir_all(folder.join(".git")).expect("a folder");
    std::fs::write(folder.join(".git/HEAD"), "ref: refs/heads/main\n").expect("a file");
    for n in 0..n_files {
        std::fs::write(folder.join(format!("f{n}.rs")), "fn main() {}\n".repeat(300)).expect("a file");
    }
}

fn timed(samples: &mut Vec<f64>, work: impl FnOnce()) {
    let began = Instant::now();
    work();
    samples.push(micros_since(began));
}

/// Times a command in a shield that protects fifty files. The floor is the time of the same command without a shield.
fn shield(table: &mut Table, mesh: &Mesh, folder: &Path) {
    let _worker = mesh.attach("worker");
    let run = |command: &mut Command| assert!(command.current_dir(folder).status().expect("it starts").success());
    let (mut alone, mut shielded) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        timed(&mut alone, || run(Command::new("true").env_clear()));
        timed(&mut shielded, || run(&mut mesh.command(&["shield", "--as", "worker", "--", "/bin/true"])));
    }
    let alone = Samples::new(alone).median();
    let reach = Reach::Median(alone + SHIELD_MAX);
    table.times("command in a shield, 50 held files", &Samples::new(shielded), Some(alone), reach);
}

/// Times the hooks before and after a shell command, in a work tree with fifty locked files and in a work tree without
/// locked files. Their times are compared with the time of a hook before an edit, which also makes one call to the
/// broker.
pub fn held_files(table: &mut Table) {
    let mesh = Mesh::started();
    let mut holder = mesh.attach("holder");
    let (edited, free, held) =
        (mesh.scratch.path.join("edited"), mesh.scratch.path.join("free"), mesh.scratch.path.join("held"));
    work_tree(&edited, 1);
    work_tree(&free, 1);
    work_tree(&held, HELD);
    let paths: Vec<_> = (0..HELD).map(|n| held.join(format!("f{n}.rs"))).collect();
    holder.call("lock.lock", &json!({ "filePaths": paths, "ttlMinutes": 60 }));
    let command = || json!({ "tool_name": "Bash", "tool_input": { "command": "cargo test -q 2>&1 | tail -5" } });
    let write = || json!({ "tool_name": "Write", "tool_input": { "file_path": edited.join("f0.rs"), "content": "x" } });
    let hook = |input: &str| run(&mut mesh.command(&["hook", "claude"]), input);
    let pair = |session: &str, folder: &Path, call: Value| {
        ["PreToolUse", "PostToolUse"].map(|event| input(event, session, folder, call.clone()))
    };
    let pairs = [pair("edits", &edited, write()), pair("free", &free, command()), pair("held", &held, command())];
    shield(table, &mesh, &held);
    let mut times: [[Vec<f64>; 2]; 3] = Default::default();
    for _ in 0..RUNS {
        for (hooks, times) in pairs.iter().zip(&mut times) {
            for (hook_input, times) in hooks.iter().zip(times) {
                timed(times, || hook(hook_input));
            }
        }
    }
    let [[edit, _], [before, after], [before_held, after_held]] = times.map(|pair| pair.map(Samples::new));
    let floor = edit.median();
    let with_held = Reach::Median(floor * HOOK_MAX + ADDED_MAX);
    table.times("hook before a command", &before, Some(floor), Reach::Times(HOOK_MAX));
    table.times("before it, with 50 held files", &before_held, Some(floor), with_held);
    table.times("hook after a command", &after, Some(floor), Reach::Times(HOOK_MAX));
    table.times("after it, with 50 held files", &after_held, Some(floor), with_held);
}
