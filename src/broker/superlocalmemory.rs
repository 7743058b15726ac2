//! What a SuperLocalMemory daemon asks of a mesh that it polls: `/mesh/peers` and `/mesh/send`, as
//! its version 3.4.48 speaks them.
//!
//! A broker of ours that looks at this one asks the same, and gets a mark by which its next question
//! waits until there is news.
//!
//! **Invariant:** only peers of this mesh are listed and written to, never ones learnt from elsewhere,
//! so that meshes that look at each other, in a ring even, echo nothing and pass nothing on.

use super::http::{Answer, Head, Request};
use crate::base::error::{Error, ErrorKind};
use crate::base::ids::PeerId;
use crate::base::kinds::MessageType;
use crate::base::{limits, time};
use crate::core::Mesh;
use crate::core::peers::Peer;
use crate::store::Message;
use serde_json::{Map, Value, json};

/// How long a question may wait for news, seconds: below what the HTTP thread gives an answer.
pub const HOLD_SECONDS_MAX: u64 = 8;

/// For how long a question is to wait while nothing is new, ms.
pub fn waits(request: &Request, mark: i64) -> Option<i64> {
    let query = request.head.target.strip_prefix("/mesh/peers?").filter(|_| request.head.method == "GET")?;
    let number =
        |name: &str| query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
    let is_news = number("after").is_none_or(|after: i64| after != mark);
    let seconds = number("wait").unwrap_or(0).clamp(0, HOLD_SECONDS_MAX as i64);
    (!is_news && seconds > 0).then_some(seconds * 1000)
}

/// Whether a request is one of those that come by themselves and keep nobody up.
pub fn is_look(target: &str) -> bool {
    target.starts_with("/mesh/peers") || target.starts_with("/mesh/status")
}

/// A handler: what it was given, over which head, and now.
type Handler = fn(&mut Mesh, &Head, &Map<String, Value>, i64) -> Result<Value, Error>;

/// The handler of a route, if it is one of these.
pub fn handler(method: &str, target: &str) -> Option<Handler> {
    let path = target.split('?').next().unwrap_or(target);
    match (method, path) {
        ("GET", "/mesh/peers") => Some(peers),
        ("POST", "/mesh/send") => Some(send),
        ("GET", "/mesh/status") => Some(status),
        _ => None,
    }
}

/// The answer to an error: a refusal for ever is a 200 that says so, since a daemon tries others again.
pub fn answer(result: Result<Value, Error>) -> Answer {
    let (status, value) = match result {
        Ok(value) => (200, value),
        Err(error) if error.kind == ErrorKind::Limited => (429, json!({ "error": "Too many requests." })),
        Err(error) if error.kind == ErrorKind::Storage => (507, json!({ "detail": error.text })),
        Err(error) => (200, json!({ "ok": false, "error": error.text })),
    };
    Answer::json(status, value.to_string().into_bytes())
}

fn peers(mesh: &mut Mesh, head: &Head, _: &Map<String, Value>, _: i64) -> Result<Value, Error> {
    // By what address we are reached, its asker knows best: a daemon takes loopback for its own.
    let host = head.host.as_deref().map_or("", |host| host.rsplit_once(':').map_or(host, |(name, _)| name)).to_owned();
    let port = mesh.settings().port;
    let mark = mesh.mesh_id();
    let here = own(mesh);
    let rows: Vec<Value> = here
        .map(|peer| {
            json!({
                "peer_id": peer.row.id.as_str(), "session_id": peer.row.name, "summary": peer.row.summary, "status": "active",
                "host": host, "port": port, "registered_at": zoned(peer.row.first_seen),
                "last_heartbeat": zoned(peer.last_heartbeat.max(peer.last_active)), "project_path": peer.row.project,
                "agent_type": peer.row.agent, "mesh": mark, "machine": peer.row.host, "branch": peer.row.git_branch,
                "repo": peer.row.repo,
            })
        })
        .collect();
    Ok(json!({ "peers": rows, "mesh": mark, "mark": mesh.peers().roster_version() }))
}

