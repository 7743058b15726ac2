//! The command line: arguments in, exit status out. Verbs that are operations derive from them;
//! each other one has a file of its own.

pub mod args;
pub mod clean;
pub mod manual;
pub mod flags;
pub mod follow;
pub mod guard;
pub mod hubs;
pub mod render;
pub mod lock_command;
pub mod setup;
mod pipe;
pub mod start;
pub mod help_topics;
pub mod watch;
pub mod web;

use crate::base::error::{Error, ErrorKind};
use crate::client::{self, Client};
use crate::core::Op;
use crate::core::op::ArgKind;
use crate::sys::data_dir::{self, Places};
use crate::sys::git;
use crate::sys::settings::Settings;
use args::{Command, Parsed};
use serde_json::{Map, Value, json};
use std::io::{self, IsTerminal, Write};

/// Runs the program; answers with its exit status.
pub fn main(argv: Vec<std::ffi::OsString>) -> u8 {
    // What can't be understood is told of in the form that was asked for, if that much can be seen.
    let json = argv.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    let parsed = match args::parse(argv) {
        Ok(parsed) => parsed,
        Err(error) => return fail(&error, json),
    };
    let json = parsed.json;
    match dispatch(parsed) {
        Ok(status) => status,
        Err(error) => fail(&error, json),
    }
}

fn dispatch(parsed: Parsed) -> Result<u8, Error> {
    match &parsed.command {
        Command::Bare if !io::stdin().is_terminal() => session(false),
        Command::Mcp { legacy } => session(*legacy),
        Command::Bare => start::greet(parsed.json),
        Command::Start { detach, as_daemon } => start::start(*detach, *as_daemon, parsed.json),
        Command::Stop => start::stop(parsed.json),
        Command::Clean => clean::clean(parsed.json),
        Command::Hook(agent, true) => Ok(crate::agents::wake::run(agent)),
        Command::Hook(agent, false) => Ok(crate::agents::hook::run(agent)),
        Command::Setup(asked) => setup::setup(asked, parsed.json),
        Command::Doctor(prove) => setup::doctor(prove.as_deref(), parsed.json),
        Command::Hubs(seconds) => hubs::hubs(*seconds, parsed.json),
        Command::Announce(words) => hubs::announce(words),
        Command::Guard(words) => guard::run(words, parsed.json),
        Command::Pipe => pipe::pipe(),
        Command::Secret => pipe::secret(),
        Command::Version => say(env!("CARGO_PKG_VERSION")),
        Command::Help(topic) => manual::help(topic),
        Command::Live(plain) => watch::watch(&parsed, *plain),
        Command::Web(only_print) => web::web(*only_print, parsed.json),
        Command::Watch => follow::watch(&parsed),
        Command::Operation(_) if parsed.follow => follow::follow(&parsed),
        Command::Operation(op) if !parsed.command_line.is_empty() => lock_command::locked(op, &parsed),
        Command::Operation(op) => operation(op, &parsed),
    }
}

/// The MCP session. Whatever goes wrong with the mesh, it stays up and says so in its answers.
fn session(legacy: bool) -> Result<u8, Error> {
    crate::mcp::run(legacy)
        .map_err(|error| Error::new(ErrorKind::Internal, format!("standard input can't be read ({error})")))?;
    Ok(0)
}

/// Asks the broker for one operation and prints what it answers.
fn operation(op: &'static Op, parsed: &Parsed) -> Result<u8, Error> {
    let (places, settings) = surroundings()?;
    let params = params(op, parsed, &settings);
    let mut client = match op.name {
        // To ask how the broker is must not bring one to life.
        "status" => Client::connect(&places).map_err(|error| match client::is_absent(&error) {
            true => no_broker(),
            false => Error::new(ErrorKind::Gone, error.to_string()),
        })?,
        _ => Client::connect_or_start(&places)?,
    };
    let params = Value::Object(params);
    let value = match client.call(op.name, &params) {
        // It ended just as we came: the next one answers.
        Err(error) if client::is_lost(&error) && (op.repeatable || op.name == "send") => {
            client = Client::connect_or_start(&places)?;
            client.call(op.name, &params)
        }
        result => result,
    };
    let value = value.map_err(|error| args::on_command_line(op, error))?;
    let (status, is_read) = render::result(op, &value, parsed)?;
    if op.name == "inbox" && is_read {
        acknowledge(&mut client, &params, &value);
    }
    Ok(status)
}

