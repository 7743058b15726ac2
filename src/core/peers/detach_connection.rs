//! What happens when a connection stops acting for its peers. The reason may be that the client detaches, that the
//! connection ends, or that the client's process ends.

use super::mesh_parts_changed_by_sessions::SessionParts;
use crate::base::domain_enums::{LeaveReason, LockOwner};
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::PeerId;
use crate::core::op_behavior::{ConnectionChange, Notices, OpBehavior};
use crate::core::op_definition::Runner;
use crate::core::transaction_and_pending_effects::{Effect, Turn};
use crate::core::waiting_calls::{Waiting, WaitingCall};
use crate::core::{Args, Auth, CallContext, ConnId, Mesh, Op, Outcome};
use serde_json::json;

/// Ends a session cleanly.
pub static DETACH: Op = Op {
    name: "detach",
    summary: "End the session of this connection: release its locks at once, and keep its mailbox",
    args: &[],
    actor: Auth::Optional,
    verb: None,
    tool: None,
    repeatable: true,
    behavior: OpBehavior { connection: ConnectionChange::Detach, notices: Notices::None, ..OpBehavior::USUAL },
    run: Runner::Rule(detach),
};

fn detach(mesh: &mut Mesh, ctx: &CallContext, _: &Args) -> Result<Outcome, Error> {
    leave(&mut mesh.session_parts(), ctx.conn, LeaveReason::CleanExit, ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true })))
}

/// Detaches a connection from all of its peers.
pub(super) fn leave(parts: &mut SessionParts, conn: ConnId, reason: LeaveReason, now: i64) -> Result<(), Error> {
    let SessionParts { turn, peers, locks, journal, waiting, .. } = parts;
    let Some(one) = peers.attachments.get(conn) else { return Ok(()) };
    let unresponsive = one.unresponsive;
    let is_clean = reason == LeaveReason::CleanExit;
    let is_cut = one.remote.is_some() && !is_clean;
    for id in peers.attachments.detach_all(conn) {
        if is_clean {
            // The agent process may continue with other sessions, so it no longer proves that this session is alive.
            peers.forget_process(turn, &id)?;
        }
        if !unresponsive {
            peers.remove_connection(turn, journal, &id, reason, now)?;
        }
        if !is_clean {
            continue;
        }
        end_waits(turn, waiting, |call| call.ctx.conn == conn && call.ctx.is_by(&id));
        if peers.get(&id).is_some_and(|peer| peer.connections == 0) {
            locks.release(
                turn,
                peers,
                journal,
                |lock| lock.holder == id && lock.owner.is_shared(),
                Some(reason.word()),
                now,
            )?;
        }
    }
    if is_cut {
        // If only the network has failed, the commands that hold locks over this connection are still running and may
        // reconnect.
        locks.await_commands(conn, now);
        return Ok(());
    }
    let commands = locks.take_commands(conn);
    if commands.is_empty() {
        return Ok(());
    }
    let ends = |holder: &PeerId, owner: &LockOwner| commands.iter().any(|one| (&one.0, &one.1) == (holder, owner));
    locks.release(turn, peers, journal, |lock| ends(&lock.holder, &lock.owner), Some("the command ended"), now)
}

/// Ends the waiting calls for which `ends` returns true. The session of these calls has left.
pub(in crate::core) fn end_waits(turn: &mut Turn, waiting: &mut Waiting, ends: impl Fn(&WaitingCall) -> bool) {
    for (conn, id, reason) in waiting.end(ends) {
        let text = "this session left while the call was waiting; attach again, then repeat the call";
        turn.push(Effect::Reply { conn, id, result: Err(Error::new(ErrorKind::Refused, text)) });
        turn.dirty.note_end(reason.as_ref());
    }
    turn.dirty.locks = true;
}
