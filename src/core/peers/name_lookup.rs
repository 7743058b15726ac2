//! Finds peers by name. Also finds the peers that stand for people at this machine and at other machines.

use super::super::MeshSettings;
use super::{Peer, Peers, no_peer};
use crate::base::domain_enums::PeerKind;
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::PeerId;
use crate::core::ConnId;
use crate::store::PeerRow;

/// Maximum number of peers in the error for an ambiguous name.
const NAMED_MAX: usize = 8;

/// Separates the user from the machine in the name of a person at another machine, such as `ada@desk`.
pub(super) const HUMAN_AT: char = '@';

/// Whether a word is reserved. No peer may have a reserved word as its name.
pub(super) fn is_reserved(name: &str) -> bool {
    ["all", "repo", "directory", "human", "cli"].contains(&name) || name.contains(':') || name.contains('/')
}

impl Peers {
    /// Finds the peer that a caller means by `name`: the peer's id, its name, or an unambiguous prefix of its id or
    /// name. The words `human` and `cli` mean the person at the caller's machine, whichever hub leads the mesh.
    ///
    /// # Errors
    /// When no peer matches, or when several peers match. If several match, the error lists them.
    pub fn resolve(&self, conn: ConnId, name: &str) -> Result<PeerId, Error> {
        if ["human", "cli"].contains(&name) {
            // If the database refused the person's row, the connection still has the person's id, but no peer has this
            // id.
            return Some(self.human_at(conn)).filter(|id| self.get(id).is_some()).ok_or_else(|| no_peer(name));
        }
        self.find_by_name(name)
    }

    /// Finds a peer as [`Peers::resolve`] does, but gives the words `human` and `cli` no special meaning.
    ///
    /// # Errors
    /// When no peer matches, or when several peers match.
    pub fn find_by_name(&self, name: &str) -> Result<PeerId, Error> {
        // Other meshes choose the ids of their own peers. An id from another mesh may be the same as a name in this
        // mesh. So names in this mesh are tried before ids from other meshes.
        let is_own = |row: &PeerRow| !row.is_linked();
        let rules: [&dyn Fn(&PeerRow) -> bool; 4] =
            [&|row| row.id == name && is_own(row), &|row| row.name == name, &|row| row.id == name, &|row| {
                name.len() >= 2 && (row.name.starts_with(name) || row.id.as_str().starts_with(name))
            }];
        for fits in rules {
            let mut found: Vec<&Peer> = self.peers.iter().filter(|peer| fits(&peer.row)).collect();
            if found.len() > 1 && found.iter().filter(|peer| peer.is_online()).count() == 1 {
                found.retain(|peer| peer.is_online());
            }
            match found[..] {
                [] => continue,
                [one] => return Ok(one.row.id.clone()),
                _ => {
                    let names: Vec<_> = found
                        .iter()
                        .take(NAMED_MAX)
                        .map(|peer| format!("{} ({:.8})", peer.row.name, peer.row.id))
                        .collect();
                    let text = format!("{name} matches several peers: {}; use a full name or an id", names.join(", "));
                    return Err(Error::new(ErrorKind::Ambiguous, text));
                }
            }
        }
        Err(no_peer(name))
    }

    /// Returns an error if the id belongs to a peer of another mesh, because callers in this mesh cannot act as that
    /// peer.
    pub fn require_local(&self, id: PeerId) -> Result<PeerId, Error> {
        if self.get(&id).is_some_and(|peer| peer.row.is_linked()) {
            let text = format!("{} is on another mesh; you can act as that peer only there", self.name_of(&id));
            return Err(Error::new(ErrorKind::Refused, text));
        }
        Ok(id)
    }

    /// Finds the peer that stands for the user `user` of the machine `host`. The hub on the machine `desk` calls its
    /// own user `ada`, but every other hub calls the same user `ada@desk`. This function accepts both names. So the
    /// user keeps the same peer when another hub becomes the leader.
    pub(super) fn human_of(&self, host: &str, user: &str) -> Option<PeerId> {
        let is_number = |rest: &str| rest.strip_prefix('-').is_some_and(|n| n.parse::<u32>().is_ok());
        let is_it = |peer: &&Peer| {
            if peer.row.kind != PeerKind::Human || peer.row.host != host {
                return false;
            }
            let owner = peer.row.name.split(HUMAN_AT).next().unwrap_or("");
            owner.strip_prefix(user).is_some_and(|rest| rest.is_empty() || is_number(rest))
        };
        self.peers.iter().find(is_it).map(|peer| peer.row.id.clone())
    }

    /// Finds or creates the peer that stands for the person at this machine. So agents can send messages to this person
    /// from the start.
    pub(in crate::core) fn settle_human(&mut self, turn: &mut super::Turn, now: i64) -> Result<(), Error> {
        let MeshSettings { host, user, .. } = &*self.settings;
        // If the user has been renamed, this filter finds the peer with the former name. It skips the peers of other
        // users of this machine, because their names contain an `@`.
        let is_here = |peer: &&Peer| {
            peer.row.kind == PeerKind::Human && peer.row.host == *host && !peer.row.name.contains(HUMAN_AT)
        };
        let former = || self.peers.iter().find(is_here).map(|peer| peer.row.id.clone());
        self.human = match self.human_of(host, user).or_else(former) {
            Some(id) => id,
            None => {
                let name = self.free_name(&self.settings.user);
                self.add_human(turn, name, self.settings.host.clone(), now)?
            }
        };
        Ok(())
    }

    pub(super) fn add_human(
        &mut self,
        turn: &mut super::Turn,
        name: String,
        host: String,
        now: i64,
    ) -> Result<PeerId, Error> {
        let id = self.new_id();
        let row = PeerRow {
            id: id.clone(),
            name,
            kind: PeerKind::Human,
            agent: "human".into(),
            host,
            first_seen: now,
            last_seen: now,
            ..PeerRow::default()
        };
        self.put(turn, row, now)?;
        Ok(id)
    }
}
