//! Drops the inherited state that a process must not keep after the process that started it has ended: open files, the
//! working directory, limits, priority.

use nix::sys::signal::{SigSet, Signal};
use std::fs;

/// Where the system lists this process's open files.
#[cfg(target_os = "linux")]
const OWN_FILES: &str = "/proc/self/fd";
/// Where the system lists this process's open files.
#[cfg(not(target_os = "linux"))]
const OWN_FILES: &str = "/dev/fd";

/// Drops what this process inherited from the process that started it: closes every file descriptor above standard
/// error, and resets the working directory, the umask, the soft limits, the priority and the blocked signals.
///
/// Without this, a lock that the starting process holds on an inherited file would last as long as this process, and a
/// program that reads an inherited pipe to its end would wait just as long. Call this function before opening anything.
pub fn leave_starter() {
    close_inherited_files();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // If this fails, the file system of the inherited working directory can't be unmounted while this process runs.
    let _ = std::env::set_current_dir("/");
    raise_soft_limits();
    // Only root may lower a nice value. If this fails, the process keeps the higher value, which does no harm.
    let _ = rustix::process::setpriority_process(None, 0);
    super::accept_signals();
    refuse_writes_beyond_limit();
}

/// Leaves the inherited terminal and session, as a daemon does.
pub fn leave_session() {
    // This fails only for the leader of a process group, which a spawned child is not.
    let _ = rustix::process::setsid();
}

fn close_inherited_files() {
    let names: Vec<_> =
        fs::read_dir(OWN_FILES).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    let numbers = names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok());
    for number in numbers.filter(|number| *number > 2) {
        // The list also contains the descriptor through which the list was read. That descriptor is already closed, so
        // closing it again fails.
        let _ = nix::unistd::close(number);
    }
}

/// Blocks the signal with which the kernel ends a process that writes beyond its file size limit, because this process
/// can't raise the hard limit. Such a write then fails, and the call that needs it is refused.
fn refuse_writes_beyond_limit() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    // This fails only for a wrong argument.
    let _ = signals.thread_block();
}

/// Raises the soft limits to the hard limits. Otherwise, a limit that the starting process set for itself (`ulimit -f`,
/// `ulimit -t`) could kill this process in the middle of a write.
fn raise_soft_limits() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    for resource in [Resource::Fsize, Resource::Cpu, Resource::Data, Resource::As, Resource::Nofile] {
        let maximum = getrlimit(resource).maximum;
        // If the system refuses, this process runs with the inherited limit.
        let _ = setrlimit(resource, Rlimit { current: maximum, maximum });
    }
}
