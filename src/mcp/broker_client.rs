//! The session's connection to the broker: sends calls, receives answers, and reconnects when the connection is lost.
//!
//! **Invariant:** a message counts as read only after the result that contains it has been written completely. A
//! cancelled call marks nothing as read.

mod connection_thread;
mod state;
mod stuck_broker_watch;
mod wakeups;

use super::pending_call::{BatchReply, PendingCall};
use super::stdout_writer::StdoutWriter;
use crate::base::error::{Error, ErrorKind};
use crate::sys::threads;
use crate::wire::rpc;
use connection_thread::ReaderThread;
use serde_json::{Value, json};
use state::SharedState;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Maximum number of calls in progress. Further calls are refused.
const CALLS_MAX: usize = 64;
/// How long a call may take after the client has closed standard input. Clients kill a server that has not ended after
/// 2 s.
const CLOSE_MAX: Duration = Duration::from_millis(1500);
/// The stack size of a thread that only waits and writes.
const STACK_BYTES: usize = 256 * 1024;

/// The main thread's handle of the connection to the broker.
#[derive(Debug)]
pub struct BrokerClient {
    shared: Arc<SharedState>,
    /// The reader thread, or the error of the last attempt to start it; `None` before the first attempt.
    thread: Option<io::Result<JoinHandle<()>>>,
    is_detached: bool,
    out: Arc<StdoutWriter>,
}

impl BrokerClient {
    /// Makes a client. The client has no connection and no thread yet, because some MCP clients start a server only to
    /// list its tools.
    pub fn new(out: Arc<StdoutWriter>) -> BrokerClient {
        BrokerClient { shared: Arc::default(), thread: None, is_detached: false, out }
    }

    /// Makes a client that never looks for a broker, so its calls are never answered.
    pub fn detached(out: Arc<StdoutWriter>) -> BrokerClient {
        BrokerClient { is_detached: true, ..BrokerClient::new(out) }
    }

    /// Starts the threads of the connection when the MCP client sends its first message. The age of the session is
    /// counted from this moment.
    pub fn note_client_spoke(&mut self) {
        if matches!(self.thread, Some(Ok(_))) || self.is_detached {
            return;
        }
        self.shared.lock().client_spoke_at.get_or_insert_with(Instant::now);
        let reader = ReaderThread::new(Arc::clone(&self.shared), Arc::clone(&self.out));
        // If the reader thread can't be started, calls are refused. The client's next message causes another attempt.
        let started = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || reader.run_until_closed());
        let is_started = started.is_ok();
        self.thread = Some(started);
        if !is_started {
            return;
        }
        let (shared, out) = (Arc::clone(&self.shared), Arc::clone(&self.out));
        // If this second thread can't be started, calls to a stuck broker wait without a limit, but everything else
        // works.
        let _ = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || stuck_broker_watch::watch_calls(&shared, &out));
    }

    /// Records the name that the client gives itself. Only the first such name is used.
    pub fn note_client_name(&self, name: Option<String>) {
        let mut state = self.shared.lock();
        if state.client.name.is_none() {
            state.client.name = name;
        }
    }

    /// Sets the agent, regardless of what the client says about itself.
    pub fn choose_agent(&self, name: Option<String>) {
        self.shared.lock().client.chosen = name;
    }

    /// Sends a call to the broker, either now or as soon as a broker is connected.
    pub fn submit(&self, call: PendingCall) {
        if let Some(Err(error)) = &self.thread {
            return self.shared.fail_call(&self.out, &call, threads::refused("connect to the broker", error));
        }
        let mut state = self.shared.lock();
        if state.calls.len() >= CALLS_MAX {
            drop(state);
            let text = format!("{CALLS_MAX} calls are already in progress; wait for one of them to end");
            return self.shared.fail_call(&self.out, &call, Error::new(ErrorKind::Limited, text));
        }
        let wants_progress = call.progress.is_some() && call.may_wait();
        let request = state.next_request();
        state.calls.insert(request, call);
        if !state.send_call(request) {
            state.queue.push_back(request);
            state.attach_for(request);
        }
        if wants_progress {
            // The reader thread waits on the socket without a limit. The reply to this ping wakes the thread, so that
            // it learns when the first progress report is due.
            state.send(&rpc::request(&json!(0), "ping", &json!({})));
        }
        if state.is_watch_idle {
            self.shared.call_sent.notify_one();
        }
        drop(state);
        self.shared.announce_change();
    }

    /// Tells the broker which mail in a batch was read. The batch must already have been written.
    pub fn send_reports(&self, batch: &BatchReply) {
        self.shared.lock().send_reports(batch);
    }

    /// Drops a call whose answer the client no longer wants.
    pub fn cancel(&self, id: &Value) {
        let mut state = self.shared.lock();
        // If a client has used an id twice, the oldest call with that id is dropped.
        let named = state.calls.iter().filter(|(_, call)| call.target.id == *id).map(|(request, _)| *request);
        let Some(request) = named.min() else { return };
        if let Some(batch) = state.calls.remove(&request).and_then(|call| call.target.batch)
            && batch.expect_one_less()
        {
            state.send_reports(&batch);
        }
        state.queue.retain(|queued| *queued != request);
        state.send(&rpc::notification("cancel", &json!({ "id": request })));
    }

    /// Ends the session cleanly: drops the calls that only wait for something, gives the other calls a moment to
    /// finish, and detaches.
    pub fn close(&mut self) {
        let until = Instant::now() + CLOSE_MAX;
        let mut state = self.shared.lock();
        state.calls.retain(|_, call| !call.may_wait());
        state = self
            .shared
            .wait_while(state, until, |state| !state.calls.is_empty() || state.is_answering || state.is_attaching);
        state.is_closing = true;
        state.send(&rpc::notification("detach", &json!({})));
        // The broker ends the connection after it has read the `detach`. If this process ended earlier and left unread
        // data on the connection, the `detach` might never reach a hub. So this function waits for the end of the
        // connection.
        let is_sent = state.socket.as_ref().is_some_and(|socket| socket.shutdown(Shutdown::Write).is_ok());
        drop(state);
        self.shared.announce_change();
        if is_sent {
            drop(self.shared.wait_while(self.shared.lock(), until, |state| state.socket.is_some()));
        }
    }
}
