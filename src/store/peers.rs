//! The table of peers. It has a row for each known peer, online or offline.

use super::named_columns::{placeholder, upsert_row};
use super::{Store, StoreResult};
use crate::base::domain_enums::PeerKind;
use crate::base::id_types::{MeshUrl, PeerId};
use crate::base::process_identity::Process;
use rusqlite::{Row, types::Type};
use serde_json::json;

/// The stored data of a peer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PeerRow {
    /// The id of the peer.
    pub id: PeerId,
    /// The name that people and agents type.
    pub name: String,
    /// The kind of the peer, and the data that only this kind of peer has.
    pub kind: PeerKind,
    /// Earlier keys of the session, oldest first. The agent may still use them.
    pub older_keys: Vec<String>,
    /// The agent type, such as `claude-code`. `unknown` if the type is not known.
    pub agent: String,
    /// The absolute path of the working directory.
    pub project: String,
    /// The root of the git work tree, as reported by the client.
    pub git_root: Option<String>,
    /// The git branch, as reported by the client.
    pub git_branch: Option<String>,
    /// The identity that all work trees of one repository share.
    pub repo: Option<String>,
    /// The peer's own summary of its work.
    pub summary: String,
    /// The path of the agent's transcript of this session, as reported by the agent's hooks. The path is not trusted,
    /// so callers must check it before they open the file.
    pub transcript: Option<String>,
    /// The machine on which the peer runs.
    pub host: String,
    /// The process id of the peer's MCP server or HTTP client on that machine; `None` if only hooks and subcommands have
    /// acted for the peer.
    pub pid: Option<i64>,
    /// The agent's process. It is known if the session was registered by the agent's hooks, or by an slm-mesh command
    /// in the agent's shell.
    pub process: Option<Process>,
    /// When the peer was first seen, in ms.
    pub first_seen: i64,
    /// When the peer was last seen, in ms. If the peer is online, this is the time at which the row was written.
    pub last_seen: i64,
    /// Whether the peer was online when the row was written.
    pub online: bool,
}

impl PeerRow {
    /// The newest key of this session, if the agent has given it a key.
    pub fn session_key(&self) -> Option<&str> {
        match &self.kind {
            PeerKind::Session { key } => key.as_deref(),
            _ => None,
        }
    }

    /// The Unix socket on which a client of the old HTTP API receives pushes.
    pub fn push_socket(&self) -> Option<&str> {
        match &self.kind {
            PeerKind::Http { push_socket } => push_socket.as_deref(),
            _ => None,
        }
    }

    /// The mesh to which a linked peer belongs.
    pub fn mesh(&self) -> Option<&MeshUrl> {
        match &self.kind {
            PeerKind::Linked { mesh } => Some(mesh),
            _ => None,
        }
    }

    /// Whether this is a session of an agent.
    pub fn is_session(&self) -> bool {
        matches!(self.kind, PeerKind::Session { .. })
    }

    /// Whether this is a client of the old HTTP API.
    pub fn is_http(&self) -> bool {
        matches!(self.kind, PeerKind::Http { .. })
    }

    /// Whether this is a peer of another mesh.
    pub fn is_linked(&self) -> bool {
        matches!(self.kind, PeerKind::Linked { .. })
    }
}

fn read_kind(row: &Row<'_>) -> rusqlite::Result<PeerKind> {
    let word: String = row.get("kind")?;
    Ok(match word.as_str() {
        "session" => PeerKind::Session { key: row.get("session_key")? },
        "human" => PeerKind::Human,
        "http" => PeerKind::Http { push_socket: row.get("push_socket")? },
        "link" => PeerKind::Linked { mesh: row.get::<_, Option<String>>("mesh_url")?.unwrap_or_default().into() },
        other => return Err(unknown_word("kind", other)),
    })
}

/// The error for an unknown value in a column.
pub(super) fn unknown_word(column: &str, word: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, format!("{column}: unknown value {word:?}").into())
}

fn read_process(row: &Row<'_>) -> rusqlite::Result<Option<Process>> {
    let (pid, start): (Option<i64>, Option<i64>) = (row.get("agent_pid")?, row.get("agent_start")?);
    let process = |(pid, start): (i64, i64)| Process { pid, start: start.cast_unsigned(), wrapper: false, agent: None };
    Ok(pid.zip(start).map(process))
}

fn read(row: &Row<'_>) -> rusqlite::Result<PeerRow> {
    let older_keys: Option<String> = row.get("older_session_keys")?;
    Ok(PeerRow {
        id: row.get::<_, String>("id")?.into(),
        name: row.get("name")?,
        kind: read_kind(row)?,
        older_keys: older_keys.and_then(|list| serde_json::from_str(&list).ok()).unwrap_or_default(),
        agent: row.get("agent")?,
        project: row.get("project")?,
        git_root: row.get("git_root")?,
        git_branch: row.get("git_branch")?,
        repo: row.get("repo")?,
        summary: row.get("summary")?,
        transcript: row.get("transcript")?,
        host: row.get("host")?,
        pid: row.get("pid")?,
        process: read_process(row)?,
        first_seen: row.get("first_seen")?,
        last_seen: row.get("last_seen")?,
        online: row.get("online")?,
    })
}

impl Store {
    /// All known peers, in the order in which they were first seen.
    pub fn peers(&self) -> StoreResult<Vec<PeerRow>> {
        let mut query = self.db.prepare_cached("SELECT * FROM peer ORDER BY first_seen, id")?;
        Ok(query.query_map([], read)?.collect::<rusqlite::Result<_>>()?)
    }

    /// Stores a machine's new name in the rows of all peers on this machine, except the peers of linked meshes.
    pub fn rename_host_of_peers(&mut self, former: &str, host: &str) -> StoreResult<()> {
        self.write("UPDATE peer SET host = ?2 WHERE host = ?1 AND mesh_url IS NULL", rusqlite::params![former, host])?;
        Ok(())
    }

    /// Stores a new or changed peer.
    pub fn put_peer(&mut self, p: &PeerRow) -> StoreResult<()> {
        upsert_row!(self, "peer", { "id": p.id.as_str() }, {
            "name": p.name,
            "kind": p.kind.word(),
            "agent": p.agent,
            "project": p.project,
            "git_root": p.git_root,
            "git_branch": p.git_branch,
            "repo": p.repo,
            "summary": p.summary,
            "transcript": p.transcript,
            "host": p.host,
            "pid": p.pid,
            "agent_pid": p.process.map(|process| process.pid),
            "agent_start": p.process.map(|process| process.start.cast_signed()),
            "push_socket": p.push_socket(),
            "session_key": p.session_key(),
            "older_session_keys": (!p.older_keys.is_empty()).then(|| json!(p.older_keys).to_string()),
            "mesh_url": p.mesh().map(MeshUrl::as_str),
            "first_seen": p.first_seen,
            "last_seen": p.last_seen,
            "online": p.online,
        })?;
        Ok(())
    }

    /// Forgets a peer.
    pub fn drop_peer(&mut self, id: &PeerId) -> StoreResult<()> {
        self.write("DELETE FROM peer WHERE id = ?1", &[&id])?;
        Ok(())
    }
}
