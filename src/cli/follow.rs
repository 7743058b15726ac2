//! The verbs that keep running: `inbox --follow`, `log --follow`, `events --follow` and `state watch`. Each verb makes
//! one call after another, and each call waits for a limited time. If the broker crashes, the verb repeats the call, so
//! no event is lost.
//!
//! **Invariant:** these verbs never restart a broker that was stopped on purpose.

use super::args::ParsedCommand;
use super::message_pages::{self, SearchedList};
use super::retry_on_lost_connection::RetryLimit;
use super::usage_errors::on_command_line;
use super::verb_behavior_table::{CliOperation, render_row};
use super::{call_params, load_environment, mark_read, pause_while_read, render, try_print_line};
use crate::base::error::{Error, ErrorKind};
use crate::client::{self, Client};
use crate::core::Op;
use crate::core::op_behavior::RowStream;
use crate::sys::data_dir::DataDir;
use crate::wire::rpc::{self, RpcMessage};
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::time::{Duration, Instant};

/// The maximum time for which one call waits, in seconds.
const WAIT_SECONDS: i64 = 300;
/// Maximum time for attempts to reconnect after the broker has crashed.
const RETRY_TIME: Duration = Duration::from_secs(30);
/// The time between two checks of whether a stopped broker is running again.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Why a command such as `events --follow` ends.
enum End {
    /// Nobody reads the output any more.
    OutputClosed,
    /// A watched entry has changed, and the verb waits for only one change.
    Changed,
    /// An error.
    Failed(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> End {
        End::Failed(error)
    }
}

impl End {
    fn into_status(self) -> Result<u8, Error> {
        match self {
            End::OutputClosed | End::Changed => Ok(0),
            End::Failed(error) => Err(error),
        }
    }

