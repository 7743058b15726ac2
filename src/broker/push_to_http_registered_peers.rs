//! Pushes lines to peers that registered over HTTP. Each line contains a JSON object in the form that clients of
//! slm-mesh 1.x expect. For a peer on this machine, the broker connects to the Unix socket that the peer registered. A
//! peer on another machine opens a WebSocket instead, if it runs slm-mesh 1.3 or later.
//!
//! **Invariant:** the broker connects only to sockets of this user, and closes the connection of a peer that does not
//! read.

use super::blocking_filesystem_threads::{DirectoryLookup, DirectoryLookups};
use super::event_loop::{LoopContext, TokenSource};
use super::push_connection::PushConnection;
use super::push_to_old_websocket_clients::Subscribers;
use crate::base::domain_enums::EventKind;
use crate::base::id_types::{MessageSeq, PeerId};
use crate::base::time_format;
use crate::core::Mesh;
use crate::store::Event;
use mio::Registry;
use mio::net::UnixStream;
use serde_json::{Value, json};
use std::collections::HashMap;

/// After this many failures in a row, the broker does not try to connect to a peer until the peer registers again.
const ATTEMPTS_MAX: u32 = 10;
/// The pause after the first failure, in ms. The pause doubles after each further failure.
const BACKOFF_MS_MIN: i64 = 200;
/// Maximum pause after a failure, in ms.
const BACKOFF_MS_MAX: i64 = 5000;
/// Maximum number of lines that are queued while the broker connects to a peer's socket. Further lines are dropped.
/// This is harmless, because the peer can also read its mailbox and the event stream.
const LINES_KEPT_MAX: usize = 64;

/// The socket of one peer.
struct PeerSocket {
    path: String,
    state: SocketState,
    /// The number of failed attempts in a row.
    n_failures: u32,
}

/// The state of the connection to a peer's socket.
enum SocketState {
    /// The broker has been connected since this time, in ms.
    Connected(PushConnection, i64),
    /// The broker is connecting. These lines wait for the connection. If a line contains a message, the message's
    /// sequence number is stored with the line.
    Dialling(DirectoryLookup<UnixStream>, Vec<(String, Option<MessageSeq>)>),
    /// The broker will try to connect at this time, in ms.
    RetryAt(i64),
    /// The broker has failed to connect too often.
    GivenUp,
}

/// The connections over which peers receive pushes.
pub struct PushTargets {
    sockets: HashMap<PeerId, PeerSocket>,
    subscribers: Subscribers,
    lookups: DirectoryLookups,
}

impl PushTargets {
    /// Starts without connections. The threads of `lookups` connect to the sockets, because access to a socket's
    /// directory may block.
    pub fn new(lookups: DirectoryLookups) -> PushTargets {
        PushTargets { sockets: HashMap::new(), subscribers: Subscribers::default(), lookups }
    }

    /// Closes all connections, because the mesh is about to be replaced.
    pub fn drop_all(&mut self) {
        self.sockets.clear();
        self.subscribers = Subscribers::default();
    }

    /// Adds a client that has opened a WebSocket to receive pushes.
    pub fn add_subscriber(&mut self, context: &mut LoopContext, stream: UnixStream) {
        let token = context.tokens.next_token();
        if let Some(connection) = PushConnection::register(stream, context.poll.registry(), token) {
            self.subscribers.add(connection);
        }
    }

    /// Reads from the connection with this token, because the poll has reported an event for it.
    pub fn note_ready(&mut self, token: u64, now: i64) {
        let has_token = |socket: &&mut PeerSocket| matches!(&socket.state, SocketState::Connected(connection, _) if connection.token() == token);
        match self.sockets.values_mut().find(has_token) {
            Some(socket) => socket.check(now),
            None => self.subscribers.read_hellos(token),
        }
    }

    /// The time, in ms, at which the next attempt to connect to a peer is due.
    pub fn deadline(&self) -> Option<i64> {
        let retry_at = |socket: &PeerSocket| match socket.state {
            SocketState::RetryAt(at) => Some(at),
            SocketState::Connected(..) | SocketState::Dialling(..) | SocketState::GivenUp => None,
        };
        self.sockets.values().filter_map(retry_at).min()
    }

