//! The HTTP routes for linked meshes. A SuperLocalMemory daemon (version 3.4.48) calls `/mesh/peers`, `/mesh/send` and
//! `/mesh/status`.
//!
//! A linked broker calls the same routes. Each reply to its polls contains marks (version numbers of what this mesh
//! reports). The linked broker sends the marks back with its next poll, which waits until something changes. At
//! `/mesh/receipts`, the linked broker asks whether its messages were read.
//!
//! **Invariant:** these routes list only peers of this mesh and write only to them, never to peers of linked meshes. So
//! linked meshes do not echo or relay anything, even in a ring.

use super::http::{Head, HttpResponse, Request};
use super::legacy_http::bounded_request_fields::{Fields, max_of};
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::{ChannelName, PeerId};
use crate::base::stored_enums::{MessageType, PeerKind};
use crate::base::{limits, time_format};
use crate::core::Mesh;
use crate::core::federation::roster::{ACTIVE, AWAY};
use crate::core::mail::{self, SEND};
use crate::core::peers::Peer;
use crate::store::Message;
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

fn peers(mesh: &mut Mesh, head: &Head, _: &Fields, now: i64) -> Result<Value, Error> {
    // The `Host` header is the address at which the daemon reaches this machine. All peers in the list get this
    // address, because for the daemon, a loopback address would mean the daemon's own machine.
    let host = head.host.as_deref().map_or("", |host| host.rsplit_once(':').map_or(host, |(name, _)| name)).to_owned();
    let port = mesh.settings().port;
    let mesh_id = mesh.mesh_id();
    // A linked broker also requests a list of people. People are never online, but the agents of that broker must be
    // able to answer them. A SuperLocalMemory daemon requests no people, because it would mistake them for sessions.
    let with_people = query_number(&head.target, "people") == Some(1);
    let people = mesh.peers().all().iter().filter(|peer| with_people && peer.row.kind == PeerKind::Human);
    let rows: Vec<Value> = own_peers(mesh)
        .chain(people)
        .map(|peer| {
            let status = if peer.is_online() { ACTIVE } else { AWAY };
            let heartbeat = match peer.row.kind {
                // A daemon hides peers whose last heartbeat is old. A session stays online while its agent is idle, so
                // the current time is sent as its last heartbeat.
                PeerKind::Session { .. } => now,
                _ => peer.last_heartbeat.max(peer.last_active),
            };
            json!({
                "peer_id": peer.row.id.as_str(), "session_id": peer.row.name, "summary": peer.row.summary,
                "status": status, "host": host, "port": port, "registered_at": zoned(peer.row.first_seen),
                "last_heartbeat": zoned(heartbeat), "project_path": peer.row.project,
                "agent_type": peer.row.agent, "mesh": mesh_id, "machine": peer.row.host, "branch": peer.row.git_branch,
                "repo": peer.row.repo,
            })
        })
        .collect();
    let marks = Marks::of(mesh);
    Ok(json!({ "peers": rows, "mesh": mesh_id, "mark": marks.roster, "receipts": marks.receipts }))
}

/// Returns the receipts (whether each message was read) for messages from one peer of a linked mesh.
fn receipts(mesh: &mut Mesh, head: &Head, fields: &Fields, now: i64) -> Result<Value, Error> {
    let sender = Sender::of(fields);
    mesh.charge(&sender.budget(mesh, head), 1, now)?;
    let rows = mesh.receipts_for(&sender.names(mesh), &fields.texts("keys").unwrap_or_default(), now)?;
    Ok(json!({ "ok": true, "receipts": rows }))
}

/// The sender of a message, as the linked mesh describes it.
struct Sender<'a> {
    id: &'a str,
    name: Option<&'a str>,
    machine: Option<&'a str>,
}

