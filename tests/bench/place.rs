//! Sets up a mesh for each measurement: a directory on the real disk, a broker, and clients that add almost nothing to
//! the measured times.

use serde_json::{Value, json};
use slm_mesh::client::stream::BrokerStream;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

static N: AtomicU32 = AtomicU32::new(0);

/// The program to measure: `SLM_MESH_BIN`, or the program that cargo built together with this benchmark.
pub fn program() -> PathBuf {
    let named = std::env::var_os("SLM_MESH_BIN").map_or_else(|| env!("CARGO_BIN_EXE_slm-mesh").into(), PathBuf::from);
    named.canonicalize().unwrap_or_else(|error| panic!("{}: {error}; build it first", named.display()))
}

/// Whether the program needs no dynamic loader. Such a program is a 64-bit ELF file without the program header
/// PT_INTERP.
pub fn is_static() -> bool {
    let bytes = std::fs::read(program()).expect("the program can be read");
    let word = |at: usize, n: usize| bytes[at..at + n].iter().rev().fold(0usize, |sum, byte| sum << 8 | *byte as usize);
    bytes.starts_with(b"\x7fELF\x02\x01") && !(0..word(56, 2)).any(|n| word(word(32, 8) + n * word(54, 2), 4) == 3)
}

/// A directory that is removed when this value is dropped. It is not in /tmp, because /tmp is often in memory.
pub struct Scratch {
    /// The path of the directory.
    pub path: PathBuf,
}

