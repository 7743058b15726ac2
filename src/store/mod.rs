//! The only module that uses SQL. It stores the data of one mesh, such as messages and locks, in one SQLite file. While
//! the broker runs, only the submodule `record_and_apply_row_writes` changes rows.
//!
//! **Invariant:** each turn of the broker's loop has at most one write transaction. If a call fails, only the writes of
//! this call are rolled back.

mod changeset;
mod channel_members;
mod checkpointer;
mod counters;
mod error;
mod events;
mod id_columns;
mod integrity_check;
mod key_value_entries;
mod locks;
mod log_terms;
mod message_scan;
mod messages;
mod named_columns;
mod peer_numbers;
mod peers;
mod record_and_apply_row_writes;
mod returnable_name_takeovers;
mod salvage;
mod schema;
mod wakeup_attempts;

pub use changeset::Changeset;
pub use channel_members::ChannelMember;
pub use checkpointer::Checkpointer;
use checkpointer::{copy_log, pages};
pub use counters::Counters;
use counters::ReservedNumbers;
pub use error::{StoreError, StoreResult};
use events::KnownBlock;
pub use events::{Event, EventFilter, ValueEvent};
pub use key_value_entries::{DeletionPosition, StateEntry};
pub use locks::LockRow;
pub use log_terms::LogTerms;
pub use message_scan::{MessageScan, ScanEnd, ScanSource, ScannedMessage};
pub use messages::{Message, MessageFilter};
pub use peers::PeerRow;
pub use record_and_apply_row_writes::LogPosition;
pub use returnable_name_takeovers::TakeoverRow;
pub use salvage::Salvage;
pub use wakeup_attempts::WakeupRow;

use crate::base::path_suffix::with_suffix;
use changeset::Recorder;
use named_columns::{ColumnOrder, placeholder, write_row};
use peer_numbers::KnownNumbers;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension};
use schema::{MIGRATIONS, migrate};
use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// What must be rolled back if the current call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CallState {
    /// The call has written nothing.
    Clean,
    /// The call tried to write, but SQLite could not open a transaction or a savepoint. The file has not changed, but
    /// the caller may have changed the state in memory.
    Refused,
    /// This call was the first to write in the current turn of the broker's loop. It opened the transaction. To undo
    /// the call, the transaction is rolled back.
    First,
    /// An earlier call of the same turn has opened the transaction, so this call has set a savepoint. To undo the call,
    /// the transaction is rolled back to the savepoint.
    Nested,
}

/// Whether other connections may use the database while the store uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LockingMode {
    /// Other connections may use the database: the checkpointer, and users who read the database.
    Shared,
    /// No other connection may use the database, so SQLite needs no shared-memory file (32 KiB). On a full disk, the
    /// broker needs this mode even to read the database, because SQLite can't create that file.
    Exclusive,
}

impl LockingMode {
    /// The value of `PRAGMA locking_mode` for this mode.
    fn word(self) -> &'static str {
        match self {
            LockingMode::Shared => "normal",
            LockingMode::Exclusive => "exclusive",
        }
    }
}

/// Opens or creates a database file.
fn connect(path: &Path, mode: LockingMode) -> StoreResult<Connection> {
    let db = Connection::open(path)?;
    db.pragma_update(None, "locking_mode", mode.word())?;
    db.pragma_update(None, "page_size", PAGE_BYTES)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    Ok(db)
}

/// The page size of a new database, in bytes. SQLite writes whole pages to its log, so small changes are faster with
/// small pages. Storing a message takes a fifth longer with SQLite's default of 4096 bytes than with 2048 bytes, and is
/// no faster with 1024 bytes.
const PAGE_BYTES: i64 = 2048;
/// The size of the write-ahead log, in bytes, at which SQLite itself copies the log into the database file during a
/// commit. Usually, the checkpointer copies the log before the log becomes this long.
const LONGEST_LOG_BYTES: i64 = 22 << 20;

/// The value that SQLite returns for `PRAGMA synchronous` if each commit waits until the log is on the disk
/// (<https://sqlite.org/pragma.html#pragma_synchronous>).
const SYNCHRONOUS_FULL: i64 = 2;

