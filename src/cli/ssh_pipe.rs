//! `pipe`: forwards lines from standard input to the broker, and from the broker to standard output. Another machine
//! runs `pipe` here through ssh to reach this machine's broker. On a guest, `lock … --` runs `pipe` to reach the hub,
//! because the command that uses the lock must inherit a local socket.

use super::load_environment;
use crate::base::error::{Error, ErrorKind};
use crate::client::{Client, route_to_broker};
use crate::sys::threads;
use crate::wire::rpc;
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::channel;
use std::time::Duration;

/// How long the broker may take to close the connection after standard input has ended.
const CLOSES_WITHIN: Duration = Duration::from_secs(4);

/// Connects standard input and output to the broker. If the broker is on this machine and is not running, starts it.
pub fn carry_lines() -> Result<u8, Error> {
    let (places, _) = load_environment()?;
    let is_carrier = route_to_broker::is_remote(&places)?;
    // On a machine with its own broker, only a guest starts this process, through ssh. The guest itself searches for
    // the leader. So this process connects to this machine's broker, even if another hub leads.
    let mut client =
        if is_carrier { Client::connect_or_start(&places)? } else { Client::connect_to_own_or_start(&places, None)? };
    // A guest can't tell a broker that hangs from an ssh that takes long to log in. Here, a broker that hangs is noticed
    // within seconds. Any other error, such as the refusal of a standby, is an answer.
    if !is_carrier
        && let Err(error) = client.call_once("ping", &json!({}))
        && error.kind == ErrorKind::TimedOut
    {
        return Err(error);
    }
    let failed =
        |error: io::Error| Error::new(ErrorKind::Gone, format!("the connection to the broker was lost ({error})"));
    let stuck = client.stuck_error();
    let mut to_broker = client.clone_writer().map_err(failed)?;
    let mut from_broker = to_broker.another().map_err(failed)?;
    let (input_ended, ended) = channel();
    let output_ended = input_ended.clone();
    threads::spawn("read standard input", move || {
        // When standard input ends, the direction to the broker is closed, so that the broker learns that no more lines
        // will follow.
        let end = copy_unbuffered(&mut io::stdin().lock(), &mut to_broker);
        if is_carrier && end.is_ok() {
            // All processes have closed the other end of standard input, so the connection is no longer needed. Without
            // this notification, the hub would assume a network failure and keep the locks for a while.
            let _ = to_broker.write_all(rpc::notification("detach", &json!({})).as_bytes());
        }
        let _ = to_broker.shutdown(Shutdown::Write);
        // If the shutdown or the send fails, the other direction has already ended.
        let _ = input_ended.send(None);
    })?;
    threads::spawn("write standard output", move || {
        let _ = output_ended.send(Some(copy_unbuffered(&mut from_broker, &mut io::stdout().lock())));
    })?;
    let answered = ended.recv().ok().flatten().or_else(|| ended.recv_timeout(CLOSES_WITHIN).ok().flatten());
    match answered {
        Some(end) => end.map_err(failed).map(|()| 0),
        None => Err(stuck.unwrap_or_else(|| failed(io::ErrorKind::TimedOut.into()))),
    }
}

/// Copies like `io::copy`, but flushes after each read, because the receiver waits for each line.
fn copy_unbuffered(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&buffer[..n]).and_then(|()| to.flush())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
