//! Simulates three hubs that share a log. One hub leads, and the others apply the log's entries. Another hub takes over
//! when the leader dies, hangs, or gets no answer from the log.

use crate::engine::{Engine, Fault, MemoryLog};
use crate::world::Dice;
use rusqlite::Connection;
use serde_json::{Value, json};
use slm_mesh::base::id_types::LogId;
use slm_mesh::broker::leadership::{DatabaseLogMatch, Leader, Standby, TakeOver, TurnEnd};
use slm_mesh::core::ConnId::Client;
use slm_mesh::core::{self, Call, Effect, Mesh, MeshSettings};
use slm_mesh::store::Store;

const HUBS: usize = 3;

/// A hub that hung while another hub took over. It still believes that it leads.
struct Hung {
    hub: usize,
    mesh: Mesh,
    leader: Leader<MemoryLog>,
}

pub struct Hubs {
    engine: Engine,
    /// The names of the hubs' SQLite databases, which are in memory.
    files: Vec<String>,
    /// An open connection to each database. Without this connection, SQLite would delete the database when the hub
    /// closes it.
    _keepers: Vec<Store>,
    leads: usize,
    leader: Option<Leader<MemoryLog>>,
    hung: Option<Hung>,
}

impl Hubs {
    pub fn new(run: u64) -> Hubs {
        let files: Vec<String> = (0..HUBS).map(|hub| format!("file:/simulate-{run}-hub-{hub}?vfs=memdb")).collect();
        let open = |file: &String| Store::open(file.as_ref(), false).expect("a store");
        let keepers = files.iter().map(open).collect();
        Hubs { engine: Engine::default(), files, _keepers: keepers, leads: 0, leader: None, hung: None }
    }

    fn store(&self, hub: usize) -> Store {
        Store::open(self.files[hub].as_ref(), false).expect("a store")
    }

    /// Makes this hub the leader, even if it was also the previous leader. Returns its store.
    pub fn take_over(&mut self, hub: usize) -> Store {
        let (mut standby, mut store) = (Standby::new(self.engine.log()), self.store(hub));
        if store.log_position().expect("a position").is_none() {
            // A new database must follow the log once before its hub can lead.
            standby.follow(&mut store).expect("entries");
        }
        let taken = standby.take_over(&mut store, &format!("hub{hub}"), || LogId(7));
        let Ok(TakeOver::Leads(leader)) = taken else { panic!("hub {hub} can't lead") };
        (self.leads, self.leader) = (hub, Some(leader));
        store
    }

    /// Commits a turn of the hub that leads. Returns false if the hub finds out that it has lost the lead.
    pub fn commit(&mut self, mesh: &mut Mesh, now: i64) -> bool {
        let leader = self.leader.as_mut().expect("a leader");
        match leader.commit_turn(mesh, now) {
            TurnEnd::Committed => true,
            TurnEnd::Deposed(_) => false,
            TurnEnd::TakenBack => panic!("nothing is wrong with the disk: {:?}", mesh.take_effects()),
        }
    }

    pub fn set_fault(&self, dice: &mut Dice, is_written: bool) {
        let lost = if dice.one_in(2) { Fault::Refused } else { Fault::UnknownNotWritten };
        self.engine.set_fault(if is_written { Fault::UnknownButWritten } else { lost });
    }

    /// Stops the leader: it either dies, or hangs with an uncommitted turn. Returns the hub that takes over next.
    pub fn depose(&mut self, dice: &mut Dice, mesh: Mesh) -> usize {
        self.engine.reset();
        let leader = self.leader.take();
        if let Some(leader) = leader.filter(|_| dice.one_in(2) && self.hung.is_none()) {
            self.hung = Some(Hung { hub: self.leads, mesh, leader });
        }
        loop {
            let hub = dice.below(HUBS as u64) as usize;
            if self.hung.as_ref().is_none_or(|hung| hung.hub != hub) {
                return hub;
            }
        }
    }

    /// Makes one of the other hubs take a step. Returns a description of the step.
    pub fn stand_by(&mut self, dice: &mut Dice, now: i64) -> &'static str {
        if self.hung.is_some() && dice.one_in(10) {
            self.wake_up(now);
            return "deposed hubs that went on";
        }
        let hub = dice.below(HUBS as u64) as usize;
        if hub == self.leads || self.hung.as_ref().is_some_and(|hung| hung.hub == hub) {
            return "hubs that did not follow";
        }
        let (mut standby, mut store) = (Standby::new(self.engine.log()), self.store(hub));
        if dice.one_in(3) {
            standby.follow(&mut store).expect("entries");
            return "standbys that followed some way";
        }
        while standby.follow(&mut store).expect("entries").is_some() {}
        assert_equal(&self.files[hub], &self.files[self.leads]);
        "standbys found equal to the leader"
    }

    /// Wakes up the hub that hung. This hub then tries to commit its turn. The commit must fail, because a different
    /// hub leads now.
    fn wake_up(&mut self, now: i64) {
        let Some(Hung { mut mesh, mut leader, .. }) = self.hung.take() else { return };
        mesh.tick(now);
        let end = leader.commit_turn(&mut mesh, now);
        assert!(matches!(end, TurnEnd::Deposed(_)), "a hub that was deposed ended a turn: {end:?}");
        drop(mesh.into_store());
    }
}

