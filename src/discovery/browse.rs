//! Looks for hubs: asks on every interface that leads to a LAN, and gathers answers for a while.
//!
//! It takes no port that is known and joins no group, so that it works beside any other program that
//! speaks multicast DNS: the answers come to the asker alone.

use super::addresses::{Interface, interfaces};
use super::packet::{self, Told};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

/// More hubs than this are no LAN but an attack.
const HUBS_MAX: usize = 64;
/// One machine may run hubs of several users, and may not crowd out the others.
const HUBS_OF_ONE_MAX: usize = 8;
/// This many addresses of one hub are worth a try.
const ADDRESSES_MAX: usize = 8;
/// In one second this many packets are looked into; what comes on top of them is thrown away unread.
const PACKETS_A_SECOND_MAX: u32 = 256;
/// The most that a multicast DNS packet may have (RFC 6762 17).
const PACKET_BYTES_MAX: usize = 9000;
/// A machine with more addresses than this is asked on the first of them.
const EARS_MAX: usize = 32;
/// How often is asked: a packet may be lost, and a busy answerer drops some.
const N_ASKED: u32 = 3;

const PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// What answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A hub of ours, as it says.
    Hub,
    /// A daemon of SuperLocalMemory, as it says.
    SuperLocalMemory,
}

/// Something that answered. All of it but the address is what a stranger said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The instance's name: any text of at most 63 characters.
    pub name: String,
    /// What it says it is.
    pub what: What,
    /// Whence the answer came, with the port of its HTTP.
    pub address: SocketAddr,
    /// All addresses to try, that one first.
    pub addresses: Vec<IpAddr>,
    /// The port of its HTTP.
    pub http_port: u16,
    /// The port of its WebSocket; the one after HTTP's, if it gives none.
    pub ws_port: u16,
    /// Its version, or nothing.
    pub version: String,
}

/// Asks who is there, and gathers answers until the time is up. Without a LAN that is nobody, at once.
pub fn browse(timeout: Duration) -> Vec<Found> {
    let id = crate::sys::random_u128() as u16;
    let ears: Vec<Ear> = interfaces().into_iter().filter_map(Ear::open).take(EARS_MAX).collect();
    let mut finds = Finds::new(id);
    if ears.is_empty() {
        return finds.done();
    }
    let began = Instant::now();
    let mut n_asked = 0;
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    while began.elapsed() < timeout {
        if began.elapsed() >= timeout * n_asked / N_ASKED {
            n_asked += 1;
            for ear in &ears {
                ear.ask(&packet::query(id));
            }
        }
        let until = if n_asked < N_ASKED { timeout * n_asked / N_ASKED } else { timeout };
        wait(&ears, until.saturating_sub(began.elapsed()));
        for ear in &ears {
            // One each, so that a flood on one interface leaves the others their turn.
            if let Ok((n, from)) = ear.socket.recv_from(&mut buffer) {
                finds.hear(&buffer[..n], from, &ear.interface, began.elapsed());
            }
        }
    }
    finds.done()
}

/// Waits until one of them hears something, or the time is up.
fn wait(ears: &[Ear], most: Duration) {
    let mut fds: Vec<PollFd> = ears.iter().map(|ear| PollFd::new(&ear.socket, PollFlags::IN)).collect();
    let most = Timespec { tv_sec: most.as_secs() as i64, tv_nsec: most.subsec_nanos() as _ };
    // A wait that a signal ends is only shorter.
    let _ = poll(&mut fds, Some(&most));
}

/// A socket on an interface.
struct Ear {
    socket: UdpSocket,
    interface: Interface,
    group: SocketAddr,
}

impl Ear {
    /// None for an interface that can't be asked on: the others may do.
    fn open(interface: Interface) -> Option<Ear> {
        let (own, group) = match interface.address {
            IpAddr::V4(own) => (SocketAddr::new(own.into(), 0), SocketAddr::new(GROUP_V4.into(), PORT)),
            // The group of a link is asked from that link's address, of which each interface has one.
            IpAddr::V6(own) if own.is_unicast_link_local() => {
                let on_link = |address, port| SocketAddrV6::new(address, port, 0, interface.index).into();
                (on_link(own, 0), on_link(GROUP_V6, PORT))
            }
            IpAddr::V6(_) => return None,
        };
        let socket = UdpSocket::bind(own).ok()?;
        socket.set_nonblocking(true).ok()?;
        // Answerers may take a smaller number for a packet from beyond the link (RFC 6762 11).
        match interface.address {
            IpAddr::V4(own) => {
                rustix::net::sockopt::set_ip_multicast_if(&socket, &own).ok()?;
                rustix::net::sockopt::set_ip_multicast_ttl(&socket, 255).ok()?;
            }
            IpAddr::V6(_) => rustix::net::sockopt::set_ipv6_multicast_hops(&socket, 255).ok()?,
        }
        Some(Ear { socket, interface, group })
    }

