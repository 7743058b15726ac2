//! Waking: whether an idle session may be woken over its mail, by which surface, and what came of
//! it. A surface is whatever makes an agent's client begin a turn; who can reach one waits here.
//!
//! **Invariant:** what wakes is a fixed sentence, never a peer's words; one ring for what came
//! together, re-checked as it fires, limited per peer and hour, and broken off where two agents
//! would wake each other for ever.

use crate::base::error::Error;
use crate::base::limits;
use crate::core::hook_ops::{AGENT, GIT_BRANCH, GIT_ROOT, PROJECT, REPO, SESSION};
use crate::core::op::ArgKind;
use crate::core::{Arg, Args, Auth, CallContext, CliPlace, Effect, Mesh, Op, Outcome, WaitReason};
use crate::store::{Message, MessageFilter, WakeupRow};
use serde_json::{Value, json};

/// The surfaces, best first: the next one is tried when one fails, or nothing came of it.
pub const SURFACES: &[&str] = &["claude inbox", "codex queue", "opencode prompt", "claude rewake"];
/// How an attempt is noted that went out.
const RANG: &str = "rang";
/// Messages over which one ring is noted; more have come than anybody rings for.
const NOTED_MAX: i64 = 20;

const SURFACE: Arg = Arg::new("surface", ArgKind::Choice(SURFACES), "The surface").required().at(CliPlace::Hidden);

/// Waits until a session may be woken.
pub static WAKE: Op = Op {
    name: "turn.wake",
    summary: "WaitingCall until this session has direct mail that it should be woken over by this surface",
    args: &[
        SURFACE,
        Arg::new("waitSeconds", ArgKind::Int { min: 0, max: limits::WAIT_SECONDS_MAX }, "At most this long")
            .at(CliPlace::Hidden),
        Arg { required: false, ..AGENT },
        Arg { required: false, ..SESSION },
        Arg { required: false, ..PROJECT },
        GIT_ROOT,
        GIT_BRANCH,
        REPO,
    ],
    actor: Auth::Hook,
    verb: None,
    tool: None,
    repeatable: true,
    run: wake,
};

/// Reports an attempt.
pub static REPORT: Op = Op {
    name: "turn.rang",
    summary: "Report whether the surface took the sentence; it becomes part of the messages' receipts",
    args: &[
        SURFACE,
        Arg::new("upto", ArgKind::Int { min: 0, max: i64::MAX }, "The upto of the answer")
            .required()
            .at(CliPlace::Hidden),
        Arg::new("failed", ArgKind::Text { min: 0, max: 200 }, "Why it failed, if it did").at(CliPlace::Hidden),
    ],
    actor: Auth::Required,
    verb: None,
    tool: None,
    repeatable: true,
    run: rang,
};

/// A session was woken, or was about to be.
#[derive(Debug)]
pub(crate) struct WakeupAttempt {
    to: String,
    /// Whose mail it was about.
    from: Vec<String>,
    at: i64,
    failed: bool,
}

/// Whether it is time.
enum WakeupDue {
    /// Now, over these messages.
    Now(Vec<Message>),
    /// Not before then, ms.
    At(i64),
    /// Not before something changes.
    Not,
}

fn wake(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let id = match &ctx.actor {
        Some(id) => id.clone(),
        None => mesh.session_of_hook(ctx, args)?,
    };
    let surface = args.word("surface");
    if ctx.stood.is_none() {
        mesh.end_wakes(&id, Some(surface));
    }
    match mesh.due(&id, surface, ctx.now)? {
        WakeupDue::Now(found) => {
            let mut from: Vec<String> = found.iter().map(|message| message.sender.clone()).collect();
            from.sort();
            from.dedup();
            let text = mesh.sentence(found.len(), &from);
            let upto = found.iter().map(|message| message.seq).max();
            mesh.rings.push(WakeupAttempt { to: id.clone(), from, at: ctx.now, failed: false });
            Ok(Outcome::Ready(json!({ "ok": true, "ring": true, "text": text, "upto": upto, "you": { "id": id } })))
        }
        later => {
            let end = ctx.stood.unwrap_or(ctx.now + args.int("waitSeconds").unwrap_or(0) * 1000);
            let until = if let WakeupDue::At(at) = later { at.min(end) } else { end };
            if end > ctx.now {
                return Ok(Outcome::Pending(WaitReason::Wakeup(id, end), until));
            }
            Ok(Outcome::Ready(json!({ "ok": true, "ring": false, "you": { "id": id } })))
        }
    }
}

