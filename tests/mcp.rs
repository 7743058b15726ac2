//! The MCP protocol: its versions, malformed lines, cancellation, batches, and the time at which a session becomes a
//! peer. `mcp_tools.rs` tests the tools themselves.

mod stdio;
mod support;

use serde_json::{Value, json};
use std::time::Duration;
use stdio::{Bare, LEGACY, MODERN, call, cancel, code, content, initialize, modern, request, until_waiting};
use support::{Place, until};

/// The time within which the server must exit. Clients kill a server that takes longer.
const GOES_WITHIN: Duration = Duration::from_secs(2);

/// Sends a ping and reads until its answer. Returns the lines that came before the answer.
fn settle(session: &mut Bare) -> Vec<Value> {
    let n = session.seen.len();
    session.ask(&request("settle", "ping", json!({})));
    session.seen[n..session.seen.len() - 1].to_vec()
}

/// Whether all threads of a process are asleep. Only Linux shows this; on other systems, the result is true.
fn sleeps(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    stats.into_iter().all(|stat| stat.contains(") S "))
}

#[test]
fn both_kinds_of_version_share_one_process() {
    let place = Place::new();
    let mut session = Bare::start(&place, &[], "p");
    let is_modern = |answer: &Value| answer["result"]["resultType"] == json!("complete");
    assert!(is_modern(&session.ask(&modern(1, "tools/list", json!({})))));
    let early = session.ask(&request(2, "tools/list", json!({})));
    assert_eq!(code(&early), -32602, "{early}");
    assert!(early["error"]["message"].as_str().unwrap().contains("io.modelcontextprotocol/protocolVersion"), "{early}");
    assert_eq!(session.ask(&request(3, "ping", json!({})))["result"], json!({}));
    let hello = session.ask(&initialize("2025-06-18"));
    assert_eq!(hello["result"]["protocolVersion"], json!("2025-06-18"));
    assert_eq!(hello["result"]["capabilities"], json!({ "tools": {} }));
    for n in 0..3 {
        let old = session.ask(&call(10 + n, "mesh_status", json!({})));
        assert!(!is_modern(&old) && old["result"].get("_meta").is_none(), "{old}");
        let new = session.ask(&modern(20 + n, "tools/call", json!({ "name": "mesh_status" })));
        assert!(is_modern(&new), "{new}");
        assert_eq!(new["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], json!("slm-mesh"));
    }
    let discovered = session.ask(&modern("d", "server/discover", json!({})));
    assert_eq!(discovered["result"]["supportedVersions"], json!([MODERN]));
    assert_eq!(discovered["result"]["capabilities"], json!({ "tools": {} }));
    // The protocol version without a handshake has neither `ping` nor `initialize`.
    assert_eq!(code(&session.ask(&modern("p", "ping", json!({})))), -32601);
    let hello = modern("i", "initialize", initialize("2025-11-25")["params"].clone());
    assert_eq!(code(&session.ask(&hello)), -32601);
}

#[test]
fn a_modern_request_states_its_version_and_capabilities() {
    let place = Place::new();
    let mut session = Bare::start(&place, &[], "p");
    let mut later = modern(1, "tools/list", json!({}));
    later["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2027-01-01");
    let answer = session.ask(&later);
    assert_eq!(code(&answer), -32022);
    assert_eq!(answer["error"]["data"], json!({ "supported": [MODERN], "requested": "2027-01-01" }));
    let mut silent = modern(2, "tools/list", json!({}));
    silent["params"]["_meta"].as_object_mut().unwrap().remove("io.modelcontextprotocol/clientCapabilities");
    assert_eq!(code(&session.ask(&silent)), -32602);
    let bare_discover = session.ask(&request(3, "server/discover", json!({})));
    assert_eq!(code(&bare_discover), -32602);
}

#[test]
fn a_legacy_client_gets_the_version_it_wants_or_the_newest_legacy_one() {
    let place = Place::new();
    for asked in LEGACY.iter().chain(&[MODERN, "1999-01-01"]) {
        let mut session = Bare::start(&place, &[], "p");
        let want = if LEGACY.contains(asked) { asked } else { "2025-11-25" };
        let hello = session.ask(&initialize(asked));
        assert_eq!(hello["result"]["protocolVersion"], json!(want));
        // The client has not sent notifications/initialized yet, but the server must already answer.
        assert_eq!(session.ask(&request(1, "tools/list", json!({})))["result"]["tools"].as_array().unwrap().len(), 8);
    }
}

#[test]
fn legacy_turns_the_modern_version_off() {
    let place = Place::new();
    let mut session = Bare::start(&place, &["mcp", "--legacy"], "p");
    assert_eq!(code(&session.ask(&modern(1, "server/discover", json!({})))), -32601);
    assert_eq!(code(&session.ask(&request(2, "server/discover", json!({})))), -32601);
    assert_eq!(code(&session.ask(&modern(3, "tools/list", json!({})))), -32601);
    assert_eq!(session.ask(&initialize("2025-11-25"))["result"]["protocolVersion"], json!("2025-11-25"));
    assert!(!session.call(4, "mesh_status", json!({})).1);
}

#[test]
fn only_one_revision_has_batches() {
    let place = Place::new();
    for version in LEGACY.iter().filter(|version| **version != "2025-03-26") {
        let mut session = Bare::legacy(&place, version, "p");
        session.send(&json!([request(1, "ping", json!({})), request(2, "ping", json!({}))]));
        let answer = session.read().unwrap();
        assert_eq!((code(&answer), answer.get("id")), (-32600, None), "{version}: {answer}");
        assert!(settle(&mut session).is_empty(), "{version}");
    }
    let mut session = Bare::start(&place, &[], "p");
    session.send(&json!([modern(1, "tools/list", json!({}))]));
    assert_eq!(code(&session.read().unwrap()), -32600);
}

#[test]
fn a_batch_gets_one_line_with_all_its_answers() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-03-26", "p");
    session.send(&json!([]));
    assert_eq!(code(&session.read().unwrap()), -32600);
    session.send(&json!([{ "jsonrpc": "2.0", "method": "notifications/initialized" }]));
    assert!(settle(&mut session).is_empty());
    session.send(&json!([
        call("slow", "mesh_status", json!({})),
        { "jsonrpc": "2.0", "method": "notifications/initialized" },
        request(1, "ping", json!({})),
        7,
        call(2, "mesh_teleport", json!({})),
        { "jsonrpc": "2.0", "id": 3 },
    ]));
    let answer = session.answer(&json!("slow"));
    let batch = answer.as_array().unwrap();
    let mut found: Vec<(String, i64)> = batch.iter().map(|one| (one["id"].to_string(), code(one))).collect();
    found.sort();
    let want = [("\"slow\"", 0), ("1", 0), ("2", -32602), ("3", -32600), ("null", -32600)];
    let want: Vec<(String, i64)> = want.iter().map(|(id, code)| ((*id).to_owned(), *code)).collect();
    assert_eq!(found, want, "{answer}");
    assert!(settle(&mut session).is_empty());
}

#[test]
fn a_batch_is_answered_without_its_cancelled_calls() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-03-26", "p");
    let waits = call("waits", "mesh_inbox", json!({ "waitSeconds": 60 }));
    session.send(&json!([request(1, "ping", json!({})), waits]));
    until_waiting(&mut session, 1);
    session.send(&cancel("waits"));
    let answer = session.answer(&json!(1));
    assert_eq!(answer.as_array().map(Vec::len), Some(1), "{answer}");
}

