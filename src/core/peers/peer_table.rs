//! The table of all peers, with indexes by id, by kind and by deadline.
//!
//! **Invariant:** the following are found without a search through all peers: a peer by its id, the clients of the old
//! HTTP API, the peers of linked meshes, and the next deadline.

use super::Peer;
use crate::base::id_types::PeerId;
use crate::core::MeshSettings;
use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;

/// All peers, oldest first.
#[derive(Default)]
pub(super) struct PeerTable {
    peers: Vec<Peer>,
    /// The position of each peer in `peers`, by id.
    positions: HashMap<PeerId, usize>,
    /// The clients of the old HTTP API.
    http_clients: BTreeSet<PeerId>,
    /// The peers of linked meshes.
    linked: BTreeSet<PeerId>,
    /// The deadlines of peers, in ms. An outdated deadline stays in this set until it is the earliest deadline.
    deadlines: BTreeSet<(i64, PeerId)>,
    /// The positions of peers whose deadline in `deadlines` may be out of date.
    changed: Vec<usize>,
}

impl Deref for PeerTable {
    type Target = [Peer];

    fn deref(&self) -> &[Peer] {
        &self.peers
    }
}

impl PeerTable {
    /// The peer with this id.
    pub(super) fn get(&self, id: &PeerId) -> Option<&Peer> {
        self.positions.get(id).map(|n| &self.peers[*n])
    }

    /// The peer with this id. The id comes from a client, so it may be any text.
    pub(super) fn with_id(&self, id: &str) -> Option<&Peer> {
        self.positions.get(id).map(|n| &self.peers[*n])
    }

    /// The clients of the old HTTP API.
    pub(super) fn http_clients(&self) -> impl Iterator<Item = &Peer> {
        self.http_clients.iter().filter_map(|id| self.get(id))
    }

    /// The peers of linked meshes, oldest first.
    pub(super) fn linked(&self) -> impl Iterator<Item = &Peer> {
        let mut positions: Vec<usize> = self.linked.iter().filter_map(|id| self.positions.get(id).copied()).collect();
        positions.sort_unstable();
        positions.into_iter().map(|n| &self.peers[n])
    }

    /// Returns a mutable reference to the peer with this id. The caller must not change the peer's id or kind (session,
    /// person, HTTP client or linked peer).
    pub(super) fn get_mut(&mut self, id: &PeerId) -> Option<&mut Peer> {
        let n = *self.positions.get(id)?;
        if self.changed.last() != Some(&n) {
            self.changed.push(n);
        }
        self.peers.get_mut(n)
    }

    /// Records the time of a peer's last call. This does not change any deadline.
    pub(super) fn touch(&mut self, id: &PeerId, now: i64) {
        if let Some(n) = self.positions.get(id) {
            self.peers[*n].last_active = now;
        }
    }

