//! The times in which no broker ran. If the system clock was wrong when a broker started, the mesh may seem to have
//! been without a broker for years. So a long downtime adds only a day to the age of what the mesh keeps.

use super::limits::{AWAY_KEPT_MS, DAY_MS};

/// How much a long downtime adds to the age of what the mesh keeps, in ms. A broker can't tell whether the machine was
/// off for days or the clock has jumped.
pub const COUNTED_MS: i64 = DAY_MS;

/// In the file `broker.clock`, each line that records a downtime begins with this word.
const AWAY: &str = "away";

/// A period in which no broker ran, according to the brokers' clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Downtime {
    /// The newest time that the earlier brokers stored, in ms.
    pub from: i64,
    /// The time at which the next broker started, in ms.
    pub until: i64,
}

/// The recent downtimes that lasted more than a day, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Downtimes(Vec<Downtime>);

impl Downtimes {
    /// Reads the downtimes from the text of the file `broker.clock`. Other lines are skipped.
    pub fn parse(text: &str) -> Downtimes {
        let downtime = |line: &str| {
            let mut times = line.strip_prefix(AWAY)?.split_whitespace().map(|word| word.parse::<i64>().ok());
            let (from, until) = (times.next()??, times.next()??);
            (0 < from && from < until).then_some(Downtime { from, until })
        };
        let mut found: Vec<Downtime> = text.lines().filter_map(downtime).collect();
        found.sort_by_key(|downtime| downtime.until);
        Downtimes(found)
    }

    /// The lines from which [`Downtimes::parse`] reads these downtimes.
    pub fn to_text(&self) -> String {
        self.0.iter().map(|downtime| format!("{AWAY} {} {}\n", downtime.from, downtime.until)).collect()
    }

    /// The latest downtime.
    pub fn last(&self) -> Option<Downtime> {
        self.0.last().copied()
    }

    /// Records that a broker starts at the time `now`. `last_stored` is the newest time in the database, or 0 if the
    /// database is empty. Forgets downtimes that no longer matter.
    pub fn note_start(&mut self, last_stored: i64, now: i64) {
        // A downtime that ends later than `now` comes from a broker whose clock was wrong, and which stored nothing. A
        // downtime that began at `last_stored` has not ended yet, because the broker that recorded it stored nothing.
        self.0.retain(|downtime| downtime.until <= now && downtime.from != last_stored);
        if last_stored > 0 && now.saturating_sub(last_stored) > COUNTED_MS {
            self.0.push(Downtime { from: last_stored, until: now });
        }
        let oldest = self.oldest_kept(now, AWAY_KEPT_MS);
        self.0.retain(|downtime| downtime.until > oldest);
    }

    /// Returns a time. Everything from before this time has been kept for more than `kept` milliseconds. In this
    /// calculation, each downtime counts as at most [`COUNTED_MS`].
    pub fn oldest_kept(&self, now: i64, kept: i64) -> i64 {
        let (mut end, mut left) = (now, kept);
        for downtime in self.0.iter().rev().filter(|downtime| downtime.until <= now) {
            let after = (end - downtime.until).max(0);
            if after >= left {
                break;
            }
            left -= after;
            end = downtime.from + COUNTED_MS;
        }
        end - left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_000_000_000;

    #[test]
    fn a_jump_of_the_clock_ages_what_is_kept_by_one_day() {
        for years in [1, 12, 56] {
            let jumped = NOW + years * 365 * DAY_MS;
            let mut downtimes = Downtimes::default();
            downtimes.note_start(NOW, jumped);
            assert_eq!(downtimes.oldest_kept(jumped, 7 * DAY_MS), NOW - 6 * DAY_MS, "{years}");
            assert_eq!(downtimes.oldest_kept(jumped + 5 * DAY_MS, 7 * DAY_MS), NOW - DAY_MS, "{years}");
            // The jump counts as one day. So six days after the jump, everything from before the jump counts as seven
            // days old.
            assert!(downtimes.oldest_kept(jumped + 6 * DAY_MS, 7 * DAY_MS) >= NOW, "{years}");
            assert_eq!(downtimes.oldest_kept(jumped + 8 * DAY_MS, 7 * DAY_MS), jumped + DAY_MS, "{years}");
            assert_eq!(Downtimes::parse(&format!("boot 1 2\n{}", downtimes.to_text())), downtimes);
        }
    }

    #[test]
    fn mail_is_deleted_even_if_the_machine_is_off_every_weekend() {
        let (mut downtimes, mut now) = (Downtimes::default(), NOW);
        for _ in 0..100 {
            downtimes.note_start(now, now + 3 * DAY_MS);
            now += 7 * DAY_MS;
        }
        // The downtime of three days counts as one day. With the four days on which a broker ran, five days of each
        // week count.
        assert_eq!(downtimes.oldest_kept(now, 7 * DAY_MS), now - 9 * DAY_MS);
        assert!(downtimes.0.len() < 31, "{}", downtimes.0.len());
    }

    #[test]
    fn short_or_impossible_downtimes_do_not_count() {
        let mut downtimes = Downtimes::parse("away\naway 5\naway x 9\naway 9 5\naway 0 5\n\nboot 1 2");
        assert_eq!(downtimes, Downtimes::default());
        downtimes.note_start(0, NOW);
        downtimes.note_start(NOW - DAY_MS, NOW);
        assert_eq!(downtimes, Downtimes::default());
        assert_eq!(downtimes.oldest_kept(NOW, 7), NOW - 7);
        // A broker starts with a wrong clock and stores nothing. The next broker starts with the right clock.
        downtimes.note_start(NOW, NOW + 4000 * DAY_MS);
        assert!(downtimes.last().is_some());
        downtimes.note_start(NOW, NOW + 60_000);
        assert_eq!(downtimes, Downtimes::default());
    }
}
