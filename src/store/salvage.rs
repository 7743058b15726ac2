//! Copies everything that is readable in a damaged database into a new file.
//!
//! The copy does not read indexes, because indexes can be rebuilt. Most damage is in indexes, because indexes have more
//! pages than tables. If a page of a table is damaged, only the rows on that page are lost.

use super::counters::read_counters;
use super::events::BLOCK;
use super::messages::UNREAD;
use super::schema::{self, MIGRATIONS};
use super::{PAGE_BYTES, Store, StoreError, StoreResult};
use crate::base::domain_enums::EventKind;
use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, Row, params, params_from_iter};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::path::Path;

/// For each table, the name of its rows in the report about lost rows.
const ROWS: &[(&str, &str)] = &[
    ("message", "messages"),
    ("state", "entries of the shared state"),
    ("lock", "locks"),
    ("event", "events"),
    ("peer", "peers"),
    ("peer_number", "peer numbers"),
    ("channel_member", "channel members"),
    ("wakeup", "wakeups"),
    ("remaining_values", "old values to remove"),
    ("meta", "notes of the broker"),
    ("counters", "counters"),
];

/// The number of kept rows and lost rows of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TableLoss {
    table: String,
    n_kept: i64,
    /// The number of lost rows. `None` if this number is unknown.
    n_lost: Option<i64>,
}

/// The result of copying a damaged database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Salvage {
    losses: Vec<TableLoss>,
}

impl Salvage {
    /// Whether all rows were copied.
    pub fn is_complete(&self) -> bool {
        self.losses.is_empty()
    }
}

impl Display for Salvage {
    /// Lists the lost rows, for example `messages (283 kept, 17 lost)`.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (n, loss) in self.losses.iter().enumerate() {
            let name = ROWS.iter().find(|(table, _)| *table == loss.table).map_or(&*loss.table, |(_, name)| name);
            let n_lost = loss.n_lost.map_or("an unknown number".into(), |n| n.to_string());
            let comma = if n > 0 { ", " } else { "" };
            write!(f, "{comma}{name} ({} kept, {n_lost} lost)", loss.n_kept)?;
        }
        Ok(())
    }
}

impl Store {
    /// Copies everything that is readable in a damaged database into a new file. If rows were lost, new sequence
    /// numbers and fencing tokens will be higher than `floor`, because the highest old numbers may be lost.
    ///
    /// # Errors
    /// When nothing can be read, or the new file can't be written.
    pub fn salvage(damaged: &Path, into: &Path, floor: i64) -> StoreResult<Salvage> {
        let from = open_damaged(damaged)?;
        let version: i64 = from.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let Some(version) = usize::try_from(version).ok().filter(|n| (1..=MIGRATIONS.len()).contains(n)) else {
            return Err(StoreError::Corrupt(format!("its tables have the unknown format {version}")));
        };
        let mut db = Connection::open(into)?;
        db.pragma_update(None, "page_size", PAGE_BYTES)?;
        // An unfinished copy is never used, so the new file needs no journal.
        db.pragma_update(None, "journal_mode", "OFF")?;
        db.pragma_update(None, "synchronous", "OFF")?;
        schema::create(&mut db, version)?;
        db.execute_batch("BEGIN")?;
        let mut salvage = Salvage::default();
        // The blocks of events are rebuilt later, from the events.
        for table in tables(&db)?.into_iter().filter(|table| table != "event_block") {
            db.execute(&format!("DELETE FROM {table}"), [])?;
            let mut copy = TableCopy::new(&from, &db, &table)?;
            copy.run()?;
            salvage.losses.extend(copy.loss(table));
        }
        db.execute_batch("COMMIT")?;
        schema::migrate(&mut db)?;
        db.execute_batch("BEGIN")?;
        rebuild_event_blocks(&db)?;
        link_value_events(&db)?;
        note_missing_events(&db, &mut salvage)?;
        db.execute_batch("COMMIT")?;
        if !salvage.is_complete() {
            drop_unreadable_messages(&db, &mut salvage)?;
            count_again(&db, floor)?;
        }
        drop(db);
        let synced = File::open(into).and_then(|file| file.sync_all());
        synced.map_err(|error| StoreError::Sql(format!("{}: {error}", into.display())))?;
        Ok(salvage)
    }
}

