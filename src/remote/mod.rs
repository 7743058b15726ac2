//! Sessions on other machines: the lines of the Unix socket, encrypted, over a WebSocket.
//!
//! Hub and guest each put a `bridge` between the WebSocket and one end of a local socket pair. So the
//! broker's loop and the session read and write lines, and neither knows that there is a network.
//!
//! **Invariant:** no byte of a stranger reaches the other end of the pair. The secret never leaves its
//! machine. A message that was changed, repeated, reordered or left out ends the connection.

mod auth;
pub mod auth_failures;
mod bridge;
pub mod guest;
mod handshake;
pub mod hub;
mod liveness;

use tungstenite::protocol::WebSocketConfig;

/// The path at which a hub takes guests. Push clients of slm-mesh 1.3 ask for `/ws`.
const GUEST_PATH: &str = "/far";
/// The WebSocket subprotocol between our own programs; also part of each handshake, so that both sides
/// agree on it. Version 0.1.0 names none.
const SUBPROTOCOL: &str = "slm-mesh.noise.1";
/// A handshake that takes longer is given up, ms.
const HANDSHAKE_MS: u64 = 3_000;
/// After this long without a sign of life a side asks for one, ms: often enough that nobody has to notice
/// a cable that is out for five seconds.
const PING_MS: u64 = 3_000;
/// A side that gave no sign of life for this long is gone, ms: users were promised to hear of it within
/// 15 s, in which a session also tries once to reach the hub again.
const DEAD_MS: u64 = 10_000;

/// Buffers that are small while a connection is idle, and bounded when it is not.
fn websocket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(8 << 10)
        .write_buffer_size(16 << 10)
        .max_write_buffer_size(4 << 20)
        .max_message_size(Some(auth::MESSAGE_MAX))
        .max_frame_size(Some(auth::MESSAGE_MAX))
}
