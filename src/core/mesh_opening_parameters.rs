//! The settings with which a mesh is opened.

use crate::base::limits;

/// The former name of this machine.
#[derive(Debug, Clone)]
pub struct FormerHost {
    /// The name.
    pub name: String,
    /// The number to add to the stored start time of each process of this machine. The stored start time depends on the
    /// machine's name.
    pub start_shift: u64,
}

/// The settings of a mesh.
#[derive(Debug, Clone)]
pub struct MeshSettings {
    /// An HTTP peer counts as stale if it has sent no heartbeat for this long, in ms.
    pub stale_ms: i64,
    /// An HTTP peer counts as gone if it has sent no heartbeat for this long, in ms.
    pub dead_ms: i64,
    /// How long a lock lasts if the caller specifies no duration, in minutes.
    pub lock_ttl_min: i64,
    /// Maximum number of messages that one sender may send within `limits::RATE_WINDOW_MS`.
    pub rate_max: u32,
    /// The name of this machine.
    pub host: String,
    /// The id of this machine's current boot; `None` on a system without such ids.
    pub boot_id: Option<String>,
    /// The former name of this machine, if the machine was renamed after the mesh was last opened here.
    pub former_host: Option<FormerHost>,
    /// The name of the user who owns the mesh. The peer that stands for this person has the same name.
    pub user: String,
    /// The version of this program.
    pub version: String,
    /// The process id of the broker.
    pub pid: u32,
    /// The HTTP port of the broker.
    pub port: u16,
    /// The address and port at which other machines reach the broker; `None` if the broker serves only this machine.
    pub serves: Option<String>,
    /// A warning that other machines do not find the broker on its usual port; `None` if they do.
    pub moved_port: Option<String>,
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
            moved_port: None,
            links: Vec::new(),
        }
    }
}
