//! The routes that a SuperLocalMemory daemon (version 3.4.48) calls on a mesh that it polls: `/mesh/peers`,
//! `/mesh/send` and `/mesh/status`.
//!
//! A linked broker calls the same routes, and gets marks (version numbers of what this mesh reports) with each answer
//! to a poll. It sends the marks back with the next poll, which waits until something has changed. At `/mesh/receipts`,
//! it also asks what became of its messages.
//!
//! **Invariant:** these routes list only peers of this mesh and write only to them, never to peers of linked
//! meshes. So linked meshes do not echo or relay anything, even in a ring.

use super::http::{Head, HttpResponse, Request};
use super::legacy_http::fields::{Fields, max_of};
use crate::base::error::{Error, ErrorKind};
use crate::base::ids::{ChannelName, PeerId};
use crate::base::stored_enums::{MessageType, PeerKind};
use crate::base::{limits, time};
use crate::core::Mesh;
use crate::core::federation::roster::{ACTIVE, AWAY};
use crate::core::mail::{self, SEND};
use crate::core::peers::Peer;
use crate::store::Message;
use serde_json::{Value, json};

/// How long a request may wait for changes, in seconds. This is less than the HTTP thread allows.
pub const HOLD_SECONDS_MAX: u64 = 8;

/// The versions that a linked broker gets when it polls.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    roster: i64,
    receipts: i64,
}

impl Marks {
    /// The current versions.
    pub fn of(mesh: &Mesh) -> Marks {
        Marks { roster: mesh.peers().roster_version(), receipts: mesh.receipts_version() }
    }
}

/// How long a request may wait for changes, in ms; `None` if it must be answered now.
pub fn hold_ms(request: &Request, marks: Marks) -> Option<i64> {
    if request.head.method != "GET" || !request.head.target.starts_with("/mesh/peers?") {
        return None;
    }
    let number = |name: &str| query_number(&request.head.target, name);
    // slm-mesh 0.1.0 does not send the mark for receipts, so its polls wait only for the list of peers to change.
    let has_news = number("after").is_none_or(|after: i64| after != marks.roster)
        || number("receipts").is_some_and(|after: i64| after != marks.receipts);
    let seconds = number("wait").unwrap_or(0).clamp(0, HOLD_SECONDS_MAX as i64);
    (!has_news && seconds > 0).then_some(seconds * 1000)
}

