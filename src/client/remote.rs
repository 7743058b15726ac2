//! The way to a hub: over a WebSocket, or through ssh. Either ends in lines on a socket.

use super::{Client, discovered_hub};
use crate::base::error::{Error, ErrorKind};
use crate::remote::guest;
use crate::sys::data_dir::DataDir;
use crate::sys::endpoint::Endpoint;
use crate::sys::settings::{SECRET, Settings};
use crate::sys::{self, process};
use crate::wire::rpc;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What ssh, and the hub behind it, may take to answer for the first time.
const SSH_MAX: Duration = Duration::from_secs(30);

/// An attempt that failed after this met a hub that is silent, rather than one that says no.
const SLOW: Duration = Duration::from_millis(500);
/// For so long a silent hub is left alone by who can't wait for it.
const SILENT: Duration = Duration::from_secs(30);

/// The road that leads away from this machine, with the settings that it needs.
pub type Away = (Endpoint, Settings);

/// The way to the broker, if it leads to another machine.
///
/// # Errors
/// When the settings are wrong.
pub fn road(places: &DataDir) -> Result<Option<Away>, Error> {
    // Most machines have no hub, and a verb has no time: nothing is read where nothing can be said.
    let is_said = |name: &str| std::env::var_os(name).is_some();
    if !is_said("SLM_MESH_HOST") && !is_said(SECRET) && !places.config().exists() {
        return Ok(None);
    }
    let settings = Settings::load(places)?;
    if discovered_hub::is_left_open(&settings) {
        return Ok(discovered_hub::joined(places).map(|hub| (hub.road(), settings)));
    }
    let road = Endpoint::find(&settings)?;
    Ok((!matches!(road, Endpoint::Local { .. })).then_some((road, settings)))
}

/// Connects, and says from where.
///
/// # Errors
/// When the hub can't be reached, or does not let us in; in words that say which.
pub fn connect(away: &Away, places: &DataDir) -> Result<Client, Error> {
    let began = Instant::now();
    let connected = meet(away);
    if connected.is_ok() {
        // It is rarely there.
        let _ = std::fs::remove_file(places.silent());
    } else if began.elapsed() >= SLOW {
        // Without it the next one waits, too.
        let _ = places.prepare().and_then(|()| places.write(&places.silent(), ""));
    }
    connected
}

/// Whether the hub did not answer a moment ago: who can't wait for it need not try. Nobody who waits
/// asks that, and who reaches it tells the others.
pub fn was_silent(places: &DataDir) -> bool {
    let at = std::fs::metadata(places.silent()).and_then(|meta| meta.modified());
    at.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < SILENT))
}

fn meet((road, settings): &Away) -> Result<Client, Error> {
    let mut client = match road {
        Endpoint::Ssh(target, port) => through_ssh(target, *port)?,
        Endpoint::Hub(host) => {
            let port = match settings.int("SLM_MESH_WS_PORT") {
                0 => settings.int("SLM_MESH_PORT") + 1,
                port => port,
            };
            let stream = guest::connect(host, port as u16, settings.text(SECRET), sys::random_u128())?;
            Client::over(stream, None)
        }
        Endpoint::DiscoveredHub { name, address, port } => {
            let stream = guest::connect(address, *port, settings.text(SECRET), sys::random_u128());
            Client::over(stream.map_err(|error| discovered_hub::unreachable(name, &error))?, None)
        }
        Endpoint::Local { .. } => return Err(Error::new(ErrorKind::Internal, "this road leads nowhere")),
    };
    client.whose = match road {
        Endpoint::Ssh(host, _) | Endpoint::Hub(host) | Endpoint::DiscoveredHub { name: host, .. } => {
            format!("the hub {host}")
        }
        Endpoint::Local { .. } => client.whose,
    };
    client.send(&rpc::notice("far", &whence())).map_err(|error| client.lost(&error))?;
    Ok(client)
}

/// From where a connection comes: machine, user, and the processes above us, by which the hub tells
/// whose shell or hook this is. On one machine it asks the kernel; here it takes our word, which
/// only who knows the secret can give.
fn whence() -> Value {
    let chain: Vec<Value> = process::ancestors(i64::from(std::process::id()))
        .iter()
        .map(|process| json!([process.pid, process.start, process.wrapper]))
        .collect();
    json!({ "host": sys::host(), "user": sys::user(), "chain": chain })
}

/// Runs `slm-mesh pipe` on the hub, through the ssh program.
fn through_ssh(target: &str, port: Option<u16>) -> Result<Client, Error> {
    let failed = |why: &str| {
        let text = format!("the hub behind ssh://{target} can't be reached: {why}; try ssh {target} slm-mesh status");
        Error::new(ErrorKind::Gone, text)
    };
    let pair = UnixStream::pair().and_then(|(ours, theirs)| Ok((ours, theirs.try_clone()?, theirs)));
    let (ours, input, output) = pair.map_err(|error| failed(&error.to_string()))?;
    let mut command = Command::new("ssh");
    // Nobody is there to type a password, and a dead network must be noticed.
    command.args(["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5"]);
    command.args(["-o", "ServerAliveCountMax=2"]);
    if let Some(port) = port {
        command.args(["-p", &port.to_string()]);
    }
    command.args(["--", target, "slm-mesh", "pipe"]);
    command.stdin(Stdio::from(OwnedFd::from(input))).stdout(Stdio::from(OwnedFd::from(output))).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(&format!("ssh can't be run ({error})")))?;
    // Our copies of its ends are closed with the command, so that its death is the end of the stream.
    drop(command);
    let said = child.stderr.take();
    let mut client = Client::over(ours, Some(child));
    let met = client.wait_at_most(Some(SSH_MAX)).map_err(|error| client.lost(&error));
    match met.and_then(|()| client.call("ping", &json!({}))) {
        Ok(_) => {
            client.wait_at_most(None).map_err(|error| client.lost(&error))?;
            if let Some(said) = said {
                // What ssh says later goes where our own complaints go.
                std::thread::spawn(move || {
                    BufReader::new(said).lines().map_while(Result::ok).for_each(|line| sys::print_error(&line))
                });
            }
            Ok(client)
        }
        Err(_) => {
            let mut words = String::new();
            if let (Some(mut said), Some(child)) = (said, client.child.as_mut()) {
                // It has ended, or shall: what it said last is why.
                let _ = child.kill().and_then(|()| child.wait());
                let _ = said.by_ref().take(4096).read_to_string(&mut words);
            }
            let last = words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it gave no answer");
            Err(failed(last.trim()))
        }
    }
}
