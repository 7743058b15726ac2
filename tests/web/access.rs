//! Tests who can use the web page. Each link works only once, in one browser. Requests must come from this machine and
//! from the page itself.

use super::client::*;
use super::page::*;
use serde_json::json;

#[test]
fn a_link_opens_once_and_leaves_no_token_behind() {
    let broker = Broker::start();
    let page = Page { port: broker.port, cookie: String::new(), key: String::new() };
    let link = link(&broker);
    let code = link.strip_prefix("/open/").unwrap().to_owned();
    assert!(code.len() >= 32, "{code} is too short to be no guess");
    let first = bare(&broker).ask("GET", &link, &page.host(), b"");
    assert_eq!((first.status, header(&first, "Location")), (303, "/"));
    assert_eq!((header(&first, "Referrer-Policy"), header(&first, "Cache-Control")), ("no-referrer", "no-store"));
    assert!(!first.text.contains(&code) && !header(&first, "Set-Cookie").contains(&code));
    let set = header(&first, "Set-Cookie");
    assert!(set.starts_with(&format!("slm-mesh-{}=", broker.port)), "{set}");
    assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{set}");
    // The link was stolen, and is used a second time.
    let second = bare(&broker).ask("GET", &link, &page.host(), b"");
    assert_eq!((second.status, header(&second, "Location"), cookie(&second)), (303, "/#used", None));
}

#[test]
fn a_preview_of_a_link_does_not_use_it_up() {
    let broker = Broker::start();
    let page = Page { port: broker.port, cookie: String::new(), key: String::new() };
    let link = link(&broker);
    for (method, more) in [
        ("HEAD", ""),
        ("OPTIONS", ""),
        ("POST", ""),
        ("GET", "Sec-Fetch-Mode: no-cors\r\n"),
        ("GET", "Sec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-origin\r\n"),
        ("GET", "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n"),
        ("GET", "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Site: cross-site\r\n"),
    ] {
        let mut http = bare(&broker);
        http.send(format!("{method} {link} HTTP/1.1\r\n{}{more}Connection: close\r\n\r\n", page.host()));
        let mut said = String::new();
        std::io::Read::read_to_string(&mut http.stream, &mut said).unwrap();
        assert!(said.starts_with("HTTP/1.1 4") && !said.contains("Set-Cookie"), "{method} {more}: {said}");
    }
    let visit = "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Site: none\r\n";
    let reply = bare(&broker).ask("GET", &link, &format!("{}{visit}", page.host()), b"");
    assert!(cookie(&reply).is_some(), "{}", reply.head);
}

#[test]
fn without_a_session_there_is_a_page_without_data() {
    let broker = Broker::start();
    broker.place.ok(&["state", "set", "colour", "ultramarine"]);
    let page = Page { port: broker.port, cookie: String::new(), key: String::new() };
    let reply = bare(&broker).ask("GET", "/", &page.host(), b"");
    assert_eq!((reply.status, header(&reply, "Content-Type")), (200, "text/html; charset=utf-8"));
    assert!(reply.text.contains("slm-mesh web") && !reply.text.contains("ultramarine"));
    for target in ["/web/events", "/web/call", "/web/key"] {
        assert_eq!(bare(&broker).ask("POST", target, &page.headers(), b"{}").status, 401, "{target}");
        // The broker's token for HTTP clients must not work for the page.
        assert_eq!(broker.http().ask("POST", target, &page.headers(), b"{}").status, 401, "{target}");
    }
}

#[test]
fn all_responses_restrict_the_browser() {
    let broker = Broker::start();
    let page = Page::open(&broker);
    let get = |target: &str| bare(&broker).ask("GET", target, &page.host(), b"");
    let call = page.ask(&broker, "inbox", json!({}));
    let stream = Reply { status: 200, head: page.listen(&broker).head, text: String::new(), body: json!({}) };
    for reply in [
        get("/"),
        get("/page.css"),
        get("/page.js"),
        get("/page/mesh_state.js"),
        get("/open/x"),
        get("/web/x"),
        call,
        stream,
    ] {
        let policy = header(&reply, "Content-Security-Policy");
        for want in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'"] {
            assert!(policy.contains(want), "{policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{policy}");
        for (name, want) in [
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Cache-Control", "no-store"),
        ] {
            assert_eq!(header(&reply, name), want);
        }
    }
    let html = get("/").text;
    for not in ["<script>", "style=", "onclick", "onload", "https://", "//"] {
        let found = html.replace("http://www.w3.org/2000/svg", "");
        assert!(!found.contains(not), "{not} in the page");
    }
}

