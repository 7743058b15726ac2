//! Runs a command in the background, with some bytes on standard input and a time limit.
//!
//! **Invariant:** the command blocks only the thread that runs it. When the time limit is reached, the command and all
//! processes in its process group are killed.

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often to check whether the command has ended.
const POLL_EVERY: Duration = Duration::from_millis(10);

/// Runs a command until it ends, the time limit is reached, or `cancel` becomes true.
///
/// # Errors
/// If the command cannot be started, fails, takes too long or is cancelled. The error is a sentence that does not
/// contain the command's arguments.
pub fn run_bounded(command: &mut Command, input: &[u8], limit: Duration, cancel: &AtomicBool) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let quiet = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = quiet.process_group(0).spawn().map_err(|error| format!("{program} can't be run ({error})"))?;
    let mut input = InputPipe { pipe: child.stdin.take().and_then(|pipe| without_waiting(pipe).ok()), rest: input };
    let began = Instant::now();
    loop {
        input.write_some();
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("{program} ended with {status}")),
            Ok(None) if cancel.load(Ordering::Relaxed) => {
                end(&mut child);
                return Err(format!("{program} was ended"));
            }
            Ok(None) if began.elapsed() < limit => std::thread::sleep(POLL_EVERY),
            _ => {
                end(&mut child);
                return Err(format!("{program} did not finish within {} s", limit.as_secs()));
            }
        }
    }
}

/// The part of the input that has not been written to the command yet.
struct InputPipe<'a> {
    /// `None` once everything has been written, or once the command has closed its standard input.
    pipe: Option<ChildStdin>,
    rest: &'a [u8],
}

impl InputPipe<'_> {
    /// Writes as much as the pipe accepts without waiting.
    fn write_some(&mut self) {
        while let Some(pipe) = &mut self.pipe {
            match pipe.write(self.rest) {
                Ok(n) => self.rest = &self.rest[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A command need not read all its input, so a failed write does not count as a failure.
                Err(_) => self.pipe = None,
            }
            if self.rest.is_empty() {
                self.pipe = None;
            }
        }
    }
}

fn without_waiting(pipe: ChildStdin) -> io::Result<ChildStdin> {
    fcntl_setfl(&pipe, fcntl_getfl(&pipe)? | OFlags::NONBLOCK)?;
    Ok(pipe)
}

/// Kills a command and its process group.
fn end(child: &mut Child) {
    // If the command has already ended, there is nothing left to kill.
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    let _ = child.kill().and_then(|()| child.wait());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, input: &[u8], limit: Duration) -> Result<(), String> {
        run_bounded(Command::new("/bin/sh").args(["-c", script]), input, limit, &AtomicBool::new(false))
    }

    const SOON: Duration = Duration::from_millis(300);
    const LATE: Duration = Duration::from_secs(60);

    #[test]
    fn a_command_gets_all_of_its_input() {
        let input = vec![b'x'; 1 << 20];
        assert_eq!(run("test $(wc -c) = 1048576", &input, LATE), Ok(()));
        assert_eq!(run("exit 0", &input, LATE), Ok(()), "a command need not read");
    }

    #[test]
    fn what_goes_wrong_is_said() {
        assert!(run("exit 3", b"", LATE).unwrap_err().contains("exit status: 3"));
        assert!(run("kill -9 $$", b"", LATE).unwrap_err().contains("signal: 9"));
        let missing = run_bounded(&mut Command::new("/nowhere/at/all"), b"", LATE, &AtomicBool::new(false));
        assert!(missing.unwrap_err().contains("can't be run"));
        let input = vec![b'x'; 1 << 20];
        assert!(run("sleep 60 & sleep 60", &input, SOON).unwrap_err().contains("did not finish within"));
        let cancelled = run_bounded(Command::new("sleep").arg("60"), b"", LATE, &AtomicBool::new(true));
        assert!(cancelled.unwrap_err().contains("was ended"));
    }
}
