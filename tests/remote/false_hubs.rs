//! Fake hubs that lead, stand by, or do not answer. Real hubs share a database. Fake hubs share one real broker
//! instead, and a fake hub that leads passes calls on to this broker.

use crate::SECRET;
use mio::{Events, Interest, Poll, Token};
use serde_json::{Value, json};
use slm_mesh::remote::encrypted_stream_to_guest::GuestStream;
use slm_mesh::remote::hub_listener::{AcceptedPeer, BrokerHooks, ListenerHandle};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How a fake hub treats the requests of its clients.
#[derive(Clone)]
pub enum Role {
    /// Passes all requests on to the broker at this socket, and returns the broker's answers. Names [`LOG`] as the log
    /// that this hub shares with other hubs.
    Leads(PathBuf),
    /// Like `Leads`, but the hub names this log, and the lost logs that this log continues.
    LeadsLog(PathBuf, &'static str, &'static [&'static str]),
    /// Like `Leads`, but the hub shares no log with other hubs.
    LeadsAlone(PathBuf),
    /// Passes all requests on to the broker at this socket, but drops the broker's answers.
    LosesAnswers(PathBuf),
    /// Refuses each request. The error contains the address of the hub that leads, if there is one.
    StandsBy(Option<String>),
    /// Refuses each request, and names the hub with this address as the leader. In its answer to `hub.status`, the fake
    /// hub says that it can't take over, and gives [`TROUBLE`] as the reason.
    CannotTakeOver(String),
}

/// The log of all fake hubs that share a mesh.
pub const LOG: &str = "000000000000000000000000000000a1";

/// Why a hub with the role [`Role::CannotTakeOver`] can't take over, and what to do.
pub const TROUBLE: &str = "this hub's database is too old; run slm-mesh start --rejoin";

impl Role {
    /// The leader that a standby names, if any; `None` if the hub is not on standby.
    fn standby(&self) -> Option<Option<String>> {
        match self {
            Role::Leads(_) | Role::LeadsLog(..) | Role::LeadsAlone(_) | Role::LosesAnswers(_) => None,
            Role::StandsBy(leader) => Some(leader.clone()),
            Role::CannotTakeOver(leader) => Some(Some(leader.clone())),
        }
    }

    /// A hub that leads answers a ping with the log that it shares with other hubs.
    fn answer_to_ping(&self) -> Value {
        match self {
            Role::LeadsAlone(_) => json!({}),
            Role::LeadsLog(_, log, former) => json!({ "log": log, "formerLogs": former }),
            _ => json!({ "log": LOG, "formerLogs": [] }),
        }
    }
}

/// A fake hub that accepts encrypted connections. A test can change its role at any time.
pub struct FalseHub {
    role: Arc<Mutex<Role>>,
    connections: Arc<Mutex<Vec<Arc<Connection>>>>,
    n_connections: Arc<AtomicUsize>,
    methods: Arc<Mutex<Vec<String>>>,
    listener: ListenerHandle,
}

/// One client's connection to a fake hub.
struct Connection {
    guest: Mutex<UnixStream>,
    /// The id and the method of each request that has no answer yet.
    open: Mutex<HashMap<String, String>>,
}

impl FalseHub {
    pub fn start(role: Role) -> FalseHub {
        FalseHub::start_with_secret(role, SECRET)
    }

    pub fn start_with_secret(role: Role, secret: &str) -> FalseHub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (accepted, guests) = sync_channel(64);
        let bearer = Arc::new(|_: &str| false);
        let hooks = BrokerHooks { accepted, wake: Box::new(|| {}), bearer, log: |_| {} };
        let listener = ListenerHandle::start(listener, secret, hooks).unwrap();
        let hub = FalseHub {
            role: Arc::new(Mutex::new(role)),
            connections: Arc::default(),
            n_connections: Arc::default(),
            methods: Arc::default(),
            listener,
        };
        let (role, connections) = (Arc::clone(&hub.role), Arc::clone(&hub.connections));
        let (n_connections, methods) = (Arc::clone(&hub.n_connections), Arc::clone(&hub.methods));
        // This thread ends when the listener is closed.
        std::thread::spawn(move || {
            for peer in guests {
                n_connections.fetch_add(1, Ordering::Relaxed);
                let AcceptedPeer::Guest(stream, _) = peer else { panic!("no test uses a push client here") };
                let guest = decrypted(*stream);
                let connection = Connection::new(&guest);
                connections.lock().unwrap().push(Arc::clone(&connection));
                let (role, methods) = (Arc::clone(&role), Arc::clone(&methods));
                std::thread::spawn(move || connection.serve(guest, &role, &methods));
            }
        });
        hub
    }

    /// The hub's address, as in the setting SLM_MESH_HOST of a client.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.listener.port())
    }

    pub fn port(&self) -> u16 {
        self.listener.port()
    }

