//! The operations that an agent's hooks call before an edit, at the end of a turn, and to show mail.
//!
//! A hook identifies its session by a key from the agent. The session's MCP server may have a different key, or none.
//! These operations make sure that the hook and the server act as the same peer.

use super::arguments_that_identify_session::{NAMING, session_args};
use super::locks::others_locks_in_worktree::{WorkPlace, own_locks, watched_locks};
use super::locks::request_conflicts::{LockRequest, Repository};
use super::locks::{GIT_ROOTS, Locks, REPOS, lock_view};
use super::mail::wakeups::end_hook_waits;
use super::op_definition::ArgKind;
use super::peers::caller_resolver::{HookEvidence, nearest};
use super::peers::move_connections::follow_resumed_session;
use super::peers::{Peer, Peers, sessions};
use super::transaction_and_pending_effects::Turn;
use super::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome};
use crate::base::build_json_object::json_object;
use crate::base::domain_enums::{LeaveReason, LockOwner};
use crate::base::error::Error;
use crate::base::id_types::PeerId;
use crate::base::{limits, path_overlap};
use crate::core::op_behavior::OpBehavior;
use crate::core::op_definition::Runner;
use crate::core::peers::detach_connection;
use crate::core::peers::mesh_parts_changed_by_sessions::SessionParts;
use crate::store::LockRow;
use serde_json::{Value, json};

const WORD: ArgKind = ArgKind::Text { min: 0, max: limits::WORD_MAX };
const SUBAGENT: Arg =
    Arg::new("subagent", WORD, "The agent's id for the subagent that makes the call").at(CliPlace::Hidden);
const RUNNING: Arg = Arg::new(
    "running",
    ArgKind::Texts { items: limits::LIST_MAX, max: limits::WORD_MAX },
    "Ids of background tasks and subagents that are still running",
)
.at(CliPlace::Hidden);
/// How long an automatic lock for an edit lasts, in ms. The next edit of the file renews the lock. Tool calls of the
/// same turn also renew the lock.
const EDIT_MS: i64 = 2 * 60_000;
/// How long a lock for background work lasts, in ms. If the work ends before that, the lock ends too.
const BACKGROUND_MS: i64 = 60 * 60_000;
/// Maximum number of messages that one hook shows. If there are more messages, the hook only says how many more there
/// are.
const SHOWN_MAX: usize = 10;

/// Locks the files of an edit for the session of the hook.
pub static EDIT: Op = Op {
    name: "hook.edit",
    summary: "Lock the files that a session is about to edit, or renew its locks on them; each lock lasts two minutes",
    args: session_args![
        NAMING;
        SUBAGENT,
        Arg::new("files", ArgKind::Texts { items: limits::EDIT_FILES_MAX, max: limits::PATH_MAX }, "Absolute paths")
            .required()
            .at(CliPlace::Hidden),
        GIT_ROOTS,
        REPOS,
        Arg::new("checkOnly", ArgKind::Flag, "Only check whether the locks would be granted").at(CliPlace::Hidden),
        Arg::new("withLocks", ArgKind::Flag, "Also list this session's locks, and other peers' locks in this work tree")
            .at(CliPlace::Hidden),
    ],
    actor: Auth::Hook,
    verb: None,
    tool: None,
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(edit),
};

/// Returns mail for a hook to show.
pub static MAIL: Op = Op {
    name: "hook.mail",
    summary: "Give unread mail to a hook, each message once; with `withNeighbours`, also list the repository's peers \
              and locks",
    args: session_args![
        NAMING;
        Arg::new("direct", ArgKind::Flag, "Only messages that were sent to this session alone").at(CliPlace::Hidden),
        Arg::new("peek", ArgKind::Flag, "Deliver no mail, because another hook will deliver it").at(CliPlace::Hidden),
        Arg::new("withNeighbours", ArgKind::Flag, "Also list the peers and locks of the repository")
            .at(CliPlace::Hidden),
        Arg::new("withOwnLocks", ArgKind::Flag, "Also list the session's own locks").at(CliPlace::Hidden),
        Arg::new("userPrompted", ArgKind::Flag, "The user has just written a prompt in this session")
            .at(CliPlace::Hidden),
        Arg::new("event", WORD, "Identifies the event, so that a second hook for the same event repeats nothing")
            .at(CliPlace::Hidden),
    ],
    actor: Auth::Hook,
    verb: None,
    tool: None,
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(mail),
};

