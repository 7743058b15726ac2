//! The broker: one poll loop that carries bytes to the mesh and back.
//!
//! [`startup`] starts it, and `event_loop` runs it. Every other module is a part that alone writes its own memory.
//! The loop lends the mesh to a part for the duration of one call.
//!
//! **Invariant:** a turn is wait, tick, serve, commit, flush. Nothing leaves outside of flush, and flush sends
//! nothing that is not committed.

mod checkpoint_thread;
mod directory_lookups;
mod event_loop;
pub mod http;
mod http_requests;
#[doc(hidden)]
pub mod legacy_http;
#[doc(hidden)]
pub mod leadership;
mod lifecycle;
mod mesh_links;
pub mod methods;
mod notifications;
mod peer_sockets;
mod process_exits;
mod push_connection;
mod remote_listener;
mod role_changes;
pub mod startup;
mod stranger_count;
mod superlocalmemory;
mod unix_clients;
pub mod web;
mod ws_subscribers;

/// Writes one line for the operator to standard error, which is the log of a detached broker.
pub fn log(text: &str) {
    crate::sys::print_error(&format!("{} {text}", crate::base::time::iso(crate::sys::wall_ms())));
}
