//! Times the hooks that an agent runs after each tool call. Each hook is a new process that reads JSON and may print an
//! answer.

use super::calls::VALUE;
use super::figures::{Reach, Table, in_turns};
use super::place::Mesh;
use serde_json::json;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// The number of rounds, and the number of runs in each round.
const ROUNDS: usize = 10;
const BATCH: usize = 20;
/// The maximum number of messages that one hook shows.
const SHOWN: usize = 10;

/// Runs a hook on an input.
pub fn run(command: &mut Command, input: &str) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("a process starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).ok();
    assert!(child.wait().expect("a child of ours").success());
}

/// The input of a hook that runs before an edit of this file.
fn edit_input(file: &Path) -> String {
    let told = json!({
        "session_id": "editor", "cwd": file.parent(), "hook_event_name": "PreToolUse", "tool_name": "Edit",
        "tool_input": { "file_path": file, "old_string": "one", "new_string": "two" },
    });
    told.to_string()
}

fn input(session: &str) -> String {
    let told = json!({
        "session_id": session, "transcript_path": "/home/ada/.claude/projects/api/t.jsonl", "cwd": "/home/ada/api",
        "hook_event_name": "PostToolUse", "permission_mode": "default", "tool_name": "Bash",
        "tool_input": { "command": "cargo test", "description": "Run the tests" },
        "tool_response": { "stdout": "test result: ok. 212 passed\n".repeat(40), "stderr": "", "interrupted": false },
        "tool_use_id": "toolu_01", "duration_ms": 4100,
    });
    told.to_string()
}

/// Measures how long a hook takes without mail, before an edit of one file, and with at least twenty waiting messages.
/// Compares these times with the time of a process that ends immediately.
pub fn hooks(table: &mut Table) {
    let mesh = Mesh::started();
    let mut line = mesh.attach("writer");
    let (quiet, busy) = (input("quiet"), input("busy"));
    let hook = |input: &str| run(&mut mesh.command(&["hook", "claude"]), input);
    hook(&quiet);
    hook(&busy);
    let peers = line.call("peers", &json!({ "scope": "machine", "includeAway": true }));
    let mut named =
        peers["result"]["peers"].as_array().expect("peers").iter().filter(|peer| peer["agentType"] == "claude-code");
    let name = named.next_back().expect("the second session")["id"].as_str().expect("an id").to_owned();
    // Each run shows ten new messages. Twenty messages are left after the last run.
    for _ in 0..ROUNDS * (BATCH + 5) * SHOWN + 20 {
        line.call("send", &json!({ "to": name, "message": VALUE }));
    }
    let truth = if Path::new("/bin/true").exists() { "/bin/true" } else { "/usr/bin/true" };
    let mut floor = || run(Command::new(truth).env_clear(), &quiet);
    let file = mesh.scratch.path.join("file.rs");
    std::fs::write(&file, "one\n").expect("a file");
    let edit = edit_input(&file);
    let (mut none, mut before_edit, mut many) = (|| hook(&quiet), || hook(&edit), || hook(&busy));
    let samples = in_turns(ROUNDS, BATCH, &mut [&mut floor, &mut none, &mut before_edit, &mut many]);
    for (n, work, most) in
        [(1, "hook, no mail", 1.6), (2, "hook, edit of one file", 1.7), (3, "hook, 20 messages", 1.8)]
    {
        table.times(work, &samples[n], Some(samples[0].median()), Reach::Times(most));
    }
}
