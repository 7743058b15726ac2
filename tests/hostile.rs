//! Tests input that could stop a process: too deeply nested, too long, or slow to handle. The process must not end, and
//! must continue to serve other clients. For HTTP, see tests/http/hostile.rs and tests/http_thread.

mod stdio;
mod support;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};
use stdio::{Bare, call, code, request};
use support::{Place, Socket, lives, until};

/// The depth of nested JSON values in these tests. At this depth, a recursive parser would overflow its stack.
const DEPTH: usize = 100_000;

struct Stage {
    place: Place,
    pid: u32,
    neighbour: Socket,
}

impl Stage {
    fn new() -> Stage {
        let place = Place::new().with("SLM_MESH_RATE", "1000000");
        place.ok(&["start", "--detach"]);
        let (pid, neighbour) = (place.broker_pid().unwrap(), place.socket());
        Stage { place, pid, neighbour }
    }

    /// Checks that the same broker is still running, has not panicked, and serves old and new connections.
    fn check(&mut self) {
        assert_eq!(self.neighbour.call("ping", json!({}))["result"], json!({}));
        assert_eq!(self.place.socket().call("status", json!({}))["result"]["status"], json!("ok"));
        assert!(lives(self.pid) && self.place.broker_pid() == Some(self.pid), "another broker, or none");
        assert!(!self.place.log().contains("panic"), "{}", self.place.log());
    }
}

/// A connection to the broker's socket, over which a test can send any bytes. The broker answers each line with one
/// line.
struct Mad(BufReader<UnixStream>);

impl Mad {
    fn new(place: &Place) -> Mad {
        let stream = UnixStream::connect(place.dir.join("mesh.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Mad(BufReader::new(stream))
    }

    fn says(&mut self, line: &str) -> Value {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        self.0.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?} to {line:.80}"))
    }
}

/// JSON values that are nested too deeply. Some values are complete. Other values lack their closing brackets.
fn deep() -> Vec<String> {
    let nest = |open: &str, close: &str| format!("{}0{}", open.repeat(DEPTH), close.repeat(DEPTH));
    vec![nest("[", "]"), "[".repeat(DEPTH), nest("{\"a\":", "}"), "{\"a\":".repeat(DEPTH), nest("[{\"a\":", "}]")]
}

#[test]
fn deep_json_is_no_message_on_the_socket() {
    let mut stage = Stage::new();
    let mut mad = Mad::new(&stage.place);
    for value in deep() {
        for line in [
            value.clone(),
            format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"events.emit\",\"params\":{{\"type\":\"a.b\",\"payload\":{value}}}}}"
            ),
            format!("{{\"jsonrpc\":\"2.0\",\"id\":{value},\"method\":\"ping\"}}"),
            format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{value}}}"),
        ] {
            assert_eq!(code(&mad.says(&line)), -32700, "{line:.90}");
        }
    }
    stage.check();
}

