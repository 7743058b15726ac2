//! The steps that create the tables of the database and upgrade the tables of an older file.

use super::{Store, StoreError, StoreResult};
use rusqlite::{Connection, TransactionBehavior};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

/// Creates all tables of a new file. This takes a tenth of the time that the numbered steps would take.
const SCHEMA: &str = include_str!("schema.sql");

/// The numbered steps that turn an empty file into a database of this version. The `user_version` of a file is the
/// number of steps that have been applied to the file.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/1.sql"),
    include_str!("migrations/2.sql"),
    include_str!("migrations/3.sql"),
    include_str!("migrations/4.sql"),
    include_str!("migrations/5.sql"),
    include_str!("migrations/6.sql"),
    include_str!("migrations/7.sql"),
    include_str!("migrations/8.sql"),
    include_str!("migrations/9.sql"),
    include_str!("migrations/10.sql"),
    include_str!("migrations/11.sql"),
    include_str!("migrations/12.sql"),
];

/// The oldest version whose changes can be applied to tables of the newest version. A step that removes or renames a
/// column raises this number.
pub(super) const REPLAYABLE_SINCE: u32 = 12;

/// Creates the tables of a new file, or upgrades an older file. Each missing step is applied in a separate transaction.
///
/// # Errors
/// When the file has the tables of a newer version, or can't be written.
pub(super) fn migrate(db: &mut Connection) -> StoreResult<()> {
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let newest = MIGRATIONS.len() as i64;
    if version > newest {
        return Err(StoreError::Newer(version, newest));
    }
    if version <= 0 {
        return apply(db, SCHEMA, newest);
    }
    upgrade(db, version as usize..MIGRATIONS.len())
}

impl Store {
    /// Refuses a database file whose tables a newer slm-mesh has made. Does not change or create any file.
    ///
    /// # Errors
    /// `Newer` if the version in the header is newer than this program's.
    pub fn refuse_newer(path: &Path) -> StoreResult<()> {
        let newest = MIGRATIONS.len() as i64;
        version_in_header(path)
            .filter(|version| *version > newest)
            .map_or(Ok(()), |version| Err(StoreError::Newer(version, newest)))
    }

    /// Whether [`Store::open`] will upgrade the tables of this file, which may take long.
    pub fn needs_upgrade(path: &Path) -> bool {
        version_in_header(path).is_some_and(|version| (1..MIGRATIONS.len() as i64).contains(&version))
    }
}

/// Reads the version of the tables from the file's header (<https://sqlite.org/fileformat.html#the_database_header>).
/// A file that can't be read or is not a database is a different fault, which the broker handles.
fn version_in_header(path: &Path) -> Option<i64> {
    let mut header = [0; 64];
    File::open(path).and_then(|mut file| file.read_exact(&mut header)).ok()?;
    let version = u32::from_be_bytes([header[60], header[61], header[62], header[63]]);
    header.starts_with(b"SQLite format 3\0").then_some(i64::from(version))
}

/// Creates tables in a new file. The tables have the format of version `version`.
pub(super) fn create(db: &mut Connection, version: usize) -> StoreResult<()> {
    if version == MIGRATIONS.len() { apply(db, SCHEMA, version as i64) } else { upgrade(db, 0..version) }
}

/// Applies the numbered steps in this range.
pub(super) fn upgrade(db: &mut Connection, mut steps: Range<usize>) -> StoreResult<()> {
    steps.try_for_each(|n| apply(db, MIGRATIONS[n], n as i64 + 1))
}

