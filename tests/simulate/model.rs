//! A model of the mesh, without the mesh's code. From requests, answers and pushed events alone, it predicts what the
//! mesh must do.

use crate::ask::Ask;
use crate::events::Stream;
use crate::locks::{LockRequest, Locks};
use crate::mail::{ACKED, Mail, READ};
use crate::state::State;
use serde_json::Value;
use slm_mesh::base::error::{Error, ErrorKind};
use slm_mesh::base::limits::GRACE_MS;

/// A peer, as an index into [`NAMES`].
pub type Who = usize;
/// The names of five sessions, of the human (the person who owns the machine), and of three HTTP clients.
pub const NAMES: [&str; 9] = ["ann", "bob", "cid", "dot", "eve", "ada", "wes", "wyn", "wil"];
pub const HUMAN: Who = 5;
pub const WEB: std::ops::Range<Who> = 6..9;
/// The time in ms after which an HTTP client without a heartbeat is no longer a peer.
pub const DEAD_MS: i64 = 60_000;
pub const STALE_MS: i64 = 30_000;

/// The model's state: all that can be known from requests, answers and pushed events.
#[derive(Debug)]
pub struct Model {
    pub now: i64,
    pub ids: Vec<Option<String>>,
    /// The number of each session's connections. Connections of a session that hangs don't count.
    connections: Vec<usize>,
    /// The time at which each session went away; `None` if the session is online, or if its grace period is over.
    gone: Vec<Option<i64>>,
    /// Whether the last event about each peer said that the peer is online.
    told_here: Vec<bool>,
    /// Whether each peer is in a grace period. Such a peer was online when the broker crashed, and has not come back.
    /// No event says that it has left.
    pardoned: Vec<bool>,
    /// Whether each peer was away when the broker crashed.
    was_away: Vec<bool>,
    heard: Vec<i64>,
    web_here: Vec<bool>,
    pub mail: Mail,
    pub locks: Locks,
    pub state: State,
    pub stream: Stream,
    /// Events that must be pushed before this turn ends.
    owed: Vec<(&'static str, String)>,
    /// The ids of the messages in the last answer to an inbox call.
    pub shown: Vec<String>,
}

/// Converts an argument from minutes to ms.
pub fn minutes(args: &Value, name: &str) -> Option<i64> {
    args[name].as_f64().map(|minutes| (minutes * 60_000.0) as i64)
}

/// An argument that is a list of texts.
pub fn texts(args: &Value, name: &str) -> Vec<String> {
    args[name].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn who(name: &Value) -> Option<Who> {
    NAMES.iter().position(|known| name == known)
}

impl Model {
    pub fn new(now: i64) -> Model {
        let n = NAMES.len();
        Model {
            now,
            ids: vec![None; n],
            connections: vec![0; n],
            gone: vec![None; n],
            told_here: vec![false; n],
            pardoned: vec![false; n],
            was_away: vec![false; n],
            heard: vec![0; n],
            web_here: vec![false; n],
            mail: Mail::new(),
            locks: Locks::default(),
            state: State::default(),
            stream: Stream::default(),
            owed: Vec::new(),
            shown: Vec::new(),
        }
    }

    pub fn is_here(&self, who: Who) -> bool {
        self.connections[who] > 0 || self.web_here[who]
    }

    /// Whether others can send messages to this peer.
    pub fn is_known(&self, who: Who) -> bool {
        who == HUMAN || self.ids[who].is_some()
    }

    pub fn sit(&mut self, who: Who) {
        self.connections[who] += 1;
        (self.gone[who], self.pardoned[who], self.was_away[who]) = (None, false, false);
    }

    /// Records that a session has lost a connection or has begun to hang. `in_order` means that the session sent
    /// `detach` first.
    pub fn rise(&mut self, who: Who, in_order: bool) {
        self.connections[who] -= 1;
        if self.connections[who] > 0 {
            return;
        }
        self.gone[who] = Some(self.now);
        if in_order {
            self.locks.left(who);
        }
    }

    /// Records that the broker crashed and was started again.
    pub fn crash(&mut self) {
        for who in 0..NAMES.len() {
            // A peer that was online gets a grace period. A peer whose grace period was already running gets at most
            // one more grace period.
            self.pardoned[who] = self.connections[who] > 0 || self.pardoned[who];
            self.was_away[who] = !self.pardoned[who];
            if !WEB.contains(&who) && who != HUMAN {
                self.gone[who] = Some(self.now);
            }
            self.connections[who] = 0;
            self.heard[who] = self.now;
        }
        self.locks.crashed(self.now);
    }

    /// Records the new time. Leases and grace periods end, and HTTP clients without a heartbeat go offline.
    pub fn pass(&mut self, now: i64) {
        self.now = now;
        self.mail.expire(now);
        self.stream.latest = self.stream.latest.max(now);
        self.state.expire(now);
        self.locks.expire(now);
        for who in 0..NAMES.len() {
            if self.gone[who].is_some_and(|since| since + GRACE_MS <= now) {
                match std::mem::take(&mut self.was_away[who]) {
                    true => self.locks.left_before(who),
                    false => self.locks.left(who),
                }
                (self.gone[who], self.pardoned[who]) = (None, false);
            }
            if self.web_here[who] && self.heard[who] + DEAD_MS <= now {
                self.web_here[who] = false;
                self.locks.left(who);
            }
        }
    }

    fn owe(&mut self, kind: &'static str, part: impl Into<String>) {
        self.owed.push((kind, part.into()));
    }

    /// Forgets the events that this turn should have pushed, because a crash has lost them.
    pub fn forget_turn(&mut self) {
        self.owed.clear();
        self.stream.fresh.clear();
    }

    /// Checks that this turn has pushed all events that were due, and has answered all calls that were due.
    pub fn end_turn<'a>(&mut self, pending: impl Iterator<Item = &'a Ask>) {
        for (kind, part) in self.owed.drain(..) {
            assert!(self.stream.has(kind, &part), "no event {kind} with {part} was pushed in its turn");
        }
        for event in &self.stream.fresh {
            let here = match event.kind.as_str() {
                "peer_joined" => true,
                "peer_left" => false,
                _ => continue,
            };
            let named = |name: &str| event.payload.contains(&format!("\"name\":\"{name}\""));
            let is = |id: &Option<String>| id.as_ref().is_some_and(|id| event.payload.contains(id.as_str()));
            if let Some(who) = self.ids.iter().position(is).or_else(|| NAMES.iter().position(|name| named(name))) {
                assert!(self.told_here[who] != here, "{} joined or left twice", NAMES[who]);
                self.told_here[who] = here;
            }
        }
        for (who, name) in NAMES.iter().enumerate().filter(|(who, _)| *who != HUMAN) {
            let here = self.is_here(who) || self.pardoned[who];
            assert!(self.told_here[who] == here, "{name}: nobody was told in its turn that here is {here}");
        }
        let pending: Vec<&Ask> = pending.collect();
        for ask in &pending {
            self.check_wait(ask, &pending);
        }
        self.stream.fresh.clear();
    }

    /// Checks that a call has a reason to wait: it can't be answered yet, or its caller is away.
    fn check_wait(&self, ask: &Ask, pending: &[&Ask]) {
        assert!(ask.until.is_some_and(|until| until > self.now), "not answered in time: {ask:?}");
        match ask.op {
            "lock.lock" if self.is_served(ask) => {
                assert!(self.may_wait(ask, pending), "nothing is in the way of {ask:?}, and still it waits");
            }
            "inbox" => {
                let least = self.mail.unread(ask.who).0;
                assert!(least == 0, "{ask:?} waits for mail, and there are {least}");
            }
            _ => {}
        }
    }

    /// Whether a waiting call is answered. The peer must be online or be the human, or a verb must have made the call.
    fn is_served(&self, ask: &Ask) -> bool {
        ask.who == HUMAN || ask.is_verb || self.is_here(ask.who)
    }

    /// Whether a lock call may have to wait, for a lock or for an older lock call.
    fn may_wait(&self, ask: &Ask, pending: &[&Ask]) -> bool {
        let request = LockRequest::new(ask.who, &ask.args);
        self.locks.may_be_held(&request)
            || self.older_calls(ask, pending).any(|older| request.is_hindered_by_request(&older))
    }

    /// The requests of all older lock calls that still wait.
    fn older_calls(&self, ask: &Ask, pending: &[&Ask]) -> impl Iterator<Item = LockRequest> {
        let is_ahead = |older: &&&Ask| older.op == "lock.lock" && older.id < ask.id && self.is_served(older);
        pending.iter().filter(is_ahead).map(|older| LockRequest::new(older.who, &older.args))
    }

    /// Checks that a lock call did not overtake an older call. An older call that could be answered must already have
    /// its answer. If this call has waited, no older call for the same file may still be waiting.
    pub fn check_fairness<'a>(&self, ask: &Ask, pending: impl Iterator<Item = &'a Ask>) {
        let pending: Vec<&Ask> = pending.collect();
        // The calls of one caller may overtake each other, so `others` leaves out this caller's calls. `pending`
        // contains them, because a call of another caller may have to wait for one of them.
        let others: Vec<&Ask> =
            pending.iter().copied().filter(|other| other.conn != ask.conn || other.who != ask.who).collect();
        for older in others.iter().filter(|older| older.op == "lock.lock" && older.id < ask.id) {
            assert!(!self.is_served(older) || self.may_wait(older, &pending), "{ask:?} was served before {older:?}");
        }
        let request = LockRequest::new(ask.who, &ask.args);
        // A new call may overtake an older call if the older call waits for the caller of the new call. No call waits
        // for a caller that holds no lock and has no other waiting call. So the calls of such a caller must not
        // overtake older calls.
        let is_free = !self.locks.may_hold_any(ask.who) && pending.iter().all(|other| other.who != ask.who);
        if ask.until.is_some() && ask.args["steal"] != true && is_free {
            let passed = self.older_calls(ask, &pending).find(|older| request.is_hindered_by_request(older));
            assert!(passed.is_none(), "{ask:?} passed {passed:?} in the line");
        }
    }

