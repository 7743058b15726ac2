//! Processes as the kernel reports them: who connected, what stands above a process, whether it still
//! runs, and an event at its end.
//!
//! What differs between Linux and macOS is in `process/linux.rs` and `process/macos.rs`, which offer the
//! same few functions.
//!
//! **Invariant:** a process is named by its number and its start time together, since the kernel gives
//! the number to another process later.

mod ancestors;
mod force_end;
#[cfg(not(target_os = "macos"))]
#[path = "process/linux.rs"]
mod platform;
#[cfg(target_os = "macos")]
#[path = "process/macos.rs"]
mod platform;

pub use ancestors::ancestors;
pub use force_end::end_own;
pub use platform::{end_with_parent, peer_credentials};

use crate::base::process::{AgentProgram, Process};
use crate::known_agents::{self, Agent};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// The process at the other end of a Unix socket, by the kernel's own record.
#[derive(Debug, Clone, Copy)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Process id; `None` if the kernel names none, as for a peer in another PID namespace.
    pub pid: Option<i64>,
}

/// What the kernel says of one process.
#[derive(Debug, Clone, PartialEq)]
struct ProcessInfo {
    parent: i64,
    /// In the kernel's own unit: it only has to differ between two processes with one number.
    start: u64,
    /// It has ended and waits for its parent to ask how.
    is_zombie: bool,
    /// The command's name, in lower case.
    name: String,
    /// Whether it leads its process group on a terminal, as an interactive shell does.
    leads_terminal: bool,
}

/// What a process runs.
#[derive(Debug)]
struct Program {
    /// Whether it is this program, run by this user.
    is_own: bool,
    /// The program, as a person may recognise it.
    shown: String,
}

/// When a process started; `None` if there is no such process.
pub fn start_time(pid: i64) -> Option<u64> {
    platform::process_info(pid).map(|info| info.start)
}

/// Whether this very process still runs. A zombie does not.
pub fn is_alive(pid: i64, start: u64) -> bool {
    platform::process_info(pid).is_some_and(|info| info.start == start && !info.is_zombie)
}

/// Whether a process of this user has this number, whichever process that is.
pub fn is_in_use(pid: i64) -> bool {
    // To kill(2) a number below 1 means a group of processes.
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

/// A process by its number, with the start time that makes it unmistakable.
pub fn identify(pid: i64) -> Option<Process> {
    start_time(pid).map(|start| Process { pid, start, wrapper: false, agent: None })
}

/// A file descriptor that becomes readable when a process ends, for the poll loop: a pidfd on Linux, a
/// kqueue on macOS.
#[derive(Debug)]
pub struct ExitWatch {
    pid: i64,
    start: u64,
    fd: OwnedFd,
}

impl ExitWatch {
    /// Watches a process; `None` if it has ended already.
    ///
    /// # Errors
    /// When this process is out of file descriptors, or the kernel has no such event (Linux before 5.3).
    pub fn new(pid: i64, start: u64) -> io::Result<Option<ExitWatch>> {
        let Some(fd) = platform::open_exit_event(pid)? else { return Ok(None) };
        // The start is compared after the descriptor was opened: only then does it name one process for good.
        Ok(is_alive(pid, start).then_some(ExitWatch { pid, start, fd }))
    }

    /// Whether the process has ended. It does not wait.
    pub fn has_ended(&self) -> bool {
        !is_alive(self.pid, self.start)
    }
}

impl AsFd for ExitWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for ExitWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// What the mesh calls the sessions of the agent of this kind, if slm-mesh knows it.
pub fn agent_program(kind: &str) -> Option<AgentProgram> {
    known_agents::by_kind(kind).map(Agent::program)
}

/// The agent that the process tree shows, by the nearest ancestor that is an agent.
pub fn agent_above() -> Option<&'static Agent> {
    ancestors::walk(i64::from(std::process::id()), |pid, info| {
        let words: Vec<String> = std::iter::once(info.name.clone()).chain(platform::arguments(pid)).collect();
        known_agents::by_process(&words)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    fn sleeper() -> Child {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    /// Waits for a watch to become readable.
    fn is_readable(watch: &ExitWatch, seconds: i64) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(watch, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: seconds, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn the_end_of_a_process_is_an_event() {
        let mut child = sleeper();
        let pid = i64::from(child.id());
        let start = start_time(pid).unwrap();
        let watch = ExitWatch::new(pid, start).unwrap().expect("it runs");
        assert!(!watch.has_ended() && !is_readable(&watch, 0));
        drop(child.stdin.take());
        assert!(is_readable(&watch, 20));
        assert!(watch.has_ended(), "a zombie has ended");
        child.wait().unwrap();
        assert!(watch.has_ended() && !is_alive(pid, start));
        assert!(ExitWatch::new(pid, start).unwrap().is_none());
    }

    #[test]
    fn another_process_with_the_same_number_is_not_the_same() {
        let me = i64::from(std::process::id());
        let start = start_time(me).unwrap();
        assert!(is_alive(me, start) && !is_alive(me, start + 1));
        assert!(ExitWatch::new(me, start + 1).unwrap().is_none());
        assert_eq!(identify(me), Some(Process { pid: me, start, wrapper: false, agent: None }));
    }

    #[test]
    fn numbers_that_name_no_process_are_answered() {
        for pid in [i64::MIN, -1, 0, i64::from(i32::MAX), i64::MAX] {
            assert!(!is_in_use(pid) && start_time(pid).is_none() && !is_alive(pid, 0), "{pid}");
            assert!(ExitWatch::new(pid, 0).unwrap().is_none(), "{pid}");
        }
    }

    #[test]
    fn only_this_program_is_ended_by_force() {
        let mut child = sleeper();
        let refused = end_own(i64::from(child.id())).unwrap_err();
        assert!(refused.text.contains("cat"), "{}", refused.text);
        assert!(child.try_wait().unwrap().is_none(), "it still runs");
        drop(child.stdin.take());
        child.wait().unwrap();
        for pid in [i64::MIN, -1, 0, i64::MAX] {
            assert!(end_own(pid).is_err(), "{pid}");
        }
    }

    #[test]
    fn the_kernel_tells_who_connected() {
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        let found = peer_credentials(&here).unwrap();
        assert_eq!((found.uid, found.pid), (crate::sys::uid(), Some(i64::from(std::process::id()))));
        drop(there);
    }
}
