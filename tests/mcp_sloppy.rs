//! Tests MCP clients that do not follow the protocol exactly. The server accepts input that has only one possible
//! meaning, and answers all other input with an error that contains the id of the call.

mod stdio;
mod support;

use serde_json::{Value, json};
use stdio::{Bare, call, code, content, initialize, request};
use support::Place;

/// Writes these bytes as one line, and reads the answer.
fn say(session: &mut Bare, line: &[u8]) -> Value {
    session.write(&[line, b"\n"].concat());
    session.read().unwrap()
}

#[test]
fn arguments_that_mean_one_thing_are_taken() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    let table = [
        ("mesh_inbox", json!({ "limit": "5" })),
        ("mesh_inbox", json!({ "limit": " 5 ", "waitSeconds": "0" })),
        ("mesh_inbox", json!({ "limit": 5.0 })),
        ("mesh_inbox", json!({ "limit": "5.0", "ack": "[]", "from": null })),
        ("mesh_peers", json!({ "scope": "machine", "includeAway": "True" })),
        ("mesh_peers", json!({ "scope": "machine", "includeAway": "false" })),
        ("mesh_events", json!({ "types": "[\"file_locked\", \"file_unlocked\"]" })),
        ("mesh_events", json!({ "types": "file_locked" })),
        ("mesh_lock", json!({ "action": "lock", "filePaths": "[\"a.rs\",\"b, c.rs\"]", "ttlMinutes": "7" })),
        ("mesh_lock", json!({ "action": "lock", "filePaths": "[id].tsx" })),
        ("mesh_status", json!(null)),
        ("mesh_status", json!("{}")),
        ("mesh_status", json!("")),
        ("mesh_status", json!([])),
        ("mesh_inbox", json!("{\"limit\": \"3\"}")),
    ];
    for (n, (name, arguments)) in table.into_iter().enumerate() {
        let (value, is_error) = session.call(n as i64, name, arguments.clone());
        assert!(!is_error, "{name} {arguments}: {value}");
    }
    let locks = place.json(&["lock", "list"])["locks"].clone();
    let mut paths: Vec<&str> = locks
        .as_array()
        .unwrap()
        .iter()
        .map(|lock| lock["filePath"].as_str().unwrap().rsplit('/').next().unwrap())
        .collect();
    paths.sort_unstable();
    assert_eq!(paths, ["[id].tsx", "a.rs", "b, c.rs"], "{locks}");
}

#[test]
fn a_last_line_without_an_end_is_answered() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    session.write(call(7, "mesh_status", json!({})).to_string().as_bytes());
    assert!(session.end().0.success());
    assert!(!content(session.seen.iter().find(|line| line["id"] == json!(7)).expect("an answer")).1);
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    session.write(b"{\"jsonrpc\":\"2.0\",\"id\":8,\"meth");
    assert!(session.end().0.success());
    assert_eq!(session.seen.last().map(code), Some(-32700), "what was cut off is reported");
}

#[test]
fn arguments_that_might_mean_several_things_are_refused_by_name() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    let table = [
        ("mesh_inbox", json!({ "limit": "five" }), "limit"),
        ("mesh_inbox", json!({ "limit": "" }), "limit"),
        ("mesh_inbox", json!({ "limit": "5 6" }), "limit"),
        ("mesh_inbox", json!({ "limit": "0x5" }), "limit"),
        ("mesh_inbox", json!({ "limit": "1e400" }), "limit"),
        ("mesh_inbox", json!({ "limit": "5.5" }), "limit"),
        ("mesh_inbox", json!({ "limit": "-1" }), "limit"),
        ("mesh_inbox", json!({ "limit": [5] }), "limit"),
        ("mesh_peers", json!({ "scope": "machine", "includeAway": "yes" }), "includeAway"),
        ("mesh_peers", json!({ "scope": "machine", "includeAway": "" }), "includeAway"),
        ("mesh_lock", json!({ "action": "lock", "filePaths": "a.rs, b.rs" }), "filePaths"),
        ("mesh_lock", json!({ "action": "lock", "filePaths": "[1]" }), "filePaths"),
        ("mesh_lock", json!({ "action": "lock", "filePaths": "" }), "filePaths"),
        ("mesh_lock", json!({ "action": "lock", "filePath": ["a.rs"] }), "filePath"),
        ("mesh_state", json!({ "action": "set", "key": "k", "value": 7 }), "value"),
        ("mesh_inbox", json!("{\"limit\": \"x\"}"), "limit"),
    ];
    for (n, (name, arguments, word)) in table.into_iter().enumerate() {
        let (value, is_error) = session.call(n as i64, name, arguments.clone());
        let text = value["error"].as_str().unwrap_or_default();
        assert!(is_error && text.starts_with(word), "{name} {arguments}: {value}");
    }
    for (n, arguments) in [json!("text"), json!("[1]"), json!(7), json!([{}]), json!(true)].into_iter().enumerate() {
        let answer = session.ask(&call(100 + n as i64, "mesh_status", arguments.clone()));
        assert_eq!(code(&answer), -32602, "{arguments}: {answer}");
    }
}

