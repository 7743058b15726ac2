//! Drops the state that a broker has inherited from its parent process, such as open files, the working directory,
//! limits and the priority.

use nix::sys::signal::{SigSet, Signal};
use std::fs;

/// The directory in which the system lists the open files of this process.
#[cfg(target_os = "linux")]
const OWN_FILES: &str = "/proc/self/fd";
/// The directory in which the system lists the open files of this process.
#[cfg(not(target_os = "linux"))]
const OWN_FILES: &str = "/dev/fd";

/// Closes every file descriptor above standard error. Also resets other inherited state: the working directory, the
/// umask, the soft limits, the priority and the blocked signals. Call this function before any file is opened.
///
/// If an inherited file stayed open, a lock on it would last as long as this process. If an inherited pipe stayed open,
/// a program that reads from the pipe would not reach the end of the pipe while this process runs.
pub fn leave_starter() {
    close_inherited_files();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // If this call fails, the file system of the inherited working directory can't be unmounted while this process
    // runs.
    let _ = std::env::set_current_dir("/");
    raise_soft_limits();
    // This call fails if the inherited nice value is above 0 and the user is not root. A value above 0 does no harm.
    let _ = rustix::process::setpriority_process(None, 0);
    super::accept_signals();
    refuse_writes_beyond_limit();
}

/// Leaves the inherited terminal and session, as a daemon does.
pub fn leave_session() {
    // This call fails only if this process leads a process group. A newly started child does not lead one.
    let _ = rustix::process::setsid();
}

fn close_inherited_files() {
    let names: Vec<_> =
        fs::read_dir(OWN_FILES).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    let numbers = names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok());
    for number in numbers.filter(|number| *number > 2) {
        // The list also contains the descriptor that was opened to read the list. That descriptor is already closed, so
        // the call fails for that descriptor.
        let _ = nix::unistd::close(number);
    }
}

/// Blocks SIGXFSZ. With this signal, the kernel would kill this process for a write beyond the file size limit. If the
/// signal is blocked, only the write fails, and the broker can refuse the call.
fn refuse_writes_beyond_limit() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    // This call fails only for a wrong argument.
    let _ = signals.thread_block();
}

/// Raises the soft limits to the hard limits. The parent process may have set limits for itself (`ulimit -f`, `ulimit
/// -t`). Such a limit could kill this process in the middle of a write.
fn raise_soft_limits() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    for resource in [Resource::Fsize, Resource::Cpu, Resource::Data, Resource::As, Resource::Nofile] {
        let maximum = getrlimit(resource).maximum;
        // If the system refuses, this process runs with the inherited limit.
        let _ = setrlimit(resource, Rlimit { current: maximum, maximum });
    }
}
