//! Messages between two meshes over a network that loses questions, loses answers, and whose brokers die
//! at any moment: each that was accepted arrives once, in order, and its receipt never says more.

use crate::failures::Disk;
use serde_json::{Value, json};
use slm_mesh::broker::http::{Head, Request};
use slm_mesh::broker::legacy_http;
use slm_mesh::core::federation::forwarding::{Delivery, ForwardedMessage};
use slm_mesh::core::federation::roster::RemoteRoster;
use slm_mesh::core::{mail, peers::sessions};

const URL: &str = "http://there:7899";
const SEEDS: std::ops::Range<u64> = 0..30;
const STEPS: usize = 120;

/// Chance with a seed (SplitMix64).
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

/// Two meshes, and what is on its way between them.
struct Pair {
    here: Disk,
    there: Disk,
    /// A message that left, and the answer to it once there is one.
    under_way: Option<(ForwardedMessage, Option<Delivery>)>,
    n_sent: usize,
}

impl Pair {
    fn new(seed: u64) -> Pair {
        let mut pair = Pair {
            here: Disk::linked(&format!("messages-{seed}"), &[URL]),
            there: Disk::linked(&format!("messages-there-{seed}"), &["http://here:7899"]),
            under_way: None,
            n_sent: 0,
        };
        pair.there.mesh.on_connected(1);
        pair.seat_there();
        pair.seat_here();
        pair.look();
        pair
    }

    fn seat_here(&mut self) {
        self.here.mesh.on_connected(1);
        let who = json!({ "agent": "test", "name": "near", "project": "/a", "pid": 5 });
        self.here.call(1, &sessions::ATTACH, who).unwrap();
    }

    fn seat_there(&mut self) {
        let who = json!({ "agent": "test", "name": "far", "project": "/b", "pid": 5, "session": "s" });
        self.there.call(1, &sessions::ATTACH, who).unwrap();
    }

    /// One HTTP request to the other side, whose answer leaves only after its commit.
    fn ask(&mut self, method: &str, target: &str, body: &Value) -> Value {
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
        assert_eq!(answer.status, 200);
        serde_json::from_slice(&answer.body).unwrap()
    }

    fn look(&mut self) {
        let roster = RemoteRoster::parse(&self.ask("GET", "/mesh/peers", &json!({}))).unwrap();
        self.here.mesh.on_roster(0, &roster, 0..usize::MAX, self.here.now).unwrap();
        assert!(self.here.mesh.commit());
    }

    fn step(mut self, dice: &mut Dice) -> Pair {
        match dice.below(8) {
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
            // It arrives, if it was not lost before.
            3 => {
                if let Some((message, None)) = self.under_way.clone() {
                    let answer = self.ask("POST", "/mesh/send", &message.body);
                    assert_eq!(answer["ok"], json!(true), "{answer}");
                    self.under_way = Some((message, Some(Delivery::Accepted)));
                }
            }
            // The answer arrives; or, like the question, it never does.
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
            _ => {
                self.there = self.there.crash(|_| false);
                self.there.mesh.on_connected(1);
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
            let forwarded = receipts.iter().filter(|word| *word == "forwarded").count();
            assert!(forwarded <= arrived, "seed {seed}: a receipt says more than is so");
        }
        // Then the network is well: everything that was accepted is there.
        pair.under_way = None;
        while let Some(message) = pair.here.mesh.next_forwarded(0, pair.here.now).unwrap() {
            pair.ask("POST", "/mesh/send", &message.body);
            pair.here.mesh.on_delivery(0, message.seq, &Delivery::Accepted, pair.here.now).unwrap();
        }
        let wanted: Vec<String> = (1..=pair.n_sent).map(|n| format!("message {n}")).collect();
        assert_eq!(pair.bodies(), wanted, "seed {seed}");
        assert_eq!(pair.receipts(), vec!["forwarded"; pair.n_sent], "seed {seed}");
    }
}

#[test]
fn a_letter_that_comes_again_once_its_sender_is_known_is_still_the_same() {
    let mut pair = Pair::new(1_000);
    let to = pair.here.mesh.peers().all().iter().find(|peer| peer.row.is_linked()).unwrap().row.id.clone();
    pair.here.call(1, &mail::SEND, json!({ "to": to.as_str(), "message": "once" })).unwrap();
    let message = pair.here.mesh.next_forwarded(0, pair.here.now).unwrap().unwrap();
    let first = pair.ask("POST", "/mesh/send", &message.body)["id"].clone();
    // The answer is lost; before the message comes again the other side has looked, too.
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
    let me = pair.there.mesh.peers().resolve("far").unwrap();
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
