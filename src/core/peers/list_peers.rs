//! Lists the peers of the mesh, in pages.

use super::{Peer, no_peer};
use crate::base::error::Error;
use crate::base::{limits, path_overlap};
use crate::core::op_behavior::OpBehavior;
use crate::core::op_definition::{ArgKind, Runner};
use crate::core::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome, pagination};
use serde_json::{Value, json};

/// The minimum size of a row in bytes, because the field names alone have this size.
const ROW_MIN: usize = 200;

const SCOPES: &[&str] = &["machine", "directory", "repo"];
const PATH: ArgKind = ArgKind::Text { min: 0, max: limits::PATH_MAX };

/// Lists peers.
pub static PEERS: Op = Op {
    name: "peers",
    summary: "List the agents on the mesh: name, agent, project, branch, current work, unread mail, locks",
    args: &[
        Arg::new(
            "scope",
            ArgKind::Choice(SCOPES),
            "machine: every agent (default); directory: same working directory; repo: same git repository",
        ),
        Arg::new("includeAway", ArgKind::Flag, "Also list offline peers; their mailboxes still accept mail")
            .short("all"),
        pagination::next_page(limits::WORD_MAX),
        Arg::new(
            "detail",
            ArgKind::Text { min: 1, max: 256 },
            "Show only the peer with this name: what it is doing, and its last prompts and answers if it runs on your \
             machine",
        )
        .at(CliPlace::Hidden),
        Arg::new("project", PATH, "Directory to compare with, if not the caller's own")
            .at(CliPlace::Hidden)
            .not_in_tool(),
        Arg::new("repo", PATH, "Repository to compare with, if not the caller's own")
            .at(CliPlace::Hidden)
            .not_in_tool(),
        Arg::new("workTree", PATH, "Git work tree to compare with, instead of a repository")
            .at(CliPlace::Hidden)
            .not_in_tool(),
    ],
    actor: Auth::Optional,
    verb: Some("peers"),
    tool: Some(("peers", None)),
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(list),
};

fn list(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, mail, locks, .. } = mesh;
    let me = peers.caller(ctx).map(|peer| &peer.row);
    if let Some(name) = args.text("detail") {
        let id = peers.resolve(ctx.conn, name)?;
        let peer = peers.get(&id).ok_or_else(|| no_peer(name))?;
        let row = peers.view(peer, &turn.store, mail, locks, ctx.now)?;
        let transcript = peers.transcript_of(peer, ctx.conn);
        return Ok(Outcome::Ready(json!({ "ok": true, "peers": [row], "transcript": transcript })));
    }
    let project = args.text("project").or(me.map(|me| me.project.as_str())).map(path_overlap::normal);
    let is_in_project =
        |peer: &Peer| project.as_ref().is_some_and(|dir| *dir == path_overlap::normal(&peer.row.project));
    let work_tree = args.text("workTree");
    let repo = args.text("repo").or(me.and_then(|me| me.repo.as_deref()));
    let scope = args.word("scope");
    let fits = |peer: &&Peer| match scope {
        "directory" => is_in_project(peer),
        "repo" if work_tree.is_some() => peer.row.git_root.as_deref() == work_tree,
        "repo" if repo.is_some() => peer.row.repo.as_deref() == repo,
        // Outside a repository, peers are matched by their directory.
        "repo" => is_in_project(peer),
        _ => true,
    };
    let offline_too = args.flag("includeAway").unwrap_or(false);
    let listed = |peer: &&Peer| Some(&peer.row.id) != ctx.actor.as_ref() && (offline_too || peer.is_online());
    // The list is sorted by age, so new peers come last. The next page therefore continues where this page ends, even
    // if peers join or leave before the next page is read.
    let mut found: Vec<&Peer> = peers.all().iter().filter(listed).filter(fits).collect();
    if let Some(after) = args.text("after") {
        let after = pagination::parse_cursor(after)?;
        found.retain(|peer| cursor(peer) > after);
    }
    let total = found.len();
    let mut page = ctx.page();
    let rows_max = page.size_max() / ROW_MIN;
    if total > rows_max {
        // Only the rows of this page have to be sorted.
        found.select_nth_unstable_by_key(rows_max, |peer| cursor(peer));
        found.truncate(rows_max);
    }
    found.sort_by_key(|peer| cursor(peer));
    for peer in &found {
        let row = peers.view(peer, &turn.store, mail, locks, ctx.now)?;
        if !page.add(row) {
            break;
        }
    }
    let mut value = json!({ "ok": true });
    if let Some(me) = me {
        value["you"] = json!({ "id": me.id.as_str(), "name": me.name });
    }
    let last = page.len().checked_sub(1).map(|last| cursor(found[last]));
    pagination::add_cursor(&mut value, total - page.len(), last);
    value["peers"] = Value::Array(page.into_rows());
    Ok(Outcome::Ready(value))
}

/// The position of a peer in a list that is sorted by age.
fn cursor(peer: &Peer) -> (i64, &str) {
    (peer.row.first_seen, peer.row.id.as_str())
}
