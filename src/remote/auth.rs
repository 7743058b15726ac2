//! Proof of a shared secret without sending it, and the seal on every frame after it.
//!
//! Three frames, each one JSON object:
//!
//! 1. guest: `{"nonce": N1}`
//! 2. hub: `{"nonce": N2, "proof": HMAC(secret, "slm-mesh far 1" | "hub" | N1 | N2)}`
//! 3. guest: `{"proof": HMAC(secret, "slm-mesh far 1" | "guest" | N1 | N2)}`
//!
//! The hub proves first, so that a false one gets nothing to try secrets on; whoever asks a hub gets
//! that much, which is why a secret has a length. From then on a frame is
//! 32 hex digits of HMAC(key of the direction, count | text), and the text. HMAC is with SHA-256
//! (RFC 2104); the keys are HMAC(secret, "slm-mesh far 1" | "key of …" | N1 | N2).

use super::PROTOCOL;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

type Sha = Hmac<Sha256>;

/// Hex digits of a frame's seal: 128 bits, as much as anybody can try.
const SEAL_LEN: usize = 32;
/// Hex digits of a nonce.
const NONCE_LEN: usize = 32;

/// The two nonces of a connection, and the secret behind it.
#[derive(Clone)]
struct Shared {
    secret: Vec<u8>,
    guest: String,
    hub: String,
}

impl Shared {
    fn mac(&self, label: &str) -> Sha {
        let mut mac = keyed(&self.secret);
        for part in [PROTOCOL, label, &self.guest, &self.hub] {
            // Each with its length: no two ways to cut the same bytes.
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }

    fn proof(&self, role: &str) -> String {
        hex(&self.mac(role).finalize().into_bytes())
    }

    fn proves(&self, role: &str, proof: &str) -> bool {
        unhex(proof).is_some_and(|bytes| self.mac(role).verify_slice(&bytes).is_ok())
    }

    fn key(&self, direction: &str) -> Sha {
        keyed(&self.mac(direction).finalize().into_bytes())
    }
}

fn keyed(key: &[u8]) -> Sha {
    // HMAC takes keys of any length; the fallback is never reached and would match nothing.
    Sha::new_from_slice(key).unwrap_or_else(|_| Sha::new(&Default::default()))
}

/// The hub's side of the proof.
pub struct HubShake {
    shared: Shared,
}

impl HubShake {
    /// Takes the guest's first frame; the answer to it.
    pub fn begin(secret: &str, chance: u128, frame: &str) -> Option<(HubShake, String)> {
        let guest = nonce_in(&serde_json::from_str(frame).ok()?)?;
        let shared = Shared { secret: secret.into(), guest, hub: format!("{chance:032x}") };
        let answer = json!({ "nonce": shared.hub, "proof": shared.proof("hub") });
        Some((HubShake { shared }, answer.to_string()))
    }

    /// Takes the guest's proof; the seal for what follows if it holds.
    pub fn end(self, frame: &str) -> Option<Seal> {
        let value: Value = serde_json::from_str(frame).ok()?;
        let holds = self.shared.proves("guest", value["proof"].as_str()?);
        holds.then(|| Seal::new(self.shared.key("key of the hub"), self.shared.key("key of the guest")))
    }
}

/// The guest's side of the proof.
pub struct GuestShake {
    secret: Vec<u8>,
    nonce: String,
}

impl GuestShake {
    /// The first frame.
    pub fn begin(secret: &str, chance: u128) -> (GuestShake, String) {
        let nonce = format!("{chance:032x}");
        let frame = json!({ "nonce": nonce }).to_string();
        (GuestShake { secret: secret.into(), nonce }, frame)
    }

