//! Finds a hub on the local network. If a secret is set and `SLM_MESH_HOST` is not set, a session searches the network.
//! The session joins a hub after the hub has proven that it knows the secret, and saves the hub's address. Commands and
//! hooks use the saved address, because a search would delay them by a second.
//!
//! A search also tries the saved address, because the announcement of a running hub can be missing: packets get lost,
//! and the announcing process may be down. If a search did not try the saved address, new sessions could begin a mesh
//! of their own while other sessions still use the hub.
//!
//! **Invariant:** a response to a search is only an address to try. A hub is saved only after it has proven that it
//! knows the secret. After a session has joined a hub, the session's process never leaves that hub for a mesh of its
//! own.

use super::Client;
use crate::base::error::{Error, ErrorKind};
use crate::discovery::{DiscoveredService, ServiceKind, browse};
use crate::remote::guest_handshake_with_hub;
use crate::sys::data_dir::DataDir;
use crate::sys::local_or_hub_endpoint::{Endpoint, SECRET_MIN};
use crate::sys::settings::{SECRET, Settings};
use crate::sys::{self, print_error};
use serde_json::{Value, json};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// How long a search collects responses.
const BROWSE_TIME: Duration = Duration::from_secs(1);
/// How long hubs may take to prove that they know the secret. All hubs are asked at the same time.
const PROOF_TIME: Duration = Duration::from_secs(2);

/// A hub that has proven that it knows the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveredHub {
    /// The hub's name on the network.
    pub name: String,
    /// The hub's address.
    pub address: String,
    /// The hub's port for sessions.
    pub port: u16,
}

/// Whether this machine uses the hub that it last joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Membership {
    /// The hub answered the last search.
    Joined,
    /// The hub did not answer the last search. The hub may be restarting.
    Missed,
    /// This machine no longer uses the hub. The hub's name is kept, so that a later search can prefer this hub.
    Left,
}

/// Decides when this machine leaves its hub, if the hub does not answer a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeavePolicy {
    /// The machine never leaves the hub, because a session in this process uses the hub.
    Never,
    /// The machine leaves after two searches in a row without an answer. After only one failed search, other processes
    /// may still be using the hub.
    AfterSecondMiss,
    /// The machine leaves after the first search without an answer.
    Immediately,
}

/// Whether the settings allow a search for a hub.
pub fn is_enabled(settings: &Settings) -> bool {
    !settings.is_set("SLM_MESH_HOST")
        && settings.text(SECRET).len() >= SECRET_MIN
        && settings.discovers()
        && settings.text("SLM_MESH_ROLE") != "broker"
}

/// Returns the hub that this machine has joined, if any.
pub fn joined_hub(places: &DataDir) -> Option<DiscoveredHub> {
    let (hub, membership) = load(places)?;
    (membership != Membership::Left).then_some(hub)
}

/// Searches for a hub on behalf of a session. A session calls this before its first connection, and after each failed
/// connection, because the hub may have moved. If `has_joined` is true, the process has already joined a hub, and never
/// returns to a mesh of its own.
pub fn look_for_session(has_joined: bool) {
    let Ok(places) = DataDir::find() else { return };
    // Wrong settings are ignored here, because the next connection attempt reports them.
    let Some(settings) = Settings::load(&places).ok().filter(is_enabled) else { return };
    let before = joined_hub(&places);
    let policy = if has_joined { LeavePolicy::Never } else { LeavePolicy::AfterSecondMiss };
    match join_best(&places, &settings, browse(BROWSE_TIME), policy) {
        Ok(Some(hub)) if before.as_ref() != Some(&hub) || !has_joined => {
            let warning = own_broker_warning(&places).map_or(String::new(), |warning| format!("; {warning}"));
            print_error(&format!(
                "slm-mesh: joined the hub {} at {}, after finding it on the local network{warning}",
                hub.name, hub.address
            ));
        }
        Ok(_) => {}
        Err(error) => print_error(&format!("slm-mesh: {}", error.text)),
    }
}

/// Joins a hub that proves that it knows the secret, and saves this hub. The candidates are the hubs that have
/// responded, and the hub that this machine already uses. The hub that this machine joined last is preferred, then the
/// first by name, then the first by address. If the fastest answer decided, sessions and hooks could use different
/// hubs.
///
/// # Errors
/// If the data directory can't be written.
pub fn join_best(
    places: &DataDir,
    settings: &Settings,
    responses: Vec<DiscoveredService>,
    policy: LeavePolicy,
) -> Result<Option<DiscoveredHub>, Error> {
    let known = load(places).map(|(hub, _)| hub);
    let responses = responses.into_iter().filter(|hub| matches!(hub.kind, ServiceKind::Hub) && hub.ws_port > 0);
    let mut hubs: Vec<DiscoveredHub> = responses.map(DiscoveredHub::from).collect();
    // If a hub at the saved address has responded, the response replaces the saved entry, because it contains the hub's
    // current name.
    let is_found = |saved: &DiscoveredHub| hubs.iter().any(|hub| hub.is_at_same_place(saved));
    let unheard = joined_hub(places).filter(|saved| !is_found(saved));
    hubs.extend(unheard);
    let proven = proven_hubs(hubs, settings);
    let best = proven.into_iter().min_by_key(|hub| hub.rank(known.as_ref()));
    match &best {
        Some(hub) => save(places, hub, Membership::Joined)?,
        None if policy == LeavePolicy::Never => {}
        None => note_miss(places, policy)?,
    }
    Ok(best)
}

