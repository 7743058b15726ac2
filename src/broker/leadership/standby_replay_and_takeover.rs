//! A hub on standby. It applies the entries that the leader stores, and can take over.

use super::database_belongs_to_log::diverged;
use super::{DatabaseLogMatch, Leader};
use crate::base::id_types::{LogId, Term};
use crate::replication::{Election, LogEntry, LogError, Position, ReplicatedLog};
use crate::store::{Changeset, LogPosition, Store, StoreError};

/// The key in the `meta` table. Its value is the address of the hub that began the log.
const FOUNDER: &str = "log_founder";

/// The error for a hub that was started with --rejoin while etcd has no log. This hub must not begin the log, because
/// another hub has the data with which the log must begin.
const NOTHING_TO_JOIN: &str = "this hub was started with --rejoin, but etcd has no log under the name in \
                               SLM_MESH_STORE yet. Run slm-mesh start --new-log on the hub that has the data; this hub \
                               will then follow that hub's log. To begin an empty mesh instead, run slm-mesh start \
                               --new-log on this hub";

/// Why a standby can't continue.
#[derive(Debug)]
pub enum StandbyError {
    /// Access to the log failed.
    Log(LogError),
    /// Access to this hub's database failed.
    Store(StoreError),
}

impl std::fmt::Display for StandbyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StandbyError::Log(error) => error.fmt(f),
            StandbyError::Store(error) => error.fmt(f),
        }
    }
}

impl From<LogError> for StandbyError {
    fn from(error: LogError) -> StandbyError {
        StandbyError::Log(error)
    }
}

impl From<StoreError> for StandbyError {
    fn from(error: StoreError) -> StandbyError {
        StandbyError::Store(error)
    }
}

/// A hub that follows the log while another hub leads.
#[derive(Debug)]
pub struct Standby<L> {
    pub(super) log: L,
}

/// The result of an attempt to become the leader.
pub enum TakeOver<L> {
    /// This hub leads. Its store contains the whole log. From now on, the store records changes.
    Leads(Leader<L>),
    /// Another hub leads, at this address.
    StandsBy(Standby<L>, String),
}

impl<L: ReplicatedLog> Standby<L> {
    /// Makes a standby that has applied no entry of the log yet.
    pub fn new(log: L) -> Standby<L> {
        Standby { log }
    }

    /// Compares the database of this hub with the log in etcd.
    ///
    /// # Errors
    /// When the log does not answer, its last entry can't be read, or this hub's disk fails.
    pub fn match_database(&mut self, store: &Store) -> Result<DatabaseLogMatch, StandbyError> {
        let end = self.end()?;
        Ok(match DatabaseLogMatch::of(end, store.log_position()?, store.is_expendable()?) {
            DatabaseLogMatch::NoLog if store.joins_log()? => DatabaseLogMatch::Refused(NOTHING_TO_JOIN.into()),
            found => found,
        })
    }

    /// Applies the next entries of the log. Returns the position and the time of the last applied entry; `None` if
    /// there were no new entries.
    ///
    /// # Errors
    /// In these cases: the log does not answer, an entry can't be read, an entry belongs to another mesh, or this hub's
    /// disk fails.
    pub fn follow(&mut self, store: &mut Store) -> Result<Option<(Position, i64)>, StandbyError> {
        let own = store.log_position()?;
        let entries = self.log.follow(Position(own.map_or(0, |own| own.index)).next())?;
        let Some((at, now)) = entries.last().map(|(at, entry)| (*at, entry.now)) else { return Ok(None) };
        let log = own.map_or(entries[0].1.log, |own| own.log);
        let mut last = own.map(|own| own.stamp).unwrap_or_default();
        let mut changes = Vec::with_capacity(entries.len());
        for (at, entry) in entries {
            let (previous, stamp) = (entry.previous, entry.stamp());
            changes.push(checked_changes(entry, log)?);
            if previous != last {
                return Err(LogError::Refused(diverged(at.0 - 1)).into());
            }
            last = stamp;
        }
        store.apply(&changes)?;
        Ok(Some((at, now)))
    }

