//! Locks on files. Each file has one holder, and each lock has a lease and a fencing token. Waiting callers form a fair
//! queue, and a wait that would cause a deadlock is refused.
//!
//! **Invariant:** only this module writes the locks, in memory and in the database.

mod indexed_locks;
pub mod others_locks_in_worktree;
mod refusal_errors;
pub mod request_conflicts;
mod table;
mod wait_queue_and_forced_unlock;

pub(in crate::core) use table::rename_machine;
pub use table::{Locks, has_locks};

use super::event_journal::Journal;
use super::mail::Mail;
use super::op_definition::{ArgKind, ArgRole};
use super::peers::Peers;
use super::transaction_and_pending_effects::Turn;
use super::waiting_calls::WaitReason;
use super::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome, pagination};
use crate::base::build_json_object::json_object;
use crate::base::domain_enums::LockOwner;
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::FencingToken;
use crate::base::json_text::visible_json_length;
use crate::base::path_overlap;
use crate::base::{limits, time_format};
use crate::core::MeshSettings;
use crate::core::op_behavior::OpBehavior;
use crate::core::op_definition::Runner;
use crate::core::rate_limit::RateLimiter;
use crate::store::LockRow;
use request_conflicts::{LockMatcher, LockRequest, Repository};
use serde_json::{Value, json};

const PATH: ArgKind = ArgKind::Text { min: 1, max: limits::PATH_MAX };
const FILE: Arg =
    Arg::new("filePath", PATH, "File, folder (ending in /) or glob (src/auth/**)").at(CliPlace::Hidden).path();
const FILES: Arg = Arg::new(
    "filePaths",
    ArgKind::Texts { items: limits::PATHS_MAX, max: limits::PATH_MAX },
    "One or more files, folders (ending in /) or globs ('src/**')",
)
.at(CliPlace::Rest)
.path();

const TREES: ArgKind = ArgKind::Texts { items: limits::EDIT_FILES_MAX, max: limits::PATH_MAX };
/// The git work trees that contain the paths of a call. The caller's own directory may be outside these work trees.
pub(super) const GIT_ROOTS: Arg = Arg::new("gitRoots", TREES, "Git work trees that contain the paths")
    .at(CliPlace::Hidden)
    .not_in_tool()
    .role(ArgRole::WorkTrees);
/// The repositories of the work trees in [`GIT_ROOTS`].
pub(super) const REPOS: Arg = Arg::new("repos", TREES, "Repository ids of these work trees, in the same order")
    .at(CliPlace::Hidden)
    .not_in_tool();

/// Takes or renews a lock.
pub static LOCK: Op = Op {
    name: "lock.lock",
    summary: "Lock the files, folders or globs that you are about to edit, or renew your locks; if one can't be \
              locked, none is",
    args: &[
        FILE,
        FILES,
        Arg::new(
            "reason",
            ArgKind::Text { min: 0, max: limits::REASON_MAX },
            "Why you need the lock; other peers see this text",
        ),
        Arg::new(
            "ttlMinutes",
            ArgKind::Int { min: 1, max: 60 },
            "Minutes until the lock expires, unless it is renewed; 10 by default",
        )
        .short("ttl"),
        Arg::new("ttlMs", ArgKind::Int { min: 1000, max: limits::DAY_MS }, "The same in ms, for programs")
            .at(CliPlace::Hidden)
            .not_in_tool(),
        Arg::wait_seconds("Seconds to wait in line if another peer holds the lock").short("wait"),
        Arg::waiting_since(),
        Arg::new(
            "scope",
            ArgKind::Choice(&["machine", "repo"]),
            "repo: also lock the file in other work trees and clones of the repository",
        ),
        Arg::new("renew", ArgKind::Flag, "Renew a lock that you took with an earlier command").not_in_tool(),
        Arg::new("steal", ArgKind::Flag, "Take the lock from its holder, who is notified; only the human may do this")
            .not_in_tool(),
        Arg::new("command", ArgKind::Text { min: 1, max: 64 }, "Key of the command that is the only owner of the lock")
            .at(CliPlace::Hidden)
            .not_in_tool(),
        Arg::new(
            "outerCommands",
            ArgKind::Texts { items: limits::OUTER_COMMANDS_MAX, max: 64 },
            "If the caller runs inside commands that hold locks: the keys of these commands",
        )
        .role(ArgRole::OuterCommands)
        .at(CliPlace::Hidden)
        .not_in_tool(),
        Arg::new("repo", PATH, "Repository id, if not the caller's own").at(CliPlace::Hidden).not_in_tool(),
        Arg::new("gitRoot", PATH, "Git work tree, if not the caller's own").at(CliPlace::Hidden).not_in_tool(),
        GIT_ROOTS,
        REPOS,
    ],
    actor: Auth::Required,
    verb: Some("lock"),
    tool: Some(("lock", Some("lock"))),
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(lock),
};

