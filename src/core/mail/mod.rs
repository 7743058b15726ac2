//! Mail: messages to peers, groups and everybody, and the mailboxes in which messages wait.
//!
//! **Invariant:** only this module writes messages and their receipts. A receipt never claims more than is known. Its
//! state is accepted, offered, read, acknowledged or expired. For a message to a linked mesh, the state can also be
//! forwarded or refused.

mod duplicate_hook_reports;
mod history_scan;
mod inbox_search;
mod list_unread_alert_messages;
mod look_up_stored_messages;
mod read_inbox;
pub mod receipts;
mod resolve_recipients;
mod search_terms;
pub mod show_all_messages;
pub mod wakeups;

use super::event_journal::{Change, Journal};
use super::federation::Federation;
use super::op_definition::ArgKind;
use super::peers::Peers;
use super::transaction_and_pending_effects::{Effect, Turn};
use super::{Arg, Args, Auth, CallContext, CliPlace, ConnId, Mesh, Op, Outcome};
use crate::base::domain_enums::{MessageState, MessageType};
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::{ChannelName, MessageSeq, PeerId, PublicIds};
use crate::base::json_text::JsonObjectText;
use crate::base::limits;
use crate::core::op_behavior::OpBehavior;
use crate::core::op_definition::Runner;
use crate::store::{Message, MessageFilter, Store};
use duplicate_hook_reports::HookEvents;
pub(super) use look_up_stored_messages::next_expiry;
pub use read_inbox::INBOX;
pub(super) use read_inbox::MailView;
pub use resolve_recipients::is_named_group;
use resolve_recipients::recipients;
use serde_json::json;
use std::collections::HashMap;
use wakeups::WakeupAttempt;

const WORD: ArgKind = ArgKind::Text { min: 1, max: limits::WORD_MAX };
const PATH: ArgKind = ArgKind::Text { min: 0, max: limits::PATH_MAX };

/// Sends a message.
pub static SEND: Op = Op {
    name: "send",
    summary: "Send a message to a peer, a group or everyone; offline peers get the message when they return",
    args: &[
        Arg::new(
            "to",
            ArgKind::Text { min: 1, max: 256 },
            "Peer (name, id or unique prefix; human is the person), group (all, repo, directory, agent:codex) or channel (#api)",
        )
        .required()
        .at(CliPlace::Positional),
        Arg::new("message", ArgKind::Text { min: 1, max: limits::PAYLOAD_MAX }, "The message")
            .required()
            .at(CliPlace::Rest),
        Arg::new(
            "type",
            ArgKind::Choice(MessageType::WORDS),
            "Type of the message, text by default; a message of type json must be valid JSON",
        ),
        Arg::new("replyTo", WORD, "Id of the message that you are answering; this also acknowledges that message")
            .placeholder("ID"),
        Arg::new(
            "key",
            WORD,
            "Idempotency key: a second send with this key sends nothing, and returns the first receipt",
        )
        .placeholder("KEY")
        .idempotency_key(),
        Arg::new(
            "expiresMinutes",
            ArgKind::Int { min: 1, max: 10_080 },
            "Minutes after which an unread message expires",
        )
        .short("expires"),
        Arg::new("project", PATH, "Directory of the caller, if the caller is the human")
            .at(CliPlace::Hidden)
            .not_in_tool(),
        Arg::new("repo", PATH, "Repository of the caller, if the caller is the human")
            .at(CliPlace::Hidden)
            .not_in_tool(),
        Arg::new("withoutPeople", ArgKind::Flag, "With the group `all`: send no copies to people")
            .at(CliPlace::Hidden)
            .not_in_tool(),
    ],
    actor: Auth::Required,
    verb: Some("send"),
    tool: Some(("send", None)),
    repeatable: false,
    behavior: OpBehavior { on_page: true, ..OpBehavior::USUAL },
    run: Runner::Rule(send),
};

