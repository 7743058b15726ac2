//! The state of the view: peers, locks, messages and events. It is collected from the broker's events and answers.
//!
//! **Invariant:** the view reports a message as read only if the message was sent to the user and the user has opened
//! it. All other messages stay unread for their recipients.

use super::sanitize_and_wrap_text::tame;
use crate::base::domain_enums::MessageState;
use crate::base::time_format;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// How many messages, and how many events, the view keeps for scrolling back.
const KEPT: usize = 200;
/// Maximum number of names of peers that the view keeps.
const NAMES_MAX: usize = 4096;

/// The parts of the screen, from top to bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pane {
    /// The peers that are online.
    Peers,
    /// The active locks.
    Locks,
    /// Recent messages.
    Mail,
    /// All events.
    Events,
}

/// All panes, from top to bottom.
pub const PANES: [Pane; 4] = [Pane::Peers, Pane::Locks, Pane::Mail, Pane::Events];

/// A message to one peer or to a group.
#[derive(Debug, Clone)]
pub struct WatchedMessage {
    /// The message's id, or, for a group message, a key that all copies share.
    pub key: String,
    /// The sender's id.
    pub from: String,
    /// The recipient's id, or the group's name.
    pub to: String,
    /// The number of recipients; `None` if the message did not go to a group.
    pub group: Option<i64>,
    /// The known receipts of the message's copies, by recipient id. Only a message to a group has several copies.
    pub copies: BTreeMap<String, MessageState>,
    /// When the message was sent, in ms.
    pub at: i64,
    /// The receipt of the message; `None` if the broker has not sent a receipt that this program knows.
    pub receipt: Option<MessageState>,
    /// The message as the broker returned it, with its text; `None` until the broker has returned it.
    pub row: Option<Value>,
    /// The user's own copy of the message, if the user is a recipient.
    pub own: Option<Value>,
}

impl WatchedMessage {
    /// Returns how many copies have been read, as far as the view knows.
    pub fn n_read(&self) -> usize {
        let counts = self.row.as_ref().map(|row| &row["receipts"]).filter(|counts| counts.is_object());
        if let Some(counts) = counts.filter(|_| self.copies.is_empty()) {
            let read = [MessageState::Read, MessageState::Acked];
            return read.iter().filter_map(|state| counts[state.word()].as_u64()).sum::<u64>() as usize;
        }
        self.copies.values().filter(|receipt| receipt.is_read()).count()
    }
}

/// What the user types into the input line at the bottom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputPrompt {
    /// The filter text. The view shows only the projects whose path contains this text.
    Filter,
    /// The text of a message to this peer.
    Write(String),
    /// The words to search for.
    Search,
}

/// How keys are interpreted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputMode {
    /// Move between panes and rows.
    Browse,
    /// Edit the input line.
    #[allow(missing_docs)]
    Type { prompt: InputPrompt, text: String },
    /// Confirm the release of a lock. `own` is true if the user holds the lock.
    #[allow(missing_docs)]
    Confirm { path: String, holder: String, own: bool, token: i64 },
    /// Show text over the panes.
    #[allow(missing_docs)]
    Open { title: String, body: String, scroll: usize },
}

/// The state of the view.
#[derive(Debug)]
pub struct WatchModel {
    /// The id and the name of the user's peer.
    pub me: (String, String),
    /// The rows in the last answer of `peers`.
    pub peers: Vec<Value>,
    /// The rows in the last answer of `lock.query`.
    pub locks: Vec<Value>,
    /// The recent messages, newest first.
    pub mail: VecDeque<WatchedMessage>,
    /// The recent events, newest first.
    pub events: VecDeque<Value>,
    /// The number of the user's unread messages.
    pub unread: i64,
    /// The name of the hub that leads, and the number of standbys; `None` if the mesh has only one hub.
    pub hubs: Option<(String, usize)>,
    /// When the rows of peers and of locks arrived, in ms. The idle times and leases in the rows are relative to these
    /// times.
    pub received_at: (i64, i64),
    /// The filter: only projects whose path contains this text are shown.
    pub filter: String,
    /// The pane that has the focus.
    pub pane: Pane,
    /// For each pane, the key of the selected row. `None` means the first row, even after the rows change.
    pub selected: [Option<String>; 4],
    /// How keys are interpreted.
    pub mode: InputMode,
    /// The result of the user's last action.
    pub note: String,
    /// Why no broker is connected; `None` if a broker is connected.
    pub offline: Option<String>,
    /// Which lists must be requested again, because events have changed them.
    pub stale: StaleLists,
    names: HashMap<String, String>,
    projects: HashMap<String, String>,
}

