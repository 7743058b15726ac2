//! What open pages are told: all there is when they come, then what changes, in frames.
//!
//! Events and messages come out of the mesh one by one. Who is here and what is locked also changes
//! without an event (who waits in line, who is at work), so those rows are compared with what was told.
//!
//! **Invariant:** nothing is told but in flush, and every frame repeats what is true: a page may hear a
//! thing twice and never misses one.

use super::with_policy;
use crate::base::{limits, time};
use crate::broker::http::{Answer, Left, Server, Ticket};
use crate::core::{Mesh, peers::Peer};
use crate::store::{Event, EventFilter, Message, MessageFilter, StateEntry};
use mio::Waker;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Pages at once: each may hold a buffer.
const PAGES_MAX: usize = 16;
/// What happens within this time goes out together: an event is to be seen within 100 ms.
const FRAME_MS: i64 = 40;
/// Rows are compared at most this often.
const ROWS_MS: i64 = 500;
/// Who was at work within this time is not told anew.
const ACTIVE_MS: i64 = 5_000;
/// Events, messages and changes of the state from before that a page is given.
const N_OLD: i64 = 200;
/// Rows of peers, locks and entries that a page is given.
const ROWS_MAX: usize = 300;
/// A value or a payload longer than this is not shown.
const SHOWN_MAX: usize = 4096;

/// The open pages.
#[derive(Default)]
pub struct Pages {
    open: Vec<(Ticket, Arc<AtomicBool>)>,
    coming: Vec<Ticket>,
    /// What goes out with the next frame, as JSON.
    events: Vec<String>,
    messages: Vec<String>,
    /// Rows may differ from what was told.
    stirred: bool,
    frame_at: i64,
    rows_at: i64,
    peers: Rows,
    locks: Rows,
}

/// Rows by their key, in the order of the mesh, as they were told.
#[derive(Default)]
struct Rows {
    told: HashMap<String, String>,
    more: usize,
}

impl Rows {
    /// Takes new rows; answers with those that differ, and with the keys of those that are gone.
    fn change(&mut self, rows: Vec<(String, String)>, more: usize) -> (Vec<String>, Vec<String>) {
        let mut old = std::mem::take(&mut self.told);
        let mut changed = Vec::new();
        for (key, row) in rows {
            if old.remove(&key).as_ref() != Some(&row) {
                changed.push(row.clone());
            }
            self.told.insert(key, row);
        }
        self.more = more;
        (changed, old.into_keys().map(|key| json!(key).to_string()).collect())
    }
}

