//! Scans messages in steps of limited size. A scan can cover all messages, or the messages of one peer, channel or
//! conversation.
//!
//! There is no full-text index. In a measurement, SQLite's FTS5 tripled the time to send a text of 200 bytes. Without
//! an index, a scan of 100,000 such texts takes a tenth of a second on a busy machine.

use super::messages::{NOT_UNREAD, UNREAD};
use super::peers::unknown_word;
use super::{Store, StoreResult};
use crate::base::domain_enums::MessageState;
use crate::base::id_types::{MessageSeq, PeerId};
use rusqlite::{OptionalExtension, Row, params, params_from_iter, types::Value};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::ControlFlow;

/// The set of messages to scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanSource<'a> {
    /// All messages.
    All,
    /// The messages from or to this peer.
    OfPeer(&'a PeerId),
    /// The messages to this channel.
    Channel(&'a str),
    /// The messages of one conversation: the message with this sequence number, its copies for other recipients, and
    /// all replies to these messages.
    Thread(MessageSeq),
}

/// The range, the direction and the maximum size of one step of a scan.
#[derive(Debug, Clone, Copy)]
pub struct MessageScan<'a> {
    /// The set of messages to scan.
    pub source: ScanSource<'a>,
    /// Scan only messages after this sequence number.
    pub after: MessageSeq,
    /// Scan only messages before this sequence number.
    pub before: MessageSeq,
    /// Scan the newest messages first.
    pub newest: bool,
    /// Maximum number of rows to read.
    pub rows_max: i64,
    /// The step ends after it has read more than this number of bytes of text. It always reads at least one row.
    pub bytes_max: usize,
}

/// The fields of a message that a search needs.
#[derive(Debug)]
pub struct ScannedMessage<'a> {
    /// The sequence number of the message.
    pub seq: MessageSeq,
    /// The peer that sent the message.
    pub sender: &'a PeerId,
    /// The peer that receives the message.
    pub recipient: &'a PeerId,
    /// The group to which the message was sent; `None` for a message to one peer.
    pub group: Option<&'a str>,
    /// When the message was accepted, in ms.
    pub created: i64,
    /// The state of the message.
    pub state: MessageState,
    /// The sequence number of the message to which this message replies.
    pub reply_to: Option<MessageSeq>,
    /// The payload.
    pub body: &'a str,
}

/// The point at which a step of a scan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanEnd {
    /// The sequence number of the last row that was scanned completely; the next step continues after this row. `None`
    /// if no row was scanned completely.
    pub last: Option<MessageSeq>,
    /// Whether the scan has no more rows.
    pub is_complete: bool,
}

// The columns are read by their positions. A scan reads many rows, and it takes longer to find a column by its name
// than to read the column.
const COLUMNS: &str = "SELECT seq, sender, recipient, recipient_group, created, state, reply_to, body FROM message";
const SEQ: usize = 0;
const SENDER: usize = 1;
const RECIPIENT: usize = 2;
const GROUP: usize = 3;
const CREATED: usize = 4;
const STATE: usize = 5;
const REPLY_TO: usize = 6;
const BODY: usize = 7;

/// The sequence numbers of the first and the last copy of a message that was sent to several recipients.
type Copies = (MessageSeq, MessageSeq);

