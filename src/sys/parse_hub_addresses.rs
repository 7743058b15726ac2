//! The hubs in the setting `SLM_MESH_HOST` of a guest: one hub, or several hubs that are separated by commas.

use crate::base::error::{Error, ErrorKind};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Maximum number of hubs in a guest's setting. An etcd cluster serves at most five hubs, but the setting may contain
/// two names for the same hub.
pub const HUBS_MAX: usize = 8;

/// The address of a hub, as `SLM_MESH_HOST` contains it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubAddress {
    /// A hub that is reached over the network.
    Network {
        /// The hub's name or address, without brackets.
        host: String,
        /// The hub's port for sessions, if the setting contains one.
        port: Option<u16>,
    },
    /// A hub that is reached through ssh.
    Ssh {
        /// The argument for ssh: `[user@]host`.
        target: String,
        /// The port of ssh, if the setting contains one.
        port: Option<u16>,
    },
}

impl HubAddress {
    /// Parses one hub in the setting: `host`, `host:port`, `[IPv6]:port` or `ssh://[user@]host[:port]`.
    ///
    /// # Errors
    /// If the text is not such an address.
    pub fn parse(text: &str) -> Result<HubAddress, Error> {
        match text.strip_prefix("ssh://") {
            Some(target) => parse_ssh(target.trim_end_matches('/')),
            None => parse_network(text),
        }
    }

    /// The name or address of the machine, without user and port.
    pub fn host(&self) -> &str {
        match self {
            HubAddress::Network { host, .. } => host,
            HubAddress::Ssh { target, .. } => target.rsplit_once('@').map_or(target, |(_, host)| host),
        }
    }

    /// The IP address of the machine. `None` if the setting contains a name instead.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            HubAddress::Network { host, .. } => host.parse().ok(),
            HubAddress::Ssh { .. } => None,
        }
    }

    /// Whether this is a loopback address.
    pub fn is_loopback(&self) -> bool {
        self.is_network() && self.host() == "localhost" || self.ip().is_some_and(|address| address.is_loopback())
    }

    /// Whether this is a wildcard address such as `0.0.0.0`, which stands for all addresses of this machine. A machine
    /// with this setting is a hub.
    pub fn is_wildcard(&self) -> bool {
        self.ip().is_some_and(|address| address.is_unspecified())
    }

    /// Whether the hub is reached without ssh. A connection without ssh needs the shared secret.
    pub fn is_network(&self) -> bool {
        matches!(self, HubAddress::Network { .. })
    }

    /// Whether both addresses have the same spelling, apart from upper and lower case.
    pub fn is_same(&self, other: &HubAddress) -> bool {
        self.to_string().eq_ignore_ascii_case(&other.to_string())
    }
}

impl fmt::Display for HubAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = match self {
            HubAddress::Network { host, port } => {
                let is_v6 = port.is_some() && is_ipv6(host);
                if is_v6 {
                    write!(f, "[{host}]")?
                } else {
                    f.write_str(host)?
                }
                port
            }
            HubAddress::Ssh { target, port } => {
                let (user, host) =
                    target.rsplit_once('@').map_or((None, &target[..]), |(user, host)| (Some(user), host));
                let user = user.map_or(String::new(), |user| format!("{user}@"));
                let is_v6 = port.is_some() && is_ipv6_with_zone(host);
                if is_v6 {
                    write!(f, "ssh://{user}[{host}]")?
                } else {
                    write!(f, "ssh://{user}{host}")?
                }
                port
            }
        };
        port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Parses `SLM_MESH_HOST`, which contains one address or several addresses.
///
/// # Errors
/// If an element is wrong. The error describes the first wrong element and contains a remedy.
pub fn parse_hubs(setting: &str) -> Result<Vec<HubAddress>, Error> {
    if setting.contains(char::is_whitespace) {
        let without: String = setting.split_whitespace().collect::<Vec<_>>().join(",").replace(",,", ",");
        return Err(wrong(&format!("expected no spaces, got {setting:?}; write {without}")));
    }
    let mut hubs: Vec<HubAddress> = Vec::new();
    for text in setting.split(',') {
        if text.is_empty() {
            return Err(wrong(&format!(
                "expected a hub before and after each comma, got {setting:?}; remove the extra comma"
            )));
        }
        let hub = HubAddress::parse(text)?;
        if hubs.iter().any(|other| other.is_same(&hub)) {
            return Err(wrong(&format!("{hub} is listed twice; remove one of the two")));
        }
        hubs.push(hub);
    }
    if hubs.len() > HUBS_MAX {
        return Err(wrong(&format!("expected at most {HUBS_MAX} hubs, got {}", hubs.len())));
    }
    let wildcard = hubs.iter().find(|hub| hub.is_wildcard()).filter(|_| hubs.len() > 1);
    if let Some(hub) = wildcard {
        let text = format!(
            "{hub} makes this machine a hub, but the other addresses make it a guest; on a hub, set only {hub}; on a \
             guest, set only the addresses of the hubs"
        );
        return Err(wrong(&text));
    }
    Ok(hubs)
}

fn parse_network(text: &str) -> Result<HubAddress, Error> {
    let want = || {
        wrong(&format!(
            "expected HOST, HOST:PORT, [IPV6]:PORT or ssh://[user@]host[:port], got {text:?}; PORT is the hub's port \
             for sessions"
        ))
    };
    let (host, port) = split_port(text, is_ipv6).ok_or_else(want)?;
    let is_plain = |c: char| !c.is_control() && !"/@?#[]".contains(c);
    if host.is_empty() || !host.chars().all(is_plain) {
        return Err(want());
    }
    Ok(HubAddress::Network { host: host.to_owned(), port })
}

