//! Tests how the broker chooses its port. Also tests the files from which existing clients read the broker's port,
//! token and process id.

use super::client::*;
use super::support::{Place, lives, until};
use rustix::process::Signal;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

fn mode(broker: &Broker, name: &str) -> u32 {
    let path = broker.place.dir.join(name);
    fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

fn text(broker: &Broker, name: &str) -> String {
    fs::read_to_string(broker.place.dir.join(name)).unwrap()
}

#[test]
fn the_files_of_existing_clients_are_there_and_private() {
    let broker = Broker::start();
    broker.http().peer("/p");
    let token = text(&broker, "broker.token");
    assert_eq!(token.len(), 64);
    assert!(token.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)), "{token}");
    assert_eq!(text(&broker, "port"), broker.port.to_string());
    let pid = text(&broker, "broker.pid");
    assert!(lives(pid.parse().unwrap()), "{pid:?}");
    for name in ["broker.token", "port", "broker.pid", "mesh.sock", "broker.db", "broker.db-wal"] {
        assert_eq!(mode(&broker, name), 0o600, "{name}");
    }
    for name in ["", "peers"] {
        assert_eq!(mode(&broker, name), 0o700, "{name}");
    }
}

#[test]
fn the_token_outlives_the_broker_and_two_meshes_have_two() {
    let mut broker = Broker::start();
    for signal in [Signal::TERM, Signal::KILL, Signal::INT] {
        broker.end(signal);
        broker.again();
        assert_eq!(text(&broker, "broker.token"), broker.token);
        assert_eq!(broker.http().get("/status").status, 200);
        assert_eq!(mode(&broker, "broker.token"), 0o600);
    }
    assert_ne!(Broker::start().token, broker.token);
}

#[test]
fn an_invalid_token_is_replaced() {
    let place = Place::new();
    fs::create_dir_all(&place.dir).unwrap();
    fs::write(place.dir.join("broker.token"), "short").unwrap();
    let broker = Broker::over(place);
    assert_eq!(broker.token.len(), 64);
    assert_eq!(broker.http().token("short").get("/status").status, 401);
    assert_eq!(mode(&broker, "broker.token"), 0o600);
}

#[test]
fn a_token_that_others_could_read_becomes_private() {
    let mut broker = Broker::start();
    broker.end(Signal::TERM);
    let path = broker.place.dir.join("broker.token");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    broker.again();
    assert_eq!(mode(&broker, "broker.token"), 0o600);
}

#[test]
fn an_orderly_end_removes_the_files_of_the_broker() {
    let mut broker = Broker::start();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        assert!(broker.end(signal).success(), "{signal:?}");
        for name in ["port", "broker.pid", "mesh.sock"] {
            assert!(!broker.place.dir.join(name).exists(), "{name} after {signal:?}");
        }
        broker.again();
    }
}

#[test]
fn files_left_by_a_crash_are_no_obstacle() {
    let mut broker = Broker::start();
    let before = (broker.port, text(&broker, "broker.pid"));
    broker.end(Signal::KILL);
    assert_eq!(text(&broker, "broker.pid"), before.1, "left behind");
    broker.again();
    // The new broker must use the old port again, because older clients read the port only once.
    assert_eq!(broker.port, before.0);
    assert_ne!(text(&broker, "broker.pid"), before.1);
}

#[test]
fn a_second_broker_in_the_same_directory_is_refused() {
    let broker = Broker::start();
    let out = broker.place.run(&["start"]);
    assert!(!out.status.success());
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("Broker already running (PID "), "{said}");
    assert_eq!(broker.http().get("/status").status, 200);
    assert_eq!(text(&broker, "port"), broker.port.to_string());
}

#[test]
fn a_taken_port_is_skipped() {
    let (place, taken) = loop {
        let place = Place::new();
        let port: u16 = place.env.iter().find(|(name, _)| name == "SLM_MESH_PORT").unwrap().1.parse().unwrap();
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            break (place, listener);
        }
    };
    let wanted = taken.local_addr().unwrap().port();
    let broker = Broker::over(place);
    assert!((wanted + 1..wanted + 10).contains(&broker.port), "{} for {wanted}", broker.port);
    assert_eq!(text(&broker, "port"), broker.port.to_string());
    assert_eq!(broker.http().get("/status").body["port"], serde_json::json!(broker.port));
}

#[test]
fn without_any_port_the_mesh_serves_its_socket() {
    let place = Place::new();
    let first: u16 = place.env.iter().find(|(name, _)| name == "SLM_MESH_PORT").unwrap().1.parse().unwrap();
    // The test occupies every port that the broker would try. If a bind fails, a different program already occupies the
    // port, which is just as good.
    let taken: Vec<_> = (first..first + 10).map(|port| TcpListener::bind(("127.0.0.1", port))).collect();
    let broker = Broker::over(place);
    broker.place.ok(&["state", "set", "k", "v"]);
    assert!(broker.place.log().contains("HTTP is not served, because no port"), "{}", broker.place.log());
    // Clients connect to the port in this file, so it must not be 0.
    assert!(!broker.place.dir.join("port").exists() || text(&broker, "port") != "0");
    drop(taken);
}

#[test]
fn a_broker_that_nobody_needs_ends_and_health_does_not_count() {
    let mut broker = Broker::with(&[("SLM_MESH_IDLE_TIMEOUT", "1500")]);
    let pid = broker.place.broker_pid().unwrap();
    let mut http = broker.http();
    until("it ends while asked for its health", || {
        http.send("GET /health HTTP/1.1\r\n\r\n");
        http.reply().is_none() || !lives(pid)
    });
    broker.again();
    let mut http = broker.http();
    let id = http.peer("/p");
    let began = std::time::Instant::now();
    until("more than the timeout has passed with heartbeats", || {
        http.ok("/heartbeat", serde_json::json!({ "peerId": id }));
        began.elapsed() > std::time::Duration::from_millis(2500)
    });
    http.ok("/unregister", serde_json::json!({ "peerId": id }));
    let pid = broker.place.broker_pid().unwrap();
    until("it ends when the last peer has left", || !lives(pid));
}