/// Ends a turn.
pub static END: Op = Op {
    name: "hook.turn_end",
    summary: "End a session's turn, and release the locks that its edits took; with `leave`, release all its locks",
    args: session_args![
        NAMING;
        SUBAGENT,
        RUNNING,
        Arg::new("leave", ArgKind::Flag, "The session itself ends").at(CliPlace::Hidden),
    ],
    actor: Auth::Hook,
    verb: None,
    tool: None,
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(end),
};

fn edit(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let id = session_of_hook(&mut mesh.session_parts(), ctx, args)?;
    let Mesh { turn, peers, locks, journal, waiting, .. } = mesh;
    peers.set_turn_active(turn, &id, Some(ctx.now));
    if args.text("subagent").is_none() {
        // An edit by the main agent shows that a turn is running. During a turn, the end of a background task must not
        // release the turn's locks, so the list of tasks is emptied.
        peers.set_background_tasks(&id, &[]);
    }
    let row = peers.get(&id).map(|peer| peer.row.clone()).unwrap_or_default();
    let mut files: Vec<String> = args.texts("files").into_iter().map(path_overlap::normal).collect();
    files.sort();
    files.dedup();
    let request = LockRequest {
        paths: files,
        holder: id.clone(),
        owner: args.text("subagent").map_or(LockOwner::Turn, |id| LockOwner::Subagent(id.to_owned())),
        reason: "editing".into(),
        ttl_ms: EDIT_MS,
        trees: Repository::of_call(args, &row),
        host: row.host.clone(),
        all_worktrees: false,
        renew: true,
        has_unclear_caller: false,
        outer_commands: Vec::new(),
    };
    let keyed = args.flag("keyedCalls").unwrap_or(false);
    let is_shared = |locks: &Locks, lock: &LockRow| !keyed && locks.may_belong_to_caller(peers, &ctx.ancestors, lock);
    // If an edit is refused, the peer of a new session is kept. To remove the peer, the broker would have to undo the
    // call and load all locks again. The hook might then stop waiting before it reads the refusal.
    let refusing = locks.conflicting(peers, &request).find(|lock| lock.holder == id || !is_shared(locks, lock));
    if let Some(lock) = refusing {
        return Ok(Outcome::Refused(locks.held_error(peers, waiting, lock, &request, ctx.now)));
    }
    if args.flag("checkOnly") != Some(true) {
        if let Err(error) = locks.check_room(&request) {
            return Ok(Outcome::Refused(error));
        }
        locks.grant(turn, peers, journal, &request, ctx.now)?;
    }
    let mut value = json!({ "ok": true, "you": { "id": id.as_str(), "name": row.name } });
    if args.flag("withLocks") == Some(true) {
        let text = |name, own: Option<String>| args.text(name).map(str::to_owned).or(own);
        let here = WorkPlace {
            tree: Repository::new(text("repo", row.repo), text("gitRoot", row.git_root)),
            project: args.word("project").to_owned(),
            peer: id.clone(),
            host: row.host,
        };
        value["others"] = Value::Array(watched_locks(locks, peers, &here, |lock| is_shared(locks, lock)));
        value["own"] = Value::Array(own_locks(locks, peers, &id));
    }
    Ok(Outcome::Ready(value))
}

fn mail(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let id = session_of_hook(&mut mesh.session_parts(), ctx, args)?;
    let Mesh { turn, peers, locks, mail, journal, damage, .. } = mesh;
    let direct = args.flag("direct").unwrap_or(false);
    if is_late(peers, &id, args) {
        let you = json!({ "id": id.as_str(), "name": peers.name_of(&id) });
        return Ok(Outcome::Ready(json!({ "ok": true, "you": you, "messages": [], "remaining": 0 })));
    }
    if args.text("event").is_some_and(|event| mail.is_second_hook(&id, event, ctx.conn, ctx.now)) {
        let you = json!({ "id": id.as_str(), "name": peers.name_of(&id) });
        let nothing = json!({ "ok": true, "you": you, "messages": [], "remaining": 0, "repeated": true });
        return Ok(Outcome::Ready(nothing));
    }
    let take = (args.flag("peek") != Some(true)).then_some(ctx.conn);
    let found = mail.for_hook(turn, journal, &id, direct, take, SHOWN_MAX, ctx.now)?;
    let rows: Vec<Value> = found.iter().map(|message| mail.hook_row(&turn.store, peers, message)).collect();
    if args.flag("userPrompted") == Some(true) {
        mail.person_spoke(&id);
        peers.set_background_tasks(&id, &[]);
    }
    if !direct && args.flag("userPrompted") != Some(true) {
        // The session has used a tool. So its turn is still running, and its locks are renewed. To avoid frequent
        // writes, a lock is renewed only in the second half of its lease.
        let is_due = |lock: &LockRow| lock.holder == id && lock.owner.is_edit() && lock.expires < ctx.now + EDIT_MS / 2;
        locks.extend(turn, is_due, ctx.now + EDIT_MS)?;
    }
    if shows_turn(peers, &id, args, !rows.is_empty(), ctx.now) {
        peers.set_turn_active(turn, &id, Some(ctx.now));
    }
    let unread = mail.unread(&turn.store, &id)? - rows.len() as i64;
    let you = json!({ "id": id.as_str(), "name": peers.name_of(&id) });
    let messages = Value::Array(rows);
    let mut value =
        json_object([("ok", Value::Bool(true)), ("you", you), ("remaining", unread.into()), ("messages", messages)]);
    if args.flag("withOwnLocks") == Some(true) {
        value["own"] = Value::Array(own_locks(locks, peers, &id));
    }
    if args.flag("withNeighbours") == Some(true) {
        value["notice"] = json!(peers.take_notice(turn, &id)?);
        value["damage"] = json!(damage.tell(&id, ctx.now));
        (value["peers"], value["locks"]) = neighbours(peers, locks, &id, ctx.now);
    }
    Ok(Outcome::Ready(value))
}

