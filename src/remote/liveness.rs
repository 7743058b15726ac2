//! Detects whether the other side of a connection is still alive. Each ping contains a numbered question, which the
//! other side must answer. Some pongs contain one, too.
//!
//! **Invariant:** an answer proves only that the other side was alive when the question was sent, however late the
//! answer arrives. So a relay that delays answers can't make a dead side look alive.
//!
//! A guest pings its hub. The hub's pong contains a question for the guest. The guest answers this question in its next
//! ping, so an idle connection needs no further messages.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// If a mesh has one hub, a guest pings it after this much silence. A hub with 5,000 idle guests then answers 500 pings
/// a second, which costs about 1 % of a core.
const PING_AFTER: Duration = Duration::from_secs(10);
/// If a mesh has several hubs, a guest pings its hub after this much silence. The time is short, because the guest must
/// find the next leader within 4 s.
const PING_AFTER_OF_SEVERAL: Duration = Duration::from_secs(2);
/// If a hub receives nothing from a guest for this long, it pings the guest. An idle guest sends a ping of its own
/// before that. But a guest that keeps receiving lines sends no pings, so the hub pings such guests.
const PING_AFTER_OF_HUB: Duration = Duration::from_secs(11);
/// If a side has sent lines and receives nothing for this long, it sends a ping. So a side that waits for an answer
/// notices soon if the other side is gone.
pub const PING_AFTER_LINES: Duration = Duration::from_secs(2);
/// After a question, a hub waits at least this long before it asks the next question in a pong. Without this pause, a
/// guest that pings all the time could make the hub store many questions.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long a ping may stay unanswered before the other side counts as gone. If a cable is unplugged for five seconds,
/// TCP may need two more seconds to send again, and the connection should survive this.
///
/// The time is also short enough for a session that waits for a result. Such a session can notice the loss, try once
/// more to reach the hub, and report the failure within 15 s.
const PONG_WITHIN: Duration = Duration::from_secs(8);
/// How long a guest may give no sign of life before it counts as gone. If a pong contains a question, the guest answers
/// the question only in its next ping. So the last answered question may be two ping intervals old, although the guest
/// is alive.
const GUEST_DEAD_AFTER: Duration = Duration::from_secs(28);
/// How long a hub may give no sign of life before it counts as gone. A guest that sends pings notices a dead hub
/// sooner, after `PONG_WITHIN`. This limit matters only if the guest's process did not run for a while.
const HUB_DEAD_AFTER: Duration = Duration::from_secs(18);
/// If a ping is unanswered for this long, a guest with several hubs asks the other hubs whether one of them leads. The
/// guest asks again after each such period. With `PING_AFTER_OF_SEVERAL`, it first asks after 3 s of silence. If the
/// hub has lost power, the other hubs have noticed by then.
const DOUBT_AFTER: Duration = Duration::from_secs(1);

/// The numbers in a ping or pong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// The number of the question that the sender asks; 0 if the sender asks no question.
    question: u32,
    /// The number of the question that the message answers; 0 if the message answers no question.
    answer: u32,
}

impl Heartbeat {
    /// Encodes both numbers, most significant byte first.
    pub fn to_bytes(self) -> [u8; 8] {
        (u64::from(self.question) << 32 | u64::from(self.answer)).to_be_bytes()
    }

    /// A heartbeat that answers the question with this number, and asks no question.
    pub fn answer_to(number: u32) -> Heartbeat {
        Heartbeat { question: 0, answer: number }
    }

    /// The number of the question that the sender asks.
    pub fn question(self) -> u32 {
        self.question
    }

    /// Decodes the content of a ping or pong. Returns `None` if the content does not have 8 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Heartbeat> {
        let both = u64::from_be_bytes(bytes.try_into().ok()?);
        Some(Heartbeat { question: (both >> 32) as u32, answer: both as u32 })
    }
}

/// A question that was sent and has no answer yet.
#[derive(Debug, Clone, Copy)]
struct Question {
    number: u32,
    asked_at: Instant,
    /// Whether the question was sent in a ping. The other side answers such a question at once. If the question was
    /// sent in a pong, the other side answers it only in its own next ping.
    in_ping: bool,
}

