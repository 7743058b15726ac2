//! Finds the network interfaces of this machine that lead to a LAN.

use std::net::IpAddr;

/// The names of virtual interfaces begin with these words. Such interfaces lead only to containers, virtual machines or
/// a directly connected phone.
const VIRTUAL_PREFIXES: &[&str] = &[
    "docker", "br-", "veth", "virbr", "vnet", "lxc", "lxd", "cni", "podman", "flannel", "cali", "vmnet", "awdl", "llw",
];

/// Maximum number of this machine's addresses that are used. More addresses would not make the machine easier to reach.
const ADDRESSES_MAX: usize = 16;

/// One address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The name of the interface.
    pub name: String,
    /// The number of the interface; 0 if the system does not number interfaces.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// The length of the network prefix, in bits.
    pub prefix: u8,
}

impl Interface {
    /// Whether `other` is on the same link as this interface. Returns true if both addresses have the same network
    /// prefix, or if both are IPv6 addresses and `other` is link-local.
    pub fn is_on_link(&self, other: IpAddr) -> bool {
        match (self.address, other.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0);
                own.to_bits() & mask == other.to_bits() & mask
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix.min(128))).unwrap_or(0);
                other.is_unicast_link_local() || own.to_bits() & mask == other.to_bits() & mask
            }
            _ => false,
        }
    }

    fn is_lan(&self) -> bool {
        !self.address.is_loopback() && !VIRTUAL_PREFIXES.iter().any(|word| self.name.starts_with(word))
    }
}

/// Returns all addresses of the interfaces that are up and lead to a LAN.
pub fn lan_interfaces() -> Vec<Interface> {
    let all = if_addrs::get_if_addrs().unwrap_or_default().into_iter().filter(if_addrs::Interface::is_oper_up);
    let known = all.map(|interface| {
        let prefix = match &interface.addr {
            if_addrs::IfAddr::V4(v4) => v4.prefixlen,
            if_addrs::IfAddr::V6(v6) => v6.prefixlen,
        };
        let address = interface.ip();
        Interface { name: interface.name, index: interface.index.unwrap_or(0), address, prefix }
    });
    known.filter(Interface::is_lan).collect()
}

/// Returns the sorted addresses at which other machines reach this machine. Link-local IPv6 addresses are included only
/// if there are no other IPv6 addresses.
pub fn local_addresses() -> Vec<IpAddr> {
    select_reachable(&lan_interfaces())
}

fn select_reachable(interfaces: &[Interface]) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = interfaces.iter().map(|interface| interface.address).collect();
    let is_link_local = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if found.iter().any(|address| address.is_ipv6() && !is_link_local(address)) {
        found.retain(|address| !is_link_local(address));
    }
    found.sort();
    found.dedup();
    found.truncate(ADDRESSES_MAX);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(name: &str, address: &str, prefix: u8) -> Interface {
        Interface { name: name.into(), index: 1, address: address.parse().unwrap(), prefix }
    }

    #[test]
    fn containers_and_loopback_are_not_a_lan() {
        for name in ["docker0", "br-1f2e", "veth12ab", "virbr0", "lxcbr0", "cni0", "podman1"] {
            assert!(!on(name, "172.17.0.1", 16).is_lan(), "{name}");
        }
        assert!(!on("lo", "127.0.0.1", 8).is_lan());
        for name in ["eth0", "enp3s0", "wlan0", "br0", "en0", "tap0", "wg0"] {
            assert!(on(name, "192.168.1.2", 24).is_lan(), "{name}");
        }
    }

    #[test]
    fn link_local_addresses_are_returned_only_without_others() {
        let global = on("eth0", "2001:db8::2", 64);
        let link_local = on("eth0", "fe80::2", 64);
        let ipv4 = on("eth0", "192.168.1.2", 24);
        assert_eq!(
            select_reachable(&[link_local.clone(), global.clone(), ipv4.clone()]),
            [ipv4.address, global.address]
        );
        assert_eq!(
            select_reachable(&[link_local.clone(), ipv4.clone(), ipv4.clone()]),
            [ipv4.address, link_local.address]
        );
    }

    #[test]
    fn the_prefix_decides_what_is_on_the_link() {
        let reaches = |own: &str, prefix, other: &str| on("eth0", own, prefix).is_on_link(other.parse().unwrap());
        assert!(reaches("192.168.1.2", 24, "192.168.1.254"));
        assert!(!reaches("192.168.1.2", 24, "192.168.2.1"));
        assert!(!reaches("192.168.1.2", 32, "192.168.1.3"));
        assert!(reaches("192.168.1.2", 0, "8.8.8.8"));
        assert!(reaches("fe80::1", 64, "fe80::2"));
        assert!(reaches("2001:db8::1", 64, "2001:db8::2"));
        assert!(!reaches("2001:db8::1", 64, "2001:db9::2"));
        assert!(!reaches("2001:db8::1", 64, "192.168.1.2"));
    }
}
