//! Receipts. A receipt is the state of a message. This module also converts messages to the forms that senders and
//! recipients see.

use super::{Mail, MailView};
use crate::base::build_json_object::json_object;
use crate::base::domain_enums::MessageState;
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::{MeshUrl, MessageSeq, PeerId};
use crate::base::{limits, time_format, untrusted_text};
use crate::core::event_journal::{Change, Journal};
use crate::core::op_behavior::{Notices, OpBehavior};
use crate::core::op_definition::{ArgKind, Runner};
use crate::core::peers::{Peer, Peers};
use crate::core::transaction_and_pending_effects::Turn;
use crate::core::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome, object};
use crate::store::{Message, Store};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// Maximum number of peers that a note lists by name.
const NAMES_MAX: usize = 20;

/// Reports which messages, or parts of messages, the client has shown.
pub static MARK_READ: Op = Op {
    name: "inbox.mark_read",
    summary: "Report which messages of the inbox the client has shown; each item is an id, or id@bytes if only a part \
              was shown",
    args: &[Arg::new("items", ArgKind::Texts { items: limits::LIST_MAX, max: 64 }, "Message ids")
        .required()
        .at(CliPlace::Hidden)],
    actor: Auth::Required,
    verb: None,
    tool: None,
    repeatable: true,
    behavior: OpBehavior { notices: Notices::None, on_page: true, ..OpBehavior::USUAL },
    run: Runner::Rule(mark_read),
};

fn mark_read(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, mail, journal, .. } = mesh;
    for item in args.texts("items") {
        let (id, bytes) = item.split_once('@').unwrap_or((item, ""));
        let Some(seq) = mail.ids.message_seq(id) else { continue };
        let own = |m: &Message| ctx.is_by(&m.recipient) && m.state.is_unread();
        let Some(was) = turn.store.message(seq)?.filter(own) else { continue };
        match bytes.parse::<i64>() {
            Ok(bytes) if (bytes as usize) < was.body.len() => {
                let message = Message { bytes_read: was.bytes_read.max(bytes), ..was.clone() };
                mail.put_receipt(turn, journal, &was, &message)?;
            }
            _ => mail.mark_read(turn, peers, journal, &was, ctx.now)?,
        }
    }
    Ok(Outcome::Ready(json!({ "ok": true })))
}

impl Mail {
    /// Returns the answer for the sender of a message, with the receipt of each copy.
    pub(super) fn sent_view(&self, peers: &Peers, sent: &[Message]) -> Value {
        let recipients: Vec<Value> = sent
            .iter()
            .take(limits::LIST_MAX)
            .map(|m| {
                let online = peers.get(&m.recipient).is_some_and(Peer::is_online);
                json_object([
                    ("id", m.recipient.as_str().into()),
                    ("name", peers.name_of(&m.recipient).into()),
                    ("here", online.into()),
                    ("receipt", m.state.word().into()),
                ])
            })
            .collect();
        let ok = ("ok", true.into());
        let recipients = ("recipients", recipients.into());
        match sent {
            [one] if one.group.is_none() => {
                let id = self.ids.message(one.seq);
                json_object([ok, ("messageId", id.into()), ("seq", one.seq.0.into()), recipients])
            }
            _ => {
                let ids: Vec<Value> = sent.iter().map(|m| self.ids.message(m.seq).into()).collect();
                json_object([ok, ("messageIds", ids.into()), recipients])
            }
        }
    }

    /// Marks a message as read, if it is unread.
    pub(super) fn mark_read(
        &mut self,
        turn: &mut Turn,
        peers: &Peers,
        journal: &Journal,
        was: &Message,
        now: i64,
    ) -> Result<(), Error> {
        if !was.state.is_unread() {
            return Ok(());
        }
        let message = Message { state: MessageState::Read, read: Some(now), ..was.clone() };
        self.put_receipt(turn, journal, was, &message)?;
        journal.record(turn, peers, &Change::MessageRead(&message), &message.recipient, now)?;
        Ok(())
    }

