//! The parts of the mesh that change when a session begins, resumes or ends.

use super::Peers;
use crate::core::Mesh;
use crate::core::channels::Channels;
use crate::core::event_journal::Journal;
use crate::core::locks::Locks;
use crate::core::mail::Mail;
use crate::core::transaction_and_pending_effects::Turn;
use crate::core::waiting_calls::Waiting;

/// The parts of the mesh that change when a session begins, resumes or ends.
pub(in crate::core) struct SessionParts<'a> {
    pub(in crate::core) turn: &'a mut Turn,
    pub(in crate::core) peers: &'a mut Peers,
    pub(in crate::core) locks: &'a mut Locks,
    pub(in crate::core) mail: &'a mut Mail,
    pub(in crate::core) channels: &'a mut Channels,
    pub(in crate::core) journal: &'a mut Journal,
    pub(in crate::core) waiting: &'a mut Waiting,
}

impl Mesh {
    /// Returns the parts that change when a session begins, resumes or ends.
    pub(in crate::core) fn session_parts(&mut self) -> SessionParts<'_> {
        let Mesh { turn, peers, locks, mail, channels, journal, waiting, .. } = self;
        SessionParts { turn, peers, locks, mail, channels, journal, waiting }
    }
}
