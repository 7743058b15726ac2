//! Fair queueing decides in which order clients are served. A client that causes much work waits for the others, but
//! the others do not wait for it.
//!
//! Each client has a virtual start time, which advances by the work that is done for this client. The next client is
//! the one that would finish first if its work took as long as last time.
//!
//! Clients on this machine and guests have separate queues. Each queue has a clock, which shows the virtual start time of
//! the last client that was served. A client that returns after a pause starts at the time that this clock shows, so the
//! pause gives the client no advantage.

use crate::sys;
use std::time::Duration;

/// Maximum work per turn for one client. A request that has begun is always finished.
pub const CLIENT_SHARE: Duration = Duration::from_micros(500);
/// Maximum work per turn for all clients together. The remaining requests are served in the next turn, after new
/// clients, HTTP and the linked meshes have got their share.
pub const TURN_SHARE: Duration = Duration::from_millis(1);
/// Maximum work per turn for clients that have hung up, if they are few.
const HUNG_UP_SHARE: Duration = Duration::from_micros(300);
/// What [`hung_up_share`] adds for each client that has hung up.
const SHARE_OF_EACH_HUNG_UP: Duration = Duration::from_micros(5);
/// Maximum work per turn of a hub that leads. In each turn, a leader also waits a few milliseconds for etcd. If a turn
/// served only a few calls, most of the time would be spent waiting.
pub const LOGGED_TURN_SHARE: Duration = Duration::from_millis(4);

/// If serving a client takes no longer than this, all of the elapsed time counts as work for the client, even if other
/// programs ran in between.
const BRIEF: Duration = Duration::from_micros(200);

/// Maximum work per turn for clients that have hung up, which are served first. Without a limit, all other clients would
/// have to wait if many clients hung up at the same time. With a small limit, they would have to wait as well, because
/// each turn looks at all clients that have not been served yet.
pub fn hung_up_share(n_hung_up: usize) -> Duration {
    (HUNG_UP_SHARE + SHARE_OF_EACH_HUNG_UP * n_hung_up.min(1000) as u32).min(TURN_SHARE)
}

/// Measures the work for each client in a turn. If serving a client takes long, only the CPU time of this thread
/// counts. Reading the CPU time takes a system call, so brief work is measured by the wall clock instead.
#[derive(Debug)]
pub struct WorkMeter {
    /// The CPU time of this thread at the last reading.
    cpu_time: Duration,
    /// The total time of the work that took at most `BRIEF` each time, since `cpu_time` was last read.
    brief_work: Duration,
}

impl WorkMeter {
    /// Begins to measure.
    pub fn start() -> WorkMeter {
        WorkMeter { cpu_time: sys::thread_time(), brief_work: Duration::ZERO }
    }

    /// Returns how much work the broker did for a client. `time` is the elapsed time that serving the client took.
    pub fn work(&mut self, time: Duration) -> Duration {
        if time <= BRIEF {
            self.brief_work += time;
            return time;
        }
        let cpu_time = sys::thread_time();
        let work = cpu_time.saturating_sub(self.cpu_time + self.brief_work);
        (self.cpu_time, self.brief_work) = (cpu_time, Duration::ZERO);
        work
    }
}

/// The clocks of the two queues. If there were only one clock, busy guests would change the order of the clients on this
/// machine, and the reverse.
#[derive(Debug, Default)]
pub struct QueueClocks {
    local: u64,
    guests: u64,
}

impl QueueClocks {
    /// The clock of the guests, or of the clients on this machine: the virtual start time of the last client that was
    /// served.
    pub fn of(&mut self, is_guest: bool) -> &mut u64 {
        if is_guest { &mut self.guests } else { &mut self.local }
    }
}

/// A client's position in the queue.
#[derive(Debug, Clone, Copy)]
pub struct QueueTag {
    /// The client's virtual start time, in microseconds of work.
    start: u64,
    /// How long the client's requests took when the client was last served, in microseconds.
    last_cost: u64,
}

impl Default for QueueTag {
    /// Returns the position of a new client, which is expected to need its whole share.
    fn default() -> QueueTag {
        QueueTag { start: 0, last_cost: CLIENT_SHARE.as_micros() as u64 }
    }
}

impl QueueTag {
    /// The client's virtual start time. It is never earlier than `time`, the clock of the queue.
    pub fn start(self, time: u64) -> u64 {
        self.start.max(time)
    }

    /// The virtual time at which the client is expected to finish. The client with the earliest time is served
    /// next.
    pub fn finish(self, time: u64) -> u64 {
        self.start(time) + self.last_cost
    }

    /// Whether the client took longer than its share when it was last served. If so, responses to other clients should
    /// not wait for this client.
    pub fn is_costly(self) -> bool {
        self.last_cost > CLIENT_SHARE.as_micros() as u64
    }

    /// Returns the client's position after this work.
    pub fn after(self, time: u64, work: Duration) -> QueueTag {
        let last_cost = work.as_micros() as u64;
        QueueTag { start: self.start(time) + last_cost, last_cost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates clients with these costs for this many turns. The first client sends a request every `pause` turns.
    /// Returns the longest wait of the first client, in turns.
    fn longest_wait(costs: &[u64], pause: usize, n_turns: usize) -> usize {
        let mut tags = vec![QueueTag::default(); costs.len()];
        let (mut time, mut asked, mut longest) = (0, None, 0);
        for turn in 0..n_turns {
            if turn % pause == 0 {
                asked = asked.or(Some(turn));
            }
            let mut order: Vec<usize> = (usize::from(asked.is_none())..costs.len()).collect();
            order.sort_by_key(|n| (tags[*n].finish(time), *n));
            let mut spent = 0;
            for n in order {
                if spent >= TURN_SHARE.as_micros() as u64 {
                    break;
                }
                let start = tags[n].start(time);
                tags[n] = tags[n].after(time, Duration::from_micros(costs[n]));
                time = start;
                spent += costs[n];
                if n == 0 {
                    longest = longest.max(turn - asked.take().unwrap_or(turn));
                }
            }
        }
        longest
    }

    #[test]
    fn a_client_is_costly_once_it_has_taken_longer_than_its_share() {
        let new = QueueTag::default();
        assert!(!new.is_costly(), "nothing is known of it");
        let costly = new.after(0, CLIENT_SHARE + Duration::from_micros(1));
        assert!(costly.is_costly() && !costly.after(0, CLIENT_SHARE).is_costly());
    }

    #[test]
    fn a_cheap_client_does_not_wait_for_greedy_ones_and_no_greedy_one_for_ever() {
        let greedy = |n: usize, cost| vec![cost; n];
        for (n, cost) in [(1, 1100), (8, 3000), (50, 1100), (500, 1000)] {
            assert!(longest_wait(&[vec![30], greedy(n, cost)].concat(), 3, 3000) <= 1, "{n} of {cost}");
            // If the requests of each client cause the same amount of work, no client waits longer than one round of
            // all clients.
            let round = (n + 1) * cost as usize / 1000 + 2;
            assert!(longest_wait(&greedy(n + 1, cost), 1, 3000) <= round, "{n} of {cost}");
        }
    }
}
