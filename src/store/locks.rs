//! Locks, as rows in the database. Each locked path is one row. The paths of one grant share a fencing token.

use super::named_columns::{placeholder, upsert_row};
use super::peers::unknown_word;
use super::{Store, StoreResult};
use crate::base::ids::PeerId;
use crate::base::stored_enums::LockOwner;
use rusqlite::{Row, params};

/// One locked path.
#[derive(Debug, Clone, PartialEq)]
pub struct LockRow {
    /// The fencing token of the grant.
    pub token: i64,
    /// An absolute path in normal form: a file, a folder (ends in `/`) or a glob.
    pub path: String,
    /// The peer that holds the lock.
    pub holder: PeerId,
    /// Who owns the lock: the peer itself, or a turn, a subagent or a command of the peer.
    pub owner: LockOwner,
    /// The reason that the holder gives to other peers.
    pub reason: String,
    /// The machine whose file system contains the path.
    pub host: String,
    /// The identity of the repository, if the path is in one.
    pub repo: Option<String>,
    /// The path relative to the root of the repository.
    pub repo_path: Option<String>,
    /// Whether the lock applies in every work tree of the repository.
    pub all_worktrees: bool,
    /// When the lock was granted, in ms.
    pub granted: i64,
    /// When the lock expires unless it is renewed, in ms.
    pub expires: i64,
}

fn read(row: &Row<'_>) -> rusqlite::Result<LockRow> {
    let owner: String = row.get("owner")?;
    Ok(LockRow {
        token: row.get("token")?,
        path: row.get("path")?,
        holder: row.get::<_, String>("holder")?.into(),
        owner: LockOwner::from_text(&owner).ok_or_else(|| unknown_word("owner", &owner))?,
        reason: row.get("reason")?,
        host: row.get("host")?,
        repo: row.get("repo")?,
        repo_path: row.get("repo_path")?,
        all_worktrees: row.get("all_worktrees")?,
        granted: row.get("granted")?,
        expires: row.get("expires")?,
    })
}

impl Store {
    /// Whether the table of locks contains a lock. Such a lock is in force now, or was in force when the last broker
    /// ended.
    pub fn has_locks(&self) -> StoreResult<bool> {
        Ok(self.db.query_row("SELECT EXISTS (SELECT 1 FROM lock)", [], |row| row.get(0))?)
    }

    /// All locks, in the order in which they were granted.
    pub fn locks(&self) -> StoreResult<Vec<LockRow>> {
        let mut query = self.db.prepare_cached("SELECT * FROM lock ORDER BY token, path")?;
        Ok(query.query_map([], read)?.collect::<rusqlite::Result<_>>()?)
    }

    /// Returns the next fencing token. No token is used twice.
    pub fn next_token(&mut self) -> i64 {
        self.counters.token_last += 1;
        self.counters.token_last
    }

    /// Stores a new or a renewed lock.
    pub fn put_lock(&mut self, l: &LockRow) -> StoreResult<()> {
        upsert_row!(self, "lock", { "token": l.token, "path": l.path }, {
            "holder": l.holder.as_str(),
            "owner": l.owner.to_text(),
            "reason": l.reason,
            "host": l.host,
            "repo": l.repo,
            "repo_path": l.repo_path,
            "all_worktrees": l.all_worktrees,
            "granted": l.granted,
            "expires": l.expires,
        })?;
        Ok(())
    }

    /// Removes one path of a grant.
    pub fn drop_lock(&mut self, token: i64, path: &str) -> StoreResult<()> {
        self.write("DELETE FROM lock WHERE token = ?1 AND path = ?2", params![token, path])?;
        Ok(())
    }
}
