//! Messages: accepted, offered, read, acked or expired, and never called more than they are.

pub mod receipts;
pub mod wakeups;

use crate::base::error::{Error, ErrorKind};
use crate::base::{limits, time};
use crate::core::mail::receipts::{cut_to_part, receipt};
use crate::core::op::ArgKind;
use crate::core::{Arg, Args, Auth, CallContext, CliPlace, ConnId, Effect, Mesh, Op, Outcome, WaitReason, object};
use crate::store::{Message, MessageFilter};
use serde_json::{Value, json};
use std::collections::HashMap;

/// What a message may be.
pub const TYPES: &[&str] = &["text", "json", "command", "alert"];
const WORD: ArgKind = ArgKind::Text { min: 1, max: limits::WORD_MAX };

/// Sends a message.
pub static SEND: Op = Op {
    name: "send",
    summary: "Send a message to a peer, a group, or all; it waits in the mailbox of one that is away",
    args: &[
        Arg::new(
            "to",
            ArgKind::Text { min: 1, max: 256 },
            "Peer name, id or prefix; all; repo; directory; or agent:TYPE, as agent:codex",
        )
        .required()
        .at(CliPlace::Positional),
        Arg::new("message", ArgKind::Text { min: 1, max: limits::PAYLOAD_MAX }, "What to say")
            .required()
            .at(CliPlace::Rest),
        Arg::new("type", ArgKind::Choice(TYPES), "text unless said otherwise; json is checked to be JSON"),
        Arg::new("replyTo", WORD, "Id of the message that this answers, which acknowledges it"),
        Arg::new("key", WORD, "Idempotency key: the same key again sends nothing and answers with the first receipt"),
        Arg::new(
            "expiresMinutes",
            ArgKind::Int { min: 1, max: 10_080 },
            "Minutes after which it need not be read any more",
        )
        .short("expires"),
    ],
    actor: Auth::Required,
    verb: Some("send"),
    tool: Some(("send", None)),
    repeatable: false,
    run: send,
};

/// Reads mail.
pub static INBOX: Op = Op {
    name: "inbox",
    summary: "Read messages: the unread ones, oldest first; all; or those sent, with receipts",
    args: &[
        Arg::new(
            "filter",
            ArgKind::Choice(&["unread", "all", "sent"]),
            "unread unless said otherwise; sent shows how far yours got",
        ),
        Arg::new("from", ArgKind::Text { min: 1, max: 256 }, "Only those from this peer (with sent: to this peer)"),
        Arg::new("limit", ArgKind::Int { min: 1, max: 100 }, "At most this many, 20 unless said otherwise"),
        Arg::new("after", ArgKind::Int { min: 0, max: i64::MAX }, "Only those after this sequence number"),
        Arg::new(
            "waitSeconds",
            ArgKind::Int { min: 0, max: limits::WAIT_SECONDS_MAX },
            "WaitingCall this long for one to arrive; 25 is safe in every client",
        )
        .short("wait"),
        Arg::new(
            "ack",
            ArgKind::Texts { items: limits::LIST_MAX, max: limits::WORD_MAX },
            "Ids of messages to acknowledge to their senders",
        ),
    ],
    actor: Auth::Required,
    verb: Some("inbox"),
    tool: Some(("inbox", None)),
    repeatable: true,
    run: inbox,
};

fn send(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let key = args.text("key");
    if let Some(key) = key {
        let sent = mesh.store.messages_by_key(ctx.me(), key)?;
        if !sent.is_empty() {
            let mut value = mesh.receipts(&sent);
            value["repeated"] = json!(true);
            return Ok(Outcome::Ready(value));
        }
    }
    let to = args.word("to");
    let recipients = mesh.recipients(ctx.me(), to)?;
    let (is_group, recipients) = recipients;
    mesh.limit(ctx.me(), 10, ctx.now)?;
    let reply_to = args.text("replyTo").map(|id| mesh.answer_to(ctx, id)).transpose()?;
    let draft = Message {
        sender: ctx.me().to_owned(),
        target: if is_group { to.to_owned() } else { String::new() },
        kind: args.text("type").unwrap_or("text").to_owned(),
        body: args.word("message").to_owned(),
        reply_to,
        key: key.map(str::to_owned),
        expires: args.int("expiresMinutes").map(|minutes| ctx.now + minutes * 60_000),
        ..Message::default()
    };
    let sent = mesh.post(draft, &recipients, ctx.now)?;
    let mut value = mesh.receipts(&sent);
    if is_group && sent.is_empty() {
        value["note"] = json!(format!("nobody else is here for {to}; the message went to no one"));
    }
    Ok(Outcome::Ready(value))
}

