//! Stores the log in etcd 3.4 or later, through etcd's JSON gateway.
//!
//! A mesh has these keys, all below its prefix:
//!
//! - `leader` contains the leader's address.
//! - `log/<16 hex digits>` contains one entry.
//! - `at/<hub>` contains the position of the last entry on that hub's disk.
//! - `ticket/<hub>` contains the ticket with which that hub requests a snapshot from the leader.
//!
//! The keys `leader`, `at` and `ticket` belong to leases, so they disappear when a hub is gone. Each write of a leader
//! compares the `create_revision` of `leader`. A lock of etcd would not be enough, because it does not stop the writes
//! of a hub that has lost the lock.

mod address;
mod gateway;
mod lease;
mod log_trim_and_cluster_status;
mod tls;

pub use address::EtcdAddress;
pub use gateway::EtcdUser;
pub use log_trim_and_cluster_status::{EtcdUpkeep, HubPosition, MemberHealth, MemberState};
pub use tls::EtcdTls;

use super::{Append, Election, LogEntry, LogError, Position, ReplicatedLog};
use crate::base::id_types::Term;
use crate::sys::boot_ms;
use gateway::{ANSWER_TIMEOUT, Gateway, decode, encode, encode_bytes, end_of_prefix, number};
use lease::Lease;
use serde_json::{Value, json};
use std::sync::mpsc::{Receiver, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Maximum number of entries that one request reads. An entry has at most about 256 KiB.
const PAGE: usize = 128;
/// How long an append without an answer is retried, in multiples of the lease time.
const UNKNOWN_AFTER_LEASES: u64 = 3;
/// Minimum time before an unanswered append is sent again. Each member forwards an append to etcd's own leader. If this
/// leader has just died, all appends are lost until etcd elects a new one, which takes one to two seconds.
const REPEAT_APPEND_AFTER: Duration = Duration::from_millis(300);
/// For this long after the start of an append, its requests have a short timeout. Later requests have the normal
/// timeout, because etcd may be slow rather than dead.
const REPEAT_APPEND_FOR: Duration = Duration::from_millis(1800);
/// The short timeout of an append is the time that the most recent answer took, multiplied by this number.
const SLOWER_THAN_LAST: u32 = 4;
/// The pause after all members have been tried without an answer.
const RETRY_AFTER: Duration = Duration::from_millis(20);
/// The pause between the end of a watch and the next watch.
const WATCH_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// How to reach the etcd cluster, and how long a leader may be silent before it loses the lead.
#[derive(Clone)]
pub struct EtcdSettings {
    /// The members and the prefix.
    pub address: EtcdAddress,
    /// The certificates, for an address with `etcds://`.
    pub tls: Option<EtcdTls>,
    /// The user account in etcd, if etcd's authentication is on.
    pub user: Option<EtcdUser>,
    /// How long a leader may be silent before another hub may lead, in seconds. etcd requires at least two seconds.
    pub lease_seconds: u64,
}

struct Leadership {
    term: Term,
    lease: Lease,
}

/// One hub's access to the log of its mesh in etcd.
pub struct EtcdLog {
    settings: EtcdSettings,
    gateway: Gateway,
    leadership: Option<Leadership>,
    /// The lease of this hub's position and ticket in etcd.
    presence: Option<Lease>,
    /// Receives a signal when keys of the mesh have changed; `None` until this hub waits for changes for the first
    /// time.
    news: Option<Receiver<()>>,
    /// How many entries the next request reads. If an answer takes too long, this number is reduced.
    page: usize,
}

impl EtcdLog {
    /// Makes a client of the cluster. This does not send anything yet.
    ///
    /// # Errors
    /// A sentence that says which certificate is missing or can't be used.
    pub fn new(settings: EtcdSettings) -> Result<EtcdLog, String> {
        let gateway = Gateway::new(&settings)?;
        Ok(EtcdLog { settings, gateway, leadership: None, presence: None, news: None, page: PAGE })
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.settings.address.prefix)
    }

    fn entry_key(&self, at: Position) -> String {
        entry_key(&self.settings.address.prefix, at)
    }

    fn grant_lease(&mut self) -> Result<Lease, LogError> {
        let keeper = self.gateway.clone();
        Lease::grant(&mut self.gateway, keeper, self.settings.lease_seconds)
    }

    /// Reads the keys of a range, with their values.
    fn range(&mut self, from: &str, end: &[u8], limit: usize) -> Result<Vec<(String, Vec<u8>)>, LogError> {
        let body = json!({ "key": encode(from), "range_end": encode_bytes(end), "limit": limit.to_string() });
        let answer = self.gateway.ask("kv/range", &body)?;
        let rows = answer["kvs"].as_array().map_or(&[][..], Vec::as_slice);
        rows.iter().map(|row| read_key(row).ok_or_else(foreign)).collect()
    }

    /// Stores a value that etcd removes when this hub is gone.
    fn put_while_present(&mut self, key: &str, value: &str) -> Result<(), LogError> {
        let lease = match self.presence.take().filter(Lease::is_valid) {
            Some(lease) => lease,
            None => self.grant_lease()?,
        };
        let body = json!({ "key": encode(key), "value": encode(value), "lease": lease.id });
        self.presence = Some(lease);
        self.gateway.ask("kv/put", &body).map(|_| ())
    }

    /// Whether etcd still has the values that this hub has reported about itself. Returns false if this is uncertain.
    pub fn is_present(&self) -> bool {
        self.presence.as_ref().is_some_and(Lease::is_valid)
    }

    /// Stores a ticket in etcd. When the hub requests a snapshot from the leader, the hub shows the leader the same
    /// ticket. Only hubs have access to etcd, so the ticket proves that the requester is a hub.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn put_ticket(&mut self, hub: &str, ticket: &str) -> Result<(), LogError> {
        let key = log_trim_and_cluster_status::ticket_key(&self.settings.address.prefix, hub);
        self.put_while_present(&key, ticket)
    }

    /// The result of an append whose condition failed. Either an earlier attempt has already stored the entry, or this
    /// hub no longer leads.
    fn explain_failure(answer: &Value, entry: &str) -> Append {
        let stored = &answer["responses"][0]["response_range"]["kvs"][0]["value"];
        if stored.as_str() == Some(entry) { Append::Stored } else { Append::Deposed }
    }

    /// Watches the key `leader`, and checks this hub's lease whenever the key changes.
    ///
    /// The key can disappear before the lease expires. For example, an administrator may delete it. Or etcd's own
    /// leader may hang, and then treat all leases as expired when it continues (etcd issues 12528 and 15247).
    fn watch_lead(&self, lease: &Lease) {
        let (mut gateway, key) = (self.gateway.clone(), self.key("leader"));
        let check = lease.checker(key.clone());
        let watch = move || {
            while check() {
                gateway.watch(&key, &check);
                std::thread::sleep(WATCH_AGAIN_AFTER);
            }
        };
        // If the thread can't be started, this hub notices a lost lease only at the next renewal.
        let _ = std::thread::Builder::new().name("lead".into()).spawn(watch);
    }

    fn watch(&self) -> Receiver<()> {
        let (ring, news) = sync_channel(1);
        let mut gateway = self.gateway.clone();
        let prefix = self.settings.address.prefix.clone();
        let watch = move || {
            // The channel has room for one signal. If it is full, the receiver has not read the last signal yet, so no
            // further signal is needed.
            let is_heard = || !matches!(ring.try_send(()), Err(TrySendError::Disconnected(())));
            while is_heard() {
                gateway.watch(&prefix, is_heard);
                std::thread::sleep(WATCH_AGAIN_AFTER);
            }
        };
        // If the thread can't be started, each wait lasts for its maximum time.
        let _ = std::thread::Builder::new().name("watch".into()).spawn(watch);
        news
    }
}

