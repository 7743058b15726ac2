//! The only module that changes rows while the broker runs. It can record the changes of each turn of the broker's
//! loop, and can apply the changes that another broker has recorded.
//!
//! **Invariant:** a statement selects rows only by their keys, never by `LIMIT` or by SQLite's row ids. It therefore
//! has the same effect on every database with the same rows.

use super::changeset::{Changeset, Recorder, damaged};
use super::events::KnownBlock;
use super::{CallState, Store, StoreError, StoreResult, counters};
use crate::base::id_types::{EntryStamp, LogId, Term};
use rusqlite::ToSql;

/// A recorded statement begins with one of these words. slm-mesh never records any other statement.
const VERBS: [&str; 3] = ["INSERT ", "UPDATE ", "DELETE "];

/// The log position is in the table `meta`, in the row with this name.
const POSITION: &str = "log_position";
/// The name of a row in the table `meta`. If a database contains this row, its hub must not start a log, because the
/// hub joins the log of another hub.
const JOINS: &str = "joins_log";
/// The name of a row in the table `meta`. This row lists the lost logs that the log of this database continues.
const FORMER_LOGS: &str = "former_logs";
/// How many lost logs are remembered.
const FORMER_LOGS_MAX: usize = 16;

/// The position of a database in the replicated log: the last entry that the database contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPosition {
    /// The id of the log.
    pub log: LogId,
    /// The index of the last entry that the database contains.
    pub index: u64,
    /// The term and the time of the last entry.
    pub stamp: EntryStamp,
}

impl Store {
    /// Runs a statement that changes no rows: it begins or ends a transaction or a savepoint, or rebuilds the indexes.
    pub(super) fn run(&self, sql: &'static str) -> StoreResult<()> {
        self.db.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    /// Changes rows in the transaction or the savepoint of the current call. Returns the number of changed rows.
    pub(super) fn write(&mut self, sql: &'static str, values: &[&dyn ToSql]) -> StoreResult<usize> {
        self.writing()?;
        self.execute(sql, values)
    }

    /// Changes rows in the open transaction.
    pub(super) fn execute(&mut self, sql: &'static str, values: &[&dyn ToSql]) -> StoreResult<usize> {
        debug_assert!(!["LIMIT", "rowid", "random"].iter().any(|word| sql.contains(word)), "not repeatable: {sql}");
        let n = self.db.prepare_cached(sql)?.execute(values)?;
        if let Some(recorder) = &mut self.recorder {
            recorder.add(sql, values)?;
        }
        Ok(n)
    }

    /// Opens the transaction or the savepoint for the first write of a call.
    pub(super) fn writing(&mut self) -> StoreResult<()> {
        if !self.open {
            self.call = CallState::Refused;
            self.run("BEGIN IMMEDIATE")?;
            self.open = true;
            self.call = CallState::First;
        } else if matches!(self.call, CallState::Clean | CallState::Refused) {
            self.call = CallState::Refused;
            self.run("SAVEPOINT call")?;
            self.call = CallState::Nested;
        }
        Ok(())
    }

    /// Starts to record the changes of each turn of the broker's loop. [`Store::seal`] returns the changes at the end
    /// of the turn.
    pub fn start_recording(&mut self) {
        self.recorder = Some(Recorder::default());
    }

    /// Whether the changes of each turn are recorded.
    pub fn is_recording(&self) -> bool {
        self.recorder.is_some()
    }

    /// The last log entry that this database contains. `None` if the database has never been part of a log.
    pub fn log_position(&self) -> StoreResult<Option<LogPosition>> {
        let text = self.meta(POSITION)?;
        let read = |text: &str| {
            let mut words = text.split(' ');
            let (index, now) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let log = words.next()?.parse().ok()?;
            let term = Term(words.next()?.parse().ok()?);
            Some(LogPosition { log, index, stamp: EntryStamp { term, now } })
        };
        Ok(text.as_deref().and_then(read))
    }

    /// Whether this database has the mark of a hub that joins the log of another hub. Such a hub must not start a log.
    /// Later, a copy of the leader's database replaces this database. The copy does not have the mark.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn joins_log(&self) -> StoreResult<bool> {
        Ok(self.meta(JOINS)?.is_some())
    }

