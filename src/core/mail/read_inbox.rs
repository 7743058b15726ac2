//! The inbox: a peer's unread messages, its history, and its sent messages.

use super::resolve_recipients::Correspondent;
use super::show_all_messages;
use crate::base::build_json_object::json_object;
use crate::base::error::Error;
use crate::base::id_types::{ChannelName, MessageSeq, PeerId};
use crate::base::limits;
use crate::core::event_journal::Journal;
use crate::core::mail::Mail;
use crate::core::op_behavior::{OpBehavior, RowStream};
use crate::core::op_definition::{ArgKind, ArgRole, Runner};
use crate::core::pagination::{self, Page};
use crate::core::peers::Peers;
use crate::core::transaction_and_pending_effects::Turn;
use crate::core::waiting_calls::WaitReason;
use crate::core::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome};
use crate::store::{Message, MessageFilter};
use serde_json::{Value, json};

/// Reads mail.
pub static INBOX: Op = Op {
    name: "inbox",
    summary: "Read your unread messages, oldest first, or find messages that you have read or sent",
    args: &[
        Arg::new(
            "filter",
            ArgKind::Choice(&["unread", "all", "sent"]),
            "`unread` by default; `all` includes read messages; `sent` shows your own messages with their receipts",
        ),
        Arg::new(
            "from",
            ArgKind::Text { min: 1, max: 256 },
            "Only messages from this peer, or to this channel (#api); with the filter `sent`, messages to this peer",
        )
        .placeholder("PEER"),
        pagination::limit(100, "Maximum number of messages, 20 by default"),
        pagination::after("Only messages after this sequence number"),
        Arg::new(
            "search",
            show_all_messages::SEARCH,
            "Find the latest sent or received messages that contain all these words, without marking them as read",
        )
        .placeholder("WORDS"),
        pagination::before(
            "With search: only messages before this sequence number (`before` from the previous answer)",
        ),
        Arg::wait_seconds("Seconds to wait for a message; up to 25 is safe with every client").short("wait"),
        Arg::new(
            "ack",
            ArgKind::Texts { items: limits::LIST_MAX, max: limits::WORD_MAX },
            "Ids of messages to acknowledge to their senders",
        )
        .placeholder("ID"),
        Arg::new("take", ArgKind::Flag, "With --as: mark the mail as read, as if its owner had read it")
            .role(ArgRole::MarksAsRead)
            .not_in_tool(),
        Arg::new("newest", ArgKind::Flag, "If there are more messages than `limit`, read the latest ones")
            .at(CliPlace::Hidden)
            .not_in_tool(),
        Arg::new(
            "markRead",
            ArgKind::Flag,
            "Mark the messages as read now, because the client will certainly show them",
        )
        .at(CliPlace::Hidden)
        .not_in_tool(),
        pagination::rows(),
    ],
    actor: Auth::Required,
    verb: Some("inbox"),
    tool: Some(("inbox", Some("read"))),
    repeatable: true,
    behavior: OpBehavior { stream: Some(RowStream::Messages), on_page: true, ..OpBehavior::USUAL },
    run: Runner::Rule(inbox),
};

/// The messages that an inbox call shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum MailView {
    Unread,
    All,
    Sent,
}

impl MailView {
    fn of(filter: Option<&str>) -> MailView {
        match filter {
            Some("all") => MailView::All,
            Some("sent") => MailView::Sent,
            _ => MailView::Unread,
        }
    }
}

/// Returns the filter for one view of the mailbox. The view begins after the message with the number `after`.
fn filter<'a>(
    view: MailView,
    me: &'a PeerId,
    other: Option<&'a Correspondent>,
    after: Option<MessageSeq>,
    limit: i64,
) -> MessageFilter<'a> {
    let peer = other.and_then(Correspondent::peer);
    let (to, from) = if view == MailView::Sent { (peer, Some(me)) } else { (Some(me), peer) };
    MessageFilter {
        to,
        from,
        group: other.and_then(Correspondent::channel).map(ChannelName::as_str),
        unread: view == MailView::Unread,
        after: after.unwrap_or_default(),
        // Without a cursor, the view of unread mail begins with the oldest message. Other views begin with the latest
        // messages.
        newest: view != MailView::Unread && after.is_none(),
        limit,
        // The page of the answer allows fewer bytes than this, so the page is full before this limit is reached.
        bytes: Some(limits::ROWS_BYTES_MAX),
        ..MessageFilter::default()
    }
}