    fn ask(&self, query: &[u8]) {
        // Where this can't be sent nobody answers, which is what will be told.
        let _ = self.socket.send_to(query, self.group);
    }
}

/// What was heard so far.
struct Finds {
    id: u16,
    found: Vec<(Found, Vec<u8>)>,
    second: u64,
    n_packets: u32,
}

impl Finds {
    fn new(id: u16) -> Finds {
        Finds { id, found: Vec::new(), second: 0, n_packets: 0 }
    }

    /// Takes a packet that came to an interface, so long after the start.
    fn hear(&mut self, packet: &[u8], from: SocketAddr, interface: &Interface, after: Duration) {
        if after.as_secs() != self.second {
            (self.second, self.n_packets) = (after.as_secs(), 0);
        }
        self.n_packets += 1;
        // Only from the one port, and from this link, comes an answer (RFC 6762 6 and 11).
        let is_due = self.n_packets <= PACKETS_A_SECOND_MAX && from.port() == PORT && interface.reaches(from.ip());
        if !is_due {
            return;
        }
        for told in packet::answer(packet, self.id).unwrap_or_default() {
            self.take(told, from);
        }
    }

    /// A name is one find for each address that it comes from: nobody can change what another said.
    fn take(&mut self, told: Told, from: SocketAddr) {
        let of_one = self.found.iter().filter(|(found, _)| found.address.ip() == from.ip());
        let is_known = of_one.clone().any(|(found, _)| found.name == told.name);
        if is_known || self.found.len() >= HUBS_MAX || of_one.count() >= HUBS_OF_ONE_MAX {
            return;
        }
        let mut address = from;
        address.set_port(told.port);
        let mut addresses = vec![from.ip()];
        for one in told.addresses.into_iter().filter(is_of_a_machine) {
            if addresses.len() < ADDRESSES_MAX && !addresses.contains(&one) {
                addresses.push(one);
            }
        }
        let found = Found {
            name: told.name,
            what: if told.is_node { What::SuperLocalMemory } else { What::Hub },
            address,
            addresses,
            http_port: told.port,
            ws_port: told.ws_port.unwrap_or(told.port.saturating_add(1)),
            version: told.version,
        };
        self.found.push((found, told.target));
    }

