//! Across machines: the lines of the Unix socket, carried over a WebSocket between two programs of
//! ours that prove to each other that they know the same secret.
//!
//! Hub and guest each put a bridge between the WebSocket and one end of a local socket pair. So
//! neither the broker's loop nor a session knows of networks: both read and write lines.
//!
//! **Invariant:** no byte of a stranger reaches the other end of the pair, the secret never leaves
//! its machine, and a frame that was changed, repeated or left out ends the connection.

mod bridge;
pub mod guest;
pub mod hub;
mod auth;
pub mod auth_failures;

use tungstenite::protocol::WebSocketConfig;

/// What both sides must agree on: the name of the protocol, part of every proof.
const PROTOCOL: &str = "slm-mesh far 1";
/// The path that a guest of ours asks for; `/ws` is that of the clients of 1.3.
const PATH: &str = "/far";
/// A handshake that takes longer is given up, ms.
const SHAKE_MS: u64 = 3_000;
/// A side that has not heard the other for this long asks whether it still lives, ms: often enough that
/// a cable that is out for five seconds need not be noticed.
const PING_MS: u64 = 3_000;
/// A side that was not heard for this long is gone, ms: users were promised to hear of it within 15 s,
/// in which a session also tries once to reach the hub again.
const DEAD_MS: u64 = 10_000;
/// The longest frame, in bytes: a line of the socket, and its seal.
const FRAME_MAX: usize = crate::wire::lines::LINE_MAX + 64;

/// Buffers that are small while a connection is idle, and bounded when it is not.
fn websocket() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(8 << 10)
        .write_buffer_size(16 << 10)
        .max_write_buffer_size(4 << 20)
        .max_message_size(Some(FRAME_MAX))
        .max_frame_size(Some(FRAME_MAX))
}
