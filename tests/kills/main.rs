//! Kills the broker and sessions with `kill -9` at random moments, while sessions, verbs (subcommands) and HTTP clients
//! make calls. No acknowledged data may be lost, no lock may have two holders, and every session must recover.
//!
//! `make kills N=1000 SEED=1` makes 1000 kills with a release build.
#![allow(clippy::unwrap_used)]

mod audit;
mod ledger;
mod clients;
#[path = "../support/mod.rs"]
mod support;
mod workload;

use clients::{Ask, Caller, Got, Mcp, Slot, Verbs, Web};
use ledger::Ledger;
use rustix::process::{Pid, Signal, kill_process};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use support::{Place, lives, until};
use workload::{Dice, Peer, Worker, World};

const N_SESSIONS: usize = 5;
const N_WEB: usize = 2;
const N_FILES: usize = 6;
/// The name of a session. Some of the verbs (subcommands) act as this session, as if they ran in its shell.
const SHELL: &str = "codex-s0";

/// Reads a number from an environment variable, such as the number of kills or the seed of a run.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: want a number, got {text}")))
}

fn kill(pid: u32) {
    // The kill fails if the process has already ended.
    let _ = kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL);
}

/// Whether this process is a broker of this test. A different program may now have the process id of a dead broker.
fn is_broker(place: &Place, pid: u32) -> bool {
    let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
    let ours = format!("SLM_MESH_DATA_DIR={}", place.dir.display());
    let is_daemon = read("cmdline").split(|byte| *byte == 0).any(|word| word == b"--as-daemon");
    is_daemon && read("environ").split(|byte| *byte == 0).any(|entry| entry == ours.as_bytes())
}

/// Finds the broker's process in /proc, even if the broker is still starting, and has not yet written its process id.
fn unborn(place: &Place) -> Option<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid| is_broker(place, *pid) && lives(*pid))
}

/// Kills brokers and sessions at random moments.
struct Killer<'a> {
    place: &'a Place,
    slots: &'a [Slot],
    dice: Dice,
    last: u32,
    n_brokers: u64,
    n_unborn: u64,
    n_sessions: u64,
}

impl Killer<'_> {
    fn strike(&mut self) {
        // One strike in ten happens without a pause, and kills the next broker while that broker is still starting.
        let early = self.dice.below(10) == 0;
        let pause = if early { 0 } else { self.dice.below(120) };
        std::thread::sleep(Duration::from_millis(pause));
        match self.dice.below(10) {
            _ if early => self.strike_broker(unborn),
            0..=5 => self.strike_broker(|place| place.broker_pid().filter(|pid| is_broker(place, *pid))),
            6..=8 => self.strike_session(),
            _ => {
                self.strike_broker(unborn);
                self.strike_session();
            }
        }
    }

    fn strike_broker(&mut self, find: impl Fn(&Place) -> Option<u32>) {
        let (place, last) = (self.place, self.last);
        let mut found = None;
        until("there is a broker to kill", || {
            found = find(place);
            found.is_some_and(|pid| pid != last && lives(pid))
        });
        self.last = found.unwrap();
        self.n_unborn += u64::from(place.broker_pid() != found);
        kill(self.last);
        self.n_brokers += 1;
    }

    fn strike_session(&mut self) {
        let at = self.dice.below(self.slots.len() as u64) as usize;
        if let Some(pid) = *self.slots[at].lock().unwrap_or_else(PoisonError::into_inner) {
            kill(pid);
            self.n_sessions += 1;
        }
    }

    fn n_kills(&self) -> u64 {
        self.n_brokers + self.n_sessions
    }
}

/// Asks the mesh which peer a client is.
fn who(caller: &mut dyn Caller, is_web: bool) -> Peer {
    let Got::Done(value) = caller.ask(&Ask::Who) else { panic!("it does not answer at the start") };
    let word = |name: &str| value["you"][name].as_str().unwrap_or_default().to_owned();
    Peer { id: word("id"), name: word("name"), is_web }
}

/// All clients of a run, each with its kind and its peer. They are sessions, verbs (subcommands) that act as the human
/// or as a session, and HTTP clients.
fn callers<'a>(place: &'a Place, slots: &'a [Slot]) -> Vec<(&'static str, Peer, Box<dyn Caller + 'a>)> {
    let mut callers: Vec<(&'static str, Peer, Box<dyn Caller + 'a>)> = Vec::new();
    for (n, slot) in slots.iter().enumerate() {
        let mut session = Mcp::new(place, format!("s{n}"), slot);
        callers.push(("sessions", who(&mut session, false), Box::new(session)));
    }
    for acting in ["human", SHELL] {
        let mut verbs = Verbs { place, acting };
        callers.push(("verbs", who(&mut verbs, false), Box::new(verbs)));
    }
    for n in 0..N_WEB {
        let name = format!("web{n}");
        let mut web = Web::new(place, &name);
        let peer = Peer { name, ..who(&mut web, true) };
        callers.push(("http", peer, Box::new(web)));
    }
    callers
}

