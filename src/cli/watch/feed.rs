//! The connection behind the view: every event once and in order, and answers to what was asked,
//! over any number of broken connections.
//!
//! **Invariant:** a broker that somebody stopped is not started again by who only looks on.

use crate::base::error::{Error, ErrorKind};
use crate::client::{self, Client};
use crate::sys::data_dir::Places;
use crate::wire::rpc::{self, Message};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Events in one answer while catching up.
const PAGE: i64 = 200;

/// What was asked, so that its answer finds its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Who is here.
    Peers,
    /// Who is known, here or away: for their names.
    Names,
    /// The locks in force.
    Locks,
    /// How whom this acts as stands: its unread mail.
    Me,
    /// Mail to whom this acts as.
    Mine,
    /// Mail that it sent.
    Sent,
    /// A message to be sent to this peer.
    Send(String),
    /// A lock to be given back.
    Release(String),
    /// Something whose answer says nothing.
    Nothing,
}

/// What came.
#[derive(Debug)]
pub enum Heard {
    /// An event.
    Event(Value),
    /// An answer.
    Answer(Asked, Result<Value, Error>),
    /// The connection broke; why, in a sentence.
    Lost(String),
}

/// A question that is open: a list comes page by page, and is handed on whole.
#[derive(Debug)]
struct Open {
    asked: Asked,
    method: String,
    params: Value,
    /// What came on earlier pages, under its name.
    rows: Vec<Value>,
}

/// The lists that come in pages.
const LISTS: [&str; 2] = ["peers", "locks"];

/// The connection.
#[derive(Debug)]
pub struct Feed {
    places: Places,
    /// What goes with each call: who asks.
    common: Map<String, Value>,
    client: Option<Client>,
    /// The last event that was handed on; none before the first.
    cursor: Option<i64>,
    /// How many old events a first connection brings.
    n_old: i64,
    n_asked: u64,
    open: HashMap<String, Open>,
    heard: Vec<Heard>,
    was_stopped: bool,
}

impl Feed {
    /// Connects, and starts the broker if there is none.
    ///
    /// # Errors
    /// When none can be reached or started.
    pub fn new(places: Places, common: Map<String, Value>, n_old: i64) -> Result<Feed, Error> {
        let client = Client::connect_or_start(&places)?;
        let mut feed = Feed {
            places,
            common,
            client: None,
            cursor: None,
            n_old,
            n_asked: 0,
            open: HashMap::new(),
            heard: Vec::new(),
            was_stopped: false,
        };
        feed.begin(client)?;
        Ok(feed)
    }

