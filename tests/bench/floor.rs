//! Measures the floor: the time that the machine itself needs for similar work without slm-mesh. A call is compared
//! with an echo of its bytes, through mio and serde_json or through tiny_http. A write is compared with the commit of
//! one row.

use super::place::{Http, Line, Scratch};
use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};
use rusqlite::Connection;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

/// Another process that runs this program. The process is killed when this value is dropped.
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // This fails if the child has ended by itself, which is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs this program as a server in another process, and returns the line that the server prints when it is ready.
pub fn serve_beside(args: &[&str]) -> (Server, String) {
    let program = std::env::current_exe().expect("this program has a path");
    let mut child = Command::new(program).args(args).stdout(Stdio::piped()).spawn().expect("an echo starts");
    let mut word = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut word).expect("an echo says that it is ready");
    (Server(child), word.trim().to_owned())
}

/// Starts the echo server that uses mio and serde_json.
pub fn echo(scratch: &Scratch) -> (Server, String) {
    let path = scratch.path.join("echo.sock").display().to_string();
    let (server, _) = serve_beside(&["--echo", &path]);
    (server, path)
}

/// Connects to the echo server at `path`. The server parses every line, and answers each line with `answer`.
pub fn echo_line(path: &str, answer: &[u8]) -> Line {
    let mut line = Line::connect(std::path::Path::new(path));
    assert_eq!(line.ask(answer), b"known\n");
    line
}

/// Starts tiny_http, and connects to it.
pub fn echo_http() -> (Server, Http) {
    let (server, port) = serve_beside(&["--echo-http"]);
    (server, Http::connect(port.parse().expect("a port")))
}

/// Starts an echo of bytes over TCP, and connects to it.
pub fn echo_tcp() -> (Server, TcpStream) {
    let (server, port) = serve_beside(&["--echo-tcp"]);
    let stream = TcpStream::connect(("127.0.0.1", port.parse().expect("a port"))).expect("an echo");
    stream.set_nodelay(true).expect("a socket");
    (server, stream)
}

/// Sends all received bytes back, on one connection.
pub fn serve_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    println!("{}", listener.local_addr().expect("an address").port());
    let (mut stream, _) = listener.accept().expect("a caller");
    stream.set_nodelay(true).expect("a socket");
    let mut buffer = [0; 64 * 1024];
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 || stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

/// Runs the echo server. The server remembers the first line of each connection, and answers each later line with that
/// first line.
pub fn serve_echo(path: &str) {
    let mut poll = Poll::new().expect("a poll");
    let mut listener = UnixListener::bind(path).expect("the echo's socket");
    poll.registry().register(&mut listener, Token(0), Interest::READABLE).expect("registered");
    println!("ready");
    let mut events = Events::with_capacity(64);
    let mut clients: Vec<(UnixStream, Option<Value>)> = Vec::new();
    loop {
        poll.poll(&mut events, None).expect("polled");
        for event in &events {
            if event.token() == Token(0) {
                while let Ok((mut stream, _)) = listener.accept() {
                    let token = Token(clients.len() + 1);
                    poll.registry().register(&mut stream, token, Interest::READABLE).expect("registered");
                    clients.push((stream, None));
                }
            } else {
                let (stream, answer) = &mut clients[event.token().0 - 1];
                serve_line(stream, answer);
            }
        }
    }
}

/// Answers one line. Each read returns a whole line, because callers wait for an answer before they send the next line.
fn serve_line(stream: &mut UnixStream, answer: &mut Option<Value>) {
    let mut buffer = [0; 64 * 1024];
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 {
            return;
        }
        let line: Value = serde_json::from_slice(&buffer[..n]).expect("a line of JSON");
        match answer {
            None => {
                *answer = Some(line);
                stream.write_all(b"known\n").expect("the caller reads");
            }
            Some(answer) => {
                answer["id"] = line["id"].clone();
                let mut text = answer.to_string();
                text.push('\n');
                stream.write_all(text.as_bytes()).expect("the caller reads");
            }
        }
        if n < buffer.len() {
            return;
        }
    }
}

/// Runs tiny_http, which reads the body and answers with as many bytes as the path says.
pub fn serve_http() {
    let server = tiny_http::Server::http("127.0.0.1:0").expect("a port");
    println!("{}", server.server_addr().to_ip().expect("an address").port());
    for mut request in server.incoming_requests() {
        let mut body = Vec::new();
        request.as_reader().read_to_end(&mut body).expect("a body");
        let n: usize = request.url().trim_start_matches('/').parse().expect("a size");
        // This fails if the client has closed the connection, which is fine.
        let _ = request.respond(tiny_http::Response::from_data(vec![b'x'; n]));
    }
}

/// A database that gets one indexed row of `size` bytes in each transaction.
pub struct Commits {
    db: Connection,
    body: String,
    n: i64,
}

impl Commits {
    /// A new database in WAL mode with synchronous NORMAL, like the broker's database.
    pub fn new(scratch: &Scratch, name: &str, size: usize) -> Commits {
        let db = Connection::open(scratch.path.join(name)).expect("a database");
        db.pragma_update(None, "journal_mode", "WAL").expect("WAL");
        db.pragma_update(None, "synchronous", "NORMAL").expect("NORMAL");
        db.execute_batch("CREATE TABLE t(seq INTEGER PRIMARY KEY, who TEXT, body TEXT); CREATE INDEX i ON t(who)")
            .expect("a table");
        Commits { db, body: "x".repeat(size), n: 0 }
    }

    /// Commits one row.
    pub fn one(&mut self) {
        self.n += 1;
        let run = |sql: &str| self.db.prepare_cached(sql).expect("SQL").execute([]).expect("done");
        run("BEGIN IMMEDIATE");
        let who = format!("{:036}", self.n % 50);
        let mut insert = self.db.prepare_cached("INSERT INTO t VALUES (?1, ?2, ?3)").expect("SQL");
        insert.execute(rusqlite::params![self.n, who, self.body]).expect("inserted");
        run("COMMIT");
    }
}
