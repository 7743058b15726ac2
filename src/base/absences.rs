//! The times in which no broker ran. A system clock that was wrong when a broker started looks like such a time: the
//! mesh seems to have been without a broker for years. So a long absence adds only a day to the age of what the mesh
//! keeps.

use super::limits::{AWAY_KEPT_MS, DAY_MS};

/// The part of an absence that counts as age, in ms. A broker can't tell whether the machine was off for days, or the
/// clock has jumped.
pub const COUNTED_MS: i64 = DAY_MS;

/// The word that begins the line of an absence in the file `broker.clock`.
const AWAY: &str = "away";

/// A time in which no broker ran, as far as the clocks of the brokers tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absence {
    /// The newest time that the earlier brokers stored, in ms.
    pub from: i64,
    /// The time at which the next broker started, in ms.
    pub until: i64,
}

/// The long absences of the last days, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Absences(Vec<Absence>);

impl Absences {
    /// Reads the absences from the text of the file `broker.clock`. Other lines are skipped.
    pub fn parse(text: &str) -> Absences {
        let absence = |line: &str| {
            let mut times = line.strip_prefix(AWAY)?.split_whitespace().map(|word| word.parse::<i64>().ok());
            let (from, until) = (times.next()??, times.next()??);
            (0 < from && from < until).then_some(Absence { from, until })
        };
        let mut found: Vec<Absence> = text.lines().filter_map(absence).collect();
        found.sort_by_key(|absence| absence.until);
        Absences(found)
    }

    /// The lines from which [`Absences::parse`] reads these absences.
    pub fn to_text(&self) -> String {
        self.0.iter().map(|absence| format!("{AWAY} {} {}\n", absence.from, absence.until)).collect()
    }

    /// The latest absence.
    pub fn last(&self) -> Option<Absence> {
        self.0.last().copied()
    }

    /// Records that a broker starts at the time `now`. `last_stored` is the newest time in the database, or 0 if the
    /// database is empty. Forgets absences that no longer matter.
    pub fn note_start(&mut self, last_stored: i64, now: i64) {
        // An absence that ends later was seen by a broker whose clock was wrong, and that stored nothing. An absence
        // that began at the same time has continued, because the broker between the two stored nothing.
        self.0.retain(|absence| absence.until <= now && absence.from != last_stored);
        if last_stored > 0 && now.saturating_sub(last_stored) > COUNTED_MS {
            self.0.push(Absence { from: last_stored, until: now });
        }
        let oldest = self.oldest_kept(now, AWAY_KEPT_MS);
        self.0.retain(|absence| absence.until > oldest);
    }

    /// What is older than the returned time has been kept for `kept` milliseconds, of which each absence counts as at
    /// most [`COUNTED_MS`].
    pub fn oldest_kept(&self, now: i64, kept: i64) -> i64 {
        let (mut end, mut left) = (now, kept);
        for absence in self.0.iter().rev().filter(|absence| absence.until <= now) {
            let after = (end - absence.until).max(0);
            if after >= left {
                break;
            }
            left -= after;
            end = absence.from + COUNTED_MS;
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
            let mut absences = Absences::default();
            absences.note_start(NOW, jumped);
            assert_eq!(absences.oldest_kept(jumped, 7 * DAY_MS), NOW - 6 * DAY_MS, "{years}");
            assert_eq!(absences.oldest_kept(jumped + 5 * DAY_MS, 7 * DAY_MS), NOW - DAY_MS, "{years}");
            // Six days after the jump, everything from before the jump has been kept for seven days.
            assert!(absences.oldest_kept(jumped + 6 * DAY_MS, 7 * DAY_MS) >= NOW, "{years}");
            assert_eq!(absences.oldest_kept(jumped + 8 * DAY_MS, 7 * DAY_MS), jumped + DAY_MS, "{years}");
            assert_eq!(Absences::parse(&format!("boot 1 2\n{}", absences.to_text())), absences);
        }
    }

    #[test]
    fn mail_is_deleted_even_if_the_machine_is_off_every_weekend() {
        let (mut absences, mut now) = (Absences::default(), NOW);
        for _ in 0..100 {
            absences.note_start(now, now + 3 * DAY_MS);
            now += 7 * DAY_MS;
        }
        // Of each week, five days count: a day of the weekend, and four days on which a broker ran.
        assert_eq!(absences.oldest_kept(now, 7 * DAY_MS), now - 9 * DAY_MS);
        assert!(absences.0.len() < 31, "{}", absences.0.len());
    }

    #[test]
    fn short_or_impossible_absences_do_not_count() {
        let mut absences = Absences::parse("away\naway 5\naway x 9\naway 9 5\naway 0 5\n\nboot 1 2");
        assert_eq!(absences, Absences::default());
        absences.note_start(0, NOW);
        absences.note_start(NOW - DAY_MS, NOW);
        assert_eq!(absences, Absences::default());
        assert_eq!(absences.oldest_kept(NOW, 7), NOW - 7);
        // A broker starts with a wrong clock and stores nothing. The next broker starts with the right clock.
        absences.note_start(NOW, NOW + 4000 * DAY_MS);
        assert!(absences.last().is_some());
        absences.note_start(NOW, NOW + 60_000);
        assert_eq!(absences, Absences::default());
    }
}
