//! The broker: a poll loop that passes the requests of clients to the mesh, and sends the responses back.
//!
//! [`startup`] starts the loop, and `event_loop` runs it. The other modules are parts of the loop. They borrow the mesh
//! while the loop calls them.
//!
//! **Invariant:** a turn consists of wait, tick, serve, commit and flush, in this order. Only flush sends anything to
//! clients, and flush sends only what is committed.

mod answer_parsed_http_requests;
mod blocking_filesystem_threads;
mod checkpoint_thread;
mod desktop_notifications;
mod event_loop;
pub mod http;
#[doc(hidden)]
pub mod leadership;
#[doc(hidden)]
mod admit_guests_and_announce_hub;
mod clients;
mod decide_when_to_shut_down;
pub mod legacy_http;
mod linked_mesh_http_routes;
mod links_to_other_meshes;
mod log_rate_limit;
mod process_exits;
mod push_connection;
mod push_to_http_registered_peers;
mod push_to_old_websocket_clients;
mod role_changes;
pub mod run_operations_on_broker_itself;
pub mod startup;
pub mod web;

/// Writes a line for the operator to standard error. If the broker runs in the background, standard error is its log
/// file.
pub fn log(text: &str) {
    crate::sys::print_error(&format!("{} {text}", crate::base::time_format::iso(crate::sys::wall_ms())));
}
