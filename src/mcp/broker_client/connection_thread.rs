//! The thread that connects to the broker, reads its answers, and reconnects when the connection is lost.

use super::super::peer_transcript;
use super::super::pending_call::{PendingCall, shown_items};
use super::super::session_identity::attach_params;
use super::super::stdout_writer::StdoutWriter;
use super::state::SharedState;
use crate::base::error::{Error, ErrorKind};
use crate::base::json_text::json_text;
use crate::client::{BrokerMessage, Client, discovered_hub, is_connection_lost};
use crate::sys::data_dir::DataDir;
use crate::sys::settings::Settings;
use crate::wire::rpc::{self, RpcMessage};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io;
use std::os::unix::process::parent_id;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a session must last to become a peer. A client that starts a server only to list its tools ends the server
/// sooner.
const APPEARS_AFTER: Duration = Duration::from_secs(2);
/// Minimum pause between attempts to find a broker.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a newer version of slm-mesh needs to start its own broker after it has stopped the old broker.
const REPLACED_PAUSE: Duration = Duration::from_millis(500);
/// How often a session looks for a new broker after the old one was stopped. A new broker waits longer than this before
/// it releases the session's locks.
const STOPPED_PAUSE: Duration = Duration::from_secs(3);
/// How many attempts to connect may fail before the waiting calls fail. The pauses between the attempts add up to a
/// third of a second.
const MISSES_MAX: u32 = 5;
/// If an attempt to reach another machine fails after more than this time, the network is broken, so calls fail
/// immediately. If the attempt fails sooner, the broker may be shutting down, so the attempt is repeated.
const MISS_MAX: Duration = Duration::from_millis(500);
/// Maximum time that the connection stays open after the hub has ceased to lead. In this time, the hub refuses the
/// calls that it has received.
const REFUSES_WITHIN: Duration = Duration::from_millis(200);

/// The thread that connects to the broker and reads its answers.
pub struct ReaderThread {
    pub shared: Arc<SharedState>,
    out: Arc<StdoutWriter>,
    /// For each thread of the client, the peer that this session had on earlier connections. (A thread is a
    /// conversation; a Codex server has several.) On a new connection, the threads continue as these peers.
    known_peers: HashMap<String, String>,
    /// The process that started this server: the agent, or a launcher that waits for this server.
    parent: u32,
    pause: Duration,
    /// Whether the user has stopped the broker. If so, only a call starts the broker again.
    is_dormant: bool,
    /// How many attempts in a row have found no broker that is alive.
    n_misses: u32,
    /// Whether the last attempt reached a broker on this machine. That broker may have ended in the meantime.
    has_reached_own: bool,
    /// When the hub ceased to lead. The connection stays open only until the hub has refused all calls.
    deposed_at: Option<Instant>,
}

impl ReaderThread {
    pub fn new(shared: Arc<SharedState>, out: Arc<StdoutWriter>) -> ReaderThread {
        ReaderThread {
            shared,
            out,
            known_peers: HashMap::new(),
            parent: parent_id(),
            pause: Duration::ZERO,
            is_dormant: false,
            n_misses: 0,
            has_reached_own: false,
            deposed_at: None,
        }
    }

    /// Serves one connection after another until the session closes.
    pub fn run_until_closed(mut self) {
        discovered_hub::look_for_session(false);
        while self.wait_for_need() {
            let began = Instant::now();
            match self.connect() {
                Ok(client) => {
                    let broker_name = client.server_name.clone();
                    self.read_answers(client);
                    self.on_connection_lost(&broker_name);
                }
                // The broker was shutting down when this thread connected, so the next broker can be expected soon.
                Err(error) if self.expects_next_broker(&error, began.elapsed()) => {
                    self.n_misses += 1;
                    std::thread::sleep(Duration::from_millis(5 << self.n_misses));
                }
                Err(error) => {
                    self.n_misses = 0;
                    self.fail_queued(&error, |_| true);
                    discovered_hub::look_for_session(!self.known_peers.is_empty());
                    self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                }
            }
        }
    }

