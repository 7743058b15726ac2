//! Connections come, go, fall silent and answer again; the peers they speak for are online or offline
//! with them.

use super::sessions::{Attachment, leave};
use super::{Peer, Peers};
use crate::base::error::Error;
use crate::base::ids::PeerId;
use crate::base::kinds::PeerKind;
use crate::base::process::Process;
use crate::core::journal::{Change, Journal};
use crate::core::locks::Locks;
use crate::core::turn::{Effect, Turn};
use crate::core::{CallContext, ConnId, Mesh};
use crate::store::PeerRow;
use std::collections::HashMap;

/// Another machine, from which a connection comes.
#[derive(Debug, Clone)]
pub(super) struct RemoteMachine {
    /// Its name.
    pub(super) host: String,
    /// The human there.
    pub(super) human: PeerId,
}

impl Mesh {
    /// A connection is open; it speaks for nobody yet.
    pub fn on_connected(&mut self, conn: ConnId) {
        self.peers.attachments.insert(conn, Attachment::default());
    }

    /// A connection comes from another machine. The human there is a peer of its own.
    ///
    /// # Errors
    /// When host or user is empty, or the disk refuses.
    pub fn set_origin(&mut self, conn: ConnId, host: &str, user: &str, now: i64) -> Result<(), Error> {
        if host.is_empty() || user.is_empty() {
            return Err(Error::usage("origin", "want host and user"));
        }
        let is_here = host == self.settings.host && user == self.settings.user;
        let name = if is_here { user.to_owned() } else { format!("{user}@{host}") };
        let is_it = |peer: &&Peer| {
            peer.row.kind == PeerKind::Human && (peer.row.name == name || is_here && peer.row.id == self.peers.human)
        };
        let known = self.peers.peers.iter().find(is_it).map(|peer| peer.row.id.clone());
        let human = match known {
            Some(id) => id,
            None => self.in_savepoint(|mesh| {
                let Mesh { turn, peers, mail, locks, .. } = mesh;
                peers.make_room(turn, mail, locks, now)?;
                peers.add_human(turn, name, host.to_owned(), now)
            })?,
        };
        if let Some(one) = self.peers.attachments.get_mut(&conn) {
            one.remote = Some(RemoteMachine { host: host.to_owned(), human });
        }
        Ok(())
    }

    /// A connection is gone. Other peers learn of it now; its locks wait for a short grace.
    pub fn on_disconnected(&mut self, conn: ConnId, now: i64) {
        self.waiting.extract(|call| call.ctx.conn == conn);
        // A hook that went without saying that it showed its mail leaves the mail to the next hook.
        self.mail.forget_deliveries_to(conn);
        self.journal.unsubscribe(conn);
        let left = self.in_savepoint(|mesh| leave(mesh, conn, "disconnected", now));
        // Memory decides who is online; on a failing disk the row stays as it was.
        self.turn.log_error(left);
        self.peers.attachments.remove(&conn);
        self.resume_waiting(now);
    }

    /// A connection does not answer, or answers again.
    pub fn set_unresponsive(&mut self, conn: ConnId, unresponsive: bool, now: i64) {
        let attached = self.peers.attachments.get_mut(&conn);
        let Some(one) = attached.filter(|one| one.unresponsive != unresponsive) else { return };
        one.unresponsive = unresponsive;
        for id in one.peers.clone() {
            let result = self.in_savepoint(|mesh| {
                let Mesh { turn, peers, journal, .. } = mesh;
                if let Some(peer) = peers.get_mut(&id) {
                    peer.is_silent = unresponsive;
                }
                if unresponsive {
                    peers.remove_connection(turn, journal, &id, "not_answering", now)
                } else {
                    peers.add_connection(turn, journal, &id, now)
                }
            });
            self.turn.log_error(result);
        }
        self.resume_waiting(now);
    }
}

impl Mesh {
    /// An agent process has ended: its sessions are gone, even if another process still holds their
    /// connections open.
    pub fn on_process_exit(&mut self, process: &Process, now: i64) {
        let run_by: Vec<PeerId> =
            self.peers.peers.iter().filter(|peer| peer.is_run_by(process)).map(|peer| peer.row.id.clone()).collect();
        let is_below = |one: &Attachment| one.agent.is_some_and(|agent| agent.is_same(process));
        let conns: Vec<ConnId> =
            self.peers.attachments.iter().filter(|(_, one)| is_below(one)).map(|(conn, _)| *conn).collect();
        let ended = self.in_savepoint(|mesh| {
            for id in &run_by {
                mesh.peers.forget_process(&mut mesh.turn, id)?;
            }
            for conn in conns {
                leave(mesh, conn, PROCESS_EXIT, now)?;
            }
            let Mesh { turn, peers, journal, .. } = mesh;
            run_by.iter().try_for_each(|id| peers.go_offline(turn, journal, id, PROCESS_EXIT, now))
        });
        self.turn.log_error(ended);
        self.resume_waiting(now);
    }

