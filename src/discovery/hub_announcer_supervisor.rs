//! Starts the process that announces a hub, and restarts it after a crash. The pause before each restart grows, so that
//! an attacker gains little by crashing the process again and again.
//!
//! **Invariant:** nothing here blocks. [`MdnsSupervisor::supervise`] does the work that is due, and returns the time at
//! which it must be called again.

use super::addresses;
use super::announce_hub_by_mdns::Announcement;
use crate::sys;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

/// Minimum pause before a restart.
const PAUSE_MS_MIN: i64 = 1000;
/// Maximum pause before a restart.
const PAUSE_MS_MAX: i64 = 300_000;
/// How long the process must run without a crash before the pause is reset to its minimum.
const STABLE_MS: i64 = 60_000;
/// How often the supervisor checks that the process is running, and that the machine still has the announced
/// addresses.
const CHECK_MS: i64 = 5000;
/// How often the supervisor checks whether a process that was told to stop has ended.
const STOP_CHECK_MS: i64 = 150;

/// Keeps the announcing process running.
#[derive(Debug)]
pub struct MdnsSupervisor {
    program: PathBuf,
    announcement: Announcement,
    local_addresses: fn() -> Vec<IpAddr>,
    child: Option<Child>,
    started_ms: i64,
    due_ms: i64,
    pause_ms: i64,
    is_stopped: bool,
}

impl MdnsSupervisor {
    /// Makes a supervisor that runs this program. The first call of [`MdnsSupervisor::supervise`] starts the program.
    pub fn new(program: PathBuf, announcement: Announcement) -> MdnsSupervisor {
        MdnsSupervisor {
            program,
            announcement,
            local_addresses: addresses::local_addresses,
            child: None,
            started_ms: 0,
            due_ms: i64::MIN,
            pause_ms: PAUSE_MS_MIN,
            is_stopped: false,
        }
    }

    /// Starts, checks or restarts the process, as needed. Returns the time at which the caller must call again; `None`
    /// after the process has been stopped.
    pub fn supervise(&mut self, now_ms: i64) -> Option<i64> {
        if let Some(child) = &mut self.child {
            match child.try_wait() {
                Ok(None) => return self.check_running(now_ms),
                ended => self.handle_exit(ended.ok().flatten(), now_ms),
            }
        }
        if self.is_stopped {
            return None;
        }
        if now_ms >= self.due_ms {
            self.start(now_ms);
        }
        Some(if self.child.is_some() { now_ms + CHECK_MS } else { self.due_ms })
    }

    /// Tells the process to send its goodbye packet and to end. Does not wait until the process has ended.
    pub fn stop(&mut self) {
        self.is_stopped = true;
        self.ask_to_stop();
    }

    /// The process id of the announcing process.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Checks the running process. If the process announces old addresses, stops it, so that a new process can replace
    /// it.
    fn check_running(&mut self, now_ms: i64) -> Option<i64> {
        let was_asked = self.child.as_ref().is_some_and(|child| child.stdin.is_none());
        if !was_asked && (self.local_addresses)() != self.announcement.addresses {
            self.ask_to_stop();
        } else if !was_asked {
            return Some(now_ms + CHECK_MS);
        }
        Some(now_ms + STOP_CHECK_MS)
    }

    /// Closes the standard input of the process, which tells it to stop.
    fn ask_to_stop(&mut self) {
        if let Some(child) = &mut self.child {
            child.stdin = None;
        }
    }

    fn handle_exit(&mut self, status: Option<ExitStatus>, now_ms: i64) {
        let was_asked = self.child.take().is_some_and(|child| child.stdin.is_none());
        if was_asked {
            self.due_ms = now_ms;
            return;
        }
        if now_ms - self.started_ms >= STABLE_MS {
            self.pause_ms = PAUSE_MS_MIN;
        }
        let why = status.map_or("lost".into(), |status| status.to_string());
        self.retry_later(now_ms, &format!("the announcing process ended ({why})"));
    }

