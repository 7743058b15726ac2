//! Makes random calls to a mesh in memory. The calls use the operations of the socket and the routes of the old HTTP
//! API.
//!
//! No call may panic. A call may fail only because of the caller's own mistake, and must then leave the store
//! unchanged. The mesh's data in memory must match the store.

use crate::choices::Choices;
use serde_json::{Map, Value, json};
use slm_mesh::base::error::ErrorKind;
use slm_mesh::base::process_identity::{AgentProgram, Process};
use slm_mesh::broker::http::{Head, Request};
use slm_mesh::broker::legacy_http;
use slm_mesh::core::ConnId::Client;
use slm_mesh::core::op_definition::ArgKind;
use slm_mesh::core::{self, Arg, Call, Effect, Mesh, MeshSettings, OPS, Op};
use slm_mesh::store::{EventFilter, LockRow, MessageFilter, Store};
use slm_mesh::wire::line_splitter::LINE_MAX;
use slm_mesh::wire::rpc;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

const TEXTS: &[&str] = &[
    "ann",
    "bob",
    "cid",
    "human",
    "cli",
    "all",
    "repo",
    "directory",
    "agent:test",
    "/p",
    "/p/a",
    "/p/dir/",
    "/p/**",
    "/p/*.rs",
    "/p/dir/x",
    "/",
    "",
    "default",
    "k",
    "k2",
    "*",
    "a.b",
    "file_locked",
    "text",
    "turn",
    "key-ann",
    "test",
];
const CONNS: u64 = 4;
const STEPS_MAX: usize = 40;
const ROUTES: &[&str] = &[
    "/register",
    "/unregister",
    "/heartbeat",
    "/peers",
    "/summary",
    "/send",
    "/messages",
    "/state",
    "/lock",
    "/events",
];
const FIELDS: &[&str] = &[
    "projectPath",
    "pid",
    "agentType",
    "name",
    "peerId",
    "fromPeer",
    "toPeer",
    "payload",
    "type",
    "summary",
    "action",
    "key",
    "value",
    "namespace",
    "filePath",
    "ttlMinutes",
    "reason",
    "types",
    "since",
    "limit",
    "filter",
    "scope",
    "excludeId",
    "udsPath",
    "gitRoot",
];
const ACTIONS: &[&str] =
    &["get", "set", "list", "delete", "lock", "unlock", "query", "read", "subscribe", "unsubscribe"];

struct World {
    mesh: Mesh,
    now: i64,
    next: i64,
    /// The ids of peers and messages that the mesh has returned.
    ids: Vec<String>,
    /// The namespaces of shared state that calls have used.
    spaces: BTreeSet<String>,
}

/// Runs random steps, and checks the mesh after each step. The first byte of a step chooses its kind.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let mut world = World::new();
    for _ in 0..STEPS_MAX {
        if choices.is_empty() {
            break;
        }
        world.step(&mut choices);
        world.check();
    }
}

impl World {
    fn new() -> World {
        let now = 1_795_000_000_000;
        let settings = MeshSettings::default();
        let mut n = 7_u128;
        let fresh = move || {
            n = n.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(12_345);
            n
        };
        let store = Store::memory().expect("a store in memory");
        let mesh = Mesh::open(store, settings, Box::new(fresh), now).expect("a mesh over it");
        World { mesh, now, next: 0, ids: Vec::new(), spaces: ["default".to_owned()].into() }
    }

    fn step(&mut self, choices: &mut Choices) {
        match choices.below(16) {
            0 => {
                let conn = choices.below(CONNS as usize) as u64 + 1;
                self.mesh.on_connected(Client(conn));
                let args = json!({ "agent": "test", "project": "/p", "pid": 1, "name": TEXTS[choices.below(3)] });
                self.call(choices, conn, core::op("attach").expect("attach is an operation"), core::object(args));
            }
            1 => self.mesh.on_disconnected(Client(choices.below(CONNS as usize) as u64 + 1), self.now),
            2 => self.pass(1 << choices.below(36)),
            3 => self.mesh.set_unresponsive(
                Client(choices.below(CONNS as usize) as u64 + 1),
                choices.below(2) == 0,
                self.now,
            ),
            4 => self.mesh.cancel(Client(choices.below(CONNS as usize) as u64 + 1), &json!(self.next), self.now),
            5..8 => self.ask_route(choices),
            _ => {
                let rules: Vec<&Op> = OPS.iter().copied().filter(|op| op.rule().is_ok()).collect();
                let op = rules[choices.below(rules.len())];
                let conn = choices.below(CONNS as usize + 1) as u64;
                let args = self.arguments(choices, op);
                self.call(choices, conn, op, args);
            }
        }
        assert!(self.mesh.commit(), "a turn that can't be stored");
        for out in self.mesh.take_effects() {
            match out {
                Effect::Reply { result, .. } => self.learn(&result),
                Effect::Log(error) => panic!("trouble: {error}"),
                _ => {}
            }
        }
    }

