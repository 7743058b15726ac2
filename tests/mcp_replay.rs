//! Sends recorded lines of real agents to slm-mesh. Checks each line of its output against the MCP schema of the right
//! version.

mod clients;
mod stdio;
mod support;

use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use stdio::{Bare, LEGACY, MODERN, call, initialize, modern, request};
use support::{Place, project};

const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";

/// All recordings, each with a name and the lines that one server process got. The name consists of the file's name and
/// the line at which the recording begins. One agent started its server twice, so its file contains two recordings.
fn recordings() -> Vec<(String, Vec<Value>)> {
    let folder = project().join("tests/data/mcp-clients");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        for (n, line) in text.lines().enumerate() {
            let line: Value = serde_json::from_str(line).unwrap();
            if n == 0 || line["method"] == json!("initialize") {
                found.push((format!("{name}:{}", n + 1), Vec::new()));
            }
            found.last_mut().unwrap().1.push(line);
        }
    }
    found
}

/// Whether a request gets its answer only when it is cancelled.
fn stays_open(line: &Value) -> bool {
    line["method"] == json!("subscriptions/listen")
}

fn is_request(line: &Value) -> bool {
    line.get("id").is_some() && line.get("method").is_some()
}

/// For each request, the number of its answers. The key is the request's id as JSON text.
fn answers(seen: &[Value]) -> HashMap<String, usize> {
    let mut n_by_id = HashMap::new();
    for value in seen.iter().filter(|value| value.get("method").is_none()) {
        *n_by_id.entry(value["id"].to_string()).or_insert(0) += 1;
    }
    n_by_id
}

/// Sends the lines of a recording. After each request, waits for the answer, as the agent did. Returns all lines of the
/// server's output.
fn replay(lines: &[Value]) -> Vec<Value> {
    let place = Place::new();
    let mut session = Bare::start(&place, &[], "project");
    for line in lines {
        session.send(line);
        if is_request(line) && !stays_open(line) {
            session.answer(&line["id"]);
        }
    }
    let (status, _) = session.end();
    assert!(status.success(), "{status:?}");
    std::mem::take(&mut session.seen)
}

/// The input of validate.py: each line that the server wrote, with the protocol version and the method of the request
/// that the line answers.
fn to_check(lines: &[Value], seen: &[Value]) -> Vec<Value> {
    let is_modern = lines.iter().any(|line| line["params"]["_meta"].get(VERSION_KEY).is_some());
    let version = if is_modern { json!(MODERN) } else { lines[0]["params"]["protocolVersion"].clone() };
    let method = |id: &Value| lines.iter().find(|line| line.get("id") == Some(id)).map(|line| line["method"].clone());
    let row = |message: &Value| json!({ "version": version, "method": method(&message["id"]), "message": message });
    seen.iter().map(row).collect()
}

