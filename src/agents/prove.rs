//! `slm-mesh doctor --prove AGENT`: a round trip through an agent's hooks as its file has them, in a
//! mesh of its own that ends with the proof.
//!
//! **Invariant:** the user's mesh and files are not touched; what only the agent itself can show is
//! named as not proven.

use super::config_entries;
use super::configs::{Own, Row};
use super::dialect::{Agent, MAIL_CAME};
use super::environment::{Ground, value_of};
use super::generated_files;
use crate::base::error::{Error, ErrorKind};
use crate::client::Client;
use crate::sys;
use crate::sys::data_dir::Places;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One claim and whether it holds.
#[derive(Debug, Clone)]
pub struct Proof {
    /// The claim.
    pub claim: &'static str,
    /// Why it does not hold; none if it does.
    pub why: Option<String>,
}

/// What no hook can show.
pub const NOT_PROVEN: &[&str] = &[
    "that the agent runs these hooks: ask it, or its log (Codex: /hooks)",
    "that its model heeds what it is shown",
    "that a shell command of the agent writes no locked file: no hook can tell which files it writes",
];

/// The agent's names for the events that the proof plays, and its fields.
struct Script {
    prompt: &'static str,
    edit: &'static str,
    tool: &'static str,
    stop: &'static str,
    input: fn(&str, &Path) -> Value,
}

const CLAUDE: Script = Script {
    prompt: "UserPromptSubmit",
    edit: "PreToolUse",
    tool: "PostToolUse",
    stop: "Stop",
    input: |event, file| {
        json!({ "session_id": "proof", "hook_event_name": event, "stop_hook_active": false,
                "tool_name": "Write", "tool_input": { "file_path": file, "content": "" } })
    },
};

fn script(agent: &str) -> Script {
    match agent {
        "codex" => Script {
            input: |event, file| {
                let patch = format!("*** Begin Patch\n*** Update File: {}\n@@\n-a\n+b\n*** End Patch", file.display());
                json!({ "session_id": "proof", "hook_event_name": event, "stop_hook_active": false,
                        "tool_name": "apply_patch", "tool_input": { "command": patch } })
            },
            ..CLAUDE
        },
        "gemini" => Script {
            prompt: "BeforeAgent",
            edit: "BeforeTool",
            tool: "AfterTool",
            stop: "AfterAgent",
            input: |event, file| {
                json!({ "session_id": "proof", "hook_event_name": event, "stop_hook_active": false,
                        "tool_name": "write_file", "tool_input": { "file_path": file, "content": "" } })
            },
        },
        "copilot" => Script {
            prompt: "userPromptSubmitted",
            edit: "preToolUse",
            tool: "postToolUse",
            stop: "agentStop",
            // Its inputs do not name their event: their fields tell it.
            input: |event, file| {
                let args = json!({ "path": file }).to_string();
                let mut input = json!({ "sessionId": "proof", "timestamp": 1 });
                match event {
                    "userPromptSubmitted" => input["prompt"] = json!("hi"),
                    "agentStop" => input["stopReason"] = json!("end_turn"),
                    _ => (input["toolName"], input["toolArgs"]) = (json!("edit"), json!(args)),
                }
                if event == "postToolUse" {
                    input["toolResult"] = json!({ "resultType": "success" });
                }
                input
            },
        },
        "cursor" => Script {
            prompt: "beforeSubmitPrompt",
            edit: "preToolUse",
            tool: "postToolUse",
            stop: "stop",
            input: |event, file| {
                json!({ "conversation_id": "proof", "hook_event_name": event, "status": "completed", "loop_count": 0,
                        "tool_name": "Write", "tool_input": { "file_path": file } })
            },
        },
        _ => CLAUDE,
    }
}

/// A mesh that ends with the proof.
struct Scratch {
    places: Places,
    client: Client,
}