/// Lists that must be requested again.
#[allow(missing_docs)] // the names say which lists
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StaleLists {
    pub peers: bool,
    pub locks: bool,
    pub mail: bool,
    pub names: bool,
}

impl WatchModel {
    /// An empty model for the user with this id and name.
    pub fn new(id: &str, name: &str) -> WatchModel {
        WatchModel {
            me: (id.to_owned(), name.to_owned()),
            peers: Vec::new(),
            locks: Vec::new(),
            mail: VecDeque::new(),
            events: VecDeque::new(),
            unread: 0,
            hubs: None,
            received_at: (0, 0),
            filter: String::new(),
            pane: Pane::Peers,
            selected: [const { None }; 4],
            mode: InputMode::Browse,
            note: String::new(),
            offline: None,
            stale: StaleLists { peers: true, locks: true, mail: true, names: true },
            names: HashMap::from([(id.to_owned(), name.to_owned())]),
            projects: HashMap::new(),
        }
    }

    /// Applies an event.
    pub fn apply_event(&mut self, row: Value) {
        let (kind, payload) = (word(&row["type"]), &row["payload"]);
        let (by, name) = (word(&row["emittedBy"]), word(&row["emittedByName"]));
        if name != by {
            self.learn_name(by, name, None);
        }
        match kind {
            "message_received" => self.message_sent(&row),
            "message_read" => self.message_read(payload),
            "file_locked" | "file_unlocked" => self.stale.locks = true,
            "peer_joined" => {
                self.learn_name(word(&payload["peerId"]), word(&payload["name"]), payload["projectPath"].as_str());
                self.stale.peers = true;
            }
            // The peer that left may have been waiting for a lock, so the list of locks is fetched again.
            "peer_left" => (self.stale.peers, self.stale.locks) = (true, true),
            "peer_updated" => self.stale.peers = true,
            _ => {}
        }
        self.events.push_front(row);
        self.events.truncate(KEPT);
    }

    fn message_sent(&mut self, row: &Value) {
        let payload = &row["payload"];
        let (from, to, at) = (word(&payload["fromPeer"]), word(&payload["toPeer"]), word(&row["createdAt"]));
        let group = payload["count"].as_i64();
        let key = payload["messageId"].as_str().map_or_else(|| group_key(from, to, at), str::to_owned);
        self.stale.peers = true;
        self.stale.mail = true;
        self.stale.names |= group.is_none() && !self.names.contains_key(to);
        if let Some(known) = self.mail.iter_mut().find(|mail| mail.key == key) {
            known.group = group;
            return;
        }
        self.insert_message(WatchedMessage {
            key,
            from: from.to_owned(),
            to: to.to_owned(),
            group,
            copies: BTreeMap::new(),
            at: time_format::parse(at).unwrap_or(0),
            receipt: Some(MessageState::Accepted),
            row: None,
            own: None,
        });
    }

    fn message_read(&mut self, payload: &Value) {
        let id = word(&payload["messageId"]);
        self.stale.peers = true;
        self.stale.mail = true;
        // The receipt `acked` implies that the message was read, so an acknowledged message keeps this receipt.
        let mail = self.mail.iter_mut().find(|mail| mail.key == id && mail.receipt != Some(MessageState::Acked));
        if let Some(mail) = mail {
            mail.receipt = Some(MessageState::Read);
        }
    }

    fn insert_message(&mut self, mail: WatchedMessage) {
        let place = self.mail.iter().position(|other| other.at <= mail.at).unwrap_or(self.mail.len());
        self.mail.insert(place, mail);
        self.mail.truncate(KEPT);
    }

    /// Applies the answer of `peers`.
    pub fn set_peers(&mut self, value: &Value, now: i64) {
        self.peers = rows(value, "peers");
        self.received_at.0 = now;
        self.learn_names(value);
        self.peers.sort_by_key(|row| word(&row["name"]).to_lowercase());
    }

    /// Records which hub leads, and how many standbys there are.
    pub fn set_hubs(&mut self, status: &Value) {
        let standbys = status["standbys"].as_array().map_or(0, Vec::len);
        self.hubs = status["leader"].as_str().map(|leader| (leader.to_owned(), standbys));
    }

