//! The peers of linked meshes. Each linked mesh sends a list of its peers. Listed peers are shown as online while their
//! mesh answers polls. Listed people are never shown as online, but they can receive replies.
//!
//! **Invariant:** the peers of one linked mesh are not passed on to another mesh, and their number is bounded.

use super::{Federation, MeshLink};
use crate::base::domain_enums::LeaveReason;
use crate::base::error::Error;
use crate::base::id_types::{MeshUrl, PeerId};
use crate::base::{limits, time_format};
use crate::core::Mesh;
use crate::core::event_journal::Journal;
use crate::core::mail::Mail;
use crate::core::peers::peers_of_linked_meshes::LinkedParts;
use crate::core::peers::{LinkedPeer, Peer, Peers};
use crate::core::transaction_and_pending_effects::Turn;
use crate::store::{PeerRow, Store};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::ops::Range;

/// If a peer of a SuperLocalMemory daemon sends no heartbeat for this long after its registration, the peer probably
/// reads no direct mail. In version 3.4.48, such a peer waits for mail at an address to which no mail is sent. All
/// other peers send a heartbeat every 25 s.
const BROADCAST_ONLY_MS: i64 = 60_000;
/// A heartbeat does not count if it comes less than this many ms after the registration.
const FIRST_HEARTBEAT_MS: i64 = 5_000;

/// The status of a listed peer that is online.
pub const ACTIVE: &str = "active";
/// The status of a listed person. A person is never online.
pub const AWAY: &str = "away";

/// The list of peers that a linked mesh sends.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct RemoteRoster {
    /// The id of the linked mesh; `None` for a SuperLocalMemory daemon.
    pub mesh_id: Option<String>,
    /// A number that increases when receipts change in the linked mesh; `None` if the linked mesh does not report the
    /// number.
    pub receipts_version: Option<i64>,
    /// The peers of the linked mesh.
    pub peers: Vec<LinkedPeer>,
}

impl RemoteRoster {
    /// Parses the answer of another mesh to `GET /mesh/peers`. The answer is not trusted. So rows that do not describe
    /// a peer of that mesh are left out, and long texts are cut.
    pub fn parse(value: &Value) -> Option<RemoteRoster> {
        let mesh_id = value["mesh"].as_str().map(|id| plain(id, 64));
        let rows = value["peers"].as_array()?;
        let own = |row: &&Value| row["mesh"].as_str().is_none_or(|of| Some(of) == mesh_id.as_deref());
        let active = |row: &&Value| row["status"].as_str().is_none_or(|status| [ACTIVE, AWAY].contains(&status));
        // Duplicates are dropped, because a daemon lists its own peers twice if another mesh sends the peers back to
        // the daemon.
        let mut known = HashSet::new();
        let found = rows.iter().filter(own).filter(active).filter_map(parse_peer);
        let peers = found.filter(|peer| known.insert(peer.id.clone())).take(limits::LINKED_MAX).collect();
        Some(RemoteRoster { mesh_id, receipts_version: value["receipts"].as_i64(), peers })
    }
}

fn parse_peer(row: &Value) -> Option<LinkedPeer> {
    let text = |name: &str, max| row[name].as_str().map(|text| plain(text, max)).filter(|text| !text.is_empty());
    let id = row["peer_id"].as_str().filter(|id| is_id(id))?;
    let at = |name: &str| row[name].as_str().and_then(time_format::parse).unwrap_or(0);
    Some(LinkedPeer {
        id: id.into(),
        name: text("session_id", 48).or(text("agent_type", 48)).unwrap_or_else(|| "peer".into()),
        agent: text("agent_type", 48).unwrap_or_else(|| "unknown".into()),
        project: text("project_path", 1024).unwrap_or_default(),
        repo: text("repo", 1024),
        branch: text("branch", limits::WORD_MAX),
        summary: text("summary", limits::SUMMARY_MAX).unwrap_or_default(),
        host: text("machine", 64),
        is_away: row["status"].as_str() == Some(AWAY),
        registered: at("registered_at"),
        last_heartbeat: at("last_heartbeat"),
    })
}

/// Whether a string can be the id of a peer. The id can be a UUID, or a SuperLocalMemory id of twelve characters.
fn is_id(id: &str) -> bool {
    (4..=64).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// Reduces a string to one line of at most `max` characters.
pub(super) fn plain(text: &str, max: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(max).collect::<String>().trim().to_owned()
}

/// The name of the machine in an address: `http://memory.lan:8765` gives `memory.lan`.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = if rest.starts_with('[') { rest.find(']').map_or(rest.len(), |n| n + 1) } else { rest.len() };
    rest[..end].split(['/', '?']).next().map_or(rest, |host| match host.rsplit_once(':') {
        Some((name, _)) if !host.starts_with('[') => name,
        _ => host,
    })
}

/// Whether a peer of a SuperLocalMemory daemon reads only messages to its whole project.
fn reads_broadcasts_only(peer: &LinkedPeer, now: i64) -> bool {
    let is_old = now - peer.registered > BROADCAST_ONLY_MS;
    is_old && peer.last_heartbeat - peer.registered < FIRST_HEARTBEAT_MS
}

impl Federation {
    /// Whether a peer belongs to another link, and must not move to the link to `url`. The peer may move if its own
    /// link no longer exists, or if the peer is offline and both links lead to the same mesh.
    fn belongs_elsewhere(&self, row: &PeerRow, url: &MeshUrl) -> bool {
        let Some(mesh) = row.mesh() else { return false };
        let id = |url: &MeshUrl| self.link_to(url).and_then(|link| link.mesh_id.as_ref());
        let is_same = id(mesh).is_some() && id(mesh) == id(url) && !row.online;
        mesh != url && self.link_to(mesh).is_some() && !is_same
    }