/// Releases locks.
pub static UNLOCK: Op = Op {
    name: "lock.unlock",
    summary: "Release locks; if you hold no lock on one of the files, nothing is released",
    args: &[
        FILE,
        FILES,
        Arg::new("command", ArgKind::Text { min: 1, max: 64 }, "Key of the command that owns the lock")
            .at(CliPlace::Hidden)
            .not_in_tool(),
        Arg::new(
            "token",
            ArgKind::Int { min: 1, max: i64::MAX },
            "Release only the lock with this token, whoever holds it; only the human may do this",
        )
        .at(CliPlace::Hidden)
        .not_in_tool(),
    ],
    actor: Auth::Required,
    verb: Some("unlock"),
    tool: Some(("lock", Some("unlock"))),
    repeatable: true,
    behavior: OpBehavior { on_page: true, ..OpBehavior::USUAL },
    run: Runner::Rule(unlock),
};

/// Lists locks.
pub static QUERY: Op = Op {
    name: "lock.query",
    summary: "List active locks and the peers that wait for them, or only the locks on certain files",
    args: &[
        FILE,
        FILES,
        Arg::new(
            "exact",
            PATH,
            "Only locks on exactly this path, or, if the path is relative, on paths that end with it",
        )
        .at(CliPlace::Hidden)
        .not_in_tool(),
        pagination::next_page(pagination::CURSOR_MAX),
        GIT_ROOTS,
        REPOS,
    ],
    actor: Auth::Optional,
    verb: Some("lock list"),
    tool: Some(("lock", Some("query"))),
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(query),
};

/// Checks which of the given files other peers have locked.
pub static CHECK: Op = Op {
    name: "lock.check",
    summary: "List other peers' locks on these files, for a git hook that refuses locked files",
    args: &[
        Arg::new("files", ArgKind::Texts { items: limits::EDIT_FILES_MAX, max: limits::PATH_MAX }, "Absolute paths")
            .required()
            .at(CliPlace::Hidden),
        Arg::new("repo", PATH, "Repository id").at(CliPlace::Hidden),
        Arg::new("gitRoot", PATH, "Root of the git work tree").at(CliPlace::Hidden),
        Arg::new("unknownCaller", ArgKind::Flag, "The caller is unknown, so no lock counts as the caller's own")
            .at(CliPlace::Hidden),
    ],
    actor: Auth::Required,
    verb: None,
    tool: None,
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(check),
};

fn requested_paths(args: &Args) -> Vec<String> {
    let mut found: Vec<String> =
        args.text("filePath").into_iter().chain(args.texts("filePaths")).map(path_overlap::normal).collect();
    found.sort();
    found.dedup();
    found
}

fn required_paths(ctx: &CallContext, args: &Args) -> Result<Vec<String>, Error> {
    let found = requested_paths(args);
    match found.iter().find(|path| !path.starts_with('/')).filter(|_| !ctx.is_http_program()) {
        _ if found.is_empty() => {
            Err(Error::usage("filePath", "missing; give one path in filePath, or several in filePaths"))
        }
        Some(path) => Err(Error::usage("filePath", format!("expected an absolute path, got \"{path}\""))),
        None => Ok(found),
    }
}

fn owner_of(args: &Args) -> LockOwner {
    args.text("command").map_or(LockOwner::Peer, |key| LockOwner::Command(key.to_owned()))
}

fn lock(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, locks, mail, journal, federation, waiting, rates, settings, .. } = mesh;
    let request = lock_request(peers, rates, settings, ctx, args)?;
    let mut notes = Vec::new();
    if args.flag("steal") == Some(true) {
        notes = locks.steal(&mut StealParts { turn, peers, mail, journal, federation }, ctx, &request)?;
    }
    let conflicts = locks.conflicts(peers, &request);
    let until = ctx.wait(args.int("waitSeconds"));
    if let Some(first) = conflicts.first() {
        let Some(until) = until else { return Err(locks.held_error(peers, waiting, first, &request, ctx.now)) };
        locks.refuse_cycle(peers, waiting, &request, &conflicts)?;
        return Ok(Outcome::Pending(WaitReason::Locks(request.into()), until));
    }
    // A disconnected session would not learn that it has the lock. So the lock is not granted yet. But the request
    // keeps its position in the queue, because the session may reconnect.
    if ctx.until.is_some() && peers.is_out_of_reach(&request.holder, ctx.conn) {
        let name = peers.name_of(&request.holder);
        return match until {
            Some(until) => Ok(Outcome::Pending(WaitReason::Locks(request.into()), until)),
            None => Err(Error::new(ErrorKind::Held, format!("{name} is offline, so it cannot take the lock"))),
        };
    }
    // If a request steals locks, or if its caller does not want to wait, the request may be granted before earlier
    // requests.
    let stands_in_line = args.flag("steal") != Some(true) && (until.is_some() || ctx.until.is_some());
    if let Some(first) = stands_in_line.then(|| locks.first_ahead(peers, waiting, &request)).flatten() {
        let Some(until) = until else { return Err(locks.not_first_error(peers, first)) };
        return Ok(Outcome::Pending(WaitReason::Locks(request.into()), until));
    }
    let new_paths = locks.new_paths(&request);
    let grants = locks.grant(turn, peers, journal, &request, ctx.now)?;
    let mut value = granted_view(peers, &grants, ctx.now);
    add_notes(&mut value, &notes);
    if peers.is_connected(ctx.conn) {
        locks.note_grant(ctx, grants.iter().map(|lock| lock.token).max().unwrap_or_default(), new_paths);
        locks.add_command(ctx.conn, &request);
    }
    Ok(Outcome::Ready(value))
}

