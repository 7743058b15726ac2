//! What the view knows: peers, locks, messages and events, as events and answers tell of them.
//!
//! **Invariant:** the text of a message is here only if whom this acts as sent or got it.

use super::text::tame;
use crate::base::time;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Messages and events that are kept for looking back.
const KEPT: usize = 200;
/// Names of peers that are kept.
const NAMES_MAX: usize = 4096;

/// The parts of the screen, from above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pane {
    /// Who is here.
    Peers,
    /// The locks in force.
    Locks,
    /// Recent messages.
    Mail,
    /// Everything that happens.
    Events,
}

/// All panes, in their order.
pub const PANES: [Pane; 4] = [Pane::Peers, Pane::Locks, Pane::Mail, Pane::Events];

/// A message, or one to a group.
#[derive(Debug, Clone)]
pub struct Mail {
    /// Its id; for a group what all of its copies share.
    pub key: String,
    /// The sender's id.
    pub from: String,
    /// The recipient's id, or the group's word.
    pub to: String,
    /// To how many, if to a group.
    pub group: Option<i64>,
    /// How far each copy of ours to a group got, as far as is known, by its recipient's id.
    pub copies: BTreeMap<String, String>,
    /// When it was sent, ms.
    pub at: i64,
    /// How far it got.
    pub receipt: String,
    /// Its row, if it is ours to read.
    pub row: Option<Value>,
}

impl Mail {
    /// How many copies were read, as far as is known.
    pub fn n_read(&self) -> usize {
        self.copies.values().filter(|receipt| ["read", "acked"].contains(&receipt.as_str())).count()
    }
}

/// What a question at the bottom is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Which project to show.
    Filter,
    /// What to write to a peer.
    Write(String),
}

/// What the keys mean now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Moving about.
    Look,
    /// A line is being typed.
    #[allow(missing_docs)]
    Type { prompt: Prompt, text: String },
    /// A lock is to be released: its path, its holder's name, and whether it is our own.
    #[allow(missing_docs)]
    Confirm { path: String, holder: String, own: bool, token: i64 },
    /// Something is open over the panes.
    #[allow(missing_docs)]
    Open { title: String, body: String, scroll: usize },
}

/// What is known.
#[derive(Debug)]
pub struct Model {
    /// Id and name of whom this acts as.
    pub me: (String, String),
    /// Rows of `peers`.
    pub peers: Vec<Value>,
    /// Rows of `lock.query`.
    pub locks: Vec<Value>,
    /// Newest first.
    pub mail: VecDeque<Mail>,
    /// Newest first.
    pub events: VecDeque<Value>,
    /// Unread messages for whom this acts as.
    pub unread: i64,
    /// When the rows of peers and locks came, ms: their idle times and leases count from there.
    pub told: (i64, i64),
    /// Text that a project's path must have in it.
    pub filter: String,
    /// Where the keys go.
    pub pane: Pane,
    /// The chosen row of each pane; none follows the first.
    pub chosen: [Option<String>; 4],
    /// What the keys mean.
    pub mode: Mode,
    /// What happened last to what was asked for.
    pub note: String,
    /// Why there is no broker, if there is none.
    pub offline: Option<String>,
    /// Lists that events made old.
    pub stale: Stale,
    names: HashMap<String, String>,
    projects: HashMap<String, String>,
}

/// Lists that are to be asked for anew.
#[allow(missing_docs)] // their names say which
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stale {
    pub peers: bool,
    pub locks: bool,
    pub mail: bool,
    pub names: bool,
}

impl Model {
    /// Nothing is known yet but whom this acts as.
    pub fn new(id: &str, name: &str) -> Model {
        Model {
            me: (id.to_owned(), name.to_owned()),
            peers: Vec::new(),
            locks: Vec::new(),
            mail: VecDeque::new(),
            events: VecDeque::new(),
            unread: 0,
            told: (0, 0),
            filter: String::new(),
            pane: Pane::Peers,
            chosen: [const { None }; 4],
            mode: Mode::Look,
            note: String::new(),
            offline: None,
            stale: Stale { peers: true, locks: true, mail: true, names: true },
            names: HashMap::from([(id.to_owned(), name.to_owned())]),
            projects: HashMap::new(),
        }
    }

