//! Peers: their names, whether they are online, and which callers act as them.
//!
//! A peer is a row in the database. A session attaches to its peer over a connection. A client of the old HTTP API
//! is online while it sends heartbeats. A peer of a linked mesh is online while that mesh lists it.
//!
//! **Invariant:** only this module writes the peers and their connections, in memory and in the database.

mod attachments;
pub(in crate::core) mod caller_resolver;
pub mod detach_connection;
pub mod http_registration;
pub mod list_peers;
mod machine_of_connection;
pub mod undo_mistaken_takeover;
pub(in crate::core) mod move_connections;
mod name_lookup;
mod peer_table;
pub(in crate::core) mod peers_of_linked_meshes;
mod presence;
mod retention;
pub mod session_of_announced_call;
pub(in crate::core) mod mesh_parts_changed_by_sessions;
pub mod sessions;

pub(in crate::core) use machine_of_connection::{is_machine_known, rename_machine};
pub(in crate::core) use retention::expire_peers;

pub use peers_of_linked_meshes::LinkedPeer;

use super::event_journal::{Change, Journal};
use super::locks::Locks;
use super::mail::Mail;
use super::op_definition::ArgKind;
use super::transaction_and_pending_effects::Turn;
use super::{Arg, Args, Auth, CallContext, CliPlace, ConnId, Mesh, MeshSettings, Op, Outcome};
use crate::base::build_json_object::json_object;
use crate::base::domain_enums::PeerKind;
use crate::base::error::Error;
use crate::base::id_types::{PeerId, uuid};
use crate::base::process_identity::Process;
use crate::base::{limits, time_format};
use crate::core::op_behavior::OpBehavior;
use crate::core::op_definition::Runner;
use crate::store::{PeerRow, Store, TakeoverRow};
use attachments::Attachments;
use peer_table::PeerTable;
use serde_json::{Value, json};
use std::rc::Rc;

/// A peer. It consists of a row, and of facts that are kept only in memory.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The row of the peer in the database.
    pub row: PeerRow,
    /// The number of connections that act for the peer and have not stopped answering.
    pub connections: usize,
    /// The time of the last heartbeat from a client of the old HTTP API, in ms.
    pub last_heartbeat: i64,
    /// The time of the peer's last call, in ms.
    pub last_active: i64,
    /// The time, in ms, at which the peer went offline; `None` if the peer is online or its grace period is over.
    pub offline_since: Option<i64>,
    /// Whether the peer was online when an earlier broker ended, and has not been online after that.
    pub unconfirmed: bool,
    /// The agent process of an MCP server that connected the peer to an earlier broker. The server may reconnect.
    pub expected_agent: Option<Process>,
    /// Whether the kernel will report the end of the peer's agent process. If so, the peer counts as online until this
    /// report, unless the peer is silent.
    pub is_watched: bool,
    /// Whether the peer's connection has stopped answering because the program is suspended or hangs.
    pub is_silent: bool,
    /// Whether the peer has left, and no hook or connection has been active after that.
    pub has_left: bool,
    /// The background tasks and subagents that were still running when the peer's last turn ended. The locks of that
    /// turn are kept until all these tasks have ended.
    pub background_tasks: Vec<String>,
    /// Whether the log contains a warning that a hook outside the peer's agent process acts as the peer.
    pub is_foreign_hook_reported: bool,
    /// The last time, in ms, at which a hook showed that the peer was working on a turn.
    pub turn_active_at: Option<i64>,
    /// Whether the agent has reported the end of the session, and the session has not continued after that.
    pub has_ended: bool,
    /// The data with which the session can give back the name and the mail that it took over from an earlier session;
    /// `None` if the session took over nothing.
    pub takeover: Option<TakeoverRow>,
    /// The session's former peer, whose name it has given back; `None` if it has not given back a name.
    pub gave_back: Option<PeerId>,
    /// Whether slm-mesh knows the peer's agent. An unknown agent may use any hook format.
    pub is_known_agent: bool,
}