    fn call(&mut self, choices: &mut Choices, conn: u64, op: &'static Op, args: Map<String, Value>) {
        let Ok(args) = op.check(args) else { return };
        self.next += 1;
        let acting = (choices.below(4) == 0).then(|| self.name(choices));
        let process = |choices: &mut Choices| Process {
            pid: 1 + choices.below(3) as i64,
            start: 5,
            wrapper: choices.below(4) == 0,
            agent: (choices.below(3) == 0).then_some(AgentProgram { kind: "aider", short_name: "aider" }),
        };
        let chain = (0..choices.below(3)).map(|_| process(choices)).collect();
        let before = dump(&self.mesh, &self.spaces);
        let n_before = self.mesh.take_effects().len();
        assert_eq!(n_before, 0, "something left between two turns");
        self.mesh.call(
            Call {
                conn: Client(conn),
                id: json!(self.next),
                op,
                args,
                acting,
                shell_session: None,
                shell_agent: None,
                ancestors: chain,
            },
            self.now,
        );
        let outs = self.mesh.take_effects();
        let id = json!(self.next);
        let own = outs.iter().find_map(|out| match out {
            Effect::Reply { id: asked, result, .. } if *asked == id => Some(result),
            _ => None,
        });
        if let Some(Err(error)) = own {
            check_fault(op.name, error);
            assert_eq!(
                dump(&self.mesh, &self.spaces),
                before,
                "{} was refused ({error:?}), and left something",
                op.name
            );
        }
        outs.iter().for_each(|out| {
            if let Effect::Reply { result, .. } = out {
                self.learn(result)
            }
        });
    }

    fn ask_route(&mut self, choices: &mut Choices) {
        let mut body = Map::new();
        let target = choices.pick(ROUTES);
        for _ in 0..choices.below(8) {
            let field = choices.pick(FIELDS);
            let value = match field {
                _ if choices.below(6) == 0 => choices.value(2),
                "action" => json!(choices.pick(ACTIONS)),
                "pid" | "limit" | "ttlMinutes" => json!(choices.byte() as i8),
                "types" => json!([choices.pick(TEXTS), "*"]),
                "agentType" => json!("codex"),
                _ => json!(self.name(choices)),
            };
            self.note_space(field, &value);
            body.insert(field.to_owned(), value);
        }
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (host, origin, authorization, mesh_secret, cookie) = (None, None, None, None, None);
        let head = Head {
            method: "POST".into(),
            target: target.into(),
            peer,
            host,
            origin,
            authorization,
            mesh_secret,
            cookie,
            browser: Box::default(),
        };
        let request = Request { head, body: Value::Object(body).to_string().into_bytes() };
        let before = dump(&self.mesh, &self.spaces);
        let answer = legacy_http::respond(&mut self.mesh, &request, None, self.now);
        let said: Value = serde_json::from_slice(&answer.body).expect("an answer is JSON");
        assert!([200, 429].contains(&answer.status), "{target}: {} {said}", answer.status);
        match said["ok"].as_bool().expect("an answer says whether it is ok") {
            true => self.learn(&Ok(said)),
            false => {
                assert!(said["error"].as_str().is_some_and(|text| !text.is_empty()), "{said}");
                assert_eq!(dump(&self.mesh, &self.spaces), before, "{target} was refused ({said}), and left something");
            }
        }
        self.mesh.resume_waiting(self.now);
    }

    /// A random argument: a name, a path, an id that the mesh has returned, or any short text.
    fn name(&self, choices: &mut Choices) -> String {
        match choices.below(8) {
            0 => choices.text(),
            1..4 if !self.ids.is_empty() => self.ids[choices.below(self.ids.len())].clone(),
            _ => choices.pick(TEXTS).to_owned(),
        }
    }

    fn arguments(&mut self, choices: &mut Choices, op: &Op) -> Map<String, Value> {
        let mut args = Map::new();
        for arg in op.args {
            let wanted = arg.required || choices.below(3) == 0;
            if wanted && choices.below(40) > 0 {
                let value = self.argument(choices, arg);
                self.note_space(arg.name, &value);
                args.insert(arg.name.to_owned(), value);
            }
        }
        if choices.below(60) == 1 {
            args.insert(choices.text(), choices.value(1));
        }
        args
    }

