//! Calls that are waiting for mail, for events, for a lock, or for a time at which a session may be woken.

use super::locks::request_conflicts::LockRequest;
use super::peers::Peers;
use super::transaction_and_pending_effects::Dirty;
use super::{Args, CallContext, ConnId, Op};
use crate::base::id_types::{EventSeq, MessageSeq, PeerId};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// These arguments of a waiting call can contain the name of a peer.
const PEER_ARGUMENTS: [&str; 2] = ["from", "with"];

/// The reason why a call is waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// The call is waiting for a message to this peer.
    Mail(PeerId),
    /// The call is waiting for an event after this cursor.
    Events(EventSeq),
    /// The call is waiting for any message after this cursor.
    Messages(MessageSeq),
    /// The call is waiting for a message that may wake this peer. The wait ends at this time, in ms, even if there is
    /// no such message.
    Wakeup(PeerId, i64),
    /// The call is waiting until no lock conflicts with this request, and no earlier request for the same files is
    /// waiting.
    Locks(Rc<LockRequest>),
}

/// A call that is waiting.
#[derive(Debug)]
pub(super) struct WaitingCall {
    pub(super) ctx: CallContext,
    pub(super) op: &'static Op,
    pub(super) args: Args,
    /// The time at which the caller began to wait, in ms. If a call is repeated after a lost connection, the call
    /// contains this time, by the caller's clock. If this time is in the future, the time at which the call arrived is
    /// used instead.
    pub(super) since: i64,
    /// The reason why the call is waiting; `None` before the operation has run for the first time.
    pub(super) reason: Option<WaitReason>,
}

impl WaitingCall {
    /// Whether the call must run again because of the changes in `dirty`.
    pub(super) fn is_due(&self, dirty: &Dirty) -> bool {
        match &self.reason {
            Some(WaitReason::Mail(peer) | WaitReason::Wakeup(peer, _)) => dirty.mail.contains(peer),
            Some(WaitReason::Events(_)) => dirty.events,
            Some(WaitReason::Messages(_)) => !dirty.mail.is_empty(),
            Some(WaitReason::Locks(_)) => dirty.locks,
            None => false,
        }
    }

    /// Replaces the names of peers in the arguments with ids, because a peer may be renamed while the call is waiting.
    pub(super) fn pin_peers(&mut self, peers: &Peers) {
        for argument in PEER_ARGUMENTS {
            if let Some(id) = self.args.text(argument).and_then(|name| peers.resolve(self.ctx.conn, name).ok()) {
                self.args.replace(argument, json!(id.as_str()));
            }
        }
    }

    /// Returns the call's lock request, if the call is waiting for locks.
    pub(super) fn lock_request(&self) -> Option<&LockRequest> {
        match &self.reason {
            Some(WaitReason::Locks(request)) => Some(request),
            _ => None,
        }
    }

    /// Whether the call is waiting for a message that may wake this peer.
    pub(super) fn would_wake(&self, id: &PeerId) -> bool {
        matches!(&self.reason, Some(WaitReason::Wakeup(of, _)) if of == id)
    }
}

/// What the waiting calls wait for. With thousands of sessions, most turns concern no waiting call. Such a turn must
/// not check every waiting call.
#[derive(Debug, Default)]
struct WaitIndex {
    /// For each peer, the number of calls that wait for mail to this peer.
    mail: HashMap<PeerId, usize>,
    n_messages: usize,
    n_events: usize,
    n_locks: usize,
    /// For each time, in ms, the number of calls whose wait ends then.
    ends: BTreeMap<i64, usize>,
}

impl WaitIndex {
    fn add(&mut self, call: &WaitingCall) {
        match &call.reason {
            Some(WaitReason::Mail(peer) | WaitReason::Wakeup(peer, _)) => {
                *self.mail.entry(peer.clone()).or_default() += 1;
            }
            Some(WaitReason::Messages(_)) => self.n_messages += 1,
            Some(WaitReason::Events(_)) => self.n_events += 1,
            Some(WaitReason::Locks(_)) => self.n_locks += 1,
            None => {}
        }
        if let Some(until) = call.ctx.until {
            *self.ends.entry(until).or_default() += 1;
        }
    }

