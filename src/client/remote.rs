//! Finds out where the broker is. If the broker is on another machine, connects to it over a WebSocket or through ssh.
//! Both kinds of connection carry the same lines as a local socket.

use super::discovered_hub::{self, DiscoveredHub};
use super::hub_group::{Candidate, HubGroup, SEARCH_MAX};
use super::leader_search::leader_hint;
use super::stream::BrokerStream;
use super::{Client, Server, ssh_hub};
use crate::base::error::{Error, ErrorKind};
use crate::remote::connect_to_hub::{self, SecondOpinion};
use crate::sys::broker_address::Endpoint;
use crate::sys::data_dir::DataDir;
use crate::sys::hub_list::HubAddress;
use crate::sys::settings::{HOST, SECRET, STORE, Settings};
use crate::sys::{self, process, threads};
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// If an attempt fails after taking at least this long, the hub counts as silent. An attempt that the hub refuses fails
/// sooner.
const SILENT_AFTER: Duration = Duration::from_millis(500);
/// How long a hub may take, once it is connected, to say whether it leads.
const ROLE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long hooks skip a hub after it was marked as silent, because hooks cannot wait.
const SILENT_MARK_AGE: Duration = Duration::from_secs(30);

/// The broker that the settings determine.
pub enum Route {
    /// The broker of this machine.
    ThisMachine,
    /// The broker of this machine, which is one of several hubs, or the leader if another hub leads.
    OwnHub(Arc<HubGroup>),
    /// A broker on another machine.
    Remote(RemoteTarget),
}

/// The hubs on other machines, one of which leads.
pub struct RemoteTarget {
    group: Arc<HubGroup>,
    /// The name under which the hub was discovered; `None` if the settings list the hub.
    discovered_as: Option<String>,
}

impl Route {
    /// Finds the route that the settings determine.
    ///
    /// # Errors
    /// If the settings are wrong.
    pub fn find(places: &DataDir) -> Result<Route, Error> {
        // Most machines use no hub, so the settings are not read if none of these variables is set and there is no
        // settings file.
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

/// Whether the broker is, or may be, on another machine.
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
/// If no hub can be reached, if all hubs reject us, or if no hub leads; the error says which of these is the case.
pub fn connect(target: &RemoteTarget, places: &DataDir) -> Result<Client, Error> {
    let began = Instant::now();
    let connected = target.connect();
    match &connected {
        // Usually there is no mark, and this fails.
        Ok(_) => drop(std::fs::remove_file(places.silent())),
        Err(error) if error.kind == ErrorKind::Gone && began.elapsed() >= SILENT_AFTER => {
            // If the mark can't be written, the next hook tries the silent hub again.
            let _ = places.prepare().and_then(|()| places.write(&places.silent(), ""));
        }
        Err(_) => {}
    }
    connected
}

/// Which role a hub says it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubRole {
    /// The hub leads and serves guests.
    Leads {
        /// The hub's version of slm-mesh.
        version: String,
    },
    /// The hub is a standby.
    StandsBy {
        /// The hub that leads, if the standby knows it.
        leader: Option<String>,
    },
}

/// What one hub answered.
pub struct HubAnswer {
    /// The hub as the settings list it.
    pub hub: String,
    /// The role of the hub, or the reason why the hub can't be asked.
    pub role: Result<HubRole, Error>,
    /// How long the answer took.
    pub took: Duration,
}

impl RemoteTarget {
    /// Asks all hubs at the same time.
    pub fn ask_each(&self) -> Vec<HubAnswer> {
        let ask = |hub: &&HubAddress| {
            let began = Instant::now();
            let role = ask_role(&self.group, hub);
            HubAnswer { hub: hub.to_string(), role, took: began.elapsed() }
        };
        let hubs: Vec<&HubAddress> = self.group.candidates().iter().filter_map(Candidate::hub).collect();
        threads::map_in_parallel(&hubs, ask).into_iter().flatten().collect()
    }

