//! A certificate authority made for one run, and leaves for any name it is asked for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    RootCertStore,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};

/// A CA of the test's own.
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    /// The certificate, in PEM.
    pub pem: String,
    /// The key, in PEM (PKCS#8).
    pub key_pem: String,
    leaves: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

// === impl TestCa ===

impl TestCa {
    /// A new CA with this common name.
    pub fn new(name: &str) -> Arc<Self> {
        let key = KeyPair::generate().expect("a P-256 key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).expect("self-signed").pem();
        let key_pem = key.serialize_pem();
        Arc::new(Self {
            issuer: Issuer::new(params, key),
            pem,
            key_pem,
            leaves: Mutex::default(),
        })
    }

    /// A certificate for `host`, a DNS name or an IP address.
    pub fn leaf(&self, host: &str) -> Arc<CertifiedKey> {
        let mut leaves = self.leaves.lock().expect("no panic under this lock");
        Arc::clone(leaves.entry(host.to_owned()).or_insert_with(|| {
            let key = KeyPair::generate().expect("a P-256 key");
            let certificate = CertificateParams::new([host.to_owned()])
                .expect("a name")
                .signed_by(&key, &self.issuer)
                .expect("signed");
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            let signer = any_supported_type(&key).expect("a key that rustls takes");
            Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signer))
        }))
    }

    /// A certificate for `host` and its key, in PEM: a server's or a client's.
    pub fn server_files(&self, host: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a P-256 key");
        let certificate = CertificateParams::new([host.to_owned()]).expect("a name");
        let certificate = certificate.signed_by(&key, &self.issuer).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }

    /// A TLS server that shows the certificate of `host` whatever it is asked for.
    pub fn server_named(&self, host: &str) -> Arc<rustls::ServerConfig> {
        let resolver = rustls::sign::SingleCertAndKey::from(self.leaf(host));
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider's versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        Arc::new(config)
    }

    /// A TLS server that has a certificate for whatever name the client asks for.
    pub fn server(self: &Arc<Self>) -> Arc<rustls::ServerConfig> {
        self.server_for(None)
    }

    /// The same that asks its clients for a certificate of `clients`, where that is given.
    pub fn server_for(self: &Arc<Self>, clients: Option<&Self>) -> Arc<rustls::ServerConfig> {
        let verifier = match clients {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                let root = CertificateDer::from_pem_slice(clients.pem.as_bytes());
                roots.add(root.expect("PEM")).expect("a CA");
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                    .allow_unauthenticated()
                    .build()
                    .expect("a verifier")
            }
        };
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider's versions")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(AnyName(Arc::clone(self))));
        Arc::new(config)
    }
}

/// The one crypto provider of these tests.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

struct AnyName(Arc<TestCa>);

// === impl AnyName ===

impl std::fmt::Debug for AnyName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AnyName")
    }
}

impl ResolvesServerCert for AnyName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.leaf(hello.server_name().unwrap_or("127.0.0.1")))
    }
}
