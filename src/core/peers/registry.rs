//! The retention of offline peers, and the registration and heartbeats of clients of the old HTTP API.

use super::{Peer, Peers};
use crate::base::error::{Error, ErrorKind};
use crate::base::ids::PeerId;
use crate::base::kinds::PeerKind;
use crate::base::{framed_text, limits};
use crate::core::Mesh;
use crate::core::journal::Change;
use crate::core::locks::Locks;
use crate::core::mail::Mail;
use crate::core::turn::Turn;
use crate::store::PeerRow;

impl Peers {
    /// The clients of the old HTTP API that are online and may receive pushes on their own sockets.
    pub fn push_recipients(&self) -> Vec<PeerId> {
        let online = self.peers.iter().filter(|peer| peer.row.is_http() && peer.row.online);
        online.map(|peer| peer.row.id.clone()).collect()
    }

    /// Makes room for one more peer by forgetting offline peers that have neither unread mail nor locks.
    pub(super) fn make_room(&mut self, turn: &mut Turn, mail: &mut Mail, locks: &Locks, now: i64) -> Result<(), Error> {
        if self.peers.len() < limits::PEERS_MAX {
            return Ok(());
        }
        self.forget_old(turn, mail, locks, now + limits::AWAY_KEPT_MS)?;
        if self.peers.len() < limits::PEERS_MAX {
            return Ok(());
        }
        let text = format!("the mesh knows {} peers already; stop some that are not needed", limits::PEERS_MAX);
        Err(Error::new(ErrorKind::Full, text))
    }

    /// Forgets peers that have been offline for a long time and have neither unread mail nor locks.
    pub(in crate::core) fn forget_old(
        &mut self,
        turn: &mut Turn,
        mail: &mut Mail,
        locks: &Locks,
        now: i64,
    ) -> Result<(), Error> {
        let is_old = |peer: &&Peer| {
            let kept = peer.is_online() || peer.row.kind == PeerKind::Human;
            !kept && now - peer.row.last_seen > limits::AWAY_KEPT_MS
        };
        let ids: Vec<PeerId> = self.peers.iter().filter(is_old).map(|peer| peer.row.id.clone()).collect();
        for id in ids {
            if mail.unread(&turn.store, &id)? == 0 && !locks.has_any(&id) {
                self.forget(turn, mail, &id)?;
            }
        }
        Ok(())
    }

    /// Forgets a peer and its counts.
    pub(super) fn forget(&mut self, turn: &mut Turn, mail: &mut Mail, id: &str) -> Result<(), Error> {
        turn.store.drop_peer(id)?;
        self.peers.retain(|peer| peer.row.id != id);
        mail.forget_peer(id);
        Ok(())
    }

    /// When a peer's state changes next without an event, ms.
    pub(in crate::core) fn deadline(&self) -> Option<i64> {
        self.peers.iter().filter_map(|peer| peer.deadline(&self.settings)).min()
    }

    /// Registers a client of the old HTTP API. A client with a name takes over the mailbox of an offline peer with
    /// the same name, project and agent. Otherwise it becomes a new peer.
    fn register(
        &mut self,
        turn: &mut Turn,
        mail: &mut Mail,
        locks: &Locks,
        mut row: PeerRow,
        now: i64,
    ) -> Result<PeerRow, Error> {
        let is_named = !row.name.is_empty() && row.name != AUTO;
        let same = |peer: &&Peer| {
            let is_offline = peer.row.is_http() && !peer.row.online;
            is_offline && (&peer.row.name, &peer.row.project, &peer.row.agent) == (&row.name, &row.project, &row.agent)
        };
        let former = is_named.then(|| self.peers.iter().find(same)).flatten().map(|peer| peer.row.id.clone());
        row.id = match former {
            Some(id) => id,
            None => {
                self.make_room(turn, mail, locks, now)?;
                self.new_id()
            }
        };
        row.name = if row.name == AUTO { auto_name(&row.id) } else { framed_text::plain_name(&row.name) };
        row.host = self.settings.host.clone();
        (row.first_seen, row.last_seen, row.online) = (now, now, true);
        self.peers.retain(|peer| peer.row.id != row.id);
        self.peers.push(Peer::new(row.clone(), now));
        turn.store.put_peer(&row)?;
        Ok(row)
    }
}

