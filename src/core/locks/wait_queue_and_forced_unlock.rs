//! The queue for locks. This module knows which callers are waiting, finds waits that would cause a deadlock, and takes
//! locks from their holders when a person asks for it.

use super::request_conflicts::{LockMatcher, LockRequest};
use super::{Locks, StealParts, lock_view};
use crate::base::domain_enums::{LockOwner, MessageType};
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::{FencingToken, PeerId};
use crate::base::json_text::JsonObjectText;
use crate::base::untrusted_text;
use crate::core::peers::Peers;
use crate::core::waiting_calls::Waiting;
use crate::core::{CallContext, Effect, Mesh};
use crate::store::{LockRow, Message};
use serde_json::{Value, json};

/// Maximum number of waiting peers that are listed with a lock.
const NAMES_MAX: usize = 8;

/// A party that holds or requests a lock. It consists of a peer and the lock's owner, which is the peer itself, or a
/// turn, a subagent or a command of the peer.
type Party<'a> = (&'a PeerId, &'a LockOwner);

fn party(lock: &LockRow) -> Party<'_> {
    (&lock.holder, &lock.owner)
}

fn requester(request: &LockRequest) -> Party<'_> {
    (&request.holder, &request.owner)
}

/// Whether two parties count as one in the search for deadlocks. Two commands of one peer are different parties. But
/// the peer itself counts as the same party as each of its commands.
fn is_same_party(a: Party, b: Party) -> bool {
    a.0 == b.0 && (a.1 == b.1 || a.1.is_shared() || b.1.is_shared())
}

/// Whether a party waits for this request. The party may be the requester itself, or a command inside which the
/// requester runs. Such a command does not end before the requester.
fn depends_on(party: Party, request: &LockRequest) -> bool {
    is_same_party(party, requester(request)) || is_around(party, request)
}

/// Whether a party is a command inside which the requester runs.
fn is_around(party: Party, request: &LockRequest) -> bool {
    matches!(party.1, LockOwner::Command(key) if request.outer_commands.contains(key))
}

/// Makes the error for a request that would close a cycle of waits. The parties of the cycle are listed in the order in
/// which they wait for each other.
fn cycle_error(peers: &Peers, cycle: &[Party]) -> Error {
    let names: Vec<_> = cycle.iter().map(|(id, _)| peers.name_of(id)).collect();
    let wait = |pair: &[String]| format!("{} is waiting for {}", pair[0], pair[1]);
    let waits: Vec<String> = names.windows(2).map(wait).collect();
    let (why, cure) = if waits.is_empty() {
        let why = "your call runs inside a command that holds a conflicting lock and does not release it before your \
                   call ends";
        (why.to_owned(), "use the lock that this command already holds".to_owned())
    } else if names.iter().all(|name| *name == names[0]) && cycle.iter().any(|one| !one.1.is_shared()) {
        let why = format!("commands of {} would wait for each other's locks", names[0]);
        (why, "lock all files in a single run of slm-mesh lock".to_owned())
    } else {
        (waits.join(" and "), format!("release your locks, or ask {} to release its locks", names[0]))
    };
    let text = format!("this wait would never end, because {why}; {cure}");
    Error::new(ErrorKind::Refused, text).with(json!({ "cycle": names }))
}

/// Prepares the requests in the queue for comparison with locks.
pub(super) fn matchers(waiting: &Waiting) -> Vec<LockMatcher<'_>> {
    waiting.lock_requests().map(LockMatcher::new).collect()
}

/// Whether the locks of `request`, if granted, would block the request in `matcher`.
fn would_block(peers: &Peers, request: &LockRequest, matcher: &LockMatcher) -> bool {
    request.paths.iter().any(|path| matcher.conflicts(peers, &request.grant(path, None, FencingToken::default(), 0)))
}

/// Returns the names of the peers that wait for a lock, in the order of the queue.
pub(super) fn names_for(peers: &Peers, lock: &LockRow, queue: &[LockMatcher]) -> Vec<String> {
    let others = queue.iter().filter(|matcher| matcher.conflicts(peers, lock));
    others.map(|matcher| peers.name_of(&matcher.request.holder)).take(NAMES_MAX).collect()
}

