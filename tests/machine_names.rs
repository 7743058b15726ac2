//! Tests machines that get a new name, and two machines that have the same name.

mod support;

use serde_json::json;
use std::fs;
use std::io::Write;
use support::{Place, Socket};

/// Sets the machine name that the next broker will use.
fn rename(place: &Place, name: &str) {
    fs::create_dir_all(&place.dir).unwrap();
    fs::write(place.dir.join("config"), format!("SLM_MESH_MACHINE={name}\n")).unwrap();
}

/// Connects as a client on another machine.
fn guest(place: &Place, host: &str, boot: &str) -> Socket {
    let mut socket = place.socket();
    let origin = json!({ "host": host, "user": "ada", "boot": boot, "ancestors": [] });
    writeln!(socket.stream, "{}", json!({ "jsonrpc": "2.0", "method": "origin", "params": origin })).unwrap();
    socket
}

#[test]
fn a_machine_with_a_new_name_keeps_its_person_sessions_and_locks() {
    let place = Place::new();
    rename(&place, "desk");
    let mut session = place.session("claude-code", "api");
    session.tool("mesh_send", json!({ "to": "human", "message": "the tests are green" }));
    session.tool("mesh_lock", json!({ "action": "lock", "filePath": place.dir.join("x"), "ttlMinutes": 60 }));
    let person = |place: &Place| place.json(&["whoami", "--as", "human"])["you"].clone();
    let before = person(&place);
    place.ok(&["stop"]);

    rename(&place, "laptop");
    assert!(place.ok(&["inbox", "--as", "human"]).contains("the tests are green"));
    let after = person(&place);
    assert_eq!((&after["id"], &after["host"]), (&before["id"], &json!("laptop")), "{after}");
    let refused = place.run(&["lock", place.dir.join("x").to_str().unwrap(), "--as", "human"]);
    assert!(!refused.status.success(), "the session still holds its lock on a path of this machine");
    assert_eq!(fs::read_to_string(place.dir.join("broker.machine")).unwrap(), "laptop\n");
}

#[test]
fn two_machines_with_one_name_are_not_taken_for_one_machine() {
    let place = Place::new();
    rename(&place, "desk");
    place.ok(&["start", "--detach"]);
    let mut one = guest(&place, "ubuntu", "boot-1");
    assert_eq!(one.call("whoami", json!({}))["result"]["ok"], json!(true));
    let mut same_machine = guest(&place, "ubuntu", "boot-1");
    assert_eq!(same_machine.call("whoami", json!({}))["result"]["ok"], json!(true));
    for (name, of) in [("ubuntu", "another guest"), ("desk", "the hub")] {
        let mut clone = guest(&place, name, "boot-2");
        for method in ["whoami", "peers"] {
            let error = clone.call(method, json!({}))["error"]["message"].as_str().unwrap().to_owned();
            assert!(error.contains(name) && error.contains("SLM_MESH_MACHINE"), "the name of {of}: {error}");
        }
        // The broker does not answer a message without an id. It must not run the operation of this message, either.
        let set = json!({ "jsonrpc": "2.0", "method": "state.set", "params": { "key": name, "value": "v" } });
        writeln!(clone.stream, "{set}").unwrap();
        clone.call("whoami", json!({}));
        let found = one.call("state.get", json!({ "key": name }));
        assert_eq!(found["result"]["entry"], json!(null), "written by a clone of {of}");
    }
    // When a machine has left, another machine may use its name.
    drop((one, same_machine));
    support::until("the name is free again", || {
        let mut rebooted = guest(&place, "ubuntu", "boot-2");
        rebooted.call("whoami", json!({}))["result"]["ok"] == json!(true)
    });
}

#[test]
fn a_machine_that_lost_power_may_return_although_its_old_connection_is_still_open() {
    let place = Place::new().with("SLM_MESH_HEARTBEAT_MS", "100").with("SLM_MESH_DEAD_MS", "200");
    place.ok(&["start", "--detach"]);
    // A command such as `slm-mesh watch` has no session. If the command is connected over ssh, the hub does not notice
    // for hours that the command's machine is gone.
    let mut watch = guest(&place, "ubuntu", "boot-1");
    assert_eq!(watch.call("peers", json!({}))["result"]["ok"], json!(true));
    support::until("the machine may return", || {
        let mut rebooted = guest(&place, "ubuntu", "boot-2");
        rebooted.call("whoami", json!({}))["result"]["ok"] == json!(true)
    });
}
