//! TLS to upstream: the system's roots, those of `upstream.ca_file` beside them, and what a
//! registry has of its own: further roots, a certificate of ours that it asks for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;

use super::certificate::read_pair;
use super::error::{CaError, mend_given};
use super::provider;

/// The certificates that upstream's are verified against.
#[derive(Clone, Debug)]
pub struct Roots(RootCertStore);

/// Why TLS to upstream cannot be had as configured. `key` is the key of the configuration that
/// names the file.
#[derive(Debug, Error)]
pub enum RootsError {
    #[error("{key}: cannot read {}: {source}; {}", path.display(), mend_given(source))]
    Unreadable {
        key: String,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{key}: {} holds no certificate in PEM", path.display())]
    Empty { key: String, path: PathBuf },
    #[error("{key}: certificate {number} of {} is not one: {reason}", path.display())]
    Certificate {
        key: String,
        path: PathBuf,
        /// Counted from one.
        number: usize,
        reason: String,
    },
    #[error(transparent)]
    Identity(#[from] CaError),
    #[error("cannot set TLS up: {0}")]
    Tls(#[from] rustls::Error),
}

// === impl Roots ===

impl Roots {
    /// The system's (`SSL_CERT_FILE` and `SSL_CERT_DIR` replace them) and those of
    /// `upstream.ca_file`; and what a person should know: a system without roots, or with some that
    /// cannot be read.
    pub fn load(ca_file: Option<&Path>) -> Result<(Self, Vec<String>), RootsError> {
        let system = rustls_native_certs::load_native_certs();
        let errors = system.errors.iter().map(ToString::to_string).collect();
        let (roots, warnings) = roots(system.certs, errors, ca_file)?;
        Ok((Self(roots), warnings))
    }

    /// These, and those of a registry's own `ca_file`.
    pub fn and(&self, registry: &str, ca_file: &Path) -> Result<Self, RootsError> {
        let mut roots = self.0.clone();
        add_file(
            &mut roots,
            &format!("ca_file of [[registry]] {registry}"),
            ca_file,
        )?;
        Ok(Self(roots))
    }

    /// How to speak TLS to whom these vouch for, without a certificate of ours. ALPN is left empty.
    pub fn client_config(&self) -> Result<ClientConfig, RootsError> {
        Ok(self.builder()?.with_no_client_auth())
    }

    /// The same with a certificate of ours (its chain, PEM) and its key, for a server that asks for one.
    pub fn client_config_as(
        &self,
        registry: &str,
        certificate: &Path,
        key: &Path,
    ) -> Result<ClientConfig, RootsError> {
        let named = |name: &str| format!("{name} of [[registry]] {registry}");
        let own = read_pair(certificate, key)
            .map_err(|e| e.given(&named("client_certificate"), &named("client_key"), key))?;
        let resolver = Arc::new(SingleCertAndKey::from(own));
        Ok(self.builder()?.with_client_cert_resolver(resolver))
    }

    fn builder(&self) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, RootsError> {
        Ok(ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.0.clone()))
    }
}

fn roots(
    system: Vec<CertificateDer<'static>>,
    errors: Vec<String>,
    ca_file: Option<&Path>,
) -> Result<(RootCertStore, Vec<String>), RootsError> {
    let mut roots = RootCertStore::empty();
    // A system store often holds one or two that webpki cannot use; those are nobody's fault.
    let (added, _) = roots.add_parsable_certificates(system);
    if let Some(path) = ca_file {
        add_file(&mut roots, "upstream.ca_file", path)?;
    }

    let mut warnings: Vec<_> = errors
        .into_iter()
        .map(|error| format!("system root certificates: {error}"))
        .collect();
    if added == 0 && ca_file.is_none() {
        warnings.push(
            "no root certificates on this system, so no upstream can be verified: install ca-certificates, or set SSL_CERT_FILE or upstream.ca_file"
                .to_owned(),
        );
    }
    Ok((roots, warnings))
}

fn add_file(roots: &mut RootCertStore, key: &str, path: &Path) -> Result<(), RootsError> {
    let text = std::fs::read(path).map_err(|source| RootsError::Unreadable {
        key: key.to_owned(),
        path: path.to_owned(),
        source,
    })?;
    let mut number = 0;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        number += 1;
        let bad = |reason: String| RootsError::Certificate {
            key: key.to_owned(),
            path: path.to_owned(),
            number,
            reason,
        };
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| bad(error.to_string()))?;
    }
    if number == 0 {
        return Err(RootsError::Empty {
            key: key.to_owned(),
            path: path.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> rcgen::CertifiedKey<rcgen::KeyPair> {
        rcgen::generate_simple_self_signed(["root.example".to_owned()]).unwrap()
    }

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn roots_of_the_system_and_of_the_file_are_both_trusted() {
        let given = file(&format!("{}{}", root().cert.pem(), root().cert.pem()));
        let system = vec![root().cert.der().clone()];
        let (roots, warnings) = roots(system, Vec::new(), Some(given.path())).unwrap();
        assert_eq!(roots.len(), 3);
        assert!(warnings.is_empty());
    }

    #[test]
    fn a_system_without_roots_is_fine_with_a_file_and_a_warning_without() {
        let given = file(&root().cert.pem());
        let (_, warnings) = roots(Vec::new(), Vec::new(), Some(given.path())).unwrap();
        assert!(warnings.is_empty());
        let (_, warnings) = roots(Vec::new(), Vec::new(), None).unwrap();
        assert!(warnings[0].contains("ca-certificates"), "{warnings:?}");
    }

    #[test]
    fn a_file_that_is_missing_empty_or_damaged_is_an_error_that_names_it() {
        let fail = |path: &Path| roots(Vec::new(), Vec::new(), Some(path)).unwrap_err();
        assert!(matches!(
            fail(Path::new("no-such-file.pem")),
            RootsError::Unreadable { .. }
        ));
        assert!(matches!(
            fail(file("no certificate").path()),
            RootsError::Empty { .. }
        ));
        let second = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let damaged = file(&format!("{}{second}", root().cert.pem()));
        let error = fail(damaged.path());
        assert!(matches!(error, RootsError::Certificate { number: 2, .. }));
        assert!(error.to_string().contains(damaged.path().to_str().unwrap()));
    }

    #[test]
    fn the_configuration_names_no_protocol_and_a_client_certificate_only_where_one_is_given() {
        let own = root();
        let given = file(&own.cert.pem());
        let (roots, _) = Roots::load(Some(given.path())).unwrap();
        let config = roots.client_config().unwrap();
        assert!(config.alpn_protocols.is_empty());
        assert!(!config.client_auth_cert_resolver.has_certs());

        let key = file(&own.signing_key.serialize_pem());
        let config = roots.client_config_as("r.example", given.path(), key.path());
        assert!(config.unwrap().client_auth_cert_resolver.has_certs());
        let other = file(&root().signing_key.serialize_pem());
        let error = roots
            .client_config_as("r.example", given.path(), other.path())
            .unwrap_err();
        let said = error.to_string();
        assert!(
            said.starts_with("client_certificate of [[registry]] r.example: "),
            "{said}"
        );
        assert!(said.contains("is not the key of"), "{said}");
    }

    #[test]
    fn a_registrys_own_roots_come_on_top_and_an_error_names_the_registry() {
        let (roots, _) = roots(
            Vec::new(),
            Vec::new(),
            Some(file(&root().cert.pem()).path()),
        )
        .unwrap();
        let own = file(&root().cert.pem());
        let both = Roots(roots).and("r.example", own.path()).unwrap();
        assert_eq!(both.0.len(), 2);
        let error = both
            .and("r.example", Path::new("no-such-file.pem"))
            .unwrap_err();
        let said = error.to_string();
        assert!(
            said.starts_with("ca_file of [[registry]] r.example: cannot read no-such-file.pem"),
            "{said}"
        );
    }
}
