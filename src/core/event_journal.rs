//! The journal: records all changes as one stream of events with ascending sequence numbers.
//!
//! **Invariant:** only this module writes events.

use super::op_definition::ArgKind;
use super::peers::Peers;
use super::transaction_and_pending_effects::{Effect, Turn};
use super::waiting_calls::WaitReason;
use super::{Arg, Args, Auth, CallContext, CliPlace, ConnId, Mesh, Op, Outcome, pagination};
use crate::base::build_json_object::json_object;
use crate::base::domain_enums::{EventKind, LeaveReason};
use crate::base::error::Error;
use crate::base::id_types::{CountedMap, EventSeq, MeshUrl, PeerId, PublicIds};
use crate::base::json_text::json_text;
use crate::base::{limits, time_format};
use crate::core::op_behavior::{OpBehavior, RowStream};
use crate::core::op_definition::Runner;
use crate::store::{ChannelMember, Event, EventFilter, LockRow, Message, PeerRow, StateEntry};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::rc::Rc;

const TYPES: Arg = Arg::new(
    "types",
    ArgKind::Texts { items: limits::LIST_MAX, max: limits::WORD_MAX },
    "Event types, such as file_locked or deploy.done; empty or * means all",
)
.placeholder("TYPE");

/// Reads events.
pub static READ: Op = Op {
    name: "events.read",
    summary: "Read the latest events, or the events after a cursor, oldest first",
    args: &[
        TYPES,
        Arg::new("since", ArgKind::Text { min: 1, max: 64 }, "Only events after this time (ISO 8601)")
            .placeholder("TIME"),
        pagination::limit(200, "Maximum number of events, 50 by default"),
        pagination::after("Cursor: only events after this sequence number (`seq` from the previous answer)"),
        Arg::wait_seconds("Seconds to wait for an event; up to 25 is safe with every client").short("wait"),
        Arg::new("newest", ArgKind::Flag, "If there are more events than `limit`, read the latest ones")
            .at(CliPlace::Hidden)
            .not_in_tool(),
        pagination::rows(),
    ],
    actor: Auth::Optional,
    verb: Some("events"),
    tool: Some(("events", Some("read"))),
    repeatable: true,
    behavior: OpBehavior { stream: Some(RowStream::Events), ..OpBehavior::USUAL },
    run: Runner::Rule(read),
};

/// Publishes an event on behalf of a client.
pub static EMIT: Op = Op {
    name: "events.emit",
    summary: "Publish an event of your own",
    args: &[
        Arg::new(
            "type",
            ArgKind::Text { min: 3, max: limits::WORD_MAX },
            "Type of the event, which must contain a dot: deploy.done",
        )
        .required()
        .at(CliPlace::Positional),
        Arg::new("payload", ArgKind::Object { max: limits::PAYLOAD_MAX }, "Any JSON object").at(CliPlace::Positional),
    ],
    actor: Auth::Required,
    verb: Some("events emit"),
    tool: Some(("events", Some("emit"))),
    repeatable: false,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(emit),
};

/// Subscribes a connection to events, which are then pushed to this connection.
pub static SUBSCRIBE: Op = Op {
    name: "events.subscribe",
    summary: "Choose which events are pushed over this connection; the answer contains the current cursor; MCP clients \
              see no pushes and should read with waitSeconds instead",
    args: &[Arg { required: true, ..TYPES }],
    actor: Auth::Optional,
    verb: None,
    tool: Some(("events", Some("subscribe"))),
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(subscribe),
};

/// Ends the subscription of a connection.
pub static UNSUBSCRIBE: Op = Op {
    name: "events.unsubscribe",
    summary: "Stop pushing events over this connection",
    args: &[],
    actor: Auth::Optional,
    verb: None,
    tool: Some(("events", Some("unsubscribe"))),
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(unsubscribe),
};

/// Maximum size, in bytes, of a shared-state value that an event contains. A client must request a longer value itself.
const EVENT_VALUE_MAX: usize = 4096;

