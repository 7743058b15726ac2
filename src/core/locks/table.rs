//! The table of the locks in force. Locks are granted, renewed, released and expired here.

use super::indexed_locks::IndexedLocks;
use super::request_conflicts::LockRequest;
use crate::base::domain_enums::LockOwner;
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::{CountedMap, FencingToken, PeerId};
use crate::base::limits;
use crate::base::process_identity::Process;
use crate::core::event_journal::{Change, Journal};
use crate::core::mesh_opening_parameters::FormerHost;
use crate::core::peers::Peers;
use crate::core::transaction_and_pending_effects::Turn;
use crate::core::{CallContext, ConnId};
use crate::store::{LockRow, Store};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The locks in force.
#[derive(Debug, Default)]
pub struct Locks {
    pub(super) locks: IndexedLocks,
    /// The earliest time, in ms, at which a lock can expire. The locks need not be checked before this time.
    first_expiry: Option<i64>,
    /// Commands that have lost their connection, because the broker restarted or the network failed. They may still
    /// reconnect.
    orphans: Vec<Orphan>,
    /// Locks that were extended in memory, but not yet in the database. One turn of the broker's event loop can't write
    /// so many locks, so the next turns write the rest. The keys are tokens and paths, and the values are the new times
    /// of expiry, in ms.
    unwritten: BTreeMap<(FencingToken, String), i64>,
    /// The tokens and paths of locks that have ended, but are still in the database. One turn can end only a limited
    /// number of locks, so the next turns end the rest.
    ending: BTreeSet<(FencingToken, String)>,
    /// For each connection, the commands whose locks end when the connection ends.
    commands: CountedMap<Vec<(PeerId, LockOwner)>, ConnId>,
    recent_grants: VecDeque<RecentGrant>,
    /// Subagents that edit files on which their sessions have locks. A key is the token and the path of a lock, and the
    /// value is the subagent that edited the file last. Until this subagent ends, the session's other subagents may not
    /// edit the file.
    editors: BTreeMap<(FencingToken, String), Editor>,
    /// The tokens and paths of locks whose requester is unclear: it may be any session of the holder's process. The
    /// database does not contain this list. After a restart, a lock belongs to its holder alone, because two sessions
    /// must never believe that they hold the same lock.
    unclear: BTreeSet<(FencingToken, String)>,
}

/// A subagent that edits a file on which its session has a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Editor {
    session: PeerId,
    subagent: String,
}

/// New locks that were granted to a call. The locks end if the client cancels the call before it reads the answer.
#[derive(Debug)]
struct RecentGrant {
    conn: ConnId,
    call: Value,
    token: FencingToken,
    paths: Vec<String>,
}

/// Maximum number of recent grants that are kept. A small number is enough, because a client can't cancel a call after
/// it has received the answer.
const RECENT_GRANTS_MAX: usize = 64;

/// A command that has lost its connection. The command may reconnect, so its locks are kept for a while.
#[derive(Debug, Clone, PartialEq)]
struct Orphan {
    holder: PeerId,
    command: LockOwner,
    /// The time, in ms, at which the locks end if the command does not reconnect.
    until: i64,
}

impl Orphan {
    fn is(&self, holder: &PeerId, command: &LockOwner) -> bool {
        self.holder == *holder && self.command == *command
    }

    fn owns(&self, lock: &LockRow) -> bool {
        self.is(&lock.holder, &lock.owner)
    }
}

/// Maximum size of all changes of locks in one turn of the broker's event loop, in bytes. Later turns make the
/// remaining changes. If several hubs share the mesh, their log refuses a turn of more than 1.5 MiB. In that case, none
/// of the changes in the turn would be stored.
const CHANGED_BYTES: usize = 256 << 10;

/// Returns the maximum number of bytes that the log needs for a change of this lock and for the event of this change.
fn change_size(lock: &LockRow) -> usize {
    400 + 3 * lock.path.len() + 2 * lock.reason.len()
}

/// How long a command may take to reconnect, in ms.
fn grace_ms(is_local: bool) -> i64 {
    if is_local { limits::GRACE_MS } else { limits::REMOTE_GRACE_MS }
}

/// Whether any lock is stored. The broker asks this before the mesh is open, because its clock depends on the answer.
///
/// # Errors
/// When the database can't be read.
pub fn has_locks(store: &Store) -> Result<bool, Error> {
    Ok(store.has_locks()?)
}

