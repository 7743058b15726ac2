//! The steps that create the tables of the database and upgrade the tables of an older file.

use super::{StoreError, StoreResult};
use rusqlite::{Connection, TransactionBehavior};

/// The numbered steps that lead from an empty file to the tables of this version. `user_version` says how many of
/// them have been applied to a file.
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
];

/// Applies the steps that a file lacks, each in its own transaction.
///
/// # Errors
/// When the file has the tables of a newer version, or can't be written.
pub(super) fn migrate(db: &mut Connection, migrations: &[&str]) -> StoreResult<()> {
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let newest = migrations.len() as i64;
    if version > newest {
        return Err(StoreError::Newer(version, newest));
    }
    for (n, sql) in (version + 1..).zip(&migrations[version.max(0) as usize..]) {
        let step = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        step.execute_batch(sql)?;
        step.pragma_update(None, "user_version", n)?;
        step.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    #[test]
    fn an_older_database_is_upgraded_and_a_newer_one_refused() {
        let file = std::env::temp_dir().join(format!("slm-mesh-migrate-{}.db", std::process::id()));
        migrate(&mut Connection::open(&file).unwrap(), &MIGRATIONS[..1]).unwrap();
        let store = Store::open(&file, false).unwrap();
        let version: i64 = store.db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, MIGRATIONS.len() as i64);
        store.db.pragma_update(None, "user_version", 99).unwrap();
        drop(store);
        let refused = Store::open(&file, false).unwrap_err();
        assert!(matches!(refused, StoreError::Newer(99, _)), "{refused}");
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", file.display()));
        }
        let _ = std::fs::remove_file(file.with_extension("numbers"));
    }
}
