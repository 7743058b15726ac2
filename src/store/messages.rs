//! The table of messages. A message to several recipients has one row for each recipient, because the recipients may
//! read the message at different times.

use super::named_columns::{ColumnOrder, NamedColumns, placeholder, update_row, write_row};
use super::peers::unknown_word;
use super::{Store, StoreResult};
use crate::base::domain_enums::{MessageState, MessageType};
use crate::base::id_types::{MeshUrl, MessageSeq, PeerId};
use rusqlite::{OptionalExtension, Row, params, params_from_iter, types::Value};
use std::collections::BTreeSet;

/// One message to one recipient.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Message {
    /// The sequence number of the message among all messages of the mesh.
    pub seq: MessageSeq,
    /// The peer that sent the message.
    pub sender: PeerId,
    /// The peer that receives the message.
    pub recipient: PeerId,
    /// The group to which the message was sent, such as a channel. `None` for a message to one peer.
    pub group: Option<String>,
    /// The type of the payload.
    pub kind: MessageType,
    /// The payload.
    pub body: String,
    /// The sequence number of the message to which this message replies.
    pub reply_to: Option<MessageSeq>,
    /// The sender's idempotency key.
    pub key: Option<String>,
    /// The time, in ms, at which the message was accepted.
    pub created: i64,
    /// The time, in ms, at which the message expires.
    pub expires: Option<i64>,
    /// The state of the message.
    pub state: MessageState,
    /// The way in which the message was offered to the recipient, for example by a hook or by a push.
    pub channel: Option<String>,
    /// The linked mesh that accepted or refused the message.
    pub mesh: Option<MeshUrl>,
    /// The reason why the linked mesh refused the message.
    pub rejection: Option<String>,
    /// The reason why the last attempt to forward the message got no clear answer. `None` once there is a clear answer.
    pub unclear: Option<String>,
    /// The number of bytes of the payload that the recipient has seen. Long messages are shown in parts.
    pub bytes_read: i64,
    /// The time, in ms, at which the message was first offered to the recipient.
    pub offered: Option<i64>,
    /// The time, in ms, at which the message was read.
    pub read: Option<i64>,
    /// The time, in ms, at which the message was acknowledged or answered.
    pub acked: Option<i64>,
    /// The time, in ms, at which the whole message was sent over a push connection.
    pub pushed: Option<i64>,
}

/// Selects the messages to read.
#[derive(Debug, Clone, Default)]
pub struct MessageFilter<'a> {
    /// Only messages to this peer.
    pub to: Option<&'a PeerId>,
    /// Only messages from this peer.
    pub from: Option<&'a PeerId>,
    /// Only messages that are neither read nor expired.
    pub unread: bool,
    /// Only messages of this type.
    pub kind: Option<MessageType>,
    /// Only messages that were sent to this group.
    pub group: Option<&'a str>,
    /// Only messages that were not sent to a group.
    pub direct: bool,
    /// Only messages that the recipient has not started to read.
    pub not_begun: bool,
    /// Only messages after this sequence number.
    pub after: MessageSeq,
    /// Whether to read the newest messages first.
    pub newest: bool,
    /// Maximum number of messages to read.
    pub limit: i64,
    /// When the texts of the messages together exceed this number of bytes, no further message is read.
    pub bytes: Option<usize>,
}

// In this table, each peer is stored as a number (see migration 4). The rest of the program identifies peers by their
// ids.
macro_rules! columns {
    () => {
        "SELECT seq, sender, recipient, recipient_group, type, body, reply_to, key, created, expires, state, channel, \
         mesh_url, rejection, unclear, bytes_read, offered, read, acked, pushed FROM message"
    };
}
const COLUMNS: &str = columns!();
/// The SQL condition for unread messages. It is true for the numbers of the states before [`MessageState::Read`]. The
/// indexes of unread messages have the same condition.
macro_rules! unread {
    () => {
        "state < 2"
    };
}
/// The SQL condition for all other messages.
macro_rules! not_unread {
    () => {
        "state >= 2"
    };
}
/// The condition of `unread!`, for texts that are built at run time.
pub(super) const UNREAD: &str = unread!();
/// The condition of `not_unread!`, for texts that are built at run time.
pub(super) const NOT_UNREAD: &str = not_unread!();
/// An SQL expression for the number of a peer. Its parameter is the peer's id. The result is null if the peer has no
/// messages.
const NUMBER: &str = "(SELECT num FROM peer_number WHERE id = ?)";

/// The query for messages with this sender and this idempotency key.
fn by_key() -> String {
    format!("{COLUMNS} WHERE sender = {NUMBER} AND key = ? ORDER BY seq")
}

