//! Several hubs share one log in etcd. One of them leads, and the others are on standby.
//!
//! The leader stores each turn in the log before it commits the turn. A standby applies the entries of the log to its
//! own database, and takes over when the leader is gone.
//!
//! **Invariant:** a hub sends the results of a turn only after the turn is in the log. A hub that may have lost the
//! lead sends nothing. The database of a hub is never ahead of the log.

mod config;
mod database_belongs_to_log;
mod etcd_log_trim_thread;
mod leader_commit;
mod log_follower_thread;
mod role;
mod snapshot_fetch;
mod snapshot_sender;
mod standby_replay_and_takeover;

pub use config::HubConfig;
pub use database_belongs_to_log::DatabaseLogMatch;
pub use etcd_log_trim_thread::{LogProgress, LogTrimThread};
pub use leader_commit::{Leader, TurnEnd};
pub use log_follower_thread::{HubDatabase, StandbyReport, StandbyThread, TakenLead};
pub use role::{BrokerRole, Leading};
pub use standby_replay_and_takeover::{Standby, StandbyError, TakeOver};
