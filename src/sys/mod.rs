//! The operating system: time, randomness, environment, settings, files and processes.
//!
//! **Invariant:** the core never imports this module. Callers of the core pass the data that the core needs.

mod account;
pub mod broker_startup_progress;
pub mod command_with_timeout;
pub mod data_dir;
pub mod drop_inherited_state;
pub mod file_lock_with_timeout;
pub mod file_tail;
pub mod find_set_aside_databases;
pub mod local_or_hub_endpoint;
pub mod machine_name;
pub mod parse_hub_addresses;
pub mod path_normalization;
pub mod process;
pub mod read_git_files;
pub mod regular_file;
pub mod run_with_signals;
pub mod sandbox_with_read_only_files;
pub mod settings;
pub mod socket_wait;
pub mod terminal;
pub mod threads;
pub mod typescript_broker;
pub mod unix_connect;

pub use account::{home, refuse_borrowed_home, uid, user};

use crate::base::untrusted_text;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The name of this program.
const PROGRAM: &str = "slm-mesh";

/// The clock of the mesh. It shows the wall time of the broker's start plus the time that has passed after the start,
/// including sleep. Changes of the wall clock do not affect this clock, so leases and cursors stay valid.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base_ms: i64,
    boot_ms: i64,
}

impl Clock {
    /// Starts a clock at the wall time, or at `floor` (the newest time in the store) if `floor` is later.
    pub fn start(floor: i64) -> Clock {
        Clock { base_ms: wall_ms().max(floor), boot_ms: boot_ms() }
    }

    /// Starts a clock at the time `now`, instead of the wall time.
    pub fn at(now: i64) -> Clock {
        Clock { base_ms: now, boot_ms: boot_ms() }
    }

    /// Continues the clock of an earlier broker. So leases stay valid even if the wall clock was changed in the
    /// meantime. Returns `None` if the machine was rebooted after `saved` was written, or if the format of `saved` is
    /// wrong.
    pub fn resume(saved: &str, floor: i64) -> Option<Clock> {
        let mut words = saved.split_whitespace();
        let saved_id = words.next()?;
        let mut number = || words.next()?.parse::<i64>().ok();
        let (base, boot) = (number()?, number()?);
        let now = boot_ms();
        let is_same_boot = clock_id().is_some_and(|id| id == saved_id) && boot <= now;
        is_same_boot.then(|| Clock { base_ms: base.checked_add(now - boot).unwrap_or(floor).max(floor), boot_ms: now })
    }

    /// The text with which [`Clock::resume`] can continue this clock. `None` if the system has no id for the current
    /// boot.
    pub fn save(&self) -> Option<String> {
        clock_id().map(|id| format!("{id} {} {}\n", self.base_ms, self.boot_ms))
    }

    /// Milliseconds since the epoch. This value never goes back.
    pub fn now(&self) -> i64 {
        self.base_ms + (boot_ms() - self.boot_ms)
    }
}

/// The wall time, in ms.
pub fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// The time since boot, in ms, including the time during which the machine slept.
pub fn boot_ms() -> i64 {
    #[cfg(target_os = "linux")]
    let id = rustix::time::ClockId::Boottime;
    // On macOS, CLOCK_MONOTONIC also advances while the machine sleeps (macOS's clock_gettime(3)).
    #[cfg(not(target_os = "linux"))]
    let id = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(id);
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

/// The number of free bytes for this user on the disk that contains this path.
///
/// # Errors
/// If the path does not exist or can't be read.
pub fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The processor time that this thread has used.
pub fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// The id of this boot. Two machines have different ids, even if one machine is a copy of the other. `None` on a system
/// without boot ids, such as macOS.
pub fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

/// Identifies the starting point of [`boot_ms`]. The text contains the id of this boot and the id of the time
/// namespace, because each namespace may have a different starting point. `None` on a system without boot ids.
fn clock_id() -> Option<String> {
    let boot_id = boot_id()?;
    // Linux before 5.6 has no time namespaces.
    let namespace = std::fs::read_link("/proc/self/ns/time").unwrap_or_default();
    Some(format!("{boot_id}/{}", namespace.display()))
}

/// Returns 128 random bits from the operating system.
///
/// # Panics
/// If the operating system provides no random bits. There is no fallback, because predictable ids would be a security
/// hole.
pub fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system provides random bits");
    u128::from_ne_bytes(bytes)
}

/// Lets this thread, and the threads that it starts, receive signals that were blocked when this process was started.
pub fn accept_signals() {
    // This call fails only for a wrong argument.
    let _ = nix::sys::signal::SigSet::all().thread_unblock();
}

/// Writes a message to standard error. Removes characters that control a terminal or hide text, because the message may
/// contain text from other users. Ignores a failed write, because there is no other place for errors.
pub fn print_error(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", untrusted_text::lines(line).join("\n"));
}

/// Whether standard output was closed when this process was started. In this case, Rust's runtime has opened
/// `/dev/null` as descriptor 1, and all output is lost.
pub fn is_output_closed() -> bool {
    let out = std::io::stdout();
    let (Ok(here), Ok(null)) = (rustix::fs::fstat(&out), rustix::fs::stat("/dev/null")) else { return false };
    let is_null = (here.st_rdev, here.st_ino, here.st_dev) == (null.st_rdev, null.st_ino, null.st_dev);
    is_null && rustix::fs::fcntl_getfl(&out).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::RDWR))
}

/// The host name of this machine. Other machines may be able to reach this machine by this name.
pub fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".into() } else { name }
}

/// The path of this program. If an upgrade has removed the file at this path, tries the path that was used to start
/// this process, and then the folders in `PATH`.
pub fn own_path() -> PathBuf {
    let path = std::env::current_exe().unwrap_or_else(|_| PathBuf::from(PROGRAM));
    let path = match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(text) => PathBuf::from(text),
        None => path,
    };
    if path.is_file() {
        return path;
    }
    // Agents start this program with the path in their settings. Package managers keep that path up to date, so it is
    // tried before `PATH`.
    let started_as = std::env::args_os().next().map(PathBuf::from);
    let started_as = started_as.filter(|path| path.is_absolute() && path.file_name() == Some(PROGRAM.as_ref()));
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&folders).map(|folder| folder.join(PROGRAM));
    // If no program is found, this path is used. The start of the program then fails with an error that contains the
    // path.
    started_as.into_iter().chain(in_path).find(|program| program.is_file()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_set_back_does_not_take_the_mesh_back() {
        let last_committed = wall_ms() + 3_600_000;
        let clock = Clock::start(last_committed);
        assert!(clock.now() >= last_committed);
        assert!(clock.now() < last_committed + 60_000);
    }

    #[test]
    fn within_one_boot_a_clock_that_was_set_changes_nothing() {
        let Some(saved) = Clock::start(0).save() else { return };
        let words: Vec<&str> = saved.split_whitespace().collect();
        for shift in [-86_400_000, 86_400_000] {
            // This has the same effect as a change of the wall clock by a day.
            let base = words[1].parse::<i64>().unwrap() + shift;
            let resumed = Clock::resume(&format!("{} {base} {}", words[0], words[2]), 0).unwrap();
            assert!((0..60_000).contains(&(resumed.now() - base)), "{shift}");
        }
        assert!(Clock::resume(&format!("another-boot {} {}", words[1], words[2]), 0).is_none());
        for text in ["", "x", "x y z", &format!("{} 1", words[0])] {
            assert!(Clock::resume(text, 0).is_none(), "{text:?}");
        }
    }
}