fn read_type(word: &str) -> rusqlite::Result<MessageType> {
    MessageType::from_word(word).ok_or_else(|| unknown_word("type", word))
}

fn read_state(number: i64) -> rusqlite::Result<MessageState> {
    MessageState::from_number(number).ok_or_else(|| unknown_word("state", &number.to_string()))
}

impl Store {
    /// Appends a message and sets its `seq`.
    pub fn add_message(&mut self, m: &mut Message) -> StoreResult<()> {
        let (sender, recipient) = (self.number_of_peer(&m.sender)?, self.number_of_peer(&m.recipient)?);
        let thread = m.reply_to.map(|seq| self.thread_of(seq)).transpose()?;
        m.seq = self.last_message().next();
        write_row!(self, "INSERT", "message", {
            "seq": m.seq,
            "sender": sender,
            "recipient": recipient,
            "recipient_group": m.group,
            "type": m.kind.word(),
            "body": m.body,
            "reply_to": m.reply_to,
            "thread": thread,
            "key": m.key,
            "created": m.created,
            "expires": m.expires,
            "state": m.state.number(),
            "channel": m.channel,
            "mesh_url": m.mesh,
            "rejection": m.rejection,
            "unclear": m.unclear,
            "bytes_read": m.bytes_read,
            "offered": m.offered,
            "read": m.read,
            "acked": m.acked,
            "pushed": m.pushed,
        })?;
        self.counters.message_last = m.seq;
        self.counters.messages += 1;
        self.counters.unread += 1;
        Ok(())
    }

    fn read_message(&self, mut row: NamedColumns<'_, '_>) -> rusqlite::Result<Message> {
        Ok(Message {
            seq: row.get("seq")?,
            sender: self.peer_of_number(row.get("sender")?)?,
            recipient: self.peer_of_number(row.get("recipient")?)?,
            group: row.get("recipient_group")?,
            kind: read_type(&row.get::<String>("type")?)?,
            body: row.get("body")?,
            reply_to: row.get("reply_to")?,
            key: row.get("key")?,
            created: row.get("created")?,
            expires: row.get("expires")?,
            state: read_state(row.get("state")?)?,
            channel: row.get("channel")?,
            mesh: row.get::<Option<String>>("mesh_url")?.map(MeshUrl::from),
            rejection: row.get("rejection")?,
            unclear: row.get("unclear")?,
            bytes_read: row.get("bytes_read")?,
            offered: row.get("offered")?,
            read: row.get("read")?,
            acked: row.get("acked")?,
            pushed: row.get("pushed")?,
        })
    }

    /// The messages that match the filter, in the order of their sequence numbers.
    pub fn messages(&self, filter: &MessageFilter<'_>) -> StoreResult<Vec<Message>> {
        // Unread messages and all other messages have separate indexes. SQLite has no statistics, so it might read a
        // million rows in order instead of sorting a few rows. The query therefore contains the name of the index.
        let read = if filter.from.is_some() { "message_pair" } else { "message_box" };
        let parts: &[(&str, &str)] = match (filter.to, filter.unread) {
            (Some(_), true) => &[("INDEXED BY message_unread", UNREAD)],
            (Some(_), false) => &[("INDEXED BY message_unread", UNREAD), (&format!("INDEXED BY {read}"), NOT_UNREAD)],
            (None, true) => &[("", UNREAD)],
            (None, false) => &[("", "true")],
        };
        let mut sql = String::new();
        let mut values: Vec<Value> = Vec::new();
        for (index, states) in parts {
            let union = if sql.is_empty() { "" } else { " UNION ALL " };
            sql.push_str(&format!("{union}{COLUMNS} {index} WHERE seq > ? AND {states}"));
            values.push(filter.after.into());
            if let Some(group) = filter.group {
                sql.push_str(" AND recipient_group = ?");
                values.push(group.to_owned().into());
            }
            for (column, wanted) in [("recipient", filter.to), ("sender", filter.from)] {
                if let Some(wanted) = wanted {
                    sql.push_str(&format!(" AND {column} = {NUMBER}"));
                    values.push(wanted.into());
                }
            }
            if let Some(kind) = filter.kind {
                sql.push_str(" AND type = ?");
                values.push(kind.word().to_owned().into());
            }
            if filter.direct {
                sql.push_str(" AND recipient_group IS NULL");
            }
            if filter.not_begun {
                sql.push_str(" AND bytes_read = 0");
            }
        }
        sql.push_str(if filter.newest { " ORDER BY seq DESC LIMIT ?" } else { " ORDER BY seq LIMIT ?" });
        values.push(filter.limit.into());
        let mut query = self.db.prepare_cached(&sql)?;
        let mut size = 0;
        let fits = |row: &rusqlite::Result<Message>| {
            // The first message is always returned, even if it is too long.
            let fits = size == 0 || filter.bytes.is_none_or(|max| size <= max);
            size += row.as_ref().map_or(0, |message| message.body.len().max(1));
            fits
        };
        let mut order = ColumnOrder::default();
        let read = |row: &Row<'_>| self.read_message(NamedColumns::of_one(row, &mut order));
        let rows = query.query_map(params_from_iter(values), read)?;
        Ok(rows.take_while(fits).collect::<rusqlite::Result<_>>()?)
    }

