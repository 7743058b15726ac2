//! Tests a client machine with several hubs in its settings. The client must find the hub that leads. When this hub
//! dies, the client must find the next leader.

use crate::SECRET;
use crate::false_hubs::{self, Cable, FalseHub, Front, Role};
use crate::support::{BIN, Place, Session, put_program, until};
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The time for which a client would wait for a hub that does not answer. A client asks several hubs at the same time,
/// so the test fails if the client takes this long.
const DEAD_HUB_WAIT: Duration = Duration::from_secs(3);
/// The time that is added to each time limit, because other tests keep the machine busy. The tests still notice a
/// session that is too slow, because such a session needs ten seconds.
const BUSY: Duration = Duration::from_secs(2);

/// Starts a real broker. Returns the broker, and the role of a fake hub that passes all requests on to this broker.
pub fn broker() -> (Place, Role) {
    let place = Place::new();
    place.ok(&["start", "--detach"]);
    let socket = place.dir.join("mesh.sock");
    (place, Role::Leads(socket))
}

pub fn guest(hubs: &[&str]) -> Place {
    Place::new()
        .with("SLM_MESH_HOST", &hubs.join(","))
        .with("SLM_MESH_ROLE", "client")
        .with("SLM_MESH_SHARED_SECRET", SECRET)
}

/// An address at which no hub listens.
fn dead() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Runs `slm-mesh peers`, which must succeed, and returns how long it took.
fn timed(guest: &Place) -> Duration {
    let began = Instant::now();
    guest.ok(&["peers"]);
    began.elapsed()
}

fn fails(guest: &Place) -> (Option<i32>, String) {
    let out = guest.run(&["peers"]);
    (out.status.code(), String::from_utf8(out.stderr).unwrap())
}

#[test]
fn a_dead_or_silent_hub_delays_only_the_first_verb_and_only_by_a_moment() {
    let (_broker, leads) = broker();
    let leader = FalseHub::start(leads);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let guest = guest(&[&dead(), &silent.local_addr().unwrap().to_string(), &leader.address()]);
    let took = timed(&guest);
    assert!(took < DEAD_HUB_WAIT, "{took:?}");
    let note = std::fs::read_to_string(guest.dir.join("leader")).unwrap();
    assert!(note.contains(&format!("\n{}\n", leader.address())), "the next verb asks the leader first: {note}");
    let n_asked = || std::iter::from_fn(|| silent.accept().ok()).count();
    assert_eq!((n_asked(), leader.n_connections()), (1, 1));
    timed(&guest);
    assert_eq!(leader.n_connections(), 2);
}

#[test]
fn a_standby_names_the_leader_even_to_a_guest_that_lists_only_the_standby() {
    let (_broker, leads) = broker();
    let leader = FalseHub::start(leads);
    let standby = FalseHub::start(Role::StandsBy(Some(leader.address())));
    let guest = guest(&[&standby.address()]);
    guest.ok(&["state", "set", "port", "8080"]);
    let n_asked = standby.n_connections();
    assert_eq!(guest.ok(&["state", "get", "port"]).trim(), "8080");
    assert_eq!(standby.n_connections(), n_asked, "the leader is remembered");
    // The two hubs swap their roles. The client still remembers the old leader, but must find the new leader.
    standby.become_(leader.become_(Role::StandsBy(Some(standby.address()))));
    assert_eq!(guest.ok(&["state", "get", "port"]).trim(), "8080");
    let n_asked = leader.n_connections();
    assert_eq!(guest.ok(&["state", "get", "port"]).trim(), "8080");
    assert_eq!(leader.n_connections(), n_asked, "and the only listed hub is asked directly again");
}

#[test]
fn a_wrong_hint_delays_nobody() {
    let (_broker, leads) = broker();
    let leader = FalseHub::start(leads);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for hint in
        ["no-such-hub.invalid:7900", &silent.local_addr().unwrap().to_string(), "", "::::", "ssh://-oProxyCommand=x"]
    {
        let standby = FalseHub::start(Role::StandsBy(Some(hint.to_owned())));
        let took = timed(&guest(&[&standby.address(), &leader.address()]));
        assert!(took < DEAD_HUB_WAIT, "{hint:?}: {took:?}");
    }
}

