//! The operations that linked meshes run in this mesh: they list its peers, send messages to these peers, and ask
//! whether the messages were read. Only the HTTP routes for linked meshes run these operations.
//!
//! **Invariant:** these operations list only peers of this mesh and write only to them, never to peers of linked meshes.
//! So linked meshes do not echo or relay anything, even in a ring.

use super::outbox_to_linked_meshes::{acknowledge_by_reply, forwarded_sender, unknown_sender};
use super::receipts::receipts_for;
use crate::base::domain_enums::{MessageType, PeerKind};
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::{ChannelName, MessageSeq, PeerId};
use crate::base::limits;
use crate::core::mail;
use crate::core::op_behavior::OpBehavior;
use crate::core::op_definition::{ArgKind, Runner};
use crate::core::peers::{Peer, Peers};
use crate::core::{Arg, Args, Auth, CallContext, Mesh, Op, Outcome};
use crate::store::Message;
use serde_json::{Value, json};

const WORD: ArgKind = ArgKind::Text { min: 0, max: limits::WORD_MAX };
/// Text of at most `WORD_MAX` characters, which have up to four bytes each.
const NAME: ArgKind = ArgKind::Text { min: 0, max: 4 * limits::WORD_MAX };
const SENDER: Arg = Arg::new("sender", NAME, "Id of the sender in the linked mesh").required();
const SENDER_NAME: Arg = Arg::new("senderName", NAME, "Name of the sender");
const SENDER_MACHINE: Arg = Arg::new("senderMachine", NAME, "Machine of the sender");

/// Lists the peers that a linked mesh may address.
pub static PEERS: Op = Op {
    name: "link.peers",
    summary: "List the peers of this mesh, with the version of the list and the version of the receipts",
    args: &[Arg::new("people", ArgKind::Flag, "Also list people; they never count as online")],
    actor: Auth::Optional,
    verb: None,
    tool: None,
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(peers),
};

/// Accepts a message from a linked mesh.
pub static SEND: Op = Op {
    name: "link.send",
    summary: "Accept a message from a linked mesh, but only once for each key",
    args: &[
        SENDER,
        SENDER_NAME,
        SENDER_MACHINE,
        Arg::new(
            "to",
            ArgKind::Text { min: 1, max: limits::PATH_MAX },
            "Id of a peer; or `broadcast`, or `project:` and a directory",
        )
        .required(),
        Arg::new("content", ArgKind::Text { min: 1, max: limits::PAYLOAD_MAX }, "The message").required(),
        Arg::new("type", ArgKind::Choice(MessageType::WORDS), "Type of the message"),
        Arg::new("key", WORD, "Id of the message in the linked mesh"),
        Arg::new("replyTo", WORD, "Id, in this mesh, of the message that the sender has answered"),
        Arg::new(
            "group",
            WORD,
            "The group to which the sender wrote, if this message is the copy for one member of \
                                 the group",
        ),
        Arg::new(
            "expiresMs",
            ArgKind::Int { min: 0, max: limits::MAIL_KEPT_MS },
            "Time until the message expires, in ms",
        ),
    ],
    actor: Auth::Optional,
    verb: None,
    tool: None,
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(send),
};

/// Reports which messages from a linked mesh were read.
pub static RECEIPTS: Op = Op {
    name: "link.receipts",
    summary: "Report which messages from a peer of a linked mesh were read",
    args: &[
        SENDER,
        SENDER_NAME,
        SENDER_MACHINE,
        Arg::new(
            "keys",
            ArgKind::Texts { items: limits::LIST_MAX, max: limits::WORD_MAX },
            "Ids of the messages in the linked mesh",
        ),
    ],
    actor: Auth::Optional,
    verb: None,
    tool: None,
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(receipts),
};

/// Returns the online peers of this mesh, without peers of linked meshes.
fn own_peers(peers: &Peers) -> impl Iterator<Item = &Peer> {
    peers.all().iter().filter(|peer| peer.is_online() && !peer.row.is_linked())
}

fn peers(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    // The agents of a linked mesh must be able to answer people, although people are never online.
    let with_people = args.flag("people") == Some(true);
    let people = mesh.peers.all().iter().filter(|peer| with_people && peer.row.kind == PeerKind::Human);
    let row = |peer: &Peer| {
        let heartbeat = match peer.row.kind {
            // A daemon hides peers whose last heartbeat is old. A session stays online while its agent is idle, so the
            // current time is sent as its last heartbeat.
            PeerKind::Session { .. } => ctx.now,
            _ => peer.last_heartbeat.max(peer.last_active),
        };
        json!({
            "id": peer.row.id.as_str(), "name": peer.row.name, "summary": peer.row.summary, "online": peer.is_online(),
            "firstSeen": peer.row.first_seen, "lastHeartbeat": heartbeat, "project": peer.row.project,
            "agent": peer.row.agent, "machine": peer.row.host, "branch": peer.row.git_branch, "repo": peer.row.repo,
        })
    };
    let rows: Vec<Value> = own_peers(&mesh.peers).chain(people).map(row).collect();
    Ok(Outcome::Ready(json!({
        "ok": true, "peers": rows, "mesh": mesh.ids.mesh_id(), "rosterVersion": mesh.peers.roster_version(),
        "receiptsVersion": mesh.mail.receipts_version(),
    })))
}