    fn start(&mut self, now_ms: i64) {
        self.announcement.addresses = (self.local_addresses)();
        if self.announcement.addresses.is_empty() {
            self.retry_later(now_ms, "this machine has no address on a network");
            return;
        }
        let mut command = Command::new(&self.program);
        command.args(["announce", "--"]).args(self.announcement.to_args());
        // The environment could contain a secret, so it is cleared. The process gets its own group, so that Ctrl-C in
        // the terminal does not reach it. Instead, the process ends when its input ends.
        command.env_clear().current_dir("/").process_group(0);
        match command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(child) => (self.child, self.started_ms) = (Some(child), now_ms),
            Err(error) => self.retry_later(now_ms, &format!("the announcing process can't be started ({error})")),
        }
    }

    /// Schedules a restart. The pause doubles each time. If several starts fail in a row, only the first failure is
    /// logged.
    fn retry_later(&mut self, now_ms: i64, why: &str) {
        if self.pause_ms == PAUSE_MS_MIN {
            sys::print_error(&format!("slm-mesh: this hub is not announced on the LAN: {why}; trying again"));
        }
        self.due_ms = now_ms + self.pause_ms;
        self.pause_ms = (self.pause_ms * 2).min(PAUSE_MS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Vec<IpAddr> {
        vec![[192, 168, 1, 2].into()]
    }

    fn with(program: &str) -> MdnsSupervisor {
        let mut supervisor = MdnsSupervisor::new(program.into(), Announcement::new("desk", 7899, 7900, "1"));
        supervisor.local_addresses = some;
        supervisor
    }

    /// Calls the supervisor repeatedly, always with the time `now_ms`, until the process has ended.
    fn supervise_until_gone(supervisor: &mut MdnsSupervisor, now_ms: i64) -> Option<i64> {
        loop {
            let next = supervisor.supervise(now_ms);
            if supervisor.child.is_none() {
                return next;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_pause_grows_while_the_process_crashes() {
        let mut supervisor = with("/usr/bin/false");
        let mut now = 0;
        for pause in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            supervisor.supervise(now);
            let next = supervise_until_gone(&mut supervisor, now);
            assert_eq!(next, Some(now + pause * 1000));
            assert_eq!(supervisor.supervise(now + pause * 1000 - 1), next, "not too early");
            assert!(supervisor.child.is_none());
            now += pause * 1000;
        }
    }

    #[test]
    fn a_long_life_resets_the_pause() {
        let mut supervisor = with("/usr/bin/false");
        for now in [0, 1000, 3000] {
            supervisor.supervise(now);
            supervise_until_gone(&mut supervisor, now);
        }
        supervisor.supervise(7000);
        assert_eq!(supervise_until_gone(&mut supervisor, 7000 + STABLE_MS), Some(7000 + STABLE_MS + PAUSE_MS_MIN));
    }

    #[test]
    fn it_stops_on_request_and_restarts_for_new_addresses() {
        // This test runs xargs instead of slm-mesh. Like slm-mesh, xargs runs until its input ends. Until then, it
        // ignores its arguments.
        let mut supervisor = with("/usr/bin/xargs");
        assert_eq!(supervisor.supervise(0), Some(CHECK_MS));
        let first = supervisor.pid().unwrap();
        assert_eq!(supervisor.supervise(CHECK_MS), Some(2 * CHECK_MS), "it lives");
        supervisor.local_addresses = || vec![[10, 0, 0, 1].into()];
        assert_eq!(supervisor.supervise(2 * CHECK_MS), Some(2 * CHECK_MS + STOP_CHECK_MS), "it was asked to stop");
        while supervisor.pid() == Some(first) {
            supervisor.supervise(2 * CHECK_MS);
            std::thread::yield_now();
        }
        assert!(supervisor.pid().is_some(), "a new process starts at once");
        assert_eq!(supervisor.announcement.addresses, [IpAddr::from([10, 0, 0, 1])]);
        supervisor.stop();
        assert_eq!(supervise_until_gone(&mut supervisor, 3 * CHECK_MS), None, "it has stopped");
    }

    #[test]
    fn it_waits_for_a_network() {
        let mut supervisor = with("/usr/bin/false");
        supervisor.local_addresses = Vec::new;
        assert_eq!(supervisor.supervise(0), Some(1000));
        assert_eq!(supervisor.supervise(1000), Some(3000));
        supervisor.local_addresses = some;
        supervisor.supervise(3000);
        assert!(supervisor.pid().is_some());
    }
}
