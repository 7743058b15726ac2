//! Counts failed authentications per address, and reports them at most once a minute. If each failure were logged, a
//! client without the secret could fill the disk with log lines.
//!
//! **Invariant:** the memory and the length of a report are bounded, no matter how many addresses fail.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long failures are collected for one report.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// How many addresses have a count of their own. All other addresses share one count.
const ADDRESSES_MAX: usize = 512;
/// How many addresses a report lists, beginning with the address that has failed most often.
const NAMED_MAX: usize = 8;

/// The failures since the last report.
#[derive(Debug, Default)]
pub struct AuthFailures {
    by_address: HashMap<IpAddr, u32>,
    /// How often addresses without a count of their own have failed.
    others: u32,
    /// When the first failure since the last report happened; `None` if there was none.
    began: Option<Instant>,
}

impl AuthFailures {
    /// Counts a failure. Returns the number of failures of this address since the last report.
    pub fn note(&mut self, address: IpAddr, now: Instant) -> u32 {
        self.began.get_or_insert(now);
        let has_room = self.by_address.len() < ADDRESSES_MAX || self.by_address.contains_key(&address);
        let n = if has_room { self.by_address.entry(address).or_default() } else { &mut self.others };
        *n = n.saturating_add(1);
        *n
    }

    /// How often this address has failed since the last report. If the address has no count of its own, returns the
    /// count that all such addresses share.
    pub fn count_of(&self, address: IpAddr) -> u32 {
        self.by_address.get(&address).copied().unwrap_or(self.others)
    }

    /// When the next report is due; `None` if there was no failure.
    pub fn report_due(&self) -> Option<Instant> {
        self.began.map(|began| began + REPORT_EVERY)
    }

    /// Whether the next report is due.
    pub fn is_report_due(&self, now: Instant) -> bool {
        self.report_due().is_some_and(|due| due <= now)
    }

    /// Returns a report that lists each address with its number of failures. Resets these numbers to zero. Returns
    /// `None` if there was no failure.
    pub fn take_report(&mut self) -> Option<String> {
        self.began?;
        let ended = std::mem::take(self);
        let mut rows: Vec<(IpAddr, u32)> = ended.by_address.into_iter().collect();
        rows.sort_by_key(|(address, n)| (std::cmp::Reverse(*n), *address));
        let mut parts: Vec<String> =
            rows.iter().take(NAMED_MAX).map(|(address, n)| format!("{address} ({n})")).collect();
        let n_rest = rows.iter().skip(NAMED_MAX).map(|(_, n)| n).fold(ended.others, |sum, n| sum.saturating_add(*n));
        if n_rest > 0 {
            parts.push(format!("other addresses ({n_rest})"));
        }
        Some(parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n))
    }

    #[test]
    fn a_minute_is_reported_once_with_the_worst_addresses() {
        let (mut failures, began) = (AuthFailures::default(), Instant::now());
        assert_eq!(failures.report_due(), None);
        for n in 1..=10 {
            for _ in 0..n {
                failures.note(address(n), began);
            }
        }
        assert!(
            !failures.is_report_due(began + Duration::from_secs(59)) && failures.is_report_due(began + REPORT_EVERY)
        );
        assert_eq!(
            failures.take_report().as_deref(),
            Some(
                "10.0.0.10 (10), 10.0.0.9 (9), 10.0.0.8 (8), 10.0.0.7 (7), 10.0.0.6 (6), 10.0.0.5 (5), 10.0.0.4 (4), \
                 10.0.0.3 (3), other addresses (3)"
            )
        );
        assert_eq!((failures.take_report(), failures.report_due(), failures.count_of(address(10))), (None, None, 0));
    }

    #[test]
    fn a_million_addresses_cost_no_more_than_a_few_hundred() {
        let (mut failures, now) = (AuthFailures::default(), Instant::now());
        for n in 0..1_000_000 {
            failures.note(address(n), now);
        }
        assert_eq!(failures.by_address.len(), ADDRESSES_MAX);
        let n_others = 1_000_000 - ADDRESSES_MAX as u32;
        assert_eq!((failures.count_of(address(0)), failures.count_of(address(2_000_000))), (1, n_others));
    }
}
