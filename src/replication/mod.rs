//! The log that several hubs share. In each turn of its event loop, the leader appends its changes to the log before it
//! answers clients. The other hubs apply these changes to their databases.
//!
//! [`ReplicatedLog`] is the interface of a log. The implementation in [`etcd`] stores the log in etcd. The simulator in
//! `tests/simulate` has another implementation, which is in memory and injects faults.
//!
//! **Invariant:** each position gets one entry, in order, and only from the hub that leads at that moment. A hub that
//! no longer leads can't store anything, no matter when its request arrives.

mod entry;
pub mod etcd;

pub use entry::{EntryError, LogEntry};

use crate::base::id_types::Term;
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
    /// This hub leads now. Before it serves clients, it must read the log to the end.
    Won(Term),
    /// Another hub leads. Contains the address of that hub.
    Lost(String),
}

/// The result of appending an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Append {
    /// The entry is stored.
    Stored,
    /// The entry was not stored, for example because etcd has no space. This hub still leads.
    Refused(String),
    /// The entry was not stored, because this hub no longer leads.
    Deposed,
    /// It is unknown whether the entry was stored. The hub must stop leading, and must not answer the waiting clients.
    /// The next leader finds out whether the log contains the entry.
    Unknown(String),
}

/// Why a request to the log failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogError {
    /// No answer came in time. The request may have been executed.
    NoAnswer(String),
    /// The request was refused, so it was not executed.
    Refused(String),
    /// The requested entries have been removed. Contains the position of the first entry that still exists.
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
    /// Tries to become the leader. Guests reach this hub at `address`.
    ///
    /// # Errors
    /// When the log does not answer. In this case, this hub does not lead.
    fn lead(&mut self, address: &str) -> Result<Election, LogError>;

    /// Whether this hub still leads. If it does not, it must not answer clients, because another hub may have changed
    /// the data. If the log has not answered recently, waits until the lead is confirmed or lost.
    fn still_leads(&self) -> bool;

    /// Stops leading. If the log can be reached, another hub can lead at once.
    fn step_down(&mut self);

    /// The address of the leading hub; `None` while no hub leads.
    ///
    /// # Errors
    /// When the log does not answer.
    fn leader(&mut self) -> Result<Option<String>, LogError>;

    /// Stores an entry at a position. Only the leader may call this. Calling it again with the same entry does no harm.
    fn append(&mut self, at: Position, entry: &LogEntry) -> Append;

    /// Returns entries in order and without gaps, starting at a position. One call does not always return all of them.
    /// After [`ReplicatedLog::lead`] has returned [`Election::Won`], repeated calls return every entry that an earlier
    /// leader has stored.
    ///
    /// # Errors
    /// When the log does not answer, when an entry can't be read, or when the entry at this position has been removed.
    fn follow(&mut self, from: Position) -> Result<Vec<(Position, LogEntry)>, LogError>;

    /// The last entry of the log and its position; `None` while the log is empty.
    ///
    /// # Errors
    /// When the log does not answer, or when the entry can't be read.
    fn last(&mut self) -> Result<Option<(Position, LogEntry)>, LogError>;

    /// Waits until the log may have new entries, but no longer than `at_most`.
    fn wait_for_news(&mut self, at_most: Duration);

    /// Reports to the other hubs which entry is the last one on this hub's disk. The report disappears when this hub is
    /// gone.
    ///
    /// # Errors
    /// When the log does not answer.
    fn report_position(&mut self, hub: &str, at: Position) -> Result<(), LogError>;
}