    /// Records that a call which waits for mail may already have acknowledged the messages in its argument `ack`.
    pub fn may_have_acked(&mut self, ask: &Ask) {
        self.mail.perhaps_seen(ask.who, Some(&texts(&ask.args, "ack")), ACKED);
    }

    /// Checks an answer, and records what follows from it.
    pub fn learn(&mut self, ask: &Ask, result: &Result<Value, Error>) {
        self.mail.rank += 1;
        match result {
            Ok(value) => self.learn_answer(ask, value),
            Err(error) => self.learn_fault(ask, error),
        }
    }

    fn learn_answer(&mut self, ask: &Ask, value: &Value) {
        let (who, args, now) = (ask.who, &ask.args, self.now);
        match ask.op {
            "attach" => {
                self.is_told(who, &value["you"]["id"]);
                assert!(value["you"]["name"] == NAMES[who], "{} did not get its name back: {value}", NAMES[who]);
                self.mail.check_count(who, value["unread"].as_i64().expect("a count"));
            }
            "whoami" => {
                self.is_told(who, &value["you"]["id"]);
                assert!(value["you"]["name"] == NAMES[who], "as whom does {} act? {value}", NAMES[who]);
            }
            "send" => self.learn_send(ask, value),
            "inbox" if args["filter"] == "sent" => {
                self.mail.receipts(who, value["messages"].as_array().expect("messages"), now);
            }
            "inbox" => {
                self.mail.seen(who, &texts(args, "ack"), ACKED);
                self.shown = self.mail.inbox(who, value);
            }
            "inbox.mark_read" => self.mail.seen(who, &texts(args, "items"), READ),
            "state.set" => {
                let key = args["key"].as_str().expect("a key");
                let version = value["version"].as_i64().expect("a version");
                self.state.set(key, args, version, now);
                self.owe("state_changed", format!("\"version\":{version}"));
            }
            "state.delete" => self.state.deleted(args["key"].as_str().expect("a key"), value["deleted"] == true, now),
            "state.get" => self.state.got(args["key"].as_str().expect("a key"), &value["entry"], now),
            "lock.lock" => {
                let one = vec![value["lock"].clone()];
                self.learn_grant(ask, value["locks"].as_array().unwrap_or(&one));
            }
            "lock.unlock" => self.locks.unlocked(&LockRequest::new(who, args), true),
            "lock.query" => self.locks.listed(value["locks"].as_array().expect("locks"), now),
            "events.read" => {
                if let Some(after) = args["after"].as_i64() {
                    self.stream.read(after, &texts(args, "types"), value, now);
                }
            }
            "events.emit" => self.owe("sim.tick", args["payload"]["n"].to_string()),
            "peers" => self.learn_peers(value),
            _ => {}
        }
    }

