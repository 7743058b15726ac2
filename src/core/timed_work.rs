//! The work that becomes due as time passes, such as the end of a wait or the expiry of a lock.

use super::event_journal::Journal;
use super::peers::expire_peers;
use super::{Effect, Mesh};
use crate::base::error::Error;
use crate::base::limits;

impl Mesh {
    /// Does the work that is due at the time `now`: ends waits, expires locks and entries, marks silent peers as gone,
    /// and removes old rows.
    pub fn tick(&mut self, now: i64) {
        if now >= self.retry_after {
            for step in [Mesh::expire_locks, Mesh::expire_peers, Mesh::expire_links, Mesh::expire_rows, Mesh::prune] {
                if let Err(error) = self.in_savepoint(|mesh| step(mesh, now)) {
                    self.retry_after = now + limits::REST_MS;
                    self.turn.push(Effect::Log(error));
                }
            }
        }
        self.ticked_at = now;
        // Waiting calls run again before their waits end. So a call gets its lock even if the lock becomes free at the
        // instant at which the wait ends.
        self.resume_waiting(now);
        self.end_waits(now);
        self.resume_waiting(now);
    }

    /// The next time at which [`Mesh::tick`] will have work to do, in ms. The removal of old rows does not count,
    /// because it is not urgent.
    pub fn deadline(&mut self) -> Option<i64> {
        let writes = [
            self.locks.deadline(),
            self.peers.deadline(),
            self.federation.deadline(&self.peers),
            self.turn.next_expiry(),
        ];
        let write = writes.into_iter().flatten().min().map(|at| at.max(self.retry_after));
        [self.waiting.deadline(), write].into_iter().flatten().min()
    }

    fn expire_locks(&mut self, now: i64) -> Result<(), Error> {
        let Mesh { turn, peers, locks, journal, .. } = self;
        locks.expire(turn, peers, journal, now)
    }

    fn expire_peers(&mut self, now: i64) -> Result<(), Error> {
        expire_peers(&mut self.session_parts(), now)
    }

    fn expire_links(&mut self, now: i64) -> Result<(), Error> {
        let Mesh { turn, peers, journal, federation, .. } = self;
        federation.expire(turn, peers, journal, now)
    }

    fn expire_rows(&mut self, now: i64) -> Result<(), Error> {
        let Mesh { turn, peers, mail, journal, state, .. } = self;
        if turn.next_expiry().is_none_or(|at| at > now) {
            return Ok(());
        }
        turn.forget_expiry();
        state.expire(turn, peers, journal, now)?;
        mail.expire(turn, journal, now)
    }

    /// Removes old rows, up to a limit, and forgets peers that have been offline for a long time.
    fn prune(&mut self, now: i64) -> Result<(), Error> {
        if now < self.next_prune && !self.state.is_cleanup_due(now) {
            return Ok(());
        }
        self.next_prune = now + limits::PRUNE_EVERY_MS;
        let Mesh { turn, peers, locks, mail, state, .. } = self;
        let downtimes = &self.downtimes;
        let n = Journal::prune(turn, downtimes.oldest_kept(now, limits::EVENTS_KEPT_MS))?;
        let more_mail = mail.prune(turn, downtimes.oldest_kept(now, limits::MAIL_KEPT_MS))?;
        let more_values = state.prune(turn, now)?;
        if n == limits::PRUNE_STEP as usize || more_mail || more_values {
            self.next_prune = now + 1000;
        }
        peers.forget_old(turn, mail, locks, downtimes.oldest_kept(now, limits::AWAY_KEPT_MS))?;
        Ok(())
    }
}