fn send(mesh: &mut Mesh, head: &Head, given: &Map<String, Value>, now: i64) -> Result<Value, Error> {
    let text = |name: &str| given.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let to = text("to_peer").or(text("to")).ok_or_else(|| Error::usage("to_peer", "want a peer's id"))?;
    let content = text("content").ok_or_else(|| Error::usage("content", "missing"))?;
    if content.len() > limits::PAYLOAD_MAX {
        return Err(Error::new(ErrorKind::Refused, format!("content too large (max {} bytes)", limits::PAYLOAD_MAX)));
    }
    // Each mesh has a budget of its own: one that writes much slows nobody else.
    mesh.charge(&format!("letters from {}", head.peer), 10, now)?;
    let (id, name, machine) = (text("from_peer").unwrap_or("unknown"), text("from_name"), text("from_machine"));
    let cut = |id: PeerId| PeerId::from(id.chars().take(limits::WORD_MAX).collect::<String>());
    let sender = cut(mesh.forwarded_sender(id, name, machine));
    let key = text("key").filter(|key| key.len() <= limits::WORD_MAX);
    for known_as in [&sender, &cut(mesh.unknown_sender(id, name, machine))] {
        // Its first answer was lost on the way; we may have learnt only since then who that is.
        if let Some(known) = key.map(|key| mesh.message_with_key(known_as, key)).transpose()?.flatten() {
            return Ok(taken("peer", known, now));
        }
    }
    let is_kept = |kind: &str| kind != "json" || serde_json::from_str::<Value>(content).is_ok();
    let kind = text("type").filter(|kind| MessageType::WORDS.contains(kind) && is_kept(kind)).unwrap_or("text");
    let draft = Message {
        sender,
        kind: MessageType::from_word(kind).unwrap_or_default(),
        body: content.into(),
        key: key.map(str::to_owned),
        ..Message::default()
    };
    let (target, recipients) = recipients(mesh, to)?;
    let answered = text("reply_to").zip(recipients.first()).filter(|_| target == "peer");
    let reply_to =
        answered.map(|(id, me)| mesh.acknowledge_by_reply(&draft.sender, me, id, now)).transpose()?.flatten();
    let expires_in = given.get("expires_in").and_then(Value::as_i64);
    let expires = expires_in.map(|ms| now + ms.clamp(0, limits::MAIL_KEPT_MS));
    let draft = Message { reply_to, expires, ..draft };
    let draft = Message { group: (target != "peer").then(|| to.to_owned()), ..draft };
    let sent = mesh.post(draft, &recipients, now)?;
    Ok(taken(target, sent.first().map_or(0, |message| message.seq), now))
}

fn taken(target: &str, id: i64, now: i64) -> Value {
    json!({ "ok": true, "id": id, "target_type": target, "expires_at": zoned(now + limits::MAIL_KEPT_MS) })
}

/// The peers of this mesh that are here.
fn own(mesh: &Mesh) -> impl Iterator<Item = &Peer> {
    mesh.peers().all().iter().filter(|peer| peer.is_online() && !peer.row.is_linked())
}

/// Whom a `to` means: everybody, a project, or one peer.
fn recipients(mesh: &Mesh, to: &str) -> Result<(&'static str, Vec<PeerId>), Error> {
    let here = |fits: &dyn Fn(&str) -> bool| {
        own(mesh).filter(|peer| fits(&peer.row.project)).map(|peer| peer.row.id.clone()).collect()
    };
    if to == "broadcast" {
        return Ok(("broadcast", here(&|_| true)));
    }
    if let Some(project) = to.strip_prefix("project:") {
        return Ok(("project", here(&|path| path == project)));
    }
    match mesh.peers().get(to) {
        Some(peer) if !peer.row.is_linked() => Ok(("peer", vec![peer.row.id.clone()])),
        _ => Err(Error::not_found("recipient peer not found")),
    }
}

fn status(mesh: &mut Mesh, _: &Head, _: &Map<String, Value>, now: i64) -> Result<Value, Error> {
    Ok(json!({ "broker_up": true, "peer_count": own(mesh).count(), "uptime_s": (now - mesh.started()) / 1000 }))
}

/// A time with its zone spelt out, as Python writes it.
fn zoned(ms: i64) -> String {
    time::iso(ms).replace('Z', "+00:00")
}