    /// The sequence number of the last message.
    pub fn last_message(&self) -> MessageSeq {
        self.counters.message_last
    }

    /// The message with this sequence number.
    pub fn message(&self, seq: MessageSeq) -> StoreResult<Option<Message>> {
        let mut query = self.db.prepare_cached(concat!(columns!(), " WHERE seq = ?1"))?;
        let mut order = self.message_columns.borrow_mut();
        let read = |row: &Row<'_>| self.read_message(NamedColumns::of_one(row, &mut order));
        Ok(query.query_row([seq], read).optional()?)
    }

    /// The messages from this sender with this idempotency key.
    pub fn messages_by_key(&self, sender: &PeerId, key: &str) -> StoreResult<Vec<Message>> {
        let mut query = self.db.prepare_cached(&by_key())?;
        let rows = query.query_map(params![sender, key], |row| self.read_message(NamedColumns::of(row)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Whether there is any message from or to this peer. Only peers with messages have a row in the table
    /// `peer_number`.
    pub fn has_messages_of(&self, peer: &PeerId) -> StoreResult<bool> {
        Ok(self.db.prepare_cached("SELECT 1 FROM peer_number WHERE id = ?1")?.exists([peer])?)
    }

    /// Stores a new delivery state of a message. `was` is the message before the change.
    pub fn put_receipt(&mut self, was: &Message, m: &Message) -> StoreResult<()> {
        macro_rules! update {
            ($($state:literal: $number:expr)?) => {{
                update_row!(self.write, "message", {
                    $($state: $number,)?
                    "channel": m.channel,
                    "mesh_url": m.mesh,
                    "rejection": m.rejection,
                    "unclear": m.unclear,
                    "bytes_read": m.bytes_read,
                    "offered": m.offered,
                    "read": m.read,
                    "acked": m.acked,
                    "pushed": m.pushed,
                }, "seq": m.seq)?;
            }};
        }
        // If an UPDATE sets the state, SQLite writes all indexes that depend on it, even if the state stays the same.
        if m.state == was.state {
            update!()
        } else {
            update!("state": m.state.number())
        }
        if was.state.is_unread() && !m.state.is_unread() {
            self.counters.unread -= 1;
        }
        Ok(())
    }

    /// The senders of a peer's oldest unread messages. The texts are not read, because they may be long.
    pub fn unread_senders(&self, recipient: &PeerId, limit: i64) -> StoreResult<Vec<PeerId>> {
        let sql = format!(
            "SELECT (SELECT id FROM peer_number WHERE num = sender) FROM message INDEXED BY message_unread \
             WHERE recipient = {NUMBER} AND {UNREAD} ORDER BY seq LIMIT ?"
        );
        let mut query = self.db.prepare_cached(&sql)?;
        let rows = query.query_map(params![recipient, limit], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The number of unread messages of a peer. The query reads only the index of unread messages.
    pub fn count_unread(&self, recipient: &PeerId) -> StoreResult<i64> {
        let sql =
            format!("SELECT count(*) FROM message INDEXED BY message_unread WHERE recipient = {NUMBER} AND {UNREAD}");
        Ok(self.db.prepare_cached(&sql)?.query_row([recipient], |row| row.get(0))?)
    }

    /// The number of unread messages that match the filter. Only the fields `to`, `from`, `group`, `direct`, `kind`
    /// and `after` of the filter are used.
    pub fn count_unread_of(&self, filter: &MessageFilter<'_>) -> StoreResult<i64> {
        let mut sql = format!(
            "SELECT count(*) FROM message INDEXED BY message_unread WHERE recipient = {NUMBER} AND {UNREAD} AND seq > ?"
        );
        let mut values: Vec<Value> = vec![filter.to.map(PeerId::as_str).map(str::to_owned).into(), filter.after.into()];
        if let Some(sender) = filter.from {
            sql.push_str(&format!(" AND sender = {NUMBER}"));
            values.push(sender.into());
        }
        if let Some(group) = filter.group {
            sql.push_str(" AND recipient_group = ?");
            values.push(group.to_owned().into());
        }
        if filter.direct {
            sql.push_str(" AND recipient_group IS NULL");
        }
        if let Some(kind) = filter.kind {
            sql.push_str(" AND type = ?");
            values.push(kind.word().to_owned().into());
        }
        Ok(self.db.prepare_cached(&sql)?.query_row(params_from_iter(values), |row| row.get(0))?)
    }

    /// The number of a peer's unread messages in each channel. The query reads only the unread messages of this peer.
    pub fn unread_in_channels(&self, recipient: &PeerId) -> StoreResult<Vec<(String, i64)>> {
        let sql = format!(
            "SELECT recipient_group, count(*) AS unread FROM message INDEXED BY message_unread \
             WHERE recipient = {NUMBER} AND {UNREAD} \
             AND recipient_group >= '#' AND recipient_group < '$' GROUP BY recipient_group"
        );
        let mut query = self.db.prepare_cached(&sql)?;
        let rows = query.query_map([recipient], |row| Ok((row.get("recipient_group")?, row.get("unread")?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The time at which the next unread message expires. `None` if no unread message expires.
    pub fn next_message_expiry(&self) -> StoreResult<Option<i64>> {
        let sql = format!("SELECT min(expires) FROM message WHERE expires IS NOT NULL AND {UNREAD}");
        Ok(self.db.prepare_cached(&sql)?.query_row([], |row| row.get(0))?)
    }

    /// The unread messages that have expired.
    pub fn expired_messages(&self, now: i64, limit: i64) -> StoreResult<Vec<Message>> {
        let sql = format!("{COLUMNS} WHERE expires IS NOT NULL AND {UNREAD} AND expires <= ?1 LIMIT ?2");
        let mut query = self.db.prepare_cached(&sql)?;
        let rows = query.query_map([now, limit], |row| self.read_message(NamedColumns::of(row)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Deletes at most `limit` messages that are older than `before`. Returns the number of deleted messages, and the
    /// recipients of the deleted unread messages.
    pub fn prune_messages(&mut self, before: i64, limit: i64) -> StoreResult<(usize, Vec<String>)> {
        let sql = "SELECT seq, sender, recipient, state, (SELECT id FROM peer_number WHERE num = recipient) AS recipient_id FROM message \
                   WHERE created < ?1 ORDER BY seq LIMIT ?2";
        let oldest: Option<i64> = self
            .db
            .prepare_cached("SELECT created FROM message ORDER BY seq LIMIT 1")?
            .query_row([], |row| row.get(0))
            .optional()?;
        if oldest.is_none_or(|created| created >= before) {
            return Ok((0, Vec::new()));
        }
        let read = |row: &Row<'_>| {
            let peers: [i64; 2] = [row.get("sender")?, row.get("recipient")?];
            Ok((row.get::<_, i64>("seq")?, peers, row.get::<_, i64>("state")?, row.get::<_, String>("recipient_id")?))
        };
        let mut query = self.db.prepare_cached(sql)?;
        let old: Vec<_> = query.query_map([before, limit], read)?.collect::<rusqlite::Result<_>>()?;
        drop(query);
        let n_deleted = old.len();
        let (mut unread, mut named) = (Vec::new(), BTreeSet::new());
        for (seq, peers, state, recipient) in old {
            self.write("DELETE FROM message WHERE seq = ?1", &[&seq])?;
            self.counters.messages -= 1;
            if MessageState::from_number(state).is_some_and(MessageState::is_unread) {
                self.counters.unread -= 1;
                unread.push(recipient);
            }
            named.extend(peers);
        }
        let sql = concat!(
            "DELETE FROM peer_number WHERE num = ?1 AND NOT EXISTS (SELECT 1 FROM message WHERE sender = ?1) \
             AND NOT EXISTS (SELECT 1 FROM message WHERE recipient = ?1 AND ",
            unread!(),
            ") AND NOT EXISTS (SELECT 1 FROM message WHERE recipient = ?1 AND ",
            not_unread!(),
            ")"
        );
        for num in named {
            self.write(sql, &[&num])?;
        }
        self.known_numbers.get_mut().clear();
        Ok((n_deleted, unread))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::StatementStatus;

    #[test]
    fn a_statement_is_not_prepared_again_for_another_value() {
        let mut store = Store::memory().unwrap();
        for key in ["a", "b", "c"] {
            let message = Message { sender: "ada".into(), recipient: "bob".into(), ..Message::default() };
            store.add_message(&mut Message { key: Some(key.into()), ..message }).unwrap();
            assert_eq!(store.messages_by_key(&"ada".into(), key).unwrap().len(), 1);
        }
        assert_eq!(store.db.prepare_cached(&by_key()).unwrap().get_status(StatementStatus::RePrepare), 0);
    }
}
