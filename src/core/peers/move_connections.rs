//! Moves the connections of an MCP server to another peer, or detaches them, when the agent switches to another session
//! or ends one of its sessions.

use super::Peers;
use super::caller_resolver::{nearest, only};
use super::detach_connection::end_waits;
use crate::base::domain_enums::LeaveReason;
use crate::base::error::Error;
use crate::base::id_types::PeerId;
use crate::core::event_journal::Journal;
use crate::core::mail::wakeups::repeat_waits;
use crate::core::peers::mesh_parts_changed_by_sessions::SessionParts;
use crate::core::transaction_and_pending_effects::{Effect, Turn};
use crate::core::waiting_calls::Waiting;
use crate::core::{CallContext, ConnId};
use serde_json::{Value, json};

/// Sends the id and name of a session's new peer to connections of the session. `you` is null if the session has ended.
/// Without this notification, the session's MCP server would attach to the next broker as the former peer.
pub(super) fn tell_connections(turn: &mut Turn, connections: &[ConnId], former: &PeerId, you: &Value) {
    let params = json!({ "was": former.as_str(), "you": you }).to_string();
    for conn in connections {
        turn.push(Effect::Notification { conn: *conn, method: "peer_changed", params: params.clone() });
    }
}

/// Lets an agent's MCP server act for the session that the agent has resumed. Until now, the server acted for the
/// agent's previous session. If the server connected before the user had chosen a session, the server acted for a new
/// one. The agent must run one session at a time.
///
/// # Errors
/// When the database can't be written.
pub(in crate::core) fn follow_resumed_session(
    parts: &mut SessionParts,
    ctx: &CallContext,
    resumed: &PeerId,
) -> Result<(), Error> {
    let SessionParts { turn, peers, locks, mail, journal, waiting, .. } = parts;
    let Some(process) = nearest(&ctx.ancestors).copied() else { return Ok(()) };
    let Some(agent) = peers.get(resumed).map(|peer| peer.row.agent.clone()) else { return Ok(()) };
    let of_agent = peers.sessions_of_process(&process).into_iter().filter(|peer| peer.row.agent == agent);
    let served = of_agent.filter(|peer| peer.row.id != *resumed && peers.is_attached_from(&peer.row.id, &process));
    let Some(former) = only(served).map(|peer| peer.row.clone()) else { return Ok(()) };
    let connections = peers.connections_of(&former.id).to_vec();
    peers.attachments.move_to(&former.id, resumed);
    for _ in &connections {
        peers.remove_connection(turn, journal, &former.id, LeaveReason::Replaced, ctx.now)?;
        peers.add_connection(turn, journal, resumed, ctx.now)?;
    }
    if let Some(peer) = peers.get_mut(resumed) {
        peer.row.pid = former.pid;
        turn.store.put_peer(&peer.row)?;
    }
    let you = json!({ "id": resumed.as_str(), "name": peers.name_of(resumed) });
    tell_connections(turn, &connections, &former.id, &you);
    end_waits(turn, waiting, |call| call.ctx.is_by(&former.id) && !call.would_wake(&former.id));
    repeat_waits(turn, waiting, &former.id);
    peers.forget_process(turn, &former.id)?;
    let was_used = peers.has_ended(&former.id) || !former.summary.is_empty() || locks.has_any(&former.id);
    if !was_used && !mail.has_messages(&turn.store, &former.id)? {
        peers.forget(turn, mail, &former.id)?;
    }
    Ok(())
}

impl Peers {
    /// Detaches an ended session from its connections. They may still serve other sessions of the agent, so they would
    /// otherwise keep the ended session online. If the session continues, its next call attaches it again.
    ///
    /// # Errors
    /// When the database can't be written.
    pub(in crate::core) fn detach_ended(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        waiting: &mut Waiting,
        id: &PeerId,
        now: i64,
    ) -> Result<(), Error> {
        let connections = self.connections_of(id).to_vec();
        tell_connections(turn, &connections, id, &Value::Null);
        repeat_waits(turn, waiting, id);
        for conn in connections {
            self.attachments.detach(conn, id);
            self.remove_connection(turn, journal, id, LeaveReason::CleanExit, now)?;
        }
        Ok(())
    }
}
