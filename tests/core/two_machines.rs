//! Tests peers on two machines. A path means a file on the peer's own machine, but a repository is the same on both
//! machines.

use crate::failures::Disk;
use serde_json::{Value, json};
use slm_mesh::base::id_types::MessageSeq;
use slm_mesh::core::ConnId::Client;
use slm_mesh::core::{locks, mail, peers, peers::sessions};

/// A mesh with one session on this machine and one session on the laptop. Each session works in its own clone of a
/// repository.
fn two(name: &str) -> Disk {
    let mut disk = Disk::new(name);
    disk.mesh.on_connected(Client(1));
    disk.mesh.on_connected(Client(2));
    disk.mesh.set_origin(Client(2), "laptop", "ada", None, disk.now).unwrap();
    for (conn, root) in [(1, "/home/ada/api"), (2, "/Users/ada/code/api")] {
        let who = json!({
            "agent": "test", "name": format!("s{conn}"), "project": root, "gitRoot": root, "repo": "r", "pid": 5,
        });
        disk.call(conn, &sessions::ATTACH, who).unwrap();
    }
    disk
}

fn lock(disk: &mut Disk, conn: u64, path: &str) -> Result<Value, slm_mesh::base::error::Error> {
    disk.call(conn, &locks::LOCK, json!({ "filePath": path }))
}

#[test]
fn two_clones_mean_the_same_file_and_equal_paths_of_two_machines_do_not() {
    let mut disk = two("clones");
    lock(&mut disk, 1, "/home/ada/api/src/a.rs").unwrap();
    let held = lock(&mut disk, 2, "/Users/ada/code/api/src/a.rs").unwrap_err();
    assert_eq!(held.kind, slm_mesh::base::error::ErrorKind::Held, "{held}");
    lock(&mut disk, 2, "/Users/ada/code/api/src/b.rs").unwrap();
    lock(&mut disk, 1, "/etc/hosts").unwrap();
    lock(&mut disk, 2, "/etc/hosts").unwrap();
}