/// Stores the new name of this machine in all locks on this machine.
pub(in crate::core) fn rename_machine(turn: &mut Turn, former: &FormerHost, host: &str) -> Result<(), Error> {
    Ok(turn.store.rename_host_of_locks(&former.name, host)?)
}

impl Locks {
    /// All locks in force.
    pub fn all(&self) -> impl ExactSizeIterator<Item = &LockRow> {
        self.locks.iter()
    }

    /// All locks that a peer holds.
    pub(super) fn of_holder(&self, holder: &PeerId) -> impl Iterator<Item = &LockRow> {
        self.locks.of_holder(holder)
    }

    /// The paths that a peer has locked.
    pub(in crate::core) fn paths_of<'a>(&'a self, holder: &'a PeerId) -> impl Iterator<Item = &'a str> {
        self.locks.of_holder(holder).map(|lock| lock.path.as_str())
    }

    /// Whether a peer holds any lock.
    pub(in crate::core) fn has_any(&self, holder: &PeerId) -> bool {
        self.locks.of_holder(holder).next().is_some()
    }

    /// Whether a peer holds a lock that does not belong to a command.
    pub(in crate::core) fn has_shared(&self, holder: &PeerId) -> bool {
        self.locks.of_holder(holder).any(|lock| lock.owner.is_shared())
    }

    /// Loads the locks from the store. The locks of commands get a new grace period.
    pub(in crate::core) fn load(&mut self, turn: &Turn, local_host: &str, now: i64) -> Result<(), Error> {
        self.locks.replace_all(turn.store.locks()?);
        for lock in self.locks.iter_mut().filter(|_| !self.unwritten.is_empty()) {
            let end = self.unwritten.get(&(lock.token, lock.path.clone()));
            lock.expires = end.copied().unwrap_or(lock.expires);
        }
        for lock in self.locks.iter_mut().filter(|_| !self.ending.is_empty()) {
            if self.ending.contains(&(lock.token, lock.path.clone())) {
                lock.expires = lock.expires.min(now);
            }
        }
        self.note_first_expiry();
        self.orphans.clear();
        for lock in self.locks.iter().filter(|lock| !lock.owner.is_shared()) {
            let until = now + grace_ms(lock.host == local_host);
            let orphan = Orphan { holder: lock.holder.clone(), command: lock.owner.clone(), until };
            if !self.orphans.contains(&orphan) {
                self.orphans.push(orphan);
            }
        }
        Ok(())
    }

    /// Returns the time, in ms, at which the next lock or grace period ends. Returns 0 if some extended locks have not
    /// been written yet. In this case, the next turn begins at once.
    pub(in crate::core) fn deadline(&self) -> Option<i64> {
        let expiry = self.first_expiry.filter(|_| self.locks.iter().len() > 0);
        let orphans = self.orphans.iter().map(|orphan| orphan.until).min();
        let writing = (!self.unwritten.is_empty()).then_some(0);
        [expiry, orphans, writing].into_iter().flatten().min()
    }

    fn note_first_expiry(&mut self) {
        self.first_expiry = self.locks.iter().map(|lock| lock.expires).min();
    }

    /// Ends the locks that have expired, and the locks of commands that did not reconnect in time. The locks of a
    /// command do not expire while the command is connected or may still reconnect.
    pub(in crate::core) fn expire(
        &mut self,
        turn: &mut Turn,
        peers: &Peers,
        journal: &Journal,
        now: i64,
    ) -> Result<(), Error> {
        if self.deadline().is_none_or(|at| at > now) {
            return Ok(());
        }
        self.write_extended(turn)?;
        let running: Vec<(PeerId, LockOwner)> = self.commands.values().flatten().cloned().collect();
        let runs = |lock: &LockRow| running.iter().any(|one| (&one.0, &one.1) == (&lock.holder, &lock.owner));
        let (ended, waiting): (Vec<Orphan>, Vec<Orphan>) =
            std::mem::take(&mut self.orphans).into_iter().partition(|orphan| orphan.until <= now);
        self.orphans = waiting;
        let orphans = &self.orphans;
        let has_grace = |lock: &LockRow| orphans.iter().any(|orphan| orphan.owns(lock));
        let stays = |lock: &LockRow| !lock.owner.is_shared() && (has_grace(lock) || runs(lock));
        for lock in self.locks.iter_mut().filter(|lock| lock.expires <= now && stays(lock)) {
            lock.expires = now + limits::COMMAND_LEASE_MS;
            turn.store.put_lock(lock)?;
        }
        self.release(turn, peers, journal, |lock| lock.expires <= now, Some("expired"), now)?;
        let is_orphan = |lock: &LockRow| ended.iter().any(|orphan| orphan.owns(lock)) && !runs(lock);
        if !ended.is_empty() {
            self.release(turn, peers, journal, is_orphan, Some("the command that took the lock is gone"), now)?;
        }
        self.note_first_expiry();
        Ok(())
    }