/// Creates a request from the arguments of `lock.lock`.
fn lock_request(
    peers: &Peers,
    rates: &mut RateLimiter,
    settings: &MeshSettings,
    ctx: &CallContext,
    args: &Args,
) -> Result<LockRequest, Error> {
    let paths = required_paths(ctx, args)?;
    if ctx.until.is_none() {
        // The rate limit counts each pattern as one more call, because a pattern is compared with all locks.
        let n_patterns = paths.iter().filter(|path| path_overlap::is_pattern(path)).count();
        rates.charge_call(peers, ctx, 1 + n_patterns as u32)?;
    }
    let me = peers.caller(ctx).map(|peer| peer.row.clone()).unwrap_or_default();
    let request = LockRequest {
        paths,
        holder: ctx.me()?.clone(),
        owner: owner_of(args),
        reason: args.text("reason").unwrap_or("").to_owned(),
        ttl_ms: (args.int("ttlMs")).unwrap_or_else(|| args.int("ttlMinutes").unwrap_or(settings.lock_ttl_min) * 60_000),
        trees: Repository::of_call(args, &me),
        host: peers.host_of(ctx.conn),
        all_worktrees: args.text("scope") == Some("repo"),
        // If an agent requests its own lock again, the lock is renewed. A person must ask for a renewal explicitly,
        // because the lock may belong to another script of the person.
        renew: args.flag("renew").unwrap_or(!peers.is_human(ctx.me()?)),
        outer_commands: args.texts("outerCommands").into_iter().map(str::to_owned).collect(),
        has_unclear_caller: !peers.other_possible_callers(ctx, ctx.me()?).is_empty(),
    };
    match request.paths.iter().find(|path| request.tree_of(path).is_none()) {
        // The caller wants to lock the path in all work trees. This is impossible if the repository of the path is
        // unknown.
        Some(path) if request.all_worktrees => {
            let why = format!(
                "\"{path}\" is in no known repository; lock it from inside its work tree, or without the scope `repo`"
            );
            Err(Error::usage("scope", why))
        }
        _ => Ok(request),
    }
}

fn unlock(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, locks, mail, journal, federation, .. } = mesh;
    let owner = owner_of(args);
    let paths = required_paths(ctx, args)?;
    let mut notes = Vec::new();
    for path in &paths {
        let released = match args.int("token").map(FencingToken) {
            Some(token) => {
                let parts = &mut StealParts { turn, peers, mail, journal, federation };
                let taken = locks.take_grant(parts, ctx, path, token)?;
                taken.map(|more| notes.extend(more)).is_some()
            }
            None => locks.release_path(turn, peers, journal, path, ctx.me()?, &owner, ctx.now)?,
        };
        if !released {
            return Err(locks.not_released(peers, ctx.me()?, path));
        }
    }
    locks.forget_command(ctx.conn, ctx.me()?, &owner);
    let rows: Vec<Value> = paths.iter().map(|path| json!(path)).collect();
    let shown = fitting(&rows);
    let mut value = json!({ "ok": true, "unlocked": rows[..shown] });
    if shown < rows.len() {
        value["remaining"] = json!(rows.len() - shown);
    }
    add_notes(&mut value, &notes);
    Ok(Outcome::Ready(value))
}

/// Adds notes about locks that the caller has taken from their holders.
fn add_notes(value: &mut Value, notes: &[String]) {
    if !notes.is_empty() {
        value["note"] = json!(notes.join("; "));
    }
}

