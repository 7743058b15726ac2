//! A hub on standby. It applies the entries that the leader stores, and can take over.

use super::{DatabaseLogMatch, Leader};
use crate::base::ids::LogId;
use crate::replication::{Election, LogEntry, LogError, Position, ReplicatedLog};
use crate::store::{Changeset, Store, StoreError};

/// The `meta` table stores the address of the hub that began the log under this key.
const FOUNDER: &str = "log_founder";

/// Why a hub that was started with --rejoin can't continue if there is no log. If it began the log, this would be an
/// empty one, and the hub that has the data could no longer begin it.
const NOTHING_TO_JOIN: &str = "this hub was started with --rejoin, but etcd has no log under this name yet; run slm-mesh \
                               start --new-log on the hub that has the data, and this hub then follows (to begin an \
                               empty mesh, run it on this hub)";

/// Why a standby can't continue.
#[derive(Debug)]
pub enum StandbyError {
    /// The log failed.
    Log(LogError),
    /// The disk of this hub failed.
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

/// The result when a standby tries to lead.
pub enum TakeOver<L> {
    /// This hub leads. Its store contains the whole log, and records changes from now on.
    Leads(Leader<L>),
    /// Another hub leads. Its address is given.
    StandsBy(Standby<L>, String),
}

impl<L: ReplicatedLog> Standby<L> {
    /// Makes a standby, which has not followed the log yet.
    pub fn new(log: L) -> Standby<L> {
        Standby { log }
    }

    /// Whether the database of this hub belongs to the log.
    ///
    /// # Errors
    /// When the log does not answer, its last entry can't be read, or this hub's disk fails.
    pub fn match_database(&mut self, store: &Store) -> Result<DatabaseLogMatch, StandbyError> {
        let end = self.log.last()?.map(|(at, entry)| (entry.log, at));
        Ok(match DatabaseLogMatch::of(end, store.log_position()?, store.is_expendable()?) {
            DatabaseLogMatch::NoLog if store.joins_log()? => DatabaseLogMatch::Refused(NOTHING_TO_JOIN.into()),
            found => found,
        })
    }

    /// Applies the next entries of the log. Returns the position and the time of the last one; `None` if there are no
    /// new entries.
    ///
    /// # Errors
    /// When the log does not answer, an entry can't be read or belongs to another mesh, or this hub's disk fails.
    pub fn follow(&mut self, store: &mut Store) -> Result<Option<(Position, i64)>, StandbyError> {
        let entries = self.log.follow(next_position(store)?)?;
        let Some((at, now)) = entries.last().map(|(at, entry)| (*at, entry.now)) else { return Ok(None) };
        let log = store.log_position()?.map_or(entries[0].1.log, |position| position.log);
        let changes = entries.into_iter().map(|(_, entry)| checked_changes(entry, log));
        let changes = changes.collect::<Result<Vec<_>, LogError>>()?;
        store.apply(&changes)?;
        Ok(Some((at, now)))
    }

    /// Tries to become the leader, and then applies the rest of the log. Once this hub leads, an earlier leader can no
    /// longer store entries. If there is no log yet, this hub begins one, with the id that `new_log` returns.
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
        match self.follow_to_end(store).and_then(|position| Ok((position, begin(store, position, address)?))) {
            Ok((position, ())) => {
                let (id, next) = position.map_or_else(|| (new_log(), Position(1)), |(id, last)| (id, last.next()));
                Ok(TakeOver::Leads(Leader { log: self.log, id, term, next }))
            }
            Err(error) => {
                self.log.step_down();
                Err((self, error))
            }
        }
    }

    fn follow_to_end(&mut self, store: &mut Store) -> Result<Option<(LogId, Position)>, StandbyError> {
        while self.follow(store)?.is_some() {}
        Ok(store.log_position()?.map(|position| (position.log, Position(position.index))))
    }
}

/// Makes the store record its changes. In a new log, this also records a first change, so that the log gets an
/// entry at once. Until there is an entry, another hub could begin a log of its own.
fn begin(store: &mut Store, position: Option<(LogId, Position)>, address: &str) -> Result<(), StandbyError> {
    store.start_recording();
    if position.is_none() {
        store.begin_call();
        store.set_meta(FOUNDER, address)?;
        store.end_call()?;
    }
    Ok(())
}

/// The changes of an entry, if this program can apply them to the database of this log.
fn checked_changes(entry: LogEntry, log: LogId) -> Result<Changeset, LogError> {
    if entry.log != log {
        return Err(LogError::Refused("the log in etcd belongs to another mesh; see slm-mesh help machines".into()));
    }
    if entry.schema > Store::schema() {
        let text = format!(
            "the hub that leads runs a newer slm-mesh (its tables have version {}, here they have {}); upgrade this hub",
            entry.schema,
            Store::schema()
        );
        return Err(LogError::Refused(text));
    }
    Ok(Changeset::from_bytes(entry.changes))
}

fn next_position(store: &Store) -> Result<Position, StoreError> {
    let last = store.log_position()?.map_or(0, |position| position.index);
    Ok(Position(last).next())
}
