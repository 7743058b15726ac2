//! Finds the locks that affect one work tree, for hooks and for the shield. The shield prevents shell commands from
//! writing to files that other peers have locked.

use super::super::op_definition::ArgKind;
use super::super::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome};
use super::Locks;
use super::cursor;
use super::request_conflicts::Repository;
use crate::base::error::Error;
use crate::base::id_types::PeerId;
use crate::base::limits;
use crate::base::path_overlap;
use crate::core::arguments_that_identify_session::KEYED_CALLS;
use crate::core::op_behavior::OpBehavior;
use crate::core::op_definition::Runner;
use crate::core::pagination::{self, Page};
use crate::core::peers::Peers;
use crate::store::LockRow;
use serde_json::{Value, json};
use std::cmp::Reverse;

const PATH: ArgKind = ArgKind::Text { min: 1, max: limits::PATH_MAX };

/// Lists the locks that a command of the caller must respect.
pub static OTHERS: Op = Op {
    name: "lock.others",
    summary: "List the locks of other peers in a work tree, for a command that runs in a shield",
    args: &[
        Arg::new("project", PATH, "Absolute path of the working directory").required().at(CliPlace::Hidden),
        Arg::new("repo", PATH, "Repository id").at(CliPlace::Hidden),
        Arg::new("gitRoot", PATH, "Root of the git work tree").at(CliPlace::Hidden),
        KEYED_CALLS,
        pagination::next_page(pagination::CURSOR_MAX).at(CliPlace::Hidden),
    ],
    actor: Auth::Required,
    verb: None,
    tool: None,
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(others),
};

fn others(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { peers, locks, .. } = mesh;
    let text = |name| args.text(name).map(str::to_owned);
    let here = WorkPlace {
        tree: Repository::new(text("repo"), text("gitRoot")),
        project: args.word("project").to_owned(),
        peer: ctx.me()?.clone(),
        host: peers.host_of(ctx.conn),
    };
    let keyed = args.flag("keyedCalls").unwrap_or(false);
    let is_shared = |lock: &LockRow| !keyed && locks.may_belong_to_caller(peers, &ctx.ancestors, lock);
    let mut found: Vec<(&LockRow, String)> = locks_of_others(locks, &here, is_shared).collect();
    found.sort_by_key(|(lock, _)| (lock.token, lock.path.as_str()));
    if let Some(after) = args.text("after") {
        let after = pagination::parse_cursor(after)?;
        found.retain(|(lock, _)| cursor(lock) > after);
    }
    // The answer goes to a program, so a page may be larger than a tool result. If the locks do not all fit into one
    // answer, they are split into pages.
    let mut page = Page::for_people();
    let fitting = found.iter().take_while(|(lock, path)| page.add(short_view(peers, lock, path))).count();
    let mut value = json!({ "ok": true });
    pagination::add_cursor(&mut value, found.len() - fitting, fitting.checked_sub(1).map(|last| cursor(found[last].0)));
    value["locks"] = Value::Array(page.into_rows());
    Ok(Outcome::Ready(value))
}

/// Where a peer works.
pub(in crate::core) struct WorkPlace {
    /// The work tree that contains the peer's working directory.
    pub tree: Option<Repository>,
    /// The working directory.
    pub project: String,
    pub peer: PeerId,
    /// The machine of the peer.
    pub host: String,
}

/// Returns the locks that a hook watches: at most `WATCHED_FILES_MAX` locks of other peers that affect the work tree.
/// If there are more, returns the newest ones, because their holders are probably writing these files now.
pub(in crate::core) fn watched_locks(
    locks: &Locks,
    peers: &Peers,
    here: &WorkPlace,
    is_harmless: impl Fn(&LockRow) -> bool,
) -> Vec<Value> {
    let found = newest(locks_of_others(locks, here, is_harmless));
    found.iter().map(|(lock, path)| short_view(peers, lock, path)).collect()
}

/// Returns the newest of these locks, at most `WATCHED_FILES_MAX`.
fn newest<'a>(found: impl Iterator<Item = (&'a LockRow, String)>) -> Vec<(&'a LockRow, String)> {
    let mut found: Vec<(&LockRow, String)> = found.collect();
    found.sort_by_key(|(lock, _)| Reverse(lock.token));
    found.truncate(limits::WATCHED_FILES_MAX);
    found
}

/// Finds the locks of other peers that affect a work tree. Returns each lock with its path in this work tree.
fn locks_of_others<'a>(
    locks: &'a Locks,
    here: &'a WorkPlace,
    is_harmless: impl Fn(&LockRow) -> bool + 'a,
) -> impl Iterator<Item = (&'a LockRow, String)> {
    let root = here.tree.as_ref().map_or(here.project.as_str(), |tree| &tree.root).trim_end_matches('/');
    let below = format!("{root}/");
    let path_here = move |lock: &LockRow| {
        if lock.host == here.host && is_below(&lock.path, &below) {
            return Some(lock.path.clone());
        }
        let is_same_repo = here.tree.as_ref().is_some_and(|tree| lock.repo.as_ref() == Some(&tree.identity));
        let is_across = is_same_repo && (lock.all_worktrees || lock.host != here.host);
        lock.repo_path.as_ref().filter(|_| is_across).map(|path| format!("{root}{path}"))
    };
    let others = locks.all().filter(move |lock| lock.holder != here.peer && !is_harmless(lock));
    others.filter_map(move |lock| Some((lock, path_here(lock)?)))
}

/// Returns a session's own locks, at most `WATCHED_FILES_MAX`. The session's hooks watch these locks, too.
pub(in crate::core) fn own_locks(locks: &Locks, peers: &Peers, me: &PeerId) -> Vec<Value> {
    let own = locks.of_holder(me).map(|lock| (lock, lock.path.clone()));
    newest(own).iter().map(|(lock, path)| short_view(peers, lock, path)).collect()
}

/// The facts that a hook needs about a lock.
fn short_view(peers: &Peers, lock: &LockRow, path: &str) -> Value {
    json!({ "filePath": path, "token": lock.token.0, "lockedBy": lock.holder.as_str(),
            "holder": peers.name_of(&lock.holder) })
}

/// Whether a lock on `path` may cover a file below `root`. `root` ends with a slash.
fn is_below(path: &str, root: &str) -> bool {
    if path_overlap::is_pattern(path) { path_overlap::overlap(path, root) } else { path.starts_with(root) }
}
