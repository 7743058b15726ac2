//! Decides when the broker ends: on a signal, on request, for a newer version, after idle time,
//! or when its path leads elsewhere.
//!
//! **Invariant:** the first reason to end wins, except that damage outranks all others.

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use std::io::{self, Read};

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownReason {
    /// A signal or a caller requested the end.
    Stopped,
    /// The broker was unused for a while.
    Idle,
    /// A newer client wants to start a broker of its own version.
    Replaced,
    /// The data directory was removed, replaced or moved, so its path no longer leads to this broker.
    Displaced,
    /// The database is damaged, so the next broker must check it.
    Damaged,
}

/// The time of the last use, and the reason to end.
pub struct Lifecycle {
    /// The readable end of the pipe into which signals write.
    signals: UnixStream,
    last_use: i64,
    /// The idle time after which the broker ends, in ms; `None` if it stays.
    idle_ms: Option<i64>,
    shutdown: Option<ShutdownReason>,
}

impl Lifecycle {
    /// Watches the signal pipe under `token`. An idle time of 0 means that the broker stays.
    ///
    /// # Errors
    /// When the pipe can't be registered in the poll.
    pub fn new(
        mut signals: UnixStream,
        idle_ms: i64,
        registry: &Registry,
        token: Token,
        now: i64,
    ) -> io::Result<Lifecycle> {
        registry.register(&mut signals, token, Interest::READABLE)?;
        Ok(Lifecycle { signals, last_use: now, idle_ms: (idle_ms > 0).then_some(idle_ms), shutdown: None })
    }

    /// Notes that the broker was used.
    pub fn note_use(&mut self, now: i64) {
        self.last_use = now;
    }

    /// Ends the loop after this turn.
    pub fn request_shutdown(&mut self, reason: ShutdownReason) {
        if self.shutdown.is_none() || reason == ShutdownReason::Damaged {
            self.shutdown = Some(reason);
        }
    }

    /// Ends the loop because a signal came.
    pub fn note_signal(&mut self) {
        // We empty the pipe, so that a second signal causes an event of its own.
        let _ = self.signals.read(&mut [0; 16]);
        self.request_shutdown(ShutdownReason::Stopped);
    }

    /// When the idle time of an unused broker ends, in ms.
    pub fn idle_deadline(&self) -> Option<i64> {
        self.idle_ms.map(|idle_ms| self.last_use + idle_ms)
    }

    /// The reason to end, if there is one.
    pub fn shutdown(&self) -> Option<ShutdownReason> {
        self.shutdown
    }
}
