//! Processes on macOS: libproc, `LOCAL_PEERPID` and kqueue.
//!
//! The comment on each constant names the header that defines the constant. `make check-macos` type-checks and links
//! this file, but nobody has run the code yet.

use super::{Credentials, ProcessInfo, RunningProgram};
use nix::errno::Errno;
use nix::sys::event::{EvFlags, EventFilter, FilterFlag, KEvent, Kqueue};
use nix::sys::socket::{getsockopt, sockopt};
use proc_pidinfo::{Pid, ProcBSDInfo, proc_pidinfo};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// `SZOMB` in <sys/proc.h>: the process has ended, and its parent has not reaped it yet.
const STATUS_ZOMBIE: u32 = 5;
/// `PROC_FLAG_CONTROLT` in <sys/proc_info.h>: the process has a controlling terminal.
const FLAG_HAS_TERMINAL: u32 = 0x80;

/// Finds out which process connected to the socket (`LOCAL_PEERCRED` and `LOCAL_PEERPID` in <sys/un.h>).
pub fn peer_credentials(socket: impl AsFd) -> Option<Credentials> {
    let credentials = getsockopt(&socket, sockopt::LocalPeerCred).ok()?;
    let pid = getsockopt(&socket, sockopt::LocalPeerPid).ok().map(i64::from).filter(|pid| *pid > 0);
    Some(Credentials { uid: credentials.uid(), pid })
}

/// Does nothing, because macOS can't end a process together with its parent. This process detects the end of its parent
/// later.
pub fn end_with_parent() {}

/// Opens a kqueue that becomes readable when the process ends (`EVFILT_PROC` and `NOTE_EXIT` in <sys/event.h>); `None`
/// if no such process exists.
pub fn open_exit_event(pid: i64) -> io::Result<Option<OwnedFd>> {
    let Some(ident) = i32::try_from(pid).ok().filter(|pid| *pid > 0) else { return Ok(None) };
    let queue = Kqueue::new()?;
    let flags = EvFlags::EV_ADD | EvFlags::EV_ONESHOT;
    let change = KEvent::new(ident as usize, EventFilter::EVFILT_PROC, flags, FilterFlag::NOTE_EXIT, 0, 0);
    match queue.kevent(&[change], &mut [], None) {
        Ok(_) => Ok(Some(queue.into())),
        Err(Errno::ESRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Sends SIGKILL to the process with this number. If that process has just ended and a new process has got its number,
/// the new process is killed.
pub fn kill(pid: i64, _target: &OwnedFd) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
}

/// The program that a process runs. macOS reports the program's name but not its path, and reports nothing about
/// another user's process.
pub fn program(pid: i64) -> Option<RunningProgram> {
    let name = process_info(pid)?.name;
    let is_own = name.starts_with("slm-mesh") && super::is_in_use(pid);
    Some(RunningProgram { is_own, shown: name })
}

/// Facts about a process from libproc: `PROC_PIDTBSDINFO` in <sys/proc_info.h>.
pub fn process_info(pid: i64) -> Option<ProcessInfo> {
    let number = u32::try_from(pid).ok().filter(|pid| *pid > 0 && *pid <= i32::MAX as u32)?;
    let info = proc_pidinfo::<ProcBSDInfo>(Pid(number)).ok()??;
    Some(ProcessInfo {
        parent: i64::from(info.pbi_ppid.0),
        start: info.pbi_start_tvsec.wrapping_mul(1_000_000).wrapping_add(info.pbi_start_tvusec),
        is_zombie: info.pbi_status == STATUS_ZOMBIE,
        name: text(&info.pbi_name),
        leads_terminal: info.pbi_flags & FLAG_HAS_TERMINAL != 0 && info.pbi_pgid == number,
    })
}

/// Always empty. Only the sysctl `KERN_PROCARGS2` returns arguments, and no crate offers a safe call for it.
pub fn arguments(_pid: i64) -> Vec<String> {
    Vec::new()
}

/// Converts a C string to lower case.
fn text(chars: &[i8]) -> String {
    let bytes: Vec<u8> = chars.iter().take_while(|c| **c != 0).map(|c| c.cast_unsigned()).collect();
    String::from_utf8_lossy(&bytes).to_lowercase()
}
