//! The HTTP routes of slm-mesh 1.x. Each route translates a request into an operation of the mesh, and the result into
//! the old format.

use super::request_fields::{Fields, shortened};
use super::{RouteResult, no};
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::PeerId;
use crate::base::{limits, path_overlap, time_format};
use crate::core::peers as peer_ops;
use crate::core::peers::http_registration::{CLEAR_SUMMARY, HEARTBEAT, REGISTER, UNREGISTER};
use crate::core::peers::list_peers::PEERS;
use crate::core::{
    CallContext, ClientKind, Mesh, Op, event_journal, locks, mail, mesh_status, object,
    shared_key_value_entries as state_ops,
};
use serde_json::{Value, json};

/// The agent types, under the names that clients of slm-mesh 1.x use.
const AGENT_TYPES: &[&str] = &["claude-code", "cursor", "aider", "codex", "windsurf", "vscode", "unknown"];
/// Maximum length of a recipient and of the sender in a filter of messages, in bytes. No peer has a longer id. Mail from
/// an unregistered sender with a longer id can't be filtered by this sender.
const RECIPIENT_BYTES_MAX: usize = 256;
/// Instead of a name, a client sends this word to let the broker choose a name.
const AUTO: &str = "auto";

/// A route. It takes the mesh, the fields of the request, and the current time in ms.
type LegacyRoute = fn(&mut Mesh, &Fields, i64) -> RouteResult;

/// Returns the route for a method and a path.
pub fn find(route: (&str, &str)) -> Option<LegacyRoute> {
    Some(match route {
        ("GET", "/status") => |mesh, _, now| run(mesh, &mesh_status::STATUS, None, json!({}), now),
        ("POST", "/register") => register,
        ("POST", "/unregister") => unregister,
        ("POST", "/heartbeat") => heartbeat,
        ("POST", "/peers") => peers,
        ("POST", "/summary") => summary,
        ("POST", "/send") => send,
        ("POST", "/messages") => messages,
        ("POST", "/state") => state,
        ("POST", "/lock") => lock,
        ("POST", "/events") => events,
        _ => return None,
    })
}

/// If the route needs the repository of a directory, returns a function that finds this directory in a request.
pub fn names_directory(route: (&str, &str)) -> Option<fn(&Mesh, &Fields) -> Option<String>> {
    match route {
        ("POST", "/register") => Some(|_, fields| fields.word("projectPath").map(str::to_owned)),
        ("POST", "/peers") => Some(|mesh, fields| {
            let is_wanted = fields.text("scope") == Some("repo") && fields.text("gitRoot").is_none();
            own_project(mesh, fields).filter(|_| is_wanted)
        }),
        _ => None,
    }
}

/// Returns the directory in the request. If there is none, returns the directory with which the client registered.
fn own_project(mesh: &Mesh, fields: &Fields) -> Option<String> {
    let registered = || mesh.peers().with_id(fields.text("excludeId")?).map(|peer| peer.row.project.clone());
    fields.text("projectPath").map(str::to_owned).or_else(registered)
}

/// Runs an operation for the peer with the id `me`. Clients of slm-mesh 1.x may use any text as an id.
fn run(mesh: &mut Mesh, op: &'static Op, me: Option<&str>, args: Value, now: i64) -> RouteResult {
    run_limited(mesh, op, me, None, args, now)
}

/// Runs an operation for a peer of this mesh. Nobody can act as a peer of a linked mesh.
fn run_locally(mesh: &mut Mesh, op: &'static Op, me: &str, args: Value, now: i64) -> RouteResult {
    mesh.peers().require_local(shortened(me).into())?;
    run(mesh, op, Some(me), args, now)
}

