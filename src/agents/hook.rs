//! `slm-mesh hook AGENT`: reads one hook's input and prints one answer, within a time budget.
//!
//! **Invariant:** a mesh that is down, slow or wrong never stops an agent's work: a hook that can't say
//! anything useful says nothing and succeeds.

use super::edited_paths;
use super::hook_input::{HookEvent, HookInput, understand};
use super::hook_text;
use super::shell_command;
use crate::base::error::{Error, ErrorKind};
use crate::base::{framed_text, time};
use crate::client::{Client, remote};
use crate::core::mail::wakeups::is_wakeup_sentence;
use crate::known_agents::dialect::{Dialect, MAIL_CAME};
use crate::known_agents::{Agent, by_id};
use crate::sys::data_dir::DataDir;
use crate::sys::file_path;
use crate::sys::git;
use crate::sys::settings::Settings;
use crate::wire::field_reader;
use serde_json::{Value, json};
use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::time::Duration;

/// Nothing is added to a longer log: a hook that always fails must not fill the disk.
const LOG_MAX: u64 = 1 << 20;

/// An agent that has hooks.
#[derive(Debug, Clone, Copy)]
pub struct HookAgent {
    /// The agent.
    pub agent: &'static Agent,
    /// How it speaks with its hooks.
    pub dialect: &'static Dialect,
}

/// The agent of this id, if it has hooks.
pub fn hook_agent(id: &str) -> Option<HookAgent> {
    let agent = by_id(id)?;
    agent.dialect.as_ref().map(|dialect| HookAgent { agent, dialect })
}

/// Answers one hook. It always succeeds: no output is an answer in every dialect. `name` is the agent that
/// speaks this agent's dialect, if it is another one.
pub fn answer_hook(agent: &str, name: Option<&str>) -> u8 {
    run_guarded(agent, |agent, input| {
        if let Some(answer) = answer_of(agent, name, input)? {
            deliver(answer);
        }
        Ok(0)
    })
}

/// Runs one hook on its input. Whatever goes wrong, the agent goes on.
pub fn run_guarded(agent: &str, run: impl FnOnce(HookAgent, &Value) -> Result<u8, String>) -> u8 {
    let known = hook_agent(agent).ok_or_else(|| format!("no agent {agent} has hooks"));
    known.and_then(|agent| run(agent, &read_input()?)).unwrap_or_else(|why| {
        // An agent shows the standard error of a hook that succeeds to nobody, so the log gets it too.
        let line = format!("slm-mesh hook {}: {why}", agent.chars().take(40).collect::<String>());
        crate::sys::print_error(&line);
        append_to_log(&line);
        0
    })
}

/// Appends a line to the broker's log, if there is one and it is short.
fn append_to_log(line: &str) {
    let Ok(places) = DataDir::find() else { return };
    let is_short = places.log().metadata().is_ok_and(|log| log.len() < LOG_MAX);
    let log = std::fs::OpenOptions::new().append(true).open(places.log());
    if let (true, Ok(mut log)) = (is_short, log) {
        // A log that can't be written must not stop the agent's work.
        let _ = writeln!(log, "{} {}", time::iso(crate::sys::wall_ms()), framed_text::line(line));
    }
}

/// Reads the hook's input, of any size: a tool's arguments hold whole files.
fn read_input() -> Result<Value, String> {
    let stdin = BufReader::with_capacity(1 << 16, std::io::stdin().lock());
    let mut failure = None;
    let mut bytes = stdin.bytes().map_while(|byte| byte.map_err(|error| failure = Some(error)).ok());
    let input = field_reader::read_object(&mut bytes, &edited_paths::NEEDED_FIELDS);
    input.ok_or_else(|| match failure {
        Some(error) => format!("standard input can't be read ({error})"),
        None => "the input is not a JSON object".into(),
    })
}

/// What a hook prints, and which mail counts as shown after that.
struct HookReply {
    text: String,
    shown: Value,
}

fn answer_of(agent: HookAgent, name: Option<&str>, input: &Value) -> Result<Option<(HookReply, Client)>, String> {
    let Some(mut hook) = understand(agent.dialect, input) else { return Ok(None) };
    if let HookEvent::Command(commands) = &hook.event {
        // A command that writes nothing, or nothing that its text tells, needs no broker.
        let files = shell_command::files(commands, &file_path::absolute(&hook.directory));
        if files.is_empty() {
            return Ok(None);
        }
        hook.event = HookEvent::Edit(files);
    }
    let places = DataDir::find().map_err(|error| error.text)?;
    let settings = Settings::load(&places).map_err(|error| error.text)?;
    let mut client = connect(&places, &hook.event)?;
    // A broker that hangs costs the agent this long, and no more.
    let budget = Duration::from_millis(settings.int("SLM_MESH_HOOK_BUDGET_MS") as u64);
    client.set_receive_timeout(Some(budget)).map_err(|error| error.to_string())?;
    let mut facts = session_facts(agent.agent, &hook);
    if let Some(name) = name {
        let known = by_id(name).map_or((name, name), |agent| (agent.kind, agent.short_name));
        (facts["agent"], facts["shortName"], facts["sharedHooks"]) = (json!(known.0), json!(known.1), json!(false));
    }
    let prompt = ["prompt", "initial_prompt"].iter().find_map(|name| input[*name].as_str());
    if matches!(hook.event, HookEvent::Start | HookEvent::Prompt)
        && prompt.is_some_and(|prompt| !is_wakeup_sentence(prompt))
    {
        facts["userPrompted"] = json!(true);
    }
    let answer = ask_broker(agent.dialect, &hook, &mut client, facts).map_err(|error| error.text)?;
    Ok(answer.map(|answer| (answer, client)))
}

