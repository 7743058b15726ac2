//! Runs one turn as the broker does: makes calls, commits, and sends the answers. Some answers and events are lost on
//! the way.

use crate::ask::Ask;
use crate::model::{HUMAN, NAMES, texts};
use crate::world::World;
use serde_json::{Value, json};
use slm_mesh::base::error::Error;
use slm_mesh::broker::http::{Head, Request};
use slm_mesh::broker::legacy_http;
use slm_mesh::core::ConnId::{self, Client};
use slm_mesh::core::{self, Call, Effect};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

impl World {
    pub fn hand_over(&mut self, ask: &Ask) {
        let op = core::op(ask.op).expect("an operation");
        let args = op.check(core::object(ask.args.clone())).unwrap_or_else(|error| panic!("{ask:?}: {error}"));
        let acting = !self.agents[ask.who].conns.contains(&ask.conn) && ask.who != HUMAN;
        let acting = acting.then(|| NAMES[ask.who].to_owned());
        let (conn, id, now) = (ask.conn, json!(ask.id), self.now());
        self.note(format!("{} {} {} #{}", NAMES[ask.who], ask.op, ask.args, ask.id));
        self.count(ask.op);
        if ask.until.is_some() {
            self.count("calls that may wait");
            self.model.may_have_acked(ask);
        }
        self.mesh().call(
            Call {
                conn: Client(conn),
                id,
                op,
                args,
                acting,
                shell_session: None,
                shell_agent: None,
                ancestors: Vec::new(),
            },
            now,
        );
    }

    /// Runs one turn in which the mesh gets these calls.
    pub fn turn(&mut self, asks: Vec<Ask>) {
        for ask in asks {
            self.hand_over(&ask);
            self.pending.insert(ask.id, ask);
        }
        self.end_turn(None);
    }

    /// Runs one turn in which the mesh gets this HTTP request.
    pub fn web_turn(&mut self, ask: Ask) {
        let now = self.now();
        self.note(format!("{} {} {}", NAMES[ask.who], ask.op, ask.args));
        self.count("requests over HTTP");
        let head = Head {
            method: "POST".into(),
            target: ask.op.into(),
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            host: None,
            origin: None,
            authorization: None,
            mesh_secret: None,
            cookie: None,
            browser: Box::default(),
        };
        let request = Request { head, body: ask.args.to_string().into_bytes() };
        let mesh = self.mesh();
        let answer = legacy_http::respond(mesh, &request, None, now);
        mesh.resume_waiting(now);
        assert!(answer.status == 200, "{} {ask:?}", answer.status);
        let value = serde_json::from_slice(&answer.body).expect("JSON");
        self.end_turn(Some((ask, value)));
    }

    /// Commits the turn, and then delivers its answers and events. Some of them are lost.
    pub fn end_turn(&mut self, web: Option<(Ask, Value)>) {
        let committed = self.commit();
        assert!(committed, "{:?}", self.mesh().take_effects());
        let outs = self.mesh().take_effects();
        let mut lost = BTreeSet::new();
        if let Some((ask, value)) = web {
            let may_lose = ["/send", "/messages", "/state", "/lock"].contains(&ask.op);
            if may_lose && self.dice.one_in(20) {
                self.count("answers lost");
                self.model.lost(&ask);
            } else {
                self.model.learn_web(&ask, &value);
            }
        }
        let mut pushed: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
        let mut ended = Vec::new();
        for out in outs {
            match out {
                Effect::Reply { conn: Client(conn), id, result } => {
                    let ask = id.as_u64().and_then(|id| self.pending.remove(&id));
                    let ask = ask.unwrap_or_else(|| panic!("an answer that nobody waits for: {id} {result:?}"));
                    if lost.contains(&conn) || self.dice.one_in(30) {
                        lost.insert(conn);
                        self.lose(&ask);
                    } else {
                        self.arrive(&ask, &result);
                    }
                    if self.verbs.remove(&conn) {
                        ended.push(conn);
                    }
                }
                Effect::Notification { conn: Client(conn), method: "event", params } if conn == self.watcher => {
                    self.count("events");
                    self.model.stream.push(&parsed(&params), self.model.now);
                }
                Effect::Notification { conn: Client(conn), method: "event", params } => {
                    pushed.entry(conn).or_default().push(parsed(&params)["seq"].as_i64().expect("a number"));
                }
                Effect::Reply { conn: ConnId::Http, .. } => {
                    panic!("an HTTP request got an answer for a client of the socket")
                }
                _ => {}
            }
        }
        self.check_pushes(&pushed);
        self.model.end_turn(self.pending.values());
        ended.retain(|conn| !lost.contains(conn));
        for conn in lost.into_iter().chain(ended) {
            self.hang_up(conn);
        }
    }