/// Records that the joined hub did not answer a search. Leaves the hub if the policy requires that.
fn note_miss(places: &DataDir, policy: LeavePolicy) -> Result<(), Error> {
    match load(places) {
        None | Some((_, Membership::Left)) => Ok(()),
        Some((hub, Membership::Joined)) if policy == LeavePolicy::AfterSecondMiss => {
            save(places, &hub, Membership::Missed)
        }
        Some((hub, _)) => save(places, &hub, Membership::Left),
    }
}

fn load(places: &DataDir) -> Option<(DiscoveredHub, Membership)> {
    let value: Value = serde_json::from_str(&places.read(&places.hub())?).ok()?;
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    let port = value["port"].as_u64()?.try_into().ok()?;
    let membership = match (value["joined"].as_bool()?, value["missed"].as_bool()) {
        (false, _) => Membership::Left,
        (true, Some(true)) => Membership::Missed,
        (true, _) => Membership::Joined,
    };
    Some((DiscoveredHub { name: text("name")?, address: text("address")?, port }, membership))
}

fn save(places: &DataDir, hub: &DiscoveredHub, membership: Membership) -> Result<(), Error> {
    places.prepare()?;
    let value = json!({
        "name": hub.name,
        "address": hub.address,
        "port": hub.port,
        "joined": membership != Membership::Left,
        "missed": membership == Membership::Missed,
    });
    places.write(&places.hub(), &value.to_string())
}

/// Returns the hubs that prove within [`PROOF_TIME`] that they know the secret.
fn proven_hubs(hubs: Vec<DiscoveredHub>, settings: &Settings) -> Vec<DiscoveredHub> {
    let (sender, receiver) = channel();
    let mut n_asked = 0;
    for hub in hubs {
        let (settings, sender) = (settings.clone(), sender.clone());
        let ask = move || {
            let is_proven = proves_secret(&settings, &hub.address, hub.port) == Some(true);
            // If the hub was too slow, the search has already ended, and the send fails.
            let _ = sender.send(is_proven.then_some(hub));
        };
        n_asked += usize::from(std::thread::Builder::new().stack_size(256 * 1024).spawn(ask).is_ok());
    }
    let end = Instant::now() + PROOF_TIME;
    let mut proven = Vec::new();
    for _ in 0..n_asked {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(hub) => proven.extend(hub),
            Err(_) => break,
        }
    }
    proven
}

/// Whether a hub proves that it knows our secret; `None` if no secret is set or the hub does not answer.
pub fn proves_secret(settings: &Settings, address: &str, port: u16) -> Option<bool> {
    let secret = settings.text(SECRET);
    if secret.is_empty() {
        return None;
    }
    match guest_handshake_with_hub::connect(address, port, secret, sys::random_u128() as u64, None) {
        Ok(_) => Some(true),
        Err(error) if error.kind == ErrorKind::Refused => Some(false),
        Err(_) => None,
    }
}

impl DiscoveredHub {
    /// Converts the hub to the endpoint of a connection.
    pub fn road(self) -> Endpoint {
        Endpoint::DiscoveredHub { name: self.name, address: self.address, port: self.port }
    }

    /// Returns a sort key. The hub with the lowest key is preferred.
    fn rank(&self, known: Option<&DiscoveredHub>) -> (bool, bool, String, String, u16) {
        let is_known = known.is_some_and(|known| known.name == self.name);
        let is_same = is_known && known.is_some_and(|known| known.is_at_same_place(self));
        (!is_same, !is_known, self.name.clone(), self.address.clone(), self.port)
    }

    fn is_at_same_place(&self, other: &DiscoveredHub) -> bool {
        self.address == other.address && self.port == other.port
    }
}

impl From<DiscoveredService> for DiscoveredHub {
    fn from(service: DiscoveredService) -> DiscoveredHub {
        DiscoveredHub { name: service.name, address: service.address.ip().to_string(), port: service.ws_port }
    }
}

/// Returns a warning if this machine's own broker is still running. Call this function only on a machine that uses a
/// hub. The broker is not stopped automatically, because its sessions may be busy.
pub fn own_broker_warning(places: &DataDir) -> Option<String> {
    let pid = Client::listener_pid(places)?;
    Some(format!(
        "this machine's own broker (PID {pid}) is still running, and its sessions share no mail and no locks with the \
         sessions at the hub; run slm-mesh stop to move its sessions to the hub"
    ))
}

/// Extends the error of a failed connection: says that the hub was discovered, and what the user can do.
pub fn unreachable(name: &str, error: &Error) -> Error {
    let text = format!(
        "{}; this hub was found on the local network as {name}, and each new session searches for it again; run \
         slm-mesh hubs, which searches now, and forgets this hub if it does not answer",
        error.text
    );
    Error::new(ErrorKind::Gone, text)
}
