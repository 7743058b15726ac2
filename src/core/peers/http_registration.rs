//! The registrations, the heartbeats and the departures of the clients of the old HTTP API. Only the HTTP routes run
//! these operations, because other clients become peers when they connect.

use super::{Peer, Peers, no_peer};
use crate::base::domain_enums::{LeaveReason, PeerKind};
use crate::base::error::Error;
use crate::base::id_types::PeerId;
use crate::base::{limits, untrusted_text};
use crate::core::event_journal::Change;
use crate::core::locks::Locks;
use crate::core::mail::Mail;
use crate::core::op_behavior::OpBehavior;
use crate::core::op_definition::{ArgKind, Runner};
use crate::core::peers::mesh_parts_changed_by_sessions::SessionParts;
use crate::core::transaction_and_pending_effects::Turn;
use crate::core::{Arg, Args, Auth, CallContext, Mesh, Op, Outcome};
use crate::store::PeerRow;
use serde_json::json;

const WORD: ArgKind = ArgKind::Text { min: 0, max: limits::WORD_MAX };
const PATH: ArgKind = ArgKind::Text { min: 0, max: limits::PATH_MAX };

/// Registers a client as a peer.
pub static REGISTER: Op = Op {
    name: "http.register",
    summary: "Register a client as a peer, which is online while it sends heartbeats",
    args: &[
        Arg::new("name", WORD, "Name of the peer; chosen by the broker if omitted"),
        Arg::new("agentType", WORD, "Agent type").required(),
        Arg::new("projectPath", PATH, "Working directory").required(),
        Arg::new("gitRoot", PATH, "Root of the git work tree"),
        Arg::new("gitBranch", PATH, "Git branch"),
        Arg::new("repo", PATH, "Repository id"),
        Arg::new("pid", ArgKind::Int { min: 0, max: i64::MAX }, "Process id").required(),
        Arg::new("udsPath", PATH, "Socket on which the client receives pushes"),
    ],
    actor: Auth::Optional,
    verb: None,
    tool: None,
    repeatable: false,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(register),
};

/// Ends a registration.
pub static UNREGISTER: Op = Op {
    name: "http.unregister",
    summary: "End the registration of the caller, and release its locks",
    args: &[],
    actor: Auth::Optional,
    verb: None,
    tool: None,
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(unregister),
};

/// Records that a client is alive.
pub static HEARTBEAT: Op = Op {
    name: "http.heartbeat",
    summary: "Keep the caller online; fails if the caller must register again",
    args: &[],
    actor: Auth::Required,
    verb: None,
    tool: None,
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(heartbeat),
};

/// Removes a summary. For this, clients of the old HTTP API send an empty summary. The operation `summary` would refuse
/// it.
pub static CLEAR_SUMMARY: Op = Op {
    name: "http.clear_summary",
    summary: "Remove the caller's summary",
    args: &[],
    actor: Auth::Required,
    verb: None,
    tool: None,
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(clear_summary),
};

fn clear_summary(mesh: &mut Mesh, ctx: &CallContext, _: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, journal, rates, .. } = mesh;
    rates.charge_call(peers, ctx, 1)?;
    peers.set_summary(turn, journal, ctx.me()?, "", ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true })))
}

fn register(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, mail, locks, journal, rates, .. } = mesh;
    let text = |name| args.text(name).map(str::to_owned);
    let row = PeerRow {
        agent: args.word("agentType").to_owned(),
        project: args.word("projectPath").to_owned(),
        git_root: text("gitRoot"),
        git_branch: text("gitBranch"),
        repo: text("repo"),
        pid: args.int("pid").filter(|pid| *pid != 0),
        kind: PeerKind::Http { push_socket: text("udsPath") },
        ..PeerRow::default()
    };
    rates.charge_call(peers, ctx, 10)?;
    let row = peers.register(turn, mail, locks, args.text("name"), row, ctx.now)?;
    peers.record(turn, journal, &Change::PeerJoined(&row), &row.id, ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true, "you": { "id": row.id.as_str(), "name": row.name } })))
}

fn unregister(mesh: &mut Mesh, ctx: &CallContext, _: &Args) -> Result<Outcome, Error> {
    unregister_peer(&mut mesh.session_parts(), ctx.me()?, LeaveReason::CleanExit, ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true })))
}

