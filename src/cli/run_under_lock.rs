//! `lock FILE… -- COMMAND`: holds a lock while a command runs, forwards signals to the command, and returns the
//! command's exit status.
//!
//! **Invariant:** the lock lasts as long as the command and its children, even if this process is killed. The reason is
//! that the lock belongs to a connection to the broker, and the command inherits this connection.
//!
//! There are two exceptions. If the command closes the inherited descriptor, the lock ends with this process. The lock
//! also ends with this process if the broker is replaced, because only this process connects to the new broker.

use super::args::ParsedCommand;
use super::retry_on_lost_connection::call_repeatedly;
use super::verb_behavior_table::CliOperation;
use super::{call_params, load_environment};
use crate::base::error::{Error, ErrorKind};
use crate::base::limits;
use crate::base::untrusted_text::{shown_name, shown_path};
use crate::client::{Carrier, Client, route_to_broker};
use crate::core::op_definition::ArgRole;
use crate::core::{Arg, Op};
use crate::sys::data_dir::DataDir;
use crate::sys::print_error;
use crate::sys::run_with_signals::ForegroundCommand;
use crate::sys::threads;
use crate::wire::rpc::RpcMessage;
use serde_json::{Map, Value, json};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The time between two checks of the connection, and between two attempts after a failure.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// The pause between two requests for a lost lock that another peer holds now. Perhaps that lock belongs to a command
/// that died together with the broker. Such a lock ends soon.
const REFUSED_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum time to wait for the reply to `detach`, or for the end of the carrier (the process that forwards the
/// connection to the hub). During this time, the hub learns that the command has ended.
const CARRIER_TIMEOUT: Duration = Duration::from_millis(500);
/// The time between two checks of whether the carrier has ended. The carrier usually ends within milliseconds.
const CARRIER_CHECK_INTERVAL: Duration = Duration::from_millis(2);
/// The number of hexadecimal digits in the key of a command.
const KEY_LENGTH: usize = 32;
/// The shell's exit status for a command that was not found.
const NOT_FOUND: u8 = 127;
/// The shell's exit status for a command that was found but can't be run.
const NOT_RUNNABLE: u8 = 126;

/// The environment variable that contains the keys of a process's outer commands, separated by commas. The process runs
/// inside these commands, which hold locks.
const OUTER_VARIABLE: &str = "SLM_MESH_LOCK_COMMANDS";

/// This process may run inside commands that hold locks. Adds the keys of these commands to the parameters of a call,
/// as the argument `arg`.
/// The commands do not end before this process is done. With the keys, the broker can recognize a wait that would never
/// end.
pub(super) fn add_outer_commands(arg: &Arg, params: &mut Map<String, Value>) {
    let variable = std::env::var(OUTER_VARIABLE).unwrap_or_default();
    let is_key = |key: &&str| key.len() == KEY_LENGTH && key.bytes().all(|c| c.is_ascii_hexdigit());
    let keys: Vec<&str> = variable.rsplit(',').filter(is_key).take(limits::OUTER_COMMANDS_MAX).collect();
    if !keys.is_empty() {
        params.insert(arg.name.into(), json!(keys));
    }
}

/// Returns the value of [`OUTER_VARIABLE`] for a command whose lock is requested with these parameters.
fn outer_commands_for_child(op: &Op, params: &Map<String, Value>) -> String {
    let outer = op.arg_with_role(ArgRole::OuterCommands).and_then(|arg| params.get(arg.name));
    let outer = outer.and_then(Value::as_array).into_iter().flatten().rev();
    let keys: Vec<&str> = outer.chain(params.get("command")).filter_map(Value::as_str).collect();
    keys.join(",")
}

/// Runs a command while holding a lock, and returns the command's exit status.
pub fn run_under_lock(row: &CliOperation, parsed: &ParsedCommand) -> Result<u8, Error> {
    let (places, settings) = load_environment()?;
    let mut params = call_params(row, parsed, &settings)?;
    if params.contains_key("renew") {
        let text = "lock: --renew can't be combined with a command, because a command runs under a new lock, which \
                    is renewed until the command ends; leave out --renew";
        return Err(Error::new(ErrorKind::Usage, text));
    }
    params.insert("command".into(), json!(format!("{:0KEY_LENGTH$x}", crate::sys::random_u128())));
    let minutes =
        params.get("ttlMinutes").and_then(Value::as_i64).unwrap_or_else(|| settings.int("SLM_MESH_LOCK_TTL_MIN"));
    let mut client = route_to_broker::connect_for_child(&places)?;
    let granted = call_repeatedly(&mut client, || route_to_broker::connect_for_child(&places), row.op.name, &params)?;
    let Some((program, words)) = parsed.command_line.split_first() else { return Ok(0) };
    let mut command = Command::new(program);
    command.args(words).env("SLM_MESH_LOCK_TOKEN", granted["token"].to_string());
    command.env(OUTER_VARIABLE, outer_commands_for_child(row.op, &params));
    params.insert("renew".into(), json!(true));
    params.insert("waitSeconds".into(), json!(0));
    // `steal` applies only to the first call. If somebody else locks one of the files later, only the person may decide
    // to take that lock too.
    params.remove("steal");
    let interval = Duration::from_secs((minutes as u64 * 60 / 3).max(1));
    let mut renewal = Renewal { params: Value::Object(params), token: granted["token"].clone(), is_refused: false };
    // The thread that renews the lock starts before the command. If the system allows no further thread, the command
    // must not run, because nothing would renew the lock.
    let (begin, begun) = channel();
    let (done, ended) = channel();
    let renewing = threads::spawn("renew the lock, so the command was not run", move || {
        if let Ok(client) = begun.recv() {
            renew_until_ended(client, &places, &mut renewal, interval, &ended);
        }
    })?;
    // When this process ends, the broker releases the lock, unless a child of the command still holds the connection.
    let running = match ForegroundCommand::spawn(&mut command, client.as_fd()) {
        Ok(running) => running,
        Err(error) => return Ok(report_not_run(program, &error)),
    };
    let carrier = client.take_carrier();
    // Sending fails only if the thread has panicked. Even then, the command still has the connection, and so keeps the
    // lock.
    let _ = begin.send(client);
    let status = running
        .wait()
        .map_err(|error| Error::new(ErrorKind::Internal, format!("cannot wait for the command ({error})")))?;
    drop(done);
    // The result does not matter, because the thread's connection is closed even after a panic.
    let _ = renewing.join();
    if let Some(carrier) = carrier {
        wait_for_carrier(carrier);
    }
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)) as u8)
}