/// Opens a damaged database. SQLite reads as much as possible, and writes nothing.
fn open_damaged(path: &Path) -> StoreResult<Connection> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Without this setting, one damaged table definition would make all tables unreadable.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, true)?;
    db.pragma_update(None, "cell_size_check", true)?;
    Ok(db)
}

/// The names of all tables except SQLite's own.
pub(super) fn tables(db: &Connection) -> StoreResult<Vec<String>> {
    let mut query =
        db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY rowid")?;
    let names = query.query_map([], |row| row.get(0))?;
    Ok(names.collect::<rusqlite::Result<_>>()?)
}

/// The names and the declared types of a table's columns.
pub(super) fn columns(db: &Connection, table: &str) -> StoreResult<Vec<(String, String)>> {
    let mut query = db.prepare("SELECT name, type FROM pragma_table_info(?1)")?;
    let found = query.query_map([table], |row| Ok((row.get("name")?, row.get("type")?)))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// A table that is being copied.
struct TableCopy<'db> {
    from: &'db Connection,
    to: &'db Connection,
    table: String,
    columns: Vec<String>,
    /// The declared type of each column.
    types: Vec<String>,
    n_kept: i64,
    /// The number of readable rows that could not be kept. In such a row, a value has the wrong type, or the key is not
    /// unique.
    n_refused: i64,
    has_gaps: bool,
}

