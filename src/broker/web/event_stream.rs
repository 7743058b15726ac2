//! The event streams of open web pages. A stream begins with the whole state of the mesh. Changes follow in frames. A
//! frame contains all changes of a short period.
//!
//! The mesh reports events and messages one by one. But rows of peers and locks also change without an event, for
//! example when a peer waits for a lock. So these rows are compared with the rows that were sent last.
//!
//! **Invariant:** frames are sent only in `flush`. A page may get a change twice, but never misses a change.

use super::with_policy;
use crate::base::{limits, time_format};
use crate::broker::http::{HttpResponse, HttpServer, OnDisconnect, Ticket};
use crate::core::{Mesh, peers::Peer};
use crate::store::{Event, Message, StateEntry};
use mio::Waker;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Maximum number of open pages. The number is limited because each page may need a buffer.
const PAGES_MAX: usize = 16;
/// Changes within this many ms share a frame. A change must be visible within 100 ms, so the time is short.
const FRAME_MS: i64 = 40;
/// Minimum time between two checks for changed peers and locks, in ms. Each check compares the rows with those that
/// were sent before.
const ROWS_MS: i64 = 500;
/// The time of a peer's last activity is rounded down to a multiple of this many ms, so that the row of a busy peer
/// does not change all the time.
const ACTIVE_MS: i64 = 5_000;
/// Maximum number of past events that a new page gets. The limit is the same for past messages and past state changes.
const N_OLD: i64 = 200;
/// Maximum number of peers that a page gets. The limit is the same for locks and for entries of the shared state.
const ROWS_MAX: usize = 300;
/// Maximum length of a value or payload on the page, in bytes.
const SHOWN_MAX: usize = 4096;

/// The streams of all open pages.
pub struct PageStreams {
    /// Wakes the event loop when a page closes.
    waker: Arc<Waker>,
    /// The open streams, each with a flag that says whether its page has been closed.
    open: Vec<(Ticket, Arc<AtomicBool>)>,
    /// The streams that will begin in the next flush.
    new: Vec<Ticket>,
    next: NextFrame,
    peers: SentRows,
    locks: SentRows,
}

/// The content of the next frame, and when the frame is sent.
#[derive(Default)]
struct NextFrame {
    /// The events, as JSON.
    events: Vec<String>,
    /// The messages, as JSON.
    messages: Vec<String>,
    /// Whether peers or locks may have changed since their rows were last sent.
    is_dirty: bool,
    /// The earliest time at which a frame may be sent, in ms.
    frame_at: i64,
    /// The earliest time at which the rows of peers and locks may be compared again, in ms.
    rows_at: i64,
}

/// The rows of peers and locks that web pages have received, by key.
#[derive(Default)]
struct SentRows {
    sent: HashMap<String, String>,
    /// The number of rows that were not sent, because there are more than `ROWS_MAX`.
    n_more: usize,
}

impl SentRows {
    /// Replaces the rows. Returns the changed rows, and the keys of the removed rows.
    fn update(&mut self, rows: Vec<(String, String)>, n_more: usize) -> (Vec<String>, Vec<String>) {
        let mut old = std::mem::take(&mut self.sent);
        let mut changed = Vec::new();
        for (key, row) in rows {
            if old.remove(&key).as_ref() != Some(&row) {
                changed.push(row.clone());
            }
            self.sent.insert(key, row);
        }
        self.n_more = n_more;
        (changed, old.into_keys().map(|key| json!(key).to_string()).collect())
    }
}

impl PageStreams {
    /// Starts without any pages.
    pub fn new(waker: Arc<Waker>) -> PageStreams {
        PageStreams {
            waker,
            open: Vec::new(),
            new: Vec::new(),
            next: NextFrame::default(),
            peers: SentRows::default(),
            locks: SentRows::default(),
        }
    }

