//! Messages to peers of linked meshes, kept until the other mesh has confirmed them, and messages that arrive from
//! linked meshes.
//!
//! **Invariant:** a message travels over one link, in the order in which it was sent, and counts as forwarded only
//! after the other mesh has confirmed it.

use super::roster::plain;
use super::{Federation, MeshLink};
use crate::base::error::{Error, ErrorKind};
use crate::base::ids::PeerId;
use crate::base::kinds::MessageState;
use crate::core::Mesh;
use crate::core::journal::Change;
use crate::core::peers::Peers;
use crate::store::{Message, MessageFilter};
use serde_json::{Value, json};

/// The longest message that a SuperLocalMemory daemon (version 3.4.48) accepts, in characters.
const SLM_CHARS_MAX: usize = 4096;
/// How many waiting messages of one peer are searched for the oldest one that has not expired.
const LOOKED_AT_MAX: i64 = 20;

/// A message on its way to another mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct ForwardedMessage {
    /// The sequence number of the message.
    pub seq: i64,
    /// The JSON to post.
    pub body: Value,
}

/// What the other mesh did with a forwarded message.
#[derive(Debug, Clone, PartialEq)]
pub enum Delivery {
    /// The other mesh has stored the message.
    Accepted,
    /// The other mesh will never accept the message, for this reason.
    Rejected(String),
    /// The other mesh refused the message for now, for this reason.
    Retry(String),
}

/// The prefix of a message to a whole project that is meant for one peer.
fn addressed_to(name: &str) -> String {
    format!("to {name}: ")
}

impl Federation {
    /// Notes that new mail may have to be forwarded.
    pub(in crate::core) fn note_new_mail(&mut self) {
        self.may_forward |= !self.links.is_empty();
    }

    /// Refuses a message that could never be forwarded to its recipient.
    pub(in crate::core) fn check_forwardable(&self, peers: &Peers, to: &str, body: &str) -> Result<(), Error> {
        let Some(peer) = peers.get(to) else { return Ok(()) };
        let Some(mesh) = peer.row.mesh() else { return Ok(()) };
        let Some(link) = self.link_to(mesh) else {
            let text = format!(
                "{} is on another mesh, at {mesh}, to which no link leads any more; SLM_MESH_PEER_URL makes one",
                peer.row.name
            );
            return Err(Error::new(ErrorKind::Gone, text));
        };
        let max = SLM_CHARS_MAX - addressed_to(&peer.row.name).chars().count();
        let n = body.chars().count();
        if link.is_superlocalmemory() && n > max {
            let text = format!(
                "message: {} is on SuperLocalMemory, which takes {SLM_CHARS_MAX} characters, {} of them for the \
                 recipient's name, and this message has {n}; send it in parts, or put it into a file and say where",
                peer.row.name,
                SLM_CHARS_MAX - max
            );
            return Err(Error::new(ErrorKind::Refused, text));
        }
        Ok(())
    }
}

impl Mesh {
    /// Whether a message waits for any link. While a message waits, the broker does not end.
    pub fn has_mail_to_forward(&self) -> bool {
        let linked = self.peers.all().iter().filter(|peer| self.federation.reaches(&peer.row));
        linked
            .map(|peer| self.mail.waiting_for(&self.turn.store, &peer.row.id))
            .any(|waiting| waiting.is_some_and(|n| n > 0))
    }

    /// Whether messages may wait to be forwarded. This returns true once, and again only after new mail.
    pub fn take_forwarding_due(&mut self) -> bool {
        !self.federation.links.is_empty() && std::mem::take(&mut self.federation.may_forward)
    }

