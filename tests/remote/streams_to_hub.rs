//! Tests the client's end of a connection to a hub. Sessions use this end in several threads, with timeouts or without
//! blocking. Also tests what a hub's `broker.info` contains.

use crate::false_hubs::{FalseHub, Role};
use crate::{connect, hub_and_guest, port};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

#[test]
fn threads_write_long_lines_while_another_one_waits_to_read() {
    let (hub, _guest) = hub_and_guest();
    let stream = connect(port(&hub)).unwrap();
    let answers = BufReader::new(stream.another()).lines();
    let filler = "x".repeat(200_000);
    let write = |first: u64| {
        let mut writer = stream.another();
        for id in first..first + 20 {
            let line = json!({ "jsonrpc": "2.0", "id": id, "method": "ping", "params": { "filler": filler } });
            writer.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
    };
    let mut ids: Vec<u64> = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let answers = answers.take(60).map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
            answers.map(|answer| answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"))).collect()
        });
        for first in [100, 200, 300] {
            scope.spawn(move || write(first));
        }
        reader.join().unwrap()
    });
    ids.sort_unstable();
    let sent: Vec<u64> = [100, 200, 300].into_iter().flat_map(|first| first..first + 20).collect();
    assert_eq!(ids, sent, "each line arrived whole, and once");
}

#[test]
fn a_read_waits_as_long_as_it_may() {
    let hub = FalseHub::start(Role::StandsBy(None));
    let mut stream = connect(hub.port()).unwrap();
    let mut buffer = [0; 64];
    stream.set_read_timeout(Some(Duration::from_millis(100)));
    let began = Instant::now();
    assert_eq!(stream.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(began.elapsed() >= Duration::from_millis(100));
    stream.set_read_timeout(Some(Duration::from_secs(60)));
    stream.set_nonblocking(true);
    let began = Instant::now();
    assert_eq!(stream.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(began.elapsed() < Duration::from_secs(30));
    // A second handle does not have the first handle's timeout. Its read must return when the connection ends.
    let mut other = stream.another();
    let waiting = std::thread::spawn(move || other.read(&mut [0; 64]));
    stream.shutdown(Shutdown::Both);
    assert_eq!(waiting.join().unwrap().unwrap(), 0);
    assert!(stream.write(b"late\n").is_err() || stream.read(&mut buffer).unwrap() == 0);
}

#[test]
fn what_was_written_arrives_although_the_guest_leaves_at_once() {
    let hub = FalseHub::start(Role::StandsBy(None));
    for n in 0..20 {
        let mut stream = connect(hub.port()).unwrap();
        let word = format!("{{\"jsonrpc\":\"2.0\",\"method\":\"word-{n}\",\"params\":{{}}}}\n");
        stream.write_all(word.as_bytes()).unwrap();
        match n % 2 {
            0 => drop(stream),
            _ => {
                stream.shutdown(Shutdown::Write);
                assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0, "the hub ends it");
            }
        }
    }
    crate::support::until("all words have arrived", || hub.methods().len() == 20);
}

#[test]
fn only_the_hub_itself_sees_a_fingerprint_of_its_settings() {
    let (hub, _guest) = hub_and_guest();
    let mut guest = connect(port(&hub)).unwrap();
    guest.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"broker.info\",\"params\":{}}\n").unwrap();
    let mut line = String::new();
    BufReader::new(guest).read_line(&mut line).unwrap();
    let info: Value = serde_json::from_str(&line).unwrap();
    // `settings` contains hashes of the hub's other secrets. A client could check guesses with these hashes, so only
    // local callers get `settings`.
    assert!(info["result"]["pid"].is_number() && info["result"]["settings"].is_null(), "{line}");
    assert!(hub.socket().call("broker.info", json!({}))["result"]["settings"].is_string());
}
