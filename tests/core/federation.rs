//! Tests links to other meshes: how their peers are merged, checked and forgotten, and how messages to these peers are
//! queued.

use crate::failures::Disk;
use serde_json::{Value, json};
use slm_mesh::base::error::Error;
use slm_mesh::core::ConnId::Client;
use slm_mesh::core::federation::handle_forwarding_answer::Delivery;
use slm_mesh::core::federation::roster::RemoteRoster;
use slm_mesh::core::{event_journal, mail, mesh_status, peers, peers::sessions};

const URL: &str = "http://laptop:7899";

/// A mesh with one session and two links: one to the mesh of a laptop, and one to another mesh.
fn linked(name: &str) -> Disk {
    let mut disk = Disk::linked(name, &[URL, "http://memory:8765"]);
    disk.mesh.on_connected(Client(1));
    disk.call(1, &sessions::ATTACH, json!({ "agent": "test", "name": "near", "project": "/api", "pid": 5 })).unwrap();
    disk
}

/// A peer as it appears in the answer of an slm-mesh broker to `GET /mesh/peers`.
fn row(id: &str, name: &str) -> Value {
    json!({ "peer_id": id, "session_id": name, "agent_type": "codex", "status": "active", "project_path": "/p",
            "mesh": "theirs", "machine": "laptop", "registered_at": "2026-01-01T00:00:00+00:00" })
}

/// The answer of an slm-mesh broker that has these peers.
fn ours(rows: &[Value]) -> RemoteRoster {
    RemoteRoster::parse(&json!({ "mesh": "theirs", "mark": 1, "peers": rows })).unwrap()
}

fn hear(disk: &mut Disk, n: usize, roster: &RemoteRoster) {
    disk.mesh.on_roster(n, roster, 0..usize::MAX, disk.now).unwrap();
    assert!(disk.mesh.commit());
}

fn names(disk: &mut Disk) -> Vec<String> {
    let seen = disk.call(1, &peers::list_peers::PEERS, json!({ "scope": "machine" })).unwrap();
    let rows = seen["peers"].as_array().unwrap();
    rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
}

fn send(disk: &mut Disk, to: &str, text: &str) -> Result<Value, Error> {
    send_as(disk, 1, to, text)
}

fn send_as(disk: &mut Disk, conn: u64, to: &str, text: &str) -> Result<Value, Error> {
    disk.call(conn, &mail::SEND, json!({ "to": to, "message": text }))
}

