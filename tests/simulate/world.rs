//! The surroundings of a simulated mesh: its store, clocks, connections and clients.

use crate::ask::Ask;
use crate::hubs::Hubs;
use crate::model::{DEAD_MS, Model, NAMES, STALE_MS, WEB, Who};
use serde_json::{Value, json};
use slm_mesh::core::ConnId::Client;
use slm_mesh::core::{self, Call, Effect, Mesh, MeshSettings};
use slm_mesh::store::Store;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of trace lines that a failure prints. They cover about twenty steps.
const TRACE: usize = 50;
const HOUR: i64 = 3_600_000;

/// The random number generator xorshift64*. It returns the same numbers on every machine.
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    pub fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize].clone()
    }
}

/// The wall time and the time since boot. The broker computes the present time from both. Only the wall time can jump.
#[derive(Debug)]
struct Clock {
    wall: i64,
    boot: i64,
    base: i64,
    started: i64,
}

impl Clock {
    fn now(&self) -> i64 {
        self.base + self.boot - self.started
    }
    fn start(&mut self, floor: i64) {
        (self.base, self.started) = (self.wall.max(floor), self.boot);
    }
}

/// The client's side of a simulated session.
#[derive(Debug, Clone, Default)]
pub struct Agent {
    pub conns: Vec<u64>,
    /// Whether the session hangs. If so, it answers no heartbeats, and the broker counts it as away.
    pub mute: bool,
    /// The arguments of a `send` call that got no answer. The session may make this call again.
    pub retry: Option<Value>,
    /// The ids of messages that the session has not yet reported as shown.
    pub show: Vec<String>,
    /// The ids of messages to which the session could reply.
    pub messages: Vec<String>,
}

/// A simulated `lock FILE -- COMMAND` call that is running.
#[derive(Debug, Clone)]
pub struct Command {
    pub conn: u64,
    pub who: Who,
    pub path: &'static str,
    pub key: String,
}

/// Where a run keeps the data of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    Memory,
    File,
    /// In the databases of three hubs, which are in memory.
    Hubs,
}

pub struct World {
    mesh: Option<Mesh>,
    hubs: Option<Hubs>,
    /// The index of the hub that leads after the next restart.
    next_hub: usize,
    /// A second connection to the database in memory. SQLite deletes such a database when its last connection is
    /// closed, so this connection keeps the data while the broker restarts.
    keeper: Option<Store>,
    dir: PathBuf,
    on_file: bool,
    n_stores: u64,
    clock: Clock,
    seed: u64,
    pub dice: Dice,
    pub next: u64,
    pub model: Model,
    pub agents: Vec<Agent>,
    pub commands: Vec<Command>,
    /// The connections of verbs (subcommands). Each of them ends when the verb has its answer.
    pub verbs: BTreeSet<u64>,
    pub pending: BTreeMap<u64, Ask>,
    pub subscribed: BTreeMap<u64, Vec<String>>,
    pub watcher: u64,
    pub trace: VecDeque<String>,
    n_lines: usize,
    pub hash: u64,
    pub step: u64,
    pub counts: BTreeMap<&'static str, u64>,
}

impl World {
    pub fn new(seed: u64, disk: Disk) -> World {
        let on_file = disk == Disk::File;
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let dir = if on_file {
            let dir = std::env::temp_dir().join(format!("slm-mesh-simulate-{}-{run}", std::process::id()));
            std::fs::create_dir_all(&dir).expect("a directory for the store");
            dir
        } else {
            // The name of an SQLite database in memory. Several connections to this database can be open.
            PathBuf::from(format!("file:/simulate-{run}?vfs=memdb"))
        };
        let clock = Clock { wall: 1_795_000_000_000, boot: 5_000_000, base: 0, started: 0 };
        let mut world = World {
            mesh: None,
            hubs: (disk == Disk::Hubs).then(|| Hubs::new(run)),
            next_hub: 0,
            keeper: None,
            dir,
            on_file,
            n_stores: 0,
            clock,
            seed,
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            next: 100,
            model: Model::new(0),
            agents: vec![Agent::default(); NAMES.len()],
            commands: Vec::new(),
            verbs: BTreeSet::new(),
            pending: BTreeMap::new(),
            subscribed: BTreeMap::new(),
            watcher: 0,
            trace: VecDeque::new(),
            n_lines: crate::setting("SLM_MESH_SIM_TRACE").map_or(TRACE, |n| n as usize),
            hash: 0xcbf2_9ce4_8422_2325,
            step: 0,
            counts: BTreeMap::new(),
        };
        if !on_file {
            world.keeper = Some(Store::open(&world.dir, false).expect("a store"));
        }
        let store = world.open_store();
        world.start(store);
        world
    }

