//! The log that keeps several hubs equal: the leader appends what each turn changed before anything leaves,
//! the other hubs repeat it.
//!
//! [`ReplicatedLog`] is all that a hub needs of the engine that stores the log. [`etcd`] is that engine; the
//! simulator has one in memory, with faults.
//!
//! **Invariant:** an entry is stored once, in the order of the positions, and only by the hub that leads at
//! that moment. A hub that was deposed stores nothing more, whenever its request arrives.

mod entry;
pub mod etcd;

pub use entry::{EntryError, LogEntry};

use std::time::Duration;

/// Names the time in which one hub leads; a later leader has a larger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Term(pub u64);

/// The place of an entry in the log. The first entry has 1, and there is no gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position(pub u64);

impl Position {
    /// The place after this one.
    pub fn next(self) -> Position {
        Position(self.0 + 1)
    }
}

/// The result of a leader election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Election {
    /// This hub leads. It must read the log to its end before it serves.
    Won(Term),
    /// Another hub leads, at this address.
    Lost(String),
}

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Append {
    /// It is stored for good.
    Stored,
    /// It is not stored, and this hub still leads: the engine is full, for example.
    Refused(String),
    /// It is not stored, because this hub does not lead any more.
    Deposed,
    /// It is unknown whether the entry was stored. The hub must stop leading without answering any client. The next
    /// leader finds out.
    Unknown(String),
}

/// Why the engine gives no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogError {
    /// No member answered in time. What was asked may have happened.
    NoAnswer(String),
    /// The engine refused what was asked, so it did not happen.
    Refused(String),
    /// The entries that were asked for are no longer there: the log begins at this position.
    Trimmed(Position),
}

impl std::fmt::Display for LogError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LogError::NoAnswer(why) | LogError::Refused(why) => f.write_str(why),
            LogError::Trimmed(first) => {
                write!(f, "the log begins at entry {}, so this hub needs a snapshot of the hub that leads", first.0)
            }
        }
    }
}

/// A log that several hubs share.
pub trait ReplicatedLog {
    /// Tries to lead. `address` is where guests find this hub.
    ///
    /// # Errors
    /// When the engine gives no answer; then this hub does not lead.
    fn lead(&mut self, address: &str) -> Result<Election, LogError>;

    /// Whether this hub surely leads at this instant. Nothing may leave when it does not: another hub may
    /// have changed what an answer says.
    fn is_leading(&self) -> bool;

    /// Gives up the leadership at once, if the engine can be reached.
    fn step_down(&mut self);

    /// The address of the hub that leads; `None` while there is none.
    ///
    /// # Errors
    /// When the engine gives no answer.
    fn leader(&mut self) -> Result<Option<String>, LogError>;

    /// Stores an entry at a position, for the hub that leads. To repeat it is harmless.
    fn append(&mut self, at: Position, entry: &LogEntry) -> Append;

    /// The entries from a position on, in order, without a gap; all of them, or the first ones. What this returns
    /// after [`ReplicatedLog::lead`] was won holds everything that any earlier leader has stored.
    ///
    /// # Errors
    /// When the engine gives no answer, or an entry can't be read.
    fn follow(&mut self, from: Position) -> Result<Vec<(Position, LogEntry)>, LogError>;

    /// The last entry of the log; `None` while the log is empty.
    ///
    /// # Errors
    /// When the engine gives no answer, or the entry can't be read.
    fn last(&mut self) -> Result<Option<(Position, LogEntry)>, LogError>;

    /// Waits until there may be something new, at most for this long.
    fn wait_for_news(&mut self, at_most: Duration);

    /// Tells the others up to where this hub has the log on its disk, for as long as it lives.
    ///
    /// # Errors
    /// When the engine gives no answer.
    fn report_position(&mut self, hub: &str, at: Position) -> Result<(), LogError>;
}
