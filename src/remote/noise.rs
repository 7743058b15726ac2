//! Authentication and encryption between machines that run slm-mesh. The protocol is Noise `NNpsk0`. Its key is derived
//! from the shared secret.
//!
//! 1. guest → hub: an ephemeral key, authenticated with the secret
//! 2. hub → guest: an ephemeral key, authenticated with the secret and with both ephemeral keys
//! 3. guest → hub: an empty message, encrypted with the new keys, so that a recording of message 1 is useless
//!
//! A client without the secret can't use the hub to check guesses of the secret, because the hub does not answer a
//! wrong message 1. A fake hub, however, can check guesses against the message 1 of a guest. To make this slow, a
//! secret that a person has made up is stretched first.
//!
//! **Invariant:** if a message is changed, repeated, reordered or removed on its way, decryption fails, and the
//! connection ends. A recording of a connection can't be decrypted, not even with the secret.

use super::SUBPROTOCOL;
use snow::params::HashChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::Hash;
use snow::{Builder, Error, HandshakeState, TransportState};

/// The name of the protocol in the Noise specification.
const NOISE_PROTOCOL: &str = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";
/// Maximum size of a Noise message, in bytes.
pub const MESSAGE_MAX: usize = 65_535;
/// How many bytes encryption adds to each message: one byte for the kind of content, and the authentication tag.
pub const OVERHEAD: usize = 1 + TAG_LEN;
const TAG_LEN: usize = 16;
/// Maximum size of a handshake message, in bytes.
const HANDSHAKE_MAX: usize = 96;
const KEY_LEN: usize = 32;
/// The block size of SHA-256, in bytes. If a key is longer, HMAC uses the hash of the key.
const BLOCK_LEN: usize = 64;
/// How many hex digits `slm-mesh secret` generates. They contain 128 random bits, too many to guess.
const GENERATED_LEN: usize = 32;
/// Number of rounds for stretching a secret that a person has made up. Every process that connects to a hub waits for
/// the stretching, even a hook that ends soon. 4,096 rounds take about 10 ms, and 65,536 rounds would take 175 ms.
const STRETCH_ROUNDS: u32 = 1 << 12;

/// The key that both sides derive from the shared secret.
#[derive(Clone)]
pub struct NetworkKey([u8; KEY_LEN]);

impl NetworkKey {
    /// Derives the key with PBKDF2-HMAC-SHA256 (RFC 8018). The derivation is deliberately slow, except for a secret
    /// from `slm-mesh secret`, which can't be guessed.
    ///
    /// # Errors
    /// When the crate `snow` was built without SHA-256.
    pub fn derive(secret: &str) -> Result<NetworkKey, Error> {
        let is_random = secret.len() >= GENERATED_LEN && secret.bytes().all(|byte| byte.is_ascii_hexdigit());
        let rounds = if is_random { 1 } else { STRETCH_ROUNDS };
        Ok(NetworkKey(stretch(secret.as_bytes(), NOISE_PROTOCOL.as_bytes(), rounds)?))
    }
}

/// Computes the first block of PBKDF2-HMAC-SHA256.
fn stretch(password: &[u8], salt: &[u8], rounds: u32) -> Result<[u8; KEY_LEN], Error> {
    let sha256 = DefaultResolver.resolve_hash(&HashChoice::SHA256);
    let mut sha256 = sha256.ok_or(Error::Init(snow::error::InitStage::GetHashImpl))?;
    let (mut shortened, mut block, mut key) = ([0; KEY_LEN], [0; KEY_LEN], [0; KEY_LEN]);
    let password = if password.len() > BLOCK_LEN {
        digest(&mut *sha256, password, &mut shortened);
        &shortened[..]
    } else {
        password
    };
    sha256.hmac(password, &[salt, &1_u32.to_be_bytes()].concat(), &mut block);
    key.copy_from_slice(&block);
    for _ in 1..rounds {
        let previous = block;
        sha256.hmac(password, &previous, &mut block);
        key.iter_mut().zip(block).for_each(|(sum, byte)| *sum ^= byte);
    }
    Ok(key)
}

