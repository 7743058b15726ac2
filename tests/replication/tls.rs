//! TLS to etcd, with an authority of the test's own.

use crate::certificates::{Authority, Issued};
use crate::cluster::{Cluster, LEASE, Security, is_installed};
use crate::{entry, texts, won};
use slm_mesh::replication::etcd::{EtcdAddress, EtcdLog, EtcdSettings, EtcdTls};
use slm_mesh::replication::{Append, LogError, Position, ReplicatedLog};
use std::path::Path;

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
    let cluster = Cluster::start_with(Some(security));
    let log = |tls, user| cluster.secure_log("slm", tls, user);

    let mut leads = log(Some(tls(&authority.certificate(), Some(&hub))), None).unwrap();
    let term = won(&mut leads, "hub1:7900");
    assert_eq!(leads.append(Position(1), &entry(term, "sealed")), Append::Stored);
    assert_eq!(texts(&mut leads, 1), ["sealed"]);

    let error = log(None, None).err().unwrap();
    assert!(error.contains("SLM_MESH_STORE_CA"), "{error}");
    let error = log(Some(tls(&hub.key, Some(&hub))), None).err().unwrap();
    assert!(error.contains("SLM_MESH_STORE_CA holds no certificate"), "{error}");
    let swapped = Issued { certificate: hub.certificate.clone(), key: hub.certificate.clone() };
    let error = log(Some(tls(&authority.certificate(), Some(&swapped))), None).err().unwrap();
    assert!(error.contains("SLM_MESH_STORE_KEY holds no key"), "{error}");
    assert!(EtcdTls::read(&dir.join("missing.pem"), None).is_err());

    let error = refusal(log(Some(tls(&stranger.certificate(), Some(&hub))), None));
    assert!(error.contains("UnknownIssuer"), "{error}");
    for client in [None, Some(authority.issue("expired", "/O=hub", -1)), Some(stranger.issue("strange", "/O=hub", 2))] {
        let error = refusal(log(Some(tls(&authority.certificate(), client.as_ref())), None));
        assert!(error.contains("does not answer"), "{error}");
    }

    // With etcd's authentication on, a common name is a trap over JSON.
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
