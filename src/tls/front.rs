//! The certificate of the gateway itself, for a proxy that is reached in TLS (`listen.proxy_tls`).

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::ServerName;
use time::OffsetDateTime;

use super::certificate::read_pair;
use super::leaf::{Entry, LeafError, Leaves, parse, template};

/// Turns connections of clients into TLS.
pub struct Front {
    template: ServerConfig,
    certificate: Certificate,
}

enum Certificate {
    Given(Arc<ServerConfig>),
    /// One leaf with all the names: clients that connect to an address send no SNI to choose by.
    Minted {
        leaves: Arc<Leaves>,
        names: Vec<ServerName<'static>>,
        current: Mutex<Option<Arc<Entry>>>,
    },
}

// === impl Front ===

impl Front {
    /// With a certificate of the gateway's own CA for `names`, renewed before it ends.
    pub fn minted(leaves: Arc<Leaves>, names: &[String]) -> Result<Self, LeafError> {
        let names = names.iter().map(|name| parse(name));
        let front = Self {
            template: own_template()?,
            certificate: Certificate::Minted {
                leaves,
                names: names.collect::<Result<_, _>>()?,
                current: Mutex::new(None),
            },
        };
        front.server_config()?;
        Ok(front)
    }

    /// With a certificate chain (the server's own first) and its key, PEM files.
    pub fn given(certificate: &Path, key: &Path) -> Result<Self, LeafError> {
        let template = own_template()?;
        let certified = read_pair(certificate, key)
            .map_err(|e| e.given("listen.tls_certificate", "listen.tls_key", key))?;
        let mut config = template.clone();
        config.cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        Ok(Self {
            template,
            certificate: Certificate::Given(Arc::new(config)),
        })
    }

    /// TLS for the next connection.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, LeafError> {
        let (leaves, names, current) = match &self.certificate {
            Certificate::Given(config) => return Ok(config.clone()),
            Certificate::Minted {
                leaves,
                names,
                current,
            } => (leaves, names, current),
        };
        let now = OffsetDateTime::now_utc();
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        match current.as_ref().filter(|entry| leaves.serves(entry, now)) {
            Some(entry) => Ok(entry.config()),
            None => {
                let entry = Arc::new(leaves.entry(names, &self.template, now)?);
                *current = Some(entry.clone());
                Ok(entry.config())
            }
        }
    }
}

// A key is in it.
impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let given = matches!(self.certificate, Certificate::Given(_));
        f.debug_struct("Front")
            .field("given", &given)
            .finish_non_exhaustive()
    }
}

/// HTTP/1.1 is all that the proxy hop speaks. Its tickets are its own: a session with the gateway
/// is none with a registry.
fn own_template() -> Result<ServerConfig, LeafError> {
    let mut config = template()?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = Ticketer::new()?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::super::certificate::pem;
    use super::super::test_support::{Scratch, leaves};
    use super::*;

    #[test]
    fn openssl_accepts_one_certificate_for_all_the_names() {
        let scratch = Scratch::new();
        let leaves = Arc::new(leaves(
            scratch.open(&["ghcr.io", "gateway.corp"], &["10.0.0.1"]).0,
        ));
        let names = ["gateway.corp", "10.0.0.1"].map(parse).map(Result::unwrap);
        let leaf = leaves.mint(&names, OffsetDateTime::now_utc()).unwrap();
        scratch.write("leaf.pem", &pem(&leaf.der));
        for name in ["-verify_hostname gateway.corp", "-verify_ip 10.0.0.1"] {
            let (ok, text) = scratch.openssl(&format!(
                "verify -x509_strict -purpose sslserver -CAfile ca/ca.crt {name} leaf.pem"
            ));
            assert!(ok, "{text}");
        }
    }

    #[test]
    fn a_certificate_is_minted_once_and_speaks_http_1_only() {
        let scratch = Scratch::new();
        let leaves = Arc::new(leaves(scratch.open(&["gateway.corp"], &[]).0));
        let front = Front::minted(leaves.clone(), &["gateway.corp".to_owned()]).unwrap();
        let config = front.server_config().unwrap();
        assert_eq!(config.alpn_protocols, [b"http/1.1"]);
        assert!(Arc::ptr_eq(&config, &front.server_config().unwrap()));
        assert_eq!(leaves.minted(), 1);
    }

    #[test]
    fn a_key_that_is_not_the_certificates_is_refused() {
        let scratch = Scratch::new();
        scratch.open(&["gateway.corp"], &[]);
        let other = Scratch::new();
        other.open(&["gateway.corp"], &[]);
        let certificate = scratch.path("ca/ca.crt");
        let error = Front::given(&certificate, &other.path("ca/ca.key")).unwrap_err();
        assert!(error.to_string().contains("is not the key of"), "{error}");
        assert!(Front::given(&certificate, &scratch.path("ca/ca.key")).is_ok());
        assert!(Front::given(&certificate, &certificate).is_err());
    }
}
