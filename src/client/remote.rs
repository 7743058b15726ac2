//! Connects to a hub, over a WebSocket or through ssh. Both ways give a socket that carries lines.

use super::{Client, discovered_hub};
use crate::base::error::{Error, ErrorKind};
use crate::remote::guest;
use crate::sys::broker_address::Endpoint;
use crate::sys::data_dir::DataDir;
use crate::sys::settings::{SECRET, Settings};
use crate::sys::{self, process};
use crate::wire::rpc;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long ssh and the hub may take for the first response.
const SSH_TIMEOUT: Duration = Duration::from_secs(30);

/// An attempt that fails after this time means a silent hub. A hub that refuses does so sooner.
const SILENT_AFTER: Duration = Duration::from_millis(500);
/// How long hooks avoid a silent hub, because hooks cannot wait.
const SILENT_MARK_AGE: Duration = Duration::from_secs(30);

/// A hub to connect to.
pub struct RemoteTarget {
    /// The endpoint of the hub.
    road: Endpoint,
    /// The settings, with the secret and the ports.
    settings: Settings,
}

/// Returns the hub that the settings name; `None` if the broker is on this machine.
///
/// # Errors
/// When the settings are wrong.
pub fn remote_target(places: &DataDir) -> Result<Option<RemoteTarget>, Error> {
    // Most machines have no hub, so the settings are not read if none of these variables or files exists.
    let is_set = |name: &str| std::env::var_os(name).is_some();
    if !is_set("SLM_MESH_HOST") && !is_set(SECRET) && !places.config().exists() {
        return Ok(None);
    }
    let settings = Settings::load(places)?;
    if discovered_hub::is_enabled(&settings) {
        return Ok(discovered_hub::joined_hub(places).map(|hub| RemoteTarget { road: hub.road(), settings }));
    }
    let road = Endpoint::find(&settings)?;
    Ok((!matches!(road, Endpoint::Local { .. })).then_some(RemoteTarget { road, settings }))
}

/// Connects to a hub and describes this machine to it. Marks a hub that does not respond.
///
/// # Errors
/// When the hub can't be reached or rejects us; the text says which.
pub fn connect(target: &RemoteTarget, places: &DataDir) -> Result<Client, Error> {
    let began = Instant::now();
    let connected = connect_target(target);
    if connected.is_ok() {
        // There is rarely a mark to remove.
        let _ = std::fs::remove_file(places.silent());
    } else if began.elapsed() >= SILENT_AFTER {
        // If the mark can't be written, the next hook waits as well.
        let _ = places.prepare().and_then(|()| places.write(&places.silent(), ""));
    }
    connected
}

/// Whether the hub did not respond a moment ago, so that a hook need not try. Commands ignore the mark, because they
/// can wait, and they remove it when they succeed.
pub fn is_marked_silent(places: &DataDir) -> bool {
    let at = std::fs::metadata(places.silent()).and_then(|meta| meta.modified());
    at.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < SILENT_MARK_AGE))
}

/// Connects through a process that carries the lines. So the connection outlives this process as long as another
/// process holds the socket, and then the carrier ends.
///
/// # Errors
/// When the carrier can't be started. The carrier itself reports why it can't reach the hub.
pub fn connect_by_carrier() -> Result<Client, Error> {
    let failed = |error: std::io::Error| Error::new(ErrorKind::Gone, format!("cannot start slm-mesh pipe ({error})"));
    let (ours, input) = UnixStream::pair().map_err(failed)?;
    let output = input.try_clone().map_err(failed)?;
    let mut command = Command::new(sys::own_path());
    command.arg("pipe").stdin(Stdio::from(OwnedFd::from(input))).stdout(Stdio::from(OwnedFd::from(output)));
    // The terminal's Ctrl-C is meant for the command that holds the socket, not for the carrier.
    let child = command.process_group(0).spawn().map_err(failed)?;
    Ok(Client::from_stream(ours, Some(child)))
}

