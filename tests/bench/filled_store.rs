//! Writes rows into the store's tables without the store's code. The benchmarks use this to time a bare loop of
//! commits, and to fill a mesh with a million rows. A test writes a few rows in the same way, so the test fails if the
//! tables change.

use rusqlite::{Connection, params};
use serde_json::json;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The text of each message and the value of each state entry.
pub const VALUE: &str =
    "the API listens on 8080 until the new gateway is deployed; ask claude-api before you change it";
/// The number of peers that sent and received the messages.
pub const N_PEERS: usize = 50;
/// The number of unread messages in each mailbox.
pub const UNREAD: usize = 40;
/// Types of events. The last type is rare.
const TYPES: [&str; 4] = ["message_received", "state_changed", "file_locked", "deploy.done"];

/// The id of a peer. Like all ids it is a UUID.
pub fn peer(n: usize) -> String {
    format!("00000000-0000-4000-8000-{:012x}", n % N_PEERS)
}

/// The number that represents a peer in the table of messages.
fn number(n: usize) -> i64 {
    (n % N_PEERS) as i64 + 1
}

/// Returns one of 500 keys. With so few keys, entries are changed as well as added.
pub fn key(n: usize) -> String {
    format!("key-{:03}", n * 7 % 500)
}

/// Returns how many state entries per second a bare loop writes to an empty store. Like `state.set`, each round of the
/// loop writes an entry and an event. Each transaction writes the counters once.
pub fn bare_sets_per_second(file: &Path, n_sets: usize, per_commit: usize) -> f64 {
    let began = Instant::now();
    bare_sets(file, n_sets, per_commit, |_| ());
    n_sets as f64 / began.elapsed().as_secs_f64()
}

/// Runs that bare loop. Calls `before` with the number of each round, before the round.
pub fn bare_sets(file: &Path, n_sets: usize, per_commit: usize, mut before: impl FnMut(usize)) {
    let db = Connection::open(file).expect("a database");
    db.set_prepared_statement_cache_capacity(16);
    db.pragma_update(None, "synchronous", "NORMAL").expect("NORMAL");
    let by = peer(0);
    let run = |sql: &str| db.prepare_cached(sql).expect("SQL").execute([]).expect("done");
    for n in 0..n_sets {
        before(n);
        if n % per_commit == 0 {
            run("BEGIN IMMEDIATE");
        }
        let (key, seq) = (key(n), n as i64 + 1);
        let sql = "INSERT OR REPLACE INTO state(namespace,key,value,version,by,updated) VALUES ('default',?,?,?,?,?)";
        let mut put = db.prepare_cached(sql).expect("SQL");
        put.execute(params![key, VALUE, seq, by, seq]).expect("put");
        let payload = format!(r#"{{"key":"{key}","namespace":"default","value":"{VALUE}","version":{n}}}"#);
        let sql = "INSERT INTO event(seq,type,by,at,payload) VALUES (?,'state_changed',?,?,?)";
        let mut add = db.prepare_cached(sql).expect("SQL");
        add.execute(params![seq, by, seq, payload]).expect("added");
        if (n + 1) % per_commit == 0 {
            let mut counters = db.prepare_cached("UPDATE counters SET event_last=?1, events=?1").expect("SQL");
            counters.execute([seq]).expect("counted");
            run("COMMIT");
        }
    }
}

/// Fills a closed store with `n_rows` messages, `n_rows` events, and `n_rows / 10` state entries. Uses one transaction,
/// and builds the indexes at the end.
pub fn fill(file: &Path, n_rows: usize) {
    let mut db = Connection::open(file).expect("the store's file");
    db.pragma_update(None, "synchronous", "OFF").expect("a pragma");
    let t = db.transaction().expect("a transaction");
    let sql = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL";
    let indexes: Vec<(String, String)> = t
        .prepare(sql)
        .and_then(|mut ask| ask.query_map([], |row| Ok((row.get("name")?, row.get("sql")?)))?.collect())
        .expect("the schema");
    indexes.iter().for_each(|(name, _)| t.execute_batch(&format!("DROP INDEX {name}")).expect("dropped"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let began = now - n_rows as i64 * 10;
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        t.prepare_cached(sql).expect("SQL").execute(values).expect("a row");
    };
    for n in 0..N_PEERS {
        run(
            "INSERT INTO peer(id,name,kind,agent,project,summary,host,pid,first_seen,last_seen,online) \
             VALUES (?1,?2,'session','bench','/bench','','host',1,?3,?3,0)",
            &[&peer(n), &format!("peer-{n}"), &began],
        );
        run("INSERT INTO peer_number(num,id) VALUES (?,?)", &[&number(n), &peer(n)]);
    }
    for n in 0..n_rows {
        let (seq, at) = (n as i64 + 1, began + n as i64 * 10);
        // Each peer gets messages from four other peers.
        let sender = n + 1 + n / N_PEERS % 4;
        let state = if n + UNREAD * N_PEERS >= n_rows { 0 } else { 2 };
        run(
            "INSERT INTO message(seq,sender,recipient,recipient_group,type,body,created,state,bytes_read) \
             VALUES (?,?,?,NULL,'text',?,?,?,0)",
            &[&seq, &number(sender), &number(n), &VALUE, &at, &state],
        );
        let kind = if n % 100 == 0 { TYPES[3] } else { TYPES[n % 3] };
        let payload = json!({ "key": n, "note": VALUE }).to_string();
        run(
            "INSERT INTO event(seq,type,by,at,payload) VALUES (?,?,?,?,?)",
            &[&seq, &kind, &peer(sender), &at, &payload],
        );
        if n % 10 == 0 {
            run(
                "INSERT INTO state(namespace,key,value,version,by,updated) VALUES ('default',?,?,1,?,?)",
                &[&format!("key-{n:09}"), &VALUE, &peer(sender), &at],
            );
        }
    }
    let n_unread = (UNREAD * N_PEERS).min(n_rows) as i64;
    run(
        "UPDATE counters SET message_last=?1, event_last=?1, messages=?1, unread=?2, events=?1",
        &[&(n_rows as i64), &n_unread],
    );
    run("INSERT INTO event_block SELECT DISTINCT type, seq / 64 FROM event", &[]);
    indexes.iter().for_each(|(_, sql)| t.execute_batch(sql).expect("an index"));
    t.commit().expect("committed");
}