    /// Marks this database, so that [`Store::joins_log`] returns true.
    ///
    /// # Errors
    /// When the database can't be written.
    pub fn join_log(&mut self) -> StoreResult<()> {
        self.begin_call();
        self.set_meta(JOINS, "1")?;
        self.end_call()?;
        self.commit().map(|_| ())
    }

    /// Removes everything that connects this database with a log. After that, this database can start a new log, which
    /// belongs to a mesh of its own.
    ///
    /// # Errors
    /// When the database can't be written.
    pub fn leave_log(&mut self) -> StoreResult<()> {
        self.leave_log_for(&[])
    }

    /// Like [`Store::leave_log`], but the next log continues the mesh of the old log, which was lost. The database
    /// records the old log, so that guests of the old log accept the new one.
    ///
    /// # Errors
    /// When the database can't be read or written.
    pub fn leave_lost_log(&mut self) -> StoreResult<()> {
        let mut former = self.former_logs()?;
        former.extend(self.log_position()?.map(|position| position.log));
        let n_old = former.len().saturating_sub(FORMER_LOGS_MAX);
        self.leave_log_for(&former[n_old..])
    }

    fn leave_log_for(&mut self, former: &[LogId]) -> StoreResult<()> {
        self.begin_call();
        self.write("DELETE FROM meta WHERE name IN (?1, ?2, ?3)", &[&POSITION, &JOINS, &FORMER_LOGS])?;
        if !former.is_empty() {
            let words: Vec<String> = former.iter().map(ToString::to_string).collect();
            self.set_meta(FORMER_LOGS, &words.join(" "))?;
        }
        self.end_call()?;
        self.commit().map(|_| ())
    }