fn digest(hash: &mut dyn Hash, data: &[u8], out: &mut [u8]) {
    hash.reset();
    hash.input(data);
    hash.result(out);
}

fn builder(key: &NetworkKey) -> Result<Builder<'_>, Error> {
    Builder::new(NOISE_PROTOCOL.parse()?).prologue(SUBPROTOCOL.as_bytes())?.psk(0, &key.0)
}

fn next_handshake_message(state: &mut HandshakeState) -> Result<Vec<u8>, Error> {
    let mut message = vec![0; HANDSHAKE_MAX];
    let length = state.write_message(&[], &mut message)?;
    message.truncate(length);
    Ok(message)
}

/// The guest's side of a handshake, after message 1.
pub struct GuestHandshake(HandshakeState);

impl GuestHandshake {
    /// Begins a handshake. Also returns message 1, which the guest must send to the hub.
    ///
    /// # Errors
    /// When the system provides no random numbers.
    pub fn start(key: &NetworkKey) -> Result<(GuestHandshake, Vec<u8>), Error> {
        let mut state = builder(key)?.build_initiator()?;
        let message = next_handshake_message(&mut state)?;
        Ok((GuestHandshake(state), message))
    }

    /// Checks message 2. Returns the channel, and message 3, which the guest must send to the hub.
    ///
    /// # Errors
    /// When the hub does not know the secret.
    pub fn finish(mut self, reply: &[u8]) -> Result<(NoiseChannel, Vec<u8>), Error> {
        self.0.read_message(reply, &mut [0; HANDSHAKE_MAX])?;
        let mut channel = NoiseChannel(self.0.into_transport_mode()?);
        let confirmation = channel.seal(ContentKind::Lines, &[])?;
        Ok((channel, confirmation))
    }
}

/// The hub's side of a handshake, after message 2 and before message 3.
pub struct HubHandshake(NoiseChannel);

impl HubHandshake {
    /// Checks message 1. Also returns message 2, which the hub must send to the guest.
    ///
    /// # Errors
    /// When the guest does not know the secret. In this case, the hub must not answer.
    pub fn reply(key: &NetworkKey, first: &[u8]) -> Result<(HubHandshake, Vec<u8>), Error> {
        let mut state = builder(key)?.build_responder()?;
        state.read_message(first, &mut [0; HANDSHAKE_MAX])?;
        let message = next_handshake_message(&mut state)?;
        Ok((HubHandshake(NoiseChannel(state.into_transport_mode()?)), message))
    }

    /// Checks message 3.
    ///
    /// # Errors
    /// When message 1 was a recording from another connection.
    pub fn finish(mut self, confirmation: &[u8]) -> Result<NoiseChannel, Error> {
        match self.0.open(confirmation)? {
            (ContentKind::Lines, content) if content.is_empty() => Ok(self.0),
            _ => Err(Error::Input),
        }
    }
}

/// What a message contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ContentKind {
    /// A part of the stream of lines. A line may continue in the next message.
    Lines = 0,
    /// Asks whether the other side is still there. Contains a [`Heartbeat`](super::liveness::Heartbeat).
    Ping = 1,
    /// The answer to a ping. Contains a [`Heartbeat`](super::liveness::Heartbeat), too.
    Pong = 2,
}

/// Encrypts outgoing messages and decrypts incoming ones. The messages of each direction must stay in order.
pub struct NoiseChannel(TransportState);

impl NoiseChannel {
    /// Encrypts the next message.
    ///
    /// # Errors
    /// When the content is longer than [`MESSAGE_MAX`] minus [`OVERHEAD`].
    pub fn seal(&mut self, kind: ContentKind, content: &[u8]) -> Result<Vec<u8>, Error> {
        let plain = [content, &[kind as u8]].concat();
        let mut message = vec![0; content.len() + OVERHEAD];
        self.0.write_message(&plain, &mut message)?;
        Ok(message)
    }

