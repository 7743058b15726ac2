//! The eight MCP tools: their schemas and descriptions, arguments that they refuse, and the length of their answers.

mod stdio;
mod support;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use stdio::{Bare, LEGACY, MODERN, call, code, content, initialize, modern, request};
use support::Place;

/// The maximum length of a tool's answer, in bytes. Clients cut off longer answers.
const RESULT_MAX: usize = 24 * 1024;
/// The maximum length of descriptions and instructions. Clients cut off longer ones.
const WORDS_MAX: usize = 2048;

/// What a test expects of a tool: its name, its title, its required arguments, and a part of the schema of each
/// argument.
type Row = (&'static str, &'static str, &'static [&'static str], Value);

/// The tools that existing clients expect, including the arguments that were added later.
fn table() -> Vec<Row> {
    let text = json!({ "type": "string" });
    let whole = |min: i64, max: i64| json!({ "type": "integer", "minimum": min, "maximum": max });
    let choice = |words: &[&str]| json!({ "type": "string", "enum": words });
    let flag = json!({ "type": "boolean" });
    let some = json!({ "type": "string", "minLength": 1 });
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    let (cursor, wait) = (json!({ "type": "integer", "minimum": 0 }), whole(0, 3600));
    vec![
        (
            "mesh_peers",
            "List Mesh Peers",
            &[],
            json!({ "scope": choice(&["machine", "directory", "repo"]), "includeAway": flag, "detail": some }),
        ),
        (
            "mesh_summary",
            "Set Work Summary",
            &["summary"],
            json!({ "summary": { "type": "string", "minLength": 1, "maxLength": 2500 } }),
        ),
        (
            "mesh_send",
            "Send Message",
            &["to", "message"],
            json!({
            "to": some, "message": { "type": "string", "minLength": 1, "maxLength": 65536 },
            "type": choice(&["text", "json", "command", "alert"]),
            "replyTo": some, "key": some, "expiresMinutes": { "type": "integer", "minimum": 1 } }),
        ),
        (
            "mesh_inbox",
            "Check Inbox",
            &[],
            json!({
            "action": choice(&["read", "decline", "join", "leave", "channels"]), "channel": text,
            "filter": choice(&["unread", "all", "sent"]), "from": text, "limit": whole(1, 100),
            "after": cursor, "search": json!({ "type": "string" }), "before": cursor, "waitSeconds": wait, "ack": texts }),
        ),
        (
            "mesh_state",
            "Shared State",
            &["action"],
            json!({
            "action": choice(&["get", "set", "list", "delete"]), "key": text, "value": text, "namespace": text,
            "expect": cursor, "prefix": text, "from": cursor, "ttlMinutes": { "type": "integer", "minimum": 1 } }),
        ),
        (
            "mesh_lock",
            "File Lock",
            &["action"],
            json!({
            "action": choice(&["lock", "unlock", "query"]), "filePath": text, "filePaths": texts, "reason": text,
            "ttlMinutes": whole(1, 60), "waitSeconds": wait, "scope": choice(&["machine", "repo"]) }),
        ),
        (
            "mesh_events",
            "Mesh Events",
            &[],
            json!({
            "action": choice(&["read", "emit", "subscribe", "unsubscribe"]), "types": texts, "since": text,
            "limit": whole(1, 200), "after": cursor, "waitSeconds": wait,
            "type": text, "payload": { "type": "object" } }),
        ),
        ("mesh_status", "Mesh Status", &[], json!({})),
    ]
}