    /// Marks a message as acknowledged.
    pub(super) fn acknowledge(
        &mut self,
        turn: &mut Turn,
        peers: &Peers,
        journal: &Journal,
        ctx: &CallContext,
        id: &str,
    ) -> Result<(), Error> {
        let was = self.find(&turn.store, id)?;
        if !ctx.is_by(&was.recipient) {
            return Err(Error::new(ErrorKind::Refused, format!("ack: {id} is not addressed to you")));
        }
        // An expired message stays expired, even if the recipient acknowledges it later.
        if was.acked.is_some() || was.state == MessageState::Expired {
            return Ok(());
        }
        let message = Message {
            state: MessageState::Acked,
            read: was.read.or(Some(ctx.now)),
            acked: Some(ctx.now),
            ..was.clone()
        };
        self.put_receipt(turn, journal, &was, &message)?;
        if was.read.is_none() {
            journal.record(turn, peers, &Change::MessageRead(&message), &message.recipient, ctx.now)?;
        }
        Ok(())
    }

    /// Returns the sequence number of the message that a reply answers. If the caller received this message, the
    /// message is also acknowledged.
    pub(super) fn reply_target(
        &mut self,
        turn: &mut Turn,
        peers: &Peers,
        journal: &Journal,
        ctx: &CallContext,
        id: &str,
    ) -> Result<MessageSeq, Error> {
        let message = self.find(&turn.store, id)?;
        if ctx.is_by(&message.recipient) {
            self.acknowledge(turn, peers, journal, ctx, id)?;
        } else if !ctx.is_by(&message.sender) {
            return Err(Error::new(ErrorKind::Refused, format!("replyTo: {id} is not a message from you or to you")));
        }
        Ok(message.seq)
    }

    /// Records that a message was offered to its recipient through `channel`, for example through a hook.
    pub(super) fn mark_offered(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        was: &Message,
        channel: &str,
        now: i64,
    ) -> Result<(), Error> {
        if was.state != MessageState::Accepted {
            return Ok(());
        }
        let channel = Some(channel.to_owned());
        let message = Message { state: MessageState::Offered, offered: Some(now), channel, ..was.clone() };
        self.put_receipt(turn, journal, was, &message)
    }

    /// Stores the new state of a message, and updates the number of unread messages.
    pub(in crate::core) fn put_receipt(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        was: &Message,
        message: &Message,
    ) -> Result<(), Error> {
        turn.store.put_receipt(was, message)?;
        // Every message from a linked mesh has a key. If `receipts_version` changes, the linked meshes ask for receipts
        // again. Other messages may have a key, too. For these messages, asking again is unnecessary but harmless.
        if message.key.is_some() && message.state >= MessageState::Read && message.state != was.state {
            self.receipts_version += 1;
        }
        if was.state.is_unread()
            && !message.state.is_unread()
            && let Some(n) = self.unread.get_mut(&message.recipient)
        {
            *n -= 1;
        }
        journal.observe(turn, message);
        Ok(())
    }

    /// Returns the public id of a message.
    pub fn public_id(&self, seq: MessageSeq) -> String {
        self.ids.message(seq)
    }

    /// Returns the public id of `reader`'s copy of a message. Each recipient of a group message sees only its own copy.
    /// `reader` is `None` for a person who sees all copies.
    fn id_for(&self, store: &Store, seq: MessageSeq, reader: Option<&PeerId>) -> String {
        // A failure to read the database is ignored here, because other operations report it.
        let own = reader.and_then(|reader| store.copy_for(seq, reader).ok().flatten());
        self.ids.message(own.unwrap_or(seq))
    }

    /// Returns a message in the form that the inbox shows to a reader. If the message is too long for a tool result,
    /// returns only a part of its text.
    pub(in crate::core) fn row(
        &self,
        store: &Store,
        peers: &Peers,
        message: &Message,
        view: MailView,
        reader: Option<&PeerId>,
    ) -> Value {
        let mut map = object(self.whole_row(store, peers, message, view, reader));
        let is_unread = view == MailView::Unread;
        let at = if is_unread { message.bytes_read as usize } else { 0 };
        let note =
            if is_unread { "read the inbox again to get the next part" } else { "only the first part is shown here" };
        cut_to_part(&mut map, message, at, note);
        Value::Object(map)
    }