    fn remove(&mut self, call: &WaitingCall) {
        match &call.reason {
            Some(WaitReason::Mail(peer) | WaitReason::Wakeup(peer, _)) => {
                if let Some(n) = self.mail.get_mut(peer) {
                    *n -= 1;
                    if *n == 0 {
                        self.mail.remove(peer);
                    }
                }
            }
            Some(WaitReason::Messages(_)) => self.n_messages -= 1,
            Some(WaitReason::Events(_)) => self.n_events -= 1,
            Some(WaitReason::Locks(_)) => self.n_locks -= 1,
            None => {}
        }
        if let Some(until) = call.ctx.until
            && let Some(n) = self.ends.get_mut(&until)
        {
            *n -= 1;
            if *n == 0 {
                self.ends.remove(&until);
            }
        }
    }

    /// Whether [`WaitingCall::is_due`] would return true for any call.
    fn is_any_due(&self, dirty: &Dirty) -> bool {
        dirty.events && self.n_events > 0
            || dirty.locks && self.n_locks > 0
            || !dirty.mail.is_empty() && self.n_messages > 0
            || dirty.mail.iter().any(|peer| self.mail.contains_key(peer))
    }
}

/// The line of waiting calls, in the order in which their callers began to wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    calls: Vec<WaitingCall>,
    index: WaitIndex,
    /// The waiting calls that the current rule has ended. Each call is stored with its former position. If the rule
    /// fails, these calls are put back.
    ended: Vec<(usize, WaitingCall)>,
    /// The call that is running now may have waited before. This is the number of calls that wait ahead of it.
    n_ahead: usize,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// All waiting calls. The call that has waited longest comes first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &WaitingCall> {
        self.calls.iter()
    }

    /// The position of the first matching call at or after `start`.
    pub(super) fn position(&self, start: usize, fits: impl Fn(&WaitingCall) -> bool) -> Option<usize> {
        self.calls.iter().skip(start).position(fits).map(|n| n + start)
    }

    /// Removes a call from the line of waiting calls, because the call is about to run again.
    pub(super) fn remove(&mut self, place: usize) -> WaitingCall {
        let call = self.calls.remove(place);
        self.index.remove(&call);
        call
    }

    /// Records that a call begins to run, and returns its position in the line of waiting calls. A call that has
    /// already waited keeps its former position. Any other call is placed behind all calls whose callers began to wait
    /// earlier.
    pub(super) fn begin(&mut self, former: Option<usize>, since: i64) -> usize {
        let behind_older = || self.calls.iter().rposition(|call| call.since <= since).map_or(0, |last| last + 1);
        self.n_ahead = former.unwrap_or_else(behind_older).min(self.calls.len());
        self.n_ahead
    }

    /// Inserts a call at this position in the line of waiting calls.
    pub(super) fn insert(&mut self, place: usize, call: WaitingCall) {
        self.index.add(&call);
        self.calls.insert(place.min(self.calls.len()), call);
    }

    /// Whether any call must run again because of the changes in `dirty`.
    pub(super) fn is_any_due(&self, dirty: &Dirty) -> bool {
        self.index.is_any_due(dirty)
    }

    /// The next time, in ms, at which a waiting call must run again even if nothing has changed.
    pub(super) fn deadline(&self) -> Option<i64> {
        self.index.ends.first_key_value().map(|(until, _)| *until)
    }

    /// The waiting lock requests, in the order in which their callers began to wait.
    pub(super) fn lock_requests(&self) -> impl Iterator<Item = &LockRequest> {
        self.calls.iter().filter_map(WaitingCall::lock_request)
    }

    /// The lock requests of the waiting calls that are ahead of the current call, and the connections of these calls.
    pub(super) fn lock_requests_ahead(&self) -> impl Iterator<Item = (ConnId, &LockRequest)> {
        let ahead = self.calls.iter().take(self.n_ahead);
        ahead.filter_map(|call| Some((call.ctx.conn, call.lock_request()?)))
    }

    /// Removes and returns the matching calls.
    pub(super) fn extract(&mut self, fits: impl Fn(&WaitingCall) -> bool) -> Vec<WaitingCall> {
        let found: Vec<WaitingCall> = self.calls.extract_if(.., |call| fits(call)).collect();
        found.iter().for_each(|call| self.index.remove(call));
        found
    }

    /// Ends the waits of the matching calls. If the current rule fails, these calls wait again. Returns the
    /// connections, ids and wait reasons of these calls.
    pub(super) fn end(&mut self, fits: impl Fn(&WaitingCall) -> bool) -> Vec<(ConnId, Value, Option<WaitReason>)> {
        let mut ended = Vec::new();
        while let Some(place) = self.position(0, &fits) {
            let call = self.remove(place);
            self.n_ahead -= usize::from(place < self.n_ahead);
            ended.push((call.ctx.conn, call.ctx.id.clone(), call.reason.clone()));
            self.ended.push((place, call));
        }
        ended
    }

    /// Forgets the calls that the current rule has ended. The rule has succeeded, so these calls are not put back.
    pub(super) fn keep_ended(&mut self) {
        self.ended.clear();
    }

    /// Puts back the calls that the current rule has ended. These calls continue to wait, because the rule has failed.
    pub(super) fn restore_ended(&mut self) {
        for (place, call) in std::mem::take(&mut self.ended).into_iter().rev() {
            self.insert(place, call);
        }
    }

    /// Whether this connection has a waiting call.
    pub(super) fn has_call_of(&self, conn: ConnId) -> bool {
        self.calls.iter().any(|call| call.ctx.conn == conn)
    }

    /// Removes one call. Returns whether the call was waiting.
    pub(super) fn cancel(&mut self, conn: ConnId, id: &Value) -> bool {
        !self.extract(|call| call.ctx.conn == conn && call.ctx.id == *id).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ClientKind;
    use crate::core::peers::WHOAMI;

    fn call(id: i64) -> WaitingCall {
        let ctx = CallContext {
            conn: crate::core::ConnId::Client(1),
            client: ClientKind::default(),
            actor: None,
            is_announced: false,
            now: 0,
            until: None,
            event_cursor: None,
            message_cursor: None,
            wakeup_end: None,
            must_answer_now: false,
            id: json!(id),
            ancestors: Vec::new(),
        };
        WaitingCall { ctx, op: &WHOAMI, args: WHOAMI.check(serde_json::Map::new()).unwrap(), since: 0, reason: None }
    }

    #[test]
    fn the_index_finds_the_same_calls_as_a_look_at_each() {
        let reasons = [
            Some(WaitReason::Mail("a".into())),
            Some(WaitReason::Wakeup("b".into(), 9)),
            Some(WaitReason::Mail("b".into())),
            Some(WaitReason::Messages(MessageSeq(1))),
            Some(WaitReason::Events(EventSeq(1))),
            None,
        ];
        let changes: Vec<Dirty> = (0..16)
            .map(|bits: u32| Dirty {
                events: bits & 1 != 0,
                locks: bits & 2 != 0,
                mail: [(4, "a"), (8, "b")]
                    .iter()
                    .filter(|(bit, _)| bits & bit != 0)
                    .map(|(_, id)| (*id).into())
                    .collect(),
            })
            .collect();
        let mut waiting = Waiting::default();
        let check = |waiting: &Waiting| {
            for dirty in &changes {
                assert_eq!(waiting.is_any_due(dirty), waiting.iter().any(|call| call.is_due(dirty)), "{dirty:?}");
            }
            assert_eq!(waiting.deadline(), waiting.iter().filter_map(|call| call.ctx.until).min());
        };
        // Each step adds or removes a call. The steps are random, so they produce many combinations.
        let mut step: u64 = 7;
        for n in 0..400 {
            step = step.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let random = (step >> 33) as usize;
            if random.is_multiple_of(2) || waiting.is_empty() {
                let mut new = call(n);
                new.reason.clone_from(&reasons[random / 2 % reasons.len()]);
                new.ctx.until = (random / 16).is_multiple_of(3).then_some((random / 64 % 5) as i64);
                waiting.insert(random / 8, new);
            } else {
                match random / 2 % 3 {
                    0 => drop(waiting.remove(random % waiting.len())),
                    1 => drop(waiting.extract(|call| call.ctx.id == json!(n / 2))),
                    _ => {
                        waiting.end(|call| call.ctx.until == Some((random / 64 % 5) as i64));
                        if (random / 8).is_multiple_of(2) { waiting.restore_ended() } else { waiting.keep_ended() }
                    }
                }
            }
            check(&waiting);
        }
    }

    #[test]
    fn calls_that_a_failed_rule_ended_keep_their_places_in_the_line() {
        let mut waiting = Waiting::default();
        (0..6).for_each(|id| waiting.insert(usize::MAX, call(id)));
        let ids = |waiting: &Waiting| -> Vec<Value> { waiting.iter().map(|call| call.ctx.id.clone()).collect() };
        assert_eq!(waiting.end(|call| call.ctx.id.as_i64() >= Some(4)).len(), 2);
        waiting.keep_ended();
        for odd in [1, 0] {
            waiting.end(|call| call.ctx.id.as_i64().is_some_and(|id| id % 2 == odd));
        }
        assert!(waiting.is_empty());
        waiting.restore_ended();
        assert_eq!(ids(&waiting), [0, 1, 2, 3]);
    }
}
