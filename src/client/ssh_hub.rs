//! Connects to a hub through ssh, which runs `slm-mesh pipe` on the hub.

use super::Client;
use super::carrier_process::Carrier;
use super::stream::BrokerStream;
use crate::base::error::{Error, ErrorKind};
use crate::sys;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long ssh and the hub may take for the first response.
const SSH_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs `slm-mesh pipe` on the hub through ssh. If there are other hubs to try, ssh is set to detect a dead hub sooner.
///
/// # Errors
/// If ssh fails or the hub does not answer. The error contains the last line that ssh printed.
pub fn connect(target: &str, port: Option<u16>, has_others: bool) -> Result<Client, Error> {
    let failed = |why: &str| {
        let text = format!(
            "the hub at ssh://{target} can't be reached: {why}; to find the cause, run ssh {target} slm-mesh status"
        );
        Error::new(ErrorKind::Gone, text)
    };
    let pair = UnixStream::pair().and_then(|(ours, theirs)| Ok((ours, theirs.try_clone()?, theirs)));
    let (ours, input, output) = pair.map_err(|error| failed(&error.to_string()))?;
    let mut command = Command::new("ssh");
    // ssh must fail instead of asking for a password, and it must detect a dead network.
    let alive_interval = if has_others { "ServerAliveInterval=1" } else { "ServerAliveInterval=5" };
    command.args(["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", alive_interval]);
    command.args(["-o", "ServerAliveCountMax=2"]);
    if let Some(port) = port {
        command.args(["-p", &port.to_string()]);
    }
    command.args(["--", target, "slm-mesh", "pipe"]);
    command.stdin(Stdio::from(OwnedFd::from(input))).stdout(Stdio::from(OwnedFd::from(output))).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(&format!("ssh can't be run ({error})")))?;
    // Dropping the command closes our copies of the sockets that ssh uses, so that our stream ends when ssh ends.
    drop(command);
    let stderr = child.stderr.take();
    let mut client = Client::from_stream(BrokerStream::Socket(ours), Some(Carrier::of(child)));
    let ready = client.set_receive_timeout(Some(SSH_TIMEOUT)).map_err(|error| client.connection_lost(&error));
    let answer = ready.and_then(|()| client.call_once("ping", &json!({})));
    // A refusal by a standby also shows that the hub can be reached.
    match answer.or_else(|error| if error.kind == ErrorKind::Standby { Ok(Value::Null) } else { Err(error) }) {
        Ok(_) => {
            client.set_receive_timeout(None).map_err(|error| client.connection_lost(&error))?;
            if let Some(stderr) = stderr {
                // Everything that ssh prints later goes to our own standard error.
                let print = move || {
                    BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| sys::print_error(&line))
                };
                // If no thread can be started, only the later messages of ssh are lost.
                let _ = std::thread::Builder::new().spawn(print);
            }
            Ok(client)
        }
        Err(_) => {
            let mut messages = String::new();
            if let (Some(mut stderr), Some(ssh)) = (stderr, client.carrier.take()) {
                // Ends ssh if it is still running, so that its error output can be read to the end. The last line of
                // this output is the reason for the failure.
                ssh.kill();
                let _ = stderr.by_ref().take(4096).read_to_string(&mut messages);
            }
            let last = messages.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it did not respond");
            Err(failed(last.trim()))
        }
    }
}
