//! The errors for a request that a lock blocks, and for a lock that can't be released.

use super::Locks;
use super::request_conflicts::LockRequest;
use super::{lock_view, wait_queue_and_forced_unlock};
use crate::base::error::{Error, ErrorKind};
use crate::base::id_types::PeerId;
use crate::base::shell_wildcards::shell_quoted;
use crate::base::{limits, path_overlap, time_format, untrusted_text};
use crate::core::peers::Peers;
use crate::core::waiting_calls::Waiting;
use crate::store::LockRow;
use serde_json::json;

impl Locks {
    /// Returns the error for a path that could not be released.
    pub(super) fn not_released(&self, peers: &Peers, me: &PeerId, path: &str) -> Error {
        Error::not_found(match self.locks.on_path(path).find(|lock| lock.path == path) {
            Some(lock) if lock.holder == *me => {
                format!("{path} is locked by a running command of yours; the lock ends when that command ends")
            }
            Some(lock) => {
                let name = peers.name_of(&lock.holder);
                format!("{path} is locked by {name}, not by you; only the holder can release the lock")
            }
            None => self.not_locked_text(peers, me, path),
        })
    }

    /// Returns the text of the error for a path that is not locked. If a folder or glob that shares files with the path
    /// is locked, the text names that lock, because the caller probably wants to release that lock. The caller's own
    /// locks come first.
    fn not_locked_text(&self, peers: &Peers, me: &PeerId, path: &str) -> String {
        let shares_files = |lock: &&LockRow| path_overlap::overlap(&lock.path, path);
        let own = self.all().filter(|lock| lock.holder == *me).find(shares_files);
        let found = own.or_else(|| self.all().find(shares_files));
        match found.map(|lock| (lock, untrusted_text::shown_path(&lock.path))) {
            Some((lock, shown)) if lock.holder == *me => format!(
                "there is no lock on {path} itself, but you have locked {shown}, which overlaps with {path}; to \
                 release that lock, use slm-mesh unlock {}",
                quoted_if_exact(&shown, &lock.path)
            ),
            Some((lock, shown)) => format!(
                "there is no lock on {path} itself, but {} has locked {shown}, which shares files with it; only the \
                 holder can release that lock",
                peers.name_of(&lock.holder)
            ),
            None => format!(
                "{path} is not locked; to list the locks, use mesh_lock with action `query` (slm-mesh lock list)"
            ),
        }
    }

    /// Returns the error for a request that a lock blocks. The error contains the holder, the reason, the remaining
    /// time, and a suggestion.
    pub(in crate::core) fn held_error(
        &self,
        peers: &Peers,
        waiting: &Waiting,
        lock: &LockRow,
        request: &LockRequest,
        now: i64,
    ) -> Error {
        let (holder, left) = (peers.name_of(&lock.holder), time_format::span(lock.expires - now));
        let reason = if lock.reason.is_empty() {
            String::new()
        } else {
            format!("reason: {}, ", untrusted_text::quoted(&lock.reason, limits::REASON_MAX))
        };
        let path = untrusted_text::shown_path(&lock.path);
        let is_edited = lock.owner.is_edit() || self.is_edited_by_other_subagent(lock, request);
        let text = if lock.holder == request.holder && is_edited {
            format!(
                "{path} is being edited by another subagent of this session ({left} left); let that subagent finish \
                 first"
            )
        } else if lock.holder == request.holder {
            let cure = match (lock.owner.is_shared(), request.owner.is_shared()) {
                (false, _) => "the lock ends when that command ends".to_owned(),
                (true, true) => "renew that lock with --renew".to_owned(),
                // A command can renew only its own locks, and this lock does not belong to a command.
                (true, false) => {
                    let word = quoted_if_exact(&path, &lock.path);
                    format!("release that lock first with slm-mesh unlock {word}")
                }
            };
            format!("{path} is locked by another command of yours ({reason}{left} left); {cure}")
        } else {
            format!(
                "{path} is locked by {holder} ({reason}{left} left); wait with waitSeconds (on the command line: \
                 --wait 60), or ask the holder with mesh_send to {holder} (slm-mesh send {holder} \"…\")"
            )
        };
        let queue =
            wait_queue_and_forced_unlock::names_for(peers, lock, &wait_queue_and_forced_unlock::matchers(waiting));
        Error::new(ErrorKind::Held, text).with(json!({ "lock": lock_view(peers, lock, now), "queue": queue }))
    }
}

/// Returns the path, quoted for a shell command, if its shown form is the same as the path. Otherwise, returns the
/// shown form.
fn quoted_if_exact(shown: &str, path: &str) -> String {
    if shown == path { shell_quoted(path) } else { shown.to_owned() }
}
