//! Runs calls: finds the acting peer, runs the operation inside a savepoint, and stores calls that must wait.

use super::op_behavior::{Notices, OpBehavior, RowStream};
use super::op_definition::WAITING_SINCE;
use super::pagination::Page;
use super::transaction_and_pending_effects::{Dirty, Effect};
use super::waiting_calls::{WaitReason, WaitingCall};
use super::{Args, ConnId, Mesh, Op};
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::{EventSeq, MessageSeq, PeerId};
use crate::base::limits;
use crate::base::process_identity::Process;
use serde_json::{Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What an operation returns.
#[derive(Debug)]
pub enum Outcome {
    /// The result of the operation.
    Ready(Value),
    /// There is no result yet. The operation runs again after each change that could end the wait. If there is no such
    /// change, it runs again at the given time, in ms.
    Pending(WaitReason, i64),
    /// The operation is refused, but the writes of the call are kept, for example the peer of a new session. A rule
    /// returns this instead of an error if refusals are common and must be quick. After an error, all writes are
    /// undone, and all peers and locks are loaded again.
    Refused(Error),
}

/// The kind of client that makes a call.
#[derive(Debug, Clone, Default)]
pub enum ClientKind {
    /// A model or a person reads the answers, so a long list is split into pages.
    #[default]
    Interactive,
    /// A program reads the answers over HTTP. It gets whole lists and long values, up to the limits for HTTP. It may act
    /// as a peer that the mesh does not know, and it may give relative paths.
    HttpProgram {
        /// The name of the rate limit that the call counts against. Several peers may share a limit. `None` if the call
        /// is not limited.
        budget: Option<String>,
    },
}

/// The context of a call: who calls, when, and whether the call is allowed to wait.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The connection on which the call arrived.
    pub conn: ConnId,
    /// The kind of the client.
    pub client: ClientKind,
    /// The id of the acting peer, if the caller acts as a peer.
    pub actor: Option<PeerId>,
    /// Whether a hook of the acting peer has announced the call. If so, it is certain that this peer makes the call.
    pub is_announced: bool,
    /// The current time, in ms.
    pub now: i64,
    /// The latest time at which a waiting call runs again, in ms. At that time, the call is answered, unless it waits
    /// for a wakeup. `None` if the call has not waited yet.
    pub until: Option<i64>,
    /// If the call waits for events, this is the sequence number after which they must come.
    pub event_cursor: Option<EventSeq>,
    /// If the call waits for messages, this is the sequence number after which they must come.
    pub message_cursor: Option<MessageSeq>,
    /// If the call waits for a wakeup, this is the time at which the wait ends, in ms.
    pub wakeup_end: Option<i64>,
    /// Whether the operation must answer now instead of waiting.
    pub must_answer_now: bool,
    /// The client's id for the call, unique on the connection.
    pub id: Value,
    /// The caller's ancestor processes, nearest first, if the transport could verify them.
    pub ancestors: Vec<Process>,
}

impl CallContext {
    /// Returns the context of a call over HTTP, which must be answered at once.
    pub fn over_http(client: ClientKind, actor: Option<PeerId>, now: i64) -> CallContext {
        CallContext {
            conn: ConnId::Http,
            client,
            actor,
            is_announced: false,
            now,
            until: None,
            event_cursor: None,
            message_cursor: None,
            wakeup_end: None,
            must_answer_now: true,
            id: Value::Null,
            ancestors: Vec::new(),
        }
    }

    /// The id of the calling peer. Only operations whose callers must be peers use this function.
    ///
    /// # Errors
    /// If the caller is no peer. If the operation has [`Auth::Required`](super::Auth), such a call is refused before
    /// the operation runs.
    pub fn me(&self) -> Result<&PeerId, Error> {
        let unknown = || Error::new(ErrorKind::Internal, "only a peer can make this call, but the caller is no peer");
        self.actor.as_ref().ok_or_else(unknown)
    }

    /// Whether this peer makes the call.
    pub fn is_by(&self, id: &PeerId) -> bool {
        self.actor.as_ref() == Some(id)
    }