    /// Records that the locks of a command end when this connection ends. If the command had lost an earlier
    /// connection, its grace period ends, because the command has now reconnected.
    pub(super) fn add_command(&mut self, conn: ConnId, request: &LockRequest) {
        if request.owner.is_shared() {
            return;
        }
        let one = (request.holder.clone(), request.owner.clone());
        self.orphans.retain(|orphan| !orphan.is(&one.0, &one.1));
        let known = self.commands.entry(conn).or_default();
        if !known.contains(&one) {
            known.push(one);
        }
    }

    /// The connections of the command that owns a lock.
    pub(super) fn connections_of_command(&self, lock: &LockRow) -> Vec<ConnId> {
        let owns =
            |known: &[(PeerId, LockOwner)]| known.iter().any(|one| (&one.0, &one.1) == (&lock.holder, &lock.owner));
        self.commands.iter().filter(|(_, known)| owns(known)).map(|(conn, _)| *conn).collect()
    }

    /// Whether any command has locks that end when this connection ends.
    pub(in crate::core) fn has_command(&self, conn: ConnId) -> bool {
        self.commands.get(&conn).is_some_and(|known| !known.is_empty())
    }

    /// Forgets a command that no longer holds any locks.
    pub(super) fn forget_command(&mut self, conn: ConnId, holder: &PeerId, owner: &LockOwner) {
        let holds = || self.locks.of_holder(holder).any(|lock| lock.owner == *owner);
        if let Some(known) = self.commands.get_mut(&conn).filter(|_| !holds()) {
            known.retain(|(of, which)| of != holder || which != owner);
        }
    }

    /// Gives a grace period to the commands of a connection from another machine, because the connection was lost.
    pub(in crate::core) fn await_commands(&mut self, conn: ConnId, now: i64) {
        let until = now + grace_ms(false);
        for (holder, command) in self.commands.remove(&conn).unwrap_or_default() {
            // After a rollback, a command can have a grace period although the command is connected. This grace period
            // would end too early, so a new grace period replaces it.
            self.orphans.retain(|orphan| !orphan.is(&holder, &command));
            self.orphans.push(Orphan { holder, command, until });
        }
    }

    /// Removes and returns the commands whose locks end when this connection ends.
    pub(in crate::core) fn take_commands(&mut self, conn: ConnId) -> Vec<(PeerId, LockOwner)> {
        self.commands.remove(&conn).unwrap_or_default()
    }

