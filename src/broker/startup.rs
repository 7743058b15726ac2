//! How a broker comes into the world and leaves it: the single instance, the files for existing
//! clients, the ready word.

use super::mesh_links::Links;
use super::{End, Parts, http, legacy_http, log, serve, web};
use crate::base::error::{Error, ErrorKind};
use crate::base::time;
use crate::core::Mesh;
use crate::discovery::mdns_process::Orders;
use crate::discovery::mdns_supervisor::Announcer;
use crate::remote::hub::{Arrival, Bearer, Door, Inside};
use crate::store::{Store, StoreError};
use crate::sys::data_dir::{self, Places};
use crate::sys::endpoint::{Road, SECRET_GOOD, SECRET_MIN, links};
use crate::sys::settings::{SECRET, Settings};
use crate::sys::{self, Clock};
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// What the name of a database that was set aside begins with; the time follows.
const ASIDE: &str = "broker.db.damaged-";
/// How long a new broker waits for an old one that is on its way out.
const YIELD_MS: u64 = 5000;
/// Ports tried, from the wanted one on.
const PORTS_TRIED: u16 = 10;

/// Runs a broker until its end. `ready` is called once, when clients can connect, with
/// the port and with what they should hear at once.
///
/// # Errors
/// When another broker lives in this directory, or something it needs is missing.
pub fn run(places: &Places, settings: Settings, ready: impl FnOnce(u16, Option<String>)) -> Result<(), Error> {
    let (bind, hub) = own_address(&settings)?;
    places.prepare()?;
    sys::raise_open_files();
    let started = sys::wall_ms();
    let lock = single(places)?;
    refuse_other_kind(places)?;
    let (store, clock) = open_clocked(places, &settings)?;
    let token = data_dir::keep_token(places)?;
    let (poll, waker) = super::poll().map_err(|error| places.error("can't be watched", &error))?;
    let door_waker = Arc::clone(&waker);
    let link_ring = ring(&waker);
    let page_waker = Arc::clone(&waker);
    let keys = Arc::new(web::auth::Keys::new(sys::chance));
    let (sender, jobs) = mpsc::sync_channel(http::Limits::default().connections_max);
    let http_listener = bind_http(&bind, &settings);
    let port = http_listener.as_ref().map_or(0, |(_, port)| *port);
    let server = http_listener.and_then(|(listener, _)| {
        let wake = Box::new(move || {
            // The loop is gone only when this whole process ends.
            let _ = waker.wake();
        });
        let gate = legacy_http::gate(token.clone(), bearer(&settings), hub.then(sys::host));
        let gate = web::gate(Arc::clone(&keys), port, gate);
        let started = http::Server::start(listener, sender, wake, gate, http::Limits::default());
        started.map_err(|error| log(&format!("HTTP is not served: {error}"))).ok()
    });
    let told = mesh_settings(&settings, port)?;
    let open = |store| Mesh::open(store, told.clone(), Box::new(sys::chance), clock.now());
    let mut mesh = match open(store) {
        Err(error) if error.kind == ErrorKind::Storage => {
            // It may be damage that only reading shows: look at the whole file before giving up.
            suspect(places);
            open(open_store(places, &settings)?)?
        }
        result => result?,
    };
    mesh.set_process_probe(Box::new(sys::process::lives));
    let listeners = listeners(token, bearer(&settings));
    let (door, guests) = if hub { open_door(&bind, port, &settings, listeners, door_waker)? } else { closed_door() };
    let announcer = door.as_ref().filter(|_| settings.discovers()).map(|door| {
        let name = format!("{}-{}", sys::user(), sys::host());
        Announcer::new(sys::own_path(), Orders::new(&name, port, door.port(), env!("CARGO_PKG_VERSION")))
    });
    let signals = watch_signals().map_err(|error| places.error("signals can't be watched", &error))?;
    let listener = bind_socket(places)?;
    write_files(places, port)?;
    ready(port, set_aside(places, started).or_else(|| weak_secret(&settings).filter(|_| hub)));
    let links = Links::open(&mesh.settings().links, settings.text(SECRET), link_ring);
    let waker = page_waker;
    let parts =
        Parts { poll, mesh, clock, listener, waker, keys, server, jobs, guests, links, announcer, signals, settings };
    let end = serve(parts, places);
    // Its thread ends before the lock does.
    drop(door);
    // The lock must outlive the last write.
    drop(lock);
    match end {
        Ok(end) => {
            log(&format!("the broker ended: {end:?}"));
            Ok(())
        }
        Err(error) => Err(Error::new(ErrorKind::Internal, format!("the poll failed: {error}"))),
    }
}

