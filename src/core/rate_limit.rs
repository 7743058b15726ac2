//! Limits how many messages and changes one sender may send in a short time.

use super::CallContext;
use super::peers::Peers;
use crate::base::error::{Error, ErrorKind};
use crate::base::limits;
use serde_json::json;
use std::collections::HashMap;

/// Counts the messages and changes that each sender has sent in its current time window.
#[derive(Debug)]
pub struct RateLimiter {
    /// Maximum number of messages that a sender may send in one time window. A small change, such as a new value of a
    /// state entry or a new summary, counts as a tenth of a message.
    messages_max: u32,
    /// For each sender, the start of its time window, and the amount that it has sent in this window, in tenths of a
    /// message.
    spent: HashMap<String, (i64, u32)>,
}

impl RateLimiter {
    pub(super) fn new(messages_max: u32) -> RateLimiter {
        RateLimiter { messages_max, spent: HashMap::new() }
    }

    /// Counts `cost` tenths of a message against the limit of a call's sender.
    ///
    /// # Errors
    /// When the sender would exceed the limit of its time window. The error contains the time to wait.
    pub(super) fn charge_call(&mut self, peers: &Peers, ctx: &CallContext, cost: u32) -> Result<(), Error> {
        ctx.budget().map_or(Ok(()), |budget| self.charge(peers, budget, cost, ctx.now))
    }

    /// Counts a cost against a budget. `cost` is in tenths of a message. `budget` is the id of a peer, or the name of a
    /// budget that several callers share.
    ///
    /// # Errors
    /// When the sender would exceed the limit of its time window. The error contains the time to wait.
    pub fn charge(&mut self, peers: &Peers, budget: &str, cost: u32, now: i64) -> Result<(), Error> {
        let Err(pause) = self.spend(budget, cost, now) else { return Ok(()) };
        let wait = (pause + 999) / 1000;
        let text = format!(
            "rate limit: {} sent more than {} messages, or made more than ten times as many changes, in {} s; wait \
             {wait} s, or raise SLM_MESH_RATE",
            peers.with_id(budget).map_or(budget, |peer| &peer.row.name),
            self.messages_max,
            limits::RATE_WINDOW_MS / 1000
        );
        Err(Error::new(ErrorKind::Limited, text).with(json!({ "retryAfterSeconds": wait })))
    }

    /// Counts `cost` tenths of a message against a budget.
    ///
    /// # Errors
    /// When the budget of the time window would be exceeded. The error is the time until the window ends, in ms.
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
