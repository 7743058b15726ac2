//! Detects a running broker of the older TypeScript program (`@slm/mesh`) in our data directory.

use super::data_dir::DataDir;
use super::process;
use crate::base::error::{Error, ErrorKind};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

/// How long that broker may take to accept a connection.
const ACCEPTS_WITHIN: Duration = Duration::from_millis(300);

/// The process of a TypeScript broker, found by its own files: its database, a living process, and a port that
/// accepts connections. Our own broker may leave such files as well, but then nothing answers. So call this before a
/// broker starts, or while none runs.
pub fn find(places: &DataDir) -> Option<i64> {
    let pid = named_process(places)?;
    let port = u16::try_from(number(places.port())?).ok()?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpStream::connect_timeout(&address, ACCEPTS_WITHIN).is_ok().then_some(pid)
}

/// Whether a TypeScript broker may run here: its database exists, and so does the process that its files name.
pub fn may_live(places: &DataDir) -> bool {
    named_process(places).is_some()
}

/// The living process that the files name, in a directory with the database of a TypeScript broker.
fn named_process(places: &DataDir) -> Option<i64> {
    if !places.dir.join("mesh.db").exists() {
        return None;
    }
    number(places.pid()).filter(|pid| process::is_in_use(*pid))
}

fn number(path: PathBuf) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Refuses to use a directory in which a TypeScript broker runs.
///
/// # Errors
/// When one runs; the text says how to end it.
pub fn refuse(places: &DataDir) -> Result<(), Error> {
    find(places).map_or(Ok(()), |pid| Err(error(places, pid)))
}

/// The error for a directory in which a TypeScript broker runs.
pub fn error(places: &DataDir, pid: i64) -> Error {
    let text = format!(
        "a broker of another kind (PID {pid}) runs in {}: end it with the program that started it, or with kill {pid}, \
         or set SLM_MESH_DATA_DIR to another directory",
        places.dir.display()
    );
    Error::new(ErrorKind::Refused, text)
}
