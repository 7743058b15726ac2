//! Detects whether the other side of a connection is still there.
//!
//! **Invariant:** an answer proves only that the other side was there when the question was sent. So a relay that
//! delays answers can't make a dead side look alive.
//!
//! A guest pings its hub. The hub's pong contains a question of its own, which the guest answers with its next ping.
//! So an idle connection costs the hub one message in and one message out per ping.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a guest hears nothing before it pings its only hub.
const PING_AFTER: Duration = Duration::from_secs(4);
/// How long a guest with several hubs hears nothing before it pings.
const PING_AFTER_OF_SEVERAL: Duration = Duration::from_secs(2);
/// How long a hub hears nothing before it pings a guest. This is longer than the guests' times, so that the hub pings
/// only a guest that sends no pings because it keeps hearing from the hub.
const PING_AFTER_OF_HUB: Duration = Duration::from_secs(6);
/// How often the hub's pongs contain a question, at most. Because of this limit, a guest that pings all the time can't
/// make the hub remember many questions.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// A hub counts as gone this long after its last message or the last question that it answered, whichever came later. A
/// cable may be unplugged for five seconds, and then it takes up to two seconds until TCP sends again. This limit
/// leaves a session enough time to try once more to reach the hub and to tell its users within 15 s that the hub is
/// gone.
const HUB_DEAD_AFTER: Duration = Duration::from_secs(12);
/// A guest counts as gone this long after its last message. The hub checks once a second, so it notices within 15 s.
const GUEST_DEAD_AFTER_MESSAGE: Duration = Duration::from_secs(13);
/// A guest counts as gone this long after the last question that it answered, but not before the limit above has
/// passed. A guest answers a question only with its next ping, so even while the guest is there, the last question that
/// it answered may have been sent two pings ago.
const GUEST_DEAD_AFTER_QUESTION: Duration = Duration::from_secs(16);
/// If a ping has had no answer for this long, a guest with several hubs asks the other hubs, and repeats this until
/// the answer comes. Together with the time before the ping, this is 3 s. Within this time, the other hubs also
/// notice that a hub has lost power.
const DOUBT_AFTER: Duration = Duration::from_secs(1);

/// The numbers in a ping or pong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// The number of the sender's question; 0 if the message contains none.
    question: u32,
    /// The number of the question that the message answers; 0 if it answers none.
    answer: u32,
}

impl Heartbeat {
    /// Encodes both numbers, most significant byte first.
    pub fn to_bytes(self) -> [u8; 8] {
        (u64::from(self.question) << 32 | u64::from(self.answer)).to_be_bytes()
    }

    /// Decodes the content of a ping or pong. Returns `None` if it has another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Heartbeat> {
        let both = u64::from_be_bytes(bytes.try_into().ok()?);
        Some(Heartbeat { question: (both >> 32) as u32, answer: both as u32 })
    }
}

/// The signs of life so far, and the questions that wait for answers.
#[derive(Debug)]
pub struct Liveness {
    /// The latest time at which the other side is known to have been there.
    alive_at: Instant,
    asked_at: Instant,
    last_number: u32,
    /// The questions without an answer, oldest first.
    unanswered: VecDeque<(u32, Instant)>,
    /// The question of the other side that the next ping answers; 0 if there is none.
    owed: u32,
    ping_after: Duration,
    dead_after_message: Duration,
    dead_after_question: Duration,
    /// When the other side counts as gone, unless it gives a sign of life.
    dead_at: Instant,
    /// Whether a pong contains a question.
    asks_in_pongs: bool,
    /// When a doubtful silence was last reported; `None` if such silences are not reported.
    doubted_at: Option<Instant>,
}

impl Liveness {
    /// What a guest knows of its only hub. Begins with the assumption that the hub is there now.
    pub fn of_hub(now: Instant) -> Liveness {
        Liveness {
            alive_at: now,
            asked_at: now,
            last_number: 0,
            unanswered: VecDeque::new(),
            owed: 0,
            ping_after: PING_AFTER,
            dead_after_message: HUB_DEAD_AFTER,
            dead_after_question: HUB_DEAD_AFTER,
            dead_at: now + HUB_DEAD_AFTER,
            asks_in_pongs: false,
            doubted_at: None,
        }
    }

    /// What a guest knows of a hub if there are several. [`Liveness::doubt_due`] will also report a silence that is not
    /// long enough to end the connection.
    pub fn of_one_of_several_hubs(now: Instant) -> Liveness {
        Liveness { ping_after: PING_AFTER_OF_SEVERAL, doubted_at: Some(now), ..Liveness::of_hub(now) }
    }

