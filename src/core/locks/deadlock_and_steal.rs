//! The queue for locks: which callers wait, whether waiting would cause a deadlock, and how a person takes a lock from
//! its holder.

use super::request::{LockMatcher, LockRequest};
use super::{Locks, StealParts, lock_view};
use crate::base::error::{Error, ErrorKind};
use crate::base::ids::PeerId;
use crate::base::stored_enums::{LockOwner, MessageType};
use crate::core::peers::Peers;
use crate::core::waiting_calls::Waiting;
use crate::core::{CallContext, Mesh};
use crate::store::{LockRow, Message};
use serde_json::{Value, json};

/// Maximum number of waiting peers that the row of a lock names.
const NAMES_MAX: usize = 8;

/// The holder of a lock, or a peer that requests one, together with the owner of the lock (the peer itself, or a turn,
/// a subagent or a command of the peer).
type Party<'a> = (&'a PeerId, &'a LockOwner);

fn party(lock: &LockRow) -> Party<'_> {
    (&lock.holder, &lock.owner)
}

/// Whether two parties count as the same party in the search for deadlocks. Two commands of one peer are two parties,
/// but the peer itself counts as the same party as each of its commands.
fn is_same_party(a: Party, b: Party) -> bool {
    a.0 == b.0 && (a.1 == b.1 || a.1.is_shared() || b.1.is_shared())
}

/// The requests in the queue, prepared for comparison with locks.
pub(super) fn matchers(waiting: &Waiting) -> Vec<LockMatcher<'_>> {
    waiting.lock_requests().map(LockMatcher::new).collect()
}

/// The names of the peers that wait for a lock, in the order in which they requested it.
pub(super) fn names_for(peers: &Peers, lock: &LockRow, queue: &[LockMatcher]) -> Vec<String> {
    let others = queue.iter().filter(|matcher| matcher.request.holder != lock.holder && matcher.collides(lock));
    others.map(|matcher| peers.name_of(&matcher.request.holder)).take(NAMES_MAX).collect()
}

impl Locks {
    /// Ends all locks that conflict with a request, and notifies their holders. Only a person may do this.
    pub(super) fn steal(
        &mut self,
        parts: &mut StealParts,
        ctx: &CallContext,
        request: &LockRequest,
    ) -> Result<(), Error> {
        if !parts.peers.is_human(ctx.me()) {
            let text = "steal: only the human may take a lock away from its holder; wait, or ask the holder";
            return Err(Error::new(ErrorKind::Refused, text));
        }
        self.conflicts(parts.peers, request).iter().try_for_each(|lock| self.take_from_holder(parts, ctx, lock))
    }

    /// Ends the lock that has this path and this token. Only a person may do this. Returns false if there is no such
    /// lock, because it has already ended.
    pub(super) fn take_grant(
        &mut self,
        parts: &mut StealParts,
        ctx: &CallContext,
        path: &str,
        token: i64,
    ) -> Result<bool, Error> {
        if !parts.peers.is_human(ctx.me()) {
            return Err(Error::new(
                ErrorKind::Refused,
                "token: only the human may release another peer's lock; ask the holder to release it",
            ));
        }
        let Some(lock) = self.locks.iter().find(|lock| lock.token == token && lock.path == path).cloned() else {
            return Ok(false);
        };
        if lock.holder == ctx.me() {
            let StealParts { turn, peers, journal, .. } = parts;
            return self.release_path(turn, peers, journal, path, &lock.holder, &lock.owner, ctx.now);
        }
        self.take_from_holder(parts, ctx, &lock).map(|()| true)
    }

    /// Ends the lock of another peer and notifies that peer.
    fn take_from_holder(&mut self, parts: &mut StealParts, ctx: &CallContext, lock: &LockRow) -> Result<(), Error> {
        let StealParts { turn, peers, mail, journal, federation } = parts;
        self.release(turn, peers, journal, |other| other == lock, "stolen by the human", ctx.now)?;
        if peers.get(&lock.holder).is_some() && lock.holder != ctx.me() {
            let body = format!(
                "{} took your lock on {}. Do not write there until you hold the lock again.",
                peers.name_of(ctx.me()),
                lock.path
            );
            let note = Message { sender: ctx.my_id(), kind: MessageType::Alert, body, ..Message::default() };
            mail.post(turn, peers, journal, federation, note, std::slice::from_ref(&lock.holder), ctx.now)?;
        }
        Ok(())
    }

    /// Refuses a wait for a peer that already waits for the caller, directly or through other peers.
    pub(super) fn refuse_cycle(
        &self,
        peers: &Peers,
        waiting: &Waiting,
        request: &LockRequest,
        conflicts: &[LockRow],
    ) -> Result<(), Error> {
        let me: Party = (&request.holder, &request.owner);
        let mut ways: Vec<Vec<Party>> = conflicts.iter().map(|lock| vec![party(lock)]).collect();
        let mut visited: Vec<Party> = Vec::new();
        while let Some(way) = ways.pop() {
            let Some(last) = way.last().filter(|last| !visited.contains(last)).copied() else { continue };
            if is_same_party(last, me) && way.len() > 1 {
                let names: Vec<_> = way.iter().map(|(id, _)| peers.name_of(id)).collect();
                let text = format!(
                    "this wait would never end, because {} waits for {}; release your locks, or ask {} to release its locks",
                    names[..names.len() - 1].join(" waits for "),
                    peers.name_of(me.0),
                    names[0]
                );
                return Err(Error::new(ErrorKind::Refused, text).with(json!({ "cycle": names })));
            }
            visited.push(last);
            for other in waiting.lock_requests().filter(|other| is_same_party(last, (&other.holder, &other.owner))) {
                for lock in self.conflicting(peers, other) {
                    ways.push(way.iter().copied().chain([party(lock)]).collect());
                }
            }
        }
        Ok(())
    }
}

impl Mesh {
    /// The locks in force, each with the peers that wait for it, for observers. Returns at most `max` locks.
    pub fn observed_locks(&self, max: usize, now: i64) -> Vec<Value> {
        let queue = matchers(&self.waiting);
        let view = |lock: &LockRow| {
            let mut row = lock_view(&self.peers, lock, now);
            row["host"] = json!(lock.host);
            row["queue"] = json!(names_for(&self.peers, lock, &queue));
            row
        };
        self.locks.all().iter().take(max).map(view).collect()
    }
}