    /// Returns the name of the rate limit that the call counts against; `None` if the call is not limited.
    pub fn budget(&self) -> Option<&str> {
        match &self.client {
            ClientKind::Interactive => self.actor.as_ref().map(PeerId::as_str),
            ClientKind::HttpProgram { budget } => budget.as_deref(),
        }
    }

    /// Makes an empty page for the answer.
    pub fn page(&self) -> Page {
        match self.client {
            ClientKind::Interactive => Page::default(),
            ClientKind::HttpProgram { .. } => Page::for_programs(),
        }
    }

    /// Whether the client is a program that uses HTTP.
    pub fn is_http_program(&self) -> bool {
        matches!(self.client, ClientKind::HttpProgram { .. })
    }

    /// Returns the time until which a call may wait, if it asks to wait for `seconds`. Returns `None` if the call must
    /// be answered now.
    pub fn wait(&self, seconds: Option<i64>) -> Option<i64> {
        let until = self.until.or_else(|| seconds.filter(|s| *s > 0).map(|s| self.now + s * 1000));
        until.filter(|until| !self.must_answer_now && *until > self.now)
    }
}

/// A call as it arrives on a connection.
#[derive(Debug)]
pub struct Call {
    /// The connection on which the call arrived.
    pub conn: ConnId,
    /// The client's id for the call, unique on the connection.
    pub id: Value,
    /// The operation to run.
    pub op: &'static Op,
    /// The arguments.
    pub args: Args,
    /// The name of the peer that the caller wants to act as, if the call contains such a name.
    pub acting: Option<String>,
    /// The session that started the caller's shell, if the shell's environment contains it.
    pub shell_session: Option<String>,
    /// The agent that started the caller's shell, if the shell's environment contains it.
    pub shell_agent: Option<String>,
    /// The caller's ancestor processes, nearest first, if the transport could verify them.
    pub ancestors: Vec<Process>,
}

/// The error text for the caller if an operation panicked. The log contains the panic itself.
const BUG: &str = "a bug in slm-mesh stopped this call, and nothing was changed; please report this bug and \
                   include the last lines of broker.log";

impl Mesh {
    /// Runs one call. The answer is an [`Effect::Reply`] of this turn, or of a later turn if the call has to wait.
    pub fn call(&mut self, call: Call, now: i64) {
        let mut ctx = CallContext {
            conn: call.conn,
            client: ClientKind::Interactive,
            actor: None,
            is_announced: false,
            now,
            until: None,
            event_cursor: None,
            message_cursor: None,
            wakeup_end: None,
            must_answer_now: false,
            id: call.id.clone(),
            ancestors: call.ancestors.clone(),
        };
        let announcer = self.peers.announcer(&call, now);
        ctx.is_announced = matches!(announcer, Ok(Some(_)));
        let acting = |id: Option<PeerId>| id.map_or_else(|| self.peers.acting_peer(&call), |id| Ok(Some(id)));
        match announcer.and_then(acting) {
            Ok(actor) => ctx.actor = actor,
            Err(error) => {
                self.turn.push(Effect::Reply { conn: call.conn, id: call.id, result: Err(error) });
                return;
            }
        }
        if let Some(id) = &ctx.actor {
            self.peers.touch(id, now);
        }
        let counts = |op: &Op| op.behavior.counts_as_waiting;
        let n_waiting =
            self.waiting.iter().filter(|waiting| waiting.ctx.conn == call.conn && counts(waiting.op)).count();
        ctx.must_answer_now = n_waiting >= limits::WAITS_MAX && counts(call.op);
        let since = call.args.int(WAITING_SINCE).unwrap_or(now).min(now);
        self.step(WaitingCall { ctx, op: call.op, args: call.args, since, reason: None }, None);
        self.resume_waiting(now);
    }

