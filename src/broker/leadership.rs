//! What a hub adds to a turn when several hubs share a log: one that leads stores the turn there before it
//! commits, and one that stands by repeats what it finds there.
//!
//! **Invariant:** nothing leaves a hub that is not in the log, and nothing leaves one that may be deposed. The
//! database of a hub is never ahead of the log.

use crate::base::error::{Error, ErrorKind};
use crate::core::Mesh;
use crate::replication::{Append, Election, LogEntry, LogError, Position, ReplicatedLog, Term};
use crate::store::{Changeset, LogPosition, Store, StoreError};

/// How the turn of a hub that leads ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TurnEnd {
    /// It is in the log and on the disk; its answers may leave.
    Committed,
    /// It was taken back, and its callers get the error. The hub goes on.
    TakenBack,
    /// The hub does not lead any more, for this reason. Nothing of the turn may leave, not even an error: it may
    /// be in the log. The mesh must be dropped, and its store belongs to a standby.
    Deposed(String),
}

/// Why a standby can't go on.
#[derive(Debug)]
pub enum StandbyError {
    /// The engine of the log.
    Log(LogError),
    /// This hub's own disk.
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

/// A hub's share in the log while it leads.
#[derive(Debug)]
pub struct Leader<L> {
    log: L,
    term: Term,
    /// Where the next entry goes.
    next: Position,
}

impl<L: ReplicatedLog> Leader<L> {
    /// Ends a turn: into the log, then onto the disk.
    pub fn commit_turn(&mut self, mesh: &mut Mesh, now: i64) -> TurnEnd {
        match mesh.seal(LogPosition { index: self.next.0, now }) {
            Err(error) => {
                mesh.take_back(&error);
                return TurnEnd::TakenBack;
            }
            // It may have read what another hub has changed since.
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

    /// Gives the leadership up, so that another hub need not wait for the end of the lease.
    pub fn step_down(mut self) -> Standby<L> {
        self.log.step_down();
        Standby { log: self.log }
    }
}

/// A hub's share in the log while another hub leads.
#[derive(Debug)]
pub struct Standby<L> {
    log: L,
}

/// What came of a standby's wish to lead.
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

    /// Repeats the next entries of the log; returns how many there were.
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

    /// Tries to lead, and then repeats what is left of the log. An earlier leader can store nothing more by then.
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