    fn argument(&mut self, choices: &mut Choices, arg: &Arg) -> Value {
        if choices.below(24) == 1 {
            return choices.value(2);
        }
        match arg.kind {
            ArgKind::Text { .. } | ArgKind::Units { .. } => json!(self.name(choices)),
            ArgKind::Int { min, max } => {
                let small = i64::from(choices.byte() as i8);
                json!([small, small, min, max, min.saturating_add(small)][choices.below(5)].clamp(min, max))
            }
            ArgKind::Flag => json!(choices.below(2) == 0),
            ArgKind::Choice(words) => json!(choices.pick(words)),
            ArgKind::Texts { .. } => json!((0..choices.below(5)).map(|_| self.name(choices)).collect::<Vec<_>>()),
            ArgKind::Object { .. } => {
                let inner = choices.value(1);
                let depth = [0, 0, 60, 70, 120][choices.below(5)];
                json!({ choices.text(): (0..depth).fold(inner, |inner, _| json!([inner])) })
            }
        }
    }

    fn note_space(&mut self, name: &str, value: &Value) {
        if let ("namespace", Some(space)) = (name, value.as_str()) {
            self.spaces.insert(space.to_owned());
        }
    }

    fn learn(&mut self, result: &Result<Value, slm_mesh::base::error::Error>) {
        let value = match result {
            Ok(value) => value,
            Err(error) => return check_fault("a call that waited", error),
        };
        let line = rpc::response(&json!(1), value);
        assert!(
            line.len() <= LINE_MAX && rpc::parse_line(line.trim_end().as_bytes()).is_ok(),
            "no client reads {line:.200}"
        );
        let ids = [&value["you"]["id"], &value["peerId"], &value["messageId"], &value["messages"][0]["id"]];
        self.ids.extend(ids.into_iter().filter_map(Value::as_str).map(str::to_owned));
        if self.ids.len() > 32 {
            self.ids.remove(0);
        }
    }

    fn pass(&mut self, ms: i64) {
        let until = self.now + ms;
        // The broker wakes the mesh at each deadline. This loop does the same, but only 50 times, to save time.
        for _ in 0..50 {
            let Some(at) = self.mesh.deadline().filter(|at| *at <= until) else { break };
            self.now = at.max(self.now);
            self.mesh.tick(self.now);
        }
        self.now = until;
        self.mesh.tick(self.now);
    }

    /// Checks that the mesh's data in memory matches the store, and that the store's counters are right.
    fn check(&mut self) {
        let store = self.mesh.store();
        let sorted = |mut locks: Vec<LockRow>| {
            locks.sort_by(|a, b| (a.token, &a.path).cmp(&(b.token, &b.path)));
            locks
        };
        let on_disk = store.locks().expect("locks");
        assert_eq!(sorted(on_disk), sorted(self.mesh.locks().all().cloned().collect()), "locks on disk and in memory");
        let mut on_disk: Vec<String> =
            store.peers().expect("peers").into_iter().map(|row| row.id.to_string()).collect();
        let mut here: Vec<String> = self.mesh.peers().all().iter().map(|peer| peer.row.id.to_string()).collect();
        on_disk.sort();
        here.sort();
        assert_eq!(on_disk, here, "peers on disk and in memory");
        let all = MessageFilter { limit: i64::MAX, ..MessageFilter::default() };
        let messages = store.messages(&all).expect("messages");
        assert_eq!(messages.len() as i64, store.counters().messages, "messages and their counter");
        let n_unread = messages.iter().filter(|message| message.state.is_unread()).count();
        assert_eq!(n_unread as i64, store.counters().unread, "unread messages and their counter");
        let events = store.events(&EventFilter { limit: i64::MAX, ..EventFilter::default() }).expect("events");
        assert_eq!(events.len() as i64, store.counters().events, "events and their counter");
        self.mesh.status(self.now).expect("a status");
    }
}

/// Checks that an error has a text, and that it reports a mistake of the caller. The error must not report a bug in
/// slm-mesh, a failure of the disk, or a missing broker.
fn check_fault(what: &str, error: &slm_mesh::base::error::Error) {
    assert!(!error.text.is_empty(), "{what}: {error:?}");
    assert!(![ErrorKind::Internal, ErrorKind::Storage, ErrorKind::Gone].contains(&error.kind), "{what}: {error:?}");
}

/// The whole content of the store, as text.
fn dump(mesh: &Mesh, spaces: &BTreeSet<String>) -> String {
    let store = mesh.store();
    let messages = store.messages(&MessageFilter { limit: i64::MAX, ..MessageFilter::default() });
    let events = store.events(&EventFilter { limit: i64::MAX, ..EventFilter::default() });
    let entries: Vec<_> = spaces.iter().map(|space| store.entries(space, "", "", i64::MIN, i64::MAX)).collect();
    let (peers, locks) = (store.peers(), store.locks());
    format!("{peers:?}\n{messages:?}\n{events:?}\n{entries:?}\n{locks:?}\n{:?}", store.counters())
}
