//! Asks the broker to report mail that is allowed to wake the client, and wakes the client when such mail arrives.
//!
//! **Invariant:** a separate thread wakes the client, so that no answer is delayed.

use super::super::send_wakeup_to_agent::AgentNotifier;
use super::super::session_identity::agent_of;
use super::STACK_BYTES;
use super::connection_thread::ReaderThread;
use super::state::{ClientState, WakeupWait};
use crate::base::limits;
use crate::sys::data_dir::DataDir;
use crate::sys::settings::Settings;
use crate::wire::rpc;
use serde_json::{Value, json};
use std::sync::Arc;

/// Maximum length, in characters, of the reason for a failed wakeup. The reason is reported to the broker.
const REASON_MAX: usize = 100;

impl ClientState {
    /// Sends a request that the broker answers as soon as there is a reason to wake this thread (conversation) of the
    /// client. Does nothing if the client can't be woken.
    pub fn wait_for_wakeup(&mut self, thread: &str) {
        let settings = DataDir::find().and_then(|data_dir| Settings::load(&data_dir)).unwrap_or_default();
        let agent = agent_of(&self.client);
        let notifier = agent.and_then(|agent| AgentNotifier::find(agent, thread, &settings));
        let Some(notifier) = notifier else { return };
        let Some(peer) = self.peers.get(thread).cloned() else { return };
        let request = self.next_request();
        let params = json!({ "as": peer, "channel": notifier.channel(), "waitSeconds": limits::WAIT_SECONDS_MAX });
        if self.send(&rpc::request(&json!(request), "wakeup.wait", &params)) {
            self.wakeups.insert(request, WakeupWait { thread: thread.to_owned(), notifier });
        }
    }
}

impl ReaderThread {
    /// If the broker's reply contains a text, wakes the client with this text and reports the outcome. Then sends the
    /// next request, unless the broker has ended the wait.
    pub fn notify_agent(&self, wait: WakeupWait, answer: Value) {
        if answer["over"] == json!(true) || answer.is_null() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let notify = move || {
            let notified = answer["text"].as_str().map(|text| wait.notifier.notify(text));
            let mut state = shared.lock();
            if let Some(result) = notified {
                let failed = result.err().map(|why| why.chars().take(REASON_MAX).collect::<String>());
                let report = json!({
                    "as": answer["you"]["id"], "channel": wait.notifier.channel(), "lastSeq": answer["lastSeq"],
                    "failed": failed,
                });
                state.send(&rpc::notification("wakeup.report", &report));
            }
            state.wait_for_wakeup(&wait.thread);
        };
        // If no thread can be started, the client is not woken, and the mail waits in the mailbox.
        let _ = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(notify);
    }
}