    /// Returns true if no page is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.new.is_empty()
    }

    /// Records that rows may have changed.
    pub fn mark_dirty(&mut self) {
        self.next.is_dirty = !self.is_empty();
    }

    /// Opens a stream in the next flush. If too many pages are open, returns the response that refuses the page.
    pub fn open_stream(&mut self, mesh: &mut Mesh, ticket: Ticket) -> Option<HttpResponse> {
        if self.open.len() + self.new.len() >= PAGES_MAX {
            return Some(super::refuse(503, "too many pages are open; close one of them"));
        }
        mesh.set_observed(true);
        self.new.push(ticket);
        None
    }

    /// Adds an event to the next frame. The event must already be committed.
    pub fn add_event(&mut self, mesh: &Mesh, event: &Event) {
        if !self.open.is_empty() {
            self.next.events.push(event_row(mesh, event));
        }
        self.mark_dirty();
    }

    /// Adds a message to the next frame. The latest change of the message must already be committed.
    pub fn add_message(&mut self, mesh: &Mesh, message: &Message) {
        if !self.open.is_empty() {
            self.next.messages.push(mesh.observed_message(message).to_string());
        }
        self.mark_dirty();
    }

    /// When the next frame is due, in ms.
    pub fn deadline(&self) -> Option<i64> {
        let has_news = !self.next.events.is_empty() || !self.next.messages.is_empty();
        let frame = has_news.then_some(self.next.frame_at);
        frame.into_iter().chain(self.next.is_dirty.then_some(self.next.rows_at)).min()
    }

    /// Sends the changes to the open pages, and the whole state to new pages. Returns true when the last page has
    /// closed.
    pub fn flush(&mut self, mesh: &mut Mesh, server: &HttpServer, now: i64) -> bool {
        let n_before = self.open.len();
        self.open.retain(|(_, is_closed)| !is_closed.load(Ordering::Acquire));
        if self.is_empty() {
            if n_before > 0 {
                *self = PageStreams::new(Arc::clone(&self.waker));
                mesh.set_observed(false);
            }
            return n_before > 0;
        }
        let has_new = !self.new.is_empty();
        if has_new || self.deadline().is_some_and(|at| at <= now) {
            let frame = self.next_frame(mesh, has_new, now);
            for (ticket, _) in &self.open {
                server.send_chunk(*ticket, Arc::clone(&frame));
            }
        }
        for ticket in std::mem::take(&mut self.new) {
            self.start_stream(mesh, server, ticket, now);
        }
        false
    }

    fn start_stream(&mut self, mesh: &Mesh, server: &HttpServer, ticket: Ticket, now: i64) {
        let is_closed = Arc::new(AtomicBool::new(false));
        let (mark, waker) = (Arc::clone(&is_closed), Arc::clone(&self.waker));
        let on_disconnect = OnDisconnect::new(move || {
            mark.store(true, Ordering::Release);
            // Waking fails only if the event loop is gone because the process is ending.
            let _ = waker.wake();
        });
        let body = self.first_frame(mesh, now).into_bytes();
        let head = HttpResponse { status: 200, content_type: "text/event-stream", headers: Vec::new(), body };
        server.start_stream(ticket, with_policy(head), on_disconnect);
        self.open.push((ticket, is_closed));
    }

    /// Returns the changes since the last frame. If a page has just connected, the rows are updated immediately,
    /// because the first frame for that page contains them.
    fn next_frame(&mut self, mesh: &mut Mesh, has_new: bool, now: i64) -> Arc<[u8]> {
        let mut parts = vec![
            ("events", std::mem::take(&mut self.next.events)),
            ("messages", std::mem::take(&mut self.next.messages)),
        ];
        let mut more = String::new();
        if has_new || self.next.is_dirty && self.next.rows_at <= now {
            let (rows, n_more) = peer_rows(mesh, now);
            let (peers, left) = self.peers.update(rows, n_more);
            let (rows, n_more) = lock_rows(mesh, now);
            let (locks, freed) = self.locks.update(rows, n_more);
            parts.extend([("peers", peers), ("left", left), ("locks", locks), ("freed", freed)]);
            more = format!(",\"more\":{{\"peers\":{},\"locks\":{}}}", self.peers.n_more, self.locks.n_more);
            (self.next.is_dirty, self.next.rows_at) = (false, now + ROWS_MS);
        }
        self.next.frame_at = now + FRAME_MS;
        format_frame(now, &more, parts).into_bytes().into()
    }

    /// Returns the first part of a stream. This part contains the whole state. The caller must have updated the rows of
    /// peers and locks.
    fn first_frame(&self, mesh: &Mesh, now: i64) -> String {
        let settings = mesh.settings();
        let human = mesh.peers().human();
        let hello = json!({
            "me": human.as_str(), "name": mesh.peers().name_of(human), "host": settings.host, "version": settings.version,
            "since": time_format::iso(mesh.started()), "hubs": mesh.hub_status(now),
        });
        // Rows that can't be read are left out. Calls that need these rows report the failure.
        let events = |types: &[&str]| {
            let found = mesh.latest_events(types, N_OLD).unwrap_or_default();
            found.iter().map(|event| event_row(mesh, event)).collect::<Vec<_>>()
        };
        let messages = mesh.latest_messages(N_OLD).unwrap_or_default();
        let mut entries = mesh.all_entries(ROWS_MAX as i64 + 1, now).unwrap_or_default();
        let more = entries.len() > ROWS_MAX;
        entries.truncate(ROWS_MAX);
        let values = |rows: &SentRows| rows.sent.values().cloned().collect::<Vec<_>>();
        let more = format!(
            ",\"hello\":{hello},\"more\":{{\"peers\":{},\"locks\":{},\"entries\":{more}}}",
            self.peers.n_more, self.locks.n_more
        );
        let parts = vec![
            ("peers", values(&self.peers)),
            ("locks", values(&self.locks)),
            ("events", events(&[])),
            ("changes", events(&["state_changed", "state_deleted"])),
            ("messages", messages.iter().map(|message| mesh.observed_message(message).to_string()).collect()),
            ("entries", entries.iter().map(|entry| entry_row(mesh, entry)).collect()),
        ];
        format_frame(now, &more, parts)
    }
}