    /// Something happened.
    pub fn event(&mut self, row: Value) {
        let (kind, payload) = (word(&row["type"]), &row["payload"]);
        let (by, name) = (word(&row["emittedBy"]), word(&row["emittedByName"]));
        if name != by {
            self.learn(by, name, None);
        }
        match kind {
            "message_received" => self.sent(&row),
            "message_read" => self.read(payload),
            "file_locked" | "file_unlocked" => self.stale.locks = true,
            "peer_joined" => {
                self.learn(word(&payload["peerId"]), word(&payload["name"]), payload["projectPath"].as_str());
                self.stale.peers = true;
            }
            // Who left may have waited in line.
            "peer_left" => (self.stale.peers, self.stale.locks) = (true, true),
            "peer_updated" => self.stale.peers = true,
            _ => {}
        }
        self.events.push_front(row);
        self.events.truncate(KEPT);
    }

    fn sent(&mut self, row: &Value) {
        let payload = &row["payload"];
        let (from, to, at) = (word(&payload["fromPeer"]), word(&payload["toPeer"]), word(&row["createdAt"]));
        let group = payload["count"].as_i64();
        let key = payload["messageId"].as_str().map_or_else(|| group_key(from, to, at), str::to_owned);
        self.stale.peers = true;
        self.stale.mail |= from == self.me.0 || to == self.me.0 || group.is_some();
        self.stale.names |= group.is_none() && !self.names.contains_key(to);
        if let Some(known) = self.mail.iter_mut().find(|mail| mail.key == key) {
            known.group = group;
            return;
        }
        self.add(Mail {
            key,
            from: from.to_owned(),
            to: to.to_owned(),
            group,
            copies: BTreeMap::new(),
            at: time::parse(at).unwrap_or(0),
            receipt: "accepted".into(),
            row: None,
        });
    }

    fn read(&mut self, payload: &Value) {
        let id = word(&payload["messageId"]);
        self.stale.peers = true;
        self.stale.mail |= [&payload["fromPeer"], &payload["toPeer"]].iter().any(|peer| word(peer) == self.me.0);
        // A message that is read may be answered, which its sender's own list knows better.
        let mail = self.mail.iter_mut().find(|mail| mail.key == id && mail.receipt != "acked");
        if let Some(mail) = mail {
            mail.receipt = "read".into();
        }
    }

    fn add(&mut self, mail: Mail) {
        let place = self.mail.iter().position(|other| other.at <= mail.at).unwrap_or(self.mail.len());
        self.mail.insert(place, mail);
        self.mail.truncate(KEPT);
    }

    /// The answer of `peers`.
    pub fn take_peers(&mut self, value: &Value, now: i64) {
        self.peers = rows(value, "peers");
        self.told.0 = now;
        self.take_names(value);
        self.peers.sort_by_key(|row| word(&row["name"]).to_lowercase());
    }

    /// The same with those that are away, for their names.
    pub fn take_names(&mut self, value: &Value) {
        for row in rows(value, "peers") {
            self.learn(word(&row["id"]), word(&row["name"]), row["projectPath"].as_str());
        }
    }

    /// The answer of `lock.query`.
    pub fn take_locks(&mut self, value: &Value, now: i64) {
        self.locks = rows(value, "locks");
        self.told.1 = now;
        for row in self.locks.clone() {
            self.learn(word(&row["lockedBy"]), word(&row["holder"]), None);
        }
    }

    /// An answer of `inbox`: mail to whom this acts as, or from it.
    pub fn take_mail(&mut self, value: &Value) {
        let rows = rows(value, "messages");
        // Rows of one group message stand for one line, and each for a copy.
        for row in rows {
            self.learn(word(&row["fromPeer"]), word(&row["fromName"]), None);
            if row["toName"].is_string() {
                self.learn(word(&row["toPeer"]), word(&row["toName"]), None);
            }
            let key = row_key(&row);
            if let Some(known) = self.mail.iter_mut().find(|mail| mail.key == key) {
                if known.group.is_some() && row["toName"].is_string() {
                    known.copies.insert(word(&row["toPeer"]).to_owned(), word(&row["receipt"]).to_owned());
                }
                known.receipt = word(&row["receipt"]).to_owned();
                known.row = Some(row);
                continue;
            }
            let group = row["group"].as_str();
            let copy = (word(&row["toPeer"]).to_owned(), word(&row["receipt"]).to_owned());
            self.add(Mail {
                key,
                copies: BTreeMap::from_iter(group.filter(|_| row["toName"].is_string()).map(|_| copy)),
                from: word(&row["fromPeer"]).to_owned(),
                to: group.unwrap_or_else(|| word(&row["toPeer"])).to_owned(),
                group: group.map(|_| 0),
                at: time::parse(word(&row["createdAt"])).unwrap_or(0),
                receipt: word(&row["receipt"]).to_owned(),
                row: Some(row),
            });
        }
    }

