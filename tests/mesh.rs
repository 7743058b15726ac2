//! The rules of the mesh by tables: a script of calls, and what comes of each. No process, no
//! clock, no file.
//!
//! A line is `WHO OP key=value … -> WANT …`, or `+TIME` to let time pass, or `WHO joins`, `WHO
//! connects` (a hook or verb), `WHO leaves`, `crash`. A want is `ok`, `waits`, or a fault's kind; then `path=value` compares a field of
//! the answer, and a quoted text must occur in it. `! WHO WANT…` looks at what came to somebody since.

use serde_json::{Map, Value, json};
use slm_mesh::mesh::{self, Args, Call, Conn, Mesh, Out, Settings};
use slm_mesh::store::Store;
use std::collections::HashMap;

struct Script {
    mesh: Option<Mesh>,
    now: i64,
    conns: HashMap<String, Conn>,
    next: u64,
    /// Answers to calls that waited, and notices, by who got them.
    came: HashMap<String, Vec<Value>>,
    /// Values kept by `as=$name` for later lines.
    kept: HashMap<String, String>,
}

fn open(store: Store, now: i64) -> Mesh {
    let settings = Settings {
        stale_ms: 30_000,
        dead_ms: 60_000,
        lock_ttl_min: 10,
        rate_max: 100,
        host: "here".into(),
        user: "ada".into(),
        version: "0".into(),
        pid: 1,
        port: 1,
    };
    let mut n = 7u128;
    let fresh = move || {
        n = n.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(12_345);
        n
    };
    Mesh::open(store, settings, Box::new(fresh), now).unwrap()
}

impl Script {
    fn new() -> Script {
        let now = 1_795_000_000_000;
        let mesh = Some(open(Store::memory().unwrap(), now));
        Script { mesh, now, conns: HashMap::new(), next: 100, came: HashMap::new(), kept: HashMap::new() }
    }

    fn mesh(&mut self) -> &mut Mesh {
        self.mesh.as_mut().unwrap()
    }

    /// Ends the turn and sorts what leaves by whom it is for.
    fn end_turn(&mut self) -> Vec<(String, Value, Result<Value, mesh::Fault>)> {
        assert!(self.mesh().commit());
        let names: HashMap<Conn, String> = self.conns.iter().map(|(name, conn)| (*conn, name.clone())).collect();
        let mut replies = Vec::new();
        for out in self.mesh().take_out() {
            match out {
                Out::Reply { conn, id, result } => replies.push((names[&conn].clone(), id, result)),
                Out::Notice { conn, method, params } if conn != 0 => {
                    let list = self.came.entry(names[&conn].clone()).or_default();
                    list.push(json!({ "method": method, "params": params }));
                }
                Out::Notice { params, .. } => panic!("trouble: {params}"),
                _ => {}
            }
        }
        replies
    }

    fn join(&mut self, who: &str) {
        self.next += 1;
        self.conns.insert(who.to_owned(), self.next);
        let conn = self.next;
        self.mesh().joined(conn);
        // `b@other` works in another project than `a` does.
        let (name, project) = who.split_once('@').unwrap_or((who, "p"));
        let args = json!({ "agent": "test", "project": format!("/{project}"), "pid": 5, "name": name, "repo": "r", "gitRoot": format!("/{project}"), "session": format!("key-{who}") });
        let (_, result) = self.ask(who, "attach", args.as_object().unwrap()).expect("attach answers");
        result.unwrap();
        self.came.clear();
    }

    fn ask(&mut self, who: &str, op: &str, args: &Map<String, Value>) -> Option<(Value, Result<Value, mesh::Fault>)> {
        self.next += 1;
        let id = json!(self.next);
        let conn = *self.conns.get(who).unwrap_or_else(|| panic!("{who} has not joined"));
        let op = mesh::op(op).unwrap_or_else(|| panic!("no operation {op}"));
        let args: Args = match op.check(args) {
            Ok(args) => args,
            Err(fault) => return Some((id, Err(fault))),
        };
        let now = self.now;
        self.mesh().call(Call { conn, id: id.clone(), op, args, acting: None, chain: Vec::new() }, now);
        let mut own = None;
        for (to, reply_id, result) in self.end_turn() {
            if reply_id == id {
                own = Some((reply_id, result));
            } else {
                let value = result.unwrap_or_else(|fault| fault.to_value());
                self.came.entry(to).or_default().push(value);
            }
        }
        own
    }