/// The field `receipt` of a row, and its fields `channel` and `reason` as one text.
fn receipt_of(row: &Value) -> (String, String) {
    let text = |name: &str| row[name].as_str().unwrap_or("").to_owned();
    let why = row["reason"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
    (text("receipt"), text("channel") + &why)
}

/// The receipt of the newest sent message.
fn receipt(disk: &mut Disk) -> (String, String) {
    let sent = disk.call(1, &mail::INBOX, json!({ "filter": "sent" })).unwrap();
    receipt_of(sent["messages"].as_array().unwrap().last().unwrap())
}

/// The receipt of the sent message at index `n`.
fn sent(disk: &mut Disk, n: usize) -> (String, String) {
    let sent = disk.call(1, &mail::INBOX, json!({ "filter": "sent" })).unwrap();
    receipt_of(&sent["messages"][n])
}

#[test]
fn peers_of_another_mesh_stand_beside_ours_until_it_says_otherwise_or_nothing() {
    let mut disk = linked("merge");
    hear(&mut disk, 0, &ours(&[row("peer-1", "claude-api"), row("peer-2", "codex-web")]));
    assert_eq!(names(&mut disk), ["claude-api@laptop", "codex-web@laptop"]);
    let seen = disk.call(1, &peers::list_peers::PEERS, json!({ "scope": "machine" })).unwrap();
    assert_eq!((&seen["peers"][0]["link"], &seen["peers"][0]["host"]), (&json!(URL), &json!("laptop")));
    hear(&mut disk, 0, &ours(&[row("peer-2", "codex-web")]));
    assert_eq!(names(&mut disk), ["codex-web@laptop"]);
    disk.pass(89_000);
    assert_eq!(names(&mut disk), ["codex-web@laptop"]);
    disk.pass(2_000);
    assert_eq!(names(&mut disk), [""; 0], "silent for three polls");
    let left = disk.call(1, &event_journal::READ, json!({ "types": ["peer_left"] })).unwrap();
    assert_eq!(left["events"].as_array().unwrap().last().unwrap()["payload"]["reason"], json!("link_silent"));
    let mut disk = disk.crash(|_| false);
    disk.pass(1);
    let state = disk.call(0, &mesh_status::STATUS, json!({})).unwrap();
    assert_eq!((&state["links"][0]["url"], &state["links"][0]["peers"]), (&json!(URL), &json!(0)), "{state}");
}

#[test]
fn nobody_is_taken_in_who_is_ours_already_or_only_passed_on() {
    let mut disk = linked("echo");
    let me = disk.mesh.peers().find_by_name("near").unwrap();
    let own = disk.mesh.mesh_id();
    // SuperLocalMemory also lists a peer of this mesh, and a peer of a third mesh.
    let mut echo = row(me.as_str(), "near");
    echo["mesh"] = json!(own);
    let mut bare = row(me.as_str(), "near");
    bare.as_object_mut().unwrap().remove("mesh");
    let slm = |rows: &[Value]| RemoteRoster::parse(&json!({ "peers": rows })).unwrap();
    hear(&mut disk, 1, &slm(&[echo, bare, row("peer-9", "of a third")]));
    assert_eq!(names(&mut disk), [""; 0]);
    assert_eq!(disk.mesh.peers().get(&me).unwrap().row.kind.word(), "session");
    // If a link leads back to its own broker, the status reports this.
    hear(&mut disk, 0, &RemoteRoster::parse(&json!({ "mesh": own, "peers": [row("peer-1", "x")] })).unwrap());
    let state = disk.call(1, &mesh_status::STATUS, json!({})).unwrap();
    assert!(state["links"][0]["trouble"].as_str().unwrap().contains("leads back to this broker"), "{state}");
    assert_eq!(names(&mut disk), [""; 0]);
}

#[test]
fn what_another_mesh_says_is_bounded_and_can_be_nobody_else() {
    let mut disk = linked("bomb");
    for round in 0..6 {
        let bomb = (0..2_000).map(|n| row(&format!("peer-{round}-{n}"), "near\u{1b}[2J")).collect::<Vec<_>>();
        hear(&mut disk, 0, &ours(&bomb));
    }
    assert!(disk.mesh.peers().all().len() <= 1_002, "{}", disk.mesh.peers().all().len());
    assert!(disk.mesh.peers().all().iter().all(|peer| !peer.row.name.contains('\u{1b}')));
    assert_eq!(disk.mesh.peers().name_of(&disk.mesh.peers().find_by_name("near").unwrap()), "near");
    for bad in [json!({}), json!({ "peers": 7 }), json!([]), json!(null)] {
        assert_eq!(RemoteRoster::parse(&bad), None, "{bad}");
    }
    let ids = ["", "x", "a/b", "../../etc", &"y".repeat(65), "a b", "ünïcode"];
    let odd: Vec<Value> = ids.iter().map(|id| row(id, "odd")).collect();
    assert!(RemoteRoster::parse(&json!({ "mesh": "theirs", "peers": odd })).unwrap().peers.is_empty());
    // No client of this mesh can act as a peer of another mesh, or read the mail of such a peer.
    hear(&mut disk, 0, &ours(&[row("peer-1", "claude-api")]));
    disk.mesh.on_connected(Client(7));
    let error = disk.call_as(7, Some("claude-api@laptop"), &mail::INBOX, json!({})).unwrap_err();
    assert!(error.text.contains("another mesh"), "{error}");
}

#[test]
fn a_letter_waits_in_order_until_the_other_side_has_it_and_its_receipt_says_no_more() {
    let mut disk = linked("messages");
    hear(&mut disk, 0, &ours(&[row("peer-1", "claude-api"), row("peer-2", "codex-web")]));
    assert!(disk.mesh.next_forwarded(0, disk.now).unwrap().is_none());
    send(&mut disk, "codex-web@laptop", "first").unwrap();
    send(&mut disk, "claude-api@laptop", "second").unwrap();
    assert_eq!(receipt(&mut disk).0, "accepted");
    // The other mesh is unreachable for so long that its peers are no longer listed. Then this broker crashes.
    let message = disk.mesh.next_forwarded(0, disk.now).unwrap().unwrap();
    assert_eq!((&message.body["content"], &message.body["to_peer"]), (&json!("first"), &json!("peer-2")));
    assert_eq!(message.body["from_name"], json!("near"));
    disk.mesh.on_delivery(0, message.seq, &Delivery::Retry("refused".into()), disk.now).unwrap();
    disk.pass(100_000);
    let mut disk = disk.crash(|_| false);
    assert!(disk.mesh.has_mail_to_forward(), "a broker with messages stays");
    let long = "x".repeat(5_000);
    send_as(&mut disk, 0, "codex-web@laptop", &long).unwrap();
    assert_eq!(disk.mesh.next_forwarded(0, disk.now).unwrap(), None, "what is there is not known yet");
    hear(&mut disk, 0, &ours(&[row("peer-1", "claude-api"), row("peer-2", "codex-web")]));
    let again = disk.mesh.next_forwarded(0, disk.now).unwrap().unwrap();
    assert_eq!(again, message, "the same key: the other side takes it once");
    disk.mesh.on_delivery(0, again.seq, &Delivery::Accepted, disk.now).unwrap();
    let second = disk.mesh.next_forwarded(0, disk.now).unwrap().unwrap();
    assert_eq!(second.body["content"], json!("second"));
    disk.mesh.on_delivery(0, second.seq, &Delivery::Rejected("recipient peer not found".into()), disk.now).unwrap();
    let third = disk.mesh.next_forwarded(0, disk.now).unwrap().unwrap();
    assert_eq!(third.body["content"], json!(long), "what only the other kind would not take");
    disk.mesh.on_delivery(0, third.seq, &Delivery::Accepted, disk.now).unwrap();
    assert!(disk.mesh.next_forwarded(0, disk.now).unwrap().is_none() && !disk.mesh.has_mail_to_forward());
    disk.mesh.on_connected(Client(1));
    disk.call(1, &sessions::ATTACH, json!({ "agent": "test", "name": "near", "project": "/api", "pid": 5 })).unwrap();
    let (word, why) = receipt(&mut disk);
    assert!(word == "refused" && why.contains("recipient peer not found"), "{word} {why}");
    let sent = disk.call(1, &mail::INBOX, json!({ "filter": "sent" })).unwrap();
    assert_eq!(sent["messages"][0]["receipt"], json!("forwarded"), "{sent}");
}

#[test]
fn superlocalmemory_gets_what_it_can_take_and_what_its_sessions_can_see() {
    let mut disk = linked("slm");
    let at = |seconds: i64| slm_mesh::base::time_format::iso(disk.now + seconds * 1000).replace('Z', "+00:00");
    let peer = |id: &str, project: &str, since: i64, beat: i64| {
        json!({ "peer_id": id, "session_id": id, "agent_type": "claude", "status": "active", "project_path": project,
                "host": "127.0.0.1", "registered_at": at(since), "last_heartbeat": at(beat) })
    };
    // Sessions of SuperLocalMemory 3.4.48 register, but never send a heartbeat. They read only messages that are sent
    // to their project or to all peers.
    let rows = [peer("sees-direct", "/p", -300, -5), peer("deaf-at-p", "/p", -300, -300), peer("deaf", "", -300, -300)];
    let fresh = peer("fresh-one", "/p", -5, -5);
    let roster = RemoteRoster::parse(&json!({ "peers": [rows[0], rows[1], rows[2], fresh] })).unwrap();
    hear(&mut disk, 1, &roster);
    let whole = 4096 - "to deaf@slm: ".len();
    let too_long = send(&mut disk, "deaf@slm", &"x".repeat(whole + 1)).unwrap_err();
    assert!(too_long.text.contains("4096"), "{too_long}");
    send(&mut disk, "deaf@slm", &"x".repeat(whole)).unwrap();
    let message = disk.mesh.next_forwarded(1, disk.now).unwrap().unwrap();
    assert_eq!(message.body["content"].as_str().unwrap().len(), 4096, "nothing of it is cut off");
    disk.mesh.on_delivery(1, message.seq, &Delivery::Accepted, disk.now).unwrap();
    let wants = [
        ("sees-direct", "sees-direct", "hi"),
        ("fresh-one", "fresh-one", "hi"),
        ("deaf-at-p", "project:/p", "to deaf-at-p@slm: hi"),
        ("deaf@slm", "broadcast", "to deaf@slm: hi"),
    ];
    for (to, address, content) in wants {
        send(&mut disk, to, "hi").unwrap();
        let message = disk.mesh.next_forwarded(1, disk.now).unwrap().unwrap();
        assert_eq!((&message.body["to_peer"], &message.body["content"]), (&json!(address), &json!(content)), "{to}");
        disk.mesh.on_delivery(1, message.seq, &Delivery::Accepted, disk.now).unwrap();
    }
}

#[test]
fn a_peer_whose_times_are_odd_or_that_is_listed_twice_changes_only_when_it_does() {
    let mut disk = linked("odd");
    let ahead = slm_mesh::base::time_format::iso(disk.now + 3_600_000).replace('Z', "+00:00");
    let mut rows = [row("peer-1", "fast"), row("peer-2", "none"), row("peer-3", "twice"), row("peer-3", "again")];
    (rows[0]["registered_at"], rows[1]["registered_at"]) = (json!(ahead), json!("yesterday"));
    hear(&mut disk, 0, &ours(&rows));
    assert_eq!(names(&mut disk).len(), 3);
    for _ in 0..3 {
        disk.pass(8_000);
        hear(&mut disk, 0, &ours(&rows));
    }
    let updates = disk.call(1, &event_journal::READ, json!({ "types": ["peer_updated"] })).unwrap();
    assert_eq!(updates["events"], json!([]), "{updates}");
}

#[test]
fn letters_for_a_mesh_that_is_away_go_to_no_other_that_lists_the_same_peer() {
    let mut disk = linked("moves");
    hear(&mut disk, 0, &ours(&[row("peer-1", "claude-api")]));
    disk.pass(100_000);
    send(&mut disk, "claude-api@laptop", "for the laptop").unwrap();
    let mut theirs = row("peer-1", "claude-api");
    theirs.as_object_mut().unwrap().remove("mesh");
    hear(&mut disk, 1, &RemoteRoster::parse(&json!({ "peers": [theirs] })).unwrap());
    assert_eq!((disk.mesh.next_forwarded(1, disk.now).unwrap(), names(&mut disk).len()), (None, 0));
    // A mesh with a second address does not count as a second mesh.
    hear(&mut disk, 1, &ours(&[row("peer-1", "claude-api")]));
    assert_eq!(names(&mut disk), ["claude-api@laptop"]);
    assert_eq!(disk.mesh.next_forwarded(1, disk.now).unwrap().unwrap().body["content"], json!("for the laptop"));
}

#[test]
fn an_id_of_another_mesh_takes_no_name_of_ours() {
    let mut disk = linked("names");
    let me = disk.mesh.peers().find_by_name("near").unwrap();
    hear(&mut disk, 0, &ours(&[row("near", "claude-api")]));
    assert_eq!(names(&mut disk), ["claude-api@laptop"]);
    assert_eq!(disk.mesh.peers().find_by_name("near").unwrap(), me);
    assert_eq!(disk.mesh.peers().find_by_name("claude-api@laptop").unwrap(), "near");
}

/// Takes the next message of the link, and reports `delivery` as the result of sending it. Returns the text of the
/// message.
fn deliver(disk: &mut Disk, delivery: &Delivery) -> String {
    let message = disk.mesh.next_forwarded(0, disk.now).unwrap().unwrap();
    disk.mesh.on_delivery(0, message.seq, delivery, disk.now).unwrap();
    message.body["content"].as_str().unwrap().to_owned()
}

fn unclear() -> Delivery {
    Delivery::Unclear("it answered 500 Internal Server Error".into())
}

/// A mesh in which these messages wait to be sent to `claude-api@laptop`.
fn with_messages(name: &str, texts: &[&str]) -> Disk {
    let mut disk = linked(name);
    hear(&mut disk, 0, &ours(&[row("peer-1", "claude-api")]));
    for text in texts {
        send(&mut disk, "claude-api@laptop", text).unwrap();
    }
    disk
}

/// Moves the test's clock forward by some seconds. Then the other mesh answers a poll.
fn poll(disk: &mut Disk, seconds: i64) {
    disk.pass(seconds * 1000);
    hear(disk, 0, &ours(&[row("peer-1", "claude-api")]));
}

#[test]
fn a_message_on_which_the_other_mesh_breaks_down_is_passed_by_and_its_sender_is_told() {
    let mut disk = with_messages("poison", &["poison", "second", "third"]);
    for _ in 0..3 {
        poll(&mut disk, 8);
        assert_eq!(deliver(&mut disk, &unclear()), "poison");
    }
    let (word, why) = sent(&mut disk, 0);
    assert!(word == "accepted" && why.contains("500"), "the sender sees why it waits: {word} {why}");
    assert_eq!(deliver(&mut disk, &Delivery::Accepted), "second", "it does not wait for the first");
    // The first message is tried once more, because the other mesh may have recovered.
    assert_eq!(deliver(&mut disk, &unclear()), "poison");
    assert_eq!(deliver(&mut disk, &Delivery::Accepted), "third");
    let (word, why) = sent(&mut disk, 0);
    assert!(word == "refused" && why.contains("4 attempts") && why.contains("500"), "{word} {why}");
    let mail = disk.call(1, &mail::INBOX, json!({})).unwrap();
    let report = &mail["messages"][0];
    assert!(report["payload"].as_str().unwrap().contains("not delivered"), "{mail}");
    assert_eq!((&report["fromPeer"], &report["remaining"]), (&json!(URL), &json!(null)));
    let state = disk.call(1, &mesh_status::STATUS, json!({})).unwrap();
    assert_eq!(state["links"][0]["refused"], json!(1), "{state}");
    assert!(disk.mesh.next_forwarded(0, disk.now).unwrap().is_none(), "nothing is left, and the report is not sent");
}

#[test]
fn many_messages_on_which_the_other_mesh_breaks_down_hold_nobody_up() {
    let mut disk = with_messages("poisons", &["p1", "p2", "p3", "p4", "p5", "good"]);
    let mut n_tries = 0;
    while sent(&mut disk, 5).0 == "accepted" {
        poll(&mut disk, 8);
        let text = disk.mesh.next_forwarded(0, disk.now).unwrap().unwrap().body["content"].clone();
        deliver(&mut disk, &if text == json!("good") { Delivery::Accepted } else { unclear() });
        n_tries += 1;
    }
    assert!(n_tries <= 8, "{n_tries} tries until the good one");
}

#[test]
fn an_outage_of_the_other_mesh_rejects_nothing_and_changes_no_order() {
    let texts = ["first", "second", "third"];
    let mut disk = with_messages("outage", &texts);
    // For hours, the other mesh is reachable, but gives no valid answer to messages or polls.
    for _ in 0..500 {
        disk.pass(30_000);
        assert_eq!(deliver(&mut disk, &unclear()), "first");
    }
    // After that, the other mesh answers polls, but accepts no message for 45 minutes.
    for _ in 0..90 {
        poll(&mut disk, 30);
        deliver(&mut disk, &Delivery::Retry("it answered 503".into()));
    }
    let left = || texts.map(|_| "accepted".to_owned());
    assert_eq!([0, 1, 2].map(|n| sent(&mut disk, n).0), left());
    let arrived = texts.map(|_| deliver(&mut disk, &Delivery::Accepted));
    assert_eq!(arrived, texts);
}

#[test]
fn a_message_alone_is_given_up_only_after_an_hour_of_unclear_answers() {
    let mut disk = with_messages("alone", &["alone"]);
    let mut minutes = 0;
    while sent(&mut disk, 0).0 == "accepted" {
        poll(&mut disk, 30);
        deliver(&mut disk, &unclear());
        minutes += 1;
    }
    assert!((119..=122).contains(&minutes), "{minutes} half minutes");
    // The report quotes the reason from the other mesh. The reason is on one line, without control characters.
    send(&mut disk, "claude-api@laptop", "to nobody").unwrap();
    assert_eq!(deliver(&mut disk, &Delivery::Rejected("no\u{1b}[2Jsuch\npeer".into())), "to nobody");
    let mail = disk.call(1, &mail::INBOX, json!({})).unwrap();
    let text = mail["messages"].as_array().unwrap().last().unwrap()["payload"].as_str().unwrap().to_owned();
    assert!(text.contains("such peer") && !text.contains('\u{1b}') && text.lines().count() == 1, "{text}");
}

#[test]
fn a_peer_that_is_renamed_there_is_renamed_here_and_keeps_its_id_and_mail() {
    let mut disk = with_messages("rename", &["before"]);
    let id = disk.mesh.peers().find_by_name("claude-api@laptop").unwrap();
    hear(&mut disk, 0, &ours(&[row("peer-1", "reviewer")]));
    assert_eq!(names(&mut disk), ["reviewer@laptop"]);
    assert_eq!(disk.mesh.peers().find_by_name("reviewer@laptop").unwrap(), id);
    send(&mut disk, "reviewer@laptop", "after").unwrap();
    let texts = [(); 2].map(|()| deliver(&mut disk, &Delivery::Accepted));
    assert_eq!(texts, ["before", "after"]);
    let updates = disk.call(1, &event_journal::READ, json!({ "types": ["peer_updated"] })).unwrap();
    assert_eq!(updates["events"][0]["payload"]["name"], json!("reviewer@laptop"), "{updates}");
    // If the linked mesh sends the same list of peers again, no peer is renamed, even after a restart.
    let mut disk = disk.crash(|_| false);
    hear(&mut disk, 0, &ours(&[row("peer-1", "reviewer")]));
    assert_eq!(names_of_linked(&disk), ["reviewer@laptop"]);
    // Two peers swap their names. They must never have the same name.
    hear(&mut disk, 0, &ours(&[row("peer-1", "reviewer"), row("peer-2", "tester")]));
    hear(&mut disk, 0, &ours(&[row("peer-1", "tester"), row("peer-2", "reviewer")]));
    assert_eq!(names_of_linked(&disk), ["tester-peer-1@laptop", "reviewer@laptop"]);
    hear(&mut disk, 0, &ours(&[row("peer-1", "tester"), row("peer-2", "reviewer")]));
    assert_eq!(names_of_linked(&disk), ["tester-peer-1@laptop", "reviewer@laptop"]);
}

fn names_of_linked(disk: &Disk) -> Vec<String> {
    let linked = disk.mesh.peers().all().iter().filter(|peer| peer.row.is_linked());
    linked.map(|peer| peer.row.name.clone()).collect()
}

#[test]
fn a_mesh_that_renames_its_peers_to_anything_takes_no_name_and_breaks_no_line() {
    let mut disk = linked("odd-names");
    hear(&mut disk, 0, &ours(&[row("peer-1", "claude-api")]));
    let own = disk.mesh.peers().find_by_name("near").unwrap();
    let long = "x".repeat(10_000);
    for name in ["near", "human", "all", "#api", "a@b", "", " ", "\u{202e}txt", "a\u{2028}b", "\u{1f600}", &long] {
        hear(&mut disk, 0, &ours(&[row("peer-1", name)]));
        let shown = names_of_linked(&disk).remove(0);
        let is_plain = |c: char| c.is_alphanumeric() || "-_.@".contains(c);
        assert!(shown.ends_with("@laptop") && shown.chars().all(is_plain) && shown.len() <= 81, "{name}: {shown}");
        assert_eq!(disk.mesh.peers().find_by_name("near").unwrap(), own);
    }
}
