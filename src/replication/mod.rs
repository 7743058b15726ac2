//! The log that several hubs share: the leader appends the changes of each turn before anything leaves, and the other
//! hubs repeat them.
//!
//! [`ReplicatedLog`] is the interface to the engine that stores the log. [`etcd`] is such an engine, and the
//! simulator has one in memory, with faults.
//!
//! **Invariant:** an entry is stored once, in the order of the positions, and only by the hub that leads at that
//! moment. A hub that was deposed stores nothing more, whenever its request arrives.

mod entry;
pub mod etcd;

pub use entry::{EntryError, LogEntry};

use std::time::Duration;

/// The number of the time in which one hub leads. A later leader has a larger number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Term(pub u64);

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
    /// The entry is not stored, but this hub still leads. For example, the engine is full.
    Refused(String),
    /// The entry is not stored, because this hub does not lead any more.
    Deposed,
    /// Nobody knows whether the entry was stored. The hub must stop leading without answering any client, and the
    /// next leader finds out.
    Unknown(String),
}

/// Why the engine did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogError {
    /// No member answered in time. The request may have been executed.
    NoAnswer(String),
    /// The engine refused the request, so it was not executed.
    Refused(String),
    /// The requested entries no longer exist, because the log begins at this position.
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
    /// Tries to lead. `address` is the address at which guests reach this hub.
    ///
    /// # Errors
    /// When the engine gives no answer. Then this hub does not lead.
    fn lead(&mut self, address: &str) -> Result<Election, LogError>;

    /// Whether this hub surely leads at this instant. If not, nothing may leave, because another hub may have changed
    /// the facts in an answer.
    fn is_leading(&self) -> bool;

    /// Gives up the leadership at once, if the engine can be reached.
    fn step_down(&mut self);

    /// The address of the hub that leads; `None` while no hub leads.
    ///
    /// # Errors
    /// When the engine gives no answer.
    fn leader(&mut self) -> Result<Option<String>, LogError>;

    /// Stores an entry at a position, for the hub that leads. Repeating this does no harm.
    fn append(&mut self, at: Position, entry: &LogEntry) -> Append;

    /// The entries from a position on, in order and without a gap; all of them, or the first ones. After
    /// [`ReplicatedLog::lead`] was won, the result contains everything that earlier leaders have stored.
    ///
    /// # Errors
    /// When the engine gives no answer, or an entry can't be read.
    fn follow(&mut self, from: Position) -> Result<Vec<(Position, LogEntry)>, LogError>;

    /// The last entry of the log; `None` while the log is empty.
    ///
    /// # Errors
    /// When the engine gives no answer, or the entry can't be read.
    fn last(&mut self) -> Result<Option<(Position, LogEntry)>, LogError>;

    /// Waits until there may be news, at most for this time.
    fn wait_for_news(&mut self, at_most: Duration);

    /// Tells the other hubs how much of the log this hub has on its disk, as long as this hub lives.
    ///
    /// # Errors
    /// When the engine gives no answer.
    fn report_position(&mut self, hub: &str, at: Position) -> Result<(), LogError>;
}
