//! The command line: takes arguments and returns an exit status. Most verbs call one operation of the broker. Each of
//! the other verbs has its own file.

pub mod args;
pub mod clean_crash_leftovers;
mod completion_words;
pub mod follow;
pub mod generate_help_and_man_page;
pub mod git_guard;
pub mod help_topics;
pub mod list_and_announce_network_hubs;
mod message_pages;
mod parsed_command;
pub mod print_peer_transcript;
pub mod render;
pub mod restore_backup;
pub mod restore_file;
mod retry_on_lost_connection;
pub mod run_under_lock;
pub mod sandbox_command_from_locked_files;
mod secret;
pub mod setup_and_doctor;
mod ssh_pipe;
pub mod start_stop;
mod usage_errors;
pub mod verb_and_flag_tables;
pub mod verb_behavior_table;
pub mod watch;
pub mod web;

use crate::base::error::{Error, ErrorKind};
use crate::client::Client;
use crate::core::op_behavior::RowStream;
use crate::core::op_definition::{ArgKind, ArgRole};
use crate::known_agents::recognition_rule_types;
use crate::sys::data_dir::DataDir;
use crate::sys::path_normalization;
use crate::sys::read_git_files;
use crate::sys::settings::{SESSION, STORE, Settings};
use crate::sys::socket_wait::{WaitEnd, wait_for_either};
use crate::sys::typescript_broker;
use args::{CliCommand, ParsedCommand};
use message_pages::SearchedList;
use retry_on_lost_connection::call_repeatedly;
use serde_json::{Map, Value, json};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use verb_behavior_table::{CliOperation, SendLocation};

/// Runs the program and returns its exit status.
pub fn main(argv: Vec<std::ffi::OsString>) -> u8 {
    // If the arguments contain --json, an error about the arguments is printed as JSON too.
    let json = argv.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    let parsed = match args::parse(argv) {
        Ok(parsed) => parsed,
        Err(error) => return report_error(&error, json),
    };
    let json = parsed.json;
    match run_command(parsed) {
        Ok(status) => status,
        Err(error) => report_error(&error, json),
    }
}

fn run_command(parsed: ParsedCommand) -> Result<u8, Error> {
    match &parsed.command {
        CliCommand::Operation(row) if !parsed.follow && parsed.command_line.is_empty() => call_operation(row, &parsed),
        CliCommand::Hook { dialect, agent, wake: false } => {
            Ok(crate::agents::hook::answer_hook(dialect, agent.as_deref()))
        }
        _ => run_other_command(&parsed),
    }
}

