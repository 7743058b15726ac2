//! An etcd lease. A separate thread renews the lease, so that it does not expire during a long turn of the broker.

use super::gateway::{Gateway, number};
use crate::replication::LogError;
use crate::sys::boot_ms;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How long to wait before the lease is renewed again, if a request to renew it got no answer.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How much of the lease we rely on, in percent. The clocks of two machines may run at different speeds.
const TRUSTED_PERCENT: i64 = 90;

/// A lease. When it is dropped, its thread ends, and the lease will expire unless it has been revoked.
pub(super) struct Lease {
    /// The id of the lease, in the form that the JSON gateway uses.
    pub(super) id: String,
    /// Until when the lease is certain to last, in ms since boot.
    valid_until: Arc<AtomicI64>,
    /// When this sender is dropped, the thread wakes up and ends.
    _stop: Sender<()>,
}

impl Lease {
    /// Requests a lease of this many seconds. A thread with its own client, `keeper`, renews the lease.
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

    /// Whether the lease is certain to last at this instant.
    pub(super) fn is_valid(&self) -> bool {
        boot_ms() < self.valid_until.load(Ordering::Acquire)
    }

    /// Whether the trusted time of the lease ended more than this many ms ago.
    pub(super) fn ended_before(&self, ms: i64) -> bool {
        boot_ms() - ms > self.valid_until.load(Ordering::Acquire)
    }

    /// Revokes the lease. etcd then removes all keys that depend on it.
    pub(super) fn revoke(self, gateway: &mut Gateway) {
        // If the lease can't be revoked, it will expire.
        let _ = gateway.ask("lease/revoke", &json!({ "ID": self.id }));
    }
}

/// Until when we rely on the lease after an answer. The time counts from the request, because the answer may have
/// taken long.
fn trusted_until(asked: i64, answer: &Value) -> i64 {
    let seconds = number(&answer["TTL"]) as i64;
    asked + seconds * 1000 * TRUSTED_PERCENT / 100
}

/// Renews the lease repeatedly, until the lease no longer exists or `wait` returns false.
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
                // The lease has expired while this machine was asleep or could not reach etcd.
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
