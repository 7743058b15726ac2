//! Counts events that unauthenticated clients cause. The count is logged at most once per minute, so that such clients
//! can't fill the log.

/// Minimum time between two reports, in ms.
const REPORT_EVERY_MS: i64 = 60_000;

/// The number of events of one kind since the last report.
#[derive(Debug, Default)]
pub struct EventCount {
    n: u64,
    /// The time, in ms, at which the next report may be written. The first report is written at once.
    next_report: i64,
}

impl EventCount {
    /// Counts one event.
    pub fn add(&mut self) {
        self.n += 1;
    }

    /// The time, in ms, at which the next report is due; `None` if there was no event.
    pub fn report_due(&self) -> Option<i64> {
        (self.n > 0).then_some(self.next_report)
    }

    /// Returns the number of events since the last report; `None` if there were none, or if the last report is less
    /// than a minute old.
    pub fn take_report(&mut self, now: i64) -> Option<u64> {
        self.report_due().filter(|due| *due <= now)?;
        self.next_report = now + REPORT_EVERY_MS;
        Some(std::mem::take(&mut self.n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_event_is_reported_at_once_and_many_are_one_report() {
        let mut count = EventCount::default();
        assert_eq!((count.report_due(), count.take_report(1000)), (None, None));
        count.add();
        assert_eq!((count.take_report(1000), count.take_report(200_000)), (Some(1), None));
        count.add();
        assert_eq!((count.take_report(200_000), count.report_due()), (Some(1), None));
        (0..5000).for_each(|_| count.add());
        assert_eq!((count.report_due(), count.take_report(259_999)), (Some(260_000), None));
        assert_eq!((count.take_report(260_000), count.take_report(400_000)), (Some(5000), None));
    }
}
