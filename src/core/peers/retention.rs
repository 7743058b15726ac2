//! The lifetime of peers. This module decides when a silent peer counts as gone, and when an offline peer is forgotten.

use super::http_registration::unregister_peer;
use super::{Peer, Peers, detach_connection};
use crate::base::domain_enums::{LeaveReason, PeerKind};
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::PeerId;
use crate::base::limits;
use crate::base::process_identity::Process;
use crate::core::Mesh;
use crate::core::event_journal::Change;
use crate::core::locks::Locks;
use crate::core::mail::Mail;
use crate::core::mail::wakeups::end_hook_waits;
use crate::core::peers::mesh_parts_changed_by_sessions::SessionParts;
use crate::core::transaction_and_pending_effects::Turn;
use crate::store::{LockRow, PeerRow};

impl Peers {
    /// Makes room for one more peer. If the mesh is full, forgets offline peers that have neither unread mail nor
    /// locks.
    pub(super) fn make_room(&mut self, turn: &mut Turn, mail: &mut Mail, locks: &Locks, now: i64) -> Result<(), Error> {
        if self.peers.len() < limits::PEERS_MAX {
            return Ok(());
        }
        self.forget_old(turn, mail, locks, now)?;
        if self.peers.len() < limits::PEERS_MAX {
            return Ok(());
        }
        let text = format!("the mesh already has {} peers; end sessions that you no longer need", limits::PEERS_MAX);
        Err(Error::new(ErrorKind::Full, text))
    }

    /// Forgets the peers that were last seen before the time `before`, are offline, and have neither unread mail nor
    /// locks.
    pub(in crate::core) fn forget_old(
        &mut self,
        turn: &mut Turn,
        mail: &mut Mail,
        locks: &Locks,
        before: i64,
    ) -> Result<(), Error> {
        let is_old = |peer: &&Peer| {
            let kept = peer.is_online() || peer.row.kind == PeerKind::Human;
            !kept && peer.row.last_seen < before
        };
        let ids: Vec<PeerId> = self.peers.iter().filter(is_old).map(|peer| peer.row.id.clone()).collect();
        for id in ids {
            if mail.unread(&turn.store, &id)? == 0 && !locks.has_any(&id) {
                self.forget(turn, mail, &id)?;
            }
        }
        Ok(())
    }

    /// Forgets the ended sessions of one agent in one directory if they are unused. A session is unused if it holds no
    /// locks and has neither sent nor received messages. A session with a chosen name is kept, because others may know
    /// this name. Without this cleanup, there would be more and more unused sessions, because a new session takes over
    /// none of them if there are several.
    pub(super) fn forget_unused(
        &mut self,
        turn: &mut Turn,
        mail: &mut Mail,
        locks: &Locks,
        row: &PeerRow,
        name: &str,
    ) -> Result<(), Error> {
        for id in self.ended_alike(row, name) {
            if !locks.has_any(&id) && !mail.has_messages(&turn.store, &id)? {
                self.forget(turn, mail, &id)?;
            }
        }
        Ok(())
    }

    /// Forgets a peer, and the number of its unread messages.
    pub(super) fn forget(&mut self, turn: &mut Turn, mail: &mut Mail, id: &PeerId) -> Result<(), Error> {
        turn.store.drop_peer(id)?;
        if self.get(id).is_some_and(|peer| peer.takeover.is_some()) {
            turn.store.drop_takeover(id)?;
        }
        if self.get(id).is_some_and(|peer| peer.gave_back.is_some()) {
            turn.store.drop_given_back(id)?;
        }
        self.peers.remove(id);
        mail.forget_peer(id);
        Ok(())
    }

    /// Returns the earliest deadline of all peers, in ms.
    pub(in crate::core) fn deadline(&mut self) -> Option<i64> {
        self.peers.deadline(&self.settings)
    }
}

/// Takes the channels and the locks from a session that is gone, except for the locks of its commands. Also ends its
/// waiting calls. Otherwise, a command that is still running could get a lock or mail in the session's name. If a silent
/// connection acts for the session, the calls on that connection continue to wait, because the connection may begin to
/// answer again.
pub(super) fn take_from_gone(parts: &mut SessionParts, id: &PeerId, now: i64) -> Result<(), Error> {
    let SessionParts { turn, peers, locks, channels, journal, waiting, .. } = parts;
    end_hook_waits(turn, peers, waiting, id);
    detach_connection::end_waits(turn, waiting, |call| {
        call.ctx.is_by(id) && !peers.attached_to(call.ctx.conn).contains(id)
    });
    let is_due = |lock: &LockRow| lock.holder == *id && lock.owner.is_shared();
    locks.release(turn, peers, journal, is_due, Some("holder is gone"), now)?;
    channels.leave_all(turn, peers, journal, id, now)
}

/// Marks peers as gone when their time is up. These are HTTP clients that have sent no heartbeat, and sessions
/// whose grace period has ended.
pub(in crate::core) fn expire_peers(parts: &mut SessionParts, now: i64) -> Result<(), Error> {
    let Peers { peers, settings, .. } = &mut *parts.peers;
    let due: Vec<PeerRow> = peers.due(settings, now).into_iter().map(|peer| peer.row.clone()).collect();
    for row in due {
        if row.is_http() {
            unregister_peer(parts, &row.id, LeaveReason::NoHeartbeat, now)?;
        } else {
            end_grace(parts, &row.id, now)?;
        }
    }
    Ok(())
}

/// Ends a session that did not return during its grace period.
fn end_grace(parts: &mut SessionParts, id: &PeerId, now: i64) -> Result<(), Error> {
    let SessionParts { turn, peers, journal, .. } = parts;
    let Some(peer) = peers.get_mut(id) else { return Ok(()) };
    let is_unannounced = std::mem::replace(&mut peer.row.online, false);
    let row = peer.row.clone();
    if is_unannounced {
        turn.store.put_peer(&row)?;
        let change = Change::PeerLeft { row: &row, named: true, reason: LeaveReason::Lost };
        peers.record(turn, journal, &change, id, now)?;
    }
    take_from_gone(parts, id, now)?;
    let SessionParts { turn, peers, .. } = parts;
    if let Some(peer) = peers.get_mut(id) {
        peer.offline_since = None;
    }
    peers.forget_process(turn, id)
}

impl Mesh {
    /// Forgets agent processes that ended while no broker was running. New sessions can then take over the names and
    /// the mail of the sessions of these processes. `is_alive` checks whether a process on this machine is running.
    pub fn forget_dead_processes(&mut self, is_alive: impl Fn(&Process) -> bool, now: i64) {
        let host = self.settings.host.clone();
        // The kernel reports the end of each watched process. So only processes that are not watched are checked.
        let is_dead = |peer: &&Peer| {
            let is_here = peer.row.host == host && !peer.is_watched;
            is_here && peer.row.process.is_some_and(|process| !is_alive(&process))
        };
        let dead: Vec<PeerId> = self.peers.all().iter().filter(is_dead).map(|peer| peer.row.id.clone()).collect();
        let forgotten = self.in_savepoint(|mesh| {
            let Mesh { turn, peers, channels, journal, .. } = mesh;
            for id in &dead {
                peers.forget_process(turn, id)?;
                // A session with a key may continue in another process. So only a session without a key is marked as
                // gone.
                if let Some(peer) = peers.get_mut(id).filter(|peer| peer.row.session_key().is_none()) {
                    peer.has_left = true;
                }
            }
            channels.remove_ended(turn, peers, journal, now)
        });
        self.turn.log_error(forgotten);
    }
}
