//! Connects to a hub through ssh, which runs `slm-mesh pipe` on the hub.

use super::Client;
use super::end_and_reap_forwarding_process::Carrier;
use super::ssh_stream_with_heartbeat::SshStream;
use super::stream::BrokerStream;
use crate::base::error::{Error, ErrorKind};
use crate::remote::guest_handshake_with_hub::SecondOpinion;
use crate::sys;
use crate::wire::rpc::{self, RpcMessage};
use serde_json::json;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long ssh and the hub may take for the first response.
const SSH_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs `slm-mesh pipe` on the hub through ssh. If there are other hubs, `second_opinion` says whether one of them
/// leads. In this case, ssh gets options with which it detects a dead hub sooner.
///
/// # Errors
/// If ssh fails or the hub does not answer. The error contains the last line that ssh printed.
pub fn connect(target: &str, port: Option<u16>, second_opinion: Option<SecondOpinion>) -> Result<Client, Error> {
    let error = |why: &str, cure: &str| {
        Error::new(ErrorKind::Gone, format!("the hub at ssh://{target} can't be reached: {why}; {cure}"))
    };
    let failed = |why: &str| error(why, &format!("to find the cause, run ssh {target} slm-mesh status"));
    let pair = UnixStream::pair().and_then(|(ours, theirs)| Ok((ours, theirs.try_clone()?, theirs)));
    let (ours, input, output) = pair.map_err(|error| failed(&error.to_string()))?;
    let mut command = Command::new("ssh");
    // ssh must fail instead of asking for a password, and it must detect a dead network.
    let alive_interval = if second_opinion.is_some() { "ServerAliveInterval=1" } else { "ServerAliveInterval=5" };
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
    match client.set_receive_timeout(Some(SSH_TIMEOUT)).and_then(|()| await_first_answer(&mut client)) {
        Ok(()) => {
            let kept = client.set_receive_timeout(None).and_then(|()| keep_alive(&mut client, second_opinion));
            kept.map_err(|error| client.connection_lost(&error))?;
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
        Err(why) => {
            let mut messages = String::new();
            if let (Some(mut stderr), Some(ssh)) = (stderr, client.carrier.take()) {
                // Ends ssh if it is still running, so that its error output can be read to the end. The last line of
                // this output is the reason for the failure.
                ssh.kill();
                let _ = stderr.by_ref().take(4096).read_to_string(&mut messages);
            }
            // ssh itself prints only to standard error, so the hub's shell has printed this line.
            if why.kind() == io::ErrorKind::InvalidData {
                let cure = "a file that the hub's shell reads when it starts, such as ~/.bashrc, contains a command \
                            that prints this line; remove that command";
                return Err(error(&why.to_string(), cure));
            }
            let last = messages.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it did not respond");
            Err(failed(last.trim()))
        }
    }
}

/// Makes the connection end when the hub no longer answers.
fn keep_alive(client: &mut Client, second_opinion: Option<SecondOpinion>) -> io::Result<()> {
    if let BrokerStream::Socket(socket) = &client.stream {
        client.stream = BrokerStream::Ssh(SshStream::new(socket.try_clone()?, second_opinion)?);
    }
    Ok(())
}

/// Waits until the hub has answered a ping. A refusal also shows that the hub can be reached.
fn await_first_answer(client: &mut Client) -> io::Result<()> {
    client.send(&rpc::request(&json!(client.last_id), "ping", &json!({})))?;
    while !matches!(client.receive()?, RpcMessage::Response { .. }) {}
    Ok(())
}
