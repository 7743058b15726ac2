//! Tests where a hub listens, and how long it runs, according to the settings of the hub.

use crate::hub_and_guest;
use crate::support::{Place, lives, until};

#[test]
fn a_hub_that_nobody_uses_runs_on() {
    let timeout = ("SLM_MESH_IDLE_TIMEOUT", "1000");
    let (first, guest) = hub_and_guest();
    first.ok(&["stop"]);
    let hub = first.with(timeout.0, timeout.1);
    hub.ok(&["start", "--detach"]);
    let pid = hub.broker_pid().unwrap();
    // A broker that serves only its own machine ends when it has been idle for as long. It starts after the hub, so a
    // hub with this time limit would end first.
    for _ in 0..3 {
        let other = Place::new().with(timeout.0, timeout.1);
        let its = other.json(&["start", "--detach"])["data"]["pid"].as_u64().unwrap() as u32;
        until("the other broker ends", || !lives(its));
    }
    assert!(lives(pid), "{}", hub.log());
    guest.ok(&["peers"]);
}