fn read(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, journal, .. } = mesh;
    let types: Vec<&str> = if args.texts("types").contains(&"*") { Vec::new() } else { args.texts("types") };
    let since = match args.text("since") {
        Some(text) => {
            let time = time_format::parse(text)
                .ok_or_else(|| Error::usage("since", "expected a time such as 2026-11-22T06:43:36Z"))?;
            Some(turn.store.event_at(time)?)
        }
        None => None,
    };
    let last = turn.store.last_event();
    // A caller that waits without a cursor gets only events that happen after the wait has begun.
    let waits = args.int("waitSeconds").is_some_and(|seconds| seconds > 0);
    let after = args.int("after").map(EventSeq);
    let cursor = after.max(since).or(ctx.event_cursor).or(waits.then_some(last));
    let limit = args.int("rows").or(args.int("limit")).unwrap_or(50);
    let newest = args.flag("newest").unwrap_or(cursor.is_none());
    let filter = EventFilter { types: &types, after: cursor.unwrap_or_default(), newest, limit: limit + 1 };
    let mut found = turn.store.events(&filter)?;
    let first = turn.store.first_event()?.unwrap_or(last.next());
    // A cursor beyond the last event comes from a different database, so there is a gap. There is also a gap if events
    // after the cursor have been removed. The caller must learn of a gap at once, even if the caller asked to wait.
    let gap = after.is_some_and(|after| after > last || after.next() < first && after < last);
    let is_ahead = cursor.is_some_and(|cursor| cursor > last);
    if found.is_empty()
        && !is_ahead
        && !gap
        && let Some(until) = ctx.wait(args.int("waitSeconds"))
    {
        return Ok(Outcome::Pending(WaitReason::Events(cursor.unwrap_or_default()), until));
    }
    let mut more = found.len() as i64 > limit;
    found.truncate(limit as usize);
    let mut page = ctx.page();
    for event in &found {
        // An event may be too long for a tool result. Such an event gets a page of its own, so that programs get the
        // whole event. For agents, the MCP server shortens the event.
        if !page.add(journal.view(peers, event)) {
            more = true;
            break;
        }
    }
    let mut rows = page.into_rows();
    if filter.newest {
        rows.reverse();
    }
    let seq = match rows.last() {
        Some(row) if more || cursor.is_none() => row["seq"].as_i64().unwrap_or(last.0),
        _ => last.0,
    };
    let (ok, events) = (Value::Bool(true), Value::Array(rows));
    let mut value =
        json_object([("ok", ok), ("events", events), ("seq", seq.into()), ("gap", gap.into()), ("more", more.into())]);
    if more && filter.newest {
        // With the cursor `seq`, the caller gets only later events. So a note says how to get the older events.
        value["note"] = json!("there are older events; to read the events from the oldest one on, set `after` to 0");
    }
    Ok(Outcome::Ready(value))
}

fn emit(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, journal, rates, .. } = mesh;
    let name = args.word("type");
    let is_dotted = name.contains('.') && !name.starts_with('.') && !name.ends_with('.');
    if !is_dotted || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let want = "expected a word that contains a dot, such as deploy.done; types without a dot are reserved for the \
                    mesh itself";
        return Err(Error::usage("type", want));
    }
    rates.charge_call(peers, ctx, 10)?;
    let payload = args.object("payload").cloned().unwrap_or_else(|| json!({}));
    journal.record(turn, peers, &Change::Custom { name, payload }, ctx.me()?, ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true, "seq": turn.store.last_event().0 })))
}

fn subscribe(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, journal, .. } = mesh;
    let types: Vec<String> = args.texts("types").into_iter().map(str::to_owned).collect();
    let wanted = if types.is_empty() { vec!["*".to_owned()] } else { types };
    if peers.is_connected(ctx.conn) {
        journal.subscriptions.insert(ctx.conn, wanted.clone());
    } else if let Some(peer) = peers.caller(ctx).filter(|peer| ctx.is_http_program() && peer.row.is_http()) {
        journal.subscribe_peer(&peer.row.id, wanted.clone());
    }
    let last = turn.store.last_event();
    // MCP has no notification that would show an event to a model, so an MCP server does not pass on pushed events.
    let note = "pushed events are not shown over MCP; to wait for events, use action read with waitSeconds, and \
                give this `seq` as `after`";
    Ok(Outcome::Ready(json!({ "ok": true, "subscribed": wanted, "seq": last.0, "note": note })))
}

