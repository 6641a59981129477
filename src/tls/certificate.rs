//! Keys and certificates as they lie in files: read, checked, put in order.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::KeyPair;
use rustls::crypto::aws_lc_rs::sign;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;

use super::error::CaError;

pub(super) fn read_key(path: &Path) -> Result<KeyPair, CaError> {
    let text = std::fs::read(path).map_err(|source| CaError::io("read", path, source))?;
    let bad = |reason: &str| CaError::Key {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let der = PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        if text.windows(9).any(|window| window == b"ENCRYPTED") {
            bad("it is encrypted")
        } else {
            bad(&error.to_string())
        }
    })?;
    let key = KeyPair::try_from(&der).map_err(|_| bad("its kind is not known"))?;
    let usable = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_RSA_SHA256,
    ];
    if !usable.contains(&key.algorithm()) {
        return Err(bad("its kind is not supported"));
    }
    Ok(key)
}

/// At least one.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let text = std::fs::read(path).map_err(|source| CaError::io("read", path, source))?;
    let ders = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    match ders {
        Ok(ders) if !ders.is_empty() => Ok(ders),
        Ok(_) => Err(CaError::Certificate {
            path: path.to_owned(),
            reason: "it holds none".to_owned(),
        }),
        Err(error) => Err(CaError::Certificate {
            path: path.to_owned(),
            reason: error.to_string(),
        }),
    }
}

/// A certificate with its chain, and the key that belongs to it.
pub(super) fn read_pair(certificate: &Path, key: &Path) -> Result<CertifiedKey, CaError> {
    let chain = read_certificates(certificate)?;
    let bad = |reason: String| CaError::Key {
        path: key.to_owned(),
        reason,
    };
    let text = std::fs::read(key).map_err(|source| CaError::io("read", key, source))?;
    let der = PrivateKeyDer::from_pem_slice(&text).map_err(|e| bad(e.to_string()))?;
    let signer = sign::any_supported_type(&der).map_err(|e| bad(e.to_string()))?;
    let pair = CertifiedKey::new(chain, signer);
    pair.keys_match().map_err(|_| CaError::Mismatch {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
    })?;
    Ok(pair)
}

pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    match x509_parser::parse_x509_certificate(der) {
        Ok((_, certificate)) => Ok(certificate),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn check_is_ca(certificate: &X509Certificate<'_>) -> Result<(), &'static str> {
    if !certificate.is_ca() {
        return Err("it is not marked as a CA");
    }
    if let Ok(Some(usage)) = certificate.key_usage()
        && !usage.value.key_cert_sign()
    {
        return Err("its key usage does not include certificate signing");
    }
    if let Ok(Some(usage)) = certificate.extended_key_usage()
        && !usage.value.any
        && !usage.value.server_auth
    {
        return Err("its extended key usage does not include TLS servers");
    }
    Ok(())
}

/// The way from the first certificate up, as far as the file goes. Certificates beside it are left
/// out, whatever their order.
pub(super) fn links(parsed: &[X509Certificate<'_>]) -> Vec<usize> {
    let mut links = vec![0];
    loop {
        let last = &parsed[links[links.len() - 1]];
        let next = (1..parsed.len()).find(|index| {
            !links.contains(index) && parsed[*index].subject().as_raw() == last.issuer().as_raw()
        });
        match next {
            Some(next) if !is_self_issued(last) => links.push(next),
            _ => return links,
        }
    }
}

pub(super) fn is_self_issued(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject().as_raw() == certificate.issuer().as_raw()
}

pub(super) fn key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate
        .iter_extensions()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        })
}

/// SHA-256 of a certificate, as `openssl x509 -fingerprint` prints it: `AA:BB:…`.
pub fn fingerprint(der: &[u8]) -> String {
    let bytes = Sha256::digest(der);
    let hex: Vec<_> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
    hex.join(":")
}

pub(super) fn pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII: any index is a boundary.
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
