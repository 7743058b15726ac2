//! The operating system: time, randomness, environment, settings, files and processes.
//!
//! **Invariant:** the core never imports this; its callers hand it what it needs.

pub mod git;
pub mod data_dir;
pub mod file_path;
pub mod process;
pub mod endpoint;
pub mod settings;
pub mod terminal;

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// One clock for a broker's life: wall time at its start, advanced by the boot-time clock, so that
/// a clock set back or a laptop asleep breaks no lease and no cursor.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base_ms: i64,
    boot_ms: i64,
}

impl Clock {
    /// Starts at the wall time, or at `floor` (the newest time in the store) if that is later.
    pub fn start(floor: i64) -> Clock {
        Clock { base_ms: wall_ms().max(floor), boot_ms: boot_ms() }
    }

    /// Milliseconds since the epoch; never goes back.
    pub fn now(&self) -> i64 {
        self.base_ms + (boot_ms() - self.boot_ms)
    }
}

/// Wall time, ms.
pub fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Raises the limit of open files as far as the system allows: a guest from another machine takes three.
pub fn raise_open_files() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    // Under a lower limit fewer guests fit; the hub refuses the others with a reason.
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum },
    );
}

/// Time since boot, sleep included, ms.
fn boot_ms() -> i64 {
    #[cfg(target_os = "linux")]
    let id = rustix::time::ClockId::Boottime;
    // On macOS CLOCK_MONOTONIC counts while the machine sleeps (clock_gettime(3) there).
    #[cfg(not(target_os = "linux"))]
    let id = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(id);
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

/// 128 random bits, from the operating system.
///
/// # Panics
/// When the operating system gives no randomness, since a predictable id would be a hole.
pub fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    u128::from_ne_bytes(bytes)
}

/// Writes a line to standard error. If that fails (a full disk under a log, a closed pipe), no other
/// place is left to report it, and the program goes on.
pub fn print_error(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Whether this process was started with standard output closed. Rust's runtime then opens `/dev/null`
/// for both directions in its place, so that no other file gets its number; output is lost there.
pub fn is_output_closed() -> bool {
    let out = std::io::stdout();
    let (Ok(here), Ok(null)) = (rustix::fs::fstat(&out), rustix::fs::stat("/dev/null")) else { return false };
    let is_null = (here.st_rdev, here.st_ino, here.st_dev) == (null.st_rdev, null.st_ino, null.st_dev);
    is_null && rustix::fs::fcntl_getfl(&out).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::RDWR))
}

/// This machine's name.
pub fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".into() } else { name }
}

/// The user's name: from the account database, since clients scrub the environment.
pub fn user() -> String {
    account_name()
        .or_else(|| std::env::var("USER").ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "user".into())
}

/// The account of this user in the file, which a statically linked program can read as well.
#[cfg(not(target_os = "macos"))]
fn account_name() -> Option<String> {
    let uid = uid().to_string();
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut rows = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
    rows.find(|row| row.get(2) == Some(&uid.as_str())).map(|row| row[0].to_owned())
}

/// The account of this user: on macOS the file has the system's accounts only.
#[cfg(target_os = "macos")]
fn account_name() -> Option<String> {
    nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name)
}

/// This user's id.
pub fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// This program's path, also after an upgrade replaced the file under a running process.
pub fn own_path() -> std::path::PathBuf {
    let path = std::env::current_exe().unwrap_or_else(|_| std::path::PathBuf::from("slm-mesh"));
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(text) => std::path::PathBuf::from(text),
        None => path,
    }
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
}
