//! Tests a client machine that lists hubs of different meshes, for example because one of its hubs was started without
//! SLM_MESH_STORE. The client must stay with the mesh that it has joined.

use crate::false_hubs::{FalseHub, LOG, Role};
use crate::several_hubs::{broker, guest};
use crate::support::{Place, until};
use serde_json::{Value, json};
use std::path::PathBuf;

const OTHER_LOG: &str = "000000000000000000000000000000b2";

fn socket(broker: &Place) -> PathBuf {
    broker.dir.join("mesh.sock")
}

fn refusal(guest: &Place, args: &[&str]) -> String {
    let out = guest.run(args);
    assert_eq!(out.status.code(), Some(3), "{}", String::from_utf8_lossy(&out.stdout));
    String::from_utf8(out.stderr).unwrap()
}

#[test]
fn a_hub_without_the_shared_log_gets_no_guests_while_the_leader_is_away() {
    let ((mesh, leads), (own_mesh, _)) = (broker(), broker());
    let leader = FalseHub::start(leads);
    let alone = FalseHub::start(Role::LeadsAlone(socket(&own_mesh)));
    let guest = guest(&[&alone.address(), &leader.address()]);
    // The hub without the log answers first. But a guest with several hubs uses only hubs that share a mesh, so this
    // guest uses the other hub.
    guest.ok(&["state", "set", "port", "8080"]);
    assert_eq!(mesh.ok(&["state", "get", "port"]).trim(), "8080");
    let mut session = guest.session("claude-code", "api");
    session.tool("mesh_lock", json!({ "action": "lock", "filePath": "/p/a.rs" }));

    let leads = leader.become_(Role::StandsBy(None));
    let said = refusal(&guest, &["send", "human", "hello"]);
    assert!(said.contains(&format!("the hub {} shares no mesh with other hubs", alone.address())), "{said}");
    assert!(said.contains("set SLM_MESH_STORE on that hub"), "{said}");
    assert_eq!(said.matches("set SLM_MESH_STORE on that hub").count(), 1, "one cure: {said}");
    leader.become_(leads);
    guest.ok(&["send", "human", "hello"]);
    let held = session.tool("mesh_lock", json!({ "action": "query" })).to_string();
    assert!(held.contains("/p/a.rs"), "the session still has its lock: {held}");
    assert!(!own_mesh.ok(&["log", "--json"]).contains("hello"));
    assert!(!own_mesh.ok(&["peers", "--all"]).contains("claude-api"));
}

#[test]
fn a_session_waits_for_its_own_mesh() {
    let ((mesh, leads), (own_mesh, _)) = (broker(), broker());
    let leader = FalseHub::start(leads);
    let alone = FalseHub::start(Role::LeadsAlone(socket(&own_mesh)));
    let guest = guest(&[&leader.address(), &alone.address()]);
    let mut session = guest.session("claude-code", "api");
    let id = session.tool("mesh_status", json!({}))["you"]["id"].clone();
    let wait = session.ask("tools/call", json!({ "name": "mesh_inbox", "arguments": { "waitSeconds": 60 } }));
    until("the call waits", || leader.has_open("inbox"));
    let leads = leader.become_(Role::StandsBy(None));
    until("the session has asked the other hub", || alone.n_connections() > 0);
    leader.become_(leads);
    until("the call waits again", || leader.has_open("inbox"));
    mesh.ok(&["send", "claude-api", "still here", "--as", "human"]);
    let mail = session.answer(wait).to_string();
    assert!(mail.contains("still here"), "{mail}");
    assert_eq!(session.tool("mesh_status", json!({}))["you"]["id"], id);
}

#[test]
fn a_guest_stays_with_its_log_until_the_log_is_continued_or_the_person_decides() {
    let ((mesh, leads), (other_mesh, _)) = (broker(), broker());
    let first = FalseHub::start(leads.clone());
    let second = FalseHub::start(Role::LeadsLog(socket(&other_mesh), OTHER_LOG, &[]));
    let guest = guest(&[&first.address(), &second.address()]);
    guest.ok(&["state", "set", "k", "first"]);
    first.become_(Role::StandsBy(None));
    let said = refusal(&guest, &["state", "get", "k"]);
    let note = guest.dir.join("leader");
    assert!(said.contains(&format!("the hub {} belongs to another mesh", second.address())), "{said}");
    assert!(said.contains(&format!("remove {}", note.display())), "{said}");
    // The log was lost, and a person began a new log that continues the old one.
    first.become_(Role::LeadsLog(socket(&mesh), OTHER_LOG, &[LOG]));
    second.become_(Role::StandsBy(Some(first.address())));
    assert_eq!(guest.ok(&["state", "get", "k"]).trim(), "first");
    first.become_(leads);
    assert!(
        refusal(&guest, &["state", "get", "k"]).contains("belongs to another mesh"),
        "the old log is no longer joined"
    );
    // The person follows the advice.
    std::fs::remove_file(note).unwrap();
    assert_eq!(guest.ok(&["state", "get", "k"]).trim(), "first");
}

#[test]
fn a_guest_with_one_hub_has_the_mesh_of_this_hub() {
    let (mesh, _) = broker();
    let hub = FalseHub::start(Role::LeadsAlone(socket(&mesh)));
    guest(&[&hub.address()]).ok(&["state", "set", "k", "v"]);
    // A standby that has just lost its log still names a leader. This leader shares no log any more.
    let standby = FalseHub::start(Role::StandsBy(Some(hub.address())));
    let said = refusal(&guest(&[&standby.address()]), &["state", "get", "k"]);
    assert!(said.contains("shares no mesh with other hubs"), "{said}");
}

#[test]
fn doctor_names_hubs_of_other_meshes_and_several_leaders() {
    let ((_mesh, leads), (own_mesh, _)) = (broker(), broker());
    let leader = FalseHub::start(leads);
    let stranger = FalseHub::start(Role::LeadsAlone(socket(&own_mesh)));
    let check = |guest: &Place, about: &str| -> (String, String) {
        let said: Value = serde_json::from_slice(&guest.run(&["doctor", "--json"]).stdout).unwrap();
        let checks = said["checks"].as_array().unwrap();
        let found = checks.iter().find(|check| check["about"] == json!(about)).unwrap_or_else(|| panic!("{said}"));
        assert_eq!(found["ok"], json!(false), "{found}");
        let word = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
        (word("found"), word("cure"))
    };
    let guest = guest(&[&leader.address(), &stranger.address()]);
    let (found, cure) = check(&guest, &format!("hub {}", stranger.address()));
    assert!(found.contains("shares no mesh with other hubs") && cure.contains("SLM_MESH_STORE"), "{found} {cure}");
    let (found, cure) = check(&guest, "leader");
    for hub in [&leader, &stranger] {
        assert!(found.contains("several hubs say that they lead") && found.contains(&hub.address()), "{found}");
    }
    assert!(cure.contains("SLM_MESH_STORE"), "{cure}");
    stranger.become_(Role::LeadsLog(socket(&own_mesh), OTHER_LOG, &[]));
    let (found, _) = check(&guest, &format!("hub {}", stranger.address()));
    assert!(found.contains("belongs to another mesh"), "{found}");
}
