//! The log: the messages of all peers. The user who owns the agents can read the log.
//!
//! **Invariant:** reading the log changes no message. The user who owns the mesh sees all messages. A person at another
//! machine sees only the messages of the peers on that machine. An agent sees only its own messages.

use super::history_scan::{self, HistoryFilter, VisibleMail};
use super::resolve_recipients::Correspondent;
use super::search_terms::TextFilter;
use super::{Mail, MailView, WORD};
use crate::base::build_json_object::json_object;
use crate::base::error::Error;
use crate::base::id_types::{MessageSeq, PeerId};
use crate::base::{limits, time_format};
use crate::core::op_behavior::{OpBehavior, RowStream};
use crate::core::op_definition::{ArgKind, Runner};
use crate::core::pagination;
use crate::core::peers::Peers;
use crate::core::waiting_calls::WaitReason;
use crate::core::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome};
use crate::store::{Message, MessageFilter, MessageScan, Store};
use serde_json::{Value, json};

const PATH: ArgKind = ArgKind::Text { min: 0, max: limits::PATH_MAX };
/// The kind of argument for the words of a search.
pub(super) const SEARCH: ArgKind = ArgKind::Text { min: 0, max: 1024 };

/// Reads the log.
pub static LOG: Op = Op {
    name: "log",
    summary: "Show the messages between peers, newest last, with receipts, without marking them as read",
    args: &[
        Arg::new(
            "with",
            ArgKind::Text { min: 1, max: 256 },
            "Only messages from or to this peer, or to this channel (#api)",
        )
        .placeholder("PEER"),
        Arg::new("thread", WORD, "Only the message with this id and the replies to it").placeholder("ID"),
        Arg::new("search", SEARCH, "Only messages that contain all these words, in any order and case")
            .placeholder("WORDS"),
        Arg::new("grep", ArgKind::Text { min: 0, max: 1024 }, "Only messages that contain exactly this text"),
        Arg::new(
            "since",
            ArgKind::Text { min: 1, max: 64 },
            "Only messages since this time: a time span before now (2h, 30m, 1day), or an ISO time",
        )
        .placeholder("TIME"),
        Arg::new(
            "sameProject",
            ArgKind::Flag,
            "Only messages of peers in this repository, or in this directory if it is not in a repository",
        )
        .short("project"),
        pagination::limit(10_000, "Maximum number of messages, 50 by default"),
        pagination::before("Only messages before this sequence number, to continue with older messages"),
        pagination::after("Only messages after this sequence number, oldest first"),
        Arg::wait_seconds("Seconds to wait for a newer message").at(CliPlace::Hidden),
        Arg::new("project", PATH, "Directory of the caller").at(CliPlace::Hidden),
        Arg::new("repo", PATH, "Repository of the caller").at(CliPlace::Hidden),
    ],
    actor: Auth::Required,
    verb: Some("log"),
    tool: None,
    repeatable: true,
    behavior: OpBehavior { stream: Some(RowStream::Log), on_page: true, ..OpBehavior::USUAL },
    run: Runner::Rule(log),
};

