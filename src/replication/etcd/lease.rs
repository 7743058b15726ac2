//! An etcd lease. A thread of its own renews the lease, so that it does not expire while the broker is busy.

use super::gateway::{ANSWER_TIMEOUT, Gateway, encode, number};
use crate::replication::LogError;
use crate::sys::boot_ms;
use serde_json::{Value, json};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long to wait before a request without an answer is sent again.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// The part of the lease time, in percent, during which this hub relies on the lease. It is less than 100, because this
/// machine's clock may run slower than etcd's clock.
const TRUSTED_PERCENT: i64 = 90;
/// How long etcd may take to remove the keys of an expired lease, in ms.
const REMOVED_WITHIN_MS: i64 = 200;
/// A member may take one fifth of the lease time to answer a renewal. If the member hangs, enough time is left to ask
/// other members before the lease expires.
const RENEWALS_IN_A_LEASE: u32 = 5;
/// How long the thread keeps trying to revoke a lease that is no longer needed, in multiples of the lease time.
const REVOKED_FOR_LEASES: i64 = 3;

/// A lease. When the lease is dropped, its thread revokes the lease in etcd, so that other hubs need not wait until it
/// expires.
pub(super) struct Lease {
    /// The id of the lease, in the form that the JSON gateway uses.
    pub(super) id: String,
    ttl_ms: i64,
    validity: Arc<Validity>,
    thread: Sender<KeeperCall>,
}

/// A request to the thread of a lease.
enum KeeperCall {
    /// Renew the lease now, and check that this key still belongs to it.
    Check(String),
    /// Revoke the lease, and stop the thread.
    Revoke,
    /// Stop the thread, because the lease has already been revoked.
    End,
}

impl Lease {
    /// Requests a lease of this many seconds, and starts the thread that renews it. That thread sends its requests
    /// through `gateway_of_keeper`.
    pub(super) fn grant(gateway: &mut Gateway, gateway_of_keeper: Gateway, seconds: u64) -> Result<Lease, LogError> {
        let asked = boot_ms();
        let granted = gateway.ask("lease/grant", &json!({ "TTL": seconds }))?;
        let (id, ttl) = (number(&granted["ID"]).to_string(), Duration::from_secs(seconds));
        let validity = Arc::new(Validity::default());
        validity.set(trusted_until(asked, &granted));
        let (thread, calls) = channel();
        let gateway = gateway_of_keeper.with_timeout(ANSWER_TIMEOUT.min(ttl / RENEWALS_IN_A_LEASE));
        let keeper = Keeper { gateway, id: id.clone(), ttl, validity: Arc::clone(&validity) };
        std::thread::Builder::new()
            .name("lease".into())
            .spawn(move || keeper.run(&calls))
            .map_err(|error| LogError::Refused(format!("no thread can be started: {error}")))?;
        Ok(Lease { id, ttl_ms: ttl.as_millis() as i64, validity, thread })
    }

    /// Whether this hub may still rely on the lease.
    pub(super) fn is_valid(&self) -> bool {
        self.validity.until().is_some_and(|until| boot_ms() < until)
    }

