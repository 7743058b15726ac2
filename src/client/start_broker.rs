//! Starts a broker on this machine if a client finds none.

use super::{Client, is_absent, unreachable};
use crate::base::error::{Error, ErrorKind};
use crate::sys;
use crate::sys::data_dir::DataDir;
use crate::sys::file_lock_with_timeout::LockWait;
use crate::sys::process;
use serde_json::{Value, json};
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a client waits for another client that is starting the broker.
const STARTS_WITHIN: Duration = Duration::from_millis(4000);

/// Maximum number of brokers that a client starts in a row. The client starts another broker if the last broker was
/// stopped before the client could connect.
const STARTS_MAX: usize = 3;

/// Starts a broker while holding the start lock. If many clients do this at the same time, one of them starts the
/// broker. The others wait for the lock, and then find the broker.
pub fn start_broker(places: &DataDir) -> Result<Client, Error> {
    places.prepare()?;
    // If another client holds the lock for too long, this client starts a broker without the lock. If this leads to two
    // brokers, one of them ends immediately.
    let _lock = LockWait::begin(places.open_lock(&places.start_lock())?)
        .for_time(STARTS_WITHIN)
        .map_err(|error| places.error("can't be locked (does its file system support locks?)", &error))?;
    match Client::connect_local(places) {
        Ok(client) => return Ok(client),
        Err(error) if is_absent(&error) => {}
        Err(error) => return Err(unreachable(places, &error)),
    }
    for _ in 0..STARTS_MAX {
        match spawn_broker(places) {
            // Another program may have started a broker without taking the start lock.
            Err(error) if error.kind == ErrorKind::Refused => return Client::connect_local(places).map_err(|_| error),
            started => started?,
        }
        match Client::connect_local(places) {
            // Somebody stopped the new broker before this client could connect.
            Err(error) if is_absent(&error) => {}
            connected => return connected.map_err(|error| unreachable(places, &error)),
        }
    }
    Client::connect_local(places).map_err(|error| unreachable(places, &error))
}

/// Runs `slm-mesh start` in the background, and waits until the broker is ready.
fn spawn_broker(places: &DataDir) -> Result<(), Error> {
    let log = places.open_log()?;
    // An older version may have let other users read the log. If the change of permissions fails, the error is ignored,
    // because the directory is private anyway.
    let _ = log.set_permissions(Permissions::from_mode(0o600));
    let program = sys::own_path();
    let spawned = Command::new(&program)
        .args(["start", "--json", "--as-daemon"])
        .env("SLM_MESH_DATA_DIR", &places.dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn();
    let mut child = spawned.map_err(|error| {
        let cure = match error.kind() {
            std::io::ErrorKind::WouldBlock => "; end some programs, or raise the limit on processes (ulimit -u)",
            _ => "",
        };
        let text = format!("the broker can't be started: {} can't be run ({error}){cure}", program.display());
        Error::new(ErrorKind::Gone, text)
    })?;
    let mut report = String::new();
    if let Some(out) = child.stdout.take() {
        // If the report is empty, the broker ended without a report, and the code below handles this case.
        let _ = BufReader::new(out).take(64 * 1024).read_line(&mut report);
    }
    let report: Value = serde_json::from_str(&report).unwrap_or(Value::Null);
    if let Some(note) = report["note"].as_str() {
        sys::print_error(&format!("slm-mesh: {note}"));
    }
    if report["ok"] == json!(true) {
        process::reap_at_end(child);
        return Ok(());
    }
    // The broker is ending, and its exit status adds nothing to the report.
    let _ = child.wait();
    let why = report["error"].as_str().map(str::to_owned);
    let kind = report["kind"].as_str().map_or(ErrorKind::Gone, ErrorKind::from_word);
    Err(Error::new(
        kind,
        why.unwrap_or_else(|| format!("the broker ended before it was ready; see {}", places.log().display())),
    ))
}
