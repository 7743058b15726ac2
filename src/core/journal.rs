//! Events: every change, in one stream with sequence numbers that never go back.

use crate::base::error::Error;
use crate::base::{limits, time};
use crate::core::op::ArgKind;
use crate::core::{Arg, Args, Auth, CallContext, CliPlace, Effect, Mesh, Op, Outcome, WaitReason};
use crate::store::{Event, EventFilter};
use serde_json::{Value, json};
use std::rc::Rc;

const TYPES: Arg = Arg::new(
    "types",
    ArgKind::Texts { items: limits::LIST_MAX, max: limits::WORD_MAX },
    "Event types, as file_locked or deploy.done; empty or * = all",
);

/// Reads the stream.
pub static READ: Op = Op {
    name: "events.read",
    summary: "Read events, oldest first after a cursor, or the latest; can wait for one",
    args: &[
        TYPES,
        Arg::new("since", ArgKind::Text { min: 1, max: 64 }, "Only after this time (ISO 8601)"),
        Arg::new("limit", ArgKind::Int { min: 1, max: 200 }, "At most this many, 50 unless said otherwise"),
        Arg::new(
            "after",
            ArgKind::Int { min: 0, max: i64::MAX },
            "Cursor: only after this sequence number; use the seq of the last answer",
        ),
        Arg::new(
            "waitSeconds",
            ArgKind::Int { min: 0, max: limits::WAIT_SECONDS_MAX },
            "WaitingCall this long for one to come; 25 is safe in every client",
        )
        .short("wait"),
    ],
    actor: Auth::Optional,
    verb: Some("events"),
    tool: Some(("events", Some("read"))),
    repeatable: true,
    run: read,
};

/// Adds a custom event.
pub static EMIT: Op = Op {
    name: "events.emit",
    summary: "Add an event of your own to the stream",
    args: &[
        Arg::new("type", ArgKind::Text { min: 3, max: limits::WORD_MAX }, "Type with a dot in it, as deploy.done")
            .required()
            .at(CliPlace::Positional),
        Arg::new("payload", ArgKind::Object { max: limits::PAYLOAD_MAX }, "Any JSON object").at(CliPlace::Positional),
    ],
    actor: Auth::Required,
    verb: Some("events emit"),
    tool: Some(("events", Some("emit"))),
    repeatable: false,
    run: emit,
};

/// Subscribes a connection to pushes.
pub static SUBSCRIBE: Op = Op {
    name: "events.subscribe",
    summary: "Choose which events are pushed to this session; answers where the stream stands",
    args: &[Arg { required: true, ..TYPES }],
    actor: Auth::Optional,
    verb: None,
    tool: Some(("events", Some("subscribe"))),
    repeatable: true,
    run: subscribe,
};

/// Ends a subscription.
pub static UNSUBSCRIBE: Op = Op {
    name: "events.unsubscribe",
    summary: "Have no events pushed to this session any more",
    args: &[],
    actor: Auth::Optional,
    verb: None,
    tool: Some(("events", Some("unsubscribe"))),
    repeatable: true,
    run: unsubscribe,
};

fn read(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let types: Vec<&str> = if args.texts("types").contains(&"*") { Vec::new() } else { args.texts("types") };
    let since = match args.text("since") {
        Some(text) => {
            let time = time::parse(text).ok_or_else(|| Error::usage("since", "want a time as 2026-11-22T06:43:36Z"))?;
            Some(mesh.store.event_at(time)?)
        }
        None => None,
    };
    // A wait without a cursor waits for what is new from the moment in which it began.
    let waits = args.int("waitSeconds").is_some_and(|seconds| seconds > 0);
    let cursor = args.int("after").max(since).or(ctx.stood).or(waits.then_some(mesh.store.counters.event_last));
    let limit = args.int("limit").unwrap_or(50);
    let pick = EventFilter { types: &types, after: cursor.unwrap_or(0), newest: cursor.is_none(), limit: limit + 1 };
    let mut found = mesh.store.events(&pick)?;
    let is_ahead = cursor.is_some_and(|cursor| cursor > mesh.store.counters.event_last);
    if found.is_empty()
        && !is_ahead
        && let Some(until) = ctx.wait(args.int("waitSeconds"))
    {
        return Ok(Outcome::Pending(WaitReason::Events(cursor.unwrap_or(0)), until));
    }
    let mut more = found.len() as i64 > limit;
    found.truncate(limit as usize);
    let (mut rows, mut size) = (Vec::new(), 0);
    for event in &found {
        let mut row = mesh.event_value(event);
        if row.to_string().len() > limits::PAGE_MAX {
            row["payload"] = json!({ "note": "too long to show", "bytes": event.payload.len() });
        }
        size += row.to_string().len();
        if size > limits::PAGE_MAX {
            more = true;
            break;
        }
        rows.push(row);
    }
    if pick.newest {
        rows.reverse();
    }
    let last = mesh.store.counters.event_last;
    let seq = match rows.last() {
        Some(row) if more || cursor.is_none() => row["seq"].as_i64().unwrap_or(last),
        _ => last,
    };
    let first = mesh.store.first_event()?.unwrap_or(last + 1);
    // A cursor from beyond the end belongs to another stream, as one does whose place was pruned.
    let gap = args.int("after").is_some_and(|after| after > last || after.saturating_add(1) < first && after < last);
    Ok(Outcome::Ready(json!({ "ok": true, "events": rows, "seq": seq, "gap": gap, "more": more })))
}

