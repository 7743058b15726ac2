//! Types for identifiers, such as the id of a peer, the address of another mesh and the name of a channel. Also
//! shortens the keys that agents give to their sessions.

use super::{limits, untrusted_text};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// Maximum length of an agent's key for a session, in bytes. A longer key may have been truncated before it reached
/// this program, so it can't identify a session.
const SESSION_KEY_MAX: usize = 4096;

/// Shortens the key that an agent gave to its session, so that the mesh accepts the key. A key that is too long for the
/// mesh is replaced by its hash. The key is not truncated, because two sessions may have keys with the same beginning.
/// Returns `None` if the key is empty, or longer than `SESSION_KEY_MAX`.
pub fn session_key(key: &str) -> Option<String> {
    match key.len() {
        0 => None,
        1..=limits::WORD_MAX => Some(key.to_owned()),
        _ if key.len() <= SESSION_KEY_MAX => Some(format!("hash-{:016x}", fnv1a(key))),
        _ => None,
    }
}

/// The 64-bit FNV-1a hash.
pub fn fnv1a(bytes: impl AsRef<[u8]>) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.as_ref().iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

/// A map whose keys are consecutive numbers that this program assigns, such as the ids of connections. No attacker can
/// choose such keys, so the map uses a hash that takes only a few instructions.
pub type CountedMap<V, K = u64> = HashMap<K, V, BuildHasherDefault<CountedHasher>>;
/// A set of consecutive numbers that this program assigns. See [`CountedMap`].
pub type CountedSet = HashSet<u64, BuildHasherDefault<CountedHasher>>;

/// The hasher of a [`CountedMap`].
#[derive(Debug, Default)]
pub struct CountedHasher(u64);

impl Hasher for CountedHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    /// Multiplies by 2^64 divided by the golden ratio. The hashes of consecutive numbers then differ in their highest
    /// and in their lowest bits. The map uses only these bits.
    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The connection on which a call arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnId {
    /// A client of the socket, or a guest. The number is never reused.
    Client(u64),
    /// The HTTP thread. All HTTP requests share this value, so no session can attach over HTTP.
    Http,
}

impl Hash for ConnId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(match self {
            ConnId::Client(number) => *number,
            ConnId::Http => u64::MAX,
        });
    }
}

/// Defines a type for ids that are strings.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl From<&str> for $name {
            fn from(text: &str) -> $name {
                $name(text.to_owned())
            }
        }
        impl From<&$name> for $name {
            fn from(id: &$name) -> $name {
                id.clone()
            }
        }
        impl From<String> for $name {
            fn from(text: String) -> $name {
                $name(text)
            }
        }
        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }
        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.0 == *other
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

text_id! {
    /// The id of a peer. A peer of this mesh has a UUID version 4. A peer of a linked mesh has the id that the
    /// linked mesh gave it. Clients of the old HTTP API may send any text as a sender; such an id belongs to no
    /// peer.
    PeerId
}

text_id! {
    /// The address of a linked mesh, as the user wrote it: `http://hub.lan:7899`.
    MeshUrl
}

/// Defines a type for numbers that the broker gives out in ascending order. The first number is 1; 0 means that there
/// is none yet.
macro_rules! ascending_number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub i64);

        impl $name {
            /// The highest possible number.
            pub const MAX: $name = $name(i64::MAX);

            /// The number that follows.
            pub fn next(self) -> $name {
                $name(self.0.saturating_add(1))
            }

            /// The number before.
            pub fn previous(self) -> $name {
                $name(self.0.saturating_sub(1))
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

ascending_number! {
    /// The sequence number of a message.
    MessageSeq
}

ascending_number! {
    /// The sequence number of an event.
    EventSeq
}

ascending_number! {
    /// The fencing token that the broker gives out when it grants locks. Each later grant has a higher token. A program
    /// can remember the highest token that it has seen, and reject requests with a lower token. Such requests come from
    /// holders whose locks have expired.
    FencingToken
}

/// The id of the log that several hubs share. The hub that created the log chose this number at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogId(pub u128);

impl std::fmt::Display for LogId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::str::FromStr for LogId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<LogId, Self::Err> {
        u128::from_str_radix(text, 16).map(LogId)
    }
}

/// The number of a period in which one hub leads. A later leader has a higher number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Term(pub u64);

/// Identifies an entry of the log. The position alone is not enough: if etcd is restored from a backup, a different
/// entry may be stored at the same position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EntryStamp {
    /// The term of the leader that stored the entry.
    pub term: Term,
    /// The time of the entry, from the clock of the mesh, in ms. This time never decreases from one entry to the next.
    pub now: i64,
}