/// The value of one argument in the query of a target.
fn query_number(target: &str, name: &str) -> Option<i64> {
    let (_, query) = target.split_once('?')?;
    query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// Whether a request is a regular poll. Polls do not keep an idle broker running.
pub fn is_poll(target: &str) -> bool {
    target.starts_with("/mesh/peers") || target.starts_with("/mesh/status")
}

/// A route: a function of the mesh, the head of the request, its fields, and the time.
type Handler = fn(&mut Mesh, &Head, &Fields, i64) -> Result<Value, Error>;

/// The function for a route; `None` if there is no such route.
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

/// The response to a daemon. After any status but 200, the daemon tries again, so a final refusal has status 200.
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
    // The `Host` header of the request is the address at which the daemon reaches this machine, so the list gives this
    // address for all peers. A loopback address would mean the daemon's own machine.
    let host = head.host.as_deref().map_or("", |host| host.rsplit_once(':').map_or(host, |(name, _)| name)).to_owned();
    let port = mesh.settings().port;
    let mesh_id = mesh.mesh_id();
    // People are never online, but the agents of a linked mesh must be able to answer them. A SuperLocalMemory daemon
    // does not ask for people, because it would take them for sessions.
    let with_people = query_number(&head.target, "people") == Some(1);
    let people = mesh.peers().all().iter().filter(|peer| with_people && peer.row.kind == PeerKind::Human);
    let rows: Vec<Value> = own_peers(mesh)
        .chain(people)
        .map(|peer| {
            let status = if peer.is_online() { ACTIVE } else { AWAY };
            let heartbeat = match peer.row.kind {
                // A session is online as long as its connection answers, however long its agent is idle. A daemon hides
                // peers whose last heartbeat is old, so an idle session must not look old.
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

/// Returns the receipts of the messages that one peer of a linked mesh has sent to this mesh.
fn receipts(mesh: &mut Mesh, head: &Head, fields: &Fields, now: i64) -> Result<Value, Error> {
    let sender = Sender::of(fields);
    mesh.charge(&sender.budget(mesh, head), 1, now)?;
    let rows = mesh.receipts_for(&sender.names(mesh), &fields.texts("keys").unwrap_or_default(), now)?;
    Ok(json!({ "ok": true, "receipts": rows }))
}

/// The sender of a message from a linked mesh, as the linked mesh describes it.
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

    /// The ids that the sender may have in this mesh: its current id, and the id that it had before the linked mesh
    /// listed it.
    fn names(&self, mesh: &Mesh) -> [PeerId; 2] {
        let cut = |id: PeerId| PeerId::from(id.chars().take(limits::WORD_MAX).collect::<String>());
        [
            cut(mesh.forwarded_sender(self.id, self.name, self.machine)),
            cut(mesh.unknown_sender(self.id, self.name, self.machine)),
        ]
    }

    /// The name of the rate limit that counts messages from this sender. Each link has a limit of its own, so that a
    /// busy mesh does not slow the others down, even if all of them connect from the same address. A mesh without a
    /// link is known only by its address. A request can contain any id, so the address is always part of the name.
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
    // The other mesh sends a message again if the answer was lost. The sender gets another id when its mesh lists it,
    // which may have happened since the first attempt, so both ids are checked.
    for known_as in &names {
        if let Some(known) = key.map(|key| mesh.message_with_key(known_as, key)).transpose()?.flatten() {
            return Ok(accepted("peer", known, now));
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
    let answered = fields.word("reply_to").zip(recipients.first()).filter(|_| target == "peer");
    let reply_to =
        answered.map(|(id, me)| mesh.acknowledge_by_reply(&draft.sender, me, id, now)).transpose()?.flatten();
    let expires = fields.integer("expires_in").map(|ms| now + ms.clamp(0, limits::MAIL_KEPT_MS));
    // A linked broker sends a message to a group as one message to each member. The members here must still see that
    // the message was not meant for them alone. Channels are not among these groups, because they never cross a link.
    let group = match target {
        "peer" => fields.word("group").filter(|group| group.len() <= limits::WORD_MAX && mail::is_named_group(group)),
        _ => Some(to),
    };
    let group = group.map(str::to_owned);
    let sent = mesh.post(Message { reply_to, expires, group, ..draft }, &recipients, now)?;
    match sent.first() {
        // A message to a group skips members that can't receive it. This message had only one recipient, so the sender
        // must learn that nothing was delivered.
        None if target == "peer" => Err(Error::new(ErrorKind::Full, "the mailbox of the recipient is full")),
        first => Ok(accepted(target, first.map_or(0, |message| message.seq), now)),
    }
}

/// The type of a message: the type that the sender gave, if there is such a type and the content fits it.
fn message_type(fields: &Fields, content: &str) -> MessageType {
    let fits = |kind: &MessageType| *kind != MessageType::Json || serde_json::from_str::<Value>(content).is_ok();
    fields.word("type").and_then(MessageType::from_word).filter(fits).unwrap_or_default()
}

fn accepted(target: &str, id: i64, now: i64) -> Value {
    json!({ "ok": true, "id": id, "target_type": target, "expires_at": zoned(now + limits::MAIL_KEPT_MS) })
}

/// The peers of this mesh that are online.
fn own_peers(mesh: &Mesh) -> impl Iterator<Item = &Peer> {
    mesh.peers().all().iter().filter(|peer| peer.is_online() && !peer.row.is_linked())
}

/// The recipients that `to` names: everybody, the peers of a project, or one peer.
fn recipients(mesh: &Mesh, to: &str) -> Result<(&'static str, Vec<PeerId>), Error> {
    let online = |fits: &dyn Fn(&str) -> bool| {
        own_peers(mesh).filter(|peer| fits(&peer.row.project)).map(|peer| peer.row.id.clone()).collect()
    };
    if ChannelName::is_meant_by(to) {
        let text = "a channel belongs to a single mesh; write to the members of the channel, or join the channel on its own \
                    mesh";
        return Err(Error::new(ErrorKind::Refused, text));
    }
    if to == "broadcast" {
        return Ok(("broadcast", online(&|_| true)));
    }
    if let Some(project) = to.strip_prefix("project:") {
        return Ok(("project", online(&|path| path == project)));
    }
    match mesh.peers().get(to) {
        Some(peer) if !peer.row.is_linked() => Ok(("peer", vec![peer.row.id.clone()])),
        _ => Err(Error::not_found("recipient peer not found")),
    }
}

fn status(mesh: &mut Mesh, _: &Head, _: &Fields, now: i64) -> Result<Value, Error> {
    Ok(json!({ "broker_up": true, "peer_count": own_peers(mesh).count(), "uptime_s": (now - mesh.started()) / 1000 }))
}

/// A time with a numeric zone, in the form that Python writes.
fn zoned(ms: i64) -> String {
    time::iso(ms).replace('Z', "+00:00")
}