impl Store {
    /// Calls `visit` for each row whose text passes `text_passes`. The step ends when `visit` returns `Break`, when the
    /// step has reached its maximum size, or when there are no more rows. A row for which `visit` returns `Break` does
    /// not count as scanned.
    pub fn scan_messages(
        &self,
        scan: &MessageScan<'_>,
        mut text_passes: impl FnMut(&str) -> bool,
        mut visit: impl FnMut(&ScannedMessage<'_>) -> ControlFlow<()>,
    ) -> StoreResult<ScanEnd> {
        let (sql, values) = self.scan_query(scan)?;
        let mut query = self.db.prepare_cached(&sql)?;
        let mut rows = query.query(params_from_iter(values))?;
        let mut names: HashMap<i64, PeerId> = HashMap::new();
        let (mut last, mut n_rows, mut n_bytes) = (None, 0, 0);
        while let Some(row) = rows.next()? {
            if n_rows == scan.rows_max || n_bytes > scan.bytes_max {
                return Ok(ScanEnd { last, is_complete: false });
            }
            let (seq, body) = (row.get(SEQ)?, row.get_ref(BODY)?.as_str().map_err(rusqlite::Error::from)?);
            n_rows += 1;
            n_bytes += body.len();
            // If a peer sent a message to itself, the query returns the row twice: as sent and as received. The second
            // row is skipped here. If the query skipped such rows, SQLite might read any number of rows in one step.
            if last == Some(seq) {
                continue;
            }
            // Most texts do not pass this check, so the other columns are read only after the check.
            if text_passes(body) {
                let peers: [i64; 2] = [row.get(SENDER)?, row.get(RECIPIENT)?];
                for num in peers {
                    if let Entry::Vacant(place) = names.entry(num) {
                        place.insert(self.peer_of_number(num)?);
                    }
                }
                if visit(&read_scanned(row, &names[&peers[0]], &names[&peers[1]])?).is_break() {
                    return Ok(ScanEnd { last, is_complete: false });
                }
            }
            last = Some(seq);
        }
        Ok(ScanEnd { last, is_complete: true })
    }

    /// The SQL of one step, and its parameters. Each part of the query reads an index in the order of sequence numbers.
    /// SQLite can therefore merge the parts without sorting, and reads only the rows of this step.
    fn scan_query(&self, scan: &MessageScan<'_>) -> StoreResult<(String, Vec<Value>)> {
        let number = "(SELECT num FROM peer_number WHERE id = ?)";
        let parts: Vec<(String, Vec<Value>)> = match scan.source {
            ScanSource::All => vec![("WHERE true".into(), Vec::new())],
            ScanSource::OfPeer(id) => {
                let part = |sql: String| (sql, vec![id.into()]);
                vec![
                    part(format!("INDEXED BY message_unread WHERE recipient = {number} AND {UNREAD}")),
                    part(format!("INDEXED BY message_box WHERE recipient = {number} AND {NOT_UNREAD}")),
                    part(format!("INDEXED BY message_sent WHERE sender = {number}")),
                ]
            }
            ScanSource::Channel(name) => vec![(
                // SQLite uses a partial index only if the query contains the same condition as the index.
                "INDEXED BY message_channel WHERE recipient_group = ? AND recipient_group >= '#' \
                 AND recipient_group < '$'"
                    .into(),
                vec![name.to_owned().into()],
            )],
            ScanSource::Thread(root) => {
                let (first, last) = self.copies_of(root)?;
                vec![
                    ("WHERE seq BETWEEN ? AND ?".into(), vec![first.into(), last.into()]),
                    ("INDEXED BY message_thread WHERE thread = ?".into(), vec![first.into()]),
                ]
            }
        };
        let (mut sql, mut values) = (String::new(), Vec::new());
        for (part, own) in parts {
            let union = if sql.is_empty() { "" } else { " UNION ALL " };
            sql.push_str(&format!("{union}{COLUMNS} {part} AND seq > ? AND seq < ?"));
            values.extend(own);
            values.extend([scan.after.into(), scan.before.into()]);
        }
        sql.push_str(if scan.newest { " ORDER BY seq DESC LIMIT ?" } else { " ORDER BY seq LIMIT ?" });
        // The query may return one row more than the limit. If it does, the scan is not complete.
        values.push((scan.rows_max + 1).into());
        Ok((sql, values))
    }

    /// The sequence number of the first message in the conversation that contains this message.
    pub fn thread_of(&self, seq: MessageSeq) -> StoreResult<MessageSeq> {
        let thread = self
            .db
            .prepare_cached("SELECT thread FROM message WHERE seq = ?1")?
            .query_row([seq], |row| row.get::<_, Option<MessageSeq>>(0))
            .optional()?;
        match thread.flatten() {
            Some(root) => Ok(root),
            None => Ok(self.copies_of(seq)?.0),
        }
    }

    /// The first and the last copy of this message. A message to a group has one copy for each recipient. The copies
    /// have consecutive sequence numbers. Replies to any of the copies belong to one conversation, which begins with
    /// the first copy.
    pub fn copies_of(&self, seq: MessageSeq) -> StoreResult<Copies> {
        let facts = "SELECT seq, sender, recipient_group, created FROM message";
        let read = |row: &Row<'_>| {
            let (sender, group): (i64, Option<String>) = (row.get("sender")?, row.get("recipient_group")?);
            Ok((row.get::<_, MessageSeq>("seq")?, (sender, group, row.get::<_, i64>("created")?)))
        };
        let mut query = self.db.prepare_cached(&format!("{facts} WHERE seq = ?1"))?;
        let Some((_, own)) = query.query_row([seq], read).optional()?.filter(|(_, own)| own.1.is_some()) else {
            return Ok((seq, seq));
        };
        let mut ends = [seq, seq];
        for (end, order) in ends.iter_mut().zip(["seq < ?1 ORDER BY seq DESC", "seq > ?1 ORDER BY seq"]) {
            let mut query = self.db.prepare_cached(&format!("{facts} WHERE {order}"))?;
            let mut rows = query.query(params![seq])?;
            while let Some(row) = rows.next()? {
                match read(row)? {
                    (copy, facts) if facts == own => *end = copy,
                    _ => break,
                }
            }
        }
        Ok((ends[0], ends[1]))
    }

