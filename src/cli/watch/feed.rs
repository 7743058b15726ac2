//! The connection of the live view to the broker. Delivers every event exactly once and in order, even if the
//! connection breaks. Delivers an answer or an error for every request.
//!
//! **Invariant:** the view never restarts a broker that was stopped on purpose.

use crate::base::error::{Error, ErrorKind};
use crate::client::{self, Arrival, Client};
use crate::sys::data_dir::DataDir;
use crate::wire::rpc::{self, RpcMessage};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::Duration;

/// Maximum number of events per answer while the view catches up.
const PAGE: i64 = 200;
/// Maximum length of one wait for an update. If no update arrives by then, another wait begins.
const LONG_WAIT: Duration = Duration::from_secs(3600);

/// The purpose of a request. The purpose decides where the answer is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchRequest {
    /// The peers that are online.
    Peers,
    /// All peers, online or offline, so that the view can show their names.
    Names,
    /// The hubs that share the mesh.
    Hubs,
    /// The active locks.
    Locks,
    /// The user's own peer, with the number of the user's unread messages.
    Me,
    /// Messages sent to the user.
    Mine,
    /// Messages that the user sent.
    Sent,
    /// Recent messages between all peers.
    Log,
    /// The messages of the conversation that the view shows. The value is the id of the conversation.
    Conversation(String),
    /// Messages that contain these words. The list contains the messages that earlier pages of the search returned,
    /// newest first.
    Search(String, Vec<Value>),
    /// The unread messages of the peer with this id. The view shows them together with the rest of the mailbox.
    Unread(String),
    /// The latest messages of the peer with this name. The value is the answer to the earlier `Unread` request.
    Mailbox(String, Value),
    /// Send a message to this peer.
    Send(String),
    /// Release the lock on this path.
    Release(String),
    /// A request whose answer is ignored.
    Nothing,
}

/// What the connection delivers: an event, an answer, or the reason why the connection broke.
#[derive(Debug)]
pub enum FeedUpdate {
    /// An event.
    Event(Value),
    /// An answer.
    Answer(WatchRequest, Result<Value, Error>),
    /// The connection broke, for this reason.
    Lost(String),
}

/// A request that has not been answered yet. A long list arrives in several pages and is delivered as a whole.
#[derive(Debug)]
struct OpenRequest {
    asked: WatchRequest,
    method: String,
    params: Value,
    /// The rows of the pages that have arrived so far.
    rows: Vec<Value>,
}

/// The lists that the broker returns in pages.
const LISTS: [&str; 2] = ["peers", "locks"];

/// The connection, and the requests that have not been answered yet.
#[derive(Debug)]
pub struct Feed {
    places: DataDir,
    /// The parameters that every request has.
    common: Map<String, Value>,
    client: Option<Client>,
    /// The sequence number of the last event that was delivered; `None` before the first event.
    cursor: Option<i64>,
    /// How many past events the first connection loads.
    n_old: i64,
    n_asked: u64,
    open: HashMap<String, OpenRequest>,
    updates: Vec<FeedUpdate>,
    was_stopped: bool,
}

impl Feed {
    /// Connects, and starts a broker if none is running.
    ///
    /// # Errors
    /// If no broker can be reached or started.
    pub fn new(places: DataDir, common: Map<String, Value>, n_old: i64) -> Result<Feed, Error> {
        let client = Client::connect_or_start(&places)?;
        let mut feed = Feed {
            places,
            common,
            client: None,
            cursor: None,
            n_old,
            n_asked: 0,
            open: HashMap::new(),
            updates: Vec::new(),
            was_stopped: false,
        };
        feed.subscribe_and_catch_up(client)?;
        Ok(feed)
    }