impl<'db> TableCopy<'db> {
    fn new(from: &'db Connection, to: &'db Connection, table: &str) -> StoreResult<TableCopy<'db>> {
        let (columns, types) = columns(to, table)?.into_iter().unzip();
        Ok(TableCopy { from, to, table: table.into(), columns, types, n_kept: 0, n_refused: 0, has_gaps: false })
    }

    fn run(&mut self) -> StoreResult<()> {
        let has_rowid = self.to.prepare(&format!("SELECT rowid FROM {}", self.table)).is_ok();
        if has_rowid { self.copy_by_rowid() } else { self.copy_from_both_ends() }
    }

    /// Copies the rows up to the first damage. Then finds the next readable row and continues from there.
    fn copy_by_rowid(&mut self) -> StoreResult<()> {
        let mut first = 0;
        loop {
            let (is_done, last) = self.copy_range(first, i64::MAX, "ASC")?;
            if is_done {
                return Ok(());
            }
            self.has_gaps = true;
            let gap = last.map_or(first, |last| last.saturating_add(1));
            let resume = self.find_readable_row(gap);
            // The search may have skipped readable rows. They are copied in descending order, from the row before
            // `resume` to the damage.
            self.copy_range(gap, resume.map_or(i64::MAX, |row| row - 1), "DESC")?;
            let Some(row) = resume else { return Ok(()) };
            first = row;
        }
    }

    /// Finds a readable row after the damage at `gap`. The search doubles its distance from `gap` until SQLite reads a
    /// page after the damage.
    fn find_readable_row(&self, gap: i64) -> Option<i64> {
        let sql = format!("SELECT rowid FROM {} NOT INDEXED WHERE rowid >= ?1 ORDER BY rowid LIMIT 1", self.table);
        let find = |row: i64| self.from.query_row(&sql, [row], |row| row.get::<_, i64>(0));
        let found = (0..63).map(|power| find(gap.saturating_add(1 << power)));
        found.take_while(|found| !matches!(found, Err(rusqlite::Error::QueryReturnedNoRows))).find_map(Result::ok)
    }

    /// Copies the rows in this range up to the first damage. Returns whether the whole range was copied, and the id of
    /// the last copied row.
    fn copy_range(&mut self, first: i64, last: i64, order: &str) -> StoreResult<(bool, Option<i64>)> {
        let range = "WHERE rowid BETWEEN ?1 AND ?2 ORDER BY rowid";
        let sql = format!("SELECT rowid, {} FROM {} NOT INDEXED {range} {order}", self.columns.join(","), self.table);
        let Ok(mut query) = self.from.prepare(&sql) else { return Ok((false, None)) };
        let Ok(mut rows) = query.query([first, last]) else { return Ok((false, None)) };
        let mut reached: Option<i64> = None;
        loop {
            let Ok(next) = rows.next() else { return Ok((false, reached)) };
            let Some(row) = next else { return Ok((true, reached)) };
            let Ok(rowid) = row.get::<_, i64>(0) else { return Ok((false, reached)) };
            // On a damaged page, SQLite may return some rows a second time.
            if reached.is_some_and(|reached| if order == "ASC" { rowid <= reached } else { rowid >= reached }) {
                return Ok((false, reached));
            }
            self.keep(row, 1)?;
            reached = Some(rowid);
        }
    }

    /// Copies a table without row ids. Copies first from the beginning to the first damage, and then from the end back
    /// to the last damage.
    fn copy_from_both_ends(&mut self) -> StoreResult<()> {
        let mut query = self.to.prepare("SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk")?;
        let key: Vec<String> = query.query_map([&self.table], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        drop(query);
        for order in ["ASC", "DESC"] {
            let by: Vec<String> = key.iter().map(|column| format!("{column} {order}")).collect();
            let (columns, by) = (self.columns.join(","), by.join(","));
            let from = self.from;
            let Ok(mut query) = from.prepare(&format!("SELECT {columns} FROM {} ORDER BY {by}", self.table)) else {
                self.has_gaps = true;
                return Ok(());
            };
            let Ok(mut rows) = query.query([]) else { continue };
            loop {
                match rows.next() {
                    Ok(Some(row)) => self.keep(row, 0)?,
                    Ok(None) => return Ok(()),
                    Err(_) => break,
                }
            }
            self.has_gaps = true;
        }
        Ok(())
    }

    /// Adds a row to the new table, or counts the row as refused. The values to copy begin at the column `offset`.
    fn keep(&mut self, row: &Row<'_>, offset: usize) -> StoreResult<()> {
        let mut values = Vec::with_capacity(self.types.len());
        for (n, declared) in self.types.iter().enumerate() {
            match row.get_ref(n + offset) {
                Ok(value) if has_type(value, declared) => values.push(ToSqlOutput::Borrowed(value)),
                _ => {
                    self.n_refused += 1;
                    return Ok(());
                }
            }
        }
        let marks = vec!["?"; values.len()].join(",");
        let sql = format!("INSERT OR IGNORE INTO {}({}) VALUES ({marks})", self.table, self.columns.join(","));
        let n_added = self.to.prepare_cached(&sql)?.execute(params_from_iter(values))?;
        self.n_kept += n_added as i64;
        self.n_refused += i64::from(n_added == 0);
        Ok(())
    }

    /// The numbers of this table's kept rows and lost rows. `None` if no rows were lost.
    fn loss(&self, table: String) -> Option<TableLoss> {
        // SQLite counts the rows in the smallest index of the table. The index may contain entries for rows that the
        // table has lost.
        let count = || self.from.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0));
        let n_missing = count().ok().map(|n_all| n_all - self.n_kept).filter(|n| *n > 0);
        let n_lost = match (self.has_gaps, self.n_refused) {
            (false, 0) => Some(n_missing?),
            (false, n) => Some(n),
            (true, _) => n_missing,
        };
        Some(TableLoss { table, n_kept: self.n_kept, n_lost })
    }
}

/// Whether a value is null or has the declared type of its column. The program can't read other values.
pub(super) fn has_type(value: ValueRef<'_>, declared: &str) -> bool {
    match value {
        ValueRef::Null => true,
        ValueRef::Integer(_) => declared == "INTEGER",
        ValueRef::Text(text) => declared == "TEXT" && std::str::from_utf8(text).is_ok(),
        _ => false,
    }
}

/// Removes messages whose sender or recipient is unknown, because the row with the peer's number was lost. Otherwise, a
/// new peer could get the same number and would then appear as the sender or recipient of these messages. Also removes
/// the numbers of peers that have no messages any more.
fn drop_unreadable_messages(db: &Connection, salvage: &mut Salvage) -> StoreResult<()> {
    let unknown = "NOT IN (SELECT num FROM peer_number)";
    let n = db.execute(&format!("DELETE FROM message WHERE sender {unknown} OR recipient {unknown}"), [])? as i64;
    db.execute(
        "DELETE FROM peer_number WHERE num NOT IN (SELECT sender FROM message UNION SELECT recipient FROM message)",
        [],
    )?;
    if n == 0 {
        return Ok(());
    }
    match salvage.losses.iter_mut().find(|loss| loss.table == "message") {
        Some(loss) => (loss.n_kept, loss.n_lost) = (loss.n_kept - n, loss.n_lost.map(|lost| lost + n)),
        None => {
            let n_kept = db.query_row("SELECT count(*) FROM message", [], |row| row.get(0))?;
            salvage.losses.push(TableLoss { table: "message".into(), n_kept, n_lost: Some(n) });
        }
    }
    Ok(())
}

