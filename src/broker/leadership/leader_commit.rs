//! Commits the turns of the event loop on the hub that leads. The changes of a turn go first into the log, and then
//! into the database. Only then may the hub send its responses.

use super::Standby;
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::{EntryStamp, LogId, Term};
use crate::core::Mesh;
use crate::replication::{Append, LogEntry, Position, ReplicatedLog};
use crate::store::{LogPosition, Store};

/// How a leader's turn ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TurnEnd {
    /// The turn is in the log and in the database, so its responses may be sent.
    Committed,
    /// The turn was rolled back, and the callers whose replies depend on its writes get an error. The hub continues to
    /// lead.
    TakenBack,
    /// The hub no longer leads, for the reason given here. The log may contain the turn, so nothing may be sent, not
    /// even an error. The caller must drop the mesh and go on standby.
    Deposed(String),
}

/// A hub that leads, and its connection to the log.
#[derive(Debug)]
pub struct Leader<L> {
    pub(super) log: L,
    pub(super) id: LogId,
    pub(super) term: Term,
    /// The position that the next entry will have.
    pub(super) next: Position,
    /// The term and the time of the last entry.
    pub(super) last: EntryStamp,
}

impl<L: ReplicatedLog> Leader<L> {
    /// Ends a turn: stores its changes in the log, and then commits the database.
    pub fn commit_turn(&mut self, mesh: &mut Mesh, now: i64) -> TurnEnd {
        let stamp = EntryStamp { term: self.term, now };
        let refusal = match mesh.seal(LogPosition { log: self.id, index: self.next.0, stamp }) {
            Err(error) => Some(error),
            Ok(None) => None,
            Ok(Some(changes)) => {
                let (log, schema, previous) = (self.id, Store::schema(), self.last);
                let changes = changes.into_bytes();
                let entry = LogEntry { log, schema, term: self.term, now, previous, changes };
                match self.log.append(self.next, &entry) {
                    Append::Stored => {
                        (self.next, self.last) = (self.next.next(), stamp);
                        None
                    }
                    Append::Refused(why) => Some(Error::new(ErrorKind::Storage, why)),
                    Append::Deposed => return TurnEnd::Deposed("another hub leads".into()),
                    Append::Unknown(why) => return TurnEnd::Deposed(why),
                }
            }
        };
        if let Some(error) = &refusal {
            mesh.take_back(error);
        } else if !mesh.commit() {
            return TurnEnd::Deposed(
                "the last changes are in the log, but this machine could not write them to its disk".into(),
            );
        }
        // If another hub has become the leader, the data that the turn has read may be outdated.
        if !self.log.still_leads() {
            return TurnEnd::Deposed("the lease has ended".into());
        }
        if refusal.is_some() { TurnEnd::TakenBack } else { TurnEnd::Committed }
    }

    /// The connection to the log.
    pub fn log(&self) -> &L {
        &self.log
    }

    /// The id of the log.
    pub fn log_id(&self) -> LogId {
        self.id
    }

    /// The position of the last entry.
    pub fn position(&self) -> Position {
        Position(self.next.0 - 1)
    }

    /// Gives up the lead, so that another hub need not wait until the lease ends.
    pub fn step_down(mut self) -> Standby<L> {
        self.log.step_down();
        Standby::new(self.log)
    }
}
