//! The test's own record of all requests, acknowledgements and received messages. Each contradiction is recorded as a
//! breach, and a run with a breach fails.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

/// A message that was sent to one reader.
#[derive(Debug, Default)]
pub struct SentMessage {
    /// Whether the sender got the answer `ok`. Without this answer, the message may or may not arrive.
    pub acked: bool,
    /// How often the reader received the whole message, and how often the message came without the mark `again`.
    pub n_read: u32,
    n_unmarked: u32,
}

/// A lock that was granted in an answer, and that its holder has not released.
#[derive(Debug, Clone, PartialEq)]
pub struct Hold {
    pub holder: String,
    pub token: i64,
}

/// The part of a message before its first colon. It is different for each message.
pub fn head(text: &str) -> &str {
    text.split(':').next().unwrap_or("")
}

/// All that the clients in this test know from their own requests and answers.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Sent messages, by reader and text.
    pub messages: HashMap<(String, String), SentMessage>,
    /// For each reader and text, the ids of the received messages. Two ids for one text mean that the mesh stored the
    /// message twice.
    ids: HashMap<(String, String), BTreeSet<String>>,
    /// The received parts of long messages, by reader and message id.
    parts: HashMap<(String, String), BTreeMap<u64, String>>,
    /// The locks that were granted in an answer: holder, path, token.
    pub grants: HashSet<(String, String, i64)>,
    /// For each path, the current lock, as far as the lock's holder knows.
    pub held: HashMap<String, Hold>,
    /// Locks that were granted to a later holder before the earlier holder knew that its own lock had ended: path,
    /// earlier holder, later holder.
    pub followed: Vec<(String, Hold, Hold)>,
    /// Lock and unlock requests whose answers were lost: the caller and the path.
    pub unsure: HashSet<(String, String)>,
    /// All unlock requests, with or without an answer: the caller and the path.
    pub returns: HashSet<(String, String)>,
    /// Locks that an answer reported as released: path and token.
    pub freed: HashSet<(String, i64)>,
    /// The highest token in any answer.
    pub top_token: i64,
    /// The versions of the shared entry in the answers to successful compare-and-set calls.
    pub versions: BTreeSet<i64>,
    /// For each counter, the last acknowledged value, and the last value that a worker tried to write.
    pub counters: HashMap<String, (i64, i64)>,
    /// For each reader, the number of HTTP fetches whose answers were lost. Such a fetch still marks messages as read.
    pub lost_fetches: HashMap<String, u32>,
    /// For each kind of client: the number of its calls, the number of calls that were lost or refused as `gone`, and
    /// the time of the slowest call. The time does not include calls that wait on purpose.
    pub calls: BTreeMap<&'static str, (u64, u64, Duration)>,
    /// The number of refused calls, by kind of client, call and reason.
    pub refusals: BTreeMap<String, u64>,
    /// The number of received messages with the mark `again`.
    pub n_again: u64,
    /// Events and answers that break a promise of the mesh. Each makes the test fail.
    pub breaches: Vec<String>,
}

impl Ledger {
    /// Records an event or an answer that breaks a promise of the mesh.
    pub fn breach(&mut self, text: String) {
        if self.breaches.len() < 50 {
            self.breaches.push(text);
        }
    }

    /// Records that a message is going to be sent to these readers.
    pub fn sending(&mut self, readers: &[String], text: &str) {
        for reader in readers {
            self.messages.insert((reader.clone(), text.to_owned()), SentMessage::default());
        }
    }

    /// Records that the sender got the answer `ok`: the message is in the mailboxes of these readers.
    pub fn sent(&mut self, readers: &[String], text: &str) {
        for reader in readers {
            match self.messages.get_mut(&(reader.clone(), text.to_owned())) {
                Some(message) => message.acked = true,
                None => self.breach(format!("{reader} is said to have {}, which was not sent there", head(text))),
            }
        }
    }

    /// Records that a reader received these messages.
    pub fn read(&mut self, reader: &str, messages: &[Value]) {
        for message in messages {
            let id = message["id"].as_str().unwrap_or_default().to_owned();
            let said = message["payload"].as_str().unwrap_or_default();
            let Some(text) = self.whole(reader, &id, said, message) else { continue };
            let again = message["redelivered"] == Value::Bool(true);
            let place = (reader.to_owned(), text);
            let Some(sent) = self.messages.get_mut(&place) else {
                self.breach(format!("{reader} read what nobody sent it: {message:.200}"));
                continue;
            };
            sent.n_read += 1;
            sent.n_unmarked += u32::from(!again);
            // Two workers may read the same mailbox. The message with the mark `again` may then be recorded before the
            // same message without the mark.
            let n_unmarked = sent.n_unmarked;
            let ids = self.ids.entry(place.clone()).or_default();
            ids.insert(id);
            let n_ids = ids.len();
            self.n_again += u64::from(again);
            if n_unmarked > 1 {
                self.breach(format!("{reader} read {} {n_unmarked} times unmarked: {message:.300}", head(&place.1)));
            }
            if n_ids > 1 {
                self.breach(format!("{reader} has {} under {n_ids} ids", head(&place.1)));
            }
        }
    }

    /// The whole text of a message; `None` while parts of it are missing.
    fn whole(&mut self, reader: &str, id: &str, said: &str, message: &Value) -> Option<String> {
        let Some(n_parts) = message["parts"].as_u64() else { return Some(said.to_owned()) };
        let parts = self.parts.entry((reader.to_owned(), id.to_owned())).or_default();
        parts.insert(message["part"].as_u64().unwrap_or(0), said.to_owned());
        (parts.len() as u64 == n_parts).then(|| parts.values().map(String::as_str).collect())
    }

    /// Records that a caller got a lock on a path. `floor` is the highest token in any answer before this request. A
    /// new lock must have a higher token.
    pub fn granted(&mut self, holder: &str, path: &str, token: i64, floor: i64) {
        let grant = (holder.to_owned(), path.to_owned(), token);
        // If an earlier call took the lock and the answer to that call was lost, the token need not be higher than
        // `floor`.
        let is_late = self.unsure.remove(&(holder.to_owned(), path.to_owned()));
        let is_new = self.grants.insert(grant);
        if is_new && !is_late && token <= floor {
            self.breach(format!("{holder} got {path} with token {token}, after {floor} was told"));
        }
        let hold = Hold { holder: holder.to_owned(), token };
        let before = self.held.insert(path.to_owned(), hold.clone());
        if let Some(before) = before.filter(|before| before.holder != holder) {
            self.followed.push((path.to_owned(), before, hold));
        }
        self.top_token = self.top_token.max(token);
    }

    /// Records that an answer reported the release of a caller's lock on a path.
    pub fn returned(&mut self, path: &str, hold: Option<Hold>) {
        self.freed.extend(hold.map(|hold| (path.to_owned(), hold.token)));
    }

    /// Forgets the locks of a killed session, because these locks end with the session.
    pub fn died(&mut self, holder: &str) {
        self.held.retain(|_, hold| hold.holder != holder);
    }

    /// Counts a call that has ended, and records how long it took.
    pub fn called(&mut self, who: &'static str, took: Duration, waited: bool, lost: bool) {
        let (n_calls, n_lost, slowest) = self.calls.entry(who).or_default();
        *n_calls += 1;
        *n_lost += u64::from(lost);
        if !waited {
            *slowest = (*slowest).max(took);
        }
    }
}
