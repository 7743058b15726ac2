//! Times single calls to the broker in four ways: with verbs (subcommands), over the Unix socket, with MCP over stdio,
//! and over HTTP.

use super::bare_broker::BareBroker;
use super::figures::{Reach, Table, in_turns};
pub use super::filled_store::VALUE;
use super::floor::{self, Commits};
use super::place::{Http, Mesh, is_static, request, tool};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};

/// The approximate size, in bytes, of the row that a write commits. The row contains texts, ids and times.
const ROW: usize = 250;

fn run(command: &mut Command) {
    let status = command.status().expect("a process starts");
    assert!(status.success(), "{command:?}: {status}");
}

/// Times verbs (subcommands), and compares them with a process that ends at once.
pub fn verbs(table: &mut Table) {
    let mesh = Mesh::started();
    let _reader = mesh.attach("reader");
    let mut line = mesh.line();
    line.call("state.set", &json!({ "key": "port", "value": VALUE }));
    let truth = if Path::new("/bin/true").exists() { "/bin/true" } else { "/usr/bin/true" };
    let file = mesh.scratch.path.join("file").display().to_string();
    let mut floor = || {
        let mut command = Command::new(truth);
        run(command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()));
    };
    let mut get = || run(&mut mesh.command(&["state", "get", "port"]));
    let mut send = || run(&mut mesh.command(&["send", "reader", VALUE]));
    let mut taken = 0;
    let mut lock = || {
        taken += 1;
        run(&mut mesh.command(&["lock", &format!("{file}{taken}")]));
    };
    let samples = in_turns(12, 20, &mut [&mut floor, &mut get, &mut send, &mut lock]);
    // A dynamically linked program also loads its libraries. This takes so long that the differences between verbs
    // hardly matter.
    let rows = [("verb state get", 1.25), ("verb send", 1.35), ("verb lock", 1.35)];
    for ((work, most), samples_of) in rows.iter().zip(&samples[1..]) {
        let reach = Reach::Times(if is_static() { *most } else { 1.8 });
        table.times(work, samples_of, Some(samples[0].median()), reach);
    }
}