/// What one side of a connection knows about the other side: its signs of life, and the questions that it has not
/// answered.
#[derive(Debug)]
pub struct Liveness {
    /// The latest time at which the other side is known to have been alive.
    alive_at: Instant,
    asked_at: Instant,
    /// When this side first sent lines after the other side's last sign of life; `None` if this side has sent no lines
    /// since then.
    unheard_since: Option<Instant>,
    last_number: u32,
    /// The questions without an answer, oldest first.
    unanswered: VecDeque<Question>,
    /// The number of the other side's question that the next ping must answer; 0 if there is none.
    owed: u32,
    ping_after: Duration,
    dead_after: Duration,
    /// Whether this side asks questions in its pongs.
    asks_in_pongs: bool,
    /// When [`Liveness::doubt_due`] last returned true, or when the connection began; `None` if there are no other
    /// hubs.
    doubted_at: Option<Instant>,
}

impl Liveness {
    /// The state that a guest keeps about its hub, if the mesh has only one hub. At first, the hub counts as alive.
    pub fn of_hub(now: Instant) -> Liveness {
        Liveness {
            alive_at: now,
            asked_at: now,
            unheard_since: None,
            last_number: 0,
            unanswered: VecDeque::new(),
            owed: 0,
            ping_after: PING_AFTER,
            dead_after: HUB_DEAD_AFTER,
            asks_in_pongs: false,
            doubted_at: None,
        }
    }

    /// The state that a guest keeps about its hub, if the mesh has several hubs. In this case, [`Liveness::doubt_due`]
    /// reports a silent hub before the connection ends.
    pub fn of_one_of_several_hubs(now: Instant) -> Liveness {
        Liveness { ping_after: PING_AFTER_OF_SEVERAL, doubted_at: Some(now), ..Liveness::of_hub(now) }
    }

    /// The state that a hub keeps about one of its guests. At first, the guest counts as alive.
    pub fn of_guest(now: Instant) -> Liveness {
        let (ping_after, dead_after) = (PING_AFTER_OF_HUB, GUEST_DEAD_AFTER);
        Liveness { ping_after, dead_after, asks_in_pongs: true, ..Liveness::of_hub(now) }
    }

    /// Records that this side sends lines.
    pub fn note_sent(&mut self, now: Instant) {
        self.unheard_since.get_or_insert(now);
    }

    /// Records a sign of life: a message that only the other side can have sent.
    pub fn note_message(&mut self, now: Instant) {
        self.note_alive(now);
    }

    fn note_alive(&mut self, at: Instant) {
        self.alive_at = self.alive_at.max(at);
        self.unheard_since = self.unheard_since.filter(|sent_at| *sent_at > at);
    }

    /// Processes a ping: records the answer that the ping contains, and returns the pong.
    pub fn answer(&mut self, ping: Heartbeat, now: Instant) -> Heartbeat {
        self.note_answer(ping.answer);
        let asks = self.asks_in_pongs && now >= self.asked_at + ASK_EVERY;
        Heartbeat { question: if asks { self.ask(now, false) } else { 0 }, answer: ping.question }
    }

    /// Processes a pong: records the answer that the pong contains, and keeps the question that the next ping must
    /// answer.
    pub fn note_pong(&mut self, pong: Heartbeat) {
        self.note_answer(pong.answer);
        if pong.question != 0 {
            self.owed = pong.question;
        }
    }

    fn note_answer(&mut self, number: u32) {
        if let Some(n) = self.unanswered.iter().position(|question| question.number == number) {
            self.note_alive(self.unanswered[n].asked_at);
            self.unanswered.drain(..=n);
        }
    }

    /// Whether the other side has been silent for too long.
    pub fn is_dead(&self, now: Instant) -> bool {
        now >= self.dead_at()
    }

    /// The time after which the other side counts as gone, if it gives no further sign of life.
    fn dead_at(&self) -> Instant {
        let dead_at = self.alive_at + self.dead_after;
        self.unanswered_ping().map_or(dead_at, |asked_at| dead_at.min(asked_at + PONG_WITHIN))
    }

    /// The time of the oldest ping that was sent after the last sign of life and has no answer yet; `None` if there is
    /// no such ping.
    fn unanswered_ping(&self) -> Option<Instant> {
        let pings = self.unanswered.iter().filter(|question| question.in_ping);
        pings.map(|ping| ping.asked_at).find(|asked_at| *asked_at > self.alive_at)
    }

