//! What an agent's own hooks report and ask: an edit, mail to show, the end of a turn.
//!
//! A hook knows its session by the agent's key; the session's MCP server knows another key, or none. Here
//! both become one peer.

use super::locks::request::{LockRequest, Repository};
use super::locks::{Locks, lock_view};
use super::mail::MailView;
use super::mail::wakeups::end_all_waits;
use super::op::ArgKind;
use super::peers::{Peer, Peers, sessions};
use super::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome};
use crate::base::error::Error;
use crate::base::ids::PeerId;
use crate::base::kinds::LockOwner;
use crate::base::{limits, paths};
use crate::store::LockRow;
use serde_json::{Value, json};

const WORD: ArgKind = ArgKind::Text { min: 0, max: limits::WORD_MAX };
const PATH: ArgKind = ArgKind::Text { min: 0, max: limits::PATH_MAX };
pub(crate) const AGENT: Arg = Arg::new("agent", WORD, "Agent type").required().at(CliPlace::Hidden);
pub(crate) const SESSION: Arg =
    Arg::new("session", WORD, "The agent's own id for this session").required().at(CliPlace::Hidden);
pub(crate) const PROJECT: Arg =
    Arg::new("project", PATH, "Absolute path of the working directory").required().at(CliPlace::Hidden);
pub(crate) const GIT_ROOT: Arg = Arg::new("gitRoot", PATH, "Root of the git work tree").at(CliPlace::Hidden);
pub(crate) const GIT_BRANCH: Arg = Arg::new("gitBranch", PATH, "Git branch").at(CliPlace::Hidden);
pub(crate) const REPO: Arg = Arg::new("repo", PATH, "Repository id").at(CliPlace::Hidden);
/// A lock that an edit took by itself holds this long unless the next edit renews it.
const EDIT_MS: i64 = 2 * 60_000;
/// Messages that one hook shows; the others are counted.
const SHOWN_MAX: usize = 10;

/// Locks the files of an edit for the session whose hook asks.
pub static EDIT: Op = Op {
    name: "turn.edit",
    summary: "Lock the files that a session is about to edit, or renew those locks, for two minutes",
    args: &[
        AGENT,
        SESSION,
        PROJECT,
        GIT_ROOT,
        GIT_BRANCH,
        REPO,
        Arg::new("files", ArgKind::Texts { items: limits::EDIT_FILES_MAX, max: limits::PATH_MAX }, "Absolute paths")
            .required()
            .at(CliPlace::Hidden),
    ],
    actor: Auth::Hook,
    verb: None,
    tool: None,
    repeatable: true,
    run: edit,
};

/// Hands out mail that a hook can show.
pub static MAIL: Op = Op {
    name: "turn.mail",
    summary: "Hand unread mail to a hook, once; with around, also list peers and locks in the repository",
    args: &[
        AGENT,
        SESSION,
        PROJECT,
        GIT_ROOT,
        GIT_BRANCH,
        REPO,
        Arg::new("direct", ArgKind::Flag, "Only messages sent to this session alone").at(CliPlace::Hidden),
        Arg::new("peek", ArgKind::Flag, "Deliver nothing; another hook will deliver it").at(CliPlace::Hidden),
        Arg::new("around", ArgKind::Flag, "Also list the peers and locks of the repository").at(CliPlace::Hidden),
        Arg::new("spoken", ArgKind::Flag, "The user has just written a prompt in this session").at(CliPlace::Hidden),
    ],
    actor: Auth::Hook,
    verb: None,
    tool: None,
    repeatable: true,
    run: mail,
};

/// Ends a turn.
pub static END: Op = Op {
    name: "turn.end",
    summary: "End a session's turn and release the locks that its edits took; with leave, release all",
    args: &[
        AGENT,
        SESSION,
        PROJECT,
        GIT_ROOT,
        GIT_BRANCH,
        REPO,
        Arg::new("leave", ArgKind::Flag, "The session itself ends").at(CliPlace::Hidden),
    ],
    actor: Auth::Hook,
    verb: None,
    tool: None,
    repeatable: true,
    run: end,
};

fn edit(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let id = session_of_hook(mesh, ctx, args)?;
    let Mesh { turn, peers, locks, journal, waiting, .. } = mesh;
    peers.set_turn_active(turn, &id, Some(ctx.now));
    let row = peers.get(&id).map(|peer| peer.row.clone()).unwrap_or_default();
    let mut files: Vec<String> = args.texts("files").into_iter().map(paths::normal).collect();
    files.sort();
    files.dedup();
    let text = |name, own: Option<String>| args.text(name).map(str::to_owned).or(own);
    let request = LockRequest {
        paths: files,
        holder: id.clone(),
        owner: LockOwner::Turn,
        reason: "editing".into(),
        ttl_ms: EDIT_MS,
        repo: Repository::new(text("repo", row.repo), text("gitRoot", row.git_root)),
        host: row.host.clone(),
        all_worktrees: false,
        renew: true,
    };
    if let Some(lock) = locks.conflicting(peers, &request).next() {
        return Err(locks.held_error(peers, waiting, lock, &request, ctx.now));
    }
    locks.grant(turn, peers, journal, &request, ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true, "you": { "id": id.as_str(), "name": row.name } })))
}

