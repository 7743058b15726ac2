//! Schedules the checks that find silent sessions.

use super::connection::ClientConnection;
use crate::base::id_types::CountedMap;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Minimum time that a client gets to answer a ping, in ms.
const ANSWER_MIN_MS: i64 = 500;

/// How long a client may be silent.
#[derive(Debug, Clone, Copy)]
pub struct LivenessLimits {
    /// A client is pinged after this many ms without a line from it.
    pub heartbeat_ms: i64,
    /// A client that was pinged counts as offline after this many ms without a line from it.
    pub dead_ms: i64,
}

impl LivenessLimits {
    /// Maximum time for the answer to a ping, in ms. The time starts with the ping, and not with the client's last
    /// line, which may be old because this machine was asleep.
    pub fn answer_ms(self) -> i64 {
        (self.dead_ms - self.heartbeat_ms).max(ANSWER_MIN_MS)
    }
}

/// The planned checks, at most one for each connection. When a client sends something, its check becomes due later. To
/// save work, the queue is updated only when the check reaches the front.
pub struct LivenessSchedule {
    /// How long a session may be silent.
    pub limits: LivenessLimits,
    /// For each check, the earliest time at which it may be due, in ms, and the token of the connection.
    queue: BinaryHeap<Reverse<(i64, u64)>>,
}

impl LivenessSchedule {
    /// Returns a schedule without any checks.
    pub fn new(limits: LivenessLimits) -> LivenessSchedule {
        LivenessSchedule { limits, queue: BinaryHeap::new() }
    }

    /// Plans a check for a connection. Does nothing if a check is already planned, or if the client is unresponsive.
    pub fn add(&mut self, token: u64, connection: &mut ClientConnection) {
        if connection.has_check {
            return;
        }
        if let Some(at) = connection.deadline(self.limits) {
            connection.has_check = true;
            self.queue.push(Reverse((at, token)));
        }
    }

    /// When the next check is due, in ms.
    pub fn next_due(&mut self, connections: &CountedMap<ClientConnection>) -> Option<i64> {
        loop {
            let Reverse((at, token)) = *self.queue.peek()?;
            let connection = connections.get(&token);
            match connection.and_then(|conn| conn.deadline(self.limits)) {
                Some(later) if later > at => {
                    self.queue.pop();
                    self.queue.push(Reverse((later, token)));
                }
                Some(_) => return Some(at),
                // The connection was closed, or its client is unresponsive.
                None => drop(self.queue.pop()),
            }
        }
    }

    /// If the next check is due, removes it and returns the token of the connection to check.
    pub fn take_due(&mut self, connections: &CountedMap<ClientConnection>, now: i64) -> Option<u64> {
        self.next_due(connections).filter(|at| *at <= now)?;
        self.queue.pop().map(|Reverse((_, token))| token)
    }

    /// Drops all checks.
    pub fn clear(&mut self) {
        self.queue.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::clients::client_machine_and_ancestors::Origin;
    use crate::broker::clients::local_or_guest_socket::ClientSocket;

    #[test]
    fn a_client_has_the_full_time_to_answer_after_the_machine_slept() {
        let limits = LivenessLimits { heartbeat_ms: 20_000, dead_ms: 60_000 };
        let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let origin = Origin::Local { pid: 1, ancestors: None };
        let mut client =
            ClientConnection::new(ClientSocket::Local(mio::net::UnixStream::from_std(stream)), origin, 0, 0);
        let woken = 3_600_000;
        assert!(client.needs_ping(limits.heartbeat_ms, woken) && !client.gives_up(limits, woken));
        client.note_ping(woken);
        assert_eq!(client.deadline(limits), Some(woken + 40_000));
        assert!(!client.gives_up(limits, woken) && !client.gives_up(limits, woken + 39_999));
        assert!(client.gives_up(limits, woken + 40_000), "it had its time");
        assert!(client.note_heard(woken + 50_000), "it is back");
        assert_eq!(client.deadline(limits), Some(woken + 70_000));
    }
}
