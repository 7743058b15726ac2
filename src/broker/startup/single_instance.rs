//! Makes this the only broker of its data directory, and writes the files by which clients find it.

use super::database;
use crate::base::error::{Error, ErrorKind};
use crate::broker::lifecycle::ShutdownReason;
use crate::sys::data_dir::DataDir;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;
use std::time::Duration;

/// How long a new broker waits for an old one that is ending.
const HANDOVER: Duration = Duration::from_secs(5);
/// How long a broker of the reference implementation has to accept a connection.
const PROBE: Duration = Duration::from_millis(300);

/// Takes the lock that makes this the only broker. Waits shortly for a broker that is ending.
pub(super) fn lock(places: &DataDir) -> Result<File, Error> {
    let file = places.open_lock(&places.broker_lock())?;
    if file.try_lock().is_ok() {
        return Ok(file);
    }
    if std::os::unix::net::UnixStream::connect(places.socket()).is_ok() {
        let pid = fs::read_to_string(places.pid()).unwrap_or_else(|_| "?".into());
        let text = format!("Broker already running (PID {pid}); slm-mesh stop ends it");
        return Err(Error::new(ErrorKind::Refused, text));
    }
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let locked = file.lock().map(|()| file);
        // If nobody waits any more, the lock goes with the file.
        let _ = sender.send(locked);
    });
    match receiver.recv_timeout(HANDOVER) {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(error)) => Err(places.error("can't be locked (does its file system know locks?)", &error)),
        Err(_) => {
            let lock = places.broker_lock();
            let text = format!(
                "another broker holds {} but does not answer; end that process, then try again",
                lock.display()
            );
            Err(Error::new(ErrorKind::Refused, text))
        }
    }
}

/// Refuses to start beside a live broker of the reference implementation.
pub(super) fn refuse_reference_broker(places: &DataDir) -> Result<(), Error> {
    let pid = fs::read_to_string(places.pid()).ok().and_then(|text| text.trim().parse::<i32>().ok());
    let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else { return Ok(()) };
    let is_alive = rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH);
    let port = fs::read_to_string(places.port()).ok().and_then(|text| text.trim().parse::<u16>().ok());
    // We hold the broker lock, so a live process behind these files is no broker of this program.
    let answers =
        port.is_some_and(|port| TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), PROBE).is_ok());
    if is_alive && answers && places.dir.join("mesh.db").exists() {
        let text = format!(
            "a broker of another kind (PID {}) runs in {}; stop it, or set SLM_MESH_DATA_DIR to another directory",
            pid.as_raw_nonzero(),
            places.dir.display()
        );
        return Err(Error::new(ErrorKind::Refused, text));
    }
    Ok(())
}

/// Binds the Unix socket. We hold the broker lock, so a socket that is there already is stale.
pub(super) fn bind_socket(places: &DataDir) -> Result<mio::net::UnixListener, Error> {
    let path = places.socket();
    if path.exists() {
        fs::remove_file(&path).map_err(|error| places.error("has a stale socket that can't be removed", &error))?;
    }
    let listener = mio::net::UnixListener::bind(&path).map_err(|error| places.error("can't hold a socket", &error))?;
    let private = fs::set_permissions(&path, fs::Permissions::from_mode(0o600));
    private.map_err(|error| places.error("can't hold a private socket", &error))?;
    Ok(listener)
}

/// Writes the files by which existing clients find this broker; `port` is `None` without HTTP.
pub(super) fn write_files(places: &DataDir, port: Option<u16>) -> Result<(), Error> {
    places.write(&places.pid(), &std::process::id().to_string())?;
    if let Some(port) = port {
        return places.write(&places.port(), &port.to_string());
    }
    // A file of an earlier broker would send clients to a port that is not ours.
    let _ = fs::remove_file(places.port());
    Ok(())
}

/// Removes the files by which clients find a broker.
pub fn remove_files(places: &DataDir, reason: ShutdownReason) {
    for path in [places.socket(), places.pid(), places.port()] {
        // A file that is missing need not be removed. One that stays is harmless: nobody answers there.
        let _ = fs::remove_file(path);
    }
    if reason == ShutdownReason::Damaged {
        database::mark_suspect(places);
    }
}
