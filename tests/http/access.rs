//! Tests which HTTP requests the broker accepts. The broker checks the token first, then the route, and then the body.

use super::client::*;
use serde_json::json;

const UNAUTHORIZED: &str = r#"{"ok":false,"error":"Unauthorized — invalid or missing bearer token"}"#;
const UNKNOWN: &str = r#"{"ok":false,"error":"Unknown endpoint"}"#;
const INVALID: &str = r#"{"ok":false,"error":"Invalid JSON in request body"}"#;
const TOO_LARGE: &str = r#"{"ok":false,"error":"Request body too large (max 1MB)"}"#;

const POSTS: [&str; 10] = [
    "/register",
    "/unregister",
    "/heartbeat",
    "/peers",
    "/summary",
    "/send",
    "/messages",
    "/state",
    "/lock",
    "/events",
];

#[track_caller]
fn says(reply: &Reply, status: u16, text: &str) {
    assert_eq!((reply.status, reply.text.as_str()), (status, text));
}

#[test]
fn without_the_token_every_request_is_refused() {
    let broker = Broker::start();
    let wrong = ["0".repeat(64), broker.token[..63].to_owned(), format!("{}0", broker.token)];
    let schemes =
        [format!("bearer {}", broker.token), format!("Basic {}", broker.token), format!("Bearer  {}", broker.token)];
    for token in std::iter::once(String::new()).chain(wrong).chain(schemes) {
        let mut http = broker.http().token(&token);
        for target in POSTS {
            says(&http.post(target, &json!({})), 401, UNAUTHORIZED);
        }
        for target in ["/status", "/health?x=1", "/health/", "/nowhere", "//health"] {
            says(&http.get(target), 401, UNAUTHORIZED);
        }
        // This body is not valid JSON. The error must be about the token, which the broker checks first.
        says(&http.ask("POST", "/nowhere", "", b"{"), 401, UNAUTHORIZED);
        says(&http.post("/health", &json!({})), 401, UNAUTHORIZED);
    }
    let mut http = broker.http();
    http.send("POST /send HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n");
    says(&http.reply().unwrap(), 401, UNAUTHORIZED);
    let mut tail = broker.http();
    assert_eq!(tail.ok("/peers", json!({}))["peers"], json!([]));
}

#[test]
fn a_token_that_comes_twice_is_refused() {
    let broker = Broker::start();
    let mut http = broker.http();
    let reply = http.ask("GET", "/status", "Authorization: Bearer x\r\n", b"");
    assert_eq!(reply.status, 400);
}

#[test]
fn a_route_is_its_method_and_its_whole_target() {
    let broker = Broker::start();
    let mut http = broker.http();
    for target in ["/?x", "/health?x=1", "/status?x", "/status/", "/STATUS", "/mesh", "*", "/register"] {
        says(&http.get(target), 404, UNKNOWN);
    }
    for target in ["/health", "/status", "/nowhere"] {
        says(&http.post(target, &json!({})), 404, UNKNOWN);
        // This body is not valid JSON. The error must be about the route, which the broker checks before the body.
        says(&http.ask("POST", target, "", b"{"), 404, UNKNOWN);
    }
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS"] {
        says(&http.ask(method, "/peers", "", b""), 404, UNKNOWN);
    }
}

#[test]
fn text_that_was_cut_inside_a_character_arrives() {
    let broker = Broker::start();
    let mut http = broker.http();
    let (from, to) = (http.peer("/a"), http.peer("/b"));
    // A client may cut a text in the middle of an emoji. Some clients then write half a surrogate pair as an escape.
    // Other clients write incomplete UTF-8.
    for cut in [&b"cut \\ud83d"[..], b"cut \xf0", b"cut \xff"] {
        let start = format!("{{\"fromPeer\":\"{from}\",\"toPeer\":\"{to}\",\"payload\":\"");
        let reply = http.ask("POST", "/send", "", &[start.as_bytes(), cut, b"\"}"].concat());
        assert_eq!((reply.status, &reply.body["ok"]), (200, &json!(true)), "{}", reply.text);
        assert_eq!(http.mail(&to)[0]["payload"], json!("cut \u{fffd}"));
    }
}

