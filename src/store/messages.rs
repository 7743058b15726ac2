//! Messages on disk: one row per recipient, with how far it got.

use super::{Store, StoreResult};
use rusqlite::{OptionalExtension, Row, params, params_from_iter, types::Value};
use std::collections::BTreeSet;

/// One message to one recipient.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Message {
    /// Its sequence number in the whole mesh.
    pub seq: i64,
    /// Peer id (or free text over HTTP) of the sender.
    pub sender: String,
    /// Peer id of the recipient.
    pub recipient: String,
    /// What the sender wrote in `to`, when it was a group; else "".
    pub target: String,
    /// `text`, `json`, `command` or `alert`.
    pub kind: String,
    /// The payload.
    pub body: String,
    /// The message that this one answers.
    pub reply_to: Option<i64>,
    /// The sender's idempotency key.
    pub key: Option<String>,
    /// When accepted, ms.
    pub created: i64,
    /// When it stops to matter, ms.
    pub expires: Option<i64>,
    /// 0 accepted, 1 offered, 2 read, 3 acked, 4 expired; to another mesh 5 forwarded, 6 refused there.
    pub state: i64,
    /// The surface to which it was offered last.
    pub surface: Option<String>,
    /// Bytes of the payload that were written out in parts so far.
    pub taken: i64,
    /// When first offered, ms.
    pub offered: Option<i64>,
    /// When read, ms.
    pub read: Option<i64>,
    /// When acknowledged or answered, ms.
    pub acked: Option<i64>,
    /// When a live push took it, ms.
    pub pushed: Option<i64>,
}

/// Which messages to read.
#[derive(Debug, Clone, Default)]
pub struct MessageFilter<'a> {
    /// To this peer.
    pub to: Option<&'a str>,
    /// From this peer.
    pub from: Option<&'a str>,
    /// Only what is neither read nor expired.
    pub unread: bool,
    /// Only what was sent to the recipient alone.
    pub direct: bool,
    /// Only those after this sequence number.
    pub after: i64,
    /// Newest first.
    pub newest: bool,
    /// At most this many.
    pub limit: i64,
    /// And no further once their texts have this many bytes; 0 for no bound.
    pub bytes: usize,
}

// Peers are numbers in here (migration 4), and ids everywhere else.
const COLUMNS: &str = "SELECT seq, (SELECT id FROM who WHERE num = sender), (SELECT id FROM who WHERE num = recipient), \
                       target, type, body, reply_to, key, created, expires, state, \
                       surface, taken, offered, read, acked, pushed FROM message";
/// The number of the peer that the next parameter names; null for one that no message names.
const NUMBER: &str = "(SELECT num FROM who WHERE id = ?)";

fn read_row(row: &Row<'_>) -> rusqlite::Result<Message> {
    Ok(Message {
        seq: row.get(0)?,
        sender: row.get(1)?,
        recipient: row.get(2)?,
        target: row.get(3)?,
        kind: row.get(4)?,
        body: row.get(5)?,
        reply_to: row.get(6)?,
        key: row.get(7)?,
        created: row.get(8)?,
        expires: row.get(9)?,
        state: row.get(10)?,
        surface: row.get(11)?,
        taken: row.get(12)?,
        offered: row.get(13)?,
        read: row.get(14)?,
        acked: row.get(15)?,
        pushed: row.get(16)?,
    })
}

impl Store {
    /// Appends a message; its `seq` is given here.
    pub fn add_message(&mut self, m: &mut Message) -> StoreResult<()> {
        self.writing()?;
        let (sender, recipient) = (self.number(&m.sender)?, self.number(&m.recipient)?);
        m.seq = self.counters.message_last + 1;
        let sql = "INSERT INTO message VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17)";
        self.db.prepare_cached(sql)?.execute(params![
            m.seq, sender, recipient, m.target, m.kind, m.body, m.reply_to, m.key, m.created, m.expires, m.state,
            m.surface, m.taken, m.offered, m.read, m.acked, m.pushed
        ])?;
        self.counters.message_last = m.seq;
        self.counters.messages += 1;
        self.counters.unread += 1;
        Ok(())
    }

