//! Decides when peers go online and offline: when connections open, close, stop answering or answer again, and when
//! agent processes end.

use super::attachments::Attachment;
use super::caller_resolver::nearest;
use super::detach_connection::leave;
use super::{Peer, Peers};
use crate::base::domain_enums::LeaveReason;
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::PeerId;
use crate::base::process_identity::Process;
use crate::core::event_journal::{Change, Journal};
use crate::core::locks::Locks;
use crate::core::transaction_and_pending_effects::{Effect, Turn};
use crate::core::{CallContext, ConnId, Mesh};
use crate::store::PeerRow;

impl Mesh {
    /// Adds a new connection. The connection does not act for any peer yet.
    pub fn on_connected(&mut self, conn: ConnId) {
        self.peers.attachments.open(conn);
    }

    /// Handles the end of a connection. The session goes offline at once, unless it has another connection or the
    /// kernel watches its agent process. An offline session keeps its locks for a short grace period.
    pub fn on_disconnected(&mut self, conn: ConnId, now: i64) {
        for call in self.waiting.extract(|call| call.ctx.conn == conn) {
            self.turn.dirty.note_end(call.reason.as_ref());
        }
        // A hook can disconnect before it has shown its mail. So the next hook gets all mail that this hook has not
        // confirmed.
        self.mail.forget_deliveries_to(conn);
        self.journal.unsubscribe(conn);
        let left = self.in_savepoint(|mesh| leave(&mut mesh.session_parts(), conn, LeaveReason::Disconnected, now));
        // If the disk fails, only the stored row is out of date. The state in memory decides which peers are online.
        self.turn.log_error(left);
        self.peers.attachments.close(conn);
        self.resume_waiting(now);
    }