    /// Sleeps until the session needs a connection: until a call must be sent, or until the pause is over and the
    /// session is old enough to become a peer. Returns false when the session ends.
    fn wait_for_need(&self) -> bool {
        let mut state = self.shared.lock();
        let since = Instant::now();
        loop {
            if state.is_closing {
                return false;
            }
            // If the agent was killed, another process may still hold the pipes of this process open, so this process
            // keeps running. But the session has ended, and must not come back with a new broker. So this process waits
            // for a call, because only a living client makes a call.
            let is_orphaned = !self.known_peers.is_empty() && parent_id() != self.parent;
            let appears_at = state.client_spoke_at.unwrap_or(since) + APPEARS_AFTER;
            let until = if is_orphaned { Instant::now() + PAUSE_MAX } else { appears_at.max(since + self.pause) };
            // A call does not wait for the end of a pause, because an agent is waiting for the answer.
            if !state.queue.is_empty() || Instant::now() >= until {
                return true;
            }
            state = self.shared.wait_until(state, until);
        }
    }

    /// Whether a new broker can be expected soon. `error` is the error of the failed attempt to connect, and `took` is
    /// the duration of this attempt. If the attempt reached a broker on this machine, that broker has ended, so the
    /// duration does not matter.
    fn expects_next_broker(&self, error: &Error, took: Duration) -> bool {
        is_connection_lost(error) && self.n_misses < MISSES_MAX && (self.has_reached_own || took < MISS_MAX)
    }

    /// Connects to the broker, starts a broker if necessary, and attaches.
    fn connect(&mut self) -> Result<Client, Error> {
        self.has_reached_own = false;
        let data_dir = DataDir::find()?;
        Settings::load(&data_dir)?;
        let is_wanted = !self.shared.lock().queue.is_empty();
        let mut client = if self.is_dormant && !is_wanted {
            Client::connect(&data_dir).map_err(|_| Error::new(ErrorKind::Gone, "the broker was stopped"))?
        } else {
            Client::connect_or_start(&data_dir)?
        };
        self.has_reached_own = client.stuck_error().is_some();
        let attached = self.attach_all(&mut client);
        self.shared.lock().is_attaching = false;
        self.shared.announce_change();
        attached?;
        (self.pause, self.is_dormant, self.n_misses) = (Duration::ZERO, false, 0);
        Ok(client)
    }

    /// Attaches the client's threads (conversations) that were attached before, and the threads with waiting calls. If
    /// there are no such threads, attaches the session with an empty name for the thread.
    fn attach_all(&mut self, client: &mut Client) -> Result<(), Error> {
        let mut state = self.shared.lock();
        if state.is_closing {
            return Err(Error::new(ErrorKind::Gone, "the session ends"));
        }
        state.is_attaching = true;
        let identity = state.client.clone();
        let queued = state.queue.iter().filter_map(|request| state.calls.get(request)).map(|call| call.thread.clone());
        let mut threads: Vec<String> = self.known_peers.keys().cloned().chain(queued).collect();
        drop(state);
        if threads.is_empty() {
            threads.push(String::new());
        }
        // The number of peers of a connection is limited, so threads that already had a peer are attached first.
        threads.sort_by_cached_key(|thread| (!self.known_peers.contains_key(thread), thread.clone()));
        threads.dedup();
        let mut refusals = HashMap::new();
        for thread in &threads {
            match client.call("attach", &attach_params(thread, self.known_peers.get(thread), &identity)) {
                Ok(value) => self.note_attached(thread.clone(), &value),
                Err(error) if is_refusal(&error) => {
                    self.fail_queued(&error, |call| call.thread == *thread);
                    refusals.insert(thread, error);
                }
                Err(error) => return Err(error),
            }
        }
        if refusals.len() == threads.len() {
            return refusals.into_values().next().map_or(Ok(()), Err);
        }
        let mut state = self.shared.lock();
        // A refused thread stays in `known_peers`, so that its next call asks for the same peer again.
        state.peers = self.known_peers.clone();
        state.peers.retain(|thread, _| !refusals.contains_key(thread));
        state.socket = client.clone_writer().ok();
        (state.heard_at, state.stuck_error) = (Some(Instant::now()), client.stuck_error());
        for thread in self.known_peers.keys().filter(|thread| !refusals.contains_key(thread)) {
            state.wait_for_wakeup(thread);
        }
        state.send_queued();
        self.shared.call_sent.notify_one();
        Ok(())
    }