fn emit(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let kind = args.word("type");
    if !kind.contains('.')
        || kind.starts_with('.')
        || kind.ends_with('.')
        || kind.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        return Err(Error::usage(
            "type",
            "want a word with a dot inside, as deploy.done; plain words are the mesh's own",
        ));
    }
    mesh.limit(ctx.me(), 10, ctx.now)?;
    let payload = args.object("payload").cloned().unwrap_or_else(|| json!({}));
    mesh.emit(kind, ctx.me(), payload, ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true, "seq": mesh.store.counters.event_last })))
}

fn subscribe(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let types: Vec<String> = args.texts("types").into_iter().map(str::to_owned).collect();
    let wanted = if types.is_empty() { vec!["*".to_owned()] } else { types };
    if let Some(seat) = mesh.seats.get_mut(&ctx.conn) {
        seat.subscribed.clone_from(&wanted);
    }
    Ok(Outcome::Ready(json!({ "ok": true, "subscribed": wanted, "seq": mesh.store.counters.event_last })))
}

fn unsubscribe(mesh: &mut Mesh, ctx: &CallContext, _: &Args) -> Result<Outcome, Error> {
    if let Some(seat) = mesh.seats.get_mut(&ctx.conn) {
        seat.subscribed.clear();
    }
    Ok(Outcome::Ready(json!({ "ok": true })))
}

fn wants(subscribed: &[String], kind: &str) -> bool {
    subscribed.iter().any(|wanted| wanted == "*" || wanted == kind)
}

impl Mesh {
    /// Records a change and tells those who asked to hear of it.
    pub fn emit(&mut self, kind: &str, by: &str, payload: Value, now: i64) -> Result<(), Error> {
        let text = payload.to_string();
        let seq = self.store.add_event(kind, by, now, &text)?;
        self.stirred.events = true;
        if kind.starts_with("peer_") && self.peer(by).is_none_or(|peer| peer.row.kind != crate::core::peers::LINKED) {
            self.roster_mark += 1;
        }
        let event = Event { seq, kind: kind.to_owned(), by: by.to_owned(), at: now, payload: text };
        let conns: Vec<_> =
            self.seats.iter().filter(|(_, seat)| wants(&seat.subscribed, kind)).map(|(conn, _)| *conn).collect();
        for conn in conns {
            let params = self.event_value(&event);
            self.out.push(Effect::Notification { conn, method: "event", params });
        }
        if self.watched || self.peers.iter().any(|peer| peer.row.kind == "http") {
            self.out.push(Effect::Event(Rc::new(event)));
        }
        Ok(())
    }

    /// An event with the keys of the old HTTP API first; the payload as JSON.
    pub fn event_value(&self, event: &Event) -> Value {
        let payload = serde_json::from_str(&event.payload).unwrap_or(Value::Null);
        json!({
            "id": self.outside_id(9, event.seq), "type": event.kind, "payload": payload, "emittedBy": event.by,
            "createdAt": time::iso(event.at), "seq": event.seq, "emittedByName": self.name_of(&event.by),
        })
    }

    /// Events for the old HTTP API: newest first.
    pub fn latest_events(&self, types: &[&str], since: Option<i64>, limit: i64) -> Result<Vec<Value>, Error> {
        let after = since.map(|time| self.store.event_at(time)).transpose()?.unwrap_or(0);
        let found = self.store.events(&EventFilter { types, after, newest: true, limit })?;
        let mut size = 0;
        let fits = |event: &&Event| {
            size += event.payload.len();
            size <= limits::ROWS_BYTES_MAX
        };
        Ok(found.iter().take_while(fits).map(|event| self.event_value(event)).collect())
    }

    /// Subscribes a peer that takes pushes on its own socket; an empty list ends it.
    pub fn subscribe_peer(&mut self, peer: &str, types: Vec<String>) {
        if types.is_empty() {
            self.legacy_subscriptions.remove(peer);
        } else if self.legacy_subscriptions.len() < limits::PEERS_MAX || self.legacy_subscriptions.contains_key(peer) {
            self.legacy_subscriptions.insert(peer.to_owned(), types);
        }
    }

    /// Whether such a peer asked for events of this type.
    pub fn is_subscribed(&self, peer: &str, kind: &str) -> bool {
        self.legacy_subscriptions.get(peer).is_some_and(|types| wants(types, kind))
    }
}
