//! An etcd lease. A separate thread keeps it alive, so that it does not expire during a long turn of the broker.

use super::gateway::{Gateway, number};
use crate::replication::LogError;
use crate::sys::boot_ms;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// The wait after a request to keep the lease that was not answered.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How much of the lease we trust, in percent: clocks of two machines don't run alike.
const TRUSTED_PERCENT: i64 = 90;

/// A lease. The thread ends when this is dropped; the lease ends then, or when it is revoked.
pub(super) struct Lease {
    /// Its id, as JSON carries it.
    pub(super) id: String,
    /// Until when it surely lasts, in ms since boot.
    valid_until: Arc<AtomicI64>,
    /// Wakes the thread when it is dropped.
    _stop: Sender<()>,
}

impl Lease {
    /// Asks for a lease of so many seconds, and keeps it with the help of another client.
    pub(super) fn grant(gateway: &mut Gateway, keeper: Gateway, seconds: u64) -> Result<Lease, LogError> {
        let asked = boot_ms();
        let granted = gateway.ask("lease/grant", &json!({ "TTL": seconds }))?;
        let id = number(&granted["ID"]).to_string();
        let valid_until = Arc::new(AtomicI64::new(trusted_until(asked, &granted)));
        let (stop, stopped) = channel();
        let thread_until = valid_until.clone();
        let thread_id = id.clone();
        let every = Duration::from_secs(seconds) / 3;
        let keep = move || {
            keep_alive(keeper, &thread_id, &thread_until, every, &|wait| {
                stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout)
            })
        };
        std::thread::Builder::new()
            .name("lease".into())
            .spawn(keep)
            .map_err(|error| LogError::Refused(format!("no thread can be started: {error}")))?;
        Ok(Lease { id, valid_until, _stop: stop })
    }

    /// Whether it surely lasts at this instant.
    pub(super) fn is_valid(&self) -> bool {
        boot_ms() < self.valid_until.load(Ordering::Acquire)
    }

    /// Revokes the lease, with all its keys.
    pub(super) fn revoke(self, gateway: &mut Gateway) {
        // What is not revoked expires.
        let _ = gateway.ask("lease/revoke", &json!({ "ID": self.id }));
    }
}

/// Until when an answer lets us trust the lease. It counts from the question: the answer may have taken long.
fn trusted_until(asked: i64, answer: &Value) -> i64 {
    let seconds = number(&answer["TTL"]) as i64;
    asked + seconds * 1000 * TRUSTED_PERCENT / 100
}

/// Asks again and again, as long as `wait` says to go on and the lease is there.
fn keep_alive(
    mut gateway: Gateway,
    id: &str,
    valid_until: &AtomicI64,
    every: Duration,
    wait: &dyn Fn(Duration) -> bool,
) {
    let mut pause = every;
    while wait(pause) {
        let asked = boot_ms();
        pause = match gateway.ask("lease/keepalive", &json!({ "ID": id })) {
            Ok(answer) if number(&answer["result"]["TTL"]) == 0 => {
                // It expired while this machine slept or could not reach etcd.
                valid_until.store(0, Ordering::Release);
                return;
            }
            Ok(answer) => {
                valid_until.store(trusted_until(asked, &answer["result"]), Ordering::Release);
                every
            }
            Err(_) => RETRY_AFTER,
        };
    }
}
