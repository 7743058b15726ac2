//! Records which connections act for which peers. This module finds the peers of a connection, and the connections of a
//! peer.

use super::machine_of_connection::RemoteMachine;
use crate::base::id_types::{CountedMap, PeerId};
use crate::base::process_identity::Process;
use crate::core::ConnId;
use std::collections::HashMap;

/// What the mesh knows about a connection, such as the peers for which it acts.
#[derive(Debug, Default)]
pub(super) struct Attachment {
    peers: Vec<PeerId>,
    /// Sessions that have made calls over this connection after their hooks had announced the calls. All these sessions
    /// belong to one agent process.
    pub(super) announcers: Vec<PeerId>,
    /// Whether the last session that attached over this connection sent a key from the agent.
    pub(super) is_keyed: bool,
    /// The agent process that is an ancestor of the client on this connection.
    pub(super) agent: Option<Process>,
    /// Whether the client on this connection has stopped answering.
    pub(super) unresponsive: bool,
    /// The other machine from which the connection comes; `None` for a connection from this machine.
    pub(super) remote: Option<RemoteMachine>,
}

impl Attachment {
    /// The peers for which the connection acts.
    pub(super) fn peers(&self) -> &[PeerId] {
        &self.peers
    }

    /// Whether this agent process is an ancestor of the client on this connection.
    pub(super) fn is_below(&self, process: &Process) -> bool {
        self.agent.is_some_and(|agent| agent.is_same(process))
    }
}

/// All open connections.
///
/// **Invariant:** `connections` lists a connection under a peer if and only if the connection acts for that peer.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    by_connection: CountedMap<Attachment, ConnId>,
    connections: HashMap<PeerId, Vec<ConnId>>,
}

impl Attachments {
    /// Adds a new connection. The connection does not act for any peer yet.
    pub(super) fn open(&mut self, conn: ConnId) {
        self.by_connection.insert(conn, Attachment::default());
    }

    /// Removes a connection that was closed.
    pub(super) fn close(&mut self, conn: ConnId) {
        self.detach_all(conn);
        self.by_connection.remove(&conn);
    }

    /// Returns what the mesh knows about an open connection.
    pub(super) fn get(&self, conn: ConnId) -> Option<&Attachment> {
        self.by_connection.get(&conn)
    }

    /// Does the same as [`Attachments::get`], but the result is mutable.
    pub(super) fn get_mut(&mut self, conn: ConnId) -> Option<&mut Attachment> {
        self.by_connection.get_mut(&conn)
    }

    /// All open connections.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnId, &Attachment)> {
        self.by_connection.iter().map(|(conn, one)| (*conn, one))
    }

    /// How many connections are open.
    pub(super) fn len(&self) -> usize {
        self.by_connection.len()
    }

    /// The connections that act for a peer, in the order in which they attached.
    pub(super) fn connections_of(&self, id: &PeerId) -> &[ConnId] {
        self.connections.get(id).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns what the mesh knows about each connection that acts for a peer.
    pub(super) fn of_peer(&self, id: &PeerId) -> impl Iterator<Item = &Attachment> {
        self.connections_of(id).iter().filter_map(|conn| self.get(*conn))
    }

    /// Records that an open connection acts for one more peer. Returns false if the connection already acts for this
    /// peer.
    pub(super) fn attach(&mut self, conn: ConnId, id: &PeerId) -> bool {
        let Some(one) = self.by_connection.get_mut(&conn).filter(|one| !one.peers.contains(id)) else { return false };
        one.peers.push(id.clone());
        self.connections.entry(id.clone()).or_default().push(conn);
        true
    }

    /// Records that a connection no longer acts for a peer.
    pub(super) fn detach(&mut self, conn: ConnId, id: &PeerId) {
        if let Some(one) = self.by_connection.get_mut(&conn) {
            one.peers.retain(|attached| attached != id);
        }
        if let Some(connections) = self.connections.get_mut(id) {
            connections.retain(|attached| *attached != conn);
            if connections.is_empty() {
                self.connections.remove(id);
            }
        }
    }

    /// Records that a connection no longer acts for any peer. Returns the peers for which it acted.
    pub(super) fn detach_all(&mut self, conn: ConnId) -> Vec<PeerId> {
        let ids = self.get(conn).map(|one| one.peers.clone()).unwrap_or_default();
        ids.iter().for_each(|id| self.detach(conn, id));
        ids
    }

    /// Detaches all peers for which `fits` returns false. Each of them is detached from all its connections.
    pub(super) fn retain(&mut self, fits: impl Fn(&PeerId) -> bool) {
        self.connections.retain(|id, _| fits(id));
        self.by_connection.values_mut().for_each(|one| one.peers.retain(|id| fits(id)));
    }

    /// Moves all connections of the peer `id` to the peer `other`.
    pub(super) fn move_to(&mut self, id: &PeerId, other: &PeerId) {
        for conn in self.connections_of(id).to_vec() {
            self.detach(conn, id);
            self.attach(conn, other);
        }
        for announcer in self.by_connection.values_mut().flat_map(|one| &mut one.announcers) {
            if announcer == id {
                *announcer = other.clone();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ConnId::Client;

    #[test]
    fn a_connection_and_its_peer_know_each_other() {
        let (ada, bob): (PeerId, PeerId) = ("ada".into(), "bob".into());
        let mut attachments = Attachments::default();
        for conn in [1, 2] {
            attachments.open(Client(conn));
        }
        assert!(
            attachments.attach(Client(1), &ada)
                && attachments.attach(Client(2), &ada)
                && attachments.attach(Client(2), &bob)
        );
        assert!(!attachments.attach(Client(2), &bob), "it is attached already");
        assert!(!attachments.attach(Client(3), &bob), "no such connection is open");
        assert_eq!(attachments.connections_of(&"ada".into()), [1, 2].map(Client));

        attachments.move_to(&"ada".into(), &"carol".into());
        assert!(attachments.connections_of(&"ada".into()).is_empty());
        assert_eq!(attachments.connections_of(&"carol".into()), [1, 2].map(Client));

        attachments.close(Client(2));
        assert_eq!(attachments.connections_of(&"carol".into()), [Client(1)]);
        assert!(attachments.connections_of(&"bob".into()).is_empty());

        attachments.retain(|id| id != "carol");
        assert!(attachments.get(Client(1)).is_some_and(|one| one.peers().is_empty()));
        assert_eq!(attachments.detach_all(Client(1)), Vec::<PeerId>::new());
    }
}