impl Locks {
    /// Ends all locks that conflict with a request, and notifies their holders. Only a person may do this. Returns
    /// notes for the person.
    pub(super) fn steal(
        &mut self,
        parts: &mut StealParts,
        ctx: &CallContext,
        request: &LockRequest,
    ) -> Result<Vec<String>, Error> {
        if !parts.peers.is_human(ctx.me()?) {
            let text = "steal: only the human may take a lock away from its holder; wait, or ask the holder";
            return Err(Error::new(ErrorKind::Refused, text));
        }
        let mut notes = Vec::new();
        for lock in self.conflicts(parts.peers, request) {
            notes.extend(self.take_from_holder(parts, ctx, &lock)?);
        }
        Ok(notes)
    }

    /// Ends the lock that has this path and this token. Only a person may do this. Returns notes for the person, or
    /// `None` if the lock has already ended.
    pub(super) fn take_grant(
        &mut self,
        parts: &mut StealParts,
        ctx: &CallContext,
        path: &str,
        token: FencingToken,
    ) -> Result<Option<Vec<String>>, Error> {
        if !parts.peers.is_human(ctx.me()?) {
            return Err(Error::new(
                ErrorKind::Refused,
                "token: only the human may release another peer's lock; ask the holder to release it",
            ));
        }
        let Some(lock) = self.locks.on_path(path).find(|lock| lock.token == token && lock.path == path).cloned() else {
            return Ok(None);
        };
        self.take_from_holder(parts, ctx, &lock).map(|note| Some(note.into_iter().collect()))
    }

    /// Ends a lock, and notifies its holder and the command that owns the lock. If the holder can't be notified,
    /// returns a note for the person who takes the lock. Also returns a note if the lock was this person's own: it may
    /// cover more files than the person now locks, or belong to a command that is still running.
    fn take_from_holder(
        &mut self,
        parts: &mut StealParts,
        ctx: &CallContext,
        lock: &LockRow,
    ) -> Result<Option<String>, Error> {
        let StealParts { turn, peers, mail, journal, federation } = parts;
        let is_own = lock.holder == *ctx.me()?;
        let reason = (!is_own).then_some("stolen by the human");
        self.release(turn, peers, journal, |other| other == lock, reason, ctx.now)?;
        let taker = peers.name_of(ctx.me()?);
        let params = JsonObjectText::default().text("filePath", &lock.path).text("by", &taker).finish();
        for conn in self.connections_of_command(lock) {
            turn.push(Effect::Notification { conn, method: "lock_taken", params: params.clone() });
        }
        if is_own {
            return Ok(Some(if lock.owner.is_shared() {
                format!("your own lock on {} has ended", lock.path)
            } else {
                format!("another command of yours held the lock on {}, and is still running without it", lock.path)
            }));
        }
        if peers.get(&lock.holder).is_none() {
            return Ok(None);
        }
        let body =
            format!("{taker} took your lock on {}. Do not write there until you hold the lock again.", lock.path);
        let note = Message { sender: ctx.me()?.clone(), kind: MessageType::Alert, body, ..Message::default() };
        match mail.post(turn, peers, journal, federation, note, std::slice::from_ref(&lock.holder), ctx.now) {
            Ok(_) => Ok(None),
            Err(error) if error.kind.is_storage() => Err(error),
            // A full mailbox is not an error here. Even if the holder is stuck, a person must be able to take the lock.
            Err(error) => Ok(Some(format!("{} could not be notified: {error}", peers.name_of(&lock.holder)))),
        }
    }

