//! Channels: named groups that peers join. A message to a channel reaches the mailbox of every member, even if the
//! member is offline for a short time. When a session ends, it leaves its channels.
//!
//! **Invariant:** only this module changes the members of a channel, in memory and on disk.

use super::event_journal::{Change, Journal};
use super::op_definition::ArgKind;
use super::pagination;
use super::pagination::Page;
use super::peers::{Peer, Peers};
use super::transaction_and_pending_effects::Turn;
use super::{Arg, Args, Auth, CallContext, CliPlace, Mesh, Op, Outcome};
use crate::base::domain_enums::PeerKind;
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::{ChannelName, PeerId};
use crate::base::limits;
use crate::core::op_behavior::OpBehavior;
use crate::core::op_definition::Runner;
use crate::store::ChannelMember;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

const CHANNEL: Arg = Arg::new(
    "channel",
    ArgKind::Text { min: 1, max: limits::WORD_MAX },
    "Name of the channel, with or without #; in a shell, quote the #: '#api'",
)
.required()
.at(CliPlace::Positional);

/// Joins a channel.
pub static JOIN: Op = Op {
    name: "channel.join",
    summary: "Join a channel, and get its messages until you leave the channel or your session ends",
    args: &[CHANNEL],
    actor: Auth::Required,
    verb: Some("join"),
    tool: Some(("inbox", Some("join"))),
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(join),
};

/// Leaves a channel.
pub static LEAVE: Op = Op {
    name: "channel.leave",
    summary: "Leave a channel, and keep the messages that you have already received from it",
    args: &[CHANNEL],
    actor: Auth::Required,
    verb: Some("leave"),
    tool: Some(("inbox", Some("leave"))),
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(leave),
};

/// Lists the channels.
pub static LIST: Op = Op {
    name: "channel.list",
    summary: "List the channels, with their members and your unread messages in each",
    args: &[pagination::next_page(limits::WORD_MAX)],
    actor: Auth::Optional,
    verb: Some("channels"),
    tool: Some(("inbox", Some("channels"))),
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(list),
};

/// Maximum number of members that an answer lists by name for each channel.
const NAMED_MAX: usize = 20;
/// Maximum number of rows in a page. Each row has at least 60 bytes, so no more rows fit.
const PAGE_ROWS: usize = limits::PAGE_MAX / 60;

fn join(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, channels, journal, rates, .. } = mesh;
    let channel = named(args.word("channel"))?;
    let me = peers.known(ctx.me()?)?;
    if has_ended(me) {
        let text = format!("{} is offline; it can join a channel when its session is back", me.row.name);
        return Err(Error::new(ErrorKind::Refused, text));
    }
    if !channels.has_member(&channel, ctx.me()?) {
        if channels.count_of(ctx.me()?) >= limits::CHANNELS_PER_PEER_MAX {
            let text = format!("a peer can be in at most {} channels; leave one first", limits::CHANNELS_PER_PEER_MAX);
            return Err(Error::new(ErrorKind::Full, text));
        }
        rates.charge(peers, ctx.me()?.as_str(), 1, ctx.now)?;
        channels.add(
            turn,
            peers,
            journal,
            ChannelMember { channel: channel.clone(), peer: ctx.me()?.clone(), joined: ctx.now },
        )?;
    }
    let mut value = json!({ "ok": true });
    value["channel"] = channels.view(peers, &channel, ctx.actor.as_ref(), &HashMap::new());
    Ok(Outcome::Ready(value))
}

fn leave(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, channels, journal, rates, .. } = mesh;
    let channel = named(args.word("channel"))?;
    let was_member = channels.has_member(&channel, ctx.me()?);
    if was_member {
        rates.charge(peers, ctx.me()?.as_str(), 1, ctx.now)?;
        channels.remove(turn, peers, journal, &channel, ctx.me()?, ctx.now)?;
    }
    Ok(Outcome::Ready(json!({ "ok": true, "channel": channel.as_str(), "left": was_member })))
}

fn list(mesh: &mut Mesh, ctx: &CallContext, args: &Args) -> Result<Outcome, Error> {
    let Mesh { turn, peers, mail, channels, .. } = mesh;
    let me = ctx.actor.as_ref();
    let unread = me.map(|me| mail.unread_in_channels(&turn.store, me)).transpose()?.unwrap_or_default();
    let unread: HashMap<String, i64> = unread.into_iter().collect();
    let after = args.text("after").map(pagination::parse_cursor).transpose()?.map_or("", |(_, name)| name);
    let mut names: Vec<&ChannelName> = channels.members.keys().filter(|name| name.as_str() > after).collect();
    let total = names.len();
    names.truncate(PAGE_ROWS);
    let mut page = Page::default();
    for name in &names {
        let row = channels.view(peers, name, me, &unread);
        if !page.add(row) {
            break;
        }
    }
    let mut value = json!({ "ok": true });
    let last = page.len().checked_sub(1).map(|last| (0, names[last].as_str()));
    pagination::add_cursor(&mut value, total - page.len(), last);
    value["channels"] = Value::Array(page.into_rows());
    Ok(Outcome::Ready(value))
}

