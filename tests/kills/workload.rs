//! The random calls that clients make during a run. Their outcomes are recorded in the ledger.

use crate::clients::{Ask, Caller, Got};
use crate::ledger::Ledger;
use crate::support::Place;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The key of an entry that all workers change with compare-and-set.
pub const SHARED: &str = "shared";

/// The random number generator xorshift64*. The same seed always gives the same numbers.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// A peer to which messages can be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    pub id: String,
    pub name: String,
    /// Whether this peer is an HTTP client. A fetch over HTTP marks messages as read immediately, even if its answer is
    /// lost.
    pub is_web: bool,
}

/// Data that all workers of a run share.
pub struct World<'a> {
    pub place: &'a Place,
    pub peers: Vec<Peer>,
    pub files: Vec<String>,
    pub ledger: Mutex<Ledger>,
    pub done: AtomicBool,
}

impl World<'_> {
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that makes random calls through one client.
pub struct Worker<'a> {
    pub world: &'a World<'a>,
    pub me: Peer,
    /// The beginning of all texts and keys that this worker writes.
    pub label: String,
    pub kind: &'static str,
    pub caller: Box<dyn Caller + 'a>,
    pub dice: Dice,
    /// Whether this worker locks and unlocks files.
    pub locks: bool,
    pub n_sent: u64,
    pub n_set: i64,
    /// How often this worker has started its session again.
    pub n_revived: u64,
}