#[test]
fn hubs_that_name_each_other_are_an_error_in_time_and_not_a_loop() {
    let first = FalseHub::start(Role::StandsBy(None));
    let second = FalseHub::start(Role::StandsBy(Some(first.address())));
    first.become_(Role::StandsBy(Some(second.address())));
    let guest = guest(&[&first.address(), &second.address()]);
    let began = Instant::now();
    let (status, said) = fails(&guest);
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert!(status == Some(3) && said.contains("no hub is the leader at the moment"), "{status:?} {said}");
    for (one, other) in [(&first, &second), (&second, &first)] {
        assert!(
            said.contains(&format!("{} is a standby, and says that {} is the leader", one.address(), other.address())),
            "{said}"
        );
    }
    assert_eq!(first.n_connections() + second.n_connections(), 2, "each is connected to once");
}

#[test]
fn a_verb_waits_for_the_hub_that_takes_over() {
    let (_broker, leads) = broker();
    let standby = FalseHub::start(Role::StandsBy(None));
    let guest = guest(&[&dead(), &standby.address()]);
    let verb = std::thread::spawn(move || timed(&guest));
    until("the verb has come", || standby.n_connections() == 1);
    standby.become_(leads);
    let took = verb.join().unwrap();
    assert!(took < DEAD_HUB_WAIT, "{took:?}");
}

#[test]
fn when_all_hubs_are_down_the_error_names_each_with_its_cause() {
    let (_broker, leads) = broker();
    let hub = FalseHub::start(leads);
    let gone = Front::start(Cable::To(1));
    let stranger = FalseHub::start_with_secret(Role::StandsBy(None), "wrong horse battery staple");
    let down = dead();
    let guest = guest(&[&down, &gone.address(), &stranger.address(), "hub.invalid:1"]);
    let (status, said) = fails(&guest);
    assert!(status == Some(3) && said.contains("no hub answers"), "{status:?} {said}");
    for part in [
        &down[10..],
        "refused",
        &gone.address()[10..],
        "closed the connection",
        "does not know this secret",
        "hub.invalid",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(said.matches("slm-mesh doctor").count(), 1, "one cure for all: {said}");
    // One of the hubs can be reached again.
    gone.switch(Cable::To(hub.port()));
    timed(&guest);
}

#[test]
fn a_session_moves_within_a_second_when_its_hub_ceases_to_lead() {
    let (broker, leads) = broker();
    let first = FalseHub::start(leads);
    let second = FalseHub::start(Role::StandsBy(Some(first.address())));
    let guest = guest(&[&first.address(), &second.address()]);
    let mut session = guest.session("claude-code", "api");
    let id = own_id(&mut session);
    let waiting = session.ask("tools/call", json!({ "name": "mesh_inbox", "arguments": { "waitSeconds": 60 } }));
    until("the call waits", || first.has_open("inbox"));
    // The first hub stops leading. A moment later, the second hub begins to lead.
    let leads = first.become_(Role::StandsBy(None));
    second.become_(leads);
    let began = Instant::now();
    until("the call waits there", || second.has_open("inbox"));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1) + BUSY, "{took:?}");
    broker.ok(&["send", id.as_str().unwrap(), "after the move", "--as", "human"]);
    let (mail, _) = Session::content(&session.answer(waiting));
    assert_eq!(mail["messages"][0]["payload"], json!("after the move"));
    assert_eq!(own_id(&mut session), id);
}

