//! The twelve HTTP routes of slm-mesh 1.x, frozen: keys, key order, string ids, texts that clients
//! match. Keys may be added, nothing is renamed.
//!
//! **Invariant:** the old shapes end here; the mesh behind knows nothing of them.

use super::http::{Answer, Gate, Head, Request};
use crate::base::error::{Error, ErrorKind};
use crate::base::ids::PeerId;
use crate::base::kinds::{LockOwner, MessageType, PeerKind};
use crate::base::{limits, paths, time};
use crate::core::locks::lock_view;
use crate::core::locks::request::{LockRequest, Repository};
use crate::core::state::NewEntry;
use crate::core::{Mesh, peers};
use crate::store::{LockRow, Message, MessageFilter, PeerRow};
use crate::sys::git;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use subtle::ConstantTimeEq;

/// Agent types as old clients name them.
const AGENTS: &[&str] = &["claude-code", "cursor", "aider", "codex", "windsurf", "vscode", "unknown"];

/// What a handler answers: a body, or a sentence that goes out with 200 and `ok: false`.
type Handled = Result<Value, Error>;

/// Lets through who brings the token, or the secret if there is one, and talks to this machine by its
/// address or its own name (which `hub` tells, if it is one): a page of another origin, or one that rebinds a name of its own to our
/// address, gets no further.
pub fn gate(token: String, secret: Option<String>, hub: Option<String>) -> Gate {
    let knows = bearer(token, secret);
    Box::new(move |head: &Head| {
        let host = head.host.as_deref().map_or("localhost", without_port);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        // Others call a hub by its name, or by an address: that can't be rebound.
        let is_hub = |name: &String| {
            bare.parse::<IpAddr>().is_ok() || bare.trim_end_matches(".local").eq_ignore_ascii_case(name)
        };
        let is_ours = ["127.0.0.1", "localhost", "::1"].contains(&bare) || hub.as_ref().is_some_and(is_hub);
        if !is_ours || head.origin.is_some() {
            return Some(refuse(403, "this address serves programs on this machine, not pages of other origins"));
        }
        if head.target == "/health" && head.method == "GET" {
            return None;
        }
        let bearer = head.authorization.as_deref().and_then(|given| given.strip_prefix("Bearer "));
        let fits = [bearer, head.mesh_secret.as_deref()].into_iter().flatten().filter(|given| knows(given)).count() > 0;
        (!fits).then(|| refuse(401, "Unauthorized — invalid or missing bearer token"))
    })
}

/// Compares what a client brings with the token, and with the secret if there is one.
pub fn bearer(token: String, secret: Option<String>) -> impl Fn(&str) -> bool + Send + Sync {
    let wanted: Vec<String> = [Some(token), secret].into_iter().flatten().collect();
    // All are compared, and each in constant time: how long it takes tells nothing.
    move |given| wanted.iter().fold(0, |n, want| n | given.as_bytes().ct_eq(want.as_bytes()).unwrap_u8()) == 1
}

fn without_port(host: &str) -> &str {
    let name = match host.find(']') {
        Some(end) if host.starts_with('[') => host.get(..=end),
        _ => host.split(':').next(),
    };
    name.unwrap_or(host)
}

/// Answers one request.
pub fn answer(mesh: &mut Mesh, request: &Request, now: i64) -> Answer {
    let route = (request.head.method.as_str(), request.head.target.as_str());
    if route == ("GET", "/health") {
        // Nobody asked who this is: another machine learns that something answers, and no more.
        if !request.head.peer.is_loopback() {
            return body(200, &json!({ "status": "ok" }));
        }
        let uptime = (now - mesh.started()) / 1000;
        return body(200, &json!({ "status": "ok", "version": mesh.settings().version, "uptime": uptime }));
    }
    let (own, of_slm) = (handler(route), super::superlocalmemory::handler(route.0, route.1));
    if own.is_none() && of_slm.is_none() {
        return refuse(404, "Unknown endpoint");
    }
    let given = match request.body.as_slice() {
        b"" => Map::new(),
        bytes => match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => map,
            _ => return refuse(400, "Invalid JSON in request body"),
        },
    };
    if let Some(handler) = of_slm {
        return super::superlocalmemory::answer(mesh.in_savepoint(|mesh| handler(mesh, &request.head, &given, now)));
    }
    let given = Given(given);
    match mesh
        .in_savepoint(|mesh| own.map_or_else(|| Err(no("Unknown endpoint")), |handler| handler(mesh, &given, now)))
    {
        Ok(value) => body(200, &value),
        Err(error) if error.kind == ErrorKind::Limited => {
            refuse(429, "Rate limit exceeded (max 100 requests per 10 seconds)")
        }
        Err(error) if error.kind == ErrorKind::Storage => refuse(507, &error.text),
        Err(error) => body(200, &error.to_value()),
    }
}

