//! Which files the other peers hold in a work tree.

use super::super::hook_report::watched_locks;
use super::super::op::ArgKind;
use super::super::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome};
use super::request::{LockRequest, Repository};
use crate::base::error::Error;
use crate::base::kinds::LockOwner;
use crate::base::limits;
use crate::store::LockRow;
use serde_json::json;

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
    let request = LockRequest {
        holder: ctx.my_id(),
        repo: Repository::new(text("repo"), text("gitRoot")),
        host: peers.host_of(ctx.conn),
        ..LockRequest::default()
    };
    // As for an edit: a lock that was taken over the process's own connection may belong to any of its sessions.
    let is_shared =
        |lock: &LockRow| lock.owner == LockOwner::Peer && peers.is_attached_beside(&ctx.ancestors, &lock.holder);
    let rows = watched_locks(locks, peers, &request, args.word("project"), is_shared);
    Ok(Outcome::Ready(json!({ "ok": true, "locks": rows })))
}