    /// All finds by name; one that came by IPv6 too is told once, under its older address.
    fn done(self) -> Vec<Found> {
        let (mut done, others): (Vec<_>, Vec<_>) =
            self.found.into_iter().partition(|(found, _)| found.address.is_ipv4());
        for (other, target) in others {
            let same = done.iter_mut().find(|(found, known)| {
                let parts = |found: &Found| (found.name.clone(), found.http_port, found.ws_port, found.version.clone());
                found.address.is_ipv4() && *known == target && parts(found) == parts(&other)
            });
            match same {
                Some((found, _)) => {
                    let new = other.addresses.into_iter().filter(is_of_a_machine);
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

/// Whether there can be one machine behind an address, another one than this. An IPv6 address of one
/// link means nothing without the link, which a record does not tell.
fn is_of_a_machine(address: &IpAddr) -> bool {
    let is_partial = match address {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_partial)
}

#[cfg(test)]
mod tests {
    use super::super::packet::tests::Builder;
    use super::*;

    const ID: u16 = 7;

    fn eth() -> Interface {
        Interface { name: "eth0".into(), index: 2, address: [192, 168, 1, 9].into(), prefix: 24 }
    }

    fn narrow() -> Interface {
        Interface { address: "fe80::9".parse().unwrap(), prefix: 64, ..eth() }
    }

    fn wide() -> Interface {
        Interface { address: "2001:db8::9".parse().unwrap(), prefix: 64, ..eth() }
    }

    fn hub(name: &str, port: u16, address: [u8; 4]) -> Vec<u8> {
        Builder::new(ID).service(name, port, &["version=0.1.0", "wsPort=7900"], address).done()
    }

    fn from(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), PORT)
    }

    #[test]
    fn the_packets_source_is_believed_first() {
        let mut finds = Finds::new(ID);
        finds.hear(&hub("desk", 7899, [172, 17, 0, 1]), from("192.168.1.2"), &eth(), Duration::ZERO);
        finds.hear(&hub("desk", 7899, [172, 17, 0, 1]), from("192.168.1.2"), &eth(), Duration::ZERO);
        let found = finds.done();
        assert_eq!(found.len(), 1, "it is told once");
        assert_eq!(found[0].address, "192.168.1.2:7899".parse().unwrap());
        assert_eq!(found[0].addresses, [[192, 168, 1, 2], [172, 17, 0, 1]].map(IpAddr::from));
        assert_eq!((found[0].ws_port, found[0].what), (7900, What::Hub));
    }

    #[test]
    fn who_takes_a_name_changes_nothing_of_who_has_it() {
        let mut finds = Finds::new(ID);
        finds.hear(&hub("desk", 7899, [192, 168, 1, 2]), from("192.168.1.2"), &eth(), Duration::ZERO);
        finds.hear(&hub("desk", 6666, [192, 168, 1, 2]), from("192.168.1.66"), &eth(), Duration::ZERO);
        let found = finds.done();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].address, "192.168.1.2:7899".parse().unwrap());
        assert_eq!(found[0].addresses.len(), 1);
    }

    #[test]
    fn a_hub_with_two_kinds_of_addresses_is_one() {
        let mut finds = Finds::new(ID);
        finds.hear(&hub("desk", 7899, [192, 168, 1, 2]), from("fe80::2"), &narrow(), Duration::ZERO);
        finds.hear(&hub("desk", 7899, [192, 168, 1, 2]), from("2001:db8::2"), &wide(), Duration::ZERO);
        finds.hear(&hub("desk", 7899, [192, 168, 1, 2]), from("192.168.1.2"), &eth(), Duration::ZERO);
        let found = finds.done();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].address, "192.168.1.2:7899".parse().unwrap());
        assert_eq!(found[0].addresses, ["192.168.1.2", "2001:db8::2"].map(|one| one.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn what_can_be_no_answer_is_none() {
        let mut finds = Finds::new(ID);
        let packet = hub("desk", 7899, [192, 168, 1, 2]);
        finds.hear(&packet, from("10.0.0.1"), &eth(), Duration::ZERO);
        finds.hear(&packet, "192.168.1.2:4444".parse().unwrap(), &eth(), Duration::ZERO);
        finds.hear(&hub("none", 0, [192, 168, 1, 2]), from("192.168.1.2"), &eth(), Duration::ZERO);
        assert_eq!(finds.done(), []);
    }

    #[test]
    fn addresses_of_no_machine_are_left_out() {
        let mut finds = Finds::new(ID);
        for (n, address) in [[127, 0, 0, 1], [0, 0, 0, 0], [224, 0, 0, 1], [255; 4]].into_iter().enumerate() {
            finds.hear(&hub(&format!("hub-{n}"), 1, address), from("192.168.1.2"), &eth(), Duration::ZERO);
        }
        assert!(finds.done().iter().all(|found| found.addresses.len() == 1));
    }

    #[test]
    fn a_thousand_answers_are_not_a_thousand_hubs() {
        let mut finds = Finds::new(ID);
        for n in 0..1000 {
            finds.hear(&hub(&format!("hub-{n}"), 1, [10, 0, 0, 1]), from("192.168.1.2"), &eth(), Duration::ZERO);
        }
        finds.hear(&hub("desk", 1, [10, 0, 0, 1]), from("192.168.1.3"), &eth(), Duration::from_secs(1));
        assert_eq!(finds.found.len(), HUBS_OF_ONE_MAX + 1, "one that floods leaves room for others");
        for n in 0..200 {
            finds.hear(&hub("far", 1, [10, 0, 0, 1]), from(&format!("192.168.1.{n}")), &eth(), Duration::from_secs(2));
        }
        assert_eq!(finds.done().len(), HUBS_MAX);
    }

    #[test]
    fn a_flood_is_thrown_away_unread() {
        let mut finds = Finds::new(ID);
        for _ in 0..PACKETS_A_SECOND_MAX {
            finds.hear(b"junk", from("192.168.1.2"), &eth(), Duration::ZERO);
        }
        finds.hear(&hub("late", 1, [10, 0, 0, 1]), from("192.168.1.3"), &eth(), Duration::ZERO);
        assert!(finds.found.is_empty());
        finds.hear(&hub("late", 1, [10, 0, 0, 1]), from("192.168.1.3"), &eth(), Duration::from_secs(1));
        assert_eq!(finds.done().len(), 1);
    }
}