/// Whether a JSON schema contains all that `want` contains.
fn says(schema: &Value, want: &Value) -> bool {
    match want {
        Value::Object(map) => map.iter().all(|(key, value)| says(&schema[key], value)),
        Value::Array(list) => schema.as_array().is_some_and(|given| {
            let words = |list: &[Value]| list.iter().map(Value::to_string).collect::<BTreeSet<_>>();
            words(given) == words(list)
        }),
        other => schema == other,
    }
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_tools_take_the_arguments_that_clients_know() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    let answer = session.ask(&request(1, "tools/list", json!({})));
    assert_eq!(keys(&answer["result"]), BTreeSet::from(["tools"]));
    let tools = answer["result"]["tools"].as_array().unwrap();
    assert_eq!(tools.len(), table().len());
    for (tool, (name, title, required, arguments)) in tools.iter().zip(table()) {
        assert_eq!((&tool["name"], &tool["title"]), (&json!(name), &json!(title)));
        let schema = &tool["inputSchema"];
        assert_eq!((&schema["type"], &schema["additionalProperties"]), (&json!("object"), &json!(false)), "{name}");
        let n_required = schema.get("required").map_or(0, |list| list.as_array().unwrap().len());
        assert_eq!(n_required, required.len(), "{name}");
        assert!(required.is_empty() || says(&schema["required"], &json!(required)), "{name}: {schema}");
        assert_eq!(keys(&schema["properties"]), keys(&arguments), "{name}");
        for (argument, want) in arguments.as_object().unwrap() {
            let given = &schema["properties"][argument];
            assert!(says(given, want), "{name} {argument}: {given}");
            assert!(given["description"].as_str().is_some_and(|text| !text.is_empty()), "{name} {argument}");
        }
        // Some clients skip a tool whose schema has anyOf or oneOf at its root.
        assert!(["anyOf", "oneOf", "allOf", "$ref"].iter().all(|word| schema.get(word).is_none()), "{name}");
    }
}

#[test]
fn the_tools_describe_themselves() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    let hello = session.seen[0].clone();
    let instructions = hello["result"]["instructions"].as_str().unwrap();
    assert!(instructions.len() < WORDS_MAX && instructions.contains("mesh_inbox"));
    assert_eq!(hello["result"]["serverInfo"]["name"], json!("slm-mesh"));
    let answer = session.ask(&request(1, "tools/list", json!({})));
    for tool in answer["result"]["tools"].as_array().unwrap() {
        let (name, about) = (tool["name"].as_str().unwrap(), tool["description"].as_str().unwrap());
        assert!((20..WORDS_MAX).contains(&about.len()), "{name}: {} bytes", about.len());
        let hints = &tool["annotations"];
        let is_asking = ["mesh_peers", "mesh_status"].contains(&name);
        assert_eq!(hints["readOnlyHint"], json!(is_asking), "{name}");
        assert_eq!(hints["destructiveHint"], json!(name == "mesh_state"), "{name}");
        assert!(hints["idempotentHint"].is_boolean(), "{name}");
        assert_eq!(hints["openWorldHint"], json!(false), "{name}");
        assert_eq!(tool["_meta"], json!({ "anthropic/alwaysLoad": true }), "{name}");
    }
}

#[test]
fn the_tools_are_the_same_in_each_protocol_version() {
    let place = Place::new();
    let newest = |version: &str| {
        let mut session = Bare::start(&place, &[], "p");
        if version == MODERN {
            return session.ask(&modern(1, "tools/list", json!({})))["result"]["tools"].clone();
        }
        session.ask(&initialize(version));
        session.ask(&request(1, "tools/list", json!({})))["result"]["tools"].clone()
    };
    let want = newest(MODERN);
    assert_eq!(newest(MODERN), want, "the list is not stable");
    for version in LEGACY {
        let found = newest(version);
        for (found, want) in found.as_array().unwrap().iter().zip(want.as_array().unwrap()) {
            let mut want = want.clone();
            let unknown: &[&str] = match *version {
                "2024-11-05" => &["title", "annotations", "_meta"],
                "2025-03-26" => &["title", "_meta"],
                _ => &[],
            };
            for key in unknown {
                want.as_object_mut().unwrap().remove(*key);
            }
            assert_eq!(*found, want, "{version}");
        }
        assert_eq!(found.as_array().unwrap().len(), 8, "{version}");
    }
}

