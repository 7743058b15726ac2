//! Links to other meshes: their peers beside ours, as long as they are heard.
//!
//! **Invariant:** what was learnt from one mesh is told to no other, and what another mesh says of
//! itself is bounded and can name none of our own.

use crate::base::error::Error;
use crate::base::{limits, time};
use crate::core::Mesh;
use crate::core::peers::{LINKED, Peer};
use crate::store::PeerRow;
use serde_json::{Value, json};
use std::collections::HashSet;

/// A peer of such a daemon that has not been heard again this long after it registered reads no mail
/// of its own: its version 3.4.48 waits at an address that nobody writes to. Such peers beat every 25 s.
const DEAF_MS: i64 = 60_000;
/// A mesh that we look at.
#[derive(Debug, Default)]
pub struct MeshLink {
    /// Its address, as the user wrote it.
    pub url: String,
    /// Its own mark, if it is an slm-mesh.
    pub mark: Option<String>,
    /// When it was heard last, ms.
    pub heard: Option<i64>,
    /// Why not since.
    pub trouble: Option<String>,
    /// Its peers that read only what is for their whole project.
    pub(crate) deaf: Vec<String>,
}

/// What a mesh says of itself.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct RemoteRoster {
    /// Its mark, if it is an slm-mesh.
    pub mark: Option<String>,
    /// Its peers.
    pub peers: Vec<RemotePeer>,
}

/// A peer over there.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct RemotePeer {
    id: String,
    name: String,
    agent: String,
    project: String,
    repo: Option<String>,
    branch: Option<String>,
    summary: String,
    host: Option<String>,
    started: i64,
    beat: i64,
}

impl RemoteRoster {
    /// Reads the answer to `GET /mesh/peers`, of our own or of a SuperLocalMemory daemon. Nothing in it
    /// is trusted: what is no peer, or not its own, is left out, and texts are cut.
    pub fn read(value: &Value) -> Option<RemoteRoster> {
        let mark = value["mesh"].as_str().map(|mark| plain(mark, 64));
        let rows = value["peers"].as_array()?;
        let own = |row: &&Value| row["mesh"].as_str().is_none_or(|of| Some(of) == mark.as_deref());
        let active = |row: &&Value| row["status"].as_str().is_none_or(|status| status == "active");
        // A daemon that is shown its own by another lists them twice.
        let mut known = HashSet::new();
        let seen = rows.iter().filter(own).filter(active).filter_map(RemotePeer::read);
        let peers = seen.filter(|seen| known.insert(seen.id.clone())).take(limits::LINKED_MAX).collect();
        Some(RemoteRoster { mark, peers })
    }
}

impl RemotePeer {
    fn read(row: &Value) -> Option<RemotePeer> {
        let text = |name: &str, max| row[name].as_str().map(|text| plain(text, max)).filter(|text| !text.is_empty());
        let id = row["peer_id"].as_str().filter(|id| is_id(id))?;
        let at = |name: &str| row[name].as_str().and_then(time::parse).unwrap_or(0);
        Some(RemotePeer {
            id: id.to_owned(),
            name: text("session_id", 48).or(text("agent_type", 48)).unwrap_or_else(|| "peer".into()),
            agent: text("agent_type", 48).unwrap_or_else(|| "unknown".into()),
            project: text("project_path", 1024).unwrap_or_default(),
            repo: text("repo", 1024),
            branch: text("branch", limits::WORD_MAX),
            summary: text("summary", limits::SUMMARY_MAX).unwrap_or_default(),
            host: text("machine", 64),
            started: at("registered_at"),
            beat: at("last_heartbeat"),
        })
    }
}

/// What can be an id: a UUID, or the twelve characters of the other kind.
fn is_id(id: &str) -> bool {
    (4..=64).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// A text of at most so many characters, on one line.
pub(crate) fn plain(text: &str, max: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(max).collect::<String>().trim().to_owned()
}

/// The machine in an address: `http://memory.lan:8765` is `memory.lan`.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = if rest.starts_with('[') { rest.find(']').map_or(rest.len(), |n| n + 1) } else { rest.len() };
    rest[..end].split(['/', '?']).next().map_or(rest, |host| match host.rsplit_once(':') {
        Some((name, _)) if !host.starts_with('[') => name,
        _ => host,
    })
}

impl Mesh {
    /// What tells this mesh from others: the beginning of its messages' ids.
    pub fn mark(&self) -> String {
        format!("{:032x}", self.salt)[..16].to_owned()
    }