impl ReplicatedLog for EtcdLog {
    fn lead(&mut self, address: &str) -> Result<Election, LogError> {
        self.step_down();
        if let Some(leader) = self.leader()? {
            return Ok(Election::Lost(leader));
        }
        let lease = self.grant_lease()?;
        let key = encode(&self.key("leader"));
        let body = json!({
            "compare": [{ "key": key, "target": "CREATE", "result": "EQUAL", "create_revision": "0" }],
            "success": [{ "request_put": { "key": key, "value": encode(address), "lease": lease.id } }],
            "failure": [{ "request_range": { "key": key } }],
        });
        let answer = match self.gateway.ask("kv/txn", &body) {
            Ok(answer) => answer,
            Err(error) => {
                lease.revoke(&mut self.gateway);
                return Err(error);
            }
        };
        let found = &answer["responses"][0]["response_range"]["kvs"][0];
        let term = if answer["succeeded"] == true {
            number(&answer["header"]["revision"])
        } else if found["lease"].as_str() == Some(&lease.id) {
            // An earlier attempt at this request stored the key, but its answer was lost.
            number(&found["create_revision"])
        } else {
            let leader = decode(&found["value"]).and_then(|bytes| String::from_utf8(bytes).ok());
            lease.revoke(&mut self.gateway);
            return leader.map(Election::Lost).ok_or_else(foreign);
        };
        self.watch_lead(&lease);
        self.leadership = Some(Leadership { term: Term(term), lease });
        Ok(Election::Won(Term(term)))
    }