fn send(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, mail, channels, journal, federation, rates, .. } = mesh;
    let key = args.text("key");
    if let Some(key) = key {
        let sent = turn.store.messages_by_key(ctx.me()?, key)?;
        if !sent.is_empty() {
            let mut value = mail.sent_view(peers, &sent);
            value["repeated"] = json!(true);
            // If the first call did not reach all members of the group, the answer to this repeated call must say so.
            if let Some(group) = &sent[0].group
                && let Ok((_, members)) = recipients(peers, channels, ctx, group, args)
                && let (1.., names) = receipts::not_among(peers, &members, &sent)
            {
                value["note"] = json!(format!(
                    "the first send with this key did not reach these members of {group}: {names}; to reach them, send \
                     the message with another key"
                ));
            }
            return Ok(Outcome::Ready(value));
        }
    }
    // Over HTTP, a message to an unknown recipient costs as much as any other. Elsewhere, a misspelt name costs nothing.
    let is_charged_first = ctx.is_http_program();
    if is_charged_first {
        rates.charge_call(peers, ctx, 10)?;
    }
    let (group, recipients) = recipients(peers, channels, ctx, args.word("to"), args)?;
    if !is_charged_first {
        rates.charge_call(peers, ctx, 10)?;
    }
    let reply_to = match args.text("replyTo") {
        Some(id) => Some(mail.reply_target(turn, peers, journal, ctx, id)?),
        None => None,
    };
    let draft = Message {
        sender: ctx.me()?.clone(),
        group: group.clone(),
        kind: args.text("type").and_then(MessageType::from_word).unwrap_or_default(),
        body: args.word("message").to_owned(),
        reply_to,
        key: key.map(str::to_owned),
        expires: args.int("expiresMinutes").map(|minutes| ctx.now + minutes * 60_000),
        ..Message::default()
    };
    let sent = mail.post(turn, peers, journal, federation, draft, &recipients, ctx.now)?;
    let mut value = mail.sent_view(peers, &sent);
    if sent.len() < recipients.len() {
        let (n_missing, names) = receipts::not_among(peers, &recipients, &sent);
        value["note"] = json!(format!(
            "the message was not sent to {n_missing} of {} peers ({names}), because their mailbox is full or their \
             mesh can't be reached",
            recipients.len()
        ));
    } else if let Some(group) = group.filter(|_| sent.is_empty()) {
        let absent = if ChannelName::is_meant_by(&group) { "has joined" } else { "is online in the group" };
        value["note"] = json!(format!("no other peer {absent} {group}, so the message was sent to no one"));
    }
    Ok(Outcome::Ready(value))
}

/// The error if no message has the id `id`.
fn no_message(id: &str) -> Error {
    let id: String = id.chars().take(80).collect();
    Error::not_found(format!("no message has the id {id}; messages are removed after 7 days"))
}

/// The facts about mail that are kept in memory. The messages themselves are in the store.
#[derive(Debug)]
pub struct Mail {
    ids: PublicIds,
    /// The number of unread messages of each peer. The messages are counted when the number is first needed.
    unread: HashMap<PeerId, i64>,
    /// Messages that hooks have just taken, by sequence number.
    recently_delivered: HashMap<MessageSeq, RecentDelivery>,
    /// The events that hooks have just reported, each with its session.
    hook_events: HookEvents,
    /// Recent wakeups of sessions.
    wakeups: Vec<WakeupAttempt>,
    /// A number that increases when the receipt of a message with a key changes. Every message from a linked mesh has a
    /// key. The meshes that poll this mesh receive the number. The number starts from the current time, so that it is
    /// different after a restart.
    receipts_version: i64,
}

impl Mail {
    pub(super) fn new(ids: PublicIds, now: i64) -> Mail {
        Mail {
            ids,
            unread: HashMap::new(),
            recently_delivered: HashMap::new(),
            hook_events: HookEvents::default(),
            wakeups: Vec::new(),
            receipts_version: now,
        }
    }

    /// Returns a number that increases when a message from a linked mesh is read, is acknowledged, or expires.
    pub fn receipts_version(&self) -> i64 {
        self.receipts_version
    }

    /// Forgets how many unread messages each peer has, because a transaction was rolled back.
    pub(super) fn reload(&mut self) {
        self.unread.clear();
    }

    /// Forgets the number of unread messages of a peer.
    pub(super) fn forget_peer(&mut self, id: &PeerId) {
        self.unread.remove(id);
    }