    /// Returns a message for a hook. The result has only the fields that the hook shows to its agent. If the message is
    /// long, the result has only the first part of its text.
    pub(in crate::core) fn hook_row(&self, store: &Store, peers: &Peers, message: &Message) -> Value {
        let mut map = object(json_object([
            ("id", self.ids.message(message.seq).into()),
            ("fromName", peers.name_of(&message.sender).into()),
            ("createdAt", time_format::iso(message.created).into()),
            ("payload", message.body.as_str().into()),
        ]));
        if let Some(group) = &message.group {
            map.insert("group".into(), group.as_str().into());
        }
        if let Some(seq) = message.reply_to {
            map.insert("replyTo".into(), self.id_for(store, seq, Some(&message.recipient)).into());
        }
        if message.state == MessageState::Offered {
            map.insert("redelivered".into(), true.into());
        }
        cut_to_part(&mut map, message, 0, "read the inbox to get the next part");
        Value::Object(map)
    }

    /// Returns a message that `reader` has found by a search. If the message is long, returns only the part of its text
    /// that contains the byte at position `at`.
    pub(super) fn found_row(
        &self,
        store: &Store,
        peers: &Peers,
        message: &Message,
        at: usize,
        reader: &PeerId,
    ) -> Value {
        let mut map = object(self.whole_row(store, peers, message, MailView::Sent, Some(reader)));
        cut_to_part(&mut map, message, at, "only the part with the words that you searched for is shown here");
        // If a result contains `partEnd`, the client marks the text up to this position as read. A search must not mark
        // text as read, so `partEnd` is removed.
        map.remove("partEnd");
        Value::Object(map)
    }

    /// Returns a message in the form that the inbox shows, but always with the whole text.
    pub(super) fn whole_row(
        &self,
        store: &Store,
        peers: &Peers,
        message: &Message,
        view: MailView,
        reader: Option<&PeerId>,
    ) -> Value {
        let mut map = object(self.old_view(message));
        map.insert("seq".into(), json!(message.seq.0));
        map.insert("fromName".into(), json!(peers.name_of(&message.sender)));
        if let Some(group) = &message.group {
            map.insert("group".into(), json!(group));
        }
        if let Some(seq) = message.reply_to {
            map.insert("replyTo".into(), json!(self.id_for(store, seq, reader)));
            // If the database can't be read, the id of the conversation is left out. Other operations report the
            // failure.
            let thread = store.thread_of(message.seq).ok();
            map.insert("thread".into(), json!(thread.map(|root| self.id_for(store, root, reader))));
        }
        map.insert("receipt".into(), json!(message.state.word()));
        if view == MailView::Sent {
            map.insert("toName".into(), json!(peers.name_of(&message.recipient)));
            for (name, at) in [("offeredAt", message.offered), ("ackedAt", message.acked)] {
                map.insert(name.into(), json!(at.map(time_format::iso)));
            }
            let mesh = message.mesh.as_ref().map(MeshUrl::as_str);
            map.insert("channel".into(), json!(mesh.or(message.channel.as_deref())));
            if let Some(why) = message.rejection.as_ref().or(message.unclear.as_ref()) {
                map.insert("reason".into(), json!(why));
            }
            // If the database can't be read, the wakeups are left out. Other operations report the failure.
            if let Ok(Some(wakeups)) = self.wakeups_view(store, message.seq) {
                map.insert("wakes".into(), wakeups);
            }
        } else if message.state == MessageState::Offered {
            map.insert("redelivered".into(), json!(true));
        }
        Value::Object(map)
    }

    /// Returns a message for a program, with its sequence number. The program is not told about conversations, because
    /// finding them takes several queries.
    pub(super) fn plain_row(&self, message: &Message) -> Value {
        let mut row = self.old_view(message);
        row["seq"] = json!(message.seq.0);
        row
    }