#[test]
fn a_body_is_an_object_or_nothing() {
    let broker = Broker::start();
    let mut http = broker.http();
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
    for body in ["{", "[]", "null", "1", "\"x\"", "{\"a\":1}x", "{'a':1}", "{\"a\":NaN}", &deep] {
        says(&http.ask("POST", "/peers", "", body.as_bytes()), 400, INVALID);
    }
    says(&http.ask("POST", "/peers", "", b""), 200, r#"{"ok":true,"peers":[]}"#);
    says(&http.ask("POST", "/peers", "", b" \r\n{ } "), 200, r#"{"ok":true,"peers":[]}"#);
}

#[test]
fn one_mebibyte_is_accepted_and_a_byte_more_gets_413() {
    let broker = Broker::start();
    let mut http = broker.http();
    let body = |length: usize| format!(r#"{{"x":"{}"}}"#, "y".repeat(length - 8));
    assert_eq!(http.ask("POST", "/peers", "", body(1 << 20).as_bytes()).status, 200);
    // The client sends the whole body, which is too large, before it reads. It must get the response anyway.
    let reply = http.ask("POST", "/peers", "", body((1 << 20) + 1).as_bytes());
    says(&reply, 413, TOO_LARGE);
    assert!(reply.head.contains("\r\nConnection: close\r\n"), "{}", reply.head);
    http.ends();
    let mut http = broker.http();
    http.send(format!(
        "POST /send HTTP/1.1\r\nAuthorization: Bearer {}\r\nContent-Length: 99999999999999999999\r\n\r\n",
        broker.token
    ));
    says(&http.reply().unwrap(), 413, TOO_LARGE);
}

#[test]
fn pages_of_other_origins_are_refused() {
    let broker = Broker::start();
    let mut http = broker.http();
    for headers in [
        "Host: attacker.example\r\n",
        "Host: attacker.example:7899\r\n",
        "Host: 127.0.0.1.attacker.example\r\n",
        "Host: localhost@attacker.example\r\n",
        "Host: 192.168.1.2\r\n",
        "Host: [::2]\r\n",
        "Host: \r\n",
        "Host: localhost\r\nOrigin: https://attacker.example\r\n",
        "Host: localhost\r\nOrigin: null\r\n",
        "Host: localhost\r\nOrigin: http://localhost:7899\r\n",
    ] {
        for target in ["/status", "/health", "/nowhere"] {
            let reply = http.ask("GET", target, headers, b"");
            assert_eq!((reply.status, &reply.body["ok"]), (403, &json!(false)), "{headers}{target}: {}", reply.text);
            let head = reply.head.to_ascii_lowercase();
            assert!(!head.contains("access-control"), "{head}");
        }
    }
    let own = format!("Host: 127.0.0.1:{}\r\n", broker.port);
    for headers in
        ["", "Host: localhost\r\n", "Host: LocalHost:7899\r\n", "Host: 127.0.0.1\r\n", "Host: [::1]:7899\r\n", &own]
    {
        assert_eq!(http.ask("GET", "/status", headers, b"").status, 200, "{headers}");
    }
}

#[test]
fn requests_of_one_connection_are_answered_in_order() {
    let broker = Broker::start();
    let mut http = broker.http();
    let id = http.peer("/p");
    let mut text = String::new();
    for n in 0..40 {
        let body = json!({ "fromPeer": id, "toPeer": id, "payload": n.to_string() }).to_string();
        text += &format!(
            "POST /send HTTP/1.1\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
            broker.token,
            body.len()
        );
        text += "GET /nowhere HTTP/1.1\r\n\r\n";
    }
    http.send(text);
    for _ in 0..40 {
        assert_eq!(http.reply().unwrap().status, 200);
        assert_eq!(http.reply().unwrap().status, 401);
    }
    let found = http.ok("/messages", json!({ "peerId": id, "limit": 100 }));
    let found: Vec<String> = found["messages"].as_array().unwrap().iter().map(|m| word(&m["payload"])).collect();
    assert_eq!(found, (0..40).rev().map(|n| n.to_string()).collect::<Vec<_>>(), "newest first");
}

#[test]
fn a_hundred_clients_at_once_are_all_served() {
    let broker = Broker::start();
    let id = broker.http().peer("/p");
    let mut clients: Vec<Http> = (0..100).map(|_| broker.http()).collect();
    for _ in 0..3 {
        let body = json!({ "action": "set", "key": "k", "value": "v", "peerId": id }).to_string();
        for client in &mut clients {
            let token = &broker.token;
            client.send(format!(
                "POST /state HTTP/1.1\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ));
        }
        let refused = clients.iter_mut().filter_map(|client| Some(client.reply().unwrap()).filter(|r| r.status != 200));
        let refused: Vec<String> = refused.map(|reply| reply.text).collect();
        assert_eq!(refused, Vec::<String>::new(), "none is turned away");
    }
}
