//! Repeats a verb's call for a limited time if the connection is lost.

use crate::base::error::Error;
use crate::client::{self, Client};
use crate::core;
use crate::core::op_definition::WAITING_SINCE;
use crate::sys;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// How long a verb tries to reconnect after its connection is lost. Meanwhile, the user waits.
pub const VERB_RETRY_TIME: Duration = Duration::from_secs(10);
/// The pause before each attempt to connect. The first attempt waits too, because a broker that is shutting down may
/// still accept a connection.
const PAUSE: Duration = Duration::from_millis(20);
/// If a connection has lasted this long, its loss starts a new time limit. A broker that fails again and again loses
/// its connections sooner, so the old time limit stays.
const STABLE_AFTER: Duration = Duration::from_secs(1);

/// Limits how long a verb tries to reconnect. The time starts when the last stable connection is lost. So a call
/// survives many short outages, but fails if each new connection is soon lost.
#[derive(Debug)]
pub struct RetryLimit {
    limit: Duration,
    connected_at: Instant,
    lost_at: Option<Instant>,
}

impl RetryLimit {
    /// Creates a limit for a connection that has just been made.
    pub fn new(limit: Duration) -> RetryLimit {
        RetryLimit { limit, connected_at: Instant::now(), lost_at: None }
    }

    /// Connects again after the connection was lost.
    ///
    /// # Errors
    /// If the limit is reached, returns the error of the last attempt. An error other than a lost connection is
    /// returned immediately.
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

/// Calls a method. If the connection is lost, connects again and repeats the call. A repeated call waits only for the
/// rest of `waitSeconds`. A repeated call for a lock keeps its position in the queue for the lock.
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