#[test]
fn a_power_cut_under_waiting_calls_and_locks_moves_a_session_within_four_seconds() {
    let (broker, leads) = broker();
    let (first, second) = (FalseHub::start(leads.clone()), FalseHub::start(Role::StandsBy(None)));
    let cable = Front::start(Cable::To(first.port()));
    second.become_(Role::StandsBy(Some(cable.address())));
    let guest = guest(&[&cable.address(), &second.address()]);
    let mut session = guest.session("codex-mcp-client", "api");
    let id = own_id(&mut session);
    session.tool("mesh_lock", json!({ "action": "lock", "filePath": "/p/a.rs" }));
    broker.ok(&["lock", "/p/b.rs", "--as", "human"]);
    let inbox = session.ask("tools/call", json!({ "name": "mesh_inbox", "arguments": { "waitSeconds": 60 } }));
    let lock = json!({ "action": "lock", "filePath": "/p/b.rs", "waitSeconds": 60 });
    let lock = session.ask("tools/call", json!({ "name": "mesh_lock", "arguments": lock }));
    until("both calls wait", || first.has_open("inbox") && first.has_open("lock.lock"));

    let began = Instant::now();
    cable.switch(Cable::Cut);
    // After the cut, the other hub can take over only when the leader's lease has ended.
    std::thread::sleep(Duration::from_secs(3));
    second.become_(leads);
    until("both calls wait there", || second.has_open("inbox") && second.has_open("lock.lock"));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4) + BUSY, "{took:?}");

    broker.ok(&["unlock", "/p/b.rs", "--as", "human"]);
    let (granted, is_error) = Session::content(&session.answer(lock));
    assert!(!is_error && granted["lock"]["lockedBy"] == id, "{granted}");
    broker.ok(&["send", id.as_str().unwrap(), "after the cut", "--as", "human"]);
    let (mail, _) = Session::content(&session.answer(inbox));
    assert_eq!(mail["messages"][0]["payload"], json!("after the cut"));
    assert_eq!(own_id(&mut session), id);
    let held = broker.ok(&["lock", "list", "--json"]);
    assert!(held.contains("/p/a.rs"), "{held}");
}

#[test]
fn a_message_whose_receipt_was_lost_on_the_way_arrives_once() {
    let (broker, leads) = broker();
    let Role::Leads(socket) = leads.clone() else { unreachable!() };
    let (first, second) = (FalseHub::start(leads.clone()), FalseHub::start(Role::StandsBy(None)));
    let cable = Front::start(Cable::To(first.port()));
    let guest = guest(&[&cable.address(), &second.address()]);
    let mut session = guest.session("claude-code", "api");
    own_id(&mut session);
    first.become_(Role::LosesAnswers(socket));
    let arguments = json!({ "to": "human", "message": "once" });
    let sent = session.ask("tools/call", json!({ "name": "mesh_send", "arguments": arguments }));
    let mail = || broker.json(&["inbox", "--as", "human", "--filter", "all"])["messages"].clone();
    until("it has arrived", || mail()[0]["payload"] == json!("once"));
    second.become_(leads);
    cable.switch(Cable::To(second.port()));
    let (receipt, is_error) = Session::content(&session.answer(sent));
    assert!(!is_error, "{receipt}");
    assert_eq!(mail().as_array().unwrap().len(), 1, "{}", mail());
}

#[test]
fn a_message_whose_receipt_never_came_may_have_arrived_and_its_sender_is_told_to_check() {
    let (broker, leads) = broker();
    let Role::Leads(socket) = leads.clone() else { unreachable!() };
    let hub = FalseHub::start(leads);
    let cable = Front::start(Cable::To(hub.port()));
    let guest = guest(&[&cable.address()]);
    let mut session = guest.session("claude-code", "api");
    own_id(&mut session);
    hub.become_(Role::LosesAnswers(socket));
    let arguments = json!({ "to": "human", "message": "one" });
    let sent = session.ask("tools/call", json!({ "name": "mesh_send", "arguments": arguments }));
    let mail = || broker.json(&["inbox", "--as", "human", "--filter", "all"])["messages"].clone();
    until("it has arrived", || mail()[0]["payload"] == json!("one"));
    cable.switch(Cable::To(dead().rsplit(':').next().unwrap().parse().unwrap()));
    let (failed, is_error) = Session::content(&session.answer(sent));
    let said = failed["error"].as_str().unwrap();
    assert!(is_error && said.contains("check whether the call took effect before you try again"), "{said}");
    let (failed, _) = session.try_tool("mesh_send", json!({ "to": "human", "message": "two" }));
    assert!(!failed["error"].as_str().unwrap().contains("took effect"), "this call was never sent: {failed}");
}

