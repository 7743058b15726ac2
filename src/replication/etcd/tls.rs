//! The TLS certificates with which a hub and etcd authenticate each other.

use std::path::Path;

type AgentConfig = ureq::config::ConfigBuilder<ureq::typestate::AgentScope>;

/// Certificates and a private key, in PEM format.
#[derive(Clone)]
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub struct EtcdTls {
    /// The certificates of the authorities that may sign etcd's certificate.
    authorities: Vec<u8>,
    /// This hub's own certificate and private key, if etcd requires them.
    client: Option<(Vec<u8>, Vec<u8>)>,
}

impl EtcdTls {
    /// Reads the certificates and the key from files.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn read(authorities: &Path, client: Option<(&Path, &Path)>) -> Result<EtcdTls, String> {
        let read =
            |path: &Path| std::fs::read(path).map_err(|error| format!("{} can't be read: {error}", path.display()));
        let client = client.map(|(certificate, key)| Ok::<_, String>((read(certificate)?, read(key)?))).transpose()?;
        Ok(EtcdTls { authorities: read(authorities)?, client })
    }
}

/// Adds TLS to the configuration of a client.
#[cfg(feature = "tls")]
pub(super) fn with_tls(config: AgentConfig, tls: &EtcdTls) -> Result<AgentConfig, String> {
    use std::sync::Arc;
    use ureq::tls::{ClientCert, PrivateKey, RootCerts, TlsConfig};

    let client = match &tls.client {
        Some((chain, key)) => {
            let chain = certificates(chain, "SLM_MESH_STORE_CERT")?;
            let key = PrivateKey::from_pem(key);
            let key = key.map_err(|error| format!("SLM_MESH_STORE_KEY names a file without a key: {error}"))?;
            Some(ClientCert::new_with_certs(&chain, key))
        }
        None => None,
    };
    let authorities = certificates(&tls.authorities, "SLM_MESH_STORE_CA")?;
    let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&authorities)).client_cert(client);
    // `rustls` would choose a crypto provider by its cargo features, but this build enables none of these features.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(config.tls_config(tls.unversioned_rustls_crypto_provider(provider).build()))
}

/// Parses the certificates in a PEM file. An error mentions `setting`, the setting that contains the file's path.
#[cfg(feature = "tls")]
fn certificates(pem: &[u8], setting: &str) -> Result<Vec<ureq::tls::Certificate<'static>>, String> {
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(pem) {
        let item = item.map_err(|error| format!("the file that {setting} names can't be read: {error}"))?;
        if let ureq::tls::PemItem::Certificate(certificate) = item {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(format!("the file that {setting} names contains no certificate")) } else { Ok(found) }
}

/// Returns an error, because `etcds://` needs TLS and this program was built without it.
#[cfg(not(feature = "tls"))]
pub(super) fn with_tls(_: AgentConfig, _: &EtcdTls) -> Result<AgentConfig, String> {
    Err("this slm-mesh was built without TLS, so it can't use etcds://; install slm-mesh from a package, or build it \
         with make install FEATURES=tls"
        .into())
}
