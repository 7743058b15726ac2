//! Receipts: how far a message got, and what each side is told of it.

use crate::base::error::{Error, ErrorKind};
use crate::base::limits;
use crate::core::op::ArgKind;
use crate::core::{Arg, Args, Auth, CallContext, CliPlace, Effect, Mesh, Op, Outcome, object};
use crate::store::{Message, MessageFilter};
use serde_json::{Value, json};
use std::rc::Rc;

/// The words for `Message::state`.
const RECEIPTS: &[&str] = &["accepted", "offered", "read", "acked", "expired", "forwarded", "refused"];

/// Reports what was written out whole.
pub static MARK_READ_: Op = Op {
    name: "shown",
    summary: "Report that messages of an inbox answer were written out: items as id, or id@bytes for a part",
    args: &[Arg::new("items", ArgKind::Texts { items: limits::LIST_MAX, max: 64 }, "Message ids")
        .required()
        .at(CliPlace::Hidden)],
    actor: Auth::Required,
    verb: None,
    tool: None,
    repeatable: true,
    run: shown,
};

fn shown(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    for item in args.texts("items") {
        let (id, upto) = item.split_once('@').unwrap_or((item, ""));
        let Some(seq) = mesh.inside_id(8, id) else { continue };
        let Some(was) = mesh.store.message(seq)?.filter(|m| m.recipient == ctx.me() && m.state < 2) else { continue };
        let mut message = was.clone();
        match upto.parse::<i64>() {
            Ok(upto) if (upto as usize) < was.body.len() => message.taken = was.taken.max(upto),
            _ => (message.state, message.read) = (2, Some(ctx.now)),
        }
        mesh.settle_receipt(&was, &message)?;
        if message.state == 2 {
            mesh.emit_read(&message, ctx.now)?;
        }
    }
    Ok(Outcome::Ready(json!({ "ok": true })))
}

impl Mesh {
    /// What a sender learns of what it sent.
    pub(crate) fn receipts(&self, sent: &[Message]) -> Value {
        let ids: Vec<String> = sent.iter().map(|m| self.outside_id(8, m.seq)).collect();
        let recipients: Vec<Value> = sent
            .iter()
            .take(limits::LIST_MAX)
            .map(|m| {
                let here = self.peer(&m.recipient).is_some_and(crate::core::peers::Peer::is_here);
                json!({ "id": m.recipient, "name": self.name_of(&m.recipient), "here": here, "receipt": receipt(m) })
            })
            .collect();
        match sent {
            [one] if one.target.is_empty() => {
                json!({ "ok": true, "messageId": ids[0], "seq": one.seq, "recipients": recipients })
            }
            _ => json!({ "ok": true, "messageIds": ids, "recipients": recipients }),
        }
    }

    pub(crate) fn acknowledge(&mut self, ctx: &CallContext, id: &str) -> Result<(), Error> {
        let was = self.find_message(id)?;
        if was.recipient != ctx.me() {
            return Err(Error::new(ErrorKind::Refused, format!("ack: {id} is not addressed to you")));
        }
        if was.acked.is_some() {
            return Ok(());
        }
        let message = Message { state: 3, read: was.read.or(Some(ctx.now)), acked: Some(ctx.now), ..was.clone() };
        self.settle_receipt(&was, &message)?;
        if was.read.is_none() {
            self.emit_read(&message, ctx.now)?;
        }
        Ok(())
    }

    /// Notes that a message was handed to a surface.
    pub(crate) fn offer(&mut self, was: &Message, surface: &str, now: i64) -> Result<(), Error> {
        if was.state != 0 {
            return Ok(());
        }
        let message = Message { state: 1, offered: Some(now), surface: Some(surface.into()), ..was.clone() };
        self.settle_receipt(was, &message)
    }

    /// Writes how far a message got, and keeps the count of unread ones.
    pub(crate) fn settle_receipt(&mut self, was: &Message, message: &Message) -> Result<(), Error> {
        self.store.put_receipt(was, message)?;
        if was.state < 2
            && message.state >= 2
            && let Some(n) = self.unread.get_mut(&message.recipient)
        {
            *n -= 1;
        }
        self.tell(message);
        Ok(())
    }

    /// Lets who looks on know of a message.
    pub(crate) fn tell(&mut self, message: &Message) {
        if self.watched {
            self.out.push(Effect::Message(Rc::new(message.clone())));
        }
    }

    /// A message for the human who looks on: from whom, to whom and how far it got; its text only if
    /// the human sent or got it.
    pub fn seen_value(&self, message: &Message) -> Value {
        let mut map = object(self.inbox_value(message, "sent"));
        if message.sender != self.human && message.recipient != self.human {
            map.retain(|name, _| !["payload", "part", "parts", "upto", "note"].contains(&name.as_str()));
        }
        Value::Object(map)
    }