#[test]
fn a_page_of_another_origin_gets_nothing() {
    let broker = Broker::start();
    let page = Page::open(&broker);
    let port = broker.port;
    let own = page.headers();
    let others = [
        ("evil.example".to_owned(), "http://evil.example".to_owned()),
        // An attacker can make a different host name point to the broker's address.
        (format!("evil.example:{port}"), format!("http://evil.example:{port}")),
        ("127.0.0.1".to_owned(), "http://127.0.0.1".to_owned()),
        (format!("127.0.0.1:{}", port + 1), format!("http://127.0.0.1:{}", port + 1)),
        (format!("localhost.evil.example:{port}"), format!("http://localhost.evil.example:{port}")),
        (format!("127.0.0.1:{port}.evil.example"), format!("http://127.0.0.1:{port}.evil.example")),
    ];
    let session = format!("Cookie: {}\r\nX-Mesh-Page: {}\r\nContent-Type: application/json\r\n", page.cookie, page.key);
    let targets =
        [("GET", "/"), ("GET", "/page.js"), ("POST", "/web/key"), ("POST", "/web/events"), ("POST", "/web/call")];
    let refused = |method: &str, target: &str, headers: &str| {
        let reply = bare(&broker).ask(method, target, headers, b"{}");
        assert_eq!(reply.status, 403, "{method} {target} {headers}: {}", reply.text);
    };
    for (method, target) in targets {
        for (host, origin) in &others {
            refused(method, target, &format!("Host: {host}\r\nOrigin: {origin}\r\n{session}"));
            refused(method, target, &format!("Host: {host}\r\n{session}"));
            refused(method, target, &format!("{}Origin: {origin}\r\n{session}", page.host()));
        }
        for origin in ["null".to_owned(), format!("https://127.0.0.1:{port}"), format!("http://localhost:{port}")] {
            refused(method, target, &format!("{}Origin: {origin}\r\n{session}", page.host()));
        }
        for site in ["cross-site", "same-site"] {
            refused(method, target, &format!("{}Sec-Fetch-Site: {site}\r\n{session}", page.host()));
        }
        refused(method, target, &session);
    }
    // An HTML form of another site can neither choose its origin nor send JSON.
    refused("POST", "/web/call", &format!("{}{session}", page.host()));
    let plain = own.replace("application/json", "text/plain");
    assert_eq!(bare(&broker).ask("POST", "/web/call", &plain, b"{}").status, 415);
    assert_eq!(page.ask(&broker, "inbox", json!({})).status, 200, "and our own page does");
}

#[test]
fn a_session_is_cookie_and_key_of_this_broker() {
    let (mut broker, other) = (Broker::start(), Broker::start());
    let (page, stranger) = (Page::open(&broker), Page::open(&other));
    let value = |cookie: &str| cookie.split_once('=').unwrap().1.to_owned();
    let own_name = |page: &Page| format!("slm-mesh-{}={}", broker.port, value(&page.cookie));
    let status = |page: &Page| page.ask(&broker, "inbox", json!({})).status;
    assert_eq!(status(&page), 200);
    // A browser sends the cookie to every port of this machine, but sends the key only to the page's own port.
    assert_eq!(status(&Page { key: String::new(), ..page.clone() }), 401);
    assert_eq!(status(&Page { key: value(&page.cookie), ..page.clone() }), 401);
    assert_eq!(bare(&broker).ask("POST", "/web/key", &page.headers(), b"").status, 401, "the key is issued only once");
    assert_eq!(status(&Page { cookie: String::new(), ..page.clone() }), 401);
    assert_eq!(status(&Page { cookie: stranger.cookie.clone(), ..page.clone() }), 401);
    let foreign = Page { port: broker.port, cookie: own_name(&stranger), key: stranger.key.clone() };
    assert_eq!(status(&foreign), 401);
    let many = Page { cookie: format!("a=b; {}; c=d", page.cookie), ..page.clone() };
    assert_eq!(status(&many), 200, "cookies of others stand beside it");
    for cookies in [[&own_name(&stranger), &page.cookie], [&page.cookie, &own_name(&stranger)]] {
        let both = Page { cookie: cookies.map(String::as_str).join("; "), ..page.clone() };
        assert_eq!(status(&both), 200, "another port has set a cookie of this name");
    }
    broker.end(rustix::process::Signal::TERM);
    broker.again();
    let page = Page { port: broker.port, ..page };
    assert_eq!(page.ask(&broker, "inbox", json!({})).status, 401, "sessions end with their broker");
}

