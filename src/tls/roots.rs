//! TLS to upstream: the system's roots, and those of `[upstream] ca_file` beside them.

use std::path::{Path, PathBuf};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;

use super::provider;

/// Why upstream's certificates cannot be verified as configured.
#[derive(Debug, Error)]
pub enum RootsError {
    #[error("[upstream] ca_file: cannot read {}: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("[upstream] ca_file: {} holds no certificate in PEM", path.display())]
    Empty { path: PathBuf },
    #[error("[upstream] ca_file: certificate {number} of {} is not one: {reason}", path.display())]
    Certificate {
        path: PathBuf,
        /// Counted from one.
        number: usize,
        reason: String,
    },
    #[error("cannot set TLS up: {0}")]
    Tls(#[from] rustls::Error),
}

/// How to speak TLS to upstream, and what a person should know: a system without roots, or with
/// some that cannot be read. `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the system's roots. No
/// client certificate; ALPN is left empty.
pub fn client_config(ca_file: Option<&Path>) -> Result<(ClientConfig, Vec<String>), RootsError> {
    let system = rustls_native_certs::load_native_certs();
    let errors = system.errors.iter().map(ToString::to_string).collect();
    let (roots, warnings) = roots(system.certs, errors, ca_file)?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((config, warnings))
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
        add_file(&mut roots, path)?;
    }

    let mut warnings: Vec<_> = errors
        .into_iter()
        .map(|error| format!("system root certificates: {error}"))
        .collect();
    if added == 0 && ca_file.is_none() {
        warnings.push(
            "no root certificates on this system, so no upstream can be verified: install ca-certificates, or set SSL_CERT_FILE or [upstream] ca_file"
                .to_owned(),
        );
    }
    Ok((roots, warnings))
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), RootsError> {
    let text = std::fs::read(path).map_err(|source| RootsError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let mut number = 0;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        number += 1;
        let bad = |reason: String| RootsError::Certificate {
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
    fn the_configuration_names_no_protocol_and_no_client_certificate() {
        let given = file(&root().cert.pem());
        let (config, _) = client_config(Some(given.path())).unwrap();
        assert!(config.alpn_protocols.is_empty());
        assert!(!config.client_auth_cert_resolver.has_certs());
    }
}