    /// The sequence number of this recipient's copy of a message. `None` if the recipient got no copy.
    pub fn copy_for(&self, seq: MessageSeq, recipient: &PeerId) -> StoreResult<Option<MessageSeq>> {
        let (first, last) = self.copies_of(seq)?;
        let sql = "SELECT copy.seq FROM message AS copy JOIN message AS sent ON sent.seq = ?1 \
                   WHERE copy.seq BETWEEN ?2 AND ?3 AND copy.body = sent.body \
                   AND copy.recipient = (SELECT num FROM peer_number WHERE id = ?4)";
        let mut query = self.db.prepare_cached(sql)?;
        Ok(query.query_row(params![seq, first, last, recipient], |row| row.get(0)).optional()?)
    }

    /// The sequence number of the message to which this message replies.
    pub fn reply_target(&self, seq: MessageSeq) -> StoreResult<Option<MessageSeq>> {
        let mut query = self.db.prepare_cached("SELECT reply_to FROM message WHERE seq = ?1")?;
        Ok(query.query_row([seq], |row| row.get(0)).optional()?.flatten())
    }

    /// The sequence number of the last message before this time. 0 if there is no such message.
    pub fn message_at(&self, time: i64) -> StoreResult<MessageSeq> {
        let (mut low, mut high) = (0, self.counters.message_last.0);
        let mut query = self.db.prepare_cached("SELECT created FROM message WHERE seq >= ?1 ORDER BY seq LIMIT 1")?;
        // Later messages have higher sequence numbers, so a binary search by time works without an index of times.
        while low < high {
            let middle = low + (high - low) / 2 + 1;
            let created: Option<i64> = query.query_row([middle], |row| row.get(0)).optional()?;
            match created {
                Some(created) if created < time => low = middle,
                _ => high = middle - 1,
            }
        }
        Ok(MessageSeq(low))
    }
}