/// The database of one mesh.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    /// The path of the database file. `None` if the database is in memory.
    path: Option<PathBuf>,
    open: bool,
    call: CallState,
    /// The counters, including changes that are not committed yet.
    counters: Counters,
    counters_committed: Counters,
    counters_before_call: Counters,
    /// The values that the counters had when they were last written to the database, or when the database was opened.
    counters_stored: Counters,
    /// Whether the counters were written in the current turn of the broker's loop.
    has_written_counters: bool,
    /// The numbers that the table of messages contains instead of the ids of some peers.
    known_numbers: RefCell<KnownNumbers>,
    /// The newest block of events. This value is reset when a write is rolled back.
    event_block: KnownBlock,
    /// The order of the columns of a single message.
    message_columns: RefCell<ColumnOrder>,
    /// The order of the columns of a single entry of the shared state.
    entry_columns: RefCell<ColumnOrder>,
    /// The sequence numbers that are reserved in a file next to the database. `None` if the database is in memory.
    reserved: Option<ReservedNumbers>,
    /// Records the changes of the current turn of the broker's loop. `None` if no other database needs the changes.
    recorder: Option<Recorder>,
    /// Whether [`Store::seal`] has returned the changes of the current turn. If so, the turn must not write any more.
    is_sealed: bool,
}

impl Store {
    /// Opens or creates a database file. If `full` is true, a power failure can't undo a committed change.
    pub fn open(path: &Path, full: bool) -> StoreResult<Store> {
        let db = match connect(path, LockingMode::Shared) {
            Err(StoreError::Full) => connect(path, LockingMode::Exclusive)?,
            result => result?,
        };
        db.pragma_update(None, "synchronous", if full { "FULL" } else { "NORMAL" })?;
        let mut store = Store::prepare(db)?;
        let reserved = ReservedNumbers::open(path)?;
        store.counters.raise_to(reserved.floor());
        // The raised counters are treated as committed, although their values are not in the database yet. The values
        // can't be lost, because they are in the file of reserved numbers.
        (store.counters_before_call, store.counters_committed) = (store.counters, store.counters);
        store.reserved = Some(reserved);
        store.path = Some(path.to_owned());
        Ok(store)
    }

    /// Opens a store without a file, for a hub on standby and for tests.
    pub fn memory() -> StoreResult<Store> {
        Store::prepare(Connection::open_in_memory()?)
    }

    fn prepare(mut db: Connection) -> StoreResult<Store> {
        db.set_prepared_statement_cache_capacity(64);
        // Without this setting, SQLite prepares a statement again if the choice of a partial index may depend on the
        // value of a parameter. Storing a message with an idempotency key would take twice as long.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        // Users may read the database while the broker runs. A reader may lock the database for a moment, so the broker
        // waits for the lock.
        db.busy_timeout(std::time::Duration::from_millis(2000))?;
        db.pragma_update(None, "temp_store", "MEMORY")?;
        db.pragma_update(None, "journal_size_limit", 16 << 20)?;
        db.pragma_update(None, "wal_autocheckpoint", pages(&db, LONGEST_LOG_BYTES)?)?;
        migrate(&mut db)?;
        let counters = counters::read_counters(&db)?;
        Ok(Store {
            db,
            path: None,
            open: false,
            call: CallState::Clean,
            counters,
            counters_committed: counters,
            counters_before_call: counters,
            counters_stored: counters,
            has_written_counters: false,
            known_numbers: RefCell::default(),
            event_block: KnownBlock::default(),
            message_columns: RefCell::default(),
            entry_columns: RefCell::default(),
            reserved: None,
            recorder: None,
            is_sealed: false,
        })
    }

    /// Opens a checkpointer for this store's database file.
    pub fn checkpointer(&self) -> StoreResult<Checkpointer> {
        let mode: String = self.db.query_row("PRAGMA locking_mode", [], |row| row.get(0))?;
        if mode == LockingMode::Exclusive.word() {
            let text = "the disk was full when this broker started, so no other connection can read the database until \
                        the broker is restarted";
            return Err(StoreError::Sql(text.into()));
        }
        let synchronous: i64 = self.db.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
        Checkpointer::open(self.path.as_deref().unwrap_or(Path::new("")), synchronous >= SYNCHRONOUS_FULL)
    }