    /// Returns an error if a grant of this request would make too many locks.
    pub(in crate::core) fn check_room(&self, request: &LockRequest) -> Result<(), Error> {
        let is_own = |lock: &LockRow, path: &str| lock.path == path && lock.holder == request.holder;
        let is_new = |path: &&String| !self.locks.on_path(path).any(|lock| is_own(lock, path));
        let n_locks = self.locks.iter().len();
        if n_locks + request.paths.iter().filter(is_new).count() <= limits::LOCKS_MAX {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Full,
            format!("there are already {n_locks} locks; lock a folder instead of its files"),
        ))
    }

    /// Grants a request that conflicts with no lock. Renews the locks that the requester already holds, and creates
    /// locks for the remaining paths. All new locks get the same new token.
    ///
    /// # Errors
    /// When too many locks are in force, or the database can't be written.
    pub fn grant(
        &mut self,
        turn: &mut Turn,
        peers: &Peers,
        journal: &Journal,
        request: &LockRequest,
        now: i64,
    ) -> Result<Vec<LockRow>, Error> {
        self.check_room(request)?;
        let all_held = request.paths.iter().all(|path| self.held(request, path).is_some());
        let token = if all_held { FencingToken::default() } else { turn.store.next_token() };
        let mut grants = Vec::with_capacity(request.paths.len());
        for path in &request.paths {
            let old = self.held(request, path);
            let is_new = old.is_none();
            let row = request.grant(path, old, token, now);
            let owners = [Some(&request.owner), old.map(|old| &old.owner)];
            let subagent = owners.into_iter().flatten().find_map(LockOwner::subagent);
            if let Some(subagent) = subagent.filter(|_| row.owner.subagent().is_none()) {
                let editor = Editor { session: row.holder.clone(), subagent: subagent.to_owned() };
                self.editors.insert((row.token, row.path.clone()), editor);
            }
            turn.store.put_lock(&row)?;
            let key = (row.token, row.path.clone());
            self.ending.remove(&key);
            if !request.has_unclear_caller {
                self.unclear.remove(&key);
            } else if is_new {
                self.unclear.insert(key);
            }
            self.first_expiry = Some(self.first_expiry.map_or(row.expires, |first| first.min(row.expires)));
            self.locks.put(row.clone());
            if is_new {
                journal.record(turn, peers, &Change::FileLocked(&row), &request.holder, now)?;
                // The new lock may block a waiting request, and the wait may cause a deadlock. So the waiting requests
                // are checked again.
                turn.dirty.locks = true;
            }
            grants.push(row);
        }
        Ok(grants)
    }

    /// Whether a subagent makes the request, and another subagent of the same session edits the locked file. If the
    /// lock belongs to the session or to a turn, the lock does not show which subagent edits the file.
    pub(super) fn is_edited_by_other_subagent(&self, lock: &LockRow, request: &LockRequest) -> bool {
        let Some(subagent) = request.owner.subagent().filter(|_| lock.holder == request.holder) else { return false };
        let editor = self.editors.get(&(lock.token, lock.path.clone()));
        editor.is_some_and(|editor| editor.subagent != subagent)
    }

    /// Records which subagents of a session are still running. When a subagent has ended, the session's other subagents
    /// may edit its files.
    pub(in crate::core) fn keep_editors(&mut self, session: &PeerId, is_running: impl Fn(&str) -> bool) {
        self.editors.retain(|_, editor| editor.session != *session || is_running(&editor.subagent));
    }

    /// Whether a lock may belong to any session of the caller's agent process. Such a lock blocks none of these
    /// sessions, because the session that requested the lock may be the one that wants to write now.
    pub(in crate::core) fn may_belong_to_caller(&self, peers: &Peers, ancestors: &[Process], lock: &LockRow) -> bool {
        !self.unclear.is_empty()
            && self.unclear.contains(&(lock.token, lock.path.clone()))
            && peers.is_attached_beside(ancestors, &lock.holder)
    }

    /// The requested paths that the requester does not hold yet.
    pub(super) fn new_paths(&self, request: &LockRequest) -> Vec<String> {
        request.paths.iter().filter(|path| self.held(request, path).is_none()).cloned().collect()
    }

    /// The lock on this path that the requester already holds.
    fn held<'a>(&'a self, request: &'a LockRequest, path: &'a str) -> Option<&'a LockRow> {
        self.locks.on_path(path).find(|lock| lock.path == path && request.is_held_by(lock))
    }

    /// Records the new locks that were granted to a call.
    pub(super) fn note_grant(&mut self, ctx: &CallContext, token: FencingToken, paths: Vec<String>) {
        if paths.is_empty() {
            return;
        }
        self.recent_grants.truncate(RECENT_GRANTS_MAX - 1);
        self.recent_grants.push_front(RecentGrant { conn: ctx.conn, call: ctx.id.clone(), token, paths });
    }

    /// Ends the new locks that were granted to a call, because the client has cancelled the call. Does not end the
    /// locks that the call only renewed.
    ///
    /// # Errors
    /// When the database can't be written.
    pub(in crate::core) fn cancel_grant(
        &mut self,
        turn: &mut Turn,
        peers: &Peers,
        journal: &Journal,
        conn: ConnId,
        call: &Value,
        now: i64,
    ) -> Result<(), Error> {
        let is_meant = |grant: &RecentGrant| grant.conn == conn && grant.call == *call;
        let Some(at) = self.recent_grants.iter().position(is_meant) else { return Ok(()) };
        let Some(grant) = self.recent_grants.remove(at) else { return Ok(()) };
        let ends = |lock: &LockRow| lock.token == grant.token && grant.paths.contains(&lock.path);
        self.release(turn, peers, journal, ends, Some("the call was cancelled"), now)
    }

    /// Releases the lock on one path. Returns false if there is no lock on the path with this holder and this owner.
    ///
    /// # Errors
    /// When the database can't be written.
    #[allow(clippy::too_many_arguments)] // the lock, its owner, and the parts that change when the lock ends
    pub fn release_path(
        &mut self,
        turn: &mut Turn,
        peers: &Peers,
        journal: &Journal,
        path: &str,
        holder: &PeerId,
        owner: &LockOwner,
        now: i64,
    ) -> Result<bool, Error> {
        let same = |lock: &LockRow| lock.owner == *owner || lock.owner.is_shared() && owner.is_shared();
        let is_it = |lock: &&LockRow| lock.holder == *holder && same(lock);
        let held: Vec<(FencingToken, String)> =
            self.locks.on_path(path).filter(is_it).map(|lock| (lock.token, lock.path.clone())).collect();
        if held.is_empty() {
            return Ok(false);
        }
        let is_held = |lock: &LockRow| held.iter().any(|(token, path)| lock.token == *token && lock.path == *path);
        self.release(turn, peers, journal, is_held, None, now)?;
        Ok(true)
    }

    /// Extends the matching locks at least until `expires`. Writes only as many locks as one turn may change. The next
    /// turns write the remaining locks.
    ///
    /// # Errors
    /// When the database can't be written.
    pub(in crate::core) fn extend(
        &mut self,
        turn: &mut Turn,
        fits: impl Fn(&LockRow) -> bool,
        expires: i64,
    ) -> Result<(), Error> {
        let mut room = CHANGED_BYTES;
        let ending = &self.ending;
        let has_ended = |lock: &LockRow| !ending.is_empty() && ending.contains(&(lock.token, lock.path.clone()));
        let is_due = |lock: &LockRow| fits(lock) && lock.expires < expires && !has_ended(lock);
        for lock in self.locks.iter_mut().filter(|lock| is_due(lock)) {
            lock.expires = expires;
            if room < change_size(lock) {
                self.unwritten.insert((lock.token, lock.path.clone()), expires);
            } else {
                room -= change_size(lock);
                turn.store.put_lock(lock)?;
            }
        }
        Ok(())
    }

    /// Writes as many of the extended locks as one turn may change.
    fn write_extended(&mut self, turn: &mut Turn) -> Result<(), Error> {
        let mut room = CHANGED_BYTES;
        while let Some((key, _)) = self.unwritten.first_key_value().filter(|_| room > 0) {
            if let Some(lock) = self.locks.on_path(&key.1).find(|lock| (lock.token, &lock.path) == (key.0, &key.1)) {
                room = room.saturating_sub(change_size(lock));
                turn.store.put_lock(lock)?;
            }
            self.unwritten.pop_first();
        }
        Ok(())
    }

    /// Ends the matching locks. Their events contain the `reason`; `None` if the holder itself releases them. Ends only
    /// as many locks as one turn may change. The others count as expired from now on, and the next turns end them.
    ///
    /// # Errors
    /// When the database can't be written.
    pub(in crate::core) fn release(
        &mut self,
        turn: &mut Turn,
        peers: &Peers,
        journal: &Journal,
        ends: impl Fn(&LockRow) -> bool,
        reason: Option<&str>,
        now: i64,
    ) -> Result<(), Error> {
        let mut ended: Vec<LockRow> = Vec::new();
        let mut room = CHANGED_BYTES;
        for lock in self.locks.iter_mut().filter(|lock| ends(lock)) {
            if !self.unwritten.is_empty() {
                self.unwritten.remove(&(lock.token, lock.path.clone()));
            }
            if ended.is_empty() || room >= change_size(lock) {
                room = room.saturating_sub(change_size(lock));
                ended.push(lock.clone());
            } else {
                // One of the next turns ends this lock.
                lock.expires = lock.expires.min(now);
                self.ending.insert((lock.token, lock.path.clone()));
                self.first_expiry = Some(self.first_expiry.map_or(now, |first| first.min(now)));
            }
        }
        if ended.is_empty() {
            return Ok(());
        }
        for lock in &ended {
            turn.store.drop_lock(lock.token, &lock.path)?;
            journal.record(turn, peers, &Change::FileUnlocked { lock, reason }, &lock.holder, now)?;
        }
        for lock in &ended {
            self.locks.remove(lock.token, &lock.path);
            let key = (lock.token, lock.path.clone());
            self.ending.remove(&key);
            self.editors.remove(&key);
            self.unclear.remove(&key);
        }
        turn.dirty.locks = true;
        Ok(())
    }
}