    fn connect(&self) -> Result<Client, Error> {
        let Some(hub) = self.group.only_hub() else {
            return self.group.find_leader(SEARCH_MAX).map(|(_, client)| client);
        };
        let connected = connect_to_hub(&self.group, hub);
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
pub fn connect_to_hub(group: &Arc<HubGroup>, hub: &HubAddress) -> Result<Client, Error> {
    let has_others = group.candidates().len() > 1;
    let mut client = match hub {
        HubAddress::Ssh { target, port } => ssh_hub::connect(target, *port, has_others)?,
        HubAddress::Network { host, .. } => {
            let settings = group.settings();
            let second_opinion = has_others.then(|| {
                let (group, hub) = (Arc::clone(group), hub.clone());
                Arc::new(move || group.has_other_leader(&hub)) as SecondOpinion
            });
            let jitter = sys::random_u128() as u64;
            let port = session_port(hub, settings);
            let stream = connect_to_hub::connect(host, port, settings.text(SECRET), jitter, second_opinion)?;
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
    let mut client = connect_to_hub(group, hub)?;
    client.set_receive_timeout(Some(ROLE_TIMEOUT)).map_err(|error| client.connection_lost(&error))?;
    // Only the leader answers a ping. A standby refuses it.
    let asked = client.call_once("ping", &json!({}));
    match asked.and_then(|_| client.call_once("status", &json!({}))) {
        Ok(status) => Ok(HubRole::Leads { version: status["version"].as_str().unwrap_or("?").to_owned() }),
        Err(error) if error.kind == ErrorKind::Standby => {
            Ok(HubRole::StandsBy { leader: leader_hint(&error).map(|leader| leader.to_string()) })
        }
        Err(error) => Err(error),
    }
}

/// A hub's port for sessions: its own port, or the port that the settings give for all hubs.
pub fn session_port(hub: &HubAddress, settings: &Settings) -> u16 {
    match (hub, settings.int("SLM_MESH_WS_PORT")) {
        (HubAddress::Network { port: Some(port), .. }, _) => *port,
        (_, 0) => (settings.int("SLM_MESH_PORT") + 1) as u16,
        (_, port) => port as u16,
    }
}

/// Whether the hub is marked as silent, because it recently failed to respond. If so, a hook does not try the hub.
/// Commands can wait, so they try the hub in any case, and remove the mark if they succeed.
pub fn is_marked_silent(places: &DataDir) -> bool {
    let at = std::fs::metadata(places.silent()).and_then(|meta| meta.modified());
    at.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < SILENT_MARK_AGE))
}

/// Returns a connection that a child process can inherit, and that lasts as long as the child holds the socket, even
/// after this process has ended. The socket of this machine's broker is such a connection. For a broker on another
/// machine, this function starts a process that forwards the lines, and that ends when no process holds the other end
/// of its socket any more.
///
/// # Errors
/// If this machine's broker or the forwarding process can't be started, or if this machine is one of several hubs and
/// none leads. The forwarding process itself reports why it can't reach the hub.
pub fn connect_for_child(places: &DataDir) -> Result<Client, Error> {
    match Route::find(places)? {
        Route::ThisMachine => Client::connect_or_start(places),
        Route::OwnHub(group) => {
            Client::connect_to_own_or_start(places)?;
            let (leader, client) = group.find_leader(SEARCH_MAX)?;
            leader.hub().map_or(Ok(client), |hub| start_carrier(&group, Some(hub)))
        }
        Route::Remote(target) => start_carrier(&target.group, None),
    }
}

/// Starts a process that forwards lines to this hub, or to the hub that the settings determine.
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
    let mut client = Client::from_stream(BrokerStream::Socket(ours), Some(child));
    (client.server, client.group) = (Server::Carried, Some(Arc::clone(group)));
    Ok(client)
}

/// Describes where this connection comes from: the machine, the user, and our parent processes. The hub uses the parent
/// processes to find the session to which a shell or hook belongs. (A broker on the same machine asks the kernel
/// instead.) The hub trusts the description, because we know the secret.
pub fn describe_origin() -> Value {
    let ancestors: Vec<Value> = process::ancestors(i64::from(std::process::id()))
        .iter()
        .map(|process| json!([process.pid, process.start, process.wrapper, process.agent.map(|agent| agent.kind)]))
        .collect();
    json!({ "host": sys::host(), "user": sys::user(), "ancestors": ancestors })
}
