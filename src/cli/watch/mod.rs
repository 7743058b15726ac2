//! `watch`: a live view of peers, locks, messages and events. If the output is a pipe, prints one line per event
//! instead.
//!
//! The view controls the terminal with termios and a dozen escape sequences. Four panes and an input line do not
//! justify a curses crate.

mod conversations;
pub mod draw;
#[cfg(test)]
mod draw_tests;
pub mod feed;
pub mod key_actions;
pub mod key_decoder;
pub mod model;
mod project_filtered_rows;
pub mod sanitize_and_wrap_text;

use super::args::ParsedCommand;
use super::{load_environment, render, try_print_line};
use crate::base::error::{Error, ErrorKind};
use crate::sys;
use crate::sys::terminal::{self, Terminal};
use draw::{StyledLine, TextStyle};
use feed::{Feed, FeedUpdate, WatchRequest};
use key_actions::UserAction;
use key_decoder::KeyDecoder;
use model::{InputMode, WatchModel, word};
use serde_json::{Map, Value, json};
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How many past events the view shows at first.
const N_OLD: i64 = 50;
/// How many messages a search shows.
const SEARCH_MAX: usize = 50;
/// Maximum number of unread messages, and of read messages, that the view shows from a mailbox.
const MAILBOX_MAX: usize = 60;
/// Minimum time between two redraws. An event should appear within 100 ms.
const REDRAW_INTERVAL: Duration = Duration::from_millis(80);
/// Minimum time between two requests for the same outdated list.
const REQUEST_INTERVAL: Duration = Duration::from_millis(250);
/// How often to request idle times and waiting peers. No event reports changes to them.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// How often to redraw ages and leases.
const TICK_INTERVAL: Duration = Duration::from_secs(1);
/// How often to try to reconnect.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(500);
/// How long to wait for the rest of an escape sequence, which ssh may split.
const KEY_TIMEOUT: Duration = Duration::from_millis(60);

/// Runs the view. If the terminal cannot show it, prints one line per event instead.
pub fn watch(parsed: &ParsedCommand, plain: bool) -> Result<u8, Error> {
    let (places, settings) = load_environment()?;
    let plain = plain || parsed.json || !terminal::is_capable();
    // These requests contain no peer, so that watching does not count as activity of the user's peer.
    let common = Map::from_iter([("v".to_owned(), json!(env!("CARGO_PKG_VERSION")))]);
    let mut feed = Feed::new(places, common, if plain { 0 } else { N_OLD })?;
    if plain {
        return print_events(feed, parsed.json);
    }
    let named = Some(settings.text("SLM_MESH_PEER").to_owned()).filter(|name| !name.is_empty());
    let who = match parsed.acting.clone().or(named) {
        Some(name) => json!({ "as": name }),
        // Even in an agent's shell, a person reads the screen. So the view acts as the person and not as the agent.
        None => match feed.call("whoami", json!({})) {
            Ok(found) if found["kind"] == json!("human") => json!({ "as": found["you"]["id"] }),
            Err(error) if error.kind != ErrorKind::Ambiguous => return Err(error),
            _ => json!({ "as": "human" }),
        },
    };
    let you = feed.call("whoami", who)?["you"].clone();
    let terminal = Terminal::take().map_err(|error| {
        Error::new(ErrorKind::Internal, format!("the terminal cannot be set up ({error}); try --plain"))
    })?;
    let view = WatchScreen {
        feed,
        model: WatchModel::new(word(&you["id"]), word(&you["name"])),
        terminal,
        colour: terminal::has_colour(),
        painted: Vec::new(),
        keys: KeyDecoder::default(),
        is_outdated: true,
        drawn_at: None,
        requested_at: [None; 4],
        polled_at: Instant::now(),
        reconnected_at: Instant::now(),
    };
    view.run_until_quit().map_err(|error| Error::new(ErrorKind::Internal, format!("the terminal failed ({error})")))
}

/// Prints one line per event until the reader closes the output.
fn print_events(mut feed: Feed, is_json: bool) -> Result<u8, Error> {
    let output = io::stdout();
    while feed.wait_while_read(&output) {
        for update in feed.poll() {
            match update {
                FeedUpdate::Event(row) => {
                    if !try_print_line(&if is_json { render::json_line(&row) } else { render::event(&row) })? {
                        return Ok(0);
                    }
                }
                FeedUpdate::Lost(why) => {
                    sys::print_error(&format!("slm-mesh: no broker ({}); waiting for one", render::plain(&why)));
                }
                FeedUpdate::Answer(..) => {}
            }
        }
        while feed.client().is_none() && !feed.reconnect() {
            if super::pause_while_read(RECONNECT_INTERVAL)? {
                return Ok(0);
            }
        }
    }
    Ok(0)
}

