//! `lock FILE… -- COMMAND`: holds a lock while a command runs. The lock belongs to this process alone, is
//! renewed while the command runs and is released when it ends. The command's exit status is passed on.

use super::args::ParsedCommand;
use super::operations::CliOperation;
use super::{call_params, load_environment};
use crate::base::error::{Error, ErrorKind};
use crate::client::Client;
use crate::sys::data_dir::DataDir;
use serde_json::{Map, Value, json};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// How often the connection is checked between renewals, and retried after a failure.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Runs a command under a lock and returns the command's exit status.
pub fn run_under_lock(row: &CliOperation, parsed: &ParsedCommand) -> Result<u8, Error> {
    let (places, settings) = load_environment()?;
    let mut params = call_params(row, parsed, &settings);
    params.insert("command".into(), json!(format!("{:032x}", crate::sys::random_u128())));
    let minutes =
        params.get("ttlMinutes").and_then(Value::as_i64).unwrap_or_else(|| settings.int("SLM_MESH_LOCK_TTL_MIN"));
    let mut client = Client::connect_or_start(&places)?;
    let granted = client.call(row.op.name, &Value::Object(params.clone()))?;
    let Some((program, words)) = parsed.command_line.split_first() else { return Ok(0) };
    let spawned = Command::new(program).args(words).env("SLM_MESH_LOCK_TOKEN", granted["token"].to_string()).spawn();
    let mut child = spawned.map_err(|error| {
        Error::new(ErrorKind::Usage, format!("{}: cannot run it ({error})", program.to_string_lossy()))
    })?;
    params.insert("renew".into(), json!(true));
    params.insert("waitSeconds".into(), json!(0));
    let (done, ended) = channel();
    let interval = Duration::from_secs((minutes as u64 * 60 / 3).max(1));
    let renewing = std::thread::spawn(move || renew_until_ended(client, &places, &params, interval, &ended));
    let status = child
        .wait()
        .map_err(|error| Error::new(ErrorKind::Internal, format!("cannot wait for the command ({error})")))?;
    drop(done);
    // The end of the thread closes the connection, which releases the lock even if the thread failed.
    let _ = renewing.join();
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)) as u8)
}

/// Renews the lock until the command ends, also across a restart of the broker; then releases it.
fn renew_until_ended(
    mut client: Client,
    places: &DataDir,
    params: &Map<String, Value>,
    interval: Duration,
    ended: &Receiver<()>,
) {
    let renewal = Value::Object(params.clone());
    let mut wait = Duration::ZERO;
    loop {
        // A lost broker must be noticed at once, because the lock is soon gone without a connection.
        let pause = wait.min(CHECK_INTERVAL);
        match ended.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => break,
        }
        wait = wait.saturating_sub(pause);
        let is_lost = is_connection_lost(&mut client);
        if is_lost {
            match Client::connect_or_start(places) {
                Ok(new) => client = new,
                Err(_) => {
                    wait = CHECK_INTERVAL;
                    continue;
                }
            }
        }
        if is_lost || wait.is_zero() {
            if let Err(error) = client.call("lock.lock", &renewal)
                && error.kind != ErrorKind::Gone
            {
                crate::sys::print_error(&format!("slm-mesh: lost the lock while the command is running: {error}"));
            }
            wait = interval;
        }
    }
    let paths = params.get("filePaths").cloned().unwrap_or(Value::Null);
    let release = json!({ "filePaths": paths, "command": params["command"], "as": params.get("as") });
    // If this does not arrive, the end of the connection releases the lock.
    let _ = client.call("lock.unlock", &release);
}

/// Whether the connection has ended. Looks at the socket for a moment.
fn is_connection_lost(client: &mut Client) -> bool {
    if client.set_receive_timeout(Some(Duration::from_millis(1))).is_err() {
        return true;
    }
    let received = client.receive();
    let is_lost = received
        .is_err_and(|error| !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
    is_lost || client.set_receive_timeout(None).is_err()
}