/// The address on which TCP is served, and whether other machines reach it.
///
/// # Errors
/// When the settings say that the broker is on another machine.
pub fn own_address(settings: &Settings) -> Result<(String, bool), Error> {
    match Road::find(settings)? {
        Road::Here { bind, hub } => Ok((bind, hub)),
        _ => {
            let host = settings.text("SLM_MESH_HOST");
            let text = format!("SLM_MESH_HOST={host} is another machine: the broker runs there, and needs none here");
            Err(Error::new(ErrorKind::Usage, text))
        }
    }
}

/// Writes what tells existing clients that a broker is here.
fn write_files(places: &Places, port: u16) -> Result<(), Error> {
    places.write(&places.pid(), &std::process::id().to_string())?;
    if port > 0 {
        return places.write(&places.port(), &port.to_string());
    }
    // Without HTTP there is no port, and clients that read the file must not knock at 0.
    let _ = fs::remove_file(places.port());
    Ok(())
}

/// Removes what tells clients that a broker is here.
pub fn remove_files(places: &Places, end: &End) {
    for path in [places.socket(), places.pid(), places.port()] {
        // What is not there need not be removed; what can't be removed is harmless: nobody answers.
        let _ = fs::remove_file(path);
    }
    if *end == End::Damaged {
        suspect(places);
    }
}

/// Leaves a note for who opens the database next: look before you trust it. Without the note the
/// next broker finds out by itself, only later.
fn suspect(places: &Places) {
    let _ = fs::write(places.suspect(), "");
}

/// The store, and a clock that is not behind it.
fn open_clocked(places: &Places, settings: &Settings) -> Result<(Store, Clock), Error> {
    let store = open_store(places, settings)?;
    match store.last_time() {
        Ok(floor) => Ok((store, Clock::start(floor))),
        Err(_) => {
            drop(store);
            suspect(places);
            let store = open_store(places, settings)?;
            let floor = store.last_time()?;
            Ok((store, Clock::start(floor)))
        }
    }
}

/// Takes the lock that makes this the only broker, waiting shortly for one that is leaving.
fn single(places: &Places) -> Result<File, Error> {
    let file = places.open_lock(&places.broker_lock())?;
    if file.try_lock().is_ok() {
        return Ok(file);
    }
    if std::os::unix::net::UnixStream::connect(places.socket()).is_ok() {
        let pid = fs::read_to_string(places.pid()).unwrap_or_else(|_| "?".into());
        return Err(Error::new(
            ErrorKind::Refused,
            format!("Broker already running (PID {pid}); slm-mesh stop ends it"),
        ));
    }
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let locked = file.lock().map(|()| file);
        // If nobody waits any more, the lock goes with the file.
        let _ = sender.send(locked);
    });
    match receiver.recv_timeout(Duration::from_millis(YIELD_MS)) {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(error)) => Err(places.error("can't be locked (does its file system know locks?)", &error)),
        Err(_) => {
            let text = format!(
                "another broker holds {} but does not answer; end it, then try again",
                places.broker_lock().display()
            );
            Err(Error::new(ErrorKind::Refused, text))
        }
    }
}

/// A live broker of the reference implementation in this directory is left alone.
fn refuse_other_kind(places: &Places) -> Result<(), Error> {
    let pid = fs::read_to_string(places.pid()).ok().and_then(|text| text.trim().parse::<i32>().ok());
    let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else { return Ok(()) };
    let lives = rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH);
    let port = fs::read_to_string(places.port()).ok().and_then(|text| text.trim().parse::<u16>().ok());
    // We hold the broker lock, so a live process behind these files is none of ours.
    let answers = port.is_some_and(|port| {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok()
    });
    if lives && answers && places.dir.join("mesh.db").exists() {
        let text = format!(
            "a broker of another kind (PID {}) lives in {}; stop it, or set SLM_MESH_DATA_DIR to another directory",
            pid.as_raw_nonzero(),
            places.dir.display()
        );
        return Err(Error::new(ErrorKind::Refused, text));
    }
    Ok(())
}

