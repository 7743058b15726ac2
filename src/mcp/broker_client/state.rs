//! The state that the threads of a session share: calls in progress, the socket, and the session's peers.

use super::super::pending_call::{BatchReply, PendingCall};
use super::super::send_wakeup_to_agent::AgentNotifier;
use super::super::session_identity::{ClientIdentity, attach_params};
use super::super::stdout_writer::StdoutWriter;
use crate::base::error::Error;
use crate::base::id_types::CountedMap;
use crate::client::stream::BrokerStream;
use crate::wire::rpc;
use serde_json::json;
use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::net::Shutdown;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The shared state, and signals that announce changes of the state.
#[derive(Debug, Default)]
pub struct SharedState {
    state: Mutex<ClientState>,
    changed: Condvar,
    /// When a call has been sent, wakes the thread that detects stuck brokers.
    pub call_sent: Condvar,
}

impl SharedState {
    pub fn lock(&self) -> MutexGuard<'_, ClientState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the threads that wait for a change of the state.
    pub fn announce_change(&self) {
        // While a broker is connected, no thread waits for changes, so a system call to wake threads would be wasted.
        if self.lock().n_waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// Waits for a change, but not beyond the time `until`.
    pub fn wait_until<'a>(
        &self,
        mut state: MutexGuard<'a, ClientState>,
        until: Instant,
    ) -> MutexGuard<'a, ClientState> {
        let time = until.saturating_duration_since(Instant::now());
        state.n_waiting += 1;
        state = self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0;
        state.n_waiting -= 1;
        state
    }

    /// Answers a call with an error that does not come from the broker.
    pub fn fail_call(&self, out: &StdoutWriter, call: &PendingCall, error: Error) {
        let is_whole = call.target.reply(out, Err(error));
        if let Some(batch) = call.target.batch.as_ref().filter(|_| is_whole) {
            self.lock().send_reports(batch);
        }
    }

    /// Waits while the condition is true, but not beyond the time `until`.
    pub fn wait_while<'a>(
        &self,
        mut state: MutexGuard<'a, ClientState>,
        until: Instant,
        holds: impl Fn(&ClientState) -> bool,
    ) -> MutexGuard<'a, ClientState> {
        while holds(&state) && Instant::now() < until {
            state = self.wait_until(state, until);
        }
        state
    }
}

/// The calls, the socket to the broker, and the peers of a session.
#[derive(Debug, Default)]
pub struct ClientState {
    /// Calls that are waiting to be sent to a broker, oldest first.
    pub queue: VecDeque<u64>,
    /// All unanswered calls, by request number.
    pub calls: CountedMap<PendingCall>,
    last_request: u64,
    /// The stream to the broker, for writing; `None` while no broker is connected.
    pub socket: Option<BrokerStream>,
    /// The peer id of each attached thread of the client. A thread is a conversation; a Codex server has several. If
    /// the client has no threads, the only key is empty.
    pub peers: HashMap<String, String>,
    /// Threads (conversations) whose `attach` has no reply yet, by request number.
    pub attaching: CountedMap<String>,
    /// Unanswered `wakeup.wait` requests, by request number.
    pub wakeups: CountedMap<WakeupWait>,
    /// Calls that will wait for events. The key is the number of the `events.cursor` request that was sent just before
    /// the call. The reply to this request contains the number of an event. The call waits for events after that event.
    pub cursors: HashMap<u64, u64>,
    /// When the last message from the broker arrived.
    pub heard_at: Option<Instant>,
    /// The error with which all calls fail if the broker stops answering. `None` for a broker on another machine,
    /// because a network connection itself detects a lost broker.
    pub stuck_error: Option<Error>,
    /// Whether the thread that detects stuck brokers is asleep. It sleeps while no call is waiting for an answer.
    pub is_watch_idle: bool,
    /// What the client has said about itself so far.
    pub client: ClientIdentity,
    pub client_spoke_at: Option<Instant>,
    /// How many threads are waiting for a change.
    n_waiting: usize,
    pub is_closing: bool,
    /// Whether a new connection is attaching. If the session ends now, it must detach this connection.
    pub is_attaching: bool,
    /// Whether an answer is being written. The process must not end before the answer is complete.
    pub is_answering: bool,
}

/// A request that the broker answers as soon as there is a reason to wake one of the client's threads.
#[derive(Debug)]
pub struct WakeupWait {
    pub thread: String,
    pub notifier: AgentNotifier,
}

impl ClientState {
    /// Returns the number for a new request.
    pub fn next_request(&mut self) -> u64 {
        self.last_request += 1;
        self.last_request
    }

