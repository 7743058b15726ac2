//! Looks for hubs. A query is sent on every interface that leads to a LAN, and responses are collected for a while.
//!
//! Browsing uses no well-known port and joins no multicast group. So it does not conflict with other programs that use
//! multicast DNS. The responses arrive by unicast.

use super::addresses::{Interface, lan_interfaces};
use super::mdns_packet::{self, ServiceRecord};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

/// Maximum number of hubs. No LAN has more hubs than this. Further responses would come from an attacker.
const HUBS_MAX: usize = 64;
/// Maximum number of hubs at one address. A machine may run the hubs of several users, but these hubs must leave room
/// for the hubs of other machines.
const HUBS_PER_ADDRESS_MAX: usize = 8;
/// Maximum number of addresses that are tried for each hub.
const ADDRESSES_MAX: usize = 8;
/// Maximum number of packets that are parsed in one second. Further packets are dropped and not parsed.
const PACKETS_PER_SECOND_MAX: u32 = 256;
/// Maximum size of a multicast DNS packet, in bytes (RFC 6762, section 17).
const PACKET_BYTES_MAX: usize = 9000;
/// Maximum number of sockets. Each address of this machine needs at most one socket.
const SOCKETS_MAX: usize = 32;
/// How many times the query is sent. Several queries are needed, because a packet may be lost and a busy responder may
/// drop packets.
const QUERIES: u32 = 3;

const PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// The kind of program that has responded, according to its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceKind {
    /// A hub of slm-mesh.
    Hub,
    /// A SuperLocalMemory daemon.
    SuperLocalMemory,
}

/// A service that has responded. Only its address is certain. All other data comes from the sender of the response and
/// may be false.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveredService {
    /// The name of the service instance: any text of at most 63 characters.
    pub name: String,
    /// The kind of program that the service claims to be.
    pub kind: ServiceKind,
    /// The address from which the response came, with the HTTP port.
    pub address: SocketAddr,
    /// All addresses at which a client should try to reach the service. The first address is `address`.
    pub addresses: Vec<IpAddr>,
    /// The HTTP port.
    pub http_port: u16,
    /// The WebSocket port. If the response contains no WebSocket port, this is the HTTP port plus one.
    pub ws_port: u16,
    /// The version; empty if the response contains no version.
    pub version: String,
}

/// Sends queries and collects responses until the timeout ends. If there is no LAN, returns an empty list at once.
pub fn browse(timeout: Duration) -> Vec<DiscoveredService> {
    let id = crate::sys::random_u128() as u16;
    let sockets: Vec<QuerySocket> =
        lan_interfaces().into_iter().filter_map(QuerySocket::open).take(SOCKETS_MAX).collect();
    let mut results = DiscoveryResults::new(id);
    if sockets.is_empty() {
        return results.finish();
    }
    let began = Instant::now();
    let mut n_sent = 0;
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    while began.elapsed() < timeout {
        if began.elapsed() >= timeout * n_sent / QUERIES {
            n_sent += 1;
            for socket in &sockets {
                socket.send_query(&mdns_packet::build_query(id));
            }
        }
        let until = if n_sent < QUERIES { timeout * n_sent / QUERIES } else { timeout };
        wait_readable(&sockets, until.saturating_sub(began.elapsed()));
        for socket in &sockets {
            // Each round reads one packet from each socket, so that a flood on one interface does not block the other
            // interfaces.
            if let Ok((n, from)) = socket.udp.recv_from(&mut buffer) {
                results.take_packet(&buffer[..n], from, &socket.interface, began.elapsed());
            }
        }
    }
    results.finish()
}

/// Waits until a socket is readable, or the time is up.
fn wait_readable(sockets: &[QuerySocket], most: Duration) {
    let mut fds: Vec<PollFd> = sockets.iter().map(|socket| PollFd::new(&socket.udp, PollFlags::IN)).collect();
    let most = Timespec { tv_sec: most.as_secs() as i64, tv_nsec: most.subsec_nanos() as _ };
    // An error, such as an interruption by a signal, is ignored, because it only makes the wait shorter.
    let _ = poll(&mut fds, Some(&most));
}

/// A socket that sends queries on one interface.
struct QuerySocket {
    udp: UdpSocket,
    interface: Interface,
    group: SocketAddr,
}

impl QuerySocket {
    /// Opens a socket. Returns `None` if the interface can't be used. This is not an error, because other interfaces
    /// may work.
    fn open(interface: Interface) -> Option<QuerySocket> {
        let (own, group) = match interface.address {
            IpAddr::V4(own) => (SocketAddr::new(own.into(), 0), SocketAddr::new(GROUP_V4.into(), PORT)),
            // The multicast group exists only on the link, so the query must be sent from the interface's link-local
            // address.
            IpAddr::V6(own) if own.is_unicast_link_local() => {
                let on_link = |address, port| SocketAddrV6::new(address, port, 0, interface.index).into();
                (on_link(own, 0), on_link(GROUP_V6, PORT))
            }
            IpAddr::V6(_) => return None,
        };
        let socket = UdpSocket::bind(own).ok()?;
        socket.set_nonblocking(true).ok()?;
        // Responders may ignore packets with a hop limit below 255, because such packets may come from another link
        // (RFC 6762, section 11).
        match interface.address {
            IpAddr::V4(own) => {
                rustix::net::sockopt::set_ip_multicast_if(&socket, &own).ok()?;
                rustix::net::sockopt::set_ip_multicast_ttl(&socket, 255).ok()?;
            }
            IpAddr::V6(_) => rustix::net::sockopt::set_ipv6_multicast_hops(&socket, 255).ok()?,
        }
        Some(QuerySocket { udp: socket, interface, group })
    }

