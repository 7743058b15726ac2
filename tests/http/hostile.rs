//! Tests attacks of hostile HTTP clients on a real broker. **Invariant:** the broker serves a second client during each
//! attack, and its memory grows only a little.

use super::client::*;
use super::support::until;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The CPU time that the broker may use before it answers an honest client during an attack. Unlike elapsed time, CPU
/// time does not depend on the load of the machine. Each answer must also come within `SOON`.
const PATIENCE: Duration = Duration::from_secs(2);
/// The maximum growth of the broker's memory during an attack, in KiB. It is the sum of the limits of all buffers, plus
/// a reserve for the allocator.
const GROWTH_MAX: u64 = 48 << 10;

/// Runs an attack. During the attack, a second client sends requests, and checks that the broker answers in time.
fn survives(broker: &Broker, attack: impl FnOnce()) {
    let before = broker.rss();
    let done = AtomicBool::new(false);
    let started = Instant::now();
    let computed = || broker.ticks().map_or_else(|| started.elapsed(), |ticks| Duration::from_millis(10 * ticks));
    let (mut worst, mut peak) = (Duration::ZERO, 0);
    std::thread::scope(|scope| {
        let mut http = broker.http();
        let id = http.peer("/witness");
        let (done, computed) = (&done, &computed);
        let witness = scope.spawn(move || {
            let (mut worst, mut peak, mut n) = (Duration::ZERO, 0, 0);
            while !done.load(Ordering::Relaxed) || n < 20 {
                let began = computed();
                http.ok("/heartbeat", json!({ "peerId": id }));
                http.ok("/state", json!({ "action": "set", "key": "alive", "value": n.to_string(), "peerId": id }));
                worst = worst.max(computed() - began);
                peak = peak.max(broker.rss().unwrap_or(0));
                n += 1;
            }
            // Checks that the broker also accepts a new connection during the attack.
            broker.http().ok("/unregister", json!({ "peerId": id }));
            (worst, peak)
        });
        attack();
        done.store(true, Ordering::Relaxed);
        (worst, peak) = witness.join().unwrap();
    });
    assert!(worst < PATIENCE, "an honest client waited while the broker computed for {worst:?}");
    match before {
        Some(before) => assert!(peak.saturating_sub(before) < GROWTH_MAX, "{before} KiB grew to {peak} KiB"),
        None => skip("hostile", "this system does not report the memory of a process"),
    }
}

fn auth(broker: &Broker) -> String {
    format!("Authorization: Bearer {}\r\n", broker.token)
}

/// Sends bytes to the broker. Ignores errors, because the broker may close the connection at any time.
fn shout(broker: &Broker, bytes: impl AsRef<[u8]>) -> TcpStream {
    let mut stream = broker.raw();
    let _ = stream.write_all(bytes.as_ref());
    stream
}

#[test]
fn lengths_that_lie() {
    let broker = Broker::start();
    let auth = auth(&broker);
    survives(&broker, || {
        let lengths =
            ["100000000000", "18446744073709551615", "18446744073709551616", "1048577", "-3", "+3", "3 3", "0x3", ""];
        let mut kept = Vec::new();
        for length in lengths {
            for auth in ["", auth.as_str()] {
                kept.push(shout(&broker, format!("POST /send HTTP/1.1\r\n{auth}Content-Length: {length}\r\n\r\nabc")));
            }
        }
        // Sends the head of a request, but not the body, and keeps the connection open.
        for _ in 0..40 {
            kept.push(shout(&broker, format!("POST /send HTTP/1.1\r\n{auth}Content-Length: 1048576\r\n\r\n")));
        }
        let framings = [
            "Content-Length: 3\r\nContent-Length: 4",
            "Transfer-Encoding: chunked\r\nContent-Length: 3",
            "Transfer-Encoding: identity",
        ];
        for framing in framings {
            let mut http = broker.http();
            http.send(format!("POST /send HTTP/1.1\r\n{auth}{framing}\r\n\r\nabc"));
            let status = http.reply().unwrap().status;
            assert!([400, 411].contains(&status), "{framing}: {status}");
        }
    });
}