fn end(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, locks, channels, journal, waiting, .. } = mesh;
    let done = json!({ "ok": true });
    let Some(id) = known_session(turn, peers, ctx, args)? else { return Ok(Outcome::Ready(done)) };
    peers.note_transcript(turn, &id, args)?;
    if let Some(subagent) = args.text("subagent") {
        let is_last = peers.end_background_task(&id, subagent);
        locks.keep_editors(&id, |one| one != subagent);
        let ends = |owner: &LockOwner| match owner {
            LockOwner::Subagent(one) => one == subagent,
            owner => is_last && *owner == LockOwner::Turn,
        };
        let ended = |lock: &LockRow| lock.holder == id && ends(&lock.owner);
        locks.release(turn, peers, journal, ended, Some("the subagent ended"), ctx.now)?;
        return Ok(Outcome::Ready(done));
    }
    let leaves = args.flag("leave").unwrap_or(false) && !peers.runs_elsewhere(&id, &ctx.ancestors);
    let running = if leaves { Vec::new() } else { args.texts("running") };
    peers.set_turn_active(turn, &id, None);
    peers.set_background_tasks(&id, &running);
    locks.keep_editors(&id, |subagent| running.contains(&subagent));
    if leaves {
        end_hook_waits(turn, peers, waiting, &id);
        // A call of this session may have come over another session's connection, and may still be waiting for a lock
        // or for mail. Such a call must get neither the lock nor the mail, so the call ends.
        detach_connection::end_waits(turn, waiting, |call| call.ctx.is_by(&id) && !call.would_wake(&id));
    }
    // A background task uses the locks of the turn, but a subagent has its own locks.
    let goes_on = |owner: &LockOwner| match owner {
        LockOwner::Turn => !running.is_empty(),
        LockOwner::Subagent(subagent) => running.contains(&subagent.as_str()),
        LockOwner::Peer | LockOwner::Command(_) => false,
    };
    locks.extend(turn, |lock| lock.holder == id && goes_on(&lock.owner), ctx.now + BACKGROUND_MS)?;
    let ends = |owner: &LockOwner| owner.is_edit() && !goes_on(owner) || leaves && owner.is_shared();
    let reason = if leaves { LeaveReason::CleanExit.word() } else { "the turn ended" };
    locks.release(turn, peers, journal, |lock| lock.holder == id && ends(&lock.owner), Some(reason), ctx.now)?;
    if leaves {
        if args.flag("keyedCalls") == Some(true) {
            peers.detach_ended(turn, journal, waiting, &id, ctx.now)?;
        }
        peers.end_session(turn, journal, &id, LeaveReason::CleanExit, ctx.now)?;
        channels.leave_all(turn, peers, journal, &id, ctx.now)?;
    }
    Ok(Outcome::Ready(done))
}