/// Reports messages as shown, after they were printed.
fn acknowledge(client: &mut Client, params: &Value, value: &Value) {
    let items = crate::mcp::shown_items(value);
    if !items.is_empty() {
        // A broker that is gone offers them again: nothing is lost.
        let _ = client.call("shown", &json!({ "items": items, "as": params["as"] }));
    }
}

/// The data directory and the settings.
pub fn surroundings() -> Result<(Places, Settings), Error> {
    let places = Places::find()?;
    let settings = Settings::load(&places)?;
    Ok((places, settings))
}

/// What goes to the broker: the arguments, who acts, and facts that only the caller's place knows.
pub fn params(op: &Op, parsed: &Parsed, settings: &Settings) -> Map<String, Value> {
    let mut params = parsed.args.clone();
    for (name, value) in &mut params {
        let is_path = ["filePath", "filePaths"].contains(&name.as_str());
        match value {
            Value::Array(list) if is_path => {
                for item in list {
                    *item = json!(data_dir::absolute(item.as_str().unwrap_or("")));
                }
            }
            Value::String(path) if is_path => *value = json!(data_dir::absolute(path)),
            _ => {}
        }
    }
    params.extend(params_for_actor(settings));
    if let Some(name) = &parsed.acting {
        params.insert("as".into(), json!(name));
    }
    let has = |name: &str| op.args.iter().any(|arg| arg.name == name);
    if op.name == "peers" {
        // An agent that lists its peers in its shell is none of them.
        params.insert("whoami".into(), json!(true));
    }
    let scoped = params.get("scope").and_then(Value::as_str).is_some_and(|scope| scope != "machine");
    if op.name == "lock.lock" || op.name == "peers" && scoped {
        let dir = std::env::current_dir().unwrap_or_default();
        let git = git::facts(&dir);
        let facts = [("project", Some(dir.display().to_string())), ("repo", git.repo), ("gitRoot", git.root)];
        for (name, fact) in facts.into_iter().filter(|(name, _)| has(name)) {
            params.insert(name.into(), json!(fact));
        }
    }
    if op.name == "send" && !params.contains_key("key") {
        params.insert("key".into(), json!(format!("auto-{:032x}", crate::sys::chance())));
    }
    params
}

/// Who asks: the version of this program, and the peer that the settings name.
fn params_for_actor(settings: &Settings) -> Map<String, Value> {
    let named = Some(settings.text("SLM_MESH_PEER")).filter(|name| !name.is_empty());
    let mut params = Map::from_iter([("v".to_owned(), json!(env!("CARGO_PKG_VERSION")))]);
    params.extend(named.map(|name| ("as".to_owned(), json!(name))));
    params
}

/// The error for a verb that wants a living broker.
pub fn no_broker() -> Error {
    Error::new(
        ErrorKind::Gone,
        "no broker is running; slm-mesh start --detach, or any session or other verb, starts one",
    )
}

/// Prints a line; a reader that is gone is no failure.
pub fn say(line: &str) -> Result<u8, Error> {
    put(line).map(|_| 0)
}

/// Prints a line; answers whether somebody may read it. A reader that is gone is no failure.
pub fn put(line: &str) -> Result<bool, Error> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => Ok(!crate::sys::is_output_closed()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::new(ErrorKind::Storage, format!("standard output can't be written ({error})"))),
    }
}

fn fail(error: &Error, json: bool) -> u8 {
    // Where even this can't be said, the exit status still tells.
    let _ = if json { say(&error.to_value().to_string()).map(|_| ()) } else { Ok(()) };
    if !json {
        crate::sys::complain(&format!("slm-mesh: {}", render::plain(&error.text)));
    }
    error.kind.codes().exit
}

/// The JSON value of a command line's word.
pub fn word_value(kind: ArgKind, name: &str, word: String) -> Result<Value, Error> {
    match kind {
        ArgKind::Int { .. } => word
            .parse::<i64>()
            .map(Value::from)
            .map_err(|_| Error::usage(name, format!("want {}, got \"{word}\"", kind.want()))),
        ArgKind::Object { .. } => {
            serde_json::from_str(&word).map_err(|error| Error::usage(name, format!("want {}: {error}", kind.want())))
        }
        _ => Ok(Value::String(word)),
    }
}