    /// Begins a call. [`Store::undo_call`] rolls back all writes after this point.
    pub fn begin_call(&mut self) {
        self.call = CallState::Clean;
        self.counters_before_call = self.counters;
        if let Some(recorder) = &mut self.recorder {
            recorder.begin_call();
        }
    }

    /// Whether the current call has written anything or has tried to write.
    pub fn call_wrote(&self) -> bool {
        self.call != CallState::Clean
    }

    /// Whether a write transaction is open.
    pub fn has_written(&self) -> bool {
        self.open
    }

    /// Ends the current call and keeps its writes.
    pub fn end_call(&mut self) -> StoreResult<()> {
        if self.call == CallState::Nested {
            self.run("RELEASE call")?;
        }
        self.call = CallState::Clean;
        self.counters_before_call = self.counters;
        Ok(())
    }

    /// Rolls back the writes of the current call.
    pub fn undo_call(&mut self) -> StoreResult<()> {
        let call = std::mem::replace(&mut self.call, CallState::Clean);
        self.counters = self.counters_before_call;
        self.known_numbers.get_mut().clear();
        self.event_block = KnownBlock::default();
        if let Some(recorder) = &mut self.recorder {
            recorder.undo_call();
        }
        match call {
            CallState::Clean | CallState::Refused => Ok(()),
            CallState::First => {
                self.open = false;
                self.run("ROLLBACK")
            }
            CallState::Nested => {
                self.run("ROLLBACK TO call")?;
                self.run("RELEASE call")
            }
        }
    }

    /// Commits the writes of the current turn of the broker's loop. Returns whether there was anything to commit.
    pub fn commit(&mut self) -> StoreResult<bool> {
        if !self.open {
            return Ok(false);
        }
        if !self.is_sealed {
            self.write_counters()?;
        }
        self.run("COMMIT")?;
        self.open = false;
        self.forget_recorded();
        self.counters_committed = self.counters;
        if std::mem::take(&mut self.has_written_counters) {
            self.counters_stored = self.counters;
        }
        Ok(true)
    }

    /// Rolls back all writes of the current turn of the broker's loop.
    pub fn rollback(&mut self) {
        if self.open {
            // This fails if SQLite has already rolled back the transaction after a failed COMMIT. In that case, nothing
            // is left to roll back.
            let _ = self.run("ROLLBACK");
        }
        self.open = false;
        self.call = CallState::Clean;
        self.forget_recorded();
        self.has_written_counters = false;
        self.counters = self.counters_committed;
        self.counters_before_call = self.counters;
        self.known_numbers.get_mut().clear();
        self.event_block = KnownBlock::default();
    }

    /// Copies the write-ahead log into the database file, without waiting for readers. Gives back the unused reserved
    /// sequence numbers. Call this function before the store is closed.
    pub fn checkpoint(&mut self) -> StoreResult<()> {
        copy_log(&self.db)?;
        let counters = self.counters_committed;
        self.reserved.as_mut().map_or(Ok(()), |reserved| reserved.give_back(&counters))
    }

    /// Copies the rest of a long log after the checkpointer has copied most of it. The next commit can then write from
    /// the start of the log. This is much faster than a copy of the whole log during a later commit.
    pub fn copy_rest_of_log(&mut self) -> StoreResult<()> {
        copy_log(&self.db).map(|_| ())
    }

    /// The size of the database and the size of its write-ahead log, in bytes.
    pub fn size(&self) -> StoreResult<(i64, i64)> {
        let pages: i64 = self.db.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        let page: i64 = self.db.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        let log = self.path.as_deref().map(|path| with_suffix(path, "-wal"));
        let log = log.and_then(|log| std::fs::metadata(log).ok()).map_or(0, |file| file.len());
        Ok((pages * page, log as i64))
    }

    /// The value with this name in the table `meta`.
    pub fn meta(&self, name: &str) -> StoreResult<Option<String>> {
        let mut read = self.db.prepare_cached("SELECT value FROM meta WHERE name = ?1")?;
        Ok(read.query_row([name], |row| row.get(0)).optional()?)
    }