    /// The live connection.
    pub fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// Asks now and waits for the answer; what else comes is kept.
    ///
    /// # Errors
    /// The broker's error, or `Gone`.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, Error> {
        let lost = || Error::new(ErrorKind::Gone, "the broker went away; try again");
        let mut client = self.client.take().ok_or_else(lost)?;
        let mut pushed = Vec::new();
        let value = self.call_over(&mut client, method, params, &mut pushed);
        pushed.into_iter().for_each(|row| self.event(row));
        self.client = Some(client);
        value
    }

    /// Asks; the answer comes as [`Heard::Answer`].
    pub fn ask(&mut self, asked: Asked, method: &str, params: Value) {
        self.put(Open { asked, method: method.to_owned(), params, rows: Vec::new() });
    }

    fn put(&mut self, open: Open) {
        self.n_asked += 1;
        let id = format!("watch-{}", self.n_asked);
        let line = rpc::request(&json!(id), &open.method, &self.full(open.params.clone()));
        self.open.insert(id, open);
        let sent = self.client.as_mut().map(|client| client.send(&line));
        match sent {
            Some(Ok(())) => {}
            Some(Err(error)) => self.lose(&error.to_string()),
            None => self.lose("there is none"),
        }
    }

    /// Whether an answer of this sort is still to come.
    pub fn awaits(&self, asked: &Asked) -> bool {
        self.open.values().any(|open| open.asked == *asked)
    }

    /// All that came since the last time. With `wait` it waits until there is something.
    pub fn hear(&mut self, wait: bool) -> Vec<Heard> {
        let mut waits = wait && self.heard.is_empty();
        while let Some(client) = &mut self.client {
            let found = if waits { client.receive().map(Some) } else { client.receive_now() };
            match found {
                Ok(Some(message)) => self.take(message),
                Ok(None) => break,
                Err(error) => self.lose(&error.to_string()),
            }
            waits &= self.heard.is_empty();
        }
        std::mem::take(&mut self.heard)
    }

    /// Tries once to connect again; whether it did.
    pub fn retry(&mut self) -> bool {
        let found = match self.was_stopped {
            true => Client::connect(&self.places).map_err(|error| match client::is_absent(&error) {
                true => None,
                false => Some(error.to_string()),
            }),
            // It crashed: whoever comes first starts the next, but a failure is not tried over and over.
            false => Client::connect_or_start(&self.places).map_err(|error| Some(error.text)),
        };
        self.was_stopped = true;
        match found {
            Ok(client) => match self.begin(client) {
                Ok(()) => self.was_stopped = false,
                Err(error) => self.heard.push(Heard::Lost(error.text)),
            },
            Err(Some(why)) => self.heard.push(Heard::Lost(why)),
            Err(None) => {}
        }
        self.client.is_some()
    }

    /// Subscribes, and reads what was missed.
    fn begin(&mut self, mut client: Client) -> Result<(), Error> {
        // Pushes that come while the older events are read belong behind them.
        let mut pushed = Vec::new();
        let all = json!({ "types": ["*"] });
        let stands = self.call_over(&mut client, "events.subscribe", all, &mut pushed)?["seq"].as_i64();
        if self.cursor.is_some_and(|cursor| stands.is_some_and(|stands| cursor > stands)) {
            // Another store: its numbers begin anew.
            self.cursor = None;
        }
        if self.cursor.is_none() && self.n_old == 0 {
            self.cursor = stands;
        }
        let mut rows = Vec::new();
        loop {
            let ask = match self.cursor {
                Some(cursor) => json!({ "after": cursor, "limit": PAGE }),
                None => json!({ "limit": self.n_old }),
            };
            let is_first = self.cursor.is_none();
            let page = self.call_over(&mut client, "events.read", ask, &mut pushed)?;
            self.cursor = page["seq"].as_i64();
            rows.extend(page["events"].as_array().cloned().unwrap_or_default());
            if is_first || page["more"] != json!(true) {
                break;
            }
        }
        self.heard.extend(rows.into_iter().map(Heard::Event));
        pushed.into_iter().for_each(|row| self.event(row));
        self.client = Some(client);
        Ok(())
    }

    fn call_over(
        &mut self,
        client: &mut Client,
        method: &str,
        params: Value,
        pushed: &mut Vec<Value>,
    ) -> Result<Value, Error> {
        self.n_asked += 1;
        let wanted = json!(format!("watch-{}", self.n_asked));
        let gone = |error: std::io::Error| Error::new(ErrorKind::Gone, format!("the broker went away ({error})"));
        client.send(&rpc::request(&wanted, method, &self.full(params))).map_err(gone)?;
        loop {
            match client.receive().map_err(gone)? {
                Message::Response { id, result } if id == wanted => {
                    return result.map_err(|error| rpc::read_error(&error));
                }
                // Sorted in by its number once it is known what came before it.
                Message::Notice { method, params } if method == "event" => pushed.push(Value::Object(params)),
                _ => {}
            }
        }
    }

    fn full(&self, params: Value) -> Value {
        let mut all = self.common.clone();
        all.extend(params.as_object().cloned().unwrap_or_default());
        Value::Object(all)
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Notice { method, params } if method == "event" => self.event(Value::Object(params)),
            Message::Notice { method, .. } if method == "shutdown" => {
                self.was_stopped = true;
                self.lose("it was stopped");
            }
            Message::Response { id, result } => {
                let open = id.as_str().and_then(|id| self.open.remove(id));
                let result = result.map_err(|error| rpc::read_error(&error));
                if let Some(open) = open {
                    self.answered(open, result);
                }
            }
            _ => {}
        }
    }

    /// Asks for the next page, or hands the answer on with the rows of all pages.
    fn answered(&mut self, mut open: Open, result: Result<Value, Error>) {
        let result = result.map(|mut value| {
            let list = LISTS.into_iter().find(|list| value[*list].is_array());
            if let Some(list) = list {
                open.rows.extend(value[list].as_array().cloned().unwrap_or_default());
                value[list] = json!(open.rows);
            }
            value
        });
        match result {
            Ok(value) if !open.rows.is_empty() && value["next"].is_string() => {
                open.params["after"] = value["next"].clone();
                self.put(open);
            }
            result => self.heard.push(Heard::Answer(open.asked, result)),
        }
    }

    /// Hands an event on, unless it was already.
    fn event(&mut self, row: Value) {
        let seq = row["seq"].as_i64();
        if seq > self.cursor {
            self.cursor = seq;
            self.heard.push(Heard::Event(row));
        }
    }

    fn lose(&mut self, why: &str) {
        self.client = None;
        let gone =
            || Err(Error::new(ErrorKind::Gone, "the broker went away before it answered; look whether it was done"));
        self.heard.extend(self.open.drain().map(|(_, open)| Heard::Answer(open.asked, gone())));
        self.heard.push(Heard::Lost(why.to_owned()));
    }
}