impl Scratch {
    fn new() -> Result<Scratch, Error> {
        let dir = std::env::temp_dir().join(format!("slm-mesh-proof-{:08x}", sys::chance() as u32));
        let places = Places { dir };
        let client = Client::connect_or_start(&places)?;
        Ok(Scratch { places, client })
    }

    fn ask(&mut self, method: &str, mut params: Value) -> Result<Value, Error> {
        params["as"] = json!("human");
        self.client.call(method, &params)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may be gone already; the directory is ours and a proof's leftovers are of no use.
        let _ = self.client.call("broker.stop", &json!({}));
        while self.client.receive().is_ok() {}
        let _ = std::fs::remove_dir_all(&self.places.dir);
    }
}

/// Plays a session of the agent through its hooks.
///
/// # Errors
/// When the agent has no hooks, or none of ours, or no mesh can be started.
pub fn prove(ground: &Ground, row: &Row) -> Result<Vec<Proof>, Error> {
    let calls = calls(ground, row)?;
    let mut scratch = Scratch::new()?;
    let work = scratch.places.dir.join("work");
    let made = std::fs::create_dir_all(&work).and_then(|()| work.canonicalize());
    let work = made.map_err(|error| scratch.places.error("can't be written", &error))?;
    let (held, free) = (work.join("held.txt"), work.join("free.txt"));
    let script = script(row.name);
    let places = scratch.places.clone();
    let play = |event: &str, file: &Path| {
        let mut input = (script.input)(event, file);
        (input["cwd"], input["workspace_roots"]) = (json!(work), json!([work]));
        let call = calls.iter().find(|(name, _)| name == event);
        let (_, call) = call.ok_or_else(|| format!("its file has no hook of ours for {event}"))?;
        run(call, &places, &work, &input)
    };

    let mut proofs = Vec::new();
    let mut add = |claim, holds: Result<bool, String>, otherwise: &str| {
        let why = holds.map_or_else(Some, |holds| (!holds).then(|| otherwise.to_owned()));
        proofs.push(Proof { claim, why });
    };
    let first = play(script.prompt, &free).map(|said| said.trim().is_empty());
    add("a session's first prompt makes it known, and a hook without news is silent", first, "it said something");
    let peers = scratch.ask("peers", json!({ "scope": "machine", "includeAway": true }))?;
    let kind = Agent::named(row.name).map_or("", Agent::kind);
    let own = peers["peers"].as_array().into_iter().flatten().find(|peer| peer["agentType"] == json!(kind));
    let name = own.and_then(|peer| peer["name"].as_str()).unwrap_or("nobody").to_owned();
    let mail = |scratch: &mut Scratch, text: &str| {
        scratch.ask("send", json!({ "to": name, "message": text, "key": text })).map(|_| ()).map_err(|error| error.text)
    };
    let shows = |said: Result<String, String>, word: &str| said.map(|said| said.contains(word));

    let said = mail(&mut scratch, "word-before-a-prompt").and_then(|()| play(script.prompt, &free));
    add("mail comes before the model with a prompt", shows(said, "word-before-a-prompt"), "the hook did not show it");
    let said = mail(&mut scratch, "word-in-mid-turn").and_then(|()| play(script.tool, &free));
    add(
        "mail comes before the model in mid-turn, after a tool",
        shows(said, "word-in-mid-turn"),
        "the hook did not show it",
    );
    let locked = scratch.ask("lock.lock", json!({ "filePaths": [held], "reason": "proof-of-a-lock" }));
    let said = locked.map_err(|error| error.text).and_then(|_| play(script.edit, &held));
    let denied = said.map(|said| said.contains("deny") && said.contains("proof-of-a-lock"));
    add("an edit of a file that somebody else locked is denied, with the reason", denied, "the hook let it pass");
    let passed = play(script.edit, &free).map(|said| said.trim().is_empty());
    add("an edit of a free file passes", passed, "the hook said something");
    let holds = scratch.ask("lock.query", json!({}));
    let own =
        holds.map(|value| value["locks"].as_array().is_some_and(|locks| locks.len() == 2)).map_err(|error| error.text);
    add("and locks it for the session", own, "no lock was taken");
    // Some take the reason to go on for a prompt, and have the mail with that.
    let go_on =
        |said: String| if said.contains(MAIL_CAME) { Ok(said + &play(script.prompt, &free)?) } else { Ok(said) };
    let said = mail(&mut scratch, "word-at-the-end").and_then(|()| play(script.stop, &free)).and_then(go_on);
    add(
        "direct mail keeps the agent going once before it stops",
        shows(said, "word-at-the-end"),
        "the hook let it stop",
    );
    Ok(proofs)
}