    /// Returns the next ping, if one is due.
    pub fn ping_due(&mut self, now: Instant) -> Option<Heartbeat> {
        (now >= self.next_ping()).then(|| self.ping(now))
    }

    /// Records that this side sends lines. After some silence, also returns a ping to send with the lines. This is
    /// necessary because the thread that usually sends pings may be asleep.
    pub fn note_sent_after_silence(&mut self, now: Instant) -> Option<Heartbeat> {
        self.note_sent(now);
        (now >= self.alive_at.max(self.asked_at) + PING_AFTER_LINES).then(|| self.ping(now))
    }

    fn ping(&mut self, now: Instant) -> Heartbeat {
        Heartbeat { question: self.ask(now, true), answer: std::mem::take(&mut self.owed) }
    }

    /// Records a new question, and returns its number.
    fn ask(&mut self, now: Instant, in_ping: bool) -> u32 {
        self.last_number = self.last_number.checked_add(1).unwrap_or(1);
        self.asked_at = now;
        let dead_after = self.dead_after;
        self.unanswered.retain(|question| now < question.asked_at + dead_after);
        self.unanswered.push_back(Question { number: self.last_number, asked_at: now, in_ping });
        self.last_number
    }

    fn next_ping(&self) -> Instant {
        let idle = self.alive_at.max(self.asked_at) + self.ping_after;
        self.unheard_since.map_or(idle, |sent_at| idle.min(sent_at.max(self.asked_at) + PING_AFTER_LINES))
    }

    /// Whether the other hubs should be asked now, because a ping has been unanswered for too long. Returns true at
    /// most once a second.
    pub fn doubt_due(&mut self, now: Instant) -> bool {
        let is_due = self.next_doubt().is_some_and(|at| now >= at);
        if is_due {
            self.doubted_at = Some(now);
        }
        is_due
    }

    fn next_doubt(&self) -> Option<Instant> {
        Some(self.unanswered_ping()?.max(self.doubted_at?) + DOUBT_AFTER)
    }