    pub(crate) fn emit_read(&mut self, message: &Message, now: i64) -> Result<(), Error> {
        let payload = json!({ "messageId": self.outside_id(8, message.seq), "fromPeer": message.sender, "toPeer": message.recipient });
        self.emit("message_read", &message.recipient.clone(), payload, now)
    }

    /// A live push took a message: its line went whole to the recipient's own socket.
    pub fn pushed(&mut self, seq: i64, now: i64) {
        let noted = self.scoped(|mesh| {
            let Some(was) = mesh.store.message(seq)?.filter(|m| m.pushed.is_none()) else { return Ok(()) };
            let surface = was.surface.clone().or(Some("push".into()));
            let message = Message {
                state: was.state.max(1),
                offered: was.offered.or(Some(now)),
                pushed: Some(now),
                surface,
                ..was.clone()
            };
            mesh.settle_receipt(&was, &message)
        });
        if let Err(error) = noted {
            self.out.push(Effect::Notification { conn: 0, method: "log", params: json!(error.text) });
        }
    }

    /// Messages over HTTP: fetching marks as read, and shows what was before.
    pub fn fetch(&mut self, pick: &MessageFilter<'_>, now: i64) -> Result<Vec<Value>, Error> {
        let mut rows = Vec::new();
        let mut size = 0;
        for was in self.store.messages(pick)? {
            size += was.body.len();
            if size > limits::ROWS_BYTES_MAX && !rows.is_empty() {
                break;
            }
            rows.push(self.message_value(&was));
            let message = Message { state: was.state.max(2), read: Some(now), ..was.clone() };
            self.settle_receipt(&was, &message)?;
            if was.state < 2 {
                self.emit_read(&message, now)?;
            }
        }
        Ok(rows)
    }

    /// How many messages wait unread for a peer.
    pub fn unread(&mut self, id: &str) -> Result<i64, Error> {
        if let Some(n) = self.unread.get(id) {
            return Ok(*n);
        }
        let n = self.store.count_unread(id)?;
        self.unread.insert(id.to_owned(), n);
        Ok(n)
    }

    /// The names of those whose mail waits, the oldest first, a few at most.
    pub(crate) fn mail_from(&self, id: &str) -> Result<Vec<String>, Error> {
        let mut names: Vec<String> = Vec::new();
        for sender in self.store.unread_senders(id, 8)? {
            let name = self.name_of(&sender);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }

    pub(crate) fn expire_messages(&mut self, now: i64) -> Result<(), Error> {
        for was in self.store.expired_messages(now, limits::PRUNE_STEP)? {
            let message = Message { state: 4, ..was.clone() };
            self.settle_receipt(&was, &message)?;
        }
        Ok(())
    }
}

/// How far a message got, in a word.
pub(crate) fn receipt(message: &Message) -> &'static str {
    RECEIPTS.get(message.state as usize).copied().unwrap_or("accepted")
}

/// Cuts a payload that is too long for one result. What was shown before decides where the part
/// starts; `part` and `parts` count, `upto` is what `shown` reports back.
pub(crate) fn cut_to_part(map: &mut serde_json::Map<String, Value>, message: &Message, filter: &str) {
    let starts = part_starts(&message.body);
    if starts.len() == 1 {
        return;
    }
    let taken = if filter == "unread" { message.taken as usize } else { 0 };
    let part = starts.iter().rposition(|start| *start <= taken).unwrap_or(0);
    let upto = starts.get(part + 1).copied().unwrap_or(message.body.len());
    map.insert("payload".into(), json!(message.body.get(starts[part]..upto).unwrap_or("")));
    map.insert("part".into(), json!(part + 1));
    map.insert("parts".into(), json!(starts.len()));
    map.insert("upto".into(), json!(upto));
    let note =
        if filter == "unread" { "read the inbox again for the next part" } else { "only the first part is shown here" };
    map.insert("note".into(), json!(note));
}

/// Where the parts of a payload begin: each fits `limits::PART_MAX` once escaped.
pub(crate) fn part_starts(body: &str) -> Vec<usize> {
    let (mut starts, mut size) = (vec![0], 0);
    for (at, c) in body.char_indices() {
        let cost = match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            c if (c as u32) < 0x20 => 6,
            c => c.len_utf8(),
        };
        if size + cost > limits::PART_MAX {
            starts.push(at);
            size = 0;
        }
        size += cost;
    }
    starts
}