#[test]
fn with_one_hub_a_verb_sends_what_it_always_sent() {
    let (_broker, leads) = broker();
    let hub = FalseHub::start(leads);
    let guest = guest(&[&hub.address()]);
    guest.ok(&["state", "set", "port", "8080"]);
    assert_eq!(hub.methods(), ["origin", "state.set"]);
    assert!(!guest.dir.join("leader").exists(), "there is nothing to remember");
}

#[test]
fn a_list_that_contradicts_itself_is_refused_with_the_cure() {
    for (hosts, role, want) in [
        ("hub1,127.0.0.1", "auto", "127.0.0.1 is this machine"),
        ("hub1,[::1]:7900", "auto", "[::1]:7900 is this machine"),
        ("localhost,hub1", "auto", "SLM_MESH_ROLE=client"),
        ("hub1,hub2", "broker", "set SLM_MESH_HOST=0.0.0.0 on a hub"),
        ("0.0.0.0,hub1", "client", "on a hub, set only 0.0.0.0"),
        ("0.0.0.0:7900", "auto", "set SLM_MESH_WS_PORT=7900"),
        ("hub1, hub2", "auto", "write hub1,hub2"),
        ("hub1,,hub2", "auto", "remove the extra comma"),
        ("hub1,HUB1", "auto", "listed twice"),
    ] {
        let place = Place::new().with("SLM_MESH_HOST", hosts).with("SLM_MESH_ROLE", role);
        let (status, said) = fails(&place.with("SLM_MESH_SHARED_SECRET", SECRET));
        assert!(status == Some(2) && said.contains(want), "{hosts} {role}: {status:?} {said}");
    }
    let without = Place::new().with("SLM_MESH_HOST", "hub1,ssh://hub2");
    let (status, said) = fails(&without);
    assert!(status == Some(2) && said.contains("SLM_MESH_SHARED_SECRET is missing"), "{status:?} {said}");
}

#[test]
fn doctor_tries_each_hub_and_says_which_one_leads() {
    let (_broker, leads) = broker();
    let leader = FalseHub::start(leads);
    let standby = FalseHub::start(Role::StandsBy(Some(leader.address())));
    let down = dead();
    let doctor = |hubs: &[&str]| {
        let out = guest(hubs).run(&["doctor"]);
        String::from_utf8(out.stdout).unwrap()
    };
    let said = doctor(&[&leader.address(), &standby.address()]);
    let (leads, stands_by) =
        (format!("hub {}", leader.address()), format!("is a standby, and {} is the leader", leader.address()));
    assert!(
        said.contains(&leads) && said.contains(&stands_by) && said.contains("a trial lock was taken and released"),
        "{said}"
    );
    assert!(!said.contains("WRONG"), "{said}");
    let said = doctor(&[&down, &standby.address()]);
    assert!(said.contains("(Connection refused") && said.contains("run slm-mesh doctor on the hub"), "{said}");
}

/// Opens the socket of a local broker that is a standby. The broker's errors contain the leader's address.
pub fn standby_on_this_machine(place: &Place, leader: String) {
    std::fs::create_dir_all(&place.dir).unwrap();
    let listener = UnixListener::bind(place.dir.join("mesh.sock")).unwrap();
    std::thread::spawn(move || {
        let role = Arc::new(Mutex::new(Role::StandsBy(Some(leader))));
        for stream in listener.incoming().map_while(Result::ok) {
            let role = Arc::clone(&role);
            std::thread::spawn(move || false_hubs::serve_lines(stream, &role));
        }
    });
}

#[test]
fn on_a_hub_that_stands_by_everything_goes_to_the_leader() {
    let (_broker, leads) = broker();
    let leader = FalseHub::start(leads);
    let hub = Place::new()
        .with("SLM_MESH_HOST", "0.0.0.0")
        .with("SLM_MESH_STORE", "etcd://127.0.0.1:1/mesh")
        .with("SLM_MESH_SHARED_SECRET", SECRET);
    standby_on_this_machine(&hub, leader.address());
    hub.ok(&["state", "set", "port", "8080"]);
    let mut session = hub.session("claude-code", "api");
    let id = own_id(&mut session);
    hub.ok(&["send", "claude-api", "from here", "--as", "human"]);
    assert_eq!(session.tool("mesh_inbox", json!({}))["messages"][0]["payload"], json!("from here"));
    assert!(leader.methods().contains(&"attach".to_owned()) && id.is_string());
    // A command can run under a lock even if the machine's own hub is a standby. `slm-mesh` exits with the command's
    // status.
    assert_eq!(hub.run(&["lock", "/p/a.rs", "--", "sh", "-c", "exit 9"]).status.code(), Some(9));
    // A client that uses ssh gets the address of the leader from the standby.
    let mut pipe = hub.command(&["pipe"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    writeln!(pipe.stdin.as_mut().unwrap(), r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{}}}}"#).unwrap();
    let mut answer = String::new();
    BufReader::new(pipe.stdout.take().unwrap()).read_line(&mut answer).unwrap();
    assert!(answer.contains("\"standby\"") && answer.contains(&leader.address()), "{answer}");
    drop(pipe.stdin.take());
    pipe.wait().unwrap();
}

