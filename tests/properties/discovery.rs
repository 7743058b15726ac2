//! Tests the parser for responses from unknown machines on the local network.
//!
//! Each packet is either parsed or ignored. The parsed values never exceed their limits.

use slm_mesh::discovery::mdns_packet::parse_response;

/// Parses a packet twice: as the response to a query with the packet's id, and as the response to a query with a
/// different id.
pub fn check(data: &[u8]) {
    let id = u16::from_be_bytes([data.first().copied().unwrap_or(0), data.get(1).copied().unwrap_or(0)]);
    assert_eq!(parse_response(data, !id), None, "a response to another query");
    let told = parse_response(data, id).unwrap_or_default();
    assert!(told.len() <= 64, "{} services", told.len());
    for one in &told {
        // Each byte that is not UTF-8 is replaced with a character that has three bytes.
        assert!(one.name.len() <= 3 * 63 && one.target.len() <= 254 && one.addresses.len() <= 64, "{one:?}");
        assert!(one.port > 0 && one.ws_port != Some(0), "{one:?}");
        assert!(one.version.len() <= 32 && one.version.bytes().all(|byte| byte.is_ascii_graphic()), "{one:?}");
    }
    assert!(data.len() < 12 || told.len() * 11 <= data.len(), "more records than bytes");
    assert_eq!(parse_response(data, id).unwrap_or_default(), told, "the same packet gives the same result");
}