    /// Changes with every change of who is here of our own.
    pub fn roster_mark(&self) -> i64 {
        self.roster_mark
    }

    /// The links, in the order of the settings.
    pub fn links(&self) -> &[MeshLink] {
        &self.links
    }

    /// Sets the meshes to look at.
    pub(crate) fn link(&mut self, urls: &[String]) {
        self.links = urls.iter().map(|url| MeshLink { url: url.clone(), ..MeshLink::default() }).collect();
        self.letters = true;
    }

    /// When a link was heard last; one that never was has as long as any since we began.
    fn heard_at(&self, link: &MeshLink) -> i64 {
        link.heard.unwrap_or(self.started)
    }

    /// A linked mesh said who is there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn heard(&mut self, n: usize, roster: &RemoteRoster, now: i64) -> Result<(), Error> {
        let own = self.mark();
        let Some(link) = self.links.get_mut(n) else { return Ok(()) };
        link.mark.clone_from(&roster.mark);
        link.heard = Some(now);
        link.trouble = (roster.mark.as_ref() == Some(&own)).then(|| "this is the address of this broker itself".into());
        if link.trouble.is_some() {
            return Ok(());
        }
        let is_slm = link.mark.is_none();
        let deaf = |seen: &&RemotePeer| is_slm && now - seen.started > DEAF_MS && seen.beat - seen.started < 5_000;
        link.deaf = roster.peers.iter().filter(deaf).map(|seen| seen.id.clone()).collect();
        let url = link.url.clone();
        let there: HashSet<&str> = roster.peers.iter().map(|seen| seen.id.as_str()).collect();
        self.scoped(|mesh| {
            for seen in &roster.peers {
                mesh.meet(&url, is_slm, seen, now)?;
            }
            mesh.miss(&url, |id| there.contains(id), "left", now)
        })?;
        self.letters = true;
        Ok(())
    }

    /// A linked mesh gave no answer.
    pub fn unheard(&mut self, n: usize, why: &str) {
        if let Some(link) = self.links.get_mut(n) {
            link.trouble = Some(plain(why, 200));
        }
    }

    /// Takes in one peer of another mesh.
    fn meet(&mut self, url: &str, is_slm: bool, seen: &RemotePeer, now: i64) -> Result<(), Error> {
        let known = self.peer(&seen.id).map(|peer| peer.row.clone());
        let label = match (&seen.host, is_slm) {
            (Some(host), _) => host.clone(),
            (None, true) => "slm".into(),
            (None, false) => host_of(url).to_owned(),
        };
        let mut row = match known {
            // Our own, shown back to us; or another link's, to whose mesh alone its letters go.
            Some(row) if row.kind != LINKED || self.is_of_another(&row, url) => return Ok(()),
            Some(row) => row,
            None => {
                if !self.has_room_for_linked()? {
                    return Ok(());
                }
                self.make_room(now)?;
                let name = self.linked_name(seen, &label);
                PeerRow { id: seen.id.clone(), name, kind: LINKED.into(), ..PeerRow::default() }
            }
        };
        let was = row.clone();
        // What is no time, or one that our clock has yet to reach, is not read anew with each answer.
        let started = match seen.started {
            _ if was.started > 0 && (seen.started <= 0 || seen.started > now) => was.started,
            0 => now,
            at => at.min(now),
        };
        row = PeerRow {
            agent: seen.agent.clone(),
            project: seen.project.clone(),
            repo: seen.repo.clone(),
            git_branch: seen.branch.clone(),
            summary: seen.summary.clone(),
            host: seen.host.clone().unwrap_or_else(|| host_of(url).to_owned()),
            session: url.to_owned(),
            started,
            here: true,
            ..row
        };
        if row == was {
            return Ok(());
        }
        row.seen = now;
        self.store.put_peer(&row)?;
        let (was_here, id) = (was.here, row.id.clone());
        match self.peer_mut(&id) {
            Some(peer) => peer.row = row.clone(),
            None => self.peers.push(Peer::new(row.clone(), now)),
        }
        if was_here {
            let what = json!({ "peerId": id, "name": row.name, "summary": row.summary });
            return self.emit("peer_updated", &id, what, now);
        }
        self.emit_joined(&row, now)
    }

    /// Whether a peer belongs to another link that there still is, or has just left by it. One mesh
    /// that two links lead to is the same by either.
    fn is_of_another(&self, row: &PeerRow, url: &str) -> bool {
        let link = |url: &str| self.links.iter().find(|link| link.url == url);
        let mark = |url: &str| link(url).and_then(|link| link.mark.as_ref());
        let is_same = mark(&row.session).is_some() && mark(&row.session) == mark(url) && !row.here;
        row.session != url && link(&row.session).is_some() && !is_same
    }

    /// `claude-api@laptop`; where that is taken, a piece of the id tells them apart.
    fn linked_name(&self, seen: &RemotePeer, label: &str) -> String {
        let name = |own: &str| format!("{own}@{label}").replace([':', '/', ' '], "-");
        let wanted = name(&seen.name);
        if self.peers.iter().all(|peer| peer.row.name != wanted) {
            return self.free_name(&wanted);
        }
        self.free_name(&name(&format!("{}-{:.6}", seen.name, seen.id)))
    }

    /// Peers of other meshes never crowd out our own: beyond a bound those go that are away with nothing
    /// waiting for them, and then no more come.
    fn has_room_for_linked(&mut self) -> Result<bool, Error> {
        let linked = |peer: &&Peer| peer.row.kind == LINKED;
        if self.peers.iter().filter(linked).count() < 2 * limits::LINKED_MAX {
            return Ok(true);
        }
        let away = |peer: &&Peer| linked(peer) && !peer.row.here && self.n_waiting(&peer.row.id) == Some(0);
        if let Some(id) = self.peers.iter().find(away).map(|peer| peer.row.id.clone()) {
            self.forget(&id)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Counts as away the peers of a link that were not seen any more.
    fn miss(&mut self, url: &str, is_there: impl Fn(&str) -> bool, why: &str, now: i64) -> Result<(), Error> {
        let missed = |peer: &&Peer| {
            peer.row.kind == LINKED && peer.row.here && peer.row.session == url && !is_there(&peer.row.id)
        };
        let gone: Vec<String> = self.peers.iter().filter(missed).map(|peer| peer.row.id.clone()).collect();
        for id in gone {
            let Some(peer) = self.peer_mut(&id) else { continue };
            (peer.row.here, peer.row.seen) = (false, now);
            let row = peer.row.clone();
            self.store.put_peer(&row)?;
            self.emit("peer_left", &id, json!({ "peerId": id, "name": row.name, "reason": why }), now)?;
        }
        Ok(())
    }

    /// Peers of a mesh that has been silent for too long are away, whatever it said last.
    pub(crate) fn expire_links(&mut self, now: i64) -> Result<(), Error> {
        let speaks = |url: &str| {
            self.links.iter().any(|link| link.url == url && self.heard_at(link) + limits::LINK_SILENT_MS > now)
        };
        let here = self.peers.iter().filter(|peer| peer.row.kind == LINKED && peer.row.here);
        let mut urls: Vec<String> = here.map(|peer| peer.row.session.clone()).filter(|url| !speaks(url)).collect();
        urls.dedup();
        for url in urls {
            self.miss(&url, |_| false, "link_silent", now)?;
        }
        Ok(())
    }

    /// When the next link has been silent for too long, ms.
    pub(crate) fn link_deadline(&self) -> Option<i64> {
        let here = self.peers.iter().filter(|peer| peer.row.kind == LINKED && peer.row.here);
        let link = |peer: &Peer| self.links.iter().find(|link| link.url == peer.row.session);
        // One whose link was taken out of the settings is gone at once.
        here.map(|peer| link(peer).map_or(0, |link| self.heard_at(link) + limits::LINK_SILENT_MS)).min()
    }

    /// The links, for the status.
    pub(crate) fn links_value(&self, now: i64) -> Result<Value, Error> {
        let mut rows = Vec::new();
        for link in &self.links {
            let ours = |peer: &&Peer| peer.row.kind == LINKED && peer.row.session == link.url;
            let mut waiting = 0;
            for peer in self.peers.iter().filter(ours) {
                waiting += self.store.count_unread(&peer.row.id)?;
            }
            let kind = match (link.heard, &link.mark) {
                (None, _) => "unknown",
                (_, Some(_)) => "slm-mesh",
                (_, None) => "superlocalmemory",
            };
            let here = self.peers.iter().filter(ours).filter(|peer| peer.row.here).count();
            let silent = self.heard_at(link) + limits::LINK_SILENT_MS <= now;
            rows.push(json!({
                "url": link.url, "kind": kind, "peers": here, "heardAt": link.heard.map(time::iso), "silent": silent,
                "trouble": link.trouble, "waiting": waiting,
            }));
        }
        Ok(json!(rows))
    }
}
