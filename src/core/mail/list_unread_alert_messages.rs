//! Alerts to people. An alert is a message of the type `alert`. It must reach the person even if the person is not
//! looking at the mesh. Only this broker notifies people. So it also notifies the people at machines without a broker.

use super::MailView;
use crate::base::domain_enums::{MessageType, PeerKind};
use crate::base::id_types::MessageSeq;
use crate::core::Mesh;
use crate::core::peers::{Peer, Peers};
use crate::store::{Message, MessageFilter};
use serde_json::{Value, json};

/// Whether a message is an alert to a person. If a group got the alert, only the copy for the person at this machine
/// counts.
pub(super) fn is_alert(peers: &Peers, message: &Message) -> bool {
    message.kind == MessageType::Alert
        && (message.recipient == *peers.human()
            || message.group.is_none() && peers.get(&message.recipient).is_some_and(is_person))
}

/// Whether a peer is a person of this mesh. A linked mesh notifies its own people.
fn is_person(peer: &Peer) -> bool {
    peer.row.kind == PeerKind::Human && !peer.row.is_linked()
}

impl Mesh {
    /// Returns the first `max` unread alerts to people, and the number of further alerts. Only alerts after the
    /// sequence number `after` count. The alerts have the same form as in the inbox, and the oldest alert comes first. If
    /// an alert is to a person at another machine, `toName` is the name of this person.
    pub fn unread_alerts(&self, after: MessageSeq, max: usize) -> (Vec<Value>, u64) {
        let Mesh { turn, peers, mail, .. } = self;
        let store = &turn.store;
        let (mut alerts, mut n_all) = (Vec::new(), 0);
        for person in peers.all().iter().filter(|peer| is_person(peer)).map(|peer| &peer.row.id) {
            if mail.count_unread(store, person).is_ok_and(|n| n == 0) {
                continue;
            }
            let filter = MessageFilter {
                to: Some(person),
                unread: true,
                kind: Some(MessageType::Alert),
                direct: person != peers.human(),
                after,
                limit: max as i64,
                ..MessageFilter::default()
            };
            // If the database can't be read, no alerts are returned. Other operations report the failure.
            let found = store.messages(&filter).unwrap_or_default();
            let is_all = found.len() < max;
            n_all += if is_all { found.len() as i64 } else { store.count_unread_of(&filter).unwrap_or_default() };
            alerts.extend(found);
            alerts.sort_by_key(|alert| alert.seq);
            alerts.truncate(max);
        }
        let n_more = (n_all as u64).saturating_sub(alerts.len() as u64);
        let row = |alert: &Message| {
            let mut row = mail.whole_row(store, peers, alert, MailView::Unread, Some(&alert.recipient));
            if alert.recipient != *peers.human() {
                row["toName"] = json!(peers.name_of(&alert.recipient));
            }
            row
        };
        (alerts.iter().map(row).collect(), n_more)
    }

    /// The sequence number of the last message.
    pub fn last_message(&self) -> MessageSeq {
        self.turn.store.last_message()
    }
}
