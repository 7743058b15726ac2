//! Connects to the leader of the hubs that share a mesh. If the last known leader does not answer, asks the other hubs.

use super::check_hub_has_joined_mesh::HubMesh;
use super::last_leader::LastLeader;
use super::leader_search::{FoundLeader, LeaderSearch, leader_hint};
use super::{Client, route_to_broker};
use crate::base::error::Error;
use crate::base::id_types::LogId;
use crate::sys::data_dir::DataDir;
use crate::sys::parse_hub_addresses::HubAddress;
use crate::sys::settings::{SECRET, Settings};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Maximum duration of a search for the leader. It is longer than a leader's usual lease, so that another hub can
/// replace a dead leader during the search. It is also short enough that every command ends within five seconds.
pub const SEARCH_MAX: Duration = Duration::from_millis(4500);
/// Maximum duration of a search for another leader, after a client's hub has stopped answering.
const SECOND_OPINION_MAX: Duration = Duration::from_secs(1);

/// A hub to ask during a search for the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidate {
    /// This machine's broker, which is one of several hubs.
    ThisMachine,
    /// The hub at this address.
    Hub(HubAddress),
}

impl Candidate {
    /// The address of the hub; `None` for this machine's broker.
    pub fn hub(&self) -> Option<&HubAddress> {
        match self {
            Candidate::ThisMachine => None,
            Candidate::Hub(hub) => Some(hub),
        }
    }

    /// Whether the candidate is reached through ssh, which takes longer than a direct connection.
    pub fn is_behind_ssh(&self) -> bool {
        self.hub().is_some_and(|hub| !hub.is_network())
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Candidate::ThisMachine => f.write_str("the hub of this machine"),
            Candidate::Hub(hub) => write!(f, "the hub {hub}"),
        }
    }
}

/// The hubs among which a process searches for the leader.
#[derive(Debug)]
pub struct HubGroup {
    candidates: Vec<Candidate>,
    settings: Settings,
    places: DataDir,
    /// The saved address of the last leader. Only a guest needs it, because a hub's own broker knows the leader.
    last_leader: Option<LastLeader>,
}

impl HubGroup {
    /// Creates a group of the hubs that are listed in a guest's settings.
    pub fn of_guest(hubs: Vec<HubAddress>, settings: Settings, places: &DataDir) -> HubGroup {
        let last_leader = Some(LastLeader::of(places, &hubs));
        let candidates = hubs.into_iter().map(Candidate::Hub).collect();
        HubGroup { candidates, settings, places: places.clone(), last_leader }
    }

    /// Creates a group that contains only this machine's broker, which knows the address of the leader.
    pub fn of_hub(settings: Settings, places: &DataDir) -> HubGroup {
        HubGroup { candidates: vec![Candidate::ThisMachine], settings, places: places.clone(), last_leader: None }
    }

    /// The hubs to ask. A hub that is known only from the answer of another hub is not included.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// The settings, which contain the secret and the ports.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether a secret is set. Without a secret, hubs can be reached only through ssh.
    pub fn has_secret(&self) -> bool {
        !self.settings.text(SECRET).is_empty()
    }

    /// Returns the only hub in the settings. Returns `None` if there are several hubs, or if the only hub was a standby
    /// when it was last asked.
    pub fn only_hub(&self) -> Option<&HubAddress> {
        match &self.candidates[..] {
            [Candidate::Hub(hub)] if self.last_leader.as_ref().is_none_or(|note| note.read().is_none()) => Some(hub),
            _ => None,
        }
    }

    /// Records that a hub is a standby. The next search for the leader starts with the hub that the standby named in
    /// its refusal.
    pub fn note_standby(&self, refusal: &Error) {
        let Some(note) = &self.last_leader else { return };
        let only = match &self.candidates[..] {
            [Candidate::Hub(hub)] => Some(hub.clone()),
            _ => None,
        };
        // Without a secret, this machine can't connect to the address that the standby named.
        if let Some(leader) = leader_hint(refusal).filter(|_| self.has_secret()).or(only) {
            note.write(&leader, None);
        }
    }