/// Refuses a wait if a new message would not end it. This is so in a search, in the list of sent messages, and in the
/// history of a channel. If such a call returned at once without an error, a client that calls in a loop would never
/// pause.
fn check_waitable(view: MailView, is_search: bool, is_history: bool) -> Result<(), Error> {
    let text = match view {
        _ if is_search => "does not work with a search; leave out `search` to wait for new messages",
        MailView::Sent => "does not work with `filter=sent`; leave out `filter` to wait for new messages",
        _ if is_history => {
            "does not work with `filter=all` for a channel; leave out `filter` to wait for the channel's unread \
             messages"
        }
        _ => return Ok(()),
    };
    Err(Error::usage("waitSeconds", text))
}

/// Marks the messages in an answer as read if `are_read` is true. Otherwise, marks the messages in a view of unread
/// mail as offered.
fn mark_messages(
    (turn, peers, mail, journal): (&mut Turn, &Peers, &mut Mail, &Journal),
    found: &[Message],
    view: MailView,
    are_read: bool,
    now: i64,
) -> Result<(), Error> {
    for message in found {
        if are_read {
            mail.mark_read(turn, peers, journal, message, now)?;
        } else if view == MailView::Unread {
            mail.mark_offered(turn, journal, message, "mesh_inbox", now)?;
        }
    }
    Ok(())
}

fn inbox(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, mail, journal, .. } = &mut *mesh;
    for id in args.texts("ack") {
        mail.acknowledge(turn, peers, journal, ctx, id)?;
    }
    let (view, me, after) = (MailView::of(args.text("filter")), ctx.me()?, args.int("after").map(MessageSeq));
    // A caller outside the session may read the session's mail without changing the receipts.
    let is_look = args.flag("take") == Some(false) && !peers.is_inside(&ctx.ancestors, ctx.me()?);
    let other = args.text("from").map(|name| Correspondent::named(peers, ctx, "from", name)).transpose()?;
    let is_channel = other.as_ref().is_some_and(|other| other.channel().is_some());
    let words = args.text("search").unwrap_or("").trim();
    let is_history = is_channel && view != MailView::Unread;
    if args.int("waitSeconds").is_some_and(|seconds| seconds > 0) {
        check_waitable(view, !words.is_empty(), is_history)?;
    }
    // There is no index for the messages of one channel in a mailbox. So these messages are found by a search in
    // bounded steps.
    if !words.is_empty() || is_history {
        return mail.search(&turn.store, peers, ctx, args, words, other.as_ref());
    }
    let limit = args.int("rows").or(args.int("limit")).unwrap_or(20);
    let filter = filter(view, me, other.as_ref(), after, limit + 1);
    let filter = MessageFilter { newest: args.flag("newest").unwrap_or(filter.newest), ..filter };
    let mut found = turn.store.messages(&filter)?;
    found.retain(|m| view != MailView::Unread || m.expires.is_none_or(|at| at > ctx.now));
    if found.is_empty()
        && let Some(until) = ctx.wait(args.int("waitSeconds"))
    {
        return Ok(Outcome::Pending(WaitReason::Mail(ctx.me()?.clone()), until));
    }
    let mut more = found.len() as i64 > limit;
    found.truncate(limit as usize);
    let (mut page, mut n_whole) = (if is_look { Page::for_people() } else { ctx.page() }, 0);
    for message in &found {
        let row = match (ctx.is_http_program(), is_look) {
            (true, _) => mail.plain_row(message),
            (_, true) => mail.whole_row(&turn.store, peers, message, view, Some(me)),
            (_, false) => mail.row(&turn.store, peers, message, view, Some(me)),
        };
        let is_whole = row.get("part").is_none() || row["part"] == row["parts"];
        if !page.add(row) {
            more = true;
            break;
        }
        n_whole += i64::from(is_whole);
    }
    let mut rows = page.into_rows();
    if !is_look {
        let are_read = args.flag("markRead") == Some(true);
        mark_messages((turn, peers, mail, journal), &found[..rows.len()], view, are_read, ctx.now)?;
    }
    if filter.newest {
        rows.reverse();
    }
    let next = rows.iter().filter_map(|row| row["seq"].as_i64()).max().or(after.map(|seq| seq.0)).unwrap_or(0);
    let mut value = json_object([("ok", Value::Bool(true)), ("messages", Value::Array(rows))]);
    if view == MailView::Unread {
        // The number of all unread messages is known without a query.
        let is_all = other.is_none() && after.is_none();
        let n = if is_all { mail.unread(&turn.store, me)? } else { turn.store.count_unread_of(&filter)? };
        value["remaining"] = json!((n - n_whole).max(0));
    } else {
        value["more"] = json!(more);
        value["next"] = json!(next);
    }
    if is_look {
        (value["look"], value["next"], value["more"]) = (json!(true), json!(next), json!(more));
    }
    Ok(Outcome::Ready(value))
}