    /// The kernel can't report the end of this process: its sessions are online only while they are connected.
    pub fn on_unwatched_process(&mut self, process: &Process, now: i64) {
        let mut run_by: Vec<PeerId> = Vec::new();
        for peer in self.peers.peers.iter_mut().filter(|peer| peer.is_run_by(process)) {
            peer.is_watched = false;
            run_by.push(peer.row.id.clone());
        }
        let left = self.in_savepoint(|mesh| {
            let Mesh { turn, peers, journal, .. } = mesh;
            run_by.iter().try_for_each(|id| peers.go_offline(turn, journal, id, "not_watched", now))
        });
        self.turn.log_error(left);
    }
}

/// The reason of a session whose agent process has ended.
const PROCESS_EXIT: &str = "process_exit";

impl Peers {
    /// Notes the agent process that the transport proved to stand above a connection.
    pub(in crate::core) fn set_agent_process(&mut self, conn: ConnId, ancestors: &[Process]) {
        if let Some(one) = self.attachments.get_mut(&conn) {
            one.agent = ancestors.iter().find(|process| !process.wrapper).copied();
        }
    }

    /// Whether a connection with this number is open.
    pub(in crate::core) fn is_connected(&self, conn: ConnId) -> bool {
        self.attachments.contains_key(&conn)
    }

    /// How many connections are open.
    pub(in crate::core) fn connection_count(&self) -> usize {
        self.attachments.len()
    }

    /// The peers for which a connection speaks.
    pub(in crate::core) fn attached_to(&self, conn: ConnId) -> &[PeerId] {
        self.attachments.get(&conn).map(|one| one.peers.as_slice()).unwrap_or_default()
    }

    /// The machine from which a connection comes.
    pub(in crate::core) fn host_of(&self, conn: ConnId) -> String {
        let remote = self.attachments.get(&conn).and_then(|one| one.remote.as_ref());
        remote.map_or(&self.settings.host, |origin| &origin.host).clone()
    }

    /// The connections that speak for each of some peers. One look through all connections serves all
    /// recipients: a look for each would be a tenth of the cost of a broadcast to a hundred.
    pub(in crate::core) fn connections_of(&self, ids: &[PeerId]) -> Vec<Vec<ConnId>> {
        let places: HashMap<&str, usize> = ids.iter().enumerate().map(|(n, id)| (id.as_str(), n)).collect();
        let mut found = vec![Vec::new(); ids.len()];
        for (conn, one) in &self.attachments {
            for n in one.peers.iter().filter_map(|id| places.get(id.as_str())) {
                found[*n].push(*conn);
            }
        }
        found
    }

    /// A connection begins to speak for a peer; with the first one the peer comes online.
    pub(super) fn add_connection(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        id: &str,
        now: i64,
    ) -> Result<(), Error> {
        let Some(peer) = self.get_mut(id) else { return Ok(()) };
        peer.connections += 1;
        peer.is_silent = false;
        self.come_online(turn, journal, id, now)
    }

    fn come_online(&mut self, turn: &mut Turn, journal: &Journal, id: &str, now: i64) -> Result<(), Error> {
        let Some(peer) = self.get_mut(id) else { return Ok(()) };
        (peer.offline_since, peer.unconfirmed) = (None, false);
        peer.last_active = now;
        let joins = !peer.row.online;
        peer.row.online = true;
        peer.row.last_seen = now;
        let row = peer.row.clone();
        turn.store.put_peer(&row)?;
        // A lock that ended while the peer was offline may be granted to it now.
        turn.dirty.locks = true;
        if !joins {
            return Ok(());
        }
        self.record(turn, journal, &Change::PeerJoined(&row), id, now)
    }

    /// Something speaks for a session, so it is here, or here again.
    pub(in crate::core) fn note_return(&mut self, id: &str) {
        if let Some(peer) = self.get_mut(id) {
            peer.has_left = false;
        }
    }

    /// Notes the agent process that a hook or a verb of a session comes from, by the kernel's record. From then
    /// on the session is online while that process lives, if the process is known to be an agent's: by its
    /// program, or since a second hook came from it. A process that only starts one hook tells nothing.
    pub(in crate::core) fn note_process(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        id: &str,
        process: Option<&Process>,
        call: &CallContext,
    ) -> Result<(), Error> {
        let is_remote = self.attachments.get(&call.conn).is_some_and(|one| one.remote.is_some());
        let (Some(process), Some(peer)) = (process, self.get_mut(id)) else { return Ok(()) };
        let is_known = peer.is_run_by(process);
        let is_agent = process.agent.is_some() || is_known;
        peer.is_silent = false;
        if peer.is_watched && (is_known || !is_agent) {
            return Ok(());
        }
        peer.row.process = Some(*process);
        // The kernel of another machine reports nothing here.
        if is_remote || !is_agent {
            let row = peer.row.clone();
            return if is_known { Ok(()) } else { Ok(turn.store.put_peer(&row)?) };
        }
        peer.is_watched = true;
        turn.push(Effect::WatchProcess(*process));
        self.come_online(turn, journal, id, call.now)
    }

    /// A connection no longer speaks for a peer; without any connection the peer is offline.
    pub(super) fn remove_connection(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        id: &str,
        reason: &str,
        now: i64,
    ) -> Result<(), Error> {
        let Some(peer) = self.get_mut(id) else { return Ok(()) };
        peer.connections = peer.connections.saturating_sub(1);
        self.go_offline(turn, journal, id, reason, now)
    }

