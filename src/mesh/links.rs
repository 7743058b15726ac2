//! Links to other meshes: their peers beside ours, and letters to those, kept until the other side
//! has taken them.
//!
//! **Invariant:** what was learnt from one mesh is told to no other, a letter goes one link far, and
//! none is called forwarded before the other side said that it has it.

use super::peers::Peer;
use super::{Fault, Kind, Mesh, limits, time};
use crate::store::{Message, MessagePick, PeerRow};
use serde_json::{Value, json};

/// The kind of such a peer's row.
pub const LINKED: &str = "link";
/// What a SuperLocalMemory daemon takes, in characters (its version 3.4.48).
const SLM_CHARS_MAX: usize = 4096;
/// A peer of such a daemon that has not been heard again this long after it registered reads no mail
/// of its own: its version 3.4.48 waits at an address that nobody writes to. Such peers beat every 25 s.
const DEAF_MS: i64 = 60_000;
/// `Message::state` of what the other side has, and of what it will not have.
const FORWARDED: i64 = 5;
const REFUSED: i64 = 6;

/// A mesh that we look at.
#[derive(Debug, Default)]
pub struct Link {
    /// Its address, as the user wrote it.
    pub url: String,
    /// Its own mark, if it is an slm-mesh.
    pub mark: Option<String>,
    /// When it was heard last, ms.
    pub heard: Option<i64>,
    /// Why not since.
    pub trouble: Option<String>,
    /// Its peers that read only what is for their whole project.
    deaf: Vec<String>,
}

/// What a mesh says of itself.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Roster {
    /// Its mark, if it is an slm-mesh.
    pub mark: Option<String>,
    /// Its peers.
    pub peers: Vec<Seen>,
}

/// A peer over there.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Seen {
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

/// A letter on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// The message.
    pub seq: i64,
    /// What is posted.
    pub body: Value,
}

/// What became of a letter.
#[derive(Debug, Clone, PartialEq)]
pub enum Passed {
    /// The other side has it.
    Taken,
    /// The other side will never have it, and why.
    Refused(String),
    /// Not now, and why.
    Later(String),
}

impl Roster {
    /// Reads the answer to `GET /mesh/peers`, of our own or of a SuperLocalMemory daemon. Nothing in it
    /// is trusted: what is no peer, or not its own, is left out, and texts are cut.
    pub fn read(value: &Value) -> Option<Roster> {
        let mark = value["mesh"].as_str().map(|mark| plain(mark, 64));
        let rows = value["peers"].as_array()?;
        let own = |row: &&Value| row["mesh"].as_str().is_none_or(|of| Some(of) == mark.as_deref());
        let active = |row: &&Value| row["status"].as_str().is_none_or(|status| status == "active");
        let peers = rows.iter().filter(own).filter(active).filter_map(Seen::read).take(limits::LINKED_MAX).collect();
        Some(Roster { mark, peers })
    }
}

