//! Locks: one holder per file, a lease with a fencing token, a fair queue, no deadlock by waiting.

pub mod request;
pub mod wait_queue;

use crate::base::error::{Error, ErrorKind};
use crate::base::paths::PathMatcher;
use crate::base::{limits, paths, time};
use crate::core::locks::request::{LockRequest, TURN, inside, is_soft};
use crate::core::op::ArgKind;
use crate::core::peers::Peer;
use crate::core::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome, WaitReason, pagination};
use crate::store::LockRow;
use serde_json::{Value, json};

const PATH: ArgKind = ArgKind::Text { min: 1, max: limits::PATH_MAX };
const FILE: Arg = Arg::new("filePath", PATH, "File, folder (ends in /) or glob (src/auth/**)").at(CliPlace::Hidden);
const FILES: Arg = Arg::new(
    "filePaths",
    ArgKind::Texts { items: limits::PATHS_MAX, max: limits::PATH_MAX },
    "Several of them, all or nothing",
)
.at(CliPlace::Rest);

/// Takes or renews a lock.
pub static LOCK: Op = Op {
    name: "lock.lock",
    summary: "Lock files before you edit them, or renew what you hold; can wait in line",
    args: &[
        FILE,
        FILES,
        Arg::new("reason", ArgKind::Text { min: 0, max: limits::REASON_MAX }, "What for; others read it"),
        Arg::new(
            "ttlMinutes",
            ArgKind::Int { min: 1, max: 60 },
            "Minutes until it falls unless renewed, 10 unless said otherwise",
        )
        .short("ttl"),
        Arg::new(
            "waitSeconds",
            ArgKind::Int { min: 0, max: limits::WAIT_SECONDS_MAX },
            "WaitingCall in line this long if it is held",
        )
        .short("wait"),
        Arg::new(
            "scope",
            ArgKind::Choice(&["machine", "repo"]),
            "repo = also in other work trees and clones of the repository",
        ),
        Arg::new("renew", ArgKind::Flag, "Renew a lock of your own that an earlier command took").not_in_tool(),
        Arg::new("steal", ArgKind::Flag, "Take it from its holder, who is told; for the human only").not_in_tool(),
        Arg::new("bound", ArgKind::Text { min: 1, max: 64 }, "Key of the invocation that alone owns it")
            .at(CliPlace::Hidden)
            .not_in_tool(),
        Arg::new("repo", PATH, "Repository identity, if not the caller's own").at(CliPlace::Hidden).not_in_tool(),
        Arg::new("gitRoot", PATH, "Root of the work tree, if not the caller's own").at(CliPlace::Hidden).not_in_tool(),
    ],
    actor: Auth::Required,
    verb: Some("lock"),
    tool: Some(("lock", Some("lock"))),
    repeatable: true,
    run: lock,
};

/// Gives a lock back.
pub static UNLOCK: Op = Op {
    name: "lock.unlock",
    summary: "Give locks back",
    args: &[
        FILE,
        FILES,
        Arg::new("bound", ArgKind::Text { min: 1, max: 64 }, "Key of the invocation that owns it")
            .at(CliPlace::Hidden)
            .not_in_tool(),
        Arg::new(
            "token",
            ArgKind::Int { min: 1, max: i64::MAX },
            "Take exactly this grant from its holder; the human only",
        )
        .at(CliPlace::Hidden)
        .not_in_tool(),
    ],
    actor: Auth::Required,
    verb: Some("unlock"),
    tool: Some(("lock", Some("unlock"))),
    repeatable: true,
    run: unlock,
};

/// Lists locks.
pub static QUERY: Op = Op {
    name: "lock.query",
    summary: "List the locks in force and who waits for them, or those that touch a file",
    args: &[
        FILE,
        FILES,
        Arg::new(
            "after",
            ArgKind::Text { min: 1, max: pagination::MARK_MAX },
            "Go on here: the next of the last answer",
        )
        .not_in_tool(),
    ],
    actor: Auth::Optional,
    verb: Some("lock list"),
    tool: Some(("lock", Some("query"))),
    repeatable: true,
    run: query,
};

/// Asks whether others hold files.
pub static CHECK: Op = Op {
    name: "lock.check",
    summary: "List the locks of others on these files, for a hook that is about to let them pass",
    args: &[
        Arg::new("files", ArgKind::Texts { items: limits::EDIT_FILES_MAX, max: limits::PATH_MAX }, "Absolute paths")
            .required()
            .at(CliPlace::Hidden),
        Arg::new("repo", PATH, "Repository identity").at(CliPlace::Hidden),
        Arg::new("gitRoot", PATH, "Root of the work tree").at(CliPlace::Hidden),
    ],
    actor: Auth::Required,
    verb: None,
    tool: None,
    repeatable: true,
    run: check,
};

