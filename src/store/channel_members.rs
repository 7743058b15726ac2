//! The table with the members of all channels.

use super::named_columns::{placeholder, write_row};
use super::peers::unknown_word;
use super::{Store, StoreResult};
use crate::base::id_types::{ChannelName, PeerId};
use rusqlite::{Row, params};

/// A peer that is a member of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelMember {
    /// The channel.
    pub channel: ChannelName,
    /// The peer that joined the channel.
    pub peer: PeerId,
    /// When the peer joined, in ms.
    pub joined: i64,
}

fn read(row: &Row<'_>) -> rusqlite::Result<ChannelMember> {
    let name: String = row.get("channel")?;
    Ok(ChannelMember {
        channel: ChannelName::parse(&name).map_err(|_| unknown_word("channel", &name))?,
        peer: row.get::<_, String>("peer")?.into(),
        joined: row.get("joined")?,
    })
}

impl Store {
    /// All members of all channels, in the order in which they joined.
    pub fn channel_members(&self) -> StoreResult<Vec<ChannelMember>> {
        let mut query = self.db.prepare_cached("SELECT * FROM channel_member ORDER BY joined, channel, peer")?;
        Ok(query.query_map([], read)?.collect::<rusqlite::Result<_>>()?)
    }

    /// Stores a member of a channel.
    pub fn put_channel_member(&mut self, member: &ChannelMember) -> StoreResult<()> {
        write_row!(self, "INSERT OR REPLACE", "channel_member", {
            "channel": member.channel.as_str(),
            "peer": member.peer.as_str(),
            "joined": member.joined,
        })?;
        Ok(())
    }

    /// Removes a member from a channel.
    pub fn drop_channel_member(&mut self, channel: &ChannelName, peer: &PeerId) -> StoreResult<()> {
        self.write("DELETE FROM channel_member WHERE channel = ?1 AND peer = ?2", params![channel.as_str(), peer])?;
        Ok(())
    }
}