impl<'a> Sender<'a> {
    fn of(fields: &'a Fields) -> Sender<'a> {
        let id = fields.word("from_peer").unwrap_or("unknown");
        Sender { id, name: fields.word("from_name"), machine: fields.word("from_machine") }
    }

    /// Returns the two ids under which this mesh may know the sender. The second id applies until the linked mesh lists
    /// the sender as its peer.
    fn names(&self, mesh: &Mesh) -> [PeerId; 2] {
        let cut = |id: PeerId| PeerId::from(id.chars().take(limits::WORD_MAX).collect::<String>());
        [
            cut(mesh.forwarded_sender(self.id, self.name, self.machine)),
            cut(mesh.unknown_sender(self.id, self.name, self.machine)),
        ]
    }

    /// Returns the name of the rate limit for messages from this sender. Each link has its own limit, so that a busy
    /// mesh does not slow down other meshes. A request can contain any id, so the name also contains the address.
    /// Otherwise, a mesh could use up the limit of a mesh at another address.
    fn budget(&self, mesh: &Mesh, head: &Head) -> String {
        let link = mesh.peers().get(self.id).and_then(|peer| peer.row.mesh());
        format!("messages from {} {}", head.peer, link.map_or("", |url| url.as_str()))
    }
}

fn send(mesh: &mut Mesh, head: &Head, fields: &Fields, now: i64) -> Result<Value, Error> {
    let to =
        fields.word("to_peer").or(fields.word("to")).ok_or_else(|| Error::usage("to_peer", "expected a peer's id"))?;
    let content = fields.word("content").ok_or_else(|| Error::usage("content", "missing"))?;
    let max = max_of(&SEND, "message");
    if content.len() > max {
        return Err(Error::new(ErrorKind::Refused, format!("content too large (max {max} bytes)")));
    }
    let from = Sender::of(fields);
    mesh.charge(&from.budget(mesh, head), 10, now)?;
    let names = from.names(mesh);
    let key = fields.word("key").filter(|key| key.len() <= max_of(&SEND, "key"));
    // The other mesh repeats a message if the reply was lost. If that mesh has listed the sender since the first
    // attempt, the sender has a new id. So both ids are checked.
    for known_as in &names {
        if let Some(known) = key.map(|key| mesh.message_with_key(known_as, key)).transpose()?.flatten() {
            return Ok(accepted(TargetKind::Peer, known, now));
        }
    }
    let [sender, _] = names;
    let draft = Message {
        sender,
        kind: message_type(fields, content),
        body: content.into(),
        key: key.map(str::to_owned),
        ..Message::default()
    };
    let (target, recipients) = recipients(mesh, to)?;
    let answered = fields.word("reply_to").zip(recipients.first()).filter(|_| target == TargetKind::Peer);
    let reply_to =
        answered.map(|(id, me)| mesh.acknowledge_by_reply(&draft.sender, me, id, now)).transpose()?.flatten();
    let expires = fields.integer("expires_in").map(|ms| now + ms.clamp(0, limits::MAIL_KEPT_MS));
    // A linked broker sends a group message once to each member. The group is stored with the message, so that each
    // member sees that the message went to a group. Channels never cross a link, so they are left out.
    let group = match target {
        TargetKind::Peer => {
            fields.word("group").filter(|group| group.len() <= limits::WORD_MAX && mail::is_named_group(group))
        }
        TargetKind::Everybody | TargetKind::Project => Some(to),
    };
    let group = group.map(str::to_owned);
    let sent = mesh.post(Message { reply_to, expires, group, ..draft }, &recipients, now)?;
    match sent.first() {
        // A message to a group skips members that can't receive it. This message has only one recipient, so the sender
        // must get an error.
        None if target == TargetKind::Peer => Err(Error::new(ErrorKind::Full, "the mailbox of the recipient is full")),
        first => Ok(accepted(target, first.map_or(0, |message| message.seq), now)),
    }
}

/// Returns the type that the sender gave, or the default if this type is unknown or does not fit the content.
fn message_type(fields: &Fields, content: &str) -> MessageType {
    let fits = |kind: &MessageType| *kind != MessageType::Json || serde_json::from_str::<Value>(content).is_ok();
    fields.word("type").and_then(MessageType::from_word).filter(fits).unwrap_or_default()
}

fn accepted(target: TargetKind, id: i64, now: i64) -> Value {
    json!({ "ok": true, "id": id, "target_type": target.word(), "expires_at": zoned(now + limits::MAIL_KEPT_MS) })
}

/// Returns the online peers of this mesh, without peers of linked meshes.
fn own_peers(mesh: &Mesh) -> impl Iterator<Item = &Peer> {
    mesh.peers().all().iter().filter(|peer| peer.is_online() && !peer.row.is_linked())
}

/// What the recipient in a message from another mesh stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TargetKind {
    Everybody,
    Project,
    Peer,
}

impl TargetKind {
    /// The word that SuperLocalMemory uses.
    fn word(self) -> &'static str {
        match self {
            TargetKind::Everybody => "broadcast",
            TargetKind::Project => "project",
            TargetKind::Peer => "peer",
        }
    }
}

/// Returns the recipients for `to`, which stands for everybody, the peers of a project, or one peer.
fn recipients(mesh: &Mesh, to: &str) -> Result<(TargetKind, Vec<PeerId>), Error> {
    let online = |fits: &dyn Fn(&str) -> bool| {
        own_peers(mesh).filter(|peer| fits(&peer.row.project)).map(|peer| peer.row.id.clone()).collect()
    };
    if ChannelName::is_meant_by(to) {
        let text = "a channel belongs to a single mesh; write to the members of the channel, or join the channel on its own \
                    mesh";
        return Err(Error::new(ErrorKind::Refused, text));
    }
    if to == TargetKind::Everybody.word() {
        return Ok((TargetKind::Everybody, online(&|_| true)));
    }
    if let Some(project) = to.strip_prefix("project:") {
        return Ok((TargetKind::Project, online(&|path| path == project)));
    }
    match mesh.peers().get(to) {
        Some(peer) if !peer.row.is_linked() => Ok((TargetKind::Peer, vec![peer.row.id.clone()])),
        _ => Err(Error::not_found("recipient peer not found")),
    }
}

fn status(mesh: &mut Mesh, _: &Head, _: &Fields, now: i64) -> Result<Value, Error> {
    Ok(json!({ "broker_up": true, "peer_count": own_peers(mesh).count(), "uptime_s": (now - mesh.started()) / 1000 }))
}

/// Formats a time with a numeric time zone, as Python does.
fn zoned(ms: i64) -> String {
    time_format::iso(ms).replace('Z', "+00:00")
}