impl Peer {
    /// Makes a peer without a connection.
    pub fn new(row: PeerRow, now: i64) -> Peer {
        Peer {
            row,
            connections: 0,
            last_heartbeat: now,
            last_active: now,
            offline_since: None,
            unconfirmed: false,
            expected_agent: None,
            is_watched: false,
            is_silent: false,
            has_left: false,
            background_tasks: Vec::new(),
            is_foreign_hook_reported: false,
            turn_active_at: None,
            has_ended: false,
            takeover: None,
            gave_back: None,
            is_known_agent: true,
        }
    }

    /// Whether the peer counts as online. A person never counts as online.
    pub fn is_online(&self) -> bool {
        match self.row.kind {
            PeerKind::Session { .. } => self.connections > 0 || self.is_watched && !self.is_silent,
            PeerKind::Http { .. } | PeerKind::Linked { .. } => self.row.online,
            PeerKind::Human => false,
        }
    }

    /// Whether the session has ended or hangs. Returns true if the session is offline, and it is not certain that the
    /// session still exists: its grace period is running, or its agent process is unknown.
    pub fn is_gone(&self) -> bool {
        let is_lost = self.offline_since.is_some() || self.row.process.is_none();
        self.row.is_session() && !self.is_online() && is_lost
    }

    /// Whether the session has ended, as far as the mesh knows.
    fn is_over(&self) -> bool {
        self.has_left && !self.is_online() && !self.unconfirmed
    }

    /// Whether the session was the peer with this id before the session gave back that peer's name.
    fn has_been(&self, id: &str) -> bool {
        self.gave_back.as_ref().is_some_and(|before| before.as_str() == id)
    }

    /// Whether this process is the peer's agent process, according to the session's hooks or subcommands.
    fn is_run_by(&self, process: &Process) -> bool {
        self.row.process.is_some_and(|known| known.is_same(process))
    }

    /// Whether the peer's MCP server was a descendant of this process and may reconnect. If slm-mesh does not know the
    /// program of the process, only the server shows that the process is an agent.
    fn ran_server(&self, process: &Process) -> bool {
        let is_expected = || self.expected_agent.is_some_and(|above| above.is_same(process));
        self.connections == 0 && self.row.pid.is_some() && (self.is_run_by(process) || is_expected())
    }

    /// Whether this is one of the session's keys.
    fn has_key(&self, key: &str) -> bool {
        self.row.session_key() == Some(key) || self.row.older_keys.iter().any(|known| known == key)
    }

    /// The peer's status in the old HTTP API: `active`, `stale` or `away`.
    pub fn status(&self, settings: &MeshSettings, now: i64) -> &'static str {
        if self.row.is_http() && self.row.online && now - self.last_heartbeat >= settings.stale_ms {
            return "stale";
        }
        if self.is_online() { "active" } else { "away" }
    }

    /// The time, in ms, at which an HTTP client's heartbeat timeout or a session's grace period ends.
    fn deadline(&self, settings: &MeshSettings) -> Option<i64> {
        if self.row.is_http() && self.row.online {
            return Some(self.last_heartbeat + settings.dead_ms);
        }
        let is_local = self.row.host == settings.host;
        let grace = if is_local { limits::GRACE_MS } else { limits::REMOTE_GRACE_MS };
        self.offline_since.map(|since| since + grace)
    }
}

/// Tells the caller which peer it acts as.
pub static WHOAMI: Op = Op {
    name: "whoami",
    summary: "Show who you act as: name, id, and whether you are an agent or the human",
    args: &[],
    actor: Auth::Required,
    verb: Some("whoami"),
    tool: None,
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(whoami),
};

/// Changes the summary of a peer.
pub static SUMMARY: Op = Op {
    name: "summary",
    summary: "Tell the other agents in a line or two what you are working on",
    args: &[Arg::new("summary", ArgKind::Units { max: limits::SUMMARY_MAX }, "What you are working on")
        .required()
        .at(CliPlace::Rest)],
    actor: Auth::Required,
    verb: Some("summary"),
    tool: Some(("summary", None)),
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(summary),
};