pub(crate) fn wanted_paths(args: &Args) -> Vec<String> {
    let mut found: Vec<String> =
        args.text("filePath").into_iter().chain(args.texts("filePaths")).map(paths::normal).collect();
    found.sort();
    found.dedup();
    found
}

fn some_paths(args: &Args) -> Result<Vec<String>, Error> {
    let found = wanted_paths(args);
    match found.iter().find(|path| !path.starts_with('/')) {
        _ if found.is_empty() => Err(Error::usage("filePath", "missing; want a path, or filePaths with several")),
        Some(path) => Err(Error::usage("filePath", format!("want an absolute path, got \"{path}\""))),
        None => Ok(found),
    }
}

fn lock(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    if args.text("bound") == Some(TURN) {
        return Err(Error::usage("bound", "that word is the mesh's own"));
    }
    let paths = some_paths(args)?;
    if ctx.until.is_none() {
        // Each pattern is compared with every lock there is.
        let n_patterns = paths.iter().filter(|path| paths::is_pattern(path)).count();
        mesh.limit(ctx.me(), 1 + n_patterns as u32, ctx.now)?;
    }
    let me = mesh.peer(ctx.me()).map(|peer| peer.row.clone()).unwrap_or_default();
    let repo =
        args.text("repo").map(str::to_owned).or(me.repo).zip(args.text("gitRoot").map(str::to_owned).or(me.git_root));
    let want = LockRequest {
        paths,
        holder: ctx.me().to_owned(),
        bound: args.text("bound").unwrap_or("").to_owned(),
        reason: args.text("reason").unwrap_or("").to_owned(),
        ttl_ms: args.int("ttlMinutes").unwrap_or(mesh.settings.lock_ttl_min) * 60_000,
        repo,
        host: mesh.host_of(ctx.conn),
        everywhere: args.text("scope") == Some("repo"),
        // Two scripts of one person are two wishes; an agent that asks again means its own lock.
        renew: args.flag("renew").unwrap_or(!mesh.is_human(ctx.me())),
    };
    if args.flag("steal") == Some(true) {
        mesh.steal(ctx, &want)?;
    }
    let in_the_way = mesh.in_the_way(&want);
    let until = ctx.wait(args.int("waitSeconds"));
    if in_the_way.is_empty() {
        // Nobody is there to hear of it: whose session went while it waited keeps its place in the
        // line, in case it comes back.
        if ctx.until.is_some() && mesh.peer(&want.holder).is_some_and(Peer::is_gone) {
            return match until {
                Some(until) => Ok(Outcome::Pending(WaitReason::Locks(want.into()), until)),
                None => Err(Error::new(ErrorKind::Held, format!("{} is away; a lock would go to nobody", me.name))),
            };
        }
        let grants = mesh.grant(&want, ctx.now)?;
        let key = (want.holder, want.bound);
        if let (false, Some(seat)) = (key.1.is_empty(), mesh.seats.get_mut(&ctx.conn))
            && !seat.bound.contains(&key)
        {
            seat.bound.push(key);
        }
        return Ok(Outcome::Ready(mesh.granted_value(&grants, ctx.now)));
    }
    if let Some(until) = until {
        mesh.refuse_cycle(&want, &in_the_way)?;
        return Ok(Outcome::Pending(WaitReason::Locks(want.into()), until));
    }
    Err(mesh.held(&in_the_way[0], &want, ctx.now))
}

fn unlock(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let bound = args.text("bound").unwrap_or("");
    let paths = some_paths(args)?;
    for path in &paths {
        let falls = match args.int("token") {
            Some(token) => mesh.take(ctx, path, token)?,
            None => mesh.unlock(path, ctx.me(), bound, ctx.now)?,
        };
        if falls {
            continue;
        }
        let other = mesh.locks.iter().find(|lock| lock.path == *path);
        let text = match other {
            Some(lock) if lock.holder == ctx.me() => {
                format!("{path} is locked by a running command of yours; it falls when that ends")
            }
            Some(lock) => {
                format!("{path} is locked by {}, not by you; only its holder gives it back", mesh.name_of(&lock.holder))
            }
            None => format!("{path} is not locked; see what is with mesh_lock query (slm-mesh lock list)"),
        };
        return Err(Error::not_found(text));
    }
    if let (false, Some(seat)) = (bound.is_empty(), mesh.seats.get_mut(&ctx.conn)) {
        let holds = |lock: &LockRow| lock.holder == ctx.me() && lock.bound == bound;
        if !mesh.locks.iter().any(holds) {
            seat.bound.retain(|(holder, key)| holder != ctx.me() || key != bound);
        }
    }
    let rows: Vec<Value> = paths.iter().map(|path| json!(path)).collect();
    let shown = fitting(&rows);
    let mut value = json!({ "ok": true, "unlocked": rows[..shown] });
    if shown < rows.len() {
        value["remaining"] = json!(rows.len() - shown);
    }
    Ok(Outcome::Ready(value))
}

