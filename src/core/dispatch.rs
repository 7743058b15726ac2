//! Calls: from asking to answering, with the waiting in between.

use crate::base::error::{Error, ErrorKind};
use crate::base::limits;
use crate::base::process::Process;
use crate::core::{Args, ConnId, Mesh, Op, locks::request, mail, mail::receipts, peers::sessions};
use crate::store::{Event, Message};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// What an operation answers.
#[derive(Debug)]
pub enum Outcome {
    /// The result.
    Ready(Value),
    /// Nothing yet: ask again when something of this sort stirs, at the latest then (ms).
    Pending(WaitReason, i64),
}

/// What a waiting call waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// Mail for this peer.
    Mail(String),
    /// An event after this cursor.
    Events(i64),
    /// Mail that this peer may be woken over, until then (ms); asked again before if time will tell.
    Wakeup(String, i64),
    /// A lock that fell; this is what is wanted.
    Locks(Rc<request::LockRequest>),
}

/// Who calls, when, and whether the call may still wait.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The connection it came over; 0 for the HTTP thread.
    pub conn: ConnId,
    /// The acting peer's id, if one is known.
    pub actor: Option<String>,
    /// Now, ms.
    pub now: i64,
    /// When its wait ends, if it has waited before.
    pub until: Option<i64>,
    /// Where the stream stood when it began to wait for events, or the end of a bell's wait.
    pub stood: Option<i64>,
    /// Set when it must answer now.
    pub last: bool,
    /// The call's own id on its connection.
    pub id: Value,
    /// Processes above the caller, nearest first, where the transport could prove them.
    pub chain: Vec<Process>,
}

impl CallContext {
    /// The acting peer's id; [`Auth::Required`](crate::core::Auth) guarantees it.
    pub fn me(&self) -> &str {
        self.actor.as_deref().unwrap_or("")
    }

    /// Until when a call that asks for `seconds` may wait, or `None` when it must answer now.
    pub fn wait(&self, seconds: Option<i64>) -> Option<i64> {
        let until = self.until.or_else(|| seconds.filter(|s| *s > 0).map(|s| self.now + s * 1000));
        until.filter(|until| !self.last && *until > self.now)
    }
}

/// A call as it comes from a connection.
#[derive(Debug)]
pub struct Call {
    /// Its connection.
    pub conn: ConnId,
    /// Its id there.
    pub id: Value,
    /// What it asks for.
    pub op: &'static Op,
    /// With what.
    pub args: Args,
    /// The peer that it wants to act as.
    pub acting: Option<String>,
    /// Processes above the caller, nearest first, where the transport could prove them.
    pub chain: Vec<Process>,
}

/// What shall leave once the turn is committed.
#[allow(missing_docs)] // each variant's line says what its fields are
#[derive(Debug)]
pub enum Effect {
    /// The answer to a call.
    Reply { conn: ConnId, id: Value, result: Result<Value, Error> },
    /// Something that a connection should know.
    Notification { conn: ConnId, method: &'static str, params: Value },
    /// Mail for a peer that takes pushes on its own Unix socket.
    PeerPush { peer: String, seq: i64, from: String, body: String },
    /// An event, for such peers to hear of, and for who looks on.
    Event(Rc<Event>),
    /// A message that was sent or got further, for who looks on.
    Message(Rc<Message>),
}

/// A call that waits.
#[derive(Debug)]
pub(crate) struct WaitingCall {
    pub(crate) ctx: CallContext,
    pub(crate) op: &'static Op,
    pub(crate) args: Args,
    /// Known once it was asked.
    pub(crate) on: Option<WaitReason>,
}

/// What changed since the waiting calls were last looked at.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    pub(crate) mail: BTreeSet<String>,
    pub(crate) events: bool,
    pub(crate) locks: bool,
}

/// What a caller hears when a rule panicked; the panic itself is in the log.
const BUG: &str = "a bug in slm-mesh: nothing was changed; broker.log says where, please report it";

