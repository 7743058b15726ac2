//! An HTTP server that echoes requests, and a client that can send any bytes. **Invariant:** no wait lasts forever.

use slm_mesh::broker::http::{Gate, Head, HttpResponse, HttpServer, Limits, PendingRequest};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A server that echoes requests. It answers `/big` with 16 MiB, and never answers `/hold`.
pub struct Mesh {
    server: Option<Arc<HttpServer>>,
    pub address: SocketAddr,
    pub held: Arc<Mutex<Vec<PendingRequest>>>,
    echo: Option<JoinHandle<()>>,
}

pub const BIG: usize = 16 << 20;
pub const SOON: Duration = Duration::from_secs(10);

pub fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Starts a server, but answers no requests. Returns the server, its address, the accepted requests, and the number of
/// calls to its wake function.
pub fn raw(
    limits: Limits,
    gate: Gate,
    queue: usize,
) -> (HttpServer, SocketAddr, Receiver<PendingRequest>, Arc<AtomicUsize>) {
    let (listener, address) = listener();
    let (sender, jobs) = sync_channel(queue);
    let wakes = Arc::new(AtomicUsize::new(0));
    let count = wakes.clone();
    let wake = move || {
        count.fetch_add(1, Ordering::Relaxed);
    };
    let server = HttpServer::start(listener, sender, Box::new(wake), gate, limits).unwrap();
    (server, address, jobs, wakes)
}

pub fn start(limits: Limits, gate: Gate) -> Mesh {
    let (server, address, jobs, _) = raw(limits, gate, 64);
    let server = Arc::new(server);
    let held = Arc::new(Mutex::new(Vec::new()));
    let (weak, keep) = (Arc::downgrade(&server), held.clone());
    let echo = std::thread::spawn(move || {
        for job in jobs {
            let answer = match job.request.head.target.as_str() {
                "/big" => HttpResponse::json(200, vec![b'x'; BIG]),
                "/hold" => {
                    keep.lock().unwrap().push(job);
                    continue;
                }
                target => HttpResponse::json(200, [target.as_bytes(), &job.request.body].concat()),
            };
            let Some(server) = weak.upgrade() else { return };
            server.respond(job.ticket, answer);
        }
    });
    Mesh { server: Some(server), address, held, echo: Some(echo) }
}

pub fn open(limits: Limits) -> Mesh {
    start(limits, Box::new(|_| None))
}

impl Mesh {
    pub fn client(&self) -> Client {
        Client::to(self.address)
    }

    pub fn server(&self) -> &HttpServer {
        self.server.as_ref().unwrap()
    }

    /// Checks that the server still serves a new client.
    pub fn is_well(&self) {
        self.client().get("/well", 200, "/well");
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.server = None;
        let ended = self.echo.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

pub struct Client(pub TcpStream);

impl Client {
    pub fn to(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client(stream)
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    pub fn get(&mut self, target: &str, status: u16, body: &str) {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        self.reads(status, body);
    }

    pub fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap_or_else(|e| {
                panic!("{e} after {:?}", String::from_utf8_lossy(&head));
            });
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    /// Reads one response. Returns its status, its body, and whether it has the header `Connection: close`.
    pub fn answer(&mut self) -> (u16, String, bool) {
        let head = self.head();
        let status = head[9..12].parse().unwrap();
        let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        (status, String::from_utf8(body).unwrap(), head.contains("\r\nConnection: close\r\n"))
    }

    #[track_caller]
    pub fn reads(&mut self, status: u16, body: &str) {
        assert_eq!(self.answer(), (status, body.to_string(), false));
    }

    /// Reads the last response. The server must then close the connection.
    #[track_caller]
    pub fn reads_last(&mut self, status: u16, words: &str) {
        let (got, body, close) = self.answer();
        assert_eq!((got, close), (status, true), "{body}");
        assert!(body.contains(words), "{body}");
        self.ends();
    }

    /// Checks that the server closed the connection without a reset.
    #[track_caller]
    pub fn ends(&mut self) {
        assert_eq!(self.0.read(&mut [0; 16]).unwrap(), 0);
    }

    /// Closes the connection while a response is unread, so that the server gets a reset.
    pub fn reset(self) {
        self.0.peek(&mut [0]).unwrap();
    }
}

#[track_caller]
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn token_gate() -> Gate {
    Box::new(|head: &Head| {
        (head.authorization.as_deref() != Some("Bearer t")).then(|| HttpResponse::json(401, b"{\"ok\":false}".to_vec()))
    })
}