impl Worker<'_> {
    /// Makes random calls until the run is over.
    pub fn work(&mut self) {
        while !self.world.done.load(Ordering::SeqCst) {
            self.revive();
            self.step();
            std::thread::sleep(Duration::from_millis(self.dice.below(8)));
        }
    }

    /// If the worker's session was killed, starts it again, and checks that it is still the same peer.
    pub fn revive(&mut self) {
        if self.caller.revive() {
            self.n_revived += 1;
            self.world.ledger().died(&self.me.id);
            self.check_who();
        }
    }

    fn step(&mut self) {
        match self.dice.below(20) {
            0..=6 => self.send(),
            7..=10 => drop(self.read(false)),
            11 => drop(self.read(true)),
            12..=14 if self.locks => self.lock(),
            15..=16 if self.locks => self.unlock(),
            17 => self.count(),
            18 if !self.me.is_web => self.swap(),
            _ => self.check_who(),
        }
    }

    /// Makes a call, and records its outcome in the ledger.
    fn ask(&mut self, ask: &Ask) -> Got {
        let began = Instant::now();
        let got = self.caller.ask(ask);
        let waits = matches!(ask, Ask::Inbox { wait: true } | Ask::Lock { wait: true, .. });
        let lost = match &got {
            Got::Done(_) => false,
            Got::Lost => true,
            Got::Refused(word, _) => word == "gone",
        };
        let mut ledger = self.world.ledger();
        ledger.called(self.kind, began.elapsed(), waits, lost);
        if let Got::Refused(word, text) = &got {
            // Counts errors by their messages, because a message is more precise than the kind of an error. The end of
            // the message is cut off, because it may contain names of peers or files.
            let text = text.split([':', ';', '(', '.']).next().unwrap_or("");
            let plain = ["held", "not_found", "conflict"].contains(&word.as_str()) || self.me.is_web;
            let word = if plain { word } else { text };
            *ledger.refusals.entry(format!("{}: {} {word}", self.kind, ask.name())).or_default() += 1;
        }
        got
    }

    /// Checks that the worker is still the same peer.
    pub fn check_who(&mut self) {
        if let Got::Done(value) = self.ask(&Ask::Who) {
            let (id, name) = (value["you"]["id"].as_str(), value["you"]["name"].as_str());
            if id != Some(&self.me.id) || name.is_some_and(|name| name != self.me.name) {
                self.world.ledger().breach(format!("{:?} is now {}", self.me, value["you"]));
            }
        }
    }

    /// Checks that the worker gets answers again within 20 s, and that it is still the same peer.
    pub fn check_back(&mut self) {
        let began = Instant::now();
        loop {
            match self.caller.ask(&Ask::Who) {
                Got::Done(_) => return self.check_who(),
                other => assert!(began.elapsed() < Duration::from_secs(20), "{} is not back: {other:?}", self.label),
            }
        }
    }

    fn text(&mut self) -> String {
        self.n_sent += 1;
        let n_chars = match self.dice.below(40) {
            0 => 10_000 + self.dice.below(20_000),
            _ => self.dice.below(300),
        };
        let filler: String =
            (0..n_chars).map(|_| *self.dice.pick(&['a', 'b', ' ', '"', '\\', '\n', 'é', '🦀', '\u{2028}'])).collect();
        format!("{}-{}:{filler}.", self.label, self.n_sent)
    }

    fn send(&mut self) {
        let text = self.text();
        let to_all = !self.me.is_web && self.dice.below(15) == 0;
        let to = self.dice.pick(&self.world.peers).clone();
        let others = self.world.peers.iter().filter(|peer| **peer != self.me).map(|peer| peer.id.clone());
        let readers: Vec<String> = if to_all { others.collect() } else { vec![to.id.clone()] };
        self.world.ledger().sending(&readers, &text);
        let to = if to_all { "all".to_owned() } else { to.id };
        if let Got::Done(value) = self.ask(&Ask::Send { to, text: text.clone() }) {
            let rows = value["recipients"].as_array();
            let told = rows.map(|rows| rows.iter().filter_map(|row| row["id"].as_str().map(str::to_owned)).collect());
            self.world.ledger().sent(&told.unwrap_or(readers), &text);
        }
    }

    /// Reads a page of mail. Returns the number of messages on the page, or `None` if the page did not arrive.
    pub fn read(&mut self, wait: bool) -> Option<usize> {
        match self.ask(&Ask::Inbox { wait }) {
            Got::Done(value) => {
                let messages = value["messages"].as_array().cloned().unwrap_or_default();
                self.world.ledger().read(&self.me.id, &messages);
                Some(messages.len())
            }
            Got::Lost if self.me.is_web => {
                *self.world.ledger().lost_fetches.entry(self.me.id.clone()).or_default() += 1;
                None
            }
            _ => None,
        }
    }

    fn lock(&mut self) {
        let n_paths = if self.me.is_web || self.dice.below(4) > 0 { 1 } else { 2 };
        let paths: Vec<String> = (0..n_paths).map(|_| self.dice.pick(&self.world.files).clone()).collect();
        if self.kind == "verbs" && self.dice.below(3) == 0 {
            self.ask(&Ask::Run { path: paths[0].clone() });
            return;
        }
        let floor = self.world.ledger().top_token;
        let wait = self.dice.below(4) == 0;
        let got = self.ask(&Ask::Lock { paths: paths.clone(), wait });
        let mut ledger = self.world.ledger();
        match got {
            Got::Done(value) => {
                let rows = value["locks"].as_array().cloned().unwrap_or_else(|| vec![value["lock"].clone()]);
                for row in rows {
                    let path = row["filePath"].as_str().unwrap_or_default();
                    ledger.granted(&self.me.id, path, row["token"].as_i64().unwrap_or(0), floor);
                }
            }
            Got::Refused(word, _) if word != "gone" => {}
            _ => ledger.unsure.extend(paths.into_iter().map(|path| (self.me.id.clone(), path))),
        }
    }

    fn unlock(&mut self) {
        let mut ledger = self.world.ledger();
        let mine = ledger.held.iter().filter(|(_, hold)| hold.holder == self.me.id).map(|(path, _)| path.clone());
        let path = mine.min().unwrap_or_else(|| self.dice.pick(&self.world.files).clone());
        let hold = match ledger.held.get(&path).is_some_and(|hold| hold.holder == self.me.id) {
            true => ledger.held.remove(&path),
            false => None,
        };
        ledger.returns.insert((self.me.id.clone(), path.clone()));
        drop(ledger);
        match self.ask(&Ask::Unlock { path: path.clone() }) {
            Got::Done(_) => self.world.ledger().returned(&path, hold),
            Got::Refused(word, _) if word != "gone" => {}
            _ => drop(self.world.ledger().unsure.insert((self.me.id.clone(), path))),
        }
    }

    /// Writes the next number into the worker's own entry. The number in this entry must never go down.
    fn count(&mut self) {
        let key = format!("n-{}", self.label);
        self.n_set += 1;
        let (told, _) = self.world.ledger().counters.get(&key).copied().unwrap_or_default();
        self.world.ledger().counters.insert(key.clone(), (told, self.n_set));
        let set = Ask::Set { key: key.clone(), value: self.n_set.to_string(), expect: None };
        if let Got::Done(_) = self.ask(&set) {
            self.world.ledger().counters.insert(key, (self.n_set, self.n_set));
        }
        self.check_count();
    }

    /// Checks the number in the worker's own entry. The worker must have sent this number, and it must not be lower
    /// than the last acknowledged number.
    pub fn check_count(&mut self) {
        let key = format!("n-{}", self.label);
        let Some((told, asked)) = self.world.ledger().counters.get(&key).copied() else { return };
        if let Got::Done(value) = self.ask(&Ask::Get { key: key.clone() }) {
            let found = value["entry"]["value"].as_str().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
            if found < told || found > asked {
                self.world.ledger().breach(format!("{key} is {found}, told {told}, asked {asked}"));
            }
        }
    }

    /// Changes the shared entry with compare-and-set, and checks that no two writes got the same version.
    fn swap(&mut self) {
        let Got::Done(found) = self.ask(&Ask::Get { key: SHARED.into() }) else { return };
        let version = found["entry"]["version"].as_i64().unwrap_or(0);
        let set = Ask::Set { key: SHARED.into(), value: self.me.name.clone(), expect: Some(version) };
        if let Got::Done(value) = self.ask(&set) {
            let written = version_of(&value);
            let mut ledger = self.world.ledger();
            if written <= version || !ledger.versions.insert(written) {
                ledger.breach(format!("{} wrote {written} over {version}, as another did", self.me.name));
            }
        }
    }
}

fn version_of(value: &Value) -> i64 {
    value["entry"]["version"].as_i64().unwrap_or(0)
}