    /// Decrypts the next message from the other side.
    ///
    /// # Errors
    /// When `message` is not the next message, or does not come from the other side.
    pub fn open(&mut self, message: &[u8]) -> Result<(ContentKind, Vec<u8>), Error> {
        let mut content = vec![0; message.len()];
        let length = self.0.read_message(message, &mut content)?;
        content.truncate(length);
        let kind = match content.pop() {
            Some(0) => ContentKind::Lines,
            Some(1) => ContentKind::Ping,
            Some(2) => ContentKind::Pong,
            _ => return Err(Error::Input),
        };
        Ok((kind, content))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn key(secret: &str) -> NetworkKey {
        NetworkKey::derive(secret).unwrap()
    }

    /// Makes the two channels of one connection: the hub's and the guest's.
    fn connect(hub: &NetworkKey, guest: &NetworkKey) -> Result<(NoiseChannel, NoiseChannel), Error> {
        let (guest, first) = GuestHandshake::start(guest)?;
        let (hub, reply) = HubHandshake::reply(hub, &first)?;
        let (guest, confirmation) = guest.finish(&reply)?;
        Ok((hub.finish(&confirmation)?, guest))
    }

    pub(in crate::remote) fn connected() -> (NoiseChannel, NoiseChannel) {
        connect(&key(&"0f".repeat(16)), &key(&"0f".repeat(16))).unwrap()
    }

    #[test]
    fn the_stretching_is_pbkdf2() {
        // The inputs are from RFC 6070. The RFC contains only results for SHA-1, so these numbers are the first bytes
        // of the well-known results for SHA-256.
        for (rounds, want) in [(1, 0x120f_b6cf_u32), (2, 0xae4d_0c95), (4096, 0xc5e4_78d5)] {
            assert_eq!(stretch(b"password", b"salt", rounds).unwrap()[..4], want.to_be_bytes());
        }
        let long = [b'x'; 65];
        assert_ne!(stretch(&long, b"salt", 2).unwrap(), stretch(&long[..64], b"salt", 2).unwrap());
    }

    #[test]
    fn only_the_same_secret_connects() {
        let (right, wrong) = (key("correct horse"), key("correct horsf"));
        assert!(connect(&right, &right).is_ok());
        let (guest, first) = GuestHandshake::start(&wrong).unwrap();
        assert!(HubHandshake::reply(&right, &first).is_err(), "a hub answers no stranger");
        // This hub and this guest have the same wrong secret, so the handshake succeeds. Below, a guest with the right
        // secret rejects this hub's reply.
        let (_, reply) = HubHandshake::reply(&wrong, &first).unwrap();
        assert!(guest.finish(&reply).is_ok());
        let (guest, first) = GuestHandshake::start(&right).unwrap();
        assert!(HubHandshake::reply(&wrong, &first).is_err());
        assert!(guest.finish(&reply).is_err());
        for first in [&b""[..], b"{}", &[0; 48], &[0xff; 48], &[0; 1000]] {
            assert!(HubHandshake::reply(&right, first).is_err());
        }
    }

    /// A program with the feature `tls` encrypts with the crate ring, and a program without the feature does not.
    #[test]
    fn programs_with_and_without_tls_understand_each_other() {
        let key = key("correct horse");
        let without = Builder::with_resolver(NOISE_PROTOCOL.parse().unwrap(), Box::new(DefaultResolver));
        let without = without.prologue(SUBPROTOCOL.as_bytes()).and_then(|builder| builder.psk(0, &key.0));
        let mut without = without.and_then(Builder::build_initiator).unwrap();
        let first = next_handshake_message(&mut without).unwrap();
        let (hub, reply) = HubHandshake::reply(&key, &first).unwrap();
        let (mut guest, confirmation) = GuestHandshake(without).finish(&reply).unwrap();
        let mut hub = hub.finish(&confirmation).unwrap();
        for length in [0, 1, 100, 5_000] {
            let line = vec![b'x'; length];
            let sealed = guest.seal(ContentKind::Lines, &line).unwrap();
            assert_eq!(hub.open(&sealed).unwrap(), (ContentKind::Lines, line.clone()));
            let sealed = hub.seal(ContentKind::Lines, &line).unwrap();
            assert_eq!(guest.open(&sealed).unwrap(), (ContentKind::Lines, line));
        }
    }

    #[test]
    fn a_recorded_handshake_opens_nothing() {
        let key = key(&"0f".repeat(16));
        let (guest, first) = GuestHandshake::start(&key).unwrap();
        let (hub, reply) = HubHandshake::reply(&key, &first).unwrap();
        let (mut guest, confirmation) = guest.finish(&reply).unwrap();
        let line = guest.seal(ContentKind::Lines, b"line\n").unwrap();
        assert!(hub.finish(&confirmation).unwrap().open(&line).is_ok());
        // The hub chooses a new ephemeral key for each connection, so it rejects the recorded message 3.
        let (again, other_reply) = HubHandshake::reply(&key, &first).unwrap();
        assert_ne!(other_reply, reply);
        assert!(again.finish(&confirmation).is_err());
        // The guest also chooses a new ephemeral key, so it rejects a replayed reply from the hub.
        assert!(GuestHandshake::start(&key).unwrap().0.finish(&reply).is_err());
    }

    #[test]
    fn nothing_readable_is_sent() {
        let (mut hub, mut guest) = connected();
        let message = guest.seal(ContentKind::Lines, b"the plan is secret\n").unwrap();
        assert!(!message.windows(4).any(|part| part == b"plan"));
        assert_eq!(message.len(), b"the plan is secret\n".len() + OVERHEAD);
        assert_eq!(hub.open(&message).unwrap(), (ContentKind::Lines, b"the plan is secret\n".to_vec()));
        // When the same text is encrypted again, the result is different.
        assert_ne!(guest.seal(ContentKind::Lines, b"the plan is secret\n").unwrap(), message);
        assert!(guest.seal(ContentKind::Lines, &[0; MESSAGE_MAX - OVERHEAD]).is_ok());
        assert!(guest.seal(ContentKind::Lines, &[0; MESSAGE_MAX]).is_err());
    }

    /// Changes a stream of messages in one of the ways in which a hostile relay could change it.
    fn tamper(messages: &mut Vec<Vec<u8>>, mut random: impl FnMut(usize) -> usize) {
        let at = random(messages.len());
        match random(6) {
            0 => {
                let byte = random(messages[at].len());
                messages[at][byte] ^= 1 << random(8);
            }
            1 => drop(messages.remove(at)),
            2 => messages.insert(at, messages[random(messages.len())].clone()),
            3 => {
                let other = random(messages.len());
                messages.swap(at, other);
            }
            4 => {
                let length = random(messages[at].len());
                messages[at].truncate(length);
            }
            _ => {
                // Replaces the message with a message of another connection.
                let (mut stranger, _) = connected();
                messages[at] = stranger.seal(ContentKind::Lines, b"false\n").unwrap();
            }
        }
    }

    #[test]
    fn whatever_a_relay_does_only_the_true_beginning_arrives() {
        for seed in 0..2000_u64 {
            let mut state = seed;
            let mut random = |n: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % n
            };
            let (mut hub, mut guest) = connected();
            let lines: Vec<Vec<u8>> = (0..8).map(|n| format!("{n}").repeat(random(50)).into_bytes()).collect();
            let sent: Vec<Vec<u8>> = lines.iter().map(|line| guest.seal(ContentKind::Lines, line).unwrap()).collect();
            let mut messages = sent.clone();
            tamper(&mut messages, &mut random);
            let n_true = messages.iter().zip(&sent).take_while(|(one, other)| one == other).count();
            let opened: Vec<Vec<u8>> =
                messages.iter().map_while(|one| hub.open(one).ok()).map(|(_, line)| line).collect();
            assert_eq!(opened, lines[..n_true], "seed {seed}");
            // The hub also refuses a message that the hub itself encrypted, if a relay sends it back.
            let own = hub.seal(ContentKind::Ping, &[0; 4]).unwrap();
            assert!(hub.open(&own).is_err(), "seed {seed}");
        }
    }
}
