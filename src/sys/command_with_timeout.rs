//! Runs a command in the background. The command has a time limit, and gets some bytes on standard input.
//!
//! **Invariant:** the command blocks only the thread that runs it. When the time limit is reached, the command and all
//! processes in its process group are killed.

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often to check whether the command has ended.
const POLL_EVERY: Duration = Duration::from_millis(10);

/// Maximum number of characters that an error quotes from the last line of the command's standard error.
const LAST_LINE_MAX: usize = 200;

/// Maximum number of reads from standard error before the command's state is checked again.
const READS_AT_ONCE: usize = 256;

/// Runs a command until it ends, the time limit is reached, or `cancel` becomes true. The output of the command is
/// discarded.
///
/// # Errors
/// If the command cannot be started, fails, takes too long or is cancelled. The error is a sentence that does not
/// contain the command's arguments.
pub fn run_bounded(command: &mut Command, input: &[u8], limit: Duration, cancel: &AtomicBool) -> Result<(), String> {
    let mut child = spawn(command.stderr(Stdio::null()))?;
    wait_for_end(command, &mut child, input, limit, cancel, || {})
}

/// Like [`run_bounded`], but without `cancel`. If the command fails, the error contains the last line that the command
/// printed to standard error.
///
/// # Errors
/// See [`run_bounded`].
pub fn run_and_explain(command: &mut Command, input: &[u8], limit: Duration) -> Result<(), String> {
    let mut child = spawn(command.stderr(Stdio::piped()))?;
    let mut errors =
        ErrorPipe { pipe: child.stderr.take().and_then(|pipe| without_waiting(pipe).ok()), end: Vec::new() };
    wait_for_end(command, &mut child, input, limit, &AtomicBool::new(false), || errors.read_some())
        .map_err(|why| errors.last_line().map_or_else(|| why.clone(), |line| format!("{why}: {line}")))
}

fn spawn(command: &mut Command) -> Result<Child, String> {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).spawn();
    spawned.map_err(|error| format!("{} can't be run ({error})", name(command)))
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// Waits until the command ends. `each_time` is called at each check, and once more when the command has ended.
fn wait_for_end(
    command: &Command,
    child: &mut Child,
    input: &[u8],
    limit: Duration,
    cancel: &AtomicBool,
    mut each_time: impl FnMut(),
) -> Result<(), String> {
    let mut input = InputPipe { pipe: child.stdin.take().and_then(|pipe| without_waiting(pipe).ok()), rest: input };
    let began = Instant::now();
    loop {
        input.write_some();
        let ended = child.try_wait();
        each_time();
        match ended {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("{} ended with {status}", name(command))),
            Ok(None) if cancel.load(Ordering::Relaxed) => {
                end(child);
                return Err(format!("{} was ended", name(command)));
            }
            Ok(None) if began.elapsed() < limit => std::thread::sleep(POLL_EVERY),
            _ => {
                end(child);
                return Err(format!("{} did not finish within {} s", name(command), limit.as_secs()));
            }
        }
    }
}

/// The standard error of a command. Only the end of the text is kept.
struct ErrorPipe {
    pipe: Option<ChildStderr>,
    end: Vec<u8>,
}

impl ErrorPipe {
    /// Reads the available bytes. Does not wait for more, because the command may have left a process that keeps the
    /// pipe open for a long time.
    fn read_some(&mut self) {
        let mut buffer = [0; 4096];
        // The command may print faster than this loop reads. Without a limit, the loop would then never end.
        for _ in 0..READS_AT_ONCE {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(n) => {
                    self.end.extend_from_slice(&buffer[..n]);
                    let n_old = self.end.len().saturating_sub(buffer.len());
                    self.end.drain(..n_old);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn last_line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.end);
        let last = text.lines().rev().find(|line| !line.trim().is_empty())?;
        Some(last.trim().chars().take(LAST_LINE_MAX).collect())
    }
}

/// The part of the input that has not been written to the command yet.
struct InputPipe<'a> {
    /// `None` after all bytes have been written, or after the command has closed its standard input.
    pipe: Option<ChildStdin>,
    rest: &'a [u8],
}

impl InputPipe<'_> {
    /// Writes as many bytes as the pipe accepts immediately.
    fn write_some(&mut self) {
        while let Some(pipe) = &mut self.pipe {
            match pipe.write(self.rest) {
                Ok(n) => self.rest = &self.rest[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A command need not read all its input, so a failed write is not an error.
                Err(_) => self.pipe = None,
            }
            if self.rest.is_empty() {
                self.pipe = None;
            }
        }
    }
}

fn without_waiting<P: AsFd>(pipe: P) -> io::Result<P> {
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

    #[test]
    fn the_last_line_of_a_command_that_fails_is_said() {
        let explain = |script: &str| run_and_explain(Command::new("/bin/sh").args(["-c", script]), b"", LATE);
        assert_eq!(explain("echo no >&2"), Ok(()));
        let said = explain("seq 99999 >&2; echo '  no such server ' >&2; echo >&2; sleep 60 & exit 3").unwrap_err();
        assert!(said.ends_with("exit status: 3: no such server"), "{said}");
        assert!(explain("exit 3").unwrap_err().ends_with("exit status: 3"));
        let slow = run_and_explain(Command::new("/bin/sh").args(["-c", "echo wait >&2; sleep 60"]), b"", SOON);
        assert!(slow.unwrap_err().ends_with("did not finish within 0 s: wait"));
    }
}