    /// Pushes a message to its recipient.
    pub fn push_message(&mut self, mesh: &Mesh, peer: &PeerId, seq: MessageSeq, from: &PeerId, body: &str, now: i64) {
        let payload = json!({ "messageId": mesh.ids().message(seq), "fromPeer": from.as_str(), "text": body });
        self.push(mesh, peer, &envelope("message", &payload, now), Some(seq), now);
    }

    /// Pushes an event to its subscribers. For some kinds of events, also pushes an update to all peers.
    pub fn push_event(&mut self, mesh: &Mesh, event: &Event, now: i64) {
        let payload: Value = serde_json::from_str(&event.payload).unwrap_or_else(|_| json!({}));
        let peers = mesh.peers().push_recipients();
        for peer in peers.iter().filter(|peer| mesh.journal().is_peer_subscribed(peer, &event.kind)) {
            let mut flat = json!({ "eventType": event.kind.word() });
            if let (Some(flat), Some(payload)) = (flat.as_object_mut(), payload.as_object()) {
                flat.extend(payload.clone());
            }
            self.push(mesh, peer, &envelope("event", &flat, now), None, now);
        }
        if let Some((kind, payload)) = update_of(&event.kind, &payload) {
            self.push_to_all(mesh, &peers, &envelope(kind, &payload, now), now);
        }
    }

    /// Tells all peers that the broker is ending.
    pub fn announce_shutdown(&mut self, mesh: &Mesh, now: i64) {
        self.push_to_all(mesh, &mesh.peers().push_recipients(), &envelope("shutdown", &json!({}), now), now);
        for socket in self.sockets.values_mut() {
            socket.send(now);
        }
        self.subscribers.flush();
    }

    /// Pushes one line to all peers. A WebSocket that serves several peers gets the line only once.
    fn push_to_all(&mut self, mesh: &Mesh, peers: &[PeerId], text: &str, now: i64) {
        for peer in peers {
            if self.subscribers.find(mesh, peer).is_none() {
                self.push(mesh, peer, text, None, now);
            }
        }
        self.subscribers.enqueue_for_all(text);
    }

    fn push(&mut self, mesh: &Mesh, peer: &PeerId, text: &str, seq: Option<MessageSeq>, now: i64) {
        if let Some(place) = self.subscribers.find(mesh, peer) {
            return self.subscribers.enqueue(place, text, seq);
        }
        let Some(path) = mesh.peers().get(peer).and_then(|peer| peer.row.push_socket().map(str::to_owned)) else {
            return;
        };
        let socket = self.sockets.entry(peer.clone()).or_insert_with(|| PeerSocket::new(path.clone()));
        if socket.path != path {
            *socket = PeerSocket::new(path);
        }
        socket.enqueue(text, seq, now);
    }

    /// Sends as much as the sockets accept. Returns the sequence numbers of the messages that were sent completely.
    pub fn flush(&mut self, now: i64) -> Vec<MessageSeq> {
        let mut sent = Vec::new();
        for socket in self.sockets.values_mut() {
            socket.send(now);
            if let SocketState::Connected(connection, _) = &mut socket.state {
                sent.extend(connection.drain_sent());
            }
        }
        sent.extend(self.subscribers.flush());
        sent
    }

    /// Takes over established connections. Then starts to connect to each peer that is new or due for another attempt.
    /// Peers with a WebSocket are skipped.
    pub fn dial(&mut self, context: &mut LoopContext) {
        let LoopContext { mesh, poll, tokens, now, .. } = context;
        let is_current = |peer: &PeerId, socket: &mut PeerSocket| {
            mesh.peers().get(peer).is_some_and(|peer| peer.row.push_socket() == Some(&socket.path))
        };
        self.sockets.retain(is_current);
        for socket in self.sockets.values_mut() {
            socket.take_over(poll.registry(), tokens, *now);
        }
        for peer in mesh.peers().push_recipients() {
            let Some(path) = mesh.peers().get(&peer).and_then(|peer| peer.row.push_socket().map(str::to_owned)) else {
                continue;
            };
            if self.subscribers.find(mesh, &peer).is_some() {
                self.sockets.remove(peer.as_str());
                continue;
            }
            let socket = self.sockets.entry(peer.clone()).or_insert_with(|| PeerSocket::new(path));
            if matches!(socket.state, SocketState::RetryAt(at) if at <= *now) {
                socket.dial(&self.lookups, *now);
            }
        }
    }
}

