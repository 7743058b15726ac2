//! Tries of a secret, counted by address and told once a minute, since a line for each would let
//! strangers fill the log.
//!
//! **Invariant:** however many addresses try, what is kept and told of them is bounded.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How often is said who tried.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// Addresses that are counted one by one; all others are counted together.
const ADDRESSES_MAX: usize = 512;
/// Addresses that a line names, those that tried most.
const NAMED_MAX: usize = 8;

/// The tries of this minute.
#[derive(Debug, Default)]
pub struct Tries {
    by_address: HashMap<IpAddr, u32>,
    /// Of addresses that found no room.
    others: u32,
    /// When the first of them came.
    began: Option<Instant>,
}

impl Tries {
    /// Counts one; how many the address has made in this minute.
    pub fn note(&mut self, address: IpAddr, now: Instant) -> u32 {
        self.began.get_or_insert(now);
        let has_room = self.by_address.len() < ADDRESSES_MAX || self.by_address.contains_key(&address);
        let n = if has_room { self.by_address.entry(address).or_default() } else { &mut self.others };
        *n = n.saturating_add(1);
        *n
    }

    /// How many the address has made in this minute; one that found no room answers for all of those.
    pub fn of(&self, address: IpAddr) -> u32 {
        self.by_address.get(&address).copied().unwrap_or(self.others)
    }

    /// When there is something to say.
    pub fn due(&self) -> Option<Instant> {
        self.began.map(|began| began + SAY_EVERY)
    }

    /// Whether a minute is over of which there is something to say.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// Ends the minute: who tried, with numbers, if anybody did.
    pub fn end(&mut self) -> Option<String> {
        self.began?;
        let ended = std::mem::take(self);
        let mut rows: Vec<(IpAddr, u32)> = ended.by_address.into_iter().collect();
        rows.sort_by_key(|(address, n)| (std::cmp::Reverse(*n), *address));
        let mut words: Vec<String> =
            rows.iter().take(NAMED_MAX).map(|(address, n)| format!("{address} ({n})")).collect();
        let n_rest = rows.iter().skip(NAMED_MAX).map(|(_, n)| n).fold(ended.others, |sum, n| sum.saturating_add(*n));
        if n_rest > 0 {
            words.push(format!("other addresses ({n_rest})"));
        }
        Some(words.join(", "))
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
    fn a_minute_is_told_once_with_those_who_tried_most() {
        let (mut tries, began) = (Tries::default(), Instant::now());
        assert_eq!(tries.due(), None);
        for n in 1..=10 {
            for _ in 0..n {
                tries.note(address(n), began);
            }
        }
        assert!(!tries.is_due(began + Duration::from_secs(59)) && tries.is_due(began + SAY_EVERY));
        assert_eq!(
            tries.end().as_deref(),
            Some(
                "10.0.0.10 (10), 10.0.0.9 (9), 10.0.0.8 (8), 10.0.0.7 (7), 10.0.0.6 (6), 10.0.0.5 (5), 10.0.0.4 (4), \
                 10.0.0.3 (3), other addresses (3)"
            )
        );
        assert_eq!((tries.end(), tries.due(), tries.of(address(10))), (None, None, 0));
    }

    #[test]
    fn a_million_addresses_cost_as_much_as_some() {
        let (mut tries, now) = (Tries::default(), Instant::now());
        for n in 0..1_000_000 {
            tries.note(address(n), now);
        }
        assert_eq!(tries.by_address.len(), ADDRESSES_MAX);
        assert_eq!((tries.of(address(0)), tries.of(address(2_000_000))), (1, 1_000_000 - ADDRESSES_MAX as u32));
    }
}
