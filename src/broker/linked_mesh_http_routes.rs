//! The HTTP routes for linked meshes. A SuperLocalMemory daemon (version 3.4.48) calls `/mesh/peers`, `/mesh/send` and
//! `/mesh/status`.
//!
//! A linked broker calls the same routes. Each reply to its polls contains marks (version numbers of what this mesh
//! reports). The linked broker sends the marks back with its next poll, which waits until something changes. At
//! `/mesh/receipts`, the linked broker asks whether its messages were read.
//!
//! Each route translates a request into an operation of the mesh, and the result into the format of the daemon.

use super::http::{Head, HttpResponse, Request};
use super::legacy_http::request_fields::{Fields, shortened};
use crate::base::domain_enums::MessageType;
use crate::base::error::{Error, ErrorKind};
use crate::base::{limits, time_format};
use crate::core::federation::operations_for_linked_meshes;
use crate::core::federation::roster::{ACTIVE, AWAY};
use crate::core::{CallContext, ClientKind, Mesh, Op, object};
use serde_json::{Value, json};

/// Maximum time for which a poll may wait for changes, in seconds.
pub const HOLD_SECONDS_MAX: u64 = 8;

/// The version numbers that a linked broker gets when it polls this mesh.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    roster: i64,
    receipts: i64,
}

impl Marks {
    /// Returns the current version numbers of the mesh.
    pub fn of(mesh: &Mesh) -> Marks {
        Marks { roster: mesh.peers().roster_version(), receipts: mesh.receipts_version() }
    }
}

/// Returns how long a poll may wait for changes, in ms; `None` if the request must be answered now.
pub fn hold_ms(request: &Request, marks: Marks) -> Option<i64> {
    if request.head.method != "GET" || !request.head.target.starts_with("/mesh/peers?") {
        return None;
    }
    let number = |name: &str| query_number(&request.head.target, name);
    // slm-mesh 0.1.0 sends no mark for receipts, so its polls wait only for changes to the list of peers.
    let has_news = number("after").is_none_or(|after: i64| after != marks.roster)
        || number("receipts").is_some_and(|after: i64| after != marks.receipts);
    let seconds = number("wait").unwrap_or(0).clamp(0, HOLD_SECONDS_MAX as i64);
    (!has_news && seconds > 0).then_some(seconds * 1000)
}

