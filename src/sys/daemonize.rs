//! What a process that outlives its starter must not keep of it: files, folder, limits, priority.

use std::fs;

/// Where the system lists the open files of this process.
#[cfg(target_os = "linux")]
const OWN_FILES: &str = "/proc/self/fd";
/// Where the system lists the open files of this process.
#[cfg(not(target_os = "linux"))]
const OWN_FILES: &str = "/dev/fd";

/// Gives up what the process inherited from its starter: each file above standard error, the working
/// directory, the file mode mask, soft limits, and the priority.
///
/// A lock that the starter holds on an inherited file would otherwise stay held as long as this process
/// runs, and whoever reads an inherited pipe to its end would wait as long. Call this before anything is
/// opened.
pub fn leave_starter() {
    close_inherited_files();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // If this fails, the starter's directory can't be unmounted while the process runs.
    let _ = std::env::set_current_dir("/");
    raise_soft_limits();
    // Only root may take a raised nice value back; a process that stays nice still works.
    let _ = rustix::process::setpriority_process(None, 0);
}

/// Leaves the terminal and the session of the starter, as a daemon does.
pub fn leave_session() {
    // It fails only for the leader of a process group, which a spawned child is not.
    let _ = rustix::process::setsid();
}

fn close_inherited_files() {
    let names: Vec<_> =
        fs::read_dir(OWN_FILES).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    let numbers = names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok());
    for number in numbers.filter(|number| *number > 2) {
        // The list names the directory that was read for it, too, which is closed by now.
        let _ = nix::unistd::close(number);
    }
}

/// A limit that the starter set for itself (`ulimit -f`, `ulimit -t`) would end the process in the
/// middle of a write.
fn raise_soft_limits() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    for resource in [Resource::Fsize, Resource::Cpu, Resource::Data, Resource::As, Resource::Nofile] {
        let maximum = getrlimit(resource).maximum;
        // Where the system refuses, the process runs under the limit of its starter.
        let _ = setrlimit(resource, Rlimit { current: maximum, maximum });
    }
}
