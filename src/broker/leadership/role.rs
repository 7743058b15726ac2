//! The role of this broker: the only broker of its mesh, the hub that leads, or a hub on standby.

use super::etcd_log_trim_thread::{LogProgress, LogTrimThread};
use super::snapshot_sender::SnapshotSource;
use super::{HubConfig, Leader, StandbyThread, TurnEnd};
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::LogId;
use crate::core::{Args, Mesh};
use crate::replication::etcd::{EtcdLog, EtcdUpkeep, MemberHealth};
use crate::sys;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// The role of this broker in its mesh.
pub enum BrokerRole {
    /// The only broker of its mesh. The mesh is stored only on this broker's disk.
    Alone,
    /// The hub that leads.
    Leads(Box<Leading>),
    /// A hub on standby. It serves no clients, and its mesh is empty.
    StandsBy(StandbyThread),
}

/// The state of a hub that leads: its connection to the log, its trim thread, and the database copies for other hubs.
pub struct Leading {
    leader: Leader<EtcdLog>,
    progress: Arc<LogProgress>,
    upkeep: EtcdUpkeep,
    etcd_log_trim_thread: LogTrimThread,
    snapshots: SnapshotSource,
    /// The lost logs that this hub's log continues.
    former_logs: Vec<LogId>,
    /// The address at which guests (machines that use this hub) connect.
    address: String,
    /// The time, in ms, at which this hub began to lead.
    since: i64,
}

impl Leading {
    /// Creates the state of a new leader, and starts its trim thread. Copies of the database for other hubs are written
    /// into `directory`. The log continues the mesh of the `former_logs`. `wake` makes the event loop begin a turn.
    pub fn begin(
        leader: Leader<EtcdLog>,
        config: &HubConfig,
        directory: &Path,
        (former_logs, now): (Vec<LogId>, i64),
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Leading {
        let progress = Arc::new(LogProgress::default());
        progress.note(leader.position(), 0);
        let upkeep = leader.log().upkeep();
        let etcd_log_trim_thread =
            LogTrimThread::start(upkeep.clone(), config.address.clone(), Arc::clone(&progress), wake);
        let (snapshots, address) = (SnapshotSource::new(directory), config.address.clone());
        Leading { leader, progress, upkeep, etcd_log_trim_thread, snapshots, former_logs, address, since: now }
    }

    /// Returns a function that describes the hubs and the members of etcd. The function takes the current time, in ms.
    pub fn describe(&self) -> Box<dyn Fn(i64) -> Value + Send> {
        let (address, since) = (self.address.clone(), self.since);
        let (progress, cluster) = (Arc::clone(&self.progress), self.etcd_log_trim_thread.reporter());
        let log = self.leader.log_id().to_string();
        Box::new(move |now| {
            let (cluster, last) = (cluster(), progress.position());
            let standby =
                |(hub, at): &(String, u64)| json!({ "hub": hub, "position": at, "behind": last.saturating_sub(*at) });
            json!({
                "ok": true, "role": "leads", "log": log, "leader": address, "leadsForMs": now - since, "position": last,
                "standbys": cluster.standbys.iter().map(standby).collect::<Vec<_>>(),
                "members": cluster.members.iter().map(member_facts).collect::<Vec<_>>(),
                "trouble": cluster.trouble,
            })
        })
    }

    /// Answers a hub that requests a copy of the database.
    ///
    /// # Errors
    /// See [`SnapshotSource::answer`].
    pub fn give_snapshot(&mut self, mesh: &Mesh, args: &Args) -> Result<Value, Error> {
        self.snapshots.answer(args, &self.upkeep, || mesh.checkpointer())
    }

    fn commit(&mut self, mesh: &mut Mesh, now: i64) -> TurnEnd {
        // An entry makes all answers of the turn wait for etcd. So the leader does not write the time in a turn that only
        // answers reads.
        if self.progress.is_time_wanted() && (mesh.has_written() || !mesh.has_replies()) {
            self.progress.note_time();
            mesh.write_time(now);
        }
        let n_bytes = mesh.recorded_size();
        let end = self.leader.commit_turn(mesh, now);
        if end == TurnEnd::Committed {
            self.progress.note(self.leader.position(), n_bytes);
        }
        end
    }
}

impl BrokerRole {
    /// Commits the turn. A leader first stores the changes in the log.
    pub fn commit(&mut self, mesh: &mut Mesh, now: i64) -> TurnEnd {
        match self {
            BrokerRole::Leads(leading) => leading.commit(mesh, now),
            BrokerRole::Alone | BrokerRole::StandsBy(_) if mesh.commit() => TurnEnd::Committed,
            BrokerRole::Alone | BrokerRole::StandsBy(_) => TurnEnd::TakenBack,
        }
    }

