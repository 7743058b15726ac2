//! Alerts to the person at this machine. An alert is a message of the type `alert`. It must reach the person even if
//! the person is not looking at the mesh.

use super::MailView;
use crate::base::stored_enums::MessageType;
use crate::core::Mesh;
use crate::core::peers::Peers;
use crate::store::{Message, MessageFilter};
use serde_json::Value;

/// Whether a message is an alert to the person at this machine. A person at another machine is a different peer.
pub(super) fn is_alert(peers: &Peers, message: &Message) -> bool {
    message.kind == MessageType::Alert && message.recipient == *peers.human()
}

impl Mesh {
    /// Returns the first `max` unread alerts to the person at this machine, and the number of further alerts. Only
    /// alerts after the sequence number `after` count. The alerts have the same form as in the inbox, and the oldest
    /// alert comes first.
    pub fn unread_alerts(&self, after: i64, max: usize) -> (Vec<Value>, u64) {
        let Mesh { turn, peers, mail, .. } = self;
        let store = &turn.store;
        let human = Some(peers.human().as_str());
        let kind = Some(MessageType::Alert);
        let filter = MessageFilter { to: human, unread: true, kind, after, limit: max as i64, ..Default::default() };
        // If the database can't be read, no alerts are returned. Other operations report the failure.
        let alerts = store.messages(&filter).unwrap_or_default();
        let n_all = if alerts.len() < max { 0 } else { store.count_unread_of(&filter).unwrap_or_default() };
        let n_more = (n_all as u64).saturating_sub(alerts.len() as u64);
        (alerts.iter().map(|alert| mail.whole_row(store, peers, alert, MailView::Unread, human)).collect(), n_more)
    }

    /// The sequence number of the last message.
    pub fn last_message(&self) -> i64 {
        self.turn.store.last_message()
    }
}
