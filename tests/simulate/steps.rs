//! The random steps of a simulation: what agents, people and programs do next.

use crate::ask::Ask;
use crate::locks::PATHS;
use crate::model::{HUMAN, NAMES, WEB, Who};
use crate::world::{Command, World};
use serde_json::{Value, json};

const KEYS: [&str; 4] = ["k1", "k2", "k3", "k4"];
const TYPES: [&str; 8] = [
    "peer_joined",
    "peer_left",
    "message_received",
    "message_read",
    "state_changed",
    "file_locked",
    "file_unlocked",
    "sim.tick",
];
const DAY: i64 = 86_400_000;

impl World {
    /// Chooses a random step and takes it.
    pub fn one_step(&mut self) {
        self.step += 1;
        self.stand_by();
        match self.dice.below(100) {
            0..=45 => self.sessions_call(),
            46..=57 => self.verb(),
            58..=73 => self.web(),
            74..=77 => self.join_or_leave(),
            78..=80 => self.command(),
            81..=90 => {
                let ms = self.dice.below(4_000) as i64;
                self.pass(ms);
            }
            91..=93 => {
                let ms = 5_000 + self.dice.below(80_000) as i64;
                self.pass(ms);
            }
            94 => self.hang(),
            95 => self.give_up_waiting(),
            96..=97 => self.crash_somehow(),
            98 => {
                if self.dice.one_in(4) {
                    self.set_clock();
                }
            }
            _ => self.rarely(),
        }
    }

    /// Either adds a subscription, or lets hours or days pass so that old events and messages are removed.
    fn rarely(&mut self) {
        if self.dice.one_in(40) {
            self.agents.iter_mut().for_each(|agent| agent.messages.clear());
            let ms = self.dice.pick(&[DAY / 4, DAY, 2 * DAY]);
            self.pass(ms);
        } else {
            self.subscribe();
        }
    }

    fn crash_somehow(&mut self) {
        let asks = match self.dice.below(3) {
            0 => Vec::new(),
            _ => self.some_calls(),
        };
        let commits = self.dice.one_in(2);
        self.crash(asks, commits);
    }

    /// Makes up to three random calls from sessions in one turn.
    fn sessions_call(&mut self) {
        let asks = self.some_calls();
        if !asks.is_empty() {
            self.turn(asks);
        }
    }

    fn some_calls(&mut self) -> Vec<Ask> {
        let n = if self.dice.one_in(4) { 3 } else { 1 };
        (0..n).filter_map(|_| self.session_call()).collect()
    }

    fn session_call(&mut self) -> Option<Ask> {
        let who = self.dice.below(HUMAN as u64) as Who;
        let agent = &self.agents[who];
        if agent.mute || agent.conns.is_empty() {
            return None;
        }
        let conn = self.dice.pick(&self.agents[who].conns.clone());
        let agent = &mut self.agents[who];
        if let Some(args) = agent.retry.clone() {
            return Some(self.ask(conn, who, "send", args));
        }
        let show = std::mem::take(&mut agent.show);
        if !show.is_empty() && self.dice.below(4) > 0 {
            return Some(self.ask(conn, who, "inbox.mark_read", json!({ "items": show })));
        }
        let (op, args) = self.random_call(who);
        Some(self.ask(conn, who, op, args))
    }

    /// Returns a random operation with random arguments for this caller.
    fn random_call(&mut self, who: Who) -> (&'static str, Value) {
        match self.dice.below(26) {
            0..=5 => ("send", self.random_message(who)),
            6..=10 => ("inbox", self.inbox(who)),
            11..=12 => ("state.set", self.entry(who)),
            13 => ("state.get", json!({ "key": self.dice.pick(&KEYS) })),
            14 => ("state.delete", json!({ "key": self.dice.pick(&KEYS) })),
            15..=18 => ("lock.lock", self.lock()),
            19..=20 => ("lock.unlock", json!({ "filePath": self.dice.pick(&PATHS).0 })),
            21 => ("lock.query", json!({})),
            22 => ("events.read", self.cursor()),
            23 => ("events.emit", json!({ "type": "sim.tick", "payload": { "n": self.next } })),
            24 => ("inbox", json!({ "filter": "sent", "limit": 15 })),
            _ => ("whoami", json!({})),
        }
    }

    fn random_message(&mut self, who: Who) -> Value {
        let known: Vec<Who> = (0..NAMES.len()).filter(|to| self.model.is_known(*to) && *to != who).collect();
        let to = if known.is_empty() { who } else { self.dice.pick(&known) };
        let mut args = json!({ "to": NAMES[to], "message": format!("m{}", self.next) });
        if self.dice.one_in(12) {
            args["to"] = json!("all");
            return args;
        }
        if self.dice.below(3) > 0 {
            args["key"] = json!(format!("key{}", self.next));
        }
        if self.dice.one_in(5) {
            args["expiresMinutes"] = json!(1 + self.dice.below(5));
        }
        if self.dice.one_in(4)
            && let Some(id) = self.agents[who].messages.pop()
        {
            args["replyTo"] = json!(id);
        }
        args
    }