#[test]
fn the_page_may_call_few_operations_and_only_as_the_human() {
    let broker = Broker::start();
    let page = Page::open(&broker);
    for method in ["attach", "broker.stop", "state.set", "lock.lock", "events.emit", "web.open", ""] {
        let reply = page.ask(&broker, method, json!({}));
        assert_eq!((reply.status, &reply.body["kind"]), (400, &json!("usage")), "{method}: {}", reply.text);
    }
    for body in ["", "[]", "{", "{\"method\":7}"] {
        let reply = bare(&broker).ask("POST", "/web/call", &page.headers(), body.as_bytes());
        assert_eq!(reply.status, 400, "{body}: {}", reply.text);
    }
    let mut session = broker.place.session("codex-mcp-client", "shop");
    let name = word(&session.tool("mesh_peers", json!({ "scope": "machine" }))["you"]["name"]);
    let sent = page.ask(&broker, "send", json!({ "to": name, "message": "hello" }));
    assert_eq!(sent.body["recipients"][0]["receipt"], json!("accepted"), "{}", sent.text);
    let mail = session.tool("mesh_inbox", json!({}));
    let human = broker.place.json(&["whoami", "--as", "human"])["you"]["id"].clone();
    assert_eq!((&mail["messages"][0]["payload"], &mail["messages"][0]["fromPeer"]), (&json!("hello"), &human));
    let wrong = page.ask(&broker, "send", json!({ "to": "nobody-here", "message": "x" }));
    assert_eq!((wrong.status, &wrong.body["kind"]), (404, &json!("not_found")));
    let foreign = page.ask(&broker, "send", json!({ "to": name, "message": "x", "as": name }));
    assert_eq!(foreign.status, 400, "nobody else can be acted as: {}", foreign.text);
    for (method, params) in [
        ("send", json!({ "to": "human", "message": "x" })),
        ("inbox", json!({ "ack": [mail["messages"][0]["id"]] })),
        ("inbox.mark_read", json!({ "items": [mail["messages"][0]["id"]] })),
    ] {
        let body = json!({ "method": method, "params": params, "as": name }).to_string();
        let reply = bare(&broker).ask("POST", "/web/call", &page.headers(), body.as_bytes());
        assert_eq!((reply.status, &reply.body["kind"]), (400, &json!("usage")), "{method}: {}", reply.text);
    }
}

#[test]
fn a_lock_is_released_as_it_was_seen_or_not_at_all() {
    let broker = Broker::start();
    let page = Page::open(&broker);
    let mut session = broker.place.session("codex-mcp-client", "shop");
    let file = broker.place.root.join("shop/a.rs");
    let take = json!({ "action": "lock", "filePath": file });
    let token = session.tool("mesh_lock", take.clone())["token"].clone();
    let release =
        |token: &serde_json::Value| page.ask(&broker, "lock.unlock", json!({ "filePath": file, "token": token }));
    let other = json!(token.as_i64().unwrap() + 1);
    assert_eq!(release(&other).status, 404, "that grant is not in force");
    assert_eq!(release(&token).status, 200);
    let told = session.tool("mesh_inbox", json!({}));
    assert!(word(&told["messages"][0]["payload"]).contains("took your lock"), "{told}");
    session.tool("mesh_lock", take);
    assert_eq!(release(&token).status, 404, "it has the lock again, as another grant");
    let by_agent = session.try_tool("mesh_lock", json!({ "action": "unlock", "filePath": file, "token": 1 }));
    assert!(by_agent.1, "{}", by_agent.0);
    let mut socket = broker.place.socket();
    socket.call("attach", json!({ "agent": "x", "project": "/", "pid": 1 }));
    let refused = socket.call("lock.unlock", json!({ "filePath": file, "token": 2 }));
    assert_eq!(refused["error"]["data"]["kind"], json!("refused"), "only the human may: {refused}");
}
