//! Letters to peers of linked meshes: messages that wait until the other side has them, and those that
//! come from there.
//!
//! **Invariant:** a letter goes one link far, in the order in which it was sent, and none is called
//! forwarded before the other side said that it has it.

use crate::base::error::{Error, ErrorKind};
use crate::core::Mesh;
use crate::core::federation::roster::{MeshLink, plain};
use crate::core::peers::{LINKED, Peer};
use crate::store::{Message, MessageFilter};
use serde_json::{Value, json};

/// What a SuperLocalMemory daemon takes, in characters (its version 3.4.48).
const SLM_CHARS_MAX: usize = 4096;
/// `Message::state` of what the other side has, and of what it will not have.
const FORWARDED: i64 = 5;
const REFUSED: i64 = 6;

/// A letter on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct ForwardedMessage {
    /// The message.
    pub seq: i64,
    /// What is posted.
    pub body: Value,
}

/// What became of a letter.
#[derive(Debug, Clone, PartialEq)]
pub enum Delivery {
    /// The other side has it.
    Accepted,
    /// The other side will never have it, and why.
    Rejected(String),
    /// Not now, and why.
    Retry(String),
}

impl Mesh {
    /// Whether a message to this peer could ever be forwarded.
    pub(crate) fn check_letter(&self, to: &str, body: &str) -> Result<(), Error> {
        let Some(peer) = self.peer(to).filter(|peer| peer.row.kind == LINKED) else { return Ok(()) };
        let Some(link) = self.links.iter().find(|link| link.url == peer.row.session) else {
            let text = format!(
                "{} is on another mesh, at {}, to which there is no link any more; SLM_MESH_PEER_URL makes one",
                peer.row.name, peer.row.session
            );
            return Err(Error::new(ErrorKind::Gone, text));
        };
        // Before its first answer nobody knows what it is; then the other side says so itself.
        let is_slm = link.heard.is_some() && link.mark.is_none();
        let max = SLM_CHARS_MAX - address_of(&peer.row.name).chars().count();
        let n = body.chars().count();
        if is_slm && n > max {
            let text = format!(
                "message: {} is on SuperLocalMemory, which takes {SLM_CHARS_MAX} characters, {} of them to say for whom \
                 it is, and these are {n}; send it in parts, or put it into a file and say where",
                peer.row.name,
                SLM_CHARS_MAX - max
            );
            return Err(Error::new(ErrorKind::Refused, text));
        }
        Ok(())
    }

    /// Whether a letter waits for any link: then the broker stays.
    pub fn has_letters(&self) -> bool {
        self.peers.iter().any(|peer| self.is_linked(peer) && self.n_waiting(&peer.row.id).is_some_and(|n| n > 0))
    }

    /// How many messages wait for a peer, if the disk can be read.
    pub(crate) fn n_waiting(&self, id: &str) -> Option<i64> {
        self.unread.get(id).copied().or_else(|| self.store.count_unread(id).ok())
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
    pub fn next_letter(&self, n: usize, now: i64) -> Result<Option<ForwardedMessage>, Error> {
        // Before its first answer nobody knows what its peers read.
        let Some(link) = self.links.get(n).filter(|link| link.heard.is_some()) else { return Ok(None) };
        let mut oldest: Option<Message> = None;
        for peer in self.peers.iter().filter(|peer| peer.row.kind == LINKED && peer.row.session == link.url) {
            if self.n_waiting(&peer.row.id) == Some(0) {
                continue;
            }
            let pick = MessageFilter { to: Some(&peer.row.id), unread: true, limit: 20, ..MessageFilter::default() };
            let found = self.store.messages(&pick)?;
            let first = found.into_iter().find(|message| message.expires.is_none_or(|at| at > now));
            oldest = [oldest, first].into_iter().flatten().min_by_key(|message| message.seq);
        }
        oldest
            .map(|message| Ok(ForwardedMessage { seq: message.seq, body: self.letter(link, &message, now)? }))
            .transpose()
    }

    /// What is posted: the fields that both kinds know, and for our own kind who wrote it.
    fn letter(&self, link: &MeshLink, message: &Message, now: i64) -> Result<Value, Error> {
        let is_deaf = link.deaf.contains(&message.recipient);
        let to = self.peer(&message.recipient).map(|peer| peer.row.clone()).unwrap_or_default();
        let (address, content) = match to.project.as_str() {
            _ if !is_deaf => (to.id.clone(), message.body.clone()),
            "" => ("broadcast".into(), address_of(&to.name) + &message.body),
            project => (format!("project:{project}"), address_of(&to.name) + &message.body),
        };
        // What is answered came with a key: its id over there.
        let answered = message.reply_to.map(|seq| self.store.message(seq)).transpose()?.flatten();
        let reply_to = answered.filter(|of| of.sender == message.recipient).and_then(|of| of.key);
        // For how long it is good, not until when: two clocks differ.
        Ok(json!({
            "from_peer": message.sender, "to_peer": address, "content": content, "type": message.kind,
            "key": self.outside_id(8, message.seq), "from_name": self.name_of(&message.sender),
            "from_machine": self.settings.host, "reply_to": reply_to, "expires_in": message.expires.map(|at| at - now),
        }))
    }

    /// A letter answers one of ours, which the other side knows by its id here: that is acknowledged.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn answered_by(&mut self, sender: &str, recipient: &str, id: &str, now: i64) -> Result<Option<i64>, Error> {
        let known = self.inside_id(8, id).map(|seq| self.store.message(seq)).transpose()?.flatten();
        let Some(was) = known.filter(|of| of.sender == recipient && of.recipient == sender) else { return Ok(None) };
        let message = Message { state: 3, read: Some(now), acked: Some(now), ..was.clone() };
        if was.acked.is_none() {
            self.settle_receipt(&was, &message)?;
        }
        Ok(Some(was.seq))
    }

    /// A letter came to its end, or did not.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn passed(&mut self, n: usize, seq: i64, passed: &Delivery, now: i64) -> Result<(), Error> {
        let url = self.links.get(n).map(|link| link.url.clone()).unwrap_or_default();
        self.letters = true;
        if let Delivery::Retry(why) = passed {
            self.unheard(n, why);
            return Ok(());
        }
        self.scoped(|mesh| {
            let Some(was) = mesh.store.message(seq)?.filter(|message| message.state < 2) else { return Ok(()) };
            let (state, kind, surface) = match passed {
                Delivery::Rejected(why) => (REFUSED, "message_refused", format!("{url}: {}", plain(why, 200))),
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
        self.name_of_stranger(id, name, machine)
    }

    /// What a sender is called as long as it is not known to be there.
    pub fn name_of_stranger(&self, id: &str, name: Option<&str>, machine: Option<&str>) -> String {
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
    pub fn sent_as(&self, sender: &str, key: &str) -> Result<Option<i64>, Error> {
        Ok(self.store.messages_by_key(sender, key)?.first().map(|message| message.seq))
    }
}

/// What a letter to all of a project begins with, where one peer is meant.
fn address_of(name: &str) -> String {
    format!("to {name}: ")
}
