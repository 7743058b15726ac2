//! What a client has lately cost the loop, so that its cost is its own: a client that works the loop hard
//! waits behind the others, and they do not wait for it.

use std::time::Duration;

/// Work that a client gets in one turn before the others get theirs. A request under way is finished.
pub const CLIENT_SHARE: Duration = Duration::from_millis(1);
/// Work in one turn for all clients together. What is left over is served in the next turn, after
/// newcomers, HTTP and the linked meshes had theirs.
pub const TURN_SHARE: Duration = Duration::from_millis(2);
/// One part in so many of the loop's time is free of debt.
const FREE_PART: i64 = 4;

/// The work that a client has caused beyond what time has paid off since.
#[derive(Debug, Default, Clone, Copy)]
pub struct WorkDebt {
    micros: i64,
    /// When `micros` was right, ms.
    at: i64,
}

impl WorkDebt {
    /// Adds work that was done for the client.
    pub fn charge(&mut self, work: Duration, now: i64) {
        self.micros = self.left(now).saturating_add(work.as_micros().try_into().unwrap_or(i64::MAX));
        self.at = now;
    }

    /// Microseconds that are not paid off yet.
    pub fn left(&self, now: i64) -> i64 {
        let paid = (now - self.at).max(0).saturating_mul(1000 / FREE_PART);
        self.micros.saturating_sub(paid).max(0)
    }

    /// Whether the client has had more than its share lately.
    pub fn is_heavy(&self, now: i64) -> bool {
        self.left(now) > CLIENT_SHARE.as_micros() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_pays_off_what_a_client_cost() {
        let mut debt = WorkDebt::default();
        debt.charge(CLIENT_SHARE, 100);
        assert!(!debt.is_heavy(100), "its share is its own");
        debt.charge(Duration::from_millis(9), 100);
        assert!(debt.is_heavy(100) && debt.is_heavy(135));
        assert!(!debt.is_heavy(136), "nine milliseconds too much are paid off after four times as long");
        assert_eq!(debt.left(1000), 0, "nothing is saved up");
        assert!(debt.left(50) > 0, "a clock that goes back forgives nothing");
    }
}
