//! Decides when each session is next checked for silence.

use super::connection::ClientConnection;
use crate::base::ids::CountedMap;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The checks that are to come, at most one for each connection. When a client sends something, the check of its
/// connection may be postponed. The queue is updated only once the check has reached the front of the queue, so
/// receiving a line causes no work here.
pub struct LivenessSchedule {
    /// How long a session may be quiet before it is pinged, in ms.
    pub heartbeat_ms: i64,
    /// How long a session that was pinged may be quiet before it counts as offline, in ms.
    pub dead_ms: i64,
    /// The earliest time at which each check may be due, in ms, with the token of the connection.
    queue: BinaryHeap<Reverse<(i64, u64)>>,
}

impl LivenessSchedule {
    /// Starts without any checks.
    pub fn new(heartbeat_ms: i64, dead_ms: i64) -> LivenessSchedule {
        LivenessSchedule { heartbeat_ms, dead_ms, queue: BinaryHeap::new() }
    }

    /// Adds a check for a session. Does nothing if the session already has one, or if it has been given up.
    pub fn add(&mut self, token: u64, connection: &mut ClientConnection) {
        if connection.has_check {
            return;
        }
        if let Some(at) = connection.deadline(self.heartbeat_ms, self.dead_ms) {
            connection.has_check = true;
            self.queue.push(Reverse((at, token)));
        }
    }

    /// When the next check is due, in ms.
    pub fn next_due(&mut self, connections: &CountedMap<ClientConnection>) -> Option<i64> {
        loop {
            let Reverse((at, token)) = *self.queue.peek()?;
            let connection = connections.get(&token);
            match connection.and_then(|conn| conn.deadline(self.heartbeat_ms, self.dead_ms)) {
                Some(later) if later > at => {
                    self.queue.pop();
                    self.queue.push(Reverse((later, token)));
                }
                Some(_) => return Some(at),
                // The connection has been closed, or its session has been given up.
                None => drop(self.queue.pop()),
            }
        }
    }

    /// Removes the next check, if it is due, and returns its connection.
    pub fn take_due(&mut self, connections: &CountedMap<ClientConnection>, now: i64) -> Option<u64> {
        self.next_due(connections).filter(|at| *at <= now)?;
        self.queue.pop().map(|Reverse((_, token))| token)
    }

    /// Drops all checks.
    pub fn clear(&mut self) {
        self.queue.clear();
    }
}
