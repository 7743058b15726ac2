//! Decides when the broker ends. The reasons are a signal, a request, a newer version, a long time without use, or a
//! data directory that was removed, replaced or moved.
//!
//! **Invariant:** the first reason to end wins, but damage to the database outranks all other reasons.

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use std::io::{self, Read};

/// Why the event loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownReason {
    /// A signal or a caller told the broker to end.
    Stopped,
    /// The broker was not used for a while.
    Idle,
    /// A newer client wants to start a broker of its own version.
    Replaced,
    /// The data directory was removed, replaced or moved, so another broker may use its path.
    Displaced,
    /// The database is damaged. The next broker must check it.
    Damaged,
    /// The database or its mesh could not be opened when the role of this hub changed.
    Failed,
}

impl ShutdownReason {
    /// The reason for the log, as a clause that follows "because".
    pub fn as_cause(self) -> &'static str {
        match self {
            ShutdownReason::Stopped => "a person or a signal stopped it",
            ShutdownReason::Idle => "nobody used it",
            ShutdownReason::Replaced => "a newer version of slm-mesh takes its place",
            ShutdownReason::Displaced => "its data directory was removed, replaced or moved",
            ShutdownReason::Damaged => "its database is damaged",
            ShutdownReason::Failed => "its database could not be opened again",
        }
    }
}

/// When the broker was last used, and the reason to end.
pub struct ShutdownDecision {
    /// The read end of the signal pipe.
    signals: UnixStream,
    last_use: i64,
    /// The time without use after which the broker ends, in ms; `None` if the broker never ends by itself.
    idle_ms: Option<i64>,
    reason: Option<ShutdownReason>,
}

impl ShutdownDecision {
    /// Registers the signal pipe under `token`. If the idle time is 0, the broker does not end by itself.
    ///
    /// # Errors
    /// When the pipe can't be registered in the poll.
    pub fn new(
        mut signals: UnixStream,
        idle_ms: i64,
        registry: &Registry,
        token: Token,
        now: i64,
    ) -> io::Result<ShutdownDecision> {
        registry.register(&mut signals, token, Interest::READABLE)?;
        Ok(ShutdownDecision { signals, last_use: now, idle_ms: (idle_ms > 0).then_some(idle_ms), reason: None })
    }

    /// Records that the broker was used at the time `now`.
    pub fn note_use(&mut self, now: i64) {
        self.last_use = now;
    }

    /// Ends the event loop after this turn.
    pub fn request(&mut self, reason: ShutdownReason) {
        if self.reason.is_none() || reason == ShutdownReason::Damaged {
            self.reason = Some(reason);
        }
    }

    /// Ends the event loop because of a signal.
    pub fn note_signal(&mut self) {
        // Empties the pipe, so that another signal causes a new event.
        let _ = self.signals.read(&mut [0; 16]);
        self.request(ShutdownReason::Stopped);
    }

    /// The time at which the broker ends, in ms, unless somebody uses it earlier.
    pub fn idle_deadline(&self) -> Option<i64> {
        self.idle_ms.map(|idle_ms| self.last_use + idle_ms)
    }

    /// The reason to end, if there is one.
    pub fn reason(&self) -> Option<ShutdownReason> {
        self.reason
    }
}