    fn learn_grant(&mut self, ask: &Ask, rows: &[Value]) {
        let request = LockRequest::new(ask.who, &ask.args);
        self.steal(&request, &ask.args, true);
        self.locks.granted(&request, rows, self.now);
    }

    /// Records the locks that the human takes away, and the notices that their holders get.
    fn steal(&mut self, request: &LockRequest, args: &Value, is_sure: bool) {
        if args["steal"] != true {
            return;
        }
        for (holder, path, is_sure) in self.locks.stolen(request, is_sure, self.now) {
            if holder != HUMAN {
                let body = format!(
                    "{} took your lock on {path}. Do not write there until you hold the lock again.",
                    NAMES[HUMAN]
                );
                self.mail.add(holder, HUMAN, &body, None, self.now, is_sure);
            }
        }
    }

    fn is_told(&mut self, who: Who, id: &Value) {
        let id = id.as_str().expect("an id");
        let known = self.ids[who].get_or_insert_with(|| id.to_owned());
        assert!(known == id, "{} came back as another: {id}, not {known}", NAMES[who]);
    }

    fn learn_send(&mut self, ask: &Ask, value: &Value) {
        let (from, args, now) = (ask.who, &ask.args, self.now);
        let (body, expires) = (args["message"].as_str().expect("a text"), minutes(args, "expiresMinutes"));
        let expires = expires.map(|ms| now + ms);
        if let Some(id) = args["replyTo"].as_str() {
            self.mail.seen(from, &[id.to_owned()], ACKED);
        }
        let recipients = value["recipients"].as_array().expect("recipients");
        let mut told = Vec::new();
        for row in recipients {
            let to = who(&row["name"]).unwrap_or_else(|| panic!("mail for {row}"));
            assert!(row["here"] == self.is_here(to), "{}: who is here? {row}", NAMES[to]);
            told.push(to);
        }
        if args["to"] != "all" {
            self.mail.accepted(told[0], from, body, expires, value, now);
            if value["repeated"] != true {
                self.owe("message_received", value["messageId"].as_str().expect("an id"));
            }
            return;
        }
        told.sort_unstable();
        let all: Vec<Who> = self.audience(from);
        assert!(told == all, "a message to all went to {told:?}, and here are {all:?}");
        let ids = value["messageIds"].as_array().expect("ids");
        for (row, id) in recipients.iter().zip(ids) {
            let value = serde_json::json!({ "messageId": id });
            self.mail.accepted(who(&row["name"]).expect("known"), from, body, expires, &value, now);
        }
    }