/// The view, with its connection, model, terminal and timers.
struct WatchScreen {
    feed: Feed,
    model: WatchModel,
    terminal: Terminal,
    colour: bool,
    /// The lines that the screen shows now.
    painted: Vec<String>,
    keys: KeyDecoder,
    /// Whether something has changed since the screen was last drawn.
    is_outdated: bool,
    drawn_at: Option<Instant>,
    /// When peers, locks, mail and names were last requested.
    requested_at: [Option<Instant>; 4],
    polled_at: Instant,
    reconnected_at: Instant,
}

impl WatchScreen {
    fn run_until_quit(mut self) -> io::Result<u8> {
        loop {
            for update in self.feed.poll() {
                self.is_outdated = true;
                self.apply_update(update);
            }
            self.reconnect_if_lost();
            self.request_stale_lists();
            self.redraw_if_due()?;
            let time = self.time_to_next_task();
            let woken = self.terminal.wait(self.feed.client().map(AsFd::as_fd), Some(time))?;
            if let Some(signal) = woken.end {
                return Ok(128 + signal as u8);
            }
            if woken.closed {
                return Ok(0);
            }
            if woken.anew {
                self.painted.clear();
                self.is_outdated = true;
            }
            let mut keys = self.keys.decode(&woken.keys);
            if woken.keys.is_empty() && !woken.other && self.keys.is_incomplete() {
                keys.extend(self.keys.finish());
            }
            for key in keys {
                (self.is_outdated, self.drawn_at) = (true, None);
                let action = key_actions::handle_key(&mut self.model, key, self.terminal.size());
                if action == Some(UserAction::Quit) {
                    return Ok(0);
                }
                self.perform(action)?;
            }
        }
    }

    fn apply_update(&mut self, update: FeedUpdate) {
        let now = sys::wall_ms();
        match update {
            FeedUpdate::Event(row) => self.model.apply_event(row),
            FeedUpdate::Lost(why) => self.model.offline = Some(why),
            FeedUpdate::Answer(asked, result) => match (asked, result) {
                (WatchRequest::Peers, Ok(value)) => self.model.set_peers(&value, now),
                (WatchRequest::Names, Ok(value)) => self.model.learn_names(&value),
                (WatchRequest::Locks, Ok(value)) => self.model.set_locks(&value, now),
                (WatchRequest::Mine | WatchRequest::Sent | WatchRequest::Log, Ok(value)) => {
                    self.model.add_messages(&value)
                }
                (WatchRequest::Me, Ok(value)) => self.model.unread = value["you"]["unread"].as_i64().unwrap_or(0),
                (WatchRequest::Hubs, Ok(value)) => self.model.set_hubs(&value),
                (WatchRequest::Send(to), Ok(value)) => {
                    let is_away = value["recipients"][0]["here"] == json!(false);
                    let note = if is_away { " (offline; the message waits in the mailbox)" } else { "" };
                    self.model.note = format!("Sent to {}{note}", self.model.name(&to));
                }
                (WatchRequest::Release(path), Ok(_)) => self.model.note = format!("Released {path}"),
                (WatchRequest::Conversation(id), Ok(value)) => {
                    self.model.add_messages(&value);
                    if let Some(UserAction::Opened(rows)) = key_actions::show_more(&mut self.model, &id) {
                        self.mark_read(&rows);
                    }
                }
                (WatchRequest::Search(words, found), Ok(value)) => self.search_on(words, found, &value),
                (WatchRequest::Unread(owner), Ok(unread)) => {
                    let asked = WatchRequest::Mailbox(self.model.name(&owner), unread);
                    self.feed.request(asked, "inbox", look_at_mailbox(&owner, "all"));
                }
                (WatchRequest::Mailbox(name, unread), Ok(all)) => {
                    let text = conversations::mailbox_text(&name, &unread, &all);
                    self.open_text(format!("Mailbox of {name}"), text);
                }
                (
                    WatchRequest::Conversation(_)
                    | WatchRequest::Search(..)
                    | WatchRequest::Unread(_)
                    | WatchRequest::Mailbox(..)
                    | WatchRequest::Send(_)
                    | WatchRequest::Release(_),
                    Err(error),
                ) => self.model.note = error.text,
                // If a request for a list failed, no error is shown, because the list is requested again later.
                _ => {}
            },
        }
    }

