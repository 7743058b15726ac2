//! Starts the announcing process, and starts it again when it died: sooner the first time than the
//! tenth, so that who kills it with packets gets little for them.
//!
//! **Invariant:** nothing here waits. [`Announcer::tend`] looks, does what is due, and says when it
//! wants to be called again.

use super::addresses;
use super::mdns_process::Orders;
use crate::sys;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

/// The first pause before a restart.
const PAUSE_MS_MIN: i64 = 1000;
/// The longest one.
const PAUSE_MS_MAX: i64 = 300_000;
/// One that lived so long died for a new reason: its pause is the first one again.
const CALM_MS: i64 = 60_000;
/// How often is looked whether it lives, and whether the machine's addresses are still those that it tells.
const LOOK_MS: i64 = 5000;
/// How soon is looked for one that was told to go.
const LEAVES_MS: i64 = 150;

/// The announcing process, as its starter holds it.
#[derive(Debug)]
pub struct Announcer {
    program: PathBuf,
    orders: Orders,
    own: fn() -> Vec<IpAddr>,
    child: Option<Child>,
    started_ms: i64,
    due_ms: i64,
    pause_ms: i64,
    is_over: bool,
}

impl Announcer {
    /// One that announces with this program, from the first call of [`Announcer::tend`].
    pub fn new(program: PathBuf, orders: Orders) -> Announcer {
        Announcer {
            program,
            orders,
            own: addresses::own,
            child: None,
            started_ms: 0,
            due_ms: i64::MIN,
            pause_ms: PAUSE_MS_MIN,
            is_over: false,
        }
    }

    /// Does what is due; when it wants to be called again, or nothing if it is over.
    pub fn tend(&mut self, now_ms: i64) -> Option<i64> {
        if let Some(child) = &mut self.child {
            match child.try_wait() {
                Ok(None) => return self.look(now_ms),
                ended => self.ended(ended.ok().flatten(), now_ms),
            }
        }
        if self.is_over {
            return None;
        }
        if now_ms >= self.due_ms {
            self.start(now_ms);
        }
        Some(if self.child.is_some() { now_ms + LOOK_MS } else { self.due_ms })
    }

    /// Has it say goodbye and end. It is gone when [`Announcer::tend`] says so, and needs no waiting for.
    pub fn stop(&mut self) {
        self.is_over = true;
        self.send_away();
    }

    /// The process that announces now.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// It lives: does it tell what is still so?
    fn look(&mut self, now_ms: i64) -> Option<i64> {
        let was_sent = self.child.as_ref().is_some_and(|child| child.stdin.is_none());
        if !was_sent && (self.own)() != self.orders.addresses {
            self.send_away();
        } else if !was_sent {
            return Some(now_ms + LOOK_MS);
        }
        Some(now_ms + LEAVES_MS)
    }

    /// Ends its input, which is the order to go.
    fn send_away(&mut self) {
        if let Some(child) = &mut self.child {
            child.stdin = None;
        }
    }

    fn ended(&mut self, status: Option<ExitStatus>, now_ms: i64) {
        let was_sent = self.child.take().is_some_and(|child| child.stdin.is_none());
        if was_sent {
            self.due_ms = now_ms;
            return;
        }
        if now_ms - self.started_ms >= CALM_MS {
            self.pause_ms = PAUSE_MS_MIN;
        }
        let why = status.map_or("lost".into(), |status| status.to_string());
        self.pause(now_ms, &format!("the announcing process ended ({why})"));
    }

    fn start(&mut self, now_ms: i64) {
        self.orders.addresses = (self.own)();
        if self.orders.addresses.is_empty() {
            self.pause(now_ms, "this machine has no address on a network");
            return;
        }
        let mut command = Command::new(&self.program);
        command.args(["announce", "--"]).args(self.orders.words());
        // It is given no secret by the environment, and no Ctrl-C: it goes when its input ends.
        command.env_clear().current_dir("/").process_group(0);
        match command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(child) => (self.child, self.started_ms) = (Some(child), now_ms),
            Err(error) => self.pause(now_ms, &format!("the announcing process can't be started ({error})")),
        }
    }

    /// Tries again later, and twice as late the next time. Of a row of failures the first is told.
    fn pause(&mut self, now_ms: i64, why: &str) {
        if self.pause_ms == PAUSE_MS_MIN {
            sys::print_error(&format!("slm-mesh: not announced on the LAN: {why}; it is tried again"));
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

    fn with(program: &str) -> Announcer {
        let mut announcer = Announcer::new(program.into(), Orders::new("desk", 7899, 7900, "1"));
        announcer.own = some;
        announcer
    }

    /// Tends at this time until the process is gone.
    fn tend_until_gone(announcer: &mut Announcer, now_ms: i64) -> Option<i64> {
        loop {
            let next = announcer.tend(now_ms);
            if announcer.child.is_none() {
                return next;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn one_that_dies_at_once_is_started_ever_later() {
        let mut announcer = with("/usr/bin/false");
        let mut now = 0;
        for pause in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            announcer.tend(now);
            let next = tend_until_gone(&mut announcer, now);
            assert_eq!(next, Some(now + pause * 1000));
            assert_eq!(announcer.tend(now + pause * 1000 - 1), next, "not before its time");
            assert!(announcer.child.is_none());
            now += pause * 1000;
        }
    }

    #[test]
    fn one_that_lived_long_is_started_soon() {
        let mut announcer = with("/usr/bin/false");
        for now in [0, 1000, 3000] {
            announcer.tend(now);
            tend_until_gone(&mut announcer, now);
        }
        announcer.tend(7000);
        assert_eq!(tend_until_gone(&mut announcer, 7000 + CALM_MS), Some(7000 + CALM_MS + PAUSE_MS_MIN));
    }

    #[test]
    fn it_goes_when_it_is_told_to_and_when_its_addresses_are_others() {
        // It reads its input to the end before it looks at the words that it was given.
        let mut announcer = with("/usr/bin/xargs");
        assert_eq!(announcer.tend(0), Some(LOOK_MS));
        let first = announcer.pid().unwrap();
        assert_eq!(announcer.tend(LOOK_MS), Some(2 * LOOK_MS), "it lives");
        announcer.own = || vec![[10, 0, 0, 1].into()];
        assert_eq!(announcer.tend(2 * LOOK_MS), Some(2 * LOOK_MS + LEAVES_MS), "it is sent away");
        while announcer.pid() == Some(first) {
            announcer.tend(2 * LOOK_MS);
            std::thread::yield_now();
        }
        assert!(announcer.pid().is_some(), "another is there at once");
        assert_eq!(announcer.orders.addresses, [IpAddr::from([10, 0, 0, 1])]);
        announcer.stop();
        assert_eq!(tend_until_gone(&mut announcer, 3 * LOOK_MS), None, "it is over");
    }

    #[test]
    fn without_a_network_it_waits_for_one() {
        let mut announcer = with("/usr/bin/false");
        announcer.own = Vec::new;
        assert_eq!(announcer.tend(0), Some(1000));
        assert_eq!(announcer.tend(1000), Some(3000));
        announcer.own = some;
        announcer.tend(3000);
        assert!(announcer.pid().is_some());
    }
}
