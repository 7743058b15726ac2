//! The HTTP routes of slm-mesh 1.x. Each route reads its fields, calls the rules of the mesh, and writes the response in
//! the old format.

use super::bounded_request_fields::{Fields, choices_of, max_of};
use super::{RouteResult, no};
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::PeerId;
use crate::base::stored_enums::{LockOwner, MessageType, PeerKind};
use crate::base::{limits, path_overlap, time_format};
use crate::core::locks::lock_view;
use crate::core::locks::request_conflicts::{LockRequest, Repository};
use crate::core::peers::Peer;
use crate::core::peers::sessions::ATTACH;
use crate::core::shared_key_value_entries::NewEntry;
use crate::core::{
    CallContext, Mesh, Op, Outcome, event_journal, locks, mail, object, peers as peer_ops,
    shared_key_value_entries as state_ops, status,
};
use crate::store::{LockRow, Message, MessageFilter, PeerRow};
use serde_json::{Value, json};

/// The agent types, under the names that clients of slm-mesh 1.x use.
const AGENT_TYPES: &[&str] = &["claude-code", "cursor", "aider", "codex", "windsurf", "vscode", "unknown"];

/// A route. It takes the mesh, the fields of the request, and the current time in ms.
type LegacyRoute = fn(&mut Mesh, &Fields, i64) -> RouteResult;

