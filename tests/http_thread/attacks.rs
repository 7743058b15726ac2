//! Tests how the HTTP thread withstands attacks by hostile clients. **Invariant:** at the end of each test, the server
//! serves another client, or has closed all connections.

use super::wire::*;
use slm_mesh::broker::http::*;
use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

#[test]
fn huge_lengths_cost_nothing() {
    let mesh = open(Limits::default());
    let lengths = ["100000000000", "18446744073709551615", "99999999999999999999", "1048577"];
    for length in lengths {
        let mut client = mesh.client();
        client.send(format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"));
        client.reads_last(413, "too large");
    }
    for length in ["-3", "+3", "3, 3", "3\r\nContent-Length: 3"] {
        let mut client = mesh.client();
        client.send(format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\nabc"));
        client.reads_last(400, r#"{"ok":false,"error":""#);
    }
    mesh.is_well();
}

#[test]
fn a_slow_request_is_given_up() {
    let mesh = open(Limits { request_ms: 200, ..Limits::default() });
    for text in ["GET / HTT", "POST / HTTP/1.1\r\nContent-Length: 2000\r\n\r\nabc"] {
        let mut client = mesh.client();
        client.send(text);
        client.reads_last(408, "in time");
    }
    // If two requests are sent together, the timeout also applies to the second request.
    let mut client = mesh.client();
    client.send("GET /a HTTP/1.1\r\n\r\nGET /b");
    client.reads(200, "/a");
    client.reads_last(408, "in time");
    // The timeout applies to the whole request. So a client gets no additional time if it sends single bytes.
    let mut client = mesh.client();
    client.send("GET / HTTP/1.1\r\nA: ");
    client.0.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let begin = Instant::now();
    while client.0.peek(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock) {
        assert!(begin.elapsed() < SOON);
        client.send("a");
        mesh.is_well();
    }
    assert!(begin.elapsed() >= Duration::from_millis(195), "{:?}", begin.elapsed());
}

#[test]
fn a_client_that_does_not_read_is_dropped() {
    let mesh = open(Limits { answer_ms: 300, ..Limits::default() });
    let mut deaf = mesh.client();
    deaf.send("GET /big HTTP/1.1\r\n\r\n");
    until("its answer is under way", || deaf.0.peek(&mut [0]).is_ok_and(|n| n == 1));
    mesh.is_well();
    until("it is dropped", || mesh.server().n_open() == 0);
}

#[test]
fn unread_responses_are_bounded_together() {
    let mesh = open(Limits { out_max: BIG + (1 << 20), ..Limits::default() });
    let mut deaf = [mesh.client(), mesh.client(), mesh.client()];
    until("all are connected", || mesh.server().n_open() == 3);
    for client in &mut deaf {
        client.send("GET /big HTTP/1.1\r\n\r\n");
    }
    until("one remains", || mesh.server().n_open() == 1);
    mesh.is_well();
}

#[test]
fn an_endless_head_is_cut() {
    let mesh = open(Limits::default());
    let endless = [("GET / HTTP/1.1\r\nA: ", "a"), ("GET / HTTP/1.1\r\n", "a:b\r\n"), ("GET /", "a")];
    for (start, more) in endless {
        let mut client = mesh.client();
        client.send(start);
        let more = more.repeat(1 << 16);
        let mut sent = 0;
        // After the response with status 431, the server reads and discards at most 2 MiB. After that, the client's
        // writes fail.
        while let Ok(n) = client.0.write(more.as_bytes()) {
            sent += n;
            assert!(sent < 64 << 20);
        }
    }
    let mut client = mesh.client();
    client.send(format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(9000)));
    client.reads_last(431, "too large");
    mesh.is_well();
}

#[test]
fn a_flood_of_requests_is_held_back() {
    let mesh = open(Limits { answer_ms: 60_000, ..Limits::default() });
    let mut deaf = mesh.client();
    deaf.0.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let text = "GET /some/longer/target/so/that/answers/are/longer HTTP/1.1\r\n\r\n".repeat(1000);
    let mut sent = 0;
    // The client does not read its responses. So the server stops reading, and after a while the client's writes fail.
    while let Ok(n) = deaf.0.write(text.as_bytes()) {
        sent += n;
        assert!(sent < 64 << 20, "nothing stops it");
    }
    mesh.is_well();
}

#[test]
fn a_busy_pipeline_leaves_others_their_turn() {
    // This gate refuses every request, so only the HTTP thread has work. The gate records the order of the requests. It
    // blocks the thread until both clients have sent their requests.
    let (release, released) = channel();
    let (note, seen) = channel();
    let gate: Gate = Box::new(move |head| {
        if head.target == "/wait" {
            released.recv().unwrap();
        }
        note.send(head.target.clone()).unwrap();
        Some(HttpResponse::json(401, Vec::new()))
    });
    let mesh = start(Limits::default(), gate);
    let (mut flood, mut other) = (mesh.client(), mesh.client());
    flood.get("/", 401, "");
    other.get("/", 401, "");
    flood.send(format!("GET /wait HTTP/1.1\r\n\r\n{}", "GET /f HTTP/1.1\r\n\r\n".repeat(500)));
    other.send("GET /other HTTP/1.1\r\n\r\n");
    release.send(()).unwrap();
    other.reads(401, "");
    let before = seen.iter().take_while(|target| target != "/other").count();
    assert!(before < 50, "{before} came first");
}

#[test]
fn resets_do_no_harm() {
    let mesh = open(Limits::default());
    for _ in 0..20 {
        let burst: Vec<Client> = (0..64)
            .map(|_| {
                let mut client = mesh.client();
                client.send("GET / HTTP/1.1\r\n\r\n");
                client
            })
            .collect();
        burst.into_iter().for_each(Client::reset);
    }
    mesh.is_well();
    until("all are forgotten", || mesh.server().n_open() == 0);
}

#[test]
fn idle_connections_make_room() {
    let mesh = open(Limits::default());
    let mut idle: Vec<Client> = (0..300).map(|_| mesh.client()).collect();
    until("all were seen", || mesh.server().n_open() == 128);
    mesh.is_well();
    assert!(mesh.server().n_open() <= 128);
    idle[0].ends();
    idle[299].get("/a", 200, "/a");
}

#[test]
fn strangers_that_never_read_make_room_for_a_client_with_a_token() {
    let gate: Gate = Box::new(|head| {
        let is_known = head.authorization.is_some();
        (!is_known).then(|| HttpResponse::json(200, vec![b'x'; 4000]))
    });
    let mesh = start(Limits { per_address_max: 16, ..Limits::default() }, gate);
    let mut known = mesh.client();
    known.send("GET /hold HTTP/1.1\r\nAuthorization: a\r\n\r\n");
    until("it is held", || mesh.held.lock().unwrap().len() == 1);
    let ask = "GET /health HTTP/1.1\r\n\r\n".repeat(3000);
    let mut deaf = Vec::new();
    for n in 0..40 {
        let mut stranger = mesh.client();
        stranger.0.set_nonblocking(true).unwrap();
        // The write may fail, because the server may have dropped this connection to accept another client.
        let _ = stranger.0.write(ask.as_bytes());
        deaf.push(stranger);
        let mut newcomer = mesh.client();
        newcomer.send(format!("GET /{n} HTTP/1.1\r\nAuthorization: a\r\n\r\n"));
        newcomer.reads(200, &format!("/{n}"));
    }
    assert!(mesh.server().n_open() <= 16);
    let job = mesh.held.lock().unwrap().remove(0);
    mesh.server().respond(job.ticket, HttpResponse::json(200, b"at last".to_vec()));
    known.reads(200, "at last");
}

#[test]
fn trickling_heads_make_room() {
    let mesh = open(Limits { connections_max: 4, ..Limits::default() });
    let mut slow: Vec<Client> = (0..20).map(|_| mesh.client()).collect();
    for client in &mut slow {
        // The write fails if the server has already dropped this connection.
        let _ = client.0.write(b"GET / HT");
    }
    mesh.is_well();
    assert!(mesh.server().n_open() <= 4);
}

#[test]
fn busy_slots_make_newcomers_wait() {
    let mesh = open(Limits { connections_max: 2, ..Limits::default() });
    let mut busy = [mesh.client(), mesh.client()];
    for client in &mut busy {
        client.send("GET /hold HTTP/1.1\r\n\r\n");
    }
    until("both are held", || mesh.held.lock().unwrap().len() == 2);
    let mut waits = mesh.client();
    waits.send("GET /a HTTP/1.1\r\n\r\n");
    waits.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(waits.0.peek(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    let job = mesh.held.lock().unwrap().remove(0);
    mesh.server().respond(job.ticket, HttpResponse::json(200, b"at last".to_vec()));
    waits.0.set_read_timeout(Some(SOON)).unwrap();
    waits.reads(200, "/a");
}

#[test]
fn one_address_may_not_hold_everything() {
    let mesh = open(Limits { per_address_max: 2, ..Limits::default() });
    let mut busy = [mesh.client(), mesh.client()];
    for client in &mut busy {
        client.send("GET /hold HTTP/1.1\r\n\r\n");
    }
    until("both are held", || mesh.held.lock().unwrap().len() == 2);
    mesh.client().ends();
    assert_eq!(mesh.server().n_open(), 2);
}

#[test]
fn a_te_header_of_nan_is_ignored() {
    let mesh = open(Limits::default());
    let list: Vec<String> = (0..200).map(|n| format!("a{n};q=NaN")).collect();
    let mut client = mesh.client();
    for _ in 0..100 {
        client.send(format!("GET /a HTTP/1.1\r\nTE: {}\r\n\r\n", list.join(",")));
        client.reads(200, "/a");
    }
}

#[test]
fn fifty_of_http_2_leave_nothing_behind() {
    let mesh = open(Limits::default());
    for _ in 0..50 {
        mesh.client().send("GET / HTTP/2.0\r\n\r\n");
    }
    until("all are forgotten", || mesh.server().n_open() == 0);
    mesh.is_well();
}

#[test]
fn random_bytes_do_no_harm() {
    let mesh = open(Limits { request_ms: 50, ..Limits::default() });
    let mut chance = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        (chance % below as u64) as usize
    };
    for _ in 0..3000 {
        let mut bytes = b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n".to_vec();
        for _ in 0..next(4) {
            let at = next(bytes.len());
            bytes[at] = next(256) as u8;
        }
        let mut client = mesh.client();
        client.send(&bytes[..next(bytes.len())]);
        if next(4) == 0 {
            client.0.shutdown(std::net::Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            client.0.read_to_end(&mut rest).unwrap();
        }
    }
    mesh.is_well();
    until("all are forgotten", || mesh.server().n_open() == 0);
}

#[test]
fn a_panic_costs_one_connection() {
    let gate: Gate = Box::new(|head| match head.target.as_str() {
        "/panic" => panic!("as the test wants it"),
        _ => None,
    });
    let mesh = start(Limits::default(), gate);
    let mut other = mesh.client();
    other.get("/a", 200, "/a");
    let mut client = mesh.client();
    client.send("GET /panic HTTP/1.1\r\n\r\n");
    client.ends();
    other.get("/b", 200, "/b");
}

#[test]
fn stopping_does_not_wait_for_clients_that_do_not_read() {
    let mesh = open(Limits::default());
    let mut deaf = mesh.client();
    deaf.send("GET /big HTTP/1.1\r\n\r\n");
    until("its answer is under way", || deaf.0.peek(&mut [0]).is_ok_and(|n| n == 1));
    let begin = Instant::now();
    drop(mesh);
    // The client does not read its response. The server must stop at once, and must not wait ten seconds for this
    // client.
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

/// Runs this test again in a process that may open only 60 files. The new process opens files until it reaches this
/// limit.
#[cfg(target_os = "linux")]
#[test]
fn the_server_recovers_from_a_lack_of_descriptors() {
    if std::env::var_os("FEW_DESCRIPTORS").is_none() {
        let me = std::env::current_exe().unwrap();
        let name = "attacks::the_server_recovers_from_a_lack_of_descriptors";
        let mut again = std::process::Command::new("sh");
        again.args(["-c", "ulimit -n 60; exec \"$0\" --exact \"$1\""]).arg(me).arg(name).env("FEW_DESCRIPTORS", "1");
        let out = again.output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        // A test program without a test of this name would also succeed. So the output must say that one test passed.
        assert!(out.status.success() && said.contains(" 1 passed"), "{said}");
        return;
    }
    let mesh = open(Limits::default());
    let mut busy = mesh.client();
    busy.send("GET /hold HTTP/1.1\r\n\r\n");
    until("it is held", || mesh.held.lock().unwrap().len() == 1);
    let mut files = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        files.push(file);
    }
    // Each connection needs two descriptors in this process, one for each end. Only one descriptor is free, and the
    // client takes it. No connection is idle, so the server can't close an idle connection.
    files.pop();
    let mut waits = mesh.client();
    waits.send("GET /a HTTP/1.1\r\n\r\n");
    waits.0.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert_eq!(waits.0.peek(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    // The kernel does not tell the server when a descriptor becomes free. So the server must try again after a while.
    files.clear();
    waits.0.set_read_timeout(Some(SOON)).unwrap();
    waits.reads(200, "/a");
}