    fn inbox(&mut self, who: Who) -> Value {
        let many = self.model.mail.unread(who).1 > 20;
        let mut args = json!({ "limit": if many { 100 } else { 1 + self.dice.below(8) } });
        if self.dice.one_in(3) {
            args["waitSeconds"] = json!(1 + self.dice.below(25));
        }
        if self.dice.one_in(4)
            && let Some(id) = self.agents[who].messages.pop()
        {
            args["ack"] = json!([id]);
        }
        args
    }

    fn entry(&mut self, who: Who) -> Value {
        let key = self.dice.pick(&KEYS);
        let mut args = json!({ "key": key, "value": format!("{} {}", NAMES[who], self.next) });
        if self.dice.one_in(3) {
            let version = self.model.state.version(key);
            args["expect"] = json!(if self.dice.one_in(3) { version + 1 } else { version });
        }
        if self.dice.one_in(4) {
            args["ttlMinutes"] = json!(1 + self.dice.below(3));
        }
        args
    }

    fn lock(&mut self) -> Value {
        let mut paths = vec![self.dice.pick(&PATHS).0];
        if self.dice.one_in(4) {
            paths.push(self.dice.pick(&PATHS).0);
        }
        let mut args = json!({ "filePaths": paths, "ttlMinutes": 1 + self.dice.below(3) });
        if self.dice.one_in(3) {
            args["waitSeconds"] = json!(1 + self.dice.below(40));
        }
        args
    }

    fn cursor(&mut self) -> Value {
        let last = self.model.stream.last();
        let back = self.dice.pick(&[0, 1, 5, 30, 300, 3_000, 30_000]);
        let after = if self.dice.one_in(15) { last + 1 + back } else { (last - back).max(0) };
        let mut args = json!({ "after": after, "limit": 1 + self.dice.below(60) });
        if self.dice.one_in(3) {
            args["types"] = json!([self.dice.pick(&TYPES), self.dice.pick(&TYPES)]);
        }
        if self.dice.one_in(4) {
            args["waitSeconds"] = json!(1 + self.dice.below(20));
        }
        args
    }

    /// Runs a verb (subcommand) over a new connection. The verb acts as the human, or as one of the sessions.
    fn verb(&mut self) {
        let who = if self.dice.below(2) == 0 { HUMAN } else { self.dice.below(HUMAN as u64) as Who };
        if !self.model.is_known(who) {
            return;
        }
        let conn = self.connect();
        self.verbs.insert(conn);
        self.count("verbs");
        if self.dice.one_in(12) {
            self.list_peers(conn);
            return;
        }
        let show = std::mem::take(&mut self.agents[who].show);
        let (op, mut args) = match show.is_empty() {
            true => self.random_call(who),
            false => ("inbox.mark_read", json!({ "items": show })),
        };
        if op == "lock.lock" && who == HUMAN {
            args["renew"] = json!(self.dice.one_in(3));
            if self.dice.one_in(3) {
                args["steal"] = json!(true);
                self.count("locks stolen");
            }
        }
        let ask = self.ask(conn, who, op, args);
        self.turn(vec![ask]);
    }

    /// As the human, makes a call that lists all peers on this machine.
    fn list_peers(&mut self, conn: u64) {
        let ask = self.ask(conn, HUMAN, "peers", json!({ "scope": "machine" }));
        self.turn(vec![ask]);
    }

    fn join_or_leave(&mut self) {
        let who = self.dice.below(HUMAN as u64) as Who;
        let conns = self.agents[who].conns.clone();
        match (conns.len(), self.dice.below(4)) {
            (0, _) => self.attach(who),
            // The session connects a second time, before the broker knows that the old connection has ended.
            (1, 0) if !self.agents[who].mute => self.attach(who),
            (_, 1) if !self.agents[who].mute => {
                let conn = self.dice.pick(&conns);
                let ask = self.ask(conn, who, "detach", json!({}));
                self.turn(vec![ask]);
                self.hang_up(conn);
            }
            (_, 2 | 3) => {
                let conn = self.dice.pick(&conns);
                self.hang_up(conn);
            }
            _ => {}
        }
    }

    /// Opens a connection and attaches a session over it. The call contains the session's name, and sometimes also its
    /// earlier id.
    pub fn attach(&mut self, who: Who) {
        let conn = self.connect();
        let mut args = json!({ "agent": "test", "project": "/p", "pid": 1, "name": NAMES[who] });
        let again = !self.agents[who].conns.is_empty();
        match &self.model.ids[who] {
            Some(id) if again || self.dice.one_in(2) => args["id"] = json!(id),
            None if again => return self.hang_up(conn),
            _ => {}
        }
        self.agents[who].conns.push(conn);
        let ask = self.ask(conn, who, "attach", args);
        self.turn(vec![ask]);
    }