    fn pass(&mut self, ms: i64) {
        let until = self.now + ms;
        // As the loop does: wake at each deadline on the way.
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
        for (to, _, result) in self.end_turn() {
            let value = result.unwrap_or_else(|fault| fault.to_value());
            self.came.entry(to).or_default().push(value);
        }
    }

    fn run(&mut self, line: &str) {
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
                self.mesh().joined(conn);
            }
            [who, "leaves"] => {
                let (conn, now) = (self.conns[*who], self.now);
                self.mesh().left(conn, now);
                self.end_turn();
                self.conns.remove(*who);
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
                    Some((_, Err(fault))) => (fault.kind.row().word, fault.to_value()),
                };
                let (want_kind, rest) = want.split_once(' ').unwrap_or((want, ""));
                assert_eq!(want_kind, kind, "{line}\n{value}");
                judge(line, rest, &value.to_string(), &value, &mut self.kept);
            }
            _ => panic!("what is {line}?"),
        }
    }
}

/// Splits at spaces outside single quotes.
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

fn check(script: &str) {
    let mut run = Script::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        run.run(line);
    }
}

#[test]
fn mail_is_offered_again_until_it_was_shown() {
    check(
        "
        a joins
        b joins
        a send to=b message=hello -> ok messageId=$m recipients.0.receipt=accepted
        ! b -> '\"unread\":1'
        b status -> ok mail.unread=1 mail.from.0=a
        b inbox -> ok messages.0.payload=hello ~again
        b inbox -> ok messages.0.payload=hello messages.0.again=true
        a inbox filter=sent -> ok messages.0.receipt=offered messages.0.surface=mesh_inbox
        b shown items=[$m] -> ok
        b inbox -> ok messages=[]
        a inbox filter=sent -> ok messages.0.receipt=read
    ",
    );
}

#[test]
fn an_answer_acknowledges_what_it_answers() {
    check(
        "
        a joins
        b joins
        a send to=b message=question -> ok messageId=$m
        b send to=a message=answer replyTo=$m -> ok
        a inbox filter=sent -> ok messages.0.receipt=acked
        a inbox -> ok messages.0.payload=answer messages.0.replyTo=$again
        b inbox -> ok messages=[]
        a send to=b message=x replyTo=nonsense -> not_found nonsense
    ",
    );
}

#[test]
fn mail_waits_for_who_is_away_and_finds_it_again() {
    check(
        "
        a joins
        b joins
        b leaves
        a peers scope=machine -> ok peers=[]
        a peers scope=machine includeAway=true -> ok '\"name\":\"b\"' '\"status\":\"away\"'
        a send to=b message=later -> ok recipients.0.here=false
        crash
        b joins
        b inbox -> ok messages.0.payload=later
        a joins
        a send to=nobody message=x -> not_found nobody mesh_peers
    ",
    );
}

#[test]
fn groups_reach_those_who_are_here_and_never_the_sender() {
    check(
        "
        a joins
        b joins
        c@q joins
        a send to=all message=x -> ok '\"name\":\"b\"' '\"name\":\"c\"' '\"name\":\"ada\"' ~'\"name\":\"a\"'
        a send to=directory message=x -> ok '\"name\":\"b\"' ~'\"name\":\"c\"'
        a send to=repo message=x -> ok '\"name\":\"b\"' '\"name\":\"c\"'
        a send to=agent:codex message=x -> ok note
        a send to=b message=once key=k1 -> ok ~repeated
        a send to=b message=once key=k1 -> ok repeated=true
        b inbox -> ok '\"remaining\":0'
    ",
    );
}

#[test]
fn a_message_expires_unread() {
    check(
        "
        a joins
        b joins
        a send to=b message=soon expiresMinutes=1 -> ok
        +2m
        b inbox -> ok messages=[]
        b status -> ok ~mail
        a inbox filter=sent -> ok messages.0.receipt=expired
    ",
    );
}

#[test]
fn a_waiting_inbox_is_answered_by_what_comes_and_by_time() {
    check(
        "
        a joins
        b joins
        b inbox waitSeconds=10 -> waits
        a send to=b message=now -> ok
        ! b -> now
        a inbox waitSeconds=10 -> waits
        +9s
        ! a -> ~messages
        +2s
        ! a -> '\"messages\":[]'
    ",
    );
}