    /// Gives up the role of this broker. A leader steps down, so that another hub can lead at once.
    pub fn leave(self) {
        match self {
            BrokerRole::Leads(leading) => drop(leading.leader.step_down()),
            BrokerRole::StandsBy(thread) => drop(thread),
            BrokerRole::Alone => {}
        }
    }

    /// Describes what this broker knows about the hubs and etcd.
    pub fn status(&self, now: i64) -> Value {
        match self {
            BrokerRole::Alone => json!({ "ok": true, "role": "alone" }),
            BrokerRole::Leads(leading) => leading.describe()(now),
            BrokerRole::StandsBy(thread) => {
                let report = thread.report();
                let level_for = report.level_at.map(|at| sys::boot_ms() - at);
                json!({
                    "ok": true, "role": "standby", "log": report.log.map(|log| log.to_string()),
                    "leader": report.leader, "position": report.position,
                    "levelMsAgo": level_for, "trouble": report.trouble,
                })
            }
        }
    }

    /// Identifies the mesh of this hub to guests: the log that this hub shares with other hubs, and the lost logs that
    /// this log continues. Returns an empty object if this broker leads no shared log.
    pub fn mesh_identity(&self) -> Value {
        let BrokerRole::Leads(leading) = self else { return json!({}) };
        let former: Vec<String> = leading.former_logs.iter().map(ToString::to_string).collect();
        json!({ "log": leading.leader.log_id().to_string(), "formerLogs": former })
    }

    /// Whether each turn must be in the log before its results are sent.
    pub fn stores_in_log(&self) -> bool {
        matches!(self, BrokerRole::Leads(_))
    }

    /// Whether this hub is on standby.
    pub fn is_standby(&self) -> bool {
        matches!(self, BrokerRole::StandsBy(_))
    }

    /// The error for a request that only the leader can serve; `None` if this broker can serve the request.
    pub fn refusal(&self) -> Option<Error> {
        let BrokerRole::StandsBy(thread) = self else { return None };
        let report = thread.report();
        Some(match (report.leader, report.trouble) {
            (Some(leader), _) => {
                let text = format!("this hub is on standby; ask the leader, {leader}");
                Error::new(ErrorKind::Standby, text).with(json!({ "leader": leader }))
            }
            (None, Some(trouble)) => {
                let text = format!("no hub is the leader: {trouble}");
                Error::new(ErrorKind::Standby, text).with(json!({ "trouble": trouble }))
            }
            (None, None) => {
                Error::new(ErrorKind::Standby, "no hub is the leader at the moment; try again in a moment".to_owned())
            }
        })
    }
}

fn member_facts(member: &MemberHealth) -> Value {
    match &member.state {
        Ok(state) => json!({
            "url": member.url, "version": state.version, "latencyMs": state.latency.as_secs_f64() * 1000.0,
            "bytes": state.size, "quotaBytes": state.quota, "leads": state.is_leader, "alarms": state.alarms,
        }),
        Err(why) => json!({ "url": member.url, "error": why }),
    }
}