fn log(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, mail, .. } = mesh;
    let store = &turn.store;
    let visible = VisibleMail::of(peers, ctx.me()?);
    let with = args.text("with").map(|name| correspondent(store, peers, ctx, name)).transpose()?;
    let mut filter = HistoryFilter::new(TextFilter::new(args.text("search"), args.text("grep")));
    filter.and_visible(peers, visible.clone());
    match &with {
        None => {}
        Some(Correspondent::Channel(name)) => filter.and(move |message| message.group == Some(name.as_str())),
        Some(Correspondent::Peer(id)) => filter.and(move |message| message.sender == id || message.recipient == id),
    }
    if args.flag("sameProject") == Some(true) {
        add_project(&mut filter, peers, ctx, args);
    }
    let thread = args.text("thread").map(|id| mail.thread(store, peers, &visible, &mut filter, id)).transpose()?;
    let last = store.last_message();
    let waits = args.int("waitSeconds").is_some_and(|seconds| seconds > 0);
    // A cursor beyond the end of the log comes from a different database. In this case, the log is read from its end.
    let after = args.int("after").map(MessageSeq);
    let from = after.max(ctx.message_cursor).or(waits.then_some(last)).map(|after| after.min(last));
    let since = args.text("since").map(|text| since(store, text, ctx.now)).transpose()?.unwrap_or_default();
    let scan = MessageScan {
        source: history_scan::source(&visible, with.as_ref(), thread),
        after: from.unwrap_or_default().max(since),
        before: args.int("before").map_or(MessageSeq::MAX, MessageSeq),
        newest: from.is_none(),
        rows_max: history_scan::STEP_ROWS,
        bytes_max: history_scan::STEP_BYTES,
    };
    let limit = args.int("limit").unwrap_or(50) as usize;
    let reader = matches!(visible, VisibleMail::OfPeer(_)).then_some(ctx.me()?);
    let to_row = |message: &Message| mail.whole_row(store, peers, message, MailView::Sent, reader);
    let page = mail.history(store, &scan, &mut filter, limit, pagination::PAGE_FOR_PEOPLE_MAX, to_row)?;
    let next = page.cursor.filter(|_| !scan.newest && !page.is_complete).unwrap_or(last);
    if page.rows.is_empty()
        && page.is_complete
        && !scan.newest
        && let Some(until) = ctx.wait(args.int("waitSeconds"))
    {
        return Ok(Outcome::Pending(WaitReason::Messages(next), until));
    }
    let (messages, more) = (Value::Array(page.rows), Value::Bool(!page.is_complete));
    let mut value =
        json_object([("ok", Value::Bool(true)), ("messages", messages), ("more", more), ("next", next.0.into())]);
    if scan.newest {
        value["before"] = json!(page.cursor.map(|seq| seq.0));
    }
    Ok(Outcome::Ready(value))
}

/// Returns the peer or channel with this name. Returns an error if no peer has the name and no old message was sent
/// from or to this name. Such a name is probably misspelt.
fn correspondent(store: &Store, peers: &Peers, ctx: &CallContext, name: &str) -> Result<Correspondent, Error> {
    let found = Correspondent::named(peers, ctx, "with", name)?;
    match found.peer() {
        Some(id) if peers.get(id).is_none() && !has_messages(store, id)? => {
            peers.resolve(ctx.conn, name).map(Correspondent::Peer)
        }
        _ => Ok(found),
    }
}

/// Whether the peer with this id has sent or received any message.
fn has_messages(store: &Store, id: &PeerId) -> Result<bool, Error> {
    let first = |from, to| store.messages(&MessageFilter { from, to, limit: 1, ..MessageFilter::default() });
    Ok(!first(Some(id), None)?.is_empty() || !first(None, Some(id))?.is_empty())
}

/// Parses the time in `text`, and returns the sequence number of the last message before this time.
fn since(store: &Store, text: &str, now: i64) -> Result<MessageSeq, Error> {
    let time = time_format::parse_since(text, now).ok_or_else(|| {
        Error::usage(
            "since",
            "expected a time span before now, such as 2h or 30m, or a time such as \
             2026-11-22T06:43:36Z",
        )
    })?;
    Ok(store.message_at(time)?)
}

/// Restricts the filter to the messages of the peers that `peers --scope repo` lists: those in the caller's repository
/// or directory.
fn add_project<'a>(filter: &mut HistoryFilter<'a>, peers: &'a Peers, ctx: &CallContext, args: &Args) {
    let me = peers.caller(ctx).map(|peer| &peer.row);
    let repo = args.text("repo").map(str::to_owned).or_else(|| me.and_then(|me| me.repo.clone()));
    let project = args.text("project").map(str::to_owned).or_else(|| me.map(|me| me.project.clone()));
    filter.and_either_peer(peers, move |peer| match &repo {
        Some(repo) => peer.row.repo.as_ref() == Some(repo),
        // Outside a repository, peers are matched by their directory.
        None => Some(&peer.row.project) == project.as_ref(),
    });
}

impl Mail {
    /// Returns the first message of the conversation that contains the message `id`. If the message `id` is a reply,
    /// restricts the filter to this reply, its copies, and all direct and indirect replies to them.
    fn thread(
        &self,
        store: &Store,
        peers: &Peers,
        visible: &VisibleMail,
        filter: &mut HistoryFilter<'_>,
        id: &str,
    ) -> Result<MessageSeq, Error> {
        let message = self.find(store, id)?;
        if !visible.includes(peers, &message) {
            return Err(super::no_message(id));
        }
        let root = store.thread_of(message.seq)?;
        if message.reply_to.is_some() {
            filter.and_below(store.copies_of(message.seq)?);
        }
        Ok(root)
    }
}
