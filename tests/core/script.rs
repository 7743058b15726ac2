//! Runs the scripts of these tests.

use serde_json::{Map, Value, json};
use slm_mesh::base::limits;
use slm_mesh::core::ConnId::Client;
use slm_mesh::core::{self, Args, Call, CallContext, ClientKind, Effect, Mesh, MeshSettings, mail};
use slm_mesh::store::Store;
use std::collections::HashMap;

/// A mesh and its clients.
pub struct Script {
    mesh: Option<Mesh>,
    now: i64,
    conns: HashMap<String, u64>,
    next: u64,
    /// The id of each client's last call.
    asked: HashMap<String, Value>,
    /// For each client, the notifications that it has received, and the answers to calls that had to wait.
    came: HashMap<String, Vec<Value>>,
    /// The values that `path=$name` has stored for later lines.
    kept: HashMap<String, String>,
}

fn open(store: Store, now: i64) -> Mesh {
    let settings = MeshSettings::default();
    let mut n = 7u128;
    let fresh = move || {
        n = n.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(12_345);
        n
    };
    Mesh::open(store, settings, Box::new(fresh), now).unwrap()
}

impl Script {
    /// A mesh without peers.
    pub fn new() -> Script {
        let now = 1_795_000_000_000;
        let mesh = Some(open(Store::memory().unwrap(), now));
        Script {
            mesh,
            now,
            conns: HashMap::new(),
            next: 100,
            asked: HashMap::new(),
            came: HashMap::new(),
            kept: HashMap::new(),
        }
    }

    fn mesh(&mut self) -> &mut Mesh {
        self.mesh.as_mut().unwrap()
    }

    /// Ends the mesh's turn. Stores each client's notifications, and returns the answers to calls.
    fn end_turn(&mut self) -> Vec<(String, Value, Result<Value, slm_mesh::base::error::Error>)> {
        assert!(self.mesh().commit());
        let names: HashMap<u64, String> = self.conns.iter().map(|(name, conn)| (*conn, name.clone())).collect();
        let mut replies = Vec::new();
        for out in self.mesh().take_effects() {
            match out {
                Effect::Reply { conn: Client(conn), id, result } => replies.push((names[&conn].clone(), id, result)),
                Effect::Notification { conn: Client(conn), method, params } => {
                    let list = self.came.entry(names[&conn].clone()).or_default();
                    list.push(json!({ "method": method, "params": parsed(&params) }));
                }
                Effect::Notification { params, .. } => panic!("trouble: {params}"),
                _ => {}
            }
        }
        replies
    }

    fn join(&mut self, who: &str) {
        self.next += 1;
        self.conns.insert(who.to_owned(), self.next);
        let conn = self.next;
        self.mesh().on_connected(Client(conn));
        // The client `b@other` works in the project `other`. Without `@`, a client works in the project `p`.
        let (name, project) = who.split_once('@').unwrap_or((who, "p"));
        let args = json!({
            "agent": "test", "project": format!("/{project}"), "pid": 5, "name": name, "repo": "r",
            "gitRoot": format!("/{project}"), "session": format!("key-{who}"),
        });
        let (_, result) = self.ask(who, "attach", args.as_object().unwrap()).expect("attach answers");
        result.unwrap();
        self.came.clear();
    }

    fn ask(
        &mut self,
        who: &str,
        op: &str,
        args: &Map<String, Value>,
    ) -> Option<(Value, Result<Value, slm_mesh::base::error::Error>)> {
        self.next += 1;
        let id = json!(self.next);
        self.asked.insert(who.to_owned(), id.clone());
        let conn = *self.conns.get(who).unwrap_or_else(|| panic!("{who} has not joined"));
        let op = core::op(op).unwrap_or_else(|| panic!("no operation {op}"));
        let args: Args = match op.check(args.clone()) {
            Ok(args) => args,
            Err(error) => return Some((id, Err(error))),
        };
        let now = self.now;
        self.mesh().call(
            Call {
                conn: Client(conn),
                id: id.clone(),
                op,
                args,
                acting: None,
                shell_session: None,
                shell_agent: None,
                ancestors: Vec::new(),
            },
            now,
        );
        let mut own = None;
        for (to, reply_id, result) in self.end_turn() {
            if reply_id == id {
                own = Some((reply_id, result));
            } else {
                let value = result.unwrap_or_else(|error| error.to_value());
                self.came.entry(to).or_default().push(value);
            }
        }
        own
    }