/// Runs an operation that counts against the rate limit `budget`. In slm-mesh 1.x, only messages and registrations are
/// limited.
fn run_limited(
    mesh: &mut Mesh,
    op: &'static Op,
    me: Option<&str>,
    budget: Option<String>,
    args: Value,
    now: i64,
) -> RouteResult {
    let actor = me.map(|me| PeerId::from(shortened(me)));
    let context = CallContext::over_http(ClientKind::HttpProgram { budget }, actor, now);
    mesh.run_within_savepoint(op, &op.check(object(args))?, &context)
}

/// Runs an operation that returns a list in pages, until the list is complete. Returns the rows.
fn all_rows(
    mesh: &mut Mesh,
    op: &'static Op,
    me: Option<&str>,
    mut args: Value,
    name: &str,
    now: i64,
) -> Result<Vec<Value>, Error> {
    let mut rows = Vec::new();
    loop {
        let mut page = run(mesh, op, me, args.clone(), now)?;
        args["after"] = page["next"].take();
        rows.extend(rows_of(page, name));
        if args["after"].is_null() {
            return Ok(rows);
        }
    }
}

fn register(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let (Some(project), Some(pid)) = (fields.word("projectPath"), fields.number("pid")) else {
        return Err(no("projectPath and pid are required"));
    };
    let agent = fields.text("agentType").unwrap_or("unknown");
    if !AGENT_TYPES.contains(&agent) {
        return Err(no(format!("agentType: expected one of {}", AGENT_TYPES.join(", "))));
    }
    let args = json!({
        "name": fields.text("name").filter(|name| *name != AUTO), "agentType": agent, "projectPath": project,
        "gitRoot": fields.text("gitRoot"), "gitBranch": fields.text("gitBranch"), "repo": fields.repository,
        "pid": (pid as i64).max(0), "udsPath": fields.word("udsPath"),
    });
    let you = run_limited(mesh, &REGISTER, None, Some("registrations".into()), args, now)?["you"].take();
    Ok(json!({ "ok": true, "peerId": you["id"], "name": you["name"] }))
}

fn unregister(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let id = fields.word("peerId").ok_or_else(|| no("peerId is required"))?;
    run(mesh, &UNREGISTER, Some(id), json!({}), now)
}

fn heartbeat(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let id = fields.word("peerId").ok_or_else(|| no("peerId is required"))?;
    run(mesh, &HEARTBEAT, Some(id), json!({}), now).map_err(|error| in_old_words(error, "Peer not found"))
}

fn peers(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let project = own_project(mesh, fields);
    // Clients of slm-mesh 1.x never send gitRoot. For them, the scope `repo` means the repository of their own
    // directory.
    let (root, repo) = (fields.text("gitRoot"), fields.repository.as_deref());
    let scope = match fields.text("scope") {
        Some("directory") if project.is_some() => "directory",
        Some("repo") if root.is_some() || repo.is_some() => "repo",
        // In slm-mesh 1.x, a scope without a directory or repository, and an unknown scope, have no effect.
        _ => "machine",
    };
    let asked = if scope == "directory" { project.as_deref() } else { root };
    if scope != "machine" && asked.is_some_and(|path| path.len() > limits::PATH_MAX) {
        return Ok(json!({ "ok": true, "peers": [] }));
    }
    let args = match scope {
        "directory" => json!({ "scope": scope, "project": project }),
        "repo" => json!({ "scope": scope, "workTree": root, "repo": repo }),
        _ => json!({}),
    };
    let me = fields.text("excludeId").filter(|id| mesh.peers().with_id(id).is_some());
    let rows = all_rows(mesh, &PEERS, me, args, "peers", now)?;
    let active = rows.into_iter().filter(|row| row["status"] == "active");
    let rows: Vec<Value> = active.map(|row| without_zones(row, &["startedAt", "lastHeartbeat"])).collect();
    Ok(json!({ "ok": true, "peers": rows }))
}

