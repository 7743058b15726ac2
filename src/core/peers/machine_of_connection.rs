//! The machines from which connections come. The person at each machine has a peer. Agents can send messages to this
//! peer.
//!
//! **Invariant:** all open connections with the same machine name come from the same machine. If two machines had the
//! same name, equal paths and process ids on these machines would count as the same file and the same process.

use super::Peers;
use super::name_lookup::HUMAN_AT;
use crate::base::domain_enums::PeerKind;
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::PeerId;
use crate::base::process_identity::Process;
use crate::core::mesh_opening_parameters::FormerHost;
use crate::core::transaction_and_pending_effects::Turn;
use crate::core::{ConnId, Mesh};
use crate::store::PeerRow;

/// A remote machine from which a connection comes.
#[derive(Debug, Clone)]
pub(super) struct RemoteMachine {
    /// The name of the machine.
    pub(super) host: String,
    /// The id of the machine's current boot, if the client has reported it.
    boot_id: Option<String>,
    /// The peer that stands for the person at that machine.
    pub(super) human: PeerId,
}

impl Mesh {
    /// Records that a connection comes from another machine. The person at that machine gets a separate peer.
    ///
    /// # Errors
    /// When `host` or `user` is empty, when another machine has this name, or when the database can't be written.
    pub fn set_origin(
        &mut self,
        conn: ConnId,
        host: &str,
        user: &str,
        boot_id: Option<&str>,
        now: i64,
    ) -> Result<(), Error> {
        if host.is_empty() || user.is_empty() {
            return Err(Error::usage("origin", "expected the fields `host` and `user`"));
        }
        self.peers.refuse_same_name(host, boot_id)?;
        let is_here = host == self.settings.host && user == self.settings.user;
        let name = if is_here { user.to_owned() } else { format!("{user}@{host}") };
        let known = if is_here { Some(self.peers.human.clone()) } else { self.peers.human_of(host, user) };
        let human = match known {
            Some(id) => id,
            None => self.in_savepoint(|mesh| {
                let Mesh { turn, peers, mail, locks, .. } = mesh;
                peers.make_room(turn, mail, locks, now)?;
                peers.add_human(turn, name, host.to_owned(), now)
            })?,
        };
        if let Some(one) = self.peers.attachments.get_mut(conn) {
            one.remote = Some(RemoteMachine { host: host.to_owned(), boot_id: boot_id.map(str::to_owned), human });
        }
        Ok(())
    }
}

/// Whether a peer of this mesh is on a machine with this name.
pub(in crate::core) fn is_machine_known(turn: &Turn, host: &str) -> Result<bool, Error> {
    Ok(turn.store.peers()?.iter().any(|row| row.host == host && !row.is_linked()))
}

/// Stores the new name of this machine in the rows of all peers on this machine.
pub(in crate::core) fn rename_machine(turn: &mut Turn, former: &FormerHost, host: &str) -> Result<(), Error> {
    let suffix = format!("{HUMAN_AT}{}", former.name);
    let is_here = |row: &PeerRow| row.host == former.name && !row.is_linked();
    let peers: Vec<PeerRow> = turn.store.peers()?.into_iter().filter(is_here).collect();
    turn.store.rename_host_of_peers(&former.name, host)?;
    for mut row in peers {
        let owner = row.name.strip_suffix(&suffix).filter(|_| row.kind == PeerKind::Human).map(str::to_owned);
        if row.process.is_none() && owner.is_none() {
            continue;
        }
        host.clone_into(&mut row.host);
        row.process = row.process.map(|known| {
            let start = known.start.wrapping_add(former.start_shift);
            Process { start, ..known }
        });
        if let Some(owner) = owner {
            row.name = format!("{owner}{HUMAN_AT}{host}");
        }
        turn.store.put_peer(&row)?;
    }
    Ok(())
}

impl Peers {
    /// The name of the machine from which a connection comes.
    pub(in crate::core) fn host_of(&self, conn: ConnId) -> String {
        let remote = self.attachments.get(conn).and_then(|one| one.remote.as_ref());
        remote.map_or(&self.settings.host, |origin| &origin.host).clone()
    }

    /// Whether a connection comes from another machine.
    pub(in crate::core) fn is_remote(&self, conn: ConnId) -> bool {
        self.attachments.get(conn).is_some_and(|one| one.remote.is_some())
    }

    /// Returns the peer that stands for the person at the machine from which a connection comes.
    pub(super) fn human_at(&self, conn: ConnId) -> PeerId {
        self.attachments.get(conn).and_then(|one| one.remote.as_ref()).map_or(&self.human, |at| &at.human).clone()
    }

    /// Returns an error if another machine has the same name as the machine from which a connection comes.
    fn refuse_same_name(&self, host: &str, boot_id: Option<&str>) -> Result<(), Error> {
        let Some(boot_id) = boot_id else { return Ok(()) };
        let own = Some((&self.settings.host, self.settings.boot_id.as_deref()));
        // Connections that no longer answer do not count. They may come from a machine that has lost power and has
        // restarted.
        let remotes = self.attachments.iter().filter(|(_, one)| !one.unresponsive);
        let remotes = remotes.filter_map(|(_, one)| one.remote.as_ref());
        let mut machines = own.into_iter().chain(remotes.map(|origin| (&origin.host, origin.boot_id.as_deref())));
        if machines.any(|(name, known)| name == host && known.is_some_and(|known| known != boot_id)) {
            let text = format!(
                "another machine of this mesh is also called {host}; give this machine a name of its own: set \
                 SLM_MESH_MACHINE=NAME in the config file of its data directory, and start its sessions again (if this \
                 machine has just been restarted, try again in a minute)"
            );
            return Err(Error::new(ErrorKind::Refused, text));
        }
        Ok(())
    }
}
