//! Limits how much one sender may send in a short time.

use super::peers::Peers;
use crate::base::error::{Error, ErrorKind};
use crate::base::limits;
use serde_json::json;
use std::collections::HashMap;

/// How much each sender has spent in its present window.
#[derive(Debug)]
pub struct RateLimiter {
    /// How many messages a window allows. A change of state costs a tenth of a message.
    messages_max: u32,
    /// For each sender: the start of its window, and the tenths of a message that it has spent in it.
    spent: HashMap<String, (i64, u32)>,
}

impl RateLimiter {
    pub(super) fn new(messages_max: u32) -> RateLimiter {
        RateLimiter { messages_max, spent: HashMap::new() }
    }

    /// Charges `cost` tenths of a message to a sender: a peer's id, or the name of a shared budget.
    ///
    /// # Errors
    /// When the budget of the window is spent. The error says how long to wait.
    pub fn charge(&mut self, peers: &Peers, sender: &str, cost: u32, now: i64) -> Result<(), Error> {
        let Err(pause) = self.spend(sender, cost, now) else { return Ok(()) };
        let wait = (pause + 999) / 1000;
        let text = format!(
            "rate limit: {} sent more than {} messages (or ten times as many changes) in {} s; \
             wait {wait} s, or raise SLM_MESH_RATE",
            peers.name_of(sender),
            self.messages_max,
            limits::RATE_WINDOW_MS / 1000
        );
        Err(Error::new(ErrorKind::Limited, text).with(json!({ "retryAfterSeconds": wait })))
    }

    /// Takes `cost` tenths of a message from a budget.
    ///
    /// # Errors
    /// When the budget is spent: the rest of its window, in ms.
    pub(super) fn spend(&mut self, budget: &str, cost: u32, now: i64) -> Result<(), i64> {
        if self.spent.len() > limits::PEERS_MAX {
            self.spent.retain(|_, (since, _)| now - *since < limits::RATE_WINDOW_MS);
        }
        let max = self.messages_max.saturating_mul(10);
        let (since, spent) = self.spent.entry(budget.to_owned()).or_insert((now, 0));
        if now - *since >= limits::RATE_WINDOW_MS {
            (*since, *spent) = (now, 0);
        }
        if *spent + cost > max {
            return Err(limits::RATE_WINDOW_MS - (now - *since));
        }
        *spent += cost;
        Ok(())
    }
}