/// Checks lines against the MCP schemas. The error says what does not match.
fn check(python: &PathBuf, rows: &[Value]) -> Result<(), String> {
    let mut command = Command::new(python);
    command.arg(clients::here().join("validate.py")).arg(project().join("tests/data/mcp-schema"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    for row in rows {
        writeln!(input, "{row}").unwrap();
    }
    drop(input);
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let is_whole = said.trim_end().ends_with(&format!("checked {}", rows.len()));
    if out.status.success() && is_whole { Ok(()) } else { Err(said) }
}

#[test]
fn every_request_of_a_real_agent_gets_its_one_answer() {
    for (name, lines) in recordings() {
        let seen = replay(&lines);
        let n_by_id = answers(&seen);
        for line in lines.iter().filter(|line| is_request(line)) {
            let want = usize::from(!stays_open(line));
            assert_eq!(n_by_id.get(&line["id"].to_string()).copied().unwrap_or(0), want, "{name}: {line}\n{seen:#?}");
        }
        let n_answers: usize = n_by_id.values().sum();
        let n_acknowledged = lines.iter().filter(|line| stays_open(line)).count();
        assert_eq!(seen.len(), n_answers + n_acknowledged, "{name}: {seen:#?}");
    }
}

#[test]
fn a_real_agent_may_send_everything_at_once() {
    for (name, lines) in recordings() {
        let place = Place::new();
        let mut session = Bare::start(&place, &[], "project");
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        session.write(text.as_bytes());
        let is_cancelled =
            |id: &Value| lines.iter().any(|line| line["params"].get("requestId").is_some_and(|other| other == id));
        let is_owed = |line: &&Value| is_request(line) && !stays_open(line) && !is_cancelled(&line["id"]);
        for line in lines.iter().filter(is_owed) {
            if !session.seen.iter().any(|value| value.get("id") == line.get("id")) {
                session.answer(&line["id"]);
            }
        }
        // A cancelled call may have started a broker that is not ready yet. This call waits until that broker is ready.
        // Otherwise, the broker would keep running after the test.
        session.ask(&modern("last", "tools/call", json!({ "name": "mesh_status" })));
        session.end();
        for (id, n) in answers(&session.seen) {
            assert_eq!(n, 1, "{name}: {id}");
        }
    }
}

#[test]
fn what_real_agents_get_follows_the_schema() {
    let Some(python) = clients::python("what_real_agents_get_follows_the_schema", "schema") else { return };
    let rows: Vec<Value> = recordings().iter().flat_map(|(_, lines)| to_check(lines, &replay(lines))).collect();
    assert!(rows.len() > 30, "{} lines", rows.len());
    check(&python, &rows).unwrap_or_else(|said| panic!("{said}"));
}

/// Requests that make the server write every kind of line.
fn one_of_each(version: &str) -> Vec<Value> {
    let lists = vec![
        request(1, "tools/list", json!({})),
        call(2, "mesh_status", json!({})),
        call("three", "mesh_peers", json!({ "scope": "nowhere" })),
        call(4, "mesh_teleport", json!({})),
        request(5, "resources/list", json!({})),
        call(6, "mesh_send", json!({ "to": "human", "message": "\u{1f980}" })),
        call(7, "mesh_inbox", json!({ "filter": "sent" })),
        request(8, "tools/list", json!({ "cursor": "x" })),
    ];
    if version != MODERN {
        return [vec![initialize(version)], lists, vec![request(9, "ping", json!({}))]].concat();
    }
    let as_modern = |line: &Value| modern(line["id"].clone(), line["method"].as_str().unwrap(), line["params"].clone());
    let mut lines: Vec<Value> = lists.iter().map(as_modern).collect();
    lines.push(modern("d", "server/discover", json!({})));
    lines.push(modern("p", "ping", json!({})));
    let mut later = modern("later", "tools/list", json!({}));
    later["params"]["_meta"][VERSION_KEY] = json!("2027-01-01");
    lines.push(later);
    lines.push(modern("listen", "subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } })));
    lines.push(modern(10, "tools/list", json!({})));
    lines
}

#[test]
fn each_kind_of_line_follows_the_schema_of_its_version() {
    let Some(python) = clients::python("each_kind_of_line_follows_the_schema_of_its_version", "schema") else { return };
    for version in LEGACY.iter().chain(&[MODERN]) {
        let lines = one_of_each(version);
        let rows = to_check(&lines, &replay(&lines));
        assert_eq!(rows.len(), lines.len(), "{version}");
        check(&python, &rows).unwrap_or_else(|said| panic!("{said}"));
    }
}

#[test]
fn the_checker_finds_what_is_wrong() {
    let Some(python) = clients::python("the_checker_finds_what_is_wrong", "schema") else { return };
    let answer = |result: Value| json!({ "jsonrpc": "2.0", "id": 1, "result": result });
    let text = json!([{ "type": "text", "text": "x" }]);
    for (version, method, message) in [
        (MODERN, "tools/call", answer(json!({ "content": text }))),
        (MODERN, "tools/list", answer(json!({ "resultType": "complete", "tools": [] }))),
        ("2025-11-25", "tools/call", answer(json!({ "content": text, "resultType": "complete" }))),
        ("2025-11-25", "tools/call", answer(json!({ "content": "x" }))),
        ("2024-11-05", "initialize", answer(json!({ "protocolVersion": "2024-11-05", "capabilities": {} }))),
        (
            "2025-06-18",
            "tools/list",
            answer(json!({ "tools": [{ "name": "a", "inputSchema": { "type": "string" } }] })),
        ),
        ("2025-11-25", "ping", json!({ "jsonrpc": "2.0", "id": null, "result": {} })),
        ("2025-11-25", "ping", json!({ "jsonrpc": "2.0", "id": 1, "error": { "code": "x", "message": "y" } })),
    ] {
        let row = json!({ "version": version, "method": method, "message": message });
        assert!(check(&python, &[row]).is_err(), "{version} {method} {message}");
    }
}
