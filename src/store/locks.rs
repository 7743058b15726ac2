//! Locks on disk, one row a path; the paths of one grant share its fencing token.

use super::{Store, StoreResult};
use rusqlite::params;

/// One locked path.
#[derive(Debug, Clone, PartialEq)]
pub struct LockRow {
    /// Fencing token of the grant.
    pub token: i64,
    /// Normal absolute path, folder (ends in `/`) or glob.
    pub path: String,
    /// Peer id of the holder.
    pub holder: String,
    /// Key of the invocation that alone owns it, or "" when the peer does.
    pub bound: String,
    /// Why, for others to read.
    pub reason: String,
    /// Machine whose file system the path is of.
    pub host: String,
    /// Repository identity, if the path lies in one.
    pub repo: Option<String>,
    /// Path inside the repository.
    pub rel: Option<String>,
    /// Whether it holds in every work tree of the repository.
    pub everywhere: bool,
    /// When granted, ms.
    pub taken: i64,
    /// When it falls unless renewed, ms.
    pub expires: i64,
}

impl Store {
    /// All locks on disk, in the order in which they were granted.
    pub fn locks(&self) -> StoreResult<Vec<LockRow>> {
        let sql = "SELECT token, path, holder, bound, reason, host, repo, rel, everywhere, taken, expires \
                   FROM lock ORDER BY token, path";
        let mut read = self.db.prepare_cached(sql)?;
        let rows = read.query_map([], |row| {
            Ok(LockRow {
                token: row.get(0)?,
                path: row.get(1)?,
                holder: row.get(2)?,
                bound: row.get(3)?,
                reason: row.get(4)?,
                host: row.get(5)?,
                repo: row.get(6)?,
                rel: row.get(7)?,
                everywhere: row.get(8)?,
                taken: row.get(9)?,
                expires: row.get(10)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The next fencing token; it is never given twice.
    pub fn next_token(&mut self) -> i64 {
        self.counters.token_last += 1;
        self.counters.token_last
    }

    /// Writes a lock, new or renewed.
    pub fn put_lock(&mut self, l: &LockRow) -> StoreResult<()> {
        self.writing()?;
        let sql = "INSERT OR REPLACE INTO lock VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11)";
        self.db.prepare_cached(sql)?.execute(params![
            l.token,
            l.path,
            l.holder,
            l.bound,
            l.reason,
            l.host,
            l.repo,
            l.rel,
            l.everywhere,
            l.taken,
            l.expires
        ])?;
        Ok(())
    }

    /// Removes one path of a grant.
    pub fn drop_lock(&mut self, token: i64, path: &str) -> StoreResult<()> {
        self.writing()?;
        self.db.prepare_cached("DELETE FROM lock WHERE token = ?1 AND path = ?2")?.execute(params![token, path])?;
        Ok(())
    }
}
