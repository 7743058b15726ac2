//! Where a client runs: its machine and its ancestor processes. The kernel reports the processes of a client on this
//! machine. A client on another machine describes its origin itself.

use super::super::run_operations_on_broker_itself::CallerMachine;
use crate::base::id_types::fnv1a;
use crate::base::process_identity::Process;
use crate::sys::machine_name::{cleaned, machine_name};
use crate::sys::process;
use serde_json::{Map, Value};
use std::net::IpAddr;
use std::sync::LazyLock;

/// Maximum number of ancestor processes that are kept for a client on another machine.
const ANCESTORS_MAX: usize = 64;

/// Where a client runs.
#[derive(Debug)]
pub enum Origin {
    /// The client runs on this machine.
    Local {
        /// The process id of the client.
        pid: i64,
        /// The ancestor processes of the client; `None` until they have been read.
        ancestors: Option<Vec<Process>>,
    },
    /// The client runs on another machine, and has described its origin itself.
    Remote(RemoteOrigin),
}

/// What a client on another machine has reported about itself.
#[derive(Debug, Default)]
pub struct RemoteOrigin {
    /// The client's machine.
    pub host: String,
    /// The client's user.
    pub user: String,
    /// The id of the machine's current boot; `None` if the client did not report it.
    pub boot_id: Option<String>,
    /// The client's ancestor processes.
    ancestors: Vec<Process>,
}

impl RemoteOrigin {
    /// Parses the report of a client. Invalid parts are left out.
    pub fn parse(params: &Map<String, Value>) -> RemoteOrigin {
        let name = |field: &str| -> String {
            let text = params.get(field).and_then(Value::as_str).unwrap_or("");
            cleaned(text)
        };
        let host = name("host");
        let salt = fnv1a(&host);
        let parse = |row: &Value| {
            let agent = row[3].as_str().and_then(process::agent_program);
            let own = Process { pid: row[0].as_i64()?, start: row[1].as_u64()?, wrapper: row[2].as_bool()?, agent };
            Some(salted(own, salt))
        };
        let rows = params.get("ancestors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let ancestors = rows.iter().take(ANCESTORS_MAX).filter_map(parse).collect();
        let boot_id = params.get("boot").and_then(Value::as_str).map(cleaned);
        RemoteOrigin { user: name("user"), boot_id, ancestors, host }
    }
}

/// The salt of this machine. It is added to the start times of this machine's processes.
static OWN_SALT: LazyLock<u64> = LazyLock::new(|| fnv1a(machine_name()));

/// Adds the salt of a machine to the start time of a process, so that processes with the same id on two machines stay
/// distinct. Every hub uses the same salt for a machine, and so recognises the process again.
fn salted(process: Process, salt: u64) -> Process {
    Process { start: process.start.wrapping_add(salt), ..process }
}

/// Converts a process of this machine to the form that the mesh stores, with the salt added to the start time.
pub fn to_mesh(process: Process) -> Process {
    salted(process, *OWN_SALT)
}

/// Converts a process of this machine back to the form that the kernel reports, without the salt.
pub fn from_mesh(process: Process) -> Process {
    Process { start: process.start.wrapping_sub(*OWN_SALT), ..process }
}

/// The salt of this machine depends on its name. Returns the number to add to start times that were stored when this
/// machine had the name `former_name`.
pub fn start_shift(former_name: &str) -> u64 {
    OWN_SALT.wrapping_sub(fnv1a(former_name))
}

impl Origin {
    /// Makes the origin of a client on this machine. `pid` is the process id that the kernel has reported.
    pub fn local(pid: i64) -> Origin {
        Origin::Local { pid, ancestors: None }
    }

    /// Makes the origin of a client that runs on another machine and has not described its origin yet.
    pub fn remote(address: IpAddr) -> Origin {
        Origin::Remote(RemoteOrigin { host: address.to_string(), ..RemoteOrigin::default() })
    }

    /// Returns where the client runs: on this machine or on another machine.
    pub fn machine(&self) -> CallerMachine {
        match self {
            Origin::Local { .. } => CallerMachine::Local,
            Origin::Remote(_) => CallerMachine::Remote,
        }
    }

    /// Returns the process of the client; `None` if the client is on another machine.
    pub fn process(&self) -> Option<Process> {
        match self {
            Origin::Local { pid, .. } => process::identify(*pid).map(to_mesh),
            Origin::Remote(_) => None,
        }
    }

    /// Returns the ancestor processes of the client, nearest first. The process tree is read only once.
    pub fn ancestors(&mut self) -> &[Process] {
        match self {
            Origin::Remote(remote) => &remote.ancestors,
            Origin::Local { pid, ancestors } => {
                ancestors.get_or_insert_with(|| process::ancestors(*pid).into_iter().map(to_mesh).collect())
            }
        }
    }
}