/// Opens the database; a damaged one is set aside under a dated name, never deleted.
fn open_store(places: &Places, settings: &Settings) -> Result<Store, Error> {
    let full = settings.text("SLM_MESH_SYNC") == "full";
    let path = places.database();
    let opened = Store::open(&path, full).and_then(|store| {
        let sound = !places.suspect().exists() || store.is_sound();
        if sound { Ok(store) } else { Err(StoreError::Corrupt("quick_check found damage".into())) }
    });
    let store = match opened {
        Ok(store) => store,
        Err(StoreError::Corrupt(why)) => {
            let aside = places.dir.join(format!("{ASIDE}{}", time::iso(sys::wall_ms()).replace(':', "")));
            log(&format!("THE DATABASE IS DAMAGED ({why}): it is kept as {}; the mesh starts empty", aside.display()));
            for suffix in ["", "-wal", "-shm"] {
                let part = |base: &std::path::Path| std::path::PathBuf::from(format!("{}{suffix}", base.display()));
                if part(&path).exists() {
                    fs::rename(part(&path), part(&aside)).map_err(|error| places.error("can't be written", &error))?;
                }
            }
            let mut store = Store::open(&path, full)?;
            // Nothing could have counted up to the time in milliseconds.
            store.raise(sys::wall_ms())?;
            store
        }
        Err(error) => return Err(error.into()),
    };
    // Gone or never there: either way the file was looked at.
    let _ = fs::remove_file(places.suspect());
    for suffix in ["", "-wal", "-shm"] {
        let private = fs::Permissions::from_mode(0o600);
        // The directory is private already; this is the belt to its braces.
        let _ = fs::set_permissions(format!("{}{suffix}", path.display()), private);
    }
    Ok(store)
}

