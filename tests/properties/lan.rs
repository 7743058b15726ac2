//! What a stranger on the local network answers.
//!
//! Whatever it is, it is read or thrown away, and of what is read nothing is longer or more than the
//! form allows.

use slm_mesh::discovery::packet::answer;

/// The packet is asked about as an answer to the query whose id it has, and to another one.
pub fn check(data: &[u8]) {
    let id = u16::from_be_bytes([data.first().copied().unwrap_or(0), data.get(1).copied().unwrap_or(0)]);
    assert_eq!(answer(data, !id), None, "an answer to somebody else");
    let told = answer(data, id).unwrap_or_default();
    assert!(told.len() <= 64, "{} services", told.len());
    for one in &told {
        // A byte that is no text becomes a sign of three.
        assert!(one.name.len() <= 3 * 63 && one.target.len() <= 254 && one.addresses.len() <= 64, "{one:?}");
        assert!(one.port > 0 && one.ws_port != Some(0), "{one:?}");
        assert!(one.version.len() <= 32 && one.version.bytes().all(|byte| byte.is_ascii_graphic()), "{one:?}");
    }
    assert!(data.len() < 12 || told.len() * 11 <= data.len(), "more records than bytes");
    assert_eq!(answer(data, id).unwrap_or_default(), told, "the same packet says the same");
}
