//! Alerts to the person at this machine. They are messages of the type `alert`, and must reach the person even if the
//! person is not looking at the mesh.

use super::MailView;
use crate::base::stored_enums::MessageType;
use crate::core::Mesh;
use crate::core::peers::Peers;
use crate::store::Message;
use serde_json::Value;

/// Whether a message is an alert to the person at this machine. A person at another machine is a different peer.
pub(super) fn is_alert(peers: &Peers, message: &Message) -> bool {
    message.kind == MessageType::Alert && message.recipient == *peers.human()
}

impl Mesh {
    /// Returns an alert in the form that the inbox shows. Returns `None` if the alert has been read or has expired.
    pub fn unread_alert(&self, seq: i64, now: i64) -> Option<Value> {
        // If the database can't be read, other operations report the failure.
        let message = self.turn.store.message(seq).ok().flatten()?;
        let is_open = message.state.is_unread() && message.expires.is_none_or(|at| at > now);
        is_open.then(|| {
            self.mail.whole_row(&self.turn.store, &self.peers, &message, MailView::Unread, Some(&message.recipient))
        })
    }
}
