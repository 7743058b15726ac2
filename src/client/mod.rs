//! A blocking connection to a broker, on this machine or on a hub. If no broker runs on this machine, the client can
//! start one.
//!
//! **Invariant:** a call whose response was lost is repeated only if that does no harm, or if the broker can't have run
//! the call.

pub mod check_hub_has_joined_mesh;
pub mod connect_to_leading_hub;
mod connection_errors;
pub mod discovered_hub;
mod end_and_reap_forwarding_process;
mod last_leader;
mod leader_search;
mod retry_after_broker_exit;
pub mod route_to_broker;
mod ssh_hub;
mod ssh_stream_with_heartbeat;
mod start_broker;
pub mod stream;
mod wait_while_output_is_read;

use crate::base::error::{Error, ErrorKind};
use crate::base::untrusted_text;
use crate::sys::data_dir::DataDir;
use crate::sys::read_git_files;
use crate::sys::settings::Settings;
use crate::sys::{self, process, unix_connect};
use crate::wire::line_splitter::LineBuffer;
use crate::wire::rpc::{self, RpcMessage};
use connect_to_leading_hub::{HubGroup, SEARCH_MAX};
pub use connection_errors::{broker_lock_holder, is_absent, is_connection_lost};
use connection_errors::{is_timeout, stuck, unreachable};
pub use end_and_reap_forwarding_process::Carrier;
use retry_after_broker_exit::{CallFate, Reconnect};
use route_to_broker::Route;
use serde_json::{Value, json};
use start_broker::{start_broker, start_limit};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;
use stream::BrokerStream;
pub use wait_while_output_is_read::Arrival;

/// How long a broker on this machine may be silent before the client sends a ping. Together with [`PING_WITHIN`], this
/// is less than five seconds, so that a command ends within five seconds even if the broker is stuck.
pub const QUIET_MAX: Duration = Duration::from_millis(2000);
/// How long the broker may take to answer the ping.
pub const PING_WITHIN: Duration = Duration::from_millis(2400);
/// How many bytes to read at once. Most answers fit, and longer ones take several reads.
const READ_BYTES: usize = 4096;
/// How many characters of a line are shown if the line is not a message.
const SHOWN_MAX: usize = 80;
/// How long the broker may take to accept a connection, or to read the next part of a long request.
const ACCEPTS_WITHIN: Duration = Duration::from_millis(4000);

/// A message from a broker.
#[derive(Debug)]
pub enum BrokerMessage {
    /// The result of a call, as JSON text.
    Result {
        /// The number of the call.
        request: u64,
        /// The JSON text of the result, not yet parsed.
        text: String,
    },
    /// Any other message, or a result in an unusual form.
    Other(RpcMessage),
}

/// A connection to a broker.
#[derive(Debug)]
pub struct Client {
    stream: BrokerStream,
    /// Where the broker runs.
    server: Server,
    /// The time limit that the caller has set for [`Client::receive`].
    receive_timeout: Option<Duration>,
    lines: LineBuffer,
    last_id: u64,
    /// The process that carries the connection, such as ssh.
    carrier: Option<Carrier>,
    /// The name of the broker in messages to people.
    pub server_name: String,
    /// The hubs among which the client searches for the leader if its own hub is a standby.
    group: Option<Arc<HubGroup>>,
    /// How to connect again if the broker ends before it reads the first call.
    reconnect: Reconnect,
    fate: CallFate,
}

/// Where a broker runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    /// The broker runs on this machine. The process id is known if the broker is in the same PID namespace as the
    /// client.
    Local(Option<i64>),
    /// The broker runs on another machine. No pings are needed, because the connection itself detects that the other
    /// side is gone.
    Remote,
    /// The broker runs on another machine. A local process forwards requests and answers. A child process can inherit
    /// the connection to that local process.
    Carried,
}

impl Client {
    /// Connects to a running broker. If that broker is a standby, connects to the leader instead.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` if no broker runs.
    pub fn connect(places: &DataDir) -> io::Result<Client> {
        let other = |error: Error| io::Error::other(error.text);
        let again = || Reconnect::IfRunning(places.clone());
        match Route::find(places).map_err(other)? {
            Route::ThisMachine => Client::connect_local(places).map(|client| client.or_again(again())),
            Route::OwnHub(group) => Client::connect_local(places)?.or_again(again()).or_leader(group).map_err(other),
            Route::Remote(target) => route_to_broker::connect(&target, places).map_err(other),
        }
    }

    /// Like [`Client::connect`], connects to a running broker, but explains a failure in a sentence.
    ///
    /// # Errors
    /// `NotFound` if no broker runs.
    pub fn connect_to_running(places: &DataDir) -> Result<Client, Error> {
        match Route::find(places)? {
            Route::ThisMachine => Client::connect_to_own(places),
            Route::OwnHub(group) => Client::connect_to_own(places)?.or_leader(group),
            Route::Remote(target) => route_to_broker::connect(&target, places),
        }
    }