impl Scratch {
    /// Creates a directory.
    pub fn new() -> Scratch {
        let n = N.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/var/tmp/slm-mesh-bench-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory in /var/tmp");
        Scratch { path }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // If this fails, the directory stays in /var/tmp. Its name shows that a benchmark created it.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A mesh and its directory. The broker runs as a child of this process.
pub struct Mesh {
    /// The directory that contains the data directory, `mesh`.
    pub scratch: Scratch,
    broker: Option<Child>,
    port: u16,
    /// The secret, if the broker is a hub.
    secret: Option<&'static str>,
    /// The address of a linked mesh; empty if there is none.
    link: String,
    /// The address of the log that several hubs share, and the duration of a hub's lease in seconds; `None` for a
    /// single hub.
    store: Option<(String, u64)>,
}

/// The secret that the guests of a hub know.
pub const SECRET: &str = "correct horse battery staple";

impl Mesh {
    /// A new mesh without a broker.
    pub fn new() -> Mesh {
        let port = 20_000 + (std::process::id() * 41 + N.load(Ordering::Relaxed) * 13) as u16 % 40_000;
        Mesh { scratch: Scratch::new(), broker: None, port, secret: None, link: String::new(), store: None }
    }

    /// A new mesh whose broker serves other machines. The broker is not announced on the network.
    pub fn hub() -> Mesh {
        Mesh::hub_with(SECRET)
    }

    /// Like [`Mesh::hub`], but with this secret.
    pub fn hub_with(secret: &'static str) -> Mesh {
        let mut mesh = Mesh::new();
        mesh.secret = Some(secret);
        mesh.start();
        mesh
    }

    /// Like [`Mesh::hub`], but the hub shares the log at `store` with other hubs.
    pub fn hub_over(store: &str, lease_seconds: u64) -> Mesh {
        let mut mesh = Mesh::new();
        (mesh.secret, mesh.store) = (Some(SECRET), Some((store.to_owned(), lease_seconds)));
        mesh.start();
        mesh
    }

    /// A new mesh with a broker that is linked to another mesh.
    pub fn linked_to(url: &str) -> Mesh {
        let mut mesh = Mesh::new();
        mesh.link = url.into();
        mesh.start();
        mesh
    }

    /// A new mesh with its broker.
    pub fn started() -> Mesh {
        let mut mesh = Mesh::new();
        mesh.start();
        mesh
    }

    /// The data directory.
    pub fn dir(&self) -> PathBuf {
        self.scratch.path.join("mesh")
    }

    /// Returns a command that runs the program with the settings of a benchmark. Sets no working directory, because std
    /// starts a process faster without one.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(args).env_clear().env("HOME", &self.scratch.path).env("SLM_MESH_DATA_DIR", self.dir());
        command.env("SLM_MESH_PORT", self.port.to_string()).env("SLM_MESH_RATE", "10000000");
        command.env("SLM_MESH_IDLE_TIMEOUT", "0").stdin(Stdio::null()).stdout(Stdio::null());
        if !self.link.is_empty() {
            command.env("SLM_MESH_PEER_URL", &self.link);
        }
        if let Some((store, lease_seconds)) = &self.store {
            command.env("SLM_MESH_STORE", store).env("SLM_MESH_LEASE", lease_seconds.to_string());
        }
        if let Some(secret) = self.secret {
            command.env("SLM_MESH_HOST", "0.0.0.0").env("SLM_MESH_SHARED_SECRET", secret);
            command.env("SLM_MESH_DISCOVERY", "off");
        }
        command
    }

    /// Starts the broker and waits until it is ready.
    pub fn start(&mut self) {
        let log = Stdio::from(std::fs::File::create(self.scratch.path.join("log")).expect("a log"));
        let started = self.command(&["start", "--json"]).stdout(Stdio::piped()).stderr(log).spawn();
        let mut broker = started.expect("the program starts");
        let mut word = String::new();
        BufReader::new(broker.stdout.take().expect("piped")).read_line(&mut word).expect("its word");
        let log = || std::fs::read_to_string(self.scratch.path.join("log")).unwrap_or_default();
        assert!(word.contains(r#""ok":true"#), "the broker did not start: {word}{}", log());
        self.broker = Some(broker);
    }

    /// Stops the broker with the verb `stop`, which also works if a session has started the broker.
    pub fn stop(&mut self) {
        // The verb fails if there is no broker, which is fine.
        let _ = self.command(&["stop"]).stderr(Stdio::null()).status();
        if let Some(mut broker) = self.broker.take() {
            broker.wait().expect("it ends");
        }
    }

    /// Ends the broker with SIGKILL, which a process can't handle.
    pub fn kill(&mut self) {
        let mut broker = self.broker.take().expect("it was started");
        broker.kill().expect("a child of ours");
        broker.wait().expect("it ends");
    }

    /// The broker's process.
    pub fn pid(&self) -> u32 {
        self.broker.as_ref().expect("it was started").id()
    }

    /// A new connection that is not attached as a peer.
    pub fn line(&self) -> Line {
        Line::connect(&self.dir().join("mesh.sock"))
    }

    /// Makes a new connection, and attaches as a peer with this name.
    pub fn attach(&self, name: &str) -> Line {
        attached(self.line(), name)
    }

    /// Connects over the WebSocket, as if from another machine, and attaches as a peer with this name.
    pub fn attach_remote(&self, name: &str) -> Line {
        let port = self.http_port() + 1;
        let stream =
            slm_mesh::remote::guest_handshake_with_hub::connect("127.0.0.1", port, SECRET, u64::from(port), None);
        let mut line = Line::over(BrokerStream::Hub(stream.unwrap_or_else(|error| panic!("{}", error.text))));
        let whence = json!({ "host": "elsewhere", "user": "bench", "ancestors": [] });
        line.send(format!("{}\n", json!({ "jsonrpc": "2.0", "method": "origin", "params": whence })).as_bytes());
        attached(line, name)
    }

    /// The port on which HTTP is served.
    pub fn http_port(&self) -> u16 {
        let port = std::fs::read_to_string(self.dir().join("port")).expect("a port");
        port.trim().parse().expect("a number")
    }

    /// An MCP session that is initialized.
    pub fn session(&self) -> Session {
        let mut child = self
            .command(&[])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a session starts");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut session = Session { child, input: Some(input), output: BufReader::new(output), answer: String::new() };
        let hello = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "claude-code", "version": "1" } });
        session.ask(&request("initialize", &hello));
        let ready = "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n";
        session.input.as_mut().expect("open").write_all(ready.as_bytes()).expect("the session reads");
        session
    }

    /// A keep-alive HTTP connection, and the header that authorizes its requests.
    pub fn http(&self) -> (Http, String) {
        let token = std::fs::read_to_string(self.dir().join("broker.token")).expect("a token");
        (Http::connect(self.http_port()), format!("Authorization: Bearer {}\r\n", token.trim()))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.stop();
    }
}

fn attached(mut line: Line, name: &str) -> Line {
    let asked = json!({ "agent": "bench", "project": "/bench", "pid": std::process::id(), "name": name });
    let answer = line.call("attach", &asked);
    assert_eq!(answer["result"]["you"]["name"], json!(name), "{answer}");
    line
}

/// A request as a line. All requests may have the same id, because each request is answered before the next one is
/// sent.
pub fn request(method: &str, params: &Value) -> Vec<u8> {
    format!("{}\n", json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })).into_bytes()
}

/// A tool call as a line.
pub fn tool(name: &str, arguments: Value) -> Vec<u8> {
    request("tools/call", &json!({ "name": name, "arguments": arguments }))
}

