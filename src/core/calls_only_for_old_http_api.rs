//! Methods for the routes of the old HTTP API, and for the routes for SuperLocalMemory daemons (see
//! [`federation`](super::federation)). The routes call these methods directly, because no operation does the same.

use super::Mesh;
use super::locks::request_conflicts::LockRequest;
use crate::base::error::Error;
use crate::base::stored_enums::LockOwner;
use crate::store::LockRow;

impl Mesh {
    /// Subscribes a client of the old HTTP API to events. An empty list of types ends the subscription.
    pub fn subscribe_peer(&mut self, peer: &str, types: Vec<String>) {
        self.journal.subscribe_peer(peer, types);
    }

    /// Changes a peer's summary.
    ///
    /// # Errors
    /// When the peer is unknown, or the database can't be written.
    pub fn set_summary(&mut self, id: &str, summary: &str, now: i64) -> Result<(), Error> {
        let Mesh { turn, peers, journal, .. } = self;
        peers.set_summary(turn, journal, id, summary, now)
    }

    /// Counts `cost` against the sender's rate limit. The unit of `cost` is a tenth of a message.
    ///
    /// # Errors
    /// When the sender has sent too much in a short time.
    pub fn charge(&mut self, sender: &str, cost: u32, now: i64) -> Result<(), Error> {
        self.rates.charge(&self.peers, sender, cost, now)
    }

    /// Grants a lock to a client of the old HTTP API. The request must not conflict with any lock.
    ///
    /// # Errors
    /// When too many locks are in force, or the database can't be written.
    pub fn grant(&mut self, request: &LockRequest, now: i64) -> Result<Vec<LockRow>, Error> {
        let Mesh { turn, peers, locks, journal, .. } = self;
        locks.grant(turn, peers, journal, request, now)
    }

    /// Releases a path for a client of the old HTTP API. Returns false if the client has no lock on the path.
    ///
    /// # Errors
    /// When the database can't be written.
    pub fn release_path(&mut self, path: &str, holder: &str, now: i64) -> Result<bool, Error> {
        let Mesh { turn, peers, locks, journal, .. } = self;
        locks.release_path(turn, peers, journal, path, holder, &LockOwner::Peer, now)
    }
}