/// Rebuilds the table that lists the event types in each block.
pub(super) fn rebuild_event_blocks(db: &Connection) -> StoreResult<()> {
    db.execute("DELETE FROM event_block", [])?;
    db.execute(&format!("INSERT INTO event_block SELECT DISTINCT type, seq / {BLOCK} FROM event"), [])?;
    Ok(())
}

/// Links the events that contain values of the same shared state entry. The old links may lead to lost events. If an
/// entry was lost, adds a tombstone for the entry, so that the cleanup finds the entry's values.
fn link_value_events(db: &Connection) -> StoreResult<()> {
    let mut newest: HashMap<(String, String), (i64, i64)> = HashMap::new();
    let mut query = db.prepare("SELECT seq, payload FROM event WHERE type = ?1 ORDER BY seq")?;
    let mut link = db.prepare("UPDATE event SET earlier = ?2 WHERE seq = ?1")?;
    let mut rows = query.query([EventKind::StateChanged.word()])?;
    while let Some(row) = rows.next()? {
        let (seq, payload): (i64, String) = (row.get("seq")?, row.get("payload")?);
        let payload: Value = serde_json::from_str(&payload).unwrap_or_default();
        let word = |field: &str| payload[field].as_str().map(str::to_owned);
        if let (Some(namespace), Some(key), Some(_)) = (word("namespace"), word("key"), word("value")) {
            let version = payload["version"].as_i64().unwrap_or(1);
            let earlier = newest.insert((namespace, key), (seq, version)).map(|(earlier, _)| earlier);
            link.execute(params![seq, earlier])?;
        }
    }
    db.execute("UPDATE state SET last_event = NULL", [])?;
    let mut begin = db.prepare(
        "INSERT INTO state(namespace, key, value, version, by, updated, last_event) \
         SELECT ?1, ?2, NULL, ?4 + 1, by, at, seq FROM event WHERE seq = ?3 \
         ON CONFLICT(namespace, key) DO UPDATE SET last_event = excluded.last_event",
    )?;
    for ((namespace, key), (seq, version)) in newest {
        begin.execute(params![namespace, key, seq, version])?;
    }
    Ok(())
}

/// Adds lost events to the report if SQLite has skipped them without an error. The counters contain the original number
/// of events.
fn note_missing_events(db: &Connection, salvage: &mut Salvage) -> StoreResult<()> {
    let n_kept: i64 = db.query_row("SELECT count(*) FROM event", [], |row| row.get(0))?;
    let n_lost = read_counters(db).map_or(0, |counters| counters.events - n_kept);
    if n_lost > 0 && !salvage.losses.iter().any(|loss| loss.table == "event") {
        salvage.losses.push(TableLoss { table: "event".into(), n_kept, n_lost: Some(n_lost) });
    }
    Ok(())
}

/// Stores new counters. Counts the remaining rows, and raises the last sequence numbers and the last fencing token to
/// at least `floor`.
fn count_again(db: &Connection, floor: i64) -> StoreResult<()> {
    let last = |stored: &str, row: &str, table: &str| {
        format!("max(?1, coalesce((SELECT {stored} FROM counters), 0), coalesce((SELECT max({row}) FROM {table}), 0))")
    };
    let sql = format!(
        "INSERT OR REPLACE INTO counters(id, message_last, event_last, token_last, messages, unread, events)
         VALUES (1, {}, {}, {}, (SELECT count(*) FROM message), (SELECT count(*) FROM message WHERE {UNREAD}),
                 (SELECT count(*) FROM event))",
        last("message_last", "seq", "message"),
        last("event_last", "seq", "event"),
        last("token_last", "token", "lock"),
    );
    db.execute(&sql, [floor])?;
    Ok(())
}