/// The sentence for a database that was set aside since `started`: whoever started us shall hear it.
fn set_aside(places: &Places, started: i64) -> Option<String> {
    let since = time::iso(started).replace(':', "");
    let names = fs::read_dir(&places.dir).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut ours = names.filter(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
    let name = ours.find(|name| name.strip_prefix(ASIDE).is_some_and(|at| at >= since.as_str()))?;
    let path = places.dir.join(name);
    Some(format!("the database was damaged: it is kept as {}, and the mesh starts empty", path.display()))
}

/// Binds the Unix socket. We hold the broker lock, so one that is there is stale.
fn bind_socket(places: &Places) -> Result<mio::net::UnixListener, Error> {
    let path = places.socket();
    if path.exists() {
        fs::remove_file(&path).map_err(|error| places.error("has a stale socket that can't be removed", &error))?;
    }
    let listener = mio::net::UnixListener::bind(&path).map_err(|error| places.error("can't hold a socket", &error))?;
    let private = fs::set_permissions(&path, fs::Permissions::from_mode(0o600));
    private.map_err(|error| places.error("can't hold a private socket", &error))?;
    Ok(listener)
}

/// The secret as a bearer token, for existing clients and linked meshes, unless that is switched off.
fn bearer(settings: &Settings) -> Option<String> {
    let is_open = settings.text(SECRET).len() >= SECRET_MIN && settings.text("SLM_MESH_BEARER") == "on";
    is_open.then(|| settings.text(SECRET).to_owned())
}

/// Who may listen for pushes over a WebSocket: nobody, once bearer tokens are switched off.
fn listeners(token: String, secret: Option<String>) -> Bearer {
    let is_on = secret.is_some();
    let knows = legacy_http::bearer(token, secret);
    Arc::new(move |header| is_on && header.strip_prefix("Bearer ").is_some_and(&knows))
}

/// The warning of a secret that others may guess: for the log, and for who starts the hub.
fn weak_secret(settings: &Settings) -> Option<String> {
    let is_weak = settings.text(SECRET).len() < SECRET_GOOD;
    is_weak.then(|| {
        format!(
            "WARNING: {SECRET} is short enough to be guessed, and this mesh is open to the network; \
                 slm-mesh secret prints a good one"
        )
    })
}

/// Where guests arrive, and the door through which they do.
type Doors = (Option<Door>, mpsc::Receiver<Arrival>);

/// Where nobody arrives.
fn closed_door() -> Doors {
    (None, mpsc::channel().1)
}

/// Opens the port for sessions on other machines.
fn open_door(
    bind: &str,
    http_port: u16,
    settings: &Settings,
    bearer: Bearer,
    waker: Arc<mio::Waker>,
) -> Result<Doors, Error> {
    let secret = settings.text(SECRET);
    if let Some(warning) = weak_secret(settings) {
        log(&warning);
    }
    let port = match settings.int("SLM_MESH_WS_PORT") as u16 {
        // Without HTTP the wanted ports were all taken, and these are ten further on.
        0 if http_port == 0 => settings.int("SLM_MESH_PORT") as u16 + PORTS_TRIED,
        0 => http_port.saturating_add(1),
        port => port,
    };
    let listener = TcpListener::bind(socket_address(bind, port)).map_err(|error| {
        let text = format!("port {port} for other machines can't be had ({error}); set SLM_MESH_WS_PORT to a free one");
        Error::new(ErrorKind::Refused, text)
    })?;
    let (sender, guests) = mpsc::sync_channel(64);
    let wake = Box::new(move || {
        // The loop is gone only when this whole process ends.
        let _ = waker.wake();
    });
    let inside = Inside { arrivals: sender, wake, bearer, log, chance: sys::chance };
    let door = Door::open(listener, secret.to_owned(), inside)
        .map_err(|error| Error::new(ErrorKind::Internal, format!("other machines can't be served ({error})")))?;
    log(&format!("other machines are served on {bind}, HTTP port {http_port}, sessions on port {port}"));
    Ok((Some(door), guests))
}

fn socket_address(host: &str, port: u16) -> String {
    let host = if host == "localhost" { "127.0.0.1" } else { host };
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Binds the wanted port or one of the nine after it. Without any, the mesh serves its Unix socket
/// alone: agents need nothing else.
fn bind_http(host: &str, settings: &Settings) -> Option<(TcpListener, u16)> {
    let first = settings.int("SLM_MESH_PORT") as u16;
    for port in (0..PORTS_TRIED).filter_map(|n| first.checked_add(n)) {
        if let Ok(listener) = TcpListener::bind(socket_address(host, port)) {
            return Some((listener, port));
        }
    }
    log(&format!("no free port from {first} to {}: HTTP is not served", first.saturating_add(PORTS_TRIED - 1)));
    None
}

/// SIGTERM, SIGINT and SIGHUP come as a byte on a socket that the loop polls.
fn watch_signals() -> io::Result<mio::net::UnixStream> {
    let (reader, writer) = std::os::unix::net::UnixStream::pair()?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    reader.set_nonblocking(true)?;
    Ok(mio::net::UnixStream::from_std(reader))
}

fn mesh_settings(settings: &Settings, port: u16) -> Result<crate::core::MeshSettings, Error> {
    Ok(crate::core::MeshSettings {
        stale_ms: settings.int("SLM_MESH_STALE_MS"),
        dead_ms: settings.int("SLM_MESH_DEAD_MS"),
        lock_ttl_min: settings.int("SLM_MESH_LOCK_TTL_MIN"),
        rate_max: settings.int("SLM_MESH_RATE") as u32,
        host: sys::host(),
        user: sys::user(),
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        port,
        links: links(settings)?,
    })
}

/// What rings the loop from another thread.
fn ring(waker: &Arc<mio::Waker>) -> Arc<dyn Fn() + Send + Sync> {
    let waker = Arc::clone(waker);
    Arc::new(move || {
        // The loop is gone only when this whole process ends.
        let _ = waker.wake();
    })
}

/// Leaves the terminal and the caller's session, as a daemon does.
pub fn detach() {
    // It fails only for a process group's leader, which a spawned child is not.
    let _ = rustix::process::setsid();
    // Staying would keep the caller's directory from being unmounted.
    let _ = std::env::set_current_dir("/");
}

/// Tells the starter through standard output that clients can connect, and lets go of it.
pub fn say_ready(port: u16, note: Option<String>, let_go: bool) {
    let line = json!({ "ok": true, "data": { "pid": std::process::id(), "port": port }, "note": note });
    let mut out = io::stdout().lock();
    // A starter that is gone no longer needs to know.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    if let_go && let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(null.as_fd());
    }
}