    /// Reads answers until the connection ends.
    fn read_answers(&mut self, mut client: Client) {
        self.deposed_at = None;
        loop {
            let quiet = self.report_progress();
            let refuses_within =
                self.deposed_at.map(|at| (at + REFUSES_WITHIN).saturating_duration_since(Instant::now()));
            if refuses_within.is_some_and(|left| left.is_zero() || !self.shared.lock().has_calls_in_flight()) {
                return;
            }
            if client.set_receive_timeout(refuses_within.or(quiet)).is_err() {
                return;
            }
            let received = client.receive_unparsed();
            if received.is_ok() {
                self.shared.lock().heard_at = Some(Instant::now());
            }
            match received {
                Ok(BrokerMessage::Result { request, text }) => self.on_answer(request, Ok(text)),
                Ok(BrokerMessage::Other(RpcMessage::Response { id, result })) => {
                    self.on_answer(id.as_u64().unwrap_or(0), result.map(|value| json_text(&value)));
                }
                Ok(BrokerMessage::Other(RpcMessage::Notification { method, params })) if method == "shutdown" => {
                    return self.on_shutdown(&params);
                }
                Ok(BrokerMessage::Other(RpcMessage::Notification { method, params })) if method == "peer_changed" => {
                    self.on_peer_changed(&params);
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(_) => return,
            }
        }
    }

    /// Handles the shutdown of the broker. If a newer broker replaces this broker, the thread reconnects soon. If the
    /// user stopped the broker, only a call starts it again.
    fn on_shutdown(&mut self, params: &Map<String, Value>) {
        self.is_dormant = params.get("reason") != Some(&json!("making_room"));
        self.pause = if self.is_dormant { STOPPED_PAUSE } else { REPLACED_PAUSE };
    }

    /// Records which peer represents a session now, or that the session has ended. The peer changes when the session
    /// gives back a name that it took over, or when the agent resumes another session.
    fn on_peer_changed(&mut self, params: &Map<String, Value>) {
        let (Some(was), Some(you)) = (params.get("was").and_then(Value::as_str), params.get("you")) else { return };
        match you["id"].as_str() {
            Some(id) => self.known_peers.values_mut().filter(|known| *known == was).for_each(|one| id.clone_into(one)),
            None => self.known_peers.retain(|_, known| known != was),
        }
        self.shared.lock().peers.clone_from(&self.known_peers);
    }

    /// Handles the reply to an `attach` that was sent on an existing connection.
    fn on_attached(&mut self, thread: String, result: Result<Value, Value>) {
        match result {
            Ok(value) => {
                self.note_attached(thread.clone(), &value);
                let mut state = self.shared.lock();
                state.peers.clone_from(&self.known_peers);
                state.wait_for_wakeup(&thread);
                state.send_queued();
            }
            Err(error) => {
                // Only the calls of this thread fail, because the client's other threads may have peers.
                self.fail_queued(&rpc::decode_error(&error), |call| call.thread == thread);
                self.shared.lock().send_queued();
            }
        }
    }

    /// Records which peer represents a thread of the client. Also forgets the peer that the broker has retired, if any.
    /// That peer represented the session until the client's first thread had a name.
    fn note_attached(&mut self, thread: String, answer: &Value) {
        let retired = answer["retired"].as_str();
        self.known_peers.retain(|_, id| Some(id.as_str()) != retired);
        self.known_peers.insert(thread, peer_id(answer));
    }

    fn on_answer(&mut self, request: u64, result: Result<String, Value>) {
        if result.as_ref().is_err_and(|error| rpc::decode_error(error).kind == ErrorKind::Standby) {
            self.deposed_at.get_or_insert_with(Instant::now);
            return self.shared.lock().take_back(request);
        }
        let mut state = self.shared.lock();
        if let Some(thread) = state.attaching.remove(&request) {
            drop(state);
            return self.on_attached(thread, result.and_then(|text| parse_result(&text)));
        }
        if let Some(wait) = state.wakeups.remove(&request) {
            drop(state);
            return self.notify_agent(wait, result.and_then(|text| parse_result(&text)).unwrap_or_default());
        }
        if let Some(call) = state.cursors.remove(&request) {
            let seq = result.and_then(|text| parse_result(&text)).ok().and_then(|answer| answer["seq"].as_i64());
            if let (Some(call), Some(seq)) = (state.calls.get_mut(&call), seq) {
                call.continue_after(seq);
            }
            return;
        }
        let Some(call) = state.calls.remove(&request) else { return };
        state.is_answering = true;
        drop(state);
        match result {
            Ok(text) if !call.must_parse(&text) => {
                let locked = call.target.batch.is_some().then(|| self.shared.lock());
                let is_whole = call.target.pass_on(&self.out, text);
                locked.unwrap_or_else(|| self.shared.lock()).end_answer(&call, is_whole, None);
            }
            result => self.write_parsed(&call, result.and_then(|text| parse_result(&text))),
        }
        self.shared.announce_change();
    }

    fn write_parsed(&mut self, call: &PendingCall, result: Result<Value, Value>) {
        let mut result = result.map_err(|error| rpc::decode_error(&error));
        if let Ok(answer) = &mut result {
            call.leave_out_long_payloads(answer);
            if call.arguments.contains_key("detail") {
                peer_transcript::add_last_words(answer);
            }
        }
        self.write_answer(call, result);
    }

    /// Learns from a reply which peer represents this session now, and records it. The peer changes when the session
    /// gives back a name that it took over.
    fn note_own_id(&mut self, call: &PendingCall, result: &Result<Value, Error>) {
        let Some(id) = result.as_ref().ok().and_then(|answer| answer["you"]["id"].as_str()) else { return };
        if self.known_peers.get(&call.thread).is_some_and(|known| known != id) {
            self.known_peers.insert(call.thread.clone(), id.to_owned());
            self.shared.lock().peers.insert(call.thread.clone(), id.to_owned());
        }
    }

    /// Writes an answer, and tells the broker that the messages in the answer were read.
    fn write_answer(&mut self, call: &PendingCall, result: Result<Value, Error>) {
        let shown = result.as_ref().map(shown_items).unwrap_or_default();
        self.note_own_id(call, &result);
        let announcer = result.as_ref().ok().and_then(|answer| answer["actedAs"]["id"].as_str().map(str::to_owned));
        // The answer and the report are written under one lock. Otherwise the client's next call could reach the broker
        // before the report, and the mail would still count as unread.
        let locked = (!shown.is_empty() || call.target.batch.is_some()).then(|| self.shared.lock());
        let report = locked.as_ref().filter(|_| !shown.is_empty()).map(|state| {
            let peer = announcer.or_else(|| state.peers.get(&call.thread).cloned());
            rpc::notification("inbox.mark_read", &json!({ "as": peer, "items": shown }))
        });
        let is_whole = call.target.reply(&self.out, result);
        locked.unwrap_or_else(|| self.shared.lock()).end_answer(call, is_whole, report);
    }

    /// Writes the progress reports that are due. Returns the time until the next report is due.
    fn report_progress(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut state = self.shared.lock();
        for report in state.calls.values_mut().filter_map(|call| call.due_report(now)) {
            self.out.write_line(&report);
        }
        let reports = state.calls.values().filter_map(|call| call.progress.as_ref());
        reports.map(|reports| reports.next_at.saturating_duration_since(now)).min()
    }

    /// Handles the loss of the broker. Calls that may be repeated wait for the next broker, and all other calls fail.
    fn on_connection_lost(&self, broker_name: &str) {
        let mut state = self.shared.lock();
        state.socket = None;
        state.peers.clear();
        state.attaching.clear();
        state.cursors.clear();
        state.wakeups.clear();
        let mut in_flight: Vec<u64> = state.calls.keys().copied().filter(|n| !state.queue.contains(n)).collect();
        in_flight.sort_unstable();
        let mut failed = Vec::new();
        for request in in_flight.into_iter().rev() {
            let Some(call) = state.calls.get_mut(&request) else { continue };
            if call.may_repeat() {
                call.tries += 1;
                state.queue.push_front(request);
            } else {
                failed.extend(state.calls.remove(&request));
            }
        }
        drop(state);
        // If the session is closing, this wakes the main thread, which waits for the connection to end.
        self.shared.announce_change();
        for call in failed {
            let text = format!(
                "the connection to {broker_name} ended during this call; check whether the call took effect before you \
                 try again"
            );
            self.shared.fail_call(&self.out, &call, Error::new(ErrorKind::Gone, text));
        }
    }

    /// Fails those queued calls for which `fails` returns true.
    fn fail_queued(&self, error: &Error, fails: impl Fn(&PendingCall) -> bool) {
        let failed = self.shared.lock().take_queued(fails);
        for call in failed {
            let mut error = error.clone();
            if call.was_sent {
                error.text += "; this call was sent before, so check whether the call took effect before you try again";
            }
            self.shared.fail_call(&self.out, &call, error);
        }
    }
}

/// Whether the broker has refused a call for a reason that concerns only this call.
fn is_refusal(error: &Error) -> bool {
    use ErrorKind::{Ambiguous, Conflict, Full, Held, Limited, NotFound, Refused, Usage};
    matches!(error.kind, Usage | NotFound | Ambiguous | Refused | Held | Conflict | Limited | Full)
}

fn peer_id(attached: &Value) -> String {
    attached["you"]["id"].as_str().unwrap_or("").to_owned()
}

/// Parses the result of a call. If this fails, returns an error in the form of a JSON-RPC error.
fn parse_result(text: &str) -> Result<Value, Value> {
    let refused = |error| json!({ "code": rpc::INTERNAL_ERROR, "message": format!("the answer is not JSON: {error}") });
    serde_json::from_str(text).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::super::super::pending_call::ReplyTarget;
    use super::super::super::protocol_version::ProtocolVersion;
    use super::*;
    use crate::client::stream::BrokerStream;
    use crate::core;
    use std::io::Read;

    /// Makes a call with this id from one of the client's threads. The operation of the call does not wait.
    fn call(id: i64, arguments: &Value, thread: &str) -> PendingCall {
        let target = ReplyTarget { id: json!(id), version: ProtocolVersion::V2025_11_25, batch: None };
        let arguments = arguments.as_object().cloned().unwrap_or_default();
        PendingCall::new(target, core::op("peers").unwrap(), arguments, thread.to_owned())
    }

    #[test]
    fn a_thread_that_is_refused_fails_alone() {
        let out = Arc::new(StdoutWriter::keeping());
        let mut reader = ReaderThread::new(Arc::default(), Arc::clone(&out));
        let (ours, mut broker) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut state = reader.shared.lock();
        (state.socket, state.queue) = (Some(BrokerStream::Socket(ours)), [1, 2, 3].into());
        state.calls.extend([(1, "a"), (2, "b"), (3, "a")].map(|(n, thread)| (n, call(n as i64, &json!({}), thread))));
        state.attaching.insert(9, "a".into());
        drop(state);
        reader.on_answer(9, Err(json!({ "code": 1, "message": "full", "data": { "kind": "full" } })));
        let answers = String::from_utf8(out.take_kept()).unwrap();
        let ids = answers.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_i64().unwrap());
        assert_eq!(ids.collect::<Vec<_>>(), [1, 3], "{answers}");
        let mut state = reader.shared.lock();
        assert_eq!(state.queue, [2]);
        state.socket = None;
        let mut asked = String::new();
        broker.read_to_string(&mut asked).unwrap();
        assert!(asked.contains("\"attach\"") && asked.contains("\"b\""), "the other thread is attached: {asked}");
    }