fn summary(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let (Some(id), Some(summary)) = (fields.word("peerId"), fields.text("summary")) else {
        return Err(no("peerId and summary are required"));
    };
    if summary.encode_utf16().count() > limits::SUMMARY_MAX {
        return Err(no(format!("Summary too long (max {} characters)", limits::SUMMARY_MAX)));
    }
    let result = match summary {
        "" => run_locally(mesh, &CLEAR_SUMMARY, id, json!({}), now),
        _ => run_locally(mesh, &peer_ops::SUMMARY, id, json!({ "summary": summary }), now),
    };
    result.map_err(|error| in_old_words(error, "Peer not found"))
}

fn send(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let (Some(from), Some(to), Some(payload)) =
        (fields.word("fromPeer"), fields.word("toPeer"), fields.word("payload"))
    else {
        return Err(no("fromPeer, toPeer, and payload are required"));
    };
    if payload.len() > limits::PAYLOAD_MAX {
        return Err(no(format!("Payload too large (max {} bytes)", limits::PAYLOAD_MAX)));
    }
    let unknown = if to == "cli" || is_uuid(to) { "Peer not found or inactive" } else { "Invalid peer ID format" };
    if to.len() > RECIPIENT_BYTES_MAX {
        return Err(no(unknown));
    }
    // In slm-mesh 1.x, people are not peers. A copy for a person would be one message more than clients expect, so
    // people get none.
    let human = mesh.peers().human().clone();
    let args = json!({
        "to": if to == "cli" { human.as_str() } else { to }, "message": payload, "type": fields.text("type"),
        "withoutPeople": true,
    });
    // All unregistered senders share one rate limit, so a client gains nothing by inventing senders. A registered sender
    // has one limit for HTTP, and another for calls over its session's socket.
    let known = Some(from).filter(|from| mesh.peers().with_id(from).is_some());
    let budget = known.map_or_else(|| "unregistered".to_owned(), |id| format!("http {id}"));
    mesh.peers().require_local(shortened(from).into())?;
    let sent = run_limited(mesh, &mail::SEND, Some(from), Some(budget), args, now)
        .map_err(|error| in_old_words(error, unknown))?;
    if to != "all" {
        return Ok(json!({ "ok": true, "messageId": sent["messageId"] }));
    }
    Ok(json!({ "ok": true, "messageIds": sent["messageIds"] }))
}

fn messages(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let id = fields.word("peerId").ok_or_else(|| no("peerId is required"))?;
    let (limit, from) = (fields.limit(20), fields.word("from"));
    if limit == 0 || from.is_some_and(|from| from.len() > RECIPIENT_BYTES_MAX) {
        return Ok(json!({ "ok": true, "messages": [] }));
    }
    let filter = if fields.text("filter").unwrap_or("unread") == "unread" { "unread" } else { "all" };
    let args = json!({
        "filter": filter, "from": from, "rows": limit, "newest": true, "markRead": true,
    });
    let names = ["id", "fromPeer", "toPeer", "type", "payload", "createdAt", "readAt", "delivered"];
    let rows = rows_of(run_locally(mesh, &mail::INBOX, id, args, now)?, "messages").into_iter().rev();
    let rows: Vec<Value> = rows.map(|row| without_zones(only_fields(row, &names), &["readAt"])).collect();
    Ok(json!({ "ok": true, "messages": rows }))
}

