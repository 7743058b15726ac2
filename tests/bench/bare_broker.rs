//! A bare broker: a poll loop, serde_json and SQLite, without rules. It uses the same tables as the real broker, and
//! its answers have the same form. The real broker can hardly be faster than this one. The difference between the two
//! brokers is the cost of the rules.

use super::filled_store::peer;
use super::floor::{Server, serve_beside};
use super::place::{Line, Scratch};
use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};
use rusqlite::{Connection, ToSql, params};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

/// The time that is stored in each row, because this broker has no clock.
const NOW: i64 = 1_795_000_000_000;
/// How many bytes the broker reads from a client before it serves the next client.
const READ_MAX: usize = 64 * 1024;

/// A bare broker, and how to connect to it.
pub struct BareBroker {
    _server: Server,
    path: String,
}

impl BareBroker {
    /// Starts the broker as a process of its own.
    pub fn start(scratch: &Scratch) -> BareBroker {
        let path = scratch.path.join("bare.sock").display().to_string();
        let file = scratch.path.join("bare.db").display().to_string();
        let (server, _) = serve_beside(&["--bare-broker", &path, &file]);
        BareBroker { _server: server, path }
    }

    /// Connects to the broker, and attaches as a peer with this name.
    pub fn attach(&self, name: &str) -> Line {
        let mut line = Line::connect(Path::new(&self.path));
        line.call("attach", &json!({ "name": name }));
        line
    }
}

struct Client {
    stream: UnixStream,
    name: String,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// Runs the broker.
pub fn serve(path: &str, file: &str) {
    // The store's code creates the tables. After that, only the SQL statements below use the tables.
    drop(slm_mesh::store::Store::open(Path::new(file), false).expect("a store"));
    let db = Connection::open(file).expect("a database");
    db.set_prepared_statement_cache_capacity(16);
    db.pragma_update(None, "synchronous", "NORMAL").expect("NORMAL");
    let mut poll = Poll::new().expect("a poll");
    let mut listener = UnixListener::bind(path).expect("the broker's socket");
    poll.registry().register(&mut listener, Token(0), Interest::READABLE).expect("registered");
    println!("ready");
    let mut events = Events::with_capacity(256);
    let mut rules = Rules { db, n_rows: 0, in_transaction: false };
    let mut clients: Vec<Client> = Vec::new();
    loop {
        poll.poll(&mut events, None).expect("polled");
        for event in &events {
            if event.token() == Token(0) {
                while let Ok((mut stream, _)) = listener.accept() {
                    let token = Token(clients.len() + 1);
                    poll.registry().register(&mut stream, token, Interest::READABLE).expect("registered");
                    clients.push(Client { stream, name: String::new(), input: Vec::new(), output: Vec::new() });
                }
            } else {
                read_and_answer(&mut rules, &mut clients, event.token().0 - 1);
            }
        }
        rules.commit();
        for client in clients.iter_mut().filter(|client| !client.output.is_empty()) {
            // If a client does not read its answers, the answers are lost. This does not matter here.
            let _ = client.stream.write_all(&client.output);
            client.output.clear();
        }
    }
}

fn read_and_answer(rules: &mut Rules, clients: &mut [Client], n: usize) {
    let mut buffer = [0; READ_MAX];
    loop {
        match clients[n].stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(size) => clients[n].input.extend_from_slice(&buffer[..size]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => return,
        }
    }
    let input = std::mem::take(&mut clients[n].input);
    let end = input.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    for line in input[..end].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let call: Value = serde_json::from_slice(line).expect("a line of JSON");
        let result = rules.answer(clients, n, &call);
        let id = call["id"].to_string();
        push(&mut clients[n].output, &[r#"{"jsonrpc":"2.0","id":"#, &id, r#","result":"#, &result, "}\n"]);
    }
    clients[n].input.extend_from_slice(&input[end..]);
}

/// Appends texts. This takes half as long as building JSON values and serializing them.
fn push(output: &mut Vec<u8>, parts: &[&str]) {
    parts.iter().for_each(|part| output.extend_from_slice(part.as_bytes()));
}

/// A text as JSON.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text is JSON")
}

struct Rules {
    db: Connection,
    /// The number of rows that were written. It is also the sequence number of the last row.
    n_rows: i64,
    in_transaction: bool,
}

impl Rules {
    fn run(&self, sql: &str, values: &[&dyn ToSql]) {
        self.db.prepare_cached(sql).expect("SQL").execute(values).expect("done");
    }

    fn write(&mut self, sql: &str, values: &[&dyn ToSql]) {
        if !self.in_transaction {
            self.run("BEGIN IMMEDIATE", &[]);
            self.in_transaction = true;
        }
        self.run(sql, values);
    }