    /// Changes an error so that it contains the argument in the form that users type.
    fn on_command_line(self, op: &Op) -> End {
        match self {
            End::Failed(error) => End::Failed(on_command_line(op, error)),
            other => other,
        }
    }
}

/// Prints rows as they arrive, until the user interrupts the program or the reader closes the output.
pub fn follow(row: &CliOperation, stream: RowStream, parsed: &ParsedCommand) -> Result<u8, Error> {
    let Err(end) = print_as_they_arrive(row, stream, parsed);
    end.into_status()
}

fn print_as_they_arrive(row: &CliOperation, stream: RowStream, parsed: &ParsedCommand) -> Result<Infallible, End> {
    let op = row.op;
    if parsed.args.contains_key("waitSeconds") {
        let text =
            "--follow waits until it is interrupted, so it can't be used together with --wait; leave out one of them";
        return Err(Error::usage("--wait", text).into());
    }
    let (places, settings) = load_environment()?;
    let mut params = call_params(row, parsed, &settings)?;
    if stream == RowStream::Messages {
        check_followable(&params)?;
    }
    let mut client = ReconnectingClient::new(places)?;
    if stream == RowStream::Events && !params.contains_key("after") && !params.contains_key("since") {
        params.insert("after".into(), client.call("events.cursor", &Map::new())?["seq"].clone());
    }
    if stream == RowStream::Log && !params.contains_key("after") {
        let call = |params: &Map<String, Value>| client.call(op.name, params);
        let answer = message_pages::collect(SearchedList::Log, &params, call).map_err(|end| end.on_command_line(op))?;
        print_rows(stream, &answer, parsed)?;
        params.insert("after".into(), answer["next"].clone());
        for name in ["before", "limit", "since"] {
            params.shift_remove(name);
        }
    }
    params.insert("waitSeconds".into(), json!(WAIT_SECONDS));
    loop {
        let answer = client.call(op.name, &params).map_err(|end| end.on_command_line(op))?;
        // This warning is printed even with --json, because the rows do not show that events are missing.
        if answer["gap"] == json!(true) {
            crate::sys::print_error("slm-mesh: some events are missing here, because they have already been deleted");
        }
        print_rows(stream, &answer, parsed)?;
        match stream {
            RowStream::Messages => {
                if answer["look"] != json!(true) {
                    mark_read(&mut client.client, &Value::Object(params.clone()), &answer);
                }
                // If the messages stay in the list after they have been shown, the answer contains `next`. The next
                // call then starts after these messages.
                if let Some(next) = answer.get("next") {
                    params.insert("after".into(), next.clone());
                }
            }
            RowStream::Log => drop(params.insert("after".into(), answer["next"].clone())),
            RowStream::Events => {
                params.shift_remove("since");
                params.insert("after".into(), answer["seq"].clone());
            }
        }
    }
}

/// Refuses lists that can't be followed: a search, sent messages, and all messages of a channel. The broker does not
/// wait for new messages in these lists.
fn check_followable(params: &Map<String, Value>) -> Result<(), Error> {
    let word = |name: &str| params.get(name).and_then(Value::as_str).unwrap_or("");
    if !word("search").is_empty() {
        let text = "--follow does not work with a search of the inbox; use slm-mesh log --search … --follow";
        return Err(Error::usage("--search", text));
    }
    if word("filter") == "sent" {
        let text = "--follow does not work with the list of sent messages; use slm-mesh log --follow";
        return Err(Error::usage("--filter", text));
    }
    let channel = word("from");
    if channel.starts_with('#') && !matches!(word("filter"), "" | "unread") {
        let text = format!(
            "--follow shows only unread messages of {channel}; to follow all of them, use slm-mesh log --with \
             '{channel}' --follow"
        );
        return Err(Error::usage("--filter", text));
    }
    Ok(())
}

/// Prints the rows of an answer.
fn print_rows(stream: RowStream, answer: &Value, parsed: &ParsedCommand) -> Result<(), End> {
    for row in stream.rows(answer) {
        print(&if parsed.json { render::json_line(row) } else { render_row(stream, row) })?;
    }
    Ok(())
}

fn print(line: &str) -> Result<(), End> {
    if try_print_line(line)? { Ok(()) } else { Err(End::OutputClosed) }
}

/// Prints an entry of the shared state, and then every change to the entry.
pub fn watch_state(parsed: &ParsedCommand) -> Result<u8, Error> {
    let Err(end) = print_changes(parsed);
    end.into_status()
}

fn print_changes(parsed: &ParsedCommand) -> Result<Infallible, End> {
    let (places, _) = load_environment()?;
    let mut client = ReconnectingClient::new(places)?;
    let namespace = parsed.args.get("namespace").cloned().unwrap_or_else(|| json!("default"));
    let key = &parsed.args["key"];
    client.deadline =
        parsed.args.get("waitSeconds").and_then(Value::as_u64).map(|s| Instant::now() + Duration::from_secs(s));
    let deadline = client.deadline;
    let mut cursor = client.call("events.cursor", &Map::new())?["seq"].clone();
    let get = Map::from_iter([("key".to_owned(), key.clone()), ("namespace".to_owned(), namespace.clone())]);
    let mut shown = client.call("state.get", &get)?["entry"].clone();
    print_entry(parsed, key, &shown)?;
    let mut is_new_connection = false;
    loop {
        let seconds = deadline.map_or(WAIT_SECONDS, |deadline| {
            deadline.saturating_duration_since(Instant::now()).as_secs_f64().ceil() as i64
        });
        let seconds = if is_new_connection { 0 } else { seconds.clamp(0, WAIT_SECONDS) };
        let types = ["state_changed", "state_deleted"];
        let params = json!({ "types": types, "after": cursor, "waitSeconds": seconds });
        let Some(answer) = client.call_or_reconnect("events.read", &params)? else {
            is_new_connection = true;
            continue;
        };
        cursor = answer["seq"].clone();
        let is_ours = |row: &&Value| row["payload"]["key"] == *key && row["payload"]["namespace"] == namespace;
        let rows = RowStream::Events.rows(&answer).iter().filter(is_ours);
        // A new connection may lead to a different database, such as a restored backup. The entry there may be
        // different, although no event has reported a change.
        let is_gap = std::mem::take(&mut is_new_connection) || answer["gap"] == json!(true);
        let get_current = || client.call("state.get", &get).map(|got| got["entry"].clone());
        for entry in changed_entries(rows, is_gap, &shown, get_current)? {
            print_entry(parsed, key, &entry)?;
            if deadline.is_some() {
                return Err(End::Changed);
            }
            shown = entry;
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let key = key.as_str().unwrap_or("");
            return Err(Error::new(ErrorKind::TimedOut, format!("{key} did not change in time")).into());
        }
    }
}

/// Returns the states of an entry after the state `shown`, oldest first. The states come from the events about the
/// entry. If some events were deleted before they were read, the list ends with the current state.
fn changed_entries<'a>(
    rows: impl Iterator<Item = &'a Value>,
    is_gap: bool,
    shown: &Value,
    get_current: impl FnOnce() -> Result<Value, End>,
) -> Result<Vec<Value>, End> {
    let version = |entry: &Value| entry["version"].as_i64().unwrap_or(0);
    // In a different database, such as a restored backup, the entry may have lower version numbers. So a change also
    // counts as newer if it was made later than the shown state.
    let shown_at = shown["updatedAt"].as_str();
    let is_newer = |row: &&Value| version(&row["payload"]) > version(shown) || row["createdAt"].as_str() > shown_at;
    let rows: Vec<&Value> = rows.filter(is_newer).collect();
    if rows.is_empty() && !is_gap {
        return Ok(Vec::new());
    }
    // Events contain neither long values nor the time at which an entry expires, so the current entry is fetched.
    let current = get_current()?;
    let entry_of = |row: &&Value| {
        let payload = &row["payload"];
        if row["type"] == json!("state_deleted") {
            return Value::Null;
        }
        if version(payload) == version(&current) {
            return current.clone();
        }
        json!({
            "key": payload["key"], "namespace": payload["namespace"], "value": payload["value"],
            "updatedBy": row["emittedBy"], "updatedAt": row["createdAt"], "version": payload["version"],
            "updatedByName": row["emittedByName"],
        })
    };
    let mut entries: Vec<Value> = rows.iter().map(entry_of).collect();
    let last = entries.last().unwrap_or(shown);
    if is_gap && (version(last), &last["value"]) != (version(&current), &current["value"]) {
        entries.push(current);
    }
    Ok(entries)
}