    /// Records that a connection has stopped answering, or that it has begun to answer again.
    pub fn set_unresponsive(&mut self, conn: ConnId, unresponsive: bool, now: i64) {
        let attached = self.peers.attachments.get_mut(conn);
        let Some(one) = attached.filter(|one| one.unresponsive != unresponsive) else { return };
        one.unresponsive = unresponsive;
        for id in one.peers().to_vec() {
            let result = self.in_savepoint(|mesh| {
                let Mesh { turn, peers, journal, .. } = mesh;
                if let Some(peer) = peers.get_mut(&id) {
                    peer.is_silent = unresponsive;
                }
                if unresponsive {
                    peers.remove_connection(turn, journal, &id, LeaveReason::NotAnswering, now)
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
    /// Handles the end of an agent process. The sessions of the process have ended, even if another process keeps their
    /// connections open.
    pub fn on_process_exit(&mut self, process: &Process, now: i64) {
        let run_by: Vec<PeerId> =
            self.peers.peers.iter().filter(|peer| peer.is_run_by(process)).map(|peer| peer.row.id.clone()).collect();
        let below = self.peers.attachments.iter().filter(|(_, one)| one.is_below(process));
        let conns: Vec<ConnId> = below.map(|(conn, _)| conn).collect();
        let ended = self.in_savepoint(|mesh| {
            for id in &run_by {
                mesh.peers.forget_process(&mut mesh.turn, id)?;
            }
            for conn in conns {
                leave(&mut mesh.session_parts(), conn, LeaveReason::ProcessExit, now)?;
            }
            let Mesh { turn, peers, journal, .. } = mesh;
            run_by.iter().try_for_each(|id| peers.go_offline(turn, journal, id, LeaveReason::ProcessExit, now))
        });
        self.turn.log_error(ended);
        self.resume_waiting(now);
    }

    /// Records that the kernel can't report the end of a process. From now on, the sessions of this process are online
    /// only while they are connected.
    pub fn on_unwatched_process(&mut self, process: &Process, now: i64) {
        let mut run_by: Vec<PeerId> = Vec::new();
        for peer in self.peers.peers.iter_mut().filter(|peer| peer.is_run_by(process)) {
            peer.is_watched = false;
            run_by.push(peer.row.id.clone());
        }
        let left = self.in_savepoint(|mesh| {
            let Mesh { turn, peers, journal, .. } = mesh;
            run_by.iter().try_for_each(|id| peers.go_offline(turn, journal, id, LeaveReason::NotWatched, now))
        });
        self.turn.log_error(left);
    }
}

impl Peers {
    /// Stores the agent process of the client on a connection. `ancestors` are the client's ancestor processes, which
    /// the transport has verified.
    pub(in crate::core) fn set_agent_process(&mut self, conn: ConnId, ancestors: &[Process]) {
        if let Some(one) = self.attachments.get_mut(conn) {
            one.agent = nearest(ancestors).copied();
        }
    }

    /// Whether this connection is open.
    pub(in crate::core) fn is_connected(&self, conn: ConnId) -> bool {
        self.attachments.get(conn).is_some()
    }

    /// Returns true if nobody would notice that this peer gets the lock for which a call on this connection waits. In
    /// that case, the peer has ended or hangs, and the client on the connection does not answer either. A client that
    /// answers acts for the peer, even if the mesh does not see the peer's process.
    pub(in crate::core) fn is_out_of_reach(&self, id: &PeerId, conn: ConnId) -> bool {
        let answers = self.attachments.get(conn).is_some_and(|one| !one.unresponsive);
        !answers && self.get(id).is_none_or(Peer::is_gone)
    }

    /// How many connections are open.
    pub(in crate::core) fn connection_count(&self) -> usize {
        self.attachments.len()
    }

    /// The peers for which a connection acts.
    pub(in crate::core) fn attached_to(&self, conn: ConnId) -> &[PeerId] {
        self.attachments.get(conn).map(Attachment::peers).unwrap_or_default()
    }

    /// The connections that act for a peer.
    pub(in crate::core) fn connections_of(&self, id: &PeerId) -> &[ConnId] {
        self.attachments.connections_of(id)
    }

    /// Adds one to the number of a peer's connections, and marks the peer as online.
    pub(super) fn add_connection(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        id: &PeerId,
        now: i64,
    ) -> Result<(), Error> {
        let Some(peer) = self.get_mut(id) else { return Ok(()) };
        peer.connections += 1;
        (peer.is_silent, peer.expected_agent) = (false, None);
        self.come_online(turn, journal, id, now)
    }

    fn come_online(&mut self, turn: &mut Turn, journal: &Journal, id: &PeerId, now: i64) -> Result<(), Error> {
        let Some(peer) = self.get_mut(id) else { return Ok(()) };
        (peer.offline_since, peer.unconfirmed) = (None, false);
        peer.last_active = now;
        let joins = !peer.row.online;
        peer.row.online = true;
        peer.row.last_seen = now;
        let row = peer.row.clone();
        turn.store.put_peer(&row)?;
        // While the peer was offline, a lock may have been released. So the peer's waiting lock requests are checked
        // again.
        turn.dirty.locks = true;
        if !joins {
            return Ok(());
        }
        self.record(turn, journal, &Change::PeerJoined(&row), id, now)
    }

    /// Records that a hook or a subcommand made a call for a session. The call shows that the session has not ended.
    pub(in crate::core) fn note_return(&mut self, turn: &mut Turn, id: &PeerId) {
        let Some(peer) = self.get_mut(id) else { return };
        peer.has_left = false;
        if std::mem::replace(&mut peer.has_ended, false) {
            // The session may now be ready for a wakeup. So the turn reruns the waiting calls that can wake the
            // session.
            turn.dirty.mail.insert(id.clone());
        }
    }

    /// Whether the agent has ended this session. A late hook, which reports something that happened before the end,
    /// does not make the session active again.
    pub(in crate::core) fn has_ended(&self, id: &PeerId) -> bool {
        self.get(id).is_some_and(|peer| peer.has_ended)
    }

    /// Logs that a hook with the session's key is running outside the session's agent process. This is logged only once
    /// per session. The hook is accepted nevertheless, because any process of this user may act for any session.
    pub(in crate::core) fn report_foreign_hook(&mut self, turn: &mut Turn, id: &PeerId, ancestors: &[Process]) {
        let Some(caller) = nearest(ancestors) else { return };
        let is_own = |above: &Process| self.is_attached_from(id, above);
        let Some(peer) = self.get(id).filter(|peer| peer.is_watched && !peer.is_foreign_hook_reported) else { return };
        if ancestors.iter().any(|above| peer.is_run_by(above) || is_own(above)) {
            return;
        }
        let own = peer.row.process.map_or(0, |process| process.pid);
        let text = format!(
            "a hook in process {} acts for the session {}, but the agent of that session is process {own}",
            caller.pid, peer.row.name
        );
        turn.push(Effect::Log(Error::new(ErrorKind::Refused, text)));
        if let Some(peer) = self.get_mut(id) {
            peer.is_foreign_hook_reported = true;
        }
    }

    /// Records the agent process from which a session makes a call. The kernel reports this process. The process counts
    /// as an agent if slm-mesh knows its program, or if an earlier hook of the session came from the same process. In
    /// this case, the session is online as long as the process is running. A single hook from an unknown program does
    /// not prove that the process is an agent.
    pub(in crate::core) fn note_process(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        id: &PeerId,
        process: Option<&Process>,
        call: &CallContext,
    ) -> Result<(), Error> {
        let (Some(process), Some(peer)) = (process, self.get(id)) else { return Ok(()) };
        let is_agent = process.agent.is_some() || peer.is_run_by(process);
        self.set_process(turn, journal, id, process, is_agent, call)
    }

    /// Records the process from which a session makes a call. `is_agent` is true if the process is known to be an
    /// agent.
    pub(super) fn set_process(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        id: &PeerId,
        process: &Process,
        is_agent: bool,
        call: &CallContext,
    ) -> Result<(), Error> {
        let is_remote = self.is_remote(call.conn);
        let Some(peer) = self.get_mut(id) else { return Ok(()) };
        let is_known = peer.is_run_by(process);
        peer.is_silent = false;
        if peer.is_watched && (is_known || !is_agent) {
            return Ok(());
        }
        peer.row.process = Some(*process);
        // A process on another machine is not watched, because this machine's kernel can't report its end. A process
        // that is perhaps not an agent is not watched either, because the session may continue after the process has
        // ended.
        if is_remote || !is_agent {
            let was_watched = std::mem::replace(&mut peer.is_watched, false);
            if !is_known {
                turn.store.put_peer(&peer.row)?;
            }
            return if was_watched { self.continue_far(turn, journal, id, call.now) } else { Ok(()) };
        }
        peer.is_watched = true;
        turn.push(Effect::WatchProcess(*process));
        self.come_online(turn, journal, id, call.now)
    }

    /// Handles a session that continues in a process on another machine. Until now, the kernel watched the session's
    /// process on this machine. The session goes offline, unless it has a connection. The session keeps its locks and
    /// channels, because it has not ended.
    fn continue_far(&mut self, turn: &mut Turn, journal: &Journal, id: &PeerId, now: i64) -> Result<(), Error> {
        self.go_offline(turn, journal, id, LeaveReason::NotWatched, now)?;
        if let Some(peer) = self.get_mut(id) {
            (peer.offline_since, peer.has_left) = (None, false);
        }
        Ok(())
    }

    /// Subtracts one from the number of a peer's connections. Marks the peer as offline, unless it has another
    /// connection or a watched agent process.
    pub(super) fn remove_connection(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        id: &PeerId,
        reason: LeaveReason,
        now: i64,
    ) -> Result<(), Error> {
        let Some(peer) = self.get_mut(id) else { return Ok(()) };
        peer.connections = peer.connections.saturating_sub(1);
        self.go_offline(turn, journal, id, reason, now)
    }

    /// Marks a peer as offline, unless it has a connection or a watched agent process.
    fn go_offline(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        id: &PeerId,
        reason: LeaveReason,
        now: i64,
    ) -> Result<(), Error> {
        let Some(peer) = self.get_mut(id).filter(|peer| !peer.is_online() && peer.row.online) else { return Ok(()) };
        (peer.offline_since, peer.has_left) = (Some(now), true);
        peer.row.online = false;
        peer.row.last_seen = now;
        let row = peer.row.clone();
        turn.store.put_peer(&row)?;
        // The lock requests of an offline peer do not delay the requests of other peers. So the requests of other peers
        // are checked again.
        turn.dirty.locks = true;
        self.record(turn, journal, &Change::PeerLeft { row: &row, named: true, reason }, id, now)
    }

    /// Records the last time at which a session was known to be working on a turn; `None` means that the turn has
    /// ended.
    pub(in crate::core) fn set_turn_active(&mut self, turn: &mut Turn, id: &PeerId, at: Option<i64>) {
        if let Some(peer) = self.get_mut(id) {
            peer.turn_active_at = at;
        }
        if at.is_none() {
            // The session may now be ready for a wakeup. So the turn reruns the waiting calls that can wake the
            // session.
            turn.dirty.mail.insert(id.clone());
        }
    }

    /// Records the background tasks and subagents that are still running after the end of a turn. The locks of the turn
    /// are kept for these tasks. The list is empty while a turn is running, and when no tasks are left.
    pub(in crate::core) fn set_background_tasks(&mut self, id: &PeerId, running: &[&str]) {
        if let Some(peer) = self.get_mut(id) {
            peer.background_tasks = running.iter().map(|task| (*task).to_owned()).collect();
        }
    }

    /// Records that a subagent has ended. Returns true if the subagent was the last task for which the locks of the
    /// turn were kept.
    pub(in crate::core) fn end_background_task(&mut self, id: &PeerId, task: &str) -> bool {
        let Some(peer) = self.get_mut(id).filter(|peer| !peer.background_tasks.is_empty()) else { return false };
        peer.background_tasks.retain(|running| running != task);
        peer.background_tasks.is_empty()
    }

    /// Forgets the agent process of a session that has ended. After this, the next session in the same directory may
    /// take over the name and the mailbox.
    pub(in crate::core) fn forget_process(&mut self, turn: &mut Turn, id: &PeerId) -> Result<(), Error> {
        let Some(peer) = self.get_mut(id).filter(|peer| peer.row.process.is_some()) else { return Ok(()) };
        (peer.row.process, peer.is_watched) = (None, false);
        Ok(turn.store.put_peer(&peer.row)?)
    }

    /// Records that the agent has ended a session. The agent process may continue with another session.
    pub(in crate::core) fn end_session(
        &mut self,
        turn: &mut Turn,
        journal: &Journal,
        id: &PeerId,
        reason: LeaveReason,
        now: i64,
    ) -> Result<(), Error> {
        self.forget_process(turn, id)?;
        self.go_offline(turn, journal, id, reason, now)?;
        if let Some(peer) = self.get_mut(id) {
            peer.has_ended = true;
        }
        if let Some(peer) = self.get_mut(id).filter(|peer| !peer.is_online()) {
            // The session needs no grace period, because its locks have been released.
            (peer.offline_since, peer.has_left) = (None, true);
        }
        Ok(())
    }

    /// Records which agents run the MCP servers that were connected to an earlier broker.
    pub(in crate::core) fn expect_servers(
        &mut self,
        agent_above: impl Fn(i64) -> Option<Process>,
        is_known: impl Fn(&str) -> bool,
    ) {
        for peer in self.peers.iter_mut().filter(|peer| peer.row.is_session()) {
            let Some(pid) = peer.row.pid else { continue };
            peer.is_known_agent = is_known(&peer.row.agent);
            if peer.unconfirmed && peer.row.host == self.settings.host {
                peer.expected_agent = agent_above(pid);
            }
        }
    }

    /// Loads the peers from the store, and keeps the facts that exist only in memory.
    pub(in crate::core) fn load(&mut self, turn: &mut Turn, locks: &Locks, now: i64) -> Result<(), Error> {
        let old = self.peers.take();
        let (mut takeovers, mut given_back) = (turn.store.takeovers()?, turn.store.given_back()?);
        for row in turn.store.peers()? {
            let (takeover, gave_back) = (takeovers.remove(&row.id), given_back.remove(&row.id));
            let peer = match old.get(&row.id) {
                Some(known) => {
                    // A rollback may have cancelled the request to watch this process, so the request is made again.
                    let watched = row.process.filter(|process| known.is_watched && known.is_run_by(process));
                    watched.map(Effect::WatchProcess).into_iter().for_each(|effect| turn.push(effect));
                    let is_watched = watched.is_some();
                    Peer { connections: 0, is_watched, row, takeover, gave_back, ..known.clone() }
                }
                None => Peer { takeover, gave_back, ..Peer::loaded(row, now) },
            };
            self.peers.put(peer);
        }
        // If an earlier broker watched the agent process of a session, the session is online as long as the process is
        // running.
        for peer in self.peers.iter_mut().filter(|peer| peer.unconfirmed && peer.row.host == self.settings.host) {
            if let Some(process) = peer.row.process {
                (peer.is_watched, peer.unconfirmed, peer.offline_since) = (true, false, None);
                turn.push(Effect::WatchProcess(process));
            }
        }
        // A session that still holds locks gets a new grace period. The broker may have died during an earlier grace
        // period, or a rollback may have restored locks that were released at the end of that period.
        for peer in self.peers.iter_mut() {
            // The end of a process on another machine is not reported. So a session on another machine gets a grace
            // period even if its process is known. But if only hooks have registered a session, and this machine can't
            // see its process, the session has no connection that could return. Its locks last until their leases end.
            let is_far_server = peer.row.pid.is_some() && peer.row.host != self.settings.host;
            let is_known_to_end = peer.row.pid.is_some() || peer.has_left;
            let has_left = peer.row.process.is_none() && is_known_to_end || is_far_server;
            let is_lost = peer.row.is_session() && peer.offline_since.is_none() && has_left;
            if is_lost && locks.has_shared(&peer.row.id) {
                peer.offline_since = Some(now);
            }
        }
        let Peers { peers, attachments, .. } = self;
        attachments.retain(|id| peers.get(id).is_some());
        let answering = attachments.iter().filter(|(_, one)| !one.unresponsive);
        let attached: Vec<PeerId> = answering.flat_map(|(_, one)| one.peers().to_vec()).collect();
        for id in attached {
            if let Some(peer) = self.get_mut(&id) {
                (peer.connections, peer.row.online, peer.offline_since) = (peer.connections + 1, true, None);
            }
        }
        Ok(())
    }
}

impl Peer {
    /// Restores a peer that an earlier broker stored. After a crash, a session gets a grace period. If the session
    /// returns during this period, other peers do not learn that it was gone.
    fn loaded(row: PeerRow, now: i64) -> Peer {
        let was_online = row.online && row.is_session();
        Peer {
            last_active: row.last_seen,
            offline_since: was_online.then_some(now),
            unconfirmed: was_online,
            // A session with an MCP server counts as gone until the server reconnects. A session that only hooks have
            // registered may still be running, so it does not count as gone.
            has_left: row.pid.is_some(),
            ..Peer::new(row, now)
        }
    }
}