    /// Connects to the running broker of this machine, even if it is a standby.
    ///
    /// # Errors
    /// `NotFound` if no broker runs.
    pub fn connect_to_own(places: &DataDir) -> Result<Client, Error> {
        match Client::connect_local(places) {
            Ok(client) => Ok(client.or_again(Reconnect::IfRunning(places.clone()))),
            Err(error) if is_absent(&error) => Err(Error::not_found("no broker is running")),
            Err(error) => Err(unreachable(places, &error)),
        }
    }

    fn connect_local(places: &DataDir) -> io::Result<Client> {
        let stream = unix_connect::connect(&places.socket(), ACCEPTS_WITHIN)?;
        let peer = process::peer_credentials(&stream);
        if peer.is_some_and(|who| who.uid != sys::uid()) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the socket belongs to another user"));
        }
        let mut client = Client::from_stream(BrokerStream::Socket(stream), None);
        client.server = Server::Local(peer.and_then(|peer| peer.pid));
        Ok(client)
    }

    fn from_stream(stream: BrokerStream, carrier: Option<Carrier>) -> Client {
        Client {
            stream,
            server: Server::Remote,
            receive_timeout: None,
            lines: LineBuffer::default(),
            last_id: 0,
            carrier,
            server_name: "the broker".into(),
            group: None,
            reconnect: Reconnect::Never,
            fate: CallFate::default(),
        }
    }

    /// The broker's process id, as the kernel reports it, if the broker is on this machine.
    pub fn broker_pid(&self) -> Option<i64> {
        match self.server {
            Server::Local(pid) => pid,
            Server::Remote | Server::Carried => None,
        }
    }

    /// Removes and returns the local process that forwards requests and answers, if
    /// [`route_to_broker::connect_for_child`] started one.
    pub fn take_carrier(&mut self) -> Option<Carrier> {
        self.carrier.take_if(|_| self.server == Server::Carried)
    }

    /// The id of the process that listens on the data directory's socket, as the kernel reports it.
    pub fn listener_pid(places: &DataDir) -> Option<i64> {
        Client::connect_local(places).ok()?.broker_pid()
    }

    /// Returns the error for a broker that does not answer a ping. Returns `None` if the broker is on another machine.
    pub fn stuck_error(&self) -> Option<Error> {
        match self.server {
            Server::Local(pid) => Some(stuck(pid)),
            Server::Remote | Server::Carried => None,
        }
    }

    /// Connects to the broker, and starts a broker if none is running. If the broker is a standby, connects to the
    /// leader instead.
    ///
    /// # Errors
    /// If no broker can be started. The error contains the message of the broker that failed to start.
    pub fn connect_or_start(places: &DataDir) -> Result<Client, Error> {
        Client::connect_or_start_within(places, None)
    }

    /// Like [`Client::connect_or_start`], for a client that waits at most `budget` for each answer.
    ///
    /// # Errors
    /// Those of [`Client::connect_or_start`], and `Gone` if the broker takes too long to start.
    pub fn connect_or_start_within(places: &DataDir, budget: Option<Duration>) -> Result<Client, Error> {
        let own = || Client::connect_to_own_or_start(places, budget);
        match Route::find(places)? {
            Route::ThisMachine => own(),
            Route::OwnHub(group) => own()?.or_leader(group),
            Route::Remote(target) => route_to_broker::connect(&target, places),
        }
    }

    /// Connects to the broker of this machine, even if it is a standby. Starts the broker if it is not running.
    ///
    /// # Errors
    /// If the broker can't be started. The error contains the broker's message.
    pub fn connect_to_own_or_start(places: &DataDir, budget: Option<Duration>) -> Result<Client, Error> {
        let client = match Client::connect_local(places) {
            Ok(client) => client,
            Err(error) if is_absent(&error) => start_broker(places, start_limit(budget))?,
            Err(error) => return Err(unreachable(places, &error)),
        };
        Ok(client.or_again(Reconnect::OrStart(places.clone())))
    }

    /// Sends a request and waits for its response. Drops notifications that arrive before the response. The wait has no
    /// limit as long as the broker answers pings.
    ///
    /// A standby refuses a call without running it, so the call is then sent to the leader. If the broker ended before
    /// it read the first call on the connection, this call is sent to the next broker.
    ///
    /// # Errors
    /// The broker's error, `Gone` if the connection broke, or `TimedOut` if the broker is stuck. `Standby` if a
    /// separate process forwards requests and answers, because such a connection can't be replaced.
    pub fn call(&mut self, method: &str, params: &Value) -> Result<Value, Error> {
        let mut result = self.call_until_read(method, params);
        if result.as_ref().is_err_and(|error| error.kind == ErrorKind::Standby) && self.server != Server::Carried {
            self.move_to_leader()?;
            result = self.call_once(method, params);
        }
        match result {
            Err(error) if self.begin_session(&error) => self.call_once(method, params),
            result => result,
        }
    }

    /// Sends a request whose answer does not matter. A broker on this machine receives the request even if this process
    /// ends immediately, so this function does not wait. If the broker is on another machine, the connection could lose
    /// the request, so this function waits for the answer.
    ///
    /// # Errors
    /// If the request could not be sent. If the broker is on another machine, the errors of [`Client::call`] are
    /// possible, too.
    pub fn report(&mut self, method: &str, params: &Value) -> Result<(), Error> {
        if !matches!(self.server, Server::Local(_)) {
            return self.call(method, params).map(drop);
        }
        self.send(&rpc::notification(method, params)).map_err(|error| self.connection_lost(&error))
    }

    /// Returns this connection, or a connection to the leader if this hub is a standby.
    fn or_leader(mut self, group: Arc<HubGroup>) -> Result<Client, Error> {
        self.group = Some(group);
        match self.call_until_read("ping", &json!({})) {
            Err(error) if error.kind == ErrorKind::Standby => self.move_to_leader().map(|()| self),
            Ok(_) => {
                self.fate.note_all_answered();
                Ok(self)
            }
            Err(error) => Err(error),
        }
    }

    /// Replaces this connection with a connection to the leader.
    fn move_to_leader(&mut self) -> Result<(), Error> {
        let Some(group) = self.group.clone() else { return Ok(()) };
        let timeout = self.receive_timeout;
        let (_, leader) = group.find_leader(timeout.unwrap_or(SEARCH_MAX).min(SEARCH_MAX))?;
        *self = leader;
        self.set_receive_timeout(timeout).map_err(|error| self.call_failed(&error))
    }

    /// Registers the agent that runs this process, if the broker refused a call because this agent has no session. The
    /// broker can't do this alone, because only this process knows the agent's directory and repository. Returns true
    /// if the call may be repeated.
    fn begin_session(&mut self, refusal: &Error) -> bool {
        let fact = |name: &str| refusal.data.as_ref().and_then(|data| data[name].as_str());
        let (Some(agent), Some(short_name)) = (fact("agent"), fact("shortName")) else { return false };
        let directory = std::env::current_dir().unwrap_or_default();
        let git = read_git_files::facts(&directory);
        let settings = DataDir::find().and_then(|data_dir| Settings::load(&data_dir)).ok();
        let session = json!({
            "agent": agent, "shortName": short_name, "project": directory.display().to_string(),
            "name": settings.as_ref().and_then(Settings::session_name),
            "gitRoot": git.root, "gitBranch": git.branch, "repo": git.repo,
        });
        refusal.kind == ErrorKind::Ambiguous && self.call_once("session.begin", &session).is_ok()
    }

    /// Sends a request on this connection. If the hub is a standby, returns the error `Standby` and does not connect to
    /// the leader.
    ///
    /// # Errors
    /// The errors of [`Client::call`], and `Standby`.
    pub fn call_once(&mut self, method: &str, params: &Value) -> Result<Value, Error> {
        self.last_id += 1;
        let wanted = json!(self.last_id);
        self.send(&rpc::request(&wanted, method, params)).map_err(|error| self.call_failed(&error))?;
        loop {
            match self.receive_from_living()? {
                RpcMessage::Response { id, result } if id == wanted => {
                    return result.map_err(|error| rpc::decode_error(&error));
                }
                _ => {}
            }
        }
    }

    /// Waits for the next message. If the caller has set a time limit, waits no longer than that. If there is no limit
    /// and a broker on this machine stays silent, sends a ping to learn whether the broker is stuck.
    ///
    /// # Errors
    /// `Gone` if the connection broke, or `TimedOut` if the broker is stuck.
    pub fn receive_from_living(&mut self) -> Result<RpcMessage, Error> {
        if !matches!(self.server, Server::Local(_)) || self.receive_timeout.is_some() {
            return self.receive().map_err(|error| self.call_failed(&error));
        }
        let mut found = self.receive_within(QUIET_MAX);
        if found.as_ref().is_err_and(is_timeout) {
            found = self
                .send(&rpc::request(&json!("alive"), "ping", &json!({})))
                .and_then(|()| self.receive_within(PING_WITHIN));
        }
        let ready = self.stream.set_read_timeout(None);
        found.and_then(|message| ready.map(|()| message)).map_err(|error| self.call_failed(&error))
    }

    fn receive_within(&mut self, limit: Duration) -> io::Result<RpcMessage> {
        self.stream.set_read_timeout(Some(limit))?;
        self.receive()
    }

    /// Sends a line.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send(&mut self, line: &str) -> io::Result<()> {
        self.fate.n_sent += 1;
        self.stream.write_all(line.as_bytes())
    }

    /// Waits for the next message, and answers pings.
    ///
    /// # Errors
    /// If the connection is gone. `WouldBlock` after the timeout of [`Client::set_receive_timeout`].
    pub fn receive(&mut self) -> io::Result<RpcMessage> {
        self.receive_as(|_| None, |message| message)
    }

    /// Waits for the next message, and answers pings. Does not parse the results of calls.
    ///
    /// # Errors
    /// Those of [`Client::receive`].
    pub fn receive_unparsed(&mut self) -> io::Result<BrokerMessage> {
        let as_text = |line: &[u8]| {
            rpc::numbered_result(line).map(|(request, text)| BrokerMessage::Result { request, text: text.to_owned() })
        };
        self.receive_as(as_text, BrokerMessage::Other)
    }

    /// Waits for the next message. Parses only lines for which `unparsed` returns `None`.
    fn receive_as<T>(
        &mut self,
        unparsed: impl Fn(&[u8]) -> Option<T>,
        parsed: impl Fn(RpcMessage) -> T,
    ) -> io::Result<T> {
        let mut buffer = [0; READ_BYTES];
        loop {
            while let Some(line) = self.lines.next_line().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))? {
                if let Some(received) = unparsed(line) {
                    return Ok(received);
                }
                match rpc::parse_line(line) {
                    Ok(RpcMessage::Request { id, method, .. }) if method == "ping" => {
                        self.send(&rpc::response(&id, &json!({})))?;
                    }
                    Ok(message) => {
                        self.fate.note(&message);
                        self.note_standby(&message);
                        return Ok(parsed(message));
                    }
                    Err(_) => {
                        let text: String = String::from_utf8_lossy(line).chars().take(SHOWN_MAX).collect();
                        let text = format!("expected a message of slm-mesh, got \"{}\"", untrusted_text::line(&text));
                        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                    }
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

    /// If the message says that the hub is a standby, records the leader for the next connection.
    fn note_standby(&self, message: &RpcMessage) {
        if let (Some(group), RpcMessage::Response { result: Err(error), .. }) = (&self.group, message) {
            let refusal = rpc::decode_error(error);
            if refusal.kind == ErrorKind::Standby {
                group.note_standby(&refusal);
            }
        }
    }

    /// Tells a hub where this connection comes from.
    fn send_origin(&mut self) -> Result<(), Error> {
        let origin = rpc::notification("origin", &route_to_broker::describe_origin());
        self.send(&origin).map_err(|error| self.connection_lost(&error))
    }

    /// Returns the next message if one has arrived.
    ///
    /// # Errors
    /// If the connection is gone.
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

    /// Sets how long [`Client::receive`] waits. `None` means that there is no limit.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn set_receive_timeout(&mut self, time: Option<Duration>) -> io::Result<()> {
        if self.receive_timeout == time {
            return Ok(());
        }
        self.receive_timeout = time;
        self.stream.set_read_timeout(time.map(|time| time.max(Duration::from_millis(1))))
    }

    /// Returns the error of a call whose connection failed, or that took longer than the caller allows.
    fn call_failed(&mut self, error: &io::Error) -> Error {
        let name = &self.server_name;
        if matches!(self.server, Server::Local(_)) && self.fate.shows_unread(error) {
            self.fate.is_unread = true;
            return Error::new(ErrorKind::Gone, format!("{name} ended before it read this call ({error}); try again"));
        }
        // The broker may have run the call. Repeating a call such as `events.emit` would do harm.
        let cure = "check whether the call took effect before you try again";
        if is_timeout(error) {
            return self
                .stuck_error()
                .unwrap_or_else(|| Error::new(ErrorKind::TimedOut, format!("{name} did not answer in time; {cure}")));
        }
        let text = format!("the connection to {name} ended before the answer came ({error}); {cure}");
        Error::new(ErrorKind::Gone, text)
    }

    /// Returns the error of a connection that failed while no call was waiting for an answer.
    fn connection_lost(&self, error: &io::Error) -> Error {
        Error::new(ErrorKind::Gone, format!("the connection to {} ended ({error}); try again", self.server_name))
    }

    /// Returns a second handle of the connection, for writing from another thread.
    ///
    /// # Errors
    /// If the process has no free file descriptor.
    pub fn clone_writer(&self) -> io::Result<BrokerStream> {
        let writer = self.stream.another()?;
        let limit = if matches!(self.server, Server::Local(_)) { ACCEPTS_WITHIN } else { Duration::from_secs(10) };
        writer.set_write_timeout(limit)?;
        Ok(writer)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
