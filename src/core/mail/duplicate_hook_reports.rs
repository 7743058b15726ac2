//! Detects that two hooks report the same event. This happens if our hooks are installed twice: in a plugin and in the
//! settings from `setup`, or in the user's settings and in the project's settings.

use super::{HOOK_DELIVERY_MS, Mail};
use crate::base::id_types::PeerId;
use crate::core::ConnId;
use std::collections::HashMap;

/// Recent events of sessions. The values are the time and the connection of the first hook that reported the event.
pub(super) type HookEvents = HashMap<(PeerId, String), (i64, ConnId)>;

impl Mail {
    /// Whether another hook has already reported this event of a session. Different events may have the same text
    /// `event`. So a second report counts as a repetition only if it comes within [`HOOK_DELIVERY_MS`].
    pub(in crate::core) fn is_second_hook(&mut self, id: &PeerId, event: &str, conn: ConnId, now: i64) -> bool {
        self.hook_events.retain(|_, (at, _)| now - *at < HOOK_DELIVERY_MS);
        let (_, first) = self.hook_events.entry((id.clone(), event.to_owned())).or_insert((now, conn));
        *first != conn
    }
}
