//! The registrations, the heartbeats and the departures of the clients of the old HTTP API.

use super::{Peer, Peers};
use crate::base::error::Error;
use crate::base::id_types::PeerId;
use crate::base::stored_enums::PeerKind;
use crate::base::untrusted_text;
use crate::core::Mesh;
use crate::core::event_journal::Change;
use crate::core::locks::Locks;
use crate::core::mail::Mail;
use crate::core::transaction_and_pending_effects::Turn;
use crate::store::PeerRow;

impl Peers {
    /// Returns the clients of the old HTTP API that are online. Such a client can receive pushes on its own socket.
    pub fn push_recipients(&self) -> Vec<PeerId> {
        let online = self.peers.http_clients().filter(|peer| peer.row.online);
        online.map(|peer| peer.row.id.clone()).collect()
    }

    /// Whether the mesh knows any client of the old HTTP API.
    pub(in crate::core) fn has_http_clients(&self) -> bool {
        self.peers.http_clients().next().is_some()
    }

    /// Registers a client of the old HTTP API. A client with a name takes over the mailbox of an offline peer with
    /// the same name, project and agent. Any other client becomes a new peer.
    fn register(
        &mut self,
        turn: &mut Turn,
        mail: &mut Mail,
        locks: &Locks,
        mut row: PeerRow,
        now: i64,
    ) -> Result<PeerRow, Error> {
        let is_auto = row.name == AUTO;
        let is_named = !row.name.is_empty() && !is_auto;
        row.name = untrusted_text::plain_name(&row.name);
        let same = |peer: &&Peer| {
            !peer.row.online
                && (&peer.row.name, &peer.row.project, &peer.row.agent) == (&row.name, &row.project, &row.agent)
        };
        let former = is_named.then(|| self.peers.http_clients().find(same)).flatten().map(|peer| peer.row.id.clone());
        row.id = match former {
            Some(id) => id,
            None => {
                self.make_room(turn, mail, locks, now)?;
                self.new_id()
            }
        };
        if is_auto {
            row.name = auto_name(&row.id);
        }
        row.host = self.settings.host.clone();
        (row.first_seen, row.last_seen, row.online) = (now, now, true);
        // A peer that registers again counts as new, so it moves to the end of the list.
        self.peers.remove(&row.id);
        self.peers.put(Peer::new(row.clone(), now));
        turn.store.put_peer(&row)?;
        Ok(row)
    }
}

/// A client of the old HTTP API sends this name if the broker should choose the name.
const AUTO: &str = "auto";

fn auto_name(id: &str) -> String {
    format!("peer-{}", id.get(..6).unwrap_or(""))
}

impl Mesh {
    /// Registers a client of the old HTTP API.
    ///
    /// # Errors
    /// When too many clients register, the mesh is full, or the database can't be written.
    pub fn register(&mut self, row: PeerRow, now: i64) -> Result<PeerRow, Error> {
        let Mesh { turn, peers, mail, locks, journal, rates, .. } = self;
        rates.charge(peers, "registrations", 10, now)?;
        let row = peers.register(turn, mail, locks, row, now)?;
        peers.record(turn, journal, &Change::PeerJoined(&row), &row.id, now)?;
        Ok(row)
    }

    /// Records a heartbeat. Returns false if the peer is unknown or offline. Such a peer must register again.
    pub fn heartbeat(&mut self, id: &str, now: i64) -> bool {
        let peers = &mut self.peers;
        match peers.get_mut(id) {
            Some(peer) if peer.row.is_http() => {
                peer.last_heartbeat = now;
                // A client that was marked as gone has lost its locks and its push socket. To get a push socket again,
                // the client must register again. So a late heartbeat does not bring the client back online.
                peer.row.online
            }
            Some(peer) => peer.is_online(),
            None => false,
        }
    }

    /// Ends the registration of a client of the old HTTP API. A client with a chosen name keeps its mailbox.
    ///
    /// # Errors
    /// When the database can't be written.
    pub fn unregister(&mut self, id: &str, reason: &str, now: i64) -> Result<(), Error> {
        let Mesh { turn, peers, mail, locks, channels, journal, .. } = self;
        journal.subscribe_peer(id, Vec::new());
        let Some(peer) = peers.get_mut(id).filter(|peer| peer.row.is_http()) else { return Ok(()) };
        let was_online = std::mem::replace(&mut peer.row.online, false);
        peer.row.last_seen = now;
        peer.row.kind = PeerKind::Http { push_socket: None };
        let row = peer.row.clone();
        locks.release(turn, peers, journal, |lock| lock.holder == row.id, Some(reason), now)?;
        channels.leave_all(turn, peers, journal, id, now)?;
        if row.name.is_empty() || row.name == auto_name(&row.id) {
            peers.forget(turn, mail, id)?;
        } else {
            turn.store.put_peer(&row)?;
        }
        if was_online {
            peers.record(turn, journal, &Change::PeerLeft { row: &row, named: false, reason }, id, now)?;
        }
        Ok(())
    }
}