    /// The number of connections that clients have made.
    pub fn n_connections(&self) -> usize {
        self.n_connections.load(Ordering::Relaxed)
    }

    /// The methods of all requests and notifications that the hub has received.
    pub fn methods(&self) -> Vec<String> {
        self.methods.lock().unwrap().clone()
    }

    /// Whether a request with this method has no answer yet.
    pub fn has_open(&self, method: &str) -> bool {
        let connections = self.connections.lock().unwrap();
        connections.iter().any(|connection| connection.open.lock().unwrap().values().any(|open| open == method))
    }

    /// Changes the role of the hub, and returns its old role. When the hub becomes a standby, it refuses all waiting
    /// calls.
    pub fn become_(&self, role: Role) -> Role {
        let former = std::mem::replace(&mut *self.role.lock().unwrap(), role.clone());
        if let Some(leader) = role.standby() {
            for connection in self.connections.lock().unwrap().iter() {
                for id in std::mem::take(&mut *connection.open.lock().unwrap()).into_keys() {
                    connection.refuse(&id, leader.as_ref());
                }
            }
        }
        former
    }
}

impl Drop for FalseHub {
    fn drop(&mut self) {
        for connection in self.connections.lock().unwrap().iter() {
            // The shutdown fails if the connection has already ended.
            let _ = connection.guest.lock().unwrap().shutdown(Shutdown::Both);
        }
    }
}

/// Returns a socket that carries the lines of a guest, because the threads of a fake hub need a socket that blocks.
fn decrypted(mut guest: GuestStream) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut ours = mio::net::UnixStream::from_std(ours);
    let mut poll = Poll::new().unwrap();
    poll.registry().register(&mut guest, Token(0), Interest::READABLE | Interest::WRITABLE).unwrap();
    poll.registry().register(&mut ours, Token(1), Interest::READABLE | Interest::WRITABLE).unwrap();
    std::thread::spawn(move || {
        let (mut events, mut inward, mut outward) = (Events::with_capacity(8), Vec::new(), Vec::new());
        while forward(&mut guest, &mut ours, &mut inward)
            && forward(&mut ours, &mut guest, &mut outward)
            && guest.check_liveness(Instant::now()).is_ok()
        {
            poll.poll(&mut events, Some(Duration::from_millis(200))).unwrap();
            events.iter().filter(|event| event.token() == Token(0)).for_each(|event| guest.note_event(event));
        }
    });
    theirs
}

