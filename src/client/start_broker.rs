//! Starts a broker on this machine if a client finds none.

use super::{Client, is_absent, unreachable};
use crate::base::error::{Error, ErrorKind};
use crate::sys;
use crate::sys::broker_startup_progress;
use crate::sys::data_dir::DataDir;
use crate::sys::file_lock_with_timeout::LockWait;
use crate::sys::process;
use crate::sys::socket_wait::{SocketEvent, wait_for};
use serde_json::{Value, json};
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a verb or a session waits for a broker that is starting. A broker usually starts within 50 ms, but it may
/// have to check or upgrade a large database.
pub const START_MAX: Duration = Duration::from_secs(10);
/// Minimum time for which a hook waits for a broker that is starting, even if the hook's time limit is shorter. On a
/// busy machine, each start takes longer than the usual limit, and without a broker, nothing protects locked files.
const HOOK_START_MIN: Duration = Duration::from_secs(1);

/// How long a client waits for another client that is starting the broker.
const STARTS_WITHIN: Duration = Duration::from_millis(4000);
/// The pause between two attempts to connect to a broker that is starting.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Maximum number of brokers that a client starts in a row. The client starts another broker if the last broker was
/// stopped before the client could connect.
const STARTS_MAX: usize = 3;

/// How long a client waits for a starting broker if it waits at most `budget` for each answer.
pub fn start_limit(budget: Option<Duration>) -> Duration {
    budget.map_or(START_MAX, |budget| budget.max(HOOK_START_MIN))
}

/// Starts a broker while holding the start lock, and waits no longer than `limit`. If many clients do this at the same
/// time, one of them starts the broker. The others wait for the lock, and then find the broker.
pub fn start_broker(places: &DataDir, limit: Duration) -> Result<Client, Error> {
    places.prepare()?;
    let until = Instant::now() + limit;
    // If another client holds the lock for too long, this client starts a broker without the lock. If this leads to two
    // brokers, one of them ends immediately.
    let _lock = LockWait::begin(places.open_lock(&places.start_lock())?)
        .for_time(limit.min(STARTS_WITHIN))
        .map_err(|error| places.error("can't be locked (does its file system support locks?)", &error))?;
    for _ in 0..STARTS_MAX {
        // Another client may already have started a broker. If that client did not wait, the broker may still be
        // starting.
        if let Some(client) = connect_when_started(places, until)? {
            return Ok(client);
        }
        match spawn_broker(places, until) {
            // Another program may have started a broker without taking the start lock.
            Err(error) if error.kind == ErrorKind::Refused => return Client::connect_local(places).map_err(|_| error),
            started => started?,
        }
        // If there is no broker now, somebody stopped the new broker before this client could connect.
    }
    Client::connect_local(places).map_err(|error| unreachable(places, &error))
}

/// Connects to the broker. If it is still starting, waits for it. Returns `None` if there is no broker.
fn connect_when_started(places: &DataDir, until: Instant) -> Result<Option<Client>, Error> {
    loop {
        match Client::connect_local(places) {
            Ok(client) => return Ok(Some(client)),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(unreachable(places, &error)),
        }
        let Some(starting) = broker_startup_progress::find(places) else { return Ok(None) };
        if Instant::now() >= until {
            return Err(starting.error());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Runs `slm-mesh start` in the background, and waits until the broker is ready, or until the time `until`.
fn spawn_broker(places: &DataDir, until: Instant) -> Result<(), Error> {
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
        let is_ready = wait_for(&out, SocketEvent::Readable, until.saturating_duration_since(Instant::now()));
        if is_ready.is_ok_and(|is_ready| !is_ready) {
            let pid = child.id();
            process::reap_at_end(child);
            return Err(broker_startup_progress::find(places).map_or_else(
                || {
                    Error::new(
                        ErrorKind::Gone,
                        format!("the broker (PID {pid}) is still starting; try again in a moment"),
                    )
                },
                |starting| starting.error(),
            ));
        }
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