    fn still_leads(&self) -> bool {
        self.leadership.as_ref().is_some_and(|leadership| leadership.lease.confirm())
    }

    fn step_down(&mut self) {
        if let Some(leadership) = self.leadership.take() {
            leadership.lease.revoke(&mut self.gateway);
        }
    }

    fn leader(&mut self) -> Result<Option<String>, LogError> {
        let answer = self.gateway.ask("kv/range", &json!({ "key": encode(&self.key("leader")) }))?;
        let Some(row) = answer["kvs"].get(0) else { return Ok(None) };
        let (_, value) = read_key(row).ok_or_else(foreign)?;
        String::from_utf8(value).map(Some).map_err(|_| foreign())
    }

    fn append(&mut self, at: Position, entry: &LogEntry) -> Append {
        let Some(Leadership { term, lease }) = &self.leadership else { return Append::Deposed };
        if lease.time_left().is_zero() {
            // The lease has expired, so etcd has removed the leader's key and would refuse the entry.
            self.leadership = None;
            return Append::Deposed;
        }
        let (key, value) = (encode(&self.entry_key(at)), encode_bytes(&entry.to_bytes()));
        let body = json!({
            "compare": [leads(&self.settings.address.prefix, *term), { "key": key, "target": "VERSION", "result": "EQUAL", "version": "0" }],
            "success": [{ "request_put": { "key": key, "value": value } }],
            "failure": [{ "request_range": { "key": key } }],
        });
        // The timeout depends on how long the most recent answer took. A fixed timeout could be too short for a slow
        // network.
        let patience = self.gateway.last_answer_took().map_or(ANSWER_TIMEOUT, |took| took * SLOWER_THAN_LAST);
        let patience = patience.clamp(REPEAT_APPEND_AFTER, ANSWER_TIMEOUT);
        self.gateway.prefer_leader();
        let began = Instant::now();
        let time_left = || {
            let attempt = if began.elapsed() < REPEAT_APPEND_FOR { patience } else { ANSWER_TIMEOUT };
            attempt.min(lease.time_left())
        };
        let give_up = boot_ms() + (UNKNOWN_AFTER_LEASES * self.settings.lease_seconds * 1000) as i64;
        let mut may_be_stored = false;
        let outcome = loop {
            // Attempts are useful only until another hub can lead. After that, the waiting clients can use the other
            // hub.
            match self.gateway.ask_within("kv/txn", &body, time_left) {
                Ok(answer) if answer["succeeded"] == true => return Append::Stored,
                Ok(answer) => break Self::explain_failure(&answer, &value),
                Err(LogError::Refused(why)) if !may_be_stored => return Append::Refused(why),
                // This attempt has failed, but an earlier attempt may still store the entry. So the outcome is unknown.
                Err(error) if boot_ms() >= give_up || lease.time_left().is_zero() => {
                    break Append::Unknown(error.to_string());
                }
                Err(_) => may_be_stored = true,
            }
            std::thread::sleep(RETRY_AFTER);
        };
        if outcome != Append::Stored {
            self.leadership = None;
        }
        outcome
    }