fn state(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let (namespace, key) = (fields.text("namespace"), fields.word("key"));
    match fields.word("action") {
        None => Err(no("action is required")),
        Some("get") => {
            let key = key.ok_or_else(|| no("key is required for get"))?;
            let args = json!({ "namespace": namespace, "key": key });
            let entry = run(mesh, &state_ops::GET, None, args, now)?["entry"].take();
            Ok(json!({ "ok": true, "entry": without_zones(entry, &["updatedAt"]) }))
        }
        Some("set") => {
            let (Some(key), Some(value), Some(by)) = (key, fields.text("value"), fields.word("peerId")) else {
                return Err(no("key, value, and peerId are required for set"));
            };
            let args = json!({ "namespace": namespace, "key": key, "value": value });
            let entry = run_locally(mesh, &state_ops::SET, by, args, now)?["entry"].take();
            Ok(json!({ "ok": true, "entry": without_zones(entry, &["updatedAt"]) }))
        }
        Some("list") => {
            let entries = run(mesh, &state_ops::LIST, None, json!({ "namespace": namespace }), now)?;
            let entries = rows_of(entries, "entries").into_iter().map(|entry| without_zones(entry, &["updatedAt"]));
            Ok(json!({ "ok": true, "entries": entries.collect::<Vec<_>>() }))
        }
        Some("delete") => {
            let key = key.ok_or_else(|| no("key is required for delete"))?;
            let by = fields.word("peerId").unwrap_or("cli");
            run(mesh, &state_ops::DELETE, Some(by), json!({ "namespace": namespace, "key": key }), now)?;
            Ok(json!({ "ok": true }))
        }
        Some(other) => Err(unknown_action(other)),
    }
}

fn lock(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let (file, holder) = (fields.word("filePath"), fields.short_id("peerId")?);
    if file.is_some_and(|file| file.len() > limits::PATH_MAX) {
        return Err(no(format!("filePath too long (max {} bytes)", limits::PATH_MAX)));
    }
    match fields.word("action") {
        None => Err(no("action is required")),
        Some("lock") => {
            let (Some(file), Some(holder)) = (file, holder) else {
                return Err(no("filePath and peerId are required for lock"));
            };
            take_lock(mesh, fields, file, holder, now)
        }
        Some("unlock") => {
            let (Some(file), Some(holder)) = (file, holder) else {
                return Err(no("filePath and peerId are required for unlock"));
            };
            let args = json!({ "filePath": absolute(mesh, file, Some(holder)) });
            run(mesh, &locks::UNLOCK, Some(holder), args, now)
                .map_err(|error| in_old_words(error, "Lock not found or not owned by you"))?;
            Ok(json!({ "ok": true }))
        }
        Some("query") => {
            let path = file.map(|file| absolute(mesh, file, holder));
            // In slm-mesh 1.x, a query finds only the lock on the path itself, but not locks on folders or patterns.
            let rows = all_rows(mesh, &locks::QUERY, holder, json!({ "exact": path }), "locks", now)?;
            Ok(json!({ "ok": true, "locks": rows }))
        }
        Some(other) => Err(unknown_action(other)),
    }
}

/// Makes a path absolute and normalises it. A relative path is relative to the project of the peer `holder`. If this
/// peer is unknown, a relative path stays relative.
fn absolute(mesh: &Mesh, file: &str, holder: Option<&str>) -> String {
    match holder.and_then(|holder| mesh.peers().with_id(holder)) {
        Some(peer) if !file.starts_with('/') && peer.row.project.starts_with('/') => {
            path_overlap::normal(&format!("{}/{file}", peer.row.project))
        }
        _ => path_overlap::normal(file),
    }
}

fn take_lock(mesh: &mut Mesh, fields: &Fields, file: &str, holder: &str, now: i64) -> RouteResult {
    // Clients of slm-mesh 1.x may send fractions of a minute. A lock lasts for at least a second and at most a day.
    let ttl_ms = fields.number("ttlMinutes").map(|minutes| ((minutes * 60_000.0) as i64).clamp(1000, limits::DAY_MS));
    let args = json!({
        "filePath": absolute(mesh, file, Some(holder)), "reason": fields.text("reason"), "ttlMs": ttl_ms, "renew": true,
    });
    let mut granted = run_locally(mesh, &locks::LOCK, holder, args, now).map_err(|error| match error.kind {
        ErrorKind::Held => held_in_old_words(&error, now),
        _ => error,
    })?;
    let mut lock = granted["lock"].take();
    // The response contains the path exactly as the client sent it.
    lock["filePath"] = json!(file);
    Ok(json!({ "ok": true, "lock": lock }))
}

