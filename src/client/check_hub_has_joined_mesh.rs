//! Learns which mesh a hub has. All hubs that a guest uses must share one mesh through a log in etcd. Each log has an
//! id.
//!
//! **Invariant:** a guest with several hubs never moves to another mesh by itself. There, its mail and its locks would
//! be missing.

use super::Client;
use super::connect_to_leading_hub::Candidate;
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::LogId;
use crate::sys::data_dir::DataDir;
use serde_json::{Value, json};

/// The mesh of a hub that leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubMesh {
    /// The hub shares its mesh with no other hub.
    Unshared,
    /// The hub shares a log with other hubs.
    Shared(HubLog),
    /// The hub shares a log with other hubs, but does not name the log, because it runs an older version.
    SharedByOlder,
}

/// The log that a hub shares with other hubs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubLog {
    /// The id of the log.
    pub id: LogId,
    /// The lost logs that this log continues.
    former: Vec<LogId>,
}

impl HubMesh {
    /// Finds out which mesh the hub has. `pong` is the hub's answer to a ping. If this answer names no log, the hub is
    /// asked for its status.
    ///
    /// # Errors
    /// If the hub does not answer.
    pub fn of(client: &mut Client, pong: &Value) -> Result<HubMesh, Error> {
        if let Some(id) = log_id(&pong["log"]) {
            let former = pong["formerLogs"].as_array().into_iter().flatten().filter_map(log_id).collect();
            return Ok(HubMesh::Shared(HubLog { id, former }));
        }
        Ok(match client.call_once("hub.status", &json!({}))?["role"].as_str() {
            Some("alone") => HubMesh::Unshared,
            _ => HubMesh::SharedByOlder,
        })
    }

    /// The log that the hub named.
    pub fn log(&self) -> Option<LogId> {
        match self {
            HubMesh::Shared(log) => Some(log.id),
            HubMesh::Unshared | HubMesh::SharedByOlder => None,
        }
    }

    /// Checks whether a guest that has joined the log `joined` may use this hub. A guest that has joined no log yet may
    /// use any hub that shares a log.
    ///
    /// # Errors
    /// If the hub belongs to a different mesh. The error names the hub and what to do.
    pub fn check(&self, hub: &Candidate, joined: Option<LogId>, places: &DataDir) -> Result<(), Error> {
        match (self, joined) {
            (HubMesh::Unshared, _) => Err(shares_no_log(hub)),
            (HubMesh::Shared(log), Some(joined)) if log.id != joined && !log.former.contains(&joined) => {
                Err(has_another_log(hub, places))
            }
            (HubMesh::Shared(_) | HubMesh::SharedByOlder, _) => Ok(()),
        }
    }
}

/// Reads the id of a log from a hub's answer.
pub fn log_id(value: &Value) -> Option<LogId> {
    value.as_str()?.parse().ok()
}

fn shares_no_log(hub: &Candidate) -> Error {
    let text = format!(
        "{hub} shares no mesh with other hubs, because it has no SLM_MESH_STORE setting; set SLM_MESH_STORE on that \
         hub to the value that your other hubs have, or remove that hub from SLM_MESH_HOST on this machine; if that \
         hub is your only hub now, remove the other hubs from SLM_MESH_HOST instead"
    );
    Error::new(ErrorKind::Refused, text)
}

/// The error for a hub whose log is not the log that this guest has joined.
pub fn has_another_log(hub: &Candidate, places: &DataDir) -> Error {
    let text = format!(
        "{hub} belongs to another mesh, and not to the mesh that this machine has joined; set SLM_MESH_STORE on that \
         hub to the value that your other hubs have, or remove that hub from SLM_MESH_HOST on this machine; to join \
         the other mesh on purpose, remove {}",
        places.leader().display()
    );
    Error::new(ErrorKind::Refused, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::parse_hub_addresses::HubAddress;

    #[test]
    fn a_guest_stays_with_its_log_and_with_the_logs_that_continue_it() {
        let hub = Candidate::Hub(HubAddress::parse("hub3:7900").unwrap());
        let places = DataDir { dir: "/home/ada/.slm-mesh".into() };
        let shared = |id, former: &[u128]| {
            HubMesh::Shared(HubLog { id: LogId(id), former: former.iter().copied().map(LogId).collect() })
        };
        for (mesh, joined, is_accepted) in [
            (HubMesh::Unshared, None, false),
            (HubMesh::Unshared, Some(1), false),
            (HubMesh::SharedByOlder, Some(1), true),
            (shared(1, &[]), None, true),
            (shared(1, &[]), Some(1), true),
            (shared(2, &[]), Some(1), false),
            (shared(2, &[7, 1]), Some(1), true),
            (shared(1, &[]), Some(2), false),
        ] {
            let found = mesh.check(&hub, joined.map(LogId), &places);
            assert_eq!(found.is_ok(), is_accepted, "{mesh:?} {joined:?}");
            let said = found.err().map_or(String::new(), |error| error.text);
            assert!(is_accepted || said.contains("hub3:7900") && said.contains("SLM_MESH_STORE"), "{said}");
        }
    }
}