    /// Returns the first earlier request for which `request` must wait in line. An earlier request counts if it wants a
    /// file that the requester of `request` wants too, but does not hold yet. A request of a peer that is gone does not
    /// count, because it is granted only if the peer returns.
    ///
    /// An earlier request that waits for the requester, directly or through others, does not count either. Such a
    /// request can't be granted before the requester is done. So waiting in line never causes a deadlock, and only the
    /// waits for locks need a search for cycles.
    pub(super) fn first_ahead<'a>(
        &'a self,
        peers: &'a Peers,
        waiting: &'a Waiting,
        request: &'a LockRequest,
    ) -> Option<&'a LockRequest> {
        let new = LockRequest { paths: self.new_paths(request), ..request.clone() };
        let matcher = LockMatcher::new(&new);
        let ahead = waiting.lock_requests_ahead().find(|(conn, other)| {
            !is_same_party(requester(other), requester(request))
                && !peers.is_out_of_reach(&other.holder, *conn)
                && would_block(peers, other, &matcher)
                && !self.waits_for(peers, waiting, other, request)
        });
        ahead.map(|(_, other)| other)
    }

    /// Whether the requester waits, directly or through others, for a party that depends on the request `target`. A
    /// party waits for the holders of locks that block its request, and for earlier requests in line.
    fn waits_for(&self, peers: &Peers, waiting: &Waiting, request: &LockRequest, target: &LockRequest) -> bool {
        let requests: Vec<&LockRequest> = waiting.lock_requests().collect();
        let mut visited: Vec<Party> = Vec::new();
        let mut open = vec![requester(request)];
        while let Some(last) = open.pop() {
            if depends_on(last, target) {
                return true;
            }
            if visited.contains(&last) {
                continue;
            }
            visited.push(last);
            for (n_earlier, other) in requests.iter().enumerate() {
                if !depends_on(last, other) {
                    continue;
                }
                open.extend(self.conflicting(peers, other).map(party));
                let matcher = LockMatcher::new(other);
                let earlier = requests[..n_earlier].iter().filter(|earlier| would_block(peers, earlier, &matcher));
                open.extend(earlier.map(|earlier| requester(earlier)));
            }
        }
        false
    }

    /// Returns the error for a request that has timed out because an earlier request was still in line.
    pub(super) fn not_first_error(&self, peers: &Peers, ahead: &LockRequest) -> Error {
        let name = peers.name_of(&ahead.holder);
        let path = untrusted_text::shown_path(ahead.paths.first().map_or("", String::as_str));
        let text = format!(
            "{name} is ahead of you in line and is still waiting for {path}; wait longer with waitSeconds (--wait 60), \
             or ask {name} with mesh_send (slm-mesh send {name} \"…\")"
        );
        Error::new(ErrorKind::Held, text).with(json!({ "queue": [name] }))
    }

    /// Returns an error if a wait would never end, because the holder of a lock is already waiting for the caller,
    /// directly or through others.
    pub(super) fn refuse_cycle(
        &self,
        peers: &Peers,
        waiting: &Waiting,
        request: &LockRequest,
        conflicts: &[LockRow],
    ) -> Result<(), Error> {
        let mut ways: Vec<Vec<Party>> = conflicts.iter().map(|lock| vec![party(lock)]).collect();
        let mut visited: Vec<Party> = Vec::new();
        while let Some(way) = ways.pop() {
            let Some(last) = way.last().filter(|last| !visited.contains(last)).copied() else { continue };
            if is_around(last, request) || way.len() > 1 && is_same_party(last, requester(request)) {
                return Err(cycle_error(peers, &way));
            }
            visited.push(last);
            for other in waiting.lock_requests().filter(|other| depends_on(last, other)) {
                for lock in self.conflicting(peers, other) {
                    ways.push(way.iter().copied().chain([party(lock)]).collect());
                }
            }
        }
        Ok(())
    }
}

impl Mesh {
    /// Returns at most `max` locks for observers. Each lock is listed with the names of the peers that are waiting for
    /// it.
    pub fn observed_locks(&self, max: usize, now: i64) -> Vec<Value> {
        let queue = matchers(&self.waiting);
        let view = |lock: &LockRow| {
            let mut row = lock_view(&self.peers, lock, now);
            row["host"] = json!(lock.host);
            row["queue"] = json!(names_for(&self.peers, lock, &queue));
            row
        };
        self.locks.all().take(max).map(view).collect()
    }
}