    fn pass(&mut self, ms: i64) {
        let until = self.now + ms;
        // Like the broker, this loop wakes the mesh at each deadline up to the time `until`.
        while let Some(at) = self.mesh().deadline().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            self.tick();
        }
        self.now = until;
        self.tick();
    }

    fn tick(&mut self) {
        let now = self.now;
        self.mesh().tick(now);
        self.keep_answers();
    }

    /// Ends the turn, and stores the answers to calls that had to wait.
    fn keep_answers(&mut self) {
        for (to, _, result) in self.end_turn() {
            let value = result.unwrap_or_else(|error| error.to_value());
            self.came.entry(to).or_default().push(value);
        }
    }

    /// The times in ms at which the locks in the database expire.
    pub fn stored_lock_ends(&mut self) -> Vec<i64> {
        self.mesh().store().locks().unwrap().iter().map(|lock| lock.expires).collect()
    }

    /// Fills the mailbox of a peer that has joined.
    pub fn fill_mailbox(&mut self, who: &str) {
        let now = self.now;
        let to = self.mesh().peers().find_by_name(who).unwrap();
        let args = mail::SEND.check(core::object(json!({ "to": to.as_str(), "message": "x" }))).unwrap();
        for _ in 0..limits::MAILBOX_MAX {
            let client = ClientKind::HttpProgram { budget: None };
            self.mesh().run(&mail::SEND, &args, &CallContext::over_http(client, Some(to.clone()), now)).unwrap();
        }
        self.keep_answers();
        self.came.clear();
    }

    /// Runs one line of a script.
    pub fn run(&mut self, line: &str) {
        if let Some(time) = line.strip_prefix('+') {
            let (n, unit) = time.split_at(time.len() - 1);
            let unit = match unit {
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                other => panic!("unit {other}"),
            };
            return self.pass(n.parse::<i64>().unwrap() * unit);
        }
        if line == "crash" {
            let store = self.mesh.take().unwrap().into_store();
            self.mesh = Some(open(store, self.now));
            self.conns.clear();
            return;
        }
        let (call, want) = line.split_once("->").map_or((line, ""), |(call, want)| (call.trim(), want.trim()));
        let words = split(call);
        match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [who, "joins"] => self.join(who),
            [who, "connects"] => {
                self.next += 1;
                let conn = self.next;
                self.conns.insert((*who).to_owned(), conn);
                self.mesh().on_connected(Client(conn));
            }
            [who, "leaves"] => {
                let (conn, now) = (self.conns[*who], self.now);
                self.mesh().on_disconnected(Client(conn), now);
                self.keep_answers();
                self.conns.remove(*who);
            }
            [who, "cancels"] => {
                let (conn, now, id) = (self.conns[*who], self.now, self.asked[*who].clone());
                self.mesh().cancel(Client(conn), &id, now);
                self.keep_answers();
            }
            ["!", who] => {
                let came = self.came.remove(*who).unwrap_or_default();
                judge(line, want, &Value::Array(came).to_string(), &Value::Null, &mut self.kept);
            }
            [who, op, args @ ..] => {
                let args = arguments(args, &self.kept);
                let (kind, value) = match self.ask(who, op, &args) {
                    None => ("waits", Value::Null),
                    Some((_, Ok(value))) => ("ok", value),
                    Some((_, Err(error))) => (error.kind.codes().word, error.to_value()),
                };
                let (want_kind, rest) = want.split_once(' ').unwrap_or((want, ""));
                assert_eq!(want_kind, kind, "{line}\n{value}");
                judge(line, rest, &value.to_string(), &value, &mut self.kept);
            }
            _ => panic!("what is {line}?"),
        }
    }
}

/// Splits a text at the spaces outside single quotes.
fn split(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty())),
            c => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

fn arguments(words: &[&str], kept: &HashMap<String, String>) -> Map<String, Value> {
    let pairs = words.iter().map(|word| word.split_once('=').unwrap_or_else(|| panic!("{word}: want key=value")));
    let value =
        |text: &str| match (text.strip_prefix('$'), text.strip_prefix("[$").and_then(|rest| rest.strip_suffix(']'))) {
            (Some(name), _) => json!(kept[name]),
            (_, Some(name)) => json!([kept[name]]),
            _ => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
        };
    pairs.map(|(name, text)| (name.to_owned(), value(text))).collect()
}

fn judge(line: &str, wants: &str, text: &str, value: &Value, kept: &mut HashMap<String, String>) {
    for want in split(wants) {
        if let Some((path, name)) = want.split_once("=$") {
            let found = path
                .split('.')
                .fold(value, |value, key| key.parse::<usize>().map_or_else(|_| &value[key], |n| &value[n]));
            kept.insert(name.to_owned(), found.as_str().map_or_else(|| found.to_string(), str::to_owned));
            continue;
        }
        let hit = match want.split_once('=') {
            Some((path, wanted)) => {
                let found = path
                    .split('.')
                    .fold(value, |value, key| key.parse::<usize>().map_or_else(|_| &value[key], |n| &value[n]));
                found.as_str().map_or_else(|| found.to_string(), str::to_owned) == wanted
            }
            None => match want.strip_prefix('~') {
                Some(absent) => !text.contains(absent),
                None => text.contains(&want),
            },
        };
        assert!(hit, "{line}\n  wanted {want}\n  in {text}");
    }
}

/// Runs a script.
pub fn check(script: &str) {
    let mut run = Script::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        run.run(line);
    }
}

fn parsed(json: &str) -> Value {
    serde_json::from_str(json).expect("JSON")
}
