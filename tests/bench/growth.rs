//! Every hot operation with a million messages and events behind it, against the same when there are
//! only as many rows as the answers show.

use super::calls::VALUE;
use super::figures::{Reach, Table, in_turns};
use super::place::{Line, Mesh, request};
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// Peers that wrote and got the messages.
const N_PEERS: usize = 50;
/// Messages and events of the large mesh.
const MANY: usize = 1_000_000;
/// And of the small one: every page of an answer is full here, too.
const FEW: usize = N_PEERS * 120;
/// Unread ones in each mailbox.
const UNREAD: usize = 40;
/// Types of events; the last one is rare.
const TYPES: [&str; 4] = ["message_received", "state_changed", "file_locked", "deploy.done"];

/// A peer's id: a UUID, as all of them are.
fn peer(n: usize) -> String {
    format!("00000000-0000-4000-8000-{:012x}", n % N_PEERS)
}

/// The number by which messages name it.
fn number(n: usize) -> i64 {
    (n % N_PEERS) as i64 + 1
}

/// Fills a store that is closed, in one transaction, with its indexes built at the end.
fn fill(mesh: &Mesh, n_rows: usize) {
    let file = mesh.dir().join("broker.db");
    let mut db = Connection::open(file).expect("the store's file");
    db.pragma_update(None, "synchronous", "OFF").expect("a pragma");
    let t = db.transaction().expect("a transaction");
    let sql = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL";
    let indexes: Vec<(String, String)> = t
        .prepare(sql)
        .and_then(|mut ask| ask.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .expect("the schema");
    indexes.iter().for_each(|(name, _)| t.execute_batch(&format!("DROP INDEX {name}")).expect("dropped"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let began = now - n_rows as i64 * 10;
    {
        let mut peers = t
            .prepare(
                "INSERT INTO peer VALUES (?1,?2,'session','bench','/bench',NULL,NULL,NULL,'','host',1,NULL,'',?3,?3,0)",
            )
            .expect("SQL");
        for n in 0..N_PEERS {
            peers.execute(params![peer(n), format!("peer-{n}"), began]).expect("a peer");
            t.execute("INSERT INTO who VALUES (?1, ?2)", params![number(n), peer(n)]).expect("its number");
        }
        let mut messages = t
            .prepare(
                "INSERT INTO message VALUES (?1,?2,?3,'','text',?4,NULL,NULL,?5,NULL,?6,NULL,0,NULL,NULL,NULL,NULL)",
            )
            .expect("SQL");
        let mut events = t.prepare("INSERT INTO event VALUES (?1,?2,?3,?4,?5)").expect("SQL");
        let mut states = t.prepare("INSERT INTO state VALUES ('default',?1,?2,1,?3,?4,NULL)").expect("SQL");
        for n in 0..n_rows {
            let (seq, at) = (n as i64 + 1, began + n as i64 * 10);
            // Each peer hears from four others.
            let sender = n + 1 + n / N_PEERS % 4;
            let state = if n + UNREAD * N_PEERS >= n_rows { 0 } else { 2 };
            messages.execute(params![seq, number(sender), number(n), VALUE, at, state]).expect("a message");
            let kind = if n % 100 == 0 { TYPES[3] } else { TYPES[n % 3] };
            let payload = json!({ "key": n, "note": VALUE }).to_string();
            events.execute(params![seq, kind, peer(sender), at, payload]).expect("an event");
            if n % 10 == 0 {
                states.execute(params![format!("key-{n:09}"), VALUE, peer(sender), at]).expect("an entry");
            }
        }
        let n_unread = (UNREAD * N_PEERS) as i64;
        t.execute(
            "UPDATE tally SET message_last=?1, event_last=?1, messages=?1, unread=?2, events=?1",
            [n_rows as i64, n_unread],
        )
        .expect("the tally");
    }
    indexes.iter().for_each(|(_, sql)| t.execute_batch(sql).expect("an index"));
    t.commit().expect("committed");
}

/// A mesh with so many rows, and a connection as one of its peers.
fn grown(n_rows: usize) -> (Mesh, Line) {
    let mut mesh = Mesh::started();
    mesh.stop();
    fill(&mesh, n_rows);
    mesh.start();
    let mut line = mesh.line();
    let asked = json!({ "agent": "bench", "project": "/bench", "pid": std::process::id(), "id": peer(7) });
    let answer = line.call("attach", &asked);
    assert_eq!(answer["result"]["unread"], json!(UNREAD), "{answer}");
    (mesh, line)
}

/// The hot operations; `n_rows` says where the middle of the streams is.
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

/// Each operation on both meshes, in turns.
pub fn growth(table: &mut Table) {
    let (_few, mut few) = grown(FEW);
    let (_many, mut many) = grown(MANY);
    for ((name, method, at_few), (_, _, at_many)) in operations(FEW).into_iter().zip(operations(MANY)) {
        few.call(method, &at_few);
        many.call(method, &at_many);
        let (small, large) = (request(method, &at_few), request(method, &at_many));
        let mut call_few = || assert!(few.ask(&small).len() > 2);
        let mut call_many = || assert!(many.ask(&large).len() > 2);
        let samples = in_turns(10, 40, &mut [&mut call_few, &mut call_many]);
        let floor = samples[0].median();
        table.times(&format!("at 1,000,000: {name}"), &samples[1], Some(floor), Reach::Times(1.5));
    }
}