impl Pages {
    /// Whether anybody looks on.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.coming.is_empty()
    }

    /// Something happened that may show.
    pub fn stir(&mut self) {
        self.stirred = !self.is_empty();
    }

    /// A page wants to listen; the answer if there are too many.
    pub fn come(&mut self, mesh: &mut Mesh, ticket: Ticket) -> Option<Answer> {
        if self.open.len() + self.coming.len() >= PAGES_MAX {
            return Some(super::refuse(503, "too many pages are open; close one"));
        }
        mesh.set_observed(true);
        self.coming.push(ticket);
        None
    }

    /// An event was committed.
    pub fn event(&mut self, mesh: &Mesh, event: &Event) {
        if !self.open.is_empty() {
            self.events.push(event_row(mesh, event));
        }
        self.stir();
    }

    /// A message was sent or got further, and that is committed.
    pub fn message(&mut self, mesh: &Mesh, message: &Message) {
        if !self.open.is_empty() {
            self.messages.push(mesh.observed_message(message).to_string());
        }
        self.stir();
    }

    /// When a frame is due, ms.
    pub fn deadline(&self) -> Option<i64> {
        let has_news = !self.events.is_empty() || !self.messages.is_empty();
        let frame = has_news.then_some(self.frame_at);
        frame.into_iter().chain(self.stirred.then_some(self.rows_at)).min()
    }

    /// Tells the pages what is new, and those that came all there is; true once the last one has left.
    pub fn flush(&mut self, mesh: &mut Mesh, server: &Server, waker: &Arc<Waker>, now: i64) -> bool {
        let n_before = self.open.len();
        self.open.retain(|(_, gone)| !gone.load(Ordering::Acquire));
        if self.is_empty() {
            if n_before > 0 {
                *self = Pages::default();
                mesh.set_observed(false);
            }
            return n_before > 0;
        }
        let come = !self.coming.is_empty();
        if come || self.deadline().is_some_and(|at| at <= now) {
            let frame = self.frame(mesh, come, now);
            for (ticket, _) in &self.open {
                server.more(*ticket, Arc::clone(&frame));
            }
        }
        for ticket in std::mem::take(&mut self.coming) {
            let gone = Arc::new(AtomicBool::new(false));
            let (tell, waker) = (Arc::clone(&gone), Arc::clone(waker));
            let left = Left::new(move || {
                tell.store(true, Ordering::Release);
                // The loop is gone only when this whole process ends.
                let _ = waker.wake();
            });
            let body = self.all(mesh, now).into_bytes();
            let head = Answer { status: 200, content_type: "text/event-stream", headers: Vec::new(), body };
            server.open(ticket, with_policy(head), left);
            self.open.push((ticket, gone));
        }
        false
    }

    /// What is new since the last frame.
    fn frame(&mut self, mesh: &mut Mesh, rows: bool, now: i64) -> Arc<[u8]> {
        let mut parts =
            vec![("events", std::mem::take(&mut self.events)), ("messages", std::mem::take(&mut self.messages))];
        let mut more = String::new();
        if rows || self.stirred && self.rows_at <= now {
            let (rows, n_more) = peer_rows(mesh, now);
            let (peers, left) = self.peers.change(rows, n_more);
            let (rows, n_more) = lock_rows(mesh, now);
            let (locks, freed) = self.locks.change(rows, n_more);
            parts.extend([("peers", peers), ("left", left), ("locks", locks), ("freed", freed)]);
            more = format!(",\"more\":{{\"peers\":{},\"locks\":{}}}", self.peers.more, self.locks.more);
            (self.stirred, self.rows_at) = (false, now + ROWS_MS);
        }
        self.frame_at = now + FRAME_MS;
        write(now, &more, parts).into_bytes().into()
    }

    /// All there is, as the beginning of a stream. The rows were compared right before.
    fn all(&self, mesh: &Mesh, now: i64) -> String {
        let settings = mesh.settings();
        let human = mesh.peers().resolve("human").unwrap_or_default();
        let hello = json!({
            "me": human.as_str(), "name": mesh.peers().name_of(&human), "host": settings.host, "version": settings.version,
            "since": time::iso(mesh.started()),
        });
        // What can't be read is missing here, and told in the broker's log by whoever needs it.
        let events = |types: &[&str]| {
            let found =
                mesh.store().events(&EventFilter { types, after: 0, newest: true, limit: N_OLD }).unwrap_or_default();
            found.iter().rev().map(|event| event_row(mesh, event)).collect::<Vec<_>>()
        };
        let pick = MessageFilter { newest: true, limit: N_OLD, ..MessageFilter::default() };
        let messages = mesh.store().messages(&pick).unwrap_or_default();
        let mut entries = mesh.store().all_entries(now, ROWS_MAX as i64 + 1).unwrap_or_default();
        let more = entries.len() > ROWS_MAX;
        entries.truncate(ROWS_MAX);
        let values = |rows: &Rows| rows.told.values().cloned().collect::<Vec<_>>();
        let more = format!(
            ",\"hello\":{hello},\"more\":{{\"peers\":{},\"locks\":{},\"entries\":{more}}}",
            self.peers.more, self.locks.more
        );
        let parts = vec![
            ("peers", values(&self.peers)),
            ("locks", values(&self.locks)),
            ("events", events(&[])),
            ("changes", events(&["state_changed", "state_deleted"])),
            ("messages", messages.iter().rev().map(|message| mesh.observed_message(message).to_string()).collect()),
            ("entries", entries.iter().map(|entry| entry_row(mesh, entry)).collect()),
        ];
        write(now, &more, parts)
    }
}

/// One message of the event stream: an object of lists.
fn write(now: i64, more: &str, parts: Vec<(&str, Vec<String>)>) -> String {
    let lists = parts.iter().filter(|(_, rows)| !rows.is_empty());
    let lists: Vec<String> = lists.map(|(name, rows)| format!(",\"{name}\":[{}]", rows.join(","))).collect();
    format!("data: {{\"now\":{now}{more}{}}}\n\n", lists.concat())
}

/// An event as JSON. Its payload is JSON already and goes in as it is: there may be hundreds a second.
fn event_row(mesh: &Mesh, event: &Event) -> String {
    let note = || json!({ "note": "too long to show", "bytes": event.payload.len() }).to_string();
    let payload = if event.payload.len() > SHOWN_MAX { &note() } else { &event.payload };
    let [kind, by, name] =
        [event.kind.word(), &event.by, &mesh.peers().name_of(&event.by)].map(|text| json!(text).to_string());
    let (seq, at) = (event.seq, time::iso(event.at));
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

/// Peers that are here, then those that were here last.
fn peer_rows(mesh: &mut Mesh, now: i64) -> (Vec<(String, String)>, usize) {
    let mut peers: Vec<Peer> = mesh.peers().all().to_vec();
    peers.sort_by_key(|peer| (!peer.is_online() && !mesh.peers().is_human(&peer.row.id), -peer.row.last_seen));
    let n_more = peers.len().saturating_sub(ROWS_MAX);
    let mut rows = Vec::new();
    for peer in peers.iter().take(ROWS_MAX) {
        let Ok(Some(mut row)) = mesh.peer_view(&peer.row.id, now) else { continue };
        let active = peer.last_active - peer.last_active % ACTIVE_MS;
        if let Some(row) = row.as_object_mut() {
            // What changes by time alone is not told, but from when on it counts.
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
