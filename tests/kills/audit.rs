//! Checks the data of the mesh after a run. Reads the data over the broker's socket, and compares it with the test's
//! ledger.

use crate::ledger::head;
use crate::support::{Socket, until};
use crate::workload::{Peer, SHARED, Worker, World};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};

/// The number of messages that were acknowledged to their senders, and what happened to these messages.
#[derive(Debug, Default)]
pub struct Mail {
    pub n_acked: usize,
    pub n_read: usize,
    pub n_waiting: usize,
    /// The number of messages that were marked as read by an HTTP fetch whose answer was lost.
    pub n_fetched_away: usize,
}

/// The number of granted locks, and how these locks ended.
#[derive(Debug, Default)]
pub struct Locks {
    pub n_granted: usize,
    pub top_token: i64,
    /// The number of ended locks, by the reason for their end.
    pub falls: BTreeMap<String, usize>,
    pub n_in_force: usize,
}

fn ok(socket: &mut Socket, method: &str, params: Value) -> Value {
    let answer = socket.call(method, params);
    assert!(answer["error"].is_null(), "{method}: {answer}");
    answer["result"].clone()
}

/// Reads all pages of a list, and returns their rows.
fn pages(socket: &mut Socket, method: &str, rows: &str, cursor: &str, params: &Value) -> Vec<Value> {
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let mut params = params.clone();
        params["after"] = json!(after);
        let page = ok(socket, method, params);
        found.extend(page[rows].as_array().unwrap().iter().cloned());
        if page["more"] != json!(true) {
            return found;
        }
        after = page[cursor].as_i64().unwrap();
    }
}

/// Checks that each acknowledged message is unchanged in its mailbox. If a message is marked as read, its reader must
/// have received it.
pub fn mail(world: &World, socket: &mut Socket) -> Mail {
    let mut mail = Mail::default();
    for peer in &world.peers {
        let ask = json!({ "as": peer.id, "filter": "all", "limit": 100 });
        let rows = pages(socket, "inbox", "messages", "next", &ask);
        let mut found: HashMap<String, Value> = HashMap::new();
        for row in rows {
            let head = head(row["payload"].as_str().unwrap()).to_owned();
            if let Some(other) = found.insert(head.clone(), row) {
                world.ledger().breach(format!("{} has {head} twice: {other:.200}", peer.name));
            }
        }
        check_mailbox(world, peer, &mut found, &mut mail);
        for head in found.keys() {
            world.ledger().breach(format!("{} has {head}, which nobody sent it", peer.name));
        }
    }
    mail
}

fn check_mailbox(world: &World, peer: &Peer, found: &mut HashMap<String, Value>, mail: &mut Mail) {
    let mut ledger = world.ledger();
    let was_lost = ledger.lost_fetches.contains_key(&peer.id);
    let mut breaches = Vec::new();
    for ((_, text), message) in ledger.messages.iter().filter(|((reader, _), _)| *reader == peer.id) {
        let Some(row) = found.remove(head(text)) else {
            if message.acked {
                breaches.push(format!("{} never got {}, which was acknowledged", peer.name, head(text)));
            }
            continue;
        };
        let said = row["payload"].as_str().unwrap();
        let fits = if row["parts"].is_null() { said == text } else { text.starts_with(said) };
        if !fits {
            breaches.push(format!("{} has {said:?} for {text:?}", peer.name));
        }
        let is_read = ["read", "acked"].contains(&row["receipt"].as_str().unwrap());
        if message.acked {
            mail.n_acked += 1;
            match (is_read, message.n_read > 0) {
                (true, true) => mail.n_read += 1,
                (false, _) => mail.n_waiting += 1,
                (true, false) if peer.is_web && was_lost => mail.n_fetched_away += 1,
                (true, false) => breaches.push(format!("{} is said to have read {}", peer.name, head(text))),
            }
        }
    }
    breaches.into_iter().for_each(|breach| ledger.breach(breach));
}

/// Reads all unread mail of a worker, and then checks that the worker has received every acknowledged message. An HTTP
/// client is not checked if one of its fetches got no answer.
pub fn drain(worker: &mut Worker) {
    while worker.read(false) != Some(0) {}
    let mut ledger = worker.world.ledger();
    if worker.me.is_web && ledger.lost_fetches.contains_key(&worker.me.id) {
        return;
    }
    let unread = ledger
        .messages
        .iter()
        .filter(|((reader, _), message)| *reader == worker.me.id && message.acked && message.n_read == 0);
    let unread: Vec<String> =
        unread.map(|((_, text), _)| format!("{} never read {}", worker.me.name, head(text))).collect();
    unread.into_iter().for_each(|breach| ledger.breach(breach));
}