/// Connects to the broker. An edit or a prompt may start one; other events matter only to a broker
/// that runs.
fn connect(places: &DataDir, event: &HookEvent) -> Result<Client, String> {
    if remote::is_marked_silent(places) {
        return Err("the hub did not answer a moment ago; hooks ask it again after half a minute".into());
    }
    match event {
        HookEvent::Start | HookEvent::Prompt | HookEvent::Edit(_) => {
            Client::connect_or_start(places).map_err(|error| error.text)
        }
        _ => Client::connect(places).map_err(|error| error.to_string()),
    }
}

/// What the broker needs to find the session: the agent, its key, and where it works.
pub fn session_facts(agent: &Agent, hook: &HookInput) -> Value {
    let git = git::facts(Path::new(&hook.directory));
    let dialect = agent.dialect.as_ref();
    json!({
        "shortName": agent.short_name, "sharedHooks": dialect.is_some_and(|dialect| dialect.is_shared),
        "continues": hook.continues, "keyedCalls": agent.identity.has_many_sessions,
        "agent": agent.kind, "session": hook.session.chars().take(128).collect::<String>(),
        "project": hook.directory, "gitRoot": git.root, "gitBranch": git.branch, "repo": git.repo,
    })
}

/// Asks the broker what fits the event, and writes the answer in the agent's dialect.
fn ask_broker(
    dialect: &Dialect,
    hook: &HookInput,
    client: &mut Client,
    mut facts: Value,
) -> Result<Option<HookReply>, Error> {
    match &hook.event {
        HookEvent::Edit(files) => {
            let absolute = |file: &String| file_path::absolute_in(&hook.directory, file);
            facts["files"] = json!(files.iter().map(absolute).collect::<Vec<_>>());
            facts["subagent"] = json!(hook.subagent);
            match client.call("hook.edit", &facts) {
                Err(error) if error.kind == ErrorKind::Held => {
                    let text = (dialect.deny)(&hook.call, &hook_text::denial(&error)).to_string();
                    Ok(Some(HookReply { text, shown: Value::Null }))
                }
                result => result.map(|_| None),
            }
        }
        HookEvent::End => {
            facts["leave"] = json!(true);
            client.call("hook.turn_end", &facts).map(|_| None)
        }
        HookEvent::SubagentStop => {
            facts["subagent"] = json!(hook.subagent);
            client.call("hook.turn_end", &facts).map(|_| None)
        }
        HookEvent::Stop { can_go_on, running } => {
            facts["running"] = json!(running);
            client.call("hook.turn_end", &facts)?;
            facts["running"] = Value::Null;
            if *can_go_on { answer_stop(dialect, client, facts) } else { Ok(None) }
        }
        HookEvent::Start => {
            facts["withNeighbours"] = json!(true);
            let value = client.call("hook.mail", &facts)?;
            Ok(show(dialect, hook, &value, hook_text::beginning(&value)))
        }
        // `answer_of` has made an edit of it, if it writes.
        HookEvent::Command(_) => Ok(None),
        HookEvent::Prompt | HookEvent::AfterTool => {
            let value = client.call("hook.mail", &facts)?;
            Ok(show(dialect, hook, &value, hook_text::mail(&value)))
        }
    }
}

/// Keeps the agent going if direct mail waits.
fn answer_stop(dialect: &Dialect, client: &mut Client, mut facts: Value) -> Result<Option<HookReply>, Error> {
    facts["direct"] = json!(true);
    facts["peek"] = json!(dialect.reason_is_prompt);
    let value = client.call("hook.mail", &facts)?;
    let mail = hook_text::mail(&value);
    if mail.is_empty() {
        return Ok(None);
    }
    Ok(Some(if dialect.reason_is_prompt {
        HookReply { text: (dialect.go_on)(MAIL_CAME).to_string(), shown: Value::Null }
    } else {
        HookReply { text: (dialect.go_on)(&mail).to_string(), shown: shown_mail(&value) }
    }))
}

/// The answer that puts a text before the model; none for an empty text.
fn show(dialect: &Dialect, hook: &HookInput, value: &Value, text: String) -> Option<HookReply> {
    let answer = || HookReply { text: (dialect.show)(&hook.call, &text).to_string(), shown: shown_mail(value) };
    (!text.is_empty()).then(answer)
}

/// The report of the mail that an answer shows.
fn shown_mail(value: &Value) -> Value {
    json!({ "as": value["you"]["id"], "items": hook_text::shown(value) })
}

/// Prints a line. Answers whether it went out whole.
pub fn print(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
}

/// Prints the answer. Its mail counts as shown once the answer is out whole.
fn deliver((answer, mut client): (HookReply, Client)) {
    let has_mail = answer.shown["items"].as_array().is_some_and(|items| !items.is_empty());
    if print(&answer.text) && has_mail {
        // If the broker is gone, it offers the mail again: twice is better than never.
        let _ = client.call("inbox.mark_read", &answer.shown);
    }
}
