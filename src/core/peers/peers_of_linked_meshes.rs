//! Peers of linked meshes. They are listed together with this mesh's own peers.
//!
//! **Invariant:** a linked peer never has the id or the name of one of this mesh's own peers, and never replaces any of
//! them.

use super::{Peer, Peers};
use crate::base::domain_enums::{LeaveReason, PeerKind};
use crate::base::error::Error;
use crate::base::id_types::{MeshUrl, PeerId};
use crate::base::limits;
use crate::base::untrusted_text::plain_name;
use crate::core::event_journal::{Change, Journal};
use crate::core::locks::Locks;
use crate::core::mail::Mail;
use crate::core::transaction_and_pending_effects::Turn;
use crate::store::PeerRow;

/// If a part of the peer's id is added to a long name, this many characters of the name are kept.
const ID_NAME_MAX: usize = 32;

/// A linked mesh's description of one of its peers.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct LinkedPeer {
    /// The peer's id in its own mesh.
    pub id: PeerId,
    /// The peer's name in its own mesh.
    pub name: String,
    /// The agent type of the peer.
    pub agent: String,
    /// The absolute path of the peer's working directory.
    pub project: String,
    /// The identifier of the peer's repository, if the peer has one.
    pub repo: Option<String>,
    /// The git branch, if there is one.
    pub branch: Option<String>,
    /// The peer's summary.
    pub summary: String,
    /// The name of the peer's machine, if known.
    pub host: Option<String>,
    /// Whether the peer is a person. A person is never online, but has a mailbox.
    pub is_away: bool,
    /// The time at which the peer registered in its own mesh, in ms; 0 if unknown.
    pub registered: i64,
    /// The time of the peer's last heartbeat to its own mesh, in ms; 0 if unknown.
    pub last_heartbeat: i64,
}

/// The parts of the mesh that change when a linked peer is added.
pub(in crate::core) struct LinkedParts<'a> {
    pub(in crate::core) turn: &'a mut Turn,
    pub(in crate::core) mail: &'a mut Mail,
    pub(in crate::core) locks: &'a Locks,
    pub(in crate::core) journal: &'a Journal,
}

/// Returns the two possible names of a linked peer: `claude-api@laptop`, and the same name with a part of the peer's
/// id. The second name is used if another peer already has the first name.
fn linked_names(seen: &LinkedPeer, label: &str) -> [String; 2] {
    let name = |own: &str| format!("{}@{}", plain_name(own), plain_name(label));
    // A long name is cut, so that there is room for the first characters of the id.
    let short: String = seen.name.chars().take(ID_NAME_MAX).collect();
    [name(&seen.name), name(&format!("{short}-{:.6}", seen.id))]
}

/// Compares the two names of a linked peer. Returns true if `name`, which is used in this mesh, is made from the peer's
/// present name in its own mesh. Otherwise, the peer is new or has been renamed in its own mesh.
fn is_named_after(name: &str, seen: &LinkedPeer, label: &str) -> bool {
    let is_number = |rest: &str| rest.is_empty() || rest.strip_prefix('-').is_some_and(|n| n.parse::<u32>().is_ok());
    linked_names(seen, label).iter().any(|wanted| name.strip_prefix(wanted.as_str()).is_some_and(is_number))
}

impl Peers {
    /// Adds or updates one peer of another mesh. `host` is the peer's machine, and `label` is the part of the peer's
    /// name after the `@`.
    pub(in crate::core) fn upsert_linked(
        &mut self,
        parts: &mut LinkedParts,
        mesh: &MeshUrl,
        seen: &LinkedPeer,
        (host, label): (&str, &str),
        now: i64,
    ) -> Result<(), Error> {
        let LinkedParts { turn, journal, .. } = parts;
        let known = match self.get(&seen.id) {
            Some(peer) => peer.row.clone(),
            None => {
                if !self.has_room_for_linked(turn, parts.mail)? {
                    return Ok(());
                }
                self.make_room(turn, parts.mail, parts.locks, now)?;
                PeerRow { id: seen.id.clone(), ..PeerRow::default() }
            }
        };
        // If the reported time of registration is missing or in the future, the stored time is kept. Otherwise, the
        // time would change with each poll.
        let first_seen = match seen.registered {
            at if known.first_seen > 0 && (at <= 0 || at > now) => known.first_seen,
            0 => now,
            at => at.min(now),
        };
        let was_online = known.online && known.is_linked();
        let name =
            if is_named_after(&known.name, seen, label) { known.name.clone() } else { self.linked_name(seen, label) };
        let mut row = PeerRow {
            name,
            kind: PeerKind::Linked { mesh: mesh.clone() },
            agent: seen.agent.clone(),
            project: seen.project.clone(),
            repo: seen.repo.clone(),
            git_branch: seen.branch.clone(),
            summary: seen.summary.clone(),
            host: host.to_owned(),
            first_seen,
            online: !seen.is_away,
            ..known.clone()
        };
        if row == known {
            return Ok(());
        }
        row.last_seen = now;
        self.put(turn, row.clone(), now)?;
        if seen.is_away {
            return Ok(());
        }
        let change = if was_online { Change::PeerUpdated(&row) } else { Change::PeerJoined(&row) };
        journal.record(turn, self, &change, &row.id, now).map(|_| ())
    }

    /// The peers of linked meshes, oldest first.
    pub(in crate::core) fn linked(&self) -> impl Iterator<Item = &Peer> {
        self.peers.linked()
    }

    /// Marks linked peers as offline if `is_missing` returns true for them.
    pub(in crate::core) fn mark_missing(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        is_missing: impl Fn(&Peer, &MeshUrl) -> bool,
        reason: LeaveReason,
        now: i64,
    ) -> Result<(), Error> {
        let missed = |peer: &&Peer| peer.row.online && peer.row.mesh().is_some_and(|mesh| is_missing(peer, mesh));
        let missing: Vec<PeerId> = self.peers.linked().filter(missed).map(|peer| peer.row.id.clone()).collect();
        for id in missing {
            let Some(peer) = self.get_mut(&id) else { continue };
            (peer.row.online, peer.row.last_seen) = (false, now);
            let row = peer.row.clone();
            turn.store.put_peer(&row)?;
            journal.record(turn, self, &Change::PeerLeft { row: &row, named: true, reason }, &id, now)?;
        }
        Ok(())
    }

    /// Returns a free name for a linked peer. If possible, the name contains no part of the peer's id.
    fn linked_name(&self, seen: &LinkedPeer, label: &str) -> String {
        let [wanted, with_id] = linked_names(seen, label);
        let is_free = self.peers.iter().all(|peer| peer.row.name != wanted || peer.row.id == seen.id);
        self.free_name(if is_free { &wanted } else { &with_id })
    }

    /// Makes room for one more linked peer. If the limit is reached, removes an offline linked peer that has no unread
    /// mail. If there is no such peer, returns false.
    fn has_room_for_linked(&mut self, turn: &mut Turn, mail: &mut Mail) -> Result<bool, Error> {
        let linked: Vec<&Peer> = self.peers.linked().collect();
        if linked.len() < 2 * limits::LINKED_MAX {
            return Ok(true);
        }
        let offline = linked.into_iter().filter(|peer| !peer.row.online).map(|peer| peer.row.id.clone());
        let offline: Vec<PeerId> = offline.collect();
        for id in offline {
            if mail.unread(&turn.store, &id)? == 0 {
                self.forget(turn, mail, &id)?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}