/// Returns the type and the payload of the update that all peers get for an event; `None` for kinds without an update.
fn update_of(kind: &EventKind, payload: &Value) -> Option<(&'static str, Value)> {
    match kind {
        EventKind::PeerLeft => Some(("peer_update", json!({ "action": "left", "peerId": payload["peerId"] }))),
        EventKind::StateChanged => {
            let (key, namespace) = (&payload["key"], &payload["namespace"]);
            Some(("peer_update", json!({ "action": "state_changed", "key": key, "namespace": namespace })))
        }
        EventKind::FileLocked => {
            let (path, by) = (&payload["filePath"], &payload["lockedBy"]);
            Some(("lock_update", json!({ "filePath": path, "action": "locked", "by": by })))
        }
        EventKind::FileUnlocked => {
            Some(("lock_update", json!({ "filePath": payload["filePath"], "action": "unlocked" })))
        }
        _ => None,
    }
}

/// Formats a line for a push in the form that clients of slm-mesh 1.x expect.
fn envelope(kind: &str, payload: &Value, now: i64) -> String {
    json!({ "type": kind, "payload": payload, "timestamp": time_format::iso(now) }).to_string()
}

impl PeerSocket {
    /// Makes a socket that is not connected. The first attempt to connect is due at once.
    fn new(path: String) -> PeerSocket {
        PeerSocket { path, state: SocketState::RetryAt(0), n_failures: 0 }
    }

    fn dial(&mut self, lookups: &DirectoryLookups, now: i64) {
        self.state = match lookups.dial(self.path.as_str().into()) {
            Some(lookup) => SocketState::Dialling(lookup, Vec::new()),
            None => SocketState::RetryAt(now + BACKOFF_MS_MIN),
        };
    }

    /// Takes over the connection, if it is established.
    fn take_over(&mut self, registry: &Registry, tokens: &mut TokenSource, now: i64) {
        let SocketState::Dialling(lookup, lines) = &mut self.state else { return };
        let Some(stream) = lookup.result() else { return };
        let lines = std::mem::take(lines);
        match stream.and_then(|stream| PushConnection::register(stream, registry, tokens.next_token())) {
            Some(connection) => self.state = SocketState::Connected(connection, now),
            None => return self.fail(now),
        }
        for (text, seq) in lines {
            self.enqueue(&text, seq, now);
        }
    }

    /// Queues a line. Drops the line if the peer can't be reached or does not read. This is harmless, because the peer
    /// can also read its mailbox and the event stream.
    fn enqueue(&mut self, text: &str, seq: Option<MessageSeq>, now: i64) {
        match &mut self.state {
            SocketState::Connected(connection, _) => {
                if connection.enqueue(text, seq).is_err() {
                    self.fail(now);
                }
            }
            SocketState::Dialling(_, lines) if lines.len() < LINES_KEPT_MAX => lines.push((text.to_owned(), seq)),
            SocketState::Dialling(..) | SocketState::RetryAt(_) | SocketState::GivenUp => {}
        }
    }

    fn send(&mut self, now: i64) {
        if let SocketState::Connected(connection, since) = &mut self.state
            && connection.send().is_err()
        {
            let since = *since;
            self.lose(since, now);
        }
    }

    /// Reads from the socket to find out whether the peer has hung up. Peers never send anything on this socket.
    fn check(&mut self, now: i64) {
        if let SocketState::Connected(connection, since) = &mut self.state
            && connection.read_lines(|_| ()).is_err()
        {
            let since = *since;
            self.lose(since, now);
        }
    }

    /// Closes the connection. The broker tries again later, unless too many attempts have failed.
    fn fail(&mut self, now: i64) {
        let wait = (BACKOFF_MS_MIN << self.n_failures.min(5)).min(BACKOFF_MS_MAX);
        self.n_failures += 1;
        self.state =
            if self.n_failures < ATTEMPTS_MAX { SocketState::RetryAt(now + wait) } else { SocketState::GivenUp };
    }

    /// Drops a connection that the peer has closed, together with its unsent output. If the output were kept, the next
    /// connection would begin in the middle of a line. The count of failures is reset only if the connection lasted at
    /// least `BACKOFF_MS_MAX`.
    fn lose(&mut self, since: i64, now: i64) {
        if now - since >= BACKOFF_MS_MAX {
            self.n_failures = 0;
        }
        self.fail(now);
    }
}
