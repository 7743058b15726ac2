//! Peers: which peers are online, what their names are, and which peer a caller is.
//!
//! A peer is a durable row, and a session attaches to it over a connection. A client of the old HTTP API is online
//! while its heartbeats come. A peer of a linked mesh is online while that mesh lists it.
//!
//! **Invariant:** only this module writes the peers and their connections, in memory and on disk.

pub mod announced_tool_calls;
mod attachments;
pub(in crate::core) mod caller_resolver;
pub mod decline_takeover;
pub mod http_registration;
pub(in crate::core) mod linked_peers;
mod name_lookup;
mod peer_table;
mod presence;
mod retention;
pub mod sessions;

pub use linked_peers::LinkedPeer;

use super::journal::{Change, Journal};
use super::locks::Locks;
use super::mail::Mail;
use super::op::ArgKind;
use super::pagination::Page;
use super::transaction::Turn;
use super::{Arg, Args, Auth, CallContext, CliPlace, ConnId, Mesh, MeshSettings, Op, Outcome, pagination};
use crate::base::error::Error;
use crate::base::ids::{PeerId, uuid};
use crate::base::kinds::PeerKind;
use crate::base::process::Process;
use crate::base::{limits, time};
use crate::store::{PeerRow, Store};
use attachments::Attachments;
use peer_table::PeerTable;
use serde_json::{Value, json};
use std::rc::Rc;

/// A peer, with facts that are kept only in memory.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The durable row of the peer.
    pub row: PeerRow,
    /// How many connections act for the peer and answer.
    pub connections: usize,
    /// When the last heartbeat of a client of the old HTTP API came, in ms.
    pub last_heartbeat: i64,
    /// When the peer made its last call, in ms.
    pub last_active: i64,
    /// When the peer lost its last connection, until its grace period ends, in ms.
    pub offline_since: Option<i64>,
    /// Whether the peer was online when an earlier broker ended and has not left since.
    pub unconfirmed: bool,
    /// Whether the kernel reports the end of the peer's agent process. The peer is online until then.
    pub is_watched: bool,
    /// Whether none of the peer's connections answers, because the program is stopped or hangs.
    pub is_silent: bool,
    /// Whether the peer has left and shown no activity since.
    pub has_left: bool,
    /// When the peer's hooks last showed that a turn is running, in ms.
    pub turn_active_at: Option<i64>,
    /// Whether the agent said that the session has ended, and has shown no new beginning since.
    pub has_ended: bool,
    /// The notice for the peer's next answer: it took over the name and the mail of an earlier session.
    pub takeover_notice: Option<String>,
    /// Whether the peer took over the name of an earlier session, so that it may decline the name.
    pub took_over_name: bool,
    /// Whether slm-mesh knows the peer's agent. Hooks of an unknown agent may use any dialect.
    pub is_known_agent: bool,
}

impl Peer {
    /// A peer without a connection.
    pub fn new(row: PeerRow, now: i64) -> Peer {
        Peer {
            row,
            connections: 0,
            last_heartbeat: now,
            last_active: now,
            offline_since: None,
            unconfirmed: false,
            is_watched: false,
            is_silent: false,
            has_left: false,
            turn_active_at: None,
            has_ended: false,
            takeover_notice: None,
            took_over_name: false,
            is_known_agent: true,
        }
    }

    /// Whether the peer can be reached now.
    pub fn is_online(&self) -> bool {
        match self.row.kind {
            PeerKind::Session { .. } => self.connections > 0 || self.is_watched && !self.is_silent,
            PeerKind::Http { .. } | PeerKind::Linked { .. } => self.row.online,
            PeerKind::Human => false,
        }
    }

    /// Whether the session has ended or hangs: its connection is gone or silent, and no hook of a live agent calls
    /// for it.
    pub fn is_gone(&self) -> bool {
        let is_lost = self.offline_since.is_some() || self.row.process.is_none();
        self.row.is_session() && !self.is_online() && is_lost
    }

    /// Whether this is the peer's agent process, as hooks or verbs have shown.
    fn is_run_by(&self, process: &Process) -> bool {
        self.row.process.is_some_and(|known| known.is_same(process))
    }

    /// Whether the agent uses this key for the session.
    fn has_key(&self, key: &str) -> bool {
        self.row.session_key() == Some(key) || self.row.older_keys.iter().any(|known| known == key)
    }