    /// The lost logs, oldest first. The log of this database continues them.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn former_logs(&self) -> StoreResult<Vec<LogId>> {
        let text = self.meta(FORMER_LOGS)?.unwrap_or_default();
        Ok(text.split(' ').filter_map(|word| word.parse().ok()).collect())
    }

    /// Discards the recorded changes at the end of a turn of the broker's loop.
    pub(super) fn forget_recorded(&mut self) {
        self.is_sealed = false;
        if let Some(recorder) = &mut self.recorder {
            *recorder = Recorder::default();
        }
    }

    /// The size, in bytes, of the changes that have been recorded in this turn.
    pub fn recorded_size(&self) -> usize {
        self.recorder.as_ref().map_or(0, Recorder::size)
    }

    /// Stores the log position and returns the changes of the turn. Returns `None` if the turn wrote nothing. After
    /// this call, only [`Store::commit`] or [`Store::rollback`] may be called in the turn.
    ///
    /// # Errors
    /// When the log position or the store's counters can't be written.
    pub fn seal(&mut self, position: LogPosition) -> StoreResult<Option<Changeset>> {
        if !self.open {
            return Ok(None);
        }
        self.begin_call();
        let LogPosition { log, index, stamp: EntryStamp { term, now } } = position;
        self.set_meta(POSITION, &format!("{index} {now} {log} {}", term.0))?;
        self.end_call()?;
        self.write_counters()?;
        self.is_sealed = true;
        Ok(self.recorder.as_mut().filter(|recorder| !recorder.is_empty()).map(Recorder::take))
    }

    /// Applies recorded changes in one transaction. If one change fails, the database does not change.
    ///
    /// # Errors
    /// When a changeset can't be read, or the database can't be written.
    pub fn apply<'a>(&mut self, changesets: impl IntoIterator<Item = &'a Changeset>) -> StoreResult<()> {
        let applied = self.apply_all(changesets);
        if applied.is_err() {
            self.rollback();
        }
        applied
    }

    fn apply_all<'a>(&mut self, changesets: impl IntoIterator<Item = &'a Changeset>) -> StoreResult<()> {
        self.begin_call();
        self.writing()?;
        for changes in changesets {
            self.apply_one(changes)?;
        }
        let counters = counters::read_counters(&self.db)?;
        if let Some(reserved) = &mut self.reserved {
            reserved.cover(&counters)?;
        }
        self.run("COMMIT")?;
        self.open = false;
        self.call = CallState::Clean;
        (self.counters, self.counters_before_call) = (counters, counters);
        (self.counters_committed, self.counters_stored) = (counters, counters);
        self.known_numbers.get_mut().clear();
        self.event_block = KnownBlock::default();
        Ok(())
    }

    fn apply_one(&self, changes: &Changeset) -> StoreResult<()> {
        let mut decoded = changes.decode()?;
        let mut statements = Vec::with_capacity(decoded.statements.len());
        for sql in &decoded.statements {
            if !VERBS.iter().any(|verb| sql.starts_with(verb)) {
                return Err(StoreError::Sql(format!("the log contains a statement that another program wrote: {sql}")));
            }
            statements.push(self.db.prepare_cached(sql)?);
        }
        let mut values = Vec::new();
        while let Some(number) = decoded.next_row(&mut values)? {
            let statement = statements.get_mut(number).ok_or_else(damaged)?;
            if statement.parameter_count() != values.len() {
                return Err(damaged());
            }
            for (n, value) in values.iter().enumerate() {
                statement.raw_bind_parameter(n + 1, rusqlite::types::ToSqlOutput::Borrowed(*value))?;
            }
            statement.raw_execute()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LockRow, Message, PeerRow, StateEntry, WakeupRow};
    use super::*;
    use crate::base::domain_enums::{EventKind, LockOwner, MessageState, PeerKind, WakeupOutcome};

    const AT: LogPosition = LogPosition { log: LogId(9), index: 7, stamp: EntryStamp { term: Term(3), now: 40 } };

    /// All rows of all tables. Each row begins with the name of its table.
    fn rows(store: &Store) -> Vec<String> {
        let mut found = Vec::new();
        let mut tables = store.db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").unwrap();
        let names: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().flatten().collect();
        for name in names {
            let mut query = store.db.prepare(&format!("SELECT * FROM {name}")).unwrap();
            let n_columns = query.column_count();
            let read = |row: &rusqlite::Row<'_>| {
                (0..n_columns).map(|n| row.get_ref(n).map(|value| format!("{value:?}"))).collect::<Result<Vec<_>, _>>()
            };
            let table = query.query_map([], read).unwrap().map(|row| format!("{name} {:?}", row.unwrap()));
            found.extend(table.collect::<Vec<_>>());
        }
        found.sort();
        found
    }

    fn message(sender: &str, recipient: &str, created: i64) -> Message {
        let body = "a text with a \0 in the middle".into();
        Message { sender: sender.into(), recipient: recipient.into(), body, created, ..Message::default() }
    }

    fn entry(key: &str, value: Option<&str>) -> StateEntry {
        let value = value.map(str::to_owned);
        StateEntry {
            namespace: "default".into(),
            key: key.into(),
            value,
            version: 1,
            by: "a".into(),
            updated: 5,
            expires: None,
            last_event: None,
        }
    }

    fn peer(id: &str) -> PeerRow {
        PeerRow {
            id: id.into(),
            name: id.into(),
            kind: PeerKind::Human,
            first_seen: 1,
            last_seen: 2,
            ..PeerRow::default()
        }
    }

    fn lock(store: &mut Store, path: &str) -> LockRow {
        LockRow {
            token: store.next_token(),
            path: path.into(),
            holder: "a".into(),
            owner: LockOwner::Turn,
            reason: "tests".into(),
            host: "here".into(),
            repo: None,
            repo_path: None,
            all_worktrees: false,
            granted: 3,
            expires: 9,
        }
    }

    /// Writes, changes and removes rows of each kind, as in a mesh with two agents.
    fn work(store: &mut Store) {
        store.set_meta("name", "value").unwrap();
        for id in ["a", "b", "c"] {
            store.put_peer(&peer(id)).unwrap();
        }
        store.drop_peer(&"c".into()).unwrap();
        for created in [1, 2, 30] {
            let mut m = message("a", "b", created);
            store.add_message(&mut m).unwrap();
            let wakeup = WakeupRow { at: 4, channel: None, outcome: WakeupOutcome::Sent };
            store.add_wakeup(m.seq, &wakeup).unwrap();
            store.put_receipt(&m.clone(), &Message { state: MessageState::Offered, ..m }).unwrap();
            let kind = EventKind::from_word("build.done");
            let seq = store.add_event(&kind, &"a".into(), created, "{}", None).unwrap();
            store.blank_value_event(seq, "null").unwrap();
        }
        store.put_entry(&entry("kept", Some("1"))).unwrap();
        store.put_entry(&entry("deleted", None)).unwrap();
        let (released, held) = (lock(store, "/w/released"), lock(store, "/w/held"));
        store.put_lock(&released).unwrap();
        store.put_lock(&held).unwrap();
        store.drop_lock(released.token, &released.path).unwrap();
        store.prune_messages(20, 10).unwrap();
        store.prune_wakeups(10).unwrap();
        store.prune_events(20, 1).unwrap();
        store.prune_entries(20, 10).unwrap();
    }

    #[test]
    fn what_a_turn_records_makes_another_database_equal() {
        let (mut leader, mut standby) = (Store::memory().unwrap(), Store::memory().unwrap());
        leader.start_recording();
        leader.begin_call();
        work(&mut leader);
        leader.end_call().unwrap();
        leader.begin_call();
        store_and_fail(&mut leader);
        let first = leader.seal(AT).unwrap().unwrap();
        leader.commit().unwrap();
        assert_eq!(leader.recorded_size(), 0);
        leader.add_message(&mut message("d", "b", 31)).unwrap();
        let second = leader.seal(AT).unwrap().unwrap();
        leader.commit().unwrap();
        standby.apply([&first, &second]).unwrap();
        assert_eq!(rows(&standby), rows(&leader));
        assert_eq!(standby.counters, leader.counters);
        assert_eq!((standby.log_position().unwrap(), standby.last_time().unwrap()), (Some(AT), 40));
        assert!(rows(&leader).len() > 10, "{:?}", rows(&leader));
        // The standby gives the next message the same number that the leader would give it.
        let mut next = message("b", "d", 40);
        standby.add_message(&mut next).unwrap();
        assert_eq!((next.seq.0, standby.count_unread(&"d".into()).unwrap()), (5, 1));
    }

    fn store_and_fail(store: &mut Store) {
        store.add_message(&mut message("failed", "call", 31)).unwrap();
        store.undo_call().unwrap();
    }

    #[test]
    fn a_turn_without_writes_records_nothing_and_a_lost_one_is_forgotten() {
        let mut store = Store::memory().unwrap();
        store.start_recording();
        assert_eq!(store.seal(AT).unwrap(), None);
        store.set_meta("lost", "1").unwrap();
        store.rollback();
        store.set_meta("kept", "1").unwrap();
        let changes = store.seal(AT).unwrap().unwrap();
        store.commit().unwrap();
        let mut other = Store::memory().unwrap();
        other.apply([&changes]).unwrap();
        assert_eq!((other.meta("kept").unwrap().as_deref(), other.meta("lost").unwrap()), (Some("1"), None));
    }

    #[test]
    fn changes_that_fail_in_the_middle_change_nothing() {
        let mut store = Store::memory().unwrap();
        let mut recorder = Recorder::default();
        let insert = "INSERT INTO meta(name,value) VALUES (?,?)";
        recorder.add(insert, rusqlite::params!["once", "1"]).unwrap();
        let once = recorder.take();
        recorder.add(insert, rusqlite::params!["other", "1"]).unwrap();
        recorder.add(insert, rusqlite::params!["once", "1"]).unwrap();
        let twice = recorder.take();
        store.apply([&once]).unwrap();
        let before = rows(&store);
        for hostile in ["ATTACH DATABASE '/tmp/x' AS x", "DROP TABLE meta", "PRAGMA user_version = 7"] {
            recorder.add(hostile, &[]).unwrap();
            let hostile = recorder.take();
            assert!(store.apply([&hostile]).is_err());
        }
        recorder.add(insert, rusqlite::params!["too few values"]).unwrap();
        let too_few = recorder.take();
        for wrong in [&twice, &too_few] {
            assert!(store.apply([wrong]).is_err());
            assert_eq!(rows(&store), before);
        }
        store.set_meta("after", "1").unwrap();
        assert!(store.commit().unwrap());
    }
}