/// Runs every command except a hook and a single call of an operation. The variables of all these commands take 20 KB
/// of stack. Because this function is separate, a hook or a single call does not use this memory.
#[inline(never)]
fn run_other_command(parsed: &ParsedCommand) -> Result<u8, Error> {
    match &parsed.command {
        CliCommand::Bare if !io::stdin().is_terminal() => serve_mcp(false, None),
        CliCommand::Mcp { legacy, agent } => serve_mcp(*legacy, agent.clone()),
        CliCommand::Bare => start_stop::greet(parsed.json),
        CliCommand::Start { detach, as_daemon, log_change } => {
            start_stop::start(*detach, *as_daemon, *log_change, parsed.json)
        }
        CliCommand::Stop { force } => start_stop::stop(*force, parsed.json),
        CliCommand::Clean => clean_crash_leftovers::clean(parsed.json),
        CliCommand::Hook { dialect, .. } => Ok(crate::agents::wake_hook::wait_to_wake(dialect)),
        CliCommand::Setup(options) => setup_and_doctor::setup(options, parsed.json),
        CliCommand::Doctor(prove) => setup_and_doctor::doctor(prove.as_deref(), parsed.json),
        CliCommand::Hubs(seconds) => list_and_announce_network_hubs::list_hubs(*seconds, parsed.json),
        CliCommand::Announce(words) => list_and_announce_network_hubs::announce(words),
        CliCommand::Complete(words) => completion_words::print_candidates(words),
        CliCommand::Guard(words) => git_guard::run_guard(words, parsed.json),
        CliCommand::Pipe => ssh_pipe::carry_lines(),
        CliCommand::Secret => secret::print_secret(parsed.json),
        CliCommand::Version => print_text("version", env!("CARGO_PKG_VERSION"), parsed.json),
        CliCommand::Help(topic) => generate_help_and_man_page::print_help(topic, parsed.json),
        CliCommand::WatchMesh(plain) => watch::watch(parsed, *plain),
        CliCommand::Web(only_print) => web::open_page(*only_print, parsed.json),
        CliCommand::RestoreBackup(backup) => restore_backup::restore(backup, parsed.json),
        CliCommand::RestoreFile(options) => restore_file::restore_file(options, parsed.json),
        CliCommand::Shield(options) => sandbox_command_from_locked_files::run_shielded(options, parsed),
        CliCommand::Transcript(options) => print_peer_transcript::print_transcript(options, parsed.json),
        CliCommand::WatchState => follow::watch_state(parsed),
        CliCommand::Operation(row) => match row.op.behavior.stream.filter(|_| parsed.follow) {
            Some(stream) => follow::follow(row, stream, parsed),
            None if !parsed.command_line.is_empty() => run_under_lock::run_under_lock(row, parsed),
            None => call_operation(row, parsed),
        },
    }
}

/// Serves MCP. If the mesh fails, the session continues and reports the error in its answers.
fn serve_mcp(legacy: bool, agent: Option<String>) -> Result<u8, Error> {
    crate::mcp::serve_stdio(legacy, agent)
        .map_err(|error| Error::new(ErrorKind::Internal, format!("cannot read standard input ({error})")))?;
    Ok(0)
}

/// Calls one operation on the broker and prints the answer.
fn call_operation(row: &CliOperation, parsed: &ParsedCommand) -> Result<u8, Error> {
    let op = row.op;
    let (places, settings) = load_environment()?;
    let mut params = call_params(row, parsed, &settings)?;
    let mut client =
        if row.op.behavior.starts_broker { Client::connect_or_start(&places)? } else { connect_to_running(&places)? };
    let is_wait = row.op.behavior.stream == Some(RowStream::Events) && params.contains_key("waitSeconds");
    if is_wait && !params.contains_key("after") && !params.contains_key("since") {
        // If the connection breaks, the call is repeated. The cursor `after` makes the repeated call return the events
        // that occurred in between.
        let connect = || Client::connect_or_start(&places);
        params.insert(
            "after".into(),
            call_repeatedly(&mut client, connect, "events.cursor", &Map::new())?["seq"].clone(),
        );
    }
    let mut call = |params: &Map<String, Value>| {
        if op.repeatable || op.idempotency_key().is_some() {
            return call_repeatedly(&mut client, || Client::connect_or_start(&places), op.name, params);
        }
        client.call(op.name, &Value::Object(params.clone()))
    };
    let answer = match row.op.behavior.stream {
        Some(RowStream::Log) => message_pages::collect(SearchedList::Log, &params, call),
        Some(RowStream::Messages) if params.contains_key("search") => {
            message_pages::collect(SearchedList::Inbox, &params, call)
        }
        _ => call(&params),
    };
    let mut answer = answer.map_err(|error| usage_errors::on_command_line(op, error))?;
    if row.shows_own_hub && settings.is_set(STORE) {
        add_own_hub(&places, &mut answer);
    }
    let (status, is_read) = render::print_answer(row, &answer, parsed)?;
    if row.op.behavior.stream == Some(RowStream::Messages) && is_read {
        mark_read(&mut client, &Value::Object(params), &answer);
    }
    Ok(status)
}