/// Prints an entry.
fn print_entry(parsed: &ParsedCommand, key: &Value, entry: &Value) -> Result<(), End> {
    if parsed.json {
        return print(&render::json_line(entry));
    }
    let key = render::plain(key.as_str().unwrap_or(""));
    match entry["value"].as_str() {
        Some(value) => print(&format!("{key} = {}  (version {})", render::plain(value), entry["version"])),
        None if entry.is_null() => print(&format!("{key} is not set")),
        // The entry was changed again, or deleted, before its long value could be fetched.
        None => {
            print(&format!("{key} had version {}, but the value of that version is already gone", entry["version"]))
        }
    }
}

/// A connection to the broker. When the connection breaks, a new connection replaces it.
struct ReconnectingClient {
    places: DataDir,
    client: Client,
    retry_limit: RetryLimit,
    n_requests: u64,
    /// If the broker is stopped, the verb waits until this time for the next broker; `None` if there is no limit.
    deadline: Option<Instant>,
}

impl ReconnectingClient {
    fn new(places: DataDir) -> Result<ReconnectingClient, Error> {
        let client = Client::connect_or_start(&places)?;
        let retry_limit = RetryLimit::new(RETRY_TIME);
        Ok(ReconnectingClient { places, client, retry_limit, n_requests: 0, deadline: None })
    }

    /// Calls a method, and repeats the call each time the connection is lost.
    fn call(&mut self, method: &str, params: &Map<String, Value>) -> Result<Value, End> {
        let params = Value::Object(params.clone());
        loop {
            if let Some(answer) = self.call_or_reconnect(method, &params)? {
                return Ok(answer);
            }
        }
    }

    /// Calls a method once. Returns `None` if the connection was lost and has been replaced.
    fn call_or_reconnect(&mut self, method: &str, params: &Value) -> Result<Option<Value>, End> {
        match self.try_call(method, params) {
            Ok(Some(answer)) => return Ok(Some(answer)),
            Ok(None) => self.await_broker()?,
            Err(End::Failed(error)) if client::is_connection_lost(&error) => {
                self.client = self.retry_limit.reconnect(error, || Client::connect_or_start(&self.places))?;
            }
            Err(end) => return Err(end),
        }
        Ok(None)
    }

    /// Calls a method once. Returns `None` if the broker is shutting down.
    fn try_call(&mut self, method: &str, params: &Value) -> Result<Option<Value>, End> {
        self.n_requests += 1;
        // The id is a string, because the client uses numbers for its own requests.
        let request_id = json!(format!("line-{}", self.n_requests));
        let gone = |error: std::io::Error| {
            Error::new(ErrorKind::Gone, format!("the connection to the broker was lost ({error})"))
        };
        self.client.send(&rpc::request(&request_id, method, params)).map_err(gone)?;
        let output = std::io::stdout();
        loop {
            match self.client.receive_while_read(&output)?.ok_or(End::OutputClosed)? {
                RpcMessage::Response { id, result } if id == request_id => {
                    return result.map(Some).map_err(|error| rpc::decode_error(&error).into());
                }
                RpcMessage::Notification { method, .. } if method == "shutdown" => return Ok(None),
                _ => {}
            }
        }
    }

    /// Waits until another program has started a broker.
    fn await_broker(&mut self) -> Result<(), End> {
        crate::sys::print_error("slm-mesh: the broker was stopped; waiting until it is started again");
        while self.deadline.is_none_or(|deadline| Instant::now() < deadline) {
            match Client::connect_to_running(&self.places) {
                Ok(client) => {
                    self.client = client;
                    return Ok(());
                }
                // No broker is running here, or no hub can be reached, or no hub leads.
                Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Gone | ErrorKind::Standby) => {
                    if pause_while_read(CHECK_INTERVAL)? {
                        return Err(End::OutputClosed);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::new(ErrorKind::TimedOut, "the broker was stopped, and was not started again in time").into())
    }
}