/// Reports why a command was not run, and returns the exit status that a shell would return.
pub(super) fn report_not_run(program: &OsStr, error: &io::Error) -> u8 {
    let program = program.to_string_lossy();
    if error.kind() == io::ErrorKind::NotFound {
        print_error(&format!("slm-mesh: {program}: command not found"));
        return NOT_FOUND;
    }
    print_error(&format!("slm-mesh: {program} cannot be run ({error})"));
    NOT_RUNNABLE
}

/// Waits briefly until the carrier (the process that forwards this connection to the hub) has ended. Without this wait,
/// the next command of a script could find the files still locked.
fn wait_for_carrier(mut carrier: Carrier) {
    let until = Instant::now() + CARRIER_TIMEOUT;
    // If the command left a child behind, the child keeps the connection open, and so keeps the lock. In this case, the
    // carrier does not end in time.
    while carrier.is_running() && Instant::now() < until {
        std::thread::sleep(CARRIER_CHECK_INTERVAL);
    }
}

/// The call that renews the lock, and the results of earlier calls.
struct Renewal {
    params: Value,
    /// The token of the lock. A renewal does not change the token. A new token shows that the lock was free for some
    /// time.
    token: Value,
    /// Whether the last attempt was refused, so that the loss of the lock is reported only once.
    is_refused: bool,
}

/// The result of a renewal.
#[derive(Clone, Copy, PartialEq)]
enum Renewed {
    /// The lock is held, or the connection failed. The next check of the connection finds such a failure.
    Held,
    /// Another peer has locked one of the files.
    Refused,
    /// The hub no longer leads.
    Standby,
}

