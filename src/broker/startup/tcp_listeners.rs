//! The ports of a broker (for HTTP and for other machines), the credentials for these ports, and the pipe for signals.

use crate::base::error::{Error, ErrorKind};
use crate::broker::admit_guests_and_announce_hub::RemoteListener;
use crate::broker::http::{HttpServer, Limits, PendingRequest};
use crate::broker::web::auth::WebAuth;
use crate::broker::{legacy_http, log, web};
use crate::discovery::announce_hub_by_mdns::Announcement;
use crate::discovery::hub_announcer_supervisor::MdnsSupervisor;
use crate::remote::hub_listener::{BearerCheck, BrokerHooks, ListenerHandle};
use crate::sys;
use crate::sys::local_or_hub_endpoint::{SECRET_GOOD, SECRET_MIN};
use crate::sys::machine_name::machine_name;
use crate::sys::settings::{SECRET, Settings};
use mio::Waker;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

/// The number of ports that are tried for HTTP, starting with the port in the settings.
const PORTS_TRIED: u16 = 10;
/// How many sessions from other machines can wait for the event loop at the same time.
const ARRIVALS_MAX: usize = 64;

/// An HTTP listener that has been started.
pub(super) struct HttpListener {
    /// The HTTP thread; `None` if no port was free, or if the thread could not be started.
    pub(super) server: Option<HttpServer>,
    /// The channel on which requests arrive.
    pub(super) inbox: Receiver<PendingRequest>,
    /// The port; `None` if HTTP is not served.
    pub(super) port: Option<u16>,
}

/// The credentials that HTTP clients and linked meshes must present.
pub(super) struct PortCredentials {
    /// The token in the data directory, which programs of this user can read.
    pub(super) token: String,
    /// The shared secret, if it is accepted as a bearer token.
    secret: Option<String>,
}

impl PortCredentials {
    /// Makes the credentials. The secret is included only if the settings allow it as a bearer token and it is long
    /// enough.
    pub(super) fn new(token: String, settings: &Settings) -> PortCredentials {
        let is_open = settings.text(SECRET).len() >= SECRET_MIN && settings.text("SLM_MESH_BEARER") == "on";
        PortCredentials { token, secret: is_open.then(|| settings.text(SECRET).to_owned()) }
    }

    /// Returns the check for WebSockets that receive pushes. The check refuses everything if the shared secret is not
    /// accepted as a bearer token.
    fn subscriber_check(self) -> BearerCheck {
        let is_on = self.secret.is_some();
        let is_known = legacy_http::bearer_check(self.token, self.secret);
        Arc::new(move |header| is_on && header.strip_prefix("Bearer ").is_some_and(&is_known))
    }
}

/// Starts HTTP on the port in the settings, or on one of the nine ports after it. If no port is free, the broker serves
/// only its Unix socket, which is enough for agents.
pub(super) fn start_http(
    bind: &str,
    is_hub: bool,
    settings: &Settings,
    credentials: &PortCredentials,
    web_auth: &Arc<WebAuth>,
    waker: &Arc<Waker>,
) -> HttpListener {
    let limits = Limits::default();
    let (sender, inbox) = sync_channel(limits.connections_max);
    let Some((listener, port)) = bind_http(bind, settings) else {
        return HttpListener { server: None, inbox, port: None };
    };
    let hub_name = is_hub.then(|| machine_name().to_owned());
    let gate = legacy_http::gate(credentials.token.clone(), credentials.secret.clone(), hub_name);
    let gate = web::gate(Arc::clone(web_auth), port, gate);
    let server = HttpServer::start(listener, sender, wake_loop(waker), gate, limits);
    let server = server.map_err(|error| log(&format!("HTTP is not served: {error}"))).ok();
    // Without a server, nothing listens on the port.
    let port = server.is_some().then_some(port);
    HttpListener { server, inbox, port }
}