    /// The number of a peer, given at its first message.
    fn number(&mut self, id: &str) -> StoreResult<i64> {
        if let Some(num) = self.numbers.get(id) {
            return Ok(*num);
        }
        let known = self.db.prepare_cached("SELECT num FROM who WHERE id = ?1")?.query_row([id], |row| row.get(0));
        let num = match known.optional()? {
            Some(num) => num,
            None => self.db.prepare_cached("INSERT INTO who(id) VALUES (?1)")?.insert([id])?,
        };
        self.numbers.insert(id.to_owned(), num);
        Ok(num)
    }

    /// Messages that fit, in order.
    pub fn messages(&self, pick: &MessageFilter<'_>) -> StoreResult<Vec<Message>> {
        // A mailbox is two indexes, one of what is unread and one of the rest. Each is named: without
        // statistics SQLite would rather walk a million rows in order than search few and sort them.
        let read = if pick.from.is_some() { "message_pair" } else { "message_box" };
        let parts: &[(&str, &str)] = match (pick.to, pick.unread) {
            (Some(_), true) => &[("INDEXED BY message_unread", " AND state < 2")],
            (Some(_), false) => {
                &[("INDEXED BY message_unread", " AND state < 2"), (&format!("INDEXED BY {read}"), " AND state >= 2")]
            }
            (None, true) => &[("", " AND state < 2")],
            (None, false) => &[("", "")],
        };
        let mut sql = String::new();
        let mut values: Vec<Value> = Vec::new();
        for (index, states) in parts {
            let union = if sql.is_empty() { "" } else { " UNION ALL " };
            sql.push_str(&format!("{union}{COLUMNS} {index} WHERE seq > ?{states}"));
            values.push(pick.after.into());
            for (column, wanted) in [("recipient", pick.to), ("sender", pick.from)] {
                if let Some(wanted) = wanted {
                    sql.push_str(&format!(" AND {column} = {NUMBER}"));
                    values.push(wanted.to_owned().into());
                }
            }
            if pick.direct {
                sql.push_str(" AND target = ''");
            }
        }
        sql.push_str(if pick.newest { " ORDER BY seq DESC LIMIT ?" } else { " ORDER BY seq LIMIT ?" });
        values.push(pick.limit.into());
        let mut ask = self.db.prepare_cached(&sql)?;
        let mut size = 0;
        let fits = |row: &rusqlite::Result<Message>| {
            // One is always read, however long.
            let fits = size == 0 || pick.bytes == 0 || size <= pick.bytes;
            size += row.as_ref().map_or(0, |message| message.body.len().max(1));
            fits
        };
        let rows = ask.query_map(params_from_iter(values), read_row)?;
        Ok(rows.take_while(fits).collect::<rusqlite::Result<_>>()?)
    }

    /// One message.
    pub fn message(&self, seq: i64) -> StoreResult<Option<Message>> {
        let mut ask = self.db.prepare_cached(&format!("{COLUMNS} WHERE seq = ?1"))?;
        Ok(ask.query_row([seq], read_row).optional()?)
    }