    /// Returns mutable references to all peers. The caller must not change the id or the kind of a peer.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.note_all();
        self.peers.iter_mut()
    }

    /// Appends a peer. If the table already has a peer with the same id, replaces that peer instead.
    pub(super) fn put(&mut self, peer: Peer) {
        for (kind, belongs) in [(&mut self.http_clients, peer.row.is_http()), (&mut self.linked, peer.row.is_linked())]
        {
            if belongs {
                kind.insert(peer.row.id.clone());
            } else {
                kind.remove(&peer.row.id);
            }
        }
        match self.get_mut(&peer.row.id) {
            Some(known) => *known = peer,
            None => {
                self.positions.insert(peer.row.id.clone(), self.peers.len());
                self.changed.push(self.peers.len());
                self.peers.push(peer);
            }
        }
    }

    /// Removes a peer.
    pub(super) fn remove(&mut self, id: &PeerId) {
        if let Some(n) = self.positions.remove(id) {
            self.peers.remove(n);
            self.http_clients.remove(id);
            self.linked.remove(id);
            self.positions.values_mut().filter(|position| **position > n).for_each(|position| *position -= 1);
            self.note_all();
        }
    }

    /// Removes and returns all peers.
    pub(super) fn take(&mut self) -> PeerTable {
        std::mem::take(self)
    }

    fn note_all(&mut self) {
        self.changed.clear();
        self.changed.extend(0..self.peers.len());
    }

    /// Returns the earliest deadline of all peers, in ms.
    pub(super) fn deadline(&mut self, settings: &MeshSettings) -> Option<i64> {
        for n in self.changed.drain(..) {
            let peer = &self.peers[n];
            if let Some(at) = peer.deadline(settings) {
                self.deadlines.insert((at, peer.row.id.clone()));
            }
        }
        loop {
            let (at, id) = self.deadlines.first()?;
            if self.get(id).and_then(|peer| peer.deadline(settings)) == Some(*at) {
                return Some(*at);
            }
            self.deadlines.pop_first();
        }
    }

    /// Returns the peers whose deadlines have passed. The peer with the earliest deadline comes first.
    pub(super) fn due(&mut self, settings: &MeshSettings, now: i64) -> Vec<&Peer> {
        if self.deadline(settings).is_none_or(|at| at > now) {
            return Vec::new();
        }
        let passed = self.deadlines.iter().take_while(|(at, _)| *at <= now);
        let is_valid = |(at, id): &(i64, PeerId)| self.get(id).filter(|peer| peer.deadline(settings) == Some(*at));
        passed.filter_map(is_valid).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::domain_enums::PeerKind;
    use crate::base::id_types::MeshUrl;
    use crate::store::PeerRow;

    /// Returns a pseudorandom number below `n` (xorshift64). The same seed gives the same numbers, so a failed run can
    /// be repeated.
    fn below(dice: &mut u64, n: u64) -> u64 {
        *dice ^= *dice << 13;
        *dice ^= *dice >> 7;
        *dice ^= *dice << 17;
        *dice % n
    }

    fn peer(n: u64) -> Peer {
        let kind = match n % 4 {
            0 => PeerKind::Http { push_socket: None },
            1 => PeerKind::Linked { mesh: MeshUrl::from("http://desk:7899") },
            _ => PeerKind::Session { key: None },
        };
        Peer::new(PeerRow { id: format!("peer-{n}").into(), kind, ..PeerRow::default() }, 0)
    }

    #[test]
    fn the_indexes_agree_with_a_search_through_all_peers() {
        let settings = MeshSettings::default();
        for seed in 1..200 {
            let (mut dice, mut table) = (seed, PeerTable::default());
            for now in 0..100 {
                let id = format!("peer-{}", below(&mut dice, 12));
                match below(&mut dice, 7) {
                    0 | 1 => table.put(peer(below(&mut dice, 12))),
                    2 => table.remove(&id.as_str().into()),
                    3 => table.iter_mut().for_each(|peer| peer.offline_since = None),
                    4 => table.touch(&id.as_str().into(), now),
                    _ => {
                        if let Some(peer) = table.get_mut(&id.as_str().into()) {
                            peer.row.online = below(&mut dice, 2) == 0;
                            peer.last_heartbeat = now;
                            peer.offline_since = Some(now).filter(|_| peer.row.is_session());
                        }
                    }
                }
                let found = table.get(&id.as_str().into()).map(|peer| peer.row.id.as_str());
                assert_eq!(found, table.iter().map(|peer| peer.row.id.as_str()).find(|known| *known == id), "{seed}");
                let n_http = table.iter().filter(|peer| peer.row.is_http()).count();
                assert_eq!(table.http_clients().count(), n_http, "seed {seed}, step {now}");
                let linked = table.linked().map(|peer| peer.row.id.clone());
                let expected = table.iter().filter(|peer| peer.row.is_linked()).map(|peer| peer.row.id.clone());
                assert!(linked.eq(expected), "seed {seed}, step {now}");
                let deadlines: Vec<i64> = table.iter().filter_map(|peer| peer.deadline(&settings)).collect();
                assert_eq!(table.deadline(&settings), deadlines.iter().min().copied(), "seed {seed}, step {now}");
                let until = deadlines.iter().min().unwrap_or(&0) + below(&mut dice, 30) as i64;
                let n_due = deadlines.iter().filter(|at| **at <= until).count();
                assert_eq!(table.due(&settings, until).len(), n_due, "seed {seed}, step {now}");
            }
        }
    }
}