fn inbox(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    for id in args.texts("ack") {
        mesh.acknowledge(ctx, id)?;
    }
    let filter = args.text("filter").unwrap_or("unread");
    let limit = args.int("limit").unwrap_or(20);
    let other = args
        .text("from")
        .map(|name| {
            mesh.resolve(name)
                .or_else(|error| if error.kind == ErrorKind::NotFound { Ok(name.to_owned()) } else { Err(error) })
        })
        .transpose()?;
    let (me, after) = (ctx.me(), args.int("after"));
    let pick = MessageFilter {
        direct: false,
        to: if filter == "sent" { other.as_deref() } else { Some(me) },
        from: if filter == "sent" { Some(me) } else { other.as_deref() },
        unread: filter == "unread",
        after: after.unwrap_or(0),
        // History without a cursor means the latest; unread mail is always taken from its start.
        newest: filter != "unread" && after.is_none(),
        limit: limit + 1,
        bytes: 0,
    };
    let mut found = mesh.store.messages(&pick)?;
    found.retain(|m| filter != "unread" || m.expires.is_none_or(|at| at > ctx.now));
    if found.is_empty()
        && filter != "sent"
        && let Some(until) = ctx.wait(args.int("waitSeconds"))
    {
        return Ok(Outcome::Pending(WaitReason::Mail(me.to_owned()), until));
    }
    let mut more = found.len() as i64 > limit;
    found.truncate(limit as usize);
    let (mut rows, mut size) = (Vec::new(), 0);
    let mut n_whole = 0;
    for message in &found {
        let row = mesh.inbox_value(message, filter);
        size += row.to_string().len();
        if size > limits::PAGE_MAX && !rows.is_empty() {
            more = true;
            break;
        }
        n_whole += i64::from(row.get("part").is_none() || row["part"] == row["parts"]);
        rows.push(row);
    }
    if filter == "unread" {
        for message in &found[..rows.len()] {
            mesh.offer(message, "mesh_inbox", ctx.now)?;
        }
    }
    if pick.newest {
        rows.reverse();
    }
    let next = rows.iter().filter_map(|row| row["seq"].as_i64()).max().or(after).unwrap_or(0);
    let mut value = json!({ "ok": true, "messages": rows });
    if filter == "unread" {
        value["remaining"] = json!((mesh.unread(me)? - n_whole).max(0));
    } else {
        value["more"] = json!(more);
        value["next"] = json!(next);
    }
    Ok(Outcome::Ready(value))
}

impl Mesh {
    /// Whom a `to` means, and whether it is a group. The sender is never in its own group.
    fn recipients(&self, me: &str, to: &str) -> Result<(bool, Vec<String>), Error> {
        let mine = self.peer(me).map(|peer| peer.row.clone()).unwrap_or_default();
        let fits = |peer: &&crate::core::peers::Peer| match to {
            "all" => peer.is_here() || self.is_human(&peer.row.id),
            "repo" => peer.is_here() && mine.repo.is_some() && peer.row.repo == mine.repo,
            "directory" => peer.is_here() && peer.row.project == mine.project,
            _ => peer.is_here() && to.strip_prefix("agent:") == Some(peer.row.agent.as_str()),
        };
        if !["all", "repo", "directory"].contains(&to) && !to.starts_with("agent:") {
            return Ok((false, vec![self.resolve(to)?]));
        }
        let group = self.peers.iter().filter(fits).map(|peer| peer.row.id.clone()).filter(|id| id != me);
        Ok((true, group.collect()))
    }

    /// Puts one message per recipient into the mailboxes and tells who listens.
    pub fn post(&mut self, draft: Message, recipients: &[String], now: i64) -> Result<Vec<Message>, Error> {
        if draft.kind == "json" && serde_json::from_str::<Value>(&draft.body).is_err() {
            return Err(Error::usage("message", "want valid JSON, since type is json"));
        }
        let from = self.name_of(&draft.sender);
        let mut sent = Vec::with_capacity(recipients.len());
        let conns = self.conns_of(recipients);
        for (recipient, conns) in recipients.iter().zip(&conns) {
            let is_full = self.unread(recipient)? >= limits::MAILBOX_MAX;
            if is_full && !draft.target.is_empty() {
                // Who never reads does not keep the others of a group from hearing.
                continue;
            }
            if is_full {
                let text = format!(
                    "the mailbox of {} is full ({} unread messages); it must read some first",
                    self.name_of(recipient),
                    limits::MAILBOX_MAX
                );
                return Err(Error::new(ErrorKind::Full, text));
            }
            if let Err(error) = self.check_letter(recipient, &draft.body) {
                // A group is told as far as it can be.
                if draft.target.is_empty() { return Err(error) } else { continue }
            }
            let mut message = Message { recipient: recipient.clone(), created: now, ..draft.clone() };
            self.store.add_message(&mut message)?;
            *self.unread.entry(recipient.clone()).or_insert(0) += 1;
            self.stirred.mail.insert(recipient.clone());
            self.letters |= !self.links.is_empty();
            self.expires_at(message.expires);
            self.notify(&message, &from, conns);
            self.tell(&message);
            sent.push(message);
        }
        let payload = match &sent[..] {
            [] => return Ok(sent),
            [one] if draft.target.is_empty() => {
                json!({ "messageId": self.outside_id(8, one.seq), "fromPeer": one.sender, "toPeer": one.recipient })
            }
            _ => json!({ "fromPeer": draft.sender, "toPeer": draft.target, "count": sent.len() }),
        };
        self.emit("message_received", &draft.sender, payload, now)?;
        Ok(sent)
    }

