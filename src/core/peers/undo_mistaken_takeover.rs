//! Lets a session give back the name and the mail that it took over from an earlier session. The mesh had treated the
//! two sessions as one, because they have the same default name.

use super::move_connections::tell_connections;
use super::{Peer, Peers};
use crate::base::domain_enums::{LeaveReason, LockOwner, PeerKind};
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::PeerId;
use crate::core::event_journal::{Change, Journal};
use crate::core::mail::wakeups::repeat_waits;
use crate::core::op_behavior::{Notices, OpBehavior};
use crate::core::op_definition::Runner;
use crate::core::transaction_and_pending_effects::Turn;
use crate::core::{Args, Auth, CallContext, Mesh, Op, Outcome};
use crate::store::{LockRow, PeerRow, TakeoverRow};
use serde_json::json;

/// Gives back a name that a session took over.
pub static DECLINE: Op = Op {
    name: "peer.decline",
    summary: "Give back the name and the mail that you took over from an earlier session, and get a name of your own",
    args: &[],
    actor: Auth::Required,
    verb: Some("decline"),
    tool: Some(("inbox", Some("decline"))),
    repeatable: false,
    behavior: OpBehavior { notices: Notices::ForNewPeer, ..OpBehavior::USUAL },
    run: Runner::Rule(decline),
};

fn decline(mesh: &mut Mesh, ctx: &CallContext, _: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, mail, locks, channels, journal, waiting, .. } = mesh;
    let id = ctx.me()?.clone();
    let refused = |text: String| Err(Error::new(ErrorKind::Refused, text));
    let name = peers.name_of(&id);
    if peers.get(&id).is_none_or(|peer| peer.takeover.is_none()) {
        return refused(format!("{name} is your own name; you did not take it over from an earlier session"));
    }
    // A command of the earlier session may still be running and hold a lock. This lock stays with the earlier session,
    // so this session may give the name back in spite of the lock.
    if let Some(lock) = locks.all().find(|lock| lock.holder == id && !peers.is_of_earlier_session(lock)) {
        return refused(format!("you have locked {} as {name}; release your locks first, then decline", lock.path));
    }
    if waiting.iter().any(|call| call.ctx.is_by(&id) && !call.would_wake(&id)) {
        return refused(format!(
            "a call that you made as {name} is still waiting; let it end, and then give the name \
                                back"
        ));
    }
    peers.make_room(turn, mail, locks, ctx.now)?;
    let row = peers.become_new(turn, journal, &id, ctx.now)?;
    // The earlier session left its channels when it ended. So this session itself joined the current channels of the
    // peer `id`, and keeps them.
    channels.move_member(turn, peers, journal, &id, &row.id, ctx.now)?;
    let you = json!({ "id": row.id.as_str(), "name": row.name });
    // The request may have come from the agent's shell, so the session's MCP server must learn of the change.
    tell_connections(turn, peers.connections_of(&row.id), &id, &you);
    repeat_waits(turn, waiting, &id);
    Ok(Outcome::Ready(json!({ "ok": true, "kind": row.kind.word(), "you": you, "gaveBack": name })))
}

/// Stores the data with which a session can give back the name that it took over. `None` means that the session has
/// taken over no name.
pub(super) fn set_takeover(turn: &mut Turn, peer: &mut Peer, takeover: Option<TakeoverRow>) -> Result<(), Error> {
    match &takeover {
        _ if peer.takeover == takeover => {}
        Some(takeover) => turn.store.put_takeover(&peer.row.id, takeover)?,
        None => turn.store.drop_takeover(&peer.row.id)?,
    }
    peer.takeover = takeover;
    Ok(())
}

impl Peers {
    /// Whether the lock's holder has taken over the name of an earlier session, and the lock belongs to a command of
    /// that session. The command can still be running after its session has ended.
    pub(in crate::core) fn is_of_earlier_session(&self, lock: &LockRow) -> bool {
        let takeover = || self.get(&lock.holder)?.takeover.as_ref();
        matches!(lock.owner, LockOwner::Command(_)) && takeover().is_some_and(|takeover| lock.token <= takeover.token)
    }

    /// Returns the notice about the name that a session has taken over. Removes the notice, so that it is shown only
    /// once.
    pub(in crate::core) fn take_notice(&mut self, turn: &mut Turn, id: &PeerId) -> Result<Option<String>, Error> {
        let Some(peer) = self.get_mut(id) else { return Ok(None) };
        let (Some(takeover), id) = (&mut peer.takeover, &peer.row.id) else { return Ok(None) };
        let notice = takeover.notice.take();
        if notice.is_some() {
            turn.store.put_takeover(id, takeover)?;
        }
        Ok(notice)
    }

    /// Turns a session into a new peer. After this, the peer that the session took over is free again.
    fn become_new(&mut self, turn: &mut Turn, journal: &Journal, id: &PeerId, now: i64) -> Result<PeerRow, Error> {
        let Some(mut peer) = self.get(id).cloned() else { return Err(super::no_peer(id.as_str())) };
        let before = peer.takeover.clone().unwrap_or_default();
        set_takeover(turn, &mut peer, None)?;
        let own_summary = Some(&peer.row.summary).filter(|summary| **summary != before.summary);
        let own = PeerRow {
            id: self.new_id(),
            name: self.free_name(&peer.row.name),
            summary: own_summary.cloned().unwrap_or_default(),
            first_seen: now,
            last_seen: now,
            ..peer.row.clone()
        };
        let former = PeerRow {
            // The earlier session gets its key back. So the session finds its mail again if a user resumes it.
            kind: PeerKind::Session { key: before.key },
            older_keys: before.older_keys,
            summary: before.summary,
            process: None,
            online: false,
            transcript: None,
            ..peer.row.clone()
        };
        turn.store.put_peer(&former)?;
        turn.store.put_peer(&own)?;
        turn.store.put_given_back(&own.id, id)?;
        self.peers.put(Peer { has_left: true, ..Peer::new(former.clone(), now) });
        self.peers.put(Peer { row: own.clone(), gave_back: Some(id.clone()), ..peer });
        self.attachments.move_to(id, &own.id);
        let left = Change::PeerLeft { row: &former, named: true, reason: LeaveReason::Declined };
        self.record(turn, journal, &left, id, now)?;
        self.record(turn, journal, &Change::PeerJoined(&own), &own.id, now)?;
        Ok(own)
    }
}