    /// Returns a message with the JSON keys of the old HTTP API.
    fn old_view(&self, m: &Message) -> Value {
        let delivered = m.pushed.is_some() || matches!(m.state, MessageState::Read | MessageState::Acked);
        json!({
            "id": self.ids.message(m.seq), "fromPeer": m.sender.as_str(), "toPeer": m.recipient.as_str(),
            "type": m.kind.word(), "payload": m.body, "createdAt": time_format::iso(m.created),
            "readAt": m.read.map(time_format::iso), "delivered": delivered,
        })
    }
}

/// Finds the peers in `ids` that received none of the messages in `sent`. Returns how many there are, and the names of
/// at most `NAMES_MAX` of them.
pub(super) fn not_among(peers: &Peers, ids: &[PeerId], sent: &[Message]) -> (usize, String) {
    let reached: HashSet<&PeerId> = sent.iter().map(|message| &message.recipient).collect();
    let missing: Vec<&PeerId> = ids.iter().filter(|id| !reached.contains(id)).collect();
    let names: Vec<String> = missing.iter().take(NAMES_MAX).map(|id| peers.name_of(id)).collect();
    (missing.len(), names.join(", "))
}

impl Mesh {
    /// Returns a message in the form that an observer of the mesh sees. The observer is the user of the machine, who
    /// may read all mail between agents.
    pub fn observed_message(&self, message: &Message) -> Value {
        self.mail.row(&self.turn.store, &self.peers, message, MailView::Sent, None)
    }

    /// Records that a message was pushed. A message is pushed when it has been written completely to the recipient's
    /// push socket.
    pub fn on_pushed(&mut self, seq: MessageSeq, now: i64) {
        let noted = self.in_savepoint(|mesh| {
            let Mesh { turn, mail, journal, .. } = mesh;
            let Some(was) = turn.store.message(seq)?.filter(|m| m.pushed.is_none()) else { return Ok(()) };
            let channel = was.channel.clone().or(Some("push".into()));
            let message = Message {
                state: was.state.max(MessageState::Offered),
                offered: was.offered.or(Some(now)),
                pushed: Some(now),
                channel,
                ..was.clone()
            };
            mail.put_receipt(turn, journal, &was, &message)
        });
        self.turn.log_error(noted);
    }
}

/// If a payload is too long for one result, keeps only the part that contains the byte at position `at`. In the result,
/// `part` is the number of this part, `parts` is the number of all parts, and `partEnd` is the end of this part. With
/// `partEnd`, a reader reports how much it has read.
fn cut_to_part(map: &mut Map<String, Value>, message: &Message, at: usize, note: &str) {
    let starts = part_starts(&message.body);
    if starts.len() == 1 {
        return;
    }
    let part = starts.iter().rposition(|start| *start <= at).unwrap_or(0);
    let end = starts.get(part + 1).copied().unwrap_or(message.body.len());
    map.insert("payload".into(), json!(message.body.get(starts[part]..end).unwrap_or("")));
    map.insert("part".into(), json!(part + 1));
    map.insert("parts".into(), json!(starts.len()));
    map.insert("partEnd".into(), json!(end));
    map.insert("note".into(), json!(note));
}

/// Splits a payload into parts, and returns the start of each part. A part has at most `limits::PART_MAX` bytes in the
/// JSON of a tool result. This JSON also escapes invisible characters.
pub(crate) fn part_starts(body: &str) -> Vec<usize> {
    let (mut starts, mut size) = (vec![0], 0);
    // In JSON, each byte of a payload becomes at most six bytes (such as \u0007). So a payload that is this short
    // always fits into one part.
    if body.len() * 6 <= limits::PART_MAX {
        return starts;
    }
    for (at, c) in body.char_indices() {
        let cost = match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            c if (c as u32) < 0x20 => 6,
            c => untrusted_text::visible_char_length(c),
        };
        if size + cost > limits::PART_MAX {
            starts.push(at);
            size = 0;
        }
        size += cost;
    }
    starts
}
