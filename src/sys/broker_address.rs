//! Where the broker is reached: on this machine, on a hub over the network, or behind ssh.

use super::settings::{LINKS, Settings};
use crate::base::error::{Error, ErrorKind};
use std::net::{IpAddr, UdpSocket};

/// A shorter secret is refused.
pub const SECRET_MIN: usize = 8;
/// A shorter secret earns a warning.
pub const SECRET_GOOD: usize = 16;

/// Where the broker is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// On this machine.
    Local {
        /// The address on which it serves TCP.
        bind: String,
        /// Whether other machines can reach that address.
        hub: bool,
    },
    /// On a hub: its name or address.
    Hub(String),
    /// On a hub that was discovered on the local network, and has proven there that it knows the secret.
    DiscoveredHub {
        /// Its name on the local network.
        name: String,
        /// Its address at that time.
        address: String,
        /// Its port for sessions.
        port: u16,
    },
    /// On a hub behind ssh: `[user@]host`, and the port if the setting has one.
    Ssh(String, Option<u16>),
}

impl Endpoint {
    /// The endpoint that the settings mean.
    ///
    /// # Errors
    /// When they contradict each other, or the secret is missing or too short.
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
        // An address that can be bound is this machine's.
        let is_own = || address.is_some_and(|address| UdpSocket::bind((address, 0)).is_ok());
        if role == "client" && is_wildcard {
            let text = format!("SLM_MESH_ROLE: client wants SLM_MESH_HOST to name the hub, and it is {host}");
            return Err(Error::new(ErrorKind::Usage, text));
        }
        // A client whose hub has a loopback address reaches it through a tunnel.
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
    // ssh would take a name that begins with a dash for an option.
    let is_name = !name.is_empty() && !name.starts_with('-') && !name.contains(char::is_whitespace);
    if is_name && !name.contains("@-") {
        return Ok(Endpoint::Ssh(name.to_owned(), port));
    }
    Err(Error::new(ErrorKind::Usage, format!("SLM_MESH_HOST: want ssh://[user@]host[:port], got ssh://{target}")))
}

/// Links that one broker may have.
const LINKS_MAX: usize = 8;

/// The addresses of other meshes, without a trailing slash.
///
/// # Errors
/// For the first that is not an address.
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
    let is = if secret.is_empty() { "is missing" } else { "is too short to keep anybody out" };
    let text = format!(
        "SLM_MESH_SHARED_SECRET {is}, and SLM_MESH_HOST={host} involves other machines; run slm-mesh secret for a good \
         one, and put it into the environment or the config file of the data directory on every machine"
    );
    Err(Error::new(ErrorKind::Usage, text))
}