    fn learn(&mut self, id: &str, name: &str, project: Option<&str>) {
        if id.is_empty() || name.is_empty() || self.names.len() >= NAMES_MAX && !self.names.contains_key(id) {
            return;
        }
        self.names.insert(id.to_owned(), name.to_owned());
        if let Some(project) = project {
            self.projects.insert(id.to_owned(), project.to_owned());
        }
    }

    /// What a peer is called; the begin of its id if that is not known.
    pub fn name(&self, id: &str) -> String {
        match self.names.get(id) {
            Some(name) => tame(name),
            None => tame(&id.chars().take(8).collect::<String>()),
        }
    }

    /// Whether a peer works on a project that is shown.
    fn is_shown(&self, id: &str) -> bool {
        self.projects.get(id).is_some_and(|project| self.fits(project))
    }

    fn fits(&self, path: &str) -> bool {
        path.to_lowercase().contains(&self.filter.to_lowercase())
    }

    /// The directory of a peer's project, if it is known.
    pub fn project(&self, id: &str) -> Option<&str> {
        self.projects.get(id).map(String::as_str)
    }

    /// The directories of all projects that are known.
    pub fn projects(&self) -> impl Iterator<Item = &str> {
        self.projects.values().map(String::as_str)
    }

    /// Peers of the projects that are shown.
    pub fn shown_peers(&self) -> Vec<&Value> {
        self.peers.iter().filter(|row| self.fits(word(&row["projectPath"]))).collect()
    }

    /// Locks there, or of peers there.
    pub fn shown_locks(&self) -> Vec<&Value> {
        let fits = |row: &&Value| self.fits(word(&row["filePath"])) || self.is_shown(word(&row["lockedBy"]));
        self.locks.iter().filter(fits).collect()
    }

    /// Messages from or to peers there.
    pub fn shown_mail(&self) -> Vec<&Mail> {
        let all = self.filter.is_empty();
        self.mail.iter().filter(|mail| all || self.is_shown(&mail.from) || self.is_shown(&mail.to)).collect()
    }

    /// Events of peers there.
    pub fn shown_events(&self) -> Vec<&Value> {
        let fits = |row: &&Value| {
            let payload = &row["payload"];
            let ids = [&row["emittedBy"], &payload["peerId"], &payload["toPeer"]];
            let is_there = payload["filePath"].as_str().is_some_and(|path| self.fits(path));
            self.filter.is_empty() || is_there || ids.iter().any(|id| self.is_shown(word(id)))
        };
        self.events.iter().filter(fits).collect()
    }

    /// The keys of a pane's rows, from above.
    pub fn keys(&self, pane: Pane) -> Vec<String> {
        match pane {
            Pane::Peers => self.shown_peers().iter().map(|row| word(&row["id"]).to_owned()).collect(),
            Pane::Locks => self.shown_locks().iter().map(|row| lock_key(row)).collect(),
            Pane::Mail => self.shown_mail().iter().map(|mail| mail.key.clone()).collect(),
            Pane::Events => self.shown_events().iter().map(|row| row["seq"].to_string()).collect(),
        }
    }

    /// Where the chosen row of a pane is now: the first if it is gone.
    pub fn place(&self, pane: Pane) -> usize {
        let chosen = &self.chosen[pane as usize];
        chosen.as_ref().and_then(|key| self.keys(pane).iter().position(|other| other == key)).unwrap_or(0)
    }

    /// Whether anything on the screen changes by time alone.
    pub fn ticks(&self) -> bool {
        !self.peers.is_empty() || !self.locks.is_empty() || !self.mail.is_empty() || !self.events.is_empty()
    }
}

/// A text, or nothing.
pub fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

