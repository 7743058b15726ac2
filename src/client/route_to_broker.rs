//! Finds the broker that this machine uses. Connects to a broker on another machine through a WebSocket or ssh. Both
//! kinds of connection carry the same lines of JSON as a local socket.

use super::check_hub_has_joined_mesh::{HubMesh, log_id};
use super::connect_to_leading_hub::{Candidate, HubGroup, SEARCH_MAX};
use super::discovered_hub::{self, DiscoveredHub};
use super::end_and_reap_forwarding_process::Carrier;
use super::leader_search::leader_hint;
use super::stream::BrokerStream;
use super::{Client, Server, ssh_hub};
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::LogId;
use crate::remote::guest_handshake_with_hub::{self, SecondOpinion};
use crate::sys::data_dir::DataDir;
use crate::sys::local_or_hub_endpoint::Endpoint;
use crate::sys::machine_name::machine_name;
use crate::sys::parse_hub_addresses::HubAddress;
use crate::sys::settings::{HOST, SECRET, STORE, Settings};
use crate::sys::{self, process, threads};
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// If an attempt to connect fails after at least this time, the hub counts as silent. A hub that refuses the connection
/// answers sooner.
const SILENT_AFTER: Duration = Duration::from_millis(500);
/// How long a connected hub may take to say whether it leads.
const ROLE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long hooks skip a hub that was marked as silent. Hooks cannot wait for such a hub.
const SILENT_MARK_AGE: Duration = Duration::from_secs(30);

/// Which broker this machine uses.
pub enum Route {
    /// The broker of this machine.
    ThisMachine,
    /// The hub that leads, if this machine is one of several hubs. It can be the broker of this machine.
    OwnHub(Arc<HubGroup>),
    /// A broker on another machine.
    Remote(RemoteTarget),
}

/// One or more hubs on other machines, one of which leads.
pub struct RemoteTarget {
    group: Arc<HubGroup>,
    /// The name under which the hub was discovered; `None` if the hub is listed in the settings.
    discovered_as: Option<String>,
}

impl Route {
    /// Finds the broker that this machine uses, according to the settings.
    ///
    /// # Errors
    /// If the settings are wrong.
    pub fn find(places: &DataDir) -> Result<Route, Error> {
        // If no variable for a hub is set and there is no settings file, the machine uses no hub. With this check, most
        // machines need not read the settings.
        let is_set = |name: &str| std::env::var_os(name).is_some();
        if ![HOST, SECRET, STORE].into_iter().any(is_set) && !places.config().exists() {
            return Ok(Route::ThisMachine);
        }
        let settings = Settings::load(places)?;
        let found = match discovered_hub::is_enabled(&settings) {
            true => discovered_hub::joined_hub(places).map(DiscoveredHub::road),
            false => Some(Endpoint::find(&settings)?),
        };
        let to = |hubs, discovered_as| {
            let group = Arc::new(HubGroup::of_guest(hubs, settings.clone(), places));
            Route::Remote(RemoteTarget { group, discovered_as })
        };
        Ok(match found {
            Some(Endpoint::Hubs(hubs)) => to(hubs, None),
            Some(Endpoint::DiscoveredHub { name, address, port }) => {
                to(vec![HubAddress::Network { host: address, port: Some(port) }], Some(name))
            }
            Some(Endpoint::Local { .. }) if settings.is_set(STORE) => {
                Route::OwnHub(Arc::new(HubGroup::of_hub(settings, places)))
            }
            Some(Endpoint::Local { .. }) | None => Route::ThisMachine,
        })
    }
}

/// Whether this machine uses a hub on another machine instead of its own broker.
///
/// # Errors
/// If the settings are wrong.
pub fn is_remote(places: &DataDir) -> Result<bool, Error> {
    Ok(matches!(Route::find(places)?, Route::Remote(_)))
}

/// Connects to the leader, and tells the leader where the connection comes from. If no hub responds, marks the hubs as
/// silent.
///
/// # Errors
/// If no hub can be reached, if all hubs reject us, or if no hub leads. The error says which of these is the case.
pub fn connect(target: &RemoteTarget, places: &DataDir) -> Result<Client, Error> {
    let began = Instant::now();
    let connected = target.connect();
    match &connected {
        // Usually there is no mark, so the removal fails, and the error is ignored.
        Ok(_) => drop(std::fs::remove_file(places.silent())),
        Err(error) if error.kind == ErrorKind::Gone && began.elapsed() >= SILENT_AFTER => {
            // If the mark can't be written, the next hook tries the silent hub again.
            let _ = places.prepare().and_then(|()| places.write(&places.silent(), ""));
        }
        Err(_) => {}
    }
    connected
}

