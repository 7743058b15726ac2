//! Verbs that go on: `inbox --follow`, `events --follow`, `state watch`. Each is a row of bounded
//! waits, so that a lost broker costs a moment and no event.

use super::args::{Command, Parsed};
use super::{acknowledge, params, print, say, surroundings};
use crate::client::Client;
use crate::mesh::{Fault, Kind};
use crate::world::places::Places;
use serde_json::{Map, Value, json};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// One wait of many.
const WAIT_SECONDS: i64 = 300;
/// How long a broker may take to come back.
const GIVES_UP_AFTER: Duration = Duration::from_secs(30);

/// Prints what comes until interrupted.
pub fn follow(parsed: &Parsed) -> Result<u8, Fault> {
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
        let value = line.call(op.name, &ask)?;
        let rows =
            value[if op.name == "inbox" { "messages" } else { "events" }].as_array().cloned().unwrap_or_default();
        for row in rows {
            say(&if parsed.json { row.to_string() } else { print::line(op.name, &row) })?;
        }
        if op.name == "inbox" {
            acknowledge(&mut line.client, &Value::Object(ask.clone()), &value);
        } else {
            ask.shift_remove("since");
            ask.insert("after".into(), value["seq"].clone());
        }
        if std::io::stdout().is_terminal() && value["gap"] == json!(true) {
            crate::world::complain("slm-mesh: older events were removed already");
        }
    }
}

/// Prints an entry and each change of it.
pub fn watch(parsed: &Parsed) -> Result<u8, Fault> {
    let (places, _) = surroundings()?;
    let mut line = Line::new(places)?;
    let namespace = parsed.args.get("namespace").cloned().unwrap_or_else(|| json!("default"));
    let key = &parsed.args["key"];
    let until = parsed.args.get("waitSeconds").and_then(Value::as_u64).map(|s| Instant::now() + Duration::from_secs(s));
    let mut cursor = line.call("events.read", &Map::from_iter([("limit".to_owned(), json!(1))]))?["seq"].clone();
    let get = Map::from_iter([("key".to_owned(), key.clone()), ("namespace".to_owned(), namespace.clone())]);
    let entry = line.call("state.get", &get)?["entry"].clone();
    show_entry(parsed, key, &entry)?;
    loop {
        let left = until
            .map_or(WAIT_SECONDS, |until| until.saturating_duration_since(Instant::now()).as_secs_f64().ceil() as i64);
        let ask = json!({ "types": ["state_changed", "state_deleted"], "after": cursor, "waitSeconds": left.clamp(0, WAIT_SECONDS) });
        let value = line.call("events.read", ask.as_object().unwrap_or(&Map::new()))?;
        cursor = value["seq"].clone();
        let rows = value["events"].as_array().cloned().unwrap_or_default();
        let ours = rows.iter().any(|row| row["payload"]["key"] == *key && row["payload"]["namespace"] == namespace);
        if ours {
            let entry = line.call("state.get", &get)?["entry"].clone();
            show_entry(parsed, key, &entry)?;
            if until.is_some() {
                return Ok(0);
            }
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(Fault::new(
                Kind::TimedOut,
                format!("{} did not change in the time given", key.as_str().unwrap_or("")),
            ));
        }
    }
}

fn show_entry(parsed: &Parsed, key: &Value, entry: &Value) -> Result<u8, Fault> {
    if parsed.json {
        return say(&entry.to_string());
    }
    let key = key.as_str().unwrap_or("");
    match entry["value"].as_str() {
        Some(value) => say(&format!("{} = {}  (version {})", print::plain(key), print::plain(value), entry["version"])),
        None => say(&format!("{} is not set", print::plain(key))),
    }
}

/// A connection that is made again when it breaks.
struct Line {
    places: Places,
    client: Client,
}

impl Line {
    fn new(places: Places) -> Result<Line, Fault> {
        let client = Client::connect_or_start(&places)?;
        Ok(Line { places, client })
    }

    fn call(&mut self, method: &str, params: &Map<String, Value>) -> Result<Value, Fault> {
        let began = Instant::now();
        let ask = Value::Object(params.clone());
        loop {
            match self.client.call(method, &ask) {
                Err(fault) if fault.kind == Kind::Gone && began.elapsed() < GIVES_UP_AFTER => {
                    self.client = Client::connect_or_start(&self.places)?;
                }
                result => return result,
            }
        }
    }
}
