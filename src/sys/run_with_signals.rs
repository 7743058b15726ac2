//! Runs a command as if our caller had started it. The command receives our signals and inherits one of our file
//! descriptors. It stops and continues together with this process.
//!
//! **Invariant:** a signal from the terminal, or from the command itself, reaches the command only once. The command
//! ignores the same signals as our caller.

use super::process;
use rustix::io::FdFlags;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, waitpid};
use signal_hook::consts::{SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::Origin;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Signals that are forwarded to the command, because the sender may know only this process.
const FORWARDED: &[i32] = &[SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGCONT];
/// How long the command may be stopped before this process stops itself too. If the command was stopped and continued
/// together with this process, the kernel reports within this time that the command is running again.
const STOP_GRACE: Duration = Duration::from_millis(50);

/// A running command.
pub struct ForegroundCommand {
    pid: Pid,
    signals: Receiver<Origin>,
}

/// How a command's state has changed, as the kernel reports it.
enum CommandChange {
    Ended(ExitStatus),
    Stopped,
    Continued,
}

impl ForegroundCommand {
    /// Starts a command, which also inherits `fd`.
    ///
    /// # Errors
    /// If the command can't be started, or signals can't be watched.
    pub fn spawn(command: &mut Command, fd: BorrowedFd<'_>) -> io::Result<ForegroundCommand> {
        let ignored = ignored_signals();
        let watched = FORWARDED.iter().filter(|signal| ignored & (1 << (*signal - 1)) == 0);
        // Signals are watched before the command is started. Otherwise, the end of a very short command could be
        // missed.
        let mut signals = SignalsInfo::<WithOrigin>::new(watched.chain(&[SIGCHLD]))?;
        let watch = signals.handle();
        let (sender, receiver) = channel();
        // The thread is started before the command. Otherwise, if no thread could be started, the command would run,
        // but nothing would wait for its end.
        std::thread::Builder::new().stack_size(64 * 1024).spawn(move || {
            for origin in &mut signals {
                if sender.send(origin).is_err() {
                    return;
                }
            }
        })?;
        rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        let spawned = command.spawn();
        // Other programs that this process starts must not inherit the descriptor.
        rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
        // If the command can't be started, closing the watch ends the thread.
        let pid = Pid::from_child(&spawned.inspect_err(|_| watch.close())?);
        // Signals that our caller has blocked stay blocked in the command. This process unblocks all signals, because
        // it must receive SIGCHLD when the command ends.
        super::accept_signals();
        Ok(ForegroundCommand { pid, signals: receiver })
    }

    /// Waits until the command ends.
    ///
    /// # Errors
    /// If the kernel refuses to wait.
    pub fn wait(&self) -> io::Result<ExitStatus> {
        let mut is_stopped = false;
        loop {
            while let Some(change) = self.next_change()? {
                match change {
                    CommandChange::Ended(status) => return Ok(status),
                    CommandChange::Stopped => is_stopped = true,
                    CommandChange::Continued => is_stopped = false,
                }
            }
            let timeout = if is_stopped { STOP_GRACE } else { Duration::MAX };
            match self.signals.recv_timeout(timeout) {
                Ok(origin) => self.forward(&origin),
                Err(RecvTimeoutError::Timeout) => {
                    // The command has stopped. The shell that controls this job watches only this process, so this
                    // process must stop as well.
                    is_stopped = false;
                    kill_process(getpid(), Signal::STOP)?;
                }
                Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("signals can't be watched")),
            }
        }
    }

    fn next_change(&self) -> io::Result<Option<CommandChange>> {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED;
        loop {
            let status = match waitpid(Some(self.pid), options) {
                Ok(Some((_, status))) => status,
                Ok(None) => return Ok(None),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if status.exited() || status.signaled() {
                return Ok(Some(CommandChange::Ended(ExitStatus::from_raw(status.as_raw()))));
            }
            if status.continued() {
                return Ok(Some(CommandChange::Continued));
            }
            if is_job_control(status) {
                return Ok(Some(CommandChange::Stopped));
            }
        }
    }

    /// Forwards a signal to the command. Does nothing if the command has already got this signal, or has sent it
    /// itself.
    ///
    /// If another process sends a signal to the whole group, the command gets this signal twice. This process can't
    /// find out whether the signal was sent to this process alone or to the group. A signal that comes twice does less
    /// harm than a signal that never comes.
    fn forward(&self, origin: &Origin) {
        let Some(signal) = Signal::from_named_raw(origin.signal).filter(|_| origin.signal != SIGCHLD) else { return };
        // If the terminal has sent the signal, `sender` is 0: macOS names process 0 as the sender, and Linux names
        // none. The terminal sends the signal to the whole foreground group, which includes the command.
        let sender = origin.process.map_or(0, |process| i64::from(process.pid));
        let command = i64::from(self.pid.as_raw_nonzero().get());
        let is_own = || sender == command || process::ancestors(sender).iter().any(|above| above.pid == command);
        // A signal that the command sends to its own group also reaches this process. The command must not get this
        // signal twice.
        if sender != 0 && !is_own() {
            // This fails if the command has just ended. The kernel then reports the end of the command.
            let _ = kill_process(self.pid, signal);
        }
    }
}

/// Whether the command was stopped by job control. A SIGSTOP does not count: its sender has stopped only the command,
/// so the sender will also continue the command.
fn is_job_control(status: WaitStatus) -> bool {
    let stops = [Signal::TSTP, Signal::TTIN, Signal::TTOU];
    status.stopping_signal().is_some_and(|signal| stops.iter().any(|stop| stop.as_raw() == signal))
}

/// The signals that our caller ignores, as a bit mask. This process does not watch them. If it did, the command would
/// no longer ignore them (under nohup, SIGHUP would end the command). Always 0 on macOS, where no safe call returns
/// these signals.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