#[test]
fn state_changes_only_if_nobody_else_changed_it() {
    check(
        "
        a joins
        b joins
        a state.set key=k value=one expect=0 -> ok version=1
        b state.set key=k value=two expect=0 -> conflict version=1
        b state.set key=k value=two expect=1 -> ok version=2
        a state.get key=k -> ok entry.value=two entry.updatedByName=b
        a state.delete key=k expect=1 -> conflict
        a state.delete key=k -> ok deleted=true
        a state.get key=k -> ok entry=null
        a state.set key=k value=three -> ok version=4
        a state.set key=t value=x ttlMinutes=1 -> ok
        +2m
        a state.get key=t -> ok entry=null
        a state.list prefix=k -> ok entries.0.key=k
        a state.get key=k colour=red -> usage colour key
        a state.get -> usage key
        a state.set key=k value=5 -> usage value
    ",
    );
}

#[test]
fn a_lock_has_one_holder_and_says_who() {
    check(
        "
        a joins
        b joins
        a lock.lock filePath=/p/x reason=refactor -> ok token=1 expiresInSeconds=600
        b lock.lock filePath=/p/./y/../x -> held 'locked by a' 'reason: refactor' '10 min left' waitSeconds
        a lock.lock filePath=/p/x ttlMinutes=60 -> ok token=1 expiresInSeconds=3600
        b lock.unlock filePath=/p/x -> not_found 'locked by a'
        b lock.lock filePaths='[\"/p/w\",\"/p/x\"]' -> held
        b lock.lock filePath=/p/w -> ok token=2
        b lock.lock filePath=/p/ -> held
        b lock.lock filePath=/p/**/x -> held
        a lock.unlock filePath=/p/x -> ok
        b lock.lock filePath=/p/ -> ok
        a lock.lock filePath=/p/deep/er -> held
        a lock.lock filePath=relative -> usage absolute
        a lock.lock filePath=/q ttlMinutes=61 -> usage ttlMinutes
        a lock.lock filePath=/q steal=true -> refused human
        +61m
        a lock.lock filePath=/p/deep/er -> ok
    ",
    );
}

#[test]
fn who_waits_for_a_lock_gets_it_in_turn() {
    check(
        "
        a joins
        b joins
        c joins
        a lock.lock filePath=/p/x -> ok token=1
        b lock.lock filePath=/p/x waitSeconds=60 -> waits
        c lock.lock filePath=/p/x waitSeconds=60 -> waits
        a lock.query -> ok locks.0.queue.0=b locks.0.queue.1=c
        a lock.unlock filePath=/p/x -> ok
        ! b -> '\"token\":2'
        ! c -> ~token
        b leaves
        +6s
        ! c -> '\"token\":3'
        a lock.lock filePath=/p/x waitSeconds=5 -> waits
        +6s
        ! a -> held 'locked by c'
    ",
    );
}

#[test]
fn a_wait_that_would_never_end_is_refused_with_its_cycle() {
    check(
        "
        a joins
        b joins
        c joins
        a lock.lock filePath=/p/1 -> ok
        b lock.lock filePath=/p/2 -> ok
        c lock.lock filePath=/p/3 -> ok
        a lock.lock filePath=/p/2 waitSeconds=60 -> waits
        b lock.lock filePath=/p/3 waitSeconds=60 -> waits
        c lock.lock filePath=/p/1 waitSeconds=60 -> refused 'a waits for b waits for c'
        c lock.unlock filePath=/p/3 -> ok
        ! b -> token
    ",
    );
}

#[test]
fn locks_fall_when_their_session_does_not_come_back() {
    check(
        "
        a joins
        b joins
        a lock.lock filePath=/p/x -> ok
        a leaves
        b lock.lock filePath=/p/x -> held
        +4s
        a joins
        +20s
        b lock.lock filePath=/p/x -> held
        a leaves
        +6s
        b lock.lock filePath=/p/x -> ok token=2
        crash
        +1s
        c joins
        c lock.lock filePath=/p/x -> held
        +5s
        c lock.lock filePath=/p/x -> ok token=3
        c detach -> ok
        a joins
        a lock.lock filePath=/p/x -> ok token=4
    ",
    );
}

#[test]
fn work_trees_conflict_only_when_asked() {
    check(
        "
        a joins
        b@q joins
        a lock.lock filePath=/p/src/x -> ok
        b@q lock.lock filePath=/q/src/x -> ok
        b@q lock.unlock filePath=/q/src/x -> ok
        b@q lock.lock filePath=/q/src/x scope=repo -> held
        a lock.unlock filePath=/p/src/x -> ok
        b@q lock.lock filePath=/q/src/x scope=repo -> ok
        a lock.lock filePath=/p/src/x -> held
    ",
    );
}