/// If another hub leads, adds the status of this machine's hub, which only this machine's broker knows.
fn add_own_hub(places: &DataDir, status: &mut Value) {
    let own = Client::connect_to_own(places).and_then(|mut own| own.call("hub.status", &json!({})));
    if let Ok(own) = own.map_err(drop)
        && own["role"] == "standby"
    {
        status["ownHub"] = own;
    }
}

/// Connects to the running broker. Returns an error if none is running.
pub fn connect_to_running(places: &DataDir) -> Result<Client, Error> {
    Client::connect_to_running(places).map_err(|error| explain_absence(places, error))
}

/// If a connection failed because no broker is running, returns an error that also says what the user can do.
fn explain_absence(places: &DataDir, error: Error) -> Error {
    match error.kind {
        ErrorKind::NotFound => match typescript_broker::find(places) {
            Some(pid) => typescript_broker::error(places, pid),
            None => no_broker(),
        },
        _ => error,
    }
}

fn no_broker() -> Error {
    let text = "no broker is running; start one with slm-mesh start --detach, or use a command that starts one, such as slm-mesh peers";
    Error::new(ErrorKind::Gone, text)
}

/// Reports messages as read, after they have been printed.
fn mark_read(client: &mut Client, params: &Value, answer: &Value) {
    let items = crate::mcp::shown_items(answer);
    if !items.is_empty() && answer["look"] != json!(true) {
        // The report contains the same acting peer as the call that returned the messages.
        let actor = ["as", "shellSession", "shellAgent"].map(|name| (name.to_owned(), params[name].clone()));
        let mut report = Map::from_iter(actor.into_iter().filter(|(_, value)| !value.is_null()));
        report.insert("items".into(), json!(items));
        // If the broker is gone, the messages stay unread, and the next broker offers them again.
        let _ = client.call("inbox.mark_read", &Value::Object(report));
    }
}

/// Finds the data directory and loads the settings.
pub fn load_environment() -> Result<(DataDir, Settings), Error> {
    let places = DataDir::find()?;
    let settings = Settings::load(&places)?;
    Ok((places, settings))
}

/// Returns the parameters of a call: the arguments, the acting peer, and facts about the caller's directory.
///
/// # Errors
/// If a path is relative and the working directory no longer exists.
pub fn call_params(
    row: &CliOperation,
    parsed: &ParsedCommand,
    settings: &Settings,
) -> Result<Map<String, Value>, Error> {
    let mut params = parsed.args.clone();
    for arg in row.op.args.iter().filter(|arg| arg.role == ArgRole::Path) {
        match params.get_mut(arg.name) {
            Some(Value::Array(list)) => {
                for item in list {
                    *item = json!(path_normalization::absolute(item.as_str().unwrap_or(""))?);
                }
            }
            Some(value) => *value = json!(path_normalization::absolute(value.as_str().unwrap_or(""))?),
            None => {}
        }
    }
    params.extend(actor_params(settings));
    if let Some(name) = &parsed.acting {
        params.insert("as".into(), json!(name));
        // A look at another peer's mailbox does not mark the mail as read, unless the user gives `--take`.
        if let Some(arg) = row.op.arg_with_role(ArgRole::MarksAsRead) {
            params.entry(arg.name).or_insert(json!(false));
        }
    }
    if row.excludes_caller {
        params.insert("whoami".into(), json!(true));
    }
    let word = |name: &str| params.get(name).and_then(Value::as_str).unwrap_or("");
    let has_small_scope = !matches!(word("scope"), "" | "machine")
        || matches!(word("to"), "repo" | "directory")
        || params.contains_key("sameProject");
    if row.location == SendLocation::Always || row.location == SendLocation::WithSmallScope && has_small_scope {
        let dir = std::env::current_dir().unwrap_or_default();
        let git = read_git_files::facts(&dir);
        let facts = [("project", Some(dir.display().to_string())), ("repo", git.repo), ("gitRoot", git.root)];
        for (name, fact) in facts.into_iter().filter(|(name, _)| row.op.args.iter().any(|arg| arg.name == *name)) {
            params.insert(name.into(), json!(fact));
        }
    }
    if row.op.arg_with_role(ArgRole::WorkTrees).is_some() {
        read_git_files::name_work_trees(&mut params);
    }
    if let Some(arg) = row.op.arg_with_role(ArgRole::OuterCommands) {
        run_under_lock::add_outer_commands(arg, &mut params);
    }
    if let Some(key) = row.op.idempotency_key().filter(|key| !params.contains_key(key.name)) {
        params.insert(key.name.into(), json!(format!("auto-{:032x}", crate::sys::random_u128())));
    }
    Ok(params)
}

