//! Wakeups: mail can wake an idle session through a channel. A channel is a way to make an agent's client begin a turn.
//! A program that can use a channel calls [`WAIT`], and wakes the session when the call returns. The program then
//! reports the result.
//!
//! **Invariant:** a session is woken by a fixed sentence, never by text that a peer wrote. Messages that arrive
//! together cause one attempt. The conditions are checked again just before the attempt. The number of attempts per
//! peer and hour is limited. No attempt is made if agents would keep waking each other.

use super::Mail;
use crate::base::domain_enums::WakeupOutcome;
use crate::base::error::Error;
use crate::base::id_types::{MessageSeq, PeerId};
use crate::base::{limits, time_format};
use crate::core::arguments_that_identify_session::{OPTIONAL_NAMING, session_args};
use crate::core::hook_operations;
use crate::core::op_behavior::OpBehavior;
use crate::core::op_definition::{ArgKind, Runner};
use crate::core::peers::Peers;
use crate::core::transaction_and_pending_effects::{Effect, Turn};
use crate::core::waiting_calls::{WaitReason, Waiting, WaitingCall};
use crate::core::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome};
use crate::store::{Message, MessageFilter, Store, WakeupRow};
use serde_json::{Value, json};

/// Maximum number of messages that together cause one attempt to wake a session. The receipts of all these messages
/// show the attempt.
const NOTED_MAX: i64 = 20;
/// Maximum number of senders in the sentence that wakes a session.
const NAMED_MAX: usize = 3;

const CHANNEL: Arg =
    Arg::new("channel", ArgKind::Text { min: 1, max: 64 }, "Wakeup channel").required().at(CliPlace::Hidden);

/// Waits until a session may be woken.
pub static WAIT: Op = Op {
    name: "wakeup.wait",
    summary: "Wait for direct mail that should wake this session through the given wakeup channel",
    args: session_args![
        OPTIONAL_NAMING;
        CHANNEL,
        Arg::new("rank", ArgKind::Int { min: 0, max: 100 }, "Rank of the channel; channels with a lower rank are tried \
                                                             first")
            .at(CliPlace::Hidden),
        Arg::wait_seconds("Maximum number of seconds to wait").at(CliPlace::Hidden),
    ],
    actor: Auth::Hook,
    verb: None,
    tool: None,
    repeatable: true,
    // These calls need no limit, because a connection has at most one of them for each pair of peer and wakeup channel.
    behavior: OpBehavior { counts_as_waiting: false, ..OpBehavior::USUAL },
    run: Runner::Rule(wait),
};

/// Reports the result of an attempt.
pub static REPORT: Op = Op {
    name: "wakeup.report",
    summary: "Report whether the wakeup was delivered; the receipts of the messages that caused it show the result",
    args: &[
        CHANNEL,
        Arg::new("lastSeq", ArgKind::Int { min: 0, max: i64::MAX }, "`lastSeq` from the answer to wakeup.wait")
            .required()
            .at(CliPlace::Hidden),
        Arg::new("failed", ArgKind::Text { min: 0, max: 200 }, "Why the wakeup failed, if it failed")
            .at(CliPlace::Hidden),
    ],
    actor: Auth::Required,
    verb: None,
    tool: None,
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(report),
};

/// An attempt to wake a session.
#[derive(Debug)]
pub(super) struct WakeupAttempt {
    to: PeerId,
    /// The senders of the messages that caused the attempt.
    from: Vec<PeerId>,
    at: i64,
    failed: bool,
}

/// When to wake a session.
enum WakeupTime {
    /// Wake the session now, because of these messages.
    Now(Vec<Message>),
    /// Do not wake the session before this time, in ms.
    At(i64),
    /// Do not wake the session, unless the situation changes.
    Never,
}

