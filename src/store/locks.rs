//! The table of locks. Each row is one locked path. If a grant contains several paths, all of them have the same
//! fencing token.

use super::named_columns::{placeholder, upsert_row};
use super::peers::unknown_word;
use super::{Store, StoreResult};
use crate::base::domain_enums::LockOwner;
use crate::base::id_types::{FencingToken, PeerId};
use rusqlite::{Row, params};

/// One locked path.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LockRow {
    /// The fencing token of the grant to which this path belongs.
    pub token: FencingToken,
    /// The absolute, normalised path of a file or a folder, or a glob. The path of a folder ends with a slash.
    pub path: String,
    /// The peer that holds the lock.
    pub holder: PeerId,
    /// The owner of the lock: the peer itself, or one of the peer's turns, subagents or commands.
    pub owner: LockOwner,
    /// Why the holder needs the lock. Other peers see this text.
    pub reason: String,
    /// The machine whose file system contains the path.
    pub host: String,
    /// The identity of the repository that contains the path. `None` if no repository contains the path.
    pub repo: Option<String>,
    /// The path relative to the root of the repository.
    pub repo_path: Option<String>,
    /// Whether the lock applies to the same file in all work trees of the repository.
    pub all_worktrees: bool,
    /// When the lock was granted, in ms.
    pub granted: i64,
    /// The time, in ms, at which the lock expires unless it is renewed.
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
    /// Whether the table contains any locks. When a broker starts, the table contains the locks from the previous
    /// broker.
    pub fn has_locks(&self) -> StoreResult<bool> {
        Ok(self.db.query_row("SELECT EXISTS (SELECT 1 FROM lock)", [], |row| row.get(0))?)
    }

    /// All locks, in the order in which they were granted.
    pub fn locks(&self) -> StoreResult<Vec<LockRow>> {
        let mut query = self.db.prepare_cached("SELECT * FROM lock ORDER BY token, path")?;
        Ok(query.query_map([], read)?.collect::<rusqlite::Result<_>>()?)
    }

    /// The last fencing token that was granted.
    pub fn last_token(&self) -> FencingToken {
        self.counters.token_last
    }

    /// Returns a new fencing token, which is higher than all earlier tokens.
    pub fn next_token(&mut self) -> FencingToken {
        self.counters.token_last = self.counters.token_last.next();
        self.counters.token_last
    }

    /// Stores a new or renewed lock.
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

    /// Stores a machine's new name in the rows of all locks on this machine.
    pub fn rename_host_of_locks(&mut self, former: &str, host: &str) -> StoreResult<()> {
        self.write("UPDATE lock SET host = ?2 WHERE host = ?1", params![former, host])?;
        Ok(())
    }

    /// Removes a locked path. The other paths of the same grant stay locked.
    pub fn drop_lock(&mut self, token: FencingToken, path: &str) -> StoreResult<()> {
        self.write("DELETE FROM lock WHERE token = ?1 AND path = ?2", params![token, path])?;
        Ok(())
    }
}