/// The role that a hub reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubRole {
    /// The hub leads and serves guests.
    Leads {
        /// The hub's version of slm-mesh.
        version: String,
        /// The hub's mesh.
        mesh: HubMesh,
    },
    /// The hub is a standby.
    StandsBy {
        /// The hub that leads, if the standby knows it.
        leader: Option<String>,
        /// Why the hub can't take over, and what to do; `None` if the hub can take over.
        trouble: Option<String>,
        /// The log to which the standby's database belongs, if the standby names it.
        log: Option<LogId>,
    },
}

/// The answer of one hub, or the reason why there is none.
pub struct HubAnswer {
    /// The hub.
    pub hub: Candidate,
    /// The role that the hub reports, or the reason why the hub could not be asked.
    pub role: Result<HubRole, Error>,
    /// How long the answer took.
    pub took: Duration,
}

impl RemoteTarget {
    /// Asks all hubs at the same time which role they have.
    pub fn ask_each(&self) -> Vec<HubAnswer> {
        let ask = |hub: &&HubAddress| {
            let began = Instant::now();
            let role = ask_role(&self.group, hub);
            HubAnswer { hub: Candidate::Hub((*hub).clone()), role, took: began.elapsed() }
        };
        let hubs: Vec<&HubAddress> = self.group.candidates().iter().filter_map(Candidate::hub).collect();
        threads::map_in_parallel(&hubs, ask).into_iter().flatten().collect()
    }

    /// The hubs in the settings.
    pub fn group(&self) -> &HubGroup {
        &self.group
    }

    fn connect(&self) -> Result<Client, Error> {
        let Some(hub) = self.group.only_hub() else {
            return self.group.find_leader(SEARCH_MAX).map(|(_, client)| client);
        };
        let connected = guest_handshake_with_hub(&self.group, hub);
        let mut client = connected.map_err(|error| match &self.discovered_as {
            Some(name) => discovered_hub::unreachable(name, &error),
            None => error,
        })?;
        if let Some(name) = &self.discovered_as {
            client.server_name = format!("the hub {name}");
        }
        client.group = Some(Arc::clone(&self.group));
        client.send_origin()?;
        Ok(client)
    }
}

/// Connects to one hub, even if this hub does not lead.
///
/// # Errors
/// If the hub can't be reached or rejects us.
pub fn guest_handshake_with_hub(group: &Arc<HubGroup>, hub: &HubAddress) -> Result<Client, Error> {
    let second_opinion = group.has_several_hubs().then(|| {
        let (group, hub) = (Arc::clone(group), hub.clone());
        Arc::new(move || group.has_other_leader(&hub)) as SecondOpinion
    });
    let mut client = match hub {
        HubAddress::Ssh { target, port } => ssh_hub::connect(target, *port, second_opinion)?,
        HubAddress::Network { host, .. } => {
            let settings = group.settings();
            let jitter = sys::random_u128() as u64;
            let port = session_port(hub, settings);
            let stream = guest_handshake_with_hub::connect(host, port, settings.text(SECRET), jitter, second_opinion)?;
            Client::from_stream(BrokerStream::Hub(stream), None)
        }
    };
    client.server_name = match hub {
        HubAddress::Ssh { target, .. } => format!("the hub {target}"),
        HubAddress::Network { host, .. } => format!("the hub {host}"),
    };
    Ok(client)
}

