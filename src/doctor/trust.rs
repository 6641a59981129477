//! Which of the machine's stores of certificates trust what a registry's name is answered with.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::fetch::Socket;
use super::settings::{Client, Way, shown};
use crate::tls::fingerprint;

/// A place where a client looks for roots.
#[derive(Debug)]
pub(super) struct Store {
    /// As a person calls it.
    pub name: String,
    certificates: Vec<CertificateDer<'static>>,
}

/// The certificates a server showed: its own, then those above it.
pub(super) type Chain = Vec<CertificateDer<'static>>;

// === impl Store ===

impl Store {
    /// Every certificate of these files; what is none is passed over, as clients do.
    fn read(name: String, files: &[PathBuf]) -> Self {
        let mut certificates = Vec::new();
        for file in files {
            let text = std::fs::read(file).unwrap_or_default();
            certificates.extend(CertificateDer::pem_slice_iter(&text).flatten());
        }
        Self { name, certificates }
    }

    pub(super) fn of(name: &str, pem: &str) -> Self {
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).flatten();
        Self {
            name: name.to_owned(),
            certificates: certificates.collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }

    pub(super) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        // Clients do not trust a root that has ended; webpki does not look.
        let alive = self.certificates.iter().filter(|one| !has_ended(one));
        roots.add_parsable_certificates(alive.cloned());
        roots
    }

    /// Why `chain` for `host` is not trusted by it, if it is not.
    pub(super) fn distrusts(&self, chain: &Chain, host: &str, ca: &Store) -> Option<String> {
        let why = match verify(self.roots(), chain, host) {
            Ok(()) => return None,
            Err(why) => why,
        };
        // What it has of this gateway, or of the one that was here before.
        let now = ca.certificates.first();
        let own: Vec<&CertificateDer<'_>> = self
            .certificates
            .iter()
            .filter(|one| is_pierheads(one) || Some(*one) == now)
            .collect();
        let Some(known) = own.iter().find(|one| Some(**one) == now).or(own.first()) else {
            return Some("does not have the CA".to_owned());
        };
        if let Some(ended) = end_of(known).filter(|_| has_ended(known)) {
            return Some(format!("has a CA that ended on {ended}"));
        }
        Some(match now {
            Some(now) if *known != now && same_subject(known, now) => format!(
                "has an earlier ca.crt of this gateway, sha256 {}: {why}",
                short(known)
            ),
            Some(now) if *known != now => format!(
                "has the CA of another gateway, or this one's from before it got a new key: sha256 {}, and this one's is {}",
                short(known),
                short(now)
            ),
            _ => format!("has the CA, and yet: {why}"),
        })
    }
}

/// When the CA ends, if that is over or near.
pub(super) fn ends_soon(ca: &Store) -> Option<String> {
    let first = ca.certificates.first()?;
    let (_, parsed) = X509Certificate::from_der(first).ok()?;
    let left = parsed.validity().not_after.timestamp() - now();
    (left < SOON.as_secs() as i64).then(|| parsed.validity().not_after.to_string())
}

/// Whether the chain leads to this CA.
pub(super) fn is_signed_by(chain: &Chain, ca: &Store) -> bool {
    let (Some(last), Some(anchor)) = (chain.last(), ca.certificates.first()) else {
        return false;
    };
    match (
        X509Certificate::from_der(last),
        X509Certificate::from_der(anchor),
    ) {
        (Ok((_, last)), Ok((_, anchor))) => {
            let top = anchor.subject().as_raw();
            last.issuer().as_raw() == top || last.subject().as_raw() == top
        }
        _ => false,
    }
}

/// The one that signed the server's certificate, for a person.
pub(super) fn issuer(chain: &Chain) -> String {
    let first = chain
        .first()
        .and_then(|one| X509Certificate::from_der(one).ok());
    first.map_or_else(
        || "nobody".to_owned(),
        |(_, leaf)| leaf.issuer().to_string(),
    )
}

/// Where `client` looks for the roots of `host` on the machine below `root`.
pub(super) fn stores(root: &Path, way: &Way, host: &str, port: u16, hub: bool) -> Vec<Store> {
    let mut all = vec![system(root, way.roots.as_deref())];
    let folder = match port {
        443 => host.to_owned(),
        port => format!("{host}:{port}"),
    };
    let places: &[&str] = match way.client {
        // Docker Hub is verified against the system's roots alone.
        Client::Docker if hub => &[],
        Client::Docker => &["etc/docker/certs.d"],
        Client::Podman => &["etc/containers/certs.d", "etc/docker/certs.d"],
        Client::Containerd | Client::Shell => &[],
    };
    for place in places {
        let folder = root.join(place).join(&folder);
        let entries = std::fs::read_dir(&folder);
        let files: Vec<PathBuf> = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|file| file.extension().is_some_and(|kind| kind == "crt"))
            .collect();
        all.push(Store::read(shown(root, &folder), &files));
    }
    all
}

