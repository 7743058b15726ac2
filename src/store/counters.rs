//! Counters in the database: the last sequence numbers, and the numbers of rows in some tables. With these counters,
//! the broker need not count rows.
//!
//! **Invariant:** no sequence number and no fencing token is used twice, even if a power failure destroys the end of
//! the write-ahead log. Numbers are reserved in blocks in a separate file. A block is used only after the file is on
//! the disk.

use super::named_columns::update_row;
use super::{Store, StoreError, StoreResult};
use crate::base::id_types::{EventSeq, FencingToken, MessageSeq};
use rusqlite::Connection;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The number of sequence numbers that are reserved at a time. The broker waits for the disk only once for this many
/// messages, events or grants.
const BLOCK: i64 = 4096;

/// The values of the counters.
///
/// After a turn that only adds messages and events, the counters are not written, because each changed page makes a
/// commit slower. The next broker computes the counters from the rows that were added after the counters were last
/// written. This works because the sequence numbers of these rows have no gaps and all added messages are unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// The sequence number of the last message.
    pub message_last: MessageSeq,
    /// The sequence number of the last event.
    pub event_last: EventSeq,
    /// The last fencing token that was granted.
    pub token_last: FencingToken,
    /// The number of messages in the database.
    pub messages: i64,
    /// The number of unread messages.
    pub unread: i64,
    /// The number of events in the database.
    pub events: i64,
}

impl Counters {
    /// The last sequence numbers of messages and events, and the last fencing token.
    fn last(&self) -> [i64; 3] {
        [self.message_last.0, self.event_last.0, self.token_last.0]
    }

    /// Whether only messages and events have been added since `stored` was written.
    fn only_adds_rows(&self, stored: &Counters) -> bool {
        let n_messages = self.message_last.0 - stored.message_last.0;
        let n_events = self.event_last.0 - stored.event_last.0;
        let expected = Counters {
            message_last: self.message_last,
            event_last: self.event_last,
            token_last: stored.token_last,
            messages: stored.messages + n_messages,
            unread: stored.unread + n_messages,
            events: stored.events + n_events,
        };
        *self == expected
    }

    /// Raises the last sequence numbers and the last fencing token to at least the values in `floor`. So all new
    /// numbers will be higher than these values.
    pub(super) fn raise_to(&mut self, floor: [i64; 3]) {
        let lasts = [&mut self.message_last.0, &mut self.event_last.0, &mut self.token_last.0];
        lasts.into_iter().zip(floor).for_each(|(last, floor)| *last = floor.max(*last));
    }
}

/// The file that contains the highest reserved number of each kind.
#[derive(Debug)]
pub(super) struct ReservedNumbers {
    /// The path of the file. `None` for a database in memory, because its numbers are not needed later.
    path: Option<PathBuf>,
    reserved: [i64; 3],
    /// Whether the file was missing or damaged when the database was opened.
    was_lost: bool,
}