/// Applies a step, and stores `version` in the file as the version of its tables.
fn apply(db: &mut Connection, sql: &str, version: i64) -> StoreResult<()> {
    let step = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    step.execute_batch(sql)?;
    step.pragma_update(None, "user_version", version)?;
    Ok(step.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::path_suffix::with_suffix;

    /// The definitions of all tables and indexes, without quotes and white space.
    fn definitions(db: &Connection) -> Vec<String> {
        let mut query = db.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").unwrap();
        let found = query.query_map([], |row| row.get::<_, String>(0)).unwrap();
        found.map(|sql| sql.unwrap().replace(|c: char| c == '"' || c.is_whitespace(), "")).collect()
    }

    #[test]
    fn a_new_database_has_the_tables_of_an_upgraded_one() {
        let (mut new, mut upgraded) = (Connection::open_in_memory().unwrap(), Connection::open_in_memory().unwrap());
        migrate(&mut new).unwrap();
        upgrade(&mut upgraded, 0..MIGRATIONS.len()).unwrap();
        assert_eq!(definitions(&new), definitions(&upgraded));
        let version = |db: &Connection| db.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(version(&new), version(&upgraded));
    }

    #[test]
    fn the_events_of_an_older_database_are_found_by_entry_and_by_type() {
        let mut db = Connection::open_in_memory().unwrap();
        upgrade(&mut db, 0..10).unwrap();
        db.execute_batch(
            "INSERT INTO state VALUES ('n', 'k', 'v3', 3, 'a', 5, NULL), ('é', 'k', 'w', 1, 'a', 5, NULL)",
        )
        .unwrap();
        let keys = [Some("1 nk"), None, Some("2 ék"), Some("1 nk"), Some("1 nk")];
        for (seq, key) in (60..).zip(keys) {
            let kind = if key.is_some() { "state_changed" } else { "file_locked" };
            let values = rusqlite::params![seq, kind, key];
            db.execute("INSERT INTO event VALUES (?1, ?2, 'a', 1, '{}', ?3)", values).unwrap();
        }
        migrate(&mut db).unwrap();
        let list = |sql: &str| -> Vec<(String, Option<i64>)> {
            let mut query = db.prepare(sql).unwrap();
            query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
        };
        let of_entries = list("SELECT namespace, last_event FROM state ORDER BY namespace");
        assert_eq!(of_entries, [("n".into(), Some(64)), ("é".into(), Some(62))]);
        let links: Vec<Option<i64>> =
            list("SELECT type, earlier FROM event ORDER BY seq").into_iter().map(|(_, earlier)| earlier).collect();
        assert_eq!(links, [None, None, None, Some(60), Some(63)]);
        let blocks = list("SELECT type, block FROM event_block ORDER BY type, block");
        let expected = [("file_locked", 0), ("state_changed", 0), ("state_changed", 1)];
        assert_eq!(blocks, expected.map(|(kind, block)| (kind.to_owned(), Some(block))));
    }

    #[test]
    fn the_keys_of_a_session_get_columns_of_their_own() {
        let mut db = Connection::open_in_memory().unwrap();
        upgrade(&mut db, 0..11).unwrap();
        let keys = ["", "one", r#"["one","two","three"]"#, r#"["[strange"]"#, r#"["a\"b","c"]"#];
        for (n, key) in keys.iter().enumerate() {
            db.execute(
                "INSERT INTO peer VALUES (?1, 'n', 'session', 'a', '/', NULL, NULL, NULL, '', 'h', ?1, NULL, ?2, 1, 1, 0, \
                 NULL, NULL, NULL, NULL)",
                rusqlite::params![n as i64, key],
            )
            .unwrap();
        }
        migrate(&mut db).unwrap();
        let mut query = db.prepare("SELECT pid, session_key, older_session_keys FROM peer ORDER BY id").unwrap();
        let rows =
            query.query_map([], |row| Ok((row.get("pid")?, row.get("session_key")?, row.get("older_session_keys")?)));
        let rows: Vec<(Option<i64>, Option<String>, Option<String>)> = rows.unwrap().map(Result::unwrap).collect();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(rows[0], (None, None, None));
        assert_eq!(rows[1], (Some(1), text("one"), None));
        assert_eq!(rows[2], (Some(2), text("three"), text(r#"["one","two"]"#)));
        assert_eq!(rows[3], (Some(3), text("[strange"), None));
        assert_eq!(rows[4], (Some(4), None, None));
    }

    #[test]
    fn sentences_and_empty_texts_of_an_older_database_become_columns() {
        let mut db = Connection::open_in_memory().unwrap();
        upgrade(&mut db, 0..11).unwrap();
        db.execute_batch(
            "INSERT INTO wakeup VALUES (1, 1, 'a', 'rang'), (2, 1, 'a', 'sent'), (3, 1, 'a', 'failed: no socket'),
               (4, 1, '', 'held back: a circle'), (5, 1, 'a', 'started');
             INSERT INTO state VALUES ('', '7', NULL, 2, 'a', 5, NULL, 7), ('n', 'k', 'v', 1, 'a', 5, NULL, 9);
             INSERT INTO message(seq, sender, recipient, recipient_group, type, body, created, state, bytes_read, rejection)
               VALUES (1, 1, 2, '', 'text', 'one', 1, 0, 0, 'no answer'), (2, 1, 2, '#api', 'text', 'two', 1, 6, 0, 'no');",
        )
        .unwrap();
        migrate(&mut db).unwrap();
        let list = |sql: &str| -> Vec<String> {
            let mut query = db.prepare(sql).unwrap();
            query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        let wakeups = list("SELECT outcome || ' ' || coalesce(reason, '-') FROM wakeup ORDER BY seq");
        assert_eq!(wakeups, ["sent -", "sent -", "failed no socket", "held_back -", "failed started"]);
        let messages = "SELECT coalesce(recipient_group, '-') || ' ' || coalesce(rejection, '-') || ' ' || \
                        coalesce(unclear, '-') FROM message ORDER BY seq";
        assert_eq!(list(messages), ["- - no answer", "#api no -"]);
        assert_eq!(list("SELECT namespace FROM state"), ["n"]);
        assert_eq!(list("SELECT CAST(last_event AS TEXT) FROM remaining_values"), ["7"]);
    }

    #[test]
    fn an_older_database_is_upgraded_and_a_newer_one_refused() {
        let file = std::env::temp_dir().join(format!("slm-mesh-migrate-{}.db", std::process::id()));
        upgrade(&mut Connection::open(&file).unwrap(), 0..1).unwrap();
        let store = Store::open(&file, false).unwrap();
        let version: i64 = store.db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, MIGRATIONS.len() as i64);
        store.db.pragma_update(None, "user_version", 99).unwrap();
        drop(store);
        let refused = Store::open(&file, false).unwrap_err();
        assert!(matches!(refused, StoreError::Newer(99, _)), "{refused}");
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(with_suffix(&file, suffix));
        }
        let _ = std::fs::remove_file(file.with_extension("numbers"));
    }
}
