//! Gets information about processes from the kernel: which process has connected, which ancestors it has, whether it is
//! still running, and when it ends.
//!
//! `process/linux.rs` and `process/macos.rs` provide the same functions.
//!
//! **Invariant:** a process is identified by its number together with its start time, because the kernel reuses
//! numbers.

mod ancestors;
mod kill_own_program;
#[cfg(not(target_os = "macos"))]
#[path = "process/linux.rs"]
mod platform;
#[cfg(target_os = "macos")]
#[path = "process/macos.rs"]
mod platform;

pub use ancestors::ancestors;
pub use kill_own_program::end_own;
pub use platform::{end_with_parent, peer_credentials};

use crate::base::process_identity::{AgentProgram, Process};
use crate::known_agents::{self, Agent};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::process::Child;

/// The user and the process at the other end of a Unix socket, as the kernel reports them.
#[derive(Debug, Clone, Copy)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// The process id. `None` if the kernel reports no id, for example for a process in another PID namespace.
    pub pid: Option<i64>,
}

/// What the kernel reports about one process.
#[derive(Debug, Clone, PartialEq)]
struct ProcessInfo {
    parent: i64,
    /// The start time, in a unit that depends on the system. It only needs to be different for two processes with the
    /// same number.
    start: u64,
    /// Whether the process has ended and its parent has not reaped it yet.
    is_zombie: bool,
    /// The command's name, in lower case.
    name: String,
    /// Whether the process leads its process group and has a terminal, as an interactive shell does.
    leads_terminal: bool,
}

/// The program that a process runs.
#[derive(Debug)]
struct RunningProgram {
    /// Whether the program is slm-mesh and runs as this user.
    is_own: bool,
    /// The program's name or path, for messages.
    shown: String,
}

/// Starts a thread that reaps a child process when it ends. Without this thread, the ended child would stay a zombie,
/// and would look like a running process to other programs.
pub fn reap_at_end(mut child: Child) {
    // If no thread can be started, a zombie remains. It does little harm.
    let _ = std::thread::Builder::new().stack_size(64 * 1024).spawn(move || child.wait());
}

/// The start time of a process. `None` if no such process exists.
pub fn start_time(pid: i64) -> Option<u64> {
    platform::process_info(pid).map(|info| info.start)
}

/// Whether the process with this number and this start time is still running. A zombie does not count as running.
pub fn is_alive(pid: i64, start: u64) -> bool {
    platform::process_info(pid).is_some_and(|info| info.start == start && !info.is_zombie)
}

/// Whether any process of this user has this number.
pub fn is_in_use(pid: i64) -> bool {
    // For kill(2), a number below 1 means a group of processes.
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

/// The process with this number, together with its start time.
pub fn identify(pid: i64) -> Option<Process> {
    start_time(pid).map(|start| Process { pid, start, wrapper: false, agent: None })
}

/// The agent that runs an MCP server: the server's nearest ancestor that is not a wrapper. `None` if `pid` is not an
/// slm-mesh process of this user.
pub fn agent_of_server(pid: i64) -> Option<Process> {
    platform::program(pid).filter(|program| program.is_own)?;
    ancestors(pid).into_iter().find(|process| !process.wrapper)
}

/// A file descriptor that becomes readable when a process ends: a pidfd on Linux, a kqueue on macOS.
#[derive(Debug)]
pub struct ExitWatch {
    pid: i64,
    start: u64,
    fd: OwnedFd,
}

impl ExitWatch {
    /// Watches a process. Returns `None` if the process has already ended.
    ///
    /// # Errors
    /// If the calling process has no free file descriptor, or if the kernel can't report the end of a process through a
    /// descriptor (Linux before 5.3).
    pub fn new(pid: i64, start: u64) -> io::Result<Option<ExitWatch>> {
        let Some(fd) = platform::open_exit_event(pid)? else { return Ok(None) };
        // The start time is compared only after the descriptor is open. Until then, the kernel could give the id `pid`
        // to another process.
        Ok(is_alive(pid, start).then_some(ExitWatch { pid, start, fd }))
    }

    /// Whether the process has ended. Does not wait.
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

/// The type and the short name of a known agent. `None` if slm-mesh knows no agent of the type `kind`.
pub fn agent_program(kind: &str) -> Option<AgentProgram> {
    known_agents::by_kind(kind).map(Agent::program)
}

/// The nearest ancestor of this process that is an agent.
pub fn agent_above() -> Option<&'static Agent> {
    ancestors::walk(i64::from(std::process::id()), |pid, info| {
        let words: Vec<String> = std::iter::once(info.name.clone()).chain(platform::arguments(pid)).collect();
        known_agents::by_process(&words)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

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
