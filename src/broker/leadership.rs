//! Turns of hubs that share a replicated log: the leader stores each turn in the log before it commits, and a standby
//! applies the entries of the log.
//!
//! **Invariant:** a hub sends nothing that is not in the log, and a hub that may have been deposed sends nothing. A
//! hub's database is never ahead of the log.

use crate::base::error::{Error, ErrorKind};
use crate::core::Mesh;
use crate::replication::{Append, Election, LogEntry, LogError, Position, ReplicatedLog, Term};
use crate::store::{Changeset, LogPosition, Store, StoreError};

/// The result of a leader's turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TurnEnd {
    /// It is in the log and on the disk; its answers may leave.
    Committed,
    /// It was rolled back, and its callers get the error. The hub goes on.
    TakenBack,
    /// The hub no longer leads, for this reason. Nothing of the turn may leave, not even an error, because the turn
    /// may be in the log. The mesh must be dropped, and its store belongs to a standby.
    Deposed(String),
}

/// Why a standby can't go on.
#[derive(Debug)]
pub enum StandbyError {
    /// The log's engine failed.
    Log(LogError),
    /// This hub's own disk failed.
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

/// A hub that leads, with its access to the log.
#[derive(Debug)]
pub struct Leader<L> {
    log: L,
    term: Term,
    /// The position of the next entry.
    next: Position,
}

impl<L: ReplicatedLog> Leader<L> {
    /// Ends a turn: stores it in the log, and then on the disk.
    pub fn commit_turn(&mut self, mesh: &mut Mesh, now: i64) -> TurnEnd {
        match mesh.seal(LogPosition { index: self.next.0, now }) {
            Err(error) => {
                mesh.take_back(&error);
                return TurnEnd::TakenBack;
            }
            // The turn may have read data that another hub has changed since.
            Ok(None) if !self.log.is_leading() => return TurnEnd::Deposed("the lease has ended".into()),
            Ok(None) => {}
            Ok(Some(changes)) => {
                let entry = LogEntry { term: self.term, now, changes: changes.into_bytes() };
                match self.log.append(self.next, &entry) {
                    Append::Stored => self.next = self.next.next(),
                    Append::Refused(why) => {
                        mesh.take_back(&Error::new(ErrorKind::Storage, why));
                        return TurnEnd::TakenBack;
                    }
                    Append::Deposed => return TurnEnd::Deposed("another hub leads".into()),
                    Append::Unknown(why) => return TurnEnd::Deposed(why),
                }
            }
        }
        if !mesh.commit() {
            return TurnEnd::Deposed("the turn is in the log, and this machine's disk refused it".into());
        }
        if !self.log.is_leading() {
            return TurnEnd::Deposed("the lease has ended".into());
        }
        TurnEnd::Committed
    }

    /// Gives up the leadership, so that another hub does not have to wait for the end of the lease.
    pub fn step_down(mut self) -> Standby<L> {
        self.log.step_down();
        Standby { log: self.log }
    }
}

/// A hub that stands by while another hub leads.
#[derive(Debug)]
pub struct Standby<L> {
    log: L,
}

/// The result of a standby's attempt to lead.
pub enum TakeOver<L> {
    /// It leads, and its store has the whole log. The store records from now on.
    Leads(Leader<L>),
    /// Another hub leads, at this address.
    StandsBy(Standby<L>, String),
}

impl<L: ReplicatedLog> Standby<L> {
    /// A hub that has just started.
    pub fn new(log: L) -> Standby<L> {
        Standby { log }
    }

    /// Applies the next entries of the log; returns how many there were.
    ///
    /// # Errors
    /// When the engine gives no answer, an entry can't be read, or this disk refuses.
    pub fn follow(&mut self, store: &mut Store) -> Result<usize, StandbyError> {
        let entries = self.log.follow(next_position(store)?)?;
        let n = entries.len();
        let changes: Vec<Changeset> =
            entries.into_iter().map(|(_, entry)| Changeset::from_bytes(entry.changes)).collect();
        if n > 0 {
            store.apply(&changes)?;
        }
        Ok(n)
    }

    /// Tries to become the leader, and then applies the rest of the log. By then, an earlier leader can no longer
    /// store entries.
    ///
    /// # Errors
    /// As [`Standby::follow`]; this hub then does not lead.
    pub fn take_over(mut self, store: &mut Store, address: &str) -> Result<TakeOver<L>, (Standby<L>, StandbyError)> {
        let term = match self.log.lead(address) {
            Ok(Election::Won(term)) => term,
            Ok(Election::Lost(leader)) => return Ok(TakeOver::StandsBy(self, leader)),
            Err(error) => return Err((self, error.into())),
        };
        match self.follow_to_end(store) {
            Ok(next) => {
                store.start_recording();
                Ok(TakeOver::Leads(Leader { log: self.log, term, next }))
            }
            Err(error) => {
                self.log.step_down();
                Err((self, error))
            }
        }
    }

    fn follow_to_end(&mut self, store: &mut Store) -> Result<Position, StandbyError> {
        while self.follow(store)? > 0 {}
        Ok(next_position(store)?)
    }
}

fn next_position(store: &Store) -> Result<Position, StoreError> {
    let last = store.log_position()?.map_or(0, |position| position.index);
    Ok(Position(last).next())
}