/// Forwards bytes until one of the sides blocks. Returns false if one of them is gone.
fn forward(from: &mut impl Read, to: &mut impl Write, waiting: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    loop {
        while !waiting.is_empty() {
            match to.write(waiting) {
                Ok(n) => drop(waiting.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        match from.read(&mut buffer) {
            Ok(0) => return false,
            Ok(n) => waiting.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
    // A guest's stream may keep bytes until the network accepts them.
    to.flush().map_or_else(|error| error.kind() == ErrorKind::WouldBlock, |()| true)
}

/// Serves a client on a Unix socket in the same way as a fake hub with this role.
pub fn serve_lines(client: UnixStream, role: &Arc<Mutex<Role>>) {
    Connection::new(&client).serve(client, role, &Mutex::default());
}

impl Connection {
    fn new(guest: &UnixStream) -> Arc<Connection> {
        Arc::new(Connection { guest: Mutex::new(guest.try_clone().unwrap()), open: Mutex::default() })
    }

    fn serve(self: Arc<Connection>, guest: UnixStream, role: &Arc<Mutex<Role>>, methods: &Mutex<Vec<String>>) {
        let mut broker: Option<UnixStream> = None;
        for line in BufReader::new(guest).lines().map_while(Result::ok) {
            let message: Value = serde_json::from_str(&line).unwrap();
            methods.lock().unwrap().extend(message["method"].as_str().map(str::to_owned));
            let id = message.get("id").filter(|_| message["method"].is_string()).map(Value::to_string);
            let now = role.lock().unwrap().clone();
            match now.clone() {
                Role::StandsBy(_) | Role::CannotTakeOver(_) => {
                    if let Some(id) = id {
                        self.answer_as_standby(&id, message["method"].as_str().unwrap_or_default(), &now);
                    }
                }
                Role::Leads(socket)
                | Role::LeadsLog(socket, ..)
                | Role::LeadsAlone(socket)
                | Role::LosesAnswers(socket) => {
                    let broker = broker.get_or_insert_with(|| Arc::clone(&self).connect(socket, Arc::clone(role)));
                    let method = message["method"].as_str().unwrap_or_default();
                    self.open.lock().unwrap().extend(id.map(|id| (id, method.to_owned())));
                    writeln!(broker, "{line}").unwrap();
                }
            }
        }
        if let Some(broker) = broker {
            // The shutdown fails if the connection has already ended.
            let _ = broker.shutdown(Shutdown::Both);
        }
    }

    /// Connects to the broker, and starts a thread that passes the broker's lines on to the client.
    fn connect(self: Arc<Connection>, socket: PathBuf, role: Arc<Mutex<Role>>) -> UnixStream {
        let broker = UnixStream::connect(socket).unwrap();
        let lines = BufReader::new(broker.try_clone().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut message: Value = serde_json::from_str(&line).unwrap();
                if message["method"].is_null() {
                    let Some(method) = self.open.lock().unwrap().remove(&message["id"].to_string()) else {
                        // The client already got an error for this request when the hub began to stand by, so the late
                        // answer is dropped.
                        continue;
                    };
                    if method == "ping" {
                        message["result"] = role.lock().unwrap().answer_to_ping();
                    }
                }
                if !matches!(*role.lock().unwrap(), Role::LosesAnswers(_)) {
                    let _ = writeln!(self.guest.lock().unwrap(), "{message}");
                }
            }
            let _ = self.guest.lock().unwrap().shutdown(Shutdown::Both);
        });
        broker
    }

    /// Answers what a standby answers: questions about the hub itself. Refuses all other requests.
    fn answer_as_standby(&self, id: &str, method: &str, role: &Role) {
        let leader = role.standby().flatten();
        let trouble = matches!(role, Role::CannotTakeOver(_)).then_some(TROUBLE);
        let result = match method {
            "broker.info" => json!({ "version": env!("CARGO_PKG_VERSION"), "port": 1 }),
            "hub.status" => json!({ "role": "standby", "log": LOG, "leader": leader, "trouble": trouble }),
            _ => return self.refuse(id, leader.as_ref()),
        };
        let id: Value = serde_json::from_str(id).unwrap();
        // The write fails if the client has already closed the connection.
        let _ = writeln!(self.guest.lock().unwrap(), "{}", json!({ "jsonrpc": "2.0", "id": id, "result": result }));
    }

    fn refuse(&self, id: &str, leader: Option<&String>) {
        let id: Value = serde_json::from_str(id).unwrap();
        let (text, mut data) = match leader {
            Some(leader) => (format!("this hub is on standby; ask the leader, {leader}"), json!({ "leader": leader })),
            None => ("no hub is the leader at the moment; try again in a moment".to_owned(), json!({})),
        };
        data["kind"] = json!("standby");
        let error = json!({ "code": 1011, "message": text, "data": data });
        // The write fails if the client has already closed the connection.
        let _ = writeln!(self.guest.lock().unwrap(), "{}", json!({ "jsonrpc": "2.0", "id": id, "error": error }));
    }
}

/// What happens to the connections through a [`Front`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cable {
    /// All bytes are passed on to this port.
    To(u16),
    /// All bytes are lost, but the connections stay open, as if the hub had no power. A client can't see that the hub
    /// is gone.
    Cut,
}

/// A port through which clients reach a hub. A test can cut the connection between the port and the hub.
pub struct Front {
    port: u16,
    cable: Arc<Mutex<Cable>>,
}

impl Front {
    pub fn start(cable: Cable) -> Front {
        let cable = Arc::new(Mutex::new(cable));
        let shared = Arc::clone(&cable);
        let port = crate::false_hub(move |guest| carry(guest, &shared));
        Front { port, cable }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Cuts the connection to the hub, or connects this port to a different hub. In the second case, open connections
    /// end.
    pub fn switch(&self, cable: Cable) {
        *self.cable.lock().unwrap() = cable;
    }
}

fn carry(guest: TcpStream, cable: &Arc<Mutex<Cable>>) {
    let Cable::To(port) = *cable.lock().unwrap() else {
        // The connection must stay open, so the stream is never closed.
        std::mem::forget(guest);
        return;
    };
    let Ok(hub) = TcpStream::connect(("127.0.0.1", port)) else { return };
    let both = |from: &TcpStream, to: &TcpStream| (from.try_clone().unwrap(), to.try_clone().unwrap());
    for (from, to) in [both(&guest, &hub), both(&hub, &guest)] {
        let cable = Arc::clone(cable);
        std::thread::spawn(move || copy(from, to, &cable, port));
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, cable: &Mutex<Cable>, port: u16) {
    from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut buffer = [0; 4096];
    loop {
        let read = from.read(&mut buffer);
        match *cable.lock().unwrap() {
            Cable::Cut => return std::mem::forget((from, to)),
            Cable::To(other) if other != port => break,
            Cable::To(_) => {}
        }
        match read {
            Ok(0) => break,
            Ok(n) if to.write_all(&buffer[..n]).is_err() => break,
            Err(error) if !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                break;
            }
            _ => {}
        }
    }
    for stream in [from, to] {
        // The shutdown fails if the connection has already ended.
        let _ = stream.shutdown(Shutdown::Both);
    }
}
