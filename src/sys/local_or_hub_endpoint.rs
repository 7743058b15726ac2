//! The address of the broker. The broker runs on this machine, or on a hub that is reached over the network or through
//! ssh.

use super::parse_hub_addresses::{HubAddress, parse_hubs};
use super::settings::{LINKS, SECRET, Settings};
use crate::base::error::{Error, ErrorKind};
use std::net::UdpSocket;

/// Minimum length of a secret, in bytes. Shorter secrets are refused.
pub const SECRET_MIN: usize = 8;
/// The recommended length of a secret, in bytes. Shorter secrets cause a warning.
pub const SECRET_GOOD: usize = 16;

/// The place where the broker runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// On this machine.
    Local {
        /// The address on which the broker accepts TCP connections.
        bind: String,
        /// Whether other machines can reach the address.
        hub: bool,
    },
    /// On one of the hubs that `SLM_MESH_HOST` lists.
    Hubs(Vec<HubAddress>),
    /// On a hub that was discovered on the local network and has proven that it knows the secret.
    DiscoveredHub {
        /// The hub's name on the local network.
        name: String,
        /// The hub's address when it was discovered.
        address: String,
        /// The hub's port for sessions.
        port: u16,
    },
}

impl Endpoint {
    /// Finds out from the settings where the broker runs.
    ///
    /// # Errors
    /// If the settings contradict each other, or the secret is missing or too short.
    pub fn find(settings: &Settings) -> Result<Endpoint, Error> {
        let setting = settings.text("SLM_MESH_HOST").trim();
        let role = settings.text("SLM_MESH_ROLE");
        let hubs = parse_hubs(setting)?;
        let endpoint = match &hubs[..] {
            [hub] if hub.is_network() => of_one_host(hub, role)?,
            _ => {
                refuse_own_address(&hubs, role)?;
                Endpoint::Hubs(hubs)
            }
        };
        let needs_secret = match &endpoint {
            Endpoint::Local { hub, .. } => *hub,
            Endpoint::Hubs(hubs) => hubs.iter().any(HubAddress::is_network),
            Endpoint::DiscoveredHub { .. } => false,
        };
        if needs_secret {
            check_secret(settings.text(SECRET), setting)?;
        }
        Ok(endpoint)
    }
}

/// Appends a port to the name or address of a machine.
pub fn with_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Returns the endpoint for a setting with a single address: the address of this machine or of a hub.
fn of_one_host(host: &HubAddress, role: &str) -> Result<Endpoint, Error> {
    let is_loopback = host.is_loopback();
    if role == "client" && host.is_wildcard() {
        let text = format!(
            "SLM_MESH_HOST={host} names no hub, but SLM_MESH_ROLE=client needs one; set SLM_MESH_HOST to the hub's \
             name or address"
        );
        return Err(Error::new(ErrorKind::Usage, text));
    }
    if role == "auto" && is_own_name(host) {
        return Err(own_address_error(host));
    }
    // With the role `client`, a loopback address is the entrance of a tunnel to a hub, so it does not stand for this
    // machine.
    let is_local = role != "client" && (is_loopback || host.is_wildcard() || role == "broker" || is_own(host));
    if !is_local {
        return Ok(Endpoint::Hubs(vec![host.clone()]));
    }
    if let HubAddress::Network { port: Some(port), .. } = host {
        let text = format!(
            "SLM_MESH_HOST: expected this machine's address without a port, got {host}; set \
             SLM_MESH_WS_PORT={port} instead"
        );
        return Err(Error::new(ErrorKind::Usage, text));
    }
    Ok(Endpoint::Local { bind: host.host().to_owned(), hub: !is_loopback })
}

/// Whether the address belongs to this machine. A socket can be bound only to such an address.
fn is_own(hub: &HubAddress) -> bool {
    hub.ip().is_some_and(|address| UdpSocket::bind((address, 0)).is_ok())
}

/// Whether the hub's name is the name of this machine. A hub does not listen at its name, because on the machine
/// itself, the name often leads only to a loopback address.
fn is_own_name(hub: &HubAddress) -> bool {
    let own = super::host();
    let names = [hub.host(), hub.host().strip_suffix(".local").unwrap_or_default()];
    hub.is_network() && names.iter().any(|name| name.eq_ignore_ascii_case(&own))
}

fn own_address_error(hub: &HubAddress) -> Error {
    let text = format!(
        "SLM_MESH_HOST: {hub} is this machine, but the hub of a guest must be another machine; if this machine is a \
         hub, set SLM_MESH_HOST=0.0.0.0; if {hub} is the near end of a tunnel to a hub, set SLM_MESH_ROLE=client"
    );
    Error::new(ErrorKind::Usage, text)
}

/// Refuses a list of hubs if it contains this machine, or if this machine has the role `broker`. Otherwise, this
/// machine would be both a hub and a guest.
fn refuse_own_address(hubs: &[HubAddress], role: &str) -> Result<(), Error> {
    if role == "broker" && hubs.len() > 1 {
        let text = "SLM_MESH_HOST is a list of hubs, but SLM_MESH_ROLE=broker needs an address of this machine; set \
                    SLM_MESH_HOST=0.0.0.0 on a hub";
        return Err(Error::new(ErrorKind::Usage, text));
    }
    let is_here = |hub: &&HubAddress| hub.is_loopback() || is_own(hub) || is_own_name(hub);
    match hubs.iter().find(is_here).filter(|_| role != "client") {
        None => Ok(()),
        Some(hub) => Err(own_address_error(hub)),
    }
}

/// Maximum number of other meshes to which one broker can be linked.
const LINKS_MAX: usize = 8;

/// The addresses of the linked meshes, without slashes at the end.
///
/// # Errors
/// If an element of the setting is not an address, or if there are too many addresses. The error contains the first
/// wrong element.
pub fn links(settings: &Settings) -> Result<Vec<String>, Error> {
    let mut urls: Vec<String> = Vec::new();
    for url in settings.several(LINKS) {
        let url = url.trim_end_matches('/').to_owned();
        let rest = url.strip_prefix("http://").filter(|rest| !rest.is_empty() && !rest.contains(['/', '@', '?', '#']));
        if rest.is_none_or(|rest| rest.contains(char::is_whitespace)) {
            let text = format!(
                "{LINKS}: expected addresses such as http://host:port, separated by commas, got {url}; to encrypt the \
                 traffic, use WireGuard or an ssh tunnel, because links do not support https"
            );
            return Err(Error::new(ErrorKind::Usage, text));
        }
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    if urls.len() > LINKS_MAX {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("{LINKS}: expected at most {LINKS_MAX} addresses, got {}", urls.len()),
        ));
    }
    Ok(urls)
}

fn check_secret(secret: &str, host: &str) -> Result<(), Error> {
    if secret.len() >= SECRET_MIN {
        return Ok(());
    }
    let is = if secret.is_empty() { "is missing" } else { "is too short to be safe" };
    let text = format!(
        "SLM_MESH_SHARED_SECRET {is}, but SLM_MESH_HOST={host} involves other machines and so needs it; run slm-mesh \
         secret once, and put its output into each machine's environment, or into the `config` file in each machine's \
         data directory"
    );
    Err(Error::new(ErrorKind::Usage, text))
}