    fn subscribe(&mut self) {
        let who = self.dice.below(HUMAN as u64) as Who;
        if self.agents[who].mute || self.agents[who].conns.is_empty() {
            return;
        }
        let conn = self.dice.pick(&self.agents[who].conns.clone());
        let ask = if self.dice.one_in(5) {
            self.ask(conn, who, "events.unsubscribe", json!({}))
        } else {
            let mut types = vec![self.dice.pick(&TYPES)];
            if self.dice.one_in(2) {
                types.push(self.dice.pick(&TYPES));
            }
            self.ask(conn, who, "events.subscribe", json!({ "types": types }))
        };
        self.turn(vec![ask]);
    }

    fn hang(&mut self) {
        let who = self.dice.below(HUMAN as u64) as Who;
        self.mute(who, !self.agents[who].mute);
    }

    fn give_up_waiting(&mut self) {
        let ids: Vec<u64> = self.pending.keys().copied().collect();
        if !ids.is_empty() {
            let id = self.dice.pick(&ids);
            let conn = self.pending[&id].conn;
            self.cancel(id);
            if self.verbs.contains(&conn) {
                self.hang_up(conn);
            }
        }
    }

    /// Takes a step of a `lock FILE -- COMMAND` call: takes its lock, renews the lock while the command runs, or closes
    /// the connection, which ends the lock.
    fn command(&mut self) {
        if self.commands.len() < 3 && self.dice.one_in(2) {
            let who = if self.dice.one_in(2) { HUMAN } else { self.dice.below(HUMAN as u64) as Who };
            if self.model.is_known(who) {
                let (path, key) = (self.dice.pick(&PATHS).0, format!("run{}", self.next));
                self.run(Command { conn: 0, who, path, key });
            }
            return;
        }
        let Some(at) = self.commands.len().checked_sub(1) else { return };
        let command = self.commands[self.dice.below(at as u64 + 1) as usize].clone();
        if self.dice.one_in(3) {
            self.count("commands under a lock that ended");
            self.hang_up(command.conn);
        } else {
            self.take(&command);
        }
    }

    pub fn run(&mut self, command: Command) {
        let conn = self.connect();
        let command = Command { conn, ..command };
        self.commands.push(command.clone());
        self.take(&command);
    }

    fn take(&mut self, command: &Command) {
        if self.pending.values().any(|ask| ask.conn == command.conn) {
            return;
        }
        let args = json!({
            "filePaths": [command.path], "command": command.key, "renew": true, "ttlMinutes": 1,
            "waitSeconds": if self.dice.one_in(2) { 0 } else { 10 },
        });
        let ask = self.ask(command.conn, command.who, "lock.lock", args);
        self.turn(vec![ask]);
    }

    /// Makes a random HTTP call, as a client for slm-mesh 1.x does.
    fn web(&mut self) {
        let who = WEB.start + self.dice.below(3) as Who;
        let Some(id) = self.model.ids[who].clone().filter(|_| self.model.is_here(who)) else {
            let args = json!({ "projectPath": "/nowhere", "pid": 7, "name": NAMES[who], "agentType": "aider" });
            let ask = self.ask(0, who, "/register", args);
            return self.web_turn(ask);
        };
        let known: Vec<Who> = (0..NAMES.len()).filter(|to| self.model.ids[*to].is_some()).collect();
        let to = self.dice.pick(&known);
        let path = self.dice.pick(&PATHS).0;
        let key = self.dice.pick(&KEYS);
        let (op, args) = match self.dice.below(20) {
            0..=5 => ("/heartbeat", json!({ "peerId": id })),
            6 => ("/unregister", json!({ "peerId": id })),
            7..=9 => {
                let body = format!("m{}", self.next);
                ("/send", json!({ "fromPeer": id, "toPeer": self.model.ids[to], "payload": body }))
            }
            10..=12 => ("/messages", json!({ "peerId": id, "limit": 1 + self.dice.below(9), "filter": "unread" })),
            13..=14 => {
                let ttl = self.dice.pick(&[0.5, 1.0, 3.0]);
                ("/lock", json!({ "action": "lock", "filePath": path, "peerId": id, "ttlMinutes": ttl }))
            }
            15..=16 => ("/lock", json!({ "action": "unlock", "filePath": path, "peerId": id })),
            17 => ("/state", json!({ "action": "get", "key": key })),
            18 => ("/state", json!({ "action": "set", "key": key, "value": path, "peerId": id })),
            _ => ("/summary", json!({ "peerId": id, "summary": path })),
        };
        let ask = self.ask(0, who, op, args);
        self.web_turn(ask);
    }
}
