//! A certificate authority for tests, and the certificates that it issues.

use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Authority {
    dir: PathBuf,
    name: String,
}

/// The paths of a certificate and of its private key.
#[derive(Clone)]
pub struct Issued {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

fn openssl(dir: &Path, words: &[&str]) {
    let out = Command::new("openssl").args(words).current_dir(dir).output().unwrap();
    assert!(out.status.success(), "openssl {words:?}: {}", String::from_utf8_lossy(&out.stderr));
}

impl Authority {
    /// Creates a certificate authority that keeps its files in this directory.
    pub fn new(dir: &Path, name: &str) -> Authority {
        std::fs::create_dir_all(dir).unwrap();
        let (key, out, subject) = (format!("{name}.key"), format!("{name}.pem"), format!("/O={name}"));
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let request = ["req", "-x509", "-days", "2", "-subj", &subject, "-keyout", &key, "-out", &out];
        openssl(dir, &[&request[..], &curve].concat());
        Authority { dir: dir.to_owned(), name: name.into() }
    }

    /// The path of the authority's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join(format!("{}.pem", self.name))
    }

    /// Issues a certificate for 127.0.0.1. It is valid for `days` days. If `days` is negative, it has already expired.
    pub fn issue(&self, file: &str, subject: &str, days: i32) -> Issued {
        self.issue_for("127.0.0.1", file, subject, days)
    }

    /// Issues a certificate for any IP address. The other arguments are as for `issue`.
    pub fn issue_for(&self, address: &str, file: &str, subject: &str, days: i32) -> Issued {
        let (key, csr, out, names) =
            (format!("{file}.key"), format!("{file}.csr"), format!("{file}.pem"), format!("{file}.ext"));
        std::fs::write(self.dir.join(&names), format!("subjectAltName=IP:{address}\n")).unwrap();
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        openssl(&self.dir, &[&["req", "-new", "-subj", subject, "-keyout", &key, "-out", &csr][..], &curve].concat());
        let (ca, ca_key) = (format!("{}.pem", self.name), format!("{}.key", self.name));
        let days = days.to_string();
        let from = ["x509", "-req", "-in", &csr, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
        openssl(&self.dir, &[&from[..], &["-days", &days, "-extfile", &names, "-out", &out]].concat());
        Issued { certificate: self.dir.join(out), key: self.dir.join(key) }
    }
}