    pub fn mesh(&mut self) -> &mut Mesh {
        self.mesh.as_mut().expect("the broker runs")
    }

    pub fn now(&self) -> i64 {
        self.clock.now()
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_insert(0) += 1;
    }

    /// Adds a line to the trace and to the hash of the run.
    pub fn note(&mut self, line: String) {
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let (step, now) = (self.step, self.model.now);
        self.trace.push_back(format!("{step:>8} {now} {line}"));
        if self.trace.len() > self.n_lines {
            self.trace.pop_front();
        }
    }

    fn file(&self) -> PathBuf {
        if self.on_file { self.dir.join(format!("{}.db", self.n_stores)) } else { self.dir.clone() }
    }

    /// Opens the mesh's store. If there are several hubs, makes the next hub the leader, and returns its store.
    fn open_store(&mut self) -> Store {
        match &mut self.hubs {
            Some(hubs) => hubs.take_over(self.next_hub),
            None => Store::open(&self.file(), false).expect("a store"),
        }
    }

    /// Commits the current turn. Returns false if the commit failed. In this case, no answer may be sent.
    pub fn commit(&mut self) -> bool {
        let now = self.now();
        let mesh = self.mesh.as_mut().expect("the broker runs");
        match &mut self.hubs {
            Some(hubs) => hubs.commit(mesh, now),
            None => mesh.commit(),
        }
    }

    /// Now and then, makes one of the standby hubs take a step.
    pub fn stand_by(&mut self) {
        let now = self.now();
        if let Some(hubs) = self.hubs.as_mut().filter(|_| self.dice.one_in(20)) {
            let what = hubs.stand_by(&mut self.dice, now);
            self.count(what);
        }
    }

    /// Starts a simulated broker with this store.
    fn start(&mut self, store: Store) {
        self.clock.start(store.last_time().expect("a time"));
        let now = self.now();
        let settings = MeshSettings {
            stale_ms: STALE_MS,
            dead_ms: DEAD_MS,
            rate_max: 1_000_000,
            user: NAMES[crate::model::HUMAN].into(),
            ..MeshSettings::default()
        };
        self.next += 1;
        let mut dice = Dice(self.seed.wrapping_add(self.next).wrapping_mul(77) | 1);
        let fresh = move || (0..4).fold(0, |bits, _| bits << 32 | u128::from(dice.below(1 << 32)));
        self.mesh = Some(Mesh::open(store, settings, Box::new(fresh), now).expect("a mesh"));
        assert!(self.commit());
        self.model.now = now;
        self.watch();
    }

    /// Connects the watcher, which subscribes to all events. After a crash, the watcher first reads the events that it
    /// has missed.
    fn watch(&mut self) {
        self.next += 1;
        self.watcher = self.next;
        let conn = self.watcher;
        self.mesh().on_connected(Client(conn));
        let stands = self.raw("events.subscribe", json!({ "types": ["*"] }))["seq"].as_i64().expect("a number");
        let last = self.model.stream.last();
        assert!(stands >= last, "event {last} was pushed, and the stream ends at {stands}");
        while self.model.stream.last() < stands {
            let after = self.model.stream.last();
            let value = self.raw("events.read", json!({ "after": after, "limit": 200 }));
            let now = self.model.now;
            let rows = value["events"].as_array().expect("events");
            assert!(!rows.is_empty(), "events after {after} are lost: {value}");
            rows.iter().for_each(|row| self.model.stream.push(row, now));
        }
        // The last events that the watcher saw before the crash must still be in the store.
        let tail = (last - 10).max(0);
        let value = self.raw("events.read", json!({ "after": tail, "limit": 200 }));
        self.model.stream.read(tail, &[], &value, self.model.now);
        self.model.end_turn(std::iter::empty());
    }