    fn audience(&self, from: Who) -> Vec<Who> {
        (0..NAMES.len()).filter(|who| *who != from && (self.is_here(*who) || *who == HUMAN)).collect()
    }

    fn learn_peers(&self, value: &Value) {
        let mut told: Vec<Who> = Vec::new();
        for row in value["peers"].as_array().expect("peers") {
            let who = who(&row["name"]).unwrap_or_else(|| panic!("who is {row}?"));
            self.mail.check_count(who, row["unread"].as_i64().expect("a count"));
            let stale = WEB.contains(&who) && self.now - self.heard[who] >= STALE_MS;
            assert!(row["status"] == if stale { "stale" } else { "active" }, "is it? {row}");
            told.push(who);
        }
        told.sort_unstable();
        let here: Vec<Who> = (0..NAMES.len()).filter(|who| self.is_here(*who)).collect();
        assert!(told == here, "listed are {told:?}, and here are {here:?}");
    }

    fn learn_fault(&mut self, ask: &Ask, error: &Error) {
        let data = error.data.as_ref().unwrap_or(&Value::Null);
        let request = || LockRequest::new(ask.who, &ask.args);
        match (ask.op, error.kind) {
            ("lock.lock", ErrorKind::Held) if data["lock"].is_object() => {
                self.locks.refused(&request(), &data["lock"], &self.ids);
            }
            // The error contains a queue, so the call was prevented by an older call, and not by a lock.
            ("lock.lock", ErrorKind::Held) if data["queue"].is_array() => assert!(ask.until.is_some(), "{error}"),
            // The error contains neither a lock nor a queue. Such an error is right only if the caller was away when
            // the lock became free.
            ("lock.lock", ErrorKind::Held) => assert!(!self.is_served(ask), "{error} {ask:?}"),
            ("lock.lock", ErrorKind::Refused) if data["cycle"].is_array() => {
                assert!(self.locks.may_be_held(&request()), "a cycle without a lock: {error}");
            }
            (_, ErrorKind::Refused) if ask.until.is_some() && error.text.contains("while the call was waiting") => {}
            ("lock.unlock", ErrorKind::NotFound) => self.locks.not_unlocked(&request(), self.now),
            ("state.set" | "state.delete", ErrorKind::Conflict) => {
                self.state.conflict(ask.args["key"].as_str().expect("a key"), &ask.args);
            }
            _ => panic!("{} of {} failed: {error}", ask.op, NAMES[ask.who]),
        }
    }