fn query(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let asked = wanted_paths(args);
    let wanted = PathMatcher::new(asked.iter().map(String::as_str));
    let touches = |lock: &&LockRow| asked.is_empty() || wanted.overlaps(&lock.path);
    // In the order in which they were granted: later ones stand behind, and renewals stay where they are.
    let mut found: Vec<&LockRow> = mesh.locks.iter().filter(touches).collect();
    found.sort_by_key(|lock| place(lock));
    if let Some(after) = args.text("after") {
        let after = pagination::read(after)?;
        found.retain(|lock| place(lock) > after);
    }
    let (mut rows, mut size, line) = (Vec::new(), 0, mesh.line());
    for lock in &found {
        let mut row = mesh.lock_value(lock, ctx.now);
        row["queue"] = json!(mesh.queue_for(lock, &line));
        size += row.to_string().len();
        if size > limits::PAGE_MAX && !rows.is_empty() {
            break;
        }
        rows.push(row);
    }
    let mut value = json!({ "ok": true });
    pagination::mark(&mut value, found.len() - rows.len(), rows.len().checked_sub(1).map(|last| place(found[last])));
    value["locks"] = json!(rows);
    Ok(Outcome::Ready(value))
}

/// Where a lock stands in a list.
fn place(lock: &LockRow) -> (i64, &str) {
    (lock.token, &lock.path)
}

fn check(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let want = LockRequest {
        paths: args.texts("files").into_iter().map(paths::normal).collect(),
        holder: ctx.me().to_owned(),
        bound: String::new(),
        reason: String::new(),
        ttl_ms: 0,
        repo: args.text("repo").zip(args.text("gitRoot")).map(|(repo, root)| (repo.to_owned(), root.to_owned())),
        host: mesh.host_of(ctx.conn),
        everywhere: false,
        renew: true,
    };
    let others = mesh.in_the_way(&want).into_iter().filter(|lock| lock.holder != want.holder);
    let rows: Vec<Value> = others.take(limits::LIST_MAX).map(|lock| mesh.lock_value(&lock, ctx.now)).collect();
    Ok(Outcome::Ready(json!({ "ok": true, "locks": rows })))
}

/// How many rows fit into one result.
fn fitting(rows: &[Value]) -> usize {
    let mut size = 0;
    let fits = |row: &&Value| {
        size += row.to_string().len();
        size <= limits::PAGE_MAX / 2
    };
    rows.iter().take_while(fits).count().max(1)
}

impl Mesh {
    /// Grants a wish for which nothing is in the way: renews what is held, takes the rest. The
    /// whole grant gets one new token, so that an old one can be told from it.
    pub fn grant(&mut self, want: &LockRequest, now: i64) -> Result<Vec<LockRow>, Error> {
        let is_new = |path: &&String| !self.locks.iter().any(|lock| lock.path == **path && lock.holder == want.holder);
        if self.locks.len() + want.paths.iter().filter(is_new).count() > limits::LOCKS_MAX {
            return Err(Error::new(
                ErrorKind::Full,
                format!("{} locks are in force; lock a folder instead of its files", self.locks.len()),
            ));
        }
        let same = |bound: &str| bound == want.bound || is_soft(bound) && is_soft(&want.bound);
        let owned = |lock: &&LockRow| lock.holder == want.holder && same(&lock.bound);
        let held: Vec<LockRow> = self.locks.iter().filter(owned).cloned().collect();
        let all_held = want.paths.iter().all(|path| held.iter().any(|lock| lock.path == *path));
        let token = if all_held { 0 } else { self.store.next_token() };
        let mut grants = Vec::with_capacity(want.paths.len());
        for path in &want.paths {
            let old = held.iter().find(|lock| lock.path == *path);
            let row = LockRow {
                // A renewal keeps its token: it is the same grant, and its holder may have shown it.
                token: old.map_or(token, |old| old.token),
                path: path.clone(),
                holder: want.holder.clone(),
                // What the agent took itself stays its own when an edit renews it.
                bound: old.filter(|_| want.bound == TURN).map_or(&want.bound, |old| &old.bound).clone(),
                reason: if want.reason.is_empty() {
                    old.map(|old| old.reason.clone()).unwrap_or_default()
                } else {
                    want.reason.clone()
                },
                host: want.host.clone(),
                rel: inside(path, want.repo.as_ref()).map(str::to_owned),
                repo: want.repo.as_ref().map(|(repo, _)| repo.clone()),
                everywhere: want.everywhere || old.is_some_and(|old| old.everywhere),
                taken: old.map_or(now, |old| old.taken),
                // Nor does a short renewal cut a longer lease.
                expires: old.filter(|_| want.bound == TURN).map_or(0, |old| old.expires).max(now + want.ttl_ms),
            };
            self.store.put_lock(&row)?;
            self.locks.retain(|lock| lock.token != row.token || lock.path != row.path);
            self.locks.push(row.clone());
            if old.is_none() {
                let payload =
                    json!({ "filePath": path, "lockedBy": want.holder, "reason": row.reason, "token": row.token });
                self.emit("file_locked", &want.holder, payload, now)?;
            }
            grants.push(row);
        }
        Ok(grants)
    }