    /// The word of the old HTTP API for the peer's state: `active`, `stale` or `away`.
    pub fn status(&self, settings: &MeshSettings, now: i64) -> &'static str {
        if self.row.is_http() && self.row.online && now - self.last_heartbeat >= settings.stale_ms {
            return "stale";
        }
        if self.is_online() { "active" } else { "away" }
    }

    /// When the peer changes its state next without an event, in ms.
    fn deadline(&self, settings: &MeshSettings) -> Option<i64> {
        if self.row.is_http() && self.row.online {
            return Some(self.last_heartbeat + settings.dead_ms);
        }
        let is_local = self.row.host == settings.host;
        let grace = if is_local { limits::GRACE_MS } else { limits::REMOTE_GRACE_MS };
        self.offline_since.map(|since| since + grace)
    }
}

/// Maximum number of rows in a page. The keys of one row alone have this many bytes.
const PAGE_ROWS: usize = limits::PAGE_MAX / 200;

const SCOPES: &[&str] = &["machine", "directory", "repo"];
const PATH: ArgKind = ArgKind::Text { min: 0, max: limits::PATH_MAX };

/// Lists peers.
pub static PEERS: Op = Op {
    name: "peers",
    summary: "List the agents on the mesh: name, agent, project, branch, current work, unread mail, locks",
    args: &[
        Arg::new(
            "scope",
            ArgKind::Choice(SCOPES),
            "machine: every agent (default); directory: same working directory; repo: same git repository",
        ),
        Arg::new("includeAway", ArgKind::Flag, "Also list offline peers; their mailboxes still accept mail")
            .short("all"),
        pagination::next_page(limits::WORD_MAX),
        Arg::new(
            "detail",
            ArgKind::Text { min: 1, max: 256 },
            "Only this peer, by name: what it does, with its last prompts and answers if it runs on your machine",
        )
        .at(CliPlace::Hidden),
        Arg::new("project", PATH, "Directory to compare with, if not the caller's own")
            .at(CliPlace::Hidden)
            .not_in_tool(),
        Arg::new("repo", PATH, "Repository to compare with, if not the caller's own")
            .at(CliPlace::Hidden)
            .not_in_tool(),
    ],
    actor: Auth::Optional,
    verb: Some("peers"),
    tool: Some(("peers", None)),
    repeatable: true,
    run: list,
};

/// Tells a caller who it is.
pub static WHOAMI: Op = Op {
    name: "whoami",
    summary: "Show who you act as: name, id, and whether you are an agent or the human",
    args: &[],
    actor: Auth::Required,
    verb: Some("whoami"),
    tool: None,
    repeatable: true,
    run: whoami,
};

/// Sets a peer's summary.
pub static SUMMARY: Op = Op {
    name: "summary",
    summary: "Tell the other agents what you are working on, in a line or two",
    args: &[Arg::new("summary", ArgKind::Units { max: limits::SUMMARY_MAX }, "What you are working on")
        .required()
        .at(CliPlace::Rest)],
    actor: Auth::Required,
    verb: Some("summary"),
    tool: Some(("summary", None)),
    repeatable: true,
    run: summary,
};

fn list(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, mail, locks, .. } = mesh;
    let me = ctx.actor.as_deref().and_then(|id| peers.get(id)).map(|peer| &peer.row);
    if let Some(name) = args.text("detail") {
        let id = peers.resolve(name)?;
        let peer = peers.get(&id).ok_or_else(|| no_peer(name))?;
        let row = peers.view(peer, &turn.store, mail, locks, ctx.now)?;
        let transcript = peers.transcript_of(peer, ctx.conn);
        return Ok(Outcome::Ready(json!({ "ok": true, "peers": [row], "transcript": transcript })));
    }
    let project = args.text("project").or(me.map(|me| me.project.as_str()));
    let repo = args.text("repo").or(me.and_then(|me| me.repo.as_deref()));
    let scope = args.word("scope");
    let fits = |peer: &&Peer| match scope {
        "directory" => Some(peer.row.project.as_str()) == project,
        "repo" if repo.is_some() => peer.row.repo.as_deref() == repo,
        // Outside a repository, peers are matched by their directory.
        "repo" => Some(peer.row.project.as_str()) == project,
        _ => true,
    };
    let offline_too = args.flag("includeAway").unwrap_or(false);
    let listed = |peer: &&Peer| Some(&peer.row.id) != ctx.actor.as_ref() && (offline_too || peer.is_online());
    // New peers sort after all others, so a page continues where the last page ended, even if peers came and went in
    // between.
    let mut found: Vec<&Peer> = peers.all().iter().filter(listed).filter(fits).collect();
    found.sort_by_key(|peer| cursor(peer));
    if let Some(after) = args.text("after") {
        let after = pagination::parse_cursor(after)?;
        found.retain(|peer| cursor(peer) > after);
    }
    let total = found.len();
    found.truncate(PAGE_ROWS);
    let mut page = Page::default();
    for peer in &found {
        let row = peers.view(peer, &turn.store, mail, locks, ctx.now)?;
        if !page.add(row) {
            break;
        }
    }
    let mut value = json!({ "ok": true });
    if let Some(me) = me {
        value["you"] = json!({ "id": me.id.as_str(), "name": me.name });
    }
    let last = page.len().checked_sub(1).map(|last| cursor(found[last]));
    pagination::add_cursor(&mut value, total - page.len(), last);
    value["peers"] = json!(page.into_rows());
    Ok(Outcome::Ready(value))
}

