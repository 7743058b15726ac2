//! The ledger that the test keeps beside the mesh: what was asked, what was acknowledged, what was read. What does not
//! fit is recorded as a breach, and a run with a breach fails.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

/// A text on its way to one reader.
#[derive(Debug, Default)]
pub struct SentMessage {
    /// Whether its sender saw an `ok`. If not, the text may or may not arrive.
    pub acked: bool,
    /// How often its reader received the whole text, and how many of these times it came without the mark `again`.
    pub n_read: u32,
    n_unmarked: u32,
}

/// A lock that its holder was told of and has not unlocked.
#[derive(Debug, Clone, PartialEq)]
pub struct Hold {
    pub holder: String,
    pub token: i64,
}

/// The part of a text before its first colon. No other text begins with it.
pub fn head(text: &str) -> &str {
    text.split(':').next().unwrap_or("")
}

/// Everything that is known from outside the mesh.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Messages, by reader and text.
    pub messages: HashMap<(String, String), SentMessage>,
    /// Ids under which a reader received each text. Two ids mean that the text was sent twice.
    ids: HashMap<(String, String), BTreeSet<String>>,
    /// Parts of long messages, by reader and message id.
    parts: HashMap<(String, String), BTreeMap<u64, String>>,
    /// Acknowledged grants: holder, path, token.
    pub grants: HashSet<(String, String, i64)>,
    /// Grants by path, for as long as their holder may count on them.
    pub held: HashMap<String, Hold>,
    /// Grants to a second holder while the first one still counted on its own grant: path, first, second.
    pub followed: Vec<(String, Hold, Hold)>,
    /// Lock and unlock requests whose answers were lost: the caller and the path.
    pub unsure: HashSet<(String, String)>,
    /// Unlock requests, whether the answer arrived or not: the caller and the path.
    pub returns: HashSet<(String, String)>,
    /// Grants whose unlock was acknowledged: path and token.
    pub freed: HashSet<(String, i64)>,
    /// The highest token that any caller was told.
    pub top_token: i64,
    /// Versions that were acknowledged to a compare-and-set.
    pub versions: BTreeSet<i64>,
    /// Counters: the last value whose write was acknowledged, and the last that was asked for.
    pub counters: HashMap<String, (i64, i64)>,
    /// How many fetches over HTTP lost their answer, by reader. The messages in these answers still count as read.
    pub lost_fetches: HashMap<String, u32>,
    /// For each kind of caller: the number of its calls, how many of them were lost or refused as `gone`, and the
    /// longest time of a call that did not wait.
    pub calls: BTreeMap<&'static str, (u64, u64, Duration)>,
    /// How many calls were refused, by caller, call and reason.
    pub refusals: BTreeMap<String, u64>,
    /// Messages that came with the mark `again`.
    pub n_again: u64,
    /// What must not have happened.
    pub breaches: Vec<String>,
}

impl Ledger {
    /// Records that something happened which must never happen.
    pub fn breach(&mut self, text: String) {
        if self.breaches.len() < 50 {
            self.breaches.push(text);
        }
    }

    /// Records that a text is about to be sent to these readers.
    pub fn sending(&mut self, readers: &[String], text: &str) {
        for reader in readers {
            self.messages.insert((reader.clone(), text.to_owned()), SentMessage::default());
        }
    }

    /// Records that the sender of a text was told that the text is in these mailboxes.
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
            let again = message["again"] == Value::Bool(true);
            let place = (reader.to_owned(), text);
            let Some(sent) = self.messages.get_mut(&place) else {
                self.breach(format!("{reader} read what nobody sent it: {message:.200}"));
                continue;
            };
            sent.n_read += 1;
            sent.n_unmarked += u32::from(!again);
            // If two workers read one mailbox, the copy with the mark may be recorded before the one without it.
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

    /// The text of a message, as soon as its last part is here.
    fn whole(&mut self, reader: &str, id: &str, said: &str, message: &Value) -> Option<String> {
        let Some(n_parts) = message["parts"].as_u64() else { return Some(said.to_owned()) };
        let parts = self.parts.entry((reader.to_owned(), id.to_owned())).or_default();
        parts.insert(message["part"].as_u64().unwrap_or(0), said.to_owned());
        (parts.len() as u64 == n_parts).then(|| parts.values().map(String::as_str).collect())
    }

    /// Records that a holder was told that it holds a path. `floor` is the highest token that any caller knew when the
    /// holder made the request.
    pub fn granted(&mut self, holder: &str, path: &str, token: i64, floor: i64) {
        let grant = (holder.to_owned(), path.to_owned(), token);
        // The lock may have been granted by an earlier call whose answer was lost.
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

    /// Records that a holder was told that it has unlocked a path.
    pub fn returned(&mut self, path: &str, hold: Option<Hold>) {
        self.freed.extend(hold.map(|hold| (path.to_owned(), hold.token)));
    }

    /// Forgets the locks of a holder that was killed.
    pub fn died(&mut self, holder: &str) {
        self.held.retain(|_, hold| hold.holder != holder);
    }

    /// Records that a call has ended.
    pub fn called(&mut self, who: &'static str, took: Duration, waited: bool, lost: bool) {
        let (n_calls, n_lost, slowest) = self.calls.entry(who).or_default();
        *n_calls += 1;
        *n_lost += u64::from(lost);
        if !waited {
            *slowest = (*slowest).max(took);
        }
    }
}