#[test]
fn nothing_acknowledged_is_lost_whatever_is_killed() {
    let (n_kills, seed) = (number("SLM_MESH_KILLS", 15), number("SLM_MESH_SEED", 1));
    let place = Place::new().with("SLM_MESH_RATE", "1000000");
    let slots: Vec<Slot> = (0..N_SESSIONS).map(|_| Mutex::new(None)).collect();
    let callers = callers(&place, &slots);
    let mut peers: Vec<Peer> = callers.iter().map(|(_, peer, _)| peer.clone()).collect();
    peers.sort_by(|a, b| a.id.cmp(&b.id));
    peers.dedup();
    let files = (0..N_FILES).map(|n| place.root.join(format!("files/f{n}")).display().to_string()).collect();
    let world =
        World { place: &place, peers, files, ledger: Mutex::new(Ledger::default()), done: AtomicBool::new(false) };
    let mut workers: Vec<Worker> = Vec::new();
    for (n, (kind, me, caller)) in callers.into_iter().enumerate() {
        // These verbs (subcommands) act as a session, so the session and the verbs are one peer. The session takes locks,
        // and the verbs take none.
        let is_shell = kind == "verbs" && me.name == SHELL;
        let label = if is_shell { "shell".into() } else { me.name.clone() };
        let dice = Dice::new(seed * 1000 + n as u64);
        workers.push(Worker {
            world: &world,
            me,
            label,
            kind,
            caller,
            dice,
            locks: !is_shell,
            n_sent: 0,
            n_set: 0,
            n_revived: 0,
        });
    }
    let mut killer = Killer {
        place: &place,
        slots: &slots,
        dice: Dice::new(seed),
        last: 0,
        n_brokers: 0,
        n_unborn: 0,
        n_sessions: 0,
    };
    let began = Instant::now();
    std::thread::scope(|threads| {
        for worker in &mut workers {
            threads.spawn(|| worker.work());
        }
        while killer.n_kills() < n_kills {
            killer.strike();
        }
        world.done.store(true, Ordering::SeqCst);
    });
    let lasted = began.elapsed();
    let said = settle(&world, &mut workers);
    println!("{} kills with seed {seed} in {:.0} s", killer.n_kills(), lasted.as_secs_f64());
    let unborn = killer.n_unborn;
    println!(
        "  killed: {} brokers ({unborn} before they were ready), {} sessions",
        killer.n_brokers, killer.n_sessions
    );
    println!("{said}");
    let breaches = &world.ledger().breaches;
    assert!(breaches.is_empty(), "seed {seed}: {} breaches\n  {}", breaches.len(), breaches.join("\n  "));
    let log = place.log();
    assert!(!["DAMAGED", "a bug", "panick"].iter().any(|word| log.contains(word)), "{log}");
}

/// Checks that every client is still the same peer, and that the mesh's data matches the ledger. Returns a summary of
/// the run.
fn settle(world: &World, workers: &mut [Worker]) -> String {
    for worker in workers.iter_mut() {
        worker.revive();
        worker.check_back();
    }
    let mut socket = world.place.socket();
    let mail = audit::mail(world, &mut socket);
    let mut locks = audit::locks(world, &mut socket);
    locks.n_in_force = audit::in_force(world, &mut socket);
    audit::versions(world, &mut socket);
    for worker in workers.iter_mut() {
        audit::drain(worker);
        worker.check_count();
    }
    let ledger = world.ledger();
    let n_revived: u64 = workers.iter().map(|worker| worker.n_revived).sum();
    let mut said = format!("  sessions started again, each as who it was: {n_revived}\n");
    said += &format!(
        "  messages: {} acknowledged, of which {} read, {} waiting, {} fetched over HTTP by a call that was killed; {} came again, marked\n",
        mail.n_acked, mail.n_read, mail.n_waiting, mail.n_fetched_away, ledger.n_again
    );
    let falls: Vec<String> = locks.falls.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    said += &format!(
        "  locks: {} granted, highest token {}, {} in force; {}\n",
        locks.n_granted,
        locks.top_token,
        locks.n_in_force,
        falls.join(", ")
    );
    said += &format!("  compare-and-set: {} acknowledged\n", ledger.versions.len());
    for (kind, (n_calls, n_lost, slowest)) in &ledger.calls {
        said += &format!(
            "  {kind}: {n_calls} calls, {n_lost} without an answer, the slowest {:.0} ms\n",
            slowest.as_secs_f64() * 1e3
        );
    }
    let refusals: Vec<String> = ledger.refusals.iter().map(|(word, n)| format!("\n    {n} {word}")).collect();
    said + &format!("  refused: {}", refusals.concat())
}