impl ReservedNumbers {
    /// Opens the file that belongs to a database. If the file is missing or damaged, there are no reserved numbers.
    pub(super) fn open(database: &Path) -> StoreResult<ReservedNumbers> {
        if database.to_string_lossy().contains("vfs=memdb") {
            return Ok(ReservedNumbers { reserved: [0; 3], path: None, was_lost: false });
        }
        let path = database.with_extension("numbers");
        let read = match std::fs::read(&path) {
            Ok(content) => parse_numbers(&content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(file_error(&path, &error)),
        };
        Ok(ReservedNumbers { reserved: read.unwrap_or_default(), path: Some(path), was_lost: read.is_none() })
    }

    /// The highest numbers that may have been used.
    pub(super) fn floor(&self) -> [i64; 3] {
        self.reserved
    }

    /// If the reserved numbers of a kind are used up, reserves a new block of this kind.
    pub(super) fn cover(&mut self, counters: &Counters) -> StoreResult<()> {
        let last = counters.last();
        let Some(path) = &self.path else { return Ok(()) };
        if last.iter().zip(self.reserved).all(|(last, reserved)| *last <= reserved) {
            return Ok(());
        }
        let reserve = |n: usize| if last[n] <= self.reserved[n] { self.reserved[n] } else { last[n] + BLOCK };
        let reserved = [reserve(0), reserve(1), reserve(2)];
        write_numbers(path, reserved, true).map_err(|error| file_error(path, &error))?;
        self.reserved = reserved;
        Ok(())
    }

    /// Gives back the unused reserved numbers, so that the numbers of the next broker continue without a gap.
    pub(super) fn give_back(&mut self, counters: &Counters) -> StoreResult<()> {
        let Some(path) = &self.path else { return Ok(()) };
        // If a crash undoes this write, the file still contains the reserved numbers. They are higher than the used
        // numbers, so there is only a gap in the sequence.
        self.reserved = counters.last();
        write_numbers(path, self.reserved, false).map_err(|error| file_error(path, &error))
    }
}

/// Parses the content of the file. Returns `None` if the content is not one line of three numbers. A full disk may
/// leave an empty file, and a power failure may leave zeros. In these cases, it is unknown which numbers were used.
fn parse_numbers(content: &[u8]) -> Option<[i64; 3]> {
    let line = std::str::from_utf8(content).ok()?.strip_suffix('\n')?;
    let numbers: Vec<i64> = line.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
    numbers.try_into().ok().filter(|numbers: &[i64; 3]| numbers.iter().all(|number| *number >= 0))
}

/// Overwrites the numbers in the file. The line has a fixed length and fits into one sector of the disk. After a power
/// failure, the file therefore contains either the old line or the new line.
fn write_numbers(path: &Path, reserved: [i64; 3], sync: bool) -> io::Result<()> {
    let is_new = !path.exists();
    let mut file = File::options().create(true).truncate(false).write(true).open(path)?;
    let line = format!("{:020} {:020} {:020}\n", reserved[0], reserved[1], reserved[2]);
    file.write_all(line.as_bytes())?;
    // A damaged file may be longer than one line.
    file.set_len(line.len() as u64)?;
    if sync {
        file.sync_data()?;
    }
    match path.parent().filter(|_| sync && is_new) {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

fn file_error(path: &Path, error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull => StoreError::Full,
        _ => StoreError::Sql(format!("{}: {error}", path.display())),
    }
}

impl Store {
    /// How many rows some tables have, and the last sequence numbers.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether the file of reserved numbers was missing or damaged, although this database has used numbers before. The
    /// database may be an old copy, such as a backup. It is unknown which numbers were used after the copy was made.
    pub fn has_lost_reserved_numbers(&self) -> bool {
        self.reserved.as_ref().is_some_and(|reserved| reserved.was_lost) && self.counters.last() != [0; 3]
    }

    /// Makes all new numbers greater than `floor`. This is needed if the database replaces a damaged or newer database,
    /// because clients still have fencing tokens and cursors from the replaced database.
    pub fn raise(&mut self, floor: i64) -> StoreResult<()> {
        self.writing()?;
        self.counters.raise_to([floor; 3]);
        self.commit()?;
        Ok(())
    }

    /// Writes the counters if they have changed and can't be computed from added rows. If changes are recorded for
    /// another database, the counters are written after every change.
    pub(super) fn write_counters(&mut self) -> StoreResult<()> {
        let c = self.counters;
        if c == self.counters_committed {
            return Ok(());
        }
        if let Some(reserved) = &mut self.reserved {
            reserved.cover(&c)?;
        }
        if self.recorder.is_none() && c.only_adds_rows(&self.counters_stored) {
            return Ok(());
        }
        update_row!(self.execute, "counters", {
            "message_last": c.message_last,
            "event_last": c.event_last,
            "token_last": c.token_last,
            "messages": c.messages,
            "unread": c.unread,
            "events": c.events,
        }, "id": 1)?;
        self.has_written_counters = true;
        Ok(())
    }
}

/// Reads the stored counters. Updates them, because messages, events and locks may have been stored after the counters.
pub(super) fn read_counters(db: &Connection) -> StoreResult<Counters> {
    let mut counters = db.query_row("SELECT * FROM counters", [], |row| {
        Ok(Counters {
            message_last: row.get("message_last")?,
            event_last: row.get("event_last")?,
            token_last: row.get("token_last")?,
            messages: row.get("messages")?,
            unread: row.get("unread")?,
            events: row.get("events")?,
        })
    })?;
    let highest = |sql: &str| db.query_row(sql, [], |row| row.get::<_, Option<i64>>(0));
    let message_last =
        highest("SELECT max(seq) FROM message")?.map_or(counters.message_last, MessageSeq).max(counters.message_last);
    let event_last =
        highest("SELECT max(seq) FROM event")?.map_or(counters.event_last, EventSeq).max(counters.event_last);
    let n_added = message_last.0 - counters.message_last.0;
    (counters.messages, counters.unread) = (counters.messages + n_added, counters.unread + n_added);
    counters.events += event_last.0 - counters.event_last.0;
    (counters.message_last, counters.event_last) = (message_last, event_last);
    let token_last = highest("SELECT max(token) FROM lock")?.map_or(counters.token_last, FencingToken);
    counters.token_last = token_last.max(counters.token_last);
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::domain_enums::{EventKind, MessageState};
    use crate::store::Message;

    fn send(store: &mut Store, sent: &mut Vec<Message>) {
        let mut message = Message { sender: "a".into(), recipient: "b".into(), ..Message::default() };
        message.created = store.counters.message_last.0;
        store.add_message(&mut message).unwrap();
        sent.push(message);
    }

    fn read_oldest(store: &mut Store, sent: &mut Vec<Message>) {
        if !sent.is_empty() {
            let was = sent.remove(0);
            store.put_receipt(&was, &Message { state: MessageState::Read, ..was.clone() }).unwrap();
        }
    }

    /// Runs a turn in a test. Each bit in `steps` stands for one kind of change.
    fn turn(store: &mut Store, sent: &mut Vec<Message>, steps: u32) {
        let done = |step: u32| steps >> step & 1 == 1;
        if done(0) {
            send(store, sent);
            send(store, sent);
        }
        if done(1) {
            store
                .add_event(&EventKind::from_word("build.done"), &"a".into(), store.counters.event_last.0, "{}", None)
                .unwrap();
        }
        if done(2) {
            read_oldest(store, sent);
        }
        if done(3) {
            let (_, unread) = store.prune_messages(store.counters.message_last.0 - 4, 1).unwrap();
            sent.drain(..unread.len());
        }
        if done(4) {
            store.prune_events(store.counters.event_last.0 - 4, 1).unwrap();
        }
        if done(5) {
            store.next_token();
        }
        if done(6) {
            store.raise(store.counters.message_last.0 + 3).unwrap();
        }
    }

    #[test]
    fn counters_that_were_not_written_are_found_again() {
        for seed in 0..40_u32 {
            let (mut store, mut sent) = (Store::memory().unwrap(), Vec::new());
            let mut random = seed;
            for _ in 0..40 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // In three out of four turns, `turn` only adds rows.
                let steps = if random >> 30 == 0 { random >> 20 & 0x7f } else { random >> 20 & 3 };
                store.set_meta("turn", "other rows change, too").unwrap();
                turn(&mut store, &mut sent, steps);
                store.commit().unwrap();
                assert_eq!(read_counters(&store.db).unwrap(), store.counters, "seed {seed}");
            }
            assert_eq!(store.counters.unread, sent.len() as i64);
        }
    }

    #[test]
    fn a_turn_that_only_adds_rows_does_not_write_the_counters() {
        let mut store = Store::memory().unwrap();
        turn(&mut store, &mut Vec::new(), 0b11);
        store.commit().unwrap();
        let written: i64 = store.db.query_row("SELECT message_last FROM counters", [], |row| row.get(0)).unwrap();
        assert_eq!((written, store.counters.message_last.0), (0, 2));
    }
}
