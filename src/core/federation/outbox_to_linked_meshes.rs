//! Keeps messages to peers of linked meshes until those meshes have confirmed them. Also accepts messages from linked
//! meshes.
//!
//! **Invariant:** a message travels over one link, and counts as forwarded only after the other mesh has confirmed the
//! message. Messages are sent in order, except that later messages may overtake a message that gets no clear answer.

use super::roster::plain;
use super::{Federation, MeshLink};
use crate::base::domain_enums::MessageState;
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::{MessageSeq, PeerId, PublicIds};
use crate::core::Mesh;
use crate::core::event_journal::Journal;
use crate::core::mail::Mail;
use crate::core::peers::Peers;
use crate::core::transaction_and_pending_effects::Turn;
use crate::store::{Message, Store};
use serde_json::{Value, json};

/// Maximum length of a message that a SuperLocalMemory daemon (version 3.4.48) accepts, in characters.
const SLM_CHARS_MAX: usize = 4096;
/// Maximum number of waiting messages that are loaded for each peer. More than one is loaded, because the oldest ones
/// may have expired. While the oldest message gets no clear answer, at most this many messages are tried in turn.
const LOOKED_AT_MAX: usize = 20;

/// A message on its way to another mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct ForwardedMessage {
    /// The sequence number of the message.
    pub seq: MessageSeq,
    /// The JSON to post to the other mesh.
    pub body: Value,
}

/// Returns a prefix that contains the recipient's name. A message begins with this prefix if it is sent to the
/// recipient's whole project or to all peers of the other mesh.
fn addressed_to(name: &str) -> String {
    format!("to {name}: ")
}

impl Federation {
    /// Records that there is a new message, which may have to be forwarded.
    pub(in crate::core) fn note_new_mail(&mut self) {
        self.may_forward |= !self.links.is_empty();
    }

    /// Returns an error if a message can't be forwarded: the recipient's mesh is no longer linked, or accepts no
    /// message of this length.
    pub(in crate::core) fn check_forwardable(&self, peers: &Peers, to: &PeerId, body: &str) -> Result<(), Error> {
        let Some(peer) = peers.get(to) else { return Ok(()) };
        let Some(mesh) = peer.row.mesh() else { return Ok(()) };
        let Some(link) = self.link_to(mesh) else {
            let text = format!(
                "{} is on the mesh at {mesh}, which is no longer linked; to link that mesh again, set \
                 SLM_MESH_PEER_URL",
                peer.row.name
            );
            return Err(Error::new(ErrorKind::Refused, text));
        };
        let max = SLM_CHARS_MAX - addressed_to(&peer.row.name).chars().count();
        let n = body.chars().count();
        if link.is_superlocalmemory() && n > max {
            let text = format!(
                "message: {} is on SuperLocalMemory, which accepts at most {SLM_CHARS_MAX} characters; the recipient's \
                 name takes {} of them, and this message has {n}; send the message in parts, or put it into a file and \
                 send the path of the file",
                peer.row.name,
                SLM_CHARS_MAX - max
            );
            return Err(Error::new(ErrorKind::Refused, text));
        }
        Ok(())
    }
}

/// Returns the sender of a message from a linked mesh. For an unknown sender, returns a text that is not the name
/// of any peer of this mesh.
pub(super) fn forwarded_sender(peers: &Peers, id: &str, name: Option<&str>, machine: Option<&str>) -> PeerId {
    if peers.with_id(id).is_some_and(|peer| peer.row.is_linked()) {
        return id.into();
    }
    unknown_sender(peers, id, name, machine)
}

/// Returns a text to use as the id of a sender that is not a known peer of the linked mesh.
pub(super) fn unknown_sender(peers: &Peers, id: &str, name: Option<&str>, machine: Option<&str>) -> PeerId {
    let text = match (name, machine) {
        (Some(name), Some(machine)) => format!("{}@{}", plain(name, 60), plain(machine, 60)),
        _ => format!("slm:{}", plain(id, 100)),
    };
    match peers.find_by_name(&text) {
        Ok(of) if peers.get(&of).is_some_and(|peer| !peer.row.is_linked()) => format!("link:{text}").into(),
        _ => text.into(),
    }
}

/// Returns at most `max` unexpired messages that are waiting for a link, with the oldest message first.
fn waiting_messages(
    (store, peers, mail): (&Store, &Peers, &Mail),
    link: &MeshLink,
    max: usize,
    now: i64,
) -> Result<Vec<Message>, Error> {
    let mut waiting: Vec<Message> = Vec::new();
    for peer in peers.linked().filter(|peer| peer.row.mesh() == Some(&link.url)) {
        if mail.count_unread(store, &peer.row.id)? == 0 {
            continue;
        }
        let is_due = |message: &Message| message.expires.is_none_or(|at| at > now);
        waiting.extend(
            mail.oldest_unread(store, &peer.row.id, LOOKED_AT_MAX as i64)?.into_iter().filter(is_due).take(max),
        );
        waiting.sort_by_key(|message| message.seq);
        waiting.truncate(max);
    }
    Ok(waiting)
}

