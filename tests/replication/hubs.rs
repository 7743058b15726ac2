//! Tests several hubs that share a real etcd, with real brokers, verbs (subcommands) and sessions.

use crate::cluster::{Cluster, is_installed};
use crate::support::{BIN, Place, project, until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SECRET: &str = "a secret of several hubs";
/// A client asks several hubs at the same time. So even if one hub does not answer, the client must need less time than
/// this.
const STOPPED_HUB_WAIT: Duration = Duration::from_secs(3);

impl Cluster {
    /// The value of `SLM_MESH_STORE` for the hubs of the mesh with this name.
    pub fn setting(&self, name: &str) -> String {
        format!("{}://{}/{name}", self.scheme(), self.hosts().join(","))
    }

    /// A new hub of the mesh with this name. Its broker is not started yet.
    pub fn hub(&self, name: &str) -> Place {
        Place::new()
            .with("SLM_MESH_HOST", "0.0.0.0")
            .with("SLM_MESH_SHARED_SECRET", SECRET)
            .with("SLM_MESH_STORE", &self.setting(name))
            .with("SLM_MESH_LEASE", "2")
    }
}

/// The HTTP port in the settings. Sessions of other machines use the next port.
fn port(place: &Place) -> u16 {
    place.env.iter().find(|(name, _)| name == "SLM_MESH_PORT").unwrap().1.parse().unwrap()
}

/// A client machine that has these hubs in its settings.
pub fn guest(hubs: &[&Place]) -> Place {
    let hubs: Vec<String> = hubs.iter().map(|hub| format!("127.0.0.1:{}", port(hub) + 1)).collect();
    Place::new()
        .with("SLM_MESH_HOST", &hubs.join(","))
        .with("SLM_MESH_ROLE", "client")
        .with("SLM_MESH_SHARED_SECRET", SECRET)
}

/// Removes `SLM_MESH_STORE` from a hub's settings, so that the hub no longer shares a mesh with other hubs.
pub fn alone(mut hub: Place) -> Place {
    hub.env.retain(|(name, _)| name != "SLM_MESH_STORE");
    hub
}

pub fn kill(hub: &Place) {
    let pid = hub.broker_pid().unwrap().to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
}

/// The status of this hub, even if another hub leads; null if the connection breaks, as it does when the hub stops
/// leading.
pub fn hub_status(hub: &Place) -> Value {
    let mut socket = hub.socket();
    let id = socket.ask("hub.status", json!({}));
    let answer = std::iter::from_fn(|| socket.read()).find(|line| line["id"] == json!(id));
    answer.map_or(Value::Null, |line| line["result"].clone())
}

/// The number of the last log entry that this hub has applied; `None` while the hub changes its role.
pub fn position(hub: &Place) -> Option<u64> {
    hub_status(hub)["position"].as_u64()
}

/// Waits until both hubs have applied the same log entries.
pub fn await_equal(first: &Place, second: &Place) {
    until("the other hub has it all", || {
        let position_of_first = position(first);
        position_of_first.is_some() && position(second) == position_of_first
    });
}

/// Waits until this hub knows the leader, has all log entries, and reports no problem.
pub fn await_level(hub: &Place) {
    until("the hub follows", || {
        let status = hub_status(hub);
        status["leader"].is_string() && status["levelMsAgo"].is_i64() && status["trouble"].is_null()
    });
}

pub fn start(hub: &Place) {
    hub.ok(&["start", "--detach"]);
}

fn token(text: &str) -> i64 {
    serde_json::from_str::<Value>(text).unwrap()["token"].as_i64().unwrap()
}

/// Starts two hubs whose leases last this many seconds. The first hub leads. Returns `None` if etcd is not installed.
fn two_hubs(lease: &str) -> Option<(Cluster, Place, Place)> {
    if !is_installed() {
        return None;
    }
    let cluster = Cluster::start();
    let hub = || cluster.hub("slm").with("SLM_MESH_LEASE", lease);
    let hubs = start_both(hub(), hub());
    Some((cluster, hubs.0, hubs.1))
}

/// Starts two hubs one after the other, so that the first one leads.
pub fn start_both(first: Place, second: Place) -> (Place, Place) {
    start(&first);
    until("the first hub leads", || hub_status(&first)["role"] == "leads");
    start(&second);
    await_level(&second);
    (first, second)
}

#[test]
fn a_mesh_moves_from_one_hub_to_three_and_back_and_loses_nothing() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let mut first = alone(cluster.hub("slm"));
    first.ok(&["state", "set", "begun", "alone"]);
    first.ok(&["send", "human", "from one hub"]);
    let before = token(&first.ok(&["lock", "a.rs", "--json"]));
    first.env.push(("SLM_MESH_STORE".into(), cluster.setting("slm")));
    start(&first);
    let (second, third) = (cluster.hub("slm"), cluster.hub("slm"));
    for hub in [&second, &third] {
        start(hub);
        await_level(hub);
    }
    // The second hub stands by, so its commands make their calls to the hub that leads.
    assert_eq!(second.ok(&["state", "get", "begun"]).trim(), "alone");
    second.ok(&["state", "set", "through", "a standby"]);
    let guest = guest(&[&first, &second, &third]);
    let mut session = guest.session("codex-mcp-client", "api");
    let id = session.tool("mesh_status", json!({}))["you"]["id"].clone();
    let wait = session.ask("tools/call", json!({ "name": "mesh_inbox", "arguments": { "waitSeconds": 60 } }));

    kill(&first);
    // The command must find the new leader, and the session must repeat its waiting call there.
    guest.ok(&["send", "codex-api", "after the kill", "--key", "k1", "--as", "human"]);
    let mail = session.answer(wait).to_string();
    assert!(mail.contains("after the kill"), "{mail}");
    assert_eq!(session.tool("mesh_status", json!({}))["you"]["id"], id);
    guest.ok(&["send", "codex-api", "after the kill", "--key", "k1", "--as", "human"]);
    let again = session.tool("mesh_inbox", json!({ "filter": "all" })).to_string();
    assert_eq!(again.matches("after the kill").count(), 1, "a key is done once: {again}");
    for (key, value) in [("begun", "alone"), ("through", "a standby")] {
        assert_eq!(guest.ok(&["state", "get", key]).trim(), value);
    }
    let after = token(&guest.ok(&["lock", "b.rs", "--json"]));
    assert!(after > before, "tokens grow: {before} {after}");
    session.close();

    start(&first);
    await_level(&first);
    for hub in [&second, &third] {
        hub.ok(&["stop"]);
    }
    until("the last hub leads", || hub_status(&first)["role"] == "leads");
    first.ok(&["stop"]);
    let first = alone(first);
    assert_eq!(first.ok(&["state", "get", "through"]).trim(), "a standby");
    assert!(token(&first.ok(&["lock", "c.rs", "--json"])) > after);
    let mail = first.ok(&["log", "--json"]);
    assert!(mail.contains("from one hub") && mail.contains("after the kill"), "{mail}");
}