fn query(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { peers, locks, waiting, .. } = mesh;
    let me = peers.caller(ctx).map(|peer| peer.row.clone()).unwrap_or_default();
    let trees = Repository::of_call(args, &me);
    let host = peers.host_of(ctx.conn);
    let asked = LockRequest { paths: requested_paths(args), trees, host, ..LockRequest::default() };
    let matcher = LockMatcher::new(&asked);
    // Whether a lock and the paths in the call share a file. Locks in other work trees count, too.
    let touches = |lock: &&LockRow| asked.paths.is_empty() || matcher.collides(lock);
    let is_exact = |lock: &&LockRow| args.text("exact").is_none_or(|path| is_path_or_ends_with(&lock.path, path));
    // The locks are listed in the order in which they were granted. A renewed lock keeps its position.
    let mut found: Vec<&LockRow> = locks.all().filter(touches).filter(is_exact).collect();
    found.sort_by_key(|lock| cursor(lock));
    if let Some(after) = args.text("after") {
        let after = pagination::parse_cursor(after)?;
        found.retain(|lock| cursor(lock) > after);
    }
    // A program over HTTP does not see who waits for a lock.
    let queue = (!ctx.is_http_program()).then(|| wait_queue_and_forced_unlock::matchers(waiting));
    let mut page = ctx.page();
    for lock in &found {
        let mut row = lock_view(peers, lock, ctx.now);
        if let Some(queue) = &queue {
            row["queue"] = json!(wait_queue_and_forced_unlock::names_for(peers, lock, queue));
        }
        if !page.add(row) {
            break;
        }
    }
    let mut value = json!({ "ok": true });
    let last = page.len().checked_sub(1).map(|last| cursor(found[last]));
    pagination::add_cursor(&mut value, found.len() - page.len(), last);
    value["locks"] = Value::Array(page.into_rows());
    Ok(Outcome::Ready(value))
}

/// Whether `path` is the path itself. A relative path also stands for all paths that end with it.
fn is_path_or_ends_with(locked: &str, path: &str) -> bool {
    locked == path || !path.starts_with('/') && locked.strip_suffix(path).is_some_and(|folder| folder.ends_with('/'))
}

/// Returns the position of a lock in the order of the grants.
fn cursor(lock: &LockRow) -> (i64, &str) {
    (lock.token.0, &lock.path)
}

fn check(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { peers, locks, .. } = mesh;
    let text = |name| args.text(name).map(str::to_owned);
    let own = Some(ctx.me()?).filter(|_| args.flag("unknownCaller") != Some(true));
    let request = LockRequest {
        paths: args.texts("files").into_iter().map(path_overlap::normal).collect(),
        trees: Repository::new(text("repo"), text("gitRoot")).into_iter().collect(),
        host: peers.host_of(ctx.conn),
        ..LockRequest::default()
    };
    let others = locks.sharing_files(&request).filter(|lock| Some(&lock.holder) != own);
    let rows: Vec<Value> = others.take(limits::LIST_MAX).map(|lock| lock_view(peers, lock, ctx.now)).collect();
    Ok(Outcome::Ready(json_object([("ok", Value::Bool(true)), ("locks", Value::Array(rows))])))
}

/// Returns the answer to a granted request for locks.
fn granted_view(peers: &Peers, grants: &[LockRow], now: i64) -> Value {
    let rows: Vec<Value> = grants.iter().map(|lock| lock_view(peers, lock, now)).collect();
    let mut value = json!({
        "ok": true, "lock": rows[0], "token": grants.iter().map(|lock| lock.token.0).max(),
        "expiresInSeconds": (grants[0].expires - now) / 1000,
    });
    if rows.len() > 1 {
        let shown = fitting(&rows);
        if shown < rows.len() {
            value["remaining"] = json!(rows.len() - shown);
        }
        value["locks"] = json!(rows[..shown]);
    }
    value
}

/// Returns how many of the rows fit into one result.
fn fitting(rows: &[Value]) -> usize {
    let mut size = 0;
    let fits = |row: &&Value| {
        size += visible_json_length(row);
        size <= limits::PAGE_MAX / 2
    };
    rows.iter().take_while(fits).count().max(1)
}

/// Returns a lock in the form that clients see. The keys of the old HTTP API come first.
pub fn lock_view(peers: &Peers, lock: &LockRow, now: i64) -> Value {
    json!({
        "filePath": lock.path, "lockedBy": lock.holder.as_str(), "lockedAt": time_format::iso(lock.granted),
        "expiresAt": time_format::iso(lock.expires), "reason": lock.reason, "token": lock.token.0,
        "holder": peers.name_of(&lock.holder), "expiresInSeconds": (lock.expires - now).max(0) / 1000,
        "scope": if lock.all_worktrees { "repo" } else { "machine" },
    })
}

/// The parts of the mesh that change when a lock is taken from its holder.
struct StealParts<'a> {
    turn: &'a mut Turn,
    peers: &'a Peers,
    mail: &'a mut Mail,
    journal: &'a Journal,
    federation: &'a mut super::federation::Federation,
}
