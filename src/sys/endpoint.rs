//! Which way the broker lies: on this machine, on a hub that a network reaches, or behind ssh.

use super::settings::{LINKS, Settings};
use crate::base::error::{Error, ErrorKind};
use std::net::{IpAddr, UdpSocket};

/// A secret shorter than this is refused.
pub const SECRET_MIN: usize = 8;
/// One shorter than this is warned of.
pub const SECRET_GOOD: usize = 16;

/// The way to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Road {
    /// Here. What serves other machines as well is a hub.
    Here {
        /// The address on which TCP is served.
        bind: String,
        /// Whether other machines can reach that.
        hub: bool,
    },
    /// On a hub: its name or address.
    Hub(String),
    /// On a hub that was found on the local network, and has proven the secret there.
    Found {
        /// What it is called there.
        name: String,
        /// Where it was.
        address: String,
        /// Its port for sessions.
        port: u16,
    },
    /// On a hub behind ssh: `[user@]host`, and the port, if one was given.
    Ssh(String, Option<u16>),
}

impl Road {
    /// The way that the settings mean.
    ///
    /// # Errors
    /// When they contradict each other, or a secret is missing or too short.
    pub fn find(settings: &Settings) -> Result<Road, Error> {
        let host = settings.text("SLM_MESH_HOST").trim().to_owned();
        let role = settings.text("SLM_MESH_ROLE");
        if let Some(target) = host.strip_prefix("ssh://") {
            return ssh(target.trim_end_matches('/'));
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let address: Option<IpAddr> = bare.parse().ok();
        let is_loopback = bare == "localhost" || address.is_some_and(|address| address.is_loopback());
        let is_wild = address.is_some_and(|address| address.is_unspecified());
        // Whoever can bind an address has it.
        let is_own = || address.is_some_and(|address| UdpSocket::bind((address, 0)).is_ok());
        if role == "client" && is_wild {
            let text = format!("SLM_MESH_ROLE: client wants SLM_MESH_HOST to name the hub, and it is {host}");
            return Err(Error::new(ErrorKind::Usage, text));
        }
        // A client of this machine itself comes through a tunnel.
        let here = role != "client" && (is_loopback || is_wild || role == "broker" || is_own());
        let road = if here { Road::Here { bind: bare, hub: !is_loopback } } else { Road::Hub(bare) };
        if !(here && is_loopback) {
            check_secret(settings.text("SLM_MESH_SHARED_SECRET"), &host)?;
        }
        Ok(road)
    }
}

fn ssh(target: &str) -> Result<Road, Error> {
    let (name, port) = match target.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => (name, port.parse().ok()),
        _ => (target, None),
    };
    // ssh would take it for an option.
    let is_name = !name.is_empty() && !name.starts_with('-') && !name.contains(char::is_whitespace);
    if is_name && !name.contains("@-") {
        return Ok(Road::Ssh(name.to_owned(), port));
    }
    Err(Error::new(ErrorKind::Usage, format!("SLM_MESH_HOST: want ssh://[user@]host[:port], got ssh://{target}")))
}

/// Links that one broker may have.
const LINKS_MAX: usize = 8;

/// The addresses of other meshes, without a slash at their end.
///
/// # Errors
/// For the first that is none.
pub fn links(settings: &Settings) -> Result<Vec<String>, Error> {
    let mut urls: Vec<String> = Vec::new();
    for url in settings.several(LINKS) {
        let url = url.trim_end_matches('/').to_owned();
        let rest = url.strip_prefix("http://").filter(|rest| !rest.is_empty() && !rest.contains(['/', '@', '?', '#']));
        if rest.is_none_or(|rest| rest.contains(char::is_whitespace)) {
            let text = format!(
                "{LINKS}: want http://host:port, with commas between several, got {url}; for a way that is encrypted \
                 put WireGuard or an ssh tunnel under it"
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
        "SLM_MESH_SHARED_SECRET {is}, and SLM_MESH_HOST={host} is about other machines; slm-mesh secret prints a good \
         one: put it on every machine into the environment, or into the file config in the data directory"
    );
    Err(Error::new(ErrorKind::Usage, text))
}
