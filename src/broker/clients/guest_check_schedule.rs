//! Schedules the checks that find guests that need a ping or have been silent for too long.
//!
//! **Invariant:** each guest has one planned check, and costs nothing until that check is due.

use super::connection::ClientConnection;
use crate::base::id_types::CountedMap;
use std::collections::BTreeSet;
use std::time::Instant;

/// The planned checks of all guests. If a guest sends something, its check becomes due later. To save work, the
/// check is moved only when it reaches the front.
#[derive(Debug, Default)]
pub struct GuestCheckSchedule {
    /// For each check, the earliest time at which it may be due, and the token of the guest.
    queue: BTreeSet<(Instant, u64)>,
    /// The time in `queue`, by token.
    times: CountedMap<Instant>,
}

impl GuestCheckSchedule {
    /// The number of guests.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Plans the check of a guest, or moves it to an earlier or later time.
    pub fn plan(&mut self, token: u64, at: Instant) {
        if let Some(former) = self.times.insert(token, at) {
            self.queue.remove(&(former, token));
        }
        self.queue.insert((at, token));
    }

    /// Moves the check of a guest to this time, unless it is planned for an earlier time.
    pub fn plan_by(&mut self, token: u64, at: Instant) {
        if self.times.get(&token).is_none_or(|planned| at < *planned) {
            self.plan(token, at);
        }
    }

    /// Removes the check of a guest that has left. Does nothing if the token belongs to another client.
    pub fn remove(&mut self, token: u64) {
        if let Some(at) = self.times.remove(&token) {
            self.queue.remove(&(at, token));
        }
    }

    /// When the next check is due.
    pub fn next_due(&mut self, connections: &CountedMap<ClientConnection>) -> Option<Instant> {
        loop {
            let (at, token) = *self.queue.first()?;
            let Some(guest) = connections.get(&token) else {
                self.remove(token);
                continue;
            };
            match guest.idle_guest_deadline().filter(|later| *later > at) {
                Some(later) => self.plan(token, later),
                None => return Some(at),
            }
        }
    }

    /// If a check is due, returns the token of the guest. The caller must then plan the guest's next check.
    pub fn due(&mut self, connections: &CountedMap<ClientConnection>, now: Instant) -> Option<u64> {
        self.next_due(connections).filter(|at| *at <= now)?;
        self.queue.first().map(|(_, token)| *token)
    }

    /// Drops all checks.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.times.clear();
    }
}
