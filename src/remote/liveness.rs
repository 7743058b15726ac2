//! Detects whether the other side of a connection still lives.
//!
//! **Invariant:** an answer counts from the moment of its question, so a relay that delays answers cannot make a dead
//! side look alive.

use super::{DEAD_MS, PING_MS};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const DEAD_AFTER: Duration = Duration::from_millis(DEAD_MS);
const PING_AFTER: Duration = Duration::from_millis(PING_MS);
/// The time after which a guest with several hubs sends a ping, in ms.
const PING_AFTER_DOUBTFUL: Duration = Duration::from_millis(2_000);
/// After this time without an answer to a ping, a guest with several hubs asks the other hubs, again and again until
/// the answer comes. Together with the ping this is 3 s. In this time the other hubs also notice that a hub has lost
/// its power.
const DOUBT_AFTER: Duration = Duration::from_secs(1);

/// The signs of life so far, and the pings that wait for an answer.
#[derive(Debug)]
pub struct Liveness {
    /// The latest time at which the other side surely lived.
    alive_at: Instant,
    pinged_at: Instant,
    last_number: u32,
    /// Pings without an answer, oldest first.
    unanswered: VecDeque<(u32, Instant)>,
    ping_after: Duration,
    /// When the silence was last reported; `None` if it never has to be.
    doubted_at: Option<Instant>,
}

impl Liveness {
    /// Begins with a side that was heard just now.
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

    /// Begins with a side that was heard just now. [`Liveness::doubt_due`] then reports a silence that is not yet
    /// long enough to give up.
    pub fn doubtful(now: Instant) -> Liveness {
        Liveness { ping_after: PING_AFTER_DOUBTFUL, doubted_at: Some(now), ..Liveness::new(now) }
    }

    /// Notes a message that only the other side can have sent.
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

    /// The number of the next ping, if it is due.
    pub fn ping_due(&mut self, now: Instant) -> Option<u32> {
        (now >= self.next_ping()).then(|| self.ping(now))
    }

    /// The number of a ping that may go along with an answer. It is due in half the time, because the other side has
    /// just asked, and two messages together cost less.
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

    /// Whether a ping has been without an answer for so long that others should be asked; once a second.
    pub fn doubt_due(&mut self, now: Instant) -> bool {
        let is_due = self.next_doubt().is_some_and(|at| now >= at);
        if is_due {
            self.doubted_at = Some(now);
        }
        is_due
    }

    fn next_doubt(&self) -> Option<Instant> {
        // A message that came since shows that the other side lives.
        let asked_at = self.unanswered.iter().map(|(_, at)| *at).find(|at| *at > self.alive_at)?;
        Some(asked_at.max(self.doubted_at?) + DOUBT_AFTER)
    }

    /// When [`Liveness::is_dead`], [`Liveness::ping_due`] or [`Liveness::doubt_due`] may next say something new.
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