    /// Takes the hub's answer; our proof, and the seal for what follows, if the hub's holds.
    pub fn end(self, frame: &str) -> Option<(String, Seal)> {
        let value: Value = serde_json::from_str(frame).ok()?;
        let shared = Shared { secret: self.secret, guest: self.nonce, hub: nonce_in(&value)? };
        if !shared.proves("hub", value["proof"].as_str()?) {
            return None;
        }
        let proof = json!({ "proof": shared.proof("guest") }).to_string();
        Some((proof, Seal::new(shared.key("key of the guest"), shared.key("key of the hub"))))
    }
}

fn nonce_in(value: &Value) -> Option<String> {
    let nonce = value["nonce"].as_str()?;
    let fits = nonce.len() == NONCE_LEN && nonce.bytes().all(|byte| byte.is_ascii_hexdigit());
    fits.then(|| nonce.to_owned())
}

/// Seals frames of one direction and opens those of the other.
pub struct Seal {
    ours: Sha,
    theirs: Sha,
    n_sealed: u64,
    n_opened: u64,
}

impl Seal {
    fn new(ours: Sha, theirs: Sha) -> Seal {
        Seal { ours, theirs, n_sealed: 0, n_opened: 0 }
    }

    /// A frame for a text.
    pub fn close(&mut self, text: &str) -> String {
        let mut mac = self.ours.clone();
        mac.update(&self.n_sealed.to_be_bytes());
        mac.update(text.as_bytes());
        self.n_sealed += 1;
        let mut frame = hex(&mac.finalize().into_bytes()[..SEAL_LEN / 2]);
        frame.push_str(text);
        frame
    }

    /// The text of a frame; `None` if it is not the next one of the other side.
    pub fn open<'a>(&mut self, frame: &'a str) -> Option<&'a str> {
        let (seal, text) = (frame.get(..SEAL_LEN)?, frame.get(SEAL_LEN..)?);
        let mut mac = self.theirs.clone();
        mac.update(&self.n_opened.to_be_bytes());
        mac.update(text.as_bytes());
        self.n_opened += 1;
        mac.verify_truncated_left(&unhex(seal)?).ok().map(|()| text)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks(2).map(|pair| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?));
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shake(of_hub: &str, of_guest: &str) -> Option<(Seal, Seal)> {
        let (guest, first) = GuestShake::begin(of_guest, 1);
        let (hub, answer) = HubShake::begin(of_hub, 2, &first)?;
        let (proof, of_guest) = guest.end(&answer)?;
        Some((hub.end(&proof)?, of_guest))
    }

    #[test]
    fn who_knows_the_secret_is_let_in_and_nobody_else() {
        assert!(shake("correct horse", "correct horse").is_some());
        assert!(shake("correct horse", "correct horsf").is_none());
        let (_, first) = GuestShake::begin("correct horse", 1);
        let (hub, answer) = HubShake::begin("correct horse", 2, &first).unwrap();
        assert!(!format!("{first}{answer}").contains("horse"));
        // What the hub proves with proves nothing for a guest.
        let proof = serde_json::from_str::<Value>(&answer).unwrap()["proof"].clone();
        assert!(hub.end(&json!({ "proof": proof }).to_string()).is_none());
        for frame in
            ["", "{}", "7", r#"{"nonce":7}"#, r#"{"nonce":"00"}"#, r#"{"nonce":"zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"}"#]
        {
            assert!(HubShake::begin("s", 1, frame).is_none(), "{frame}");
        }
    }

    #[test]
    fn a_frame_that_was_changed_repeated_or_left_out_is_refused() {
        let (mut hub, mut guest) = shake("secret", "secret").unwrap();
        let frames: Vec<String> = ["one", "two", "three"].iter().map(|text| guest.close(text)).collect();
        assert_eq!(hub.open(&frames[0]), Some("one"));
        assert_eq!(hub.open(&frames[0]), None, "repeated");
        let (mut hub, mut guest) = shake("secret", "secret").unwrap();
        let _ = guest.close("one");
        assert_eq!(hub.open(&guest.close("two")), None, "one left out");
        let (mut hub, mut guest) = shake("secret", "secret").unwrap();
        assert_eq!(hub.open(&guest.close("one").replace("one", "owe")), None, "changed");
        let (mut hub, _) = shake("secret", "secret").unwrap();
        let own = hub.close("one");
        assert_eq!(hub.open(&own), None, "sent back");
        for frame in ["", "short", "ä".repeat(40).as_str()] {
            assert_eq!(hub.open(frame), None);
        }
    }
}