fn wait(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let id = match &ctx.actor {
        Some(id) => id.clone(),
        None => hook_operations::session_of_hook(&mut mesh.session_parts(), ctx, args)?,
    };
    let Mesh { turn, peers, mail, waiting, .. } = mesh;
    if hook_operations::is_late(peers, &id, args) {
        return Ok(Outcome::Ready(over()));
    }
    let channel = args.word("channel");
    if ctx.wakeup_end.is_none() {
        // If an earlier wait for the same channel came from a hook or over the same connection, this wait replaces it.
        let is_replaced = |call: &WaitingCall| call.ctx.conn == ctx.conn || is_of_hook(peers, call, &id);
        let is_same = |call: &WaitingCall| call.would_wake(&id) && call.args.word("channel") == channel;
        end_waits(turn, waiting, &over(), |call| is_same(call) && is_replaced(call));
    }
    let this = Channel { name: channel, rank: args.int("rank").unwrap_or(0), end: ctx.wakeup_end };
    match mail.wakeup_time(turn, peers, waiting, &id, &this, ctx.now)? {
        WakeupTime::Now(found) => {
            let mut from: Vec<PeerId> = found.iter().map(|message| message.sender.clone()).collect();
            from.sort();
            from.dedup();
            let text = sentence(peers, found.len(), &from);
            let last = found.iter().map(|message| message.seq.0).max();
            mail.wakeups.push(WakeupAttempt { to: id.clone(), from, at: ctx.now, failed: false });
            Ok(Outcome::Ready(json!({
                "ok": true, "wake": true, "text": text, "lastSeq": last, "you": { "id": id.as_str() },
            })))
        }
        later => {
            let end = ctx.wakeup_end.unwrap_or(ctx.now + args.int("waitSeconds").unwrap_or(0) * 1000);
            let until = if let WakeupTime::At(at) = later { at.min(end) } else { end };
            if end > ctx.now {
                return Ok(Outcome::Pending(WaitReason::Wakeup(id, end), until));
            }
            Ok(Outcome::Ready(json!({ "ok": true, "wake": false, "you": { "id": id.as_str() } })))
        }
    }
}

fn report(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, mail, .. } = mesh;
    let (id, channel) = (ctx.me()?.clone(), args.word("channel"));
    let failed = args.text("failed").filter(|why| !why.is_empty());
    let outcome = failed.map_or(WakeupOutcome::Sent, |why| WakeupOutcome::Failed(why.to_owned()));
    let row = WakeupRow { at: ctx.now, channel: Some(channel.to_owned()), outcome };
    let last = args.int("lastSeq").map(MessageSeq).unwrap_or_default();
    for message in direct_unread(&turn.store, &id)?.iter().filter(|message| message.seq <= last) {
        turn.store.add_wakeup(message.seq, &row)?;
    }
    if let Some(attempt) = mail.wakeups.iter_mut().rev().find(|attempt| attempt.to == id) {
        attempt.failed = failed.is_some();
    }
    // If a call for another channel is waiting, that call may make the next attempt.
    turn.dirty.mail.insert(id);
    Ok(Outcome::Ready(json!({ "ok": true })))
}

/// Returns the answer that tells a caller not to wait again.
fn over() -> Value {
    json!({ "ok": true, "wake": false, "over": true })
}

/// Ends all waiting calls for which `fits` returns true. Each of these calls gets the answer `answer`.
fn end_waits(turn: &mut Turn, waiting: &mut Waiting, answer: &Value, fits: impl Fn(&WaitingCall) -> bool) {
    for (conn, id, _) in waiting.end(fits) {
        turn.push(Effect::Reply { conn, id, result: Ok(answer.clone()) });
    }
}

/// Whether a waiting call comes from a hook of the session `id`. Otherwise, the call comes from the session's MCP
/// server, and its connection is attached to the session.
fn is_of_hook(peers: &Peers, call: &WaitingCall, id: &PeerId) -> bool {
    !peers.attached_to(call.ctx.conn).contains(id)
}

/// After a session has ended, ends the waits of its hooks, so that the hooks exit. The wait of the session's MCP server
/// does not end, because the agent may continue the session or begin another one over the same connection.
pub(in crate::core) fn end_hook_waits(turn: &mut Turn, peers: &Peers, waiting: &mut Waiting, id: &PeerId) {
    end_waits(turn, waiting, &over(), |call| call.would_wake(id) && is_of_hook(peers, call, id));
}

/// Ends all waits for a wakeup of this peer, because its session is now a different peer. The callers call again after
/// that, and wait for a wakeup of the new peer.
pub(in crate::core) fn repeat_waits(turn: &mut Turn, waiting: &mut Waiting, id: &PeerId) {
    end_waits(turn, waiting, &json!({ "ok": true, "wake": false }), |call| call.would_wake(id));
}

/// Returns the unread messages that were sent to this peer alone, not to a group. Leaves out messages that the peer has
/// begun to read.
fn direct_unread(store: &Store, id: &PeerId) -> Result<Vec<Message>, Error> {
    let filter = MessageFilter {
        to: Some(id),
        unread: true,
        direct: true,
        not_begun: true,
        limit: NOTED_MAX,
        ..MessageFilter::default()
    };
    Ok(store.messages(&filter)?)
}