fn unsubscribe(mesh: &mut Mesh, ctx: &CallContext, _: &Args) -> Result<Outcome, Error> {
    match &ctx.actor {
        Some(id) if ctx.is_http_program() => mesh.journal.unsubscribe_peer(id),
        _ => mesh.journal.unsubscribe(ctx.conn),
    }
    Ok(Outcome::Ready(json!({ "ok": true })))
}

impl Mesh {
    /// Returns the sequence number of the last event. A client that wants only later events uses this number as a
    /// cursor.
    pub fn last_event(&self) -> EventSeq {
        self.journal.last_event(&self.turn)
    }

    /// Returns the latest events of these types, oldest first. If `types` is empty, returns events of all types.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn latest_events(&self, types: &[&str], limit: i64) -> Result<Vec<Event>, Error> {
        let mut found =
            self.turn.store.events(&EventFilter { types, newest: true, limit, ..EventFilter::default() })?;
        found.reverse();
        Ok(found)
    }
}

fn wants(subscribed: &[String], kind: &str) -> bool {
    subscribed.iter().any(|wanted| wanted == "*" || wanted == kind)
}

/// A change, with the facts that its event contains.
#[allow(missing_docs)] // the comment of each variant explains its fields
#[derive(Debug)]
pub enum Change<'a> {
    /// A peer came online.
    PeerJoined(&'a PeerRow),
    /// A peer went offline, for this `reason`. `named` says whether the event contains the peer's name.
    PeerLeft { row: &'a PeerRow, named: bool, reason: LeaveReason },
    /// A peer changed its summary.
    PeerUpdated(&'a PeerRow),
    /// A peer joined a channel.
    ChannelJoined(&'a ChannelMember),
    /// A peer left a channel, either on request or because its session ended.
    ChannelLeft(&'a ChannelMember),
    /// A message to one peer was accepted.
    MessageReceived(&'a Message),
    /// A message to a group was accepted for `n` members of the group.
    GroupReceived { from: &'a str, group: &'a str, n: usize },
    /// A message was read.
    MessageRead(&'a Message),
    /// A linked mesh accepted a message. `by` is the URL of this linked mesh.
    MessageForwarded { message: &'a Message, by: &'a MeshUrl },
    /// A linked mesh refused a message for good.
    MessageRejected { message: &'a Message, by: &'a MeshUrl, reason: &'a str },
    /// An entry of the shared state has a new value.
    StateChanged(&'a StateEntry),
    /// An entry of the shared state was deleted. `reason` is set unless a client deleted the entry.
    StateDeleted { entry: &'a StateEntry, reason: Option<&'a str> },
    /// A lock was granted.
    FileLocked(&'a LockRow),
    /// A lock ended. `reason` is set unless the holder released the lock.
    FileUnlocked { lock: &'a LockRow, reason: Option<&'a str> },
    /// A client published an event.
    Custom { name: &'a str, payload: Value },
}

impl Change<'_> {
    fn kind(&self) -> EventKind {
        match self {
            Change::PeerJoined(_) => EventKind::PeerJoined,
            Change::PeerLeft { .. } => EventKind::PeerLeft,
            Change::PeerUpdated(_) => EventKind::PeerUpdated,
            Change::ChannelJoined(_) => EventKind::ChannelJoined,
            Change::ChannelLeft(_) => EventKind::ChannelLeft,
            Change::MessageReceived(_) | Change::GroupReceived { .. } => EventKind::MessageReceived,
            Change::MessageRead(_) => EventKind::MessageRead,
            Change::MessageForwarded { .. } => EventKind::MessageForwarded,
            Change::MessageRejected { .. } => EventKind::MessageRejected,
            Change::StateChanged(_) => EventKind::StateChanged,
            Change::StateDeleted { .. } => EventKind::StateDeleted,
            Change::FileLocked(_) => EventKind::FileLocked,
            Change::FileUnlocked { .. } => EventKind::FileUnlocked,
            Change::Custom { name, .. } => EventKind::Custom((*name).to_owned()),
        }
    }

    /// The payload of the event. The keys are those of the old HTTP API.
    fn payload(&self, ids: PublicIds) -> Value {
        let about = |m: &Message| {
            let [from, to] = [&m.sender, &m.recipient].map(|id| id.as_str().into());
            json_object([("messageId", ids.message(m.seq).into()), ("fromPeer", from), ("toPeer", to)])
        };
        let about_link = |m: &Message, by: &MeshUrl| {
            let mut payload = about(m);
            payload["by"] = json!(by.as_str());
            payload
        };
        let (mut payload, reason) = match self {
            Change::PeerJoined(row) => (
                json!({
                    "peerId": row.id.as_str(), "name": row.name, "agentType": row.agent, "projectPath": row.project,
                }),
                None,
            ),
            Change::PeerLeft { row, named: true, reason } => {
                (json!({ "peerId": row.id.as_str(), "name": row.name }), Some(reason.word()))
            }
            Change::PeerLeft { row, named: false, reason } => {
                (json!({ "peerId": row.id.as_str() }), Some(reason.word()))
            }
            Change::PeerUpdated(row) => {
                (json!({ "peerId": row.id.as_str(), "name": row.name, "summary": row.summary }), None)
            }
            Change::ChannelJoined(member) | Change::ChannelLeft(member) => {
                (json!({ "channel": member.channel.as_str(), "peerId": member.peer.as_str() }), None)
            }
            Change::MessageReceived(message) | Change::MessageRead(message) => (about(message), None),
            Change::GroupReceived { from, group, n } => {
                (json!({ "fromPeer": from, "toPeer": group, "count": n }), None)
            }
            Change::MessageForwarded { message, by } => (about_link(message, by), None),
            Change::MessageRejected { message, by, reason } => (about_link(message, by), Some(*reason)),
            Change::StateChanged(entry) => (state_payload(entry), None),
            Change::StateDeleted { entry, reason } => {
                (json!({ "key": entry.key, "namespace": entry.namespace, "version": entry.version }), *reason)
            }
            Change::FileLocked(lock) => (
                json!({
                    "filePath": lock.path, "lockedBy": lock.holder.as_str(), "reason": lock.reason,
                    "token": lock.token.0,
                }),
                None,
            ),
            Change::FileUnlocked { lock, reason } => {
                (json!({ "filePath": lock.path, "unlockedBy": lock.holder.as_str(), "token": lock.token.0 }), *reason)
            }
            Change::Custom { payload, .. } => (payload.clone(), None),
        };
        if let Some(reason) = reason {
            payload["reason"] = json!(reason);
        }
        payload
    }
}

fn state_payload(entry: &StateEntry) -> Value {
    let value = entry.value.as_deref().unwrap_or("");
    let mut payload =
        json!({ "key": entry.key, "namespace": entry.namespace, "value": value, "version": entry.version });
    if value.len() > EVENT_VALUE_MAX {
        payload["value"] = Value::Null;
        payload["bytes"] = json!(value.len());
    }
    payload
}

/// Maximum number of events from which one call removes a deleted value. Removing the value from this many events takes
/// about two milliseconds.
const BLANKED_MAX: usize = 2_000;

/// The stream of events and its subscribers.
#[derive(Debug)]
pub struct Journal {
    ids: PublicIds,
    /// The types of events to which each connection has subscribed.
    subscriptions: CountedMap<Vec<String>, ConnId>,
    /// The types of events to which each client of the old HTTP API has subscribed. These clients receive pushes on
    /// sockets of their own.
    peer_subscriptions: HashMap<PeerId, Vec<String>>,
    /// Whether an observer receives every event and every change of a message's state.
    observed: bool,
}

impl Journal {
    pub(super) fn new(ids: PublicIds) -> Journal {
        Journal { ids, subscriptions: CountedMap::default(), peer_subscriptions: HashMap::new(), observed: false }
    }

    /// Records a change as an event and pushes the event to its subscribers. Returns the event's sequence number.
    ///
    /// # Errors
    /// When the database can't be written.
    pub(super) fn record(
        &self,
        turn: &mut Turn,
        peers: &Peers,
        change: &Change,
        by: &PeerId,
        now: i64,
    ) -> Result<EventSeq, Error> {
        let (kind, payload) = (change.kind(), json_text(&change.payload(self.ids)));
        let earlier = if let Change::StateChanged(entry) = change { entry.last_event } else { None };
        let at = turn.time_of_row(now);
        let seq = turn.store.add_event(&kind, by, at, &payload, earlier)?;
        turn.dirty.events = true;
        let event = Event { seq, kind, by: by.into(), at, payload };
        let mut text = None;
        for (conn, _) in self.subscriptions.iter().filter(|(_, types)| wants(types, event.kind.word())) {
            let params = text.get_or_insert_with(|| json_text(&self.view(peers, &event))).clone();
            turn.push(Effect::Notification { conn: *conn, method: "event", params });
        }
        if self.observed || peers.has_http_clients() {
            turn.push(Effect::Event(Rc::new(event)));
        }
        Ok(seq)
    }

    /// Removes the values of a deleted or expired entry from its events, newest first. `last` is the newest event that
    /// contains a value of the entry. If there are more events than one call can change, returns the newest event that
    /// still contains a value. A further call must begin with this event.
    ///
    /// # Errors
    /// When the database can't be written.
    pub(super) fn forget_values(turn: &mut Turn, last: EventSeq) -> Result<Option<EventSeq>, Error> {
        let mut next = Some(last);
        for _ in 0..BLANKED_MAX {
            let Some(seq) = next else { break };
            let found = turn.store.value_event(seq)?;
            // The oldest events are removed first, so if this event is gone, all earlier events are gone, too.
            next = found.as_ref().and_then(|event| event.earlier);
            if let Some(event) = found {
                let mut payload: Value = serde_json::from_str(&event.payload).unwrap_or(Value::Null);
                payload["value"] = Value::Null;
                turn.store.blank_value_event(seq, &payload.to_string())?;
            }
        }
        Ok(next)
    }

    /// Returns the sequence number of the last event.
    pub(super) fn last_event(&self, turn: &Turn) -> EventSeq {
        turn.store.last_event()
    }

    /// Removes a bounded number of the events that are older than the time `before`. Returns how many were removed.
    pub(super) fn prune(turn: &mut Turn, before: i64) -> Result<usize, Error> {
        Ok(turn.store.prune_events(before, limits::PRUNE_STEP)?)
    }

    /// Tells observers that a message was sent, or that its state has changed.
    pub(super) fn observe(&self, turn: &mut Turn, message: &Message) {
        if self.observed {
            turn.push(Effect::Message(Rc::new(message.clone())));
        }
    }

    /// Sets whether observers receive every event and every change of a message's state.
    pub(super) fn set_observed(&mut self, observed: bool) {
        self.observed = observed;
    }

    /// Returns an event in the form that clients see. The keys of the old HTTP API come first. The payload is a JSON
    /// value, not a string that contains JSON.
    pub fn view(&self, peers: &Peers, event: &Event) -> Value {
        let payload = serde_json::from_str(&event.payload).unwrap_or(Value::Null);
        json!({
            "id": self.ids.event(event.seq), "type": event.kind.word(), "payload": payload,
            "emittedBy": event.by.as_str(), "createdAt": time_format::iso(event.at), "seq": event.seq.0,
            "emittedByName": peers.name_of(&event.by),
        })
    }

    /// Whether a connection has subscribed to events.
    pub(super) fn is_subscribed(&self, conn: ConnId) -> bool {
        self.subscriptions.contains_key(&conn)
    }

    /// Ends the subscription of a connection.
    pub(super) fn unsubscribe(&mut self, conn: ConnId) {
        self.subscriptions.remove(&conn);
    }

    /// Subscribes a peer that receives pushes on a socket of its own.
    fn subscribe_peer(&mut self, peer: &PeerId, types: Vec<String>) {
        if self.peer_subscriptions.len() < limits::PEERS_MAX || self.peer_subscriptions.contains_key(peer) {
            self.peer_subscriptions.insert(peer.into(), types);
        }
    }

    /// Ends the subscription of a peer that receives pushes on a socket of its own.
    pub(super) fn unsubscribe_peer(&mut self, peer: &PeerId) {
        self.peer_subscriptions.remove(peer);
    }

    /// Whether a peer with a push socket has subscribed to events of this type.
    pub fn is_peer_subscribed(&self, peer: &PeerId, kind: &EventKind) -> bool {
        self.peer_subscriptions.get(peer).is_some_and(|types| wants(types, kind.word()))
    }
}
