//! Hubs that stand by, change their role, or lose power: mocks in front of one real broker, which stands for the
//! database that real hubs share.

use crate::SECRET;
use serde_json::{Value, json};
use slm_mesh::remote::hub_listener::{BrokerHooks, ListenerHandle};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How a mock behaves.
#[derive(Clone)]
pub enum Role {
    /// The mock passes all lines on to the broker at this socket.
    Leads(PathBuf),
    /// The mock passes all lines on to the broker, but loses all answers.
    LosesAnswers(PathBuf),
    /// The mock answers each request with the address of the hub that leads, or by saying that no leader is known.
    StandsBy(Option<String>),
}

/// A hub that speaks Noise and changes its role when it is told to.
pub struct FalseHub {
    role: Arc<Mutex<Role>>,
    connections: Arc<Mutex<Vec<Arc<Connection>>>>,
    n_connections: Arc<AtomicUsize>,
    methods: Arc<Mutex<Vec<String>>>,
    listener: ListenerHandle,
}

/// One guest of a mock.
struct Connection {
    guest: Mutex<UnixStream>,
    /// The methods of requests that are not answered yet, by id.
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
        // The threads end with the listener.
        std::thread::spawn(move || {
            for peer in guests {
                n_connections.fetch_add(1, Ordering::Relaxed);
                let guest: UnixStream = std::os::fd::OwnedFd::from(peer.stream).into();
                guest.set_nonblocking(false).unwrap();
                let connection = Connection::new(&guest);
                connections.lock().unwrap().push(Arc::clone(&connection));
                let (role, methods) = (Arc::clone(&role), Arc::clone(&methods));
                std::thread::spawn(move || connection.serve(guest, &role, &methods));
            }
        });
        hub
    }

    /// The hub's address as a guest writes it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.listener.port())
    }

    pub fn port(&self) -> u16 {
        self.listener.port()
    }

    /// How many guests have come so far.
    pub fn n_connections(&self) -> usize {
        self.n_connections.load(Ordering::Relaxed)
    }

    /// The methods of all requests and notifications so far.
    pub fn methods(&self) -> Vec<String> {
        self.methods.lock().unwrap().clone()
    }

    /// Whether a request of this method waits for its answer.
    pub fn has_open(&self, method: &str) -> bool {
        let connections = self.connections.lock().unwrap();
        connections.iter().any(|connection| connection.open.lock().unwrap().values().any(|open| open == method))
    }

    /// Changes the role of the hub, and returns the former role. A hub that ceases to lead refuses the calls that wait.
    pub fn become_(&self, role: Role) -> Role {
        let former = std::mem::replace(&mut *self.role.lock().unwrap(), role.clone());
        if let Role::StandsBy(leader) = role {
            for connection in self.connections.lock().unwrap().iter() {
                for id in std::mem::take(&mut *connection.open.lock().unwrap()).into_keys() {
                    connection.refuse(&id, leader.as_ref());
                }
            }
        }
        former
    }
}

/// Serves one client of a socket as a hub of this role does.
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
            match now {
                Role::StandsBy(leader) => {
                    if let Some(id) = id {
                        self.refuse(&id, leader.as_ref());
                    }
                }
                Role::Leads(socket) | Role::LosesAnswers(socket) => {
                    let broker = broker.get_or_insert_with(|| Arc::clone(&self).connect(socket, Arc::clone(role)));
                    let method = message["method"].as_str().unwrap_or_default();
                    self.open.lock().unwrap().extend(id.map(|id| (id, method.to_owned())));
                    writeln!(broker, "{line}").unwrap();
                }
            }
        }
        if let Some(broker) = broker {
            // The connection may have ended already.
            let _ = broker.shutdown(Shutdown::Both);
        }
    }

    /// Passes the lines of the broker on to the guest.
    fn connect(self: Arc<Connection>, socket: PathBuf, role: Arc<Mutex<Role>>) -> UnixStream {
        let broker = UnixStream::connect(socket).unwrap();
        let lines = BufReader::new(broker.try_clone().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let message: Value = serde_json::from_str(&line).unwrap();
                let is_answer = message["method"].is_null();
                if is_answer && self.open.lock().unwrap().remove(&message["id"].to_string()).is_none() {
                    // This request was refused when the hub ceased to lead.
                    continue;
                }
                if !matches!(*role.lock().unwrap(), Role::LosesAnswers(_)) {
                    let _ = writeln!(self.guest.lock().unwrap(), "{line}");
                }
            }
            let _ = self.guest.lock().unwrap().shutdown(Shutdown::Both);
        });
        broker
    }

    fn refuse(&self, id: &str, leader: Option<&String>) {
        let id: Value = serde_json::from_str(id).unwrap();
        let (text, mut data) = match leader {
            Some(leader) => (format!("this hub is on standby; ask {leader}, which leads"), json!({ "leader": leader })),
            None => ("no hub leads at the moment; try again in a moment".to_owned(), json!({})),
        };
        data["kind"] = json!("standby");
        let error = json!({ "code": 1011, "message": text, "data": data });
        // The guest may be gone.
        let _ = writeln!(self.guest.lock().unwrap(), "{}", json!({ "jsonrpc": "2.0", "id": id, "error": error }));
    }
}

/// What a socket in front of a hub does with the bytes that arrive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cable {
    /// The socket passes the bytes on to this port.
    To(u16),
    /// The socket accepts the bytes and sends nothing, like a hub without power, so no guest learns that the hub is
    /// gone.
    Cut,
}

/// A socket in front of a hub.
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

    /// Cuts the cable, or ends the existing connections and carries new ones to another port.
    pub fn switch(&self, cable: Cable) {
        *self.cable.lock().unwrap() = cable;
    }
}

fn carry(guest: TcpStream, cable: &Arc<Mutex<Cable>>) {
    let Cable::To(port) = *cable.lock().unwrap() else {
        // The connection stays open for as long as the test runs.
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
        // The connection may have ended already.
        let _ = stream.shutdown(Shutdown::Both);
    }
}
