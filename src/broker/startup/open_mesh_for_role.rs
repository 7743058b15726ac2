//! Opens the mesh: from its database, or as an empty mesh for a hub on standby.

use super::database;
use super::tcp_listeners::{moved_port_warning, wake_loop};
use crate::base::error::{Error, ErrorKind};
use crate::base::process_identity::Process;
use crate::broker::clients::client_machine_and_ancestors::{from_mesh, start_shift, to_mesh};
use crate::broker::leadership::{BrokerRole, HubConfig, HubDatabase, Leader, Leading, StandbyThread};
use crate::broker::links_to_other_meshes::MeshLinks;
use crate::broker::log;
use crate::core::{FormerHost, Mesh, MeshSettings};
use crate::replication::etcd::EtcdLog;
use crate::store::Store;
use crate::sys::data_dir::DataDir;
use crate::sys::local_or_hub_endpoint::links;
use crate::sys::machine_name::machine_name;
use crate::sys::settings::{SECRET, STORE, Settings};
use crate::sys::{self, Clock, find_set_aside_databases};
use mio::Waker;
use std::sync::Arc;

/// Opens the mesh when the broker starts, and again when the broker's role changes.
pub struct MeshOpener {
    pub(super) places: DataDir,
    pub(super) settings: Settings,
    pub(super) mesh_settings: MeshSettings,
    pub(super) hub: Option<HubConfig>,
    pub(super) waker: Arc<Waker>,
}

impl MeshOpener {
    /// Returns the mesh, the clock and the role with which a broker starts. A hub that shares a log starts on standby.
    pub(super) fn open_first(&self) -> Result<(Mesh, Clock, BrokerRole), Error> {
        if self.hub.is_some() {
            let clock = Clock::start(0);
            return Ok((self.open_empty(&clock)?, clock, self.stand_by()?));
        }
        let (mut store, clock) = database::open_with_clock(&self.places, &self.settings)?;
        leave_shared_log(&mut store)?;
        let mesh = self.open(store, &clock)?;
        Ok((mesh, clock, BrokerRole::Alone))
    }

    /// Opens the mesh in a store. If the store can't be used, checks the database file, and replaces a damaged file
    /// with a new one. On a hub that shares a log, this function fails instead, and the next broker checks the file.
    ///
    /// # Errors
    /// When the store can't be read or written.
    pub fn open(&self, store: Store, clock: &Clock) -> Result<Mesh, Error> {
        let settings = MeshSettings { former_host: self.former_host(), ..self.mesh_settings.clone() };
        let open = |store| Mesh::open(store, settings.clone(), Box::new(sys::random_u128), clock.now());
        let mut mesh = match open(store) {
            Err(error) if error.kind.is_storage() => {
                database::mark_suspect(&self.places);
                if self.hub.is_some() {
                    return Err(error);
                }
                open(database::open(&self.places, &self.settings)?)?
            }
            result => result?,
        };
        // Without a log, the changes that were made while the mesh was opened are already committed.
        if self.hub.is_none() {
            self.save_host();
        }
        mesh.set_downtimes(database::downtimes(&self.places));
        mesh.set_process_probe(Box::new(sys::process::is_in_use));
        let places = self.places.clone();
        mesh.set_damage_report(Box::new(move |since| {
            find_set_aside_databases::last_damaged(&places, since).map(|one| one.report)
        }));
        let agent_above = |pid| sys::process::agent_of_server(pid).map(to_mesh);
        mesh.expect_servers(agent_above, |kind| sys::process::agent_program(kind).is_some());
        let is_alive = |process: Process| sys::process::is_alive(process.pid, process.start);
        mesh.forget_dead_processes(|process| is_alive(from_mesh(*process)), clock.now());
        Ok(mesh)
    }

    /// Returns the name that this machine had when the mesh was last opened here; `None` if the name has not changed
    /// since.
    fn former_host(&self) -> Option<FormerHost> {
        let saved = self.places.read(&self.places.machine()).map(|text| text.trim().to_owned());
        // Versions before 2.0.0 used the host name, and did not save it.
        let name = saved.filter(|name| !name.is_empty()).unwrap_or_else(sys::host);
        let start_shift = start_shift(&name);
        (name != self.mesh_settings.host).then_some(FormerHost { name, start_shift })
    }