    /// What a hub knows of a guest. Begins with the assumption that the guest is there now.
    pub fn of_guest(now: Instant) -> Liveness {
        Liveness {
            ping_after: PING_AFTER_OF_HUB,
            dead_after_message: GUEST_DEAD_AFTER_MESSAGE,
            dead_after_question: GUEST_DEAD_AFTER_QUESTION,
            dead_at: now + GUEST_DEAD_AFTER_MESSAGE,
            asks_in_pongs: true,
            ..Liveness::of_hub(now)
        }
    }

    /// Notes a message that can only come from the other side.
    pub fn note_message(&mut self, now: Instant) {
        self.alive_at = now;
        self.dead_at = self.dead_at.max(now + self.dead_after_message);
    }

    /// Notes a ping, and returns the pong.
    pub fn answer(&mut self, ping: Heartbeat, now: Instant) -> Heartbeat {
        self.note_answer(ping.answer);
        let asks = self.asks_in_pongs && now >= self.asked_at + ASK_EVERY;
        Heartbeat { question: if asks { self.ask(now) } else { 0 }, answer: ping.question }
    }

    /// Notes the answer to a ping.
    pub fn note_pong(&mut self, pong: Heartbeat) {
        self.note_answer(pong.answer);
        if pong.question != 0 {
            self.owed = pong.question;
        }
    }

    fn note_answer(&mut self, number: u32) {
        if let Some(at) = self.unanswered.iter().position(|(asked, _)| *asked == number) {
            let asked_at = self.unanswered[at].1;
            self.alive_at = self.alive_at.max(asked_at);
            self.dead_at = self.dead_at.max(asked_at + self.dead_after_question);
            self.unanswered.drain(..=at);
        }
    }

    /// Whether the other side has been silent for too long.
    pub fn is_dead(&self, now: Instant) -> bool {
        now >= self.dead_at
    }

    /// Returns the next ping, if one is due.
    pub fn ping_due(&mut self, now: Instant) -> Option<Heartbeat> {
        (now >= self.next_ping()).then(|| Heartbeat { question: self.ask(now), answer: std::mem::take(&mut self.owed) })
    }

    /// Returns the number of a new question.
    fn ask(&mut self, now: Instant) -> u32 {
        self.last_number = self.last_number.checked_add(1).unwrap_or(1);
        self.asked_at = now;
        self.unanswered.retain(|(_, asked_at)| now < *asked_at + self.dead_after_question);
        self.unanswered.push_back((self.last_number, now));
        self.last_number
    }