    /// Returns what a session writes to its client when a call with these arguments gets this result.
    fn written(arguments: &Value, result: &str) -> String {
        let out = Arc::new(StdoutWriter::keeping());
        let mut reader = ReaderThread::new(Arc::default(), Arc::clone(&out));
        reader.shared.lock().calls.insert(7, call(1, arguments, ""));
        reader.on_answer(7, Ok(result.to_owned()));
        String::from_utf8(out.take_kept()).unwrap()
    }

    #[test]
    fn a_result_that_is_passed_on_looks_like_one_that_was_parsed() {
        let value = json!({ "ok": true, "value": "\"you\" \u{202e} ä \\ \u{7f}", "n": [1.5, -2, null], "o": {} });
        let out = StdoutWriter::keeping();
        ReplyTarget { id: json!(1), version: ProtocolVersion::V2025_11_25, batch: None }.reply(&out, Ok(value.clone()));
        assert_eq!(written(&json!({}), &json_text(&value)).into_bytes(), out.take_kept());
    }

    #[test]
    fn a_broker_here_that_was_silent_and_ended_is_followed_by_the_next_one() {
        let mut reader = ReaderThread::new(Arc::default(), Arc::new(StdoutWriter::keeping()));
        let (ended, long) = (Error::new(ErrorKind::Gone, "the connection ended"), 4 * MISS_MAX);
        assert!(!reader.expects_next_broker(&ended, long), "a network that is down");
        reader.has_reached_own = true;
        assert!(reader.expects_next_broker(&ended, long));
        assert!(!reader.expects_next_broker(&Error::new(ErrorKind::TimedOut, "stuck"), long));
        reader.n_misses = MISSES_MAX;
        assert!(!reader.expects_next_broker(&ended, long), "not without end");
    }

    #[test]
    fn an_answer_that_is_not_json_does_not_break_the_line() {
        for (arguments, result) in [(json!({}), "{\t\u{1b}"), (json!({ "detail": true }), "{")] {
            let line = written(&arguments, result);
            assert!(serde_json::from_str::<Value>(&line).is_ok() && line.ends_with("}\n"), "{line:?}");
        }
    }
}
