//! `slm-mesh doctor --prove AGENT`: simulates a session in a temporary mesh, with the hooks from the agent's settings.
//!
//! **Invariant:** the user's mesh and files are not touched. A fact that only the agent itself can show counts as not
//! proven.

use super::generated_file_texts;
use super::hook::hook_agent;
use super::recognise_own_hook_entries::call_of;
use super::safe_write;
use super::setup_environment::{EditedFile, Environment, read_hooks};
use crate::base::error::{Error, ErrorKind};
use crate::client::Client;
use crate::known_agents::Agent;
use crate::known_agents::hook_dialect::{HookKind, MAIL_CAME};
use crate::sys;
use crate::sys::command_with_timeout::run_bounded;
use crate::sys::data_dir::DataDir;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How long a hook may take if it has nothing to do. Agents end our hooks after this time.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// One claim, and whether it holds.
#[derive(Debug, Clone)]
pub struct Proof {
    /// The claim.
    pub claim: &'static str,
    /// Why the claim does not hold; `None` if it holds.
    pub why: Option<String>,
}

/// Returns the facts that a simulated session cannot prove.
pub fn not_proven(agent: &Agent) -> [String; 3] {
    let list = agent.hook_list_command.map_or(String::new(), |command| format!(", or type {command}"));
    [
        format!("{} runs these hooks (ask the agent, or look at its log{list})", agent.title),
        "the agent's model pays attention to what the hooks show it".into(),
        "the agent's shell commands write no locked file (a hook cannot always tell which files a command writes)"
            .into(),
    ]
}

/// A temporary mesh for the simulated session. Dropping this value removes the mesh.
struct Scratch {
    places: DataDir,
    client: Client,
}

impl Scratch {
    fn new() -> Result<Scratch, Error> {
        let dir = std::env::temp_dir().join(format!("slm-mesh-proof-{:08x}", sys::random_u128() as u32));
        let places = DataDir { dir };
        let client = Client::connect_or_start(&places)?;
        Ok(Scratch { places, client })
    }

    fn ask(&mut self, method: &str, mut params: Value) -> Result<Value, Error> {
        params["as"] = json!("human");
        self.client.call(method, &params)
    }

    /// The name that the mesh gave to the agent's session.
    fn name_of_session(&mut self, agent: &Agent) -> Result<String, Error> {
        let peers = self.ask("peers", json!({ "scope": "machine", "includeAway": true }))?;
        let mut peers = peers["peers"].as_array().into_iter().flatten();
        let session = peers.find(|peer| peer["agentType"] == json!(agent.kind));
        Ok(session.and_then(|peer| peer["name"].as_str()).unwrap_or("nobody").to_owned())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Failures are harmless: the broker may have ended already, and the files are not needed after the proof.
        let _ = self.client.call("broker.stop", &json!({}));
        while self.client.receive().is_ok() {}
        let _ = std::fs::remove_dir_all(&self.places.dir);
    }
}