#[test]
fn what_is_no_json_is_answered_under_its_id() {
    let place = Place::new();
    let mut session = Bare::start(&place, &[], "p");
    let hello = [b"\xef\xbb\xbf".as_slice(), initialize("2025-11-25").to_string().as_bytes()].concat();
    assert_eq!(say(&mut session, &hello)["id"], json!("hello"), "a byte order mark comes before the first line");
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":"deep","method":"ping","params":{{"a":{}{}}}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    let long = format!(r#"{{"jsonrpc":"2.0","id":"long","method":"ping","params":{{"a":"{}"}}}}"#, "x".repeat(2 << 20));
    let table: &[(&[u8], Value)] = &[
        (br#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":NaN}}"#, json!(1)),
        (br#"{"jsonrpc":"2.0","method":"ping","params":{"id":"inner","a":[{"id":3},],},"id":"outer"}"#, json!("outer")),
        (b"{\"jsonrpc\":\"2.0\",\"id\":-2,\"method\":\"ping\",\"params\":{\"a\":\"\x01\"}}", json!(-2)),
        (b"{\"jsonrpc\":\"2.0\",\"id\":4,\"method\":\"ping\",\"params\":{\"a\":\"\xff\xfe\"}}", json!(4)),
        (br#"{"jsonrpc":"2.0","id":5,"method":"ping"}}"#, json!(5)),
        (br#"{"jsonrpc":"2.0","id":6,"method":"ping","params":{"a":"cut off"#, json!(6)),
        (br#"{"jsonrpc":"2.0","id":7,"method":"ping"} {"jsonrpc":"2.0"}"#, json!(7)),
        (deep.as_bytes(), json!("deep")),
        (long.as_bytes(), json!("long")),
    ];
    for (line, id) in table {
        let said = String::from_utf8_lossy(&line[..line.len().min(100)]).into_owned();
        let answer = say(&mut session, line);
        assert_eq!((answer.get("id"), answer["error"].is_object()), (Some(id), true), "{said}: {answer}");
    }
    let whole = say(&mut session, br#"{"jsonrpc":"2.0","id":8.0,"method":"ping"}"#);
    assert_eq!((&whole["id"], &whole["result"]), (&json!(8), &json!({})));
}

#[test]
fn half_an_emoji_arrives_as_a_replacement_character() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    let value = r"a \ud83d b \ud83d\ude00 \\ud83d c \ude00";
    let set = call("half", "mesh_state", json!({ "action": "set", "key": "k", "value": "VALUE" }));
    let answer = say(&mut session, set.to_string().replace("VALUE", value).as_bytes());
    assert_eq!(answer["id"], json!("half"));
    assert!(!content(&answer).1, "{answer}");
    let (entry, _) = session.call(2, "mesh_state", json!({ "action": "get", "key": "k" }));
    assert_eq!(entry["entry"]["value"], json!("a \u{fffd} b \u{1f600} \\ud83d c \u{fffd}"), "{entry}");
}

/// Does the handshake of a client that can report its roots (the folders in which it works).
fn initialize_with_roots(session: &mut Bare) {
    let mut hello = initialize("2025-11-25");
    hello["params"]["capabilities"] = json!({ "roots": { "listChanged": true } });
    session.ask(&hello);
    session.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
}

/// Reads the server's request `roots/list`, and answers it with these roots.
fn name_roots(session: &mut Bare, roots: &[String]) {
    let question = session.read().unwrap();
    assert_eq!(question["method"], json!("roots/list"), "{question}");
    let roots: Vec<Value> = roots.iter().map(|uri| json!({ "uri": uri })).collect();
    session.send(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": { "roots": roots } }));
}

#[test]
fn a_relative_path_in_the_home_folder_wants_a_root() {
    let place = Place::new();
    std::fs::create_dir_all(place.root.join("my proj/src")).unwrap();
    let lock = |id: &str, path: &str| call(id, "mesh_lock", json!({ "action": "lock", "filePath": path }));
    let mut plain = Bare::legacy(&place, "2025-11-25", "home");
    let (value, is_error) = content(&plain.ask(&lock("refused", "src/a.rs")));
    let text = value["error"].as_str().unwrap_or_default();
    assert!(
        is_error && text.contains("src/a.rs") && text.contains("home folder") && text.contains("absolute path"),
        "{value}"
    );
    for (n, path) in ["~/my proj/x.rs", &format!("file://{}/my%20proj/y.rs", place.root.display())].iter().enumerate() {
        let (value, is_error) = content(&plain.ask(&lock(&n.to_string(), path)));
        assert!(!is_error, "{path}: {value}");
    }
    let mut session = Bare::start(&place, &[], "home");
    initialize_with_roots(&mut session);
    let root = format!("file://{}/my%20proj", place.root.display());
    name_roots(&mut session, std::slice::from_ref(&root));
    let (value, is_error) = content(&session.ask(&lock("root", "src/a.rs")));
    assert!(!is_error, "{value}");
    let want = place.root.join("my proj/src/a.rs").canonicalize().unwrap_or(place.root.join("my proj/src/a.rs"));
    let locks = place.json(&["lock", "list"])["locks"].to_string();
    assert!(locks.contains(want.to_str().unwrap()) && locks.contains("y.rs") && locks.contains("x.rs"), "{locks}");
    // If the client has two roots, a relative path may belong to either of them, so the call fails.
    session.send(&json!({ "jsonrpc": "2.0", "method": "notifications/roots/list_changed" }));
    name_roots(&mut session, &[root, "file:///elsewhere".into()]);
    assert!(content(&session.ask(&lock("two", "src/b.rs"))).1);
}

#[test]
fn a_session_in_a_project_does_not_ask_for_roots() {
    let place = Place::new();
    let mut session = Bare::start(&place, &[], "p");
    initialize_with_roots(&mut session);
    let n = session.seen.len();
    session.ask(&request("end", "ping", json!({})));
    assert_eq!(session.seen.len(), n + 1, "{:?}", session.seen.last());
}
