//! `slm-mesh hook AGENT`: one hook's input in, one answer out, within a budget.

use super::dialect::{self, Agent, Event, Told};
use super::hook_text;
use crate::base::error::{Error, ErrorKind};
use crate::base::time;
use crate::client::{Client, remote};
use crate::core::mail::wakeups::is_wakeup_sentence;
use crate::sys::data_dir::{self, Places};
use crate::sys::git;
use crate::sys::settings::Settings;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

/// A hook's input beyond this is not read: a tool's output may be anything.
const INPUT_MAX: u64 = 4 << 20;
/// A log longer than this gets no more of ours: a hook that always fails must fill no disk.
const LOG_MAX: u64 = 1 << 20;

/// Answers one hook. It always succeeds: nothing on standard output is an answer in every dialect.
pub fn run(agent: &str) -> u8 {
    guarded(agent, |agent, input| {
        if let Some((text, client, shown)) = answer(agent, input)? {
            say(&text, client, &shown);
        }
        Ok(0)
    })
}

/// Runs one hook on its input; whatever goes wrong, its agent goes on.
pub fn guarded(agent: &str, run: impl FnOnce(Agent, &Value) -> Result<u8, String>) -> u8 {
    let known = Agent::named(agent).ok_or_else(|| format!("no agent {agent}"));
    known.and_then(|agent| run(agent, &input()?)).unwrap_or_else(|why| {
        // Agents show standard error to nobody when a hook succeeds: the log has it for who looks.
        let line = format!("slm-mesh hook {}: {why}", agent.chars().take(40).collect::<String>());
        crate::sys::complain(&line);
        note(&line);
        0
    })
}

/// Writes a line into the broker's log, where there is one and it is not long.
fn note(line: &str) {
    let Ok(places) = Places::find() else { return };
    let is_short = places.log().metadata().is_ok_and(|log| log.len() < LOG_MAX);
    let log = std::fs::OpenOptions::new().append(true).open(places.log());
    if let (true, Ok(mut log)) = (is_short, log) {
        // A log that can't be written stops nobody's work either.
        let _ = writeln!(log, "{} {line}", time::iso(crate::sys::wall_ms()));
    }
}

/// Reads the hook's input.
fn input() -> Result<Value, String> {
    let mut input = Vec::new();
    let mut stdin = std::io::stdin().lock().take(INPUT_MAX + 1);
    stdin.read_to_end(&mut input).map_err(|error| format!("standard input can't be read ({error})"))?;
    if input.len() as u64 > INPUT_MAX {
        return Err(format!("the input is longer than {INPUT_MAX} bytes"));
    }
    serde_json::from_slice(&input).map_err(|error| format!("the input is not JSON ({error})"))
}

/// What to print, and what counts as shown once that is out.
type Answer = (String, Client, Value);

fn answer(agent: Agent, input: &Value) -> Result<Option<Answer>, String> {
    let Some(told) = agent.understand(input) else { return Ok(None) };
    let places = Places::find().map_err(|error| error.text)?;
    let settings = Settings::load(&places).map_err(|error| error.text)?;
    let mut client = connect(&places, &told.event)?;
    // A hung broker costs an agent this long, and no more.
    let budget = Duration::from_millis(settings.int("SLM_MESH_HOOK_BUDGET_MS") as u64);
    client.wait_at_most(Some(budget)).map_err(|error| error.to_string())?;
    let mut ask = identity(agent, &told);
    let prompt = ["prompt", "initial_prompt"].iter().find_map(|name| input[*name].as_str());
    if matches!(told.event, Event::Start | Event::Prompt) && prompt.is_some_and(|prompt| !is_wakeup_sentence(prompt)) {
        ask["spoken"] = json!(true);
    }
    match ask_and_word(agent, &told, &mut client, ask) {
        Ok(Some((text, shown))) => Ok(Some((text, client, shown))),
        Ok(None) => Ok(None),
        Err(error) => Err(error.text),
    }
}

/// An edit or a prompt is worth starting a broker for; the rest is about one that is there.
fn connect(places: &Places, event: &Event) -> Result<Client, String> {
    if remote::was_silent(places) {
        return Err("the hub did not answer a moment ago; hooks ask it again after half a minute".into());
    }
    match event {
        Event::Start | Event::Prompt | Event::Edit(_) => Client::connect_or_start(places).map_err(|error| error.text),
        _ => Client::connect(places).map_err(|error| error.to_string()),
    }
}

/// Who the session is: the agent's key for it, and where it works.
pub fn identity(agent: Agent, told: &Told) -> Value {
    let git = git::facts(Path::new(&told.dir));
    json!({
        "agent": agent.kind(), "session": told.session.chars().take(128).collect::<String>(), "project": told.dir,
        "gitRoot": git.root, "gitBranch": git.branch, "repo": git.repo,
    })
}

/// Asks the broker what fits the event, and words the answer in the agent's dialect.
fn ask_and_word(
    agent: Agent,
    told: &Told,
    client: &mut Client,
    mut ask: Value,
) -> Result<Option<(String, Value)>, Error> {
    match &told.event {
        Event::Edit(files) => {
            let absolute = |file: &String| data_dir::absolute_in(&told.dir, file);
            ask["files"] = json!(files.iter().map(absolute).collect::<Vec<_>>());
            match client.call("turn.edit", &ask) {
                Err(error) if error.kind == ErrorKind::Held => {
                    Ok(Some((agent.deny(told, &denial(&error)).to_string(), Value::Null)))
                }
                result => result.map(|_| None),
            }
        }
        Event::End => {
            ask["leave"] = json!(true);
            client.call("turn.end", &ask).map(|_| None)
        }
        Event::Stop(active) => {
            client.call("turn.end", &ask)?;
            if *active {
                return Ok(None);
            }
            ask["direct"] = json!(true);
            ask["peek"] = json!(agent.prompts_itself());
            let value = client.call("turn.mail", &ask)?;
            let (text, shown) = match worded(&value, hook_text::mail(&value)) {
                Some(_) if agent.prompts_itself() => (dialect::MAIL_CAME.to_owned(), Value::Null),
                Some(mail) => mail,
                None => return Ok(None),
            };
            Ok(Some((agent.go_on(&text).to_string(), shown)))
        }
        Event::Start => {
            ask["around"] = json!(true);
            let value = client.call("turn.mail", &ask)?;
            Ok(worded(&value, hook_text::beginning(&value))
                .map(|(text, shown)| (agent.show(told, &text).to_string(), shown)))
        }
        Event::Prompt | Event::Tool => {
            let value = client.call("turn.mail", &ask)?;
            Ok(worded(&value, hook_text::mail(&value))
                .map(|(text, shown)| (agent.show(told, &text).to_string(), shown)))
        }
    }
}

/// The sentence of a denial, without the facts that only our own tools take.
fn denial(error: &Error) -> String {
    format!("{}. The file was not changed.", error.text)
}

/// A text with what it shows; none if there is no text.
fn worded(value: &Value, text: String) -> Option<(String, Value)> {
    let shown = json!({ "as": value["you"]["id"], "items": hook_text::shown(value) });
    (!text.is_empty()).then_some((text, shown))
}

/// Prints a line; whether it went out whole.
pub fn print(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
}

/// Prints the answer; its mail counts as shown once it is out whole.
fn say(text: &str, mut client: Client, shown: &Value) {
    if print(text) && shown["items"].as_array().is_some_and(|items| !items.is_empty()) {
        // If the broker is gone, the mail is offered again: better twice than never.
        let _ = client.call("shown", shown);
    }
}
