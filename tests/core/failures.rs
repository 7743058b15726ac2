//! Tests what happens if a session vanishes while it waits, if the disk refuses writes for a moment, or if an operation
//! has a bug.

use crate::script::check;
use serde_json::{Value, json};
use slm_mesh::base::error::Error;
use slm_mesh::core::ConnId::Client;
use slm_mesh::core::op_behavior::OpBehavior;
use slm_mesh::core::op_definition::Runner;
use slm_mesh::core::{self, Call, Effect, FormerHost, Mesh, MeshSettings, Op};
use slm_mesh::store::Store;

#[test]
fn whoever_left_while_it_waited_is_never_granted_the_lock() {
    check(
        "
        a joins
        b joins
        c joins
        a lock.lock filePath=/p/x -> ok
        b lock.lock filePath=/p/x waitSeconds=600 ttlMinutes=60 -> waits
        b detach -> ok
        ! b -> refused
        a lock.unlock filePath=/p/x -> ok
        c lock.lock filePath=/p/x -> ok
        ",
    );
}

#[test]
fn a_wait_that_ends_as_the_lock_falls_gets_it() {
    check(
        "
        a joins
        b joins
        a lock.lock filePath=/p/x ttlMinutes=1 -> ok
        b lock.lock filePath=/p/x waitSeconds=60 -> waits
        +60s
        ! b -> '\"token\":2'
        ",
    );
}

#[test]
fn a_cycle_of_waits_across_work_trees_is_refused() {
    check(
        "
        a joins
        b@q joins
        a lock.lock filePath=/p/1 scope=repo -> ok
        b@q lock.lock filePath=/q/2 scope=repo -> ok
        a lock.lock filePath=/p/2 waitSeconds=60 -> waits
        b@q lock.lock filePath=/q/1 waitSeconds=60 -> refused
        ",
    );
}

#[test]
fn a_cursor_from_another_stream_is_told_of_its_gap() {
    check(
        "
        a joins
        a events.read after=9223372036854775807 waitSeconds=60 -> ok gap=true
        ",
    );
}

/// A mesh with its store in a file. Another connection can lock this file.
pub struct Disk {
    pub mesh: Mesh,
    path: std::path::PathBuf,
    links: Vec<String>,
    pub now: i64,
    id: u64,
}

impl Disk {
    pub fn new(name: &str) -> Disk {
        let path = std::env::temp_dir().join(format!("slm-mesh-{name}-{}.db", std::process::id()));
        Disk::open(path, Vec::new(), 1_795_000_000_000)
    }

    /// A mesh that is linked to other meshes.
    pub fn linked(name: &str, links: &[&str]) -> Disk {
        let path = std::env::temp_dir().join(format!("slm-mesh-{name}-{}.db", std::process::id()));
        Disk::open(path, links.iter().map(|url| (*url).to_owned()).collect(), 1_795_000_000_000)
    }

    /// Kills the broker, and starts a new one. `lives` returns whether the process of an earlier session is still
    /// running.
    pub fn crash(mut self, lives: fn(i64) -> bool) -> Disk {
        let mut next = Disk::open(std::mem::take(&mut self.path), std::mem::take(&mut self.links), self.now);
        next.mesh.set_process_probe(Box::new(lives));
        next
    }

    /// Ends the broker, gives this machine a new name, and starts a new broker.
    pub fn rename_machine(mut self, former: &str, host: &str) -> Disk {
        let former_host = Some(FormerHost { name: former.into(), start_shift: 0 });
        let settings = MeshSettings { host: host.into(), former_host, ..MeshSettings::default() };
        Disk::open_with(std::mem::take(&mut self.path), settings, self.now)
    }

    fn open(path: std::path::PathBuf, links: Vec<String>, now: i64) -> Disk {
        Disk::open_with(path, MeshSettings { links, ..MeshSettings::default() }, now)
    }

    fn open_with(path: std::path::PathBuf, settings: MeshSettings, now: i64) -> Disk {
        let links = settings.links.clone();
        // The ids depend on the path, so two meshes never have the same ids.
        let mut n =
            path.as_os_str().as_encoded_bytes().iter().fold(7u128, |n, byte| (n * 31 + u128::from(*byte)) & (!0 >> 8));
        let fresh = move || {
            n = n.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(12_345);
            n
        };
        let mesh = Mesh::open(Store::open(&path, false).unwrap(), settings, Box::new(fresh), now).unwrap();
        Disk { mesh, path, links, now, id: 0 }
    }

    pub fn call(&mut self, conn: u64, op: &'static Op, args: Value) -> Result<Value, Error> {
        self.call_as(conn, None, op, args)
    }

