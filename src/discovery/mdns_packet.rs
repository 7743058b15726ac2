//! Builds our multicast DNS query, and parses responses. Any machine on the network can send a response.
//!
//! **Invariant:** parsing takes bounded time and memory, whatever the bytes are. A pointer in a name must lead
//! backward, and the number of records is limited. A malformed packet yields no result.

use std::net::IpAddr;

/// Maximum number of pointers that a name may contain. RFC 1035, section 4.1.4, sets no limit, but real names need few.
const HOPS_MAX: usize = 16;
/// Maximum length of a name, in bytes, not counting the empty label at its end (RFC 1035, section 2.3.4).
const NAME_BYTES_MAX: usize = 254;
/// Maximum number of records that are kept from one packet, for each kind of record.
const RECORDS_MAX: usize = 64;
/// Maximum length of a version, in bytes. A longer version is ignored.
const VERSION_BYTES_MAX: usize = 32;

/// The name `_slm-mesh._tcp.local` in wire format.
const SERVICE: &[u8] = b"\x09_slm-mesh\x04_tcp\x05local";

const A: u16 = 1;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const IN: u16 = 1;
/// The top bit of the class field. In a question, this bit asks for a unicast response. In a record, it says that older
/// records are no longer valid.
const TOP_BIT: u16 = 0x8000;

/// A service that a response describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRecord {
    /// The name of the service instance: any text of at most 63 characters.
    pub name: String,
    /// The HTTP port.
    pub port: u16,
    /// The name of the machine, according to the response.
    pub target: Vec<u8>,
    /// The addresses of the machine, according to the response.
    pub addresses: Vec<IpAddr>,
    /// The WebSocket port, if the response contains one.
    pub ws_port: Option<u16>,
    /// The version of the service; empty if the response contains no valid version.
    pub version: String,
    /// Whether the response claims to come from a SuperLocalMemory daemon.
    pub is_superlocalmemory: bool,
}

/// A name in wire format. Pointers are resolved, and the empty label at the end is left out.
type EncodedName = Vec<u8>;

/// Builds a query that looks for hubs and asks for unicast responses.
pub fn build_query(id: u16) -> Vec<u8> {
    let mut packet = Vec::with_capacity(12 + SERVICE.len() + 5);
    for word in [id, 0, 1, 0, 0, 0] {
        packet.extend(word.to_be_bytes());
    }
    packet.extend(SERVICE);
    packet.push(0);
    packet.extend(PTR.to_be_bytes());
    packet.extend((IN | TOP_BIT).to_be_bytes());
    packet
}

/// Parses a response to the query with this id. Returns `None` for any other packet.
pub fn parse_response(packet: &[u8], id: u16) -> Option<Vec<ServiceRecord>> {
    let records = ResourceRecords::parse(packet, id)?;
    let mut told: Vec<ServiceRecord> = Vec::new();
    for (owner, port, target) in &records.srv {
        let Some(name) = instance_name(owner).filter(|_| *port > 0) else { continue };
        let mut one = ServiceRecord {
            name,
            port: *port,
            target: target.to_ascii_lowercase(),
            addresses: Vec::new(),
            ws_port: None,
            version: String::new(),
            is_superlocalmemory: false,
        };
        if let Some((_, text)) = records.txt.iter().find(|(name, _)| name.eq_ignore_ascii_case(owner)) {
            one.add_txt(text);
        }
        let own = records.addresses.iter().filter(|(name, _)| name.eq_ignore_ascii_case(target));
        one.addresses = own.map(|(_, address)| *address).collect();
        told.push(one);
    }
    Some(told)
}

impl ServiceRecord {
    /// Reads the strings of a TXT record. If a key occurs more than once, the first occurrence counts (RFC 6763,
    /// section 6.4).
    fn add_txt(&mut self, mut text: &[u8]) {
        let mut seen = [false; 3];
        while let Some((length, rest)) = text.split_first() {
            let Some((entry, rest)) = rest.split_at_checked(usize::from(*length)) else { return };
            text = rest;
            let entry = String::from_utf8_lossy(entry);
            let (key, value) = entry.split_once('=').unwrap_or((&entry, ""));
            let keys = ["version", "wsport", "node_id"];
            let Some(n) = keys.iter().position(|known| key.eq_ignore_ascii_case(known)) else { continue };
            if std::mem::replace(&mut seen[n], true) {
                continue;
            }
            match n {
                0 if value.len() <= VERSION_BYTES_MAX && value.bytes().all(|byte| byte.is_ascii_graphic()) => {
                    self.version = value.into();
                }
                1 => self.ws_port = value.parse().ok().filter(|port| *port > 0),
                2 => self.is_superlocalmemory = true,
                _ => {}
            }
        }
    }
}