    /// Connects to the hub that leads, and saves the hub's address.
    ///
    /// # Errors
    /// If no hub leads. The error says for each hub what is wrong.
    pub fn find_leader(self: &Arc<Self>, limit: Duration) -> Result<(Candidate, Client), Error> {
        let first = self.last_leader.as_ref().and_then(LastLeader::read).map(Candidate::Hub);
        let FoundLeader { hub: leader, mut client, log } = LeaderSearch::new(self, first).run(limit)?;
        self.remember(&leader, log);
        if leader != Candidate::ThisMachine {
            client.send_origin()?;
        }
        client.group = Some(Arc::clone(self));
        Ok((leader, client))
    }

    fn remember(&self, leader: &Candidate, log: Option<LogId>) {
        let Some(note) = &self.last_leader else { return };
        match leader.hub() {
            Some(hub) if self.candidates != [leader.clone()] => note.write(hub, log),
            // This is the only hub, so there is nothing to save.
            _ => note.forget(),
        }
    }

    /// Whether a hub other than `silent` leads now. Clients call this function while `silent`, the hub that they use,
    /// does not answer.
    pub fn has_other_leader(self: &Arc<Self>, silent: &HubAddress) -> bool {
        let found = LeaderSearch::new(self, None).without(silent).run(SECOND_OPINION_MAX);
        found.is_ok_and(|found| {
            self.remember(&found.hub, found.log);
            true
        })
    }

    /// Whether the settings list several hubs, which must share a mesh.
    pub fn has_several_hubs(&self) -> bool {
        self.candidates.len() > 1
    }

    /// The log that this machine has joined, if the machine is a guest with several hubs. A guest with one hub has
    /// joined the mesh of this hub, whether or not the hub shares this mesh with other hubs.
    pub fn joined_log(&self) -> Option<LogId> {
        self.last_leader.as_ref().filter(|_| self.has_several_hubs())?.joined_log()
    }

    /// Checks that this candidate, which leads, has the mesh of this group. Returns the candidate's log, if the
    /// candidate shares a log.
    ///
    /// # Errors
    /// If the candidate has another mesh, or does not say which mesh it has.
    pub fn check_mesh(&self, hub: &Candidate, client: &mut Client, pong: &Value) -> Result<Option<LogId>, Error> {
        // This machine's broker, or a guest's only hub, need not share its mesh with other hubs. Any other hub is one
        // of several, and must have the mesh of this group.
        if *hub == Candidate::ThisMachine || self.candidates == [hub.clone()] {
            return Ok(None);
        }
        let mesh = HubMesh::of(client, pong)?;
        mesh.check(hub, self.joined_log(), &self.places).map(|()| mesh.log())
    }

    /// The data directory of this machine.
    pub fn places(&self) -> &DataDir {
        &self.places
    }

    /// Connects to one of the hubs, even if this hub does not lead.
    ///
    /// # Errors
    /// If the hub can't be reached.
    pub fn connect_to(self: &Arc<Self>, candidate: &Candidate) -> Result<Client, Error> {
        match candidate {
            Candidate::ThisMachine => Client::connect_to_own(&self.places),
            Candidate::Hub(hub) => route_to_broker::guest_handshake_with_hub(self, hub),
        }
    }

    /// Whether `hub` is the leader that a standby named in its `hint`. Compares the hosts and the session ports. If
    /// `hub` is reached through ssh, compares only the hosts.
    pub fn is_named_by(&self, hub: &HubAddress, hint: &HubAddress) -> bool {
        let is_same_port =
            route_to_broker::session_port(hub, &self.settings) == route_to_broker::session_port(hint, &self.settings);
        hub.host().eq_ignore_ascii_case(hint.host()) && (!hub.is_network() || is_same_port)
    }
}
