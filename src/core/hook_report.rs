//! The operations of hooks around shell commands: they list the files that others hold in a work tree, and report
//! that a command changed such a file in spite of the lock.

use super::hook_ops::session_of_hook;
use super::locks::Locks;
use super::locks::request::LockRequest;
use super::op::ArgKind;
use super::peers::Peers;
use super::session_args::{NAMING, session_args};
use super::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome};
use crate::base::error::Error;
use crate::base::paths::{self, PathMatcher};
use crate::base::{framed_text, limits};
use crate::store::{LockRow, Message};
use serde_json::{Value, json};

/// Characters of a command's first line that a message shows.
const COMMAND_SHOWN: usize = 200;

/// Reports files of other peers that a command changed.
pub static CHANGED: Op = Op {
    name: "hook.changed",
    summary: "Send each holder a message: a command of this session changed its files in spite of its lock",
    args: session_args![
        NAMING;
        Arg::new("holder", ArgKind::Text { min: 1, max: limits::WORD_MAX }, "Id of the peer that holds the files")
            .required()
            .at(CliPlace::Hidden),
        Arg::new("files", ArgKind::Texts { items: limits::WATCHED_FILES_MAX, max: limits::PATH_MAX }, "Absolute paths")
            .required()
            .at(CliPlace::Hidden),
        Arg::new("command", ArgKind::Text { min: 0, max: limits::PATH_MAX }, "First line of the command")
            .at(CliPlace::Hidden),
        Arg::new("isCertain", ArgKind::Flag, "No other command ran at the same time").at(CliPlace::Hidden),
        Arg::new("isKept", ArgKind::Flag, "The former content was kept").at(CliPlace::Hidden),
    ],
    actor: Auth::Hook,
    verb: None,
    tool: None,
    repeatable: false,
    run: changed,
};

fn changed(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let id = session_of_hook(mesh, ctx, args)?;
    let Mesh { turn, peers, mail, journal, federation, rates, .. } = mesh;
    let holder = peers.get(args.word("holder")).map(|peer| peer.row.id.clone());
    let Some(holder) = holder.filter(|holder| *holder != id) else {
        return Ok(Outcome::Ready(json!({ "ok": true, "sent": false })));
    };
    rates.charge(peers, &id, 10, ctx.now)?;
    let draft = Message { sender: id, body: report_text(args), ..Message::default() };
    let sent = mail.post(turn, peers, journal, federation, draft, &[holder], ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true, "sent": !sent.is_empty() })))
}

/// The message to a holder. It names a few files and counts the rest.
fn report_text(args: &Args) -> String {
    let files = args.texts("files");
    let shown: Vec<String> = files.iter().take(FILES_SHOWN).map(|path| framed_text::shown_path(path)).collect();
    let more = files.len().saturating_sub(FILES_SHOWN);
    let more = if more > 0 { format!("\nand {more} more") } else { String::new() };
    let head = if args.flag("isCertain") == Some(true) {
        "My shell command changed what you have locked:"
    } else {
        "What you have locked changed while my shell command ran. The command, or another one at the same time, \
         changed it:"
    };
    let command = args.text("command").unwrap_or("").lines().next().unwrap_or("");
    let command = framed_text::quoted(command, COMMAND_SHOWN);
    let kept = if args.flag("isKept") == Some(true) {
        "\nThe content from before is kept for an hour. slm-mesh lock restore FILE shows the difference, and puts it \
         back with --yes."
    } else {
        ""
    };
    format!("{head}\n{}{more}\nThe command: {command}{kept}", shown.join("\n"))
}

/// Files that a message names.
const FILES_SHOWN: usize = 10;

/// The locks of other peers that a hook watches: the locks that concern a work tree, with their paths in it.
pub(super) fn watched_locks(
    locks: &Locks,
    peers: &Peers,
    request: &LockRequest,
    project: &str,
    is_harmless: impl Fn(&LockRow) -> bool,
) -> Vec<Value> {
    let root = request.repo.as_ref().map_or(project, |repo| repo.root.as_str()).trim_end_matches('/');
    let below = format!("{root}/");
    let matcher = PathMatcher::new(std::iter::once(below.as_str()));
    let path_here = |lock: &LockRow| {
        if lock.host == request.host && is_below(&lock.path, &below, &matcher) {
            return Some(lock.path.clone());
        }
        let is_same_repo = request.repo.as_ref().is_some_and(|repo| lock.repo.as_ref() == Some(&repo.identity));
        let is_across = is_same_repo && (lock.all_worktrees || lock.host != request.host);
        lock.repo_path.as_ref().filter(|_| is_across).map(|path| format!("{root}{path}"))
    };
    let is_others = |lock: &&LockRow| lock.holder != request.holder && !is_harmless(lock);
    let others = locks.all().iter().filter(is_others);
    let rows = others.filter_map(|lock| Some(short_view(peers, lock, &path_here(lock)?)));
    rows.take(limits::WATCHED_FILES_MAX).collect()
}

/// The locks of a session that hooks watch.
pub(super) fn own_locks(locks: &Locks, peers: &Peers, me: &str) -> Vec<Value> {
    let own = locks.all().iter().filter(|lock| lock.holder == me).take(limits::WATCHED_FILES_MAX);
    own.map(|lock| short_view(peers, lock, &lock.path)).collect()
}

/// What a hook needs of a lock.
fn short_view(peers: &Peers, lock: &LockRow, path: &str) -> Value {
    json!({ "filePath": path, "token": lock.token, "lockedBy": lock.holder.as_str(),
            "holder": peers.name_of(&lock.holder) })
}

/// Whether a lock may cover a file of a work tree.
fn is_below(path: &str, root: &str, matcher: &PathMatcher<'_>) -> bool {
    if paths::is_pattern(path) { matcher.overlaps(path) } else { path.starts_with(root) }
}