/// Replaces the error of a request that a lock blocks.
fn held_in_old_words(error: &Error, now: i64) -> Error {
    let lock = &error.to_value()["lock"];
    let text = |name: &str| lock[name].as_str().unwrap_or("");
    let left = (time_format::parse(text("expiresAt")).unwrap_or(now) - now + 59_999) / 60_000;
    let reason = if text("reason").is_empty() { String::new() } else { format!(", reason: {}", text("reason")) };
    no(format!("File locked by {}{reason}. Expires in {left} minutes.", text("holder")))
}

fn events(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let types = fields.texts("types");
    match fields.word("action").unwrap_or("read") {
        "read" => {
            let limit = fields.limit(50);
            if limit == 0 {
                return Ok(json!({ "ok": true, "events": [] }));
            }
            let asked = types.unwrap_or_default();
            let possible = |kind: &&str| (1..=limits::WORD_MAX).contains(&kind.len());
            let types: Vec<&str> = asked.iter().copied().filter(possible).collect();
            if types.is_empty() && !asked.is_empty() {
                return Ok(json!({ "ok": true, "events": [] }));
            }
            let args = json!({ "types": types, "since": fields.word("since"), "rows": limit, "newest": true });
            let found = rows_of(run(mesh, &event_journal::READ, None, args, now)?, "events");
            let rows = found.into_iter().rev().map(|mut event| {
                // In the old format, the payload is a string that contains JSON.
                event["payload"] = json!(event["payload"].to_string());
                without_zones(event, &["createdAt"])
            });
            Ok(json!({ "ok": true, "events": rows.collect::<Vec<_>>() }))
        }
        "subscribe" => {
            let id = fields.short_id("peerId")?.ok_or_else(|| no("peerId is required for subscribe"))?;
            let types = types.ok_or_else(|| no("types array is required for subscribe"))?;
            let wanted: Vec<&str> = types.iter().copied().filter(|kind| !kind.is_empty()).collect();
            let op = if wanted.is_empty() { &event_journal::UNSUBSCRIBE } else { &event_journal::SUBSCRIBE };
            let args = if wanted.is_empty() { json!({}) } else { json!({ "types": wanted }) };
            run(mesh, op, Some(id), args, now)?;
            Ok(json!({ "ok": true, "subscribed": types }))
        }
        "unsubscribe" => {
            let id = fields.word("peerId").ok_or_else(|| no("peerId is required for unsubscribe"))?;
            run(mesh, &event_journal::UNSUBSCRIBE, Some(id), json!({}), now)
        }
        other => Err(unknown_action(other)),
    }
}

fn unknown_action(action: &str) -> Error {
    no(format!("Unknown action: {}", action.chars().take(60).collect::<String>()))
}

/// If the error says that something does not exist, replaces its text with the words that clients of slm-mesh 1.x
/// expect.
fn in_old_words(error: Error, words: &str) -> Error {
    if error.kind == ErrorKind::NotFound { no(words) } else { error }
}

/// Returns the rows of a list in the result of an operation.
fn rows_of(mut result: Value, name: &str) -> Vec<Value> {
    match result[name].take() {
        Value::Array(rows) => rows,
        _ => Vec::new(),
    }
}

/// Keeps only the fields `names`, in this order.
fn only_fields(mut row: Value, names: &[&str]) -> Value {
    Value::Object(names.iter().map(|name| ((*name).to_owned(), row[*name].take())).collect())
}

/// Formats the times in the fields `names` without a time zone, as clients of slm-mesh 1.x expect.
fn without_zones(mut row: Value, names: &[&str]) -> Value {
    for name in names {
        if let Some(iso) = row[*name].as_str() {
            row[*name] = json!(time_format::sqlite(iso));
        }
    }
    row
}

fn is_uuid(text: &str) -> bool {
    let shape =
        |(at, byte): (usize, u8)| if [8, 13, 18, 23].contains(&at) { byte == b'-' } else { byte.is_ascii_hexdigit() };
    text.len() == 36 && text.bytes().enumerate().all(shape)
}