/// The position of a peer in a list.
fn cursor(peer: &Peer) -> (i64, &str) {
    (peer.row.first_seen, &peer.row.id)
}

fn whoami(mesh: &mut Mesh, ctx: &CallContext, _: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, mail, locks, .. } = mesh;
    let peer = peers.get(ctx.me()).ok_or_else(|| no_peer(ctx.me()))?;
    let you = peers.view(peer, &turn.store, mail, locks, ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true, "kind": peer.row.kind.word(), "you": you })))
}

fn summary(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, journal, rates, .. } = mesh;
    rates.charge(peers, ctx.me(), 1, ctx.now)?;
    peers.set_summary(turn, journal, ctx.me(), args.word("summary"), ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true })))
}

/// The error for an unknown peer.
pub fn no_peer(name: &str) -> Error {
    let name: String = name.chars().take(80).collect();
    Error::not_found(format!("no peer is called {name}; list the peers with mesh_peers (slm-mesh peers --all)"))
}

/// All peers, and the connections that act for them.
pub struct Peers {
    settings: Rc<MeshSettings>,
    /// Returns unpredictable random numbers.
    random: Box<dyn FnMut() -> u128 + Send>,
    /// Tells whether a process of this machine is alive.
    is_process_alive: Box<dyn Fn(i64) -> bool + Send>,
    peers: PeerTable,
    attachments: Attachments,
    /// Whether some process has had several sessions. Only then can it be unclear which session makes a call.
    has_shared_process: bool,
    /// Tool calls that hooks announced.
    announced: Vec<announced_tool_calls::AnnouncedCall>,
    /// The human at this machine.
    human: PeerId,
    /// A version for meshes that poll this one. It increases with every change of this mesh's own peers.
    roster_version: i64,
}

impl Peers {
    pub(super) fn new(settings: Rc<MeshSettings>, random: Box<dyn FnMut() -> u128 + Send>, now: i64) -> Peers {
        Peers {
            settings,
            random,
            is_process_alive: Box::new(|_| false),
            peers: PeerTable::default(),
            attachments: Attachments::default(),
            has_shared_process: false,
            announced: Vec::new(),
            human: PeerId::default(),
            roster_version: now,
        }
    }

    /// Sets the function that tells whether a process of this machine is alive.
    pub(super) fn set_process_probe(&mut self, is_alive: Box<dyn Fn(i64) -> bool + Send>) {
        self.is_process_alive = is_alive;
    }

    /// An unpredictable random number.
    pub(super) fn random(&mut self) -> u128 {
        (self.random)()
    }

    fn new_id(&mut self) -> PeerId {
        uuid(self.random()).into()
    }

    /// All peers, oldest first.
    pub fn all(&self) -> &[Peer] {
        &self.peers
    }

    /// The peer with this id.
    pub fn get(&self, id: &str) -> Option<&Peer> {
        self.peers.get(id)
    }

    fn get_mut(&mut self, id: &str) -> Option<&mut Peer> {
        self.peers.get_mut(id)
    }

    /// The name of a peer, or the text itself if it is not the id of a peer.
    pub fn name_of(&self, id: &str) -> String {
        self.get(id).map_or_else(|| id.to_owned(), |peer| peer.row.name.clone())
    }

    /// The human at this machine.
    pub fn human(&self) -> &PeerId {
        &self.human
    }

