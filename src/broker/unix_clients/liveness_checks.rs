//! When the silence of each session is checked next.

use super::connection::ClientConnection;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// The checks that lie ahead: at most one for each connection. A client that is heard puts its check off, which is
/// noticed only once the check comes first, so that a line that arrives costs nothing here.
pub struct LivenessChecks {
    /// A quiet session is pinged after this time, in ms.
    pub heartbeat_ms: i64,
    /// A session that was pinged counts as offline after this time without an answer, in ms.
    pub dead_ms: i64,
    /// The earliest possible time of each check, in ms, with the token of its connection.
    queue: BinaryHeap<Reverse<(i64, u64)>>,
}

impl LivenessChecks {
    /// No checks.
    pub fn new(heartbeat_ms: i64, dead_ms: i64) -> LivenessChecks {
        LivenessChecks { heartbeat_ms, dead_ms, queue: BinaryHeap::new() }
    }

    /// Sets the time of the next check of a session, unless one is set already or the session has been given up.
    pub fn add(&mut self, token: u64, connection: &mut ClientConnection) {
        if connection.has_check {
            return;
        }
        if let Some(at) = connection.deadline(self.heartbeat_ms, self.dead_ms) {
            connection.has_check = true;
            self.queue.push(Reverse((at, token)));
        }
    }

    /// The time of the next check, in ms.
    pub fn next_due(&mut self, connections: &HashMap<u64, ClientConnection>) -> Option<i64> {
        loop {
            let Reverse((at, token)) = *self.queue.peek()?;
            let connection = connections.get(&token);
            match connection.and_then(|conn| conn.deadline(self.heartbeat_ms, self.dead_ms)) {
                Some(later) if later > at => {
                    self.queue.pop();
                    self.queue.push(Reverse((later, token)));
                }
                Some(_) => return Some(at),
                // The connection is gone.
                None => drop(self.queue.pop()),
            }
        }
    }

    /// Removes and returns the next connection whose check is due.
    pub fn take_due(&mut self, connections: &HashMap<u64, ClientConnection>, now: i64) -> Option<u64> {
        self.next_due(connections).filter(|at| *at <= now)?;
        self.queue.pop().map(|Reverse((_, token))| token)
    }

    /// Drops all checks.
    pub fn clear(&mut self) {
        self.queue.clear();
    }
}
