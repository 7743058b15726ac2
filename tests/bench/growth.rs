//! Times each frequent operation on a mesh with a million messages and events, and the start of its broker. For
//! comparison, times each operation on a mesh with just enough rows to fill the answers.

use super::figures::{Reach, Samples, Table, in_turns, micros_since};
use super::filled_store::{N_PEERS, UNREAD, VALUE, fill, peer};
use super::place::{Line, Mesh, request};
use serde_json::{Value, json};
use std::time::Instant;

/// How many million messages and events the large mesh holds. `SLM_MESH_BENCH_MILLIONS` replaces this number
/// (`make bench MILLIONS=10`).
const MILLIONS: usize = 1;
/// How many messages and events the small mesh holds. They are just enough to fill each answer.
const FEW: usize = N_PEERS * 120;

/// Returns a mesh with this many rows, and a connection that is attached as one of its peers.
fn grown(n_rows: usize) -> (Mesh, Line) {
    let mut mesh = Mesh::started();
    mesh.stop();
    fill(&mesh.dir().join("broker.db"), n_rows);
    mesh.start();
    let mut line = mesh.line();
    let asked = json!({ "agent": "bench", "project": "/bench", "pid": std::process::id(), "id": peer(7) });
    let answer = line.call("attach", &asked);
    assert_eq!(answer["result"]["unread"], json!(UNREAD), "{answer}");
    (mesh, line)
}

/// The frequent operations, each with a title, a method and arguments. Some operations read only the messages or events
/// after number `n_rows / 2`.
fn operations(n_rows: usize) -> Vec<(&'static str, &'static str, Value)> {
    let after = n_rows / 2;
    vec![
        ("inbox unread", "inbox", json!({})),
        ("inbox all", "inbox", json!({ "filter": "all" })),
        ("inbox all, from one", "inbox", json!({ "filter": "all", "from": "peer-8" })),
        ("inbox all, after", "inbox", json!({ "filter": "all", "after": after })),
        ("inbox sent", "inbox", json!({ "filter": "sent" })),
        ("send", "send", json!({ "to": "peer-9", "message": VALUE })),
        ("state get", "state.get", json!({ "key": "key-000000070" })),
        ("state set", "state.set", json!({ "key": "key-000000070", "value": VALUE })),
        ("state list", "state.list", json!({ "prefix": "key-0000", "after": "key-000000500" })),
        ("lock", "lock.lock", json!({ "filePath": "/bench/file.rs" })),
        ("events, latest", "events.read", json!({})),
        ("events, after", "events.read", json!({ "after": after })),
        ("events, one type", "events.read", json!({ "types": ["deploy.done"] })),
        ("events, one type after", "events.read", json!({ "types": ["file_locked"], "after": after })),
        ("peers", "peers", json!({ "scope": "machine", "includeAway": true })),
        ("status", "status", json!({})),
    ]
}

/// Times each operation on both meshes, and alternates between the two.
pub fn growth(table: &mut Table) {
    let named = std::env::var("SLM_MESH_BENCH_MILLIONS").ok().filter(|number| !number.is_empty());
    let millions = named.map_or(MILLIONS, |number| number.parse().expect("a whole number of millions"));
    let n_many = millions * 1_000_000;
    // The large mesh is filled first, because its broker would ping a client that is idle for that long.
    let (mut large_mesh, mut many) = grown(n_many);
    let (_few, mut few) = grown(FEW);
    for ((name, method, at_few), (_, _, at_many)) in operations(FEW).into_iter().zip(operations(n_many)) {
        few.call(method, &at_few);
        many.call(method, &at_many);
        let (small, large) = (request(method, &at_few), request(method, &at_many));
        let mut call_few = || assert!(few.ask(&small).len() > 2);
        let mut call_many = || assert!(many.ask(&large).len() > 2);
        let samples = in_turns(10, 40, &mut [&mut call_few, &mut call_many]);
        let floor = samples[0].median();
        table.times(&format!("at {millions},000,000: {name}"), &samples[1], Some(floor), Reach::Times(1.2));
    }
    let starts = (0..9).map(|_| {
        large_mesh.stop();
        let began = Instant::now();
        large_mesh.start();
        micros_since(began)
    });
    let starts = Samples::new(starts.collect());
    table.times(&format!("at {millions},000,000: start"), &starts, None, Reach::Median(50_000.0));
}
