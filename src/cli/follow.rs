//! Verbs that go on: `inbox --follow`, `events --follow`, `state watch`. Each is a row of bounded
//! waits, so that a lost broker costs a moment and no event.
//!
//! **Invariant:** a broker that somebody stopped is not started again by who only looks on.

use super::args::on_command_line;
use super::args::{Command, Parsed};
use super::{acknowledge, params, put, render, surroundings};
use crate::base::error::{Error, ErrorKind};
use crate::client::{self, Client};
use crate::sys::data_dir::Places;
use crate::wire::rpc::{self, Message};
use serde_json::{Map, Value, json};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// One wait of many.
const WAIT_SECONDS: i64 = 300;
/// How long a broker may take to come back.
const GIVES_UP_AFTER: Duration = Duration::from_secs(30);

/// How often a look is taken whether a broker that was stopped is back.
const LOOKS_EVERY: Duration = Duration::from_millis(500);

/// Prints what comes until interrupted, or until nobody reads it.
pub fn follow(parsed: &Parsed) -> Result<u8, Error> {
    let Command::Operation(op) = parsed.command else { return Ok(0) };
    let (places, settings) = surroundings()?;
    let mut ask = params(op, parsed, &settings);
    let mut line = Line::new(places)?;
    if op.name == "events.read" && !ask.contains_key("after") && !ask.contains_key("since") {
        // Where the stream stands now; what is older was not asked for.
        ask.insert("limit".into(), json!(1));
        let value = line.call(op.name, &ask)?;
        ask.insert("after".into(), value["seq"].clone());
        ask.shift_remove("limit");
    }
    ask.insert("waitSeconds".into(), json!(WAIT_SECONDS));
    loop {
        let value = line.call(op.name, &ask).map_err(|error| on_command_line(op, error))?;
        let rows =
            value[if op.name == "inbox" { "messages" } else { "events" }].as_array().cloned().unwrap_or_default();
        for row in rows {
            if !put(&if parsed.json { row.to_string() } else { render::line(op.name, &row) })? {
                return Ok(0);
            }
        }
        if op.name == "inbox" {
            acknowledge(&mut line.client, &Value::Object(ask.clone()), &value);
        } else {
            ask.shift_remove("since");
            ask.insert("after".into(), value["seq"].clone());
        }
        if std::io::stdout().is_terminal() && value["gap"] == json!(true) {
            crate::sys::complain("slm-mesh: older events were removed already");
        }
    }
}

/// Prints an entry and each change of it.
pub fn watch(parsed: &Parsed) -> Result<u8, Error> {
    let (places, _) = surroundings()?;
    let mut line = Line::new(places)?;
    let namespace = parsed.args.get("namespace").cloned().unwrap_or_else(|| json!("default"));
    let key = &parsed.args["key"];
    line.until =
        parsed.args.get("waitSeconds").and_then(Value::as_u64).map(|s| Instant::now() + Duration::from_secs(s));
    let until = line.until;
    let mut cursor = line.call("events.read", &Map::from_iter([("limit".to_owned(), json!(1))]))?["seq"].clone();
    let get = Map::from_iter([("key".to_owned(), key.clone()), ("namespace".to_owned(), namespace.clone())]);
    let entry = line.call("state.get", &get)?["entry"].clone();
    let mut is_read = show_entry(parsed, key, &entry)?;
    while is_read {
        let left = until
            .map_or(WAIT_SECONDS, |until| until.saturating_duration_since(Instant::now()).as_secs_f64().ceil() as i64);
        let ask = json!({ "types": ["state_changed", "state_deleted"], "after": cursor, "waitSeconds": left.clamp(0, WAIT_SECONDS) });
        let value = line.call("events.read", ask.as_object().unwrap_or(&Map::new()))?;
        cursor = value["seq"].clone();
        let rows = value["events"].as_array().cloned().unwrap_or_default();
        let ours = rows.iter().any(|row| row["payload"]["key"] == *key && row["payload"]["namespace"] == namespace);
        if ours {
            let entry = line.call("state.get", &get)?["entry"].clone();
            is_read = show_entry(parsed, key, &entry)?;
            if until.is_some() {
                return Ok(0);
            }
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(Error::new(
                ErrorKind::TimedOut,
                format!("{} did not change in the time given", key.as_str().unwrap_or("")),
            ));
        }
    }
    Ok(0)
}

/// Prints an entry; answers whether somebody may read it.
fn show_entry(parsed: &Parsed, key: &Value, entry: &Value) -> Result<bool, Error> {
    if parsed.json {
        return put(&entry.to_string());
    }
    let key = key.as_str().unwrap_or("");
    match entry["value"].as_str() {
        Some(value) => {
            put(&format!("{} = {}  (version {})", render::plain(key), render::plain(value), entry["version"]))
        }
        None => put(&format!("{} is not set", render::plain(key))),
    }
}

/// A connection that is made again when it breaks.
struct Line {
    places: Places,
    client: Client,
    n_asked: u64,
    /// When to give up waiting for a broker that was stopped; never, if none.
    until: Option<Instant>,
}

impl Line {
    fn new(places: Places) -> Result<Line, Error> {
        let client = Client::connect_or_start(&places)?;
        Ok(Line { places, client, n_asked: 0, until: None })
    }

    fn call(&mut self, method: &str, params: &Map<String, Value>) -> Result<Value, Error> {
        let began = Instant::now();
        let ask = Value::Object(params.clone());
        loop {
            match self.ask(method, &ask) {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => self.await_broker()?,
                Err(error) if error.kind == ErrorKind::Gone && began.elapsed() < GIVES_UP_AFTER => {
                    self.client = Client::connect_or_start(&self.places)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks once; nothing if the broker says that it ends in order.
    fn ask(&mut self, method: &str, ask: &Value) -> Result<Option<Value>, Error> {
        self.n_asked += 1;
        // Marked, since the client numbers the requests of its own.
        let wanted = json!(format!("line-{}", self.n_asked));
        let gone = |error: std::io::Error| Error::new(ErrorKind::Gone, format!("the broker went away ({error})"));
        self.client.send(&rpc::request(&wanted, method, ask)).map_err(gone)?;
        loop {
            match self.client.receive().map_err(gone)? {
                Message::Response { id, result } if id == wanted => {
                    return result.map(Some).map_err(|error| rpc::read_error(&error));
                }
                Message::Notice { method, .. } if method == "shutdown" => return Ok(None),
                _ => {}
            }
        }
    }

    /// Waits until somebody who needs a broker has started the next one.
    fn await_broker(&mut self) -> Result<(), Error> {
        crate::sys::complain("slm-mesh: the broker was stopped; this goes on when the next one is there");
        while self.until.is_none_or(|until| Instant::now() < until) {
            match Client::connect(&self.places) {
                Ok(client) => {
                    self.client = client;
                    return Ok(());
                }
                Err(error) if client::is_absent(&error) => std::thread::sleep(LOOKS_EVERY),
                Err(error) => {
                    return Err(Error::new(ErrorKind::Gone, format!("the broker can't be reached ({error})")));
                }
            }
        }
        Err(Error::new(ErrorKind::TimedOut, "the broker was stopped, and none came back in the time given"))
    }
}