    fn next_ping(&self) -> Instant {
        self.alive_at.max(self.asked_at) + self.ping_after
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
        let deadline = self.next_ping().min(self.dead_at);
        self.next_doubt().map_or(deadline, |at| deadline.min(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    fn pong(answer: u32) -> Heartbeat {
        Heartbeat { question: 0, answer }
    }

    /// What a guest knows of its hub, what the hub knows of the guest, and how many pings each of them sent.
    struct Pair {
        hub: Liveness,
        guest: Liveness,
        n_pings: u32,
        n_hub_pings: u32,
    }

    impl Pair {
        fn new(start: Instant) -> Pair {
            Pair { hub: Liveness::of_hub(start), guest: Liveness::of_guest(start), n_pings: 0, n_hub_pings: 0 }
        }

        /// Lets both sides run for `ms` milliseconds, in steps of 100 ms. Messages that are sent while the cable is cut
        /// arrive two seconds after it is plugged in again. Returns whether the hub was given up, and whether the guest
        /// was given up.
        fn run(&mut self, start: Instant, ms: u64, cut: std::ops::Range<u64>) -> (bool, bool) {
            let (mut to_hub, mut to_guest) = (VecDeque::new(), VecDeque::new());
            for step in (0..ms).step_by(100) {
                let now = after(start, step);
                if !(cut.start..cut.end + 2000).contains(&step) || cut.is_empty() {
                    while let Some(ping) = to_hub.pop_front() {
                        to_guest.push_back(self.guest.answer(ping, now));
                    }
                    while let Some(pong) = to_guest.pop_front() {
                        self.hub.note_pong(pong);
                    }
                }
                if self.hub.is_dead(now) || self.guest.is_dead(now) {
                    return (self.hub.is_dead(now), self.guest.is_dead(now));
                }
                if let Some(ping) = self.hub.ping_due(now) {
                    self.n_pings += 1;
                    to_hub.push_back(ping);
                }
                // A hub checks once a second.
                if step % 1000 == 0 && self.guest.ping_due(now).is_some() {
                    self.n_hub_pings += 1;
                }
            }
            (false, false)
        }
    }

    #[test]
    fn an_idle_guest_pings_and_the_hub_only_answers() {
        let start = Instant::now();
        let mut pair = Pair::new(start);
        assert_eq!(pair.run(start, 60_000, 0..0), (false, false));
        assert_eq!((pair.n_pings, pair.n_hub_pings), (14, 0));
    }

    #[test]
    fn five_seconds_without_a_cable_give_up_nobody_and_fifteen_give_up_both() {
        let start = Instant::now();
        for cut in (20_000..30_000).step_by(100) {
            assert_eq!(Pair::new(start).run(start, 60_000, cut..cut + 5000), (false, false), "cut at {cut} ms");
            let mut pair = Pair::new(start);
            assert_ne!(pair.run(start, cut + 15_000, cut..100_000), (false, false), "cut at {cut} ms");
            let end = after(start, cut + 15_000);
            assert!(pair.hub.is_dead(end) && pair.guest.is_dead(end), "cut at {cut} ms");
        }
    }

    #[test]
    fn a_guest_that_falls_silent_after_a_message_is_given_up_within_fourteen_seconds() {
        let start = Instant::now();
        let mut guest = Liveness::of_guest(start);
        guest.answer(Heartbeat { question: 1, answer: 0 }, after(start, 4000));
        guest.note_message(after(start, 5000));
        assert!(!guest.is_dead(after(start, 17_999)) && guest.is_dead(after(start, 18_000)));
    }

    #[test]
    fn a_guest_that_pings_all_the_time_is_asked_once_a_second() {
        let start = Instant::now();
        let mut guest = Liveness::of_guest(start);
        for ms in 0..10_000 {
            guest.answer(Heartbeat { question: 7, answer: 0 }, after(start, ms));
        }
        assert_eq!(guest.unanswered.len(), 9);
    }

    #[test]
    fn a_silent_side_is_asked_and_then_given_up() {
        let start = Instant::now();
        let mut hub = Liveness::of_hub(start);
        assert_eq!(hub.ping_due(after(start, 3999)), None);
        assert_eq!(hub.ping_due(after(start, 4000)), Some(Heartbeat { question: 1, answer: 0 }));
        assert_eq!(hub.ping_due(after(start, 4001)), None, "once");
        assert!(!hub.is_dead(after(start, 11_999)) && hub.is_dead(after(start, 12_000)));
        hub.note_pong(pong(1));
        assert!(!hub.is_dead(after(start, 15_999)));
    }

    #[test]
    fn others_are_asked_after_the_first_unanswered_ping_and_until_it_is_answered() {
        let start = Instant::now();
        let mut hub = Liveness::of_one_of_several_hubs(start);
        assert!(hub.ping_due(after(start, 2000)).is_some());
        assert!(!hub.doubt_due(after(start, 2999)));
        assert_eq!(hub.deadline(), after(start, 3000));
        assert!(hub.doubt_due(after(start, 3000)));
        assert!(!hub.doubt_due(after(start, 3999)) && hub.doubt_due(after(start, 4000)));
        hub.note_pong(pong(1));
        assert!(!hub.doubt_due(after(start, 5000)));
        assert!(hub.ping_due(after(start, 5000)).is_some());
        hub.note_message(after(start, 5500));
        assert!(!hub.doubt_due(after(start, 7000)), "a message is a sign of life, too");
        let mut only = Liveness::of_hub(start);
        assert!(only.ping_due(after(start, 4000)).is_some());
        assert!(!only.doubt_due(after(start, 11_000)));
    }

    #[test]
    fn only_answers_count_and_each_from_its_question_on() {
        let start = Instant::now();
        let mut hub = Liveness::of_hub(start);
        let pings: Vec<_> = (1..4).filter_map(|n| hub.ping_due(after(start, n * 4000))).collect();
        assert_eq!(pings.iter().map(|ping| ping.question).collect::<Vec<_>>(), [1, 2, 3]);
        for false_number in [0, 4, u32::MAX] {
            hub.note_pong(pong(false_number));
        }
        assert!(hub.is_dead(after(start, 12_000)), "no question had these numbers");
        hub.note_pong(pong(2));
        hub.note_pong(pong(2));
        hub.note_pong(pong(1));
        assert!(!hub.is_dead(after(start, 19_999)) && hub.is_dead(after(start, 20_000)));
    }

    #[test]
    fn heartbeats_survive_the_wire() {
        let heartbeat = Heartbeat { question: u32::MAX, answer: 0x0102_0304 };
        assert_eq!(heartbeat.to_bytes(), [255, 255, 255, 255, 1, 2, 3, 4]);
        assert_eq!(Heartbeat::from_bytes(&heartbeat.to_bytes()), Some(heartbeat));
        for bytes in [&[][..], &[0; 4], &[0; 9]] {
            assert_eq!(Heartbeat::from_bytes(bytes), None);
        }
    }
}