/// What makes a lock itself.
pub fn lock_key(row: &Value) -> String {
    format!("{} {}", row["token"], word(&row["filePath"]))
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
mod tests {
    use super::*;
    use serde_json::json;

    fn sent(id: &str, from: &str, to: &str, at: &str) -> Value {
        json!({ "type": "message_received", "seq": 1, "createdAt": at, "emittedBy": from, "emittedByName": from,
            "payload": { "messageId": id, "fromPeer": from, "toPeer": to } })
    }

    #[test]
    fn a_message_goes_from_sent_to_read_and_keeps_its_text_from_who_may_not_see_it() {
        let mut model = Model::new("h", "human");
        model.stale = Stale::default();
        model.event(sent("m1", "a", "b", "2026-01-01T00:00:00.000Z"));
        assert_eq!(model.stale, Stale { peers: true, names: true, ..Stale::default() });
        assert_eq!((model.mail[0].receipt.as_str(), model.mail[0].row.is_none()), ("accepted", true));
        let read = json!({ "messageId": "m1", "fromPeer": "a", "toPeer": "b" });
        model.event(json!({ "type": "message_read", "seq": 2, "payload": read }));
        assert_eq!((model.mail[0].receipt.as_str(), model.stale.mail), ("read", false));
        model.event(sent("m2", "a", "h", "2026-01-01T00:00:01.000Z"));
        assert!(model.stale.mail, "mail of ours can be read");
        let row = json!({ "id": "m2", "fromPeer": "a", "toPeer": "h", "fromName": "claude", "receipt": "offered",
            "payload": "hello", "createdAt": "2026-01-01T00:00:01.000Z" });
        model.take_mail(&json!({ "messages": [row] }));
        assert_eq!((model.mail.len(), model.mail[0].receipt.as_str()), (2, "offered"));
        assert_eq!((model.name("a"), model.name("0123456789")), ("claude".into(), "01234567".into()));
    }

    #[test]
    fn a_message_to_a_group_is_one_line_with_a_count_of_those_who_read_it() {
        let mut model = Model::new("h", "human");
        let at = "2026-01-01T00:00:00.000Z";
        let row = |id: &str, receipt: &str| {
            json!({ "id": id, "fromPeer": "h", "toPeer": id, "toName": id, "fromName": "human", "receipt": receipt,
                "group": "all", "payload": "x", "createdAt": at })
        };
        let payload = json!({ "fromPeer": "h", "toPeer": "all", "count": 3 });
        model.event(
            json!({ "type": "message_received", "seq": 1, "createdAt": at, "emittedBy": "h", "payload": payload }),
        );
        model.take_mail(&json!({ "messages": [row("1", "read"), row("2", "accepted"), row("3", "acked")] }));
        assert_eq!((model.mail.len(), model.mail[0].group, model.mail[0].n_read()), (1, Some(3), 2));
    }

    #[test]
    fn a_filter_shows_one_project_with_its_locks_mail_and_events() {
        let mut model = Model::new("h", "human");
        let peer = |id: &str, path: &str| json!({ "id": id, "name": id, "projectPath": path });
        model.take_peers(&json!({ "peers": [peer("b", "/work/web"), peer("a", "/work/API")] }), 0);
        assert_eq!(model.keys(Pane::Peers), ["a", "b"]);
        let lock = |by: &str, path: &str| json!({ "filePath": path, "lockedBy": by, "holder": by, "token": 1 });
        model.take_locks(&json!({ "locks": [lock("a", "/tmp/x"), lock("b", "/work/web/y")] }), 0);
        model.event(sent("m1", "a", "b", "2026-01-01T00:00:00.000Z"));
        model.event(sent("m2", "b", "h", "2026-01-01T00:00:00.000Z"));
        model.filter = "api".into();
        assert_eq!(model.keys(Pane::Peers), ["a"]);
        assert_eq!(model.keys(Pane::Locks), ["1 /tmp/x"]);
        assert_eq!(model.keys(Pane::Mail), ["m1"]);
        assert_eq!(model.shown_events().len(), 1);
    }

    #[test]
    fn a_chosen_row_stays_chosen_when_others_come() {
        let mut model = Model::new("h", "human");
        model.event(sent("m1", "a", "b", "2026-01-01T00:00:00.000Z"));
        model.event(sent("m2", "a", "b", "2026-01-01T00:00:01.000Z"));
        model.chosen[Pane::Mail as usize] = Some("m1".into());
        assert_eq!(model.place(Pane::Mail), 1);
        model.event(sent("m3", "a", "b", "2026-01-01T00:00:02.000Z"));
        assert_eq!((model.place(Pane::Mail), model.keys(Pane::Mail)), (2, vec!["m3".into(), "m2".into(), "m1".into()]));
        for n in 0..300 {
            model.event(sent(&format!("n{n}"), "a", "b", "2026-01-01T00:00:03.000Z"));
        }
        assert_eq!((model.mail.len(), model.events.len(), model.place(Pane::Mail)), (KEPT, KEPT, 0));
    }
}