fn mail(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let id = session_of_hook(mesh, ctx, args)?;
    let Mesh { turn, peers, locks, mail, journal, .. } = mesh;
    let direct = args.flag("direct").unwrap_or(false);
    let take = (args.flag("peek") != Some(true)).then_some(ctx.conn);
    let found = mail.for_hook(turn, journal, &id, direct, take, SHOWN_MAX, ctx.now)?;
    let rows: Vec<Value> =
        found.iter().map(|message| mail.row(&turn.store, peers, message, MailView::Unread)).collect();
    if args.flag("spoken") == Some(true) {
        mail.person_spoke(&id);
    }
    if !direct || !rows.is_empty() {
        // A session that asks as it stops goes on if there is mail.
        peers.set_turn_active(turn, &id, Some(ctx.now));
    }
    let unread = mail.unread(&turn.store, &id)? - rows.len() as i64;
    let you = json!({ "id": id.as_str(), "name": peers.name_of(&id) });
    let mut value = json!({ "ok": true, "you": you, "messages": rows, "remaining": unread });
    if args.flag("around") == Some(true) {
        (value["peers"], value["locks"]) = neighbours(peers, locks, &id, ctx.now);
    }
    Ok(Outcome::Ready(value))
}

fn end(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, locks, journal, waiting, .. } = mesh;
    let done = json!({ "ok": true });
    let Some(id) = known_session(peers, ctx, args) else { return Ok(Outcome::Ready(done)) };
    let leaves = args.flag("leave").unwrap_or(false);
    peers.set_turn_active(turn, &id, None);
    if leaves {
        end_all_waits(turn, waiting, &id);
    }
    let ends = |owner: &LockOwner| *owner == LockOwner::Turn || leaves && owner.is_shared();
    let reason = if leaves { "clean_exit" } else { "the turn ended" };
    locks.release(turn, peers, journal, |lock| lock.holder == id && ends(&lock.owner), reason, ctx.now)?;
    if leaves {
        peers.forget_process(&id);
    }
    Ok(Outcome::Ready(done))
}

/// The session whose hook asks, if it is known: by the agent's key, else by the agent process that
/// stands above both the hook and the session's MCP server.
fn known_session(peers: &mut Peers, ctx: &CallContext, args: &Args) -> Option<PeerId> {
    let (agent, key) = (args.word("agent"), args.word("session"));
    if let Some(id) = peers.session_by_key(agent, key) {
        return Some(id);
    }
    let id = peers.session_above(&ctx.ancestors, agent, key)?;
    peers.add_key(&id, key);
    Some(id)
}

/// The session whose hook asks. One that is not known becomes a peer, which the MCP server of the same
/// session takes over when it comes.
pub(super) fn session_of_hook(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<PeerId, Error> {
    let Mesh { turn, peers, locks, mail, .. } = mesh;
    if let Some(id) = known_session(peers, ctx, args) {
        peers.touch(&id, ctx.now);
        return Ok(id);
    }
    let row = sessions::session_row(args, peers.host_of(ctx.conn), ctx.now);
    let process = ctx.ancestors.iter().find(|process| !process.wrapper).copied();
    peers.add_detached(turn, mail, locks, row, process)
}

/// The other peers in a session's repository, and what is locked there: a few of each.
fn neighbours(peers: &Peers, locks: &Locks, id: &str, now: i64) -> (Value, Value) {
    let own = peers.get(id).map(|peer| peer.row.clone()).unwrap_or_default();
    let is_near = |peer: &&Peer| {
        let same_repo = own.repo.is_some() && peer.row.repo == own.repo;
        peer.row.id != id && peer.is_online() && (same_repo || peer.row.project == own.project)
    };
    let near = peers.all().iter().filter(is_near).take(NEIGHBOURS_MAX);
    let near: Vec<Value> = near
        .map(|peer| json!({ "name": peer.row.name, "branch": peer.row.git_branch, "summary": peer.row.summary }))
        .collect();
    let root = own.git_root.unwrap_or(own.project);
    let is_here = |lock: &&LockRow| lock.holder != id && lock.path.starts_with(&root);
    let held: Vec<Value> =
        locks.all().iter().filter(is_here).take(NEIGHBOURS_MAX).map(|lock| lock_view(peers, lock, now)).collect();
    (json!(near), json!(held))
}

/// Neighbours, and locks, that a hook shows.
const NEIGHBOURS_MAX: usize = 8;
