//! Repeats the call of a verb if the connection is lost, for a limited time.

use crate::base::error::Error;
use crate::client::{self, Client};
use crate::core;
use crate::core::op_definition::WAITING_SINCE;
use crate::sys;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// How long a verb tries to reach a broker after it has lost its connection, while the user waits for the answer.
pub const VERB_RETRY_TIME: Duration = Duration::from_secs(10);
/// The pause before each attempt to connect. A broker that is shutting down may still accept a connection, so there is
/// a pause before the first attempt, too.
const PAUSE: Duration = Duration::from_millis(20);
/// After a connection that lasted this long, the time limit starts again. A shorter connection may come from a broker
/// that fails again and again.
const STABLE_AFTER: Duration = Duration::from_secs(1);

/// Limits the time for attempts to connect, counted from the loss of the last stable connection. So a call survives any
/// number of short outages, but fails if each new connection is soon lost again.
#[derive(Debug)]
pub struct RetryLimit {
    limit: Duration,
    connected_at: Instant,
    lost_at: Option<Instant>,
}

impl RetryLimit {
    /// A limit for a connection that has just been made.
    pub fn new(limit: Duration) -> RetryLimit {
        RetryLimit { limit, connected_at: Instant::now(), lost_at: None }
    }

    /// Connects again after a loss.
    ///
    /// # Errors
    /// `lost` if the limit is reached, or another error that makes further attempts useless.
    pub fn reconnect(
        &mut self,
        lost: Error,
        mut connect: impl FnMut() -> Result<Client, Error>,
    ) -> Result<Client, Error> {
        if self.connected_at.elapsed() >= STABLE_AFTER {
            self.lost_at = None;
        }
        let lost_at = *self.lost_at.get_or_insert_with(Instant::now);
        let mut error = lost;
        while lost_at.elapsed() < self.limit {
            std::thread::sleep(PAUSE);
            match connect() {
                Ok(client) => {
                    self.connected_at = Instant::now();
                    return Ok(client);
                }
                Err(again) if client::is_connection_lost(&again) => error = again,
                Err(other) => return Err(other),
            }
        }
        Err(error)
    }
}

/// Calls a method, and repeats the call if the connection is lost. If the call has `waitSeconds`, a repeated call waits
/// only for the rest of that time, and keeps its place in the queue.
///
/// # Errors
/// The broker's error, or the error of the last attempt to connect.
pub fn call_repeatedly(
    client: &mut Client,
    connect: impl Fn() -> Result<Client, Error>,
    method: &str,
    params: &Map<String, Value>,
) -> Result<Value, Error> {
    let (began, waiting_since, mut params) = (Instant::now(), sys::wall_ms(), params.clone());
    let wait = params.get("waitSeconds").and_then(Value::as_u64);
    let mut limit = RetryLimit::new(VERB_RETRY_TIME);
    loop {
        match client.call(method, &Value::Object(params.clone())) {
            Err(error) if client::is_connection_lost(&error) => *client = limit.reconnect(error, &connect)?,
            result => return result,
        }
        if let Some(seconds) = wait {
            params.insert("waitSeconds".into(), json!(seconds.saturating_sub(began.elapsed().as_secs())));
        }
        if core::op(method).is_some_and(core::Op::has_line) {
            params.insert(WAITING_SINCE.into(), json!(waiting_since));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::ErrorKind;

    #[test]
    fn only_outages_without_a_stable_connection_in_between_add_up() {
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        for (connected_at, n_attempts) in [(ago(3600), 1), (ago(2), 1), (Instant::now(), 0)] {
            let mut limit = RetryLimit { limit: VERB_RETRY_TIME, connected_at, lost_at: Some(ago(3600)) };
            let mut n = 0;
            let refuse = || {
                n += 1;
                Err(Error::new(ErrorKind::Refused, "no"))
            };
            limit.reconnect(Error::new(ErrorKind::Gone, "lost"), refuse).unwrap_err();
            assert_eq!(n, n_attempts);
        }
    }
}