    /// How many unread messages a peer has.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn unread(&mut self, store: &Store, id: &PeerId) -> Result<i64, Error> {
        if let Some(n) = self.unread.get(id) {
            return Ok(*n);
        }
        let n = store.count_unread(id)?;
        self.unread.insert(id.into(), n);
        Ok(n)
    }

    /// Whether the peer has sent or received any message.
    ///
    /// # Errors
    /// When the database can't be read.
    pub(super) fn has_messages(&self, store: &Store, id: &PeerId) -> Result<bool, Error> {
        Ok(store.has_messages_of(id)?)
    }

    /// Does the same as [`Mail::unread`], but does not cache the number.
    ///
    /// # Errors
    /// When the database can't be read.
    pub(super) fn count_unread(&self, store: &Store, id: &PeerId) -> Result<i64, Error> {
        self.unread.get(id).map_or_else(|| Ok(store.count_unread(id)?), |n| Ok(*n))
    }

    /// Returns the names of a few senders of a peer's unread mail. The sender of the oldest message comes first.
    pub(super) fn unread_senders(&self, store: &Store, peers: &Peers, id: &PeerId) -> Result<Vec<String>, Error> {
        let mut names: Vec<String> = Vec::new();
        for sender in store.unread_senders(id, 8)? {
            let name = peers.name_of(&sender);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Puts one message per recipient into the mailboxes, and notifies the connections of the recipients.
    ///
    /// # Errors
    /// When the payload does not match its type, a mailbox is full, a linked mesh could not accept the message, or
    /// the database can't be written.
    #[allow(clippy::too_many_arguments)] // the message, and the parts that it changes
    pub fn post(
        &mut self,
        turn: &mut Turn,
        peers: &Peers,
        journal: &Journal,
        federation: &mut Federation,
        draft: Message,
        recipients: &[PeerId],
        now: i64,
    ) -> Result<Vec<Message>, Error> {
        if !draft.kind.accepts(&draft.body) {
            return Err(Error::usage("message", "expected valid JSON, because `type` is json"));
        }
        let created = match &draft.group {
            Some(group) => turn.time_of_group_send(&draft.sender, group, now),
            None => turn.time_of_row(now),
        };
        let from = peers.name_of(&draft.sender);
        let mut sent = Vec::with_capacity(recipients.len());
        for recipient in recipients {
            let refused = self.refusal(turn, peers, federation, recipient, &draft.body)?;
            if let Some(error) = refused {
                // The other members of the group still get the message.
                if draft.group.is_none() { return Err(error) } else { continue }
            }
            let mut message = Message { recipient: recipient.clone(), created, ..draft.clone() };
            turn.store.add_message(&mut message)?;
            *self.unread.entry(recipient.clone()).or_insert(0) += 1;
            turn.dirty.mail.insert(recipient.clone());
            federation.note_new_mail();
            turn.note_expiry(message.expires);
            self.notify(turn, peers, &message, &from, peers.connections_of(recipient));
            if list_unread_alert_messages::is_alert(peers, &message) {
                turn.push(Effect::Alert);
            }
            journal.observe(turn, &message);
            sent.push(message);
        }
        let change = match &sent[..] {
            [] => return Ok(sent),
            [one] if draft.group.is_none() => Change::MessageReceived(one),
            _ => Change::GroupReceived {
                from: draft.sender.as_str(),
                group: draft.group.as_deref().unwrap_or(""),
                n: sent.len(),
            },
        };
        journal.record(turn, peers, &change, &draft.sender, created)?;
        Ok(sent)
    }

    /// Returns the reason why a recipient can't receive a message; `None` if there is no such reason.
    fn refusal(
        &mut self,
        turn: &Turn,
        peers: &Peers,
        federation: &Federation,
        recipient: &PeerId,
        body: &str,
    ) -> Result<Option<Error>, Error> {
        if self.unread(&turn.store, recipient)? >= limits::MAILBOX_MAX {
            let text = format!(
                "the mailbox of {} is full ({} unread messages); the recipient must read some of them first",
                peers.name_of(recipient),
                limits::MAILBOX_MAX
            );
            return Ok(Some(Error::new(ErrorKind::Full, text)));
        }
        Ok(federation.check_forwardable(peers, recipient, body).err())
    }

    /// Notifies the connections of the recipient. Only a push to an HTTP client contains the text of the message. Other
    /// recipients read the text from the mailbox.
    fn notify(&self, turn: &mut Turn, peers: &Peers, message: &Message, from: &str, conns: &[ConnId]) {
        let Some(peer) = peers.get(&message.recipient) else { return };
        if peer.row.is_http() {
            turn.push(Effect::PeerPush {
                peer: message.recipient.clone(),
                seq: message.seq,
                from: message.sender.clone(),
                body: message.body.clone(),
            });
        }
        if peer.connections == 0 {
            return;
        }
        let unread = self.unread.get(&message.recipient).copied().unwrap_or(1);
        for conn in conns.iter().copied() {
            let params = JsonObjectText::default()
                .text("to", message.recipient.as_str())
                .text("id", &self.ids.message(message.seq))
                .number("seq", message.seq.0)
                .text("from", message.sender.as_str())
                .text("fromName", from)
                .text("type", message.kind.word())
                .number("unread", unread)
                .finish();
            turn.push(Effect::Notification { conn, method: "message", params });
        }
    }

    /// The message with this public id.
    fn find(&self, store: &Store, id: &str) -> Result<Message, Error> {
        let found = self.ids.message_seq(id).map(|seq| store.message(seq)).transpose()?.flatten();
        found.ok_or_else(|| no_message(id))
    }

    /// Returns at most `max` unread messages for a hook to show. Leaves out messages that another hook has just taken.
    /// If `take` is a connection, marks the messages as offered and as taken by this connection.
    #[allow(clippy::too_many_arguments)] // the query, the caller, and the parts that it changes
    pub(super) fn for_hook(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        id: &PeerId,
        direct: bool,
        take: Option<ConnId>,
        max: usize,
        now: i64,
    ) -> Result<Vec<Message>, Error> {
        self.recently_delivered.retain(|_, taken| now - taken.at < HOOK_DELIVERY_MS);
        // The limit is higher than `max`, because the store also returns messages that other hooks have just taken.
        let n_taken = self.recently_delivered.values().filter(|taken| taken.to == *id).count();
        let limit = (max + n_taken) as i64;
        // A hook shows only the beginning of a long message. The session reads the rest in its inbox. So hooks do not
        // show a message again after the session has begun to read it.
        let filter =
            MessageFilter { to: Some(id), unread: true, direct, not_begun: true, limit, ..MessageFilter::default() };
        let mut found = turn.store.messages(&filter)?;
        found.retain(|m| m.expires.is_none_or(|at| at > now) && !self.recently_delivered.contains_key(&m.seq));
        found.truncate(max);
        if let Some(conn) = take {
            for message in &found {
                let taken = RecentDelivery { to: message.recipient.clone(), at: now, by: conn };
                self.recently_delivered.insert(message.seq, taken);
                self.mark_offered(turn, journal, message, "hook", now)?;
            }
        }
        Ok(found)
    }

    /// Releases the mail that a hook on this connection took, but did not show. After that, another hook can show this
    /// mail.
    pub(super) fn forget_deliveries_to(&mut self, conn: ConnId) {
        self.recently_delivered.retain(|_, taken| taken.by != conn);
    }

    /// Marks a limited number of unread messages as expired, because their time is up.
    pub(super) fn expire(&mut self, turn: &mut Turn, journal: &Journal, now: i64) -> Result<(), Error> {
        for was in turn.store.expired_messages(now, limits::PRUNE_STEP)? {
            let message = Message { state: MessageState::Expired, ..was.clone() };
            self.put_receipt(turn, journal, &was, &message)?;
        }
        Ok(())
    }

    /// Deletes messages from before the time `before`, and their wakeups, up to a limit. Returns whether more of them
    /// may be left.
    pub(super) fn prune(&mut self, turn: &mut Turn, before: i64) -> Result<bool, Error> {
        let (n_deleted, unread) = turn.store.prune_messages(before, limits::PRUNE_STEP)?;
        for recipient in &unread {
            self.unread.remove(recipient.as_str());
        }
        let n_wakeups = turn.store.prune_wakeups(limits::PRUNE_STEP)?;
        Ok(n_deleted.max(n_wakeups) == limits::PRUNE_STEP as usize)
    }
}

/// How long mail is reserved for the hook that took it, in ms. During this time, a second hook for the same event
/// repeats nothing that the first hook has shown.
const HOOK_DELIVERY_MS: i64 = 2_000;

/// A message that a hook has just taken.
#[derive(Debug)]
struct RecentDelivery {
    /// The recipient of the message.
    to: PeerId,
    /// When the hook took the message, in ms.
    at: i64,
    /// The connection of the hook.
    by: ConnId,
}