/// Returns the route for a method and a path.
pub fn find(route: (&str, &str)) -> Option<LegacyRoute> {
    Some(match route {
        ("GET", "/status") => |mesh, _, now| run_operation(mesh, &status::STATUS, json!({}), now),
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
    let registered = || mesh.peers().get(fields.text("excludeId")?).map(|peer| peer.row.project.clone());
    fields.text("projectPath").map(str::to_owned).or_else(registered)
}

/// Runs an operation that needs no caller.
fn run_operation(mesh: &mut Mesh, op: &'static Op, params: Value, now: i64) -> RouteResult {
    let args = op.check(object(params))?;
    let context = CallContext {
        conn: 0,
        actor: None,
        is_announced: false,
        now,
        until: None,
        cursor: None,
        deadline_reached: true,
        id: Value::Null,
        ancestors: Vec::new(),
    };
    match (op.run)(mesh, &context, &args)? {
        Outcome::Ready(value) => Ok(value),
        Outcome::Refused(error) => Err(error),
        Outcome::Pending(..) => Err(Error::new(ErrorKind::Internal, format!("{} waited over HTTP", op.name))),
    }
}

fn register(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let (Some(project), Some(pid)) = (fields.word("projectPath"), fields.number("pid")) else {
        return Err(no("projectPath and pid are required"));
    };
    fields.bounded("projectPath", &ATTACH, "project")?;
    let agent = fields.text("agentType").unwrap_or("unknown");
    if !AGENT_TYPES.contains(&agent) {
        return Err(no(format!("agentType: expected one of {}", AGENT_TYPES.join(", "))));
    }
    let row = PeerRow {
        name: fields.bounded("name", &ATTACH, "name")?.unwrap_or_else(|| "auto".into()),
        agent: agent.into(),
        project: project.to_owned(),
        git_root: fields.bounded("gitRoot", &ATTACH, "gitRoot")?,
        git_branch: fields.bounded("gitBranch", &ATTACH, "gitBranch")?,
        repo: fields.repository.clone(),
        pid: pid as i64,
        kind: PeerKind::Http { push_socket: fields.bounded_word("udsPath", &ATTACH, "project")? },
        ..PeerRow::default()
    };
    let row = mesh.register(row, now)?;
    Ok(json!({ "ok": true, "peerId": row.id.as_str(), "name": row.name }))
}

fn unregister(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let id = fields.word("peerId").ok_or_else(|| no("peerId is required"))?;
    mesh.unregister(id, "clean_exit", now)?;
    Ok(json!({ "ok": true }))
}

fn heartbeat(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let id = fields.word("peerId").ok_or_else(|| no("peerId is required"))?;
    if mesh.heartbeat(id, now) { Ok(json!({ "ok": true })) } else { Err(no("Peer not found")) }
}

fn peers(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let excluded = fields.text("excludeId");
    let project = own_project(mesh, fields);
    let root = fields.text("gitRoot").map(str::to_owned);
    // Clients of slm-mesh 1.x never send gitRoot. For them, the scope `repo` means the repository of their own
    // directory.
    let repo = fields.repository.clone();
    let scope = fields.text("scope").unwrap_or("machine");
    let fits = |row: &PeerRow| match scope {
        "directory" => {
            project.as_ref().is_none_or(|dir| path_overlap::normal(dir) == path_overlap::normal(&row.project))
        }
        "repo" if root.is_some() => row.git_root == root,
        "repo" => repo.is_none() || row.repo == repo,
        _ => true,
    };
    let settings = mesh.settings().clone();
    let is_listed = |peer: &&Peer| {
        peer.status(&settings, now) == "active" && excluded != Some(peer.row.id.as_str()) && fits(&peer.row)
    };
    let listed = mesh.peers().all().iter().filter(is_listed);
    let listed: Vec<PeerId> = listed.map(|peer| peer.row.id.clone()).collect();
    let mut rows = Vec::with_capacity(listed.len());
    for id in &listed {
        rows.extend(mesh.peer_view(id, now)?.map(|row| without_zones(row, &["startedAt", "lastHeartbeat"])));
    }
    Ok(json!({ "ok": true, "peers": rows }))
}

fn summary(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let (Some(id), Some(summary)) = (fields.word("peerId"), fields.text("summary")) else {
        return Err(no("peerId and summary are required"));
    };
    if summary.encode_utf16().count() > max_of(&peer_ops::SUMMARY, "summary") {
        return Err(no("Summary too long (max 2500 characters)"));
    }
    if mesh.peers().get(id).is_none() {
        return Err(no("Peer not found"));
    }
    mesh.set_summary(&mesh.peers().require_local(id.into())?, summary, now)?;
    Ok(json!({ "ok": true }))
}

fn send(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let (Some(from), Some(to), Some(payload)) =
        (fields.word("fromPeer"), fields.word("toPeer"), fields.word("payload"))
    else {
        return Err(no("fromPeer, toPeer, and payload are required"));
    };
    if payload.len() > max_of(&mail::SEND, "message") {
        return Err(no("Payload too large (max 65536 bytes)"));
    }
    let kind = fields.text("type").unwrap_or("text");
    let kinds = choices_of(&mail::SEND, "type");
    if !kinds.contains(&kind) {
        return Err(no(format!("type: expected one of {}", kinds.join(", "))));
    }
    // All unregistered senders share one rate limit, so a client gains nothing by inventing senders. A registered
    // sender has one limit for HTTP, and another for calls over its session's socket.
    let is_known = mesh.peers().get(from).is_some();
    let budget = if is_known { format!("http {from}") } else { "unregistered".into() };
    mesh.charge(&budget, 10, now)?;
    let from = mesh.peers().require_local(shortened(from))?;
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
    let to = if to == "cli" { mesh.peers().human().clone() } else { to.into() };
    if mesh.peers().get(&to).is_none() {
        return Err(no("Peer not found or inactive"));
    }
    let sent = mesh.post(draft, &[to], now)?;
    Ok(json!({ "ok": true, "messageId": mesh.ids().message(sent[0].seq) }))
}

/// Cuts a sender's id to the maximum length that is stored. Clients of slm-mesh 1.x may send any text as an id.
fn shortened(id: &str) -> PeerId {
    id.chars().take(limits::WORD_MAX).collect::<String>().into()
}

fn messages(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let id = fields.word("peerId").ok_or_else(|| no("peerId is required"))?;
    let id = mesh.peers().require_local(id.into())?;
    let pick = MessageFilter {
        group: None,
        direct: false,
        not_begun: false,
        to: Some(&id),
        from: fields.word("from"),
        unread: fields.text("filter").unwrap_or("unread") == "unread",
        kind: None,
        after: 0,
        newest: true,
        limit: fields.limit(20),
        bytes: limits::ROWS_BYTES_MAX,
    };
    let rows = mesh.fetch_messages(&pick, now)?;
    let rows: Vec<Value> = rows.into_iter().map(|row| without_zones(row, &["readAt"])).collect();
    Ok(json!({ "ok": true, "messages": rows }))
}

fn state(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let namespace = fields.bounded("namespace", &state_ops::SET, "namespace")?.unwrap_or_else(|| "default".into());
    let key = fields.bounded_word("key", &state_ops::SET, "key")?;
    match fields.word("action") {
        None => Err(no("action is required")),
        Some("get") => {
            let key = key.ok_or_else(|| no("key is required for get"))?;
            let entry = mesh.entry(&namespace, &key, now)?;
            Ok(json!({ "ok": true, "entry": entry.map(|entry| without_zones(entry, &["updatedAt"])) }))
        }
        Some("set") => {
            let (Some(key), Some(value), Some(by)) = (key, fields.text("value"), fields.word("peerId")) else {
                return Err(no("key, value, and peerId are required for set"));
            };
            fields.bounded("value", &state_ops::SET, "value")?;
            let by = mesh.peers().require_local(shortened(by))?;
            let new = NewEntry { namespace: &namespace, key: &key, value, expires: None };
            let entry = mesh.set_entry(&new, None, &by, now)?;
            Ok(json!({ "ok": true, "entry": without_zones(mesh.entry_view(&entry), &["updatedAt"]) }))
        }
        Some("list") => {
            let entries = mesh.entries(&namespace, now)?;
            let entries: Vec<Value> = entries.into_iter().map(|entry| without_zones(entry, &["updatedAt"])).collect();
            Ok(json!({ "ok": true, "entries": entries }))
        }
        Some("delete") => {
            let key = key.ok_or_else(|| no("key is required for delete"))?;
            mesh.delete_entry(&namespace, &key, None, fields.word("peerId").unwrap_or("cli"), now)?;
            Ok(json!({ "ok": true }))
        }
        Some(other) => Err(unknown_action(other)),
    }
}

fn lock(mesh: &mut Mesh, fields: &Fields, now: i64) -> RouteResult {
    let file = fields.bounded_word("filePath", &locks::LOCK, "filePath")?;
    let holder = fields.bounded_word("peerId", &ATTACH, "id")?;
    match fields.word("action") {
        None => Err(no("action is required")),
        Some("lock") => {
            let (Some(file), Some(holder)) = (file, holder) else {
                return Err(no("filePath and peerId are required for lock"));
            };
            take_lock(mesh, fields, &file, &mesh.peers().require_local(holder.into())?, now)
        }
        Some("unlock") => {
            let (Some(file), Some(holder)) = (file, holder) else {
                return Err(no("filePath and peerId are required for unlock"));
            };
            let freed = mesh.release_path(&absolute(mesh, &file, &holder), &holder, now)?;
            if freed { Ok(json!({ "ok": true })) } else { Err(no("Lock not found or not owned by you")) }
        }
        Some("query") => {
            let path = file.map(|file| absolute(mesh, &file, holder.as_deref().unwrap_or("")));
            let fits = |lock: &&LockRow| {
                path.as_ref().is_none_or(|path| {
                    lock.path == *path || !path.starts_with('/') && lock.path.ends_with(&format!("/{path}"))
                })
            };
            let rows: Vec<Value> =
                mesh.locks().all().filter(fits).map(|lock| lock_view(mesh.peers(), lock, now)).collect();
            Ok(json!({ "ok": true, "locks": rows }))
        }
        Some(other) => Err(unknown_action(other)),
    }
}

/// Makes a path absolute and normalises it. A relative path is relative to the project of the peer `holder`. If this
/// peer is unknown, a relative path stays relative.
fn absolute(mesh: &Mesh, file: &str, holder: &str) -> String {
    match mesh.peers().get(holder) {
        Some(peer) if !file.starts_with('/') && peer.row.project.starts_with('/') => {
            path_overlap::normal(&format!("{}/{file}", peer.row.project))
        }
        _ => path_overlap::normal(file),
    }
}

fn take_lock(mesh: &mut Mesh, fields: &Fields, file: &str, holder: &str, now: i64) -> RouteResult {
    let minutes = fields.number("ttlMinutes").unwrap_or(mesh.settings().lock_ttl_min as f64);
    let row = mesh.peers().get(holder).map(|peer| peer.row.clone()).unwrap_or_default();
    let want = LockRequest {
        paths: vec![absolute(mesh, file, holder)],
        holder: holder.into(),
        owner: LockOwner::Peer,
        reason: fields.bounded("reason", &locks::LOCK, "reason")?.unwrap_or_default(),
        // Clients of slm-mesh 1.x may send fractions of a minute. A lock lasts for at least a second and at most a day.
        ttl_ms: ((minutes * 60_000.0) as i64).clamp(1000, limits::DAY_MS),
        trees: Repository::new(row.repo, row.git_root).into_iter().collect(),
        host: mesh.settings().host.clone(),
        all_worktrees: false,
        renew: true,
        has_unclear_caller: false,
        outer_commands: Vec::new(),
    };
    if let Some(lock) = mesh.locks().conflicts(mesh.peers(), &want).first() {
        let (name, left) = (mesh.peers().name_of(&lock.holder), (lock.expires - now + 59_999) / 60_000);
        let reason = if lock.reason.is_empty() { String::new() } else { format!(", reason: {}", lock.reason) };
        return Err(no(format!("File locked by {name}{reason}. Expires in {left} minutes.")));
    }
    let grants = mesh.grant(&want, now)?;
    let mut value = lock_view(mesh.peers(), &grants[0], now);
    // The response contains the path exactly as the client sent it.
    value["filePath"] = json!(file);
    Ok(json!({ "ok": true, "lock": value }))
}

fn events(mesh: &mut Mesh, fields: &Fields, _now: i64) -> RouteResult {
    match fields.word("action").unwrap_or("read") {
        "read" => {
            let types = fields.texts("types").filter(|types| !types.contains(&"*")).unwrap_or_default();
            let since = fields.word("since").map(|text| {
                time_format::parse(text).ok_or_else(|| no("since: expected a time such as 2026-11-22T06:43:36Z"))
            });
            let found = mesh.latest_events(&types, since.transpose()?, fields.limit(50))?;
            let rows = found.into_iter().map(|mut event| {
                // In the old format, the payload is a string that contains JSON.
                event["payload"] = json!(event["payload"].to_string());
                without_zones(event, &["createdAt"])
            });
            Ok(json!({ "ok": true, "events": rows.collect::<Vec<_>>() }))
        }
        "subscribe" => {
            let id = fields.bounded_word("peerId", &ATTACH, "id")?;
            let id = id.ok_or_else(|| no("peerId is required for subscribe"))?;
            let types = fields.texts("types").ok_or_else(|| no("types array is required for subscribe"))?;
            let max = max_of(&event_journal::SUBSCRIBE, "types");
            if types.iter().any(|kind| kind.len() > max) {
                return Err(no(format!("types: an event type is too long (max {max} bytes)")));
            }
            // Only known peers receive pushes, so the subscription of an unknown peer would only use up memory.
            if mesh.peers().get(&id).is_some() {
                mesh.subscribe_peer(&id, types.iter().map(|kind| (*kind).to_owned()).collect());
            }
            Ok(json!({ "ok": true, "subscribed": types }))
        }
        "unsubscribe" => {
            let id = fields.word("peerId").ok_or_else(|| no("peerId is required for unsubscribe"))?;
            mesh.subscribe_peer(id, Vec::new());
            Ok(json!({ "ok": true }))
        }
        other => Err(unknown_action(other)),
    }
}

fn unknown_action(action: &str) -> Error {
    no(format!("Unknown action: {}", action.chars().take(60).collect::<String>()))
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