    /// Whether this is the id of a human.
    pub fn is_human(&self, id: &str) -> bool {
        self.human == id || self.get(id).is_some_and(|peer| peer.row.kind == PeerKind::Human)
    }

    /// The version, which increases with every change of this mesh's own peers.
    pub fn roster_version(&self) -> i64 {
        self.roster_version
    }

    /// Notes that a peer has just made a call.
    pub(super) fn touch(&mut self, id: &str, now: i64) {
        self.peers.touch(id, now);
    }

    /// Whether any peer other than a linked peer is online.
    pub(super) fn is_anybody_online(&self) -> bool {
        self.peers.iter().any(|peer| !peer.row.is_linked() && peer.is_online())
    }

    /// Writes a row, in memory and on disk.
    fn put(&mut self, turn: &mut Turn, row: PeerRow, now: i64) -> Result<(), Error> {
        turn.store.put_peer(&row)?;
        let peer = match self.get(&row.id) {
            Some(known) => Peer { row, ..known.clone() },
            None => Peer::new(row, now),
        };
        self.peers.put(peer);
        Ok(())
    }

    /// Records a change of one of this mesh's own peers.
    fn record(&mut self, turn: &mut Turn, journal: &Journal, change: &Change, id: &str, now: i64) -> Result<(), Error> {
        self.roster_version += 1;
        journal.record(turn, self, change, id, now)
    }

    /// Sets a peer's summary.
    pub(super) fn set_summary(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        id: &str,
        summary: &str,
        now: i64,
    ) -> Result<(), Error> {
        let peer = self.get_mut(id).ok_or_else(|| no_peer(id))?;
        peer.row.summary = summary.to_owned();
        let row = peer.row.clone();
        turn.store.put_peer(&row)?;
        self.record(turn, journal, &Change::PeerUpdated(&row), id, now)
    }

    /// Notes where a session's agent keeps its transcript, if the hook tells the path. An empty path means that
    /// nobody may read it.
    pub(super) fn note_transcript(&mut self, turn: &mut Turn, id: &str, path: Option<&str>) -> Result<(), Error> {
        let Some(path) = path else { return Ok(()) };
        let path = Some(path).filter(|path| !path.is_empty()).map(str::to_owned);
        if let Some(peer) = self.get_mut(id).filter(|peer| peer.row.transcript != path) {
            peer.row.transcript = path;
            turn.store.put_peer(&peer.row)?;
        }
        Ok(())
    }

    /// The path where a client on this connection finds a peer's transcript, or why the client cannot read it.
    fn transcript_of(&self, peer: &Peer, conn: ConnId) -> Value {
        let row = &peer.row;
        match &row.transcript {
            _ if !row.is_session() => json!({ "why": format!("{} is not an agent's session", row.name) }),
            _ if row.host != self.host_of(conn) => {
                json!({ "why": format!("{} runs on {}; its transcript can only be read there", row.name, row.host) })
            }
            None => json!({ "why": format!("no hook of {} has reported a transcript", row.name) }),
            Some(path) => json!({ "path": path }),
        }
    }

    /// A peer as clients see it: the keys of the old HTTP API first, then the other keys.
    pub(super) fn view(
        &self,
        peer: &Peer,
        store: &Store,
        mail: &mut Mail,
        locks: &Locks,
        now: i64,
    ) -> Result<Value, Error> {
        let row = &peer.row;
        let last_seen = match row.kind {
            PeerKind::Http { .. } => peer.last_heartbeat,
            _ if peer.is_online() => now,
            _ => row.last_seen,
        };
        let mut room = 1000;
        let fits = |path: &&str| {
            room -= path.len() as i64;
            room > 0
        };
        let held: Vec<&str> = locks.paths_of(&row.id).take(8).take_while(fits).collect();
        let mut value = json!({
            "id": row.id.as_str(), "name": row.name, "pid": row.pid, "projectPath": row.project,
            "gitRoot": row.git_root, "gitBranch": row.git_branch, "agentType": row.agent, "summary": row.summary,
            "udsPath": row.push_socket(), "startedAt": time::iso(row.first_seen), "lastHeartbeat": time::iso(last_seen),
            "status": peer.status(&self.settings, now), "host": row.host, "unread": mail.unread(store, &row.id)?,
            "idleSeconds": (now - peer.last_active).max(0) / 1000, "locks": held,
        });
        if let Some(mesh) = row.mesh() {
            value["link"] = json!(mesh.as_str());
        }
        Ok(value)
    }
}