/// Returns the JSON to post. An slm-mesh broker reads all fields, but a SuperLocalMemory daemon reads only some of
/// them.
fn forwarded_body(
    (store, peers, mail): (&Store, &Peers, &Mail),
    (ids, host): (PublicIds, &str),
    link: &MeshLink,
    message: &Message,
    now: i64,
) -> Result<Value, Error> {
    let direct = !link.broadcast_only.contains(&message.recipient);
    let to = peers.get(&message.recipient).map(|peer| peer.row.clone()).unwrap_or_default();
    let (address, content) = match to.project.as_str() {
        _ if direct => (to.id.to_string(), message.body.clone()),
        "" => ("broadcast".into(), addressed_to(&to.name) + &message.body),
        project => (format!("project:{project}"), addressed_to(&to.name) + &message.body),
    };
    // A reply contains the id that the answered message has in the other mesh. This mesh stored that id as the
    // answered message's key.
    let answered = message.reply_to.map(|seq| mail.message(store, seq)).transpose()?.flatten();
    let reply_to = answered.filter(|of| of.sender == message.recipient).and_then(|of| of.key);
    // The clocks of the two machines may differ, so the JSON contains the remaining time instead of the expiry
    // time.
    Ok(json!({
        "from_peer": message.sender.as_str(), "to_peer": address, "content": content,
        "type": message.kind.word(), "key": ids.message(message.seq),
        "from_name": peers.name_of(&message.sender), "from_machine": host,
        "reply_to": reply_to, "expires_in": message.expires.map(|at| at - now), "group": message.group,
    }))
}

/// Acknowledges the message `id`, because a peer of a linked mesh has replied to it. `sender` and `recipient` are
/// the sender and the recipient of the reply. Returns the sequence number of the acknowledged message, or `None` if
/// `recipient` did not send this message to `sender`.
///
/// # Errors
/// When the database can't be written.
pub(super) fn acknowledge_by_reply(
    (turn, mail, journal): (&mut Turn, &mut Mail, &Journal),
    ids: PublicIds,
    sender: &PeerId,
    recipient: &PeerId,
    id: &str,
    now: i64,
) -> Result<Option<MessageSeq>, Error> {
    let known = ids.message_seq(id).map(|seq| mail.message(&turn.store, seq)).transpose()?.flatten();
    let Some(was) = known.filter(|of| of.sender == *recipient && of.recipient == *sender) else { return Ok(None) };
    if was.acked.is_none() {
        let acked = MessageState::Acked;
        let message = Message { state: acked, read: Some(now), acked: Some(now), ..was.clone() };
        mail.put_receipt(turn, journal, &was, &message)?;
    }
    Ok(Some(was.seq))
}

impl Mesh {
    /// Counts a message against the rate limit of its link before the message is sent. If the limit is reached, returns
    /// how long the link must pause, in ms. By default, the other mesh accepts messages at a higher rate than this
    /// limit.
    pub fn forwarding_pause(&mut self, n: usize, now: i64) -> Option<i64> {
        let url = &self.federation.links.get(n)?.url;
        self.rates.spend(&format!("messages to {url}"), 10, now).err()
    }

    /// Whether any message is waiting to be forwarded. The broker keeps running while a message is waiting.
    pub fn has_mail_to_forward(&self) -> bool {
        let linked = self.peers.linked().filter(|peer| self.federation.reaches(&peer.row));
        linked
            .map(|peer| self.mail.count_unread(&self.turn.store, &peer.row.id))
            .any(|waiting| waiting.is_ok_and(|n| n > 0))
    }

    /// Returns true if there may be a message to forward. There may be one if a message, the result of a delivery, or
    /// an answer to a poll has arrived since the last call.
    pub fn take_forwarding_due(&mut self) -> bool {
        !self.federation.links.is_empty() && std::mem::take(&mut self.federation.may_forward)
    }

    /// Returns the next message for a link. This is the oldest waiting message, or a later message if the oldest
    /// message got no clear answer.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn next_forwarded(&self, n: usize, now: i64) -> Result<Option<ForwardedMessage>, Error> {
        // Nothing is sent before the linked mesh has answered a poll. Before the answer, this mesh does not know
        // whether the peers of the linked mesh read direct messages.
        let link = self.federation.links.get(n).filter(|link| link.last_answer.is_some());
        let Some(link) = link else { return Ok(None) };
        let parts = (&self.turn.store, &self.peers, &self.mail);
        let mut waiting = waiting_messages(parts, link, 1, now)?;
        if let [oldest] = &waiting[..]
            && link.is_doubtful(oldest.seq)
        {
            waiting = waiting_messages(parts, link, LOOKED_AT_MAX, now)?;
        }
        let at = link.doubtful.as_ref().map_or(0, |doubtful| doubtful.next_try(&waiting));
        let Some(message) = waiting.get(at) else { return Ok(None) };
        let own = (self.ids, self.settings.host.as_str());
        Ok(Some(ForwardedMessage { seq: message.seq, body: forwarded_body(parts, own, link, message, now)? }))
    }
}