#[test]
fn events_have_a_cursor_that_never_goes_back() {
    check(
        "
        a joins
        b joins
        a events.read types='[\"peer_joined\"]' -> ok events.0.emittedByName=a events.1.emittedByName=b
        b events.read waitSeconds=5 -> waits
        a events.emit type=deploy.done payload='{\"to\":\"x\"}' -> ok
        ! b -> deploy.done '\"to\":\"x\"'
        b events.subscribe types='[\"deploy.done\"]' -> ok subscribed.0=deploy.done
        a state.set key=k value=v -> ok
        ! b -> ~event
        a events.emit type=deploy.done -> ok
        ! b -> '\"method\":\"event\"' deploy.done
        b events.unsubscribe -> ok
        a events.emit type=deploy.done -> ok
        ! b -> ~event
        a events.emit type=deploy -> usage dot
        a events.read since=yesterday -> usage since
        a events.read since=2020-01-01T00:00:00Z limit=1 -> ok events.0.seq=1 more=true seq=1
        +72h
        +1s
        a events.read after=1 -> ok gap=true
    ",
    );
}

#[test]
fn a_fast_sender_is_told_to_wait() {
    let mut run = Script::new();
    run.run("a joins");
    run.run("b joins");
    for _ in 0..100 {
        run.run("a send to=b message=x -> ok");
    }
    run.run("a send to=b message=x -> limited 'rate limit' SLM_MESH_RATE");
    run.run("b send to=a message=x -> ok");
    run.run("a inbox -> ok messages.0.payload=x");
    run.run("+11s");
    run.run("a send to=b message=x -> ok");
}

#[test]
fn names_are_given_once_and_kept() {
    check(
        "
        a joins
        a@other joins
        a peers scope=machine -> ok peers.0.name=a-2
        a whoami -> ok you.name=a kind=session
        a@other summary summary='building the thing' -> ok
        a peers scope=machine -> ok peers.0.summary='building the thing'
        a peers scope=directory -> ok peers=[]
        a peers scope=galaxy -> usage directory
    ",
    );
}

#[test]
fn an_edit_locks_its_files_until_the_turn_ends() {
    check(
        "
        h connects
        h turn.edit agent=claude-code session=s1 project=/p files='[\"/p/x\",\"/p/y\"]' -> ok you.name=claude-p
        a joins
        a lock.lock filePath=/p/x -> held 'locked by claude-p' 'reason: editing' '2 min left'
        +60s
        h turn.edit agent=claude-code session=s1 project=/p files='[\"/p/x\"]' -> ok
        +70s
        a lock.lock filePath=/p/y -> ok
        a lock.lock filePath=/p/x -> held
        h turn.edit agent=claude-code session=s1 project=/p files='[\"/p/x\",\"/p/y\"]' -> held 'locked by a'
        h turn.edit agent=codex session=t1 project=/p files='[\"/p/x\"]' -> held 'locked by claude-p'
        h turn.end agent=claude-code session=s1 project=/p -> ok
        a lock.lock filePath=/p/x -> ok
    ",
    );
}

#[test]
fn an_agent_is_never_refused_by_its_own_lock_and_what_it_locked_itself_outlives_its_turn() {
    check(
        "
        h connects
        a joins
        b joins
        a lock.lock filePath=/p/own ttlMinutes=30 -> ok token=1
        h turn.edit agent=test session=key-a project=/p files='[\"/p/own\",\"/p/edited\",\"/p/both\"]' -> ok you.name=a
        a lock.lock filePath=/p/both -> ok
        a lock.lock filePath=/p/own bound=command -> ok
        h turn.end agent=test session=key-a project=/p -> ok
        b lock.lock filePath=/p/edited -> ok
        b lock.lock filePath=/p/own -> held
        b lock.lock filePath=/p/both -> held
        h turn.end agent=test session=key-a project=/p leave=true -> ok
        b lock.lock filePath=/p/both -> ok
    ",
    );
}

#[test]
fn a_hook_shows_mail_once_whatever_hooks_also_fire() {
    check(
        "
        h connects
        g connects
        a joins
        h turn.mail agent=claude-code session=s1 project=/p around=true -> ok messages=[] peers.0.name=a
        a send to=claude-p message=hello -> ok messageId=$m
        h turn.mail agent=claude-code session=s1 project=/p -> ok messages.0.payload=hello
        g turn.mail agent=claude-code session=s1 project=/p -> ok messages=[]
        +3s
        h turn.mail agent=claude-code session=s1 project=/p -> ok messages.0.again=true
        a send to=all message=everybody -> ok
        +3s
        h turn.mail agent=claude-code session=s1 project=/p direct=true -> ok messages.0.payload=hello ~everybody
    ",
    );
}
