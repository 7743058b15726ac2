//! The bells of a link: a wait in the broker for each session that mail may wake, and what follows it.
//!
//! **Invariant:** what is rung is rung from a thread of its own, so that nobody else's answer waits for it.

use super::super::agent_notifier::Bell;
use super::super::agent_of;
use super::{Runner, Shared, lock};
use crate::base::limits;
use crate::sys::data_dir::Places;
use crate::sys::settings::Settings;
use crate::wire::rpc;
use serde_json::{Value, json};
use std::sync::Arc;

impl Shared {
    /// Waits for a reason to wake the client in this session's name, where that can be done.
    pub(super) fn listen_for(&mut self, key: &str) {
        let settings = Places::find().and_then(|places| Settings::load(&places)).unwrap_or_default();
        let agent = agent_of(self.client.as_deref());
        let Some(bell) = agent.and_then(|agent| Bell::find(agent, key, &settings)) else { return };
        let Some(peer) = self.peers.get(key).cloned() else { return };
        self.last_job += 1;
        let id = self.last_job;
        let ask = json!({ "as": peer, "surface": bell.surface(), "waitSeconds": limits::WAIT_SECONDS_MAX });
        if self.send(&rpc::request(&json!(id), "turn.wake", &ask)) {
            self.bells.insert(id, (key.to_owned(), bell));
        }
    }
}

impl Runner {
    /// Wakes the client if the mesh said so, beside the answers that go on, and waits for the next time.
    pub(super) fn ring(&self, key: String, bell: Bell, value: Value) {
        if value["over"] == json!(true) || value.is_null() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let ring = move || {
            let rung = value["text"].as_str().map(|text| bell.ring(text));
            let mut shared = lock(&shared);
            if let Some(result) = rung {
                let failed = result.err().map(|why| why.chars().take(100).collect::<String>());
                let said = json!({
                    "as": value["you"]["id"], "surface": bell.surface(), "upto": value["upto"], "failed": failed,
                });
                shared.send(&rpc::notice("turn.rang", &said));
            }
            shared.listen_for(&key);
        };
        // Without a thread nobody is woken; the mail waits where it is.
        let _ = std::thread::Builder::new().stack_size(256 * 1024).spawn(ring);
    }
}
