//! A broker for one test, and an HTTP client that uses only the standard library.

use super::support::{Place, until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

/// The timeout of every wait in these tests.
pub const SOON: Duration = Duration::from_secs(15);

/// A running broker with a data directory of its own. It is a child process of the test.
pub struct Broker {
    pub place: Place,
    child: Child,
    pub port: u16,
    pub token: String,
}

/// An HTTP connection that stays open for several requests.
pub struct Http {
    pub stream: BufReader<TcpStream>,
    token: String,
}

/// An HTTP response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub text: String,
    pub body: Value,
}

impl Broker {
    pub fn start() -> Broker {
        Broker::over(Place::new())
    }

    /// Starts a broker with these settings.
    pub fn with(settings: &[(&str, &str)]) -> Broker {
        Broker::over(settings.iter().fold(Place::new(), |place, (name, value)| place.with(name, value)))
    }

    pub fn over(place: Place) -> Broker {
        let (child, port) = spawn(&place);
        let token = std::fs::read_to_string(place.dir.join("broker.token")).unwrap();
        Broker { place, child, port, token }
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn http(&self) -> Http {
        Http::to(self.address(), &self.token)
    }

    /// Opens a TCP connection to the broker's HTTP port. The test can write any bytes to the connection.
    pub fn raw(&self) -> TcpStream {
        tcp(self.address())
    }

    /// Sends a signal to the broker, and waits until the broker has ended.
    pub fn end(&mut self, signal: rustix::process::Signal) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
        self.child.wait().unwrap()
    }

    /// Starts a new broker in the same data directory.
    pub fn again(&mut self) {
        (self.child, self.port) = spawn(&self.place);
    }

