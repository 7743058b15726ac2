//! Pushes to peers that registered over HTTP: one JSON envelope a line, broker to peer only, as
//! existing clients listen for them. Those on this machine are dialled on the Unix socket that they
//! named; those elsewhere (clients from 1.3 on) opened a WebSocket, and said hello on it.
//!
//! **Invariant:** only a socket of this user is dialled, and a peer that does not read is dropped.

use super::push_connection::Outlet;
use super::ws_subscribers::Ears;
use crate::base::ids::PeerId;
use crate::base::time;
use crate::core::Mesh;
use crate::store::Event;
use mio::Registry;
use mio::net::UnixStream;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Attempts in a row before a peer is left alone until it registers again.
const ATTEMPTS_MAX: u32 = 10;
/// The wait after the first failed attempt, and the longest, ms.
const BACKOFF_MS: (i64, i64) = (200, 5000);

/// One peer's line.
struct Line {
    path: String,
    outlet: Option<Outlet>,
    attempts: u32,
    retry_at: Option<i64>,
    /// When the line was opened, ms.
    opened: i64,
}

/// All such peers.
pub struct Pushes {
    lines: HashMap<String, Line>,
    ears: Ears,
}

impl Pushes {
    /// None yet.
    pub fn new() -> Pushes {
        Pushes { lines: HashMap::new(), ears: Ears::default() }
    }

    /// Takes in who came over a WebSocket to listen.
    pub fn listen(&mut self, registry: &Registry, token: u64, stream: UnixStream) {
        self.ears.add(Outlet::register(stream, registry, token));
    }

    /// Something happened on a socket; the next flush finds out what.
    pub fn note_ready(&mut self, token: u64, now: i64) {
        let of = |line: &&mut Line| line.outlet.as_ref().is_some_and(|outlet| outlet.token == token);
        match self.lines.values_mut().find(of) {
            // A peer never sends anything on a line that we dialled.
            Some(line) => {
                if line.outlet.as_mut().is_some_and(|outlet| outlet.read(|_| ()).is_err()) {
                    line.lost(now);
                }
            }
            None => self.ears.hear(token),
        }
    }

    /// When a peer is to be dialled again, ms.
    pub fn deadline(&self) -> Option<i64> {
        self.lines.values().filter(|line| line.outlet.is_none()).filter_map(|line| line.retry_at).min()
    }

    /// A message for a peer.
    pub fn mail(&mut self, mesh: &Mesh, peer: &str, seq: i64, from: &str, body: &str, now: i64) {
        let payload = json!({ "messageId": mesh.ids().message(seq), "fromPeer": from, "text": body });
        self.put(mesh, peer, &envelope("message", &payload, now), Some(seq), now);
    }

    /// An event: to those who subscribed it first, then the update that all get.
    pub fn event(&mut self, mesh: &Mesh, event: &Event, now: i64) {
        let payload: Value = serde_json::from_str(&event.payload).unwrap_or_else(|_| json!({}));
        let listeners = mesh.peers().push_recipients();
        for peer in listeners.iter().filter(|peer| mesh.journal().is_peer_subscribed(peer, &event.kind)) {
            let mut flat = json!({ "eventType": event.kind.word() });
            if let (Some(flat), Some(payload)) = (flat.as_object_mut(), payload.as_object()) {
                flat.extend(payload.clone());
            }
            self.put(mesh, peer, &envelope("event", &flat, now), None, now);
        }
        let update = match event.kind.word() {
            "peer_left" => Some(("peer_update", json!({ "action": "left", "peerId": payload["peerId"] }))),
            "state_changed" => Some((
                "peer_update",
                json!({ "action": "state_changed", "key": payload["key"], "namespace": payload["namespace"] }),
            )),
            "file_locked" => Some((
                "lock_update",
                json!({ "filePath": payload["filePath"], "action": "locked", "by": payload["lockedBy"] }),
            )),
            "file_unlocked" => Some(("lock_update", json!({ "filePath": payload["filePath"], "action": "unlocked" }))),
            _ => None,
        };
        if let Some((kind, payload)) = update {
            self.put_all(mesh, &listeners, &envelope(kind, &payload, now), now);
        }
    }

    /// The broker ends.
    pub fn shutdown(&mut self, mesh: &Mesh, now: i64) {
        self.put_all(mesh, &mesh.peers().push_recipients(), &envelope("shutdown", &json!({}), now), now);
        for line in self.lines.values_mut() {
            line.send(now);
        }
        self.ears.send();
    }

