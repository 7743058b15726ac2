//! The settings of a hub that shares a log with other hubs.

use crate::base::error::{Error, ErrorKind};
use crate::replication::ReplicatedLog;
use crate::replication::etcd::{EtcdAddress, EtcdLog, EtcdSettings, EtcdTls, EtcdUser};
use crate::sys;
use crate::sys::local_or_hub_endpoint::{links, with_port};
use crate::sys::settings::{SECRET, STORE, STORE_PASSWORD, Settings};
use std::net::UdpSocket;
use std::path::Path;

/// How this hub reaches the log, and how other machines reach this hub.
#[derive(Clone)]
pub struct HubConfig {
    etcd: EtcdSettings,
    /// The host and the port to which other hubs and guests (machines that use this hub) connect. The address is also
    /// the hub's name.
    pub address: String,
    /// The secret that hubs and guests share.
    pub secret: String,
}

impl HubConfig {
    /// Reads the settings. Returns `None` if they configure no shared log. The hub listens for other machines on the
    /// address `bind` and the port `port`.
    ///
    /// # Errors
    /// When a setting is wrong, or when two settings exclude each other.
    pub fn find(settings: &Settings, bind: Option<&str>, port: u16) -> Result<Option<HubConfig>, Error> {
        let store = settings.text(STORE);
        if store.is_empty() {
            return Ok(None);
        }
        let wrong = |why: String| Error::new(ErrorKind::Usage, format!("{STORE}: {why}"));
        let Some(bind) = bind else {
            let text = "a hub must be reachable from other machines; set SLM_MESH_HOST to an address of this machine \
                        that they can reach, such as 0.0.0.0";
            return Err(wrong(text.into()));
        };
        if !links(settings)?.is_empty() {
            let text = "a mesh with several hubs cannot be linked to other meshes yet; remove SLM_MESH_PEER_URL";
            return Err(wrong(text.into()));
        }
        let address = EtcdAddress::parse(store).map_err(wrong)?;
        let tls = match settings.text("SLM_MESH_STORE_CA") {
            "" => None,
            authority => Some(EtcdTls::read(Path::new(authority), client_files(settings)?).map_err(wrong)?),
        };
        let name = settings.text("SLM_MESH_STORE_USER").to_owned();
        let user = (!name.is_empty()).then(|| EtcdUser { name, password: settings.text(STORE_PASSWORD).to_owned() });
        let lease_seconds = settings.int("SLM_MESH_LEASE") as u64;
        let etcd = EtcdSettings { address, tls, user, lease_seconds };
        // This reports an unusable certificate now, not later when the hub first needs etcd.
        EtcdLog::new(etcd.clone()).map_err(wrong)?;
        let is_any = ["0.0.0.0", "::"].contains(&bind);
        let host = if is_any { own_address_towards(&etcd.address.members[0]) } else { bind.to_owned() };
        let address = with_port(&host, port);
        Ok(Some(HubConfig { etcd, address, secret: settings.text(SECRET).to_owned() }))
    }

    /// Creates an etcd client for the log of this mesh.
    ///
    /// # Errors
    /// When a certificate can't be used.
    pub fn open_log(&self) -> Result<EtcdLog, Error> {
        EtcdLog::new(self.etcd.clone()).map_err(|why| Error::new(ErrorKind::Usage, format!("{STORE}: {why}")))
    }

    /// Checks that etcd has no log under this name, so that this hub can begin a log. If etcd already had a log,
    /// `--new-log` would detach the database from its old log without starting a new one.
    ///
    /// # Errors
    /// When etcd has a log, or does not answer.
    pub fn check_log_is_gone(&self) -> Result<(), Error> {
        let prefix = &self.etcd.address.prefix;
        match self.open_log()?.last() {
            Ok(None) => Ok(()),
            Ok(Some((last, _))) => Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "start --new-log: nothing was changed, because etcd already has a log under the name in \
                     SLM_MESH_STORE, and that log ends at entry {}. To use that log, run slm-mesh start without \
                     --new-log. To replace that log with the mesh of this hub, stop all hubs, remove the log from \
                     etcd (etcdctl del --prefix {prefix}), and then run slm-mesh start --new-log on this hub again",
                    last.0
                ),
            )),
            Err(error) => Err(Error::new(
                ErrorKind::Gone,
                format!(
                    "start --new-log: nothing was changed, because etcd did not say whether it has a log under the \
                     name in SLM_MESH_STORE: {error}"
                ),
            )),
        }
    }

    /// Checks that another hub leads. This hub's database is set aside only after this check, because only a leader can
    /// send a copy of its database as a replacement.
    ///
    /// # Errors
    /// When etcd has a log but no other hub leads, or when etcd does not answer.
    pub fn check_hub_leads(&self) -> Result<(), Error> {
        let prefix = &self.etcd.address.prefix;
        let mut log = self.open_log()?;
        // If there is no log, this hub can wait until another hub begins one. After a crash of this hub, etcd lists
        // this hub as the leader until the lease ends. So a leader with this hub's own address does not count as
        // another hub.
        let is_other = |leader: String| leader != self.address;
        let found = log.last().and_then(|last| Ok(last.is_none() || log.leader()?.is_some_and(is_other)));
        match found {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "start --rejoin: nothing was changed, because no other hub leads the mesh in etcd, and only the \
                     leader can send its database to this hub. Start another hub first. If every hub refuses the log \
                     because etcd was restored from a backup, stop all hubs, remove the log from etcd (etcdctl del \
                     --prefix {prefix}), run slm-mesh start --new-log on the hub whose database is at the highest \
                     entry, and then run slm-mesh start --rejoin on the others"
                ),
            )),
            Err(error) => Err(Error::new(
                ErrorKind::Gone,
                format!(
                    "start --rejoin: nothing was changed, because etcd did not say which hub is the leader: {error}"
                ),
            )),
        }
    }

    /// How long a leader may be silent before another hub takes over, in ms.
    pub fn lease_ms(&self) -> i64 {
        self.etcd.lease_seconds as i64 * 1000
    }
}

/// Returns the IP address that this machine uses to reach an etcd member. If this address is unknown or a loopback
/// address, returns the machine's name instead.
fn own_address_towards(member: &str) -> String {
    let place = member.split_once("://").map_or(member, |(_, place)| place);
    // Connecting a UDP socket sends nothing. It only makes the system choose an address of this machine.
    let chosen = ["0.0.0.0:0", "[::]:0"].iter().find_map(|any| {
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(place).ok()?;
        socket.local_addr().ok()
    });
    chosen.map(|address| address.ip()).filter(|ip| !ip.is_loopback()).map_or_else(sys::host, |ip| ip.to_string())
}

/// Returns the paths of the client certificate and its key, if both are set.
fn client_files(settings: &Settings) -> Result<Option<(&Path, &Path)>, Error> {
    match (settings.text("SLM_MESH_STORE_CERT"), settings.text("SLM_MESH_STORE_KEY")) {
        ("", "") => Ok(None),
        (certificate, key) if !certificate.is_empty() && !key.is_empty() => {
            Ok(Some((Path::new(certificate), Path::new(key))))
        }
        _ => {
            let text = "SLM_MESH_STORE_CERT and SLM_MESH_STORE_KEY belong together; set both or neither";
            Err(Error::new(ErrorKind::Usage, text))
        }
    }
}