    pub fn call_as(&mut self, conn: u64, acting: Option<&str>, op: &'static Op, args: Value) -> Result<Value, Error> {
        self.id += 1;
        let args = op.check(core::object(args)).unwrap();
        self.mesh.call(
            Call {
                conn: Client(conn),
                id: json!(self.id),
                op,
                args,
                acting: acting.map(str::to_owned),
                shell_session: None,
                shell_agent: None,
                ancestors: Vec::new(),
            },
            self.now,
        );
        self.mesh.commit();
        let id = json!(self.id);
        let reply = |out| match out {
            Effect::Reply { id: of, result, .. } if of == id => Some(result),
            _ => None,
        };
        self.mesh.take_effects().into_iter().find_map(reply).expect("an answer")
    }

    fn join(&mut self, conn: u64, name: &str) {
        self.mesh.on_connected(Client(conn));
        let who = json!({ "agent": "test", "project": "/p", "pid": 5, "name": name, "session": name });
        self.call(conn, &core::peers::sessions::ATTACH, who).unwrap();
    }

    fn lock(&mut self, conn: u64) -> Result<Value, Error> {
        self.call(conn, &core::locks::LOCK, json!({ "filePath": "/p/x", "ttlMinutes": 60 }))
    }

    /// Runs `during` while the mesh can't write, because another connection has locked the database.
    fn refusing(&mut self, during: impl FnOnce(&mut Disk)) {
        let other = rusqlite::Connection::open(&self.path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        during(self);
        other.execute_batch("ROLLBACK").unwrap();
    }

    pub fn pass(&mut self, ms: i64) {
        self.now += ms;
        self.mesh.tick(self.now);
        self.mesh.commit();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // After [`Disk::crash`], the files belong to the new mesh, so they are not removed.
        if self.path.as_os_str().is_empty() {
            return;
        }
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.path.display()));
        }
        let _ = std::fs::remove_file(self.path.with_extension("numbers"));
    }
}

#[test]
fn a_lock_of_a_session_that_is_gone_falls_though_the_disk_refused_at_that_moment() {
    let mut disk = Disk::new("grace");
    disk.join(1, "a");
    disk.join(2, "b");
    disk.lock(1).unwrap();
    disk.mesh.on_disconnected(Client(1), disk.now);
    assert!(disk.mesh.commit());
    disk.refusing(|disk| disk.pass(5_000));
    disk.lock(2).unwrap_err();
    // The broker pauses before it tries to write again. After this pause, the session gets at most one more grace
    // period. When this period has ended, the session's lock must be released.
    for _ in 0..7 {
        disk.pass(1_000);
    }
    disk.lock(2).unwrap();
}

#[test]
fn a_refusing_disk_is_left_in_peace_for_a_while() {
    let mut disk = Disk::new("rest");
    disk.join(1, "a");
    disk.call(1, &core::locks::LOCK, json!({ "filePath": "/p/x", "ttlMinutes": 1 })).unwrap();
    disk.refusing(|disk| disk.pass(60_000));
    let due = disk.mesh.deadline().unwrap();
    assert!(due >= disk.now + 1_000, "the loop comes back after {} ms", due - disk.now);
    disk.pass(1_000);
    assert!(disk.mesh.locks().all().next().is_none());
}

fn set(disk: &mut Disk, key: &str, value: &str) {
    // The pause between calls keeps them within the rate limit.
    disk.now += 100;
    disk.call(1, &core::shared_key_value_entries::SET, json!({ "key": key, "value": value })).unwrap();
}

/// The number of events that contain this text.
fn shown(disk: &Disk, text: &str) -> i64 {
    let db = rusqlite::Connection::open(&disk.path).unwrap();
    let sql = "SELECT count(*) FROM event WHERE payload LIKE '%' || ?1 || '%'";
    db.query_row(sql, [text], |row| row.get(0)).unwrap()
}

#[test]
fn every_value_of_a_deleted_entry_leaves_the_events_even_if_the_key_is_set_again_at_once() {
    let mut disk = Disk::new("again");
    disk.join(1, "a");
    disk.pass(1);
    for n in 0..4_100 {
        set(&mut disk, "token", &format!("secret-{n}"));
    }
    disk.call(1, &core::shared_key_value_entries::DELETE, json!({ "key": "token" })).unwrap();
    set(&mut disk, "token", "new-1");
    set(&mut disk, "token", "new-2");
    assert!(
        (1..=100).contains(&shown(&disk, "secret-")),
        "one call removes a limited number: {}",
        shown(&disk, "secret-")
    );
    // The other values are removed within three seconds. They do not wait for the removal of old rows, which happens
    // only every ten minutes.
    for _ in 0..3 {
        disk.pass(1_000);
    }
    assert_eq!((shown(&disk, "secret-"), shown(&disk, "new-")), (0, 2));
    let entry = disk.call(1, &core::shared_key_value_entries::GET, json!({ "key": "token" })).unwrap();
    assert_eq!(entry["entry"]["version"], 4_103, "{entry}");
    disk.call(1, &core::shared_key_value_entries::DELETE, json!({ "key": "token" })).unwrap();
    assert_eq!(shown(&disk, "new-"), 0);
}