    fn follow(&mut self, from: Position) -> Result<Vec<(Position, LogEntry)>, LogError> {
        let (key, end) = (self.entry_key(from), end_of_prefix(&self.key("log/")));
        let mut expected = from;
        let mut entries = Vec::new();
        let rows = self.range(&key, &end, self.page);
        self.page =
            if matches!(rows, Err(LogError::NoAnswer(_))) { (self.page / 2).max(1) } else { PAGE.min(self.page + 1) };
        for row in rows? {
            let (at, entry) = read_entry(&row)?;
            if at != expected {
                return Err(LogError::Trimmed(at));
            }
            entries.push((at, entry));
            expected = at.next();
        }
        Ok(entries)
    }

    fn last(&mut self) -> Result<Option<(Position, LogEntry)>, LogError> {
        let (key, end) = (self.key("log/"), end_of_prefix(&self.key("log/")));
        let body = json!({
            "key": encode(&key), "range_end": encode_bytes(&end), "limit": "1",
            "sort_order": "DESCEND", "sort_target": "KEY",
        });
        let answer = self.gateway.ask("kv/range", &body)?;
        let Some(row) = answer["kvs"].get(0) else { return Ok(None) };
        read_entry(&read_key(row).ok_or_else(foreign)?).map(Some)
    }

    fn wait_for_news(&mut self, at_most: Duration) {
        if self.news.is_none() {
            self.news = Some(self.watch());
        }
        if let Some(news) = &self.news
            && news.recv_timeout(at_most).is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Disconnected)
        {
            // The watching thread could not be started, or it has panicked. So this thread waits for the maximum time.
            std::thread::sleep(at_most);
        }
    }

    fn report_position(&mut self, hub: &str, at: Position) -> Result<(), LogError> {
        let key = self.key(&format!("at/{hub}"));
        self.put_while_present(&key, &at.0.to_string())
    }
}

/// A condition for etcd: the key `leader` is the one that was created in this term.
fn leads(prefix: &str, term: Term) -> Value {
    json!({
        "key": encode(&format!("{prefix}leader")), "target": "CREATE", "result": "EQUAL",
        "create_revision": term.0.to_string(),
    })
}

/// The range of the keys of all entries up to a position: the first key, and the key after the last one. Both are
/// encoded for the JSON gateway.
fn log_range(prefix: &str, upto: Position) -> (String, String) {
    let key = |at: Position| encode(&entry_key(prefix, at));
    (key(Position(0)), key(upto.next()))
}

fn entry_key(prefix: &str, at: Position) -> String {
    format!("{prefix}log/{:016x}", at.0)
}

fn read_entry((key, bytes): &(String, Vec<u8>)) -> Result<(Position, LogEntry), LogError> {
    let at = position_of(key).ok_or_else(foreign)?;
    let entry = LogEntry::from_bytes(bytes).map_err(|error| LogError::Refused(error.to_string()))?;
    Ok((at, entry))
}

/// The position of the entry with this key.
fn position_of(key: &str) -> Option<Position> {
    let (_, digits) = key.rsplit_once('/')?;
    u64::from_str_radix(digits, 16).ok().map(Position)
}

fn read_key(row: &Value) -> Option<(String, Vec<u8>)> {
    Some((String::from_utf8(decode(&row["key"])?).ok()?, decode(&row["value"])?))
}

fn foreign() -> LogError {
    LogError::Refused(
        "another program has keys in etcd under the name of this mesh; give this mesh a name of its own in \
         SLM_MESH_STORE"
            .into(),
    )
}
