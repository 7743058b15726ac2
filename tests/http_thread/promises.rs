//! Tests how the HTTP thread serves well-behaved clients. **Invariant:** a test waits for a fixed time only if it tests
//! a timeout of that length.

use super::wire::*;
use slm_mesh::broker::http::*;
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

#[test]
fn a_connection_is_kept() {
    let mesh = open(Limits::default());
    let mut client = mesh.client();
    for n in 0..100 {
        client.get(&format!("/{n}"), 200, &format!("/{n}"));
    }
    assert_eq!(mesh.server().n_open(), 1);
    client.send("HEAD /abc HTTP/1.1\r\n\r\n");
    assert!(client.head().contains("\r\nContent-Length: 4\r\n"));
    client.get("/next", 200, "/next");
    drop(client);
    until("a client that left is forgotten", || mesh.server().n_open() == 0);
}

#[test]
fn close_is_honoured_and_announced() {
    let mesh = open(Limits::default());
    for text in ["GET /a HTTP/1.1\r\nConnection: close\r\n\r\n", "GET /a HTTP/1.0\r\n\r\n"] {
        let mut client = mesh.client();
        client.send(text);
        client.reads_last(200, "/a");
    }
    // The response to the HEAD request has no body. The nonsense after this request causes an error response, which has
    // a body.
    let mut client = mesh.client();
    client.send("HEAD /abc HTTP/1.1\r\n\r\nnonsense\r\n\r\n");
    assert!(client.head().contains("\r\nContent-Length: 4\r\n"));
    client.reads_last(400, "expected an HTTP request");
    // The client closes its sending side after its last request. It must get all responses anyway.
    let mut client = mesh.client();
    client.send("GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n");
    client.0.shutdown(std::net::Shutdown::Write).unwrap();
    client.reads(200, "/a");
    client.reads(200, "/b");
    client.ends();
}

#[test]
fn a_pipeline_is_answered_in_order() {
    let mesh = open(Limits::default());
    let mut client = mesh.client();
    let mut text = String::new();
    for n in 0..500 {
        text += &format!("POST /{n} HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc");
    }
    client.send(text);
    for n in 0..500 {
        client.reads(200, &format!("/{n}abc"));
    }
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let mesh = open(Limits::default());
    let mut client = mesh.client();
    for byte in b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" {
        client.send([*byte]);
    }
    client.reads(200, "/aabc");
}

