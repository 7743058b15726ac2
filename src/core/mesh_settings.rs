//! The settings that a mesh gets when it opens.

use crate::base::limits;

/// The settings of a mesh.
#[derive(Debug, Clone)]
pub struct MeshSettings {
    /// An HTTP peer is stale after this long without a heartbeat, in ms.
    pub stale_ms: i64,
    /// An HTTP peer is gone after this long without a heartbeat, in ms.
    pub dead_ms: i64,
    /// How long a lock lasts if the caller gives no duration, minutes.
    pub lock_ttl_min: i64,
    /// Messages that one sender may send in `limits::RATE_WINDOW_MS`.
    pub rate_max: u32,
    /// This machine's name.
    pub host: String,
    /// The user who owns the mesh. The human peer has this name.
    pub user: String,
    /// This program's version.
    pub version: String,
    /// The broker's process id.
    pub pid: u32,
    /// The broker's HTTP port.
    pub port: u16,
    /// Addresses of other meshes to poll.
    pub links: Vec<String>,
}

impl Default for MeshSettings {
    /// The default values, with placeholders for the machine and the user.
    fn default() -> MeshSettings {
        MeshSettings {
            stale_ms: 30_000,
            dead_ms: 60_000,
            lock_ttl_min: 10,
            rate_max: limits::RATE_MAX,
            host: "here".into(),
            user: "ada".into(),
            version: "0".into(),
            pid: 1,
            port: 1,
            links: Vec::new(),
        }
    }
}
