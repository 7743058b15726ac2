//! Receipts of messages that a linked mesh has accepted. Each answer to a poll contains a version number of the linked
//! mesh's receipts. When this number changes, the sender's mesh sends the keys of its own messages, and asks for their
//! receipts. A mesh that sends no such number (a SuperLocalMemory daemon or slm-mesh 0.1.0) is never asked.
//!
//! **Invariant:** a linked mesh changes only the receipts of messages that it has accepted, and a receipt never returns
//! to an earlier state. The number of awaited receipts is bounded.

use crate::base::domain_enums::MessageState;
use crate::base::error::Error;
use crate::base::id_types::{MessageSeq, PeerId};
use crate::base::limits;
use crate::core::Mesh;
use crate::core::event_journal::Change;
use crate::core::federation::Federation;
use crate::core::mail::Mail;
use crate::store::{Message, Store};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// For each link, the maximum number of messages that wait for receipts. If there are more, the oldest ones keep the
/// receipt "forwarded".
const AWAITED_MAX: usize = 1_000;
/// For each link, the maximum number of read messages that wait for an acknowledgement. This many messages fit into one
/// request to the linked mesh. If there are more, the oldest ones keep the receipt "read".
const READ_AWAITED_MAX: usize = limits::LIST_MAX;
/// Maximum number of messages to load for each recipient after a restart, newest first. The receipts of these messages
/// may still be missing.
const RELOADED_MAX: i64 = 100;
/// After a restart, the messages that are loaded for each peer have at most this total size, in bytes.
const RELOADED_BYTES_MAX: usize = 256 * 1024;
/// The states of a message that are reported to the sender's mesh.
const TOLD: [MessageState; 3] = [MessageState::Read, MessageState::Acked, MessageState::Expired];

/// The messages that one linked mesh has accepted, and whose receipts may still change.
#[derive(Debug, Default)]
pub(super) struct AwaitedReceipts {
    /// The messages for which no receipt has arrived yet, by sequence number. The values are the senders.
    forwarded: BTreeMap<MessageSeq, PeerId>,
    /// The messages that have been read and may still be acknowledged, by sequence number. The values are the senders.
    read: BTreeMap<MessageSeq, PeerId>,
    /// The messages whose receipts must be requested next.
    due: BTreeSet<MessageSeq>,
    /// The version of the other mesh's receipts, from the last answer of that mesh. The version increases when receipts
    /// change.
    version: Option<i64>,
    /// Whether the messages that an earlier broker sent have been added.
    is_reloaded: bool,
}

impl AwaitedReceipts {
    /// Adds a message that the other mesh has accepted. The recipient may already have read the message. So the receipt
    /// is requested even if the version of the receipts does not change.
    pub(super) fn add(&mut self, message: &Message) {
        self.forwarded.insert(message.seq, message.sender.clone());
        if self.version.is_some() {
            self.due.insert(message.seq);
        }
        if self.forwarded.len() > AWAITED_MAX {
            self.forwarded.pop_first();
        }
    }

    /// Adds a message that has been read but not acknowledged.
    fn add_read(&mut self, seq: MessageSeq, sender: PeerId) {
        self.read.insert(seq, sender);
        if self.read.len() > READ_AWAITED_MAX {
            self.read.pop_first();
        }
    }

    /// Records the state of a message from a receipt. After a message has been acknowledged or has expired, no further
    /// receipt is awaited.
    fn note_state(&mut self, seq: MessageSeq, state: MessageState) {
        if state != MessageState::Read {
            self.read.remove(&seq);
        }
        if let Some(sender) = self.forwarded.remove(&seq)
            && state == MessageState::Read
        {
            self.add_read(seq, sender);
        }
    }

    fn sender(&self, seq: MessageSeq) -> Option<&PeerId> {
        self.forwarded.get(&seq).or_else(|| self.read.get(&seq))
    }

    /// Records the version of the other mesh's receipts. If the version has changed, all awaited receipts must be
    /// requested.
    fn note_version(&mut self, version: Option<i64>) {
        if version.is_some() && version != self.version {
            self.due = self.forwarded.keys().chain(self.read.keys()).copied().collect();
        }
        self.version = version;
    }

    /// Removes the due messages of one sender, up to a limit. Returns the sender and these messages.
    fn take_due(&mut self) -> Option<(PeerId, Vec<MessageSeq>)> {
        let due: Vec<(MessageSeq, PeerId)> =
            self.due.iter().filter_map(|seq| Some((*seq, self.sender(*seq)?.clone()))).collect();
        let (_, sender) = due.first()?.clone();
        let same = due.iter().filter(|(_, of)| *of == sender).map(|(seq, _)| *seq);
        let seqs: Vec<MessageSeq> = same.take(limits::LIST_MAX).collect();
        self.due = due.into_iter().map(|(seq, _)| seq).filter(|seq| !seqs.contains(seq)).collect();
        Some((sender, seqs))
    }
}

/// The state of one message, as the recipient's mesh reports it.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteReceipt {
    /// The key of the message, which is the message's id in the sender's mesh.
    key: String,
    /// The state of the message: read, acknowledged or expired.
    state: MessageState,
    /// How long ago the message reached this state, in ms. An absolute time would be unreliable, because the clocks of
    /// the two machines may differ.
    ago: i64,
}