fn ask_role(group: &Arc<HubGroup>, hub: &HubAddress) -> Result<HubRole, Error> {
    let mut client = guest_handshake_with_hub(group, hub)?;
    client.set_receive_timeout(Some(ROLE_TIMEOUT)).map_err(|error| client.connection_lost(&error))?;
    // Only the leader answers a ping. A standby refuses it.
    let asked = client.call_once("ping", &json!({}));
    let mesh = asked.and_then(|pong| HubMesh::of(&mut client, &pong));
    match mesh.and_then(|mesh| Ok((mesh, client.call_once("status", &json!({}))?))) {
        Ok((mesh, status)) => {
            Ok(HubRole::Leads { version: status["version"].as_str().unwrap_or("?").to_owned(), mesh })
        }
        Err(error) if error.kind == ErrorKind::Standby => {
            let leader = leader_hint(&error).map(|leader| leader.to_string());
            // If the standby does not answer this question, its role is still worth reporting.
            let status = client.call_once("hub.status", &json!({})).unwrap_or_default();
            let trouble = status["trouble"].as_str().map(str::to_owned);
            Ok(HubRole::StandsBy { leader, trouble, log: log_id(&status["log"]) })
        }
        Err(error) => Err(error),
    }
}

/// Returns the port on which a hub accepts sessions: the hub's own port, or the port that the settings give for all
/// hubs.
pub fn session_port(hub: &HubAddress, settings: &Settings) -> u16 {
    match (hub, settings.int("SLM_MESH_WS_PORT")) {
        (HubAddress::Network { port: Some(port), .. }, _) => *port,
        (_, 0) => (settings.int("SLM_MESH_PORT") + 1) as u16,
        (_, port) => port as u16,
    }
}

/// Whether the hub recently failed to respond and is marked as silent. A hook skips such a hub. A command can wait, so
/// the command tries the hub, and removes the mark if the hub responds.
pub fn is_marked_silent(places: &DataDir) -> bool {
    let at = std::fs::metadata(places.silent()).and_then(|meta| meta.modified());
    at.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < SILENT_MARK_AGE))
}

/// Returns a connection that a child process can inherit. The connection lasts as long as the child holds the socket,
/// even after this process has ended. If the broker is on another machine, a separate process forwards requests and
/// answers. That process ends when no process holds the other end of the socket any more.
///
/// # Errors
/// If this machine's broker or the forwarding process can't be started, or if this machine is one of several hubs and
/// none of them leads. If the forwarding process can't reach the hub, it reports the reason itself.
pub fn connect_for_child(places: &DataDir) -> Result<Client, Error> {
    match Route::find(places)? {
        Route::ThisMachine => Client::connect_or_start(places),
        Route::OwnHub(group) => {
            Client::connect_to_own_or_start(places, None)?;
            let (leader, client) = group.find_leader(SEARCH_MAX)?;
            leader.hub().map_or(Ok(client), |hub| start_carrier(&group, Some(hub)))
        }
        Route::Remote(target) => start_carrier(&target.group, None),
    }
}

/// Starts a process that forwards requests to `hub`. If `hub` is `None`, the settings determine the hub.
fn start_carrier(group: &Arc<HubGroup>, hub: Option<&HubAddress>) -> Result<Client, Error> {
    let failed = |error: std::io::Error| Error::new(ErrorKind::Gone, format!("cannot start slm-mesh pipe ({error})"));
    let (ours, input) = UnixStream::pair().map_err(failed)?;
    let output = input.try_clone().map_err(failed)?;
    let mut command = Command::new(sys::own_path());
    command.arg("pipe").stdin(Stdio::from(OwnedFd::from(input))).stdout(Stdio::from(OwnedFd::from(output)));
    if let Some(hub) = hub {
        command.env(HOST, hub.to_string()).env("SLM_MESH_ROLE", "client");
    }
    // Ctrl-C in the terminal is meant for the command that holds the socket, not for the forwarding process.
    let child = command.process_group(0).spawn().map_err(failed)?;
    let mut client = Client::from_stream(BrokerStream::Socket(ours), Some(Carrier::of(child)));
    (client.server, client.group) = (Server::Carried, Some(Arc::clone(group)));
    Ok(client)
}

/// Describes where this connection comes from: the machine, the user, and our parent processes. The hub uses the parent
/// processes to find the session to which a shell or hook belongs. The hub trusts the description, because we know the
/// secret.
pub fn describe_origin() -> Value {
    let ancestors: Vec<Value> = process::ancestors(i64::from(std::process::id()))
        .iter()
        .map(|process| json!([process.pid, process.start, process.wrapper, process.agent.map(|agent| agent.kind)]))
        .collect();
    json!({ "host": machine_name(), "boot": sys::boot_id(), "user": sys::user(), "ancestors": ancestors })
}