/// A channel that can wake a session.
struct Channel<'a> {
    name: &'a str,
    rank: i64,
    /// The time at which the call that uses this channel stops waiting, in ms; `None` if the wait has just begun.
    end: Option<i64>,
}

impl Mail {
    /// Restores the recent attempts from the receipts, so that the limits apply even after a restart of the broker. The
    /// receipts do not show whether a person has typed something after an attempt. So a wakeup may be held back
    /// needlessly after a restart.
    pub(in crate::core) fn load_wakeups(&mut self, store: &Store, now: i64) -> Result<(), Error> {
        let mut last: Option<WakeupRow> = None;
        for (row, from, to) in store.wakeups_since(now - limits::WAKE_WINDOW_MS)? {
            if row.channel.is_none() {
                continue;
            }
            let is_same = last.as_ref() == Some(&row);
            match self.wakeups.last_mut().filter(|attempt| is_same && attempt.to == to) {
                Some(attempt) if attempt.from.contains(&from) => {}
                Some(attempt) => attempt.from.push(from),
                None => {
                    let failed = matches!(row.outcome, WakeupOutcome::Failed(_));
                    self.wakeups.push(WakeupAttempt { to, from: vec![from], at: row.at, failed });
                }
            }
            last = Some(row);
        }
        Ok(())
    }

    fn wakeup_time(
        &mut self,
        turn: &mut Turn,
        peers: &Peers,
        waiting: &Waiting,
        id: &PeerId,
        channel: &Channel,
        now: i64,
    ) -> Result<WakeupTime, Error> {
        if peers.has_ended(id) || newer_wait(waiting, id, channel) {
            return Ok(WakeupTime::Never);
        }
        self.wakeups.retain(|attempt| now - attempt.at < limits::WAKE_WINDOW_MS);
        let mut untried = Vec::new();
        for message in direct_unread(&turn.store, id)? {
            let attempts = turn.store.wakeups(message.seq)?;
            let is_done = |attempt: &WakeupRow| attempt.channel.as_deref().is_none_or(|name| name == channel.name);
            if !attempts.iter().any(is_done) && message.expires.is_none_or(|at| at > now) {
                untried.push(message);
            }
        }
        let Some(newest) = untried.iter().map(|message| message.created).max() else { return Ok(WakeupTime::Never) };
        if newest + limits::WAKE_COALESCE_MS > now {
            return Ok(WakeupTime::At(newest + limits::WAKE_COALESCE_MS));
        }
        // A session is not woken during a turn, because its hooks show the mail. When a turn is interrupted, its end is
        // not reported. So a turn also counts as over when no hook has called for a while.
        let active = peers.get(id).and_then(|peer| peer.turn_active_at);
        if let Some(last) = active.filter(|last| now - last < limits::TURN_QUIET_MS) {
            return Ok(WakeupTime::At(last + limits::TURN_QUIET_MS));
        }
        if better_channel_waits(turn, waiting, id, channel) {
            return Ok(WakeupTime::Never);
        }
        let attempts = || self.wakeups.iter().filter(|attempt| attempt.to == *id);
        let last = attempts().next_back().filter(|attempt| !attempt.failed);
        if let Some(at) = last.map(|attempt| attempt.at + limits::WAKE_AGAIN_MS)
            && at > now
        {
            return Ok(WakeupTime::At(at));
        }
        if attempts().filter(|attempt| !attempt.failed).count() >= limits::WAKES_MAX {
            let first = attempts().map(|attempt| attempt.at).min().unwrap_or(now);
            return Ok(WakeupTime::At(first + limits::WAKE_WINDOW_MS));
        }
        self.without_circles(turn, id, untried, now)
    }

    /// Holds back mail that would make agents wake each other again and again. Each of these agents is woken once, but
    /// not a second time. The receipts show that the mail was held back.
    fn without_circles(
        &self,
        turn: &mut Turn,
        id: &PeerId,
        untried: Vec<Message>,
        now: i64,
    ) -> Result<WakeupTime, Error> {
        let (held, found): (Vec<_>, Vec<_>) = untried.into_iter().partition(|m| self.closes_circle(&m.sender, id));
        for message in &held {
            let row = WakeupRow { at: now, channel: None, outcome: WakeupOutcome::HeldBack };
            turn.store.add_wakeup(message.seq, &row)?;
        }
        Ok(if found.is_empty() { WakeupTime::Never } else { WakeupTime::Now(found) })
    }

