//! Parses the address of etcd in the settings, such as `etcds://a:2379,b:2379,c:2379/slm`.

use std::net::IpAddr;

/// The default port of etcd.
const PORT: u16 = 2379;
/// Each key of a mesh begins with the mesh's prefix, followed by one of these words. Only the first part of a prefix
/// may be such a word, because otherwise two meshes could use the same key.
const OWN_KEYS: [&str; 4] = ["leader", "log", "at", "ticket"];

/// The members of an etcd cluster, and the prefix for the keys of this mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdAddress {
    /// The URL of each member, without a path.
    pub members: Vec<String>,
    /// The prefix of all keys of this mesh. It ends with a slash.
    pub prefix: String,
}

impl EtcdAddress {
    /// Parses an address such as `etcds://a:2379,b:2379/slm`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the address.
    pub fn parse(text: &str) -> Result<EtcdAddress, String> {
        let wrong = |why: &str| format!("{text:?} {why}; write etcds://HOST:2379,HOST:2379/NAME");
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("is not an etcd address"))?;
        let secure = match scheme {
            "etcds" => true,
            "etcd" => false,
            _ => return Err(wrong("is not an etcd address")),
        };
        let (hosts, name) = rest.split_once('/').unwrap_or((rest, ""));
        let name = name.trim_matches('/');
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if name.is_empty() || !name.chars().all(is_plain) {
            return Err(wrong("has no mesh name (letters, digits and -_./) after the hosts"));
        }
        if let Some(own) = name.split('/').skip(1).find(|part| OWN_KEYS.contains(part)) {
            return Err(wrong(&format!(
                "has {own:?} as a part of its mesh name, but slm-mesh needs this word for its own keys"
            )));
        }
        let mut members = Vec::new();
        for host in hosts.split(',') {
            let (name, port) = split_port(host).ok_or_else(|| wrong("has an invalid host"))?;
            if !secure && !is_loopback(name) {
                return Err(format!(
                    "every message of the mesh would be sent to {name} unencrypted; use etcds://, or use a tunnel that \
                     begins at 127.0.0.1"
                ));
            }
            members.push(format!("{}://{name}:{port}", if secure { "https" } else { "http" }));
        }
        Ok(EtcdAddress { members, prefix: format!("{name}/") })
    }
}

/// Splits `host:port`, `host` and `[v6]:port`. An IPv6 address keeps its brackets, because URLs need them.
fn split_port(host: &str) -> Option<(&str, u16)> {
    let name_len = if host.starts_with('[') { host.find(']')? + 1 } else { host.find(':').unwrap_or(host.len()) };
    let (name, port) = host.split_at(name_len);
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port > 0)?,
        None if port.is_empty() => PORT,
        None => return None,
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-.[]:".contains(c);
    (!name.is_empty() && name.chars().all(is_name)).then_some((name, port))
}

fn is_loopback(name: &str) -> bool {
    let bare = name.trim_matches(['[', ']']);
    name == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let address = EtcdAddress::parse("etcds://a:2379,b.example:1,[::1]/slm").unwrap();
        assert_eq!(address.members, ["https://a:2379", "https://b.example:1", "https://[::1]:2379"]);
        assert_eq!(address.prefix, "slm/");
        let address = EtcdAddress::parse("etcd://127.0.0.1:2379,localhost,[::1]:7/team/a/").unwrap();
        assert_eq!(address.members, ["http://127.0.0.1:2379", "http://localhost:2379", "http://[::1]:7"]);
        assert_eq!(address.prefix, "team/a/");
    }

    #[test]
    fn wrong_addresses_are_refused_in_a_sentence() {
        let wrong = [
            "",
            "a:2379",
            "http://a/slm",
            "etcds://a",
            "etcds://a/",
            "etcds:///slm",
            "etcds://a,,b/slm",
            "etcds://a:0/slm",
            "etcds://a:x/slm",
            "etcds://a:99999/slm",
            "etcds://[::1/slm",
            "etcds://[::1]x/slm",
            "etcds://u:p@a/slm",
            "etcds://a b/slm",
            "etcds://a/s lm",
            "etcds://a/slm?x",
            "etcds://a/slm/log",
            "etcds://a/slm/at/b",
        ];
        for text in wrong {
            let error = EtcdAddress::parse(text).unwrap_err();
            assert!(error.contains("write etcds://"), "{text}: {error}");
        }
        for text in ["etcd://10.0.0.1/slm", "etcd://127.0.0.1,etcd.example/slm", "etcd://localhost.example/slm"] {
            let error = EtcdAddress::parse(text).unwrap_err();
            assert!(error.contains("unencrypted"), "{text}: {error}");
        }
    }
}