#[test]
fn heads_that_never_end() {
    let broker = Broker::start();
    survives(&broker, || {
        for (start, more) in [
            ("GET / HTTP/1.1\r\nA: ", "a"),
            ("GET / HTTP/1.1\r\n", "a:b\r\n"),
            ("GET /", "a"),
            ("", "\r\n"),
            ("", "\0"),
        ] {
            let mut stream = shout(&broker, start);
            let more = more.repeat(1 << 16);
            let mut sent = 0;
            while let Ok(n) = stream.write(more.as_bytes()) {
                sent += n;
                assert!(sent < 128 << 20, "nothing stops {start:?}");
            }
        }
    });
}

#[test]
fn malicious_heads() {
    let broker = Broker::start();
    let auth = auth(&broker);
    survives(&broker, || {
        let nan = format!("TE: {}\r\n", (0..60).map(|n| format!("x{n};q=NaN")).collect::<Vec<_>>().join(", "));
        for _ in 0..100 {
            let mut http = broker.http();
            http.send(format!("GET /status HTTP/1.1\r\n{auth}{nan}\r\n"));
            assert_eq!(http.reply().unwrap().status, 200);
        }
        for text in [
            "GET / HTTP/2.0\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET /status\r\n\r\n",
            "\u{16}\u{3}\u{1}\u{2}\u{0}",
        ] {
            drop((0..50).map(|_| shout(&broker, text)).collect::<Vec<_>>());
        }
        for header in [
            "Upgrade: websocket\r\nConnection: Upgrade",
            "Expect: 100-continue",
            "Connection: close, close",
            "A:\tb\u{e9}",
            "A\u{e9}: b",
        ] {
            let mut http = broker.http();
            http.send(format!("GET /health HTTP/1.1\r\n{header}\r\n\r\n"));
            assert!(http.reply().is_some(), "{header}: no answer");
        }
    });
}

#[test]
fn connections_that_reset() {
    let broker = Broker::start();
    survives(&broker, || {
        for _ in 0..20 {
            let burst: Vec<TcpStream> = (0..64).map(|_| shout(&broker, "GET /health HTTP/1.1\r\n\r\n")).collect();
            for stream in burst {
                // Waits for the answer, because closing a connection with an unread answer sends a reset. If the broker
                // has dropped the connection, there is no answer.
                let _ = stream.peek(&mut [0]);
            }
        }
    });
}

#[test]
fn connections_that_idle_or_trickle() {
    let broker = Broker::start();
    survives(&broker, || {
        let idle: Vec<TcpStream> = (0..400).map(|_| broker.raw()).collect();
        let mut slow: Vec<TcpStream> = (0..100).map(|_| shout(&broker, "GET /hea")).collect();
        for _ in 0..20 {
            slow.retain_mut(|stream| stream.write_all(b"a").is_ok());
        }
        // With so many open connections, the broker may drop a new connection. The client then connects again.
        until("a newcomer is let in", || {
            let mut http = broker.http();
            http.send("GET /health HTTP/1.1\r\n\r\n");
            http.reply().is_some_and(|reply| reply.status == 200)
        });
        drop(idle);
    });
}

#[test]
fn a_flood_that_reads_no_answers() {
    let broker = Broker::start();
    let auth = auth(&broker);
    let mut http = broker.http();
    let id = http.peer("/p");
    for n in 0..60 {
        let value = "v".repeat(60_000);
        http.ok(
            "/state",
            json!({ "action": "set", "key": format!("k{n}"), "value": value, "peerId": id, "namespace": "big" }),
        );
    }
    survives(&broker, || {
        let body = json!({ "action": "list", "namespace": "big" }).to_string();
        let text = format!("POST /state HTTP/1.1\r\n{auth}Content-Length: {}\r\n\r\n{body}", body.len()).repeat(50);
        let mut deaf: Vec<TcpStream> = (0..6).map(|_| shout(&broker, &text)).collect();
        let mut stream = broker.raw();
        stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let text = format!("GET /status HTTP/1.1\r\n{auth}\r\n").repeat(1000);
        let mut sent = 0;
        while let Ok(n) = stream.write(text.as_bytes()) {
            sent += n;
            assert!(sent < 64 << 20, "nothing stops it");
        }
        deaf.iter_mut().for_each(|stream| stream.set_nonblocking(true).unwrap());
    });
}