    /// The messages that a sender sent under an idempotency key.
    pub fn messages_by_key(&self, sender: &str, key: &str) -> StoreResult<Vec<Message>> {
        let mut ask = self.db.prepare_cached(&format!("{COLUMNS} WHERE sender = {NUMBER} AND key = ? ORDER BY seq"))?;
        let rows = ask.query_map([sender, key], read_row)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Writes how far a message got.
    pub fn put_receipt(&mut self, was: &Message, m: &Message) -> StoreResult<()> {
        self.writing()?;
        let sql =
            "UPDATE message SET state=?2, surface=?3, taken=?4, offered=?5, read=?6, acked=?7, pushed=?8 WHERE seq=?1";
        self.db
            .prepare_cached(sql)?
            .execute(params![m.seq, m.state, m.surface, m.taken, m.offered, m.read, m.acked, m.pushed])?;
        if was.state < 2 && m.state >= 2 {
            self.counters.unread -= 1;
        }
        Ok(())
    }

    /// Who sent the oldest unread messages of a peer; their texts, which may be long, are not read.
    pub fn unread_senders(&self, recipient: &str, limit: i64) -> StoreResult<Vec<String>> {
        let sql = format!(
            "SELECT (SELECT id FROM who WHERE num = sender) FROM message INDEXED BY message_unread \
             WHERE recipient = {NUMBER} AND state < 2 ORDER BY seq LIMIT ?"
        );
        let mut ask = self.db.prepare_cached(&sql)?;
        let rows = ask.query_map(params![recipient, limit], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Unread messages of a peer, counted by index.
    pub fn count_unread(&self, recipient: &str) -> StoreResult<i64> {
        let sql =
            format!("SELECT count(*) FROM message INDEXED BY message_unread WHERE recipient = {NUMBER} AND state < 2");
        Ok(self.db.prepare_cached(&sql)?.query_row([recipient], |row| row.get(0))?)
    }

    /// The next time at which an unread message expires.
    pub fn next_message_expiry(&self) -> StoreResult<Option<i64>> {
        let sql = "SELECT min(expires) FROM message WHERE expires IS NOT NULL AND state < 2";
        Ok(self.db.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    /// Unread messages whose time is up.
    pub fn expired_messages(&self, now: i64, limit: i64) -> StoreResult<Vec<Message>> {
        let sql = format!("{COLUMNS} WHERE expires IS NOT NULL AND state < 2 AND expires <= ?1 LIMIT ?2");
        let mut ask = self.db.prepare_cached(&sql)?;
        let rows = ask.query_map([now, limit], read_row)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Forgets messages older than `before`; answers with the recipients of unread ones among them.
    pub fn prune_messages(&mut self, before: i64, limit: i64) -> StoreResult<Vec<String>> {
        let sql = "SELECT seq, sender, recipient, state, (SELECT id FROM who WHERE num = recipient) FROM message \
                   WHERE created < ?1 ORDER BY seq LIMIT ?2";
        let oldest: Option<i64> = self
            .db
            .prepare_cached("SELECT created FROM message ORDER BY seq LIMIT 1")?
            .query_row([], |row| row.get(0))
            .optional()?;
        if oldest.is_none_or(|created| created >= before) {
            return Ok(Vec::new());
        }
        self.writing()?;
        let old: Vec<(i64, [i64; 2], i64, String)> = self
            .db
            .prepare_cached(sql)?
            .query_map([before, limit], |row| Ok((row.get(0)?, [row.get(1)?, row.get(2)?], row.get(3)?, row.get(4)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let (mut unread, mut named) = (Vec::new(), BTreeSet::new());
        for (seq, peers, state, recipient) in old {
            self.db.prepare_cached("DELETE FROM message WHERE seq = ?1")?.execute([seq])?;
            self.counters.messages -= 1;
            if state < 2 {
                self.counters.unread -= 1;
                unread.push(recipient);
            }
            named.extend(peers);
        }
        let sql = "DELETE FROM who WHERE num = ?1 AND NOT EXISTS (SELECT 1 FROM message WHERE sender = ?1) \
                   AND NOT EXISTS (SELECT 1 FROM message WHERE recipient = ?1 AND state < 2) \
                   AND NOT EXISTS (SELECT 1 FROM message WHERE recipient = ?1 AND state >= 2)";
        for num in named {
            self.db.prepare_cached(sql)?.execute([num])?;
        }
        self.numbers.clear();
        Ok(unread)
    }
}
