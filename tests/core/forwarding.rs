//! Tests messages between two meshes. Both brokers may die at any moment, and the network may lose requests and
//! answers. Each accepted message must arrive once and in order. Its receipt must never claim something that has not
//! happened yet.

use crate::failures::Disk;
use serde_json::{Value, json};
use slm_mesh::base::time_format;
use slm_mesh::broker::http::{Head, Request};
use slm_mesh::broker::legacy_http;
use slm_mesh::core::ConnId::Client;
use slm_mesh::core::federation::handle_forwarding_answer::Delivery;
use slm_mesh::core::federation::outbox_to_linked_meshes::ForwardedMessage;
use slm_mesh::core::federation::receipts::RemoteReceipt;
use slm_mesh::core::federation::roster::RemoteRoster;
use slm_mesh::core::mail::receipts::MARK_READ;
use slm_mesh::core::{mail, peers::sessions};

const URL: &str = "http://there:7899";
const SEEDS: std::ops::Range<u64> = 0..30;
const STEPS: usize = 120;

/// Random numbers from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// Two meshes, and the message that is being sent from one to the other.
struct Pair {
    here: Disk,
    there: Disk,
    /// The message that is being sent, and the answer of the other mesh if it has answered.
    under_way: Option<(ForwardedMessage, Option<Delivery>)>,
    n_sent: usize,
    /// How many of the sent messages have been read in the other mesh.
    n_read: usize,
}

impl Pair {
    fn new(seed: u64) -> Pair {
        let mut pair = Pair {
            here: Disk::linked(&format!("messages-{seed}"), &[URL]),
            there: Disk::linked(&format!("messages-there-{seed}"), &["http://here:7899"]),
            under_way: None,
            n_sent: 0,
            n_read: 0,
        };
        pair.there.mesh.on_connected(Client(1));
        pair.seat_there();
        pair.seat_here();
        pair.look();
        pair
    }

    fn seat_here(&mut self) {
        self.here.mesh.on_connected(Client(1));
        let who = json!({ "agent": "test", "name": "near", "project": "/a", "pid": 5 });
        self.here.call(1, &sessions::ATTACH, who).unwrap();
    }

    fn seat_there(&mut self) {
        let who = json!({ "agent": "test", "name": "far", "project": "/b", "pid": 5, "session": "s" });
        self.there.call(1, &sessions::ATTACH, who).unwrap();
    }