    /// Records a call whose answer was lost. The call may have taken effect.
    pub fn lost(&mut self, ask: &Ask) {
        self.mail.rank += 1;
        let (from, args, now) = (ask.who, &ask.args, self.now);
        match ask.op {
            "send" | "/send" => {
                let body = args["message"].as_str().or(args["payload"].as_str()).expect("a text");
                let expires = minutes(args, "expiresMinutes").map(|ms| now + ms);
                if let Some(id) = args["replyTo"].as_str() {
                    self.mail.perhaps_seen(from, Some(&[id.to_owned()]), ACKED);
                }
                let by_id = |id: &str| self.ids.iter().position(|known| known.as_deref() == Some(id));
                let to = who(&args["to"]).or_else(|| args["toPeer"].as_str().and_then(by_id));
                for to in to.map_or_else(|| self.audience(from), |to| vec![to]) {
                    self.mail.perhaps(to, from, body, expires, now);
                }
            }
            "inbox" if args["filter"] == "sent" => {}
            "inbox" => {
                self.mail.perhaps_seen(from, Some(&texts(args, "ack")), ACKED);
                self.mail.inbox_lost(from);
            }
            "/messages" => self.mail.perhaps_seen(from, None, READ),
            "inbox.mark_read" => self.mail.perhaps_seen(from, Some(&texts(args, "items")), READ),
            "/state" if args["action"] == "get" => {}
            "state.set" | "state.delete" | "/state" => self.state.lost(args["key"].as_str().expect("a key"), now),
            "lock.lock" => {
                let request = LockRequest::new(from, args);
                self.steal(&request, args, false);
                self.locks.perhaps_granted(&request, now);
            }
            "/lock" if args["action"] == "lock" => self.locks.perhaps_granted(&LockRequest::new(from, args), now),
            "lock.unlock" | "/lock" => self.locks.unlocked(&LockRequest::new(from, args), false),
            "/heartbeat" => panic!("a heartbeat whose answer is lost says nothing; do not lose it"),
            _ => {}
        }
    }

    /// Checks an answer of the old HTTP API, and records what follows from it.
    pub fn learn_web(&mut self, ask: &Ask, value: &Value) {
        self.mail.rank += 1;
        let (who, args, now) = (ask.who, &ask.args, self.now);
        let ok = value["ok"] == true;
        let text = value["error"].as_str().unwrap_or("");
        match ask.op {
            "/register" => {
                assert!(ok, "{value}");
                self.is_told(who, &value["peerId"]);
                (self.web_here[who], self.heard[who]) = (true, now);
            }
            "/heartbeat" => {
                assert!(ok == self.web_here[who], "{}: is it here? {value}", NAMES[who]);
                self.heard[who] = now;
            }
            "/unregister" => {
                self.web_here[who] = false;
                self.locks.left(who);
            }
            "/send" => {
                let to = self.ids.iter().position(|id| id.as_deref() == args["toPeer"].as_str()).expect("known");
                self.mail.accepted(to, who, args["payload"].as_str().expect("a text"), None, value, now);
                self.owe("message_received", value["messageId"].as_str().expect("an id"));
            }
            "/messages" => {
                let rows = value["messages"].as_array().expect("messages");
                self.mail.fetched(who, rows, args["limit"].as_i64().expect("a limit") as usize);
            }
            "/state" if args["action"] == "get" => {
                self.state.got(args["key"].as_str().expect("a key"), &value["entry"], now);
            }
            "/state" => {
                let version = value["entry"]["version"].as_i64().expect("a version");
                self.state.set(args["key"].as_str().expect("a key"), args, version, now);
            }
            "/lock" if args["action"] == "lock" && ok => self.learn_grant(ask, std::slice::from_ref(&value["lock"])),
            "/lock" if args["action"] == "lock" => {
                assert!(text.starts_with("File locked by "), "{value}");
                assert!(self.locks.may_be_held(&LockRequest::new(who, args)), "refused by a lock that fell: {value}");
            }
            "/lock" if ok => self.locks.unlocked(&LockRequest::new(who, args), true),
            "/lock" => self.locks.not_unlocked(&LockRequest::new(who, args), now),
            _ => assert!(ok, "{value}"),
        }
    }
}