/// How a hook is run: a program with arguments, or a line for a shell.
enum Call {
    Args(PathBuf, Vec<String>),
    Line(String),
}

/// Our hooks in the agent's file, by event.
fn calls(ground: &Ground, row: &Row) -> Result<Vec<(String, Call)>, Error> {
    let none = |why: String| Error::new(ErrorKind::NotFound, format!("{}: {why}", row.name));
    let scope = ground.scope(row);
    let level = if ground.project { " --project" } else { "" };
    if let Some((path, Own::Plugin)) = scope.own {
        let path = ground.path(row, path);
        let program =
            super::safe_write::read(&path).ok().flatten().and_then(|text| generated_files::plugin_program(&text));
        let program =
            program.ok_or_else(|| none(format!("{} is not our plugin; slm-mesh setup opencode", path.display())))?;
        let events = [CLAUDE.prompt, CLAUDE.edit, CLAUDE.tool, CLAUDE.stop];
        let call =
            |event: &str| (event.to_owned(), Call::Args(program.clone().into(), vec!["hook".into(), row.name.into()]));
        return Ok(events.into_iter().map(call).collect());
    }
    let Some(hooks) = scope.hooks else {
        return Err(none("it has no hooks at this level, so there is nothing to prove; it has the tools alone".into()));
    };
    let path = ground.path(row, hooks.path);
    let whole = value_of(&path).unwrap_or(Value::Null);
    let found = config_entries::hooks_in(&whole, &hooks);
    if found.is_empty() {
        return Err(none(format!("{} has no hook of ours; slm-mesh setup {}{level}", path.display(), row.name)));
    }
    let call = |hook: &Value| match hook["args"].as_array() {
        Some(args) => {
            let args = args.iter().map(|arg| arg.as_str().unwrap_or("").to_owned()).collect();
            Call::Args(hook["command"].as_str().unwrap_or("").into(), args)
        }
        None => Call::Line(hook["bash"].as_str().or(hook["command"].as_str()).unwrap_or("").to_owned()),
    };
    Ok(found.into_iter().map(|(event, hook)| (event.to_owned(), call(hook))).collect())
}

/// Runs a hook as the agent would; what it printed.
fn run(call: &Call, places: &Places, work: &Path, input: &Value) -> Result<String, String> {
    let mut command = match call {
        Call::Args(program, args) => {
            let mut command = Command::new(program);
            command.args(args);
            command
        }
        Call::Line(line) => {
            let mut command = Command::new("sh");
            command.args(["-c", line]);
            command
        }
    };
    command.env("SLM_MESH_DATA_DIR", &places.dir).current_dir(work);
    // What a hook says is to be proven, not how soon on a busy machine.
    command.env("SLM_MESH_HOOK_BUDGET_MS", "20000");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("it can't be run ({error})"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook that does not read its input is told by what it answers.
        let _ = stdin.write_all(input.to_string().as_bytes());
    }
    let out = child.wait_with_output().map_err(|error| format!("it did not end in order ({error})"))?;
    if !out.status.success() {
        return Err(format!("it ended with {}", out.status));
    }
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    match serde_json::from_str::<Value>(&said) {
        Err(error) if !said.trim().is_empty() => Err(format!("what it printed is not JSON ({error})")),
        _ => Ok(said),
    }
}