    /// The oldest message that waits for a link.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn next_forwarded(&self, n: usize, now: i64) -> Result<Option<ForwardedMessage>, Error> {
        let store = &self.turn.store;
        // Before the first answer, nobody knows which messages the peers of the other mesh read.
        let link = self.federation.links.get(n).filter(|link| link.last_answer.is_some());
        let Some(link) = link else { return Ok(None) };
        let mut oldest: Option<Message> = None;
        for peer in self.peers.all().iter().filter(|peer| peer.row.mesh() == Some(&link.url)) {
            if self.mail.waiting_for(store, &peer.row.id) == Some(0) {
                continue;
            }
            let to = Some(peer.row.id.as_str());
            let filter = MessageFilter { to, unread: true, limit: LOOKED_AT_MAX, ..MessageFilter::default() };
            let found = store.messages(&filter)?;
            let first = found.into_iter().find(|message| message.expires.is_none_or(|at| at > now));
            oldest = [oldest, first].into_iter().flatten().min_by_key(|message| message.seq);
        }
        let Some(message) = oldest else { return Ok(None) };
        Ok(Some(ForwardedMessage { seq: message.seq, body: self.forwarded_body(link, &message, now)? }))
    }

    /// The JSON to post: the fields that both kinds of mesh know, and the fields that only an slm-mesh reads.
    fn forwarded_body(&self, link: &MeshLink, message: &Message, now: i64) -> Result<Value, Error> {
        let direct = !link.broadcast_only.contains(&message.recipient);
        let to = self.peers.get(&message.recipient).map(|peer| peer.row.clone()).unwrap_or_default();
        let (address, content) = match to.project.as_str() {
            _ if direct => (to.id.to_string(), message.body.clone()),
            "" => ("broadcast".into(), addressed_to(&to.name) + &message.body),
            project => (format!("project:{project}"), addressed_to(&to.name) + &message.body),
        };
        // The message that is answered came with a key, which is its id in the other mesh.
        let answered = message.reply_to.map(|seq| self.turn.store.message(seq)).transpose()?.flatten();
        let reply_to = answered.filter(|of| of.sender == message.recipient).and_then(|of| of.key);
        // The remaining time is sent instead of the expiry time, because the clocks of the two machines differ.
        Ok(json!({
            "from_peer": message.sender.as_str(), "to_peer": address, "content": content,
            "type": message.kind.word(), "key": self.ids.message(message.seq),
            "from_name": self.peers.name_of(&message.sender), "from_machine": self.settings.host,
            "reply_to": reply_to, "expires_in": message.expires.map(|at| at - now),
        }))
    }

    /// Acknowledges a message of this mesh that a message from a linked mesh answers. The other mesh names it by its
    /// id in this mesh. Returns its sequence number.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn acknowledge_by_reply(
        &mut self,
        sender: &str,
        recipient: &str,
        id: &str,
        now: i64,
    ) -> Result<Option<i64>, Error> {
        let Mesh { turn, mail, journal, ids, .. } = self;
        let known = ids.message_seq(id).map(|seq| turn.store.message(seq)).transpose()?.flatten();
        let Some(was) = known.filter(|of| of.sender == recipient && of.recipient == sender) else { return Ok(None) };
        if was.acked.is_none() {
            let acked = MessageState::Acked;
            let message = Message { state: acked, read: Some(now), acked: Some(now), ..was.clone() };
            mail.put_receipt(turn, journal, &was, &message)?;
        }
        Ok(Some(was.seq))
    }

    /// Notes whether the other mesh accepted a message.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn on_delivery(&mut self, n: usize, seq: i64, delivery: &Delivery, now: i64) -> Result<(), Error> {
        let url = self.federation.links.get(n).map(|link| link.url.clone()).unwrap_or_default();
        self.federation.may_forward = true;
        let rejection = match delivery {
            Delivery::Retry(why) => {
                self.on_poll_failed(n, why);
                return Ok(());
            }
            Delivery::Rejected(why) => Some(plain(why, 200)),
            Delivery::Accepted => None,
        };
        self.in_savepoint(|mesh| {
            let Mesh { turn, peers, mail, journal, .. } = mesh;
            let waits = |message: &Message| message.state.is_unread();
            let Some(was) = turn.store.message(seq)?.filter(waits) else { return Ok(()) };
            let taken_at = rejection.is_none().then_some(now);
            let message = Message {
                state: if rejection.is_none() { MessageState::Forwarded } else { MessageState::Rejected },
                offered: taken_at,
                pushed: taken_at,
                channel: None,
                mesh: Some(url.clone()),
                rejection: rejection.clone(),
                ..was.clone()
            };
            mail.put_receipt(turn, journal, &was, &message)?;
            let change = match rejection {
                None => Change::MessageForwarded { message: &message, by: url.to_string() },
                Some(why) => Change::MessageRejected { message: &message, by: format!("{url}: {why}") },
            };
            journal.record(turn, peers, &change, &was.recipient, now)
        })
    }

    /// The sender of a message from a linked mesh: a known peer of that mesh, or else a name that no peer of this
    /// mesh has.
    pub fn forwarded_sender(&self, id: &str, name: Option<&str>, machine: Option<&str>) -> PeerId {
        if self.peers.get(id).is_some_and(|peer| peer.row.is_linked()) {
            return id.into();
        }
        self.unknown_sender(id, name, machine)
    }

    /// The name of a sender that is not a known peer of its mesh.
    pub fn unknown_sender(&self, id: &str, name: Option<&str>, machine: Option<&str>) -> PeerId {
        let text = match (name, machine) {
            (Some(name), Some(machine)) => format!("{}@{}", plain(name, 60), plain(machine, 60)),
            _ => format!("slm:{}", plain(id, 100)),
        };
        match self.peers.resolve(&text) {
            Ok(of) if self.peers.get(&of).is_some_and(|peer| !peer.row.is_linked()) => format!("link:{text}").into(),
            _ => text.into(),
        }
    }

    /// The message that this sender sent with this key.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn message_with_key(&self, sender: &str, key: &str) -> Result<Option<i64>, Error> {
        Ok(self.turn.store.messages_by_key(sender, key)?.first().map(|message| message.seq))
    }
}