/// Returns the parameters that every call contains: this program's version, and the caller's peer, session or agent, if
/// one is set.
fn actor_params(settings: &Settings) -> Map<String, Value> {
    let named = Some(settings.text("SLM_MESH_PEER")).filter(|name| !name.is_empty());
    let mut params = Map::from_iter([("v".to_owned(), json!(env!("CARGO_PKG_VERSION")))]);
    let session = Some(settings.text(SESSION)).filter(|id| named.is_none() && !id.is_empty());
    params.extend(named.as_ref().map(|name| ("as".to_owned(), json!(name))));
    let agent = std::env::var(recognition_rule_types::AGENT_VARIABLE).ok();
    let agent =
        agent.filter(|_| named.is_none() && session.is_none()).and_then(|name| recognition_rule_types::kind_of(&name));
    params.extend(session.map(|id| ("shellSession".to_owned(), json!(id))));
    params.extend(agent.map(|kind| ("shellAgent".to_owned(), json!(kind))));
    params
}

/// Prints a line. Returns exit status 0, even if the reader has closed the output.
pub fn print_line(line: &str) -> Result<u8, Error> {
    try_print_line(line).map(|_| 0)
}

/// Prints a text. With `json`, prints an object that contains the text under the key `name`.
pub fn print_text(name: &str, text: &str, json: bool) -> Result<u8, Error> {
    if json { print_line(&json!({ "ok": true, name: text }).to_string()) } else { print_line(text) }
}

/// Prints a line. Returns whether the output is still open.
pub fn try_print_line(line: &str) -> Result<bool, Error> {
    let mut out = io::stdout().lock();
    // With `writeln!`, the end of a long line would be a second write.
    match out.write_all([line, "\n"].concat().as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(!crate::sys::is_output_closed()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::new(ErrorKind::Storage, format!("cannot write to standard output ({error})"))),
    }
}

/// Sleeps for this long, but stops when the reader closes the output. Returns whether the output is closed.
pub fn pause_while_read(time: Duration) -> Result<bool, Error> {
    let wait = wait_for_either(None, &io::stdout(), time);
    wait.map(|woken| woken == WaitEnd::OutputClosed)
        .map_err(|error| Error::new(ErrorKind::Internal, format!("cannot wait for the next attempt ({error})")))
}

fn report_error(error: &Error, json: bool) -> u8 {
    // If printing fails, the exit status still reports the error.
    let _ = if json { print_line(&render::json_line(&error.to_value())).map(|_| ()) } else { Ok(()) };
    if !json {
        crate::sys::print_error(&format!("slm-mesh: {}", render::plain(&error.text)));
    }
    error.kind.codes().exit
}

/// Converts a word of the command line to the JSON value of an argument.
pub fn word_value(kind: ArgKind, name: &str, word: String) -> Result<Value, Error> {
    match kind {
        ArgKind::Int { .. } => word
            .parse::<i64>()
            .map(Value::from)
            .map_err(|_| Error::usage(name, format!("expected {}, got \"{word}\"", kind.want()))),
        ArgKind::Object { .. } => serde_json::from_str(&word)
            .map_err(|error| Error::usage(name, format!("expected {}: {error}", kind.want()))),
        _ => Ok(Value::String(word)),
    }
}
