//! A blocking connection to the broker: to that of this machine, which is started if there is none,
//! or to a hub's.
//!
//! **Invariant:** a call whose answer was lost is repeated only if repeating it does no harm.

pub mod remote;
pub mod discovered_hub;

use crate::base::error::{Error, ErrorKind};
use crate::sys::data_dir::DataDir;
use crate::sys::{self, process};
use crate::wire::lines::Lines;
use crate::wire::rpc::{self, Message};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A line from a socket: an answer, a push, or a request of the broker's.
pub type Incoming = Message;

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    lines: Lines,
    last_id: u64,
    /// The broker that this client started, if it did: a child to be reaped.
    pub child: Option<Child>,
    /// What it is connected to, for people.
    pub whose: String,
}

impl Client {
    /// Connects to the broker that is there.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` when there is none.
    pub fn connect(places: &DataDir) -> io::Result<Client> {
        match remote::road(places).map_err(|error| io::Error::other(error.text))? {
            Some(road) => remote::connect(&road, places).map_err(|error| io::Error::other(error.text)),
            None => Client::connect_here(places),
        }
    }

    fn connect_here(places: &DataDir) -> io::Result<Client> {
        let stream = UnixStream::connect(places.socket())?;
        if process::peer_credentials(&stream).is_some_and(|who| who.uid != sys::uid()) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is another user's"));
        }
        Ok(Client::over(stream, None))
    }

    fn over(stream: UnixStream, child: Option<Child>) -> Client {
        Client { stream, lines: Lines::default(), last_id: 0, child, whose: "the broker".into() }
    }

    /// Connects, after starting a broker if need be.
    ///
    /// # Errors
    /// When none can be started, with its own sentence why.
    pub fn connect_or_start(places: &DataDir) -> Result<Client, Error> {
        if let Some(road) = remote::road(places)? {
            return remote::connect(&road, places);
        }
        match Client::connect_here(places) {
            Ok(client) => Ok(client),
            Err(error) if is_absent(&error) => start(places),
            Err(error) => Err(unreachable(places, &error)),
        }
    }

    /// Asks and waits for the answer; pushes that come before it are dropped.
    ///
    /// # Errors
    /// The broker's error, or `Gone` when the connection broke.
    pub fn call(&mut self, method: &str, params: &Value) -> Result<Value, Error> {
        self.last_id += 1;
        let wanted = json!(self.last_id);
        self.send(&rpc::request(&wanted, method, params)).map_err(|error| self.lost(&error))?;
        loop {
            match self.receive().map_err(|error| self.lost(&error))? {
                Message::Response { id, result } if id == wanted => {
                    return result.map_err(|error| rpc::read_error(&error));
                }
                _ => {}
            }
        }
    }

    /// Writes a line.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, line: &str) -> io::Result<()> {
        self.stream.write_all(line.as_bytes())
    }

    /// Waits for the next message; answers the broker's pings by itself.
    ///
    /// # Errors
    /// When the connection is gone, or the time set by [`Client::wait_at_most`] is up (`WouldBlock`).
    pub fn receive(&mut self) -> io::Result<Incoming> {
        let mut buffer = [0; 16 * 1024];
        loop {
            while let Some(line) = self.lines.next_line().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))? {
                match rpc::read(line) {
                    Ok(Message::Request { id, method, .. }) if method == "ping" => {
                        self.stream.write_all(rpc::answer(&id, &json!({})).as_bytes())?;
                    }
                    Ok(message) => return Ok(message),
                    Err(_) => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.lines.push(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next message that is here already; `None` if there is none yet.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn receive_now(&mut self) -> io::Result<Option<Incoming>> {
        self.stream.set_nonblocking(true)?;
        let found = self.receive();
        self.stream.set_nonblocking(false)?;
        match found {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Bounds the waiting of [`Client::receive`]; `None` waits for ever.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn wait_at_most(&self, time: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(time.map(|time| time.max(Duration::from_millis(1))))
    }

    fn lost(&self, error: &io::Error) -> Error {
        Error::new(ErrorKind::Gone, format!("{} went away before it answered ({error}); try again", self.whose))
    }

    /// A second handle for writing, for another thread.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn writer(&self) -> io::Result<UnixStream> {
        let writer = self.stream.try_clone()?;
        writer.set_write_timeout(Some(Duration::from_secs(10)))?;
        Ok(writer)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Whether there is no broker, rather than one that can't be reached.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory)
}

/// Whether a broken connection is worth another try.
pub fn is_lost(error: &Error) -> bool {
    error.kind == ErrorKind::Gone
}

fn unreachable(places: &DataDir, error: &io::Error) -> Error {
    let text = format!("the broker at {} can't be reached ({error})", places.socket().display());
    Error::new(ErrorKind::Gone, text)
}

/// Starts a broker while holding the start lock: of twenty clients that come at once, one starts
/// it, and the others find it when the lock is theirs.
fn start(places: &DataDir) -> Result<Client, Error> {
    places.prepare()?;
    let lock = places.open_lock(&places.start_lock())?;
    lock.lock().map_err(|error| places.error("can't be locked (does its file system know locks?)", &error))?;
    match Client::connect_here(places) {
        Ok(client) => return Ok(client),
        Err(error) if is_absent(&error) => {}
        Err(error) => return Err(unreachable(places, &error)),
    }
    let (child, pid) = match spawn(places) {
        // Somebody who started one without this lock was quicker.
        Err(error) if error.kind == ErrorKind::Refused => return Client::connect_here(places).map_err(|_| error),
        started => started?,
    };
    let mut client = Client::connect_here(places).map_err(|error| unreachable(places, &error))?;
    client.child = (child.id() == pid).then_some(child);
    Ok(client)
}

/// Runs `start` of this same program, detached, until it says that it is ready.
pub fn spawn(places: &DataDir) -> Result<(Child, u32), Error> {
    let log = File::options().create(true).append(true).open(places.log());
    let log = log.map_err(|error| places.error("can't be written", &error))?;
    let spawned = Command::new(sys::own_path())
        .args(["start", "--json", "--as-daemon"])
        .env("SLM_MESH_DATA_DIR", &places.dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn();
    let mut child =
        spawned.map_err(|error| Error::new(ErrorKind::Gone, format!("the broker can't be started ({error})")))?;
    let mut word = String::new();
    if let Some(out) = child.stdout.take() {
        // An empty word says below that it ended without one.
        let _ = BufReader::new(out).take(64 * 1024).read_line(&mut word);
    }
    let word: Value = serde_json::from_str(&word).unwrap_or(Value::Null);
    if let Some(note) = word["note"].as_str() {
        sys::print_error(&format!("slm-mesh: {note}"));
    }
    if word["ok"] == json!(true) {
        return Ok((child, word["data"]["pid"].as_u64().unwrap_or(0) as u32));
    }
    // It is ending or has ended; its exit status says nothing that its word doesn't.
    let _ = child.wait();
    let why = word["error"].as_str().map(str::to_owned);
    let kind = word["kind"].as_str().map_or(ErrorKind::Gone, ErrorKind::from_word);
    Err(Error::new(
        kind,
        why.unwrap_or_else(|| format!("the broker ended before it was ready; see {}", places.log().display())),
    ))
}
