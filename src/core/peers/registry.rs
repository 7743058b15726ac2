//! The roster: who is known, for how long, and the life of peers that registered over HTTP.

use crate::base::error::{Error, ErrorKind};
use crate::base::limits;
use crate::core::Mesh;
use crate::core::peers::Peer;
use crate::store::PeerRow;
use serde_json::json;

impl Mesh {
    /// All peers, oldest first.
    pub fn roster(&self) -> &[Peer] {
        &self.peers
    }

    /// Ids of the peers over HTTP, who may take pushes on a way of their own.
    pub fn listeners(&self) -> Vec<String> {
        let listens = |peer: &&Peer| peer.row.kind == "http" && peer.row.here;
        self.peers.iter().filter(listens).map(|peer| peer.row.id.clone()).collect()
    }

    /// Makes room for one more peer by forgetting one that is away with nothing waiting for it.
    pub(crate) fn make_room(&mut self, now: i64) -> Result<(), Error> {
        if self.peers.len() < limits::PEERS_MAX {
            return Ok(());
        }
        self.forget_peers(now + limits::AWAY_KEPT_MS)?;
        if self.peers.len() < limits::PEERS_MAX {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Full,
            format!("the mesh knows {} peers already; stop some that are not needed", limits::PEERS_MAX),
        ))
    }

    /// Forgets peers that have been away for long and for whom nothing waits.
    pub(crate) fn forget_peers(&mut self, now: i64) -> Result<(), Error> {
        let long_gone =
            |peer: &&Peer| !peer.is_here() && peer.row.kind != "human" && now - peer.row.seen > limits::AWAY_KEPT_MS;
        let ids: Vec<String> = self.peers.iter().filter(long_gone).map(|peer| peer.row.id.clone()).collect();
        for id in ids {
            if self.unread(&id)? == 0 && self.locks.iter().all(|lock| lock.holder != id) {
                self.forget(&id)?;
            }
        }
        Ok(())
    }

    /// Forgets a peer, and what was counted for it.
    pub(crate) fn forget(&mut self, id: &str) -> Result<(), Error> {
        self.store.drop_peer(id)?;
        self.peers.retain(|peer| peer.row.id != id);
        self.unread.remove(id);
        Ok(())
    }

    // The life of peers over HTTP, for the frozen adapter.

    /// Registers an HTTP peer. One with a name takes up the mailbox of the same name, project and
    /// agent that is away; all others are new.
    pub fn register(&mut self, mut row: PeerRow, now: i64) -> Result<PeerRow, Error> {
        self.limit("registrations", 10, now)?;
        let named = !row.name.is_empty() && row.name != "auto";
        let same = |peer: &&Peer| {
            peer.row.kind == "http"
                && !peer.row.here
                && peer.row.name == row.name
                && peer.row.project == row.project
                && peer.row.agent == row.agent
        };
        let old = named.then(|| self.peers.iter().find(same)).flatten();
        row.id = old.map_or_else(String::new, |peer| peer.row.id.clone());
        let is_new = row.id.is_empty();
        if is_new {
            self.make_room(now)?;
            row.id = self.fresh_uuid();
        }
        if row.name == "auto" {
            row.name = format!("peer-{}", &row.id[..6]);
        }
        row.kind = "http".into();
        row.host = self.settings.host.clone();
        (row.started, row.seen, row.here) = (now, now, true);
        self.peers.retain(|peer| peer.row.id != row.id);
        self.peers.push(Peer::new(row.clone(), now));
        self.store.put_peer(&row)?;
        self.emit_joined(&row, now)?;
        Ok(row)
    }

    /// Takes a heartbeat; false when the peer is unknown or gone.
    pub fn heartbeat(&mut self, id: &str, now: i64) -> Result<bool, Error> {
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.row.id == id && peer.row.kind == "http") else {
            return Ok(self.peer(id).is_some_and(Peer::is_here));
        };
        peer.heard = now;
        // Who left registers again, which clients do when they hear this; a heartbeat that was late
        // would bring it back without its locks and its push socket.
        Ok(peer.row.here)
    }

    /// An HTTP peer leaves in order. One with a name of its own keeps its mailbox.
    pub fn unregister(&mut self, id: &str, reason: &str, now: i64) -> Result<(), Error> {
        self.legacy_subscriptions.remove(id);
        let Some(peer) = self.peer_mut(id).filter(|peer| peer.row.kind == "http") else { return Ok(()) };
        let was_here = std::mem::replace(&mut peer.row.here, false);
        (peer.row.seen, peer.row.uds_path) = (now, None);
        let row = peer.row.clone();
        self.free_locks(|lock| lock.holder == row.id, reason, now)?;
        if row.name.is_empty() || row.name == format!("peer-{}", row.id.get(..6).unwrap_or("")) {
            self.forget(id)?;
        } else {
            self.store.put_peer(&row)?;
        }
        if was_here {
            self.emit("peer_left", id, json!({ "peerId": id, "reason": reason }), now)?;
        }
        Ok(())
    }

    /// Peers whose time is up: HTTP peers without heartbeat, sessions whose grace is over.
    pub(crate) fn expire_peers(&mut self, now: i64) -> Result<(), Error> {
        let due = |peer: &&Peer| peer.deadline(&self.settings).is_some_and(|at| at <= now);
        let ids: Vec<(String, String)> =
            self.peers.iter().filter(due).map(|peer| (peer.row.id.clone(), peer.row.kind.clone())).collect();
        for (id, kind) in ids {
            if kind == "http" {
                self.unregister(&id, "dead_timeout", now)?;
                continue;
            }
            let Some(peer) = self.peer_mut(&id) else { continue };
            let unannounced = std::mem::replace(&mut peer.row.here, false);
            let row = peer.row.clone();
            if unannounced {
                self.store.put_peer(&row)?;
                self.emit("peer_left", &id, json!({ "peerId": id, "name": row.name, "reason": "lost" }), now)?;
            }
            self.free_locks(
                |lock| lock.holder == id && crate::core::locks::request::is_soft(&lock.bound),
                "holder is gone",
                now,
            )?;
            if let Some(peer) = self.peer_mut(&id) {
                (peer.left, peer.process) = (None, None);
            }
        }
        Ok(())
    }
}