    /// The next time at which the result of [`Liveness::is_dead`], [`Liveness::ping_due`] or [`Liveness::doubt_due`]
    /// may change.
    pub fn deadline(&self) -> Instant {
        let deadline = self.next_ping().min(self.dead_at());
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

    /// The two sides of a connection in a test. `hub` is the guest's knowledge about its hub, and `guest` is the hub's
    /// knowledge about the guest.
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

        /// Simulates both sides for `ms` milliseconds, in steps of 100 ms. During `cut`, the cable is unplugged. From
        /// the start of `cut` until two seconds after its end, nothing arrives. Returns whether the guest considers the
        /// hub dead, and whether the hub considers the guest dead.
        fn run(&mut self, start: Instant, ms: u64, cut: std::ops::Range<u64>) -> (bool, bool) {
            // The messages in transit, each with a flag that is true for a ping.
            let (mut to_hub, mut to_guest) = (VecDeque::new(), VecDeque::new());
            for step in (0..ms).step_by(100) {
                let now = after(start, step);
                if !(cut.start..cut.end + 2000).contains(&step) || cut.is_empty() {
                    while let Some((heartbeat, is_ping)) = to_hub.pop_front() {
                        if is_ping {
                            to_guest.push_back((self.guest.answer(heartbeat, now), false));
                        } else {
                            self.guest.note_pong(heartbeat);
                        }
                    }
                    while let Some((heartbeat, is_ping)) = to_guest.pop_front() {
                        if is_ping {
                            to_hub.push_back((self.hub.answer(heartbeat, now), false));
                        } else {
                            self.hub.note_pong(heartbeat);
                        }
                    }
                }
                if self.hub.is_dead(now) || self.guest.is_dead(now) {
                    return (self.hub.is_dead(now), self.guest.is_dead(now));
                }
                if let Some(ping) = self.hub.ping_due(now) {
                    self.n_pings += 1;
                    to_hub.push_back((ping, true));
                }
                // If a guest is busy, a real hub checks it only once a second.
                if step % 1000 == 0
                    && let Some(ping) = self.guest.ping_due(now)
                {
                    self.n_hub_pings += 1;
                    to_guest.push_back((ping, true));
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
        assert_eq!((pair.n_pings, pair.n_hub_pings), (5, 0));
    }

    #[test]
    fn five_seconds_without_a_cable_give_up_nobody_and_twenty_give_up_both() {
        let start = Instant::now();
        for cut in (20_000..40_000).step_by(100) {
            assert_eq!(Pair::new(start).run(start, 80_000, cut..cut + 5000), (false, false), "cut at {cut} ms");
            let mut pair = Pair::new(start);
            assert_ne!(pair.run(start, cut + 20_000, cut..100_000), (false, false), "cut at {cut} ms");
            let end = after(start, cut + 20_000);
            assert!(pair.hub.is_dead(end) && pair.guest.is_dead(end), "cut at {cut} ms");
        }
    }

    #[test]
    fn whoever_hears_nothing_after_its_lines_gives_up_within_ten_seconds() {
        let start = Instant::now();
        for mut side in [Liveness::of_hub(start), Liveness::of_guest(start), Liveness::of_one_of_several_hubs(start)] {
            side.note_message(after(start, 500));
            side.note_sent(after(start, 1000));
            side.note_sent(after(start, 2000));
            assert_eq!(side.ping_due(after(start, 2499)), None);
            assert!(side.ping_due(after(start, 3000)).is_some());
            assert_eq!(side.ping_due(after(start, 4999)), None);
            assert!(!side.is_dead(after(start, 10_999)) && side.is_dead(after(start, 11_000)));
            side.note_message(after(start, 4000));
            assert_eq!(side.ping_due(after(start, 5999)), None, "its lines were heard");
            assert!(!side.is_dead(after(start, 12_000)));
        }
    }

    #[test]
    fn lines_after_a_silence_carry_a_ping() {
        let start = Instant::now();
        let mut hub = Liveness::of_hub(start);
        assert_eq!(hub.note_sent_after_silence(after(start, 1999)), None);
        assert!(hub.note_sent_after_silence(after(start, 2000)).is_some());
        assert_eq!(hub.note_sent_after_silence(after(start, 3999)), None, "the ping is under way");
        assert!(hub.is_dead(after(start, 10_000)));
    }

    #[test]
    fn a_guest_that_falls_silent_after_a_message_is_given_up_within_twenty_seconds() {
        let start = Instant::now();
        let mut guest = Liveness::of_guest(start);
        guest.answer(Heartbeat { question: 1, answer: 0 }, after(start, 4000));
        guest.note_message(after(start, 5000));
        assert!(guest.ping_due(after(start, 16_000)).is_some());
        assert!(!guest.is_dead(after(start, 23_999)) && guest.is_dead(after(start, 24_000)));
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
        assert_eq!(hub.ping_due(after(start, 9999)), None);
        assert_eq!(hub.ping_due(after(start, 10_000)), Some(Heartbeat { question: 1, answer: 0 }));
        assert_eq!(hub.ping_due(after(start, 10_001)), None, "once");
        assert!(!hub.is_dead(after(start, 17_999)) && hub.is_dead(after(start, 18_000)));
        hub.note_pong(pong(1));
        assert!(!hub.is_dead(after(start, 27_999)));
        // Before this check, no ping is sent for a while, as if the guest's machine were asleep.
        assert!(hub.is_dead(after(start, 28_000)));
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
        assert!(only.ping_due(after(start, 10_000)).is_some());
        assert!(!only.doubt_due(after(start, 17_000)));
    }

    #[test]
    fn only_answers_count_and_each_from_its_question_on() {
        let start = Instant::now();
        let mut hub = Liveness::of_hub(start);
        let pings: Vec<_> = (1..4).filter_map(|n| hub.ping_due(after(start, n * 10_000))).collect();
        assert_eq!(pings.iter().map(|ping| ping.question).collect::<Vec<_>>(), [1, 2, 3]);
        for false_number in [0, 4, u32::MAX] {
            hub.note_pong(pong(false_number));
        }
        assert!(hub.is_dead(after(start, 18_000)), "no question had these numbers");
        hub.note_pong(pong(2));
        hub.note_pong(pong(2));
        hub.note_pong(pong(1));
        assert!(!hub.is_dead(after(start, 37_999)) && hub.is_dead(after(start, 38_000)));
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