    fn raw(&mut self, op: &str, args: Value) -> Value {
        let (conn, now) = (self.watcher, self.now());
        let op = core::op(op).expect("an operation");
        let args = op.check(core::object(args)).expect("good arguments");
        let call = Call {
            conn: Client(conn),
            id: json!(0),
            op,
            args,
            acting: None,
            shell_session: None,
            shell_agent: None,
            ancestors: Vec::new(),
        };
        self.mesh().call(call, now);
        assert!(self.commit());
        let reply = self.mesh().take_effects().into_iter().find_map(|out| match out {
            Effect::Reply { result, .. } => result.ok(),
            _ => None,
        });
        reply.expect("an answer")
    }

    pub fn connect(&mut self) -> u64 {
        self.next += 1;
        let conn = self.next;
        self.mesh().on_connected(Client(conn));
        conn
    }

    pub fn ask(&mut self, conn: u64, who: Who, op: &'static str, args: Value) -> Ask {
        self.next += 1;
        let wait = args["waitSeconds"].as_i64().filter(|seconds| *seconds > 0);
        let until = wait.map(|seconds| self.now() + seconds * 1000);
        let is_verb = !WEB.contains(&who) && !self.agents[who].conns.contains(&conn);
        Ask { id: self.next, conn, who, op, args, is_verb, until }
    }

    /// Ends a connection. The broker learns of this in a separate turn.
    pub fn hang_up(&mut self, conn: u64) {
        self.note(format!("connection {conn} is gone"));
        self.count("connections lost");
        self.pending.retain(|_, ask| ask.conn != conn);
        self.subscribed.remove(&conn);
        self.verbs.remove(&conn);
        if let Some(at) = self.commands.iter().position(|command| command.conn == conn) {
            let command = self.commands.remove(at);
            self.model.locks.command_ended(&command.key);
        }
        for who in 0..NAMES.len() {
            let n_before = self.agents[who].conns.len();
            self.agents[who].conns.retain(|other| *other != conn);
            if self.agents[who].conns.len() < n_before {
                if !self.agents[who].mute {
                    self.model.rise(who, false);
                }
                self.agents[who].mute = false;
            }
        }
        let now = self.now();
        self.mesh().on_disconnected(Client(conn), now);
        self.end_turn(None);
    }

    /// Makes a session hang if `mute` is true. Otherwise, makes the session continue.
    pub fn mute(&mut self, who: Who, mute: bool) {
        let [conn] = self.agents[who].conns[..] else { return };
        self.agents[who].mute = mute;
        self.note(format!("{} hangs: {mute}", NAMES[who]));
        self.count("sessions that hang, or answer again");
        if mute {
            self.model.rise(who, false);
        } else {
            self.model.sit(who);
        }
        let now = self.now();
        self.mesh().set_unresponsive(Client(conn), mute, now);
        self.end_turn(None);
    }

    pub fn cancel(&mut self, id: u64) {
        let Some(ask) = self.pending.remove(&id) else { return };
        self.note(format!("{} cancels #{id}", NAMES[ask.who]));
        self.count("waits cancelled");
        let now = self.now();
        self.mesh().cancel(Client(ask.conn), &json!(id), now);
        self.end_turn(None);
    }

    /// Lets time pass. Usually, the broker wakes at each deadline; sometimes it wakes late, as if the machine had
    /// slept.
    pub fn pass(&mut self, ms: i64) {
        let until = self.clock.boot + ms;
        let late = self.dice.one_in(6);
        self.note(format!("{ms} ms pass, late {late}"));
        for _ in 0..10_000 {
            let now = self.now();
            let next = self.mesh().deadline().map(|at| self.clock.boot + (at - now).max(0));
            let next = next.filter(|at| !late && *at <= until).unwrap_or(until);
            self.clock.wall += next - self.clock.boot;
            self.clock.boot = next;
            let now = self.now();
            self.model.pass(now);
            self.mesh().tick(now);
            self.end_turn(None);
            if next == until {
                return;
            }
        }
        panic!("the mesh is due again and again, and time does not pass");
    }

