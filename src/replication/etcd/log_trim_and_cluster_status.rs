//! The work that a leading hub does outside its event loop: it removes old entries from the log, reads the positions of
//! the other hubs, and asks the members of the etcd cluster for their state.

use super::gateway::{Gateway, decode, encode, encode_bytes, end_of_prefix, number};
use super::{EtcdLog, foreign, leads, log_range, position_of, read_key};
use crate::replication::{LogError, Position, Term};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How many entries one request reads when only their sizes are needed. An entry has at most about 256 KiB.
const SIZES_PAGE: usize = 64;

/// A second etcd client. It belongs to a thread that does not append entries.
#[derive(Clone)]
pub struct EtcdUpkeep {
    gateway: Gateway,
    prefix: String,
    /// The term in which this hub leads; `None` if it does not lead.
    term: Option<Term>,
}

/// The last entry that a running hub has on its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubPosition {
    /// The name of the hub.
    pub hub: String,
    /// The position of the last entry on the hub's disk.
    pub at: Position,
    /// The lease of the hub's report in etcd. A hub gets a new lease when it is restarted.
    pub lease: String,
}

/// The state of one member of the etcd cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberHealth {
    /// The URL of the member.
    pub url: String,
    /// The state that the member reports, or the reason why it reports none.
    pub state: Result<MemberState, String>,
}

/// What a member reports about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberState {
    /// The version of etcd.
    pub version: String,
    /// How long the member took to answer.
    pub latency: Duration,
    /// The size of the member's database file, in bytes.
    pub size: u64,
    /// Maximum size of the member's database file, in bytes; `None` if the member is older than etcd 3.6 and does not
    /// report it.
    pub quota: Option<u64>,
    /// Whether this member is etcd's own leader.
    pub is_leader: bool,
    /// The alarms of the member, such as `NOSPACE` or `CORRUPT`.
    pub alarms: Vec<String>,
}

impl EtcdLog {
    /// Makes a second client, for another thread.
    pub fn upkeep(&self) -> EtcdUpkeep {
        EtcdUpkeep {
            gateway: self.gateway.clone(),
            prefix: self.settings.address.prefix.clone(),
            term: self.leadership.as_ref().map(|leadership| leadership.term),
        }
    }
}

impl EtcdUpkeep {
    /// The positions that the running hubs have reported.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn positions(&mut self) -> Result<Vec<HubPosition>, LogError> {
        let prefix = format!("{}at/", self.prefix);
        let body = json!({ "key": encode(&prefix), "range_end": encode_bytes(&end_of_prefix(&prefix)) });
        let answer = self.gateway.ask("kv/range", &body)?;
        let read = |row: &Value| {
            let (key, value) = read_key(row)?;
            let at = Position(std::str::from_utf8(&value).ok()?.parse().ok()?);
            let lease = row["lease"].as_str().unwrap_or("").to_owned();
            Some(HubPosition { hub: key.strip_prefix(&prefix)?.to_owned(), at, lease })
        };
        let rows = answer["kvs"].as_array().map_or(&[][..], Vec::as_slice);
        rows.iter().map(|row| read(row).ok_or_else(foreign)).collect()
    }

    /// The positions of the next entries after a position, and the sizes of these entries in bytes. The list contains
    /// as many entries as one request reads. The list is empty if no entries follow.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn entry_sizes(&mut self, after: Position) -> Result<Vec<(Position, u64)>, LogError> {
        let (_, from) = log_range(&self.prefix, after);
        let end = encode_bytes(&end_of_prefix(&format!("{}log/", self.prefix)));
        let body = json!({ "key": from, "range_end": end, "limit": SIZES_PAGE.to_string() });
        let answer = self.gateway.ask("kv/range", &body)?;
        let size = |row: &Value| {
            let (key, value) = read_key(row)?;
            Some((position_of(&key)?, value.len() as u64))
        };
        let rows = answer["kvs"].as_array().map_or(&[][..], Vec::as_slice);
        rows.iter().map(|row| size(row).ok_or_else(foreign)).collect()
    }

    /// Removes all entries up to and including this position. Only the leading hub can do this.
    ///
    /// # Errors
    /// When etcd does not answer, or when this hub does not lead.
    pub fn trim(&mut self, upto: Position) -> Result<(), LogError> {
        let deposed = || LogError::Refused("this hub is not the leader".into());
        let term = self.term.ok_or_else(deposed)?;
        let (first, end) = log_range(&self.prefix, upto);
        let range = json!({ "key": first, "range_end": end });
        let body = json!({
            "compare": [leads(&self.prefix, term)], "success": [{ "request_delete_range": range }],
        });
        let answer = self.gateway.ask("kv/txn", &body)?;
        if answer["succeeded"] == true { Ok(()) } else { Err(deposed()) }
    }

    /// The ticket that a hub has stored in etcd, if any. It proves that the hub may receive a snapshot.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn ticket(&mut self, hub: &str) -> Result<Option<String>, LogError> {
        let answer = self.gateway.ask("kv/range", &json!({ "key": encode(&ticket_key(&self.prefix, hub)) }))?;
        Ok(answer["kvs"].get(0).and_then(|row| String::from_utf8(decode(&row["value"])?).ok()))
    }

    /// Asks each member for its state. Each member has one second to answer. The next entry is then sent to the member
    /// that is etcd's own leader.
    pub fn members(&mut self) -> Vec<MemberHealth> {
        let alarms = self.gateway.ask("maintenance/alarm", &json!({ "action": "GET" })).unwrap_or_default();
        let urls = self.gateway.members().to_vec();
        let state_of = |(n, url)| MemberHealth { state: self.member(n, &alarms), url };
        let members: Vec<MemberHealth> = urls.into_iter().enumerate().map(state_of).collect();
        let leads = |member: &MemberHealth| member.state.as_ref().is_ok_and(|state| state.is_leader);
        if let Some(leader) = members.iter().position(leads) {
            self.gateway.note_leader(leader);
        }
        members
    }

    fn member(&mut self, n: usize, alarms: &Value) -> Result<MemberState, String> {
        let began = Instant::now();
        let answer = self.gateway.ask_member(n, "maintenance/status", &json!({})).map_err(|error| error.to_string())?;
        let latency = began.elapsed();
        let id = &answer["header"]["member_id"];
        let of_member = |alarm: &&Value| &alarm["memberID"] == id;
        let alarms = alarms["alarms"].as_array().map_or(&[][..], Vec::as_slice).iter().filter(of_member);
        Ok(MemberState {
            version: answer["version"].as_str().unwrap_or("?").to_owned(),
            latency,
            size: number(&answer["dbSize"]),
            quota: Some(number(&answer["dbSizeQuota"])).filter(|quota| *quota > 0),
            is_leader: id.is_string() && &answer["leader"] == id,
            alarms: alarms.filter_map(|alarm| Some(alarm["alarm"].as_str()?.to_owned())).collect(),
        })
    }
}

/// The key under which a hub stores its ticket.
pub(super) fn ticket_key(prefix: &str, hub: &str) -> String {
    format!("{prefix}ticket/{hub}")
}