    fn send_query(&self, query: &[u8]) {
        // If this fails, this interface gets no responses. The error is ignored.
        let _ = self.udp.send_to(query, self.group);
    }
}

/// The services that have responded.
struct DiscoveryResults {
    id: u16,
    found: Vec<(DiscoveredService, Vec<u8>)>,
    second: u64,
    n_packets: u32,
}

impl DiscoveryResults {
    fn new(id: u16) -> DiscoveryResults {
        DiscoveryResults { id, found: Vec::new(), second: 0, n_packets: 0 }
    }

    /// Handles a packet that arrived on this interface. `after` is the time since browsing began.
    fn take_packet(&mut self, packet: &[u8], from: SocketAddr, interface: &Interface, after: Duration) {
        if after.as_secs() != self.second {
            (self.second, self.n_packets) = (after.as_secs(), 0);
        }
        self.n_packets += 1;
        // A valid response comes from port 5353 and from a machine on this link (RFC 6762, sections 6 and 11).
        let is_response =
            self.n_packets <= PACKETS_PER_SECOND_MAX && from.port() == PORT && interface.is_on_link(from.ip());
        if !is_response {
            return;
        }
        for service in mdns_packet::parse_response(packet, self.id).unwrap_or_default() {
            self.add(service, from);
        }
    }

    /// Adds a service, unless a service of this name from the same address has already been added. Services with the
    /// same name but different addresses are different services. So no machine can change the services of another
    /// machine.
    fn add(&mut self, service: ServiceRecord, from: SocketAddr) {
        let of_one = self.found.iter().filter(|(found, _)| found.address.ip() == from.ip());
        let is_known = of_one.clone().any(|(found, _)| found.name == service.name);
        if is_known || self.found.len() >= HUBS_MAX || of_one.count() >= HUBS_PER_ADDRESS_MAX {
            return;
        }
        let mut address = from;
        address.set_port(service.port);
        let mut addresses = vec![from.ip()];
        for one in service.addresses.into_iter().filter(is_usable) {
            if addresses.len() < ADDRESSES_MAX && !addresses.contains(&one) {
                addresses.push(one);
            }
        }
        let found = DiscoveredService {
            name: service.name,
            kind: if service.is_superlocalmemory { ServiceKind::SuperLocalMemory } else { ServiceKind::Hub },
            address,
            addresses,
            http_port: service.port,
            ws_port: service.ws_port.unwrap_or(service.port.saturating_add(1)),
            version: service.version,
        };
        self.found.push((found, service.target));
    }

    /// Returns all services, sorted by name. A service that has responded over both IPv4 and IPv6 is listed only once.
    fn finish(self) -> Vec<DiscoveredService> {
        let (mut done, others): (Vec<_>, Vec<_>) =
            self.found.into_iter().partition(|(found, _)| found.address.is_ipv4());
        for (other, target) in others {
            let same = done.iter_mut().find(|(found, known)| {
                let parts = |found: &DiscoveredService| {
                    (found.name.clone(), found.http_port, found.ws_port, found.version.clone())
                };
                found.address.is_ipv4() && *known == target && parts(found) == parts(&other)
            });
            match same {
                Some((found, _)) => {
                    let new = other.addresses.into_iter().filter(is_usable);
                    let new = new.filter(|one| !found.addresses.contains(one));
                    let new: Vec<IpAddr> = new.take(ADDRESSES_MAX - found.addresses.len()).collect();
                    found.addresses.extend(new);
                }
                None => done.push((other, target)),
            }
        }
        done.sort_by(|(a, _), (b, _)| (&a.name, a.address).cmp(&(&b.name, b.address)));
        done.into_iter().map(|(found, _)| found).collect()
    }
}

/// Whether another machine can be reached at this address. A link-local IPv6 address is useless, because the record
/// does not contain the link to which the address belongs.
fn is_usable(address: &IpAddr) -> bool {
    let is_partial = match address {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_partial)
}

#[cfg(test)]
mod tests {
    use super::super::mdns_packet::tests::Builder;
    use super::*;

    const ID: u16 = 7;

    fn eth() -> Interface {
        Interface { name: "eth0".into(), index: 2, address: [192, 168, 1, 9].into(), prefix: 24 }
    }

    fn link_local() -> Interface {
        Interface { address: "fe80::9".parse().unwrap(), prefix: 64, ..eth() }
    }

    fn global() -> Interface {
        Interface { address: "2001:db8::9".parse().unwrap(), prefix: 64, ..eth() }
    }

