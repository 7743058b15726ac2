//! Hostile clients: one client never reads, and two clients send garbage. They continue until the benchmark ends.

use super::Load;
use super::place::request;
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// The pause between two writes of a hostile client. With this pause, the client adds little to the measured load.
const PAUSE: Duration = Duration::from_millis(5);

/// A random number generator (xorshift64*). Its seed is fixed, so each run sends the same garbage.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn bytes(&mut self, n_max: u64) -> Vec<u8> {
        (0..self.below(n_max)).map(|_| self.below(256) as u8).collect()
    }

    /// Returns random bytes, part of a request, a line of brackets, or a call that makes no sense.
    fn line(&mut self) -> Vec<u8> {
        let whole = request("state.set", &json!({ "key": self.below(9), "value": [], "no": "such" }));
        match self.below(4) {
            0 => self.bytes(20_000),
            1 => whole[..self.below(whole.len() as u64) as usize].to_vec(),
            2 => [vec![b'['; self.below(3000) as usize], b"\n".to_vec()].concat(),
            _ => whole,
        }
    }

    fn http(&mut self, auth: &str) -> Vec<u8> {
        match self.below(5) {
            0 => self.bytes(20_000),
            1 => format!("POST /send HTTP/1.1\r\n{auth}Content-Length: 100\r\n\r\n{{").into_bytes(),
            2 => format!("POST /send HTTP/1.1\r\n{auth}Content-Length: 2\r\n\r\n[]").into_bytes(),
            3 => b"GET /status HTTP/1.1\r\nAuthorization: Bearer wrong\r\n\r\n".to_vec(),
            _ => format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(self.below(70_000) as usize)).into_bytes(),
        }
    }
}

/// Subscribes to every event and makes calls without end, but never reads a byte.
pub fn never_read(load: &Load) {
    let connect = || {
        let mut stream = UnixStream::connect(load.mesh.dir().join("mesh.sock")).expect("a socket");
        stream.set_nonblocking(true).expect("a socket");
        let attach = json!({ "agent": "bench", "project": "/deaf", "pid": 1, "name": "deaf" });
        let lines = [request("attach", &attach), request("events.subscribe", &json!({ "types": ["*"] }))].concat();
        // If the broker has already closed the connection, the next write in the loop also fails, and the loop connects
        // again.
        let _ = stream.write_all(&lines);
        stream
    };
    let ask = request("peers", &json!({ "scope": "machine" })).repeat(50);
    let mut stream = connect();
    while load.goes_on() {
        match stream.write(&ask) {
            Ok(_) => {
                load.n_pests.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => {
                load.n_drops.fetch_add(1, Ordering::Relaxed);
                stream = connect();
            }
        }
        thread::sleep(PAUSE);
    }
}

/// Sends garbage to the socket. Also reads answers, so that the broker continues to accept the garbage.
pub fn babble_on_the_socket(load: &Load) {
    let connect = || {
        let stream = UnixStream::connect(load.mesh.dir().join("mesh.sock")).expect("a socket");
        stream.set_nonblocking(true).expect("a socket");
        stream
    };
    let (mut dice, mut stream, mut heard) = (Dice(0x5eed), connect(), vec![0; 64 * 1024]);
    while load.goes_on() {
        let gone = match stream.write(&dice.line()) {
            Ok(_) => stream.read(&mut heard).is_ok_and(|n| n == 0),
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        load.n_pests.fetch_add(1, Ordering::Relaxed);
        if gone || dice.below(200) == 0 {
            load.n_drops.fetch_add(u64::from(gone), Ordering::Relaxed);
            stream = connect();
        }
        thread::sleep(PAUSE);
    }
}

/// Sends garbage over HTTP. Each piece is sent on a new connection. Some of the connections stay open for a while.
pub fn babble_over_http(load: &Load) {
    let port = std::fs::read_to_string(load.mesh.dir().join("port")).expect("a port");
    let token = std::fs::read_to_string(load.mesh.dir().join("broker.token")).expect("a token");
    let (port, auth) =
        (port.trim().parse::<u16>().expect("a number"), format!("Authorization: Bearer {}\r\n", token.trim()));
    let (mut dice, mut open) = (Dice(0xbad), Vec::new());
    while load.goes_on() {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            // The broker may already have closed the connection, which is fine.
            let _ = stream.write_all(&dice.http(&auth));
            open.push(stream);
        }
        load.n_pests.fetch_add(1, Ordering::Relaxed);
        if open.len() > 16 {
            open.remove(dice.below(16) as usize);
        }
        thread::sleep(PAUSE);
    }
}