#[test]
fn a_batch_is_answered_without_the_responses_in_it() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-03-26", "p");
    session.send(&json!([request(1, "ping", json!({})), { "jsonrpc": "2.0", "id": 5, "result": {} }]));
    let answer = session.answer(&json!(1));
    assert_eq!(answer.as_array().map(Vec::len), Some(1), "{answer}");
}

#[test]
fn mail_in_a_batch_that_never_left_is_offered_again() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-03-26", "p");
    place.ok(&["send", &session.name(), "important"]);
    let inbox = |id: i64, arguments: Value| call(id, "mesh_inbox", arguments);
    session.send(&json!([
        inbox(1, json!({})),
        call(2, "mesh_events", json!({ "types": ["never.comes"], "waitSeconds": 60 }))
    ]));
    until_waiting(&mut session, 1);
    session.end();
    let mut session = Bare::legacy(&place, "2025-03-26", "p");
    let (value, _) = content(&session.ask(&inbox(1, json!({}))));
    assert_eq!(value["messages"][0]["payload"], json!("important"), "{value}");
}

#[test]
fn mail_in_a_batch_is_read_wherever_its_call_stands() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-03-26", "p");
    let name = session.name();
    let (inbox, status) = (call(1, "mesh_inbox", json!({})), call(2, "mesh_status", json!({})));
    for batch in [json!([inbox, status]), json!([status, inbox])] {
        place.ok(&["send", &name, "important"]);
        session.send(&batch);
        let answer = session.read().unwrap();
        assert!(answer.to_string().contains("important"), "{answer}");
        let (value, _) = content(&session.ask(&inbox));
        assert_eq!(value["messages"], json!([]), "{value}");
    }
}

