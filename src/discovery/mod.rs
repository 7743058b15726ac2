//! The local network: hubs announce themselves there by multicast DNS, and others find them.
//!
//! - [`addresses`]: the interfaces of this machine that lead to a LAN
//! - [`packet`]: the query, and what a stranger's answer says
//! - [`mod@browse`]: asks once, and gathers answers for a while
//! - [`announce`]: the announcing process, which can die without harm
//! - [`announcer`]: starts that process, and starts it again
//!
//! **Invariant:** what answers is a hint and nothing else, until it has proven the shared secret: it is
//! bounded in number, size and time, and no byte of it can stop this process. libmdns, which one packet
//! can kill, lives in a process of its own that knows no secret.

pub mod addresses;
pub mod packet;
pub mod browse;
pub mod mdns_process;
pub mod mdns_supervisor;

pub use browse::{Found, What, browse};
pub use mdns_supervisor::Announcer;

/// The service type under which hubs are found, as libmdns takes it.
const SERVICE: &str = "_slm-mesh._tcp";