#[test]
fn malicious_bodies() {
    let broker = Broker::start();
    survives(&broker, || {
        let mut http = broker.http();
        let fill =
            |start: &str, unit: &str, end: &str| format!("{start}{}{end}", unit.repeat(((1 << 20) - 100) / unit.len()));
        for (body, status) in [
            (fill("{\"a\":", "[", ""), 400),
            (fill("{\"a\":", "{\"a\":", ""), 400),
            (fill("{\"a\":[", "0,", "0]}"), 200),
            (fill("{\"a\":[", "[],", "0]}"), 200),
            (fill("{\"a\":\"", "\\u0000", "\"}"), 200),
            (fill("{\"a\":1", "0", "}"), 400),
            (fill("{", "\"\":0,", "\"\":0}"), 200),
        ] {
            for target in ["/peers", "/events"] {
                let reply = http.ask("POST", target, "", body.as_bytes());
                assert_eq!(reply.status, status, "{target} {:.40}", body);
            }
        }
        let keys: Vec<String> = (0..90_000).map(|n| format!("\"{n:x}\":0")).collect();
        assert_eq!(http.ask("POST", "/peers", "", format!("{{{}}}", keys.join(",")).as_bytes()).status, 200);
    });
}

#[test]
fn globs_that_cost() {
    let broker = Broker::start();
    survives(&broker, || {
        let mut http = broker.http();
        for (unit, n) in [("*a", 1900), ("/**/a", 780), ("*?", 1900)] {
            // These globs do not overlap, so the broker grants all locks. It compares each new lock with all earlier
            // locks.
            for k in 0..40 {
                let path = format!("/x{k}{}", unit.repeat(n));
                let body = json!({ "action": "lock", "filePath": path, "peerId": format!("holder {k} {unit}") });
                assert_eq!(http.post("/lock", &body).status, 200);
            }
        }
    });
}

#[test]
fn subscriptions_cost_little_memory() {
    let broker = Broker::start();
    survives(&broker, || {
        let mut http = broker.http();
        for n in 0..100 {
            let long = format!("{n}{}", "x".repeat(500_000));
            let body = json!({ "action": "subscribe", "peerId": long, "types": [long] });
            assert!(http.post("/events", &body).status < 500);
        }
    });
}

#[test]
fn a_list_is_no_larger_than_promised() {
    let broker = Broker::start();
    let mut http = broker.http();
    let value = "v".repeat(65_536);
    for n in 0..400 {
        http.ok("/state", json!({ "action": "set", "key": format!("{n}"), "value": value, "peerId": "a" }));
    }
    let mut length = 0;
    survives(&broker, || length = http.post("/state", &json!({ "action": "list" })).text.len());
    assert!(length < 9 << 20, "a list of {length} bytes, where 8 MiB are the bound of one call");
}

#[test]
fn a_list_of_events_is_no_larger_either() {
    let broker = Broker::with(&[("SLM_MESH_RATE", "100000")]);
    let mut session = broker.place.session("codex-mcp-client", "work");
    let payload = json!({ "text": "e".repeat(60_000) });
    for _ in 0..200 {
        session.tool("mesh_events", json!({ "action": "emit", "type": "deploy.done", "payload": payload }));
    }
    let length = broker.http().post("/events", &json!({ "limit": -1 })).text.len();
    assert!(length < 9 << 20, "a list of {length} bytes, where 8 MiB are the bound of one call");
}

#[test]
fn invented_peers_do_not_use_up_the_subscriptions() {
    let broker = Broker::start();
    let mut http = broker.http();
    // The test makes more subscriptions than the mesh can keep. The subscribing peers do not exist, so the mesh drops
    // their subscriptions.
    for n in 0..84 {
        let ask = |n: usize| {
            let body = json!({ "action": "subscribe", "peerId": format!("invented {n}"), "types": ["*"] }).to_string();
            format!("POST /events HTTP/1.1\r\n{}Content-Length: {}\r\n\r\n{body}", auth(&broker), body.len())
        };
        http.send((n * 50..n * 50 + 50).map(ask).collect::<String>());
        (0..50).for_each(|_| assert_eq!(http.reply().unwrap().body["subscribed"], json!(["*"])));
    }
    let path = broker.place.root.join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let body = json!({ "projectPath": "/p", "pid": 1, "udsPath": path });
    let id = word(&http.ok("/register", body)["peerId"]);
    let (mut line, _) = listener.accept().unwrap();
    line.set_read_timeout(Some(SOON)).unwrap();
    http.ok("/events", json!({ "action": "subscribe", "peerId": id, "types": ["state_changed"] }));
    http.ok("/state", json!({ "action": "set", "key": "k", "value": "v", "peerId": id }));
    let mut start = [0; 15];
    line.read_exact(&mut start).unwrap();
    assert_eq!(std::str::from_utf8(&start), Ok("{\"type\":\"event\""), "the event comes before its update");
}

