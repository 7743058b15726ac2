//! Tests where a hub listens, and how long it runs, according to the settings of the hub.

use crate::support::{Place, lives, until};
use crate::{SECRET, hub_and_guest};
use serde_json::{Value, json};
use std::net::TcpListener;

fn hub(host: &str) -> Place {
    Place::new().with("SLM_MESH_HOST", host).with("SLM_MESH_SHARED_SECRET", SECRET)
}

#[test]
fn a_hub_that_nobody_uses_runs_on() {
    let timeout = ("SLM_MESH_IDLE_TIMEOUT", "1000");
    let (first, guest) = hub_and_guest();
    first.ok(&["stop"]);
    let hub = first.with(timeout.0, timeout.1);
    hub.ok(&["start", "--detach"]);
    let pid = hub.broker_pid().unwrap();
    // Each of these brokers has the same `SLM_MESH_IDLE_TIMEOUT` as the hub. These brokers serve only their own
    // machine, so they end when they are idle. They start after the hub. If the timeout applied to hubs, the hub would
    // end first.
    for _ in 0..3 {
        let other = Place::new().with(timeout.0, timeout.1);
        let its = other.json(&["start", "--detach"])["data"]["pid"].as_u64().unwrap() as u32;
        until("the other broker ends", || !lives(its));
    }
    assert!(lives(pid), "{}", hub.log());
    guest.ok(&["peers"]);
}

#[test]
fn a_hub_that_is_named_by_its_own_host_name_learns_what_to_set() {
    let name = slm_mesh::sys::host();
    for host in [name.to_uppercase(), format!("{name},hub2")] {
        let out = hub(&host).run(&["start", "--detach"]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{said}");
        assert!(said.contains("is this machine") && said.contains("set SLM_MESH_HOST=0.0.0.0"), "{said}");
    }
}

#[test]
fn a_hub_whose_port_is_taken_says_which_port_its_guests_need() {
    let hub = hub("0.0.0.0");
    let wanted: u16 = hub.env[0].1.parse().unwrap();
    let _other_program = TcpListener::bind(("0.0.0.0", wanted)).unwrap();
    let out = hub.run(&["start", "--detach"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let port = crate::port(&hub);
    assert!(out.status.success() && port > wanted + 1, "{said}");
    for part in [format!("port {wanted} is in use"), format!("port {port}"), "SLM_MESH_WS_PORT".into()] {
        assert!(said.contains(&part), "{part}: {said}");
    }
    let status = hub.ok(&["status"]);
    assert!(status.contains(&format!("port {wanted} is in use")) && status.contains("SLM_MESH_WS_PORT"), "{status}");
    let found: Value = serde_json::from_slice(&hub.run(&["doctor", "--json"]).stdout).unwrap();
    let checks = found["checks"].as_array().unwrap();
    let guests = checks.iter().find(|check| check["about"] == json!("other machines")).unwrap();
    assert!(guests["ok"] == json!(false) && guests["found"].to_string().contains(&port.to_string()), "{guests}");
}