#[test]
fn every_value_of_a_deleted_entry_leaves_the_events_even_if_the_broker_dies_first() {
    let mut disk = Disk::new("values");
    disk.join(1, "a");
    for n in 0..4_100 {
        set(&mut disk, "token", &format!("secret-{n}"));
    }
    set(&mut disk, "port", "kept");
    assert_eq!(shown(&disk, "secret-"), 4_100);
    disk.call(1, &core::shared_key_value_entries::DELETE, json!({ "key": "token" })).unwrap();
    assert!(shown(&disk, "secret-") <= 2_100, "the newest values are gone at once");
    let mut disk = disk.crash(|_| false);
    for _ in 0..5 {
        disk.pass(1_000);
    }
    assert_eq!((shown(&disk, "secret-"), shown(&disk, "kept")), (0, 1));
}

/// An operation that writes, and then panics.
static BUG: Op = Op {
    name: "bug",
    summary: "",
    args: &[],
    actor: core::Auth::Required,
    verb: None,
    tool: None,
    repeatable: true,
    behavior: OpBehavior::USUAL,
    run: Runner::Rule(|mesh, ctx, _| {
        let set = &core::shared_key_value_entries::SET;
        set.rule()?(mesh, ctx, &set.check(core::object(json!({ "key": "k", "value": "v" })))?)?;
        panic!("a bug, on purpose")
    }),
};

#[test]
fn a_bug_in_a_rule_costs_its_call_and_nothing_else() {
    let mut disk = Disk::new("bug");
    disk.join(1, "a");
    disk.join(2, "b");
    disk.call(2, &core::event_journal::SUBSCRIBE, json!({ "types": ["*"] })).unwrap();
    let error = disk.call(1, &BUG, json!({})).unwrap_err();
    assert!(error.text.contains("a bug in slm-mesh"), "{error}");
    let status = disk.call(1, &core::shared_key_value_entries::GET, json!({ "key": "k" })).unwrap();
    assert_eq!(status["entry"], Value::Null, "{status}");
    disk.call(1, &core::mail::SEND, json!({ "to": "b", "message": "still here" })).unwrap();
}

#[test]
fn a_session_that_is_silent_for_a_while_keeps_its_name_and_its_locks_to_itself() {
    let mut disk = Disk::new("silent");
    let who = json!({ "agent": "test", "project": "/p", "pid": 5 });
    disk.mesh.on_connected(Client(1));
    let a = disk.call(1, &core::peers::sessions::ATTACH, who.clone()).unwrap()["you"].clone();
    disk.mesh.set_unresponsive(Client(1), true, disk.now);
    disk.mesh.on_connected(Client(2));
    let b = disk.call(2, &core::peers::sessions::ATTACH, who).unwrap()["you"].clone();
    assert_ne!(a["id"], b["id"], "two sessions are two peers");
}

#[test]
fn after_a_crash_a_live_session_finds_its_name_though_another_was_quicker() {
    let mut disk = Disk::new("quick");
    let who = |pid: i64| json!({ "agent": "test", "project": "/p", "pid": pid });
    disk.mesh.on_connected(Client(1));
    let a = disk.call(1, &core::peers::sessions::ATTACH, who(5)).unwrap()["you"].clone();
    disk = disk.crash(|pid| pid == 5);
    disk.mesh.on_connected(Client(1));
    let b = disk.call(1, &core::peers::sessions::ATTACH, who(6)).unwrap()["you"].clone();
    assert_ne!(a["id"], b["id"], "the process behind it lives, and is about to come back");
    disk = disk.crash(|_| false);
    disk.mesh.on_connected(Client(1));
    let c = disk.call(1, &core::peers::sessions::ATTACH, who(7)).unwrap()["you"].clone();
    let former = [&a["name"], &b["name"]];
    assert!(
        !former.contains(&&c["id"]),
        "{a} {b} {c}: either of two sessions that ended may be meant, so neither is guessed"
    );
}

#[test]
fn after_a_crash_the_successor_of_a_dead_session_has_its_name_and_mail() {
    let mut disk = Disk::new("successor");
    let who = |pid: i64| json!({ "agent": "test", "project": "/p", "pid": pid });
    disk.mesh.on_connected(Client(1));
    let a = disk.call(1, &core::peers::sessions::ATTACH, who(5)).unwrap()["you"].clone();
    disk = disk.crash(|_| false);
    disk.mesh.on_connected(Client(1));
    let b = disk.call(1, &core::peers::sessions::ATTACH, who(7)).unwrap()["you"].clone();
    assert_eq!(a["id"], b["id"]);
}
