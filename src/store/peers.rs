//! Peers on disk: who is known, here or away.

use super::{Store, StoreResult};
use rusqlite::{Row, params};

/// A peer's durable row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PeerRow {
    /// UUID v4, as text.
    pub id: String,
    /// What people and agents type.
    pub name: String,
    /// `session`, `human`, `http`, or `link` for one of another mesh.
    pub kind: String,
    /// Agent type: `claude-code`, `codex`, …, `unknown`.
    pub agent: String,
    /// Absolute path of the working directory.
    pub project: String,
    /// Root of the git work tree, as the client gave it.
    pub git_root: Option<String>,
    /// Branch, as the client gave it.
    pub git_branch: Option<String>,
    /// What makes two work trees the same repository.
    pub repo: Option<String>,
    /// What the peer says it does.
    pub summary: String,
    /// The machine it runs on.
    pub host: String,
    /// Process id on that machine.
    pub pid: i64,
    /// Unix socket on which an HTTP peer takes pushes.
    pub uds_path: Option<String>,
    /// The agent's own key for this session, or ""; the address of its mesh where that is another one.
    pub session: String,
    /// First seen, ms.
    pub started: i64,
    /// Last seen when it went away, or when the row was written, ms.
    pub seen: i64,
    /// Whether it was here when the row was written.
    pub here: bool,
}

fn read(row: &Row<'_>) -> rusqlite::Result<PeerRow> {
    Ok(PeerRow {
        id: row.get(0)?,
        name: row.get(1)?,
        kind: row.get(2)?,
        agent: row.get(3)?,
        project: row.get(4)?,
        git_root: row.get(5)?,
        git_branch: row.get(6)?,
        repo: row.get(7)?,
        summary: row.get(8)?,
        host: row.get(9)?,
        pid: row.get(10)?,
        uds_path: row.get(11)?,
        session: row.get(12)?,
        started: row.get(13)?,
        seen: row.get(14)?,
        here: row.get(15)?,
    })
}

impl Store {
    /// All known peers, oldest first.
    pub fn peers(&self) -> StoreResult<Vec<PeerRow>> {
        let sql = "SELECT id, name, kind, agent, project, git_root, git_branch, repo, summary, host, pid, \
                   uds_path, session, started, seen, here FROM peer ORDER BY started, id";
        let rows = self.db.prepare_cached(sql)?.query_map([], read)?.collect::<rusqlite::Result<_>>()?;
        Ok(rows)
    }

    /// Writes a peer's row, new or changed.
    pub fn put_peer(&mut self, p: &PeerRow) -> StoreResult<()> {
        self.writing()?;
        let sql = "INSERT OR REPLACE INTO peer VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16)";
        self.db.prepare_cached(sql)?.execute(params![
            p.id,
            p.name,
            p.kind,
            p.agent,
            p.project,
            p.git_root,
            p.git_branch,
            p.repo,
            p.summary,
            p.host,
            p.pid,
            p.uds_path,
            p.session,
            p.started,
            p.seen,
            p.here
        ])?;
        Ok(())
    }

    /// Forgets a peer.
    pub fn drop_peer(&mut self, id: &str) -> StoreResult<()> {
        self.writing()?;
        self.db.prepare_cached("DELETE FROM peer WHERE id = ?1")?.execute([id])?;
        Ok(())
    }
}
