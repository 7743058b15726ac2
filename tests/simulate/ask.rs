//! A call of the simulation.

use crate::model::Who;
use serde_json::Value;

/// A request that has no answer yet.
#[derive(Debug, Clone)]
pub struct Ask {
    pub id: u64,
    pub conn: u64,
    pub who: Who,
    /// The name of an operation, or a route of the old HTTP API.
    pub op: &'static str,
    pub args: Value,
    /// Whether a verb (subcommand) makes the call. The verb's connection is open for as long as the call waits, even if
    /// the session is offline.
    pub is_verb: bool,
    /// The time at which the call stops waiting; `None` if it does not wait.
    pub until: Option<i64>,
}