impl RemoteReceipt {
    /// Parses the answer of a linked mesh. The answer is not trusted. Returns `None` if the answer is not a list of
    /// receipts.
    pub fn parse_all(value: &Value) -> Option<Vec<RemoteReceipt>> {
        let rows = value["receipts"].as_array()?;
        let receipt = |row: &Value| {
            let state = TOLD.into_iter().find(|state| row["receipt"].as_str() == Some(state.word()))?;
            let ago = row["ago"].as_i64().unwrap_or(0).clamp(0, limits::MAIL_KEPT_MS);
            Some(RemoteReceipt { key: row["key"].as_str()?.to_owned(), state, ago })
        };
        Some(rows.iter().take(limits::LIST_MAX).filter_map(receipt).collect())
    }

    /// Whether a message can change from the state `was` to the state of this receipt.
    fn follows(&self, was: MessageState) -> bool {
        match was {
            MessageState::Forwarded => true,
            MessageState::Read => self.state == MessageState::Acked,
            _ => false,
        }
    }
}

impl Federation {
    /// Records the version of the receipts of a linked mesh, from its answer to a poll.
    pub(super) fn note_receipts_version(&mut self, n: usize, version: Option<i64>) {
        if let Some(link) = self.links.get_mut(n) {
            link.awaited.is_reloaded = true;
            link.awaited.note_version(version);
        }
    }

    /// After a restart, begins again to wait for the receipts of messages that the linked mesh has accepted. Only
    /// messages to `recipients` count.
    pub(super) fn reload_awaited(
        &mut self,
        store: &Store,
        mail: &Mail,
        n: usize,
        recipients: &[PeerId],
    ) -> Result<(), Error> {
        let Some(link) = self.links.get_mut(n).filter(|link| !link.awaited.is_reloaded) else {
            return Ok(());
        };
        for id in recipients {
            let sent = mail.latest_to(store, id, RELOADED_MAX, RELOADED_BYTES_MAX)?;
            for message in sent.iter().filter(|of| of.mesh.as_ref() == Some(&link.url)) {
                match message.state {
                    MessageState::Forwarded => link.awaited.add(message),
                    MessageState::Read => link.awaited.add_read(message.seq, message.sender.clone()),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Returns the receipts of messages that came from a linked mesh. `keys` are the keys of the messages, and
/// `senders` are the peers of the linked mesh.
///
/// # Errors
/// When the database can't be read.
pub(super) fn receipts_for(
    store: &Store,
    mail: &Mail,
    senders: &[PeerId],
    keys: &[&str],
    now: i64,
) -> Result<Vec<Value>, Error> {
    let mut rows = Vec::new();
    for key in keys {
        let with_key = |sender| mail.message_with_key(store, sender, key).transpose();
        let found = senders.iter().find_map(with_key).transpose()?;
        let Some(message) = found.filter(|of| TOLD.contains(&of.state)) else { continue };
        let at = message.acked.or(message.read).unwrap_or(now);
        rows.push(json!({ "key": key, "receipt": message.state.word(), "ago": (now - at).max(0) }));
    }
    Ok(rows)
}

impl Mesh {
    /// Returns a number that increases when receipts change in this mesh. The number is sent to the meshes that poll
    /// this mesh.
    pub fn receipts_version(&self) -> i64 {
        self.mail.receipts_version()
    }

    /// Returns the JSON of the next request for receipts from a linked mesh.
    pub fn next_receipts_query(&mut self, n: usize) -> Option<Value> {
        let (sender, seqs) = self.federation.links.get_mut(n)?.awaited.take_due()?;
        let keys: Vec<String> = seqs.into_iter().map(|seq| self.ids.message(seq)).collect();
        Some(json!({
            "from_peer": sender.as_str(), "from_name": self.peers.name_of(&sender),
            "from_machine": self.settings.host, "keys": keys,
        }))
    }

    /// Records that a request for receipts failed. The request is repeated after the next answer to a poll.
    pub fn on_receipts_failed(&mut self, n: usize) {
        if let Some(link) = self.federation.links.get_mut(n) {
            link.awaited.version = None;
        }
    }

    /// Stores the receipts that a linked mesh has sent for messages from this mesh.
    ///
    /// # Errors
    /// When the database can't be written.
    pub fn on_receipts(&mut self, n: usize, receipts: &[RemoteReceipt], now: i64) -> Result<(), Error> {
        let Some(url) = self.federation.links.get(n).map(|link| link.url.clone()) else { return Ok(()) };
        for receipt in receipts {
            let Some(seq) = self.ids.message_seq(&receipt.key) else { continue };
            self.in_savepoint(|mesh| {
                let Mesh { turn, peers, mail, journal, .. } = mesh;
                let is_next = |of: &Message| of.mesh.as_ref() == Some(&url) && receipt.follows(of.state);
                let Some(was) = mail.message(&turn.store, seq)?.filter(is_next) else { return Ok(()) };
                let at = Some((now - receipt.ago).max(was.created));
                let message = Message {
                    state: receipt.state,
                    read: was.read.or(at.filter(|_| receipt.state != MessageState::Expired)),
                    acked: at.filter(|_| receipt.state == MessageState::Acked),
                    ..was.clone()
                };
                mail.put_receipt(turn, journal, &was, &message)?;
                if receipt.state == MessageState::Expired || was.read.is_some() {
                    return Ok(());
                }
                journal.record(turn, peers, &Change::MessageRead(&message), &message.recipient, now).map(|_| ())
            })?;
            self.federation.links[n].awaited.note_state(seq, receipt.state);
        }
        Ok(())
    }
}