#[test]
fn deep_json_is_no_message_for_a_session() {
    let stage = Stage::new();
    let mut session = Bare::legacy(&stage.place, "2025-03-26", "p");
    for value in deep() {
        for line in [
            value.clone(),
            format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{{\"name\":\"mesh_status\",\"arguments\":{value}}}}}"
            ),
            format!("[{value}]"),
        ] {
            session.write(format!("{line}\n").as_bytes());
            assert_eq!(code(&session.read().unwrap()), -32700, "{line:.90}");
        }
    }
    let (value, is_error) = session.call(7, "mesh_status", json!({}));
    assert!(!is_error, "{value}");
}

#[test]
fn what_was_just_not_too_deep_to_be_told_can_be_heard() {
    let mut stage = Stage::new();
    let mut session = Bare::legacy(&stage.place, "2025-11-25", "p");
    session.call(1, "mesh_status", json!({}));
    let mut mad = Mad::new(&stage.place);
    let mut n_taken = 0;
    for depth in 1..130 {
        let payload = format!("{}{{}}{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        let line = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"events.emit\",\"params\":{{\"type\":\"deep.one\",\"payload\":{payload}}}}}"
        );
        n_taken += i64::from(mad.says(&line).get("result").is_some());
    }
    assert!(n_taken > 50, "{n_taken} were taken");
    let (value, is_error) = session.call(2, "mesh_events", json!({ "types": ["deep.one"], "limit": 3 }));
    assert!(!is_error && value["events"].as_array().is_some_and(|rows| !rows.is_empty()), "{value:.200}");
    assert!(stage.place.json(&["events", "--limit", "3"])["events"].is_array());
    stage.check();
}

#[test]
fn numbers_beyond_their_bounds_are_answered() {
    let mut stage = Stage::new();
    let mut session = stage.place.session("test", "p");
    session.tool("mesh_status", json!({}));
    let numbers = [
        "0",
        "-1",
        "0.5",
        "-0.0",
        "1e15",
        "9e15",
        "9007199254740993",
        "9223372036854775807",
        "-9223372036854775808",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "1e308",
        "-1e308",
    ];
    let places = [
        ("inbox", "limit", ""),
        ("inbox", "after", ""),
        ("events.read", "limit", ""),
        ("events.read", "after", ""),
        ("events.read", "waitSeconds", ",\"after\":-9223372036854775808"),
        ("state.get", "from", ",\"key\":\"k\""),
        ("state.set", "expect", ",\"key\":\"k\",\"value\":\"v\""),
        ("state.set", "ttlMinutes", ",\"key\":\"k\",\"value\":\"v\""),
        ("send", "expiresMinutes", ",\"to\":\"human\",\"message\":\"x\""),
        ("lock.lock", "ttlMinutes", ",\"filePath\":\"/a\""),
        ("attach", "pid", ",\"agent\":\"a\",\"project\":\"/p\""),
        ("peers", "limit", ""),
    ];
    let mut mad = Mad::new(&stage.place);
    for (method, name, rest) in places {
        for n in numbers {
            let line =
                format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\",\"params\":{{\"{name}\":{n}{rest}}}}}");
            let answer = mad.says(&line);
            assert!(
                answer.get("result").is_some() || code(&answer) == -32602 || code(&answer) >= 1001,
                "{line}: {answer}"
            );
        }
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\",\"params\":{{\"{name}\":1e999}}}}");
        assert_eq!(code(&mad.says(&line)), -32700, "no number of JSON");
    }
    for n in numbers {
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":{n},\"method\":\"ping\"}}");
        assert!(mad.says(&line)["jsonrpc"] == "2.0", "{n}");
    }
    session.tool("mesh_status", json!({}));
    stage.check();
}

#[test]
fn names_that_mean_something_else_are_given_another_form() {
    let mut stage = Stage::new();
    let mut mad = Mad::new(&stage.place);
    for (n, name) in ["a:b", "a/b", ":", "/", "agent:x"].iter().enumerate() {
        let params = json!({ "name": name, "agent": "x/y:z", "project": "/p", "pid": 1 });
        let answer = mad.says(&request(n as i64, "attach", params).to_string());
        assert_eq!(answer["error"]["data"]["argument"], "name", "{name}: {answer}");
    }
    for (n, name) in ["all", "repo", "cli"].iter().enumerate() {
        let params = json!({ "name": name, "agent": "x/y:z", "project": "/p", "pid": 1 });
        let answer = mad.says(&request(n as i64, "attach", params).to_string());
        let given = answer["result"]["you"]["name"].as_str().unwrap_or_else(|| panic!("{name}: {answer}"));
        assert!(given != *name && !given.contains([':', '/']), "{name} became {given}");
    }
    let params = json!({ "agent": "x/y:z", "session": "s", "project": "/q" });
    assert!(mad.says(&request(99, "hook.mail", params).to_string())["result"]["you"]["name"].is_string());
    stage.check();
}

#[test]
fn hooks_fail_nobody_over_what_they_are_told() {
    let mut stage = Stage::new();
    let long = format!("{{\"hook_event_name\":\"Stop\",\"x\":\"{}\"}}", "x".repeat(5 << 20));
    let inputs = deep().into_iter().chain([long, "\u{0}".repeat(1 << 20), String::new(), "1e999".into()]);
    for input in inputs {
        let mut command = stage.place.command(&["hook", "claude"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // The write may fail, because the hook may stop reading before the end of its input.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        let is_no_verdict = said.is_empty() || said.starts_with("{\"systemMessage\":");
        assert!(child.wait().unwrap().success() && is_no_verdict, "{input:.60}: {said}");
    }
    stage.check();
}

#[test]
fn sixty_four_globs_at_once_against_a_full_table_leave_others_their_turn() {
    let mut stage = Stage::new();
    let mut session = Bare::legacy(&stage.place, "2025-11-25", "p");
    session.call(1, "mesh_status", json!({}));
    let mut n_taken = 0;
    for k in 0..64 {
        // These globs have the same long beginning, but do not overlap. So each comparison must read two globs to the
        // end.
        let paths: Vec<String> =
            (0..64).map(|n| format!("/{}{k}/{}b{n}.rs", "a/".repeat(20), "?a*".repeat(6))).collect();
        let line = call(2 + k, "mesh_lock", json!({ "action": "lock", "filePaths": paths, "ttlMinutes": 60 }));
        session.send(&line);
        assert_eq!(stage.neighbour.call("ping", json!({}))["result"], json!({}));
        let answer = session.answer(&json!(2 + k));
        n_taken += i64::from(answer["result"]["isError"] == json!(false));
    }
    assert!(n_taken > 0, "none was taken");
    stage.check();
}

/// The CPU time that a process has used. Unlike elapsed time, CPU time does not depend on the load of the machine.
/// Without /proc, returns the time since `began`.
fn computed(pid: u32, began: Instant) -> Duration {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return began.elapsed() };
    let fields = stat.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2);
    Duration::from_millis(fields.map(|ticks| 10 * ticks.parse::<u64>().unwrap()).sum())
}