#[test]
fn a_hub_that_gives_way_is_followed_at_once() {
    // The lease lasts 60 seconds. If the other hub waited until the lease ends, the test would fail.
    let Some((_cluster, first, second)) = two_hubs("60") else { return };
    first.ok(&["state", "set", "k", "v"]);
    let mut script = python_script(&second, ANSWERS_ON_A_STANDBY);
    let mut said = BufReader::new(script.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "v", "a script on a hub that stands by works at the one that leads");
    first.ok(&["stop"]);
    until("the other hub leads", || hub_status(&second)["role"] == "leads");
    assert_eq!(second.ok(&["state", "get", "k"]).trim(), "by a script");
    drop(script.stdin.take());
    assert_eq!(said.next().unwrap().unwrap(), "by a script");
    assert!(script.wait().unwrap().success());
    second.ok(&["stop"]);
}

/// A Python script that makes a few calls, waits for the end of its input, and makes more calls.
const ANSWERS_ON_A_STANDBY: &str = "import sys, slm_mesh
mesh = slm_mesh.Mesh('script')
before = mesh.state_get('k').value
mesh.state_set('k', 'by a script')
print(before, flush=True)
sys.stdin.read()
print(mesh.state_get('k').value)";

fn python_script(place: &Place, text: &str) -> Child {
    let verb = place.command(&[]);
    let mut python = Command::new("python3");
    python.args(["-c", text]).env_clear().envs(verb.get_envs().filter_map(|(name, value)| Some((name, value?))));
    python.env("PYTHONPATH", project().join("python")).env("PYTHONDONTWRITEBYTECODE", "1").env("SLM_MESH_BIN", BIN);
    python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_stopped_hub_is_left_by_its_session_and_by_verbs() {
    let Some((_cluster, first, second)) = two_hubs("2") else { return };
    let guest = guest(&[&first, &second]);
    let mut session = guest.session("claude-code", "api");
    let id = session.tool("mesh_status", json!({}))["you"]["id"].clone();
    let inbox = session.ask("tools/call", json!({ "name": "mesh_inbox", "arguments": { "waitSeconds": 60 } }));
    let pid = first.broker_pid().unwrap().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    signal("-STOP");
    until("the other hub leads", || hub_status(&second)["role"] == "leads");
    let began = Instant::now();
    guest.ok(&["send", "claude-api", "over here", "--as", "human"]);
    assert!(began.elapsed() < STOPPED_HUB_WAIT, "a verb does not wait for it: {:?}", began.elapsed());
    let mail = session.answer(inbox).to_string();
    assert!(mail.contains("over here"), "{mail}");
    assert_eq!(session.tool("mesh_status", json!({}))["you"]["id"], id);
    signal("-CONT");
    first.ok(&["stop"]);
    second.ok(&["stop"]);
}

#[test]
fn a_hub_without_the_shared_log_gets_no_guests_and_a_continued_log_keeps_them() {
    let Some((cluster, first, second)) = two_hubs("2") else { return };
    let private = alone(cluster.hub("slm"));
    start(&private);
    let guest = guest(&[&first, &second, &private]);
    guest.ok(&["state", "set", "k", "shared"]);
    for hub in [&second, &first] {
        hub.ok(&["stop"]);
    }
    let out = guest.run(&["state", "set", "k", "private"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let address = format!("127.0.0.1:{}", port(&private) + 1);
    assert!(!out.status.success() && said.contains(&format!("{address} shares no mesh with other hubs")), "{said}");
    assert!(!private.run(&["state", "get", "k"]).status.success());
    cluster.control(&["del", "--prefix", "slm/"]).unwrap();
    first.ok(&["start", "--detach", "--new-log"]);
    until("the hub leads", || hub_status(&first)["role"] == "leads");
    assert_eq!(guest.ok(&["state", "get", "k"]).trim(), "shared");
    first.ok(&["stop"]);
    private.ok(&["stop"]);
}

#[test]
fn a_deposed_hub_tells_nothing_and_follows() {
    let Some((_cluster, first, second)) = two_hubs("2") else { return };
    first.ok(&["state", "set", "k", "old"]);
    let pid = first.broker_pid().unwrap().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    signal("-STOP");
    until("the other hub leads", || hub_status(&second)["role"] == "leads");
    second.ok(&["state", "set", "k", "new"]);
    // The hub is frozen, so it does not read this request yet.
    let mut waiting = first.socket();
    let id = waiting.ask("state.get", json!({ "key": "k" }));
    signal("-CONT");
    // The hub may refuse the request or close the connection, but must not return its old data.
    let answer = std::iter::from_fn(|| waiting.read()).find(|line| line["id"] == json!(id));
    assert!(answer.as_ref().is_none_or(|line| line["error"]["data"]["kind"] == "standby"), "{answer:?}");
    await_level(&first);
    assert_eq!(first.ok(&["state", "get", "k"]).trim(), "new");
    first.ok(&["stop"]);
    second.ok(&["stop"]);
}

#[test]
fn a_verb_of_an_agent_that_no_file_describes_is_that_agents_at_a_new_leader_too() {
    let Some((_cluster, first, second)) = two_hubs("2") else { return };
    let guest = guest(&[&first, &second]);
    guest.ok(&["send", "human", "for the person", "--as", "human"]);
    let mut session = guest.session("newcomer", "api");
    let id = session.tool("mesh_status", json!({}))["you"]["id"].clone();
    let pid = session.child.id().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    // The session is frozen, so the first client of the new leader is a command and not the session.
    signal("-STOP");
    kill(&first);
    assert_eq!(guest.json(&["whoami"])["you"]["id"], id);
    assert!(!guest.ok(&["inbox"]).contains("for the person"));
    signal("-CONT");
    assert_eq!(session.tool("mesh_status", json!({}))["you"]["id"], id);
    second.ok(&["stop"]);
}

#[test]
fn two_meshes_never_mix() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let (first, stranger) = (cluster.hub("slm"), alone(cluster.hub("slm")));
    start(&first);
    first.ok(&["state", "set", "mesh", "first"]);
    // This machine had its own mesh before it became a hub of the mesh `slm`.
    stranger.ok(&["state", "set", "mesh", "other"]);
    let mut stranger = stranger;
    stranger.env.push(("SLM_MESH_STORE".into(), cluster.setting("slm")));
    start(&stranger);
    let status = hub_status(&stranger);
    assert!(status["trouble"].as_str().is_some_and(|why| why.contains("belongs to another mesh")), "{status}");
    let doctor = stranger.run(&["doctor"]);
    assert!(!doctor.status.success());
    // With `--rejoin`, the hub sets its old database aside and joins the mesh.
    stranger.ok(&["start", "--detach", "--rejoin"]);
    await_level(&stranger);
    assert_eq!(stranger.ok(&["state", "get", "mesh"]).trim(), "first");
    let kept = std::fs::read_dir(&stranger.dir).unwrap().flatten();
    let kept = kept.filter(|file| file.file_name().to_string_lossy().starts_with("broker.db.before-rejoin")).count();
    assert!(kept >= 1, "the old database is there");
    // A hub of a mesh with a different name uses the same etcd, but must see no data of the first mesh.
    let other = cluster.hub("slm2");
    start(&other);
    assert!(!other.run(&["state", "get", "mesh"]).status.success());
    for hub in [&first, &stranger, &other] {
        hub.ok(&["stop"]);
    }
}

#[test]
fn a_log_that_etcd_lost_begins_anew_only_on_request() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let hub = cluster.hub("slm");
    start(&hub);
    hub.ok(&["state", "set", "k", "v"]);
    hub.ok(&["stop"]);
    cluster.control(&["del", "--prefix", "slm/"]).unwrap();
    start(&hub);
    let out = hub.run(&["state", "get", "k"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert!(said.contains("etcd has no log under the name"), "{said}");
    hub.ok(&["start", "--detach", "--new-log"]);
    assert_eq!(hub.ok(&["state", "get", "k"]).trim(), "v");
    hub.ok(&["stop"]);
}

#[test]
fn a_standby_that_missed_too_much_gets_a_snapshot_and_a_guest_gets_none() {
    let Some((cluster, first, second)) = two_hubs("2") else { return };
    second.ok(&["stop"]);
    for n in 0..20 {
        first.ok(&["state", "set", &format!("key{n}"), "v"]);
    }
    // Deletes the first log entries. The other hub was away, so it has not read these entries.
    cluster.control(&["del", "slm/log/0000000000000000", "slm/log/0000000000000010"]).unwrap();
    start(&second);
    await_level(&second);
    first.ok(&["stop"]);
    assert_eq!(second.ok(&["state", "get", "key19"]).trim(), "v");
    // To get a snapshot, a hub must write a ticket into etcd. A client that has only the secret can't do this.
    let mut stranger = second.socket();
    let asked = Instant::now();
    let refusal = loop {
        let id = stranger.ask("hub.snapshot", json!({ "hub": "me:1", "ticket": "guessed" }));
        let answer = std::iter::from_fn(|| stranger.read()).find(|line| line["id"] == json!(id)).unwrap();
        if answer["error"].is_object() {
            break answer["error"]["message"].to_string();
        }
        assert!(asked.elapsed() < Duration::from_secs(20), "{answer}");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(refusal.contains("only a hub of this mesh can get a snapshot"), "{refusal}");
    second.ok(&["stop"]);
}

/// The settings files and commands in the README's chapter about several hubs.
fn chapter_of_readme() -> (Vec<String>, Vec<String>) {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let chapter = text.split("## A mesh that outlives its hub").nth(1).unwrap().split("\n## ").next().unwrap();
    let files = chapter.split("```ini\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned());
    (files.collect(), chapter.lines().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect())
}

#[test]
fn the_settings_and_commands_of_the_readme_set_hubs_and_guests_up() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::start();
    let (files, commands) = chapter_of_readme();
    let ([of_hub, of_guest], [on_hub, on_guest]) = (&files[..], &commands[..]) else {
        panic!("{files:?} {commands:?}")
    };
    // The test uses the settings from the README. It only replaces hosts, ports, the secret and etcd's certificate.
    let authority = "SLM_MESH_STORE_CA=/etc/ssl/etcd-ca.pem\n";
    assert!(of_hub.contains("etcds://") && of_hub.contains(authority), "etcds:// does not work without it: {of_hub}");
    let hubs: Vec<Place> = (0..2).map(|_| Place::new()).collect();
    let addresses: Vec<String> = hubs.iter().map(|hub| format!("127.0.0.1:{}", port(hub) + 1)).collect();
    let configure = |place: &Place, file: &str| {
        let file = file.replace("etcds://a:2379,b:2379,c:2379/slm", &cluster.setting("slm")).replace(authority, "");
        let file = file.replace("hub1,hub2", &addresses.join(",")).replace('…', SECRET);
        std::fs::create_dir_all(&place.dir).unwrap();
        std::fs::write(place.dir.join("config"), file).unwrap();
    };
    let run = |place: &Place, line: &str| {
        let mut shell = Command::new("sh");
        shell.envs(place.env.iter().map(|(name, value)| (name, value)));
        shell.env("SLM_MESH_DATA_DIR", &place.dir).env("PATH", path_with_program());
        let out = shell.args(["-c", line]).output().unwrap();
        let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        assert!(out.status.success(), "{line}: {said}");
        said
    };
    for hub in &hubs {
        configure(hub, of_hub);
        run(hub, on_hub);
        await_level_or_lead(hub);
    }
    let guest = Place::new().with("SLM_MESH_ROLE", "client");
    configure(&guest, of_guest);
    let said = run(&guest, on_guest);
    assert!(said.contains("Hub: ") && said.contains("has been the leader"), "{said}");
    for hub in &hubs {
        hub.ok(&["stop"]);
    }
}

/// A search path on which the tested program comes first.
fn path_with_program() -> String {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_slm-mesh"));
    format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap())
}

fn await_level_or_lead(hub: &Place) {
    until("the hub has a role", || {
        let status = hub_status(hub);
        status["role"] == "leads" || status["leader"].is_string() && status["levelMsAgo"].is_i64()
    });
}

#[test]
fn wrong_settings_are_refused_in_a_sentence() {
    let refused = |settings: &[(&str, &str)]| {
        let place = settings.iter().fold(Place::new(), |place, (name, value)| place.with(name, value));
        let out = place.run(&["start", "--detach"]);
        assert!(!out.status.success());
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    let (any, secret) = (("SLM_MESH_HOST", "0.0.0.0"), ("SLM_MESH_SHARED_SECRET", SECRET));
    let local = ("SLM_MESH_STORE", "etcd://127.0.0.1:2379/slm");
    for (settings, word) in [
        (&[local][..], "set SLM_MESH_HOST to an address of this machine"),
        (&[any, local], "SLM_MESH_SHARED_SECRET is missing"),
        (&[any, secret, ("SLM_MESH_STORE", "etcd://etcd.example:2379/slm")], "unencrypted"),
        (&[any, secret, ("SLM_MESH_STORE", "etcd://127.0.0.1:2379")], "has no mesh name"),
        (&[any, secret, ("SLM_MESH_STORE", "redis://127.0.0.1/slm")], "is not an etcd address"),
        (&[any, secret, local, ("SLM_MESH_STORE_CA", "/nowhere/ca.pem")], "/nowhere/ca.pem can't be read"),
        (&[any, secret, local, ("SLM_MESH_LEASE", "1")], "SLM_MESH_LEASE"),
        (&[any, secret, local, ("SLM_MESH_PEER_URL", "http://127.0.0.1:7899")], "cannot be linked to other meshes"),
    ] {
        let said = refused(settings);
        assert!(said.contains(word), "{word}: {said}");
    }
    let place = Place::new();
    let out = place.run(&["start", "--rejoin"]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("SLM_MESH_STORE, which is not set"));
}