/// Starts the listener for sessions from other machines. Announces this hub on the local network if the settings say
/// so.
pub(super) fn start_remote(
    bind: &str,
    http_port: Option<u16>,
    settings: &Settings,
    credentials: PortCredentials,
    waker: &Arc<Waker>,
) -> Result<RemoteListener, Error> {
    // The default port for sessions is the port after the HTTP port. If no HTTP port is free, it is the port after the
    // last port that was tried.
    let last_tried = (settings.int("SLM_MESH_PORT") as u16).saturating_add(PORTS_TRIED - 1);
    let port = sessions_port(settings, http_port.unwrap_or(last_tried));
    let listener = TcpListener::bind(socket_address(bind, port)).map_err(|error| {
        let text =
            format!("port {port} for other machines can't be opened ({error}); set SLM_MESH_WS_PORT to a free port");
        Error::new(ErrorKind::Refused, text)
    })?;
    if let Some(warning) = hub_warning(settings, port) {
        log(&warning);
    }
    let (accepted, inbox) = sync_channel(ARRIVALS_MAX);
    let bearer = credentials.subscriber_check();
    let hooks = BrokerHooks { accepted, wake: wake_loop(waker), bearer, log };
    let door = ListenerHandle::start(listener, settings.text(SECRET), hooks)
        .map_err(|error| Error::new(ErrorKind::Internal, format!("other machines can't be served ({error})")))?;
    let http_port = http_port.unwrap_or(0);
    log(&format!("serving other machines on {bind}: HTTP on port {http_port}, sessions on port {port}"));
    let announcer = settings.discovers().then(|| {
        let name = format!("{}-{}", sys::user(), machine_name());
        MdnsSupervisor::new(
            sys::own_path(),
            Announcement::new(&name, http_port, door.port(), env!("CARGO_PKG_VERSION")),
        )
    });
    Ok(RemoteListener::new(door, inbox, announcer))
}

/// Returns a warning if the secret is easy to guess. The warning is logged, and shown to the user who starts the hub.
fn weak_secret_warning(settings: &Settings) -> Option<String> {
    let is_weak = settings.text(SECRET).len() < SECRET_GOOD;
    is_weak.then(|| {
        format!(
            "WARNING: {SECRET} is so short that it can be guessed, and this mesh is open to the network; generate a \
             better one with slm-mesh secret"
        )
    })
}

/// Returns the warnings for the user who starts this hub, if any. `port` is the port for sessions from other machines.
pub(super) fn hub_warning(settings: &Settings, port: u16) -> Option<String> {
    let warnings = [moved_port_warning(settings, port), weak_secret_warning(settings)];
    let warnings: Vec<String> = warnings.into_iter().flatten().collect();
    (!warnings.is_empty()).then(|| warnings.join("; "))
}

/// Returns a warning if the port for sessions from other machines is not the port that the settings imply. This happens
/// if another program uses the HTTP port. The hub then uses another HTTP port, and the port for sessions depends on the
/// HTTP port.
pub(super) fn moved_port_warning(settings: &Settings, port: u16) -> Option<String> {
    let http_port = settings.int("SLM_MESH_PORT") as u16;
    let usual = sessions_port(settings, http_port);
    (port != usual).then(|| {
        format!(
            "WARNING: port {http_port} is in use, so this hub serves its guests on port {port} instead of {usual}; end \
             the program that uses port {http_port} and restart the hub, or set SLM_MESH_WS_PORT={port} on each guest"
        )
    })
}

/// Returns a function that wakes the event loop from another thread.
pub(super) fn wake_loop(waker: &Arc<Waker>) -> Box<dyn Fn() + Send + Sync> {
    let waker = Arc::clone(waker);
    Box::new(move || {
        // Waking fails only if the event loop is gone because the process is ending.
        let _ = waker.wake();
    })
}

/// Makes SIGTERM, SIGINT and SIGHUP arrive as bytes on a socket, which the event loop polls.
pub(super) fn watch_signals() -> io::Result<mio::net::UnixStream> {
    let (reader, writer) = std::os::unix::net::UnixStream::pair()?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    reader.set_nonblocking(true)?;
    Ok(mio::net::UnixStream::from_std(reader))
}

/// Returns the port for sessions from other machines. By default, this is the port after the HTTP port.
pub(super) fn sessions_port(settings: &Settings, http_port: u16) -> u16 {
    match settings.int("SLM_MESH_WS_PORT") as u16 {
        0 => http_port.saturating_add(1),
        port => port,
    }
}

fn bind_http(host: &str, settings: &Settings) -> Option<(TcpListener, u16)> {
    let first = settings.int("SLM_MESH_PORT") as u16;
    for port in (0..PORTS_TRIED).filter_map(|n| first.checked_add(n)) {
        if let Ok(listener) = TcpListener::bind(socket_address(host, port)) {
            return Some((listener, port));
        }
    }
    log(&format!(
        "HTTP is not served, because no port from {first} to {} is free",
        first.saturating_add(PORTS_TRIED - 1)
    ));
    None
}

fn socket_address(host: &str, port: u16) -> String {
    let host = if host == "localhost" { "127.0.0.1" } else { host };
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
