//! Which hub a machine joins after a search of the local network. The search itself needs several machines, so these
//! tests say which hubs have responded to it.

use super::{SECRET, hub_and_guest, port};
use slm_mesh::client::discovered_hub::{LeavePolicy, join_best, joined_hub};
use slm_mesh::discovery::{DiscoveredService, ServiceKind};
use slm_mesh::sys::data_dir::DataDir;
use slm_mesh::sys::settings::Settings;
use std::net::IpAddr;
use std::path::Path;

/// A machine below `root` that knows only the secret.
fn machine(root: &Path) -> (DataDir, Settings) {
    let places = DataDir { dir: root.join("machine") };
    std::fs::create_dir_all(&places.dir).unwrap();
    std::fs::write(places.config(), format!("SLM_MESH_SHARED_SECRET={SECRET}\n")).unwrap();
    let settings = Settings::load(&places).unwrap();
    (places, settings)
}

/// A hub's response to a search.
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
    // The hub accepts connections at every address of the loopback network, so it stands for both hubs.
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