#[test]
fn a_wrong_argument_is_named_in_the_result() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    let table = [
        ("mesh_peers", json!({ "scope": "galaxy" }), "scope"),
        ("mesh_peers", json!({ "scope": "machine", "includeAway": "yes" }), "includeAway"),
        ("mesh_peers", json!({ "scope": "machine", "project": "/" }), "project"),
        ("mesh_summary", json!({ "summary": "" }), "summary"),
        ("mesh_summary", json!({ "summary": "x".repeat(2501) }), "summary"),
        ("mesh_send", json!({ "to": "all" }), "message"),
        ("mesh_send", json!({ "to": ["all"], "message": "x" }), "to"),
        ("mesh_send", json!({ "to": "all", "message": "x".repeat(65_537) }), "message"),
        ("mesh_send", json!({ "to": "all", "message": "{", "type": "json" }), "JSON"),
        ("mesh_send", json!({ "to": "nobody-at-all", "message": "x" }), "nobody-at-all"),
        ("mesh_inbox", json!({ "limit": 0 }), "limit"),
        ("mesh_inbox", json!({ "limit": 101 }), "limit"),
        ("mesh_inbox", json!({ "limit": 1.5 }), "limit"),
        ("mesh_inbox", json!({ "waitSeconds": 3601 }), "waitSeconds"),
        ("mesh_inbox", json!({ "ack": "one, two" }), "ack"),
        ("mesh_state", json!({ "key": "k" }), "action"),
        ("mesh_state", json!({ "action": "get" }), "key"),
        ("mesh_state", json!({ "action": "set", "key": "k" }), "value"),
        ("mesh_state", json!({ "action": "set", "key": "k", "value": 7 }), "value"),
        ("mesh_state", json!({ "action": "get", "key": "k", "value": "v" }), "value"),
        ("mesh_lock", json!({ "action": "steal" }), "action"),
        ("mesh_lock", json!({ "action": "lock" }), "filePath"),
        ("mesh_lock", json!({ "action": "lock", "filePath": "a", "ttlMinutes": 61 }), "ttlMinutes"),
        ("mesh_lock", json!({ "action": "lock", "filePath": "a", "steal": true }), "steal"),
        ("mesh_events", json!({ "limit": 201 }), "limit"),
        ("mesh_events", json!({ "action": "emit", "type": "nodot" }), "type"),
        ("mesh_events", json!({ "since": "yesterday" }), "since"),
        ("mesh_status", json!({ "verbose": true }), "verbose"),
    ];
    for (n, (name, arguments, word)) in table.into_iter().enumerate() {
        let shown: String = arguments.to_string().chars().take(80).collect();
        let (value, is_error) = session.call(n as i64, name, arguments);
        assert!(is_error && value["ok"] == json!(false), "{name} {shown}: {value}");
        assert!(value["error"].as_str().is_some_and(|text| text.contains(word)), "{name} {shown}: {value}");
    }
    assert_eq!(code(&session.ask(&call(99, "mesh_teleport", json!({})))), -32602);
}

/// Calls a tool and returns its JSON. Asserts that the answer is not too long for clients.
fn short(session: &mut Bare, id: i64, name: &str, arguments: Value) -> Value {
    let answer = session.ask(&call(id, name, arguments));
    let text = answer["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.len() <= RESULT_MAX, "{name}: {} bytes", text.len());
    let (value, is_error) = content(&answer);
    assert!(!is_error, "{name}: {value}");
    value
}

#[test]
fn a_long_message_comes_in_parts() {
    let place = Place::new();
    let mut sender = Bare::legacy(&place, "2025-11-25", "q");
    let mut reader = Bare::legacy(&place, "2025-11-25", "p");
    let name = reader.name();
    // JSON requires an escape for some of these characters. Some are escaped because they are invisible. Others have
    // several bytes, and must not be cut in half.
    for unit in ["x", "\"", "\\", "\u{1}", "\u{7f}", "\u{202e}", "\u{e0041}", "\u{e4}", "\u{1f980}", "a\u{1f980}"] {
        let text = unit.repeat(65_536 / unit.len());
        let sent = short(&mut sender, 1, "mesh_send", json!({ "to": name, "message": text }));
        let (mut parts, mut n_calls) = (Vec::<(i64, String)>::new(), 0);
        loop {
            n_calls += 1;
            assert!(n_calls < 64, "{unit:?} does not end: {} parts", parts.len());
            let value = short(&mut reader, n_calls, "mesh_inbox", json!({}));
            let row = &value["messages"][0];
            assert_eq!(row["id"], sent["messageId"], "{unit:?}");
            let part = row["part"].as_i64().unwrap();
            // The server sends a part again if the next call arrives before the server has reported this part as shown.
            if parts.last().is_none_or(|(last, _)| *last != part) {
                parts.push((part, row["payload"].as_str().unwrap().to_owned()));
            }
            if row["part"] == row["parts"] {
                break;
            }
            assert_ne!(value["remaining"], json!(0), "{unit:?}: {}", row["part"]);
        }
        let whole: String = parts.iter().map(|(_, payload)| payload.as_str()).collect();
        assert!(whole == text, "{unit:?}: {} bytes of {} in {} parts", whole.len(), text.len(), parts.len());
        let rest = loop_until_empty(&mut reader);
        assert!(rest.is_empty(), "{unit:?}: {rest:?}");
    }
}

/// Reads the inbox until it is empty. Returns each message once, in the order in which the messages first arrived.
fn loop_until_empty(reader: &mut Bare) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for n in 0..200 {
        let value = short(reader, n, "mesh_inbox", json!({ "limit": 100 }));
        let rows = value["messages"].as_array().unwrap();
        for row in rows {
            let id = row["id"].as_str().unwrap().to_owned();
            if !found.iter().any(|(known, _)| *known == id) {
                found.push((id, row["payload"].as_str().unwrap().to_owned()));
            }
        }
        if rows.is_empty() {
            assert_eq!(value["remaining"], json!(0));
            return found.into_iter().filter(|(_, payload)| !payload.is_empty()).collect();
        }
    }
    panic!("the mailbox is never empty");
}