    /// The connections that speak for each of some peers. All seats are looked through once: once for
    /// each recipient would be a tenth of a broadcast to a hundred.
    fn conns_of(&self, peers: &[String]) -> Vec<Vec<ConnId>> {
        let places: HashMap<&str, usize> = peers.iter().enumerate().map(|(n, id)| (id.as_str(), n)).collect();
        let mut found = vec![Vec::new(); peers.len()];
        for (conn, seat) in &self.seats {
            for n in seat.peers.iter().filter_map(|id| places.get(id.as_str())) {
                found[*n].push(*conn);
            }
        }
        found
    }

    /// Pushes a notice of a message to the sessions of its recipient; the text stays in the mailbox.
    fn notify(&mut self, message: &Message, from: &str, conns: &[ConnId]) {
        let Some(peer) = self.peer(&message.recipient) else { return };
        let is_seated = peer.seats > 0;
        if peer.row.kind == "http" {
            self.out.push(Effect::PeerPush {
                peer: message.recipient.clone(),
                seq: message.seq,
                from: message.sender.clone(),
                body: message.body.clone(),
            });
        }
        if !is_seated {
            return;
        }
        let unread = self.unread.get(&message.recipient).copied().unwrap_or(1);
        for conn in conns.iter().copied() {
            let params = json!({
                "to": message.recipient, "id": self.outside_id(8, message.seq), "seq": message.seq,
                "from": message.sender, "fromName": from, "type": message.kind, "unread": unread,
            });
            self.out.push(Effect::Notification { conn, method: "message", params });
        }
    }

    /// The message that is being answered: the caller's own mail, which this acknowledges.
    fn answer_to(&mut self, ctx: &CallContext, id: &str) -> Result<i64, Error> {
        let message = self.find_message(id)?;
        if message.recipient == ctx.me() {
            self.acknowledge(ctx, id)?;
        } else if message.sender != ctx.me() {
            return Err(Error::new(ErrorKind::Refused, format!("replyTo: {id} was neither sent by you nor to you")));
        }
        Ok(message.seq)
    }

    pub(crate) fn find_message(&self, id: &str) -> Result<Message, Error> {
        let found = self.inside_id(8, id).map(|seq| self.store.message(seq)).transpose()?.flatten();
        found.ok_or_else(|| {
            Error::not_found(format!("no message has the id {id}; it may have been removed after 7 days"))
        })
    }

    /// A message in an inbox answer; a long one in parts that fit a tool result.
    pub(crate) fn inbox_value(&self, message: &Message, filter: &str) -> Value {
        let mut map = object(self.message_value(message));
        map.insert("seq".into(), json!(message.seq));
        map.insert("fromName".into(), json!(self.name_of(&message.sender)));
        if !message.target.is_empty() {
            map.insert("group".into(), json!(message.target));
        }
        if let Some(seq) = message.reply_to {
            map.insert("replyTo".into(), json!(self.outside_id(8, seq)));
        }
        map.insert("receipt".into(), json!(receipt(message)));
        if filter == "sent" {
            map.insert("toName".into(), json!(self.name_of(&message.recipient)));
            for (name, at) in [("offeredAt", message.offered), ("ackedAt", message.acked)] {
                map.insert(name.into(), json!(at.map(time::iso)));
            }
            map.insert("surface".into(), json!(message.surface));
            // Shown where there are any; a store that can't be read says so elsewhere.
            if let Ok(Some(wakes)) = self.wakes_value(message.seq) {
                map.insert("wakes".into(), wakes);
            }
        } else if message.state == 1 {
            map.insert("again".into(), json!(true));
        }
        cut_to_part(&mut map, message, filter);
        Value::Object(map)
    }

    /// The outside id of a message.
    pub fn message_id(&self, seq: i64) -> String {
        self.outside_id(8, seq)
    }

    /// A message with the keys of the old HTTP API.
    pub fn message_value(&self, m: &Message) -> Value {
        let delivered = m.pushed.is_some() || m.state == 2 || m.state == 3;
        json!({
            "id": self.outside_id(8, m.seq), "fromPeer": m.sender, "toPeer": m.recipient, "type": m.kind,
            "payload": m.body, "createdAt": time::iso(m.created), "readAt": m.read.map(time::iso), "delivered": delivered,
        })
    }
}
