//! WebSockets of clients of slm-mesh 1.3 on other machines. These clients register over HTTP, and receive pushes on the
//! WebSocket. A client sends hellos, each with an id for which the client listens. Clients up to version 1.3.1 choose
//! this id themselves. The id is also the name of the socket that the client registered.
//!
//! **Invariant:** everything except hellos is ignored, and no line is answered.

use super::push_connection::PushConnection;
use crate::base::id_types::{MessageSeq, PeerId};
use crate::base::limits;
use crate::core::Mesh;
use serde_json::Value;
use std::path::Path;

/// Maximum number of ids for which one connection may listen. The oldest ids are dropped first.
const IDS_MAX: usize = 16;

/// One WebSocket connection.
struct Subscriber {
    connection: PushConnection,
    /// The ids for which the connection listens.
    ids: Vec<String>,
    is_gone: bool,
}

/// All WebSockets on which clients receive pushes.
#[derive(Default)]
pub struct Subscribers {
    subscribers: Vec<Subscriber>,
}

impl Subscribers {
    /// Adds a connection that does not listen for any id yet.
    pub fn add(&mut self, connection: PushConnection) {
        self.subscribers.push(Subscriber { connection, ids: Vec::new(), is_gone: false });
    }

    /// Reads the hellos that have arrived on the connection with this token.
    pub fn read_hellos(&mut self, token: u64) {
        let Some(place) = self.subscribers.iter().position(|subscriber| subscriber.connection.token() == token) else {
            return;
        };
        let mut hellos = Vec::new();
        let subscriber = &mut self.subscribers[place];
        subscriber.is_gone |= subscriber.connection.read_lines(|line| hellos.extend(parse_hello(line))).is_err();
        for id in hellos {
            // Pushes for an id go only to the connection with the latest hello for this id.
            self.subscribers.iter_mut().for_each(|other| other.ids.retain(|known| *known != id));
            let ids = &mut self.subscribers[place].ids;
            if ids.len() == IDS_MAX {
                ids.remove(0);
            }
            ids.push(id);
        }
        self.subscribers.retain(|subscriber| !subscriber.is_gone);
    }

    /// Returns the index of the connection that listens for a peer.
    pub fn find(&self, mesh: &Mesh, peer: &PeerId) -> Option<usize> {
        if self.subscribers.is_empty() {
            return None;
        }
        let listens =
            |id: &str| self.subscribers.iter().position(|subscriber| subscriber.ids.iter().any(|known| known == id));
        let path = mesh.peers().get(peer).and_then(|peer| peer.row.push_socket());
        let socket_name = path.and_then(|path| Path::new(path).file_stem()?.to_str());
        listens(peer.as_str()).or_else(|| listens(socket_name?))
    }

    /// Queues a line for the connection with this index.
    pub fn enqueue(&mut self, place: usize, text: &str, seq: Option<MessageSeq>) {
        if let Some(subscriber) = self.subscribers.get_mut(place) {
            // If a client does not read, the next flush drops its connection. The client reconnects by itself.
            subscriber.is_gone |= subscriber.connection.enqueue(text, seq).is_err();
        }
    }

    /// Queues a line for all connections.
    pub fn enqueue_for_all(&mut self, text: &str) {
        (0..self.subscribers.len()).for_each(|place| self.enqueue(place, text, None));
    }

    /// Sends as many queued lines as the sockets accept. Returns the sequence numbers of the messages that were sent
    /// completely.
    pub fn flush(&mut self) -> Vec<MessageSeq> {
        let mut sent = Vec::new();
        for subscriber in &mut self.subscribers {
            subscriber.is_gone |= subscriber.connection.send().is_err();
            sent.extend(subscriber.connection.drain_sent());
        }
        self.subscribers.retain(|subscriber| !subscriber.is_gone);
        sent
    }
}

/// Returns the id in a hello; `None` if the line is not a hello.
fn parse_hello(line: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let id = value["peerId"].as_str().filter(|id| !id.is_empty() && id.len() <= limits::WORD_MAX)?;
    (value["type"] == "hello").then(|| id.to_owned())
}