#[test]
fn a_project_that_is_a_trap_keeps_nobody_waiting() {
    let broker = Broker::start();
    let trap = broker.place.root.join("trap");
    std::fs::create_dir_all(trap.join(".git")).unwrap();
    // `.git/HEAD` is a named pipe. A process that opens it for reading waits until another process opens it for
    // writing.
    let head = trap.join(".git/HEAD");
    if !std::process::Command::new("mkfifo").arg(&head).status().is_ok_and(|status| status.success()) {
        return skip("a_project_that_is_a_trap_keeps_nobody_waiting", "there is no mkfifo");
    }
    for (target, body) in [
        ("/register", json!({ "projectPath": trap, "pid": 1 })),
        ("/peers", json!({ "scope": "repo", "projectPath": trap })),
    ] {
        let mut hung = broker.http();
        let text = body.to_string();
        hung.send(format!("POST {target} HTTP/1.1\r\n{}Content-Length: {}\r\n\r\n{text}", auth(&broker), text.len()));
        let mut other = broker.http();
        other.send(format!("GET /status HTTP/1.1\r\n{}\r\n", auth(&broker)));
        let answered = other.reply().is_some();
        // Opens the pipe for writing. This lets the waiting request continue, and lets the broker end after the test.
        drop(std::fs::OpenOptions::new().read(true).write(true).open(&head));
        assert!(answered, "{target} of one client holds up all others");
        assert_eq!(hung.reply().unwrap().status, 200);
    }
}

#[test]
fn a_quiet_broker_uses_no_processor() {
    let broker = Broker::start();
    let mut http = broker.http();
    // The broker tries to push to three sockets. The first does not exist, the second refuses connections, and the
    // third closes them at once. These attempts must not keep the broker busy.
    let gone = broker.place.root.join("gone");
    http.ok("/register", json!({ "projectPath": "/p", "pid": 1, "udsPath": gone }));
    let shut = broker.place.root.join("shut");
    drop(std::os::unix::net::UnixListener::bind(&shut).unwrap());
    http.ok("/register", json!({ "projectPath": "/p", "pid": 1, "udsPath": shut }));
    let rude = broker.place.root.join("rude");
    let listener = std::os::unix::net::UnixListener::bind(&rude).unwrap();
    // This thread accepts and closes connections until the process ends.
    std::thread::spawn(move || while listener.accept().is_ok() {});
    http.ok("/register", json!({ "projectPath": "/p", "pid": 1, "udsPath": rude }));
    let Some(before) = broker.ticks() else { return skip("a_quiet_broker_uses_no_processor", "there is no /proc") };
    let mut quiet = broker.raw();
    quiet.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    // This read waits for one second. During this second, no client sends anything.
    assert!(quiet.read(&mut [0]).is_err());
    let used = broker.ticks().unwrap() - before;
    assert!(used < 30, "{used} hundredths of a second of work in a second without any");
}

#[test]
fn memory_is_freed_after_an_attack() {
    let broker = Broker::start();
    let mut kept: Vec<TcpStream> = (0..200).map(|_| shout(&broker, "GET /status HTTP/1.1\r\nA: b")).collect();
    kept.clear();
    let fds = || std::fs::read_dir(format!("/proc/{}/fd", broker.place.broker_pid().unwrap())).map(|dir| dir.count());
    if fds().is_err() {
        return skip("memory_is_freed_after_an_attack", "there is no /proc");
    }
    until("the descriptors are free", || fds().unwrap() < 40);
}