/// Splits `host`, `host:port`, `IPv6`, `[IPv6]` or `[IPv6]:port`, and removes the brackets. Returns `None` if the text
/// has a different form, or if the port is invalid. `is_v6` decides whether a text is an IPv6 address.
fn split_port(text: &str, is_v6: fn(&str) -> bool) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').filter(|(host, _)| is_v6(host))?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None if is_v6(text) => (text, None),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    match port {
        Some(port) => Some((host, Some(port.parse().ok().filter(|port| *port > 0)?))),
        None => Some((host, None)),
    }
}

fn is_ipv6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok()
}

/// Whether this is an IPv6 address. As in ssh, an interface may follow a link-local address: `fe80::1%eth0`.
fn is_ipv6_with_zone(text: &str) -> bool {
    is_ipv6(text.split_once('%').map_or(text, |(address, _)| address))
}

fn parse_ssh(target: &str) -> Result<HubAddress, Error> {
    let want = || wrong(&format!("expected ssh://[user@]host[:port], got ssh://{target}"));
    let (user, place) = target.rsplit_once('@').map_or((None, target), |(user, place)| (Some(user), place));
    let (host, port) = split_port(place, is_ipv6_with_zone).ok_or_else(want)?;
    // ssh would treat a name that begins with a dash as an option.
    let is_name = |name: &str| !name.is_empty() && !name.starts_with('-') && !name.contains(char::is_whitespace);
    if !is_name(host) || host.contains(['[', ']']) || !user.is_none_or(is_name) {
        return Err(want());
    }
    // ssh accepts an IPv6 address only without brackets.
    Ok(HubAddress::Ssh { target: user.map_or(host.to_owned(), |user| format!("{user}@{host}")), port })
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("SLM_MESH_HOST: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(setting: &str) -> String {
        match parse_hubs(setting) {
            Ok(hubs) => hubs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(error) => error.text,
        }
    }

    #[test]
    fn hubs_of_every_kind_are_read() {
        for (setting, want) in [
            ("hub", "hub"),
            ("hub1,hub2.local:7901", "hub1 hub2.local:7901"),
            ("fd00::1,[fd00::2],[fd00::3]:7900", "fd00::1 fd00::2 [fd00::3]:7900"),
            ("ssh://ada@hub1:22,ssh://hub2/,hub3", "ssh://ada@hub1:22 ssh://hub2 hub3"),
            (
                "ssh://[fd00::1],ssh://ada@[fd00::2]:22,ssh://fd00::3",
                "ssh://fd00::1 ssh://ada@[fd00::2]:22 ssh://fd00::3",
            ),
            ("ssh://fe80::1%eth0,ssh://[fe80::1%eth0]:22", "ssh://fe80::1%eth0 ssh://[fe80::1%eth0]:22"),
            ("127.0.0.1:7001,127.0.0.1:7002", "127.0.0.1:7001 127.0.0.1:7002"),
            ("0.0.0.0", "0.0.0.0"),
        ] {
            assert_eq!(shown(setting), want, "{setting}");
        }
    }

    #[test]
    fn ssh_gets_an_ipv6_address_without_brackets() {
        for setting in ["ssh://ada@[fd00::2]:22", "ssh://ada@fd00::2"] {
            let hubs = parse_hubs(setting).unwrap();
            assert!(matches!(&hubs[..], [HubAddress::Ssh { target, .. }] if target == "ada@fd00::2"), "{setting}");
        }
    }

    #[test]
    fn a_wrong_list_is_refused_with_the_way_to_mend_it() {
        for (setting, want) in [
            ("a,,b", "remove the extra comma"),
            (",a", "remove the extra comma"),
            ("a,", "remove the extra comma"),
            ("a, b", "write a,b"),
            ("a b", "write a,b"),
            ("a,b,A", "A is listed twice"),
            ("a:1,b,a:1", "a:1 is listed twice"),
            ("ssh://a,ssh://a/", "ssh://a is listed twice"),
            ("a,b,c,d,e,f,g,h,i", "at most 8 hubs, got 9"),
            ("0.0.0.0,hub1", "0.0.0.0 makes this machine a hub"),
            ("hub1,::", "on a hub, set only ::"),
            ("http://hub", "expected HOST, HOST:PORT"),
            ("hub:", "expected HOST, HOST:PORT"),
            ("hub:0", "expected HOST, HOST:PORT"),
            ("hub:70000", "expected HOST, HOST:PORT"),
            ("hub:79:00", "expected HOST, HOST:PORT"),
            (":7900", "expected HOST, HOST:PORT"),
            ("[hub]:7900", "expected HOST, HOST:PORT"),
            ("[::1]7900", "expected HOST, HOST:PORT"),
            ("ada@hub", "expected HOST, HOST:PORT"),
            ("ssh://-oProxyCommand=x", "expected ssh://"),
            ("ssh://ada@-oProxyCommand=x", "expected ssh://"),
            ("hub1,ssh://", "expected ssh://"),
            ("ssh://hub:99999", "expected ssh://"),
            ("ssh://hub:", "expected ssh://"),
            ("ssh://[hub]:22", "expected ssh://"),
            ("ssh://[fd00::1]22", "expected ssh://"),
        ] {
            let shown = shown(setting);
            assert!(shown.starts_with("SLM_MESH_HOST: ") && shown.contains(want), "{setting}: {shown}");
        }
    }
}