fn rang(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let (id, surface) = (ctx.me().to_owned(), args.word("surface"));
    let failed = args.text("failed").filter(|why| !why.is_empty());
    let how = failed.map_or(RANG.to_owned(), |why| format!("failed: {why}"));
    let upto = args.int("upto").unwrap_or(0);
    for message in mesh.ringing(&id)?.iter().filter(|message| message.seq <= upto) {
        mesh.store.add_wake(message.seq, &WakeupRow { at: ctx.now, surface: surface.to_owned(), how: how.clone() })?;
    }
    if let Some(ring) = mesh.rings.iter_mut().rev().find(|ring| ring.to == id) {
        ring.failed = failed.is_some();
    }
    // Another surface may be next.
    mesh.stirred.mail.insert(id);
    Ok(Outcome::Ready(json!({ "ok": true })))
}

impl Mesh {
    /// Mail to this peer alone that nothing has read.
    fn ringing(&self, id: &str) -> Result<Vec<Message>, Error> {
        let pick =
            MessageFilter { to: Some(id), unread: true, direct: true, limit: NOTED_MAX, ..MessageFilter::default() };
        Ok(self.store.messages(&pick)?)
    }

    fn due(&mut self, id: &str, surface: &str, now: i64) -> Result<WakeupDue, Error> {
        self.rings.retain(|ring| now - ring.at < limits::WAKE_WINDOW_MS);
        let mut fresh = Vec::new();
        for message in self.ringing(id)? {
            let tried = self.store.wakes(message.seq)?;
            let is_over = tried.iter().any(|wake| wake.surface == surface || wake.surface.is_empty());
            if !is_over && message.expires.is_none_or(|at| at > now) {
                fresh.push(message);
            }
        }
        let Some(newest) = fresh.iter().map(|message| message.created).max() else { return Ok(WakeupDue::Not) };
        if newest + limits::WAKE_COALESCE_MS > now {
            return Ok(WakeupDue::At(newest + limits::WAKE_COALESCE_MS));
        }
        // A turn that runs has hooks that show mail; one that was cut off tells nobody of its end.
        let turn = self.peer(id).and_then(|peer| peer.turn);
        if let Some(last) = turn.filter(|last| now - last < limits::TURN_QUIET_MS) {
            return Ok(WakeupDue::At(last + limits::TURN_QUIET_MS));
        }
        if self.better_waits(id, surface) {
            return Ok(WakeupDue::Not);
        }
        let last = self.rings.iter().rev().find(|ring| ring.to == id);
        if let Some(at) = last.filter(|ring| !ring.failed).map(|ring| ring.at + limits::WAKE_AGAIN_MS)
            && at > now
        {
            return Ok(WakeupDue::At(at));
        }
        let first = self.rings.iter().filter(|ring| ring.to == id).map(|ring| ring.at).min();
        let n_rings = self.rings.iter().filter(|ring| ring.to == id && !ring.failed).count();
        if n_rings >= limits::WAKES_MAX {
            return Ok(WakeupDue::At(first.unwrap_or(now) + limits::WAKE_WINDOW_MS));
        }
        self.without_rings(id, fresh, now)
    }

    /// Leaves out mail by which two agents, or more in a circle, would go on waking each other: each
    /// is woken once on the way round. The receipt says so.
    fn without_rings(&mut self, id: &str, fresh: Vec<Message>, now: i64) -> Result<WakeupDue, Error> {
        let (held, found): (Vec<_>, Vec<_>) = fresh.into_iter().partition(|m| self.goes_round(&m.sender, id));
        for message in &held {
            let how = "held back: these agents have woken each other in a circle already".to_owned();
            self.store.add_wake(message.seq, &WakeupRow { at: now, surface: String::new(), how })?;
        }
        Ok(if found.is_empty() { WakeupDue::Not } else { WakeupDue::Now(found) })
    }

