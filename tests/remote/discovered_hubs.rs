//! Tests which hub a machine joins after a search of the local network. A real search needs several machines, so these
//! tests do not search, but supply the responses of hubs.

use super::support::Place;
use super::{SECRET, hub_and_guest, port};
use serde_json::json;
use slm_mesh::client::discovered_hub::{LeavePolicy, join_best, joined_hub};
use slm_mesh::discovery::{DiscoveredService, ServiceKind};
use slm_mesh::sys::data_dir::DataDir;
use slm_mesh::sys::settings::Settings;
use std::net::IpAddr;
use std::path::Path;

/// The data directory and settings of a machine that knows the secret, but no hub.
fn machine(root: &Path) -> (DataDir, Settings) {
    let places = DataDir { dir: root.join("machine") };
    std::fs::create_dir_all(&places.dir).unwrap();
    std::fs::write(places.config(), format!("SLM_MESH_SHARED_SECRET={SECRET}\n")).unwrap();
    let settings = Settings::load(&places).unwrap();
    (places, settings)
}

/// A hub's response to a search of the local network.
fn response(name: &str, address: &str, ws_port: u16) -> DiscoveredService {
    let address: IpAddr = address.parse().unwrap();
    DiscoveredService {
        name: name.into(),
        kind: ServiceKind::Hub,
        address: (address, ws_port - 1).into(),
        addresses: vec![address],
        http_port: ws_port - 1,
        ws_port,
        version: String::new(),
    }
}

#[test]
fn a_hub_whose_announcement_is_not_heard_is_kept_as_long_as_it_answers() {
    let (hub, _) = hub_and_guest();
    let (places, settings) = machine(&hub.root);
    let search = |responses| join_best(&places, &settings, responses, LeavePolicy::AfterSecondMiss).unwrap();
    let joined = search(vec![response("desk", "127.0.0.1", port(&hub))]);
    assert_eq!(joined.as_ref().unwrap().name, "desk");
    for _ in 0..3 {
        assert_eq!(search(Vec::new()), joined, "the hub still answers at its address");
    }
    assert_eq!(joined_hub(&places), joined);
    hub.ok(&["stop"]);
    assert_eq!(search(Vec::new()), None);
    assert_eq!(joined_hub(&places), joined, "one miss is not enough, because the hub may be restarting");
    assert_eq!(search(Vec::new()), None);
    assert_eq!(joined_hub(&places), None);
}

#[test]
fn of_two_hubs_with_the_same_name_a_machine_keeps_the_one_that_it_has_joined() {
    let (hub, _) = hub_and_guest();
    let (places, settings) = machine(&hub.root);
    let port = port(&hub);
    // One real hub stands for two hubs, because it can be reached at every loopback address.
    let search = |addresses: &[&str]| {
        let responses = addresses.iter().map(|address| response("desk", address, port)).collect();
        join_best(&places, &settings, responses, LeavePolicy::Immediately).unwrap().unwrap().address
    };
    assert_eq!(search(&["127.0.0.3", "127.0.0.2"]), "127.0.0.2", "neither is known, so the address decides");
    assert_eq!(search(&["127.0.0.3"]), "127.0.0.2", "the joined hub still answers");
    for order in [["127.0.0.1", "127.0.0.2"], ["127.0.0.2", "127.0.0.1"]].repeat(3) {
        assert_eq!(search(&order), "127.0.0.2");
    }
}

#[test]
fn a_broker_beside_a_joined_hub_is_reported_and_can_be_stopped_but_not_started() {
    let (hub, _) = hub_and_guest();
    let machine = Place::new().with("SLM_MESH_SHARED_SECRET", SECRET);
    machine.ok(&["start", "--detach"]);
    let own = machine.broker_pid().unwrap();
    // The test writes the `hub` file itself, as if the machine had joined a hub. So the commands below don't search the
    // network.
    let joined = json!({ "name": "desk", "address": "127.0.0.1", "port": port(&hub), "joined": true, "missed": false });
    std::fs::write(machine.dir.join("hub"), joined.to_string()).unwrap();
    let machine = machine.with("SLM_MESH_DISCOVERY", "on");
    let fails = |args: &[&str]| {
        let out = machine.run(args);
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (status, said) = fails(&["start", "--detach"]);
    assert!(status == Some(2) && said.contains("has joined the hub desk at 127.0.0.1"), "{status:?} {said}");
    // Doctor searches the network to count hubs, unless the settings contain a hub. So the test sets a hub.
    let mut doctor = machine.command(&["doctor"]);
    let http = (port(&hub) - 1).to_string();
    doctor.envs([("SLM_MESH_DISCOVERY", "off"), ("SLM_MESH_HOST", "127.0.0.1"), ("SLM_MESH_ROLE", "client")]);
    let out = doctor.env("SLM_MESH_PORT", http).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains(&format!("(PID {own}) is still running")) && said.contains("run slm-mesh stop"), "{said}");
    assert_eq!(machine.ok(&["stop"]).trim(), format!("Broker (PID {own}) stopped."));
    let (status, said) = fails(&["stop"]);
    assert!(status != Some(0) && said.contains("only on its own machine"), "{status:?} {said}");
    assert!(hub.broker_pid().is_some(), "the hub still runs");
}