    /// The broker's resident memory in KiB; `None` if the system does not report it.
    pub fn rss(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// The CPU time that the broker has used, in clock ticks; `None` if the system does not report it.
    pub fn ticks(&self) -> Option<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // The kill fails if the broker has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(place: &Place) -> (Child, u16) {
    std::fs::create_dir_all(&place.dir).unwrap();
    let log = std::fs::File::options().create(true).append(true).open(place.dir.join("broker.log")).unwrap();
    let mut command = place.command(&["start", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}: {}", place.log()));
    (child, said["data"]["port"].as_u64().unwrap() as u16)
}

fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

impl Http {
    pub fn to(address: SocketAddr, token: &str) -> Http {
        Http { stream: BufReader::new(tcp(address)), token: token.to_owned() }
    }

    /// Sets the token that all later requests on this connection contain.
    pub fn token(mut self, token: &str) -> Http {
        self.token = token.to_owned();
        self
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Reads one response. Returns `None` if the server closed the connection without a response.
    pub fn reply(&mut self) -> Option<Reply> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let status = head.get(9..12)?.parse().ok()?;
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?.parse().ok()?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()?;
        let text = String::from_utf8(body).unwrap();
        Some(Reply { status, head, body: serde_json::from_str(&text).unwrap_or_default(), text })
    }

    /// Sends a request with this body. Each of the additional headers must end with `\r\n`.
    pub fn ask(&mut self, method: &str, target: &str, headers: &str, body: &[u8]) -> Reply {
        let auth =
            if self.token.is_empty() { String::new() } else { format!("Authorization: {}\r\n", self.authorization()) };
        let head = format!("{method} {target} HTTP/1.1\r\n{auth}{headers}Content-Length: {}\r\n\r\n", body.len());
        self.send([head.as_bytes(), body].concat());
        self.reply().unwrap_or_else(|| panic!("no answer to {method} {target}"))
    }

    fn authorization(&self) -> String {
        if self.token.contains(' ') { self.token.clone() } else { format!("Bearer {}", self.token) }
    }

    pub fn get(&mut self, target: &str) -> Reply {
        self.ask("GET", target, "Host: localhost\r\n", b"")
    }

    pub fn post(&mut self, target: &str, body: &Value) -> Reply {
        self.ask("POST", target, "Host: localhost\r\n", body.to_string().as_bytes())
    }

    /// Sends a request that must succeed.
    #[track_caller]
    pub fn ok(&mut self, target: &str, body: Value) -> Value {
        let reply = self.post(target, &body);
        assert_eq!((reply.status, &reply.body["ok"]), (200, &json!(true)), "{target} {body}: {}", reply.text);
        reply.body
    }

    /// Sends a request that must fail with exactly this error text. Such an error has the HTTP status 200.
    #[track_caller]
    pub fn refused(&mut self, target: &str, body: Value, sentence: &str) {
        let reply = self.post(target, &body);
        assert_eq!((reply.status, &reply.body["ok"]), (200, &json!(false)), "{target} {body}: {}", reply.text);
        assert_eq!(reply.body["error"], json!(sentence), "{target} {body}");
        assert_starts(&reply.body, "ok error");
    }

    /// Registers a peer without a name, and returns its id.
    #[track_caller]
    pub fn peer(&mut self, project: &str) -> String {
        word(&self.ok("/register", json!({ "projectPath": project, "pid": 7 }))["peerId"])
    }

    /// Reads the unread messages of a peer.
    #[track_caller]
    pub fn mail(&mut self, peer: &str) -> Vec<Value> {
        self.ok("/messages", json!({ "peerId": peer }))["messages"].as_array().unwrap().clone()
    }

    /// All events of this type, newest first.
    #[track_caller]
    pub fn events(&mut self, kind: &str) -> Vec<Value> {
        self.ok("/events", json!({ "types": [kind] }))["events"].as_array().unwrap().clone()
    }

    /// Checks that the server closed the connection after its last answer.
    #[track_caller]
    pub fn ends(&mut self) {
        assert_eq!(self.stream.read(&mut [0; 16]).unwrap(), 0, "more than the last answer");
    }
}

/// Prints that a test is skipped. Fails instead if skipping tests is not allowed.
pub fn skip(test: &str, why: &str) {
    assert!(std::env::var_os("SLM_MESH_TEST_ALL").is_none(), "{test}: {why}");
    println!("skipped: {test}: {why}");
}

/// The text of a JSON value. The value must be a string.
#[track_caller]
pub fn word(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("want a string, got {value}")).to_owned()
}

/// The keys of a JSON object, in the order in which the server sent them.
#[track_caller]
pub fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("want an object, got {value}")).keys().map(String::as_str).collect()
}

/// Checks that an object begins with these keys in this order. More keys may follow.
#[track_caller]
pub fn assert_starts(value: &Value, wanted: &str) {
    let wanted: Vec<&str> = wanted.split(' ').collect();
    let got = keys(value);
    assert_eq!(got.iter().take(wanted.len()).copied().collect::<Vec<_>>(), wanted, "{value}");
}

/// Checks that a time has the form of `2026-11-22T06:43:36.763Z`.
#[track_caller]
pub fn assert_iso(value: &Value) {
    assert_shape(value, "0000-00-00T00:00:00.000Z");
}

/// Checks that a time has the form of `2026-11-22 06:43:36`.
#[track_caller]
pub fn assert_sqlite(value: &Value) {
    assert_shape(value, "0000-00-00 00:00:00");
}

/// Checks that a string is a UUID in lower case.
#[track_caller]
pub fn assert_uuid(value: &Value) {
    let text = word(value);
    let fits = |(at, c): (usize, char)| match at {
        8 | 13 | 18 | 23 => c == '-',
        _ => c.is_ascii_digit() || ('a'..='f').contains(&c),
    };
    assert!(text.len() == 36 && text.chars().enumerate().all(fits), "{text} is no UUID");
}

#[track_caller]
fn assert_shape(value: &Value, shape: &str) {
    let text = word(value);
    let digits: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(digits, shape, "{text}");
}

/// Repeats a request until it returns a value, and returns this value.
pub fn wait_for(what: &str, mut ask: impl FnMut() -> Option<Value>) -> Value {
    let mut found = None;
    until(what, || {
        found = ask();
        found.is_some()
    });
    found.unwrap()
}