/// Returns the first label of a name if the remaining labels are the name of our service.
fn instance_name(owner: &[u8]) -> Option<String> {
    let length = usize::from(*owner.first()?);
    let (label, rest) = owner[1..].split_at_checked(length)?;
    rest.eq_ignore_ascii_case(SERVICE).then(|| String::from_utf8_lossy(label).into_owned())
}

/// The SRV, TXT and address records of one packet.
#[derive(Default)]
struct ResourceRecords<'a> {
    srv: Vec<(EncodedName, u16, EncodedName)>,
    txt: Vec<(EncodedName, &'a [u8])>,
    addresses: Vec<(EncodedName, IpAddr)>,
}

impl<'a> ResourceRecords<'a> {
    fn parse(packet: &'a [u8], id: u16) -> Option<ResourceRecords<'a>> {
        let mut reader = PacketReader { packet, at: 0 };
        let (found, flags) = (reader.word()?, reader.word()?);
        let is_answer = flags & 0x8000 != 0 && flags & 0x7800 == 0 && flags & 0x000f == 0;
        if found != id || !is_answer {
            return None;
        }
        let n_questions = reader.word()?;
        let n_records = usize::from(reader.word()?) + usize::from(reader.word()?) + usize::from(reader.word()?);
        for _ in 0..n_questions {
            reader.name()?;
            reader.bytes(4)?;
        }
        let mut records = ResourceRecords::default();
        // Each record has at least eleven bytes. So even if the count is wrong, the loop soon reaches the end of the
        // packet.
        for _ in 0..n_records {
            records.add_next(&mut reader)?;
        }
        Some(records)
    }

    fn add_next(&mut self, reader: &mut PacketReader<'a>) -> Option<()> {
        let owner = reader.name()?;
        let (kind, class) = (reader.word()?, reader.word()?);
        let is_goodbye = reader.bytes(4)? == [0; 4];
        let length = usize::from(reader.word()?);
        let start = reader.at;
        let data = reader.bytes(length)?;
        if class & !TOP_BIT != IN || is_goodbye {
            return Some(());
        }
        match kind {
            SRV if self.srv.len() < RECORDS_MAX => {
                let mut inside = PacketReader { packet: &reader.packet[..reader.at], at: start };
                // Skips the priority and the weight, which matter only if several servers provide the same service.
                inside.bytes(4)?;
                let port = inside.word()?;
                self.srv.push((owner, port, inside.name()?));
            }
            TXT if self.txt.len() < RECORDS_MAX => self.txt.push((owner, data)),
            A if self.addresses.len() < RECORDS_MAX => {
                self.addresses.push((owner, IpAddr::from(<[u8; 4]>::try_from(data).ok()?)));
            }
            AAAA if self.addresses.len() < RECORDS_MAX => {
                self.addresses.push((owner, IpAddr::from(<[u8; 16]>::try_from(data).ok()?)));
            }
            _ => {}
        }
        Some(())
    }
}

/// Reads a packet from start to end. A read beyond the end returns `None`.
struct PacketReader<'a> {
    packet: &'a [u8],
    at: usize,
}