/// Simulates a session of the agent, and runs the agent's hooks.
///
/// # Errors
/// If the agent has no hooks of slm-mesh, or if no mesh can be started.
pub fn prove(environment: &Environment, agent: &'static Agent) -> Result<Vec<Proof>, Error> {
    let none = || {
        let text =
            format!("{} has no hooks in these settings, only the tools, so there are no hooks to test", agent.id);
        Error::new(ErrorKind::NotFound, text)
    };
    let dialect = hook_agent(agent.id).ok_or_else(none)?.dialect;
    let script = dialect.proof;
    let calls = calls_in_file(environment, agent)?;
    let mut scratch = Scratch::new()?;
    let work = scratch.places.dir.join("work");
    let made = std::fs::create_dir_all(&work).and_then(|()| work.canonicalize());
    let work = made.map_err(|error| scratch.places.error("can't be written", &error))?;
    let (held, free) = (work.join("held.txt"), work.join("free.txt"));
    let places = scratch.places.clone();
    let play = |event: &str, file: &Path| {
        let mut input = (script.input)(event, file);
        (input["cwd"], input["workspace_roots"]) = (json!(work), json!([work]));
        let call = calls.iter().find(|(name, _)| name == event);
        let (_, call) = call.ok_or_else(|| format!("the agent's settings have no slm-mesh hook for {event}"))?;
        run_hook(call, &places, &work, &input)
    };

    let mut proofs = Vec::new();
    let mut add = |claim, holds: Result<bool, String>, otherwise: &str| {
        let why = holds.map_or_else(Some, |holds| (!holds).then(|| otherwise.to_owned()));
        proofs.push(Proof { claim, why });
    };
    let first = play(script.prompt, &free).map(|output| output.trim().is_empty());
    let claim = "the hook for the first prompt registers the session, and prints nothing, because there is nothing to \
                 report";
    add(claim, first, "the hook printed something");
    let name = scratch.name_of_session(agent)?;
    let send = |scratch: &mut Scratch, text: &str| {
        scratch.ask("send", json!({ "to": name, "message": text, "key": text })).map(|_| ()).map_err(|error| error.text)
    };
    let shows = |output: Result<String, String>, word: &str| output.map(|output| output.contains(word));

    let output = send(&mut scratch, "word-before-a-prompt").and_then(|()| play(script.prompt, &free));
    let claim = "waiting mail reaches the model with the next prompt";
    add(claim, shows(output, "word-before-a-prompt"), "the hook did not show the mail");
    let output = send(&mut scratch, "word-in-mid-turn").and_then(|()| play(script.tool, &free));
    if dialect.unheard.contains(&HookKind::AfterTool) {
        let claim = "if mail arrives during a turn, it waits for the next prompt, because the agent drops the output \
                     of hooks that run after a tool call";
        let next = |output: String| Ok(output.is_empty() && shows(play(script.prompt, &free), "word-in-mid-turn")?);
        let waited = output.and_then(next);
        add(claim, waited, "the hook that runs after a tool call shows the mail, but the agent drops that output");
    } else {
        let claim = "if mail arrives during a turn, it reaches the model after a tool call";
        add(claim, shows(output, "word-in-mid-turn"), "the hook did not show the mail");
    }
    let locked = scratch.ask("lock.lock", json!({ "filePaths": [held], "reason": "proof-of-a-lock" }));
    let output = locked.map_err(|error| error.text).and_then(|_| play(script.edit, &held));
    let denied = output.map(|output| output.contains("deny") && output.contains("proof-of-a-lock"));
    add("if another peer has locked a file, an edit is denied with a reason", denied, "the hook allowed the edit");
    let passed = play(script.edit, &free).map(|output| output.trim().is_empty());
    add("if nobody has locked a file, an edit is allowed", passed, "the hook printed something");
    let locks = scratch.ask("lock.query", json!({})).map_err(|error| error.text);
    let has_both = locks.map(|value| value["locks"].as_array().is_some_and(|locks| locks.len() == 2));
    add("if nobody has locked a file, an edit locks the file for the session", has_both, "no lock was taken");
    // Some agents turn the reason in this output into a prompt. The hook for this prompt then shows the mail.
    let go_on = |output: String| {
        if output.contains(MAIL_CAME) { Ok(output + &play(script.prompt, &free)?) } else { Ok(output) }
    };
    let output = send(&mut scratch, "word-at-the-end").and_then(|()| play(script.stop, &free)).and_then(go_on);
    let claim = "if a direct message is waiting when the agent is about to stop, the hook lets the agent continue once";
    add(claim, shows(output, "word-at-the-end"), "the hook let the agent stop");
    Ok(proofs)
}

/// How to run a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookRun {
    /// A program with arguments.
    Program(PathBuf, Vec<String>),
    /// A line for a shell.
    ShellLine(String),
}

impl HookRun {
    /// The command with which the agent runs the hook.
    fn command(&self) -> Command {
        match self {
            HookRun::Program(program, args) => {
                let mut command = Command::new(program);
                command.args(args);
                command
            }
            HookRun::ShellLine(line) => {
                let mut command = Command::new("sh");
                command.args(["-c", line]);
                command
            }
        }
    }

