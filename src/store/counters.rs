//! Counters that the database stores, so that no rows need to be counted: the last sequence numbers, and the
//! numbers of rows in the tables.
//!
//! **Invariant:** no sequence number and no fencing token is used twice, even if a power failure destroys the end of
//! the write-ahead log. Numbers are reserved in blocks, in a separate file. The file has reached the disk before the
//! first number of a block is used.

use super::named_columns::update_row;
use super::{Store, StoreError, StoreResult};
use rusqlite::Connection;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// How many sequence numbers are reserved at once. The broker waits for the disk once per block, that is, once for this
/// many messages, events or grants.
const BLOCK: i64 = 4096;

/// The counters in the database. They are written once per turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// The sequence number of the last message.
    pub message_last: i64,
    /// The sequence number of the last event.
    pub event_last: i64,
    /// The last fencing token that was granted.
    pub token_last: i64,
    /// How many messages are kept.
    pub messages: i64,
    /// How many messages are unread.
    pub unread: i64,
    /// How many events are kept.
    pub events: i64,
}

impl Counters {
    /// The last sequence numbers of messages and events, and the last token.
    fn last(&self) -> [i64; 3] {
        [self.message_last, self.event_last, self.token_last]
    }

    /// Raises the counters to at least these values, so that new numbers continue above them.
    pub(super) fn raise_to(&mut self, floor: [i64; 3]) {
        let lasts = [&mut self.message_last, &mut self.event_last, &mut self.token_last];
        lasts.into_iter().zip(floor).for_each(|(last, floor)| *last = floor.max(*last));
    }
}

/// The file that records the highest reserved number of each kind.
#[derive(Debug)]
pub(super) struct ReservedNumbers {
    /// The path of the file; `None` for a database in memory, because no later database continues its numbers.
    path: Option<PathBuf>,
    upto: [i64; 3],
}

impl ReservedNumbers {
    /// Opens the file that belongs to a database. If the file is missing, nothing is reserved.
    pub(super) fn open(database: &Path) -> StoreResult<ReservedNumbers> {
        if database.to_string_lossy().contains("vfs=memdb") {
            return Ok(ReservedNumbers { upto: [0; 3], path: None });
        }
        let path = database.with_extension("numbers");
        let mut text = String::new();
        match File::open(&path).and_then(|mut file| file.read_to_string(&mut text)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file_error(&path, &error)),
            _ => {}
        }
        let mut words = text.split_whitespace();
        let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        Ok(ReservedNumbers { upto: [number(), number(), number()], path: Some(path) })
    }

    /// The highest numbers that may have been used.
    pub(super) fn floor(&self) -> [i64; 3] {
        self.upto
    }

    /// Reserves a new block for each kind of number whose block is used up.
    pub(super) fn cover(&mut self, counters: &Counters) -> StoreResult<()> {
        let last = counters.last();
        let Some(path) = &self.path else { return Ok(()) };
        if last.iter().zip(self.upto).all(|(last, upto)| *last <= upto) {
            return Ok(());
        }
        let reserve = |n: usize| if last[n] <= self.upto[n] { self.upto[n] } else { last[n] + BLOCK };
        let upto = [reserve(0), reserve(1), reserve(2)];
        write_numbers(path, upto, true).map_err(|error| file_error(path, &error))?;
        self.upto = upto;
        Ok(())
    }

    /// Gives back the reserved numbers that were not used, so that the next broker continues without a gap.
    pub(super) fn give_back(&mut self, counters: &Counters) -> StoreResult<()> {
        let Some(path) = &self.path else { return Ok(()) };
        // If this write is lost, the file keeps the larger numbers, which only causes a gap.
        self.upto = counters.last();
        write_numbers(path, self.upto, false).map_err(|error| file_error(path, &error))
    }
}

/// Overwrites the reserved numbers in the file. They are one line of fixed length, which is shorter than a sector of
/// the disk, so that a power failure leaves either the old line or the new one.
fn write_numbers(path: &Path, upto: [i64; 3], sync: bool) -> io::Result<()> {
    let is_new = !path.exists();
    let mut file = File::options().create(true).truncate(false).write(true).open(path)?;
    file.write_all(format!("{:020} {:020} {:020}\n", upto[0], upto[1], upto[2]).as_bytes())?;
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
    /// Writes the counters if they have changed since the last commit.
    pub(super) fn write_counters(&mut self) -> StoreResult<()> {
        let c = self.counters;
        if c != self.counters_stored {
            if let Some(reserved) = &mut self.reserved {
                reserved.cover(&c)?;
            }
            update_row!(self.execute, "counters", {
                "message_last": c.message_last,
                "event_last": c.event_last,
                "token_last": c.token_last,
                "messages": c.messages,
                "unread": c.unread,
                "events": c.events,
            }, "id": 1)?;
        }
        Ok(())
    }
}

/// Reads the stored counters. If a table contains a higher number than its counter, the counter is raised to that
/// number.
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
    counters.message_last = counters.message_last.max(highest("SELECT max(seq) FROM message")?.unwrap_or(0));
    counters.event_last = counters.event_last.max(highest("SELECT max(seq) FROM event")?.unwrap_or(0));
    counters.token_last = counters.token_last.max(highest("SELECT max(token) FROM lock")?.unwrap_or(0));
    Ok(counters)
}
