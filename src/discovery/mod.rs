//! Discovery on the local network: hubs announce themselves by multicast DNS, and sessions find them.
//!
//! - [`addresses`]: the interfaces of this machine that lead to a LAN
//! - [`mdns_packet`]: builds queries and parses responses
//! - [`mod@browse`]: sends queries and collects responses
//! - [`announce_hub_by_mdns`]: the process that announces a hub
//! - [`hub_announcer_supervisor`]: starts and restarts the announcing process
//!
//! **Invariant:** a response is only a hint until its sender has proven that it knows the shared secret. Responses are
//! bounded in number, size and time, and no response can stop this process. Because a single packet can crash libmdns,
//! libmdns runs in a separate process, which does not know any secret.

pub mod addresses;
pub mod announce_hub_by_mdns;
pub mod browse;
pub mod hub_announcer_supervisor;
pub mod mdns_packet;

pub use browse::{DiscoveredService, ServiceKind, browse};
pub use hub_announcer_supervisor::MdnsSupervisor;

/// The service type of hubs, in the form that libmdns expects.
const SERVICE: &str = "_slm-mesh._tcp";
