//! Detects a broker that no longer answers, so that waiting calls fail with an error message instead of waiting
//! indefinitely.
//!
//! **Invariant:** the thread wakes up only while a call is waiting for an answer, and at most once per [`QUIET_MAX`].

use super::super::pending_call::PendingCall;
use super::super::stdout_writer::StdoutWriter;
use super::state::{ClientState, SharedState};
use crate::client::{PING_WITHIN, QUIET_MAX};
use crate::wire::rpc;
use serde_json::json;
use std::net::Shutdown;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Watches the calls of a session until the session closes.
pub fn watch_calls(shared: &Arc<SharedState>, out: &Arc<StdoutWriter>) {
    let mut asked_at: Option<Instant> = None;
    let mut state = shared.lock();
    while !state.is_closing {
        let Some(quiet_since) = state.quiet_since() else {
            asked_at = None;
            state.is_watch_idle = true;
            state = shared.call_sent.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.is_watch_idle = false;
            continue;
        };
        asked_at = asked_at.filter(|at| quiet_since < *at);
        let due = asked_at.map_or(quiet_since + QUIET_MAX, |at| at + PING_WITHIN);
        let left = due.saturating_duration_since(Instant::now());
        if left > Duration::ZERO {
            state = shared.call_sent.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        } else if asked_at.is_none() {
            // The time is taken before the ping is sent, because the answer may arrive before `send` returns.
            asked_at = Some(Instant::now());
            state.send(&rpc::request(&json!(0), "ping", &json!({})));
        } else {
            let (calls, error) = (state.give_up(), state.stuck_error.take());
            drop(state);
            for (call, error) in calls.into_iter().zip(error.iter().cycle()) {
                shared.fail_call(out, &call, error.clone());
            }
            state = shared.lock();
        }
    }
}

impl ClientState {
    /// Returns the time at which the broker's silence began. This is the time of the broker's last message or the start
    /// of the oldest waiting call, whichever is later. `None` if no call is waiting, or if this session has no
    /// connection to a broker on this machine.
    fn quiet_since(&self) -> Option<Instant> {
        self.socket.as_ref().filter(|_| self.stuck_error.is_some())?;
        let oldest = self.calls.values().map(|call| call.began).min()?;
        Some(self.heard_at.map_or(oldest, |heard| heard.max(oldest)))
    }

    /// Removes and returns all calls, and ends the connection.
    fn give_up(&mut self) -> Vec<PendingCall> {
        self.queue.clear();
        if let Some(socket) = self.socket.take() {
            // The shutdown wakes the reader thread. If the shutdown fails, the connection has already ended, which also
            // wakes that thread.
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.calls.drain().map(|(_, call)| call).collect()
    }
}