    /// Collects the names and projects of peers from an answer of `peers`.
    pub fn learn_names(&mut self, value: &Value) {
        for row in rows(value, "peers") {
            self.learn_name(word(&row["id"]), word(&row["name"]), row["projectPath"].as_str());
        }
    }

    /// Applies the answer of `lock.query`.
    pub fn set_locks(&mut self, value: &Value, now: i64) {
        self.locks = rows(value, "locks");
        self.received_at.1 = now;
        for row in self.locks.clone() {
            self.learn_name(word(&row["lockedBy"]), word(&row["holder"]), None);
        }
    }

    /// Applies an answer of `log`, or an answer of `inbox` with messages that the user received or sent.
    pub fn add_messages(&mut self, value: &Value) {
        let rows = rows(value, "messages");
        // An answer of `inbox` has one row for each copy of a group message. The view shows all copies as one message.
        for row in rows {
            self.learn_name(word(&row["fromPeer"]), word(&row["fromName"]), None);
            if row["toName"].is_string() {
                self.learn_name(word(&row["toPeer"]), word(&row["toName"]), None);
            }
            let key = row_key(&row);
            let group = row["group"].as_str();
            let own = Some(row.clone()).filter(|row| word(&row["toPeer"]) == self.me.0);
            // An answer of `log` has one row for all copies of a message. Other answers have one row for each copy.
            let is_copy = group.is_some() && row["toName"].is_string() && row["copies"].is_null();
            let receipt = MessageState::from_word(word(&row["receipt"]));
            let copy = receipt.filter(|_| is_copy).map(|receipt| (word(&row["toPeer"]).to_owned(), receipt));
            if let Some(known) = self.mail.iter_mut().find(|mail| mail.key == key) {
                known.copies.extend(copy);
                known.group = known.group.max(row["copies"].as_i64());
                known.receipt = receipt;
                known.own = own.or_else(|| known.own.take());
                let is_earlier = |old: &Value| row["seq"].as_i64() <= old["seq"].as_i64();
                // Only rows of `log` have the receipts of all copies and the whole text of a long message. A row
                // without these receipts or this text does not replace a row that has them.
                let loses_receipts = |old: &Value| row["receipts"].is_null() && !old["receipts"].is_null();
                let loses_text = |old: &Value| row["parts"].is_i64() && old["parts"].is_null();
                let is_better = |old: &Value| is_earlier(old) && !loses_receipts(old) && !loses_text(old);
                if known.row.as_ref().is_none_or(is_better) {
                    known.row = Some(row);
                }
                continue;
            }
            self.insert_message(WatchedMessage {
                key,
                copies: BTreeMap::from_iter(copy),
                from: word(&row["fromPeer"]).to_owned(),
                to: group.unwrap_or_else(|| word(&row["toPeer"])).to_owned(),
                group: group.map(|_| row["copies"].as_i64().unwrap_or(0)),
                at: time_format::parse(word(&row["createdAt"])).unwrap_or(0),
                receipt,
                own,
                row: Some(row),
            });
        }
    }

    fn learn_name(&mut self, id: &str, name: &str, project: Option<&str>) {
        if id.is_empty() || name.is_empty() || self.names.len() >= NAMES_MAX && !self.names.contains_key(id) {
            return;
        }
        self.names.insert(id.to_owned(), name.to_owned());
        if let Some(project) = project {
            self.projects.insert(id.to_owned(), project.to_owned());
        }
    }

    /// A peer's name, or the beginning of the peer's id if the name is unknown.
    pub fn name(&self, id: &str) -> String {
        match self.names.get(id) {
            Some(name) => tame(name),
            None => tame(&id.chars().take(8).collect::<String>()),
        }
    }

    /// The directory of a peer's project, if it is known.
    pub fn project(&self, id: &str) -> Option<&str> {
        self.projects.get(id).map(String::as_str)
    }

    /// The directories of all known projects.
    pub fn projects(&self) -> impl Iterator<Item = &str> {
        self.projects.values().map(String::as_str)
    }

    /// Whether the screen changes as time passes, even if nothing else happens.
    pub fn changes_with_time(&self) -> bool {
        !self.peers.is_empty() || !self.locks.is_empty() || !self.mail.is_empty() || !self.events.is_empty()
    }
}