impl Seen {
    fn read(row: &Value) -> Option<Seen> {
        let text = |name: &str, max| row[name].as_str().map(|text| plain(text, max)).filter(|text| !text.is_empty());
        let id = row["peer_id"].as_str().filter(|id| is_id(id))?;
        let at = |name: &str| row[name].as_str().and_then(time::parse).unwrap_or(0);
        Some(Seen {
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
fn plain(text: &str, max: usize) -> String {
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
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Sets the meshes to look at.
    pub(super) fn link(&mut self, urls: &[String]) {
        self.links = urls.iter().map(|url| Link { url: url.clone(), ..Link::default() }).collect();
        self.letters = true;
    }

    /// When a link was heard last; one that never was has as long as any since we began.
    fn heard_at(&self, link: &Link) -> i64 {
        link.heard.unwrap_or(self.started)
    }

    /// A linked mesh said who is there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn heard(&mut self, n: usize, roster: &Roster, now: i64) -> Result<(), Fault> {
        let own = self.mark();
        let Some(link) = self.links.get_mut(n) else { return Ok(()) };
        link.mark.clone_from(&roster.mark);
        link.heard = Some(now);
        link.trouble = (roster.mark.as_ref() == Some(&own)).then(|| "this is the address of this broker itself".into());
        if link.trouble.is_some() {
            return Ok(());
        }
        let is_slm = link.mark.is_none();
        let deaf = |seen: &&Seen| is_slm && now - seen.started > DEAF_MS && seen.beat - seen.started < 5_000;
        link.deaf = roster.peers.iter().filter(deaf).map(|seen| seen.id.clone()).collect();
        let url = link.url.clone();
        self.scoped(|mesh| {
            for seen in &roster.peers {
                mesh.meet(&url, is_slm, seen, now)?;
            }
            mesh.miss(&url, |id| roster.peers.iter().any(|seen| seen.id == id), "left", now)
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
    fn meet(&mut self, url: &str, is_slm: bool, seen: &Seen, now: i64) -> Result<(), Fault> {
        let known = self.peer(&seen.id).map(|peer| peer.row.clone());
        let label = match (&seen.host, is_slm) {
            (Some(host), _) => host.clone(),
            (None, true) => "slm".into(),
            (None, false) => host_of(url).to_owned(),
        };
        let mut row = match known {
            // Our own, shown back to us; or another link's, which has it.
            Some(row) if row.kind != LINKED || row.here && row.session != url => return Ok(()),
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
        row = PeerRow {
            agent: seen.agent.clone(),
            project: seen.project.clone(),
            repo: seen.repo.clone(),
            git_branch: seen.branch.clone(),
            summary: seen.summary.clone(),
            host: seen.host.clone().unwrap_or_else(|| host_of(url).to_owned()),
            session: url.to_owned(),
            started: if seen.started > 0 { seen.started.min(now) } else { now },
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

    /// `claude-api@laptop`; where that is taken, a piece of the id tells them apart.
    fn linked_name(&self, seen: &Seen, label: &str) -> String {
        let name = |own: &str| format!("{own}@{label}").replace([':', '/', ' '], "-");
        let wanted = name(&seen.name);
        if self.peers.iter().all(|peer| peer.row.name != wanted) {
            return self.free_name(&wanted);
        }
        self.free_name(&name(&format!("{}-{:.6}", seen.name, seen.id)))
    }

    /// Peers of other meshes never crowd out our own: beyond a bound those go that are away with nothing
    /// waiting for them, and then no more come.
    fn has_room_for_linked(&mut self) -> Result<bool, Fault> {
        let linked = |peer: &&Peer| peer.row.kind == LINKED;
        if self.peers.iter().filter(linked).count() < 2 * limits::LINKED_MAX {
            return Ok(true);
        }
        let away = self.peers.iter().filter(linked).filter(|peer| !peer.row.here).map(|peer| peer.row.id.clone());
        for id in away.collect::<Vec<_>>() {
            if self.unread(&id)? == 0 {
                self.store.drop_peer(&id)?;
                self.peers.retain(|peer| peer.row.id != id);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Counts as away the peers of a link that were not seen any more.
    fn miss(&mut self, url: &str, is_there: impl Fn(&str) -> bool, why: &str, now: i64) -> Result<(), Fault> {
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
    pub(super) fn expire_links(&mut self, now: i64) -> Result<(), Fault> {
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
    pub(super) fn link_deadline(&self) -> Option<i64> {
        let here = self.peers.iter().filter(|peer| peer.row.kind == LINKED && peer.row.here);
        let link = |peer: &Peer| self.links.iter().find(|link| link.url == peer.row.session);
        // One whose link was taken out of the settings is gone at once.
        here.map(|peer| link(peer).map_or(0, |link| self.heard_at(link) + limits::LINK_SILENT_MS)).min()
    }

    /// Whether a message to this peer could ever be forwarded.
    pub(super) fn check_letter(&self, to: &str, body: &str) -> Result<(), Fault> {
        let Some(peer) = self.peer(to).filter(|peer| peer.row.kind == LINKED) else { return Ok(()) };
        let Some(link) = self.links.iter().find(|link| link.url == peer.row.session) else {
            let text = format!(
                "{} is on another mesh, at {}, to which there is no link any more; SLM_MESH_PEER_URL makes one",
                peer.row.name, peer.row.session
            );
            return Err(Fault::new(Kind::Gone, text));
        };
        let n = body.chars().count();
        if link.mark.is_none() && n > SLM_CHARS_MAX {
            let text = format!(
                "message: {} is on SuperLocalMemory, which takes {SLM_CHARS_MAX} characters, and these are {n}; send it \
                 in parts, or put it into a file and say where",
                peer.row.name
            );
            return Err(Fault::new(Kind::Refused, text));
        }
        Ok(())
    }

    /// Whether a letter waits for any link: then the broker stays.
    pub fn has_letters(&self) -> bool {
        let count = |id: &str| self.unread.get(id).copied().or_else(|| self.store.count_unread(id).ok());
        self.peers.iter().any(|peer| self.is_linked(peer) && count(&peer.row.id).is_some_and(|n| n > 0))
    }

    /// Whether a link of ours leads to a peer.
    fn is_linked(&self, peer: &Peer) -> bool {
        peer.row.kind == LINKED && self.links.iter().any(|link| link.url == peer.row.session)
    }

    /// Whether letters may wait; told once, until more may.
    pub fn take_letters(&mut self) -> bool {
        !self.links.is_empty() && std::mem::take(&mut self.letters)
    }

    /// The oldest letter that waits for a link.
    ///
    /// # Errors
    /// When the disk can't be read.
    pub fn next_letter(&self, n: usize, now: i64) -> Result<Option<Letter>, Fault> {
        let Some(link) = self.links.get(n) else { return Ok(None) };
        let mut oldest: Option<Message> = None;
        for peer in self.peers.iter().filter(|peer| peer.row.kind == LINKED && peer.row.session == link.url) {
            let pick = MessagePick { to: Some(&peer.row.id), unread: true, limit: 20, ..MessagePick::default() };
            let found = self.store.messages(&pick)?;
            let first = found.into_iter().find(|message| message.expires.is_none_or(|at| at > now));
            oldest = [oldest, first].into_iter().flatten().min_by_key(|message| message.seq);
        }
        Ok(oldest.map(|message| Letter { seq: message.seq, body: self.letter(link, &message) }))
    }

    /// What is posted: the fields that both kinds know, and for our own kind who wrote it.
    fn letter(&self, link: &Link, message: &Message) -> Value {
        let is_deaf = link.deaf.contains(&message.recipient);
        let to = self.peer(&message.recipient).map(|peer| peer.row.clone()).unwrap_or_default();
        let (address, content) = match to.project.as_str() {
            _ if !is_deaf => (to.id.clone(), message.body.clone()),
            "" => ("broadcast".into(), format!("to {}: {}", to.name, message.body)),
            project => (format!("project:{project}"), format!("to {}: {}", to.name, message.body)),
        };
        let content: String = if is_deaf { content.chars().take(SLM_CHARS_MAX).collect() } else { content };
        json!({
            "from_peer": message.sender, "to_peer": address, "content": content, "type": message.kind,
            "key": self.outside_id(8, message.seq), "from_name": self.name_of(&message.sender),
            "from_machine": self.settings.host,
        })
    }

    /// A letter came to its end, or did not.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn passed(&mut self, n: usize, seq: i64, passed: &Passed, now: i64) -> Result<(), Fault> {
        let url = self.links.get(n).map(|link| link.url.clone()).unwrap_or_default();
        self.letters = true;
        if let Passed::Later(why) = passed {
            self.unheard(n, why);
            return Ok(());
        }
        self.scoped(|mesh| {
            let Some(was) = mesh.store.message(seq)?.filter(|message| message.state < 2) else { return Ok(()) };
            let (state, kind, surface) = match passed {
                Passed::Refused(why) => (REFUSED, "message_refused", format!("{url}: {}", plain(why, 200))),
                _ => (FORWARDED, "message_forwarded", url),
            };
            let at = (state == FORWARDED).then_some(now);
            let message = Message { state, offered: at, pushed: at, surface: Some(surface), ..was.clone() };
            mesh.settle_receipt(&was, &message)?;
            let what = json!({
                "messageId": mesh.outside_id(8, seq), "fromPeer": was.sender, "toPeer": was.recipient,
                "by": message.surface,
            });
            mesh.emit(kind, &was.recipient, what, now)
        })
    }

    /// Whom a letter from a linked mesh is from: a peer that is known to be there, else its name, which
    /// is never that of one of ours.
    pub fn sender_of_letter(&self, id: &str, name: Option<&str>, machine: Option<&str>) -> String {
        if self.peer(id).is_some_and(|peer| peer.row.kind == LINKED) {
            return id.to_owned();
        }
        let text = match (name, machine) {
            (Some(name), Some(machine)) => format!("{}@{}", plain(name, 60), plain(machine, 60)),
            _ => format!("slm:{}", plain(id, 100)),
        };
        match self.resolve(&text) {
            Ok(of) if self.peer(&of).is_some_and(|peer| peer.row.kind != LINKED) => format!("link:{text}"),
            _ => text,
        }
    }

    /// The message that this sender sent under this key.
    ///
    /// # Errors
    /// When the disk can't be read.
    pub fn sent_as(&self, sender: &str, key: &str) -> Result<Option<i64>, Fault> {
        Ok(self.store.messages_by_key(sender, key)?.first().map(|message| message.seq))
    }

    /// The links, for the status.
    pub(super) fn links_value(&self, now: i64) -> Result<Value, Fault> {
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