#[test]
fn mail_in_a_batch_is_read_although_the_answer_to_it_is_not_the_last() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-03-26", "p");
    let name = session.name();
    let inbox = call(1, "mesh_inbox", json!({}));
    // The session answers these requests without the broker. This takes longer than the delivery of the mail by the
    // broker.
    let lists = (2..100).map(|n| request(n, "tools/list", json!({})));
    let batch: Vec<Value> = std::iter::once(inbox.clone()).chain(lists).collect();
    for _ in 0..3 {
        place.ok(&["send", &name, "important"]);
        session.send(&json!(batch));
        assert!(session.read().unwrap().to_string().contains("important"));
        let (value, _) = content(&session.ask(&inbox));
        assert_eq!(value["messages"], json!([]), "{value}");
    }
}

#[test]
fn a_malformed_message_gets_an_error_with_the_reason() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    let table: &[(&[u8], i64, Option<Value>)] = &[
        (b"{", -32700, None),
        (b"hello", -32700, None),
        (b"\xff\xfe", -32700, None),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"p\xc3\x28\"}", -32700, Some(json!(1))),
        (b"7", -32600, None),
        (b"\"text\"", -32600, None),
        (b"null", -32600, None),
        (b"[]", -32600, None),
        (br#"{"id":1,"method":"ping"}"#, -32600, Some(json!(1))),
        (br#"{"jsonrpc":"1.0","id":"a","method":"ping"}"#, -32600, Some(json!("a"))),
        (br#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600, None),
        (br#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, -32600, None),
        (br#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#, -32600, None),
        (br#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, -32600, None),
        (br#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#, -32600, None),
        (br#"{"jsonrpc":"2.0","id":2}"#, -32600, Some(json!(2))),
        (br#"{"jsonrpc":"2.0","id":2,"method":7}"#, -32600, Some(json!(2))),
        (br#"{"jsonrpc":"2.0","id":2,"method":"tools/list","params":[]}"#, -32602, Some(json!(2))),
        (br#"{"jsonrpc":"2.0","id":2,"method":"tools/call"}"#, -32602, Some(json!(2))),
        (br#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":7}}"#, -32602, Some(json!(2))),
        (
            br#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"mesh_status","arguments":[1]}}"#,
            -32602,
            Some(json!(2)),
        ),
        (br#"{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{"cursor":"x"}}"#, -32602, Some(json!(2))),
        (br#"{"jsonrpc":"2.0","id":2,"method":"resources/list"}"#, -32601, Some(json!(2))),
        (br#"{"jsonrpc":"2.0","id":2,"method":"prompts/list"}"#, -32601, Some(json!(2))),
        (br#"{"jsonrpc":"2.0","id":2,"method":"Tools/List"}"#, -32601, Some(json!(2))),
    ];
    for (line, want, id) in table {
        let said = String::from_utf8_lossy(line);
        session.write(&[line, b"\n".as_slice()].concat());
        let answer = session.read().unwrap();
        assert_eq!((code(&answer), answer.get("id")), (*want, id.as_ref()), "{said}: {answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|text| text.len() > 10), "{answer}");
    }
    for line in ["", "   ", "\r"] {
        session.write(format!("{line}\n").as_bytes());
    }
    session.write(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/unheard_of\"}\r\n");
    session.write(b"{\"jsonrpc\":\"2.0\",\"id\":99,\"result\":{}}\n");
    session.send(&cancel("never"));
    assert!(settle(&mut session).is_empty());
}

#[test]
fn an_id_comes_back_as_it_was() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    for id in [json!(0), json!(-1), json!("0"), json!(""), json!("\u{e4}\"\u{1f980}"), json!(9_007_199_254_740_993_i64)]
    {
        assert_eq!(session.ask(&request(id.clone(), "ping", json!({})))["id"], id);
        assert_eq!(session.ask(&call(id.clone(), "mesh_status", json!({})))["id"], id);
    }
}

#[test]
fn a_line_that_is_too_long_costs_only_itself() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    let padding = "x".repeat(3 << 20);
    session.send(&request(1, "ping", json!({ "padding": padding })));
    let answer = session.read().unwrap();
    assert_eq!((code(&answer), answer.get("id")), (-32600, Some(&json!(1))), "{answer}");
    assert!(settle(&mut session).is_empty());
    // Both lines are written at once. The server must refuse the first line, which is too long, and answer the second.
    let line = request(1, "ping", json!({ "padding": padding }));
    session.write(format!("{line}\n{}\n", request("next", "ping", json!({}))).as_bytes());
    assert_eq!(code(&session.read().unwrap()), -32600);
    assert_eq!(session.read().unwrap()["id"], json!("next"));
}

#[test]
fn a_call_that_waits_holds_up_nothing() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    session.send(&call("waits", "mesh_inbox", json!({ "waitSeconds": 60 })));
    until_waiting(&mut session, 1);
    assert_eq!(session.ask(&request(1, "ping", json!({})))["result"], json!({}));
    assert!(!session.call(2, "mesh_peers", json!({ "scope": "machine" })).1);
    assert!(!session.seen.iter().any(|line| line["id"] == json!("waits")));
    place.ok(&["send", &session.name(), "wake up"]);
    let (value, is_error) = content(&session.answer(&json!("waits")));
    assert!(!is_error && value["messages"][0]["payload"] == json!("wake up"), "{value}");
}

#[test]
fn too_many_calls_at_once_are_refused_and_the_others_go_on() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    for n in 0..64 {
        session.send(&call(n, "mesh_inbox", json!({ "waitSeconds": 60 })));
    }
    let (value, is_error) = session.call(64, "mesh_inbox", json!({ "waitSeconds": 60 }));
    assert!(is_error && value["error"].as_str().unwrap().contains("64"), "{value}");
    session.send(&cancel(7));
    assert!(!session.call(65, "mesh_status", json!({})).1);
    place.ok(&["send", &session.name(), "hello"]);
    let ids: Vec<i64> = (0..64).filter(|n| *n != 7).collect();
    for id in &ids {
        if !session.seen.iter().any(|line| line["id"] == json!(id)) {
            session.answer(&json!(id));
        }
    }
    assert!(!session.seen.iter().any(|line| line["id"] == json!(7)));
}

#[test]
fn a_cancelled_call_is_not_answered_and_consumes_nothing() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    session.send(&call("gone", "mesh_inbox", json!({ "waitSeconds": 60 })));
    until_waiting(&mut session, 1);
    session.send(&cancel("gone"));
    until_waiting(&mut session, 0);
    place.ok(&["send", &session.name(), "kept"]);
    let (value, _) = session.call(1, "mesh_inbox", json!({}));
    assert_eq!(value["messages"][0]["payload"], json!("kept"), "{value}");
    assert!(value["messages"][0].get("redelivered").is_none(), "{value}");
    session.end();
    assert!(!session.seen.iter().any(|line| line["id"] == json!("gone")));
}

#[test]
fn a_call_that_waits_reports_progress_if_its_client_wants_it() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    assert!(!session.call(0, "mesh_status", json!({})).1);
    // A call must wake the sleeping session, and the progress notification must still come in time.
    until("the session sleeps", || sleeps(session.child.id()));
    for (id, token) in [(1, json!("t")), (2, json!(7)), (3, Value::Null)] {
        let mut waits = call(id, "mesh_inbox", json!({ "waitSeconds": 60 }));
        if !token.is_null() {
            waits["params"]["_meta"] = json!({ "progressToken": token });
        }
        session.send(&waits);
    }
    let mut tokens = Vec::new();
    while tokens.len() < 2 {
        let line = session.read().unwrap();
        assert_eq!(line["method"], json!("notifications/progress"), "{line}");
        assert!(line["params"]["progress"].as_f64().unwrap() > 0.0, "{line}");
        tokens.push(line["params"]["progressToken"].clone());
    }
    assert!(tokens.contains(&json!("t")) && tokens.contains(&json!(7)), "{tokens:?}");
}

#[test]
fn an_open_stream_is_acknowledged_and_ends_with_its_cancellation() {
    let place = Place::new();
    let mut session = Bare::start(&place, &[], "p");
    session.send(&modern("listen:0", "subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } })));
    let line = session.read().unwrap();
    assert_eq!(line["method"], json!("notifications/subscriptions/acknowledged"));
    let params = json!({ "_meta": { "io.modelcontextprotocol/subscriptionId": "listen:0" }, "notifications": {} });
    assert_eq!(line["params"], params);
    session.send(&cancel("listen:0"));
    assert!(settle(&mut session).is_empty());
    session.end();
    assert!(!session.seen.iter().any(|line| line.get("id") == Some(&json!("listen:0"))));
}

#[test]
fn with_a_wrong_setting_each_call_is_answered_with_that_error() {
    let place = Place::new().with("SLM_MESH_RATE", "abc");
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    assert_eq!(session.ask(&request("l", "tools/list", json!({})))["result"]["tools"].as_array().unwrap().len(), 8);
    let mut said = Vec::new();
    for (id, name, arguments) in [
        (1, "mesh_status", json!({})),
        (2, "mesh_send", json!({ "to": "x", "message": "y" })),
        (3, "mesh_status", json!({})),
    ] {
        let (value, is_error) = session.call(id, name, arguments);
        assert!(is_error && value["kind"] == json!("usage"), "{value}");
        said.push(value["error"].as_str().unwrap().to_owned());
    }
    assert!(said[0].contains("SLM_MESH_RATE") && said[0].contains("abc"), "{said:?}");
    assert!(said.iter().all(|text| *text == said[0]), "{said:?}");
    assert_eq!(session.ask(&request(4, "ping", json!({})))["result"], json!({}));
    assert!(place.broker_pid().is_none());
    let (status, took) = session.end();
    assert!(status.success() && took < GOES_WITHIN, "{status:?} {took:?}");
}

#[test]
fn a_client_that_only_lists_the_tools_is_no_peer() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    session.ask(&request(1, "tools/list", json!({})));
    let (status, took) = session.end();
    assert!(status.success() && took < GOES_WITHIN, "{status:?} {took:?}");
    assert!(place.broker_pid().is_none(), "looking at the tools started a broker");
    let mut other = Bare::legacy(&place, "2025-11-25", "q");
    let (value, _) = other.call(1, "mesh_peers", json!({ "scope": "machine", "includeAway": true }));
    let here = place.root.join("p").display().to_string();
    assert!(!value["peers"].as_array().unwrap().iter().any(|peer| peer["projectPath"] == json!(here)), "{value}");
}

#[test]
fn a_client_that_calls_a_tool_is_a_peer_until_it_ends() {
    let place = Place::new();
    let mut other = Bare::legacy(&place, "2025-11-25", "q");
    other.call(0, "mesh_status", json!({}));
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    session.call(1, "mesh_status", json!({}));
    let here = json!(place.root.join("p").display().to_string());
    let mut id = 1;
    let mut sees = |away: bool| {
        id += 1;
        let (value, _) = other.call(id, "mesh_peers", json!({ "scope": "machine", "includeAway": away }));
        value["peers"].as_array().unwrap().iter().any(|peer| peer["projectPath"] == here)
    };
    assert!(sees(false));
    session.end();
    until("it is away", || !sees(false));
    assert!(sees(true));
}

#[test]
fn a_session_that_stays_becomes_a_peer_by_itself() {
    let place = Place::new();
    let mut session = Bare::legacy(&place, "2025-11-25", "p");
    session.ask(&request(1, "tools/list", json!({})));
    let mut other = Bare::legacy(&place, "2025-11-25", "q");
    let here = json!(place.root.join("p").display().to_string());
    let mut id = 0;
    until("it shows itself", || {
        id += 1;
        let (value, _) = other.call(id, "mesh_peers", json!({ "scope": "machine" }));
        value["peers"].as_array().unwrap().iter().any(|peer| peer["projectPath"] == here)
    });
}
