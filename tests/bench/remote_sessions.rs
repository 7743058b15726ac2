//! Measures sessions that connect like sessions on other machines, but over loopback. The times for comparison also
//! include the cost of loopback.

use super::calls::VALUE;
use super::figures::{Reach, Row, Samples, Table, in_turns, micros_since, size};
use super::floor;
use super::place::{Line, Mesh, request};
use super::rest::memory_of;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The number of remote sessions.
const N_GUESTS: usize = 500;
/// How long the hub may take to handle the arrival of the sessions, and how long the sessions are then idle.
const SETTLES: Duration = Duration::from_secs(3);
const SILENT: Duration = Duration::from_secs(20);
/// `/proc` counts CPU time in ticks of a hundredth of a second.
const TICKS_PER_SECOND: f64 = 100.0;
/// The number of clients without the secret, and the pause of each client between two connections. Without the pause,
/// these clients themselves would use all of the CPU.
const N_STRANGERS: usize = 8;
const PAUSE: Duration = Duration::from_millis(5);

/// Times a call and a push over the WebSocket. The floor of the call is the sum of two times: the time of the same call
/// over the Unix socket, and the time of a TCP echo of as many bytes as the answer has. The floor of the push includes
/// only half of this TCP time.
pub fn far(table: &mut Table) {
    let mesh = Mesh::hub();
    let (mut near, mut far) = (mesh.attach("near"), mesh.attach_remote("far"));
    let get = request("state.get", &json!({ "key": "port" }));
    near.call("state.set", &json!({ "key": "port", "value": VALUE }));
    let n_bytes = near.ask(&get).len();
    let (_server, mut echo) = floor::echo_tcp();
    let (bytes, mut back) = (vec![b'x'; n_bytes], vec![0; n_bytes]);
    let mut hop = || {
        echo.write_all(&bytes).expect("the echo reads");
        echo.read_exact(&mut back).expect("the echo answers");
    };
    let samples = in_turns(40, 80, &mut [&mut || ignore(near.ask(&get)), &mut || ignore(far.ask(&get)), &mut || hop()]);
    let (local, tcp) = (samples[0].median(), samples[2].median());
    table.times("far get", &samples[1], Some(local + tcp), Reach::Times(1.3));

    let (mut sender, send) =
        (mesh.attach("sender"), |to: &str| request("send", &json!({ "to": to, "message": VALUE })));
    let (to_near, to_far) = (send("near"), send("far"));
    let mut pushed = |line: &[u8], reader: &mut Line| {
        let began = Instant::now();
        sender.send(line);
        assert!(reader.read().len() > 2);
        let took = micros_since(began);
        sender.read();
        took
    };
    let (mut nears, mut fars) = (Vec::new(), Vec::new());
    for _ in 0..2000 {
        nears.push(pushed(&to_near, &mut near));
        fars.push(pushed(&to_far, &mut far));
    }
    let floor = Samples::new(nears).median() + tcp / 2.0;
    table.times("far push, send to arrival", &Samples::new(fars), Some(floor), Reach::Times(1.0));
}

/// Drops an answer, so that all measured closures have the same type.
fn ignore(_answer: &[u8]) {}

/// The CPU seconds that a process has used.
fn cpu_of(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("Linux tells");
    let fields: Vec<&str> = text.rsplit(')').next().expect("its fields").split_whitespace().collect();
    let ticks = |n: usize| fields[n].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

/// Keeps the guests idle for the time `span`. They only answer pings.
fn idle(guests: &mut [Line], span: Duration) {
    let end = Instant::now() + span;
    while Instant::now() < end {
        guests.iter_mut().for_each(Line::answer_pings);
        thread::sleep(Duration::from_secs(1));
    }
}

/// Measures many guests: first while they are idle, and then when they receive a broadcast.
pub fn guests(table: &mut Table) {
    let mesh = Mesh::hub();
    let mut sender = mesh.attach("sender");
    thread::sleep(Duration::from_secs(1));
    let (alone, _) = memory_of(mesh.pid());
    let mut guests: Vec<Line> = (0..N_GUESTS).map(|n| mesh.attach_remote(&format!("guest-{n}"))).collect();
    idle(&mut guests, SETTLES);
    let before = cpu_of(mesh.pid());
    idle(&mut guests, SILENT);
    let share = 100.0 * (cpu_of(mesh.pid()) - before) / SILENT.as_secs_f64();
    let more = memory_of(mesh.pid()).0 - alone;
    let plain = |work: &str, figure: String, reach: &str, reached: bool| Row {
        work: work.into(),
        figure,
        p99: "-".into(),
        floor: "-".into(),
        ratio: "-".into(),
        reach: reach.into(),
        reached,
    };
    table.row(plain("memory more, 500 guests", size(more), "20 MB", more <= 20e6));
    table.row(plain("  CPU while they are idle", format!("{share:.2} %"), "1 %", share <= 1.0));
    let line = request("send", &json!({ "to": "all", "message": VALUE }));
    let mut spreads = Vec::new();
    for _ in 0..20 {
        sender.send(&line);
        let mut first = None;
        for guest in &mut guests {
            assert!(guest.read().len() > 2);
            first.get_or_insert_with(Instant::now);
        }
        spreads.push(micros_since(first.expect("there are guests")));
        sender.read();
    }
    table.times("  broadcast, from first to last", &Samples::new(spreads), None, Reach::MedianAndP99(50e3, 50e3));
}

/// Connects once as a client without the secret. Sends a wrong token, a wrong key, half of a request, or bytes that are
/// not a request.
fn intrude(n: usize, port: u16) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let upgrade = "GET /far HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Protocol: slm-mesh.noise.1\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    match n % 4 {
        0 => stream.write_all(b"\x16\x03\x01\x00\xff no request at all"),
        1 => stream.write_all(&upgrade.as_bytes()[..upgrade.len() / 2]),
        2 => stream.write_all(b"GET /peers HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer wrong\r\n\r\n"),
        _ => {
            stream.write_all(upgrade.as_bytes())?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            let n = stream.read(&mut [0; 1024])?;
            // A handshake message that has the right length but was made with a wrong key.
            let wrong = [&b"\x82\xb0\0\0\0\0"[..], &[7; 48]].concat();
            stream.write_all(if n > 0 { &wrong } else { b"" })
        }
    }
}

/// Times a call on this machine. Meanwhile, clients without the secret connect to both ports again and again.
pub fn strangers(table: &mut Table) {
    let mesh = Mesh::hub();
    let mut near = mesh.attach("near");
    let get = request("state.get", &json!({ "key": "port" }));
    near.call("state.set", &json!({ "key": "port", "value": VALUE }));
    let quiet = in_turns(40, 80, &mut [&mut || ignore(near.ask(&get))]).remove(0);
    let (port, over) = (mesh.http_port(), AtomicBool::new(false));
    let flooded = thread::scope(|scope| {
        for stranger in 0..N_STRANGERS {
            let over = &over;
            scope.spawn(move || {
                for n in stranger.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    // An error is expected, because the hub cuts the connection.
                    let _ = intrude(n, port + (n / 4 % 2) as u16);
                    thread::sleep(PAUSE);
                }
            });
        }
        let flooded = in_turns(200, 80, &mut [&mut || ignore(near.ask(&get))]).remove(0);
        over.store(true, Ordering::Relaxed);
        flooded
    });
    table.times("local get", &quiet, None, Reach::MedianAndP99(100.0, 500.0));
    table.times("  while strangers flood", &flooded, Some(quiet.median()), Reach::MedianAndP99(150.0, 1000.0));
}