    fn perform(&mut self, action: Option<UserAction>) -> io::Result<()> {
        match action {
            Some(UserAction::Suspend) => {
                self.terminal.suspend()?;
                self.painted.clear();
            }
            Some(UserAction::Redraw) => self.painted.clear(),
            Some(UserAction::Send { to, text }) => {
                let key = format!("auto-{:032x}", sys::random_u128());
                let params = self.as_user(json!({ "to": to, "message": text, "key": key }));
                self.feed.request(WatchRequest::Send(to), "send", params);
            }
            Some(UserAction::Release { path, token }) => {
                let params = self.as_user(json!({ "filePath": path, "token": token }));
                self.feed.request(WatchRequest::Release(path), "lock.unlock", params);
            }
            Some(UserAction::Opened(rows)) => self.mark_read(&rows),
            Some(UserAction::Fetch(id)) => {
                let params = self.as_user(json!({ "thread": id, "after": 0, "limit": 100 }));
                self.feed.request(WatchRequest::Conversation(id), "log", params);
            }
            Some(UserAction::Search(words)) => self.search(words, Vec::new(), None),
            Some(UserAction::LookAtMailbox(owner)) => {
                let params = look_at_mailbox(&owner, "unread");
                self.feed.request(WatchRequest::Unread(owner), "inbox", params);
            }
            Some(UserAction::Quit) | None => {}
        }
        Ok(())
    }

    /// Reports that the user has read these messages.
    fn mark_read(&mut self, rows: &[Value]) {
        let items = crate::mcp::shown_items(&json!({ "messages": rows }));
        if !items.is_empty() {
            let params = self.as_user(json!({ "items": items }));
            self.feed.request(WatchRequest::Nothing, "inbox.mark_read", params);
        }
    }

    /// Requests the next page of a search. The broker searches in small steps.
    fn search(&mut self, words: String, found: Vec<Value>, before: Option<i64>) {
        let mut params = self.as_user(json!({ "search": words, "limit": SEARCH_MAX - found.len() }));
        if let Some(before) = before {
            params["before"] = json!(before);
        }
        self.model.note = format!("Searching for {words} …");
        self.feed.request(WatchRequest::Search(words, found), "log", params);
    }

    /// Adds the messages of one page to the search result. Then requests the next page or shows the result.
    fn search_on(&mut self, words: String, mut found: Vec<Value>, answer: &Value) {
        found.extend(answer["messages"].as_array().into_iter().flatten().rev().cloned());
        let next = answer["before"].as_i64().filter(|_| answer["more"] == json!(true));
        if found.len() < SEARCH_MAX && next.is_some() {
            return self.search(words, found, next);
        }
        self.model.note.clear();
        let number = if next.is_some() { format!("the latest {}", found.len()) } else { found.len().to_string() };
        self.open_text(format!("Messages with {words}: {number}"), conversations::rows_text(&found));
    }

    /// Shows text over the panes, unless the user is typing.
    fn open_text(&mut self, title: String, body: String) {
        if self.model.mode == InputMode::Browse {
            self.model.mode = InputMode::Open { title, body, scroll: 0 };
        }
    }

    /// Adds the user's peer to the parameters of a request.
    fn as_user(&self, mut params: Value) -> Value {
        params["as"] = json!(self.model.me.0);
        params
    }

    /// Tries to reconnect if the connection is lost.
    fn reconnect_if_lost(&mut self) {
        if self.feed.client().is_some() || self.reconnected_at.elapsed() < RECONNECT_INTERVAL {
            return;
        }
        self.reconnected_at = Instant::now();
        if self.feed.reconnect() {
            self.model.offline = None;
            self.model.stale = model::StaleLists { peers: true, locks: true, mail: true, names: true };
        }
        // A broker that this process has just started may have written to the screen, so all lines are drawn again.
        self.painted.clear();
        self.is_outdated = true;
    }

    /// Requests the lists that are outdated, each at most once per `REQUEST_INTERVAL`. A list is not requested again
    /// until the last request for it has been answered.
    fn request_stale_lists(&mut self) {
        if self.feed.client().is_none() {
            return;
        }
        if self.polled_at.elapsed() >= POLL_INTERVAL {
            self.polled_at = Instant::now();
            (self.model.stale.peers, self.model.stale.locks) = (true, true);
        }
        let whole = json!({ "scope": "machine", "includeAway": true });
        let list = |filter: &str| self.as_user(json!({ "filter": filter, "limit": 40 }));
        let lists = [
            vec![(WatchRequest::Peers, "peers", json!({ "scope": "machine" }))],
            vec![(WatchRequest::Locks, "lock.query", json!({}))],
            vec![
                (WatchRequest::Me, "whoami", self.as_user(json!({}))),
                (WatchRequest::Log, "log", self.as_user(json!({ "limit": 60 }))),
                (WatchRequest::Mine, "inbox", list("all")),
                (WatchRequest::Sent, "inbox", list("sent")),
            ],
            // The list of hubs is requested only together with the list of names. This is enough, because when another
            // hub begins to lead, the view reconnects and requests all lists again.
            vec![(WatchRequest::Names, "peers", whole), (WatchRequest::Hubs, "hub.status", json!({}))],
        ];
        for (n, list) in lists.into_iter().enumerate() {
            let stale = &mut self.model.stale;
            let stale = [&mut stale.peers, &mut stale.locks, &mut stale.mail, &mut stale.names].into_iter().nth(n);
            let is_late = self.requested_at[n].is_none_or(|at| at.elapsed() >= REQUEST_INTERVAL);
            let Some(stale) = stale.filter(|stale| **stale) else { continue };
            if !is_late || list.iter().any(|(asked, ..)| self.feed.is_waiting_for(asked)) {
                continue;
            }
            *stale = false;
            self.requested_at[n] = Some(Instant::now());
            for (asked, op, params) in list {
                self.feed.request(asked, op, params);
            }
        }
    }