    fn commit(&mut self) {
        if self.in_transaction {
            self.run("UPDATE counters SET event_last = ?1, message_last = ?1", &[&self.n_rows]);
            self.run("COMMIT", &[]);
            self.in_transaction = false;
        }
    }

    fn write_event(&mut self, kind: &str, by: &str, payload: &str) {
        let sql = "INSERT INTO event(seq, type, by, at, payload) VALUES (?, ?, ?, ?, ?)";
        let seq = self.n_rows;
        self.write(sql, params![seq, kind, by, NOW, payload]);
    }

    fn answer(&mut self, clients: &mut [Client], n: usize, call: &Value) -> String {
        let word = |name: &str| call["params"][name].as_str().unwrap_or_default();
        match call["method"].as_str().expect("a method") {
            "attach" => {
                clients[n].name = word("name").to_owned();
                r#"{"ok":true}"#.into()
            }
            "state.get" => format!(r#"{{"ok":true,"entry":{}}}"#, self.entry(word("key")).1),
            "state.set" => {
                let (key, value, by) = (word("key"), word("value"), peer(n));
                self.n_rows += 1;
                let sql = "INSERT INTO state(namespace, key, value, version, by, updated) \
                           VALUES ('default', ?, ?, 1, ?, ?) ON CONFLICT DO UPDATE SET \
                           value = excluded.value, version = version + 1, by = excluded.by, updated = excluded.updated";
                self.write(sql, params![key, value, by, NOW]);
                let (version, entry) = self.entry(key);
                let (key, value) = (quoted(key), quoted(value));
                let payload = format!(r#"{{"key":{key},"namespace":"default","value":{value},"version":{version}}}"#);
                self.write_event("state_changed", &by, &payload);
                format!(r#"{{"ok":true,"version":{version},"entry":{entry}}}"#)
            }
            "send" => self.send(clients, n, word("to"), word("message")),
            method => panic!("the bare broker has no method {method}"),
        }
    }

    /// The version of an entry, and the entry as JSON.
    fn entry(&self, key: &str) -> (i64, String) {
        let sql = "SELECT value, version, by, updated FROM state WHERE namespace = 'default' AND key = ?";
        let mut query = self.db.prepare_cached(sql).expect("SQL");
        let read = |row: &rusqlite::Row<'_>| {
            let (value, by) = (quoted(row.get_ref(0)?.as_str()?), row.get_ref(2)?.as_str()?);
            let (version, updated): (i64, i64) = (row.get(1)?, row.get(3)?);
            let (key, updated) = (quoted(key), slm_mesh::base::time_format::iso(updated));
            let rest = format!(r#""version":{version},"updatedByName":"writer"}}"#);
            let entry = format!(
                r#"{{"key":{key},"namespace":"default","value":{value},"updatedBy":"{by}","updatedAt":"{updated}",{rest}"#
            );
            Ok((version, entry))
        };
        query.query_row([key], read).expect("an entry")
    }

    fn send(&mut self, clients: &mut [Client], n: usize, to: &str, text: &str) -> String {
        let (mut ids, mut recipients) = (String::new(), String::new());
        let from = peer(n);
        for (at, client) in clients.iter_mut().enumerate() {
            if at == n || to != "all" && to != client.name {
                continue;
            }
            self.n_rows += 1;
            let seq = self.n_rows;
            let sql = "INSERT INTO message(seq, sender, recipient, recipient_group, type, body, created, state, \
                       bytes_read) VALUES (?, ?, ?, NULL, 'text', ?, ?, 0, 0)";
            self.write(sql, params![seq, n as i64, at as i64, text, NOW]);
            let (id, to, name) = (format!(r#""00000000-0000-4000-8000-{seq:012x}""#), peer(at), &client.name);
            let notice = format!(
                r#"{{"to":"{to}","id":{id},"seq":{seq},"from":"{from}","fromName":"sender","type":"text","unread":{seq}}}"#
            );
            push(&mut client.output, &[r#"{"jsonrpc":"2.0","method":"message","params":"#, &notice, "}\n"]);
            let comma = if ids.is_empty() { "" } else { "," };
            ids.extend([comma, &id]);
            let recipient = format!(r#"{comma}{{"id":"{to}","name":"{name}","here":true,"receipt":"accepted"}}"#);
            recipients.push_str(&recipient);
        }
        self.n_rows += 1;
        let payload = format!(r#"{{"fromPeer":"{from}","toPeer":{}}}"#, quoted(to));
        self.write_event("message_received", &from, &payload);
        format!(r#"{{"ok":true,"messageIds":[{ids}],"recipients":[{recipients}]}}"#)
    }
}