/// The name of a channel, with its `#`, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(String);

impl ChannelName {
    /// Distinguishes the name of a channel from the name of a peer, where both are allowed.
    const MARK: char = '#';

    /// Whether a name stands for a channel, not for a peer.
    pub fn is_meant_by(text: &str) -> bool {
        text.starts_with(ChannelName::MARK)
    }

    /// Parses the name of a channel, with or without the `#`. Case does not matter.
    ///
    /// # Errors
    /// If the text is not a valid name; the error says which names are allowed.
    pub fn parse(text: &str) -> Result<ChannelName, String> {
        let name = text.strip_prefix(ChannelName::MARK).unwrap_or(text);
        if name.is_empty() {
            return Err("expected the name of a channel, such as #api".into());
        }
        untrusted_text::check_name(name)?;
        Ok(ChannelName(format!("{}{}", ChannelName::MARK, name.to_lowercase())))
    }

    /// The name with its `#`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ChannelName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

/// Converts the sequence numbers of messages and events to the ids that clients see, and back.
///
/// The ids have the form of UUIDs version 4. The last 48 bits are the sequence number, so the database can find a row
/// by its id without an index of ids. The other bits are random and different in each mesh, so no mesh takes another
/// mesh's id for one of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublicIds(u128);

/// One digit of an id distinguishes the ids of messages from the ids of events. For this digit, RFC 9562 allows 8, 9, a
/// and b.
const MESSAGE: u8 = 8;
const EVENT: u8 = 9;

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";
/// For each byte, the position of its two digits in an id (RFC 9562).
const BYTES_AT: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

impl PublicIds {
    /// A converter that uses this random number, which is different in each mesh.
    pub fn new(instance: u128) -> PublicIds {
        PublicIds(instance)
    }

    /// The id that distinguishes this mesh from others: 16 hexadecimal digits.
    pub fn mesh_id(self) -> String {
        format!("{:032x}", self.0)[..16].to_owned()
    }

    /// The public id of the message with this sequence number.
    pub fn message(self, seq: MessageSeq) -> String {
        self.id(MESSAGE, seq.0)
    }

    /// The public id of the event with this sequence number.
    pub fn event(self, seq: EventSeq) -> String {
        self.id(EVENT, seq.0)
    }

    /// The sequence number in the id of a message of this mesh; `None` if the text is not such an id.
    pub fn message_seq(self, id: &str) -> Option<MessageSeq> {
        let seq = i64::from_str_radix(id.get(24..)?, 16).ok()?;
        (self.id(MESSAGE, seq) == id.to_ascii_lowercase()).then_some(MessageSeq(seq))
    }

    /// Formats an id digit by digit. Almost every answer contains an id, and `format!` would take many times more
    /// instructions.
    fn id(self, family: u8, seq: i64) -> String {
        let bits_of_own = |from: u32| (self.0 >> from) as u64;
        let high = bits_of_own(80) << 16 | 0x4000 | bits_of_own(68) & 0xfff;
        let low = (u64::from(family) << 12 | bits_of_own(56) & 0xfff) << 48 | seq.cast_unsigned() & 0xffff_ffff_ffff;
        let bytes = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
        let mut id = [b'-'; 36];
        for (byte, at) in bytes.into_iter().zip(BYTES_AT) {
            (id[at], id[at + 1]) = (HEX_DIGITS[usize::from(byte >> 4)], HEX_DIGITS[usize::from(byte & 0xf)]);
        }
        String::from_utf8_lossy(&id).into_owned()
    }
}

/// A UUID of version 4 from 128 random bits (RFC 9562, section 5.4).
pub fn uuid(random: u128) -> String {
    let bits = random & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_the_digits_of_its_mesh_its_kind_and_its_number() {
        let ids = PublicIds::new(0x0123_4567_89ab_cdef_0fed_cba9_8765_4321);
        assert_eq!(ids.message(MessageSeq(0x1a)), "01234567-89ab-4cde-8f0f-00000000001a");
        assert_eq!(ids.event(EventSeq(0xffff_ffff_ffff)), "01234567-89ab-4cde-9f0f-ffffffffffff");
        assert_eq!(ids.message_seq(&ids.message(MessageSeq(7)).to_uppercase()), Some(MessageSeq(7)));
        assert_eq!(
            (ids.message_seq(&ids.event(EventSeq(7))), PublicIds::new(1).message_seq(&ids.message(MessageSeq(7)))),
            (None, None)
        );
    }
}