    /// The client; `None` while there is no connection.
    pub fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// Sends a request and waits for its answer. Anything else that arrives during the wait is kept for later.
    ///
    /// # Errors
    /// The broker's error, or `Gone` if the connection is lost.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, Error> {
        let lost = || Error::new(ErrorKind::Gone, "the connection to the broker was lost; try again");
        let mut client = self.client.take().ok_or_else(lost)?;
        let mut pushed = Vec::new();
        let value = self.call_on(&mut client, method, params, &mut pushed);
        pushed.into_iter().for_each(|row| self.handle_event(row));
        self.client = Some(client);
        value
    }

    /// Sends a request. The answer arrives later, as [`FeedUpdate::Answer`].
    pub fn request(&mut self, asked: WatchRequest, method: &str, params: Value) {
        self.send(OpenRequest { asked, method: method.to_owned(), params, rows: Vec::new() });
    }

    fn send(&mut self, open: OpenRequest) {
        self.n_asked += 1;
        let id = format!("watch-{}", self.n_asked);
        let line = rpc::request(&json!(id), &open.method, &self.with_common(open.params.clone()));
        self.open.insert(id, open);
        let sent = self.client.as_mut().map(|client| client.send(&line));
        match sent {
            Some(Ok(())) => {}
            Some(Err(error)) => self.disconnect(&error.to_string()),
            None => self.disconnect("not running"),
        }
    }

    /// Whether a request of this kind is still waiting for its answer.
    pub fn is_waiting_for(&self, asked: &WatchRequest) -> bool {
        self.open.values().any(|open| open.asked == *asked)
    }

    /// Returns everything that has arrived since the last call.
    pub fn poll(&mut self) -> Vec<FeedUpdate> {
        while let Some(client) = &mut self.client {
            match client.try_receive() {
                Ok(Some(message)) => self.handle_message(message),
                Ok(None) => break,
                Err(error) => self.disconnect(&error.to_string()),
            }
        }
        std::mem::take(&mut self.updates)
    }

    /// Waits until an update arrives or the connection is lost. Returns false as soon as the reader closes the output.
    pub fn wait_while_read(&mut self, output: &impl AsFd) -> bool {
        while let (true, Some(client)) = (self.updates.is_empty(), &mut self.client) {
            match client.await_arrival(output, LONG_WAIT) {
                Ok(Arrival::Message(message)) => self.handle_message(message),
                Ok(Arrival::Nothing) => {}
                Ok(Arrival::OutputClosed) => return false,
                Err(error) => self.disconnect(&error.to_string()),
            }
        }
        true
    }

    /// Makes one attempt to reconnect. Returns whether the view is connected.
    pub fn reconnect(&mut self) -> bool {
        let found = match self.was_stopped {
            true => Client::connect(&self.places).map_err(|error| match client::is_absent(&error) {
                true => None,
                false => Some(error.to_string()),
            }),
            // The broker crashed, so this starts a new broker. Only one start is attempted, because a second attempt
            // would fail too.
            false => Client::connect_or_start(&self.places).map_err(|error| Some(error.text)),
        };
        self.was_stopped = true;
        match found {
            Ok(client) => match self.subscribe_and_catch_up(client) {
                Ok(()) => self.was_stopped = false,
                Err(error) => self.updates.push(FeedUpdate::Lost(error.text)),
            },
            Err(Some(why)) => self.updates.push(FeedUpdate::Lost(why)),
            Err(None) => {}
        }
        self.client.is_some()
    }

    /// Subscribes to events, and reads the events that were missed.
    fn subscribe_and_catch_up(&mut self, mut client: Client) -> Result<(), Error> {
        // Events that are pushed during the catch-up are delivered after the older events.
        let mut pushed = Vec::new();
        let all = json!({ "types": ["*"] });
        let stands = self.call_on(&mut client, "events.subscribe", all, &mut pushed)?["seq"].as_i64();
        if self.cursor.is_some_and(|cursor| stands.is_some_and(|stands| cursor > stands)) {
            // The broker has a different database, with different sequence numbers, so the old cursor is useless.
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
            let page = self.call_on(&mut client, "events.read", ask, &mut pushed)?;
            self.cursor = page["seq"].as_i64();
            rows.extend(page["events"].as_array().cloned().unwrap_or_default());
            if is_first || page["more"] != json!(true) {
                break;
            }
        }
        self.updates.extend(rows.into_iter().map(FeedUpdate::Event));
        pushed.into_iter().for_each(|row| self.handle_event(row));
        self.client = Some(client);
        Ok(())
    }

    fn call_on(
        &mut self,
        client: &mut Client,
        method: &str,
        params: Value,
        pushed: &mut Vec<Value>,
    ) -> Result<Value, Error> {
        self.n_asked += 1;
        let wanted = json!(format!("watch-{}", self.n_asked));
        let gone = |error: std::io::Error| {
            Error::new(ErrorKind::Gone, format!("the connection to the broker was lost ({error})"))
        };
        client.send(&rpc::request(&wanted, method, &self.with_common(params))).map_err(gone)?;
        loop {
            match client.receive_from_living()? {
                RpcMessage::Response { id, result } if id == wanted => {
                    return result.map_err(|error| rpc::decode_error(&error));
                }
                // Events that arrive during the catch-up are newer, so they are delivered after the missed events.
                RpcMessage::Notification { method, params } if method == "event" => pushed.push(Value::Object(params)),
                _ => {}
            }
        }
    }

    fn with_common(&self, params: Value) -> Value {
        let mut all = self.common.clone();
        all.extend(params.as_object().cloned().unwrap_or_default());
        Value::Object(all)
    }

    fn handle_message(&mut self, message: RpcMessage) {
        match message {
            RpcMessage::Notification { method, params } if method == "event" => {
                self.handle_event(Value::Object(params))
            }
            RpcMessage::Notification { method, .. } if method == "shutdown" => {
                self.was_stopped = true;
                self.disconnect("stopped");
            }
            RpcMessage::Response { id, result } => {
                let open = id.as_str().and_then(|id| self.open.remove(id));
                let result = result.map_err(|error| rpc::decode_error(&error));
                let stands_by = result.as_ref().is_err_and(|error| error.kind == ErrorKind::Standby);
                if let Some(open) = open {
                    self.handle_answer(open, result);
                }
                if stands_by {
                    self.disconnect("the hub is a standby");
                }
            }
            _ => {}
        }
    }

    /// Requests the next page. If there is no next page, delivers the answer with the rows of all pages.
    fn handle_answer(&mut self, mut open: OpenRequest, result: Result<Value, Error>) {
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
                self.send(open);
            }
            result => self.updates.push(FeedUpdate::Answer(open.asked, result)),
        }
    }

    /// Delivers an event, unless the event was delivered before.
    fn handle_event(&mut self, row: Value) {
        let seq = row["seq"].as_i64();
        if seq > self.cursor {
            self.cursor = seq;
            self.updates.push(FeedUpdate::Event(row));
        }
    }

    fn disconnect(&mut self, why: &str) {
        self.client = None;
        let gone = || {
            Err(Error::new(
                ErrorKind::Gone,
                "the connection broke before the broker answered; check whether your action took effect",
            ))
        };
        self.updates.extend(self.open.drain().map(|(_, open)| FeedUpdate::Answer(open.asked, gone())));
        self.updates.push(FeedUpdate::Lost(why.to_owned()));
    }
}