/// Checks the history of every lock: there is only one holder at a time, the tokens grow, and each grant and each end
/// has an event.
pub fn locks(world: &World, socket: &mut Socket) -> Locks {
    let mut locks = Locks::default();
    let ask = json!({ "types": ["file_locked", "file_unlocked"], "limit": 200 });
    let events = pages(socket, "events.read", "events", "seq", &ask);
    let mut ledger = world.ledger();
    let mut breaches = Vec::new();
    let mut holders: HashMap<String, (String, i64)> = HashMap::new();
    let mut granted: HashSet<(String, String, i64)> = HashSet::new();
    let mut fallen: HashMap<(String, i64), Option<String>> = HashMap::new();
    let mut top: (i64, String) = (0, String::new());
    for event in &events {
        let payload = &event["payload"];
        let path = payload["filePath"].as_str().unwrap().to_owned();
        let token = payload["token"].as_i64().unwrap();
        if event["type"] == json!("file_locked") {
            let holder = payload["lockedBy"].as_str().unwrap().to_owned();
            let grant = (token, holder.clone());
            if grant.0 < top.0 || grant.0 == top.0 && grant.1 != top.1 {
                breaches.push(format!("token {token} of {holder} came after {top:?}"));
            }
            top = grant;
            granted.insert((holder.clone(), path.clone(), token));
            if let Some(other) = holders.insert(path.clone(), (holder.clone(), token)) {
                breaches.push(format!("{path} was given to {holder} with {token} while {other:?} held it"));
            }
            continue;
        }
        let holder = payload["unlockedBy"].as_str().unwrap().to_owned();
        let reason = payload["reason"].as_str().map(str::to_owned);
        if holders.remove(&path) != Some((holder.clone(), token)) {
            breaches.push(format!("{path} fell from {holder} with {token}, which did not hold it"));
        }
        *locks.falls.entry(reason.clone().unwrap_or("returned".into())).or_default() += 1;
        fallen.insert((path, token), reason);
    }
    breaches.extend(
        ledger.grants.difference(&granted).map(|grant| format!("{grant:?} was told and is not in the history")),
    );
    for (path, first, second) in &ledger.followed {
        let gave_back = ledger.returns.contains(&(first.holder.clone(), path.clone()));
        match fallen.get(&(path.clone(), first.token)) {
            None => breaches.push(format!("{path}: {second:?} was told of a lock that {first:?} has")),
            Some(None) if !gave_back => breaches.push(format!("{path}: {first:?} never gave back what {second:?} got")),
            Some(_) => {}
        }
    }
    locks.n_granted = ledger.grants.len();
    locks.top_token = top.0.max(ledger.top_token);
    breaches.into_iter().for_each(|breach| ledger.breach(breach));
    locks
}

/// Checks each lock in force. Its holder must have got an answer that granted the lock, or have made a request that got
/// no answer. If an answer said that the lock was released, the check fails. Returns the number of locks in force.
pub fn in_force(world: &World, socket: &mut Socket) -> usize {
    let mut n_locks = 0;
    // If a broker was killed while a command ran under a lock, this lock ends only after a grace period.
    until("every lock in force is accounted for", || {
        let found = ok(socket, "lock.query", json!({}));
        let rows = found["locks"].as_array().unwrap();
        n_locks = rows.len();
        let ledger = world.ledger();
        rows.iter().all(|row| {
            let (path, holder) = (row["filePath"].as_str().unwrap(), row["lockedBy"].as_str().unwrap());
            let token = row["token"].as_i64().unwrap();
            let is_told = ledger.grants.contains(&(holder.into(), path.into(), token));
            let is_free = ledger.freed.contains(&(path.into(), token));
            (is_told || ledger.unsure.contains(&(holder.into(), path.into()))) && !is_free
        })
    });
    n_locks
}

/// Checks that the version of the shared entry is at least the highest version in any answer.
pub fn versions(world: &World, socket: &mut Socket) {
    let entry = ok(socket, "state.get", json!({ "key": SHARED }));
    let found = entry["entry"]["version"].as_i64().unwrap_or(0);
    let mut ledger = world.ledger();
    let top = ledger.versions.last().copied().unwrap_or(0);
    if found < top {
        ledger.breach(format!("{SHARED} has version {found}, and {top} was acknowledged"));
    }
}