/// All tables of a database with all of their rows.
fn rows(file: &str) -> Vec<(String, Vec<String>)> {
    let db = Connection::open(file).expect("a database");
    let mut tables = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").expect("tables");
    let names: Vec<String> = tables.query_map([], |row| row.get(0)).expect("tables").flatten().collect();
    let table = |name: String| {
        let mut query = db.prepare(&format!("SELECT * FROM {name}")).expect("a table");
        let n_columns = query.column_count();
        let read = |row: &rusqlite::Row<'_>| {
            let values = (0..n_columns).map(|n| format!("{:?}", row.get_ref(n)));
            Ok(values.collect::<Vec<_>>().join(" "))
        };
        let mut rows: Vec<String> = query.query_map([], read).expect("rows").flatten().collect();
        // The order of rows may differ between two databases with the same content.
        rows.sort_unstable();
        (name, rows)
    };
    names.into_iter().map(table).collect()
}

fn assert_equal(one: &str, other: &str) {
    for ((name, rows), (_, others)) in rows(one).into_iter().zip(rows(other)) {
        let differ = rows.iter().zip(&others).find(|(row, other)| row != other);
        assert!(rows == others, "{name} has {} and {} rows; first: {differ:?}", rows.len(), others.len());
    }
}

/// Starts a hub that applies the whole log and then leads. Returns its mesh and the leader's side of the log.
fn leading(engine: &Engine, file: &str) -> (Mesh, Leader<MemoryLog>) {
    let (mut standby, mut store) = (Standby::new(engine.log()), Store::open(file.as_ref(), false).expect("a store"));
    while standby.follow(&mut store).expect("entries").is_some() {}
    let Ok(TakeOver::Leads(leader)) = standby.take_over(&mut store, "hub", || LogId(7)) else { panic!() };
    let mut n = 0;
    let random = move || {
        n += 1;
        n
    };
    (Mesh::open(store, MeshSettings::default(), Box::new(random), 1000).expect("a mesh"), leader)
}

/// Sets an entry of the shared state, and commits the turn. Returns how the turn ended, and the answers.
fn set_entry(mesh: &mut Mesh, leader: &mut Leader<MemoryLog>, value: &str) -> (TurnEnd, Vec<String>) {
    run_turn(mesh, leader, &[("state.set", json!({ "key": "k", "value": value }))])
}

/// Makes these calls in one turn, and commits the turn. Returns how the turn ended, and the answers.
fn run_turn(mesh: &mut Mesh, leader: &mut Leader<MemoryLog>, calls: &[(&str, Value)]) -> (TurnEnd, Vec<String>) {
    for (name, args) in calls {
        let op = core::op(name).expect("an operation");
        let args = op.check(core::object(args.clone())).expect("good arguments");
        let (acting, shell_session, shell_agent, ancestors) = (None, None, None, Vec::new());
        mesh.call(
            Call { conn: Client(7), id: json!(1), op, args, acting, shell_session, shell_agent, ancestors },
            2000,
        );
    }
    let end = leader.commit_turn(mesh, 2000);
    let answers = mesh.take_effects().into_iter().filter_map(|effect| match effect {
        Effect::Reply { result, .. } => Some(result.map_or_else(|error| error.text, |value| value.to_string())),
        _ => None,
    });
    (end, answers.collect())
}