fn heartbeat(mesh: &mut Mesh, ctx: &CallContext, _: &Args) -> Result<Outcome, Error> {
    let me = ctx.me()?;
    let peer = mesh.peers.get_mut(me).ok_or_else(|| no_peer(me.as_str()))?;
    if peer.row.is_http() {
        peer.last_heartbeat = ctx.now;
    }
    // A client that was marked as gone has lost its locks and its push socket. To get a push socket again, the client
    // must register again. So a late heartbeat does not bring the client back online.
    if !peer.is_online() {
        return Err(Error::not_found(format!("{} is offline; register again", peer.row.name)));
    }
    Ok(Outcome::Ready(json!({ "ok": true })))
}

impl Peers {
    /// Returns the clients of the old HTTP API that are online. Such a client can receive pushes on its own socket.
    pub fn push_recipients(&self) -> Vec<PeerId> {
        let online = self.peers.http_clients().filter(|peer| peer.row.online);
        online.map(|peer| peer.row.id.clone()).collect()
    }

    /// Whether the mesh knows any client of the old HTTP API.
    pub(in crate::core) fn has_http_clients(&self) -> bool {
        self.peers.http_clients().next().is_some()
    }

    /// Registers a client of the old HTTP API. A client with a name takes over the mailbox of an offline peer with
    /// the same name, project and agent. Any other client becomes a new peer.
    fn register(
        &mut self,
        turn: &mut Turn,
        mail: &mut Mail,
        locks: &Locks,
        name: Option<&str>,
        mut row: PeerRow,
        now: i64,
    ) -> Result<PeerRow, Error> {
        let is_named = name.is_some_and(|name| !name.is_empty());
        row.name = name.map(untrusted_text::plain_name).unwrap_or_default();
        let same = |peer: &&Peer| {
            !peer.row.online
                && (&peer.row.name, &peer.row.project, &peer.row.agent) == (&row.name, &row.project, &row.agent)
        };
        let former = is_named.then(|| self.peers.http_clients().find(same)).flatten().map(|peer| peer.row.id.clone());
        row.id = match former {
            Some(id) => id,
            None => {
                self.make_room(turn, mail, locks, now)?;
                self.new_id()
            }
        };
        if name.is_none() {
            row.name = auto_name(row.id.as_str());
        }
        row.host = self.settings.host.clone();
        (row.first_seen, row.last_seen, row.online) = (now, now, true);
        // A peer that registers again counts as new, so it moves to the end of the list.
        self.peers.remove(&row.id);
        self.peers.put(Peer::new(row.clone(), now));
        turn.store.put_peer(&row)?;
        Ok(row)
    }
}

/// Returns the name of a client that has not chosen a name.
fn auto_name(id: &str) -> String {
    format!("peer-{}", id.get(..6).unwrap_or(""))
}

/// Ends the registration of a client of the old HTTP API. A client with a chosen name keeps its mailbox.
///
/// # Errors
/// When the database can't be written.
pub(super) fn unregister_peer(
    parts: &mut SessionParts,
    id: &PeerId,
    reason: LeaveReason,
    now: i64,
) -> Result<(), Error> {
    let SessionParts { turn, peers, mail, locks, channels, journal, .. } = parts;
    journal.unsubscribe_peer(id);
    let Some(peer) = peers.get_mut(id).filter(|peer| peer.row.is_http()) else { return Ok(()) };
    let was_online = std::mem::replace(&mut peer.row.online, false);
    peer.row.last_seen = now;
    peer.row.kind = PeerKind::Http { push_socket: None };
    let row = peer.row.clone();
    locks.release(turn, peers, journal, |lock| lock.holder == row.id, Some(reason.word()), now)?;
    channels.leave_all(turn, peers, journal, id, now)?;
    if row.name.is_empty() || row.name == auto_name(row.id.as_str()) {
        peers.forget(turn, mail, id)?;
    } else {
        turn.store.put_peer(&row)?;
    }
    if was_online {
        peers.record(turn, journal, &Change::PeerLeft { row: &row, named: false, reason }, id, now)?;
    }
    Ok(())
}
