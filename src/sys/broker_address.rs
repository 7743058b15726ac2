//! The address of the broker: on this machine, on a hub over the network, or behind ssh.

use super::settings::{LINKS, Settings};
use crate::base::error::{Error, ErrorKind};
use std::net::{IpAddr, UdpSocket};

/// The least characters of a secret. A shorter secret is refused.
pub const SECRET_MIN: usize = 8;
/// Characters of a good secret. A shorter secret causes a warning.
pub const SECRET_GOOD: usize = 16;

/// The address of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// On this machine.
    Local {
        /// The address on which the broker accepts TCP connections.
        bind: String,
        /// Whether other machines can reach that address.
        hub: bool,
    },
    /// On a hub with this name or address.
    Hub(String),
    /// On a hub that was discovered on the local network and has proven that it knows the secret.
    DiscoveredHub {
        /// The hub's name on the local network.
        name: String,
        /// The hub's address when it was discovered.
        address: String,
        /// The hub's port for sessions.
        port: u16,
    },
    /// On a hub behind ssh: `[user@]host`, and the port if the setting has one.
    Ssh(String, Option<u16>),
}

impl Endpoint {
    /// Finds the endpoint in the settings.
    ///
    /// # Errors
    /// When the settings contradict each other, or the secret is missing or too short.
    pub fn find(settings: &Settings) -> Result<Endpoint, Error> {
        let host = settings.text("SLM_MESH_HOST").trim().to_owned();
        let role = settings.text("SLM_MESH_ROLE");
        if let Some(target) = host.strip_prefix("ssh://") {
            return behind_ssh(target.trim_end_matches('/'));
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let address: Option<IpAddr> = bare.parse().ok();
        let is_loopback = bare == "localhost" || address.is_some_and(|address| address.is_loopback());
        let is_wildcard = address.is_some_and(|address| address.is_unspecified());
        // If this machine can bind the address, the address belongs to this machine.
        let is_own = || address.is_some_and(|address| UdpSocket::bind((address, 0)).is_ok());
        if role == "client" && is_wildcard {
            let text = format!("SLM_MESH_ROLE: client wants SLM_MESH_HOST to name the hub, and it is {host}");
            return Err(Error::new(ErrorKind::Usage, text));
        }
        // A client whose hub has a loopback address reaches the hub through a tunnel.
        let is_local = role != "client" && (is_loopback || is_wildcard || role == "broker" || is_own());
        let endpoint = if is_local { Endpoint::Local { bind: bare, hub: !is_loopback } } else { Endpoint::Hub(bare) };
        if !(is_local && is_loopback) {
            check_secret(settings.text("SLM_MESH_SHARED_SECRET"), &host)?;
        }
        Ok(endpoint)
    }
}

fn behind_ssh(target: &str) -> Result<Endpoint, Error> {
    let (name, port) = match target.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => (name, port.parse().ok()),
        _ => (target, None),
    };
    // ssh would treat a name that begins with a dash as an option.
    let is_name = !name.is_empty() && !name.starts_with('-') && !name.contains(char::is_whitespace);
    if is_name && !name.contains("@-") {
        return Ok(Endpoint::Ssh(name.to_owned(), port));
    }
    Err(Error::new(ErrorKind::Usage, format!("SLM_MESH_HOST: want ssh://[user@]host[:port], got ssh://{target}")))
}

/// The most links of one broker.
const LINKS_MAX: usize = 8;

/// The addresses of other meshes, without a trailing slash.
///
/// # Errors
/// For the first text that is not an address.
pub fn links(settings: &Settings) -> Result<Vec<String>, Error> {
    let mut urls: Vec<String> = Vec::new();
    for url in settings.several(LINKS) {
        let url = url.trim_end_matches('/').to_owned();
        let rest = url.strip_prefix("http://").filter(|rest| !rest.is_empty() && !rest.contains(['/', '@', '?', '#']));
        if rest.is_none_or(|rest| rest.contains(char::is_whitespace)) {
            let text = format!(
                "{LINKS}: want http://host:port, with commas between several, got {url}; if the traffic must be encrypted, \
                 use WireGuard or an ssh tunnel"
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
            format!("{LINKS}: at most {LINKS_MAX} addresses, got {}", urls.len()),
        ));
    }
    Ok(urls)
}

fn check_secret(secret: &str, host: &str) -> Result<(), Error> {
    if secret.len() >= SECRET_MIN {
        return Ok(());
    }
    let is = if secret.is_empty() { "is missing" } else { "is too short to keep strangers out" };
    let text = format!(
        "SLM_MESH_SHARED_SECRET {is}, and SLM_MESH_HOST={host} involves other machines; run slm-mesh secret for a good \
         one, and put it into the environment or the config file of the data directory on every machine"
    );
    Err(Error::new(ErrorKind::Usage, text))
}