    /// Sets the clock forward or back. Only the next broker uses the new time; a running broker does not notice.
    pub fn set_clock(&mut self) {
        let jump = self.dice.pick(&[-HOUR, HOUR, -60_000, 60_000, -24 * HOUR, 20 * HOUR]);
        self.clock.wall += jump;
        self.note(format!("the clock is set by {jump} ms"));
        self.count(if jump < 0 { "clocks set back" } else { "clocks set ahead" });
    }

    /// Kills the broker and starts a new one. There are three cases. The broker dies between two turns. It dies in a
    /// turn, before the commit. Or it dies after a turn's commit, but before the turn's answers are sent.
    pub fn crash(&mut self, asks: Vec<Ask>, commits: bool) {
        self.note(format!("crash, with {} calls, committed {commits}", asks.len()));
        self.count(match (asks.is_empty(), commits) {
            (true, _) => "crashes between turns",
            (false, false) => "crashes before the commit",
            (false, true) => "crashes after the commit, before the flush",
        });
        for ask in asks {
            self.hand_over(&ask);
            self.pending.insert(ask.id, ask);
        }
        self.set_fault(commits);
        if commits {
            if !self.commit() {
                self.count("turns that only the log has");
            }
            for out in self.mesh().take_effects() {
                let Effect::Reply { id, .. } = out else { continue };
                if let Some(ask) = id.as_u64().and_then(|id| self.pending.remove(&id)) {
                    self.lose(&ask);
                }
            }
            self.model.forget_turn();
        }
        let again = self.pending.values().filter(|ask| ask.op == "send" && ask.args["key"].is_string());
        for ask in again.cloned().collect::<Vec<_>>() {
            self.agents[ask.who].retry = Some(ask.args);
        }
        self.pending.clear();
        self.kill();
        let down = self.dice.pick(&[0, 100, 3_000, 20_000]);
        self.clock.wall += down;
        self.clock.boot += down;
        let commands = std::mem::take(&mut self.commands);
        for agent in &mut self.agents {
            (agent.conns, agent.mute, agent.show) = (Vec::new(), false, Vec::new());
        }
        self.verbs.clear();
        self.subscribed.clear();
        // In its first turn, the new broker notices which leases and messages expired while no broker ran.
        let store = self.open_store();
        self.clock.start(store.last_time().expect("a time"));
        self.model.now = self.now();
        self.model.crash();
        self.start(store);
        self.pass(0);
        self.come_back(commands);
    }

    /// Sometimes prepares a fault of the log for the next crash. After the crash, the log has the turn if `is_written`
    /// is true, and lacks it if not.
    fn set_fault(&mut self, is_written: bool) {
        let Some(hubs) = self.hubs.as_ref().filter(|_| self.dice.one_in(2)) else { return };
        hubs.set_fault(&mut self.dice, is_written);
        if !is_written && !self.commit() {
            self.count("turns that the log does not have");
        }
    }

    /// Ends the broker as `kill -9` would. All uncommitted changes are lost.
    fn kill(&mut self) {
        if let (Some(hubs), Some(mesh)) = (&mut self.hubs, self.mesh.take()) {
            self.next_hub = hubs.depose(&mut self.dice, mesh);
        }
        if self.on_file {
            let old = self.file();
            self.n_stores += 1;
            let new = self.file();
            for suffix in ["", "-wal"] {
                let name = |path: &PathBuf| format!("{}{suffix}", path.display());
                if std::fs::exists(name(&old)).expect("a look at the disk") {
                    std::fs::copy(name(&old), name(&new)).expect("a copy");
                }
            }
            self.mesh = None;
            for suffix in ["", "-wal", "-shm"] {
                // Some of these files may not exist, because SQLite removes them when a database is closed.
                let _ = std::fs::remove_file(format!("{}{suffix}", old.display()));
            }
        }
        self.mesh = None;
    }

    fn come_back(&mut self, commands: Vec<Command>) {
        for who in 0..WEB.start {
            if who != crate::model::HUMAN && self.dice.below(3) > 0 {
                self.attach(who);
            }
        }
        for command in commands {
            if self.dice.below(3) > 0 {
                self.run(Command { conn: 0, ..command });
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.mesh = None;
        if self.on_file {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