/// Returns the text of a JSON string. Returns an empty string for any other value.
pub fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn rows(value: &Value, name: &str) -> Vec<Value> {
    value[name].as_array().cloned().unwrap_or_default()
}

fn group_key(from: &str, group: &str, at: &str) -> String {
    format!("{from} {group} {at}")
}

fn row_key(row: &Value) -> String {
    match row["group"].as_str() {
        Some(group) => group_key(word(&row["fromPeer"]), group, word(&row["createdAt"])),
        None => word(&row["id"]).to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// Creates an event that reports a message.
    pub fn sent(id: &str, from: &str, to: &str, at: &str) -> Value {
        json!({ "type": "message_received", "seq": 1, "createdAt": at, "emittedBy": from, "emittedByName": from,
            "payload": { "messageId": id, "fromPeer": from, "toPeer": to } })
    }

    #[test]
    fn a_message_goes_from_sent_to_read_and_gets_its_text_with_an_answer() {
        let mut model = WatchModel::new("h", "human");
        model.stale = StaleLists::default();
        model.apply_event(sent("m1", "a", "b", "2026-01-01T00:00:00.000Z"));
        assert_eq!(model.stale, StaleLists { peers: true, names: true, mail: true, ..StaleLists::default() });
        assert_eq!((model.mail[0].receipt, model.mail[0].row.is_none()), (Some(MessageState::Accepted), true));
        let read = json!({ "messageId": "m1", "fromPeer": "a", "toPeer": "b" });
        model.apply_event(json!({ "type": "message_read", "seq": 2, "payload": read }));
        assert_eq!((model.mail[0].receipt, model.stale.mail), (Some(MessageState::Read), true));
        model.apply_event(sent("m2", "a", "h", "2026-01-01T00:00:01.000Z"));
        let row = json!({ "id": "m2", "fromPeer": "a", "toPeer": "h", "fromName": "claude", "receipt": "offered",
            "payload": "hello", "createdAt": "2026-01-01T00:00:01.000Z" });
        model.add_messages(&json!({ "messages": [row] }));
        assert_eq!((model.mail.len(), model.mail[0].receipt), (2, Some(MessageState::Offered)));
        assert_eq!((model.name("a"), model.name("0123456789")), ("claude".into(), "01234567".into()));
    }

    #[test]
    fn a_message_to_a_group_is_one_line_with_a_count_of_its_readers() {
        let mut model = WatchModel::new("h", "human");
        let at = "2026-01-01T00:00:00.000Z";
        let row = |id: &str, receipt: &str| {
            json!({ "id": id, "fromPeer": "h", "toPeer": id, "toName": id, "fromName": "human", "receipt": receipt,
                "group": "all", "payload": "x", "createdAt": at })
        };
        let payload = json!({ "fromPeer": "h", "toPeer": "all", "count": 3 });
        model.apply_event(
            json!({ "type": "message_received", "seq": 1, "createdAt": at, "emittedBy": "h", "payload": payload }),
        );
        model.add_messages(&json!({ "messages": [row("1", "read"), row("2", "accepted"), row("3", "acked")] }));
        assert_eq!((model.mail.len(), model.mail[0].group, model.mail[0].n_read()), (1, Some(3), 2));
    }

    #[test]
    fn a_selected_row_stays_selected_when_others_arrive() {
        let mut model = WatchModel::new("h", "human");
        model.apply_event(sent("m1", "a", "b", "2026-01-01T00:00:00.000Z"));
        model.apply_event(sent("m2", "a", "b", "2026-01-01T00:00:01.000Z"));
        model.selected[Pane::Mail as usize] = Some("m1".into());
        assert_eq!(model.selected_row(Pane::Mail), 1);
        model.apply_event(sent("m3", "a", "b", "2026-01-01T00:00:02.000Z"));
        assert_eq!(
            (model.selected_row(Pane::Mail), model.row_keys(Pane::Mail)),
            (2, vec!["m3".into(), "m2".into(), "m1".into()])
        );
        for n in 0..300 {
            model.apply_event(sent(&format!("n{n}"), "a", "b", "2026-01-01T00:00:03.000Z"));
        }
        assert_eq!((model.mail.len(), model.events.len(), model.selected_row(Pane::Mail)), (KEPT, KEPT, 0));
    }
}