#[test]
fn a_machine_takes_its_locks_to_a_new_name_but_not_to_that_of_another_machine() {
    let mut disk = two("renamed");
    lock(&mut disk, 1, "/etc/one").unwrap();
    lock(&mut disk, 2, "/etc/two").unwrap();
    let hosts = |disk: &Disk| {
        let locks = disk.mesh.observed_locks(9, disk.now);
        locks.iter().map(|lock| lock["host"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(hosts(&disk), ["here", "laptop"]);
    let disk = disk.rename_machine("here", "desk");
    assert_eq!(hosts(&disk), ["desk", "laptop"]);
    let disk = disk.rename_machine("desk", "laptop");
    assert_eq!(hosts(&disk), ["desk", "laptop"]);
}

#[test]
fn a_session_far_away_gets_more_time_to_come_back() {
    let mut disk = two("grace");
    lock(&mut disk, 2, "/Users/ada/code/api/a.rs").unwrap();
    disk.mesh.on_disconnected(Client(2), disk.now);
    disk.pass(29_000);
    lock(&mut disk, 1, "/home/ada/api/a.rs").unwrap_err();
    disk.pass(2_000);
    lock(&mut disk, 1, "/home/ada/api/a.rs").unwrap();
}

#[test]
fn a_command_far_away_keeps_its_lock_while_its_network_or_the_hub_is_gone_for_a_moment() {
    let mut disk = two("command");
    let command = json!({ "filePath": "/Users/ada/code/api/a.rs", "command": "build", "renew": true });
    let token = disk.call(2, &locks::LOCK, command.clone()).unwrap()["token"].clone();
    let come_back = |disk: &mut Disk, conn: u64| {
        disk.mesh.on_connected(Client(conn));
        disk.mesh.set_origin(Client(conn), "laptop", "ada", None, disk.now).unwrap();
        disk.call_as(conn, Some("s2"), &locks::LOCK, command.clone()).unwrap()["token"].clone()
    };
    disk.mesh.on_disconnected(Client(2), disk.now);
    disk.pass(25_000);
    lock(&mut disk, 1, "/home/ada/api/a.rs").unwrap_err();
    assert_eq!(come_back(&mut disk, 3), token, "it is the same lock");
    let mut disk = disk.crash(|_| false);
    disk.pass(25_000);
    assert_eq!(come_back(&mut disk, 4), token);
    disk.mesh.on_disconnected(Client(4), disk.now);
    disk.mesh.on_connected(Client(5));
    disk.pass(29_000);
    disk.call_as(5, Some("human"), &locks::LOCK, json!({ "filePath": "/Users/ada/code/api/a.rs" })).unwrap();
    disk.pass(2_000);
    let left = disk.call_as(5, Some("human"), &locks::QUERY, json!({})).unwrap();
    assert_eq!(left["locks"].as_array().unwrap().len(), 1, "the command is gone for good: {left}");
}

#[test]
fn a_command_far_away_has_the_whole_time_to_come_back_after_each_cut() {
    let mut disk = two("cuts");
    let path = "/Users/ada/code/api/a.rs";
    let command = json!({ "filePath": path, "command": "build", "renew": true });
    disk.call(2, &locks::LOCK, command.clone()).unwrap();
    let come_back = |disk: &mut Disk, conn: u64| {
        disk.mesh.on_connected(Client(conn));
        disk.mesh.set_origin(Client(conn), "laptop", "ada", None, disk.now).unwrap();
        disk.call_as(conn, Some("s2"), &locks::LOCK, command.clone()).unwrap();
    };
    let is_held =
        |disk: &mut Disk| disk.call_as(1, Some("s1"), &locks::QUERY, json!({})).unwrap()["locks"] != json!([]);
    disk.mesh.on_disconnected(Client(2), disk.now);
    come_back(&mut disk, 3);
    disk.pass(27_000);
    disk.mesh.on_disconnected(Client(3), disk.now);
    disk.pass(25_000);
    assert!(is_held(&mut disk), "the time since the first cut does not count");
    // Each time the connection of a command is cut, the command gets a new grace period, even after a restart of the
    // hub.
    let mut disk = disk.crash(|_| false);
    disk.mesh.on_connected(Client(1));
    come_back(&mut disk, 4);
    disk.pass(27_000);
    disk.mesh.on_disconnected(Client(4), disk.now);
    disk.pass(25_000);
    assert!(is_held(&mut disk), "the time since the restart does not count");
    disk.pass(6_000);
    assert!(!is_held(&mut disk), "the command is gone for good");
}

#[test]
fn each_machine_has_its_own_human_and_says_where_it_is() {
    let mut disk = two("humans");
    disk.mesh.on_connected(Client(3));
    disk.mesh.set_origin(Client(3), "laptop", "ada", None, disk.now).unwrap();
    let you = disk.call(3, &peers::WHOAMI, json!({})).unwrap();
    assert_eq!(you["you"]["name"], json!("ada@laptop"), "{you}");
    disk.call(1, &mail::SEND, json!({ "to": "ada@laptop", "message": "there?" })).unwrap();
    let mail = disk.call(3, &mail::INBOX, json!({})).unwrap();
    assert_eq!(mail["messages"][0]["payload"], json!("there?"));
    let seen = disk.call(1, &peers::list_peers::PEERS, json!({ "scope": "machine" })).unwrap();
    assert_eq!(seen["peers"][0]["host"], json!("laptop"), "{seen}");
}

#[test]
fn a_human_releases_the_grant_that_was_seen_wherever_it_is_and_no_newer_one() {
    let mut disk = two("release");
    disk.mesh.on_connected(Client(3));
    let path = "/home/ada/api/src/a.rs";
    let seen = lock(&mut disk, 1, path).unwrap()["lock"]["token"].as_i64().unwrap();
    disk.call(1, &locks::UNLOCK, json!({ "filePath": path })).unwrap();
    let newer = lock(&mut disk, 2, "/Users/ada/code/api/src/a.rs").unwrap()["lock"]["token"].as_i64().unwrap();
    let release = |disk: &mut Disk, conn, path: &str, token| {
        disk.call(conn, &locks::UNLOCK, json!({ "filePath": path, "token": token }))
    };
    // The person saw an earlier grant of this lock. Now a different peer holds the lock, so the person can't release
    // it.
    release(&mut disk, 3, path, seen).unwrap_err();
    let far = disk.mesh.observed_locks(9, disk.now)[0]["filePath"].as_str().unwrap().to_owned();
    assert_eq!(
        release(&mut disk, 1, &far, newer).unwrap_err().kind,
        slm_mesh::base::error::ErrorKind::Refused,
        "an agent may not"
    );
    release(&mut disk, 3, &far, newer).unwrap();
    lock(&mut disk, 1, path).unwrap();
    let told = disk.call(2, &mail::INBOX, json!({})).unwrap();
    assert!(told["messages"][0]["payload"].as_str().unwrap().contains("took your lock"), "{told}");
}

#[test]
fn human_is_the_person_at_the_callers_own_machine() {
    let mut disk = two("people");
    let ids = |disk: &mut Disk, conn: u64| {
        let inbox = disk.call_as(conn, Some("human"), &mail::INBOX, json!({ "take": false })).unwrap();
        inbox["messages"].as_array().unwrap().iter().map(|row| row["payload"].clone()).collect::<Vec<_>>()
    };
    disk.mesh.on_connected(Client(3));
    disk.mesh.on_connected(Client(4));
    disk.mesh.set_origin(Client(4), "laptop", "ada", None, disk.now).unwrap();
    disk.call(1, &mail::SEND, json!({ "to": "human", "message": "at the desk" })).unwrap();
    disk.call(2, &mail::SEND, json!({ "to": "human", "message": "at the laptop" })).unwrap();
    assert_eq!(ids(&mut disk, 3), ["at the desk"]);
    assert_eq!(ids(&mut disk, 4), ["at the laptop"]);
    // A person may use `human` in a filter as well as in an address.
    disk.call_as(4, Some("human"), &mail::SEND, json!({ "to": "s2", "message": "go on" })).unwrap();
    let log = disk.call(2, &mail::show_all_messages::LOG, json!({ "with": "human" })).unwrap();
    assert_eq!(log["messages"].as_array().unwrap().len(), 2, "{log}");
}

#[test]
fn alerts_reach_each_person_once_and_the_broker_notifies_for_all_machines() {
    let mut disk = two("alerts");
    let alerts = |disk: &Disk| {
        let (shown, more) = disk.mesh.unread_alerts(MessageSeq(0), 2);
        (shown.iter().map(|row| row["payload"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), more)
    };
    disk.call(2, &mail::SEND, json!({ "to": "human", "message": "one", "type": "alert" })).unwrap();
    disk.call(1, &mail::SEND, json!({ "to": "all", "message": "two", "type": "alert" })).unwrap();
    assert_eq!(alerts(&disk), (vec!["one".into(), "two".into()], 0), "the copy for a group counts once");
    let rows = disk.mesh.unread_alerts(MessageSeq(0), 2).0;
    assert_eq!((&rows[0]["toName"], &rows[1]["toName"]), (&json!("ada@laptop"), &json!(null)));
    disk.call(2, &mail::SEND, json!({ "to": "human", "message": "three", "type": "alert" })).unwrap();
    disk.call(2, &mail::SEND, json!({ "to": "human", "message": "four", "type": "alert" })).unwrap();
    assert_eq!(alerts(&disk), (vec!["one".into(), "two".into()], 2));
}
