//! The locks that affect one work tree, for hooks and for the shield, which stops shell commands from writing to files
//! that others have locked.

use super::super::op_definition::ArgKind;
use super::super::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome};
use super::Locks;
use super::request::Repository;
use crate::base::error::Error;
use crate::base::ids::PeerId;
use crate::base::json_object::json_object;
use crate::base::limits;
use crate::base::path_overlap::{self, PathMatcher};
use crate::base::stored_enums::LockOwner;
use crate::core::peers::Peers;
use crate::store::LockRow;
use serde_json::{Value, json};

const PATH: ArgKind = ArgKind::Text { min: 1, max: limits::PATH_MAX };

/// Lists the locks that a command of the caller must respect.
pub static OTHERS: Op = Op {
    name: "lock.others",
    summary: "List the locks of other peers in a work tree, for a command that runs in a shield",
    args: &[
        Arg::new("project", PATH, "Absolute path of the working directory").required().at(CliPlace::Hidden),
        Arg::new("repo", PATH, "Repository id").at(CliPlace::Hidden),
        Arg::new("gitRoot", PATH, "Root of the git work tree").at(CliPlace::Hidden),
    ],
    actor: Auth::Required,
    verb: None,
    tool: None,
    repeatable: true,
    run: others,
};

fn others(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { peers, locks, .. } = mesh;
    let text = |name| args.text(name).map(str::to_owned);
    let here = WorkPlace {
        tree: Repository::new(text("repo"), text("gitRoot")),
        project: args.word("project").to_owned(),
        peer: ctx.my_id(),
        host: peers.host_of(ctx.conn),
    };
    // A lock that was requested over a connection from the caller's agent process may belong to any session of that
    // process. Such a lock blocks none of these sessions; `hook_operations` makes the same exception for edits.
    let is_shared =
        |lock: &LockRow| lock.owner == LockOwner::Peer && peers.is_attached_beside(&ctx.ancestors, &lock.holder);
    let rows = watched_locks(locks, peers, &here, is_shared);
    Ok(Outcome::Ready(json_object([("ok", Value::Bool(true)), ("locks", Value::Array(rows))])))
}

/// Where a peer works.
pub(in crate::core) struct WorkPlace {
    /// The work tree of the working directory.
    pub tree: Option<Repository>,
    /// The working directory.
    pub project: String,
    pub peer: PeerId,
    /// The machine of the peer.
    pub host: String,
}

/// The locks of other peers that affect a work tree, with their paths in this work tree.
pub(in crate::core) fn watched_locks(
    locks: &Locks,
    peers: &Peers,
    here: &WorkPlace,
    is_harmless: impl Fn(&LockRow) -> bool,
) -> Vec<Value> {
    let root = here.tree.as_ref().map_or(here.project.as_str(), |tree| &tree.root).trim_end_matches('/');
    let below = format!("{root}/");
    let matcher = PathMatcher::new(std::iter::once(below.as_str()));
    let path_here = |lock: &LockRow| {
        if lock.host == here.host && is_below(&lock.path, &below, &matcher) {
            return Some(lock.path.clone());
        }
        let is_same_repo = here.tree.as_ref().is_some_and(|tree| lock.repo.as_ref() == Some(&tree.identity));
        let is_across = is_same_repo && (lock.all_worktrees || lock.host != here.host);
        lock.repo_path.as_ref().filter(|_| is_across).map(|path| format!("{root}{path}"))
    };
    let is_others = |lock: &&LockRow| lock.holder != here.peer && !is_harmless(lock);
    let others = locks.all().iter().filter(is_others);
    others.filter_map(|lock| Some(short_view(peers, lock, &path_here(lock)?))).take(limits::WATCHED_FILES_MAX).collect()
}

/// The locks that the session itself holds. Its hooks watch these locks, too.
pub(in crate::core) fn own_locks(locks: &Locks, peers: &Peers, me: &str) -> Vec<Value> {
    let own = locks.all().iter().filter(|lock| lock.holder == me).take(limits::WATCHED_FILES_MAX);
    own.map(|lock| short_view(peers, lock, &lock.path)).collect()
}

/// The facts that a hook needs about a lock.
fn short_view(peers: &Peers, lock: &LockRow, path: &str) -> Value {
    json!({ "filePath": path, "token": lock.token, "lockedBy": lock.holder.as_str(),
            "holder": peers.name_of(&lock.holder) })
}

/// Whether a lock may cover a file of a work tree.
fn is_below(path: &str, root: &str, matcher: &PathMatcher<'_>) -> bool {
    if path_overlap::is_pattern(path) { matcher.overlaps(path) } else { path.starts_with(root) }
}