fn handler(route: (&str, &str)) -> Option<fn(&mut Mesh, &Given, i64) -> Handled> {
    Some(match route {
        ("GET", "/status") => |mesh, _, now| mesh.status(now),
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

/// The answer when a handler had a bug.
pub fn internal() -> Answer {
    refuse(500, "Internal server error")
}

/// The answer when the disk did not take the turn.
pub fn not_stored() -> Answer {
    refuse(507, "the disk could not store this; free some space and try again")
}

fn refuse(status: u16, text: &str) -> Answer {
    body(status, &json!({ "ok": false, "error": text }))
}

fn body(status: u16, value: &Value) -> Answer {
    Answer::json(status, value.to_string().into_bytes())
}

/// A sentence that clients know by heart.
fn no(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Refused, text)
}

/// A request's fields. One of the wrong type counts as absent; unknown ones are ignored.
struct Given(Map<String, Value>);

impl Given {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }
    /// A text of at least one character.
    fn word(&self, name: &str) -> Option<&str> {
        self.text(name).filter(|text| !text.is_empty())
    }
    fn number(&self, name: &str) -> Option<f64> {
        self.0.get(name).and_then(Value::as_f64)
    }
    fn texts(&self, name: &str) -> Option<Vec<&str>> {
        let list = self.0.get(name).and_then(Value::as_array)?;
        Some(list.iter().take(limits::LIST_MAX).filter_map(Value::as_str).collect())
    }
    /// A row limit; negative means all, which is a bound of ours.
    fn limit(&self, default: i64) -> i64 {
        let n = self.number("limit").map_or(default, |n| n as i64);
        if n < 0 { limits::ROWS_MAX } else { n.min(limits::ROWS_MAX) }
    }
    /// A text that is at most so long, else a sentence.
    fn bounded(&self, name: &str, max: usize) -> Result<Option<String>, Error> {
        match self.text(name) {
            Some(text) if text.len() > max => Err(no(format!("{name} too long (max {max} bytes)"))),
            text => Ok(text.map(str::to_owned)),
        }
    }
}

fn register(mesh: &mut Mesh, given: &Given, now: i64) -> Handled {
    let (Some(project), Some(pid)) = (given.word("projectPath"), given.number("pid")) else {
        return Err(no("projectPath and pid are required"));
    };
    if project.len() > limits::PATH_MAX {
        return Err(no(format!("projectPath too long (max {} bytes)", limits::PATH_MAX)));
    }
    let agent = given.text("agentType").unwrap_or("unknown");
    if !AGENTS.contains(&agent) {
        return Err(no(format!("agentType: want one of {}", AGENTS.join(", "))));
    }
    let git = git::facts(std::path::Path::new(project));
    let row = PeerRow {
        name: given.bounded("name", limits::WORD_MAX)?.unwrap_or_else(|| "auto".into()),
        agent: agent.into(),
        project: project.to_owned(),
        git_root: given.bounded("gitRoot", limits::PATH_MAX)?,
        git_branch: given.bounded("gitBranch", limits::PATH_MAX)?,
        repo: git.repo,
        pid: pid as i64,
        kind: PeerKind::Http {
            push_socket: given.bounded("udsPath", limits::PATH_MAX)?.filter(|path| !path.is_empty()),
        },
        ..PeerRow::default()
    };
    let row = mesh.register(row, now)?;
    Ok(json!({ "ok": true, "peerId": row.id.as_str(), "name": row.name }))
}

fn unregister(mesh: &mut Mesh, given: &Given, now: i64) -> Handled {
    let id = given.word("peerId").ok_or_else(|| no("peerId is required"))?;
    mesh.unregister(id, "clean_exit", now)?;
    Ok(json!({ "ok": true }))
}

fn heartbeat(mesh: &mut Mesh, given: &Given, now: i64) -> Handled {
    let id = given.word("peerId").ok_or_else(|| no("peerId is required"))?;
    if mesh.heartbeat(id, now) { Ok(json!({ "ok": true })) } else { Err(no("Peer not found")) }
}

fn peers(mesh: &mut Mesh, given: &Given, now: i64) -> Handled {
    let excluded = given.text("excludeId");
    let own = excluded.and_then(|id| mesh.peers().get(id)).map(|peer| peer.row.clone());
    let project = given.text("projectPath").map(str::to_owned).or_else(|| own.as_ref().map(|own| own.project.clone()));
    let root = given.text("gitRoot").map(str::to_owned);
    // Old sessions never send gitRoot: then the repository of their directory is meant.
    let repo = || project.as_deref().and_then(|dir| git::facts(std::path::Path::new(dir)).repo);
    let scope = given.text("scope").unwrap_or("machine");
    let repo = if scope == "repo" && root.is_none() { repo() } else { None };
    let fits = |row: &PeerRow| match scope {
        "directory" => project.as_ref().is_none_or(|dir| paths::normal(dir) == paths::normal(&row.project)),
        "repo" if root.is_some() => row.git_root == root,
        "repo" => repo.is_none() || row.repo == repo,
        _ => true,
    };
    let settings = mesh.settings().clone();
    let listed = |peer: &&peers::Peer| {
        peer.status(&settings, now) == "active" && excluded != Some(peer.row.id.as_str()) && fits(&peer.row)
    };
    let found: Vec<PeerId> = mesh.peers().all().iter().filter(listed).map(|peer| peer.row.id.clone()).collect();
    let mut rows = Vec::with_capacity(found.len());
    for id in &found {
        rows.extend(mesh.peer_view(id, now)?.map(|row| old_times(row, &["startedAt", "lastHeartbeat"])));
    }
    Ok(json!({ "ok": true, "peers": rows }))
}

fn summary(mesh: &mut Mesh, given: &Given, now: i64) -> Handled {
    let (Some(id), Some(summary)) = (given.word("peerId"), given.text("summary")) else {
        return Err(no("peerId and summary are required"));
    };
    if summary.encode_utf16().count() > limits::SUMMARY_MAX {
        return Err(no("Summary too long (max 2500 characters)"));
    }
    if mesh.peers().get(id).is_none() {
        return Err(no("Peer not found"));
    }
    mesh.set_summary(&mesh.peers().require_local(id.into())?, summary, now)?;
    Ok(json!({ "ok": true }))
}

fn send(mesh: &mut Mesh, given: &Given, now: i64) -> Handled {
    let (Some(from), Some(to), Some(payload)) = (given.word("fromPeer"), given.word("toPeer"), given.word("payload"))
    else {
        return Err(no("fromPeer, toPeer, and payload are required"));
    };
    if payload.len() > limits::PAYLOAD_MAX {
        return Err(no("Payload too large (max 65536 bytes)"));
    }
    let kind = given.text("type").unwrap_or("text");
    if !MessageType::WORDS.contains(&kind) {
        return Err(no(format!("type: want one of {}", MessageType::WORDS.join(", "))));
    }
    // Inventing senders gains nothing: all that are not registered share one budget.
    let known = mesh.peers().get(from).is_some();
    // Nor does claiming to be a session: what that sends over its own socket counts for itself.
    let budget = if known { format!("http {from}") } else { "unregistered".into() };
    mesh.charge(&budget, 10, now)?;
    let from = mesh.peers().require_local(from.chars().take(limits::WORD_MAX).collect::<String>().into())?;
    let kind = MessageType::from_word(kind).unwrap_or_default();
    let draft = Message { sender: from.clone(), kind, body: payload.into(), ..Message::default() };
    if to == "all" {
        let here = mesh.peers().all().iter().filter(|peer| peer.is_online() && peer.row.id != from);
        let recipients: Vec<PeerId> = here.map(|peer| peer.row.id.clone()).collect();
        let sent = mesh.post(Message { group: Some("all".into()), ..draft }, &recipients, now)?;
        let ids: Vec<String> = sent.iter().map(|message| mesh.ids().message(message.seq)).collect();
        return Ok(json!({ "ok": true, "messageIds": ids }));
    }
    if !is_uuid(to) && to != "cli" && mesh.peers().get(to).is_none() {
        return Err(no("Invalid peer ID format"));
    }
    let to = if to == "cli" { mesh.peers().resolve(to)? } else { to.into() };
    if mesh.peers().get(&to).is_none() {
        return Err(no("Peer not found or inactive"));
    }
    let sent = mesh.post(draft, &[to], now)?;
    Ok(json!({ "ok": true, "messageId": mesh.ids().message(sent[0].seq) }))
}

fn messages(mesh: &mut Mesh, given: &Given, now: i64) -> Handled {
    let id = given.word("peerId").ok_or_else(|| no("peerId is required"))?;
    let id = mesh.peers().require_local(id.into())?;
    let pick = MessageFilter {
        direct: false,
        to: Some(&id),
        from: given.word("from"),
        unread: given.text("filter").unwrap_or("unread") == "unread",
        after: 0,
        newest: true,
        limit: given.limit(20),
        bytes: limits::ROWS_BYTES_MAX,
    };
    let rows = mesh.fetch_messages(&pick, now)?;
    let rows: Vec<Value> = rows.into_iter().map(|row| old_times(row, &["readAt"])).collect();
    Ok(json!({ "ok": true, "messages": rows }))
}

fn state(mesh: &mut Mesh, given: &Given, now: i64) -> Handled {
    let namespace = given.bounded("namespace", limits::WORD_MAX)?.unwrap_or_else(|| "default".into());
    let key = given.bounded("key", limits::KEY_MAX)?.filter(|key| !key.is_empty());
    match given.word("action") {
        None => Err(no("action is required")),
        Some("get") => {
            let key = key.ok_or_else(|| no("key is required for get"))?;
            let entry = mesh.entry(&namespace, &key, now)?;
            Ok(json!({ "ok": true, "entry": entry.map(|entry| old_times(entry, &["updatedAt"])) }))
        }
        Some("set") => {
            let (Some(key), Some(value), Some(by)) = (key, given.text("value"), given.word("peerId")) else {
                return Err(no("key, value, and peerId are required for set"));
            };
            if value.len() > limits::VALUE_MAX {
                return Err(no(format!("value too long (max {} bytes)", limits::VALUE_MAX)));
            }
            let by = mesh.peers().require_local(by.chars().take(limits::WORD_MAX).collect::<String>().into())?;
            let entry =
                mesh.set_entry(&NewEntry { namespace: &namespace, key: &key, value, expires: None }, None, &by, now)?;
            Ok(json!({ "ok": true, "entry": old_times(mesh.entry_view(&entry), &["updatedAt"]) }))
        }
        Some("list") => {
            let entries = mesh.entries(&namespace, now)?;
            let entries: Vec<Value> = entries.into_iter().map(|entry| old_times(entry, &["updatedAt"])).collect();
            Ok(json!({ "ok": true, "entries": entries }))
        }
        Some("delete") => {
            let key = key.ok_or_else(|| no("key is required for delete"))?;
            mesh.delete_entry(&namespace, &key, None, given.word("peerId").unwrap_or("cli"), now)?;
            Ok(json!({ "ok": true }))
        }
        Some(other) => Err(unknown(other)),
    }
}

fn lock(mesh: &mut Mesh, given: &Given, now: i64) -> Handled {
    let file = given.bounded("filePath", limits::PATH_MAX)?.filter(|path| !path.is_empty());
    let holder = given.bounded("peerId", limits::WORD_MAX)?.filter(|id| !id.is_empty());
    match given.word("action") {
        None => Err(no("action is required")),
        Some("lock") => {
            let (Some(file), Some(holder)) = (file, holder) else {
                return Err(no("filePath and peerId are required for lock"));
            };
            take_lock(mesh, given, &file, &mesh.peers().require_local(holder.into())?, now)
        }
        Some("unlock") => {
            let (Some(file), Some(holder)) = (file, holder) else {
                return Err(no("filePath and peerId are required for unlock"));
            };
            let freed = mesh.release_path(&absolute(mesh, &file, &holder), &holder, now)?;
            if freed { Ok(json!({ "ok": true })) } else { Err(no("Lock not found or not owned by you")) }
        }
        Some("query") => {
            let path = file.map(|file| paths::normal(&file));
            let fits = |lock: &&LockRow| {
                path.as_ref().is_none_or(|path| {
                    lock.path == *path || !path.starts_with('/') && lock.path.ends_with(&format!("/{path}"))
                })
            };
            let rows: Vec<Value> =
                mesh.locks().all().iter().filter(fits).map(|lock| lock_view(mesh.peers(), lock, now)).collect();
            Ok(json!({ "ok": true, "locks": rows }))
        }
        Some(other) => Err(unknown(other)),
    }
}

/// A relative path lies in its peer's project; one of an unknown peer stays as it is.
fn absolute(mesh: &Mesh, file: &str, holder: &str) -> String {
    match mesh.peers().get(holder) {
        Some(peer) if !file.starts_with('/') && peer.row.project.starts_with('/') => {
            paths::normal(&format!("{}/{file}", peer.row.project))
        }
        _ => paths::normal(file),
    }
}

fn take_lock(mesh: &mut Mesh, given: &Given, file: &str, holder: &str, now: i64) -> Handled {
    let minutes = given.number("ttlMinutes").unwrap_or(mesh.settings().lock_ttl_min as f64);
    let row = mesh.peers().get(holder).map(|peer| peer.row.clone()).unwrap_or_default();
    let want = LockRequest {
        paths: vec![absolute(mesh, file, holder)],
        holder: holder.into(),
        owner: LockOwner::Peer,
        reason: given.bounded("reason", limits::REASON_MAX)?.unwrap_or_default(),
        // Fractions were always taken; none below a second or above a day does anybody good.
        ttl_ms: ((minutes * 60_000.0) as i64).clamp(1000, limits::DAY_MS),
        repo: Repository::new(row.repo, row.git_root),
        host: mesh.settings().host.clone(),
        all_worktrees: false,
        renew: true,
    };
    if let Some(lock) = mesh.locks().conflicts(mesh.peers(), &want).first() {
        let (name, left) = (mesh.peers().name_of(&lock.holder), (lock.expires - now + 59_999) / 60_000);
        let reason = if lock.reason.is_empty() { String::new() } else { format!(", reason: {}", lock.reason) };
        return Err(no(format!("File locked by {name}{reason}. Expires in {left} minutes.")));
    }
    let grants = mesh.grant(&want, now)?;
    let mut value = lock_view(mesh.peers(), &grants[0], now);
    // Its own words come back: what was meant by them is the mesh's business.
    value["filePath"] = json!(file);
    Ok(json!({ "ok": true, "lock": value }))
}

fn events(mesh: &mut Mesh, given: &Given, _now: i64) -> Handled {
    match given.word("action").unwrap_or("read") {
        "read" => {
            let types = given.texts("types").filter(|types| !types.contains(&"*")).unwrap_or_default();
            let since = given
                .word("since")
                .map(|text| time::parse(text).ok_or_else(|| no("since: want a time as 2026-11-22T06:43:36Z")));
            let found = mesh.latest_events(&types, since.transpose()?, given.limit(50))?;
            let rows = found.into_iter().map(|mut event| {
                // The old payload is a string that holds JSON.
                event["payload"] = json!(event["payload"].to_string());
                old_times(event, &["createdAt"])
            });
            Ok(json!({ "ok": true, "events": rows.collect::<Vec<_>>() }))
        }
        "subscribe" => {
            let id = given.bounded("peerId", limits::WORD_MAX)?.filter(|id| !id.is_empty());
            let id = id.ok_or_else(|| no("peerId is required for subscribe"))?;
            let types = given.texts("types").ok_or_else(|| no("types array is required for subscribe"))?;
            if types.iter().any(|kind| kind.len() > limits::WORD_MAX) {
                return Err(no(format!("types: one is too long (max {} bytes)", limits::WORD_MAX)));
            }
            // Nobody else is ever pushed to; their subscriptions would only take the place of others.
            if mesh.peers().get(&id).is_some() {
                mesh.subscribe_peer(&id, types.iter().map(|kind| (*kind).to_owned()).collect());
            }
            Ok(json!({ "ok": true, "subscribed": types }))
        }
        "unsubscribe" => {
            let id = given.word("peerId").ok_or_else(|| no("peerId is required for unsubscribe"))?;
            mesh.subscribe_peer(id, Vec::new());
            Ok(json!({ "ok": true }))
        }
        other => Err(unknown(other)),
    }
}

fn unknown(action: &str) -> Error {
    no(format!("Unknown action: {}", action.chars().take(60).collect::<String>()))
}

/// These fields go out in the form without a zone, as they always did.
fn old_times(mut row: Value, names: &[&str]) -> Value {
    for name in names {
        if let Some(iso) = row[*name].as_str() {
            row[*name] = json!(time::sqlite(iso));
        }
    }
    row
}

fn is_uuid(text: &str) -> bool {
    let shape =
        |(at, byte): (usize, u8)| if [8, 13, 18, 23].contains(&at) { byte == b'-' } else { byte.is_ascii_hexdigit() };
    text.len() == 36 && text.bytes().enumerate().all(shape)
}