    /// Whether this hub may still rely on the lease. If the last renewal was too long ago, waits for the next renewal
    /// or for the end of the lease.
    pub(super) fn confirm(&self) -> bool {
        let mut until = self.validity.until();
        loop {
            let left = self.left(*until);
            if left.is_zero() {
                return false;
            }
            if until.is_some_and(|until| boot_ms() < until) {
                return true;
            }
            until = self.validity.changed.wait_timeout(until, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How long etcd may still keep the keys of this lease. When this is zero, another hub can lead.
    pub(super) fn time_left(&self) -> Duration {
        self.left(*self.validity.until())
    }

    fn left(&self, trusted_until: Option<i64>) -> Duration {
        let untrusted = self.ttl_ms * (100 - TRUSTED_PERCENT) / 100;
        let gone_at = trusted_until.map_or(0, |until| until + untrusted + REMOVED_WITHIN_MS);
        Duration::from_millis((gone_at - boot_ms()).max(0) as u64)
    }

    /// Returns a function that makes the thread check the lease. If the lease or its key no longer exists in etcd, the
    /// thread marks the lease as expired. The function returns false when the thread has stopped.
    pub(super) fn checker(&self, key: String) -> impl Fn() -> bool + Send + 'static {
        let thread = self.thread.clone();
        move || thread.send(KeeperCall::Check(key.clone())).is_ok()
    }

    /// Revokes the lease, so that etcd removes all keys of the lease. Waits for etcd's answer.
    pub(super) fn revoke(self, gateway: &mut Gateway) {
        if gateway.ask("lease/revoke", &json!({ "ID": self.id })).is_ok() {
            // If sending fails, the thread has already stopped.
            let _ = self.thread.send(KeeperCall::End);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // If sending fails, the thread has stopped, and there is nothing to revoke.
        let _ = self.thread.send(KeeperCall::Revoke);
    }
}

/// The time until which this hub relies on the lease, in ms since boot; `None` if the lease no longer exists.
#[derive(Default)]
struct Validity {
    until: Mutex<Option<i64>>,
    changed: Condvar,
}

impl Validity {
    fn until(&self) -> MutexGuard<'_, Option<i64>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, until: Option<i64>) {
        *self.until() = until;
        self.changed.notify_all();
    }
}

/// The time until which this hub may rely on the lease, according to etcd's answer; `None` if etcd does not know the
/// lease. The lease time is counted from the request, because the answer may have been slow.
fn trusted_until(asked: i64, answer: &Value) -> Option<i64> {
    let seconds = number(&answer["TTL"]) as i64;
    (seconds > 0).then(|| asked + seconds * 1000 * TRUSTED_PERCENT / 100)
}

/// The state of the thread that renews a lease.
struct Keeper {
    gateway: Gateway,
    id: String,
    ttl: Duration,
    validity: Arc<Validity>,
}

impl Keeper {
    /// Renews the lease repeatedly, until the lease no longer exists or is no longer needed.
    fn run(mut self, calls: &Receiver<KeeperCall>) {
        let mut pause = self.ttl / 3;
        let mut unchecked = None;
        loop {
            match calls.recv_timeout(pause) {
                Ok(KeeperCall::Check(key)) => unchecked = Some(key),
                Err(_) => {}
                Ok(KeeperCall::Revoke) => return self.revoke(),
                Ok(KeeperCall::End) => return,
            }
            let asked = boot_ms();
            pause = match self.gateway.ask("lease/keepalive", &json!({ "ID": self.id })) {
                Ok(answer) => {
                    let until = trusted_until(asked, &answer["result"]);
                    self.validity.set(until);
                    if until.is_none() {
                        // The lease has expired, because this machine was asleep or could not reach etcd.
                        return;
                    }
                    self.ttl / 3
                }
                Err(_) => RETRY_AFTER,
            };
            match unchecked.as_deref().map(|key| self.holds(key)) {
                None => {}
                Some(Ok(true)) => unchecked = None,
                Some(Ok(false)) => {
                    // Somebody has deleted the key, or etcd was restored from a backup.
                    self.validity.set(None);
                    return self.revoke();
                }
                Some(Err(_)) => pause = RETRY_AFTER,
            }
        }
    }

    /// Whether the key exists and belongs to the lease.
    fn holds(&mut self, key: &str) -> Result<bool, LogError> {
        let answer = self.gateway.ask("kv/range", &json!({ "key": encode(key), "keys_only": true }))?;
        Ok(answer["kvs"][0]["lease"].as_str() == Some(&self.id))
    }

    /// Revokes the lease. A hub often stops leading because it can't reach etcd, so the request is sent many times.
    /// Until the lease is revoked or expires, no other hub can lead. It can take a long time until the lease expires,
    /// because etcd extends all leases when it elects its own leader.
    fn revoke(&mut self) {
        let give_up = boot_ms() + REVOKED_FOR_LEASES * self.ttl.as_millis() as i64;
        let request = json!({ "ID": self.id });
        while matches!(self.gateway.ask("lease/revoke", &request), Err(LogError::NoAnswer(_))) && boot_ms() < give_up {
            std::thread::sleep(RETRY_AFTER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(trusted_until: Option<i64>) -> Lease {
        let validity = Arc::new(Validity::default());
        validity.set(trusted_until);
        Lease { id: "7".into(), ttl_ms: 2000, validity, thread: channel().0 }
    }

    #[test]
    fn a_doubtful_lease_is_confirmed_by_its_renewal_and_lost_without_one() {
        let renewed = lease(Some(boot_ms() - 1));
        let validity = Arc::clone(&renewed.validity);
        let etcd = std::thread::spawn(move || validity.set(Some(boot_ms() + 60_000)));
        assert!(renewed.confirm() && renewed.is_valid());
        etcd.join().unwrap();

        let silent = lease(Some(boot_ms() - 1));
        assert!(!silent.is_valid() && !silent.time_left().is_zero(), "no other hub can lead yet");
        assert!(!silent.confirm() && silent.time_left().is_zero());

        let gone = lease(None);
        assert!(!gone.confirm() && gone.time_left().is_zero());
    }
}