/// A blocking connection that carries lines.
pub struct Line {
    stream: BrokerStream,
    buffer: Vec<u8>,
    /// The number of bytes in the buffer, and the number of bytes that have been returned.
    filled: usize,
    taken: usize,
}

impl Line {
    /// Connects to the broker's socket.
    pub fn connect(path: &Path) -> Line {
        let socket = UnixStream::connect(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Line::over(BrokerStream::Socket(socket))
    }

    fn over(stream: BrokerStream) -> Line {
        Line { stream, buffer: vec![0; 256 * 1024], filled: 0, taken: 0 }
    }

    /// Sends one or more lines.
    pub fn send(&mut self, lines: &[u8]) {
        self.stream.write_all(lines).expect("the broker reads");
    }

    /// The next line, including its line end.
    pub fn read(&mut self) -> &[u8] {
        let mut seen = self.taken;
        loop {
            if let Some(at) = self.buffer[seen..self.filled].iter().position(|byte| *byte == b'\n') {
                let start = std::mem::replace(&mut self.taken, seen + at + 1);
                return &self.buffer[start..self.taken];
            }
            seen = self.filled;
            if self.taken == self.filled {
                (self.taken, self.filled, seen) = (0, 0, 0);
            } else if self.filled == self.buffer.len() {
                self.buffer.copy_within(self.taken.., 0);
                (self.filled, seen) = (self.filled - self.taken, seen - self.taken);
                self.taken = 0;
            }
            let n = self.stream.read(&mut self.buffer[self.filled..]).expect("the broker answers");
            assert!(n > 0, "the broker hung up, or a line is too long");
            self.filled += n;
        }
    }

    /// Sends a request and returns the answer.
    pub fn ask(&mut self, line: &[u8]) -> &[u8] {
        self.send(line);
        self.read()
    }

    /// Makes a call that must succeed. Skips notifications that arrive before the result.
    pub fn call(&mut self, method: &str, params: &Value) -> Value {
        self.send(&request(method, params));
        loop {
            let answer: Value = serde_json::from_slice(self.read()).expect("a line is JSON");
            if answer.get("id").is_some() {
                assert!(answer.get("result").is_some(), "{method} {params}: {answer}");
                return answer;
            }
        }
    }

    /// Answers the pings that have arrived, as a session that waits for mail does.
    pub fn answer_pings(&mut self) {
        self.stream.set_nonblocking(true).expect("a stream can be read without waiting");
        let read = self.stream.read(&mut self.buffer[self.filled..]);
        self.filled += read.unwrap_or_else(|error| {
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "the hub keeps an idle guest");
            0
        });
        self.stream.set_nonblocking(false).expect("a stream can be read with waiting");
    }

    /// Returns a second handle to the connection, for another thread.
    pub fn writer(&self) -> BrokerStream {
        self.stream.another().expect("a descriptor")
    }
}

/// An MCP session over standard input and output.
pub struct Session {
    /// The process of the session.
    pub child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    answer: String,
}

impl Session {
    /// Sends a request and returns the answer.
    pub fn ask(&mut self, line: &[u8]) -> &str {
        self.input.as_mut().expect("open").write_all(line).expect("the session reads");
        self.answer.clear();
        self.output.read_line(&mut self.answer).expect("the session answers");
        &self.answer
    }

    /// Calls a tool that must succeed.
    pub fn tool(&mut self, line: &[u8]) {
        let answer = self.ask(line);
        assert!(answer.contains(r#""isError":false"#), "{answer}");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.input = None;
        self.child.wait().expect("a session ends when its client closes");
    }
}

/// A keep-alive HTTP connection.
pub struct Http {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Http {
    /// Connects to a port of this machine.
    pub fn connect(port: u16) -> Http {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("an HTTP port");
        stream.set_nodelay(true).expect("a socket");
        Http { stream, buffer: vec![0; 64 * 1024] }
    }

    /// A second connection to the same server.
    pub fn again(&self) -> Http {
        Http::connect(self.stream.peer_addr().expect("connected").port())
    }

    /// Sends a request, waits for the whole answer, and returns the size of its body.
    pub fn ask(&mut self, request: &[u8]) -> usize {
        self.stream.write_all(request).expect("the server reads");
        let mut filled = 0;
        loop {
            let n = self.stream.read(&mut self.buffer[filled..]).expect("the server answers");
            assert!(n > 0, "the server hung up");
            filled += n;
            let text = &self.buffer[..filled];
            let Some(end) = text.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&text[..end]).expect("a head is text");
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
            let length = length.trim().parse().expect("a number");
            if filled == end + 4 + length {
                return length;
            }
        }
    }
}