    /// Gives one path back; false if this holder does not hold it.
    pub fn unlock(&mut self, path: &str, holder: &str, bound: &str, now: i64) -> Result<bool, Error> {
        let n_before = self.locks.len();
        let same = |lock: &LockRow| lock.bound == bound || is_soft(&lock.bound) && is_soft(bound);
        self.free_locks(|lock| lock.path == path && lock.holder == holder && same(lock), "unlocked", now)?;
        Ok(self.locks.len() < n_before)
    }

    /// Removes locks and tells why. A lock released by its holder says nothing of a reason.
    pub(crate) fn free_locks(&mut self, falls: impl Fn(&LockRow) -> bool, reason: &str, now: i64) -> Result<(), Error> {
        let fallen: Vec<LockRow> = self.locks.iter().filter(|lock| falls(lock)).cloned().collect();
        if fallen.is_empty() {
            return Ok(());
        }
        for lock in &fallen {
            self.store.drop_lock(lock.token, &lock.path)?;
            let mut payload = json!({ "filePath": lock.path, "unlockedBy": lock.holder, "token": lock.token });
            if reason != "unlocked" {
                payload["reason"] = json!(reason);
            }
            self.emit("file_unlocked", &lock.holder, payload, now)?;
        }
        self.locks.retain(|lock| !falls(lock));
        self.stirred.locks = true;
        Ok(())
    }

    /// The refusal: who, why, how long, and what to do.
    pub(crate) fn held(&self, lock: &LockRow, want: &LockRequest, now: i64) -> Error {
        let (holder, left) = (self.name_of(&lock.holder), time::span(lock.expires - now));
        let reason = if lock.reason.is_empty() { String::new() } else { format!("reason: {}, ", lock.reason) };
        let whose = if lock.holder == want.holder {
            let cure = if is_soft(&lock.bound) { "renew it with --renew" } else { "it falls when that command ends" };
            format!("{} is locked by another command of yours ({reason}{left} left); {cure}", lock.path)
        } else {
            format!(
                "{} is locked by {holder} ({reason}{left} left); wait with waitSeconds (--wait 60), or ask it: \
                 mesh_send to {holder} (slm-mesh send {holder} \"…\")",
                lock.path
            )
        };
        Error::new(ErrorKind::Held, whose)
            .with(json!({ "lock": self.lock_value(lock, now), "queue": self.queue_for(lock, &self.line()) }))
    }

    fn granted_value(&self, grants: &[LockRow], now: i64) -> Value {
        let rows: Vec<Value> = grants.iter().map(|lock| self.lock_value(lock, now)).collect();
        let first = &grants[0];
        let mut value = json!({
            "ok": true, "lock": rows[0], "token": grants.iter().map(|lock| lock.token).max(),
            "expiresInSeconds": (first.expires - now) / 1000,
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

    /// A lock with the keys of the old HTTP API first.
    pub fn lock_value(&self, lock: &LockRow, now: i64) -> Value {
        json!({
            "filePath": lock.path, "lockedBy": lock.holder, "lockedAt": time::iso(lock.taken),
            "expiresAt": time::iso(lock.expires), "reason": lock.reason, "token": lock.token,
            "holder": self.name_of(&lock.holder), "expiresInSeconds": (lock.expires - now).max(0) / 1000,
            "scope": if lock.everywhere { "repo" } else { "machine" },
        })
    }

    /// The locks in force, for the old HTTP API.
    pub fn locks(&self) -> &[LockRow] {
        &self.locks
    }

    /// Locks whose time is up, and those of commands that did not come back after a crash of ours.
    pub(crate) fn expire_locks(&mut self, now: i64) -> Result<(), Error> {
        self.free_locks(|lock| lock.expires <= now, "expired", now)?;
        if self.orphans.is_some_and(|since| since + limits::GRACE_MS <= now) {
            let bound: Vec<(String, String)> = self.seats.values().flat_map(|seat| seat.bound.clone()).collect();
            let runs = |lock: &LockRow| bound.iter().any(|(holder, key)| *holder == lock.holder && *key == lock.bound);
            self.free_locks(|lock| !is_soft(&lock.bound) && !runs(lock), "its command is gone", now)?;
            self.orphans = None;
        }
        Ok(())
    }
}