/// The system's roots, or the file that stands in their place.
pub(super) fn system(root: &Path, instead: Option<&Path>) -> Store {
    if let Some(file) = instead {
        let name = format!("SSL_CERT_FILE {}", shown(root, file));
        return Store::read(name, &[file.to_owned()]);
    }
    let files = BUNDLES.map(|file| root.join(file));
    let found: Vec<PathBuf> = files
        .into_iter()
        .filter(|file| file.is_file())
        .take(1)
        .collect();
    let name = match found.first() {
        Some(file) => format!("the system store {}", shown(root, file)),
        None => "the system store (there is none)".to_owned(),
    };
    Store::read(name, &found)
}

/// TLS with whoever answers for `host`; whether to trust it is another question.
pub(super) async fn look(socket: Socket, host: &str) -> Result<Chain, String> {
    let seen = Arc::new(Onlooker {
        provider: provider(),
        chain: Mutex::default(),
    });
    let config = builder()?
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    let name = server_name(host)?;
    let shaking = TlsConnector::from(Arc::new(config)).connect(name, socket);
    within(shaking).await?;
    let mut chain = seen.chain.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *chain))
}

/// TLS with `host`, verified.
pub(super) async fn shake(
    socket: Socket,
    host: &str,
    roots: RootCertStore,
) -> Result<TlsStream<Socket>, String> {
    let config = builder()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = server_name(host)?;
    within(TlsConnector::from(Arc::new(config)).connect(name, socket)).await
}

async fn within<T>(shaking: impl Future<Output = std::io::Result<T>>) -> Result<T, String> {
    let done = tokio::time::timeout(PATIENCE, shaking).await;
    let done = done.map_err(|_| format!("no TLS within {} s", PATIENCE.as_secs()))?;
    done.map_err(|e| e.to_string())
}

fn verify(roots: RootCertStore, chain: &Chain, host: &str) -> Result<(), String> {
    let (leaf, above) = chain.split_first().ok_or("no certificate was shown")?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
    let verifier = verifier.build().map_err(|e| e.to_string())?;
    let name = server_name(host)?;
    let checked = verifier.verify_server_cert(leaf, above, &name, &[], UnixTime::now());
    checked.map(drop).map_err(|e| e.to_string())
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, String> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.to_owned()).map_err(|e| format!("{host}: {e}"))
}

fn is_pierheads(certificate: &CertificateDer<'_>) -> bool {
    let parsed = X509Certificate::from_der(certificate);
    parsed.is_ok_and(|(_, parsed)| {
        let mut names = parsed.subject().iter_common_name();
        names.any(|name| name.as_str().is_ok_and(|name| name.starts_with("pierhead")))
    })
}

fn same_subject(one: &CertificateDer<'_>, other: &CertificateDer<'_>) -> bool {
    match (
        X509Certificate::from_der(one),
        X509Certificate::from_der(other),
    ) {
        (Ok((_, one)), Ok((_, other))) => {
            one.subject().as_raw() == other.subject().as_raw()
                && one.public_key().raw == other.public_key().raw
        }
        _ => false,
    }
}

fn end_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.validity().not_after.to_string())
}

fn has_ended(certificate: &CertificateDer<'_>) -> bool {
    let parsed = X509Certificate::from_der(certificate);
    parsed.is_ok_and(|(_, parsed)| parsed.validity().not_after.timestamp() <= now())
}

/// The beginning of a fingerprint.
fn short(certificate: &CertificateDer<'_>) -> String {
    format!("{}…", &fingerprint(certificate)[..23])
}

/// Seconds since the epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// Takes every certificate, and remembers what was shown. Nothing is sent over such a connection.
#[derive(Debug)]
struct Onlooker {
    provider: Arc<CryptoProvider>,
    chain: Mutex<Chain>,
}

// === impl Onlooker ===

impl ServerCertVerifier for Onlooker {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = std::iter::once(leaf).chain(above);
        let mut chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        *chain = shown.map(|one| one.clone().into_owned()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, leaf, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

const PATIENCE: Duration = Duration::from_secs(15);
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);
/// Where systems keep their roots in one file, in the order in which Go looks.
const BUNDLES: [&str; 6] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/pki/tls/cacert.pem",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ssl/cert.pem",
];
