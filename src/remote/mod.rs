//! Sessions on other machines: the lines of the Unix socket, encrypted, over a WebSocket.
//!
//! The hub puts a `bridge` between the WebSocket and one end of a local socket pair, so that the broker's loop reads
//! and writes lines, as on one machine. A guest reads and writes them on a `guest_stream`.
//!
//! **Invariant:** no byte from a client that has not proven the secret reaches the broker. The secret never leaves its
//! machine. A message that was changed, repeated, reordered or left out ends the connection.

mod auth;
pub mod auth_failures;
mod bridge;
mod encrypted;
pub mod guest;
pub mod guest_stream;
mod handshake;
pub mod hub;
mod hub_socket;
mod liveness;

use tungstenite::protocol::WebSocketConfig;

/// The path at which a hub accepts guests. Push clients of slm-mesh 1.3 request `/ws`.
const GUEST_PATH: &str = "/far";
/// The WebSocket subprotocol between our own programs. It is also part of each handshake, so that both sides agree on
/// it. Version 0.1.0 names no subprotocol.
const SUBPROTOCOL: &str = "slm-mesh.noise.1";
/// A handshake that takes longer is dropped, in ms.
const HANDSHAKE_MS: u64 = 3_000;
/// After this time without a sign of life, a side sends a ping, in ms. This is often enough to survive a cable that is
/// unplugged for five seconds.
const PING_MS: u64 = 3_000;
/// A side without a sign of life for this long counts as gone, in ms. Users learn of it within 15 s, and in this time a
/// session also tries once to reach the hub again.
const DEAD_MS: u64 = 10_000;

/// Buffers that are small while a connection is idle, and bounded otherwise.
fn websocket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(8 << 10)
        .write_buffer_size(16 << 10)
        .max_write_buffer_size(4 << 20)
        .max_message_size(Some(auth::MESSAGE_MAX))
        .max_frame_size(Some(auth::MESSAGE_MAX))
}
