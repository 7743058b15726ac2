//! The event loop's side of one link. Decides when the next message is passed to the thread that posts it.

use super::{BACKOFF_MAX, Outgoing, backoff};
use crate::broker::log;
use crate::core::Mesh;
use crate::core::federation::handle_forwarding_answer::Delivery;
use std::sync::mpsc::{SyncSender, TrySendError};

/// The event loop's side of one link.
pub(super) struct LinkSender {
    url: String,
    outbox: SyncSender<Outgoing>,
    pub(super) state: SendState,
    /// The number of failed attempts in a row.
    n_failures: u32,
    /// Whether the last poll failed.
    is_poll_failing: bool,
}

/// The state of a link's outgoing messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendState {
    /// Messages may be waiting.
    Ready,
    /// No message is waiting.
    Idle,
    /// A message or a request for receipts is being posted.
    Posting,
    /// The last attempt failed. The next attempt is at this time, in ms, or earlier if polls begin to succeed again.
    FailedUntil(i64),
    /// The link has reached its rate limit, or the next message could not be read. The next attempt is at this time, in
    /// ms.
    PausedUntil(i64),
    /// The thread that posts messages has ended or could not be started.
    Stopped,
}

impl LinkSender {
    /// Makes the event loop's side of a link. `outbox` is the queue of the thread that posts messages.
    pub(super) fn new(url: String, outbox: SyncSender<Outgoing>) -> LinkSender {
        LinkSender { url, outbox, state: SendState::Ready, n_failures: 0, is_poll_failing: false }
    }

    /// Passes the next message to the posting thread. If there is no message, passes a request for receipts. Returns
    /// the new state of the link.
    pub(super) fn send_next(&mut self, mesh: &mut Mesh, n: usize, now: i64) -> SendState {
        let outgoing = match mesh.next_forwarded(n, now) {
            Ok(Some(message)) => match mesh.forwarding_pause(n, now) {
                Some(pause) => return SendState::PausedUntil(now + pause),
                None => Outgoing::Message(message),
            },
            Ok(None) => match mesh.next_receipts_query(n) {
                Some(query) => Outgoing::ReceiptsQuery(query),
                None => return SendState::Idle,
            },
            Err(_) => return SendState::PausedUntil(now + BACKOFF_MAX.as_millis() as i64),
        };
        self.pass_on(outgoing)
    }

    fn pass_on(&mut self, outgoing: Outgoing) -> SendState {
        match self.outbox.try_send(outgoing) {
            Ok(()) => SendState::Posting,
            Err(TrySendError::Full(_)) => SendState::Ready,
            Err(TrySendError::Disconnected(_)) => {
                self.stop();
                SendState::Stopped
            }
        }
    }

    /// Records that the posting thread has ended, and logs this. Further calls log nothing.
    pub(super) fn stop(&mut self) {
        if std::mem::replace(&mut self.state, SendState::Stopped) != SendState::Stopped {
            log(&format!(
                "no more messages are sent to {}, because the thread that posts them has ended; restart the broker \
                 with slm-mesh stop and slm-mesh start --detach",
                self.url
            ));
        }
    }

    /// Records whether a poll succeeded. If the previous poll failed and this one succeeded, failed messages are sent
    /// again immediately. Otherwise, the pause after failed messages continues.
    pub(super) fn note_poll(&mut self, is_answered: bool) {
        let was_failing = std::mem::replace(&mut self.is_poll_failing, !is_answered);
        if is_answered && was_failing && matches!(self.state, SendState::FailedUntil(_)) {
            (self.state, self.n_failures) = (SendState::Ready, 0);
        }
    }

    pub(super) fn note_delivery(&mut self, delivery: &Delivery, now: i64) {
        let is_failure = matches!(delivery, Delivery::Retry(_) | Delivery::Unclear(_));
        self.n_failures = if is_failure { self.n_failures + 1 } else { 0 };
        self.state = match self.n_failures {
            0 => SendState::Ready,
            n => SendState::FailedUntil(now + backoff(n).as_millis() as i64),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::sync::mpsc::{Receiver, sync_channel};

    fn link() -> (LinkSender, Receiver<Outgoing>) {
        let (outbox, messages) = sync_channel(1);
        (LinkSender::new("http://b".into(), outbox), messages)
    }

    #[test]
    fn a_link_whose_posting_thread_has_ended_stops_and_is_not_tried_again_and_again() {
        let (mut link, messages) = link();
        drop(messages);
        link.state = link.pass_on(Outgoing::ReceiptsQuery(Value::Null));
        link.note_poll(false);
        link.note_poll(true);
        assert_eq!(link.state, SendState::Stopped);
    }

    #[test]
    fn a_mesh_that_answers_again_gets_its_messages_at_once() {
        let (mut link, _messages) = link();
        let cut = Delivery::Retry("no route".into());
        (0..6).for_each(|_| link.note_delivery(&cut, 0));
        let waits = SendState::FailedUntil(BACKOFF_MAX.as_millis() as i64);
        link.note_poll(true);
        assert_eq!(link.state, waits, "all polls were answered, and only the messages failed");
        link.note_poll(false);
        assert_eq!(link.state, waits);
        link.note_poll(true);
        assert_eq!((link.state, link.n_failures), (SendState::Ready, 0));
        // If the rate limit caused the pause, the pause does not end when polls succeed again.
        link.state = SendState::PausedUntil(9);
        link.note_poll(false);
        link.note_poll(true);
        assert_eq!(link.state, SendState::PausedUntil(9));
    }
}