    /// Writes a line to the broker. Returns whether the whole line was written. If not, the connection ends, because no
    /// other line may follow a partial line. The reader thread then reconnects.
    pub fn send(&mut self, line: &str) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        let is_sent = socket.write_all(line.as_bytes()).is_ok();
        if !is_sent {
            // This fails only if the connection has already ended.
            let _ = socket.shutdown(Shutdown::Both);
            self.socket = None;
        }
        is_sent
    }

    /// Sends a call if its thread is attached. Returns false if the call has to wait.
    pub fn send_call(&mut self, request: u64) -> bool {
        let Some(call) = self.calls.get(&request) else { return true };
        let Some(peer) = self.peers.get(&call.thread) else { return false };
        let (line, lacks_cursor) = (call.to_line(request, peer), call.lacks_cursor());
        if lacks_cursor {
            let cursor = self.next_request();
            self.send(&rpc::request(&json!(cursor), "events.cursor", &json!({})));
            self.cursors.insert(cursor, request);
        }
        let is_sent = self.send(&line);
        if let Some(call) = self.calls.get_mut(&request) {
            call.was_sent |= is_sent;
        }
        is_sent
    }

    /// Records that an answer was written, and sends `report`, which tells the broker which mail in the answer was
    /// read. In a batch, all reports are sent after all answers. If the broker is gone, the next broker delivers the
    /// mail again, because nothing proves that the mail was read.
    pub fn end_answer(&mut self, call: &PendingCall, is_whole: bool, report: Option<String>) {
        self.is_answering = false;
        match (&call.target.batch, report) {
            (Some(batch), report) => {
                report.into_iter().for_each(|line| batch.add_report(line));
                if is_whole {
                    self.send_reports(batch);
                }
            }
            (None, Some(line)) if is_whole => drop(self.send(&line)),
            (None, _) => {}
        }
    }

    /// Sends the lines which report that the mail in a batch has been read. The batch must already have been written.
    pub fn send_reports(&mut self, batch: &BatchReply) {
        for line in batch.take_reports() {
            self.send(&line);
        }
    }

    /// Puts a call back into the queue after a standby hub has refused the call without running it. A request that is
    /// not a call is dropped, because it is useless after the connection has ended.
    pub fn take_back(&mut self, request: u64) {
        if self.calls.contains_key(&request) {
            self.queue.push_back(request);
        }
    }

    /// Whether a call is waiting for the broker's answer.
    pub fn has_calls_in_flight(&self) -> bool {
        self.calls.keys().any(|request| !self.queue.contains(request))
    }

    /// Attaches the thread (conversation) of this call to the broker, unless an earlier `attach` of this thread has no
    /// answer yet.
    pub fn attach_for(&mut self, request: u64) {
        let thread = self.calls.get(&request).map(|call| call.thread.clone()).unwrap_or_default();
        if self.socket.is_none() || self.attaching.values().any(|attaching| *attaching == thread) {
            return;
        }
        let attach = self.next_request();
        let params = attach_params(&thread, None, &self.client);
        if self.send(&rpc::request(&json!(attach), "attach", &params)) {
            self.attaching.insert(attach, thread);
        }
    }

    /// Removes the queued calls for which `is_wanted` returns true, and returns them, oldest first.
    pub fn take_queued(&mut self, is_wanted: impl Fn(&PendingCall) -> bool) -> Vec<PendingCall> {
        let queue = std::mem::take(&mut self.queue);
        let (taken, queue): (VecDeque<u64>, _) =
            queue.into_iter().partition(|request| self.calls.get(request).is_none_or(&is_wanted));
        self.queue = queue;
        taken.into_iter().filter_map(|request| self.calls.remove(&request)).collect()
    }

    /// Sends the queued calls of attached threads. If calls remain in the queue, attaches the thread of the first one.
    pub fn send_queued(&mut self) {
        for request in std::mem::take(&mut self.queue) {
            if !self.send_call(request) {
                self.queue.push_back(request);
            }
        }
        if let Some(request) = self.queue.front().copied() {
            self.attach_for(request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::pending_call::ReplyTarget;
    use super::super::super::protocol_version::ProtocolVersion;
    use super::*;
    use crate::base::error::ErrorKind;
    use crate::core;
    use serde_json::Map;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn mail_in_a_batch_is_read_although_the_last_call_fails_in_the_session() {
        let (ours, mut broker) = UnixStream::pair().unwrap();
        let shared = SharedState::default();
        shared.lock().socket = Some(BrokerStream::Socket(ours));
        let out = Arc::new(StdoutWriter::keeping());
        let batch = Arc::new(BatchReply::new(2, Arc::clone(&out)));
        batch.add(json!({ "id": 1, "result": "mail" }));
        batch.add_report("read\n".into());
        let target = ReplyTarget { id: json!(2), version: ProtocolVersion::V2025_03_26, batch: Some(batch) };
        let call = PendingCall::new(target, core::op("peers").unwrap(), Map::new(), String::new());
        shared.fail_call(&out, &call, Error::new(ErrorKind::Limited, "too many calls"));
        shared.lock().socket = None;
        let mut reported = String::new();
        broker.read_to_string(&mut reported).unwrap();
        assert_eq!(reported, "read\n");
    }

    #[test]
    fn nothing_follows_a_line_that_the_broker_did_not_read_whole() {
        let (ours, mut broker) = UnixStream::pair().unwrap();
        ours.set_write_timeout(Some(Duration::from_millis(10))).unwrap();
        let mut state = ClientState { socket: Some(BrokerStream::Socket(ours)), ..ClientState::default() };
        let long = format!("{}\n", "x".repeat(8 << 20));
        assert!(!state.send(&long) && !state.send("next\n"));
        let mut read = Vec::new();
        broker.read_to_end(&mut read).unwrap();
        let is_part = !read.is_empty() && read.iter().all(|byte| *byte == b'x');
        assert!(is_part, "the broker reads a part of the line, and then the end of the stream");
    }
}