    /// Tries to become the leader, and then applies the rest of the log. As soon as this hub leads, an earlier leader
    /// can no longer store entries. If there is no log yet, this hub begins a log, whose id comes from `new_log`.
    ///
    /// # Errors
    /// The same as those of [`Standby::follow`]. After an error, this hub does not lead.
    pub fn take_over(
        mut self,
        store: &mut Store,
        address: &str,
        new_log: impl FnOnce() -> LogId,
    ) -> Result<TakeOver<L>, (Standby<L>, StandbyError)> {
        let term = match self.log.lead(address) {
            Ok(Election::Won(term)) => term,
            Ok(Election::Lost(leader)) => return Ok(TakeOver::StandsBy(self, leader)),
            Err(error) => return Err((self, error.into())),
        };
        let next = |own: Option<LogPosition>| Position(own.map_or(0, |own| own.index)).next();
        let begun = self.follow_to_end(store).and_then(|own| {
            begin(store, (term, next(own)), own.is_none().then_some(address))?;
            Ok(own)
        });
        match begun {
            Ok(own) => {
                let (id, next) = (own.map_or_else(new_log, |own| own.log), next(own));
                let last = own.map(|own| own.stamp).unwrap_or_default();
                Ok(TakeOver::Leads(Leader { log: self.log, id, term, next, last }))
            }
            Err(error) => {
                self.log.step_down();
                Err((self, error))
            }
        }
    }

    /// Applies the rest of the log, and checks that the database and the log end at the same entry. The check fails if
    /// etcd has lost entries, for example because it was restored from a backup.
    fn follow_to_end(&mut self, store: &mut Store) -> Result<Option<LogPosition>, StandbyError> {
        if store.log_position()?.is_none() && self.end()?.is_some() {
            // This database belongs to no log, so the entries of another hub's log must not be added to it.
            return Err(LogError::Refused("another hub has just begun the log of this mesh".into()).into());
        }
        while self.follow(store)?.is_some() {}
        let (end, own) = (self.end()?, store.log_position()?);
        match DatabaseLogMatch::of(end, own, false) {
            DatabaseLogMatch::Refused(why) => Err(LogError::Refused(why).into()),
            DatabaseLogMatch::NoLog | DatabaseLogMatch::SameLog | DatabaseLogMatch::NeedsSnapshot => Ok(own),
        }
    }

    /// The position of the last entry of the log; `None` while the log is empty.
    fn end(&mut self) -> Result<Option<LogPosition>, LogError> {
        let position =
            |(at, entry): (Position, LogEntry)| LogPosition { log: entry.log, index: at.0, stamp: entry.stamp() };
        Ok(self.log.last()?.map(position))
    }
}

/// Starts to record the changes of the store. The first change contains the leader's term and first position, so the
/// log gets an entry immediately. If the log stayed empty, another hub could begin its own log. If this hub begins a
/// new log, `founder` is this hub's address.
fn begin(store: &mut Store, (term, first): (Term, Position), founder: Option<&str>) -> Result<(), StandbyError> {
    store.start_recording();
    store.begin_call();
    store.note_term(term, first.0)?;
    if let Some(address) = founder {
        store.set_meta(FOUNDER, address)?;
    }
    store.end_call()?;
    Ok(())
}

/// Returns the changes of an entry. Fails if the entry belongs to a different log, or if it was written by a version of
/// slm-mesh that is newer or much older than this version.
fn checked_changes(entry: LogEntry, log: LogId) -> Result<Changeset, LogError> {
    if entry.log != log {
        return Err(LogError::Refused("the log in etcd belongs to another mesh; see slm-mesh help machines".into()));
    }
    if entry.schema > Store::schema() {
        let text = format!(
            "the leader has a newer slm-mesh (its database has version {}, but this hub's has {}); upgrade this hub",
            entry.schema,
            Store::schema()
        );
        return Err(LogError::Refused(text));
    }
    if !Store::can_replay(entry.schema) {
        let text = format!(
            "the leader's slm-mesh is too old (its database has version {}, but this hub's has {}); stop all hubs, \
             upgrade all of them, and start the former leader first",
            entry.schema,
            Store::schema()
        );
        return Err(LogError::Refused(text));
    }
    Ok(Changeset::from_bytes(entry.changes))
}