fn connect_target(target: &RemoteTarget) -> Result<Client, Error> {
    let RemoteTarget { road, settings } = target;
    let mut client = match road {
        Endpoint::Ssh(target, port) => connect_over_ssh(target, *port)?,
        Endpoint::Hub(host) => {
            let port = match settings.int("SLM_MESH_WS_PORT") {
                0 => settings.int("SLM_MESH_PORT") + 1,
                port => port,
            };
            let stream = guest::connect(host, port as u16, settings.text(SECRET), sys::random_u128() as u64)?;
            Client::from_stream(stream, None)
        }
        Endpoint::DiscoveredHub { name, address, port } => {
            let stream = guest::connect(address, *port, settings.text(SECRET), sys::random_u128() as u64);
            Client::from_stream(stream.map_err(|error| discovered_hub::unreachable(name, &error))?, None)
        }
        Endpoint::Local { .. } => {
            return Err(Error::new(ErrorKind::Internal, "a broker on this machine is no remote target"));
        }
    };
    client.server_name = match road {
        Endpoint::Ssh(host, _) | Endpoint::Hub(host) | Endpoint::DiscoveredHub { name: host, .. } => {
            format!("the hub {host}")
        }
        Endpoint::Local { .. } => client.server_name,
    };
    client.send(&rpc::notification("origin", &describe_origin())).map_err(|error| client.connection_lost(&error))?;
    Ok(client)
}

/// Describes where this connection comes from: the machine, the user, and our parent processes. The hub uses the
/// processes to find the session that a shell or hook belongs to. On one machine the broker asks the kernel; a hub
/// trusts the description, because we know the secret.
fn describe_origin() -> Value {
    let ancestors: Vec<Value> = process::ancestors(i64::from(std::process::id()))
        .iter()
        .map(|process| json!([process.pid, process.start, process.wrapper, process.agent.map(|agent| agent.kind)]))
        .collect();
    json!({ "host": sys::host(), "user": sys::user(), "ancestors": ancestors })
}

/// Runs `slm-mesh pipe` on the hub through ssh.
fn connect_over_ssh(target: &str, port: Option<u16>) -> Result<Client, Error> {
    let failed = |why: &str| {
        let text = format!("the hub behind ssh://{target} can't be reached: {why}; try ssh {target} slm-mesh status");
        Error::new(ErrorKind::Gone, text)
    };
    let pair = UnixStream::pair().and_then(|(ours, theirs)| Ok((ours, theirs.try_clone()?, theirs)));
    let (ours, input, output) = pair.map_err(|error| failed(&error.to_string()))?;
    let mut command = Command::new("ssh");
    // Nobody can type a password here, and ssh must notice a dead network.
    command.args(["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5"]);
    command.args(["-o", "ServerAliveCountMax=2"]);
    if let Some(port) = port {
        command.args(["-p", &port.to_string()]);
    }
    command.args(["--", target, "slm-mesh", "pipe"]);
    command.stdin(Stdio::from(OwnedFd::from(input))).stdout(Stdio::from(OwnedFd::from(output))).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(&format!("ssh can't be run ({error})")))?;
    // Dropping the command closes our copies of its pipe ends, so that the stream ends when ssh does.
    drop(command);
    let stderr = child.stderr.take();
    let mut client = Client::from_stream(ours, Some(child));
    let ready = client.set_receive_timeout(Some(SSH_TIMEOUT)).map_err(|error| client.connection_lost(&error));
    match ready.and_then(|()| client.call("ping", &json!({}))) {
        Ok(_) => {
            client.set_receive_timeout(None).map_err(|error| client.connection_lost(&error))?;
            if let Some(stderr) = stderr {
                // Later messages of ssh go to our own standard error.
                std::thread::spawn(move || {
                    BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| sys::print_error(&line))
                });
            }
            Ok(client)
        }
        Err(_) => {
            let mut messages = String::new();
            if let (Some(mut stderr), Some(child)) = (stderr, client.broker_child.as_mut()) {
                // ssh has ended, or is killed here. Its last message is the reason.
                let _ = child.kill().and_then(|()| child.wait());
                let _ = stderr.by_ref().take(4096).read_to_string(&mut messages);
            }
            let last = messages.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it did not respond");
            Err(failed(last.trim()))
        }
    }
}