#[test]
fn many_messages_come_in_pages() {
    let place = Place::new().with("SLM_MESH_RATE", "1000");
    let mut sender = Bare::legacy(&place, "2025-11-25", "q");
    let mut reader = Bare::legacy(&place, "2025-11-25", "p");
    let name = reader.name();
    let text = |n: i64| format!("{n}: {}", ["\"long\" \u{1f980} ", "\u{ad}\u{7f}"][n as usize % 2].repeat(150));
    for n in 0..100 {
        short(&mut sender, n, "mesh_send", json!({ "to": name, "message": text(n) }));
    }
    let mail = short(&mut reader, 1, "mesh_status", json!({}))["mail"].clone();
    assert_eq!(mail["unread"], json!(100), "{mail}");
    let found = loop_until_empty(&mut reader);
    let want: Vec<String> = (0..100).map(text).collect();
    let numbers: Vec<&str> = found.iter().map(|(_, payload)| payload.split(':').next().unwrap()).collect();
    assert!(found.iter().map(|(_, payload)| payload).eq(&want), "{numbers:?}");
    // The history is divided into pages, too. The first page has the latest messages, and its cursor leads to earlier
    // ones.
    let latest = short(&mut reader, 2, "mesh_inbox", json!({ "limit": 100, "filter": "all" }));
    let n_rows = latest["messages"].as_array().unwrap().len();
    assert!((1..100).contains(&n_rows) && latest["more"] == json!(true), "{n_rows}");
    let (mut after, mut n_read) = (0, 0);
    while n_read < 100 {
        let page = json!({ "limit": 100, "filter": "all", "after": after });
        let page = short(&mut reader, 3, "mesh_inbox", page);
        let rows = page["messages"].as_array().unwrap();
        assert!(!rows.is_empty(), "the history ends after {n_read}");
        (after, n_read) = (page["next"].as_i64().unwrap(), n_read + rows.len());
    }
    assert_eq!(n_read, 100);
}

#[test]
fn a_long_list_of_events_stays_short() {
    let place = Place::new().with("SLM_MESH_RATE", "1000");
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    for n in 0..20 {
        let text = ["\"", "\u{7f}"][n as usize % 2].repeat(2_000);
        let payload = json!({ "n": n, "text": text });
        short(&mut session, n, "mesh_events", json!({ "action": "emit", "type": "long.one", "payload": payload }));
    }
    let latest = short(&mut session, 100, "mesh_events", json!({ "limit": 200 }));
    assert_eq!(latest["more"], json!(true), "{}", latest["seq"]);
    let (mut after, mut found) = (0, Vec::new());
    while found.len() < 20 {
        let page = json!({ "after": after, "types": ["long.one"], "limit": 200 });
        let page = short(&mut session, 101, "mesh_events", page);
        let rows = page["events"].as_array().unwrap();
        assert!(!rows.is_empty(), "the stream ends after {found:?}");
        found.extend(rows.iter().map(|row| row["payload"]["n"].as_i64().unwrap()));
        after = page["seq"].as_i64().unwrap();
    }
    assert_eq!(found, (0..20).collect::<Vec<i64>>());
    // This event is too long for a tool result. The result must still contain the event's type, and say how to see the
    // payload.
    let payload = json!({ "text": "\u{1}".repeat(8_000) });
    let sent = json!({ "action": "emit", "type": "too.long", "payload": payload.clone() });
    assert!(short(&mut session, 102, "mesh_events", sent)["seq"].is_number());
    let page = short(&mut session, 103, "mesh_events", json!({ "after": after }));
    assert_eq!(page["events"][0]["type"], json!("too.long"), "{page}");
    let after = page["events"][0]["seq"].as_i64().unwrap() - 1;
    let shown = format!("slm-mesh events --after {after} --limit 1 --json");
    assert!(page["events"][0]["payload"]["note"].as_str().unwrap().ends_with(&shown), "{page}");
    let whole = place.json(&["events", "--after", &after.to_string(), "--limit", "1"]);
    assert!(whole["events"][0]["payload"] == payload, "the verb shows {} bytes", whole.to_string().len());
}