impl<'a> PacketReader<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let taken = self.packet.get(self.at..self.at.checked_add(n)?)?;
        self.at += n;
        Some(taken)
    }

    fn word(&mut self) -> Option<u16> {
        let bytes = self.bytes(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn name(&mut self) -> Option<EncodedName> {
        let mut name = EncodedName::new();
        // `floor` is where the current sequence of labels starts. A pointer must lead to a position before `floor`, so
        // that pointers can't form a cycle.
        let (mut at, mut floor, mut after_pointer) = (self.at, self.at, None);
        let mut n_hops = 0;
        loop {
            let length = *self.packet.get(at)?;
            match length >> 6 {
                0 if length == 0 => {
                    self.at = after_pointer.unwrap_or(at + 1);
                    return Some(name);
                }
                0 => {
                    let end = at + 1 + usize::from(length);
                    name.extend(self.packet.get(at..end)?);
                    if name.len() > NAME_BYTES_MAX {
                        return None;
                    }
                    at = end;
                }
                3 => {
                    let target = usize::from(length & 0x3f) << 8 | usize::from(*self.packet.get(at + 1)?);
                    n_hops += 1;
                    if target >= floor || n_hops > HOPS_MAX {
                        return None;
                    }
                    after_pointer.get_or_insert(at + 2);
                    (at, floor) = (target, target);
                }
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const ID: u16 = 0x1234;

    /// Builds responses for tests.
    pub(in super::super) struct Builder {
        bytes: Vec<u8>,
    }

    impl Builder {
        pub fn new(id: u16) -> Builder {
            let mut bytes = Vec::new();
            for word in [id, 0x8400, 0, 0, 0, 0] {
                bytes.extend(word.to_be_bytes());
            }
            Builder { bytes }
        }

        fn record(mut self, owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Builder {
            self.bytes.extend(owner);
            self.bytes.extend(kind.to_be_bytes());
            self.bytes.extend(0x8001_u16.to_be_bytes());
            self.bytes.extend(ttl.to_be_bytes());
            self.bytes.extend((data.len() as u16).to_be_bytes());
            self.bytes.extend(data);
            let n_records = u16::from_be_bytes([self.bytes[6], self.bytes[7]]) + 1;
            self.bytes[6..8].copy_from_slice(&n_records.to_be_bytes());
            self
        }

        /// Adds a service with its records in the order that libmdns, avahi and zeroconf use: PTR, SRV, TXT, A.
        pub fn service(self, name: &str, port: u16, texts: &[&str], address: [u8; 4]) -> Builder {
            let owner = [&[name.len() as u8], name.as_bytes(), SERVICE, &[0]].concat();
            let target = b"\x04desk\x05local\x00";
            let text: Vec<u8> = texts.iter().flat_map(|text| [&[text.len() as u8], text.as_bytes()].concat()).collect();
            self.record(&[SERVICE, &[0]].concat(), PTR, 60, &owner)
                .record(&owner, SRV, 60, &[&[0, 0, 0, 0][..], &port.to_be_bytes(), target].concat())
                .record(&owner, TXT, 60, &text)
                .record(target, A, 60, &address)
        }

        pub fn done(self) -> Vec<u8> {
            self.bytes
        }
    }

    fn plain() -> Vec<u8> {
        let texts = ["version=2.0.0", "wsPort=7900"];
        Builder::new(ID).service("desk", 7899, &texts, [192, 168, 1, 2]).done()
    }

    fn services(packet: &[u8]) -> Vec<ServiceRecord> {
        parse_response(packet, ID).unwrap_or_default()
    }

    #[test]
    fn a_response_describes_a_service() {
        let told = services(&plain());
        let [one] = &told[..] else { panic!("{told:?}") };
        assert_eq!((one.name.as_str(), one.port, one.ws_port), ("desk", 7899, Some(7900)));
        assert_eq!((one.version.as_str(), one.is_superlocalmemory), ("2.0.0", false));
        assert_eq!(one.addresses, ["192.168.1.2".parse::<IpAddr>().unwrap()]);
        let other = Builder::new(ID).service("slm-1", 8765, &["node_id=a", "version="], [10, 0, 0, 1]).done();
        assert!(self::services(&other)[0].is_superlocalmemory && self::services(&other)[0].ws_port.is_none());
    }

    #[test]
    fn pointers_and_capitals_are_read() {
        // The service's name is at offset 12. The instance's name ends with a pointer to the service's name. The SRV
        // record contains pointers to the instance's name.
        let mut builder = Builder::new(ID).record(&[SERVICE, &[0]].concat(), PTR, 60, b"\x04Desk\xc0\x0c");
        let at = builder.bytes.len() as u8 - 7;
        builder = builder.record(&[0xc0, at], SRV, 60, &[0, 0, 0, 0, 0x1e, 0xdb, 0xc0, at]);
        let texts = b"\x07WSPORT=\x08wsPort=1\x0dVERSION=1.2.3\x0dversion=9.9.9";
        let packet = builder.record(b"\x04dESK\x09_SLM-mesh\x04_tcp\x05LOCAL\x00", TXT, 60, texts).done();
        let told = services(&packet);
        assert_eq!((told[0].name.as_str(), told[0].port, told[0].version.as_str()), ("Desk", 7899, "1.2.3"));
        assert_eq!(told[0].ws_port, None, "the first of two equal keys wins");
    }

    #[test]
    fn packets_that_are_no_response_to_us_yield_nothing() {
        assert_eq!(parse_response(&plain(), ID + 1), None, "another id");
        assert_eq!(parse_response(&build_query(ID), ID), None, "a query");
        for n in 0..plain().len() {
            assert_eq!(parse_response(&plain()[..n], ID), None, "cut off at {n}");
        }
        let gone = Builder::new(ID).record(b"\x01a\x09_slm-mesh\x04_tcp\x05local\x00", SRV, 0, &[0; 7]).done();
        assert_eq!(services(&gone), [], "a goodbye");
        let foreign = Builder::new(ID).record(b"\x01a\x05_http\x04_tcp\x05local\x00", SRV, 60, &[0, 0, 0, 0, 1, 1, 0]);
        assert_eq!(services(&foreign.done()), [], "another service");
    }

    #[test]
    fn pointers_form_no_circle_and_names_end() {
        let with_name = |name: &[u8]| [&plain()[..6], &[0, 1, 0, 0, 0, 0], name, &[0; 10]].concat();
        let read = |name: &[u8]| parse_response(&with_name(name), ID);
        assert!(read(b"\x00").is_some(), "the root");
        assert!(parse_response(&[0x12, 0x34, 0x84, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c], ID).is_none(), "to itself");
        assert!(read(b"\xc0\x0c").is_none(), "to itself");
        assert!(read(b"\xc0\x0e\x00").is_none(), "forward");
        assert!(read(b"\x01a\xc0\x0c").is_none(), "to its own labels");
        assert!(read(b"\x80").is_none() && read(b"\x41a\x00").is_none(), "reserved label types");
        assert!(read(&[&[63][..], &[b'a'; 63], &[0]].concat()).is_some(), "the longest label");
        assert!(
            read(&[[&[63][..], &[b'a'; 63]].concat().repeat(4), vec![0]].concat()).is_none(),
            "a name that is too long"
        );
        assert!(read(&[b"\x01a".repeat(127), vec![0]].concat()).is_some());
        assert!(read(&[b"\x01a".repeat(128), vec![0]].concat()).is_none());
    }

    #[test]
    fn a_chain_of_pointers_has_an_end() {
        // Parses a packet with `n` + 1 questions. Each name after the first is a pointer to the name before it.
        let chain = |n: u16| {
            let mut packet = [&plain()[..4], &(n + 1).to_be_bytes(), &[0; 6], &[0, 0, 12, 0, 1]].concat();
            for n in 0..n {
                let before = if n == 0 { 12 } else { 17 + 6 * (n - 1) };
                packet.extend((0xc000 | before).to_be_bytes());
                packet.extend([0, 12, 0, 1]);
            }
            parse_response(&packet, ID)
        };
        assert!(chain(HOPS_MAX as u16).is_some());
        assert!(chain(HOPS_MAX as u16 + 1).is_none());
    }

    #[test]
    fn a_packet_with_a_thousand_services_yields_some() {
        let mut builder = Builder::new(ID);
        for n in 0..1000 {
            builder = builder.service(&format!("hub-{n}"), 7899, &[], [10, 0, 0, 1]);
        }
        assert_eq!(services(&builder.done()).len(), RECORDS_MAX);
    }

    #[test]
    fn a_hostile_text_is_no_version() {
        let long = format!("version={}", "9".repeat(200));
        for bomb in [long.as_str(), "version=1.0\u{1b}[2J", "version=1 2", "version=\u{202e}1"] {
            let packet = Builder::new(ID).service("desk", 1, &[bomb, "wsPort=99999"], [10, 0, 0, 1]).done();
            assert_eq!((services(&packet)[0].version.as_str(), services(&packet)[0].ws_port), ("", None), "{bomb:?}");
        }
        // The string in the TXT record claims to be longer than the record itself.
        let owner = b"\x01a\x09_slm-mesh\x04_tcp\x05local\x00";
        let packet =
            Builder::new(ID).record(owner, SRV, 60, &[0, 0, 0, 0, 1, 1, 0]).record(owner, TXT, 60, b"\xffversion=1");
        assert_eq!(services(&packet.done())[0].version, "");
    }

    #[test]
    fn mutated_packets_are_parsed_within_the_limits() {
        let mut seed: u64 = 0x5eed;
        let mut chance = move |n: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % n
        };
        let killer = vec![0x12, 0x34, 0x84, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c];
        let mut n_read = 0;
        for round in 0..200_000 {
            let mut packet = if round % 2 == 0 { plain() } else { killer.clone() };
            for _ in 0..=chance(4) {
                let at = chance(packet.len());
                match chance(4) {
                    0 => packet[at] = chance(256) as u8,
                    1 => packet[at] ^= 1 << chance(8),
                    2 => packet.truncate(at.max(4)),
                    _ => {
                        let piece = packet[at..].to_vec();
                        packet.extend(piece);
                    }
                }
            }
            for told in services(&packet) {
                n_read += 1;
                assert!(told.version.len() <= VERSION_BYTES_MAX && told.addresses.len() <= RECORDS_MAX);
                assert!(told.name.len() <= 3 * 63 && told.target.len() <= NAME_BYTES_MAX);
            }
        }
        assert!(n_read > 1000, "too few mutated packets were valid: {n_read}");
    }
}