    /// Saves the name of this machine, so that the next broker notices a new name. Opening the mesh can cause changes.
    /// The name must be saved only after these changes are committed.
    pub fn save_host(&self) {
        let (path, line) = (self.places.machine(), format!("{}\n", self.mesh_settings.host));
        if self.places.read(&path).as_ref() != Some(&line)
            && let Err(error) = self.places.write(&path, &line)
        {
            log(&format!(
                "{error}; if this machine is renamed later, its peers will still be listed under the former \
                          name of the machine"
            ));
        }
    }

    /// Opens an empty mesh in memory, for a hub on standby.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn open_empty(&self, clock: &Clock) -> Result<Mesh, Error> {
        let settings = MeshSettings { links: Vec::new(), ..self.mesh_settings.clone() };
        Mesh::open(Store::memory()?, settings, Box::new(sys::random_u128), clock.now())
    }

    /// Starts the thread that follows the log.
    ///
    /// # Errors
    /// When the database can't be opened, or no thread can be started.
    pub fn stand_by(&self) -> Result<BrokerRole, Error> {
        let Some(config) = &self.hub else {
            return Err(Error::new(ErrorKind::Internal, "a broker without a log in etcd can't be a standby"));
        };
        let (store, clock) = database::open_with_clock(&self.places, &self.settings)?;
        let (places, settings) = (self.places.clone(), self.settings.clone());
        let reopen = Box::new(move || database::open(&places, &settings));
        let database = HubDatabase { places: self.places.clone(), store, clock, reopen };
        let thread = StandbyThread::start(config.clone(), config.open_log()?, database, wake_loop(&self.waker));
        thread.map(BrokerRole::StandsBy).map_err(|error| {
            Error::new(ErrorKind::Internal, format!("the thread that follows the log can't be started ({error})"))
        })
    }

    /// Returns the role of a hub that has just begun to lead.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn lead(&self, leader: Leader<EtcdLog>, mesh: &mut Mesh, now: i64) -> Result<BrokerRole, Error> {
        let Some(config) = &self.hub else { return Ok(BrokerRole::Alone) };
        let begun = (mesh.former_logs()?, now);
        let leading = Leading::begin(leader, config, &self.places.dir, begun, wake_loop(&self.waker));
        mesh.set_hub_status(leading.describe());
        Ok(BrokerRole::Leads(Box::new(leading)))
    }

    /// Starts the links to other meshes. A hub on standby has no links.
    pub fn links(&self, mesh: &Mesh) -> MeshLinks {
        MeshLinks::open(&mesh.settings().links, self.settings.text(SECRET), wake_loop(&self.waker).into())
    }
}

/// Detaches a database from a shared log, so that this broker has a mesh of its own. The log will not contain the
/// changes that this broker stores. If the hub followed the log again later, these changes would be mixed into the
/// shared mesh, or lost without a warning.
fn leave_shared_log(store: &mut Store) -> Result<(), Error> {
    let position = store.log_position()?;
    if position.is_some() || store.joins_log()? {
        store.leave_log()?;
    }
    let Some(position) = position else { return Ok(()) };
    // Other hubs may have used higher numbers, so new numbers start at the current time.
    store.raise(sys::wall_ms())?;
    log(&format!(
        "{STORE} is not set, so this hub stopped following the log of its mesh after entry {}, and now has a mesh of \
         its own; to return to the shared mesh, set {STORE} and run slm-mesh start --rejoin (see slm-mesh help \
         machines)",
        position.index
    ));
    Ok(())
}

/// Returns the settings of the mesh. `port` is the HTTP port, and `serves` is the address for other machines.
///
/// # Errors
/// When the address of a linked mesh is wrong.
pub(super) fn mesh_settings(
    settings: &Settings,
    port: Option<u16>,
    serves: Option<String>,
) -> Result<MeshSettings, Error> {
    Ok(MeshSettings {
        stale_ms: settings.int("SLM_MESH_STALE_MS"),
        dead_ms: settings.int("SLM_MESH_DEAD_MS"),
        lock_ttl_min: settings.int("SLM_MESH_LOCK_TTL_MIN"),
        rate_max: settings.int("SLM_MESH_RATE") as u32,
        host: machine_name().to_owned(),
        boot_id: sys::boot_id(),
        former_host: None,
        user: sys::user(),
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        port: port.unwrap_or(0),
        moved_port: serves.as_deref().and_then(|at| moved_port_warning(settings, at.rsplit(':').next()?.parse().ok()?)),
        serves,
        links: links(settings)?,
    })
}
