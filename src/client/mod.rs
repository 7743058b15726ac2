//! A blocking connection to a broker: to the one on this machine, which it can start, or to a hub.
//!
//! **Invariant:** a call whose response was lost is repeated only if that does no harm.

pub mod remote;
pub mod discovered_hub;

use crate::base::error::{Error, ErrorKind};
use crate::sys::data_dir::DataDir;
use crate::sys::{self, process};
use crate::wire::lines::LineBuffer;
use crate::wire::rpc::{self, RpcMessage};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A connection to a broker.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    lines: LineBuffer,
    last_id: u64,
    /// The process that this client started, to be reaped: a broker, or ssh.
    pub broker_child: Option<Child>,
    /// The name of the other side in messages to people.
    pub server_name: String,
}

impl Client {
    /// Connects to a running broker.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` when there is none.
    pub fn connect(places: &DataDir) -> io::Result<Client> {
        match remote::remote_target(places).map_err(|error| io::Error::other(error.text))? {
            Some(target) => remote::connect(&target, places).map_err(|error| io::Error::other(error.text)),
            None => Client::connect_local(places),
        }
    }

    fn connect_local(places: &DataDir) -> io::Result<Client> {
        let stream = UnixStream::connect(places.socket())?;
        if process::peer_credentials(&stream).is_some_and(|who| who.uid != sys::uid()) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the socket belongs to another user"));
        }
        Ok(Client::from_stream(stream, None))
    }

    fn from_stream(stream: UnixStream, child: Option<Child>) -> Client {
        Client {
            stream,
            lines: LineBuffer::default(),
            last_id: 0,
            broker_child: child,
            server_name: "the broker".into(),
        }
    }

    /// Connects to the broker; starts one if none is running.
    ///
    /// # Errors
    /// When no broker can be started; the text is the broker's own.
    pub fn connect_or_start(places: &DataDir) -> Result<Client, Error> {
        if let Some(target) = remote::remote_target(places)? {
            return remote::connect(&target, places);
        }
        match Client::connect_local(places) {
            Ok(client) => Ok(client),
            Err(error) if is_absent(&error) => start_broker(places),
            Err(error) => Err(unreachable(places, &error)),
        }
    }

    /// Sends a request and waits for its response; drops the pushes that arrive before it.
    ///
    /// # Errors
    /// The broker's error, or `Gone` when the connection broke.
    pub fn call(&mut self, method: &str, params: &Value) -> Result<Value, Error> {
        self.last_id += 1;
        let wanted = json!(self.last_id);
        self.send(&rpc::request(&wanted, method, params)).map_err(|error| self.connection_lost(&error))?;
        loop {
            match self.receive().map_err(|error| self.connection_lost(&error))? {
                RpcMessage::Response { id, result } if id == wanted => {
                    return result.map_err(|error| rpc::decode_error(&error));
                }
                _ => {}
            }
        }
    }

    /// Sends a line.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, line: &str) -> io::Result<()> {
        self.stream.write_all(line.as_bytes())
    }

    /// Waits for the next message, and answers pings.
    ///
    /// # Errors
    /// When the connection is gone, or after the timeout of [`Client::set_receive_timeout`] (`WouldBlock`).
    pub fn receive(&mut self) -> io::Result<RpcMessage> {
        let mut buffer = [0; 16 * 1024];
        loop {
            while let Some(line) = self.lines.next_line().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))? {
                match rpc::parse_line(line) {
                    Ok(RpcMessage::Request { id, method, .. }) if method == "ping" => {
                        self.stream.write_all(rpc::response(&id, &json!({})).as_bytes())?;
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

    /// Returns the next message if it has arrived.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn try_receive(&mut self) -> io::Result<Option<RpcMessage>> {
        self.stream.set_nonblocking(true)?;
        let found = self.receive();
        self.stream.set_nonblocking(false)?;
        match found {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets how long [`Client::receive`] waits; `None` waits for ever.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn set_receive_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(time.map(|time| time.max(Duration::from_millis(1))))
    }

    fn connection_lost(&self, error: &io::Error) -> Error {
        Error::new(ErrorKind::Gone, format!("{} went away before it answered ({error}); try again", self.server_name))
    }

    /// Returns a second handle for writing from another thread.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn clone_writer(&self) -> io::Result<UnixStream> {
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

/// Whether the error means that no broker is running, not that it can't be reached.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory)
}

/// Whether the connection broke, so that another try may help.
pub fn is_connection_lost(error: &Error) -> bool {
    error.kind == ErrorKind::Gone
}

fn unreachable(places: &DataDir, error: &io::Error) -> Error {
    let text = format!("the broker at {} can't be reached ({error})", places.socket().display());
    Error::new(ErrorKind::Gone, text)
}

/// Starts a broker while it holds the start lock: when twenty clients come at once, one starts the broker and
/// the others find it after they get the lock.
fn start_broker(places: &DataDir) -> Result<Client, Error> {
    places.prepare()?;
    let lock = places.open_lock(&places.start_lock())?;
    lock.lock().map_err(|error| places.error("can't be locked (does its file system support locks?)", &error))?;
    match Client::connect_local(places) {
        Ok(client) => return Ok(client),
        Err(error) if is_absent(&error) => {}
        Err(error) => return Err(unreachable(places, &error)),
    }
    let (child, pid) = match spawn_broker(places) {
        // Somebody else started one without this lock, and was quicker.
        Err(error) if error.kind == ErrorKind::Refused => return Client::connect_local(places).map_err(|_| error),
        started => started?,
    };
    let mut client = Client::connect_local(places).map_err(|error| unreachable(places, &error))?;
    client.broker_child = (child.id() == pid).then_some(child);
    Ok(client)
}

/// Runs `slm-mesh start` detached, and waits until the broker is ready.
pub fn spawn_broker(places: &DataDir) -> Result<(Child, u32), Error> {
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
    let mut report = String::new();
    if let Some(out) = child.stdout.take() {
        // An empty report means that the broker ended without one; this is handled below.
        let _ = BufReader::new(out).take(64 * 1024).read_line(&mut report);
    }
    let report: Value = serde_json::from_str(&report).unwrap_or(Value::Null);
    if let Some(note) = report["note"].as_str() {
        sys::print_error(&format!("slm-mesh: {note}"));
    }
    if report["ok"] == json!(true) {
        return Ok((child, report["data"]["pid"].as_u64().unwrap_or(0) as u32));
    }
    // It ends now; its exit status adds nothing to the report.
    let _ = child.wait();
    let why = report["error"].as_str().map(str::to_owned);
    let kind = report["kind"].as_str().map_or(ErrorKind::Gone, ErrorKind::from_word);
    Err(Error::new(
        kind,
        why.unwrap_or_else(|| format!("the broker ended before it was ready; see {}", places.log().display())),
    ))
}