/// The three measured calls. Each has a name, a request as a line, and a maximum time as a multiple of the floor (the
/// time that the machine itself needs).
fn three() -> [(&'static str, Vec<u8>, f64); 3] {
    let set = json!({ "key": "port", "value": VALUE });
    let send = json!({ "to": "reader", "message": VALUE });
    [
        ("get", request("state.get", &json!({ "key": "port" })), 1.4),
        ("set", request("state.set", &set), 1.6),
        ("send", request("send", &send), 1.7),
    ]
}

/// Times calls over the Unix socket, and compares them with an echo of the same bytes. For a write, the time to commit
/// one row is added to the time of the echo.
pub fn socket(table: &mut Table) {
    let mesh = Mesh::started();
    let _reader = mesh.attach("reader");
    let (_server, echo) = floor::echo(&mesh.scratch);
    let mut writer = mesh.attach("writer");
    writer.call("state.set", &json!({ "key": "port", "value": VALUE }));
    let mut commits = Commits::new(&mesh.scratch, "floor.db", ROW);
    let mut commit = || commits.one();
    let bare = BareBroker::start(&mesh.scratch);
    let _bare_reader = bare.attach("reader");
    let mut works: Vec<Box<dyn FnMut()>> = Vec::new();
    for (_, line, _) in three() {
        let answer = writer.ask(&line).to_vec();
        let mut floor = floor::echo_line(&echo, &answer);
        assert_eq!(floor.ask(&line).len(), answer.len());
        let mut own = mesh.attach(&format!("writer-{}", works.len()));
        let mut of_bare = bare.attach("writer");
        of_bare.call("state.set", &json!({ "key": "port", "value": VALUE }));
        let (same, too) = (line.clone(), line.clone());
        works.push(Box::new(move || {
            own.ask(&line);
        }));
        works.push(Box::new(move || {
            floor.ask(&same);
        }));
        works.push(Box::new(move || {
            of_bare.ask(&too);
        }));
    }
    let mut turns: Vec<&mut dyn FnMut()> = works.iter_mut().map(|work| work.as_mut() as &mut dyn FnMut()).collect();
    turns.push(&mut commit);
    let samples = in_turns(30, 80, &mut turns);
    let row = samples[9].median();
    for (n, (name, _, most)) in three().iter().enumerate() {
        let floor = samples[3 * n + 1].median() + if n == 0 { 0.0 } else { row };
        table.times(&format!("socket {name}"), &samples[3 * n], Some(floor), Reach::Times(*most));
        table.bare(&samples[3 * n + 2], Some(floor));
    }
}

/// Times tool calls over MCP stdio, from the client through the session to the broker and back.
pub fn mcp(table: &mut Table) {
    let mesh = Mesh::started();
    let _reader = mesh.attach("reader");
    let set = json!({ "action": "set", "key": "port", "value": VALUE });
    let works = [
        ("get", tool("mesh_state", json!({ "action": "get", "key": "port" })), 40.0),
        ("set", tool("mesh_state", set), 60.0),
        ("send", tool("mesh_send", json!({ "to": "reader", "message": VALUE })), 70.0),
    ];
    let mut sessions: Vec<_> = works.iter().map(|_| mesh.session()).collect();
    let mut calls: Vec<Box<dyn FnMut() + '_>> = Vec::new();
    for ((_, line, _), session) in works.iter().zip(&mut sessions) {
        session.tool(line);
        calls.push(Box::new(move || session.tool(line)));
    }
    let mut turns: Vec<&mut dyn FnMut()> = calls.iter_mut().map(|call| call.as_mut() as &mut dyn FnMut()).collect();
    let samples = in_turns(20, 80, &mut turns);
    for ((name, _, most), samples) in works.iter().zip(&samples) {
        table.times(&format!("MCP tool {name}"), samples, None, Reach::MedianAndP99(*most, 500.0));
    }
}

fn post(path: &str, headers: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

/// Times the old HTTP routes over a keep-alive connection. The times are compared with the times of tiny_http, which
/// receives and sends the same number of bytes. For a write, the time to commit one row is added to the time of
/// tiny_http.
pub fn http(table: &mut Table) {
    let mesh = Mesh::started();
    let (_server, mut echo) = floor::echo_http();
    let (mut get, headers) = mesh.http();
    let (mut set, _): (Http, String) = mesh.http();
    let get_body = json!({ "action": "get", "key": "port" });
    let set_body = json!({ "action": "set", "key": "port", "value": VALUE, "peerId": "bench" });
    let (get_bytes, set_bytes) = (post("/state", &headers, &get_body), post("/state", &headers, &set_body));
    let n_set = set.ask(&set_bytes);
    let n_get = get.ask(&get_bytes);
    let echo_get = post(&format!("/{n_get}"), &headers, &get_body);
    let echo_set = post(&format!("/{n_set}"), &headers, &set_body);
    let mut commits = Commits::new(&mesh.scratch, "floor.db", ROW);
    let mut again = echo.again();
    let samples = in_turns(
        25,
        60,
        &mut [
            &mut || ignore(get.ask(&get_bytes)),
            &mut || ignore(echo.ask(&echo_get)),
            &mut || ignore(set.ask(&set_bytes)),
            &mut || ignore(again.ask(&echo_set)),
            &mut || commits.one(),
        ],
    );
    let row = samples[4].median();
    table.times("HTTP get", &samples[0], Some(samples[1].median()), Reach::Times(2.5));
    table.times("HTTP set", &samples[2], Some(samples[3].median() + row), Reach::Times(2.5));
}

/// Drops the size of an answer, so that all measured closures have the same type.
fn ignore(_size: usize) {}
