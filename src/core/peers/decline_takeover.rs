//! Lets a session give back the name and the mail that it took over from an earlier session. The mesh took the two
//! sessions for one, because they have the same default name.

use super::{Peer, Peers};
use crate::base::error::{Error, ErrorKind};
use crate::base::ids::PeerId;
use crate::base::stored_enums::PeerKind;
use crate::core::journal::{Change, Journal};
use crate::core::mail::wakeups::end_all_waits;
use crate::core::transaction::Turn;
use crate::core::{Args, Auth, CallContext, Mesh, Op, Outcome};
use crate::store::PeerRow;
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
    run: decline,
};

fn decline(mesh: &mut Mesh, ctx: &CallContext, _: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, mail, locks, journal, waiting, .. } = mesh;
    let id = ctx.my_id();
    let refused = |text: String| Err(Error::new(ErrorKind::Refused, text));
    let name = peers.name_of(&id);
    if !peers.get(&id).is_some_and(|peer| peer.took_over_name) {
        return refused(format!("{name} is your own name; you did not take it over from an earlier session"));
    }
    if let Some(lock) = locks.all().iter().find(|lock| lock.holder == id) {
        return refused(format!("you have locked {} as {name}; release your locks first, then decline", lock.path));
    }
    end_all_waits(turn, waiting, &id);
    if waiting.iter().any(|call| id == call.ctx.me()) {
        return refused(format!("one of your calls is still waiting as {name}; let that call end first, then decline"));
    }
    peers.make_room(turn, mail, locks, ctx.now)?;
    let row = peers.become_new(turn, journal, &id, ctx.now)?;
    Ok(Outcome::Ready(json!({
        "ok": true, "kind": row.kind.word(), "you": { "id": row.id.as_str(), "name": row.name }, "gaveBack": name,
    })))
}

impl Peers {
    /// Makes a session a new peer, so that the peer that the session took over is free again.
    fn become_new(&mut self, turn: &mut Turn, journal: &Journal, id: &PeerId, now: i64) -> Result<PeerRow, Error> {
        let Some(peer) = self.get(id).cloned() else { return Err(super::no_peer(id)) };
        let own = PeerRow {
            id: self.new_id(),
            name: self.free_name(&peer.row.name),
            summary: String::new(),
            first_seen: now,
            last_seen: now,
            ..peer.row.clone()
        };
        let former = PeerRow {
            kind: PeerKind::Session { key: None },
            older_keys: Vec::new(),
            process: None,
            online: false,
            transcript: None,
            ..peer.row.clone()
        };
        turn.store.put_peer(&former)?;
        turn.store.put_peer(&own)?;
        self.peers.put(Peer { has_left: true, ..Peer::new(former.clone(), now) });
        self.peers.put(Peer { row: own.clone(), took_over_name: false, takeover_notice: None, ..peer });
        self.attachments.move_to(id, &own.id);
        let left = Change::PeerLeft { row: &former, named: true, reason: "declined" };
        self.record(turn, journal, &left, id, now)?;
        self.record(turn, journal, &Change::PeerJoined(&own), &own.id, now)?;
        Ok(own)
    }
}