#[test]
fn an_engine_without_room_costs_the_turn_and_not_the_leadership() {
    let (engine, file) = (Engine::default(), "file:/simulate-full?vfs=memdb");
    let _keeper = Store::open(file.as_ref(), false).unwrap();
    let (mut mesh, mut leader) = leading(&engine, file);
    mesh.on_connected(Client(7));
    let (end, answers) = set_entry(&mut mesh, &mut leader, "1");
    assert!(end == TurnEnd::Committed && answers[0].contains("\"version\":1"), "{end:?} {answers:?}");
    engine.set_fault(Fault::Full);
    let (end, answers) = set_entry(&mut mesh, &mut leader, "2");
    assert!(end == TurnEnd::TakenBack && answers[0].contains("the engine is full"), "{end:?} {answers:?}");
    let (end, answers) = set_entry(&mut mesh, &mut leader, "3");
    assert!(end == TurnEnd::Committed && answers[0].contains("\"version\":2"), "{end:?} {answers:?}");
    // A read is answered even if its turn can't be stored, unless it has seen what the turn has written.
    engine.set_fault(Fault::Full);
    let get = ("state.get", json!({ "key": "k" }));
    let calls = [get.clone(), ("state.set", json!({ "key": "k", "value": "4" })), get];
    let (end, answers) = run_turn(&mut mesh, &mut leader, &calls);
    assert!(end == TurnEnd::TakenBack && answers[0].contains("\"value\":\"3\""), "{end:?} {answers:?}");
    assert!(answers[1..].iter().all(|answer| answer.contains("the engine is full")), "{answers:?}");
    // After a hub has stepped down, another hub can lead at once.
    drop(mesh.into_store());
    drop(leader.step_down());
    let (mesh, _leader) = leading(&engine, "file:/simulate-full-2?vfs=memdb");
    assert_eq!(mesh.store().entry("default", "k").unwrap().unwrap().value.as_deref(), Some("3"));
}

#[test]
fn an_engine_that_lost_entries_divides_no_mesh() {
    let files = ["first", "second"].map(|hub| format!("file:/simulate-restored-{hub}?vfs=memdb"));
    let _keepers = files.each_ref().map(|file| Store::open(file.as_ref(), false).unwrap());
    let engine = Engine::default();
    let stand_by = |file: &String| (Standby::new(engine.log()), Store::open(file.as_ref(), false).unwrap());
    let turns = |file: &str, values: &[&str]| {
        let (mut mesh, mut leader) = leading(&engine, file);
        mesh.on_connected(Client(7));
        for value in values {
            assert_eq!(set_entry(&mut mesh, &mut leader, value).0, TurnEnd::Committed);
        }
        drop(mesh.into_store());
        drop(leader.step_down());
    };
    turns(&files[0], &["a", "b", "c"]);
    let (mut second, mut store) = stand_by(&files[1]);
    let end = engine.end();
    engine.restore(end - 2);
    while second.follow(&mut store).unwrap().is_some() {}
    drop(store);
    // The first hub has an entry that the log has lost. This hub must never follow the log again, no matter how many
    // entries other hubs add.
    for value in ["", "x", "y", "z"] {
        let (mut standby, mut store) = stand_by(&files[0]);
        let is_refused = !matches!(standby.match_database(&store).unwrap(), DatabaseLogMatch::SameLog);
        assert!(is_refused || standby.follow(&mut store).is_err(), "after {value:?} it follows another past");
        let Err((_, error)) = standby.take_over(&mut store, "first", || LogId(8)) else { panic!("it leads") };
        assert!(error.to_string().contains("start --rejoin"), "{error}");
        assert_eq!(store.entry("default", "k").unwrap().unwrap().value.as_deref(), Some("c"), "nothing was changed");
        turns(&files[1], &[value]);
    }
    engine.restore(0);
    for file in &files {
        let (standby, mut store) = stand_by(file);
        let Err((_, error)) = standby.take_over(&mut store, "it", || LogId(8)) else { panic!("it begins a new log") };
        assert!(error.to_string().contains("start --new-log"), "{error}");
    }
}

#[test]
fn a_hub_with_data_of_its_own_adds_no_log_to_it() {
    let engine = Engine::default();
    let files = ["first", "second"].map(|hub| format!("file:/simulate-race-{hub}?vfs=memdb"));
    let _keepers = files.each_ref().map(|file| Store::open(file.as_ref(), false).unwrap());
    let mut store = Store::open(files[1].as_ref(), false).unwrap();
    // This hub finds no log. Before it tries to lead, another hub starts a log, and stops leading.
    let mut standby = Standby::new(engine.log());
    assert_eq!(standby.match_database(&store).unwrap(), DatabaseLogMatch::NoLog);
    let (mut mesh, mut leader) = leading(&engine, &files[0]);
    mesh.on_connected(Client(7));
    assert_eq!(set_entry(&mut mesh, &mut leader, "theirs").0, TurnEnd::Committed);
    drop(leader.step_down());
    let Err((_, error)) = standby.take_over(&mut store, "second", || LogId(8)) else { panic!("two meshes mix") };
    assert!(error.to_string().contains("another hub has just begun the log"), "{error}");
    assert_eq!(store.entry("default", "k").unwrap(), None);
}