    /// Runs the hook with an input that contains no event, so that the hook does nothing.
    ///
    /// # Errors
    /// When the hook can't be started, fails, or does not end in time.
    pub fn try_run(&self) -> Result<(), String> {
        run_bounded(&mut self.command(), b"{}", ENDS_WITHIN, &AtomicBool::new(false))
    }
}

/// Our hooks in the agent's settings, each with the name of its event.
pub fn calls_in_file(environment: &Environment, agent: &'static Agent) -> Result<Vec<(String, HookRun)>, Error> {
    let none = |why: String| Error::new(ErrorKind::NotFound, format!("{}: {why}", agent.id));
    let scope = environment.scope(agent);
    let level = if environment.is_project { " --project" } else { "" };
    let cure = format!("run slm-mesh setup {}{level}", agent.id);
    if let Some(own) = scope.own_file.filter(|own| own.runs_hooks) {
        let path = environment.path(agent, own.path);
        let program =
            safe_write::read(&path).ok().flatten().and_then(|text| generated_file_texts::plugin_program(&text));
        let program = program.ok_or_else(|| none(format!("{} is not slm-mesh's plugin; {cure}", path.display())))?;
        let events = agent.dialect.iter().flat_map(|dialect| dialect.events);
        let arguments = || vec!["hook".to_owned(), agent.id.to_owned()];
        let call =
            |(event, _): &(&str, _)| ((*event).to_owned(), HookRun::Program(program.clone().into(), arguments()));
        return Ok(events.map(call).collect());
    }
    let Some(hooks) = scope.hooks else {
        return Err(none("it has no hooks in these settings, only the tools, so there are no hooks to test".into()));
    };
    let path = environment.path(agent, hooks.path);
    let whole = read_hooks(&path, &hooks).unwrap_or(Value::Null);
    let file = EditedFile { path: path.clone(), server: None, hooks: Some(hooks) };
    let found = environment.entries(agent, "", &file).hooks_in(&whole, &hooks);
    if found.is_empty() {
        return Err(none(format!("{} has no slm-mesh hook; {cure}", path.display())));
    }
    let call = |hook: &Value| match hook["args"].as_array() {
        // The user's command may do anything, such as showing a notification. Only its call of our program is tested.
        _ if call_of(hook).is_some_and(|call| !call.is_whole) => {
            let program = call_of(hook).map(|call| call.program).unwrap_or_default();
            HookRun::Program(program.into(), vec!["hook".to_owned(), agent.id.to_owned()])
        }
        Some(args) => {
            let args = args.iter().map(|arg| arg.as_str().unwrap_or("").to_owned()).collect();
            HookRun::Program(hook["command"].as_str().unwrap_or("").into(), args)
        }
        None => HookRun::ShellLine(hook["bash"].as_str().or(hook["command"].as_str()).unwrap_or("").to_owned()),
    };
    Ok(found.into_iter().map(|(event, hook)| (event.to_owned(), call(hook))).collect())
}

/// Runs a hook as the agent would. Returns its output.
fn run_hook(run: &HookRun, places: &DataDir, work: &Path, input: &Value) -> Result<String, String> {
    let mut command = run.command();
    command.env("SLM_MESH_DATA_DIR", &places.dir).current_dir(work);
    // The proof checks what the hook prints, not how fast it is, so the hook gets enough time even on a busy machine.
    command.env("SLM_MESH_HOOK_BUDGET_MS", "20000");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("it can't be run ({error})"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A failure is harmless, because the hook's output shows whether the hook has read its input.
        let _ = stdin.write_all(input.to_string().as_bytes());
    }
    let out = child.wait_with_output().map_err(|error| format!("it did not end normally ({error})"))?;
    if !out.status.success() {
        return Err(format!("it ended with {}", out.status));
    }
    let output = String::from_utf8_lossy(&out.stdout).into_owned();
    match serde_json::from_str::<Value>(&output) {
        Err(error) if !output.trim().is_empty() => Err(format!("its output is not JSON ({error})")),
        _ => Ok(output),
    }
}
