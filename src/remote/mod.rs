//! Connects sessions on other machines with the hub. The lines of the local protocol are carried over an encrypted
//! WebSocket.
//!
//! The hub uses an `encrypted_stream_to_guest` like a socket, so the broker serves a guest in the same way as a local
//! client. A guest uses an `encrypted_stream_to_hub` like a socket.
//!
//! **Invariant:** nothing that a client sends reaches the broker before the client has proven that it knows the secret.
//! A push client must have sent a valid bearer token instead. The secret is never sent over the network. If a message
//! is changed, repeated, reordered or removed on its way, the connection ends.

mod accept_guest_handshake;
pub mod auth_failure_reports;
mod bridge_push_client_to_broker;
mod encrypted_messages;
pub mod encrypted_stream_to_guest;
pub mod encrypted_stream_to_hub;
pub mod guest_handshake_with_hub;
pub mod hub_listener;
mod hub_socket_with_deadline;
pub mod liveness;
mod noise;
mod skip_empty_reads_of_guest_socket;

use tungstenite::protocol::WebSocketConfig;

/// The path at which a hub accepts guests. Push clients of slm-mesh 1.3 request `/ws`.
const GUEST_PATH: &str = "/far";
/// The WebSocket subprotocol between hubs and guests. The handshake also authenticates this name, so it fails if the
/// two sides use different protocols. Version 0.1.0 uses no subprotocol.
const SUBPROTOCOL: &str = "slm-mesh.noise.1";
/// Maximum duration of a handshake, in ms. After this time, the connection is dropped.
const HANDSHAKE_MS: u64 = 3_000;

/// Limits the buffers of a WebSocket. The read buffer is small, because `tungstenite` fills it with zeros. The whole
/// buffer therefore takes up memory, even on an idle connection.
fn websocket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 << 10)
        .write_buffer_size(16 << 10)
        .max_write_buffer_size(4 << 20)
        .max_message_size(Some(noise::MESSAGE_MAX))
        .max_frame_size(Some(noise::MESSAGE_MAX))
}