    /// Marks the peers of a mesh as offline if the mesh has been silent for too long.
    pub(in crate::core) fn expire(
        &self,
        turn: &mut Turn,
        peers: &mut Peers,
        journal: &Journal,
        now: i64,
    ) -> Result<(), Error> {
        let is_silent = |url: &MeshUrl| self.link_to(url).is_none_or(|link| self.silent_at(link) <= now);
        peers.mark_missing(turn, journal, |_, mesh| is_silent(mesh), LeaveReason::MeshSilent, now)
    }

    /// Returns the links in the form that the status shows.
    pub(in crate::core) fn view(&self, store: &Store, peers: &Peers, mail: &Mail, now: i64) -> Result<Value, Error> {
        let mut rows = Vec::new();
        for link in self.links() {
            let theirs = peers.linked().filter(|peer| peer.row.mesh() == Some(&link.url));
            let (mut waiting, mut online) = (0, 0);
            for peer in theirs {
                waiting += mail.count_unread(store, &peer.row.id)?;
                online += usize::from(peer.row.online);
            }
            rows.push(json!({
                "url": link.url.as_str(), "kind": kind_of(link), "peers": online,
                "heardAt": link.last_answer.map(time_format::iso), "silent": self.silent_at(link) <= now,
                "trouble": link.trouble, "waiting": waiting, "refused": link.n_rejected,
                "lastRefusal": link.last_rejection,
            }));
        }
        Ok(Value::Array(rows))
    }

    /// The earliest time, in ms, at which a linked mesh that has online peers will count as silent.
    pub(in crate::core) fn deadline(&self, peers: &Peers) -> Option<i64> {
        let online = peers.linked().filter(|peer| peer.row.online).filter_map(|peer| peer.row.mesh());
        // A mesh that has been removed from the settings counts as silent at once.
        online.map(|mesh| self.link_to(mesh).map_or(0, |link| self.silent_at(link))).min()
    }
}

impl Mesh {
    /// Stores one part of a linked mesh's list of peers. A long list is stored in several parts, so that other clients
    /// need not wait long. After the last part, peers that are not in the list count as gone.
    ///
    /// # Errors
    /// When the database can't be written.
    pub fn on_roster(&mut self, n: usize, roster: &RemoteRoster, part: Range<usize>, now: i64) -> Result<(), Error> {
        let own = self.mesh_id();
        let Some(link) = self.federation.links.get_mut(n) else { return Ok(()) };
        link.mesh_id.clone_from(&roster.mesh_id);
        link.last_answer = Some(now);
        let is_self = roster.mesh_id.as_ref() == Some(&own);
        link.trouble = is_self.then(|| "this address leads back to this broker".into());
        if is_self {
            return Ok(());
        }
        let is_slm = link.is_superlocalmemory();
        let deaf = roster.peers.iter().filter(|peer| is_slm && reads_broadcasts_only(peer, now));
        link.broadcast_only = deaf.map(|peer| peer.id.clone()).collect();
        let url = link.url.clone();
        let end = part.end.min(roster.peers.len());
        let listed: HashSet<&PeerId> = roster.peers.iter().map(|peer| &peer.id).collect();
        self.in_savepoint(|mesh| {
            let Mesh { turn, peers, mail, locks, journal, federation, .. } = mesh;
            let mut parts = LinkedParts { turn, mail, locks, journal };
            for seen in roster.peers.get(part.start..end).unwrap_or_default() {
                // This mesh's own peers and the peers of another link stay unchanged. Mail to the peers of another link
                // must go over that link.
                let is_kept = |row: &PeerRow| !row.is_linked() || federation.belongs_elsewhere(row, &url);
                if peers.get(&seen.id).is_some_and(|peer| is_kept(&peer.row)) {
                    continue;
                }
                let host = seen.host.as_deref().unwrap_or(host_of(url.as_str()));
                let label = seen.host.as_deref().unwrap_or(if is_slm { "slm" } else { host_of(url.as_str()) });
                peers.upsert_linked(&mut parts, &url, seen, (host, label), now)?;
            }
            if end < roster.peers.len() {
                return Ok(());
            }
            let is_missing = |peer: &Peer, mesh: &MeshUrl| *mesh == url && !listed.contains(&peer.row.id);
            peers.mark_missing(parts.turn, journal, is_missing, LeaveReason::Unlisted, now)
        })?;
        let taken: Vec<PeerId> =
            roster.peers.get(part.start..end).unwrap_or_default().iter().map(|peer| peer.id.clone()).collect();
        let Mesh { turn, mail, federation, .. } = self;
        federation.reload_awaited(&turn.store, mail, n, &taken)?;
        if end == roster.peers.len() {
            federation.note_receipts_version(n, roster.receipts_version);
        }
        federation.may_forward = true;
        Ok(())
    }

    /// Records the reason for a failed poll, or for a failed attempt to deliver a message over a link.
    pub fn on_poll_failed(&mut self, n: usize, why: &str) {
        if let Some(link) = self.federation.links.get_mut(n) {
            link.trouble = Some(plain(why, 200));
        }
    }
}

fn kind_of(link: &MeshLink) -> &'static str {
    match (link.last_answer, &link.mesh_id) {
        (None, _) => "unknown",
        (_, Some(_)) => "slm-mesh",
        (_, None) => "superlocalmemory",
    }
}
