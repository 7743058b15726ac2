//! Recognizes when two hooks report the same event. An agent runs two hooks for one event if our hooks are in two
//! places: in a plugin and in the settings that `setup` wrote, or in a user's and a project's settings.

use super::{HOOK_DELIVERY_MS, Mail};
use crate::base::ids::PeerId;
use crate::core::ConnId;
use std::collections::HashMap;

/// Events of sessions, each with the time and the connection of the first hook that reported the event.
pub(super) type HookEvents = HashMap<(PeerId, String), (i64, ConnId)>;

impl Mail {
    /// Whether another hook has already reported this event of a session. `event` is a text that identifies the event.
    /// Different events may have the same text, so a report counts as a repetition only if it follows within
    /// [`HOOK_DELIVERY_MS`].
    pub(in crate::core) fn is_second_hook(&mut self, id: &PeerId, event: &str, conn: ConnId, now: i64) -> bool {
        self.hook_events.retain(|_, (at, _)| now - *at < HOOK_DELIVERY_MS);
        let (_, first) = self.hook_events.entry((id.clone(), event.to_owned())).or_insert((now, conn));
        *first != conn
    }
}
