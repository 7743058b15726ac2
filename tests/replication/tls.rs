//! TLS connections to etcd. The tests create their own certificate authority.

use crate::certificates::{Authority, Issued};
use crate::cluster::{Cluster, LEASE, Security, is_installed};
use crate::hubs::start;
use crate::support::until;
use crate::{entry, texts, won};
use slm_mesh::replication::etcd::{EtcdAddress, EtcdLog, EtcdSettings, EtcdTls};
use slm_mesh::replication::{Append, LogError, Position, ReplicatedLog};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

fn tls(authority: &Path, client: Option<&Issued>) -> EtcdTls {
    EtcdTls::read(authority, client.map(|issued| (&*issued.certificate, &*issued.key))).unwrap()
}

fn refusal(log: Result<EtcdLog, String>) -> String {
    log.unwrap().lead("hub2:7900").unwrap_err().to_string()
}

#[test]
fn etcd_and_the_hub_prove_themselves_with_certificates() {
    if !is_installed() || cfg!(not(feature = "tls")) {
        return;
    }
    let dir = std::env::temp_dir().join(format!("slm-mesh-certificates-{}", std::process::id()));
    let (authority, stranger) = (Authority::new(&dir, "authority"), Authority::new(&dir, "stranger"));
    let server = authority.issue("server", "/O=etcd", 2);
    let hub = authority.issue("hub", "/O=hub", 2);
    let security = Security { authority: authority.certificate(), server, client: hub.clone() };
    let cluster = Cluster::start_with(Some(security), &[]);
    let log = |tls, user| cluster.secure_log("slm", tls, user);

    let mut leads = log(Some(tls(&authority.certificate(), Some(&hub))), None).unwrap();
    let term = won(&mut leads, "hub1:7900");
    assert_eq!(leads.append(Position(1), &entry(term, "sealed")), Append::Stored);
    assert_eq!(texts(&mut leads, 1), ["sealed"]);

    let error = log(None, None).err().unwrap();
    assert!(error.contains("SLM_MESH_STORE_CA"), "{error}");
    let error = log(Some(tls(&hub.key, Some(&hub))), None).err().unwrap();
    assert!(error.contains("SLM_MESH_STORE_CA names contains no certificate"), "{error}");
    let swapped = Issued { certificate: hub.certificate.clone(), key: hub.certificate.clone() };
    let error = log(Some(tls(&authority.certificate(), Some(&swapped))), None).err().unwrap();
    assert!(error.contains("SLM_MESH_STORE_KEY names a file without a key"), "{error}");
    assert!(EtcdTls::read(&dir.join("missing.pem"), None).is_err());

    let error = refusal(log(Some(tls(&stranger.certificate(), Some(&hub))), None));
    assert!(error.contains("UnknownIssuer"), "{error}");
    for client in [None, Some(authority.issue("expired", "/O=hub", -1)), Some(stranger.issue("strange", "/O=hub", 2))] {
        let error = refusal(log(Some(tls(&authority.certificate(), client.as_ref())), None));
        assert!(error.contains("does not answer"), "{error}");
    }

    // When authentication is on, etcd refuses JSON requests from a client whose certificate has a common name.
    for words in [&["user", "add", "root:secret"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]] {
        cluster.control(words).unwrap();
    }
    let named = authority.issue("named", "/CN=root", 2);
    let mut trapped = log(Some(tls(&authority.certificate(), Some(&named))), Some(("root", "secret"))).unwrap();
    let error = trapped.leader().unwrap_err();
    assert!(
        matches!(&error, LogError::Refused(why) if why.contains("common name (CN); use a certificate without one")),
        "{error:?}"
    );
    let mut works = log(Some(tls(&authority.certificate(), Some(&hub))), Some(("root", "secret"))).unwrap();
    assert_eq!(texts(&mut works, 1), ["sealed"]);
    doctor_names_the_trap(&cluster, &authority, &named, &hub);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Starts a hub whose certificate has a common name, and checks that doctor explains why etcd refuses this hub. A hub
/// whose certificate has no common name must work.
fn doctor_names_the_trap(cluster: &Cluster, authority: &Authority, named: &Issued, unnamed: &Issued) {
    let hub = |issued: &Issued| {
        let place = cluster.hub("secure").with("SLM_MESH_STORE_CA", authority.certificate().to_str().unwrap());
        let place = place.with("SLM_MESH_STORE_CERT", issued.certificate.to_str().unwrap());
        let place = place.with("SLM_MESH_STORE_KEY", issued.key.to_str().unwrap());
        place.with("SLM_MESH_STORE_USER", "root").with("SLM_MESH_STORE_PASSWORD", "secret")
    };
    let trapped = hub(named);
    start(&trapped);
    let doctor = trapped.run(&["doctor"]);
    let found = String::from_utf8(doctor.stdout).unwrap();
    assert!(!doctor.status.success() && found.contains("common name (CN)"), "{found}");
    assert!(found.contains("use a certificate without one"), "{found}");
    let works = hub(unnamed);
    start(&works);
    works.ok(&["state", "set", "k", "sealed"]);
    assert_eq!(works.ok(&["state", "get", "k"]).trim(), "sealed");
    works.ok(&["stop"]);
}

#[test]
fn etcd_with_a_wrong_certificate_is_refused() {
    if cfg!(not(feature = "tls")) {
        return;
    }
    let dir = std::env::temp_dir().join(format!("slm-mesh-wrong-certificates-{}", std::process::id()));
    let (authority, stranger) = (Authority::new(&dir, "authority"), Authority::new(&dir, "stranger"));
    for (server, word) in [
        (authority.issue("expired", "/O=etcd", -1), "Expired"),
        (authority.issue_for("127.0.0.2", "elsewhere", "/O=etcd", 2), "not valid for name"),
        (stranger.issue("strange", "/O=etcd", 2), "UnknownIssuer"),
    ] {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut etcd = Command::new("openssl");
        etcd.args(["s_server", "-quiet", "-accept", &format!("127.0.0.1:{port}")]);
        etcd.arg("-cert").arg(&server.certificate).arg("-key").arg(&server.key);
        let mut etcd = etcd.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until("the server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let address = EtcdAddress::parse(&format!("etcds://127.0.0.1:{port}/slm")).unwrap();
        let tls = Some(tls(&authority.certificate(), None));
        let error = refusal(EtcdLog::new(EtcdSettings { address, tls, user: None, lease_seconds: LEASE }));
        assert!(error.contains(word), "{word}: {error}");
        etcd.kill().unwrap();
        etcd.wait().unwrap();
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_program_without_tls_says_so() {
    if cfg!(feature = "tls") {
        return;
    }
    let address = EtcdAddress::parse("etcds://etcd.example/slm").unwrap();
    let any_file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    let settings = EtcdSettings { address, tls: Some(tls(any_file, None)), user: None, lease_seconds: LEASE };
    let error = EtcdLog::new(settings).err().unwrap();
    assert!(error.contains("built without TLS"), "{error}");
}