#[test]
fn a_client_that_subscribes_to_events_learns_how_to_get_them() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    let (answer, is_error) = session.call(1, "mesh_events", json!({ "action": "subscribe", "types": ["x.y"] }));
    let note = answer["note"].as_str().unwrap_or("");
    assert!(!is_error && ["`seq`", "`after`", "waitSeconds"].iter().all(|word| note.contains(word)), "{answer}");
    place.ok(&["events", "emit", "x.y", "{\"n\":1}"]);
    let advised = json!({ "types": ["x.y"], "after": answer["seq"], "waitSeconds": 20 });
    assert_eq!(session.call(2, "mesh_events", advised).0["events"][0]["payload"], json!({ "n": 1 }));
}

#[test]
fn a_long_list_of_entries_stays_short() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    for n in 0..40 {
        let key = format!("{n:03}{}", "k".repeat(500));
        let value = ["\"", "\u{7f}"][n as usize % 2].repeat(2_000);
        short(&mut session, n, "mesh_state", json!({ "action": "set", "key": key, "value": value }));
    }
    let list = short(&mut session, 100, "mesh_state", json!({ "action": "list" }));
    let rows = list["entries"].as_array().unwrap();
    assert!((1..40).contains(&rows.len()) && list["next"] == rows[rows.len() - 1]["key"], "{}", list["next"]);
    let narrow = short(&mut session, 101, "mesh_state", json!({ "action": "list", "prefix": "039" }));
    assert_eq!(narrow["entries"].as_array().unwrap().len(), 1);
}

#[test]
fn a_long_value_stays_short() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    for (n, unit) in ["x", "\"", "\u{1}", "\u{7f}", "\u{202e}", "a\u{1f980}"].into_iter().enumerate() {
        let value = unit.repeat(65_536 / unit.len());
        let set = json!({ "action": "set", "key": "long", "value": value });
        let version = json!(n + 1);
        assert_eq!(short(&mut session, 1, "mesh_state", set)["version"], version);
        let (mut from, mut whole, mut n_calls) = (json!(0), String::new(), 0);
        while !from.is_null() {
            n_calls += 1;
            assert!(n_calls < 64, "{unit:?} does not end: {from}");
            let get = json!({ "action": "get", "key": "long", "from": from });
            let got = short(&mut session, 2, "mesh_state", get);
            assert_eq!(got["entry"]["version"], version);
            whole += got["entry"]["value"].as_str().unwrap();
            from = got["next"].clone();
        }
        assert!(n_calls > 1 && whole == value, "{unit:?}: {} bytes in {n_calls} parts", whole.len());
        short(&mut session, 3, "mesh_state", json!({ "action": "list" }));
    }
}

#[test]
fn a_long_list_of_locks_stays_short() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    let paths: Vec<String> = (0..64).map(|n| format!("/{n}/{}", "p".repeat(4_000))).collect();
    let all = |action: &str| json!({ "action": action, "filePaths": paths });
    assert!(short(&mut session, 1, "mesh_lock", all("lock"))["token"].is_number());
    let query = short(&mut session, 2, "mesh_lock", json!({ "action": "query" }));
    assert_eq!(query["locks"].as_array().unwrap().len() as u64 + query["remaining"].as_u64().unwrap(), 64);
    short(&mut session, 3, "mesh_peers", json!({ "scope": "machine", "includeAway": true }));
    let mut other = Bare::legacy(&place, "2025-11-25", "q");
    // The peer holds locks on many long paths. The list of peers must still contain this peer.
    let seen = short(&mut other, 1, "mesh_peers", json!({ "scope": "machine" }));
    assert_eq!(seen["peers"].as_array().map(Vec::len), Some(1), "{seen}");
    let refused = other.ask(&call(2, "mesh_lock", all("lock")));
    let text = refused["result"]["content"][0]["text"].as_str().unwrap();
    assert!(refused["result"]["isError"] == json!(true) && text.len() <= RESULT_MAX, "{} bytes", text.len());
    short(&mut session, 4, "mesh_lock", all("unlock"));
}
