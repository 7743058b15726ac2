//! `lock FILE… -- COMMAND`: the lock belongs to this invocation alone, is renewed while the command
//! runs, and falls with it; the command's exit status is passed on.

use super::args::Parsed;
use super::{params, surroundings};
use crate::base::error::{Error, ErrorKind};
use crate::client::Client;
use crate::core::Op;
use crate::sys::data_dir::Places;
use serde_json::{Map, Value, json};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Runs a command under a lock.
pub fn locked(op: &'static Op, parsed: &Parsed) -> Result<u8, Error> {
    let (places, settings) = surroundings()?;
    let mut params = params(op, parsed, &settings);
    params.insert("bound".into(), json!(format!("{:032x}", crate::sys::chance())));
    let minutes =
        params.get("ttlMinutes").and_then(Value::as_i64).unwrap_or_else(|| settings.int("SLM_MESH_LOCK_TTL_MIN"));
    let mut client = Client::connect_or_start(&places)?;
    let granted = client.call(op.name, &Value::Object(params.clone()))?;
    let Some((program, words)) = parsed.command_line.split_first() else { return Ok(0) };
    let spawned = Command::new(program).args(words).env("SLM_MESH_LOCK_TOKEN", granted["token"].to_string()).spawn();
    let mut child = spawned.map_err(|error| {
        Error::new(ErrorKind::Usage, format!("{}: can't be run ({error})", program.to_string_lossy()))
    })?;
    params.insert("renew".into(), json!(true));
    params.insert("waitSeconds".into(), json!(0));
    let (done, ended) = channel();
    let every = Duration::from_secs((minutes as u64 * 60 / 3).max(1));
    let renewing = std::thread::spawn(move || renew(client, &places, &params, every, &ended));
    let status = child
        .wait()
        .map_err(|error| Error::new(ErrorKind::Internal, format!("the command can't be waited for ({error})")))?;
    drop(done);
    // Its end closes the connection, and with it the lock falls.
    let _ = renewing.join();
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)) as u8)
}

/// Renews the lease until the command ends, also over a restart of the broker.
fn renew(mut client: Client, places: &Places, params: &Map<String, Value>, every: Duration, ended: &Receiver<()>) {
    let ask = Value::Object(params.clone());
    let mut wait = Duration::ZERO;
    loop {
        // Between renewals the socket is watched, so that a lost broker is noticed at once.
        let pause = wait.min(Duration::from_millis(500));
        match ended.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => break,
        }
        wait = wait.saturating_sub(pause);
        let lost = is_lost(&mut client);
        if lost {
            match Client::connect_or_start(places) {
                Ok(new) => client = new,
                Err(_) => {
                    wait = Duration::from_millis(500);
                    continue;
                }
            }
        }
        if lost || wait.is_zero() {
            if let Err(error) = client.call("lock.lock", &ask)
                && error.kind != ErrorKind::Gone
            {
                crate::sys::complain(&format!("slm-mesh: the lock was lost while the command runs: {error}"));
            }
            wait = every;
        }
    }
    let path = params.get("filePaths").cloned().unwrap_or(Value::Null);
    let give_back = json!({ "filePaths": path, "bound": params["bound"], "as": params.get("as") });
    // If this does not arrive, the end of the connection says the same.
    let _ = client.call("lock.unlock", &give_back);
}

/// Looks at the socket for a moment: an end of the stream means a lost broker.
fn is_lost(client: &mut Client) -> bool {
    if client.wait_at_most(Some(Duration::from_millis(1))).is_err() {
        return true;
    }
    let found = client.receive();
    let lost = found
        .is_err_and(|error| !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
    lost || client.wait_at_most(None).is_err()
}
