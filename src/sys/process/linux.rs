//! Processes on Linux: /proc, `SO_PEERCRED` and pidfds (proc_pid_stat(5), unix(7), pidfd_open(2)).

use super::{Credentials, ProcessInfo, Program};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, set_parent_process_death_signal};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

/// Maximum number of arguments that are read from a process.
const ARGUMENTS_MAX: usize = 8;

/// Asks the kernel which process connected.
pub fn peer_credentials(socket: impl AsFd) -> Option<Credentials> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    // rustix is not used here, because its type for a process id cannot hold 0, which means a peer in another PID
    // namespace.
    let found = getsockopt(&socket, PeerCredentials).ok()?;
    Some(Credentials { uid: found.uid(), pid: Some(i64::from(found.pid())).filter(|pid| *pid > 0) })
}

/// Asks the kernel to end this process when its parent ends.
pub fn end_with_parent() {
    // If the kernel refuses, this process ends only after its current wait.
    let _ = set_parent_process_death_signal(Some(Signal::TERM));
}

/// A descriptor that becomes readable when a process ends; `None` if no such process exists.
pub fn open_exit_event(pid: i64) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Kills the process of a descriptor from [`open_exit_event`], even if another process has its number by now.
pub fn kill(_pid: i64, target: &OwnedFd) -> io::Result<()> {
    Ok(pidfd_send_signal(target, Signal::KILL)?)
}

/// The executable file that a process runs; `None` if the kernel does not report it.
pub fn program(pid: i64) -> Option<Program> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = path.file_name()?.to_string_lossy().into_owned();
    // If an upgrade has replaced the file, the kernel appends this text to the name.
    let name = name.trim_end_matches(" (deleted)");
    let is_mine = std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|meta| meta.uid() == crate::sys::uid());
    Some(Program { is_own: is_mine && name.starts_with("slm-mesh"), shown: path.display().to_string() })
}

/// Facts about a process from /proc.
pub fn process_info(pid: i64) -> Option<ProcessInfo> {
    // A single read is enough. `read_to_string` would also ask for the size and look for the end of the file, and the
    // broker's caller would have to wait for that.
    let mut bytes = [0; 1024];
    let n = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut bytes).ok()?;
    let stat = String::from_utf8_lossy(&bytes[..n]);
    // The name may contain any character, so fields are counted from the closing bracket after the name
    // (proc_pid_stat(5)).
    let (head, tail) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = tail.split(' ').collect();
    let number = |n: usize| fields.get(n).and_then(|field| field.parse::<i64>().ok());
    Some(ProcessInfo {
        parent: number(1)?,
        start: fields.get(19)?.parse().ok()?,
        is_zombie: matches!(fields[0], "Z" | "X"),
        name: head.split_once('(')?.1.to_lowercase(),
        leads_terminal: number(4)? != 0 && number(2)? == pid,
    })
}

/// The first arguments of a process, in lower case, including its program.
pub fn arguments(pid: i64) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.split(|byte| *byte == 0).take(ARGUMENTS_MAX);
    words.map(|word| String::from_utf8_lossy(word).to_lowercase()).collect()
}