    /// Returns the time until the next task is due.
    fn time_to_next_task(&self) -> Duration {
        let after = |since: Option<Instant>, every: Duration| {
            since.map_or(Duration::ZERO, |since| every.saturating_sub(since.elapsed()))
        };
        let mut pause = after(Some(self.polled_at), POLL_INTERVAL);
        if self.keys.is_incomplete() {
            pause = pause.min(KEY_TIMEOUT);
        }
        if self.is_outdated {
            pause = pause.min(after(self.drawn_at, REDRAW_INTERVAL));
        } else if self.model.changes_with_time() {
            pause = pause.min(TICK_INTERVAL);
        }
        if self.feed.client().is_none() {
            return pause.min(after(Some(self.reconnected_at), RECONNECT_INTERVAL));
        }
        let stale = self.model.stale;
        let stale = [stale.peers, stale.locks, stale.mail, stale.names];
        let lists = stale.iter().zip(self.requested_at).filter(|(stale, _)| **stale);
        // A list can be due although the last request for it has not been answered yet. In this case, the minimum of 20
        // ms prevents a busy loop. An answer ends the wait early.
        let lists = lists.map(|(_, at)| after(at, REQUEST_INTERVAL).max(Duration::from_millis(20)));
        lists.chain([pause]).min().unwrap_or(pause)
    }

    /// Writes the lines that have changed since the screen was last drawn.
    fn redraw_if_due(&mut self) -> io::Result<()> {
        let is_due = self
            .drawn_at
            .is_none_or(|at| at.elapsed() >= if self.is_outdated { REDRAW_INTERVAL } else { TICK_INTERVAL });
        if !is_due {
            return Ok(());
        }
        let (columns, rows) = self.terminal.size();
        let lines = draw::draw_screen(&self.model, columns, rows, sys::wall_ms());
        let lines: Vec<String> = lines.iter().map(|line| to_escape_codes(line, columns, self.colour)).collect();
        let mut out = String::new();
        if self.painted.len() != lines.len() {
            out.push_str("\u{1b}[0m\u{1b}[2J");
            self.painted = vec![String::new(); lines.len()];
        }
        for (n, (new, old)) in lines.iter().zip(&self.painted).enumerate() {
            if new != old {
                out.push_str(&format!("\u{1b}[{};1H\u{1b}[0m\u{1b}[K{new}", n + 1));
            }
        }
        (self.painted, self.is_outdated, self.drawn_at) = (lines, false, Some(Instant::now()));
        if out.is_empty() {
            return Ok(());
        }
        // A terminal with synchronized output shows the whole change at once. Other terminals ignore the sequence.
        self.terminal.write(&format!("\u{1b}[?2026h{out}\u{1b}[0m\u{1b}[?2026l"))
    }
}

/// Returns the parameters of a request for a peer's mail. The request does not mark the mail as read.
fn look_at_mailbox(owner: &str, filter: &str) -> Value {
    json!({ "as": owner, "filter": filter, "take": false, "limit": MAILBOX_MAX })
}

/// Adds escape codes to a line. A selected line is highlighted across the full width of the screen.
fn to_escape_codes(line: &StyledLine, columns: usize, colour: bool) -> String {
    let mut out = String::new();
    for (style, text) in line {
        let code = match style {
            TextStyle::Plain => "0",
            TextStyle::Bold => "0;1",
            TextStyle::Dim => "0;2",
            TextStyle::Warn if colour => "0;33",
            TextStyle::Warn => "0;1",
            TextStyle::Selected => "0;7",
        };
        out.push_str(&format!("\u{1b}[{code}m{text}"));
    }
    if line.len() > 1 && line.iter().all(|(style, _)| *style == TextStyle::Selected) {
        let n: usize = line.iter().map(|(_, text)| sanitize_and_wrap_text::width(text)).sum();
        out.push_str(&" ".repeat(columns.saturating_sub(n)));
    }
    out
}