/// Returns the session of the hook, or `None` if the mesh does not know the session. If the hook's key for the session
/// is new, stores the key.
fn known_session(turn: &mut Turn, peers: &mut Peers, ctx: &CallContext, args: &Args) -> Result<Option<PeerId>, Error> {
    let evidence = HookEvidence {
        agent: args.word("agent"),
        is_shared_dialect: args.flag("sharedHooks").unwrap_or(false),
        key: args.text("session").filter(|key| !key.is_empty()),
        continues: args.flag("continues").unwrap_or(false),
        ancestors: &ctx.ancestors,
    };
    let found = peers.session_of_hook(&evidence);
    if let Some(id) = &found {
        peers.report_foreign_hook(turn, id, &ctx.ancestors);
        if let Some(key) = evidence.key {
            peers.add_key(turn, id, key)?;
        }
    }
    Ok(found)
}

/// Returns the session of the hook. For an unknown session, creates a peer. The session's MCP server takes over this
/// peer when the server connects.
pub(super) fn session_of_hook(parts: &mut SessionParts, ctx: &CallContext, args: &Args) -> Result<PeerId, Error> {
    let id = match known_session(parts.turn, parts.peers, ctx, args)? {
        Some(id) => id,
        None => {
            parts.peers.note_new_session(nearest(&ctx.ancestors));
            let row = sessions::session_row(args, parts.peers.host_of(ctx.conn), ctx.now);
            sessions::add_detached(parts, &row, args, nearest(&ctx.ancestors).copied())?
        }
    };
    let SessionParts { turn, peers, journal, .. } = parts;
    if is_late(peers, &id, args) {
        return Ok(id);
    }
    peers.touch(&id, ctx.now);
    peers.note_return(turn, &id);
    let process = nearest(&ctx.ancestors);
    peers.note_process(turn, journal, &id, process, ctx)?;
    peers.note_transcript(turn, &id, args)?;
    let has_many_sessions = args.flag("keyedCalls") == Some(true);
    if args.flag("continues") == Some(true) && !has_many_sessions {
        follow_resumed_session(parts, ctx, &id)?;
    }
    Ok(id)
}

/// Whether a hook arrived after its session had ended. Such a hook shows no mail, and does not mark the session as
/// active again. If the session became active again, it might never end, because its process may be unknown or may
/// serve other sessions.
pub(super) fn is_late(peers: &Peers, id: &PeerId, args: &Args) -> bool {
    args.flag("mayBeLate") == Some(true) && peers.has_ended(id)
}

/// Whether a hook that asks for mail shows that its session is working on a turn. A session that is not working may be
/// woken.
fn shows_turn(peers: &Peers, id: &PeerId, args: &Args, has_mail: bool, now: i64) -> bool {
    let is_set = |name| args.flag(name) == Some(true);
    if is_set("userPrompted") {
        return true;
    }
    if is_set("direct") {
        // The session is about to stop. But if there is mail, the session continues its turn.
        return has_mail;
    }
    if is_set("withNeighbours") {
        // Only the hook for a session's start sets this flag. A start usually comes between two turns. But a session
        // also starts again when its context is compacted, which can happen during a turn. So the time of the last
        // activity shows whether a turn is in progress.
        let last = peers.get(id).and_then(|peer| peer.turn_active_at);
        return last.is_some_and(|last| now - last < limits::TURN_QUIET_MS);
    }
    // Only a start and an alert send `event`, and the start is handled above. At an alert, the agent waits for its
    // user. If the alert comes during a turn, the agent waits for a permission. If the alert comes between two turns,
    // the agent waits for the next prompt.
    args.text("event").is_none()
}

/// Returns a few peers that are online in the repository or directory of a session, and a few locks that other peers
/// hold there.
fn neighbours(peers: &Peers, locks: &Locks, id: &PeerId, now: i64) -> (Value, Value) {
    let own = peers.get(id).map(|peer| peer.row.clone()).unwrap_or_default();
    let is_near = |peer: &&Peer| {
        let same_repo = own.repo.is_some() && peer.row.repo == own.repo;
        peer.row.id != *id && peer.is_online() && (same_repo || peer.row.project == own.project)
    };
    let near = peers.all().iter().filter(is_near).take(NEIGHBOURS_MAX);
    let near: Vec<Value> = near
        .map(|peer| json!({ "name": peer.row.name, "branch": peer.row.git_branch, "summary": peer.row.summary }))
        .collect();
    let root = own.git_root.unwrap_or(own.project);
    let is_here = |lock: &&LockRow| lock.holder != *id && path_overlap::overlap(&lock.path, &root);
    let held: Vec<Value> =
        locks.all().filter(is_here).take(NEIGHBOURS_MAX).map(|lock| lock_view(peers, lock, now)).collect();
    (json!(near), json!(held))
}

/// `neighbours` returns at most this many peers, and at most this many locks.
const NEIGHBOURS_MAX: usize = 8;