    /// Checks that each subscriber has received all events of its types in this turn, and no other events.
    fn check_pushes(&mut self, pushed: &BTreeMap<u64, Vec<i64>>) {
        for (conn, types) in &self.subscribed {
            let want = self.model.stream.expected(types);
            let got = pushed.get(conn).map_or(&[][..], Vec::as_slice);
            assert!(got == want, "a subscriber to {types:?} got {got:?}, not {want:?}");
        }
        // The mesh may push an event to a connection that has just ended. This is no error, because nobody receives the
        // event.
        let lives = |conn: &u64| self.agents.iter().any(|agent| agent.conns.contains(conn));
        let stranger = pushed.keys().find(|conn| !self.subscribed.contains_key(conn) && lives(conn));
        assert!(stranger.is_none(), "{stranger:?} got events that it did not ask for");
        *self.counts.entry("events pushed to subscribers").or_insert(0) +=
            pushed.values().map(|list| list.len() as u64).sum::<u64>();
    }

    pub fn lose(&mut self, ask: &Ask) {
        self.count("answers lost");
        self.note(format!("  #{} lost", ask.id));
        match ask.op {
            "attach" => self.model.sit(ask.who),
            "detach" => self.left_in_order(ask),
            "send" if ask.args["key"].is_string() => self.agents[ask.who].retry = Some(ask.args.clone()),
            _ => {}
        }
        self.model.lost(ask);
    }

    fn left_in_order(&mut self, ask: &Ask) {
        self.agents[ask.who].conns.retain(|conn| *conn != ask.conn);
        self.model.rise(ask.who, true);
    }

    fn arrive(&mut self, ask: &Ask, result: &Result<Value, Error>) {
        let text = match result {
            Ok(value) => value.to_string(),
            Err(error) => error.to_value().to_string(),
        };
        let text: String = text.chars().take(300).collect();
        self.note(format!("  #{} {text}", ask.id));
        if result.is_err() {
            self.count("refusals");
        }
        match (ask.op, result) {
            ("attach", Ok(_)) => self.model.sit(ask.who),
            ("detach", Ok(_)) => self.left_in_order(ask),
            ("lock.lock", Ok(_)) => {
                self.model.check_fairness(ask, self.pending.values());
                let wait = ask.args["waitSeconds"].as_i64().unwrap_or(0) * 1000;
                if ask.until.is_some_and(|until| until - wait < self.model.now) {
                    self.count("locks granted after a wait");
                }
            }
            ("events.subscribe", Ok(_)) => {
                self.subscribed.insert(ask.conn, texts(&ask.args, "types"));
            }
            ("events.unsubscribe", Ok(_)) => {
                self.subscribed.remove(&ask.conn);
            }
            ("send", Ok(value)) => {
                let agent = &mut self.agents[ask.who];
                if agent.retry.as_ref().is_some_and(|retry| retry["key"] == ask.args["key"]) {
                    agent.retry = None;
                }
                if value["repeated"] == true {
                    self.count("messages sent again, accepted once");
                }
            }
            _ => {}
        }
        self.model.learn(ask, result);
        if ask.op == "inbox" && result.is_ok() {
            let shown = std::mem::take(&mut self.model.shown);
            let agent = &mut self.agents[ask.who];
            agent.messages.extend(shown.iter().cloned());
            let n_old = agent.messages.len().saturating_sub(5);
            agent.messages.drain(..n_old);
            *self.counts.entry("messages shown").or_insert(0) += shown.len() as u64;
            self.agents[ask.who].show = shown;
        }
    }
}

fn parsed(json: &str) -> Value {
    serde_json::from_str(json).expect("JSON")
}