    /// Makes an HTTP request that the other mesh must accept. Returns the body of the answer.
    fn ask(&mut self, method: &str, target: &str, body: &Value) -> Value {
        let (status, answer) = self.answer(method, target, body);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Makes an HTTP request to the other mesh. The other mesh commits before it answers. Returns the status and the
    /// body.
    fn answer(&mut self, method: &str, target: &str, body: &Value) -> (u16, Value) {
        let head = Head {
            method: method.into(),
            target: target.into(),
            peer: [127, 0, 0, 1].into(),
            host: Some("there:7899".into()),
            origin: None,
            authorization: None,
            mesh_secret: None,
            cookie: None,
            browser: Box::default(),
        };
        let request = Request { head, body: body.to_string().into_bytes() };
        let answer = legacy_http::respond(&mut self.there.mesh, &request, None, self.there.now);
        assert!(self.there.mesh.commit());
        self.there.mesh.take_effects();
        (answer.status, serde_json::from_slice(&answer.body).unwrap())
    }

    fn look(&mut self) {
        let roster = RemoteRoster::parse(&self.ask("GET", "/mesh/peers", &json!({}))).unwrap();
        self.here.mesh.on_roster(0, &roster, 0..usize::MAX, self.here.now).unwrap();
        assert!(self.here.mesh.commit());
    }

    /// Lets the recipient read its oldest unread messages.
    fn read_there(&mut self) {
        let mail = self.there.call(1, &mail::INBOX, json!({ "limit": 3 })).unwrap();
        let rows = mail["messages"].as_array().unwrap();
        let ids: Vec<Value> = rows.iter().map(|row| row["id"].clone()).collect();
        self.n_read += ids.len();
        if !ids.is_empty() {
            self.there.call(1, &MARK_READ, json!({ "items": ids })).unwrap();
        }
    }

    /// Polls the other mesh, and then asks for the receipts that have changed. If `is_lost` is true, the answer with
    /// the receipts is lost.
    fn learn_receipts(&mut self, is_lost: bool) {
        self.look();
        while let Some(query) = self.here.mesh.next_receipts_query(0) {
            let answer = self.ask("POST", "/mesh/receipts", &query);
            if is_lost {
                self.here.mesh.on_receipts_failed(0);
            } else {
                let receipts = RemoteReceipt::parse_all(&answer).unwrap();
                self.here.mesh.on_receipts(0, &receipts, self.here.now).unwrap();
                assert!(self.here.mesh.commit());
            }
        }
    }

    fn step(mut self, dice: &mut Dice) -> Pair {
        match dice.below(11) {
            0 | 1 => {
                self.n_sent += 1;
                let to = self.here.mesh.peers().all().iter().find(|peer| peer.row.is_linked()).unwrap().row.id.clone();
                let message = json!({ "to": to.as_str(), "message": format!("message {}", self.n_sent) });
                self.here.call(1, &mail::SEND, message).unwrap();
            }
            2 if self.under_way.is_none() => {
                let next = self.here.mesh.next_forwarded(0, self.here.now).unwrap();
                self.under_way = next.map(|message| (message, None));
            }
            // The message arrives.
            3 => {
                if let Some((message, None)) = self.under_way.clone() {
                    let answer = self.ask("POST", "/mesh/send", &message.body);
                    assert_eq!(answer["ok"], json!(true), "{answer}");
                    self.under_way = Some((message, Some(Delivery::Accepted)));
                }
            }
            // Either the answer arrives, or the message was lost and no answer arrives.
            4 => {
                if let Some((message, answer)) = self.under_way.take() {
                    let passed = answer.unwrap_or(Delivery::Retry("no answer".into()));
                    self.here.mesh.on_delivery(0, message.seq, &passed, self.here.now).unwrap();
                    assert!(self.here.mesh.commit());
                }
            }
            5 => {
                if let Some((message, _)) = self.under_way.take() {
                    let lost = Delivery::Retry("the answer was lost".into());
                    self.here.mesh.on_delivery(0, message.seq, &lost, self.here.now).unwrap();
                }
            }
            6 => {
                self.here = self.here.crash(|_| false);
                self.under_way = None;
                self.seat_here();
                self.look();
            }
            7 => self.read_there(),
            8 => self.learn_receipts(false),
            9 => self.learn_receipts(true),
            _ => {
                self.there = self.there.crash(|_| false);
                self.there.mesh.on_connected(Client(1));
                self.seat_there();
                self.look();
            }
        }
        for disk in [&mut self.here, &mut self.there] {
            disk.pass(dice.below(20_000) as i64);
            disk.mesh.take_effects();
        }
        self
    }

    fn bodies(&mut self) -> Vec<String> {
        let mail = self.there.call(1, &mail::INBOX, json!({ "filter": "all", "limit": 100, "after": 0 })).unwrap();
        mail["messages"].as_array().unwrap().iter().map(|row| row["payload"].as_str().unwrap().to_owned()).collect()
    }

    fn receipts(&mut self) -> Vec<String> {
        let sent = self.here.call(1, &mail::INBOX, json!({ "filter": "sent", "limit": 100, "after": 0 })).unwrap();
        sent["messages"].as_array().unwrap().iter().map(|row| row["receipt"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn each_letter_arrives_once_and_in_order_whatever_the_network_loses_and_whoever_dies() {
    for seed in SEEDS {
        let mut dice = Dice(seed);
        let mut pair = Pair::new(seed);
        for _ in 0..STEPS {
            pair = pair.step(&mut dice);
            let (arrived, receipts) = (pair.bodies().len(), pair.receipts());
            let count = |word: &str| receipts.iter().filter(|receipt| *receipt == word).count();
            let says_too_much = count("forwarded") + count("read") > arrived || count("read") > pair.n_read;
            assert!(!says_too_much, "seed {seed}: a receipt says more than is so");
        }
        // Now the network works again, and every accepted message must arrive.
        pair.under_way = None;
        while let Some(message) = pair.here.mesh.next_forwarded(0, pair.here.now).unwrap() {
            pair.ask("POST", "/mesh/send", &message.body);
            pair.here.mesh.on_delivery(0, message.seq, &Delivery::Accepted, pair.here.now).unwrap();
        }
        let wanted: Vec<String> = (1..=pair.n_sent).map(|n| format!("message {n}")).collect();
        assert_eq!(pair.bodies(), wanted, "seed {seed}");
        while pair.n_read < pair.n_sent {
            pair.read_there();
        }
        pair.learn_receipts(false);
        assert_eq!(pair.receipts(), vec!["read"; pair.n_sent], "seed {seed}");
    }
}

#[test]
fn a_message_that_is_acknowledged_after_it_was_read_gets_both_receipts_even_after_a_restart() {
    let mut pair = Pair::new(1_005);
    let to = pair.here.mesh.peers().all().iter().find(|peer| peer.row.is_linked()).unwrap().row.id.clone();
    pair.here.call(1, &mail::SEND, json!({ "to": to.as_str(), "message": "please confirm" })).unwrap();
    let message = pair.here.mesh.next_forwarded(0, pair.here.now).unwrap().unwrap();
    pair.ask("POST", "/mesh/send", &message.body);
    pair.here.mesh.on_delivery(0, message.seq, &Delivery::Accepted, pair.here.now).unwrap();
    pair.read_there();
    pair.learn_receipts(false);
    assert_eq!(pair.receipts(), ["read"]);
    pair.here = pair.here.crash(|_| false);
    pair.seat_here();
    pair.look();
    let mail = pair.there.call(1, &mail::INBOX, json!({ "filter": "all", "after": 0 })).unwrap();
    pair.there.call(1, &mail::INBOX, json!({ "ack": [mail["messages"][0]["id"]] })).unwrap();
    pair.learn_receipts(false);
    assert_eq!(pair.receipts(), ["acked"]);
}

#[test]
fn a_message_to_a_group_is_no_direct_message_on_the_other_side() {
    let mut pair = Pair::new(1_006);
    for (to, group) in [("all", json!("all")), ("near", Value::Null)] {
        let to = match to {
            "all" => "all".to_owned(),
            _ => pair.here.mesh.peers().all().iter().find(|peer| peer.row.is_linked()).unwrap().row.id.to_string(),
        };
        pair.here.call(1, &mail::SEND, json!({ "to": to, "message": "who has time?" })).unwrap();
        let message = pair.here.mesh.next_forwarded(0, pair.here.now).unwrap().unwrap();
        pair.ask("POST", "/mesh/send", &message.body);
        pair.here.mesh.on_delivery(0, message.seq, &Delivery::Accepted, pair.here.now).unwrap();
        let mail = pair.there.call(1, &mail::INBOX, json!({ "filter": "all", "after": 0 })).unwrap();
        let newest = mail["messages"].as_array().unwrap().last().unwrap();
        assert_eq!(newest["group"], group, "{mail}");
    }
    // A message from a linked mesh must not look like a channel message, even if it claims to be one.
    let to = pair.there.mesh.peers().all().iter().find(|peer| peer.row.name == "far").unwrap().row.id.to_string();
    let body = json!({ "from_peer": "x", "to_peer": to, "content": "join me", "key": "k", "group": "#api" });
    pair.ask("POST", "/mesh/send", &body);
    let mail = pair.there.call(1, &mail::INBOX, json!({ "filter": "all", "after": 0 })).unwrap();
    assert_eq!(mail["messages"].as_array().unwrap().last().unwrap()["group"], Value::Null, "{mail}");
}

#[test]
fn an_idle_session_still_has_a_fresh_heartbeat_for_other_meshes() {
    let mut pair = Pair::new(1_007);
    pair.there.pass(45 * 60_000);
    let listed = pair.ask("GET", "/mesh/peers", &json!({}));
    assert_eq!(listed["peers"][0]["session_id"], json!("far"), "{listed}");
    let heartbeat = listed["peers"][0]["last_heartbeat"].as_str().and_then(time_format::parse);
    assert_eq!(heartbeat, Some(pair.there.now), "{listed}");
}

#[test]
fn a_mesh_changes_the_receipts_only_of_messages_that_it_has_accepted() {
    let mut pair = Pair::new(1_003);
    let to = pair.here.mesh.peers().all().iter().find(|peer| peer.row.is_linked()).unwrap().row.id.clone();
    let mut ids = Vec::new();
    for text in ["taken", "waits"] {
        let sent = pair.here.call(1, &mail::SEND, json!({ "to": to.as_str(), "message": text })).unwrap();
        ids.push(sent["messageId"].clone());
    }
    let own = pair.here.call(1, &mail::SEND, json!({ "to": "human", "message": "for a person here" })).unwrap();
    ids.push(own["messageId"].clone());
    let first = pair.here.mesh.next_forwarded(0, pair.here.now).unwrap().unwrap();
    pair.here.mesh.on_delivery(0, first.seq, &Delivery::Accepted, pair.here.now).unwrap();
    // A hostile mesh sends nonsense. It also sends receipts for all messages, even for messages that it never received.
    let mut rows: Vec<Value> = ids.iter().map(|id| json!({ "key": id, "receipt": "acked", "ago": i64::MIN })).collect();
    rows.extend([json!({ "key": ids[0], "receipt": "accepted" }), json!({ "key": 7 }), json!("x"), json!(null)]);
    rows.extend((0..1_000).map(|n| json!({ "key": format!("nobody-{n}"), "receipt": "read", "ago": n })));
    let receipts = RemoteReceipt::parse_all(&json!({ "receipts": rows })).unwrap();
    assert!(receipts.len() <= 100);
    // Receipts from a different link have no effect, because the messages were not sent over that link.
    pair.here.mesh.on_receipts(7, &receipts, pair.here.now).unwrap();
    assert_eq!(pair.receipts(), ["forwarded", "accepted", "accepted"]);
    pair.here.mesh.on_receipts(0, &receipts, pair.here.now).unwrap();
    assert_eq!(pair.receipts(), ["acked", "accepted", "accepted"]);
    // A receipt never goes back to an earlier state.
    let back = RemoteReceipt::parse_all(&json!({ "receipts": [{ "key": ids[0], "receipt": "read" }] })).unwrap();
    pair.here.mesh.on_receipts(0, &back, pair.here.now).unwrap();
    assert_eq!(pair.receipts()[0], "acked");
    for bad in [json!(null), json!([]), json!({ "receipts": {} }), json!({ "error": "Unknown endpoint" })] {
        assert_eq!(RemoteReceipt::parse_all(&bad), None, "{bad}");
    }
}

#[test]
fn a_mesh_that_asks_learns_nothing_about_messages_of_others() {
    let mut pair = Pair::new(1_004);
    let own = pair.there.call(1, &mail::SEND, json!({ "to": "human", "message": "among us", "key": "k" })).unwrap();
    let me = pair.there.mesh.peers().find_by_name("far").unwrap();
    pair.there.call(0, &mail::INBOX, json!({})).unwrap();
    pair.there.call(0, &MARK_READ, json!({ "items": [own["messageId"]] })).unwrap();
    for from in [json!(me.as_str()), json!("far"), json!("human"), json!(""), json!(7), json!(null)] {
        let query = json!({ "from_peer": from, "keys": ["k", own["messageId"], "", 7] });
        let answer = pair.ask("POST", "/mesh/receipts", &query);
        assert_eq!(answer, json!({ "ok": true, "receipts": [] }), "{from}");
    }
}

#[test]
fn slm_mesh_0_1_0_is_not_asked_for_receipts_and_waits_for_none() {
    let mut pair = Pair::new(1_005);
    let to = pair.here.mesh.peers().all().iter().find(|peer| peer.row.is_linked()).unwrap().row.id.clone();
    pair.here.call(1, &mail::SEND, json!({ "to": to.as_str(), "message": "hello" })).unwrap();
    let mut theirs = pair.ask("GET", "/mesh/peers", &json!({}));
    theirs.as_object_mut().unwrap().remove("receipts");
    let roster = RemoteRoster::parse(&theirs).unwrap();
    pair.here.mesh.on_roster(0, &roster, 0..usize::MAX, pair.here.now).unwrap();
    let message = pair.here.mesh.next_forwarded(0, pair.here.now).unwrap().unwrap();
    pair.ask("POST", "/mesh/send", &message.body);
    pair.here.mesh.on_delivery(0, message.seq, &Delivery::Accepted, pair.here.now).unwrap();
    pair.read_there();
    pair.here.mesh.on_roster(0, &roster, 0..usize::MAX, pair.here.now).unwrap();
    assert_eq!(pair.here.mesh.next_receipts_query(0), None);
    assert_eq!(pair.receipts(), ["forwarded"]);
    // The other mesh has been updated. This mesh now requests receipts for all messages, even for messages that it sent
    // before the update.
    pair.learn_receipts(false);
    assert_eq!(pair.receipts(), ["read"]);
}

#[test]
fn a_busy_mesh_uses_up_no_other_links_budget_not_even_from_one_address() {
    let mut pair = Pair::new(1_006);
    let me = pair.there.mesh.peers().find_by_name("far").unwrap();
    let known = json!({ "mesh": "ours", "mark": 1, "peers": [{ "peer_id": "near-id", "session_id": "near" }] });
    let roster = RemoteRoster::parse(&known).unwrap();
    pair.there.mesh.on_roster(0, &roster, 0..usize::MAX, pair.there.now).unwrap();
    let mut send = |from: &str, n: u32| {
        let body = json!({ "from_peer": from, "to_peer": me.as_str(), "content": "hi", "key": format!("{from}-{n}") });
        pair.answer("POST", "/mesh/send", &body).0
    };
    let flood: Vec<u16> = (0..150).map(|n| send("stranger", n)).collect();
    assert_eq!((flood[99], flood[100], flood[149]), (200, 429, 429), "a mesh has one budget, whatever names it uses");
    assert_eq!(send("another stranger", 0), 429);
    assert_eq!(send("near-id", 0), 200, "a link has a budget of its own");
}

#[test]
fn a_letter_that_comes_again_once_its_sender_is_known_is_still_the_same() {
    let mut pair = Pair::new(1_000);
    let to = pair.here.mesh.peers().all().iter().find(|peer| peer.row.is_linked()).unwrap().row.id.clone();
    pair.here.call(1, &mail::SEND, json!({ "to": to.as_str(), "message": "once" })).unwrap();
    let message = pair.here.mesh.next_forwarded(0, pair.here.now).unwrap().unwrap();
    let first = pair.ask("POST", "/mesh/send", &message.body)["id"].clone();
    // The answer is lost. Before the message is sent again, the recipient's mesh polls the sender's mesh.
    let near = json!({ "peer_id": message.body["from_peer"], "session_id": "near", "mesh": "ours" });
    let roster = RemoteRoster::parse(&json!({ "mesh": "ours", "mark": 1, "peers": [near] })).unwrap();
    pair.there.mesh.on_roster(0, &roster, 0..usize::MAX, pair.there.now).unwrap();
    assert_eq!(pair.ask("POST", "/mesh/send", &message.body)["id"], first);
    assert_eq!(pair.bodies(), ["once"]);
}

#[test]
fn a_letter_keeps_its_type_and_its_time_where_the_other_clock_is_hours_ahead() {
    let mut pair = Pair::new(1_001);
    pair.there.pass(3 * 3_600_000);
    let to = pair.here.mesh.peers().all().iter().find(|peer| peer.row.is_linked()).unwrap().row.id.clone();
    let message = json!({ "to": to.as_str(), "message": "{\"a\":1}", "type": "json", "expiresMinutes": 5 });
    pair.here.call(1, &mail::SEND, message).unwrap();
    pair.here.pass(60_000);
    let message = pair.here.mesh.next_forwarded(0, pair.here.now).unwrap().unwrap();
    pair.ask("POST", "/mesh/send", &message.body);
    pair.there.pass(3 * 60_000);
    let mail = pair.there.call(1, &mail::INBOX, json!({})).unwrap();
    assert_eq!(mail["messages"][0]["type"], json!("json"), "{mail}");
    pair.there.pass(2 * 60_000);
    assert_eq!(pair.there.call(1, &mail::INBOX, json!({})).unwrap()["messages"], json!([]));
}

#[test]
fn over_http_nobody_acts_as_a_peer_of_another_mesh_either() {
    let mut pair = Pair::new(1_002);
    let me = pair.there.mesh.peers().find_by_name("far").unwrap();
    let roster = json!({ "mesh": "ours", "mark": 1, "peers": [{ "peer_id": "near-id", "session_id": "near" }] });
    pair.there.mesh.on_roster(0, &RemoteRoster::parse(&roster).unwrap(), 0..usize::MAX, pair.there.now).unwrap();
    for (route, body) in [
        ("/send", json!({ "fromPeer": "near-id", "toPeer": me.as_str(), "payload": "as if" })),
        ("/lock", json!({ "action": "lock", "filePath": "/b/x", "peerId": "near-id" })),
        ("/state", json!({ "action": "set", "key": "k", "value": "v", "peerId": "near-id" })),
        ("/messages", json!({ "peerId": "near-id" })),
    ] {
        let answer = pair.ask("POST", route, &body);
        assert!(answer["error"].as_str().is_some_and(|why| why.contains("another mesh")), "{route}: {answer}");
    }
}
