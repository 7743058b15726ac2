//! Detects whether the other side of a connection is still there.
//!
//! **Invariant:** an answer proves only that the other side was there when the question was sent. So a relay that
//! delays answers can't make a dead side look alive.

use super::{DEAD_MS, PING_MS};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const DEAD_AFTER: Duration = Duration::from_millis(DEAD_MS);
const PING_AFTER: Duration = Duration::from_millis(PING_MS);
/// After this much silence, a guest with several hubs sends a ping.
const PING_AFTER_DOUBTFUL: Duration = Duration::from_millis(2_000);
/// If a ping has had no answer for this long, a guest with several hubs asks the other hubs, and repeats this until
/// the answer comes. Together with the time before the ping, this is 3 s. Within this time, the other hubs also
/// notice that a hub has lost power.
const DOUBT_AFTER: Duration = Duration::from_secs(1);

/// The signs of life so far, and the pings that wait for answers.
#[derive(Debug)]
pub struct Liveness {
    /// The latest time at which the other side is known to have been there.
    alive_at: Instant,
    pinged_at: Instant,
    last_number: u32,
    /// The pings without an answer, oldest first.
    unanswered: VecDeque<(u32, Instant)>,
    ping_after: Duration,
    /// When a doubtful silence was last reported; `None` if such silences are not reported.
    doubted_at: Option<Instant>,
}

impl Liveness {
    /// Begins with the assumption that the other side is there now.
    pub fn new(now: Instant) -> Liveness {
        Liveness {
            alive_at: now,
            pinged_at: now,
            last_number: 0,
            unanswered: VecDeque::new(),
            ping_after: PING_AFTER,
            doubted_at: None,
        }
    }

    /// Begins with the assumption that the other side is there now. [`Liveness::doubt_due`] will also report a
    /// silence that is not long enough to end the connection.
    pub fn doubtful(now: Instant) -> Liveness {
        Liveness { ping_after: PING_AFTER_DOUBTFUL, doubted_at: Some(now), ..Liveness::new(now) }
    }

    /// Notes a message that can only come from the other side.
    pub fn note_message(&mut self, now: Instant) {
        self.alive_at = now;
    }

    /// Notes the answer to a ping.
    pub fn note_pong(&mut self, number: u32) {
        if let Some(at) = self.unanswered.iter().position(|(asked, _)| *asked == number) {
            self.alive_at = self.alive_at.max(self.unanswered[at].1);
            self.unanswered.drain(..=at);
        }
    }

    /// Whether the other side has been silent for too long.
    pub fn is_dead(&self, now: Instant) -> bool {
        now >= self.alive_at + DEAD_AFTER
    }

    /// Returns the number of the next ping, if a ping is due.
    pub fn ping_due(&mut self, now: Instant) -> Option<u32> {
        (now >= self.next_ping()).then(|| self.ping(now))
    }

    /// Returns the number of a ping that can be sent together with an answer. Such a ping is due after half the
    /// time: the other side has just sent a question, and two messages sent together cost less.
    pub fn ping_along(&mut self, now: Instant) -> Option<u32> {
        (now + self.ping_after / 2 >= self.next_ping()).then(|| self.ping(now))
    }

    fn ping(&mut self, now: Instant) -> u32 {
        self.last_number = self.last_number.wrapping_add(1);
        self.pinged_at = now;
        self.unanswered.retain(|(_, asked_at)| now < *asked_at + DEAD_AFTER);
        self.unanswered.push_back((self.last_number, now));
        self.last_number
    }

    fn next_ping(&self) -> Instant {
        self.alive_at.max(self.pinged_at) + self.ping_after
    }

    /// Whether a ping has been without an answer for so long that the other hubs should be asked. Returns true at
    /// most once a second.
    pub fn doubt_due(&mut self, now: Instant) -> bool {
        let is_due = self.next_doubt().is_some_and(|at| now >= at);
        if is_due {
            self.doubted_at = Some(now);
        }
        is_due
    }

    fn next_doubt(&self) -> Option<Instant> {
        // If a message has come after the ping, the other side is there.
        let asked_at = self.unanswered.iter().map(|(_, at)| *at).find(|at| *at > self.alive_at)?;
        Some(asked_at.max(self.doubted_at?) + DOUBT_AFTER)
    }

    /// The next time at which [`Liveness::is_dead`], [`Liveness::ping_due`] or [`Liveness::doubt_due`] may return
    /// something else.
    pub fn deadline(&self) -> Instant {
        let deadline = self.next_ping().min(self.alive_at + DEAD_AFTER);
        self.next_doubt().map_or(deadline, |at| deadline.min(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_silent_side_is_asked_and_then_given_up() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        assert_eq!(liveness.ping_due(after(start, PING_MS - 1)), None);
        assert_eq!(liveness.ping_due(after(start, PING_MS)), Some(1));
        assert_eq!(liveness.ping_due(after(start, PING_MS + 1)), None, "once");
        assert!(!liveness.is_dead(after(start, DEAD_MS - 1)) && liveness.is_dead(after(start, DEAD_MS)));
        liveness.note_pong(1);
        assert!(!liveness.is_dead(after(start, PING_MS + DEAD_MS - 1)));
    }

    #[test]
    fn others_are_asked_after_the_first_unanswered_ping_and_until_it_is_answered() {
        let start = Instant::now();
        let mut liveness = Liveness::doubtful(start);
        assert_eq!(liveness.ping_due(after(start, 2000)), Some(1));
        assert!(!liveness.doubt_due(after(start, 2999)));
        assert_eq!(liveness.deadline(), after(start, 3000));
        assert!(liveness.doubt_due(after(start, 3000)));
        assert!(!liveness.doubt_due(after(start, 3999)) && liveness.doubt_due(after(start, 4000)));
        liveness.note_pong(1);
        assert!(!liveness.doubt_due(after(start, 5000)));
        assert_eq!(liveness.ping_due(after(start, 5000)), Some(2));
        liveness.note_message(after(start, 5500));
        assert!(!liveness.doubt_due(after(start, 7000)), "a message is a sign of life, too");
        let mut patient = Liveness::new(start);
        assert_eq!(patient.ping_due(after(start, PING_MS)), Some(1));
        assert!(!patient.doubt_due(after(start, DEAD_MS)));
    }

    #[test]
    fn only_answers_count_and_each_from_its_question_on() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        let numbers: Vec<_> = (1..4).filter_map(|n| liveness.ping_due(after(start, n * PING_MS))).collect();
        assert_eq!(numbers, [1, 2, 3]);
        for false_number in [0, 4, u32::MAX] {
            liveness.note_pong(false_number);
        }
        assert!(liveness.is_dead(after(start, DEAD_MS)), "no question had these numbers");
        liveness.note_pong(2);
        liveness.note_pong(2);
        liveness.note_pong(1);
        let second = 2 * PING_MS;
        assert!(
            !liveness.is_dead(after(start, second + DEAD_MS - 1)) && liveness.is_dead(after(start, second + DEAD_MS))
        );
    }
}