/// The name by which a client of the old HTTP API asks the broker to choose a name.
const AUTO: &str = "auto";

fn auto_name(id: &str) -> String {
    format!("peer-{}", id.get(..6).unwrap_or(""))
}

impl Mesh {
    /// Registers a client of the old HTTP API.
    ///
    /// # Errors
    /// When too many register, the mesh is full, or the disk refuses.
    pub fn register(&mut self, row: PeerRow, now: i64) -> Result<PeerRow, Error> {
        let Mesh { turn, peers, mail, locks, journal, rates, .. } = self;
        rates.charge(peers, "registrations", 10, now)?;
        let row = peers.register(turn, mail, locks, row, now)?;
        peers.record(turn, journal, &Change::PeerJoined(&row), &row.id, now)?;
        Ok(row)
    }

    /// Notes a heartbeat; returns false when the peer is unknown or gone.
    pub fn heartbeat(&mut self, id: &str, now: i64) -> bool {
        let peers = &mut self.peers;
        match peers.get_mut(id) {
            Some(peer) if peer.row.is_http() => {
                peer.last_heartbeat = now;
                // A client that is told that it is gone registers again. If a late heartbeat revived it instead, it
                // would have neither its locks nor its push socket.
                peer.row.online
            }
            Some(peer) => peer.is_online(),
            None => false,
        }
    }

    /// Ends a client of the old HTTP API that leaves in order. A client with a chosen name keeps its mailbox.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn unregister(&mut self, id: &str, reason: &str, now: i64) -> Result<(), Error> {
        let Mesh { turn, peers, mail, locks, channels, journal, .. } = self;
        journal.subscribe_peer(id, Vec::new());
        let Some(peer) = peers.get_mut(id).filter(|peer| peer.row.is_http()) else { return Ok(()) };
        let was_online = std::mem::replace(&mut peer.row.online, false);
        peer.row.last_seen = now;
        peer.row.kind = PeerKind::Http { push_socket: None };
        let row = peer.row.clone();
        locks.release(turn, peers, journal, |lock| lock.holder == row.id, reason, now)?;
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

    /// Marks peers as gone whose time is up: HTTP clients without a heartbeat, and sessions whose grace period is
    /// over.
    pub(in crate::core) fn expire_peers(&mut self, now: i64) -> Result<(), Error> {
        let peers = &self.peers;
        let due = |peer: &&Peer| peer.deadline(&peers.settings).is_some_and(|at| at <= now);
        let due: Vec<PeerRow> = peers.peers.iter().filter(due).map(|peer| peer.row.clone()).collect();
        for row in due {
            if row.is_http() {
                self.unregister(&row.id, "dead_timeout", now)?;
            } else {
                self.end_grace(&row.id, now)?;
            }
        }
        Ok(())
    }

    /// Ends the locks of a session that did not come back in time.
    fn end_grace(&mut self, id: &str, now: i64) -> Result<(), Error> {
        let Mesh { turn, peers, locks, channels, journal, .. } = self;
        let Some(peer) = peers.get_mut(id) else { return Ok(()) };
        let is_unannounced = std::mem::replace(&mut peer.row.online, false);
        let row = peer.row.clone();
        if is_unannounced {
            turn.store.put_peer(&row)?;
            let change = Change::PeerLeft { row: &row, named: true, reason: "lost" };
            peers.record(turn, journal, &change, id, now)?;
        }
        locks.release(
            turn,
            peers,
            journal,
            |lock| lock.holder == id && lock.owner.is_shared(),
            "holder is gone",
            now,
        )?;
        channels.leave_all(turn, peers, journal, id, now)?;
        if let Some(peer) = peers.get_mut(id) {
            peer.offline_since = None;
        }
        peers.forget_process(turn, id)
    }
}