    /// Whether `from` has already woken `to`, and `to` has already woken `from`, directly or through other agents.
    fn closes_circle(&self, from: &PeerId, to: &PeerId) -> bool {
        // A failed attempt does not count, because it woke nobody.
        let woken = || self.wakeups.iter().filter(|attempt| !attempt.failed);
        let woke = |attempt: &WakeupAttempt| attempt.to == *to && attempt.from.iter().any(|by| by == from);
        if !woken().any(woke) {
            return false;
        }
        let (mut reached, mut next): (Vec<PeerId>, usize) = (vec![to.into()], 0);
        while let Some(at) = reached.get(next).cloned() {
            for attempt in woken().filter(|attempt| attempt.from.contains(&at)) {
                if attempt.to == *from {
                    return true;
                }
                if !reached.contains(&attempt.to) {
                    reached.push(attempt.to.clone());
                }
            }
            next += 1;
        }
        false
    }

    /// Records that a person has typed something into a session. From now on, earlier wakeups of this session do not
    /// count in the search for agents that keep waking each other.
    pub(in crate::core) fn person_spoke(&mut self, id: &PeerId) {
        for attempt in self.wakeups.iter_mut().filter(|attempt| attempt.to == *id) {
            attempt.from.clear();
        }
    }

    /// Returns the attempts to wake the recipient of a message. The message's receipt shows these attempts.
    pub(super) fn wakeups_view(&self, store: &Store, seq: MessageSeq) -> Result<Option<Value>, Error> {
        let rows = store.wakeups(seq)?;
        let view = |row: &WakeupRow| {
            let channel = row.channel.as_deref().unwrap_or("none");
            json!({ "channel": channel, "at": time_format::iso(row.at), "how": row.outcome.to_text() })
        };
        Ok((!rows.is_empty()).then(|| json!(rows.iter().map(view).collect::<Vec<_>>())))
    }
}

/// Whether a call is waiting to wake this session through a better channel, that is, a channel with a lower rank. A
/// channel does not count if it has already been tried for all unread messages of the session.
fn better_channel_waits(turn: &Turn, waiting: &Waiting, id: &PeerId, channel: &Channel) -> bool {
    let untried = |name: &str| {
        let tried = |message: &Message| {
            let attempts = turn.store.wakeups(message.seq);
            attempts.is_ok_and(|rows| rows.iter().any(|row| row.channel.as_deref() == Some(name)))
        };
        direct_unread(&turn.store, id).is_ok_and(|found| found.iter().any(|message| !tried(message)))
    };
    let others = waiting.iter().filter(|call| call.would_wake(id));
    let better = others.filter(|call| call.args.int("rank").unwrap_or(0) < channel.rank);
    better.map(|call| call.args.word("channel")).any(untried)
}

/// Whether a newer call is waiting to wake the same session through the same channel. If a session runs in two
/// terminals, only the terminal that was opened last is woken.
fn newer_wait(waiting: &Waiting, id: &PeerId, channel: &Channel) -> bool {
    let is_newer =
        |call: &WaitingCall| channel.end.is_some_and(|end| call.ctx.wakeup_end.is_some_and(|other| other > end));
    waiting.iter().any(|call| call.would_wake(id) && call.args.word("channel") == channel.name && is_newer(call))
}

/// Returns the sentence that wakes a session. Only the number of messages and the names of their senders vary. A name
/// is replaced if the agent could read it as an instruction.
fn sentence(peers: &Peers, n: usize, from: &[PeerId]) -> String {
    let names: Vec<String> = from.iter().map(|id| plain_name(&peers.name_of(id))).take(NAMED_MAX).collect();
    let (s, it) = if n == 1 { ("", "it") } else { ("s", "them") };
    format!("{n} unread mesh message{s} from {}; mesh_inbox reads {it}", names.join(", "))
}

/// Whether a prompt is a wakeup sentence. No person has typed such a prompt.
pub fn is_wakeup_sentence(prompt: &str) -> bool {
    prompt.contains(" unread mesh message") && prompt.contains("; mesh_inbox reads ")
}

/// Returns the name, or `a peer` if the agent could read the name as an instruction. The agent treats the wakeup
/// sentence like a prompt from the user.
fn plain_name(name: &str) -> String {
    let fits = name.len() <= 64 && name.chars().all(|c| c.is_alphanumeric() || "._-@".contains(c));
    if fits { name.to_owned() } else { "a peer".to_owned() }
}