/// Formats a frame as one message of the event stream. The message is a JSON object that contains lists.
fn format_frame(now: i64, more: &str, parts: Vec<(&str, Vec<String>)>) -> String {
    let lists = parts.iter().filter(|(_, rows)| !rows.is_empty());
    let lists: Vec<String> = lists.map(|(name, rows)| format!(",\"{name}\":[{}]", rows.join(","))).collect();
    format!("data: {{\"now\":{now}{more}{}}}\n\n", lists.concat())
}

/// Formats an event as JSON. The payload is already JSON, so it is copied without parsing. This saves time, because
/// there may be hundreds of events per second.
fn event_row(mesh: &Mesh, event: &Event) -> String {
    let note = || json!({ "note": "too long to show", "bytes": event.payload.len() }).to_string();
    let payload = if event.payload.len() > SHOWN_MAX { &note() } else { &event.payload };
    let [kind, by, name] =
        [event.kind.word(), event.by.as_str(), &mesh.peers().name_of(&event.by)].map(|text| json!(text).to_string());
    let (seq, at) = (event.seq, time_format::iso(event.at));
    format!(
        r#"{{"seq":{seq},"type":{kind},"payload":{payload},"emittedBy":{by},"emittedByName":{name},"createdAt":"{at}"}}"#
    )
}

fn entry_row(mesh: &Mesh, entry: &StateEntry) -> String {
    let mut row = mesh.entry_view(entry);
    let size = entry.value.as_ref().map_or(0, String::len);
    if size > SHOWN_MAX {
        (row["value"], row["bytes"]) = (Value::Null, json!(size));
    }
    row.to_string()
}

/// Returns the rows of at most `ROWS_MAX` peers, and the number of further peers. Online peers and the person at this
/// machine form the first group, and all other peers the second. Each group begins with the peer that was seen most
/// recently.
fn peer_rows(mesh: &mut Mesh, now: i64) -> (Vec<(String, String)>, usize) {
    let mut peers: Vec<Peer> = mesh.peers().all().to_vec();
    peers.sort_by_key(|peer| (!peer.is_online() && !mesh.peers().is_human(&peer.row.id), -peer.row.last_seen));
    let n_more = peers.len().saturating_sub(ROWS_MAX);
    let mut rows = Vec::new();
    for peer in peers.iter().take(ROWS_MAX) {
        let Ok(Some(mut row)) = mesh.peer_view(&peer.row.id, now) else { continue };
        let active = peer.last_active - peer.last_active % ACTIVE_MS;
        if let Some(row) = row.as_object_mut() {
            // Fields that change only because time passes are left out. The page computes them itself. The page does
            // not need `udsPath`.
            row.retain(|name, _| !["udsPath", "lastHeartbeat", "idleSeconds"].contains(&name.as_str()));
            row.insert("activeAt".into(), json!(active));
            row.insert("repo".into(), json!(peer.row.repo));
            row.insert("kind".into(), json!(peer.row.kind.word()));
        }
        rows.push((peer.row.id.to_string(), row.to_string()));
    }
    (rows, n_more)
}

fn lock_rows(mesh: &Mesh, now: i64) -> (Vec<(String, String)>, usize) {
    let n_more = mesh.locks().all().len().saturating_sub(ROWS_MAX);
    let rows = mesh.observed_locks(ROWS_MAX.min(limits::LOCKS_MAX), now).into_iter().map(|mut row| {
        let key = format!("{} {}", row["token"], row["filePath"].as_str().unwrap_or(""));
        row["key"] = json!(key);
        if let Some(row) = row.as_object_mut() {
            row.remove("expiresInSeconds");
        }
        (key, row.to_string())
    });
    (rows.collect(), n_more)
}