fn read_scanned<'a>(
    row: &'a Row<'_>,
    sender: &'a PeerId,
    recipient: &'a PeerId,
) -> rusqlite::Result<ScannedMessage<'a>> {
    let state: i64 = row.get(STATE)?;
    Ok(ScannedMessage {
        seq: row.get(SEQ)?,
        sender,
        recipient,
        group: row.get_ref(GROUP)?.as_str_or_null()?,
        created: row.get(CREATED)?,
        state: MessageState::from_number(state).ok_or_else(|| unknown_word("state", &state.to_string()))?,
        reply_to: row.get(REPLY_TO)?,
        body: row.get_ref(BODY)?.as_str()?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Message;
    use super::super::schema::upgrade;
    use super::*;
    use rusqlite::{Connection, StatementStatus};

    #[test]
    fn replies_of_an_older_database_have_their_conversation() {
        let mut old = Connection::open_in_memory().unwrap();
        upgrade(&mut old, 0..8).unwrap();
        // Messages 2 and 3 reply to message 1, and message 4 replies to message 3. Message 6 replies to a message that
        // no longer exists, and message 7 replies to message 6.
        for (seq, reply_to) in
            [(1, None), (2, Some(1)), (3, Some(1)), (4, Some(3)), (5, None), (6, Some(0)), (7, Some(6))]
        {
            let sql = "INSERT INTO message(seq, sender, recipient, recipient_group, type, body, reply_to, created, state, \
                       bytes_read) VALUES (?1, 1, 2, '', 'text', 'text', ?2, 5, 2, 0)";
            old.execute(sql, params![seq, reply_to]).unwrap();
        }
        let store = Store::prepare(old).unwrap();
        let roots: Vec<i64> = (1..=7).map(|seq| store.thread_of(MessageSeq(seq)).unwrap().0).collect();
        assert_eq!(roots, [1, 1, 1, 1, 5, 0, 0]);
    }

    #[test]
    fn each_step_of_a_scan_walks_its_index_in_order() {
        let mut store = Store::memory().unwrap();
        for (n, (sender, recipient)) in [("a", "b"), ("b", "a"), ("c", "b"), ("a", "a"), ("a", "c")].iter().enumerate()
        {
            let reply_to = (n == 1 || n == 4).then_some(MessageSeq(1));
            let mut m = Message {
                sender: (*sender).into(),
                recipient: (*recipient).into(),
                reply_to,
                created: n as i64 * 10,
                ..Message::default()
            };
            store.add_message(&mut m).unwrap();
            if n == 0 {
                store.put_receipt(&m.clone(), &Message { state: MessageState::Read, ..m }).unwrap();
            }
        }
        let scan = |source, after, before, newest, rows_max| {
            let (after, before) = (MessageSeq(after), MessageSeq(before));
            let scan = MessageScan { source, after, before, newest, rows_max, bytes_max: 1 << 20 };
            let mut seqs = Vec::new();
            let visit = |m: &ScannedMessage<'_>| {
                seqs.push(m.seq.0);
                ControlFlow::Continue(())
            };
            let end = store.scan_messages(&scan, |_| true, visit).unwrap();
            (seqs, end.last.map(|last| last.0), end.is_complete)
        };
        let (a, nobody) = ("a".into(), "nobody".into());
        let of_a = ScanSource::OfPeer(&a);
        assert_eq!(scan(of_a, 0, 99, true, 9), (vec![5, 4, 2, 1], Some(1), true));
        assert_eq!(scan(of_a, 0, 99, false, 2), (vec![1, 2], Some(2), false));
        assert_eq!(scan(of_a, 2, 5, false, 9), (vec![4], Some(4), true));
        assert_eq!(scan(ScanSource::OfPeer(&nobody), 0, 99, true, 9), (vec![], None, true));
        assert_eq!(scan(ScanSource::All, 0, 99, true, 5), (vec![5, 4, 3, 2, 1], Some(1), true));
        assert_eq!(scan(ScanSource::Thread(MessageSeq(1)), 0, 99, false, 9), (vec![1, 2, 5], Some(5), true));
        for (time, want) in [(0, 0), (1, 1), (10, 1), (11, 2), (40, 4), (41, 5), (99, 5)] {
            assert_eq!(store.message_at(time).unwrap(), MessageSeq(want), "{time}");
        }
        // If the query plan contained a sort, one step would read all messages of a peer.
        for source in [of_a, ScanSource::All, ScanSource::Thread(MessageSeq(1))] {
            let scan = MessageScan {
                source,
                after: MessageSeq(0),
                before: MessageSeq(9),
                newest: true,
                rows_max: 9,
                bytes_max: 9,
            };
            let (sql, values) = store.scan_query(&scan).unwrap();
            let mut plan = store.db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let read = |row: &Row<'_>| row.get::<_, String>("detail");
            let steps: Vec<String> = plan.query_map(params_from_iter(values), read).unwrap().flatten().collect();
            assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "{source:?}: {steps:?}");
        }
    }
    #[test]
    fn a_step_reads_few_rows_also_where_a_peer_writes_to_itself() {
        let mut store = Store::memory().unwrap();
        for _ in 0..2000 {
            store
                .add_message(&mut Message { sender: "a".into(), recipient: "a".into(), ..Message::default() })
                .unwrap();
        }
        let peer = "a".into();
        let source = ScanSource::OfPeer(&peer);
        let scan = MessageScan {
            source,
            after: MessageSeq(0),
            before: MessageSeq(9999),
            newest: true,
            rows_max: 9,
            bytes_max: 1 << 20,
        };
        let (sql, values) = store.scan_query(&scan).unwrap();
        let mut query = store.db.prepare(&sql).unwrap();
        let n_rows = query.query_map(params_from_iter(values), |_| Ok(())).unwrap().count();
        assert_eq!(n_rows, 10);
        let n_steps = query.get_status(StatementStatus::VmStep);
        assert!(n_steps < 1000, "the query took {n_steps} steps of SQLite's virtual machine");
    }
}
