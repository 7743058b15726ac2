//! The log that several hubs share. The leader appends the changes of each turn of its broker's loop before it sends
//! any answer, and the other hubs apply these changes.
//!
//! [`ReplicatedLog`] is the interface to whatever stores the log. [`etcd`] is one implementation. The simulator in
//! `tests/simulate` has another one, in memory and with faults.
//!
//! **Invariant:** each position gets one entry, in order, and only from the hub that leads at that moment. A hub
//! that has been deposed can't store anything, no matter when its request arrives.

mod entry;
pub mod etcd;

pub use entry::{EntryError, LogEntry};

use crate::base::ids::Term;
use std::time::Duration;

/// The position of an entry in the log. The first entry has position 1, and there are no gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position(pub u64);

impl Position {
    /// The position after this one.
    pub fn next(self) -> Position {
        Position(self.0 + 1)
    }
}

/// The result of a leader election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Election {
    /// This hub leads. It must read the log to its end before it serves clients.
    Won(Term),
    /// Another hub leads, at this address.
    Lost(String),
}

/// The result of appending an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Append {
    /// The entry is stored.
    Stored,
    /// The entry was not stored, but this hub still leads. For example, etcd may have no space.
    Refused(String),
    /// The entry was not stored, because this hub no longer leads.
    Deposed,
    /// It is unknown whether the entry was stored. The hub must stop leading, and must not answer any client. The next
    /// leader will find out whether the entry was stored.
    Unknown(String),
}

/// Why a request to the log failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogError {
    /// No member answered in time. The request may have been executed.
    NoAnswer(String),
    /// The request was refused, so it was not executed.
    Refused(String),
    /// The requested entries have been removed. The log now begins at this position.
    Trimmed(Position),
}

impl std::fmt::Display for LogError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LogError::NoAnswer(why) | LogError::Refused(why) => f.write_str(why),
            LogError::Trimmed(first) => {
                write!(
                    f,
                    "the log in etcd now begins at entry {}, so this hub needs a snapshot (a copy of the leading hub's \
                     database)",
                    first.0
                )
            }
        }
    }
}

/// A log that several hubs share.
pub trait ReplicatedLog {
    /// Tries to become the leader. `address` is the address at which guests reach this hub.
    ///
    /// # Errors
    /// When there is no answer. In this case, this hub does not lead.
    fn lead(&mut self, address: &str) -> Result<Election, LogError>;

    /// Whether this hub is certain to lead at this instant. If not, no answer may be sent, because another hub may have
    /// changed the facts on which the answer is based. If the log has not answered for a moment, the lead is doubtful,
    /// and the call waits until the lead is certain, or until another hub can lead.
    fn still_leads(&self) -> bool;

    /// Gives up the lead at once, if the log can be reached.
    fn step_down(&mut self);

    /// The address of the hub that leads; `None` while no hub leads.
    ///
    /// # Errors
    /// When there is no answer.
    fn leader(&mut self) -> Result<Option<String>, LogError>;

    /// Stores an entry at a position. Only the leader may call this. Repeating the call does no harm.
    fn append(&mut self, at: Position, entry: &LogEntry) -> Append;

    /// The entries from a position on, in order and without gaps. The result may end before the last entry. Once
    /// [`ReplicatedLog::lead`] has returned [`Election::Won`], no entry that an earlier leader stored is missing.
    ///
    /// # Errors
    /// When there is no answer, or an entry can't be read.
    fn follow(&mut self, from: Position) -> Result<Vec<(Position, LogEntry)>, LogError>;

    /// The last entry of the log; `None` while the log is empty.
    ///
    /// # Errors
    /// When there is no answer, or the entry can't be read.
    fn last(&mut self) -> Result<Option<(Position, LogEntry)>, LogError>;

    /// Waits until there may be new entries, but at most for this long.
    fn wait_for_news(&mut self, at_most: Duration);

    /// Tells the other hubs how much of the log this hub has on its disk. The report disappears when this hub is
    /// gone.
    ///
    /// # Errors
    /// When there is no answer.
    fn report_position(&mut self, hub: &str, at: Position) -> Result<(), LogError>;
}
