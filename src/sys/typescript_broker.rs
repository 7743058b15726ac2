//! Detects a running broker of the older TypeScript program (`@slm/mesh`) in our data directory.

use super::data_dir::DataDir;
use super::process;
use crate::base::error::{Error, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// How long the TypeScript broker may take to accept a connection.
const ACCEPTS_WITHIN: Duration = Duration::from_millis(300);

/// The beginning of the line with the id of our own broker.
const OWN_PID: &str = "broker ";

/// The process id of a running TypeScript broker. A broker counts as running if the process in its pid file is alive
/// and the port in its port file accepts connections. Call this function only while our own broker, which writes the
/// same files, is not running.
pub fn find(places: &DataDir) -> Option<i64> {
    let pid = named_process(places)?;
    let port = u16::try_from(number(places, &places.port())?).ok()?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpStream::connect_timeout(&address, ACCEPTS_WITHIN).is_ok().then_some(pid)
}

/// Whether a TypeScript broker may be running in this data directory. If its database exists and the process in its pid
/// file is alive, the broker may be running.
pub fn may_live(places: &DataDir) -> bool {
    named_process(places).is_some()
}

/// The process in the pid file, if it is alive and the directory contains the database of a TypeScript broker.
fn named_process(places: &DataDir) -> Option<i64> {
    if !places.dir.join("mesh.db").exists() {
        return None;
    }
    number(places, &places.pid()).filter(|pid| Some(*pid) != last_own_pid(places) && process::is_in_use(*pid))
}

/// The line in the file `broker.clock` that says which process wrote the file. If this broker is killed, its pid file
/// remains, and another process may get the same id. Because of this line, the pid file is not mistaken for that of a
/// TypeScript broker.
pub fn own_pid_line() -> String {
    format!("{OWN_PID}{}\n", std::process::id())
}

/// The process id of our own last broker in this data directory.
fn last_own_pid(places: &DataDir) -> Option<i64> {
    places.read(&places.clock())?.lines().find_map(|line| line.strip_prefix(OWN_PID)?.parse().ok())
}

fn number(places: &DataDir, path: &Path) -> Option<i64> {
    places.read(path)?.trim().parse().ok()
}

/// Refuses to use a directory in which a TypeScript broker is running.
///
/// # Errors
/// If a TypeScript broker is running; the error says how to end it.
pub fn refuse(places: &DataDir) -> Result<(), Error> {
    find(places).map_or(Ok(()), |pid| Err(error(places, pid)))
}

/// The error for a data directory in which a TypeScript broker is running.
pub fn error(places: &DataDir, pid: i64) -> Error {
    let text = format!(
        "a broker of slm-mesh 1.x (PID {pid}) is running in {}; end it with the program that started it, or with kill \
         {pid}, or set SLM_MESH_DATA_DIR to another directory",
        places.dir.display()
    );
    Error::new(ErrorKind::Refused, text)
}