fn is_bell(op: &Op) -> bool {
    op.name == crate::core::mail::wakeups::WAKE.name
}

impl Mesh {
    /// Runs one call; its answer comes through the outbox, now or when its wait ends.
    pub fn call(&mut self, call: Call, now: i64) {
        let mut ctx = CallContext {
            conn: call.conn,
            actor: None,
            now,
            until: None,
            stood: None,
            last: false,
            id: call.id.clone(),
            chain: call.chain.clone(),
        };
        match self.actor(&call) {
            Ok(actor) => ctx.actor = actor,
            Err(error) => {
                self.out.push(Effect::Reply { conn: call.conn, id: call.id, result: Err(error) });
                return;
            }
        }
        if let Some(peer) = ctx.actor.as_ref().and_then(|id| self.peer_mut(id)) {
            peer.active = now;
        }
        let n_waiting = self.waits.iter().filter(|wait| wait.ctx.conn == call.conn && !is_bell(wait.op)).count();
        // Who would wake a peer waits beside its calls; one for each peer, so these are bounded, too.
        ctx.last = n_waiting >= limits::WAITS_MAX && !is_bell(call.op);
        self.step(WaitingCall { ctx, op: call.op, args: call.args, on: None }, None);
        self.settle(now);
    }

    /// Runs an operation at once and hands its result back, for callers that can't wait.
    pub fn run(&mut self, op: &'static Op, args: &Args, ctx: &CallContext) -> Result<Value, Error> {
        let result = self.scoped(|mesh| (op.run)(mesh, ctx, args));
        self.settle(ctx.now);
        match result? {
            Outcome::Ready(value) => Ok(value),
            Outcome::Pending(..) => {
                Err(Error::new(ErrorKind::Internal, format!("{} waited where it must not", op.name)))
            }
        }
    }

