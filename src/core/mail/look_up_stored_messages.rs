//! Reads stored messages for other parts of the program. Only the mail part asks the store for messages.

use super::Mail;
use crate::base::error::Error;
use crate::base::id_types::{MessageSeq, PeerId};
use crate::core::Mesh;
use crate::store::{Message, MessageFilter, Store};

/// Returns the time at which the next message expires, in ms.
///
/// # Errors
/// When the database can't be read.
pub(in crate::core) fn next_expiry(store: &Store) -> Result<Option<i64>, Error> {
    Ok(store.next_message_expiry()?)
}

impl Mail {
    /// Returns the message with this sequence number.
    ///
    /// # Errors
    /// When the database can't be read.
    pub(in crate::core) fn message(&self, store: &Store, seq: MessageSeq) -> Result<Option<Message>, Error> {
        Ok(store.message(seq)?)
    }

    /// Returns the message from `sender` that has this key.
    ///
    /// # Errors
    /// When the database can't be read.
    pub(in crate::core) fn message_with_key(
        &self,
        store: &Store,
        sender: &PeerId,
        key: &str,
    ) -> Result<Option<Message>, Error> {
        Ok(store.messages_by_key(sender, key)?.into_iter().next())
    }

    /// The number of a peer's unread messages in each channel.
    ///
    /// # Errors
    /// When the database can't be read.
    pub(in crate::core) fn unread_in_channels(&self, store: &Store, me: &PeerId) -> Result<Vec<(String, i64)>, Error> {
        Ok(store.unread_in_channels(me)?)
    }

    /// Returns the oldest unread messages to a peer, at most `limit`.
    ///
    /// # Errors
    /// When the database can't be read.
    pub(in crate::core) fn oldest_unread(&self, store: &Store, to: &PeerId, limit: i64) -> Result<Vec<Message>, Error> {
        Ok(store.messages(&MessageFilter { to: Some(to), unread: true, limit, ..MessageFilter::default() })?)
    }

    /// Returns the latest messages to a peer, newest first. There are at most `limit` messages, and their texts have
    /// about `bytes` bytes in total.
    ///
    /// # Errors
    /// When the database can't be read.
    pub(in crate::core) fn latest_to(
        &self,
        store: &Store,
        to: &PeerId,
        limit: i64,
        bytes: usize,
    ) -> Result<Vec<Message>, Error> {
        let filter =
            MessageFilter { to: Some(to), newest: true, limit, bytes: Some(bytes), ..MessageFilter::default() };
        Ok(store.messages(&filter)?)
    }
}

impl Mesh {
    /// Returns the latest messages between all peers, oldest first.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn latest_messages(&self, limit: i64) -> Result<Vec<Message>, Error> {
        let filter = MessageFilter { newest: true, limit, ..MessageFilter::default() };
        let mut found = self.turn.store.messages(&filter)?;
        found.reverse();
        Ok(found)
    }
}