    /// Runs an operation immediately and returns its result, for a caller that can't wait.
    ///
    /// # Errors
    /// When the operation fails, or when it would have to wait.
    pub fn run(&mut self, op: &'static Op, args: &Args, ctx: &CallContext) -> Result<Value, Error> {
        let result = self.in_savepoint(|mesh| mesh.run_within_savepoint(op, args, ctx));
        self.resume_waiting(ctx.now);
        result
    }

    /// Does the same as [`Mesh::run`], for a caller that has already begun a savepoint, and that later resumes the waiting
    /// calls.
    ///
    /// # Errors
    /// When the operation fails, or when it would have to wait.
    pub fn run_within_savepoint(&mut self, op: &'static Op, args: &Args, ctx: &CallContext) -> Result<Value, Error> {
        match op.rule()?(self, ctx, args)? {
            Outcome::Ready(value) => Ok(value),
            Outcome::Refused(error) => Err(error),
            Outcome::Pending(..) => Err(Error::new(
                ErrorKind::Internal,
                format!("{} would have to wait, but this call must be answered at once", op.name),
            )),
        }
    }

    /// Runs a rule, such as the code of an operation, in a savepoint. If the rule fails, both its writes and its
    /// effects are undone.
    ///
    /// # Errors
    /// When the rule fails, or when it panics, which is an internal error.
    pub fn in_savepoint<T>(&mut self, rule: impl FnOnce(&mut Mesh) -> Result<T, Error>) -> Result<T, Error> {
        let n_effects = self.turn.effect_count();
        self.turn.store.begin_call();
        // A panic in a rule is a bug. Only the call that ran the rule may fail.
        let ruled = catch_unwind(AssertUnwindSafe(|| rule(self)));
        let result = ruled.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, BUG))).and_then(|value| {
            self.turn.store.end_call()?;
            self.turn.note_call_end(n_effects);
            Ok(value)
        });
        if let Err(error) = &result {
            self.turn.drop_effects(n_effects);
            self.waiting.restore_ended();
            if self.turn.undo_call() {
                self.reload();
            }
            if error.kind == ErrorKind::Damaged {
                // The database is damaged, and an error to the caller would not repair it. This effect ends the broker,
                // so that the next broker checks the file.
                self.turn.push(Effect::Log(error.clone()));
            }
        }
        self.waiting.keep_ended();
        result
    }

    /// Runs a call once. Afterwards, the call has been answered or is waiting. If the call waited before, `former` is
    /// its position in the queue. The call keeps this position if it must wait again.
    fn step(&mut self, mut call: WaitingCall, former: Option<usize>) {
        let place = self.waiting.begin(former, call.since);
        let result = self.in_savepoint(|mesh| match call.op.rule()?(mesh, &call.ctx, &call.args)? {
            Outcome::Ready(value) => Ok(Outcome::Ready(mesh.with_mail_notice(value, &call)?)),
            other => Ok(other),
        });
        let result = match result {
            Ok(Outcome::Pending(reason, until)) => {
                call.ctx.until = Some(until);
                match reason {
                    WaitReason::Events(cursor) => call.ctx.event_cursor = Some(cursor),
                    WaitReason::Messages(cursor) => call.ctx.message_cursor = Some(cursor),
                    WaitReason::Wakeup(_, end) => call.ctx.wakeup_end = Some(end),
                    WaitReason::Mail(_) | WaitReason::Locks(_) => {}
                }
                if call.reason.replace(reason).is_none() {
                    call.pin_peers(&self.peers);
                }
                // If other peers wait for locks of the caller, they now depend on this request, too. This can change
                // who is next in line, so all waiting requests for locks are checked again.
                let holds_up = call
                    .lock_request()
                    .is_some_and(|request| !request.outer_commands.is_empty() || self.locks.has_any(&request.holder));
                self.turn.dirty.locks |= former.is_none() && holds_up;
                self.waiting.insert(place, call);
                return;
            }
            Ok(Outcome::Ready(value)) => Ok(value),
            Ok(Outcome::Refused(error)) | Err(error) => Err(error),
        };
        self.turn.push(Effect::Reply { conn: call.ctx.conn, id: call.ctx.id, result });
    }

    /// Adds notices for the caller, such as the number of unread messages, to a result.
    fn with_mail_notice(&mut self, mut value: Value, call: &WaitingCall) -> Result<Value, Error> {
        let OpBehavior { notices, stream, .. } = call.op.behavior;
        let shows_mail =
            stream == Some(RowStream::Messages) && stream.is_some_and(|stream| !stream.rows(&value).is_empty());
        let is_shown = call.op.tool.is_some() || call.op.verb.is_some();
        let new = value["you"]["id"].as_str().filter(|_| notices == Notices::ForNewPeer).map(PeerId::from);
        let actor = match notices {
            Notices::ForCaller => call.ctx.actor.as_ref(),
            Notices::ForNewPeer => new.as_ref().or(call.ctx.actor.as_ref()),
            Notices::None => return Ok(value),
        };
        let notice = actor.filter(|_| is_shown).map(|id| self.peers.take_notice(&mut self.turn, id)).transpose()?;
        if let Some(notice) = notice.flatten()
            && let Some(object) = value.as_object_mut()
        {
            object.insert("notice".into(), json!(notice));
        }
        if let Some(note) =
            actor.filter(|_| call.op.tool.is_some()).and_then(|id| self.peers.caller_note(&call.ctx, id))
            && let Some(object) = value.as_object_mut()
        {
            object.insert("actedAs".into(), note);
        }
        let Some(id) = actor.filter(|_| !shows_mail) else { return Ok(value) };
        let unread = self.mail.unread(&self.turn.store, id).unwrap_or(0);
        if unread > 0
            && let (Some(object), Ok(from)) =
                (value.as_object_mut(), self.mail.unread_senders(&self.turn.store, &self.peers, id))
        {
            object.insert("mail".into(), json!({ "unread": unread, "from": from }));
        }
        Ok(value)
    }

    /// Reruns the waiting calls that a change affects, in the order of the queue.
    pub fn resume_waiting(&mut self, now: i64) {
        // The answer to one call may affect other waiting calls, so the calls are checked again until none is affected.
        for _ in 0..=self.waiting.len() {
            let dirty = std::mem::take(&mut self.turn.dirty);
            if !self.waiting.is_any_due(&dirty) {
                break;
            }
            let mut start = 0;
            while let Some(place) = self.waiting.position(start, |call| call.is_due(&dirty)) {
                let mut call = self.waiting.remove(place);
                call.ctx.now = now;
                let n_left = self.waiting.len();
                self.step(call, Some(place));
                start = if self.waiting.len() == n_left { place } else { place + 1 };
            }
        }
        self.turn.dirty = Dirty::default();
    }

    /// Reruns the waiting calls whose time is up. All of them are answered, except those that continue to wait for a
    /// wakeup.
    pub(super) fn end_waits(&mut self, now: i64) {
        if self.waiting.deadline().is_none_or(|until| until > now) {
            return;
        }
        let is_due = |call: &WaitingCall| call.ctx.until.is_some_and(|until| until <= now);
        while let Some(place) = self.waiting.position(0, is_due) {
            let mut call = self.waiting.remove(place);
            call.ctx.now = now;
            call.ctx.must_answer_now = true;
            // If this call waits for locks, later requests may be in line behind it, so they are checked again.
            self.turn.dirty.locks |= call.lock_request().is_some();
            self.step(call, Some(place));
        }
    }

    /// Cancels a call. A call that is still waiting has changed nothing, and gets no answer. If the call has just been
    /// granted locks, it loses them, because the client drops the answer.
    pub fn cancel(&mut self, conn: ConnId, id: &Value, now: i64) {
        if self.waiting.cancel(conn, id) {
            self.turn.dirty.locks = true;
        } else {
            let undone = self.in_savepoint(|mesh| {
                let Mesh { turn, peers, locks, journal, .. } = mesh;
                locks.cancel_grant(turn, peers, journal, conn, id, now)
            });
            self.turn.log_error(undone);
        }
        self.resume_waiting(now);
    }
}