impl Renewal {
    /// Reports that a person has taken the lock.
    fn report_taken(&mut self, params: &Map<String, Value>) {
        if !std::mem::replace(&mut self.is_refused, true) {
            let word = |name: &str| params.get(name).and_then(Value::as_str).unwrap_or("");
            let (by, path) = (shown_name(word("by")), shown_path(word("filePath")));
            print_error(&format!(
                "slm-mesh: the lock was lost, and the command is still running: {by} took the lock on {path}"
            ));
        }
    }

    /// Renews the lock, and reports if the lock was lost.
    fn send(&mut self, client: &mut Client) -> Renewed {
        match client.call("lock.lock", &self.params) {
            Ok(granted) => {
                self.is_refused = false;
                let former = std::mem::replace(&mut self.token, granted["token"].clone());
                if former != self.token {
                    print_error(&format!(
                        "slm-mesh: the lock was lost and regained while the command kept running; others may have \
                         changed the files in the meantime (the token was {former} and is now {}, but the command \
                         still has the former token in SLM_MESH_LOCK_TOKEN)",
                        self.token
                    ));
                }
                Renewed::Held
            }
            Err(error) if error.kind == ErrorKind::Gone => Renewed::Held,
            Err(error) if error.kind == ErrorKind::Standby => Renewed::Standby,
            Err(error) => {
                if !std::mem::replace(&mut self.is_refused, true) {
                    print_error(&format!("slm-mesh: the lock was lost, and the command is still running: {error}"));
                }
                Renewed::Refused
            }
        }
    }
}

/// Renews the lock until the command ends, even if the broker restarts.
fn renew_until_ended(
    mut client: Client,
    places: &DataDir,
    renewal: &mut Renewal,
    interval: Duration,
    ended: &Receiver<()>,
) {
    let mut wait = interval;
    let mut renewed = Renewed::Held;
    let inherited = client.as_fd().as_raw_fd();
    let mut has_reconnected = false;
    loop {
        // The lock ends soon after the connection to the broker breaks, so this process must notice the break quickly.
        let pause = wait.min(CHECK_INTERVAL);
        match ended.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => break,
        }
        wait = wait.saturating_sub(pause);
        let is_lost = renewed == Renewed::Standby || is_connection_lost(&mut client, renewal);
        if is_lost {
            // The command does not inherit this connection, so no carrier is needed.
            match Client::connect_or_start(places) {
                Ok(new) => (client, has_reconnected) = (new, true),
                Err(_) => {
                    wait = CHECK_INTERVAL;
                    continue;
                }
            }
        }
        if is_lost || wait.is_zero() {
            renewed = renewal.send(&mut client);
            // If the hub no longer leads, the call has replaced the connection with a connection to the leader.
            has_reconnected |= client.as_fd().as_raw_fd() != inherited;
            wait = if renewed == Renewed::Refused { REFUSED_INTERVAL.min(interval) } else { interval };
        }
    }
    // After a connection ends, a hub keeps the lock for a while, because the network may have failed. For the inherited
    // connection, the carrier tells the hub that the command has ended. A later connection may have no carrier, so this
    // process tells the hub.
    if has_reconnected && client.set_receive_timeout(Some(CARRIER_TIMEOUT)).is_ok() {
        // If this fails, the lock ends a little later.
        let _ = client.call("detach", &json!({}));
    }
}

/// Waits for a millisecond, and returns whether the connection has ended. If the broker reports during this time that a
/// person has taken the lock, tells the user.
fn is_connection_lost(client: &mut Client, renewal: &mut Renewal) -> bool {
    if client.set_receive_timeout(Some(Duration::from_millis(1))).is_err() {
        return true;
    }
    let is_lost = match client.receive() {
        Ok(RpcMessage::Notification { method, params }) if method == "lock_taken" => {
            renewal.report_taken(&params);
            false
        }
        Ok(_) => false,
        Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
    };
    is_lost || client.set_receive_timeout(None).is_err()
}