fn whoami(mesh: &mut Mesh, ctx: &CallContext, _: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, mail, locks, .. } = mesh;
    let peer = peers.known(ctx.me()?)?;
    let you = peers.view(peer, &turn.store, mail, locks, ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true, "kind": peer.row.kind.word(), "you": you })))
}

fn summary(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, journal, rates, .. } = mesh;
    rates.charge_call(peers, ctx, 1)?;
    peers.set_summary(turn, journal, ctx.me()?, args.word("summary"), ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true })))
}

/// Makes the error for a name that no peer has.
pub fn no_peer(name: &str) -> Error {
    let name: String = name.chars().take(80).collect();
    Error::not_found(format!("no peer is called {name}; list the peers with mesh_peers (slm-mesh peers --all)"))
}

/// All peers, and the connections that act for them.
pub struct Peers {
    settings: Rc<MeshSettings>,
    /// Returns an unpredictable random number.
    random: Box<dyn FnMut() -> u128 + Send>,
    /// Checks whether a process on this machine is alive.
    is_process_alive: Box<dyn Fn(i64) -> bool + Send>,
    peers: PeerTable,
    attachments: Attachments,
    /// Whether any process has had several sessions. If none has, it is always clear which session makes a call.
    has_shared_process: bool,
    /// Tool calls that hooks announced.
    announced: Vec<session_of_announced_call::AnnouncedCall>,
    /// The peer that stands for the person at this machine.
    human: PeerId,
    /// A number that increases with every change of this mesh's own peers. Meshes that poll this mesh get the number.
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

    /// Sets the function that checks whether a process on this machine is alive.
    pub(super) fn set_process_probe(&mut self, is_alive: Box<dyn Fn(i64) -> bool + Send>) {
        self.is_process_alive = is_alive;
    }

    /// Returns an unpredictable random number.
    pub(super) fn random(&mut self) -> u128 {
        (self.random)()
    }

    fn new_id(&mut self) -> PeerId {
        uuid(self.random()).into()
    }

    /// All peers, in the order in which they were first seen.
    pub fn all(&self) -> &[Peer] {
        &self.peers
    }

    /// The peer with this id.
    pub fn get(&self, id: &PeerId) -> Option<&Peer> {
        self.peers.get(id)
    }

    /// The peer with this id. The id comes from a client, so it may be any text.
    pub fn with_id(&self, id: &str) -> Option<&Peer> {
        self.peers.with_id(id)
    }

    /// The peer that makes a call; `None` if the caller is not a peer that the mesh knows.
    pub(super) fn caller(&self, ctx: &CallContext) -> Option<&Peer> {
        ctx.actor.as_ref().and_then(|id| self.get(id))
    }

    /// The peer with this id.
    ///
    /// # Errors
    /// If no peer has this id.
    pub(super) fn known(&self, id: &PeerId) -> Result<&Peer, Error> {
        self.get(id).ok_or_else(|| no_peer(id.as_str()))
    }

    fn get_mut(&mut self, id: &PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(id)
    }

    /// Returns the name of the peer with this id. If no peer has this id, returns the id itself.
    pub fn name_of(&self, id: &PeerId) -> String {
        self.get(id).map_or_else(|| id.to_string(), |peer| peer.row.name.clone())
    }

    /// The peer that stands for the person at this machine.
    pub fn human(&self) -> &PeerId {
        &self.human
    }

    /// Whether this is the id of a peer that stands for a person.
    pub fn is_human(&self, id: &PeerId) -> bool {
        self.human == *id || self.get(id).is_some_and(|peer| peer.row.kind == PeerKind::Human)
    }

    /// A number that increases with every change of this mesh's own peers.
    pub fn roster_version(&self) -> i64 {
        self.roster_version
    }