    /// Stores a value under a name in the table `meta`.
    pub fn set_meta(&mut self, name: &str, value: &str) -> StoreResult<()> {
        write_row!(self, "INSERT OR REPLACE", "meta", { "name": name, "value": value })?;
        Ok(())
    }

    /// The version of the tables. Each entry of the replicated log contains this version, because an older program
    /// can't apply changes to unknown columns.
    pub fn schema() -> u32 {
        MIGRATIONS.len() as u32
    }

    /// Whether this program can apply changes from a program whose tables have this version.
    pub fn can_replay(schema: u32) -> bool {
        (schema::REPLAYABLE_SINCE..=Store::schema()).contains(&schema)
    }

    /// Whether a copy of another database may replace this database without loss. This is true if this database
    /// contains no messages, no shared state and no locks. Peers do not count, because they reconnect by themselves.
    pub fn is_expendable(&self) -> StoreResult<bool> {
        let sql = "SELECT NOT EXISTS (SELECT 1 FROM message) AND NOT EXISTS (SELECT 1 FROM state)
                   AND NOT EXISTS (SELECT 1 FROM lock)";
        Ok(self.db.query_row(sql, [], |row| row.get(0))?)
    }

    /// The time of the newest message, event or log entry in the store. The clock of the mesh never starts at an
    /// earlier time.
    pub fn last_time(&self) -> StoreResult<i64> {
        let newest = |table: &str, column: &str| {
            let sql = format!("SELECT {column} FROM {table} ORDER BY seq DESC LIMIT 1");
            self.db.query_row(&sql, [], |row| row.get::<_, i64>(0)).optional()
        };
        let logged = self.log_position()?.map(|position| position.stamp.now);
        Ok(newest("message", "created")?.max(newest("event", "at")?).max(logged).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::domain_enums::{MessageState, WakeupOutcome};
    use crate::base::id_types::MessageSeq;
    use rusqlite::params;

    fn message(sender: &str, recipient: &str) -> Message {
        Message { sender: sender.into(), recipient: recipient.into(), body: "text".into(), ..Message::default() }
    }

    #[test]
    fn messages_of_an_older_database_are_still_there() {
        let mut old = Connection::open_in_memory().unwrap();
        schema::upgrade(&mut old, 0..3).unwrap();
        for (seq, (sender, recipient, state)) in [("7", "b", 2), ("b", "7", 0), ("7", "c", 1)].iter().enumerate() {
            let sql =
                "INSERT INTO message VALUES (?1,?2,?3,'','text','text',NULL,'k',5,NULL,?4,NULL,0,NULL,NULL,NULL,NULL)";
            old.execute(sql, params![seq as i64 + 1, sender, recipient, state]).unwrap();
        }
        let mut store = Store::prepare(old).unwrap();
        let found = store.messages(&MessageFilter { limit: 9, ..MessageFilter::default() }).unwrap();
        let people: Vec<_> =
            found.iter().map(|m| (m.seq.0, m.sender.as_str(), m.recipient.as_str(), m.state.number())).collect();
        assert_eq!(people, [(1, "7", "b", 2), (2, "b", "7", 0), (3, "7", "c", 1)]);
        assert_eq!(store.messages_by_key(&"7".into(), "k").unwrap().len(), 2);
        store.add_message(&mut message("b", "c")).unwrap();
        store.commit().unwrap();
        assert_eq!(store.unread_senders(&"c".into(), 9).unwrap(), ["7", "b"]);
        assert_eq!((store.count_unread(&"7".into()).unwrap(), store.count_unread(&"nobody".into()).unwrap()), (1, 0));
    }

    #[test]
    fn a_number_is_not_kept_of_a_peer_whose_message_was_taken_back() {
        let mut store = Store::memory().unwrap();
        for (sender, keep) in [("lost", false), ("kept", true)] {
            store.begin_call();
            store.add_message(&mut message(sender, "reader")).unwrap();
            if keep { store.end_call() } else { store.undo_call() }.unwrap();
        }
        store.commit().unwrap();
        let mut again = message("lost", "kept");
        store.add_message(&mut again).unwrap();
        store.commit().unwrap();
        assert_eq!(store.message(again.seq).unwrap(), Some(again));
        assert_eq!(store.unread_senders(&"reader".into(), 9).unwrap(), ["kept"]);
    }

    #[test]
    fn the_history_of_a_mailbox_is_in_order_whatever_was_read() {
        let mut store = Store::memory().unwrap();
        for n in 0..6 {
            let mut m = message(if n % 2 == 0 { "even" } else { "odd" }, "reader");
            store.add_message(&mut m).unwrap();
            if n % 3 == 0 {
                store.put_receipt(&m.clone(), &Message { state: MessageState::Read, ..m }).unwrap();
            }
        }
        let seqs = |pick: MessageFilter<'_>| {
            let found = store.messages(&MessageFilter { to: Some(&"reader".into()), ..pick }).unwrap();
            found.iter().map(|m| m.seq.0).collect::<Vec<_>>()
        };
        assert_eq!(seqs(MessageFilter { limit: 9, ..MessageFilter::default() }), [1, 2, 3, 4, 5, 6]);
        assert_eq!(seqs(MessageFilter { limit: 3, newest: true, ..MessageFilter::default() }), [6, 5, 4]);
        assert_eq!(
            seqs(MessageFilter {
                limit: 9,
                after: MessageSeq(2),
                from: Some(&"odd".into()),
                ..MessageFilter::default()
            }),
            [4, 6]
        );
        assert_eq!(seqs(MessageFilter { limit: 9, unread: true, ..MessageFilter::default() }), [2, 3, 5, 6]);
        assert_eq!(seqs(MessageFilter { limit: 9, from: Some(&"nobody".into()), ..MessageFilter::default() }), [0; 0]);
    }

    #[test]
    fn what_no_message_names_any_more_has_no_number() {
        let mut store = Store::memory().unwrap();
        for (sender, created) in [("old", 1), ("both", 2), ("both", 9)] {
            store.add_message(&mut Message { created, ..message(sender, "reader") }).unwrap();
        }
        assert_eq!(store.prune_messages(5, 100).unwrap(), (2, vec!["reader".to_owned(), "reader".to_owned()]));
        store.commit().unwrap();
        let sql = "SELECT group_concat(id) FROM (SELECT id FROM peer_number ORDER BY id)";
        assert_eq!(store.db.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap(), "both,reader");
        assert_eq!(store.unread_senders(&"reader".into(), 9).unwrap(), ["both"]);
    }

    #[test]
    fn wakeups_end_with_their_messages_a_bounded_number_at_a_time() {
        let mut store = Store::memory().unwrap();
        let wakeup = |at| WakeupRow { at, channel: None, outcome: WakeupOutcome::Sent };
        for created in [1, 2] {
            let mut m = Message { created, ..message("sender", "reader") };
            store.add_message(&mut m).unwrap();
            [1, 2, 3].iter().for_each(|at| store.add_wakeup(m.seq, &wakeup(*at)).unwrap());
        }
        store.prune_messages(2, 9).unwrap();
        assert_eq!(store.prune_wakeups(2).unwrap(), 2);
        assert_eq!(store.wakeups(MessageSeq(1)).unwrap(), [wakeup(3)]);
        store.prune_messages(9, 9).unwrap();
        assert_eq!([store.prune_wakeups(9).unwrap(), store.prune_wakeups(9).unwrap()], [4, 0], "no message is left");
        assert_eq!(store.wakeups(MessageSeq(2)).unwrap(), []);
    }

    #[test]
    fn a_failed_call_is_undone_alone() {
        let mut store = Store::memory().unwrap();
        store.begin_call();
        store.set_meta("kept", "1").unwrap();
        store.end_call().unwrap();
        store.begin_call();
        store.set_meta("lost", "1").unwrap();
        store.undo_call().unwrap();
        assert!(store.commit().unwrap());
        assert_eq!(store.meta("kept").unwrap().as_deref(), Some("1"));
        assert_eq!(store.meta("lost").unwrap(), None);
    }
}