#[test]
fn a_body_of_one_mebibyte_is_accepted_and_no_more() {
    let mesh = open(Limits::default());
    let mut client = mesh.client();
    let body = "b".repeat(1 << 20);
    client.send(format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    client.reads(200, &format!("/{body}"));
    // The head says that the body is too large, so the server responds before it gets the body. A client that first
    // sends the whole body must also get the response.
    client.send(format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len() + 1));
    client.0.peek(&mut [0]).unwrap();
    for piece in (body + "x").as_bytes().chunks(100_000) {
        client.send(piece);
        mesh.is_well(); // once this is answered, the server has read the piece
    }
    client.reads_last(413, r#"{"ok":false,"error":"Request body too large (max 1MB)"}"#);
}

#[test]
fn the_gate_decides_before_the_body() {
    let mesh = start(Limits::default(), token_gate());
    // A client without a token must not learn the size limit, so the server checks the token before the size of the
    // body.
    let mut client = mesh.client();
    client.send("POST / HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n");
    client.reads_last(401, "false");
    // After a refusal, the connection stays open if the whole body has already arrived.
    let mut client = mesh.client();
    client.get("/", 401, "{\"ok\":false}");
    client.send("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc");
    client.reads(401, "{\"ok\":false}");
    client.send("POST /a HTTP/1.1\r\nAuthorization: Bearer t\r\nContent-Length: 3\r\n\r\nabc");
    client.reads(200, "/aabc");
}

#[test]
fn a_client_that_asks_first_gets_100_continue() {
    let mesh = start(Limits::default(), token_gate());
    let ask = |length: usize, token: &str| {
        let mut client = mesh.client();
        client.send(format!(
            "POST /a HTTP/1.1\r\nExpect: 100-continue\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: {length}\r\n\r\n"
        ));
        client
    };
    let mut client = ask(3, "t");
    assert_eq!(client.head(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("abc");
    client.reads(200, "/aabc");
    ask(2 << 20, "t").reads_last(413, "too large");
    ask(3, "wrong").reads_last(401, "false");
}

#[test]
fn invalid_requests_are_refused() {
    let mesh = open(Limits::default());
    for (text, status) in [
        ("BREW /pot HTTP/1.1\r\n\r\n", 501),
        ("GET / HTTP/2.0\r\n\r\n", 505),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}", 400),
    ] {
        let mut client = mesh.client();
        client.send(text);
        client.reads_last(status, r#"{"ok":false,"error":""#);
    }
}

#[test]
fn an_idle_connection_is_closed_silently() {
    let mesh = open(Limits { idle_ms: 100, ..Limits::default() });
    let mut fresh = mesh.client();
    let mut used = mesh.client();
    used.get("/a", 200, "/a");
    fresh.ends();
    used.ends();
    until("both are forgotten", || mesh.server().n_open() == 0);
}

#[test]
fn a_large_response_arrives_whole() {
    let mesh = open(Limits::default());
    let mut client = mesh.client();
    client.send("GET /big HTTP/1.1\r\n\r\nGET /a HTTP/1.1\r\n\r\n");
    assert_eq!(client.answer().1.len(), BIG);
    client.reads(200, "/a");
}

#[test]
fn a_full_queue_gets_503() {
    let (server, address, jobs, wakes) = raw(Limits::default(), Box::new(|_| None), 1);
    let mut first = Client::to(address);
    first.send("GET /1 HTTP/1.1\r\n\r\n");
    until("the queue is full", || wakes.load(Ordering::Relaxed) == 1);
    let mut second = Client::to(address);
    for _ in 0..3 {
        second.get("/2", 503, r#"{"ok":false,"error":"too many requests at once; try again"}"#);
    }
    let job = jobs.recv().unwrap();
    assert_eq!(job.request.head.target, "/1");
    server.respond(job.ticket, HttpResponse::json(200, b"one".to_vec()));
    first.reads(200, "one");
    first.send("GET /3 HTTP/1.1\r\n\r\n");
    let next = jobs.recv().unwrap();
    // The server drops a second response to the same request. Otherwise, the client would take the second response for
    // the response to its next request.
    server.respond(job.ticket, HttpResponse::json(200, b"two".to_vec()));
    server.respond(next.ticket, HttpResponse::json(200, b"three".to_vec()));
    first.reads(200, "three");
    drop(jobs);
    first.send("GET /4 HTTP/1.1\r\n\r\n");
    first.reads_last(503, "the broker is shutting down");
}

#[test]
fn a_late_response_reaches_nobody() {
    let mesh = open(Limits::default());
    let mut gone = mesh.client();
    gone.send("GET /a HTTP/1.1\r\n\r\nGET /hold HTTP/1.1\r\n\r\n");
    until("it is held", || mesh.held.lock().unwrap().len() == 1);
    gone.reset();
    until("a reset is noticed", || mesh.server().n_open() == 0);
    let job = mesh.held.lock().unwrap().remove(0);
    mesh.server().respond(job.ticket, HttpResponse::json(200, Vec::new()));
    mesh.is_well();
}

#[test]
fn stopping_sends_pending_responses() {
    // `stop_ms` is long, because the client may need a while to read the large response on a busy machine.
    let (server, address, jobs, _) = raw(Limits { stop_ms: 60_000, ..Limits::default() }, Box::new(|_| None), 8);
    let mut idle = Client::to(address);
    let mut client = Client::to(address);
    client.send("GET /last HTTP/1.1\r\n\r\nGET /never HTTP/1.1\r\n\r\n");
    let job = jobs.recv().unwrap();
    // The response is larger than the socket buffers, so a part of it has not been sent when the server is stopped.
    server.respond(job.ticket, HttpResponse::json(200, vec![b'x'; BIG]));
    client.0.peek(&mut [0]).unwrap();
    let reader = std::thread::spawn(move || {
        until("the port is closed", || TcpStream::connect(address).is_err());
        assert_eq!(client.answer().1.len(), BIG);
        client.ends();
    });
    let begin = Instant::now();
    server.stop();
    assert!(begin.elapsed() < Duration::from_secs(30), "it ends once all is sent: {:?}", begin.elapsed());
    reader.join().unwrap();
    assert!(jobs.recv().is_err(), "what can't be answered is not begun");
    idle.ends();
}

#[cfg(target_os = "linux")]
#[test]
fn waiting_costs_no_wake_ups() {
    let thread = std::sync::Arc::new(std::sync::Mutex::new(std::path::PathBuf::new()));
    let note = thread.clone();
    // The HTTP thread calls the gate, so the gate can find this thread in /proc.
    let gate: Gate = Box::new(move |_| {
        let name = std::fs::read_link("/proc/thread-self").unwrap();
        *note.lock().unwrap() = std::path::Path::new("/proc").join(name).join("status");
        None
    });
    let mesh = start(Limits { idle_ms: 500, ..Limits::default() }, gate);
    let mut client = mesh.client();
    client.get("/a", 200, "/a");
    let switches = || {
        let status = std::fs::read_to_string(&*thread.lock().unwrap()).unwrap();
        let line = status.lines().find(|l| l.starts_with("voluntary_ctxt_switches")).unwrap();
        line.rsplit('\t').next().unwrap().parse::<u64>().unwrap()
    };
    let before = switches();
    client.ends();
    let n = switches() - before;
    assert!(n <= 4, "{n} wake-ups while nothing happened");
}