#[test]
fn a_guest_without_a_secret_learns_how_it_can_reach_the_leader() {
    let standby = Place::new();
    standby_on_this_machine(&standby, "hub2:7900".into());
    let bin = standby.root.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let pipe =
        format!("#!/bin/sh\nunset SLM_MESH_HOST\nSLM_MESH_DATA_DIR='{}' exec '{BIN}' pipe\n", standby.dir.display());
    put_program(&bin.join("ssh"), pipe.as_bytes());
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let guest = Place::new().with("SLM_MESH_HOST", "ssh://standby").with("PATH", &path);
    // The client must not remember an address that it can't use. So the second run must give the same error as the
    // first.
    for _ in 0..2 {
        let (status, said) = fails(&guest);
        assert_eq!(status, Some(3), "{said}");
        assert!(said.contains("add ssh://hub2 to SLM_MESH_HOST, or set SLM_MESH_SHARED_SECRET"), "{said}");
        assert!(!said.contains("does not know this secret"), "{said}");
    }
}

/// Opens the socket of this machine's broker. The broker ends before it reads the first call. If `answers_ping` is
/// true, the client sends a ping before that call, and the broker answers the ping. Each later connection reaches the
/// next broker, which has the role `next`.
fn ending_broker_on_this_machine(place: &Place, answers_ping: bool, next: Role) {
    std::fs::create_dir_all(&place.dir).unwrap();
    let listener = UnixListener::bind(place.dir.join("mesh.sock")).unwrap();
    std::thread::spawn(move || {
        let (first, _) = listener.accept().unwrap();
        if answers_ping {
            let mut ping = String::new();
            BufReader::new(&first).read_line(&mut ping).unwrap();
            let id = serde_json::from_str::<Value>(&ping).unwrap()["id"].clone();
            writeln!(&first, "{}", json!({ "jsonrpc": "2.0", "id": id, "result": {} })).unwrap();
        }
        poll(&mut [PollFd::new(&first, PollFlags::IN)], None).unwrap();
        drop(first);
        let role = Arc::new(Mutex::new(next));
        for stream in listener.incoming().map_while(Result::ok) {
            let role = Arc::clone(&role);
            std::thread::spawn(move || false_hubs::serve_lines(stream, &role));
        }
    });
}

#[test]
fn on_a_hub_a_call_that_the_ending_broker_did_not_read_reaches_the_leader() {
    for (answers_ping, leads_itself) in [(false, false), (false, true), (true, false), (true, true)] {
        let (real, leads) = broker();
        let leader = FalseHub::start(leads);
        let hub = Place::new()
            .with("SLM_MESH_HOST", "0.0.0.0")
            .with("SLM_MESH_STORE", "etcd://127.0.0.1:1/mesh")
            .with("SLM_MESH_SHARED_SECRET", SECRET);
        let own = Role::Leads(real.dir.join("mesh.sock"));
        let next = if leads_itself { own } else { Role::StandsBy(Some(leader.address())) };
        ending_broker_on_this_machine(&hub, answers_ping, next);
        hub.ok(&["state", "set", "port", "8080", "--expect", "0"]);
        assert_eq!(real.ok(&["state", "get", "port"]).trim(), "8080");
    }
}

fn own_id(session: &mut Session) -> Value {
    session.tool("mesh_peers", json!({ "scope": "machine" }))["you"]["id"].clone()
}