    /// A peer is offline, unless something still shows that it is there.
    fn go_offline(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        id: &str,
        reason: &str,
        now: i64,
    ) -> Result<(), Error> {
        let Some(peer) = self.get_mut(id).filter(|peer| !peer.is_online() && peer.row.online) else { return Ok(()) };
        (peer.offline_since, peer.has_left) = (Some(now), true);
        peer.row.online = false;
        peer.row.last_seen = now;
        let row = peer.row.clone();
        turn.store.put_peer(&row)?;
        self.record(turn, journal, &Change::PeerLeft { row: &row, named: true, reason }, id, now)
    }

    /// What a session is to be told once; from then on it has been told.
    pub(in crate::core) fn take_notice(&mut self, id: &str) -> Option<String> {
        self.get_mut(id).and_then(|peer| peer.takeover_notice.take())
    }

    /// Notes that a session's turn is running, as of now, or that it has ended.
    pub(in crate::core) fn set_turn_active(&mut self, turn: &mut Turn, id: &PeerId, at: Option<i64>) {
        if let Some(peer) = self.get_mut(id) {
            peer.turn_active_at = at;
        }
        if at.is_none() {
            // A call that waits to wake this session may look again.
            turn.dirty.mail.insert(id.clone());
        }
    }

    /// Forgets the agent process of a session that ended: its name and its mailbox are free for the next
    /// session in this place.
    pub(in crate::core) fn forget_process(&mut self, turn: &mut Turn, id: &str) -> Result<(), Error> {
        let Some(peer) = self.get_mut(id).filter(|peer| peer.row.process.is_some()) else { return Ok(()) };
        (peer.row.process, peer.is_watched) = (None, false);
        Ok(turn.store.put_peer(&peer.row)?)
    }

    /// The agent said that a session ends. Its process may go on with another one.
    pub(in crate::core) fn end_session(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        id: &str,
        reason: &str,
        now: i64,
    ) -> Result<(), Error> {
        self.forget_process(turn, id)?;
        self.go_offline(turn, journal, id, reason, now)?;
        if let Some(peer) = self.get_mut(id).filter(|peer| !peer.is_online()) {
            // It waits for nobody's return: its locks are released already.
            (peer.offline_since, peer.has_left) = (None, true);
        }
        Ok(())
    }

    /// Reads the peers from the store; what only memory knows of them is kept.
    pub(in crate::core) fn load(&mut self, turn: &mut Turn, locks: &Locks, now: i64) -> Result<(), Error> {
        let old = std::mem::take(&mut self.peers);
        for row in turn.store.peers()? {
            let peer = match old.iter().find(|peer| peer.row.id == row.id) {
                Some(known) => {
                    // What was taken back may be that this process is watched: then the kernel is asked again.
                    let watched = row.process.filter(|process| known.is_watched && known.is_run_by(process));
                    watched.map(Effect::WatchProcess).into_iter().for_each(|effect| turn.push(effect));
                    let is_watched = watched.is_some();
                    Peer { connections: 0, is_watched, row, ..known.clone() }
                }
                None => Peer::loaded(row, now),
            };
            self.peers.push(peer);
        }
        // A session whose agent process was watched by an earlier broker is online while that process lives.
        for peer in self.peers.iter_mut().filter(|peer| peer.unconfirmed && peer.row.host == self.settings.host) {
            if let Some(process) = peer.row.process {
                (peer.is_watched, peer.unconfirmed, peer.offline_since) = (true, false, None);
                turn.push(Effect::WatchProcess(process));
            }
        }
        // A grace that ran when the broker died, or whose end was taken back, starts again.
        for peer in &mut self.peers {
            let is_lost = peer.row.is_session() && peer.offline_since.is_none() && peer.row.process.is_none();
            if is_lost && locks.has_shared(&peer.row.id) {
                peer.offline_since = Some(now);
            }
        }
        let ids: Vec<PeerId> = self.peers.iter().map(|peer| peer.row.id.clone()).collect();
        for one in self.attachments.values_mut() {
            one.peers.retain(|id| ids.contains(id));
        }
        let attached: Vec<PeerId> =
            self.attachments.values().filter(|one| !one.unresponsive).flat_map(|one| one.peers.clone()).collect();
        for id in attached {
            if let Some(peer) = self.get_mut(&id) {
                (peer.connections, peer.row.online, peer.offline_since) = (peer.connections + 1, true, None);
            }
        }
        Ok(())
    }
}

impl Peer {
    /// A peer that an earlier broker knew. After a crash a session has its grace to come back before
    /// anybody is told that it left.
    fn loaded(row: PeerRow, now: i64) -> Peer {
        let was_online = row.online && row.is_session();
        Peer {
            last_active: row.last_seen,
            offline_since: was_online.then_some(now),
            unconfirmed: was_online,
            // Of a session that only ran hooks nobody saw the end; whether the others live shows soon.
            has_left: row.pid != 0,
            ..Peer::new(row, now)
        }
    }
}