    /// One line to everybody: each ear hears it once, whoever it listens for.
    fn put_all(&mut self, mesh: &Mesh, listeners: &[PeerId], text: &str, now: i64) {
        for peer in listeners {
            if self.ears.of(mesh, peer).is_none() {
                self.put(mesh, peer, text, None, now);
            }
        }
        self.ears.put_all(text);
    }

    fn put(&mut self, mesh: &Mesh, peer: &str, text: &str, seq: Option<i64>, now: i64) {
        if let Some(ear) = self.ears.of(mesh, peer) {
            return self.ears.put(ear, text, seq);
        }
        let Some(path) = mesh.peers().get(peer).and_then(|peer| peer.row.push_socket().map(str::to_owned)) else {
            return;
        };
        let line = self.lines.entry(peer.to_owned()).or_insert_with(|| Line::new(path.clone()));
        if line.path != path {
            *line = Line::new(path);
        }
        // Nothing is kept for who can't be reached: its mailbox and the event stream have it all. One
        // that does not read misses it, too.
        if line.outlet.as_mut().is_some_and(|outlet| !outlet.put(text, seq)) {
            line.fail(now);
        }
    }

    /// Sends what is taken, and answers with the messages that went whole.
    pub fn flush(&mut self, now: i64) -> Vec<i64> {
        let mut taken = Vec::new();
        for line in self.lines.values_mut() {
            line.send(now);
            taken.extend(line.outlet.iter_mut().flat_map(Outlet::take_sent));
        }
        taken.extend(self.ears.send());
        taken
    }

    /// Dials peers that are new or whose time has come. One that listens on a WebSocket needs no line.
    pub fn dial(&mut self, mesh: &Mesh, registry: &Registry, next_token: &mut u64, now: i64) {
        self.lines
            .retain(|peer, line| mesh.peers().get(peer).is_some_and(|peer| peer.row.push_socket() == Some(&line.path)));
        for peer in mesh.peers().push_recipients() {
            let Some(path) = mesh.peers().get(&peer).and_then(|peer| peer.row.push_socket().map(str::to_owned)) else {
                continue;
            };
            if self.ears.of(mesh, &peer).is_some() {
                self.lines.remove(peer.as_str());
                continue;
            }
            let line = self.lines.entry(peer.to_string()).or_insert_with(|| Line::new(path));
            if line.outlet.is_none() && line.retry_at.is_some_and(|at| at <= now) {
                line.dial(registry, next_token, now);
            }
        }
    }
}

/// A line as existing clients read it.
fn envelope(kind: &str, payload: &Value, now: i64) -> String {
    json!({ "type": kind, "payload": payload, "timestamp": time::iso(now) }).to_string()
}

impl Line {
    /// One that is to be dialled at once.
    fn new(path: String) -> Line {
        Line { path, outlet: None, attempts: 0, retry_at: Some(0), opened: 0 }
    }

    fn dial(&mut self, registry: &Registry, next_token: &mut u64, now: i64) {
        let ours = std::fs::metadata(&self.path)
            .is_ok_and(|meta| meta.file_type().is_socket() && meta.uid() == crate::sys::uid());
        let connected = if ours { UnixStream::connect(&self.path).ok() } else { None };
        let is_same_user = |stream: &UnixStream| {
            crate::sys::process::credentials(stream).is_some_and(|who| who.uid == crate::sys::uid())
        };
        let Some(stream) = connected.filter(is_same_user) else { return self.fail(now) };
        let token = *next_token;
        *next_token += 1;
        self.outlet = Outlet::register(stream, registry, token);
        if self.outlet.is_none() {
            return self.fail(now);
        }
        (self.opened, self.retry_at) = (now, None);
    }

    /// Gives the connection up, and tries again later unless it failed too often.
    fn fail(&mut self, now: i64) {
        self.outlet = None;
        let wait = (BACKOFF_MS.0 << self.attempts.min(5)).min(BACKOFF_MS.1);
        self.attempts += 1;
        self.retry_at = (self.attempts < ATTEMPTS_MAX).then_some(now + wait);
    }

    /// The peer hung up. What it did not take is gone with the line, so that the next one starts with
    /// a whole envelope; and only a line that held for a while makes up for attempts that failed.
    fn lost(&mut self, now: i64) {
        if now - self.opened >= BACKOFF_MS.1 {
            self.attempts = 0;
        }
        self.fail(now);
    }

    fn send(&mut self, now: i64) {
        if self.outlet.as_mut().is_some_and(|outlet| outlet.send().is_err()) {
            self.lost(now);
        }
    }
}