fn receipts(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    mesh.rates.charge_call(&mesh.peers, ctx, 1)?;
    let senders = names_of_sender(&mesh.peers, args);
    let rows = receipts_for(&mesh.turn.store, &mesh.mail, &senders, &args.texts("keys"), ctx.now)?;
    Ok(Outcome::Ready(json!({ "ok": true, "receipts": rows })))
}

/// Returns the two ids under which this mesh may know the sender. The second id applies until the linked mesh lists the
/// sender as its peer.
fn names_of_sender(peers: &Peers, args: &Args) -> [PeerId; 2] {
    let (id, name, machine) = (args.word("sender"), args.text("senderName"), args.text("senderMachine"));
    let cut = |id: PeerId| PeerId::from(id.as_str().chars().take(limits::WORD_MAX).collect::<String>());
    [cut(forwarded_sender(peers, id, name, machine)), cut(unknown_sender(peers, id, name, machine))]
}

fn send(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    mesh.rates.charge_call(&mesh.peers, ctx, 10)?;
    let names = names_of_sender(&mesh.peers, args);
    let key = args.text("key");
    // The other mesh repeats a message if the reply was lost. If that mesh has listed the sender since the first
    // attempt, the sender has a new id. So both ids are checked.
    for known_as in &names {
        let with_key = |key| mesh.mail.message_with_key(&mesh.turn.store, known_as, key);
        if let Some(known) = key.map(with_key).transpose()?.flatten() {
            return Ok(accepted(TargetKind::Peer, known.seq));
        }
    }
    let [sender, _] = names;
    let (target, recipients) = recipients(&mesh.peers, args.word("to"))?;
    let answered = args.text("replyTo").zip(recipients.first()).filter(|_| target == TargetKind::Peer);
    let Mesh { turn, peers, mail, journal, federation, ids, .. } = mesh;
    let acknowledge = |(id, me): (&str, &PeerId)| {
        acknowledge_by_reply((&mut *turn, &mut *mail, &*journal), *ids, &sender, me, id, ctx.now)
    };
    let reply_to = answered.map(acknowledge).transpose()?.flatten();
    // A linked broker sends a group message once to each member. The group is stored with the message, so that each
    // member sees that the message went to a group. Channels never cross a link, so they are left out.
    let group = match target {
        TargetKind::Peer => args.text("group").filter(|group| mail::is_named_group(group)),
        TargetKind::Everybody | TargetKind::Project => Some(args.word("to")),
    };
    let draft = Message {
        sender,
        group: group.map(str::to_owned),
        kind: args.text("type").and_then(MessageType::from_word).unwrap_or_default(),
        body: args.word("content").to_owned(),
        reply_to,
        key: key.map(str::to_owned),
        expires: args.int("expiresMs").map(|ms| ctx.now + ms),
        ..Message::default()
    };
    let sent = mail.post(turn, peers, journal, federation, draft, &recipients, ctx.now)?;
    match sent.first() {
        // A message to a group skips members that can't receive it. This message has only one recipient, so the sender
        // must get an error.
        None if target == TargetKind::Peer => Err(Error::new(ErrorKind::Full, "the mailbox of the recipient is full")),
        first => Ok(accepted(target, first.map(|message| message.seq).unwrap_or_default())),
    }
}

fn accepted(target: TargetKind, seq: MessageSeq) -> Outcome {
    Outcome::Ready(json!({ "ok": true, "seq": seq.0, "target": target.word() }))
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
fn recipients(peers: &Peers, to: &str) -> Result<(TargetKind, Vec<PeerId>), Error> {
    let online = |fits: &dyn Fn(&str) -> bool| {
        own_peers(peers).filter(|peer| fits(&peer.row.project)).map(|peer| peer.row.id.clone()).collect()
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
    match peers.with_id(to) {
        Some(peer) if !peer.row.is_linked() => Ok((TargetKind::Peer, vec![peer.row.id.clone()])),
        _ => Err(Error::not_found("recipient peer not found")),
    }
}