/// Returns the number in one parameter of the query string.
fn query_number(target: &str, name: &str) -> Option<i64> {
    let (_, query) = target.split_once('?')?;
    query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// Whether a request is a regular poll from a linked mesh. Polls do not keep an idle broker running.
pub fn is_poll(target: &str) -> bool {
    target.starts_with("/mesh/peers") || target.starts_with("/mesh/status")
}

/// A route. It takes the mesh, the head and the fields of the request, and the current time in ms.
type Handler = fn(&mut Mesh, &Head, &Fields, i64) -> Result<Value, Error>;

/// Returns the function for a route; `None` if there is no such route.
pub fn handler(method: &str, target: &str) -> Option<Handler> {
    let path = target.split('?').next().unwrap_or(target);
    match (method, path) {
        ("GET", "/mesh/peers") => Some(peers),
        ("POST", "/mesh/send") => Some(send),
        ("POST", "/mesh/receipts") => Some(receipts),
        ("GET", "/mesh/status") => Some(status),
        _ => None,
    }
}

/// Formats the response to a daemon. The daemon repeats a request after any status except 200, so a final refusal has
/// status 200.
pub fn to_response(result: Result<Value, Error>) -> HttpResponse {
    let (status, value) = match result {
        Ok(value) => (200, value),
        Err(error) if error.kind == ErrorKind::Limited => (429, json!({ "error": "Too many requests." })),
        Err(error) if error.kind.is_storage() => (507, json!({ "detail": error.text })),
        Err(error) => (200, json!({ "ok": false, "error": error.text })),
    };
    HttpResponse::json(status, value.to_string().into_bytes())
}

/// Runs an operation for a linked mesh.
fn run(mesh: &mut Mesh, op: &'static Op, budget: Option<String>, args: Value, now: i64) -> Result<Value, Error> {
    let context = CallContext::over_http(ClientKind::HttpProgram { budget }, None, now);
    mesh.run_within_savepoint(op, &op.check(object(args))?, &context)
}

fn peers(mesh: &mut Mesh, head: &Head, _: &Fields, now: i64) -> Result<Value, Error> {
    // The `Host` header is the address at which the daemon reaches this machine. All peers in the list get this
    // address, because for the daemon, a loopback address would mean the daemon's own machine.
    let host = head.host.as_deref().map_or("", |host| host.rsplit_once(':').map_or(host, |(name, _)| name)).to_owned();
    let port = mesh.settings().port;
    // A SuperLocalMemory daemon does not ask for people, because it would mistake them for sessions.
    let people = query_number(&head.target, "people") == Some(1);
    let mut listed = run(mesh, &operations_for_linked_meshes::PEERS, None, json!({ "people": people }), now)?;
    let mesh_id = listed["mesh"].take();
    let row = |row: &Value| {
        let time = |name: &str| row[name].as_i64().map(zoned);
        json!({
            "peer_id": row["id"], "session_id": row["name"], "summary": row["summary"],
            "status": if row["online"] == true { ACTIVE } else { AWAY }, "host": host, "port": port,
            "registered_at": time("firstSeen"), "last_heartbeat": time("lastHeartbeat"),
            "project_path": row["project"], "agent_type": row["agent"], "mesh": mesh_id, "machine": row["machine"],
            "branch": row["branch"], "repo": row["repo"],
        })
    };
    let rows: Vec<Value> = listed["peers"].as_array().into_iter().flatten().map(row).collect();
    let (roster, receipts) = (&listed["rosterVersion"], &listed["receiptsVersion"]);
    Ok(json!({ "peers": rows, "mesh": mesh_id, "mark": roster, "receipts": receipts }))
}

/// Returns the receipts (whether each message was read) for messages from one peer of a linked mesh.
fn receipts(mesh: &mut Mesh, head: &Head, fields: &Fields, now: i64) -> Result<Value, Error> {
    let mut args = sender(fields);
    let keys = fields.texts("keys").unwrap_or_default();
    args["keys"] = keys.into_iter().filter(|key| (1..=limits::WORD_MAX).contains(&key.len())).collect();
    let budget = budget(mesh, head, fields);
    run(mesh, &operations_for_linked_meshes::RECEIPTS, Some(budget), args, now)
}

/// Returns the arguments that describe the sender of a message. Long names are shortened, because the linked mesh may
/// have other limits.
fn sender(fields: &Fields) -> Value {
    let text = |name| fields.word(name).map(shortened);
    json!({
        "sender": text("from_peer").unwrap_or_else(|| "unknown".into()), "senderName": text("from_name"),
        "senderMachine": text("from_machine"),
    })
}

/// Returns the name of the rate limit for messages from the sender. Each link has its own limit, so that a busy mesh
/// does not slow down other meshes. A request can contain any id, so the name also contains the address. Otherwise, a
/// mesh could use up the limit of a mesh at another address.
fn budget(mesh: &Mesh, head: &Head, fields: &Fields) -> String {
    let id = fields.word("from_peer").unwrap_or_default();
    let link = mesh.peers().with_id(id).and_then(|peer| peer.row.mesh());
    format!("messages from {} {}", head.peer, link.map_or("", |url| url.as_str()))
}

fn send(mesh: &mut Mesh, head: &Head, fields: &Fields, now: i64) -> Result<Value, Error> {
    let to =
        fields.word("to_peer").or(fields.word("to")).ok_or_else(|| Error::usage("to_peer", "expected a peer's id"))?;
    let content = fields.word("content").ok_or_else(|| Error::usage("content", "missing"))?;
    if content.len() > limits::PAYLOAD_MAX {
        let text = format!("content too large (max {} bytes)", limits::PAYLOAD_MAX);
        return Err(Error::new(ErrorKind::Refused, text));
    }
    // A field that is too long for this mesh is left out, because the message itself is more important.
    let short = |name| fields.word(name).filter(|text| text.len() <= limits::WORD_MAX);
    let mut args = sender(fields);
    for (name, value) in [
        ("to", json!(to)),
        ("content", json!(content)),
        ("type", json!(message_type(fields, content).word())),
        ("key", json!(short("key"))),
        ("replyTo", json!(short("reply_to"))),
        ("group", json!(short("group"))),
        ("expiresMs", json!(fields.integer("expires_in").map(|ms| ms.clamp(0, limits::MAIL_KEPT_MS)))),
    ] {
        args[name] = value;
    }
    let budget = budget(mesh, head, fields);
    let sent = run(mesh, &operations_for_linked_meshes::SEND, Some(budget), args, now)?;
    let (id, target) = (&sent["seq"], &sent["target"]);
    Ok(json!({ "ok": true, "id": id, "target_type": target, "expires_at": zoned(now + limits::MAIL_KEPT_MS) }))
}

/// Returns the type that the sender gave, or the default if this type is unknown or does not fit the content.
fn message_type(fields: &Fields, content: &str) -> MessageType {
    let given = fields.word("type").and_then(MessageType::from_word);
    given.filter(|kind| kind.accepts(content)).unwrap_or_default()
}

fn status(mesh: &mut Mesh, _: &Head, _: &Fields, now: i64) -> Result<Value, Error> {
    let listed = run(mesh, &operations_for_linked_meshes::PEERS, None, json!({}), now)?;
    let n_peers = listed["peers"].as_array().map_or(0, Vec::len);
    Ok(json!({ "broker_up": true, "peer_count": n_peers, "uptime_s": (now - mesh.started()) / 1000 }))
}

/// Formats a time with a numeric time zone, as Python does.
fn zoned(ms: i64) -> String {
    time_format::iso(ms).replace('Z', "+00:00")
}
