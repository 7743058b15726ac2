//! Counts what strangers cause, so that the log gets one line a minute and they can't fill it.

/// How long events are counted before they are reported, ms.
const REPORT_EVERY_MS: i64 = 60_000;

/// Events of one kind since the last report.
#[derive(Debug, Default)]
pub struct StrangerCount {
    n: u64,
    /// When the first of them happened, ms.
    since: i64,
}

impl StrangerCount {
    /// Counts one more.
    pub fn add(&mut self, now: i64) {
        if self.n == 0 {
            self.since = now;
        }
        self.n += 1;
    }

    /// When they are to be reported, ms.
    pub fn report_due(&self) -> Option<i64> {
        (self.n > 0).then_some(self.since + REPORT_EVERY_MS)
    }

    /// How many there were, once a minute has passed since the first.
    pub fn take_report(&mut self, now: i64) -> Option<u64> {
        self.report_due().filter(|due| *due <= now)?;
        Some(std::mem::take(&mut self.n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_events_are_one_report() {
        let mut count = StrangerCount::default();
        assert_eq!((count.report_due(), count.take_report(1_000_000)), (None, None));
        (0..5000).for_each(|n| count.add(1000 + n));
        assert_eq!((count.report_due(), count.take_report(60_999)), (Some(61_000), None));
        assert_eq!((count.take_report(61_000), count.take_report(200_000)), (Some(5000), None));
    }
}