    /// Runs a rule whose writes and pushes vanish together if it fails.
    pub fn scoped<T>(&mut self, rule: impl FnOnce(&mut Mesh) -> Result<T, Error>) -> Result<T, Error> {
        let n_out = self.out.len();
        self.store.begin_call();
        // A panic in a rule is a bug; it costs this call and nothing else.
        let ruled = catch_unwind(AssertUnwindSafe(|| rule(self)));
        let result = ruled.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, BUG))).and_then(|value| {
            self.store.end_call()?;
            Ok(value)
        });
        if result.is_err() {
            self.out.truncate(n_out);
            self.undo();
        }
        result
    }

    /// Takes back the running call, in the store and in memory.
    fn undo(&mut self) {
        let wrote = self.store.call_wrote();
        if let Err(error) = self.store.undo_call() {
            // The connection to the file is in doubt: give up the whole turn.
            // Nothing that was answered in this turn is true any more, as its commit will say.
            self.store.rollback();
            self.broken = Some(Error::new(ErrorKind::Storage, error.to_string()));
            self.out.push(Effect::Notification { conn: 0, method: "log", params: json!(error.to_string()) });
        }
        if wrote {
            self.reload();
        }
    }

    /// One step of a call: an answer, or a place in the queue of those that wait. `place` is the
    /// place that it had there, which it keeps.
    pub(crate) fn step(&mut self, mut wait: WaitingCall, place: Option<usize>) {
        let result = self.scoped(|mesh| match (wait.op.run)(mesh, &wait.ctx, &wait.args)? {
            Outcome::Ready(value) => Ok(Outcome::Ready(mesh.with_mail(value, &wait))),
            later => Ok(later),
        });
        let result = match result {
            Ok(Outcome::Pending(on, until)) => {
                wait.ctx.until = Some(until);
                if let WaitReason::Events(kept) | WaitReason::Wakeup(_, kept) = on {
                    wait.ctx.stood = Some(kept);
                }
                wait.on = Some(on);
                let place = place.unwrap_or(self.waits.len()).min(self.waits.len());
                self.waits.insert(place, wait);
                return;
            }
            Ok(Outcome::Ready(value)) => Ok(value),
            Err(error) => Err(error),
        };
        self.out.push(Effect::Reply { conn: wait.ctx.conn, id: wait.ctx.id, result });
    }

    /// Every result tells its caller of mail that is waiting.
    fn with_mail(&mut self, mut value: Value, wait: &WaitingCall) -> Value {
        if wait.op.name == receipts::MARK_READ_.name || wait.op.name == sessions::DETACH.name {
            return value;
        }
        let shown = if wait.op.name == mail::INBOX.name { value["messages"].as_array().map_or(0, Vec::len) } else { 0 };
        let Some(id) = wait.ctx.actor.clone() else { return value };
        let unread = self.unread(&id).unwrap_or(0) - shown as i64;
        if unread > 0
            && shown == 0
            && let (Some(object), Ok(from)) = (value.as_object_mut(), self.mail_from(&id))
        {
            object.insert("mail".into(), json!({ "unread": unread, "from": from }));
        }
        value
    }

    /// Asks the waiting calls again whose matter stirred, in the order in which they came.
    pub fn settle(&mut self, now: i64) {
        // Each round answers at least one call or ends, and an answer may stir others.
        for _ in 0..=self.waits.len() {
            let stirred = std::mem::take(&mut self.stirred);
            let due = |wait: &WaitingCall| match &wait.on {
                Some(WaitReason::Mail(peer) | WaitReason::Wakeup(peer, _)) => stirred.mail.contains(peer),
                Some(WaitReason::Events(_)) => stirred.events,
                Some(WaitReason::Locks(_)) => stirred.locks,
                None => false,
            };
            let Some(first) = self.waits.iter().position(due) else { break };
            let mut place = first;
            while place < self.waits.len() {
                if due(&self.waits[place]) {
                    let mut wait = self.waits.remove(place);
                    wait.ctx.now = now;
                    let n_before = self.waits.len();
                    self.step(wait, Some(place));
                    if self.waits.len() == n_before {
                        continue;
                    }
                }
                place += 1;
            }
        }
        self.stirred = Dirty::default();
    }

    /// Forgets a waiting call; nothing was consumed, nothing is answered.
    pub fn cancel(&mut self, conn: ConnId, id: &Value, now: i64) {
        let n_before = self.waits.len();
        self.waits.retain(|wait| wait.ctx.conn != conn || wait.ctx.id != *id);
        if self.waits.len() < n_before {
            self.stirred.locks = true;
            self.settle(now);
        }
    }

    /// Counts a call against its sender: `cost` tenths of a message.
    pub fn limit(&mut self, key: &str, cost: u32, now: i64) -> Result<(), Error> {
        if self.rates.len() > limits::PEERS_MAX {
            self.rates.retain(|_, (since, _)| now - *since < limits::RATE_WINDOW_MS);
        }
        let max = self.settings.rate_max.saturating_mul(10);
        let (since, spent) = self.rates.entry(key.to_owned()).or_insert((now, 0));
        if now - *since >= limits::RATE_WINDOW_MS {
            (*since, *spent) = (now, 0);
        }
        if *spent + cost > max {
            let wait = (limits::RATE_WINDOW_MS - (now - *since) + 999) / 1000;
            let name = self.peers.iter().find(|peer| peer.row.id == key).map_or(key, |peer| &peer.row.name);
            let text = format!(
                "rate limit: {name} sent more than {} messages (or ten times as many changes) in {} s; \
                 wait {wait} s, or raise SLM_MESH_RATE",
                self.settings.rate_max,
                limits::RATE_WINDOW_MS / 1000
            );
            return Err(Error::new(ErrorKind::Limited, text).with(json!({ "retryAfterSeconds": wait })));
        }
        *spent += cost;
        Ok(())
    }
}
