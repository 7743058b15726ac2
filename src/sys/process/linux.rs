//! Processes on Linux: /proc, `SO_PEERCRED` and pidfds (proc_pid_stat(5), unix(7), pidfd_open(2)).

use super::{Credentials, ProcessInfo, RunningProgram};
use crate::sys::regular_file::buffer_for;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, set_parent_process_death_signal};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

/// Maximum number of arguments that are read from a process.
const ARGUMENTS_MAX: usize = 8;
/// Maximum number of bytes that are read from a process's arguments.
const ARGUMENT_BYTES_MAX: u64 = 4096;

/// Finds out which process connected to the socket.
pub fn peer_credentials(socket: impl AsFd) -> Option<Credentials> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    // For a peer in another PID namespace, the kernel returns process id 0. rustix can't represent 0, but nix can.
    let found = getsockopt(&socket, PeerCredentials).ok()?;
    Some(Credentials { uid: found.uid(), pid: Some(i64::from(found.pid())).filter(|pid| *pid > 0) })
}

/// Asks the kernel to end this process when its parent ends.
pub fn end_with_parent() {
    // If the kernel refuses, this process detects the end of its parent later.
    let _ = set_parent_process_death_signal(Some(Signal::TERM));
}

/// Opens a descriptor that becomes readable when the process ends; `None` if no such process exists.
pub fn open_exit_event(pid: i64) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Sends SIGKILL to the process for which [`open_exit_event`] opened `target`. Never kills a later process with the
/// same number.
pub fn kill(_pid: i64, target: &OwnedFd) -> io::Result<()> {
    Ok(pidfd_send_signal(target, Signal::KILL)?)
}

/// The executable file that a process runs; `None` if the kernel does not report it.
pub fn program(pid: i64) -> Option<RunningProgram> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = path.file_name()?.to_string_lossy().into_owned();
    // If an upgrade has replaced the file, the kernel appends this text to the name.
    let name = name.trim_end_matches(" (deleted)");
    let is_mine = std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|meta| meta.uid() == crate::sys::uid());
    Some(RunningProgram { is_own: is_mine && name.starts_with("slm-mesh"), shown: path.display().to_string() })
}

/// Facts about a process from /proc.
pub fn process_info(pid: i64) -> Option<ProcessInfo> {
    // One read returns the whole line. `read_to_string` would make more system calls, and so delay the broker's
    // answers.
    let mut bytes = [0; 1024];
    let n = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut bytes).ok()?;
    parse_stat(pid, &bytes[..n])
}

/// Parses the line in /proc/PID/stat (proc_pid_stat(5)). The process's name is in brackets and may itself contain
/// brackets. The last closing bracket ends the name.
fn parse_stat(pid: i64, stat: &[u8]) -> Option<ProcessInfo> {
    let name_start = stat.iter().position(|byte| *byte == b'(')? + 1;
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = stat.get(name_end + 2..)?.split(|byte| *byte == b' ');
    let state = fields.next()?;
    let mut number_after = |n_skipped: usize| std::str::from_utf8(fields.nth(n_skipped)?).ok();
    let parent = number_after(0)?.parse().ok()?;
    let group: i64 = number_after(0)?.parse().ok()?;
    let terminal: i64 = number_after(1)?.parse().ok()?;
    let start = number_after(14)?.trim_end().parse().ok()?;
    Some(ProcessInfo {
        parent,
        start,
        is_zombie: matches!(state, b"Z" | b"X"),
        name: String::from_utf8_lossy(stat.get(name_start..name_end)?).to_lowercase(),
        leads_terminal: terminal != 0 && group == pid,
    })
}

/// The program of a process and its first arguments, in lower case.
pub fn arguments(pid: i64) -> Vec<String> {
    let mut line = buffer_for(ARGUMENT_BYTES_MAX);
    // If this fails, the process has ended and has no arguments.
    let _ = File::open(format!("/proc/{pid}/cmdline")).map(|file| file.take(ARGUMENT_BYTES_MAX).read_to_end(&mut line));
    let words = line.split(|byte| *byte == 0).take(ARGUMENTS_MAX);
    words.map(|word| String::from_utf8_lossy(word).to_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_process_follow_its_name_whatever_characters_the_name_has() {
        let rest = "7 42 9 34816 42 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 200 18446744073709551615";
        for (name, state, want) in [("bash", "S", "bash"), ("a) S 1 (B", "Z", "a) s 1 (b")] {
            let info = parse_stat(42, format!("42 ({name}) {state} {rest}\n").as_bytes()).unwrap();
            assert_eq!((info.parent, info.start, info.name.as_str()), (7, 987_654, want));
            assert_eq!((info.is_zombie, info.leads_terminal), (state == "Z", true));
        }
        assert!(parse_stat(42, b"42 (bash) S 7 42").is_none() && parse_stat(42, b"").is_none());
    }
}
