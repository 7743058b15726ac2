//! Finds the peers, groups and channels that a caller names as recipients of a message, or in a filter of messages.

use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::{ChannelName, PeerId};
use crate::core::channels::Channels;
use crate::core::peers::{Peer, Peers, no_peer};
use crate::core::{Args, CallContext, ConnId};

/// Returns the id of the peer with this name. If there is no such peer, returns the name itself, because it may be the
/// sender or recipient of old mail.
fn peer_or_text(peers: &Peers, conn: ConnId, name: &str) -> Result<PeerId, Error> {
    peers
        .resolve(conn, name)
        .or_else(|error| if error.kind == ErrorKind::NotFound { Ok(name.into()) } else { Err(error) })
}

/// The partner in a conversation: a peer or a channel.
pub(super) enum Correspondent {
    Peer(PeerId),
    Channel(ChannelName),
}

impl Correspondent {
    /// Finds the peer or channel with the name `text`. A program that uses HTTP always gives the id of a peer.
    pub(super) fn named(peers: &Peers, ctx: &CallContext, argument: &str, text: &str) -> Result<Correspondent, Error> {
        if ctx.is_http_program() {
            return Ok(Correspondent::Peer(text.into()));
        }
        if ChannelName::is_meant_by(text) {
            let name = ChannelName::parse(text).map_err(|want| Error::usage(argument, want))?;
            return Ok(Correspondent::Channel(name));
        }
        peer_or_text(peers, ctx.conn, text).map(Correspondent::Peer)
    }

    pub(super) fn peer(&self) -> Option<&PeerId> {
        match self {
            Correspondent::Peer(id) => Some(id),
            Correspondent::Channel(_) => None,
        }
    }

    pub(super) fn channel(&self) -> Option<&ChannelName> {
        match self {
            Correspondent::Channel(name) => Some(name),
            Correspondent::Peer(_) => None,
        }
    }
}

/// Whether a word is the name of a group other than a channel.
pub fn is_named_group(word: &str) -> bool {
    ["all", "repo", "directory"].contains(&word) || word.starts_with("agent:")
}

/// Returns the recipients that `to` stands for. If `to` is a group, also returns the group's name, and leaves out the
/// sender. A program that uses HTTP can write to a peer by its id, and to the group `all`.
pub(super) fn recipients(
    peers: &Peers,
    channels: &Channels,
    ctx: &CallContext,
    to: &str,
    args: &Args,
) -> Result<(Option<String>, Vec<PeerId>), Error> {
    let me = ctx.me()?;
    if ctx.is_http_program() && to != "all" {
        let known = peers.with_id(to).map(|peer| peer.row.id.clone());
        return Ok((None, vec![known.ok_or_else(|| no_peer(to))?]));
    }
    let others = |ids: &mut dyn Iterator<Item = &PeerId>| ids.filter(|id| *id != me).cloned().collect();
    if ChannelName::is_meant_by(to) {
        let channel = ChannelName::parse(to).map_err(|want| Error::usage("to", want))?;
        let mut members = channels.members(&channel).iter().filter(|id| peers.get(id).is_some());
        return Ok((Some(channel.as_str().to_owned()), others(&mut members)));
    }
    let mut mine = peers.get(me).map(|peer| peer.row.clone()).unwrap_or_default();
    if peers.is_human(me) {
        // A person may work in any directory, so the call contains the directory.
        mine.project = args.text("project").map_or(mine.project, str::to_owned);
        mine.repo = args.text("repo").map(str::to_owned).or(mine.repo);
    }
    let with_people = args.flag("withoutPeople") != Some(true);
    let fits = |peer: &&Peer| match to {
        "all" => peer.is_online() || with_people && peers.is_human(&peer.row.id),
        "repo" => peer.is_online() && mine.repo.is_some() && peer.row.repo == mine.repo,
        "directory" => peer.is_online() && peer.row.project == mine.project,
        _ => peer.is_online() && to.strip_prefix("agent:") == Some(peer.row.agent.as_str()),
    };
    if !is_named_group(to) {
        return Ok((None, vec![peers.resolve(ctx.conn, to)?]));
    }
    let mut group = peers.all().iter().filter(fits).map(|peer| &peer.row.id);
    Ok((Some(to.to_owned()), others(&mut group)))
}