    fn hub(name: &str, port: u16, address: [u8; 4]) -> Vec<u8> {
        Builder::new(ID).service(name, port, &["version=2.0.0", "wsPort=7900"], address).done()
    }

    fn from(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), PORT)
    }

    #[test]
    fn the_source_of_the_packet_is_the_first_address() {
        let mut results = DiscoveryResults::new(ID);
        results.take_packet(&hub("desk", 7899, [172, 17, 0, 1]), from("192.168.1.2"), &eth(), Duration::ZERO);
        results.take_packet(&hub("desk", 7899, [172, 17, 0, 1]), from("192.168.1.2"), &eth(), Duration::ZERO);
        let found = results.finish();
        assert_eq!(found.len(), 1, "both packets are from one service");
        assert_eq!(found[0].address, "192.168.1.2:7899".parse().unwrap());
        assert_eq!(found[0].addresses, [[192, 168, 1, 2], [172, 17, 0, 1]].map(IpAddr::from));
        assert_eq!((found[0].ws_port, found[0].kind), (7900, ServiceKind::Hub));
    }

    #[test]
    fn a_machine_that_reuses_a_name_does_not_change_the_first_one() {
        let mut results = DiscoveryResults::new(ID);
        results.take_packet(&hub("desk", 7899, [192, 168, 1, 2]), from("192.168.1.2"), &eth(), Duration::ZERO);
        results.take_packet(&hub("desk", 6666, [192, 168, 1, 2]), from("192.168.1.66"), &eth(), Duration::ZERO);
        let found = results.finish();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].address, "192.168.1.2:7899".parse().unwrap());
        assert_eq!(found[0].addresses.len(), 1);
    }

    #[test]
    fn a_hub_with_ipv4_and_ipv6_is_listed_once() {
        let mut results = DiscoveryResults::new(ID);
        results.take_packet(&hub("desk", 7899, [192, 168, 1, 2]), from("fe80::2"), &link_local(), Duration::ZERO);
        results.take_packet(&hub("desk", 7899, [192, 168, 1, 2]), from("2001:db8::2"), &global(), Duration::ZERO);
        results.take_packet(&hub("desk", 7899, [192, 168, 1, 2]), from("192.168.1.2"), &eth(), Duration::ZERO);
        let found = results.finish();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].address, "192.168.1.2:7899".parse().unwrap());
        assert_eq!(found[0].addresses, ["192.168.1.2", "2001:db8::2"].map(|one| one.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn packets_that_are_no_response_are_ignored() {
        let mut results = DiscoveryResults::new(ID);
        let packet = hub("desk", 7899, [192, 168, 1, 2]);
        results.take_packet(&packet, from("10.0.0.1"), &eth(), Duration::ZERO);
        results.take_packet(&packet, "192.168.1.2:4444".parse().unwrap(), &eth(), Duration::ZERO);
        results.take_packet(&hub("none", 0, [192, 168, 1, 2]), from("192.168.1.2"), &eth(), Duration::ZERO);
        assert_eq!(results.finish(), []);
    }

    #[test]
    fn unusable_addresses_are_left_out() {
        let mut results = DiscoveryResults::new(ID);
        for (n, address) in [[127, 0, 0, 1], [0, 0, 0, 0], [224, 0, 0, 1], [255; 4]].into_iter().enumerate() {
            results.take_packet(&hub(&format!("hub-{n}"), 1, address), from("192.168.1.2"), &eth(), Duration::ZERO);
        }
        assert!(results.finish().iter().all(|found| found.addresses.len() == 1));
    }

    #[test]
    fn a_thousand_answers_are_not_a_thousand_hubs() {
        let mut results = DiscoveryResults::new(ID);
        for n in 0..1000 {
            results.take_packet(
                &hub(&format!("hub-{n}"), 1, [10, 0, 0, 1]),
                from("192.168.1.2"),
                &eth(),
                Duration::ZERO,
            );
        }
        results.take_packet(&hub("desk", 1, [10, 0, 0, 1]), from("192.168.1.3"), &eth(), Duration::from_secs(1));
        assert_eq!(results.found.len(), HUBS_PER_ADDRESS_MAX + 1, "a flood from one machine leaves room for others");
        for n in 0..200 {
            results.take_packet(
                &hub("far", 1, [10, 0, 0, 1]),
                from(&format!("192.168.1.{n}")),
                &eth(),
                Duration::from_secs(2),
            );
        }
        assert_eq!(results.finish().len(), HUBS_MAX);
    }

    #[test]
    fn a_flood_is_dropped_unread() {
        let mut results = DiscoveryResults::new(ID);
        for _ in 0..PACKETS_PER_SECOND_MAX {
            results.take_packet(b"junk", from("192.168.1.2"), &eth(), Duration::ZERO);
        }
        results.take_packet(&hub("late", 1, [10, 0, 0, 1]), from("192.168.1.3"), &eth(), Duration::ZERO);
        assert!(results.found.is_empty());
        results.take_packet(&hub("late", 1, [10, 0, 0, 1]), from("192.168.1.3"), &eth(), Duration::from_secs(1));
        assert_eq!(results.finish().len(), 1);
    }
}