/// Parses the argument that contains the name of a channel.
fn named(text: &str) -> Result<ChannelName, Error> {
    ChannelName::parse(text).map_err(|want| Error::usage("channel", want))
}

/// Whether a peer is gone forever or belongs to a linked mesh. Such a peer can't be in a channel.
fn has_ended(peer: &Peer) -> bool {
    match peer.row.kind {
        PeerKind::Session { .. } => peer.is_gone() && peer.offline_since.is_none(),
        PeerKind::Http { .. } => !peer.row.online,
        PeerKind::Linked { .. } => true,
        PeerKind::Human => false,
    }
}

/// The channels and their members.
#[derive(Debug, Default)]
pub struct Channels {
    /// The members of each channel, in the order in which they joined. A channel without members does not exist.
    members: BTreeMap<ChannelName, Vec<PeerId>>,
}

impl Channels {
    /// Loads the members from the database.
    pub(super) fn load(&mut self, turn: &Turn) -> Result<(), Error> {
        self.members.clear();
        for member in turn.store.channel_members()? {
            self.members.entry(member.channel).or_default().push(member.peer);
        }
        Ok(())
    }

    /// Removes the members whose sessions ended while no broker was running.
    pub(super) fn remove_ended(
        &mut self,
        turn: &mut Turn,
        peers: &Peers,
        journal: &Journal,
        now: i64,
    ) -> Result<(), Error> {
        let mut ended: Vec<PeerId> = self.members.values().flatten().cloned().collect();
        ended.retain(|id| peers.get(id).is_none_or(has_ended));
        ended.iter().try_for_each(|id| self.leave_all(turn, peers, journal, id, now))
    }

    /// The members of a channel.
    pub(super) fn members(&self, channel: &ChannelName) -> &[PeerId] {
        self.members.get(channel).map(Vec::as_slice).unwrap_or_default()
    }

    fn has_member(&self, channel: &ChannelName, id: &PeerId) -> bool {
        self.members(channel).iter().any(|member| member == id)
    }

    /// How many channels a peer has joined.
    fn count_of(&self, id: &PeerId) -> usize {
        self.members.values().filter(|members| members.iter().any(|member| member == id)).count()
    }

    fn add(&mut self, turn: &mut Turn, peers: &Peers, journal: &Journal, member: ChannelMember) -> Result<(), Error> {
        turn.store.put_channel_member(&member)?;
        journal.record(turn, peers, &Change::ChannelJoined(&member), &member.peer, member.joined)?;
        self.members.entry(member.channel).or_default().push(member.peer);
        Ok(())
    }

    fn remove(
        &mut self,
        turn: &mut Turn,
        peers: &Peers,
        journal: &Journal,
        channel: &ChannelName,
        id: &PeerId,
        now: i64,
    ) -> Result<(), Error> {
        turn.store.drop_channel_member(channel, id)?;
        let member = ChannelMember { channel: channel.clone(), peer: id.into(), joined: now };
        journal.record(turn, peers, &Change::ChannelLeft(&member), id, now)?;
        if let Some(members) = self.members.get_mut(channel) {
            members.retain(|member| member != id);
            if members.is_empty() {
                self.members.remove(channel);
            }
        }
        Ok(())
    }

    /// Removes an ended session from all of its channels.
    pub(super) fn leave_all(
        &mut self,
        turn: &mut Turn,
        peers: &Peers,
        journal: &Journal,
        id: &PeerId,
        now: i64,
    ) -> Result<(), Error> {
        self.joined_by(id).iter().try_for_each(|channel| self.remove(turn, peers, journal, channel, id, now))
    }

    /// Replaces the peer `id` with the peer `other` in all channels of `id`. The session of `id` now acts as `other`.
    pub(super) fn move_member(
        &mut self,
        turn: &mut Turn,
        peers: &Peers,
        journal: &Journal,
        id: &PeerId,
        other: &PeerId,
        now: i64,
    ) -> Result<(), Error> {
        for channel in self.joined_by(id) {
            self.remove(turn, peers, journal, &channel, id, now)?;
            self.add(turn, peers, journal, ChannelMember { channel, peer: other.clone(), joined: now })?;
        }
        Ok(())
    }

    /// The channels that a peer has joined.
    fn joined_by(&self, id: &PeerId) -> Vec<ChannelName> {
        let is_member = |members: &Vec<PeerId>| members.iter().any(|member| member == id);
        self.members.iter().filter(|(_, members)| is_member(members)).map(|(channel, _)| channel.clone()).collect()
    }

    /// Returns a channel in the form that clients see. `me` is the calling peer; `None` if the caller is no peer.
    fn view(&self, peers: &Peers, channel: &ChannelName, me: Option<&PeerId>, unread: &HashMap<String, i64>) -> Value {
        let members = self.members(channel);
        let names: Vec<String> = members.iter().take(NAMED_MAX).map(|id| peers.name_of(id)).collect();
        json!({
            "name": channel.as_str(), "members": names, "count": members.len(),
            "joined": me.is_some_and(|me| self.has_member(channel, me)), "unread": unread.get(channel.as_str()).unwrap_or(&0),
        })
    }
}