    /// Whether `to` was woken by `from` already, and has since, over any number of others, woken it.
    fn goes_round(&self, from: &str, to: &str) -> bool {
        let woke =
            |from: &str, to: &str| self.rings.iter().any(|ring| ring.to == to && ring.from.iter().any(|f| f == from));
        if !woke(from, to) {
            return false;
        }
        let (mut reached, mut next) = (vec![to.to_owned()], 0);
        while let Some(at) = reached.get(next).cloned() {
            for ring in self.rings.iter().filter(|ring| ring.from.contains(&at)) {
                if ring.to == from {
                    return true;
                }
                if !reached.contains(&ring.to) {
                    reached.push(ring.to.clone());
                }
            }
            next += 1;
        }
        false
    }

    /// Whether a surface waits that comes before this one, and was not tried yet over what is new.
    fn better_waits(&self, id: &str, surface: &str) -> bool {
        let rank = |name: &str| SURFACES.iter().position(|known| *known == name);
        let untried = |name: &str| {
            let tried =
                |message: &Message| self.store.wakes(message.seq).is_ok_and(|w| w.iter().any(|w| w.surface == name));
            self.ringing(id).is_ok_and(|found| found.iter().any(|message| !tried(message)))
        };
        let others = self.waits.iter().filter(|wait| is_wake_of(wait, id)).map(|wait| wait.args.word("surface"));
        others.filter(|other| rank(other) < rank(surface)).any(untried)
    }

    /// Ends the waits of those who would wake a session: all, or those with one surface.
    pub(crate) fn end_wakes(&mut self, id: &str, surface: Option<&str>) {
        let ends = |wait: &crate::core::WaitingCall| {
            is_wake_of(wait, id) && surface.is_none_or(|s| wait.args.word("surface") == s)
        };
        let (ended, kept) = std::mem::take(&mut self.waits).into_iter().partition(ends);
        self.waits = kept;
        for wait in ended {
            let value = json!({ "ok": true, "ring": false, "over": true });
            self.out.push(Effect::Reply { conn: wait.ctx.conn, id: wait.ctx.id, result: Ok(value) });
        }
    }

    /// The person at a session wrote to it: who woke it before no longer counts.
    pub(crate) fn person_spoke(&mut self, id: &str) {
        for ring in self.rings.iter_mut().filter(|ring| ring.to == id) {
            ring.from.clear();
        }
    }

    /// The sentence that wakes: ours, but for names that can't be more than names.
    fn sentence(&self, n: usize, from: &[String]) -> String {
        let names: Vec<String> = from.iter().map(|id| plain_name(&self.name_of(id))).take(3).collect();
        let (s, it) = if n == 1 { ("", "it") } else { ("s", "them") };
        format!("{n} unread mesh message{s} from {}; mesh_inbox reads {it}", names.join(", "))
    }

    /// The attempts to wake its recipient over a message, for its receipt.
    pub(crate) fn wakes_value(&self, seq: i64) -> Result<Option<Value>, Error> {
        let wakes = self.store.wakes(seq)?;
        let row = |wake: &WakeupRow| {
            let surface = if wake.surface.is_empty() { "none" } else { &wake.surface };
            json!({ "surface": surface, "at": crate::base::time::iso(wake.at), "how": wake.how })
        };
        Ok((!wakes.is_empty()).then(|| json!(wakes.iter().map(row).collect::<Vec<_>>())))
    }
}

fn is_wake_of(wait: &crate::core::WaitingCall, id: &str) -> bool {
    wait.op.name == WAKE.name && matches!(&wait.on, Some(WaitReason::Wakeup(of, _)) if of == id)
}

/// Whether a prompt is our own sentence rather than a person's.
pub fn is_ours(prompt: &str) -> bool {
    prompt.contains(" unread mesh message") && prompt.contains("; mesh_inbox reads ")
}

/// A name that can't be taken for words, in a place where words would be the user's.
fn plain_name(name: &str) -> String {
    let fits = name.len() <= 64 && name.chars().all(|c| c.is_alphanumeric() || "._-@".contains(c));
    if fits { name.to_owned() } else { "a peer".to_owned() }
}
