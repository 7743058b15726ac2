//! The settings that a mesh gets when it opens.

use crate::base::limits;

/// The name that this machine had before.
#[derive(Debug, Clone)]
pub struct FormerHost {
    /// The name.
    pub name: String,
    /// What must be added to the stored start time of a process of this machine. The stored number depends on the
    /// machine's name.
    pub start_shift: u64,
}

/// The settings of a mesh.
#[derive(Debug, Clone)]
pub struct MeshSettings {
    /// How long an HTTP peer may go without a heartbeat before it counts as stale, in ms.
    pub stale_ms: i64,
    /// How long an HTTP peer may go without a heartbeat before it counts as gone, in ms.
    pub dead_ms: i64,
    /// How long a lock lasts if the caller gives no duration, in minutes.
    pub lock_ttl_min: i64,
    /// How many messages one sender may send within `limits::RATE_WINDOW_MS`.
    pub rate_max: u32,
    /// The name of this machine.
    pub host: String,
    /// The id of this machine's current boot; `None` on a system without such ids.
    pub boot_id: Option<String>,
    /// The name that this machine had when the mesh was last opened here, if that was a different name.
    pub former_host: Option<FormerHost>,
    /// The name of the user who owns the mesh. The peer that stands for this person has the same name.
    pub user: String,
    /// The version of this program.
    pub version: String,
    /// The process id of the broker.
    pub pid: u32,
    /// The HTTP port of the broker.
    pub port: u16,
    /// The address and the port at which other machines reach the broker; `None` if it serves only this machine.
    pub serves: Option<String>,
    /// The addresses of the linked meshes, which this mesh polls.
    pub links: Vec<String>,
}

impl Default for MeshSettings {
    /// The default values. The names of the machine and the user are placeholders.
    fn default() -> MeshSettings {
        MeshSettings {
            stale_ms: 30_000,
            dead_ms: 60_000,
            lock_ttl_min: 10,
            rate_max: limits::RATE_MAX,
            host: "here".into(),
            boot_id: None,
            former_host: None,
            user: "ada".into(),
            version: "0".into(),
            pid: 1,
            port: 1,
            serves: None,
            links: Vec::new(),
        }
    }
}
