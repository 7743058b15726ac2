//! Sessions on other machines: the lines of the Unix socket are sent over a WebSocket, encrypted.
//!
//! On the hub, a `bridge` connects the WebSocket with one end of a local socket pair, so that the broker's loop
//! reads and writes lines as for a local client. A guest reads and writes the lines on an `encrypted_stream_to_hub`.
//!
//! **Invariant:** no byte from a client reaches the broker before the client has proven that it knows the secret or, if
//! it is a push client, has sent a valid bearer token. The secret never leaves the machine. If a message was changed,
//! repeated, reordered or left out, the connection ends.

mod auth;
pub mod auth_failures;
mod bridge;
mod encrypted;
pub mod connect_to_hub;
mod socket_to_guest;
pub mod encrypted_stream_to_hub;
mod handshake;
pub mod hub_listener;
mod socket_to_hub;
mod liveness;

use tungstenite::protocol::WebSocketConfig;

/// The path at which a hub accepts guests. Push clients of slm-mesh 1.3 request `/ws`.
const GUEST_PATH: &str = "/far";
/// The WebSocket subprotocol between our own programs. It is also part of each handshake, so that both sides are
/// certain to use the same protocol. Version 0.1.0 uses no subprotocol.
const SUBPROTOCOL: &str = "slm-mesh.noise.1";
/// How long a handshake may take, in ms. A handshake that takes longer is dropped.
const HANDSHAKE_MS: u64 = 3_000;

/// Limits the buffers of a WebSocket. The read buffer is small, because the crate fills it with zeros, so all of it
/// takes up memory even while the connection is idle. The write buffer and the messages are bounded, too.
fn websocket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 << 10)
        .write_buffer_size(16 << 10)
        .max_write_buffer_size(4 << 20)
        .max_message_size(Some(auth::MESSAGE_MAX))
        .max_frame_size(Some(auth::MESSAGE_MAX))
}
