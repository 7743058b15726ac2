//! Pushes to peers that registered over HTTP with a Unix socket of their own: one JSON envelope a
//! line, broker to peer only, as existing clients listen for them.
//!
//! **Invariant:** only a socket of this user is dialled, and a peer that does not read is dropped.

use crate::mesh::{Mesh, time};
use crate::store::Event;
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Unsent bytes for one peer, after which it is dropped.
const OUTPUT_MAX: usize = 1 << 20;
/// Attempts in a row before a peer is left alone until it registers again.
const ATTEMPTS_MAX: u32 = 10;
/// The wait after the first failed attempt, and the longest, ms.
const BACKOFF_MS: (i64, i64) = (200, 5000);

/// One peer's line.
struct Line {
    path: String,
    stream: Option<(UnixStream, u64)>,
    output: Vec<u8>,
    sent: usize,
    /// Messages in `output`: where each ends, and its sequence number.
    marks: Vec<(usize, i64)>,
    attempts: u32,
    retry_at: Option<i64>,
    /// When the line was opened, ms.
    opened: i64,
}

/// All such peers.
pub struct Pushes {
    lines: HashMap<String, Line>,
}

impl Pushes {
    /// None yet.
    pub fn new() -> Pushes {
        Pushes { lines: HashMap::new() }
    }

    /// Something happened on a socket; the next flush finds out what.
    pub fn note_ready(&mut self, token: u64, now: i64) {
        let line = self.lines.values_mut().find(|line| line.stream.as_ref().is_some_and(|(_, own)| *own == token));
        if let Some(line) = line
            && line.hung_up()
        {
            line.lost(now);
        }
    }

    /// When a peer is to be dialled again, ms.
    pub fn deadline(&self) -> Option<i64> {
        self.lines.values().filter(|line| line.stream.is_none()).filter_map(|line| line.retry_at).min()
    }

    /// A message for a peer.
    pub fn mail(&mut self, mesh: &Mesh, peer: &str, seq: i64, from: &str, body: &str, now: i64) {
        let payload = json!({ "messageId": mesh.message_id(seq), "fromPeer": from, "text": body });
        self.put(mesh, peer, "message", &payload, Some(seq), now);
    }

    /// An event: to those who subscribed it first, then the update that all get.
    pub fn event(&mut self, mesh: &Mesh, event: &Event, now: i64) {
        let payload: Value = serde_json::from_str(&event.payload).unwrap_or_else(|_| json!({}));
        let listeners = mesh.listeners();
        for peer in listeners.iter().filter(|peer| mesh.is_subscribed(peer, &event.kind)) {
            let mut flat = json!({ "eventType": event.kind });
            if let (Some(flat), Some(payload)) = (flat.as_object_mut(), payload.as_object()) {
                flat.extend(payload.clone());
            }
            self.put(mesh, peer, "event", &flat, None, now);
        }
        let update = match event.kind.as_str() {
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
            for peer in &listeners {
                self.put(mesh, peer, kind, &payload, None, now);
            }
        }
    }

    /// The broker ends.
    pub fn shutdown(&mut self, mesh: &Mesh, now: i64) {
        for peer in mesh.listeners() {
            self.put(mesh, &peer, "shutdown", &json!({}), None, now);
        }
        for line in self.lines.values_mut() {
            line.send(now);
        }
    }

    fn put(&mut self, mesh: &Mesh, peer: &str, kind: &str, payload: &Value, seq: Option<i64>, now: i64) {
        let Some(path) = mesh.peer(peer).and_then(|peer| peer.row.uds_path.clone()) else { return };
        let line = self.lines.entry(peer.to_owned()).or_insert_with(|| Line::new(String::new()));
        if line.path != path {
            *line = Line::new(path);
        }
        // Nothing is kept for who can't be reached: its mailbox and the event stream have it all. A
        // line that was never dialled will be in this very turn.
        if line.stream.is_none() && line.retry_at != Some(0) {
            return;
        }
        let text = json!({ "type": kind, "payload": payload, "timestamp": time::iso(now) }).to_string();
        if line.output.len() + text.len() > OUTPUT_MAX {
            // It does not read; what it missed is in its mailbox and in the event stream.
            line.fail(now);
            return;
        }
        line.output.extend_from_slice(text.as_bytes());
        line.output.push(b'\n');
        line.marks.extend(seq.map(|seq| (line.output.len(), seq)));
    }

    /// Dials whom it is time to dial, sends what is taken, and answers with the messages that went whole.
    pub fn flush(&mut self, mesh: &Mesh, registry: &Registry, next_token: &mut u64, now: i64) -> Vec<i64> {
        for peer in mesh.listeners() {
            // A peer is dialled when it registers, so that it gets the first push at once.
            if !self.lines.contains_key(&peer) {
                self.put_nothing(mesh, &peer);
            }
        }
        self.lines
            .retain(|peer, line| mesh.peer(peer).is_some_and(|peer| peer.row.uds_path.as_ref() == Some(&line.path)));
        let mut taken = Vec::new();
        for line in self.lines.values_mut() {
            if line.stream.is_none() && line.retry_at.is_some_and(|at| at <= now) {
                line.dial(registry, next_token, now);
            }
            line.send(now);
            let sent = line.sent;
            taken.extend(line.marks.iter().filter(|(end, _)| *end <= sent).map(|(_, seq)| *seq));
            line.marks.retain(|(end, _)| *end > sent);
            if line.sent == line.output.len() {
                line.output.clear();
                line.sent = 0;
            }
        }
        taken
    }

    fn put_nothing(&mut self, mesh: &Mesh, peer: &str) {
        let Some(path) = mesh.peer(peer).and_then(|peer| peer.row.uds_path.clone()) else { return };
        self.lines.insert(peer.to_owned(), Line::new(path));
    }
}

impl Line {
    /// One that is to be dialled at once.
    fn new(path: String) -> Line {
        let (output, marks) = (Vec::new(), Vec::new());
        Line { path, stream: None, output, sent: 0, marks, attempts: 0, retry_at: Some(0), opened: 0 }
    }

    fn dial(&mut self, registry: &Registry, next_token: &mut u64, now: i64) {
        let ours = std::fs::metadata(&self.path)
            .is_ok_and(|meta| meta.file_type().is_socket() && meta.uid() == crate::world::uid());
        let connected = if ours { UnixStream::connect(&self.path).ok() } else { None };
        let Some(mut stream) = connected else { return self.fail(now) };
        let same_user = crate::world::process::credentials(&stream).is_some_and(|who| who.uid == crate::world::uid());
        let token = *next_token;
        *next_token += 1;
        let interest = Interest::READABLE | Interest::WRITABLE;
        if !same_user || registry.register(&mut stream, Token(token as usize), interest).is_err() {
            return self.fail(now);
        }
        self.stream = Some((stream, token));
        self.opened = now;
        self.retry_at = None;
    }

    /// Gives the connection up, and tries again later unless it failed too often.
    fn fail(&mut self, now: i64) {
        self.stream = None;
        self.output.clear();
        self.marks.clear();
        self.sent = 0;
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
        while let Some((stream, _)) = &mut self.stream {
            if self.sent == self.output.len() {
                return;
            }
            match stream.write(&self.output[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.lost(now),
            }
        }
    }

    /// Whether the peer closed its end. It never sends anything.
    fn hung_up(&mut self) -> bool {
        let Some((stream, _)) = &mut self.stream else { return false };
        let mut byte = [0; 64];
        loop {
            match io::Read::read(stream, &mut byte) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }
}
