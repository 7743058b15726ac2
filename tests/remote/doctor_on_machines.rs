//! Tests what `slm-mesh doctor` says on hubs and on guests whose hubs have faults.

use crate::SECRET;
use crate::false_hubs::{FalseHub, Role, TROUBLE};
use crate::several_hubs::{broker, guest, standby_on_this_machine};
use crate::support::Place;
use serde_json::{Value, json};
use std::os::unix::net::UnixListener;

/// A machine that is one of several hubs.
fn one_of_several_hubs() -> Place {
    Place::new()
        .with("SLM_MESH_HOST", "0.0.0.0")
        .with("SLM_MESH_STORE", "etcd://127.0.0.1:1/mesh")
        .with("SLM_MESH_SHARED_SECRET", SECRET)
}

/// Runs doctor, and returns two texts from the check of this subject: the finding, and the cure. The cure is empty if
/// all is well.
fn check(place: &Place, about: &str) -> (String, String) {
    let said: Value = serde_json::from_slice(&place.run(&["doctor", "--json"]).stdout).unwrap();
    let checks = said["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["about"] == json!(about)).unwrap_or_else(|| panic!("{said}"));
    let word = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    (word("found"), word("cure"))
}

#[test]
fn a_standby_with_another_secret_than_the_leader_is_told_so() {
    let (_broker, leads) = broker();
    let leader = FalseHub::start_with_secret(leads, "another horse battery staple");
    let hub = one_of_several_hubs();
    standby_on_this_machine(&hub, leader.address());
    let out = hub.run(&["peers"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains(&format!("{} is the leader, but", leader.address())), "{said}");
    assert!(said.contains("does not know this secret; set SLM_MESH_SHARED_SECRET to the same value"), "{said}");
    assert!(!said.contains("try again in a moment"), "the next attempt fails as well: {said}");
    let (found, cure) = check(&hub, "leader");
    assert!(found.contains("does not know this secret") && !cure.is_empty(), "{found} {cure}");
}

#[test]
fn a_standby_that_cannot_take_over_is_a_fault_for_a_guest_too() {
    let (_broker, leads) = broker();
    let leader = FalseHub::start(leads);
    let standby = FalseHub::start(Role::CannotTakeOver(leader.address()));
    let guest = guest(&[&leader.address(), &standby.address()]);
    let (found, cure) = check(&guest, &format!("hub {}", standby.address()));
    let (why, advice) = TROUBLE.split_once("; ").unwrap();
    assert!(found.contains(why) && found.contains("is a standby"), "{found}");
    assert!(cure.contains(advice), "{cure}");
}

#[test]
fn a_suspended_hub_of_several_is_to_be_resumed() {
    let hub = one_of_several_hubs();
    std::fs::create_dir_all(&hub.dir).unwrap();
    // Nobody accepts the connections to this socket, so doctor's ping gets no answer.
    let _suspended = UnixListener::bind(hub.dir.join("mesh.sock")).unwrap();
    let (found, cure) = check(&hub, "broker");
    assert!(found.contains("is suspended or stuck"), "{found}");
    assert!(cure.contains("kill -CONT"), "{cure}");
}

#[test]
fn no_firewall_is_blamed_for_a_name_that_does_not_exist() {
    let (found, cure) = check(&guest(&["no-such-hub.invalid"]), "hub no-such-hub.invalid");
    assert!(found.contains("no-such-hub.invalid can't be reached"), "{found}");
    assert!(cure.contains("SLM_MESH_HOST") && !cure.contains("firewall"), "{cure}");
}
