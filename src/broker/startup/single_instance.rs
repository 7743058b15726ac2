//! Makes this process the only broker of its data directory, and writes the files through which clients find the
//! broker.

use crate::base::error::{Error, ErrorKind};
use crate::sys::data_dir::DataDir;
use crate::sys::file_lock_with_timeout::{self, LockWait};
use crate::sys::{broker_startup_progress, process};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Maximum time for which a new broker waits for an old broker to end.
const HANDOVER: Duration = Duration::from_secs(3);
/// How long to wait before checking again whether another broker accepts connections.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Takes the lock that makes this process the only broker. Waits briefly for a broker that is ending. Fails at once
/// if another broker accepts connections.
pub(super) fn lock(places: &DataDir) -> Result<File, Error> {
    let file = places.open_lock(&places.broker_lock())?;
    if file.try_lock().is_ok() {
        return Ok(emptied(file));
    }
    let holder = file_lock_with_timeout::holder(&file);
    let mut wait = LockWait::begin(file);
    let until = Instant::now() + HANDOVER;
    while Instant::now() < until {
        // A starting broker holds the lock before its socket exists. An ending broker removes its socket before it
        // releases the lock. Neither accepts connections, so this function waits for the lock.
        refuse_running(places)?;
        let locked = wait.for_time(LOOK_EVERY);
        if let Some(file) =
            locked.map_err(|error| places.error("can't be locked (does its file system support locks?)", &error))?
        {
            return Ok(emptied(file));
        }
    }
    if let Some(starting) = broker_startup_progress::find(places) {
        return Err(Error::new(ErrorKind::Refused, starting.error().text));
    }
    let process = holder.map_or("another process".into(), |pid| format!("another process (PID {pid})"));
    let text = format!(
        "{process} holds the lock on {} but does not answer; if it is a broker, end it with slm-mesh stop --force",
        places.broker_lock().display()
    );
    Err(Error::new(ErrorKind::Refused, text))
}

/// Removes from the lock file the text of a broker that was killed while it started. Returns the lock file.
fn emptied(lock: File) -> File {
    // If this fails, the old text stays. Clients then believe that this process is a starting broker, and wait a
    // little.
    let _ = broker_startup_progress::note_end(&lock);
    lock
}

/// Fails if another broker accepts connections.
fn refuse_running(places: &DataDir) -> Result<(), Error> {
    let Ok(stream) = UnixStream::connect(places.socket()) else { return Ok(()) };
    let pid = process::peer_credentials(&stream).and_then(|peer| peer.pid);
    let pid = pid.map_or("?".into(), |pid| pid.to_string());
    Err(Error::new(ErrorKind::Refused, format!("Broker already running (PID {pid}); stop it with slm-mesh stop")))
}

/// Binds the Unix socket. This process holds the broker lock, so an existing socket is stale and is removed first.
pub(super) fn bind_socket(places: &DataDir) -> Result<mio::net::UnixListener, Error> {
    let path = places.socket();
    if let Ok(meta) = path.symlink_metadata() {
        // If a container mounts the socket while no socket exists, the container runtime creates an empty directory at
        // this path.
        let removed = if meta.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
        removed.map_err(|error| places.error("contains a stale socket that can't be removed", &error))?;
    }
    let listener = mio::net::UnixListener::bind(&path).map_err(|error| places.error("can't hold a socket", &error))?;
    let private = fs::set_permissions(&path, fs::Permissions::from_mode(0o600));
    private.map_err(|error| places.error("contains a socket that can't be made private", &error))?;
    Ok(listener)
}

/// Writes the files through which clients of slm-mesh 1.x find this broker. `port` is `None` without HTTP.
pub(super) fn write_files(places: &DataDir, port: Option<u16>) -> Result<(), Error> {
    places.write(&places.pid(), &std::process::id().to_string())?;
    if let Some(port) = port {
        return places.write(&places.port(), &port.to_string());
    }
    // The port file of an earlier broker could send clients to another program.
    let _ = fs::remove_file(places.port());
    Ok(())
}