/// Makes calls for the period `lasts`. Returns the maximum CPU time that the broker used for one call.
fn slowest_call(neighbour: &mut Socket, broker: u32, lasts: Duration) -> Duration {
    let (began, mut slowest) = (Instant::now(), Duration::ZERO);
    while began.elapsed() < lasts {
        let before = computed(broker, began);
        assert!(neighbour.call("state.set", json!({ "key": "k", "value": "v" })).get("result").is_some());
        slowest = slowest.max(computed(broker, began) - before);
    }
    slowest
}

#[test]
fn lock_queries_with_globs_that_others_pipeline_are_their_own_cost() {
    let mut stage = Stage::new();
    let mut holder = stage.place.socket();
    holder.call("attach", json!({ "name": "holder", "agent": "test", "project": "/p", "pid": 1 }));
    for n in 0..4 {
        let paths: Vec<String> = (0..64).map(|k| format!("/{}{n}x{k}", "a/".repeat(1900))).collect();
        assert!(holder.call("lock.lock", json!({ "filePaths": paths })).get("result").is_some());
    }
    let globs: Vec<String> = (0..64).map(|n| format!("/**/q{n}/**/x?*")).collect();
    let query = format!("{}\n", request(1, "lock.query", json!({ "filePaths": globs }))).repeat(16);
    let mut pipelines: Vec<UnixStream> = (0..8).map(|_| connect(&stage.place)).collect();
    for stream in &mut pipelines {
        stream.set_nonblocking(true).unwrap();
        // The write may end in the middle of a query. This is fine, because it only has to fill the socket's buffer.
        let _ = stream.write(query.as_bytes());
    }
    // An earlier version of the broker needed more than a second for each call.
    let slowest = slowest_call(&mut stage.neighbour, stage.pid, Duration::from_millis(500));
    assert!(slowest < Duration::from_millis(700), "{slowest:?}");
    stage.check();
}

#[test]
fn idle_strangers_leave_room_for_a_newcomer_when_descriptors_run_out() {
    let place = Place::new();
    let start = place.command(&["start"]);
    let limited = format!("ulimit -n 64; exec {} start", start.get_program().to_string_lossy());
    let mut shell = std::process::Command::new("sh");
    for (name, value) in start.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    let mut broker = shell.args(["-c", &limited]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the broker listens", || UnixStream::connect(place.dir.join("mesh.sock")).is_ok());
    let mut session = place.socket();
    session.call("attach", json!({ "name": "here", "agent": "test", "project": "/p", "pid": 1 }));
    let idle: Vec<UnixStream> = (0..120).map(|_| connect(&place)).collect();
    let asked = Instant::now();
    assert_eq!(place.socket().call("status", json!({}))["result"]["status"], json!("ok"));
    // An earlier version of the broker needed a tenth of a second for each of the 120 idle connections.
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    assert_eq!(session.call("ping", json!({}))["result"], json!({}), "a session keeps its place");
    drop(idle);
    place.ok(&["stop"]);
    broker.wait().unwrap();
}

fn connect(place: &Place) -> UnixStream {
    UnixStream::connect(place.dir.join("mesh.sock")).unwrap()
}

#[test]
fn who_closes_its_own_side_is_answered_first() {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    for n in 0..200 {
        let mut client = place.socket();
        client.ask("state.set", json!({ "key": "k", "value": n.to_string() }));
        client.stream.shutdown(Shutdown::Write).unwrap();
        let answer = client.read().expect("it hung up without an answer");
        assert_eq!(answer["result"]["entry"]["value"], json!(n.to_string()));
        assert!(client.read().is_none(), "and then it hangs up, too");
    }
}