    /// Records the time of a peer's last call.
    pub(super) fn touch(&mut self, id: &PeerId, now: i64) {
        self.peers.touch(id, now);
    }

    /// Whether any of this mesh's own peers is online.
    pub(super) fn is_anybody_online(&self) -> bool {
        self.peers.iter().any(|peer| !peer.row.is_linked() && peer.is_online())
    }

    /// Stores the row of a peer, in memory and in the database.
    fn put(&mut self, turn: &mut Turn, row: PeerRow, now: i64) -> Result<(), Error> {
        turn.store.put_peer(&row)?;
        let peer = match self.get(&row.id) {
            Some(known) => Peer { row, ..known.clone() },
            None => Peer::new(row, now),
        };
        self.peers.put(peer);
        Ok(())
    }

    /// Records a change to one of this mesh's own peers in the journal.
    fn record(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        change: &Change,
        id: &PeerId,
        now: i64,
    ) -> Result<(), Error> {
        self.roster_version += 1;
        journal.record(turn, self, change, id, now).map(|_| ())
    }

    /// Changes the summary of a peer.
    pub(super) fn set_summary(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        id: &PeerId,
        summary: &str,
        now: i64,
    ) -> Result<(), Error> {
        let peer = self.get_mut(id).ok_or_else(|| no_peer(id.as_str()))?;
        peer.row.summary = summary.to_owned();
        let row = peer.row.clone();
        turn.store.put_peer(&row)?;
        self.record(turn, journal, &Change::PeerUpdated(&row), id, now)
    }

    /// Stores the path of a session's transcript, if the arguments of a hook contain it. If a setting forbids reading
    /// the transcript, the stored path is removed.
    pub(super) fn note_transcript(&mut self, turn: &mut Turn, id: &PeerId, args: &Args) -> Result<(), Error> {
        let path = match args.text("transcript") {
            _ if args.flag("hidesTranscript") == Some(true) => None,
            Some(path) => Some(path.to_owned()).filter(|path| !path.is_empty()),
            None => return Ok(()),
        };
        if let Some(peer) = self.get_mut(id).filter(|peer| peer.row.transcript != path) {
            peer.row.transcript = path;
            turn.store.put_peer(&peer.row)?;
        }
        Ok(())
    }

    /// Returns the path of a peer's transcript. If a client on this connection can't read the transcript, returns the
    /// reason.
    fn transcript_of(&self, peer: &Peer, conn: ConnId) -> Value {
        let row = &peer.row;
        match &row.transcript {
            _ if !row.is_session() => json!({ "why": format!("{} is not an agent's session", row.name) }),
            _ if row.host != self.host_of(conn) => {
                json!({ "why": format!("{} runs on {}; its transcript can be read only there", row.name, row.host) })
            }
            None => json!({ "why": format!("no hook of {} has reported a transcript", row.name) }),
            Some(path) => json!({ "path": path }),
        }
    }

    /// Returns a peer in the form that clients see. The keys of the old HTTP API come first.
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
        let mut value = json_object([
            ("id", row.id.as_str().into()),
            ("name", row.name.as_str().into()),
            ("pid", row.pid.unwrap_or(0).into()),
            ("projectPath", row.project.as_str().into()),
            ("gitRoot", row.git_root.as_deref().into()),
            ("gitBranch", row.git_branch.as_deref().into()),
            ("agentType", row.agent.as_str().into()),
            ("summary", row.summary.as_str().into()),
            ("udsPath", row.push_socket().into()),
            ("startedAt", time_format::iso(row.first_seen).into()),
            ("lastHeartbeat", time_format::iso(last_seen).into()),
            ("status", peer.status(&self.settings, now).into()),
            ("host", row.host.as_str().into()),
            ("unread", mail.unread(store, &row.id)?.into()),
            ("idleSeconds", ((now - peer.last_active).max(0) / 1000).into()),
            ("locks", held.into()),
        ]);
        if let Some(mesh) = row.mesh() {
            value["link"] = json!(mesh.as_str());
        }
        Ok(value)
    }
}
